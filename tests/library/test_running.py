"""A detector on a line: frames of a camera, threads, devices, `Detector.load`, and the watch on its scores."""

from __future__ import annotations

import doctest
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from case_data import detector, eight, picture, rewritten
from scipy import stats
from torch import nn

from adlib import Detector, EfficientAD, PatchCore, SimpleNet, drift
from adlib.drift import Watch
from adlib.images import ImageError

METHODS = ("patchcore", "simplenet", "efficientad")

# ---------------------------------------------------------------------- the watch


def draws(seed: int, count: int) -> list[float]:
    return np.random.default_rng(seed).normal(size=count).tolist()


def test_the_example_of_the_watch_shows_what_comes_out():
    assert doctest.testmod(drift) == (0, 3)


def first_alarm(watch: Watch, scores: list[float]) -> int | None:
    return next((t for t, score in enumerate(scores, start=1) if watch.update(score)), None)


@pytest.mark.parametrize("kind", ["equal scores", "few kept", "no first scores"])
def test_the_promise_holds_with_ties_with_few_scores_kept_and_from_nothing(kind, monkeypatch):
    monkeypatch.setattr(drift, "KEPT", 25 if kind == "few kept" else 10_000)
    alarms, count, alpha = 0, 300, 0.1
    for k in range(count):
        scores = [1.0] * 60 if kind == "equal scores" else draws(k, 60)
        watch = Watch([] if kind == "no first scores" else scores[:20], alpha, k)
        alarms += first_alarm(watch, scores[20:]) is not None
        assert kind != "few kept" or len(watch.as_json()["earlier"]) <= 25
    assert alarms <= stats.binom.ppf(0.999, count, alpha)


@pytest.mark.parametrize(("moved", "direction"), [(3, "larger"), (-3, "smaller")])
def test_scores_that_rise_and_scores_that_fall_both_raise_the_alarm(moved, direction):
    for seed in range(10):
        watch, scores = Watch(draws(seed, 46), seed=seed), draws(seed + 100, 60)
        assert first_alarm(watch, scores[:30]) is None and not watch.alarm
        assert (first_alarm(watch, [s + moved for s in scores[30:]]) or 99) <= 15
        assert watch.alarm and watch.direction == direction and direction in repr(watch)
        assert watch.update(0.0), "an alarm stays"


def test_a_blur_that_lasts_gives_no_number_that_is_not_finite():
    watch = Watch(draws(0, 20), 1e-12)
    assert [watch.update(float(t)) for t in range(10, 1500)][-1] and math.isfinite(watch.evidence)


def test_after_a_restart_the_watch_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch):
    monkeypatch.setattr(drift, "KEPT", 30)  # so that the dropping goes on, too
    whole, part = Watch(draws(0, 20), seed=3), Watch(draws(0, 20), seed=3)
    scores = [float(round(s, 1)) for s in draws(1, 60)]  # with ties
    first_alarm(whole, scores)
    first_alarm(part, scores[:25])
    part.save(tmp_path / "line.watch")
    for again in (Watch.from_json(json.loads(json.dumps(part.as_json()))), Watch.load(tmp_path / "line.watch")):
        first_alarm(again, scores[25:])
        assert again.as_json() == whole.as_json()


@pytest.mark.parametrize("score", [math.nan, math.inf, "3", None, [1.0, 2.0], np.ones(2), torch.ones(2)])
def test_a_score_that_is_not_one_number_is_refused_and_changes_nothing(score):
    watch = Watch(draws(0, 20))
    watch.update(np.float32(0.5))
    before = watch.as_json()
    with pytest.raises(ValueError, match="expected one finite number"):
        watch.update(score)
    assert watch.as_json() == before and watch.parts == 1


@pytest.mark.parametrize("change", [
    {"capital": [0.0] * 7}, {"capital": [-1.0] * 8}, {"exponents": [1.0]}, {"parts": -1}, {"parts": 2.5},
    {"earlier": [math.nan] * 21}, {"earlier": []}, {"alpha": 0}, {"seed": "x"},
])  # fmt: skip
def test_a_damaged_state_is_refused(change):
    watch = Watch(draws(0, 20))
    watch.update(0.5)
    with pytest.raises(ValueError, match="expected what Watch.as_json gives"):
        Watch.from_json(watch.as_json() | change)


def test_another_file_is_no_watch(fitted, tmp_path):
    with pytest.raises(ValueError, match="begin a new watch"):
        Watch.from_json(None)
    fitted["patchcore"].save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors: None: expected what Watch"):
        Watch.load(tmp_path / "a.safetensors")


def test_a_watch_begins_with_a_detectors_held_out_parts_or_says_why_it_cannot(fitted):
    assert Watch(fitted["patchcore"]).as_json() == Watch(fitted["patchcore"].normal_scores).as_json()
    with pytest.raises(ValueError, match="has no held-out parts"):
        Watch(detector().fit(images(4)))
    with pytest.raises(ValueError, match="fitted with folds"):
        Watch(detector().fit(images(4), folds=4, alpha=0.2))
    several = detector().fit(images(8), validation=0.5, alpha=0.4, product=list("abababab"))
    with pytest.raises(ValueError, match="several products"):
        Watch(several)
    for wrong in ({"alpha": 0}, {"alpha": 1.0}, {"alpha": math.nan}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Watch([1.0], **wrong)
    with pytest.raises(ValueError, match=r"normal\[1\]"):
        Watch([1.0, math.nan])


# ---------------------------------------------------------------------- frames


def images(count: int, first: int = 0) -> list[np.ndarray]:
    return [eight(picture(first + i)) for i in range(count)]


@pytest.fixture(scope="module")
def fitted() -> dict[str, Detector]:
    return {method: detector(method).fit(images(6), validation=images(4, first=20)) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_frame_gets_what_predict_gives_bit_by_bit(method, fitted):
    rgb = eight(picture(40))
    for frame, color in ((rgb, None), (np.ascontiguousarray(rgb[:, :, ::-1]), "bgr"), (rgb[:, :, 1].copy(), None)):
        answer, whole = fitted[method].predict_frame(frame, color=color), fitted[method].predict(frame, color=color)
        assert answer.score == whole.scores[0] and answer.p_value == whole.p_values[0]
        assert np.array_equal(answer.map, whole.maps[0]) and answer.map.shape == frame.shape[:2]
        assert frame.base is not None or not any(value is frame for value in vars(answer).values())
    assert fitted[method].predict_frame(rgb).score == fitted[method].predict_frame(rgb[:, :, ::-1], color="bgr").score


def test_a_frame_of_12_bits_is_read_with_the_maximum_of_the_training():
    deep = [(image.astype(np.uint16) * 16) for image in images(6)]
    own = detector().fit(deep, max_value=4095)
    answer = own.predict_frame(deep[0])
    assert answer.score == own.predict(deep[0]).scores[0] and answer.p_value is None
    with pytest.raises(ImageError, match="frame: holds uint8 values, expected uint16 with the maximum 4095"):
        own.predict_frame(images(1)[0])
    with pytest.raises(ImageError, match="frame: values reach from .* to 65535"):
        own.predict_frame(np.full_like(deep[0], 65535))


def test_a_frame_that_contradicts_the_contract_is_refused_by_name(fitted):
    own, frame = fitted["patchcore"], eight(picture(40))
    high, width, _ = frame.shape
    wrong = {
        "expected at least a quarter of": frame[: high // 4, : width // 4], "expected the aspect": frame[: high // 2],
        "expected uint8 with the maximum 255": frame.astype(np.uint16), "array of type complex": frame.astype(complex),
        r"array of shape \(1, ": frame[None, None], "C = 1, 3 or 4": frame[:, :, :2], "NaN": frame * np.nan,
        "has no pixels": frame[:0],
    }  # fmt: skip
    for message, bad in wrong.items():
        with pytest.raises(ImageError, match=f"frame: .*{message}"):
            own.predict_frame(bad)
    for bad in ("frame.png", [frame], None):
        with pytest.raises(TypeError, match="for files and lists of images use predict"):
            own.predict_frame(bad)
    with pytest.raises(ValueError, match="color = 'gbr'"):
        own.predict_frame(frame, color="gbr")
    with pytest.raises(RuntimeError, match="not fitted"):
        detector().predict_frame(frame)
    red = [np.stack([image[:, :, 0] // 2 + 120, image[:, :, 1], image[:, :, 2] // 3], 2) for image in images(5)]
    own = detector().fit(red)
    with pytest.raises(ImageError, match="frame: red and blue seem to be swapped"):
        own.predict_frame(red[0][:, :, ::-1])
    assert own.predict_frame(red[0][:, :, ::-1], color="bgr").score == own.predict_frame(red[0]).score


# ---------------------------------------------------------------------- load, devices, threads


@pytest.mark.parametrize("method", METHODS)
def test_load_of_the_base_class_finds_the_class(method, fitted, tmp_path):
    fitted[method].save(path := tmp_path / "a.safetensors")
    own = {"teacher": fitted[method].frozen} if method == "efficientad" else {}
    loaded = Detector.load(path, device="cpu", **own)
    assert type(loaded) is {"patchcore": PatchCore, "simplenet": SimpleNet, "efficientad": EfficientAD}[method]
    frame = eight(picture(41))
    assert loaded.predict_frame(frame).score == fitted[method].predict_frame(frame).score


def test_load_finds_a_method_of_ones_own_and_says_which_it_knows(fitted, tmp_path):
    fitted["patchcore"].save(path := tmp_path / "a.safetensors")
    rewritten(path, lambda about, tensors: about.update(method="OwnCore"))
    with pytest.raises(ValueError, match=r"a\.safetensors: .* of .*EfficientAD, .*found 'OwnCore'; .*import"):
        Detector.load(path, device="cpu")

    class OwnCore(PatchCore):
        pass

    assert type(Detector.load(path, device="cpu")) is OwnCore
    mine = type("PatchCore", (PatchCore,), {})  # as a reader may name a class
    rewritten(path, lambda about, tensors: about.update(method="PatchCore"))
    assert type(Detector.load(path, device="cpu")) is PatchCore is not mine
    with pytest.raises(ValueError, match="expected a SimpleNet"):
        SimpleNet.load(path)
    for method in (None, 3, "nn.Module", "Detector"):
        rewritten(path, lambda about, tensors, method=method: about.update(method=method))
        with pytest.raises(ValueError, match="expected a detector saved by adlib"):
            Detector.load(path, device="cpu")


def test_a_detector_stays_where_it_is_moved():
    own = detector().fit(images(4))
    frame, score = images(1)[0], own.predict_frame(images(1)[0]).score
    own.to("meta")
    assert own.device.type == "meta"
    with pytest.raises((RuntimeError, NotImplementedError)):
        own.predict_frame(frame)
    assert own.memory_bank.device.type == "meta", "predict brings it nowhere"
    one = detector().fit(images(4))
    around = nn.Sequential(one).to("meta")  # as part of another module, too
    assert one.device.type == "meta" and around[0] is one
    assert detector(device="meta").cpu().device.type == "cpu"
    assert detector(device="meta").float().device.type == "meta", "as asked, until something moves it"
    folds = detector().fit(images(4), folds=4, alpha=0.2).to("meta")
    assert {fold.device.type for fold in folds.folds} == {"meta"}
    assert score > 0


ABSENT = [] if torch.cuda.is_available() else ["cuda"]


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:77", "xpu", "", None, *ABSENT])
def test_a_device_that_is_none_is_refused_before_anything_is_computed(device, fitted, tmp_path):
    fitted["patchcore"].save(path := tmp_path / "a.safetensors")
    for make in (lambda: detector(device=device), lambda: Detector.load(path, device=device)):
        with pytest.raises(ValueError, match=f"device = {device!r}: .*expected 'auto'"):
            make()


@pytest.mark.parametrize("move", [
    lambda d: d.half(), lambda d: d.double(), lambda d: d.to(torch.bfloat16), lambda d: d.to("cpu", torch.float16),
    lambda d: nn.Sequential(d).double(),
])  # fmt: skip
def test_another_type_of_weights_is_refused_and_changes_nothing(move, fitted):
    frame = images(1)[0]
    before = fitted["patchcore"].predict_frame(frame).score
    with pytest.raises(TypeError, match=r"expected torch\.float32"):
        move(fitted["patchcore"])
    assert fitted["patchcore"].float().to("cpu", torch.float32).predict_frame(frame).score == before


@pytest.mark.parametrize("method", METHODS)
def test_eight_threads_get_what_one_gets(method, fitted, tmp_path):
    """Also in a detector just loaded, whose search is made ready by whoever comes first."""
    frames = images(20 if method == "patchcore" else 4, first=50)
    alone = [fitted[method].predict_frame(frame) for frame in frames]
    fitted[method].save(path := tmp_path / "a.safetensors")
    own = {"teacher": fitted[method].frozen} if method == "efficientad" else {}
    shared = Detector.load(path, device="cpu", **own)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: [shared.predict_frame(frame) for frame in frames], range(8)))
    for answers in found:
        assert [a.score for a in answers] == [a.score for a in alone]
        assert all(np.array_equal(a.map, b.map) for a, b in zip(answers[::7], alone[::7], strict=True))


def test_detectors_side_by_side_do_not_disturb_each_other(fitted):
    frames = images(5, first=50)
    alone = {method: fitted[method].predict(frames).scores for method in METHODS}
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda method: fitted[method].predict(frames).scores, METHODS * 3))
    for method, scores in zip(METHODS * 3, found, strict=True):
        assert np.array_equal(scores, alone[method])
