"""Images of anything but the product, for EfficientAD's penalty: the user's own, or drawn ones in their place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from adlib.augment import change_colour
from adlib.images import ImageError, resize_image
from adlib.samples import Sample, as_samples


def dead_leaves(size: tuple[int, int], seed: int, *, leaves: int = 150) -> Tensor:
    """A picture of nothing in particular: discs and boxes that cover each other.

    The radii follow r⁻³, so that there are as many edges on each scale; each leaf has a colour, a slope of light and
    a grain of its own. Such pictures share the coarse statistics of photographs, and show no thing.

    Parameters
    ----------
    size : (H, W)
    seed : int
    leaves : int

    Returns
    -------
    Tensor (3, H, W)
        In [0, 1].

    References
    ----------
    The model is Lee, Mumford and Huang, Occlusion Models for Natural Images, IJCV 2001; slopes and grain are ours.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = rng.random(3)
    smallest, largest = 0.015 * min(size), 0.5 * min(size)
    for _ in range(leaves):
        # The inverse of the distribution function of r⁻³ between the two radii.
        share = rng.random()
        radius = (smallest**-2 - share * (smallest**-2 - largest**-2)) ** -0.5
        top, left, turn = rng.random() * height, rng.random() * width, rng.random() * np.pi
        reach = 1.5 * radius  # a box's corner is √2 radii away; what lies farther is not looked at
        rows = slice(max(0, int(top - reach)), max(0, int(top + reach) + 2))
        columns = slice(max(0, int(left - reach)), max(0, int(left + reach) + 2))
        part = picture[rows, columns]
        v = np.arange(rows.start, rows.start + part.shape[0], dtype=np.float32)[:, None] - top
        u = np.arange(columns.start, columns.start + part.shape[1], dtype=np.float32) - left
        along, across = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
        if rng.random() < 0.5:
            inside = along**2 + across**2 < radius**2
        else:
            inside = (np.abs(along) < radius) & (np.abs(across) < radius * rng.uniform(0.1, 1))
        light = 1 + rng.normal(scale=0.3) * along[inside] / radius + rng.normal(scale=rng.uniform(0, 0.2),
                                                                               size=inside.sum())
        part[inside] = rng.random(3, dtype=np.float32) * light[:, None]
    return torch.from_numpy(picture.clip(0, 1)).permute(2, 0, 1).contiguous()


def drawn_penalty_images(size: tuple[int, int], *, count: int = 200, seed: int = 0) -> list[Sample]:
    """The package's own penalty images: `count` pictures by `dead_leaves`, as samples, held in memory as bytes."""
    pictures = [(dead_leaves(size, seed * 1_000_003 + i) * 255).round().to(torch.uint8) for i in range(count)]
    return as_samples(pictures)


def choose_penalty_images(penalty_images: object, size: tuple[int, int], seed: int) -> list[Sample] | None:
    """What a user gave as penalty images, as samples; None gives drawn ones, False none at all, with a warning."""
    if penalty_images is False:
        warnings.warn("EfficientAD: no penalty images, so no penalty. The student may then follow its teacher on what "
                      "it was not shown; penalty_images=None takes drawn pictures", stacklevel=3)
        return None
    return drawn_penalty_images(size, seed=seed) if penalty_images is None else as_samples(penalty_images)


def penalty_batch(
    samples: Sequence[Sample], count: int, size: tuple[int, int], generator: torch.Generator, *, grey: float = 0.3
) -> Tensor:
    """Penalty images P, drawn at random.

    Each is resized to twice the size, and its middle is taken; a drawn picture of the right size stays as it is. One
    that cannot be read is passed over.

    Parameters
    ----------
    samples : sequence of Sample
    count : int
    size : (H, W)
    generator : torch.Generator
    grey : float
        Share of the images that lose their colour.

    Returns
    -------
    Tensor (count, 3, H, W)
        In [0, 1].

    Raises
    ------
    ImageError
        Where twenty in a row cannot be read.

    References
    ----------
    The reference, for ImageNet: 512 pixels, the middle 256, 30 % grey.
    """
    batch: list[Tensor] = []
    failed = 0
    while len(batch) < count:
        sample = samples[int(torch.randint(len(samples), (1,), generator=generator))]
        try:
            image = sample.image
        except ImageError as error:
            failed += 1
            if failed == 20:
                raise ImageError("penalty_images: twenty images in a row cannot be read, the last one: "
                                 f"{error}") from None
            continue
        failed = 0
        if tuple(image.shape[-2:]) != size:
            height, width = size
            image = resize_image(image, (2 * height, 2 * width))
            image = image[:, height // 2 : height // 2 + height, width // 2 : width // 2 + width]
        batch.append(image)
    return change_colour(torch.stack(batch), 0.0, generator, grey=grey)
