"""The Sphinx extension of this book: it fills the pages that show data, and mends what the theme leaves wrong.

`_config.yml` loads it, so `jupyter-book build .` in a clone shows the committed runs of the chapters. Where
ADLIB_CHAPTERS names a folder, the chapters are those of that folder: `make book` runs them into it.
Each mend says what it is for; tests/book/test_book_browser.py found them all. First what is read, then what is written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from fontTools import subset
from nbformat import NotebookNode
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform

import front
import ledger
import results
import signposts
import slides
from repository import ROOT, with_local_pictures

CHAPTERS = Path(os.environ.get("ADLIB_CHAPTERS") or ROOT / "notebooks")
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")
GENERATED = re.compile(r"<!-- generated: (.+?) -->")
SCROLLS = "pst-scrollable-table-container"  # the theme's own class for the box in which a table scrolls
TABLE = re.compile(r"<table.*?</table>", re.S)
DASH = re.compile(r" (?:–|--) ")
# The search page would fetch a summary of every page it finds. A browser refuses that for a book read from disk.
SUMMARY = 'DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = window.location.protocol !== "file:";'


def tags_outside_split(source: str) -> str:
    r"""Sphinx wraps a $$ block of several lines in `split`, where MathJax refuses \tag; but not in an `equation*`."""
    def wrap(match: re.Match[str]) -> str:
        whole = f"\n\n\\begin{{equation*}}\n{match[1].strip()}\n\\end{{equation*}}\n\n"
        return whole if "\\tag{" in whole and "\\\\" in whole else match[0]

    return ledger.DISPLAY.sub(wrap, source)


def for_reading(notebook: NotebookNode) -> None:
    """Change a chapter, in place, for a reader without a network: the Colab badge becomes a link, pictures local."""
    for cell in [cell for cell in notebook.cells if cell.cell_type == "markdown"]:
        text = BADGE.sub(r"[Open this chapter in Colab](\1)", cell.source)
        cell.source = tags_outside_split(with_local_pictures(text))


def with_titles(text: str) -> str:
    """Without words of its own, a heading that is a link has no entry in the contents."""
    return re.sub(r"\[\](?=\(\.\./(notebooks/\w+\.ipynb)\))", lambda link: f"[{front.title(ROOT / link[1])}]", text)


def parts() -> dict[str, Callable[[], str]]:
    """What a page can show with <!-- generated: NAME -->."""
    tables = {name: (lambda name=name: results.text(name)) for name in results.TABLES}
    return {**tables, "ledger": lambda: with_titles(ledger.page(ledger.read_equations(), ledger.read_tests())),
            "formulas": lambda: with_titles(ledger.sheet(ledger.read_equations())),
            "status": lambda: front.table_of_runs(CHAPTERS), **front.PARTS,
            "times": lambda: front.times(CHAPTERS),
            "first run": lambda: front.about(front.run_seconds(CHAPTERS / "00_quickstart.ipynb"))}


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname.startswith("notebooks/"):
        name = f"{Path(docname).name}.ipynb"
        notebook = nbformat.read(CHAPTERS / name, as_version=4)
        # What is said about a cell, such as the caption of its figure, is no reason to run the chapter again.
        said = {cell.id: cell.metadata for cell in nbformat.read(ROOT / "notebooks" / name, as_version=4).cells}
        for cell in notebook.cells:
            cell.metadata = said.get(cell.id, cell.metadata)
        if "errata" in name:
            signposts.add_overview(notebook)
        for_reading(notebook)
        source[0] = nbformat.writes(notebook)
    elif GENERATED.search(source[0]):
        known = parts()
        for name in GENERATED.findall(source[0]):
            if name not in known:
                raise ValueError(f"{docname}.md: <!-- generated: {name} -->: expected one of {', '.join(known)}")
        source[0] = front.with_minutes(GENERATED.sub(lambda m: known[m[1]](), source[0]))


def without_numbers(app: Sphinx, config: Config) -> None:
    """Jupyter Book would count the figures of all pages in one row; signposts.py counts those of a chapter."""
    config["numfig"] = False


def skip_member(app: Sphinx, what: str, name: str, value: Any, skip: bool, options: Any) -> bool | None:
    """The API pages have no "Alias for field number 0": the class says what the fields of a tuple are."""
    return True if type(value).__name__ == "_tuplegetter" else None


def let_diagrams_scroll(app: Sphinx, document: nodes.document) -> None:
    """A diagram scrolls on a phone. The theme lets the keyboard reach what has this class, where it does scroll."""
    for image in document.findall(nodes.image):
        if image["uri"].endswith(".svg") and isinstance(image.parent, nodes.paragraph):
            image.parent["classes"].append(SCROLLS)


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


def scripts(app: Sphinx, name: str, template: str, context: dict[str, Any], document: Any) -> None:
    """Thebe, which runs cells on a server, is not used here. Its script stands twice, and the second one fails.

    MathJax is 2.1 MB, so only a page with mathematics loads it; Sphinx adds it to every page that lists such a page.
    """
    unused = ["thebe"] if app.env.get_domain("math").data["has_equations"].get(name) else ["thebe", "mathjax"]
    context["script_files"] = [file for file in context["script_files"] if not any(
        word in f"{file}{getattr(file, 'attributes', '')}".lower() for word in unused)]


ICONS = """@font-face {{ font-family: "Font Awesome 6 Free"; font-weight: 900; font-display: block;
  src: url(icons.woff); unicode-range: {}; }}
"""


def write_icons(app: Sphinx, error: Exception | None) -> None:
    """A font of the icons that the book uses, 4 kB. The theme loads all there are, 1.5 MB: templates/layout.html."""
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    styles = "".join(path.read_text(encoding="utf-8") for path in sorted((static / "styles").glob("*.css")))
    pages = "".join(path.read_text(encoding="utf-8") for path in Path(app.outdir).rglob("*.html"))
    used = {icon for names in re.findall(r'class="([^"]*\bfa[sb]?[ -][^"]*)"', pages) for icon in names.split()}
    rules = re.findall(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\(\w+)"', styles)
    codes = {int(code, 16) for names, code in rules if used & set(re.findall(r"fa-[\w-]+", names))}
    # Those that the style sheets name themselves, in boxes and for what unfolds, and the one of the scripts: a cross.
    codes |= {ord(icon) for icon in re.findall(r'--pst-icon[\w-]+: ?"(.)"', styles)} | {0xF107, 0xF00D}
    options = subset.Options(flavor="woff")
    font = subset.load_font(static / "vendor/fontawesome/webfonts/fa-solid-900.ttf", options)
    small = subset.Subsetter(options)
    small.populate(unicodes=codes)
    small.subset(font)
    subset.save_font(font, static / "icons.woff", options)
    ranges = ", ".join(f"U+{code:X}" for code in sorted(codes))
    (static / "icons.css").write_text(ICONS.format(ranges), encoding="utf-8")


def visit_entry(self: Any, node: nodes.entry) -> None:
    """A table's empty corner is a cell, not a heading."""
    type(self).visit_entry(self, node)
    if not node.astext().strip() and self.body[-1].startswith("<th"):
        self.body[-1] = self.body[-1].replace("<th", "<td", 1)
        self.context[-1] = "</td>\n"


def visit_citation(self: Any, node: nodes.citation) -> None:
    """The list of literature is a list, but docutils gives its entries a role that no longer exists."""
    type(self).visit_citation(self, node)
    self.body[-1] = self.body[-1].replace("doc-biblioentry", "listitem")


LINES = {"<dl>": '<span class="sig-lines">', "<dd>": "<span>", "</dd>": "</span>", "</dl>": "</span>"}


def visit_parameters(self: Any, node: addnodes.desc_parameterlist) -> None:
    node["start"] = len(self.body)
    type(self).visit_desc_parameterlist(self, node)


def depart_parameters(self: Any, node: addnodes.desc_parameterlist) -> None:
    """Parameters with a line each are no list of descriptions without terms, which Sphinx makes of them."""
    type(self).depart_desc_parameterlist(self, node)
    self.body[node["start"]:] = [LINES.get(piece.strip(), piece) for piece in self.body[node["start"]:]]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", front.introduce, priority=900)
    app.add_css_file("front.css", priority=900)  # after those of the settings
    app.connect("config-inited", without_numbers, priority=900)
    app.connect("source-read", read_source)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("doctree-read", let_diagrams_scroll)
    app.connect("doctree-read", signposts.name_equations)
    app.add_post_transform(signposts.Signposts)
    app.add_post_transform(Lists)
    app.connect("html-page-context", scripts, priority=900)
    app.connect("build-finished", slides.write_figures)
    app.connect("build-finished", write_icons)
    app.add_node(nodes.entry, override=True, html=(visit_entry, None))
    app.add_node(nodes.citation, override=True, html=(visit_citation, None))
    app.add_node(addnodes.desc_parameterlist, override=True, html=(visit_parameters, depart_parameters))
    app.add_js_file(None, body=SUMMARY)
    app.add_js_file("tables.js", loading_method="defer")
    app.add_css_file("icons.css")
    app.config.templates_path.append(str(Path(__file__).with_name("templates")))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
