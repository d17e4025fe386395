"""Time adlib beside other forms of the same computations, in one run, and write the figures as JSON.

    python benchmarks/speed.py                       # coreset, neighbours, metrics, patchcore
    python benchmarks/speed.py metrics --small       # one of them, in small: to see that it works

Ours and the other form take turns on the same data, after a warm-up; what counts is the ratio of the medians.
The other forms are written here anew, after the algorithms of anomalib 2.7.0 and of the official PatchCore code;
faiss (optional: pip install faiss-cpu) and scikit-learn are called as they are. Where a loop would take minutes,
it runs for a sample of its iterations and the JSON says "extrapolated": true. Memory is the growth of the resident
set's high water in a process of its own. One JSON file each: benchmarks/results/speed_NAME.json.
"""

from __future__ import annotations

import os

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # waiting threads that spin slow everything that shares the machine
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

import argparse
import copy
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from adlib import PatchCore, metrics
from adlib.backbones import load_backbone
from adlib.coreset import covering_radius, jl_dimension, k_center_greedy, random_projection
from adlib.datasets import SyntheticFactory
from adlib.features import PatchFeatures, to_rows
from adlib.images import resize_image
from adlib.neighbors import Bank, k_nearest

SEED = 0
LIMIT = 150.0  # seconds; a loop that would take longer is extrapolated
SAMPLE = 15.0  # seconds that are spent on the iterations of such a loop


# ---------------------------------------------------------------------- measuring


def alternate(forms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of each form: one call to warm up, then `repeats` rounds in which each has its turn."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for form in forms.values():
        form()
    for _ in range(repeats):
        for name, form in forms.items():
            began = time.perf_counter()
            form()
            seconds[name].append(time.perf_counter() - began)
    return {name: {"seconds": statistics.median(s), "all": [round(x, 5) for x in s]} for name, s in seconds.items()}


def extra_memory(form: Callable[..., Any], *inputs: str) -> float:
    """MB by which `form(*arrays)` raises the resident set's high water over that with the inputs loaded.

    inputs: files of torch.save; a fresh process reads them. A module-layer function, so that it can be sent there.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return round(pool.submit(_growth, form, inputs).result(), 1)


def _growth(form: Callable[..., Any], inputs: tuple[str, ...]) -> float:
    arrays = [torch.load(path, weights_only=True) for path in inputs]
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # what importing took does not count (Linux)
    before = _high_water()
    form(*arrays)
    return _high_water() - before


def _high_water() -> float:
    """In MB. Not getrusage's figure: a new process inherits that from the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1000


# ---------------------------------------------------------------------- coreset


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
        began = time.perf_counter()
        loop.step()
        steps.append(time.perf_counter() - began)
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
        ours = []
        began = time.perf_counter()
        chosen = k_center_greedy(x, k, start=SEED)
        ours.append(time.perf_counter() - began)
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
                began = time.perf_counter()
                k_center_greedy(x, k, start=SEED)
                ours.append(time.perf_counter() - began)
        result["adlib"] = {"seconds": statistics.median(ours), "all": [round(s, 4) for s in ours],
                           "covering_radius": covering_radius(x, chosen),
                           "extra_mb": extra_memory(partial(_our_coreset, k), file)}  # fmt: skip
        result["ratios"] = {name: result[name]["seconds"] / result["adlib"]["seconds"] for name in peers}
        results.append(result)
        print(f"coreset {n}/{k}: {result['adlib']['seconds']:.2f} s, ratios {rounded(result['ratios'])}", flush=True)
    return {"data": " ".join((factory_features.__doc__ or "").split()), "results": results}


def _our_coreset(k: int, x: Tensor) -> None:
    k_center_greedy(x, k, start=SEED)


# ---------------------------------------------------------------------- neighbours


def neighbours(small: bool, scratch: Path) -> dict[str, Any]:
    """784 queries, nearest one. Normal random numbers: an exhaustive search takes as long for any."""
    banks, widths = ((1_000,), (288, 384)) if small else ((1_000, 10_000, 16_000, 40_000), (288, 384, 1024, 1536))
    note = None if util.find_spec("faiss") else "faiss is not installed: pip install faiss-cpu to have it beside"
    if note:
        print(note)
    generator, results = torch.Generator().manual_seed(SEED), []
    for d in widths:
        for n in banks:
            rows, queries = torch.randn(n, d, generator=generator), torch.randn(784, d, generator=generator)
            torch.save(rows, scratch / "rows.pt")
            torch.save(queries, scratch / "queries.pt")
            bank = Bank(rows)
            forms = {
                "adlib": lambda q=queries, r=rows: k_nearest(q, r, 1),
                "adlib_prepared_bank": lambda q=queries, b=bank: k_nearest(q, b, 1),
                "anomalib_form": lambda q=queries, r=rows: _all_distances(q, r),
            }
            if note is None:
                forms["faiss_flat"] = _faiss_search(rows, queries)
            result: dict[str, Any] = {"n": n, "d": d} | alternate(forms, 3 if small else 7)
            ours = result["adlib_prepared_bank"]["seconds"]
            result["ratios"] = {f: result[f]["seconds"] / ours for f in forms if not f.startswith("adlib")}
            if note is None:
                result["to_faiss"] = {f: result[f]["seconds"] / result["faiss_flat"]["seconds"]
                                      for f in ("adlib", "adlib_prepared_bank")}  # fmt: skip
            if n == banks[-1]:
                files = str(scratch / "queries.pt"), str(scratch / "rows.pt")
                result["adlib"]["extra_mb"] = extra_memory(k_nearest, *files)
                result["anomalib_form"]["extra_mb"] = extra_memory(_all_distances, *files)
            results.append(result)
            print(f"neighbours d={d} n={n}: {ours * 1e3:.1f} ms, to faiss {rounded(result.get('to_faiss', {}))}",
                  flush=True)
    return {"data": " ".join((neighbours.__doc__ or "").split()), "note": note, "results": results}


def _all_distances(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """anomalib's form of a search: the matrix of all distances from the norms and one product, then its minimum."""
    return _distance_matrix(queries, bank).min(1)


def _distance_matrix(queries: Tensor, bank: Tensor) -> Tensor:
    squared = queries.square().sum(1, keepdim=True) - 2 * (queries @ bank.T) + bank.square().sum(1)
    return squared.clamp_(min=0).sqrt_()


def _faiss_search(rows: Tensor, queries: Tensor) -> Callable[[], Any]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows.numpy())
    return lambda: index.search(queries.numpy(), 1)


# ---------------------------------------------------------------------- metrics


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


# ---------------------------------------------------------------------- PatchCore, one image


class AnomalibPatchCore:
    """PatchCore's steps for an image as anomalib does them, on our backbone's weights and our bank (N, C).

    Contiguous NCHW, the matrix of all distances, re-weighting over nine neighbours, a bilinear map and one 33×33
    Gaussian kernel. Only the border of the 3×3 mean is ours, without the zeros from outside, so that scores agree.
    """

    def __init__(self, detector: PatchCore) -> None:
        self.layers, self.bank = detector.features.layers, detector.memory_bank
        self.backbone = copy.deepcopy(detector.features.backbone).to(memory_format=torch.contiguous_format).eval()
        self.mean, self.std = detector.features.mean, detector.features.std
        self.pool = torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        line = torch.exp(-torch.arange(-16.0, 17.0).square() / (2 * detector.smoothing**2))
        self.kernel = (line[:, None] * line / line.sum() ** 2)[None, None]

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.backbone((images - self.mean) / self.std)
        cells = [self.pool(outputs[layer]) for layer in self.layers]
        cells = [cells[0]] + [F.interpolate(c, cells[0].shape[-2:], mode="bilinear") for c in cells[1:]]
        b, _, h, w = cells[0].shape
        queries = to_rows(torch.cat(cells, 1))
        distances, nearest = (t.view(b, h * w) for t in _all_distances(queries, self.bank))
        worst = distances.argmax(1)
        rows = torch.arange(b)
        star = self.bank[nearest[rows, worst]]
        around = _distance_matrix(star, self.bank).topk(9, largest=False).indices  # (B, 9)
        to_all = torch.cdist(queries.view(b, h * w, -1)[rows, worst][:, None], self.bank[around])[:, 0]
        scores = (1 - F.softmax(to_all, 1)[:, 0]) * distances[rows, worst]
        maps = F.interpolate(distances.view(b, 1, h, w), images.shape[-2:], mode="bilinear")
        return scores, F.conv2d(F.pad(maps, (16, 16, 16, 16), mode="reflect"), self.kernel)[:, 0]


def patchcore(small: bool, scratch: Path) -> dict[str, Any]:
    """One picture of the factory at 224 pixels; torchvision's ResNet-18 with random weights; a bank of real patches."""
    size, results = 2_000 if small else 10_000, []
    detector = PatchCore("resnet18", pretrained=False, seed=SEED, device="cpu").eval()
    pictures = [resize_image(s.image, (224, 224)) for s in SyntheticFactory("washer", n_train=size // 784 + 2).train]
    with torch.inference_mode():
        rows = torch.cat([to_rows(detector.features(image[None])) for image in pictures[1:]])[:size]
    detector.memory_bank = rows.clone()
    peer = AnomalibPatchCore(detector)
    for batch in (1,) if small else (1, 8):
        images = pictures[0][None].repeat(batch, 1, 1, 1)
        with torch.inference_mode():
            timing = alternate({"adlib": lambda x=images: detector(x), "anomalib_form": lambda x=images: peer(x)},
                               5 if small else 15)  # fmt: skip
            difference = float((detector(images)[0] / peer(images)[0] - 1).abs().max())
        ratio = timing["anomalib_form"]["seconds"] / timing["adlib"]["seconds"]
        results.append({"bank": size, "d": rows.shape[1], "batch": batch, "timing": timing, "ratio": ratio,
                        "relative_difference_of_scores": difference})  # fmt: skip
        print(f"patchcore, batch {batch}: {timing['adlib']['seconds'] * 1e3:.0f} ms, ratio {ratio:.2f}, "
              f"scores differ by {difference:.1e}", flush=True)
    return {"data": " ".join((patchcore.__doc__ or "").split()), "results": results}


# ---------------------------------------------------------------------- the script


MEASUREMENTS = {"coreset": coreset, "neighbours": neighbours, "metrics": measure_metrics, "patchcore": patchcore}


def rounded(ratios: dict[str, float]) -> dict[str, float]:
    return {name: round(ratio, 2) for name, ratio in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASUREMENTS)}; default: all")
    parser.add_argument("--small", action="store_true", help="small sizes; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON files")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in MEASUREMENTS]:
        parser.error(f"no measurement {unknown[0]!r}: expected some of {', '.join(MEASUREMENTS)}")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    packages = ["torch", "torchvision", "numpy", "scikit-learn", "scipy", "adlib"]
    packages += ["faiss-cpu"] if util.find_spec("faiss") else []
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or MEASUREMENTS:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            measured = MEASUREMENTS[name](args.small, Path(scratch))
        report = {
            "name": f"speed, {name}", "command": f"python benchmarks/speed.py {name}" + " --small" * args.small,
            "versions": {"python": platform.python_version(), **{p: _version(p) for p in packages}},
            "threads": torch.get_num_threads(), "device": "cpu", "seed": SEED,
            "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"],
            "load_average": os.getloadavg()[0], "seconds": round(time.perf_counter() - began, 1), **measured,
        }  # fmt: skip
        out = args.out / f"speed_{name}.json"
        part = out.with_suffix(".part")
        part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        os.replace(part, out)
        print(f"wrote {out.name}", flush=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
