"""Draws the diagrams of chapter 1 as SVG files: ``python scripts/draw_diagrams_01.py``. See draw_diagrams.py."""

from __future__ import annotations

from collections.abc import Callable

from draw_diagrams import (
    ARROW,
    BLUE,
    INK,
    ORANGE,
    RED,
    SKY,
    SOFT,
    arrow,
    backbone,
    caption,
    circle,
    document,
    feature_grid,
    heat_grid,
    line,
    rect,
    shape,
    text,
    washer,
    write,
)


def features_and_scores() -> str:
    """The chapter in one row: picture, features, distances, score; below it, many scores and a measure."""
    y, columns = 92, (92, 256, 430, 600, 768)
    body = [*washer(columns[0], y, 104, defect=True), *backbone(columns[1], y)]
    body += [*feature_grid(columns[2], y, window=False), *heat_grid(columns[3], y)]
    body.append(rect(columns[4] - 46, y - 34, 92, 68, "#ffffff", INK, 10, ' stroke-width="1.6"'))
    body.append(text(columns[4], y + 12, "*s*", 36, bold=True))
    for start, end in ((152, 194), (319, 370), (491, 540), (659, 714)):
        body.append(arrow((start, y), (end, y)))
    top = 176
    body += caption(columns[0], top, "One picture")
    body += caption(columns[1], top, "Frozen network", "middle levels")
    body += caption(columns[2], top, "Features", "one list of numbers", "in each cell")
    body += caption(columns[3], top, "Distances", "to the nearest", "good cell")
    body += caption(columns[4], top, "Image score *s*", "the largest", "distance")
    body.append(arrow((columns[4], 230), (columns[4], 300), (columns[4] - 130, 300)))
    body.append(text(columns[4] - 10, 324, "many pictures", colour=SOFT))
    return document(
        "features-and-scores", 392,
        "From a picture to a score, and from many scores to a measure",
        "Upper row, from left to right: one picture goes through a frozen network; each cell of its feature map is a "
        "list of numbers; each cell gets its distance to the nearest good cell; the largest distance is the image "
        "score s. Lower row: the scores of many good and many defective pictures on one axis. The measure AUROC is "
        "the share of pairs in which the defective picture scores higher, and it is reported with an interval.",
        [*body, *_axis_of_scores(330), *_interval(330)],
    )  # fmt: skip


def _axis_of_scores(y: float) -> list[str]:
    """Scores of good pictures as blue dots, of defective ones as red diamonds, and one pair joined by a bow."""
    left, right = 300, 626
    parts = [line(left, y, right, y, INK, 2), text(left + 136, y + 40, "scores of good", 16, BLUE, "end")]
    parts.append(text(left + 141, y + 40, "and defective pictures", 16, "#a84300", "start"))
    good = (316, 334, 347, 360, 374, 391, 412, 452)
    defective = (402, 438, 478, 505, 531, 566, 602)
    parts += [circle(x, y - 11, 6, BLUE, INK, ' stroke-width="1"') for x in good]
    parts += [
        shape([(x, y + 3), (x + 8, y + 11), (x, y + 19), (x - 8, y + 11)], RED, INK, ' stroke-width="1"')
        for x in defective
    ]
    return parts


def _interval(y: float) -> list[str]:
    """A measured value as a dot on a bar with two ends."""
    left, right, value = 66, 190, 148
    parts = [arrow((288, y), (214, y)), line(left, y, right, y, BLUE, 3)]
    parts += [line(x, y - 9, x, y + 9, BLUE, 3) for x in (left, right)]
    parts += [circle(value, y, 7, INK), text(128, y - 24, "AUROC", 17, bold=True)]
    return [*parts, text(128, y + 40, "with its interval", colour=SOFT)]


def receptive_field() -> str:
    """A strip of pixels and two layers above it; the cone of one cell and of its neighbour."""
    cell, left, base = 30, 60, 250
    pixels, kernel, stride = 15, 3, 2
    rows: list[list[float]] = [[left + cell * (i + 0.5) for i in range(pixels)]]
    for _ in range(2):  # windows of 3 with stride 2, no padding
        below = rows[-1]
        rows.append([below[i + 1] for i in range(0, len(below) - kernel + 1, stride)])
    heights = [base, base - 92, base - 184]
    chosen, neighbour = 1, 2
    body = []
    for colour, top, opacity in ((ORANGE, neighbour, 0.3), (SKY, chosen, 0.5)):
        middle = [range(stride * top, stride * top + kernel)]
        first, last = stride * middle[0].start, stride * (middle[0].stop - 1) + kernel - 1
        half = cell / 2
        outline = [
            (rows[2][top] - half, heights[2] + half), (rows[1][middle[0].start] - half, heights[1] + half),
            (rows[0][first] - half, heights[0] + half), (rows[0][last] + half, heights[0] + half),
            (rows[1][middle[0].stop - 1] + half, heights[1] + half), (rows[2][top] + half, heights[2] + half),
        ]  # fmt: skip
        body.append(shape(outline, colour, "none", f' fill-opacity="{opacity}"'))
    for level, (xs, y) in enumerate(zip(rows, heights, strict=True)):
        for i, x in enumerate(xs):
            fill = "#ffffff"
            if level == 2 and i in (chosen, neighbour):
                fill = SKY if i == chosen else ORANGE
            body.append(rect(x - cell / 2 + 2, y - cell / 2 + 2, cell - 4, cell - 4, fill, INK, 3))
    body += _measures(rows, heights, cell)
    names = ("image: field 1, step 1", "layer 1: field 3, step 2", "layer 2: field 7, step 4")
    for name, words, y in zip(names, ("", "window 3, stride 2", "window 3, stride 2"), heights, strict=True):
        body.append(text(556, y + (0 if words else 6), name, 17, anchor="start", bold=True))
        body.append(text(556, y + 21, words, colour=SOFT, anchor="start"))
    return document(
        "receptive-field", 340,
        "Receptive fields: how many pixels one cell can see",
        "A strip of 15 pixels. Layer 1 has windows of 3 pixels with stride 2: each of its cells sees 3 pixels, 2 "
        "pixels apart. Layer 2 has windows of 3 such cells with stride 2: a cell sees 7 pixels, and its neighbour 7 "
        "pixels that start 4 further on.",
        body,
    )  # fmt: skip


def _measures(rows: list[list[float]], heights: list[float], cell: float) -> list[str]:
    """The field r of the first marked cell, and the step j to the next one, under the strip of pixels."""
    y, half = heights[0] + 34, cell / 2
    first, last = rows[0][4] - half, rows[0][10] + half
    parts = [line(first, y, last, y, BLUE, 3)]
    parts += [line(x, y - 7, x, y + 7, BLUE, 3) for x in (first, last)]
    parts.append(text((first + last) / 2, y + 24, "field: 3 + (3 − 1) · 2 = 7", 17, bold=True))
    above = heights[2] - 28
    start, end = rows[2][1], rows[2][2]
    parts.append(line(start, above, end, above, ARROW, 2.4))
    parts += [line(x, above - 6, x, above + 6, ARROW, 2.4) for x in (start, end)]
    parts.append(text((start + end) / 2, above - 8, "step: 2 · 2 = 4 pixels", 16, SOFT))
    return parts


DIAGRAMS: dict[str, Callable[[], str]] = {
    "features-and-scores.svg": features_and_scores,
    "receptive-field.svg": receptive_field,
}


if __name__ == "__main__":
    write(DIAGRAMS)
