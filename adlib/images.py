"""Image files and arrays, read into one form: a (3, H, W) float32 tensor in [0, 1].

The scale is fixed by the type (255 for 8 bits, 65535 for 16 bits) or by the user's `max_value`,
and never by the values of the image itself. An image that is stretched to its own range
loses its brightness, and with it many a defect.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

ImageSource = str | Path | Image.Image | np.ndarray | Tensor

IMAGE_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 80_000_000  # 1 GB as float32 with three channels; below the size at which Pillow starts to warn


class ImageError(ValueError):
    """An image that cannot be used. The message says which, what is wrong, what was expected and what to do."""


def read_image(source: ImageSource, *, max_value: float | None = None, name: str | None = None) -> Tensor:
    """Read one image as a (3, H, W) float32 tensor in [0, 1].

    source: a path, a PIL image, a NumPy array (H, W) or (H, W, 1|3|4), or a tensor (H, W) or (1|3|4, H, W).
    max_value: the value that becomes 1. Default: 255 for 8-bit, 65535 for 16-bit, 1 for boolean and float values.
    Give it for a 12-bit camera that stores 0..4095 in 16-bit files (max_value=4095), and for 32-bit integers.
    name: what messages call the image; the file's path by default.

    Grey becomes three equal channels. Alpha is dropped, not composited: it is not something that a camera
    measures, and some frame grabbers leave it at 0, where compositing would erase the picture. CMYK is
    converted to RGB. The EXIF orientation is applied. Of a file with several pages the first one is read.

    Raises ImageError where the image is missing, broken, too large (over MAX_PIXELS, known from the header),
    of another shape, not finite, or has values outside [0, maximum].
    """
    values, name, maximum = _read_values(source, name, max_value)
    if max_value is not None:
        if not (math.isfinite(max_value) and max_value > 0):
            raise ImageError(f"{name}: max_value is {max_value}, expected a positive number; give the camera's maximum")
        maximum = float(max_value)
    if maximum is None:
        raise ImageError(f"{name}: values of type {_short(values.dtype)} have no usual maximum, "
                         "expected 8-bit, 16-bit or float values; pass max_value, for example max_value=4095")
    values = values.to(torch.float64 if values.dtype in (torch.int64, torch.int32, torch.float64) else torch.float32)
    if not torch.isfinite(values).all():
        raise ImageError(f"{name}: some values are NaN or infinite, expected finite ones; repair or leave it out")
    low, high = values.min().item(), values.max().item()
    if low < 0 or high > maximum:
        raise ImageError(f"{name}: values reach from {low:g} to {high:g}, expected 0 to {maximum:g}; "
                         "scale them, or pass max_value, the value that stands for full brightness")
    return (values / maximum).to(torch.float32).expand(3, -1, -1).contiguous()


def read_mask(source: ImageSource, *, name: str | None = None) -> Tensor:
    """Read a mask as a (H, W) bool tensor: True where any colour channel is above 0.

    Sources are those of `read_image`; alpha is ignored. Raises ImageError like it, except that
    any value range is allowed.
    """
    values, name, _ = _read_values(source, name)
    if values.is_floating_point() and not torch.isfinite(values).all():
        raise ImageError(f"{name}: some values are NaN or infinite, expected finite values; repair the mask")
    # uint16 has few operations in torch; no value is changed by the wider type.
    values = values.to(torch.int32) if values.dtype == torch.uint16 else values
    return (values > 0).any(dim=0)


def image_size(source: ImageSource, *, name: str | None = None) -> tuple[int, int]:
    """Height and width in pixels, as `read_image` would return them. Of a file only the header is read."""
    if isinstance(source, (str, Path)):
        with _open(Path(source), name or str(source)) as picture:
            return _oriented_size(picture)
    if isinstance(source, Image.Image):
        return _oriented_size(source)
    height, width = _read_values(source, name)[0].shape[1:]
    return height, width


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (3, H, W) or (B, 3, H, W) to `size` = (height, width): bilinear, with antialiasing when it shrinks.

    Values stay in [0, 1]. An image that already has the size is returned as it is.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    batch = image if image.ndim == 4 else image[None]
    resized = F.interpolate(batch, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return (resized if image.ndim == 4 else resized[0]).clamp(0, 1)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a bool mask (H, W) to `size` = (height, width) by nearest neighbour, so that it stays a mask."""
    if tuple(mask.shape) == tuple(size):
        return mask
    # "nearest-exact" takes the pixel at the centre; "nearest" is shifted by up to half a pixel.
    return F.interpolate(mask[None, None].to(torch.uint8), size=tuple(size), mode="nearest-exact")[0, 0].bool()


def _read_values(
    source: ImageSource, name: str | None, max_value: float | None = None
) -> tuple[Tensor, str, float | None]:
    """The stored values (C, H, W) with C = 1 or 3, a name for messages, and the type's maximum if there is one."""
    if isinstance(source, (str, Path)):
        name = name or str(source)
        with _open(Path(source), name) as picture:
            return _from_pil(picture, name, max_value)
    if isinstance(source, Image.Image):
        name = name or getattr(source, "filename", "") or f"PIL image of mode {source.mode}"
        _check_pixels(source.size, name)
        return _from_pil(source, name, max_value)
    if isinstance(source, np.ndarray):
        return _from_array(source, name or f"array of shape {source.shape}")
    if isinstance(source, Tensor):
        return _from_tensor(source.detach().cpu(), name or f"tensor of shape {tuple(source.shape)}")
    raise ImageError(f"{name or type(source).__name__}: cannot be read as an image, expected a path, "
                     "a PIL image, a NumPy array or a tensor; convert it to one of these")


def _open(path: Path, name: str) -> Image.Image:
    """Open a file and read its header only."""
    try:
        folder, exists = path.is_dir(), path.exists()
        empty = exists and path.stat().st_size == 0
    except (OSError, ValueError) as error:  # a folder that may not be read, a name that no file can have
        raise ImageError(f"{name}: cannot be looked up ({_first_line(error)}), expected a readable file") from error
    if folder:
        raise ImageError(f"{name}: is a folder, expected an image file; name one file in it")
    if not exists:
        raise ImageError(f"{name}: does not exist, expected an image file; check the path")
    if empty:
        raise ImageError(f"{name}: is empty (0 bytes), expected an image file; copy it again")
    try:
        picture = Image.open(path)
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: has far too many pixels, expected at most {MAX_PIXELS:,}; "
                         "cut it into tiles or shrink it") from None
    except PermissionError:
        raise ImageError(f"{name}: may not be read, expected a readable file; check its permissions") from None
    except Exception as error:  # decoders meet broken bytes with errors of every kind
        raise ImageError(f"{name}: is not an image that can be read ({_first_line(error)}), "
                         f"expected one of the formats {', '.join(IMAGE_EXTENSIONS)}; copy or convert it") from error
    try:
        _check_pixels(picture.size, name)
    except ImageError:
        picture.close()
        raise
    return picture


def _check_pixels(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: has {width} × {height} = {width * height:,} pixels, expected at most "
                         f"{MAX_PIXELS:,}; cut it into tiles or shrink it")


def _from_pil(picture: Image.Image, name: str, max_value: float | None) -> tuple[Tensor, str, float | None]:
    # Of a colour file with 16 bits a channel Pillow keeps the high byte only. Over the full range that is
    # right to 1/255, but of a 12-bit picture in it 16 levels would be left.
    halved = any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ())) and not picture.mode.startswith("I")
    if halved and max_value is not None:
        raise ImageError(f"{name}: has 16 bits a channel in colour, of which only the upper 8 can be read, "
                         "expected another file for use with max_value; pass it as a uint16 array")
    file_format = picture.format  # the turned copy does not know it
    try:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode in ("La", "RGBa"):  # colour already multiplied by alpha
            picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
        if picture.mode in ("1", "LA"):
            picture = picture.convert("L")
        elif picture.mode not in ("L", "RGB", "I", "F") and not picture.mode.startswith("I;16"):
            picture = picture.convert("RGB")
        array = np.asarray(picture)
    except Exception as error:
        raise ImageError(f"{name}: is broken or cut off ({_first_line(error)}), "
                         "expected a whole image; copy it again") from error
    values, name, maximum = _from_array(array, name)
    if picture.mode == "I" and file_format in ("PNG", "PPM"):
        maximum = 65535.0  # how Pillow hands over 16-bit grey of these formats
    return values, name, maximum


def _from_array(array: np.ndarray, name: str) -> tuple[Tensor, str, float | None]:
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = np.moveaxis(array, 2, 0)
    elif array.ndim != 2:
        raise ImageError(f"{name}: array of shape {array.shape}, expected (H, W) or (H, W, C) with C = 1, 3 or 4; "
                         "move the channels to the end, or pass one image at a time")
    if array.dtype.kind not in "buif":
        raise ImageError(f"{name}: array of type {array.dtype}, expected numbers; convert it to uint8 or float32")
    if array.dtype in (np.uint32, np.uint64):
        array = array.astype(np.int64)
    elif array.dtype == np.longdouble:
        array = array.astype(np.float64)
    # The copy is in the machine's byte order and contiguous, which torch asks for.
    return _from_tensor(torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C")), name)


def _from_tensor(tensor: Tensor, name: str) -> tuple[Tensor, str, float | None]:
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        raise ImageError(f"{name}: shape {tuple(tensor.shape)}, expected (H, W) or (C, H, W) with C = 1, 3 or 4; "
                         "move the channels to the front, or pass one image at a time")
    if 0 in tensor.shape:
        raise ImageError(f"{name}: has no pixels, shape {tuple(tensor.shape)}, expected at least one; leave it out")
    if tensor.is_complex():
        raise ImageError(f"{name}: values are complex, expected real numbers; take the magnitude")
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        maximum: float | None = 1.0
    else:
        maximum = {torch.uint8: 255.0, torch.uint16: 65535.0}.get(tensor.dtype)
    return tensor[:3], name, maximum  # [:3] drops alpha


def _oriented_size(picture: Image.Image) -> tuple[int, int]:
    turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # the orientations that swap the sides
    width, height = picture.size
    return (width, height) if turned else (height, width)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
