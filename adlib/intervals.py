"""Intervals of measures: of one prediction, by drawing its images again, and of a mean over seeds.

The unit is the image, or the part that several images show, never the pixel. `adlib.metrics` has these functions too,
beside the measures that they belong to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from adlib.areas import auroc, background_of, checked, defective_of, pairs_of, regions_of

Interval = tuple[float, float]


def image_auroc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    groups: Sequence[str | None] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Low and high end, in [0, 1], of `adlib.metrics.image_auroc`, from resampled images (1.13), honest at 1 as well.

    Near 1 the percentile bootstrap is too short, and at 1 it has no width at all. So each end is
    the wider of the bootstrap's and Newcombe's, with the number of groups as the sample size.

    Parameters
    ----------
    labels, scores
        As for `adlib.metrics.image_auroc`.
    groups : sequence (N,) of str or None, optional
        Whole groups are drawn (the images of one part); None is a group of its own.
    confidence : float
    resamples : int
    seed : int

    References
    ----------
    Newcombe, Statistics in Medicine 25, 2006 (method 5).
    """
    labels, scores = checked(labels, scores)
    parts = _groups(groups, len(labels))
    rng = np.random.default_rng(seed)
    order = np.argsort(scores, kind="stable")
    levels = np.unique(scores, return_inverse=True)[1][order]
    values = []
    for _ in range(resamples):
        weight = _draw(parts, labels, rng)[order]
        values.append(_weighted_auroc(levels, weight * labels[order], weight * ~labels[order]))
    low, high = _percentiles(values, confidence)
    value = auroc(scores[labels], scores[~labels])
    positive, negative = len(np.unique(parts[labels])), len(np.unique(parts[~labels]))
    low_2, high_2 = newcombe_interval(value, positive, negative, confidence=confidence)
    return min(low, low_2), max(high, high_2)


def newcombe_interval(auroc: float, positive: int, negative: int, *, confidence: float = 0.95) -> Interval:
    """The least and the largest AUROC θ whose own spread reaches the observed one: ``|AUROC − θ| ≤ z·√V(θ)``.

    Equations (1.11), (1.12). V(θ) = θ(1−θ)/(n⁺n⁻) · [1 + (n̄−1)·((1−θ)/(2−θ) + θ/(1+θ))], n̄ = (n⁺ + n⁻)/2. Unlike a
    bootstrap it has a width at AUROC = 1.

    Parameters
    ----------
    auroc : float
    positive, negative : int
        n⁺ and n⁻, the two sample sizes.
    confidence : float

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
        As for `adlib.metrics.au_pro`, with its errors.
    groups, confidence, resamples, seed
        As for `image_auroc_interval`.

    Returns
    -------
    PixelIntervals
    """
    pairs = list(pairs_of(masks, maps))
    negative = np.sort(background_of([values[~mask] for mask, values in pairs]))
    edges = np.unique(negative[np.linspace(0, len(negative) - 1, 4096).astype(int)])

    def histogram(values: np.ndarray) -> np.ndarray:
        """From the highest bin down. Each edge has a bin of its own, since many values may equal it."""
        bins = np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")
        return np.bincount(bins, minlength=2 * len(edges) + 1)[::-1]

    below, inside, covered = (np.zeros((len(pairs), 2 * len(edges) + 1)) for _ in range(3))
    count = np.zeros(len(pairs), int)
    for i, (mask, values) in enumerate(pairs):
        below[i], inside[i] = histogram(values[~mask]), histogram(values[mask])
        for region in regions_of(mask, values):
            covered[i] += histogram(region) / len(region)
            count[i] += 1
    labels, parts = count > 0, _groups(groups, len(pairs))
    defective_of([np.ones(int(labels.sum()))])
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
    """The area of `covered` from histograms, both from the highest bin down."""
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


def _groups(groups: Sequence[str | None] | None, n: int) -> np.ndarray:
    """A number per group (N,), from 0 without gaps; an image without a group is a group of its own."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} images: expected one each")
    names: dict[object, int] = {}
    return np.array([names.setdefault((i,) if g is None else g, len(names)) for i, g in enumerate(groups)])
