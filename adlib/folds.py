"""K folds: K detectors, each fitted without one K-th of the parts, so that few parts serve twice. Section 2.11."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from adlib.parts import deal
from adlib.prediction import AnomalyMaps, Prediction, finite
from adlib.reading import Look, chunks_of
from adlib.samples import Sample


def fit_folds(detector: Any, samples: list[Sample], folds: int) -> Prediction:
    """Fit the detector's `folds`, and give each picture the score of the one that has not seen its part.

    All images are read once and held, resized, while this runs.

    Returns
    -------
    Prediction
        Of the samples that could be read.

    Raises
    ------
    ValueError
        Where none could be, or where they are of fewer parts than folds.
    """
    images: list[Tensor] = []
    read: list[Sample] = []
    looks: list[Look] = []
    for batch, some, seen in detector._read(samples, detector.failures, "fit"):
        images += batch.cpu()
        read += some
        looks += seen
    if not read:
        raise ValueError(f"none of the {len(samples)} training images could be read: "
                         f"{list(detector.failures.values())[:3]}")
    detector.reading = detector.reading.completed(looks, read)
    scores, grids = torch.zeros(len(read)), {}
    for k, out in enumerate(tqdm(deal(read, folds, detector.seed), desc="folds", leave=False)):
        fold = detector.blank(k)
        fold.fit_arrays(sorted(set(range(len(read))) - set(out)), images, read)
        for chosen in chunks_of(out, detector.batch_size):
            some, grid = fold.patch_scores(torch.stack([images[i] for i in chosen]).to(detector.device))
            scores[chosen] = some.float().cpu()
            grids.update(zip(chosen, grid.float().cpu(), strict=True))
        detector.folds.append(fold)
    maps = AnomalyMaps(torch.stack([grids[i] for i in range(len(read))]), detector.image_size, detector.smoothing,
                       [look.size for look in looks], detector.resize)
    return Prediction(finite(scores.numpy(), read), read, maps)
