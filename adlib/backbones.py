"""Frozen backbones: the shipped one, torchvision's, or a module of your own.

A backbone here is any module that maps a normalised image batch (B, 3, H, W) to a dictionary
{layer: (B, C, h, w)}. `load_backbone` makes one from a name or from a module of your own.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from importlib import resources

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adlib.resnet import ResNet18

SHIPPED = "adlib_resnet18"  # the small backbone that the package carries: no download
WEIGHTS = "adlib_resnet18_v2.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images, per channel


def load_backbone(
    backbone: str | nn.Module,
    layers: Sequence[str] = ("layer2", "layer3"),
    *,
    pretrained: bool = True,
    seed: int = 0,
    image_size: tuple[int, int] = (64, 64),
) -> nn.Module:
    """A frozen copy of a backbone, in evaluation mode, that returns {layer: (B, C, h, w)}.

    Parameters
    ----------
    backbone : str or Module
        "adlib_resnet18" (shipped, no download); a torchvision name such as "wide_resnet50_2" (its IMAGENET1K_V1
        weights, downloaded on first use, hash checked); or a module of your own, whose forward returns such a
        dictionary or has submodules named as `layers`.
    layers : sequence of str
        Names of the outputs that are needed.
    pretrained : bool
        False gives random weights drawn from `seed`: for tests and as a baseline.
    seed : int
    image_size : (h, w)
        Of the blank image that is passed through once, to see that it works.

    Returns
    -------
    Module

    Raises
    ------
    ValueError
        For an unknown name or layer.
    RuntimeError
        Where weights cannot be had.
    """
    if isinstance(backbone, nn.Module):
        module = _at_layers(copy.deepcopy(backbone), layers, "the given module", image_size)
    elif backbone == SHIPPED:
        module = _shipped(pretrained, seed)
    else:
        module = _at_layers(_torchvision(backbone, pretrained, seed), layers, backbone, image_size)
    module = module.eval().requires_grad_(False)
    with torch.inference_mode():
        parameter = next(module.parameters(), torch.zeros(()))
        found = module(torch.zeros(1, 3, *image_size, device=parameter.device))
    if not isinstance(found, dict) or (missing := [layer for layer in layers if layer not in found]):
        have = ", ".join(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"backbone: expected layers {', '.join(layers)}, found {have}; wanted: {missing}")
    if flat := [layer for layer in layers if found[layer].ndim != 4]:
        raise ValueError(f"backbone: layer {flat[0]} gives {tuple(found[flat[0]].shape)}, expected (B, C, h, w); "
                         "a transformer's tokens go onto a grid first, see the page 'What came after'")
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


def _torchvision(name: str, pretrained: bool, seed: int) -> nn.Module:
    from torchvision import models  # takes a second to import, and most users never need it

    if name not in models.list_models():
        raise ValueError(f"backbone {name!r}: expected {SHIPPED!r}, a torchvision model's name, or a module")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = models.get_model(name, weights=None)
    if pretrained:
        try:
            weights = models.get_model_weights(name).IMAGENET1K_V1  # pyrefly: ignore
            module.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
        except AttributeError:
            raise ValueError(f"backbone {name!r}: torchvision has no IMAGENET1K_V1 weights for it") from None
        except OSError as error:
            raise RuntimeError(
                f"backbone {name!r}: its weights could not be downloaded ({error}). Without a network, use "
                f"backbone={SHIPPED!r}, or put the file that torchvision names into torch.hub's folder"
            ) from error
    return module


def _at_layers(module: nn.Module, layers: Sequence[str], name: str, image_size: tuple[int, int]) -> nn.Module:
    """The module cut so that it returns the outputs of its submodules `layers` and computes no more."""
    module.eval()
    parameter = next(module.parameters(), torch.zeros(()))
    with torch.inference_mode():
        if isinstance(module(torch.zeros(1, 3, *image_size, device=parameter.device)), dict):
            return module
    from torchvision.models.feature_extraction import create_feature_extractor

    unknown = [layer for layer in layers if layer not in dict(module.named_modules())]
    if unknown:
        children = ", ".join(child for child, _ in module.named_children())
        raise ValueError(f"backbone {name}: no layer {unknown[0]!r}; its submodules are {children}")
    return create_feature_extractor(module, list(layers))


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def normalised(images: Tensor) -> Tensor:
    """Images as backbones take them: less ImageNet's mean, over its deviation, per channel.

    Parameters
    ----------
    images : Tensor (B, 3, H, W)
        In [0, 1].

    Returns
    -------
    Tensor (B, 3, H, W)
        Channels last in memory.
    """
    images = (images - images.new_tensor(MEAN).view(1, 3, 1, 1)) / images.new_tensor(STD).view(1, 3, 1, 1)
    return images.contiguous(memory_format=torch.channels_last)  # convolutions on CPUs are a third faster with it
