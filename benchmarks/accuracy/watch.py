"""How soon `adlib.drift.Watch` notices a change of the line, and how often it gives a false alarm.

    python -m benchmarks.accuracy.watch                       # all that is missing; about 8 minutes on one core
    python -m benchmarks.accuracy.watch --parts streams       # drawn scores alone, half a minute

The changes, α and the bets were fixed before the first run. A short trial with 128 pixels then led to 40 changed parts
in place of 80, and to the brightness and the sharpness beside the scores. Nothing was chosen from these figures.

    factory  PatchCore with its defaults on board and washer, seeds 0 to 2 (the factory's and the detector's): 80 good
             parts for training, 60 held out, then a line of 40 good parts as they are and 40 more that are changed.
             Each line is watched in ORDERS orders of its parts (each 40 among themselves), each with its own seed for
             ties; α = 0.01. Beside the scores, the mean brightness and the sharpness of the pictures are watched in the
             same way: what leaves the scores alike may show there. Median, least and most are of the changed parts
             until the alarm; None: there was none.
    streams  scores drawn from a normal distribution (also rounded, for ties, and with few of them kept): 20 to begin
             with, 500 parts, nothing changes, α = 0.05. The control gives each score its p-value beside the same 20
             scores for ever, and bets the same: each p-value is valid, but they are not independent.
    moved    46 or 20 scores to begin with, the mean moves at once or after 500 parts; α = 0.01, 200 parts after it.
    defects  46 scores of good parts to begin with, or 100 of the line; of 1,000 parts of the line a share is defective,
             5 standard deviations higher; α = 0.01.

Pictures are drawn with 320 pixels and the middle 256 is kept, as in `curves`, so that what comes in at the border is
more of the scene. Intervals are those of Clopper and Pearson.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adlib import PatchCore, drift
from adlib.datasets import SyntheticFactory
from adlib.drift import Watch
from benchmarks import common
from benchmarks.accuracy.curves import WIDE, middle, share, turned

PRODUCTS, SEEDS = ("board", "washer"), (0, 1, 2)
TRAIN, HELD, BEFORE, AFTER, ORDERS = 80, 60, 40, 40, 20
STREAMS, LENGTH = 2000, 500


def blurred(image: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(image[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": middle,
    "6 pixels shifted": lambda image: middle(image, 6),
    "3 × 3 blur": lambda image: middle(blurred(image)),
    "20 % less light": lambda image: middle(image) * 0.8,
    "2 degrees turned": lambda image: middle(turned(image, 2)),
}


def brightness(images: list[Tensor]) -> np.ndarray:
    return np.array([image.mean() for image in images])


def sharpness(images: list[Tensor]) -> np.ndarray:
    """The mean difference of neighbours, in a row and in a column."""
    return np.array([(image.diff(dim=1).abs().mean() + image.diff(dim=2).abs().mean()) for image in images])


STATISTICS = {"mean brightness": brightness, "sharpness": sharpness}


def delay_of(watch: Watch, before: np.ndarray, after: np.ndarray) -> int | None:
    """How many of `after` until the alarm; negative or 0 where it came before them, None where it never came."""
    for number, score in enumerate([*before, *after], start=1):
        if watch.update(score):
            return number - len(before)
    return None


def summary(delays: list[int | None], after: int) -> dict[str, Any]:
    """Median (of all, where the half has one), range and how many; an alarm before the change is a false one."""
    found = sorted(after + 1 if d is None else d for d in delays)
    shown = [None if d > after else d for d in found]
    return {"streams": len(delays), "false_alarms": sum(d <= 0 for d in found), "missed": shown.count(None),
            "median": shown[len(shown) // 2], "least": next((d for d in shown if d is None or d > 0), None),
            "most": shown[-1]}  # fmt: skip


def factory(product: str, seed: int) -> Iterator[dict[str, Any]]:
    data = SyntheticFactory(product, size=WIDE, n_train=TRAIN, n_validation=HELD, n_test=BEFORE + AFTER, n_defect=1,
                            seed=seed)  # fmt: skip
    held = [middle(s.image) for s in data.validation if not s.label][:HELD]
    detector = PatchCore(device="cpu", seed=seed).fit([middle(s.image) for s in data.train], validation=held)
    images = [s.image for s in data.test if not s.label][: BEFORE + AFTER]
    before, threshold = [middle(image) for image in images[:BEFORE]], detector.threshold(0.05)
    normal = {"score": detector.normal_scores.numpy()} | {name: f(held) for name, f in STATISTICS.items()}
    usual = {"score": detector.predict(before).scores} | {name: f(before) for name, f in STATISTICS.items()}
    for name, change in CHANGES.items():
        after = [change(image) for image in images[BEFORE:]]
        now = {"score": detector.predict(after).scores} | {name: f(after) for name, f in STATISTICS.items()}
        for watched, values in now.items():
            delays = []
            for order in range(ORDERS):
                rng = np.random.default_rng(order)
                first = rng.permutation(usual[watched])
                delays.append(delay_of(Watch(normal[watched], 0.01, order), first, rng.permutation(values)))
            row = {"change": name, "watched": watched, "held_out": len(held), **summary(delays, len(after))}
            yield row | ({"above_threshold": share(values > threshold)} if watched == "score" else {})


def fixed(held: np.ndarray, scores: np.ndarray, alpha: float, rng: np.random.Generator) -> bool:
    """The control: as `Watch`, but each score's place is that among the first ones for ever."""
    first, capital = np.sort(held).tolist(), np.zeros(8)
    for t, score in enumerate(scores.tolist(), start=1):
        paid = drift.bets(drift.online_p_value(first, score, rng.random()))
        capital = np.minimum((capital + 1 / (t * (t + 1)) / 8) * paid, drift.MOST)
        if 1 / (t + 1) + capital.sum() >= 1 / alpha:
            return True
    return False


def streams(seed: int) -> Iterator[dict[str, Any]]:
    for name, digits, kept in (("normal", None, drift.KEPT), ("one digit, so with ties", 1, drift.KEPT),
                               ("at most 50 kept", None, 50)):  # fmt: skip
        drift.KEPT, usual = kept, drift.KEPT
        alarms = []
        for k in range(STREAMS):
            scores = np.random.default_rng([seed, k]).normal(size=20 + LENGTH)
            scores = scores if digits is None else scores.round(digits)
            alarms.append(delay_of(Watch(scores[:20], 0.05, k), scores[:0], scores[20:]) is not None)
        drift.KEPT = usual
        yield {"scores": name, "alpha": 0.05, "streams": STREAMS, "parts": LENGTH, "alarms": share(np.array(alarms))}
    alarms = []
    for k in range(STREAMS):
        scores, rng = np.random.default_rng([seed, k]).normal(size=20 + LENGTH), np.random.default_rng([seed, k, 1])
        alarms.append(fixed(scores[:20], scores[20:], 0.05, rng))
    yield {"scores": "normal, p-values beside the same 20 for ever", "alpha": 0.05, "streams": STREAMS,
           "parts": LENGTH, "alarms": share(np.array(alarms))}  # fmt: skip


def moved(seed: int) -> Iterator[dict[str, Any]]:
    for first in (20, 46):
        for before in (0, 500):
            for by in (-3.0, -1.5, -1.0, 1.0, 1.5, 3.0):
                delays = []
                for k in range(100):
                    scores = np.random.default_rng([seed, k]).normal(size=first + before + 200)
                    delays.append(delay_of(Watch(scores[:first], 0.01, k), scores[first : first + before],
                                           scores[first + before :] + by))  # fmt: skip
                yield {"first": first, "before": before, "moved_by": by, **summary(delays, 200)}


def defects(seed: int) -> Iterator[dict[str, Any]]:
    for first, own in ((46, False), (100, True)):
        for rate in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2):
            alarms = []
            for k in range(200):
                rng = np.random.default_rng([seed, k])
                scores = rng.normal(size=first + 1000)
                scores[0 if own else first :] += 5 * (rng.random(len(scores) - (0 if own else first)) < rate)
                alarms.append(delay_of(Watch(scores[:first], 0.01, k), scores[:0], scores[first:]) is not None)
            yield {"first": first, "of": "the line itself" if own else "good parts", "defective": rate,
                   "streams": 200, "parts": 1000, "alarms": share(np.array(alarms))}  # fmt: skip


DRAWN = {"streams": streams, "moved": moved, "defects": defects}


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), seeds=SEEDS)
    parser.add_argument("--parts", nargs="+", choices=["factory", *DRAWN], default=["factory", *DRAWN])
    parser.add_argument("--products", nargs="+", choices=PRODUCTS, default=list(PRODUCTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs: list[tuple[str, str | None, int]] = [(part, None, 0) for part in args.parts if part in DRAWN]
    if "factory" in args.parts:
        runs += [("factory", product, seed) for seed in args.seeds for product in args.products]
    for part, product, seed in runs:
        old = common.read(args.out, {"results": []})["results"]
        if any((row["part"], row.get("product"), row["seed"]) == (part, product, seed) for row in old):
            continue
        found = DRAWN[part](seed) if product is None else factory(product, seed)
        about = {"part": part, "seed": seed} | ({} if product is None else {"product": product})
        rows = [about | row for row in found]
        common.write(args.out, {
            "name": "Watching the scores of a line", "command": common.command(), "versions": common.versions(),
            "threads": 1, "device": "cpu", "seeds": list(SEEDS), "protocol": "PatchCore's defaults, shipped backbone, "
            "80 good parts for training, 60 held out, 40 as they are and 40 changed, watched in 20 orders",
            "results": [*old, *rows],
        })  # fmt: skip
        for row in rows:
            print({k: v["value"] if isinstance(v, dict) else v for k, v in row.items()}, flush=True)


if __name__ == "__main__":
    main()
