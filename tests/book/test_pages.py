"""The pages that are made with the book: API and run status. (Results and ledger: test_house, test_house_ledger.)"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import adlib
import api_page
import results
import status
from adlib.metrics import image_auroc
from repository import ROOT

# Modules that hold nothing for the reader to call.
INTERNAL = {"files", "resnet", "datasets.sources", "datasets.unpack"}


def test_api_page_knows_every_module() -> None:
    listed = [name for names in api_page.PARTS.values() for name in names]
    assert len(listed) == len(set(listed))
    there = {m.name.removeprefix("adlib.") for m in pkgutil.walk_packages(adlib.__path__, "adlib.")}
    drawn = {name for name in there if name.startswith("datasets.synthetic_")}
    assert set(listed) == there - INTERNAL - drawn


def test_api_page_has_every_public_name_with_its_docstring() -> None:
    text = api_page.page()
    for names in api_page.PARTS.values():
        for name in names:
            module = importlib.import_module(f"adlib.{name}")
            for title, value in vars(module).items():
                if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__ \
                        and not title.startswith("_"):
                    assert value.__doc__, f"adlib.{name}.{title} is public and has no docstring"
                    assert f"\n#### `{title}`\n" in text, f"adlib.{name}.{title}"
    assert "##### `Detector.fit`" in text and "##### `Prediction.targets`" in text
    assert not re.search(r"<factory>|0x[0-9a-f]{6}|__main__", text)


def test_signatures_read_like_code() -> None:
    def short(a: int, *, b: str = "x") -> None:
        """Nothing."""

    def long(features: list[float], number_of_centres: int, *, start: int | None = None, seed: int = 0) -> list[int]:
        """Nothing."""

    class Broken(ValueError):
        """Nothing."""

    assert api_page.signature("short", short) == "short(a: int, *, b: str = 'x') -> None"
    assert api_page.signature("long", long).splitlines() == [
        "long(", "    features: list[float],", "    number_of_centres: int,", "    *,", "    start: int | None = None,",
        "    seed: int = 0,", ") -> list[int]"]  # fmt: skip
    assert api_page.signature("Broken", Broken) == "class Broken(ValueError)"


@pytest.mark.parametrize(("text", "shown"), [
    ("N_b(m*) of `k_nearest` in [0, 1]", "N\\_b(m\\*) of `k_nearest` in \\[0, 1\\]"),
    ("``Figure`` | $x$", "`Figure` \\| \\$x\\$"),
])
def test_docstrings_lose_nothing_in_markdown(text: str, shown: str) -> None:
    assert api_page.escaped(text) == shown
    assert [line for line in api_page.prose(f"{text}\n\n    a = 1\n\n    b = 2\n\nEnd.") if line] == [
        shown, "```text", "a = 1", "b = 2", "```", "End."]  # fmt: skip


def write(folder: Path, name: str, **run: object) -> None:
    notebook = new_notebook(cells=[new_markdown_cell("Before\n# A title"), new_code_cell("1 / 1", execution_count=1)])
    if run:
        notebook.metadata["adlib"] = {"run": run}
    nbformat.write(notebook, folder / name)


def test_status_page(tmp_path: Path) -> None:
    write(tmp_path, "01_a.ipynb", date="2026-01-02", seconds=61, python="3.11", torch="2.15", cores=2)
    write(tmp_path, "02_b.ipynb")
    text = status.page(tmp_path).replace("\u2011", "-").replace("\u00a0", " ")  # no line break inside
    row = "| [A title](../notebooks/01_a.ipynb) | 2026-01-02 | 61 s | 1 | passed | Python 3.11, torch 2.15, 2 cores |"
    assert row in text
    assert "| [A title](../notebooks/02_b.ipynb) | – | – | 1 | passed | – |" in text and "1.0 minutes" in text


def test_status_page_shows_a_failure(tmp_path: Path) -> None:
    write(tmp_path, "01_a.ipynb")
    notebook = nbformat.read(tmp_path / "01_a.ipynb", 4)
    notebook.cells[1].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]
    nbformat.write(notebook, tmp_path / "01_a.ipynb")
    assert "| failed |" in status.page(tmp_path)


# ------------------------------------------------------------------ the comparison


def test_the_comparison_is_whole_and_its_scores_give_its_figures() -> None:
    folder = ROOT / "benchmarks" / "accuracy"
    report, kept = (json.loads((folder / f"comparison{end}.json").read_text()) for end in ("", "_scores"))
    runs = {(r["data"], r["seed"], r["way"]): r for r in report["results"]}
    ways = ("patchcore", "simplenet", "efficientad", "patchcore_128", "base", "spd")
    factory = [(d, s, w) for d in ("board", "fabric", "kit", "washer") for s in (0, 1, 2) for w in ways]
    assert set(runs) == {*factory, *(("bottle", 0, w) for w in ways[:4])}
    assert set(kept["scores"]) == {f"{d} {s} {w}" for d, s, w in runs}
    for (data, seed, way), run in runs.items():
        scores, tests = np.array(kept["scores"][f"{data} {seed} {way}"]), kept["tests"][data]
        label, logical = np.array(tests["label"]), np.array(tests["logical"])
        for part, rows in (("structural", (label == 1) & ~logical), ("logical", logical)):
            shown = rows | (label == 0)
            if rows.any():
                difference = image_auroc(label[shown], scores[shown]) - run[part]["value"]
                assert abs(difference) < 1e-4, (data, seed, way, part)
            assert rows.any() == (part in run)


def test_the_results_page_shows_the_comparison() -> None:
    text = "\n".join(results.comparison_tables(ROOT / "benchmarks"))
    assert "| kit | EfficientAD | 3 | " in text and "| bottle | PatchCore at 128 pixels | 1 | " in text
    assert "| SimpleNet |" in text and " ms |" in text  # what it costs


def test_a_coarse_patchcore_closes_most_of_the_gap_to_efficientad() -> None:  # as the results page says
    runs = json.loads((ROOT / "benchmarks" / "accuracy" / "comparison.json").read_text())["results"]
    mean = {way: np.mean([r["logical"]["value"] for r in runs if (r["data"], r["way"]) == ("kit", way)])
            for way in ("patchcore", "patchcore_128", "efficientad")}
    assert mean["efficientad"] - mean["patchcore_128"] < 0.1 * (mean["efficientad"] - mean["patchcore"])
