"""How a fitted detector reads images. What `fit` saw is kept, and an image that contradicts it is refused by name."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from adlib.checks import users_line
from adlib.images import ImageError, read_size, read_stored, resize_image, resized_sides, top_left
from adlib.progress import progress_bar
from adlib.receptive_field import ReceptiveField
from adlib.region import FILL, InspectedRegion
from adlib.samples import Sample

STRETCH = 1.25  # how much longer or shorter an image may be, for its height, than those of training
DARK = 16383  # 14 bits; 16-bit images that stay below come from a camera with fewer bits
FEWER = 8  # a 16-bit image that is so many times darker than every training image has fewer bits than they
LEAST_SWAP = 0.02  # a mean difference of red and blue that can be told from none
NO_PIXELS = torch.empty(0)
CALLED = 31  # of the images that only a function can make, so many are made to learn their size


class Look(NamedTuple):
    """An image as the detector gets it, and what the contract asks about."""

    image: Tensor  # (3, h, w) in [0, 1]
    size: tuple[int, int]  # of the image itself, in pixels
    type: str | None  # of the stored values, such as "uint8"; None where a function made the image
    maximum: float  # the value that became 1
    largest: float  # the largest stored value
    stated: bool  # whether somebody gave max_value
    red_less_blue: float  # mean over the pixels
    unsure: bool  # whether the order of its colours is taken from the contract, and not known


@dataclass(frozen=True)
class Reading:
    """The reading contract of a detector: fixed by `fit`, kept in its file, used by every `predict`.

    Attributes
    ----------
    maxima : dict of str to float
        For each type of stored values in the training images ("uint8", "uint16", "float", …), the value that becomes 1.
    color : str
        The order of colours in arrays and tensors, "rgb" or "bgr". Files have their own.
    aspects : (float, float)
        The least and the greatest height over width of the training images.
    pixels : int
        Of the smallest training image.
    red_less_blue : (float, float)
        The least and the greatest mean difference of red and blue in a training image.
    reach : float
        The least of the largest values of the 16-bit training images; 0 where there were none.
    region : InspectedRegion, optional
        What of the picture is looked at; everything else is made grey before the image is resized.
    own_size : (int, int), optional
        Height and width that each image must have, where images are not resized but, at the right and below, continued
        with their last pixels to a size that tiles can be cut from.
    """

    maxima: dict[str, float] = field(default_factory=dict)
    color: str = "rgb"
    aspects: tuple[float, float] = (0.0, math.inf)
    pixels: int = 0
    red_less_blue: tuple[float, float] = (-1.0, 1.0)
    reach: float = 0.0
    region: InspectedRegion | None = None
    own_size: tuple[int, int] | None = None

    def look(self, sample: Sample, size: tuple[int, int], resize: int | None = None) -> Look:
        """Read one image as the training images were read: resized to `size`, or its middle of that size.

        With `resize`, the shorter side becomes so many pixels, and the middle is cut then.

        Raises
        ------
        ImageError
            Names the image where it cannot be read or contradicts the contract.
        """
        source, name = sample.image_source, sample.path
        if self.own_size is not None:
            return self._look_at_own_size(sample, size)
        if callable(source):
            image = sample.image
            _, height, width = image.shape
            if self.region is not None:
                image = image.clone()  # the function may give the same tensor again
                self._fill(image, name)
            sides = resized_sides((height, width), size, resize)
            look = Look(resize_image(image, sides), (height, width), None, 1.0, 1.0, True, 0.0, False)
        else:
            sides = size if resize is None else resized_sides(read_size(source, name=name), size, resize)
            stored = read_stored(source, name=name, max_value=sample.max_value, maxima=self.maxima, size=sides,
                                 color=sample.color or self.color,
                                 change=None if self.region is None else lambda plane: self._fill(plane, name))
            unsure = sample.color is None and not isinstance(source, (str, Path, Image.Image))
            look = Look(stored.image, stored.size, stored.type, stored.maximum, stored.largest,
                        sample.max_value is not None, 0.0, unsure)
        top, left = top_left(sides, size)
        look = look._replace(image=look.image[:, top : top + size[0], left : left + size[1]])
        red, _, blue = look.image.mean((1, 2)).tolist()
        look = look._replace(red_less_blue=red - blue)
        self._check(look, name)
        return look

    def _look_at_own_size(self, sample: Sample, size: tuple[int, int]) -> Look:
        own = self.own_size or size
        look = dataclasses.replace(self, own_size=None).look(sample, own)
        if look.size != own:
            raise ImageError(f"{sample.path}: is {look.size[0]} × {look.size[1]} pixels (height × width), expected "
                             f"{own[0]} × {own[1]} as the training images, which are looked at in their own size; give "
                             "the picture as the camera took it, or fit with image_size= to resize all")
        missing = (0, size[1] - own[1], 0, size[0] - own[0])
        return look._replace(image=F.pad(look.image[None], missing, mode="replicate")[0]) if any(missing) else look

    def _fill(self, planes: Tensor, name: str) -> None:
        """Make planes (…, H, W) grey, in place, where they are not inspected."""
        if self.region is not None:
            planes.masked_fill_(~self.region.at((planes.shape[-2], planes.shape[-1]), name), FILL)

    def _check(self, look: Look, name: str) -> None:
        if look.type is not None and self.pixels:  # the contract is made
            self._check_values(look, name)
        if look.type == "float" and look.largest <= 1 and look.maximum >= 2:
            raise ImageError(f"{name}: holds floats up to {look.largest:.3g}, and is to be read with max_value = "
                             f"{look.maximum:g}, so it would be black; multiply it, or give it as the others")
        height, width = look.size
        low, high = self.aspects
        if not low / STRETCH <= height / width <= high * STRETCH:
            usual = " to ".join(dict.fromkeys(f"{aspect:.3g}" for aspect in (low, high)))
            raise ImageError(f"{name}: is {height} × {width} pixels (height × width), expected the aspect of the "
                             f"training images, whose height is {usual} times their width; turn it, crop it as they "
                             "are, or fit on such images")
        h, w = look.image.shape[1:]
        if height * width < min(self.pixels / 4, h * w):
            raise ImageError(f"{name}: has {height} × {width} pixels, expected at least a quarter of those of the "
                             f"smallest training image, {self.pixels:,}; give the picture as the camera took it")
        low, high = self.red_less_blue
        coloured = low > LEAST_SWAP or high < -LEAST_SWAP
        if look.unsure and coloured and low - LEAST_SWAP <= -look.red_less_blue <= high + LEAST_SWAP:
            raise ImageError(f"{name}: red and blue seem to be swapped, beside the training images; say color='bgr' or "
                             "color='rgb' in predict, whichever it is")

    def _check_values(self, look: Look, name: str) -> None:
        known = self.maxima.get(look.type or "")
        if known is not None:
            if look.maximum != known:
                raise ImageError(f"{name}: is to be read with max_value = {look.maximum:g}, expected {known:g}, with "
                                 "which the detector was fitted; leave it out, or fit again")
            if look.type == "uint16" and look.largest * FEWER < self.reach:
                raise ImageError(f"{name}: its largest value is {look.largest:g}, expected some of the size of the "
                                 f"training images', which all reach {self.reach:g}; it has fewer bits than they, or "
                                 "shows next to nothing")
            return
        whole = {t for t in self.maxima if t not in ("float", "bool")}
        if look.type in ("float", "bool") or not whole and (look.type == "uint8" or look.stated):
            return  # values from 0 to 1 need no scale, and 8 bits leave no doubt
        found = ", ".join(f"{t} with the maximum {m:g}" for t, m in sorted(self.maxima.items())) or "values from 0 to 1"
        raise ImageError(f"{name}: holds {look.type} values, expected {found}, as the training images; "
                         "give the picture as the camera took it, or fit on such images")

    def completed(self, looks: Sequence[Look], samples: Sequence[Sample]) -> Reading:
        """The contract after all training images were read; looks without pixels will do.

        It warns where images of very different aspects are all resized to one.

        Raises
        ------
        ValueError
            Where they contradict each other, or seem to have been read with the wrong maximum.
        """
        maxima: dict[str, float] = {}
        for look, sample in zip(looks, samples, strict=True):
            if look.type is not None and maxima.setdefault(look.type, look.maximum) != look.maximum:
                raise ValueError(f"{sample.path}: is read with max_value = {look.maximum:g}, others of its type with "
                                 f"{maxima[look.type]:g}, expected one for all training images; give one max_value")
        deep = {sample.path: look.largest for look, sample in zip(looks, samples, strict=True)
                if look.type == "uint16" and not look.stated}  # fmt: skip
        largest = max(deep.values(), default=math.inf)
        if largest <= DARK:
            bits = max(9, math.ceil(math.log2(largest + 1)))
            raise ValueError(
                f"{len(deep)} training images (such as {next(iter(deep))}) have 16 bits, but their largest value is "
                f"{largest:g}: read over the full range they are nearly black. Expected max_value, the value of full "
                f"brightness: max_value={2**bits - 1} for a camera of {bits} bits, or max_value=65535 where they "
                "really are that dark")
        aspects = [look.size[0] / look.size[1] for look in looks]
        middle = statistics.median(aspects)
        if odd := [i for i, a in enumerate(aspects) if not middle / STRETCH <= a <= middle * STRETCH]:
            (h, w), usual = looks[odd[0]].size, looks[aspects.index(statistics.median_low(aspects))].size
            warnings.warn(f"{len(odd)} of {len(samples)} training images are not of the others' shape, such as "
                          f"{samples[odd[0]].path}: {h} × {w} pixels (height × width), others are {usual[0]} × "
                          f"{usual[1]}, and all are resized to one size. Turn them, cut them alike, or fit a detector "
                          "for each shape, unless parts may come so", stacklevel=users_line())
        swap = [look.red_less_blue for look in looks]
        return dataclasses.replace(self, maxima=maxima, aspects=(min(aspects), max(aspects)),
                                   red_less_blue=(min(swap), max(swap)),
                                   reach=min((k.largest for k in looks if k.type == "uint16"), default=0.0),
                                   pixels=min(look.size[0] * look.size[1] for look in looks))

    def as_json(self) -> dict[str, Any]:
        """What a file holds."""
        kept = dataclasses.asdict(dataclasses.replace(self, region=None))
        return kept | {"region": self.region.as_json()} if self.region is not None else kept

    @classmethod
    def from_json(cls, kept: Any) -> Reading:
        """What `as_json` gave.

        Raises
        ------
        ValueError
            Where it is anything else.
        """
        try:
            maxima = {str(name): float(value) for name, value in kept["maxima"].items()}
            aspects, swap = ((float(low), float(high)) for low, high in (kept["aspects"], kept["red_less_blue"]))
            region = InspectedRegion.from_json(kept["region"]) if kept.get("region") else None
            reading = cls(maxima, kept["color"], aspects, kept["pixels"], swap, float(kept["reach"]), region,
                          tuple(kept["own_size"]) if kept.get("own_size") else None)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"reading: {kept!r:.200}: expected what save writes ({error})") from None
        right = (all(0 < value < math.inf for value in maxima.values()) and reading.color in ("rgb", "bgr")
                 and 0 <= aspects[0] <= aspects[1] and -1 <= swap[0] <= swap[1] <= 1
                 and type(reading.pixels) is int and reading.pixels >= 0 and 0 <= reading.reach < math.inf
                 and (reading.own_size is None or len(reading.own_size) == 2
                      and all(type(side) is int and side > 0 for side in reading.own_size)))  # fmt: skip
        if not right:
            raise ValueError(f"reading: {kept!r:.200}: expected what save writes")
        return reading


def working_size(samples: Sequence[Sample], side: int, least: int) -> tuple[int, int]:
    """The size (height, width) to which images are resized by default: their median aspect, the area of side × side.

    Both are multiples of 16, so that the grids of the layers fit on each other, and at least `least`. Of files only the
    headers are read; images that only a function can make are sampled. An image that cannot be read has no say.
    """
    aspects = sorted(height / width for _, (height, width) in some_sizes(samples))
    root = math.sqrt(aspects[len(aspects) // 2]) if aspects else 1.0
    height, width = (max(least, 16 * round(length / 16)) for length in (side * root, side / root))
    return height, width


def some_sizes(samples: Sequence[Sample]) -> Iterator[tuple[Sample, tuple[int, int]]]:
    """The sizes of the images that can be read, of files by their headers; of those that functions make, a sample."""
    called = [s for s in samples if callable(s.image_source)]
    chosen = called[:: -(-len(called) // CALLED)] if called else []
    for sample in [*(s for s in samples if not callable(s.image_source)), *chosen]:
        with contextlib.suppress(ImageError):
            yield sample, sample.size


def one_size(sizes: Mapping[tuple[int, int], str], step: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The one size (height, width) that the images have, up to whole steps and as it is; `sizes` names one of each.

    Raises
    ------
    ValueError
        Where there are several.
    """
    if len(sizes) != 1:
        some = [f"{name} is {height} × {width}" for (height, width), name in list(sizes.items())[:2]]
        raise ValueError(f"with tiles, images stay as large as they are, expected one size for all, but "
                         f"{' and '.join(some) or 'none can be read'} (height × width); give image_size=(height, "
                         "width) beside tiles, and all are resized to it, or take pictures of one camera")
    own = next(iter(sizes))
    return whole_steps(own, step), own


def whole_steps(size: tuple[int, int], step: int) -> tuple[int, int]:
    """The size (height, width), up to whole steps."""
    height, width = (step * -(-side // step) for side in size)
    return height, width


def smallest_side(reading: Reading, field: ReceptiveField | None, stride: int, image_size: tuple[int, int],
                  resize: int | None) -> float | None:  # fmt: skip
    """Two cells of the grid, in pixels of the training images; see `adlib.detector.Detector.smallest_defect`."""
    if field is None or not reading.pixels:
        return None
    cell = field.stride * stride
    if reading.own_size is not None:
        return 2.0 * cell
    height = math.sqrt(reading.pixels * reading.aspects[0])
    size = round(height), round(reading.pixels / height)
    sides = resized_sides(size, image_size, resize)
    return 2.0 * cell * max(own / side for own, side in zip(size, sides, strict=True))


def read_batches(
    samples: Sequence[Sample],
    reading: Reading,
    size: tuple[int, int],
    batch_size: int,
    device: torch.device,
    failures: dict[str, str],
    what: str,
    resize: int | None = None,
) -> Iterator[tuple[Tensor, list[Sample], list[Look]]]:
    """Batches (B, 3, h, w) on the device, their samples, and looks without pixels; two threads read one batch ahead.

    Each sample comes out in a batch or is added to `failures`. `what` stands beside the progress bar. A single image is
    read without threads, which would take longer to start.
    """

    def read(sample: Sample) -> Look | str:
        try:
            return reading.look(sample, size, resize)
        except ImageError as error:
            return str(error)

    chunks = list(chunks_of(samples, batch_size))
    hidden = len(chunks) < 2
    with ThreadPoolExecutor(2) as pool, progress_bar(total=len(samples), desc=what, disable=hidden) as bar:

        def begin(chunk: Sequence[Sample]) -> list[Callable[[], Look | str]]:
            return [partial(read, s) if len(samples) == 1 else pool.submit(read, s).result for s in chunk]

        ahead = begin(chunks[0]) if chunks else []
        for i, chunk in enumerate(chunks):
            results = [result() for result in ahead]
            ahead = begin(chunks[i + 1]) if i + 1 < len(chunks) else []
            good = [(r, s) for r, s in zip(results, chunk, strict=True) if not isinstance(r, str)]
            for result, sample in zip(results, chunk, strict=True):
                if isinstance(result, str):
                    failures[new_name(sample.path, failures)] = result
            if good:
                images = [look.image for look, _ in good]  # of a single one, which may be large, no copy
                batch = torch.stack(images) if len(images) > 1 else images[0][None].contiguous()
                yield batch.to(device), [s for _, s in good], [look._replace(image=NO_PIXELS) for look, _ in good]
            bar.update(len(chunk))


def chunks_of(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, `size` at a time."""
    return (items[i : i + size] for i in range(0, len(items), size))


def new_name(name: str, taken: Mapping[str, str]) -> str:
    """`name`, or "name (2)" and so on, which `taken` does not have."""
    tries = (name if k == 1 else f"{name} ({k})" for k in itertools.count(1))
    return next(t for t in tries if t not in taken)
