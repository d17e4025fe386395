"""A coreset of a set that does not fit into memory: greedy k-center on each chunk, then on the chunks' centres."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from adlib.coreset import BLOCK, k_center_greedy, random_projection


class Cover(NamedTuple):
    """Centres of a set of rows, and how well they cover it.

    Attributes
    ----------
    rows : Tensor (n, d)
        The centres, in the order of selection.
    indices : Tensor (n,) int64
        Which rows of the set they are; of a set in chunks, counted through.
    total : int
        The rows of the set.
    radius : float
        No row of the set is farther from its nearest centre: the covering radius, or of `join` the bound (2.21).
    least : float
        No n centres have a smaller covering radius, so that these are at most ``radius / least`` times as bad as the
        best. That is 2 for `cover`, by (2.7); for `join` see (2.23). 0 where nothing is known.
    """

    rows: Tensor
    indices: Tensor
    total: int
    radius: float
    least: float


def cover(
    rows: Tensor, n: int, *, start: int | Tensor | None = None, seed: int = 0, projection: int | None = None,
    progress: bool = False,
) -> Cover:  # fmt: skip
    """n greedy centres of `rows` and their covering radius, equations (2.5) and (2.6).

    The radius costs one centre more: it is the distance at which the next one would be chosen.

    Parameters
    ----------
    rows : Tensor (N, d)
    n : int
        In 1..N.
    start, seed, progress
        See `k_center_greedy`.
    projection : int, optional
        Distances, `radius` and `least` too, are taken after a `random_projection` to so many dimensions.

    Returns
    -------
    Cover

    Raises
    ------
    ValueError
        As `k_center_greedy`.
    """
    if not 1 <= n <= len(rows):
        raise ValueError(f"n = {n} centres of {len(rows)} rows: expected 1 <= n <= N")
    seen = rows if projection is None else random_projection(rows, projection, seed=seed)
    chosen = k_center_greedy(seen, min(n + 1, len(rows)), start=start, seed=seed, progress=progress)
    centres, following = chosen[:n], chosen[n:]
    radius = math.inf if len(following) else 0.0
    for part in centres.split(BLOCK):
        for point in following:  # one, or none
            gaps = seen[part].cpu().double() - seen[point].cpu().double()  # Apple's GPUs have no float64
            radius = min(radius, float(gaps.square().sum(1).amin().sqrt()))
    own = not isinstance(start, Tensor)  # (2.7) is of centres that greedy has chosen, all of them
    return Cover(rows[centres], centres, len(rows), radius, radius / 2 if own else 0.0)


def join(
    covers: list[Cover], n: int, *, seed: int = 0, projection: int | None = None, progress: bool = False
) -> Cover:
    """The second round of `k_center_chunks`: n greedy centres among the centres of all chunks, with the bound (2.23).

    Parameters
    ----------
    covers : list of Cover
        Of the chunks, in their order. The list is emptied, so that no row is held twice.
    n : int
        In 1 to the number of all their centres, which is what is kept where there are no more than n.
    seed, projection, progress
        See `cover`.

    Returns
    -------
    Cover
    """
    inner, offsets = max(c.radius for c in covers), [0]
    for c in covers:
        offsets.append(offsets[-1] + c.total)
    # What greedy proves of a chunk's centres holds for no more centres than it has.
    least = max((c.least for c in covers if len(c.rows) >= n), default=0.0)
    indices = torch.cat([c.indices + offset for c, offset in zip(covers, offsets, strict=False)])
    union, filled = covers[0].rows.new_empty(len(indices), covers[0].rows.shape[1]), 0
    while covers:
        rows = covers.pop(0).rows
        union[filled : filled + len(rows)] = rows
        filled += len(rows)
    if n >= len(union):
        return Cover(union, indices, offsets[-1], inner, least)
    outer = cover(union, n, start=0, seed=seed, projection=projection, progress=progress)
    return Cover(outer.rows, indices[outer.indices], offsets[-1], inner + outer.radius, max(least, outer.least))


def k_center_chunks(
    chunks: Iterable[Tensor], n: int, *, per_chunk: int | None = None, seed: int = 0, projection: int | None = None
) -> Cover:
    """n centres of a set that does not fit into memory: greedy on each chunk, then greedy on the chunks' centres.

    With r₁ the largest covering radius of a chunk by its own centres, and r₂ that of the union of these centres by the
    result, the covering radius is at most r₁ + r₂, equation (2.21). With as many centres in each chunk as in the end,
    it is at most 4 times the best one, equation (2.22); with fewer, at most 2·(1 + r₁/r₂) times, equation (2.23), which
    only the run itself can tell: ``radius / least`` of the result. One chunk gives what `k_center_greedy` gives.

    Parameters
    ----------
    chunks : iterable of Tensor (N_j, d)
        At least one; one at a time is held.
    n : int
        From 1 to the number of all centres of the chunks.
    per_chunk : int, optional
        Centres of each chunk, or all rows of a smaller one; None for n.
    seed : int
        Draws each chunk's first centre.
    projection : int, optional
        See `cover`.

    Returns
    -------
    Cover
        Its `radius` is the bound r₁ + r₂. Memory: that of one chunk's selection and the centres so far, then that of a
        selection among all centres.

    Raises
    ------
    ValueError
        Where there is no chunk, or the chunks have fewer centres than n.

    References
    ----------
    Malkomes, Kusner, Chen, Weinberger, Moseley, Fast distributed k-center clustering with outliers on massive data,
    NeurIPS 2015.
    """
    each = n if per_chunk is None else per_chunk

    def first_round(rows: Tensor) -> Cover:
        return cover(rows, min(each, len(rows)), seed=seed, projection=projection)

    covers = list(map(first_round, chunks))  # no loop variable, which would hold one chunk while the next is made
    found = sum(len(c.rows) for c in covers)
    if not 1 <= n <= found:
        raise ValueError(f"n = {n} centres of {len(covers)} chunks, which keep {found} in all: expected 1 to {found}; "
                         "give more rows, or a larger per_chunk")
    return join(covers, n, seed=seed, projection=projection)
