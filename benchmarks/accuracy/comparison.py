"""Compare the three detectors, and PatchCore on a backbone pre-trained with and without SPD, on the same images.

    python -m benchmarks.accuracy.comparison                # scores: the factory's four products, three seeds, six ways
    python -m benchmarks.accuracy.comparison --root DATA    # bottle as well, from DATA/mvtec_ad
    python -m benchmarks.accuracy.comparison --cost         # time and memory; nothing else should run
    python -m benchmarks.accuracy.comparison --maps         # maps for a figure: seed 0, the three detectors

Every way sees the same 200 training images (bottle: 209) and the same test images; EfficientAD holds a tenth of the
training images out. A factory run draws its pictures from the run's seed, which is the detector's seed as well. The
detectors have their defaults, except that EfficientAD computes its convolutions in bfloat16. "patchcore_128" is
PatchCore on images of 128 pixels, the size that EfficientAD sees. "base" and "spd" are
PatchCore on a narrow ResNet-18 that `benchmarks.accuracy.spd` trains from random weights by SimSiam alone and by
SimSiam with SPD; beside each other they show what SPD changes, beside the other rows only what a small training can
reach.

The score of each test image is kept, so that the chapter can draw images again and compare ways pair by pair.
Scores go to comparison_scores.json, figures to comparison.json. A run that is there is not done again.
`--maps` fits the three detectors of seed 0 again and keeps, in comparison_maps.json, the anomaly map of the first test
image of each kind, small. In a map 0 is the median of the good test maps and 100 the limit: 5 % of these have a peak
above it.
Each run is one process on one thread; "cpu_seconds" is its processor time for fitting, and no timing of a quiet
machine: that is `--cost`, with two threads, each way in a process of its own.
"""

from __future__ import annotations

import base64
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.datasets import Sample, SyntheticFactory, hold_out, in_memory
from adlib.detector import Detector
from adlib.factory import PRODUCTS
from adlib.metrics import au_pro, au_spro
from adlib.resnet import ResNet18
from benchmarks import common
from benchmarks.accuracy.efficientad import SMALL, small
from benchmarks.accuracy.spd import STEPS, WIDTH, trained

WAYS = ("patchcore", "simplenet", "efficientad", "patchcore_128", "base", "spd")
DIGITS = 6  # of a score that is kept
SIDE = 40  # of a map that is kept


def backbone(variant: str, seed: int, folder: Path) -> ResNet18:
    """The network of benchmarks/accuracy/spd.py, trained by SimSiam without or with SPD; kept in `folder`."""
    path = folder / f"simsiam_{variant}_{seed}.safetensors"
    if path.is_file():
        network = ResNet18(WIDTH)
        network.load_state_dict(load_file(path), strict=False)
        return network.eval()
    network, *_ = trained("simsiam", variant, seed, STEPS)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return network


def make(way: str, seed: int, folder: Path) -> Detector:
    if way == "simplenet":
        return SimpleNet(device="cpu", seed=seed)
    if way == "efficientad":
        return EfficientAD(device="cpu", seed=seed, **SMALL)
    if way in ("patchcore", "patchcore_128"):
        size = {"image_size": 128} if way == "patchcore_128" else {}
        return PatchCore(device="cpu", seed=seed, **size)
    return PatchCore(backbone(way, seed, folder), device="cpu", seed=seed)


def fit(way: str, detector: Detector, train: list[Sample], seed: int) -> Detector:
    if way != "efficientad":
        return detector.fit(train)
    rest, held = hold_out(train, 0.1, seed=seed)  # as the detector itself does it
    side = detector.image_size[0]
    return detector.fit(small(rest, side), validation=small(held, side))


def run(way: str, name: str, seed: int, train: list[Sample], test: list[Sample], folder: Path) -> dict[str, Any]:
    """One run; "scores" are taken out of it again before the figures are written."""
    detector = make(way, seed, folder)
    start = time.process_time()
    fit(way, detector, train, seed)
    spent = time.process_time() - start
    prediction = detector.predict(test)
    maps = list(prediction.maps)
    return {"data": name, "seed": seed, "way": way, "cpu_seconds": round(spent, 1),
            "au_pro": au_pro([s.mask.numpy() for s in test], maps),
            "au_spro_0.05": au_spro([s.regions for s in test], maps),
            "scores": [float(f"{s:.{DIGITS}g}") for s in prediction.scores]}  # fmt: skip


def small_maps(way: str, name: str, train: list[Sample], test: list[Sample], before: list[float]) -> dict[str, Any]:
    """The map of the first test image of each kind, by its number, as bytes from the median (0) to the limit (100)."""
    prediction = fit(way, make(way, 0, Path()), train, 0).predict(test)
    maps = torch.stack([F.adaptive_avg_pool2d(torch.as_tensor(m)[None], SIDE)[0] for m in prediction.maps])
    good = maps[[s.label == 0 for s in test]]
    middle, limit = float(good.median()), float(np.quantile(good.amax((1, 2)), 0.95))
    maps = (100 * (maps - middle) / (limit - middle)).round().clamp(0, 255).byte()
    first = {s.kind: i for i, s in reversed(list(enumerate(test)))}
    return {"data": name, "way": way, "median": middle, "limit": limit,
            "largest_change_of_a_score": float(np.abs(prediction.scores - before).max()),
            "maps": {i: base64.b64encode(maps[i].numpy()).decode() for i in sorted(first.values())}}  # fmt: skip


def cost(way: str, seed: int, folder: Path, answer: Any) -> None:
    """Fit on 200 boards, then score one image at a time and sixteen: in a process of its own, for the peak memory."""
    torch.set_num_threads(2)
    data = SyntheticFactory("board", seed=seed)
    train, test = in_memory(data.train), in_memory(data.test[:48])
    detector = make(way, seed, folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    fit(way, detector, train, seed)
    fitting = time.perf_counter() - start
    side = detector.image_size[0]
    images = torch.stack([s.image for s in small(test, side)])
    times: dict[int, list[float]] = {1: [], 16: []}
    with torch.inference_mode():
        for size, repeats in ((1, 40), (16, 12)):
            for i in range(repeats):
                batch = images[torch.arange(i * size, (i + 1) * size) % len(images)]
                start = time.perf_counter()
                detector(batch)
                times[size].append((time.perf_counter() - start) / size)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "detector.safetensors"
        detector.save(path)
        saved = path.stat().st_size
    answer.put({"way": way, "fit_seconds": round(fitting, 1), "saved_bytes": saved,
                "peak_mb_over_loaded_data": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
                "one_image_seconds": statistics.median(times[1][5:]),
                "of_sixteen_seconds": statistics.median(times[16][2:])})  # fmt: skip


def costs(seed: int, folder: Path) -> list[dict[str, Any]]:
    found, context = [], multiprocessing.get_context("spawn")
    for way in ("patchcore", "simplenet", "efficientad"):
        answer = context.Queue()
        process = context.Process(target=cost, args=(way, seed, folder, answer))
        process.start()
        found.append(answer.get())
        process.join()
        print(found[-1], flush=True)
    return found


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), data=[*PRODUCTS, "bottle"], seeds=range(3))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--maps", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "adlib_spd_backbones")
    args = parser.parse_args()
    scores_at = args.out.with_stem(args.out.stem + "_scores")
    report = common.read(args.out, {"results": []})
    kept = common.read(scores_at, {"tests": {}, "scores": {}})
    if args.cost:
        os.environ |= {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}  # of the processes that are timed
        report["cost"] = {"threads": 2, "data": "200 training images of board, 256 pixels, seed 0, in memory",
                          "load_average": os.getloadavg()[0], "results": costs(0, args.folder)}
        return save(args.out, report)
    torch.set_num_threads(1)
    names = args.data or [*PRODUCTS, *(["bottle"] if args.root else [])]
    if args.maps:
        return keep_maps(args.out.with_stem(args.out.stem + "_maps"), names, args.ways, kept["scores"])
    for seed in args.seeds:
        for name in names:
            done = {r["way"] for r in report["results"] if (r["data"], r["seed"]) == (name, seed)}
            ways = [w for w in args.ways if w not in done and not (name == "bottle" and w in ("base", "spd"))]
            if not ways:
                continue
            train, test = (in_memory(samples) for samples in common.load(name, seed, args.root))
            kept["tests"][name] = {"kind": [s.kind for s in test], "label": [s.label for s in test],
                                   "logical": [bool(s.logical) for s in test]}  # the same for every seed
            for way in ways:
                found = run(way, name, seed, train, test, args.folder)
                scores = kept["scores"][f"{name} {seed} {way}"] = found.pop("scores")
                found |= common.by_type(test, np.array(scores))
                report["results"].append(found)
                common.write(scores_at, kept, compact=True)
                save(args.out, report)
                parts = {k: round(found[k]["value"], 4) for k in ("structural", "logical") if k in found}
                print(name, seed, way, parts, found["cpu_seconds"], "s", flush=True)


def keep_maps(out: Path, names: list[str], ways: list[str], scores: dict[str, list[float]]) -> None:
    report = common.read(out, {"results": []})
    for name in names:
        samples = None
        for way in [way for way in WAYS[:3] if way in ways]:
            if not any((r["data"], r["way"]) == (name, way) for r in report["results"]):
                samples = samples or tuple(in_memory(part) for part in common.load(name, 0, None))
                report["results"].append(small_maps(way, name, *samples, scores[f"{name} 0 {way}"]))
                common.write(out, {"name": "comparison, maps of some test images, seed 0; 100 is the limit",
                                   "command": common.command("--maps"), "versions": common.versions(), "side": SIDE,
                                   **report}, compact=True)  # fmt: skip
                print(name, way, {k: v for k, v in report["results"][-1].items() if k != "maps"}, flush=True)


def save(out: Path, report: dict[str, Any]) -> None:
    common.write(out, {
        "name": "comparison", "command": common.command(root="DATA"), "threads": 1, "device": "cpu",
        "versions": common.versions(),
        "protocol": "factory: 200 training images of the run's seed, 200 good test images and 200 anomalous ones of "
        "each type; bottle: official split, images reduced to 450×450; whole images, 224 pixels, EfficientAD 128; "
        "defaults of each detector, EfficientAD in bfloat16; base and spd: PatchCore on the network of "
        "benchmarks/accuracy/spd.py, trained by SimSiam without and with SPD",
        **report, "results": sorted(report["results"], key=lambda r: (r["data"], r["seed"], WAYS.index(r["way"]))),
    })  # fmt: skip


if __name__ == "__main__":
    main()
