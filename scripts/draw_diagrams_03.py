"""Draws the diagrams of chapter 3 as SVG files: ``python scripts/draw_diagrams_03.py``. See draw_diagrams.py."""

from __future__ import annotations

import math
from collections.abc import Callable

from draw_diagrams import (
    BLUE,
    INK,
    ORANGE,
    OUT,
    RED,
    SKY,
    SOFT,
    arrow,
    backbone,
    caption,
    circle,
    document,
    line,
    rect,
    text,
    washer,
)


def training() -> str:
    """Three inputs from one image, one network, three directions, and what the loss does with them."""
    rows = (74, 186, 298)
    body: list[str] = []
    names = (("*x*", "the image"), ("*x*⁺", "weak copy"), ("*x*⁻", "weak copy", "with a patch"))
    for y, (symbol, *words) in zip(rows, names, strict=True):
        body += washer(150 if symbol == "*x*" else 154, y if symbol == "*x*" else y + 3, 88)
        body.append(text(22, y - 4, symbol, 20, anchor="start", bold=True))
        body += [text(22, y + 17 + 18 * i, word, 14, SOFT, "start") for i, word in enumerate(words)]
    body += [rect(172, rows[2] - 26, 22, 18, ORANGE, INK, 7, ' fill-opacity="0.85"')]
    for y in rows:
        body.append(arrow((206, y), (236, y), (236, rows[1]), (262, rows[1])))
    body += backbone(322, rows[1])
    body += caption(322, rows[1] + 84, "One network", "all three in one pass")
    body += [arrow((386, rows[1]), (410, rows[1])), rect(412, rows[1] - 30, 62, 60, SKY, INK, 8)]
    body += [text(443, rows[1] + 6, "head", 17, bold=True), arrow((476, rows[1]), (508, rows[1]))]
    body += _directions(600, rows[1])
    body += caption(600, rows[1] + 122, "Directions of the projections")
    body += [text(772, rows[1] - 84, "*L* = *L*_{base} + *η L*_{SPD}", 17, bold=True)]
    body += [text(772, rows[1] - 6, "*L*_{SPD} =", 17), text(772, rows[1] + 20, "cos(*z*, *z*⁻)", 17, "#a84300")]
    body += [text(772, rows[1] + 46, "− cos(*z*, *z*⁺)", 17, BLUE)]
    return document(
        "spd-training", 366,
        "How SPD trains: an image, a weak copy, and a weak copy with a patch blended in",
        "From one image three inputs are made: the image itself, a weakly changed copy, and a weakly changed copy into "
        "which a small patch is blended. All three go through one network and a head, in one pass, and give the "
        "vectors z, z plus and z minus. The loss L SPD is the cosine of z and z minus, less the cosine of z and z "
        "plus: it pulls z plus towards z and pushes z minus away. It is added, with the weight eta, to the loss of an "
        "ordinary pre-training.",
        body,
    )  # fmt: skip


def _directions(x: float, y: float) -> list[str]:
    """Three arrows from the middle of a circle, and a bow that opens between two of them."""
    radius = 78
    parts = [circle(x, y, radius, "#ffffff", SOFT, ' stroke-dasharray="4 4"')]
    for angle, colour, name in ((62, INK, "*z*"), (36, BLUE, "*z*⁺"), (-28, RED, "*z*⁻")):
        a = math.radians(angle)
        c, s = math.cos(a), -math.sin(a)
        parts.append(line(x, y, x + radius * c, y + radius * s, colour, 4))
        parts.append(circle(x + radius * c, y + radius * s, 6, colour, INK))
        parts.append(text(x + (radius + 20) * c, y + (radius + 20) * s + 5, name, 18, bold=True))
    return [*parts, circle(x, y, 4, INK)]


DIAGRAMS: dict[str, Callable[[], str]] = {"spd-training.svg": training}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for name, draw in DIAGRAMS.items():
        (OUT / name).write_bytes(draw().encode())
        print(f"wrote {OUT / name}")


if __name__ == "__main__":
    main()
