"""Small drawing tools that the products of the synthetic factory share.

All lengths are in units of 1/256 of the picture's side, whatever its size in pixels, so that a scene looks
the same at every size. Everything is float64: after rounding to 8 bits, another processor then gives
the same pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter

UNITS = 256.0
REACH = 14.0  # no defect shows farther than this from its outline
FAR = 1e3
Array = np.ndarray


def pixel_centres(size: int) -> tuple[Array, Array]:
    """The x and y (each (size, size)) of all pixel centres, in units."""
    centres = (np.arange(size) + 0.5) * (UNITS / size)
    x, y = np.meshgrid(centres, centres)
    return x, y


def soft(distance: Array, edge: float = 1.0) -> Array:
    """1 where the signed distance is below -edge/2 (inside), 0 above edge/2, a smooth step between."""
    t = np.clip(0.5 - distance / edge, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def box(p: Array, q: Array, half: tuple[float, float], radius: float = 0.0) -> Array:
    """Signed distance to a rectangle with rounded corners around the origin, negative inside."""
    a, b = np.abs(p) - half[0] + radius, np.abs(q) - half[1] + radius
    outer_a, outer_b = np.maximum(a, 0), np.maximum(b, 0)
    return np.sqrt(outer_a * outer_a + outer_b * outer_b) + np.minimum(np.maximum(a, b), 0) - radius


def smooth_noise(generator: Generator, size: int, scale: float) -> Array:
    """A (size, size) field of Gaussian noise, smooth over `scale` units, with mean 0 and deviation 1.

    Broad noise is drawn on a coarse grid and enlarged: the eye sees no difference, and it is fast.
    """
    step = max(1, int(scale * size / UNITS / 3))
    coarse = -(-size // step) + 2
    field = gaussian_filter(generator.normal(size=(coarse, coarse)), scale * size / UNITS / step, mode="wrap")
    field = (field - field.mean()) / (field.std() + 1e-12)
    return field if step == 1 and coarse == size else enlarge(field, size, step)


def enlarge(field: Array, size: int, step: int) -> Array:
    """Bilinear enlargement of a square field by the whole number `step`, cut to (size, size)."""
    position = np.arange(size) / step
    low = position.astype(int)
    part = position - low
    rows = field[low] * (1 - part)[:, None] + field[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def blob(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], generator: Generator,
         roughness: float = 0.18) -> Array:
    """Signed distance, about in units, to an irregular ellipse turned at random; negative inside, FAR far away."""
    turn = generator.uniform(0, 2 * np.pi)
    waves = [(order, roughness / order * generator.normal(), generator.uniform(0, 2 * np.pi)) for order in range(2, 8)]
    reach = 2 * max(radii) + REACH
    window = _window(x, (centre[0] - reach, centre[0] + reach), (centre[1] - reach, centre[1] + reach))
    dx, dy = x[window] - centre[0], y[window] - centre[1]
    a = (np.cos(turn) * dx + np.sin(turn) * dy) / radii[0]
    b = (np.cos(turn) * dy - np.sin(turn) * dx) / radii[1]
    angle = np.arctan2(b, a)
    outline = 1 + sum(height * np.cos(order * angle + phase) for order, height, phase in waves)
    distance = np.full(x.shape, FAR)
    distance[window] = (np.hypot(a, b) - np.maximum(outline, 0.3)) * np.sqrt(radii[0] * radii[1])
    return distance


def wandering_line(generator: Generator, start: tuple[float, float], heading: float, length: float,
                   bend: float, steps: int = 10) -> Array:
    """Points (steps + 1, 2) of a line whose heading changes at random by about `bend` radians a step."""
    turns = generator.normal(scale=bend, size=steps)
    headings = heading + np.cumsum(turns)
    moves = np.stack([np.cos(headings), np.sin(headings)], axis=1) * (length / steps)
    return np.vstack([start, np.asarray(start) + np.cumsum(moves, axis=0)])


def line_distance(x: Array, y: Array, points: Array) -> tuple[Array, Array, Array]:
    """Distance to a line of several segments (FAR far away), the side (+1 or -1), and the position on it in [0, 1]."""
    low, high = points.min(axis=0) - REACH, points.max(axis=0) + REACH
    window = _window(x, (low[0], high[0]), (low[1], high[1]))
    x_near, y_near = x[window], y[window]
    distance, side, along = np.full(x.shape, FAR), np.ones(x.shape), np.zeros(x.shape)
    nearest, near_side, near_along = distance[window], side[window], along[window]  # views, filled in place
    count = len(points) - 1
    for index, ((x0, y0), (x1, y1)) in enumerate(zip(points[:-1], points[1:], strict=True)):
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((x_near - x0) * dx + (y_near - y0) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
        here = np.hypot(x_near - x0 - t * dx, y_near - y0 - t * dy)
        closer = here < nearest
        nearest[closer] = here[closer]
        near_side[closer] = np.sign((x_near - x0) * dy - (y_near - y0) * dx)[closer]
        near_along[closer] = (index + t[closer]) / count
    return distance, side, along


def mix(picture: Array, colour: Array, amount: Array) -> Array:
    """Blend a colour (3,) or picture (3, h, w) over a picture (3, h, w) with weights (h, w) in [0, 1]."""
    return picture + ((colour[:, None, None] if colour.ndim == 1 else colour) - picture) * amount


def paint(colour: Array, brightness: Array) -> Array:
    """A picture (3, h, w) of one colour (3,) with a brightness (h, w)."""
    return colour[:, None, None] * brightness


def _window(x: Array, across: tuple[float, float], down: tuple[float, float]) -> tuple[slice, slice]:
    """The part of a grid between two x and two y, in units; what lies outside need not be computed."""
    size = x.shape[0]
    left, right, top, bottom = (min(max(int(end * size / UNITS), 0), size) for end in (*across, *down))
    return slice(top, bottom), slice(left, right)
