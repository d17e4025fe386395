"""Lists of parameters on the API pages, and the boxes in which the tables of cells scroll."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

SCROLLS = "pst-scrollable-table-container"  # the theme's own class for it
TABLE = re.compile(r"<table.*?</table>", re.S)
DASH = re.compile(r" (?:–|--) ")


class Lists(SphinxPostTransform):
    """The parameters of a function are a list of terms, name and type, with what they mean below, not one of dots.

    And a table that a cell writes as HTML gets the box in which it scrolls, as those of the text have.
    """

    default_priority = 25

    def run(self, **_: object) -> None:
        for body in list(self.document.findall(nodes.field_body)):
            items = [item for part in body for item in (part if isinstance(part, nodes.bullet_list) else [part])]
            entries = [entry for item in items if (entry := term(item))]
            if entries and len(entries) == len(items) and isinstance(body.parent.parent.parent, addnodes.desc_content):
                body.children = []
                body += nodes.definition_list("", *entries, classes=["parameters"])
        for raw in list(self.document.findall(nodes.raw)):
            if "<table" in raw.astext() and SCROLLS not in raw.astext():
                text = TABLE.sub(rf'<div class="{SCROLLS}">\g<0></div>', raw.astext())
                raw.replace_self(nodes.raw("", text, **raw.attributes))


def term(item: nodes.Element) -> nodes.definition_list_item | None:
    """ "**name** (*type*) – what it is" as an entry of a definition list; None where an item does not begin so."""
    first = item if isinstance(item, nodes.paragraph) else next(iter(item.children), item)
    dash = next((i for i, node in enumerate(first) if isinstance(node, nodes.Text) and DASH.search(node)), None)
    if not isinstance(first, nodes.paragraph) or not first.children or not isinstance(first[0], nodes.strong):
        return None
    name, *kind = first.children[:len(first) if dash is None else dash]
    rest = [] if dash is None else first.children[dash:]
    if rest:
        before, after = DASH.split(rest[0], maxsplit=1)
        kind, rest = [*kind, nodes.Text(before)], [nodes.Text(after), *rest[1:]]
    words = "".join(node.astext() for node in kind).strip().removeprefix("(").removesuffix(")")
    entry = nodes.term("", "", name, *([nodes.Text(" "), nodes.emphasis("", words)] if words else []))
    more = [] if first is item else item.children[1:]
    return nodes.definition_list_item("", entry, nodes.definition("", nodes.paragraph("", "", *rest), *more))
