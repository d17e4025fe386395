"""Checks of arguments. The constructors use them, and so a file that holds such arguments is checked as they are."""

from __future__ import annotations

import math
import numbers
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

MAX_SIDE, MAX_PIXELS = 16_384, 2**24  # of the images that a detector computes on: 4,096 × 4,096


def whole(name: str, value: Any, least: int = 1, most: int = 2**31 - 1) -> int:
    """`value` as an int, or a ValueError where it is no whole number from `least` to `most`."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not least <= int(value) <= most:
        raise ValueError(f"{name} = {value!r}: expected a whole number of at least {least} and at most {most:,}")
    return int(value)


def number(name: str, value: Any, interval: str) -> float:
    """`value`, or a ValueError where it is no number in `interval`, such as "(0, 1]"; NaN is in none."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    x: Any = value if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not (low < x < high or interval[0] == "[" and x == low or interval[-1] == "]" and x == high):
        raise ValueError(f"{name} = {value!r}: expected a number in {interval}")
    return x if isinstance(x, (int, float)) else float(x)


def flag(name: str, value: Any) -> bool:
    """`value`, or a ValueError where it is neither True nor False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} = {value!r}: expected True or False")
    return value


def layer_names(layers: Any) -> tuple[str, ...]:
    """`layers` as a tuple, or a ValueError where they are not names that differ."""
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers or not all(
        isinstance(layer, str) for layer in layers
    ) or len(set(layers)) < len(layers):  # fmt: skip
        raise ValueError(f"layers = {layers!r}: expected one name or more, none twice, such as ('layer2', 'layer3')")
    return tuple(layers)


def image_sides(image_size: Any, least: int = 32, pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """`image_size` as (height, width), or a ValueError where it is neither one number of pixels nor two, or too large.

    The bound is for the memory: a network's first layers take some hundred bytes for each pixel.
    """
    sides = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    expected = f"expected one number of pixels, or (height, width), of at least {least} and at most {MAX_SIDE:,}"
    try:
        height, width = (whole("a side", side, least, MAX_SIDE) for side in sides)
    except ValueError:
        raise ValueError(f"image_size = {image_size!r}: {expected} pixels a side") from None
    if math.prod((height, width)) > pixels:
        raise ValueError(f"image_size = {image_size!r}: expected at most {pixels:,} pixels in all")
    return height, width


def printable(text: str) -> str:
    """Control characters, which a file's name may have, are written out."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", lambda m: f"\\x{ord(m[0]):02x}", text)


def users_line() -> int:
    """The stacklevel with which a warning names the line outside of this package that led to it."""
    frame: FrameType | None = sys._getframe(1)
    level, package = 1, str(Path(__file__).parent)
    while frame is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    return level
