"""PatchCore: a memory bank of normal patch features, and the distance to its nearest entry.

Source: Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from adlib.backbones import SHIPPED
from adlib.checks import flag, number, whole
from adlib.chunks import Cover, cover
from adlib.coreset import random_subset
from adlib.detector import Detector, readable_bytes
from adlib.features import load_features, spread, to_rows
from adlib.neighbors import Bank, k_nearest
from adlib.reading import chunks_of
from adlib.rounds import Runner, first_round, learn_in_chunks, needed, way_out
from adlib.samples import Sample

SELECTIONS = ("greedy", "random")


class PatchCore(Detector):
    """Detects what is far from every normal patch. `fit`, `predict`, `save` and `load` as in `Detector`.

    Parameters
    ----------
    backbone : str or Module
        A name or a module, see `adlib.backbones.load_backbone`.
    layers, neighbourhood, stride, pooling
        Of the patch features P, equations (2.1) to (2.3); see `adlib.features.PatchFeatures`.
    coreset_ratio : float
        The share of the memory bank that is kept, in (0, 1]. Equations (2.5), (2.6).
    selection : str
        "greedy", equation (2.6), or "random": as many patches, drawn from the seed, the control of the greedy choice.
    projection : int, optional
        Dimension of a random projection used while selecting greedily, equation (2.8); None for none.
    reweighting : int, optional
        b of equation (2.14), the size of the neighbourhood of ``m*``; None for the plain maximum.
    squared : bool
        Whether scores and maps are squared distances. No order of patches or images changes by it, but a map that is
        smoothed is another one, and the bound (2.12) does not hold.
    chunk : int, optional
        So many images at a time are learnt from: greedy centres of each chunk, then of the chunks' centres, equations
        (2.21) to (2.23). The first round keeps twice the share `coreset_ratio`. For banks beyond memory; None takes all
        images at once. The result depends on it, and never on `max_memory`.
    max_memory : float
        Bytes that the memory bank may take while it is built; more is refused before it starts, with the `chunk` that
        fits.
    image_size, resize, tiles, smoothing, batch_size, device, seed
        As in `Detector`.
    pretrained : bool
        False gives a named backbone random weights: for tests and as a baseline.

    Attributes
    ----------
    memory_bank : Tensor (N_C, C)
        The patch features that are kept, the coreset M_C.
    bank_radius : Tensor (1,) or (0,)
        No patch that was learnt from is farther from its nearest one in the memory bank: the covering radius (2.5), or
        with `chunk` the bound (2.21). Not known, so empty, for a random or a projected selection.

    Raises
    ------
    ValueError
        For an argument out of its range, which it names.

    References
    ----------
    Roth et al., CVPR 2022. ``PatchCore(**PatchCore.PAPER)`` is the paper's PatchCore-10 % as its official code runs it,
    amazon-science/patchcore-inspection at fcaa92f, with its preset for 224 pixels: one nearest neighbour, squared
    distances, no re-weighting. On one bank both give the same features, scores and maps, but for
    rounding, and for 16 pixels at the border of a map: the official Gaussian mirrors the map there, ours goes on with
    the last value (the benchmark official_patchcore). The bank itself is another one: the official selection
    starts from the mean distance to ten random patches, ours, (2.6), from one patch.
    """

    PAPER: ClassVar[dict[str, Any]] = {
        "backbone": "wide_resnet50_2", "layers": ("layer2", "layer3"), "resize": 256, "image_size": 224,
        "neighbourhood": 3, "pooling": 1024, "coreset_ratio": 0.1, "projection": 128, "reweighting": None,
        "squared": True, "smoothing": 4.0,
    }  # fmt: skip
    LEARNT, NEEDS_OLD = ("memory_bank",), False

    memory_bank: Tensor
    bank_radius: Tensor

    def __init__(
        self,
        backbone: str | nn.Module = SHIPPED,
        *,
        layers: Sequence[str] = ("layer2", "layer3"),
        neighbourhood: int = 3,
        stride: int = 1,
        pooling: int | None = None,
        coreset_ratio: float = 0.1,
        selection: str = "greedy",
        projection: int | None = None,
        reweighting: int | None = 9,
        squared: bool = False,
        image_size: int | tuple[int, int] | None = None,
        resize: int | None = None,
        tiles: int | None = None,
        smoothing: float = 4.0,
        chunk: int | None = None,
        max_memory: float = 8e9,
        batch_size: int = 16,
        device: str = "auto",
        seed: int = 0,
        pretrained: bool = True,
    ) -> None:
        super().__init__(backbone, image_size=image_size, resize=resize, tiles=tiles, smoothing=smoothing,
                         batch_size=batch_size, device=device, seed=seed)
        self.features = load_features(backbone, layers, neighbourhood, stride, pooling, tiles,
                                      image_size=self.image_size, pretrained=pretrained, seed=self.seed)
        self.layers, self.neighbourhood = self.features.layers, self.features.neighbourhood
        self.stride, self.pooling = self.features.stride, self.features.pooling
        self.squared = flag("squared", squared)
        self.coreset_ratio = number("coreset_ratio", coreset_ratio, "(0, 1]")
        if selection not in SELECTIONS:
            raise ValueError(f"selection = {selection!r}: expected one of {', '.join(SELECTIONS)}")
        self.selection = selection
        self.projection = None if projection is None else whole("projection", projection)
        self.reweighting = None if reweighting is None else whole("reweighting", reweighting)
        self.chunk = None if chunk is None else whole("chunk", chunk)
        if self.chunk is not None and selection == "random":
            raise ValueError("chunk is for selection='greedy', found 'random': leave chunk out")
        self.max_memory = number("max_memory", max_memory, "(0, inf]")
        self.register_buffer("memory_bank", torch.empty(0, 0))  # M_C (N_C, C)
        self.register_buffer("bank_radius", torch.empty(0))
        self.runner: Runner = first_round  # `adlib.cluster` puts another one in its place
        self._searchable: tuple[tuple[int, int], Bank] | None = None

    frozen = property(lambda self: self.features.backbone)
    field = property(lambda self: self.features.field)
    step = property(lambda self: self.features.step)

    # ------------------------------------------------------------------ training

    def memory_needed(self, images: int) -> int:
        """Bytes that the memory bank of so many images takes while it is built, the coreset's copy included.

        While predicting, the bank that is kept is held twice: as it is, and centred for the search.
        """
        return needed(self, images, *self._patches(), self.chunk, self.coreset_ratio)

    def _patches(self) -> tuple[int, int]:
        """How many an image has, and how many numbers each."""
        c, rows, columns = self.features.to(self.device).shape(self.image_size)
        return self.count_cells((rows, columns), self.stride), c

    def _plan(self, count: int) -> str:
        self.features.check_stride(self.image_size)
        memory = self.memory_needed(count)
        if memory > self.max_memory:
            raise ValueError(
                f"the memory bank of {count} images needs {readable_bytes(memory)}, max_memory is "
                f"{readable_bytes(self.max_memory)}. {way_out(self, count)}Raise it, or use fewer images, a larger "
                "stride, smaller images"
            )
        return f"fit, with {readable_bytes(memory)} for the memory bank"

    def _learn(self, samples: list[Sample], held_out: list[Sample]) -> None:
        if self.chunk is None:
            super()._learn(samples, held_out)
            return
        self._keep(learn_in_chunks(self, samples, held_out))

    def _rows_of(self, batch: Tensor) -> Tensor:
        """The patch features of a batch (B·m, C), of the m cells that see the region, or of all."""
        cells = self.features.all_cells(batch)
        chosen = self.cells((cells.shape[-2], cells.shape[-1]), self.stride)
        return to_rows(cells[:, :, :: self.stride, :: self.stride], chosen)

    def _fit(self, batches: Iterator[Tensor], count: int) -> None:
        rows = self._rows(batches, count)
        if rows is None:
            raise ValueError(f"none of the {count} training images could be read: {list(self.failures.values())[:3]}")
        self._keep(self._cover(rows, self.coreset_ratio))

    def _rows(self, batches: Iterator[Tensor], count: int) -> Tensor | None:
        """M of at most `count` images, equation (2.4), (N, C); None where there was no batch."""
        bank, filled = torch.empty(0, 0), 0
        for batch in batches:
            rows = self._rows_of(batch)  # (B·h·w, C)
            if not bool(torch.isfinite(torch.stack(rows.aminmax())).all()):  # a NaN is both; no copy of all
                raise ValueError("the backbone gave features that are not finite: check its weights and the images")
            if not filled:
                bank = torch.empty(count * (len(rows) // len(batch)), rows.shape[1], device=rows.device)
            bank[filled : filled + len(rows)] = rows
            filled += len(rows)
        return bank[:filled] if filled else None

    def _cover(self, bank: Tensor, share: float) -> Cover:
        """A share of the bank and how well it covers the rest. Distances may be projected; what is kept is not."""
        n = max(1, int(share * len(bank)))
        if self.selection == "random" or n == len(bank):
            chosen = torch.arange(n) if n == len(bank) else random_subset(bank, n, seed=self.seed)
            return Cover(bank if n == len(bank) else bank[chosen], chosen, len(bank), 0.0, 0.0)
        return cover(bank, n, seed=self.seed, projection=self.projection, progress=True)

    def _keep(self, found: Cover) -> None:
        self.memory_bank = found.rows
        known = self.selection == "greedy" and self.projection is None
        self.bank_radius = _as_radius(found.radius) if known else torch.empty(0)

    def _extend(self, samples: list[Sample]) -> None:
        """Go on with the greedy selection: the centres that are there stay, and the new patches add those they lack."""
        for some in chunks_of(samples, self.chunk or len(samples)):
            rows = self._rows((batch for batch, _, _ in self._read(list(some), self.failures, "extend")), len(some))
            if rows is None:
                continue
            there, n = len(self.memory_bank), max(1, int(self.coreset_ratio * len(rows)))
            needed = 4 * rows.shape[1] * (2 * (there + len(rows)) + there + n)  # both, a copy, and what is kept
            if needed > self.max_memory:
                raise ValueError(f"a memory bank of {there:,} patches and {len(rows):,} new ones need "
                                 f"{readable_bytes(needed)}, max_memory is {readable_bytes(self.max_memory)}. Raise it,"
                                 " give fewer pictures, or a smaller chunk=")
            if self.selection == "random":
                self.memory_bank = torch.cat([self.memory_bank, rows[random_subset(rows, n, seed=self.seed)]])
                continue
            found = cover(torch.cat([self.memory_bank, rows]), there + n, start=torch.arange(there), seed=self.seed,
                          projection=self.projection, progress=True)
            self.memory_bank = found.rows
            if len(self.bank_radius):  # what was covered stays covered
                self.bank_radius = _as_radius(max(float(self.bank_radius), found.radius))

    def _forget(self) -> None:
        super()._forget()
        self.bank_radius = torch.empty(0)

    def must_give_scores(self) -> None:
        """As `Detector.must_give_scores`; also the radius of the memory bank must be one."""
        if len(self.bank_radius) > 1 or bool((self.bank_radius < 0).any()):
            raise ValueError("the radius of the memory bank is not one number, 0 or more")
        super().must_give_scores()

    # ------------------------------------------------------------------ scoring

    def look(self, batch: Tensor) -> Tensor:
        """Patch features of all cells (B, C, h*, w*), equation (2.2)."""
        return self.features.all_cells(batch)

    def score(self, looked: Tensor) -> tuple[Tensor, Tensor]:
        """Image scores (B,), equations (2.13) and (2.14), and patch scores (B, h*, w*), equation (2.11)."""
        b, grid = looked.shape[0], (looked.shape[-2], looked.shape[-1])
        chosen = self.cells(grid, self.stride)
        queries = to_rows(looked[:, :, :: self.stride, :: self.stride], chosen)  # (B·h'·w', C), or of the chosen cells
        bank = self._search_bank()
        distances, nearest = k_nearest(queries, bank)
        distances = distances.view(b, -1)
        scores, worst = distances.max(1)  # s* and the patch that has it
        size = min(self.reweighting or 1, len(self.memory_bank))
        if size > 1:  # one neighbour would be m* itself, and the weight 0 for every image
            row = torch.arange(b, device=worst.device) * distances.shape[1] + worst
            star = self.memory_bank[nearest[row, 0]]  # m* (B, C)
            _, around = k_nearest(star, bank, size)  # N_b(m*), m* or its twin first
            to_all = (queries[row][:, None] - self.memory_bank[around]).square().sum(2).sqrt()  # (B, b)
            scores = reweight(scores, to_all)
        if self.squared:
            scores, distances = scores.square(), distances.square()
        return scores, spread(distances, self.stride, grid, chosen)

    def _search_bank(self) -> Bank:
        """The memory bank made ready for searching, once for as long as it stays the same."""
        if self.memory_bank.is_inference() or torch.compiler.is_compiling():  # nothing tells whether it has changed
            return Bank(self.memory_bank)
        state = self.memory_bank.data_ptr(), self.memory_bank._version
        if self._searchable is None or self._searchable[0] != state:
            self._searchable = state, Bank(self.memory_bank)
        return self._searchable[1]


def _as_radius(radius: float) -> Tensor:
    """Rounded upwards, so that it stays a bound: (1,) float32."""
    rounded = np.float32(radius)
    return torch.tensor([float(rounded if rounded >= radius else np.nextafter(rounded, np.float32(math.inf)))])


def reweight(scores: Tensor, distances: Tensor) -> Tensor:
    """``s = (1 − exp(s*) / Σ exp(d_m)) · s*``. Equation (2.14); the weight lies in the range (2.15).

    Computed with the log of the sum: exp(89) overflows float32.

    Parameters
    ----------
    scores : Tensor (B,)
        ``s*``, the distance from the worst patch to ``m*``.
    distances : Tensor (B, b)
        From that patch to each m of ``N_b(m*)``, ``m*`` among them.

    Returns
    -------
    Tensor (B,)

    References
    ----------
    Roth et al. 2022, Equation 7.
    """
    return -torch.expm1(scores - distances.logsumexp(1)) * scores
