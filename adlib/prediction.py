"""What a detector says of images: a score for each, and a map at the image's own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adlib.samples import Sample


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
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


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
    """Anomaly maps, each (H_i, W_i) float32 at its image's own size, computed when asked for."""

    def __init__(self, grids: Tensor, image_size: tuple[int, int], sigma: float, sizes: list[tuple[int, int]]) -> None:
        self.grids, self.image_size, self.sigma, self.sizes = grids, image_size, sigma, sizes

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        working = full_size_maps(self.grids[index][None], self.image_size, self.sigma)
        if self.sizes[index] != self.image_size:
            working = F.interpolate(working[None], self.sizes[index], mode="bilinear", align_corners=False)[0]
        return working[0].numpy()


@dataclass(frozen=True)
class Prediction:
    """What a detector says of N images.

    Attributes
    ----------
    scores : ndarray (N,) float32
        Higher is more anomalous.
    samples : list of Sample
        Those N images, in the same order.
    maps : sequence of N ndarrays (H_i, W_i)
        At each image's own size, made when asked for.
    failures : dict of path to reason
        The images that could not be read; they have no score.
    """

    scores: np.ndarray
    samples: list[Sample]
    maps: AnomalyMaps
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> np.ndarray:
        """The ground truth (N,), int64; 0 normal, 1 anomalous."""
        return np.array([sample.label for sample in self.samples], np.int64)

    @property
    def groups(self) -> list[str | None]:
        """The group of each image (N,), or None."""
        return [sample.group for sample in self.samples]

    def masks(self) -> list[np.ndarray | None]:
        """The N ground-truth masks (H_i, W_i), bool; None for an anomalous image that has none. Read now."""
        masks = [sample.mask for sample in self.samples]
        return [None if mask is None else mask.numpy() for mask in masks]
