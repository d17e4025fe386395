"""Measure the three detectors with their defaults on real parts, over seeds: bottle, screw and magnetic tiles.

    python -m benchmarks.accuracy.real --root DATA                                       # all that is missing
    python -m benchmarks.accuracy.real --root DATA --methods efficientad --data screw --seeds 3   # one fit
    python -m benchmarks.accuracy.real --root DATA --pixels 128 --data screw --seeds 0            # a control

Fixed before the first run: the detectors' defaults, the shipped weights, seeds 0 to 4 (tiles 0 to 2, as a fit there
has held-out good images and the test is of 261 pictures of 44 tiles), the official split of MVTec AD, and the split by
tile. Nothing is chosen on these images. A run that is there is not done again; each is written when it is done.

The seed draws all that is random in a detector: PatchCore's first centre, SimpleNet's head, noise and order,
EfficientAD's networks and order. It draws no images, so the deviation over seeds is that of the method alone; the
interval of a run is over the test images (tiles: over tiles).

Where the data set has held-out good images (tiles), or the method holds out some itself (EfficientAD a tenth), and
they are 19 or more parts, the threshold at α = 0.05 is measured too. EfficientAD's quantiles come from the same
held-out images, so there its promise holds only about.

The score of each test image is kept in real_scores.json, which git ignores, for intervals over seeds and images.

`--pixels` is a control: all else the same, images of so many pixels a side, into real_128.json. EfficientAD's default
here is 128 pixels and the others' 224, so a difference between them may be one of pixels alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.datasets import open_dataset
from adlib.detector import Detector
from adlib.evaluation import evaluate
from adlib.prediction import Prediction
from benchmarks import common

METHODS = {"patchcore": PatchCore, "simplenet": SimpleNet, "efficientad": EfficientAD}
SEEDS = {"bottle": range(5), "screw": range(5), "magnetic_tile": range(3)}
MEASURES = ("image_auroc", "pixel_auroc", "au_pro")
ALPHA = 0.05
DIGITS = 6  # of a score that is kept


def run(method: str, name: str, seed: int, root: Path, pixels: int | None) -> tuple[dict[str, Any], Prediction]:
    folder, category = common.REAL[name]
    options = {"image_size": pixels} if pixels else {}
    detector = METHODS[method](device="cpu", seed=seed, **options)
    found, prediction = measure(detector, open_dataset(folder, root / folder, category))
    return {"data": name, "method": method, "seed": seed, **found}, prediction


def measure(detector: Detector, data: Any) -> tuple[dict[str, Any], Prediction]:
    """Fit a detector on the training images of a data set; its figures, and its prediction, on the test images."""
    train, test = data.split()
    normals = [sample for sample in data.validation if sample.label == 0]
    prediction = detector.fit(train, validation=normals or None).predict(test)
    if prediction.failures:
        raise SystemExit(f"unreadable test images: {prediction.failures}")
    kinds = common.by_kind(prediction.samples, prediction.scores)
    result = {**evaluate(prediction), "train": len(train), "image_size": detector.image_size,
              "by_kind": dict(sorted(kinds.items()))}  # fmt: skip
    if len(detector.normal_scores) >= 1 / ALPHA - 1:
        alarm, targets = prediction.defective(detector.threshold(ALPHA)), prediction.targets
        result["threshold"] = {"alpha": ALPHA, "held_out_parts": len(detector.normal_scores),
                               "false_alarms": float(alarm[targets == 0].mean()),
                               "defects_found": float(alarm[targets == 1].mean())}  # fmt: skip
    return result, prediction


def keep(path: Path, key: tuple[str, str, int], prediction: Prediction) -> None:
    """Add a run's scores, and what its images are; their order is the same in every run."""
    name, method, seed = key
    kept = common.read(path, {"images": {}, "scores": {}})
    kept["images"][name] = {"label": prediction.targets.tolist(), "kind": [s.kind for s in prediction.samples],
                            "group": prediction.groups}  # fmt: skip
    kept["scores"][f"{name} {method} {seed}"] = [float(f"{s:.{DIGITS}g}") for s in prediction.scores]
    common.write(path, kept, compact=True)


def save(out: Path, found: dict[str, Any], pixels: int | None) -> None:
    """Read the report anew, so that runs side by side do not lose each other's, add what was found, and write it."""
    results = [*common.read(out, {"results": []})["results"], found]
    order = [*METHODS]
    results.sort(key=lambda r: ([*SEEDS].index(r["data"]), order.index(r["method"]), r["seed"]))
    common.write(out, {
        "name": "Three detectors with their defaults on real parts" + (f", but {pixels} pixels" if pixels else ""),
        "command": common.command(root="DATA", pixels=pixels),
        "versions": common.versions(), "threads": torch.get_num_threads(), "device": "cpu",
        "protocol": "bottle and screw: official split of MVTec AD, images of the copies used were reduced to 450×450 "
        "and 512×512; magnetic_tile: split by tile, tile index mod 5, 4 for testing, 0 to 2 for training, good images "
        "of 3 held out; defaults of each detector; measured at the images' own sizes",
        "results": results,
    })  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), data=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 to 4, of magnetic_tile 0 to 2")
    parser.add_argument("--pixels", type=int, help="a control: side of the images, for every method")
    args = parser.parse_args()
    if args.pixels:
        args.out = args.out.with_stem(f"{args.out.stem}_{args.pixels}")
    torch.set_num_threads(1)
    for method in args.methods:
        for name in args.data or list(SEEDS):
            for seed in args.seeds or SEEDS[name]:
                done = {(r["data"], r["method"], r["seed"]) for r in common.read(args.out, {"results": []})["results"]}
                if (name, method, seed) in done:
                    continue
                found, prediction = run(method, name, seed, args.root, args.pixels)
                if not args.pixels:
                    keep(args.out.with_stem(args.out.stem + "_scores"), (name, method, seed), prediction)
                save(args.out, found, args.pixels)
                print(name, method, seed, *(f"{k} {found[k]['value']:.4f}" for k in MEASURES), flush=True)


if __name__ == "__main__":
    main()
