"""What every detector shares: reading images, predicting, saving and loading.

Nothing here knows how a method looks at an image. A method brings one frozen network, its backbone or its teacher,
as the first argument of its constructor, and names it `frozen`.
"""

from __future__ import annotations

import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from adlib.backbones import fingerprint
from adlib.files import read_tensors, write_tensors
from adlib.images import ImageError, resize_image
from adlib.prediction import AnomalyMaps, Prediction, full_size_maps
from adlib.samples import Sample, as_samples

FORMAT = 2  # of saved detectors; 1 had "levels" where there are "layers" now
# Constructor arguments that a file does not hold: they belong to one machine, one run, or to the user.
NOT_SAVED = ("device", "pretrained", "checkpoint", "features_folder", "penalty_images")


def pick_device(device: str = "auto") -> torch.device:
    """"auto" is CUDA if there is one, else MPS, else the CPU; any other name is taken as it is."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class Detector(nn.Module, ABC):
    """The common part of the detectors. A method adds `frozen`, `fitted`, `_fit`, `patch_scores` and its buffers.

    A method keeps each argument of its constructor under the argument's own name; `config` reads them there.

    Parameters
    ----------
    frozen : str or Module
        What the constructor was given as backbone or teacher. A name is saved with the weights; of a module of your
        own, only its fingerprint.
    image_size : int or (h, w)
        Images are resized to this, whole, without a crop; one number means a square.
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
    normal_scores, normal_peaks : Tensor (n,)
        After ``fit(…, validation=normals)``: the sorted image scores and map maxima of those held-out normal images,
        for `adlib.threshold`.
    failures : dict of path to reason
        The images that the last `fit` left out.
    """

    normal_scores: Tensor
    normal_peaks: Tensor

    def __init__(
        self,
        frozen: str | nn.Module,
        *,
        image_size: int | tuple[int, int],
        smoothing: float,
        batch_size: int,
        device: str,
        seed: int,
    ) -> None:
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(self.image_size) != 2 or min(self.image_size) < 32:
            raise ValueError(f"image_size = {image_size}: expected (height, width) of at least 32 pixels")
        if smoothing < 0 or batch_size < 1:
            raise ValueError(f"smoothing = {smoothing}, batch_size = {batch_size}: expected >= 0 and >= 1")
        self.smoothing, self.batch_size, self.seed = float(smoothing), batch_size, seed
        self.frozen_name = frozen if isinstance(frozen, str) else None
        self.device = pick_device(device)
        self.failures: dict[str, str] = {}
        self.register_buffer("normal_scores", torch.empty(0))
        self.register_buffer("normal_peaks", torch.empty(0))

    # ------------------------------------------------------------------ what a method adds

    @property
    @abstractmethod
    def frozen(self) -> nn.Module:
        """The network that is never trained here, a backbone or a teacher."""

    @property
    @abstractmethod
    def fitted(self) -> bool:
        """Whether `fit` or `load` has been called."""

    def _plan(self, count: int) -> str:
        """What fitting on `count` images will need, in words. Raises ValueError where it is too much."""
        return "fit"

    @abstractmethod
    def _fit(self, batches: Iterator[Tensor], count: int) -> None:
        """Learn from `count` normal images that arrive as batches (B, 3, h, w)."""

    def _calibrate(self, batches: Iterator[Tensor]) -> None:
        """Learn from the held-out normal images, in batches (B, 3, h, w), what `_fit` could not; as a rule nothing."""

    @abstractmethod
    def patch_scores(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Batch (B, 3, h, w) in [0, 1] to image scores (B,) and a grid of patch scores (B, h', w')."""

    def config(self) -> dict[str, Any]:
        """The constructor's arguments that a file holds, by name: all but the frozen network and `NOT_SAVED`."""
        _, *names = inspect.signature(type(self)).parameters
        return {name: getattr(self, name) for name in names if name not in NOT_SAVED}

    # ------------------------------------------------------------------ fit and predict

    def fit(self, train: object, *, validation: object | None = None) -> Self:
        """Learn what normal looks like.

        An image that cannot be read is left out, with a warning, and named in `failures`.

        Parameters
        ----------
        train : images
            Normal images only, as samples, a folder, paths, PIL images, arrays or tensors.
        validation : images, optional
            Normal images that are not in `train`; their scores are kept for thresholds.

        Raises
        ------
        ValueError
            For an image with label 1, or where no image can be read.
        """
        samples, held_out = as_samples(train), as_samples(validation) if validation is not None else []
        for sample in [*samples, *held_out]:
            if sample.label != 0:
                raise ValueError(f"{sample.path}: is labelled anomalous ({sample.kind}); fit takes normal images only")
        _must_be_apart(samples, held_out)
        self.failures = {}
        self.to(self.device)
        with torch.no_grad():
            plan = self._plan(len(samples))
            self._fit((batch for batch, _, _ in self._read(samples, self.failures, plan)), len(samples))
        self.normal_scores = self.normal_peaks = torch.empty(0)
        if held_out:
            with torch.no_grad():
                self._calibrate(batch for batch, _, _ in self._read(held_out, {}, "held-out images"))
            prediction = self.predict(held_out)
            if not prediction.samples:
                raise ValueError(f"no validation image could be read: {list(prediction.failures.values())[:3]}")
            self.failures |= prediction.failures
            self.normal_scores = torch.from_numpy(np.sort(prediction.scores))
            self.normal_peaks = torch.tensor(sorted(float(m.max()) for m in prediction.maps))
        if self.failures:
            count, names = len(samples) + len(held_out), "; ".join(self.failures.values())
            warnings.warn(f"{len(self.failures)} of {count} images left out: {names}", stacklevel=2)
        return self

    def predict(self, images: object) -> Prediction:
        """Scores and maps of images.

        One image that cannot be read does not stop the others: it is named in the prediction's `failures`.

        Parameters
        ----------
        images : images
            Samples, a folder, paths, PIL images, arrays or tensors.

        Returns
        -------
        Prediction

        Raises
        ------
        RuntimeError
            Before `fit`.
        """
        self._must_be_fitted()
        self.to(self.device)
        scores, grids, sizes, samples, failures = [], [], [], [], {}
        with torch.inference_mode():
            for batch, read, own in self._read(as_samples(images), failures, "predict"):
                score, grid = self.patch_scores(batch)
                scores.append(score.float().cpu())
                grids.append(grid.float().cpu())
                sizes += own
                samples += read
        grid = torch.cat(grids) if grids else torch.empty(0, 1, 1)
        maps = AnomalyMaps(grid.clone(), self.image_size, self.smoothing, sizes)
        return Prediction(torch.cat(scores).numpy() if scores else np.empty(0, np.float32), samples, maps, failures)

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Batch (B, 3, h, w) in [0, 1], already resized, to scores (B,) and maps (B, h, w). Tensors only."""
        scores, grids = self.patch_scores(batch)
        height, width = batch.shape[-2:]
        return scores, full_size_maps(grids, (height, width), self.smoothing)

    def _must_be_fitted(self) -> None:
        if not self.fitted:
            raise RuntimeError(f"{type(self).__name__} is not fitted: call fit(normal_images) or load(path) first")

    def _read(
        self, samples: list[Sample], failures: dict[str, str], what: str
    ) -> Iterator[tuple[Tensor, list[Sample], list[tuple[int, int]]]]:
        """Batches (B, 3, h, w) on the device, their samples and own sizes; two threads read one batch ahead."""

        def read(sample: Sample) -> tuple[Tensor, tuple[int, int]] | str:
            try:
                image = sample.image
            except ImageError as error:
                return str(error)
            _, height, width = image.shape
            return resize_image(image, self.image_size), (height, width)

        chunks = [samples[i : i + self.batch_size] for i in range(0, len(samples), self.batch_size)]
        hidden = len(chunks) < 2
        with ThreadPoolExecutor(2) as pool, tqdm(total=len(samples), desc=what, disable=hidden, leave=False) as bar:
            ahead = [pool.submit(read, sample) for sample in chunks[0]] if chunks else []
            for i, chunk in enumerate(chunks):
                results = [future.result() for future in ahead]
                ahead = [pool.submit(read, sample) for sample in chunks[i + 1]] if i + 1 < len(chunks) else []
                good = [(r, s) for r, s in zip(results, chunk, strict=True) if not isinstance(r, str)]
                failures.update({s.path: r for r, s in zip(results, chunk, strict=True) if isinstance(r, str)})
                if good:
                    batch = torch.stack([r[0] for r, _ in good]).to(self.device)
                    yield batch, [s for _, s in good], [r[1] for r, _ in good]
                bar.update(len(chunk))

    # ------------------------------------------------------------------ save and load

    def save(self, path: str | Path) -> None:
        """Write the fitted detector as one safetensors file, whole or not at all.

        It holds every statistic and the frozen network's weights; of a module of your own, its fingerprint.

        Raises
        ------
        RuntimeError
            Before `fit`.
        FileNotFoundError
            Where the folder is missing.
        """
        self._must_be_fitted()
        tensors = {k: v for k, v in self.state_dict().items() if not self._may_be_missing(k)}
        about = {
            "format": FORMAT, "method": type(self).__name__, "frozen": self.frozen_name,
            "fingerprint": self._fingerprint(), "config": self.config(),
        }  # fmt: skip
        write_tensors(Path(path), tensors, about)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", **own: nn.Module) -> Self:
        """Read a detector that `save` wrote.

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
            Names the file where it is of another method or module, or is not adlib's.
        FileNotFoundError
            Where there is none.
        """
        path = Path(path)
        frozen = next(iter(inspect.signature(cls).parameters))
        if own.keys() - {frozen}:
            raise TypeError(f"load() got {', '.join(own)}: expected {frozen}= alone, and only for a module of your own")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected one that {cls.__name__}.save wrote")
        about, tensors = read_tensors(path)
        if about.get("method") != cls.__name__:
            raise ValueError(f"{path}: expected a {cls.__name__} saved by adlib, found {about.get('method', 'none')}")
        if about.get("format") != FORMAT:
            raise ValueError(f"{path}: has the file format {about.get('format')}, expected {FORMAT}: another version "
                             "of adlib wrote it; fit and save the detector again, or install that version")
        if about["frozen"] is None and not own:
            raise ValueError(f"{path}: was fitted with a module of your own: pass it as {frozen}=")
        if about["frozen"] is not None and own:
            raise ValueError(f"{path}: holds its own {frozen} {about['frozen']}: pass none")
        make: Any = cls  # every method's constructor has `pretrained`
        detector = make(own.get(frozen, about["frozen"]), pretrained=False, device=device, **about["config"])
        if detector._fingerprint() != about["fingerprint"]:
            raise ValueError(f"{path}: the {frozen} given has other weights than the one it was fitted with")
        detector._restore(tensors, path)
        return detector

    def _fingerprint(self) -> str | None:
        return None if self.frozen_name else fingerprint(self.frozen)

    def _may_be_missing(self, name: str) -> bool:
        """Whether a file need not hold this entry of `state_dict`: counters, and a module of the user's own."""
        place = next(n for n, module in self.named_modules() if module is self.frozen)
        return name.endswith("num_batches_tracked") or (self.frozen_name is None and name.startswith(f"{place}."))

    def _restore(self, tensors: dict[str, Tensor], path: Path) -> None:
        own = [name for name in self.state_dict() if not self._may_be_missing(name)]
        if missing := sorted(set(own) - tensors.keys()):
            raise ValueError(f"{path}: lacks {missing[0]} and {len(missing) - 1} more; save the detector again")
        for name, buffer in list(self.named_buffers()):
            if name in tensors and buffer.shape != tensors[name].shape:  # what fit makes has no size yet
                self.get_submodule(name.rpartition(".")[0]).register_buffer(name.rpartition(".")[2], tensors[name])
        try:
            self.load_state_dict(tensors, strict=False)
        except RuntimeError as error:
            raise ValueError(f"{path}: does not fit the detector it names ({error})") from None
        self.to(self.device)


def _must_be_apart(train: list[Sample], validation: list[Sample]) -> None:
    """Refuse images, or parts, that are on both sides: their scores would be too low for a threshold."""
    files = {s.path for s in train if not s.path.startswith("image[")}
    groups = {s.group for s in train if s.group is not None}
    for sample in validation:
        if sample.path in files:
            raise ValueError(f"{sample.path}: is in train and in validation; see datasets.hold_out")
        if sample.group in groups:
            raise ValueError(f"{sample.path}: its group {sample.group} is also in train; see datasets.hold_out")


def readable_bytes(count: float) -> str:
    """123456789 as "123 MB"."""
    power = min(3, int(math.log10(max(count, 1)) // 3))
    return f"{count / 1000**power:.3g} {['B', 'kB', 'MB', 'GB'][power]}"
