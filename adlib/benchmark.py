"""The measures of one prediction, with their intervals."""

from __future__ import annotations

from adlib import metrics
from adlib.detector import Prediction


def evaluate(prediction: Prediction, *, confidence: float = 0.95, seed: int = 0) -> dict[str, dict[str, float]]:
    """{"image_auroc": {"value", "low", "high"}, "pixel_auroc": …, "au_pro": …, "image_aupr": {"value"}, "f1_max": …}.

    Maps and masks are held at the images' own sizes while this runs: 5 bytes a pixel, and some copies.
    Raises ValueError in words where a class is missing or an anomalous image has no mask.
    """
    labels, scores, groups = prediction.labels, prediction.scores, prediction.groups
    masks, maps = prediction.masks(), list(prediction.maps)
    image = metrics.image_auroc_interval(labels, scores, groups=groups, confidence=confidence, seed=seed)
    pixel = metrics.pixel_intervals(masks, maps, groups=groups, confidence=confidence, seed=seed)
    measured = {
        "image_auroc": (metrics.image_auroc(labels, scores), image),
        "pixel_auroc": (metrics.pixel_auroc(masks, maps), pixel.pixel_auroc),
        "au_pro": (metrics.au_pro(masks, maps), pixel.au_pro),
    }
    result = {name: {"value": value, "low": ends[0], "high": ends[1]} for name, (value, ends) in measured.items()}
    result["image_aupr"] = {"value": metrics.image_aupr(labels, scores)}
    result["f1_max"] = {"value": metrics.f1_max(labels, scores)[0]}
    return result
