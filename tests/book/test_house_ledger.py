"""The equation ledger: its tools on a small made-up tree, then the real notebooks and tests."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ledger import page, problems, read_equations, read_tests
from repository import ROOT

TEXT = "$$ a = b \\tag{2.1} $$\n\nand\n\n$$\n\\begin{aligned} c &= d \\\\ &= e \\end{aligned} \\tag{2.2}\n$$"
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


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ledger_sample.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ledger_sample", raising=False)


def write(tree: Path, text: str = TEXT, tests: str = TESTS, chapter: str = "02_small", name: str = "test_a.py") -> Path:
    for path, content in ((f"tests/equations/{name}", tests), (f"notebooks/{chapter}.ipynb", nbformat.writes(
            new_notebook(cells=[new_markdown_cell(text), new_code_cell('r"\\tag{9.9}"  # only text counts')])))):
        (tree / path).parent.mkdir(parents=True)
        (tree / path).write_text(content)
    return tree


@pytest.mark.parametrize(("changed", "expected"), [
    ({"text": TEXT + "\n\n$$ f \\tag{2.3} $$"}, ["(2.3) of 02_small: no test"]),
    ({"text": "$$ a = b \\tag{2.1} $$"}, ["test_a.py::test_second: no notebook has an equation (2.2)"]),
    ({"text": TEXT + "\n\n$$ f \\tag{2.1} $$"}, ["(2.1) of 02_small: the number is taken"]),
    ({"chapter": "03_small"}, ["(2.1) of 03_small: expected a number 3.1", "(2.2) of 03_small: expected a number 3.1"]),
    ({"text": "$$ a \\tag{2.1} $$ and \\tag{2.2}"}, ["(2.2) of 02_small: stands outside"]),
    ({"tests": TESTS.replace("first\"", "Thing.second\"")}, ["docstring of ledger_sample.Thing.second does not name"]),
    *(({"tests": TESTS.replace("ledger_sample.first", name)}, [f"test_first: there is no function {name}"])
      for name in ("ledger_sample.third", "ledger_sample.Thing.third", "no_such_package_xyz.f")),
])
def test_what_does_not_fit_is_named(tmp_path: Path, changed: dict[str, str], expected: list[str]) -> None:
    found = problems(read_equations(write(tmp_path, **changed)), read_tests(tmp_path))
    assert len(found) == len(expected) and all(part in problem for part, problem in zip(expected, found, strict=True))


@pytest.mark.parametrize(("old", "new", "name"), [
    ("def test_first", "def first", "test_a.py"), ("def test_first()", "class test_first", "test_a.py"),
    ("", "", "other.py"), ('"2.1"', "TAG", "test_a.py"), (', function="ledger_sample.first"', "", "test_a.py"),
])
def test_a_mark_that_would_not_be_run_or_read(tmp_path: Path, old: str, new: str, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        read_tests(write(tmp_path, tests=TESTS.replace(old, new), name=name))


def test_a_tree_in_order_and_its_page(tmp_path: Path) -> None:
    equations, tests = read_equations(write(tmp_path)), read_tests(tmp_path)
    assert [equation.tag for equation in equations] == ["2.1", "2.2"] and problems(equations, tests) == []
    entry = "**(2.1)**\n\n$$\na = b\n$$\n\n- `ledger_sample.first`, tested by `tests/equations/test_a.py::test_first`"
    assert entry in page(equations, tests)


def test_the_chapters_equations_and_tests_fit() -> None:
    assert (equations := read_equations(ROOT)) and problems(equations, read_tests(ROOT)) == []
