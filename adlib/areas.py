"""What the measures and their intervals share: exact areas under curves, and what they ask of labels, masks and maps.

A curve says what share of the defect is found at each false-positive rate. There is no grid of thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage


def covered(values: np.ndarray, negative: np.ndarray, limit: float) -> np.ndarray:
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


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The whole area, each positive value counting the same."""
    return float(covered(np.sort(positive), negative, 1.0).mean())


def mean_area(regions: list[np.ndarray], background: list[np.ndarray], limit: float) -> float:
    """The area up to `limit`, over it, each region counting the same; one without pixels does not count."""
    negative, values = background_of(background), defective_of(regions)
    sizes = np.array([len(region) for region in regions if len(region)])
    weights = np.repeat(1 / sizes, sizes) / len(sizes)
    order = values.argsort()
    return float(weights[order] @ covered(values[order], negative, limit) / limit)


def regions_of(mask: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """The values of each region of the mask; pixels that touch at a corner belong to one region."""
    labelled, count = ndimage.label(mask, np.ones((3, 3), bool))
    return [
        values[box][labelled[box] == i + 1] for i, box in enumerate(ndimage.find_objects(labelled, count)) if box
    ]


# ---------------------------------------------------------------------- checks


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores as float64, each (N,), or a ValueError that says what is wrong with them."""
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


def pairs_of(
    masks: Sequence[np.ndarray], maps: Sequence[np.ndarray], *, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Mask and map of each image, checked when they are asked for; messages count the images from `first`."""
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


def background_of(parts: list[np.ndarray]) -> np.ndarray:
    """The values of all normal pixels."""
    negative = np.concatenate(parts) if parts else np.empty(0)
    if not len(negative):
        raise ValueError("no normal pixel in any mask: a false-positive rate needs some")
    return negative


def defective_of(parts: list[np.ndarray]) -> np.ndarray:
    """The values of all defective pixels."""
    positive = np.concatenate(parts) if parts else np.empty(0)
    if not len(positive):
        raise ValueError("no defective pixel in any mask: this measure needs at least one defect region")
    return positive

