"""Draws the book's diagrams as SVG files, all in one style: ``python book/tools/draw_diagrams.py`` draws every one.

Here are the shapes that all share, and the diagrams of chapter 2; draw_diagrams_NN.py has those of chapter NN.

The drawings are plain SVG text, so that they need no other program and a change shows in a diff. Each stands on its
own light panel and reads the same on a light and on a dark page. The files in book/_static are committed; a test fails
where they differ from what this script draws.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable
from html import escape
from pathlib import Path

OUT = Path(__file__).parents[2] / "book" / "_static"
WIDTH = 860  # drawn units; a page shows a diagram about 700 pixels wide, and never less than 640
SMALLEST = 15  # the size of the smallest letters: 11 pixels where 860 units are 640 pixels wide
INK, SOFT, ARROW, PANEL, EDGE = "#1f2933", "#475260", "#475260", "#f6f7f9", "#c3cad3"
BLUE, ORANGE, RED, SKY, GREEN = "#0072B2", "#E69F00", "#D55E00", "#56B4E9", "#009E73"
# Anomaly scores from low to high, in the colours that adlib.plots gives to maps; lightness rises steadily.
HEAT = ("#1b0c41", "#4a0c6b", "#a52c60", "#e65c31", "#fb9b06", "#f7d13d")


def document(name: str, height: int, title: str, description: str, body: list[str]) -> str:
    """A whole SVG file around the shapes of ``body``, with the texts that a screen reader speaks."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img" aria-labelledby="{name}-title {name}-desc" font-family="sans-serif">',
        f'<title id="{name}-title">{escape(title)}</title>',
        f'<desc id="{name}-desc">{escape(description)}</desc>',
        rect(1, 1, WIDTH - 2, height - 2, PANEL, EDGE, radius=14),
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """One decimal is a tenth of a pixel; it also hides what the last bits of a machine's arithmetic may change."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")  # adding 0.0 turns -0.0 into 0.0


def rect(
    x: float, y: float, w: float, h: float, fill: str, stroke: str = "none", radius: float = 0, more: str = ""
) -> str:
    return (
        f'<rect x="{number(x)}" y="{number(y)}" width="{number(w)}" height="{number(h)}" rx="{number(radius)}" '
        f'fill="{fill}" stroke="{stroke}"{more}/>'
    )


def circle(x: float, y: float, r: float, fill: str, stroke: str = "none", more: str = "") -> str:
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(r)}" fill="{fill}" stroke="{stroke}"{more}/>'


def diamond(x: float, y: float, r: float = 6.5, fill: str = RED) -> str:
    return shape([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill, INK, ' stroke-width="1.2"')


def shape(points: list[tuple[float, float]], fill: str, stroke: str = "none", more: str = "") -> str:
    corners = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return f'<polygon points="{corners}" fill="{fill}" stroke="{stroke}"{more}/>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = ARROW, width: float = 2, more: str = "") -> str:
    return (
        f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" stroke="{colour}" '
        f'stroke-width="{number(width)}"{more}/>'
    )


def text(
    x: float, y: float, words: str, size: int = 16, colour: str = INK, anchor: str = "middle", bold: bool = False
) -> str:
    """A line of text. ``_{…}`` sets an index and ``*…*`` italics, as in ``*M*_{C}``."""
    parts, italic, low = [], False, False
    for piece in words.replace("_{", "\0_").replace("}", "\0^").replace("*", "\0*").split("\0"):
        mark, rest = (piece[0], piece[1:]) if piece[:1] in ("_", "^", "*") else ("", piece)
        shift = {"_": ' dy="4"', "^": ' dy="-4"'}.get(mark, "")
        italic, low = italic != (mark == "*"), mark == "_" or (low and mark != "^")
        if rest or shift:
            style = ' font-style="italic"' * italic + f' font-size="{max(size - 4, SMALLEST)}"' * low
            # A shift needs a letter to act on; the zero-width space carries it where none follows.
            parts.append(
                f"<tspan{shift}{style}>{escape(rest) or '&#8203;'}</tspan>" if shift or style else escape(rest)
            )
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{number(x)}" y="{number(y)}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>'
        f"{''.join(parts)}</text>"
    )


def arrow(*points: tuple[float, float]) -> str:
    """A line through the points, with a head at its end."""
    (x1, y1), (x2, y2) = points[-2:]
    length = math.hypot(x2 - x1, y2 - y1)
    ux, uy = (x2 - x1) / length, (y2 - y1) / length
    head = [(x2, y2), (x2 - 11 * ux - 6 * uy, y2 - 11 * uy + 6 * ux), (x2 - 11 * ux + 6 * uy, y2 - 11 * uy - 6 * ux)]
    shaft = " ".join(f"{number(x)},{number(y)}" for x, y in [*points[:-1], (x2 - 9 * ux, y2 - 9 * uy)])
    return (
        f'<polyline points="{shaft}" fill="none" stroke="{ARROW}" stroke-width="2.4" stroke-linejoin="round"/>'
        + shape(head, ARROW)
    )


def dashed_arrow(*points: tuple[float, float]) -> str:
    """A red one: the way of a loss, from a target to what is taught."""
    dashed = 'stroke-linejoin="round" stroke-dasharray="7 4"'
    return arrow(*points).replace(ARROW, RED).replace('stroke-linejoin="round"', dashed)


def caption(x: float, y: float, heading: str, *lines: str) -> list[str]:
    below = [text(x, y + 21 * (i + 1), words, colour=SOFT) for i, words in enumerate(lines)]
    return [text(x, y, heading, 17, bold=True), *below]


def washer(x: float, y: float, side: float, defect: bool = False) -> list[str]:
    """A picture of a washer, the part that the book's factory makes; ``x, y`` is the middle."""
    half = side / 2
    parts = [
        rect(x - half, y - half, side, side, "#ffffff", INK, 4, ' stroke-width="1.4"'),
        circle(x, y, 0.37 * side, "#aab4c0", "#5d6978", ' stroke-width="1.4"'),
        circle(x, y, 0.16 * side, "#ffffff", "#5d6978", ' stroke-width="1.4"'),
    ]
    if defect:
        crack = [(0.17, -0.25), (0.21, -0.17), (0.17, -0.13), (0.24, -0.04)]
        corners = " ".join(f"{number(x + a * side)},{number(y + b * side)}" for a, b in crack)
        parts.append(f'<polyline points="{corners}" fill="none" stroke="{INK}" stroke-width="4"/>')
    return parts


def backbone(x: float, y: float) -> list[str]:
    """Three blocks of a network that get smaller from left to right; the two that are used are blue."""
    parts = []
    for i, (height, colour, name) in enumerate([(104, "#d5dae1", "1"), (78, BLUE, "2"), (54, BLUE, "3")]):
        left = x - 54 + 38 * i
        h, k = height / 2, height / 2 - 9
        parts.append(shape([(left, y - h), (left + 32, y - k), (left + 32, y + k), (left, y + h)], colour, INK))
        parts.append(text(left + 16, y + 6, name, 17, "#ffffff" if i else INK, bold=True))
    return parts


def feature_grid(x: float, y: float, window: bool = True) -> list[str]:
    """A grid of feature positions; a p by p neighbourhood is framed, a dot marks the positions one stride apart."""
    cell, cells = 17, 6
    left, top = x - cell * cells / 2, y - cell * cells / 2
    parts = []
    for i in range(cells):
        for j in range(cells):
            parts.append(rect(left + cell * j, top + cell * i, cell, cell, "#cfe6f5", "#ffffff"))
    if window:
        parts.append(
            rect(left + cell, top + cell, 3 * cell, 3 * cell, SKY, INK, 2, ' fill-opacity="0.75" stroke-width="2.4"')
        )
        kept = [left + cell * (j + 0.5) for j in (0, 2, 4)], [top + cell * (i + 0.5) for i in (0, 2, 4)]
        parts += [circle(px, py, 3, INK) for py in kept[1] for px in kept[0]]
        parts.append(circle(left + 2.5 * cell, top + 2.5 * cell, 5.5, INK))
    return parts


def cloud(x: float, y: float, seed: int, count: int = 46, reach: float = 54) -> list[tuple[float, float]]:
    """Points that fill a blob around (x, y), none too close to another; the same on every machine."""
    chance = random.Random(seed)
    points: list[tuple[float, float]] = []
    while len(points) < count:
        a, b = chance.uniform(-1, 1), chance.uniform(-1, 1)
        if a * a + b * b <= 1 and all(math.dist((a, b), p) > 0.12 for p in points):
            points.append((a, b))
    return [(x + reach * a, y + 0.95 * reach * b) for a, b in points]


def greedy(points: list[tuple[float, float]], count: int, start: int = 0) -> list[int]:
    """Greedy k-center: the next centre is the point farthest from those chosen so far."""
    chosen = [start]
    while len(chosen) < count:
        chosen.append(farthest(points, chosen)[0])
    return chosen


def farthest(points: list[tuple[float, float]], chosen: list[int]) -> tuple[int, int, float]:
    """The point that is worst covered, its nearest centre, and the distance: the covering radius."""
    distance, point, centre = max(min((math.dist(p, points[c]), i, c) for c in chosen) for i, p in enumerate(points))
    return point, centre, distance


def training() -> str:
    y, columns = 92, (92, 256, 430, 600, 768)
    body = []
    for shift in (14, 7, 0):
        body += washer(columns[0] + shift - 7, y - shift + 7, 98)
    body += backbone(columns[1], y) + feature_grid(columns[2], y)
    bank = cloud(columns[3], y, seed=4)
    body += [circle(px, py, 3.6, BLUE) for px, py in bank]
    shift = columns[4] - columns[3]
    kept = greedy(bank, 8)
    body += [circle(px + shift, py, 2.6, "#a3adb9") for i, (px, py) in enumerate(bank) if i not in kept]
    body += [diamond(bank[i][0] + shift, bank[i][1]) for i in kept]
    for left, right in ((158, 190), (319, 366), (491, 533), (667, 703)):
        body.append(arrow((left, y), (right, y)))
    top = 186
    body += caption(columns[0], top, "Good images", "no defects,", "no labels")
    body += caption(columns[1], top, "Frozen backbone", "maps of layer2", "and layer3")
    body += caption(columns[2], top, "Patch features *P*", "mean over *p* × *p*,", "one stride apart")
    body += caption(columns[3], top, "Memory bank *M*", "all patches of", "all images")
    body += caption(columns[4], top, "Coreset *M*_{C}", "chosen greedily,", "e.g. 10 %")
    return document(
        "patchcore-training",
        254,
        "PatchCore, training: from good images to the coreset",
        "Five steps from left to right. Good images go through a frozen backbone. Its layer2 and layer3 give locally "
        "aware patch features P with neighbourhood p and stride s. The patches of all images form the memory bank M. "
        "A greedy choice keeps the coreset M_C, about a tenth of the patches, spread over the whole bank.",
        body,
    )


def heat_grid(x: float, y: float) -> list[str]:
    """Coarse patch scores with one peak at the upper right."""
    cell, cells = 17, 6
    left, top = x - cell * cells / 2, y - cell * cells / 2
    parts = []
    for i in range(cells):
        for j in range(cells):
            level = max(0, 5 - round(1.75 * math.hypot(i - 1.7, j - 3.7))) if (i, j) != (2, 4) else 5
            parts.append(rect(left + cell * j, top + cell * i, cell, cell, HEAT[level], "#ffffff"))
    parts.append(rect(left + 4 * cell, top + 2 * cell, cell, cell, "none", "#ffffff", 1, ' stroke-width="2.4"'))
    return parts


def answers(name: str, x: float, end: float, y: float, below: float) -> list[str]:
    """The end of every inference: patch scores at ``x`` give the image score at ``end``; below, map and regions."""
    peak = (0.2, -0.15)  # where the defect is, in sides of the picture from its middle
    body = [*heat_grid(x, y), arrow((x + 59, y), (end - 54, y))]
    body.append(rect(end - 46, y - 34, 92, 68, "#ffffff", INK, 10, ' stroke-width="1.6"'))
    body.append(text(end, y + 12, "*s*", 36, bold=True))
    body.append(arrow((x, y + 136), (x, below - 60)))
    body.append(text(x - 14, y + 162, "bilinear upsampling,", colour=SOFT, anchor="end"))
    body.append(text(x - 14, y + 184, "Gaussian σ = 4", colour=SOFT, anchor="end"))
    stops = "".join(
        f'<stop offset="{number(100 * share)}%" stop-color="{colour}"/>'
        for share, colour in zip((0.04, 0.2, 0.36, 0.52, 0.72, 1), reversed(HEAT), strict=True)
    )
    body.append(
        f'<defs><radialGradient id="{name}-map" gradientUnits="userSpaceOnUse" '
        f'cx="{number(x + 104 * peak[0])}" cy="{number(below + 104 * peak[1])}" r="62">{stops}'
        "</radialGradient></defs>"
    )
    body.append(rect(x - 52, below - 52, 104, 104, f"url(#{name}-map)", INK, 4))
    body.append(arrow((x + 59, below), (end - 59, below)))
    body += washer(end, below, 104, defect=True)
    spot = (end + 104 * peak[0], below + 104 * peak[1])
    body.append(circle(*spot, 19, RED, RED, ' fill-opacity="0.3" stroke-width="3"'))
    body += caption(x, below + 76, "Anomaly map", "one score a pixel")
    return body + caption(end, below + 76, "Defect regions", "map > threshold")


def inference() -> str:
    y, below, columns = 84, 350, (92, 256, 430, 600, 768)
    body = washer(columns[0], y, 104, defect=True) + feature_grid(columns[1], y, window=False)
    left, top = columns[1] - 51, y - 51
    body.append(rect(left + 68, top + 34, 17, 17, RED, INK, 1, ' stroke-width="2"'))
    body.append(text(left + 76.5, top + 68, "*q*", 18, bold=True))
    bank = cloud(columns[2] - 18, y + 6, seed=4, reach=45)
    kept = [bank[i] for i in greedy(bank, 8)]
    query = (columns[2] + 50, y - 40)
    nearest = min(kept, key=lambda point: math.dist(point, query))
    body += [circle(px, py, 2.4, "#a3adb9") for px, py in bank if (px, py) not in kept]
    body.append(line(*query, *nearest, INK, 2.2, ' stroke-dasharray="5 3"'))
    body += [diamond(*point, fill=BLUE) for point in kept]
    body += [
        circle(*query, 7, RED, INK, ' stroke-width="1.4"'),
        text(query[0] + 16, query[1] + 6, "*q*", 18, bold=True),
    ]
    body += answers("patchcore-inference", columns[3], columns[4], y, below)
    for start, end in ((152, 196), (315, 361), (502, 541)):
        body.append(arrow((start, y), (end, y)))
    top = 168
    body += caption(columns[0], top, "Test image")
    body += caption(columns[1], top, "Same features", "backbone, *P*;", "one patch: *q*")
    body += caption(columns[2], top, "Nearest in *M*_{C}", "the memory of", "good patches")
    body += caption(columns[3], top, "Patch scores", "distance to the", "nearest patch")
    body += caption(columns[4], top, "Image score *s*", "maximum, then", "re-weighting")
    body.append(rect(34, 310, 424, 116, "#ffffff", EDGE, 8))
    for i, (heading, words) in enumerate(
        [
            ("Two answers", ""),
            ("", "Is the part defective?  The image score *s*."),
            ("", "Where?  The anomaly map and its regions."),
            ("", "The thresholds come from held-out good parts."),
        ]
    ):
        body.append(
            text(
                52,
                338 + 24 * i,
                heading or words,
                17 if heading else 16,
                INK if heading else SOFT,
                "start",
                bool(heading),
            )
        )
    return document(
        "patchcore-inference",
        466,
        "PatchCore, inference: from a test image to its score and its defect regions",
        "A test image goes through the same backbone and gives the same patch features. Each patch q is compared "
        "with its nearest neighbour in the coreset M_C; the distance is its patch score. One branch takes the maximum "
        "of these and re-weights it: the image score s. The other upsamples them bilinearly and smooths the result "
        "with a Gaussian of sigma 4: the anomaly map. Where it is above a threshold there are defect regions.",
        body,
    )


def numbered(x: float, y: float, order: int) -> list[str]:
    return [diamond(x, y, 13, ORANGE), text(x, y + 5, str(order), SMALLEST, bold=True)]


def coreset() -> str:
    middle, height = 262, 494
    wide = [(1.3 * px, py) for px, py in cloud(0, 0, seed=134, count=60, reach=100)]
    body = []
    for x, count, heading, words in (
        (222, 5, "Five centres", "The farthest point is chosen next."),
        (638, 6, "Six centres", "The covering radius *r* has shrunk."),
    ):
        points = [(px + x, py + middle) for px, py in wide]
        chosen = greedy(points, count)
        far, centre, radius = farthest(points, chosen)
        body += caption(x, 38, heading, words)
        body += [circle(*points[c], radius, SKY, BLUE, ' fill-opacity="0.15" stroke-width="1.4"') for c in chosen]
        body += [circle(px, py, 3.6, INK) for i, (px, py) in enumerate(points) if i not in chosen]
        (x1, y1), (x2, y2) = points[centre], points[far]
        body.append(line(x1, y1, x2, y2, RED, 3))
        for order, c in enumerate(chosen, start=1):
            body += numbered(*points[c], order)
        body.append(circle(x2, y2, 9, "none", RED, ' stroke-width="3"'))
        # The letter stands beside the radius, near its middle, where there is most room.
        ux, uy = (x2 - x1) / radius, (y2 - y1) / radius
        sides = [
            (x1 + share * radius * ux - shift * uy, y1 + share * radius * uy + shift * ux)
            for share in (0.4, 0.5, 0.6)
            for shift in (-14, 14)
        ]
        mx, my = max(sides, key=lambda side: min(math.dist(side, point) for point in points))
        body.append(text(mx, my + 5, "*r*", 20, bold=True))
    y = height - 26
    body += [circle(60, y, 4, INK), text(74, y + 5, "patch feature", anchor="start")]
    body += [*numbered(222, y, 1), text(244, y + 5, "centre, in order of choice", anchor="start")]
    body += [circle(474, y, 9, "none", RED, ' stroke-width="3"'), circle(474, y, 3.6, INK)]
    body.append(text(492, y + 5, "farthest point", anchor="start"))
    body.append(circle(644, y, 12, SKY, BLUE, ' fill-opacity="0.15" stroke-width="1.4"'))
    body.append(text(664, y + 5, "within *r* of a centre", anchor="start"))
    return document(
        "coreset-idea",
        height,
        "Greedy coreset: the point that is farthest from all centres is chosen next",
        "Two pictures of the same points in the plane. On the left five numbered centres are chosen; circles of the "
        "covering radius r around them just cover all points, and the farthest point lies on a circle. On "
        "the right this point has become the sixth centre, the circles are smaller, and another point is the farthest.",
        body,
    )


DIAGRAMS: dict[str, Callable[[], str]] = {
    "patchcore-training.svg": training,
    "patchcore-inference.svg": inference,
    "coreset-idea.svg": coreset,
}


def all_diagrams() -> dict[str, Callable[[], str]]:
    """The diagrams of this file and of every draw_diagrams_NN.py beside it: {file name: function that draws it}."""
    found = dict(DIAGRAMS)
    for path in sorted(Path(__file__).parent.glob("draw_diagrams_*.py")):
        found |= importlib.import_module(path.stem).DIAGRAMS
    return found


def write(diagrams: dict[str, Callable[[], str]]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    for name, draw in diagrams.items():
        (OUT / name).write_bytes(draw().encode())  # bytes: the same line ends on every system
        print(f"wrote {OUT / name}")


if __name__ == "__main__":
    write(all_diagrams())
