"""EfficientAD: layer tables, losses, maps, a killed run, saving, export, and bad input."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from adlib import EfficientAD, PatchCore
from adlib.augment import color_jitter
from adlib.backbones import normalised
from adlib.datasets import SyntheticFactory
from adlib.efficientad import (
    PAPER,
    autoencoder_losses,
    combine_maps,
    difference_map,
    hard_feature_loss,
    losses,
    map_quantiles,
    normalise_map,
    read_teacher,
    with_border,
)
from adlib.efficientad.distillation import explained
from adlib.efficientad.networks import PDN, TEACHERS, AutoEncoder
from adlib.efficientad.penalty_images import dead_leaves, drawn_penalty_images, penalty_batch
from adlib.receptive_field import receptive_field

SIDE = 64


def tiny(teacher=None, **options):
    teacher = PDN(width=0.05, out_channels=6) if teacher is None else teacher
    settings = {"image_size": SIDE, "steps": 6, "autoencoder_width": 0.1, "latent": 8, "device": "cpu"}
    return EfficientAD(teacher, **(settings | options))


@pytest.fixture(scope="module")
def factory():
    return SyntheticFactory("fabric", size=SIDE, n_train=9, n_validation=4, n_test=3, n_defect=5)


@pytest.fixture(scope="module")
def fitted(factory):
    return tiny().fit(factory.train, validation=factory.validation)


def same(a: EfficientAD, b: EfficientAD) -> bool:
    own, other = a.state_dict(), b.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[k], other[k]) for k in own)


# ---------------------------------------------------------------------- the networks


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("size", "teacher", "student", "total"), [
    ("s", 2_694_144, 4_267_392, 8_057_856), ("m", 8_026_624, 11_615_488, 20_738_432),
])
def test_layer_tables_have_the_papers_parameters_and_maps(size, teacher, student, total):
    t, s = PDN(size), PDN(size, out_channels=768)
    autoencoder = AutoEncoder(384, (256, 256), t.grid((256, 256)))
    assert (parameters(t), parameters(s)) == (teacher, student)
    assert parameters(t) + parameters(s) + parameters(autoencoder) == total
    assert t.grid((256, 256)) == (56, 56) and PDN(size, padding=True).grid((256, 256)) == (64, 64)
    assert receptive_field(t) == (33, 4, 0) and receptive_field(PDN(size, padding=True)) == (33, 4, -16)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("size", ["s", "m"])
def test_the_grid_is_told_before_it_is_computed(size, padding):
    net = PDN(size, width=0.02, out_channels=2, padding=padding)
    for pixels in ((64, 64), (97, 130), (256, 200)):
        assert net(torch.zeros(1, 3, *pixels)).shape == (1, 2, *net.grid(pixels))


def test_the_autoencoder_has_the_tables_sizes_and_takes_other_images():
    standard = AutoEncoder(384, (256, 256), (56, 56))
    assert standard.sizes == [(3, 3), (8, 8), (15, 15), (32, 32), (63, 63), (127, 127), (56, 56)]
    assert standard.code.kernel_size == (8, 8)
    for pixels in ((64, 64), (128, 128), (200, 136), (256, 256), (320, 288), (512, 512)):
        grid = PDN(width=0.02).grid(pixels)
        net = AutoEncoder(5, pixels, grid, width=0.05)
        assert net(torch.rand(1, 3, *pixels)).shape == (1, 5, *grid)
    small = AutoEncoder(5, (128, 128), (24, 24), latent=7)
    assert small.code(torch.zeros(1, 64, 4, 4)).shape == (1, 7, 1, 1)


def test_dropout_follows_its_generator_and_is_off_without_one():
    net, x = AutoEncoder(5, (64, 64), (8, 8)), torch.rand(1, 3, 64, 64)
    draws = [net(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(net(x), net(x)) and not torch.equal(net(x), draws[0])


# ---------------------------------------------------------------------- losses


def vectors(seed, *shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_without_selection_the_hard_loss_is_the_plain_mean():
    t, s = vectors(0, 3, 7, 5, 4), vectors(1, 3, 7, 5, 4)
    assert float(hard_feature_loss(t, s, 0)) == pytest.approx(float((t - s).square().mean()), rel=1e-6)


def test_a_batch_is_the_mean_of_its_images():
    t, s = vectors(0, 4, 16, 9, 9), vectors(1, 4, 16, 9, 9) * torch.tensor([0.1, 1, 3, 10]).view(4, 1, 1, 1)
    single = [float(hard_feature_loss(t[i : i + 1], s[i : i + 1], 0.99)) for i in range(4)]
    assert float(hard_feature_loss(t, s, 0.99)) == pytest.approx(np.mean(single), rel=1e-6)


def test_at_the_papers_size_1205_differences_are_kept_of_each_of_many_images():
    """15 images have more than 2²⁴ differences, where torch.quantile stopped for years."""
    t, s = torch.zeros(15, 384, 56, 56), vectors(0, 15, 384, 56, 56).requires_grad_()
    hard_feature_loss(t, s).backward()
    assert (s.grad.flatten(1) != 0).sum(1).tolist() == [1205] * 15


def test_bfloat16_does_not_select_too_many():
    t, s = torch.zeros(1, 384, 24, 24, dtype=torch.bfloat16), vectors(0, 1, 384, 24, 24).bfloat16().requires_grad_()
    loss = hard_feature_loss(t, s, 0.9)
    loss.backward()
    assert loss.dtype == torch.float32 and (s.grad != 0).sum() == 22_119  # 221,184 − ⌈0.9·221,183⌉
    squared = s.detach().square().flatten()  # rounded to 8 bits: many are equal to the smallest that counts
    assert (squared >= squared.topk(22_119).values.min()).sum() > 22_150


def test_nothing_flows_into_the_teacher_and_detaching_stops_the_autoencoder():
    t, a, s = (vectors(i, 1, 4, 3, 3).requires_grad_() for i in range(3))
    for detach in (False, True):
        _, stae = autoencoder_losses(t, a, s, detach_autoencoder=detach)
        gradient = torch.autograd.grad(stae, [a, s], allow_unused=True)
        assert (gradient[0] is None) == detach and bool(gradient[1].abs().sum() > 0)
    net = tiny().networks
    images = torch.rand(2, 3, SIDE, SIDE)
    sum(losses(net, images, images, torch.Generator().manual_seed(0)).values()).backward()
    assert all(p.grad is None for p in net.teacher.parameters())
    assert all(p.grad is not None for part in (net.student, net.autoencoder) for p in part.parameters())


def test_one_pass_gives_the_losses_of_three():
    """`losses` sends all inputs through the student at once and computes the half that each loss needs."""
    net = tiny(PDN(width=0.1, out_channels=6)).networks
    images, penalty_images = torch.rand(3, 3, SIDE, SIDE), torch.rand(3, 3, SIDE, SIDE)
    found = losses(net, images, penalty_images, torch.Generator().manual_seed(3), p_hard=0.9)
    generator = torch.Generator().manual_seed(3)
    x, p, changed = (normalised(i) for i in (images, penalty_images, color_jitter(images, generator)))
    teacher = [(net.teacher(i) - net.mean) / net.std for i in (x, changed)]
    autoencoder = net.autoencoder(changed, generator)
    expected = {
        "hard": hard_feature_loss(teacher[0], net.student(x)[:, :6], 0.9),
        "penalty": net.student(p)[:, :6].square().mean(), "ae": F.mse_loss(teacher[1], autoencoder),
        "stae": F.mse_loss(autoencoder, net.student(changed)[:, 6:]),
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7)


def test_the_copy_changes_one_of_three():
    images = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    changed = color_jitter(images, torch.Generator().manual_seed(1))
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    kinds = []
    for i in range(60):
        bases = [torch.zeros(()), grey[i].mean(), grey[i]]
        factors = [((changed[i] - b) / (images[i] - b)) for b in bases]
        fits = [k for k, f in enumerate(factors) if float(f.median()) and (f - f.median()).abs().quantile(0.9) < 1e-3]
        assert len(fits) == 1 and 0.8 <= float(factors[fits[0]].median()) <= 1.2
        kinds.append(fits[0])
    assert set(kinds) == {0, 1, 2}


# ---------------------------------------------------------------------- maps


def test_quantiles_are_of_all_cells_and_have_no_limit():
    maps = [vectors(i, 2, 5, 6) for i in range(3)]
    low, high = map_quantiles(maps)
    values = torch.cat([m.flatten() for m in maps]).numpy()
    assert [float(low), float(high)] == pytest.approx(np.quantile(values, [0.9, 0.995]))
    many = torch.arange(2**24 + 16, dtype=torch.float32).view(1, 1, -1) / 2**24
    assert map_quantiles(many).tolist() == pytest.approx([0.9, 0.995], abs=1e-5)
    assert normalise_map(torch.tensor([low, high]), torch.tensor([low, high])).tolist() == pytest.approx([0, 0.1])


def test_a_larger_scale_no_longer_hides_a_defect_of_the_other_map():
    """The note's raw average: student map 100 times the autoencoder's, and a defect that only the latter sees."""
    normal = vectors(0, 20, 12, 12).square(), 0.01 * vectors(1, 20, 12, 12).square()
    student, autoencoder = vectors(2, 1, 12, 12).square(), 0.01 * vectors(3, 1, 12, 12).square()
    autoencoder[0, 4, 7] = 0.5
    quantiles = torch.stack([map_quantiles(m) for m in normal])
    assert int((student + autoencoder).argmax()) != 4 * 12 + 7
    assert int(combine_maps(student, autoencoder, quantiles).argmax()) == 4 * 12 + 7


def test_the_border_goes_on_with_the_outermost_cells():
    maps = torch.arange(56.0 * 56).view(1, 56, 56)
    wide = with_border(maps, (256, 256), padding=False)
    assert wide.shape == (1, 64, 64) and torch.equal(wide[:, 4:60, 4:60], maps)
    assert (wide[0, :4, :4] == maps[0, 0, 0]).all() and (wide[0, 60:, 60:] == maps[0, -1, -1]).all()
    assert with_border(torch.zeros(1, 64, 64), (256, 256), padding=True).shape == (1, 64, 64)
    net = PDN(width=0.02)
    for pixels in ((130, 97), (200, 256)):
        wide = with_border(torch.zeros(1, *net.grid(pixels)), pixels, False)
        assert wide.shape == (1, pixels[0] // 4, pixels[1] // 4)


# ---------------------------------------------------------------------- the detector


def test_prediction_has_the_promised_form(fitted, factory):
    p = fitted.predict(factory.test)
    n = len(factory.test)
    assert p.scores.shape == (n,) and p.scores.dtype == np.float32 and len(p.samples) == len(p.maps) == n
    assert all(m.shape == (SIDE, SIDE) and m.dtype == np.float32 and np.isfinite(m).all() for m in p.maps)
    assert len(fitted.normal_scores) == 4
    assert {name: len(values) for name, values in fitted.history.items()} == {
        "loss": 6, "hard": 6, "penalty": 6, "ae": 6, "stae": 6}
    total = sum(fitted.history[name][3] for name in ("hard", "penalty", "ae", "stae"))
    assert fitted.history["loss"][3] == pytest.approx(total, rel=1e-5)


def test_scores_and_maps_are_those_of_the_parts(fitted):
    batch = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        student_map, autoencoder_map = fitted.both_maps(batch)
        scores, grids = fitted.patch_scores(batch)
        x = normalised(batch)
        teacher = (fitted.teacher(x) - fitted.mean) / fitted.std
        s, a = fitted.student(x), fitted.autoencoder(x)
    torch.testing.assert_close(student_map, difference_map(teacher, s[:, :6]))
    torch.testing.assert_close(autoencoder_map, difference_map(a, s[:, 6:]))
    combined = combine_maps(student_map, autoencoder_map, fitted.quantiles)
    torch.testing.assert_close(scores, combined.amax((1, 2)))
    torch.testing.assert_close(grids, with_border(combined, (SIDE, SIDE), False))
    assert fitted(batch)[1].shape == (2, SIDE, SIDE)


def test_quantiles_and_statistics_are_those_of_the_images_given(fitted, factory):
    batch = torch.stack([s.image for s in factory.validation])
    with torch.no_grad():
        expected = torch.stack([map_quantiles(m) for m in fitted.both_maps(batch)])
        features = fitted.teacher(normalised(torch.stack([s.image for s in factory.train]).half().float()))
    torch.testing.assert_close(fitted.quantiles, expected)
    torch.testing.assert_close(fitted.mean, features.mean((0, 2, 3), keepdim=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fitted.std, features.std((0, 2, 3), keepdim=True, correction=0), rtol=1e-4, atol=1e-5)


def test_without_validation_a_tenth_leaves_the_training(factory):
    detector = tiny().fit(factory.train)
    assert len(detector.normal_scores) == 1
    with pytest.raises(ValueError, match="at least two"):
        tiny().fit(factory.train[:1])


def test_it_finds_what_is_plainly_odd(factory):
    train = [s.image for s in SyntheticFactory("fabric", size=SIDE, n_train=30, n_test=0, n_defect=0).train]
    good = [s.image for s in factory.test if not s.label]
    odd = [image.clone() for image in good]
    for image in odd:
        image[:, 20:44, 20:44] = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    detector = tiny(PDN(width=0.1, out_channels=16), steps=150, learning_rate=2e-3).fit(train)
    p_good, p_odd = detector.predict(good), detector.predict(odd)
    assert p_odd.scores.min() > p_good.scores.max()
    for found in p_odd.maps:
        row, column = np.unravel_index(found.argmax(), found.shape)
        assert 16 <= row < 48 and 16 <= column < 48


def test_the_same_seed_gives_the_same_weights_and_touches_no_global_state(factory):
    state = torch.get_rng_state()
    a, b, c = (tiny(seed=s).fit(factory.train) for s in (0, 0, 1))
    assert same(a, b) and not same(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def test_fitting_again_starts_anew(factory, fitted):
    detector = tiny().fit(factory.train[:4], validation=factory.validation)
    assert same(detector.fit(factory.train, validation=factory.validation), fitted)


@pytest.mark.parametrize("options", [{}, {"images_per_step": 4}, {"detach_autoencoder": True, "decay": "step"},
                                     {"bf16": True, "smoothing": 2.0}])
def test_saved_and_loaded_it_scores_the_same(factory, tmp_path, options):
    teacher = PDN("m", width=0.02, out_channels=5, padding=True)
    detector = tiny(teacher, **options).fit(factory.train, validation=factory.validation)
    detector.save(tmp_path / "a.safetensors")
    again = EfficientAD.load(tmp_path / "a.safetensors", teacher=teacher, device="cpu")
    assert np.array_equal(again.predict(factory.test).scores, detector.predict(factory.test).scores)
    assert again.config() == detector.config() and torch.equal(again.normal_scores, detector.normal_scores)
    other = PDN("m", width=0.02, out_channels=5, padding=True, seed=1)
    with pytest.raises(ValueError, match="other weights"):
        EfficientAD.load(tmp_path / "a.safetensors", teacher=other)
    with pytest.raises(ValueError, match="expected a PatchCore"):
        PatchCore.load(tmp_path / "a.safetensors", backbone=teacher)


def test_a_shipped_teacher_is_saved_with_the_detector(factory, tmp_path):
    detector = tiny("adlib_pdn_s_quarter", steps=1).fit(factory.train)
    detector.save(tmp_path / "a.safetensors")
    again = EfficientAD.load(tmp_path / "a.safetensors", device="cpu")
    assert np.array_equal(again.predict(factory.test).scores, detector.predict(factory.test).scores)


def test_images_that_are_not_square(factory, tmp_path):
    detector = tiny(image_size=(64, 96)).fit(factory.train)
    p = detector.predict(factory.test)
    assert detector.patch_scores(torch.rand(2, 3, 64, 96))[1].shape == (2, 16, 24) and p.maps[0].shape == (SIDE, SIDE)
    with pytest.raises(ValueError, match="expected image_size"):
        detector.patch_scores(torch.rand(2, 3, 96, 64))


@pytest.mark.parametrize("name", sorted(TEACHERS))
def test_the_shipped_teachers_are_what_their_names_say(name):
    detector = EfficientAD(name, device="cpu")
    pdn = detector.teacher
    width = 0.25 if "quarter" in name else 1.0
    assert pdn.config() == {"size": "s", "out_channels": 384, "width": width, "padding": False}
    new = EfficientAD(name, device="cpu", pretrained=False).teacher
    pictures = drawn_penalty_images((160, 160), count=4, seed=9)
    told, random_told = (explained(net, "adlib_resnet18", pictures, image_size=128) for net in (pdn, new))
    assert told > random_told + 0.1


def test_a_teacher_is_saved_and_read_again(tmp_path):
    pdn = PDN("m", width=0.02, out_channels=5, padding=True)
    pdn.save(tmp_path / "teacher.safetensors")
    again = PDN.load(tmp_path / "teacher.safetensors")
    x = torch.rand(1, 3, 64, 64)
    assert again.config() == pdn.config() and not again.training
    torch.testing.assert_close(again(x), pdn(x), rtol=1e-2, atol=1e-2)  # stored as float16
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected a PDN saved by adlib"):
        PDN.load(tmp_path / "other.safetensors")


def test_an_interrupted_second_fit_leaves_no_half_fitted_detector(factory, monkeypatch):
    detector, new = tiny().fit(factory.train), tiny()
    before = detector.predict(factory.test).scores
    monkeypatch.setattr("adlib.training.Training.update", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    for one in (detector, new):
        with pytest.raises(KeyboardInterrupt):
            one.fit(factory.train)
    np.testing.assert_array_equal(detector.predict(factory.test).scores, before)  # all of the first fit
    with pytest.raises(RuntimeError, match="not fitted"):
        new.predict(factory.test)


def test_what_is_bad_is_said_before_the_training(factory, tmp_path, monkeypatch):
    monkeypatch.setattr("adlib.training.Training.__iter__", lambda self: pytest.fail("trained"))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no validation image could be read"):
        tiny().fit(factory.train, validation=tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        tiny(penalty_images=tmp_path / "photographs").fit(factory.train)


def test_it_can_be_exported(fitted):
    batch = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        exported = torch.export.export(fitted.eval(), (batch,)).module()
        for found, expected in zip(exported(batch), fitted(batch), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def reference_layout(pdn, anomalib=False):
    """The weights of a PDN as the reference names them, by their place among ReLUs and poolings, or as anomalib."""
    places = {8: (0, 3, 6, 8), 12: (0, 3, 6, 8, 10, 12)}[len(pdn.state_dict())]
    values = iter(pdn.state_dict().values())
    names = [f"conv{i + 1}" if anomalib else str(place) for i, place in enumerate(places)]
    return {f"{name}.{kind}": next(values) for name in names for kind in ("weight", "bias")}


@pytest.mark.parametrize(("size", "anomalib"), [("s", False), ("s", True), ("m", False)])
def test_a_teacher_of_the_reference_is_read(tmp_path, size, anomalib):
    pdn, path = PDN(size, seed=3), tmp_path / "teacher.pth"
    weights = reference_layout(pdn, anomalib)
    torch.save({name: weights[name] for name in sorted(weights, reverse=True)}, path)  # the order tells nothing
    with pytest.warns(UserWarning, match="none of the files that we know"):
        again = read_teacher(path)
    assert again.config() == pdn.config() and not again.training
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), pdn.state_dict().values(), strict=True))


def test_what_is_no_teacher_is_refused_by_name(tmp_path):
    weights = reference_layout(PDN())
    wrong = {"other names": {f"layer{k}": v for k, v in weights.items()},
             "a layer less": dict(list(weights.items())[2:]), "a list": [1], "nothing": {},
             "another shape": weights | {"3.weight": torch.zeros(256, 128, 3, 3)},
             "a pickled network": torch.nn.Conv2d(1, 1, 1), "a number": weights | {"8.bias": 5}}  # fmt: skip
    for name, content in wrong.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(ValueError, match=f"{name}.pth.*expected the weights"):
            read_teacher(tmp_path / f"{name}.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "a list.pth").read_bytes()[:100])
    with pytest.raises(ValueError, match="half.pth.*expected the weights"):
        read_teacher(tmp_path / "half.pth")
    with pytest.raises(FileNotFoundError):
        read_teacher(tmp_path / "missing.pth")


@pytest.mark.slow
def test_two_steps_of_exactly_the_papers_configuration(tmp_path):
    """256 pixels, PDN-S with 384 channels, one image a step, photographs resized to 512 as penalty images."""
    data = SyntheticFactory("fabric", n_train=1, n_validation=1, n_test=1, n_defect=0)  # of 256 pixels
    for i in range(2):
        Image.fromarray(np.full((90, 120, 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.jpg")
    steps = {"steps": 2, "teacher": PDN(seed=1)}
    detector = EfficientAD(**PAPER | steps, penalty_images=tmp_path, device="cpu")
    detector.fit(data.train, validation=data.validation)
    assert parameters(detector) == 8_057_856 and [len(v) for v in detector.history.values()] == [2] * 5
    assert not detector.student.padding and detector.autoencoder.sizes[-1] == (56, 56)
    assert np.isfinite(detector.predict(data.test).scores).all() and detector.config()["autoencoder_draw"] == "torch"
    assert EfficientAD(**PAPER | {"teacher": PDN()}, device="cpu").config()["steps"] == 70_000


def test_the_autoencoders_weights_are_drawn_as_asked():
    torch_s, he = (AutoEncoder(3, (64, 64), (8, 8), draw=d, seed=2).requires_grad_(False) for d in ("torch", "he"))
    bound = 1 / he.encoder[2].weight[0].numel() ** 0.5  # torch's default: uniform in ±1/√(fan-in)
    assert float(torch_s.encoder[2].weight.abs().max()) <= bound < float(he.encoder[2].weight.abs().max())
    assert torch.equal(torch_s.last.bias, AutoEncoder(3, (64, 64), (8, 8), draw="torch", seed=2).last.bias)
    with pytest.raises(ValueError, match="draw = 'zero'"):
        AutoEncoder(3, (64, 64), (8, 8), draw="zero")


# ---------------------------------------------------------------------- penalty images


def test_without_penalty_images_the_run_says_so(factory):
    with pytest.warns(UserWarning, match="no penalty images, so no penalty"):
        detector = tiny(penalty_images=False).fit(factory.train)
    assert "penalty" not in detector.history


def test_own_penalty_images_are_used(factory, fitted):
    black = [torch.zeros(3, 100, 80)] * 2
    detector = tiny(penalty_images=black).fit(factory.train, validation=factory.validation)
    assert detector.history["penalty"] != fitted.history["penalty"]


def test_drawn_pictures_differ_and_come_again():
    a, b, c = dead_leaves((40, 60), 0), dead_leaves((40, 60), 0), dead_leaves((40, 60), 1)
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == (3, 40, 60)
    assert 0 <= float(a.min()) and float(a.max()) <= 1 and float(a.std()) > 0.1
    assert len(drawn_penalty_images((32, 32), count=3)) == 3


def test_penalty_images_are_cut_from_the_middle_and_lose_colour():
    image = torch.zeros(3, 40, 40)
    image[0, 10:30, 10:30] = 1
    batch = penalty_batch(drawn(image), 40, (20, 20), torch.Generator().manual_seed(0))
    assert batch.shape == (40, 3, 20, 20)
    grey = (batch[:, 0] == batch[:, 1]).flatten(1).all(1)
    assert 4 <= int(grey.sum()) <= 20 and float(batch[~grey][:, 0].min()) > 0.9


def drawn(image):
    from adlib.datasets import as_samples

    return as_samples([image])


def test_unreadable_penalty_images_are_passed_over(factory, tmp_path):
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="twenty images in a row"):
        tiny(penalty_images=tmp_path).fit(factory.train)
    from torchvision.utils import save_image

    save_image(torch.rand(3, 70, 70), tmp_path / "7.png")
    assert tiny(penalty_images=tmp_path).fit(factory.train).fitted


# ---------------------------------------------------------------------- a killed run


SCRIPT = """
import sys, time, torch
from adlib import EfficientAD
from adlib.datasets import SyntheticFactory
from adlib.efficientad.networks import PDN
from adlib.training import Training
torch.set_num_threads(1)
update = Training.update
def slow(self, *args, **values):
    update(self, *args, **values)
    print(self.step, flush=True)
    time.sleep(float(sys.argv[3]))
Training.update = slow
begin = Training.__init__
def often(self, *args, **values):
    begin(self, *args, **values)
    self.save_every = 0.0
    print("from", self.step, flush=True)
Training.__init__ = often
data = SyntheticFactory("fabric", size=64, n_train=7, n_validation=2, n_test=0, n_defect=0)
detector = EfficientAD(PDN(width=0.05, out_channels=6), image_size=64, steps=36, images_per_step=2,
                       autoencoder_width=0.1, device="cpu", checkpoint=sys.argv[1])
detector.fit(data.train, validation=data.validation).save(sys.argv[2])
"""


def start(folder: Path, name: str, pause: float) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder / f"{name}.checkpoint"), str(folder / name),
                             str(pause)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_a_run_killed_at_random_steps_ends_with_the_same_weights(tmp_path):
    """36 steps of two images each, of seven; copies, dropout, penalty images and their order must be found again."""
    assert start(tmp_path, "unbroken", 0).wait() == 0
    rng = random.Random(5)
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
    first = tiny(checkpoint=path).fit(factory.train)
    assert same(first, tiny(checkpoint=path).fit(factory.train))
    for options, images in (({}, factory.validation), ({"p_hard": 0.5}, factory.train), ({"seed": 1}, factory.train),
                            ({"steps": 7}, factory.train),
                            ({"penalty_images": [torch.zeros(3, 64, 64)]}, factory.train),
                            ({"teacher": PDN(width=0.05, out_channels=6, seed=3)}, factory.train)):
        with pytest.raises(ValueError, match="other settings"):
            tiny(checkpoint=path, **options).fit(images)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": 0}, "steps = 0"), ({"images_per_step": 0}, "images_per_step = 0"), ({"p_hard": 1.0}, "p_hard = 1"),
    ({"p_hard": -0.1}, "p_hard = -0.1"), ({"learning_rate": 0.0}, "learning_rate = 0"), ({"decay": "fast"}, "'fast'"),
    ({"image_size": 48}, "at least 64"), ({"image_size": (128, 32)}, "at least 64"),
    ({"autoencoder_draw": "zero"}, "autoencoder_draw = 'zero'"),
    ({"latent": 0}, "latent = 0"), ({"autoencoder_width": 0.0}, "width = 0"),
    ({"teacher": "resnet18"}, "expected a PDN"), ({"teacher": "adlib_resnet18"}, "expected a PDN"),
])
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(pretrained=False, **options)


def test_bad_networks_and_losses_are_refused():
    with pytest.raises(ValueError, match="'s' or 'm'"):
        PDN("l")
    with pytest.raises(ValueError, match="at least 33"):
        PDN(width=0.02).grid((32, 64))
    with pytest.raises(ValueError, match="same shape"):
        hard_feature_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
    with pytest.raises(ValueError, match="p_hard = 1"):
        hard_feature_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), 1)
    with pytest.raises(ValueError, match="no map"):
        map_quantiles([])
    with pytest.raises(ValueError, match="have the same 0.9 and 0.995 quantile"):
        map_quantiles(torch.ones(2, 5, 5))


def test_bad_images_are_refused(factory, tmp_path):
    with pytest.raises(ValueError, match="normal images only"):
        tiny().fit(factory.test)
    with pytest.raises(RuntimeError, match="EfficientAD is not fitted"):
        tiny().predict(factory.test)
    with pytest.raises(ValueError, match="max_memory is 10 kB"):
        tiny(max_memory=1e4).fit(factory.train)
    with pytest.raises(ValueError, match="no images|empty"):
        tiny().fit([])
    with pytest.warns(UserWarning, match="left out"):
        (tmp_path / "a.png").write_bytes(b"no image")
        detector = tiny().fit([*factory.train, str(tmp_path / "a.png")], validation=factory.validation)
    assert list(detector.failures) == [str(tmp_path / "a.png")]


def test_a_teacher_that_is_not_finite_is_refused(factory):
    teacher = PDN(width=0.05, out_channels=6)
    teacher.last.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        tiny(teacher).fit(factory.train)
