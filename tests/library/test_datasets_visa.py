"""VisA: a small tree in the official layout, with its split files and masks of small values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adlib import PatchCore
from adlib.datasets import VisA, open_dataset
from adlib.images import ImageError
from adlib.samples import DatasetError

HEADER = "object,split,label,image,mask\n"
ONE_CLASS = HEADER + """candle,train,normal,candle/Data/Images/Normal/0852.JPG,
candle,train,normal,candle/Data/Images/Normal/0036.JPG,
candle,test,normal,candle/Data/Images/Normal/0510.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/053.JPG,candle/Data/Masks/Anomaly/053.png
pcb1,train,normal,pcb1/Data/Images/Normal/0001.JPG,
"""
TWO_CLASS = HEADER + """candle,train,normal,candle/Data/Images/Normal/0852.JPG,
candle,train,anomaly,candle/Data/Images/Anomaly/053.JPG,candle/Data/Masks/Anomaly/053.png
candle,test,normal,candle/Data/Images/Normal/0510.JPG,
"""


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    root = tmp_path / "VisA"
    images = root / "candle/Data/Images"
    for name in ("Normal/0852.JPG", "Normal/0036.JPG", "Normal/0510.JPG", "Anomaly/053.JPG"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(images / name, format="JPEG")
    mask = np.zeros((60, 80), np.uint8)
    mask[10:20, 5:15], mask[40:44, 50:70] = 1, 9
    (root / "candle/Data/Masks/Anomaly").mkdir(parents=True)
    Image.fromarray(mask).save(root / "candle/Data/Masks/Anomaly/053.png")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text(ONE_CLASS)
    (root / "split_csv/2cls_highshot.csv").write_text(TWO_CLASS)
    return root


def test_one_class(visa: Path) -> None:
    train, test = VisA(visa, "candle").split()
    assert [Path(s.path).name for s in train] == ["0852.JPG", "0036.JPG"]  # the order of the file
    assert [(s.kind, s.label) for s in test] == [("good", 0), ("anomaly", 1)]
    assert train[0].image.shape == (3, 60, 80) and VisA(visa, "candle").validation == []
    assert not any(s.logical for s in test)


def test_masks_that_look_black_are_read_right(visa: Path) -> None:
    defective = VisA(visa, "candle").test[1]
    assert int(defective.mask.sum()) == 100 + 80
    assert [(r.kind, r.saturation) for r in defective.regions] == [("1", 100), ("9", 80)]
    assert (defective.regions[0].mask | defective.regions[1].mask).equal(defective.mask)
    assert int(VisA(visa, "candle").test[0].mask.sum()) == 0


def test_two_classes_train_on_anomalies_which_fit_refuses(visa: Path) -> None:
    train, _ = VisA(visa, "candle", protocol="2cls_highshot").split()
    assert [s.label for s in train] == [0, 1]
    with pytest.raises(ValueError, match="053"):
        PatchCore(image_size=64).fit(train)


def test_open_dataset(visa: Path) -> None:
    assert len(open_dataset("visa", visa, "candle").train) == 2


def test_what_is_missing_is_named(visa: Path) -> None:
    with pytest.raises(DatasetError, match="protocol = '3cls': expected one of 1cls, 2cls_highshot, 2cls_fewshot"):
        VisA(visa, "candle", protocol="3cls")
    with pytest.raises(DatasetError, match=r"2cls_fewshot\.csv: does not exist, .*split_csv/"):
        VisA(visa, "candle", protocol="2cls_fewshot")
    with pytest.raises(DatasetError, match=r"1cls\.csv: has no object 'candel', expected one of candle, pcb1"):
        VisA(visa, "candel")
    with pytest.raises(DatasetError, match=r"pcb1: does not exist, expected the folder with the images"):
        VisA(visa, "pcb1")
    (visa / "candle/Data/Images/Normal/0852.JPG").unlink()
    with pytest.raises(ImageError, match=r"0852\.JPG"):
        _ = VisA(visa, "candle").train[0].image


@pytest.mark.parametrize(("text", "message"), [
    ("", "has the columns , expected object, split"),
    ("object;split\n", "has the columns object;split, expected object, split, label, image, mask"),
    (HEADER + "candle,trian,normal,a.JPG,\n", r"1cls\.csv, line 2: found candle, trian"),
    (HEADER + "candle,test,anomaly,a.JPG,\n", "line 2: found candle, test, anomaly, a.JPG, , expected .* a mask"),
    (HEADER + "candle,test\n", "line 2: found candle, test, None"),
])
def test_a_broken_split_file(visa: Path, text: str, message: str) -> None:
    (visa / "split_csv/1cls.csv").write_text(text)
    with pytest.raises(DatasetError, match=message):
        VisA(visa, "candle")


@pytest.mark.parametrize("path", ["../x.JPG", "candle/../../x.JPG", "/etc/x.JPG", "C:/x.JPG", "..\\x.JPG"])
@pytest.mark.parametrize("row", ["candle,test,normal,{},\n", "candle,test,anomaly,a.JPG,{}\n"])
def test_paths_that_lead_out_are_refused_by_name(visa: Path, path: str, row: str) -> None:
    (visa / "split_csv/1cls.csv").write_text(HEADER + row.format(path))
    with pytest.raises(DatasetError, match=r"1cls\.csv, line 2: the path '.*' leads out of the data set"):
        VisA(visa, "candle")


def test_encodings(visa: Path) -> None:
    file = visa / "split_csv/1cls.csv"
    file.write_text(ONE_CLASS, encoding="utf-8-sig")
    assert len(VisA(visa, "candle").train) == 2
    for content in (ONE_CLASS.encode("utf-16"), HEADER.encode() + b"k\xe4se,train,normal,a.JPG,\n"):
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=r"1cls\.csv: cannot be read as text in UTF-8"):
            VisA(visa, "candle")
    file.write_text(HEADER + "candle,train,normal," + "x" * 200_000 + ",\n")
    with pytest.raises(DatasetError, match=r"1cls\.csv, after line 1: is no CSV \(field larger"):
        VisA(visa, "candle")


def test_lossy_masks_are_refused_by_name(visa: Path) -> None:
    """Their numbers are not those that were saved, so neither mask nor regions can be right."""
    mask = visa / "candle/Data/Masks/Anomaly/053.png"
    with Image.open(mask) as picture:
        picture.save(mask.with_suffix(".jpg"), quality=95)
    mask.unlink()
    (visa / "split_csv/1cls.csv").write_text(ONE_CLASS.replace("053.png", "053.jpg"))
    sample = VisA(visa, "candle").test[1]
    for what in ("mask", "regions"):
        with pytest.raises(ImageError, match=r"053\.jpg: is a lossy file \(JPEG\)"):
            getattr(sample, what)
