"""Hold `adlib.pimo.aupimo` against the authors' code, on maps drawn at random.

    git clone https://github.com/jpcbertoldo/aupimo
    python -m benchmarks.accuracy.official_aupimo --checkout aupimo

The checkout is read at run time; nothing of it is part of this repository. Its NumPy form is run at its own settings:
300,000 thresholds in equal steps over the good images' values, rates from 1e-5 to 1e-4, the trapezoid over ln FPR.
Two things differ by design, and were written down before the first run:

- Theirs begins and ends at the rates on its grid that lie nearest to the two limits, and still divides by the whole
  ln(1e-4/1e-5). Where the limits are rates that occur ("on a rate"), that is the same area: success is a largest
  difference of at most 1e-4 over all images. Elsewhere ours is computed from their first to their last rate, times the
  share of the width that these cover, and must agree as well; what the plain values differ by stands beside it.
- Where a defect pixel ties with a good one, theirs draws a slope and ours a step. These maps have no ties, but for
  those that float32 brings.

numpy 2.4 has no `trapz`, which their code calls; it gets `trapezoid`, the same function under its new name.
"""

from __future__ import annotations

import importlib
import math
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from adlib.pimo import aupimo
from benchmarks import common

LIMITS = (1e-5, 1e-4)
# Good images, their size, and what the noise is. Of 20 × 500 × 500 pixels, the rates 1e-5 and 1e-4 are 50 and 500.
CASES = {
    "on a rate, normal noise": (20, (500, 500), np.asarray),
    "on a rate, long tail": (20, (500, 500), np.exp),
    "on a rate, smooth": (20, (500, 500), lambda noise: ndimage.gaussian_filter(noise, 3)),
    "between two rates, normal noise": (19, (487, 503), np.asarray),
    "few pixels, normal noise": (8, (256, 256), np.asarray),
}


def draw(case: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks and float32 maps: good images, then four defective ones, from a defect that is plain to one that is not."""
    good, size, noise = CASES[case]
    rng = np.random.default_rng(seed)
    masks = np.zeros((good + 4, *size), bool)
    maps = []
    for i, mask in enumerate(masks):
        values = noise(rng.normal(size=size))
        if i >= good:
            mask[40:90, 60 : 100 + 20 * (i - good)] = True
            top = np.quantile(values, 0.9999)
            values = values + mask * top * (0.5 + i - good) * rng.random(size)
        maps.append(values.astype(np.float32))
    return masks, np.stack(maps)


def official(checkout: Path) -> types.ModuleType:
    """The module of the checkout that computes it, without the package's own start, which needs more than NumPy."""
    package = types.ModuleType("aupimo")
    package.__path__ = [str(checkout / "src" / "aupimo")]
    sys.modules["aupimo"] = package
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]
    return importlib.import_module("aupimo.pimo_numpy")


def compare(theirs: types.ModuleType, case: str, seed: int) -> dict[str, Any]:
    masks, maps = draw(case, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that a limit is not exactly met, which is what we measure
        thresholds, rates, _, kinds, areas, points = theirs.aupimo_scores(maps, masks, fpr_bounds=LIMITS)
    first, last = (theirs.thresh_at_shared_fpr_level(thresholds, rates, limit)[2] for limit in LIMITS)
    ours = aupimo(masks, maps, limits=LIMITS)
    covered = math.log(last / first) / math.log(LIMITS[1] / LIMITS[0])
    same_width = aupimo(masks, maps, limits=(float(first), float(last))) * covered
    defective = kinds == 1
    return {
        "case": case, "seed": seed, "images": [int((~defective).sum()), int(defective.sum())], "points": points,
        "their_rates": [float(first), float(last)],
        "ours": ours[defective].round(6).tolist(), "theirs": areas[defective].round(6).tolist(),
        "difference": float(np.abs(ours - areas)[defective].max()),
        "difference_over_their_rates": float(np.abs(same_width - areas)[defective].max()),
    }  # fmt: skip


def main() -> None:
    out = Path(__file__).with_suffix(".json")
    parser = common.arguments(__doc__ or "", out, seeds=(0, 1, 2))
    parser.add_argument("--checkout", type=Path, required=True, help="a clone of jpcbertoldo/aupimo")
    given = parser.parse_args()
    theirs = official(given.checkout)
    report = common.read(given.out, {}) | {
        "name": "AUPIMO beside the authors' code",
        "command": common.command("--checkout aupimo"), "threads": torch.get_num_threads(),
        "versions": common.versions(),
        "official": f"jpcbertoldo/aupimo at {common.commit(given.checkout)[:7]}, MIT licence",
        "protocol": "maps drawn at random, 300,000 thresholds there and none here; success, fixed beforehand: at most "
                    "1e-4 where the limits are rates that occur, and elsewhere over the rates that they take",
    }  # fmt: skip
    report.setdefault("results", [])
    done = {(r["case"], r["seed"]) for r in report["results"]}
    for case in CASES:
        for seed in given.seeds:
            if (case, seed) not in done:
                report["results"].append(compare(theirs, case, seed))
                common.write(given.out, report)
                print(report["results"][-1], flush=True)


if __name__ == "__main__":
    main()
