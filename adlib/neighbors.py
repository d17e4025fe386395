"""Exact nearest neighbours in blocks, so that no matrix of all pairs is ever held."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 4_000_000  # elements of one block of distances: 16 MB in float32


def k_nearest(queries: Tensor, bank: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest rows of `bank` for each query, by Euclidean distance. Equation (2.11) at k = 1.

    queries: (Q, d), bank: (N, d), both floating point and on one device.
    Returns distances (Q, k), ascending, in the units of the features, and indices (Q, k) int64.
    Memory beyond the inputs: a centred copy of each, and blocks: 16 MB of distances and 1,024·k rows.
    Raises ValueError where the widths differ, `bank` is empty, or k is not in 1..N.

    Neighbours are ranked by |b|² − 2·q·b, one matrix product a block, so that near-ties are settled
    by float32's rounding. The distances returned are taken from q − b itself: a query that lies in
    the bank, and has no almost equal twin there, has distance exactly 0.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ValueError(
            f"queries {tuple(queries.shape)} and bank {tuple(bank.shape)}: expected (Q, d) and (N, d) of one width d"
        )
    if not 1 <= k <= len(bank):
        raise ValueError(f"k = {k}: expected 1 to {len(bank)}, the number of rows in the bank")
    # Rounding errors of the matrix product grow with |b|². Around the mean they are small.
    centre = bank.mean(0)
    rows, columns = bank - centre, queries - centre
    half_norms = torch.cat([part.square().sum(1) / 2 for part in rows.split(8192)])  # (N,)
    bank_block = min(len(bank), max(k, BLOCK // max(1, min(len(queries), 1024))))
    found = [(bank.new_empty(0, k), torch.empty(0, k, dtype=torch.long, device=bank.device))]
    for original, q in zip(queries.split(1024), columns.split(1024), strict=True):
        index = _scan(q, rows, half_norms, k, bank_block)
        distance, order = (original[:, None] - bank[index]).square().sum(2).sqrt().sort(dim=1, stable=True)
        found.append((distance, index.gather(1, order)))
    return torch.cat([distance for distance, _ in found]), torch.cat([index for _, index in found])


def _scan(q: Tensor, rows: Tensor, half_norms: Tensor, k: int, block: int) -> Tensor:
    """Indices (Q, k) of the k smallest |b|²/2 − q·b, kept from block to block of the bank."""
    best = index = None
    for start in range(0, len(rows), block):
        stop = min(start + block, len(rows))
        value = torch.addmm(half_norms[start:stop], q, rows[start:stop].T, alpha=-1)  # (Q, block)
        if k == 1:
            value, position = value.min(1, keepdim=True)
        else:
            value, position = value.topk(min(k, stop - start), dim=1, largest=False)
        position = position + start
        if best is not None:
            value, position = torch.cat([best, value], 1), torch.cat([index, position], 1)
            value, keep = value.topk(min(k, value.shape[1]), dim=1, largest=False)
            position = position.gather(1, keep)
        best, index = value, position
    return index
