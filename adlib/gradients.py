"""Is the weight gradient right? On some processors torch's convolution gives a wrong one, and damages memory."""

from __future__ import annotations

import copy
import functools
import json
import subprocess
import sys

import torch
from torch import nn

LIMIT = 1e-4  # of the relative error; rounding alone gives about 1e-6
# The kernel may kill its process, so it is tried in another one, which prints the error of one layer after another.
PROBE = """
import json, sys, torch
random = lambda *shape: torch.randn(shape, generator=draw).contiguous(memory_format=torch.channels_last)
def gradient(onednn):
    torch.backends.mkldnn.enabled = onednn
    y = torch.nn.functional.conv2d(x, weight, None, *options)
    return torch.autograd.grad(y, weight, random(*y.shape))[0]
threads, times, shapes = json.loads(sys.argv[1])
torch.set_num_threads(threads)
for images, kernels, *options in shapes:
    draw = torch.Generator().manual_seed(0)
    x, weight, state = random(*images), random(*kernels).requires_grad_(), draw.get_state()
    right, tries = gradient(False), [gradient(True) for _ in range(times) if draw.set_state(state)]
    print(max(float(torch.nan_to_num((g - right).norm() / right.norm(), torch.inf)) for g in tries), flush=True)
"""


def check_gradients(module: nn.Module, shape: tuple[int, int, int, int]) -> None:
    """Refuse to train a network where the processor's kernels get the weight gradient of a layer wrong.

    Only layers known to be at risk are tried: on a CPU with oneDNN, 1×1 convolutions of stride 2 or more with fewer
    than 8 input channels, or fewer than 16 on more than 16×16 cells. The networks of adlib have none, and pay nothing.
    For others a second Python process compares the gradients on random input with those without oneDNN: some seconds,
    once for the same layers. Neither `module` nor any generator changes.

    Parameters
    ----------
    module : nn.Module
        What is to be trained.
    shape : tuple of int
        (B, 3, H, W) of the batches in training.

    Raises
    ------
    RuntimeError
        Where a relative error is above 1e-4 or the second process dies. It names the layer and what to do.
    """
    if not torch._C._get_mkldnn_enabled() or not any(map(_at_risk, module.modules())):
        return
    trial, found = copy.deepcopy(module).eval(), {}
    names = {layer: name for name, layer in trial.named_modules()}

    def note(m: nn.Module, x: tuple[torch.Tensor, ...]) -> None:
        if _at_risk(m, x[0].shape[2:].numel()):
            found[names[m]] = ((shape[0], *x[0].shape[1:]), m.weight.shape, m.stride, m.padding, m.dilation, m.groups)

    for layer in filter(_at_risk, names):
        layer.register_forward_pre_hook(note)
    with torch.no_grad():
        trial(torch.zeros(1, *shape[1:], device=next(trial.parameters()).device))
    if found and (failure := _failure(tuple(found.values()), torch.get_num_threads())):
        name, ((_, channels, h, w), kernels, stride, *_) = list(found.items())[failure[0]]
        raise RuntimeError(
            f"layer {name}, 1×1 of stride {stride[0]} from {channels} to {kernels[0]} channels on {h}×{w} cells: torch "
            f"{torch.__version__} gets its weight gradient wrong on this processor ({failure[1]}); expected an error "
            f"below {LIMIT}. Give the layer 16 input channels, train on a GPU, take another torch, or switch oneDNN "
            "off, torch.backends.mkldnn.enabled = False. See https://github.com/uxlfoundation/oneDNN/issues/6035")


def _at_risk(layer: nn.Module, cells: float = float("inf")) -> bool:
    return (isinstance(layer, nn.Conv2d) and layer.weight.device.type == "cpu" and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1 and layer.in_channels < (16 if cells > 16 * 16 else 8))  # fmt: skip


@functools.lru_cache
def _failure(shapes: tuple[tuple, ...], threads: int, times: int = 10) -> tuple[int, str] | None:
    """The number of the first layer whose gradient is wrong, and why; None where all of `shapes` are right."""
    command = [sys.executable, "-W", "ignore", "-c", PROBE, json.dumps([threads, times, shapes])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        out, died = done.stdout, done.returncode != 0 and (done.stderr.splitlines() or [f"exit {done.returncode}"])[-1]
    except subprocess.TimeoutExpired as error:  # with several threads it may hang
        out, died = (error.stdout or b"").decode(), "no answer in five minutes"
    errors = out.split()
    if wrong := [n for n, error in enumerate(errors) if not float(error) < LIMIT]:
        return wrong[0], f"relative error {float(errors[wrong[0]]):.2g}"
    return (min(len(errors), len(shapes) - 1), f"a trial in a process of its own: {died}") if died else None
