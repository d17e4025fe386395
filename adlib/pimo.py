"""AUPIMO: how much of each defect is found while nearly nothing is marked on good images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from adlib.areas import pairs_of


def aupimo(
    masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], *, limits: tuple[float, float] = (1e-5, 1e-4)
) -> np.ndarray:
    """Area under each image's own curve of found pixels, over the logarithm of the false-positive rate. Equation (8.1).

    Only good images, those with an empty mask, give false positives: the rate is the share of pixels at or above the
    threshold, averaged over them. So a value says what share of an image's defect is found, on average over the
    rates between the two limits, each factor counting the same.

    No curve is needed, and no grid of thresholds. A defect pixel whose value has the rate b is found at all rates from
    b on, so its part is ln(upper/b), within 0 and the whole ln(upper/lower). Where a defect pixel ties with a good
    one, the good one counts as marked.

    Parameters
    ----------
    masks : sequence of N ndarrays (H_i, W_i) of bool
    maps : sequence of N ndarrays of the same sizes
        Finite.
    limits : (float, float)
        The lower and the upper false-positive rate, 0 < lower < upper <= 1.

    Returns
    -------
    ndarray (N,) of float64
        In [0, 1]; NaN for a good image. ``np.nanmean`` gives the mean that is reported as AUPIMO.

    Raises
    ------
    ValueError
        As `adlib.metrics.pixel_auroc`, for limits out of order, and where the good images have fewer than 1/lower
        pixels: then no threshold has so small a rate, save those that mark nothing.

    References
    ----------
    Bertoldo et al., AUPIMO: Redefining Anomaly Localization Benchmarks with High Speed and Low Tolerance, BMVC 2024.
    """
    lower, upper = limits
    if not 0 < lower < upper <= 1:
        raise ValueError(f"limits = {limits}: expected two false-positive rates, 0 < lower < upper <= 1")
    pairs = list(pairs_of(masks, maps))
    good = [values.ravel() for mask, values in pairs if not mask.any()]
    if len(good) == len(pairs):
        raise ValueError("no defective pixel in any mask: this measure needs at least one defective image")
    pixels = sum(map(len, good))
    if pixels * lower < 1:
        raise ValueError(f"the good images have {pixels:,} pixels in all: a false-positive rate of {lower:g} needs at "
                         f"least {math.ceil(1 / lower):,}; add good images, or raise the limits")
    # Of each good image, just enough of the highest values that they alone exceed the upper limit.
    counts = [min(len(g), int(len(good) * upper * len(g)) + 1) for g in good]
    values = np.concatenate([np.partition(g, len(g) - k)[len(g) - k :] for g, k in zip(good, counts, strict=True)])
    shares = np.repeat([1 / (len(good) * len(g)) for g in good], counts)
    order = values.argsort()
    values, rates = values[order], np.append(shares[order][::-1].cumsum()[::-1], 0)  # share at or above each value
    areas = np.full(len(pairs), np.nan)
    for i, (mask, of_image) in enumerate(pairs):
        if mask.any():
            rate = rates[np.searchsorted(values, of_image[mask], "left")]
            areas[i] = np.log(upper / np.clip(rate, lower, upper)).mean() / math.log(upper / lower)
    return areas
