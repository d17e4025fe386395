"""How the parts of product `board` look: chips, transistors, integrated circuits, cans, a connector.

A part is painted into a `Tile`, the window of the picture around it, with the part's own coordinates at each
pixel. Shades follow the lamp: what leans towards it is bright, what leans away is dark.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from adlib.factory.board_design import FORMS, Form, Part
from adlib.factory.shapes import Array, box, soft

TIN = np.array([0.72, 0.735, 0.75])
GOLD = np.array([0.80, 0.64, 0.30])
EPOXY = np.array([0.105, 0.105, 0.115])
EDGE = 0.75  # width of a sharp edge
LEGS = 16  # a table holds this many shades of legs, more than any two sides have
PRINT = np.array([0.62, 0.63, 0.62])  # the laser's mark on epoxy


@dataclass
class Tile:
    """The window around a part: what to paint on, where each pixel is, and how this one part looks."""

    window: tuple[slice, slice]  # rows and columns of the picture
    view: Array  # (3, h, w), a view into the picture; painting changes the picture
    p: Array  # (h, w) the part's own coordinates, units
    q: Array
    lamp: tuple[float, float]  # unit vector to the lamp in the picture
    local_lamp: tuple[float, float]  # and in the part's coordinates
    shade: float  # brightness factor of the body
    shine: Array  # (2,) brightness factor of the two solder joints
    legs: Array  # (LEGS,) brightness factor of the legs
    mark: Array | None = None  # (h, w) signed distance to the print on its back, units

    def cover(self, colour: Array, brightness: Array | float, amount: Array) -> None:
        """Blend a colour (3,) of some brightness over the picture."""
        self.view += (colour[:, None, None] * brightness - self.view) * amount

    def lean(self, distance: Array) -> Array:
        """How far the slope of a shape, falling outwards, leans to the lamp: -1 to 1 (h, w)."""
        down, right = np.gradient(distance)
        return (right * self.lamp[0] + down * self.lamp[1]) / (np.sqrt(right * right + down * down) + 1e-6)


def paint_part(tile: Tile, part: Part, hidden: tuple[Row, range] | None = None) -> None:
    """Paint the part's shadow, its joints or legs (without those `hidden`), its body and its print."""
    form = FORMS[part.form]
    shadow(tile, form.half, form.height)
    if form.ends is not None:
        _joints(tile, form)
    if form.legs is not None:
        _legs(tile, part.form, hidden)
    _PAINTERS[part.form](tile, form)


def shadow(tile: Tile, half: tuple[float, float], height: float, depth: float = 0.55) -> None:
    """Darken the board where a box of this height keeps the lamp off."""
    p, q = (c + 0.75 * height * toward for c, toward in zip((tile.p, tile.q), tile.local_lamp, strict=True))
    tile.view *= 1 - depth * soft(box(p, q, half, 1.0) - 0.3 * height, 0.9 * height + 1.0)


def _joints(tile: Tile, form: Form) -> None:
    """The solder fillets between the pads and both ends of a part."""
    assert form.ends is not None
    place, half_p, half_q = form.ends
    distance = box(np.abs(tile.p) - place, tile.q, (half_p - 0.2, half_q - 0.4), 1.3)
    shine = np.where(tile.p < 0, tile.shine[0], tile.shine[1])
    hollow = 0.5 + 0.36 * tile.lean(distance) * soft(-distance - 2.0, 2.0)
    glint = 0.42 * np.exp(-((np.abs(tile.p) - place - 1.0) ** 2) / 0.7 - (tile.q - 1.2 * tile.local_lamp[1]) ** 2 / 2.5)
    tile.cover(TIN, (hollow + 0.28 + glint) * shine, soft(distance, EDGE))


class Row(NamedTuple):
    """The legs on one side of a part: `number` of them, along p or along q, on the side -1 or 1."""

    along_p: bool
    side: int
    number: int
    pitch: float

    def coordinates(self, tile: Tile, form: Form) -> tuple[Array, Array]:
        """At each pixel the place along the side, from its middle, and the distance out from the body."""
        across, outward = (tile.p, tile.q) if self.along_p else (tile.q, tile.p)
        return across, outward * self.side - form.half[int(self.along_p)]

    def place(self, number: int) -> float:
        """Where a leg stands along its side, from the middle."""
        return (number - (self.number - 1) / 2) * self.pitch


def leg_rows(name: str) -> list[Row]:
    """The rows of legs of the form called `name`."""
    spec = FORMS[name].legs
    assert spec is not None
    (along_p, along_q), pitch, _, _ = spec
    if name == "sot":  # two legs on one side, one on the other
        return [Row(True, 1, 2, pitch), Row(True, -1, 1, pitch)]
    return [Row(flat, side, number, pitch)
            for flat, number in ((True, along_p), (False, along_q)) if number for side in (-1, 1)]


def _legs(tile: Tile, name: str, hidden: tuple[Row, range] | None) -> None:
    """All legs of a part; `hidden` is a row and the numbers of the legs in it that are left out."""
    for row in leg_rows(name):
        across, _ = row.coordinates(tile, FORMS[name])
        index = np.clip(np.rint(across / row.pitch + (row.number - 1) / 2), 0, row.number - 1)
        shade = tile.legs[index.astype(int) + (LEGS // 2 if row.side > 0 else 0)]
        shown = 1.0 if hidden is None or hidden[0] != row else (~np.isin(index, hidden[1])).astype(float)
        _gull_wing(tile, name, row, across - (index - (row.number - 1) / 2) * row.pitch, 1.0, shade, shown)


def bent_leg(tile: Tile, name: str, row: Row, number: int, bend: float, stretch: float) -> None:
    """One leg whose tip stands `bend` units aside and which is `stretch` times as long, with its shadow."""
    form = FORMS[name]
    assert form.legs is not None
    across, outward = row.coordinates(tile, form)
    offset = across - row.place(number) - bend * np.clip(outward / form.legs[3], 0, stretch) ** 1.3
    along, out = (tile.local_lamp if row.along_p else tile.local_lamp[::-1])
    cast = np.maximum(np.abs(offset + 1.6 * along) - form.legs[2], np.abs(outward + 1.6 * out * row.side
                                                                       - form.legs[3] * stretch / 2) - 4 * stretch)
    tile.view *= 1 - 0.4 * soft(cast, 2.0) * (outward > 0)
    _gull_wing(tile, name, row, offset, stretch, 1.0, EDGE)


def _gull_wing(tile: Tile, name: str, row: Row, offset: Array, stretch: float, shade: Array | float,
               shown: Array | float) -> None:
    """Legs from above, `offset` units from their middle lines: shoulder, bright or dark slope, foot."""
    form = FORMS[name]
    assert form.legs is not None
    half, length = form.legs[2], form.legs[3] * stretch
    _, outward = row.coordinates(tile, form)
    distance = np.maximum(np.abs(offset) - half, np.abs(outward - length / 2) - length / 2)
    toward = row.side * tile.local_lamp[1 if row.along_p else 0]
    profile = np.interp(np.clip(outward / length, 0, 1), [0.0, 0.2, 0.32, 0.5, 0.62, 1.0],
                        [0.72, 1.08, 0.74 + 0.3 * toward, 0.62 + 0.3 * toward, 0.98, 0.86])
    round_back = 1 - 0.16 * np.minimum((offset / half) ** 2, 1.5)
    tile.cover(TIN, profile * shade * round_back, soft(distance, EDGE) * shown)


def _block(tile: Tile, half: tuple[float, float], colour: Array, radius: float, edge: float, contrast: float) -> Array:
    """A body with bevelled edges; returns the signed distance to its outline."""
    distance = box(tile.p, tile.q, half, radius)
    bevel = contrast * tile.lean(distance) * soft(-distance - edge, 0.8)
    tile.cover(colour, (1 + bevel) * tile.shade, soft(distance, EDGE))
    return distance


def _chip(tile: Tile, form: Form, colour: Array) -> None:
    """A two-terminal chip: tinned ends, a ceramic middle."""
    _block(tile, form.half, TIN * 1.12, 0.7, 1.0, 0.22)
    middle = box(tile.p, tile.q, (form.half[0] - 2.0, form.half[1]), 0.2)
    bevel = 0.3 * tile.lean(box(tile.p, tile.q, form.half)) * soft(form.half[1] - np.abs(tile.q) - 1.0, 0.8)
    tile.cover(colour, (1 + bevel) * tile.shade, soft(middle, EDGE))


def _resistor(tile: Tile, form: Form) -> None:
    _chip(tile, form, np.array([0.10, 0.10, 0.115]))
    assert tile.mark is not None
    tile.cover(np.full(3, 0.72), 1.0, soft(tile.mark, EDGE) * (np.abs(tile.p) < 3.2))


def _capacitor(tile: Tile, form: Form) -> None:
    _chip(tile, form, np.array([0.57, 0.44, 0.31]))


def _tantalum(tile: Tile, form: Form) -> None:
    _block(tile, form.half, np.array([0.80, 0.56, 0.17]), 0.8, 1.4, 0.35)
    band = box(tile.p + form.half[0] - 2.8, tile.q, (1.2, form.half[1] - 0.4))
    tile.cover(np.array([0.38, 0.22, 0.08]), tile.shade, soft(band, EDGE))


def _diode(tile: Tile, form: Form) -> None:
    _block(tile, form.half, EPOXY * 1.1, 0.8, 1.4, 0.6)
    band = box(tile.p + form.half[0] - 2.6, tile.q, (1.1, form.half[1] - 0.5))
    tile.cover(np.full(3, 0.66), tile.shade, soft(band, EDGE))


def _led(tile: Tile, form: Form) -> None:
    _block(tile, form.half, np.array([0.80, 0.79, 0.72]), 0.7, 1.0, 0.2)
    lens = box(tile.p, tile.q, (3.0, 3.0), 1.2)
    tile.cover(np.array([0.90, 0.80, 0.42]), (0.95 + 0.25 * tile.lean(lens) * soft(-lens - 1.2, EDGE)) * tile.shade,
               soft(lens, EDGE))
    tile.cover(np.array([0.30, 0.52, 0.30]), 1.0, soft(box(tile.p + 4.4, tile.q, (0.5, 2.6)), 0.8))


def _electrolytic(tile: Tile, form: Form) -> None:
    """An aluminium can on a black base with two corners cut; a dark sector marks the minus."""
    distance = np.maximum(box(tile.p, tile.q, form.half, EDGE), (-tile.p + np.abs(tile.q) - 22.0) / np.sqrt(2))
    tile.cover(EPOXY * 1.15, (1 + 0.5 * tile.lean(distance) * soft(-distance - 1.2, 0.8)) * tile.shade,
               soft(distance, EDGE))
    radius = np.hypot(tile.p, tile.q)
    can = radius - 12.6
    turn = (tile.p * tile.local_lamp[0] + tile.q * tile.local_lamp[1]) / (radius + 1e-6)
    shine = 0.86 + 0.10 * (2 * turn * turn - 1) * np.clip(radius / 12.6, 0, 1)  # a turned lid, lit as a record is
    rim = np.exp(-((can + 1.3) ** 2) / 0.9)
    tile.cover(TIN, (shine + 0.38 * turn * rim - 0.10 * np.exp(-((can + 3.2) ** 2) / 0.8)) * (0.5 + 0.5 * tile.shade),
               soft(can, EDGE))
    sector = np.maximum(np.hypot(tile.p, tile.q) - 10.2, tile.p + 5.6)
    tile.cover(np.array([0.12, 0.12, 0.14]), 1.0, soft(sector, EDGE))


def _header(tile: Tile, form: Form) -> None:
    """A white connector with seven gold pins."""
    _block(tile, form.half, np.array([0.80, 0.78, 0.70]), 1.0, 1.2, 0.2)
    well = box(tile.p, tile.q - 0.8, (form.half[0] - 2.4, form.half[1] - 2.8), 0.8)
    tile.cover(np.array([0.46, 0.45, 0.40]), (1 - 0.35 * tile.lean(well) * soft(-well - 2.0, 2.0)) * tile.shade,
               soft(well, EDGE))
    to_pin = tile.p - np.clip(np.rint(tile.p / 9.6), -3, 3) * 9.6
    cast = box(to_pin + 1.6 * tile.local_lamp[0], tile.q - 0.8 + 1.6 * tile.local_lamp[1], (1.5, 1.5), 0.4)
    tile.view *= 1 - 0.45 * soft(cast, 1.6)
    pin = box(to_pin, tile.q - 0.8, (1.5, 1.5), 0.4)
    tile.cover(GOLD, 1.1 + 0.35 * tile.lean(pin) * soft(-pin - 0.8, 0.8), soft(pin, EDGE))


def _package(tile: Tile, form: Form) -> None:
    """Black epoxy with bevelled edges, the laser's print and, on large ones, the dimple at pin 1."""
    edge = 2.2 if min(form.half) > 6 else 1.2
    _block(tile, form.half, EPOXY, 0.8, edge, 0.85)
    if min(form.half) < 6:
        return
    dimple = np.hypot(tile.p + form.half[0] - 5.0, tile.q - form.half[1] + 5.0) - 1.9
    tile.cover(EPOXY, (0.75 - 0.5 * tile.lean(dimple) * soft(-dimple - 1.0, EDGE)) * tile.shade, soft(dimple, EDGE))
    assert tile.mark is not None
    tile.cover(PRINT, tile.shade, 0.8 * soft(tile.mark, EDGE))


_PAINTERS: dict[str, Callable[[Tile, Form], None]] = {
    "resistor": _resistor, "capacitor": _capacitor, "tantalum": _tantalum, "diode": _diode, "led": _led,
    "electrolytic": _electrolytic, "header": _header,
    "sot": _package, "so8": _package, "so14": _package, "qfp": _package,
}
