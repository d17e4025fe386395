"""The pages of the book: what fills them, what they show and say of measurements, and the checks of a build."""

from __future__ import annotations

import json
import pkgutil
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import adlib
import adlib_book
import build
import front
import results
from adlib.factory import PRODUCTS, VERSION
from adlib.metrics import image_auroc
from repository import ROOT, badge, read_repository

BENCHMARKS = ROOT / "benchmarks"


def text(name: str, benchmarks: Path = BENCHMARKS) -> str:
    return results.text(name, benchmarks).replace("\u00a0", " ")  # which keeps "[0.970, 1.000]" on one line


def read(name: str) -> dict[str, Any]:
    return results.read_report(BENCHMARKS, name)


def mean(runs: list[dict[str, Any]], kind: str) -> float:
    return fmean(run[kind]["value"] for run in runs)


def test_for_reading_nothing_is_loaded_and_tags_of_long_equations_are_kept_out_of_split() -> None:
    here = read_repository()
    shown = "![a](https://raw.githubusercontent.com/someone/adlib/v1/book/_static/a.svg?sanitize=true)"
    notebook = new_notebook(cells=[new_markdown_cell(f"{badge(here, '02_a.ipynb')} {shown}"), new_code_cell("x = 1")])
    adlib_book.for_reading(notebook)
    source = notebook.cells[0].source
    assert source.endswith(" ![a](../book/_static/a.svg)") and "colab-badge.svg" not in source
    assert f"/github/{here.slug}/blob/{here.tag}/notebooks/02_a.ipynb" in source
    short, plain, change = "$$ a \\tag{2.1} $$", "$$ a \\\\ b $$", adlib_book.tags_outside_split
    assert change(short) == short and change(plain) == plain
    long = change(f"Text\n$$\na \\\\ b \\tag{{2.2}}\n$$\nand {short}")
    assert "\\begin{equation*}\na \\\\ b \\tag{2.2}\n\\end{equation*}" in long and long.endswith(f"and {short}")


def test_every_chapter_and_every_generated_part_is_in_the_book() -> None:
    assert {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")} <= set(build.pages())
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))
    assert sorted(adlib_book.GENERATED.findall(pages)) == sorted(adlib_book.parts()), "each once"
    with pytest.raises(ValueError, match="book/a.md: .* expected one of .*ledger"):
        adlib_book.read_source(None, "book/a", ["<!-- generated: nothing -->"])
    for name in ("ledger", "formulas"):  # a heading that is a link alone is lost in the contents
        headings = re.findall(r"^## .*", text := adlib_book.parts()[name](), re.M)
        assert len(headings) == 7 and text.count("$$") == 2 * len(adlib_book.ledger.read_equations())
        assert all(re.match(r"## \[\d+ · .+\]\(\.\./notebooks/\w+\.ipynb\)", h) for h in headings)


GOOD = """<html><head><link rel="stylesheet" href="_static/a.css"><link rel="canonical" href="https://example.org/">
<script src="_static/a.js"></script></head><body><a href="https://example.org">a link</a>
<img src="data:image/png;base64,AA"></body></html>"""


@pytest.mark.parametrize(("name", "bad", "expected"), [
    *((f"a.{kind}", bad.replace("URL", "//example.org/a"), f"a.{kind}: loads .*//example.org") for kind, bad in [
        ("html", '<script src="https:URL.js"></script>'), ("html", '<img src="http:URL.png">'),
        ("html", '<img src="URL.png">'), ("html", '<link rel="stylesheet" href="https:URL.css">'),
        ("html", '<img srcset="a.png 1x, https:URL.png 2x">'), ("html", '<p style="background: url(https:URL.png)">'),
        ("css", "a { background: url('https:URL.png') }"), ("css", '@import "https:URL";'),
        ("css", "@import url(URL.css);")]),
    ("a.html", r"\[\begin{split} a \\ b \tag{2.1} \end{split}\]", r"a.html: an equation has \\tag in a split"),
    ("b/c.html", None, "b/c: the page was not made")])
def test_what_is_wrong_with_a_build_is_seen(tmp_path: Path, name: str, bad: str | None, expected: str) -> None:
    toc, html = tmp_path / "_toc.yml", tmp_path / "html"
    toc.write_text("format: jb-book\nroot: index\nparts:\n- chapters:\n  - {file: a, sections: [file: b/c.md]}\n")
    (html / "b").mkdir(parents=True)
    for page in ("index", "a", "b/c"):
        (html / f"{page}.html").write_text(GOOD)
    (html / "a.css").write_text("/* url(https://a.org) */ a { background: url(data:image/png;base64,A) }")
    assert build.check(html, toc) == []
    (html / name).unlink() if bad is None else (html / name).write_text(bad)
    (problem,) = build.check(html, toc)
    assert re.match(expected, problem)


# Modules that hold nothing for the reader to call, and those that draw the factory's products.
INTERNAL = re.compile(
    r"adlib\.(__main__|areas|checks|cli\..*|extending|files|fitting|folds|forking|placing|predicting|progress|resnet"
    r"|rounds|saving|scratch|stored"
    r"|datasets\.(sources|unpack)"
    r"|factory\.(?!synthetic).*)")


def test_api_pages_have_every_module() -> None:  # that every public name has a docstring is ruff's
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "book" / "api").glob("*.md"))
    modules = {module.name for module in pkgutil.walk_packages(adlib.__path__, "adlib.")}
    listed = re.findall(r"^\.\. automodule:: (\S+)$", pages, re.M)
    assert sorted(listed) == sorted(name for name in modules if not INTERNAL.fullmatch(name))


def test_status(tmp_path: Path) -> None:
    run = {"date": "2026-01-02", "seconds": 61, "python": "3.11", "torch": "2.15", "cores": 2}
    failed = [new_output("error", ename="ValueError", evalue="no", traceback=[])]
    for name, record, outputs in (("01_a", {"adlib": {"run": run}}, []), ("02_b", {}, failed)):
        cells = [new_markdown_cell("Before\n# A title"), new_code_cell("1 / 1", execution_count=1, outputs=outputs)]
        nbformat.write(new_notebook(cells=cells, metadata=record), tmp_path / f"{name}.ipynb")
    shown = front.table_of_runs(tmp_path).replace("\u2011", "-").replace("\u00a0", " ")  # no line break inside
    row = "| [A title](../notebooks/01_a.ipynb) | 2026-01-02 | 61 s | 1 | passed | Python 3.11, torch 2.15, 2 cores |"
    assert row in shown and "1.0 minutes" in shown
    assert "| [A title](../notebooks/02_b.ipynb) | – | – | 1 | failed | – |" in shown


FILES = sorted((ROOT / "benchmarks").glob("*/*.json"))
READERS = [ROOT / "book" / "tools" / "results.py", *(ROOT / "notebooks").glob("*.ipynb")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_how_it_was_made_and_is_shown(path: Path) -> None:
    text = "".join(reader.read_text(encoding="utf-8") for reader in READERS)
    read = r"SPEEDS = .*" if path.parent.name == "speed" else r"read_report\(benchmarks, "
    shown = re.search(rf'{read}"{path.stem}"|(?<!\w){re.escape(path.name)}', text)
    assert shown or path.stem.replace("_", " ") + " measured" in results.TABLES, "nothing reads it"
    if path.stem.endswith(("_scores", "_maps")):  # the data of a report
        return
    report = json.loads(path.read_text(encoding="utf-8"))
    script = re.match(r"python -m (benchmarks\.(?:accuracy|speed)\.\w+)", report["command"])
    assert script and (made_by := (ROOT / script[1].replace(".", "/")).with_suffix(".py")).is_file()
    assert made_by.parent == path.parent and "/" not in re.sub(r"DATA/\w+", "", report["command"])
    assert report["name"] and report["threads"] >= 1 and report["versions"].keys() >= {"python", "torch"}
    assert {"seed", "seeds"} & report.keys() or all("seed" in run for run in report.get("results", []))


WITH_INTERVAL = re.compile(r"([+-]?\d\.\d+) \[([+-]?\d\.\d+), ([+-]?\d\.\d+)\]")


def test_every_mean_lies_in_its_interval_and_no_deviation_stands_for_one() -> None:
    shown = {name: text(name) for name in results.TABLES} | {"README": (ROOT / "README.md").read_text(encoding="utf-8")}
    for name, lines in shown.items():
        for value, low, high in (map(float, m) for m in WITH_INTERVAL.findall(lines.replace("−", "-"))):
            assert low <= value <= high, f"{name}: {value} [{low}, {high}]"
        assert "±" not in lines, name
    assert all(len(WITH_INTERVAL.findall(shown[name])) > 3 for name in ("real", "comparison", "factory", "README"))


def test_the_pages_and_the_readme_show_what_was_measured_and_published() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [part[1] for part in front.README_PART.findall(readme)] == ["guide", "notebooks", "real"]
    assert front.with_parts(readme) == readme, "python book/tools/front.py"
    entries = json.loads((BENCHMARKS / "published.json").read_text(encoding="utf-8"))["entries"]
    assert {entry["verified"] for entry in entries} == {True, False}
    for entry in entries:
        assert entry["source"] and entry["source"] in text("published")
        assert all(entry[m] is None or 50 < entry[m] <= 100 for m in results.METRICS)


def test_factory() -> None:
    report = read("factory")
    assert report["factory_version"] == VERSION and list(report["products"]) == list(PRODUCTS)
    for product, entry in report["products"].items():
        assert f"{mean(entry['patchcore'], 'structural'):.3f} [" in text("factory")
        assert f"| {entry['pictures_per_second']['good']:.0f} |" in text("factory speed")
        # What the factory was tuned to: see the page.
        assert mean(entry["patchcore"], "structural") >= 0.95, product
        for kind in {"structural", "logical"} & entry["patchcore"][0].keys():
            assert all(mean(entry["baselines"][name], kind) < 0.8 for name in ("random", "mean image")), (product, kind)
    assert all(run["logical"]["value"] < 0.8 for run in report["products"]["kit"]["patchcore"])


def test_speed() -> None:
    reports = {name: read(f"speed {name}") for name in results.SPEEDS}
    others = {"chunks"}  # has a table of its own
    assert {*reports} | others == {path.stem for path in BENCHMARKS.glob(results.SPEED.format("*"))}
    assert all("--small" not in r["command"] and r["command"] in text("speed measured") for r in reports.values())
    coreset, trained, metrics, neighbours, patchcore = (
        [entry for name in names.split() for entry in reports[name]["results"]]
        for names in ("coreset", "simplenet efficientad", "metrics", "neighbours", "patchcore"))
    shown = [f"{e['k']:,} of {e['n']:,}" for e in coreset] + [f"| {e['ratio']:.2f} |" for e in trained]
    shown += [f"| {ratio:.1f} |" for entry in coreset for ratio in entry["ratios"].values()]
    assert [part for part in shown if part not in text("speed")] == []
    first, large = coreset  # from here on, what the book says of the speed
    assert first["ratios"]["anomalib_form"] >= 20 and first["ratios"]["official_form_128"] >= 10
    assert large["adlib"]["seconds"] <= 60 and large["adlib"]["extra_mb"] <= 1000
    assert all(e["to_faiss"]["adlib_prepared_bank"] <= 1.35 for e in neighbours)
    assert all(e["ratio"] >= 1.3 for e in patchcore if "what" not in e)
    assert all(e["ratio"] >= 4 and e["difference"] < 1e-9 for e in metrics if e["images"] == 500)
    ratio = {entry["what"]: entry["ratio"] for entry in trained}
    least = {"training": 1, "scoring": 2, "forward": 1, "training step": 1, "channels_last": 1.05}
    assert all(ratio[what] >= bound for what, bound in least.items())


def test_simplenet() -> None:
    rows: dict[tuple[str, str], list[float]] = {}
    for run in read("simplenet")["results"]:
        rows.setdefault((run["data"], run["options"]["decay"]), []).append(run["image_auroc"]["value"])
        assert run["best_on_test"] == pytest.approx(max(run["after_each_epoch"]))
        assert run["image_auroc"]["value"] == pytest.approx(run["after_each_epoch"][-1], abs=1e-5)  # not the best one
    assert {name for name, decay in rows if decay == "cosine"} == {*PRODUCTS, "bottle", "magnetic_tile"}
    for (name, _), values in rows.items():
        assert len(values) == (3 if name == "magnetic_tile" else 5), name
        assert f"{fmean(values):.3f} [" in text("simplenet"), name


def test_efficientad() -> None:
    report = read("efficientad")
    runs = {name: [r for r in report["results"] if r["data"] == name] for name in [*PRODUCTS, "bottle"]}
    for name, found in runs.items():
        assert found and all(r["cpu_minutes"] <= 40 for r in found), name
        assert f"{mean(found, 'structural'):.3f}" in text("efficientad"), name
    assert [r["seed"] for r in runs["kit"]] == [0, 1, 2]
    compared = [r for r in read("comparison")["results"] if r["data"] == "kit"]
    for d in report["kit_minus_patchcore"]:
        by_hand = [mean([r for r in compared if r["way"] == way], d["part"]) for way in ("efficientad", d["minus"])]
        assert d["value"] == pytest.approx(by_hand[0] - by_hand[1]) == pytest.approx(fmean(d["by_seed"]))
        assert d["low"] < d["value"] < d["high"] and f"{d['low']:+.3f}" in text("efficientad gain")
    assert [(d["part"], d["minus"]) for d in report["kit_minus_patchcore"]] == [
        (part, way) for part in ("structural", "logical") for way in ("patchcore", "patchcore_128")]


def test_the_comparison_is_whole_and_its_scores_give_its_figures() -> None:
    kept, runs = read("comparison_scores"), {(r["data"], r["seed"], r["way"]): r for r in read("comparison")["results"]}
    ways = ("patchcore", "simplenet", "efficientad", "patchcore_128", "base", "spd")
    factory = [(d, s, w) for d in ("board", "fabric", "kit", "washer") for s in (0, 1, 2) for w in ways]
    assert set(runs) == {*factory, *(("bottle", 0, w) for w in ways[:4])}
    assert set(kept["scores"]) == {f"{d} {s} {w}" for d, s, w in runs}
    for (data, seed, way), run in runs.items():
        scores = np.array(kept["scores"][f"{data} {seed} {way}"])
        label, logical = (np.array(kept["tests"][data][of]) for of in ("label", "logical"))
        for part, rows in (("structural", (label == 1) & ~logical), ("logical", logical)):
            shown = rows | (label == 0)
            assert rows.any() == (part in run), (data, seed, way, part)
            if rows.any():
                by_scores = image_auroc(label[shown], scores[shown])
                assert abs(by_scores - run[part]["value"]) < 1e-4, (data, seed, way, part)
    assert "| kit | EfficientAD | 3 | " in text("comparison") and " ms |" in text("comparison cost")
    # A coarse PatchCore closes most of the gap to EfficientAD, as the results page says.
    kit = {way: mean([runs["kit", seed, way] for seed in (0, 1, 2)], "logical") for way in ways[:4]}
    assert kit["efficientad"] - kit["patchcore_128"] < 0.1 * (kit["efficientad"] - kit["patchcore"])


def test_aupimo_is_that_of_its_authors() -> None:
    runs = read("official_aupimo")["results"]
    assert len(runs) == 15 and max(r["difference_over_their_rates"] for r in runs) <= 1e-4
    assert max(r["difference"] for r in runs if r["case"].startswith("on a rate")) <= 1e-4
    assert {min(r["ours"]) < 0.01 and max(r["ours"]) > 0.5 for r in runs} == {True}  # from hardly found to mostly found


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    from benchmarks import common

    common.write(tmp_path / "a.json", {"name": "first"})
    with pytest.raises(TypeError):
        common.write(tmp_path / "a.json", {"name": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
