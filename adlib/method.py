"""What a method brings to a detector, and what follows from it: its arguments, its network's grid, its scores.

Nothing here knows how a method looks at an image. A method brings one frozen network, its backbone or its teacher,
as the first argument of its constructor, and names it `frozen`.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from adlib import stored
from adlib.checks import MAX_PIXELS, MAX_SIDE, image_sides, number, whole
from adlib.fitting import training_batches
from adlib.placing import must_stay_float32, pick_device, place_after
from adlib.prediction import Prediction, full_size_maps
from adlib.reading import Look, Reading, read_batches, smallest_side
from adlib.receptive_field import ReceptiveField
from adlib.region import Cells, choose_cells, margin_of
from adlib.samples import Sample
from adlib.saving import NOT_SAVED, must_give_scores


class Method(nn.Module, ABC):
    """What a method adds to a `adlib.detector.Detector`: `frozen`, `LEARNT`, `_fit`, `look`, `score` and its buffers.

    A method keeps each argument of its constructor under the argument's own name; `config` reads them there.
    """

    SIDE, LEAST_SIDE = 224, 32  # of the default image size; the least side that a method can take
    NEEDS_OLD = True  # whether `extend` needs the pictures of the fit again
    CALIBRATES = False  # whether a method needs held-out images to be fitted at all
    LEARNT: tuple[str, ...] = ()  # the buffers that are empty until `_fit` or `_calibrate` fills them

    normal_scores: Tensor
    normal_peaks: Tensor

    def __init__(
        self,
        frozen: str | nn.Module,
        *,
        image_size: int | tuple[int, int] | None,
        smoothing: float,
        batch_size: int,
        device: str,
        seed: int,
        resize: int | None = None,
        tiles: int | None = None,
    ) -> None:
        super().__init__()
        self.takes_aspect = image_size is None  # whether a fit sets image_size anew
        self.image_size = image_sides(self.SIDE if image_size is None else image_size, self.LEAST_SIDE,
                                      MAX_PIXELS if tiles is None else stored.MAX_PIXELS)
        self.tiles = tiles  # checked by what cuts them
        if resize is not None and image_size is None:
            raise ValueError(f"resize = {resize!r}: expected image_size= beside it, the size of the middle that is cut")
        self.resize = None if resize is None else whole("resize", resize, max(self.image_size), MAX_SIDE)
        self.smoothing = float(number("smoothing", smoothing, "[0, 1000]"))
        self.batch_size = whole("batch_size", batch_size, most=65_536)
        self.seed = whole("seed", seed, 0, 2**32 - 1)
        self.frozen_name = frozen if isinstance(frozen, str) else None
        self.device = pick_device(device)
        self.reading = Reading()
        self._cells: tuple[object, Cells | None] = (None, None)
        self.folds = nn.ModuleList()  # the detectors of `fit(folds=)`
        self.failures: dict[str, str] = {}
        self.normal_parts: list[tuple[str, str | None]] = []
        self.held_out: Prediction | None = None
        self.interrupted: Prediction | None = None
        self.register_buffer("normal_scores", torch.empty(0))
        self.register_buffer("normal_peaks", torch.empty(0))

    # ------------------------------------------------------------------ what a method adds

    @property
    @abstractmethod
    def frozen(self) -> nn.Module:
        """The network that is never trained here, a backbone or a teacher."""

    def _plan(self, count: int) -> str:
        """What fitting on `count` images will need, in words. Raises ValueError where it is too much."""
        return "fit"

    @abstractmethod
    def _fit(self, batches: Iterator[Tensor], count: int) -> None:
        """Learn from `count` normal images that arrive as batches (B, 3, h, w)."""

    def _calibrate(self, batches: Iterator[Tensor]) -> None:
        """Learn from the held-out normal images, in batches (B, 3, h, w), what `_fit` could not; as a rule nothing."""

    def _learn(self, samples: list[Sample], held_out: list[Sample]) -> None:
        """Read the training images, make the contract, learn."""
        self._fit(training_batches(self, samples, held_out, self._plan(len(samples))), len(samples))

    def _extend(self, samples: list[Sample]) -> None:
        """Go on learning from more normal images; with `NEEDS_OLD`, from all of them. Changes no tensor in place."""
        raise NotImplementedError(f"{type(self).__name__} cannot be extended: fit again with all good pictures")

    def _forget(self) -> None:
        """Empty what was learnt."""
        for name in self.LEARNT:
            setattr(self, name, torch.empty([0] * getattr(self, name).ndim))

    def look(self, batch: Tensor) -> Tensor:
        """The part of the work that does not depend on what was learnt: batch (B, 3, h, w) in [0, 1] to features."""
        return batch

    @property
    def field(self) -> ReceptiveField | None:
        """Which pixels of the network's input a cell of its grid depends on; None where that cannot be told."""
        return None

    @property
    def step(self) -> int:
        """Pixels of the network's input from one cell of its coarsest layer to the next."""
        return 1

    @abstractmethod
    def score(self, looked: Tensor) -> tuple[Tensor, Tensor]:
        """What `look` gave to image scores (B,) and a grid of patch scores (B, h', w')."""

    def config(self) -> dict[str, Any]:
        """The constructor's arguments that a file holds, by name: all but the frozen network and `NOT_SAVED`."""
        return {name: getattr(self, name) for name in self.saved_names()}

    @classmethod
    def saved_names(cls) -> list[str]:
        """The names of these arguments."""
        _, *names = inspect.signature(cls).parameters
        return [name for name in names if name not in NOT_SAVED]

    # ------------------------------------------------------------------ what was learnt

    @property
    def fitted(self) -> bool:
        """Whether `fit` or `load` has been called."""
        return len(self.folds) > 0 or all(len(getattr(self, name)) for name in self.LEARNT)

    def _must_be_fitted(self) -> None:
        if not self.fitted:
            raise RuntimeError(f"{type(self).__name__} is not fitted: call fit(normal_images) or load(path) first")

    def must_give_scores(self) -> None:
        """Raise an error where what was learnt does not go together, as it may not in a file of another origin."""
        must_give_scores(self)

    # ------------------------------------------------------------------ reading, and the grid of the network

    def _read(
        self, samples: list[Sample], failures: dict[str, str], what: str
    ) -> Iterator[tuple[Tensor, list[Sample], list[Look]]]:
        return read_batches(samples, self.reading, self.image_size, self.images_at_once, self.device, failures,
                            what, self.resize)

    @property
    def images_at_once(self) -> int:
        """`batch_size`, or one where images are cut into tiles."""
        return self.batch_size if self.tiles is None else 1

    @property
    def region_margin(self) -> int | None:
        """How far from the region a cell may lie and still see into it, in pixels of the region's frame.

        Cells up to there are learnt from and scored, as a defect at the edge of the region shows in them, too. None
        without a region.
        """
        region, size = self.reading.region, self.reading.own_size or self.image_size
        return None if region is None else margin_of(region, size, self.resize, self.field)

    def count_cells(self, grid: tuple[int, int], stride: int = 1) -> int:
        """How many there are, of every `stride`-th row and column of a grid (h*, w*)."""
        cells = self.cells(grid, stride)
        return math.prod(-(-side // stride) for side in grid) if cells is None else len(cells.chosen)

    def cells(self, grid: tuple[int, int], stride: int = 1) -> Cells | None:
        """The cells that see the region, of every `stride`-th row and column of a grid (h*, w*); None for all."""
        if self.reading.region is None:
            return None
        own = self.reading.own_size
        asked = (self.reading.region, self.image_size, self.resize, grid, stride, own, self.device)
        if self._cells[0] != asked:
            chosen = choose_cells(self.reading.region, self.image_size, self.resize, self.field, grid, stride, own)
            self._cells = asked, Cells(*(index.to(self.device) for index in chosen))
        return self._cells[1]

    @property
    def smallest_defect(self) -> float | None:
        """How large a defect should be, in pixels of the training images, to be found wherever it lies.

        Two cells of the grid: so large a square always covers one cell wholly. It tells whether images are looked at
        finely enough, and is no promise: a strong smaller defect may be found, a faint larger one missed. Where it is
        larger than what has to be found, raise `image_size`, or cut `tiles`. None before `fit`, and where the backbone
        does not tell its cells.
        """
        return smallest_side(self.reading, self.field, getattr(self, "stride", 1), self.image_size, self.resize)

    # ------------------------------------------------------------------ scores, and where they are computed

    def patch_scores(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Batch (B, 3, h, w) in [0, 1] to image scores (B,) and a grid of patch scores (B, h', w')."""
        self._must_be_fitted()
        looked = self.look(batch)
        if not self.folds:
            return self.score(looked)
        folds: list[Any] = list(self.folds)
        results = [fold.score(looked) for fold in folds]
        scores, grids = (torch.stack(values).amin(0) for values in zip(*results, strict=True))  # equation (2.19)
        return scores, grids

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Batch (B, 3, h, w) in [0, 1], already resized and cut, to scores (B,) and maps (B, h, w). Tensors only."""
        scores, grids = self.patch_scores(batch)
        height, width = batch.shape[-2:]
        maps = full_size_maps(grids, (height, width), self.smoothing)
        if self.reading.region is not None:
            seen = self.reading.region.on_input((height, width), self.resize, self.reading.own_size).to(maps.device)
            maps = torch.where(seen, maps, grids.amin((1, 2), keepdim=True))
        return scores, maps

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Of `to`, `cuda`, `cpu`, `half` and their like, also of a module around this one: `device` follows."""
        must_stay_float32(fn)
        super()._apply(fn, recurse)
        self.device = place_after(self, fn)
        return self
