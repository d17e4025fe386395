"""SimpleNet: inputs, a killed run, folding, features on disk, saving, export, and bad input."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adlib import PatchCore, SimpleNet
from adlib.datasets import SyntheticFactory
from adlib.files import read_tensors
from adlib.simplenet import Head, fold, noise_level, score_patches, train_head, truncated_l1
from adlib.training import Training, epoch_order


def tiny(**options):
    return SimpleNet(**({"pretrained": False, "image_size": 64, "epochs": 2, "device": "cpu"} | options))


@pytest.fixture(scope="module")
def factory():
    return SyntheticFactory("fabric", size=64, n_train=9, n_validation=6, n_test=3, n_defect=5)


@pytest.fixture(scope="module")
def fitted(factory):
    return tiny().fit(factory.train, validation=factory.validation)


def same(a: SimpleNet, b: SimpleNet) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("weight", "bias", "last"))


# ---------------------------------------------------------------------- the detector


def test_prediction_has_the_promised_form(fitted, factory):
    p = fitted.predict(factory.test)
    n = len(factory.test)
    assert p.scores.shape == (n,) and p.scores.dtype == np.float32 and len(p.samples) == len(p.maps) == n
    assert all(m.shape == (64, 64) and m.dtype == np.float32 and np.isfinite(m).all() for m in p.maps)
    assert len(fitted.normal_scores) == 6 and not fitted.weight.requires_grad
    assert {name: len(values) for name, values in fitted.history.items()} == {"loss": 6, "normal": 6, "noisy": 6}


def test_it_finds_what_is_plainly_odd(factory):
    good = [s.image for s in factory.train] + [s.image for s in factory.validation]
    odd = [image.clone() for image in good[9:]]
    for image in odd:
        image[:, 20:44, 20:44] = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    detector = SimpleNet(image_size=64, epochs=60, device="cpu").fit(good[:9])
    p_good, p_odd = detector.predict(good[9:]), detector.predict(odd)
    assert p_odd.scores.min() > p_good.scores.max()
    for found in p_odd.maps:
        row, column = np.unravel_index(found.argmax(), found.shape)
        assert 16 <= row < 48 and 16 <= column < 48


def test_the_image_score_is_the_largest_raw_patch_score(fitted):
    batch = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    scores, grids = fitted.patch_scores(batch)
    assert torch.equal(scores, grids.amax((1, 2))) and grids.shape == (2, 8, 8)
    assert fitted(batch)[1].shape == (2, 64, 64)


def test_the_same_seed_gives_the_same_weights_and_touches_no_global_state(factory):
    state = torch.get_rng_state()
    a, b, c = (tiny(seed=s).fit(factory.train) for s in (0, 0, 1))
    assert same(a, b) and not same(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def test_fitting_again_starts_anew(factory, fitted):
    detector = tiny().fit(factory.train[:4])
    assert same(detector.fit(factory.train), fitted)


@pytest.mark.parametrize("options", [{}, {"adaptor": "none", "stride": 2}, {"adaptor_bias": True, "hidden": 7}])
def test_saved_and_loaded_it_scores_the_same(factory, tmp_path, options):
    detector = tiny(**options).fit(factory.train, validation=factory.validation)
    detector.save(tmp_path / "a.safetensors")
    again = SimpleNet.load(tmp_path / "a.safetensors", device="cpu")
    assert np.array_equal(again.predict(factory.test).scores, detector.predict(factory.test).scores)
    assert again.config() == detector.config() and torch.equal(again.normal_scores, detector.normal_scores)
    with pytest.raises(ValueError, match="expected a PatchCore"):
        PatchCore.load(tmp_path / "a.safetensors")


def test_it_can_be_exported(fitted):
    batch = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        exported = torch.export.export(fitted.eval(), (batch,)).module()
        for found, expected in zip(exported(batch), fitted(batch), strict=True):
            torch.testing.assert_close(found, expected)


def test_two_steps_of_the_papers_configuration():
    paper = SimpleNet(**SimpleNet.PAPER | {"epochs": 2}, pretrained=False, device="cpu")
    images = torch.rand(1, 3, 329, 360, generator=torch.Generator().manual_seed(0))
    paper.fit(list(images))
    assert paper.weight.shape == (1024, 1536) and paper.noise == 0.015 and len(paper.history["loss"]) == 2
    scores, maps = paper(images[:1, :, 20:308, 36:324])
    assert maps.shape == (1, 288, 288) and torch.isfinite(maps).all()
    assert np.allclose(paper.predict([images[0]]).scores, scores.numpy(), rtol=1e-4)  # the same middle


def test_adamw_is_torchs():
    features = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
    options: dict = {"images_per_step": 4, "learning_rates": (0.1, 0.2), "decay": "none", "noise": 0.3}
    found = train_head(features, epochs=3, adamw=True, **options)
    head = Head(6)
    adaptor = torch.optim.AdamW(head.adaptor.parameters(), lr=0.1)  # its weight decay is 1e-2
    rest = [p for name, p in head.named_parameters() if not name.startswith("adaptor.")]
    others = torch.optim.Adam(rest, lr=0.2, weight_decay=1e-5)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        rows = features[epoch_order(4, 0, step)].flatten(0, 1)
        loss = truncated_l1(*head.forward_pair(rows, torch.randn(rows.shape, generator=generator) * 0.3))
        adaptor.zero_grad(), others.zero_grad(), loss.backward(), adaptor.step(), others.step()
    torch.testing.assert_close(found.state_dict(), head.state_dict(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(train_head(features, epochs=3, **options).adaptor.weight, found.adaptor.weight, atol=1e-4)


# ---------------------------------------------------------------------- features, kept once


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.calls = nn.Conv2d(3, 6, 8, 8), 0

    def forward(self, x):
        self.calls += len(x)
        return {"layer2": self.convolution(x).relu()}


def test_features_are_computed_once_and_not_once_an_epoch(factory):
    detector = tiny(backbone=Counting(), layers=("layer2",), epochs=7)
    before = detector.features.backbone.calls
    detector.fit(factory.train)
    assert detector.features.backbone.calls - before == len(factory.train) + 1  # and one blank image for the plan


def test_features_on_disk_give_the_same_weights_and_leave_nothing(factory, fitted, tmp_path):
    detector = tiny(max_memory=1000, features_folder=tmp_path)
    needed = 9 * 64 * 288 * 4
    assert detector.memory_needed(9) == needed and f"on disk in {tmp_path}" in detector._plan(9)
    assert same(detector.fit(factory.train), fitted)
    assert list(tmp_path.iterdir()) == []
    assert "in memory" in fitted._plan(9)


def test_too_little_disk_is_said_before_the_work(factory, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(ValueError, match="664 kB, max_memory is 1 kB, and .* has 10 B free"):
        tiny(max_memory=1000, features_folder=tmp_path).fit(factory.train)


ON_DISK = """
import sys, time
from adlib import SimpleNet
from adlib.datasets import SyntheticFactory
from adlib.training import Training, epoch_order
Training.update = lambda *_, **__: (print("training", flush=True), time.sleep(600))
data = SyntheticFactory("fabric", size=64, n_train=2, n_validation=0, n_test=0, n_defect=0)
SimpleNet(pretrained=False, image_size=64, device="cpu", max_memory=1000, features_folder=sys.argv[1]).fit(data.train)
"""


def test_a_killed_run_leaves_no_features(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ON_DISK, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "training\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and list(tmp_path.iterdir()) == []
    process.stdout.close()


def test_a_disk_that_is_full_by_then_is_told_in_words(factory, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="no room for 664 kB of features .No space left on device.: give another") as told:
        tiny(max_memory=1000, features_folder=tmp_path).fit(factory.train)
    assert told.value.errno == errno.ENOSPC and str(tmp_path) in str(told.value) and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- training


def test_ctrl_c_writes_the_checkpoint_and_the_same_fit_goes_on(factory, fitted, tmp_path, monkeypatch):
    path, update = tmp_path / "run.safetensors", Training.update

    def interrupted(self, *args, **values):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        update(self, *args, **values)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background inherit "ignore"
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="after 3 of 6 steps"):
            patch.setattr(Training, "update", interrupted)
            tiny(checkpoint=path).fit(factory.train)
    finally:
        signal.signal(signal.SIGINT, before)
    assert read_tensors(path)[0]["step"] == 3
    assert same(tiny(checkpoint=path).fit(factory.train), fitted)


SCRIPT = """
import sys, time, torch
from adlib import SimpleNet
from adlib.datasets import SyntheticFactory
from adlib.training import Training, epoch_order
torch.set_num_threads(1)
update = Training.update
def slow(self, *args, **values):
    update(self, *args, **values)
    print(self.step, flush=True)
    time.sleep(float(sys.argv[3]))
Training.update = slow
save = Training.__init__
def often(self, *args, **values):
    save(self, *args, **values)
    self.save_every = 0.0
    print("from", self.step, flush=True)
Training.__init__ = often
data = SyntheticFactory("fabric", size=64, n_train=9, n_validation=0, n_test=0, n_defect=0)
detector = SimpleNet(pretrained=False, image_size=64, epochs=12, device="cpu", checkpoint=sys.argv[1])
detector.fit(data.train).save(sys.argv[2])
"""


def start(folder: Path, name: str, pause: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder / f"{name}.checkpoint"), str(folder / name),
                             str(pause)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_a_run_killed_at_random_steps_ends_with_the_same_weights(tmp_path):
    """36 steps; killed twice in the middle of an epoch, so that the order of the images must be found again."""
    assert start(tmp_path, "unbroken", 0).wait() == 0
    rng = random.Random(4)
    for _ in range(2):
        process = start(tmp_path, "broken", 0.03)
        last = int(process.stdout.readline().split()[1]) + rng.randint(4, 14)
        for line in process.stdout:
            if int(line) >= last:
                break
        time.sleep(rng.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    process = start(tmp_path, "broken", 0)
    steps = process.stdout.read().splitlines()
    assert process.wait() == 0 and int(steps[0].split()[1]) > 0
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "unbroken").read_bytes()


def test_a_checkpoint_of_other_images_or_settings_is_refused(factory, tmp_path):
    path = tmp_path / "run.safetensors"
    tiny(checkpoint=path).fit(factory.train)
    tiny(checkpoint=path).fit(factory.train)
    train, others = factory.train, factory.validation
    for options, images in (({}, others), ({"noise_ratio": 0.5}, train), ({"seed": 1}, train), ({"epochs": 3}, train),
                            ({"neighbourhood": 1}, train)):
        with pytest.raises(ValueError, match="other settings"):
            tiny(checkpoint=path, **options).fit(images)


def test_the_loss_falls_and_the_last_epoch_is_the_result():
    features = torch.randn(6, 40, 5, generator=torch.Generator().manual_seed(0)) @ torch.eye(5, 24)
    seen, history = [], {}
    head = train_head(features, epochs=30, noise=1.0, history=history, learning_rates=(5e-3, 1e-2),
                      after_epoch=lambda epoch, h: seen.append((epoch, h.training, h.last.weight.detach().clone())))
    assert [epoch for epoch, _, _ in seen] == list(range(1, 31)) and not any(training for _, training, _ in seen)
    assert torch.equal(seen[-1][2], head.last.weight) and not head.training
    assert np.mean(history["loss"][-6:]) < 0.5 * np.mean(history["loss"][:6])


def test_watching_changes_nothing():
    features = torch.randn(6, 40, 8, generator=torch.Generator().manual_seed(0))
    a = train_head(features, epochs=3)
    b = train_head(features, epochs=3, after_epoch=lambda epoch, head: head(features[0]))
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_another_loss_can_be_given():
    def cross_entropy(normal, noisy):
        return nn.functional.softplus(-normal).mean() + nn.functional.softplus(noisy).mean()

    features = torch.randn(4, 30, 8, generator=torch.Generator().manual_seed(0))
    a, b = train_head(features, epochs=2, loss=cross_entropy), train_head(features, epochs=2)
    assert not torch.equal(a.last.weight, b.last.weight)


def test_one_product_for_both_is_the_same_function():
    """D(q) and D(q⁻) by the shortcut W₁q + W₁ε, against the discriminator applied to the stacked features."""
    head, o = Head(9, hidden=5).double(), torch.randn(20, 9, dtype=torch.float64)
    noise = 0.1 * torch.randn(20, 9, dtype=torch.float64)
    found = torch.cat(head.forward_pair(o, noise))
    q = head.adaptor(o)
    expected = head._above(head.first(torch.cat([q, q + noise])))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for a, b in zip(torch.autograd.grad(found.sin().sum(), list(head.parameters())),
                    torch.autograd.grad(expected.sin().sum(), list(head.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_new_weights_have_the_scale_of_xavier():
    head = Head(300, hidden=200, seed=3)
    assert head.adaptor.weight.std().item() == pytest.approx((2 / 600) ** 0.5, rel=0.02)
    assert head.first.weight.std().item() == pytest.approx((2 / 500) ** 0.5, rel=0.02)
    assert head.adaptor.bias is None and Head(12).first.out_features == 8


def test_folded_layers_score_like_the_head():
    features = torch.randn(5, 40, 12, generator=torch.Generator().manual_seed(0))
    head = train_head(features, epochs=3).double()
    rows = features[0].double()
    assert (score_patches(rows, *fold(head)) + head(rows)).abs().max() < 1e-10


# ---------------------------------------------------------------------- bad input


def test_no_images_and_one_image(factory):
    with pytest.raises(ValueError, match="none of the 0 training images|no images|empty"):
        tiny().fit([])
    one = tiny().fit(factory.train[:1])
    assert np.isfinite(one.predict(factory.test).scores).all()


def test_constant_images_say_what_is_missing(factory):
    class Flat(Counting):
        def forward(self, x):
            return {"layer2": self.convolution(0 * x).relu() + 1}

    with pytest.raises(ValueError, match="all alike"):
        tiny(backbone=Flat(), layers=("layer2",)).fit(factory.train)
    detector = tiny(backbone=Flat(), layers=("layer2",), noise=0.1).fit(factory.train)
    assert np.isfinite(detector.predict(factory.test).scores).all()
    constant = [torch.full((3, 64, 64), 0.5)] * 4  # a real backbone: the border differs from the middle
    assert np.isfinite(tiny().fit(constant).predict(constant).scores).all()


def test_features_that_are_not_finite_are_refused(factory):
    class Broken(Counting):
        def forward(self, x):
            return {"layer2": self.convolution(x) * torch.nan}

    with pytest.raises(ValueError, match="not finite"):
        tiny(backbone=Broken(), layers=("layer2",)).fit(factory.train)


@pytest.mark.parametrize(("options", "message"), [
    ({"epochs": 0}, "epochs = 0"), ({"images_per_step": 0}, "images_per_step = 0"), ({"noise": 0.0}, "noise = 0.0"),
    ({"noise": float("nan")}, "noise = nan"), ({"noise_ratio": -1.0}, "noise_ratio = -1"),
    ({"adaptor": "deep"}, "adaptor = 'deep'"), ({"adaptor": "mlp"}, "adaptor = 'mlp'"), ({"hidden": 0}, "hidden = 0"),
    ({"decay": "step"}, "decay = 'step'"), ({"learning_rates": (1e-3, 0.0)}, "learning_rates"),
    ({"learning_rates": (1e-3,)}, "learning_rates"),
])
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_a_defective_training_image_and_predicting_too_early(factory):
    with pytest.raises(ValueError, match="normal images only"):
        tiny().fit(factory.test)
    with pytest.raises(RuntimeError, match="SimpleNet is not fitted"):
        tiny().predict(factory.test)


def test_features_of_another_shape_are_refused():
    for shape in ((4, 8), (0, 3, 8), (2, 3, 4, 5)):
        with pytest.raises(ValueError, match="images, patches, channels"):
            train_head(torch.zeros(shape))
    with pytest.raises(ValueError, match="all alike"):
        noise_level(torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match="NaN or infinite"):
        train_head(torch.full((2, 3, 4), torch.nan))
    with pytest.raises(ValueError, match="non-linear"):
        fold(Head(6, adaptor="mlp"))


def test_the_loss_of_a_constant():
    for c in (-0.5, 0.0, 0.5):
        assert float(truncated_l1(torch.full((3,), c), torch.full((5,), c))) == pytest.approx(1.0)
    half = torch.full((4,), 0.5)
    assert float(truncated_l1(half, half, th_minus=0.5)) == 0  # the sign as the survey note has it
