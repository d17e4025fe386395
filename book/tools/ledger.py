"""The equation ledger: every numbered equation of the chapters, its library function and its test.

The numbers are read from `\\tag{…}` in the notebooks, the tests from `@equation(…)` in
tests/equations/. `problems` says where the two do not fit; `page` is the ledger as the book prints it.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
from pathlib import Path
from typing import NamedTuple

import nbformat

from repository import ROOT

TAG = re.compile(r"\\tag\{([^}]*)\}")
DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.S)


class Equation(NamedTuple):
    """A numbered equation: its `tag`, its LaTeX without the tag, and the chapter's file name without suffix."""

    tag: str
    formula: str
    chapter: str


class EquationTest(NamedTuple):
    """A marked test: `tag` and `function` as given to the mark, and `where`, path::name."""

    tag: str
    function: str
    where: str


def read_equations(root: Path = ROOT) -> list[Equation]:
    """The numbered equations of all notebooks, in the order of the text."""
    found = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "markdown":
                continue
            formulas = {tag: " ".join(TAG.sub("", block).split())
                        for block in DISPLAY.findall(cell.source) for tag in TAG.findall(block)}
            found += [Equation(tag, formulas.get(tag, ""), path.stem) for tag in TAG.findall(cell.source)]
    return found


def read_tests(root: Path = ROOT) -> list[EquationTest]:
    """The `@equation` marks under tests/equations/. ValueError for one that pytest would not run or we cannot read."""
    found = []
    for path in sorted((root / "tests" / "equations").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=name)):
            for mark in getattr(node, "decorator_list", []):
                if not (isinstance(mark, ast.Call) and ast.unparse(mark.func).split(".")[-1] == "equation"):
                    continue
                where = f"{name}::{node.name}"
                given = {keyword.arg: keyword.value for keyword in mark.keywords}
                parts = [*mark.args, *given.values()]
                literal = all(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in parts)
                if len(mark.args) != 1 or set(given) != {"function"} or not literal:
                    raise ValueError(f'{where}: expected @equation("2.3", function="adlib.…"), both literal strings')
                collected = path.name.startswith("test_") and node.name.startswith("test_")
                if isinstance(node, ast.ClassDef) or not collected:
                    raise ValueError(f"{where}: pytest does not run it; expected a function test_… in a file test_….py")
                found.append(EquationTest(mark.args[0].value, given["function"].value, where))
    return found


def problems(equations: list[Equation], tests: list[EquationTest]) -> list[str]:
    """Where equations, tests and docstrings do not fit together, one sentence each."""
    found = []
    for number, equation in enumerate(equations):
        tag, chapter = equation.tag, equation.chapter
        if any(tag == earlier.tag for earlier in equations[:number]):
            found.append(f"equation ({tag}) of {chapter}: the number is taken already")
        expected = re.match(r"0*(\d+)_", chapter)
        if expected and not re.fullmatch(rf"{expected[1]}\.[1-9]\d*", tag):
            found.append(f"equation ({tag}) of {chapter}: expected a number {expected[1]}.1, {expected[1]}.2, …")
        if not equation.formula:
            found.append(f"equation ({tag}) of {chapter}: stands outside a $$ … $$ block")
        if not any(test.tag == tag for test in tests):
            found.append(f"equation ({tag}) of {chapter}: no test in tests/equations carries it")
    tags = {equation.tag for equation in equations}
    for test in tests:
        if test.tag not in tags:
            found.append(f"{test.where}: no notebook has an equation ({test.tag})")
        try:
            docstring = inspect.getdoc(pkgutil.resolve_name(test.function)) or ""
        except (ImportError, AttributeError):
            found.append(f"{test.where}: there is no function {test.function}")
            continue
        if f"({test.tag})" not in docstring:
            found.append(f"{test.where}: the docstring of {test.function} does not name equation ({test.tag})")
    return found


def page(equations: list[Equation], tests: list[EquationTest]) -> str:
    """The ledger as MyST Markdown."""
    lines = [
        "# The equation ledger",
        "",
        "Every numbered equation of the chapters has a test. The test writes the formula out slowly, with loops and",
        "in double precision, straight from the page, and holds the function of `adlib` against it on random inputs.",
        f"Numbered equations: {len(equations)}. Tests of them: {len(tests)}.",
    ]
    for chapter in dict.fromkeys(equation.chapter for equation in equations):
        lines += ["", f"## [](../notebooks/{chapter}.ipynb)"]
        for equation in equations:
            if equation.chapter != chapter:
                continue
            lines += ["", f"**({equation.tag})**", "", "$$", equation.formula, "$$", ""]
            lines += [f"- `{test.function}`, tested by `{test.where}`" for test in tests if test.tag == equation.tag]
    return "\n".join(lines) + "\n"
