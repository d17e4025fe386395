"""How well scores and maps separate defective from good: areas, F1, and their intervals.

Everywhere: label 0 is normal, 1 is anomalous; a higher score is more anomalous; a mask is true
on the defect. All areas are exact, ties included: there is no grid of thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage, stats
from sklearn.metrics import average_precision_score, precision_recall_curve

Interval = tuple[float, float]
EIGHT = np.ones((3, 3), bool)  # pixels that touch at a corner belong to one region


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
    labels, scores = _checked(labels, scores)
    return float(_covered(np.sort(scores[labels]), scores[~labels], 1.0).mean())


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
    labels, scores = _checked(labels, scores)
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
    labels, scores = _checked(labels, scores)
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
    for mask, values in _pairs(masks, maps):
        background.append(values[~mask])
        positive.append(values[mask])
    negative = _background(background)
    return float(_covered(np.sort(_defective(positive)), negative, 1.0).mean())


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
    for mask, values in _pairs(masks, maps):
        background.append(values[~mask])
        regions.extend(_regions(mask, values))
    negative = _background(background)
    values = _defective(regions)
    sizes = np.array([len(region) for region in regions])
    weights = np.repeat(1 / sizes, sizes) / len(regions)  # each region counts the same
    order = values.argsort()
    return float(weights[order] @ _covered(values[order], negative, limit) / limit)


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
        background.extend(values[~mask] for mask, values in _pairs([anywhere], [values], first=i))
        for region, mask in zip(of_image, masks, strict=True):
            whole = region.saturation == int(region.saturation)
            if mask.any() and not (whole and 1 <= region.saturation <= mask.sum()):
                raise ValueError(f"image {i}: a region of {mask.sum()} pixels has saturation {region.saturation}: "
                                 "expected 1 up to its pixels")
            found.append(np.sort(values[mask])[::-1][: int(region.saturation)])
    negative = _background(background)
    values = _defective(found)
    sizes = np.array([len(part) for part in found if len(part)])
    weights = np.repeat(1 / sizes, sizes) / len(sizes)
    order = values.argsort()
    return float(weights[order] @ _covered(values[order], negative, limit) / limit)


def _covered(values: np.ndarray, negative: np.ndarray, limit: float) -> np.ndarray:
    """∫ from 0 to `limit` of [value is at or above the threshold] d(false-positive rate), per value.

    values: ascending, so that neighbours in a search are neighbours in memory. negative: the background,
    in any order. Ties with the background are crossed on the diagonal.

    The background is not sorted as a whole. What lies above all values is only counted, what lies below
    all of them plays no part, nor does what lies below the threshold at which the rate exceeds `limit`.
    """
    n, low, high = len(negative), values[0], values[-1]
    if limit < 1:
        rank = n - 1 - int(limit * n)  # this value and those above it are more than limit·n
        low = max(low, np.partition(negative, rank)[rank])
    beyond = np.count_nonzero(negative > high)
    near = np.sort(negative[(negative >= low) & (negative <= high)])
    a = (beyond + len(near) - np.searchsorted(near, values, "right")) / n  # background strictly above
    b = (beyond + len(near) - np.searchsorted(near, values, "left")) / n  # background above or equal
    # A value below `low` gets a = b > limit here, which is too small a rate, and its right area, 0.
    whole = limit - (a + b) / 2
    cut = np.square(np.clip(limit - a, 0, None)) / np.maximum(2 * (b - a), np.finfo(float).tiny)
    return np.where(limit >= b, whole, cut)


def _regions(mask: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    labelled, count = ndimage.label(mask, EIGHT)
    return [
        values[box][labelled[box] == i + 1] for i, box in enumerate(ndimage.find_objects(labelled, count)) if box
    ]


# ---------------------------------------------------------------------- intervals


def image_auroc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    groups: Sequence[str | None] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Interval of `image_auroc`, from resampled images (1.13), honest at 1 as well.

    Near 1 the percentile bootstrap is too short, and at 1 it has no width at all. So each end is
    the wider of the bootstrap's and Newcombe's, with the number of groups as the sample size.

    Parameters
    ----------
    labels, scores
        As for `image_auroc`.
    groups : sequence (N,) of str or None, optional
        Whole groups are drawn (the images of one part); None is a group of its own.
    confidence : float
    resamples : int
    seed : int

    Returns
    -------
    (float, float)
        Low and high end, within [0, 1].

    References
    ----------
    Newcombe, Statistics in Medicine 25, 2006 (method 5).
    """
    labels, scores = _checked(labels, scores)
    parts = _groups(groups, len(labels))
    rng = np.random.default_rng(seed)
    order = np.argsort(scores, kind="stable")
    levels = np.unique(scores, return_inverse=True)[1][order]
    values = []
    for _ in range(resamples):
        weight = _draw(parts, labels, rng)[order]
        values.append(_weighted_auroc(levels, weight * labels[order], weight * ~labels[order]))
    low, high = _percentiles(values, confidence)
    value = image_auroc(labels, scores)
    positive, negative = len(np.unique(parts[labels])), len(np.unique(parts[~labels]))
    low_2, high_2 = newcombe_interval(value, positive, negative, confidence=confidence)
    return min(low, low_2), max(high, high_2)


def newcombe_interval(auroc: float, positive: int, negative: int, *, confidence: float = 0.95) -> Interval:
    """The AUROCs θ whose own spread reaches the observed one: ``|AUROC − θ| ≤ z·√V(θ)``. Equations (1.11), (1.12).

    V(θ) = θ(1−θ)/(n⁺n⁻) · [1 + (n̄−1)·((1−θ)/(2−θ) + θ/(1+θ))], n̄ = (n⁺ + n⁻)/2. Unlike a
    bootstrap it has a width at AUROC = 1.

    Parameters
    ----------
    auroc : float
    positive, negative : int
        n⁺ and n⁻, the two sample sizes.
    confidence : float

    Returns
    -------
    (float, float)
        Low and high end, within [0, 1].

    References
    ----------
    Newcombe 2006, method 5, on the variance of Hanley and McNeil 1982.
    """
    z = stats.norm.ppf(0.5 + confidence / 2)

    def beyond(theta: float) -> bool:
        both = (1 - theta) / (2 - theta) + theta / (1 + theta)
        variance = theta * (1 - theta) / (positive * negative) * (1 + ((positive + negative) / 2 - 1) * both)
        return bool(abs(auroc - theta) > z * math.sqrt(variance))

    ends = []
    for outside in (0.0, 1.0):
        inside = float(auroc)
        for _ in range(50):  # halve the piece that holds the end
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
        ends.append(inside)
    return ends[0], ends[1]


def mean_interval(
    values: Sequence[float],
    intervals: Sequence[Interval] | None = None,
    *,
    same_images: bool,
    confidence: float = 0.95,
    limits: Interval = (0.0, 1.0),
) -> Interval:
    """Interval of the mean over seeds, for other trainings *and* other test images. Chapter 8, section 8.5.

    Trainings: Student's t on the values, t·s/√S. Images: the intervals of the single seeds. Each end of the result lies
    as far from the mean as

    - √(d̄² + (t·s/√S)²) where all seeds have the same test images, with d̄ the mean distance of the intervals' ends from
      their values: the values hardly differ by the images, so the images' part is added, in squares;
    - max(√Σd²/S, t·s/√S) where each seed has test images of its own: the values differ by them too, so s contains
      their part. The first form keeps a lucky s of few seeds from giving less than the images alone.

    Parameters
    ----------
    values : sequence (S,) of float
        One for each seed.
    intervals : sequence (S,) of (low, high), optional
        Of each value, from its images alone, as `image_auroc_interval` and `pixel_intervals` give them.
    same_images : bool
        Whether the seeds share their test images, as with a real data set, or each has new ones, as with the factory.
    confidence : float
        Of the result and of `intervals`.
    limits : (float, float)
        Between which the measure lies: (−1, 1) for a difference of two AUROCs.

    Returns
    -------
    (float, float)
        Low and high end; the mean is never outside.

    Raises
    ------
    ValueError
        Where the images' part is not known (one seed, or the same images, without `intervals`), or an interval does
        not hold its value.

    References
    ----------
    Zou and Donner, Statistics in Medicine 27, 2008, for distances that are added in squares.
    """
    numbers, seeds = np.asarray(values, np.float64), len(values)
    if intervals is None and (same_images or seeds < 2):
        raise ValueError(f"{seeds} values without intervals: expected the interval of each, from its images; "
                         "seeds say nothing of the test images that they share")  # fmt: skip
    half = stats.t.ppf(0.5 + confidence / 2, seeds - 1) * numbers.std(ddof=1) / math.sqrt(seeds) if seeds > 1 else 0.0
    ends = np.array([half, half])
    if intervals is not None:
        apart = np.abs(np.asarray(intervals, np.float64).reshape(seeds, 2) - numbers[:, None])
        for value, (low, high) in zip(values, intervals, strict=True):
            if not low - 1e-9 <= value <= high + 1e-9:
                raise ValueError(f"interval {low:g} to {high:g} of the value {value:g}: expected one that holds it")
        of_images = apart.mean(0) if same_images else np.sqrt(np.square(apart).sum(0)) / seeds
        ends = np.hypot(of_images, half) if same_images else np.maximum(of_images, half)
    mean = float(numbers.mean())
    return max(limits[0], mean - float(ends[0])), min(limits[1], mean + float(ends[1]))


class PixelIntervals(NamedTuple):
    """Intervals (low, high) of the two pixel metrics, from one set of resampled images."""

    pixel_auroc: Interval
    au_pro: Interval


def pixel_intervals(
    masks: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    *,
    limit: float = 0.3,
    groups: Sequence[str | None] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> PixelIntervals:
    """Intervals of `pixel_auroc` and `au_pro`: images (or whole groups) are drawn again, never pixels.

    Pixels of one image stand and fall together, so drawing pixels would give intervals that are
    far too short. Each image is kept as histograms over 4,096 quantiles of the background, which
    moves an end by about 1/4096, for AU-PRO divided by `limit`. Where no draw varies, the ends are
    those of Newcombe's interval for as many images.

    Parameters
    ----------
    masks, maps, limit
        As for `au_pro`, with its errors.
    groups, confidence, resamples, seed
        As for `image_auroc_interval`.

    Returns
    -------
    PixelIntervals
    """
    pairs = list(_pairs(masks, maps))
    negative = np.sort(_background([values[~mask] for mask, values in pairs]))
    edges = np.unique(negative[np.linspace(0, len(negative) - 1, 4096).astype(int)])

    def histogram(values: np.ndarray) -> np.ndarray:
        """From the highest bin down. Each edge has a bin of its own, since many values may equal it."""
        bins = np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")
        return np.bincount(bins, minlength=2 * len(edges) + 1)[::-1]

    below, inside, covered = (np.zeros((len(pairs), 2 * len(edges) + 1)) for _ in range(3))
    count = np.zeros(len(pairs), int)
    for i, (mask, values) in enumerate(pairs):
        below[i], inside[i] = histogram(values[~mask]), histogram(values[mask])
        for region in _regions(mask, values):
            covered[i] += histogram(region) / len(region)
            count[i] += 1
    labels, parts = count > 0, _groups(groups, len(pairs))
    _defective([np.ones(int(labels.sum()))])
    rng, aurocs, pros = np.random.default_rng(seed), [], []
    for _ in range(resamples):
        weight = _draw(parts, labels, rng)
        background = weight @ below
        aurocs.append(_binned_area(background, weight @ inside, 1.0))
        pros.append(_binned_area(background, weight @ covered, limit))
    ends = []
    every = np.ones(len(pairs))
    exact = [_binned_area(every @ below, every @ found, end) for found, end in ((inside, 1.0), (covered, limit))]
    for values, value in zip((aurocs, pros), exact, strict=True):
        low, high = _percentiles(values, confidence)
        if high - low < 1e-12:
            images = len(np.unique(parts[labels])), max(1, len(np.unique(parts[~labels])))
            low, high = newcombe_interval(value, *images, confidence=confidence)
        ends.append((min(low, value), max(high, value)))
    return PixelIntervals(*ends)


def _binned_area(background: np.ndarray, found: np.ndarray, limit: float) -> float:
    """The area of `_covered` from histograms, both from the highest bin down."""
    rate = np.concatenate([[0.0], np.cumsum(background) / background.sum()])
    a, b = rate[:-1], rate[1:]
    part = np.where(
        b <= limit, limit - (a + b) / 2,
        np.square(np.clip(limit - a, 0, None)) / np.maximum(2 * (b - a), np.finfo(float).tiny),
    )
    return float(found @ part / found.sum() / limit)


def _weighted_auroc(levels: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """AUROC of images with integer weights, sorted by score; equal scores share a level."""
    size = levels[-1] + 1
    p, n = np.bincount(levels, positive, size), np.bincount(levels, negative, size)
    below = np.cumsum(n) - n
    return float((p * (below + n / 2)).sum() / (p.sum() * n.sum()))


def _draw(parts: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each image is drawn (N,): whole groups with replacement, within those of one make-up.

    Groups are all normal, all anomalous or mixed; drawn within each, both classes are always there.
    """
    make_up = (np.bincount(parts, labels) > 0) + 2 * (np.bincount(parts, ~labels) > 0)
    times = np.zeros(len(make_up))
    for kind in (1, 2, 3):
        names = np.flatnonzero(make_up == kind)
        if len(names):
            times[names] = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
    return times[parts]


def _percentiles(values: Sequence[float], confidence: float) -> Interval:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


# ---------------------------------------------------------------------- checks


def _groups(groups: Sequence[str | None] | None, n: int) -> np.ndarray:
    """A number per group (N,), from 0 without gaps; an image without a group is a group of its own."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} images: expected one each")
    names: dict[object, int] = {}
    return np.array([names.setdefault((i,) if g is None else g, len(names)) for i, g in enumerate(groups)])


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}: expected two lists of one length")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels hold {np.setdiff1d(labels, (0, 1))[:3]}: expected 0 (normal) and 1 (anomalous)")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores: number {int(np.argmin(np.isfinite(scores)))} is not finite")
    labels = labels.astype(bool)
    if labels.all() or not labels.any():
        missing = "normal" if len(labels) and labels.all() else "anomalous"
        raise ValueError(f"{len(labels)} images, none of them {missing}: this measure needs both kinds")
    return labels, scores


def _pairs(
    masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], *, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if len(masks) != len(maps):
        raise ValueError(f"{len(masks)} masks for {len(maps)} maps: expected one each")
    for i, (mask, values) in enumerate(zip(masks, maps, strict=True), first):
        if mask is None:
            raise ValueError(f"mask {i} is missing: pixel measures need a mask for every image, empty for a good one")
        mask, values = np.asarray(mask), np.asarray(values)
        if mask.shape != values.shape or mask.ndim != 2:
            raise ValueError(f"image {i}: mask {mask.shape} and map {values.shape}, expected one size (H, W)")
        if mask.dtype != bool:
            raise ValueError(f"mask {i} is of type {mask.dtype}: expected bool; binarise it by value > 0")
        if not np.isfinite(values).all():
            raise ValueError(f"map {i} holds a value that is not finite")
        yield mask, values


def _background(parts: list[np.ndarray]) -> np.ndarray:
    negative = np.concatenate(parts) if parts else np.empty(0)
    if not len(negative):
        raise ValueError("no normal pixel in any mask: a false-positive rate needs some")
    return negative


def _defective(parts: list[np.ndarray]) -> np.ndarray:
    positive = np.concatenate(parts) if parts else np.empty(0)
    if not len(positive):
        raise ValueError("no defective pixel in any mask: this measure needs at least one defect region")
    return positive

