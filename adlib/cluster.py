"""A memory bank on many machines: each worker reads its chunks of images and chooses their centres (dask.distributed).

::

    from dask.distributed import Client
    from adlib import PatchCore
    from adlib.cluster import fit_on

    with Client("tcp://scheduler:8786") as client:  # or Client(), for processes on this machine
        detector = fit_on(client, PatchCore(chunk=500), "good/", validation=0.35)

The result is bit for bit that of ``PatchCore(chunk=500).fit(…)`` on one machine, where the workers' processors compute
as that one does; another kind of processor may round a feature otherwise.

Who may connect to a scheduler of dask may run any code on all of its machines, as dask sends functions and data between
them by pickle. Keep it in a network of your own, or give it certificates (``distributed.security.Security``). Nothing
else here is unpickled: images, weights and detector files are read as everywhere in this package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from adlib.patchcore import PatchCore
from adlib.progress import progress_bar
from adlib.rounds import Part, cover_images
from adlib.samples import Sample

if TYPE_CHECKING:
    from distributed import Client


def fit_on(client: Client, detector: PatchCore, train: object, **options: Any) -> PatchCore:
    """`PatchCore.fit`, with the first round of its chunks on the workers of a cluster.

    A chunk whose worker dies is computed again by another one. Beyond its centres, nothing comes back: the union of
    all centres, and the second round, are on the machine that calls this. The held-out images are scored there, too.

    Parameters
    ----------
    client : distributed.Client
    detector : PatchCore
        With `chunk`: so many images are one task.
    train : images
        As for `fit`. Paths must mean the same files on each worker, such as on a shared disk; images in memory are
        sent.
    **options
        As for `fit`, but for `folds`.

    Returns
    -------
    PatchCore
        The same detector, fitted.

    Raises
    ------
    ValueError
        Where the detector has no chunk; and what `fit` raises.
    RuntimeError
        Where the workers of one chunk have died several times, as they do when their memory is too small.
    """
    if detector.chunk is None:
        raise ValueError("the detector learns from all images at once: expected PatchCore(chunk=…), the number of "
                         "images of one task, such as 500")
    usual = detector.runner
    detector.runner = partial(_on_workers, client)
    try:
        return detector.fit(train, **options)
    finally:
        detector.runner = usual


def _on_workers(client: Client, detector: PatchCore, chunks: list[list[Sample]]) -> Iterator[Part]:
    """A part for each chunk, in their order."""
    from distributed import as_completed  # not needed by who only fits here
    from distributed.scheduler import KilledWorker

    # The detector goes out as a task, not as scattered data: what only a dead worker held could not be made again.
    shared = client.submit(_same, detector, pure=False)
    tasks = [client.submit(_cover, shared, [_anywhere(s) for s in some], torch.get_num_threads(), pure=False)
             for some in chunks]  # fmt: skip
    number = {task.key: index for index, task in enumerate(tasks)}
    found: dict[int, Part] = {}
    try:
        for task in progress_bar(as_completed(tasks), "chunks on the cluster", len(tasks)):
            index = number[task.key]
            try:
                part = task.result()
            except KilledWorker as error:
                raise RuntimeError(
                    f"chunk {index + 1} of {len(chunks)} (from {chunks[index][0].path}): the workers that computed it "
                    f"have died ({error}). Give them more memory or a smaller chunk={detector.chunk}; their logs "
                    "say more") from error
            if part.cover is not None:
                part = part._replace(cover=part.cover._replace(
                    rows=part.cover.rows.to(detector.device), indices=part.cover.indices.to(detector.device)))
            found[index] = part
            task.release()  # it is here now, so no worker's death can take it
    finally:
        client.cancel([shared, *tasks])
    yield from (found.pop(index) for index in range(len(chunks)))


def _same(detector: PatchCore) -> PatchCore:
    return detector


def _cover(detector: PatchCore, samples: list[Sample], threads: int) -> Part:
    """The first round on one chunk, on a worker, with as many threads as on the machine that asked for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # sums in another order would be rounded otherwise
    try:
        part = cover_images(detector, samples)
    finally:
        torch.set_num_threads(before)
    if part.cover is None:
        return part
    return part._replace(cover=part.cover._replace(rows=part.cover.rows.cpu(), indices=part.cover.indices.cpu()))


def _anywhere(sample: Sample) -> Sample:
    """The same sample, its path no longer relative to the folder that this process is in."""
    source = sample.image_source
    return replace(sample, image_source=Path(os.path.abspath(source))) if isinstance(source, (str, Path)) else sample
