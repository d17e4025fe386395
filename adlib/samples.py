"""One image of a data set with what is known about it, read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adlib.images import IMAGE_EXTENSIONS, ImageError, ImageSource, image_size, read_image, read_mask


class DatasetError(ValueError):
    """A data set that is not where, or not what, it should be. The message says what was expected and found."""


@dataclass(frozen=True)
class Region:
    """One annotated region: its mask (H, W) bool and its saturation area in pixels.

    From the saturation on, a detector that marks more of the region gains nothing (MVTec LOCO's sPRO).
    For a structural defect it is the region's whole area. kind: the name of the defect, finer than the sample's
    kind where the data say more (a grey value of MVTec LOCO, the factory); "" where nothing is known.
    """

    mask: Tensor
    saturation: int
    kind: str = ""


@dataclass(frozen=True)
class Sample:
    """One image: a cheap reference. Its pixels are read anew at each access and never kept.

    label: 0 normal, 1 anomalous. kind: "good" or the name of the defect.
    path: the file, or a readable identity such as "fabric/test/hole/003" where there is no file.
    group: what images share that belong together (exposures of one part), or None.
    logical: every part is intact, but its number, its place or the combination is wrong (a logical anomaly).
    image_source, mask_source: what `read_image` and `read_mask` take, or a function that makes the tensor.
    region_source: a function that makes the regions, where they are more than the mask.
    max_value: passed on to `read_image`.
    """

    label: int
    kind: str
    path: str
    group: str | None = None
    logical: bool = False
    image_source: ImageSource | Callable[[], Tensor] = field(repr=False, compare=False, default="")
    mask_source: ImageSource | Callable[[], Tensor] | None = field(repr=False, compare=False, default=None)
    region_source: Callable[[], tuple[Region, ...]] | None = field(repr=False, compare=False, default=None)
    max_value: float | None = field(repr=False, compare=False, default=None)

    @property
    def image(self) -> Tensor:
        """The image (3, H, W), float32 in [0, 1]. Raises ImageError, naming the file, where it cannot be read."""
        if callable(self.image_source):
            return self.image_source()
        return read_image(self.image_source, max_value=self.max_value, name=self.path)

    @property
    def mask(self) -> Tensor | None:
        """The ground truth (H, W), bool, at the image's own size.

        All False for a normal image without a mask file; None for an anomalous one that has no mask.
        Raises ImageError where the mask cannot be read or has not the image's size.
        """
        if callable(self.mask_source):
            return self.mask_source()
        if self.mask_source is None:
            return torch.zeros(self._size(), dtype=torch.bool) if self.label == 0 else None
        mask = read_mask(self.mask_source)
        size = self._size()
        if tuple(mask.shape) != size:
            where = self.mask_source if isinstance(self.mask_source, (str, Path)) else "mask"
            raise ImageError(f"{where}: the mask is {mask.shape[0]} × {mask.shape[1]} (height × width), expected "
                             f"{size[0]} × {size[1]} as {self.path} has; make both the same size")
        return mask

    @property
    def regions(self) -> tuple[Region, ...]:
        """The annotated regions; by default the mask as one, saturation its area, kind the sample's.

        Empty if none is marked.
        """
        if self.region_source is not None:
            return self.region_source()
        mask = self.mask
        if mask is None or not mask.any():
            return ()
        return (Region(mask, int(mask.sum()), self.kind),)

    def _size(self) -> tuple[int, int]:
        if callable(self.image_source):
            height, width = self.image_source().shape[-2:]
            return height, width
        return image_size(self.image_source, name=self.path)


def image_files(folder: str | Path) -> list[Path]:
    """All image files in a folder and below, sorted by path; hidden files and folders are passed over.

    Raises DatasetError where there is no such folder or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: {'is a file' if folder.exists() else 'does not exist'}, "
                           "expected a folder of images; check the path")
    files = [f for f in sorted(folder.rglob("*")) if not _hidden(f.relative_to(folder)) and f.is_file()]
    images = [f for f in files if f.suffix.lower() in IMAGE_EXTENSIONS]
    if not images:
        raise DatasetError(f"{folder}: holds no image, expected files ending in {', '.join(IMAGE_EXTENSIONS)}; "
                           f"found {_some(f.name for f in files) or 'no files'}")
    return images


def as_samples(source: object, *, max_value: float | None = None) -> list[Sample]:
    """Make a list of samples of what a user has.

    source: a sequence of Sample (returned as a list); a folder (all images in it and below); a path of a file;
    a PIL image, an array or a tensor; a 4-D batch, tensor (N, C, H, W) or array (N, H, W, C); or a list
    of paths, PIL images, arrays or tensors. A 3-D tensor or array is one image.
    max_value: see `read_image`. Samples keep their own.

    What has no label gets label 0 and kind "good": by convention, not by knowledge. Images without a file are
    named "image[0]", "image[1]", and so on. Nothing is read here, so a broken file, or a missing one of a list,
    is found when its image is asked for. Raises DatasetError for an empty source, one of another type, or a
    single path where nothing lies.
    """
    if isinstance(source, (str, Path)) and not Path(source).exists():
        raise DatasetError(f"{source}: does not exist, expected a folder of images or one image; check the path")
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        items: list[object] = list(image_files(source))
    elif isinstance(source, (str, Path, Image.Image, Sample)):
        items = [source]
    elif isinstance(source, (Tensor, np.ndarray)):
        items = list(source) if source.ndim == 4 else [source]
    elif isinstance(source, Iterable):
        items = list(source)
    else:
        raise DatasetError(f"{type(source).__name__}: cannot be taken as images, expected samples, a folder, "
                           "paths, PIL images, arrays or tensors; convert it to one of these")
    if not items:
        raise DatasetError("no images: the source is empty, expected at least one; check how it was made")
    return [_as_sample(item, index, max_value) for index, item in enumerate(items)]


def hold_out(samples: Sequence[Sample], share: float = 0.1, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Split off about `share` of the samples, whole groups at a time: (rest, held), each in the given order.

    Samples whose group is None stand alone. Groups are drawn in an order that `seed` fixes until `share` of
    the samples, and at least one group, is held. Raises ValueError for a share outside (0, 1) and DatasetError
    where nothing would be left.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, expected a number between 0 and 1; 0.1 holds out a tenth")
    groups: dict[object, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(index if sample.group is None else sample.group, []).append(index)
    members = list(groups.values())
    wanted = share * len(samples)
    held: set[int] = set()
    for position in np.random.default_rng(seed).permutation(len(members)):
        if held and len(held) + len(members[position]) / 2 > wanted:
            break
        held.update(members[position])
    if len(held) == len(samples):
        raise DatasetError(f"{len(samples)} samples in {len(members)} group(s): holding out {share:g} leaves "
                           "none to train on, expected at least two groups; add images")
    rest = [sample for index, sample in enumerate(samples) if index not in held]
    return rest, [samples[index] for index in sorted(held)]


def in_memory(samples: Iterable[Sample]) -> list[Sample]:
    """The same samples with image and mask read now and kept: 13 bytes a pixel. For small sets used many times."""
    # The image is in [0, 1] by now: `max_value` must not be applied again.
    return [replace(s, image_source=s.image, mask_source=s.mask, max_value=None) for s in samples]


def _as_sample(item: object, index: int, max_value: float | None) -> Sample:
    if isinstance(item, Sample):
        return item
    if isinstance(item, (str, Path)):
        return Sample(0, "good", str(item), image_source=item, max_value=max_value)
    if isinstance(item, (Image.Image, np.ndarray, Tensor)):
        return Sample(0, "good", f"image[{index}]", image_source=item, max_value=max_value)
    raise DatasetError(f"item {index} is of type {type(item).__name__}, expected a sample, a path, a PIL image, "
                       "an array or a tensor; convert it to one of these")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _some(names: Iterable[str], limit: int = 8) -> str:
    """The first few names for a message."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
