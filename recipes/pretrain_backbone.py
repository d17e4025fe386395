"""Train the backbone that adlib ships: ResNet-18 cut after layer3, on photographs and, if asked for, with SPD.

    python recipes/pretrain_backbone.py runs/backbone --tiny data/tiny-imagenet-200 --steps 12500
    python recipes/pretrain_backbone.py runs/backbone2 --start runs/backbone/backbone.safetensors \\
        --tiny data/tiny-imagenet-200 --photos data/caltech/101_ObjectCategories data/textures/images data/photos

Every folder has its own linear classifier on the spatial mean of `layer3`; all are thrown away afterwards. Tiny
ImageNet is seen at 64 pixels, photographs at 128. With `--spd`, half of the photographs have a patch blended in by
`adlib.spd.smooth_blend`, and a 1×1 convolution on `layer2` and one on `layer3` must say in which cells: the supervised
form of SPD (Zou et al. 2022, Section 3.2), for each cell in place of the whole image.

A run that was stopped goes on when the same command is given again. At the end the run folder holds
`backbone.safetensors` (fp16) and `figures.json`. Tiny ImageNet must lie in its official layout. A folder of photographs
has one folder per class; images that lie in it directly have no class and serve `--spd` alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from adlib.augment import change_colour, uniform
from adlib.backbones import normalised
from adlib.files import write_tensors
from adlib.resnet import ResNet18
from adlib.spd import settle_statistics, smooth_blend
from adlib.training import Training

SIDE, PHOTO, SHORT = 64, 128, 224  # Tiny ImageNet; a crop of a photograph; the shorter side of a stored photograph
NO_CLASS = -100  # what cross_entropy ignores
OPTIONS = [("spd", 0.0, "weight of the dense form of SPD"), ("steps", 12_500, "of the optimiser"),
           ("batch", 128, "images of Tiny ImageNet in a step"), ("photo-batch", 32, "photographs in a step"),
           ("width", 48, "channels of the first layer"), ("peak", 0.25, "peak learning rate"),
           ("warm", 0.2, "share of the steps in which the rate rises"), ("layer3-scale", 0.25, "see scale_layer3"),
           ("seed", 0, "of weights, order and views"), ("threads", torch.get_num_threads(), "of the processor")]


def pictures(files: list[Path]) -> Iterator[Tensor]:
    """Each picture as (3, H, W) uint8; where the shorter side has more than SHORT pixels, shrunk to SHORT."""
    def read(path: Path) -> Tensor:
        with Image.open(path) as image:
            factor = SHORT / min(image.size)
            size = (max(SHORT, round(image.width * factor)), max(SHORT, round(image.height * factor)))
            image = image.convert("RGB")
            return torch.from_numpy(np.array(image.resize(size) if factor < 1 else image)).permute(2, 0, 1)

    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(read, files)


def read_tiny_imagenet(root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 64, 64) uint8 and labels (N,) int64 of `split`, "train" or "val"."""
    wnids = (root / "wnids.txt").read_text().split()
    if split == "train":
        files = [(path, wnid) for wnid in wnids for path in sorted((root / "train" / wnid / "images").glob("*.JPEG"))]
    else:
        rows = [line.split("\t") for line in (root / "val" / "val_annotations.txt").read_text().splitlines()]
        files = [(root / "val" / "images" / row[0], row[1]) for row in rows]
    if not files:
        raise SystemExit(f"{root}: expected Tiny ImageNet's layout, found no images for '{split}'")
    images, number = torch.empty(len(files), 3, SIDE, SIDE, dtype=torch.uint8), {w: i for i, w in enumerate(wnids)}
    for i, picture in enumerate(pictures([path for path, _ in files])):
        images[i] = picture
    return images, torch.tensor([number[wnid] for _, wnid in files])


def read_photographs(root: Path) -> tuple[list[Tensor], list[int]]:
    """`pictures` of a folder, and the number of each one's class."""
    classes = sorted(path for path in root.iterdir() if path.is_dir())
    files = [(path, number) for number, folder in enumerate(classes) for path in sorted(folder.glob("*"))]
    files += [(path, NO_CLASS) for path in sorted(root.glob("*"))]
    files = [(path, number) for path, number in files if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    if not files:
        raise SystemExit(f"{root}: expected photographs, in one folder per class or without, found none")
    return list(pictures([path for path, _ in files])), [number for _, number in files]


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """One random crop, flip and colour change for each image (B, 3, H, W) in [0, 1]; one in ten becomes grey."""
    n = len(x)
    # A crop with 30 to 100 % of the area and an aspect of 3:4 to 4:3, resized to the full side.
    area, log_aspect = uniform(generator, n, 0.3, 1.0, x), uniform(generator, n, -0.288, 0.288, x)
    aspect = log_aspect.exp()
    width, height = (area * aspect).sqrt().clamp(max=1.0), (area / aspect).sqrt().clamp(max=1.0)
    flip = (uniform(generator, n, 0, 1, x) < 0.5).float() * 2 - 1
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
    theta[:, 0, 2] = uniform(generator, n, -1, 1, x) * (1 - width)
    theta[:, 1, 2] = uniform(generator, n, -1, 1, x) * (1 - height)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
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
    start = step % per_epoch * batch
    return np.random.default_rng([seed, step // per_epoch]).permutation(n)[start : start + batch]


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
    masks = torch.cat([mask.float(), torch.zeros_like(x[half:, 0])])[:, None]
    return torch.cat([changed, x[half:]]), masks


def dense_loss(heads: nn.ModuleDict, found: dict[str, Tensor], masks: Tensor) -> Tensor:
    """Cross-entropy of "how much of this cell was changed", over all cells of `layer2` and `layer3`."""
    losses = []
    for name, head in heads.items():
        logits = head(found[name])  # (B, 1, h, w)
        share = F.adaptive_avg_pool2d(masks, logits.shape[-2:])
        losses.append(F.binary_cross_entropy_with_logits(logits, share, pos_weight=torch.tensor(5.0)))
    return torch.stack(losses).mean()


@torch.no_grad()
def scale_layer3(backbone: ResNet18, factor: float) -> None:
    """Multiply the output of `layer3` by `factor`, in place, by changing its weights alone.

    In evaluation mode nothing else changes, and for a power of two not even a rounding. After training, the numbers of
    `layer3` are about four times those of `layer2`: it would own the distance between two patches.
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
    for name, default, meaning in OPTIONS:
        parser.add_argument(f"--{name}", type=type(default), default=default, help=meaning)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    tiny, tiny_labels = read_tiny_imagenet(args.tiny, "train")
    folders = [read_photographs(root) for root in args.photos]
    photographs = [image for images, _ in folders for image in images]
    # One row for each folder's classifier: the classes of its own photographs.
    labels = torch.tensor([[number if row == of else NO_CLASS for of, (_, numbers) in enumerate(folders)
                            for number in numbers] for row in range(len(folders))])
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
             if k not in ("out", "threads")}
    run = Training(args.steps, {"network": network}, optimizer, checkpoint=args.out / "checkpoint.safetensors",
                   schedule=lambda step: one_cycle(step, args.steps, args.warm), about=about, save_every=120)

    def batch_of_photographs(step: int, generator: torch.Generator) -> tuple[Tensor, np.ndarray]:
        rows = of_step(len(photographs), args.photo_batch, step, args.seed)
        rng = np.random.default_rng([args.seed, step, 1])
        return change_colour(torch.stack([crop(photographs[i], rng) for i in rows]), 0.3, generator, grey=0.1), rows

    for step in run:
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        rows = of_step(len(tiny), args.batch, step, args.seed)
        x = augment(tiny[rows].float() / 255, generator)  # (B, 3, 64, 64)
        logits = heads["tiny"](layers(backbone, x)["layer3"].mean((2, 3)))
        losses = {"tiny": F.cross_entropy(logits, tiny_labels[rows], label_smoothing=0.1)}
        if photographs:
            x, rows = batch_of_photographs(step, generator)  # (B, 3, 128, 128)
            if args.spd:
                x, masks = blended_half(x, generator)
            found = layers(backbone, x)
            mean = found["layer3"].mean((2, 3))
            classes = [F.cross_entropy(head(mean), labels[int(i), rows], label_smoothing=0.1, reduction="sum")
                       for i, head in heads.items() if i != "tiny"]
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
    with torch.no_grad():
        logits = [heads["tiny"](layers(backbone, x.float() / 255)["layer3"].mean((2, 3))) for x in images.split(250)]
    right = int((torch.cat(logits).argmax(1) == numbers).sum())
    figures = about | {
        "photographs": len(photographs), "tiny_val_top1": right / len(numbers),
        "last_losses": {name: float(np.mean(v[-100:])) for name, v in run.history.items()},
        "seconds_of_the_last_part": round(time.monotonic() - began), "threads": args.threads,
        "torch": str(torch.__version__)}
    scale_layer3(backbone, args.layer3_scale)
    half = {k: v.half().contiguous() for k, v in backbone.state_dict().items() if v.is_floating_point()}
    write_tensors(args.out / "backbone.safetensors", half, {"width": args.width})
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
