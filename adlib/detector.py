"""What every detector shares: reading images, predicting, full-size maps, saving and loading."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from adlib.backbones import fingerprint, load_backbone
from adlib.features import PatchFeatures
from adlib.files import read_tensors, write_tensors
from adlib.images import ImageError, resize_image
from adlib.samples import Sample, as_samples

BACKBONE = "features.backbone."  # where the backbone's weights stand among a detector's


def pick_device(device: str = "auto") -> torch.device:
    """"auto" is CUDA if there is one, else MPS, else the CPU; any other name is taken as it is."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def gaussian_smooth(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, H, W) filtered with a Gaussian of `sigma` pixels, cut at 4σ; the border value goes on outside."""
    if sigma <= 0:
        return maps
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-offsets.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = F.pad(maps[:, None], (radius, radius, radius, radius), mode="replicate")  # (B, 1, H + 2r, W + 2r)
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def full_size_maps(grids: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Patch scores (B, h, w) to anomaly maps (B, H, W): bilinear upsampling, then a Gaussian. Equation (2.16)."""
    return gaussian_smooth(F.interpolate(grids[:, None], size, mode="bilinear", align_corners=False)[:, 0], sigma)


def spread(scores: Tensor, stride: int, grid: tuple[int, int]) -> Tensor:
    """Patch scores (B, h', w') of every `stride`-th cell to all cells (B, h*, w*), bilinear in between.

    Cell i·stride keeps its score. Enlarging the small grid as it is would shift the map by half a stride.
    """
    if stride == 1:
        return scores
    size = [(n - 1) * stride + 1 for n in scores.shape[-2:]]
    x = F.interpolate(scores[:, None], size, mode="bilinear", align_corners=True)
    return F.pad(x, (0, grid[1] - size[1], 0, grid[0] - size[0]), mode="replicate")[:, 0]


class AnomalyMaps(Sequence):
    """Anomaly maps, each (H_i, W_i) float32 at its image's own size, computed when asked for."""

    def __init__(self, grids: Tensor, image_size: tuple[int, int], sigma: float, sizes: list[tuple[int, int]]) -> None:
        self.grids, self.image_size, self.sigma, self.sizes = grids, image_size, sigma, sizes

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        working = full_size_maps(self.grids[i][None], self.image_size, self.sigma)
        if self.sizes[i] != self.image_size:
            working = F.interpolate(working[None], self.sizes[i], mode="bilinear", align_corners=False)[0]
        return working[0].numpy()


@dataclass(frozen=True)
class Prediction:
    """What a detector says of N images.

    scores: (N,) float32, higher is more anomalous. samples: those N images, in the same order.
    maps: N arrays (H_i, W_i) at each image's own size, made when asked for.
    failures: {path: reason} of the images that could not be read; they have no score.
    """

    scores: np.ndarray
    samples: list[Sample]
    maps: AnomalyMaps
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def targets(self) -> np.ndarray:
        """The ground truth (N,), int64: 0 normal, 1 anomalous."""
        return np.array([sample.label for sample in self.samples], np.int64)

    @property
    def groups(self) -> list[str | None]:
        """The group of each image (N,), or None."""
        return [sample.group for sample in self.samples]

    def masks(self) -> list[np.ndarray | None]:
        """The N ground-truth masks (H_i, W_i), bool; None for an anomalous image that has none. Read now."""
        masks = [sample.mask for sample in self.samples]
        return [None if mask is None else mask.numpy() for mask in masks]


class Detector(nn.Module, ABC):
    """The common part of the detectors. A method adds `_fit`, `patch_scores` and its own buffers.

    backbone, layers, neighbourhood, stride: see `features.load_backbone` and `features.PatchFeatures`.
    image_size: images are resized to this (h, w), whole, without a crop; one number means a square.
    smoothing: σ of the Gaussian on the maps, in pixels of `image_size`.
    batch_size: images computed at a time. device: "auto", or a name that torch knows.
    seed: everything that is random comes from it.

    After `fit(…, validation=normals)`, `normal_scores` (n,) and `normal_peaks` (n,) hold the sorted
    image scores and map maxima of those held-out normal images, for `adlib.threshold`.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        *,
        layers: Sequence[str],
        neighbourhood: int,
        stride: int,
        image_size: int | tuple[int, int],
        smoothing: float,
        batch_size: int,
        device: str,
        seed: int,
        pretrained: bool,
    ) -> None:
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(self.image_size) != 2 or min(self.image_size) < 32:
            raise ValueError(f"image_size = {image_size}: expected (height, width) of at least 32 pixels")
        if smoothing < 0 or batch_size < 1:
            raise ValueError(f"smoothing = {smoothing}, batch_size = {batch_size}: expected >= 0 and >= 1")
        self.smoothing, self.batch_size, self.seed = float(smoothing), batch_size, seed
        self.backbone_name = backbone if isinstance(backbone, str) else None
        self.device = pick_device(device)
        self.features = PatchFeatures(
            load_backbone(backbone, layers, pretrained=pretrained, seed=seed, image_size=self.image_size),
            layers, neighbourhood, stride,
        )
        self.failures: dict[str, str] = {}
        self.register_buffer("normal_scores", torch.empty(0))
        self.register_buffer("normal_peaks", torch.empty(0))

    # ------------------------------------------------------------------ what a method adds

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
        """The constructor's arguments that are not the backbone, as JSON can hold them."""
        return {
            "layers": list(self.features.layers), "neighbourhood": self.features.neighbourhood,
            "stride": self.features.stride, "image_size": list(self.image_size), "smoothing": self.smoothing,
            "batch_size": self.batch_size, "seed": self.seed,
        }  # fmt: skip

    @property
    @abstractmethod
    def fitted(self) -> bool:
        """Whether `fit` or `load` has been called."""

    # ------------------------------------------------------------------ fit and predict

    def fit(self, train: object, *, validation: object | None = None) -> Self:
        """Learn what normal looks like.

        train: normal images only, as samples, a folder, paths, PIL images, arrays or tensors.
        validation: normal images that are not in `train`; their scores are kept for thresholds.
        An image that cannot be read is left out, with a warning, and named in `failures`.
        Raises ValueError for an image with label 1, or where no image can be read.
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
        """Scores and maps of images: samples, a folder, paths, PIL images, arrays or tensors.

        One image that cannot be read does not stop the others: it is named in `failures`.
        Raises RuntimeError before `fit`.
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
        return scores, full_size_maps(grids, tuple(batch.shape[-2:]), self.smoothing)

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
            return resize_image(image, self.image_size), tuple(image.shape[-2:])

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

        It holds every statistic and the backbone's weights; of a module of your own, its fingerprint.
        Raises RuntimeError before `fit` and FileNotFoundError where the folder is missing.
        """
        self._must_be_fitted()
        tensors = {k: v for k, v in self.state_dict().items() if not k.endswith("num_batches_tracked")}
        if self.backbone_name is None:
            tensors = {k: v for k, v in tensors.items() if not k.startswith(BACKBONE)}
        about = {
            "format": 1, "method": type(self).__name__, "backbone": self.backbone_name,
            "fingerprint": self._fingerprint(), "config": self.config(),
        }  # fmt: skip
        write_tensors(Path(path), tensors, about)

    @classmethod
    def load(cls, path: str | Path, *, backbone: nn.Module | None = None, device: str = "auto") -> Self:
        """Read a detector that `save` wrote.

        backbone: the module it was fitted with, needed only where that was your own; its fingerprint is checked.
        Raises ValueError naming the file where it is of another method or backbone, or is not adlib's;
        FileNotFoundError where there is none.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected one that {cls.__name__}.save wrote")
        about, tensors = read_tensors(path)
        if about.get("method") != cls.__name__ or about.get("format") != 1:
            raise ValueError(f"{path}: expected a {cls.__name__} saved by adlib, found {about.get('method', 'none')}")
        if about["backbone"] is None and backbone is None:
            raise ValueError(f"{path}: was fitted with a module of your own: pass it as backbone=")
        if about["backbone"] is not None and backbone is not None:
            raise ValueError(f"{path}: holds its own backbone {about['backbone']}: pass none")
        given = about["backbone"] if backbone is None else backbone
        detector = cls(given, pretrained=False, device=device, **about["config"])
        if detector._fingerprint() != about["fingerprint"]:
            raise ValueError(f"{path}: the backbone given has other weights than the one it was fitted with")
        detector._restore(tensors, path)
        return detector

    def _fingerprint(self) -> str | None:
        return None if self.backbone_name else fingerprint(self.features.backbone)

    def _restore(self, tensors: dict[str, Tensor], path: Path) -> None:
        own = self.state_dict()
        allowed = {k for k in own if k.endswith("num_batches_tracked")}
        if self.backbone_name is None:
            allowed |= {k for k in own if k.startswith(BACKBONE)}
        if missing := sorted(own.keys() - tensors.keys() - allowed):
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
