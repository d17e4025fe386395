"""Locally aware patch features, read from a frozen backbone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adlib.backbones import MEAN, STD, load_backbone
from adlib.checks import layer_names, whole
from adlib.receptive_field import ReceptiveField, on_first_grid, receptive_field
from adlib.region import Cells

LITTLE = 64  # pixels, enough of a blank picture to ask a network for its shapes


class PatchFeatures(nn.Module):
    """Images to locally aware patch features P. Equations (2.1) to (2.3).

    Each layer is averaged over p×p neighbourhoods (2.2). The layers are brought to the grid of the
    first one by bilinear interpolation and stacked. Every s-th row and column is kept (2.3).

    Parameters
    ----------
    backbone : Module
        See `adlib.backbones.load_backbone`.
    layers : sequence of str
        From fine to coarse.
    neighbourhood : int
        p, odd.
    stride : int
        s, at least 1; at most the rows and columns of cells, see `check_stride`.
    pooling : int, optional
        None: the channels stay what they are. A number: so many in all, as `pooled` makes them in the place of the
        averages (2.2), for each layer and then for the layers one after the other. That is what the official codes do,
        PatchCore's with 1,024 and SimpleNet's with 1,536.
    tiles : int, optional
        None: images go through the network whole. A number, a multiple of the coarsest layer's stride: square by
        square of so many pixels, one at a time, each with as much of the picture around it as its cells can see. The
        features are those of the whole image, but for rounding. The network needs the memory of one such square; the
        features of one whole image are held, 4·C bytes a cell.

    Raises
    ------
    ValueError
        For no layer or one twice, an even neighbourhood, or a stride or a pooling below 1; for tiles that are no such
        multiple, or of a backbone whose receptive field cannot be told.

    References
    ----------
    Roth et al., CVPR 2022, Section 3.1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        layers: Sequence[str] = ("layer2", "layer3"),
        neighbourhood: int = 3,
        stride: int = 1,
        pooling: int | None = None,
        tiles: int | None = None,
    ) -> None:
        super().__init__()
        self.layers, self.stride = layer_names(layers), whole("stride", stride)
        self.neighbourhood = whole("neighbourhood", neighbourhood, most=1023)
        if neighbourhood % 2 == 0:
            raise ValueError(f"neighbourhood = {neighbourhood}: expected an odd number, so that a cell is its centre")
        self.pooling = None if pooling is None else whole("pooling", pooling, most=65_536)
        self.backbone = backbone.to(memory_format=torch.channels_last)  # about a quarter faster on CPUs
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.tiles = None if tiles is None else self._tile(tiles)

    def train(self, mode: bool = True) -> Self:
        """The backbone stays in evaluation mode: in training mode its statistics would change with each batch."""
        super().train(mode)
        self.backbone.eval()
        return self

    def check_stride(self, image_size: tuple[int, int]) -> None:
        """Raise ValueError where images of this size have fewer rows or columns of cells than one stride."""
        if self.stride > 1:
            _, rows, columns = self.shape(image_size)
            if self.stride > min(rows, columns):
                raise ValueError(f"stride = {self.stride}: expected at most {min(rows, columns)}, as images of "
                                 f"{image_size} pixels have {rows} rows and {columns} columns of cells")

    @cached_property
    def field(self) -> ReceptiveField | None:
        """Which pixels a patch feature depends on, all layers together; None where the layers do not tell."""
        try:
            return on_first_grid([receptive_field(self.backbone, layer, neighbourhood=self.neighbourhood)
                                  for layer in self.layers])
        except ValueError:  # such as attention, which sees everything
            return None

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to features (B, C, h, w), C the sum of the layers' channels."""
        return self.all_cells(images)[:, :, :: self.stride, :: self.stride]

    def all_cells(self, images: Tensor) -> Tensor:
        """As `forward`, without the stride: images (B, 3, H, W) in [0, 1] to features of all cells (B, C, h*, w*)."""
        if self.tiles is None or torch.compiler.is_compiling():  # an exported graph holds the picture whole
            return self._whole(images)
        return self._tiled(images, self.tiles)

    def shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """C, h* and w* for images of this size."""
        with torch.no_grad():
            if self.tiles is None or self.field is None:
                _, c, rows, columns = self._whole(self.mean.new_zeros(1, 3, *image_size)).shape
                return c, rows, columns
            few = [min(side, self.step * -(-LITTLE // self.step)) for side in image_size]
            c = self._whole(self.mean.new_zeros(1, 3, *few)).shape[1]
        return c, image_size[0] // self.field.stride, image_size[1] // self.field.stride

    @cached_property
    def step(self) -> int:
        """Pixels from one cell of the coarsest layer to the next."""
        return max(receptive_field(self.backbone, layer).stride for layer in self.layers)

    @property
    def halo(self) -> int:
        """How many pixels around a tile go through the network with it: what its cells see, in whole steps."""
        size, stride, start = self.field or (1, 1, 0)
        return self.step * -(-max(-start, size + start - stride) // self.step)

    def _tile(self, tiles: int) -> int:
        if self.field is None:
            raise ValueError(f"tiles = {tiles!r}: the layers of this backbone do not tell what a cell sees, which may "
                             "be the whole picture, so no tile gives what the picture would; leave tiles out, or use a "
                             "convolutional backbone")
        if whole("tiles", tiles, self.step) % self.step:
            raise ValueError(f"tiles = {tiles}: expected a multiple of {self.step} pixels, the step of the coarsest "
                             f"layer, such as {self.step * max(1, round(tiles / self.step))}")
        side = self.step * -(-LITTLE // self.step)
        with torch.no_grad():
            found = self._whole(self.mean.new_zeros(1, 3, side, side)).shape[-2:]
        if set(found) != {side // self.field.stride}:
            raise ValueError(f"tiles = {tiles}: {side} pixels give {found[0]} × {found[1]} cells of this backbone, "
                             f"expected one for {self.field.stride} pixels, or tiles would not fit together; leave "
                             "tiles out, or use a backbone whose convolutions are padded")
        return int(tiles)

    def _tiled(self, images: Tensor, side: int) -> Tensor:
        """`all_cells`, tile by tile."""
        (height, width), step, halo = images.shape[-2:], self.field.stride if self.field else 1, self.halo
        if height % self.step or width % self.step:
            raise ValueError(f"images of {height} × {width} pixels: with tiles, expected multiples of {self.step}")
        result = None
        for top in range(0, height, side):
            for left in range(0, width, side):
                up, before = max(0, top - halo), max(0, left - halo)
                part = self._whole(images[:, :, up : top + side + halo, before : left + side + halo])
                if result is None:
                    shape = (*part.shape[:2], height // step, width // step)  # channels last: its rows are a view
                    result = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
                rows = slice(top // step, min(top + side, height) // step)
                columns = slice(left // step, min(left + side, width) // step)
                result[:, :, rows, columns] = part[:, :, rows.start - up // step : rows.stop - up // step,
                                                   columns.start - before // step : columns.stop - before // step]
        return result  # pyrefly: ignore

    def _whole(self, images: Tensor) -> Tensor:
        """`all_cells`, all at once."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        outputs = self.backbone(x)
        of_cells = aggregate if self.pooling is None else partial(pooled, channels=self.pooling)
        layers = [of_cells(outputs[layer], self.neighbourhood) for layer in self.layers]
        grid = layers[0].shape[-2:]
        layers = [layers[0]] + [F.interpolate(x, grid, mode="bilinear", align_corners=False) for x in layers[1:]]
        stacked = torch.cat(layers, 1)  # (B, C, h*, w*)
        return stacked if self.pooling is None else averaged(stacked, self.pooling)


def load_features(
    backbone: str | nn.Module, layers: Sequence[str], neighbourhood: int, stride: int, pooling: int | None,
    tiles: int | None, *, image_size: tuple[int, int], pretrained: bool, seed: int,
) -> PatchFeatures:  # fmt: skip
    """`PatchFeatures` for images of this size, of a backbone that `adlib.backbones.load_backbone` finds."""
    layers = layer_names(layers)
    blank = image_size if tiles is None else (min(image_size[0], 224), min(image_size[1], 224))
    network = load_backbone(backbone, layers, pretrained=pretrained, seed=seed, image_size=blank)
    features = PatchFeatures(network, layers, neighbourhood, stride, pooling, tiles)
    features.check_stride(image_size)
    return features


def aggregate(features: Tensor, neighbourhood: int) -> Tensor:
    """The mean over the p×p neighbourhood of each cell. Equation (2.2) over the cells of (2.1).

    At the border, the mean is over the cells that exist: zeros from outside would make every border cell look unlike
    the interior.

    Parameters
    ----------
    features : Tensor (B, C, h, w)
    neighbourhood : int
        p, odd.

    Returns
    -------
    Tensor (B, C, h, w)
    """
    return F.avg_pool2d(features, neighbourhood, 1, neighbourhood // 2, count_include_pad=False)


def pooled(features: Tensor, neighbourhood: int, channels: int) -> Tensor:
    """The C·p² numbers of each cell's p×p neighbourhood, averaged to so many, as in the official PatchCore.

    The numbers stand channel by channel, in each the rows of the neighbourhood, and beyond the border they are 0. They
    are cut into `channels` runs of nearly equal length, and of each the mean is kept. A run may end in the middle of a
    channel's neighbourhood. So layer2 of a WideResNet-50, 512·9 numbers, gives 1,024 overlapping runs of 5, two for
    each channel; the mean of these two is a 3×3 mean in which the centre counts twice.

    The official code enlarges a coarse layer's planes, one for each channel and place, before it averages over them.
    All planes are enlarged alike, so the order makes no difference but the rounding, and here the average comes first.

    Parameters
    ----------
    features : Tensor (B, C, h, w)
    neighbourhood : int
        p, odd.
    channels : int

    Returns
    -------
    Tensor (B, channels, h, w)

    References
    ----------
    amazon-science/patchcore-inspection at fcaa92f, PatchMaker and MeanMapper.
    """
    (b, _, h, w), p = features.shape, neighbourhood
    return averaged(F.unfold(features, p, padding=p // 2).view(b, -1, h, w), channels)


def averaged(features: Tensor, channels: int) -> Tensor:
    """Features (B, C, h, w) to (B, channels, h, w): run i is the mean of the channels ⌊iC/n⌋ to ⌈(i+1)C/n⌉ − 1."""
    rows = F.adaptive_avg_pool1d(features.flatten(2).transpose(1, 2), channels)  # (B, h·w, channels)
    return rows.transpose(1, 2).unflatten(2, features.shape[2:])


def to_rows(features: Tensor, cells: Cells | None = None) -> Tensor:
    """Features (B, C, h, w) to one row per patch (B·h·w, C), image by image, row by row; or of m `cells` (B·m, C).

    The rows of all training images, one below the other, are the memory bank M of equation (2.4).
    """
    features = features if cells is None else cells.of(features)
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def spread(scores: Tensor, stride: int, grid: tuple[int, int], cells: Cells | None = None) -> Tensor:
    """Patch scores of every `stride`-th cell to all cells, bilinear in between.

    Cell i·stride keeps its score. Enlarging the small grid as it is would shift the map by half a stride.

    Parameters
    ----------
    scores : Tensor (B, h', w') or (B, h'·w')
        Or (B, m) of m `cells`; the others get the least of these.
    stride : int
    grid : (h*, w*)
        Rows and columns of all cells.
    cells : Cells, optional

    Returns
    -------
    Tensor (B, h*, w*)
    """
    few = -(-grid[0] // stride), -(-grid[1] // stride)  # h', w'
    scores = scores.view(scores.shape[0], *few) if cells is None else cells.spread(scores, few)
    if stride == 1:
        return scores
    size = [(n - 1) * stride + 1 for n in few]
    x = F.interpolate(scores[:, None], size, mode="bilinear", align_corners=True)
    return F.pad(x, (0, grid[1] - size[1], 0, grid[0] - size[0]), mode="replicate")[:, 0]
