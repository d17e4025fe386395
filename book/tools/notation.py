r"""The notation of the book: one symbol, one meaning, in all chapters.

book/notation.md has one row for each meaning. `python book/tools/notation.py` reads the symbols out of the mathematics
of all notebooks and pages, and says where text and table do not fit together. No program can read what a symbol means.
But a row names its chapters, so whoever writes a symbol into a new chapter has to look at its row first.

A symbol is a letter, a Greek letter, a letter in another font, or an upright name, with what belongs to its identity:
an accent, a star, a plus or a minus, a prime, a label in upright letters. Powers and running indices do not: `x_i^2` is
the symbol x, and the index i is a symbol of its own.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Container, Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
from pylatexenc.latexwalker import LatexCharsNode, LatexGroupNode, LatexMacroNode, LatexNode, LatexWalker
from pylatexenc.macrospec import LatexContextDb, MacroSpec

from repository import ROOT

PAGE = Path("book") / "notation.md"
# A cell with this tag, or a piece of a page between these comments, quotes another text in that text's own symbols.
QUOTED = "other-notation"
QUOTATION = re.compile(rf"<!-- {QUOTED} -->.*?(<!-- /{QUOTED} -->|\Z)", re.S)
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1`*\s*$|(`+)(?!`).*?(?<!`)\2(?!`)", re.S | re.M)
FORMULA = re.compile(r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<![\\$])\$(?!\s)([^$]+?)(?<![\s\\])\$(?!\d)", re.S)
SECTION = re.compile(r"^##\s+(\d+\.\d+)\s", re.M)
WHERE = re.compile(r"\d+(\.\d+)?(, \d+)*")
COLUMNS = ("symbol", "meaning", "shape or range", "in the code", "where")
GREEK = set("alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho "
            "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell".split())
ACCENTS = {"hat": "hat", "widehat": "hat", "bar": "bar", "overline": "bar", "tilde": "tilde", "widetilde": "tilde"}
FONTS = {"mathcal", "mathbb", "mathbf", "boldsymbol", "mathfrak", "mathsf"}
UPRIGHT = {"text", "textrm", "mathrm", "operatorname"}
FUNCTIONS = {"d", "argmin", "argmax", "diag", "mod"}  # upright, but of all mathematics
# The argument of these holds no symbol. Those of a macro that is not named here are read as groups that follow it.
SKIPPED = {"tag", "label", "hspace", "phantom", "color"}
MACROS, READ = LatexContextDb(), [MacroSpec(name, "*{") for name in (*ACCENTS, *FONTS, *UPRIGHT, *SKIPPED)]
MACROS.add_context_category("book", macros=[MacroSpec("\\", "["), *READ])
MACROS.set_unknown_macro_spec(MacroSpec("", ""))


class Row(NamedTuple):
    keys: tuple[str, ...]  # of its symbols
    where: str  # the cell
    line: int  # of the page


class Use(NamedTuple):
    key: str
    written: str
    source: str  # notebook and cell, or a page
    chapter: str  # "" for a page, as the section
    section: str


def mathematics(markdown: str) -> list[str]:
    """The formulas of a Markdown text, $…$ and $$…$$, without those in code or quoted."""
    return [display or inline for display, inline in FORMULA.findall(CODE.sub("", QUOTATION.sub("", markdown)))]


def symbols(formula: str, known: Container[str] | None = ()) -> list[tuple[str, str]]:
    r"""The symbols of a formula, those of its indices too: the key that names each, and what is written.

    Where the whole, as \sigma_c, is in `known`, it is one symbol; otherwise \sigma, with c as its running index.
    With `known=None` every symbol is taken whole.
    """
    def read(some: list[LatexNode]) -> Iterator[tuple[str, str]]:
        nodes = deque(atoms(some))
        while nodes:
            node = end = nodes.popleft()
            key, scripts, indices = base(node), {}, []
            while key and nodes and (mark := text_of(nodes[0])) in ("^", "_", "'"):
                end = nodes.popleft()
                if mark == "'":
                    key += mark
                elif nodes:
                    end = scripts[mark] = nodes.popleft()
            for mark, script in sorted(scripts.items()):  # "^" before "_"
                name = label(text_of(script))
                whole = f"{key}{mark}{name or text_of(script)}"
                if name or known is None or whole in known:
                    key = whole
                else:
                    indices.append(script)
            if key:
                yield key, formula[node.pos:end.pos + end.len].strip()
                yield from read(indices)
            else:
                yield from read(getattr(node, "nodelist", []))  # a group or an environment

    return list(read(LatexWalker(formula, latex_context=MACROS).get_latex_nodes()[0]))


def atoms(nodes: list[LatexNode]) -> Iterator[LatexNode]:
    """The nodes with text taken apart into its characters, without blanks."""
    for node in nodes:
        if isinstance(node, LatexCharsNode):
            yield from (LatexCharsNode(parsing_state=node.parsing_state, pos=node.pos + i, len=1, chars=character)
                        for i, character in enumerate(node.chars) if not character.isspace())
        else:
            yield node


def text_of(node: LatexNode) -> str:
    """What stands in the formula, without blanks and without the braces of a group."""
    text = re.sub(r"\s+", "", node.latex_verbatim())
    return text[1:-1] if isinstance(node, LatexGroupNode) else text


def base(node: LatexNode) -> str:
    r"""The symbol that a node is, without scripts; "" for signs, numbers, functions, and prose in \text."""
    if not isinstance(node, LatexMacroNode):
        return node.chars if isinstance(node, LatexCharsNode) and node.chars.isalpha() else ""
    name, argument = node.macroname, (getattr(node.nodeargd, "argnlist", None) or [None])[-1]
    if argument is None:
        return f"\\{name}" if name in GREEK else ""
    if name in ACCENTS:
        inner = next(atoms(getattr(argument, "nodelist", [argument])), argument)
        return f"\\{ACCENTS[name]}{{{base(inner) or text_of(argument)}}}"
    if name in FONTS:
        return f"\\{name}{{{text_of(argument)}}}"
    word = re.sub(r"\\(?!_)([A-Za-z]+|.)", "", text_of(argument)) if name in UPRIGHT else ""
    prose = name.startswith("text") and not any(letter.isupper() for letter in word)
    return f"[{word}]" if word and word not in FUNCTIONS and not prose else ""


def label(script: str) -> str:
    """What a script adds to a symbol's identity: a star, a sign, an upright word; "" for anything else."""
    if upright := re.fullmatch(rf"\\(?:{'|'.join(UPRIGHT)})\*?\{{([^{{}}]*)\}}", script):
        return upright[1]
    # A word in italics, as in L_{SPD}, has two letters or more and begins with a capital.
    return script if re.fullmatch(r"[*+-]|\\pm|\\max|[A-Z][A-Za-z]+", script) else ""


def read_rows(root: Path = ROOT) -> list[Row]:
    """The rows of all tables of the page whose first column is called "symbol". ValueError for a malformed row."""
    rows, inside = [], False
    for number, line in enumerate((root / PAGE).read_text(encoding="utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("| "))] if line.startswith("|") else []
        if not cells or cells[0] == COLUMNS[0]:
            inside = bool(cells)
        elif inside and not set(line) <= set("|-: "):
            parts = [part for formula in mathematics(cells[0]) for part in re.split(r",\s+", formula)]
            keys = tuple(key for part in parts for key, _ in symbols(part, None)[:1])
            if len(cells) != len(COLUMNS) or not keys or not WHERE.fullmatch(cells[-1]):
                raise ValueError(f"{PAGE}, line {number}: expected {len(COLUMNS)} columns ({', '.join(COLUMNS)}), "
                                 'symbols between dollar signs in the first, and in the last "2.4" or "2.4, 3, 5": '
                                 "the section where the symbol first stands, then the other chapters that use it")
            rows.append(Row(keys, cells[-1], number))
    return rows


def read_uses(root: Path, known: Container[str]) -> list[Use]:
    """Every symbol of the mathematics of the notebooks, in the order of the chapters, then of the pages."""
    found = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        chapter = section = str(int(path.name.partition("_")[0]))  # a ValueError shows a name without a number
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            # The text before the first heading of the cell belongs to the section before.
            first, *others = SECTION.split(cell.source) if cell.cell_type == "markdown" else [""]
            for name, text in [(section, first), *zip(others[::2], others[1::2], strict=True)]:
                section = name
                if QUOTED not in cell.metadata.get("tags", []):
                    found += [Use(*symbol, f"{path.name}, cell {number} ({cell.get('id', 'no id')})", chapter, section)
                              for formula in mathematics(text) for symbol in symbols(formula, known)]
    return found + [Use(*symbol, f"book/{path.name}", "", "") for path in sorted((root / "book").glob("*.md"))
                    for formula in mathematics(path.read_text(encoding="utf-8")) for symbol in symbols(formula, known)]


def problems(root: Path = ROOT) -> list[str]:
    """Where the text and the table do not fit together, one sentence each with what to do."""
    rows, first, found = read_rows(root), {}, []
    for row in rows:
        found += [f"{PAGE}, line {row.line}: {key} has a row already, in line {first[key].line}; give one of the two "
                  "meanings another symbol" for key in row.keys if first.setdefault(key, row) is not row]
    uses = read_uses(root, first)
    found += [f"{use.source}: {use.written} is not in {PAGE}; write it with the symbol that the table has for it, or "
              f"add a row for {use.key}"
              for use in {(use.source, use.key): use for use in uses if use.key not in first}.values()]
    for row in rows:
        mine = [use for use in uses if use.chapter and use.key in row.keys]
        if dead := set(row.keys) - {use.key for use in mine}:
            found.append(f"{PAGE}, line {row.line}: no chapter uses {', '.join(dead)}; take it out of the row")
            continue
        actual = ", ".join([mine[0].section, *dict.fromkeys(u.chapter for u in mine if u.chapter != mine[0].chapter)])
        if actual != row.where:
            new = [f" ({use.source}, has {use.written})" for use in mine
                   if use.chapter not in re.findall(r"(?:^| )(\d+)", row.where)]
            found.append(f"{PAGE}, line {row.line}: {', '.join(row.keys)} stands in {actual}, the row says {row.where}"
                         f"{new[0] if new else ''}; if it means there what the row says, write \"{actual}\", else "
                         "give it another symbol")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems()) or None)
