"""Measure how often good parts are flagged, with PatchCore scores, beside what the threshold's rule promises.

    python -m benchmarks.accuracy.false_alarms

A pool of washers drawn for this, five pictures of each, between which light, place and noise change a little as in
chapter 1. Patch features are those of PatchCore at 128 pixels with stride 2, 64 for each picture. The bank is kept
whole and nothing is re-weighted, so a picture x scores max_p min_t D[x, t, p], with D[x, t, p] the distance from its
patch p to the nearest patch of part t. D is computed once; a trial only looks it up.

A trial draws its good parts and, apart from them, good parts for the test, all from the pool and without return. So
they are exchangeable whatever the pool is, and the promise has to hold on this very pool: the interval (95 %) counts
trials and nothing else. A part is flagged where one of its pictures is. "found" is the share of defective parts that
are flagged; it belongs to these washers. Settings: "alone", one picture of each part, and "shots", five.

Rules: "split", the bank has 20 parts beside the n held out; "folds", n parts in all, equation (2.19); "cv+", the count
of Barber et al. 2021 without the minimum. "good_parts" compares what a number of good parts is worth: split in 65 %
for the bank and 35 % held out, or in folds.

Controls, what looks right and is not, with five pictures of each of 20 parts: "pictures at random" holds out 35 of the
100 pictures whatever part they show; "folds of pictures" cuts them in five folds; "pictures counted" holds out 7 whole
parts and takes the threshold from their 35 pictures; "from the bank" takes it from the images in the bank.

"stand_apart" is how often `adlib.threshold.stand_apart` warns, of good parts alone and with defective ones among them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adlib import PatchCore
from adlib.backbones import load_backbone
from adlib.factory import SyntheticFactory, washer
from adlib.factory.synthetic import MIN_AREA, TOLERANCE
from adlib.features import PatchFeatures, to_rows
from adlib.threshold import conformal_threshold, cross_conformal_bound, stand_apart
from benchmarks import common

SIZE, SHOTS, PARTS, DEFECTIVE = 128, 5, 240, 60
BY_PICTURE = 80  # parts whose distances to single pictures are kept too
TRAIN, TEST = 20, 40  # parts in a split's bank; parts tested in a trial, good and defective
ALPHA = {5: 0.2, 10: 0.1, 20: 0.05, 60: 0.05}
FOLDS = {5: (5,), 10: (5, 10), 20: (5, 10, 20), 60: (5, 10, 60)}
Sides = tuple[np.ndarray, np.ndarray]  # of good and of defective parts


def photographs(seed: int, part: int, kind: str = "good") -> Iterator[np.ndarray]:
    """SHOTS pictures (3, SIZE, SIZE) of one washer, good or with one defect that shows."""
    rng = np.random.default_rng([seed, part])
    scene, attempt = washer.make_scene(rng), 0
    while kind != "good" and not _shows(scene, kind, [seed, part, attempt]):
        attempt += 1
    for _ in range(SHOTS):
        light = (scene.light[0] * rng.uniform(0.97, 1.03), *scene.light[1:])
        x, y = scene.centre
        again = dataclasses.replace(scene, light=light, centre=(x + rng.normal(), y + rng.normal()))
        picture = washer.draw(again, SIZE, kind, np.random.default_rng([seed, part, attempt]))
        yield (picture + 0.008 * rng.normal(size=picture.shape)).clip(0, 1)


def _shows(scene: washer.Scene, kind: str, key: list[int]) -> bool:
    change = washer.draw(scene, SIZE, kind, np.random.default_rng(key)) - washer.draw(scene, SIZE)
    return (np.abs(change).max(0) > TOLERANCE).sum() >= MIN_AREA * (SIZE / 256) ** 2


class Pool:
    """Distances of the patches of all pictures, the defective parts after the good ones.

    by_part (PARTS + DEFECTIVE, SHOTS, PARTS, P) to the nearest patch in all pictures of a part; first, the same to
    its first picture alone; by_picture (BY_PICTURE, SHOTS, BY_PICTURE · SHOTS, P) to one picture.
    """

    def __init__(self, seed: int) -> None:
        extractor = PatchFeatures(load_backbone("adlib_resnet18"), stride=2)
        kinds = ["good"] * PARTS + [washer.KINDS[i % len(washer.KINDS)] for i in range(DEFECTIVE)]
        rows = []
        with torch.inference_mode():
            for part, kind in enumerate(kinds):
                pictures = torch.from_numpy(np.stack(list(photographs(seed, part, kind)))).float()
                rows.append(torch.stack([to_rows(extractor(picture[None])) for picture in pictures]))
            x = torch.stack(rows)  # (parts, SHOTS, P, C)
            bank = x[:PARTS]
            self.first = _distances(x, bank[:, 0])
            self.by_part = _distances(x, bank.flatten(1, 2))
            self.by_picture = _distances(x[:BY_PICTURE], bank[:BY_PICTURE].flatten(0, 1))

    def near(self, parts: np.ndarray, folds: list[np.ndarray], shots: int) -> np.ndarray:
        """From the patches of `parts` to the nearest in each fold of good parts: (parts, shots, folds, P)."""
        table = self.by_part if shots > 1 else self.first
        return np.stack([table[np.ix_(parts, range(shots), fold)].min(2) for fold in folds], 2)


def _distances(x: torch.Tensor, bank: torch.Tensor) -> np.ndarray:
    """Patches (parts, SHOTS, P, C) to the nearest of each entry of the bank (T, Q, C): (parts, SHOTS, T, P)."""
    queries, result = x.flatten(0, 2), []
    own = (queries**2).sum(1)
    for entry in bank:
        length, turned = (entry**2).sum(1), entry.T.contiguous()
        nearest = [torch.addmm(length, some, turned, alpha=-2).amin(1) for some in queries.split(2048)]
        result.append((own + torch.cat(nearest)).clamp(min=0).sqrt().view(x.shape[:3]))
    return torch.stack(result, 2).numpy()


def leave_one_out(near: np.ndarray) -> np.ndarray:
    """Distances (…, K, P) to K folds become the distances to all folds but one (…, K, P)."""
    edge = np.full_like(near[..., :1, :], np.inf)
    before = np.minimum.accumulate(np.concatenate([edge, near[..., :-1, :]], -2), -2)
    after = np.minimum.accumulate(np.concatenate([edge, near[..., :0:-1, :]], -2), -2)[..., ::-1, :]
    return np.minimum(before, after)


def split(pool: Pool, good: np.ndarray, test: Sides, alpha: float, shots: int, train: int) -> list[Sides]:
    def scores(parts: np.ndarray) -> np.ndarray:
        return pool.near(parts, [good[:train]], shots).max(-1).max((1, 2))

    t = conformal_threshold(scores(good[train:]), alpha)
    return [(scores(test[0]) > t, scores(test[1]) > t)]


def in_folds(pool: Pool, good: np.ndarray, test: Sides, alpha: float, shots: int, folds: int) -> list[Sides]:
    """Flags by equation (2.19), and by CV+."""
    n, sides = len(good), np.array_split(good, folds)  # `good` is in random order
    near = leave_one_out(pool.near(np.concatenate([*sides, *test]), sides, shots)).max(-1)  # (…, shots, K)
    own = np.repeat(np.arange(folds), [len(side) for side in sides])
    held = near[np.arange(n), :, own].max(1)  # out-of-fold scores, one for each part
    flagged = near[n:].min(2).max(1) > conformal_threshold(held, alpha)
    beaten = (near[n:].max(1)[:, own] > held).sum(1)  # by the detectors that had not seen the part
    counted = beaten >= math.ceil((n + 1) * (1 - alpha) - 1e-9)
    return [(row[: len(test[0])], row[len(test[0]) :]) for row in (flagged, counted)]


def control(pool: Pool, name: str, rng: np.random.Generator) -> list[Sides]:
    """With single pictures; flags of the new parts' five pictures together."""
    parts, alpha = rng.permutation(BY_PICTURE), 0.05
    pictures = (parts[:TRAIN, None] * SHOTS + np.arange(SHOTS)).ravel()
    if name in ("pictures at random", "folds of pictures"):
        pictures = rng.permutation(pictures)
    table = pool.by_picture.reshape(BY_PICTURE * SHOTS, BY_PICTURE * SHOTS, -1)

    def scores(some: np.ndarray, bank: np.ndarray) -> np.ndarray:
        return table[np.ix_(some, bank)].min(1).max(1)

    new = (parts[TRAIN : TRAIN + TEST, None] * SHOTS + np.arange(SHOTS)).ravel()
    if name == "folds of pictures":
        folds = np.array_split(pictures, 5)
        banks = [np.setdiff1d(pictures, fold) for fold in folds]
        held = np.concatenate([scores(fold, bank) for fold, bank in zip(folds, banks, strict=True)])
        found = np.min([scores(new, bank) for bank in banks], 0)
    else:
        bank = pictures if name == "from the bank" else pictures[:65]
        held, found = scores(pictures if name == "from the bank" else pictures[65:], bank), scores(new, bank)
    flags = found.reshape(TEST, SHOTS).max(1) > conformal_threshold(held, alpha)
    return [(flags, np.zeros(0, bool))]


def trials(count: int, key: list[int], run: Callable[[np.random.Generator], list[Sides]]) -> list[dict[str, Any]]:
    """For each answer of `run`: the mean rate with its interval, and the share of defective parts found."""
    shares = [[[side.mean() if len(side) else np.nan for side in answer] for answer in run(np.random.default_rng(
        [*key, i]))] for i in range(count)]
    results = []
    for answer in np.array(shares).transpose(1, 2, 0):  # (good and defective, trials)
        rate, half = answer[0].mean(), 1.96 * answer[0].std(ddof=1) / math.sqrt(count)
        result = {"rate": rate, "low": max(0, rate - half), "high": min(1, rate + half)}
        result |= {} if np.isnan(answer[1]).any() else {"found": answer[1].mean()}
        results.append({name: round(float(value), 4) for name, value in result.items()} | {"trials": count})
    return results


def draw(pool: Pool, rule: Callable[..., list[Sides]], parts: int, *arguments: Any) -> Callable[..., list[Sides]]:
    """A trial of `rule` with so many good parts."""
    def run(rng: np.random.Generator) -> list[Sides]:
        good, bad = rng.permutation(PARTS), PARTS + rng.permutation(DEFECTIVE)
        return rule(pool, good[:parts], (good[parts : parts + TEST], bad[:TEST]), *arguments)
    return run


def cv_plus_bound(alpha: float, n: int, folds: int) -> float:
    """Barber et al. 2021, theorem 4."""
    return min(1.0, 2 * alpha + min(2 * (1 - 1 / folds) / (n / folds + 1), (1 - folds / n) / (folds + 1)))


def measure(pool: Pool, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """A row for each setting and rule."""
    for setting, shots in (("alone", 1), ("shots", SHOTS)):
        for n, alpha in ALPHA.items():
            row = {"setting": setting, "n": n, "alpha": alpha}
            found = trials(count, [seed, shots, n], draw(pool, split, TRAIN + n, alpha, shots, TRAIN))
            yield row | {"rule": "split", "promise": alpha} | found[0]
            for folds in FOLDS[n]:
                found = trials(count, [seed, shots, n, folds], draw(pool, in_folds, n, alpha, shots, folds))
                promises = {"folds": cross_conformal_bound, "cv+": cv_plus_bound}
                for (rule, bound), answer in zip(promises.items(), found, strict=True):
                    yield row | {"rule": rule, "folds": folds, "promise": round(bound(alpha, n, folds), 4)} | answer


def compare(pool: Pool, seed: int, count: int) -> Iterator[dict[str, Any]]:
    """What N good parts, one picture of each, can promise and find: split, and in folds at the same and at less."""
    for total in (15, 20, 30):
        held = round(0.35 * total)
        row, rates = {"setting": "alone", "parts": total}, (1 / (held + 1), 1 / (total + 1))
        found = trials(count, [seed, total], draw(pool, split, total, rates[0], 1, total - held))
        yield row | {"rule": "split", "n": held, "alpha": round(rates[0], 4), "promise": round(rates[0], 4)} | found[0]
        for folds in (5, total):
            for alpha in rates:
                found = trials(count, [seed, total, folds], draw(pool, in_folds, total, alpha, 1, folds))
                promise = round(cross_conformal_bound(alpha, total, folds), 4)
                yield row | {"rule": "folds", "n": total, "folds": folds, "alpha": round(alpha, 4),
                             "promise": promise} | found[0]  # fmt: skip


def apart(seed: int, count: int) -> dict[str, Any]:
    """How often `stand_apart` warns: of good scores alone, and of those with 6 defective parts among 46.

    The scores are drawn from distributions, and from those of PatchCore by its defaults on two products.
    """
    rng = np.random.default_rng([seed, 2000])
    laws: dict[str, Callable[[int], np.ndarray]] = {
        "normal": lambda n: rng.normal(size=n), "gumbel": lambda n: rng.gumbel(size=n),
        "lognormal, 0.25": lambda n: rng.lognormal(sigma=0.25, size=n),
    }  # fmt: skip
    result: dict[str, Any] = {"draws": count, "good alone": {}, "6 defective of 46": {}}
    for name, law in laws.items():
        result["good alone"][name] = {n: warned(count, lambda n=n, law=law: law(n)) for n in (10, 20, 46, 60, 200)}
    for product in ("washer", "board"):
        data = SyntheticFactory(product, n_train=50, n_validation=0, n_test=100, n_defect=48, seed=seed)
        found = PatchCore(device="cpu").fit(data.train).predict(data.test)
        good, bad = (np.array([s for s, x in zip(found.scores, data.test, strict=True) if x.label == label])
                     for label in (0, 1))  # fmt: skip
        result["good alone"][product] = {46: warned(count, lambda good=good: rng.choice(good, 46, replace=False))}
        result["6 defective of 46"][product] = warned(count, lambda good=good, bad=bad: np.concatenate(
            [rng.choice(good, 40, replace=False), rng.choice(bad, 6, replace=False)]))
    return result


def warned(count: int, scores: Callable[[], np.ndarray]) -> float:
    return round(float(np.mean([stand_apart(scores()) > 0 for _ in range(count)])), 4)


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), seeds=[0])
    parser.add_argument("--trials", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    (seed,) = args.seeds
    pool = Pool(seed)
    rows = []
    for row in measure(pool, seed, args.trials):
        rows.append(row)
        print(row, flush=True)
    controls = []
    for number, name in enumerate(("pictures at random", "folds of pictures", "pictures counted", "from the bank")):
        (found,) = trials(args.trials, [seed, 1000 + number], lambda rng, name=name: control(pool, name, rng))
        controls.append({"setting": "shots", "rule": name, "alpha": 0.05} | found)
        print(controls[-1], flush=True)
    compared = list(compare(pool, seed, args.trials))
    common.write(args.out, {
        "name": "False alarms of conformal thresholds", "command": common.command(seeds=args.seeds, trials=args.trials),
        "versions": common.versions(), "threads": 1, "backbone": "adlib_resnet18",
        "protocol": f"{PARTS} good and {DEFECTIVE} defective washers, {SHOTS} pictures of each, {SIZE} pixels; see the "
        "module's docstring",
        "seed": seed, "results": rows, "controls": controls, "good_parts": compared,
        "stand_apart": apart(seed, 2 * args.trials),
    })  # fmt: skip


if __name__ == "__main__":
    main()
