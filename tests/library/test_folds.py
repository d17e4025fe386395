"""fit(folds=K): K detectors, the least of their scores, and held-out scores by the one that has not seen the part."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.efficientad.networks import PDN
from adlib.factory import SyntheticFactory
from adlib.parts import deal
from adlib.samples import as_samples

PATCHCORE = {"image_size": 64, "device": "cpu", "coreset_ratio": 0.5}


@pytest.fixture(scope="module")
def factory() -> SyntheticFactory:
    return SyntheticFactory("washer", size=64, n_train=9, n_validation=0, n_test=3, n_defect=5)


def make(method: str) -> PatchCore | SimpleNet | EfficientAD:
    if method == "patchcore":
        return PatchCore(**PATCHCORE)
    if method == "simplenet":
        return SimpleNet(image_size=64, epochs=1, device="cpu")
    return EfficientAD(PDN(width=0.125, seed=0), image_size=64, steps=3, autoencoder_width=0.1, latent=8,
                       penalty_images=False, device="cpu")


def test_it_is_k_detectors_fitted_by_hand(factory):
    images = [s.image for s in factory.train]
    together = PatchCore(**PATCHCORE).fit(images, folds=3, alpha=0.2)
    folds = deal(as_samples(images), 3, seed=0)
    assert sorted(i for fold in folds for i in fold) == list(range(9)) and {len(fold) for fold in folds} == {3}
    alone = [PatchCore(**PATCHCORE).fit([images[i] for i in range(9) if i not in fold]) for fold in folds]
    tests = [s.image for s in factory.test]
    scores = np.min([one.predict(tests).scores for one in alone], axis=0)
    found = together.predict(tests)
    assert found.scores == pytest.approx(scores, rel=1e-5)
    maps = np.min([np.stack(one.predict(tests).maps.grids) for one in alone], axis=0)
    assert np.allclose(np.stack(found.maps.grids), maps, rtol=1e-4, atol=1e-5)
    held = [one.predict([images[i] for i in fold]).scores for one, fold in zip(alone, folds, strict=True)]
    assert together.normal_scores.numpy() == pytest.approx(np.sort(np.concatenate(held)), rel=1e-5)
    assert found.defective(together.threshold(0.2)).tolist() == [p <= 0.2 for p in found.p_values]


@pytest.mark.parametrize("method", ["patchcore", pytest.param("simplenet", marks=pytest.mark.slow),
                                    pytest.param("efficientad", marks=pytest.mark.slow)])  # fmt: skip
def test_saved_and_loaded_alike(method, factory, tmp_path):
    detector = make(method)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two folds promise little; without penalty
        detector.fit(factory.train, folds=2, alpha=0.2)
    expected = detector.predict(factory.test)
    detector.save(tmp_path / "a.safetensors")
    own = {"teacher": detector.frozen} if method == "efficientad" else {}
    again = type(detector).load(tmp_path / "a.safetensors", device="cpu", **own)
    found = again.predict(factory.test)
    assert np.array_equal(found.scores, expected.scores) and np.array_equal(found.p_values, expected.p_values)
    assert all(np.array_equal(a, b) for a, b in zip(found.maps, expected.maps, strict=True))
    assert again.normal_parts == detector.normal_parts and again.threshold(0.2) == detector.threshold(0.2)
    batch = torch.stack([s.image for s in factory.test[:2]])
    assert torch.equal(again(batch)[0], detector(batch)[0])
    place = "teacher" if method == "efficientad" else "features.backbone"
    assert all(fold.frozen is detector.frozen for fold in detector.folds)  # held once, and so written once
    assert not any(f".{place}." in name for name in _names(tmp_path / "a.safetensors"))


def _names(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_parts_and_products_stay_together():
    samples = as_samples([np.full((40, 40, 3), i, np.uint8) for i in range(24)],
                         group=[f"part {i // 2}" for i in range(24)], product=["ab"[i % 4 // 2] for i in range(24)])
    folds = deal(samples, 3, seed=1)
    for fold in folds:
        parts = [samples[i].group for i in fold]
        assert sorted(set(parts)) == sorted(parts[::2]) and len(fold) == 8  # both pictures of each
        assert sum(samples[i].product == "a" for i in fold) == 4
    assert deal(samples, 3, seed=1) == folds != deal(samples, 3, seed=2)


def test_what_cannot_be_promised_is_said_before(factory, monkeypatch):
    monkeypatch.setattr(PatchCore, "_fit", lambda *_: pytest.fail("it began"))
    detector = PatchCore(**PATCHCORE)
    wrong = ((10, 0.2, "expected 2 to 9"), (1, 0.2, "folds = 1"), (3, 0.05, "any number of folds.*10 are missing"))
    for folds, alpha, said in wrong:
        with pytest.raises(ValueError, match=said):
            detector.fit(factory.train, folds=folds, alpha=alpha)
    with pytest.raises(ValueError, match="both given"):
        detector.fit(factory.train, folds=3, validation=0.3)
    with pytest.warns(UserWarning, match="3 folds of 9 parts promise at most 33.3% .* folds=9 promises 20.0%"):
        with pytest.raises(pytest.fail.Exception, match="it began"):
            detector.fit(factory.train, folds=3, alpha=0.2)


def test_a_fit_that_fails_leaves_what_was(factory):
    detector = PatchCore(**PATCHCORE).fit(factory.train[:6], validation=factory.train[6:])
    before, scores = detector.predict(factory.test), detector.normal_scores
    with pytest.raises(ValueError, match="max_value=4095"):
        detector.fit([np.full((50, 100), 4000, np.uint16)])
    after = detector.predict(factory.test)
    assert np.array_equal(before.scores, after.scores) and torch.equal(scores, detector.normal_scores)


def test_one_way_of_fitting_follows_the_other(factory):
    detector = PatchCore(**PATCHCORE).fit(factory.train, folds=3, alpha=0.2)
    plain = detector.fit(factory.train[:6], validation=factory.train[6:]).predict(factory.test)
    assert not detector.folds and np.array_equal(
        plain.scores, PatchCore(**PATCHCORE).fit(factory.train[:6]).predict(factory.test).scores)
    detector.fit(factory.train, folds=3, alpha=0.2)
    assert len(detector.folds) == 3 and not len(detector.memory_bank) and detector.fitted


def test_given_held_out_images_are_counted_where_a_rate_is_asked_for(factory, monkeypatch):
    monkeypatch.setattr(PatchCore, "_fit", lambda *_: pytest.fail("it began"))
    detector = PatchCore(**PATCHCORE)
    with pytest.raises(ValueError, match="4 held-out normal parts cannot promise a false-alarm rate of 0.1"):
        detector.fit(factory.train[:5], validation=factory.train[5:], alpha=0.1)
    for alpha in (0, 5, float("nan"), True):
        with pytest.raises(ValueError, match="alpha = "):
            detector.fit(factory.train, alpha=alpha)
