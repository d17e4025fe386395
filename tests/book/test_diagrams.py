"""The diagrams: what the scripts draw today, legible on a page and on a phone, spoken by a screen reader."""

from __future__ import annotations

import importlib
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb

import draw_diagrams

PICTURES = Path(__file__).parents[2] / "book" / "_static"
DRAWN = draw_diagrams.all_diagrams()
SVG = "{http://www.w3.org/2000/svg}"
SHOWN_AT = 640  # pixels, the least width at which a page shows a diagram; custom.css sees to it on a phone


def tree(name: str) -> ElementTree.Element:
    return ElementTree.fromstring((PICTURES / name).read_bytes())


def letters(element: ElementTree.Element, size: float = 0.0, colour: str = "") -> list[tuple[str, float, str]]:
    """Each piece of text below the element, with its own size and colour."""
    size, colour = float(element.get("font-size", size)), element.get("fill", colour)
    found = [(element.text, size, colour)] if element.text else []
    for child in element:
        found += letters(child, size, colour) + ([(child.tail, size, colour)] if child.tail else [])
    return found


def luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it: from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_every_picture_has_a_script_and_every_script_a_picture() -> None:
    assert {path.name for path in PICTURES.glob("*.svg")} == set(DRAWN)


def test_no_two_scripts_draw_one_picture() -> None:
    names = [path.stem for path in Path(draw_diagrams.__file__).parent.glob("draw_diagrams*.py")]
    assert sum(len(importlib.import_module(name).DIAGRAMS) for name in names) == len(DRAWN)


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_the_committed_diagram_is_what_the_script_draws(name: str) -> None:
    committed = (PICTURES / name).read_bytes()
    assert DRAWN[name]().encode() == committed, "run: python book/tools/draw_diagrams.py"


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_screen_reader_can_speak_it(name: str) -> None:
    root = tree(name)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
    assert len(title.text) > 10 and len(description.text) > 80


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_its_letters_are_large_and_dark_enough(name: str) -> None:
    root = tree(name)
    panel = next(child for child in root if child.tag == f"{SVG}rect").get("fill")
    scale = SHOWN_AT / float(root.get("viewBox").split()[2])
    texts = [piece for text in root.iter(f"{SVG}text") for piece in letters(text)]
    assert texts
    for words, size, colour in texts:
        assert size * scale >= 11, (words, size * scale)
        ground = draw_diagrams.BLUE if colour == "#ffffff" else panel
        assert contrast(colour, ground) >= 4.5, (words, colour)


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_nothing_sticks_out(name: str) -> None:
    """No letter starts outside the drawing, and none of a line's anchor points lies beyond its edge."""
    root = tree(name)
    width, height = map(float, root.get("viewBox").split()[2:])
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.get("x")) < width and 0 < float(text.get("y")) < height, text.text


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_it_refers_to_nothing_outside_itself(name: str) -> None:
    source = (PICTURES / name).read_text(encoding="utf-8")
    addresses = set(re.findall(r"\w+://[^\s\"'<>]+", source))
    assert addresses == {"http://www.w3.org/2000/svg"}, "the name of the format, which nothing loads, is the only one"
    assert not re.search(r"\bhref\b|@import|<(?:image|script|style|foreignObject|use)\b", source)
    inside = {element.get("id") for element in tree(name).iter()}
    assert set(re.findall(r"url\(#?([^)]*)\)", source)) <= inside


def test_ids_are_unique_where_pictures_share_a_page() -> None:
    ids = [element.get("id") for name in DRAWN for element in tree(name).iter() if element.get("id")]
    assert len(ids) == len(set(ids))
