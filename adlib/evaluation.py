"""The measures of one prediction, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adlib import metrics
from adlib.folders import some_names
from adlib.prediction import Prediction


def evaluate(prediction: Prediction, *, confidence: float = 0.95, seed: int = 0) -> dict[str, dict[str, float]]:
    """Image AUROC, pixel AUROC and AU-PRO with their intervals, average precision and the largest F1.

    For a folder ``test`` with subfolders such as good and scratch:
    ``evaluate(detector.predict(ImageFolder("good_parts", "test").test))``, see `adlib.datasets.ImageFolder`.
    Maps and masks are held at the images' own sizes while this runs: 5 bytes a pixel, and some copies.

    Parameters
    ----------
    prediction : Prediction
        Of samples with labels; without the two pixel measures where an anomalous image has no mask.
    confidence : float
        Of the intervals.
    seed : int
        Draws the resampled images.

    Returns
    -------
    dict
        {"image_auroc": {"value", "low", "high"}, "pixel_auroc": …, "au_pro": …, "image_aupr": {"value"}, "f1_max": …}.

    Raises
    ------
    ValueError
        In words, where a class or a label is missing.
    """
    found = {sample.label for sample in prediction.samples}
    if found in ({0}, {1}):
        kinds = some_names(sorted({sample.kind for sample in prediction.samples}), 20)
        missing = "normal" if found == {1} else "anomalous"
        raise ValueError(f"{len(prediction.samples)} images, none of them {missing}: expected both; the kinds found "
                         f"are {kinds}. A folder of good parts is called good, ok or normal")
    targets, scores, groups = prediction.targets, prediction.scores, prediction.groups
    options: dict[str, Any] = {"groups": groups, "confidence": confidence, "seed": seed}

    def with_ends(value: float, ends: tuple[float, float]) -> dict[str, float]:
        return {"value": value, "low": ends[0], "high": ends[1]}

    ends = metrics.image_auroc_interval(targets, scores, **options)
    result = {"image_auroc": with_ends(metrics.image_auroc(targets, scores), ends)}
    masks = [mask for mask in prediction.masks() if mask is not None]
    if len(masks) == len(targets):
        maps = list(prediction.maps)
        intervals = metrics.pixel_intervals(masks, maps, **options)
        result["pixel_auroc"] = with_ends(metrics.pixel_auroc(masks, maps), intervals.pixel_auroc)
        result["au_pro"] = with_ends(metrics.au_pro(masks, maps), intervals.au_pro)
    result["image_aupr"] = {"value": metrics.image_aupr(targets, scores)}
    result["f1_max"] = {"value": metrics.f1_max(targets, scores)[0]}
    return result


def over_seeds(runs: Sequence[Mapping[str, float] | float], *, same_images: bool, digits: int = 3) -> str:
    """Mean and interval of a measure over seeds, such as "0.810 [0.637, 0.924]": see `adlib.intervals.mean_interval`.

    Parameters
    ----------
    runs : sequence (S,) of {"value", "low", "high"} or of float
        One for each seed, as `evaluate` gives them; low and high belong to the images of that seed.
    same_images : bool
        True where the seeds share their test images (a real data set), False where each has its own (the factory).
    digits : int
        After the point.

    Returns
    -------
    str
        The mean alone where nothing tells how much it owes to the images: one seed, or the same images, without low
        and high.

    Raises
    ------
    ValueError
        Where there is no run, or an interval does not hold its value.
    """
    if not runs:
        raise ValueError("no run: expected one for each seed")
    each = [run if isinstance(run, Mapping) else {"value": run} for run in runs]
    values = [run["value"] for run in each]
    intervals = [(run["low"], run["high"]) for run in each] if all("low" in run for run in each) else None
    mean = f"{sum(values) / len(values):.{digits}f}"
    if intervals is None and (same_images or len(values) < 2):
        return mean
    low, high = metrics.mean_interval(values, intervals, same_images=same_images)
    return f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"
