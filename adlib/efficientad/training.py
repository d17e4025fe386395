"""How EfficientAD is trained: the losses of student and autoencoder, and the loop over the steps.

Source: Batzner, Heckler, König, EfficientAD, WACV 2024, Sections 3.2 and 3.3. Its authors published no code; "the
reference" is nelson1425/EfficientAD.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adlib.augment import color_jitter
from adlib.backbones import normalised
from adlib.checks import number, whole
from adlib.efficientad.networks import PDN, AutoEncoder
from adlib.efficientad.penalty_images import penalty_batch
from adlib.region import Cells
from adlib.samples import Sample
from adlib.training import Training, epoch_order, precision

DECAYS = ("step", "cosine", "none")

# ---------------------------------------------------------------------- the losses


def hard_feature_loss(teacher: Tensor, student: Tensor, p_hard: float = 0.999) -> Tensor:
    """L_hard: the mean of the largest squared differences of each image, then over the images. Equations (5.4), (5.5).

    The mean, not the sum: a sum would grow with the size of the map. Its gradient is (5.6). Computed in float32 or
    float64, whatever comes in: in bfloat16 many differences are equal, and those at the quantile would be too many.

    Parameters
    ----------
    teacher, student : Tensor (B, C, h, w)
        T̂, normalised, and S.
    p_hard : float
        In [0, 1): of the n = C·h·w differences of an image, those at or above their p_hard quantile count,
        n − ⌈p_hard·(n − 1)⌉ many. With 0, all count, and this is the plain mean squared error.

    Returns
    -------
    Tensor ()

    Raises
    ------
    ValueError
        For another p_hard or different shapes.

    References
    ----------
    Batzner et al. 2024, Section 3.2.
    """
    if not 0 <= p_hard < 1:
        raise ValueError(f"p_hard = {p_hard}: expected a share in [0, 1); 0.999 keeps a thousandth")
    if teacher.shape != student.shape:
        raise ValueError(f"teacher {tuple(teacher.shape)}, student {tuple(student.shape)}: expected the same shape")
    # Channels last, as they lie in memory, so that nothing is copied; the order does not matter here.
    teacher, student = (wide(x).permute(0, 2, 3, 1).flatten(1) for x in (teacher, student))  # (B, n)
    n = teacher.shape[1]
    kept = n - math.ceil(p_hard * (n - 1))
    if kept == n:
        return F.mse_loss(student, teacher)
    with torch.no_grad():
        hard = (teacher - student).square().topk(kept, dim=1, sorted=False).indices  # the largest D (B, kept)
    return F.mse_loss(student.gather(1, hard), teacher.gather(1, hard))


def penalty(student: Tensor) -> Tensor:
    """mean S(P)² of penalty images P: the student shall be silent where the product is not. Equation (5.7).

    Parameters
    ----------
    student : Tensor (B, C, h, w)
        S(P).

    Returns
    -------
    Tensor ()
    """
    return wide(student).square().mean()


def autoencoder_losses(
    teacher: Tensor, autoencoder: Tensor, student: Tensor, *, detach_autoencoder: bool = False
) -> tuple[Tensor, Tensor]:
    """L_AE = mean (T̂ − A)² and L_STAE = mean (A − S′)², both of the changed copy x′. Equations (5.8), (5.9).

    Parameters
    ----------
    teacher, autoencoder, student : Tensor (B, C, h, w)
        T̂(x′), A(x′) and S′(x′), the student's second half.
    detach_autoencoder : bool
        Then L_STAE teaches the student alone. Without it, as in the reference, it pulls the autoencoder towards the
        student as well: (5.10).

    Returns
    -------
    (Tensor (), Tensor ())
        L_AE and L_STAE.
    """
    teacher, autoencoder, student = wide(teacher), wide(autoencoder), wide(student)
    followed = autoencoder.detach() if detach_autoencoder else autoencoder
    return F.mse_loss(autoencoder, teacher), F.mse_loss(student, followed)


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


# ---------------------------------------------------------------------- training


class Networks(NamedTuple):
    """The frozen teacher with its channel statistics (1, C, 1, 1), and what is trained."""

    teacher: nn.Module
    mean: Tensor
    std: Tensor
    student: PDN
    autoencoder: AutoEncoder

    def normalised_teacher(self, images: Tensor) -> Tensor:
        """T̂ (B, C, h, w), equation (5.2)."""
        return (self.teacher(images).float() - self.mean) / self.std


def losses(
    networks: Networks, images: Tensor, penalty_images: Tensor | None, generator: torch.Generator, *,
    p_hard: float = 0.999, detach_autoencoder: bool = False, cells: Cells | None = None,
) -> dict[str, Tensor]:
    """The terms of the total loss, equation (5.11), by name: "hard", "penalty", "ae", "stae". Their sum is minimised.

    Parameters
    ----------
    networks : Networks
    images : Tensor (B, 3, H, W)
        Normal ones, in [0, 1].
    penalty_images : Tensor (B', 3, H, W), optional
        Images of other things, in [0, 1]; None for no penalty.
    generator : torch.Generator
        Draws the changed copy and the dropout.
    p_hard, detach_autoencoder
        See `hard_feature_loss` and `autoencoder_losses`.
    cells : Cells, optional
        Of the networks' grid those that count for normal images; None for all.

    Returns
    -------
    dict of str to Tensor ()
    """
    channels = networks.mean.shape[1]
    x, changed = normalised(images), normalised(color_jitter(images, generator))
    with torch.no_grad():
        teacher = networks.normalised_teacher(torch.cat([x, changed]))
    first = x if penalty_images is None else torch.cat([x, normalised(penalty_images)])
    inner = networks.student.trunk(torch.cat([first, changed]))  # one pass for all three
    weight, bias = networks.student.last.parameters()
    student = F.conv2d(inner[: len(first)], weight[:channels], bias[:channels])  # S(x), S(P): the first half alone
    second = F.conv2d(inner[len(first) :], weight[channels:], bias[channels:])  # S′(x′)
    autoencoder = networks.autoencoder(changed, generator)
    following = student[: len(x)]
    if cells is not None:
        teacher, following, autoencoder, second = map(cells.of, (teacher, following, autoencoder, second))
    terms = {"hard": hard_feature_loss(teacher[: len(x)], following, p_hard)}
    if penalty_images is not None:
        terms["penalty"] = penalty(student[len(x) :])
    terms["ae"], terms["stae"] = autoencoder_losses(
        teacher[len(x) :], autoencoder, second, detach_autoencoder=detach_autoencoder)
    return terms


def train_networks(
    networks: Networks,
    images: Tensor,
    penalty_images: Sequence[Sample] | None,
    *,
    steps: int,
    images_per_step: int = 1,
    p_hard: float = 0.999,
    detach_autoencoder: bool = False,
    learning_rate: float = 1e-4,
    decay: str = "step",
    bf16: bool = False,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    history: dict[str, list[float]] | None = None,
    cells: Cells | None = None,
) -> None:
    """Train student and autoencoder in place: Adam with weight decay 1e-5 on the sum of `losses`.

    Parameters
    ----------
    networks : Networks
    images : Tensor (N, 3, H, W)
        In [0, 1], of any float type.
    penalty_images : sequence of Sample, optional
        Images of other things; each step takes as many of them as of `images`. None for no penalty.
    steps, images_per_step : int
    p_hard, detach_autoencoder
        See `hard_feature_loss` and `autoencoder_losses`.
    learning_rate : float
    decay : str
        "step" multiplies the learning rate by 0.1 after 95 % of the steps, as in the paper; "cosine" lets it fall to
        0; "none" keeps it.
    bf16 : bool
        The convolutions compute in bfloat16, the losses do not.
    seed : int
    checkpoint, about
        See `adlib.training.Training`.
    history : dict, optional
        Gets "loss" and the terms, one a step.
    cells : Cells, optional
        See `losses`.
    """
    device = networks.mean.device
    trained = nn.ModuleDict({"student": networks.student, "autoencoder": networks.autoencoder}).train()
    optimizer = torch.optim.Adam(trained.parameters(), learning_rate, weight_decay=1e-5)
    draws = {name: torch.Generator().manual_seed(seed) for name in ("copies", "penalty images")}
    settings = {"method": "EfficientAD", "images_per_step": images_per_step, "p_hard": p_hard, "decay": decay,
                "detach_autoencoder": detach_autoencoder, "penalty": penalty_images is not None, "bf16": bf16,
                "seed": seed, **(about or {})}  # fmt: skip
    schedules = {"none": None, "step": lambda step: 1.0 if step < int(0.95 * steps) else 0.1,
                 "cosine": lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))}
    run = Training(steps, dict(trained.items()), optimizer, generators=draws, schedule=schedules[decay],
                   checkpoint=checkpoint, about=settings, name="EfficientAD")
    height, width = images.shape[-2:]
    for step in run:
        chosen = _in_order(len(images), images_per_step, seed, step)
        batch = images[chosen].to(device, torch.float32)
        others = None
        if penalty_images is not None:
            others = penalty_batch(penalty_images, len(batch), (height, width), draws["penalty images"]).to(device)
        with torch.enable_grad(), precision(device, bf16):
            terms = losses(networks, batch, others, draws["copies"], p_hard=p_hard,
                           detach_autoencoder=detach_autoencoder, cells=cells)
            run.update(sum(terms.values(), torch.zeros((), device=device)), **terms)
    if history is not None:
        history.update(run.history)
    trained.eval()


def _in_order(count: int, per_step: int, seed: int, step: int) -> list[int]:
    """The images of one step: all of them once in random order, then again in another; a function of seed and step."""
    places = (divmod(position, count) for position in range(step * per_step, (step + 1) * per_step))
    return [int(epoch_order(count, seed, epoch)[place]) for epoch, place in places]


def check_options(
    *, steps: int, images_per_step: int, p_hard: float, learning_rate: float, decay: str, **_: Any
) -> None:
    """Raise ValueError for options that `train_networks` could not follow, before any work is done."""
    whole("steps", steps)
    whole("images_per_step", images_per_step)
    number("p_hard", p_hard, "[0, 1)")
    number("learning_rate", learning_rate, "(0, inf)")
    if decay not in DECAYS:
        raise ValueError(f"decay = {decay!r}: expected one of {', '.join(DECAYS)}")
