"""The equation ledger: every numbered equation of the chapters, its library function and its test.

The numbers are read from `\\tag{…}` in the notebooks, the tests from `@equation(…)` in tests/equations/. `problems`
says where the two do not fit; `page` is the ledger as the book prints it.
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
    tag: str
    formula: str  # LaTeX without the tag
    chapter: str  # the file name without suffix


class EquationTest(NamedTuple):
    tag: str  # as given to the mark
    function: str
    where: str  # path::name
    source: str


def read_equations(root: Path = ROOT) -> list[Equation]:
    """The numbered equations of all notebooks, in the order of the text."""
    found = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        for cell in [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]:
            formulas = {tag: " ".join(TAG.sub("", block).split())
                        for block in DISPLAY.findall(cell.source) for tag in TAG.findall(block)}
            found += [Equation(tag, formulas.get(tag, ""), path.stem) for tag in TAG.findall(cell.source)]
    return found


def read_tests(root: Path = ROOT) -> list[EquationTest]:
    """The `@equation` marks under tests/equations/. ValueError for one that pytest would not run or we cannot read."""
    found = []
    for path in sorted((root / "tests" / "equations").rglob("*.py")):
        name, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text, filename=name)):
            for mark in getattr(node, "decorator_list", []):
                if not (isinstance(mark, ast.Call) and ast.unparse(mark.func).split(".")[-1] == "equation"):
                    continue
                where = f"{name}::{node.name}"
                given = [*mark.args, *(keyword.value for keyword in mark.keywords)]
                literal = all(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in given)
                if len(mark.args) != 1 or [keyword.arg for keyword in mark.keywords] != ["function"] or not literal:
                    raise ValueError(f'{where}: expected @equation("2.3", function="adlib.…"), both literal strings')
                if isinstance(node, ast.ClassDef) or not {path.name[:5], node.name[:5]} == {"test_"}:
                    raise ValueError(f"{where}: pytest does not run it; expected a function test_… in a file test_….py")
                lines = text.splitlines()[node.decorator_list[0].lineno - 1:node.end_lineno]
                found.append(EquationTest(*(part.value for part in given), where, "\n".join(lines)))
    return found


def problems(equations: list[Equation], tests: list[EquationTest]) -> list[str]:
    """Where equations, tests and docstrings do not fit together, one sentence each."""
    found = []
    for number, (tag, formula, chapter) in enumerate(equations):
        first = int(chapter.partition("_")[0])
        found += [f"equation ({tag}) of {chapter}: {what}" for what, is_so in {
            "the number is taken already": any(tag == earlier.tag for earlier in equations[:number]),
            f"expected a number {first}.1, {first}.2, …": not re.fullmatch(rf"{first}\.[1-9]\d*", tag),
            "stands outside a $$ … $$ block": not formula,
            "no test in tests/equations carries it": not any(test.tag == tag for test in tests),
        }.items() if is_so]
    for test in tests:
        if test.tag not in {equation.tag for equation in equations}:
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
    """The ledger as MyST Markdown, a heading for each chapter. A number and a function become links, a test unfolds."""
    lines = [f"Numbered equations: {len(equations)}. Tests of them: {len(tests)}."]
    for chapter in dict.fromkeys(equation.chapter for equation in equations):
        lines += ["", f"## [](../notebooks/{chapter}.ipynb)"]
        for equation in [equation for equation in equations if equation.chapter == chapter]:
            lines += ["", f"**({equation.tag})**", "", "$$", equation.formula, "$$", ""]
            for test in (test for test in tests if test.tag == equation.tag):
                function = pkgutil.resolve_name(test.function)  # the API pages have it where it is defined
                lines += [f"{{py:obj}}`{test.function} <{function.__module__}.{function.__qualname__}>`", "",
                          "<details>", f"<summary>tested by <code>{test.where}</code></summary>", "",
                          "```python", test.source, "```", "</details>", ""]
    return "\n".join(lines) + "\n"


def sheet(equations: list[Equation]) -> str:
    """The equations alone, number and formula beside each other, a heading for each chapter."""
    lines, before = [], ""
    for equation in equations:
        if equation.chapter != before:
            lines += [f"## [](../notebooks/{(before := equation.chapter)}.ipynb)", ""]
        lines += ["::::{div} formula", f"({equation.tag})", "", "$$", equation.formula, "$$", "::::", ""]
    return "\n".join(lines)
