"""Train the backbone that adlib ships: ResNet-18 cut after layer3, on Tiny ImageNet.

    python scripts/pretrain_backbone.py data/tiny-imagenet-200 runs/backbone

A linear classifier on the spatial mean of `layer3` is trained with the 200 class labels and then
thrown away. A run that was stopped goes on from its last checkpoint when the same command is given
again. At the end the run folder holds `backbone.safetensors` (fp16) and `figures.json`.

Tiny ImageNet must lie in its official layout: `train/<class>/images/*.JPEG`,
`val/images/*.JPEG`, `val/val_annotations.txt`, `wnids.txt`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import trange

from adlib.resnet import ResNet18

SIDE = 64
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


# ---------------------------------------------------------------------- data


def read_tiny_imagenet(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 64, 64) uint8 and labels (N,) int64 of `split`, "train" or "val"."""
    wnids = (root / "wnids.txt").read_text().split()
    number = {wnid: i for i, wnid in enumerate(wnids)}
    if split == "train":
        files = [(path, wnid) for wnid in wnids for path in sorted((root / "train" / wnid / "images").glob("*.JPEG"))]
    else:
        rows = [line.split("\t") for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
        files = [(root / "val" / "images" / row[0], row[1]) for row in rows]
    if not files:
        raise SystemExit(f"{root}: expected Tiny ImageNet's layout, found no images for '{split}'")

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)

    images = np.empty((len(files), 3, SIDE, SIDE), np.uint8)
    with ThreadPoolExecutor(2) as pool:
        for i, array in enumerate(pool.map(read, [path for path, _ in files])):
            images[i] = array
    return images, np.array([number[wnid] for _, wnid in files])


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """One random crop, flip, colour change and, for one image in ten, greyscale, per image.

    x: (B, 3, H, W) in [0, 1]. Returns the same shape.
    """
    n = len(x)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    # A crop with 30 to 100 % of the area and an aspect of 3:4 to 4:3, resized to the full side.
    area, log_aspect = uniform(0.3, 1.0, n), uniform(-0.288, 0.288, n)
    width = (area * log_aspect.exp()).sqrt().clamp(max=1.0)
    height = (area / log_aspect.exp()).sqrt().clamp(max=1.0)
    flip = (uniform(0, 1, n) < 0.5).float() * 2 - 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1, n) * (1 - width), uniform(-1, 1, n) * (1 - height)
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False),
                      padding_mode="reflection", align_corners=False)

    grey = x.mean(1, keepdim=True)
    saturation = torch.where(uniform(0, 1, n, 1, 1, 1) < 0.1, torch.zeros(1), uniform(0.6, 1.4, n, 1, 1, 1))
    x = grey + (x - grey) * saturation
    middle = x.mean((1, 2, 3), keepdim=True)
    x = middle + (x - middle) * uniform(0.7, 1.3, n, 1, 1, 1)
    return (x * uniform(0.7, 1.3, n, 1, 1, 1)).clamp(0, 1)


def batch_indices(n: int, batch: int, step: int, seed: int) -> np.ndarray:
    """The images of one step: every epoch is a new permutation that depends on (seed, epoch)."""
    per_epoch = n // batch
    order = np.random.default_rng([seed, step // per_epoch]).permutation(n)
    start = step % per_epoch * batch
    return order[start : start + batch]


# ---------------------------------------------------------------------- training


def learning_rate(step: int, steps: int, peak: float) -> float:
    """One cycle (Smith and Topin 2019): up in a straight line for 20 % of the steps, then a cosine to 0."""
    warm = 0.2 * steps
    if step < warm:
        return peak * (0.04 + 0.96 * step / warm)
    return peak * 0.5 * (1 + np.cos(np.pi * (step - warm) / (steps - warm)))


def logits(backbone: ResNet18, head: nn.Linear, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return head(backbone(x)["layer3"].mean((2, 3))).float()


def save_whole(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write beside `path`, then rename: a stopped run leaves the old file or the new one."""
    temporary = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata)
    os.replace(temporary, path)


@torch.no_grad()
def scale_layer3(backbone: ResNet18, factor: float) -> None:
    """Multiply the output of `layer3` by `factor`, in place, by changing its weights alone.

    In evaluation mode nothing else changes, and for a power of two not even a rounding.
    The distance between two patches adds up the squared differences of both levels, and after
    training the numbers of `layer3` are about four times those of `layer2`: it would own the distance.
    """
    first, second = backbone.layer3
    for norm in (first.bn2, first.downsample[1], second.bn2):  # what the two final sums add up
        norm.weight *= factor
        norm.bias *= factor
    second.conv1.weight /= factor  # it reads the scaled output of the first block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=12_500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--peak", type=float, default=0.25, help="peak learning rate")
    parser.add_argument("--layer3-scale", type=float, default=0.25, help="see scale_layer3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    images, labels = read_tiny_imagenet(args.data, "train")
    torch.manual_seed(args.seed)  # a script of its own process: the initial weights
    backbone, head = ResNet18(args.width), nn.Linear(4 * args.width, 200)
    network = nn.ModuleDict({"backbone": backbone, "head": head}).to(args.device, memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(network.parameters(), lr=args.peak, momentum=0.9, nesterov=True, weight_decay=5e-4)

    checkpoint, first, seconds = args.out / "checkpoint.safetensors", 0, 0.0
    if checkpoint.exists():
        state = load_file(checkpoint)
        first, seconds = int(state.pop("step")), float(state.pop("seconds"))
        for name, parameter in network.named_parameters():
            optimiser.state[parameter]["momentum_buffer"] = state.pop("momentum." + name).to(args.device)
        network.load_state_dict(state)

    mean, std, started = MEAN.to(args.device), STD.to(args.device), time.monotonic()
    running = 0.0
    for step in (bar := trange(first, args.steps, initial=first, total=args.steps, mininterval=30)):
        rows = batch_indices(len(images), args.batch, step, args.seed)
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        x = augment(torch.from_numpy(images[rows]).float() / 255, generator).to(args.device)  # (B, 3, 64, 64)
        x = ((x - mean) / std).contiguous(memory_format=torch.channels_last)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.peak)
        y = torch.from_numpy(labels[rows]).to(args.device)
        loss = F.cross_entropy(logits(backbone, head, x), y, label_smoothing=0.1)
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is {loss.item()} at step {step}: lower --peak")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        running = 0.98 * running + 0.02 * loss.item() if running else loss.item()
        bar.set_postfix(loss=f"{running:.3f}", refresh=False)
        if (step + 1) % 500 == 0 or step + 1 == args.steps:
            momentum = {"momentum." + n: optimiser.state[p]["momentum_buffer"] for n, p in network.named_parameters()}
            clock = torch.tensor(seconds + time.monotonic() - started, dtype=torch.float64)
            counters = {"step": torch.tensor(step + 1), "seconds": clock}
            save_whole({**network.state_dict(), **momentum, **counters}, checkpoint)

    network.eval()
    images, labels = read_tiny_imagenet(args.data, "val")
    right = 0
    with torch.no_grad():
        for x, y in zip(torch.from_numpy(images).split(250), torch.from_numpy(labels).split(250), strict=True):
            x = (x.to(args.device).float() / 255 - mean) / std
            right += int((logits(backbone, head, x).argmax(1).cpu() == y).sum())
    figures = {
        "data": "Tiny ImageNet, 100,000 training images, 64x64", "val_top1": right / len(labels),
        "steps": args.steps, "layer3_scale": args.layer3_scale, "batch": args.batch, "width": args.width,
        "peak": args.peak, "seed": args.seed, "seconds": round(seconds + time.monotonic() - started),
        "device": args.device, "threads": torch.get_num_threads(), "torch": str(torch.__version__),
    }
    scale_layer3(backbone, args.layer3_scale)
    half = {k: v.half() if v.is_floating_point() else v for k, v in backbone.state_dict().items()}
    half = {k: v for k, v in half.items() if not k.endswith("num_batches_tracked")}
    save_whole(half, args.out / "backbone.safetensors", {"width": str(args.width)})
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
