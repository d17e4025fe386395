"""The equation ledger: its tools on small made-up trees, then the real notebooks and tests."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ledger import page, problems, read_equations, read_tests
from repository import ROOT

GOOD_TEST = '''
from equations import equation

@equation("2.1", function="ledger_sample.first")
def test_first():
    pass

@equation("2.2", function="ledger_sample.Thing.second")
def test_second():
    pass
'''


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree that is in order: two equations, two tests, and a library that names the equations."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "tests" / "equations").mkdir(parents=True)
    (tmp_path / "ledger_sample.py").write_text(
        'def first():\n    """Equation (2.1)."""\n\n'
        'class Thing:\n    def second(self):\n        """Eq. (2.2), and (2.3)."""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ledger_sample", raising=False)
    chapter(tmp_path, "$$ a = b \\tag{2.1} $$\n\nand\n\n"
                      "$$\n\\begin{aligned} c &= d \\\\ &= e \\end{aligned} \\tag{2.2}\n$$")
    write_tests(tmp_path, GOOD_TEST)
    return tmp_path


def chapter(tree: Path, text: str, name: str = "02_small.ipynb") -> None:
    code = new_code_cell('label = r"\\tag{9.9}"  # not an equation: only text counts')
    nbformat.write(new_notebook(cells=[new_markdown_cell(text), code]), tree / "notebooks" / name)


def write_tests(tree: Path, source: str, name: str = "test_small.py") -> None:
    (tree / "tests" / "equations" / name).write_text(source)


def found(tree: Path) -> list[str]:
    return problems(read_equations(tree), read_tests(tree))


def test_a_tree_in_order(tree: Path) -> None:
    assert [equation.tag for equation in read_equations(tree)] == ["2.1", "2.2"]
    assert found(tree) == []


def test_tag_without_test(tree: Path) -> None:
    chapter(tree, "$$ f \\tag{2.3} $$", "02_more.ipynb")
    (problem,) = found(tree)
    assert "(2.3)" in problem and "no test" in problem


def test_test_without_tag(tree: Path) -> None:
    chapter(tree, "$$ a = b \\tag{2.1} $$")
    (problem,) = found(tree)
    assert "test_second" in problem and "no notebook has an equation (2.2)" in problem


def test_duplicate_tag(tree: Path) -> None:
    chapter(tree, "$$ a \\tag{2.1} $$ $$ b \\tag{2.2} $$ $$ c \\tag{2.1} $$")
    (problem,) = found(tree)
    assert "(2.1)" in problem and "taken" in problem


def test_tag_of_another_chapter(tree: Path) -> None:
    chapter(tree, "$$ a \\tag{2.1} $$ $$ b \\tag{2.2} $$", "03_small.ipynb")
    (tree / "notebooks" / "02_small.ipynb").unlink()
    assert len(found(tree)) == 2 and all("expected a number 3.1" in problem for problem in found(tree))


def test_tag_outside_an_equation(tree: Path) -> None:
    chapter(tree, "$$ a \\tag{2.1} $$ and \\tag{2.2}")
    (problem,) = found(tree)
    assert "outside" in problem


def test_docstring_that_does_not_name_the_equation(tree: Path) -> None:
    write_tests(tree, GOOD_TEST.replace("ledger_sample.first", "ledger_sample.Thing.second"))
    (problem,) = found(tree)
    assert "docstring of ledger_sample.Thing.second does not name equation (2.1)" in problem


@pytest.mark.parametrize("name", ["ledger_sample.third", "ledger_sample.Thing.third", "no_such_package_xyz.f"])
def test_function_that_does_not_exist(tree: Path, name: str) -> None:
    write_tests(tree, GOOD_TEST.replace("ledger_sample.first", name))
    (problem,) = found(tree)
    assert f"no function {name}" in problem


@pytest.mark.parametrize(("source", "name"), [
    (GOOD_TEST.replace("def test_first", "def first"), "test_small.py"),
    (GOOD_TEST, "helpers.py"),
    (GOOD_TEST.replace('"2.1"', "TAG"), "test_small.py"),
    (GOOD_TEST.replace(', function="ledger_sample.first"', ""), "test_small.py"),
])
def test_mark_that_would_not_be_run_or_read(tree: Path, source: str, name: str) -> None:
    write_tests(tree, source, name)
    with pytest.raises(ValueError, match=name):
        read_tests(tree)


def test_page(tree: Path) -> None:
    text = page(read_equations(tree), read_tests(tree))
    assert "**(2.1)**" in text and "a = b" in text and "\\tag" not in text
    assert "- `ledger_sample.first`, tested by `tests/equations/test_small.py::test_first`" in text


def test_the_chapters_equations_and_tests_fit() -> None:
    equations = read_equations(ROOT)
    assert equations, "no chapter has a numbered equation"
    assert problems(equations, read_tests(ROOT)) == []
