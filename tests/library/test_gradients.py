"""The weight gradient of every convolution that adlib trains, held against oneDNN switched off; and the refusal."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from adlib import gradients
from adlib.efficientad.networks import PDN, AutoEncoder
from adlib.gradients import check_gradients
from adlib.resnet import ResNet18

LEAST = Path(__file__).with_name("onednn_weight_gradient.py")
# What is trained, and on how many pixels: by `pretrain` and its recipe (64, and photographs of 128), in chapter 3 (a
# width of 12) and the benchmarks (16); by `distill` and EfficientAD (256, quick 128), whole and a quarter.
NETWORKS = [(ResNet18(), 64), (ResNet18(), 128), (ResNet18(12), 64), (ResNet18(16), 64),
            (PDN(), 256), (PDN(out_channels=768), 128),
            *((PDN(size, width=share), 128) for size in "sm" for share in (1.0, 0.25)),
            *((AutoEncoder(384, (side, side), (side // 4 - 8,) * 2, width=share), side)
              for side, share in ((256, 1.0), (128, 1.0), (128, 0.5)))]  # fmt: skip


def layers(network: nn.Module, pixels: int) -> set[tuple]:
    """(images, weight, stride, padding, dilation, groups) of the network's convolutions, by running it without data."""
    found, network = set(), copy.deepcopy(network).to("meta").eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(lambda m, x: found.add(
                ((2, *x[0].shape[1:]), m.weight.shape, m.stride, m.padding, m.dilation, m.groups)))
    with torch.no_grad():
        network(torch.zeros(1, 3, pixels, pixels, device="meta"))
    return found


def test_every_weight_gradient_is_that_without_onednn():
    """In another process, in channels_last as in training: a fault may kill it."""
    found = sorted(set().union(*(layers(network, pixels) for network, pixels in NETWORKS)))
    failure = gradients._failure(tuple(found), 1, times=2)
    assert len(found) > 60 and failure is None, f"{found[failure[0]]}: {failure[1]}"


def test_networks_of_the_package_pay_nothing():
    before = gradients._failure.cache_info()
    for network, pixels in NETWORKS:
        check_gradients(network, (64, 3, pixels, pixels))
    assert gradients._failure.cache_info() == before  # no second process


TRAIN = """
import sys, torch
from adlib import spd
from adlib.resnet import ResNet18
torch.backends.mkldnn.enabled = sys.argv[1] == "on"
torch.set_num_threads(1)
spd.pretrain(torch.rand(8, 3, 32, 32), backbone=ResNet18(4), image_size=32, steps=2, images_per_step=4, device="cpu")
print("trained")
"""


def test_pretrain_refuses_a_network_whose_gradients_are_wrong():
    """On AVX2; where torch's kernels are mended, or the processor is of another kind, the same network is trained."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)

    on, off = run("-c", TRAIN, "on"), run("-c", TRAIN, "off")
    assert off.stdout == "trained\n", off.stderr
    refused = "RuntimeError: layer layer2.0.downsample.0, 1×1 of stride 2 from 4 to 8 channels on 8×8" in on.stderr
    # Where the kernel is broken it writes outside of its memory, and that does not show in every run.
    broken = refused or any(run(LEAST).returncode != 0 for _ in range(3))
    assert refused if broken else on.stdout == "trained\n", on.stderr
