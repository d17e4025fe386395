"""Measure PatchCore on a data set, over seeds, and write the figures as JSON.

    python -m benchmarks.accuracy.patchcore mvtec_ad --root DATA/mvtec_ad --category bottle --seeds 0 1 2 3 4
    python -m benchmarks.accuracy.patchcore magnetic_tile --root DATA/magnetic_tile --seeds 0 1 2 3 4

Trained on all training images of the official split (for magnetic tiles, the split by tile), measured on all
test images at their own size. Where a data set comes with held-out good images, the threshold at α = 0.05, which
counts parts, is measured too. The seed draws the first centre of the coreset and, with --random-weights, the backbone.
"""

from __future__ import annotations

from pathlib import Path

import torch

from adlib import PatchCore
from adlib.datasets import open_dataset
from adlib.detector import pick_device
from adlib.evaluation import evaluate
from benchmarks import common

KEYS = ("image_auroc", "pixel_auroc", "au_pro")
PROTOCOLS = {
    "synthetic": "the factory's split: 200 training images, 200 good and 200 defective test images",
    "mvtec_ad": "official split; images of the copy used were reduced to 450×450 beforehand",
    "magnetic_tile": "split by tile: tile index mod 5, 4 for testing, 0 to 2 for training, no exposures of one tile "
    "on both sides; training images only of tiles without a defective image",
    "folder": "the folders given",
}


def run(data, backbone: str, pretrained: bool, seed: int, options: dict) -> dict:
    train, test = data.split()
    normals = [sample for sample in data.validation if sample.label == 0]
    detector = PatchCore(backbone, pretrained=pretrained, seed=seed, **options).fit(train, validation=normals or None)
    prediction = detector.predict(test)
    if prediction.failures:
        raise SystemExit(f"unreadable test images: {prediction.failures}")
    kinds = common.by_kind(prediction.samples, prediction.scores, digits=6)
    result = {"seed": seed, **evaluate(prediction), "by_kind": dict(sorted(kinds.items()))}
    result |= {"train": len(train), "test_good": int((prediction.targets == 0).sum()),
               "test_defective": int(prediction.targets.sum()), "memory_bank": len(detector.memory_bank),
               "image_size": detector.image_size}
    if len(detector.normal_scores) >= 19:
        alarm = prediction.defective(detector.threshold(0.05))
        result["threshold"] = {
            "alpha": 0.05,
            "held_out_parts": len(detector.normal_scores), "false_alarms": float(alarm[prediction.targets == 0].mean()),
            "defects_found": float(alarm[prediction.targets == 1].mean()),
        }  # fmt: skip
    return result


def main() -> None:
    parser = common.arguments(__doc__, None, "default: beside this script, named after the data set")
    parser.add_argument("dataset", choices=sorted(PROTOCOLS))
    parser.add_argument("--root", type=Path)
    parser.add_argument("--category", default="")
    parser.add_argument("--backbone", default="adlib_resnet18")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--coreset-ratio", type=float, default=0.1)
    parser.add_argument("--image-size", type=int, help="of a square; default: the training images' median aspect")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    args = parser.parse_args()
    data = open_dataset(args.dataset, args.root, args.category or None)
    args.category = getattr(data, "category", getattr(data, "product", args.category))
    options = {"coreset_ratio": args.coreset_ratio, "image_size": args.image_size}
    name = ["patchcore", args.dataset, args.category, "random" if args.random_weights else "",
            "square" if args.image_size else ""]
    results = []
    for seed in args.seeds:
        results.append(run(data, args.backbone, not args.random_weights, seed, options))
        print(f"seed {seed}:", {k: round(results[-1][k]["value"], 4) for k in KEYS if k in results[-1]}, flush=True)
    given = {key: value for key, value in vars(args).items() if key not in ("dataset", "out")}
    common.write(args.out or Path(__file__).with_name("_".join(filter(None, name)) + ".json"), {
        "name": "PatchCore, " + " ".join(filter(None, [args.dataset, args.category])),
        "command": common.command(args.dataset, **given),
        "versions": common.versions(), "threads": torch.get_num_threads(), "device": str(pick_device()),
        "backbone": args.backbone + (", random weights" if args.random_weights else ""),
        "dataset": args.dataset, "category": args.category,
        "protocol": PROTOCOLS[args.dataset], "options": options, "seeds": args.seeds, "results": results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
