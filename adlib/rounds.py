"""PatchCore's memory bank from chunks of images: what it needs of memory, and the two rounds that build it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adlib.chunks import Cover, join
from adlib.detector import readable_bytes
from adlib.fitting import leave_out, make_contract
from adlib.reading import Look, chunks_of
from adlib.samples import Sample
from adlib.saving import blank

SPARE = 2  # of a chunk's patches, so many times the share coreset_ratio stays for the second round
LOWER = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # coreset ratios that may help where the centres alone are too many
PER_ROW = 28  # bytes beside each row while centres are selected: norms, margins, bounds


class Part(NamedTuple):
    """What is left of a chunk of images after the first round; a worker sends it back."""

    cover: Cover | None  # None where no image of the chunk could be read
    read: list[int]  # which of the chunk's samples could be
    looks: list[Look]  # theirs, without pixels
    failures: dict[str, str]


# What runs the first round: from a detector that has learnt nothing, and chunks, to a part for each, in their order.
Runner = Callable[[Any, list[list[Sample]]], Iterable[Part]]


def needed(detector: Any, images: int, patches: int, c: int, chunk: int | None, share: float) -> int:
    """Bytes that the memory bank takes while it is built, with that `chunk` and that share of patches kept."""
    total = images * patches
    selected = c if detector.projection is None else detector.projection
    if detector.selection == "random":
        return round(total * 4 * c * (1 if share == 1 else 1 + share))

    def selecting(rows: float, kept: float) -> float:
        """The rows, a copy of all of them, the projected ones if there are any, and the rows that are chosen."""
        copies = selected * (rows + kept) + (0 if detector.projection is None else selected * rows)
        return 4 * (c * rows + copies)

    if chunk is None:
        return round(4 * c * total if share == 1 else selecting(total, share * total))
    spare = min(1.0, SPARE * share)
    rows, union = min(chunk * patches, total), spare * total  # of one chunk; of the chunks' centres
    first = selecting(rows, spare * rows) + PER_ROW * rows + 4 * c * union
    second = selecting(union, share * total) + PER_ROW * union + 4 * c * share * total
    return round(max(first, second))


def way_out(detector: Any, count: int) -> str:
    """The largest chunk that fits into max_memory, in words, where need be with a lower coreset_ratio."""
    if detector.selection == "random":
        return ""
    patches, c = detector._patches()
    for share in (detector.coreset_ratio, *(s for s in LOWER if s < detector.coreset_ratio)):
        low, high = 0, count if detector.chunk is None else min(count, detector.chunk)
        while low < high:  # the need grows with the chunk
            chunk = (low + high + 1) // 2
            fits = needed(detector, count, patches, c, chunk, share) <= detector.max_memory
            low, high = (chunk, high) if fits else (low, chunk - 1)
        if low:
            low -= low % detector.batch_size if low > detector.batch_size else 0
            less = "" if share == detector.coreset_ratio else f" and coreset_ratio={share:g}"
            return (f"Pass chunk={low}{less}: the bank is then built from {low} images at a time, in "
                    f"{readable_bytes(needed(detector, count, patches, c, low, share))}. ")
    return ""


def learn_in_chunks(detector: Any, samples: list[Sample], held_out: list[Sample]) -> Cover:
    """The centres of all chunks' centres, equations (2.21) to (2.23). The contract is made between the rounds."""
    detector._plan(len(samples))
    covers, looks, read = [], [], []
    chunks = [list(some) for some in chunks_of(samples, detector.chunk)]
    for some, part in zip(chunks, detector.runner(blank(detector, 0), chunks), strict=True):
        covers += [] if part.cover is None else [part.cover]
        looks += part.looks
        read += [some[i] for i in part.read]
        leave_out(detector, part.failures)
    make_contract(detector, looks, read, held_out)
    if not covers:
        raise ValueError(f"none of the {len(samples)} training images could be read: "
                         f"{list(detector.failures.values())[:3]}")
    n = max(1, int(detector.coreset_ratio * sum(c.total for c in covers)))
    return join(covers, n, seed=detector.seed, projection=detector.projection, progress=True)


def cover_images(detector: Any, samples: Sequence[Sample], what: str = "fit") -> Part:
    """The first round on one chunk of images: they are read here, and their centres chosen."""
    place = {id(sample): index for index, sample in enumerate(samples)}
    read: list[int] = []
    looks: list[Look] = []
    failures: dict[str, str] = {}

    def batches() -> Iterator[Tensor]:
        for batch, some, seen in detector._read(list(samples), failures, what):
            read.extend(place[id(sample)] for sample in some)
            looks.extend(seen)
            yield batch

    with torch.no_grad():
        rows = detector._rows(batches(), len(samples))
        share = min(1.0, SPARE * detector.coreset_ratio)
        return Part(None if rows is None else detector._cover(rows, share), read, looks, failures)


def first_round(detector: Any, chunks: list[list[Sample]]) -> Iterator[Part]:
    """One chunk after another, in this process."""
    for place, samples in enumerate(chunks, 1):
        yield cover_images(detector, samples, f"chunk {place} of {len(chunks)}")
