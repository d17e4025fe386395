"""Distillation: a small, fast teacher learns to give the features of a large backbone.

Source: Batzner, Heckler, König, EfficientAD, WACV 2024, Section 3.1 and appendix A.2.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adlib.augment import change_colour, uniform
from adlib.backbones import fingerprint, load_backbone, normalised
from adlib.detector import pick_device
from adlib.efficientad.networks import FIELD, PDN, STRIDE
from adlib.features import PatchFeatures
from adlib.gradients import check_gradients
from adlib.images import ImageError, resize_image
from adlib.progress import progress_bar
from adlib.samples import Sample, as_samples
from adlib.training import Training, precision

CELLS = FIELD // 2 // STRIDE  # 4: cells on each side that a PDN without padding lacks


def distill(
    backbone: str | nn.Module,
    images: object,
    *,
    layers: Sequence[str] = ("layer2", "layer3"),
    size: str = "s",
    out_channels: int = 384,
    width: float = 1.0,
    padding: bool = False,
    image_size: int = 256,
    steps: int = 60_000,
    images_per_step: int = 16,
    learning_rate: float = 1e-4,
    decay: str = "none",
    smallest_crop: float = 1.0,
    grey: float = 0.1,
    statistics_images: int = 10_000,
    bf16: bool = False,
    seed: int = 0,
    device: str = "auto",
    checkpoint: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    history: dict[str, list[float]] | None = None,
) -> PDN:
    """Teach a new PDN the features of `backbone`: the least mean squared error, equation (5.3).

    The backbone sees an image of 2·image_size pixels, so that its cells of stride 8 are those of the PDN, which sees
    image_size pixels; coarser layers are enlarged to that grid. Its patch features, 3×3 neighbourhoods as in PatchCore,
    are averaged to `out_channels` neighbouring groups and normalised per channel, equation (5.2), with mean and
    deviation over `statistics_images` whole images.

    Parameters
    ----------
    backbone, layers
        See `adlib.backbones.load_backbone`; any backbone.
    images : images
        What `as_samples` takes; many and varied. The product is not needed. One that cannot be read is passed over.
    size, out_channels, width
        Of the `PDN`.
    padding : bool
        Of the PDN. Without it, it lacks four cells on each side, and so does its target.
    image_size, steps, images_per_step : int
    learning_rate : float
    decay : str
        "none", as in the paper, or "cosine".
    smallest_crop : float
        Each step shows squares that cover this share of the shorter side or more; 1 is the whole image, resized, as in
        the paper.
    grey : float
        Share of the images that lose their colour, the backbone's and the PDN's alike.
    statistics_images : int
    bf16 : bool
        The convolutions of both compute in bfloat16.
    seed : int
    device : str
    checkpoint, about
        See `adlib.training.Training`.
    history : dict, optional
        Gets "loss", one a step.

    Returns
    -------
    PDN
        In evaluation mode, on the CPU.

    Raises
    ------
    ValueError
        For options out of range or a backbone of another stride.
    ImageError
        Where twenty images in a row cannot be read.
    RuntimeError
        Where the processor would compute wrong gradients, see `adlib.gradients.check_gradients`.
    """
    if statistics_images < 1:
        raise ValueError(f"statistics_images = {statistics_images}: expected at least 1")
    if images_per_step < 1 or not 0 < smallest_crop <= 1 or not 0 <= grey <= 1 or decay not in ("none", "cosine"):
        raise ValueError(f"images_per_step = {images_per_step}, smallest_crop = {smallest_crop}, grey = {grey}, "
                         f"decay = {decay!r}: expected at least 1, a share in (0, 1], a share in [0, 1], 'none' or "
                         "'cosine'")
    samples, where = as_samples(images), pick_device(device)
    side = 2 * image_size
    source = PatchFeatures(load_backbone(backbone, layers, image_size=(side, side)), layers).eval().to(where)
    pdn = PDN(size, out_channels=out_channels, width=width, padding=padding, seed=seed)
    pdn = pdn.to(where, memory_format=torch.channels_last).train()
    check_gradients(pdn, (images_per_step, 3, image_size, image_size))
    grid, inner = pdn.grid((image_size, image_size))[0], 0 if padding else CELLS
    found = source(torch.zeros(1, 3, side, side, device=where)).shape[-1] - 2 * inner
    if found != grid:
        raise ValueError(f"backbone: its finest layer gives {found} cells a side where the PDN has {grid}; expected "
                         "a stride of 8 pixels, as that of layer2, and image_size a multiple of 8")
    generator = torch.Generator().manual_seed(seed)

    def target(views: Tensor) -> Tensor:
        """The backbone's features (B, C, h, w) of views (B, 3, 2·image_size, 2·image_size)."""
        with torch.no_grad(), precision(where, bf16):
            features = pool_channels(source(views).float(), out_channels)
        return features[:, :, inner : inner + grid, inner : inner + grid]

    some = samples[:: max(1, len(samples) // statistics_images)]
    mean, std = _statistics(some, side, images_per_step, target, where)
    optimizer = torch.optim.Adam(pdn.parameters(), learning_rate, weight_decay=1e-5)
    settings = {"method": "distillation", **pdn.config(), "images": len(samples), "image_size": image_size,
                "images_per_step": images_per_step, "decay": decay, "smallest_crop": smallest_crop, "grey": grey,
                "bf16": bf16, "seed": seed, "layers": list(layers), "statistics_images": statistics_images,
                "backbone": fingerprint(source.backbone), "paths": _names(samples), **(about or {})}  # fmt: skip
    run = Training(steps, {"pdn": pdn}, optimizer, generators={"views": generator}, checkpoint=checkpoint,
                   schedule=None if decay == "none" else lambda s: 0.5 * (1 + math.cos(math.pi * s / steps)),
                   about=settings, name="distillation")  # fmt: skip
    for _ in run:
        chosen = torch.randint(len(samples), (images_per_step,), generator=generator).tolist()
        views = torch.stack([_square(_readable(samples, i), smallest_crop, side, generator) for i in chosen]).to(where)
        if grey:
            views = change_colour(views, 0.0, generator, grey=grey)
        wanted = (target(views) - mean) / std
        small = F.interpolate(views, (image_size, image_size), mode="bilinear", antialias=True, align_corners=False)
        with precision(where, bf16):
            given = pdn(normalised(small))
        run.update((given.float() - wanted).square().mean())
    if history is not None:
        history.update(run.history)
    return pdn.cpu().eval()


def pool_channels(features: Tensor, out_channels: int) -> Tensor:
    """(B, D, h, w) to (B, C, h, w): each of the C is the mean of the channels from ⌊iD/C⌋ to ⌈(i+1)D/C⌉ − 1."""
    b, _, h, w = features.shape
    return F.adaptive_avg_pool1d(features.permute(0, 2, 3, 1).flatten(0, 2), out_channels).view(b, h, w, -1).permute(
        0, 3, 1, 2)  # fmt: skip


def channel_statistics(batches: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel over all cells of all images. Equation (5.2).

    Summed in float64. A channel that never varies gets deviation 1, so that it becomes 0.

    Parameters
    ----------
    batches : iterable of Tensor (B, C, h, w)
        Features, one batch after another.

    Returns
    -------
    (Tensor (1, C, 1, 1), Tensor (1, C, 1, 1))

    Raises
    ------
    ValueError
        Where a feature is not finite, or there is no batch.
    """
    count, shift, device = 0, None, torch.device("cpu")
    total = squares = torch.zeros((), dtype=torch.float64)
    for batch in batches:
        device, rows = batch.device, batch.detach().permute(0, 2, 3, 1).flatten(0, 2).cpu().double()  # (N, C)
        shift = rows.mean(0) if shift is None else shift  # near the mean, so that no digits cancel below
        count += len(rows)
        total, squares = total + (rows - shift).sum(0), squares + (rows - shift).square().sum(0)
    if shift is None:
        raise ValueError("no image to measure the teacher's features on: expected at least one")
    mean = total / count
    variance = squares / count - mean.square()
    if not bool(torch.isfinite(variance).all()):
        raise ValueError("some features are NaN or infinite: check the weights and the images")
    mean = shift + mean
    std = variance.clamp(min=0).sqrt()
    std = torch.where(std > 1e-6 * mean.abs().clamp(min=1e-6), std, 1)
    return mean.float().view(1, -1, 1, 1).to(device), std.float().view(1, -1, 1, 1).to(device)


def _statistics(
    samples: list[Sample], side: int, per_batch: int, target: Any, device: torch.device
) -> tuple[Tensor, Tensor]:
    chunks = [range(i, min(i + per_batch, len(samples))) for i in range(0, len(samples), per_batch)]
    return channel_statistics(
        target(torch.stack([resize_image(_readable(samples, i), (side, side)) for i in chunk]).to(device))
        for chunk in progress_bar(chunks, desc="statistics of the backbone"))


def _readable(samples: list[Sample], i: int) -> Tensor:
    """Image i, or the first after it that can be read: one broken file does not end hours of work."""
    reason = ""
    for step in range(min(20, len(samples))):
        try:
            return samples[(i + step) % len(samples)].image
        except ImageError as error:
            reason = str(error)
    raise ImageError(f"images: twenty in a row cannot be read, the last one: {reason}")


def _names(samples: list[Sample]) -> str:
    """A hash of the images' names, to tell another collection by."""
    return hashlib.sha256("\n".join(s.path for s in samples).encode()).hexdigest()


def _square(image: Tensor, smallest: float, side: int, generator: torch.Generator) -> Tensor:
    """The whole image (3, H, W) at (side, side), or a random square of at least `smallest` of its shorter side."""
    if smallest == 1:
        return resize_image(image, (side, side))
    height, width = image.shape[-2:]
    share, y, x = (float(uniform(generator, 1, *limits, image)) for limits in ((smallest, 1), (0, 1), (0, 1)))
    edge = max(1, round(share * min(height, width)))
    top, left = round(y * (height - edge)), round(x * (width - edge))
    return resize_image(image[:, top : top + edge, left : left + edge], (side, side))


@torch.no_grad()
def explained(
    pdn: PDN, backbone: str | nn.Module, images: object, *, layers: Sequence[str] = ("layer2", "layer3"),
    image_size: int = 256,
) -> float:
    """Share of the variance of the backbone's features that the PDN explains, in [0, 1]: r² per channel, averaged.

    It asks how well the features agree up to shift and scale of each channel, which the normalisation of the teacher
    takes out anyway. A channel that never varies counts as 0. Computed on the CPU.

    Parameters
    ----------
    pdn : PDN
    backbone, layers, image_size
        As for `distill`.
    images : images
        As for `distill`; images that were not distilled from.

    Returns
    -------
    float
    """
    side = 2 * image_size
    source = PatchFeatures(load_backbone(backbone, layers, image_size=(side, side)), layers).eval()
    inner, pdn = 0 if pdn.padding else CELLS, copy.deepcopy(pdn).cpu()
    pairs = []
    for sample in as_samples(images):
        view = resize_image(sample.image, (side, side))[None]
        small = F.interpolate(view, (image_size, image_size), mode="bilinear", antialias=True, align_corners=False)
        given = pdn(normalised(small))
        wanted = pool_channels(source(view), pdn.out_channels)
        wanted = wanted[:, :, inner : inner + given.shape[2], inner : inner + given.shape[3]]
        pairs.append(torch.cat([given, wanted]).flatten(2).mT[:, ::7].double())  # (2, N, C), every seventh cell
    a, b = torch.cat(pairs, 1)
    a, b = a - a.mean(0), b - b.mean(0)
    both = a.square().sum(0) * b.square().sum(0)
    return float(torch.where(both > 0, (a * b).sum(0).square() / both.clamp(min=1e-30), 0).mean())
