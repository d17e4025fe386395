"""The pages of the book: what fills them, what they show, and the checks that a build must pass."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import adlib
import adlib_book
import build
import results
import status
from adlib.factory import PRODUCTS, VERSION
from adlib.metrics import image_auroc
from repository import ROOT, badge, read_repository

BENCHMARKS = ROOT / "benchmarks"

# ------------------------------------------------------------------ the build


def test_every_chapter_is_in_the_toc() -> None:
    assert {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")} <= set(build.pages())


def test_for_reading_loads_nothing_from_the_network() -> None:
    here = read_repository()
    shown = "![a](https://raw.githubusercontent.com/someone/adlib/v1/book/_static/a.svg?sanitize=true)"
    notebook = new_notebook(cells=[new_markdown_cell(f"{badge(here, '02_a.ipynb')} {shown}"), new_code_cell("x = 1")])
    adlib_book.for_reading(notebook)
    text = notebook.cells[0].source
    assert text.endswith(" ![a](../book/_static/a.svg)") and "colab-badge.svg" not in text
    assert f"/github/{here.slug}/blob/{here.tag}/notebooks/02_a.ipynb" in text


def test_tags_of_long_equations_are_kept_out_of_split() -> None:
    short, plain, change = "$$ a \\tag{2.1} $$", "$$ a \\\\ b $$", adlib_book.tags_outside_split
    assert change(short) == short and change(plain) == plain
    long = change(f"Text\n$$\na \\\\ b \\tag{{2.2}}\n$$\nand {short}")
    assert "\\begin{equation*}\na \\\\ b \\tag{2.2}\n\\end{equation*}" in long and long.endswith(f"and {short}")


def test_every_generated_part_is_shown_once() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))
    assert sorted(adlib_book.GENERATED.findall(text)) == sorted(adlib_book.parts())
    with pytest.raises(ValueError, match="book/a.md: .* expected one of .*ledger"):
        adlib_book.read_source(None, "book/a", ["<!-- generated: nothing -->"])


def test_headings_of_the_ledger_have_words() -> None:  # a heading that is a link alone is lost in the contents
    headings = re.findall(r"^## .*", adlib_book.ledger_text(), re.M)
    assert len(headings) == 5 and all(re.match(r"## \[\d · .+\]\(\.\./notebooks/\w+\.ipynb\)", h) for h in headings)


GOOD = """<html><head><link rel="stylesheet" href="_static/a.css"><link rel="canonical" href="https://example.org/">
<script src="_static/a.js"></script></head><body><a href="https://example.org">a link</a>
<img src="data:image/png;base64,AA"></body></html>"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A sound book of three pages; its _toc.yml lies beside it."""
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nparts:\n- chapters:\n  - file: a\n    sections:\n"
                                       "    - file: b/c.md\n")
    (tmp_path / "html" / "b").mkdir(parents=True)
    for name in ("index", "a", "b/c"):
        (tmp_path / "html" / f"{name}.html").write_text(GOOD)
    (tmp_path / "html" / "a.css").write_text("/* url(https://a.org) */ a { background: url(data:image/png;base64,A) }")
    assert build.check(tmp_path / "html", tmp_path / "_toc.yml") == []
    return tmp_path / "html"


@pytest.mark.parametrize("bad", [
    '<script src="https://example.org/a.js"></script>', '<img src="http://example.org/a.png">',
    '<img src="//example.org/a.png">', '<link rel="stylesheet" href="https://example.org/a.css">',
    '<img srcset="a.png 1x, https://example.org/b.png 2x">', '<p style="background: url(https://example.org/a.png)">',
    "a { background: url('https://example.org/a.png') }", '@import "https://example.org/a";',
    "@import url(//example.org/a.css);",
])
def test_network_requests_are_seen(small: Path, bad: str) -> None:
    (small / ("a.html" if bad.startswith("<") else "a.css")).write_text(bad)
    (problem,) = build.check(small, small.parent / "_toc.yml")
    assert problem.startswith(("a.html: loads ", "a.css: loads ")) and "example.org" in problem


def test_a_missing_page_and_a_lost_tag_are_seen(small: Path) -> None:
    (small / "b" / "c.html").unlink()
    (small / "a.html").write_text(r"\[\begin{split} a \\ b \tag{2.1} \end{split}\]")
    missing, tag = build.check(small, small.parent / "_toc.yml")
    assert missing == "b/c: the page was not made" and tag.startswith("a.html: an equation has \\tag in a split")


# ------------------------------------------------------------------ the API pages

# Modules that hold nothing for the reader to call, and those that draw the factory's products.
INTERNAL = {"adlib.files", "adlib.resnet", "adlib.datasets.fetch", "adlib.datasets.sources", "adlib.datasets.unpack"}
DRAWING = re.compile(r"adlib\.factory\.(?!synthetic)")


def test_api_pages_have_every_module_and_every_public_name_a_docstring() -> None:
    pages = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "book" / "api").glob("*.md"))]
    listed = re.findall(r"^\.\. automodule:: (\S+)$", "\n".join(pages), re.M)
    modules = [m.name for m in pkgutil.walk_packages(adlib.__path__, "adlib.")]
    assert sorted(listed) == [m for m in sorted(modules) if m not in INTERNAL and not DRAWING.match(m)]
    for module in map(importlib.import_module, modules):
        for name, value in vars(module).items():
            if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__:
                assert name.startswith("_") or value.__doc__, f"{module.__name__}.{name} has no docstring"


# ------------------------------------------------------------------ the run status


def test_status(tmp_path: Path) -> None:
    run = {"date": "2026-01-02", "seconds": 61, "python": "3.11", "torch": "2.15", "cores": 2}
    for name, record in (("01_a", {"adlib": {"run": run}}), ("02_b", {})):
        cells = [new_markdown_cell("Before\n# A title"), new_code_cell("1 / 1", execution_count=1)]
        if name == "02_b":
            cells[1].outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]
        nbformat.write(new_notebook(cells=cells, metadata=record), tmp_path / f"{name}.ipynb")
    text = status.table_of_runs(tmp_path).replace("\u2011", "-").replace("\u00a0", " ")  # no line break inside
    row = "| [A title](../notebooks/01_a.ipynb) | 2026-01-02 | 61 s | 1 | passed | Python 3.11, torch 2.15, 2 cores |"
    assert row in text and "1.0 minutes" in text
    assert "| [A title](../notebooks/02_b.ipynb) | – | – | 1 | failed | – |" in text


# ------------------------------------------------------------------ the results


def text(name: str, benchmarks: Path = BENCHMARKS) -> str:
    return results.text(name, benchmarks).replace("\u00a0", " ")  # which keeps "0.990 ± 0.014" on one line


def measurement(**changes: Any) -> dict[str, Any]:
    runs = [{"seed": seed, "image_auroc": {"value": value, "low": 0.97, "high": 1.0}}
            for seed, value in ((0, 0.98), (1, 1.0))]
    return {"name": "run", "command": "python a.py", "versions": {"torch": "2.15"}, "backbone": "small", "dataset": "d",
            "category": "c", "protocol": "official split", "seeds": [0, 1], "results": runs, **changes}


@pytest.mark.parametrize(("content", "message"), [
    (json.dumps(measurement()), ""),
    ("{", "patchcore_a.json: expected JSON"),
    (json.dumps({"name": "x"}), "patchcore_a.json: expected the keys command"),
    (json.dumps(measurement(seeds=[0, 2])), "patchcore_a.json: expected one result for each"),
    (json.dumps(measurement(seeds=[0], results=[{"seed": 0, "au_pro": {"value": 97.1}}])), "json: au_pro is 97.1"),
])
def test_a_measurement_is_shown_or_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / results.ACCURACY.format("patchcore_a")
    path.parent.mkdir()
    path.write_text(content)
    if message:
        with pytest.raises(ValueError, match=message):
            text("patchcore", tmp_path)
        return
    assert "| d c | small | 2 | 0.990 ± 0.014 [0.970, 1.000] |" in text("patchcore", tmp_path)  # by hand
    shown = text("patchcore measured", tmp_path)
    assert "python a.py" in shown and "torch 2.15" in shown and "- **d c**: official split." in shown


def test_published_figures_have_a_source() -> None:
    entries = json.loads((BENCHMARKS / "published.json").read_text(encoding="utf-8"))["entries"]
    assert {entry["verified"] for entry in entries} == {True, False}
    for entry in entries:
        assert entry["source"] and all(entry[m] is None or 50 < entry[m] <= 100 for m in results.METRICS)
    assert all(entry["source"] in text("published") for entry in entries)


def test_patchcore_and_the_readme_show_what_was_measured() -> None:
    for entry in results.read_results(BENCHMARKS):
        assert entry["backbone"] in text("patchcore") and entry["command"] in text("patchcore measured")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(results.README_TABLE.findall(readme)) == 1
    assert results.with_table(readme) == readme, "python book/tools/results.py --readme"


def test_factory() -> None:
    report = results.read_report(BENCHMARKS, "factory")
    assert report["factory_version"] == VERSION and list(report["products"]) == list(PRODUCTS)
    for product, entry in report["products"].items():
        assert f"{entry['patchcore'][0]['structural']['low']:.3f}" in text("factory")
        # What the factory was tuned to: see the page.
        assert fmean(run["structural"]["value"] for run in entry["patchcore"]) >= 0.95, product
        for kind in {"structural", "logical"} & entry["patchcore"][0].keys():
            for name in ("random", "mean image"):
                assert fmean(run[kind]["value"] for run in entry["baselines"][name]) < 0.8, (product, name)
        assert f"| {entry['pictures_per_second']['good']:.0f} |" in text("factory speed")
    assert all(run["logical"]["value"] < 0.8 for run in report["products"]["kit"]["patchcore"])


def test_speed() -> None:
    reports = {name: results.read_report(BENCHMARKS, f"speed {name}") for name in results.SPEEDS}
    assert len(reports) == len(list(BENCHMARKS.glob(results.SPEED.format("*"))))
    assert all("--small" not in r["command"] and r["command"] in text("speed measured") for r in reports.values())
    found, table = {name: report["results"] for name, report in reports.items()}, text("speed")
    for entry in found["coreset"]:
        assert f"{entry['k']:,} of {entry['n']:,}" in table
        assert all(f"| {ratio:.1f} |" in table for ratio in entry["ratios"].values())
    assert all(f"| {entry['ratio']:.2f} |" in table for entry in found["simplenet"] + found["efficientad"])
    first, large = found["coreset"]  # from here on, what the book says of the speed
    assert first["ratios"]["anomalib_form"] >= 20 and first["ratios"]["official_form_128"] >= 10
    assert large["adlib"]["seconds"] <= 60 and large["adlib"]["extra_mb"] <= 1000
    assert all(e["to_faiss"]["adlib_prepared_bank"] <= 1.35 for e in found["neighbours"])
    assert all(e["ratio"] >= 1.3 for e in found["patchcore"])
    assert all(e["ratio"] >= 4 and e["difference"] < 1e-9 for e in found["metrics"] if e["images"] == 500)
    ratio = {entry["what"]: entry["ratio"] for entry in found["simplenet"] + found["efficientad"]}
    least = {"training": 1, "scoring": 2, "forward": 1, "training step": 1, "channels_last": 1.05}
    assert all(ratio[what] >= bound for what, bound in least.items())


def test_simplenet() -> None:
    rows: dict[tuple[str, str], list[float]] = {}
    for run in results.read_report(BENCHMARKS, "simplenet")["results"]:
        rows.setdefault((run["data"], run["options"]["decay"]), []).append(run["image_auroc"]["value"])
        assert run["best_on_test"] == pytest.approx(max(run["after_each_epoch"]))
        assert run["image_auroc"]["value"] == pytest.approx(run["after_each_epoch"][-1], abs=1e-5)  # not the best one
    assert {name for name, decay in rows if decay == "cosine"} == {*PRODUCTS, "bottle", "magnetic_tile"}
    for (name, _), values in rows.items():
        assert len(values) == (3 if name == "magnetic_tile" else 5), name
        assert f"{fmean(values):.3f} ± {stdev(values):.3f}" in text("simplenet"), name


def test_efficientad() -> None:
    report = results.read_report(BENCHMARKS, "efficientad")
    runs = {name: [r for r in report["results"] if r["data"] == name] for name in [*PRODUCTS, "bottle"]}
    for name, found in runs.items():
        assert found and all(r["cpu_minutes"] <= 40 for r in found), name
        assert f"{fmean(r['structural']['value'] for r in found):.3f}" in text("efficientad"), name
    assert [r["seed"] for r in runs["kit"]] == [0, 1, 2]
    gains = [r["logical"]["value"] - r["patchcore"]["logical"]["value"] for r in runs["kit"]]
    gain = report["kit_logical_minus_patchcore"]
    assert gain["value"] == pytest.approx(fmean(gains)) and gain["value"] >= 0.10
    assert 0 < gain["low"] < gain["value"] < gain["high"] and f"{gain['low']:.3f}" in text("efficientad gain")


def test_the_comparison_is_whole_and_its_scores_give_its_figures() -> None:
    report, kept = (results.read_report(BENCHMARKS, f"comparison{end}") for end in ("", "_scores"))
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
    assert "| kit | EfficientAD | 3 | " in text("comparison") and " ms |" in text("comparison cost")
    # A coarse PatchCore closes most of the gap to EfficientAD, as the results page says.
    mean = {way: fmean(runs["kit", seed, way]["logical"]["value"] for seed in (0, 1, 2)) for way in ways[:4]}
    assert mean["efficientad"] - mean["patchcore_128"] < 0.1 * (mean["efficientad"] - mean["patchcore"])
