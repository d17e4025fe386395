"""The notation: the symbols of LaTeX, the check on a small made-up book, then the real book."""

from __future__ import annotations

import inspect
import pkgutil
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from notation import PAGE, mathematics, problems, read_rows, symbols
from repository import ROOT

HEAD = "# Notation\n\n| symbol | meaning | shape or range | in the code | where |\n|---|---|---|---|---|\n"
ROWS = ["| $x$ | an image | – | – | 2.1, 3 |", "| $z$, $z^+$ | vectors | – | – | 3.1 |"]


@pytest.mark.parametrize(("formula", "expected"), [
    (r"x_i^2", ["x", "i"]),
    (r"\hat T_{cij} - S'_{cij}", [r"\hat{T}", "c", "i", "j", "S'", "c", "i", "j"]),
    (r"q^* + q^- + x' + z^\pm + F^{\max}", ["q^*", "q^-", "x'", r"z^\pm", r"F^\max"]),
    (r"\hat M^{\text{ST}}_i + L_{SPD} + L_{\text{SPD}} + L_{\mathrm{SPD}}", [r"\hat{M}^ST", "i", *["L_SPD"] * 3]),
    (r"\mathcal{N}_p^{(i,j)} \mathcal P_{\mathrm{at},p}", [r"\mathcal{N}", "i", "j", "p", r"\mathcal{P}", "[at]", "p"]),
    (r"W_1^\top \mathbb{1} \mathbb{R}^{C_l} 10^{-4}", ["W", r"\mathbb{1}", r"\mathbb{R}", "C", "l"]),
    (r"\max_{t} \frac{\exp a}{\sqrt b} \quad \text{for every } q", ["t", "a", "b", "q"]),
    (r"\text{AU-PRO} + \mathrm{sg} + \operatorname{BN}(v)", ["[AU-PRO]", "[sg]", "[BN]", "v"]),
    (r"\operatorname*{arg\,max}_{m} \int u \, \mathrm{d}\Phi", ["m", "u", r"\Phi"]),
    (r"\begin{aligned} a &= b \\[4pt] &= {c_d}_e \end{aligned} \tag{2.1} x_ \hat", ["a", "b", "c", "d", "e", "x"]),
    (r"\widehat{y} \overline x \widetilde{\mathcal{A}}", [r"\hat{y}", r"\bar{x}", r"\tilde{\mathcal{A}}"]),
])
def test_symbols(formula: str, expected: list[str]) -> None:
    assert sorted(key for key, _ in symbols(formula)) == sorted(expected)


def test_an_index_that_is_part_of_the_name() -> None:
    assert [key for key, _ in symbols(r"\sigma_c + \sigma_i", {r"\sigma_c"})] == [r"\sigma_c", r"\sigma", "i"]
    assert symbols(r"\mathcal{M}_C", None) == [(r"\mathcal{M}_C", r"\mathcal{M}_C")]


def test_mathematics_is_what_the_page_shows_as_such() -> None:
    text = ("$a$, `$b$`, and\n```python\nf'$c$'\n```\n$$\nd\n= e\n$$ costs \\$5, or \\$6; $f$\n"
            "<!-- other-notation -->$g$<!-- /other-notation --> $h$")
    assert [formula.split() for formula in mathematics(text)] == [["a"], ["d", "=", "e"], ["f"], ["h"]]


def chapter(root: Path, name: str, *texts: str, tags: tuple[str, ...] = ()) -> None:
    cells = [new_markdown_cell(text, metadata={"tags": list(tags)}) for text in texts]
    cells.insert(0, new_code_cell("label = '$y$'  # not mathematics: only text counts"))
    nbformat.write(new_notebook(cells=cells), root / "notebooks" / name)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book that is in order: two chapters, one with a quotation, and a table."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book").mkdir()
    chapter(tmp_path, "02_first.ipynb", "## 2.1 Start\n\n$x$\n\n## 2.2 Then\n\n$x_1$")
    chapter(tmp_path, "03_second.ipynb", "## 3.1 Start\n\n$$ z = z^+ \\tag{3.1} $$", "and $x$")
    chapter(tmp_path, "10_late.ipynb", "the note writes $\\bar y$", tags=("other-notation",))
    (tmp_path / PAGE).write_text(HEAD + "\n".join(ROWS) + "\n", encoding="utf-8")
    assert problems(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("04_third.ipynb", "## 4.1 Start\n\n$\\hat y$", [r"04_third.ipynb, cell 1 (", r"\hat y is not in", "add a row"]),
    ("04_third.ipynb", "no section yet: $x$", ["04_third.ipynb, cell 1 (", 'write "2.1, 3, 4"', "another symbol"]),
    ("00_early.ipynb", "no section yet: $x$", ["stands in 0, 2, 3, the row says 2.1, 3"]),
])
def test_a_chapter_that_the_table_does_not_know(book: Path, name: str, text: str, expected: list[str]) -> None:
    chapter(book, name, text)
    assert [part in problems(book)[0] for part in expected] == [True] * len(expected)


@pytest.mark.parametrize(("rows", "expected"), [
    ([*ROWS, "", "and $y$ and $x$"], "book/notation.md: y is not in"),
    ([*ROWS, "| $y$ | what only a page uses | – | – | 3.1 |"], "line 7: no chapter uses y; take it out"),
    ([*ROWS, "| $x$ | a real number | – | – | 2.1, 3 |"], "line 7: x has a row already, in line 5"),
    ([ROWS[0].replace("2.1, 3", "2.2, 3"), ROWS[1]], "line 5: x stands in 2.1, 3, the row says 2.2, 3; if"),
    ([ROWS[0].replace("2.1, 3", "2.1, 3, 4"), ROWS[1]], "line 5: x stands in 2.1, 3, the row says 2.1, 3, 4; if"),
    ([*ROWS, "| $y$ | three columns | 3.1 |"], "line 7: expected 5 columns"),
    ([*ROWS, "| y | no dollars | – | – | 3.1 |"], "line 7: expected 5 columns"),
    ([*ROWS, "| $y$ | no place | – | – | later |"], "line 7: expected 5 columns"),
])
def test_a_row_that_does_not_fit(book: Path, rows: list[str], expected: str) -> None:
    (book / PAGE).write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(expected)):
        raise ValueError(*problems(book))  # a malformed row is an error at once


def test_the_book_keeps_to_its_notation() -> None:
    assert len(read_rows(ROOT)) > 100 and problems(ROOT) == []


def test_the_names_in_the_code_exist() -> None:
    named = re.findall(r"`([\w.]+)(?:\(([^)]+)\))?`", (ROOT / PAGE).read_text(encoding="utf-8"))
    assert len(named) > 50
    for name, arguments in named:
        try:
            found = pkgutil.resolve_name(f"adlib.{name}")
        except AttributeError:  # an attribute that is set when an object is made, such as memory_bank
            owner, _, part = f"adlib.{name}".rpartition(".")
            source = inspect.getsource(pkgutil.resolve_name(owner))
            assert re.search(rf'self\.{part}\b|"{part}"|^    {part}:', source, re.M), name
        for argument in filter(None, arguments.split(", ")):
            assert argument in inspect.signature(found).parameters, name
