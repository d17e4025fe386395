"""Measure detectors that get more good pictures beside those fitted on all of them, and write the figures as JSON.

    python -m benchmarks.accuracy.extend                            # PatchCore and SimpleNet; resumable
    python -m benchmarks.accuracy.extend --methods EfficientAD

Four detectors of each method, product and seed score the same test images: "half" is fitted on half of the training
images, "extended" is that one after `extend` with the other half, "all" is fitted on all, and "short" is the control:
fitted on all from the start with as many steps as `extend` took. Time is told in steps. PatchCore has none; its exact
covering radius over all patches, and the bound that it tells (2.24), stand in their place. EfficientAD runs 250 steps
in place of 2,500, so its AUROCs are not those of the method: what counts is one beside the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.datasets import SyntheticFactory, in_memory
from adlib.metrics import image_auroc
from adlib.neighbors import k_nearest
from benchmarks import common

PRODUCTS = ("fabric", "washer")
SIZES = {"n_train": 48, "n_validation": 20, "n_test": 40, "n_defect": 42}
METHODS: dict[str, Any] = {"PatchCore": PatchCore, "SimpleNet": SimpleNet, "EfficientAD": EfficientAD}
OPTIONS: dict[str, dict[str, Any]] = {"PatchCore": {}, "SimpleNet": {}, "EfficientAD": {"steps": 250}}
SHORT: dict[str, dict[str, Any]] = {"SimpleNet": {"epochs": 5}, "EfficientAD": {"steps": 63}}


def run(method: str, product: str, seed: int) -> dict[str, Any]:
    data = SyntheticFactory(product, seed=seed, **SIZES)
    train, held, test = (in_memory(part) for part in (data.train, data.validation, data.test))
    half = len(train) // 2
    options = {"device": "cpu", "seed": seed} | OPTIONS[method]

    def make(**more: Any) -> Any:
        return METHODS[method](**options | more)

    def about(detector: Any) -> dict[str, Any]:
        prediction = detector.predict(test)
        good = prediction.targets == 0
        found: dict[str, Any] = {
            "image_auroc": round(image_auroc(prediction.targets, prediction.scores), 5),
            "false_alarms": float((prediction.scores[good] > detector.threshold(0.05)).mean())}  # fmt: skip
        if method == "PatchCore":
            radius = float(k_nearest(patches, detector.memory_bank)[0].max())
            return found | {"centres": len(detector.memory_bank), "radius": round(radius, 4),
                            "bound": round(float(detector.bank_radius), 4)}
        return found | {"steps": len(detector.history["loss"])}

    patches = PatchCore(coreset_ratio=1.0, device="cpu").fit(train).memory_bank if method == "PatchCore" else train
    detector = make().fit(train[:half], validation=held)
    result = {"half": about(detector)}
    old = {} if method == "PatchCore" else {"old": train[:half]}
    result["extended"] = about(detector.extend(train[half:], **old))
    result["all"] = about(make().fit(train, validation=held))
    if method in SHORT:
        result["short"] = about(make(**SHORT[method]).fit(train, validation=held))
    return result


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), data=PRODUCTS, seeds=range(3))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["PatchCore", "SimpleNet"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for method in args.methods:
        for seed in args.seeds:
            for product in args.data or PRODUCTS:
                report = common.read(args.out, {"runs": []})
                key = {"method": method, "data": product, "seed": seed}
                if any(key.items() <= r.items() for r in report["runs"]):
                    continue
                found = run(method, product, seed)
                report["runs"].append(key | found)
                print(key, {k: v["image_auroc"] for k, v in found.items()}, flush=True)
                common.write(args.out, report | {
                    "name": "more good pictures", "command": "python -m benchmarks.accuracy.extend",
                    "versions": common.versions(), "threads": 1,
                    "seeds": sorted({r["seed"] for r in report["runs"]}),
                    "protocol": f"factory of the run's seed, {SIZES['n_train']} training images, half of them at "
                    f"first, {SIZES['n_validation']} held out, {SIZES['n_test']} good and {SIZES['n_defect']} "
                    "defective test images; defaults of each method but for EfficientAD's steps",
                })  # fmt: skip


if __name__ == "__main__":
    main()
