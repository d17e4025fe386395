"""The tool that runs, stamps and checks notebooks, on small ones; then the committed ones, in other settings too."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import papermill
import pytest
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbval.plugin import IPyNbFile, NbCellError
from PIL import Image

from adlib.datasets import SyntheticFactory
from notebooks import (
    START_TIMEOUT,
    WIDGET,
    all_notebooks,
    check_notebook,
    code_only,
    few_digits,
    run_chapters,
    stamp,
    tidy,
)
from recorded import Recorded

NAME = "02_small.ipynb"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def small_notebook(*more: str) -> NotebookNode:
    """A sound notebook as it is before its run, with more code cells."""
    parameters = new_code_cell('PROFILE = "none"', metadata={"tags": ["parameters"]})
    code = [new_code_cell("import adlib"), parameters, *map(new_code_cell, ("print(1 + 1)", *more))]
    return new_notebook(cells=[new_markdown_cell("# Small"), *code], metadata={"kernelspec": KERNEL})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with a package and a folder for notebooks."""
    (tmp_path / "adlib" / "weights").mkdir(parents=True)
    (tmp_path / "adlib" / "__init__.py").write_text('"""Text."""\nvalue = 1\n')
    (tmp_path / "adlib" / "weights" / "w.bin").write_bytes(b"\0\1")
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def put(notebook: NotebookNode, tree: Path, name: str = NAME) -> Path:
    nbformat.write(notebook, tree / "notebooks" / name)
    return tree / "notebooks" / name


def executed(tree: Path, spoil: Callable[[NotebookNode], object] = lambda n: None) -> Path:
    """The small notebook as it is after its run, without a kernel, then spoilt, then stamped."""
    notebook = small_notebook()
    for number, cell in enumerate(notebook.cells[1:], 1):
        cell.execution_count = number
    notebook.cells[3].outputs = [new_output("stream", name="stdout", text="2\n")]
    spoil(notebook)
    notebook.metadata["adlib"] = {"stamp": stamp(put(notebook, tree))}
    return put(notebook, tree)


def source(text: str) -> Callable[[NotebookNode], object]:
    return lambda n: n.cells[3].update(source=text)


def output(*given: str, **named: object) -> Callable[[NotebookNode], object]:
    return lambda n: n.cells[3].outputs.append(new_output(*given, **named))


def test_sound_notebooks_are_accepted_and_a_broken_one_is_named(tree: Path) -> None:
    for text in ("print(1 + 1)", "plots.show(x)", "x = plots.show(x)\nx", "%pip install a\nplots.show(x)"):
        assert check_notebook(executed(tree, source(text))) == []
    (tree / "notebooks" / NAME).write_text("{")
    (problem,) = check_notebook(tree / "notebooks" / NAME)
    assert problem.startswith(f"{NAME}: cannot be read")


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda n: n.cells[2].update(execution_count=3), "code cell 2 was not run in order"),
    (lambda n: n.cells[2].update(execution_count=None), "code cell 2 was not run in order"),
    (output("error", ename="ValueError", evalue="no", traceback=[]), "code cell 3 ended in an error"),
    (output("stream", name="stderr", text="UserWarning: old\n"), "code cell 3 printed a warning"),
    (output("display_data", data={"image/png": "A" * 400_000}), "is larger than 400 kB"),
    (lambda n: n.cells[3].update(outputs=[]), "code cell 3 should show something"),
    (lambda n: n.cells[2].metadata.update(tags=[]), "no cell is tagged 'parameters'"),
    (lambda n: n.cells.append(new_code_cell("  ", execution_count=4)), "code cell 4 is empty"),
    (source("plots.show(x)\nprint(1)"), "code cell 3 draws a figure but does not show it"),
    (source("%pip install a\nfor i in x:\n    plots.show(i)"), "code cell 3 draws a figure but does not")])
def test_each_defect_is_refused_alone(tree: Path, spoil: Callable[[NotebookNode], object], message: str) -> None:
    (problem,) = check_notebook(executed(tree, spoil))
    assert problem.startswith(f"{NAME}: {message}")


@pytest.mark.parametrize(("name", "content", "stale"), [
    ("adlib/__init__.py", b'"""Other text."""\n\nvalue = 1  # comment\n', False),
    ("adlib/__init__.py", b'"""Text."""\nvalue = 2\n', True), ("adlib/__init__.py", None, True),
    ("adlib/weights/w.bin", b"\0\2", True), ("adlib/weights/card.md", b"text", False), ("adlib/new.py", b"", True),
    ("adlib/__pycache__/x.pyc", b"x", False), ("notebooks/other.ipynb", b"{}", False)])
def test_stamp_follows_what_computes(tree: Path, name: str, content: bytes | None, stale: bool) -> None:
    path = executed(tree)
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).unlink() if content is None else (tree / name).write_bytes(content)
    assert any("stale" in problem for problem in check_notebook(path)) == stale


def test_stamp_sees_cells_and_not_outputs_and_code_only(tree: Path) -> None:
    def stamped(*sources: str, count: int | None = None) -> str:
        return stamp(put(new_notebook(cells=[new_code_cell(s, execution_count=count) for s in sources]), tree))

    assert stamped("a\nb", "c") == stamped("a\nb", "c", count=3)
    assert len({stamped("a\nb", "c"), stamped("a", "b\nc"), stamped("a\nb", "c "), stamped("c", "a\nb")}) == 4
    source = ('#!/usr/bin/x\n"""Text\nof é # more.\n"""\n\nimport a  # why\n\nclass B:\n    """Text."""\n\n'
              '    x = "# no"\n    def f(self):\n        """Text."""  # and\n        # alone\n'
              '        return """kept\n  # kept"""\n')
    assert code_only(source) == ('import a\nclass B:\n    x = "# no"\n    def f(self):\n'
                                 '        return """kept\n  # kept"""')


def test_tidy_keeps_what_counts() -> None:
    notebook = small_notebook()
    notebook.metadata.update(papermill={"duration": 3}, widgets={"state": {}}, language_info={"version": "3.11.0"})
    notebook.cells.insert(3, new_code_cell("PROFILE = 1", metadata={"tags": ["injected-parameters"]}))
    notebook.cells[4].metadata.update(papermill={"duration": 1}, execution={"busy": "now"}, tags=[], kept=True)
    notebook.cells[4].outputs = [new_output("display_data", data={WIDGET: {}, "text/plain": "bar"}),
                                 new_output("execute_result", data={"text/plain": "2"}, execution_count=4)]
    tidy(notebook)
    assert notebook.metadata == {"kernelspec": KERNEL, "language_info": {}}
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, 3]
    assert notebook.cells[2].metadata == {"tags": ["parameters"]} and notebook.cells[3].metadata == {"kept": True}
    assert [(o.data, o.execution_count) for o in notebook.cells[3].outputs] == [({"text/plain": "2"}, 3)]


def test_runs_are_kept_and_a_failure_is_named(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In real kernels: a sound notebook and one that fails; then only what has changed is run again."""
    shown = "import os\n(PROFILE, os.path.basename(os.getcwd()), os.environ['OMP_NUM_THREADS'])"
    sound, failing = small_notebook(shown), small_notebook("raise ValueError('on purpose')")
    chapters, runs = [put(sound, tree), put(failing, tree, "03_failing.ipynb")], tree / "build" / "runs"
    with pytest.raises(SystemExit, match="03_failing.ipynb failed: (.|\n)*on purpose"):
        run_chapters(runs, chapters)
    assert sorted(path.name for path in runs.iterdir()) == ["02_small.answers.json", NAME]
    done = nbformat.read(runs / NAME, 4)
    assert done.cells[-1].outputs[0].data["text/plain"] == "('quick', 'notebooks', '1')"
    assert json.loads((runs / "02_small.answers.json").read_text()) == {"stamp": stamp(chapters[0]), "answers": []}
    shutil.copy(runs / NAME, chapters[0])
    assert check_notebook(chapters[0]) == [], "a run is what is committed"
    capsys.readouterr()
    assert run_chapters(runs, chapters[:1]) == [runs / NAME] and capsys.readouterr().out == ""
    put(small_notebook(), tree)
    run_chapters(runs, chapters[:1])
    assert NAME in capsys.readouterr().out and len(nbformat.read(runs / NAME, 4).cells) == 4


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_committed_notebook(path: Path) -> None:
    assert check_notebook(path) == []


def execute(path: Path, folder: Path, parameters: dict[str, object]) -> None:
    papermill.execute_notebook(path, folder / path.name, parameters, cwd=path.parent, kernel_name="python3",
                               progress_bar=False, start_timeout=START_TIMEOUT)


@pytest.mark.full
@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_other_parameters(path: Path, tmp_path: Path) -> None:
    """The chapter also runs with another seed and another product: its assertions hold beyond one draw."""
    inferred = papermill.inspect_notebook(str(path))
    other = {"SEED": int(inferred["SEED"]["default"]) + 1}
    if "CATEGORY" in inferred:  # a reference notebook or the quickstart may have none
        other["CATEGORY"] = "washer" if "fabric" in inferred["CATEGORY"]["default"] else "fabric"
    execute(path, tmp_path, {"PROFILE": "quick", **other})


# A detector on a tree in the official layout, and folders of the reader's own; the others only for --all.
CHEAP = ("08_metrics", "00_quickstart")
CHAPTERS = [pytest.param(path, id=path.stem, marks=[] if path.stem in CHEAP else [pytest.mark.full])
            for path in all_notebooks()]
RANDOM = {"BACKBONE": "resnet18", "PRETRAINED": False}
SHORT = {"03_spd": {**RANDOM, "STEPS": 2}, "04_simplenet": {**RANDOM, "EPOCHS": 1},
         "05_efficientad": {"TEACHER": "adlib_pdn_s_quarter", "STEPS": 2}}  # a teacher in place of a backbone


@pytest.mark.parametrize("path", CHAPTERS)
def test_paper_profile(path: Path, tmp_path: Path) -> None:
    """On a tiny tree in the official layout, with random weights: does it run?"""
    SyntheticFactory("washer", size=64, n_train=10, n_validation=0, n_test=4, n_defect=12).write(tmp_path)
    given = {"DATASET": "mvtec_ad", "DATA_ROOT": str(tmp_path), "CATEGORY": "washer", **SHORT.get(path.stem, RANDOM)}
    if path.stem == "00_quickstart":  # two folders of the reader's own; random weights make no sense there
        good, new = tmp_path / "washer" / "train" / "good", tmp_path / "washer" / "test"
        given = {"BACKBONE": "adlib_resnet18", "GOOD_FOLDER": str(good), "NEW_FOLDER": str(new),
                 "OUT_DIR": str(tmp_path / "out"), "FALSE_ALARMS": 0.2}  # four of ten are held out
    execute(path, tmp_path, {"PROFILE": "paper", **given})


def test_charts_get_a_palette_and_look_the_same() -> None:
    chart = Image.new("RGBA", (60, 40), "white")
    chart.paste((200, 30, 30, 255), (10, 10, 40, 30))
    file = io.BytesIO()
    chart.save(file, "png")
    notebook = new_notebook(cells=[new_code_cell("1", outputs=[new_output("display_data", data={
        "image/png": base64.b64encode(file.getvalue()).decode()})])])  # fmt: skip
    tidy(notebook)
    kept = notebook.cells[0].outputs[0].data["image/png"]
    small = Image.open(io.BytesIO(base64.b64decode(kept)))
    assert small.mode == "P" and np.array_equal(np.array(small.convert("RGB")), np.array(chart.convert("RGB")))
    tidy(notebook)
    assert notebook.cells[0].outputs[0].data["image/png"] == kept


def test_vector_charts_are_kept_with_the_digits_that_one_sees() -> None:
    figure, svg = Figure(figsize=(2, 1)), io.StringIO()
    ax = figure.subplots()
    ax.plot(np.linspace(0, 1, 50), np.random.default_rng(0).random(50))
    ax.text(0.5, 0.5, "0.12345 of it")
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(svg, format="svg")
    small = few_digits(svg.getvalue())
    assert len(small) < 0.7 * len(svg.getvalue()) and "0.12345 of it" in small and few_digits(small) == small
    before, after = ([np.array(re.findall(r"-?\d+(?:\.\d+)?", path), float)
                      for path in re.findall(r' d="([^"]*)"', text)] for text in (svg.getvalue(), small))
    assert all(np.allclose(a, b, atol=0.0051) for a, b in zip(before, after, strict=True))
    assert re.search(r"font-family: 'DejaVu Sans', sans-serif", small) and "<metadata>" not in small


@pytest.mark.parametrize(("kept", "message"), [
    ([new_output("stream", name="stdout", text="2\n")], None),
    ([new_output("stream", name="stdout", text="3\n")], "Cell outputs differ"),
    ([], "Cell outputs differ"),
    ([new_output("error", ename="ValueError", evalue="no", traceback=[])], "Cell execution caused an exception"),
])  # fmt: skip
def test_nbval_holds_a_notebook_against_its_run(
    tree: Path, request: pytest.FixtureRequest, kept: list[NotebookNode], message: str | None
) -> None:
    path = executed(tree, lambda n: n.cells[3].metadata.update(tags=["nbval-check-output"]))
    run = nbformat.read(path, 4)
    run.cells[3].outputs = kept
    nbformat.write(run, tree / NAME)
    file = IPyNbFile.from_parent(request.session, path=path)
    cells, file.kernel = list(file.collect()), Recorded(tree / NAME)
    for cell in cells[:2]:
        cell.runtest()
    if message is None:
        return cells[2].runtest()
    with pytest.raises(NbCellError, match=message):
        cells[2].runtest()
