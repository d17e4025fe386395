"""Compare candidates for the shipped backbone by PatchCore, on what may be used for choosing, and write JSON.

    python -m benchmarks.accuracy.backbones --tiles DATA/magnetic_tile \\
        --candidate "version 1" v1.safetensors --candidate "photographs" runs/photographs/backbone.safetensors

Two measurements for each candidate, both with PatchCore's defaults at `--image-size`: image AUROC on the four
products of the factory (seed 7, structural defects), and on the magnetic tiles that are set apart for choosing
(tile index mod 5 is 3). No test image of a real data set is read. The time is that of the network alone, one image,
as a ratio to the first candidate's in this command, both at the same size and timed in turns.

A candidate is a file of weights as recipes/pretrain_backbone.py writes it. The report is written after every
candidate; one that is in it already is not measured again.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from adlib import PatchCore
from adlib.datasets import in_memory, open_dataset
from adlib.factory import PRODUCTS, VERSION
from adlib.metrics import image_auroc
from adlib.resnet import ResNet18
from benchmarks import common

SEED = 7  # of the factory and the detector; the figures of the course use other seeds


def read_backbone(path: Path) -> ResNet18:
    state = load_file(path)
    backbone = ResNet18(width=len(state["bn1.weight"]))
    missing, unexpected = backbone.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
        raise SystemExit(f"{path}: expected the weights of a ResNet18, missing {missing}, unexpected {unexpected}")
    return backbone.eval().requires_grad_(False)


def measure(path: Path, size: int, products: dict[str, tuple[list, list]], tiles: tuple[list, list]) -> dict:
    results = {}
    for name, (train, test) in (products | {"magnetic tiles set apart": tiles}).items():
        scores = PatchCore(read_backbone(path), image_size=size, seed=SEED).fit(train).predict(test).scores
        overall = round(image_auroc([s.label for s in test], scores), 4)
        results[name] = {"image_auroc": overall, **dict(sorted(common.by_kind(test, scores).items()))}
        print(path.name, size, name, results[name], flush=True)
    return results


def time_ratio(path: Path, first: Path, size: int) -> float:
    """Seconds for one image over those of the first candidate: the median of 40 pairs timed in turns."""
    networks = [read_backbone(p).to(memory_format=torch.channels_last) for p in (path, first)]
    images = [torch.rand(1, 3, size, size).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    ratios = []
    with torch.inference_mode():
        for round_ in range(50):
            spent = []
            for network, image in zip(networks, images, strict=True):
                start = time.perf_counter()
                network(image)
                spent.append(time.perf_counter() - start)
            if round_ >= 10:
                ratios.append(spent[0] / spent[1])
    return round(statistics.median(ratios), 3)


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"))
    parser.add_argument("--candidate", nargs=2, action="append", required=True, metavar=("NAME", "WEIGHTS"))
    parser.add_argument("--tiles", type=Path, required=True, help="the folder of the magnetic tiles")
    parser.add_argument("--image-size", type=int, default=224)
    args = parser.parse_args()
    report = common.read(args.out, {"candidates": []})
    products = {}
    for product in PRODUCTS:
        train, test = common.load(product, SEED, None)
        products[product] = in_memory(train), in_memory([s for s in test if not s.logical])
    data = open_dataset("magnetic_tile", args.tiles, None)
    tiles = in_memory(data.split()[0]), in_memory(data.validation)
    first = Path(args.candidate[0][1])
    for name, weights in args.candidate:
        path = Path(weights)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if any((c["sha256"], c["image_size"]) == (digest, args.image_size) for c in report["candidates"]):
            continue
        figures = path.parent / "figures.json"
        entry = {
            "name": name, "image_size": args.image_size, "sha256": digest, "bytes": path.stat().st_size,
            "training": json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else None,
            "time_ratio": time_ratio(path, first, args.image_size),
            "results": measure(path, args.image_size, products, tiles),
        }  # fmt: skip
        report["candidates"].append(entry)
        report |= {
            "name": "Candidates for the shipped backbone", "factory_version": VERSION, "seeds": [SEED],
            "command": common.command(tiles=args.tiles) + " --candidate NAME WEIGHTS … (once for each image size)",
            "versions": common.versions(), "threads": torch.get_num_threads(),
            "protocol": "PatchCore with its defaults; factory: 200 training images, 200 good and 200 defective test "
            "images of each product; magnetic tiles: training images, tested on the tiles set apart for choosing",
        }  # fmt: skip
        common.write(args.out, report)


if __name__ == "__main__":
    main()
