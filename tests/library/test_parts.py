"""Parts, products, twins, and fits after fits: what the promise counts, and what belongs together."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from case_data import METHODS, Mean, detector, eight, loaded, picture, write

from adlib.datasets import ImageFolder, Sample, as_samples, hold_out
from adlib.parts import parts_of
from adlib.samples import in_memory


def pictures(first: int, count: int, **shape: int) -> list[np.ndarray]:
    return [eight(picture(first + i, **shape)) for i in range(count)]


def test_number_7_of_one_product_is_not_number_7_of_the_other(tmp_path: Path):
    folder = write(tmp_path, {f"{p}/part{i:02d}_{s}.png": eight(picture(1000 * (p == "B") + 10 * i + s))
                              for p in "AB" for i in range(40) for s in range(2)})  # fmt: skip
    names = {"group": r"part(\d+)_", "product": r"^(\w+)/"}
    assert len(parts_of(as_samples(folder, **names))) == 80
    for way in ({"validation": 0.5}, {"folds": 40}):
        fitted = Mean().fit(folder, **way, **names)
        counts = [sum(product == p for _, product in fitted.normal_parts) for p in "AB"]
        assert counts == ([20, 20] if "validation" in way else [40, 40])
        thresholds = fitted.threshold(0.05)
        assert isinstance(thresholds, dict) and set(thresholds) == {"A", "B"}
    # One number on both sides is only a part on both sides within one product.
    samples = as_samples(folder, **names)
    of_a, of_b = ([s for s in samples if s.product == p] for p in "AB")
    Mean().fit(of_a, validation=of_b)
    with pytest.raises(ValueError, match="its group 07 is also in train"):
        Mean().fit([s for s in of_a if "_0" in s.path], validation=[s for s in of_a if "07_1" in s.path])


@pytest.mark.parametrize("method", METHODS)
def test_a_refit_that_fails_late_changes_nothing(method):
    fitted = detector(method).fit(pictures(0, 12), validation=0.35, alpha=0.25)
    news = pictures(50, 3)
    before, threshold = fitted.predict(news), fitted.threshold(0.25)
    with pytest.raises(ValueError, match="no validation image could be read"):  # known after the training only
        fitted.fit(pictures(100, 12), validation=pictures(200, 4, height=32, width=128))
    after = fitted.predict(news)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert fitted.threshold(0.25) == threshold and len(fitted.held_out.scores) == 4


def test_what_fit_is_told_reaches_samples_that_say_nothing():
    train, held_out = hold_out([eight(picture(i)).astype(np.uint16) * 16 for i in range(30)], 0.3)
    told = Mean().fit(train, validation=held_out, max_value=4095)
    assert told.reading.maxima == {"uint16": 4095.0} and len(told.normal_scores) == 9
    own = [replace(s, max_value=4080.0) for s in train]
    assert Mean().fit(own, max_value=4095).reading.maxima == {"uint16": 4080.0}
    kept = in_memory([replace(s, max_value=4095.0) for s in train])
    assert Mean().fit(kept, max_value=4095).predict(kept[0]).scores == told.predict(train[0]).scores
    trained = Mean().fit(pictures(0, 5))
    frame = eight(picture(9))[..., ::-1]
    assert trained.predict(as_samples([frame]), color="bgr").scores == trained.predict([frame], color="bgr").scores


@pytest.mark.parametrize("made", [
    lambda: torch.full((3, 64, 64), 200.0), lambda: torch.full((3, 64, 64), torch.nan), lambda: torch.zeros(1, 64, 64),
    lambda: torch.zeros(3, 64, 64, dtype=torch.uint8), lambda: np.zeros((64, 64, 3)), lambda: None,
])  # fmt: skip
def test_what_a_function_makes_is_looked_at(made):
    trained = Mean().fit(pictures(0, 5))
    prediction = trained.predict([Sample(None, "new", "made.png", image_source=made), *pictures(9, 1)])
    assert len(prediction.scores) == 1 and "expected" in prediction.failures["made.png"]


def test_8_bits_among_12_are_refused_in_training_too():
    deep = [eight(picture(i)).astype(np.uint16) * 16 for i in range(5)]
    with pytest.warns(UserWarning, match=r"image\[5\]: holds uint8 values, which end at 255"):
        fitted = Mean().fit([*deep, *pictures(9, 1)], max_value=4095)
    assert list(fitted.failures) == ["image[5]"] and fitted.reading.maxima == {"uint16": 4095.0}


def test_a_noisy_product_does_not_stand_apart_from_a_quiet_one():
    flat = [np.full((64, 64, 3), 80 + 2 * i, np.uint8) for i in range(60)]  # one after the other, without a gap
    shown = as_samples([*flat[:40], *flat[50:]], product=["quiet"] * 40 + ["loud"] * 10)
    shown = [*shown[:40], *(replace(s, path=f"loud[{i}]") for i, s in enumerate(shown[40:]))]
    train = as_samples(pictures(0, 2), product=["quiet", "loud"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Mean().fit(train, validation=shown)
    bad = as_samples([np.full((64, 64, 3), 240 - i, np.uint8) for i in range(3)], product=["quiet"] * 3)
    bad = [replace(s, path=f"bad[{i}]") for i, s in enumerate(bad)]
    message = r"3 of 43 held-out parts of the product quiet.*: bad\[0\], bad\[1\], bad\[2\]\. "
    with pytest.warns(UserWarning, match=message) as caught:
        Mean().fit(train, validation=[*shown, *bad])
    assert [Path(w.filename).name for w in caught] == ["test_parts.py"]


def test_every_image_left_out_of_a_fit_is_named(tmp_path: Path):
    broken = [np.full((9, 9, 3), value) for value in (2.0, 3.0)]
    with pytest.warns(UserWarning, match="2 of 12 images left out"):
        fitted = Mean().fit([*pictures(0, 5), broken[0]], validation=[*pictures(20, 5), broken[1]])
    assert set(fitted.failures) == {"image[5]", "image[5] (2)"}
    folder = write(tmp_path, {f"{i}.png": image for i, image in enumerate(pictures(0, 4))})
    (folder / "notes.txt").write_text("no picture")
    for call in (lambda: Mean().fit(folder), lambda: Mean().fit(folder, validation=0.5, alpha=0.5),
                 lambda: hold_out(folder, 0.5), lambda: Mean().fit(pictures(9, 2)).predict(folder)):  # fmt: skip
        with pytest.warns(UserWarning, match=r"notes\.txt") as caught:
            call()
        assert [Path(w.filename).name for w in caught] == ["test_parts.py"]


def test_messages_name_the_product():
    shown = as_samples(pictures(0, 61), product=["a"] * 60 + ["b"])
    with pytest.raises(ValueError, match="product b: 1 images of 1 part"):
        Mean().fit(shown, validation=np.float32(0.35))
    fitted = Mean().fit(shown[:30], validation=as_samples(pictures(100, 25), product=["a"] * 20 + ["b"] * 5))
    with pytest.raises(ValueError, match="product b: 5 held-out normal parts cannot promise"):
        fitted.threshold(0.05)


@pytest.mark.slow
def test_the_tenth_that_efficientad_holds_out_is_of_each_product():
    shown = as_samples(pictures(0, 24), product=["a"] * 21 + ["b"] * 3)
    fitted = detector("efficientad").fit(shown)
    assert {product for _, product in fitted.normal_parts} == {"a", "b"}


def test_one_picture_is_not_two_held_out_parts(tmp_path: Path):
    shots = pictures(0, 20)
    files = write(tmp_path, {f"part{i:02d}_0.png": image for i, image in enumerate(shots)})
    twice = write(tmp_path, {"part03_1.png": shots[3]})
    for source in ([*shots, shots[3]], [*sorted(files.glob("*_0.png")), tmp_path / "part03_0.png"], twice):
        with pytest.raises(ValueError, match=r"(image\[3\]|part03_0\.png) and .* (are one file|hold the same picture)"):
            Mean().fit(source, folds=20)
        with pytest.raises(ValueError, match="one file|same picture"):
            Mean().fit(pictures(50, 3), validation=source)
    # Two pictures of one part may be alike.
    grouped = Mean().fit(twice, folds=20, group=r"(part\d+)_")
    assert len(grouped.normal_scores) == 20


@pytest.mark.parametrize("product", ["x", "(", lambda path: None, lambda path: 1 / 0, ["a", "b"]])
def test_what_is_wrong_with_product_is_not_called_group(product):
    with pytest.raises(ValueError, match="product") as caught:
        as_samples(pictures(0, 1), product=product)
    assert "group" not in str(caught.value)


def test_empty_files_are_left_out_and_are_no_twins(tmp_path: Path):
    folder = write(tmp_path, {f"{i}.png": image for i, image in enumerate(pictures(0, 20))})
    for i in range(6):
        (folder / f"empty{i}.png").touch()
    for way in ({"validation": 0.5}, {"folds": 5}):
        with pytest.warns(UserWarning, match="6 of 26 images left out"):
            assert len(Mean().fit(folder, alpha=0.5, **way).failures) == 6


def test_some_with_and_some_without_a_product_are_refused():
    mixed = as_samples(pictures(0, 40))
    mixed = [replace(s, product="A") if i < 20 else s for i, s in enumerate(mixed)]
    with pytest.raises(ValueError, match=r"image\[20\]: names no product"):
        Mean().fit(pictures(100, 2), validation=mixed)
    with pytest.raises(ValueError, match=r"image\[20\]: names no product"):
        Mean().fit(mixed, folds=20)


@pytest.mark.parametrize("given", [None, 64])
def test_a_loaded_detector_is_fitted_again_as_the_one_that_was_saved(given, tmp_path: Path):
    wide, tall = pictures(0, 3, height=32, width=64), pictures(9, 3, height=64, width=32)
    first = detector(image_size=given, coreset_ratio=0.02).fit(wide)
    again = loaded(first, tmp_path)
    assert again.image_size == first.image_size
    again.fit(tall)
    first.fit(tall)
    assert again.image_size == first.image_size == ((64, 64) if given else (320, 160))


def test_an_image_folder_tells_what_it_passes_over(tmp_path: Path):
    for part in ("train", "test/good"):
        (write(tmp_path / part, {"0.png": pictures(0, 1)[0]}) / "notes.txt").write_text("no picture")
    with pytest.warns(UserWarning, match=r"1 file\(s\) passed over.*notes\.txt") as caught:
        ImageFolder(tmp_path / "train", tmp_path / "test")
    assert [Path(w.filename).name for w in caught] == ["test_parts.py"] * 2


def test_floats_from_0_to_1_are_not_read_as_black():
    fitted = Mean().fit([image.astype(np.float32) for image in pictures(0, 5)], max_value=255)
    small = [picture(9), torch.from_numpy(picture(9)).permute(2, 0, 1).float()]
    prediction = fitted.predict([*small, eight(picture(9)).astype(np.float32)])
    assert len(prediction.scores) == 1 and all("max_value = 255" in reason for reason in prediction.failures.values())
    with pytest.warns(UserWarning, match=r"image\[1\]: holds floats up to"):
        Mean().fit([eight(picture(9)).astype(np.float32), picture(8)], max_value=255)
