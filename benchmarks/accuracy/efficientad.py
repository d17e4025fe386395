"""Measure EfficientAD on the factory and on bottle, beside PatchCore on the same images, and write the figures as JSON.

    python -m benchmarks.accuracy.efficientad               # the factory's four products, three seeds each
    python -m benchmarks.accuracy.efficientad --root DATA   # bottle as well, from DATA/mvtec_ad
    python -m benchmarks.accuracy.efficientad --choices     # how the form for small machines was chosen
    python -m benchmarks.accuracy.efficientad --differences # from PatchCore on kit, from the scores of comparison.py
    python -m benchmarks.accuracy.efficientad --pixels 256 --seeds 0    # kit with finer images, half an hour a seed

Both methods get the same 200 training images (bottle: 209); EfficientAD holds a tenth of them out for the quantiles of
its maps. A factory run draws its pictures from the run's seed. On kit, logical anomalies are scored apart, for the
combined map and for each of the two maps alone. `--choices` uses a factory of another seed, 100, whose pictures are
in no other table. Runs that are in the file already are not done again; each is one process on one thread.

`--pixels` is the control of section 5.10: what do finer images alone change on kit? Everything else is as for 128
pixels. It keeps a checkpoint beside the file and goes on from it, so a run may be stopped; the score of each test image
is kept, in the order of comparison_scores.json. Fixed beforehand: it decides nothing but whether the structural
defects of kit are found better with 256 pixels than with 128; one seed is one factory and one training.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adlib import EfficientAD, PatchCore
from adlib.datasets import Sample, hold_out, in_memory
from adlib.efficientad import normalise_map
from adlib.factory import PRODUCTS
from adlib.images import resize_image
from adlib.metrics import au_pro, au_spro, image_auroc
from benchmarks import common
from benchmarks.common import by_type

SMALL = {"teacher": "adlib_pdn_s_quarter", "image_size": 128, "steps": 2_500, "images_per_step": 2,
         "learning_rate": 1e-3, "bf16": True}  # the defaults, and bfloat16 for speed  # fmt: skip
CHOICES: list[dict[str, Any]] = [
    {}, {"p_hard": 0.0}, {"p_hard": 0.9}, {"penalty_images": False}, {"detach_autoencoder": True}, {"latent": 16},
    {"autoencoder_width": 0.5},
]  # fmt: skip


def small(samples: list[Sample], side: int) -> list[Sample]:
    """The same samples with the image as the detector will see it, in memory; masks stay as they are."""
    return [replace(s, image_source=resize_image(s.image, (side, side)), max_value=None) for s in samples]


def run(
    train: list[Sample], test: list[Sample], seed: int, pixels: bool, maps_at: Path | None = None,
    checkpoint: Path | None = None, **options: Any,
) -> tuple[dict, np.ndarray]:  # fmt: skip
    side = options["image_size"]
    rest, held = hold_out(train, 0.1, seed=seed)
    start = time.process_time()
    detector = EfficientAD(device="cpu", seed=seed, checkpoint=checkpoint, **options)
    detector.fit(small(rest, side), validation=small(held, side))
    spent = time.process_time() - start
    seen = small(test, side)
    with torch.inference_mode():
        found = [detector.both_maps(torch.stack([s.image for s in seen[i : i + 50]])) for i in range(0, len(seen), 50)]
    maps = (torch.cat(part) for part in zip(*found, strict=True))
    student, autoencoder = (normalise_map(m, q) for m, q in zip(maps, detector.quantiles, strict=True))
    scores = detector.predict(seen).scores
    result = {"cpu_minutes": round(spent / 60, 1), **by_type(test, scores)}
    for name, alone in (("student_map", student), ("autoencoder_map", autoencoder)):
        result[name] = by_type(test, alone.amax((1, 2)).numpy())
    if pixels:
        result["au_pro"], result["au_spro_0.05"] = areas(detector, test)
    if maps_at:
        write_maps(maps_at, test, student, autoencoder)
    result["last_losses"] = {k: round(float(np.mean(v[-200:])), 4) for k, v in detector.history.items()}
    return result, scores


def write_maps(out: Path, test: list[Sample], student: torch.Tensor, autoencoder: torch.Tensor) -> None:
    """Both normalised maps of one good image and of the first two of each kind, for the chapter, in thousandths."""
    kinds = ["good", *dict.fromkeys(s.kind for s in test if s.label)]
    chosen = [i for kind in kinds for i in [i for i, s in enumerate(test) if s.kind == kind][:2]]
    maps = [{"path": test[i].path, "student_map": (student[i] * 1000).round().int().tolist(),
             "autoencoder_map": (autoencoder[i] * 1000).round().int().tolist()} for i in chosen]
    common.write(out, {"name": "EfficientAD, maps of some test images of kit, seed 0, normalised, in thousandths",
                       "seed": 0, "command": common.command(data="kit"), "maps": maps}, compact=True)  # fmt: skip


def areas(detector: EfficientAD | PatchCore, test: list[Sample]) -> tuple[float, float]:
    """AU-PRO up to 0.3 and AU-sPRO up to 0.05 of all test images, at the images' own size."""
    maps = list(detector.predict(test).maps)
    return (au_pro([s.mask.numpy() for s in test], maps), au_spro([s.regions for s in test], maps))


def differences(folder: Path, draws: int = 2000) -> list[dict[str, Any]]:
    """EfficientAD minus PatchCore on kit, with 224 and with 128 pixels, by type of anomaly: AUROC, mean over the seeds.

    From the scores that benchmarks.accuracy.comparison keeps. Images are drawn again within each seed, the good and the
    anomalous ones apart, the same for both methods. There are four differences, so each interval is one at 1 - 0.05/4.
    """
    kept = common.read(folder / "comparison_scores.json", {"tests": {}, "scores": {}})
    if "kit" not in kept["tests"]:
        return []
    label, logical = (np.array(kept["tests"]["kit"][name]) for name in ("label", "logical"))
    seeds = sorted({key.split()[1] for key in kept["scores"] if key.startswith("kit ")})
    found = []
    for part, rows in (("structural", (label == 1) & ~logical), ("logical", logical)):
        good, bad = np.flatnonzero(label == 0), np.flatnonzero(rows)
        for other in ("patchcore", "patchcore_128"):
            rng, values = np.random.default_rng(0), []
            for draw in range(draws + 1):
                each = []
                for seed in seeds:
                    some = [rng.choice(r, len(r)) if draw else r for r in (good, bad)]
                    chosen = np.concatenate(some)
                    ours, theirs = (image_auroc(label[chosen], np.array(kept["scores"][f"kit {seed} {way}"])[chosen])
                                    for way in ("efficientad", other))
                    each.append(ours - theirs)
                values.append(each)
            low, high = np.quantile(np.mean(values[1:], axis=1), [0.05 / 8, 1 - 0.05 / 8])
            found.append({"part": part, "minus": other, "value": float(np.mean(values[0])), "low": float(low),
                          "high": float(high), "by_seed": values[0]})  # fmt: skip
    return found


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), "_choices or _maps is added where it fits",
                              data=[*PRODUCTS, "bottle"], seeds=range(3))  # fmt: skip
    parser.add_argument("--choices", action="store_true")
    parser.add_argument("--differences", action="store_true")
    parser.add_argument("--pixels", type=int, help="kit alone, images of so many pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.pixels:
        return finer(args.out.with_stem(f"{args.out.stem}_{args.pixels}"), args.pixels, args.seeds)
    out = args.out.with_stem(args.out.stem + "_choices") if args.choices else args.out
    report = common.read(out, {"results": []})
    if args.differences:
        return write(out, report | {"kit_minus_patchcore": differences(args.out.parent)}, args.choices)
    names = args.data or ["kit", *(p for p in PRODUCTS if p != "kit"), *(["bottle"] if args.root else [])]
    jobs = [(name, seed, {}) for seed in args.seeds for name in names]
    if args.choices:
        jobs = [("kit", 100, choice) for choice in CHOICES]
    for name, seed, choice in jobs:
        options = SMALL | choice
        if any((r["data"], r["seed"], r["options"]) == (name, seed, options) for r in report["results"]):
            continue
        train, test = (in_memory(samples) for samples in common.load(name, seed, args.root))  # drawn once
        maps_at = out.with_stem(out.stem + "_maps") if (name, seed) == ("kit", 0) and not args.choices else None
        measured, _ = run(train, test, seed, not args.choices, maps_at, **options)
        entry = {"data": name, "seed": seed, "options": options, **measured}
        if not args.choices:
            other = PatchCore(device="cpu", seed=seed).fit(train)
            theirs = other.predict(test).scores
            entry["patchcore"] = by_type(test, theirs)
            entry["patchcore"]["au_pro"], entry["patchcore"]["au_spro_0.05"] = areas(other, test)
        report["results"].append(entry)
        print(name, seed, choice, measured["cpu_minutes"], "min,", {k: round(entry[k]["value"], 4) for k in
              ("structural", "logical") if k in entry}, entry.get("patchcore", {}).get("by_kind"), flush=True)
        write(out, report, args.choices)


def finer(out: Path, side: int, seeds: list[int]) -> None:
    """Kit with images of `side` pixels, with the scores of all test images."""
    report = common.read(out, {"results": []})
    options = SMALL | {"image_size": side}
    for seed in seeds:
        if any(r["seed"] == seed for r in report["results"]):
            continue
        train, test = common.load("kit", seed, None)
        checkpoint = out.with_suffix(f".{seed}.checkpoint")
        measured, scores = run(in_memory(train), test, seed, False, None, checkpoint, **options)
        del measured["cpu_minutes"]  # of the last part alone, where the run was stopped
        report["results"].append({"data": "kit", "seed": seed, "options": options, **measured,
                                  "scores": [float(f"{s:.5g}") for s in scores]})
        common.write(out, {"name": f"EfficientAD on kit, images of {side} pixels", "versions": common.versions(),
                           "command": common.command(pixels=side, seeds=seeds), "threads": 1,
                           "protocol": "as efficientad.json", **report}, compact=True)  # fmt: skip
        checkpoint.unlink()
        print(seed, measured, flush=True)


def write(out: Path, report: dict[str, Any], choices: bool) -> None:
    common.write(out, {
        "name": "EfficientAD" + (", how its small form was chosen" if choices else ""),
        "command": common.command(root="" if choices else "DATA", choices=choices),
        "versions": common.versions(), "threads": 1, "teacher": SMALL["teacher"],
        "protocol": "factory: 200 training images of the run's seed for both, of which EfficientAD holds out 20; "
        "200 good test images, 200 anomalous ones of each type; whole images, 128 pixels for EfficientAD and 224 for "
        "PatchCore with the shipped backbone; bottle: official split, images reduced to 450×450",
        **report, "results": sorted(report["results"], key=lambda r: (r["data"], r["seed"], json.dumps(r["options"]))),
    })  # fmt: skip


if __name__ == "__main__":
    main()
