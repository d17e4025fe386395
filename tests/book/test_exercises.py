"""The exercises: made from their solutions, and every solution passes its check, in every chapter."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from exercises import find_exercises, needed_only, problems, put, statements, stub, with_solutions, write_stubs
from notebooks import CELL_TIMEOUT, START_TIMEOUT, all_notebooks

CHAPTERS = [path for path in all_notebooks() if re.match(r"0[1-5]_", path.name)
            or find_exercises(nbformat.read(path, as_version=4))]
UNANSWERED = "not answered yet"
EMPTY = ["()", "0", "''", "False"]  # what somebody may return to get rid of the question

# Answers that somebody may give, by chapter and number of the exercise. Each has to get a hint.
WRONG = {
    "00": {4: ["lambda hidden: by_width(64)", "lambda hidden: (0.1, 0.9)"]},
    "01": {
        1: ["lambda: (33, 8)", "lambda: 33"],
        2: ["lambda: (True,) * 5", "lambda: 'TTTFF'", "lambda: (True, True, True, False)"],
        3: ["lambda share: (share, share)", "lambda share: share"],
        4: ["lambda width: 100", "lambda width: 1", "lambda width: 83.5"],
        5: ["lambda: ([np.zeros((64, 64), bool)] * 2, [np.zeros((64, 64))] * 2)", "lambda: ([], [])",
            "lambda: ([np.eye(64, dtype=bool)] * 2, [np.eye(64)] * 2)"],
        6: ["lambda detectors, pictures: 0.0", "lambda detectors, pictures: 0.02 * detectors",
            "lambda detectors, pictures: [0.1]"],
    },
    "02": {
        1: ["lambda alpha: round(1 / alpha)", "lambda alpha: 0", "lambda alpha: 998.5"],
        2: ["lambda: (0.5, [0.0, 1.0], [0.0])", "lambda: (2.0, [0.0, 1.0], [])", "lambda: (2.0, [0.0, 1.0], [7.0])"],
        3: ["lambda b: (0.0, 1.0)", "lambda b: 1.0"],
        4: ["lambda points, k: [1.0] * k", "lambda points, k: [1.0] * (k - 1)"],
        5: ["lambda p: [(0.9, 0.8, 1.0)] * 2", "lambda p: [0.9, 0.8]", "lambda p: [(0.9, 0.95, 1.0)] * 2"],
    },
    "03": {
        1: ["lambda: ((0.6, 0.8), (0.6, 0.8))", "lambda: ((3, 4), (-3, -4))", "lambda: (0.6, 0.8)"],
        2: ["lambda x, u: (x + u) / 2"],
        3: ["lambda b: math.log(2 * b)"],
        4: ["lambda z, plus, minus: minus - plus", "lambda z, plus, minus: z[:3]"],
        5: ["lambda area, seed: 0.5", "lambda area, seed: seen['with SPD']['defects of board'].median().item()"],
    },
    "04": {
        1: ["lambda c: 1.0"],
        2: ["lambda sigma, channels, new_channels: sigma * channels / new_channels"],
        3: ["lambda head: (head.first.weight, head.norm.bias)", "lambda head: (head.norm.bias, head.first.weight)"],
        4: ["lambda sigma: 1.0"],
        5: ["lambda k, whiten: (0.5, 0.5)", "lambda k, whiten: 0.9"],
    },
    "05": {
        1: ["lambda channels, h, w, p: round((1 - p) * channels * h * w)"],
        2: ["lambda region, saturation, found: (found / region, found / region)", "lambda r, s, found: 0.8"],
        3: ["lambda teacher, student, p: hard_feature_loss(teacher, student, p)", "lambda t, s, p: [1.0, 1.0]"],
        4: ["lambda q, h, b: q", "lambda q, h, b: (q - 1 + h**2 / (h + 2 * b) ** 2) / (h**2 / (h + 2 * b) ** 2)"],
        5: ["lambda weight: 0.9", "lambda weight: [0.9] * 5"],
    },
    "06": {4: ["lambda data, seed: (lambda a, b, both: (a, b, a * b))(*misses(data, seed))",
               "lambda data, seed: (misses(data, seed)[0],) * 3"]},
    "08": {6: ["lambda limit: difference_at(0.05)"]},
}

# Shorter trainings, where what a check compares holds after any number of steps.
SHORTER = {"03": "STEPS = 60", "05": "STEPS = 60"}

# ------------------------------------------------------------------ the tool, on small notebooks

SOLUTIONS = [f'def f{k}(x):\n    """Returns x + {k}."""\n    return x + {k}' for k in range(1, 5)]
READ_NEXT = "## What to read next\n\n- A book."


def folded(solution: str) -> str:
    return f"<details><summary>Solution</summary>\n\n```python\n{solution}\n```\n\nBecause.\n\n</details>\n\n"


def question(k: int) -> str:
    return f"**{k}. Title.** What is x + {k}?"


def small() -> NotebookNode:
    """A sound notebook with four exercises after two ordinary cells."""
    cells = [new_markdown_cell("# 1 · Small"), new_code_cell("one = 1\nother = 2\nprint(other)"),
             new_markdown_cell("## 1.2 More\n\nText.\n\n## 1.3 Exercises\n\nAbout them.\n\n" + question(1))]
    for k, solution in enumerate(SOLUTIONS, 1):
        check = (f'def check_{k}(f{k}):\n    if f{k}(1) is None:\n        return "{UNANSWERED}"\n'
                 f'    return "right" if f{k}(one) == {k} + 1 else "wrong"\n\ncheck_{k}(f{k})')
        after = question(k + 1) if k < 4 else READ_NEXT
        cells += [new_code_cell(f"{stub(solution)}\n\n{check}"), new_markdown_cell(folded(solution) + after)]
    return new_notebook(cells=[*cells, new_code_cell("'the end'")])


def test_a_stub_is_heads_and_docstrings() -> None:
    assert stub(SOLUTIONS[0]) == 'def f1(x):\n    """Returns x + 1."""\n    ...  # your answer'
    two = ('@cache\ndef a(x,\n      y=(1, 2)):  # long head\n    """Returns\n    much."""\n'
           '    # how\n    z = 1\n    return z\n\ndef b():\n  "Returns 2."\n\n  return 2')
    assert stub(two) == ('@cache\ndef a(x,\n      y=(1, 2)):  # long head\n    """Returns\n    much."""\n'
                         '    ...  # your answer\n\ndef b():\n  "Returns 2."\n  ...  # your answer')
    assert stub(stub(two).replace("...  # your answer", "pass")) == stub(two)


@pytest.mark.parametrize(("solution", "message"), [
    ("def f(x:\n    return 1", "is not Python"),
    ("", "something else than functions"),
    ("import math\n\n" + SOLUTIONS[0], "something else than functions"),
    ("def f(x):\n    return 1", "f of the solution has no docstring"),
    ('def f(x):\n    """Returns 1."""', "no body"),
    ('def f(x):\n    """Returns 1."""\n    ...', "no body"),
])
def test_unusable_solutions_are_refused(solution: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stub(solution)


def test_stub_and_solution_take_each_others_place() -> None:
    solution = "def a():\n    'Returns 1.'\n    return 1\n\ndef b():\n    'Returns 2.'\n    return 2"
    check = "def check_1(a, b):\n    return 'right'\n\ncheck_1(a, b)"
    for before in ("", "bank = [1]\n\n"):
        cell = f"{before}{stub(solution)}\n\n{check}"
        solved = put(cell, solution, solution)
        assert solved == f"{before}{solution}\n\n{check}"
        assert put(solved, solution, stub(solution)) == cell
        assert put(cell, solution, stub(solution)) == cell
    renamed = solution.replace("def a", "def c")  # the stub of the old name goes, the new one comes
    assert put(cell, renamed, stub(renamed)) == f"{before}{stub(renamed)}\n\n{check}"
    assert put(check, solution, stub(solution)) == f"{stub(solution)}\n\n{check}"


def test_a_sound_notebook_has_no_problem() -> None:
    notebook = small()
    assert len(find_exercises(notebook)) == 4 and problems(notebook) == []
    before = copy.deepcopy(notebook)
    write_stubs(notebook)
    assert notebook == before


def test_a_notebook_without_the_section_has_no_exercises() -> None:
    notebook = small()
    notebook.cells[2].source = notebook.cells[2].source.replace("Exercises", "Excuses")
    assert find_exercises(notebook) == []


def in_cell(index: int, old: str, new: str) -> Callable[[NotebookNode], None]:
    def spoil(notebook: NotebookNode) -> None:
        assert old in notebook.cells[index].source
        notebook.cells[index].source = notebook.cells[index].source.replace(old, new)
    return spoil


def three(notebook: NotebookNode) -> None:
    notebook.cells[8].source = folded(SOLUTIONS[2]) + READ_NEXT
    del notebook.cells[9:11]


def seven(notebook: NotebookNode) -> None:
    for k in (5, 6, 7):
        notebook.cells[-2].source = folded(SOLUTIONS[3].replace("4", str(k - 1))) + question(k)
        cell = new_code_cell(notebook.cells[9].source.replace("4", str(k)))
        notebook.cells[-1:-1] = [cell, new_markdown_cell(folded(SOLUTIONS[3].replace("4", str(k))) + READ_NEXT)]


@pytest.mark.parametrize(("spoil", "message"), [
    (in_cell(3, "your answer", "your turn"), "exercise 1: the stub is not the one"),
    (in_cell(3, "Returns x + 1", "Returns x"), "exercise 1: the stub is not the one"),
    (in_cell(3, "...  # your answer", "return x + 1"), "exercise 1: the stub is not the one"),  # an answer left there
    (in_cell(4, "def f1(x)", "def f1(x, y)"), "exercise 1: the stub is not the one"),
    (in_cell(4, '"""Returns x + 1."""\n', '"""Returns more."""\n'), "exercise 1: the stub is not the one"),
    (in_cell(4, '    """Returns x + 1."""\n', ""), "exercise 1: f1 of the solution has no docstring"),
    (in_cell(4, "Solution</summary>", "Answer</summary>"), "exercise 1: no solution"),
    (in_cell(4, "```python", "```"), "exercise 1: no solution"),
    (in_cell(4, "Because.", "```python\nx = 1\n```"), "exercise 1: no solution"),
    (in_cell(4, "</details>", ""), "exercise 1: no solution"),
    (in_cell(5, "def check_2", "def test_2"), "exercise 2: no check: the cell does not define check_2"),
    (in_cell(5, "\n\ncheck_2(f2)", ""), "exercise 2: no check: its last line is not"),
    (in_cell(5, "\n\ncheck_2(f2)", "\n\ncheck_1(f2)"), "exercise 2: no check: its last line is not"),
    (in_cell(5, "\n\ncheck_2(f2)", "\n\ncheck_2(f1)"), "exercise 2: check_2(f1), but the solution defines f2"),
    (in_cell(5, "def check_2(f2):", "def check_2(f2:"), "exercise 2: "),
    (in_cell(4, "**2. Title.**", "**3. Title.**"), "exercise 2: the text before it has no '**2. Title.**'"),
    (in_cell(4, "What is", "There is no check. What is"), "exercise 2: the text says that there is no check"),
    (three, "3 exercises, expected four to six"),
    (seven, "7 exercises, expected four to six"),
])
def test_each_defect_is_named(spoil: Callable[[NotebookNode], None], message: str) -> None:
    notebook = small()
    spoil(notebook)
    found = problems(notebook)
    assert len(found) == 1 and found[0].startswith(message), found


def test_stubs_are_written_anew() -> None:
    notebook = small()
    in_cell(4, "def f1(x)", "def f1(x, y=2)")(notebook)
    in_cell(6, "Returns x + 2", "Returns a sum")(notebook)
    in_cell(7, "...  # your answer", "return x + 3")(notebook)
    assert len(problems(notebook)) == 3
    write_stubs(notebook)
    assert problems(notebook) == []


def test_solutions_take_the_place_of_stubs() -> None:
    notebook = small()
    before = copy.deepcopy(notebook)
    solved = with_solutions(notebook)
    assert solved.cells[5].source.startswith(SOLUTIONS[1] + "\n\ndef check_2")
    assert notebook == before, "the notebook itself stays as it is"


def test_only_what_is_needed_is_run() -> None:
    notebook = small()
    notebook.cells[1].source = """
import math, this_is_not_needed
base = 0
half = 0.5
base = 0.25; unused = missing
many = []
many.append(half)
table = {}
table["a"] = 1
for i in range(3):
    if i:
        base += i / 4
print(base, missing)
def helper():
    return late + base
early = helper
late = missing
late = 0
late += many[0] + table["a"] - 1.5
one = helper()
one = math.floor(one)
math.cos(one)
@staticmethod
def decorated():
    return one
later = decorated
""".strip()
    short = needed_only(with_solutions(notebook))
    namespace: dict = {}
    ran = "\n".join(cell.source for cell in short.cells)
    for kept in ("import math", "base = 0.25", "many.append", 'table["a"]', "for i in", "late = 0", "late +="):
        assert kept in ran
    for left_out in ("base = 0\n", "print", "early", "late = missing", "math.cos", "decorated", "the end"):
        assert left_out not in ran, left_out
    assert "unused = missing" in ran  # it shares its line
    exec(ran.replace("; unused = missing", "").replace(", this_is_not_needed", ""), namespace)
    assert namespace["one"] == 1 and namespace["check_4"](namespace["f4"]) == "right"


def test_a_statement_is_seen_as_what_it_does() -> None:
    cell = new_code_cell("a.b[0], (c, d) = e\nf[g].h(i), k.l()\nfor m in n:\n    o = m\n"
                         "x = [p for p in q]\nimport r.s as t")
    uses, binds, anew = zip(*((s.uses, s.binds, s.anew) for s in statements(cell)), strict=True)
    assert binds == ({"a", "c", "d"}, {"f", "k"}, {"m", "o"}, {"x"}, {"t"})
    assert uses == ({"a", "e"}, {"f", "g", "i", "k"}, {"n"}, {"q"}, set())
    assert anew == ({"c", "d"}, set(), set(), {"x"}, {"t"})


# ------------------------------------------------------------------ the committed notebooks


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def shown(cell: NotebookNode) -> str:
    """What the call of a check has returned, or the error in its place."""
    for output in reversed(cell.outputs):
        if output.output_type == "error":
            return f"{output.ename}: {output.evalue}"
        if output.output_type == "execute_result":
            return ast.literal_eval(output.data["text/plain"])
    return "nothing"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_exercise_has_drifted(path: Path) -> None:
    assert problems(read(path)) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_exercise_is_answered_as_committed(path: Path) -> None:
    found = {number: shown(e.cell) for number, e in enumerate(find_exercises(read(path)), 1)}
    assert all(text == UNANSWERED for text in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_solution_is_right_and_no_wrong_answer(path: Path) -> None:
    """In a kernel, with the solutions in place, as far as the exercises need the notebook."""
    notebook = with_solutions(read(path))
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += "\n" + SHORTER.get(path.name[:2], "")
    notebook = needed_only(notebook)
    solved = notebook.cells[-len(find_exercises(read(path))):]
    preparing, asked = notebook.cells[:-len(solved)], []
    for number in range(1, len(solved) + 1):
        takes_any = [f"lambda *given: {value}" for value in EMPTY]
        for answer in [*takes_any, *WRONG.get(path.name[:2], {}).get(number, [])]:
            asked.append((number, answer, new_code_cell(f"check_{number}({answer})")))
    notebook.cells += [cell for _, _, cell in asked]
    for cell in notebook.cells:
        cell.outputs = []
    client = NotebookClient(notebook, timeout=CELL_TIMEOUT, startup_timeout=START_TIMEOUT, allow_errors=True,
                            resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    wrong = [f"a cell before the exercises (id {cell.id}): {shown(cell)}" for cell in preparing
             if any(output.output_type == "error" for output in cell.outputs)]
    wrong += [f"exercise {number}: its solution gets '{shown(cell)}'" for number, cell in enumerate(solved, 1)
              if not shown(cell).startswith("right")]
    for number, answer, cell in asked:
        hint, empty = shown(cell), answer.startswith("lambda *given")
        if hint.startswith("right") or hint == UNANSWERED:
            wrong.append(f"exercise {number}: the answer {answer} gets '{hint}'")
        if not empty and any(output.output_type == "error" for output in cell.outputs):
            wrong.append(f"exercise {number}: the answer {answer} gets no hint but {hint}")
    assert not wrong, "\n".join(wrong)
    for number, cell in enumerate(solved, 1):
        print(*(output.text for output in cell.outputs if output.output_type == "stream"), f"{number}: {shown(cell)}")
    print(*(f"{number}: {answer}  ->  {shown(cell)}" for number, answer, cell in asked), sep="\n")
