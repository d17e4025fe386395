"""Which image size and which features suit the shipped weights, and what do two sizes at once give?

    python -m benchmarks.accuracy.sizes --root DATA            # choose: the factory, and the tiles set apart
    python -m benchmarks.accuracy.sizes --root DATA --report   # what was chosen, on screw, bottle and the test tiles

A shorter PatchCore: no re-weighting, a greedy bank of 2,500 patches out of at most 60,000 that are drawn at random.
Factory: pictures of seed 7, 120 for the bank, 40 held out, 120 good and 120 structurally defective ones tested.
Magnetic tiles: 160 images of the training tiles for the bank, 60 of other training tiles held out, tested on the tiles
set apart for choosing (tile index mod 5 is 3). No test image of a real data set is read while choosing.

Features: the layers' numbers "2 3" of P, equations (2.1) to (2.3), as shipped; "scaled": each channel centred and
divided by its deviation over the good patches, each layer of equal weight; "whitened": turned and scaled to equal
deviations, a twentieth of the mean variance added. Scores: the largest distance, "max", or the largest mean of 3×3
distances, "mean 3". Two or three candidates at once: each score minus its mean over the held-out good images, divided
by their deviation, and added.

Fixed after trials on board, fabric and the tiles with part of these candidates, and before this run: a candidate's
figure is the mean of two numbers, the mean image AUROC of the four products and the image AUROC of the tiles set apart;
the best figure wins, a cheaper one within 0.002 of it is preferred; what wins is measured once with `--report`, seeds 0
to 4 of the bank, all training images but a tenth (of tiles: of tiles) that is held out, and nothing is changed after.

Costs are multiply-adds of the network (once for each size) and of the search, as multiples of "224, 2 3".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adlib.backbones import SHIPPED, load_backbone
from adlib.coreset import k_center_greedy, random_subset
from adlib.datasets import Sample, SyntheticFactory, hold_out, open_dataset
from adlib.factory import PRODUCTS
from adlib.features import PatchFeatures, aggregate, to_rows
from adlib.images import resize_image
from adlib.metrics import image_auroc, image_auroc_interval
from adlib.neighbors import Bank, k_nearest
from adlib.reading import working_size
from benchmarks import common

CHOOSING = (*PRODUCTS, "tiles set apart")
SINGLE = [(size, "2 3") for size in (160, 224, 320, 448)]
SINGLE += [(224, features) for features in
           ("1 2 3", "2", "2 3 scaled", "1 2 3 scaled", "2 3 whitened", "1 2 3 whitened")]  # fmt: skip
SINGLE += [(320, "2"), (320, "1 2 scaled"), (160, "3")]
SCORES = ("max", "mean 3")
ROWS, BANK, SEED, CHANNELS = 60_000, 2_500, 7, {"layer1": 48, "layer2": 96, "layer3": 192}


class Images(NamedTuple):
    train: list[Sample]
    held: list[Sample]
    test: list[Sample]


def choosing(name: str, root: Path) -> Images:
    if name in PRODUCTS:
        data = SyntheticFactory(name, n_train=160, n_validation=0, n_test=120, seed=SEED)
        test = [s for s in data.test if not s.logical]
        good, defective = ([s for s in test if s.label == label] for label in (0, 1))
        return Images(list(data.train[:120]), list(data.train[120:]), good + spread_over(defective, 120))
    data = open_dataset("magnetic_tile", root / "magnetic_tile", None)
    rest, held = hold_out(list(data.split()[0]), 0.2, seed=SEED)
    return Images(spread_over(rest, 160), spread_over(held, 60), list(data.validation))


def reported(name: str, root: Path, seed: int) -> Images:
    train, test = common.load(name, seed, root)
    rest, held = hold_out(train, 0.1, seed=seed)
    return Images(list(rest), list(held), test)


def spread_over(samples: list[Sample], count: int) -> list[Sample]:
    return [samples[i] for i in np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)]


# ---------------------------------------------------------------------- features


class Looked(NamedTuple):
    """What the network gives: the layers' neighbourhood means at their own grids, float16."""

    layers: dict[str, Tensor]

    def features(self, numbers: Sequence[str]) -> Iterator[Tensor]:
        """Eight images at a time, the layers brought to the grid of the finer of layers 2 and 3 (b, C, h, w)."""
        names = [f"layer{n}" for n in numbers]
        height, width = self.layers["layer3" if names == ["layer3"] else "layer2"].shape[-2:]
        for parts in zip(*(self.layers[name].split(8) for name in names), strict=True):
            yield torch.cat([to_grid(x.float(), (height, width)) for x in parts], 1)


def to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    if x.shape[-1] > grid[-1]:
        return F.adaptive_avg_pool2d(x, grid)
    return x if x.shape[-2:] == grid else F.interpolate(x, grid, mode="bilinear", align_corners=False)


def looked(samples: list[Sample], size: tuple[int, int]) -> Looked:
    names = list(CHANNELS)
    features = PatchFeatures(load_backbone(SHIPPED, names, image_size=size), names)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for i in range(0, len(samples), 16):
        images = torch.stack([resize_image(s.image, size) for s in samples[i : i + 16]])
        x = ((images - features.mean) / features.std).contiguous(memory_format=torch.channels_last)
        for name, output in features.backbone(x).items():
            found[name].append(aggregate(output, 3).half())
    return Looked({name: torch.cat(parts) for name, parts in found.items()})


def change(features: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (C,) and matrix (C, C) of what is done to a row, learnt from good patches (N, C)."""
    zero, same = rows.new_zeros(rows.shape[1]), torch.eye(rows.shape[1])
    if "scaled" in features:
        weight = torch.cat([torch.full((CHANNELS[f"layer{n}"],), CHANNELS[f"layer{n}"] ** -0.5)
                            for n in features.split()[:-1]])  # fmt: skip
        return rows.mean(0), torch.diag(weight / rows.std(0).clamp_min(1e-6))  # a channel may be 0 everywhere
    if "whitened" in features:
        variance, directions = torch.linalg.eigh(torch.cov(rows.T).double())
        return rows.mean(0), (directions / (variance + 0.05 * variance.mean()).sqrt()).float()
    return zero, same


def patch_scores(features: str, train: Looked, others: Sequence[Looked], seed: int) -> list[Tensor]:
    """Distances of all patches of the other images to a bank of the training images' patches, each (N, h, w)."""
    numbers = [word for word in features.split() if word.isdigit()]
    rows = torch.cat([to_rows(x) for x in train.features(numbers)])
    rows = rows[random_subset(rows, min(ROWS, len(rows)), seed=seed)]
    mean, matrix = change(features, rows)
    rows = (rows - mean) @ matrix
    bank, found = Bank(rows[k_center_greedy(rows, BANK, seed=seed)]), []
    for images in others:
        parts = []
        for x in images.features(numbers):
            distances, _ = k_nearest((to_rows(x) - mean) @ matrix, bank)
            parts.append(distances.view(len(x), *x.shape[-2:]))
        found.append(torch.cat(parts))
    return found


def image_scores(maps: Tensor) -> dict[str, Tensor]:
    mean = F.avg_pool2d(maps[:, None], 3, 1, 1, count_include_pad=False)
    return {"max": maps.amax((1, 2)), "mean 3": mean.amax((1, 2, 3))}


def search(size: int, features: str) -> float:
    """What searching the bank costs, cells times channels."""
    numbers = [word for word in features.split() if word.isdigit()]
    return (size / (16 if numbers == ["3"] else 8)) ** 2 * sum(CHANNELS[f"layer{n}"] for n in numbers)


# ---------------------------------------------------------------------- runs


def scored(images: Images, single: Sequence[tuple[int, str]], seeds: Sequence[int]) -> dict[str, dict[str, list]]:
    """Standardised image scores of the test images for each candidate, score and seed: "224, 2 3, max" to lists."""
    found: dict[str, dict[str, list]] = {}
    for size in dict.fromkeys(size for size, _ in single):
        sides = working_size(images.train, size, 32)
        train, held, test = (looked(part, sides) for part in images)
        for features in [f for s, f in single if s == size]:
            for seed in seeds:
                usual, scores = (image_scores(m) for m in patch_scores(features, train, (held, test), seed))
                for name in SCORES:
                    z = (scores[name] - usual[name].mean()) / usual[name].std()
                    found.setdefault(f"{size}, {features}, {name}", {})[str(seed)] = [float(f"{v:.4g}") for v in z]
    return found


def added(scores: dict[str, dict[str, list]], names: Sequence[str], seed: str) -> np.ndarray:
    return np.sum([scores[name][seed] for name in names], axis=0)


def table(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One, two or three candidates at once, with one way of scoring, the best figure first."""
    units, rows = report["choosing"], []
    names = list(next(iter(units.values()))["scores"])
    for count in (1, 2, 3):
        for some in combinations(names, count):
            if len({name.split(", ")[2] for name in some}) > 1:
                continue
            auroc = {unit: round(image_auroc(np.array(u["label"]), added(u["scores"], some, str(SEED))), 4)
                     for unit, u in units.items()}  # fmt: skip
            products = float(np.mean([auroc[p] for p in PRODUCTS]))
            parts = [name.split(", ") for name in some]
            network = sum((size / 224) ** 2 for size in {int(size) for size, *_ in parts})
            rows.append({"candidate": list(some), "image_auroc": auroc, "products": round(products, 4),
                         "figure": round((products + auroc[CHOOSING[-1]]) / 2, 4),
                         "network": round(network, 2),
                         "search": round(sum(search(int(s), f) for s, f, _ in parts) / search(224, "2 3"), 2),
                         })  # fmt: skip
    return sorted(rows, key=lambda row: -row["figure"])


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), data=[*CHOOSING, *common.REAL])
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        for name in args.data or (list(common.REAL) if args.report else CHOOSING):
            choose(args.out, name, args.root) if not args.report else measure(args.out, name, args.root)


def choose(out: Path, name: str, root: Path) -> None:
    if name in common.read(out, {}).get("choosing", {}):
        return
    images = choosing(name, root)
    found = {"label": [s.label for s in images.test], "scores": scored(images, SINGLE, [SEED])}
    report = common.read(out, {"choosing": {}, "reported": {}})
    report["choosing"][name] = found
    save(out, report)


def measure(out: Path, name: str, root: Path) -> None:
    """The chosen candidate, and the default size with the same bank, on test images."""
    report = common.read(out, {})
    if "chosen" not in report:
        raise SystemExit(f"{out.name} names no candidate: run without --report first, on {', '.join(CHOOSING)}")
    if name in report["reported"]:
        return
    results = []
    ways = {"one size": ["224, 2 3, max"], "chosen": report["chosen"]}
    single = [(int(size), features) for size, features, _ in
              dict.fromkeys(tuple(c.split(", ")) for way in ways.values() for c in way)]  # fmt: skip
    for seed in range(5 if name != "magnetic_tile" else 3):
        images = reported(name, root, seed)
        scores, label = scored(images, single, [seed]), np.array([s.label for s in images.test])
        for way, candidate in ways.items():
            total = added(scores, candidate, str(seed))
            low, high = image_auroc_interval(label, total, groups=[s.group for s in images.test])
            results.append({"way": way, "seed": seed, "train": len(images.train), "value": image_auroc(label, total),
                            "low": low, "high": high, "by_kind": common.by_kind(images.test, total)})  # fmt: skip
            print(name, results[-1], flush=True)
    report = common.read(out, {})
    report["reported"][name] = results
    save(out, report)


def save(out: Path, report: dict[str, Any]) -> None:
    if all(name in report["choosing"] for name in CHOOSING):
        rows = table(report)
        near = [row for row in rows if row["figure"] >= rows[0]["figure"] - 0.002]
        report["table"] = [*rows[:12], *[row for row in rows[12:] if len(row["candidate"]) == 1]]
        report["tried"] = len(rows)
        report["chosen"] = min(near, key=lambda row: (row["network"], row["search"]))["candidate"]
    common.write(out, {
        "name": "image sizes and features for the shipped weights", "command": common.command(root="DATA"),
        "versions": common.versions(), "threads": 1, "seeds": [SEED],
        "protocol": "greedy bank of 2,500 patches out of at most 60,000; scores standardised by held-out good images",
        **{key: report[key] for key in ("chosen", "tried", "table", "reported", "choosing") if key in report},
    }, compact=True)  # fmt: skip


if __name__ == "__main__":
    main()
