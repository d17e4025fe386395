"""Frozen backbones and the locally aware patch features that are read from them.

A backbone here is any module that maps a normalised image batch (B, 3, H, W) to a dictionary
{level: (B, C, h, w)}. `load_backbone` makes one from a name or from a module of your own.
"""

from __future__ import annotations

import copy
import hashlib
import operator
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn
from torch.nn import functional as F

from adlib.pdn import PDN, Teacher
from adlib.resnet import ResNet18

SHIPPED = "adlib_resnet18"  # the small backbone that the package carries: no download
WEIGHTS = "adlib_resnet18_v2.safetensors"
TEACHERS = {"adlib_pdn_s": "adlib_pdn_s_v1.safetensors", "adlib_pdn_s_quarter": "adlib_pdn_s_quarter_v1.safetensors"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images, per channel


def load_backbone(
    backbone: str | nn.Module,
    levels: Sequence[str] = ("layer2", "layer3"),
    *,
    pretrained: bool = True,
    seed: int = 0,
    image_size: tuple[int, int] = (64, 64),
) -> nn.Module:
    """A frozen copy of a backbone, in evaluation mode, that returns {level: (B, C, h, w)}.

    backbone: "adlib_resnet18" (shipped, no download); a torchvision name such as "wide_resnet50_2"
    (its IMAGENET1K_V1 weights, downloaded on first use, hash checked); "adlib_pdn_s" or "adlib_pdn_s_quarter" (shipped
    teachers of EfficientAD, with the level "pdn"); or a module of your own,
    whose forward returns such a dictionary or has submodules named as `levels`.
    pretrained=False gives random weights drawn from `seed`: for tests and as a baseline.
    image_size: (h, w) of the blank image that is passed through once, to see that it works.
    Raises ValueError for an unknown name or level, RuntimeError where weights cannot be had.
    """
    if isinstance(backbone, nn.Module):
        module = _at_levels(copy.deepcopy(backbone), levels, "the given module", image_size)
    elif backbone == SHIPPED:
        module = _shipped(pretrained, seed)
    elif backbone in TEACHERS:
        module = Teacher(_shipped_teacher(backbone, pretrained, seed))
    else:
        module = _at_levels(_torchvision(backbone, pretrained, seed), levels, backbone, image_size)
    module = module.eval().requires_grad_(False)
    with torch.inference_mode():
        parameter = next(module.parameters(), torch.zeros(()))
        found = module(torch.zeros(1, 3, *image_size, device=parameter.device))
    if not isinstance(found, dict) or (missing := [level for level in levels if level not in found]):
        have = ", ".join(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"backbone: expected levels {', '.join(levels)}, found {have}; wanted: {missing}")
    if flat := [level for level in levels if found[level].ndim != 4]:
        raise ValueError(f"backbone: level {flat[0]} gives {tuple(found[flat[0]].shape)}, expected (B, C, h, w)")
    return module


def _shipped(pretrained: bool, seed: int) -> nn.Module:
    if not pretrained:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which sets the GPUs' as well
            return ResNet18()
    with resources.as_file(resources.files("adlib") / "weights" / WEIGHTS) as path:
        state = load_file(path)
    with torch.random.fork_rng(devices=[]):  # the weights that are drawn here are replaced below
        module = ResNet18(width=len(state["bn1.weight"]))
    missing, unexpected = module.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise RuntimeError(f"{WEIGHTS}: expected the weights of ResNet18, missing {missing}, unexpected {unexpected}")
    return module


def _shipped_teacher(name: str, pretrained: bool, seed: int) -> PDN:
    with resources.as_file(resources.files("adlib") / "weights" / TEACHERS[name]) as path:
        pdn = PDN.load(path)
    return pdn if pretrained else PDN(**pdn.config(), seed=seed)


def _torchvision(name: str, pretrained: bool, seed: int) -> nn.Module:
    from torchvision import models  # takes a second to import, and most users never need it

    if name not in models.list_models():
        raise ValueError(f"backbone {name!r}: expected {SHIPPED!r}, a torchvision model's name, or a module")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = models.get_model(name, weights=None)
    if pretrained:
        try:
            weights = models.get_model_weights(name).IMAGENET1K_V1
            module.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
        except AttributeError:
            raise ValueError(f"backbone {name!r}: torchvision has no IMAGENET1K_V1 weights for it") from None
        except OSError as error:
            raise RuntimeError(
                f"backbone {name!r}: its weights could not be downloaded ({error}). Without a network, use "
                f"backbone={SHIPPED!r}, or put the file that torchvision names into torch.hub's folder"
            ) from error
    return module


def _at_levels(module: nn.Module, levels: Sequence[str], name: str, image_size: tuple[int, int]) -> nn.Module:
    """The module cut so that it returns the outputs of its submodules `levels` and computes no more."""
    module.eval()
    parameter = next(module.parameters(), torch.zeros(()))
    with torch.inference_mode():
        if isinstance(module(torch.zeros(1, 3, *image_size, device=parameter.device)), dict):
            return module
    from torchvision.models.feature_extraction import create_feature_extractor

    unknown = [level for level in levels if level not in dict(module.named_modules())]
    if unknown:
        children = ", ".join(child for child, _ in module.named_children())
        raise ValueError(f"backbone {name}: no level {unknown[0]!r}; its submodules are {children}")
    return create_feature_extractor(module, list(levels))


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class PatchFeatures(nn.Module):
    """Images to locally aware patch features P. Equations (2.1) to (2.3).

    Each level is averaged over p×p neighbourhoods (2.2). The levels are brought to the grid of the
    first one by bilinear interpolation and stacked. Every s-th row and column is kept (2.3).

    backbone: see `load_backbone`. levels: from fine to coarse. neighbourhood: p, odd.
    stride: s, at least 1.
    Source: Roth et al., CVPR 2022, Section 3.1.
    """

    def __init__(
        self, backbone: nn.Module, levels: Sequence[str] = ("layer2", "layer3"), neighbourhood: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        if not levels:
            raise ValueError("levels: expected at least one, such as ('layer2', 'layer3')")
        if neighbourhood < 1 or neighbourhood % 2 == 0:
            raise ValueError(f"neighbourhood = {neighbourhood}: expected an odd number, so that a cell is its centre")
        if stride < 1:
            raise ValueError(f"stride = {stride}: expected at least 1")
        self.backbone = backbone.to(memory_format=torch.channels_last)  # about a quarter faster on CPUs
        self.levels, self.neighbourhood, self.stride = tuple(levels), neighbourhood, stride
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Self:
        """The backbone stays in evaluation mode: in training mode its statistics would change with each batch."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) in [0, 1] to features (B, C, h, w), C the sum of the levels' channels."""
        return self.all_cells(images)[:, :, :: self.stride, :: self.stride]

    def all_cells(self, images: Tensor) -> Tensor:
        """As `forward`, without the stride: (B, C, h*, w*)."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        outputs = self.backbone(x)
        levels = [aggregate(outputs[level], self.neighbourhood) for level in self.levels]
        grid = levels[0].shape[-2:]
        levels = [levels[0]] + [F.interpolate(x, grid, mode="bilinear", align_corners=False) for x in levels[1:]]
        return torch.cat(levels, 1)  # (B, C, h*, w*)


def aggregate(features: Tensor, neighbourhood: int) -> Tensor:
    """The mean over the p×p neighbourhood of each cell. Equation (2.2) over the cells of (2.1).

    features: (B, C, h, w), the same shape out. At the border, the mean is over the cells that exist:
    zeros from outside would make every border cell look unlike the interior.
    """
    return F.avg_pool2d(features, neighbourhood, 1, neighbourhood // 2, count_include_pad=False)


def normalised(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] as backbones take them: less ImageNet's mean, over its deviation, per channel."""
    images = (images - images.new_tensor(MEAN).view(1, 3, 1, 1)) / images.new_tensor(STD).view(1, 3, 1, 1)
    return images.contiguous(memory_format=torch.channels_last)  # convolutions on CPUs are a third faster with it


def to_rows(features: Tensor) -> Tensor:
    """(B, C, h, w) to one row per patch (B·h·w, C), image by image, row by row.

    The rows of all training images, one below the other, are the memory bank M of equation (2.4).
    """
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


# ---------------------------------------------------------------------- what a cell can see


class ReceptiveField(NamedTuple):
    """Along each axis, cell i sees the pixels start + i·stride to start + i·stride + size − 1 of the network's input.

    size: r, in pixels. stride: j, pixels from one cell to the next. start: a, of cell 0; negative where that
    cell reaches into the padding.
    """

    size: int
    stride: int
    start: int

    def after(self, kernel: int, stride: int, padding: int) -> ReceptiveField:
        """The field one layer later: a window of `kernel` cells, moved by `stride`. Equations (1.1) to (1.3)."""
        return ReceptiveField(
            self.size + (kernel - 1) * self.stride, self.stride * stride, self.start - padding * self.stride
        )


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


def receptive_field(backbone: nn.Module, level: str | None = None, *, neighbourhood: int = 1) -> ReceptiveField:
    """The square of pixels that one cell of a level can see, read from the layers. Equations (1.1), (1.2), (1.3).

    backbone: a module that returns {level: (B, C, h, w)}, as `load_backbone` gives it, or one tensor.
    level: the name of the output; None where the module returns one tensor.
    neighbourhood: p; with p > 1, the field of a patch feature, the mean over p×p cells.

    Where branches join, the field is the square around all of them. It says what a cell can see, not how
    much: towards its border the influence of a pixel falls almost to nothing.
    The module must be one that torch.fx can trace. Raises ValueError, naming the layer, for one whose field cannot
    be told (global pooling, attention, windows that are not square), and for an unknown level.
    Source: Araujo, Norris, Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019.
    """
    traced = fx.symbolic_trace(backbone)
    modules = dict(traced.named_modules())
    fields: dict[fx.Node, ReceptiveField] = {}
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            fields[node] = ReceptiveField(1, 1, 0)  # a pixel sees itself
        elif node.op == "output":
            return _at_level(node.args[0], level, fields).after(neighbourhood, 1, neighbourhood // 2)
        elif inputs := [fields[n] for n in node.all_input_nodes if n in fields]:  # none: a parameter
            start = min(f.start for f in inputs)
            end = max(f.start + f.size for f in inputs)
            joined = ReceptiveField(end - start, inputs[0].stride, start)
            fields[node] = joined.after(*_window(node, modules.get(str(node.target))))
    raise ValueError("backbone: returns nothing; expected a tensor or {level: tensor}")


def _at_level(returned: Any, level: str | None, fields: dict[fx.Node, ReceptiveField]) -> ReceptiveField:
    if isinstance(returned, dict) and level in returned:
        returned = returned[level]
    elif isinstance(returned, dict) or level is not None:
        have = ", ".join(returned) if isinstance(returned, dict) else "one tensor, so level=None"
        raise ValueError(f"level {level!r}: the backbone returns {have}; choose from that")
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
    sizes = [kernel, given.get("stride") or kernel, padding, dilation]
    if any(isinstance(size, str) or (isinstance(size, tuple) and len(set(size)) > 1) for size in sizes):
        raise ValueError(f"{node.name}: kernel, stride, padding, dilation {sizes}: expected squares, given as numbers")
    kernel, stride, padding, dilation = (size[0] if isinstance(size, tuple) else size for size in sizes)
    return dilation * (kernel - 1) + 1, stride, padding
