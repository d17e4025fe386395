"""MVTec LOCO: logical and structural anomalies, with a folder of masks for each image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adlib.datasets.folder import category_folder, folder_names, images_in, require_good
from adlib.folders import DatasetError, bare_stem, some_names
from adlib.images import ImageError, read_mask, read_size, read_values
from adlib.samples import Region, Sample

LOGICAL, STRUCTURAL = "logical_anomalies", "structural_anomalies"
MAX_CONFIG = 1_000_000  # bytes; the published ones have some thousand


@dataclass(frozen=True)
class DefectType:
    """One entry of ``defects_config.json``: what a grey value in the masks means.

    Attributes
    ----------
    name : str
    grey_value : int
    threshold : float
        A number of pixels, or, if `relative`, a share of the region's area in (0, 1].
    relative : bool
    """

    name: str
    grey_value: int
    threshold: float
    relative: bool

    def saturation(self, area: int) -> int:
        """The saturation area, in pixels, of a region of `area` pixels; at least 1 and at most `area`.

        As MVTec's evaluation code has it: relative, the share of the area, rounded down; absolute, the threshold
        itself, but never more than the area. There a share that rounds down to 0 divides by zero; here it is 1.
        """
        if self.relative:
            return max(1, int(self.threshold * area))
        return int(min(self.threshold, area))


class MVTecLOCO:
    """One category of MVTec LOCO (Bergmann et al. 2022), or any data in its layout.

    The layout is ``<category>/train/good/*.png``, ``<category>/validation/good/*.png``,
    ``<category>/test/<good, logical_anomalies or structural_anomalies>/*.png``, for each anomalous image a folder of
    masks ``<category>/ground_truth/<kind>/<name of the image>/000.png``, ``001.png``, ..., and
    ``<category>/defects_config.json``.

    A mask file is one annotated region: every pixel above 0 belongs to it, also those far apart, and their one grey
    value says which defect it is. A sample's `mask` is the union of its files. `regions` has one Region per file, in
    the order of their names, with the name and the saturation area that ``defects_config.json`` gives.
    Regions may overlap.

    What is established: layout, grey values, saturation area and its limits were read in MVTec's evaluation code (in
    copies of it that others publish; they agree). What is not: this loader has been tested on small trees in this
    layout, and not yet on the whole official archive.

    Parameters
    ----------
    root : path
        The folder that holds the categories.
    category : str
        Such as "breakfast_box".

    Attributes
    ----------
    train, validation, test : list of Sample
        Sorted by path; kind is the folder's name, and `logical` is set for the logical ones.
    defects : dict of int to DefectType
        Maps a grey value to its DefectType.

    Raises
    ------
    DatasetError
        Where a folder, the masks of an image or a valid config is missing. `regions` raises it for a grey value that
        the config does not know.
    ImageError
        From `mask` and `regions`, for a mask that cannot be read or has not the image's size; from `regions` also for
        one without defect pixels or with several grey values.
    """

    def __init__(self, root: str | Path, category: str) -> None:
        self.root, self.category = Path(root), category
        self.folder = category_folder(self.root, category, ("train/good", "validation/good", "test"), "MVTecLOCO")
        self.defects = _read_config(self.folder / "defects_config.json")
        self.train, self.validation = (
            [Sample(0, "good", str(f), image_source=f) for f in images_in(self.folder / part / "good")]
            for part in ("train", "validation")
        )
        kinds = folder_names(self.folder / "test")
        if not kinds or not set(kinds) <= {"good", LOGICAL, STRUCTURAL}:
            raise DatasetError(f"{self.folder / 'test'}: holds {some_names(kinds) or 'no folder'}, expected good, "
                               f"{LOGICAL} and {STRUCTURAL}; use MVTecAD for other kinds, or ImageFolder")
        require_good(self.folder / "test", kinds)
        self.test = [self._test_sample(kind, f) for kind in kinds for f in images_in(self.folder / "test" / kind)]

    def split(self) -> tuple[list[Sample], list[Sample]]:
        """Training and test samples; `validation` is neither."""
        return self.train, self.test

    def _test_sample(self, kind: str, file: Path) -> Sample:
        if kind == "good":
            return Sample(0, kind, str(file), image_source=file)
        folder = self.folder / "ground_truth" / kind / file.stem
        if not folder.is_dir() and (bare := folder.with_name(bare_stem(file))).is_dir():
            folder = bare
        if not folder.is_dir():
            raise DatasetError(f"{file}: is an anomalous image without masks, expected a folder {folder} that holds "
                               "000.png and so on; copy the data set again")
        masks = images_in(folder)
        return Sample(1, kind, str(file), logical=kind == LOGICAL, image_source=file,
                      mask_source=partial(_union, file, masks), region_source=partial(self._regions, file, masks))

    def _regions(self, image: Path, masks: list[Path]) -> tuple[Region, ...]:
        regions = []
        for file in masks:
            mask, grey_value = _read_mask(image, file), _grey_value(file)
            if grey_value not in self.defects:
                known = some_names(map(str, self.defects))
                raise DatasetError(f"{file}: has the grey value {grey_value}, expected one that "
                                   f"{self.folder / 'defects_config.json'} names ({known}); "
                                   "copy mask and config from the same source")
            defect = self.defects[grey_value]
            regions.append(Region(mask, defect.saturation(int(mask.sum())), defect.name))
        return tuple(regions)


def _union(image: Path, masks: list[Path]) -> Tensor:
    mask = torch.zeros(read_size(image), dtype=torch.bool)
    for file in masks:
        mask |= _read_mask(image, file)
    return mask


def _read_mask(image: Path, file: Path) -> Tensor:
    mask, size = read_mask(file), read_size(image)
    if tuple(mask.shape) != size:
        raise ImageError(f"{file}: the mask is {mask.shape[0]} × {mask.shape[1]} (height × width), expected "
                         f"{size[0]} × {size[1]} as {image} has; make both the same size")
    return mask


def _grey_value(file: Path) -> int:
    """The one value above 0 in a mask."""
    values = read_values(file, None, exact=True)[0].to(torch.int64)
    found = [v for v in torch.unique(values).tolist() if v > 0]
    coloured = bool((values != values[:1]).any())
    if coloured or len(found) != 1:
        what = f"the grey values {some_names(map(str, found))}" if found else "no pixel above 0"
        what = "colours" if coloured else what
        raise ImageError(f"{file}: has {what}, expected 0 and one grey value, that of its defect; "
                         "write one file per region")
    return found[0]


def _read_config(file: Path) -> dict[int, DefectType]:
    if not file.is_file():
        raise DatasetError(f"{file}: does not exist, expected MVTec LOCO's list of defects and their grey values; "
                           "copy it beside train and test")
    if file.stat().st_size > MAX_CONFIG:
        raise DatasetError(f"{file}: has {file.stat().st_size:,} bytes, expected a list of defects with at most "
                           f"{MAX_CONFIG:,}; copy it again")
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        defects = [_defect_type(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError, OSError) as error:
        # No JSON, a key is missing, another type, lists in lists without end, or a file that may not be read.
        raise DatasetError(f"{file}: cannot be used ({type(error).__name__}: {error}), expected a list of entries "
                           "with defect_name, pixel_value, saturation_threshold and relative_saturation; "
                           "copy it again") from error
    by_value = {defect.grey_value: defect for defect in defects}
    if not defects or len(by_value) < len(defects):
        raise DatasetError(f"{file}: has {len(defects)} entries with {len(by_value)} grey values, expected one entry "
                           "or more, each with its own pixel_value; copy it again")
    return by_value


def _defect_type(entry: dict[str, Any]) -> DefectType:
    name, value = entry["defect_name"], entry["pixel_value"]
    threshold, relative = entry["saturation_threshold"], entry["relative_saturation"]
    if type(value) is not int or not 1 <= value <= 255:
        raise ValueError(f"{name}: pixel_value is {value!r}, not a whole number from 1 to 255")
    if not isinstance(relative, bool):
        raise ValueError(f"{name}: relative_saturation is {relative!r}, not true or false")
    if relative and not (type(threshold) in (int, float) and 0 < threshold <= 1):
        raise ValueError(f"{name}: saturation_threshold is {threshold!r}, not a share above 0 and at most 1")
    if not relative and not (type(threshold) is int and threshold >= 1):
        raise ValueError(f"{name}: saturation_threshold is {threshold!r}, not a whole number of pixels from 1")
    return DefectType(str(name), value, threshold, relative)
