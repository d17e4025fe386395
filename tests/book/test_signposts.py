"""What the Sphinx extension makes of a small book: links, numbers of figures, lists, what a page loads. And charts."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sphinx.application import Sphinx

import adlib_book
import charts
import results
import signposts


@pytest.mark.parametrize(("text", "names"), [
    ("By (2.17), and (1.4), (1.5).", "(2.17) (1.4) (1.5)"),
    ("as in section 2.9, sections 4.5 and 4.6, sections 6.1 to 6.3 and 7.1", "2.9 4.5 4.6 6.1 6.3 7.1"),
    ("Chapter 2, section 2.13, and chapters 2 to 5. Section 1.8 (trap 6)", "2 2.13 2 5 1.8"),
    ("(Section 2.12 measures it.) In chapter 8:", "2.12 8"),
    ("section 5.10 of chapter 5.", "5.10 5"),
    # Sections of other texts, and numbers.
    ("Zou et al. 2022, Section 3.2; Section 4.4 has more. Its sections 3 and 4", ""),
    ("0.95 in 2.5 % of (0.9, 1.0] and f(2.1, 3); chapter 2.4", ""),
])
def test_what_is_cited(text: str, names: str) -> None:
    pieces = list(signposts.cited(text))
    assert "".join(piece for piece, _ in pieces) == text
    assert [name for _, name in pieces if name] == names.split()
    assert not any(re.match(r"and|to|,", piece) for piece, name in pieces if name)


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TEXT = """# 2 · A method

See section 2.2, (2.1) and `(2.1)`; also (9.9).

$$
a = b
\\tag{2.1}
$$

## 2.1 The start of (2.1)

![A drawing.](a.png)

## 2.2 The end

| symbol | where |
|---|---|
| $a$ | 2.1, 2 |"""
HTML = "<table><tr><td>1</td></tr></table><figure><figcaption>It moves.</figcaption></figure>"
PAGE = """# A page

Equation (2.1) of chapter 2.

```{eval-rst}
.. py:function:: f(x)

   :Parameters: * **x, y** (*Tensor (N,)*) -- What it takes.
                * **z** -- Without a type.
```
"""


def shows(data: dict[str, str], **about: dict) -> nbformat.NotebookNode:
    cell = new_code_cell("show()", outputs=[new_output("display_data", data)], execution_count=1)
    cell.metadata["mystnb"] = {"image": {"alt": "What one sees."}, **about}
    return cell


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A made-up book of two pages and a chapter, and the warnings of its build."""
    root = tmp_path_factory.mktemp("book")
    (root / "notebooks").mkdir()
    (root / "notebooks" / "a.png").write_bytes(base64.b64decode(PNG))
    cells = [new_markdown_cell(TEXT), shows({"image/png": PNG}),
             shows({"image/png": PNG}, figure={"caption": "By (2.1)."}), shows({"text/html": HTML})]
    nbformat.write(new_notebook(cells=cells), root / "notebooks" / "02_a.ipynb")
    (root / "page.md").write_text(PAGE, encoding="utf-8")
    (root / "index.md").write_text("# The book\n\n```{toctree}\npage\nnotebooks/02_a\n```\n\n## 2 · A method\n\n"
                                   "Not the chapter, though its name comes first.\n", encoding="utf-8")
    settings = {"extensions": ["sphinx.ext.autodoc", "myst_nb", "adlib_book"], "html_theme": "sphinx_book_theme",
                "nb_execution_mode": "off", "mathjax_path": "mathjax.js", "myst_enable_extensions": ["dollarmath"]}
    warnings = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adlib_book, "ROOT", root)
        patch.setattr(adlib_book, "CHAPTERS", root / "notebooks")
        Sphinx(str(root), None, str(root / "html"), str(root / "trees"), "html", settings, io.StringIO(), warnings,
               freshenv=True).build()
    return root / "html", warnings.getvalue()


def test_what_a_number_names_is_linked_and_what_is_not_there_is_a_warning(book: tuple[Path, str]) -> None:
    chapter, page = ((book[0] / name).read_text(encoding="utf-8") for name in ("notebooks/02_a.html", "page.html"))
    assert re.search(r'<div class="math[^>]* id="eq-2-1">', chapter)
    assert re.search(r'<a [^>]*href="#the-end"[^>]*>section 2.2</a>, <a [^>]*href="#eq-2-1"[^>]*>\(2.1\)</a>', chapter)
    assert '<span class="pre">(2.1)</span>' in chapter and "2.1 The start of (2.1)<a" in chapter  # code, a heading
    assert re.search(r'<td><p><a [^>]*href="#the-start-of-2-1"[^>]*>2.1</a>, <a [^>]*>2</a>', chapter)
    assert re.search(r'<a [^>]*href="notebooks/02_a.html#eq-2-1" title="equation \(2.1\) in 2 · A method">\(2.1\)</a>'
                     r' of <a [^>]*href="notebooks/02_a.html"[^>]*>chapter 2</a>', page)
    (warning,) = [line for line in book[1].splitlines() if "names no" in line]
    assert "02_a" in warning and "'(9.9)'" in warning and "; also (9.9)." in warning


def test_figures_have_numbers_and_captions(book: tuple[Path, str]) -> None:
    chapter = (book[0] / "notebooks" / "02_a.html").read_text(encoding="utf-8")
    found = [re.sub("<[^>]*>|#", "", text) for text in re.findall(r"<figcaption.*?</figcaption>", chapter, re.S)]
    assert [" ".join(text.split()) for text in found] == [
        "Figure 2.1. A drawing.", "Figure 2.2. What one sees.", "Figure 2.3. By (2.1).", "Figure 2.4. It moves."]
    assert 'id="figure-2-3"' in chapter and re.search(r'<figcaption>.*?href="#eq-2-1".*?</figcaption>', chapter, re.S)


def test_tables_of_cells_scroll_and_parameters_are_a_list_of_terms(book: tuple[Path, str]) -> None:
    chapter, page = ((book[0] / name).read_text(encoding="utf-8") for name in ("notebooks/02_a.html", "page.html"))
    assert '<div class="pst-scrollable-table-container"><table><tr><td>1</td></tr></table></div>' in chapter
    assert re.search(r"<dt><strong>x, y</strong> <em>Tensor \(N,\)</em></dt><dd><p>What it takes.</p>\s*</dd>\s*"
                     r"<dt><strong>z</strong></dt><dd><p>Without a type.</p>", page)


def test_a_page_loads_what_it_needs(book: tuple[Path, str]) -> None:
    for name, mathematics in (("index", False), ("page", False), ("notebooks/02_a", True), ("search", False)):
        text = (book[0] / f"{name}.html").read_text(encoding="utf-8")
        assert ("mathjax.js" in text) == mathematics, name
        assert ("searchindex.js" in text) == (name == "search") and "fontawesome.js" not in text
    icons = (book[0] / "_static" / "icons.css").read_text(encoding="utf-8")
    assert "U+F002" in icons and "U+F0C9" in icons  # the glass and the bars
    assert 1_000 < (book[0] / "_static" / "icons.woff").stat().st_size < 8_000


def test_the_overview_of_the_errata() -> None:
    notebook = new_notebook(cells=[new_markdown_cell(text) for text in (
        "# 9 · Errata", "## 9.2 Class A\n\n### A1. A sign (line 142)\n\n**Right,** equation (4.6): so.\n\nSee (4.7).",
        "### B2 and B3. An order (lines 61 and 63)\n\nNothing.",
        "## 9.4 Class B: the others\n\n| no. |\n|---|\n| B8 | x |\n| B9 | y |")])
    signposts.add_overview(notebook)
    head, _, *rows = notebook.cells[1].source.splitlines()
    assert rows == ["| [A1](#a1) | A sign | 142 | (4.6) |", "| [B2 and B3](#b2) | An order | 61 and 63 | – |",
                    "| B8 to B9 | Class B: the others | – | section 9.4 |"]
    assert "(b2)=\n### B2 and B3. An order" in notebook.cells[3].source


def test_a_chart_shows_every_value_of_its_table_in_order() -> None:
    for name, chart in results.CHARTS.items():
        lines = [line for line in results.text(name).splitlines() if line.startswith("|")]
        found = charts.dots(lines, chart)
        assert len(found) >= 3 and all(dot.low <= dot.value <= dot.high for dot in found), name
        for before, after in zip(found, found[1:], strict=False):
            assert before.group != after.group or before.value >= after.value, name
        shown = [float(x) for x in re.findall(r'(?:x1|x2|cx)="([^%"]*)%"', charts.draw(lines, chart))]
        assert min(shown) >= 3.9 and max(shown) <= 96.1, name
    table = ["| data | d | AUROC |", "| - | - | - |", "| a | x | 0.80\u00a0[0.70,\u00a00.90] |", "| a | y | 0.85 |"]
    high, low = charts.dots(table, charts.Chart(("AUROC",), "{d}", "{data}"))
    assert (high.label, high.low, high.high) == ("y", 0.85, 0.85) and (low.low, low.value, low.high) == (0.7, 0.8, 0.9)
