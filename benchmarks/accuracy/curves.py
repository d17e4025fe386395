"""How PatchCore with its defaults depends on image size, number of training images, and turned or shifted pictures.

    python -m benchmarks.accuracy.curves                         # all that is missing
    python -m benchmarks.accuracy.curves --parts drift --products board --seeds 0

Fixed before the first run: board and fabric of the factory, seeds 0 to 2 (the factory's and the detector's), structural
defects alone, 80 good and 80 defective test pictures. Nothing is chosen from these curves.

    size     pictures of 320 pixels, 80 for training, resized to squares of 128 to 320
    number   pictures of 256 pixels, 5 to 320 for training, the smaller sets within the larger, resized to 224
    drift    80 pictures for training and 99 good ones held out; all test pictures are turned or shifted, the others not

drift: pictures are drawn with 320 pixels and the middle 256 is kept, after the turn or the shift, so that what comes in
at the border is more of the scene and no filling; a board then shows parts that the training never saw there. A
defective picture counts where nine tenths of its mask lie in the middle. Shifts are whole pixels, so
they change no value. A turn is bilinear, and that softens a picture. The control is "turned by 8 degrees and back":
twice as much softening and no turn. The threshold is that of α = 0.05; false alarms and defects found have intervals of
Clopper and Pearson over the pictures of a seed. With no change the false alarms have to be compatible with α; that is
the second control.

Each row has value, low and high of one seed; `adlib.metrics.mean_interval` makes one interval over seeds and images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage, stats
from torch import Tensor

from adlib import PatchCore
from adlib.datasets import Sample, SyntheticFactory
from benchmarks import common

PRODUCTS, SEEDS = ("board", "fabric"), (0, 1, 2)
SIZES = (128, 160, 192, 224, 256, 320)
NUMBERS = (5, 10, 20, 40, 80, 160, 320)
TURNS, SHIFTS = (0.5, 1, 2, 4, 8), (1, 2, 4, 8, 16)  # degrees; pixels of 256
TRAIN, HELD, TEST, WIDE, MIDDLE, ALPHA = 80, 99, 80, 320, 256, 0.05


def auroc(good: np.ndarray, defective: np.ndarray) -> dict[str, float]:
    return common.auroc(np.repeat([0, 1], [len(good), len(defective)]), np.r_[good, defective])


def share(flags: np.ndarray) -> dict[str, float]:
    low, high = stats.binomtest(int(flags.sum()), len(flags)).proportion_ci(0.95, method="exact")
    return {"value": float(flags.mean()), "low": float(low), "high": float(high)}


def both_sides(test: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    good, defective = [s for s in test if not s.label], [s for s in test if s.label and not s.logical]
    return good[:TEST], defective


def score(detector: PatchCore, images: list[Tensor]) -> np.ndarray:
    return detector.predict(images).scores


def size(product: str, seed: int) -> Iterator[dict[str, Any]]:
    data = SyntheticFactory(product, size=WIDE, n_train=TRAIN, n_test=TEST, n_defect=TEST, seed=seed)
    train, sides = [s.image for s in data.train], [[s.image for s in part] for part in both_sides(data.test)]
    for side in SIZES:
        detector = PatchCore(image_size=side, device="cpu", seed=seed).fit(train)
        yield {"x": side, "image_auroc": auroc(*(score(detector, part) for part in sides))}


def number(product: str, seed: int) -> Iterator[dict[str, Any]]:
    data = SyntheticFactory(product, n_train=max(NUMBERS), n_test=TEST, n_defect=TEST, seed=seed)
    train, sides = [s.image for s in data.train], [[s.image for s in part] for part in both_sides(data.test)]
    for count in NUMBERS:
        detector = PatchCore(image_size=224, device="cpu", seed=seed).fit(train[:count])
        yield {"x": count, "image_auroc": auroc(*(score(detector, part) for part in sides))}


def turned(image: Tensor, degrees: float) -> Tensor:
    around = ndimage.rotate(image.numpy(), degrees, axes=(1, 2), reshape=False, order=1, mode="nearest")
    return torch.from_numpy(around).clamp(0, 1)


def middle(image: Tensor, shift: int = 0) -> Tensor:
    """The middle of the picture, that many pixels to the right and down of where it is."""
    first = (WIDE - MIDDLE) // 2 - shift
    return image[:, first : first + MIDDLE, first : first + MIDDLE]


def changes() -> Iterator[tuple[str, float, Callable[[Tensor], Tensor]]]:
    yield "none", 0, middle
    for degrees in TURNS:
        yield "turned", degrees, lambda image, degrees=degrees: middle(turned(image, degrees))
    for pixels in SHIFTS:
        yield "shifted", pixels, lambda image, pixels=pixels: middle(image, pixels)
    yield "turned by 8 degrees and back", 0, lambda image: middle(turned(turned(image, 8), -8))


def drift(product: str, seed: int) -> Iterator[dict[str, Any]]:
    numbers = {"n_train": TRAIN, "n_validation": HELD, "n_test": TEST, "n_defect": 2 * TEST}
    data = SyntheticFactory(product, size=WIDE, seed=seed, **numbers)
    held = [middle(s.image) for s in data.validation if not s.label][:HELD]
    detector = PatchCore(device="cpu", seed=seed).fit([middle(s.image) for s in data.train], validation=held)
    threshold = detector.threshold(ALPHA)
    good, defective = both_sides(data.test)
    inside = [s for s in defective if middle(s.mask[None]).sum() >= 0.9 * s.mask.sum()]
    sides = [[s.image for s in good], [s.image for s in inside[:TEST]]]
    for name, x, change in changes():
        scores = [score(detector, [change(image) for image in images]) for images in sides]
        yield {"change": name, "x": x, "defective": len(scores[1]), "image_auroc": auroc(*scores),
               "false_alarms": share(scores[0] > threshold), "defects_found": share(scores[1] > threshold)}  # fmt: skip


PARTS = {"size": size, "number": number, "drift": drift}


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), seeds=SEEDS)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--products", nargs="+", choices=PRODUCTS, default=list(PRODUCTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for part in args.parts:
        for product in args.products:
            for seed in args.seeds:
                if (part, product, seed) in {key_of(r) for r in common.read(args.out, {"results": []})["results"]}:
                    continue
                rows = [{"part": part, "product": product, "seed": seed, **row} for row in PARTS[part](product, seed)]
                save(args.out, rows)
                print(part, product, seed, [(r["x"], round(r["image_auroc"]["value"], 3)) for r in rows], flush=True)


def key_of(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["part"], row["product"], row["seed"]


def save(out: Path, rows: list[dict[str, Any]]) -> None:
    """Read the report anew, so that runs side by side do not lose each other's, add the rows, and write it."""
    results = sorted([*common.read(out, {"results": []})["results"], *rows], key=lambda r: ([*PARTS].index(r["part"]),
                     r["product"], r["seed"]))  # fmt: skip
    common.write(out, {
        "name": "PatchCore, curves", "command": common.command(), "versions": common.versions(), "threads": 1,
        "device": "cpu", "protocol": "the factory's board and fabric, structural defects, 80 good and 80 defective "
        "test pictures for each seed; PatchCore's defaults, shipped backbone", "seeds": list(SEEDS), "results": results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
