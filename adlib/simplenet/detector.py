"""The SimpleNet detector: patch features of good parts, a head that is trained on them, scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adlib.backbones import SHIPPED, fingerprint
from adlib.checks import flag, number
from adlib.detector import Detector
from adlib.features import load_features, spread, to_rows
from adlib.samples import Sample
from adlib.scratch import plan, room
from adlib.simplenet.head import fold, score_patches
from adlib.simplenet.training import NOISE, RATES, check_options, noise_level, train_head, unfold

WARM = 4  # `extend` takes so many times fewer epochs than `fit`


class SimpleNet(Detector):
    """Detects what a small classifier takes for noise. `fit`, `predict`, `save` and `load` as in `Detector`.

    Parameters
    ----------
    backbone, layers, neighbourhood, stride, pooling
        The patch features, see `adlib.features.PatchFeatures`, equations (2.1) to (2.3).
    adaptor : str
        "linear" or "none".
    hidden, adaptor_bias
        See `adlib.simplenet.head.Head`.
    noise : float, optional
        σ of the noise; None takes the rule of `adlib.simplenet.training.noise_level`.
    noise_ratio : float
        ρ of that rule.
    epochs, images_per_step, learning_rates, adamw, decay
        See `adlib.simplenet.training.train_head`.
    max_memory : float
        Bytes that the training features may take; more go to a temporary file. They are computed once.
    features_folder : path, optional
        Where that file lies, by default the system's folder. It has no name and goes with the process, even a killed
        one.
    checkpoint : path, optional
        A file that the training writes to and goes on from, see `adlib.training.Training`.
    image_size, resize, tiles, smoothing, batch_size, device, seed
        As in `Detector`.
    pretrained : bool
        False gives a named backbone random weights.

    Attributes
    ----------
    PAPER : dict
        The arguments for the configuration of the paper, as the official code runs it (its run.sh). The paper's text
        says 4 images a step, Adam for both, and no bias in the adaptor.
    history : dict of str to list of float
        The losses, after `fit`.
    weight, bias, last : Tensor (H, C), (H,), (H,)
        W, b and w₂ of equation (4.10).

    Raises
    ------
    ValueError
        For an argument out of its range, which it names.

    References
    ----------
    Liu et al. 2023. Cosine decay, wider noise and fewer epochs are ours; chapter 4 says why.
    """

    LEARNT = ("weight", "bias", "last")
    PAPER: ClassVar[dict[str, Any]] = {
        "backbone": "wide_resnet50_2", "resize": 329, "image_size": 288, "pooling": 1536, "hidden": 1024,
        "adaptor_bias": True, "noise": 0.015, "epochs": 160, "images_per_step": 8, "learning_rates": (1e-4, 2e-4),
        "adamw": True, "decay": "none",
    }  # fmt: skip

    weight: Tensor
    bias: Tensor
    last: Tensor

    def __init__(
        self,
        backbone: str | nn.Module = SHIPPED,
        *,
        layers: Sequence[str] = ("layer2", "layer3"),
        neighbourhood: int = 3,
        stride: int = 1,
        pooling: int | None = None,
        adaptor: str = "linear",
        adaptor_bias: bool = False,
        hidden: int | None = None,
        noise: float | None = None,
        noise_ratio: float = NOISE,
        epochs: int = 20,
        images_per_step: int = 4,
        learning_rates: tuple[float, float] = RATES,
        adamw: bool = False,
        decay: str = "cosine",
        image_size: int | tuple[int, int] | None = None,
        resize: int | None = None,
        tiles: int | None = None,
        smoothing: float = 4.0,
        max_memory: float = 8e9,
        features_folder: str | Path | None = None,
        checkpoint: str | Path | None = None,
        batch_size: int = 16,
        device: str = "auto",
        seed: int = 0,
        pretrained: bool = True,
    ) -> None:
        super().__init__(backbone, image_size=image_size, resize=resize, tiles=tiles, smoothing=smoothing,
                         batch_size=batch_size, device=device, seed=seed)
        self.features = load_features(backbone, layers, neighbourhood, stride, pooling, tiles,
                                      image_size=self.image_size, pretrained=pretrained, seed=self.seed)
        self.layers, self.neighbourhood = self.features.layers, self.features.neighbourhood
        self.stride, self.pooling = self.features.stride, self.features.pooling
        if adaptor == "mlp":
            raise ValueError("adaptor = 'mlp': expected 'linear' or 'none', which fold into the discriminator; "
                             "for two layers, use train_head")
        self.adaptor, self.adaptor_bias, self.hidden = adaptor, flag("adaptor_bias", adaptor_bias), hidden
        self.adamw = flag("adamw", adamw)
        self.epochs, self.images_per_step, self.decay = epochs, images_per_step, decay
        self.learning_rates = tuple(learning_rates) if isinstance(learning_rates, list) else learning_rates
        self.noise = None if noise is None else number("noise", noise, "(0, inf)")
        self.noise_ratio = number("noise_ratio", noise_ratio, "(0, inf)")
        self.max_memory = number("max_memory", max_memory, "(0, inf]")
        check_options(**self.training_options)
        self.features_folder, self.checkpoint = features_folder, checkpoint
        self.history: dict[str, list[float]] = {}
        self.register_buffer("weight", torch.empty(0, 0))  # W (H, C), b (H,), w₂ (H,) of equation (4.10)
        self.register_buffer("bias", torch.empty(0))
        self.register_buffer("last", torch.empty(0))

    frozen = property(lambda self: self.features.backbone)
    field = property(lambda self: self.features.field)
    step = property(lambda self: self.features.step)

    @property
    def training_options(self) -> dict[str, Any]:
        """The arguments that go to `train_head` as they are."""
        names = "adaptor adaptor_bias hidden epochs images_per_step learning_rates adamw decay".split()
        return {name: getattr(self, name) for name in names}

    # ------------------------------------------------------------------ training

    def memory_needed(self, images: int) -> int:
        """Bytes of the training features of so many images, in memory or on disk."""
        c, rows, columns = self.features.to(self.device).shape(self.image_size)
        return images * self.count_cells((rows, columns), self.stride) * c * 4

    def _plan(self, count: int) -> str:
        self.features.check_stride(self.image_size)
        return plan(self.memory_needed(count), count, self.max_memory, self.features_folder)

    def _patches(self, batch: Tensor) -> Tensor:
        """The patch features of a batch (B, P, C), of the P cells that see the region, or of all.

        With tiles, an image is so many strips (B·k, P/k, C) of at most a tile's cells each, so that a step of the
        training needs no more memory; the k − 1 patches that may be left over are left out.
        """
        cells = self.features.all_cells(batch)
        chosen = self.cells((cells.shape[-2], cells.shape[-1]), self.stride)
        rows = to_rows(cells[:, :, :: self.stride, :: self.stride], chosen).view(len(batch), -1, cells.shape[1])
        if self.tiles is None or self.field is None:
            return rows
        strips = -(-rows.shape[1] // max(1, self.tiles // self.field.stride // self.stride) ** 2)
        return rows[:, : rows.shape[1] // strips * strips].reshape(len(batch) * strips, -1, cells.shape[1])

    def _fit(self, batches: Iterator[Tensor], count: int) -> None:
        kept, images = self._kept(batches, count)
        about = {"images": images, "backbone": fingerprint(self.features.backbone),
                 "layers": list(self.layers), "neighbourhood": self.neighbourhood, "stride": self.stride,
                 "pooling": self.pooling}  # fmt: skip
        self._train(kept, None, about=about, checkpoint=self.checkpoint)

    def _extend(self, samples: list[Sample]) -> None:
        """Go on from the folded layers, for a quarter of the epochs, on old and new images."""
        batches = (batch for batch, _, _ in self._read(samples, self.failures, "extend"))
        kept, _ = self._kept(batches, len(samples))
        self._train(kept, self.weight, epochs=-(-self.epochs // WARM))

    def _train(self, kept: Tensor, weight: Tensor | None, **options: Any) -> None:
        """Train on features (n, P, C): a new head, or from the folded layers where their weight is given."""
        noise = noise_level(kept, self.noise_ratio) if self.noise is None else self.noise
        head = None if weight is None else unfold(weight, self.bias, self.last, kept, noise)
        self.history = {}
        head = train_head(kept, noise=noise, seed=self.seed, device=self.device, history=self.history, head=head,
                          **self.training_options | options)
        self.weight, self.bias, self.last = fold(head)

    def _kept(self, batches: Iterator[Tensor], count: int) -> tuple[Tensor, str]:
        """The features of all images (n, P, C), and a hash of the images."""
        images = hashlib.sha256()  # so that a checkpoint of other images is refused
        kept, filled = torch.empty(0), 0
        for batch in batches:
            images.update(batch.cpu().numpy().tobytes())
            features = self._patches(batch)
            if not bool(torch.isfinite(features).all()):
                raise ValueError("the backbone gave features that are not finite: check its weights and the images")
            if not filled:
                per_image = len(features) // len(batch)
                kept = room((count * per_image, *features.shape[1:]), self.max_memory, self.features_folder)
            kept[filled : filled + len(features)] = features.cpu()
            filled += len(features)
        if not filled:
            raise ValueError(f"none of the {count} training images could be read: {list(self.failures.values())[:3]}")
        return kept[:filled], images.hexdigest()

    # ------------------------------------------------------------------ scoring

    def look(self, batch: Tensor) -> Tensor:
        """Patch features of all cells (B, C, h*, w*), equation (2.2)."""
        return self.features.all_cells(batch)

    def score(self, looked: Tensor) -> tuple[Tensor, Tensor]:
        """Image scores (B,), the largest patch score of each, and patch scores (B, h*, w*), equation (4.9)."""
        grid = looked.shape[-2], looked.shape[-1]
        chosen = self.cells(grid, self.stride)
        rows = to_rows(looked[:, :, :: self.stride, :: self.stride], chosen)  # (B·h'·w', C), or of the chosen cells
        scores = score_patches(rows, self.weight, self.bias, self.last).view(looked.shape[0], -1)
        return scores.amax(1), spread(scores, self.stride, grid, chosen)
