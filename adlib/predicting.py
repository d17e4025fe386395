"""What `Detector.predict` does: every image gets a score or a named failure."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from adlib.forking import refuse_after_fork
from adlib.images import ImageError
from adlib.parts import must_know_products, p_values_of
from adlib.prediction import AnomalyMaps, Prediction, finite
from adlib.samples import Names, collect, is_single


def predict(detector: Any, images: object, group: Names, product: Names, color: str | None) -> Prediction:
    """See `Detector.predict`."""
    detector._must_be_fitted()
    refuse_after_fork()
    detector.interrupted = None
    samples, skipped = collect(images, group=group, product=product, color=color)
    must_know_products(samples, detector.normal_parts)
    scores, grids, looks, read, failures = [], [], [], [], {}

    def so_far() -> Prediction:
        grid = torch.cat(grids) if grids else torch.empty(0, 1, 1)
        sizes = [look.size for look in looks]
        maps = AnomalyMaps(grid.clone(), detector.image_size, detector.smoothing, sizes, detector.resize,
                           detector.reading.region, detector.reading.own_size is not None)
        values = torch.cat(scores).numpy() if scores else np.empty(0, np.float32)
        values = finite(values, read)
        p_values = p_values_of(values, read, detector.normal_scores, detector.normal_parts)
        return Prediction(values, read, maps, failures, p_values, skipped)

    try:
        with torch.inference_mode():
            for batch, some, seen in detector._read(samples, failures, "predict"):
                score, grid = detector.patch_scores(batch)
                scores.append(score.float().cpu())
                grids.append(grid.float().cpu())
                looks += seen
                read += some
    except KeyboardInterrupt:
        detector.interrupted = so_far()
        raise
    if failures and is_single(images):
        raise ImageError(next(iter(failures.values())))
    return so_far()
