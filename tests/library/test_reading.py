"""The reading contract: what fit saw is kept, and what contradicts it is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlib.images import ImageError
from adlib.reading import Reading, working_size
from adlib.samples import Sample, as_samples

SIZE = (32, 32)


def contract(images, **options) -> Reading:
    samples = as_samples(images, **options)
    empty = Reading(color=options.get("color", "rgb"))
    return empty.completed([empty.look(sample, SIZE) for sample in samples], samples)


def refuses(reading: Reading, image, **options) -> str:
    with pytest.raises(ImageError) as caught:
        reading.look(as_samples([image], **options)[0], SIZE)
    assert str(caught.value).startswith("image[0]: ")
    return str(caught.value)


def noise(kind: str, high: float, shape=(40, 40), seed=0) -> np.ndarray:
    values = np.random.default_rng(seed).random(shape) * high
    return (values.round() if kind != "float32" else values).astype(kind)


def test_the_maximum_of_training_is_used_for_every_later_image():
    reading = contract([noise("uint16", 4095)], max_value=4095)
    assert reading.maxima == {"uint16": 4095}
    grey = np.full((40, 40), 2047.5 // 1, np.uint16)
    for form in (grey, torch.from_numpy(grey), Image.fromarray(grey)):
        assert reading.look(as_samples([form])[0], SIZE).image.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert "expected 4095" in refuses(reading, grey, max_value=65535)
    assert "values reach" in refuses(reading, noise("uint16", 9000))


@pytest.mark.parametrize(("options", "top", "low"), [({}, 60000, 4095), ({"max_value": 4095}, 4095, 255)])
def test_fewer_bits_in_16_bit_files_are_refused(options, top, low):
    reading = contract([noise("uint16", top), noise("uint16", top, seed=1)], **options)
    assert "it has fewer bits than they" in refuses(reading, noise("uint16", low))
    reading.look(as_samples([noise("uint16", top / 4)])[0], SIZE)  # darker, as a part may be
    assert contract([noise("uint8", 255)]).reach == 0


@pytest.mark.parametrize(("trained", "given"), [("uint8", "uint16"), ("uint16", "uint8"), ("uint8", "int32")])
def test_another_depth_is_refused(trained, given):
    reading = contract([noise(trained, {"uint8": 255, "uint16": 65535}[trained])])
    options = {"max_value": 4095} if given == "int32" else {}
    assert f"holds {given} values, expected {trained}" in refuses(reading, noise(given, 250), **options)


def test_floats_are_scaled_already_and_8_bits_leave_no_doubt():
    for trained, maximum in (("uint8", 255), ("uint16", 65535)):
        look = contract([noise(trained, maximum)]).look(as_samples([noise("float32", 1)])[0], SIZE)
        assert look.maximum == 1
    of_floats = contract([noise("float32", 1)])
    assert of_floats.look(as_samples([noise("uint8", 255)])[0], SIZE).maximum == 255
    assert "holds uint16 values" in refuses(of_floats, noise("uint16", 65535))
    assert of_floats.look(as_samples([noise("uint16", 4000)], max_value=4095)[0], SIZE).maximum == 4095


@pytest.mark.parametrize(("high", "bits"), [(1023, 10), (4095, 12), (16383, 14), (300, 9)])
def test_a_camera_of_fewer_bits_is_asked_about(high, bits):
    images = [noise("uint16", high, seed=k) for k in range(3)]
    with pytest.raises(ValueError, match=f"max_value={2**bits - 1} for a camera of {bits} bits"):
        contract(images)
    assert contract(images, max_value=65535).maxima == {"uint16": 65535}
    contract([*images, noise("uint16", 20000)])  # one bright image among them: 16 bits


def test_training_images_must_agree():
    samples = as_samples([noise("uint16", 4095)], max_value=4095) + as_samples([noise("uint16", 4095)], max_value=8191)
    with pytest.raises(ValueError, match=r"image\[0\]: is read with max_value = 8191, others of its type with 4095"):
        Reading().completed([Reading().look(s, SIZE) for s in samples], samples)


def test_training_images_of_another_shape_are_told():
    wide = [noise("uint8", 255, (40, 80), seed=k) for k in range(4)]
    with pytest.warns(UserWarning, match=r"1 of 5 training images are not of the others' shape, such as image\[4\]"):
        contract([*wide, noise("uint8", 255, (80, 40))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        contract([*wide, noise("uint8", 255, (44, 80))])


def test_another_aspect_or_a_thumbnail_is_refused():
    reading = contract([noise("uint8", 255, (40, 80)), noise("uint8", 255, (44, 80))])
    for height, width in ((40, 80), (36, 85), (54, 80)):
        reading.look(as_samples([noise("uint8", 255, (height, width))])[0], SIZE)
    assert "is 80 × 40 pixels (height × width)" in refuses(reading, noise("uint8", 255, (80, 40)))
    assert "expected at least a quarter" in refuses(reading, noise("uint8", 255, (15, 30)))


def test_swapped_colours_are_seen_where_parts_are_coloured():
    red = np.zeros((40, 40, 3), np.uint8) + np.array([200, 90, 40], np.uint8)
    reading = contract([red, red // 2 + 60])
    assert "red and blue seem to be swapped" in refuses(reading, red[..., ::-1].copy())
    assert "seem to be swapped" in refuses(reading, torch.from_numpy(red[..., ::-1].copy()).permute(2, 0, 1))
    bgr = reading.look(as_samples([red[..., ::-1].copy()], color="bgr")[0], SIZE)
    assert torch.equal(bgr.image, reading.look(as_samples([red])[0], SIZE).image)
    reading.look(as_samples([red[..., ::-1].copy()], color="rgb")[0], SIZE)  # who says so is believed
    reading.look(as_samples([Image.fromarray(red[..., ::-1].copy())])[0], SIZE)  # its order is known
    grey = contract([np.full((40, 40, 3), 99, np.uint8)])
    grey.look(as_samples([red[..., ::-1].copy()])[0], SIZE)


def test_the_file_holds_it_and_nothing_else():
    reading = contract([noise("uint16", 4095)], max_value=4095, color="bgr")
    kept = json.loads(json.dumps(reading.as_json()))
    assert Reading.from_json(kept) == reading
    for key, value in [("maxima", {"uint8": -1}), ("maxima", {"uint8": math.nan}), ("maxima", [1]), ("color", "xyz"),
                       ("aspects", [2, 1]), ("aspects", [1]), ("pixels", -1), ("pixels", 1.5), ("pixels", True),
                       ("reach", -1), ("reach", None),
                       ("red_less_blue", [0, math.nan]), ("aspects", None)]:  # fmt: skip
        with pytest.raises(ValueError, match="reading: "):
            Reading.from_json(kept | {key: value})
    for other in (None, [], "x", {}, {k: v for k, v in kept.items() if k != "pixels"}):
        with pytest.raises(ValueError, match="reading: "):
            Reading.from_json(other)


@pytest.mark.parametrize(("shape", "size"), [
    ((50, 50), (224, 224)), ((400, 1600), (112, 448)), ((1600, 400), (448, 112)), ((500, 1250), (144, 352)),
    ((51, 50), (224, 224)), ((10, 4000), (32, 4480)),
])
def test_the_default_size_keeps_the_aspect_at_one_area(shape, size, tmp_path: Path):
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "a.png")
    for source in (tmp_path, [np.zeros(shape, np.uint8)]):
        assert working_size(as_samples(source), 224, 32) == size


def test_the_default_size_is_of_the_median_and_asks_few_functions():
    calls = []

    def make(index: int):
        calls.append(index)
        return torch.zeros(3, 32, 32 if index % 5 else 128)

    samples = [Sample(0, "good", f"made {i}", image_source=lambda i=i: make(i)) for i in range(200)]
    assert working_size(samples, 224, 32) == (224, 224) and len(calls) <= 31
    broken = [dataclasses.replace(s, image_source=f"no such file {i}") for i, s in enumerate(samples[:2])]
    assert working_size(broken, 224, 32) == (224, 224)


@pytest.mark.parametrize("made", [lambda: None, lambda: 1 / 0, lambda: Path("no such file").read_bytes(),
                                  lambda: np.zeros((40, 50, 3), np.uint8)])
def test_a_function_that_makes_no_image_is_a_failure_like_any_other(made):
    sample = Sample(None, "unlabelled", "made 1", image_source=made)
    with pytest.raises(ImageError, match="^made 1: "):
        _ = sample.image
    with pytest.raises(ImageError, match="^made 1: "):
        _ = sample.size
    with pytest.raises(ImageError, match="^made 1: "):
        Reading().look(sample, SIZE)
    assert working_size([sample], 224, 32) == (224, 224)
