"""The square of pixels that one cell of a backbone's layer can see, read from its layers."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F


class ReceptiveField(NamedTuple):
    """Along each axis, cell i sees the pixels start + i·stride to start + i·stride + size − 1 of the network's input.

    Attributes
    ----------
    size : int
        r, in pixels.
    stride : int
        j, pixels from one cell to the next.
    start : int
        a, of cell 0; negative where that cell reaches into the padding.
    """

    size: int
    stride: int
    start: int

    def after(self, kernel: int, stride: int, padding: int) -> ReceptiveField:
        """The field one layer later: a window of `kernel` cells, moved by `stride`. Equations (1.1) to (1.3)."""
        return ReceptiveField(
            self.size + (kernel - 1) * self.stride, self.stride * stride, self.start - padding * self.stride
        )


def on_first_grid(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """The field of layers that are brought to the grid of the first one by bilinear interpolation and stacked.

    A cell of that grid is a mean of the two nearest cells of a coarser layer, along each axis, so it sees what both
    see. Of the cells of one coarse cell some see more to the left, some more to the right; the field has both.

    Parameters
    ----------
    fields : sequence of ReceptiveField
        Of each layer; where the strides of the coarser ones are multiples of the first one's.

    Raises
    ------
    ValueError
        Where a stride is no such multiple.
    """
    step = fields[0].stride
    starts, ends = [], []
    for field in fields:
        if field.stride % step:
            raise ValueError(f"a layer of stride {field.stride} beside one of {step}: expected multiples of the first")
        factor = field.stride // step
        for place in range(factor):  # the centre of cell `place` lies at (place + 1/2)/factor − 1/2 of the coarse grid
            low, rest = divmod(2 * place + 1 - factor, 2 * factor)
            first = field.start + low * field.stride - place * step
            starts.append(first)
            ends.append(first + field.size + (field.stride if rest else 0))
    return ReceptiveField(max(ends) - min(starts), step, min(starts))


WINDOWS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
POOLS = (F.max_pool2d, F.avg_pool2d)
CELLWISE = (  # what works on each cell for itself, or joins branches cell by cell
    nn.BatchNorm2d, nn.Identity, nn.Dropout, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU,
    nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Tanh,
    F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.hardswish, F.dropout, F.batch_norm,
    torch.relu, torch.sigmoid, torch.tanh, torch.cat, torch.add, torch.sub, torch.mul,
    operator.add, operator.iadd, operator.sub, operator.mul, operator.truediv,
    "relu", "relu_", "sigmoid", "tanh", "add", "add_", "mul", "contiguous",
)  # fmt: skip


def receptive_field(backbone: nn.Module, layer: str | None = None, *, neighbourhood: int = 1) -> ReceptiveField:
    """The square of pixels that one cell of a layer can see, read from the layers. Equations (1.1), (1.2), (1.3).

    Where branches join, the field is the square around all of them. It says what a cell can see, not how
    much: towards its border the influence of a pixel falls almost to nothing.

    Parameters
    ----------
    backbone : Module
        One that torch.fx can trace, and that returns {layer: (B, C, h, w)}, as `load_backbone` gives it, or one tensor.
    layer : str, optional
        The name of the output; None where the module returns one tensor.
    neighbourhood : int
        p; with p > 1, the field of a patch feature, the mean over p×p cells.

    Raises
    ------
    ValueError
        Naming the layer, for one whose field cannot be told (global pooling, attention, windows that are not square),
        and for an unknown layer.

    References
    ----------
    Araujo, Norris, Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019.
    """
    traced = fx.symbolic_trace(backbone)
    modules = dict(traced.named_modules())
    fields: dict[fx.Node, ReceptiveField] = {}
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            fields[node] = ReceptiveField(1, 1, 0)  # a pixel sees itself
        elif node.op == "output":
            return _at_layer(node.args[0], layer, fields).after(neighbourhood, 1, neighbourhood // 2)
        elif inputs := [fields[n] for n in node.all_input_nodes if n in fields]:  # none: a parameter
            start = min(f.start for f in inputs)
            end = max(f.start + f.size for f in inputs)
            joined = ReceptiveField(end - start, inputs[0].stride, start)
            fields[node] = joined.after(*_window(node, modules.get(str(node.target))))
    raise ValueError("backbone: returns nothing; expected a tensor or {layer: tensor}")


def _at_layer(returned: Any, layer: str | None, fields: dict[fx.Node, ReceptiveField]) -> ReceptiveField:
    if isinstance(returned, dict) and layer in returned:
        returned = returned[layer]
    elif isinstance(returned, dict) or layer is not None:
        have = ", ".join(returned) if isinstance(returned, dict) else "one tensor, so layer=None"
        raise ValueError(f"layer {layer!r}: the backbone returns {have}; choose from that")
    return fields[returned]


def _window(node: fx.Node, module: nn.Module | None) -> tuple[int, int, int]:
    """Kernel, stride and padding of one node of the graph; 1, 1, 0 for what works on each cell for itself."""
    if isinstance(module, WINDOWS):
        given = {name: getattr(module, name, 1) for name in ("kernel_size", "stride", "padding", "dilation")}
    elif node.op == "call_function" and node.target in POOLS:
        given = dict(zip(("kernel_size", "stride", "padding"), node.args[1:], strict=False)) | node.kwargs
    elif type(module) in CELLWISE or (module is None and node.target in CELLWISE):
        return 1, 1, 0
    else:
        what = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
        raise ValueError(f"{node.name}: expected convolutions, pooling and cell-wise layers, found {what}; "
                         "its field cannot be told from the layers")
    kernel, padding, dilation = given["kernel_size"], given.get("padding", 0), given.get("dilation", 1)
    sizes: list[Any] = [kernel, given.get("stride") or kernel, padding, dilation]
    if any(isinstance(size, str) or (isinstance(size, tuple) and len(set(size)) > 1) for size in sizes):
        raise ValueError(f"{node.name}: kernel, stride, padding, dilation {sizes}: expected squares, given as numbers")
    kernel, stride, padding, dilation = (size[0] if isinstance(size, tuple) else size for size in sizes)
    return dilation * (kernel - 1) + 1, stride, padding
