"""The tools that run, stamp and check notebooks, on small notebooks made here, and the committed notebooks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from notebooks import (
    MAX_BYTES,
    START_TIMEOUT,
    all_notebooks,
    check_notebook,
    expects_output,
    hidden_figures,
    run,
    stamp,
    strip_volatile,
)
from repository import ROOT, Repository, badge, setup_cell

HERE = Repository("https://github.com/someone/adlib", "v1.2.3")
NAME = "02_small.ipynb"


def small_notebook() -> NotebookNode:
    """A sound notebook as it is before its run."""
    notebook = new_notebook(cells=[
        new_markdown_cell("# Small\n\n" + badge(HERE, NAME)),
        new_code_cell(setup_cell(HERE)),
        new_code_cell('PROFILE = "quick"\nSEED = 0', metadata={"tags": ["parameters"]}),
        new_code_cell("print(1 + 1)", metadata={"tags": ["nbval-check-output"]}),
    ])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


def executed(notebook: NotebookNode, tree: Path) -> NotebookNode:
    """`notebook` as it is after its run, without a kernel: counts, output and stamp filled in."""
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
        if "print" in cell.source:
            cell.outputs = [new_output("stream", name="stdout", text="2\n")]
    notebook.metadata["adlib"] = {"stamp": stamp(notebook, tree / "adlib")}
    return notebook


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a package, a configuration and a folder for notebooks."""
    (tmp_path / "adlib" / "weights").mkdir(parents=True)
    (tmp_path / "adlib" / "__init__.py").write_text("value = 1\n")
    (tmp_path / "adlib" / "weights" / "w.bin").write_bytes(b"\0\1")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").write_text(f"repository:\n  url: {HERE.url}\n  branch: {HERE.tag}\n")
    return tmp_path


def write(notebook: NotebookNode, tree: Path) -> Path:
    path = tree / "notebooks" / NAME
    nbformat.write(notebook, path)
    return path


def test_sound_notebook_is_accepted(tree: Path) -> None:
    assert check_notebook(write(executed(small_notebook(), tree), tree)) == []


# Each takes a sound notebook, spoils it in one way, and is refused for that way alone. `restamp` says
# that the stamp is made again afterwards, so that it is not the stamp that the check stumbles over.
def swap_counts(n: NotebookNode) -> None:
    n.cells[2].execution_count, n.cells[3].execution_count = 3, 2


def fresh_kernel_missing(n: NotebookNode) -> None:
    for cell in n.cells[1:]:
        cell.execution_count += 7


def not_run(n: NotebookNode) -> None:
    n.cells[2].execution_count = None


def with_error(n: NotebookNode) -> None:
    n.cells[3].outputs.append(new_output("error", ename="ValueError", evalue="no", traceback=[]))


def output_missing(n: NotebookNode) -> None:
    n.cells[3].outputs = []


def with_warning(n: NotebookNode) -> None:
    n.cells[3].outputs.append(new_output("stream", name="stderr", text="UserWarning: old\n"))


def too_large(n: NotebookNode) -> None:
    n.cells[3].outputs.append(new_output("display_data", data={"image/png": "A" * MAX_BYTES}))


def no_parameters(n: NotebookNode) -> None:
    n.cells[2].metadata["tags"] = []


def injected(n: NotebookNode) -> None:
    n.cells[2].metadata["tags"].append("injected-parameters")


def no_setup(n: NotebookNode) -> None:
    n.cells[1].source = "import adlib"


def other_setup(n: NotebookNode) -> None:
    n.cells[1].source = setup_cell(HERE._replace(tag="v9.9.9"))


def setup_upgrades(n: NotebookNode) -> None:
    n.cells[1].source = n.cells[1].source.replace("-q", "-q -U")


def no_badge(n: NotebookNode) -> None:
    n.cells[0].source = "# Small"


def other_badge(n: NotebookNode) -> None:
    n.cells[0].source = badge(HERE._replace(url="https://github.com/other/adlib"), NAME)


def badge_of_another(n: NotebookNode) -> None:
    n.cells[0].source = badge(HERE, "03_other.ipynb")


def changed_source(n: NotebookNode) -> None:
    n.cells[3].source = "print(2)"


def changed_text(n: NotebookNode) -> None:
    n.cells[0].source += "\n\nOne more sentence."


def no_stamp(n: NotebookNode) -> None:
    del n.metadata["adlib"]


def empty_cell(n: NotebookNode) -> None:
    n.cells.append(new_code_cell("  "))


@pytest.mark.parametrize(("spoil", "restamp", "message"), [
    (swap_counts, True, "was run as number"),
    (fresh_kernel_missing, True, "was run as number"),
    (not_run, True, "was not run"),
    (with_error, True, "ended in an error"),
    (output_missing, True, "output is missing"),
    (with_warning, True, "printed a warning"),
    (too_large, True, "more than 400 kB"),
    (no_parameters, True, "tagged 'parameters'"),
    (injected, True, "injected by papermill"),
    (no_setup, True, "no set-up cell"),
    (other_setup, True, "set-up cell is not the one"),
    (setup_upgrades, True, "set-up cell is not the one"),
    (no_badge, True, "no Colab badge"),
    (other_badge, True, "Colab badge is not the one"),
    (badge_of_another, True, "Colab badge is not the one"),
    (empty_cell, True, "empty code cell"),
    (changed_source, False, "stale"),
    (changed_text, False, "stale"),
    (no_stamp, False, "stale"),
])
def test_each_defect_is_refused(
    tree: Path, spoil: Callable[[NotebookNode], None], restamp: bool, message: str
) -> None:
    notebook = executed(small_notebook(), tree)
    spoil(notebook)
    if restamp:
        notebook.metadata["adlib"] = {"stamp": stamp(notebook, tree / "adlib")}
    problems = check_notebook(write(notebook, tree))
    assert problems and all(problem.startswith(NAME) for problem in problems)
    assert all(message in problem for problem in problems), problems


def test_broken_file_is_refused_by_name(tree: Path) -> None:
    path = tree / "notebooks" / NAME
    path.write_text("{")
    (problem,) = check_notebook(path)
    assert NAME in problem and "cannot be read" in problem


@pytest.mark.parametrize("change", ["edit", "add", "delete", "weights", "rename"])
def test_stamp_follows_the_package(tree: Path, change: str) -> None:
    path = write(executed(small_notebook(), tree), tree)
    package = tree / "adlib"
    if change == "edit":
        (package / "__init__.py").write_text("value = 2\n")
    elif change == "add":
        (package / "new.py").write_text("")
    elif change == "delete":
        (package / "__init__.py").unlink()
    elif change == "weights":
        (package / "weights" / "w.bin").write_bytes(b"\0\2")
    else:
        (package / "__init__.py").rename(package / "other.py")
    assert any("stale" in problem for problem in check_notebook(path))


def test_stamp_ignores_compiled_files_and_outputs(tree: Path) -> None:
    notebook = executed(small_notebook(), tree)
    before = stamp(notebook, tree / "adlib")
    (tree / "adlib" / "__pycache__").mkdir()
    (tree / "adlib" / "__pycache__" / "x.pyc").write_bytes(b"x")
    notebook.cells[3].outputs = []
    assert stamp(notebook, tree / "adlib") == before


def test_stamp_sees_a_line_move_between_cells(tree: Path) -> None:
    first, second = new_notebook(), new_notebook()
    first.cells = [new_code_cell("a\nb"), new_code_cell("c")]
    second.cells = [new_code_cell("a"), new_code_cell("b\nc")]
    assert stamp(first, tree / "adlib") != stamp(second, tree / "adlib")


def test_strip_volatile_keeps_what_counts() -> None:
    notebook = small_notebook()
    notebook.metadata.update(papermill={"duration": 3}, widgets={"state": {}},
                             language_info={"name": "python", "version": "3.11.0"})
    cell = notebook.cells[3]
    cell.metadata["execution"] = {"iopub.status.busy": "now"}
    cell.metadata["papermill"] = {"duration": 1}
    bar = "\r 50%|█████     | 1/2 [00:00<00:00,  9.51it/s]\r100%|██████████| 2/2 [00:00<00:00,  9.60it/s]\n"
    warning = "UserWarning: this one stays\n"
    missing = "auto.py:21: TqdmWarning: IProgress not found.\n  from .autonotebook import tqdm as notebook_tqdm\n"
    cell.outputs = [
        new_output("stream", name="stderr", text=bar),
        new_output("stream", name="stderr", text=missing),
        new_output("stream", name="stderr", text=bar + warning),
        new_output("stream", name="stdout", text="100%|█ printed on purpose\n"),
        new_output("display_data", data={"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}),
        new_output("display_data", data={"image/png": "AAAA"}),
    ]
    strip_volatile(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "version" not in notebook.metadata.language_info
    assert cell.metadata == {"tags": ["nbval-check-output"]}
    assert [o.get("text", o.get("data")) for o in cell.outputs] == [
        warning.strip(), "100%|█ printed on purpose\n", {"image/png": "AAAA"}]


@pytest.mark.parametrize(("source", "expected"), [
    ("print(1)", True),
    ("with x as y:\n    print(y)", True),
    ("x = 1\nx", True),
    ("a.b[0]", True),
    ("plt.show()", True),
    ("x = 1", False),
    ("x;", False),
    ("items.append(1)", False),
    ("if verbose:\n    print(1)", False),
    ("assert x == 1", False),
    ("try:\n    import adlib\nexcept ModuleNotFoundError:\n    %pip install adlib", False),
    ('"""only a string"""', False),
])
def test_expects_output(source: str, expected: bool) -> None:
    assert expects_output(source) is expected


def test_a_run_writes_a_notebook_that_passes(tree: Path) -> None:
    """A real kernel: outputs, counts and stamp are written, and the working folder is notebooks/."""
    notebook = small_notebook()
    notebook.cells.append(new_code_cell("import os\nprint(os.path.basename(os.getcwd()))"))
    path = write(notebook, tree)
    run(path)
    assert check_notebook(path) == []
    done = nbformat.read(path, as_version=4)
    assert done.cells[-1].outputs[0].text == "notebooks\n"
    assert done.cells[-2].outputs[0].text == "2\n"


def test_a_failing_run_leaves_the_file(tree: Path) -> None:
    notebook = small_notebook()
    notebook.cells.append(new_code_cell("raise ValueError('on purpose')"))
    path = write(copy.deepcopy(notebook), tree)
    before = path.read_bytes()
    with pytest.raises(Exception, match="on purpose"):
        run(path)
    assert path.read_bytes() == before


# ------------------------------------------------------------------ the committed notebooks


@pytest.mark.parametrize(("source", "hidden"), [
    ("plots.show(x)", 0), ("x = plots.show(x)\nx", 0), ("%pip install a\nplots.show(x)", 0),
    ("plots.show(x)\nprint(1)", 1), ("if x:\n    plots.roc(y, x)", 1),
    ("for i in x:\n    plots.show(i)\nplots.roc(y, x)", 1),
])
def test_a_figure_that_nobody_sees_is_found(source: str, hidden: int) -> None:
    assert len(hidden_figures(source)) == hidden


def test_there_are_notebooks() -> None:
    assert all_notebooks(), "notebooks/ holds no chapter"


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_committed_notebook(path: Path) -> None:
    assert check_notebook(path) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_other_parameters(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The chapter also runs with another seed and another product: its assertions hold beyond one draw."""
    if path.stem[:2] not in ("01", "02") and not request.config.getoption("--all-notebooks"):
        pytest.skip("chapters 1 and 2 are enough here; --all-notebooks runs all")
    inferred = papermill.inspect_notebook(str(path))
    other: dict[str, object] = {"SEED": int(inferred["SEED"]["default"]) + 1}
    if "CATEGORY" in inferred:  # a reference notebook or the quickstart may have none
        other["CATEGORY"] = "washer" if "fabric" in inferred["CATEGORY"]["default"] else "fabric"
    papermill.execute_notebook(str(path), str(tmp_path / path.name), parameters={"PROFILE": "quick", **other},
                               cwd=str(ROOT / "notebooks"), kernel_name="python3", progress_bar=False,
                               start_timeout=START_TIMEOUT)
