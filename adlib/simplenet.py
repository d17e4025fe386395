"""SimpleNet: a small classifier of patch features, taught by features of good parts and the same with noise added.

Source: Liu, Zhou, Xu, Wang, SimpleNet: A Simple Network for Image Anomaly Detection and Localization, CVPR 2023.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adlib.backbones import SHIPPED, fingerprint
from adlib.checks import flag, number, whole
from adlib.detector import Detector
from adlib.features import load_features, spread, to_rows
from adlib.samples import Sample
from adlib.scratch import plan, room
from adlib.training import Training, epoch_order

SLOPE = 0.2  # of the leaky ReLU, below zero
NOISE = 0.2  # ρ of equation (4.3), chosen on the factory alone: benchmarks/accuracy/simplenet.py --choices, chapter 4
RATES = (5e-4, 1e-3)  # learning rates of the adaptor and of the discriminator
ADAPTORS = ("none", "linear", "mlp")
DECAYS = ("cosine", "none")
WARM = 4  # `extend` takes so many times fewer epochs than `fit`
CHUNK = 4_096  # rows in float64 at a time

# ---------------------------------------------------------------------- the parts


def noise_level(features: Tensor, ratio: float = NOISE) -> float:
    """σ = ρ·σ_o, σ_o² the variance of the features over all patches, averaged over the channels. Equation (4.3).

    The rule is ours. The paper's σ = 0.015 belongs to its backbone, its pooling and its weights.

    Parameters
    ----------
    features : Tensor (…, C)
        The patch features of normal images.
    ratio : float
        ρ.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        Where they are not finite, or do not vary: then nothing says what a small change is.
    """
    rows = features.reshape(-1, features.shape[-1])
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    mean = sum((part.sum(0, dtype=torch.float64) for part in rows.split(CHUNK)), total) / len(rows)  # (C,)
    variance = sum(float((part.double() - mean).square().sum()) for part in rows.split(CHUNK)) / rows.numel()
    if not math.isfinite(variance):
        raise ValueError("some patch features are NaN or infinite: check the backbone's weights and the images")
    if not variance > 1e-12 * float(mean.square().mean()):  # below, it is rounding
        raise ValueError("the patch features of the training images are all alike, so the rule for the noise has no "
                         "scale; expected images that differ. Look at them, or give noise= as a number")
    return ratio * variance**0.5


class Head(nn.Module):
    """Adaptor and discriminator: patch features o (N, C) to D(q) (N,). Equations (4.1) and (4.4).

    The first layer has no bias: batch normalisation would take it out again.

    Parameters
    ----------
    channels : int
        C.
    adaptor : str
        "linear" is one fully connected layer G (the paper's), "none" is q = o, "mlp" two layers.
    hidden : int, optional
        Width of the discriminator, by default two thirds of C, as 1,024 for the paper's 1,536.
    adaptor_bias : bool
        The official code has one, the paper has none.
    seed : int
        Draws the weights (Xavier, normal).
    """

    def __init__(
        self, channels: int, *, adaptor: str = "linear", hidden: int | None = None, adaptor_bias: bool = False,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if adaptor not in ADAPTORS:
            raise ValueError(f"adaptor = {adaptor!r}: expected one of {', '.join(ADAPTORS)}")
        hidden = max(1, round(2 * channels / 3)) if hidden is None else hidden

        def layer() -> nn.Linear:
            return nn.Linear(channels, channels, bias=adaptor_bias)

        with torch.random.fork_rng(devices=[]):  # torch draws weights, which are replaced below
            self.adaptor = {"none": nn.Sequential, "linear": layer,
                            "mlp": lambda: nn.Sequential(layer(), nn.LeakyReLU(SLOPE), layer())}[adaptor]()
            self.first = nn.Linear(channels, hidden, bias=False)  # W₁
            self.norm = nn.BatchNorm1d(hidden)
            self.last = nn.Linear(hidden, 1, bias=False)  # w₂
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                deviation = (2 / (module.in_features + module.out_features)) ** 0.5
                module.weight.data = torch.randn(module.weight.shape, generator=generator) * deviation
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Features o (N, C) to D(q) (N,), which is high for normal ones."""
        return self._above(self.first(self.adaptor(features)))

    def forward_pair(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """D(q) and D(q + ε), each (N,), batch-normalised together. Equations (4.2) and (4.5).

        The first layer is linear, so W₁(q + ε) = W₁q + W₁ε. Forward these are two products either way; on the way back
        the gradient of q takes one in place of two.

        Parameters
        ----------
        features, noise : Tensor (N, C)
            o and ε.
        """
        clean = self.first(self.adaptor(features))  # (N, H)
        normal, noisy = self._above(torch.cat([clean, clean + self.first(noise)])).chunk(2)
        return normal, noisy

    def _above(self, hidden: Tensor) -> Tensor:
        return self.last(F.leaky_relu(self.norm(hidden), SLOPE))[:, 0]


def truncated_l1(normal: Tensor, noisy: Tensor, *, th_plus: float = 0.5, th_minus: float = -0.5) -> Tensor:
    """mean max(0, th⁺ − D(q)) + mean max(0, −th⁻ + D(q⁻)), a scalar. Equation (4.6); its slopes are (4.7), its
    least value over all functions D, for features that stay as they are, is the overlap (4.8).

    Parameters
    ----------
    normal : Tensor (N,)
        D(q), which should rise to th⁺.
    noisy : Tensor (M,)
        D(q⁻), which should fall to th⁻.
    th_plus, th_minus : float
        th⁺ and th⁻. With th⁻ = +0.5, as one can find it in print, the constant 0.5 costs nothing.

    Returns
    -------
    Tensor ()
        At least 0; any constant between the thresholds gives th⁺ − th⁻.

    References
    ----------
    Liu et al. 2023, Section 3.5.
    """
    return F.relu(th_plus - normal).mean() + F.relu(noisy - th_minus).mean()


# ---------------------------------------------------------------------- training


def train_head(
    features: Tensor,
    *,
    epochs: int = 20,
    noise: float | None = None,
    adaptor: str = "linear",
    adaptor_bias: bool = False,
    hidden: int | None = None,
    images_per_step: int = 4,
    loss: Callable[[Tensor, Tensor], Tensor] = truncated_l1,
    learning_rates: tuple[float, float] = RATES,
    adamw: bool = False,
    decay: str = "cosine",
    seed: int = 0,
    device: str | torch.device = "cpu",
    checkpoint: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    history: dict[str, list[float]] | None = None,
    after_epoch: Callable[[int, Head], None] | None = None,
    head: Head | None = None,
) -> Head:
    """Teach a `Head` to tell patch features of normal images from the same features with noise added, (4.2).

    Parameters
    ----------
    features : Tensor (n, P, C)
        Of n normal images with P patches each.
    epochs : int
    noise : float, optional
        σ; None takes `noise_level` of the features.
    adaptor, adaptor_bias, hidden
        See `Head`.
    images_per_step : int
        Whole images, in an order that is drawn anew for each epoch; the paper has 4, the official code 8.
    loss : callable
        From D(q) (N,) and D(q⁻) (N,) to a scalar.
    learning_rates : (float, float)
        Of the adaptor and of the discriminator, for Adam with weight decay 1e-5.
    adamw : bool
        AdamW for the adaptor, with weight decay 1e-2, as in the official code.
    decay : str
        "cosine" lets both rates fall to 0 over the run; "none", as in the paper, keeps them.
    seed, device
        As in `adlib.detector.Detector`.
    checkpoint, about
        See `adlib.training.Training`.
    history : dict, optional
        Gets "loss", "normal" and "noisy", the means of D(q) and D(q⁻), one a step.
    after_epoch : callable, optional
        Is shown the number of the epoch, from 1, and the head; it is for watching.
    head : Head, optional
        Goes on with this one, in place; None makes a new one of `adaptor`, `adaptor_bias` and `hidden`.

    Returns
    -------
    Head
        In evaluation mode, as it is after the last epoch, whatever was seen.

    Raises
    ------
    ValueError
        For features of another shape, or options out of range.

    References
    ----------
    Liu et al. 2023, Section 3.5.
    """
    if features.ndim != 3 or not features.numel():
        raise ValueError(f"features {tuple(features.shape)}: expected (images, patches, channels), none of them 0")
    check_options(epochs=epochs, images_per_step=images_per_step, learning_rates=learning_rates, decay=decay,
                  adaptor=adaptor, hidden=hidden)
    sigma = noise_level(features) if noise is None else float(noise)
    if not 0 < sigma < math.inf:
        raise ValueError(f"noise = {noise}: expected a positive number, the deviation σ of the noise")
    count, _, channels = features.shape
    if head is None:
        head = Head(channels, adaptor=adaptor, hidden=hidden, adaptor_bias=adaptor_bias, seed=seed)
    head = head.to(device).train()
    optimizer = torch.optim.Adam(_groups(head, learning_rates, adamw), weight_decay=1e-5)
    if adamw:
        optimizer.register_step_pre_hook(_shrink)
    generator = torch.Generator(device).manual_seed(seed)  # of the noise
    per_epoch = -(-count // images_per_step)
    steps = epochs * per_epoch
    settings = {"method": "SimpleNet", "features": list(features.shape), "noise": f"{sigma:.4g}", "adaptor": adaptor,
                "adaptor_bias": adaptor_bias, "hidden": head.first.out_features, "images_per_step": images_per_step,
                "loss": getattr(loss, "__name__", type(loss).__name__), "decay": decay, "adamw": adamw, "seed": seed,
                **(about or {})}  # fmt: skip
    run = Training(steps, {"head": head}, optimizer, generators={"noise": generator}, checkpoint=checkpoint,
                   schedule=(lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))) if decay == "cosine" else None,
                   about=settings, name="SimpleNet")  # fmt: skip
    for step in run:
        epoch, place = divmod(step, per_epoch)
        chosen = epoch_order(count, seed, epoch)[place * images_per_step : (place + 1) * images_per_step]
        rows = features[chosen].to(device).flatten(0, 1)  # (N, C)
        epsilon = torch.randn(rows.shape, generator=generator, device=device).mul_(sigma)  # (4.2)
        with torch.enable_grad():
            normal, noisy = head.forward_pair(rows, epsilon)
            run.update(loss(normal, noisy), normal=normal.mean(), noisy=noisy.mean())
        if after_epoch is not None and place == per_epoch - 1:
            after_epoch(epoch + 1, head.eval())
            head.train()
    if history is not None:
        history.update(run.history)
    return head.eval()


def check_options(
    *, epochs: int, images_per_step: int, learning_rates: tuple[float, float], decay: str, adaptor: str,
    hidden: int | None, **_: Any,
) -> None:  # fmt: skip
    """Raise ValueError for options that `train_head` could not follow, before any work is done."""
    whole("epochs", epochs)
    whole("images_per_step", images_per_step)
    if not isinstance(learning_rates, (tuple, list)) or len(learning_rates) != 2:
        raise ValueError(f"learning_rates = {learning_rates}: expected two positive numbers, such as {RATES}, for the "
                         "adaptor and the discriminator")
    for rate in learning_rates:
        number("learning_rates", rate, "(0, inf)")
    if decay not in DECAYS or adaptor not in ADAPTORS:
        raise ValueError(f"decay = {decay!r}, adaptor = {adaptor!r}: expected one of {', '.join(DECAYS)}, and one of "
                         f"{', '.join(ADAPTORS)}")
    if hidden is not None:
        whole("hidden", hidden, most=65_536)


def _groups(head: Head, rates: tuple[float, float], adamw: bool) -> list[dict[str, Any]]:
    """The parameters of the adaptor, where it has some, and of the discriminator, with their learning rates."""
    adaptor = list(head.adaptor.parameters())
    rest = [p for name, p in head.named_parameters() if not name.startswith("adaptor.")]
    first = {"params": adaptor, "lr": rates[0]} | ({"weight_decay": 0.0} if adamw else {})
    return ([first] if adaptor else []) + [{"params": rest, "lr": rates[1]}]


@torch.no_grad()
def _shrink(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Before each step, what AdamW does beyond Adam: shrink the adaptor, here the group without weight decay."""
    for group in optimizer.param_groups:
        if not group["weight_decay"]:
            for parameter in group["params"]:
                parameter.mul_(1 - 0.01 * group["lr"])


# ---------------------------------------------------------------------- scoring


def fold(head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """Adaptor, first layer and batch normalisation as one layer, for evaluation. Equation (4.10).

    Returns
    -------
    (Tensor (H, C), Tensor (H,), Tensor (H,))
        W, b and w₂, so that D(q) = w₂·LeakyReLU(W o + b).

    Raises
    ------
    ValueError
        For an adaptor that is not linear.
    """
    if not isinstance(head.adaptor, nn.Linear) and len(head.adaptor):
        raise ValueError("the adaptor has a non-linear layer: expected 'linear' or 'none', which can be folded")
    norm = head.norm
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (H,)
    weight, shift = head.first.weight, -norm.running_mean
    if isinstance(head.adaptor, nn.Linear):
        if head.adaptor.bias is not None:
            shift = shift + weight @ head.adaptor.bias
        weight = weight @ head.adaptor.weight
    return (scale[:, None] * weight).detach(), (scale * shift + norm.bias).detach(), head.last.weight[0].detach()


@torch.no_grad()
def unfold(weight: Tensor, bias: Tensor, last: Tensor, features: Tensor, sigma: float) -> Head:
    """A `Head` without adaptor that gives what the folded layers (4.10) give, to go on training from.

    Its batch normalisation holds mean and variance of W o over the features and their noisy copies, as a training step
    sees them, and undoes itself: so the first step starts from the same function.

    Parameters
    ----------
    weight, bias, last : Tensor (H, C), (H,), (H,)
        W, b and w₂.
    features : Tensor (n, P, C)
        To train on.
    sigma : float
        σ of the noise.
    """
    head = Head(weight.shape[1], adaptor="none", hidden=len(weight)).to(weight.device)
    total, squares, count = torch.zeros_like(bias).double(), torch.zeros_like(bias).double(), 0
    for part in features.flatten(0, 1).split(CHUNK):
        hidden = F.linear(part.to(weight.device), weight).double()  # (N, H)
        total, squares, count = total + hidden.sum(0), squares + hidden.square().sum(0), count + len(hidden)
    mean = total / count
    variance = squares / count - mean.square() + sigma**2 / 2 * weight.double().square().sum(1)  # half have noise
    assert head.norm.running_mean is not None and head.norm.running_var is not None
    head.norm.running_mean.copy_(mean)
    head.norm.running_var.copy_(variance)
    head.norm.weight.copy_((variance + head.norm.eps).sqrt())
    head.norm.bias.copy_(mean + bias.double())
    head.first.weight.copy_(weight)
    head.last.weight.copy_(last[None])
    return head


def score_patches(features: Tensor, weight: Tensor, bias: Tensor, last: Tensor) -> Tensor:
    """s = −D(q) of patch features o (N, C), by the folded layers of `fold`: (N,). Equation (4.9)."""
    return -(F.leaky_relu(F.linear(features, weight, bias), SLOPE) @ last)


# ---------------------------------------------------------------------- the detector


class SimpleNet(Detector):
    """Detects what a small classifier takes for noise. `fit`, `predict`, `save` and `load` as in `Detector`.

    Parameters
    ----------
    backbone, layers, neighbourhood, stride, pooling
        The patch features, see `adlib.features.PatchFeatures`, equations (2.1) to (2.3).
    adaptor : str
        "linear" or "none".
    hidden, adaptor_bias
        See `Head`.
    noise : float, optional
        σ of the noise; None takes the rule of `noise_level`.
    noise_ratio : float
        ρ of that rule.
    epochs, images_per_step, learning_rates, adamw, decay
        See `train_head`.
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
