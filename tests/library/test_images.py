"""Files as people have them: every kind is read to the same form, and every bad one is refused by name."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlib import images, stored
from adlib.images import (
    ImageError,
    read_image,
    read_mask,
    read_size,
    read_stored,
    read_values,
    resize_image,
    resize_mask,
)


@pytest.fixture
def colour() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


@pytest.fixture
def deep() -> np.ndarray:
    """A 12-bit picture in 16 bits, dark: scaling by its own range would show."""
    return np.random.default_rng(1).integers(100, 3000, (12, 17)).astype(np.uint16)


def expected_colour(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "ppm"])
def test_colour_files_are_read_exactly(tmp_path: Path, colour: np.ndarray, extension: str) -> None:
    Image.fromarray(colour).save(tmp_path / f"a.{extension}")
    image = read_image(tmp_path / f"a.{extension}")
    assert image.dtype == torch.float32 and image.is_contiguous()
    assert torch.equal(image, expected_colour(colour))
    assert torch.equal(read_image(str(tmp_path / f"a.{extension}")), image)


def test_all_forms_of_one_image_agree(colour: np.ndarray) -> None:
    expected = expected_colour(colour)
    channels_first = torch.from_numpy(colour.transpose(2, 0, 1).copy())
    with_alpha = np.dstack([colour, np.zeros((12, 17), np.uint8)])
    for source in (Image.fromarray(colour), colour, channels_first, expected, with_alpha, Image.fromarray(with_alpha)):
        assert torch.equal(read_image(source), expected)


def test_alpha_is_dropped_and_not_composited(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 4), 50, np.uint8)
    pixels[..., 3] = 0  # fully transparent
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert torch.allclose(read_image(tmp_path / "a.png"), torch.tensor(50 / 255))
    grey = Image.merge("LA", [Image.new("L", (4, 4), 50), Image.new("L", (4, 4), 0)])
    assert torch.allclose(read_image(grey), torch.tensor(50 / 255))


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_16_bit_is_divided_by_the_type_not_by_its_own_maximum(tmp_path: Path, deep: np.ndarray, extension: str) -> None:
    Image.fromarray(deep).save(tmp_path / f"a.{extension}")
    image = read_image(tmp_path / f"a.{extension}")
    expected = torch.from_numpy((deep / 65535).astype(np.float32)).expand(3, -1, -1)
    torch.testing.assert_close(image, expected, rtol=1e-6, atol=0)
    twelve_bit = read_image(tmp_path / f"a.{extension}", max_value=4095)
    torch.testing.assert_close(twelve_bit, expected * (65535 / 4095), rtol=1e-6, atol=0)


def test_big_endian_16_bit(tmp_path: Path, deep: np.ndarray) -> None:
    big = Image.frombytes("I;16B", (17, 12), deep.astype(">u2").tobytes())
    assert torch.equal(read_image(big), read_image(deep))
    assert torch.equal(read_image(deep.astype(">u2")), read_image(deep))


def test_value_above_max_value_is_named(deep: np.ndarray) -> None:
    with pytest.raises(ImageError, match=f"to {deep.max()}, expected 0 to 1000"):
        read_image(deep, max_value=1000)
    with pytest.raises(ImageError, match="max_value is 0"):
        read_image(deep, max_value=0)


def test_float_files_and_32_bit_integers(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    Image.fromarray(values).save(tmp_path / "f.tif")
    assert torch.equal(read_image(tmp_path / "f.tif")[2], torch.from_numpy(values))
    Image.fromarray((values * 1000).astype(np.int32)).save(tmp_path / "i.tif")
    with pytest.raises(ImageError, match=r"i\.tif.*pass max_value"):
        read_image(tmp_path / "i.tif")
    torch.testing.assert_close(read_image(tmp_path / "i.tif", max_value=1000)[0], torch.from_numpy(values), atol=1e-3,
                               rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype: torch.dtype) -> None:
    assert torch.equal(read_image(torch.full((3, 2, 2), 0.5, dtype=dtype)), torch.full((3, 2, 2), 0.5))


def test_grey_palette_cmyk_and_1_bit(tmp_path: Path, colour: np.ndarray) -> None:
    grey = colour[..., 0]
    assert torch.equal(read_image(Image.fromarray(grey)), expected_colour(np.repeat(grey[..., None], 3, 2)))
    palette = Image.fromarray(colour).quantize(16)
    palette.save(tmp_path / "p.png")
    assert torch.equal(read_image(tmp_path / "p.png"), expected_colour(np.asarray(palette.convert("RGB"))))
    cmyk = Image.fromarray(colour).convert("CMYK")
    cmyk.save(tmp_path / "c.tif")
    assert torch.equal(read_image(tmp_path / "c.tif"), expected_colour(colour))
    bits = Image.fromarray(grey).point(lambda value: 255 * (value > 127)).convert("1")
    bits.save(tmp_path / "b.png")
    assert torch.equal(read_image(tmp_path / "b.png")[0], torch.from_numpy(grey > 127).float())


TURNED = {  # what each EXIF orientation asks for
    1: lambda x: x, 2: lambda x: x.flip(2), 3: lambda x: x.flip(1, 2), 4: lambda x: x.flip(1), 5: lambda x: x.mT,
    6: lambda x: torch.rot90(x, -1, (1, 2)), 7: lambda x: x.mT.flip(1, 2), 8: lambda x: torch.rot90(x, 1, (1, 2)),
}  # fmt: skip
KINDS = [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"}), ("webp", {"lossless": True}), ("jpg", {})]


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("extension", "options"), KINDS)
def test_every_exif_orientation_is_applied(tmp_path: Path, colour: np.ndarray, extension: str, options: dict,
                                           orientation: int) -> None:
    Image.fromarray(colour).save(tmp_path / f"plain.{extension}", **options)
    file = tmp_path / f"a.{extension}"
    Image.fromarray(colour).save(file, exif=oriented(orientation), **options)
    expected = TURNED[orientation](read_image(tmp_path / f"plain.{extension}"))
    with Image.open(file) as picture:  # as PIL image: not loaded, loaded, and read twice
        assert read_size(picture) == expected.shape[1:]
        assert torch.equal(read_image(picture), expected) and torch.equal(read_image(picture), expected)
        assert read_size(picture) == expected.shape[1:]
    assert torch.equal(read_image(file), expected) and read_size(file) == expected.shape[1:]
    mask = np.zeros((12, 17), np.uint8)
    mask[1:4, 2:11] = 255
    Image.fromarray(mask).save(file, exif=oriented(orientation), **options)
    assert torch.equal(read_mask(file), TURNED[orientation](torch.from_numpy(mask > 0)[None])[0])


def test_orientation_behind_the_pixels_of_a_png(tmp_path: Path, colour: np.ndarray, monkeypatch: object) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(colour).save(file)
    body = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    whole = file.read_bytes()
    assert read_size(file) == (12, 17)
    file.write_bytes(whole[:-12] + chunk + whole[-12:])
    assert read_size(file) == (17, 12) and torch.equal(read_image(file), TURNED[6](expected_colour(colour)))


@pytest.mark.parametrize(("extension", "options"), KINDS)
def test_read_size_reads_the_header_only(tmp_path: Path, colour: np.ndarray, extension: str, options: dict,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(colour).save(tmp_path / f"a.{extension}", **options)
    with Image.open(tmp_path / f"a.{extension}") as picture:
        monkeypatch.setattr(type(picture), "load", lambda self: pytest.fail("the pixels were read"))
    assert read_size(tmp_path / f"a.{extension}") == (12, 17)


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
def test_broken_exif_raises_one_type_of_error(tmp_path: Path, colour: np.ndarray, extension: str) -> None:
    """Bytes of the EXIF block are changed at random: size and image agree, or both are refused."""
    rng = np.random.default_rng(0)
    file = tmp_path / f"a.{extension}"
    Image.fromarray(colour).save(file, exif=oriented(6))
    whole = file.read_bytes()
    start = 0 if extension == "tif" else max(whole.find(b"Exif"), whole.find(b"eXIf"), whole.find(b"EXIF"))
    refused = 0
    for _ in range(150):
        broken = bytearray(whole)
        for place in rng.integers(start, min(start + 60, len(whole)), 3):
            broken[place] = rng.integers(256)
        file.write_bytes(broken)
        found = []
        for read in (read_size, lambda path: tuple(read_image(path).shape[1:])):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found.append(read(file))
                except ImageError as error:
                    assert f"a.{extension}: " in str(error)
        refused += len(found) < 2
        assert len(set(found)) <= 1
    assert refused > 0


def test_exif_that_is_no_exif(tmp_path: Path, colour: np.ndarray) -> None:
    for extension, exif in (("jpg", b"Exif\0\0XX*\0\x08\0\0\0"), ("png", b"Exif\0\0nonsense"), ("webp", b"Exif\0\0no")):
        Image.fromarray(colour).save(tmp_path / f"a.{extension}", exif=exif)
        for read in (read_size, read_image):
            with pytest.raises(ImageError, match=rf"a\.{extension}: its EXIF data"):
                read(tmp_path / f"a.{extension}")
        with Image.open(tmp_path / f"a.{extension}") as picture:
            for _ in range(2):
                with pytest.raises(ImageError, match="its EXIF data"):
                    read_image(picture)


@pytest.mark.parametrize("extension", ["bmp", "jpg", "pgm", "png", "tif", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_truncated_files_are_refused_by_name(tmp_path: Path, extension: str, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70), dtype=np.uint8)
    file = tmp_path / f"cut.{extension}"
    Image.fromarray(pixels).save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ImageError, match=rf"cut\.{extension}: .*expected"):
        read_image(file)


def test_missing_folder_text_and_broken_bytes(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image at all")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8)).save(tmp_path / "bad.png")
    broken = bytearray((tmp_path / "bad.png").read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    (tmp_path / "bad.png").write_bytes(bytes(broken))
    for name, said in [("none.png", "does not exist"), ("notes.png", "is not an image"), ("bad.png", "broken"),
                       (".", "is a folder")]:
        with pytest.raises(ImageError, match=said) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def _png_header(width: int, height: int) -> bytes:
    """A PNG of a hundred bytes that claims to be of any size."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_absurd_size_is_refused_from_the_header(tmp_path: Path, side: int) -> None:
    (tmp_path / "huge.png").write_bytes(_png_header(side, side))
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=r"huge\.png: has .*pixels, expected at most"):
        read_image(tmp_path / "huge.png")
    assert before == Image.MAX_IMAGE_PIXELS


def test_size_limit_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(stored, "MAX_PIXELS", 100)
    assert read_image(tmp_path / "a.png").shape == (3, 10, 10)
    monkeypatch.setattr(stored, "MAX_PIXELS", 99)
    with pytest.raises(ImageError, match="10 × 10 = 100 pixels"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (np.full((4, 4), np.nan), "NaN or infinite"),
        (np.full((4, 4), 1.5), "from 1.5 to 1.5, expected 0 to 1"),
        (np.full((4, 4), -0.1), "from -0.1"),
        (np.zeros((3, 5, 6)), r"shape \(3, 5, 6\), expected \(H, W\)"),
        (np.zeros((2, 4, 4, 3)), "one image at a time"),
        (torch.zeros(5, 6, 3), r"shape \(5, 6, 3\), expected"),
        (np.zeros((0, 4)), "no pixels"),
        (np.zeros((4, 4), dtype=np.int32), "pass max_value"),
        (np.array([["a"]]), "expected numbers"),
        (torch.zeros(4, 4, dtype=torch.complex64), "complex"),
        (17, "int: cannot be read"),
    ],
)
def test_bad_arrays_are_refused_in_words(source: object, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        read_image(source)  # type: ignore[arg-type]


def test_16_bit_colour_file_refuses_max_value(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = np.random.default_rng(0).integers(0, 65536, (2, 3, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    file = tmp_path / "deep.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
                     + chunk(b"IEND", b""))
    expected = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 65535)
    torch.testing.assert_close(read_image(file), expected, atol=1 / 255, rtol=0)
    with pytest.raises(ImageError, match=r"deep\.png: has 16 bits a channel"):
        read_image(file, max_value=4095)


def test_mask_is_true_above_zero(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [128, 254, 255]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    expected = torch.tensor([[False, True, True], [True, True, True]])
    for source in (tmp_path / "m.png", values, values.astype(np.uint16), values / 255, values > 0, values.astype(int)):
        mask = read_mask(source)
        assert mask.dtype == torch.bool and torch.equal(mask, expected)
    only_blue = np.zeros((2, 2, 3), np.uint8)
    only_blue[0, 0, 2] = 1
    assert read_mask(only_blue).sum() == 1


def square(value: int = 255, background: int = 0) -> np.ndarray:
    mask = np.full((60, 60), background, np.uint8)
    mask[20:33, 17:30] = value
    return mask


LOSSY = [("jpg", {"quality": 90}), ("jpg", {"quality": 75}), ("jfif", {"quality": 75}), ("jpe", {}), ("webp", {}),
         ("avif", {}), ("jp2", {"irreversible": True, "quality_mode": "rates", "quality_layers": [8]}),
         ("tif", {"compression": "jpeg"})]  # fmt: skip


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("extension", "options"), LOSSY)
def test_lossy_masks_are_cut_at_half(tmp_path: Path, extension: str, options: dict, mode: str) -> None:
    file = tmp_path / f"m.{extension}"
    Image.fromarray(square()).convert(mode).save(file, **options)
    with Image.open(file) as picture:
        for source in (file, picture):
            assert torch.equal(read_mask(source), torch.from_numpy(square() > 0))
    assert int(read_mask(file).sum()) == 169
    Image.new(mode, (60, 60)).save(file, **options)
    assert not read_mask(file).any()
    Image.fromarray(square(9)).convert(mode).save(file, **options)
    with pytest.raises(ImageError, match=rf"m\.{extension}: is a lossy file .*none of half .*save the mask as PNG"):
        read_mask(file)
    with pytest.raises(ImageError, match=rf"m\.{extension}: is a lossy file .*exact values"):
        read_values(file, None, exact=True)


@pytest.mark.parametrize(("extension", "options"), [
    ("png", {}), ("bmp", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"}), ("gif", {}), ("tga", {}), ("pgm", {}),
    ("webp", {"lossless": True}), ("webp", {"lossless": True, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
])
def test_lossless_masks_stay_exact(tmp_path: Path, extension: str, options: dict) -> None:
    for value in (1, 9, 128, 255):
        Image.fromarray(square(value)).save(tmp_path / f"m.{extension}", **options)
        assert torch.equal(read_mask(tmp_path / f"m.{extension}"), torch.from_numpy(square() > 0))
        assert set(read_values(tmp_path / f"m.{extension}", None, exact=True)[0].unique().tolist()) == {0, value}


SOURCES = {
    "L": lambda rng: Image.fromarray(rng.integers(0, 256, (37, 50), dtype=np.uint8)),
    "RGB": lambda rng: Image.fromarray(rng.integers(0, 256, (37, 50, 3), dtype=np.uint8)),
    "RGBA": lambda rng: Image.fromarray(rng.integers(0, 256, (37, 50, 4), dtype=np.uint8)),
    "P": lambda rng: Image.fromarray(rng.integers(0, 256, (37, 50, 3), dtype=np.uint8)).quantize(16),
    "1": lambda rng: Image.fromarray(rng.integers(0, 2, (37, 50)) > 0),
    "I;16": lambda rng: Image.fromarray(rng.integers(0, 65536, (37, 50)).astype(np.uint16)),
    "F": lambda rng: Image.fromarray(rng.random((37, 50), np.float32)),
    "uint8": lambda rng: rng.integers(0, 256, (37, 50, 3), dtype=np.uint8),
    "float64": lambda rng: rng.random((37, 50, 3)),
    "tensor": lambda rng: torch.from_numpy(rng.random((3, 37, 50), np.float32)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SOURCES)
def test_reading_at_a_size_is_reading_and_resizing(kind: str) -> None:
    source = SOURCES[kind](np.random.default_rng(0))
    whole = read_image(source)
    for size in ((37, 50), (16, 16), (74, 100), (20, 90), (1, 1), (37, 16)):
        small = read_image(source, size=size)
        assert small.is_contiguous() and torch.equal(small, resize_image(whole, size))


@pytest.mark.parametrize(("kind", "expected"), [
    ("L", "uint8"), ("RGB", "uint8"), ("P", "uint8"), ("1", "bool"), ("I;16", "uint16"), ("F", "float"),
    ("float64", "float"), ("tensor", "float"),
])
def test_the_stored_type_and_the_largest_value_are_told(kind: str, expected: str) -> None:
    source = SOURCES[kind](np.random.default_rng(0))
    image, size, found, maximum, largest = read_stored(source, size=(9, 9))
    assert found == expected and image.shape == (3, 9, 9) and size == read_size(source)
    assert maximum == {"uint8": 255, "uint16": 65535}.get(expected, 1)
    assert largest == pytest.approx(read_values(source, None)[0].to(torch.float64).max().item())
    assert read_stored(np.full((2, 2), 7, np.int32), max_value=9)[1:] == ((2, 2), "int32", 9, 7)


def test_a_maximum_for_each_type() -> None:
    half = np.full((4, 4), 2048, np.uint16)
    assert read_stored(half, maxima={"uint16": 4096, "uint8": 1}).image.unique().item() == 0.5
    assert read_stored(half, maxima={"uint16": 4096}, max_value=8192).image.unique().item() == 0.25
    assert read_stored(half, maxima={"uint8": 255}).maximum == 65535


def test_blue_green_red_arrays(colour: np.ndarray, tmp_path: Path) -> None:
    expected = expected_colour(colour)
    turned = np.ascontiguousarray(colour[..., ::-1])
    alpha = np.zeros((12, 17, 1), np.uint8)
    for source in (turned, np.dstack([turned, alpha]), colour[..., ::-1], torch.from_numpy(turned).permute(2, 0, 1)):
        assert torch.equal(read_image(source, color="bgr"), expected)
    Image.fromarray(colour).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(colour)):
        assert torch.equal(read_image(source, color="bgr"), expected)  # files know their order
    assert torch.equal(read_image(colour[..., 0], color="bgr"), read_image(colour[..., 0]))
    with pytest.raises(ValueError, match="color is 'gbr', expected 'rgb' or 'bgr'"):
        read_image(colour, color="gbr")


def test_floats_outside_by_rounding_are_clamped() -> None:
    for value, dtype in ((1.0000001, torch.float32), (1 + 1e-9, torch.float64), (1.001, torch.float16),
                         (1.0078125, torch.bfloat16), (-1e-8, torch.float32)):
        image = read_image(torch.full((4, 4), value, dtype=dtype))
        assert 0 <= image.min() and image.max() <= 1
    assert read_image(np.full((4, 4), 255.00001, np.float32), max_value=255).max() == 1
    for value, said in ((1.00001, "1.00001, expected 0 to 1"), (1.0000021, r"1\.0000021, expected 0 to 1")):
        with pytest.raises(ImageError, match=said):
            read_image(np.full((4, 4), value))
    with pytest.raises(ImageError, match="to 4096, expected 0 to 4095"):
        read_image(np.full((4, 4), 4096, np.uint16), max_value=4095)  # integers are not rounded


def test_a_tensor_of_the_caller_is_not_changed() -> None:
    for source in (torch.rand(3, 5, 6), np.random.default_rng(0).random((5, 6, 3), np.float32) * 7):
        before = source.clone() if isinstance(source, torch.Tensor) else source.copy()
        read_image(source, max_value=8.0)
        assert (before == source).all()


def test_pipes_sockets_devices_and_links_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to("/dev/null")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    (tmp_path / "itself.png").symlink_to("itself.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s.png"))
        for name, said in (("pipe", "is no regular file"), ("null", "is no regular file"), ("s", "is no regular file"),
                           ("broken", r"is a link to nowhere\.png, which does not exist"),
                           ("itself", "cannot be looked up")):
            for read in (read_image, read_mask, read_size):
                with pytest.raises(ImageError, match=rf"{name}\.png: {said}"):
                    read(tmp_path / f"{name}.png")


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def refuse(path: object, *args: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(stored.os, "scandir", refuse)
    with pytest.raises(ImageError, match="is a folder that may not be read, so what is in it is not inspected"):
        read_image(tmp_path)
    monkeypatch.setattr(images.Image, "open", refuse)
    with pytest.raises(ImageError, match=r"a\.png: may not be read"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ImageError, match=r"a\.png: cannot be looked up"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("extension", ["jfif", "jpe", "jp2", "j2k", "avif", "tga", "pnm", "gif", "dib", "qoi", "pcx"])
def test_more_endings_are_read(tmp_path: Path, extension: str) -> None:
    file = tmp_path / f"a.{extension.upper()}"
    Image.new("RGB", (20, 30), (200, 100, 50)).save(file)
    expected = torch.tensor([200, 100, 50])[:, None, None].expand(3, 30, 20) / 255
    torch.testing.assert_close(read_image(file), expected, atol=0.02, rtol=0)
    assert read_size(file) == (30, 20) and file.suffix.lower() in images.IMAGE_EXTENSIONS
    Image.fromarray(square() > 0).save(tmp_path / "b.pbm")
    assert int(read_mask(tmp_path / "b.pbm").sum()) == 169


@pytest.mark.parametrize("extension", images.IMAGE_EXTENSIONS)
def test_every_ending_fails_by_name_when_it_holds_nonsense(tmp_path: Path, extension: str) -> None:
    file = tmp_path / f"a{extension}"
    rng = np.random.default_rng(0)
    for content in (b"nonsense", rng.bytes(5000), b"\0" * 700, b"II*\0\x08\0\0\0" + rng.bytes(300)):
        file.write_bytes(content)
        for read in (read_image, read_mask, read_size):
            with warnings.catch_warnings(), pytest.raises(ImageError, match=rf"a\{extension}: .*(convert|copy|save)"):
                warnings.simplefilter("ignore")
                read(file)


@pytest.mark.parametrize(("extension", "said"), [
    ("heic", "install pillow-heif"), ("HEIF", "install pillow-heif"), ("dng", "raw file of a camera.*16-bit TIFF"),
    ("NEF", "raw file"), ("cr2", "raw file"), ("jxl", "convert it to PNG or TIFF"), ("dcm", "convert it to PNG"),
])
def test_what_cannot_be_read_says_what_to_do(tmp_path: Path, extension: str, said: str) -> None:
    if said.startswith("raw"):  # a TIFF inside, whose first page is a preview
        Image.new("RGB", (16, 12)).save(tmp_path / f"a.{extension}", format="TIFF")
    else:
        (tmp_path / f"a.{extension}").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ImageError, match=rf"a\.{extension}: .*{said}"):
        read_image(tmp_path / f"a.{extension}")


def test_whatever_a_decoder_throws_is_an_image_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    for error in (OSError, SyntaxError, struct.error, IndexError, MemoryError, ZeroDivisionError, RecursionError):
        for place in ("PngImagePlugin.PngImageFile._open", "PngImagePlugin.PngImageFile.load"):
            def broken(*args: object, kind: type = error) -> None:
                raise kind("odd")

            with monkeypatch.context() as patch:
                patch.setattr(f"PIL.{place}", broken)
                with pytest.raises(ImageError, match=r"a\.png: .*odd|a\.png: .*cannot identify"):
                    read_image(tmp_path / "a.png")


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), (value, 0, 0)) for value in (200, 100, 10)]
    for extension in ("gif", "webp", "png", "tif"):
        options = {"lossless": True} if extension == "webp" else {}
        frames[0].save(tmp_path / f"a.{extension}", save_all=True, append_images=frames[1:], **options)
        assert read_image(tmp_path / f"a.{extension}")[0, 0, 0] * 255 == 200


def test_large_images_are_read_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = [0], [0]
    real = images._scale

    def slow(plane: torch.Tensor, maximum: float, into: torch.Tensor) -> tuple[float, float]:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.01)
        at_once[0] -= 1
        return real(plane, maximum, into)

    monkeypatch.setattr(images, "_scale", slow)
    sources = [np.zeros((10, 10), np.uint8), Image.new("L", (10, 10))] * 4
    for limit, expected in ((99, 1), (100, 4)):
        monkeypatch.setattr(stored, "LARGE_PIXELS", limit)
        most[0] = 0
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read_image, sources))
        assert most[0] == 1 if expected == 1 else most[0] > 1
    with pytest.raises(ImageError):
        read_image(np.full((10, 10), 3.0))
    assert read_image(sources[0]).shape == (3, 10, 10)  # the turn was given back


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_a_large_image_costs_what_the_docstring_says(tmp_path: Path) -> None:
    Image.new("RGB", (6000, 5000), (200, 100, 50)).save(tmp_path / "a.png", compress_level=1)
    code = """
import sys
from adlib.images import read_image
def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024
read_image(sys.argv[1], size=(5, 5))
for size in ((224, 224), None):
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    image = read_image(sys.argv[1], size=size)
    print((memory("VmHWM") - before) / 30e6)
    del image
"""
    tries = []  # a system that takes idle pages away at that moment makes `before` too small, so the peak too large
    for _ in range(3):
        result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True, capture_output=True,
                                text=True)
        tries.append([float(x) for x in result.stdout.split()])  # bytes a pixel; three planes of floats are 12
        small, whole = (min(values) for values in zip(*tries, strict=True))
        if small < 0.9e9 / images.MAX_PIXELS + 1 and whole < 1.4e9 / images.MAX_PIXELS + 1:
            return
    pytest.fail(f"bytes a pixel, small and whole: {tries}")


def test_resize_image_shrinks_without_aliasing() -> None:
    stripes = torch.zeros(3, 64, 64)
    stripes[:, :, ::2] = 1  # finer than the small image can show: its mean must come out
    small = resize_image(stripes, (16, 16))
    assert small.shape == (3, 16, 16)
    # Away from the border the window is whole, and the triangle filter weighs even and odd columns equally.
    torch.testing.assert_close(small[..., 1:-1, 1:-1], torch.full((3, 14, 14), 0.5), atol=0.02, rtol=0)
    assert resize_image(stripes, (64, 64)) is stripes
    assert resize_image(stripes[None], (20, 30)).shape == (1, 3, 20, 30)


def test_resize_mask_is_nearest_neighbour() -> None:
    mask = torch.tensor([[True, False], [False, True]])
    assert torch.equal(resize_mask(mask, (4, 4)), mask.repeat_interleave(2, 0).repeat_interleave(2, 1))
    # Shrinking by 3 takes the middle of each cell.
    large = torch.zeros(9, 9, dtype=torch.bool)
    large[4, 4] = True
    assert torch.equal(resize_mask(large, (3, 3)), torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]]).bool())
