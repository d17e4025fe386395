"""Run the chapters: for the book (`make book`), and for the outputs that are committed (`make notebooks`).

One run serves both. Papermill runs each chapter with PROFILE = "quick" from a fresh kernel, several at a time with one
thread each, into build/runs/; what the checks of its exercises say to the answers lies beside it (exercises.py). A run
whose stamp fits is not repeated: a hash of the notebook's cell sources and of what computes in `adlib/`.
"""

from __future__ import annotations

import argparse
import ast
import base64
import functools
import hashlib
import io
import json
import multiprocessing
import os
import platform
import re
import sys
import time
import tokenize
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode
from PIL import Image

import exercises
import front
from adlib.files import write_whole
from repository import ROOT, apply, read_repository

RUNS = ROOT / "build" / "runs"
MAX_BYTES = 400_000
CELL_TIMEOUT = 1800  # seconds
START_TIMEOUT = 300  # seconds that a kernel may take to start on a busy machine
WORKERS = max(2, min(4, os.cpu_count() or 2))  # on two cores 1.4 times as fast as one at a time with two threads
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
ADDED = ("papermill", "execution", "widgets", "signature")  # metadata
WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar
# What of an SVG is longer than it need be: where things lie, all but the first and last family of a font, the unseen.
PLACES = re.compile(r'(?<= [dxy]=")[^"]*|(?<= transform=")[^"]*')
FONTS = re.compile(r"(font-family: '[^']*'),[^;\"]*, ([\w-]+)")
UNSEEN = re.compile(r'\s*<metadata>.*?</metadata>|<!-- .*? -->|(?<=<g) id="\w+"|(?<=>)\s+(?=<)', re.S)


def all_notebooks(root: Path = ROOT) -> list[Path]:
    """The notebooks of `root`, in the order of their numbers."""
    return sorted((root / "notebooks").glob("*.ipynb"))


@functools.cache
def code_only(source: str) -> str:
    """Python source without comments, blank lines and docstrings (strings with which a statement begins)."""
    # It is cut out of the text: each version of Python prints a syntax tree in its own way.
    lines, cuts, fresh = source.split("\n"), [], True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and fresh):
            cuts.append((*token.start, *token.end))
        elif token.type != tokenize.NL:
            fresh = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for first, left, last, right in reversed(cuts):
        lines[first - 1:last] = [lines[first - 1][:left] + lines[last - 1][right:]]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def stamp(path: Path) -> str:
    """A SHA-256 over the cell sources of the notebook at `path`, and the code and data of adlib/ beside its folder.

    Compiled and hidden files and Markdown do not count. The lengths of the parts do, and so a line that moves.
    """
    parts = [part.encode() for cell in nbformat.read(path, 4).cells for part in (cell.cell_type, cell.source)]
    package = path.parent.parent / "adlib"
    for file in sorted(package.rglob("*")):
        name = file.relative_to(package)
        if file.is_file() and file.suffix != ".md" and not any(p == "__pycache__" or p[0] == "." for p in name.parts):
            code = code_only(file.read_text(encoding="utf-8")).encode() if file.suffix == ".py" else file.read_bytes()
            parts += [name.as_posix().encode(), code]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()


def about(run: Path) -> dict:
    """What is written into a run: its stamp, and date, seconds and versions. Empty where there is none."""
    return nbformat.read(run, 4).metadata.get("adlib", {}) if run.is_file() else {}


def is_stale(path: Path, run: Path) -> bool:
    """Whether the notebook at `path` or adlib/ is another than when `run` was made."""
    return about(run).get("stamp") != stamp(path)


def few_colours(png: str) -> str:
    """A PNG, in base64, with a palette of 256 colours: a third of the bytes, and a chart looks the same."""
    image, small = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    if image.mode == "P":
        return png
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def few_digits(svg: str) -> str:
    """An SVG of matplotlib with two thirds of the bytes: places to a hundredth of a point; it looks the same."""
    def short(found: re.Match[str]) -> str:
        if "scale" in found[0]:  # a factor is no place
            return found[0]
        places = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{round(float(number[0]), 2):g}", found[0])
        return " ".join(places.split())  # a path has a line for each point

    return UNSEEN.sub("", FONTS.sub(r"\1, \2", PLACES.sub(short, svg)))


def tidy(notebook: NotebookNode) -> None:
    """Remove, in place, what papermill adds and what differs between two runs: parameters, times, progress bars.

    Charts get a palette (`few_colours`), or fewer digits (`few_digits`).
    """
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    notebook.metadata.get("language_info", {}).pop("version", None)
    for part in (notebook, *notebook.cells):
        part.metadata = NotebookNode({k: v for k, v in part.metadata.items() if k not in ADDED and v != []})
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        for data in (output.data for output in cell.outputs if "image/png" in output.get("data", {})):
            data["image/png"] = few_colours(data["image/png"])
        for data in (output.data for output in cell.outputs if "image/svg+xml" in output.get("data", {})):
            data["image/svg+xml"] = few_digits(data["image/svg+xml"])
        for counted in (cell, *(output for output in cell.outputs if "execution_count" in output)):
            counted.execution_count = number


def write(text: str, path: Path) -> None:
    write_whole(path, [content := text.encode()], len(content))


def run_chapter(path: Path, folder: Path) -> str:
    """Run a chapter and the questions to its exercises into `folder`, and say how long it took.

    ValueError with the error of a cell that fails; then nothing is written.
    """
    os.environ.update(ONE_THREAD)
    notebook, now = nbformat.read(path, 4), stamp(path)
    notebook.cells += exercises.questions(notebook, path.name)
    try:
        done = papermill.execute_notebook(notebook, None, {"PROFILE": "quick"}, cwd=path.parent, kernel_name="python3",
                                          progress_bar=False, start_timeout=START_TIMEOUT, coalesce_streams=True,
                                          execution_timeout=CELL_TIMEOUT)
    except Exception as error:  # papermill's and nbclient's own do not survive the way to another process
        raise ValueError(f"{path.name} failed: {error}") from None
    answers, done.cells = json.loads(done.cells[-1].outputs[0].text), done.cells[:-3]  # what `questions` has added
    seconds = round(sum(cell.metadata.papermill.duration or 0 for cell in done.cells))
    tidy(done)
    done.metadata["adlib"] = {"stamp": now, "run": {
        "date": time.strftime("%Y-%m-%d", time.gmtime()), "seconds": seconds, "python": platform.python_version(),
        "torch": metadata.version("torch"), "cores": os.cpu_count()}}
    write(json.dumps({"stamp": now, "answers": answers}, indent=1), folder / f"{path.stem}.answers.json")
    write(nbformat.writes(done) + "\n", folder / path.name)
    return f"{path.name}: {seconds} s"


def run_chapters(folder: Path = RUNS, chapters: list[Path] | None = None) -> list[Path]:
    """Run the chapters (default: all) that do not lie in `folder` with the right stamp, and return the paths there.

    Where one fails the others still run and stay; then SystemExit.
    """
    chapters = all_notebooks() if chapters is None else chapters
    folder.mkdir(parents=True, exist_ok=True)
    due = [path for path in chapters if is_stale(path, folder / path.name)
           or exercises.read_answers(path, folder, stamp(path)) is None]
    due.sort(key=lambda path: -about(path).get("run", {}).get("seconds", 999))  # the longest first
    # Processes, since papermill changes the working folder of its own.
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(run_chapter, path, folder) for path in due]
        for run in as_completed(runs):
            print(str(run.exception() or run.result()).split("\n")[0], flush=True)  # the error comes at the end
    if failed := [str(run.exception()) for run in runs if run.exception()]:
        sys.exit("\n".join(failed))
    return [folder / path.name for path in chapters]


def hidden_figures(source: str) -> bool:
    """Whether a call of `plots` has a figure that nobody sees: only the last expression of a cell shows itself."""
    body = ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.M)).body
    return any(isinstance(node, ast.Expr) and ast.unparse(node).startswith("plots.") and node is not body[-1]
               for statement in body for node in ast.walk(statement))


def check_notebook(path: Path) -> list[str]:
    """What is wrong with a committed notebook, in a folder beside adlib/; empty for a sound one."""
    try:
        nbformat.validate(notebook := nbformat.read(path, 4))
    except Exception as error:  # nbformat raises several kinds, and each means the same here
        return [f"{path.name}: cannot be read as a notebook: {error}"]
    code = [c for c in notebook.cells if c.cell_type == "code"]
    found = {
        f"is larger than {MAX_BYTES // 1000} kB: make its pictures smaller": path.stat().st_size > MAX_BYTES,
        "its stamp is stale, the notebook or adlib/ has changed after the run: make notebooks": is_stale(path, path),
        "no cell is tagged 'parameters'": not any("parameters" in cell.metadata.get("tags", []) for cell in code)}
    for number, cell in enumerate(code, 1):
        shows = re.search(r"^(print|display|plt\.show)\(", cell.source, re.M)
        found |= {f"code cell {number} {what}": is_so for what, is_so in {
            "is empty: delete it": not cell.source.strip(),
            "was not run in order from a fresh kernel: make notebooks": cell.execution_count != number,
            "ended in an error": any(o.output_type == "error" for o in cell.outputs),
            "printed a warning, which readers would see: mend its cause": any(
                o.output_type == "stream" and o.name == "stderr" for o in cell.outputs),
            "should show something, but its output is missing": shows and not cell.outputs,
            "draws a figure but does not show it: make it the last expression": hidden_figures(cell.source),
        }.items()}
    return [f"{path.name}: {what}" for what, is_so in found.items() if is_so]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="file names in notebooks/; default: all")
    parser.add_argument("--stale", action="store_true", help="only those that have changed, or adlib/ with them")
    given, known = parser.parse_args(), {path.name: path for path in all_notebooks()}
    if unknown := [name for name in given.names if Path(name).name not in known]:
        sys.exit(f"notebooks/: expected one of {sorted(known)}, got {unknown}")
    chosen = [known[Path(name).name] for name in given.names] or list(known.values())
    for path in chosen:  # the address may have changed
        notebook = nbformat.read(path, 4)
        apply(notebook, path.name, read_repository())
        write(nbformat.writes(notebook) + "\n", path)
    chosen = [path for path in chosen if not given.stale or is_stale(path, path)]
    for path, run in zip(chosen, run_chapters(RUNS, chosen), strict=True):
        write(run.read_text(encoding="utf-8"), path)
    front.write_readme()  # which says how long they took
    if problems := [problem for path in chosen for problem in check_notebook(path)]:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
