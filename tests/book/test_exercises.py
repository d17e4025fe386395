"""The exercises: made from their solutions, and what their checks have said at the end of the book's run."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from exercises import ANYTHING, find_exercises, problems, put, questions, read_answers, stub, write_stubs
from notebooks import all_notebooks, stamp
from repository import ROOT

# All notebooks but the quickstart and the reference chapters, which may have exercises and need not.
CHAPTERS = [path for path in all_notebooks() if path.name[:2] in ("01", "02", "03", "04", "05")
            or find_exercises(nbformat.read(path, 4))]
UNANSWERED = "not answered yet"
SOLUTION = 'def f1(x):\n    """Returns x + 1."""\n    return x + 1'


def small(count: int = 4) -> NotebookNode:
    """A sound notebook with exercises after an ordinary cell."""
    cells, ask = [new_markdown_cell("# 1 · Small"), new_code_cell("one = 1")], "## 1.3 Exercises\n\nAbout them."
    for k in range(1, count + 1):
        solution = SOLUTION.replace("1", str(k))
        check = (f'def check_{k}(f{k}):\n    if f{k}(1) is None:\n        return "{UNANSWERED}"\n'
                 f'    return "right" if f{k}(one) == {k} + 1 else "wrong"\n\ncheck_{k}(f{k})')
        cells += [new_markdown_cell(f"{ask}\n\n**{k}. Title.** What is x + {k}?"),
                  new_code_cell(f"{stub(solution)}\n\n{check}")]
        ask = f"<details><summary>Solution</summary>\n\n```python\n{solution}\n```\n\nBecause.\n\n</details>"
    return new_notebook(cells=[*cells, new_markdown_cell(f"{ask}\n\n## What to read next"), new_code_cell("'the end'")])


def test_a_stub_is_heads_and_docstrings() -> None:
    two = ('@cache\ndef a(x,\n      y=(1, 2)):  # long head\n    """Returns\n    much."""\n'
           '    # how\n    z = 1\n    return z\n\ndef b():\n  "Returns 2."\n\n  return 2')
    assert stub(two) == ('@cache\ndef a(x,\n      y=(1, 2)):  # long head\n    """Returns\n    much."""\n'
                         '    ...  # your answer\n\ndef b():\n  "Returns 2."\n  ...  # your answer')
    helper, check = "def helper():\n    return 1\n\n", "def check_1(a, b):\n    return 'right'\n\ncheck_1(a, b)"
    for before, between in (("", ""), ("bank = [1]\n\n", ""), ("", helper)):
        cell = f"{before}{stub(two)}\n\n{between}{check}"
        assert put(cell, stub(two)) == cell
        assert put(cell, stub(SOLUTION)) == f"{before}{stub(SOLUTION)}\n\n{between}{check}"
    assert put(f"bank = [1]\n\n{check}", stub(two)) == f"bank = [1]\n\n{stub(two)}\n\n{check}"


@pytest.mark.parametrize(("solution", "message"), [
    ("def f(x:\n    return 1", "is not Python"), ("import math\n\n" + SOLUTION, "something else than functions"),
    ("", "something else than functions"), ('def f(x):\n    """Returns 1."""', "and a body")])
def test_unusable_solutions_are_refused(solution: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stub(solution)


def test_sound_notebooks_have_no_problem() -> None:
    assert problems(small()) == [] and len(find_exercises(small())) == 4
    for count in (3, 7):
        assert problems(small(count)) == [f"{count} exercises, expected four to six"]
    notebook = small()
    notebook.cells[2].source = notebook.cells[2].source.replace("Exercises", "Excuses")
    assert find_exercises(notebook) == []


@pytest.mark.parametrize(("cell", "old", "new", "message"), [
    (3, "your answer", "your turn", "exercise 1: the stub is not the one"),
    (3, "Returns x + 1", "Returns x", "exercise 1: the stub is not the one"),
    (3, "...  # your answer", "return x + 1", "exercise 1: the stub is not the one"),  # an answer left there
    (4, "def f1(x)", "def f1(x, y)", "exercise 1: the stub is not the one"),
    (4, '    """Returns x + 1."""\n', "", "exercise 1: f1 of the solution needs a docstring"),
    (4, "Solution</summary>", "Answer</summary>", "exercise 1: no solution"),
    (4, "```python", "```", "exercise 1: no solution"),
    (4, "Because.", "```python\nx = 1\n```", "exercise 1: no solution"),
    (4, "</details>", "", "exercise 1: no solution"),
    (5, "\n\ncheck_2(f2)", "", "exercise 2: no check: its last line is not"),
    (5, "\n\ncheck_2(f2)", "\n\ncheck_1(f2)", "exercise 2: no check: its last line is not"),
    (5, "\n\ncheck_2(f2)", "\n\ncheck_2(f1)", "exercise 2: check_2(f1), but the solution defines f2"),
    (5, "def check_2(f2):", "def check_2(f2:", "exercise 2: "),
    (4, "**2. Title.**", "**3. Title.**", "exercise 2: the text before it has no '**2. Title.**'")])
def test_each_defect_is_named(cell: int, old: str, new: str, message: str) -> None:
    notebook = small()
    assert old in notebook.cells[cell].source
    notebook.cells[cell].source = notebook.cells[cell].source.replace(old, new)
    (found,) = problems(notebook)
    assert found.startswith(message)
    write_stubs(notebook)  # mends a stub and nothing else
    assert problems(notebook) == ([] if "the stub is not" in message else [found])


def test_what_the_checks_say_is_recorded() -> None:
    notebook = small()
    notebook.cells += questions(notebook, "xx_small.ipynb")
    namespace: dict = {}
    for cell in notebook.cells[1:]:
        if cell.cell_type == "code":
            exec(cell.source.replace("print(", "printed = str("), namespace)
    asked = [(k, answer) for k in (1, 2, 3, 4) for answer in ("solution", *ANYTHING)]
    wanted = [[k, answer, "right" if answer == "solution" else "wrong", False] for k, answer in asked]
    assert json.loads(namespace["printed"]) == wanted


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_exercise_has_drifted_or_is_answered(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    assert problems(notebook) == []
    shown = [exercise.cell.outputs[-1].get("data", {}).get("text/plain") for exercise in find_exercises(notebook)]
    assert [ast.literal_eval(text) for text in shown] == [UNANSWERED] * len(shown)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_solution_is_right_and_no_wrong_answer(path: Path) -> None:
    """As the checks said at the end of the book's run of this chapter."""
    if (answers := read_answers(path, ROOT / "build" / "runs", stamp(path))) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"build/runs has no run of this {path.name}: make book")
    wrong = []
    for number, answer, said, is_error in answers:
        if said.startswith("right") != (answer == "solution") or said == UNANSWERED:
            wrong.append(f"exercise {number}: the answer {answer} gets '{said}'")
        elif is_error and answer not in ANYTHING:
            wrong.append(f"exercise {number}: the answer {answer} gets no hint but {said}")
    assert not wrong, "\n".join(wrong)
