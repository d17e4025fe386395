"""The unit of every promise is the part, not the picture: splits that keep the pictures of one part together."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adlib.checks import users_line
from adlib.folders import DatasetError
from adlib.images import ImageError
from adlib.samples import Names, Sample, collect
from adlib.threshold import conformal_p_values, conformal_threshold, cross_conformal_bound, stand_apart

Part = tuple[str, str | None]  # its name, and its product where there are several


def hold_out(
    images: object, share: float = 0.1, seed: int = 0, *, group: Names = None
) -> tuple[list[Sample], list[Sample]]:
    """Split off about `share` of the images, whole parts at a time.

    Images whose group is None stand alone. Parts are drawn in an order that `seed` fixes until `share` of the images,
    and at least one part, is held.

    Parameters
    ----------
    images : images
        Samples, a folder, or a list, as for `as_samples`.
    share : float
        In (0, 1).
    seed : int
    group : str, callable or list of str, optional
        The part that each picture shows, see `as_samples`.

    Returns
    -------
    (list of Sample, list of Sample)
        The rest and what is held out, each in the given order.

    Raises
    ------
    ValueError
        For a share outside (0, 1).
    DatasetError
        Where nothing would be left.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share is {share:g}, expected a number between 0 and 1: 0.35 holds out "
                         "about a third of the images")
    samples, _ = collect(images, group=group)
    members = parts_of(samples)
    wanted = share * len(samples)
    held: set[int] = set()
    for position in np.random.default_rng(seed).permutation(len(members)):
        if held and len(held) + len(members[position]) / 2 > wanted:
            break
        held.update(members[position])
    if len(held) == len(samples):
        raise DatasetError(f"{len(samples)} images of {len(members)} part(s): holding out {share:g} leaves "
                           "none to train on, expected at least two parts; add parts, or change group= where it gives "
                           "different parts one name")
    rest = [sample for index, sample in enumerate(samples) if index not in held]
    return rest, [samples[index] for index in sorted(held)]


def parts_of(samples: Sequence[Sample]) -> list[list[int]]:
    """The indices of the samples of each part, in the order in which the parts appear; without a group, one each.

    Two products may count their parts alike: number 7 of one is not number 7 of the other.
    """
    parts: dict[object, list[int]] = {}
    for index, sample in enumerate(samples):
        parts.setdefault(index if sample.group is None else (sample.product, sample.group), []).append(index)
    return list(parts.values())


def must_be_apart(train: Sequence[Sample], held_out: Sequence[Sample]) -> None:
    """Refuse a picture, or a part, that is on both sides: its score would be too low for a threshold.

    Files are compared, not how their paths are spelled; where files or arrays have the same size, also their bytes.
    A picture that is held out as two parts is refused too: the threshold would count it twice.

    Raises
    ------
    ValueError
        Names both.
    """
    inside = {s.path: s for s in train if not s.path.startswith("image[")}
    groups = {(s.product, s.group) for s in train if s.group is not None}
    for sample in held_out:
        if sample.path in inside:
            raise ValueError(f"{sample.path}: is in train and in validation; see datasets.hold_out")
        if (sample.product, sample.group) in groups:
            raise ValueError(f"{sample.path}: its group {sample.group} is also in train; see datasets.hold_out")
    sides: list[object] = ["train"] * len(train)
    _refuse_twins([*train, *held_out], [*sides, *_numbered(held_out)])


def must_differ(samples: Sequence[Sample]) -> None:
    """Refuse a picture that shows two parts: held out as one of them, it would be learnt from as the other."""
    _refuse_twins(samples, _numbered(samples))


def _numbered(samples: Sequence[Sample]) -> list[object]:
    """Of each sample the number of its part."""
    numbers: list[object] = [0] * len(samples)
    for number, part in enumerate(parts_of(samples)):
        for index in part:
            numbers[index] = number
    return numbers


def _refuse_twins(samples: Sequence[Sample], sides: Sequence[object]) -> None:
    """Refuse two samples of different sides that are one file or have the same bytes."""
    files: dict[object, int] = {}
    alike: dict[object, list[int]] = {}
    for index, sample in enumerate(samples):
        if (place := _file_id(sample)) is not None:
            _must_be_one_side(samples, sides, files.setdefault(place, index), index, "are one file")
        if (rough := _rough_content(sample)) is not None:
            alike.setdefault(rough, []).append(index)
    for indices in alike.values():
        if len({sides[index] for index in indices}) > 1:
            contents: dict[bytes, int] = {}
            for index in indices:
                first = contents.setdefault(_digest(samples[index]), index)
                _must_be_one_side(samples, sides, first, index, "hold the same picture")


def _must_be_one_side(samples: Sequence[Sample], sides: Sequence[object], first: int, index: int, how: str) -> None:
    if sides[first] != sides[index]:
        one, other = (f"{samples[i].path}{' in train' if sides[i] == 'train' else ''}" for i in (first, index))
        where = " in validation" if "train" in (sides[first], sides[index]) else ""
        raise ValueError(f"{one} and {other}{where} {how}: expected other pictures there; delete one, or give group= "
                         "so that pictures of one part stay together")


def _file_id(sample: Sample) -> tuple[int, int] | None:
    if not isinstance(sample.image_source, (str, Path)):
        return None
    try:
        status = os.stat(sample.image_source)
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None


def _rough_content(sample: Sample) -> object:
    """What two equal pictures share and costs little: the size of the file, or shape and type of an array."""
    source = sample.image_source
    try:
        if isinstance(source, (str, Path)):
            return os.path.getsize(source) or None if os.path.isfile(source) else None  # empty ones are no pictures
        if isinstance(source, Image.Image):
            return source.size, source.mode
        return None if callable(source) else (tuple(source.shape), str(source.dtype))
    except (OSError, ValueError):
        return None


def _digest(sample: Sample) -> bytes:
    source = sample.image_source
    if isinstance(source, (str, Path)):
        try:
            content = Path(source).read_bytes()
        except OSError:  # whoever reads the image will say so
            content = os.fsencode(source)
    elif isinstance(source, Image.Image):
        try:
            content = source.tobytes()
        except Exception:  # broken, as above
            content = repr(source).encode()
    elif isinstance(source, Tensor):
        content = source.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    else:
        content = np.ascontiguousarray(source).tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()


def hold_out_each(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """As `hold_out`, product by product."""
    halves = []
    for product in dict.fromkeys(sample.product for sample in samples):
        try:
            halves.append(hold_out([s for s in samples if s.product == product], share, seed))
        except DatasetError as error:
            raise DatasetError(_of(product) + str(error)) from None
    train, held_out = ([s for half in side for s in half] for side in zip(*halves, strict=True))
    return train, held_out


def deal(samples: Sequence[Sample], folds: int, seed: int) -> list[list[int]]:
    """The indices of the samples of each fold: of each product the parts are dealt out in an order that `seed` fixes.

    Raises
    ------
    ValueError
        Where a product has fewer parts than there are folds.
    """
    result: list[list[int]] = [[] for _ in range(folds)]
    rng = np.random.default_rng(seed)
    for product in dict.fromkeys(sample.product for sample in samples):
        own = [i for i, sample in enumerate(samples) if sample.product == product]
        parts = parts_of([samples[i] for i in own])
        if len(parts) < folds:
            raise ValueError(f"{_of(product)}folds = {folds}: expected 2 to {len(parts)}, the number of parts that "
                             "could be read")
        for place, position in enumerate(rng.permutation(len(parts))):
            result[place % folds] += [own[i] for i in parts[position]]
    return [sorted(fold) for fold in result]


def must_promise(held_out: Sequence[Sample], alpha: float, folds: int | None = None) -> None:
    """Refuse held-out parts that are too few to promise α; with `folds`, warn where these promise less than α."""
    for product in dict.fromkeys(sample.product for sample in held_out):
        groups = [s.group for s in held_out if s.product == product]
        count = len(parts_of([s for s in held_out if s.product == product]))
        needed = math.ceil(1 / alpha - 1 - 1e-9)
        if folds is not None and count < needed:
            raise ValueError(f"{_of(product)}{count} parts cannot promise a false-alarm rate of {alpha:g}, with any "
                             f"number of folds: expected at least {needed}, so {needed - count} are missing. Take more "
                             f"good parts, or accept a rate of at least 1/{count + 1} = {1 / (count + 1):.3g} (write "
                             f"alpha=1/{count + 1}, with folds={count})")
        try:
            conformal_threshold(np.zeros(len(groups)), alpha, groups=groups)
        except ValueError as error:
            shown = f". By their group, the {len(groups)} held-out images show {count} parts"
            raise ValueError(_of(product) + str(error) + (shown if count < len(groups) else "")) from None
        if folds is not None and folds > count:
            raise ValueError(f"{_of(product)}folds = {folds}: expected 2 to {count}, the number of parts")
        if folds is not None and (bound := cross_conformal_bound(alpha, count, folds)) > alpha * (1 + 1e-9):
            warnings.warn(f"{_of(product)}{folds} folds of {count} parts promise at most {bound:.1%} false alarms in "
                          f"the worst case, not {alpha:.1%} (as a rule they keep well below that); folds={count} "
                          f"promises {alpha:.1%}, and takes longer", stacklevel=users_line())


def _of(product: str | None) -> str:
    return "" if product is None else f"product {product}: "


def one_can_be_read(samples: Sequence[Sample], read: Callable[[Sample], object] = lambda sample: sample.image) -> None:
    """Refuse, before any work, held-out images of which none can be read."""
    reasons = []
    for sample in samples:
        try:
            read(sample)
            return
        except ImageError as error:
            reasons.append(str(error))
    raise ValueError(f"no validation image could be read, expected at least one: {reasons[:3]}")


def must_name_products(samples: Sequence[Sample]) -> None:
    """Refuse held-out images of which some name a product and others none."""
    without = next((s for s in samples if s.product is None), None)
    if without and (other := next((s for s in samples if s.product is not None), None)):
        raise ValueError(f"{without.path}: names no product, but {other.path} is of the product {other.product!r}, "
                         "expected one for each held-out image; pass product= for all")


# ---------------------------------------------------------------------- the scores of held-out parts


def largest_of_parts(
    samples: Sequence[Sample], scores: np.ndarray, peaks: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[Part]]:
    """Of each part the largest score, in rising order, its largest map value, and which part it is."""
    parts = parts_of(samples)
    largest = np.array([scores[part].max() for part in parts])
    order = np.argsort(largest, kind="stable")
    firsts = [samples[parts[i][0]] for i in order]
    named: list[Part] = [(s.path if s.group is None else str(s.group), s.product) for s in firsts]
    return largest[order], np.array([peaks[parts[i]].max() for i in order]), named


def by_product(values: Tensor, parts: Sequence[Part]) -> dict[str | None, Tensor]:
    """The values of the parts of each product."""
    products = [product for _, product in parts]
    return {product: values[[p == product for p in products]] for product in sorted(set(products), key=str)}


def warn_of_odd_parts(scores: Tensor, parts: Sequence[Part]) -> None:
    """Warn of held-out parts whose scores, in rising order, stand apart from the others of their product."""
    for product, own in by_product(scores, parts).items():
        if count := stand_apart(own):
            names = [name for name, of in parts if of == product][: -count - 1 : -1]
            where = "" if product is None else f" of the product {product}"
            warnings.warn(
                f"the scores of {count} of {len(own)} held-out parts{where} stand apart from the others, "
                f"{own[-count]:.3g} and more: {', '.join(names[:8])}. Look at them (held_out). A defective part "
                "among them makes the threshold too high: take it out, and fit again", stacklevel=users_line())


def thresholds(values: Tensor, parts: Sequence[Part], alpha: float) -> float | dict[str, float]:
    """The conformal threshold; one for each product, where there are several."""
    if not len(values):
        raise ValueError("no held-out images, so nothing says how high a good part may score: expected "
                         "fit(…, validation=0.35), or folds= where there are few parts")
    found = {}
    for product, own in by_product(values, parts).items():
        try:
            found[product] = conformal_threshold(own, alpha)
        except ValueError as error:
            raise ValueError(_of(product) + str(error)) from None
    return found[None] if list(found) == [None] else {str(product): value for product, value in found.items()}


def p_values_of(
    scores: np.ndarray, samples: Sequence[Sample], normals: Tensor, parts: Sequence[Part]
) -> np.ndarray | None:
    """The p-value of each sample, among the held-out parts of its product; None where nothing was held out."""
    if not len(normals):
        return None
    result = np.empty(len(scores))
    for product, own in by_product(normals, parts).items():
        rows = [product is None or s.product == product for s in samples]
        result[rows] = conformal_p_values(scores[rows], own)
    return result


def must_know_products(samples: Sequence[Sample], parts: Sequence[Part]) -> None:
    """Refuse an image of a product of which no part was held out, where there are products."""
    known = {product for _, product in parts} - {None}
    if known and (other := next((s for s in samples if s.product not in known), None)):
        raise ValueError(f"{other.path}: is of the product {other.product!r}, expected one with held-out parts, "
                         f"{', '.join(sorted(map(str, known)))}; pass product= to predict")
