"""The exercises of the chapters: what a reader finds in the notebook is made from the published solution.

In the section "N.x Exercises" every code cell is one exercise. The text cell before it ends with the
question, under `**k. Title.**`. The text cell after it begins with the solution, folded in `<details>`: one
block of Python with nothing in it but functions, each with a docstring that says what it returns. The code
cell holds the same functions without their bodies (the stub), the function `check_k`, and, on its last line,
the call `check_k(function)`, which gives "not answered yet", "right", or a hint.

    python book/tools/exercises.py    # write all stubs anew from the solutions, and say what is wrong
"""

from __future__ import annotations

import ast
import copy
import re
import symtable
import sys
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode

from notebooks import all_notebooks

HEADING = re.compile(r"^## [\d.]+ Exercises$", re.M)
SOLUTION = re.compile(r"\A<details><summary>Solution</summary>\n(.*?)^</details>$", re.M | re.S)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
EMPTY = "...  # your answer"


class Exercise(NamedTuple):
    cell: NotebookNode  # the code cell
    index: int  # its place in the notebook
    question: str
    solution: str | None  # the code alone


def find_exercises(notebook: NotebookNode) -> list[Exercise]:
    """The exercises of a notebook in their order; none where it has no Exercises section."""
    cells = [*notebook.cells, nbformat.v4.new_markdown_cell("")]
    start = next((i for i, c in enumerate(cells) if c.cell_type == "markdown" and HEADING.search(c.source)), None)
    if start is None:
        return []
    found, question = [], HEADING.split(cells[start].source)[-1]
    for index in range(start + 1, len(cells) - 1):
        cell, after = cells[index], cells[index + 1]
        if cell.cell_type == "code":
            folded = SOLUTION.search(after.source) if after.cell_type == "markdown" else None
            blocks = BLOCK.findall(folded.group(1)) if folded else []
            found.append(Exercise(cell, index, question, blocks[0].rstrip("\n") if len(blocks) == 1 else None))
        else:
            question = SOLUTION.sub("", cell.source)
            if re.search(r"^## ", question, re.M):
                break
    return found


def functions(source: str) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


def first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(d.lineno for d in node.decorator_list)])


def stub(solution: str) -> str:
    """The head and the docstring of each function of a solution, and `...` for the reader's part.

    A solution from which no stub can be made raises ValueError with the reason.
    """
    try:
        body = ast.parse(solution).body
    except SyntaxError as error:
        raise ValueError(f"the solution is not Python: {error}") from error
    if not body or not all(isinstance(node, ast.FunctionDef) for node in body):
        raise ValueError("the solution holds something else than functions: put it into one of them")
    lines, parts = solution.splitlines(), []
    for node in body:
        if not ast.get_docstring(node):
            raise ValueError(f"{node.name} of the solution has no docstring that says what it returns")
        if len(node.body) == 1 or is_empty(node):
            raise ValueError(f"{node.name} of the solution has no body")
        head = lines[first_line(node) - 1:node.body[0].end_lineno]
        parts.append("\n".join([*head, " " * node.body[0].col_offset + EMPTY]))
    return "\n\n".join(parts)


def is_empty(node: ast.FunctionDef) -> bool:
    """Whether nothing but `...` follows the docstring, if there is one."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return len(body) == 1 and ast.unparse(body[0]) == "..."


def put(source: str, solution: str, text: str) -> str:
    """The code cell `source` with `text` in place of the functions that the solution defines, and of old stubs.

    Where there are none, `text` goes before the first function, which is then part of the check.
    """
    lines, present = source.splitlines(), functions(source)
    names = {node.name for node in functions(solution)}
    old = [node for node in present if node.name in names or is_empty(node)]
    place = first_line((old or present)[0]) - 1 if present else len(lines)
    if not old:
        return "\n".join([*lines[:place], *text.splitlines(), "", *lines[place:]])
    for node in reversed(old):
        end = node.end_lineno
        while node is not old[0] and end < len(lines) and not lines[end].strip():
            end += 1  # the blank lines that parted it from the next function
        del lines[first_line(node) - 1:end]
    return "\n".join([*lines[:place], *text.splitlines(), *lines[place:]])


def problems(notebook: NotebookNode) -> list[str]:
    """What is wrong with the exercises of a notebook, one sentence each; empty where all is well."""
    found = find_exercises(notebook)
    wrong = [] if 4 <= len(found) <= 6 else [f"{len(found)} exercises, expected four to six"]
    for number, exercise in enumerate(found, 1):
        wrong += [f"exercise {number}: {problem}" for problem in problems_of(exercise, number)]
    return wrong


def problems_of(exercise: Exercise, number: int) -> list[str]:
    wrong, check = [], f"check_{number}"
    if not re.search(rf"^\*\*{number}\. [^*]+\*\*", exercise.question, re.M):
        wrong.append(f"the text before it has no '**{number}. Title.**'")
    if re.search(r"\bno (self-)?check\b", exercise.question, re.I):
        wrong.append("the text says that there is no check")
    if exercise.solution is None:
        return [*wrong, "no solution: the next cell begins with none, or it has not exactly one block of Python"]
    try:
        wanted = stub(exercise.solution)
        cell = ast.parse(exercise.cell.source)
    except (ValueError, SyntaxError) as error:
        return [*wrong, str(error)]
    if check not in {node.name for node in functions(exercise.cell.source)}:
        return [*wrong, f"no check: the cell does not define {check}"]
    call = cell.body[-1].value if isinstance(cell.body[-1], ast.Expr) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != check:
        wrong.append(f"no check: its last line is not {check}(…)")
    elif {ast.unparse(a) for a in call.args} != (names := {node.name for node in functions(exercise.solution)}):
        wrong.append(f"{ast.unparse(call)}, but the solution defines {', '.join(sorted(names))}")
    if put(exercise.cell.source, exercise.solution, wanted) != exercise.cell.source:
        wrong.append("the stub is not the one of the solution: python book/tools/exercises.py")
    return wrong


def write_stubs(notebook: NotebookNode) -> None:
    """Make, in place, each stub from its solution, where that is possible."""
    for exercise in find_exercises(notebook):
        if exercise.solution is not None:
            try:
                exercise.cell.source = put(exercise.cell.source, exercise.solution, stub(exercise.solution))
            except (ValueError, SyntaxError):
                continue  # `problems` has the reason


def with_solutions(notebook: NotebookNode) -> NotebookNode:
    """A copy in which the solutions stand where the reader would write."""
    solved = copy.deepcopy(notebook)
    for exercise in find_exercises(solved):
        exercise.cell.source = put(exercise.cell.source, exercise.solution, exercise.solution)
    return solved


# ------------------------------------------------------------------ a shorter run


class Statement(NamedTuple):
    """A statement of a cell, with the global names that it uses, that it may change, and that it surely binds anew."""

    cell: str  # the cell's id
    text: str
    uses: set[str]
    binds: set[str]
    anew: set[str]


def statements(cell: NotebookNode) -> list[Statement]:
    """The statements of a code cell.

    One changes a name by binding it, by assigning to an attribute or an item of it, or by a call of its method
    that stands alone, as `many.append(…)`. What a function does to its arguments is not seen: random numbers
    that an earlier statement has drawn from a shared generator, for instance.
    """
    lines, found = cell.source.splitlines(), []
    for node in ast.parse(cell.source).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        text = "\n".join(lines[first - 1:node.end_lineno])
        tables = [symtable.symtable(text, "cell", "exec")]
        for table in tables:
            tables += table.get_children()
        uses = {s.get_name() for t in tables for s in t.get_symbols()
                if s.is_referenced() and (t is tables[0] or s.is_global())}
        bound = {s.get_name() for s in tables[0].get_symbols() if s.is_assigned() or s.is_imported()}
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.For) else []
        anew = {part.id for target in targets for part in ast.walk(target)
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        if isinstance(node, ast.For):  # the loop gives its names values before it uses them
            uses, anew = uses - anew, set()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
            anew = bound
        found.append(Statement(cell.id, text, uses, bound | changed(node), anew))
    return found


def changed(statement: ast.stmt) -> set[str]:
    """The names of which a statement assigns to a part, or calls a method for no value."""
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            names.add(root(node))
        if isinstance(node, ast.Expr):
            alone = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            names |= {root(part.func) for part in alone
                      if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute)}
    return names


def root(node: ast.AST) -> str:
    """The name at which an expression such as `a.b[0].c()` starts; empty where it starts with none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def needed_only(notebook: NotebookNode) -> NotebookNode:
    """A copy with the exercises and only those earlier statements on which they depend, for a faster run.

    The names are followed backwards from the exercises. A statement that is missed is loud: a name is not
    defined, or a check does not say "right". Cells with magics stay whole.
    """
    short = copy.deepcopy(notebook)
    found = find_exercises(short)
    cells = [c for c in short.cells[:found[0].index] if c.cell_type == "code"]
    plain = [c for c in cells if not re.search(r"^\s*[%!]", c.source, re.M)]
    pieces = [piece for cell in plain for piece in statements(cell)]
    functions_use: dict[str, set[str]] = {}  # a function reads its global names where it is called
    modules = {name for piece in pieces if re.match(r"(from|import) ", piece.text) for name in piece.anew}
    for piece in pieces:
        if re.match(r"(@|def |class )", piece.text):
            for name in piece.anew:
                functions_use.setdefault(name, set()).update(piece.uses)

    def with_functions(names: set[str]) -> set[str]:
        while more := set().union(*(functions_use.get(name, set()) for name in names)) - names:
            names = names | more
        return names

    wanted = with_functions({name for e in found for piece in statements(e.cell) for name in piece.uses})
    kept: list[Statement] = []
    for piece in reversed(pieces):
        if piece.binds & wanted - (modules - piece.anew):  # `plots.show(…)` does not change plots
            wanted = (wanted - piece.anew) | with_functions(piece.uses)
            kept.insert(0, piece)
    for cell in plain:
        cell.source = "\n".join(piece.text for piece in kept if piece.cell == cell.id)
    short.cells = [c for c in [*cells, *(e.cell for e in found)] if c.source.strip()]
    return short


def main() -> None:
    wrong = []
    for path in all_notebooks():
        notebook = nbformat.read(path, as_version=4)
        if not find_exercises(notebook):
            continue
        before = copy.deepcopy(notebook)
        write_stubs(notebook)
        if notebook != before:
            nbformat.write(notebook, path)
            print(f"{path.name}: stubs written")
        wrong += [f"{path.name}: {problem}" for problem in problems(notebook)]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
