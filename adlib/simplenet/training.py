"""How SimpleNet is trained: the noise, the loss, the loop over the steps; and how a folded head goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adlib.checks import number, whole
from adlib.simplenet.head import ADAPTORS, Head
from adlib.training import Training, epoch_order

NOISE = 0.2  # ρ of equation (4.3), chosen on the factory alone: benchmarks/accuracy/simplenet.py --choices, chapter 4
RATES = (5e-4, 1e-3)  # learning rates of the adaptor and of the discriminator
DECAYS = ("cosine", "none")
CHUNK = 4_096  # rows in float64 at a time


def noise_level(features: Tensor, ratio: float = NOISE) -> float:
    """σ = ρ·σ_o, σ_o² the variance of the features over all patches, averaged over the channels. Equation (4.3).

    The rule is ours. The paper's σ = 0.015 belongs to its backbone, its pooling and its weights.

    Parameters
    ----------
    features : Tensor (…, C)
        The patch features of normal images.
    ratio : float
        ρ.

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
        See `adlib.simplenet.head.Head`.
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
