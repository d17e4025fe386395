"""The tray of product `kit`: where its compartments are, how it is moulded, and how parts are put into it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator

from adlib.factory.kit_parts import REACH, SHADOW, Part, face, outline, window
from adlib.factory.shapes import UNITS, Array, box, mix, paint, pixel_centres, smooth_noise, soft

COLUMN, ROW = 72.0, 106.0  # from compartment to compartment, units of the tray; three in a row, two rows
INSIDE = (32.5, 49.0)  # half sides of a compartment
TRAY = 113.0  # half side
CORNER, WALL = 9.0, 5.0

Contents = tuple[tuple[Part, ...], ...]


@dataclass(frozen=True, eq=False)  # compared by identity, so that the cache below can tell one from another
class Scene:
    """All that makes one good picture, noise excepted."""

    centre: tuple[float, float]  # of the tray
    angle: float  # of the tray, radians
    scale: float
    lamp: float  # direction the light comes from, radians
    light: tuple[float, float, float]  # brightness, slope in x and in y
    plastic: Array  # (3,) colour of the tray
    bench: Array  # (3,) colour
    tint: Array  # (3,) colour of the light
    contents: Contents  # the parts of the six compartments
    texture_seed: int


def middle(compartment: int) -> tuple[float, float]:
    """The middle of a compartment in the tray's coordinates, units."""
    return (compartment % 3 - 1) * COLUMN, (compartment // 3 - 0.5) * ROW


class Canvas:
    """A picture in the making, in even light: first the empty tray, then what lies in it."""

    @classmethod
    def empty(cls, scene: Scene, size: int) -> Canvas:
        """The empty tray. Good and defective picture of one scene start from it, so that it is drawn once."""
        canvas = copy.copy(_empty(scene, size))
        canvas.picture = canvas.picture.copy()
        return canvas

    def __init__(self, scene: Scene, size: int) -> None:
        self.scene, self.size = scene, size
        self.x, self.y = pixel_centres(size)
        self.u, self.v = tray_coordinates(scene, self.x, self.y)
        turned = scene.lamp - scene.angle
        self.lamp = np.cos(turned), np.sin(turned)  # in the tray's coordinates
        self.grain = smooth_noise(np.random.default_rng(scene.texture_seed), size, 0.9)
        # All compartments are alike, so the plane is folded and one is drawn: p and q start at its middle.
        self.p = self.u - COLUMN * np.clip(np.round(self.u / COLUMN), -1, 1)
        self.q = self.v - ROW * np.where(self.v < 0, -0.5, 0.5)
        self.inside = box(self.p, self.q, INSIDE, CORNER)  # signed distance to the rib's edge
        self.picture = self._tray()
        self.sheltered = soft(self.inside + 2.5, 4.0)  # parts cast no shadow beyond their compartment

    def _tray(self) -> Array:
        u, v, p, q, inside, (lamp_u, lamp_v) = self.u, self.v, self.p, self.q, self.inside, self.lamp
        edge = box(u, v, (TRAY, TRAY), 13.0)
        tilt = soft(np.abs(inside + WALL / 2) - WALL / 2, 2.2)  # 1 on the walls, which fall inward
        outer = soft(np.abs(edge + 1.8) - 1.8, 1.8)  # and on the tray's rounded rim, which falls outward
        shade = 1 - 0.26 * tilt * _facing(p, q, INSIDE, CORNER, self.lamp)
        shade = shade + 0.22 * outer * _facing(u, v, (TRAY, TRAY), 13.0, self.lamp) - 0.05 * outer
        shade = shade + 0.09 * np.exp(-(((inside - 0.6) / 0.8) ** 2))  # the ribs' worn edges shine
        floor = soft(inside + WALL, 2.0)
        corner_dark = 0.16 * np.exp(np.clip(inside + WALL, -60, 0) / 5.0) * floor
        cast = box(p + 6.0 * lamp_u, q + 6.0 * lamp_v, (INSIDE[0] - 3, INSIDE[1] - 3), CORNER)
        shade = (shade - 0.075 * floor - corner_dark) * (1 - 0.26 * soft(-cast, 9.0) * soft(inside + 2.0, 3.0))
        tray = paint(self.scene.plastic, shade * (1 + 0.016 * self.grain))

        away = box(u + 5 * lamp_u, v + 5 * lamp_v, (TRAY, TRAY), 13.0)
        broad = smooth_noise(np.random.default_rng(self.scene.texture_seed + 1), self.size, 7.0)
        bench = paint(self.scene.bench, (1 + 0.06 * self.grain + 0.05 * broad) * (1 - 0.6 * soft(away, 14.0)))
        return mix(bench, tray, soft(edge, 1.4))

    def around(self, compartment: int, part: Part) -> tuple[tuple[slice, slice], Array, Array, float]:
        """The pixels around a part, its own coordinates a and b at each, and its turn."""
        u0, v0 = np.add(middle(compartment), part.place)
        near = window(self.size, picture_place(self.scene, u0, v0), REACH[part.name])
        du, dv = self.u[near] - u0, self.v[near] - v0
        c, s = np.cos(part.turn), np.sin(part.turn)
        return near, c * du + s * dv, c * dv - s * du, part.turn

    def put(self, compartment: int, part: Part, bend: Callable[[Array, Array], tuple[Array, Array]] | None = None,
            gone: Array | None = None) -> None:
        """Draw one part with its shadow.

        Parameters
        ----------
        compartment : int
        part : Part
        bend : callable, optional
            Changes a and b.
        gone : Array (size, size), optional
            How much of it is missing.
        """
        near, a, b, turn = self.around(compartment, part)
        lamp_u, lamp_v = self.lamp
        c, s = np.cos(turn), np.sin(turn)
        lamp = c * lamp_u + s * lamp_v, c * lamp_v - s * lamp_u
        shift, softness, depth = SHADOW[part.name]
        behind = a + shift * lamp[0], b + shift * lamp[1]
        if bend is not None:
            (a, b), behind = bend(a, b), bend(*behind)
        shadow = depth * self.sheltered[near] * soft(outline(part.name, *behind) - softness / 4, softness)
        cover = soft(outline(part.name, a, b), 1.2)
        if gone is not None:
            shadow, cover = shadow * (1 - gone[near]), cover * (1 - gone[near])
        ground = self.picture[:, *near] * (1 - shadow)
        top = face(part, a, b, lamp, ground) * (1 + 0.02 * self.grain[near])
        self.picture[:, *near] = mix(ground, top, cover)

    def lay(self, but: Part | None = None) -> Canvas:
        """Put all parts into the tray, one excepted."""
        for compartment, parts in enumerate(self.scene.contents):
            for part in parts:
                if part is not but:
                    self.put(compartment, part)
        return self

    def cover(self, compartment: int, part: Part) -> Array:
        """1 on the part, 0 beside it, (size, size)."""
        near, a, b, _ = self.around(compartment, part)
        cover = np.zeros((self.size, self.size))
        cover[near] = soft(outline(part.name, a, b), 1.2)
        return cover

    def near(self, compartment: int, part: Part, margin: float) -> Array:
        """The pixels (size, size) bool on a part or at most `margin` units beside it."""
        window_of, a, b, _ = self.around(compartment, part)
        near = np.zeros((self.size, self.size), dtype=bool)
        near[window_of] = outline(part.name, a, b) < margin
        return near

    def compartment(self, number: int) -> Array:
        """The pixels (size, size) bool inside a compartment, its walls included."""
        u0, v0 = middle(number)
        return (self.inside < 0) & (np.abs(self.u - u0) < COLUMN / 2) & (np.abs(self.v - v0) < ROW / 2)

    def lit(self) -> Array:
        """The picture in the light of the scene."""
        brightness, slope_x, slope_y = self.scene.light
        dx, dy = (self.x - UNITS / 2) / (UNITS / 2), (self.y - UNITS / 2) / (UNITS / 2)
        falloff = brightness * (1 + slope_x * dx + slope_y * dy) * (1 - 0.03 * (dx * dx + dy * dy))
        return self.picture * paint(self.scene.tint, falloff)

    def pick(self, generator: Generator, *names: str) -> tuple[int, Part]:
        """One of the parts of these names, and its compartment."""
        found = [(i, p) for i, parts in enumerate(self.scene.contents) for p in parts if p.name in names]
        return found[generator.integers(len(found))]


@lru_cache(maxsize=1)
def _empty(scene: Scene, size: int) -> Canvas:
    return Canvas(scene, size)


def tray_coordinates(scene: Scene, x: Array, y: Array) -> tuple[Array, Array]:
    """From the picture's coordinates to the tray's, whose origin is its middle."""
    dx, dy = (x - scene.centre[0]) / scene.scale, (y - scene.centre[1]) / scene.scale
    c, s = np.cos(scene.angle), np.sin(scene.angle)
    return c * dx + s * dy, c * dy - s * dx


def picture_place(scene: Scene, u: float, v: float) -> tuple[float, float]:
    """From a place in the tray's coordinates to one in the picture's."""
    c, s = np.cos(scene.angle) * scene.scale, np.sin(scene.angle) * scene.scale
    return scene.centre[0] + c * u - s * v, scene.centre[1] + s * u + c * v


def _facing(p: Array, q: Array, half: tuple[float, float], corner: float, lamp: tuple[float, float]) -> Array:
    """How far the outward normal of a rounded box points to the lamp, -1 to 1."""
    a, b = np.maximum(np.abs(p) - half[0] + corner, 0), np.maximum(np.abs(q) - half[1] + corner, 0)
    return (np.sign(p) * a * lamp[0] + np.sign(q) * b * lamp[1]) / (np.hypot(a, b) + 1e-6)
