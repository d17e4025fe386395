"""Draws the diagram of chapter 4 as an SVG file: ``python scripts/draw_diagrams_04.py``. See draw_diagrams.py."""

from __future__ import annotations

from collections.abc import Callable

from draw_diagrams import (
    BLUE,
    INK,
    OUT,
    RED,
    SKY,
    SOFT,
    arrow,
    backbone,
    caption,
    circle,
    cloud,
    diamond,
    document,
    feature_grid,
    heat_grid,
    line,
    rect,
    text,
    washer,
)

COLUMNS = (84, 232, 384, 520, 662, 790)


def method() -> str:
    """Above, the training with two ways into the discriminator; below, the score of a test image."""
    y, low = 140, 384
    body: list[str] = []
    for shift in (14, 7, 0):
        body += washer(COLUMNS[0] + shift - 7, y - shift + 7, 92)
    body += backbone(COLUMNS[1], y) + feature_grid(COLUMNS[2], y, window=False) + _box(COLUMNS[3], y, "*G*")
    body += _features(COLUMNS[4], y) + _thresholds(COLUMNS[5], y)
    for left, right in ((145, 166), (295, 327), (440, 486), (554, 596)):
        body.append(arrow((left, y), (right, y)))
    body += [text(COLUMNS[4], 40, "+ noise *ε*", 17, "#a84300", bold=True), text(COLUMNS[5], 40, "*D*", 18, bold=True)]
    body.append(arrow((728, y), (752, y)))
    top = 226
    body += caption(COLUMNS[0], top, "Good images", "no defects,", "no labels")
    body += caption(COLUMNS[1], top, "Frozen backbone", "maps of layer2", "and layer3")
    body += caption(COLUMNS[2], top, "Features *o*", "computed once")
    body += caption(COLUMNS[3], top, "Adaptor", "one layer")
    body += caption(COLUMNS[4], top, "*q* and *q*⁻ = *q* + *ε*", "good ones, and", "stand-ins for bad")
    body += caption(COLUMNS[5], top, "Discriminator", "good above *th*⁺,", "noisy below *th*⁻")
    body += [line(28, 292, 832, 292, SOFT, 1, ' stroke-dasharray="4 5"')]
    body += washer(COLUMNS[0], low, 92, defect=True) + backbone(COLUMNS[1], low)
    body += feature_grid(COLUMNS[2], low, window=False) + _box(COLUMNS[3] + 36, low, "*D*(*G*(·))", 124)
    body += heat_grid(COLUMNS[5] - 40, low)
    for left, right in ((136, 166), (295, 327), (440, 490), (622, 690)):
        body.append(arrow((left, low), (right, low)))
    body += [text(656, low - 14, "*s* = −*D*", 17, bold=True)]
    top = 462
    body += caption(COLUMNS[0], top, "Test image") + caption(COLUMNS[2], top, "Features *o*")
    body += caption(COLUMNS[3] + 36, top, "Folded", "two layers are left")
    body += caption(COLUMNS[5] - 40, top, "Patch scores", "the largest one", "is that of the image")
    return document(
        "simplenet", 522,
        "SimpleNet: how it is trained, and how it scores an image",
        "Above, the training. Good images go through a frozen backbone, whose patch features o are computed once. The "
        "adaptor G turns each into a feature q. A copy of q with Gaussian noise epsilon stands in for a bad feature. "
        "The discriminator D is taught to give good features a value above the threshold th plus and noisy ones a "
        "value below th minus. Below, the scoring: the features of a test image go through adaptor and discriminator, "
        "folded into two layers. The score of a patch is minus D, and the largest patch score is that of the image.",
        body,
    )  # fmt: skip


def _box(x: float, y: float, words: str, width: float = 64) -> list[str]:
    return [rect(x - width / 2, y - 30, width, 60, SKY, INK, 8), text(x, y + 6, words, 18, bold=True)]


def _features(x: float, y: float) -> list[str]:
    """Blue dots, and for some of them a red diamond a short step away."""
    points = cloud(x, y, seed=9, count=22, reach=46)
    parts = []
    for i, (px, py) in enumerate(points[::3]):
        dx, dy = ((20, -12), (-19, 13), (14, 19), (-15, -18))[i % 4]
        parts += [line(px, py, px + dx, py + dy, RED, 1.8), diamond(px + dx, py + dy, 5)]
    return [*(circle(px, py, 3.6, BLUE) for px, py in points), *parts]


def _thresholds(x: float, y: float) -> list[str]:
    """A scale with both thresholds, good features above, noisy ones below."""
    parts = [line(x - 18, y - 70, x - 18, y + 62, INK, 2)]
    for level, name in ((-24, "*th*⁺"), (24, "*th*⁻")):
        parts += [line(x - 24, y + level, x - 12, y + level, INK, 2.4), text(x + 28, y + level + 6, name, 16)]
    parts += [circle(x - 18 + dx, y + dy, 4, BLUE) for dx, dy in ((-8, -62), (7, -53), (-6, -43), (8, -34))]
    return parts + [diamond(x - 18 + dx, y + dy, 5) for dx, dy in ((8, 36), (-7, 44), (6, 55))]


DIAGRAMS: dict[str, Callable[[], str]] = {"simplenet.svg": method}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for name, draw in DIAGRAMS.items():
        (OUT / name).write_bytes(draw().encode())
        print(f"wrote {OUT / name}")


if __name__ == "__main__":
    main()
