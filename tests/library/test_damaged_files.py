"""Damaged and hostile detector files: `load` names the file in a ValueError, or the scores are the same bits."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.detector import Detector
from adlib.efficientad.networks import PDN
from adlib.files import read_tensors, write_tensors
from adlib.saving import FORMAT


class Narrow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 5, 2, 2)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.a(x).relu()
        return {"a": x, "b": self.b(x)}


OWN: dict[str, nn.Module] = {"backbone": Narrow(), "teacher": PDN(width=0.02, out_channels=3)}
SHARED = {"image_size": 64, "device": "cpu"}
MAKE: dict[str, Callable[[], Detector]] = {
    "PatchCore": lambda: PatchCore(OWN["backbone"], layers=("a", "b"), **SHARED),
    "SimpleNet": lambda: SimpleNet(OWN["backbone"], layers=("a", "b"), epochs=1, **SHARED),
    "EfficientAD": lambda: EfficientAD(OWN["teacher"], steps=2, autoencoder_width=0.03, latent=2, **SHARED),
}
CLASSES: dict[str, type[Detector]] = {"PatchCore": PatchCore, "SimpleNet": SimpleNet, "EfficientAD": EfficientAD}


def images(count: int, seed: int) -> list[torch.Tensor]:
    return list(torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)))


class Saved:
    """A small detector's file, what is in it, and its scores of two images."""

    def __init__(self, method: str, path: Path) -> None:
        self.method, self.path, self.images = method, path, images(2, 2)
        MAKE[method]().fit(images(4, 0), validation=images(4, 1)).save(path)
        self.content = path.read_bytes()
        self.about, self.tensors = read_tensors(path)
        self.scores = self.load().predict(self.images).scores

    def load(self) -> Detector:
        name = "teacher" if self.method == "EfficientAD" else "backbone"
        return CLASSES[self.method].load(self.path, device="cpu", **{name: OWN[name]})

    def outcome(self) -> str:
        """"refused" or "identical"; anything else fails the test."""
        try:
            detector = self.load()
        except ValueError as error:
            assert str(error).startswith(f"{self.path}: "), error
            return "refused"
        assert np.array_equal(detector.predict(self.images).scores, self.scores)
        return "identical"

    def refused(self, about: dict[str, Any] | None = None, tensors: dict[str, torch.Tensor] | None = None) -> str:
        """The reason for which this, written with the right checksum, is refused."""
        write_tensors(self.path, self.tensors if tensors is None else tensors, self.about if about is None else about)
        with pytest.raises(ValueError) as caught:
            self.load()
        assert str(caught.value).startswith(f"{self.path}: ")
        return str(caught.value)


@pytest.fixture(scope="module")
def all_saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    folder = tmp_path_factory.mktemp("saved")
    return {method: Saved(method, folder / f"{method}.safetensors") for method in MAKE}


@pytest.fixture(params=list(MAKE))
def saved(request: pytest.FixtureRequest, all_saved: dict[str, Saved]) -> Saved:
    return all_saved[request.param]


# ---------------------------------------------------------------------- damage


def flipped(content: bytearray, rng: random.Random) -> None:
    header = 8 + int.from_bytes(content[:8], "little")
    end = header if rng.random() < 0.3 else len(content)  # the header is small and would seldom be met
    for _ in range(rng.choice([1, 1, 1, 2, 50])):
        content[rng.randrange(end)] ^= 1 << rng.randrange(8)


def cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def longer(content: bytearray, rng: random.Random) -> None:
    content += rng.randbytes(rng.randint(1, 5000))


def zeroed(content: bytearray, rng: random.Random) -> None:
    begin, length = rng.randrange(len(content)), rng.choice([1, 8, 512, 4096])
    content[begin : begin + length] = bytes(len(content[begin : begin + length]))


def swapped(content: bytearray, rng: random.Random) -> None:
    size = rng.choice([4, 64, 512])
    a, b = (rng.randrange(len(content) // size) * size for _ in range(2))
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


def missing_piece(content: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(content))
    del content[begin : begin + rng.choice([1, 4, 512])]


def edited(content: bytearray, rng: random.Random) -> None:
    """Another value in what the file says about itself, of the same length, as an editor would make it."""
    header = 8 + int.from_bytes(content[:8], "little")
    digits = [i for i in range(8, header) if chr(content[i]).isdigit()]
    content[rng.choice(digits)] = ord(rng.choice("0123456789"))


DAMAGE = (flipped, flipped, cut, longer, zeroed, swapped, missing_piece, edited)


def damage(saved: Saved, seeds: range) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        rng, content = random.Random(f"{saved.method} {seed}"), bytearray(saved.content)
        DAMAGE[seed % len(DAMAGE)](content, rng)
        saved.path.write_bytes(content)
        outcome = saved.outcome()
        assert outcome == "refused" or bytes(content) == saved.content or seed % len(DAMAGE) in (0, 1, 4, 7), seed
        counts[outcome] += 1
    return counts


def test_damaged_files_are_refused_or_score_the_same(saved: Saved) -> None:
    counts = damage(saved, range(150))
    assert counts["refused"] > 120, counts


@pytest.mark.full
@pytest.mark.slow
def test_two_thousand_damaged_files_are_refused_or_score_the_same(saved: Saved) -> None:
    counts = damage(saved, range(2_000))
    print(saved.method, dict(counts))
    assert counts["refused"] > 1_600 and counts.total() == 2_000, counts


# ---------------------------------------------------------------------- hostile values under the right checksum

NAN, INF = float("nan"), float("inf")
NO_NUMBERS: list[Any] = [None, True, "1", [], {}, [1], NAN, INF, -1]
WRONG: dict[str, list[Any]] = {
    "stride": [*NO_NUMBERS, 0, 1.5, 10**6, 10**30, 9], "neighbourhood": [*NO_NUMBERS, 0, 2, 1.5, 10**9 + 1],
    "layers": [None, True, 3, "a", [], {}, [1], ["a", "a"], ["c"], [["a"]], ["a", None]],
    "image_size": [True, "64", [], {}, [64], [64, 64, 64], [64, 64.5], 64.0, NAN, 8, 10**6, 16_385, [16_384, 16_384],
                   -64, [64, True], [[64], 64]],
    "smoothing": [None, True, "1", [], {}, NAN, INF, -1, 10**9], "batch_size": [*NO_NUMBERS, 0, 1.5, 10**12],
    "seed": [None, True, "1", [], {}, NAN, INF, -1, 1.5, 10**30], "max_memory": [None, True, "1", [], {}, NAN, -1, 0],
    "coreset_ratio": [*NO_NUMBERS, 0, 1.5], "chunk": [*NO_NUMBERS[1:], 0, 1.5, 10**30],
    "projection": [*NO_NUMBERS[1:], 0, 1.5, 10**30],
    "reweighting": [*NO_NUMBERS[1:], 0, 1.5, 10**30], "pooling": [*NO_NUMBERS[1:], 0, 1.5, 65_537],
    "selection": [None, True, 3, [], {}, "", ["greedy"]],
    "squared": [None, 0, 1, "", []], "tiles": [*NO_NUMBERS[1:], 0, -16, 64.0, 10**30],
    "resize": [*NO_NUMBERS[1:], 0, 31, 64.0, 16_385],
    "adaptor": [None, True, 3, [], {}, "mlp", "deep", ["linear"]], "adaptor_bias": [None, 0, 1, "", [], "yes"],
    "adamw": [None, 0, 1, "", [], "yes"], "autoencoder_draw": [None, True, 3, [], {}, "", ["he"]],
    "hidden": [*NO_NUMBERS[1:], 0, 1.5, 10**9], "noise": [True, "1", [], {}, NAN, INF, 0, -1],
    "noise_ratio": [*NO_NUMBERS, 0], "epochs": [*NO_NUMBERS, 0, 1.5, 10**30],
    "images_per_step": [*NO_NUMBERS, 0, 1.5, 10**30], "decay": [None, True, 3, [], {}, "fast", ["cosine"]],
    "learning_rates": [None, 3, "ab", [], {}, [1e-3], [1e-3, NAN], [1e-3, "a"], [1e-3, True], {"a": 1, "b": 2}],
    "autoencoder_width": [*NO_NUMBERS, 0, 9, 10**6], "latent": [*NO_NUMBERS, 0, 1.5, 5000, 10**9],
    "steps": [*NO_NUMBERS, 0, 1.5, 10**30], "p_hard": [None, True, "1", [], {}, NAN, 1, -0.1],
    "detach_autoencoder": [None, 0, 1, "", []], "bf16": [None, 0, 1, "", []],
    "learning_rate": [*NO_NUMBERS, 0],
}  # fmt: skip


def test_settings_that_the_constructor_refuses_are_refused_in_a_file(saved: Saved) -> None:
    config = saved.about["config"]
    for name in config:
        for value in WRONG[name]:
            told = saved.refused({**saved.about, "config": {**config, name: value}})
            assert f"its settings make no {saved.method} (" in told, (name, value, told)
            with pytest.raises(ValueError):
                CLASSES[saved.method](next(iter(OWN.values())) if saved.method != "EfficientAD" else OWN["teacher"],
                                      **{**config, "device": "cpu", name: value})


def test_entries_that_are_missing_unknown_or_of_another_type(saved: Saved) -> None:
    about, config = saved.about, saved.about["config"]
    for key in about:
        assert saved.refused({k: v for k, v in about.items() if k != key})
        for value in (None, [], 3.5, {}, [about[key]], "x"):
            if value != about[key] and (key, value) not in (("adlib", "x"), ("torch", "x")):
                assert saved.refused({**about, key: value}), (key, value)
    for name in config:
        assert name in saved.refused({**about, "config": {k: v for k, v in config.items() if k != name}})
    for name in ("unknown", "device", "pretrained", "checkpoint", "self", "__class__"):
        assert name in saved.refused({**about, "config": {**config, name: 1}})
    for other in ({}, {"method": saved.method}, {"method": saved.method, "format": FORMAT, "config": config}):
        assert saved.refused(other)


def test_another_method_format_or_version_is_told_with_both(saved: Saved) -> None:
    for change in ({"method": "Other"}, {"method": ["PatchCore"]}, {"format": 2}, {"format": FORMAT + 1}):
        told = saved.refused({**saved.about, **change, "adlib": "9.9"})
        here = f"expected a {saved.method} saved by adlib (format {FORMAT}, adlib {saved.about['adlib']})"
        there = {"method": saved.method, "format": FORMAT, **change}
        assert here in told and f"found {there['method']} (format {there['format']}, adlib 9.9)" in told
    save_file(saved.tensors, saved.path, {"adlib": json.dumps({**saved.about, "format": 2})})
    with pytest.raises(ValueError, match="of an older version of adlib"):
        saved.load()
    assert saved.about["torch"] == torch.__version__


def test_tensors_that_do_not_belong_together(saved: Saved) -> None:
    tensors = saved.tensors
    assert "lacks, or has too much, more" in saved.refused(tensors={**tensors, "more": torch.zeros(1)})
    for name, value in tensors.items():
        assert f"too much, {name}" in saved.refused(tensors={k: v for k, v in tensors.items() if k != name})
        for wrong in (value.double(), value.half(), value.to(torch.int32), value[None], value.flatten()[0]):
            assert name in saved.refused(tensors={**tensors, name: wrong}), (name, wrong.dtype, wrong.shape)
        for number in (NAN, INF, -INF):
            broken = value.clone()
            broken.view(-1)[-1] = number
            assert f"{name} has values that are not finite" in saved.refused(tensors={**tensors, name: broken})
    for name in ("memory_bank", "weight", "bias", "last", "quantiles"):
        if name in tensors:
            value = tensors[name]
            for wrong in (value[:0], torch.cat([value, value]) if name != "memory_bank" else value[:, :-1]):
                assert "its values make no" in saved.refused(tensors={**tensors, name: wrong}), (name, wrong.shape)
    assert "rising order" in saved.refused(tensors={**tensors, "normal_scores": tensors["normal_scores"].flip(0)})


def test_quantiles_that_are_out_of_order(all_saved: dict[str, Saved]) -> None:
    saved = all_saved["EfficientAD"]
    for wrong in (saved.tensors["quantiles"].flip(1), torch.zeros(2, 2)):
        assert "two pairs" in saved.refused(tensors={**saved.tensors, "quantiles": wrong})


def test_the_wrong_module_and_another_name(saved: Saved) -> None:
    for frozen in ("adlib_resnet18", "no network", "../x", ""):
        assert "pass none" in saved.refused({**saved.about, "frozen": frozen})
        with pytest.raises(ValueError, match="safetensors: "):
            CLASSES[saved.method].load(saved.path, device="cpu")
