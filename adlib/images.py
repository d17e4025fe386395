"""Image files and arrays, read into one form: a (3, H, W) float32 tensor in [0, 1].

The scale is fixed by the type (255 for 8 bits, 65535 for 16 bits) or by the user's `max_value`,
and never by the values of the image itself. An image that is stretched to its own range
loses its brightness, and with it many a defect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from adlib.stored import (
    IMAGE_EXTENSIONS,
    MAX_PIXELS,
    UPPER_ONLY,
    ImageError,
    ImageSource,
    Stored,
    open_file,
    opened,
    oriented_size,
    pil_name,
)

__all__ = ["IMAGE_EXTENSIONS", "MAX_PIXELS", "ImageError", "ImageSource", "ReadImage", "read_image", "read_mask",
           "read_size", "read_stored", "read_values", "resize_image", "resize_mask", "resized_sides", "top_left"]


def read_image(
    source: ImageSource,
    *,
    max_value: float | None = None,
    name: str | None = None,
    size: tuple[int, int] | None = None,
    color: str = "rgb",
) -> Tensor:
    """Read one image as a (3, H, W) float32 tensor in [0, 1].

    Grey becomes three equal channels. Alpha is dropped, not composited: it is not something that a camera
    measures, and some frame grabbers leave it at 0, where compositing would erase the picture. CMYK is
    converted to RGB. The EXIF orientation is applied. Of a file with several pages or frames the first one is read.

    Parameters
    ----------
    source : path, PIL image, ndarray or Tensor
        An array is (H, W) or (H, W, 1, 3 or 4), a tensor (H, W) or (1, 3 or 4, H, W), its channels red, green, blue.
    max_value : float, optional
        The value that becomes 1. Default: 255 for 8-bit, 65535 for 16-bit, 1 for boolean and float values. Give it for
        a 12-bit camera that stores 0 to 4095 in 16-bit files (max_value=4095), and for 32-bit integers.
    name : str, optional
        What messages call the image; the file's path by default.
    size : (height, width), optional
        Resize the image to it, exactly as `resize_image` would, but channel by channel, in less memory.
    color : "rgb" or "bgr"
        The order of the channels of arrays and tensors. A frame of OpenCV (cv2) is "bgr". Files and PIL images know
        their own order, so it says nothing about them.

    Returns
    -------
    Tensor (3, H, W) float32

    Raises
    ------
    ImageError
        Where the image is missing, broken, too large (over MAX_PIXELS, known from the header), of another shape, not
        finite, or has values outside [0, maximum]. Float values outside by rounding only are clamped.
    ValueError
        For another `color`.

    Notes
    -----
    Memory, measured with MAX_PIXELS, at the peak and beyond what the caller holds: for an 8-bit colour file 1.4 GB, of
    which 0.95 GB are the result, and 0.9 GB with a small `size`; for a 16-bit grey file 1.1 and 0.65 GB; for a PIL
    image or an array at most 1.05 and 0.6 GB. Images of more than LARGE_PIXELS are read one at a time in the whole
    process, so several threads need it once, and each its result.
    """
    return read_stored(source, max_value=max_value, name=name, size=size, color=color).image


class ReadImage(NamedTuple):
    """An image and how it was stored.

    Attributes
    ----------
    image : Tensor (3, H, W) float32
    size : (height, width)
        Before any resizing.
    type : str
        Of the values: "bool", "uint8", "uint16", another integer's name such as "int32", or "float".
    maximum : float
        The stored value that became 1.
    largest : float
        The largest stored value. Of a 16-bit colour file only the upper 8 bits can be read: its type is "uint16" and
        its largest value that of the upper bits, spread over 0 to 65535.
    """

    image: Tensor
    size: tuple[int, int]
    type: str
    maximum: float
    largest: float


def read_stored(
    source: ImageSource,
    *,
    max_value: float | None = None,
    maxima: Mapping[str, float] | None = None,
    name: str | None = None,
    size: tuple[int, int] | None = None,
    color: str = "rgb",
    change: Callable[[Tensor], object] | None = None,
) -> ReadImage:
    """Read one image as `read_image` does, and say how it is stored.

    Parameters and errors are those of `read_image`; where there is no `max_value`, `maxima` may have one for the type.
    `change` may change each plane (H, W), its values in [0, 1], in place, before it is resized.
    """
    with opened(source, name, max_value, color) as stored:
        kind = "float" if "float" in stored.kind else stored.kind
        kept = (maxima or {}).get(kind) if max_value is None else max_value
        if stored.factor != 1:  # only the upper byte is there
            if kept not in (None, 65535.0):
                raise ImageError(stored.name + UPPER_ONLY)
            kept = None
        maximum = _maximum(stored, kept)
        same = size is None or tuple(size) == stored.size
        height, width = stored.size if size is None else size
        image = torch.empty((3, height, width))
        work = None if same else torch.empty((1, *stored.size))
        ranges = []
        for index, plane in enumerate(stored.planes):
            into = image[index] if work is None else work[0]
            ranges.append(_scale(plane(), maximum, into))
            if change is not None:
                change(into)
            if work is not None:
                image[index] = resize_image(work, (height, width))[0]
        _check_range(stored, ranges, maximum)
        if len(stored.planes) == 1:
            image[1:] = image[0]
        return ReadImage(image, stored.size, kind, maximum * stored.factor,
                         max(high for _, high in ranges) * stored.factor)


def _maximum(stored: Stored, max_value: float | None) -> float:
    """The stored value that becomes 1."""
    if max_value is not None:
        if not (isfinite(max_value) and max_value > 0):
            raise ImageError(f"{stored.name}: max_value is {max_value}, expected a positive number; "
                             "give the camera's maximum")
        if stored.maximum is not None and "float" not in stored.kind and max_value > stored.maximum:
            raise ImageError(f"{stored.name}: holds {stored.kind} values, which end at {stored.maximum:g}, and is to "
                             f"be read with max_value = {max_value:g}; give the picture as the camera took it, or "
                             "leave max_value out")
        return float(max_value)
    if stored.maximum is None:
        raise ImageError(f"{stored.name}: values of type {stored.kind} have no usual maximum, "
                         "expected 8-bit, 16-bit or float values; pass max_value, for example max_value=4095")
    return stored.maximum


def _scale(plane: Tensor, maximum: float, into: Tensor) -> tuple[float, float]:
    """Write a plane, divided by the maximum and within [0, 1], into another; the range that it had, NaN if it has."""
    # Those of 64 bits (and of 32, as integers) lose digits in float32, so they are divided before.
    exact = plane.dtype in (torch.int64, torch.int32, torch.float64)
    values = plane.to(torch.float64) if exact else into.copy_(plane)
    # Of bytes as they are stored: a quarter of what has to be read.
    low, high = (value.item() for value in torch.aminmax(plane if plane.dtype == torch.uint8 else values))
    if exact:
        into.copy_(values / maximum)
    else:
        into.div_(maximum)
    if low < 0 or high > maximum:  # by rounding, or it will be refused
        into.clamp_(0, 1)
    return low, high


def _check_range(stored: Stored, ranges: list[tuple[float, float]], maximum: float) -> None:
    if not all(isfinite(value) for pair in ranges for value in pair):
        raise ImageError(f"{stored.name}: some values are NaN or infinite, expected finite ones; "
                         "repair or leave it out")
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    # The last digit of a half-precision 1 is worth 0.001, of bfloat16 0.008; of float32, after some sums, 1e-6.
    rounding = {"float16": 2e-3, "bfloat16": 1.6e-2}.get(stored.kind, 1e-6) if "float" in stored.kind else 0.0
    if low < -rounding * maximum or high > maximum * (1 + rounding):
        raise ImageError(f"{stored.name}: values reach from {_digits(low, 0)} to {_digits(high, maximum)}, expected "
                         f"0 to {maximum:.9g}; scale them, or pass max_value (of a detector: to fit), the value of "
                         "full brightness, such as 4095 for 12 bits")


def read_mask(source: ImageSource, *, name: str | None = None) -> Tensor:
    """Read a mask as a (H, W) bool tensor: True where any colour channel is above 0.

    Of a lossy file (JPEG, JPEG 2000, AVIF, lossy WebP, and PIL images opened from these), where the values around an
    edge are not exact, True where any channel reaches half of the type's maximum.

    Parameters
    ----------
    source, name
        As for `read_image`; alpha is ignored.

    Returns
    -------
    Tensor (H, W) bool

    Raises
    ------
    ImageError
        As `read_image`, except that any value range is allowed. Also for a lossy file that marks something, but nothing
        with half of the maximum, as one with the values 0 and 1 does.
    """
    with opened(source, name) as stored:
        mask, something = torch.zeros(stored.size, dtype=torch.bool), False
        for plane in stored.planes:
            values = plane()
            if values.is_floating_point() and not torch.isfinite(values).all():
                raise ImageError(f"{stored.name}: some values are NaN or infinite, expected finite values; "
                                 "repair the mask")
            # uint16 has few operations in torch; no value is changed by the wider type.
            values = values.to(torch.int32) if values.dtype == torch.uint16 else values
            mask |= values >= stored.maximum / 2 if stored.lossy and stored.maximum else values > 0
            something = something or bool(values.any())
        if stored.lossy and something and not mask.any():
            raise ImageError(f"{stored.name}: is a lossy file ({stored.lossy}) with values above 0 but none of half of "
                             f"{stored.maximum or 255:g} or more, expected a mask of 0 and {stored.maximum or 255:g}, "
                             "as lossy files do not keep small values; save the mask as PNG")
    return mask


def read_size(source: ImageSource, *, name: str | None = None) -> tuple[int, int]:
    """Height and width in pixels, as `read_image` would return them. Of a file only the header is read."""
    if isinstance(source, (str, Path)):
        with open_file(Path(source), name or str(source)) as picture:
            return oriented_size(picture, name or str(source))
    if isinstance(source, Image.Image):
        return oriented_size(source, pil_name(source, name))
    with opened(source, name) as stored:
        return stored.size


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image or a batch: bilinear, with antialiasing when it shrinks.

    Values stay in [0, 1]. An image that already has the size is returned as it is.

    Parameters
    ----------
    image : Tensor (3, H, W) or (B, 3, H, W)
    size : (height, width)

    Returns
    -------
    Tensor (3, height, width) or (B, 3, height, width)
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = image if image.ndim == 4 else image[None]
    resized = F.interpolate(batch, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return (resized if image.ndim == 4 else resized[0]).clamp(0, 1)


def resized_sides(size: tuple[int, int], image_size: tuple[int, int], resize: int | None) -> tuple[int, int]:
    """The sides (height, width) to which an image of `size` is resized, whole, before its middle is cut.

    Its shorter side becomes `resize` pixels, and the longer one keeps the aspect, rounded down; or it becomes
    `image_size` where there is no `resize`, and nothing to cut.
    """
    if resize is None:
        return image_size
    height, width = (resize * side // min(size) for side in size)
    return height, width


def top_left(sides: tuple[int, int], image_size: tuple[int, int]) -> tuple[int, int]:
    """The first row and column of the middle part of `image_size` in an image of these sides."""
    top, left = (round((side - part) / 2) for side, part in zip(sides, image_size, strict=True))
    return top, left


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a bool mask (H, W) to `size` = (height, width) by nearest neighbour, so that it stays a mask."""
    if tuple(mask.shape) == tuple(size):
        return mask
    # "nearest-exact" takes the pixel at the centre; "nearest" is shifted by up to half a pixel.
    return F.interpolate(mask[None, None].to(torch.uint8), size=tuple(size), mode="nearest-exact")[0, 0].bool()


def read_values(
    source: ImageSource, name: str | None, max_value: float | None = None, *, exact: bool = False
) -> tuple[Tensor, str, float | None]:
    """The stored values (C, H, W) with C = 1 or 3, a name for messages, and the type's maximum if there is one.

    With `exact`, a lossy file is refused by an ImageError.
    """
    with opened(source, name, max_value) as stored:
        if exact and stored.lossy:
            raise ImageError(f"{stored.name}: is a lossy file ({stored.lossy}), which does not keep exact values, but "
                             "here each value has its meaning, expected a PNG; get the mask as it was made")
        return torch.stack([plane() for plane in stored.planes]), stored.name, stored.maximum


def _digits(value: float, limit: float) -> str:
    """As few digits as show on which side of the limit a value is."""
    short = f"{value:g}"
    return f"{value:.9g}" if (float(short) > limit) != (value > limit) else short
