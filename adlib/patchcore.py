"""PatchCore: a memory bank of normal patch features, and the distance to its nearest entry.

Source: Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adlib.backbones import SHIPPED, load_backbone
from adlib.checks import flag, layer_names, number, whole
from adlib.coreset import k_center_greedy, random_projection, random_subset
from adlib.detector import Detector, readable_bytes
from adlib.features import PatchFeatures, spread, to_rows
from adlib.neighbors import Bank, k_nearest

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
    max_memory : float
        Bytes that the memory bank may take while it is built; more is refused before it starts.
    image_size, resize, smoothing, batch_size, device, seed
        As in `Detector`.
    pretrained : bool
        False gives a named backbone random weights: for tests and as a baseline.

    Attributes
    ----------
    memory_bank : Tensor (N_C, C)
        The patch features that are kept, the coreset M_C.

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
    LEARNT = ("memory_bank",)

    memory_bank: Tensor

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
        smoothing: float = 4.0,
        max_memory: float = 8e9,
        batch_size: int = 16,
        device: str = "auto",
        seed: int = 0,
        pretrained: bool = True,
    ) -> None:
        super().__init__(backbone, image_size=image_size, resize=resize, smoothing=smoothing, batch_size=batch_size,
                         device=device, seed=seed)
        layers = layer_names(layers)
        network = load_backbone(backbone, layers, pretrained=pretrained, seed=self.seed, image_size=self.image_size)
        self.features = PatchFeatures(network, layers, neighbourhood, stride, pooling)
        self.features.check_stride(self.image_size)
        self.layers, self.neighbourhood, self.stride = layers, self.features.neighbourhood, self.features.stride
        self.pooling, self.squared = self.features.pooling, flag("squared", squared)
        self.coreset_ratio = number("coreset_ratio", coreset_ratio, "(0, 1]")
        if selection not in SELECTIONS:
            raise ValueError(f"selection = {selection!r}: expected one of {', '.join(SELECTIONS)}")
        self.selection = selection
        self.projection = None if projection is None else whole("projection", projection)
        self.reweighting = None if reweighting is None else whole("reweighting", reweighting)
        self.max_memory = number("max_memory", max_memory, "(0, inf]")
        self.register_buffer("memory_bank", torch.empty(0, 0))  # M_C (N_C, C)
        self._searchable: tuple[tuple[int, int], Bank] | None = None

    @property
    def frozen(self) -> nn.Module:
        return self.features.backbone

    # ------------------------------------------------------------------ training

    def memory_needed(self, images: int) -> int:
        """Bytes that the memory bank of so many images takes while it is built, the coreset's copy included.

        While predicting, the bank that is kept is held twice: as it is, and centred for the search.
        """
        features = self.features.to(self.device)
        with torch.no_grad():
            _, c, h, w = features(torch.zeros(1, 3, *self.image_size, device=self.device)).shape
        if self.selection == "random":
            return round(images * h * w * 4 * c * (1 if self.coreset_ratio == 1 else 1 + self.coreset_ratio))
        selected = c if self.projection is None else self.projection
        # The selection holds a copy of all rows, the projected ones if there are any, and the rows that it has chosen.
        copies = selected * (1 + self.coreset_ratio) + (0 if self.projection is None else selected)
        return round(images * h * w * 4 * (c if self.coreset_ratio == 1 else c + copies))

    def _plan(self, count: int) -> str:
        self.features.check_stride(self.image_size)
        needed = self.memory_needed(count)
        if needed > self.max_memory:
            raise ValueError(
                f"the memory bank of {count} images needs {readable_bytes(needed)}, max_memory is "
                f"{readable_bytes(self.max_memory)}. Raise it, or use fewer images, a larger stride, smaller images"
            )
        return f"fit, with {readable_bytes(needed)} for the memory bank"

    def _fit(self, batches: Iterator[Tensor], count: int) -> None:
        bank, filled = torch.empty(0, 0), 0  # M, equation (2.4)
        for batch in batches:
            rows = to_rows(self.features(batch))  # (B·h·w, C)
            if not bool(torch.isfinite(rows).all()):
                raise ValueError("the backbone gave features that are not finite: check its weights and the images")
            if not filled:
                bank = torch.empty(count * (len(rows) // len(batch)), rows.shape[1], device=rows.device)
            bank[filled : filled + len(rows)] = rows
            filled += len(rows)
        if not filled:
            raise ValueError(f"none of the {count} training images could be read: {list(self.failures.values())[:3]}")
        self.memory_bank = self._coreset(bank[:filled])

    def _coreset(self, bank: Tensor) -> Tensor:
        """M_C. Distances may be projected; what is kept is not."""
        if self.coreset_ratio == 1:
            return bank
        n = max(1, int(self.coreset_ratio * len(bank)))
        if self.selection == "random":
            return bank[random_subset(bank, n, seed=self.seed)]
        rows = bank if self.projection is None else random_projection(bank, self.projection, seed=self.seed)
        return bank[k_center_greedy(rows, n, seed=self.seed, progress=True)]

    # ------------------------------------------------------------------ scoring

    def look(self, batch: Tensor) -> Tensor:
        """Patch features of all cells (B, C, h*, w*), equation (2.2)."""
        return self.features.all_cells(batch)

    def score(self, looked: Tensor) -> tuple[Tensor, Tensor]:
        """Image scores (B,), equations (2.13) and (2.14), and patch scores (B, h*, w*), equation (2.11)."""
        cells = looked  # (B, C, h*, w*)
        features = cells[:, :, :: self.stride, :: self.stride]  # (B, C, h', w')
        (rows, columns), (b, _, h, w) = cells.shape[-2:], features.shape
        queries = to_rows(features)  # (B·h'·w', C)
        bank = self._search_bank()
        distances, nearest = k_nearest(queries, bank)
        distances = distances.view(b, h * w)
        scores, worst = distances.max(1)  # s* and the patch that has it
        size = min(self.reweighting or 1, len(self.memory_bank))
        if size > 1:  # one neighbour would be m* itself, and the weight 0 for every image
            row = torch.arange(b, device=worst.device) * (h * w) + worst
            star = self.memory_bank[nearest[row, 0]]  # m* (B, C)
            _, around = k_nearest(star, bank, size)  # N_b(m*), m* or its twin first
            to_all = (queries[row][:, None] - self.memory_bank[around]).square().sum(2).sqrt()  # (B, b)
            scores = reweight(scores, to_all)
        if self.squared:
            scores, distances = scores.square(), distances.square()
        return scores, spread(distances.view(b, h, w), self.stride, (rows, columns))

    def _search_bank(self) -> Bank:
        """The memory bank made ready for searching, once for as long as it stays the same."""
        if self.memory_bank.is_inference() or torch.compiler.is_compiling():  # nothing tells whether it has changed
            return Bank(self.memory_bank)
        state = self.memory_bank.data_ptr(), self.memory_bank._version
        if self._searchable is None or self._searchable[0] != state:
            self._searchable = state, Bank(self.memory_bank)
        return self._searchable[1]


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
