"""Time AU-PRO and pixel AUROC beside anomalib's form and scikit-learn, and write the figures as JSON.

    python -m benchmarks.speed.metrics [--small]

Anomalib's form is written here anew, after the algorithm of version 2.7.0; scikit-learn is called as it is.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor

from adlib import metrics
from benchmarks.speed.timing import SEED, alternate, extra_memory, run


def scenes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n masks and maps (n, 256, 256): smooth maps as PatchCore makes them; every other picture has two defects."""
    rng = np.random.default_rng(SEED)
    masks, maps = np.zeros((n, 256, 256), bool), np.empty((n, 256, 256), np.float32)
    for i in range(n):
        grid = np.kron(rng.gamma(2, 0.3, (32, 32)), np.ones((8, 8)))
        for _ in range(2 * (i % 2)):
            (top, left), (height, width) = rng.integers(0, 200, 2), rng.integers(8, 50, 2)
            masks[i, top : top + height, left : left + width] = True
        maps[i] = ndimage.gaussian_filter(grid + 0.8 * masks[i], 4.0)
    return masks, maps


def sorted_au_pro(masks: np.ndarray, maps: np.ndarray, limit: float = 0.3) -> float:
    """The form of anomalib: sort all pixels, then cumulative sums along them. In float64, so that it is exact.

    Each background pixel adds to the false-positive rate, each pixel of a region adds the region's share:
    1/(size · number of regions). One sum serves all regions, so this is a fast variant of the form. Ties are
    joined, and the polygon is cut at the limit.
    """
    share, regions, background = np.zeros(masks.shape), 0, ~masks
    for i, mask in enumerate(masks):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labelled.ravel())
        share[i][mask] = 1 / sizes[labelled[mask]]
        regions += count
    order = np.argsort(maps, axis=None)[::-1]
    values = maps.ravel()[order]
    last = np.append(values[1:] != values[:-1], True)  # the last pixel of each value
    rate = np.append(0, (np.cumsum(background.ravel()[order]) / background.sum())[last])
    overlap = np.append(0, np.cumsum(share.ravel()[order])[last] / regions)
    inside = rate <= limit
    x = np.append(rate[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, rate, overlap))
    return float(np.trapezoid(y, x) / limit)


def sklearn_auroc(masks: np.ndarray, maps: np.ndarray) -> float:
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


def measure_metrics(small: bool, scratch: Path) -> dict[str, Any]:
    results = []
    for n in (20,) if small else (50, 500):
        masks, maps = scenes(n)
        files = str(scratch / "masks.pt"), str(scratch / "maps.pt")
        for file, array in zip(files, (masks, maps), strict=True):
            torch.save(torch.from_numpy(array), file)
        pairs = {"au_pro": (metrics.au_pro, sorted_au_pro), "pixel_auroc": (metrics.pixel_auroc, sklearn_auroc)}
        for measure, (ours, peer) in pairs.items():
            result: dict[str, Any] = {"measure": measure, "images": n, "peer": peer.__name__}
            forms = {"adlib": lambda f=ours, m=masks, v=maps: f(m, v), "peer": lambda f=peer, m=masks, v=maps: f(m, v)}
            result |= {"timing": alternate(forms, 3), "value": ours(masks, maps)}
            result["difference"] = abs(result["value"] - peer(masks, maps))
            result["extra_mb"] = {"adlib": extra_memory(partial(_on_arrays, measure), *files),
                                  "peer": extra_memory(partial(_on_arrays, peer.__name__), *files)}  # fmt: skip
            result["ratio"] = result["timing"]["peer"]["seconds"] / result["timing"]["adlib"]["seconds"]
            results.append(result)
            print(f"{measure} of {n}: {result['timing']['adlib']['seconds']:.2f} s, ratio {result['ratio']:.2f}, "
                  f"difference {result['difference']:.1e}", flush=True)
    return {"data": " ".join((scenes.__doc__ or "").split()), "results": results}


def _on_arrays(name: str, masks: Tensor, maps: Tensor) -> None:
    (globals().get(name) or getattr(metrics, name))(masks.numpy(), maps.numpy())


if __name__ == "__main__":
    run(__doc__, measure_metrics)
