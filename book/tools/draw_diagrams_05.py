"""Draws the diagram of chapter 5 as an SVG file: ``python scripts/draw_diagrams_05.py``. See draw_diagrams.py."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from draw_diagrams import (
    ARROW,
    BLUE,
    EDGE,
    GREEN,
    HEAT,
    INK,
    ORANGE,
    PANEL,
    RED,
    SKY,
    SOFT,
    arrow,
    caption,
    circle,
    dashed_arrow,
    document,
    line,
    number,
    rect,
    shape,
    text,
    write,
)

LOSS = "#a84300"  # the red of the dashed arrows, dark enough for letters
LIGHT, GREENISH = "#cfe6f5", "#cdeade"  # what belongs to the teacher, and to the autoencoder
TOP, MIDDLE, BOTTOM = 82, 212, 342  # teacher, student, autoencoder
PICTURES, NETWORKS, FIRST, SECOND = 86, 310, 520, 604  # columns; T̂ and S stand in FIRST, S′ and A in SECOND
# Where the maps of the test image are high: row and column in a grid of six by six, and how fast it falls off.
BROKEN, TOO_MANY = (3.8, 1.3, 0.9), (1.4, 3.7, 0.6)


def method() -> str:
    """Above, three networks and what each is taught to match; below, the two differences that score a test image."""
    low = 570
    body = _inputs() + _networks() + _outputs()
    body += [line(28, 448, 832, 448, SOFT, 1, ' stroke-dasharray="4 5"')]
    body += _kit(PICTURES, low, 92, wrong=True)
    body += caption(PICTURES, low + 72, "Test image", "a bolt is broken,", "a disc too many")
    body += [arrow((138, low), (176, low)), rect(178, low - 32, 92, 64, SKY, INK, 8)]
    body += [text(224, low - 4, "the same", bold=True), text(224, low + 17, "networks", bold=True)]
    for y, spot, name, difference, words in (
        (low - 56, BROKEN, "ST", "*T̂* − *S*", "what is locally odd"),
        (low + 56, TOO_MANY, "AE", "*A* − *S*′", "what does not belong together"),
    ):
        body += [arrow((270, low), (288, low), (288, y), (310, y)), *_heat(358, y, 15, [spot])]
        body.append(
            _hatted(text(416, y - 24, f"*M*_{{{name}}} = mean of ({difference})²", 17, INK, "start", bold=True))
        )
        for i, (part, colour) in enumerate(((words, INK), ("normalised on", SOFT), ("held-out good images", SOFT))):
            body.append(text(416, y - 1 + 21 * i, part, colour=colour, anchor="start"))
        body.append(arrow((604, y + 25), (678, y + 25), (678, low), (708, low)))
    body += _heat(762, low, 17, [BROKEN, TOO_MANY]) + [text(762, low - 64, "average of both", colour=SOFT)]
    body += caption(762, low + 78, "Combined map", "the largest value is", "the image’s score")
    return document(
        "efficientad", 708,
        "EfficientAD: what its three networks are taught, and how two maps score an image",
        "Above, the training. Good images go into three networks: a frozen teacher with the output T hat, a student, "
        "and an autoencoder with the output A, which passes the image through a short code. The student's output has "
        "two halves, S and S prime. S is taught to match T hat by the loss L hard, in which only the largest "
        "differences count. A is taught to match T hat by the loss L AE, and S prime to match A by the loss L STAE, "
        "both on a slightly changed copy of the image. Outside images, which show anything but the product, go into "
        "the student alone; a penalty pulls S towards zero on them. Below, the scoring of a test image of a tray "
        "in which a bolt is broken and one disc is too many. The map M ST is the mean of T hat minus S squared; it is "
        "high at the broken bolt, which is locally odd. The map M AE is the mean of A minus S prime squared; it is "
        "high at the discs, which do not belong together. Each is normalised on held-out good images. Their average "
        "is the combined map, and its largest value is the image's score.",
        body,
    )  # fmt: skip


def _inputs() -> list[str]:
    """Good images for all three networks, outside images for the student alone."""
    trunk, start, end, outside = 178, 144, 244, 302
    parts = [part for shift in (14, 7, 0) for part in _kit(PICTURES + shift - 7, TOP - shift + 7, 84)]
    parts += caption(PICTURES, TOP + 76, "Good images", "no defects,", "no labels")
    parts.append(arrow((start, TOP), (end, TOP)))
    parts += [arrow((trunk, TOP), (trunk, y), (end, y)) for y in (MIDDLE - 16, BOTTOM)]
    # A gap in the line below shows that the two paths cross without meeting.
    parts.append(line(trunk - 7, outside, trunk + 7, outside, PANEL, 12))
    parts.append(arrow((130, outside), (208, outside), (208, MIDDLE + 16), (end, MIDDLE + 16)))
    return (
        parts
        + _outside(PICTURES, outside, 78)
        + caption(PICTURES, outside + 64, "Outside images", "anything but", "the product")
    )


def _networks() -> list[str]:
    """Grey is frozen, as in the other diagrams; what is trained is blue."""
    x, y, parts = NETWORKS, BOTTOM, []
    for middle, fill in ((TOP, "#d5dae1"), (MIDDLE, SKY)):
        corners = [(-62, -44), (62, -30), (62, 30), (-62, 44)]
        parts.append(shape([(x + dx, middle + dy) for dx, dy in corners], fill, INK))
    for side in (-1, 1):
        far, near = x + 62 * side, x + 13 * side
        parts.append(shape([(far, y - 42), (near, y - 11), (near, y + 11), (far, y + 42)], SKY, INK))
    parts += [rect(x - 13, y - 11, 26, 22, ORANGE, INK), text(x, y + 32, "code")]
    parts += [text(x, TOP - 3, "Teacher", 17, bold=True), text(x, TOP + 19, "frozen", colour=SOFT)]
    return [*parts, text(x, MIDDLE + 6, "Student", 17, bold=True), text(x, y + 66, "Autoencoder", 17, bold=True)]


def _outputs() -> list[str]:
    """What each network gives; a dashed arrow leads from what is followed to what follows."""
    bend = 732
    parts = [rect(FIRST - 44, MIDDLE - 44, SECOND - FIRST + 88, 88, "#ffffff", EDGE, 6)]  # S and S′: one network
    for x, y, name, fill in (
        (FIRST, TOP, "*T̂*", LIGHT),
        (FIRST, MIDDLE, "*S*", LIGHT),
        (SECOND, MIDDLE, "*S*′", GREENISH),
        (SECOND, BOTTOM, "*A*", GREENISH),
    ):
        parts += [rect(x - 38 + 19 * (i % 4), y - 38 + 19 * (i // 4), 19, 19, fill, "#ffffff") for i in range(16)]
        parts.append(_hatted(text(x, y + 8, name, 24, bold=True)))
    parts += [
        arrow((NETWORKS + 66, y), (end, y))
        for y, end in ((TOP, FIRST - 44), (MIDDLE, FIRST - 48), (BOTTOM, SECOND - 44))
    ]
    for points in (
        [(FIRST, TOP + 42), (FIRST, MIDDLE - 47)],
        [(SECOND, BOTTOM - 42), (SECOND, MIDDLE + 47)],
        [(FIRST + 42, TOP), (bend, TOP), (bend, BOTTOM), (SECOND + 44, BOTTOM)],
    ):
        parts.append(dashed_arrow(*points))
    parts += [text(FIRST - 14, TOP + 57, "*L*_{hard}", 18, LOSS, "end", bold=True)]
    parts += [text(FIRST - 14, TOP + 77, "largest differences", 15, SOFT, "end")]
    parts += [text(FIRST + 14, TOP + 77, "two halves of the channels", 15, SOFT, "start")]
    parts += [text(SECOND + 14, BOTTOM - 58, "*L*_{STAE}", 18, LOSS, "start", bold=True)]
    parts += [text(bend + 14, MIDDLE + 6, "*L*_{AE}", 18, LOSS, "start", bold=True)]
    parts += [text(FIRST - 34, MIDDLE + 68, "*S* → 0: penalty", 17, LOSS, bold=True)]
    parts += [text(FIRST - 34, MIDDLE + 89, "on outside images", colour=SOFT)]
    parts += [text(SECOND + 24, BOTTOM + 64, "dashed: from a target to what is taught", colour=SOFT)]
    return [*parts, text(SECOND + 24, BOTTOM + 86, "*L*_{AE} and *L*_{STAE}: on a slightly changed copy", colour=SOFT)]


def _hatted(drawn: str) -> str:
    """Many fonts lack the hat that joins a letter, and T̂ would come from another font: this puts their own ˆ over T."""
    hat = '<tspan dx="-0.42em" dy="-0.2em">ˆ</tspan><tspan dx="0.09em" dy="0.2em">&#8203;</tspan>'
    return drawn.replace("T̂", "T" + hat)


def _kit(x: float, y: float, side: float, wrong: bool = False) -> list[str]:
    """A tray of parts. In the wrong one a bolt is broken, and each disc is intact but one is too many."""
    metal, edge = "#aab4c0", "#5d6978"
    parts = [rect(-42, -42, 84, 84, "#ffffff", INK, 4, ' stroke-width="1.4"')]
    parts += [rect(dx, dy, 35, 35, "#eceff3", EDGE, 3) for dx in (-37, 2) for dy in (-37, 2)]
    parts += [circle(-19.5, -19.5, 12, metal, edge), circle(-19.5, -19.5, 5, "#ffffff", edge)]
    parts += [circle(dx, dy, 6.5, BLUE, INK) for dx, dy in ((11, -28), (27, -20), (12, -11))[: 3 if wrong else 2]]
    parts += [rect(8, 8, 23, 23, ORANGE, INK, 2), rect(12, 14, 15, 11, "#ffffff")]
    far = [(-16, 20), (-7, 26), (-10, 32), (-19, 26)] if wrong else [(-19, 16), (-5, 16), (-5, 23), (-19, 23)]
    parts += [shape(far, metal, edge), rect(-26, 16, 9, 7, metal, edge), rect(-33, 12, 7, 15, metal, edge, 1)]
    return [f'<g transform="translate({number(x)} {number(y)}) scale({side / 84:.3f})">', *parts, "</g>"]


def _outside(x: float, y: float, side: float) -> list[str]:
    """Discs and boxes that cover each other, such as the package draws where the user has no outside images."""
    chance, half = random.Random(5), side / 2
    parts = [rect(x - half, y - half, side, side, "#b9a88f", INK, 4, ' stroke-width="1.4"')]
    for i in range(26):
        r = max(0.05, 0.25 - 0.011 * i) * side
        px, py = (middle + chance.uniform(-1, 1) * (half - r - 2) for middle in (x, y))
        fill = chance.choice((BLUE, ORANGE, GREEN, RED, SKY, "#6b4f7a", "#f0e3c0", INK))
        parts.append(circle(px, py, r, fill) if i % 2 else rect(px - r, py - 0.7 * r, 2 * r, 1.4 * r, fill))
    return parts


def _heat(x: float, y: float, cell: float, spots: Sequence[tuple[float, float, float]]) -> list[str]:
    """A map in the colours of heat_grid, high around the spots; where there are several, the largest cell is framed."""
    left, top = x - 3 * cell, y - 3 * cell
    value = {
        (i, j): sum(math.exp(-((fall * math.hypot(i - row, j - column)) ** 2)) for row, column, fall in spots)
        for i in range(6)
        for j in range(6)
    }
    largest = max(value, key=value.get)
    parts = [
        rect(left + cell * j, top + cell * i, cell, cell, HEAT[round(5 * v / value[largest])], "#ffffff")
        for (i, j), v in value.items()
    ]
    if len(spots) > 1:
        i, j = largest
        parts.append(rect(left + cell * j, top + cell * i, cell, cell, "none", "#ffffff", 1, ' stroke-width="2.4"'))
    return parts


def training() -> str:
    """The upper half of ``method``, with what is added up."""
    y = 478
    body = [*_inputs(), *_networks(), *_outputs(), line(28, 446, 832, 446, SOFT, 1, ' stroke-dasharray="4 5"')]
    total = "*L* = *L*_{hard} + *L*_{pen} + *L*_{AE} + *L*_{STAE}"
    body += [text(430, y, total, 18, INK, bold=True)]
    remark = "one sum, one optimiser, for student and autoencoder; the teacher never changes"
    body.append(text(430, y + 24, remark, colour=SOFT))
    return document(
        "efficientad-training", 520,
        "EfficientAD, training: three networks and four terms of the loss",
        "Good images go into three networks: a frozen teacher with the output T hat, a student, and an autoencoder "
        "with the output A, which passes the image through a short code. The student's output has two halves, S and S "
        "prime. S is taught to match T hat by the loss L hard, in which only the largest differences count. A is "
        "taught to match T hat by the loss L AE, and S prime to match A by the loss L STAE, both on a slightly changed "
        "copy of the image. Outside images, which show anything but the product, go into the student alone; a penalty "
        "pulls S towards zero on them. The four terms are added, and one optimiser changes student and autoencoder.",
        body,
    )  # fmt: skip


def inference() -> str:
    """One image, four outputs, two differences on one scale, one map."""
    x, first, maps, end = 76, 350, 500, 780
    top, bottom = (66, 150), (262, 346)  # T̂ and S; S′ and A
    low = (top[1] + bottom[0]) / 2
    body = _kit(x, low, 92, wrong=True)
    body += caption(x, low + 76, "Test image", "a bolt is broken,", "a disc too many")
    for y, words, fill, outs in (
        (top[0], "Teacher", "#d5dae1", (top[0],)),
        (low, "Student", SKY, (top[1], bottom[0])),
        (bottom[1], "Autoencoder", SKY, (bottom[1],)),
    ):
        body += [rect(162, y - 28, 116, 56, fill, INK, 8), text(220, y + 6, words, 17, bold=True)]
        body.append(arrow((126, low), (144, low), (144, y), (160, y)) if y != low else arrow((126, y), (160, y)))
        for out in outs:  # the student's two halves leave by one line that forks
            path = ((280, y), (294, y), (294, out), (first - 36, out)) if out != y else ((280, y), (first - 36, y))
            body.append(arrow(*path))
    outputs = zip((*top, *bottom), ("*T̂*", "*S*", "*S*′", "*A*"), (LIGHT, LIGHT, GREENISH, GREENISH), strict=True)
    for y, name, fill in outputs:
        body += [rect(first - 34 + 17 * (i % 4), y - 34 + 17 * (i // 4), 17, 17, fill, "#ffffff") for i in range(16)]
        body.append(_hatted(text(first, y + 8, name, 22, bold=True)))
    for (one, two), spot, formula, offset in (
        (top, BROKEN, "*M*_{ST} = mean of (*T̂* − *S*)²", -56),
        (bottom, TOO_MANY, "*M*_{AE} = mean of (*A* − *S*′)²", 70),
    ):
        y = (one + two) / 2
        body += [arrow((first + 38, one), (402, one), (402, y), (maps - 50, y))]
        body += [line(first + 38, two, 402, two, ARROW, 2.4), line(402, two, 402, y, ARROW, 2.4)]
        body += _heat(maps, y, 15, [spot])
        body.append(_hatted(text(maps, y + offset, formula, 17, bold=True)))
        body += [arrow((maps + 50, y), (580, y)), rect(582, y - 30, 92, 60, "#ffffff", INK, 8)]
        body += [text(628, y - 4, "quantiles", bold=True), text(628, y + 17, "to 0 and 0.1", 15, SOFT)]
        body.append(arrow((676, y), (694, y), (694, low), (end - 58, low)))
    body += _heat(end, low, 17, [BROKEN, TOO_MANY])
    body += caption(end, low - 82, "Average", "of both maps")
    body += caption(end, low + 78, "Combined map", "the largest value is", "the image’s score")
    body += [text(628, low - 6, "from held-out", colour=SOFT), text(628, low + 15, "good images", colour=SOFT)]
    body += [text(maps, low - 6, "above: locally odd", colour=SOFT)]
    body += [text(maps, low + 15, "below: does not fit", colour=SOFT)]
    return document(
        "efficientad-inference", 416,
        "EfficientAD, inference: four outputs, two maps, one score",
        "A test image of a tray, in which a bolt is broken and one disc is too many, goes into the frozen teacher, the "
        "student and the autoencoder. The map M ST is the mean over channels of T hat minus S squared; it is high at "
        "the broken bolt, which is locally odd. The map M AE is the mean of A minus S prime squared; it is high at the "
        "discs, which do not belong together. Two quantiles of the maps of held-out good images are brought to 0 and "
        "0.1, so that both maps have one scale. Their average is the combined map, and its largest value is the "
        "image's score.",
        body,
    )  # fmt: skip


DIAGRAMS: dict[str, Callable[[], str]] = {
    "efficientad.svg": method,
    "efficientad-training.svg": training,
    "efficientad-inference.svg": inference,
}


if __name__ == "__main__":
    write(DIAGRAMS)
