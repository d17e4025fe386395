"""What went wrong without a word, and must not again: one test for each case, of its whole kind.

Other files test single functions to the bottom; here a case goes through the doors a user takes: fit, predict, save
and load, with files, lists, arrays, tensors and functions, and with each method.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from case_data import (
    METHODS,
    SIDE,
    Mean,
    close,
    counted,
    deep,
    detector,
    eight,
    good_folder,
    loaded,
    never_trained,
    picture,
    refused,
    rewritten,
    run_script,
    write,
)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from adlib import PatchCore, plots
from adlib.datasets import DatasetError, ImageFolder, MVTecAD, MVTecLOCO, Sample, VisA, as_samples, hold_out
from adlib.evaluation import evaluate
from adlib.images import ImageError, read_image, read_size
from adlib.threshold import conformal_threshold, defect_regions

# ---------------------------------------------------------------------- 12-bit camera files


def camera(folder: Path, *, first: int, good: int, bad: int = 0, suffix: str = ".png", top: int = 4095) -> Path:
    images = {f"a{i:02d}{suffix}": deep(picture(first + i), top) for i in range(good)}
    images |= {f"z{i:02d}{suffix}": deep(picture(first + 50 + i, defect=True), top) for i in range(bad)}
    return write(folder, images)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """Folders of 12-bit files: good ones to fit on; good and defective ones to judge."""
    root = tmp_path_factory.mktemp("twelve")
    return camera(root / "good", first=0, good=8), camera(root / "new", first=100, good=3, bad=3)


@pytest.fixture(scope="module", params=METHODS)
def fitted_twelve(request, twelve):
    return detector(request.param).fit(twelve[0], max_value=4095)


def right_scores(method, twelve, top=4095):
    """Of the same pictures as float arrays from 0 to 1: no maximum comes into it."""
    good, new = ([np.asarray(Image.open(f)).astype(np.float64) / top for f in sorted(d.iterdir())] for d in twelve)
    return detector(method).fit(good).predict(new).scores


@pytest.mark.parametrize("method", METHODS)
def test_12_bit_files_without_max_value_are_refused_before_the_training(twelve, method, monkeypatch):
    largest = max(int(np.asarray(Image.open(f)).max()) for f in twelve[0].iterdir())
    with pytest.raises(ValueError, match="max_value=4095") as error:
        never_trained(monkeypatch, detector(method)).fit(twelve[0])
    assert str(largest) in str(error.value)


@pytest.mark.parametrize(("suffix", "top"), [(".tif", 4095), (".png", 1023), (".png", 4095), (".png", 16383)])
def test_cameras_of_few_bits_are_noticed_in_every_form(tmp_path, suffix, top, monkeypatch):
    folder = camera(tmp_path, first=0, good=6, suffix=suffix, top=top)
    files = sorted(folder.iterdir())
    arrays = [np.array(Image.open(f)).astype(np.uint16) for f in files]
    tensors = [torch.from_numpy(a.astype(np.int32)).to(torch.uint16) for a in arrays]
    made = never_trained(monkeypatch, detector())
    for source in (folder, files, arrays, tensors, [Image.open(f) for f in files], as_samples(folder)):
        with pytest.raises(ValueError, match=f"max_value={top}"):
            made.fit(source)


def test_16_bit_files_of_full_range_need_no_word_and_dark_ones_one(twelve, tmp_path):
    full = camera(tmp_path / "full", first=0, good=6, top=65535)
    assert len(detector().fit(full).predict(full).scores) == 6
    assert detector().fit(twelve[0], max_value=65535).fitted


def test_12_bit_detector_reads_every_form_rightly(fitted_twelve, twelve, tmp_path):
    method = type(fitted_twelve).__name__.lower()
    expected = right_scores(method, twelve)
    assert method != "patchcore" or expected[3:].min() > expected[:3].max()
    files = sorted(twelve[1].iterdir())
    arrays = [np.array(Image.open(f)).astype(np.uint16) for f in files]
    tensors = [torch.from_numpy(a.astype(np.int32)).to(torch.uint16) for a in arrays]
    for made in (fitted_twelve, loaded(fitted_twelve, tmp_path)):
        for source in (twelve[1], files, [Image.open(f) for f in files], arrays, tensors, as_samples(twelve[1]),
                       as_samples(twelve[1], max_value=4095)):  # fmt: skip
            prediction = made.predict(source)
            assert prediction.failures == {} and prediction.scores == pytest.approx(expected, rel=1e-3, abs=1e-4)
        for single in (files[-1], str(files[-1]), Image.open(files[-1]), arrays[-1], tensors[-1]):
            assert made.predict(single).scores == pytest.approx(expected[-1:], rel=1e-3, abs=1e-4)


def test_max_value_of_samples_becomes_the_detectors(twelve, tmp_path):
    """The case as it was found: samples with max_value to fit, then a plain folder to predict."""
    fitted = detector().fit(as_samples(twelve[0], max_value=4095))
    for made in (fitted, loaded(fitted, tmp_path)):
        assert made.predict(twelve[1]).scores == pytest.approx(right_scores("patchcore", twelve), rel=1e-3, abs=1e-4)


def test_the_readers_way_with_12_bits_tells_good_from_defective(tmp_path):
    good = camera(tmp_path / "good", first=0, good=24)
    new = camera(tmp_path / "new", first=100, good=6, bad=6)
    made = detector(pretrained=True).fit(good, validation=0.4, alpha=0.1, max_value=4095)
    found = made.predict(new).defective(made.threshold(0.1))
    assert found[6:].all() and found[:6].sum() <= 3


def test_8_bits_to_a_12_bit_detector_and_the_reverse_are_refused_by_name(fitted_twelve, twelve, tmp_path):
    write(tmp_path / "mixed", {"a.png": deep(picture(200)), "eight.png": eight(picture(201))})
    shallow = detector().fit(good_folder(tmp_path / "good8", 6))
    write(tmp_path / "mixed8", {"a.png": eight(picture(200)), "sixteen.png": deep(picture(201), 65535)})
    for made in (fitted_twelve, loaded(fitted_twelve, tmp_path)):
        p = made.predict(tmp_path / "mixed")
        assert [Path(s.path).name for s in p.samples] == ["a.png"]
        assert [Path(f).name for f in p.failures] == ["eight.png"] and "eight.png" in next(iter(p.failures.values()))
        with pytest.raises(ImageError, match=r"eight\.png"):
            made.predict(tmp_path / "mixed" / "eight.png")
        with pytest.raises(ImageError):
            made.predict(eight(picture(201)))
        with pytest.raises(ImageError, match="4095"):
            made.predict(np.full((SIDE, SIDE), 5000, np.uint16))
    p = shallow.predict(tmp_path / "mixed8")
    assert [Path(f).name for f in p.failures] == ["sixteen.png"] and len(p.scores) == 1
    for single in (tmp_path / "mixed8" / "sixteen.png", deep(picture(201), 65535), deep(picture(201))):
        with pytest.raises(ImageError):
            shallow.predict(single)


def test_values_from_0_to_1_are_not_divided_again(fitted_twelve, twelve):
    """A float image given to a 12-bit detector is refused or read rightly, and never divided by 4095."""
    image = np.asarray(Image.open(sorted(twelve[1].iterdir())[-1]))
    expected = fitted_twelve.predict(image.astype(np.uint16)).scores
    try:
        found = fitted_twelve.predict(image.astype(np.float32) / 4095)
    except ImageError:
        return
    assert found.failures or found.scores == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_samples_with_another_max_value_are_refused(fitted_twelve, twelve):
    assert "max_value" in refused(fitted_twelve, as_samples(twelve[1], max_value=65535))
    half = as_samples(twelve[0], max_value=4095)[:4] + as_samples(twelve[0], max_value=8191)[4:]
    with pytest.raises(ValueError, match="max_value"):
        detector().fit(half)


# ---------------------------------------------------------------------- several pictures of one part

PART = r"(part\d+)_"


def parts(folder: Path, first: int, count: int, shots: int = 5) -> Path:
    """Pictures 32 × 32 whose mean is the part's own, and nearly the same in all its shots."""
    images = {}
    for part in range(first, first + count):
        rng = np.random.default_rng(part)
        level = rng.uniform(60, 180)
        for shot in range(shots):
            image = np.full((32, 32), level + rng.normal(0, 0.8)) + rng.normal(0, 3, (32, 32))
            images[f"part{part:02d}_{shot}.png"] = image.round().astype(np.uint8)
    return write(folder, images)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """20 parts, 5 shots each; and the same number of shots of 60 new ones. The folder has a number like a part's."""
    root = tmp_path_factory.mktemp("part99_2")
    return parts(root / "good", 0, 20), parts(root / "new", 100, 60)


@pytest.mark.parametrize("make", [Mean, detector])
def test_seven_parts_cannot_promise_five_percent_and_this_is_said_first(twenty, make, monkeypatch):
    made = never_trained(monkeypatch, make())
    with pytest.raises(ValueError, match="7 held-out normal parts") as error:
        made.fit(twenty[0], validation=0.35, group=PART, alpha=0.05)
    said = str(error.value)
    assert re.search(r"12\.5 ?%|0\.125", said) and "folds" in said
    assert "the 35 held-out images show 7 parts" in said
    # 12 more held-out parts, or the number in all that a share of 0.35 needs for them
    assert re.search(r"(?<![\d.])(12|3[3-6]|5[3-6])(?![\d.]*\d| ?%)", said), said


def test_nothing_is_read_where_the_promise_cannot_be_kept():
    calls: list[int] = []
    samples = counted(100, calls, group=[f"part{i // 5}" for i in range(100)])
    for made in (Mean(), detector(), detector("simplenet"), detector("efficientad")):
        with pytest.raises(ValueError, match="7 held-out normal parts"):
            made.fit(samples, validation=0.35)
    assert calls == []


def by_name(path):
    return Path(path).name.partition("_")[0]


def test_the_threshold_counts_parts(twenty):
    files = sorted(twenty[0].iterdir())
    names = [by_name(f) for f in files]
    forms = [(twenty[0], PART), (twenty[0], r"part\d+"), (files, PART), (twenty[0], by_name), (files, by_name),
             (files, names), ([np.array(Image.open(f)) for f in files], names),
             (as_samples(twenty[0], group=PART), None)]  # fmt: skip
    found = []
    for source, group in forms:
        made = Mean().fit(source, validation=0.35, group=group, alpha=0.125)
        assert len(made.normal_scores) == 7 and len(made.held_out.scores) == 35
        groups, scores = [s.group for s in made.held_out.samples], made.held_out.scores
        worst = sorted(max(s for s, g in zip(scores, groups, strict=True) if g == part) for part in set(groups))
        assert made.normal_scores.numpy() == pytest.approx(worst)  # the largest of each part's pictures
        assert made.threshold(0.125) == pytest.approx(worst[-1])
        with pytest.raises(ValueError, match="7"):
            made.threshold(0.05)
        found.append(made.threshold(0.125))
    assert found == pytest.approx([found[0]] * len(forms))


@pytest.mark.parametrize("method", METHODS)
def test_parts_are_never_torn_whatever_the_method(method, tmp_path):
    """EfficientAD held out a tenth of the pictures by itself; saved and loaded, the count stays."""
    images = {f"p{i:02d}_{s}.png": eight(picture(10 * i + s)) for i in range(10) for s in range(2)}
    folder = write(tmp_path / "good", images)
    made = detector(method).fit(folder, validation=0.4, group=r"p\d+", alpha=0.2)
    assert len(made.normal_scores) == 4 and len(made.held_out.scores) == 8
    assert len(loaded(made, tmp_path).normal_scores) == 4
    rest, held = hold_out(folder, 0.4, group=r"p\d+")
    assert not {s.group for s in rest} & {s.group for s in held} and len(rest) + len(held) == 20


def test_false_alarms_by_part_are_what_was_promised(twenty):
    """Of one draw of 7 parts, and on average over 40 draws."""
    made = Mean().fit(twenty[0], validation=0.35, group=PART, alpha=0.125)
    p = made.predict(twenty[1], group=PART)
    assert p.groups[:6] == ["part100"] * 5 + ["part101"]
    found = p.defective(made.threshold(0.125))
    parts_called = {g for g, f in zip(p.groups, found, strict=True) if f}
    assert len(parts_called) / 60 < 0.5  # 0.5 ** 7 is below 1 %
    rates = []
    for draw in range(40):
        rng = np.random.default_rng(draw)
        levels = rng.uniform(0.2, 0.8, 60)
        shots = [np.full((32, 32), v + rng.normal(0, 0.002)) for v in levels for _ in range(3)]
        made = Mean().fit(shots[:60], validation=0.35, group=[f"p{i // 3}" for i in range(60)], alpha=0.125)
        called = made.predict(shots[60:]).defective(made.threshold(0.125)).reshape(40, 3).any(1)
        rates.append(called.mean())
    assert np.mean(rates) < 0.125 + 3 * np.std(rates) / np.sqrt(40)


def test_a_name_that_the_pattern_does_not_fit_is_told(twenty, tmp_path):
    write(tmp_path, {"part01_0.png": eight(picture(0)), "odd.png": eight(picture(1))})
    for source in (tmp_path, [tmp_path / "part01_0.png", tmp_path / "odd.png"]):
        with pytest.raises(ValueError, match=r"odd\.png"):
            Mean().fit(source, group=PART)
        with pytest.raises(ValueError, match=r"odd\.png"):
            as_samples(source, group=PART)
    with pytest.raises(ValueError, match="3"):
        as_samples(tmp_path, group=["a", "b", "c"])


def test_one_part_on_both_sides_is_refused(twenty, tmp_path):
    again = parts(tmp_path, 19, 1, shots=6)
    for f in sorted(again.iterdir())[:5]:
        f.unlink()
    with pytest.raises(ValueError, match="part19"):
        Mean().fit(twenty[0], validation=again, group=PART)


# ---------------------------------------------------------------------- several products


@pytest.fixture(scope="module")
def products():
    """Held-out and new arrays of a quiet product (dark) and a noisy one (bright), and their names."""
    rng = np.random.default_rng(0)

    def draw(count):
        levels = [0.3 + rng.normal(0, 0.002, count), 0.6 + rng.normal(0, 0.05, count)]
        names = ["quiet"] * count + ["noisy"] * count
        return [np.full((32, 32), v) + rng.normal(0, 1e-4, (32, 32)) for v in np.concatenate(levels)], names

    return draw(20), draw(99), draw(400)


def test_each_product_has_its_threshold(products):
    train, (held, held_names), (new, new_names) = products
    sides = [[Sample(0, "good", f"{side}{i}", image_source=image, product=name)
              for i, (image, name) in enumerate(zip(*drawn, strict=True))]
             for side, drawn in (("t", train), ("h", (held, held_names)))]  # fmt: skip
    made = Mean().fit(sides[0], validation=sides[1], alpha=0.1)
    limits, scores = made.threshold(0.1), np.array([a.mean() for a in held])
    assert set(limits) == set(made.pixel_threshold(0.1)) == {"quiet", "noisy"}
    for name in limits:
        own = scores[[n == name for n in held_names]]
        assert limits[name] == pytest.approx(conformal_threshold(own, 0.1), abs=1e-5)
    p = made.predict(new, product=new_names)
    found = p.defective(limits).reshape(2, 400).mean(1)
    assert (0.02 < found).all() and (found < 0.2).all()  # pooled, the quiet product had 0 and the noisy one the double
    for i in (0, 17, 399, 400, 799):
        own = scores[[n == new_names[i] for n in held_names]]
        assert p.p_values[i] == pytest.approx((1 + (own >= p.scores[i]).sum()) / 100, abs=0.011)
    assert (p.p_values <= 0.1).reshape(2, 400).mean(1) == pytest.approx(found, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_products_are_kept_in_the_file_and_read_from_folders(method, tmp_path):
    rng = np.random.default_rng(1)
    images = {f"{product}/{i}.png": eight(np.clip(picture(100 * k + i) + rng.normal(0, 0.1 * k, (SIDE, SIDE, 3)), 0, 1))
              for k, product in enumerate(("nut", "bolt")) for i in range(12)}  # fmt: skip
    folder = write(tmp_path / "good", images)
    made = detector(method).fit(folder, validation=0.5, product=r"^(\w+)[/\\]", alpha=0.25)
    again = loaded(made, tmp_path)
    assert set(made.threshold(0.25)) == {"nut", "bolt"} and again.threshold(0.25) == made.threshold(0.25)
    p = again.predict(folder, product=lambda path: Path(path).parent.name)
    assert {s.product for s in p.samples} == {"nut", "bolt"} and p.defective(again.threshold(0.25)).shape == (24,)
    assert p.p_values.shape == (24,) and ((p.p_values > 0) & (p.p_values <= 1)).all()
    with pytest.raises((ValueError, KeyError), match="washer"):
        again.predict(folder, product=["washer"] * 24).defective(again.threshold(0.25))
    with pytest.raises((ValueError, KeyError)):
        again.predict(folder).defective(again.threshold(0.25))


def test_p_values_mean_the_same_everywhere(tmp_path):
    folder = good_folder(tmp_path / "good", 20)
    made = detector().fit(folder, validation=0.45, alpha=0.1)
    new = good_folder(tmp_path / "new", 5, first=50)
    for current in (made, loaded(made, tmp_path)):
        p = current.predict(new)
        own = np.array([(1 + (made.normal_scores.numpy() >= s).sum()) / 10 for s in p.scores])
        assert p.p_values == pytest.approx(own)
        assert (p.defective(current.threshold(0.1)) == (p.p_values <= 0.1)).all()
    assert detector().fit(folder).predict(new).p_values is None


# ---------------------------------------------------------------------- ground truth is no decision


@pytest.mark.parametrize("method", METHODS)
def test_images_without_ground_truth_have_none(method, tmp_path):
    folder = good_folder(tmp_path / "new", 4)
    made = detector(method).fit(good_folder(tmp_path / "good", 10, first=10))
    files = sorted(folder.iterdir())
    for source in (folder, files, files[0], [np.array(Image.open(f)) for f in files],
                   [torch.from_numpy(eight(picture(8))).permute(2, 0, 1)]):  # fmt: skip
        p = made.predict(source)
        assert all(s.label is None for s in p.samples) and not hasattr(p, "labels")
        with pytest.raises(ValueError, match="ground truth"):
            _ = p.targets
        with pytest.raises(ValueError):
            evaluate(p)
    labelled = [Sample(1, "hole", str(files[0]), image_source=files[0]), *as_samples(files[1:])]
    with pytest.raises(ValueError, match="ground truth"):
        _ = made.predict(labelled).targets
    assert made.predict(labelled[:1]).targets.tolist() == [1]
    assert ImageFolder(tmp_path / "good", folder).test[0].label is None  # a flat folder says nothing either
    decision = p.defective(float(p.scores[0]) - 1)
    assert decision.dtype == bool and decision.shape == (1,) and decision.all()


# ---------------------------------------------------------------------- masks


@pytest.mark.parametrize(("suffix", "options"), [
    (".jpg", {"quality": 90}), (".jpg", {"quality": 75}), (".jpeg", {"quality": 50}), (".webp", {"quality": 75}),
    (".jp2", {"quality_mode": "rates", "quality_layers": [10]}), (".avif", {"quality": 60}),
])  # fmt: skip
def test_lossy_masks_are_cut_at_half(tmp_path, suffix, options):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:33, 27:40] = 255
    write(tmp_path / "test", {"hole/a.png": eight(picture(0)), "good/b.png": eight(picture(1))})
    good_folder(tmp_path / "train", 1)
    write(tmp_path / "masks", {f"hole/a{suffix}": mask}, **options)
    sample = next(s for s in ImageFolder(tmp_path / "train", tmp_path / "test", tmp_path / "masks").test if s.label)
    assert sample.mask is not None and int((sample.mask.numpy() ^ (mask > 0)).sum()) <= 4


@pytest.mark.parametrize("top", [1, 9, 255])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_exact_masks_stay_exact(tmp_path, suffix, top):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:33, 27:40] = np.resize(np.arange(1, top + 1), (13, 13))
    write(tmp_path / "test", {"hole/a.png": eight(picture(0)), "good/b.png": eight(picture(1))})
    good_folder(tmp_path / "train", 1)
    write(tmp_path / "masks", {f"hole/a{suffix}": mask})
    sample = next(s for s in ImageFolder(tmp_path / "train", tmp_path / "test", tmp_path / "masks").test if s.label)
    assert sample.mask is not None and np.array_equal(sample.mask.numpy(), mask > 0)


# ---------------------------------------------------------------------- everything in a folder is accounted for


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jp2", ".avif", ".heic", ".tga", ".pbm", ".JPE", ".heif"])
def test_every_picture_ending_is_scored_or_named(tmp_path, suffix):
    made = detector().fit(good_folder(tmp_path / "good", 6))
    folder = good_folder(tmp_path / "new", 2)
    image = Image.fromarray(eight(picture(9)))
    path = folder / f"other{suffix}"
    if suffix in (".heic", ".heif"):
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(200)))
    else:
        (image.convert("1") if suffix == ".pbm" else image).save(path)
    p = made.predict(folder)
    assert {*(s.path for s in p.samples), *p.failures} == {str(f) for f in folder.iterdir()}
    assert len(p.scores) + len(p.failures) == 3


@pytest.mark.parametrize("method", ["patchcore", "simplenet"])
def test_closed_folders_links_and_broken_links_are_accounted_for(tmp_path, monkeypatch, method):
    made = detector(method).fit(good_folder(tmp_path / "good", 6))
    folder, outside = good_folder(tmp_path / "new", 2), good_folder(tmp_path / "outside", 3, first=20)
    good_folder(folder / "locked", 2, first=40)
    (folder / "linked").symlink_to(outside, target_is_directory=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "x.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "table.csv").write_text("no image")
    close(monkeypatch, {str(folder / "locked")})
    p = made.predict(folder)
    assert len(p.scores) == 5  # the folder's own and those behind the link, once each
    assert {Path(f).name for f in p.failures} == {"x.png", "locked"}
    assert {"notes.txt", "table.csv"} == {Path(s).name for s in p.skipped if Path(s).suffix}


def test_repeated_names_are_kept_apart(tmp_path):
    made = detector().fit(good_folder(tmp_path / "good", 6))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    good = sorted((tmp_path / "good").iterdir())[0]
    p = made.predict([bad, good, bad, good, bad])
    assert len(p.scores) == 2 and list(p.failures) == [str(bad), f"{bad} (2)", f"{bad} (3)"]


# ---------------------------------------------------------------------- an empty path


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch, method):
    folder = good_folder(tmp_path / "good", 10)
    made = detector(method).fit(folder)
    monkeypatch.chdir(folder)
    for call in (made.predict, made.fit, lambda path: made.fit(folder, validation=path), as_samples,
                 ImageFolder, lambda path: hold_out(path, 0.3)):  # fmt: skip
        with pytest.raises(ValueError, match="''|empty"):
            call("")
    p = made.predict(["", folder / "g000.png"])
    assert len(p.scores) == len(p.failures) == 1


# ---------------------------------------------------------------------- damaged weights and scores that are no numbers


@pytest.mark.parametrize("method", METHODS)
def test_one_flipped_bit_is_noticed_at_load(tmp_path, method):
    made = detector(method).fit(good_folder(tmp_path / "good", 10))
    again = loaded(made, tmp_path)
    path = tmp_path / "saved.safetensors"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    start = 8 + int.from_bytes(whole[:8], "little")
    expected = again.predict(tmp_path / "good").scores
    for place in [start + 3, *(start + 4 * rng.integers((len(whole) - start) // 4, size=12) + 3)]:  # bit 30
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        own = {"teacher": made.frozen} if method == "efficientad" else {}
        try:
            found = type(made).load(path, device="cpu", **own)
        except ValueError as error:
            assert path.name in str(error)
            continue
        assert np.array_equal(found.predict(tmp_path / "good").scores, expected), f"byte {place}"


@pytest.mark.parametrize(("method", "name"), [("patchcore", "memory_bank"), ("simplenet", "last"),
                                              ("efficientad", "quantiles")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_an_error_that_names_the_image(tmp_path, method, name, value):
    folder = good_folder(tmp_path / "good", 10)
    made = detector(method).fit(folder)
    getattr(made, name).mul_(value)
    for source in (folder, folder / "g000.png"):
        with pytest.raises(FloatingPointError, match=r"g000\.png"):
            made.predict(source)


# ---------------------------------------------------------------------- the same picture on both sides


def another_spelling(path, folder):
    return path.parent / ".." / path.parent.name / path.name


def symbolic(path, folder):
    (link := folder / "soft.png").symlink_to(path)
    return link


def linked_folder(path, folder):
    (link := folder / "linked").symlink_to(path.parent, target_is_directory=True)
    return link / path.name


def hard(path, folder):
    os.link(path, link := folder / "hard.png")
    return link


def copied(path, folder):
    (copy := folder / "copy.png").write_bytes(path.read_bytes())
    return copy


@pytest.mark.parametrize("other", [another_spelling, symbolic, linked_folder, hard, copied])
@pytest.mark.parametrize("form", [str, Path, as_samples])
def test_one_picture_on_both_sides_is_found_under_any_name(tmp_path, monkeypatch, other, form):
    train, held = good_folder(tmp_path / "train", 4), good_folder(tmp_path / "held", 3, first=20)
    path = train / "g002.png"
    twin = other(path, held)
    sources = [*sorted(held.glob("g*.png")), twin]
    validation = as_samples(sources) if form is as_samples else [form(s) for s in sources]
    for made in (Mean(), detector(), detector("efficientad")):
        with pytest.raises(ValueError, match=r"g002\.png") as error:
            never_trained(monkeypatch, made).fit(train, validation=validation)
        assert twin.name in str(error.value)


def test_relative_and_absolute_names_are_one_picture(tmp_path, monkeypatch):
    train = good_folder(tmp_path / "train", 4)
    monkeypatch.chdir(train)
    with pytest.raises(ValueError, match=r"g002\.png"):
        Mean().fit(train, validation=["g002.png"])


@pytest.mark.parametrize("form", [
    lambda image: eight(image), lambda image: torch.from_numpy(image).permute(2, 0, 1).float(),
    lambda image: Image.fromarray(eight(image)),
])  # fmt: skip
def test_equal_arrays_on_both_sides_are_refused(form):
    train, held = [form(picture(i)) for i in range(4)], [form(picture(i)) for i in (20, 2)]
    for made in (Mean(), detector(), detector("efficientad")):
        with pytest.raises(ValueError, match=r"image\[2\]") as error:
            made.fit(train, validation=held)
        assert "image[1]" in str(error.value)


def test_a_copy_in_the_folder_does_not_part_from_its_twin(tmp_path):
    """Where `fit` itself divides the folder, copies are refused, or stay on one side."""
    folder = good_folder(tmp_path, 8)
    for i in (1, 3):
        (folder / f"z_copy{i}.png").write_bytes((folder / f"g{i:03d}.png").read_bytes())
    for seed in range(6):
        try:
            made = Mean(seed=seed).fit(folder, validation=0.5, alpha=0.25)
        except ValueError as error:
            assert "copy" in str(error)
            continue
        held = {Path(s.path).name for s in made.held_out.samples}
        assert all((f"z_copy{i}.png" in held) == (f"g{i:03d}.png" in held) for i in (1, 3))


# ---------------------------------------------------------------------- held-out images that are not good


def test_held_out_images_that_stand_apart_are_named(tmp_path):
    good = good_folder(tmp_path / "good", 10)
    held = good_folder(tmp_path / "held", 40, first=100)
    write(held, {f"bad{i}.png": eight(picture(300 + i, defect=True)) for i in range(6)})

    def level(name, value):  # a mean sees no defect: what is bad is bright
        return Sample(0, "good", name, image_source=np.full((32, 32), value))

    stub = [level(f"g{i:03d}", 0.3 + 0.001 * i) for i in range(40)]
    stub += [level(f"bad{i}", 0.8 + 0.01 * i) for i in range(6)]
    stub_train = [level(f"t{i}", 0.3005 + 0.01 * i) for i in range(4)]
    for made, train, validation in ((Mean(), stub_train, stub), (detector(pretrained=True), good, held)):
        with pytest.warns(UserWarning) as caught:
            made.fit(train, validation=validation)
        said = " ".join(str(w.message) for w in caught)
        assert all(f"bad{i}" in said for i in range(6)) and "g001" not in said and "g101" not in said
        order = np.argsort(-made.held_out.scores)
        assert all("bad" in Path(made.held_out.samples[i].path).name for i in order[:6])
        assert len(made.held_out.scores) == 46
        assert made.threshold(0.2) < made.held_out.scores[order[5]]


@pytest.mark.parametrize("method", METHODS)
def test_good_held_out_images_are_no_reason_for_a_warning(tmp_path, method):
    folder = good_folder(tmp_path / "good", 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = detector(method).fit(folder, validation=0.5)
    assert len(made.held_out.scores) == 20
    assert sorted(made.held_out.scores) == pytest.approx(made.normal_scores.tolist())


# ---------------------------------------------------------------------- BGR frames


@pytest.mark.parametrize("method", METHODS)
def test_frames_of_a_camera_library_are_read_as_files_are(tmp_path, method):
    good, new = good_folder(tmp_path / "good", 10), good_folder(tmp_path / "new", 3, first=50)
    frames = [[np.array(Image.open(f))[..., ::-1] for f in sorted(d.iterdir())] for d in (good, new)]
    on_files = detector(method).fit(good)
    on_frames = detector(method).fit(frames[0], color="bgr")
    expected = on_files.predict(new).scores
    wrong = on_files.predict(frames[1], color="rgb").scores
    assert np.abs(wrong - expected).min() > 1e-3 * np.abs(expected).max()  # the colours matter
    for made in (on_frames, loaded(on_frames, tmp_path)):
        for source in (frames[1], new, sorted(new.iterdir()), [Image.open(f) for f in sorted(new.iterdir())],
                       as_samples(frames[1], color="bgr")):  # fmt: skip
            assert made.predict(source).scores == pytest.approx(expected, rel=1e-5)
        assert made.predict(frames[1][0]).scores == pytest.approx(expected[:1], rel=1e-5)
        assert made.predict([f[..., ::-1] for f in frames[1]], color="rgb").scores == pytest.approx(expected, rel=1e-5)
    for made in (on_files, loaded(on_files, tmp_path)):
        assert made.predict(frames[1], color="bgr").scores == pytest.approx(expected, rel=1e-5)
        assert made.predict(frames[1][0], color="bgr").scores == pytest.approx(expected[:1], rel=1e-5)
        assert made.predict(new, color="bgr").scores == pytest.approx(expected, rel=1e-5)  # files have their own order


def test_the_order_of_colours_is_said_right_or_refused():
    frame = eight(picture(0))[..., ::-1]
    assert torch.equal(read_image(frame, color="bgr"), read_image(eight(picture(0))))
    for call in (read_image, as_samples, Mean().fit):
        with pytest.raises(ValueError, match="brg"):
            call(frame, color="brg")


# ---------------------------------------------------------------------- aspect


@pytest.mark.parametrize(("method", "area"), [("patchcore", 224**2), ("simplenet", 224**2), ("efficientad", 128**2)])
@pytest.mark.parametrize(("height", "width"), [(80, 200), (200, 80), (90, 90)])
def test_the_default_size_has_the_aspect_of_the_training_images(tmp_path, method, area, height, width):
    folder = good_folder(tmp_path / "good", 3, height=height, width=width)
    made = detector(method, image_size=None).fit(folder)
    for current in (made, loaded(made, tmp_path)):
        h, w = current.image_size
        assert h % 16 == w % 16 == 0 and abs(h * w / area - 1) < 0.1
        assert abs((w / h) / (width / height) - 1) < 0.12 and (height != width or h == w == int(area**0.5))
        p = current.predict(folder)
        assert len(p.scores) == 3 and p.maps[0].shape == (height, width)


def test_the_median_aspect_counts_for_files_arrays_and_functions(tmp_path):
    shapes = [(80, 200), (80, 200), (80, 200), (90, 180), (100, 170)]
    arrays = [eight(picture(i, *shape)) for i, shape in enumerate(shapes)]
    write(tmp_path, {f"{i}.png": a for i, a in enumerate(arrays)})
    called = [Sample(0, "good", f"{i}", image_source=lambda a=a: read_image(a)) for i, a in enumerate(arrays)]
    for source in (tmp_path, sorted(tmp_path.iterdir()), arrays, called, [Image.fromarray(a) for a in arrays]):
        assert detector(image_size=None).fit(source).image_size == (144, 352)
    assert detector(image_size=(64, 96)).fit(arrays).image_size == (64, 96)


@pytest.mark.parametrize("method", METHODS)
def test_a_turned_picture_is_refused_by_name(tmp_path, method):
    made = detector(method, image_size=(64, 160)).fit(good_folder(tmp_path / "good", 10, height=80, width=200))
    folder = good_folder(tmp_path / "new", 1, height=80, width=200)
    write(folder, {"turned.png": eight(picture(5, 200, 80)), "twice.png": eight(picture(6, 160, 400))})
    for current in (made, loaded(made, tmp_path)):
        p = current.predict(folder)
        assert [Path(s.path).name for s in p.samples] == ["g000.png", "twice.png"]
        assert [Path(f).name for f in p.failures] == ["turned.png"] and "aspect" in next(iter(p.failures.values()))
        turned = eight(picture(5, 200, 80))
        tensor = torch.from_numpy(turned).permute(2, 0, 1)
        for single in (folder / "turned.png", turned, tensor, Image.fromarray(turned)):
            with pytest.raises(ImageError, match="aspect"):
                current.predict(single)


@pytest.mark.slow
def test_small_defects_in_long_pictures_are_found_at_the_default_size():
    """400 × 1600 and defects of 6 pixels: squashed to a square, one of ten was found."""
    y, x = np.mgrid[:400, :1600]
    weave = 0.5 + 0.1 * np.sin(x / 9) * np.sin(y / 9)

    def part(seed, defect=False):
        rng = np.random.default_rng(seed)
        image = weave + rng.normal(0, 0.03, weave.shape)
        if defect:
            top, left = rng.integers(40, 350), rng.integers(40, 1550)
            image[top : top + 6, left : left + 6] += 0.13
        return eight(np.clip(image, 0, 1)[..., None].repeat(3, 2))

    made = PatchCore(device="cpu", coreset_ratio=0.05).fit([part(i) for i in range(8)])
    scores = made.predict([part(100 + i, i >= 10) for i in range(20)]).scores
    assert (scores[10:] > scores[:10].max()).sum() >= 8


# ---------------------------------------------------------------------- a good part is not painted red


def colour(axes):
    """How coloured each pixel of the axes is, 0 for grey; one image, or a clear one over another."""
    arrays = [a for image in axes.images if (a := np.asarray(image.get_array())).ndim == 3]
    return np.max([np.ptp(a[..., :3], axis=-1) * (a[..., 3] if a.shape[-1] == 4 else 1) for a in arrays], 0)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.5, 20.0])
def test_the_scale_reaches_the_threshold_and_nothing_below_it_is_coloured(factor):
    plane = np.random.default_rng(0).uniform(0.1, 0.3, (40, 50)).astype(np.float32)
    image = np.full((3, 40, 50), 0.5, np.float32)
    threshold = float(plane.max()) * factor
    figure = plots.show([image], maps=[plane], threshold=threshold)
    try:
        shown = [axes for axes in figure.axes if axes.images]
        assert shown[1].images[0].norm.vmax >= threshold
        coloured = colour(shown[2])
        assert coloured[plane < threshold].max() < 0.02
        if factor < 1:
            assert coloured[plane > 1.1 * threshold].min() > 0.1
    finally:
        plt.close(figure)


# ---------------------------------------------------------------------- one source, one answer


def broken_files(folder: Path) -> list[Path]:
    """Files that are no whole pictures, of many sorts."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = good_folder(folder / "whole", 1) / "g000.png"
    (folder / "cut.png").write_bytes(whole.read_bytes()[:400])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.tif").write_text("no image at all")
    Image.open(whole).save(folder / "cut.jpg")
    cut = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(cut[: 2 * len(cut) // 3])
    (folder / "noise.webp").write_bytes(np.random.default_rng(0).bytes(500))
    return [folder / n for n in ("cut.png", "empty.jpg", "text.tif", "cut.jpg", "noise.webp")]


@pytest.mark.parametrize("method", METHODS)
def test_a_single_image_that_cannot_be_read_is_an_error_with_its_reason(tmp_path, method):
    made = detector(method).fit(good_folder(tmp_path / "good", 10))
    for current in (made, loaded(made, tmp_path)):
        for path in broken_files(tmp_path / "bad"):
            for single in (path, str(path)):
                with pytest.raises(ImageError, match=re.escape(path.name)):
                    current.predict(single)
            p = current.predict([path])  # a list of one is a list
            assert len(p.scores) == 0 and list(p.failures) == [str(path)]
        for single in (np.full((SIDE, SIDE, 3), np.nan), torch.full((3, SIDE, SIDE), 7.0),
                       np.zeros((SIDE, SIDE), complex), Image.open(tmp_path / "bad" / "cut.jpg")):  # fmt: skip
            with pytest.raises(ImageError):
                current.predict(single)
        with pytest.raises(ValueError, match=r"gone\.png"):
            current.predict(tmp_path / "gone.png")


# ---------------------------------------------------------------------- names of good images


@pytest.mark.parametrize("name", ["good", "ok", "OK", "normal", "Normal", "NORMAL"])
def test_a_folder_of_normal_images_is_known_by_its_usual_names(tmp_path, name):
    train = good_folder(tmp_path / "train", 1)
    good_folder(tmp_path / "test" / name, 2)
    good_folder(tmp_path / "test" / "abnormal", 2, first=5)
    labels = {s.kind: s.label for s in ImageFolder(train, tmp_path / "test").test}
    assert labels == {name: 0, "abnormal": 1}


@pytest.mark.parametrize("kinds", [("scratch", "dent"), ("unbekannt", "beschädigt")])
def test_an_evaluation_without_normal_images_lists_the_kinds_it_found(tmp_path, kinds):
    train = good_folder(tmp_path / "train", 4)
    for i, kind in enumerate(kinds):
        good_folder(tmp_path / "test" / kind, 2, first=10 * (i + 1))
    with pytest.raises(ValueError, match=kinds[0]) as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluate(Mean().fit(train).predict(ImageFolder(train, tmp_path / "test").test))
    assert kinds[1] in str(error.value)


# ---------------------------------------------------------------------- memory


def test_the_remedies_for_too_little_memory_help(tmp_path):
    calls: list[int] = []
    with pytest.raises(ValueError, match="max_memory") as error:
        detector(max_memory=1e6).fit(counted(100, calls))
    said = str(error.value)
    assert calls == []
    needed = detector().memory_needed(100)
    for words, other, images in (("stride", {"stride": 2}, 100), ("smaller images|image_size", {"image_size": 32}, 100),
                                 ("fewer images", {}, 50)):  # fmt: skip
        assert re.search(words, said) and detector(**other).memory_needed(images) < 0.6 * needed
    assert detector(coreset_ratio=0.01).memory_needed(100) > 0.8 * needed  # so it is no remedy
    found = re.search(r"Pass chunk=(\d+) and coreset_ratio=([\d.]+\d):", said)  # unless the images come in chunks
    assert found and detector(chunk=int(found[1]), coreset_ratio=float(found[2])).memory_needed(100) <= 1e6
    page = json.loads((Path(__file__).parents[2] / "notebooks" / "00_quickstart.ipynb").read_text())
    rows = [line for c in page["cells"] for line in "".join(c["source"]).splitlines() if line.startswith("| memory")]
    assert rows and not any(re.match(r"\| memory[^|]*\| *`PatchCore\(coreset_ratio", row) for row in rows)


# ---------------------------------------------------------------------- few images


@pytest.mark.parametrize(("images", "rate"), [(15, r"16\.7 ?%|0\.167|17 ?%"), (5, r"33(\.3)? ?%|0\.333")])
@pytest.mark.parametrize("method", METHODS)
def test_too_few_images_are_told_before_the_fit(images, rate, method):
    calls: list[int] = []
    with pytest.raises(ValueError, match="folds") as error:
        detector(method).fit(counted(images, calls), validation=0.35)
    assert calls == [] and re.search(rate, str(error.value)), str(error.value)


def test_given_held_out_images_and_folds_are_counted_too(tmp_path):
    calls: list[int] = []
    with pytest.raises(ValueError, match=r"6\.[23]5? ?%|0\.062"):
        detector().fit(counted(15, calls), folds=15)
    for wrong in ({"folds": 1}, {"folds": 16}, {"folds": 0}, {"folds": 5, "validation": 0.35}):
        with pytest.raises((ValueError, TypeError)):
            detector().fit(counted(15, calls), **{"alpha": 0.2} | wrong)
    assert calls == []


@pytest.mark.parametrize("method", ["patchcore", "simplenet"])
def test_with_folds_every_good_image_is_held_out_once(tmp_path, method):
    good, new = good_folder(tmp_path / "good", 6), good_folder(tmp_path / "new", 3, first=50)
    write(new, {"z.png": eight(picture(99, defect=True))})
    made = detector(method).fit(good, folds=6, alpha=0.2)
    assert len(made.normal_scores) == len(made.held_out.scores) == 6
    assert sorted(made.held_out.scores) == pytest.approx(made.normal_scores.tolist())
    assert made.threshold(0.2) == pytest.approx(float(made.normal_scores[-1]))
    again = loaded(made, tmp_path)
    p, q = made.predict(new), again.predict(new)
    assert np.array_equal(p.scores, q.scores) and all(map(np.array_equal, p.maps, q.maps))
    assert torch.equal(made.normal_scores, again.normal_scores) and again.threshold(0.2) == made.threshold(0.2)
    assert p.p_values.shape == (4,) and p.p_values.max() <= 1
    assert made.predict(good).scores.max() <= made.normal_scores.max() + 1e-5  # the least of all detectors


def test_an_images_score_is_the_least_of_the_folds(tmp_path):
    good, new = good_folder(tmp_path / "good", 5), good_folder(tmp_path / "new", 3, first=50)
    options = {"reweighting": None, "coreset_ratio": 1}
    made = detector(**options).fit(good, folds=5, alpha=0.2)
    files = sorted(good.iterdir())
    without = [detector(**options).fit([f for f in files if f != left]) for left in files]
    assert made.predict(new).scores == pytest.approx(np.min([d.predict(new).scores for d in without], 0), rel=1e-4)
    held = [float(d.predict([left]).scores[0]) for d, left in zip(without, files, strict=True)]
    assert made.normal_scores.tolist() == pytest.approx(sorted(held), rel=1e-4)
    found = {s.path: v for s, v in zip(made.held_out.samples, made.held_out.scores, strict=True)}
    assert [found[str(f)] for f in files] == pytest.approx(held, rel=1e-4)


def test_folds_keep_parts_whole(tmp_path):
    images = {f"p{i}_{s}.png": eight(picture(20 * i + s)) for i in range(5) for s in range(2)}
    made = detector().fit(write(tmp_path, images), folds=5, group=r"p\d", alpha=0.2)
    assert len(made.normal_scores) == 5 and len(made.held_out.scores) == 10
    assert made.held_out.scores.min() > 0.01  # a shot of the same part in the bank would be nearly 0


# ---------------------------------------------------------------------- files: who may read them, and what lies there


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_the_umask_says_who_may_read_a_saved_detector(tmp_path, mask):
    made, path = Mean().fit(np.zeros((1, 32, 32, 3))), tmp_path / "a.safetensors"
    before = os.umask(mask)
    try:
        made.save(path)
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
        path.chmod(0o640)
        made.save(path)  # the old file's mode stays
        assert path.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_file_that_may_not_be_read_is_called_so(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    detector().fit(good_folder(tmp_path / "good", 4)).save(path)
    path.chmod(0)
    root = os.geteuid() == 0
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    try:
        if root:
            os.seteuid(65534)  # to root nothing is closed
        with pytest.raises((OSError, ValueError), match=r"(?s)a\.safetensors.*may not be read"):
            PatchCore.load(path, device="cpu")
    finally:
        if root:
            os.seteuid(0)


def test_saves_at_once_do_not_meet(tmp_path):
    made, path = detector().fit(good_folder(tmp_path / "good", 4)), tmp_path / "out" / "a.safetensors"
    path.parent.mkdir()
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(made.save, path) for _ in range(30)]:
            done.result()
    assert [f.name for f in path.parent.iterdir()] == [path.name]
    assert np.array_equal(PatchCore.load(path, device="cpu").memory_bank, made.memory_bank)


def test_a_full_disk_is_told_with_the_path_and_the_bytes(tmp_path):
    """The largest size of a file stands for the disk: the system's answer goes the same way."""
    made, path = detector().fit(good_folder(tmp_path / "good", 4)), tmp_path / "out" / "a.safetensors"
    path.parent.mkdir()
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"(?s)(?=.*a\.safetensors)(?=.*\d ?(B|kB|MB|bytes))"):
            made.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old" and [f.name for f in path.parent.iterdir()] == [path.name]


KILLED = """
    import os, sys, time
    import adlib.simplenet.detector
    from case_data import detector
    good, saves, features = sys.argv[1:]
    made = detector().fit(good)

    def killed(work, after):
        child = os.fork()
        if not child:
            while True:
                work()
        time.sleep(after)
        os.kill(child, 9)
        os.waitpid(child, 0)

    def end(*args, **others):
        os.kill(os.getpid(), 9)

    for i in range(12):
        killed(lambda: made.save(saves + "/a.safetensors"), 0.05 + 0.007 * i)
    os.replace, os.rename, replace = end, end, os.replace
    killed(lambda: made.save(saves + "/b.safetensors"), 2)
    adlib.simplenet.detector.train_head = end
    killed(lambda: detector("simplenet", max_memory=1000, features_folder=features).fit(good), 5)
"""


@pytest.mark.slow
def test_what_a_kill_left_is_cleaned_at_the_next_start(tmp_path):
    good, saves, features = good_folder(tmp_path / "good", 4), tmp_path / "saves", tmp_path / "features"
    for folder in (saves, features):
        folder.mkdir()
    done = run_script(KILLED, good, saves, features)
    assert done.returncode == 0, done.stderr
    left = [*saves.iterdir(), *features.iterdir()]
    assert left, "the test needs something left over"
    for path in left:
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    made = detector().fit(good)
    for name in ("a", "b"):
        made.save(saves / f"{name}.safetensors")
    detector("simplenet", max_memory=1000, features_folder=features).fit(good)
    assert sorted(f.name for f in saves.iterdir()) == ["a.safetensors", "b.safetensors"]
    assert list(features.iterdir()) == []


# ---------------------------------------------------------------------- pictures with odd headers


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_size_and_mask_agree_on_the_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = orientation >= 5
    write(tmp_path / "test", {f"hole/a{suffix}": eight(picture(0, 40, 60))}, exif=exif)
    good_folder(tmp_path / "test" / "good", 1)
    write(tmp_path / "masks", {"hole/a.png": np.full((60, 40) if turned else (40, 60), 255, np.uint8)})
    train = good_folder(tmp_path / "train", 1)
    sample = next(s for s in ImageFolder(train, tmp_path / "test", tmp_path / "masks").test if s.label)
    size = (60, 40) if turned else (40, 60)
    assert size == read_size(tmp_path / "test" / "hole" / f"a{suffix}")
    assert size == tuple(sample.image.shape[1:]) == tuple(sample.mask.shape)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_broken_exif_is_no_foreign_error(tmp_path, suffix):
    made = Mean(image_size=32).fit(good_folder(tmp_path / "good", 2))
    rng, folder = np.random.default_rng(0), tmp_path / "new"
    folder.mkdir()
    good = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    for i in range(12):
        raw = bytearray(good if i % 3 else good[:6] + rng.bytes(60))
        for _ in range(i):
            raw[rng.integers(6, len(raw))] = rng.integers(256)
        path = folder / f"{i}{suffix}"
        Image.fromarray(eight(picture(i))).save(path, **({} if suffix == ".tif" else {"exif": bytes(raw)}))
        if suffix == ".tif":
            data = bytearray(path.read_bytes())
            for _ in range(i):
                data[rng.integers(4, 200) if i % 2 else -rng.integers(1, 120)] = rng.integers(256)
            path.write_bytes(data)
        try:
            read_size(path)
        except ImageError as error:
            assert path.name in str(error)
    p = made.predict(folder)
    assert len(p.scores) + len(p.failures) == 12


def test_of_a_size_only_the_header_is_read(tmp_path):
    whole = good_folder(tmp_path, 1) / "g000.png"
    whole.write_bytes(whole.read_bytes()[:60])
    assert read_size(whole) == (SIDE, SIDE)


# ---------------------------------------------------------------------- hostile and foreign detector files


def set_config(name, value):
    return lambda about, tensors: about["config"].__setitem__(name, value)


def set_tensor(name, value):
    return lambda about, tensors: tensors.__setitem__(name, value)


HOSTILE = {
    "stride": set_config("stride", 10**6), "smoothing": set_config("smoothing", float("nan")),
    "negative smoothing": set_config("smoothing", -1), "batch_size": set_config("batch_size", 0),
    "huge image": set_config("image_size", [10**6, 10**6]), "text for a number": set_config("seed", "zero"),
    "unknown argument": set_config("colour", 1), "no config": lambda a, t: a.pop("config"),
    "config is a list": lambda a, t: a.__setitem__("config", []), "no fingerprint": lambda a, t: a.pop("fingerprint"),
    "no format": lambda a, t: a.pop("format"), "old format": lambda a, t: a.__setitem__("format", 2),
    "later format": lambda a, t: a.__setitem__("format", 99),
    "method": lambda a, t: a.__setitem__("method", "SimpleNet"),
    "unsorted": set_tensor("normal_scores", torch.tensor([3.0, 1.0, 2.0])),
    "not finite": set_tensor("normal_scores", torch.tensor([1.0, float("nan")])),
    "bank not finite": set_tensor("memory_bank", torch.full((3, 288), float("nan"))),
    "bank of another width": set_tensor("memory_bank", torch.zeros(3, 7)),
    "bank of one dimension": set_tensor("memory_bank", torch.zeros(3)),
    "no bank": lambda a, t: t.pop("memory_bank"),
}  # fmt: skip


def told_apart(said):
    """What was expected and what was found are not called the same."""
    found = re.search(r"expected a (\w+)[^(,]*(\([^)]*\))?, found (\w+) ?(\([^)]*\))?", said)
    return found is None or (found[1], found[2]) != (found[3], found[4])


@pytest.mark.parametrize("change", HOSTILE, ids=HOSTILE)
def test_what_no_constructor_would_take_no_file_may_bring(tmp_path, change):
    path = tmp_path / "enemy.safetensors"
    held = good_folder(tmp_path / "held", 3, first=20)
    detector().fit(good_folder(tmp_path / "good", 5), validation=held).save(path)
    rewritten(path, HOSTILE[change])
    with pytest.raises(ValueError, match=r"enemy\.safetensors") as error:
        PatchCore.load(path, device="cpu")
    assert told_apart(str(error.value))
    if "format" in change:
        assert re.search(r"format|version", str(error.value))


@pytest.mark.parametrize("about", ["[]", "null", "7", "{", '"PatchCore"', '{"method": "PatchCore"}',
                                   '{"method": "PatchCore", "format": 3}', '{"method": ["PatchCore"]}'])
@pytest.mark.parametrize("method", METHODS)
def test_files_of_other_programs_are_one_sort_of_error(tmp_path, about, method):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, path, {"adlib": about})
    with safe_open(path, "pt"):
        pass
    with pytest.raises(ValueError, match=r"foreign\.safetensors") as error:
        type(detector(method)).load(path, device="cpu")
    assert told_apart(str(error.value))


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_detector_are_refused_by_name(tmp_path, method):
    rng = np.random.default_rng(0)
    for i, raw in enumerate((b"", b"pickle?", rng.bytes(2000), (2**62).to_bytes(8, "little") + b"{}", b"\0" * 100)):
        path = tmp_path / f"x{i}.safetensors"
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=path.name):
            type(detector(method)).load(path, device="cpu")
    with pytest.raises((ValueError, OSError), match=re.escape(tmp_path.name)):
        PatchCore.load(tmp_path)  # a folder


# ---------------------------------------------------------------------- Ctrl-C


def interrupting(files, after):
    """Samples of the files; the one at `after` is a user who presses Ctrl-C."""

    def stop():
        raise KeyboardInterrupt

    samples = as_samples(files)
    return [*samples[:after], Sample(0, "good", "stop", image_source=stop), *samples[after:]]


@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_keeps_what_was_predicted(tmp_path, method):
    folder = good_folder(tmp_path / "good", 12)
    made = detector(method, batch_size=2).fit(folder)
    whole = made.predict(folder)
    for current in (made, loaded(made, tmp_path)):
        with pytest.raises(KeyboardInterrupt):
            current.predict(interrupting(sorted(folder.iterdir()), 7))
        kept = current.interrupted
        assert 2 <= len(kept.scores) <= 7 and len(kept.maps) == len(kept.samples) == len(kept.scores)
        assert [s.path for s in kept.samples] == [s.path for s in whole.samples][: len(kept.scores)]
        assert kept.scores == pytest.approx(whole.scores[: len(kept.scores)], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_a_real_signal_does_the_same(tmp_path):
    folder = good_folder(tmp_path / "good", 4)
    code = """
        import sys, threading, os, signal, time
        from case_data import detector, picture
        from adlib.datasets import Sample
        import torch
        signal.signal(signal.SIGINT, signal.default_int_handler)
        made = detector(batch_size=2).fit(sys.argv[1])
        def read(i):
            if i == 9:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.02)
            return torch.from_numpy(picture(i)).permute(2, 0, 1).float()
        samples = [Sample(0, "good", f"{i}", image_source=lambda i=i: read(i)) for i in range(200)]
        try:
            made.predict(samples)
            print("NOT INTERRUPTED")
        except KeyboardInterrupt:
            kept = made.interrupted
            print("KEPT", len(kept.scores), [s.path for s in kept.samples] == [str(i) for i in range(len(kept.scores))])
        """
    done = run_script(code, folder)
    found = re.search(r"KEPT (\d+) True", done.stdout)
    assert done.returncode == 0 and found and 2 <= int(found[1]) <= 40, done.stdout + done.stderr


@pytest.mark.parametrize("method", ["simplenet", "efficientad"])
def test_an_interrupted_training_leaves_a_checkpoint(tmp_path, method, monkeypatch):
    folder = good_folder(tmp_path / "good", 10)
    longer = {"epochs": 4} if method == "simplenet" else {"steps": 10}
    whole = detector(method, **longer).fit(folder).predict(folder).scores
    path, steps = tmp_path / "run.safetensors", itertools.count()
    from adlib.training import Training

    update = Training.update

    def press(self, *args, **others):
        if next(steps) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return update(self, *args, **others)

    monkeypatch.setattr(Training, "update", press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start us with SIGINT ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            detector(method, checkpoint=path, **longer).fit(folder)
    finally:
        signal.signal(signal.SIGINT, before)
    assert path.is_file()
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["adlib"])["step"] in (5, 6)  # the step itself may still be done
    monkeypatch.setattr(Training, "update", update)
    made = detector(method, checkpoint=path, **longer).fit(folder)
    assert np.array_equal(made.predict(folder).scores, whole)


# ---------------------------------------------------------------------- fork


FORK = """
    import multiprocessing, sys, torch
    from case_data import detector
    torch.set_num_threads(2)
    made = detector().fit(sys.argv[1])
    made.predict(sys.argv[1])
    def child():
        try:
            made.predict(sys.argv[1])
            print("NO ERROR", flush=True)
        except RuntimeError as error:
            print("SAID", error, flush=True)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    print("HANGS" if process.is_alive() else "ENDED", flush=True)
    process.kill()
"""
SPAWN = """
    import multiprocessing
    import sys

    from adlib import PatchCore

    detector = None

    def start(path):
        global detector
        detector = PatchCore.load(path, device="cpu")

    def score(image):
        return float(detector.predict(image).scores[0])

    if __name__ == "__main__":
        path, *images = sys.argv[1:]
        before = [float(s) for s in PatchCore.load(path, device="cpu").predict(images).scores]
        with multiprocessing.get_context("spawn").Pool(1, start, (path,)) as pool:
            after = pool.map(score, images)
        assert all(abs(a - b) < 1e-4 for a, b in zip(before, after)), (before, after)
        print("SPAWNED", len(after))
"""


@pytest.mark.slow
def test_after_a_fork_predict_says_to_use_spawn(tmp_path):
    done = run_script(FORK, good_folder(tmp_path, 4), threads=2)
    assert "ENDED" in done.stdout and re.search(r"SAID .*spawn", done.stdout), done.stdout + done.stderr


@pytest.mark.slow
def test_with_spawn_it_works(tmp_path):
    folder = good_folder(tmp_path / "good", 4)
    detector().fit(folder).save(tmp_path / "a.safetensors")
    (script := tmp_path / "workers.py").write_text("\n".join(line[4:] for line in SPAWN.splitlines()))
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, script, tmp_path / "a.safetensors", *sorted(folder.iterdir())[:2]],
                          env=env, capture_output=True, text=True, timeout=90)  # fmt: skip
    assert "SPAWNED 2" in done.stdout, done.stdout + done.stderr


# ---------------------------------------------------------------------- large images


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_large_images_cost_what_is_bounded(tmp_path, suffix):
    """Four images of 20 megapixels, read by two threads: together 30 bytes a pixel of one, where it was 84."""
    side = 4480
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    image = Image.fromarray(np.stack([np.broadcast_to(ramp, (side, side)), np.broadcast_to(ramp[:, None], (side, side)),
                                      np.full((side, side), 90, np.uint8)], 2))  # fmt: skip
    for i in range(4):
        image.putpixel((0, 0), (i, i, i))
        image.save(tmp_path / f"{i}{suffix}", **({"compress_level": 1} if suffix == ".png" else {}))
    done = run_script("""
        import resource, sys
        from pathlib import Path
        from case_data import detector, picture
        made = detector(batch_size=2).fit([picture(0), picture(1)])
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        p = made.predict(sorted(Path(sys.argv[1]).iterdir()))
        print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base, len(p.scores) + len(p.failures))
        """, tmp_path, timeout=240)  # fmt: skip
    found = re.search(r"PEAK (\d+) 4", done.stdout)
    assert found, done.stderr
    assert int(found[1]) * 1024 < 30 * side * side, f"{int(found[1]) * 1024 / side**2:.0f} bytes a pixel"


# ---------------------------------------------------------------------- and so on


@pytest.mark.parametrize("name", ["x.png.png", "x.jpg.png", "a.b.c.png", "x.PNG", "-x.png", "x .png"])
def test_odd_names_are_names(tmp_path, name):
    made = detector().fit(good_folder(tmp_path / "good", 4))
    folder = write(tmp_path / "new", {name: eight(picture(9))})
    for source in (folder, [folder / name], folder / name):
        assert [s.path for s in made.predict(source).samples] == [str(folder / name)]


def test_masks_of_doubled_endings_are_found(tmp_path):
    train = good_folder(tmp_path / "train", 1)
    write(tmp_path / "test", {"hole/x.png.png": eight(picture(0)), "good/y.png": eight(picture(1))})
    write(tmp_path / "masks", {"hole/x.png.png": np.full((SIDE, SIDE), 255, np.uint8)})
    defective = next(s for s in ImageFolder(train, tmp_path / "test", tmp_path / "masks").test if s.label)
    assert defective.mask is not None and bool(defective.mask.all())


@pytest.mark.parametrize("value", [1.0000001, 1 + 2**-23])
@pytest.mark.parametrize("form", [np.float32, np.float64, torch.float32])
def test_one_and_a_rounding_error_is_one_or_said_exactly(value, form):
    image = np.full((8, 8, 3), 0.5)
    image[0, 0] = value
    source = torch.tensor(image, dtype=form).permute(2, 0, 1) if form is torch.float32 else image.astype(form)
    try:
        assert float(read_image(source).max()) <= 1
    except ImageError as error:
        assert "to 1," not in str(error).split("expected")[0]  # "0.5 to 1, expected 0 to 1" helps nobody
    with pytest.raises(ImageError, match=r"1\.1"):
        read_image(np.full((8, 8), 1.1))


def test_scores_of_any_type_and_maps_without_pixels_have_clear_answers():
    scores = torch.linspace(0, 1, 19)
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        assert conformal_threshold(scores.to(kind), 0.05) == pytest.approx(1.0)
    for empty in (np.zeros((0, 0)), np.zeros((0, 5)), np.zeros((5, 0))):
        try:
            assert defect_regions(empty, 0.5) == []
        except ValueError as error:
            assert "shape" in str(error) or "pixels" in str(error)


def visa(folder: Path, table: bytes) -> Path:
    write(folder, {f"candle/Data/Images/{kind}/{i}.JPG": eight(picture(i)) for kind in ("Normal", "Anomaly")
                   for i in range(2)})  # fmt: skip
    write(folder, {"candle/Data/Masks/Anomaly/0.png": np.full((SIDE, SIDE), 1, np.uint8)})
    (folder / "split_csv").mkdir()
    (folder / "split_csv" / "1cls.csv").write_bytes(table)
    return folder


@pytest.mark.parametrize("line", [
    b"candle,train,normal,candle/Data/Images/Normal/\xe4\xff.JPG,\n",
    b"candle,train,normal,candle/../../outside.JPG,\n", b"candle,train,normal,/etc/outside.JPG,\n",
    b"\xff\xfec\0a\0n\0",
])  # fmt: skip
def test_visas_table_may_not_bring_foreign_errors_or_paths(tmp_path, line):
    head = b"object,split,label,image,mask\ncandle,train,normal,candle/Data/Images/Normal/0.JPG,\n"
    for name in ("outside.JPG", "root/outside.JPG"):
        write(tmp_path, {name: eight(picture(0))})
    rest = b"candle,test,normal,candle/Data/Images/Normal/1.JPG,\n"
    rest += b"candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png\n"
    with pytest.raises(DatasetError, match=r"1cls\.csv|outside"):
        VisA(visa(tmp_path / "root", head + line + rest), "candle")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "[1, 2", "\x00", '[{"defect_name": 3}]', "7"])
def test_a_strange_loco_table_is_a_dataset_error(tmp_path, text):
    folder = tmp_path / "pushpins"
    names = ("train/good", "validation/good", "test/good", "test/logical_anomalies", "test/structural_anomalies")
    write(folder, {f"{name}/0.png": eight(picture(0)) for name in names})
    for kind in ("logical_anomalies", "structural_anomalies"):
        write(folder, {f"ground_truth/{kind}/0/000.png": np.full((SIDE, SIDE), 255, np.uint8)})
    (folder / "defects_config.json").write_text(text)
    with pytest.raises(DatasetError, match="defects_config"):
        MVTecLOCO(tmp_path, "pushpins")


def test_a_data_set_without_good_test_images_is_told(tmp_path):
    good_folder(tmp_path / "bottle" / "train" / "good", 2)
    write(tmp_path / "bottle", {"test/hole/0.png": eight(picture(0)),
                                "ground_truth/hole/0_mask.png": np.full((SIDE, SIDE), 255, np.uint8)})  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((DatasetError, UserWarning), match="good"):
            MVTecAD(tmp_path, "bottle")
