"""Files as people have them: every kind is read to the same form, and every bad one is refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlib import images
from adlib.images import ImageError, read_image, read_mask, read_size, resize_image, resize_mask


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


def test_exif_orientation_is_applied(tmp_path: Path, colour: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    Image.fromarray(colour).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 17, 12) and read_size(tmp_path / "a.png") == (17, 12)
    assert torch.equal(image, torch.rot90(expected_colour(colour), -1, (1, 2)))


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
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert read_image(tmp_path / "a.png").shape == (3, 10, 10)
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
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
