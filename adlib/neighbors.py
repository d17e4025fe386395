"""Exact nearest neighbours in blocks, so that no matrix of all pairs is ever held, and in groups, to pass over most."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

BLOCK = 3_000_000  # elements of one block of distances: 12 MB in float32
GROUPED, FEW = 2048, 64  # rows from which a bank is grouped, and queries below which that does not pay
GRAPH_BLOCK = 4096  # rows of the bank that an exported graph compares at a time: 13 MB for the patches of an image


class Bank:
    """A bank (N, d) made ready for many calls of `k_nearest`: a centred copy, with half the squared norms beside it.

    Parameters
    ----------
    rows : Tensor (N, d)
        Floating point. A later change of `rows` is not seen.
    """

    def __init__(self, rows: Tensor) -> None:
        if not rows.is_floating_point():
            raise ValueError(f"bank of type {rows.dtype}: expected floating point; convert it with .float()")
        self.rows = rows = _wide(rows)
        # Rounding errors of the matrix product grow with |b|². Around the mean they are small.
        self.centre = rows.mean(0)
        if torch.compiler.is_compiling():  # in an exported graph nothing is written into a part of a tensor
            centred = rows - self.centre
            self.centred = torch.cat([centred, centred.square().sum(1, keepdim=True) / 2], 1)
            return
        self.centred = torch.empty(len(rows), rows.shape[1] + 1, dtype=rows.dtype, device=rows.device)
        for part, out in zip(rows.split(8192), self.centred.split(8192), strict=True):
            torch.sub(part, self.centre, out=out[:, :-1])
            out[:, -1] = out[:, :-1].square().sum(1) / 2

    @cached_property
    def groups(self) -> Groups:
        """The rows in groups, made at the first search that needs them."""
        return Groups(self.centred.numpy())


class Groups:
    """The rows of a bank around 2√N of them: each in the group of its nearest. Equation (2.25) passes over the rest.

    Parameters
    ----------
    centred : ndarray (N, d + 1)
        As `Bank` has them. The first rows become the centres: of a greedy coreset, these cover it best.
    """

    def __init__(self, centred: np.ndarray) -> None:
        self.centres = centred[: round(2 * len(centred) ** 0.5)].copy()  # (G, d + 1)
        group = np.concatenate([(part[:, :-1] @ self.centres[:, :-1].T - self.centres[:, -1]).argmax(1)
                                for part in np.array_split(centred, -(-len(centred) // 8192))])  # (N,)
        self.all = centred
        self.radii = np.zeros(len(self.centres), centred.dtype)  # (G,)
        # Each group upright (d + 1, n): of a few queries, that product took half of the time of one with rows turned.
        self.rows, self.upright = [], []
        for i, centre in enumerate(self.centres):
            self.rows.append(np.flatnonzero(group == i))
            self.upright.append(np.ascontiguousarray(centred[self.rows[i]].T))
            away = np.square(self.upright[i][:-1] - centre[:-1, None]).sum(0)
            self.radii[i] = np.sqrt(away.max(initial=0))

    def nearest(self, queries: np.ndarray) -> np.ndarray:
        """Indices (Q,) of the nearest rows of queries (Q, d + 1), each with −1 in the last column."""
        norms = np.square(queries[:, :-1]).sum(1)  # (Q,)
        squares = norms - 2 * (self.centres @ queries.T)  # (G, Q), to the centres
        slack = 1e-5 * (norms + 2 * self.centres[:, -1].max())  # (Q,), more than float32 rounds here
        best, index = np.full(len(queries), -np.inf, queries.dtype), np.zeros(len(queries), np.int64)
        first = squares.argmin(0)
        wanted = np.zeros(squares.shape, bool)
        wanted[first, np.arange(len(queries))] = True
        self._visit(queries, wanted, best, index)
        found = np.sqrt(np.maximum(norms - 2 * best, 0) + slack)  # to the nearest of the first group
        others = np.sqrt(np.maximum(squares - slack, 0)) - self.radii[:, None] <= found
        if others.mean() > 0.5:  # such as in a bank of noise: one large product is faster than many small ones
            both = torch.from_numpy(queries), torch.from_numpy(self.all)
            return _scan(*both, 1, BLOCK // min(len(queries), 1024))[:, 0].numpy()
        self._visit(queries, others & ~wanted, best, index)
        return index

    def _visit(self, queries: np.ndarray, wanted: np.ndarray, best: np.ndarray, index: np.ndarray) -> None:
        """Search each group (G, Q) that is wanted, and renew the best q·b − |b|²/2 and its row."""
        groups, queried = np.nonzero(wanted)
        used, start = np.unique(groups, return_index=True)
        for group, mine in zip(used, np.split(queried, start[1:]), strict=False):
            if not len(self.rows[group]):  # the centre has a twin, whose group has all
                continue
            value = queries[mine] @ self.upright[group]
            position = value.argmax(1)
            value = value[np.arange(len(mine)), position]
            better = value > best[mine]
            best[mine[better]], index[mine[better]] = value[better], self.rows[group][position[better]]


def k_nearest(queries: Tensor, bank: Tensor | Bank, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest rows of `bank` for each query, by Euclidean distance. Equation (2.11) at k = 1; see (2.25).

    Neighbours are ranked by ``q·b − |b|²/2``, one matrix product a block, so that near-ties are settled
    by float32's rounding. The distances returned are taken from q − b itself: a query that lies in
    the bank, and has no almost equal twin there, has distance exactly 0.

    Parameters
    ----------
    queries : Tensor (Q, d)
    bank : Tensor (N, d) or Bank
        Both floating point and on one device. A `Bank` saves the preparation where the same rows are searched again
        and again.
    k : int
        In 1..N.

    Returns
    -------
    (Tensor (Q, k), Tensor (Q, k) int64)
        Distances, ascending, in the units of the features, and indices. Memory beyond the inputs: a centred copy of
        the bank, and blocks: 12 MB of distances and 1,024·k rows; of a large `Bank` on the CPU, a second copy.

    Raises
    ------
    ValueError
        Where the widths differ, `bank` is empty, or k is not in 1..N.
    """
    rows = bank.rows if isinstance(bank, Bank) else bank  # (N, d)
    if queries.ndim != 2 or rows.ndim != 2 or queries.shape[1] != rows.shape[1]:
        raise ValueError(
            f"queries {tuple(queries.shape)} and bank {tuple(rows.shape)}: expected (Q, d) and (N, d) of one width d"
        )
    if not 1 <= k <= len(rows):
        raise ValueError(f"k = {k}: expected 1 to {len(rows)}, the number of rows in the bank")
    if torch.compiler.is_compiling():
        return _in_a_graph(queries, bank if isinstance(bank, Bank) else Bank(bank), k)
    # Groups take a while to make: only for a bank that is made ready. A GPU is faster with one large product.
    grouped = (isinstance(bank, Bank) and k == 1 and len(queries) >= FEW and len(rows) >= GROUPED
               and rows.device.type == "cpu")
    bank = bank if isinstance(bank, Bank) else Bank(bank)
    rows = bank.rows
    bank_block = min(len(rows), max(k, BLOCK // max(1, min(len(queries), 1024))))
    found = [(rows.new_empty(0, k), torch.empty(0, k, dtype=torch.long, device=rows.device))]
    for original in map(_wide, queries.split(8192 if grouped else 1024)):
        q = _ready(original, bank)
        index = torch.from_numpy(bank.groups.nearest(q.detach().numpy()))[:, None] if grouped else \
            _scan(q, bank.centred, k, bank_block)
        distance, order = (original[:, None] - rows[index]).square().sum(2).sqrt().sort(dim=1, stable=True)
        found.append((distance, index.gather(1, order)))
    return torch.cat([distance for distance, _ in found]), torch.cat([index for _, index in found])


def _in_a_graph(queries: Tensor, bank: Bank, k: int) -> tuple[Tensor, Tensor]:
    """As `k_nearest`, for a graph that stays right when the number of queries changes; equal distances in any order."""
    original = _wide(queries)
    index = _scan(_ready(original, bank), bank.centred, k, GRAPH_BLOCK)
    distance = (original[:, None] - bank.rows[index]).square().sum(2).sqrt()
    if k > 1:  # ONNX has no stable sort
        distance, order = distance.topk(k, dim=1, largest=False)
        index = index.gather(1, order)
    return distance, index


def _ready(queries: Tensor, bank: Bank) -> Tensor:
    """Queries (Q, d) around the bank's centre, and −1 for its last column: (Q, d + 1)."""
    return torch.cat([queries - bank.centre, -torch.ones_like(queries[:, :1])], 1)


def _wide(x: Tensor) -> Tensor:
    """At least float32: 16 bits overflow in squares, and are too coarse to rank by."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _scan(q: Tensor, rows: Tensor, k: int, block: int) -> Tensor:
    """Indices (Q, k) of the k largest q·b − |b|²/2, kept from block to block of the bank."""
    best = index = None
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        value = _products(q, rows[start:stop])  # (Q, block); the last column of each subtracts |b|²/2
        if k == 1:
            value, position = value.max(1, keepdim=True)
        else:
            value, position = value.topk(min(k, stop - start), dim=1)
        position = position + start
        if best is not None:
            value, position = torch.cat([best, value], 1), torch.cat([index, position], 1)  # pyrefly: ignore
            value, keep = value.topk(min(k, value.shape[1]), dim=1)
            position = position.gather(1, keep)
        best, index = value, position
    return index  # pyrefly: ignore


def _products(a: Tensor, b: Tensor) -> Tensor:
    """a·bᵀ: (Q, d) and (N, d) to (Q, N)."""
    if a.device.type != "cpu" or torch.compiler.is_compiling():
        return a @ b.T
    # numpy's BLAS: on the AMD processor where we measured, it took about two thirds of the time of torch's.
    return torch.from_numpy(a.detach().numpy() @ b.detach().numpy().T)
