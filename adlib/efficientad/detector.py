"""EfficientAD: a student that follows a teacher, and an autoencoder, on normal images only.

Source: Batzner, Heckler, König, EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies,
WACV 2024. Its authors published no code; "the reference" is nelson1425/EfficientAD.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adlib.backbones import fingerprint, normalised
from adlib.checks import flag, number, whole
from adlib.detector import Detector, readable_bytes
from adlib.efficientad.distillation import channel_statistics
from adlib.efficientad.networks import DRAWS, FIELD, PDN, SMALLEST, STRIDE, AutoEncoder, load_teacher
from adlib.efficientad.penalty_images import choose_penalty_images
from adlib.efficientad.training import Networks, check_options, train_networks, wide
from adlib.receptive_field import ReceptiveField
from adlib.samples import Sample
from adlib.training import precision

SHIPPED_TEACHER = "adlib_pdn_s_quarter"  # the full "adlib_pdn_s" takes ten times as long: for GPUs
WARM = 4  # `extend` takes so many times fewer steps than `fit`
QUANTILES = (0.9, 0.995)  # of Q_0.9 and Q_0.995 in equation (5.13)

# The paper's settings. Its teacher, distilled from a WideResNet-101 on ImageNet, is not shipped: `read_teacher` reads
# the reference's. Its penalty images are ImageNet's: `penalty_images=` takes any folder of photographs.
PAPER = {"teacher": "adlib_pdn_s", "steps": 70_000, "images_per_step": 1, "learning_rate": 1e-4, "decay": "step",
         "autoencoder_draw": "torch", "image_size": 256}  # fmt: skip

# ---------------------------------------------------------------------- the maps


def difference_map(a: Tensor, b: Tensor) -> Tensor:
    """The mean over the channels of (a − b)². Equation (5.12). M_ST is that of T̂ and S, M_AE that of A and S′.

    Parameters
    ----------
    a, b : Tensor (B, C, h, w)

    Returns
    -------
    Tensor (B, h, w)
    """
    return (wide(a) - wide(b)).square().mean(1)


def map_quantiles(maps: Sequence[Tensor] | Tensor, quantiles: tuple[float, float] = QUANTILES) -> Tensor:
    """Q_0.9 and Q_0.995 over all cells of all maps of held-out normal images, linear between two values.

    Of any number of cells: many releases of torch.quantile refuse more than 2²⁴.

    Parameters
    ----------
    maps : Tensor (B, h, w), or several such
        Before any border is added to them.
    quantiles : (float, float)

    Returns
    -------
    Tensor (2,)

    Raises
    ------
    ValueError
        Where there is no map, or the second quantile is not above the first.
    """
    values = torch.cat([m.flatten().cpu() for m in maps]).double().numpy() if len(maps) else np.empty(0)
    if not len(values):
        raise ValueError("no map of a held-out normal image: expected at least one, to say what is usual")
    low, high = np.quantile(values, quantiles)
    if not high > low:
        raise ValueError(f"the maps of the {len(maps)} held-out normal images have the same {quantiles[0]:g} and "
                         f"{quantiles[1]:g} quantile, {low:.3g}: expected images that differ; hold out "
                         "others. With checkpoint=, the training need not be repeated")
    return torch.tensor([low, high], dtype=torch.float32)


def normalise_map(maps: Tensor, quantiles: Tensor) -> Tensor:
    """0.1·(M − Q_0.9)/(Q_0.995 − Q_0.9) of maps (B, h, w): Q_0.9 becomes 0, Q_0.995 becomes 0.1. Equation (5.13)."""
    return 0.1 * (maps - quantiles[0]) / (quantiles[1] - quantiles[0])


def combine_maps(student_map: Tensor, autoencoder_map: Tensor, quantiles: Tensor) -> Tensor:
    """M = ½·M̂_ST + ½·M̂_AE. Equation (5.14); the image score is its largest value, (5.15).

    Parameters
    ----------
    student_map, autoencoder_map : Tensor (B, h, w)
    quantiles : Tensor (2, 2)
        Those of M_ST first. Without them, the map with the larger numbers would drown the other.

    Returns
    -------
    Tensor (B, h, w)
    """
    return (normalise_map(student_map, quantiles[0]) + normalise_map(autoencoder_map, quantiles[1])) / 2


def with_border(maps: Tensor, image_size: tuple[int, int], padding: bool) -> Tensor:
    """The outermost cells are repeated where a PDN without padding has none.

    A cell stands for the middle of its 33×33 pixels, so 16 pixels on each side have no cell of their own. Yet the
    outermost cells have seen them, so their value is the best that is known there. Zeros, as in the reference, would
    say "more anomalous than nine tenths of the normal pixels". Enlarged to the image, a map lies 1.5 pixels too far to
    the right and down, as in the reference.

    Parameters
    ----------
    maps : Tensor (B, h, w)
    image_size : (H, W)
    padding : bool
        Of the PDN; with it, nothing is missing.

    Returns
    -------
    Tensor (B, H/4, W/4)
    """
    if padding:
        return maps
    missing = [pixels // STRIDE - cells - 4 for pixels, cells in zip(image_size, maps.shape[-2:], strict=True)]
    return F.pad(maps[:, None], (4, missing[1], 4, missing[0]), mode="replicate")[:, 0]


# ---------------------------------------------------------------------- the detector


class EfficientAD(Detector):
    """Detects where a student fails to follow its teacher, or an autoencoder its student.

    `fit`, `predict`, `save` and `load` as in `Detector`; where `fit` gets no `validation`, it holds out a tenth of
    `train` for the quantiles.

    The maps are not smoothed, as in the paper. `normal_scores` come from the same held-out images as the quantiles, so
    the bound of `adlib.threshold` on false alarms holds only about; keep images apart for an exact one.

    Parameters
    ----------
    teacher : str or PDN
        "adlib_pdn_s_quarter" (shipped, no download; for machines without a GPU), "adlib_pdn_s" (shipped, the paper's
        layers), or a `PDN` such as `adlib.efficientad.distillation.distill` or, for the reference's weights,
        `read_teacher` gives. The student takes its size, width and padding.
    autoencoder_width, latent, autoencoder_draw
        Of the `AutoEncoder`: its width, in (0, 8], its latent, 1 to 4,096, and its draw.
    steps, images_per_step, p_hard, detach_autoencoder, learning_rate, decay, bf16
        See `train_networks`.
    penalty_images : images, optional
        Images of anything but the product for the penalty (5.7): what `as_samples` takes, at best photographs. None
        takes pictures that the package draws. False leaves the penalty out, with a warning. It is not saved.
    image_size : int or (h, w)
        At least 64; the default finds coarse defects and wrong combinations, 256 finer ones in four times as long.
    max_memory : float
        Bytes that the training images may take.
    checkpoint : path, optional
        A file that the training writes to and goes on from, see `adlib.training.Training`.
    smoothing, batch_size, device, seed
        As in `Detector`.
    pretrained : bool
        False gives a named teacher random weights.

    Attributes
    ----------
    history : dict of str to list of float
        The losses, after `fit`.
    mean, std : Tensor (1, C, 1, 1)
        μ and σ of the teacher's channels, equation (5.2).
    quantiles : Tensor (2, 2)
        Q_0.9 and Q_0.995 of M_ST, then of M_AE.

    Raises
    ------
    ValueError
        For an argument out of its range, which it names.

    References
    ----------
    Batzner et al. 2024. Fewer steps of two images, a larger learning rate with cosine decay, 128 pixels and the narrow
    teacher are ours, so that it trains on a CPU in ten minutes; chapter 5 measures this form. `PAPER` has the paper's
    settings.
    """

    SIDE, LEAST_SIDE = 128, SMALLEST
    CALIBRATES, LEARNT = True, ("quantiles",)

    mean: Tensor
    std: Tensor
    quantiles: Tensor

    def __init__(
        self,
        teacher: str | PDN = SHIPPED_TEACHER,
        *,
        autoencoder_width: float = 1.0,
        latent: int = 64,
        autoencoder_draw: str = "he",
        steps: int = 2_500,
        images_per_step: int = 2,
        p_hard: float = 0.999,
        detach_autoencoder: bool = False,
        learning_rate: float = 1e-3,
        decay: str = "cosine",
        penalty_images: object = None,
        bf16: bool = False,
        image_size: int | tuple[int, int] | None = None,
        smoothing: float = 0.0,
        max_memory: float = 8e9,
        checkpoint: str | Path | None = None,
        batch_size: int = 16,
        device: str = "auto",
        seed: int = 0,
        pretrained: bool = True,
    ) -> None:
        super().__init__(teacher, image_size=image_size, smoothing=smoothing, batch_size=batch_size, device=device,
                         seed=seed)
        self.teacher = load_teacher(teacher, pretrained=pretrained, seed=self.seed)
        # Bounded, so that a file's networks fit into memory.
        self.autoencoder_width = number("autoencoder_width", autoencoder_width, "(0, 8]")
        self.latent = whole("latent", latent, most=4096)
        if autoencoder_draw not in DRAWS:
            raise ValueError(f"autoencoder_draw = {autoencoder_draw!r}: expected one of {', '.join(DRAWS)}")
        self.autoencoder_draw = autoencoder_draw
        self.steps, self.images_per_step, self.p_hard = steps, images_per_step, p_hard
        self.learning_rate, self.decay = learning_rate, decay
        self.detach_autoencoder, self.bf16 = flag("detach_autoencoder", detach_autoencoder), flag("bf16", bf16)
        self.max_memory = number("max_memory", max_memory, "(0, inf]")
        self.penalty_images, self.checkpoint = penalty_images, checkpoint
        check_options(**self.training_options)
        self._penalty_samples: list[Sample] | None = None
        self.history: dict[str, list[float]] = {}
        self._new_networks()
        channels = self.teacher.out_channels
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))  # μ and σ of equation (5.2)
        self.register_buffer("std", torch.ones(1, channels, 1, 1))
        self.register_buffer("quantiles", torch.empty(0, 2))  # (2, 2), of M_ST and of M_AE

    def _new_networks(self) -> None:
        """Student and autoencoder with new weights, drawn from the seed."""
        pdn = self.teacher
        student = PDN(**pdn.config() | {"out_channels": 2 * pdn.out_channels}, seed=self.seed)
        autoencoder = AutoEncoder(pdn.out_channels, self.image_size, pdn.grid(self.image_size), seed=self.seed,
                                  width=self.autoencoder_width, latent=self.latent,
                                  draw=self.autoencoder_draw)  # fmt: skip
        self.student = student.to(self.device, memory_format=torch.channels_last).eval()
        self.autoencoder = autoencoder.to(self.device, memory_format=torch.channels_last).eval()

    @property
    def frozen(self) -> PDN:
        return self.teacher

    @property
    def field(self) -> ReceptiveField:
        """Of teacher and student. The autoencoder sees the whole picture, and of that only what the region leaves."""
        padding = 16 if self.teacher.padding else 0
        return ReceptiveField(FIELD, STRIDE, -padding)

    @property
    def networks(self) -> Networks:
        """Teacher, its statistics, student and autoencoder."""
        return Networks(self.teacher, self.mean, self.std, self.student, self.autoencoder)

    @property
    def training_options(self) -> dict[str, Any]:
        """The arguments that go to `train_networks` as they are."""
        names = "steps images_per_step p_hard detach_autoencoder learning_rate decay bf16".split()
        return {name: getattr(self, name) for name in names}

    # ------------------------------------------------------------------ training

    def _plan(self, count: int) -> str:
        needed = count * 3 * math.prod(self.image_size) * 2  # float16
        if needed > self.max_memory:
            raise ValueError(f"{count} training images need {readable_bytes(needed)}, max_memory is "
                             f"{readable_bytes(self.max_memory)}: raise it, or use fewer or smaller images")
        self._penalty_samples = choose_penalty_images(self.penalty_images, self.image_size, self.seed)
        return f"images, {readable_bytes(needed)} in memory"

    def _fit(self, batches: Iterator[Tensor], count: int) -> None:
        self.quantiles = torch.empty(0, 2)  # until the new ones are known, this detector is not fitted
        kept, penalty_images = self._kept(batches, count), self._penalty_samples
        about = {"images": hashlib.sha256(kept.numpy().data).hexdigest(),
                 "penalty_images": "drawn" if self.penalty_images is None
                 else [s.path for s in penalty_images or ()][:1000],
                 "teacher": fingerprint(self.teacher), "latent": self.latent,
                 "autoencoder_width": self.autoencoder_width, "autoencoder_draw": self.autoencoder_draw}  # fmt: skip
        parts = kept.split(self.batch_size)
        cells = self.cells(self.teacher.grid(self.image_size))
        features = (self.teacher(normalised(part.to(self.device, torch.float32))) for part in parts)
        self.mean, self.std = channel_statistics(features if cells is None else map(cells.of, features))
        self.history = {}
        self._new_networks()
        train_networks(self.networks, kept, penalty_images, seed=self.seed, about=about, checkpoint=self.checkpoint,
                       history=self.history, cells=cells, **self.training_options)

    def _extend(self, samples: list[Sample]) -> None:
        """Go on with copies of both networks, for a quarter of the steps, on old and new images; μ and σ stay."""
        kept = self._kept((batch for batch, _, _ in self._read(samples, self.failures, "extend")), len(samples))
        self.student, self.autoencoder = copy.deepcopy(self.student), copy.deepcopy(self.autoencoder)
        self.history = {}
        train_networks(self.networks, kept, self._penalty_samples, seed=self.seed, history=self.history,
                       cells=self.cells(self.teacher.grid(self.image_size)),
                       **self.training_options | {"steps": -(-self.steps // WARM)})

    def _kept(self, batches: Iterator[Tensor], count: int) -> Tensor:
        """All images that could be read (n, 3, H, W), float16."""
        kept, filled = torch.empty(count, 3, *self.image_size, dtype=torch.float16), 0
        for batch in batches:
            kept[filled : filled + len(batch)] = batch.cpu()
            filled += len(batch)
        if not filled:
            raise ValueError(f"none of the {count} training images could be read: {list(self.failures.values())[:3]}")
        return kept[:filled]

    def _calibrate(self, batches: Iterator[Tensor]) -> None:
        maps = [[self._seen(m) for m in self.both_maps(batch)] for batch in batches]
        self.quantiles = torch.stack([map_quantiles(m) for m in zip(*maps, strict=True)]).to(self.device)

    def _seen(self, maps: Tensor) -> Tensor:
        """Of maps (B, h, w), the cells that see the region (B, m, 1); without a region, the maps."""
        cells = self.cells((maps.shape[-2], maps.shape[-1]))
        return maps if cells is None else cells.of(maps[:, None])[:, 0]

    # ------------------------------------------------------------------ scoring

    def both_maps(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """M_ST and M_AE (B, h, w) of a batch (B, 3, H, W) in [0, 1], as they are, without a border. Equation (5.12).

        Raises
        ------
        ValueError
            Where the images have not the size that this detector was made for.
        """
        if tuple(batch.shape[-2:]) != self.image_size:
            raise ValueError(f"images of {tuple(batch.shape[-2:])} pixels: expected image_size = {self.image_size}")
        x, channels = normalised(batch), self.mean.shape[1]
        networks = self.networks
        with precision(batch.device, self.bf16):
            teacher, student = networks.normalised_teacher(x), self.student(x)
            autoencoder = self.autoencoder(x)
        return (difference_map(teacher, student[:, :channels]), difference_map(autoencoder, student[:, channels:]))

    def score(self, looked: Tensor) -> tuple[Tensor, Tensor]:
        """Image scores (B,), equation (5.15), and the combined map with its border (B, H/4, W/4), equation (5.14)."""
        combined = combine_maps(*self.both_maps(looked), self.quantiles)  # (B, h, w)
        grid, scores = (combined.shape[-2], combined.shape[-1]), self._seen(combined).amax((1, 2))
        if (cells := self.cells(grid)) is not None:
            combined = cells.spread(self._seen(combined)[..., 0], grid)
        return scores, with_border(combined, self.image_size, self.student.padding)

    def must_give_scores(self) -> None:
        """As `Detector.must_give_scores`; also the quantiles must be two pairs, the second value above the first."""
        if len(self.quantiles) and not (
            self.quantiles.shape == (2, 2) and bool((self.quantiles[:, 1] > self.quantiles[:, 0]).all())
        ):
            raise ValueError("the quantiles of the maps are not two pairs, the second value above the first")
        super().must_give_scores()
