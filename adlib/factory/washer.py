"""Product `washer`: a turned steel ring with a keyway, at any angle, on a dark rubber mat.

The lathe leaves concentric grooves, which throw the light back in two opposite fans as on a record. Fans,
shaded bevels and shadow follow the lamp, the keyway follows the part. A defect changes the outline
(chip, burr), the surface normal (dent, scratch) or the colour (rust, crack).
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

KINDS = ("burr", "chip", "crack", "dent", "rust", "scratch")

MASK_GAP = 3.0  # units that the mask is closed over

OUTER, INNER = 96.0, 45.0  # radii in units
BEVEL = 4.0  # width of the bevels in units
KEYWAY = (11.0, 9.0)  # half width and depth in units
RINGS = 640  # the groove profile is a table over the radius, four entries a unit
SPOKES = 720  # and the fine streaks of the fans are one over the angle


@dataclass(frozen=True)
class Scene:
    """All that makes one good picture, noise excepted."""

    centre: tuple[float, float]
    radii: tuple[float, float]  # outer and inner, units
    angle: float  # of the keyway, radians
    lamp: float  # direction the light comes from, radians
    fan: tuple[float, float, float]  # strength, narrowness and inequality of the two highlights
    grooves: Array  # (RINGS,) brightness relief over the radius
    streaks: Array  # (SPOKES,) the same over the angle
    light: tuple[float, float, float]  # brightness, slope along and across the lamp's direction
    steel: Array  # (3,) colour
    mat: Array  # (3,) colour
    texture_seed: int


def make_scene(generator: Generator) -> Scene:
    """Draw a scene at random."""
    groove = generator.normal(size=RINGS)
    fine = np.convolve(groove, [0.25, 0.5, 0.25], mode="same")
    broad = np.convolve(generator.normal(size=RINGS), np.hanning(25) / 3.1, mode="same")
    pitch = generator.uniform(7.5, 9.5)  # table entries from groove to groove: the feed of the tool
    regular = np.sin(2 * np.pi * np.arange(RINGS) / pitch + generator.uniform(0, 2 * np.pi))
    streaks = np.convolve(np.tile(generator.normal(size=SPOKES), 3), np.hanning(7) / 1.7, mode="same")
    warmth = generator.normal(scale=0.015) * np.array([1.0, 0.1, -1.0])
    return Scene(
        centre=(UNITS / 2 + generator.uniform(-6, 6), UNITS / 2 + generator.uniform(-6, 6)),
        radii=(OUTER + generator.normal(scale=0.4), INNER + generator.normal(scale=0.4)),
        angle=generator.uniform(0, 2 * np.pi),
        lamp=generator.uniform(0, 2 * np.pi),
        fan=(generator.uniform(0.32, 0.42), generator.uniform(2.6, 3.8), generator.uniform(0.0, 0.25)),
        grooves=0.022 * fine + 0.014 * broad + 0.022 * regular,
        streaks=0.03 * streaks[SPOKES : 2 * SPOKES],
        light=(generator.uniform(0.92, 1.06), generator.normal(scale=0.04), generator.normal(scale=0.04)),
        steel=np.array([0.66, 0.67, 0.69]) * (1 + warmth),
        mat=np.array([0.115, 0.12, 0.125]) * generator.uniform(0.9, 1.12) * (1 + warmth),
        texture_seed=int(generator.integers(2**32)),
    )


def draw(scene: Scene, size: int, kind: str = "good", generator: Generator | None = None) -> Array:
    """Draw the scene without noise: (3, size, size), float64, in about [0, 1].

    With a defect's name as `kind`, that defect is drawn into it; its place, size and strength come from `generator`.
    """
    x, y = pixel_centres(size)
    part = _Part(scene, x, y)
    if kind == "good":
        return part.picture()
    if generator is None:
        raise ValueError(f"kind is {kind!r} and generator is None: a defect needs a generator; pass one")
    return _DEFECTS[kind](part, generator)


class _Part:
    """The fields of one scene at each pixel, from which `picture` mixes the colours."""

    def __init__(self, scene: Scene, x: Array, y: Array) -> None:
        self.scene, self.x, self.y = scene, x, y
        dx, dy = x - scene.centre[0], y - scene.centre[1]
        self.radius = np.hypot(dx, dy)
        self.theta = np.arctan2(dy, dx)
        outer, inner = scene.radii
        along = np.cos(scene.angle) * dx + np.sin(scene.angle) * dy
        across = np.abs(np.cos(scene.angle) * dy - np.sin(scene.angle) * dx)
        self.outside = self.radius - outer  # signed distances to the outlines, positive where there is no steel
        keyway = np.maximum(across - KEYWAY[0], np.abs(along - inner) - KEYWAY[1])
        self.inside = np.maximum(inner - self.radius, -keyway)
        self.relief: Array | float = 0.0  # change of brightness by bumps in the surface

    def outline(self) -> Array:
        """Signed distance to the steel's outline, negative on the steel."""
        return np.maximum(self.outside, self.inside)

    def background(self) -> Array:
        """The mat (3, h, w) with the part's soft shadow."""
        scene = self.scene
        generator = np.random.default_rng(scene.texture_seed)
        size = self.x.shape[0]
        grain = 1 + 0.16 * smooth_noise(generator, size, 1.0) + 0.10 * smooth_noise(generator, size, 9.0)
        shift = 5.0 * np.array([np.cos(scene.lamp), np.sin(scene.lamp)])
        radius = np.hypot(self.x - scene.centre[0] + shift[0], self.y - scene.centre[1] + shift[1])
        shadow = soft(radius - scene.radii[0], 12.0) * soft(scene.radii[1] - radius, 12.0)
        return paint(scene.mat, grain * (1 - 0.6 * shadow))

    def surface(self) -> Array:
        """The steel's brightness (h, w): grooves, fans and bevels."""
        scene = self.scene
        ring = np.clip(self.radius * 4, 0, RINGS - 2)
        low = ring.astype(int)
        grooves = scene.grooves[low] + (ring - low) * (scene.grooves[low + 1] - scene.grooves[low])
        spoke = np.mod(self.theta - scene.angle, 2 * np.pi) * (SPOKES / (2 * np.pi))
        first = spoke.astype(int) % SPOKES
        streaks = scene.streaks[first] + (spoke - spoke.astype(int)) * (
            scene.streaks[(first + 1) % SPOKES] - scene.streaks[first])

        strength, narrowness, inequality = scene.fan
        turn = np.cos(self.theta - scene.lamp)
        fan = strength * np.exp(narrowness * (2 * turn * turn - 2)) * (1 + inequality * np.sign(turn) * np.abs(turn))
        face = 0.50 + fan * (1 + 3.0 * grooves + 2.0 * streaks) + grooves * (0.6 + 1.2 * fan) + self.relief

        # A bevel leans outward at the outer rim and inward at the bore, so the lamp lights one and then the other.
        outer_bevel = 0.50 + 0.42 * turn
        inner_bevel = 0.42 - 0.34 * turn
        face = face + (outer_bevel - face) * soft(-self.outside - BEVEL, 1.2)
        return face + (inner_bevel - face) * soft(-self.inside - BEVEL * 0.7, 1.2)

    def picture(self, tint: Array | None = None, tint_amount: Array | None = None) -> Array:
        """Mix mat and steel (3, h, w); `tint` (3,) or (3, h, w) covers the steel by `tint_amount` (h, w)."""
        scene = self.scene
        steel = paint(scene.steel / 0.67, self.surface())
        if tint is not None and tint_amount is not None:
            steel = mix(steel, tint, tint_amount)
        whole = mix(self.background(), steel, soft(self.outline(), 1.3))
        brightness, along, across = scene.light
        dx, dy = (self.x - UNITS / 2) / (UNITS / 2), (self.y - UNITS / 2) / (UNITS / 2)
        toward = np.cos(scene.lamp) * dx + np.sin(scene.lamp) * dy
        sideways = np.cos(scene.lamp) * dy - np.sin(scene.lamp) * dx
        return whole * (brightness * (1 + along * toward + across * sideways))

    def place(self, generator: Generator, margin: float = 10.0) -> tuple[float, float, float]:
        """A spot (x, y) on the face away from the keyway, and its direction from the centre."""
        scene = self.scene
        theta = scene.angle + generator.uniform(0.45, 2 * np.pi - 0.45)
        radius = generator.uniform(scene.radii[1] + margin, scene.radii[0] - margin)
        return scene.centre[0] + radius * np.cos(theta), scene.centre[1] + radius * np.sin(theta), theta

    def on_rim(self, generator: Generator, outer: bool) -> tuple[float, float, float]:
        """A spot on the outer or the inner outline, and its direction from the centre."""
        scene = self.scene
        theta = scene.angle + generator.uniform(0.45, 2 * np.pi - 0.45)
        radius = scene.radii[0 if outer else 1]
        return scene.centre[0] + radius * np.cos(theta), scene.centre[1] + radius * np.sin(theta), theta


def _chip(part: _Part, generator: Generator) -> Array:
    """A piece broken out of the rim, with a rough facet around the break."""
    outer = generator.uniform() < 0.65
    x0, y0, _ = part.on_rim(generator, outer)
    radius = generator.uniform(4.5, 11.0)
    distance = blob(part.x, part.y, (x0, y0), (radius, radius * generator.uniform(0.6, 1.0)), generator, 0.35)
    rough = smooth_noise(generator, part.x.shape[0], 1.5)
    facet = soft(distance - generator.uniform(1.5, 3.0), 1.5) * (part.outline() < 0)
    if outer:
        part.outside = np.maximum(part.outside, -distance)
    else:
        part.inside = np.maximum(part.inside, -distance)
    broken = paint(np.ones(3), np.clip(generator.uniform(0.32, 0.62) + 0.10 * rough, 0, 1))
    return part.picture(broken, facet * 0.85)


def _burr(part: _Part, generator: Generator) -> Array:
    """A sliver of metal that stands out over the rim."""
    x0, y0, theta = part.on_rim(generator, generator.uniform() < 0.7)
    outward = 1.0 if np.hypot(x0 - part.scene.centre[0], y0 - part.scene.centre[1]) > (OUTER + INNER) / 2 else -1.0
    heading = theta + np.pi / 2 * (1 if generator.uniform() < 0.5 else -1)
    heading += generator.uniform(0.2, 0.5) * outward * (1 if np.sin(heading - theta) < 0 else -1)
    points = wandering_line(generator, (x0, y0), heading, generator.uniform(14, 30), 0.12, 6)
    distance, side, along = line_distance(part.x, part.y, points)
    half = generator.uniform(1.9, 3.2) * np.sqrt(np.clip(1.05 - along, 0.02, 1))
    bright = 0.62 + 0.25 * side * generator.choice([-1, 1]) + 0.05 * smooth_noise(generator, part.x.shape[0], 1.5)
    return mix(part.picture(), paint(part.scene.steel / 0.67, bright), soft(distance - half, 1.2))


def _crack(part: _Part, generator: Generator) -> Array:
    """A thin dark jagged line that starts at a rim."""
    outer = generator.uniform() < 0.5
    x0, y0, theta = part.on_rim(generator, outer)
    heading = theta + (np.pi if outer else 0.0) + generator.uniform(-0.5, 0.5)
    points = wandering_line(generator, (x0, y0), heading, generator.uniform(20, 50), 0.35, 12)
    distance, side, along = line_distance(part.x, part.y, points)
    half = generator.uniform(0.6, 1.2) * np.sqrt(1.02 - along)
    lip = 0.10 * np.exp(-np.maximum(distance - half, 0) / 0.9) * (side > 0)
    part.relief = part.relief + lip
    return part.picture(np.full(3, 0.09), soft(distance - half, 1.3) * generator.uniform(0.65, 0.95))


def _dent(part: _Part, generator: Generator) -> Array:
    """A shallow dip: the wall that faces the lamp is bright, the other dark, and the grooves bend through it."""
    x0, y0, _ = part.place(generator, 12)
    radius = generator.uniform(6.0, 12.0)
    distance = blob(part.x, part.y, (x0, y0), (radius, radius * generator.uniform(0.55, 1.0)), generator, 0.15)
    depth = np.clip(1 - (distance / radius + 1), -0.4, 1)  # 1 in the middle, 0 at the rim
    slope = np.exp(-((depth - 0.25) / 0.33) ** 2)
    dx, dy = part.x - x0, part.y - y0
    toward_lamp = (np.cos(part.scene.lamp) * dx + np.sin(part.scene.lamp) * dy) / (np.hypot(dx, dy) + 1e-6)
    strength = generator.uniform(0.22, 0.45)
    shade = slope * toward_lamp + 0.35 * soft(distance + 0.35 * radius, radius)
    part.relief = part.relief - strength * shade
    part.radius = part.radius + generator.uniform(0.8, 1.6) * np.clip(depth, 0, 1) ** 2
    return part.picture()


def _rust(part: _Part, generator: Generator) -> Array:
    """A patch of rust: brown, blotchy, with outliers around it."""
    x0, y0, _ = part.place(generator, 6)
    radius = generator.uniform(7.0, 16.0)
    distance = blob(part.x, part.y, (x0, y0), (radius, radius * generator.uniform(0.5, 1.0)), generator, 0.3)
    size = part.x.shape[0]
    blotches = smooth_noise(generator, size, 2.4) + 0.6 * smooth_noise(generator, size, 1.0)
    amount = soft(distance + 2.2 - 2.4 * blotches, 3.0) * (distance < 6) * generator.uniform(0.5, 0.95)
    shade = 1 + 0.18 * smooth_noise(generator, size, 1.3)
    colour = np.array([0.46, 0.25, 0.12]) + generator.uniform(-0.04, 0.06)
    return part.picture(paint(colour, shade), amount)


def _scratch(part: _Part, generator: Generator) -> Array:
    """A furrow that crosses the grooves, with a bright and a dark wall."""
    x0, y0, theta = part.place(generator, 12)
    heading = theta + generator.choice([-1, 1]) * generator.uniform(0.0, 1.15) + generator.choice([0, np.pi])
    points = wandering_line(generator, (x0, y0), heading, generator.uniform(25, 70), 0.07)
    distance, side, along = line_distance(part.x, part.y, points)
    half = generator.uniform(0.6, 1.3)
    fade = np.sqrt(np.clip(4.4 * along * (1.02 - along), 0, 1))
    wall = np.exp(-((distance - half) / (half + 0.25)) ** 2) * fade
    strength = generator.uniform(0.25, 0.5) * generator.choice([-1, 1])
    part.relief = part.relief + strength * wall * np.where(side > 0, 1.0, -0.7)
    return part.picture()


_DEFECTS = {"burr": _burr, "chip": _chip, "crack": _crack, "dent": _dent, "rust": _rust, "scratch": _scratch}
