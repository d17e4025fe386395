"""Why does SimpleNet fail on board? Take each suspected cause away, and see whether the AUROC rises there alone.

    python -m benchmarks.accuracy.simplenet_board --choose    # every suspicion, on board, pictures of seed 7
    python -m benchmarks.accuracy.simplenet_board             # what rose most there: three seeds, three products

Fixed before the first run. A manipulation explains the failure if it raises the image AUROC on board, mean of the
factory's seeds 0 to 2, by a margin whose simultaneous 95 % interval (images and seeds drawn anew; Bonferroni over all
manipulations that were tried, and not only those that are measured here) excludes 0, and if the rise on board is larger
than on fabric and on washer, where SimpleNet works, by the same standard. What is tried:

    wide         four times the width of the discriminator: D is too small for so many kinds of patch
    quarters     four heads, one for each quarter of the picture: a quarter of the kinds of patch for each
    whitened     features turned and scaled to equal deviations: noise in directions that do not vary
    residual     features minus the nearest of 64 k-means centres: many clusters
    even         trained on a greedy 10 % coreset instead of all patches, as many steps, the same noise: the loss is a
                 mean over patches, so what is rare among good patches hardly counts
    random       the control of "even": 10 % drawn at random
    half noise   half of the noise
    position     patch scores standardised by mean and deviation of their cell over the training images: some places
                 score high on every board
    top 8        the mean of the eight largest patch scores instead of the largest: single cells

Added when "quarters" had risen by 0.08 on seed 7, and fixed before these ran:

    interleaved  four heads as well, but each has every second row and column of cells
    interleaved 16: 16 heads, each with every fourth row and column
    clusters, clusters 16, clusters 64: a head for each of so many k-means clusters of patches, wherever they lie:
                 kinds, not places
    residual, same noise: as "residual", but with the noise of the default, as half of the noise had cost 0.12
    double noise

Added when "interleaved 16" had risen almost as much as "clusters 16". It is no control: boards lie alike, so every
fourth row and column of cells are 49 places of 784, and each shows its own few kinds of patch. Fixed before it ran:

    scattered 16 the control of all splits: 16 heads, as many rows, but each patch belongs to a head drawn at random,
                 while training and while scoring, so that each head meets all kinds

Beside them, without training: distances to a greedy and to a random 10 % bank and the Mahalanobis distance, in the same
features; and the chance that a defect scores higher than the same cells of a good picture ("at the defect").

Five passes and not the default's 20, the rate falling to 0 over them. On three seeds and products we measure what rose
most on seed 7, "clusters 16", with its control, and of what trains nothing anew, "position".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn import functional as F

from adlib.coreset import k_center_greedy
from adlib.metrics import image_auroc
from adlib.neighbors import k_nearest
from adlib.simplenet import Head, fold, noise_level, score_patches, train_head
from benchmarks import common
from benchmarks.accuracy.simplenet import Data

PRODUCTS = ("board", "fabric", "washer")
ROWS = 3136  # a step: four images of 784 patches
PASSES = 5


class Case:
    """The features of one product and seed, the default head, and its patch scores (n, P)."""

    def __init__(self, data: Data, seed: int) -> None:
        self.seed, self.train, self.test, self.samples = seed, data.train_features, data.test_features, data.test
        self.sigma = noise_level(self.train)

    @cached_property
    def head(self) -> Head:
        return train_head(self.train, noise=self.sigma, seed=self.seed, epochs=PASSES)

    @cached_property
    def scores(self) -> Tensor:
        return scored(self.head, self.test)

    def retrained(self, change: Callable[[Tensor], Tensor], **options: Any) -> Tensor:
        """The patch scores after training on changed features, noise by the rule, test features changed alike."""
        return scored(train_head(change(self.train), seed=self.seed, epochs=PASSES, **options), change(self.test))

    def subset(self, chosen: Tensor) -> Tensor:
        """The patch scores after as many steps, of as many rows and with the same noise, on chosen patches alone."""
        rows = self.train.flatten(0, 1)[chosen]
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.seed))]
        size = ROWS // 32
        groups = rows[: len(rows) // size * size].view(-1, size, rows.shape[1])
        steps = PASSES * -(-len(self.train) // 4)
        epochs = round(steps / -(-len(groups) // 32))
        head = train_head(groups, noise=self.sigma, seed=self.seed, images_per_step=32, epochs=epochs)
        return scored(head, self.test)


def scored(head: Head, features: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([score_patches(image, *fold(head)) for image in features])


# ---------------------------------------------------------------------- the manipulations


def wide(case: Case) -> Tensor:
    return case.retrained(lambda x: x, hidden=4 * case.head.first.out_features)


def split(case: Case, n: int, *, blocks: bool) -> Tensor:
    """n² heads: one for each block of cells, or one for every n-th row and column."""
    side = int(case.train.shape[1] ** 0.5)
    line = torch.arange(side) * n // side if blocks else torch.arange(side) % n
    owner = (line[:, None] * n + line).flatten()
    result = case.test.new_empty(case.test.shape[:2])
    for cells in (owner == i for i in range(n * n)):
        head = train_head(case.train[:, cells], noise=case.sigma, seed=case.seed, epochs=PASSES)
        result[:, cells] = scored(head, case.test[:, cells])
    return result


def clusters(case: Case, count: int) -> Tensor:
    """A head for each k-means cluster of patches."""
    some = case.train.flatten(0, 1)[::8].numpy()
    centres = torch.from_numpy(kmeans2(some, count, iter=20, minit="++", seed=case.seed)[0])
    return owned(case, *(torch.cat([torch.cdist(part, centres).argmin(1) for part in x.flatten(0, 1).split(ROWS)])
                         for x in (case.train, case.test)))  # fmt: skip


def scattered(case: Case, count: int) -> Tensor:
    draws = torch.Generator().manual_seed(case.seed)
    return owned(case, *(torch.randint(count, (x[..., 0].numel(),), generator=draws) for x in (case.train, case.test)))


def owned(case: Case, owner: Tensor, owner_tested: Tensor) -> Tensor:
    """A head for each owner of patches; as many steps as by default, each with as large a share of the rows."""
    rows, tested = case.train.flatten(0, 1), case.test.flatten(0, 1)
    result, generator = torch.empty(len(tested)), torch.Generator().manual_seed(case.seed)
    for i in range(int(owner.max()) + 1):
        own = rows[owner == i]
        own = own[torch.randperm(len(own), generator=generator)]
        images = min(len(case.train), len(own))
        own = own[: len(own) // images * images].view(images, -1, own.shape[1])
        head = train_head(own, noise=case.sigma, seed=case.seed, epochs=PASSES)
        result[owner_tested == i] = scored(head, tested[None, owner_tested == i])[0]
    return result.view(case.test.shape[:2])


def whitened(case: Case) -> Tensor:
    rows = case.train.flatten(0, 1)
    variance, directions = torch.linalg.eigh(torch.cov(rows.T).double())
    to = (directions / (variance + 0.01 * variance.mean()).sqrt()).float()
    return case.retrained(lambda x: (x - rows.mean(0)) @ to)


def residual(case: Case, *, same_noise: bool = False) -> Tensor:
    rows = case.train.flatten(0, 1)[::8]
    centres = torch.from_numpy(kmeans2(rows.numpy(), 64, iter=20, minit="++", seed=case.seed)[0])

    def change(x: Tensor) -> Tensor:
        return torch.stack([image - centres[torch.cdist(image, centres).argmin(1)] for image in x])

    return case.retrained(change, noise=case.sigma if same_noise else None)


def even(case: Case) -> Tensor:
    rows = case.train.flatten(0, 1)
    return case.subset(k_center_greedy(rows, len(rows) // 10, seed=case.seed))


def random(case: Case) -> Tensor:
    count = case.train.shape[0] * case.train.shape[1]
    return case.subset(torch.randperm(count, generator=torch.Generator().manual_seed(case.seed + 1))[: count // 10])


def noise(case: Case, times: float) -> Tensor:
    return case.retrained(lambda x: x, noise=times * case.sigma)


def position(case: Case) -> Tensor:
    usual = scored(case.head, case.train)
    return (case.scores - usual.mean(0)) / usual.std(0)


def top_8(case: Case) -> Tensor:
    return case.scores.topk(8, 1).values.mean(1, keepdim=True)


MANIPULATIONS: dict[str, Callable[[Case], Tensor]] = {
    "top 8": top_8, "position": position, "even": even, "random": random, "whitened": whitened, "residual": residual,
    "quarters": partial(split, n=2, blocks=True), "interleaved": partial(split, n=2, blocks=False),
    "interleaved 16": partial(split, n=4, blocks=False),
    "clusters": partial(clusters, count=4), "clusters 16": partial(clusters, count=16),
    "clusters 64": partial(clusters, count=64), "scattered 16": partial(scattered, count=16),
    "residual, same noise": partial(residual, same_noise=True),
    "half noise": partial(noise, times=0.5), "double noise": partial(noise, times=2), "wide": wide,
}  # fmt: skip
CONTROLS = {"even": "random", **dict.fromkeys(("interleaved 16", "clusters 16"), "scattered 16")}
GO_ON = ["position", "clusters 16", "scattered 16"]
TRIED = len(set(MANIPULATIONS) - set(CONTROLS.values()))

# ---------------------------------------------------------------------- beside them


def mahalanobis(case: Case) -> Tensor:
    rows = case.train.flatten(0, 1).double()
    covariance = torch.cov(rows.T)
    covariance.diagonal().add_(1e-6 * covariance.diagonal().mean())  # fabric has channels that never vary
    mean, factor = rows.mean(0), torch.linalg.cholesky(covariance)
    return torch.stack([torch.linalg.solve_triangular(factor, (image.double() - mean).T, upper=False).norm(dim=0)
                        for image in case.test])  # fmt: skip


def distances(case: Case, chosen: Tensor) -> Tensor:
    bank = case.train.flatten(0, 1)[chosen]
    return k_nearest(case.test.flatten(0, 1), bank, 1)[0].view(case.test.shape[:2])


def at_the_defect(case: Case, scores: Tensor) -> float:
    """The chance that the largest score on a defect exceeds the largest on the same cells of a good picture."""
    side, good, chances = int(scores.shape[1] ** 0.5), torch.tensor([s.label == 0 for s in case.samples]), []
    for sample, values in zip(case.samples, scores, strict=True):
        if sample.label == 1 and sample.mask is not None:
            cells = F.adaptive_max_pool2d(torch.as_tensor(sample.mask)[None].float(), side).flatten() > 0
            here, there = values[cells].max(), scores[good][:, cells].amax(1)
            chances.append(float(((here > there).float() + 0.5 * (here == there).float()).mean()))
    return round(float(np.mean(chances)), 4)


def measured(case: Case, scores: Tensor, *, keep: bool) -> dict[str, Any]:
    label, image = np.array([s.label for s in case.samples]), scores.amax(1).numpy()
    result = {"image_auroc": round(image_auroc(label, image), 4), "by_kind": common.by_kind(case.samples, image)}
    if scores.shape[1] > 1:
        result["at_the_defect"] = at_the_defect(case, scores)
    if keep:
        result |= {name: [float(f"{s:.5g}") for s in image[label == i]] for i, name in enumerate(("good", "defective"))}
    return result


# ---------------------------------------------------------------------- differences


def drawn(pairs: list[tuple[dict[str, Any], dict[str, Any]]], key: int, resamples: int = 4000) -> np.ndarray:
    """AUROC of the first minus that of the second of each pair, one pair a seed: the mean over seeds and images that
    are drawn anew (resamples,)."""
    rng = np.random.default_rng(key)
    each = []  # (seeds, resamples)
    for pair in pairs:
        goods, bads = (np.array([run[name] for run in pair]) for name in ("good", "defective"))  # (2, n)
        higher = [(bad[:, None] > good) + 0.5 * (bad[:, None] == good) for good, bad in zip(goods, bads, strict=True)]
        change = higher[0] - higher[1]  # its mean is the difference of the AUROCs
        weights = [rng.multinomial(n, np.full(n, 1 / n), resamples) / n for n in change.shape]
        each.append(((weights[0] @ change) * weights[1]).sum(1))
    take = rng.integers(len(pairs), size=(len(pairs), resamples))
    return np.take_along_axis(np.array(each), take, 0).mean(0)


def differences(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each manipulation less the default, and less its control: mean, interval, and the rise on board less the rise
    elsewhere. All intervals are for as many comparisons as manipulations were tried."""
    tail = 2.5 / TRIED
    found: list[dict[str, Any]] = []
    runs = {(r["data"], r["what"], r["seed"]): r for r in results}
    for what in MANIPULATIONS:
        for other in ("default", CONTROLS.get(what)):
            board: np.ndarray | None = None
            for data in PRODUCTS:
                seeds = [s for d, w, s in runs if (d, w) == (data, what) and (data, other, s) in runs]
                if len(seeds) < 2:
                    continue
                pairs = [(runs[data, what, s], runs[data, other, s]) for s in seeds]
                values = [a["image_auroc"] - b["image_auroc"] for a, b in pairs]
                draws = drawn(pairs, PRODUCTS.index(data))
                row = {"data": data, "what": what, "minus": other, "by_seed": values, "value": float(np.mean(values))}
                for name, some in {"": draws, "board_more_": None if board is None else board - draws}.items():
                    if some is not None:
                        low, high = np.percentile(some, (tail, 100 - tail))
                        row |= {f"{name}low": float(low), f"{name}high": float(high)}
                found.append(row)
                board = draws if data == "board" else board
    return [{k: round(v, 4) if isinstance(v, float) else [round(x, 4) for x in v] if k == "by_seed" else v
             for k, v in row.items()} for row in found]  # fmt: skip


# ---------------------------------------------------------------------- runs


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), "with --choose, _choices is added to it",
                              data=PRODUCTS, seeds=range(3))  # fmt: skip
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--only", nargs="+", choices=MANIPULATIONS)
    args = parser.parse_args()
    out = args.out.with_stem(args.out.stem + "_choices") if args.choose else args.out
    only = args.only or (list(MANIPULATIONS) if args.choose else GO_ON)
    results = common.read(out, {"results": []})["results"]
    for seed in [7] if args.choose else args.seeds:
        for name in args.data or (["board"] if args.choose else PRODUCTS):
            done = {r["what"] for r in results if (r["data"], r["seed"]) == (name, seed)}
            if done.issuperset(only):
                continue
            case = Case(Data(*common.load(name, seed, None)), seed)
            for what, scores in everything(case, only, args.choose):
                if what not in done:
                    found = {"data": name, "seed": seed, "what": what}
                    found |= measured(case, scores(), keep=not args.choose)
                    results.append(found)
                    print({key: value for key, value in found.items() if key not in ("good", "defective")}, flush=True)
                    write(out, results, args.choose)
    write(out, results, args.choose, [] if args.choose else differences(results))


def everything(case: Case, only: list[str], banks: bool) -> list[tuple[str, Callable[[], Tensor]]]:
    """Name and maker of patch scores: SimpleNet as it is, what is beside it, and the manipulations."""
    count = case.train.shape[0] * case.train.shape[1]
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(case.seed))[: count // 10]
    all_ = [("default", lambda: case.scores), ("mahalanobis", lambda: mahalanobis(case))]
    all_ += [(what, partial(MANIPULATIONS[what], case)) for what in only]
    if banks:
        greedy = lambda: k_center_greedy(case.train.flatten(0, 1), count // 10, seed=case.seed)  # noqa: E731
        all_ += [("greedy bank", lambda: distances(case, greedy())), ("random bank", lambda: distances(case, drawn))]
    return all_


def write(out: Path, results: list[dict[str, Any]], choose: bool, found: Sequence[dict[str, Any]] = ()) -> None:
    common.write(out, {
        "name": "SimpleNet on board" + (", every suspicion" if choose else ""),
        "command": common.command(choose=choose), "versions": common.versions(), "threads": torch.get_num_threads(),
        "backbone": "adlib_resnet18", "protocol": " ".join(str(__doc__).split()),
        "results": sorted(results, key=lambda r: (r["data"], r["seed"])),
        "tried": TRIED, "differences": list(found),
    }, compact=True)  # fmt: skip


if __name__ == "__main__":
    main()
