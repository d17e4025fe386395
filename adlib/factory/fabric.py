"""Product `fabric`: a plain weave of indigo warp and pale weft, seen from above.

Each yarn has its own place, thickness and shade, and both vary along it. At each pixel the two yarns that
could cover it have a height; the higher one is seen. A defect changes the yarns (missing yarn, slub, misweave)
or the finished cloth (hole, cut, stain, foreign fibre).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from adlib.factory.shapes import (
    UNITS,
    Array,
    blob,
    line_distance,
    mix,
    paint,
    pixel_centres,
    smooth_noise,
    soft,
    wandering_line,
)

KINDS = ("cut", "foreign_fibre", "hole", "missing_yarn", "misweave", "slub", "stain")

MASK_GAP = 9.0  # units: a defect of the weave changes every other crossing; the mask is closed over the rest

YARNS = 56  # a table holds this many yarns, more than ever lie in the picture
KNOTS = 24  # and each yarn's thickness and shade at this many places
SPAN = 400.0  # length of yarn in units that the table covers, the picture's diagonal included
PITCH = 7.6  # units from yarn to yarn
BACKING = np.array([0.10, 0.095, 0.09])  # the dark table under the cloth


@dataclass(frozen=True)
class Scene:
    """All that makes one good picture, noise excepted."""

    angle: float  # of the warp against the vertical, radians
    pitch: tuple[float, float]  # of warp and weft, units
    offset: tuple[float, float]
    bow: tuple[float, float, float, float]  # amplitude and phase of the slow waves in both directions
    place: Array  # (2, YARNS) shift of each yarn from its even place, in pitches
    thickness: Array  # (2, YARNS, KNOTS) half width, in pitches
    shade: Array  # (2, YARNS, KNOTS) brightness factor
    colours: Array  # (2, 3) of warp and weft
    light: tuple[float, float, float, float]  # brightness, slope in x and y, darkening to the corners
    texture_seed: int  # for the fine fibre texture


def make_scene(generator: Generator) -> Scene:
    """Draw a scene at random."""
    warp = np.array([0.36, 0.45, 0.58]) * generator.uniform(0.95, 1.05) + generator.normal(scale=0.005, size=3)
    weft = np.array([0.74, 0.72, 0.66]) * generator.uniform(0.97, 1.03) + generator.normal(scale=0.005, size=3)
    temperature = generator.normal(scale=0.01) * np.array([1.0, 0.0, -1.0])
    return Scene(
        angle=generator.normal(scale=0.025),
        pitch=(PITCH * generator.uniform(0.97, 1.03), PITCH * generator.uniform(0.97, 1.03)),
        offset=(generator.uniform(0, PITCH), generator.uniform(0, PITCH)),
        bow=(generator.normal(scale=0.8), generator.uniform(0, 2 * np.pi), generator.normal(scale=0.8),
             generator.uniform(0, 2 * np.pi)),
        place=np.clip(generator.normal(scale=0.022, size=(2, YARNS)), -0.055, 0.055),
        thickness=np.clip(0.44 + generator.normal(scale=0.012, size=(2, YARNS, 1))
                          + generator.normal(scale=0.011, size=(2, YARNS, KNOTS)), 0.38, 0.50),
        shade=1 + generator.normal(scale=0.03, size=(2, YARNS, 1))
        + generator.normal(scale=0.018, size=(2, YARNS, KNOTS)),
        colours=np.stack([warp, weft]) * (1 + temperature),
        light=(generator.uniform(0.82, 1.08), generator.normal(scale=0.06), generator.normal(scale=0.06),
               generator.uniform(0.0, 0.16)),
        texture_seed=int(generator.integers(2**32)),
    )


def draw(scene: Scene, size: int, kind: str = "good", generator: Generator | None = None) -> Array:
    """Draw the scene without noise: (3, size, size), float64, in about [0, 1].

    With a defect's name as `kind`, that defect is drawn into it; its place, size and strength come from `generator`.
    """
    x, y = pixel_centres(size)
    if kind == "good":
        return _lit(scene, _weave(scene, x, y), x, y)
    if generator is None:
        raise ValueError(f"kind is {kind!r} and generator is None: a defect needs a generator; pass one")
    if kind in ("missing_yarn", "slub", "misweave"):
        return _lit(scene, _DEFECTS[kind](scene, x, y, generator), x, y)
    return _lit(scene, _DEFECTS[kind](_weave(scene, x, y), x, y, generator), x, y)


def _weave(scene: Scene, x: Array, y: Array, thickness: Array | None = None, order: Array | None = None,
           place: Array | None = None, coordinates: tuple[Array, Array] | None = None) -> Array:
    """The cloth in even light, (3, h, w). The optional arguments stand in for the scene's own.

    order: (h, w), +1 where the warp goes over at even crossings and -1 where at odd ones; a number of
    larger size leaves the warp (or weft) on top throughout.
    """
    thickness = scene.thickness if thickness is None else thickness
    place = scene.place if place is None else place
    u, v = yarn_coordinates(scene, x, y) if coordinates is None else coordinates
    warp = _yarn(u, v, scene.shade[0], thickness[0], place[0])
    weft = _yarn(v, u, scene.shade[1], thickness[1], place[1])

    # Each yarn rises and falls like a cosine along its length, over one crossing and under the next.
    parity = 1.0 - 2.0 * ((warp.index + weft.index) % 2)
    swing = parity if order is None else np.clip(parity * np.sign(order) + (np.abs(order) > 1) * order, -1, 1)
    warp_rise = swing * np.cos(np.pi * np.clip(v - np.floor(v) - 0.5, -0.5, 0.5))
    weft_rise = -swing * np.cos(np.pi * np.clip(u - np.floor(u) - 0.5, -0.5, 0.5))
    warp_height = 0.55 * warp_rise + warp.profile
    weft_height = 0.55 * weft_rise + weft.profile
    warp_over = soft((weft_height - warp_height), 0.30)

    fibre = _fibre_texture(scene, x.shape[0])
    lit = []
    for yarn, rise, position in ((warp, warp_rise, v), (weft, weft_rise, u)):
        twist = np.sin(2 * np.pi * (2.1 * position + 0.9 * yarn.across))  # plied fibres cross the yarn at a slant
        lit.append((0.42 + 0.46 * yarn.profile + 0.16 * rise * yarn.profile + 0.05 * twist) * yarn.shade * (1 + fibre))
    cover = 1 - (1 - warp.cover) * (1 - weft.cover)
    cloth = paint(scene.colours[0], lit[0] * warp_over * cover)
    cloth += paint(scene.colours[1], lit[1] * (1 - warp_over) * cover)
    return cloth + paint(BACKING, 1 - cover)


@dataclass(frozen=True)
class _Yarn:
    """What one system of parallel yarns has at each pixel (all (h, w))."""

    index: Array  # number of the yarn
    across: Array  # signed distance from its middle line, in half widths
    profile: Array  # height of its round back, 0 to 1
    cover: Array  # 1 on it, 0 beside it
    shade: Array


def _yarn(across: Array, along: Array, shade: Array, thickness: Array, place: Array) -> _Yarn:
    index = np.floor(across).astype(int) + YARNS // 2
    knot = np.clip((along * PITCH / SPAN + 0.5) * (KNOTS - 1), 0, KNOTS - 1.001)
    low = knot.astype(int)
    part = knot - low
    flat = index * KNOTS + low
    half = thickness.ravel()[flat] * (1 - part) + thickness.ravel()[flat + 1] * part
    bright = shade.ravel()[flat] * (1 - part) + shade.ravel()[flat + 1] * part
    distance = across - np.floor(across) - 0.5 - place[index]
    relative = distance / np.maximum(half, 1e-3)
    return _Yarn(index, relative, np.sqrt(np.clip(1 - relative * relative, 0, 1)),
                 soft((np.abs(distance) - half) * PITCH, 1.2), bright)


def yarn_coordinates(scene: Scene, x: Array, y: Array) -> tuple[Array, Array]:
    """Pixels in yarn coordinates, in pitches: u counts warp yarns, v weft yarns, both 0 near the middle."""
    dx, dy = x - UNITS / 2, y - UNITS / 2
    u = np.cos(scene.angle) * dx + np.sin(scene.angle) * dy
    v = np.cos(scene.angle) * dy - np.sin(scene.angle) * dx
    a, p, b, q = scene.bow
    u, v = u + a * np.sin(v * (2 * np.pi / 210) + p), v + b * np.sin(u * (2 * np.pi / 210) + q)
    return (u + scene.offset[0]) / scene.pitch[0], (v + scene.offset[1]) / scene.pitch[1]


def _fibre_texture(scene: Scene, size: int) -> Array:
    generator = np.random.default_rng(scene.texture_seed)
    return 0.045 * smooth_noise(generator, size, 0.8) + 0.02 * smooth_noise(generator, size, 14.0)


def _lit(scene: Scene, cloth: Array, x: Array, y: Array) -> Array:
    brightness, slope_x, slope_y, corners = scene.light
    dx, dy = (x - UNITS / 2) / (UNITS / 2), (y - UNITS / 2) / (UNITS / 2)
    return cloth * (brightness * (1 + slope_x * dx + slope_y * dy) * (1 - corners * (dx * dx + dy * dy) / 2))


def _spot(generator: Generator, margin: float = 30.0) -> tuple[float, float]:
    return generator.uniform(margin, UNITS - margin), generator.uniform(margin, UNITS - margin)


def _missing_yarn(scene: Scene, x: Array, y: Array, generator: Generator) -> Array:
    system, index, knots = _pick_yarn(scene, generator)
    thickness, place = scene.thickness.copy(), scene.place.copy()
    gone = slice(index, index + generator.integers(1, 3))  # one yarn or two side by side
    left = generator.uniform(0.0, 0.08)  # they are gone, or worn to a thread
    if generator.uniform() < 0.5:
        thickness[system, gone] *= left
        close = generator.uniform(0.0, 0.06)  # the neighbours move into part of the gap
        place[system, gone.start - 1] += close
        place[system, gone.stop] -= close
    else:  # they end in the picture
        end = generator.integers(8, 16)
        beyond = knots > end if generator.uniform() < 0.5 else knots < end
        thickness[system, gone] *= np.where(beyond, left, 1.0)
    return _weave(scene, x, y, thickness=thickness, place=place)


def _slub(scene: Scene, x: Array, y: Array, generator: Generator) -> Array:
    """A yarn swells over a short way and pushes its neighbours aside."""
    system, index, _ = _pick_yarn(scene, generator)
    across, along = yarn_coordinates(scene, x, y)[:: 1 if system == 0 else -1]
    middle, length = generator.uniform(-11, 11), generator.uniform(2.0, 5.0)
    swelling = generator.uniform(0.5, 0.7) * np.exp(-(((along - middle) / length) ** 2))
    # Near the yarn the coordinate runs slower, so what is drawn there becomes wider.
    beside = across - (index - YARNS // 2 + 0.5)
    across = across - swelling * beside * np.exp(-((beside / 1.3) ** 2))
    brighter = 1 + generator.uniform(0.35, 0.8) * swelling * soft(np.abs(beside) - 0.7, 0.4)  # loose fibres
    return _weave(scene, x, y, coordinates=(across, along)[:: 1 if system == 0 else -1]) * brighter


def _misweave(scene: Scene, x: Array, y: Array, generator: Generator) -> Array:
    """Over a few yarns the warp or the weft floats on top instead of going under."""
    u, v = (np.floor(c) for c in yarn_coordinates(scene, x, y))
    u0, v0 = generator.integers(-11, 9), generator.integers(-11, 9)
    wide, high = (generator.integers(2, 4), generator.integers(4, 10))
    wide, high = (wide, high) if generator.uniform() < 0.5 else (high, wide)
    inside = (u >= u0) & (u < u0 + wide) & (v >= v0) & (v < v0 + high)
    top = generator.choice([-2.0, 2.0])
    return _weave(scene, x, y, order=np.where(inside, top, 1.0))


def _pick_yarn(scene: Scene, generator: Generator) -> tuple[int, int, Array]:
    """Warp (0) or weft (1), the number of a yarn in the picture, and the numbers of its knots."""
    return int(generator.integers(2)), YARNS // 2 + int(generator.integers(-12, 13)), np.arange(KNOTS)


def _hole(cloth: Array, x: Array, y: Array, generator: Generator) -> Array:
    radius = generator.uniform(5.0, 8.5)
    distance = blob(x, y, _spot(generator), (radius, radius * generator.uniform(0.6, 1.0)), generator, 0.25)
    distance += 0.8 * smooth_noise(generator, x.shape[0], 1.6)  # yarn ends stand into the hole
    frayed = 0.25 * soft(distance - 2.0, 4.0) * (1 + 0.5 * smooth_noise(generator, x.shape[0], 1.2))
    cloth = cloth * (1 + frayed)
    return mix(cloth, BACKING, soft(distance, 1.5) * generator.uniform(0.85, 1.0))


def _cut(cloth: Array, x: Array, y: Array, generator: Generator) -> Array:
    start, heading = _spot(generator, 60), generator.uniform(0, 2 * np.pi)
    points = wandering_line(generator, start, heading, generator.uniform(30, 65), 0.06)
    distance, _, along = line_distance(x, y, points)
    half = generator.uniform(1.4, 2.4) * np.sqrt(np.clip(4 * along * (1 - along), 0.02, 1))  # widest in the middle
    ragged = distance - half + 0.5 * smooth_noise(generator, x.shape[0], 1.4)
    cloth = cloth * (1 + 0.22 * soft(ragged - 1.2, 2.4))
    return mix(cloth, BACKING, soft(ragged, 1.4) * generator.uniform(0.75, 0.98))


def _stain(cloth: Array, x: Array, y: Array, generator: Generator) -> Array:
    radius = generator.uniform(10, 22)
    distance = blob(x, y, _spot(generator), (radius, radius * generator.uniform(0.5, 1.0)), generator, 0.3)
    strength = generator.uniform(0.45, 0.75)
    drying_edge = 0.35 * np.exp(-((distance + 1.5) / 2.0) ** 2)
    amount = strength * (soft(distance, 4.0) * (1 + 0.12 * smooth_noise(generator, x.shape[0], 5.0)) + drying_edge)
    tint = np.array([[0.55, 0.42, 0.25], [0.25, 0.22, 0.20], [0.60, 0.30, 0.22]])[generator.integers(3)]
    return cloth * (1 - paint(1 - tint, np.clip(amount, 0, 1)))  # it dyes the yarns, the weave stays visible


def _foreign_fibre(cloth: Array, x: Array, y: Array, generator: Generator) -> Array:
    start, heading = _spot(generator, 50), generator.uniform(0, 2 * np.pi)
    points = wandering_line(generator, start, heading, generator.uniform(40, 120), 0.32, 14)
    distance, side, along = line_distance(x, y, points)
    half = generator.uniform(1.3, 2.2)
    colour = np.array([[0.62, 0.16, 0.14], [0.10, 0.10, 0.11], [0.86, 0.85, 0.82], [0.55, 0.47, 0.20]])
    colour = colour[generator.integers(len(colour))]
    shadow = 0.35 * np.exp(-np.maximum(distance - half, 0) / 1.5) * (side > 0)
    cloth = cloth * (1 - shadow)
    round_back = 0.75 + 0.35 * np.sqrt(np.clip(1 - (distance / (half + 0.6)) ** 2, 0, 1))
    return mix(cloth, paint(colour, round_back), soft(distance - half, 1.2) * generator.uniform(0.85, 1.0))


_DEFECTS = {
    "cut": _cut,
    "foreign_fibre": _foreign_fibre,
    "hole": _hole,
    "missing_yarn": _missing_yarn,
    "misweave": _misweave,
    "slub": _slub,
    "stain": _stain,
}
