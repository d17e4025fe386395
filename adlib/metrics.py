"""How well scores and maps separate defective from good: areas and F1.

Everywhere: label 0 is normal, 1 is anomalous; a higher score is more anomalous; a mask is true
on the defect. All areas are exact, ties included: there is no grid of thresholds. The functions of `adlib.intervals`
can be called from here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, precision_recall_curve

from adlib.areas import auroc, background_of, checked, defective_of, mean_area, pairs_of, regions_of
from adlib.intervals import (  # noqa: F401 - a measure and its interval are called from one place
    PixelIntervals,
    image_auroc_interval,
    mean_interval,
    newcombe_interval,
    pixel_intervals,
)

# ---------------------------------------------------------------------- one score per image


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Probability that an anomalous image scores above a normal one, ties counting one half. Equations (1.4), (1.5).

    Parameters
    ----------
    labels : sequence (N,) of 0 and 1
    scores : sequence (N,) of float
        Finite.

    Returns
    -------
    float
        In [0, 1]; 0.5 is chance.

    Raises
    ------
    ValueError
        In words, where one class is missing or a score is not finite.

    References
    ----------
    Hanley and McNeil 1982 (the Mann-Whitney form).
    """
    labels, scores = checked(labels, scores)
    return auroc(scores[labels], scores[~labels])


def image_aupr(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision: Σ (R_i − R_{i−1})·P_i over the thresholds, with no interpolation. Equation (1.6).

    The trapezoid between the points, which some papers use, is optimistic: precision is not linear between them.

    Parameters
    ----------
    labels : sequence (N,) of 0 and 1
    scores : sequence (N,) of float
        Finite.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        As `image_auroc`.
    """
    labels, scores = checked(labels, scores)
    return float(average_precision_score(labels, scores))


def f1_max(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """The largest F1 over all thresholds, and the threshold t of the rule ``score >= t`` that gives it. Equation (1.7).

    It looks at the test labels: an upper limit on what a threshold can reach, not a result that a
    deployed detector would have.

    Parameters
    ----------
    labels : sequence (N,) of 0 and 1
    scores : sequence (N,) of float
        Finite.

    Returns
    -------
    (float, float)
        F1 in [0, 1], and t.

    Raises
    ------
    ValueError
        As `image_auroc`.
    """
    labels, scores = checked(labels, scores)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(f1[:-1].argmax())
    return float(f1[best]), float(thresholds[best])


# ---------------------------------------------------------------------- one value per pixel


def pixel_auroc(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray]) -> float:
    """AUROC over all pixels of all test images together, good images included. Equation (1.8).

    Parameters
    ----------
    masks : sequence of N ndarrays (H_i, W_i) of bool
    maps : sequence of N ndarrays of the same sizes
        Finite.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        In words, where sizes differ, a class is missing or a value is not finite.
    """
    background, positive = [], []
    for mask, values in pairs_of(masks, maps):
        background.append(values[~mask])
        positive.append(values[mask])
    negative = background_of(background)
    return auroc(defective_of(positive), negative)


def au_pro(masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], *, limit: float = 0.3) -> float:
    """Area under the per-region overlap up to a false-positive rate of `limit`, divided by `limit`. Equation (1.10).

    A region is an 8-connected component of a mask; every region counts the same, however large: equation (1.9).
    The false-positive rate is over all normal pixels of all test images. The curve is the polygon
    through all thresholds, cut by linear interpolation at `limit`.

    No curve is needed. A pixel with value v is found as soon as the threshold falls below v, at a
    false-positive rate between a, the share of the background above v, and b, the share at or
    above it. So its part of the area is L − (a + b)/2, cut at the limit L, and the area is the
    mean over the pixels of a region, then over the regions.

    Parameters
    ----------
    masks, maps
        As for `pixel_auroc`.
    limit : float
        In (0, 1].

    Returns
    -------
    float
        In [0, 1]; chance is limit/2.

    Raises
    ------
    ValueError
        As `pixel_auroc`, and for another `limit`.

    References
    ----------
    Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit = {limit}: expected a false-positive rate in (0, 1]")
    background, regions = [], []
    for mask, values in pairs_of(masks, maps):
        background.append(values[~mask])
        regions.extend(regions_of(mask, values))
    return mean_area(regions, background, limit)


def au_spro(regions: Sequence[Sequence[Any]], maps: Sequence[np.ndarray], *, limit: float = 0.05) -> float:
    """Area under the saturated per-region overlap up to a false-positive rate of `limit`, over it. Equation (5.17).

    A region counts min(found pixels/saturation, 1), equation (5.16); an empty one does not count. Pixels in no region
    are normal. Only the highest `saturation` values of a region can add to it, so its part is their mean, as in
    `au_pro`; with each saturation the region's own area and regions that do not touch, it is `au_pro`.

    Parameters
    ----------
    regions : sequence of N sequences
        For each image its annotated regions, as `Sample.regions` gives them: objects with `mask`, bool (H_i, W_i), and
        `saturation`, the number of pixels from which on marking more gains nothing; none for a good image.
    maps : sequence of N ndarrays (H_i, W_i)
        As for `pixel_auroc`.
    limit : float
        In (0, 1].

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        As `pixel_auroc`, and for a saturation that is no whole number from 1 to the region's area.

    References
    ----------
    Bergmann et al., Beyond Dents and Scratches, IJCV 2022 (MVTec LOCO), whose headline limit is 0.05.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit = {limit}: expected a false-positive rate in (0, 1]")
    if len(regions) != len(maps):
        raise ValueError(f"regions of {len(regions)} images for {len(maps)} maps: expected one list each")
    background, found = [], []
    for i, of_image in enumerate(regions):
        values = np.asarray(maps[i])
        masks = [np.asarray(region.mask) for region in of_image]
        anywhere = np.logical_or.reduce(masks) if masks else np.zeros(values.shape, bool)
        background.extend(values[~mask] for mask, values in pairs_of([anywhere], [values], first=i))
        for region, mask in zip(of_image, masks, strict=True):
            whole = region.saturation == int(region.saturation)
            if mask.any() and not (whole and 1 <= region.saturation <= mask.sum()):
                raise ValueError(f"image {i}: a region of {mask.sum()} pixels has saturation {region.saturation}: "
                                 "expected 1 up to its pixels")
            found.append(np.sort(values[mask])[::-1][: int(region.saturation)])
    return mean_area(found, background, limit)
