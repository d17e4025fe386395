"""Product `kit`: a moulded tray of six compartments with bolts, springs, washers, nuts, caps and a colour tag.

There are two kits. The colour of the tag, red or blue, says which, the caps have the same colour, and GOOD lists
what each compartment must hold. The tray may stand either way round. Structural defects damage a part or the tray,
or leave something there. A logical anomaly is a tray of intact parts that is neither of the two kits. Most of them
have a compartment that would be right in the other kit, so that no local look finds them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from adlib.factory.kit_parts import LONG, ROUND, Part
from adlib.factory.kit_tray import COLUMN, Canvas, Scene, middle, picture_place
from adlib.factory.shapes import (
    UNITS,
    Array,
    blob,
    line_distance,
    mix,
    paint,
    smooth_noise,
    soft,
    wandering_line,
)

KINDS = ("bent_bolt", "chip", "crack", "hair", "rust", "swarf", "torn_tag")

MASK_GAP = 4.0  # units that the mask is closed over

# Each logical kind with its saturation area in square units, see `alter`. Drawn at full scale, a bolt covers 785,
# a spring 882, a cap 564, a nut 532 and a washer 370; a tray farther away shows all of it 4 % smaller.
LOGICAL = {
    "extra_part": 510.0, "mismatch": 1080.0, "misplaced": 510.0, "missing_part": 510.0, "swapped": 700.0,
    "wrong_part": 750.0,
}

# What lies in the six compartments of the red and of the blue kit: parts, each with the number of its place.
GOOD: tuple[tuple[dict[int, str], ...], ...] = (
    ({0: "bolt", 1: "bolt"}, {0: "washer", 1: "nut", 2: "washer"}, {0: "tag"},
     {0: "cap", 2: "cap"}, {0: "nut", 2: "nut"}, {0: "spring", 1: "bolt"}),
    ({0: "bolt"}, {0: "washer", 2: "washer"}, {0: "tag"},
     {0: "cap", 1: "cap", 2: "cap"}, {0: "nut", 1: "nut", 2: "nut"}, {0: "spring", 1: "spring"}),
)
TAG, CAPS = 2, 3  # their compartments

# The places from the compartment's middle, for what is long and for what is round.
LANES = ((-13.0, 0.0), (13.0, 0.0))
SPOTS = ((-8.5, -28.0), (9.5, 0.0), (-8.5, 28.0))
OFF = {"tag": (2.5, 3.5), "bolt": (1.5, 4.0), "spring": (1.5, 4.0)}  # how far a part lies off its place at most


def make_scene(generator: Generator) -> Scene:
    """Draw a scene at random."""
    code = int(generator.integers(2))
    warmth = generator.normal(scale=0.012) * np.array([1.0, 0.1, -1.0])
    return Scene(
        centre=(UNITS / 2 + generator.uniform(-6, 6), UNITS / 2 + generator.uniform(-6, 6)),
        angle=generator.uniform(-0.052, 0.052) + np.pi * int(generator.integers(2)),
        scale=generator.uniform(0.98, 1.02),
        lamp=-2.2 + generator.uniform(-0.5, 0.5),
        light=(generator.uniform(0.92, 1.05), generator.normal(scale=0.04), generator.normal(scale=0.04)),
        plastic=np.array([0.665, 0.71, 0.745]) * generator.uniform(0.96, 1.04),
        bench=np.array([0.165, 0.17, 0.18]) * generator.uniform(0.85, 1.15),
        tint=1 + warmth,
        contents=tuple(_fill(parts, code, generator) for parts in GOOD[code]),
        texture_seed=int(generator.integers(2**32)),
    )


def _fill(parts: dict[int, str], code: int, generator: Generator) -> tuple[Part, ...]:
    return tuple(_lay(name, slot, code, generator) for slot, name in parts.items())


def _lay(name: str, slot: int, code: int, generator: Generator) -> Part:
    """A part at that place, a little off it, and turned as it fell."""
    u, v = (0.0, 0.0) if name == "tag" else (SPOTS if name in ROUND else LANES)[slot]
    off = generator.uniform(-1, 1, size=2) * OFF.get(name, (1.9, 1.9))
    turn = generator.uniform(0, 2 * np.pi)
    if name not in ROUND:  # these lie along the compartment, two bolts with their heads at opposite ends
        turn = np.pi / 2 * (1 - 2 * slot) + (turn - np.pi) * 0.016
    return Part(name, (u + off[0], v + off[1]), turn, slot, generator.uniform(0.95, 1.04), code,
                int(generator.integers(2**32)))


def draw(scene: Scene, size: int, kind: str = "good", generator: Generator | None = None) -> Array:
    """Draw the scene without noise: (3, size, size), float64, in about [0, 1].

    With a structural defect's name as `kind`, that defect is drawn into it; its place, size and strength come from
    `generator`. Logical anomalies are good drawings of another scene, see `alter`.
    """
    canvas = Canvas.empty(scene, size)
    if kind == "good":
        return canvas.lay().lit()
    if generator is None:
        raise ValueError(f"kind is {kind!r} and generator is None: a defect needs a generator; pass one")
    _DEFECTS[kind](canvas, generator)
    return canvas.lit()


# ---------------------------------------------------------------------- logical anomalies


def alter(scene: Scene, size: int, kind: str, generator: Generator) -> tuple[Scene, list[Array]]:
    """Make a wrong kit of a good one: the wrong scene, and a (size, size) bool mask for each annotated region.

    Nothing changes outside the masks. What they mark, and what the saturation areas in LOGICAL stand for:

    missing_part, extra_part
        The whole compartment, since the place of the part is open; the smallest that it can be.
    misplaced
        A nut lies in another compartment; both compartments, a region each; the nut.
    swapped
        Two compartments have exchanged what is in them; both, a region each; the smallest content, two washers.
    wrong_part
        The place of the part and of the one that should be there, with their shadows; the smaller of them.
    mismatch
        Tag and caps differ in colour; both are one region, since either may be the wrong one; two caps, which are
        smaller than the tag, so that marking one of the two will do.

    Raises
    ------
    ValueError
        For a kind that is not in LOGICAL.
    """
    if kind not in LOGICAL:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(LOGICAL)}; structural defects come from draw")
    contents, wrong = _BREAK[kind](scene, generator)
    altered = replace(scene, contents=tuple(contents))
    canvas = Canvas(altered, size)
    if kind == "mismatch":
        return altered, [np.any([canvas.near(i, part, 1.0) for i in wrong for part in contents[i]], axis=0)]
    if kind == "wrong_part":
        (i,) = wrong
        exchanged = set(scene.contents[i]) ^ set(contents[i])
        return altered, [canvas.compartment(i) & np.any([canvas.near(i, p, 10.0) for p in exchanged], axis=0)]
    return altered, [canvas.compartment(i) for i in wrong]


Broken = tuple[list[tuple[Part, ...]], list[int]]  # the contents, and the compartments that are wrong


def _code(scene: Scene) -> int:
    """0 for the red kit, 1 for the blue one."""
    return scene.contents[TAG][0].colour


def _as_other(scene: Scene, compartments: list[int], generator: Generator) -> Broken:
    """Fill these compartments as in the other kit. A part that both kits have at a place stays as it lies."""
    contents, code = list(scene.contents), _code(scene)
    for i in compartments:
        lying = {(part.slot, part.name): part for part in contents[i]}
        contents[i] = tuple(lying.get((slot, name)) or _lay(name, slot, code, generator)
                            for slot, name in GOOD[1 - code][i].items())
    return contents, compartments


def _surplus(scene: Scene) -> list[int]:
    """How many parts more the other kit has in each compartment."""
    code = _code(scene)
    return [len(other) - len(own) for own, other in zip(GOOD[code], GOOD[1 - code], strict=True)]


def _missing_part(scene: Scene, generator: Generator) -> Broken:
    fewer = [i for i, surplus in enumerate(_surplus(scene)) if surplus < 0]
    return _as_other(scene, [int(generator.choice(fewer))], generator)


def _extra_part(scene: Scene, generator: Generator) -> Broken:
    more = [i for i, surplus in enumerate(_surplus(scene)) if surplus > 0]
    return _as_other(scene, [int(generator.choice(more))], generator)


def _misplaced(scene: Scene, generator: Generator) -> Broken:
    """The nut that lies with the washers in one kit and with the nuts in the other."""
    return _as_other(scene, [1, 4], generator)


def _wrong_part(scene: Scene, generator: Generator) -> Broken:
    """A bolt instead of a spring, or the other way round."""
    return _as_other(scene, [5], generator)


def _swapped(scene: Scene, generator: Generator) -> Broken:
    """Opposite compartments look as they would if the tray stood the other way round."""
    contents, i = list(scene.contents), int(generator.choice([0, 1, 2]))
    contents[i], contents[5 - i] = (
        tuple(replace(p, place=(-p.place[0], -p.place[1]), turn=p.turn + np.pi) for p in contents[j])
        for j in (5 - i, i))
    return contents, [i, 5 - i]


def _mismatch(scene: Scene, _: Generator) -> Broken:
    """The tag of the other kit."""
    contents = list(scene.contents)
    contents[TAG] = tuple(replace(part, colour=1 - part.colour) for part in contents[TAG])
    return contents, [TAG, CAPS]


_BREAK: dict[str, Callable[[Scene, Generator], Broken]] = {
    "extra_part": _extra_part, "mismatch": _mismatch, "misplaced": _misplaced, "missing_part": _missing_part,
    "swapped": _swapped, "wrong_part": _wrong_part,
}


# ---------------------------------------------------------------------- structural defects


def _bent_bolt(canvas: Canvas, generator: Generator) -> None:
    compartment, bolt = canvas.pick(generator, "bolt")
    canvas.lay(but=bolt)
    start, amount = generator.uniform(-14, 0), generator.uniform(0.006, 0.011) * generator.choice([-1, 1])

    def bend(a: Array, b: Array) -> tuple[Array, Array]:
        beyond = np.maximum(a - start, 0)
        return a + (amount * beyond) ** 2 * beyond / 1.5, b - amount * beyond * beyond

    canvas.put(compartment, bolt, bend=bend)


def _chip(canvas: Canvas, generator: Generator) -> None:
    """A piece broken out of the rim of a nut, a washer or a cap."""
    compartment, part = canvas.pick(generator, *ROUND)
    canvas.lay(but=part)
    theta, radius = generator.uniform(0, 2 * np.pi), generator.uniform(6.0, 8.5)
    u0, v0 = np.add(middle(compartment), part.place) + 12.0 * np.array([np.cos(theta), np.sin(theta)])
    distance = blob(canvas.x, canvas.y, picture_place(canvas.scene, u0, v0), (radius, 0.8 * radius), generator, 0.35)
    canvas.put(compartment, part, gone=soft(distance, 1.2))
    facet = soft(distance - generator.uniform(1.8, 3.0), 1.2) * (1 - soft(distance, 1.2))
    rough = smooth_noise(generator, canvas.size, 1.2)
    broken = paint(np.ones(3), generator.uniform(0.25, 0.4) + 0.10 * rough)
    canvas.picture = mix(canvas.picture, broken, 0.85 * facet * canvas.cover(compartment, part))


def _crack(canvas: Canvas, generator: Generator) -> None:
    """A crack in the tray, from a rib over the floor, below the parts."""
    column, row = generator.choice([-1, 1]), generator.uniform(-70, 70)
    u0 = column * (COLUMN / 2 + generator.uniform(-2, 2))
    start = picture_place(canvas.scene, u0, row)
    heading = generator.choice([0, np.pi]) + generator.uniform(-0.8, 0.8)
    points = wandering_line(generator, start, heading, generator.uniform(30, 55), 0.45, 12)
    distance, side, along = line_distance(canvas.x, canvas.y, points)
    half = generator.uniform(0.9, 1.6) * np.sqrt(1.02 - along)
    lip = 0.14 * np.exp(-np.maximum(distance - half, 0) / 0.9) * (side > 0)
    canvas.picture = canvas.picture * (1 + lip)
    canvas.picture = mix(canvas.picture, np.full(3, 0.16), soft(distance - half, 1.2) * generator.uniform(0.75, 0.95))
    canvas.lay()


def _hair(canvas: Canvas, generator: Generator) -> None:
    canvas.lay()
    start = picture_place(canvas.scene, *generator.uniform(-75, 75, size=2))
    points = wandering_line(generator, start, generator.uniform(0, 2 * np.pi), generator.uniform(45, 100), 0.35, 16)
    distance, _, _ = line_distance(canvas.x, canvas.y, points)
    shadow = line_distance(canvas.x, canvas.y, points - 1.6 * np.array([np.cos(canvas.scene.lamp),
                                                                       np.sin(canvas.scene.lamp)]))[0]
    half = generator.uniform(0.6, 1.1)
    colour = np.array([[0.10, 0.08, 0.07], [0.30, 0.19, 0.11]])[generator.integers(2)]
    canvas.picture = canvas.picture * (1 - 0.22 * soft(shadow - half, 2.0))
    canvas.picture = mix(canvas.picture, colour, soft(distance - half, 1.2) * generator.uniform(0.8, 1.0))


def _rust(canvas: Canvas, generator: Generator) -> None:
    """Rust on a bolt, a nut, a washer or the spring."""
    canvas.lay()
    compartment, part = canvas.pick(generator, "bolt", "nut", "spring", "washer")
    along = generator.uniform(-24, 24) if part.name in LONG else generator.uniform(-10, 10)
    place = np.array([np.cos(part.turn), np.sin(part.turn)]) * along + np.add(middle(compartment), part.place)
    radius = generator.uniform(9.0, 15.0)
    centre = picture_place(canvas.scene, *place)
    distance = blob(canvas.x, canvas.y, centre, (radius, radius * generator.uniform(0.6, 1.0)), generator, 0.3)
    blotches = smooth_noise(generator, canvas.size, 1.8)
    amount = soft(distance + 1.5 - 1.8 * blotches, 3.0) * generator.uniform(0.75, 0.95)
    colour = np.array([0.45, 0.23, 0.10]) + generator.uniform(-0.04, 0.05)
    shade = 0.45 + 1.0 * canvas.picture.mean(axis=0) + 0.12 * blotches
    canvas.picture = mix(canvas.picture, paint(colour, shade), amount * canvas.cover(compartment, part))


def _swarf(canvas: Canvas, generator: Generator) -> None:
    """A bright curl of metal left from machining."""
    canvas.lay()
    start = np.array(picture_place(canvas.scene, *generator.uniform(-85, 85, size=2)))
    t = np.linspace(0, generator.uniform(5.0, 8.5), 26)
    radius, heading = generator.uniform(4.0, 6.5), generator.uniform(0, 2 * np.pi)
    drift = t[:, None] * generator.uniform(2.0, 3.2) * np.array([np.cos(heading), np.sin(heading)])
    points = start + radius * np.stack([np.cos(t), np.sin(t)], axis=1) * (1 + 0.06 * t[:, None]) + drift
    distance, side, along = line_distance(canvas.x, canvas.y, points)
    lamp = np.array([np.cos(canvas.scene.lamp), np.sin(canvas.scene.lamp)])
    below = line_distance(canvas.x, canvas.y, points - 1.8 * lamp)[0]
    half = generator.uniform(1.1, 1.6)
    canvas.picture = canvas.picture * (1 - 0.40 * soft(below - half, 2.5))
    gleam = 0.55 + 0.42 * np.sin(9 * along + generator.uniform(0, 6)) * np.where(side > 0, 1.0, 0.6)
    canvas.picture = mix(canvas.picture, paint(np.array([1.0, 0.99, 0.96]), gleam), soft(distance - half, 1.2))


def _torn_tag(canvas: Canvas, generator: Generator) -> None:
    """A corner or a piece of the edge torn off the tag, with a white paper edge."""
    compartment, tag = canvas.pick(generator, "tag")
    canvas.lay(but=tag)
    a0, b0 = generator.uniform(-10, 34), generator.choice([-1, 1]) * 19.0
    c, s = np.cos(tag.turn), np.sin(tag.turn)
    place = np.add(middle(compartment), tag.place) + np.array([c * a0 - s * b0, s * a0 + c * b0])
    radius = generator.uniform(7.0, 13.0)
    centre = picture_place(canvas.scene, *place)
    distance = blob(canvas.x, canvas.y, centre, (radius, radius * generator.uniform(0.6, 0.9)), generator, 0.4)
    distance = distance + 0.7 * smooth_noise(generator, canvas.size, 1.3)
    canvas.put(compartment, tag, gone=soft(distance, 1.0))
    fibre = soft(distance - generator.uniform(1.5, 3.0), 1.2) * (1 - soft(distance, 1.0))
    canvas.picture = mix(canvas.picture, np.array([0.86, 0.84, 0.80]), fibre * canvas.cover(compartment, tag))


_DEFECTS = {"bent_bolt": _bent_bolt, "chip": _chip, "crack": _crack, "hair": _hair, "rust": _rust, "swarf": _swarf,
            "torn_tag": _torn_tag}
