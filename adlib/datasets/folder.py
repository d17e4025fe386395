"""Data sets that lie in folders: MVTec AD, BTAD, the magnetic tiles, and the reader's own images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from adlib.folders import (
    USUAL_ENDINGS,
    DatasetError,
    bare_stem,
    group_names,
    is_picture,
    list_images,
    some_names,
)
from adlib.samples import Sample, warn_of_skipped

# Names of folders of normal images, without case, spaces, "-" and "_".
NORMAL_NAMES = ("good", "ok", "normal", "nominal", "defectfree", "nodefect", "nodefects", "nondefective", "pass",
                "passed", "fine", "gut", "正常", "良品")
TILE_GAP = 100  # a larger step between two numbers starts a new tile


class MVTecAD:
    """One category of MVTec AD (Bergmann et al. 2019), or any data in its layout.

    The layout is ``<category>/train/good/*.png``, ``<category>/test/<good or defect>/*.png`` and
    ``<category>/ground_truth/<defect>/<name>_mask.png``. MVTec AD has no validation images; data in its layout may have
    them in ``<category>/validation/good``, as the synthetic factory writes them.

    Parameters
    ----------
    root : path
        The folder that holds the categories.
    category : str
        Such as "bottle".

    Attributes
    ----------
    train, validation, test : list of Sample
        Sorted by path.

    Raises
    ------
    DatasetError
        Where a folder is not as expected or a defective image has no mask.
    """

    def __init__(self, root: str | Path, category: str) -> None:
        self.root, self.category = Path(root), category
        self.folder = category_folder(self.root, category, ("train/good", "test"), "MVTecAD")
        self.train = [Sample(0, "good", str(f), image_source=f) for f in images_in(self.folder / "train/good")]
        held = self.folder / "validation" / "good"
        files = images_in(held) if held.is_dir() else []
        self.validation = [Sample(0, "good", str(f), image_source=f) for f in files]
        kinds = folder_names(self.folder / "test")
        if not kinds:
            raise DatasetError(f"{self.folder / 'test'}: has no folder, expected good and one per defect; "
                               "check the copy")
        require_good(self.folder / "test", kinds)
        self.test = [self._test_sample(kind, f) for kind in kinds for f in images_in(self.folder / "test" / kind)]

    def split(self) -> tuple[list[Sample], list[Sample]]:
        """Training and test samples."""
        return self.train, self.test

    def _test_sample(self, kind: str, file: Path) -> Sample:
        if kind == "good":
            return Sample(0, kind, str(file), image_source=file)
        folder = self.folder / "ground_truth" / kind
        names = [folder / f"{stem}_mask.png" for stem in (file.stem, bare_stem(file))]
        mask = next((mask for mask in names if mask.is_file()), None)
        if mask is None:
            raise DatasetError(f"{file}: is a defective image without a mask, expected {names[0]}; "
                               "copy the data set again")
        return Sample(1, kind, str(file), image_source=file, mask_source=mask)


class BTAD:
    """One category of BTAD (beanTech, Mishra et al. 2021).

    The layout is ``<category>/train/ok/*``, ``<category>/test/ok/*``, ``<category>/test/ko/*`` and
    ``<category>/ground_truth/ko/*``. Images and masks are .bmp or .png, mixed: the mask belongs to the image of the
    same stem, whatever the endings. Any value above 0 is defect.

    Parameters
    ----------
    root : path
        The folder that holds the categories.
    category : str
        "01", "02" or "03".

    Attributes
    ----------
    train, validation, test : list of Sample
        Sorted by path; `validation` is empty. The kind is "good" or "ko": BTAD does not name its defects.

    Raises
    ------
    DatasetError
        Where a folder is not as expected, or where a defective image has no mask or several.
    """

    def __init__(self, root: str | Path, category: str) -> None:
        self.root, self.category = Path(root), category
        parts = ("train/ok", "test/ok", "test/ko", "ground_truth/ko")
        self.folder = category_folder(self.root, category, parts, "BTAD")
        good = {part: images_in(self.folder / part / "ok") for part in ("train", "test")}
        self.train = [Sample(0, "good", str(f), image_source=f) for f in good["train"]]
        self.validation: list[Sample] = []
        masks: dict[str, list[Path]] = {}
        for mask in images_in(self.folder / "ground_truth/ko"):
            masks.setdefault(bare_stem(mask), []).append(mask)
        self.test = [
            Sample(1, "ko", str(f), image_source=f, mask_source=_btad_mask(f, masks))
            for f in images_in(self.folder / "test/ko")
        ]
        self.test += [Sample(0, "good", str(f), image_source=f) for f in good["test"]]

    def split(self) -> tuple[list[Sample], list[Sample]]:
        """Training and test samples."""
        return self.train, self.test


class MagneticTile:
    """The magnetic tile data set (Huang et al. 2018), split so that no tile stands on two sides.

    The surprise is in the names. About six exposures were taken of each tile, and nothing says which
    belong together except the number n: it counts frames through all folders, free and defective alike,
    so the exposures of one tile have close numbers. ``exp<e>`` does not name the tile. So all images are sorted by n,
    as a number, and a step above 100 starts a new tile: 224 tiles. Exposures of one tile can lie in several folders, as
    a defect is not visible in each light. A random split puts the same tile on both sides.

    Tile index modulo 5: 4 is `test`, 3 is `validation` (both free and defective), 0 to 2 is `train`. A tile
    with a defective image gives no training image.

    Parameters
    ----------
    root : path
        The folder with MT_Free, MT_Blowhole, MT_Break, MT_Crack, MT_Fray and MT_Uneven, each with a folder Imgs of
        images ``exp<e>_num_<n>.jpg`` and masks of the same name in .png.

    Attributes
    ----------
    train, validation, test : list of Sample
        Sorted by n; ``group`` names the tile.

    Raises
    ------
    DatasetError
        Where the folder is not as expected.
    """

    KINDS = ("Blowhole", "Break", "Crack", "Fray", "Free", "Uneven")

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        numbered = sorted(
            (_frame_number(file), kind, file) for kind in self.KINDS for file in self._image_files(kind)
        )
        tiles = [0]
        for (before, _, _), (after, _, _) in pairwise(numbered):
            tiles.append(tiles[-1] + (after - before > TILE_GAP))
        defective_tiles = {tile for tile, (_, kind, _) in zip(tiles, numbered, strict=True) if kind != "Free"}

        self.train: list[Sample] = []
        self.validation: list[Sample] = []
        self.test: list[Sample] = []
        for tile, (_, kind, file) in zip(tiles, numbered, strict=True):
            part = {4: self.test, 3: self.validation}.get(tile % 5, self.train)
            if part is self.train and tile in defective_tiles:
                continue
            part.append(_tile_sample(kind, file, tile))

    def split(self) -> tuple[list[Sample], list[Sample]]:
        """Training and test samples; `validation` is neither."""
        return self.train, self.test

    def _image_files(self, kind: str) -> list[Path]:
        folder = self.root / f"MT_{kind}" / "Imgs"
        if not folder.is_dir():
            found = some_names(folder_names(self.root)) if self.root.is_dir() else "no such folder"
            raise DatasetError(f"{self.root}: has no folder MT_{kind}/Imgs, expected the root of the magnetic tile "
                               f"data set; found {found or 'no folders'}")
        files = [f for f in images_in(folder) if f.suffix.lower() == ".jpg"]
        if not files:
            raise DatasetError(f"{folder}: holds no .jpg, expected the images beside their .png masks; copy it again")
        return files


class ImageFolder:
    """The reader's own images.

    Parameters
    ----------
    train : path
        A folder of images of good parts, searched to the bottom.
    test : path, optional
        A folder of images to be judged. Either it has subfolders (``good``, ``ok``, ``normal``, ``defect-free`` and
        the like, see NORMAL_NAMES, hold normal images, any other is the name of a defect; there need not be a normal
        one), or it is flat; then its images have no ground truth: label None and kind "unlabelled".
    masks : path, optional
        A folder with the subfolders of `test`; the mask of ``hole/12.jpg`` is ``hole/12.png`` or ``hole/12_mask.png``
        (any image type). An anomalous image without one has mask None.
    max_value : float, optional
        See `read_image`.
    group : str or callable, optional
        Names the part that an image shows, so that images of one part stay together: a regular expression searched in
        the path below `train` or `test`, or a function of the path. See `adlib.folders.group_names`.

    Attributes
    ----------
    train, validation, test : list of Sample
        Sorted by path; `validation` is empty.

    Raises
    ------
    DatasetError
        Where a folder is missing or empty, where `test` mixes images and subfolders, where no mask belongs to any
        image or several to one, and where `group` names no part.
    """

    def __init__(
        self,
        train: str | Path,
        test: str | Path | None = None,
        masks: str | Path | None = None,
        *,
        max_value: float | None = None,
        group: str | re.Pattern[str] | Callable[[Path], object] | None = None,
    ) -> None:
        if not (group is None or isinstance(group, (str, re.Pattern)) or callable(group)):
            raise DatasetError(f"group is of type {type(group).__name__}, expected a regular expression or a function "
                               "of the path, which train and test share")
        files, skipped = list_images(train)
        warn_of_skipped(Path(train), skipped)
        self.train = [Sample(0, "good", str(f), part, image_source=f, max_value=max_value)
                      for f, part in zip(files, group_names(files, group, train), strict=True)]
        self.validation: list[Sample] = []
        self.test: list[Sample] = []
        if test is not None:
            unnamed = _own_test(Path(test), None if masks is None else Path(masks), max_value)
            parts = group_names([s.path for s in unnamed], group, test)
            self.test = [replace(s, group=part) for s, part in zip(unnamed, parts, strict=True)]
        elif masks is not None:
            raise DatasetError(f"{masks}: masks without test images, expected both; pass test as well")

    def split(self) -> tuple[list[Sample], list[Sample]]:
        """Training and test samples."""
        return self.train, self.test


def _btad_mask(image: Path, masks: dict[str, list[Path]]) -> Path:
    found = masks.get(bare_stem(image), [])
    if len(found) != 1:
        folder = image.parents[2] / "ground_truth" / "ko"
        raise DatasetError(f"{image}: has {some_names(f.name for f in found) or 'no mask'}, expected one mask "
                           f"{folder / image.stem}.png or .bmp; copy the data set again")
    return found[0]


def _own_test(test: Path, masks: Path | None, max_value: float | None) -> list[Sample]:
    files, skipped = list_images(test)
    warn_of_skipped(test, skipped)
    flat = [f for f in files if f.parent == test and not f.is_dir()]  # a folder here is one that may not be read
    if flat and len(flat) < len(files):
        raise DatasetError(f"{test}: holds images ({flat[0].name}) beside folders of images, expected one or the "
                           "other; move the images into a folder named good or after their defect")
    if flat and masks is not None:
        raise DatasetError(f"{test}: has masks but no subfolders, expected good and one folder per defect; "
                           "sort the images into these")
    by_stem = {} if masks is None else _masks_by_stem(masks)
    samples = []
    for file in files:
        kind = "unlabelled" if flat else file.relative_to(test).parts[0]
        label = None if flat else int(not is_normal(kind))
        mask = _own_mask(file, file.relative_to(test), by_stem) if label else None
        samples.append(Sample(label, kind, str(file), image_source=file, mask_source=mask, max_value=max_value))
    anomalous = [sample for sample in samples if sample.label]
    if masks is not None and anomalous and all(sample.mask_source is None for sample in anomalous):
        expected = masks / Path(anomalous[0].path).relative_to(test).with_suffix(".png")
        raise DatasetError(f"{masks}: holds no mask for any image in {test}, expected for example {expected}; "
                           "check the path and the names")
    return samples


def _masks_by_stem(folder: Path) -> dict[Path, list[Path]]:
    found: dict[Path, list[Path]] = {}
    for mask in list_images(folder)[0]:
        found.setdefault(mask.relative_to(folder).with_name(bare_stem(mask)), []).append(mask)
    return found


def _own_mask(image: Path, below: Path, by_stem: dict[Path, list[Path]]) -> Path | None:
    for name in (bare_stem(below), f"{bare_stem(below)}_mask"):
        found = by_stem.get(below.with_name(name), [])
        if len(found) > 1:
            raise DatasetError(f"{image}: has the masks {some_names(map(str, found))}, expected one; "
                               "remove those that do not belong to it")
        if found:
            return found[0]
    return None


def _tile_sample(kind: str, file: Path, tile: int) -> Sample:
    mask = file.with_suffix(".png")
    if not mask.is_file():
        raise DatasetError(f"{file}: has no mask, expected {mask}; copy the data set again")
    label, name = (0, "good") if kind == "Free" else (1, kind.lower())
    return Sample(label, name, str(file), group=f"tile {tile:03d}", image_source=file, mask_source=mask)


def _frame_number(file: Path) -> int:
    match = re.search(r"_num_(\d+)$", file.stem)
    if match is None:
        raise DatasetError(f"{file}: has no frame number, expected a name such as exp1_num_108719.jpg; "
                           "use the names of the published data set")
    return int(match[1])


def is_normal(kind: str) -> bool:
    """Whether a folder's name says that it holds normal images: one of NORMAL_NAMES."""
    return re.sub(r"[-_\s]", "", kind).casefold() in NORMAL_NAMES


def require_good(folder: Path, kinds: list[str]) -> None:
    """Raise DatasetError where the kinds of test images lack "good": nothing could be measured without it."""
    if "good" not in kinds:
        other = next((kind for kind in kinds if is_normal(kind)), None)
        advice = f"call {other} so" if other else "copy it, or use ImageFolder for images of your own"
        raise DatasetError(f"{folder}: has no folder good with normal images, expected one; found {some_names(kinds)}; "
                           f"{advice}")


def images_in(folder: Path) -> list[Path]:
    """The pictures directly in a folder, sorted; never none."""
    entries = [f for f in _contents(folder) if not os.path.isdir(f)]
    images = [f for f in entries if is_picture(f)]
    if not images:
        raise DatasetError(f"{folder}: holds no image, expected files ending in {USUAL_ENDINGS}; "
                           f"found {some_names(f.name for f in entries) or 'no files'}")
    return images


def folder_names(folder: Path) -> list[str]:
    """The folders directly in a folder, sorted; hidden ones are passed over."""
    return [f.name for f in _contents(folder) if os.path.isdir(f)]


def _contents(folder: Path) -> list[Path]:
    try:
        return sorted(f for f in folder.iterdir() if not f.name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{folder}: may not be read ({error}), expected a readable folder; "
                           "check its permissions") from error


def category_folder(root: Path, category: str, parts: tuple[str, ...], loader: str) -> Path:
    """The folder of a category, when it holds the folders `parts`.

    Raises
    ------
    DatasetError
        Says what is there.
    """
    folder = root / category
    if not folder.is_dir():
        raise DatasetError(_wrong_root(root, category, loader))
    for part in parts:
        if not (folder / part).is_dir():
            raise DatasetError(f"{folder}: has no folder {part}, expected the layout that {loader} reads "
                               f"({', '.join(parts)}); found {some_names(folder_names(folder)) or 'no folders'}")
    return folder


def _wrong_root(root: Path, category: str, loader: str) -> str:
    if not root.is_dir():
        return f"{root}: is not a folder, expected the one that holds the categories; check the path"
    if (root / "train").is_dir() and (root / "test").is_dir():
        return (f"{root}: is itself a category, expected the folder above it; "
                f"use {loader}({str(root.parent)!r}, {root.name!r})")
    present = [name for name in folder_names(root) if (root / name / "train").is_dir()]
    others = some_names(folder_names(root)) or "no folder"
    found = f"categories {some_names(present, 20)}" if present else f"no category but {others}"
    return f"{root}: has no category {category!r}, expected a folder of that name; found {found}"
