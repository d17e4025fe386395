"""What `Detector.fit` does around a method: which images it learns from, how they are read, what is held out.

A detector comes as an argument; what it learns, and how, is its own `_fit`.
"""

from __future__ import annotations

import dataclasses
import numbers
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adlib.checks import number, users_line, whole
from adlib.folds import fit_folds
from adlib.forking import refuse_after_fork
from adlib.parts import (
    hold_out_each,
    largest_of_parts,
    must_be_apart,
    must_differ,
    must_name_products,
    must_promise,
    one_can_be_read,
    warn_of_odd_parts,
)
from adlib.prediction import Prediction
from adlib.reading import Look, Reading, new_name, one_size, some_sizes, working_size
from adlib.region import must_be_large_enough, read_region
from adlib.samples import Names, Sample, collect


def fit(
    detector: Any, train: object, *, validation: object, folds: int | None, alpha: float | None, group: Names,
    product: Names, max_value: float | None, color: str | None, region: object,
) -> None:  # fmt: skip
    """What `Detector.fit` does."""
    refuse_after_fork()
    samples, _ = collect(train, max_value=max_value, color=color, group=group, product=product)
    held_out: list[Sample] = []
    asked = 0.05 if alpha is None else float(number("alpha", alpha, "(0, 1)"))
    if validation is not None and folds is not None:
        raise ValueError("validation and folds are both given: expected one; folds holds each part out once")
    if isinstance(validation, numbers.Real):
        samples, held_out = hold_out_each(samples, float(validation), detector.seed)
        must_promise(held_out, asked)
    elif validation is not None:
        held_out, _ = collect(validation, max_value=max_value, color=color, group=group, product=product)
        if alpha is not None:
            must_promise(held_out, asked)
    elif folds is not None:
        folds = whole("folds", folds, 2)
        must_promise(samples, asked, folds)
        must_differ(samples)
    elif detector.CALIBRATES:
        samples, held_out = hold_out_each(samples, 0.1, detector.seed)
    for sample in [*samples, *held_out]:
        if sample.label not in (0, None):
            raise ValueError(f"{sample.path}: is labelled anomalous ({sample.kind}); fit takes normal images only")
    must_name_products(samples if folds is not None else held_out)
    must_be_apart(samples, held_out)
    if held_out:
        one_can_be_read(held_out)
    detector.failures = {}
    before = state_of(detector)
    try:
        _fit_all(detector, samples, held_out, folds, color, region)
    except BaseException:  # all of what was learnt before, or its thresholds would belong to another detector
        detector.__dict__.update(before)
        raise
    warn_of_failures(detector, len(samples) + len(held_out))


def state_of(detector: Any) -> dict[str, Any]:
    """All attributes, buffers and modules as they are; a fit puts others in their place, and changes none."""
    kept = {"failures", "interrupted"}  # these tell of the fit that has failed
    return {name: dict(value) if name in ("_buffers", "_modules", "_parameters") else value
            for name, value in detector.__dict__.items() if name not in kept}


def _fit_all(detector: Any, samples: list[Sample], held_out: list[Sample], folds: int | None, color: str | None,
             region: object) -> None:  # fmt: skip
    detector.reading = Reading(color=color or next((s.color for s in samples if s.color), "rgb"))
    _set_frame(detector, samples, region)
    detector.held_out, detector.folds = None, nn.ModuleList()
    keep_normals(detector, None)
    detector.to(detector.device)
    with torch.no_grad():
        if folds is not None:
            keep_normals(detector, fit_folds(detector, samples, folds))
            detector._forget()  # an earlier fit
            return
        detector._learn(samples, held_out)
        if held_out:
            detector._calibrate(batch for batch, _, _ in detector._read(held_out, {}, "held-out images"))
    if held_out:
        keep_normals(detector, detector.predict(held_out))


def _set_frame(detector: Any, samples: list[Sample], region: object) -> None:
    """The size that images are brought to, where the detector takes it from them, and the inspected region."""
    sizes: dict[tuple[int, int], str] = {}
    if region is not None or detector.tiles is not None:
        for sample, size in some_sizes(samples):
            sizes.setdefault(size, sample.path)
    if detector.takes_aspect and detector.tiles is not None:
        detector.image_size, own = one_size(sizes, detector.step)
        detector.reading = dataclasses.replace(detector.reading, own_size=own)
    elif detector.takes_aspect:
        detector.image_size = working_size(samples, detector.SIDE, detector.LEAST_SIDE)
    if region is not None:
        made = read_region(region, sizes)
        must_be_large_enough(made, detector.image_size, detector.resize, detector.field, detector.reading.own_size)
        detector.reading = dataclasses.replace(detector.reading, region=made)


def training_batches(detector: Any, samples: list[Sample], held_out: list[Sample], what: str) -> Iterator[Tensor]:
    """Batches of all training images. After the last one, and before anything is learnt, the contract is made.

    Held-out images of which none keeps it are refused then, as a training may take long.
    """
    looks, read = [], []
    for batch, some, seen in detector._read(samples, detector.failures, what):
        looks += seen
        read += some
        yield batch
    make_contract(detector, looks, read, held_out)


def make_contract(detector: Any, looks: list[Look], read: list[Sample], held_out: list[Sample]) -> None:
    """Complete the reading contract with what the training images that could be read look like."""
    if read:
        detector.reading = detector.reading.completed(looks, read)
        if held_out:
            one_can_be_read(held_out, lambda s: detector.reading.look(s, detector.image_size, detector.resize))


def keep_normals(detector: Any, prediction: Prediction | None) -> None:
    """Keep the scores of the held-out parts, the largest of each; none where there is no prediction."""
    if prediction is None:
        detector.normal_scores = detector.normal_peaks = torch.empty(0)
        detector.normal_parts, detector.held_out = [], None
        return
    if not prediction.samples:
        raise ValueError(f"no validation image could be read: {list(prediction.failures.values())[:3]}")
    leave_out(detector, prediction.failures)  # "image[0]" may be one of train, too
    peaks = np.array([float(m.max()) for m in prediction.maps], np.float32)
    scores, peaks, detector.normal_parts = largest_of_parts(prediction.samples, prediction.scores, peaks)
    detector.normal_scores, detector.normal_peaks = torch.from_numpy(scores), torch.from_numpy(peaks)
    detector.held_out = prediction
    warn_of_odd_parts(detector.normal_scores, detector.normal_parts)


def leave_out(detector: Any, failures: dict[str, str]) -> None:
    """Add these to the detector's failures, beside those of the same name."""
    for name, reason in failures.items():
        detector.failures[new_name(name, detector.failures)] = reason


def warn_of_failures(detector: Any, count: int) -> None:
    """Warn of the images, of so many, that were left out."""
    if detector.failures:
        reasons, normals = list(detector.failures.values()), len(detector.normal_scores)
        more = f"; and {len(reasons) - 8} more, see failures" if len(reasons) > 8 else ""
        left = f". {normals} held-out parts are left" if normals else ""
        shown = "; ".join(reasons[:8])
        warnings.warn(f"{len(reasons)} of {count} images left out: {shown}{more}{left}", stacklevel=users_line())
