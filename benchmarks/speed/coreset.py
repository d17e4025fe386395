"""Time the greedy coreset beside loops of anomalib's and of the official code's form, and write the figures as JSON.

    python -m benchmarks.speed.coreset [--small]

The loops are written here anew, after the algorithms of anomalib 2.7.0 and of the official PatchCore code. Where one
would take minutes, it runs for a sample of its iterations and the JSON says "extrapolated": true.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adlib.backbones import load_backbone
from adlib.coreset import covering_radius, jl_dimension, k_center_greedy, random_projection
from adlib.datasets import SyntheticFactory
from adlib.features import PatchFeatures, to_rows
from adlib.images import resize_image
from benchmarks.speed.timing import SEED, extra_memory, rounded, run, seconds

LIMIT = 150.0  # seconds; a loop that would take longer is extrapolated
SAMPLE = 15.0  # seconds that are spent on the iterations of such a loop


def factory_features(rows: int, wide: bool) -> Tensor:
    """Patch features (rows, 288) of as many factory pictures as it takes, or (rows, 384) if `wide`.

    288: layer2 and layer3 of the shipped backbone at 224 pixels, the default of PatchCore. 384: the same, and
    layer2 of the picture at 448 pixels, averaged to the same grid. Each picture is another scene.
    """
    fine = PatchFeatures(load_backbone("adlib_resnet18", ("layer2",)), ("layer2",))
    both = PatchFeatures(load_backbone("adlib_resnet18"), ("layer2", "layer3"))
    each = -(-rows // (2 * 784))
    found = []
    for product in ("fabric", "washer"):
        for sample in SyntheticFactory(product, n_train=each, seed=SEED).train:
            image = sample.image
            with torch.no_grad():
                cells = both(resize_image(image, (224, 224))[None])
                if wide:
                    cells = torch.cat([cells, F.avg_pool2d(fine(resize_image(image, (448, 448))[None]), 2)], 1)
            found.append(to_rows(cells))
    return torch.cat(found)[:rows].contiguous()


class AnomalibForm:
    """A loop of anomalib's form: one centre at a time, its distance to every row, minimum, arg-max. (N, d)"""

    def __init__(self, x: Tensor) -> None:
        self.x, self.nearest, self.centres = x, None, [SEED]

    def step(self) -> None:
        centre = self.x[self.centres[-1]][None]
        distance = F.pairwise_distance(self.x, centre, p=2).reshape(-1, 1)
        self.nearest = distance if self.nearest is None else torch.minimum(self.nearest, distance)
        self.nearest[self.centres[-1]] = 0.0
        self.centres.append(int(self.nearest.argmax()))


def official_distances(a: Tensor, b: Tensor) -> Tensor:
    """The official code's form: the norms of both anew at each call, and one product. (n, d), (m, d) to (n, m)"""
    aa = a[:, None].bmm(a[:, :, None]).reshape(-1, 1)
    bb = b[:, None].bmm(b[:, :, None]).reshape(1, -1)
    return (-2 * (a @ b.T) + aa + bb).clamp(0, None).sqrt()


class OfficialForm:
    """A loop of the official approximate form: scores start as the mean distance to ten random rows. (N, d)"""

    def __init__(self, x: Tensor) -> None:
        self.x, self.centres = x, []
        starts = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED))[:10]
        self.nearest = official_distances(x, x[starts]).mean(1, keepdim=True)

    def step(self) -> None:
        self.centres.append(int(self.nearest.argmax()))
        distance = official_distances(self.x, self.x[self.centres[-1]][None])
        self.nearest = torch.cat([self.nearest, distance], 1).amin(1, keepdim=True)


def greedy_loop(loop: AnomalibForm | OfficialForm, k: int) -> dict[str, Any]:
    """Seconds of k steps: run whole if that takes at most LIMIT, else k times the median of those in SAMPLE seconds."""
    steps: list[float] = []
    while len(steps) < k:
        steps.append(seconds(loop.step))
        if sum(steps) > SAMPLE and statistics.median(steps) * k > LIMIT:
            break
    whole = len(steps) == k
    return {"seconds": sum(steps) if whole else statistics.median(steps) * k, "extrapolated": not whole,
            "iterations_run": len(steps), "median_iteration": statistics.median(steps)}  # fmt: skip


def coreset(small: bool, scratch: Path) -> dict[str, Any]:
    sizes = [(4_000, 400, True), (8_000, 80, False)] if small else [(40_000, 4_000, True), (160_000, 16_000, False)]
    results = []
    for n, k, wide in sizes:
        x = factory_features(n, wide)
        file = str(scratch / f"features_{n}.pt")
        torch.save(x, file)
        k_center_greedy(x[:2000], 100, start=SEED)  # warm-up
        greedy = partial(_our_coreset, k)
        ours, chosen = [seconds(partial(greedy, x))], greedy(x)
        result: dict[str, Any] = {"n": n, "k": k, "d": x.shape[1]}
        jl = jl_dimension(n, 0.9)
        peers = {
            "anomalib_form": lambda x=x: AnomalibForm(x),
            # what anomalib does by default: projected to the dimension of the lemma at ε = 0.9
            f"anomalib_form_{jl}": lambda x=x, jl=jl: AnomalibForm(random_projection(x, jl, seed=SEED)),
            "official_form_128": lambda x=x: OfficialForm(random_projection(x, 128, seed=SEED)),
        }
        for name, make in peers.items():
            loop = make()
            loop.step()  # warm-up, not counted
            result[name] = greedy_loop(loop, k)
            if not result[name]["extrapolated"]:
                result[name]["covering_radius"] = covering_radius(x, torch.tensor(loop.centres[:k]))
            if len(ours) < 3:  # ours again, between the others
                ours.append(seconds(partial(greedy, x)))
        result["adlib"] = {"seconds": statistics.median(ours), "all": [round(s, 4) for s in ours],
                           "covering_radius": covering_radius(x, chosen),
                           "extra_mb": extra_memory(greedy, file)}  # fmt: skip
        result["ratios"] = {name: result[name]["seconds"] / result["adlib"]["seconds"] for name in peers}
        results.append(result)
        print(f"coreset {n}/{k}: {result['adlib']['seconds']:.2f} s, ratios {rounded(result['ratios'])}", flush=True)
    return {"data": " ".join((factory_features.__doc__ or "").split()), "results": results}


def _our_coreset(k: int, x: Tensor) -> Tensor:
    return k_center_greedy(x, k, start=SEED)


if __name__ == "__main__":
    run(__doc__, coreset)
