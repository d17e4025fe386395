"""An ONNX file of a detector: the same scores, maps and p-values for any size and batch, or no file."""

from __future__ import annotations

import csv
import json
import logging
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.detector import Detector
from adlib.samples import as_samples

pytest.importorskip("onnxscript", reason="needs pip install 'adlib[export]'")
ort = pytest.importorskip("onnxruntime", reason="needs pip install 'adlib[export]'")
onnx = pytest.importorskip("onnx", reason="needs pip install 'adlib[export]'")

from adlib import export  # noqa: E402
from adlib.export import export_onnx  # noqa: E402

logging.getLogger("torch.__trace").propagate = False  # thousands of records, which pytest would keep
PROGRAM = Path(__file__).parents[2] / "recipes" / "inspect_onnx.py"
SIZES = [(1, 72, 80), (2, 145, 161), (3, 64, 64), (1, 64, 79), (1, 300, 290)]  # batch, height, width


class Small(nn.Module):
    """A backbone of two layers, so that an export takes little time; `odd` has a step that depends on values."""

    def __init__(self, odd: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.odd, self.fine, self.coarse = odd, nn.Conv2d(3, 8, 7, 4, 3), nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x).relu()
        if self.odd and float(x.mean()) > 0:
            fine = fine * 2
        return {"fine": fine, "coarse": self.coarse(fine)}


OWN: dict[str, Any] = {"layers": ["fine", "coarse"], "device": "cpu"}


def picture(seed: int, height: int = 72, width: int = 80, most: int = 255) -> np.ndarray:
    """A smooth, coloured picture (H, W, 3) that looks like the others, and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    wave = np.sin(9 * x / width)[..., None] * [0.2, 0.1, 0.05] + np.cos(7 * y / height)[..., None] * [0.05, 0.1, 0.2]
    values = (0.5 + wave + rng.uniform(-0.15, 0.15, (height, width, 3))).clip(0, 1) * most
    return values.astype(np.uint8 if most == 255 else np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for seed in range(20):
        Image.fromarray(picture(seed)).save(folder / f"part{seed:02d}.png")
    return folder


@pytest.fixture(scope="module")
def bank(folder: Path) -> PatchCore:
    return PatchCore(image_size=64, device="cpu", coreset_ratio=0.05).fit(folder, validation=0.5, alpha=0.1)


@pytest.fixture(scope="module")
def written(bank: PatchCore, folder: Path) -> Path:
    path = folder.parent / "bank.onnx"
    export_onnx(bank, path, check=sorted(folder.iterdir())[:3])
    return path


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    return export._run(ort.InferenceSession(path), images)


def about(path: Path) -> dict[str, Any]:
    return json.loads(ort.InferenceSession(path).get_modelmeta().custom_metadata_map["adlib"])


def must_agree(detector: Detector, path: Path, most: int = 255, product: str | None = None) -> None:
    """The file and the detector on pictures of all SIZES; the p-values are those of the file's own scores."""
    for batch, height, width in SIZES:
        images = np.stack([picture(100 + seed, height, width, most) for seed in range(batch)])
        images[0, 20:40, 20:40] = most  # a defect
        ours = detector.predict(list(images), color="rgb", product=None if product is None else [product] * batch)
        found = run(path, images)
        scale = np.abs(ours.scores).max()
        assert np.abs(found["scores"] - ours.scores).max() < 1e-4 * scale
        assert found["maps"].shape == (batch, height, width)
        assert np.abs(found["maps"] - np.stack(list(ours.maps))).max() < 1e-4 * scale
        assert np.allclose(found["p_values"], ours.p_values, atol=1e-6)


def test_patchcore(bank: PatchCore, written: Path) -> None:
    must_agree(bank, written)
    found = about(written)
    assert found["checked"]["images"] == 3 and found["checked"]["scores"] < 1e-5
    assert found["thresholds"]["0.1"] == bank.threshold(0.1)
    assert found["pixel_thresholds"]["0.1"] == bank.pixel_threshold(0.1)
    assert "0.05" not in found["thresholds"]  # ten parts cannot promise it
    state = sum(t.numel() * t.element_size() for t in bank.state_dict().values())
    assert written.stat().st_size < 1.1 * state + 100_000  # the bank is there once


def test_folds_and_stride(folder: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="folds"):
        detector = PatchCore(Small(), **OWN, image_size=64, stride=2, squared=True, coreset_ratio=0.1).fit(
            as_samples(folder, product=lambda path: "ab"[int(path.stem[4:]) % 2]), folds=2, alpha=0.1)  # fmt: skip
    with pytest.raises(ValueError, match="'a', 'b'"):
        export_onnx(detector, tmp_path / "x.onnx", check=folder)
    export_onnx(detector, tmp_path / "x.onnx", check=[picture(50), picture(51, 64, 64)], product="b")
    must_agree(detector, tmp_path / "x.onnx", product="b")
    assert about(tmp_path / "x.onnx")["thresholds"]["0.1"] == detector.threshold(0.1)["b"]


def test_simplenet_of_a_12_bit_camera_cut(tmp_path: Path) -> None:
    good = [picture(seed, most=4095) for seed in range(12)]
    detector = SimpleNet(Small(), **OWN, image_size=(48, 64), resize=65, epochs=1, hidden=8).fit(
        good, validation=0.5, alpha=0.2, max_value=4095)  # fmt: skip
    found = export_onnx(detector, tmp_path / "x.onnx", check=good[:2])
    assert (found["type"], found["max_value"]) == ("uint16", 4095) and found["least_maximum"] > 0
    must_agree(detector, tmp_path / "x.onnx", most=4095)


def test_efficientad(folder: Path, tmp_path: Path) -> None:
    detector = EfficientAD(image_size=64, steps=2, device="cpu", autoencoder_width=0.25).fit(
        folder, validation=0.5, alpha=0.1)  # fmt: skip
    export_onnx(detector, tmp_path / "x.onnx", check=[picture(50)])
    must_agree(detector, tmp_path / "x.onnx")


# ---------------------------------------------------------------------- a region, and tiles

CORNER = [(5, 0), (60, 0), (60, 40), (33, 55), (5, 40)]  # of the training pictures, 72 × 80


def must_agree_with_the_map(detector: Detector, path: Path, images: np.ndarray) -> None:
    ours, found = detector.predict(list(images), color="rgb"), run(path, images)
    scale = np.abs(ours.scores).max()
    assert np.abs(found["scores"] - ours.scores).max() < 1e-4 * scale
    outside = ~detector.reading.region.at(images.shape[1:3]).numpy()  # pyrefly: ignore
    for one, other in zip(found["maps"], ours.maps, strict=True):
        assert np.abs(one - other).max() < 1e-4 * scale
        assert np.ptp(one[outside]) == np.ptp(other[outside]) == 0  # the least value of all


def test_a_region(folder: Path, tmp_path: Path) -> None:
    detector = PatchCore(Small(), **OWN, neighbourhood=1, stride=2, coreset_ratio=0.2, image_size=(48, 56), resize=64)
    detector.fit(folder, validation=0.5, alpha=0.1, region=CORNER)
    found = export_onnx(detector, tmp_path / "x.onnx", check=folder)
    assert found["frame"] == [72, 80] and found["own_size"] is None
    for size in ((72, 80), (145, 161), (54, 60), (107, 119), (216, 240)):  # up to half a pixel, the frame's aspect
        images = np.stack([picture(100 + seed, *size) for seed in range(2)])
        images[0, 5:15, 10:20] = 255
        must_agree_with_the_map(detector, tmp_path / "x.onnx", images)
    before = run(tmp_path / "x.onnx", images)
    outside = ~detector.reading.region.at((216, 240)).numpy()  # pyrefly: ignore
    other = run(tmp_path / "x.onnx", np.where(outside[..., None], picture(300, 216, 240), images))
    assert all((before[name] == other[name]).all() for name in before)  # what lies outside has no influence
    must_refuse(detector, tmp_path, [picture(1), picture(1, 72, 96), picture(1, 72, 82)], 1, "the region's frame")


def test_tiles_and_a_region(tmp_path: Path) -> None:
    good = [picture(seed, 85, 150) for seed in range(4)]
    detector = PatchCore(Small(), **OWN, tiles=32, coreset_ratio=0.1).fit(
        good, validation=0.5, alpha=0.5, region=[(60, 10), (140, 10), (140, 85), (60, 85)])  # fmt: skip
    assert detector.image_size == (88, 152)  # continued at the right and below
    with pytest.warns(UserWarning, match="tiles=32, but the file looks at all 88 × 152 pixels at once"):
        found = export_onnx(detector, tmp_path / "x.onnx", check=good)
    assert (found["own_size"], found["frame"]) == ([85, 150], [85, 150])
    for count in (1, 2):
        must_agree_with_the_map(detector, tmp_path / "x.onnx",
                                np.stack([picture(100 + i, 85, 150) for i in range(count)]))  # fmt: skip
    for size in ((170, 300), (88, 152)):
        with pytest.raises(Exception, match="(?s)Got: .* Expected: 85"):
            run(tmp_path / "x.onnx", picture(1, *size)[None])
    must_refuse(detector, tmp_path, [good[0], picture(1, 170, 300), picture(1, 88, 150)], 1, "85, 150")


def must_refuse(detector: Detector, folder: Path, images: list[np.ndarray], good: int, why: str) -> None:
    """Pictures of other shapes get no answer: not of predict, nor of the program beside the file."""
    new = folder / "new"
    new.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(new / f"{i}.png")
    ours = detector.predict(new)
    done = subprocess.run([sys.executable, PROGRAM, folder / "x.onnx", new, "0.5"], check=True, capture_output=True,
                          text=True)  # fmt: skip
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["image"] for row in rows if row["score"]] == [s.path for s in ours.samples] and len(ours.scores) == good
    assert all("not inspected" in row["answer"] and why in row["answer"] for row in rows if not row["score"])


def test_a_program_without_torch(bank: PatchCore, written: Path, folder: Path, tmp_path: Path) -> None:
    new, stub = tmp_path / "new", tmp_path / "stub"
    new.mkdir()
    (stub / "torch").mkdir(parents=True)
    (stub / "torch" / "__init__.py").write_text("raise ImportError('there is no torch here')")
    Image.fromarray(picture(200)).save(new / "a.png")
    Image.fromarray(picture(201)[..., 0]).save(new / "grey.png")
    marked = picture(202)
    marked[20:40, 20:40] = 255
    Image.fromarray(marked, "RGB").convert("RGBA").save(new / "marked.png")
    Image.fromarray(picture(203, 80, 160)).save(new / "wide.png")
    Image.fromarray(picture(204, 30, 33)).save(new / "small.png")
    Image.fromarray(picture(205, most=4095)[..., 0]).save(new / "deep.png")
    (new / "broken.png").write_bytes(b"no picture")
    done = subprocess.run([sys.executable, PROGRAM, written, new, "0.1"], check=True, capture_output=True, text=True,
                          env={"PYTHONPATH": str(stub), "PATH": ""})  # fmt: skip
    rows = {Path(row["image"]).name: row for row in csv.DictReader(done.stdout.splitlines())}
    ours = bank.predict(new)
    assert len(ours.scores) == 3 and len(rows) == 7
    for sample, score, p_value in zip(ours.samples, ours.scores, ours.p_values, strict=True):
        row = rows[Path(sample.path).name]
        assert float(row["score"]) == pytest.approx(score, rel=1e-4)
        assert float(row["p_value"]) == pytest.approx(p_value, abs=1e-6)
        assert row["answer"] == ("defective" if p_value <= 0.1 else "good")
    assert rows["marked.png"]["answer"] == "defective"
    for name in map(lambda path: Path(path).name, ours.failures):
        assert rows[name]["answer"].startswith("not inspected")
    few = subprocess.run([sys.executable, PROGRAM, written, new, "0.05"], capture_output=True, text=True)
    assert few.returncode == 2 and "alpha = 0.05: expected a share from 0.0909" in few.stderr


@pytest.mark.parametrize(("words", "said"), [
    (["--help"], "may be called defective"), ([], "usage: inspect_onnx.py [-h] file folder alpha"),
    (["{written}", "{folder}"], "required: alpha"), (["{written}", "{folder}", "5%"], "invalid float value: '5%'"),
    (["{written}", "{folder}", "5"], "to below 1"), (["{written}", "none", "0.1"], "none: no such folder"),
    (["none.onnx", "{folder}", "0.1"], "none.onnx: no such file"),
    ([str(PROGRAM), "{folder}", "0.1"], "is no file that adlib export wrote"),
])  # fmt: skip
def test_the_program_says_how_it_is_used(
    words: list[str], said: str, written: Path, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["inspect_onnx.py", *(w.format(written=written, folder=folder) for w in words)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(PROGRAM), run_name="__main__")
    shown = capsys.readouterr()
    assert said in shown.out + shown.err and end.value.code == (0 if words == ["--help"] else 2)
    assert words == ["--help"] or shown.out == ""


# ---------------------------------------------------------------------- what is refused


def test_nothing_is_written_where_the_two_disagree(
    bank: PatchCore, written: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = onnx.load(written), tmp_path / "x.onnx"
    model.metadata_props.clear()
    maximum = next(entry for entry in model.graph.initializer if entry.name == "maximum")
    maximum.CopyFrom(onnx.numpy_helper.from_array(np.float32(256), "maximum"))  # not 255: hardly to be seen
    monkeypatch.setattr(export, "make_graph", lambda *_: model)
    path.write_text("an older file")
    with pytest.raises(ValueError, match="differ by up to .* tolerance = 0.0001; nothing was written"):
        export_onnx(bank, path, check=folder)
    assert path.read_text() == "an older file" and list(tmp_path.iterdir()) == [path]


def test_bad_input(bank: PatchCore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, path = tmp_path / "broken.png", tmp_path / "x.onnx"
    broken.write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match="is not fitted"):
        export_onnx(PatchCore(device="cpu"), path, check=folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        export_onnx(bank, tmp_path / "none" / "x.onnx", check=folder)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        export_onnx(bank, tmp_path, check=folder)
    with pytest.raises(ValueError, match="tolerance"):
        export_onnx(bank, path, check=folder, tolerance=0.0)
    with pytest.raises(ValueError, match="product = 'a': the detector knows none"):
        export_onnx(bank, path, check=folder, product="a")
    monkeypatch.setattr(export, "LARGEST", 1000)
    with pytest.raises(ValueError, match="at most 2 GB"):
        export_onnx(bank, path, check=folder)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'needs onnxscript.*adlib\[export\]'):
        export_onnx(bank, path, check=folder)
    assert not path.exists()


def test_pictures_that_cannot_be_checked(
    bank: PatchCore, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    monkeypatch.setattr(export, "make_graph", lambda *_: onnx.load(written))
    with pytest.raises(ValueError, match="none of its 1 images could be used.*broken.png"):
        export_onnx(bank, tmp_path / "x.onnx", check=[tmp_path / "broken.png"])


def test_two_types_of_images(tmp_path: Path) -> None:
    both = [picture(0), picture(1), picture(2), (picture(3) * np.uint16(257)).astype(np.uint16)]
    detector = PatchCore(image_size=32, device="cpu").fit(both)
    with pytest.raises(ValueError, match="uint16, uint8 images: a graph takes one type"):
        export_onnx(detector, tmp_path / "x.onnx", check=both)


def test_a_backbone_that_onnx_does_not_know(tmp_path: Path) -> None:
    detector = PatchCore(Small(odd=True), **OWN, image_size=32).fit([picture(0), picture(1)])
    with pytest.raises(ValueError, match="PatchCore cannot be written as ONNX"):
        export_onnx(detector, tmp_path / "x.onnx", check=[picture(2)])
    assert not list(tmp_path.iterdir())
