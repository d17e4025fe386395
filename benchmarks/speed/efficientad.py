"""Time EfficientAD's scoring, training and losses beside a plain form of them, in one run, and write JSON.

    python -m benchmarks.speed.efficientad [--small]

The plain form has the same layers and weights as Sequentials in torch's default memory format. Its training step is
written here anew, in the manner of nelson1425/EfficientAD: a pass of the student for each of the three images, all of
its channels computed, and the hard differences found by their quantile and a mask. That both forms give the same
numbers is checked before they are timed. Each entry's "ratio" is the time of "peer" over that of "adlib", which is:
  forward            `patch_scores` of EfficientAD-S, image of 256 pixels; peer: the plain form
  channels_last      the plain form in channels_last, the format of adlib; peer: the same, contiguous
  bf16               `patch_scores` in float32; peer: with bf16=True
  training step      losses, backward and Adam for one image; peer: the plain form
  hard loss          forward and backward of `hard_feature_loss`, (1, 384, 56, 56); peer: by quantile and mask
  whole image, NAME  scores and full-size map of EfficientAD-S; peer: a quarter of the width, or another method. All
                     peers of the whole image were timed together, so these entries share adlib's time.
Weights do not matter for the time, so nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.augment import color_jitter
from adlib.backbones import MEAN, STD
from adlib.efficientad import hard_feature_loss, losses
from adlib.efficientad.distillation import channel_statistics
from adlib.efficientad.networks import PDN, AutoEncoder
from adlib.simplenet import Head, fold
from benchmarks.speed.timing import SEED, alternate, entry, run

BANK = 200 * 784 // 10  # rows: PatchCore's default for 200 images
RATE, DECAY, P_HARD = 1e-4, 1e-5, 0.999  # of the reference


class Plain(nn.Module):
    """The networks of a detector of size "s" as Sequentials: its weights, copied, but not its memory format."""

    def __init__(self, detector: EfficientAD) -> None:
        super().__init__()
        teacher, mean, std, student, autoencoder = detector.networks
        self.channels = mean.shape[1]
        self.teacher = filled(pdn_layers(self.channels), teacher).requires_grad_(False)
        self.student = filled(pdn_layers(2 * self.channels), student)
        self.autoencoder = filled(autoencoder_layers(autoencoder, self.channels), autoencoder)
        for name, value in {"mean": mean, "std": std, "quantiles": detector.quantiles}.items():
            self.register_buffer(name, value.clone())
        self.register_buffer("image_mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(STD).view(1, 3, 1, 1))

    def normalised(self, images: Tensor) -> Tensor:
        return (images - self.image_mean) / self.image_std

    def described(self, x: Tensor) -> Tensor:
        return (self.teacher(x) - self.mean) / self.std

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and combined maps (B, h, w), without a border."""
        x = self.normalised(images)
        teacher, student, autoencoder = self.described(x), self.student(x), self.autoencoder(x)
        maps = [((teacher - student[:, : self.channels]) ** 2).mean(1),
                ((autoencoder - student[:, self.channels :]) ** 2).mean(1)]  # fmt: skip
        maps = [0.1 * (m - low) / (high - low) for m, (low, high) in zip(maps, self.quantiles, strict=True)]
        combined = 0.5 * maps[0] + 0.5 * maps[1]
        return combined.flatten(1).max(1).values, combined

    def losses(self, images: Tensor, outside: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of one training step, each from passes of its own."""
        x, other = self.normalised(images), self.normalised(outside)
        changed = self.normalised(color_jitter(images, generator))
        with torch.no_grad():
            teacher, teacher_changed = self.described(x), self.described(changed)
        terms = {"hard": quantile_loss(teacher, self.student(x)[:, : self.channels]),
                 "penalty": (self.student(other)[:, : self.channels] ** 2).mean()}  # fmt: skip
        autoencoder, student = self.autoencoder(changed), self.student(changed)[:, self.channels :]
        terms["ae"] = ((teacher_changed - autoencoder) ** 2).mean()
        terms["stae"] = ((autoencoder - student) ** 2).mean()
        return terms


def filled(layers: Iterable[nn.Module], source: nn.Module) -> nn.Sequential:
    """The layers one after the other, with the weights of `source`, in evaluation mode."""
    module = nn.Sequential(*layers)
    with torch.no_grad():
        for own, given in zip(module.parameters(), source.parameters(), strict=True):
            own.copy_(given)
    return module.eval()


def pdn_layers(out: int) -> list[nn.Module]:
    return [nn.Conv2d(3, 128, 4), nn.ReLU(inplace=True), nn.AvgPool2d(2, 2), nn.Conv2d(128, 256, 4),
            nn.ReLU(inplace=True), nn.AvgPool2d(2, 2), nn.Conv2d(256, 256, 3), nn.ReLU(inplace=True),
            nn.Conv2d(256, out, 4)]  # fmt: skip


def autoencoder_layers(like: AutoEncoder, out: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in pairwise((3, 32, 32, 64, 64, 64)):
        layers += [nn.Conv2d(a, b, 4, 2, 1), nn.ReLU(inplace=True)]
    layers.append(nn.Conv2d(64, 64, like.code.kernel_size))
    for size in like.sizes[:-1]:
        layers += [nn.Upsample(size, mode="bilinear"), nn.Conv2d(64, 64, 4, 1, 2), nn.ReLU(inplace=True),
                   nn.Dropout(0.2)]  # fmt: skip
    return [*layers, nn.Upsample(like.sizes[-1], mode="bilinear"), nn.Conv2d(64, 64, 3, 1, 1), nn.ReLU(inplace=True),
            nn.Conv2d(64, out, 3, 1, 1)]  # fmt: skip


def quantile_loss(teacher: Tensor, student: Tensor) -> Tensor:
    distance = (teacher - student) ** 2
    return distance[distance >= torch.quantile(distance, P_HARD)].mean()


def detector_for(image: Tensor, width: float = 1.0, **options: Any) -> EfficientAD:
    """EfficientAD-S with random weights, the teacher's statistics from the image, and quantiles that change nothing."""
    detector = EfficientAD(PDN(width=width), image_size=tuple(image.shape[-2:]), device="cpu", **options).eval()
    with torch.no_grad():
        detector.mean, detector.std = channel_statistics([detector.features(image)])
    detector.quantiles = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    return detector


def relative(values: Tensor, to: Tensor) -> float:
    return float((values / to - 1).abs().max())


@torch.inference_mode()
def scoring(image: Tensor, repeats: int) -> list[dict[str, Any]]:
    """The three entries on `patch_scores`, in which no full-size map is made."""
    with torch.inference_mode(False):
        detector, half = detector_for(image), detector_for(image, bf16=True)
        plain, last = Plain(detector), Plain(detector).to(memory_format=torch.channels_last)
    moved = image.contiguous(memory_format=torch.channels_last)
    scores, border = detector.patch_scores(image)
    for form, x in ((plain, image), (last, moved)):
        found, combined = form(x)
        torch.testing.assert_close(found, scores, rtol=1e-4, atol=0)
        h, w = combined.shape[-2:]
        torch.testing.assert_close(combined, border[:, 4 : 4 + h, 4 : 4 + w], rtol=1e-3, atol=1e-6)
    forward = alternate({"adlib": lambda: detector.patch_scores(image), "plain": lambda: plain(image)}, repeats)
    formats = alternate({"adlib": lambda: last(moved), "contiguous": lambda: plain(image)}, repeats)
    numbers = {"adlib": lambda: detector.patch_scores(image), "bf16": lambda: half.patch_scores(image)}
    return [
        entry("forward", forward, relative_difference_of_scores=relative(plain(image)[0], scores)),
        entry("channels_last", formats),
        entry("bf16", alternate(numbers, repeats),
              relative_difference_of_scores=relative(half.patch_scores(image)[0], scores)),
    ]  # fmt: skip


def stepper(terms: Callable[[], dict[str, Tensor]], *networks: nn.Module) -> Callable[[], dict[str, Tensor]]:
    """One step of Adam down the sum of the terms, at each call."""
    trained = nn.ModuleList(networks).train()
    optimizer = torch.optim.Adam(trained.parameters(), RATE, weight_decay=DECAY)

    def step() -> dict[str, Tensor]:
        found = terms()
        optimizer.zero_grad(set_to_none=True)
        sum(found.values()).backward()
        optimizer.step()
        return {name: value.detach() for name, value in found.items()}

    return step


def training(image: Tensor, repeats: int) -> dict[str, Any]:
    detector = detector_for(image)
    plain, networks = Plain(detector), detector.networks
    draws = {name: torch.Generator().manual_seed(SEED) for name in ("adlib", "plain", "outside")}
    outside = torch.rand(image.shape, generator=draws["outside"])
    forms = {
        "adlib": stepper(lambda: losses(networks, image, outside, draws["adlib"], p_hard=P_HARD),
                         networks.student, networks.autoencoder),
        "plain": stepper(lambda: plain.losses(image, outside, draws["plain"]), plain.student, plain.autoencoder),
    }  # fmt: skip
    first = {name: form() for name, form in forms.items()}
    for term in ("hard", "penalty"):  # the others depend on the dropout, which each form draws in its own way
        torch.testing.assert_close(first["plain"][term], first["adlib"][term], rtol=1e-4, atol=0)
    return entry("training step", alternate(forms, repeats))


def hard_loss(cells: int, repeats: int) -> dict[str, Any]:
    draws = torch.Generator().manual_seed(SEED)
    teacher, student = (torch.randn(1, 384, cells, cells, generator=draws) for _ in range(2))
    student.requires_grad_()

    def with_gradient(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        student.grad = None
        loss(teacher, student).backward()
        return student.grad

    forms = {"adlib": lambda: with_gradient(hard_feature_loss), "quantile_mask": lambda: with_gradient(quantile_loss)}
    torch.testing.assert_close(forms["quantile_mask"](), forms["adlib"](), rtol=1e-4, atol=1e-9)
    return entry("hard loss", alternate(forms, repeats))


def whole_images(image: Tensor, repeats: int) -> list[dict[str, Any]]:
    """The other methods get the same image at 224/256 of its side: at 224 pixels, their default."""
    sides = [pixels * 7 // 8 for pixels in image.shape[-2:]]
    resized = F.interpolate(image, sides, mode="bilinear", antialias=True)
    detector, quarter = detector_for(image), detector_for(image, 0.25)
    simplenet, patchcore = SimpleNet(device="cpu").eval(), PatchCore(device="cpu").eval()
    simplenet.weight, simplenet.bias, simplenet.last = (t.detach() for t in fold(Head(288).eval()))
    patchcore.memory_bank = torch.rand(BANK, 288, generator=torch.Generator().manual_seed(SEED))
    forms = {"adlib": lambda: detector(image), "quarter width": lambda: quarter(image),
             "patchcore": lambda: patchcore(resized), "simplenet": lambda: simplenet(resized)}  # fmt: skip
    with torch.inference_mode():
        timing = alternate(forms, repeats)
    return [entry(f"whole image, {peer}", {"adlib": timing["adlib"], peer: timing[peer]})
            for peer in timing if peer != "adlib"]  # fmt: skip


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    torch.manual_seed(SEED)  # for the dropout of the plain form, which has no generator
    side = 64 if small else 256
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(SEED))
    rounds = (1, 1, 1) if small else (15, 9, 25)
    results = [*scoring(image, rounds[0]), training(image, rounds[1]), hard_loss(8 if small else 56, rounds[2]),
               *whole_images(image, rounds[0])]
    return {"data": f"one random image of {side} pixels, random weights, a bank of {BANK} random rows of 288 numbers "
            "for PatchCore", "results": results}


if __name__ == "__main__":
    run(__doc__, measure)
