"""Measure SimpleNet over seeds, after each epoch, and write the figures as JSON.

    python -m benchmarks.accuracy.simplenet                 # the factory's four products, five seeds each
    python -m benchmarks.accuracy.simplenet --root DATA     # bottle and the magnetic tiles as well, from DATA/…
    python -m benchmarks.accuracy.simplenet --choices       # how the default noise and width were chosen

Each run is scored after every epoch on its test images. The result is that of the last epoch, as `SimpleNet.fit`
gives it. The best of all epochs is kept beside it, as a figure that nobody may report: it shows what choosing on the
test set is worth. Two schedules: "cosine", our default, and, on bottle and board, "none" with the paper's learning
rates, as the official code has it, which keeps the best of 40 results. The magnetic tiles have the first three seeds.

A factory run draws its pictures from the run's seed; on real data the seed is that of weights, order and noise alone.
`--choices` uses a factory of another seed, 100, whose pictures are in no other table. Runs that are in the file
already are not done again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adlib import SimpleNet
from adlib.backbones import load_backbone
from adlib.datasets import Sample
from adlib.evaluation import evaluate
from adlib.factory import PRODUCTS
from adlib.features import PatchFeatures, to_rows
from adlib.images import resize_image
from adlib.metrics import image_auroc
from adlib.reading import working_size
from adlib.simplenet import NOISE, RATES, Head, fold, noise_level, score_patches, train_head
from benchmarks import common
from benchmarks.common import REAL

SCHEDULES = {"cosine": {"decay": "cosine", "learning_rates": RATES, "epochs": 20},
             "none": {"decay": "none", "learning_rates": (1e-4, 2e-4), "epochs": 40}}
BOTH_SCHEDULES = ("bottle", "board")
CHOICES = [*({"noise_ratio": ratio, "hidden": None} for ratio in (0.05, 0.1, 0.2, 0.4, 0.8)),
           {"noise_ratio": 0.2, "hidden": 512}]  # fmt: skip


class Data:
    """The test samples of one data set, and the patch features (n, P, C) of all its images, computed once."""

    def __init__(self, *parts: list[Sample]) -> None:
        self.test, extractor = parts[1], PatchFeatures(load_backbone("adlib_resnet18"))
        self.size = working_size(parts[0], SimpleNet.SIDE, SimpleNet.LEAST_SIDE)
        with torch.inference_mode():
            rows = [[to_rows(extractor(resize_image(s.image, self.size)[None])) for s in part] for part in parts]
        self.train_features, self.test_features = (torch.stack(part).clone() for part in rows)

    def scores(self, head: Head) -> np.ndarray:
        with torch.no_grad():
            patches = score_patches(self.test_features.flatten(0, 1), *fold(head))
        return patches.view(len(self.test), -1).amax(1).numpy()


def run(data: Data, seed: int, *, noise_ratio: float = NOISE, pixels: bool = False, **options: Any) -> dict[str, Any]:
    label, rows = np.array([s.label for s in data.test]), np.array([not s.logical for s in data.test])
    curve: list[float] = []  # of structural defects
    head = train_head(
        data.train_features, noise=noise_level(data.train_features, noise_ratio), seed=seed, **options,
        after_epoch=lambda epoch, h: curve.append(round(image_auroc(label[rows], data.scores(h)[rows]), 5)),
    )  # fmt: skip
    measured = common.by_type(data.test, data.scores(head), by_group=True)
    result = {"seed": seed, "image_auroc": measured.pop("structural"), **measured, "after_each_epoch": curve,
              "best_on_test": max(curve)}
    if pixels:  # by the detector's own path
        detector = SimpleNet(image_size=data.size, device="cpu", seed=seed)
        detector.weight, detector.bias, detector.last = fold(head)
        found = evaluate(detector.predict(data.test))
        assert abs(found["image_auroc"]["value"] - result["image_auroc"]["value"]) < 1e-3
        result |= {key: found[key] for key in ("pixel_auroc", "au_pro")}
    return result


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), "with --choices, _choices is added to it",
                              data=[*PRODUCTS, *REAL], seeds=range(5))  # fmt: skip
    parser.add_argument("--choices", action="store_true")
    args = parser.parse_args()
    names = args.data or [*PRODUCTS, *(REAL if args.root else ())]
    out = args.out.with_stem(args.out.stem + "_choices") if args.choices else args.out
    results = common.read(out, {"results": []})["results"]
    done = {json.dumps([r["data"], r["seed"], r["options"]]) for r in results}
    if args.choices:
        jobs = [(name, 100, [dict(SCHEDULES["cosine"], **choice) for choice in CHOICES]) for name in PRODUCTS]
    else:
        jobs = [(name, seed, list(SCHEDULES.values()) if name in BOTH_SCHEDULES else [SCHEDULES["cosine"]])
                for seed in args.seeds for name in names if name != "magnetic_tile" or seed < 3]
    kept: dict[str, Data] = {}
    for name, seed, settings in jobs:
        open_ones = [o for o in settings if json.dumps([name, seed, o]) not in done]
        if not open_ones:
            continue
        data = kept.get(name) or Data(*common.load(name, seed, args.root))
        if name in REAL:
            kept[name] = data
        for options in open_ones:
            measured = run(data, seed, pixels=name in REAL, **options)
            results.append({"data": name, "options": options, **measured})
            print(name, seed, options, f"{measured['image_auroc']['value']:.4f}, best {measured['best_on_test']:.4f}",
                  measured["by_kind"], flush=True)
            write(out, results, args.choices)


def write(out: Path, results: list[dict[str, Any]], choices: bool) -> None:
    common.write(out, {
        "name": "SimpleNet" + (", how its defaults were chosen" if choices else ""),
        "command": common.command(root="" if choices else "DATA", choices=choices),
        "versions": common.versions(), "threads": torch.get_num_threads(),
        "backbone": "adlib_resnet18", "protocol": "factory: 200 training images, 200 good and 200 structurally "
        "defective test images of the run's seed; bottle: official split, images reduced to 450×450; magnetic tiles: "
        "split by tile; whole images, their median aspect at the area of 224×224 pixels; the last epoch is the result",
        "results": sorted(results, key=lambda r: (r["data"], json.dumps(r["options"]), r["seed"])),
    })  # fmt: skip


if __name__ == "__main__":
    main()
