"""Build, licences and configuration: what must agree with what, and the tools that keep it so."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import build
import results
from adlib.factory import PRODUCTS, VERSION
from repository import ROOT, badge, read_repository

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> dict[str, Requirement]:
    """All requirements of pyproject.toml, those of its extras too, by normal name."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


# ------------------------------------------------------------------ packages


def test_conda_environment_is_that_of_pyproject() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (by_pip,) = (e["pip"] for e in entries if not isinstance(e, str))
    assert by_pip.pop() == "-e ."
    names = [*by_pip, *(e for e in entries if isinstance(e, str))]
    conda = {r.name: r.specifier for r in map(Requirement, names)}
    assert str(conda.pop("python")) == PROJECT["requires-python"]
    assert str(conda.pop("pip")) == ""
    conda["torch"] = conda.pop("pytorch")
    assert conda == {name: r.specifier for name, r in requirements().items()}


def test_lower_bounds_only() -> None:
    """An exact pin would replace the reader's torch or numpy on Colab."""
    for name, requirement in requirements().items():
        allowed = {">=", "<"} if name == "jupyter-book" else {">="}  # jupyter-book 2 is another program
        assert {s.operator for s in requirement.specifier} <= allowed and len(requirement.specifier) >= 1, name


def test_constraints_are_exact_complete_and_within_bounds() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    locked = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    assert all([s.operator for s in r.specifier] == ["=="] for r in locked)
    for name, wanted in requirements().items():
        versions = [next(iter(r.specifier)).version for r in locked if canonicalize_name(r.name) == name]
        assert versions, f"{name} is not in constraints.txt: run book/tools/lock.sh"
        assert all(wanted.specifier.contains(Version(v)) for v in versions), name
    assert "torch==2.15.0" in text and "torchvision==0.29.2" in text


def test_constraints_name_no_place() -> None:
    """Neither a package server nor a path of the machine that made the file."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|@|--(index|find|extra)|(^|[\s'\"])/", text, re.M)


def test_every_imported_package_is_required() -> None:
    import_names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    found: set[str] = set()
    for path in (ROOT / "adlib").rglob("*.py"):
        found |= set(re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", path.read_text(encoding="utf-8"), re.M))
    words = found - set(sys.stdlib_module_names) - {"adlib", "IPython"}  # IPython: only where a notebook runs
    # A docstring's line may begin with "from" too; what cannot be found is no package.
    needed = {import_names.get(word, word) for word in words if importlib.util.find_spec(word)}
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert needed <= declared, needed - declared


# ------------------------------------------------------------------ licences


@pytest.mark.parametrize(("name", "words"), [
    ("LICENSE", ["Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"]),
    ("LICENSE-text", ["Attribution 4.0 International", "Section 8 -- Interpretation."]),
    ("book/_static/mathjax/LICENSE", ["Apache License"]),
])
def test_licence_texts_are_whole(name: str, words: list[str]) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert all(word in text for word in words) and len(text) > 10_000


# ------------------------------------------------------------------ the book


def test_toc_and_sources_fit() -> None:
    """Every page of _toc.yml is there or made at the build, and every chapter is in _toc.yml."""
    named = build.pages(ROOT / "_toc.yml")
    generated = {"book/results", "book/ledger", "book/api", "book/status"}
    for name in set(named) - generated:
        assert (ROOT / f"{name}.md").is_file() or (ROOT / f"{name}.ipynb").is_file(), name
    assert {f"notebooks/{path.stem}" for path in build.all_notebooks()} <= set(named)


def test_for_reading_leaves_no_trace_of_the_build() -> None:
    here = read_repository()
    injected = new_code_cell('PROFILE = "quick"', metadata={"tags": ["injected-parameters"]})
    kept = new_code_cell("x = 1", metadata={"tags": ["parameters"]})
    shown = "![a](https://raw.githubusercontent.com/someone/adlib/v1/book/_static/a.svg?sanitize=true)"
    notebook = new_notebook(cells=[new_markdown_cell(f"{badge(here, '02_a.ipynb')} {shown}"), kept, injected])
    build.for_reading(notebook)
    assert notebook.cells[0].source.endswith(" ![a](../book/_static/a.svg)")
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code"]
    assert "colab-badge.svg" not in notebook.cells[0].source
    assert f"/github/{here.slug}/blob/{here.tag}/notebooks/02_a.ipynb" in notebook.cells[0].source


def test_tags_of_long_equations_are_kept_out_of_split() -> None:
    short, plain = "$$ a \\tag{2.1} $$", "$$ a \\\\ b $$"
    assert build.tags_outside_split(short) == short and build.tags_outside_split(plain) == plain
    long = build.tags_outside_split(f"Text\n$$\na \\\\ b \\tag{{2.2}}\n$$\nand {short}")
    assert "\\begin{equation*}\na \\\\ b \\tag{2.2}\n\\end{equation*}" in long and long.endswith(f"and {short}")


GOOD_PAGE = """<html><head><link rel="stylesheet" href="_static/a.css">
<link rel="canonical" href="https://example.org/">
<script src="_static/a.js"></script></head><body><a href="https://example.org">a link</a>
<img src="data:image/png;base64,AA">
</body></html>"""


@pytest.mark.parametrize("bad", [
    '<script src="https://cdn.example.org/a.js"></script>', '<img src="http://example.org/a.png">',
    '<img src="//example.org/a.png">', '<link rel="stylesheet" href="https://example.org/a.css">',
    '<link rel="preload" href="https://example.org/a.woff2" as="font">', '<iframe src="https://example.org"></iframe>',
    '<img srcset="a.png 1x, https://example.org/b.png 2x">', '<p style="background: url(https://example.org/a.png)">',
])
def test_network_requests_are_seen(tmp_path: Path, bad: str) -> None:
    (tmp_path / "a.html").write_text(GOOD_PAGE)
    (tmp_path / "a.css").write_text("/* https://example.org */ a { background: url(data:image/png;base64,AA) }")
    assert build.network_loads(tmp_path) == []
    (tmp_path / "b.html").write_text(GOOD_PAGE.replace("</body>", bad))
    (load,) = build.network_loads(tmp_path)
    assert load.startswith("b.html: ") and "example.org" in load


@pytest.mark.parametrize("bad", ["a { background: url('https://example.org/a.png') }", '@import "https://example.org/a";',
                                 "@import url(//example.org/a.css);"])
def test_network_requests_of_style_sheets_are_seen(tmp_path: Path, bad: str) -> None:
    (tmp_path / "b.css").write_text(bad)
    assert len(build.network_loads(tmp_path)) == 1


def test_check_misses_no_page(tmp_path: Path) -> None:
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nparts:\n- chapters:\n  - file: a\n    sections:\n"
                                       "    - file: b/c.md\n")
    html = tmp_path / "html"
    (html / "b").mkdir(parents=True)
    for name in ("index", "a"):
        (html / f"{name}.html").write_text(GOOD_PAGE)
    (problem,) = build.check(html, tmp_path / "_toc.yml")
    assert problem.startswith("b/c: ")
    (html / "b" / "c.html").write_text(GOOD_PAGE)
    assert build.check(html, tmp_path / "_toc.yml") == []
    (html / "a.html").write_text(r"\[\begin{split} a \\ b \tag{2.1} \end{split}\]")
    assert ["split" in problem for problem in build.check(html, tmp_path / "_toc.yml")] == [True]


def test_mathjax_is_the_vendored_file() -> None:
    path = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]["mathjax_path"]
    assert (ROOT / "book" / "_static" / path).stat().st_size > 1_000_000


def test_bibliography_keys_are_unique() -> None:
    keys = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M)
    assert len(keys) >= 10 and len(keys) == len(set(keys))


# ------------------------------------------------------------------ the results page


def measurement(**changes: Any) -> dict[str, Any]:
    runs = [{"seed": seed, "image_auroc": {"value": value, "low": 0.97, "high": 1.0}}
            for seed, value in ((0, 0.98), (1, 1.0))]
    return {"name": "run", "command": "python a.py", "versions": {"torch": "2.15"}, "backbone": "small", "dataset": "d",
            "category": "c", "protocol": "official split", "seeds": [0, 1], "results": runs, **changes}


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    (tmp_path / "accuracy").mkdir()
    shutil.copy(ROOT / "benchmarks" / "published.json", tmp_path)
    return tmp_path


def results_text(benchmarks: Path) -> str:
    return results.page(benchmarks).replace("\u00a0", " ")  # which keeps "0.990 ± 0.014" on one line


def test_results_page(benchmarks: Path) -> None:
    (benchmarks / "accuracy" / "a.json").write_text(json.dumps(measurement()))
    text = results_text(benchmarks)
    assert "0.990 ± 0.014 [0.970, 1.000]" in text  # mean and deviation of 0.98 and 1.0, by hand
    assert "| d c | small | 2 |" in text and "python a.py" in text and "torch 2.15" in text


@pytest.mark.parametrize(("content", "message"), [
    ("{", "a.json: expected JSON"),
    (json.dumps({"name": "x"}), "a.json: expected the keys command"),
    (json.dumps(measurement(seeds=[0, 2])), "a.json: expected one result for each"),
    (json.dumps(measurement(seeds=[], results=[])), "a.json: expected one result for each"),
    (json.dumps(measurement(seeds=[0], results=[{"seed": 0, "au_pro": {"value": 97.1}}])), "a.json: au_pro is 97.1"),
])
def test_unusable_measurements_are_refused_by_name(benchmarks: Path, content: str, message: str) -> None:
    (benchmarks / "accuracy" / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        results.page(benchmarks)


def test_published_figures_have_a_source() -> None:
    entries = json.loads((ROOT / "benchmarks" / "published.json").read_text(encoding="utf-8"))["entries"]
    assert {entry["verified"] for entry in entries} == {True, False}
    for entry in entries:
        assert entry["source"] and all(entry[m] is None or 50 < entry[m] <= 100 for m in results.METRICS)


def test_the_committed_results_make_a_page() -> None:
    text = results_text(ROOT / "benchmarks")
    for entry in results.read_results(ROOT / "benchmarks" / "accuracy"):
        assert entry["backbone"] in text and entry["command"] in text


# ------------------------------------------------------------------ the commands


def test_the_factory_page_shows_what_was_measured() -> None:
    assert (ROOT / "book" / "factory.md").read_text(encoding="utf-8").count(results.FACTORY_PLACE) == 1
    report = json.loads((ROOT / "benchmarks" / "accuracy" / "factory.json").read_text(encoding="utf-8"))
    assert report["factory_version"] == VERSION and list(report["products"]) == list(PRODUCTS)
    text = results.factory_table(ROOT / "benchmarks")
    for product, entry in report["products"].items():
        assert f"{entry['patchcore'][0]['structural']['low']:.3f}" in text
        # What the factory was tuned to: see the page.
        assert statistics.fmean(run["structural"]["value"] for run in entry["patchcore"]) >= 0.95, product
        for kind in {"structural", "logical"} & entry["patchcore"][0].keys():
            for name in ("random", "mean image"):
                assert statistics.fmean(run[kind]["value"] for run in entry["baselines"][name]) < 0.8, (product, name)
        assert f"`{product}` {entry['pictures_per_second']['good']:.0f}" in text
    logical = [run["logical"]["value"] for run in report["products"]["kit"]["patchcore"]]
    assert all(value < 0.8 for value in logical)


def test_the_results_page_shows_the_speed() -> None:
    text = results_text(ROOT / "benchmarks")
    if not list((ROOT / "benchmarks" / "speed").glob("*.json")):
        assert "## Speed" not in text
        pytest.skip("the speed has not been measured yet: python -m benchmarks.speed.coreset")
    for path in (ROOT / "benchmarks" / "speed").glob("*.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        assert "--small" not in report["command"] and report["command"] in text
    for entry in json.loads((ROOT / "benchmarks" / "speed" / "coreset.json").read_text())["results"]:
        assert f"{entry['k']:,} of {entry['n']:,}" in text
        assert all(f"| {ratio:.1f} |" in text for ratio in entry["ratios"].values())
    found = {name: json.loads((ROOT / f"benchmarks/speed/{name}.json").read_text())["results"]
             for name in ("coreset", "neighbours", "metrics", "patchcore")}
    first, large = found["coreset"]  # what the book says of the speed
    assert first["ratios"]["anomalib_form"] >= 20 and first["ratios"]["official_form_128"] >= 10
    assert large["adlib"]["seconds"] <= 60 and large["adlib"]["extra_mb"] <= 1000
    assert all(e["to_faiss"]["adlib_prepared_bank"] <= 1.35 for e in found["neighbours"])
    assert all(e["ratio"] >= 1.3 for e in found["patchcore"])
    assert all(e["ratio"] >= 4 and e["difference"] < 1e-9 for e in found["metrics"] if e["images"] == 500)


def test_the_results_page_shows_simplenet() -> None:
    text = results_text(ROOT / "benchmarks")
    report = json.loads((ROOT / "benchmarks" / "accuracy" / "simplenet.json").read_text(encoding="utf-8"))
    rows: dict[tuple[str, str], list[float]] = {}
    for run in report["results"]:
        rows.setdefault((run["data"], run["options"]["decay"]), []).append(run["image_auroc"]["value"])
        assert run["best_on_test"] == pytest.approx(max(run["after_each_epoch"]))
        assert run["image_auroc"]["value"] == pytest.approx(run["after_each_epoch"][-1], abs=1e-5)  # not the best one
    assert {name for name, decay in rows if decay == "cosine"} == {*PRODUCTS, "bottle", "magnetic_tile"}
    for (name, _), values in rows.items():
        assert len(values) == (3 if name == "magnetic_tile" else 5), name
        assert f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}" in text, name
    speed = json.loads((ROOT / "benchmarks/speed/simplenet.json").read_text())["results"]
    ratio = {entry["what"]: entry["ratio"] for entry in speed}
    assert ratio["training"] >= 1 and ratio["scoring"] >= 2  # what the book says of the speed


def test_the_results_page_shows_efficientad() -> None:
    text = results_text(ROOT / "benchmarks")
    report = json.loads((ROOT / "benchmarks" / "accuracy" / "efficientad.json").read_text(encoding="utf-8"))
    runs = {name: [r for r in report["results"] if r["data"] == name] for name in [*PRODUCTS, "bottle"]}
    for name, found in runs.items():
        assert found and all(r["cpu_minutes"] <= 40 for r in found), name
        values = [r["structural"]["value"] for r in found]
        assert f"{statistics.fmean(values):.3f}" in text, name
    assert [r["seed"] for r in runs["kit"]] == [0, 1, 2]
    gains = [r["logical"]["value"] - r["patchcore"]["logical"]["value"] for r in runs["kit"]]
    difference = report["kit_logical_minus_patchcore"]  # what the book says
    assert difference["value"] == pytest.approx(statistics.fmean(gains)) and difference["value"] >= 0.10
    assert 0 < difference["low"] < difference["value"] < difference["high"]
    speed = json.loads((ROOT / "benchmarks/speed/efficientad.json").read_text())["results"]
    ratio = {entry["what"]: entry["ratio"] for entry in speed}
    assert ratio["forward"] >= 1 and ratio["training step"] >= 1 and ratio["channels_last"] >= 1.05
    assert all(f"| {entry['ratio']:.2f} |" in text for entry in speed)


def test_the_readme_shows_the_measured_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(results.README_TABLE.findall(readme)) == 1
    assert results.with_table(readme, ROOT / "benchmarks") == readme, "python book/tools/results.py --readme"


def test_make_help_lists_every_target() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    assert {"book", "test", "test-all", "test-fast", "notebooks", "lint", "help", "clean"} <= set(targets)
    assert all(f"make {target}" in text for target in targets)


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    old = tmp_path / "python3.9"
    pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "book", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "Python 3.11.4 or newer" in done.stderr and "3.9" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("ruff", "pyrefly", "tests", "status"), [
    (0, 0, 0, 0), (1, 0, 0, 2), (0, 1, 0, 2), (0, 0, 1, 2)])
def test_make_test_hides_no_failure(tmp_path: Path, ruff: int, pyrefly: int, tests: int, status: int) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):
        (tmp_path / name).touch()
    for name, code in (("ruff", ruff), ("pyrefly", pyrefly), ("python", tests)):
        program = tmp_path / ".venv" / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} \"$@\"\nexit {code}\n")
        program.chmod(0o755)
    done = subprocess.run(["make", "test-all"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status
    for said in ("ruff check .", "pyrefly check", "--nbval-lax", "--all notebooks tests"):
        assert said in done.stdout
