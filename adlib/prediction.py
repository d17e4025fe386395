"""What a detector says of images: a score for each, and a map at the image's own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adlib.images import resized_sides, top_left
from adlib.region import InspectedRegion
from adlib.samples import Sample

STRIP = 512  # rows of a map that are smoothed at a time


def gaussian_smooth(maps: Tensor, sigma: float) -> Tensor:
    """Filter maps with a Gaussian, cut at 4σ; outside, the border's value goes on.

    Parameters
    ----------
    maps : Tensor (B, H, W)
    sigma : float
        σ in pixels; 0 or less leaves the maps as they are.

    Returns
    -------
    Tensor (B, H, W)
    """
    if sigma <= 0:
        return maps
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = F.pad(maps[:, None], (radius, radius, radius, radius), mode="replicate")  # (B, 1, H + 2r, W + 2r)
    # Strip by strip, as torch may lay out all that a convolution multiplies: many times a large map.
    strips = [F.conv2d(F.conv2d(x[:, :, top : top + STRIP + 2 * radius], kernel.view(1, 1, -1, 1)),
                       kernel.view(1, 1, 1, -1)) for top in range(0, maps.shape[1], STRIP)]  # fmt: skip
    return torch.cat(strips, 2)[:, 0] if len(strips) > 1 else strips[0][:, 0]


def full_size_maps(grids: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Patch scores to anomaly maps: bilinear upsampling, then a Gaussian. Equation (2.16).

    Parameters
    ----------
    grids : Tensor (B, h, w)
    size : (H, W)
        Of the maps, in pixels.
    sigma : float
        σ of the Gaussian in pixels of the maps.

    Returns
    -------
    Tensor (B, H, W)
    """
    return gaussian_smooth(F.interpolate(grids[:, None], size, mode="bilinear", align_corners=False)[:, 0], sigma)


class AnomalyMaps(Sequence):
    """Anomaly maps, each (H_i, W_i) float32 at its image's own size, computed when asked for.

    A detector that has looked at the middle alone (`resize`), or at a region, says nothing of the rest. There the map
    has the image's smallest patch score: finite, and nothing that could be taken for a finding.
    """

    def __init__(self, grids: Tensor, image_size: tuple[int, int], sigma: float, sizes: list[tuple[int, int]],
                 resize: int | None = None, region: InspectedRegion | None = None,
                 own_size: bool = False) -> None:  # fmt: skip
        self.grids, self.image_size, self.sigma, self.sizes, self.resize = grids, image_size, sigma, sizes, resize
        self.region, self.own_size = region, own_size

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        working = full_size_maps(self.grids[index][None], self.image_size, self.sigma)
        sides = resized_sides(self.sizes[index], self.image_size, self.resize)
        if sides != self.image_size:
            (top, left), (h, w) = top_left(sides, self.image_size), self.image_size
            rest = (left, sides[1] - left - w, top, sides[0] - top - h)
            working = F.pad(working, rest, value=float(self.grids[index].min()))
        if self.own_size:  # what was added at the right and below is cut off
            working = working[:, : self.sizes[index][0], : self.sizes[index][1]]
        elif self.sizes[index] != sides:
            working = F.interpolate(working[None], self.sizes[index], mode="bilinear", align_corners=False)[0]
        if self.region is not None:
            working = working.masked_fill(~self.region.at(self.sizes[index]), float(self.grids[index].min()))
        return working[0].numpy()


def finite(scores: np.ndarray, samples: list[Sample]) -> np.ndarray:
    """The scores, or a FloatingPointError that names the first image whose score is NaN or infinite."""
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise FloatingPointError(f"{samples[bad].path}: its score is {scores[bad]}, expected a finite number; the "
                                 "detector's weights are damaged or were trained to nothing: load or fit it again")
    return scores


@dataclass(frozen=True, repr=False)
class Prediction:
    """What a detector says of the images that it was given: of each a score, or why there is none.

    Attributes
    ----------
    scores : ndarray (N,) float32
        Higher is more anomalous; finite.
    samples : list of Sample
        Those N images, in the same order.
    maps : sequence of N ndarrays (H_i, W_i)
        At each image's own size, made when asked for.
    failures : dict of name to reason
        The images that have no score. Where a name comes again, " (2)" and so on is added to it, so that the number of
        images is always N and that of the failures.
    p_values : ndarray (N,) or None
        The share of good parts that look at least as odd, by the held-out ones, see
        `adlib.threshold.conformal_p_values`; among those of its product, where there are several. None where the
        detector was fitted without held-out images.
    skipped : list of Path
        Files of the given folder that are no pictures by their endings.
    """

    scores: np.ndarray
    samples: list[Sample]
    maps: AnomalyMaps
    failures: dict[str, str] = field(default_factory=dict)
    p_values: np.ndarray | None = None
    skipped: list[Path] = field(default_factory=list)

    def __repr__(self) -> str:
        """In short: how many of each."""
        return (f"Prediction({len(self.scores)} scores, {len(self.failures)} failures, {len(self.skipped)} files that "
                "are no pictures)")

    def defective(self, threshold: float | Mapping[str, float]) -> np.ndarray:
        """The decision: which of the N images have a score above the threshold, (N,) bool.

        Parameters
        ----------
        threshold : float or dict of str to float
            As `Detector.threshold` gives it: one number, or one for each product.

        Raises
        ------
        ValueError
            Where it is not finite, or none is given for an image's product.
        """
        if isinstance(threshold, Mapping):
            if unknown := next((s for s in self.samples if s.product not in threshold), None):
                raise ValueError(f"{unknown.path}: is of the product {unknown.product!r}, expected one of "
                                 f"{', '.join(map(str, threshold))}; pass product= to predict")
            limits = np.array([threshold[str(s.product)] for s in self.samples], np.float64)
        else:
            limits = np.full(len(self.scores), float(threshold))
        if not np.isfinite(limits).all():
            raise ValueError(f"threshold = {threshold}: expected a finite number")
        return self.scores.astype(np.float64) > limits

    @property
    def targets(self) -> np.ndarray:
        """The ground truth (N,), int64; 0 normal, 1 anomalous.

        Raises
        ------
        ValueError
            Where an image has none: a folder of new parts has no ground truth.
        """
        if unknown := [sample.path for sample in self.samples if sample.label is None]:
            raise ValueError(f"{len(unknown)} of {len(self.samples)} images have no ground truth, such as "
                             f"{unknown[0]}: expected labelled samples; ImageFolder(good, test).test takes labels "
                             "from folder names. To decide without them: defective(threshold)")
        return np.array([sample.label for sample in self.samples], np.int64)

    @property
    def groups(self) -> list[str | None]:
        """The part that each image shows (N,), or None."""
        return [sample.group for sample in self.samples]

    def masks(self) -> list[np.ndarray | None]:
        """The N ground-truth masks (H_i, W_i), bool; None for an image that has none and is not known to be normal."""
        masks = [sample.mask for sample in self.samples]
        return [None if mask is None else mask.numpy() for mask in masks]
