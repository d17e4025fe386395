"""The parts that lie in the tray of product `kit`: how each is shaped, and how it looks under the lamp.

Every part has an outline, a signed distance in units, and a face, its colour at each place. Both are functions
of the part's own coordinates: a along it and b across it, in units, with its middle at 0. Metal mirrors a lamp,
plastic scatters it, so the same part is bright on another side when it is turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adlib.factory.shapes import UNITS, Array, box, mix, paint, soft

LONG, ROUND = ("bolt", "spring"), ("cap", "nut", "washer")
REACH = {"bolt": 46.0, "spring": 44.0, "cap": 24.0, "nut": 24.0, "washer": 19.0, "tag": 48.0}  # with the shadow
SHADOW = {"bolt": (3.0, 7.0, 0.42), "spring": (2.6, 9.0, 0.34), "cap": (3.0, 7.0, 0.42), "nut": (2.8, 7.0, 0.42),
          "washer": (1.2, 3.5, 0.38), "tag": (1.0, 3.0, 0.30)}  # shift and softness in units, depth

COLOURS = np.array([[0.74, 0.15, 0.12], [0.12, 0.31, 0.66]])  # the two codes: red and blue
STEEL = np.array([0.985, 1.0, 1.02])
ZINC = np.array([1.03, 1.0, 0.93])  # the bolts are plated, a little yellow

Lamp = tuple[float, float]  # unit vector to the lamp's side, in the coordinates of whoever is lit


@dataclass(frozen=True)
class Part:
    """One part at its place in its compartment."""

    name: str
    place: tuple[float, float]  # from the compartment's middle, units of the tray
    turn: float  # radians
    slot: int  # number of that place
    shade: float  # brightness factor
    colour: int  # row of COLOURS, for tag and cap
    serial: int  # 32 bits, no two kits alike: what is printed on a tag


def metal(slope_a: Array, slope_b: Array, lamp: Lamp) -> Array:
    """Brightness of bare metal, seen from above, whose surface is tilted by these slopes.

    It mirrors the room: a bright ceiling, a lamp on one side, a pale wall on the other, dark below.
    """
    up = 1 / (1 + slope_a * slope_a + slope_b * slope_b)
    toward = 2 * up * (slope_a * lamp[0] + slope_b * lamp[1])
    height = 2 * up - 1
    ceiling = 0.26 * np.clip(0.5 + 0.5 * height, 0, 1)
    key = np.exp(5.0 * (0.64 * toward + 0.77 * height - 1))
    wall = np.exp(6.0 * (-0.80 * toward + 0.60 * height - 1))
    return 0.17 + ceiling + 0.56 * key + 0.20 * wall


def plastic(slope_a: Array, slope_b: Array, lamp: Lamp) -> tuple[Array, Array]:
    """Scattered and mirrored light on smooth plastic whose surface is tilted by these slopes."""
    up = 1 / (1 + slope_a * slope_a + slope_b * slope_b)
    side = slope_a * lamp[0] + slope_b * lamp[1]
    scattered = 0.42 + 0.58 * np.sqrt(up) * np.clip(0.82 + 0.60 * side, 0, 2)
    mirrored = np.exp(26.0 * (0.64 * 2 * up * side + 0.77 * (2 * up - 1) - 1))
    return scattered, 0.5 * mirrored


def outline(name: str, a: Array, b: Array) -> Array:
    """Signed distance (h, w) in units to the part's outline, negative on the part."""
    return _OUTLINES[name](a, b)


def face(part: Part, a: Array, b: Array, lamp: Lamp, ground: Array) -> Array:
    """The part's colours (3, h, w); ground: what lies below, seen through the hole of a nut."""
    return _FACES[part.name](part, a, b, lamp, ground) * part.shade


# ---------------------------------------------------------------------- bolt: the head at negative a

HEAD, NECK, TIP = -34.0, -23.5, 34.0
SHAFT, HEX = 5.2, 9.2  # half widths
THREAD, LEAD = -4.0, 3.9  # where the thread begins, and from turn to turn


def _bolt_outline(a: Array, b: Array) -> Array:
    head = box(a - (HEAD + NECK) / 2, b, ((NECK - HEAD) / 2, HEX), 1.6)
    teeth = 0.35 * np.sin(2 * np.pi * (a + 0.9 * np.sign(b)) / LEAD) * (a > THREAD)
    shaft = box(a - (NECK + TIP) / 2, b, ((TIP - NECK) / 2, SHAFT), 2.2) + teeth
    return np.minimum(head, shaft)


def _bolt_face(part: Part, a: Array, b: Array, lamp: Lamp, ground: Array) -> Array:
    across = np.clip(b / SHAFT, -0.97, 0.97)
    height = np.sqrt(1 - across * across)
    turns = np.sin(2 * np.pi * (a + 0.20 * b) / LEAD) * soft(THREAD - a, 2.0)
    shaft = metal(0.85 * turns + 1.2 * soft(TIP - 3.5 - a, 3.0), across / height, lamp) - 0.10 * soft(THREAD - a, 2.0)
    # The head lies on one flat: its top flat is level and the two beside it fall off steeply.
    beside = soft(HEX / 2 - np.abs(b), 1.2)
    crown = soft(a - HEAD - 1.6, 2.0)  # its rounded end
    head = metal(-1.1 * crown, beside * np.sign(b) * 1.1, lamp)
    return paint(ZINC, shaft + (head - shaft) * soft(a - NECK, 1.0))


# ---------------------------------------------------------------------- spring

COIL, WIRE, PITCH, TURNS = 8.2, 1.5, 6.0, 4  # radius of coil and wire, from turn to turn, turns each way from 0
SPRING = PITCH * TURNS + PITCH / 2


def _wires(a: Array, b: Array, slant: float) -> tuple[Array, Array]:
    """Distance to the nearest of the parallel slanted wires, and the signed distance across it in wire radii."""
    run = slant * PITCH / 4 / COIL
    turn = np.clip(np.round((a - b * run) / PITCH), -TURNS, TURNS)
    da = a - turn * PITCH
    length = np.hypot(1.0, run)
    along = np.clip((da * run + b) / length, -COIL * length, COIL * length)
    ra, rb = da - along * run / length, b - along / length
    return np.hypot(ra, rb) - WIRE, (da - b * run) / length / WIRE


def _end_coils(a: Array, b: Array) -> Array:
    return box(np.abs(a) - SPRING, b, (WIRE, COIL + WIRE), WIRE)


def _spring_outline(a: Array, b: Array) -> Array:
    return np.minimum(np.minimum(_wires(a, b, 1.0)[0], _wires(a, b, -1.0)[0]), _end_coils(a, b))


def _spring_face(part: Part, a: Array, b: Array, lamp: Lamp, ground: Array) -> Array:
    front, over = _wires(a, b, 1.0)
    behind, under = _wires(a, b, -1.0)
    bow = 0.75 * b / COIL  # the front wires sink towards the sides
    lit = metal(_roundness(over), bow, lamp)
    below = 0.42 * metal(_roundness(under), -0.6 * bow, lamp)
    ends = metal(_roundness((np.abs(a) - SPRING) / WIRE * np.sign(a)), bow, lamp)
    shade = 1 - 0.35 * np.exp(-np.clip(front, 0, None) / 1.2)
    wire = below * shade + (lit - below * shade) * soft(front, 0.9)
    return paint(STEEL, wire + (ends - wire) * soft(_end_coils(a, b), 0.9))


def _roundness(across: Array) -> Array:
    """Slope of a round wire at this distance from its middle, in radii."""
    across = np.clip(across, -0.95, 0.95)
    return across / np.sqrt(1 - across * across)


# ---------------------------------------------------------------------- round parts

RING = (12.6, 6.4)  # radii of the washer
FLAT, BORE = 12.4, 6.8  # half width over flats of the nut, and the radius of its thread
CAP = 13.4


def _washer_outline(a: Array, b: Array) -> Array:
    radius = np.hypot(a, b)
    return np.maximum(radius - RING[0], RING[1] - radius)


def _washer_face(part: Part, a: Array, b: Array, lamp: Lamp, ground: Array) -> Array:
    radius = np.hypot(a, b) + 1e-6
    rounding = 1.1 * soft(RING[0] - 1.6 - radius, 1.6) - 0.9 * soft(radius - RING[1] - 1.2, 1.4)
    toward = (a * lamp[0] + b * lamp[1]) / radius
    fans = 0.16 * (2 * toward * toward - 1) + 0.02 * np.sin(2.6 * radius)
    return paint(STEEL, metal(rounding * a / radius, rounding * b / radius, lamp) + fans)


def _hexagon(a: Array, b: Array) -> Array:
    sides = [np.abs(a * np.cos(t) + b * np.sin(t)) for t in (0.0, np.pi / 3, 2 * np.pi / 3)]
    return np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - FLAT


def _nut_outline(a: Array, b: Array) -> Array:
    return np.maximum(_hexagon(a, b), np.hypot(a, b) - FLAT * 1.13)


def _nut_face(part: Part, a: Array, b: Array, lamp: Lamp, ground: Array) -> Array:
    radius = np.hypot(a, b) + 1e-6
    # The corners are turned down to a cone, and another cone leads into the thread.
    cone = 0.75 * soft(FLAT - 0.9 - radius, 1.2) - 1.1 * soft(radius - BORE - 2.0, 1.2)
    top = metal(cone * a / radius, cone * b / radius, lamp)
    top = top - 0.16 * soft(np.abs(_hexagon(a, b) + 0.5) - 0.4, 1.2)
    thread = 0.13 + 0.16 * np.clip(-(a * lamp[0] + b * lamp[1]) / BORE, 0, 1) * (1 + np.sin(2.4 * radius))
    wall = soft(BORE - 1.7 - radius, 1.4)  # the thread is seen on the bore's wall, the ground in its middle
    bore = ground * 0.34
    bore = mix(bore, paint(STEEL, thread), wall)
    return mix(paint(STEEL, top), bore, soft(radius - BORE, 1.2))


def _cap_outline(a: Array, b: Array) -> Array:
    return np.hypot(a, b) - CAP - 0.25 * np.cos(28 * np.arctan2(b, a))


def _cap_face(part: Part, a: Array, b: Array, lamp: Lamp, ground: Array) -> Array:
    radius, theta = np.hypot(a, b) + 1e-6, np.arctan2(b, a)
    rim = soft(10.3 - radius, 1.4)  # the ribbed grip, which falls off outward
    shoulder = 0.9 * np.exp(-(((radius - 9.3) / 1.2) ** 2)) - 0.5 * np.exp(-(((radius - 6.4) / 1.0) ** 2))
    out = 0.9 * rim + shoulder + 0.012 * radius
    ribs = 0.45 * rim * np.cos(28 * theta)
    slope_a, slope_b = (out * a - ribs * b) / radius, (out * b + ribs * a) / radius
    scattered, mirrored = plastic(slope_a, slope_b, lamp)
    return paint(COLOURS[part.colour], scattered) + 0.75 * mirrored * (1 - 0.6 * rim)


# ---------------------------------------------------------------------- tag

CARD = (36.0, 20.0)  # half sides
EYELET = (-27.5, 3.0, 5.4)  # its place along the card, and its radii


def _tag_outline(a: Array, b: Array) -> Array:
    card = box(a, b, CARD, 3.5)
    corners = (np.abs(b) - a - CARD[0] - CARD[1] + 9.0) / np.sqrt(2)  # cut off beside the eyelet
    return np.maximum(np.maximum(card, corners), EYELET[1] - np.hypot(a - EYELET[0], b))


def _tag_face(part: Part, a: Array, b: Array, lamp: Lamp, ground: Array) -> Array:
    card = paint(COLOURS[part.colour], 0.98 + 0.10 * np.clip(0.5 - np.abs(_tag_outline(a, b) + 1.0), 0, 0.5))
    paper = paint(np.array([0.90, 0.89, 0.86]), np.ones(a.shape))
    paper = mix(paper, np.array([0.14, 0.14, 0.16]), _print(part.serial, a, b))
    card = mix(card, paper, soft(box(a - 7.0, b, (22.0, 15.0), 1.5), 1.0))
    radius = np.hypot(a - EYELET[0], b) + 1e-6
    bulge = 1.5 * (radius - (EYELET[1] + EYELET[2]) / 2) / (EYELET[2] - EYELET[1])
    ring = metal(bulge * (a - EYELET[0]) / radius, bulge * b / radius, lamp)
    return mix(card, paint(ZINC, ring), soft(radius - EYELET[2], 1.0))


def _print(serial: int, a: Array, b: Array) -> Array:
    """Ink (h, w) in [0, 1] on the tag's label: each bit of the serial number prints a word or a bar, or none."""
    ink = np.zeros(a.shape)
    for row in range(3):
        word = np.clip((b + 13.0) / 5.2, 0, 4).astype(int)
        line = box(a + 10.0 - 6.0 * row, b, (1.3, 12.8), 0.5)
        gap = np.abs(b + 10.4 - 5.2 * word) - 2.2
        ink = np.maximum(ink, 0.6 * soft(np.maximum(line, gap), 1.0) * ((serial >> (5 * row + word)) & 1))
    bar = np.clip((b + 12.75) / 1.7, 0, 14).astype(int)
    code = soft(box(a - 18.0, b, (7.5, 12.8), 0.2), 0.8) * ((serial >> (15 + bar)) & 1)
    return np.maximum(ink, 0.85 * code)


_OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    "bolt": _bolt_outline, "spring": _spring_outline, "cap": _cap_outline, "nut": _nut_outline,
    "washer": _washer_outline, "tag": _tag_outline,
}
_FACES: dict[str, Callable[[Part, Array, Array, Lamp, Array], Array]] = {
    "bolt": _bolt_face, "spring": _spring_face, "cap": _cap_face, "nut": _nut_face, "washer": _washer_face,
    "tag": _tag_face,
}


def window(size: int, centre: tuple[float, float], reach: float) -> tuple[slice, slice]:
    """Rows and columns of the pixels within `reach` units of a place (x, y) in the picture."""
    left, right, top, bottom = (min(max(round(c * size / UNITS), 0), size) for c in (
        centre[0] - reach, centre[0] + reach, centre[1] - reach, centre[1] + reach))
    return slice(top, bottom), slice(left, right)
