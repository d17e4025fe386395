"""Pictures and detectors for the tests of what must not go wrong in silence. No test lies here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.datasets import Sample
from adlib.detector import Detector
from adlib.efficientad.networks import PDN

SIDE = 64
METHODS = ("patchcore", pytest.param("simplenet", marks=pytest.mark.slow),
           pytest.param("efficientad", marks=pytest.mark.slow))  # fmt: skip


def detector(method: str = "patchcore", **options: Any) -> Detector:
    """The smallest of each method: a fit on ten pictures takes a fraction of a second."""
    common: dict[str, Any] = {"image_size": SIDE, "device": "cpu"} | options
    if common["image_size"] is None:  # the default, whatever it is
        del common["image_size"]
    if method == "patchcore":
        return PatchCore(**({"pretrained": False, "coreset_ratio": 0.2} | common))
    if method == "simplenet":
        return SimpleNet(**({"pretrained": False, "epochs": 2} | common))
    small: dict[str, Any] = {"steps": 4, "autoencoder_width": 0.1, "latent": 8}
    return EfficientAD(PDN(width=0.05, out_channels=6), **(small | common))


def loaded(fitted: Detector, folder: Path) -> Detector:
    """The detector after saving and loading."""
    path = folder / "saved.safetensors"
    fitted.save(path)
    own = {"teacher": PDN(width=0.05, out_channels=6)} if isinstance(fitted, EfficientAD) else {}
    return type(fitted).load(path, device="cpu", **own)


class Mean(Detector):
    """The stub: an image's score is the mean of its pixels, so that every score is known without a detector."""

    LEARNT = ("seen",)

    def __init__(
        self,
        own: nn.Module | None = None,
        *,
        image_size: Any = 32,
        smoothing: float = 0.0,
        batch_size: int = 16,
        device: str = "cpu",
        seed: int = 0,
        pretrained: bool = False,
    ) -> None:
        network = nn.Identity() if own is None else own
        super().__init__(network, image_size=image_size, smoothing=smoothing, batch_size=batch_size, device=device,
                         seed=seed)
        self.network = network
        self.register_buffer("seen", torch.zeros(0))

    @property
    def frozen(self) -> nn.Module:
        return self.network

    def _fit(self, batches: Any, count: int) -> None:
        total = sum(len(batch) for batch in batches)
        if not total:
            raise ValueError(f"none of the {count} training images could be read: {list(self.failures.values())[:3]}")
        self.seen = torch.tensor([float(total)])

    def score(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return batch.mean((1, 2, 3)), batch.mean(1)[:, ::4, ::4]


def picture(seed: int, height: int = SIDE, width: int = SIDE, *, defect: bool = False) -> np.ndarray:
    """A coloured part (height, width, 3), values 0 to 1, red above blue: a fine grain with a ring, and no range of its
    own to give it away. `defect` burns a bright square into the middle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - height / 2 - rng.uniform(-1, 1), x - width / 2 - rng.uniform(-1, 1)) / min(height, width)
    grey = 0.45 + 0.25 * (np.abs(radius - 0.3) < 0.08) + rng.normal(0, 0.02, (height, width))
    if defect:
        side = max(6, min(height, width) // 5)
        top, left = height // 2 - side // 2, width // 2 - side // 2
        grey[top : top + side, left : left + side] = 0.93
        grey[top : top + side : 2, left : left + side] = 0.05
    return np.clip(grey[..., None] * np.array([1.0, 0.8, 0.5]), 0, 1)


def eight(image: np.ndarray) -> np.ndarray:
    """Of values from 0 to 1, the 8-bit ones."""
    return (image * 255).round().astype(np.uint8)


def deep(image: np.ndarray, top: int = 4095) -> np.ndarray:
    """Of values from 0 to 1, grey ones of a camera whose full brightness is `top`, in 16 bits."""
    return (image.mean(2) * top).round().astype(np.uint16)


def write(folder: Path, arrays: dict[str, np.ndarray], **options: Any) -> Path:
    """One file for each name."""
    for name, array in arrays.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path, **options)
    return folder


def good_folder(folder: Path, count: int, *, first: int = 0, suffix: str = ".png", **shape: int) -> Path:
    """So many 8-bit pictures of good parts."""
    return write(folder, {f"g{i:03d}{suffix}": eight(picture(first + i, **shape)) for i in range(count)})


def counted(count: int, calls: list[int], **fields: Any) -> list[Sample]:
    """Samples that note in `calls` that they were read."""

    def read(index: int) -> torch.Tensor:
        calls.append(index)
        return torch.from_numpy(picture(index)).permute(2, 0, 1).float()

    return [Sample(0, "good", f"part{i:02d}.png", image_source=lambda i=i: read(i),
                   **{k: v[i] for k, v in fields.items()}) for i in range(count)]  # fmt: skip


def never_trained(monkeypatch: pytest.MonkeyPatch, made: Detector) -> Detector:
    """The detector, with a `_fit` that takes the images and then fails the test."""

    def fit(self: Detector, batches: Iterator[torch.Tensor], count: int) -> None:
        assert sum(len(batch) for batch in batches) <= count
        pytest.fail("the training began")

    monkeypatch.setattr(type(made), "_fit", fit)
    return made


def refused(made: Detector, source: object) -> str:
    """What is said where nothing of `source` may be scored: the failures, or the error."""
    try:
        prediction = made.predict(source)
    except ValueError as error:
        return str(error)
    assert len(prediction.scores) == 0, f"scored: {prediction.scores} for {[s.path for s in prediction.samples]}"
    assert prediction.failures
    return "; ".join([*prediction.failures, *prediction.failures.values()])


def close(monkeypatch: pytest.MonkeyPatch, folders: set[str]) -> None:
    """These folders may not be read: tests run as root, to whom nothing is closed."""
    for name in ("scandir", "listdir"):
        real = getattr(os, name)

        def ask(path: Any = ".", real: Any = real) -> Any:
            if not isinstance(path, int) and os.path.realpath(os.fsdecode(path)) in folders:
                raise PermissionError(13, "Permission denied", os.fsdecode(path))
            return real(path)

        monkeypatch.setattr(os, name, ask)


def run_script(code: str, *args: object, threads: int = 1, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """A program of its own, with this folder and the package to import from; killed where it hangs."""
    here = Path(__file__).parent
    env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    env |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here)])}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


def rewritten(path: Path, change: Any) -> None:
    """A detector's file with other contents and a right checksum, as an enemy or another program would write it."""
    from adlib.files import read_tensors, write_tensors

    about, tensors = read_tensors(path)
    about, tensors = json.loads(json.dumps(about)), dict(tensors)
    change(about, tensors)
    write_tensors(path, tensors, about)
