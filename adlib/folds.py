"""K folds: K detectors, each fitted without one K-th of the parts, so that few parts serve twice. Section 2.11."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from adlib.parts import deal, hold_out
from adlib.prediction import AnomalyMaps, Prediction, finite
from adlib.progress import progress_bar
from adlib.reading import Look, chunks_of
from adlib.samples import Sample
from adlib.saving import blank


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
    if getattr(detector, "chunk", None) is not None:
        raise ValueError("folds and chunk are both given: folds are for few parts and hold all their images, chunk "
                         "is for more images than memory holds. Leave one out; with many parts, give validation=0.35")
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
    for k, out in enumerate(progress_bar(deal(read, folds, detector.seed), desc="folds")):
        fold = blank(detector, k)
        _fit(fold, sorted(set(range(len(read))) - set(out)), images, read)
        for chosen in chunks_of(out, detector.images_at_once):
            some, grid = fold.patch_scores(torch.stack([images[i] for i in chosen]).to(detector.device))
            scores[chosen] = some.float().cpu()
            grids.update(zip(chosen, grid.float().cpu(), strict=True))
        detector.folds.append(fold)
    maps = AnomalyMaps(torch.stack([grids[i] for i in range(len(read))]), detector.image_size, detector.smoothing,
                       [look.size for look in looks], detector.resize, detector.reading.region,
                       detector.reading.own_size is not None)
    return Prediction(finite(scores.numpy(), read), read, maps)


def _fit(detector: Any, chosen: list[int], images: list[Tensor], samples: list[Sample]) -> None:
    """Fit one of the detectors on the `chosen` images (3, h, w), of which it holds out some where it has to."""
    held: list[int] = []
    if detector.CALIBRATES:
        place = {id(samples[i]): i for i in chosen}
        rest, out = hold_out([samples[i] for i in chosen], 0.1, detector.seed)
        chosen, held = [place[id(s)] for s in rest], [place[id(s)] for s in out]

    def batches(indices: list[int]) -> Iterator[Tensor]:
        for some in chunks_of(indices, detector.images_at_once):
            yield torch.stack([images[i] for i in some]).to(detector.device)

    detector._plan(len(chosen))
    detector._fit(batches(chosen), len(chosen))
    if held:
        detector._calibrate(batches(held))
