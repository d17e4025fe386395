"""SmoothBlend, views, the SPD loss, sensitivity and pre-training."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import nn

from adlib import PatchCore, spd
from adlib.augment import STRONG, WEAK, Views, augment, change_colour, draw_patches, gaussian_blur
from adlib.datasets import SyntheticFactory
from adlib.resnet import ResNet18
from adlib.samples import Sample


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photographs(n: int = 6, size: int = 64) -> torch.Tensor:
    coarse = torch.rand(n, 3, 8, 8, generator=generator(7))
    return nn.functional.interpolate(coarse, (size, size), mode="bilinear") * 0.8 + 0.1


# ------------------------------------------------------------------ as the folded tables of section 3.2 say it


def recolour(x: np.ndarray, saturation: float, contrast: float, brightness: float) -> np.ndarray:
    luminance = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    v = luminance + saturation * (x - luminance)
    return np.clip(brightness * (v.mean() + contrast * (v - v.mean())), 0, 1)


def blurred(x: np.ndarray, sigma: float, largest: float, mode: str) -> np.ndarray:
    for axis in (1, 2):
        x = gaussian_filter1d(x, sigma, axis=axis, mode=mode, radius=max(1, math.ceil(3 * largest)))
    return x


def between(n: int, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For places from -1 to 1 along n pixels the two nearest pixels, and the weight of the second."""
    at = np.clip(((place + 1) * n - 1) / 2, 0, n - 1)
    return np.floor(at).astype(int), np.minimum(np.floor(at).astype(int) + 1, n - 1), at % 1


@pytest.mark.parametrize("shape", [(40, 56), (64, 64)])
def test_smooth_blend_is_what_the_chapter_says(shape: tuple[int, int]) -> None:
    (h, w), x, g = shape, torch.rand(4, 3, *shape, generator=generator(1)), generator(2)

    def draw() -> np.ndarray:
        return torch.rand(4, generator=g).double().numpy()

    share = 0.005 + (0.02 - 0.005) * draw()
    ratio = np.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * draw())
    height = np.clip(np.round(np.sqrt(share * h * w / ratio)), 2, h // 2).astype(int)
    width = np.clip(np.round(np.sqrt(share * h * w * ratio)), 2, w // 2).astype(int)
    corners = [np.floor(draw() * (n - side + 1)).astype(int) for n, side in ((h, height), (w, width)) * 2]
    factors = [0.6 + 0.8 * draw() for _ in range(3)]
    found, _ = spd.smooth_blend(x, generator(2))
    for i, image in enumerate(x.double().numpy()):
        from_row, from_column, to_row, to_column = (corner[i] for corner in corners)
        mask = np.zeros((1, h, w))
        mask[:, to_row:to_row + height[i], to_column:to_column + width[i]] = 1
        rows = np.clip(np.arange(h) - to_row + from_row, 0, h - 1)
        columns = np.clip(np.arange(w) - to_column + from_column, 0, w - 1)
        pasted = recolour(image[:, rows][:, :, columns], *(factor[i] for factor in factors))
        soft = blurred(mask, 0.02 * w, 0.02 * w, "constant")
        assert np.abs((1 - soft) * image + soft * pasted - found[i].numpy()).max() < 1e-5


@pytest.mark.parametrize(("views", "area", "colour", "grey", "blur"), [
    (WEAK, 0.8, 0.1, 0, 0.004), (STRONG, 0.2, 0.4, 0.2, 0.012)])
def test_views_are_what_the_chapter_says(views: Views, area: float, colour: float, grey: float, blur: float) -> None:
    (h, w), x, g = (40, 56), torch.rand(6, 3, 40, 56, generator=generator(3)), generator(4)

    def draw() -> np.ndarray:
        return torch.rand(6, generator=g).double().numpy()

    share, ratio = area + (1 - area) * draw(), np.exp(math.log(3 / 4) + 2 * math.log(4 / 3) * draw())
    width, height = np.minimum(1, np.sqrt(share * ratio)), np.minimum(1, np.sqrt(share / ratio))
    mirrored = draw() < 0.5
    across, down = (2 * draw() - 1) * (1 - width), (2 * draw() - 1) * (1 - height)
    saturation = 1 - colour + 2 * colour * draw()
    saturation = np.where(draw() < grey, 0, saturation) if grey else saturation
    contrast, brightness = (1 - colour + 2 * colour * draw() for _ in range(2))
    sigma = np.where(draw() < 0.5, (0.1 + 0.9 * draw()) * blur * w, 0)
    found = augment(x, views, generator(4))
    for i, image in enumerate(x.double().numpy()):
        side = -width[i] if mirrored[i] else width[i]
        near, far, weight = between(w, side * ((2 * np.arange(w) + 1) / w - 1) + across[i])
        image = (1 - weight) * image[:, :, near] + weight * image[:, :, far]
        near, far, weight = between(h, height[i] * ((2 * np.arange(h) + 1) / h - 1) + down[i])
        image = (1 - weight[:, None]) * image[:, near] + weight[:, None] * image[:, far]
        image = recolour(image, saturation[i], contrast[i], brightness[i])
        if sigma[i]:
            image = blurred(image, sigma[i], sigma.max(), "nearest")
        assert np.abs(image - found[i].numpy()).max() < 1e-5


# ------------------------------------------------------------------ views


@pytest.mark.parametrize("views", [WEAK, STRONG])
def test_views_have_the_images_form(views: Views) -> None:
    x = photographs()
    before = x.clone()
    out = augment(x, views, generator())
    assert out.shape == x.shape and out.dtype == x.dtype and 0 <= out.min() and out.max() <= 1
    assert torch.equal(x, before) and torch.equal(out, augment(x, views, generator()))
    assert not torch.equal(out, augment(x, views, generator(1)))


def test_every_image_gets_a_view_of_its_own() -> None:
    same = photographs(1).expand(8, -1, -1, -1)
    out = augment(same, STRONG, generator()).flatten(1)
    assert len(torch.unique(out, dim=0)) == 8


def test_strong_views_are_farther_than_weak_ones() -> None:
    x = photographs(32)
    weak, strong = ((augment(x, replace(v, flip=False), generator()) - x).abs().mean() for v in (WEAK, STRONG))
    assert 0 < weak < strong / 2


def test_colours_by_an_amount_of_zero_stay() -> None:
    x = photographs()
    assert torch.allclose(change_colour(x, 0.0, generator()), x, atol=1e-6)


def test_grey() -> None:
    out = change_colour(photographs(), 0.0, generator(), grey=1.0)
    assert torch.allclose(out[:, 0], out[:, 1], atol=1e-6) and torch.allclose(out[:, 0], out[:, 2], atol=1e-6)


def test_blur_equals_scipy_with_a_sigma_for_each_image() -> None:
    x = torch.rand(3, 2, 20, 24, dtype=torch.float64, generator=generator())
    sigma = torch.tensor([0.0, 0.7, 2.5], dtype=torch.float64)
    ours = gaussian_blur(x, sigma).numpy()
    assert np.allclose(ours[0], x[0], atol=1e-12)
    for i in (1, 2):
        expected = x[i].numpy()
        for axis in (1, 2):
            expected = gaussian_filter1d(expected, float(sigma[i]), axis, mode="nearest", radius=math.ceil(3 * 2.5))
        assert np.allclose(ours[i], expected, atol=1e-12)


# ------------------------------------------------------------------ SmoothBlend


def test_outside_its_mask_an_image_stays_as_it_is() -> None:
    x = photographs(16)
    out, mask = spd.smooth_blend(x, generator())
    assert out.shape == x.shape and mask.shape == (16, 64, 64) and mask.dtype == torch.bool
    assert 0 <= out.min() and out.max() <= 1
    assert (out - x).abs().amax(1)[~mask].max() <= 1 / 255 + 1e-6
    assert mask.flatten(1).any(1).all()
    assert torch.equal(out, spd.smooth_blend(x, generator())[0])


def test_the_area_is_as_asked() -> None:
    x = torch.zeros(64, 3, 100, 120)
    m, _ = draw_patches(x, generator(), (0.01, 0.02), (0.5, 2.0))
    area = m.sum((1, 2, 3)) / (100 * 120)
    assert 0.008 < area.min() and area.max() < 0.022  # whole pixels
    rows, columns = m.amax(3).sum((1, 2)), m.amax(2).sum((1, 2))
    assert torch.equal(rows * columns, m.sum((1, 2, 3)))  # rectangles, whole inside the image
    assert 0.4 < (columns / rows).min() and (columns / rows).max() < 2.6


def test_the_patch_is_of_the_image_itself() -> None:
    """Without colour changes and with a narrow edge, the middle of the pasted patch is found elsewhere."""
    x = torch.rand(4, 3, 48, 48, generator=generator(3))
    out, _ = spd.smooth_blend(x, generator(5), sigma=0.002, jitter=0.0, area=(0.02, 0.03))
    m, shift = draw_patches(x, generator(5), (0.02, 0.03), (0.3, 3.3))
    for i in range(4):
        rows, columns = torch.where(m[i, 0] > 0)
        source = x[i][:, rows - shift[i, 0], columns - shift[i, 1]]
        assert torch.allclose(out[i][:, rows, columns], source, atol=1e-4)


def test_the_kept_texture_is_sharper_than_the_blurred_one() -> None:
    fine = (torch.rand(8, 3, 64, 64, generator=generator(2)) > 0.5).float()
    m, _ = draw_patches(fine, generator(4), (0.02, 0.02), (1.0, 1.0001))
    roughness = {}
    for texture in ("kept", "blurred"):
        out, _ = spd.smooth_blend(fine, generator(4), area=(0.02, 0.02), aspect=(1.0, 1.0001), texture=texture)
        steps = (out[..., 1:] - out[..., :-1]).abs() * m[..., 1:]
        roughness[texture] = float(steps.sum() / m.sum())
    assert roughness["kept"] > 2 * roughness["blurred"]


def test_double_precision_and_no_square() -> None:
    out, mask = spd.smooth_blend(torch.rand(2, 3, 30, 50, dtype=torch.float64), generator())
    assert out.dtype == torch.float64 and mask.shape == (2, 30, 50)


@pytest.mark.parametrize(("images", "options", "message"), [
    (torch.rand(2, 3, 7, 64), {}, r"images \(2, 3, 7, 64\): expected .* at least 8"),
    (torch.rand(3, 64, 64), {}, r"images \(3, 64, 64\): expected \(B, 3, H, W\)"),
    (torch.rand(2, 1, 64, 64), {}, r"expected \(B, 3, H, W\)"),
    (torch.full((1, 3, 64, 64), torch.nan), {}, "NaN or infinite"),
    (torch.rand(1, 3, 64, 64), {"texture": "soft"}, "texture = 'soft': expected 'kept' or 'blurred'"),
])
def test_blend_refuses(images: torch.Tensor, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spd.smooth_blend(images, generator(), **options)


# ------------------------------------------------------------------ loss and sensitivity


def test_the_loss_reaches_its_limits_and_stops_gradients() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert spd.spd_loss(z, 3 * z, -z).item() == pytest.approx(-2)
    assert spd.spd_loss(z, -z, z).item() == pytest.approx(2)
    assert spd.spd_loss(z, z, z).item() == pytest.approx(0)
    parts = [torch.randn(4, 8, generator=generator(i)).requires_grad_() for i in range(3)]
    spd.spd_loss(*parts, stop_gradient=True).backward()
    assert parts[0].grad is not None and parts[1].grad is None and parts[2].grad is None


def test_sensitivity_tells_a_blind_encoder_from_a_seeing_one() -> None:
    class Middle(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x[:, :, 28:36, 28:36].mean((2, 3)), x.new_ones(len(x), 1)], 1)

    class Whole(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.mean((2, 3)), x.new_ones(len(x), 1)], 1)

    x = photographs(70)
    changed = x.clone()
    changed[:, :, 28:36, 28:36] = 0
    seeing, blind = (spd.sensitivity(e, x, changed, generator()) for e in (Middle(), Whole()))
    assert seeing.shape == (70,) and seeing.median() > 10 * blind.median()
    assert spd.sensitivity(Whole(), x, x, generator()).abs().max() < 0.01  # the same image: rounding alone


# ------------------------------------------------------------------ pre-training


def small() -> ResNet18:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return ResNet18(width=8)  # with 4, AVX2 processors get a gradient wrong, see test_gradients.py


@pytest.mark.parametrize("objective", list(spd.OBJECTIVES))
@pytest.mark.parametrize("spd_weight", [0.0, 0.1])
def test_every_objective_trains_and_repeats(objective: str, spd_weight: float) -> None:
    labels = [i % 2 for i in range(8)] if objective == "supervised" else None
    options = dict(objective=objective, spd_weight=spd_weight, labels=labels, image_size=32, steps=2, images_per_step=4)
    state, history = torch.get_rng_state(), {}
    first = spd.pretrain(photographs(8), backbone=small(), history=history, device="cpu", **options)
    again = spd.pretrain(photographs(8), backbone=small(), device="cpu", **options)
    assert torch.equal(torch.get_rng_state(), state) and not first.training
    assert list(history) == ["loss", "base", "spd"] and all(len(v) == 2 for v in history.values())
    assert (history["spd"] == [0, 0]) == (spd_weight == 0)
    for a, b, start in zip(first.parameters(), again.parameters(), small().parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, start)


def test_settled_statistics_are_those_of_plain_images() -> None:
    x = photographs(12, 32)
    backbone = spd.pretrain(x, backbone=small(), image_size=32, steps=2, images_per_step=4, device="cpu")
    x = (x * 255).round() / 255
    seen = backbone.conv1(spd.normalised(x))
    assert torch.allclose(backbone.bn1.running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(backbone.bn1.running_var, seen.var((0, 2, 3)), rtol=1e-4)
    assert backbone.bn1.momentum == 0.1 and not backbone.training
    assert all(p.is_contiguous() for p in backbone.parameters())  # safetensors saves nothing else
    as_trained = spd.pretrain(x, backbone=small(), image_size=32, steps=2, images_per_step=4, device="cpu",
                              settle=False)
    assert torch.equal(as_trained.conv1.weight, backbone.conv1.weight)  # only the statistics differ
    assert not torch.allclose(as_trained.bn1.running_mean, backbone.bn1.running_mean, atol=1e-3)


def test_the_result_is_a_backbone_for_patchcore() -> None:
    data = SyntheticFactory("washer", size=64, n_train=6, n_validation=0, n_test=2, n_defect=2)
    backbone = spd.pretrain(data.train, backbone=small(), image_size=32, steps=2, images_per_step=4, device="cpu")
    prediction = PatchCore(backbone, image_size=64).fit(data.train).predict(data.test)
    assert np.isfinite(prediction.scores).all() and len(prediction.scores) == 4


def test_the_default_backbone_comes_from_the_seed() -> None:
    def trained(seed: int) -> torch.Tensor:
        backbone = spd.pretrain(photographs(4), image_size=32, steps=1, images_per_step=2, seed=seed, device="cpu")
        return backbone.conv1.weight

    assert torch.equal(trained(0), trained(0)) and not torch.equal(trained(0), trained(1))


@pytest.mark.parametrize(("options", "message"), [
    ({"objective": "byol"}, "objective = 'byol': expected one of simsiam, simclr, moco, supervised"),
    ({"objective": "supervised"}, "objective 'supervised': needs labels"),
    ({"labels": [0] * 6}, "objective 'simsiam': takes no labels"),
    ({"objective": "supervised", "labels": [0, 1]}, "labels: found 2, .* each of 6 images"),
    ({"objective": "supervised", "labels": [0, 1, 2, -1, 0, 1]}, "the smallest -1"),
    ({"images_per_step": 1}, "images_per_step = 1: expected 2 to 6"),
    ({"images_per_step": 7}, "images_per_step = 7: expected 2 to 6"),
    ({"image_size": 4}, "image_size = 4: expected at least 8"),
    ({"steps": 0}, "steps = 0"),
    ({"learning_rate": math.nan}, "learning_rate = nan: expected a positive number"),
    ({"texture": "soft"}, "texture = 'soft'"),
    ({"objective_options": {"queue": 8}}, "simsiam has no 'queue'; expected some of dimension, hidden, predictor"),
    ({"objective": "moco", "objective_options": {"queue": 1}}, "queue = 1: expected at least 2"),
])
def test_bad_settings(options: dict, message: str) -> None:
    settings = {"image_size": 32, "steps": 1, "images_per_step": 2, "device": "cpu"} | options
    with pytest.raises(ValueError, match=message):
        spd.pretrain(photographs(6), backbone=small(), **settings)


def test_bad_images_and_a_loss_that_explodes() -> None:
    with pytest.raises(ValueError, match="NaN"):
        spd.pretrain([torch.full((3, 32, 32), torch.nan)] * 2, backbone=small(), images_per_step=2)
    with pytest.raises(ValueError, match="images_per_step = 2: expected 2 to 1"):
        spd.pretrain(photographs(1), backbone=small(), images_per_step=2)
    with pytest.raises(FloatingPointError, match="pre-training, simsiam: the loss is nan"):
        broken = small()
        with torch.no_grad():
            broken.conv1.weight.fill_(torch.nan)
        spd.pretrain(photographs(4), backbone=broken, image_size=32, steps=1, images_per_step=2, device="cpu")


@pytest.mark.parametrize("objective", ["simsiam", "supervised"])
def test_with_and_without_spd_the_base_loss_sees_the_same(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every step, not at the first one alone: each arm of a comparison has the same images and strong copies."""
    seen: dict[float, list[torch.Tensor]] = {}
    labels = [i % 2 for i in range(8)] if objective == "supervised" else None
    given = spd.OBJECTIVES[objective].base_loss
    for weight in (0.0, 0.5):
        def noted(self: nn.Module, first: torch.Tensor, second: torch.Tensor, w: float = weight) -> torch.Tensor:
            seen.setdefault(w, []).extend([first, second])
            return given(self, first, second)

        monkeypatch.setattr(spd.OBJECTIVES[objective], "base_loss", noted)
        spd.pretrain(photographs(8), objective=objective, labels=labels, spd_weight=weight, backbone=small(),
                     image_size=32, steps=3, images_per_step=4, device="cpu", settle=False)
    assert len(seen[0.0]) == 6 and all(torch.equal(a, b) for a, b in zip(seen[0.0], seen[0.5], strict=True))


def test_every_epoch_shows_every_image_in_a_new_order() -> None:
    steps = list(spd.batches_of_steps(10, 3, 5, range(6)))
    first, second = torch.cat(steps[:3]), torch.cat(steps[3:])
    assert len(first.unique()) == len(second.unique()) == 9 and not torch.equal(first, second)
    resumed = list(spd.batches_of_steps(10, 3, 5, range(4, 6)))
    assert all(torch.equal(a, b) for a, b in zip(resumed, steps[4:], strict=True))


def test_a_large_set_is_read_a_few_batches_at_a_time() -> None:
    """The same weights as from a set that is held, and never more images at hand than those of three batches."""
    x, read, used = photographs(40, 40), [], []

    def source(i: int) -> Callable[[], torch.Tensor]:
        return lambda: (read.append(i), x[i])[1]

    samples = [Sample(None, "unlabelled", str(i), image_source=source(i)) for i in range(len(x))]

    class Counting(ResNet18):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            if self.training and torch.is_grad_enabled():
                used.append(len(read))
            return super().forward(images)

    def trained(images: object, held: float) -> nn.Module:
        read.clear(), used.clear()
        backbone = Counting(width=8)
        backbone.load_state_dict(small().state_dict())
        return spd.pretrain(images, backbone=backbone, image_size=32, steps=6, images_per_step=4, spd_weight=0.0,
                            device="cpu", settle=False, held=held)

    kept = trained(samples, held=1e6)
    assert set(used) == {40}
    streamed = trained(samples, held=0)
    assert all(n <= 4 * (1 + step + spd.AHEAD) for step, n in enumerate(used[::2])) and len(read) == 24
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), streamed.parameters(), strict=True))


def test_two_steps_of_the_papers_configuration() -> None:
    """`spd.PAPER` as it is, but for the number of steps and images: ResNet-50 at 224 pixels, SimSiam, η = 0.1."""
    assert spd.PAPER["steps"] == 500_400 and spd.PAPER["spd_weight"] == 0.1
    history: dict[str, list[float]] = {}
    backbone = spd.pretrain(photographs(2, 224), history=history, device="cpu", settle=False,
                            **spd.PAPER | {"steps": 2, "images_per_step": 2})
    found = backbone(torch.zeros(1, 3, 64, 64))
    assert [v.shape[1] for v in found.values()] == [256, 512, 1024, 2048]
    assert np.isfinite(history["loss"]).all() and history["spd"][0] != 0
    assert history["loss"][1] == pytest.approx(history["base"][1] + 0.1 * history["spd"][1])


PROGRAM = """
import sys, torch
from safetensors.torch import save_file
from adlib import spd, training
from adlib.resnet import ResNet18
torch.set_num_threads(1)
training.Training.__init__.__kwdefaults__["save_every"] = 0.0
torch.manual_seed(3)
x = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
b = spd.pretrain(x, objective="moco", backbone=ResNet18(8), image_size=32, steps=40, images_per_step=4, device="cpu",
                 checkpoint=sys.argv[1])
save_file(b.state_dict(), sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Killed at moments of chance until one run comes to its end: bit for bit the run that was left alone."""

    def start(name: str) -> subprocess.Popen[bytes]:
        arguments = [tmp_path / f"{name}.checkpoint", tmp_path / f"{name}.weights"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)], env=environment,
                                stderr=subprocess.DEVNULL)

    assert start("whole").wait(300) == 0
    chance, kills = random.Random(0), 0
    while not (tmp_path / "killed.weights").exists():
        process = start("killed")
        deadline = time.monotonic() + 300
        known = (tmp_path / "killed.checkpoint").stat().st_mtime_ns if (tmp_path / "killed.checkpoint").exists() else 0
        while kills < 3 and process.poll() is None and time.monotonic() < deadline:
            file = tmp_path / "killed.checkpoint"
            if file.exists() and file.stat().st_mtime_ns != known:
                time.sleep(chance.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        kills += process.wait(300) != 0
    assert kills >= 1
    assert (tmp_path / "whole.weights").read_bytes() == (tmp_path / "killed.weights").read_bytes()
