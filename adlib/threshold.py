"""From scores to decisions: a threshold with a known false-alarm rate, and the regions above it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from torch import Tensor


def conformal_threshold(normal_scores: Sequence[float] | Tensor, false_alarm_rate: float) -> float:
    """The ⌈(n+1)(1−α)⌉-th smallest of n held-out normal scores. Equation (2.17).

    An image is called defective where its score is above the threshold. If a new good image is
    exchangeable with the held-out ones, that happens with probability at most α.

    Parameters
    ----------
    normal_scores : sequence or Tensor (n,)
        Of normal images that are not in the memory bank.
    false_alarm_rate : float
        α in (0, 1).

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Where a score is not finite or n is too small: it needs n ≥ 1/α − 1.

    References
    ----------
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.
    """
    if isinstance(normal_scores, Tensor):  # a detector on a GPU keeps them there
        normal_scores = normal_scores.detach().cpu()
    scores = np.sort(np.asarray(normal_scores, np.float64).ravel())
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate = {false_alarm_rate}: expected a share between 0 and 1")
    if not np.isfinite(scores).all():
        raise ValueError("normal_scores: expected finite values")
    rank = math.ceil((len(scores) + 1) * (1 - false_alarm_rate) - 1e-9)  # 1e-9: 0.9·10 is not 9 in binary
    if rank > len(scores):
        raise ValueError(
            f"{len(scores)} held-out normal images cannot promise a false-alarm rate of {false_alarm_rate:g}: "
            f"expected at least {math.ceil(1 / false_alarm_rate - 1 - 1e-9)}. Take more good images, hold out a larger "
            f"share of them, or accept a rate of at least 1/{len(scores) + 1} = {1 / (len(scores) + 1):.3g}"
        )
    return float(scores[max(rank, 1) - 1])


@dataclass(frozen=True)
class DefectRegion:
    """One connected region of a map above its threshold.

    Attributes
    ----------
    box : (left, top, right, bottom)
        In pixels, right and bottom exclusive.
    area : int
        Pixels.
    peak : float
        The largest map value inside.
    centre : (x, y)
        The mean position of its pixels.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    centre: tuple[float, float]


def defect_regions(anomaly_map: np.ndarray, threshold: float, *, min_area: int = 1) -> list[DefectRegion]:
    """The 8-connected regions where the map is above `threshold`, the highest peak first.

    Parameters
    ----------
    anomaly_map : ndarray (H, W)
    threshold : float
    min_area : int
        Smaller regions, in pixels, are left out.

    Returns
    -------
    list of DefectRegion

    Raises
    ------
    ValueError
        Where the map is not (H, W) or not finite.
    """
    values = np.asarray(anomaly_map)
    if not math.isfinite(threshold):
        raise ValueError(f"threshold = {threshold}: expected a finite number")
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"map of shape {values.shape}: expected (H, W) with finite values")
    labelled, _ = ndimage.label(values > threshold, np.ones((3, 3)))
    regions = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), start=1):
        inside = labelled[rows, columns] == number
        area = int(inside.sum())
        if area >= min_area:
            y, x = np.nonzero(inside)
            regions.append(
                DefectRegion(
                    (columns.start, rows.start, columns.stop, rows.stop), area,
                    float(values[rows, columns][inside].max()),
                    (columns.start + float(x.mean()), rows.start + float(y.mean())),
                )  # fmt: skip
            )
    return sorted(regions, key=lambda region: -region.peak)
