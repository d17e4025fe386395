"""The part of the picture that is inspected: from a mask or polygons, and which cells of a network can see it.

What lies outside the region is replaced by one grey, `FILL`, before an image is resized. So it has no influence at all:
not on what is learnt, not on a score, not on a map. A cell that sees nothing of the region is the same in all images;
it is neither learnt from nor scored. A cell beside the region still sees into it, so it counts as well; how far out
that can be is the margin, and the receptive field gives it.
"""

from __future__ import annotations

import base64
import math
import numbers
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from adlib.checks import users_line, whole
from adlib.images import ImageError, read_mask, resize_mask, resized_sides, top_left
from adlib.receptive_field import ReceptiveField
from adlib.stored import MAX_PIXELS

FILL = 0.45  # of all channels: near the mean of the images on which backbones were trained, so nearly 0 for the network
LEAST_CELLS = 4  # of the network's grid that a region must be as large as


@dataclass(frozen=True)
class InspectedRegion:
    """Which pixels of a picture are inspected. Made by `read_region`, kept in a detector's reading contract.

    Attributes
    ----------
    size : (H, W)
        Of the frame, that of the mask or of the training images, in pixels.
    packed : bytes
        The H·W truth values, row by row, eight in a byte, compressed.
    """

    size: tuple[int, int]
    packed: bytes

    @classmethod
    def of(cls, mask: Tensor) -> InspectedRegion:
        """The region of a mask (H, W), bool."""
        height, width = mask.shape
        return cls((height, width), zlib.compress(np.packbits(mask.numpy()).tobytes(), 9))

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether a picture of that size has the frame's aspect, but for the rounding to whole pixels."""
        (h, w), (height, width) = self.size, size
        return abs(h * width - w * height) <= max(h + w, height + width) / 2

    def at(self, size: tuple[int, int], name: str = "the image") -> Tensor:
        """The mask (H, W), bool, for a picture of another size and the same aspect.

        Raises
        ------
        ImageError
            Where the aspect is another one; `name` stands in the message.
        """
        if not self.fits(size):
            raise ImageError(f"{name}: is {size[0]} × {size[1]} pixels (height × width), expected the shape of the "
                             f"region's frame, {self.size[0]} × {self.size[1]}, or one that is as high for its width; "
                             "give the picture as the camera took it, or fit with a region drawn on such pictures")
        return _mask_at(self, tuple(size))

    def on_input(self, image_size: tuple[int, int], resize: int | None = None,
                 own_size: tuple[int, int] | None = None) -> Tensor:  # fmt: skip
        """Which pixels (h, w) of the network's input depend on the region, with `resize` those of the middle.

        With `own_size`, pictures are not resized from that size but continued, and what is added is not in the region.
        """
        sides = own_size or resized_sides(self.size, image_size, resize)
        share = self.at(self.size)[None, None].float()
        seen = F.interpolate(share, sides, mode="bilinear", antialias=True, align_corners=False)[0, 0] > 0
        if own_size is not None:
            return F.pad(seen, (0, image_size[1] - own_size[1], 0, image_size[0] - own_size[0]))
        top, left = top_left(sides, image_size)
        return seen[top : top + image_size[0], left : left + image_size[1]]

    def share(self) -> float:
        """The region's share of the picture, in (0, 1]."""
        return float(self.at(self.size).float().mean())

    def as_json(self) -> dict[str, Any]:
        """What a file holds."""
        return {"size": self.size, "packed": base64.b64encode(self.packed).decode("ascii")}

    @classmethod
    def from_json(cls, kept: Any) -> InspectedRegion:
        """What `as_json` gave; a ValueError where it is anything else."""
        try:
            height, width = (whole("side", side, 1, MAX_PIXELS) for side in kept["size"])
            region = cls((height, width), base64.b64decode(kept["packed"], validate=True))
            if height * width > MAX_PIXELS or not bool(region.at(region.size).any()):
                raise ValueError("no pixels, or too many")
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise ValueError(f"region: {kept!r:.100}: expected what save writes ({error})") from None
        return region


@lru_cache(maxsize=8)
def _mask_at(region: InspectedRegion, size: tuple[int, int]) -> Tensor:
    with torch.inference_mode(False):  # what is kept serves a training as well
        if size != region.size:
            return resize_mask(_mask_at(region, region.size), size)
        needed = -(-math.prod(size) // 8)
        packed = zlib.decompressobj().decompress(region.packed, needed + 1)  # no more, whatever a file promises
        if len(packed) != needed:
            raise ValueError(f"{len(packed)} bytes for {size} pixels")
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=math.prod(size))
        return torch.from_numpy(bits.astype(bool)).view(size)


# ---------------------------------------------------------------------- reading one


def read_region(region: object, sizes: Mapping[tuple[int, int], str]) -> InspectedRegion:
    """The region that a user means, on pictures of these sizes.

    Parameters
    ----------
    region : mask or polygon
        A mask picture, as `adlib.images.read_mask` takes it (a path, a PIL image, an array or a tensor (H, W); above 0
        is inspected), of the pictures' aspect. Or a polygon, at least three points (x, y) in pixels of the pictures,
        where (0, 0) is the upper left corner and x goes to the right; or a list of polygons, which are joined. A pixel
        is inside where its middle is. The points follow the border; a polygon that crosses itself is refused.
    sizes : dict of (H, W) to str
        The sizes of the training images, and of each the name of one.

    Raises
    ------
    ImageError
        Where the mask cannot be read or has another aspect.
    ValueError
        For a polygon that is none, or on pictures of several sizes, and for a region without a pixel.
    """
    is_mask = isinstance(region, (str, Path, Image.Image, Tensor, np.ndarray)) and np.shape(region)[1:] != (2,)
    name = str(region) if isinstance(region, (str, Path)) else "region"
    if is_mask:
        made, hint = InspectedRegion.of(read_mask(region, name=name)), "above 0 is inspected"  # pyrefly: ignore
        for size, image in sizes.items():
            if not made.fits(size):
                raise ImageError(f"{name}: the mask is {made.size[0]} × {made.size[1]} pixels (height × width), but "
                                 f"{image} is {size[0]} × {size[1]}, expected the same shape; draw the mask on one of "
                                 "the training images")
    else:
        polygons, hint = _polygons(region), "points are (x, y), x to the right and y down, in pixels"
        if len(sizes) > 1:
            (one, first), (other, second) = list(sizes.items())[:2]
            raise ValueError(f"region: is given in pixels, but {first} is {one[0]} × {one[1]} (height × width) and "
                             f"{second} {other[0]} × {other[1]}; give a mask picture, which is resized with the images")
        size = next(iter(sizes), (0, 0))
        mask = torch.zeros(size, dtype=torch.bool)
        for points in polygons:
            _must_lie_within(points, size)
            mask |= torch.from_numpy(_inside(points, size))
        made = InspectedRegion.of(mask)
    if not bool(made.at(made.size).any()):
        raise ValueError(f"region: marks no pixel, expected the part of the picture that is to be inspected; {hint}")
    if is_mask and bool(made.at(made.size).all()):
        warnings.warn(f"{name}: marks every pixel, so nothing is left out; expected a mask that is 0 outside the "
                      "region, and no photograph; leave region out where all is to be inspected",
                      stacklevel=users_line())
    return made


def _polygons(region: object) -> list[np.ndarray]:
    """Each (n, 2), float64, finite."""
    expected = "expected a mask picture, a polygon [(x, y), (x, y), (x, y), …], or a list of such polygons"
    given = list(region) if isinstance(region, Iterable) and not isinstance(region, (str, bytes)) else []
    if not given:
        raise ValueError(f"region = {region!r:.100}: {expected}")
    polygons = []
    for polygon in [given] if all(_is_point(item) for item in given) else given:
        if not isinstance(polygon, Iterable) or not all(_is_point(point) for point in polygon):
            raise ValueError(f"region: {polygon!r:.100} is no polygon: {expected}")
        points = np.array([[float(x), float(y)] for x, y in polygon]).reshape(-1, 2)
        if not np.isfinite(points).all():
            raise ValueError(f"region: the polygon {polygon!r:.100} has a point that is not finite: expected numbers")
        if len(points) < 3:
            raise ValueError(f"region: the polygon {polygon!r:.100} has {len(points)} points, expected at least "
                             "three; of a box, give all four corners")
        _must_not_cross_itself(points)
        polygons.append(points)
    return polygons


def _is_point(item: object) -> bool:
    return isinstance(item, (Sequence, np.ndarray)) and len(item) == 2 and all(
        isinstance(value, numbers.Real) and not isinstance(value, bool) for value in item)  # fmt: skip


def _must_not_cross_itself(points: np.ndarray) -> None:
    """Refuse points in a wrong order: of a box whose corners are not given around it, half would not be inspected."""

    def sides(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:  # on which side of the line ab c lies
        return np.sign((b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0])

    ends = np.roll(points, -1, 0)
    for i, (a, b) in enumerate(zip(points, ends, strict=True)):
        c, d = points[i + 1 :], ends[i + 1 :]
        crossed = (sides(a, b, c) * sides(a, b, d) < 0) & (sides(c, d, a) * sides(c, d, b) < 0)
        if crossed.any():
            j = int(crossed.argmax())
            one, other = ("({:g}, {:g}) to ({:g}, {:g})".format(*p, *q) for p, q in ((a, b), (c[j], d[j])))
            raise ValueError(f"region: the polygon's side from {one} crosses the one from {other}, expected points "
                             "that follow the border all around; change their order, or give a list of two polygons")


def _must_lie_within(points: np.ndarray, size: tuple[int, int]) -> None:
    height, width = size
    outside = ((points < 0) | (points > (width, height))).any(1)
    if outside.any():
        x, y = points[outside][0]
        raise ValueError(f"region: the point ({x:g}, {y:g}) lies outside the training images, which are {width} pixels "
                         f"wide and {height} high; points are (x, y), x to the right and y down, in their pixels")


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Which pixels (H, W) have their middle inside: a line from the left crosses an odd number of edges before it."""
    crossings = np.zeros((size[0], size[1] + 1), np.int64)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, 0), strict=True):
        low, high = sorted((y1, y2))
        rows = np.arange(math.ceil(low - 0.5), math.ceil(high - 0.5))  # whose middle y + 0.5 is in [low, high)
        x = x1 + (rows + 0.5 - y1) * (x2 - x1) / (y2 - y1) if len(rows) else rows
        np.add.at(crossings, (rows, np.ceil(x - 0.5).astype(int).clip(0, size[1])), 1)
    return crossings.cumsum(1)[:, :-1] % 2 == 1


# ---------------------------------------------------------------------- on the grid of a network


class Cells(NamedTuple):
    """Some cells of a grid.

    Attributes
    ----------
    chosen : Tensor (m,) int64
        Their places among the h·w cells, row by row.
    back : Tensor (h·w,) int64
        Of each cell its place among the chosen ones; m for the others.
    """

    chosen: Tensor
    back: Tensor

    def of(self, features: Tensor) -> Tensor:
        """The chosen ones of features (B, C, h, w): (B, C, m, 1)."""
        return features.flatten(2)[:, :, self.chosen, None]

    def spread(self, values: Tensor, grid: tuple[int, int]) -> Tensor:
        """Values (B, m) of the chosen cells on the grid (B, h, w); the others have the smallest one of their image."""
        return torch.cat([values, values.amin(1, keepdim=True)], 1)[:, self.back].view(-1, *grid)


def cells_that_see(pixels: Tensor, field: ReceptiveField | None, grid: tuple[int, int]) -> Tensor:
    """Which cells of a grid see one of the pixels, at least.

    Parameters
    ----------
    pixels : Tensor (H, W) bool
    field : ReceptiveField, optional
        Of a cell, along each axis; None where it cannot be told: then any cell may see any pixel.
    grid : (h, w)

    Returns
    -------
    Tensor (h, w) bool
    """
    if field is None:
        return torch.ones(grid, dtype=torch.bool)
    sums = F.pad(pixels.long().cumsum(0).cumsum(1), (1, 0, 1, 0))  # of all pixels above and to the left
    starts = [field.start + field.stride * torch.arange(count) for count in grid]
    (top, left), (bottom, right) = (
        [(at + more).clamp(0, side) for at, side in zip(starts, pixels.shape, strict=True)] for more in (0, field.size))
    return sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left] > 0


def choose_cells(
    region: InspectedRegion, image_size: tuple[int, int], resize: int | None, field: ReceptiveField | None,
    grid: tuple[int, int], stride: int = 1, own_size: tuple[int, int] | None = None,
) -> Cells:  # fmt: skip
    """The cells that see the region, of every `stride`-th row and column of the grid."""
    with torch.inference_mode(False):
        pixels = region.on_input(image_size, resize, own_size)
        seen = cells_that_see(pixels, field, grid)[::stride, ::stride].flatten()
        chosen = seen.nonzero()[:, 0]
        back = torch.full(seen.shape, len(chosen))
        back[chosen] = torch.arange(len(chosen))
    return Cells(chosen, back)


def must_be_large_enough(
    region: InspectedRegion, image_size: tuple[int, int], resize: int | None, field: ReceptiveField | None,
    own_size: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """Refuse a region of which the network's input shows nothing, or less than a few cells."""
    pixels, side = int(region.on_input(image_size, resize, own_size).sum()), field.stride if field else 16
    if not pixels:
        raise ValueError(f"region: lies outside the middle of the picture that resize={resize} and image_size="
                         f"{image_size} cut, expected some of it inside; leave resize out, and the whole is looked at")
    if pixels < LEAST_CELLS * side**2:
        raise ValueError(f"region: has {pixels} pixels where images are resized to {image_size}, expected at least "
                         f"{LEAST_CELLS * side**2}, {LEAST_CELLS} cells of {side}×{side}; draw it larger, raise "
                         "image_size, or cut the pictures around it before")


def margin_of(region: InspectedRegion, image_size: tuple[int, int], resize: int | None,
              field: ReceptiveField | None) -> int:  # fmt: skip
    """How far from the region a cell may lie and still see into it, in pixels of the region's frame."""
    if field is None:
        return max(region.size)
    beyond = max(-field.start, field.size + field.start - field.stride)
    sides = resized_sides(region.size, image_size, resize)
    return math.ceil(beyond * max(own / side for own, side in zip(region.size, sides, strict=True)))
