"""Measure what defective images among the training images cost each detector, and write the figures as JSON.

    python -m benchmarks.accuracy.contamination --methods patchcore simplenet
    python -m benchmarks.accuracy.contamination --methods efficientad --data fabric board --seeds 0    # long

54 good training images are joined by 0, 1, 3 or 6 defective ones of one kind, that is 0, 2, 5 and 10 % of all. Tested
are 16 other images of that kind beside 32 good ones, so no image is in both. Each seed of the factory has a
kind of its own, one of the three that a clean bank of PatchCore finds best on seed 7, which is in no table: only what
is found can be lost. One product and seed is one unit; a mean over units has a t-interval. A run that is in the file
is not done again.

PatchCore is measured from its parts, as in `benchmarks.accuracy.bank`: a tenth and a hundredth of the bank by greedy
choice and at random (two draws), from the same spoilt images, and the full bank. A patch is spoilt where its cell
touches the mask of a defect. SimpleNet has its defaults. EfficientAD has 1,000 steps in place of 2,500, to be cheap.
"two halves" is the remedy: which training images does a bank of the other half call odd? Its AUROC is that of spoilt
against good training images, beside the share of spoilt ones among as many of the highest scores.

Fixed before the runs. "Greedy keeps outliers first" is held to be so where the share of spoilt patches among the kept,
divided by their share in the whole bank, is above 1 with its interval, and that of the random bank is not. "So the
coreset makes it worse" is held to be so where AUROC, at 10 %, falls by more with the greedy bank than with the full
one, and than with a random bank of its size: two controls, two sizes, one family of four (Bonferroni).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adlib import EfficientAD, SimpleNet
from adlib.coreset import k_center_greedy, random_subset
from adlib.datasets import Sample, SyntheticFactory, hold_out, in_memory
from adlib.factory import PRODUCTS
from adlib.metrics import image_auroc
from benchmarks import common
from benchmarks.accuracy.bank import image_scores, interval, look, search
from benchmarks.accuracy.efficientad import SMALL, small

KINDS = {  # the best found of 8 images each on seed 7: by AUROC, of equals by the median score over that of good images
    "board": ("scratch", "solder_bridge", "shifted_part"), "fabric": ("stain", "misweave", "cut"),
    "kit": ("bent_bolt", "hair", "swarf"), "washer": ("rust", "chip", "dent"),
}  # fmt: skip
LEVELS = (0, 1, 3, 6)
METHODS = ("patchcore", "simplenet", "efficientad")
GOOD, TESTED = 54, 16
SHARES = (0.01, 0.1)
REMEDY = (1, 6)
STEPS = 1_000


def samples(product: str, seed: int) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Good training images, defective ones of the seed's kind to join them, and test images."""
    kind = KINDS[product][seed % 3]
    defective = (LEVELS[-1] + TESTED) * len(PRODUCTS[product].KINDS)  # evenly over the kinds
    data = SyntheticFactory(product, seed=seed, n_train=GOOD, n_test=2 * TESTED, n_defect=defective)
    of_kind = [s for s in data.test if s.kind == kind]
    good = [s for s in data.test if not s.label]
    return in_memory(data.train), in_memory(of_kind[: LEVELS[-1]]), in_memory([*good, *of_kind[LEVELS[-1] :]])


def under_masks(spoilt: list[Sample], cells: int) -> Tensor:
    """Which patches (n·P,) of these images touch a mask."""
    side = int(cells**0.5)
    masks = torch.stack([s.mask for s in spoilt])[:, None].float()  # pyrefly: ignore
    return F.adaptive_max_pool2d(masks, side).flatten() > 0


def patchcore(product: str, seed: int) -> list[dict[str, Any]]:
    train, spoilt, test = samples(product, seed)
    label = np.array([s.label for s in test])
    queries, joined = look(test), look(spoilt)
    cells = queries.shape[1]
    rows = torch.cat([look(train), joined]).flatten(0, 1)  # the good images first
    defect = torch.cat([torch.zeros(GOOD * cells, dtype=torch.bool), under_masks(spoilt, cells)])
    found = []

    def add(bank: str, draw: int, share: float, spoilt_images: int, kept: Tensor, d: Tensor, at: Tensor) -> None:
        upto = (GOOD + spoilt_images) * cells
        found.append({
            "method": f"{bank} {share:g}", "draw": draw, "spoilt": spoilt_images,
            "image_auroc": image_auroc(label, image_scores(queries, rows[kept], d, at).numpy()),
            "patches": [int(defect[:upto].sum()), upto], "kept": [int(defect[kept].sum()), len(kept)],
        })  # fmt: skip

    sizes = [(GOOD + n) * cells for n in LEVELS]
    for n, (size, d, at) in zip(LEVELS, search(queries, rows, sizes), strict=True):
        add("full", 0, 1.0, n, torch.arange(size), d, at)
        banks = [("greedy", 0, k_center_greedy(rows[:size], int(SHARES[-1] * size), seed=seed))]
        banks += [("random", i, random_subset(rows[:size], banks[0][2].numel(), seed=seed + 1000 * i)) for i in (0, 1)]
        for bank, draw, order in banks:
            few = [int(share * size) for share in SHARES]
            for share, (k, d, at) in zip(SHARES, search(queries, rows[order], few), strict=True):
                add(bank, draw, share, n, order[:k], d, at)
        if n in REMEDY:
            bad = np.arange(GOOD + n) >= GOOD
            looked = rows[:size].view(GOOD + n, cells, -1)
            found.append({"method": "two halves", "draw": 0, "spoilt": n, **two_halves(looked, bad, seed)})
    return found


def two_halves(features: Tensor, spoilt: np.ndarray, seed: int) -> dict[str, float]:
    """How well the spoilt among the training images (N, P, C) stand out, each half scored by a bank of the other."""
    halves = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).tensor_split(2)
    scores = torch.zeros(len(features))
    for own, other in (halves, halves[::-1]):
        rows = features[own].flatten(0, 1)
        bank = rows[k_center_greedy(rows, int(SHARES[-1] * len(rows)), seed=seed)]
        _, d, at = next(search(features[other], bank, [len(bank)]))
        scores[other] = image_scores(features[other], bank, d, at)
    top = scores.argsort(descending=True)[: int(spoilt.sum())].numpy()
    return {"image_auroc": image_auroc(spoilt, scores.numpy()), "found_among_as_many": float(spoilt[top].mean())}


def trained(method: str, product: str, seed: int, levels: list[int]) -> list[dict[str, Any]]:
    train, spoilt, test = samples(product, seed)
    found = []
    for n in levels:
        images = [s.image for s in [*train, *spoilt[:n]]]  # plain tensors have no label that could warn
        if method == "simplenet":
            scores = SimpleNet(device="cpu", seed=seed).fit(images).predict([s.image for s in test]).scores
        else:
            detector = EfficientAD(device="cpu", seed=seed, **SMALL | {"steps": STEPS})
            side = detector.image_size[0]
            both = [Sample(0, "good", f"{i}", image_source=image) for i, image in enumerate(images)]
            rest, held = hold_out(both, 0.1, seed=seed)  # the spoilt ones may be held out, too, as in practice
            detector.fit(small(rest, side), validation=small(held, side))
            scores = detector.predict(small(test, side)).scores
        auroc = image_auroc([s.label for s in test], scores)
        found.append({"method": method, "draw": 0, "spoilt": n, "image_auroc": auroc})
        print(method, product, seed, n, round(auroc, 4), flush=True)
    return found


# ---------------------------------------------------------------------- over the units


def mean_of(results: list[dict[str, Any]], method: str, spoilt: int) -> dict[tuple[str, int], float]:
    """AUROC of each unit, the mean over the draws."""
    each = [r for r in results if (r["method"], r["spoilt"]) == (method, spoilt)]
    units = sorted({(r["data"], r["seed"]) for r in each})
    return {u: float(np.mean([r["image_auroc"] for r in each if (r["data"], r["seed"]) == u])) for u in units}


def losses(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """AUROC of each method at each level, and how much lower it is than without spoilt images, over all units."""
    rows = []
    for method in dict.fromkeys(r["method"] for r in results if r["spoilt"] == 0):
        clean = mean_of(results, method, 0)
        for n in LEVELS:
            each = {u: v for u, v in mean_of(results, method, n).items() if u in clean}
            if each:
                loss = interval([clean[u] - v for u, v in each.items()])
                rows.append({"method": method, "spoilt": n, "units": len(each),
                             "image_auroc": interval([*each.values()], ends=(0, 1)), "loss": loss})  # fmt: skip
    return rows


def preference(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The share of spoilt patches among those kept, over their share in the bank, over the units."""
    rows = []
    for method in [f"{bank} {share:g}" for bank in ("greedy", "random") for share in SHARES]:
        for n in LEVELS[1:]:
            if not (each := [r for r in results if (r["method"], r["spoilt"]) == (method, n)]):
                continue
            units = sorted({(r["data"], r["seed"]) for r in each})
            kept = [np.mean([r["kept"][0] / r["patches"][0] for r in each if (r["data"], r["seed"]) == u])
                    for u in units]  # fmt: skip
            ratios = [share / float(method.split()[1]) for share in kept]
            rows.append({"method": method, "spoilt": n, "ratio": interval(ratios, ends=(0, np.inf)),
                         "least": round(min(ratios), 3), "kept_of_spoilt": interval(kept, ends=(0, 1))})  # fmt: skip
    return rows


def worse(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Loss of the greedy bank less the loss of its control, at 10 %: a family of four."""
    rows = []
    for share in SHARES:
        for control in ("full 1", f"random {share:g}"):
            four = [mean_of(results, m, n) for m in (f"greedy {share:g}", control) for n in (0, LEVELS[-1])]
            if values := [four[0][u] - four[1][u] - (four[2][u] - four[3][u]) for u in four[0]]:
                rows.append({"greedy": share, "control": control, **interval(values, 4), "units": len(values)})
    return rows


def remedy(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    each = {n: [r for r in results if (r["method"], r["spoilt"]) == ("two halves", n)] for n in REMEDY}
    keys = ("image_auroc", "found_among_as_many")
    return [{"spoilt": n, **{key: interval([r[key] for r in rows], ends=(0, 1)) for key in keys}}
            for n, rows in each.items() if rows]  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), data=tuple(KINDS), seeds=range(3))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS[:2]))
    parser.add_argument("--levels", nargs="+", type=int, choices=LEVELS, default=list(LEVELS),
                        help="of SimpleNet and EfficientAD; PatchCore has all")  # fmt: skip
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in args.seeds:
        for product in args.data or KINDS:
            for method in args.methods:
                unit = {"data": product, "seed": seed, "kind": KINDS[product][seed % 3]}
                name = "full 1" if method == "patchcore" else method
                results = common.read(args.out, {"results": []})["results"]
                there = {r["spoilt"] for r in results if (r["data"], r["seed"], r["method"]) == (product, seed, name)}
                if levels := [n for n in args.levels if n not in there]:
                    new = patchcore(product, seed) if method == "patchcore" else trained(method, product, seed, levels)
                    results = common.read(args.out, {"results": []})["results"]  # another process may have added to it
                    results += [{**unit, **r, "image_auroc": round(r["image_auroc"], 5)} for r in new]
                    save(args.out, results)
                    print(unit, method, {f"{r['method']}, {r['spoilt']}": round(r["image_auroc"], 3) for r in new},
                          flush=True)  # fmt: skip


def save(out: Path, results: list[dict[str, Any]]) -> None:
    common.write(out, {
        "name": "defective images among the training images", "command": common.command(), "threads": 1,
        "versions": common.versions(), "protocol": f"factory of the run's seed, {GOOD} good training images, joined by "
        f"0 to {LEVELS[-1]} of one structural kind; {TESTED} other images of that kind and {2 * TESTED} good ones are "
        f"tested; shipped backbone, 224 pixels; EfficientAD 128 pixels, {STEPS} steps, bfloat16; intervals over the "
        "units, t",
        "kinds": KINDS, "preference": preference(results), "worse": worse(results), "losses": losses(results),
        "remedy": remedy(results),
        "results": results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
