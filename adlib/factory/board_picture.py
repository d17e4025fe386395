"""The picture of a good `board`: its place, its light, and how the design and the parts are painted under it.

`board_design` says what lies where, `board_parts` how each part looks. A defect hands `Board`
a `Change`, which says what it paints differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.random import Generator

from adlib.factory.board_design import CORNER, FORMS, HALF, PARTS, Part, local, look_up, to_board
from adlib.factory.board_parts import EDGE, GOLD, LEGS, TIN, Tile, paint_part
from adlib.factory.shapes import UNITS, Array, box, mix, paint, pixel_centres, smooth_noise, soft

ZOOM = 1.42  # units of the picture to a unit of the board
PLAY = np.array([0.35, 0.35, 0.02])  # tolerance of a part's place, shift in u and v, and turn


@dataclass(frozen=True, eq=False)  # compared by identity, so that the cache below can tell one from another
class Scene:
    """All that makes one good picture, noise excepted."""

    centre: tuple[float, float]
    angle: float  # radians
    scale: float
    lamp: float  # direction the light comes from, radians
    light: tuple[float, float, float]  # brightness, slope along and across the lamp's direction
    gloss: tuple[float, float, float]  # place (x, y) and strength of the lamp's broad reflection in the solder mask
    white: Array  # (3,) colour of the light
    resin: Array  # (2, 3) the solder mask's colour over bare laminate and over copper
    mat: Array  # (3,) colour of the table
    silk: float  # brightness of the print
    wear: float  # how much of it has gone
    place: Array  # (parts, 3) shift in u and v, units, and turn, radians
    shade: Array  # (parts,) brightness factors
    shine: Array  # (parts, 2) of the solder joints
    legs: Array  # (parts, LEGS)
    texture_seed: int


def make_scene(generator: Generator) -> Scene:
    """Draw a scene at random."""
    parts = len(PARTS)
    tone = generator.normal(scale=0.04)  # a board's mask is bluer or yellower, darker or paler as a whole
    resin = np.array([[0.055, 0.225, 0.145], [0.125, 0.385, 0.225]]) * (1 + np.array([tone, 0.3 * tone, -1.6 * tone]))
    place = np.clip(generator.normal(scale=[0.15, 0.15, 0.01], size=(parts, 3)), -PLAY, PLAY)
    return Scene(
        centre=(UNITS / 2 + generator.uniform(-2.0, 2.0), UNITS / 2 + generator.uniform(-2.0, 2.0)),
        angle=float(np.clip(generator.normal(scale=0.007), -0.014, 0.014)),
        scale=ZOOM * generator.uniform(0.996, 1.004),
        lamp=generator.uniform(-2.7, -2.0),
        light=(generator.uniform(0.90, 1.08), generator.normal(scale=0.045), generator.normal(scale=0.045)),
        gloss=(generator.uniform(30, 226), generator.uniform(30, 226), generator.uniform(0.0, 0.05)),
        white=1 + generator.normal(scale=0.025) * np.array([1.0, 0.0, -1.0]),
        resin=resin * generator.uniform(0.93, 1.08),
        mat=np.array([0.36, 0.37, 0.39]) * generator.uniform(0.97, 1.03),
        silk=generator.uniform(0.74, 0.84),
        wear=generator.uniform(0.0, 0.15),
        place=place,
        shade=1 + np.clip(generator.normal(scale=0.05, size=parts), -0.12, 0.12),
        shine=1 + np.clip(generator.normal(scale=0.06, size=(parts, 2)), -0.14, 0.14),
        legs=1 + np.clip(generator.normal(scale=0.035, size=(parts, LEGS)), -0.08, 0.08),
        texture_seed=int(generator.integers(2**32)),
    )


@dataclass
class Change:
    """What a defect changes: the bare board, how single parts are painted, where they lie, the finished board.

    `under` and `over` paint into the picture that they are given.
    """

    under: Callable[[Array], None] | None = None
    parts: dict[int, Callable[[Tile, Part], None]] = field(default_factory=dict)
    moved: dict[int, Array] = field(default_factory=dict)  # (3,) in the place of the scene's own
    over: Callable[[Array], None] | None = None


def lay(picture: Array, colour: Array, brightness: Array | float, amount: Array) -> None:
    """Blend a colour (3,) of some brightness over a picture (3, h, w), where the amount (h, w) is not 0."""
    where = np.flatnonzero(amount)
    flat = picture.reshape(3, -1)
    below = flat[:, where]
    shade = brightness.ravel()[where] if isinstance(brightness, np.ndarray) else brightness
    flat[:, where] = below + (colour[:, None] * shade - below) * amount.ravel()[where]


@lru_cache(maxsize=1)
def board_of(scene: Scene, size: int) -> Board:
    """The scene's board. Good and defective picture of one scene share it, so that it is worked out once."""
    return Board(scene, size)


class Board:
    """One scene's coordinates at each pixel and the layers of the design there."""

    def __init__(self, scene: Scene, size: int) -> None:
        self.scene, self.size = scene, size
        self.x, self.y = pixel_centres(size)
        dx, dy = (self.x - scene.centre[0]) / scene.scale, (self.y - scene.centre[1]) / scene.scale
        self.u = np.cos(scene.angle) * dx + np.sin(scene.angle) * dy
        self.v = np.cos(scene.angle) * dy - np.sin(scene.angle) * dx
        self.lamp = (float(np.cos(scene.lamp)), float(np.sin(scene.lamp)))
        self.copper, self.silk, self.solder, self.gold, self.drill = look_up(
            self.u, self.v, "copper", "silk", "solder", "gold", "drill")

    def at(self, u: float, v: float) -> tuple[float, float]:
        """Where a place on the board lies in the picture, units."""
        c, s = np.cos(self.scene.angle), np.sin(self.scene.angle)
        return (self.scene.centre[0] + self.scene.scale * float(c * u - s * v),
                self.scene.centre[1] + self.scene.scale * float(s * u + c * v))

    def picture(self, change: Change) -> Array:
        """The lit board, (3, size, size)."""
        scene = self.scene
        picture = self.bare.copy()
        if change.under is not None:
            change.under(picture)
        for index, part in enumerate(PARTS):
            tile = self.tile(picture, index, change.moved.get(index, scene.place[index]))
            change.parts.get(index, paint_part)(tile, part)
        if change.over is not None:
            change.over(picture)
        brightness, along, across = scene.light
        dx, dy = (self.x - UNITS / 2) / (UNITS / 2), (self.y - UNITS / 2) / (UNITS / 2)
        slope = 1 + along * (self.lamp[0] * dx + self.lamp[1] * dy) + across * (self.lamp[0] * dy - self.lamp[1] * dx)
        return picture * paint(scene.white * brightness, slope)

    @cached_property
    def bare(self) -> Array:
        """The board without parts, on its table, (3, size, size)."""
        scene = self.scene
        generator = np.random.default_rng(scene.texture_seed)
        fine, broad = smooth_noise(generator, self.size, 0.9), smooth_noise(generator, self.size, 11.0)
        # Copper lifts the mask, solder and gold stand on it: each edge is bright or dark by the lamp.
        height = 0.55 * soft(self.copper, 2.4) + 1.1 * soft(self.solder, 3.6) + 0.35 * soft(self.gold, 1.8)
        down, right = np.gradient(height, UNITS / self.size)
        relief = -(right * self.lamp[0] + down * self.lamp[1])

        resin = mix(paint(scene.resin[0], np.ones_like(self.x)), scene.resin[1], soft(self.copper, EDGE))
        x, y, strength = scene.gloss
        gloss = strength * np.exp(-((self.x - x) ** 2 + (self.y - y) ** 2) / (2 * 48.0**2))
        picture = resin * (1 + 0.55 * relief + 0.02 * fine + 0.02 * broad) + gloss
        worn = 1 - scene.wear * np.clip(0.5 + 0.5 * fine + 0.4 * broad, 0, 1)
        lay(picture, np.full(3, scene.silk), 1.0, 0.92 * soft(self.silk, EDGE) * worn)
        lay(picture, GOLD, 1.0 + 0.4 * relief + 0.02 * fine + 2.0 * gloss, soft(self.gold, EDGE))
        lay(picture, TIN, 0.86 + 0.42 * relief + 0.02 * fine, soft(self.solder, EDGE))
        lay(picture, scene.mat, 0.2, soft(self.drill, EDGE))

        edge = box(self.u, self.v, HALF, CORNER)
        lay(picture, np.array([0.43, 0.45, 0.30]), 1.0, 0.75 * soft(-edge - 0.9, 1.0) * (edge < 1))  # sawn laminate
        cast = box(self.u + 2.5 * self.lamp[0], self.v + 2.5 * self.lamp[1], HALF, CORNER)
        table = (1 + 0.015 * fine + 0.01 * broad) * (1 - 0.55 * soft(cast - 1.0, 7.0))
        lay(picture, scene.mat, table, 1 - soft(edge, 1.2))
        return picture

    def window(self, x: float, y: float, reach: tuple[float, float]) -> tuple[slice, slice]:
        """The rows and columns of the pixels around a point, `reach` units to each side in x and y."""
        step = UNITS / self.size
        left, top = (max(int((c - r) / step), 0) for c, r in zip((x, y), reach, strict=True))
        right, bottom = (max(int((c + r) / step) + 2, 0) for c, r in zip((x, y), reach, strict=True))
        return slice(top, bottom), slice(left, right)

    def tile(self, picture: Array, index: int, place: Array) -> Tile:
        """The window of the picture around a part that lies `place` (shift u, v, turn) beside its design."""
        scene, part = self.scene, PARTS[index]
        form = FORMS[part.form]
        x, y = self.at(part.u + place[0], part.v + place[1])
        half = np.array(form.half if part.turn % 2 == 0 else form.half[::-1])
        around = 4 + 1.3 * form.height if form.legs is None else 5.5 + form.legs[3]  # shadow and pads, or bent legs
        half = (half + around + 10 * abs(np.sin(place[2]))) * scene.scale
        window = self.window(x, y, (half[0], half[1]))
        p, q = local(part, self.u[window] - place[0], self.v[window] - place[1])
        c, s = np.cos(place[2]), np.sin(place[2])
        p, q = c * p + s * q, c * q - s * p
        view = picture[:, window[0], window[1]]
        turn = scene.lamp - scene.angle - part.turn * np.pi / 2 - place[2]
        mark = look_up(*to_board(part, p, q), "mark")[0] if part.mark else None
        return Tile(window, view, p, q, self.lamp, (float(np.cos(turn)), float(np.sin(turn))),
                    float(scene.shade[index]), scene.shine[index], scene.legs[index], mark)
