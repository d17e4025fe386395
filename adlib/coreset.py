"""A small subset of a large set: greedy k-center, its radius, the control drawn at random, and random projections."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adlib.neighbors import Bank, k_nearest
from adlib.progress import progress_bar

WIDTH = 2048  # points that are looked at together: few enough for the processor's cache
BATCH = 64  # points whose distance is worked out exactly in one go
BLOCK = 8192  # rows of a larger matrix that are worked on at once


def k_center_greedy(
    features: Tensor, n: int, *, start: int | Tensor | None = None, seed: int = 0, progress: bool = False
) -> Tensor:
    """Indices of n centres by farthest-point selection. Equation (2.6).

    The first centre is `start`, or drawn from `seed`. Each further one is the point that is
    farthest from all centres so far; of equally far points, the one with the lowest index.
    Its covering radius is at most twice the best one, equation (2.7); at most
    2·√((1+δ)/(1−δ)) times where the features were projected first, equation (2.10).

    The plain loop compares each new centre with every point. This function makes the choices that
    the plain loop makes in float64, with less work. A distance to the nearest centre can only fall,
    so an old value is an upper bound. Only the points with the largest bounds are brought up to date,
    and the loop runs among them for as long as their maximum stays above the bound of everyone else.

    Bounds come from float32 products, plus a margin for their rounding. Before a point is chosen, its
    distance is taken from differences in float64. So the choices are exact where the margin holds: it
    is about 1.5 times the largest error seen, up to 1,536 dimensions. TF32 must be off, as it is by default.

    Parameters
    ----------
    features : Tensor (N, d)
    n : int
        In 1..N.
    start : int or Tensor (s,) int64, optional
        Index of the first centre, or of the first s centres: a selection that goes on.
    seed : int
        Draws the first centre where `start` is None.
    progress : bool
        Shows a bar.

    Returns
    -------
    Tensor (n,) int64
        All different, in the order of selection. Memory beyond the input: one float32 copy of it, the rows of the
        centres, and blocks of 8,192 rows.

    Raises
    ------
    ValueError
        Where n is not in 1..N, `start` is out of range or a value is not finite.

    References
    ----------
    Gonzalez, Clustering to minimize the maximum intercluster distance, 1985.
    """
    total = len(features)
    if features.ndim != 2 or not 1 <= n <= total:
        raise ValueError(f"n = {n} centres of features {tuple(features.shape)}: expected (N, d) and 1 <= n <= N")
    if start is None:
        start = int(torch.randint(total, (1,), generator=torch.Generator().manual_seed(seed)))
    given = torch.as_tensor(start, dtype=torch.long, device=features.device).reshape(-1)
    inside = bool(((given >= 0) & (given < total)).all())
    if not inside or not 1 <= len(given) <= n or len(given.unique()) < len(given):
        raise ValueError(f"start = {start}: expected an index from 0 to {total - 1}, or up to n = {n} that differ")
    if features.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        raise ValueError("TF32 products are on, expected float32 for exact choices; set "
                         "torch.backends.cuda.matmul.allow_tf32 = False")
    place = features.device
    # Apple's GPUs have no float64.
    if features.device.type == "mps":
        features, given = features.cpu(), given.cpu()
    state, width = _Bounds(features, n, given), WIDTH
    exactly = torch.autocast(features.device.type, enabled=False)  # 16-bit products would be other choices
    with exactly, progress_bar(total=n, initial=len(given), desc="coreset", disable=not progress) as bar:
        while state.count < n:
            before = state.count
            state.advance(width)
            bar.update(state.count - before)
            # No centre found: too many points have almost the same bound. Look at more of them at once.
            width = WIDTH if state.count > before else 2 * width
    return state.centres.to(place)


class _Bounds:
    """Upper bounds on the squared distance of each point to its nearest centre, and the centres so far."""

    def __init__(self, features: Tensor, n: int, given: Tensor) -> None:
        self.features = features = features.detach()
        # Whole numbers, 16 bits and truth values are subtracted in a type that holds them and the difference.
        wide = torch.promote_types(features.dtype, torch.float32 if features.is_floating_point() else torch.float64)
        origin = features[given[0]].to(wide)
        # Relative to the first centre, |x|² is the squared distance to it, and small if the points are close.
        self.x = torch.empty(features.shape, device=features.device)  # (N, d), float32
        for rows, x in zip(features.split(BLOCK), self.x.split(BLOCK), strict=True):
            x.copy_(rows.to(wide) - origin)
        self.norms = self.x.new_empty(len(self.x))  # (N,)
        squares = self.x.new_empty(min(BLOCK, len(self.x)), self.x.shape[1])  # once: freed blocks stay in the heap
        for rows, norms in zip(self.x.split(BLOCK), self.norms.split(BLOCK), strict=True):
            torch.square(rows, out=squares[: len(rows)])
            torch.sum(squares[: len(rows)], 1, out=norms)
        if not bool(torch.isfinite(self.norms).all()):
            finite = all(bool(torch.isfinite(rows).all()) for rows in features.split(BLOCK))
            found = "values whose squares overflow float32; rescale them" if finite else "NaN or infinity"
            raise ValueError(f"features: expected finite values, found {found}")
        # |x − c|² is computed as |x|² − 2x·c + |c|². Its error grows with |x|² + |c|²: we have seen 11·2⁻²⁴ times
        # that, and allow 16·2⁻²⁴ times. Per pair, so that one far point does not blur all others.
        self.margins = 8 * torch.finfo(torch.float32).eps * self.norms.double()  # (N,)
        self.bound = self.norms.double() + self.margins  # (N,)
        self.seen = torch.ones_like(self.norms, dtype=torch.long)  # how many centres `bound` knows of
        self.centres = torch.zeros(n, dtype=torch.long, device=features.device)
        self.rows = self.x.new_zeros(n, self.x.shape[1])  # x of the centres; that of the first one is 0
        self.count = len(given)
        self.centres[: self.count], self.rows[: self.count] = given, self.x[given]
        self.bound[given] = -1.0  # a chosen point is never chosen again, not even among duplicates

    def advance(self, width: int) -> None:
        """Choose centres among the points with the `width` largest bounds, for as long as that is certain."""
        top = self.bound.topk(min(width + 1, len(self.bound)))
        inside = top.indices[:width].sort().values  # by index, so that ties go to the lowest
        outside = float(top.values[width]) if len(self.bound) > width else -math.inf
        self._catch_up(inside)
        self._select(inside, outside)
        self.seen[inside] = self.count

    def _catch_up(self, points: Tensor) -> None:
        """Lower the bounds of `points` by the centres that each has not seen: one product for 512 of them."""
        points = points[self.seen[points].argsort(stable=True)]  # points that miss the same centres side by side
        for group in points.split(512):
            for start in range(int(self.seen[group[0]]), self.count, BLOCK):
                stop = min(start + BLOCK, self.count)
                centres = self.centres[start:stop]
                products = (self._products(self.x[group], start, stop) + self.margins[centres].float()).amin(1)
                squared = (products + self.norms[group]).clamp_(min=0) + self.margins[group]
                self.bound[group] = torch.minimum(self.bound[group], squared)
        self.bound[self.centres[: self.count]] = -1.0

    def _products(self, rows: Tensor, start: int, stop: int) -> Tensor:
        """|c|² − 2x·c for each x of `rows` (m, d) and the centres `start` to `stop`: (m, stop − start)."""
        return torch.addmm(self.norms[self.centres[start:stop]], rows, self.rows[start:stop].T, alpha=-2)

    def _select(self, inside: Tensor, outside: float) -> None:
        """The plain greedy loop among `inside`, while its maximum is above `outside`."""
        x, norms, bound, margins = self.x[inside], self.norms[inside], self.bound[inside], self.margins[inside]
        exact = torch.zeros_like(inside, dtype=torch.bool)  # whether the bound is the distance itself
        known = torch.full_like(bound, math.inf)  # the distance itself to the nearest of the first `upto` centres
        upto = torch.zeros_like(inside)
        while self.count < len(self.centres):
            position = int(bound.argmax())
            if float(bound[position]) <= outside:
                break
            if not exact[position]:  # it may be lower than its bound: find out, and for those that follow too
                others = bound.masked_fill(exact, -1.0)
                others[position] = math.inf  # of equal bounds `topk` may leave out the first
                few = others.topk(min(BATCH, len(bound))).indices
                few = few[~exact[few] & (bound[few] >= 0)]
                found = self._exactly(inside[few], int(upto[few].min()))
                known[few], upto[few] = torch.minimum(known[few], found), self.count
                bound[few], exact[few] = known[few], True
                continue
            self.centres[self.count], self.rows[self.count] = inside[position], x[position]
            squared = torch.addmv(norms, x, x[position], alpha=-2) + norms[position]
            margin = margins + margins[position]
            exact &= (squared - margin).clamp_(min=0) >= bound  # certainly not nearer to the new centre
            bound = torch.minimum(bound, squared.clamp_(min=0) + margin)
            bound[position] = -1.0
            self.count += 1
        self.bound[inside] = bound

    def _exactly(self, points: Tensor, start: int) -> Tensor:
        """Squared distance (m,) in float64 of each point to the nearest centre from number `start` on."""
        products = self._products(self.x[points], start, self.count)
        margins = self.margins[self.centres[start : self.count]].float()
        least = (products + margins).amin(1, keepdim=True) + 2 * self.margins[points].float()[:, None]
        nearest = products - margins <= least  # all that may be the nearest
        best = torch.full_like(points, math.inf, dtype=torch.float64)
        for pairs in nearest.nonzero().split(4096):
            i, j = pairs[:, 0], pairs[:, 1] + start
            difference = self.features[points[i]].double() - self.features[self.centres[j]].double()
            best.scatter_reduce_(0, i, difference.square().sum(1), "amin")
        return best


def random_subset(features: Tensor, n: int, *, seed: int = 0) -> Tensor:
    """Indices of n rows drawn at random without replacement: the control beside `k_center_greedy`.

    With one seed, a smaller draw is the beginning of a larger one, as it is with the greedy centres.

    Parameters
    ----------
    features : Tensor (N, d)
    n : int
        In 1..N.
    seed : int

    Returns
    -------
    Tensor (n,) int64
        All different.

    Raises
    ------
    ValueError
        Where n is not in 1..N.
    """
    total = len(features)
    if not 1 <= n <= total:
        raise ValueError(f"n = {n} rows of {total}: expected 1 <= n <= {total}")
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same rows on every device
    return torch.randperm(total, generator=generator)[:n].to(features.device)


def covering_radius(features: Tensor, centres: Tensor) -> float:
    """The largest distance r from a row of `features` to its nearest centre. Equation (2.5).

    With it, dist(q, M) ≤ dist(q, M_C) ≤ dist(q, M) + r for every query q, equation (2.12).

    Parameters
    ----------
    features : Tensor (N, d)
    centres : Tensor (n,) int64
        Indices of rows of `features`.

    Returns
    -------
    float
        In the units of the features.
    """
    radius, bank = 0.0, Bank(features[centres])
    for block in features.split(BLOCK):
        radius = max(radius, float(k_nearest(block, bank, 1)[0].max()))
    return radius


def random_projection(features: Tensor, dimension: int, *, seed: int = 0) -> Tensor:
    """``features @ R`` with R of shape (d, dimension), entries N(0, 1/dimension). Equation (2.8).

    In expectation it keeps every squared distance.

    Parameters
    ----------
    features : Tensor (N, d)
    dimension : int
        At least 1.
    seed : int
        Draws R.

    Returns
    -------
    Tensor (N, dimension)

    References
    ----------
    Johnson and Lindenstrauss 1984; the Gaussian form is Indyk and Motwani's, 1998.
    """
    if dimension < 1:
        raise ValueError(f"dimension = {dimension}: expected at least 1")
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same matrix on every device
    matrix = torch.randn(features.shape[1], dimension, generator=generator) / math.sqrt(dimension)
    return features @ matrix.to(features)


def jl_dimension(n: int, epsilon: float) -> int:
    """A dimension that keeps all squared distances of n points within 1 ± epsilon, with room to spare.

    ⌈4 ln n / (δ²/2 − δ³/3)⌉, equation (2.9), the bound of Dasgupta and Gupta (2003).

    Parameters
    ----------
    n : int
        At least 2.
    epsilon : float
        δ, between 0 and 1.

    Returns
    -------
    int
    """
    if n < 2 or not 0 < epsilon < 1:
        raise ValueError(f"n = {n}, epsilon = {epsilon}: expected n >= 2 and 0 < epsilon < 1")
    return math.ceil(4 * math.log(n) / (epsilon**2 / 2 - epsilon**3 / 3))
