"""What an image file, PIL image, array or tensor holds: its planes as they are stored, made one by one."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ImageSource = str | Path | Image.Image | np.ndarray | Tensor

_CAMERA_RAW = (".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef",
               ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f")
_HEIF = (".heic", ".heif", ".hif")
_OTHERS = (".dcm", ".exr", ".hdr", ".jxl", ".jxr", ".svg", ".wdp")  # pictures, for which Pillow has no reader
# Every ending that says "a picture", readable or not: what has one is read or stands among the failures.
IMAGE_EXTENSIONS = (
    ".apng", ".avif", ".bmp", ".dds", ".dib", ".fit", ".fits", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe",
    ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi",
    ".ras", ".sgi", ".tga", ".tif", ".tiff", ".webp", *_HEIF, *_CAMERA_RAW, *_OTHERS,
)  # fmt: skip
MAX_PIXELS = 80_000_000  # below the size at which Pillow starts to warn; what reading so many costs is in `read_image`
LARGE_PIXELS = 16_000_000  # images with more are read one at a time, whatever the number of threads
_large_image = threading.RLock()
_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF", "DDS")  # formats whose files are not, or not surely, exact
UPPER_ONLY = (": has 16 bits a channel in colour, of which only the upper 8 can be read, expected another file for use "
              "with max_value; pass it as a uint16 array")
_ORIENTATION = 0x0112  # the number of the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


class ImageError(ValueError):
    """An image that cannot be used. The message says which, what is wrong, what was expected and what to do."""


@dataclass(frozen=True)
class Stored:
    """An image as it is stored. Its planes are made one by one, since all at once take three times the memory."""

    name: str
    kind: str
    maximum: float | None
    size: tuple[int, int]
    planes: list[Callable[[], Tensor]]  # one or three, each (H, W)
    factor: float = 1.0  # times a value here is the value in the file
    lossy: str = ""  # the format, where values are not exact


@contextmanager
def opened(
    source: ImageSource, name: str | None, max_value: float | None = None, color: str = "rgb"
) -> Generator[Stored, None, None]:
    """The image as stored; a large one alone, until its planes have been used."""
    if color not in ("rgb", "bgr"):
        raise ValueError(f"color is {color!r}, expected 'rgb' or 'bgr', the order of an array's channels")
    if isinstance(source, (str, Path)):
        name = name or str(source)
        if not str(source):
            raise ImageError(f"{name or repr('')}: is an empty path, expected an image file; check how it was made")
        with open_file(Path(source), name) as picture, _in_turn(picture.width * picture.height):
            yield _from_pil(picture, name, max_value)
    elif isinstance(source, Image.Image):
        name = pil_name(source, name)
        _check_pixels(source.size, name)
        with _in_turn(source.width * source.height):
            yield _from_pil(source, name, max_value)
    elif isinstance(source, (np.ndarray, Tensor)):
        if isinstance(source, np.ndarray):
            stored = _from_array(source, name or f"array of shape {source.shape}", color)
        else:
            stored = _from_tensor(source.detach().cpu(), name or f"tensor of shape {tuple(source.shape)}", color)
        with _in_turn(stored.size[0] * stored.size[1]):
            yield stored
    else:
        raise ImageError(f"{name or type(source).__name__}: cannot be read as an image, expected a path, "
                         "a PIL image, a NumPy array or a tensor; convert it to one of these")


def _in_turn(pixels: int) -> AbstractContextManager[object]:
    return _large_image if pixels > LARGE_PIXELS else nullcontext()


def pil_name(picture: Image.Image, name: str | None) -> str:
    """What messages call a PIL image: the name given, its file, or its mode."""
    return name or str(getattr(picture, "filename", "")) or f"PIL image of mode {picture.mode}"


def open_file(path: Path, name: str) -> Image.Image:
    """Open a file and read its header only."""
    _check_file(path, name)
    ending = path.suffix.lower()
    try:
        picture = Image.open(path)
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: has far too many pixels, expected at most {MAX_PIXELS:,}; "
                         "cut it into tiles or shrink it") from None
    except PermissionError:
        raise ImageError(f"{name}: may not be read, expected a readable file; check its permissions") from None
    except Exception as error:  # decoders meet broken bytes with errors of every kind
        advice = "copy it again, or convert it to PNG"
        if ending in _HEIF:
            advice = ("convert it to PNG, or install pillow-heif and call pillow_heif.register_heif_opener() before")
        elif ending in _OTHERS:
            advice = f"convert it to PNG or TIFF, as there is no reader for {ending} here"
        raise ImageError(f"{name}: is not an image that can be read ({_first_line(error)}), expected a whole file of "
                         f"a format that Pillow reads, such as PNG, TIFF, JPEG or BMP; {advice}") from error
    try:
        _check_pixels(picture.size, name)
    except ImageError:
        picture.close()
        raise
    return picture


def _check_file(path: Path, name: str) -> None:
    """Refuse what is no file to open; a pipe would wait for ever."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()
    except FileNotFoundError:
        if path.is_symlink():
            raise ImageError(f"{name}: is a link to {os.readlink(path)}, which does not exist, expected an image file; "
                             "copy the file there, or remove the link") from None
        raise ImageError(f"{name}: does not exist, expected an image file; check the path") from None
    except (OSError, ValueError) as error:  # a folder that may not be read, a name that no file can have
        if isinstance(error, PermissionError) and os.path.isdir(path):
            raise ImageError(f"{name}: is a folder that may not be read, so what is in it is not inspected, expected "
                             "a readable folder; check its permissions") from error
        raise ImageError(f"{name}: cannot be looked up ({_first_line(error)}), expected a readable file; "
                         "check the path and its permissions") from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name}: is a folder, expected an image file; name one file in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name}: is no regular file but a pipe, socket or device, expected an image file; "
                         "save the picture to a file")
    if status.st_size == 0:
        raise ImageError(f"{name}: is empty (0 bytes), expected an image file; copy it again")
    if path.suffix.lower() in _CAMERA_RAW:  # Pillow would take the preview in some of them for the picture
        raise ImageError(f"{name}: is a raw file of a camera, which cannot be read here, expected a picture; "
                         "convert it to a 16-bit TIFF or PNG with the camera's program")


def _check_pixels(size: tuple[int, int], name: str) -> None:
    width, height = size
    if not width * height:
        raise ImageError(f"{name}: has no pixels, {height} × {width}, expected at least one; leave it out")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: has {width} × {height} = {width * height:,} pixels, expected at most "
                         f"{MAX_PIXELS:,}; cut it into tiles or shrink it")


def _from_pil(picture: Image.Image, name: str, max_value: float | None) -> Stored:
    # Of a colour file with 16 bits a channel Pillow keeps the high byte only. Over the full range that is
    # right to 1/255, but of a 12-bit picture in it 16 levels would be left.
    halved = any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ())) and not picture.mode.startswith("I")
    if halved and max_value is not None:
        raise ImageError(name + UPPER_ONLY)
    file_format = picture.format  # the turned copy does not know it
    size = oriented_size(picture, name)
    try:
        lossy = _lossy_format(picture)
        _load(picture)
        # Some formats are turned while they are loaded, and then have no orientation any more.
        turn = _TURNS.get(_orientation(picture))
        picture = picture if turn is None else picture.transpose(turn)
        if picture.mode in ("La", "RGBa"):  # colour already multiplied by alpha
            picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
        if picture.mode not in ("1", "L", "LA", "RGB", "RGBA", "RGBX", "I", "F") and picture.mode[:4] != "I;16":
            picture = picture.convert("RGB")
        if picture.mode == "LA":
            picture = picture.getchannel("L")
        bands = range(3) if picture.mode.startswith("RGB") else [None]
        plane = np.asarray(picture.crop((0, 0, 1, 1)))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: is broken or cut off ({_first_line(error)}), "
                         "expected a whole image; copy it again") from error
    if picture.size != size[::-1]:
        raise ImageError(f"{name}: is {picture.height} × {picture.width} (height × width), but its header says "
                         f"{size[0]} × {size[1]}, expected one size; save the picture anew")
    kind, maximum = _kind(plane.dtype)
    if picture.mode == "I" and file_format in ("PNG", "PPM"):
        kind, maximum = "uint16", 65535.0  # how Pillow hands over 16-bit grey of these formats
    if halved:  # 255 in the upper byte stands for 65535
        return Stored(name, "uint16", maximum, size, [_band(picture, band) for band in bands], 257.0, lossy)
    return Stored(name, kind, maximum, size, [_band(picture, band) for band in bands], lossy=lossy)


def _load(picture: Image.Image) -> None:
    # Pillow maps a plain TIFF into memory with its sides swapped where its orientation swaps them, and its pixels are
    # then scrambled. Without a file name it reads instead.
    file_name = getattr(picture, "filename", None)
    if picture.format == "TIFF" and file_name:
        picture.filename = ""  # pyrefly: ignore[missing-attribute]
    try:
        picture.load()
    finally:
        if file_name is not None:
            picture.filename = file_name  # pyrefly: ignore[missing-attribute]


def _band(picture: Image.Image, band: int | None) -> Callable[[], Tensor]:
    return lambda: _plane(np.asarray(picture if band is None else picture.getchannel(band)))


def _plane(array: np.ndarray) -> Tensor:
    """A copy (H, W) in the machine's byte order and contiguous, which torch asks for."""
    if array.dtype in (np.uint32, np.uint64):
        return torch.from_numpy(array.astype(np.int64))
    dtype = np.dtype(np.float64) if array.dtype == np.longdouble else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))


def _kind(dtype: np.dtype | torch.dtype) -> tuple[str, float | None]:
    """A type's name, and its usual maximum if it has one."""
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype.newbyteorder("=").name
    return name, 1.0 if "float" in name else {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}.get(name)


def _from_array(array: np.ndarray, name: str, color: str) -> Stored:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: array of shape {array.shape}, expected (H, W) or (H, W, C) with C = 1, 3 or 4; "
                         "move the channels to the end, or pass one image at a time")
    if array.dtype.kind not in "buif":
        raise ImageError(f"{name}: array of type {array.dtype}, expected numbers; convert it to uint8 or float32")
    channels = [array] if array.ndim == 2 else [array[:, :, c] for c in _order(array.shape[2], color)]
    return _from_channels(channels, _kind(array.dtype), name, _plane)


def _from_tensor(tensor: Tensor, name: str, color: str) -> Stored:
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4)):
        raise ImageError(f"{name}: shape {tuple(tensor.shape)}, expected (H, W) or (C, H, W) with C = 1, 3 or 4; "
                         "move the channels to the front, or pass one image at a time")
    if tensor.is_complex():
        raise ImageError(f"{name}: values are complex, expected real numbers; take the magnitude")
    channels = [tensor] if tensor.ndim == 2 else [tensor[c] for c in _order(tensor.shape[0], color)]
    return _from_channels(channels, _kind(tensor.dtype), name, lambda channel: channel)


def _order(channels: int, color: str) -> list[int]:
    """Red, green, blue: without alpha."""
    return [0] if channels == 1 else [2, 1, 0] if color == "bgr" else [0, 1, 2]


def _from_channels(
    channels: list, kind: tuple[str, float | None], name: str, plane: Callable[..., Tensor]
) -> Stored:
    height, width = channels[0].shape
    if not height * width:
        raise ImageError(f"{name}: has no pixels, {height} × {width}, expected at least one; leave it out")
    return Stored(name, *kind, (height, width), [lambda c=channel: plane(c) for channel in channels])


def oriented_size(picture: Image.Image, name: str) -> tuple[int, int]:
    """Height and width after turning, from the header."""
    turned = _orientation_of(picture, name) in (5, 6, 7, 8)  # the orientations that swap the sides
    width, height = picture.size
    tags = getattr(picture, "tag_v2", {})  # of a TIFF, whose `size` is turned already in some versions of Pillow
    if turned and _ORIENTATION in tags and (tags.get(256), tags.get(257)) != (width, height):
        return height, width
    return (width, height) if turned else (height, width)


def _orientation_of(picture: Image.Image, name: str) -> int:
    try:
        return _orientation(picture)
    except Exception as error:  # broken bytes bring errors of every kind
        picture._exif = None  # else Pillow takes the next look for a good one
        raise ImageError(f"{name}: its EXIF data, which hold the orientation, are broken ({_first_line(error)}), "
                         "expected readable ones; save the picture anew, or remove them") from error


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8."""
    if isinstance(data := picture.info.get("exif"), bytes):
        Image.Exif().load(data)  # raises for broken ones, which Pillow passes over when it opens a JPEG
    if picture.format == "PNG" and "exif" not in picture.info and not _has_late_chunk(picture):
        exif = Image.Image.getexif(picture)  # without PNG's own, which loads all pixels to see what comes after them
    else:
        exif = picture.getexif()
    value = exif.get(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


def _has_late_chunk(picture: Image.Image) -> bool:
    """Whether a PNG that is not loaded may hold EXIF data behind its pixels."""
    file = getattr(picture, "fp", None)
    if file is None or not getattr(picture, "tile", None):
        return False
    place, late = file.tell(), False
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        if late and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            break
        late = late or head[4:] == b"IDAT"
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    file.seek(place)
    return late and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")


def _lossy_format(picture: Image.Image) -> str:
    """The format of a picture whose values are not exact, or not surely; "" for others."""
    if picture.format in _LOSSY:
        return picture.format
    if picture.format == "TIFF":
        compression = str(picture.info.get("compression", ""))
        return f"TIFF, {compression}" if any(word in compression for word in ("jpeg", "webp")) else ""
    return "WEBP" if picture.format == "WEBP" and not _lossless_webp(picture) else ""


def _lossless_webp(picture: Image.Image) -> bool:
    """Whether its pixels lie in a chunk VP8L, which only lossless ones have."""
    try:
        with open(str(picture.filename), "rb") as file:  # pyrefly: ignore[missing-attribute]
            file.seek(12)
            while len(head := file.read(8)) == 8:
                if head[:4] in (b"VP8L", b"VP8 "):
                    return head[:4] == b"VP8L"
                length = int.from_bytes(head[4:], "little")
                file.seek(length + length % 2, 1)
    except (AttributeError, OSError, ValueError):  # not opened from a file, or the file is gone
        pass
    return False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
