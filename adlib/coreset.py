"""A small subset that covers a large set: greedy k-center, its radius, and random projections."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from tqdm.auto import tqdm

from adlib.neighbors import k_nearest


def k_center_greedy(
    features: Tensor, n: int, *, start: int | None = None, seed: int = 0, progress: bool = False
) -> Tensor:
    """Indices of n centres by farthest-point selection. Equation (2.6).

    The first centre is `start`, or drawn from `seed`. Each further one is the point that is
    farthest from all centres so far; of equally far points, the one with the lowest index.
    Its covering radius is at most twice the best one, equation (2.7); at most
    2·√((1+ε)/(1−ε)) times where the features were projected first, equation (2.10).

    features: (N, d). Returns (n,) int64, all different, in the order of selection.
    Memory beyond the input: one copy of it, and blocks of 8,192 rows.
    Raises ValueError where n is not in 1..N, `start` is out of range or a value is not finite.

    Source: Gonzalez, Clustering to minimize the maximum intercluster distance, 1985.

    The plain loop compares each new centre with every point. This function makes the same choices
    with less work; where two points are equally far up to float32's rounding, it may take the other
    one. A distance to the nearest centre can only fall, so an old value is an upper
    bound. Only the points with the largest bounds are brought up to date, and the loop runs among
    them for as long as their maximum stays above the bound of everyone else.
    """
    total = len(features)
    if features.ndim != 2 or not 1 <= n <= total:
        raise ValueError(f"n = {n} centres of features {tuple(features.shape)}: expected (N, d) and 1 <= n <= N")
    if start is None:
        start = int(torch.randint(total, (1,), generator=torch.Generator().manual_seed(seed)))
    if not 0 <= start < total:
        raise ValueError(f"start = {start}: expected an index from 0 to {total - 1}")
    # Relative to the first centre, |x|² is the squared distance to it, and integers stay integers.
    x = features.float() - features[start].float()
    # (N,) squared distance to the nearest centre that the point has seen
    bound = torch.cat([rows.square().sum(1) for rows in x.split(8192)])
    if not bool(torch.isfinite(bound).all()):
        raise ValueError("features: expected finite values, found NaN or infinity")
    norms = bound.clone()
    seen = torch.ones(total, dtype=torch.long, device=x.device)  # how many centres `bound` knows of
    centres = torch.full((n,), start, dtype=torch.long, device=x.device)
    bound[start] = -1.0  # a chosen point is never chosen again, not even among duplicates
    count, width = 1, 2048
    with tqdm(total=n, initial=1, desc="coreset", disable=not progress, leave=False) as bar:
        while count < n:
            top = bound.topk(min(width + 1, total))
            inside = top.indices[:width].sort().values  # by index, so that ties go to the lowest
            outside = float(top.values[width]) if total > width else -math.inf
            _catch_up(x, norms, bound, seen, inside, centres[:count])
            before = count
            count, highest = _select(x, norms, bound, inside, outside, centres, count)
            seen[inside] = count
            bar.update(count - before)
            if count == before and highest == outside:
                width *= 2  # a tie across the border: look at more points at once
            elif count > before:
                width = 2048
    return centres


def _catch_up(x: Tensor, norms: Tensor, bound: Tensor, seen: Tensor, rows: Tensor, centres: Tensor) -> None:
    """Lower `bound` of `rows` by the centres that each of them has not seen, one product a group."""
    rows = rows[seen[rows].argsort(stable=True)]  # rows that miss the same centres side by side
    for group in rows.split(512):
        new = centres[int(seen[group[0]]) :]
        for block in new.split(8192) if len(new) else ():
            squared = torch.addmm(norms[block], x[group], x[block].T, alpha=-2).amin(1) + norms[group]
            bound[group] = torch.minimum(bound[group], squared.clamp_(min=0))
    bound[centres] = -1.0


def _select(
    x: Tensor, norms: Tensor, bound: Tensor, inside: Tensor, outside: float, centres: Tensor, count: int
) -> tuple[int, float]:
    """The plain greedy loop among `inside`, while its maximum is above `outside`."""
    local, local_norms, value = x[inside], norms[inside], bound[inside]
    highest = -math.inf
    while count < len(centres):
        position = int(value.argmax())
        highest = float(value[position])
        if highest <= outside:
            break
        centres[count] = inside[position]
        squared = torch.addmv(local_norms, local, local[position], alpha=-2) + local_norms[position]
        value = torch.minimum(value, squared.clamp_(min=0))
        value[position] = -1.0
        count += 1
    bound[inside] = value
    return count, highest


def covering_radius(features: Tensor, centres: Tensor) -> float:
    """The largest distance r from a row of `features` to its nearest centre. Equation (2.5).

    With it, D(q, M) ≤ D(q, M_C) ≤ D(q, M) + r for every query q, equation (2.12).

    features: (N, d); centres: indices (n,) of rows of `features`. In the units of the features.
    """
    radius = 0.0
    for block in features.split(8192):
        radius = max(radius, float(k_nearest(block, features[centres], 1)[0].max()))
    return radius


def random_projection(features: Tensor, dimension: int, *, seed: int = 0) -> Tensor:
    """features @ R with R of shape (d, dimension), entries N(0, 1/dimension). Equation (2.8).

    features: (N, d). Returns (N, dimension). In expectation it keeps every squared distance.
    Source: Johnson and Lindenstrauss 1984; the Gaussian form is Indyk and Motwani's, 1998.
    """
    if dimension < 1:
        raise ValueError(f"dimension = {dimension}: expected at least 1")
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same matrix on every device
    matrix = torch.randn(features.shape[1], dimension, generator=generator) / math.sqrt(dimension)
    return features @ matrix.to(features)


def jl_dimension(n: int, epsilon: float) -> int:
    """A dimension that keeps all squared distances of n points within 1 ± epsilon, with room to spare.

    ⌈4 ln n / (ε²/2 − ε³/3)⌉, equation (2.9), the bound of Dasgupta and Gupta (2003), for 0 < ε < 1.
    """
    if n < 2 or not 0 < epsilon < 1:
        raise ValueError(f"n = {n}, epsilon = {epsilon}: expected n >= 2 and 0 < epsilon < 1")
    return math.ceil(4 * math.log(n) / (epsilon**2 / 2 - epsilon**3 / 3))
