"""What introduces the book: the guide, its numbers and the times cannot drift; the logo, and what a chat shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import nbformat
import pytest
import yaml
from docutils import nodes
from nbformat.v4 import new_markdown_cell, new_notebook
from PIL import Image

import build
import front
from repository import ROOT

STATIC = ROOT / "book" / "_static"


def test_the_guide_is_that_of_chapter_6(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    table = "| your case | take | because |\n|---|---|---|\n| small | *one*; exercise 3 | 1: a |\n| large | two | 2 |\n"
    path = tmp_path / "notebooks" / "06_comparison.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(f"## 6.7 A guide\n\n{table}\nMore.")]), path)
    monkeypatch.setattr(front, "ROOT", tmp_path)
    assert front.guide()[2:] == ["| small | *one*; chapter 6, exercise 3 |", "| large | two |"]
    nbformat.write(new_notebook(cells=[new_markdown_cell("No table.")]), path)
    with pytest.raises(ValueError, match="06_comparison.ipynb: expected one table .* found 0"):
        front.guide()


def test_the_numbers_of_the_guide_are_those_measured() -> None:
    report = json.loads((ROOT / "benchmarks/accuracy/comparison.json").read_text(encoding="utf-8"))
    names, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in front.guide_numbers()]
    assert names[1:] == ["PatchCore", "PatchCore, 128 pixels", "SimpleNet", "EfficientAD"] and len(rows) == 8
    for row, (product, kind) in zip(rows, front.BEHIND, strict=False):
        for way, figure in zip(front.COMPARED, row[1:], strict=True):
            runs = [r[kind]["value"] for r in report["results"] if (r["data"], r["way"]) == (product, way)]
            value, low, high = map(float, re.findall(r"\d\.\d\d", figure))
            assert len(runs) == 3 and abs(value - fmean(runs)) < 0.0056 and low <= value <= high
    assert rows[5][1].endswith(" ms") and rows[5][2] == "–" and rows[6][4].endswith(" s")
    real = json.loads((ROOT / "benchmarks/accuracy/real.json").read_text(encoding="utf-8"))["results"]
    assert rows[4][0].startswith("real magnetic tiles") and rows[4][2] == "–"
    for way, said in zip(front.COMPARED, rows[4][1:], strict=True):
        runs = [r["threshold"] for r in real if (r["data"], r["method"]) == ("magnetic_tile", way)]
        assert all(t["alpha"] == 0.05 for t in runs) and len(runs) in (0, 3)
        assert not runs or abs(fmean(t["defects_found"] for t in runs) - int(said) / 100) <= 0.005


@pytest.mark.parametrize(("seconds", "said"), [
    (3, "10 seconds"), (34, "30 seconds"), (84, "80 seconds"), (88, "1½ minutes"), (118, "2 minutes"),
    (139, "2½ minutes"), (290, "5 minutes")])
def test_a_time_is_said_as_one_says_it(seconds: int, said: str) -> None:
    assert front.about(seconds) == said


def test_times_are_those_of_the_last_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    for name, run in (("01_a", {"seconds": 31}), ("02_b", {"seconds": 118}), ("03_c", {})):
        notebook = new_notebook(cells=[new_markdown_cell("# A")], metadata={"adlib": {"run": run}})
        nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")
    monkeypatch.setattr(front, "ROOT", tmp_path)
    assert front.times(tmp_path / "notebooks") == "30 seconds to 2 minutes"
    rows = "| notebook | runs in |\n|---|---|\n| [A](notebooks/01_a.ipynb), [B](notebooks/02_b.ipynb) | – |\n"
    assert front.with_times(rows) == rows.replace("| – |", "| 2 minutes |")


def test_a_page_says_what_it_is() -> None:
    def told(base: str, name: str = "book/a", title: str = "1 · <em>Features</em>") -> dict[str, Any]:
        app = SimpleNamespace(config=SimpleNamespace(html_baseurl=base, root_doc="book/index"))
        context = {"docstitle": "A book", "title": title, "theme_logo": {"link": "x"}, "metatags": "<meta a>",
                   "pathto": lambda place, resource=0: f"../{place}"}
        front.introduce(app, name, "page.html", context, nodes.section("", nodes.paragraph("", 'What "it" is. More.')))
        return context

    context = told("")
    assert context["theme_logo"] == {"link": "x", "text": "A book", "alt_text": "Front page:"}
    assert context["metatags"].startswith("<meta a>") and context["title"] == "1 · <em>Features</em>"
    for line in ('<meta name="description" content="What &#34;it&#34; is. More." />',
                 '<meta property="og:title" content="1 · Features" />',
                 '<meta property="og:image" content="../_static/preview.jpg" />',
                 '<link rel="icon" type="image/svg+xml" href="../_static/logo.svg" />'):
        assert line in context["metatags"]
    assert 'content="https://a.org/b/_static/preview.jpg"' in told("https://a.org/b/")["metatags"]
    root = told("", "book/index", "A book")
    assert root["title"] == "adlib" and 'og:title" content="A book"' in root["metatags"]
    page = build.first_page(f"<head><title>adlib — A book</title>{root['metatags']}</head>")
    assert 'content="_static/preview.jpg"' in page and 'href="_static/logo.svg"' in page and "../" not in page
    assert "<title>adlib" in page and 'url=book/index.html"' in page
    app = SimpleNamespace(config=SimpleNamespace(html_baseurl="", root_doc="book/index"))
    front.introduce(app, "search", "search.html", context := {"docstitle": "A", "pathto": lambda *_: "p"}, None)
    assert "description" not in context["metatags"]


def test_a_description_ends_with_a_sentence_or_a_word() -> None:
    assert front.short("One.  Two\nthree.") == "One. Two three."
    assert front.short("One is here. Two is not there.", 20) == "One is here."
    assert front.short("One that has no end at all", 12) == "One that …"


def test_pictures_of_the_front_page_are_light_and_the_logo_is_the_one_of_the_settings() -> None:
    shown = re.findall(r"_static/(example-[\w-]+\.jpg)", (ROOT / "book" / "index.md").read_text(encoding="utf-8"))
    assert len(shown) == 6 and {name for name in shown if "marked" in name} == {
        name.replace(".jpg", "-marked.jpg") for name in shown if "marked" not in name}
    assert sum((STATIC / name).stat().st_size for name in shown) < 250_000
    with Image.open(STATIC / "preview.jpg") as preview, Image.open(STATIC / "brand" / "icon.png") as icon:
        assert preview.size == (1200, 630) and icon.size == (32, 32)
    assert (STATIC / "preview.jpg").stat().st_size < 150_000
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    assert (ROOT / settings["html_logo"]).name == "logo.svg" and (ROOT / settings["html_favicon"]).is_file()
    assert "html_theme_options" not in settings, "it would remove the theme's buttons"
    shapes = list(ElementTree.parse(ROOT / settings["html_logo"]).getroot().iter())
    assert [sum(shape.tag.endswith(kind) for shape in shapes) for kind in ("rect", "circle")] == [8, 1]
