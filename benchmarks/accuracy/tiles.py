"""Measure which defects of a large picture tiles find and a resized picture does not, and the other way round.

    python -m benchmarks.accuracy.tiles

A picture is one part of the factory, drawn at 640 × 640 pixels. Into good test pictures a disc is drawn, 4, 10 or 48
pixels wide, at a random place. PatchCore sees the pictures resized to its default size, 224 × 224, where the discs are
about 1, 3 and 17 pixels wide, or at their own size in tiles of 320 pixels. Everything else is equal, seed by seed: the
training pictures, the number of patches in the memory bank, the test pictures and the discs in them.

Fixed before the run: the products, sizes, strength and seeds; the measure is the image AUROC. Tiles help with a disc
where the interval of the difference, tiles less resized, lies above 0, and do harm where it lies below. The control is
a "disc" of no pixels: the same pictures as they were, whose AUROC has to be 0.5 but for chance. After the first three
seeds, three were added and the intervals of the differences corrected for their number, six (Bonferroni).
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adlib import PatchCore
from adlib.datasets import SyntheticFactory
from adlib.intervals import mean_interval
from benchmarks import common

PRODUCTS, SIDE, TRAIN, TEST = ("fabric", "board"), 640, 8, 12
DISCS, STRENGTH = (0, 4, 10, 48), 0.6  # diameter in pixels, 0 for none; how much darker or brighter
BANK = 1000  # patches that both keep
WAYS: dict[str, dict[str, Any]] = {"resized": {}, "tiles": {"tiles": 320}}
COMPARED = len(PRODUCTS) * (len(DISCS) - 1)  # differences that are tested
NEAR = 24  # pixels from the disc's edge, about one cell of the resized picture


def with_disc(image: Tensor, size: int, generator: np.random.Generator) -> tuple[Tensor, tuple[float, float]]:
    """The picture with a disc, darker or brighter than its surroundings, and the disc's middle."""
    row, left = (int(generator.integers(20, side - 20 - size)) for side in image.shape[1:])
    changed = image.clone()
    part = changed[:, row : row + size, left : left + size]
    away = torch.arange(size) - (size - 1) / 2
    disc = away[:, None].square() + away.square() < (size / 2) ** 2
    if size:
        part += disc * STRENGTH * (1 if float(part.mean()) < 0.5 else -1)
    return changed.clamp(0, 1), (row + (size - 1) / 2, left + (size - 1) / 2)


def found_at(anomaly_map: np.ndarray, middle: tuple[float, float], size: int) -> bool:
    """Whether the map's largest value lies on the disc or beside it."""
    row, column = np.unravel_index(int(anomaly_map.argmax()), anomaly_map.shape)
    return bool(np.hypot(row - middle[0], column - middle[1]) <= size / 2 + NEAR)


def run(product: str, seed: int) -> list[dict[str, Any]]:
    data = SyntheticFactory(product, size=SIDE, seed=seed, n_train=TRAIN, n_test=2 * TEST, n_defect=0)
    train, good = ([s.image for s in some] for some in (data.train, data.test))
    normal, others, results = good[:TEST], good[TEST:], []
    for name, options in WAYS.items():
        began = time.monotonic()
        patches = TRAIN * ((SIDE if options else PatchCore.SIDE) // 8) ** 2
        detector = PatchCore(coreset_ratio=(BANK + 0.5) / patches, device="cpu", seed=seed, **options).fit(train)
        usual = detector.predict(normal).scores
        for size in DISCS:
            made = [with_disc(image, size, np.random.default_rng([seed, i])) for i, image in enumerate(others)]
            found = detector.predict([image for image, _ in made])
            near = [found_at(m, middle, size) for m, (_, middle) in zip(found.maps, made, strict=True)]
            results.append({
                "product": product, "seed": seed, "images": name, "image_size": detector.image_size,
                "memory_bank": len(detector.memory_bank), "disc": size,
                "smallest_defect": round(float(detector.smallest_defect or 0), 1),
                "image_auroc": common.auroc([0] * TEST + [1] * TEST, [*usual, *found.scores], seed=seed),
                "largest_map_value_at_the_disc": float(np.mean(near)) if size else None,
            })  # fmt: skip
            print(results[-1], round(time.monotonic() - began), "s", flush=True)
    return results


def summary(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each product and disc: both means with 95 % intervals, and the differences, 95 % for all together."""
    rows = []
    for product, size in dict.fromkeys((r["product"], r["disc"]) for r in results):
        row: dict[str, Any] = {"product": product, "disc": size}
        some = [r for r in results if (r["product"], r["disc"]) == (product, size)]
        values = {name: [r["image_auroc"] for r in some if r["images"] == name] for name in WAYS}
        for name, of_seeds in values.items():
            row[name] = _mean([a["value"] for a in of_seeds], intervals=[(a["low"], a["high"]) for a in of_seeds])
            hits = [r["largest_map_value_at_the_disc"] for r in some if r["images"] == name]
            row[f"{name}, at the disc"] = float(np.mean(hits)) if size else None
        apart = [t["value"] - r["value"] for t, r in zip(values["tiles"], values["resized"], strict=True)]
        row["difference"] = _mean(apart, limits=(-1, 1), confidence=1 - 0.05 / COMPARED)
        rows.append(row)
    return rows


def _mean(values: list[float], **options: Any) -> dict[str, float]:
    low, high = mean_interval(values, same_images=False, **options)
    return {"value": float(np.mean(values)), "low": low, "high": high}


def main() -> None:
    args = common.arguments(__doc__, Path(__file__).with_suffix(".json"), seeds=range(6)).parse_args()
    kept = common.read(args.out, {"results": []})["results"]  # a run that is in the file is not done again
    results = []
    for product, seed in itertools.product(PRODUCTS, args.seeds):
        there = [r for r in kept if (r["product"], r["seed"]) == (product, seed)]
        results += there or run(product, seed)
    common.write(args.out, {
        "name": "Small and large defects in large pictures, resized and in tiles",
        "command": common.command(seeds=args.seeds), "versions": common.versions(),
        "threads": torch.get_num_threads(), "backbone": "adlib_resnet18",
        "protocol": f"factory pictures drawn at {SIDE} × {SIDE} pixels; {TRAIN} good ones to fit, a memory bank of "
        f"{BANK} patches; {TEST} good ones and {TEST} others with a disc of so many pixels to test, no disc as the "
        f"control; image AUROC, and how often the map's largest value lies at most {NEAR} pixels beside the disc. "
        "Intervals of means over seeds as in section 8.5; those of the differences are Student's over the seeds, for "
        f"{COMPARED} differences together",
        "summary": summary(results), "results": results,
    })  # fmt: skip
    for row in summary(results):
        print(row)


if __name__ == "__main__":
    main()
