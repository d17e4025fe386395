"""The synthetic factory: pictures of products that never existed, with exact masks, and nothing to download.

A product is a module with four things: `KINDS`, its structural defects; ``make_scene(generator)``, the parameters of
one good part and its light; ``draw(scene, size, kind, generator)``, the noise-free picture of that scene, with a
defect in it if one is named; and `MASK_GAP`, the gap in units that masks are closed over.

A product may also have logical anomalies: every part is intact, but their number, place or combination is wrong.
`LOGICAL` names them, each with its saturation area in square units, and ``alter(scene, size, kind, generator)`` gives
the wrong scene and its annotated regions. A logical anomaly is then a correct drawing of a wrong scene.

Sensor noise, masks, splits and files are common to all products and live here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import label, maximum_filter, minimum_filter
from torch import Tensor

from adlib.factory import board, fabric, kit, washer
from adlib.factory.shapes import UNITS
from adlib.images import read_image
from adlib.samples import DatasetError, Region, Sample

# A change of any pixel is a new version: results of one version do not compare with another's. A test holds the
# pictures to their hashes.
VERSION = 1

PRODUCTS: dict[str, Any] = {
    "board": board, "fabric": fabric, "kit": kit, "washer": washer,
}  # fmt: skip
LAYOUTS = ("mvtec_ad", "mvtec_loco")

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

    All products have structural defects, ``kit`` has logical anomalies besides.

    Image i depends on (product, split, kind, i, seed) alone, and not on how many others there are or which were
    made before. Pixel values are multiples of 1/255. The mask of a structural defect is exact: the pixels that
    differ between the noise-free pictures of one scene with and without the defect by more than TOLERANCE, and
    the gaps between them that are narrower than the product's MASK_GAP; what would be a region below MIN_AREA is
    left as it was. A logical anomaly is annotated as in MVTec LOCO, by one region for each place that is
    wrong, with the area from which on more overlap earns nothing. Outside the mask nothing changes.

    Parameters
    ----------
    product : str
        "board", "fabric", "kit" or "washer".
    size : int
        Side in pixels.
    n_train, n_validation : int
        Good images.
    n_test : int
        Good test images.
    n_defect : int
        Defective test images of each anomaly type, spread evenly over the type's kinds.
    seed : int
        Another seed, another factory.

    Raises
    ------
    DatasetError
        For an unknown product.
    ValueError
        For sizes or numbers that make no data set.
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
        self.structural: tuple[str, ...] = PRODUCTS[product].KINDS
        self.logical: tuple[str, ...] = tuple(_saturations(product))
        self.kinds = self.structural + self.logical
        self.train = [self._sample("train", "good", i) for i in range(n_train)]
        self.validation = [self._sample("validation", "good", i) for i in range(n_validation)]
        self.test = [self._sample("test", "good", i) for i in range(n_test)]
        for kinds in filter(None, (self.structural, self.logical)):
            share, left_over = divmod(n_defect, len(kinds))
            for position, kind in enumerate(kinds):
                self.test += [self._sample("test", kind, i) for i in range(share + (position < left_over))]

    def split(self) -> tuple[list[Sample], list[Sample]]:
        """Training and test samples."""
        return self.train, self.test

    def pair(self, i: int, kind: str | None = None) -> Pair:
        """Scene i with and without a defect, under the same noise: equal outside the mask.

        The defective image is test image i of that kind.

        Parameters
        ----------
        i : int
        kind : str, optional
            One of ``kinds``; by default they take turns.

        Returns
        -------
        Pair

        Raises
        ------
        DatasetError
            For another kind.
        """
        kind = self.kinds[i % len(self.kinds)] if kind is None else kind
        if kind not in self.kinds:
            raise DatasetError(f"{kind!r}: is no defect of {self.product}, expected one of {', '.join(self.kinds)}; "
                               "choose one of these")
        good, defective, _ = self._clean_pair("test", kind, i)
        identity = ("test", kind, i)
        return Pair(self._expose(good, *identity), self._expose(defective, *identity), self._mask(*identity))

    def write(self, folder: str | Path, layout: str = "mvtec_ad") -> Path:
        """Write all images as PNG to ``folder/<product>``, and return that path.

        ``MVTecAD(folder, product)`` or ``MVTecLOCO(folder, product)`` reads the same pixels back. Validation images go
        to validation/good. A file appears when it is whole.

        Parameters
        ----------
        folder : path
        layout : str
            "mvtec_ad", one folder per kind and one mask per image; or "mvtec_loco", one folder per anomaly type, one
            mask per region, and defects_config.json with the kinds and their saturations.

        Returns
        -------
        Path

        Raises
        ------
        ValueError
            For another layout.
        DatasetError
            For a folder with something in.
        """
        if layout not in LAYOUTS:
            raise ValueError(f"layout is {layout!r}, expected {' or '.join(LAYOUTS)}; choose one of these")
        root = Path(folder) / self.product
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DatasetError(f"{root}: is there already, expected nothing or an empty folder, since old files would "
                               "be read as part of the data set; delete it or choose another place")
        for name, pixels in self._mvtec_ad_files() if layout == "mvtec_ad" else self._mvtec_loco_files():
            _write_png(root / name, pixels)
        if layout == "mvtec_loco":
            _write(root / "defects_config.json", json.dumps(self._defects_config(), indent=2).encode())
        return root

    def _mvtec_ad_files(self) -> Iterator[tuple[str, np.ndarray]]:
        for sample in (*self.train, *self.validation, *self.test):
            split, kind, number = sample.path.split("/")[1:]
            yield f"{split}/{kind}/{number}.png", _pixels(sample)
            if sample.label and (mask := sample.mask) is not None:
                yield f"ground_truth/{kind}/{number}_mask.png", mask.numpy().astype(np.uint8) * 255

    def _mvtec_loco_files(self) -> Iterator[tuple[str, np.ndarray]]:
        values = {entry["defect_name"]: entry["pixel_value"] for entry in self._defects_config()}
        counts: dict[str, int] = {}
        for sample in (*self.train, *self.validation, *self.test):
            split = sample.path.split("/")[1]
            kind = "good" if not sample.label else f"{'logical' if sample.logical else 'structural'}_anomalies"
            number = counts[split + kind] = counts.get(split + kind, -1) + 1
            yield f"{split}/{kind}/{number:03d}.png", _pixels(sample)
            for place, region in enumerate(sample.regions):
                mask = region.mask.numpy() * np.uint8(values[region.kind])
                yield f"ground_truth/{kind}/{number:03d}/{place:03d}.png", mask

    def _defects_config(self) -> list[dict[str, Any]]:
        """What MVTec LOCO says of each kind: the grey value of its masks, and its saturation."""
        config = []
        for value, kind in zip(range(255, 0, -1), self.kinds, strict=False):
            logical = kind in self.logical
            config.append({
                "defect_name": kind, "pixel_value": value,
                "saturation_threshold": _saturation(self.product, kind, self.size) if logical else 1.0,
                "relative_saturation": not logical,
            })  # fmt: skip
        return config

    def _sample(self, split: str, kind: str, i: int) -> Sample:
        source: dict[str, Any] = {name: partial(function, split, kind, i) for name, function in
                  [("image_source", self._image), ("mask_source", self._mask), ("region_source", self._regions)]}
        return Sample(int(kind != "good"), kind, f"{self.product}/{split}/{kind}/{i:03d}",
                      logical=kind in self.logical, **source)

    def _image(self, split: str, kind: str, i: int) -> Tensor:
        if kind == "good":
            product = PRODUCTS[self.product]
            scene = product.make_scene(_generator(self.product, split, kind, i, self.seed, "scene"))
            return self._expose(np.clip(product.draw(scene, self.size), 0, 1), split, kind, i)
        return self._expose(self._clean_pair(split, kind, i)[1], split, kind, i)

    def _mask(self, split: str, kind: str, i: int) -> Tensor:
        if kind == "good":
            return torch.zeros((self.size, self.size), dtype=torch.bool)
        return torch.from_numpy(np.logical_or.reduce(self._clean_pair(split, kind, i)[2]))

    def _regions(self, split: str, kind: str, i: int) -> tuple[Region, ...]:
        if kind == "good":
            return ()
        regions = []
        for mask in self._clean_pair(split, kind, i)[2]:
            area = int(mask.sum())
            saturation = _saturation(self.product, kind, self.size) if kind in self.logical else area
            regions.append(Region(torch.from_numpy(mask.copy()), min(saturation, area), kind))
        return tuple(regions)

    def _clean_pair(self, split: str, kind: str, i: int) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
        """The noise-free pictures (3, h, w) without and with the defect, and the masks (h, w) of its regions."""
        return _clean_pair(self.product, split, kind, i, self.seed, self.size)

    def _expose(self, picture: np.ndarray, split: str, kind: str, i: int) -> Tensor:
        """Add the sensor's noise and round to 8 bits: (3, H, W) in [0, 1]."""
        generator = _generator(self.product, split, kind, i, self.seed, "noise")
        level = generator.uniform(*NOISE)
        # Photons count for more in bright places, the electronics add a floor everywhere.
        grain = generator.standard_normal(picture.shape, dtype=np.float32)  # twice as fast as float64
        picture = picture + level * np.sqrt(0.25 + 0.75 * picture) * grain
        return read_image(torch.from_numpy(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)))


@lru_cache(maxsize=4)  # a sample's image, mask and regions are often asked for one after the other
def _clean_pair(
    name: str, split: str, kind: str, i: int, seed: int, size: int
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    product = PRODUCTS[name]
    scene = product.make_scene(_generator(name, split, kind, i, seed, "scene"))
    good = np.clip(product.draw(scene, size), 0, 1)
    if kind in _saturations(name):
        wrong, masks = product.alter(scene, size, kind, _generator(name, split, kind, i, seed, "anomaly"))
        return good, np.clip(product.draw(wrong, size), 0, 1), tuple(masks)
    enough = MIN_AREA * (size / 256) ** 2
    for attempt in range(50):  # a defect may fall outside the picture or come out too faint to see
        generator = _generator(name, split, kind, i, seed, f"defect {attempt}")
        defective = np.clip(product.draw(scene, size, kind, generator), 0, 1)
        changed = np.abs(defective - good).max(axis=0) > TOLERANCE
        mask = _close(changed, max(1, round(product.MASK_GAP * size / UNITS)))
        mask = _without_specks(mask, enough)
        if mask.any():
            return good, np.where(mask, defective, good), (mask,)
    raise RuntimeError(f"{name}/{split}/{kind}/{i:03d}: 50 attempts gave no visible defect, expected one; "
                       "the product's defect is drawn too faintly")


def _generator(name: str, split: str, kind: str, i: int, seed: int, purpose: str) -> Generator:
    key = f"{name}/{split}/{kind}/{i}/{seed}/{purpose}"
    return np.random.default_rng(np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4").tolist())


def _saturations(name: str) -> dict[str, float]:
    """Saturation area in square units of each logical kind of a product."""
    return getattr(PRODUCTS[name], "LOGICAL", {})


def _saturation(name: str, kind: str, size: int) -> int:
    """The same in pixels of a picture of that size."""
    return max(1, round(_saturations(name)[kind] * (size / UNITS) ** 2))


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


def _pixels(sample: Sample) -> np.ndarray:
    return (sample.image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()  # (H, W, 3)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=3)
    _write(path, buffer.getvalue())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    os.replace(part, path)
