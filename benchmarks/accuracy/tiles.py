"""Measure what tiles find in large pictures with small defects that the default size does not show.

    python -m benchmarks.accuracy.tiles

Each picture is a mosaic of 3 × 4 pictures of one product of the factory, 768 × 1024 pixels; in a defective one, a disc
is drawn at a random place. PatchCore sees the mosaics resized to its default size, or at their own size in tiles of 512
pixels. Everything else is equal, seed by seed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adlib import PatchCore
from adlib.datasets import Sample, SyntheticFactory
from benchmarks import common

PRODUCTS, ROWS, COLUMNS, TRAIN, TEST = ("fabric", "board"), 3, 4, 8, 20
DISCS, STRENGTH = (10, 20), 0.6  # diameter in pixels; how much darker or brighter
WAYS: dict[str, dict[str, Any]] = {"resized": {}, "tiles of 512": {"tiles": 512}}


def mosaics(samples: Sequence[Sample], count: int) -> list[Tensor]:
    each, made = ROWS * COLUMNS, []
    for i in range(count):
        pictures = [s.image for s in samples[i * each : (i + 1) * each]]
        made.append(torch.cat([torch.cat(pictures[r * COLUMNS : (r + 1) * COLUMNS], 2) for r in range(ROWS)], 1))
    return made


def with_disc(image: Tensor, size: int, generator: np.random.Generator) -> tuple[Tensor, tuple[int, int]]:
    """The picture with a disc, darker or brighter than its surroundings, and the disc's middle."""
    row, left = (int(generator.integers(20, side - 20 - size)) for side in image.shape[1:])
    changed = image.clone()
    part = changed[:, row : row + size, left : left + size]
    away = torch.arange(size) - (size - 1) / 2
    disc = away[:, None].square() + away.square() < (size / 2) ** 2
    part += disc * STRENGTH * (1 if float(part.mean()) < 0.5 else -1)
    return changed.clamp(0, 1), (row + size // 2, left + size // 2)


def run(product: str, seed: int) -> list[dict[str, Any]]:
    each = ROWS * COLUMNS
    data = SyntheticFactory(product, seed=seed, n_train=each * TRAIN, n_test=2 * each * TEST, n_defect=1)
    good = [s for s in data.test if s.label == 0]
    train, normal = mosaics(data.train, TRAIN), mosaics(good[: each * TEST], TEST)
    others, results = mosaics(good[each * TEST :], TEST), []
    for name, options in WAYS.items():
        began = time.monotonic()
        detector = PatchCore(coreset_ratio=0.02, device="cpu", seed=seed, **options).fit(train)
        usual = detector.predict(normal).scores
        for size in DISCS:
            made = [with_disc(image, size, np.random.default_rng([seed, i])) for i, image in enumerate(others)]
            found = detector.predict([image for image, _ in made])
            peaks = [np.unravel_index(int(m.argmax()), m.shape) for m in found.maps]
            near = [np.hypot(p[0] - m[0], p[1] - m[1]) < 24 for p, (_, m) in zip(peaks, made, strict=True)]
            results.append({
                "product": product, "seed": seed, "images": name, "image_size": detector.image_size, "disc": size,
                "smallest_defect": round(float(detector.smallest_defect or 0), 1),
                "image_auroc": common.auroc([0] * TEST + [1] * TEST, [*usual, *found.scores], seed=seed),
                "largest_map_value_on_the_disc": float(np.mean(near)),
            })  # fmt: skip
            print(results[-1], round(time.monotonic() - began), "s", flush=True)
    return results


def main() -> None:
    args = common.arguments(__doc__, Path(__file__).with_suffix(".json"), seeds=range(1)).parse_args()
    results = [entry for product in PRODUCTS for seed in args.seeds for entry in run(product, seed)]
    common.write(args.out, {
        "name": "Small defects in large pictures, resized and in tiles", "command": common.command(seeds=args.seeds),
        "versions": common.versions(), "threads": torch.get_num_threads(), "backbone": "adlib_resnet18",
        "protocol": f"mosaics of {ROWS} × {COLUMNS} factory pictures, 768 × 1024 pixels; {TRAIN} good ones to fit, "
        f"{TEST} good and {TEST} others with a disc of so many pixels to test; image AUROC, and how often the map's "
        "largest value lies within 24 pixels of the disc's middle", "results": results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
