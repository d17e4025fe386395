"""The report: everything is in one file, nothing runs in it, and what is missing is said."""

from __future__ import annotations

import base64
import html
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlib import PatchCore, Prediction
from adlib.datasets import as_samples
from adlib.report import histogram, one_threshold, outlined, percent, promise, write_report

HOSTILE = ("<script>alert(1)<|script>.png", '" onerror="alert(1).png', "{{ 7 * 7 }}.png", "a\nb.png", "零件.png")


def picture(number: int, *, defect: bool = False) -> np.ndarray:
    rng = np.random.default_rng(number)
    values = np.add.outer(np.arange(64.0), np.arange(96.0)) + rng.normal(0, 4, (64, 96))
    if defect:
        values[4:14, 4:14] = 250
    return values.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector() -> PatchCore:
    images = [picture(i) for i in range(40)]
    return PatchCore(image_size=(64, 96), device="cpu").fit(images[20:], validation=images[:20])


@pytest.fixture(scope="module")
def prediction(detector: PatchCore, tmp_path_factory: pytest.TempPathFactory) -> Prediction:
    folder = tmp_path_factory.mktemp("new")
    for i, name in enumerate(HOSTILE):
        Image.fromarray(picture(100 + i, defect=i == 0)).save(folder / name)
    (folder / "<b>broken.png").write_bytes(b"none")
    (folder / "notes & more.txt").write_text("none")
    with pytest.warns(UserWarning, match="notes"):
        return detector.predict(folder)


def written(detector: PatchCore, prediction: Prediction, path: Path, **options: object) -> str:
    write_report(path, detector, prediction, **options)
    return path.read_text(encoding="utf-8")


def test_every_picture_is_there_and_no_name_becomes_markup(
    detector: PatchCore, prediction: Prediction, tmp_path: Path
) -> None:
    text = written(detector, prediction, tmp_path / "r.html", title="<i>Line 7</i>")
    for name in HOSTILE:
        assert html.escape(name).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text
    assert "<script" not in text and "<b>broken" not in text and "<i>" not in text and 'onerror="' not in text
    assert "49.png" not in text  # no name is a template
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?!data:)\w", text)  # nothing is fetched
    assert "default-src 'none'" in text
    assert text.count('<span class="bad">defective') == 1 and "notes &amp; more.txt" in text
    assert "Not inspected: 1" in text and "&lt;b&gt;broken.png: is not an image" in text
    assert text.index("script") < text.index("零件.png")  # worst first
    assert f"<dd>{detector.threshold(0.05):.6g}</dd>" in text and "adlib 0." in text


def test_the_worst_picture_is_outlined_where_it_is_odd(
    detector: PatchCore, prediction: Prediction, tmp_path: Path
) -> None:
    text = written(detector, prediction, tmp_path / "r.html")
    drawn = base64.b64decode(re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)[0])
    pixels = np.asarray(Image.open(io.BytesIO(drawn))).astype(int)
    orange = pixels[..., 0] - pixels[..., 2] > 60
    assert pixels.shape == (64, 96, 3) and orange[:48, :48].any() and not orange[:, 72:].any()


def test_a_picture_looked_at_in_tiles_is_drawn_whole(tmp_path: Path) -> None:
    images = [picture(i).repeat(6, 0).repeat(6, 1) for i in range(3)]  # larger than a picture in the report
    tiled = PatchCore(tiles=192, layers=("layer1",), neighbourhood=1, stride=8, device="cpu")
    tiled.fit(images[1:], validation=0.5, alpha=0.5)
    text = written(tiled, tiled.predict(images[:1]), tmp_path / "r.html", alpha=0.5)
    drawn = base64.b64decode(re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)[0])
    pixels = np.asarray(Image.open(io.BytesIO(drawn)))
    assert pixels.shape == (240, 360, 3)
    bottom_right, expected = pixels[200:, 320:, 1].mean(), images[0][320:, 512:].mean()
    assert abs(float(bottom_right) - float(expected)) < 12  # its own end, and not its middle


def test_what_is_not_drawn_is_counted(detector: PatchCore, prediction: Prediction, tmp_path: Path) -> None:
    text = written(detector, prediction, tmp_path / "r.html", most=2)
    assert "The 2 pictures with the highest" in text and "3 are not, but stand in the table" in text
    assert text.count("<img") == 2 + 6  # and those held out
    assert "nothing drawn" not in text and all(f"part{i}" not in text for i in range(3))


def test_a_detector_from_a_file_has_names_and_no_held_out_pictures(
    detector: PatchCore, prediction: Prediction, tmp_path: Path
) -> None:
    detector.save(tmp_path / "d.safetensors")
    text = written(PatchCore.load(tmp_path / "d.safetensors", device="cpu"), prediction, tmp_path / "r.html")
    assert "not their pictures" in text and detector.normal_parts[-1][0] in text
    assert "not their pictures" not in written(detector, prediction, tmp_path / "s.html")


def test_a_picture_that_is_gone_is_said_so_and_parts_are_counted(detector: PatchCore, tmp_path: Path) -> None:
    paths = [tmp_path / f"part{i // 2}_{i % 2}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.fromarray(picture(200 + i, defect=i == 3)).save(path)
    prediction = detector.predict(as_samples(paths, group=r"(part\d)"))
    paths[0].unlink()
    text = written(detector, prediction, tmp_path / "r.html")
    assert text.count("can no longer be read") == 1
    assert "The pictures show 2 parts" in text and "1, part1." in " ".join(text.split())


def test_nothing_is_written_where_it_cannot_be_whole(
    detector: PatchCore, prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.html").write_text("old")
    with pytest.raises(ValueError, match="expected at least 99"):
        write_report(tmp_path / "r.html", detector, prediction, alpha=0.01)
    with pytest.raises(FileNotFoundError, match="make it first"):
        write_report(tmp_path / "no" / "r.html", detector, prediction)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        write_report(tmp_path / "r.html", detector, prediction)
    assert [f.name for f in tmp_path.iterdir()] == ["r.html"] and (tmp_path / "r.html").read_text() == "old"
    with pytest.raises(ValueError, match="expected a detector of one product"):
        one_threshold({"a": 1.0, "b": 2.0})


def test_failures_alone_make_a_report_too(detector: PatchCore, prediction: Prediction, tmp_path: Path) -> None:
    empty = replace(prediction, scores=np.empty(0, np.float32), samples=[], p_values=np.empty(0))
    assert "Not inspected: 1" in written(detector, empty, tmp_path / "r.html")


def test_the_outline_goes_around_the_place_and_is_closed_at_the_edge() -> None:
    grey, plane = torch.full((3, 200, 200), 0.5), np.zeros((400, 400))
    plane[201, 300] = 2.0  # a single pixel of the large map is not lost
    image, count = outlined(grey, plane, 1.0)
    changed = (np.asarray(image) != 128).any(2)
    rows, columns = np.nonzero(changed)
    assert count == 1 and (rows.min(), rows.max()) == (97, 103) and (columns.min(), columns.max()) == (147, 153)
    assert not changed[100, 150]  # the place itself stays as it is
    everywhere = np.asarray(outlined(grey, plane + 5, 1.0)[0])
    assert (everywhere[0] == (255, 80, 0)).all() and (everywhere[1:-1, 1:-1] == 128).all()


def test_the_histogram_counts_every_score_on_its_side_of_the_threshold() -> None:
    held, new = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 4.0, 4.0000001, 9.0])
    chart = histogram(held, new, 4.0)
    for row, values in zip(chart["rows"], (held, new), strict=True):
        counts = [bar["height"] * row["most"] / 100 for bar in row["bars"]]
        above = sum(c for c, bar in zip(counts, row["bars"], strict=True) if bar["above"])
        assert sum(counts) == pytest.approx(len(values)) and above == pytest.approx((values > 4).sum())
        assert all((bar["x"] >= chart["threshold"] - 1e-9) == bar["above"] for bar in row["bars"])
    assert all(0 < tick["x"] < 100 for tick in chart["ticks"]) and len(chart["ticks"]) >= 2
    histogram(np.ones(3), np.ones(2), 1.0)  # one value alone


def test_a_promise_in_words(detector: PatchCore) -> None:
    assert promise(detector, 0.05) == ("20 held-out good parts promise: of new good parts, on average at most 5 % are "
                                       "called defective")
    assert percent(1 / 16) == "6.25 %"
