"""Run the notebooks and write the outputs that are committed: what `make notebooks` does.

Each notebook runs in order, from a fresh kernel, with `notebooks/` as its working folder. What
changes from run to run (times, progress bars) is removed, and a stamp is written: a hash of the
notebook's cell sources and of all files of `adlib/`. `check_notebook` refuses a notebook whose stamp
no longer fits, or that was not run whole and in order.

    python book/tools/notebooks.py                      # all of them
    python book/tools/notebooks.py 02_patchcore.ipynb   # one
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import platform
import re
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from repository import ROOT, badge, read_repository, setup_cell

MAX_BYTES = 400_000
CELL_TIMEOUT = 1800  # seconds
START_TIMEOUT = 300  # seconds that a kernel may take to start on a busy machine
WIDGET = "application/vnd.jupyter.widget-view+json"
# A line of tqdm's: "37%|███▋      | 3/8 [00:01<00:02,  2.11it/s]", "3it [00:01,  2.1it/s]", or its
# two-line warning that it draws no widget here.
PROGRESS = re.compile(r"\d+%\|.*\||\d+it \[|[0-9?.]+ ?(?:it/s|s/it)\b|TqdmWarning|\bfrom \.autonotebook import ")


def all_notebooks(root: Path = ROOT) -> list[Path]:
    """The notebooks of `root`, in the order of their numbers."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def stamp(notebook: NotebookNode, package: Path) -> str:
    """A SHA-256 over the cell sources of `notebook` and every file of the folder `package`.

    Compiled files do not count. Each part goes in with its length, so that a line which moves from
    one cell to the next changes the stamp.
    """
    digest = hashlib.sha256()

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "big") + data)

    for cell in notebook.cells:
        add(cell.cell_type.encode())
        add(cell.source.encode())
    for path in sorted(package.rglob("*"), key=lambda p: p.relative_to(package).as_posix()):
        hidden = any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(package).parts)
        if path.is_file() and not hidden:
            add(path.relative_to(package).as_posix().encode())
            add(path.read_bytes())
    return digest.hexdigest()


def without_progress(output: Any) -> Any | None:
    """The output of a cell without progress bars; None where nothing else is in it."""
    if WIDGET in output.get("data", {}):
        return None
    if output.output_type == "stream" and output.name == "stderr":
        lines = re.split(r"[\r\n]", output.text)
        output.text = "\n".join(line for line in lines if line.strip() and not PROGRESS.search(line))
        return output if output.text else None
    return output


def strip_volatile(notebook: NotebookNode) -> None:
    """Remove, in place, what differs between two runs of the same notebook: times, widgets, progress bars."""
    for key in ("papermill", "widgets", "signature"):
        notebook.metadata.pop(key, None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := without_progress(output)) is not None]


def drop_injected(notebook: NotebookNode) -> None:
    """Remove, in place, the cell that papermill adds for the parameters it was given."""
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]


def run_record(seconds: float) -> dict[str, Any]:
    """What the book's run status says of a run that ends now."""
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "seconds": round(seconds),
            "python": platform.python_version(), "torch": metadata.version("torch"), "cores": os.cpu_count()}


def run(path: Path) -> float:
    """Run the notebook at `path`, write it back with outputs and stamp, and return the seconds it took.

    A cell that fails raises nbclient.exceptions.CellExecutionError, and the file stays as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    client = NotebookClient(notebook, timeout=CELL_TIMEOUT, startup_timeout=START_TIMEOUT, coalesce_streams=True,
                            resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    strip_volatile(notebook)
    seconds = time.monotonic() - start
    notebook.metadata["adlib"] = {"stamp": stamp(notebook, path.parent.parent / "adlib"), "run": run_record(seconds)}
    nbformat.write(notebook, path)
    return seconds


def expects_output(source: str) -> bool:
    """Whether a cell's source surely shows something: a `print`, `display` or `plt.show` that is not
    under a condition, or a value on its last line."""
    # A magic is not Python, and one of them shows something or not.
    lines = [re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in source.splitlines()]
    try:
        body = ast.parse("\n".join(lines)).body
    except SyntaxError:
        return False
    if not body:
        return False
    last = body[-1]
    if isinstance(last, ast.Expr) and not isinstance(last.value, (ast.Call, ast.Constant)):
        if not source.rstrip().endswith(";"):
            return True
    statements = list(body)
    for statement in body:
        if isinstance(statement, ast.With):
            statements += statement.body
    calls = [s.value.func for s in statements if isinstance(s, ast.Expr) and isinstance(s.value, ast.Call)]
    return any(ast.unparse(call) in ("print", "display", "plt.show") for call in calls)


def hidden_figures(source: str) -> list[str]:
    """Calls of `plots` whose figure nobody sees: it shows itself only as the last expression of its cell."""
    try:
        body = ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.M)).body
    except SyntaxError:
        return []
    shown = body[-1] if body else None
    drawn = [node for statement in body for node in ast.walk(statement) if isinstance(node, ast.Expr)
             and isinstance(node.value, ast.Call) and ast.unparse(node.value.func).startswith("plots.")]  # fmt: skip
    return [ast.unparse(node.value.func) for node in drawn if node is not shown]


def check_notebook(path: Path) -> list[str]:
    """What is wrong with a committed notebook, one sentence each; empty for a sound one.

    The notebook lies in `notebooks/` of a tree that also has `adlib/` and `_config.yml`.
    """
    root = path.parent.parent
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises several kinds, and each means the same here
        return [f"{path.name}: cannot be read as a notebook: {error}"]
    problems = []
    size = path.stat().st_size
    if size > MAX_BYTES:
        problems.append(f"is {size / 1000:.0f} kB, more than {MAX_BYTES // 1000} kB: make its pictures smaller")
    if notebook.metadata.get("adlib", {}).get("stamp") != stamp(notebook, root / "adlib"):
        problems.append("its stamp is stale, since the notebook or adlib/ has changed after the run: make notebooks")

    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    problems += [f"an empty code cell (id {cell.get('id')}): delete it"
                 for cell in notebook.cells if cell.cell_type == "code" and not cell.source.strip()]
    for number, cell in enumerate(code, 1):
        where = f"code cell {number}"
        if cell.execution_count is None:
            problems.append(f"{where} was not run")
        elif cell.execution_count != number:
            problems.append(f"{where} was run as number {cell.execution_count}: run all cells in order, fresh kernel")
        if any(output.output_type == "error" for output in cell.outputs):
            problems.append(f"{where} ended in an error")
        if any(output.output_type == "stream" and output.name == "stderr" for output in cell.outputs):
            problems.append(f"{where} printed a warning, which readers would see: mend its cause")
        problems += [f"{where} draws with {name} but does not show it: make it the last expression"
                     for name in hidden_figures(cell.source)]
        tags = cell.metadata.get("tags", [])
        if not cell.outputs and ("nbval-check-output" in tags or expects_output(cell.source)):
            problems.append(f"{where} should show something, but its output is missing")
        if "injected-parameters" in tags:
            problems.append(f"{where} was injected by papermill: delete it")

    if not any("parameters" in cell.metadata.get("tags", []) for cell in code):
        problems.append("no cell is tagged 'parameters'")
    problems += check_addresses(notebook, path.name, root)
    return [f"{path.name}: {problem}" for problem in problems]


def check_addresses(notebook: NotebookNode, name: str, root: Path) -> list[str]:
    """Whether set-up cell and Colab badge are there and say what `_config.yml` says."""
    repository, problems = read_repository(root), []
    installs = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "%pip install" in cell.source]
    if not installs:
        problems.append("no set-up cell, the one that installs adlib")
    elif installs != [setup_cell(repository)]:
        problems.append("the set-up cell is not the one for the address in _config.yml: book/tools/repository.py")
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    if "colab-badge.svg" not in text:
        problems.append("no Colab badge")
    elif badge(repository, name) not in text:
        problems.append("the Colab badge is not the one for the address in _config.yml: book/tools/repository.py")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description="Run notebooks and write the outputs that are committed.")
    parser.add_argument("names", nargs="*", help="file names in notebooks/; default: all")
    names = parser.parse_args().names
    known = {path.name: path for path in all_notebooks()}
    unknown = [name for name in names if Path(name).name not in known]
    if unknown or not known:
        sys.exit(f"notebooks/: expected one of {sorted(known)}, got {unknown or 'no notebook at all'}")
    problems = []
    for path in [known[Path(name).name] for name in names] or list(known.values()):
        print(f"{path.name} …", flush=True)
        print(f"{path.name}: {run(path):.0f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)
        problems += check_notebook(path)
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
