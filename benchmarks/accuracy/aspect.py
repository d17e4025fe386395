"""Measure what the default image size, which keeps the training images' aspect, is worth on long pictures.

    python -m benchmarks.accuracy.aspect

Each picture is a strip of four pictures of one product of the factory, 256 × 1024 pixels; in a defective one, one of
the four has a structural defect. PatchCore sees all strips squeezed into a square of 224 pixels, or, by its default, at
the strip's aspect and the same area. Everything else is equal, seed by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adlib import PatchCore
from adlib.datasets import Sample, SyntheticFactory
from benchmarks import common

PRODUCTS, TRAIN, TEST, WIDE = ("fabric", "board"), 40, 40, 4
SIZES = {"a square of 224": 224, "the strip's aspect": None}


def strips(samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` strips of normal samples."""
    made = []
    for i in range(count):
        four = [s.image for s in samples[WIDE * i : WIDE * (i + 1)]]
        made.append(Sample(0, "good", f"strip {i}", image_source=torch.cat(four, 2)))
    return made


def with_one(good: Sequence[Sample], defective: Sequence[Sample], seed: int) -> list[Sample]:
    """A strip for each defective sample, which stands in a place of it that `seed` draws."""
    places, made = np.random.default_rng(seed).integers(0, WIDE, len(defective)), []
    for i, (bad, place) in enumerate(zip(defective, places, strict=True)):
        four = [s.image for s in good[WIDE * i : WIDE * (i + 1)]]
        four[place] = bad.image
        made.append(Sample(1, bad.kind, f"strip {i} with {bad.kind}", image_source=torch.cat(four, 2)))
    return made


def run(product: str, seed: int) -> list[dict[str, Any]]:
    data = SyntheticFactory(product, seed=seed, n_train=WIDE * TRAIN, n_test=2 * WIDE * TEST, n_defect=TEST)
    good = [s for s in data.test if s.label == 0]
    bad = [s for s in data.test if s.label == 1 and not s.logical]
    train = strips(data.train, TRAIN)
    test = strips(good[: WIDE * TEST], TEST) + with_one(good[WIDE * TEST :], bad, seed)
    results = []
    for name, size in SIZES.items():
        detector = PatchCore(image_size=size, device="cpu", seed=seed).fit(train)
        prediction = detector.predict(test)
        results.append({"product": product, "seed": seed, "images": name, "image_size": detector.image_size,
                        "image_auroc": common.auroc(prediction.targets, prediction.scores, seed=seed)})  # fmt: skip
        print(results[-1], flush=True)
    return results


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), seeds=range(3))
    args = parser.parse_args()
    results = [entry for product in PRODUCTS for seed in args.seeds for entry in run(product, seed)]
    common.write(args.out, {
        "name": "PatchCore on strips of four pictures", "command": common.command(seeds=args.seeds),
        "versions": common.versions(), "threads": torch.get_num_threads(), "backbone": "adlib_resnet18",
        "protocol": f"strips of {WIDE} factory pictures, 256 × 1024 pixels; {TRAIN} good ones to fit, {TEST} good and "
        f"{TEST} with one defective picture to test; image AUROC", "results": results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
