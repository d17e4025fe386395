"""Signposts: a number in the text becomes a link to what it names, and every figure of a chapter gets a number.

"(2.17)" is an equation, "section 2.9" and "sections 4.5 and 4.6" are headings, "chapter 5" is a page. A capital within
a sentence, as in "Zou et al. 2022, Section 3.2", names a section of another text. A table with a column "where" has
bare numbers there. The notebooks keep plain text, which is all that Colab shows. What no page has is a warning, and so
an error of `make book`. The chapter of the errata gets an overview, made from its own headings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from docutils import nodes
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

import results
from ledger import TAG

NUMBER = r"\d+\.\d+"
CITED = re.compile(rf"\({NUMBER}\)|\b[Ss]ections?\s+{NUMBER}(?:(?:,|,?\s+(?:and|or|to))\s+{NUMBER})*"
                   r"|\b[Cc]hapters?\s+\d+(?!\d|\.\d)(?:\s+(?:and|or|to)\s+\d+\b(?!\.\d))*")
ONE = re.compile(rf"\({NUMBER}\)|(?:(?:[Ss]ection|[Cc]hapter)s?\s+)?\d+(?:\.\d+)?")
WHERE = re.compile(rf"(?:{NUMBER}|\d+)(?:, (?:{NUMBER}|\d+))*")
HEADING = re.compile(rf"(\d+) ·|({NUMBER}) ")
SENTENCE_BEFORE = re.compile(r"(?:\A|[.:!?(“\"])\s*\Z")
# Text in these stays as it is.
PLAIN = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.reference, nodes.title, nodes.raw,
         nodes.comment, addnodes.desc_signature, addnodes.pending_xref, addnodes.toctree)
Targets = dict[str, tuple[str, str, str]]  # "(2.17)", "2.9" or "5": page, place on it, its title


def name_equations(app: Sphinx, document: nodes.document) -> None:
    """Give every equation with a number an id, (2.17) has eq-2-17, and remember where it stands."""
    app.env.metadata[app.env.docname]["equations"] = found = []
    for block in document.findall(nodes.math_block):
        for tag in TAG.findall(block.astext()):
            block["ids"].append(f"eq-{tag.replace('.', '-')}")
            found.append(tag)


def targets(env: BuildEnvironment) -> Targets:
    """What a number can name: the equations, numbered headings and chapters of all pages."""
    found: Targets = {}
    for page, contents in env.tocs.items():
        title = env.titles[page].astext()
        for entry in contents.findall(nodes.reference):
            numbered = HEADING.match(entry.astext())
            if numbered and not (numbered[1] and entry["anchorname"]):  # the ledger has chapters' titles as headings
                found.setdefault(numbered[1] or numbered[2], (page, entry["anchorname"][1:], entry.astext()))
        for tag in env.metadata[page].get("equations", ()):
            found[f"({tag})"] = (page, f"eq-{tag.replace('.', '-')}", f"equation ({tag}) in {title}")
    return found


def cited(text: str) -> Iterator[tuple[str, str]]:
    """Split a text: (piece, what it names or ""). The pieces together are the text."""
    end = 0
    for match in CITED.finditer(text):
        if match[0][0] in "SC" and not SENTENCE_BEFORE.search(text[:match.start()]):
            continue
        for one in ONE.finditer(text, match.start(), match.end()):
            yield text[end:one.start()], ""
            yield one[0], one[0].split()[-1]
            end = one.end()
    yield text[end:], ""


def bare_numbers(document: nodes.document) -> set[int]:
    """The id() of each text of a column "where" that has nothing but numbers."""
    found = set()
    for table in document.findall(nodes.tgroup):
        head, *rows = (list(row) for row in table.findall(nodes.row))
        for column in [i for i, entry in enumerate(head) if entry.astext() == "where"]:
            found |= {id(text) for row in rows for text in row[column].findall(nodes.Text) if WHERE.fullmatch(text)}
    return found


class Signposts(SphinxPostTransform):
    """Link what is cited; number the figures before that, since a caption may cite."""

    default_priority = 20  # when the output of a cell is chosen, and before anything else becomes a link

    def run(self, **_: object) -> None:
        number_figures(self.document)
        known, bare = targets(self.env), bare_numbers(self.document)
        for text in list(self.document.findall(nodes.Text)):
            within = text.parent
            while within and not isinstance(within, PLAIN):
                within = within.parent
            if not within:
                numbers = [(piece, piece.strip(", ")) for piece in re.split("(, )", text)]
                pieces = numbers if id(text) in bare else list(cited(text))
                if any(name for _, name in pieces):
                    text.parent.replace(text, [self.link(*piece, known, text) for piece in pieces if piece[0]])

    def link(self, piece: str, name: str, known: Targets, text: nodes.Text) -> nodes.Node:
        if name and name not in known:
            logging.getLogger(__name__).warning("%r names no equation, section or chapter of this book, in: %s",
                                                piece, text.astext(), location=text.parent)
        if name not in known:
            return nodes.Text(piece)
        page, place, title = known[name]
        return make_refnode(self.app.builder, self.env.docname, page, place, nodes.Text(piece), title)


def number_figures(document: nodes.document) -> None:
    """ "Figure 2.3" under the pictures of a chapter: from a cell's `mystnb` metadata {"figure": {"caption": …}}, else
    the text alternative. A figure that a cell writes as HTML brings its <figcaption>. On Colab all stay plain.
    """
    if not document.settings.env.docname.startswith("notebooks/"):
        return
    first = next((number for title in document.findall(nodes.title) if (number := HEADING.match(title.astext()))
                  and number[2]), None)
    chapter, numbers = f"{first[2].partition('.')[0]}." if first else "", count(1)
    for node in list(document.findall(lambda node: isinstance(node, (nodes.image, nodes.raw)))):
        alone = not isinstance(node.parent, nodes.TextElement) or len(node.parent) == 1
        if isinstance(node, nodes.raw) and "<figcaption" in node.astext():
            text = re.sub("<figcaption[^>]*>", lambda tag: f"{tag[0]}<span class=caption-number>Figure {chapter}"
                                                          f"{next(numbers)}. </span>", node.astext())
            node.replace_self(nodes.raw("", text, **node.attributes))
        elif isinstance(node, nodes.image) and alone and not isinstance(node.parent, nodes.reference):
            caption(node, f"{chapter}{next(numbers)}")


def caption(image: nodes.image, number: str) -> None:
    """Put a number before the caption of an image, and give it one where it has none."""
    figure = image.parent
    if not isinstance(figure, nodes.figure):
        box = image.parent if isinstance(image.parent, nodes.paragraph) else image  # a diagram scrolls in its paragraph
        figure, around = nodes.figure(), box.parent
        around[around.index(box)] = figure  # replace_self would give it the classes of the box
        figure += [box, nodes.caption("", image.get("alt", ""))]
        image["alt"] = f"Figure {number}; the text below it describes it"
    figure["ids"].append(f"figure-{number.replace('.', '-')}")
    for node in figure.findall(nodes.caption):
        node.insert(0, nodes.inline("", f"Figure {number}. ", classes=["caption-number"]))


ERRATUM = re.compile(r"^### ((?:[A-C]\d+(?: and )?)+)\. (.*?)(?: \(lines? (.*)\))?$", re.M)
RIGHT = re.compile(r"\*\*Right[,:]\*\*.*")
IN_TABLE = re.compile(r"^\| ([A-C]\d+) \|", re.M)


def add_overview(notebook: NotebookNode) -> None:
    """Put an overview of the errata, made from headings and tables, before the first section of their chapter."""
    rows = []
    for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
        parts = ERRATUM.split(cell.source)
        for number, what, line, text in zip(*(parts[i::4] for i in (1, 2, 3, 4)), strict=True):
            right = RIGHT.search(text)
            where = dict.fromkeys(one[0] for one in CITED.finditer(right[0] if right else ""))
            rows.append([f"[{number}](#{number.split()[0].lower()})", what, line or "–", ", ".join(where) or "–"])
        cell.source = ERRATUM.sub(lambda found: f"({found[1].split()[0].lower()})=\n{found[0]}", cell.source)
        for heading, text in re.findall(r"^## (.*)\n((?:(?!^## ).*\n?)*)", cell.source, re.M):
            if numbers := IN_TABLE.findall(text):
                place, _, what = heading.partition(" ")
                rows.append([f"{numbers[0]} to {numbers[-1]}", what, "–", f"section {place}"])
    if rows:
        lines = results.table(["no.", "what is wrong", "lines of the note", "what is right, where"], rows)
        notebook.cells.insert(1, new_markdown_cell("\n".join(lines)))
