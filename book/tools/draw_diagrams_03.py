"""Draws the diagrams of chapter 3 as SVG files: ``python scripts/draw_diagrams_03.py``. See draw_diagrams.py."""

from __future__ import annotations

import math
from collections.abc import Callable

from draw_diagrams import (
    BLUE,
    EDGE,
    INK,
    ORANGE,
    RED,
    SKY,
    SOFT,
    answers,
    arrow,
    backbone,
    caption,
    circle,
    cloud,
    diamond,
    document,
    feature_grid,
    greedy,
    line,
    rect,
    text,
    washer,
    write,
)


def training() -> str:
    """Three inputs from one image, one network, three directions, and what the loss does with them."""
    rows = (74, 186, 298)
    body: list[str] = []
    names = (("*x*", "the image"), ("*x*⁺", "weak copy"), ("*x*⁻", "weak copy", "with a patch"))
    for y, (symbol, *words) in zip(rows, names, strict=True):
        body += washer(150 if symbol == "*x*" else 154, y if symbol == "*x*" else y + 3, 88)
        body.append(text(22, y - 4, symbol, 20, anchor="start", bold=True))
        body += [text(22, y + 17 + 18 * i, word, 15, SOFT, "start") for i, word in enumerate(words)]
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


def inference() -> str:
    """SPD's network in place of PatchCore's: above, the memory bank; below, the score of a test image."""
    high, low, columns = 92, 300, (84, 246, 402, 562, 760)
    body: list[str] = []
    for shift in (14, 7, 0):
        body += washer(columns[0] + shift - 7, high - shift + 7, 92)
    body += backbone(columns[1], high) + feature_grid(columns[2], high) + _coreset(columns[3], high)
    body += washer(columns[0], low, 104, defect=True) + backbone(columns[1], low)
    body += feature_grid(columns[2], low, window=False)
    body += answers("spd-inference", columns[3], columns[4], low, low + 254)
    for y, spans in ((high, ((146, 180), (309, 345), (457, 501))), (low, ((140, 180), (309, 345), (457, 505)))):
        body += [arrow((start, y), (end, y)) for start, end in spans]
    body.append(arrow((columns[3], high + 62), (columns[3], low - 56)))
    body += [line(columns[1], high + 102, columns[1], low - 58, SOFT, 1.6, ' stroke-dasharray="5 4"')]
    body += [text(columns[1] + 10, (high + low) / 2 + 20, "the same network, frozen", colour=SOFT, anchor="start")]
    body += caption(columns[0], high + 84, "Good images") + caption(columns[1], high + 78, "Backbone of SPD")
    body += caption(columns[2], high + 78, "Patch features")
    body += caption(columns[3] + 132, high - 8, "Coreset *M*_{C}", "of PatchCore")
    body += caption(columns[0], low + 84, "Test image")
    body += caption(columns[1], low + 84, "Backbone of SPD", "without its head")
    body += caption(columns[2], low + 84, "Patch features")
    body += caption(columns[3], low + 84, "Patch scores", "distance to the", "nearest patch")
    body += caption(columns[4], low + 60, "Image score *s*")
    body += [rect(34, low + 196, 380, 116, "#ffffff", EDGE, 8)]
    remarks = (
        "What SPD changes, and what it does not",
        "Only the network’s weights are other ones.",
        "The head is thrown away after the training.",
        "All else is PatchCore, as in chapter 2.",
    )
    for i, words in enumerate(remarks):
        body.append(text(52, low + 224 + 24 * i, words, 16 + (i == 0), SOFT if i else INK, "start", bold=i == 0))
    return document(
        "spd-inference", low + 370,
        "SPD at inference: its backbone inside PatchCore",
        "SPD is no detector; its trained backbone takes the place of PatchCore's, and its head is thrown away. Above: "
        "good images go through this backbone, frozen, to patch features, of which a coreset M_C is kept. Below: a "
        "test image goes through the same backbone. The distance of each patch feature to the nearest one in the "
        "coreset is its patch score. The largest gives the image score s; enlarged and smoothed, the patch scores are "
        "the anomaly map, and what exceeds a threshold there are the defect regions.",
        body,
    )  # fmt: skip


def _coreset(x: float, y: float) -> list[str]:
    """A cloud of patch features, those that are kept drawn as diamonds."""
    bank = cloud(x, y, seed=4)
    kept = greedy(bank, 8)
    rest = [circle(*p, 2.6, "#a3adb9") for i, p in enumerate(bank) if i not in kept]
    return rest + [diamond(*bank[i]) for i in kept]


DIAGRAMS: dict[str, Callable[[], str]] = {"spd-training.svg": training, "spd-inference.svg": inference}


if __name__ == "__main__":
    write(DIAGRAMS)
