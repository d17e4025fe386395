"""Product `board`: a populated circuit board under an inspection camera, and what can be wrong with it.

The design is fixed; each board has its own place and angle, its own light, and parts that sit, shine and are
coloured within tolerance (`board_picture`). A defect is a small local change: a part that is missing,
shifted or broken, bent legs, solder where none belongs, a scratch or a burn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from adlib.factory.board_design import CORNER, FORMS, HALF, PARTS, Part, local, to_board
from adlib.factory.board_parts import TIN, Row, Tile, bent_leg, leg_rows, paint_part, shadow
from adlib.factory.board_picture import Board, Change, Scene, board_of, lay, make_scene
from adlib.factory.shapes import (
    Array,
    blob,
    box,
    line_distance,
    mix,
    paint,
    smooth_noise,
    soft,
    wandering_line,
)

__all__ = ["KINDS", "MASK_GAP", "Scene", "draw", "make_scene"]

KINDS = ("bent_leg", "broken_part", "burn", "missing_part", "scratch", "shifted_part", "solder_ball", "solder_bridge")

MASK_GAP = 3.0  # units that the mask is closed over

SMALL = [i for i, part in enumerate(PARTS) if max(FORMS[part.form].half) < 10]
BRITTLE = [i for i, part in enumerate(PARTS) if part.form in ("qfp", "so14", "so8", "tantalum", "diode", "header")]
CHIPS = [i for i in SMALL if FORMS[PARTS[i].form].ends is not None]
WITH_ROWS = [i for i, part in enumerate(PARTS) if FORMS[part.form].legs is not None and i not in SMALL]


def draw(scene: Scene, size: int, kind: str = "good", generator: Generator | None = None) -> Array:
    """Draw the scene without noise: (3, size, size), float64, in about [0, 1].

    With a defect's name as `kind`, that defect is drawn into it; its place, size and strength come from `generator`.
    """
    of = board_of(scene, size)
    if kind == "good":
        return of.picture(Change())
    if generator is None:
        raise ValueError(f"kind is {kind!r} and generator is None: a defect needs a generator; pass one")
    return of.picture(_DEFECTS[kind](of, generator))


def _missing_part(board: Board, generator: Generator) -> Change:
    """Only the pads with their solder are left."""
    return Change(parts={int(generator.choice(SMALL)): lambda tile, part: None})


def _shifted_part(board: Board, generator: Generator) -> Change:
    """A small part far out of its place, turned, or standing on one end."""
    way = generator.uniform()
    if way < 0.25:
        side = int(generator.choice([-1, 1]))
        return Change(parts={int(generator.choice(CHIPS)): lambda tile, part: _stand(tile, part, side)})
    index = int(generator.choice(SMALL))
    heading, turn = generator.uniform(0, 2 * np.pi), int(generator.choice([-1, 1]))
    if way < 0.6:
        far, angle = generator.uniform(3.5, 6.0), 0.12
    else:
        far, angle = generator.uniform(0.5, 2.0), generator.uniform(0.35, 0.9)
    return Change(moved={index: np.array([far * np.cos(heading), far * np.sin(heading), turn * angle])})


def _stand(tile: Tile, part: Part, side: int) -> None:
    """A chip that the solder has pulled upright on one pad: its tinned end shows, and the shadow is long."""
    form = FORMS[part.form]
    assert form.ends is not None
    place = side * (form.ends[0] - 1.0)
    up = replace(tile, p=tile.p - place)
    half = (2.4, form.half[1])
    shadow(up, half, 7.0)
    distance = box(up.p, up.q, half, 0.6)
    bevel = 0.3 * up.lean(distance) * soft(-distance - 0.9, 0.8)
    up.cover(TIN, 1.12 + bevel, soft(distance, 1.0))


def _broken_part(board: Board, generator: Generator) -> Change:
    """A corner or a piece of an edge has broken off; a rough, paler fracture is left."""
    index = int(generator.choice(BRITTLE + WITH_ROWS))
    form = FORMS[PARTS[index].form]
    large = index in WITH_ROWS
    radius = generator.uniform(8.0, 13.0) if large else generator.uniform(6.0, 9.0)
    corner = generator.choice([-1, 1], size=2) * np.array([1.0, generator.uniform(0.5, 1.0)])
    u, v = to_board(PARTS[index], corner[0] * form.half[0], corner[1] * form.half[1])
    centre = board.at(u + board.scene.place[index, 0], v + board.scene.place[index, 1])
    bite = blob(board.x, board.y, centre, (radius, radius * generator.uniform(0.7, 1.0)), generator, 0.4)
    rough = smooth_noise(generator, board.size, 1.6)
    grey = generator.uniform(0.42, 0.62)

    def paint_broken(tile: Tile, part: Part) -> None:
        before = tile.view.copy()
        paint_part(tile, part)
        gone, facet = soft(bite[tile.window] + 0.6, 1.2), soft(bite[tile.window] - 2.2, 1.0)
        body = soft(box(tile.p, tile.q, form.half), 1.0)
        tile.view += (paint(np.full(3, grey), 1 + 0.26 * rough[tile.window]) - tile.view) * facet * body
        if not large:  # nothing is left of it there; a large one has lost a flake only
            tile.view += (before - tile.view) * gone * body

    return Change(parts={index: paint_broken})


def _legs(generator: Generator, most: int) -> tuple[int, Row, range]:
    """A part with rows of legs, one of its rows, and the numbers of up to `most` neighbouring legs, two or more."""
    index = int(generator.choice(WITH_ROWS))
    rows = leg_rows(PARTS[index].form)
    row = rows[generator.integers(len(rows))]
    count = int(generator.integers(2, min(most, row.number) + 1))
    first = int(generator.integers(row.number - count + 1))
    return index, row, range(first, first + count)


def _bent_leg(board: Board, generator: Generator) -> Change:
    """Two or three legs bent to one side, or standing up from their pads, long and slanted."""
    index, row, numbers = _legs(generator, 3)
    sign, aside = int(generator.choice([-1, 1])), generator.uniform() < 0.6
    bends = sign * row.pitch * (generator.uniform(0.8, 1.3) if aside else generator.uniform(0.3, 0.7))
    bends = bends * generator.uniform(0.75, 1.25, size=len(numbers))
    stretch = generator.uniform(1.1, 1.4) if aside else generator.uniform(1.5, 1.9)

    def paint_bent(tile: Tile, part: Part) -> None:
        paint_part(tile, part, hidden=(row, numbers))
        for number, bend in zip(numbers, bends, strict=True):
            bent_leg(tile, part.form, row, number, float(bend), stretch)

    return Change(parts={index: paint_bent})


def _solder_bridge(board: Board, generator: Generator) -> Change:
    """Solder that has run together between neighbouring legs."""
    index, row, numbers = _legs(generator, 3)
    form = FORMS[PARTS[index].form]
    assert form.legs is not None
    out = form.legs[3] * generator.uniform(0.55, 1.05)
    half, waist = generator.uniform(2.1, 3.0), generator.uniform(0.05, 0.25)
    shine = generator.uniform(0.9, 1.1)

    def paint_bridge(tile: Tile, part: Part) -> None:
        paint_part(tile, part)
        across, outward = row.coordinates(tile, form)
        along = np.clip(across, row.place(numbers[0]), row.place(numbers[-1]))
        thin = 1 - waist * (0.5 - 0.5 * np.cos(2 * np.pi * (along - row.place(numbers[0])) / row.pitch))
        distance = np.hypot(across - along, outward - out) - half * thin - 0.3
        dome = 0.80 + 0.28 * tile.lean(distance) * soft(-distance - 1.4, 2.0)
        glint = 0.35 * np.exp(-((distance + 1.3) ** 2) / 0.5) * np.clip(tile.lean(distance), 0, 1)
        tile.cover(TIN, (dome + glint) * shine, soft(distance, 1.0))

    return Change(parts={index: paint_bridge})


def _solder_ball(board: Board, generator: Generator) -> Change:
    """Three to six beads of solder that have splashed onto the board."""
    u0, v0 = _free_spot(generator)
    beads = [(u0, v0, generator.uniform(2.7, 4.2))]
    for _ in range(int(generator.integers(2, 6))):
        beads.append((u0 + generator.normal(scale=7.0), v0 + generator.normal(scale=7.0), generator.uniform(1.8, 3.4)))

    def over(picture: Array) -> None:
        for u, v, radius in beads:
            (x, y), (lamp_x, lamp_y) = board.at(u, v), board.lamp
            window = board.window(x, y, (3 * radius, 3 * radius))
            dx, dy = board.x[window] - x, board.y[window] - y
            view = picture[:, window[0], window[1]]
            cast = np.hypot(dx + 0.7 * radius * lamp_x, dy + 0.7 * radius * lamp_y) - radius
            view *= 1 - 0.5 * soft(cast, 1.8)
            to_glint = np.hypot(dx - 0.4 * radius * lamp_x, dy - 0.4 * radius * lamp_y) / (0.32 * radius)
            far = np.hypot(dx, dy) / radius
            bright = 0.66 + 0.32 * (dx * lamp_x + dy * lamp_y) / radius - 0.22 * np.clip(far, 0, 1) ** 4
            bright += 0.6 * np.exp(-0.5 * to_glint * to_glint)
            view += (paint(TIN, np.clip(bright, 0.15, 1.35)) - view) * soft((far - 1) * radius, 1.0)

    return Change(over=over)


def _scratch(board: Board, generator: Generator) -> Change:
    """A line cut through the solder mask down to copper and laminate; it runs below the parts."""
    points = _free_line(board, generator)
    distance, side, along = line_distance(board.x, board.y, points)
    if generator.uniform() < 0.5:  # two furrows side by side
        distance = np.abs(distance - generator.uniform(2.5, 4.0))
    half = generator.uniform(1.2, 2.1) * np.sqrt(np.clip(4.2 * along * (1.02 - along), 0.05, 1))
    depth = generator.uniform(0.7, 0.95)

    def under(picture: Array) -> None:
        laminate = np.array([0.60, 0.61, 0.42])[:, None, None]
        floor = mix(laminate, np.array([0.92, 0.60, 0.40]), soft(board.copper, 1.2))
        on_board = soft(box(board.u, board.v, HALF, CORNER), 1.0)
        picture *= 1 - 0.35 * np.exp(-np.maximum(distance - half, 0) / 0.8) * (side > 0) * on_board
        picture += (floor - picture) * (depth * soft(distance - half, 1.0) * on_board)

    return Change(under=under)


def _burn(board: Board, generator: Generator) -> Change:
    """Heat has browned the mask and the parts around a hot spot."""
    index = int(generator.integers(len(PARTS)))
    part = PARTS[index]
    half = np.array(FORMS[part.form].half if part.turn % 2 == 0 else FORMS[part.form].half[::-1])
    u, v = np.array([part.u, part.v]) + half * generator.uniform(-1, 1, size=2)
    radius = generator.uniform(6.5, 12.0)
    distance = blob(board.x, board.y, board.at(u, v), (radius, radius * generator.uniform(0.6, 1.0)), generator, 0.25)
    noise = smooth_noise(generator, board.size, 2.6) + 0.5 * smooth_noise(generator, board.size, 1.2)
    strength = generator.uniform(0.75, 1.0)

    def over(picture: Array) -> None:
        on_board = soft(box(board.u, board.v, HALF, CORNER), 1.0)
        scorched = strength * soft(distance + 1.0 - 1.3 * noise, 9.0) * (distance < 7) * on_board
        charred = strength * soft(distance + 0.45 * radius - 1.6 * noise, 4.0) * on_board
        picture *= 1 - 0.75 * scorched
        picture += paint(np.array([0.148, 0.104, 0.055]), (1 + 0.12 * noise) * scorched)
        lay(picture, np.array([0.075, 0.065, 0.06]), 1 + 0.3 * noise, charred)

    return Change(over=over)


def _free_line(board: Board, generator: Generator) -> Array:
    """Points in the picture of a slightly bent line on the board, at least two thirds of it beside the parts."""
    while True:
        u, v = _free_spot(generator)
        points = wandering_line(generator, (u, v), generator.uniform(0, 2 * np.pi), generator.uniform(22, 55), 0.08)
        u, v = (points - (points[-1] - points[0]) * generator.uniform(0.2, 0.8)).T
        free = np.logical_and.reduce([box(*local(part, u, v), FORMS[part.form].half) > 2.0 for part in PARTS])
        if (free & (box(u, v, HALF) < -2)).mean() > 0.66:
            return np.array([board.at(*point) for point in zip(u, v, strict=True)])


def _free_spot(generator: Generator) -> tuple[float, float]:
    """A place on the board, in its coordinates, beside all parts and contacts."""
    while True:
        u, v = generator.uniform(-HALF[0] + 10, HALF[0] - 10), generator.uniform(-HALF[1] + 10, HALF[1] - 20)
        if all(box(*(np.array([c]) for c in local(part, u, v)), FORMS[part.form].half)[0] > 3.0 for part in PARTS):
            return u, v


_DEFECTS: dict[str, Callable[[Board, Generator], Change]] = {
    "bent_leg": _bent_leg,
    "broken_part": _broken_part,
    "burn": _burn,
    "missing_part": _missing_part,
    "scratch": _scratch,
    "shifted_part": _shifted_part,
    "solder_ball": _solder_ball,
    "solder_bridge": _solder_bridge,
}
