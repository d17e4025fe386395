"""Notation and equation ledger, on a small made-up book, then the real one; and the terms of the glossary."""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import ledger
from notation import PAGE, mathematics, problems, read_rows, symbols
from notebooks import all_notebooks
from repository import ROOT

HEAD = "# Notation\n\n| symbol | meaning | shape or range | in the code | where |\n|---|---|---|---|---|"
X, Z = ROWS = ["| $x$ | an image | – | – | 2.1, 3 |", "| $z$, $z^+$ | vectors | – | – | 3.1 |"]


@pytest.mark.parametrize(("formula", "expected"), [
    (r"x_i^2", "x i"),
    (r"\hat T_{cij} - S'_{cij}", r"\hat{T} c i j S' c i j"),
    (r"q^* + q^- + x' + z^\pm + F^{\max}", r"q^* q^- x' z^\pm F^\max"),
    (r"\hat M^{\text{ST}}_i + L_{SPD} + L_{\text{SPD}} + L_{\mathrm{SPD}}", r"\hat{M}^ST i L_SPD L_SPD L_SPD"),
    (r"\mathcal{N}_p^{(i,j)} \mathcal P_{\mathrm{at},p}", r"\mathcal{N} i j p \mathcal{P} [at] p"),
    (r"W_1^\top \mathbb{1} \mathbb{R}^{C_l} 10^{-4}", r"W \mathbb{1} \mathbb{R} C l"),
    (r"\max_{t} \frac{\exp a}{\sqrt b} \quad \text{for every } q", "t a b q"),
    (r"\text{AU-PRO} + \mathrm{sg} + \operatorname{BN}(v)", "[AU-PRO] [sg] [BN] v"),
    (r"\operatorname*{arg\,max}_{m} \int u \, \mathrm{d}\Phi", r"m u \Phi"),
    (r"\begin{aligned} a &= b \\[4pt] &= {c_d}_e \end{aligned} \tag{2.1} x_ \hat", "a b c d e x"),
    (r"\widehat{y} \overline x \widetilde{\mathcal{A}}", r"\hat{y} \bar{x} \tilde{\mathcal{A}}"),
    (r"\sigma_c + \sigma_i", r"\sigma_c \sigma i"),  # an index that is part of a name which the table has
])
def test_symbols(formula: str, expected: str) -> None:
    assert sorted(key for key, _ in symbols(formula, {r"\sigma_c"})) == sorted(expected.split())


def test_mathematics_is_what_the_page_shows_as_such() -> None:
    text = ("$a$, `$b$`, and\n```python\nf'$c$'\n```\n$$\nd\n= e\n$$ costs \\$5, or \\$6; $f$\n"
            "<!-- other-notation -->$g$<!-- /other-notation --> $h$")
    assert [formula.split() for formula in mathematics(text)] == [["a"], ["d", "=", "e"], ["f"], ["h"]]


@pytest.mark.parametrize(("name", "text", "rows", "expected"), [
    # A chapter that the table does not know.
    ("04_third", "## 4.1 Start\n\n$\\hat y$", ROWS, r"^04_third.ipynb, cell 1 \(.*\\hat y is not in .* add a row"),
    ("04_third", "none yet: $x$", ROWS, r'04_third.ipynb, cell 1 \(.*write "2.1, 3, 4".* another symbol'),
    ("00_early", "none yet: $x$", ROWS, "stands in 0, 2, 3, the row says 2.1, 3"),
    # A row that does not fit.
    ("", "", [*ROWS, "", "and $y$ and $x$"], "book/notation.md: y is not in"),
    ("", "", [*ROWS, "| $y$ | what only a page uses | – | – | 3.1 |"], "line 7: no chapter uses y; take it out"),
    ("", "", [*ROWS, "| $x$ | a real number | – | – | 2.1, 3 |"], "line 7: x has a row already, in line 5"),
    ("", "", [X.replace("2.1, 3", "2.2, 3"), Z], "line 5: x stands in 2.1, 3, the row says 2.2, 3; if"),
    ("", "", [X.replace("2.1, 3", "2.1, 3, 4"), Z], "line 5: x stands in 2.1, 3, the row says 2.1, 3, 4; if"),
    ("", "", [*ROWS, "| $y$ | three columns | 3.1 |"], "line 7: expected 5 columns"),
    ("", "", [*ROWS, "| y | no dollars | – | – | 3.1 |"], "line 7: expected 5 columns"),
    ("", "", [*ROWS, "| $y$ | no place | – | – | later |"], "line 7: expected 5 columns")])
def test_what_does_not_fit_is_named(tmp_path: Path, name: str, text: str, rows: list[str], expected: str) -> None:
    def chapter(name: str, *texts: str, **metadata: list[str]) -> None:
        cells = [new_code_cell("label = '$y$'  # not mathematics: only text counts")]
        cells += [new_markdown_cell(text, metadata=metadata) for text in texts]
        nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb")

    for folder in ("notebooks", "book"):
        (tmp_path / folder).mkdir()
    chapter("02_first", "## 2.1 Start\n\n$x$\n\n## 2.2 Then\n\n$x_1$")
    chapter("03_second", "## 3.1 Start\n\n$$ z = z^+ \\tag{3.1} $$", "and $x$")
    chapter("10_late", "the note writes $\\bar y$", tags=["other-notation"])
    (tmp_path / PAGE).write_text("\n".join([HEAD, *ROWS]), encoding="utf-8")
    assert problems(tmp_path) == []
    if name:
        chapter(name, text)
    (tmp_path / PAGE).write_text("\n".join([HEAD, *rows]), encoding="utf-8")
    with pytest.raises(ValueError, match=expected):
        raise ValueError(problems(tmp_path)[0])  # a malformed row is an error at once


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


TAGS = "$$ a = b \\tag{2.1} $$\n\nand\n\n$$\n\\begin{aligned} c &= d \\\\ &= e \\end{aligned} \\tag{2.2}\n$$"
TESTS = '''
@equation("2.1", function="ledger_sample.first")
def test_first(): ...
@equation("2.2", function="ledger_sample.Thing.second")
def test_second(): ...
'''
LIBRARY = '''
def first(): "Equation (2.1)."
class Thing:
    def second(self): "Eq. (2.2), and (2.3)."
'''


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ledger_sample.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ledger_sample", raising=False)


def write(tree: Path, text: str = TAGS, tests: str = TESTS, chapter: str = "02_small", name: str = "test_a.py") -> Path:
    for path, content in ((f"tests/equations/{name}", tests), (f"notebooks/{chapter}.ipynb", nbformat.writes(
            new_notebook(cells=[new_markdown_cell(text), new_code_cell('r"\\tag{9.9}"  # only text counts')])))):
        (tree / path).parent.mkdir(parents=True)
        (tree / path).write_text(content)
    return tree


@pytest.mark.parametrize(("changed", "expected"), [
    ({"text": TAGS + "\n\n$$ f \\tag{2.3} $$"}, ["(2.3) of 02_small: no test"]),
    ({"text": "$$ a = b \\tag{2.1} $$"}, ["test_a.py::test_second: no notebook has an equation (2.2)"]),
    ({"text": TAGS + "\n\n$$ f \\tag{2.1} $$"}, ["(2.1) of 02_small: the number is taken"]),
    ({"chapter": "03_small"}, ["(2.1) of 03_small: expected a number 3.1", "(2.2) of 03_small: expected a number 3.1"]),
    ({"text": "$$ a \\tag{2.1} $$ and \\tag{2.2}"}, ["(2.2) of 02_small: stands outside"]),
    ({"tests": TESTS.replace("first\"", "Thing.second\"")}, ["docstring of ledger_sample.Thing.second does not name"]),
    *(({"tests": TESTS.replace("ledger_sample.first", name)}, [f"test_first: there is no function {name}"])
      for name in ("ledger_sample.third", "ledger_sample.Thing.third", "no_such_package_xyz.f"))])
def test_what_does_not_fit_in_the_ledger(tmp_path: Path, library: None, changed: dict, expected: list[str]) -> None:
    found = ledger.problems(ledger.read_equations(write(tmp_path, **changed)), ledger.read_tests(tmp_path))
    assert len(found) == len(expected) and all(part in problem for part, problem in zip(expected, found, strict=True))


@pytest.mark.parametrize(("old", "new", "name"), [
    ("def test_first", "def first", "test_a.py"), ("def test_first()", "class test_first", "test_a.py"),
    ("", "", "other.py"), ('"2.1"', "TAG", "test_a.py"), (', function="ledger_sample.first"', "", "test_a.py")])
def test_a_mark_that_would_not_be_run_or_read(tmp_path: Path, old: str, new: str, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ledger.read_tests(write(tmp_path, tests=TESTS.replace(old, new), name=name))


def test_a_ledger_in_order_and_its_page(tmp_path: Path, library: None) -> None:
    equations, tests = ledger.read_equations(write(tmp_path)), ledger.read_tests(tmp_path)
    assert [equation.tag for equation in equations] == ["2.1", "2.2"] and ledger.problems(equations, tests) == []
    page = ledger.page(equations, tests)
    assert "**(2.1)**\n\n$$\na = b\n$$\n\n{py:obj}`ledger_sample.first <ledger_sample.first>`\n\n<details>\n" in page
    assert f"<code>tests/equations/test_a.py::test_first</code></summary>\n\n```python\n{tests[0].source}\n```" in page
    assert tests[0].source.startswith("@") and "def test_first" in tests[0].source


def test_the_book_keeps_to_its_notation_and_its_equations_and_tests_fit() -> None:
    assert len(read_rows(ROOT)) > 100 and problems(ROOT) == []
    assert (equations := ledger.read_equations(ROOT)) and ledger.problems(equations, ledger.read_tests(ROOT)) == []


GLOSSARY = ROOT / "book" / "glossary.md"
TEXT = GLOSSARY.read_text(encoding="utf-8")
ROW = re.compile(r"^\| (?!English|---)(.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.M)  # English, Chinese, meaning, where
CHAPTERS = {path.name: "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
            for path in all_notebooks()}


def test_every_term_is_used_in_the_book() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md") if path != GLOSSARY]
    # Bold or italic within a term does not make it another one.
    text = " ".join(re.sub(r"\*+", "", " ".join([*pages, *CHAPTERS.values()])).lower().split())
    terms = [row[0] for row in ROW.findall(TEXT)]
    assert 90 <= len(terms)
    # As whole words, or with an ending: "region" in "regions", but "code" not in "encoder".
    assert [term for term in terms if not re.search(rf"(?<!\w){re.escape(term.lower())}", text)] == []


def test_terms_stand_once_and_sorted_mark_their_chinese_and_lead_somewhere() -> None:
    topics = [[row[0].lower() for row in ROW.findall(topic)] for topic in TEXT.split("\n## ")[1:]]
    assert all(terms and terms == sorted(terms) for terms in topics), topics
    assert len(set(sum(topics, []))) == len(ROW.findall(TEXT))
    for english, chinese, meaning, where in ROW.findall(TEXT):
        # Screen readers and fonts need the language; simplified characters differ from those of Japanese.
        assert re.fullmatch(r'<span lang="zh-Hans">[^<]+</span>', chinese), english
        assert not re.search(r"[\u4e00-\u9fff]", re.sub(r'<span lang="zh-Hans">[^<]*</span>', "", meaning)), english
        ((name, target),) = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", where)
        path = GLOSSARY.parent / target
        assert path.is_file(), (english, target)  # in all other links too, Sphinx names a target that is not there
        assert path.suffix == ".md" or re.search(rf"^## {re.escape(name)} ", CHAPTERS[path.name], re.M), (english, name)
