"""Time SimpleNet's training and scoring beside the official head's own form, in one run, and write JSON.

    python -m benchmarks.speed.simplenet [--small]

The official form is written here anew, after the published code: adaptor with a bias, AdamW for it, noise drawn and
mixed on the CPU, normal and noisy features stacked before the discriminator. Both get the same features and batches.
Whole images: SimpleNet beside PatchCore with the bank of 200 training images, both with their defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adlib import PatchCore, SimpleNet
from adlib.simplenet import Head, fold, score_patches, train_head
from benchmarks.speed.timing import SEED, alternate, entry, run

IMAGES, PATCHES, CHANNELS, HIDDEN, BATCH, SIGMA = 64, 784, 1536, 1024, 8, 0.015


class OfficialForm:
    """Adaptor and discriminator of the official code and its loop over the batches of one pass."""

    def __init__(self) -> None:
        torch.manual_seed(SEED)
        self.adaptor = nn.Linear(CHANNELS, CHANNELS)
        self.body = nn.Sequential(nn.Linear(CHANNELS, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.LeakyReLU(0.2))
        self.tail = nn.Linear(HIDDEN, 1, bias=False)
        discriminator = [*self.body.parameters(), *self.tail.parameters()]
        self.optimizers = [torch.optim.AdamW(self.adaptor.parameters(), lr=1e-4),
                           torch.optim.Adam(discriminator, lr=2e-4, weight_decay=1e-5)]

    def train(self, features: Tensor) -> None:
        for batch in features.split(BATCH):
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            true = self.adaptor(batch.reshape(-1, CHANNELS))
            kinds = F.one_hot(torch.randint(0, 1, (len(true),)), num_classes=1)  # one level of noise, as in its preset
            noise = torch.stack([torch.normal(0, SIGMA * 1.1**k, true.shape) for k in range(1)], dim=1)
            noise = (noise * kinds.unsqueeze(-1)).sum(1)
            scores = self.tail(self.body(torch.cat([true, true + noise])))
            true_scores, fake_scores = scores[: len(true)], scores[len(true) :]
            loss = (0.5 - true_scores).clamp(min=0).mean() + (fake_scores + 0.5).clamp(min=0).mean()
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()

    def score(self, features: Tensor) -> Tensor:
        return -self.tail(self.body(self.adaptor(features)))[:, 0]


def head_timings(small: bool) -> dict[str, Any]:
    shape = BATCH if small else IMAGES, PATCHES, CHANNELS
    features = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)) * 0.1
    peer = OfficialForm()
    options = {"epochs": 1, "noise": SIGMA, "hidden": HIDDEN, "images_per_step": BATCH, "decay": "none"}
    forms = {"adlib": lambda: train_head(features, **options), "official_form": lambda: peer.train(features)}
    training = alternate(forms, 1 if small else 3)
    folded, rows = fold(Head(CHANNELS, hidden=HIDDEN).eval()), features[0]
    peer.body.eval()
    with torch.inference_mode():
        forms = {"adlib": lambda: score_patches(rows, *folded), "official_form": lambda: peer.score(rows)}
        scoring = alternate(forms, 25)
    return {"training": training, "scoring": scoring}


def image_timings() -> dict[str, Any]:
    """One image of 224 pixels; the weights do not matter for the time, so nothing is fitted."""
    draws, image = torch.Generator().manual_seed(SEED), torch.rand(1, 3, 224, 224)
    simplenet, patchcore = SimpleNet(device="cpu").eval(), PatchCore(device="cpu").eval()
    simplenet.weight, simplenet.bias, simplenet.last = fold(Head(288).eval())
    patchcore.memory_bank = torch.rand(200 * PATCHES // 10, 288, generator=draws)
    with torch.no_grad():
        return alternate({"adlib": lambda: simplenet(image), "patchcore": lambda: patchcore(image)}, 25)


def measure(small: bool, scratch: Path) -> dict[str, Any]:
    timings = head_timings(small) | {"image": image_timings()}
    return {"data": f"random features: {IMAGES} images of {PATCHES} patches, {CHANNELS} channels, hidden {HIDDEN}, "
            f"batches of {BATCH} images", "results": [entry(what, timing) for what, timing in timings.items()]}


if __name__ == "__main__":
    run(__doc__, measure)
