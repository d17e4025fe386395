"""One image of a data set with what is known about it, read when it is asked for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adlib.checks import users_line
from adlib.folders import DatasetError, group_names, list_images, some_names
from adlib.images import ImageError, ImageSource, read_image, read_mask, read_size

Names = str | Callable[[Path], object] | Sequence[str] | None  # of parts or products, see `as_samples`


@dataclass(frozen=True)
class Region:
    """One annotated region: its mask (H, W) bool and its saturation area in pixels.

    From the saturation on, a detector that marks more of the region gains nothing (MVTec LOCO's sPRO).
    For a structural defect it is the region's whole area.

    Attributes
    ----------
    mask : Tensor (H, W) bool
    saturation : int
        In pixels.
    kind : str
        The name of the defect, finer than the sample's kind where the data say more (a grey value of MVTec LOCO, the
        factory); "" where nothing is known.
    """

    mask: Tensor
    saturation: int
    kind: str = ""


@dataclass(frozen=True)
class Sample:
    """One image: a cheap reference. Its pixels are read anew at each access and never kept.

    Attributes
    ----------
    label : int or None
        0 normal, 1 anomalous, None where nobody has said.
    kind : str
        "good", the name of the defect, or "unlabelled".
    path : str
        The file, or a readable identity such as "fabric/test/hole/003" where there is no file.
    group : str or None
        The part that the image shows; what several images of one part share.
    logical : bool
        Every part is intact, but its number, its place or the combination is wrong (a logical anomaly).
    image_source, mask_source
        What `read_image` and `read_mask` take, or a function that makes the tensor.
    region_source : callable, optional
        Makes the regions, where they are more than the mask.
    max_value, color
        Passed on to `read_image`; None where nobody has said.
    product : str or None
        The kind of part, where one detector inspects several; each has its own threshold.
    """

    label: int | None
    kind: str
    path: str
    group: str | None = None
    logical: bool = False
    image_source: ImageSource | Callable[[], Tensor] = field(repr=False, compare=False, default="")
    mask_source: ImageSource | Callable[[], Tensor] | None = field(repr=False, compare=False, default=None)
    region_source: Callable[[], tuple[Region, ...]] | None = field(repr=False, compare=False, default=None)
    max_value: float | None = field(repr=False, compare=False, default=None)
    color: str | None = field(repr=False, compare=False, default=None)
    product: str | None = None

    @property
    def image(self) -> Tensor:
        """The image (3, H, W), float32 in [0, 1]; `ImageError`, naming the file, where it cannot be read."""
        if callable(self.image_source):
            try:
                made = self.image_source()
            except ImageError:
                raise
            except Exception as error:  # a function of the user; one picture must not stop the others
                raise ImageError(f"{self.path}: the function that makes it fails ({type(error).__name__}: {error}), "
                                 "expected an image; mend the function") from error
            return _made(made, self.path)
        return read_image(self.image_source, max_value=self.max_value, name=self.path, color=self.color or "rgb")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width. Of a file only the header is read; a function is called."""
        if callable(self.image_source):
            _, height, width = self.image.shape
            return height, width
        return read_size(self.image_source, name=self.path)

    @property
    def mask(self) -> Tensor | None:
        """The ground truth (H, W), bool, at the image's own size.

        All False for a normal image without a mask file; None for any other that has no mask.

        Raises
        ------
        ImageError
            Where the mask cannot be read or has not the image's size.
        """
        if callable(self.mask_source):
            return self.mask_source()
        if self.mask_source is None:
            return torch.zeros(self.size, dtype=torch.bool) if self.label == 0 else None
        mask = read_mask(self.mask_source)
        size = self.size
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


def image_files(folder: str | Path) -> list[Path]:
    """Every picture in a folder and below, sorted, and what might hold one: see `adlib.folders.list_images`.

    Raises
    ------
    DatasetError
        Where there is no such folder or no picture in it.
    """
    return list_images(folder)[0]


def as_samples(
    source: object,
    *,
    max_value: float | None = None,
    color: str | None = None,
    group: Names = None,
    product: Names = None,
) -> list[Sample]:
    """Make a list of samples of what a user has.

    What has no label gets label None and kind "unlabelled". Images without a file are named "image[0]", "image[1]",
    and so on. Nothing is read here, so a broken file, or a missing one of a list, is found when its image is asked for.

    Parameters
    ----------
    source : object
        A sequence of Sample; a folder (all images in it and below); a path of a file; a PIL image, an array or a
        tensor; a 4-D batch, tensor (N, C, H, W) or array (N, H, W, C); or a list of paths, PIL images, arrays or
        tensors. A 3-D tensor or array is one image.
    max_value : float, optional
        See `read_image`. Samples that have one keep their own.
    color : str, optional
        The order of colours in arrays and tensors, "rgb" or "bgr" (a camera library's frame). Samples that have one
        keep their own.
    group : str, callable or list of str, optional
        The part that each picture shows, for pictures of which several show one part: a regular expression, searched in
        the path below the folder, whose first group, or whole match, is the part's name; a function of the path; or a
        list of names.
    product : str, callable or list of str, optional
        The kind of part, in the same way, where there are several.

    Returns
    -------
    list of Sample

    Raises
    ------
    DatasetError
        For an empty source, one of another type, a single path where nothing lies, or a path that a pattern does not
        fit.
    """
    return collect(source, max_value=max_value, color=color, group=group, product=product)[0]


def collect(
    source: object,
    *,
    max_value: float | None = None,
    color: str | None = None,
    group: Names = None,
    product: Names = None,
) -> tuple[list[Sample], list[Path]]:
    """As `as_samples`; also the files of a folder that are no pictures by their endings. It warns where there are some.

    Hidden files are listed, but no reason for a warning.
    """
    if color not in (None, "rgb", "bgr"):
        raise ValueError(f"color = {color!r}: expected 'rgb' or 'bgr', the order of the colours in arrays")
    base, skipped = None, []
    if isinstance(source, str) and not source.strip() or source is None:
        raise DatasetError(f"{source!r}: is no path, expected a folder of images or one image; give its name")
    if isinstance(source, (str, Path)) and not os.path.lexists(source):
        raise DatasetError(f"{source}: does not exist, expected a folder of images or one image; check the path")
    if isinstance(source, (str, Path)) and Path(source).is_dir():
        base = Path(source)
        found, skipped = list_images(base)
        items: list[object] = list(found)
    elif isinstance(source, (str, Path, Image.Image, Sample)):
        items = [source]
    elif isinstance(source, (Tensor, np.ndarray)):
        items = list(source) if source.ndim == 4 else [source]
    elif isinstance(source, Iterable):
        items = list(source)
    else:
        raise DatasetError(f"{type(source).__name__}: cannot be taken as images, expected samples (of a data set its "
                           "train or test), a folder, paths, PIL images, arrays or tensors; convert it to one of these")
    if not items:
        raise DatasetError("no images: the source is empty, expected at least one; check how it was made")
    if base:
        warn_of_skipped(base, skipped)
    samples = [_as_sample(item, index, max_value, color) for index, item in enumerate(items)]
    paths = [Path(sample.path) for sample in samples]
    if group is not None:
        names = group_names(paths, group, base)
        samples = [replace(sample, group=name) for sample, name in zip(samples, names, strict=True)]
    if product is not None:
        names = group_names(paths, product, base, role="product")
        samples = [replace(sample, product=name) for sample, name in zip(samples, names, strict=True)]
    return samples, skipped


def is_single(images: object) -> bool:
    """Whether a user has given one image, and not a folder or several."""
    if isinstance(images, (np.ndarray, Tensor)):
        return images.ndim < 4
    return isinstance(images, (Image.Image, Sample)) or isinstance(images, (str, Path)) and not Path(images).is_dir()


def warn_of_skipped(base: Path, skipped: Sequence[Path]) -> None:
    """Warn of a folder's files that are no pictures by their endings; not of hidden ones."""
    if shown := [str(f.relative_to(base)) for f in skipped if not _hidden(f.relative_to(base))]:
        warnings.warn(f"{base}: {len(shown)} file(s) passed over, which are no pictures by their endings: "
                      f"{some_names(shown)}", stacklevel=users_line())


def in_memory(samples: Iterable[Sample]) -> list[Sample]:
    """The same samples with image and mask read now and kept: 13 bytes a pixel. For small sets used many times."""
    # The image is in [0, 1] and RGB by now: neither must be applied again.
    return [replace(s, image_source=s.image, mask_source=s.mask, max_value=1.0, color="rgb") for s in samples]


def _as_sample(item: object, index: int, max_value: float | None, color: str | None) -> Sample:
    if isinstance(item, Sample):  # what it says of itself counts more
        own = (max_value if item.max_value is None else item.max_value, item.color or color)
        return item if own == (item.max_value, item.color) else replace(item, max_value=own[0], color=own[1])
    if isinstance(item, (str, Path)):
        return Sample(None, "unlabelled", str(item), image_source=item, max_value=max_value, color=color)
    if isinstance(item, (Image.Image, np.ndarray, Tensor)):
        return Sample(None, "unlabelled", f"image[{index}]", image_source=item, max_value=max_value, color=color)
    raise DatasetError(f"item {index} is of type {type(item).__name__}, expected a sample, a path, a PIL image, "
                       "an array or a tensor; convert it to one of these")


def _made(image: object, name: str) -> Tensor:
    """The image that a function has made, or an ImageError where it is none."""
    if not isinstance(image, Tensor) or image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
        found = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise ImageError(f"{name}: its function gives {found}, expected a float tensor (3, H, W); see read_image")
    if not bool(((image >= -1e-6) & (image <= 1 + 1e-6)).all()):  # beyond rounding; NaN is neither
        raise ImageError(f"{name}: its function gives values outside [0, 1], or NaN, expected values from 0 to 1; "
                         "divide by the value of full brightness")
    return image.float().clamp(0, 1)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
