"""VisA (Zou et al. 2022), read from its own layout and its three split files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PureWindowsPath

import torch

from adlib.folders import DatasetError, some_names
from adlib.images import read_values
from adlib.samples import Region, Sample

SPLITS = ("1cls", "2cls_highshot", "2cls_fewshot")
COLUMNS = ["object", "split", "label", "image", "mask"]


class VisA:
    """One object of VisA, such as "candle" or "pcb1".

    Each object has ``<object>/Data/Images/<Normal or Anomaly>/*.JPG`` and ``<object>/Data/Masks/Anomaly/*.png``.

    The surprise is in the masks: they look black, since their values are not 255 but 1 to 9, the number of the kind
    of flaw. Any value above 0 belongs to the mask. `regions` has one Region for each value, its kind "1" to "9". The
    masks were resized once, so a rim of a few pixels may have a wrong number; it belongs to the mask all the same.

    Parameters
    ----------
    root : path
        The folder that holds the objects and ``split_csv/``, as the archive unpacks.
    category : str
        The object.
    protocol : str
        Which split file says who trains and who tests. "1cls" trains on normal images alone: about 90 % of them. The
        training images of "2cls_highshot" (60 %) and "2cls_fewshot" (20 %, of which 5 or 10 are then drawn) hold
        anomalies as well, with label 1: a detector's `fit` refuses these.

    Attributes
    ----------
    train, test : list of Sample
        In the order of the file; the kind is "good" or "anomaly".
    validation : list of Sample
        Empty.

    Raises
    ------
    DatasetError
        Where a folder, a split file, a column or an image is not as expected.

    References
    ----------
    Layout and splits: the repository amazon-science/spot-diff, read there; loaded so far from small trees in that
    layout, not yet from the archive.
    """

    def __init__(self, root: str | Path, category: str, *, protocol: str = "1cls") -> None:
        if protocol not in SPLITS:
            raise DatasetError(f"protocol = {protocol!r}: expected one of {', '.join(SPLITS)}; choose one of these")
        self.root, self.category, self.protocol = Path(root), category, protocol
        file = self.root / "split_csv" / f"{protocol}.csv"
        rows = list(_rows(file))
        own = [row for row in rows if row["object"] == category]
        if not own:
            raise DatasetError(f"{file}: has no object {category!r}, expected one of "
                               f"{some_names(dict.fromkeys(row['object'] for row in rows), 20)}; choose one of these")
        if not (self.root / category).is_dir():
            raise DatasetError(f"{self.root / category}: does not exist, expected the folder with the images of "
                               f"{category}; copy it there, or pass the folder that holds it")
        self.train = [self._sample(row) for row in own if row["split"] == "train"]
        self.test = [self._sample(row) for row in own if row["split"] == "test"]
        self.validation: list[Sample] = []

    def split(self) -> tuple[list[Sample], list[Sample]]:
        """Training and test samples."""
        return self.train, self.test

    def _sample(self, row: dict[str, str]) -> Sample:
        image = self.root / row["image"]
        if row["label"] == "normal":
            return Sample(0, "good", str(image), image_source=image)
        mask = self.root / row["mask"]
        return Sample(1, "anomaly", str(image), image_source=image, mask_source=mask,
                      region_source=partial(_regions, mask))


def _rows(file: Path) -> Iterator[dict[str, str]]:
    if not file.is_file():
        raise DatasetError(f"{file}: does not exist, expected a split file of VisA; it comes with the archive, and "
                           "with the repository amazon-science/spot-diff, under split_csv/")
    try:
        text = file.read_text(encoding="utf-8-sig")  # some spreadsheets put a mark first
    except (ValueError, OSError) as error:
        raise DatasetError(f"{file}: cannot be read as text in UTF-8 ({error}), expected VisA's split file; "
                           "copy the file again, or save it as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text))
    try:
        if reader.fieldnames != COLUMNS:
            raise DatasetError(f"{file}: has the columns {some_names(reader.fieldnames or [])}, expected "
                               f"{', '.join(COLUMNS)}; copy the file again")
        for row in reader:
            known = row["split"] in ("train", "test") and row["label"] in ("normal", "anomaly") and row["image"]
            if not known or (row["label"] == "anomaly" and not row["mask"]):
                raise DatasetError(f"{file}, line {reader.line_num}: found {some_names(str(v) for v in row.values())}, "
                                   "expected train or test, normal or anomaly, an image, and a mask for an anomaly; "
                                   "copy the file again")
            for path in (row["image"], row["mask"] or ""):
                if PureWindowsPath(path).anchor or ".." in PureWindowsPath(path).parts or "\0" in path:
                    raise DatasetError(f"{file}, line {reader.line_num}: the path {path!r} leads out of the data set, "
                                       "expected one below its root; copy the file again")
            yield row
    except csv.Error as error:
        raise DatasetError(f"{file}, after line {reader.line_num}: is no CSV ({error}), expected VisA's split file; "
                           "copy the file again") from error


def _regions(file: Path) -> tuple[Region, ...]:
    """One region for each value of the mask but 0; it counts in full, so its saturation is its area."""
    values = read_values(file, None, exact=True)[0].to(torch.int64).amax(0)  # (H, W)
    parts = [(value, values == value) for value in torch.unique(values).tolist() if value]
    return tuple(Region(part, int(part.sum()), str(value)) for value, part in parts)
