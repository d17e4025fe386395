"""The diagrams: one style, legible on a page and on a phone, spoken by a screen reader, and shown somewhere."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from book_walk import need_chromium
from browser import chromium
from repository import ROOT

FOLDER = ROOT / "book" / "_static"
TREES = {path.name: ElementTree.parse(path).getroot() for path in sorted(FOLDER.glob("*.svg"))}
SVG = "{http://www.w3.org/2000/svg}"
# Each text with its size where a page shows the diagram 640 pixels wide, its colour and the one under its middle.
TEXTS = """() => [...document.querySelectorAll("text, tspan")].map(e => {
  const rgb = colour => colour.match(/\\d+/g).map(Number), own = getComputedStyle(e), box = e.getBoundingClientRect();
  const ground = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2)
    .filter(e => e.matches("rect, circle, ellipse, polygon")).map(e => getComputedStyle(e))
    .filter(s => s.fill.startsWith("rgb"))
    .reduceRight((below, s) => rgb(s.fill).map((c, i) => below[i] + s.fillOpacity * (c - below[i])), [255, 255, 255]);
  return [e.textContent, parseFloat(own.fontSize) * 640 / innerWidth, rgb(own.fill), ground]; })"""
STICK_OUT = """() => [...document.querySelectorAll("text, svg > rect, g > *")].filter(e => {
  const {left, top, right, bottom} = e.getBoundingClientRect();
  return left < 0 || top < 0 || right > innerWidth || bottom > innerHeight; }).map(e => e.outerHTML)"""


def luminance(colour: list[float]) -> float:  # as WCAG 2 defines it
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_letters_are_large_and_dark_enough_and_nothing_sticks_out() -> None:
    need_chromium()
    with chromium() as browser:
        for name, root in TREES.items():
            page = browser.new_page(viewport={side: int(root.get(side)) for side in ("width", "height")})
            page.goto((FOLDER / name).as_uri())
            for words, size, colour, ground in page.evaluate(TEXTS):
                dark, light = sorted((luminance(colour), luminance(ground)))
                assert size >= 11 and (light + 0.05) / (dark + 0.05) >= 4.5, (name, words, size, colour, ground)
            assert page.evaluate(STICK_OUT) == [], name


@pytest.mark.parametrize("name", TREES)
def test_a_screen_reader_can_speak_it_and_it_stands_alone(name: str) -> None:
    root, source = TREES[name], (FOLDER / name).read_text(encoding="utf-8")
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img" and len(title.text) > 10 and len(description.text) > 80
    assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
    assert not re.search(r"<(?:script|foreignObject|image|use)\b|\s(?:style|(?:\w+:)?href|on\w+)=|@import", source)
    assert re.findall(r"\w+://[^\s\"'<>)]+", source) == ["http://www.w3.org/2000/svg"], "the name of the format alone"
    assert set(re.findall(r"url\(\s*([^)]*)\)", source)) <= {f"#{element.get('id')}" for element in root.iter()}


def test_all_have_one_style_sheet_and_ids_of_their_own_and_each_is_shown() -> None:
    (sheet,) = {style.text for root in TREES.values() for style in root.iter(f"{SVG}style")}
    elements = [element for root in TREES.values() for element in root.iter()]
    assert sum(element.tag == f"{SVG}style" for element in elements) == len(TREES)
    assert set(re.findall(r"\.([a-z]\w*)", sheet)) == {c for e in elements for c in e.get("class", "").split()}
    ids = [element.get("id") for element in elements if element.get("id")]
    assert len(ids) == len(set(ids))
    pages = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "book").glob("*.md")]
    shown = "".join(path.read_text(encoding="utf-8") for path in pages)
    assert [name for name in TREES if f"_static/{name}" not in shown] == []
