"""One frame of a camera: one answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from adlib.prediction import AnomalyMaps
from adlib.samples import Sample


@dataclass(frozen=True)
class Answer:
    """What a detector says of one frame. It holds nothing of the frame, whose memory may be used again.

    Attributes
    ----------
    score : float
        Higher is more anomalous; finite.
    p_value : float or None
        See `adlib.prediction.Prediction`; None where the detector was fitted without held-out images.
    map : ndarray (H, W) float32
        At the frame's own size, made each time it is asked for.
    """

    score: float
    p_value: float | None
    _maps: AnomalyMaps = field(repr=False)

    @property
    def map(self) -> np.ndarray:
        return self._maps[0]


def answer_of(detector: Any, frame: np.ndarray | Tensor, color: str | None, product: str | None) -> Answer:
    """See `adlib.detector.Detector.predict_frame`. The way is that of `predict`, so no score can be another one."""
    if not isinstance(frame, (np.ndarray, Tensor)):
        raise TypeError(f"frame is of type {type(frame).__name__}: expected an array (H, W, 3) or (H, W), or a tensor; "
                        "for files and lists of images use predict")
    sample = Sample(None, "unlabelled", "frame", image_source=frame, product=product)
    prediction = detector.predict(sample, color=color)
    p_values = prediction.p_values
    return Answer(float(prediction.scores[0]), None if p_values is None else float(p_values[0]), prediction.maps)
