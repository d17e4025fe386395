"""Draws the diagram of the four families: ``python scripts/draw_diagrams_00.py``. See draw_diagrams.py."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from draw_diagrams import BLUE, INK, caption, circle, diamond, document, line, rect, shape, text, write

Points = list[tuple[float, float]]
CENTRES = (112, 324, 536, 748)  # of the four panels
MIDDLE, HALF = 116, 96  # where a panel stands and half its side
LIGHT = "#cfe6f5"  # the region that a family calls normal
RADIUS = 68  # of the arc on which the patches of position A lie


def families() -> str:
    """The same good patches four times, each time with the region that a family calls normal, and one odd patch."""
    names = (
        ("Memory bank", "near any", "stored patch"),
        ("Distribution", "likely at its", "position, A or B"),
        ("One-class", "near one", "centre, after a map"),
        ("Teacher–student", "where the student", "repeats the teacher"),
    )
    regions = (_bank, _gaussians, _sphere, _agreement)
    body: list[str] = []
    for x, words, region in zip(CENTRES, names, regions, strict=True):
        arc, heap = _patches(x)
        body.append(rect(x - HALF, MIDDLE - HALF, 2 * HALF, 2 * HALF, "#ffffff", INK, 8, ' stroke-width="1.4"'))
        body += region(x, arc, heap)
        body += [circle(*p, 3.6, BLUE) for p in arc]
        body += [shape([(a, b - 5), (a + 4.5, b + 3.5), (a - 4.5, b + 3.5)], "#ffffff", INK) for a, b in heap]
        body += [diamond(x, MIDDLE + 17), text(x + 16, MIDDLE + 23, "*q*", 18, bold=True)]
        body += caption(x, 238, *words)
    key = 312
    body += [circle(128, key - 5, 4, BLUE), text(140, key, "good patches of position A", anchor="start")]
    body.append(shape([(372, key - 11), (377, key), (367, key)], "#ffffff", INK))
    body += [text(386, key, "of position B", anchor="start"), diamond(518, key - 5)]
    body += [text(532, key, "*q*: a patch to judge", anchor="start")]
    return document(
        "families", 332,
        "Four families, and the region that each calls normal",
        "The same picture four times: good patches of position A lie on an arc, those of position B in a heap under "
        "it, and a patch q stands in the empty space between. Memory bank: a small disc around every good patch is "
        "normal, and q is far from all. Distribution: one ellipse for each position; q lies outside both. One-class: "
        "one large circle around all good patches; q is close to its centre and looks normal. Teacher and student: an "
        "irregular region around arc and heap, where the student repeats the teacher; q lies just outside.",
        body,
    )  # fmt: skip


def _patches(x: float) -> tuple[Points, Points]:
    """The same for every panel: an arc and a heap below it."""
    chance = random.Random(3)
    arc, heap = [], []
    for i in range(26):
        angle, r = math.radians(18 + 5.8 * i), RADIUS + chance.uniform(-7, 7)
        arc.append((x + r * math.cos(angle), MIDDLE + 22 - r * math.sin(angle)))
    for i in range(10):
        angle, r = 2.4 * i, 5.2 * math.sqrt(i)
        heap.append((x + r * math.cos(angle), MIDDLE + 58 + r * math.sin(angle)))
    return arc, heap


def _bank(_: float, arc: Points, heap: Points) -> list[str]:
    """Discs with a dark rim, then the same discs a little smaller: only the outer rim of their union is left."""
    points = arc + heap
    return [circle(*p, 11.4, BLUE) for p in points] + [circle(*p, 9.6, LIGHT) for p in points]


def _oval(x: float, y: float, a: float, b: float, fill: str, more: str) -> str:
    turns = [2 * math.pi * i / 60 for i in range(60)]
    return shape([(x + a * math.cos(t), y + b * math.sin(t)) for t in turns], fill, BLUE, ' stroke-width="2"' + more)


def _gaussians(x: float, arc: Points, heap: Points) -> list[str]:
    dashed = ' stroke-dasharray="5 3"'
    parts = [_oval(x, MIDDLE - 26, 84, 31, LIGHT, ""), _oval(x, MIDDLE + 58, 26, 26, LIGHT, dashed)]
    return [*parts, text(x - 80, MIDDLE - 64, "A", 17, bold=True), text(x + 38, MIDDLE + 82, "B", 17, bold=True)]


def _sphere(x: float, arc: Points, heap: Points) -> list[str]:
    y = MIDDLE + 4
    cross = [line(x - 22, y, x - 10, y, INK, 2), line(x - 16, y - 6, x - 16, y + 6, INK, 2)]
    return [circle(x - 4, y, 82, LIGHT, BLUE, ' stroke-width="2"'), *cross, text(x - 16, y - 14, "centre", 15)]


def _agreement(x: float, arc: Points, heap: Points) -> list[str]:
    """A wavy band around the arc and a wavy blob around the heap."""
    y, steps = MIDDLE + 22, [math.radians(8 + 4.1 * i) for i in range(41)]
    outer = [(RADIUS + 15 + 4 * math.sin(5 * t), t) for t in steps]
    inner = [(RADIUS - 16 - 5 * math.sin(6 * t + 1), t) for t in reversed(steps)]
    band = [(x + r * math.cos(t), y - r * math.sin(t)) for r, t in outer + inner]
    turns = [2 * math.pi * i / 60 for i in range(60)]
    blob = [(x + r * math.cos(t), MIDDLE + 58 + r * math.sin(t))
            for t in turns for r in [24 + 4 * math.sin(3 * t) + 3 * math.cos(2 * t)]]
    rim = ' stroke-width="2" stroke-linejoin="round"'
    return [shape(band, LIGHT, BLUE, rim), shape(blob, LIGHT, BLUE, rim)]


DIAGRAMS: dict[str, Callable[[], str]] = {"families.svg": families}


if __name__ == "__main__":
    write(DIAGRAMS)
