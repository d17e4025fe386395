"""SPD: pre-training that keeps an eye for small local changes. Zou et al., SPot-the-Difference, ECCV 2022.

A network that is taught to ignore crops and colours learns to ignore small defects as well. SPD adds a term to its
loss: an image and a copy with a small patch blended in must come apart, an image and a weakly changed copy together.
The authors published the data set VisA and its splits, but no training code. Where no text at hand gives a value, the
docstring says that the value is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from adlib.augment import STRONG, WEAK, augment, change_colour, gaussian_blur, uniform
from adlib.backbones import normalised
from adlib.detector import pick_device
from adlib.gradients import check_gradients
from adlib.images import resize_image
from adlib.objectives import MoCo, SimCLR, SimSiam, Supervised
from adlib.resnet import ResNet18
from adlib.samples import as_samples
from adlib.training import Training

OBJECTIVES = {"simsiam": SimSiam, "simclr": SimCLR, "moco": MoCo, "supervised": Supervised}
SMALLEST = 8  # pixels of a side; below, a patch of two pixels is no longer a small part of the image


# ---------------------------------------------------------------------- SmoothBlend


def smooth_blend(
    images: Tensor,
    generator: torch.Generator,
    *,
    area: tuple[float, float] = (0.005, 0.02),
    aspect: tuple[float, float] = (0.3, 3.3),
    sigma: float = 0.02,
    jitter: float = 0.4,
    texture: str = "kept",
) -> tuple[Tensor, Tensor]:
    """Paste a patch of each image elsewhere into the same image, with a soft edge, by `blend`.

    Every image has its own patch, place and colours from `generator`.

    Parameters
    ----------
    images : Tensor (B, 3, H, W)
        In [0, 1], at least 8×8.
    generator : torch.Generator
    area : (float, float)
        Range of the patch's area as a share of the image.
    aspect : (float, float)
        Range of width over height.
    sigma : float
        Of the edge, as a share of the image's width.
    jitter : float
        How far the patch's colours change, see `adlib.augment.change_colour`.
    texture : str
        See `blend`.

    Returns
    -------
    (Tensor (B, 3, H, W), Tensor (B, H, W) bool)
        The images in [0, 1] and the mask of the pixels that changed by more than 1/255.

    Raises
    ------
    ValueError
        For another `texture`, smaller images, or values that are not finite.

    References
    ----------
    Zou et al. 2022, Section 3.1. Area, aspect and σ are ours: the main text does not give them.
    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < SMALLEST:
        raise ValueError(f"images {tuple(images.shape)}: expected (B, 3, H, W) with H and W at least {SMALLEST}")
    if not torch.isfinite(images).all():
        raise ValueError("images: some values are NaN or infinite, expected finite ones in [0, 1]")
    m, shift = draw_patches(images, generator, area, aspect)
    shifted = change_colour(_shifted(images, shift), jitter, generator)
    blended = blend(images, shifted, m, sigma * images.shape[-1], texture=texture)
    return blended, (blended - images).abs().amax(1) > 1 / 255


def blend(images: Tensor, pasted: Tensor, m: Tensor, sigma: float, *, texture: str = "kept") -> Tensor:
    """Lay `pasted` over `images` where the mask m is 1, with a soft edge. Equations (3.2) to (3.4).

    With blur a Gaussian of width sigma, cut at 3·sigma, and soft = blur(mask), (3.2). The text of the paper allows both
    readings of `texture`.

    Parameters
    ----------
    images, pasted : Tensor (B, 3, H, W)
        x and ũ, in [0, 1].
    m : Tensor (B, 1, H, W)
        In {0, 1}.
    sigma : float
        In pixels.
    texture : str
        "kept" gives (1 − soft)⊙x + soft⊙ũ, (3.3). "blurred" gives (1 − soft)⊙x + blur(mask⊙ũ), (3.4), which blurs the
        pasted texture as well.

    Returns
    -------
    Tensor (B, 3, H, W)
        In [0, 1].

    Raises
    ------
    ValueError
        For another `texture`.

    References
    ----------
    Zou et al. 2022, Section 3.1.
    """
    if texture not in ("kept", "blurred"):
        raise ValueError(f"texture = {texture!r}: expected 'kept' or 'blurred'")
    width = torch.full((len(images),), sigma, device=images.device, dtype=images.dtype)
    alpha = gaussian_blur(m, width, border="zero")  # (B, 1, H, W)
    if texture == "kept":
        return (1 - alpha) * images + alpha * pasted
    return (1 - alpha) * images + gaussian_blur(m * pasted, width, border="zero")


def draw_patches(
    images: Tensor, generator: torch.Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Hard masks m of the places to paste to, and the shift in rows and columns.

    Parameters
    ----------
    images : Tensor (B, 3, H, W)
    generator : torch.Generator
    area, aspect : (float, float)
        As in `smooth_blend`.

    Returns
    -------
    (Tensor (B, 1, H, W), Tensor (B, 2))
        The masks in {0, 1}, and the shift.
    """
    b, _, h, w = images.shape
    share = uniform(generator, b, *area, images)
    ratio = uniform(generator, b, math.log(aspect[0]), math.log(aspect[1]), images).exp()
    height = (share * h * w / ratio).sqrt().round().clamp(2, h // 2)
    width = (share * h * w * ratio).sqrt().round().clamp(2, w // 2)

    def corners() -> tuple[Tensor, Tensor]:
        rows = (uniform(generator, b, 0, 1, images) * (h - height + 1)).floor()
        return rows, (uniform(generator, b, 0, 1, images) * (w - width + 1)).floor()

    (from_row, from_column), (row, column) = corners(), corners()
    rows, columns = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
    inside_rows = (rows >= row[:, None]) & (rows < (row + height)[:, None])  # (B, H)
    inside_columns = (columns >= column[:, None]) & (columns < (column + width)[:, None])  # (B, W)
    m = (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None].to(images)
    return m, torch.stack([row - from_row, column - from_column], 1).long()


def _shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Each image moved by its own whole number of rows and columns; outside, the border's pixels go on."""
    b, _, h, w = images.shape
    rows = (torch.arange(h, device=images.device) - shift[:, :1]).clamp(0, h - 1)  # (B, H)
    columns = (torch.arange(w, device=images.device) - shift[:, 1:]).clamp(0, w - 1)  # (B, W)
    index = torch.arange(b, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


# ---------------------------------------------------------------------- the loss, and what it is meant to raise


def spd_loss(z: Tensor, z_plus: Tensor, z_minus: Tensor, *, stop_gradient: bool = False) -> Tensor:
    """L_SPD = cos(z, z⁻) − cos(z, z⁺), the mean over the batch. Equation (3.5); its gradient is (3.6).

    Parameters
    ----------
    z, z_plus, z_minus : Tensor (B, D)
        Projections of the images, of weakly changed copies, and of weakly changed copies with a blended patch.
    stop_gradient : bool
        No gradient goes to z_plus and z_minus, as in SimSiam's own term. The text at hand does not say which of the two
        the authors used.

    Returns
    -------
    Tensor ()
        In [−2, 2]; lower means that the local change moves z more than the weak global one.

    References
    ----------
    Zou et al. 2022, Section 3.2.
    """
    if stop_gradient:
        z_plus, z_minus = z_plus.detach(), z_minus.detach()
    return (F.cosine_similarity(z, z_minus, dim=1) - F.cosine_similarity(z, z_plus, dim=1)).mean()


@torch.no_grad()
def sensitivity(
    encoder: nn.Module, images: Tensor, changed: Tensor, generator: torch.Generator, *, draws: int = 4
) -> Tensor:
    """Drop of the cosine under a local change over its drop under a weak global one. Equation (3.1).

    The larger the ratio, the more the encoder sees of the local change beside what it should ignore.

    Parameters
    ----------
    encoder : Module
        From normalised images (B, 3, H, W) to vectors (B, D), such as ``Pooled(backbone)``.
    images, changed : Tensor (N, 3, H, W)
        In [0, 1]; `changed` has a local change, by SmoothBlend or by a defect.
    generator : torch.Generator
    draws : int
        The weak view is drawn so many times and its drop averaged.

    Returns
    -------
    Tensor (N,)
    """

    def vectors(x: Tensor) -> Tensor:
        return torch.cat([encoder(normalised(part)) for part in x.split(64)])

    z = vectors(images)
    local = 1 - F.cosine_similarity(z, vectors(changed), dim=1)
    weak = [1 - F.cosine_similarity(z, vectors(augment(images, WEAK, generator)), dim=1) for _ in range(draws)]
    return local / torch.stack(weak).mean(0).clamp(min=1e-12)


# ---------------------------------------------------------------------- pre-training


class Pooled(nn.Module):
    """A backbone followed by the mean over the cells of its last layer: images (B, 3, H, W) to vectors (B, C)."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return list(self.backbone(images).values())[-1].mean((2, 3))


def pretrain(
    images: object,
    *,
    objective: str = "simsiam",
    spd_weight: float = 0.1,
    stop_gradient: bool = False,
    labels: Sequence[int] | None = None,
    backbone: nn.Module | None = None,
    image_size: int = 64,
    steps: int = 1000,
    images_per_step: int = 64,
    learning_rate: float = 0.05,
    seed: int = 0,
    device: str = "auto",
    settle: bool = True,
    checkpoint: str | Path | None = None,
    history: dict[str, list[float]] | None = None,
    **blend_options: Any,
) -> nn.Module:
    """Pre-train a backbone with L = L_base + η·L_SPD. Equation (3.7); for labels, (3.12).

    Stochastic gradient descent with momentum 0.9, weight decay 1e-4 and a cosine schedule.

    Parameters
    ----------
    images : images
        What `adlib.datasets.as_samples` takes; resized whole to squares of `image_size` pixels and held as bytes.
    objective : str
        "simsiam", "simclr", "moco", or "supervised", which needs `labels`.
    spd_weight : float
        η; 0 trains without SPD.
    stop_gradient : bool
        See `spd_loss`.
    labels : sequence of N ints, optional
        0 and up.
    backbone : Module, optional
        A module from images to a dictionary of layers, trained in place from its present weights. By default a new
        ResNet-18 of the shipped size, its weights drawn from `seed`.
    image_size, steps, images_per_step : int
    learning_rate : float
    seed : int
    device : str
    settle : bool
        At the end, measure the statistics of batch normalisation anew, see `settle_statistics`.
    checkpoint : path, optional
        A file to go on from, see `adlib.training.Training`.
    history : dict, optional
        Gets the losses of each step, by name.
    **blend_options
        Of `smooth_blend`.

    Returns
    -------
    Module
        The backbone, in evaluation mode, to be passed as ``backbone=`` to a detector.

    Raises
    ------
    ValueError
        For an unknown objective, labels that do not fit, or fewer images than a batch.
    RuntimeError
        Where the processor would compute wrong gradients, see `adlib.gradients.check_gradients`.

    References
    ----------
    Zou et al. 2022, Section 3.2; η = 0.1 is their best of 0.1, 0.5 and 1. Optimiser, batch and number of steps are
    ours: the main text does not give them.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective = {objective!r}: expected one of {', '.join(OBJECTIVES)}")
    if not image_size >= SMALLEST:
        raise ValueError(f"image_size = {image_size}: expected at least {SMALLEST} pixels")
    data = as_bytes(images, image_size)
    if (objective == "supervised") != (labels is not None):
        raise ValueError(f"objective {objective!r}: {'needs' if labels is None else 'takes no'} labels; "
                         "expected them with 'supervised' and with nothing else")
    if labels is not None and (len(labels) != len(data) or min(labels) < 0):
        raise ValueError(f"labels: found {len(labels)}, the smallest {min(labels, default=None)}; expected one for "
                         f"each of {len(data)} images, 0 and up")
    if not 2 <= images_per_step <= len(data):
        raise ValueError(f"images_per_step = {images_per_step}: expected 2 to {len(data)}, the number of images; "
                         "one image alone leaves batch normalisation nothing to compare")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate = {learning_rate}: expected a positive number, such as 0.05")
    method = _method(objective, backbone, image_size, labels, seed)
    method = method.to(pick_device(device), memory_format=torch.channels_last).train()
    check_gradients(method.encoder.backbone, (images_per_step, 3, image_size, image_size))
    where = next(method.parameters()).device
    targets = None if labels is None else torch.tensor(list(labels), device=where)
    generator = torch.Generator().manual_seed(seed)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=learning_rate, momentum=0.9, weight_decay=1e-4)
    about = {"objective": objective, "spd_weight": spd_weight, "stop_gradient": stop_gradient, "images": len(data),
             "image_size": image_size, "images_per_step": images_per_step, "seed": seed, **blend_options}
    run = Training(steps, {"method": method}, optimizer, generators={"all": generator}, checkpoint=checkpoint,
                   about=about, schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)),
                   name=f"pre-training, {objective}")  # fmt: skip
    for _ in run:
        rows = torch.randperm(len(data), generator=generator)[:images_per_step]
        x = data[rows].to(where).float() / 255  # (B, 3, S, S)
        first = normalised(augment(x, STRONG, generator))
        if targets is None:
            base = method.base_loss(first, normalised(augment(x, STRONG, generator)))
        else:
            base = method.base_loss(first, targets[rows])
        term = _spd_term(method, x, generator, stop_gradient, blend_options) if spd_weight else torch.zeros_like(base)
        run.update(base + spd_weight * term, base=base, spd=term)
    if history is not None:
        history.update(run.history)
    done: nn.Module = method.encoder.backbone.to(memory_format=torch.contiguous_format)  # as others expect to save it
    if settle:
        few = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:2048]
        settle_statistics(done, [data[rows].to(where).float() / 255 for rows in few.split(64)])
    return done.eval()


def settle_statistics(backbone: nn.Module, batches: Sequence[Tensor]) -> None:
    """Measure the running means and variances of batch normalisation anew, as a plain average over the batches.

    During training the statistics follow what the network was shown: strong copies, and with SPD weak ones too. A
    detector shows plain images. Without this step, runs with and without SPD would differ by their statistics, whatever
    the loss has taught.

    Parameters
    ----------
    backbone : Module
    batches : sequence of Tensor (B, 3, H, W)
        In [0, 1], the images as a detector will show them.
    """
    update_bn(map(normalised, batches), backbone)
    backbone.eval()


def _method(
    objective: str, backbone: nn.Module | None, image_size: int, labels: Sequence[int] | None, seed: int
) -> nn.Module:
    """The objective's module around the backbone; new weights come from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which sets the GPUs' as well
        backbone = ResNet18() if backbone is None else backbone
        like = next(backbone.parameters())
        with torch.no_grad():
            width = Pooled(backbone.eval())(like.new_zeros(1, 3, image_size, image_size)).shape[1]
        options = {} if labels is None else {"classes": max(labels) + 1}
        return OBJECTIVES[objective](Pooled(backbone), width, **options)


def _spd_term(method: Any, x: Tensor, generator: torch.Generator, stop_gradient: bool, blend_options: Any) -> Tensor:
    """L_SPD of a batch (B, 3, S, S) in [0, 1], or the auxiliary classifier's loss."""
    plus = augment(x, WEAK, generator)
    minus, _ = smooth_blend(augment(x, WEAK, generator), generator, **blend_options)
    if isinstance(method, Supervised):
        blended = torch.cat([x.new_zeros(len(x)), x.new_ones(len(x))])
        return method.spotting_loss(normalised(torch.cat([plus, minus])), blended)
    # One pass for all three. In passes of their own, batch normalisation would take out what tells them apart.
    z, z_plus, z_minus = method.project(normalised(torch.cat([x, plus, minus]))).chunk(3)
    return spd_loss(z, z_plus, z_minus, stop_gradient=stop_gradient)


def as_bytes(images: object, size: int) -> Tensor:
    """All images, resized whole: (N, 3, size, size) uint8."""
    rows = [(resize_image(s.image, (size, size)) * 255).round().to(torch.uint8) for s in as_samples(images)]
    return torch.stack(rows)
