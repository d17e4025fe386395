"""The exercises of the chapters: what a reader finds in the notebook is made from the published solution.

In the section "N.x Exercises" every code cell is one exercise. The text cell before it ends with the question, under
`**k. Title.**`. The text cell after it begins with the solution, folded in `<details>`: one block of Python with
nothing in it but functions, each with a docstring that says what it returns. The code cell holds the same functions
without their bodies (the stub), the function `check_k`, and, on its last line, the call `check_k(function)`. That gives
"not answered yet", "right", or a hint. A run for the book ends with what the checks say to solutions and wrong answers.
`python book/tools/exercises.py` writes all stubs anew from the solutions, and says what is wrong.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from repository import ROOT

HEADING = re.compile(r"^## [\d.]+ Exercises$", re.M)
SOLUTION = re.compile(r"\A<details><summary>Solution</summary>\n(.*?)^</details>$", re.M | re.S)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
EMPTY = "...  # your answer"
STUBS = re.compile(rf"(?:(?:^@.*\n)*^def .*\n(?:(?:[ )].*)?\n)*? +{re.escape(EMPTY)}\n*)+", re.M)

# Answers that somebody may give, by chapter and number of the exercise. Each has to get a hint.
WRONG = json.loads((ROOT / "tests" / "book" / "wrong_answers.json").read_text(encoding="utf-8"))
ANYTHING = [f"lambda *given: {value}" for value in ("()", "0", "''", "False")]  # to get rid of the question
ASK = """_said = []
for _number, _answer, _call in {asked!r}:
    try:
        _said.append([_number, _answer, str(eval(_call)), False])
    except Exception as _error:
        _said.append([_number, _answer, f"{{type(_error).__name__}}: {{_error}}", True])"""


class Exercise(NamedTuple):
    cell: NotebookNode
    question: str
    solution: str | None


def find_exercises(notebook: NotebookNode) -> list[Exercise]:
    """The exercises of a notebook in their order; none where it has no Exercises section."""
    found, question = [], None
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], nbformat.v4.new_markdown_cell()], strict=True):
        if cell.cell_type == "markdown" and HEADING.search(cell.source):
            question = HEADING.split(cell.source)[-1]
        elif question is not None and cell.cell_type == "code":
            folded = SOLUTION.search(after.source) if after.cell_type == "markdown" else None
            blocks = BLOCK.findall(folded[1]) if folded else []
            found.append(Exercise(cell, question, blocks[0].rstrip("\n") if len(blocks) == 1 else None))
        elif question is not None:
            question = SOLUTION.sub("", cell.source)
            if re.search(r"^## ", question, re.M):
                break
    return found


def stub(solution: str) -> str:
    """The head and docstring of each function of a solution, and `...` for the reader; ValueError where it has none."""
    try:
        body = ast.parse(solution).body
    except SyntaxError as error:
        raise ValueError(f"the solution is not Python: {error}") from error
    if not body or not all(isinstance(node, ast.FunctionDef) for node in body):
        raise ValueError("the solution holds something else than functions: put it into one of them")
    lines, parts = solution.splitlines(), []
    for node in body:
        if not ast.get_docstring(node) or len(node.body) == 1:
            raise ValueError(f"{node.name} of the solution needs a docstring that says what it returns, and a body")
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        head = lines[first - 1:node.body[0].end_lineno]
        parts.append("\n".join([*head, " " * node.body[0].col_offset + EMPTY]))
    return "\n\n".join(parts)


def put(source: str, text: str) -> str:
    """The code cell `source` with `text` in place of its stubs; where it has none, before its first function."""
    place = STUBS if STUBS.search(source) else re.compile(r"^(?=@|def )", re.M)
    return place.sub(lambda _: f"{text}\n\n", source, count=1)


def problems(notebook: NotebookNode) -> list[str]:
    """What is wrong with the exercises of a notebook, one sentence each; empty where all is well."""
    found = find_exercises(notebook)
    wrong = [] if 4 <= len(found) <= 6 else [f"{len(found)} exercises, expected four to six"]
    return wrong + [f"exercise {k}: {what}" for k, exercise in enumerate(found, 1) for what in problems_of(exercise, k)]


def problems_of(exercise: Exercise, number: int) -> list[str]:
    wrong = []
    if not re.search(rf"^\*\*{number}\. [^*]+\*\*", exercise.question, re.M):
        wrong.append(f"the text before it has no '**{number}. Title.**'")
    if exercise.solution is None:
        return [*wrong, "no solution: the next cell begins with none, or it has not exactly one block of Python"]
    try:
        wanted, cell = stub(exercise.solution), ast.parse(exercise.cell.source).body
    except (ValueError, SyntaxError) as error:
        return [*wrong, str(error)]
    names = [node.name for node in ast.parse(exercise.solution).body]
    call = cell[-1].value if isinstance(cell[-1], ast.Expr) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != f"check_{number}":
        wrong.append(f"no check: its last line is not check_{number}(…)")
    elif sorted(ast.unparse(argument) for argument in call.args) != sorted(names):
        wrong.append(f"{ast.unparse(call)}, but the solution defines {', '.join(names)}")
    if put(exercise.cell.source, wanted) != exercise.cell.source:
        wrong.append("the stub is not the one of the solution: python book/tools/exercises.py")
    return wrong


def asked(notebook: NotebookNode, name: str) -> list[list]:
    """What is asked after a run of the notebook: [number, answer, call of the check]."""
    found = []
    for k, exercise in enumerate(find_exercises(notebook), 1):
        wrong = ANYTHING + WRONG.get(name[:2], {}).get(str(k), [])
        found += [[k, "solution", exercise.cell.source.splitlines()[-1]], *([k, a, f"check_{k}({a})"] for a in wrong)]
    return found


def questions(notebook: NotebookNode, name: str) -> list[NotebookNode]:
    """Three cells for the end of a run. The last prints [number, answer, what was said, is an error] of all asked."""
    solutions = "\n\n".join(exercise.solution or "" for exercise in find_exercises(notebook))
    ask = ASK.format(asked=asked(notebook, name))
    return [new_code_cell(source) for source in (solutions, ask, "import json\nprint(json.dumps(_said))")]


def read_answers(path: Path, folder: Path, stamp: str) -> list[list] | None:
    """What the run in `folder` of the notebook at `path` has found; None where another was run, or asked, or none."""
    if not (record := folder / f"{path.stem}.answers.json").is_file():
        return None
    found, wanted = json.loads(record.read_text(encoding="utf-8")), asked(nbformat.read(path, 4), path.name)
    same = found["stamp"] == stamp and [entry[:2] for entry in found["answers"]] == [entry[:2] for entry in wanted]
    return found["answers"] if same else None


def write_stubs(notebook: NotebookNode) -> None:
    """Make, in place, each stub from its solution, where that is possible; `problems` says where it is not."""
    for exercise in find_exercises(notebook):
        with contextlib.suppress(ValueError):
            exercise.cell.source = put(exercise.cell.source, stub(exercise.solution or ""))


if __name__ == "__main__":
    wrong = []
    for path in sorted(ROOT.glob("notebooks/*.ipynb")):
        if find_exercises(notebook := nbformat.read(path, 4)):
            write_stubs(notebook)
            nbformat.write(notebook, path)
            wrong += [f"{path.name}: {problem}" for problem in problems(notebook)]
    sys.exit("\n".join(wrong) or None)
