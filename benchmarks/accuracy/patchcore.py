"""Measure PatchCore on a data set, over seeds, and write the figures as JSON.

    python benchmarks/patchcore.py mvtec_ad --root DATA/mvtec_ad --category bottle --seeds 0 1 2 3 4
    python benchmarks/patchcore.py magnetic_tile --root DATA/magnetic_tile --seeds 0 1 2 3 4

Trained on all training images of the official split (for magnetic tiles, the split by tile), measured on all
test images at their own size. Where a data set comes with held-out good images, the threshold at α = 0.05 is
measured too. The seed draws the first centre of the coreset and, with --random-weights, the backbone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from adlib import PatchCore
from adlib.datasets import open_dataset
from adlib.detector import Prediction, pick_device
from adlib.evaluation import evaluate
from adlib.metrics import image_auroc
from adlib.threshold import conformal_threshold

KEYS = ("image_auroc", "pixel_auroc", "au_pro")
PROTOCOLS = {
    "synthetic": "the factory's split: 200 training images, 200 good and 200 defective test images",
    "mvtec_ad": "official split; images of the copy used were reduced to 450×450 beforehand",
    "magnetic_tile": "split by tile: tile index mod 5, 4 for testing, 0 to 2 for training, no exposures of one tile "
    "on both sides; training images only of tiles without a defective image",
    "folder": "the folders given",
}


def by_kind(prediction: Prediction) -> dict[str, float]:
    """Image AUROC of each kind of defect against all good images."""
    kinds = np.array([sample.kind for sample in prediction.samples])
    good = prediction.targets == 0
    aurocs = {}
    for kind in sorted(set(kinds[~good])):
        rows = good | (kinds == kind)
        aurocs[str(kind)] = round(image_auroc(prediction.targets[rows], prediction.scores[rows]), 6)
    return aurocs


def run(data, backbone: str, pretrained: bool, seed: int, options: dict) -> dict:
    train, test = data.split()
    normals = [sample for sample in data.validation if sample.label == 0]
    detector = PatchCore(backbone, pretrained=pretrained, seed=seed, **options).fit(train, validation=normals or None)
    prediction = detector.predict(test)
    if prediction.failures:
        raise SystemExit(f"unreadable test images: {prediction.failures}")
    result = {"seed": seed, **evaluate(prediction), "by_kind": by_kind(prediction)}
    result |= {"train": len(train), "test_good": int((prediction.targets == 0).sum()),
               "test_defective": int(prediction.targets.sum()), "memory_bank": len(detector.memory_bank)}
    if len(detector.normal_scores) >= 19:
        threshold = conformal_threshold(detector.normal_scores, 0.05)
        alarm = prediction.scores > threshold
        result["threshold"] = {
            "alpha": 0.05,
            "held_out": len(detector.normal_scores), "false_alarms": float(alarm[prediction.targets == 0].mean()),
            "defects_found": float(alarm[prediction.targets == 1].mean()),
        }  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=sorted(PROTOCOLS))
    parser.add_argument("--root", type=Path)
    parser.add_argument("--category", default="")
    parser.add_argument("--backbone", default="adlib_resnet18")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--coreset-ratio", type=float, default=0.1)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/patchcore_….json")
    args = parser.parse_args()
    data = open_dataset(args.dataset, args.root, args.category or None)
    args.category = getattr(data, "category", getattr(data, "product", args.category))
    options = {"coreset_ratio": args.coreset_ratio, "image_size": args.image_size}
    backbone = args.backbone + (", random weights" if args.random_weights else "")
    name = "_".join(filter(None, ["patchcore", args.dataset, args.category, "random" if args.random_weights else ""]))
    out = args.out or Path(__file__).parent / "results" / f"{name}.json"
    results = []
    for seed in args.seeds:
        results.append(run(data, args.backbone, not args.random_weights, seed, options))
        measured = {k: round(results[-1][k]["value"], 4) for k in KEYS if k in results[-1]}
        print(f"seed {seed}: {measured}", flush=True)
    root = f" --root DATA/{args.root.name}" if args.root else ""
    command = (
        f"python benchmarks/patchcore.py {args.dataset}{root}"
        + (f" --category {args.category}" if args.category else "")
        + f" --backbone {args.backbone}" + (" --random-weights" if args.random_weights else "")
        + f" --coreset-ratio {args.coreset_ratio} --image-size {args.image_size} --seeds "
        + " ".join(map(str, args.seeds))
    )  # fmt: skip
    versions = {p: metadata.version(p) for p in ("torch", "torchvision", "numpy", "scikit-learn", "scipy", "adlib")}
    report = {
        "name": "PatchCore, " + " ".join(filter(None, [args.dataset, args.category])), "command": command,
        "versions": {"python": platform.python_version(), **versions}, "threads": torch.get_num_threads(),
        "device": str(pick_device()),
        "backbone": backbone, "dataset": args.dataset, "category": args.category,
        "protocol": PROTOCOLS[args.dataset], "options": options, "seeds": args.seeds, "results": results,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(part, out)
    print(f"wrote {out.name}")


if __name__ == "__main__":
    main()
