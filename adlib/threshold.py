"""From scores to decisions: a threshold with a known false-alarm rate, p-values, and the regions above it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Scores = Sequence[float] | np.ndarray | Tensor


def conformal_threshold(normal_scores: Scores, alpha: float, *, groups: Sequence[str | None] | None = None) -> float:
    """The ⌈(n+1)(1−α)⌉-th smallest of n held-out normal scores. Equation (2.17).

    What scores above the threshold is called defective. If a new good part is exchangeable with the n held-out
    ones, that happens with probability at most α, over the draw of both. Pictures of one part are not exchangeable
    with those of another, so the part is what counts: `groups` says which picture shows which part, and the n scores
    are then the largest of each part.

    Parameters
    ----------
    normal_scores : sequence, ndarray or Tensor (N,)
        Of good images that no detector was fitted on.
    alpha : float
        α in (0, 1).
    groups : sequence (N,) of str or None, optional
        The part that each image shows; None for an image that stands alone. Without it every image is a part.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Where a score is not finite, the lengths differ, or n is too small: it needs n ≥ 1/α − 1.

    References
    ----------
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.
    """
    scores = _finite(normal_scores, "normal_scores")
    if groups is not None:
        scores, _ = one_per_group(scores, groups)
    return float(np.sort(scores)[_finite_rank(len(scores), alpha) - 1])


def chance_of_no_alarm(n: int, alpha: float, m: int) -> float:
    """The probability that m new good parts raise no alarm at the threshold of n held-out ones, equation (2.17).

    The threshold is the k-th of the n scores. Of m + n exchangeable scores none of the m is above it exactly where the
    n + 1 − k highest of all are held-out ones, which has the probability Π (k + i)/(n + 1 + i) over i = 0 … m − 1.
    So "no false alarm in the test" says little where m is small, though the rate, on average, is (n + 1 − k)/(n + 1).

    Parameters
    ----------
    n : int
        Held-out good parts.
    alpha : float
        α in (0, 1).
    m : int
        New good parts, 0 or more.

    Returns
    -------
    float
        In (0, 1]. For scores without ties; with ties it is larger.

    Raises
    ------
    ValueError
        As `conformal_threshold`, and for a negative m.
    """
    if m < 0:
        raise ValueError(f"m = {m}: expected a number of parts, 0 or more")
    rank = _finite_rank(n, alpha)
    return math.prod((rank + i) / (n + 1 + i) for i in range(m))


def _finite_rank(n: int, alpha: float) -> int:
    """⌈(n+1)(1−α)⌉, at least 1; an error where it is above n."""
    rank = max(_rank(n, alpha), 1)
    if rank > n:
        needed = math.ceil(1 / alpha - 1 - 1e-9)
        raise ValueError(
            f"{n} held-out normal parts cannot promise a false-alarm rate of {alpha:g}: expected at least {needed}, "
            f"so {needed - n} are missing. Take more good parts, hold out a larger share, or accept a rate of at least "
            f"1/{n + 1} = {1 / (n + 1):.3g} (write alpha=1/{n + 1}). With {needed} good parts or more in all, "
            "fit(…, folds=…) without validation, best with as many folds as parts, holds out each of them once"
        )
    return rank


def one_per_group(scores: Scores, groups: Sequence[str | None]) -> tuple[np.ndarray, list[str | None]]:
    """One score for each part: the largest of its images. A part is rejected where one of its images is.

    Parameters
    ----------
    scores : sequence, ndarray or Tensor (N,)
    groups : sequence (N,) of str or None
        The part that each image shows; None for an image that stands alone.

    Returns
    -------
    scores : ndarray (n,)
    names : list of str or None (n,)
        Of the parts, in order of their first image.

    Raises
    ------
    ValueError
        Where a score is not finite or the lengths differ.
    """
    values = _finite(scores, "scores")
    if len(groups) != len(values):
        raise ValueError(f"{len(groups)} groups for {len(values)} scores: expected one each")
    largest: dict[object, float] = {}
    for index, (group, value) in enumerate(zip(groups, values, strict=True)):
        key = (index,) if group is None else group  # a tuple is nobody's name
        largest[key] = max(largest.get(key, -math.inf), float(value))
    return np.array(list(largest.values()), np.float64), [k if isinstance(k, str) else None for k in largest]


def conformal_p_values(scores: Scores, normal_scores: Scores) -> np.ndarray:
    """``p = (1 + #{i: s_i ≥ s}) / (n + 1)`` of each score s beside n held-out normal scores. Equation (2.18).

    p ≤ α exactly where s is above `conformal_threshold` for α. So a good part has p ≤ α with probability at most α,
    over the draw of the held-out parts too. The smallest p is 1/(n+1), however high the score.

    Parameters
    ----------
    scores : sequence, ndarray or Tensor (N,)
    normal_scores : sequence, ndarray or Tensor (n,)
        Of good parts that no detector was fitted on, one for each part: see `one_per_group`.

    Returns
    -------
    ndarray (N,)
        In (0, 1].

    Raises
    ------
    ValueError
        Where a score is not finite, or there is no normal score.

    References
    ----------
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005.
    """
    values, normal = _finite(scores, "scores"), np.sort(_finite(normal_scores, "normal_scores"))
    if not len(normal):
        raise ValueError("normal_scores is empty: a p-value needs held-out good images, see fit(…, validation=…)")
    as_high = len(normal) - np.searchsorted(normal, values, side="left")  # how many s_i ≥ s
    return (1 + as_high) / (len(normal) + 1)


def cross_conformal_bound(alpha: float, n: int, folds: int) -> float:
    """The false-alarm rate that K folds promise: ``α + (1−α)(1 − K/n)/(K + 1)``. Equation (2.20).

    For n parts in K folds, drawn at random, where a new part is flagged if its least score of the K detectors is
    above the ⌈(n+1)(1−α)⌉-th of the n out-of-fold scores (equation 2.19). It is α for K = n, leave one out.

    The formula is for folds of one size. Where K does not divide n, the sizes differ by one. The new part is compared
    with the folds as large as the one that it stands in, and that can be either size f. With c_f folds of size f
    the promise is the smaller of the ``(n + f − (1−α)(n+1)) / (f (c_f + 1))``. For one size, f = n/K and c_f = K, it is
    the formula above.

    Parameters
    ----------
    alpha : float
        α in (0, 1).
    n : int
        Parts in all folds together.
    folds : int
        K, from 2 to n.

    Returns
    -------
    float
        In (0, 1].

    Raises
    ------
    ValueError
        Where an argument is out of its range.

    References
    ----------
    After Barber, Candès, Ramdas and Tibshirani, Predictive inference with the jackknife+, 2021, who prove
    2α + (1 − K/n)/(K + 1) for the count without the minimum.
    """
    _rank(0, alpha)  # checks alpha
    if not 2 <= folds <= n:
        raise ValueError(f"folds = {folds} for {n} parts: expected 2 to {n}, each fold needs a part")
    small, more = divmod(n, folds)  # `more` folds have one part more than `small`
    counts = {size: count for size, count in ((small, folds - more), (small + 1, more)) if count}
    bounds = ((n + size - (1 - alpha) * (n + 1)) / (size * (count + 1)) for size, count in counts.items())
    return min(1.0, *bounds)


def stand_apart(normal_scores: Scores) -> int:
    """How many of the largest scores stand apart from the rest; 0 for none.

    Held-out images should all be good. Defective ones among them raise the threshold without a word.

    Notes
    -----
    Each gap between neighbours in the upper half is divided by the gap that a normal distribution has there on average.
    Under a normal upper tail the ratios are about independent, exponential and alike (after Rényi 1953, who has it for
    the exponential distribution). So the mean of the i upper ratios over the mean of those below them has about an F
    distribution with 2i and 2(n/2 − i) degrees of freedom. i runs over the top quarter. Where the least probability
    of an i, times the number of i that are tried, is below 1 %, the scores above the largest ratio stand apart. That is
    where to begin to look, not a count of defective parts.

    Measured (benchmarks/accuracy/false_alarms.json): of 10 to 200 good scores it warns, where they are normal, in 0.1
    to 0.6 % of the draws; where they are lognormal (deviation 0.25), in 1 to 7 %; where they follow Gumbel's law, whose
    tail is longer, in 2 to 4 % up to n = 46 and in 20 % at n = 200. Of PatchCore's scores of 46 good washers and boards
    it warns in 0 and 0.4 %, with 6 defective parts among the 46 in 88 and 74 %.

    Parameters
    ----------
    normal_scores : sequence, ndarray or Tensor (n,)
        One for each part.

    Returns
    -------
    int
        At most n/4; 0 where n is below 8.

    Raises
    ------
    ValueError
        Where a score is not finite.

    References
    ----------
    A. Rényi, On the theory of order statistics, 1953; G. Blom, Statistical Estimates and Transformed Beta-Variables,
    1958, for the average place of the i-th largest of n normal numbers.
    """
    from scipy import special  # here and below, so that `import adlib` does not wait for it

    scores = np.sort(_finite(normal_scores, "normal_scores"))[::-1]
    n, half, quarter = len(scores), len(scores) // 2, len(scores) // 4
    if n < 8:
        return 0
    usual = -special.ndtri((np.arange(1, half + 2) - 0.375) / (n + 0.25))  # where normal scores lie on average
    ratios = (scores[:half] - scores[1 : half + 1]) / (usual[:-1] - usual[1:])
    count = np.arange(1, quarter + 1)
    above = np.cumsum(ratios)[:quarter]
    below = np.maximum(ratios.sum() - above, 1e-12 * max(1.0, abs(scores[0])))  # equal scores have no gaps
    chance = special.fdtrc(2 * count, 2 * (half - count), above / count / (below / (half - count)))
    return int(ratios[:quarter].argmax()) + 1 if chance.min() * quarter < 0.01 else 0


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
        Where the map is not (H, W), has no pixel or is not finite, or the threshold is not finite.
    """
    from scipy import ndimage

    values = np.asarray(anomaly_map)
    if not math.isfinite(threshold):
        raise ValueError(f"threshold = {threshold}: expected a finite number")
    if values.ndim != 2 or not values.size:
        raise ValueError(f"map of shape {values.shape}: expected (H, W) with at least one pixel")
    if not np.isfinite(values).all():
        raise ValueError("the map holds NaN or infinite values: expected finite ones")
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


def _rank(n: int, alpha: float) -> int:
    """⌈(n+1)(1−α)⌉."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha = {alpha}: expected a share between 0 and 1, such as 0.05 for 5 %")
    return math.ceil((n + 1) * (1 - alpha) - 1e-9)  # 1e-9: 0.9·10 is not 9 in binary


def _finite(values: Scores, name: str) -> np.ndarray:
    """The numbers as float64 (n,), whatever holds them; not finite is an error that says where."""
    if isinstance(values, Tensor):  # a detector on a GPU keeps them there, and numpy knows no bfloat16
        values = values.detach().cpu().double().numpy()
    elif not isinstance(values, np.ndarray):
        values = [float(value) for value in values]
    numbers = np.asarray(values, np.float64).ravel()
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        raise ValueError(f"{name}[{wrong[0]}] is {numbers[wrong[0]]}: expected finite values")
    return numbers
