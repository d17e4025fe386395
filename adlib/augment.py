"""Random views of image batches: crops, flips, colours and blur, one draw per image, from an explicit generator."""

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
