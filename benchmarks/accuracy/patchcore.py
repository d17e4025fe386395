"""Measure PatchCore on a data set with other settings, over seeds, and write the figures as JSON.

    python -m benchmarks.accuracy.patchcore mvtec_ad --root DATA/mvtec_ad --category bottle --random-weights
    python -m benchmarks.accuracy.patchcore magnetic_tile --root DATA/magnetic_tile --image-size 224

With its defaults it stands in real.json beside the other detectors, measured in the same way: see
`benchmarks.accuracy.real`. The seed draws the first centre of the coreset and, with --random-weights, the backbone.
"""

from __future__ import annotations

from pathlib import Path

import torch

from adlib import PatchCore
from adlib.datasets import open_dataset
from adlib.detector import pick_device
from benchmarks import common
from benchmarks.accuracy.real import MEASURES, measure

PROTOCOLS = {
    "synthetic": "the factory's split: 200 training images, 200 good and 200 defective test images",
    "mvtec_ad": "official split; images of the copy used were reduced to 450×450 beforehand",
    "magnetic_tile": "split by tile: tile index mod 5, 4 for testing, 0 to 2 for training, no exposures of one tile "
    "on both sides; training images only of tiles without a defective image",
    "folder": "the folders given",
}


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
        detector = PatchCore(args.backbone, pretrained=not args.random_weights, seed=seed, **options)
        found, _ = measure(detector, data)
        results.append({"seed": seed, **found, "memory_bank": len(detector.memory_bank)})
        print(f"seed {seed}:", {k: round(found[k]["value"], 4) for k in MEASURES if k in found}, flush=True)
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
