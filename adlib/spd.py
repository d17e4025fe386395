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

from adlib.augment import STRONG, WEAK, augment, change_colour, gaussian_blur, uniform
from adlib.backbones import normalised
from adlib.detector import pick_device
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

    images: (B, 3, H, W) in [0, 1], at least 8×8. area: range of the patch's area as a share of the image. aspect:
    range of width over height. sigma: of the edge, as a share of the image's width. jitter: how far the patch's
    colours change, see `adlib.augment.change_colour`. texture: see `blend`. Every image has its own patch, place and
    colours from `generator`.

    Returns the images (B, 3, H, W) in [0, 1] and the mask (B, H, W) bool of the pixels that changed by more than 1/255.
    Raises ValueError for another `texture`, smaller images, or values that are not finite.

    Source: Zou et al. 2022, Section 3.1. Area, aspect and σ are ours: the main text does not give them.
    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < SMALLEST:
        raise ValueError(f"images {tuple(images.shape)}: expected (B, 3, H, W) with H and W at least {SMALLEST}")
    if not torch.isfinite(images).all():
        raise ValueError("images: some values are NaN or infinite, expected finite ones in [0, 1]")
    m, shift = _patches(images, generator, area, aspect)
    shifted = change_colour(_shifted(images, shift), jitter, generator)
    blended = blend(images, shifted, m, sigma * images.shape[-1], texture=texture)
    return blended, (blended - images).abs().amax(1) > 1 / 255


def blend(images: Tensor, pasted: Tensor, m: Tensor, sigma: float, *, texture: str = "kept") -> Tensor:
    """Lay `pasted` over `images` where the mask m is 1, with a soft edge. Equations (3.2) to (3.4).

    With blur a Gaussian of width sigma, in pixels, cut at 3·sigma, and soft = blur(mask) (3.2):
        texture="kept":    (1 − soft)⊙x + soft⊙ũ        (3.3)
        texture="blurred": (1 − soft)⊙x + blur(mask⊙ũ)  (3.4), which blurs the pasted texture as well.
    The text of the paper allows both readings.

    images x, pasted ũ: (B, 3, H, W) in [0, 1]; m: (B, 1, H, W) in {0, 1}. Returns (B, 3, H, W) in [0, 1].
    Raises ValueError for another `texture`.
    Source: Zou et al. 2022, Section 3.1.
    """
    if texture not in ("kept", "blurred"):
        raise ValueError(f"texture = {texture!r}: expected 'kept' or 'blurred'")
    width = torch.full((len(images),), sigma, device=images.device, dtype=images.dtype)
    alpha = gaussian_blur(m, width, border="zero")  # (B, 1, H, W)
    if texture == "kept":
        return (1 - alpha) * images + alpha * pasted
    return (1 - alpha) * images + gaussian_blur(m * pasted, width, border="zero")


def _patches(
    images: Tensor, generator: torch.Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Hard masks m (B, 1, H, W) in {0, 1} of the places to paste to, and the shift (B, 2) in rows and columns."""
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

    z: projections (B, D) of the images; z_plus: of weakly changed copies; z_minus: of weakly changed copies with a
    blended patch. In [−2, 2]; lower means that the local change moves z more than the weak global one.
    stop_gradient: no gradient goes to z_plus and z_minus, as in SimSiam's own term. The text at hand does not say
    which of the two the authors used.
    Source: Zou et al. 2022, Section 3.2.
    """
    if stop_gradient:
        z_plus, z_minus = z_plus.detach(), z_minus.detach()
    return (F.cosine_similarity(z, z_minus, dim=1) - F.cosine_similarity(z, z_plus, dim=1)).mean()


@torch.no_grad()
def sensitivity(
    encoder: nn.Module, images: Tensor, changed: Tensor, generator: torch.Generator, *, draws: int = 4
) -> Tensor:
    """Drop of the cosine under a local change over its drop under a weak global one, (N,). Equation (3.1).

    encoder: from normalised images (B, 3, H, W) to vectors (B, D), such as `Pooled(backbone)`. images, changed:
    (N, 3, H, W) in [0, 1]; `changed` has a local change, by SmoothBlend or by a defect. The weak view is drawn `draws`
    times and its drop averaged. The larger the ratio, the more the encoder sees of the local change beside what it
    should ignore.
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
    batch_size: int = 64,
    learning_rate: float = 0.05,
    seed: int = 0,
    device: str = "auto",
    settle: bool = True,
    checkpoint: str | Path | None = None,
    history: dict[str, list[float]] | None = None,
    **blend: Any,
) -> nn.Module:
    """Pre-train a backbone with L = L_base + η·L_SPD. Equation (3.7); for labels, (3.12).

    images: what `adlib.datasets.as_samples` takes; resized whole to squares of `image_size` pixels and held as bytes.
    objective: "simsiam", "simclr", "moco", or "supervised", which needs `labels` (N,), 0 and up.
    spd_weight: η; 0 trains without SPD. blend: options of `smooth_blend`. stop_gradient: see `spd_loss`.
    backbone: a module from images to a dictionary of layers, trained in place from its present weights. By default
    a new ResNet-18 of the shipped size, its weights drawn from `seed`.
    Stochastic gradient descent with momentum 0.9, weight decay 1e-4 and a cosine schedule. settle: at the end, measure
    the statistics of batch normalisation anew, see `settle_statistics`. checkpoint: a file to go on from, see
    `adlib.training.Training`. history: a dictionary that gets the losses of each step, by name.

    Returns the backbone, in evaluation mode, to be passed as `backbone=` to a detector.
    Raises ValueError for an unknown objective, labels that do not fit, or fewer images than a batch.
    Source: Zou et al. 2022, Section 3.2; η = 0.1 is their best of 0.1, 0.5 and 1. Optimiser, batch and number of steps
    are ours: the main text does not give them.
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
    if not 2 <= batch_size <= len(data):
        raise ValueError(f"batch_size = {batch_size}: expected 2 to {len(data)}, the number of images; one image alone "
                         "leaves batch normalisation nothing to compare")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate = {learning_rate}: expected a positive number, such as 0.05")
    method = _method(objective, backbone, image_size, labels, seed)
    method = method.to(pick_device(device), memory_format=torch.channels_last).train()
    where = next(method.parameters()).device
    targets = None if labels is None else torch.tensor(list(labels), device=where)
    generator = torch.Generator().manual_seed(seed)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=learning_rate, momentum=0.9, weight_decay=1e-4)
    about = {"objective": objective, "spd_weight": spd_weight, "stop_gradient": stop_gradient, "images": len(data),
             "image_size": image_size, "batch_size": batch_size, "seed": seed, **blend}  # fmt: skip
    run = Training(steps, {"method": method}, optimizer, generators={"all": generator}, checkpoint=checkpoint,
                   about=about, schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)),
                   name=f"pre-training, {objective}")  # fmt: skip
    for _ in run:
        rows = torch.randperm(len(data), generator=generator)[:batch_size]
        x = data[rows].to(where).float() / 255  # (B, 3, S, S)
        first = normalised(augment(x, STRONG, generator))
        if targets is None:
            base = method.base_loss(first, normalised(augment(x, STRONG, generator)))
        else:
            base = method.base_loss(first, targets[rows])
        term = _spd_term(method, x, generator, stop_gradient, blend) if spd_weight else torch.zeros_like(base)
        run.update(base + spd_weight * term, base=base, spd=term)
    if history is not None:
        history.update(run.history)
    done: nn.Module = method.encoder.backbone.to(memory_format=torch.contiguous_format)  # as others expect to save it
    if settle:
        few = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:2048]
        settle_statistics(done, [data[rows].to(where).float() / 255 for rows in few.split(64)])
    return done.eval()


@torch.no_grad()
def settle_statistics(backbone: nn.Module, batches: Sequence[Tensor]) -> None:
    """Measure the running means and variances of batch normalisation anew, as a plain average over the batches.

    batches: (B, 3, H, W) in [0, 1], the images as a detector will show them. During training the statistics follow
    what the network was shown: strong copies, and with SPD weak ones too. A detector shows plain images. Without
    this step, runs with and without SPD would differ by their statistics, whatever the loss has taught.
    """
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the calls
    backbone.train()
    for batch in batches:
        backbone(normalised(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
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


def _spd_term(method: Any, x: Tensor, generator: torch.Generator, stop_gradient: bool, blend: Any) -> Tensor:
    """L_SPD of a batch (B, 3, S, S) in [0, 1], or the auxiliary classifier's loss."""
    plus = augment(x, WEAK, generator)
    minus, _ = smooth_blend(augment(x, WEAK, generator), generator, **blend)
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
