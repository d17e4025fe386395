"""The overview of the errata, which the book puts on top of their chapter, is made from the chapter's own headings."""

from __future__ import annotations

import re

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from results import table
from signposts import CITED

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
        lines = table(["no.", "what is wrong", "lines of the note", "what is right, where"], rows)
        notebook.cells.insert(1, new_markdown_cell("\n".join(lines)))
