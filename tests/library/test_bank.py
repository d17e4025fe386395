"""A memory bank from chunks, on a cluster, and with more good pictures: each against its exact counterpart."""

import itertools
import math
import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.chunks import cover, join, k_center_chunks
from adlib.coreset import covering_radius, k_center_greedy
from adlib.datasets import Sample, SyntheticFactory, in_memory
from adlib.neighbors import k_nearest
from adlib.parts import largest_of_parts
from adlib.simplenet import fold, unfold


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(a, b):
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


def radius(bank, kept):
    return max(min(distance(m, c) for c in kept) for m in bank)


def tiny(**options):
    return PatchCore(**({"pretrained": False, "image_size": 64, "device": "cpu", "batch_size": 4} | options))


@pytest.fixture(scope="module")
def factory():
    data = SyntheticFactory("fabric", size=64, n_train=12, n_validation=5, n_test=3, n_defect=3)
    return in_memory(data.train), in_memory(data.validation), in_memory(data.test)


def test_with_too_few_centres_for_each_chunk_no_factor_holds():
    """What (2.22) does not cover: one chunk has two far points and keeps one, so no second round can mend it."""
    bank = torch.tensor([[0.0], [1000.0], [0.0], [1.0]])
    found = k_center_chunks(bank.split(2), 2, per_chunk=1)
    best = min(radius(bank, bank[list(choice)]) for choice in itertools.combinations(range(4), 2))
    assert best == 1 and radius(bank, found.rows) >= 999 and found.least <= best


# ---------------------------------------------------------------------- chunks


def test_one_chunk_is_the_greedy_selection_itself_and_ties_go_alike():
    grid = torch.randint(0, 6, (300, 3), generator=torch.Generator().manual_seed(0)).float()
    for n in (1, 40, 150):
        assert torch.equal(k_center_chunks([grid], n, seed=5).indices, k_center_greedy(grid, n, seed=5))


def test_a_selection_goes_on_where_it_stopped():
    rows = draw(3000, 5)
    whole = k_center_greedy(rows, 400, seed=1)
    for given in (1, 30, 399, 400):
        assert torch.equal(k_center_greedy(rows, 400, start=whole[:given]), whole)


def test_cover_knows_its_radius():
    rows = draw(500, 4).float()
    for n in (1, 60, 499, 500):
        found = cover(rows, n, seed=2)
        assert found.radius == pytest.approx(covering_radius(rows, found.indices), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: k_center_chunks([], 1), "n = 1 centres of 0 chunks"),
    (lambda: k_center_chunks([torch.zeros(5, 2)], 4, per_chunk=3), "keep 3 in all: expected 1 to 3"),
    (lambda: k_center_chunks([torch.zeros(5, 2)], 0), "n = 0"),
    (lambda: k_center_chunks([torch.full((5, 2), torch.nan)], 2), "finite"),
    (lambda: cover(torch.zeros(5, 2), 6), "n = 6 centres of 5 rows"),
    (lambda: k_center_greedy(torch.zeros(5, 2), 2, start=torch.tensor([1, 1])), "expected an index"),
    (lambda: k_center_greedy(torch.zeros(5, 2), 2, start=torch.tensor([1, 5])), "expected an index"),
    (lambda: tiny(chunk=0), "chunk = 0"),
    (lambda: tiny(chunk=2.5), "chunk = 2.5"),
    (lambda: tiny(chunk=5, selection="random"), "leave chunk out"),
])  # fmt: skip
def test_bad_input_of_chunks(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_a_bank_from_chunks_is_that_of_the_plain_function(factory):
    train, validation, test = factory
    whole = tiny().fit(train, validation=validation)
    one = tiny(chunk=100).fit(train, validation=validation)
    assert torch.equal(one.memory_bank, whole.memory_bank) and torch.equal(one.normal_scores, whole.normal_scores)
    everything = tiny(coreset_ratio=1).fit(train).memory_bank  # 12 × 64 patches
    chunked = tiny(chunk=5).fit(train, validation=validation)
    rows = [everything[k * 64 : min(k + 5, 12) * 64] for k in (0, 5, 10)]
    n, share = len(everything) // 10, [int(0.2 * len(some)) for some in rows]
    expected = join([cover(some, m) for some, m in zip(rows, share, strict=True)], n)
    assert torch.allclose(chunked.memory_bank, expected.rows, atol=1e-5)  # batches are cut elsewhere
    assert float(chunked.bank_radius) == pytest.approx(expected.radius, rel=1e-4)
    exact = float(k_nearest(everything, chunked.memory_bank)[0].max())
    assert float(whole.bank_radius) <= exact <= float(chunked.bank_radius)
    again = tiny(chunk=5, max_memory=1e12).fit(train, validation=validation)
    assert torch.equal(again.memory_bank, chunked.memory_bank)
    assert chunked.predict(test).scores == pytest.approx(whole.predict(test).scores, rel=0.2)


def test_the_plan_for_seven_thousand_images_and_the_way_out(factory):
    detector = tiny(image_size=256, max_memory=2e9, coreset_ratio=0.01)
    with pytest.raises(ValueError, match=r"Pass chunk=(\d+)") as refused:
        detector._plan(7000)
    chunk = int(re.search(r"chunk=(\d+)", str(refused.value))[1])
    allowed = tiny(image_size=256, max_memory=2e9, coreset_ratio=0.01, chunk=chunk)
    allowed._plan(7000)
    assert 1.8e9 < allowed.memory_needed(7000) <= 2e9
    # By hand, at chunk 400: 1,024 patches of 288 numbers an image; a chunk, its copy and its centres, what stands
    # beside each row, and the centres of all chunks. The second round is smaller.
    row = 288 * 4
    by_hand = 400 * 1024 * (2.02 * row + 28) + 7000 * 1024 * 0.02 * row
    assert tiny(image_size=256, coreset_ratio=0.01, chunk=400).memory_needed(7000) == round(by_hand) < 1.2e9
    with pytest.raises(ValueError, match=r"Pass chunk=\d+ and coreset_ratio=0.05:"):
        tiny(image_size=256, max_memory=2.5e9)._plan(7000)  # a tenth of the patches: 0.8 GB, and what selecting takes


def test_a_bad_image_and_other_bad_input_in_chunks(factory, tmp_path):
    train, validation, _ = factory
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    with pytest.warns(UserWarning, match="1 of 8 images left out"):
        detector = tiny(chunk=1).fit([*train[:7], broken])
    assert list(detector.failures) == [str(broken)] and detector.reading.pixels == 64 * 64
    before = detector.memory_bank
    with pytest.raises(ValueError, match="none of the 1 training images"):
        detector.fit(broken)
    assert detector.memory_bank is before
    with pytest.raises(ValueError, match="folds and chunk are both given"):
        tiny(chunk=4).fit(train, folds=3, alpha=0.3)


# ---------------------------------------------------------------------- a cluster


def test_a_worker_that_dies_loses_nothing(factory, tmp_path):
    distributed = pytest.importorskip("distributed")
    from adlib.cluster import fit_on

    train, validation, _ = factory
    mark, image = tmp_path / "died", train[6].image

    def deadly():  # a function of this one, so that it is sent as it is
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return image

    train = [*train[:6], replace(train[6], image_source=deadly), *train[7:]]
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": 0}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        found = fit_on(client, tiny(chunk=3), train, validation=validation)
        with pytest.raises(ValueError, match=r"expected PatchCore\(chunk="):
            fit_on(client, tiny(), train)
    assert mark.exists()
    alone = tiny(chunk=3).fit(train, validation=validation)
    for name in ("memory_bank", "bank_radius", "normal_scores", "normal_peaks"):
        assert torch.equal(getattr(found, name), getattr(alone, name)), name
    assert found.reading == alone.reading and found.runner is alone.runner


# ---------------------------------------------------------------------- more good pictures


@pytest.mark.parametrize("chunk", [None, 2])
def test_extend_renews_bank_radius_and_held_out_scores(factory, chunk):
    train, validation, test = factory
    detector = tiny(chunk=chunk, reweighting=None).fit(train[:7], validation=validation)
    old, before = detector.memory_bank, detector.predict(test).scores
    detector.extend(train[7:])
    everything = tiny(coreset_ratio=1).fit(train).memory_bank
    added = [5 * 64] if chunk is None else [2 * 64, 2 * 64, 64]
    assert len(detector.memory_bank) == len(old) + sum(m // 10 for m in added)
    assert torch.equal(detector.memory_bank[: len(old)], old)
    exact = float(k_nearest(everything, detector.memory_bank)[0].max())
    assert exact <= float(detector.bank_radius) * (1 + 1e-6)
    if chunk is None:  # against a fit on all: at most twice the best radius of old and of new, by as many centres
        assert exact <= 2 * float(tiny().fit(train).bank_radius)
    after = detector.predict(validation)
    scores, _, parts = largest_of_parts(after.samples, after.scores, after.scores)
    assert detector.normal_scores.tolist() == scores.tolist() and detector.normal_parts == parts
    assert (detector.predict(test).scores <= before + 1e-5).all()  # more is known, so nothing looks odder


def test_extend_of_a_file_needs_held_out_pictures_or_gives_up_the_promise(factory, tmp_path):
    train, validation, test = factory
    fitted = tiny().fit(train[:7], validation=validation)
    fitted.save(tmp_path / "a.safetensors")

    def loaded():
        return PatchCore.load(tmp_path / "a.safetensors", device="cpu")

    for options in ({}, {"validation": 0.3}):
        detector = loaded()
        with pytest.raises(ValueError, match="scores of the 5 held-out parts.*expected validation="):
            detector.extend(train[7:], **options)
        assert torch.equal(detector.memory_bank, fitted.memory_bank) and len(detector.normal_scores) == 5
    detector = loaded().extend(train[7:], validation=validation)
    fitted.extend(train[7:])
    for name in ("memory_bank", "bank_radius", "normal_scores", "normal_peaks"):
        assert torch.equal(getattr(detector, name), getattr(fitted, name)), name
    without = loaded().extend(train[7:], validation=False)
    assert torch.equal(without.memory_bank, fitted.memory_bank) and without.predict(test).p_values is None
    with pytest.raises(ValueError, match="no held-out images"):
        without.threshold(0.2)
    assert without.extend(test[:1]).held_out is None


def test_extend_with_a_share_holds_parts_out_beside_the_old_ones(factory):
    train, validation, _ = factory
    detector = tiny().fit(train[:6], validation=validation)
    detector.extend(train[6:], validation=0.34)
    assert len(detector.normal_scores) == len(validation) + 2
    assert {name for name, _ in detector.normal_parts} > {s.path for s in validation}
    assert np.all(np.diff(detector.normal_scores) >= 0)


def test_extend_counts_the_bank_that_is_there_and_refuses_too_much(factory):
    train, _, _ = factory
    detector = tiny(coreset_ratio=1.0).fit(train[:6])
    detector.max_memory = 4 * detector.memory_bank.numel() * 4.5  # enough for twice the bank of six, not for more
    before = detector.memory_bank
    with pytest.raises(ValueError, match=r"memory bank of [\d,]+ patches and [\d,]+ new ones need .*smaller chunk="):
        detector.extend(train[6:], validation=False)
    assert detector.memory_bank is before


def test_bad_input_of_extend(factory, tmp_path):
    train, validation, test = factory
    parts = [replace(s, group=f"part {i}") for i, s in enumerate(validation)]
    detector = tiny().fit(train[:7], validation=parts)
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    again = Sample(0, "good", "another picture", "part 3", image_source=torch.rand(3, 64, 64))
    cases = [
        ([again], {}, "its group part 3 is also in train"),
        ([validation[2]], {}, "in train and in validation"),
        ([s for s in test if s.label], {}, "labelled anomalous"),
        (train[7:], {"validation": [s for s in test if s.label]}, "labelled anomalous"),
        (train[7:], {"validation": train[7:]}, "in train and in validation"),
        (train[7:], {"validation": 1.5}, "held-out share is 1.5"),
        (train[7:], {"old": train[:7]}, "leave old= out"),
        (torch.rand(3, 16, 64), {}, "none of the 1 new images could be used.*aspect"),
        ((torch.rand(4, 64, 64, 3) * 4000).to(torch.uint16), {}, "none of the 4 new images could be used"),
        ([], {}, "source is empty"),
        (tmp_path / "nowhere", {}, "does not exist"),
    ]
    for images, options, words in cases:
        with pytest.raises(ValueError, match=words):
            detector.extend(images, **options)
        assert all(torch.equal(value, state[name]) for name, value in detector.state_dict().items())
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"1 of \d+ images left out"):
        detector.extend([*train[7:], tmp_path / "b.png"])
    with pytest.raises(RuntimeError, match="not fitted"):
        tiny().extend(train)
    with pytest.raises(ValueError, match="a detector of folds cannot be extended"):
        tiny().fit(train[:4], folds=4, alpha=0.2).extend(train[4:])


def test_an_interrupt_in_extend_changes_nothing(factory, monkeypatch):
    train, validation, _ = factory
    detector = tiny().fit(train[:7], validation=validation)
    bank, scores, held_out = detector.memory_bank, detector.normal_scores, detector.held_out

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PatchCore, "predict", interrupt)
        with pytest.raises(KeyboardInterrupt):
            detector.extend(train[7:])
    assert detector.memory_bank is bank and detector.normal_scores is scores and detector.held_out is held_out


def test_a_warm_start_starts_from_the_function_that_was_learnt(factory):
    train, validation, test = factory
    detector = SimpleNet(pretrained=False, image_size=64, device="cpu", epochs=4).fit(train[:7], validation=validation)
    features = torch.randn(3, 40, 288, generator=torch.Generator().manual_seed(0)) * 2
    head = unfold(detector.weight, detector.bias, detector.last, features, 0.3)
    for a, b in zip(fold(head.eval()), (detector.weight, detector.bias, detector.last), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    rows, noise = features.flatten(0, 1), torch.randn(120, 288, generator=torch.Generator().manual_seed(1)) * 0.3
    with torch.no_grad():
        training, _ = head.train().forward_pair(rows, noise)  # batch statistics are almost those of all rows
        assert float((training - head.eval()(rows)).abs().mean()) < 0.05 * float(training.std())
    with pytest.raises(ValueError, match="SimpleNet forgets what it is not shown.*expected old="):
        detector.extend(train[7:])
    old = detector.normal_scores
    detector.extend(train[7:], old=train[:7])
    assert len(detector.history["loss"]) == 1 * 3 and len(detector.normal_scores) == len(old)
    assert not torch.equal(detector.normal_scores, old)


def test_efficientad_goes_on_with_copies(factory):
    train, validation, _ = factory
    small = {"autoencoder_width": 0.25, "latent": 8, "steps": 4}
    detector = EfficientAD(pretrained=False, image_size=64, device="cpu", **small).fit(train[:7], validation=validation)
    student, weights = detector.student, [p.clone() for p in detector.student.parameters()]
    with pytest.raises(ValueError, match="cannot do without held-out pictures"):
        detector.extend(train[7:], old=train[:7], validation=False)
    detector.extend(train[7:], old=train[:7])
    assert len(detector.history["loss"]) == 1
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), weights, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(detector.student.parameters(), weights, strict=True))
    assert len(detector.normal_scores) == 5 and detector.quantiles.shape == (2, 2)
