"""Measure what margin around an inspected region is needed, and what masking the map alone would do.

    python -m benchmarks.accuracy.region

The region is the left of a factory picture. A disc is drawn into good pictures, so many pixels inside the region's
right edge or outside it. PatchCore scores all cells whose receptive field touches the region. From the patch scores
follows what a smaller margin would give: the image score is the largest patch score of the cells whose own square lies
within the margin; a negative one leaves out cells inside the region. The control is a detector that was fitted on whole
pictures and whose map alone is masked. Both thresholds are the 95 % quantile of good pictures that were not learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adlib import PatchCore
from adlib.datasets import SyntheticFactory
from benchmarks import common

PRODUCTS, TRAIN, GOOD, EDGE = ("fabric", "board"), 30, 60, 100
DISC, STRENGTH = 10, 0.6
DEPTHS = (0, 8, 40, -12, -24)  # pixels between the disc and the edge; below 0 it lies outside, −12 beside the edge
MARGINS = (-32, -16, -8, 0, 8, 16, 32, 64)  # pixels of the picture
REGION = [(0, 0), (EDGE, 0), (EDGE, 256), (0, 256)]


def with_disc(image: Tensor, depth: int, generator: np.random.Generator) -> Tensor:
    """The picture with a disc, darker or brighter than its surroundings, `depth` pixels left of the edge."""
    row, left = int(generator.integers(20, 220)), EDGE - depth - DISC
    changed = image.clone()
    part = changed[:, row : row + DISC, left : left + DISC]
    away = torch.arange(DISC) - (DISC - 1) / 2
    disc = away[:, None].square() + away.square() < (DISC / 2) ** 2
    part += disc * STRENGTH * (1 if float(part.mean()) < 0.5 else -1)
    return changed.clamp(0, 1)


def scores(grids: Tensor, margin: int) -> np.ndarray:
    """The largest patch score of each image within the margin."""
    step = 256 / grids.shape[-1]
    lefts = torch.arange(grids.shape[-1]) * step
    return grids[:, :, lefts < EDGE + margin].amax((1, 2)).numpy()


def run(product: str, seed: int) -> list[dict[str, Any]]:
    data = SyntheticFactory(product, seed=seed, n_train=TRAIN, n_test=2 * GOOD, n_defect=1)
    train: Sequence[Tensor] = [s.image for s in data.train]
    good = [s.image for s in data.test if s.label == 0]
    held, other = good[:GOOD], good[GOOD : 2 * GOOD]
    results = []
    for name, region in (("region", REGION), ("map masked alone", None)):
        detector = PatchCore(device="cpu", seed=seed, reweighting=None).fit(train, region=region)
        usual, normal = (detector.predict(images).maps.grids for images in (held, other))
        bad = {depth: detector.predict([with_disc(image, depth, np.random.default_rng([seed, i]))
                                        for i, image in enumerate(other)]).maps.grids for depth in DEPTHS}
        for margin in MARGINS:
            limit = float(np.quantile(scores(usual, margin), 0.95))
            results.append({
                "product": product, "seed": seed, "masked": name, "margin": margin,
                "margin_of_the_field": detector.region_margin,
                "false_alarms": round(float((scores(normal, margin) > limit).mean()), 3),
                "alarms_at_depth": {d: round(float((scores(g, margin) > limit).mean()), 3) for d, g in bad.items()},
            })  # fmt: skip
            print(results[-1], flush=True)
    return results


def main() -> None:
    args = common.arguments(__doc__, Path(__file__).with_suffix(".json"), seeds=range(1)).parse_args()
    results = [entry for product in PRODUCTS for seed in args.seeds for entry in run(product, seed)]
    common.write(args.out, {
        "name": "The margin around an inspected region", "command": common.command(seeds=args.seeds),
        "versions": common.versions(), "threads": torch.get_num_threads(), "backbone": "adlib_resnet18",
        "protocol": f"{TRAIN} good factory pictures to fit, {GOOD} for the threshold (5 % false alarms), {GOOD} others "
        f"good and with a disc of {DISC} pixels; the region is the left {EDGE} of 256 pixels; margins and depths in "
        "pixels of the picture, depths below 0 outside the region", "results": results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
