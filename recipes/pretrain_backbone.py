"""Train the backbone that adlib ships: ResNet-18 cut after layer3, on photographs and, if asked for, with SPD.

    python recipes/pretrain_backbone.py runs/backbone --tiny data/tiny-imagenet-200 --steps 12500
    python recipes/pretrain_backbone.py runs/backbone2 --start runs/backbone/backbone.safetensors \\
        --tiny data/tiny-imagenet-200 --photos data/caltech/101_ObjectCategories data/textures/images data/photos

Every folder has its own linear classifier on the spatial mean of `layer3`; all are thrown away afterwards. Tiny
ImageNet is seen at 64 pixels, photographs at 128. With `--spd`, half of the photographs have a patch blended in by
`adlib.spd.smooth_blend`, and a 1×1 convolution on `layer2` and one on `layer3` must say in which cells: the
supervised form of SPD (Zou et al. 2022, Section 3.2), for each cell in place of the whole image.

A run that was stopped goes on from its last checkpoint when the same command is given again. At the end the run
folder holds `backbone.safetensors` (fp16) and `figures.json`.

Tiny ImageNet must lie in its official layout: `train/<class>/images/*.JPEG`, `val/images/*.JPEG`,
`val/val_annotations.txt`, `wnids.txt`. A folder of photographs has one folder per class; images that lie in it
directly have no class and serve `--spd` alone.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from adlib.augment import change_colour
from adlib.backbones import normalised
from adlib.files import write_tensors
from adlib.resnet import ResNet18
from adlib.spd import settle_statistics, smooth_blend
from adlib.training import Training

SIDE, PHOTO, SHORT = 64, 128, 224  # Tiny ImageNet; a crop of a photograph; the shorter side of a stored photograph
NO_CLASS = -100  # what cross_entropy ignores


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


def read_photographs(root: Path) -> tuple[list[Tensor], list[int]]:
    """Photographs (3, H, W) uint8, the shorter side at most SHORT pixels, and the number of each one's class."""
    classes = sorted(path for path in root.iterdir() if path.is_dir())
    files = [(path, number) for number, folder in enumerate(classes) for path in sorted(folder.glob("*"))]
    files += [(path, NO_CLASS) for path in sorted(root.glob("*"))]
    files = [(path, number) for path, number in files if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    if not files:
        raise SystemExit(f"{root}: expected photographs, in one folder per class or without, found none")

    def read(path: Path) -> Tensor:
        with Image.open(path) as image:
            factor = SHORT / min(image.size)
            size = (max(SHORT, round(image.width * factor)), max(SHORT, round(image.height * factor)))
            image = image.convert("RGB")
            return torch.from_numpy(np.array(image.resize(size) if factor < 1 else image)).permute(2, 0, 1).clone()

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(read, [path for path, _ in files])), [number for _, number in files]


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """One random crop, flip, colour change and, for one image in ten, greyscale, per image.

    x: (B, 3, H, W) in [0, 1]. Returns the same shape.
    """
    n = len(x)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand((n,), generator=generator) * (high - low) + low

    # A crop with 30 to 100 % of the area and an aspect of 3:4 to 4:3, resized to the full side.
    area, log_aspect = uniform(0.3, 1.0), uniform(-0.288, 0.288)
    width = (area * log_aspect.exp()).sqrt().clamp(max=1.0)
    height = (area / log_aspect.exp()).sqrt().clamp(max=1.0)
    flip = (uniform(0, 1) < 0.5).float() * 2 - 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False),
                      padding_mode="reflection", align_corners=False)  # fmt: skip
    return change_colour(x, 0.3, generator, grey=0.1)


def crop(photograph: Tensor, rng: np.random.Generator) -> Tensor:
    """A random crop with 15 to 100 % of the area, at PHOTO pixels: (3, H, W) uint8 to (3, PHOTO, PHOTO) in [0, 1]."""
    _, height, width = photograph.shape
    area, aspect = rng.uniform(0.15, 1.0) * height * width, np.exp(rng.uniform(-0.288, 0.288))
    h, w = min(height, round(np.sqrt(area / aspect))), min(width, round(np.sqrt(area * aspect)))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    part = photograph[None, :, top : top + h, left : left + w].float() / 255
    part = F.interpolate(part, (PHOTO, PHOTO), mode="bilinear", antialias=True)[0].clamp(0, 1)
    return part.flip(-1) if rng.random() < 0.5 else part


def of_step(n: int, batch: int, step: int, seed: int) -> np.ndarray:
    """The images of one step: every epoch is a new permutation that depends on (seed, epoch)."""
    per_epoch = n // batch
    order = np.random.default_rng([seed, step // per_epoch]).permutation(n)
    start = step % per_epoch * batch
    return order[start : start + batch]


# ---------------------------------------------------------------------- training


def one_cycle(step: int, steps: int, warm: float) -> float:
    """Factor of the learning rate (Smith and Topin 2019): up in a straight line, then a cosine to 0."""
    if step < warm * steps:
        return 0.04 + 0.96 * step / (warm * steps)
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm * steps) / ((1 - warm) * steps))))


def layers(backbone: ResNet18, x: Tensor) -> dict[str, Tensor]:
    """Layers of images (B, 3, H, W) in [0, 1], in half the precision where that is faster."""
    x = normalised(x).contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return {name: layer.float() for name, layer in backbone(x).items()}


def blended_half(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The images with a patch blended into the first half, and the mask of what changed, (B, 1, H, W) in {0, 1}."""
    half = len(x) // 2
    changed, mask = smooth_blend(x[:half], generator, area=(0.003, 0.03))
    masks = torch.zeros(len(x), 1, *x.shape[-2:])
    masks[:half, 0] = mask.float()
    return torch.cat([changed, x[half:]]), masks


def dense_loss(heads: nn.ModuleDict, found: dict[str, Tensor], masks: Tensor) -> Tensor:
    """Cross-entropy of "how much of this cell was changed", over all cells of `layer2` and `layer3`."""
    losses = []
    for name in ("layer2", "layer3"):
        logits = heads[name](found[name])  # (B, 1, h, w)
        share = F.adaptive_avg_pool2d(masks, logits.shape[-2:])
        losses.append(F.binary_cross_entropy_with_logits(logits, share, pos_weight=torch.tensor(5.0)))
    return torch.stack(losses).mean()


@torch.no_grad()
def scale_layer3(backbone: ResNet18, factor: float) -> None:
    """Multiply the output of `layer3` by `factor`, in place, by changing its weights alone.

    In evaluation mode nothing else changes, and for a power of two not even a rounding.
    The distance between two patches adds up the squared differences of both layers, and after
    training the numbers of `layer3` are about four times those of `layer2`: it would own the distance.
    """
    first, second = backbone.layer3
    for norm in (first.bn2, first.downsample[1], second.bn2):  # what the two final sums add up
        norm.weight *= factor
        norm.bias *= factor
    second.conv1.weight /= factor  # it reads the scaled output of the first block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", type=Path, required=True, help="Tiny ImageNet")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of larger photographs")
    parser.add_argument("--start", type=Path, help="a backbone to begin with, as this script writes it")
    parser.add_argument("--spd", type=float, default=0.0, help="weight of the dense form of SPD")
    parser.add_argument("--steps", type=int, default=12_500)
    parser.add_argument("--batch", type=int, default=128, help="images of Tiny ImageNet in a step")
    parser.add_argument("--photo-batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--peak", type=float, default=0.25, help="peak learning rate")
    parser.add_argument("--warm", type=float, default=0.2, help="share of the steps in which the rate rises")
    parser.add_argument("--layer3-scale", type=float, default=0.25, help="see scale_layer3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    tiny, tiny_labels = read_tiny_imagenet(args.tiny, "train")
    folders = [read_photographs(root) for root in args.photos]
    photographs = [image for images, _ in folders for image in images]
    labels = torch.full((len(folders), len(photographs)), NO_CLASS)  # one row for each folder's classifier
    place = 0
    for row, (images, numbers) in enumerate(folders):
        labels[row, place : place + len(images)] = torch.tensor(numbers)
        place += len(images)

    torch.manual_seed(args.seed)  # a script of its own process: the initial weights
    backbone = ResNet18(args.width)
    if args.start:
        backbone.load_state_dict({k: v.float() for k, v in load_file(args.start).items()}, strict=False)
        scale_layer3(backbone, 1 / args.layer3_scale)
    wide = 4 * args.width
    heads = nn.ModuleDict({"tiny": nn.Linear(wide, 200)})
    heads.update({str(i): nn.Linear(wide, int(row.max()) + 1) for i, row in enumerate(labels) if int(row.max()) >= 0})
    dense = nn.ModuleDict({"layer2": nn.Conv2d(wide // 2, 1, 1), "layer3": nn.Conv2d(wide, 1, 1)})
    network = nn.ModuleDict({"backbone": backbone, "heads": heads, "dense": dense})
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=args.peak, momentum=0.9, nesterov=True, weight_decay=5e-4)
    about = {k: " ".join(map(str, v)) if isinstance(v, list) else str(v) for k, v in vars(args).items()
             if k not in ("out", "threads")}  # fmt: skip
    run = Training(args.steps, {"network": network}, optimizer, checkpoint=args.out / "checkpoint.safetensors",
                   schedule=lambda step: one_cycle(step, args.steps, args.warm), about=about,
                   save_every=120)  # fmt: skip

    def batch_of_photographs(step: int, generator: torch.Generator) -> tuple[Tensor, np.ndarray]:
        rows = of_step(len(photographs), args.photo_batch, step, args.seed)
        rng = np.random.default_rng([args.seed, step, 1])
        return change_colour(torch.stack([crop(photographs[i], rng) for i in rows]), 0.3, generator, grey=0.1), rows

    for step in run:
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        rows = of_step(len(tiny), args.batch, step, args.seed)
        x = augment(torch.from_numpy(tiny[rows]).float() / 255, generator)  # (B, 3, 64, 64)
        y = torch.from_numpy(tiny_labels[rows])
        losses = {"tiny": F.cross_entropy(heads["tiny"](layers(backbone, x)["layer3"].mean((2, 3))), y,
                                          label_smoothing=0.1)}  # fmt: skip
        if photographs:
            x, rows = batch_of_photographs(step, generator)  # (B, 3, 128, 128)
            if args.spd:
                x, masks = blended_half(x, generator)
            found = layers(backbone, x)
            mean = found["layer3"].mean((2, 3))
            classes = [F.cross_entropy(head(mean), labels[int(i), rows], label_smoothing=0.1, reduction="sum")
                       for i, head in heads.items() if i != "tiny"]  # fmt: skip
            losses["photographs"] = 0.5 * torch.stack(classes).sum() / len(x)
            if args.spd:
                losses["spd"] = args.spd * dense_loss(dense, found, masks)
        run.update(sum(losses.values()), **losses)
        if step % 50 == 0:
            means = {name: round(float(np.mean(v[-50:])), 4) for name, v in run.history.items()}
            print(step, round(time.monotonic() - began), "s", means, flush=True)

    network.eval()
    if photographs:  # both sizes went into the running statistics; the larger is nearer to what it will be used on
        generator = torch.Generator().manual_seed(args.seed)
        settle_statistics(backbone, [batch_of_photographs(i, generator)[0] for i in range(40)])
    images, numbers = read_tiny_imagenet(args.tiny, "val")
    right = 0
    with torch.no_grad():
        for x, y in zip(torch.from_numpy(images).split(250), torch.from_numpy(numbers).split(250), strict=True):
            mean = layers(backbone, x.float() / 255)["layer3"].mean((2, 3))
            right += int((heads["tiny"](mean).argmax(1) == y).sum())
    figures = about | {
        "photographs": len(photographs), "tiny_val_top1": right / len(numbers),
        "last_losses": {name: float(np.mean(v[-100:])) for name, v in run.history.items()},
        "seconds_of_the_last_part": round(time.monotonic() - began), "threads": args.threads,
        "torch": str(torch.__version__),
    }  # fmt: skip
    scale_layer3(backbone, args.layer3_scale)
    half = {k: v.half().contiguous() for k, v in backbone.state_dict().items() if v.is_floating_point()}
    write_tensors(args.out / "backbone.safetensors", half, {"width": args.width})
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
