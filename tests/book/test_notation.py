"""The notation: the reader of LaTeX, the tools on small made-up books, then the real book."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from latex_symbols import keys, mathematics, symbols
from notation import PAGE, accept, problems, read_rows
from repository import ROOT

HEAD = "# Notation\n\n| symbol | meaning | shape or range | in the code | where |\n|---|---|---|---|---|\n"
ROWS = ["| $x$ | an image | – | – | 2.1, 3 |", "| $z$, $z^+$ | vectors | – | – | 3.1 |"]


def read(formula: str, known: tuple[str, ...] = ()) -> list[str]:
    return [symbol.key for symbol in symbols(formula, set(known))]


# ------------------------------------------------------------------ the reader


@pytest.mark.parametrize(("formula", "expected"), [
    (r"x_i^2", ["x", "i"]),
    (r"\hat T_{cij} - S'_{cij}", [r"\hat{T}", "c", "i", "j", "S'", "c", "i", "j"]),
    (r"q^* + q^- + x'", ["q^*", "q^-", "x'"]),
    (r"z^\pm + F^{\max}", [r"z^\pm", r"F^\max"]),
    (r"\hat M^{\text{ST}}_{ij}", [r"\hat{M}^ST", "i", "j"]),
    (r"L_{SPD} + L_{\text{SPD}} + L_{\mathrm{SPD}}", ["L_SPD"] * 3),
    (r"\mathcal{N}_p^{(i,j)}", [r"\mathcal{N}", "i", "j", "p"]),
    (r"\mathcal P_{\mathrm{stride},\,p}", [r"\mathcal{P}", "[stride]", "p"]),
    (r"W_1^\top \mathbb{1}", ["W", r"\mathbb{1}"]),
    (r"\mathbb{R}^{C_l}", [r"\mathbb{R}", "C", "l"]),
    (r"10^{-4} + 2k", ["k"]),
    (r"\max_{t} \frac{\exp a}{\sqrt b} \quad \text{for every } q", ["t", "a", "b", "q"]),
    (r"\text{AU-PRO} + \mathrm{sg} + \operatorname{BN}(v)", ["[AU-PRO]", "[sg]", "[BN]", "v"]),
    (r"\operatorname*{arg\,max}_{m} \int u \, \mathrm{d}\Phi", ["m", "u", r"\Phi"]),
    (r"\begin{aligned} a &= b \\[4pt] &= c \end{aligned} \tag{2.1}", ["a", "b", "c"]),
    (r"\left\| a \right\| \le \big( b \big)", ["a", "b"]),
    (r"\widehat{y} \overline x \widetilde{\mathcal{A}}", [r"\hat{y}", r"\bar{x}", r"\tilde{\mathcal{A}}"]),
    (r"{a_b}_c", ["a", "b", "c"]),
    ("x_", ["x"]),
    (r"\hat", []),
])
def test_symbols(formula: str, expected: list[str]) -> None:
    assert sorted(filter(None, read(formula))) == sorted(expected)


def test_an_index_that_is_part_of_the_name() -> None:
    assert read(r"\sigma_c + \sigma_i", (r"\sigma_c",)) == [r"\sigma_c", r"\sigma", "i"]
    assert keys(r"\mathcal{M}_C") == [r"\mathcal{M}_C"] and keys(r"\phi") == [r"\phi"]
    assert keys(r"x, x^+") == ["x", "x^+"]


def test_written_can_be_searched_for() -> None:
    assert [symbol.written for symbol in symbols(r"a + \hat T_{ij}")][:2] == ["a", r"\hat T_{ij}"]


def test_mathematics_is_what_the_page_shows_as_such() -> None:
    text = ("$a$, `$b$`, and\n```python\nf'$c$'\n```\n$$\nd\n= e\n$$ costs \\$5, or \\$6; $f$\n"
            "<!-- other-notation -->$g$<!-- /other-notation --> $h$")
    assert [formula.split() for formula in mathematics(text)] == [["a"], ["d", "=", "e"], ["f"], ["h"]]


# ------------------------------------------------------------------ the tools


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book that is in order: two chapters and a table."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "book").mkdir()
    chapter(tmp_path, "02_first.ipynb", "## 2.1 Start\n\n$x$\n\n## 2.2 Then\n\n$x_1$")
    chapter(tmp_path, "03_second.ipynb", "## 3.1 Start\n\n$$ z = z^+ \\tag{3.1} $$", "and $x$")
    table(tmp_path, *ROWS)
    return tmp_path


def chapter(root: Path, name: str, *texts: str, tags: tuple[str, ...] = ()) -> None:
    cells = [new_code_cell("label = '$y$'  # not mathematics: only text counts"), *map(new_markdown_cell, texts)]
    for cell in cells:
        cell.metadata["tags"] = list(tags)
    nbformat.write(new_notebook(cells=cells), root / "notebooks" / name)


def table(root: Path, *rows: str) -> None:
    (root / PAGE).write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


def test_a_book_in_order(book: Path) -> None:
    assert problems(book) == []


def test_unknown_symbol(book: Path) -> None:
    chapter(book, "04_third.ipynb", "## 4.1 Start", "some $\\hat y_i$", "some $\\hat y$ more")
    found = [problem for problem in problems(book) if "hat{y}" in problem]
    assert len(found) == 2 and "04_third.ipynb, cell 2 (" in found[0]
    assert r"\hat y_i" in found[0] and "add a row" in found[0]


def test_unknown_symbol_of_a_page(book: Path) -> None:
    (book / "book" / "other.md").write_text("# Page\n\n$y$ and $x$\n", encoding="utf-8")
    (problem,) = problems(book)
    assert problem.startswith("book/other.md: y is not in")


def test_row_that_nobody_uses(book: Path) -> None:
    table(book, *ROWS, "| $y$ | a label | – | – | 3.1 |")
    (problem,) = problems(book)
    assert "line 7" in problem and "no chapter uses y" in problem


def test_row_that_only_a_page_uses(book: Path) -> None:
    table(book, *ROWS, "| $y$ | a label | – | – | 3.1 |")
    (book / "book" / "other.md").write_text("$y$\n", encoding="utf-8")
    assert ["no chapter uses y" in problem for problem in problems(book)] == [True]


def test_symbol_with_two_rows(book: Path) -> None:
    table(book, *ROWS, "| $x$ | a real number | – | – | 2.1, 3 |")
    (problem,) = problems(book)
    assert "line 7" in problem and "has a row already, in line 5" in problem


def test_chapter_that_the_row_does_not_name(book: Path) -> None:
    table(book, ROWS[0].replace("2.1, 3", "2.1"), ROWS[1])
    (problem,) = problems(book)
    assert "03_second.ipynb, cell 2 (" in problem and 'write "2.1, 3"' in problem and "another symbol" in problem


@pytest.mark.parametrize("wrong", ["2.2, 3", "3.1, 2", "2.1, 3, 4"])
def test_where_a_symbol_first_stands(book: Path, wrong: str) -> None:
    table(book, ROWS[0].replace("2.1, 3", wrong), ROWS[1])
    (problem,) = problems(book)
    assert f"stands in 2.1, 3, the row says {wrong}" in problem


def test_a_chapter_before_the_others(book: Path) -> None:
    chapter(book, "00_early.ipynb", "no section yet: $x$")
    (problem,) = problems(book)
    assert 'write "0, 2, 3"' in problem
    accept(book)
    assert problems(book) == []


def test_ten_comes_after_nine(book: Path) -> None:
    chapter(book, "10_late.ipynb", "## 10.1 Start\n\n$x$")
    table(book, ROWS[0].replace("2.1, 3", "2.1, 3, 10"), ROWS[1])
    assert problems(book) == []


def test_quoted_cell(book: Path) -> None:
    chapter(book, "04_third.ipynb", "the note writes $\\bar y$", tags=("other-notation",))
    assert problems(book) == []


@pytest.mark.parametrize("row", ["| $y$ | three columns | 3.1 |", "| y | no dollars | – | – | 3.1 |",
                                 "| $y$ | no place | – | – | later |"])
def test_malformed_row(book: Path, row: str) -> None:
    table(book, *ROWS, row)
    with pytest.raises(ValueError, match="line 7: expected 5 columns"):
        read_rows(book)


def test_notebook_without_a_number(book: Path) -> None:
    chapter(book, "extra.ipynb", "text")
    with pytest.raises(ValueError, match=r"extra\.ipynb: expected a name that begins with the chapter's number"):
        problems(book)


# ------------------------------------------------------------------ the book


def test_the_book_keeps_to_its_notation() -> None:
    found = problems(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_the_names_in_the_code_exist() -> None:
    named = [name for line in (ROOT / PAGE).read_text(encoding="utf-8").splitlines() if line.startswith("|")
             for name in re.findall(r"`([^`]+)`", line)]
    assert len(named) > 50
    for name in named:
        dotted, _, arguments = name.partition("(")
        module, *parts = dotted.split(".")
        found = importlib.import_module(f"adlib.{module}")
        for number, part in enumerate(parts):
            # An attribute that is set when an object is made, such as memory_bank, stands in the source of the class.
            if not hasattr(found, part) and number == len(parts) - 1 and inspect.isclass(found):
                assert re.search(rf'self\.{part}\b|"{part}"|^    {part}:', inspect.getsource(found), re.M), name
                break
            found = getattr(found, part)
        for argument in filter(None, arguments.rstrip(")").split(", ")):
            assert argument in inspect.signature(found).parameters, name
