"""MVTec LOCO: a small tree in the official layout, what its masks and its config say, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlib.datasets.loco import MVTecLOCO
from adlib.images import ImageError
from adlib.samples import DatasetError, in_memory

SIZE = (6, 8)
CONFIG = [
    {"defect_name": "missing_pin", "pixel_value": 255, "saturation_threshold": 5, "relative_saturation": False},
    {"defect_name": "two_pins", "pixel_value": 254, "saturation_threshold": 100, "relative_saturation": False},
    {"defect_name": "broken", "pixel_value": 1, "saturation_threshold": 1.0, "relative_saturation": True},
    {"defect_name": "bent", "pixel_value": 236, "saturation_threshold": 0.3, "relative_saturation": True},
]
# Image -> masks; mask -> (grey value, rows, columns of its pixels)
MASKS: dict[str, list[tuple[int, slice, slice]]] = {
    "logical_anomalies/000": [(255, slice(0, 3), slice(0, 4)), (254, slice(2, 4), slice(0, 4))],
    "logical_anomalies/001": [(255, slice(0, 6), slice(0, 8))],
    "structural_anomalies/000": [(1, slice(1, 2), slice(1, 4)), (236, slice(4, 6), slice(1, 6))],
}


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def draw(value: int, rows: slice, columns: slice, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[rows, columns] = value
    return mask


@pytest.fixture
def loco(tmp_path: Path) -> Path:
    folder = tmp_path / "loco/pushpins"
    image = np.full((*SIZE, 3), 90, np.uint8)
    for name in ("train/good/000", "train/good/001", "validation/good/000", "test/good/000"):
        save(folder / f"{name}.png", image)
    for name, masks in MASKS.items():
        save(folder / f"test/{name}.png", image)
        for i, mask in enumerate(masks):
            save(folder / f"ground_truth/{name}/{i:03d}.png", draw(*mask))
    (folder / "defects_config.json").write_text(json.dumps(CONFIG))
    for name in ("license.txt", "readme.txt"):
        (folder / name).write_text("no image")
    return folder


def open_loco(folder: Path) -> MVTecLOCO:
    return MVTecLOCO(folder.parent, folder.name)


def test_layout(loco: Path) -> None:
    data = open_loco(loco)
    train, test = data.split()
    assert [Path(s.path).name for s in train] == ["000.png", "001.png"]
    assert [Path(s.path).parts[-3:] for s in data.validation] == [("validation", "good", "000.png")]
    assert [(s.kind, s.label, s.logical) for s in test] == [
        ("good", 0, False), ("logical_anomalies", 1, True), ("logical_anomalies", 1, True),
        ("structural_anomalies", 1, False),
    ]
    assert test[0].mask is not None and not test[0].mask.any() and test[0].regions == ()
    assert {value: d.name for value, d in data.defects.items()} == {
        255: "missing_pin", 254: "two_pins", 1: "broken", 236: "bent",
    }


def test_mask_is_the_union_whatever_the_grey_value(loco: Path) -> None:
    for sample in open_loco(loco).test[1:]:
        expected = np.zeros(SIZE, bool)
        for _, rows, columns in MASKS[f"{sample.kind}/{Path(sample.path).stem}"]:
            expected[rows, columns] = True
        assert sample.mask is not None and sample.mask.dtype == torch.bool
        assert np.array_equal(sample.mask.numpy(), expected)


def test_regions_have_name_and_saturation_of_their_grey_value(loco: Path) -> None:
    _, overlapping, whole, structural = open_loco(loco).test
    # Absolute: 5 of 12 pixels; 100 is more than the 8 pixels that there are. The two share a row, and keep it.
    assert [(r.kind, int(r.mask.sum()), r.saturation) for r in overlapping.regions] == [
        ("missing_pin", 12, 5), ("two_pins", 8, 8),
    ]
    assert overlapping.mask is not None and overlapping.mask.sum() == 16
    assert [(r.kind, int(r.mask.sum()), r.saturation) for r in whole.regions] == [("missing_pin", 48, 5)]
    # Relative: all of 3, and 0.3 of 10.
    assert [(r.kind, int(r.mask.sum()), r.saturation) for r in structural.regions] == [
        ("broken", 3, 3), ("bent", 10, 3),
    ]


@pytest.mark.parametrize(("area", "saturation"), [(1, 1), (3, 1), (4, 1), (7, 2), (10, 3), (13, 3)])
def test_relative_saturation_rounds_down_but_not_to_zero(loco: Path, area: int, saturation: int) -> None:
    assert open_loco(loco).defects[236].saturation(area) == saturation


def test_samples_can_be_kept_in_memory(loco: Path) -> None:
    data = open_loco(loco)
    for kept, sample in zip(in_memory(data.test), data.test, strict=True):
        assert kept.mask is not None and sample.mask is not None and torch.equal(kept.mask, sample.mask)
        assert kept.logical == sample.logical
        assert [r.saturation for r in kept.regions] == [r.saturation for r in sample.regions]


def test_wrong_masks_are_named(loco: Path) -> None:
    file = loco / "ground_truth/logical_anomalies/000/001.png"
    sample = open_loco(loco).test[1]
    save(file, draw(7, slice(0, 1), slice(0, 1)))
    with pytest.raises(DatasetError, match=r"001\.png: has the grey value 7, .*defects_config\.json names \(255, 254"):
        _ = sample.regions
    assert sample.mask is not None  # needs no config
    save(file, draw(254, slice(0, 3), slice(0, 3)) + draw(1, slice(4, 5), slice(0, 3)))
    with pytest.raises(ImageError, match=r"001\.png: has the grey values 1, 254, expected 0 and one"):
        _ = sample.regions
    save(file, np.zeros(SIZE, np.uint8))
    with pytest.raises(ImageError, match=r"001\.png: has no pixel above 0"):
        _ = sample.regions
    save(file, np.stack([draw(v, slice(0, 3), slice(0, 3)) for v in (254, 254, 0)], 2))
    with pytest.raises(ImageError, match=r"001\.png: has colours"):
        _ = sample.regions
    save(file, draw(254, slice(0, 1), slice(0, 1), (5, 8)))
    for what in ("mask", "regions"):
        with pytest.raises(ImageError, match=r"001\.png: the mask is 5 × 8 .*expected 6 × 8 as .*000\.png has"):
            getattr(sample, what)


def test_missing_parts_are_named(loco: Path) -> None:
    mask = loco / "ground_truth/structural_anomalies/000"
    mask.rename(mask.with_name("other"))
    with pytest.raises(DatasetError, match=r"structural_anomalies/000\.png: is an anomalous image without masks"):
        open_loco(loco)
    mask.mkdir()
    with pytest.raises(DatasetError, match=r"structural_anomalies/000: holds no image"):
        open_loco(loco)
    (loco / "test/scratch").mkdir()
    with pytest.raises(DatasetError, match="test: holds good, logical_anomalies, scratch"):
        open_loco(loco)
    (loco / "validation").rename(loco / "val")
    with pytest.raises(DatasetError, match=r"no folder validation/good.*that MVTecLOCO reads"):
        open_loco(loco)
    with pytest.raises(DatasetError, match=r"use MVTecLOCO\(.*'pushpins'\)"):
        MVTecLOCO(loco, "pushpins")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixel_value": 254}, "4 entries with 3 grey values"),
        ({"pixel_value": 0}, "bent: pixel_value is 0"),
        ({"saturation_threshold": 1.5}, "bent: saturation_threshold is 1.5, not a share"),
        ({"saturation_threshold": 0.5, "relative_saturation": False}, "bent: saturation_threshold is 0.5, not a whole"),
        ({"relative_saturation": "yes"}, "bent: relative_saturation is 'yes'"),
    ],
)
def test_wrong_config_entries(loco: Path, change: dict[str, object], said: str) -> None:
    (loco / "defects_config.json").write_text(json.dumps([*CONFIG[:3], CONFIG[3] | change]))
    with pytest.raises(DatasetError, match=rf"defects_config\.json: .*{said}"):
        open_loco(loco)


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", "[3]", '[{"defect_name": "x", "pixel_value": 3}]', '{"a": 1}'])
def test_broken_config(loco: Path, text: str) -> None:
    (loco / "defects_config.json").write_text(text)
    with pytest.raises(DatasetError, match=r"defects_config\.json: (cannot be used|has 0 entries)"):
        open_loco(loco)
    (loco / "defects_config.json").unlink()
    with pytest.raises(DatasetError, match=r"defects_config\.json: does not exist"):
        open_loco(loco)


@pytest.mark.parametrize(("text", "said"), [
    ("[" * 100_000, "cannot be used .RecursionError"), ('{"a":' * 100_000, "cannot be used .RecursionError"),
    ("[" + " " * 2_000_000 + "]", "has 2,000,002 bytes"), ("[1" + "0" * 9_000 + "]", "cannot be used"),
    ('[{"defect_name": 3, "pixel_value": null}]', "cannot be used"),
])
def test_deep_and_huge_config(loco: Path, text: str, said: str) -> None:
    (loco / "defects_config.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"defects_config\.json: {said}"):
        open_loco(loco)
    (loco / "defects_config.json").write_bytes(b"\xff\xfe[")
    with pytest.raises(DatasetError, match=r"defects_config\.json: cannot be used"):
        open_loco(loco)


def test_without_good_test_images_it_is_refused(loco: Path) -> None:
    (loco / "test/good").rename(loco / "good")
    with pytest.raises(DatasetError, match="test: has no folder good.*found logical_anomalies, structural_anomalies"):
        open_loco(loco)


def test_lossy_masks_have_no_regions(loco: Path) -> None:
    file = loco / "ground_truth/logical_anomalies/001/000.png"
    Image.fromarray(draw(*MASKS["logical_anomalies/001"][0])).save(file.with_suffix(".jpg"))
    file.unlink()
    sample = open_loco(loco).test[2]
    assert sample.mask is not None and sample.mask.all()  # cut at half
    with pytest.raises(ImageError, match=r"000\.jpg: is a lossy file \(JPEG\), which does not keep exact values"):
        _ = sample.regions


def test_doubled_endings(loco: Path) -> None:
    file = loco / "test/logical_anomalies/001.png"
    file.rename(file.with_name("001.png.png"))
    assert sum(bool(s.mask.any()) for s in open_loco(loco).test if s.mask is not None) == 3
