"""The design of product `board`: which part sits where, its pads, its traces, and the print on it.

The design never changes: `design_layers` draws it once, as distances in the board's own coordinates. A picture of a
board looks those distances up at its own angle and place.

Coordinates are (u, v) in units from the board's centre, u to the right and v down. A part's own coordinates
(p, q) are turned by its `turn`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from adlib.factory.shapes import FAR, Array, box

HALF = (79.0, 72.5)  # half the board's width and height
CORNER = 7.0  # radius of its corners
HOLES = ((-70.5, -64.0), (70.5, -64.0), (-70.5, 64.0), (70.5, 64.0))
FINGERS = [(-40.5 + 9.0 * i, 64.5) for i in range(10)]  # gold contacts along the lower edge
SPOTS = ((1.0, -38.0), (-19.0, 51.0), (-8.0, 51.0))  # bare gold: test points
CLEARANCE = 1.7  # between the copper plane and what it goes around


class Form(NamedTuple):
    """What all parts of one form share. Lengths in units, (p, q) the part's own coordinates."""

    half: tuple[float, float]  # of the body
    height: float  # above the board: it sets the length of the shadow
    ends: tuple[float, float, float] | None = None  # two pads at (±p, 0): p, half width, half height
    legs: tuple[tuple[int, int], float, float, float] | None = None  # (along p, along q), pitch, half width, length


FORMS = {
    "resistor": Form((5.2, 3.2), 1.6, ends=(6.0, 2.6, 3.4)),
    "capacitor": Form((5.2, 3.4), 2.4, ends=(6.0, 2.6, 3.6)),
    "tantalum": Form((8.2, 5.2), 4.0, ends=(8.8, 3.0, 3.6)),
    "diode": Form((7.4, 4.8), 3.5, ends=(9.0, 3.2, 3.2)),
    "led": Form((5.4, 3.8), 2.4, ends=(6.2, 2.6, 3.8)),
    "electrolytic": Form((14.0, 14.0), 9.0, ends=(14.4, 4.0, 2.8)),
    "header": Form((36.0, 7.5), 6.5),
    "sot": Form((5.6, 3.4), 2.6, legs=((2, 0), 7.0, 1.5, 4.2)),
    "so8": Form((15.0, 11.0), 3.5, legs=((4, 0), 7.0, 1.6, 6.0)),
    "so14": Form((25.0, 11.0), 3.5, legs=((7, 0), 6.8, 1.6, 6.0)),
    "qfp": Form((24.5, 24.5), 3.5, legs=((8, 8), 5.6, 1.35, 6.0)),
}


class Part(NamedTuple):
    """One part of the design."""

    name: str
    form: str
    u: float
    v: float
    turn: int = 0  # quarter turns, clockwise in the picture
    label: tuple[float, float] = (0.0, -9.0)  # place of its reference mark, from its centre
    mark: str = ""  # print on its back


PARTS = (
    Part("U1", "qfp", -34, 0, 0, (-28.0, -33.0), "AD2503"),
    Part("U2", "so14", 30, 32, 0, (20.0, -21.5), "74LB14"),
    Part("U3", "so8", 36, -8, 1, (-13.0, -17.5), "L358"),
    Part("J1", "header", -20, -61.5, 0, (23.5, 13.5)),
    Part("C1", "electrolytic", 32, -50, 1, (-20.5, 11.5)),
    Part("C2", "electrolytic", 63, -38.5, 1, (10.5, 19.5)),
    Part("D2", "tantalum", 64, 16, 1, (10.5, 0.0)),
    Part("D3", "diode", 64, 42, 1, (10.5, 0.0)),
    Part("D1", "led", -72.5, -46.7, 1, (8.5, -8.0)),
    Part("Q1", "sot", 64, -7, 0, (10.5, 0.0)),
    Part("Q2", "sot", -69, 43, 0, (9.5, -7.0)),
    Part("R1", "resistor", -57, -42, 0, (0.0, -7.7), "103"),
    Part("R2", "resistor", -35, -42, 0, (0.0, -7.7), "103"),
    Part("C3", "capacitor", -13, -42, 0, (0.0, -7.7)),
    Part("R3", "resistor", 8, -22, 1, (0.0, -11.5), "103"),
    Part("R4", "resistor", 8, 1, 1, (0.0, -11.5), "103"),
    Part("C4", "capacitor", -73, -23.1, 1, (0.0, -11.7)),
    Part("C5", "capacitor", -73, 0.3, 1, (0.0, -11.7)),
    Part("C6", "capacitor", -73, 23.6, 1, (0.0, -11.7)),
    Part("R5", "resistor", -50, 42, 0, (0.0, 7.8), "103"),
    Part("C7", "capacitor", -29, 42, 0, (0.0, 7.8)),
    Part("R6", "resistor", -8, 42, 0, (0.0, -7.8), "103"),
)

# Found once by a path search on a grid, and written down: (half width, points as u, v, u, v, ...), then the vias.
TRACES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.8, (64, 7.2, 68, 7.3, 70.8, 4.5, 70.8, 3.1, 67.5, -0.4)),
    (1.3, (-44, 42, -44, 40.9, -39.8, 36.7, -38.4, 36.7, -35.6, 39.5, -35, 42)),
    (0.8, (-69, 36.4, -72, 36.7, -74.8, 33.9, -74.8, 31.1, -73, 29.6)),
    (0.8, (-23, 42, -23, 40.9, -18.8, 36.7, -17.4, 36.7, -14.6, 39.5, -14, 42)),
    (0.8, (-63.3, -19.6, -66.4, -22.1, -67.8, -22.1, -73, -17.1)),
    (0.8, (63, -24.1, 59.6, -20.7, 59.6, -17.9, 64, -13.6)),
    (0.8, (51.8, 2.5, 52.6, 3.1, 56.8, -1.1, 59.6, -1.1, 60.5, -0.4)),
    (0.8, (-63.3, 19.6, -66.4, 22.7, -67.8, 22.7, -73, 17.6)), (0.8, (-63.3, 2.8, -65, 1.7, -69.2, 1.7, -73, 6.3)),
    (0.8, (-51, -42, -41, -42)), (0.8, (-72.5, -40.5, -67.8, -36.1, -66.4, -36.1, -63.6, -38.9, -63, -42)),
    (0.8, (-29, -42, -19, -42)), (1.3, (64, 24.8, 61, 25.5, 58.2, 28.3, 58.2, 29.7, 61, 32.5, 64, 33)),
    (1.3, (-65.5, 49.6, -58, 42.3, -56, 42)), (0.8, (20.2, -4.5, 9.2, -3.9, 8, -5)),
    (0.8, (9.6, 16.2, 5, 11.5, 5, 10.1, 8, 7)), (0.8, (-14.4, -29.3, -7.6, -36.1, -7, -42)),
    (0.8, (16.4, 16.2, 16.2, 7.3, 20.2, 2.5)), (0.8, (-4.7, -8.4, -0.6, -8.1, 8, -16)),
    (0.8, (50.4, 47.8, 61, 47.9, 64, 51)), (0.8, (-63.3, -14, -66.4, -13.7, -73.4, -6.7, -73, -5.7)),
    (0.8, (20.2, -18.5, 10.6, -27.7, 8, -28)), (0.8, (9.6, 47.8, 3.6, 42.3, -2, 42)),
    (0.8, (-53.6, -29.3, -73, -29.1)), (0.8, (50.4, 16.2, 49.8, 11.5, 45.6, 7.3, 45.6, 0.3, 49.8, -3.9, 51.8, -4.5)),
    (0.8, (51.8, -18.5, 49.8, -17.9, 32, -35.6)), (0.8, (-4.7, 19.6, -2, 22.7, 19, 22.7, 23.2, 18.5, 23.2, 16.2)),
    (0.8, (30, 16.2, 30.2, -3.9, 23.2, -10.9, 20.2, -11.5)), (0.8, (43.6, 47.8, 44.2, 60.5, 40.5, 64.5)),
    (0.8, (30, 47.8, 30.2, 63.3, 31.5, 64.5)), (0.8, (32, -64.4, 51.2, -64.1, 63, -52.9)),
    (0.8, (23.2, 47.8, 23.2, 49.3, 19, 53.5, 17.6, 53.5, 13.4, 57.7, 13.5, 64.5)),
    (0.8, (36.8, 16.2, 37.2, 1.7, 49.8, -10.9, 51.8, -11.5)),
    (0.8, (-4.7, 14, -7.6, 14.3, -10.4, 17.1, -10.4, 22.7, -2, 31.1, 2.2, 31.1, 16.2, 45.1, 16.4, 47.8)),
    (0.8, (-48, -29.3, -48.2, -31.9, -51, -34.7, -53.8, -34.7, -56.6, -37.5, -56.6, -45.9, -63.6, -52.9, -72.5,
        -52.9)), (0.8, (-53.6, 29.3, -53.8, 33.9, -49.6, 38.1, -49.6, 54.9, -40.5, 64.5)),
    (0.8, (-25.6, 29.3, -25.8, 33.9, -28.6, 36.7, -28.6, 61.9, -31.5, 64.5)),
    (0.8, (-42.4, -29.3, -42.6, -31.9, -39.8, -34.7, -38.4, -34.7, -35.6, -37.5, -35.6, -47.3, -39.8, -51.5,
        -41.2, -51.5)), (0.8, (-25.6, -29.3, -25.8, -26.3, -23, -23.5, -9, -23.5, -4.8, -27.7)),
    (0.8, (-20, -29.3, -20.2, -31.9, -17.4, -34.7, -16, -34.7, -13.2, -37.5, -13.2, -45.9, -7.6, -51.5, -6.2,
        -51.5)), (0.8, (-63.3, 8.4, -60.8, 8.7, -56.6, 12.9, -56.6, 22.7, -62.2, 28.3)),
    (0.8, (-4.7, -19.6, -3.4, -19.3, 0.8, -23.5, 0.8, -30.5, 3.6, -33.3, 5, -33.3, 6.4, -34.7, 6.4, -43.1)),
    (0.8, (43.6, 16.2, 44.2, 28.3, 56.8, 40.9)), (0.8, (-4.5, 64.5, -4.8, 57.7, 2.2, 50.7)),
    (0.8, (20.4, -33.3, 12, -41.7, 12, -51.5)), (0.8, (-21.6, -51.5, -27.2, -57.1, -45.4, -57.1, -51, -51.5)),
)
VIAS: tuple[tuple[float, float], ...] = (
    (-41.2, -51.5), (-4.8, -27.7), (-6.2, -51.5), (-62.2, 28.3), (6.4, -43.1), (56.8, 40.9), (2.2, 50.7),
    (20.4, -33.3), (12, -51.5), (-21.6, -51.5), (-51, -51.5),
)

# Strokes on a grid of 3 by 5 points: each group of digits is a line through the points (x, y).
GLYPHS = {
    "0": "0020240400", "1": "011014", "2": "002022020424", "3": "00202404 0222", "4": "000222 2024",
    "5": "200002222404", "6": "200004242202", "7": "002014", "8": "0020240400 0222", "9": "220200202404",
    "A": "0401102124 0323", "B": "0004 0010211202 12231404", "C": "20000424", "D": "00102123140400", "I": "1014",
    "J": "20231403", "L": "000424", "Q": "0020240400 1324", "R": "040020220224", "U": "00042420", "X": "0024 2004",
}


def local(part: Part, u: Array, v: Array) -> tuple[Array, Array]:
    """Board coordinates in the part's own, turned by quarters without rounding."""
    du, dv = u - part.u, v - part.v
    return [(du, dv), (dv, -du), (-du, -dv), (-dv, du)][part.turn]


def to_board(part: Part, p: Array | float, q: Array | float) -> tuple[Array | float, Array | float]:
    """A part's own coordinates on the board."""
    du, dv = [(p, q), (-q, p), (-p, -q), (q, -p)][part.turn]
    return part.u + du, part.v + dv


def pads(part: Part) -> list[tuple[float, float, float, float]]:
    """The part's pads as p, q, half width, half height, in its own coordinates."""
    form = FORMS[part.form]
    if form.ends is not None:
        return [(sign * form.ends[0], 0.0, form.ends[1], form.ends[2]) for sign in (-1, 1)]
    if form.legs is None:
        return []
    (along_p, along_q), pitch, half, length = form.legs
    if part.form == "sot":
        return [(p, q * (form.half[1] + 3.2), half + 0.5, 2.2) for p, q in ((-3.5, 1), (3.5, 1), (0, -1))]
    found = []
    for sign in (-1, 1):
        for number, along in ((along_p, True), (along_q, False)):
            for i in range(number):
                place, out = (i - (number - 1) / 2) * pitch, sign * (form.half[int(along)] + length - 1.2)
                found.append((place, out, half + 0.25, 2.8) if along else (out, place, 2.8, half + 0.25))
    return found


class _Sheet:
    """Signed distances in board coordinates that grow by one shape after another, FAR where nothing is near."""

    STEP = 0.4  # units from sample to sample

    def __init__(self) -> None:
        self.u = np.arange(-HALF[0] - 2, HALF[0] + 2, self.STEP)
        self.v = np.arange(-HALF[1] - 2, HALF[1] + 2, self.STEP)
        self.distance = np.full((len(self.v), len(self.u)), FAR)

    def _near(self, u: tuple[float, float], v: tuple[float, float], reach: float) -> tuple[Array, Array, Array]:
        rows = slice(*np.searchsorted(self.v, (v[0] - reach, v[1] + reach)))
        columns = slice(*np.searchsorted(self.u, (u[0] - reach, u[1] + reach)))
        return self.distance[rows, columns], self.u[columns], self.v[rows, None]

    def line(self, points: list[tuple[float, float]], half: float, reach: float = 5.0) -> None:
        for (u0, v0), (u1, v1) in zip(points[:-1], points[1:], strict=True):
            near, u, v = self._near((min(u0, u1), max(u0, u1)), (min(v0, v1), max(v0, v1)), reach)
            du, dv = u1 - u0, v1 - v0
            t = np.clip(((u - u0) * du + (v - v0) * dv) / max(du * du + dv * dv, 1e-9), 0.0, 1.0)
            np.minimum(near, np.hypot(u - u0 - t * du, v - v0 - t * dv) - half, out=near)

    def disc(self, centre: tuple[float, float], radius: float) -> None:
        self.line([centre, centre], radius, radius + 5.0)

    def rectangle(self, centre: tuple[float, float], half: tuple[float, float], radius: float = 0.0) -> None:
        ends = [(middle - side, middle + side) for middle, side in zip(centre, half, strict=True)]
        near, u, v = self._near(ends[0], ends[1], 5.0)
        np.minimum(near, box(u - centre[0], v - centre[1], half, radius), out=near)

    def text(self, word: str, centre: tuple[float, float], height: float, half: float,
             part: Part | None = None) -> None:
        """Centred; with `part`, in the part's own coordinates."""
        unit = height / 4
        left = centre[0] - (3.4 * len(word) - 1.4) / 2 * unit
        for position, letter in enumerate(word):
            for stroke in GLYPHS[letter].split():
                points = [(left + (int(stroke[i]) + 3.4 * position) * unit, centre[1] + (int(stroke[i + 1]) - 2) * unit)
                          for i in range(0, len(stroke), 2)]
                self.line(points if part is None else [to_board(part, *point) for point in points], half, 3.0)


LAYERS = ("copper", "silk", "solder", "gold", "drill", "mark")


@lru_cache(maxsize=1)
def design_layers() -> dict[str, Array]:
    """The design as signed distances in units, negative inside: (rows, columns) by name, clipped to ±6."""
    sheets = {name: _Sheet() for name in LAYERS}
    for part in PARTS:
        for p, q, half_p, half_q in pads(part):
            half = (half_p, half_q) if part.turn % 2 == 0 else (half_q, half_p)
            sheets["solder"].rectangle(to_board(part, p, q), half, 0.7)
        _print(part, sheets["silk"], sheets["mark"])
    for u, v in FINGERS:
        sheets["gold"].rectangle((u, v), (3.2, 8.0), 1.2)
    for spot in SPOTS:
        sheets["gold"].disc(spot, 2.6)
    for hole in HOLES:
        sheets["gold"].disc(hole, 7.5)
        sheets["drill"].disc(hole, 4.6)
    for via in VIAS:
        sheets["copper"].disc(via, 2.0)
        sheets["drill"].disc(via, 0.75)
    for half, flat in TRACES:
        sheets["copper"].line(list(zip(flat[::2], flat[1::2], strict=True)), half)
    sheets["silk"].text("ADLIB", (-54.8, 55.8), 5.0, 0.5)
    sheets["silk"].text("B1", (56, 66), 5.0, 0.5)

    # A plane of copper fills what is left of two areas, at a distance from everything else.
    metal = np.minimum(sheets["solder"].distance, sheets["gold"].distance)
    wires = np.minimum(sheets["copper"].distance, metal)
    u, v = sheets["copper"].u, sheets["copper"].v[:, None]
    plane = np.minimum(box(u - 46, v - 2, (29, 66), 4), box(u + 52, v - 50, (23, 18), 4))
    copper = np.minimum(wires, np.maximum(plane, CLEARANCE - wires))
    sheets["copper"].distance = copper
    sheets["silk"].distance = np.maximum(sheets["silk"].distance, 0.5 - metal)  # no print on bare metal
    return {name: np.clip(sheet.distance, -6, 6) for name, sheet in sheets.items()}


def look_up(u: Array, v: Array, *names: str) -> list[Array]:
    """The named layers at board coordinates (h, w), blended between samples: one (h, w) for each name."""
    sheets, columns = design_layers(), design_layers()["copper"].shape[1]
    column = np.clip((u + HALF[0] + 2) / _Sheet.STEP, 0, columns - 1.001)
    row = np.clip((v + HALF[1] + 2) / _Sheet.STEP, 0, sheets["copper"].shape[0] - 1.001)
    left, top = column.astype(int), row.astype(int)
    right_part, lower_part = column - left, row - top
    corners = [(top + down) * columns + left + right for down in (0, 1) for right in (0, 1)]
    found = []
    for name in names:
        a, b, c, d = (sheets[name].ravel().take(corner, mode="clip") for corner in corners)
        upper, lower = a + (b - a) * right_part, c + (d - c) * right_part
        found.append(upper + (lower - upper) * lower_part)
    return found


def _print(part: Part, silk: _Sheet, mark: _Sheet) -> None:
    """The outline and reference mark beside a part, and the type on its back."""
    form = FORMS[part.form]
    silk.text(part.name, (part.u + part.label[0], part.v + part.label[1]), 3.8, 0.42)
    p, q = form.half[0] + 1.6, form.half[1] + 1.7
    if part.form == "qfp":  # its four corners
        lines = [[(i * (p - 5), j * p), (i * p, j * p), (i * p, j * (p - 5))] for i in (-1, 1) for j in (-1, 1)]
    elif form.legs is not None:  # the two sides without legs
        lines = [[(side * p, 2 - q), (side * p, q - 2)] for side in (-1, 1)]
    else:  # the two sides without pads
        reach = p - 3 if max(form.half) < 10 else p - 1
        lines = [[(-reach, side * q), (reach, side * q)] for side in (-1, 1)]
    for line in lines:
        silk.line([to_board(part, *point) for point in line], 0.45)
    rows = [part.mark[:2], part.mark[2:]] if part.form == "qfp" else [part.mark]
    height, half = (3.4, 0.35) if part.form == "resistor" else (5.0, 0.5)
    for row, word in enumerate(rows):
        mark.text(word, (0.0, (row - (len(rows) - 1) / 2) * 8.0), height, half, part)
