"""The synthetic factory: pictures of products that never existed, with exact masks, and nothing to download.

A product is a module with four things: `KINDS`, its defects; `make_scene(generator)`, the parameters of one good
part and its light; `draw(scene, size, kind, generator)`, the noise-free picture of that scene, with a defect in
it if one is named; and `MASK_GAP`, the gap in units that masks are closed over. Sensor noise, masks, splits and
files are common to all products and live here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import label, maximum_filter, minimum_filter
from torch import Tensor

from adlib.datasets import synthetic_fabric, synthetic_washer
from adlib.datasets.sample import DatasetError, Sample
from adlib.datasets.synthetic_shapes import UNITS
from adlib.images import read_image

PRODUCTS: dict[str, Any] = {"fabric": synthetic_fabric, "washer": synthetic_washer}

TOLERANCE = 5 / 255  # a pixel that a defect changes by less, before noise, is not part of it
MIN_AREA = 24  # pixels of a 256 px picture that a defect changes at least; smaller regions are left out of it
NOISE = (0.006, 0.011)  # range over the images of the noise's standard deviation in bright places


class Pair(NamedTuple):
    """One scene without and with a defect, images (3, H, W) float32 in [0, 1], and the defect's mask (H, W) bool."""

    good: Tensor
    defective: Tensor
    mask: Tensor


class SyntheticFactory:
    """Pictures of one product: `train` and `validation` are good, `test` is good and defective.

    product: "fabric" or "washer". size: side in pixels. n_train, n_validation: good images. n_test: good test images;
    n_defect: defective ones, spread evenly over the product's kinds. seed: another seed, another factory.

    Image i depends on (product, split, kind, i, seed) alone, and not on how many others there are or which were
    made before. Pixel values are multiples of 1/255. The mask is exact: the pixels that differ between the
    noise-free pictures of one scene with and without the defect by more than TOLERANCE, and the gaps between them
    that are narrower than the product's MASK_GAP; what would be a region below MIN_AREA is left as it was. Outside
    the mask nothing changes. Raises DatasetError for an unknown product and ValueError for sizes or numbers that
    make no data set.
    """

    def __init__(
        self,
        product: str,
        *,
        size: int = 256,
        n_train: int = 200,
        n_validation: int = 100,
        n_test: int = 200,
        n_defect: int = 200,
        seed: int = 0,
    ) -> None:
        if product not in PRODUCTS:
            raise DatasetError(f"{product!r} is no product, expected one of {', '.join(PRODUCTS)}; choose one of these")
        if size < 32:
            raise ValueError(f"size is {size}, expected at least 32 pixels; the default is 256")
        for name, number in [("n_train", n_train), ("n_validation", n_validation), ("n_test", n_test),
                             ("n_defect", n_defect)]:
            if number < 0:
                raise ValueError(f"{name} is {number}, expected 0 or more; choose a number of images")
        self.product, self.size, self.seed = product, size, seed
        self.kinds: tuple[str, ...] = PRODUCTS[product].KINDS
        self.train = [self._sample("train", "good", i) for i in range(n_train)]
        self.validation = [self._sample("validation", "good", i) for i in range(n_validation)]
        self.test = [self._sample("test", "good", i) for i in range(n_test)]
        share, left_over = divmod(n_defect, len(self.kinds))
        for position, kind in enumerate(self.kinds):
            self.test += [self._sample("test", kind, i) for i in range(share + (position < left_over))]

    def split(self) -> tuple[list[Sample], list[Sample]]:
        """Training and test samples."""
        return self.train, self.test

    def pair(self, i: int, kind: str | None = None) -> Pair:
        """Scene i with and without a defect, under the same noise: equal outside the mask.

        The defective image is test image i of that kind. kind: one of `kinds`; by default they take turns.
        Raises DatasetError for another kind.
        """
        kind = self.kinds[i % len(self.kinds)] if kind is None else kind
        if kind not in self.kinds:
            raise DatasetError(f"{kind!r}: is no defect of {self.product}, expected one of {', '.join(self.kinds)}; "
                               "choose one of these")
        good, defective, mask = self._clean_pair("test", kind, i)
        identity = ("test", kind, i)
        return Pair(self._expose(good, *identity), self._expose(defective, *identity), torch.from_numpy(mask))

    def write(self, folder: str | Path) -> Path:
        """Write all images as PNG in the layout of MVTec AD to `folder/<product>`, and return that path.

        `MVTecAD(folder, product)` reads the same pixels back. Validation images go to validation/good. A file
        appears when it is whole; files of the same name are replaced.
        """
        root = Path(folder) / self.product
        for name, pixels in self._files():
            _write_png(root / name, pixels)
        return root

    def _files(self) -> Iterator[tuple[str, np.ndarray]]:
        for sample in (*self.train, *self.validation, *self.test):
            split, kind, number = sample.path.split("/")[1:]
            yield f"{split}/{kind}/{number}.png", (sample.image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            if sample.label and sample.mask is not None:
                yield f"ground_truth/{kind}/{number}_mask.png", sample.mask.numpy().astype(np.uint8) * 255

    def _sample(self, split: str, kind: str, i: int) -> Sample:
        return Sample(
            int(kind != "good"), kind, f"{self.product}/{split}/{kind}/{i:03d}",
            image_source=partial(self._image, split, kind, i), mask_source=partial(self._mask, split, kind, i),
        )

    def _image(self, split: str, kind: str, i: int) -> Tensor:
        if kind == "good":
            scene = PRODUCTS[self.product].make_scene(self._generator(split, kind, i, "scene"))
            return self._expose(PRODUCTS[self.product].draw(scene, self.size), split, kind, i)
        return self._expose(self._clean_pair(split, kind, i)[1], split, kind, i)

    def _mask(self, split: str, kind: str, i: int) -> Tensor:
        if kind == "good":
            return torch.zeros((self.size, self.size), dtype=torch.bool)
        return torch.from_numpy(self._clean_pair(split, kind, i)[2])

    def _clean_pair(self, split: str, kind: str, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The noise-free pictures (3, h, w) without and with the defect, and the mask (h, w)."""
        product = PRODUCTS[self.product]
        scene = product.make_scene(self._generator(split, kind, i, "scene"))
        good = np.clip(product.draw(scene, self.size), 0, 1)
        enough = MIN_AREA * (self.size / 256) ** 2
        for attempt in range(50):  # a defect may fall outside the picture or come out too faint to see
            generator = self._generator(split, kind, i, f"defect {attempt}")
            defective = np.clip(product.draw(scene, self.size, kind, generator), 0, 1)
            changed = np.abs(defective - good).max(axis=0) > TOLERANCE
            mask = _close(changed, max(1, round(product.MASK_GAP * self.size / UNITS)))
            mask = _without_specks(mask, enough)
            if mask.any():
                return good, np.where(mask, defective, good), mask
        raise RuntimeError(f"{self.product}/{split}/{kind}/{i:03d}: 50 attempts gave no visible defect, expected "
                           "one; the product's defect is drawn too faintly")

    def _expose(self, picture: np.ndarray, split: str, kind: str, i: int) -> Tensor:
        """Add the sensor's noise and round to 8 bits: (3, H, W) in [0, 1]."""
        generator = self._generator(split, kind, i, "noise")
        level = generator.uniform(*NOISE)
        # Photons count for more in bright places, the electronics add a floor everywhere.
        picture = np.clip(picture, 0, 1)
        picture = picture + level * np.sqrt(0.25 + 0.75 * picture) * generator.normal(size=picture.shape)
        return read_image(torch.from_numpy(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)))

    def _generator(self, split: str, kind: str, i: int, purpose: str) -> Generator:
        key = f"{self.product}/{split}/{kind}/{i}/{self.seed}/{purpose}"
        return np.random.default_rng(np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4").tolist())


def _close(mask: np.ndarray, gap: int) -> np.ndarray:
    """Morphological closing with a square of `gap` pixels; what lies beyond the picture counts for neither step."""
    grown = maximum_filter(mask, gap, mode="constant", cval=0)
    # For an even gap the second step's window must lie the other way round, or the mask would shift.
    return minimum_filter(grown, gap, mode="constant", cval=1, origin=-1 if gap % 2 == 0 else 0)


def _without_specks(mask: np.ndarray, smallest: float) -> np.ndarray:
    """The 8-connected regions of at least `smallest` pixels. A region of two pixels would count as a whole defect."""
    regions, _ = label(mask, np.ones((3, 3)))
    large = np.bincount(regions.ravel()) >= smallest
    large[0] = False
    return large[regions]


def _write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(buffer.getvalue())
    os.replace(part, path)
