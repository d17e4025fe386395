"""BTAD: a small tree in the official layout, with .bmp and .png mixed as in the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adlib.datasets.folder import BTAD
from adlib.samples import DatasetError


def save(path: Path, value: int, size: tuple[int, ...] = (6, 8, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


@pytest.fixture
def btad(tmp_path: Path) -> Path:
    root = tmp_path / "btad"
    for i, ending in enumerate(("bmp", "png", "bmp")):
        save(root / f"01/train/ok/{i:04d}.{ending}", i)
    save(root / "01/test/ok/0007.bmp", 7)
    save(root / "01/test/ko/0000.bmp", 8)
    save(root / "01/test/ko/0001.png", 9)
    save(root / "01/ground_truth/ko/0000.png", 255, (6, 8))
    save(root / "01/ground_truth/ko/0001.bmp", 1, (6, 8))
    return root


def test_layout(btad: Path) -> None:
    data = BTAD(btad, "01")
    train, test = data.split()
    assert [Path(s.path).name for s in train] == ["0000.bmp", "0001.png", "0002.bmp"] and data.validation == []
    assert [(s.kind, s.label, Path(s.path).name) for s in test] == [
        ("ko", 1, "0000.bmp"), ("ko", 1, "0001.png"), ("good", 0, "0007.bmp"),
    ]
    assert [int(s.mask.sum()) for s in test if s.mask is not None] == [48, 48, 0]  # 1 is as defective as 255
    assert [[(r.kind, r.saturation) for r in s.regions] for s in test] == [[("ko", 48)], [("ko", 48)], []]
    assert not any(s.logical for s in test)
    assert float(test[2].image.max()) == pytest.approx(7 / 255)


def test_a_mask_is_missing_or_there_twice(btad: Path) -> None:
    twice = save(btad / "01/ground_truth/ko/0000.bmp", 255, (6, 8))
    with pytest.raises(DatasetError, match=r"ko/0000\.bmp: has 0000\.bmp, 0000\.png, expected one mask .*ko/0000\.png"):
        BTAD(btad, "01")
    twice.unlink()
    (btad / "01/ground_truth/ko/0001.bmp").unlink()
    with pytest.raises(DatasetError, match=r"ko/0001\.png: has no mask, expected one mask"):
        BTAD(btad, "01")


def test_wrong_folders_say_what_is_there(btad: Path) -> None:
    with pytest.raises(DatasetError, match="no category '02'.*found categories 01"):
        BTAD(btad, "02")
    with pytest.raises(DatasetError, match=r"use BTAD\(.*btad', '01'\)"):
        BTAD(btad / "01", "01")
    (btad / "01/test/ko").rename(btad / "01/test/bad")
    with pytest.raises(DatasetError, match=r"no folder test/ko, expected the layout that BTAD reads"):
        BTAD(btad, "01")
