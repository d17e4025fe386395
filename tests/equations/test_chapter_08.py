"""Chapter 8, metrics: its one equation of its own, transcribed with loops in float64, against the library."""

import math

import numpy as np
import pytest

from adlib.pimo import aupimo
from equations import equation


def draw(seed, ties):
    """Six pictures of different sizes, every other one with a defect."""
    rng = np.random.default_rng(seed)
    masks, maps = [], []
    for i in range(6):
        mask = np.zeros((12, 13 + i), bool)
        mask[3:6, 4 : 4 + i * (i % 2)] = True
        values = rng.normal(size=mask.shape) + 1.2 * mask
        masks.append(mask)
        maps.append(np.round(values, 1) if ties else values)
    return masks, maps


@equation("8.1", function="adlib.pimo.aupimo")
@pytest.mark.parametrize("limits", [(0.01, 0.2), (0.003, 1.0)])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_aupimo(seed, ties, limits):
    masks, maps = draw(seed, ties)
    pictures = [[float(v) for v in values.ravel()] for mask, values in zip(masks, maps, strict=True) if not mask.any()]

    def fpr(t):
        return sum(sum(v >= t for v in picture) / len(picture) for picture in pictures) / len(pictures)

    # Every threshold that means another decision, from "marks nothing" down, with its rate.
    thresholds = sorted({float(v) for values in maps for v in values.ravel()} | {math.inf}, reverse=True)
    rates = [fpr(t) for t in thresholds]
    found = aupimo(masks, maps, limits=limits)
    for mask, values, area in zip(masks, maps, found, strict=True):
        if not mask.any():
            assert math.isnan(area)
            continue
        defect = [float(v) for v in values[mask]]
        # Between two rates that occur, the lowest threshold that keeps the rate stays the same: a sum of rectangles.
        ends = sorted({limits[0], limits[1], *(r for r in rates if limits[0] < r < limits[1])})
        total = 0.0
        for low, high in zip(ends, ends[1:], strict=False):
            t = min(t for t, r in zip(thresholds, rates, strict=True) if r <= low)
            total += sum(v >= t for v in defect) / len(defect) * (math.log(high) - math.log(low))
        assert area == pytest.approx(total / math.log(limits[1] / limits[0]), abs=1e-9)
