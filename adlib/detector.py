"""What every detector shares: reading images, predicting, saving and loading.

Nothing here knows how a method looks at an image. A method brings one frozen network, its backbone or its teacher,
as the first argument of its constructor, and names it `frozen`.

Several processes: start them with ``multiprocessing.get_context("spawn")``, and let each load the detector from its
file. A forked child has none of the threads that its parent computes with, and would wait for them for ever; `fit` and
`predict` refuse it where they can see it.
"""

from __future__ import annotations

import inspect
import math
import numbers
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from adlib.checks import MAX_SIDE, image_sides, number, whole
from adlib.folds import fit_folds
from adlib.forking import refuse_after_fork
from adlib.images import ImageError
from adlib.parts import (
    hold_out_each,
    largest_of_parts,
    must_be_apart,
    must_differ,
    must_know_products,
    must_name_products,
    must_promise,
    one_can_be_read,
    p_values_of,
    thresholds,
    warn_of_odd_parts,
)
from adlib.prediction import AnomalyMaps, Prediction, finite, full_size_maps
from adlib.reading import Look, Reading, new_name, read_batches, working_size
from adlib.samples import Names, Sample, collect, is_single
from adlib.saving import NOT_SAVED, load_detector, save_detector


def pick_device(device: str = "auto") -> torch.device:
    """"auto" is CUDA if there is one, else MPS, else the CPU; any other name is taken as it is."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class Detector(nn.Module, ABC):
    """The common part of the detectors. A method adds `frozen`, `LEARNT`, `_fit`, `look`, `score` and its buffers.

    A method keeps each argument of its constructor under the argument's own name; `config` reads them there.

    Parameters
    ----------
    frozen : str or Module
        What the constructor was given as backbone or teacher. A name is saved with the weights; of a module of your
        own, only its fingerprint.
    image_size : int, (h, w) or None
        Images are resized to this, whole, without a crop; one number means a square. None: `fit` takes the median
        aspect of the training images at the area of `SIDE` × `SIDE`, in multiples of 16, so that parts keep their
        shape.
    resize : int, optional
        None: nothing is cut. A number: the shorter side becomes so many pixels, and the middle of `image_size` is cut
        and looked at, as the papers do. Such a detector is blind at the border: a defect there changes no score, and
        the maps have the image's smallest patch score there.
    smoothing : float
        σ of the Gaussian on the maps, in pixels of `image_size`.
    batch_size : int
        Images computed at a time.
    device : str
        "auto", or a name that torch knows.
    seed : int
        Everything that is random comes from it.

    Attributes
    ----------
    reading : Reading
        How images are read: fixed by `fit`, kept in the file, used by `predict`. See `adlib.reading.Reading`.
    normal_scores, normal_peaks : Tensor (n,)
        Of the n held-out parts, the image scores in rising order, and in the same order the map maxima; of a part with
        several pictures the largest. The thresholds and p-values come from them.
    normal_parts : list of (str, str or None)
        Name and product of each of these parts, in the same order.
    held_out : Prediction or None
        The held-out pictures and their scores, to look at. Not saved.
    interrupted : Prediction or None
        After an interrupt in `predict`: what was predicted until then.
    failures : dict of name to reason
        The images that the last `fit` left out.
    """

    SIDE, LEAST_SIDE = 224, 32  # of the default image size; the least side that a method can take
    CALIBRATES = False  # whether a method needs held-out images to be fitted at all
    LEARNT: tuple[str, ...] = ()  # the buffers that are empty until `_fit` or `_calibrate` fills them

    normal_scores: Tensor
    normal_peaks: Tensor

    def __init__(
        self,
        frozen: str | nn.Module,
        *,
        image_size: int | tuple[int, int] | None,
        smoothing: float,
        batch_size: int,
        device: str,
        seed: int,
        resize: int | None = None,
    ) -> None:
        super().__init__()
        self.takes_aspect = image_size is None  # whether a fit sets image_size anew
        self.image_size = image_sides(self.SIDE if image_size is None else image_size, self.LEAST_SIDE)
        if resize is not None and image_size is None:
            raise ValueError(f"resize = {resize!r}: expected image_size= beside it, the size of the middle that is cut")
        self.resize = None if resize is None else whole("resize", resize, max(self.image_size), MAX_SIDE)
        self.smoothing = float(number("smoothing", smoothing, "[0, 1000]"))
        self.batch_size = whole("batch_size", batch_size, most=65_536)
        self.seed = whole("seed", seed, 0, 2**32 - 1)
        self.frozen_name = frozen if isinstance(frozen, str) else None
        self.device = pick_device(device)
        self.reading = Reading()
        self.folds = nn.ModuleList()  # the detectors of `fit(folds=)`
        self.failures: dict[str, str] = {}
        self.normal_parts: list[tuple[str, str | None]] = []
        self.held_out: Prediction | None = None
        self.interrupted: Prediction | None = None
        self.register_buffer("normal_scores", torch.empty(0))
        self.register_buffer("normal_peaks", torch.empty(0))

    # ------------------------------------------------------------------ what a method adds

    @property
    @abstractmethod
    def frozen(self) -> nn.Module:
        """The network that is never trained here, a backbone or a teacher."""

    def _plan(self, count: int) -> str:
        """What fitting on `count` images will need, in words. Raises ValueError where it is too much."""
        return "fit"

    @abstractmethod
    def _fit(self, batches: Iterator[Tensor], count: int) -> None:
        """Learn from `count` normal images that arrive as batches (B, 3, h, w)."""

    def _calibrate(self, batches: Iterator[Tensor]) -> None:
        """Learn from the held-out normal images, in batches (B, 3, h, w), what `_fit` could not; as a rule nothing."""

    def look(self, batch: Tensor) -> Tensor:
        """The part of the work that does not depend on what was learnt: batch (B, 3, h, w) in [0, 1] to features."""
        return batch

    @abstractmethod
    def score(self, looked: Tensor) -> tuple[Tensor, Tensor]:
        """What `look` gave to image scores (B,) and a grid of patch scores (B, h', w')."""

    def config(self) -> dict[str, Any]:
        """The constructor's arguments that a file holds, by name: all but the frozen network and `NOT_SAVED`."""
        return {name: getattr(self, name) for name in self.saved_names()}

    @classmethod
    def saved_names(cls) -> list[str]:
        """The names of these arguments."""
        _, *names = inspect.signature(cls).parameters
        return [name for name in names if name not in NOT_SAVED]

    # ------------------------------------------------------------------ fit

    @property
    def fitted(self) -> bool:
        """Whether `fit` or `load` has been called."""
        return len(self.folds) > 0 or all(len(getattr(self, name)) for name in self.LEARNT)

    def fit(
        self,
        train: object,
        *,
        validation: object | None = None,
        folds: int | None = None,
        alpha: float | None = None,
        group: Names = None,
        product: Names = None,
        max_value: float | None = None,
        color: str | None = None,
    ) -> Self:
        """Learn what normal looks like, and how images are to be read.

        An image that cannot be read is left out, with a warning, and named in `failures`.

        Parameters
        ----------
        train : images
            Normal images only, as samples, a folder, paths, PIL images, arrays or tensors. Arrays are RGB.
        validation : float or images, optional
            A share such as 0.35: about so many of the images are held out, whole parts, drawn by `seed`; thresholds and
            p-values come from their scores. Or normal images that are not in `train`.
        folds : int, optional
            Instead of `validation`, where there are few parts: K detectors are fitted, each without one K-th of the
            parts, and the least of their K scores counts. All parts are learnt from and give a held-out score;
            `predict` costs up to K times as much. Equations (2.19) and (2.20); as many folds as parts promise `alpha`
            itself, and `fit` warns where fewer promise less.
        alpha : float, optional
            The rate of false alarms that you will ask for. Where the held-out parts cannot promise it, `fit` refuses
            before it starts. Default: 0.05 for a share or folds; for images given as `validation`, no such check.
        group, product
            Which part a picture shows, where several show the same one, and of which kind it is, where there are
            several: a pattern, a function of the path or a list of names, see `adlib.datasets.as_samples`.
        max_value, color
            See `adlib.images.read_image`; kept for `predict`.

        Raises
        ------
        ValueError
            For an image with label 1; for pictures of one part on both sides; where the held-out parts are too few; for
            images that contradict each other or seem to need max_value; where no image can be read.
        """
        refuse_after_fork()
        # Not as_samples, so that warnings name the user's line.
        samples, _ = collect(train, max_value=max_value, color=color, group=group, product=product)
        held_out: list[Sample] = []
        asked = 0.05 if alpha is None else float(number("alpha", alpha, "(0, 1)"))
        if validation is not None and folds is not None:
            raise ValueError("validation and folds are both given: expected one; folds holds each part out once")
        if isinstance(validation, numbers.Real):
            samples, held_out = hold_out_each(samples, float(validation), self.seed)
            must_promise(held_out, asked)
        elif validation is not None:
            held_out, _ = collect(validation, max_value=max_value, color=color, group=group, product=product)
            if alpha is not None:
                must_promise(held_out, asked)
        elif folds is not None:
            folds = whole("folds", folds, 2)
            must_promise(samples, asked, folds)
            must_differ(samples)
        elif self.CALIBRATES:
            samples, held_out = hold_out_each(samples, 0.1, self.seed)
        for sample in [*samples, *held_out]:
            if sample.label not in (0, None):
                raise ValueError(f"{sample.path}: is labelled anomalous ({sample.kind}); fit takes normal images only")
        must_name_products(samples if folds is not None else held_out)
        must_be_apart(samples, held_out)
        if held_out:
            one_can_be_read(held_out)
        self.failures = {}
        before = self._state()
        try:
            self._fit_all(samples, held_out, folds, color)
        except BaseException:  # all of what was learnt before, or its thresholds would belong to another detector
            self.__dict__.update(before)
            raise
        if self.failures:
            reasons, count = list(self.failures.values()), len(samples) + len(held_out)
            more = f"; and {len(reasons) - 8} more, see failures" if len(reasons) > 8 else ""
            left = f". {len(self.normal_scores)} held-out parts are left" if len(self.normal_scores) else ""
            shown = "; ".join(reasons[:8])
            warnings.warn(f"{len(reasons)} of {count} images left out: {shown}{more}{left}", stacklevel=2)
        return self

    def _state(self) -> dict[str, Any]:
        """All attributes, buffers and modules as they are; a fit puts others in their place, and changes none."""
        kept = {"failures", "interrupted"}  # these tell of the fit that has failed
        return {name: dict(value) if name in ("_buffers", "_modules", "_parameters") else value
                for name, value in self.__dict__.items() if name not in kept}

    def _fit_all(self, samples: list[Sample], held_out: list[Sample], folds: int | None, color: str | None) -> None:
        self.reading = Reading(color=color or next((s.color for s in samples if s.color), "rgb"))
        if self.takes_aspect:
            self.image_size = working_size(samples, self.SIDE, self.LEAST_SIDE)
        self.held_out, self.folds = None, nn.ModuleList()
        self._keep_normals(None)
        self.to(self.device)
        with torch.no_grad():
            if folds is not None:
                self._keep_normals(fit_folds(self, samples, folds))
                for name in self.LEARNT:  # of an earlier fit
                    setattr(self, name, torch.empty([0] * getattr(self, name).ndim))
                return
            self._fit(self._training_batches(samples, held_out, self._plan(len(samples))), len(samples))
            if held_out:
                self._calibrate(batch for batch, _, _ in self._read(held_out, {}, "held-out images"))
        if held_out:
            self._keep_normals(self.predict(held_out))

    def _training_batches(self, samples: list[Sample], held_out: list[Sample], what: str) -> Iterator[Tensor]:
        """Batches of all training images. After the last one, and before anything is learnt, the contract is made.

        Held-out images of which none keeps it are refused then, as a training may take long.
        """
        looks, read = [], []
        for batch, some, seen in self._read(samples, self.failures, what):
            looks += seen
            read += some
            yield batch
        if read:
            self.reading = self.reading.completed(looks, read)
            if held_out:
                one_can_be_read(held_out, lambda sample: self.reading.look(sample, self.image_size, self.resize))

    def _keep_normals(self, prediction: Prediction | None) -> None:
        """Keep the scores of the held-out parts, the largest of each; none where there is no prediction."""
        if prediction is None:
            self.normal_scores = self.normal_peaks = torch.empty(0)
            self.normal_parts = []
            return
        if not prediction.samples:
            raise ValueError(f"no validation image could be read: {list(prediction.failures.values())[:3]}")
        for name, reason in prediction.failures.items():  # "image[0]" may be one of train, too
            self.failures[new_name(name, self.failures)] = reason
        peaks = np.array([float(m.max()) for m in prediction.maps], np.float32)
        scores, peaks, self.normal_parts = largest_of_parts(prediction.samples, prediction.scores, peaks)
        self.normal_scores, self.normal_peaks = torch.from_numpy(scores), torch.from_numpy(peaks)
        self.held_out = prediction
        warn_of_odd_parts(self.normal_scores, self.normal_parts, stacklevel=5)

    # ------------------------------------------------------------------ predict

    def predict(
        self, images: object, *, group: Names = None, product: Names = None, color: str | None = None
    ) -> Prediction:
        """Scores and maps of images, read as `fit` has read its own.

        Every image gets a score or stands in the prediction's `failures`: one that cannot be read, or that contradicts
        the reading contract, does not stop the others. Where a single image is given, its error is raised. An interrupt
        keeps what was predicted until then in `interrupted`.

        Parameters
        ----------
        images : images
            Samples, a folder, paths, PIL images, arrays or tensors. Arrays have the colour order that `fit` was told;
            RGB where it was told none.
        group, product
            See `fit`.
        color : str, optional
            "rgb" or "bgr", the colour order of these arrays.

        Returns
        -------
        Prediction

        Raises
        ------
        RuntimeError
            Before `fit`, and in a process that was forked where it would hang.
        ImageError
            Where the only image cannot be used.
        FloatingPointError
            Names the image whose score is not finite: the weights are damaged.
        ValueError
            Where the detector has several products and an image names none of them.
        """
        self._must_be_fitted()
        refuse_after_fork()
        self.interrupted = None
        samples, skipped = collect(images, group=group, product=product, color=color)
        must_know_products(samples, self.normal_parts)
        self.to(self.device)
        scores, grids, looks, read, failures = [], [], [], [], {}

        def so_far() -> Prediction:
            grid = torch.cat(grids) if grids else torch.empty(0, 1, 1)
            sizes = [look.size for look in looks]
            maps = AnomalyMaps(grid.clone(), self.image_size, self.smoothing, sizes, self.resize)
            values = torch.cat(scores).numpy() if scores else np.empty(0, np.float32)
            values = finite(values, read)
            p_values = p_values_of(values, read, self.normal_scores, self.normal_parts)
            return Prediction(values, read, maps, failures, p_values, skipped)

        try:
            with torch.inference_mode():
                for batch, some, seen in self._read(samples, failures, "predict"):
                    score, grid = self.patch_scores(batch)
                    scores.append(score.float().cpu())
                    grids.append(grid.float().cpu())
                    looks += seen
                    read += some
        except KeyboardInterrupt:
            self.interrupted = so_far()
            raise
        if failures and is_single(images):
            raise ImageError(next(iter(failures.values())))
        return so_far()

    def __repr__(self) -> str:
        """In short; `modules()` has every layer."""
        state = f"fitted, {len(self.normal_scores)} held-out parts" if self.fitted else "not fitted"
        return f"{type(self).__name__}(image_size={self.image_size}, {state})"

    def patch_scores(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Batch (B, 3, h, w) in [0, 1] to image scores (B,) and a grid of patch scores (B, h', w')."""
        self._must_be_fitted()
        looked = self.look(batch)
        if not self.folds:
            return self.score(looked)
        folds: list[Any] = list(self.folds)
        results = [fold.score(looked) for fold in folds]
        scores, grids = (torch.stack(values).amin(0) for values in zip(*results, strict=True))  # equation (2.19)
        return scores, grids

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Batch (B, 3, h, w) in [0, 1], already resized and cut, to scores (B,) and maps (B, h, w). Tensors only."""
        scores, grids = self.patch_scores(batch)
        height, width = batch.shape[-2:]
        return scores, full_size_maps(grids, (height, width), self.smoothing)

    def threshold(self, alpha: float) -> float | dict[str, float]:
        """The image score above which at most a share α of good parts lies, on average. Equation (2.17).

        Parameters
        ----------
        alpha : float
            α in (0, 1).

        Returns
        -------
        float, or dict of str to float
            Where `fit` was told products, one for each.

        Raises
        ------
        ValueError
            Where the held-out parts are too few, or none.
        """
        return thresholds(self.normal_scores, self.normal_parts, alpha)

    def pixel_threshold(self, alpha: float) -> float | dict[str, float]:
        """As `threshold`, for the maps: with a share of at most α, a good part has any pixel above it."""
        return thresholds(self.normal_peaks, self.normal_parts, alpha)

    def _must_be_fitted(self) -> None:
        if not self.fitted:
            raise RuntimeError(f"{type(self).__name__} is not fitted: call fit(normal_images) or load(path) first")

    def _read(
        self, samples: list[Sample], failures: dict[str, str], what: str
    ) -> Iterator[tuple[Tensor, list[Sample], list[Look]]]:
        return read_batches(samples, self.reading, self.image_size, self.batch_size, self.device, failures, what,
                            self.resize)

    # ------------------------------------------------------------------ save and load

    def save(self, path: str | Path) -> None:
        """Write the fitted detector as one safetensors file, whole or not at all.

        It holds every statistic, the reading contract, the frozen network's weights (of a module of your own, its
        fingerprint), the versions of adlib and torch, and a checksum over all of it.

        Raises
        ------
        RuntimeError
            Before `fit`.
        FileNotFoundError
            Where the folder is missing.
        OSError
            Where the disk is full; an old file stays as it was.
        """
        self._must_be_fitted()
        save_detector(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", **own: nn.Module) -> Self:
        """Read a detector that `save` wrote. What a file says is checked as the constructor checks its arguments.

        Parameters
        ----------
        path : path
            The file.
        device : str
            As in the constructor.
        **own : Module
            The module it was fitted with, needed only where that was your own, under its name in the constructor:
            ``backbone=module`` or ``teacher=module``. Its fingerprint is checked.

        Raises
        ------
        ValueError
            Names the file where it is damaged, of another method, module or version, or not adlib's.
        FileNotFoundError, PermissionError
            Where there is none, or it may not be read.
        """
        return load_detector(cls, Path(path), pick_device(device), own)

    def must_give_scores(self) -> None:
        """Raise an error where what was learnt does not go together, as it may not in a file of another origin."""
        self._must_be_fitted()
        if bool((self.normal_scores.diff() < 0).any()) or not (
            len(self.normal_scores) == len(self.normal_peaks) == len(self.normal_parts)
        ):
            raise ValueError("the held-out scores are not in rising order, or not one for each part")
        with torch.no_grad():
            scores, grid = self.patch_scores(torch.zeros(1, 3, *self.image_size))
        if not bool(torch.isfinite(scores).all()) or not bool(torch.isfinite(grid).all()):
            raise ValueError("the scores of a black image are not finite")


def readable_bytes(count: float) -> str:
    """123456789 as "123 MB"."""
    power = min(3, int(math.log10(max(count, 1)) // 3))
    return f"{count / 1000**power:.3g} {['B', 'kB', 'MB', 'GB'][power]}"
