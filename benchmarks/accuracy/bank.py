"""Measure what the choice and the size of PatchCore's bank do, and write the figures as JSON.

    python -m benchmarks.accuracy.bank                        # the factory's four products, five seeds each
    python -m benchmarks.accuracy.bank --data fabric --seeds 0

Every bank of one product and seed scores the same images by the same features (224 pixels, layer2 and layer3, p = 3,
b = 9), computed once: "greedy" is `k_center_greedy`, "random" two draws of `random_subset` (one above a tenth),
"k-means" five rounds of Lloyd's from a random draw, each at several shares of the bank; in a "mixed" bank the first
tenth of the places goes to the first greedy centres and the rest to a random draw; "p = 1" and "p = 5" are greedy banks
of a tenth with another neighbourhood. On fabric, seed 0, the AUROC is asserted to be that of `PatchCore`. Structural
defects only. Beside each AUROC stand three distances of held-out normal patches to the bank: their mean, the mean over
the images of the largest one of an image ("peak"), and the largest of all. A run that is in the file is not done again.

What is asked was fixed before the runs, after a look at seed 7, which is in no table. A difference is taken within a
seed, between banks that score the same images; the mean over the seeds has a t-interval of four degrees of freedom,
since with the seed the pictures, the bank and the draws change. Intervals of one family hold together (Bonferroni).

1. Greedy less random at equal size: all shares below 1 and all products are one family.
2. Why? Three controls at 1 % and 10 % of the bank, each over four products a family of eight. If the *mean* distance
   of normal patches decided, k-means, whose mean is the smallest, would not be worse than greedy. If the *peak*
   decided, a random bank so large that its peak is that of the greedy bank would have its AUROC: interpolated between
   the sizes, "explained" is said where the interval of the difference lies within ±0.03. If a random bank fails for
   the rare patches that it lacks, the mixed bank, which has the rarest, gains on it, at nine tenths random.
3. A bank of 1 % less one of 10 %, greedy: four products, one family. A sparser bank raises all scores; "margin" is by
   how much more it raises those of the defects (mean of the kinds' medians) than those of the good images (mean).
4. p = 1 less p = 3, and p = 5 less p = 3, at a tenth: four products, one family. If a smaller neighbourhood is better
   because it dilutes a small defect less, it gains more on the defects whose mask is below the median area: the
   difference of the two gains, four products, one family.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from adlib import PatchCore
from adlib.backbones import load_backbone
from adlib.coreset import k_center_greedy, random_subset
from adlib.datasets import Sample, SyntheticFactory, in_memory
from adlib.factory import PRODUCTS
from adlib.features import PatchFeatures, to_rows
from adlib.images import resize_image
from adlib.metrics import image_auroc
from adlib.neighbors import Bank, k_nearest
from adlib.patchcore import reweight
from benchmarks import common

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
MEANS = SHARES[:5]  # of k-means, which takes long for large banks
DRAWS, ROUNDS = 2, 5
SIZES = {"n_train": 30, "n_validation": 20, "n_test": 40, "n_defect": 42}


def look(samples: Sequence[Sample], neighbourhood: int = 3) -> Tensor:
    """Patch features (n, P, C), in batches as `PatchCore` makes them: other sums would round otherwise."""
    extractor = PatchFeatures(load_backbone("adlib_resnet18"), neighbourhood=neighbourhood)
    images = torch.stack([resize_image(s.image, (224, 224)) for s in samples])
    with torch.inference_mode():
        rows = torch.cat([to_rows(extractor(batch)) for batch in images.split(16)])
    return rows.clone().view(len(samples), -1, rows.shape[1])


def search(queries: Tensor, bank: Tensor, sizes: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The nearest of the first `size` rows of the bank, for each size in turn: distances (n, P) and indices (n, P)."""
    flat, start = queries.flatten(0, 1), 0
    best, at = torch.full((len(flat),), torch.inf), torch.zeros(len(flat), dtype=torch.long)
    for size in sizes:
        if size > start:
            distance, index = (found[:, 0] for found in k_nearest(flat, bank[start:size]))
            nearer = distance < best
            best, at = torch.where(nearer, distance, best), torch.where(nearer, index + start, at)
        start = size
        yield size, best.view(queries.shape[:2]), at.view(queries.shape[:2])


def image_scores(queries: Tensor, bank: Tensor, distances: Tensor, index: Tensor) -> Tensor:
    """Equations (2.13) and (2.14), as `PatchCore.score` has them: (n,)."""
    scores, worst = distances.max(1)
    b = min(9, len(bank))
    if b == 1:
        return scores
    every = torch.arange(len(queries))
    _, around = k_nearest(bank[index[every, worst]], Bank(bank), b)
    return reweight(scores, (queries[every, worst][:, None] - bank[around]).square().sum(2).sqrt())


def k_means(rows: Tensor, k: int, seed: int) -> Tensor:
    """Centres (k, C) after some rounds of Lloyd's algorithm; one that nobody is nearest to stays where it is."""
    centres = rows[random_subset(rows, k, seed=seed)].clone()
    for _ in range(ROUNDS):
        nearest = k_nearest(rows, centres)[1][:, 0]
        count = torch.bincount(nearest, minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], centres)
    return centres


class Images:
    """The held-out normal and the test images of one product and seed, and what a bank makes of them."""

    def __init__(self, test: Sequence[Sample], held: int) -> None:
        self.test, self.held, self.label = test, held, np.array([s.label for s in test])
        self.kind, self.area = np.array([s.kind for s in test]), np.array([int(s.mask.sum()) for s in test])
        self.results: list[dict[str, Any]] = []

    def measure(self, name: str, draw: int, share: float, queries: Tensor, bank: Tensor, d: Tensor, at: Tensor) -> None:
        """Score the images by one bank, from the distances `d` and nearest rows `at` of their patches."""
        scores = image_scores(queries, bank, d, at)[self.held :].numpy()
        normal, good = d[: self.held], scores[self.label == 0]
        self.results.append({
            "bank": name, "draw": draw, "share": share, "patches": len(bank),
            "image_auroc": round(image_auroc(self.label, scores), 5), "by_kind": common.by_kind(self.test, scores),
            "by_area": self.by_area(scores), "good": [round(float(x), 4) for x in (good.mean(), good.std(ddof=1))],
            "median": {k: round(float(np.median(scores[self.kind == k])), 4) for k in dict.fromkeys(self.kind)},
            "normal": {"mean": round(normal.mean().item(), 4), "peak": round(normal.amax(1).mean().item(), 4),
                       "largest": round(normal.max().item(), 4)},
        })  # fmt: skip

    def by_area(self, scores: np.ndarray) -> list[float]:
        """AUROC of the defects whose mask is smaller than the median, and of the others."""
        small = self.area < np.median(self.area[self.label == 1])
        rows = [(self.label == 0) | (self.label == 1) & part for part in (small, ~small)]
        return [round(image_auroc(self.label[r], scores[r]), 4) for r in rows]

    def nested(self, name: str, draw: int, queries: Tensor, ordered: Tensor, of: int, shares: Sequence[float]) -> None:
        """Banks that are the first rows of `ordered`, each a share of all `of` rows, scored in one pass."""
        sizes = [max(1, int(share * of)) for share in shares]
        for share, (size, d, at) in zip(shares, search(queries, ordered, sizes), strict=True):
            self.measure(name, draw, share, queries, ordered[:size], d, at)


def run(product: str, seed: int) -> Images:
    data = SyntheticFactory(product, seed=seed, **SIZES)
    train, held = in_memory(data.train), in_memory(data.validation)
    test = in_memory([s for s in data.test if not s.logical])
    images = Images(test, len(held))
    rows, queries = look(train).flatten(0, 1), look([*held, *test])
    few = SHARES[:-1]
    greedy = k_center_greedy(rows, int(few[-1] * len(rows)), seed=seed)
    images.nested("greedy", 0, queries, rows[greedy], len(rows), few)
    for draw in range(DRAWS):
        drawn = random_subset(rows, len(rows), seed=seed + 1000 * draw)
        images.nested("random", draw, queries, rows[drawn], len(rows), SHARES[:5] if draw else SHARES)
    for share in (0.01, 0.1):
        size = int(share * len(rows))
        drawn = random_subset(rows, len(rows), seed=seed)
        mixed = torch.cat([greedy[: size // 10], drawn[~torch.isin(drawn, greedy[: size // 10])][: size - size // 10]])
        images.nested("mixed", 0, queries, rows[mixed], len(rows), [share])
    for share in MEANS:
        centres = k_means(rows, max(1, int(share * len(rows))), seed)
        _, d, at = next(search(queries, centres, [len(centres)]))
        images.measure("k-means", 0, share, queries, centres, d, at)
    for p in (1, 5):
        rows, queries = look(train, p).flatten(0, 1), look([*held, *test], p)
        greedy = k_center_greedy(rows, int(0.1 * len(rows)), seed=seed)
        images.nested(f"p = {p}", 0, queries, rows[greedy], len(rows), [0.1])
    if (product, seed) == ("fabric", 0):
        for selection in ("greedy", "random"):
            detector = PatchCore(selection=selection, device="cpu", seed=seed).fit(train)
            here = next(r for r in images.results if (r["bank"], r["draw"], r["share"]) == (selection, 0, 0.1))
            scores = detector.predict(test).scores
            assert here["patches"] == len(detector.memory_bank)
            assert abs(here["image_auroc"] - image_auroc(images.label, scores)) < 1e-5, "not PatchCore's scores"
    return images


# ---------------------------------------------------------------------- differences over the seeds


def interval(values: Sequence[float], family: int = 1, ends: tuple[float, float] = (-1, 1)) -> dict[str, float]:
    """The mean over the seeds and the t-interval that holds with 95 % for `family` such means together."""
    n, mean = len(values), float(np.mean(values))
    half = stats.t.ppf(1 - 0.025 / family, n - 1) * np.std(values, ddof=1) / np.sqrt(n) if n > 1 else np.inf
    low, high = max(mean - half, ends[0]), min(mean + half, ends[1])
    return {"value": round(mean, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def mean_of(runs: list[dict[str, Any]], bank: str, share: float, measure: str = "image_auroc") -> np.ndarray:
    """One value a seed (n,), the mean over the draws."""
    def flat(r: dict[str, Any]) -> dict[str, Any]:
        (small, large), defects = r["by_area"], [value for kind, value in r["median"].items() if kind != "good"]
        return {**r, **r["normal"], "small": small, "large": large, "margin": np.mean(defects) - r["good"][0]}

    found = [[flat(r)[measure] for r in each["banks"] if (r["bank"], r["share"]) == (bank, share)] for each in runs]
    return np.array([np.mean(values) for values in found])


def at_equal_peak(runs: list[dict[str, Any]], share: float) -> np.ndarray:
    """For each seed, the AUROC of a random bank whose peak is that of the greedy bank, between the sizes measured."""
    curve = [[mean_of(runs, "random", s, m) for s in SHARES] for m in ("peak", "image_auroc")]
    peaks, values = (np.array(part).T for part in curve)  # (seeds, shares)
    wanted = mean_of(runs, "greedy", share, "peak")
    return np.array([np.interp(-w, -p, v) for w, p, v in zip(wanted, peaks, values, strict=True)])


def differences(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_product = {p: [r for r in runs if r["data"] == p] for p in PRODUCTS if any(r["data"] == p for r in runs)}
    found: list[tuple[str, str, float, np.ndarray]] = []
    for product, each in by_product.items():
        for share in SHARES[:-1]:
            gain = mean_of(each, "greedy", share) - mean_of(each, "random", share)
            found.append(("greedy less random", product, share, gain))
        for share in (0.01, 0.1):
            greedy, equal = mean_of(each, "greedy", share), at_equal_peak(each, share)
            found.append(("mean: greedy less k-means", product, share, greedy - mean_of(each, "k-means", share)))
            found.append(("peak: greedy less random of equal peak", product, share, greedy - equal))
            gain = mean_of(each, "mixed", share) - mean_of(each, "random", share)
            found.append(("rare: mixed less random", product, share, gain))
        tenth = mean_of(each, "greedy", 0.1)
        found.append(("1 % less 10 %", product, 0.01, mean_of(each, "greedy", 0.01) - tenth))
        margin = [mean_of(each, "greedy", share, "margin") for share in (0.01, 0.1)]
        found.append(("margin: 1 % less 10 %", product, 0.01, margin[0] - margin[1]))
        found += [(f"p: {p} less 3", product, 0.1, mean_of(each, f"p = {p}", 0.1) - tenth) for p in (1, 5)]
        gains = [mean_of(each, "p = 1", 0.1, m) - mean_of(each, "greedy", 0.1, m) for m in ("small", "large")]
        found.append(("area: gain of 1 over 3, small less large", product, 0.1, gains[0] - gains[1]))
    families = [name.partition(":")[0] for name, *_ in found]
    return [{"difference": name, "data": product, "share": share, "family": families.count(family),
             **interval(values, families.count(family)), "seeds": [round(v, 4) for v in values]}
            for family, (name, product, share, values) in zip(families, found, strict=True)]  # fmt: skip


def levels(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The AUROC of each bank and its normal distances, means over the seeds; the intervals are of one mean each."""
    names = dict.fromkeys((r["data"], b["bank"], b["share"]) for r in runs for b in r["banks"])
    rows = []
    for product, bank, share in names:
        each = [r for r in runs if r["data"] == product]
        distances = {m: round(float(mean_of(each, bank, share, m).mean()), 3)
                     for m in ("mean", "peak", "largest")}  # fmt: skip
        auroc = interval(list(mean_of(each, bank, share)), ends=(0, 1))
        rows.append({"data": product, "bank": bank, "share": share, **auroc, "normal": distances})
    return rows


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), data=tuple(PRODUCTS), seeds=range(5))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for seed in args.seeds:
        for product in args.data or PRODUCTS:
            if any((r["data"], r["seed"]) == (product, seed) for r in common.read(args.out, {"runs": []})["runs"]):
                continue
            images = run(product, seed)
            runs = common.read(args.out, {"runs": []})["runs"]  # again: another process may have added to it
            runs.append({"data": product, "seed": seed, "banks": images.results})
            save(args.out, sorted(runs, key=lambda r: (r["data"], r["seed"])))
            print(product, seed, {f"{r['bank']} {r['share']:g}": r["image_auroc"] for r in images.results}, flush=True)


def save(out: Path, runs: list[dict[str, Any]]) -> None:
    common.write(out, {
        "name": "the bank of PatchCore", "command": common.command(), "versions": common.versions(), "threads": 1,
        "protocol": f"factory of the run's seed, {SIZES['n_train']} training images, {SIZES['n_validation']} held-out "
        f"normal ones, {SIZES['n_test']} good and {SIZES['n_defect']} structurally defective test images; shipped "
        "backbone at 224 pixels; each interval over the seeds, t with n − 1 degrees of freedom, corrected for its "
        "family", "seeds": sorted({r["seed"] for r in runs}), "differences": differences(runs), "levels": levels(runs),
        "runs": runs,
    }, compact=True)  # fmt: skip


if __name__ == "__main__":
    main()
