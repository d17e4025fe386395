r"""The notation of the book: one symbol, one meaning, in all chapters.

    python book/tools/notation.py            # what is wrong, and what to do about it
    python book/tools/notation.py --symbols  # every symbol of the chapters, and in which sections it stands
    python book/tools/notation.py --accept   # writes the last column of all rows anew, once you have looked

book/notation.md has one row for each meaning. This module reads the symbols out of the mathematics of
all notebooks and of the pages of book/, and `problems` says where text and table do not fit together. No
program can read what a symbol means. But each row names its chapters, and a chapter that is not named is
an error: whoever writes a symbol into a new chapter has to look at its row first.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat

from latex_symbols import Symbol, keys, mathematics, symbols
from repository import ROOT

PAGE = Path("book") / "notation.md"
# A cell with this tag quotes another text in that text's own symbols. Its mathematics is left out.
QUOTED = "other-notation"
SECTION = re.compile(r"^##\s+(\d+\.\d+)\s", re.M)
WHERE = re.compile(r"\d+(\.\d+)?(, \d+)*")
COLUMNS = ("symbol", "meaning", "shape or range", "in the code", "where")


class Row(NamedTuple):
    """A row of the table: its `symbols` as written, its cell `where`, and the line of the page."""

    symbols: tuple[str, ...]
    where: str
    line: int


class Use(NamedTuple):
    """A symbol in the text. `source` is notebook and cell, or a page; `chapter` is None for a page."""

    symbol: Symbol
    source: str
    chapter: int | None
    section: str


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def read_rows(root: Path = ROOT) -> list[Row]:
    """The rows of all tables of the page whose first column is called "symbol". ValueError for a malformed row."""
    rows, inside = [], False
    for number, line in enumerate((root / PAGE).read_text(encoding="utf-8").splitlines(), 1):
        cells = cells_of(line) if line.startswith("|") else []
        if not cells or cells[0] == COLUMNS[0]:
            inside = bool(cells)
            continue
        if not inside or set(line) <= set("|-: "):
            continue
        written = [key for formula in mathematics(cells[0]) for key in keys(formula)]
        if len(cells) != len(COLUMNS) or not written or not WHERE.fullmatch(cells[-1]):
            raise ValueError(f"{PAGE}, line {number}: expected {len(COLUMNS)} columns ({', '.join(COLUMNS)}), symbols "
                             'between dollar signs in the first, and in the last "2.4" or "2.4, 3, 5": the section '
                             "where the symbol first stands, then the other chapters that use it")
        rows.append(Row(tuple(written), cells[-1], number))
    return rows


def read_uses(root: Path, known: set[str]) -> list[Use]:
    """Every symbol of the mathematics of notebooks/*.ipynb and book/*.md, in the order of the chapters."""
    found = []
    notebooks = sorted((root / "notebooks").glob("*.ipynb"), key=lambda path: (chapter_of(path), path.name))
    for path in notebooks:
        chapter, section = chapter_of(path), str(chapter_of(path))
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type != "markdown":
                continue
            source = f"{path.name}, cell {number} ({cell.get('id', 'no id')})"
            # The text before the first heading of the cell belongs to the section before.
            first, *others = SECTION.split(cell.source)
            for name, text in [(section, first), *zip(others[::2], others[1::2], strict=True)]:
                section = name
                if QUOTED not in cell.metadata.get("tags", []):
                    found += [Use(s, source, chapter, section) for f in mathematics(text) for s in symbols(f, known)]
    for path in sorted((root / "book").glob("*.md")):
        formulas = mathematics(path.read_text(encoding="utf-8"))
        found += [Use(s, f"book/{path.name}", None, "") for formula in formulas for s in symbols(formula, known)]
    return found


def chapter_of(path: Path) -> int:
    """The number at the beginning of a notebook's name. ValueError without one."""
    match = re.match(r"(\d+)_", path.name)
    if not match:
        raise ValueError(f"notebooks/{path.name}: expected a name that begins with the chapter's number, as 02_…")
    return int(match[1])


def where_used(uses: list[Use], written: tuple[str, ...]) -> str:
    """What the last column of a row has to say: section of the first use, then the other chapters; "" if unused."""
    mine = [use for use in uses if use.chapter is not None and use.symbol.key in written]
    if not mine:
        return ""
    others = dict.fromkeys(str(use.chapter) for use in mine if use.chapter != mine[0].chapter)
    return ", ".join([mine[0].section, *others])


def problems(root: Path = ROOT) -> list[str]:
    """Where the text and the table do not fit together, one sentence each with what to do."""
    rows = read_rows(root)
    first: dict[str, Row] = {}
    found = []
    for row in rows:
        for key in row.symbols:
            if key in first:
                found.append(f"{PAGE}, line {row.line}: {key} has a row already, in line {first[key].line}; "
                             "give one of the two meanings another symbol")
            first.setdefault(key, row)
    uses = read_uses(root, set(first))
    unknown: dict[tuple[str, str], Use] = {}
    for use in uses:
        if use.symbol.key not in first:
            unknown.setdefault((use.source, use.symbol.key), use)
    for use in unknown.values():
        found.append(f"{use.source}: {use.symbol.written} is not in {PAGE}; write it with the symbol that the table "
                     f"has for it, or add a row for {use.symbol.key}")
    return found + [problem for row in rows if (problem := problem_of(row, uses))]


def problem_of(row: Row, uses: list[Use]) -> str:
    """What is wrong with a row, seen from the text: nobody uses it, or it stands elsewhere than the row says."""
    used = {use.symbol.key for use in uses if use.chapter is not None}
    dead = [key for key in row.symbols if key not in used]
    if dead:
        return f"{PAGE}, line {row.line}: no chapter uses {', '.join(dead)}; take it out of the row"
    actual = where_used(uses, row.symbols)
    if actual == row.where:
        return ""
    named = {part.split(".")[0] for part in row.where.split(", ")}
    example = next((use for use in uses if use.symbol.key in row.symbols and use.chapter is not None
                    and str(use.chapter) not in named), None)
    hint = f" ({example.source}, has {example.symbol.written})" if example else ""
    return (f"{PAGE}, line {row.line}: {', '.join(row.symbols)} stands in {actual}, the row says {row.where}{hint}; "
            f'if it means there what the row says, write "{actual}", else give it another symbol')


def accept(root: Path = ROOT) -> None:
    """Write into the last column of every row where its symbols stand."""
    rows = read_rows(root)
    uses = read_uses(root, {key for row in rows for key in row.symbols})
    lines = (root / PAGE).read_text(encoding="utf-8").splitlines()
    for row in rows:
        where = where_used(uses, row.symbols) or row.where
        lines[row.line - 1] = re.sub(r"\|[^|]*\|\s*$", lambda _, new=where: f"| {new} |", lines[row.line - 1])
    (root / PAGE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def inventory(root: Path = ROOT) -> str:
    """Every symbol of the chapters with the sections in which it stands, for whoever edits the table."""
    known = {key for row in read_rows(root) for key in row.symbols} if (root / PAGE).is_file() else set()
    places: dict[str, dict[str, None]] = {}
    for use in read_uses(root, known):
        places.setdefault(use.symbol.key, {})[use.section or use.source] = None
    return "\n".join(f"{key:24} {' '.join(places[key])}" for key in sorted(places, key=str.casefold))


def main() -> None:
    if sys.argv[1:] == ["--symbols"]:
        print(inventory())
        return
    if sys.argv[1:] == ["--accept"]:
        accept()
    found = problems()
    print("\n".join(found) or f"{PAGE} and the chapters fit together")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
