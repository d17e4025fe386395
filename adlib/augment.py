"""Random changes of image batches, one draw per image, from an explicit generator: views, and SPD's SmoothBlend.

A view is a crop with a flip, colours and blur; SmoothBlend is a small local change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Views:
    """How far a random view may be from its image.

    Attributes
    ----------
    area : float
        The smallest share of the image that a crop keeps; the largest is 1.
    colour : float
        Brightness, contrast and saturation are multiplied by factors in [1 − colour, 1 + colour].
    grey : float
        Probability of a greyscale image.
    blur : float
        The largest σ of a Gaussian, as a share of the image's side; half of the images are blurred.
    flip : bool
        Left and right may be exchanged.
    """

    area: float
    colour: float
    grey: float
    blur: float
    flip: bool = True


# The kinds of change are the paper's. How far they go is ours: the main text does not say.
WEAK = Views(area=0.8, colour=0.1, grey=0.0, blur=0.004)
STRONG = Views(area=0.2, colour=0.4, grey=0.2, blur=0.012)
SMALLEST = 8  # pixels of a side; below, a patch of two pixels is no longer a small part of the image


def augment(images: Tensor, views: Views, generator: torch.Generator) -> Tensor:
    """One random view of each image: images (B, 3, H, W) in [0, 1], the same shape out."""
    images = _crop(images, views, generator)
    images = change_colour(images, views.colour, generator, grey=views.grey)
    half = uniform(generator, len(images), 0, 1, images) < 0.5
    sigma = uniform(generator, len(images), 0.1, 1, images) * views.blur * images.shape[-1]
    return gaussian_blur(images, torch.where(half, sigma, 0))


def uniform(generator: torch.Generator, n: int, low: float, high: float, like: Tensor) -> Tensor:
    """n numbers in [low, high), drawn where the generator lives and moved to where `like` is."""
    return (torch.rand(n, generator=generator, device=generator.device) * (high - low) + low).to(like)


def _crop(images: Tensor, views: Views, generator: torch.Generator) -> Tensor:
    """A crop with an aspect of 3:4 to 4:3, enlarged to the full size."""
    n = len(images)
    area = uniform(generator, n, views.area, 1, images)
    aspect = uniform(generator, n, -math.log(4 / 3), math.log(4 / 3), images).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    flip = torch.where(uniform(generator, n, 0, 1, images) < 0.5, -1.0, 1.0) if views.flip else torch.ones_like(width)
    theta = torch.zeros(n, 2, 3, device=images.device, dtype=images.dtype)
    theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
    theta[:, 0, 2] = uniform(generator, n, -1, 1, images) * (1 - width)
    theta[:, 1, 2] = uniform(generator, n, -1, 1, images) * (1 - height)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def change_colour(images: Tensor, amount: float, generator: torch.Generator, *, grey: float = 0.0) -> Tensor:
    """Saturation, contrast and brightness by a factor in [1 − amount, 1 + amount] each.

    Saturation is the difference to the luminance, contrast that to the image's mean.

    Parameters
    ----------
    images : Tensor (B, 3, H, W)
        In [0, 1].
    amount : float
    generator : torch.Generator
    grey : float
        Probability that an image loses its colour.

    Returns
    -------
    Tensor (B, 3, H, W)
        In [0, 1].
    """

    def factor() -> Tensor:
        return uniform(generator, len(images), 1 - amount, 1 + amount, images).view(-1, 1, 1, 1)

    luminance = (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = factor()
    if grey:
        colourless = uniform(generator, len(images), 0, 1, images).view(-1, 1, 1, 1) < grey
        saturation = torch.where(colourless, 0, saturation)
    images = luminance + (images - luminance) * saturation
    middle = images.mean((1, 2, 3), keepdim=True)
    images = middle + (images - middle) * factor()
    return (images * factor()).clamp(0, 1)


def color_jitter(images: Tensor, generator: torch.Generator, amount: float = 0.2) -> Tensor:
    """The copy x′: brightness, contrast or saturation of each image times λ in [1 − amount, 1 + amount].

    Each of the three moves the image away from, or towards, another one: black, its mean grey, or itself without
    colour.

    Parameters
    ----------
    images : Tensor (B, 3, H, W)
        In [0, 1].
    generator : torch.Generator
    amount : float

    Returns
    -------
    Tensor (B, 3, H, W)
        In [0, 1].
    """
    luminance = (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    kind = torch.randint(3, (len(images),), generator=generator, device=generator.device).to(images.device)
    kind = kind.view(-1, 1, 1, 1)
    middle = luminance.mean((2, 3), keepdim=True)
    base = torch.where(kind == 0, torch.zeros_like(luminance), torch.where(kind == 1, middle, luminance))
    factor = uniform(generator, len(images), 1 - amount, 1 + amount, images).view(-1, 1, 1, 1)
    return (base + factor * (images - base)).clamp(0, 1)


def gaussian_blur(images: Tensor, sigma: Tensor, *, border: str = "replicate") -> Tensor:
    """Each image filtered with a Gaussian of its own σ, cut at 3 times the largest; σ = 0 leaves it as it is.

    Parameters
    ----------
    images : Tensor (B, C, H, W)
    sigma : Tensor (B,)
        σ in pixels.
    border : str
        "replicate" goes on with the border's value, "zero" with nothing, which is right for masks.

    Returns
    -------
    Tensor (B, C, H, W)
    """
    b, c, h, w = images.shape
    radius = max(1, math.ceil(3 * float(sigma.max())))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-offsets.square() / (2 * sigma.clamp(min=1e-3)[:, None].square()))  # (B, 2·radius + 1)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)  # (B·C, K)
    pad = (radius,) * 4
    x = F.pad(images, pad, mode="replicate") if border == "replicate" else F.pad(images, pad)
    x = x.reshape(1, b * c, h + 2 * radius, w + 2 * radius)
    x = F.conv2d(F.conv2d(x, kernel[:, None, :, None], groups=b * c), kernel[:, None, None, :], groups=b * c)
    return x.reshape(b, c, h, w)


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
        How far the patch's colours change, see `change_colour`.
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
