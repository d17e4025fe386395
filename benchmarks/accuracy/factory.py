"""Measure how hard the synthetic factory is, and write the figures as JSON.

    python -m benchmarks.accuracy.factory --seeds 0
    python -m benchmarks.accuracy.factory --seeds 0 --products kit    # one anew; the others stay as they are

Four ways to score the same images of each product, in the factory's default sizes:

    patchcore       PatchCore with its defaults and the shipped backbone
    random          the same with random weights
    global average  distance to the nearest training image, by features averaged over the whole image
    mean image      difference from the mean training image, smoothed, its largest value

Structural and logical anomalies are measured apart, each against all good test images. The seed is the
factory's and the detector's.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from adlib import PatchCore
from adlib.backbones import load_backbone
from adlib.datasets import Sample, SyntheticFactory, in_memory
from adlib.factory import PRODUCTS, VERSION
from adlib.features import PatchFeatures
from adlib.images import resize_image
from adlib.neighbors import k_nearest
from benchmarks import common
from benchmarks.common import by_type

LAYERS = ("layer2", "layer3")


def mean_image(train: list[Sample], test: list[Sample]) -> np.ndarray:
    mean = torch.stack([s.image for s in train]).mean(0)
    return np.array([gaussian_filter((s.image - mean).abs().mean(0).numpy(), 2).max() for s in test])


def global_average(train: list[Sample], test: list[Sample]) -> np.ndarray:
    features = PatchFeatures(load_backbone("adlib_resnet18"), LAYERS)

    def averaged(samples: list[Sample]) -> torch.Tensor:
        with torch.inference_mode():
            rows = [features(resize_image(s.image, (224, 224))[None]).mean((2, 3)) for s in samples]
        return torch.cat(rows)  # (N, C)

    return k_nearest(averaged(test), averaged(train), 1)[0][:, 0].numpy()


def patchcore(train: list[Sample], test: list[Sample], seed: int, pretrained: bool = True) -> np.ndarray:
    return PatchCore(pretrained=pretrained, seed=seed).fit(train).predict(test).scores


def speed(product: str) -> dict[str, float]:
    """Pictures a second and core: good ones, defective ones, and all of the default data set."""
    data = SyntheticFactory(product, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _ = data.train[0].image
    rates, spent, drawn = {}, 0.0, 0
    for name, samples in (("good", data.train), ("defective", [s for s in data.test if s.label])):
        some = samples[:: max(1, len(samples) // 40)]
        start = time.process_time()
        for sample in some:
            _ = sample.image
        each = (time.process_time() - start) / len(some)
        rates[name] = round(1 / each, 1)
        count = len(samples) if name == "defective" else 500
        spent, drawn = spent + each * count, drawn + count
    torch.set_num_threads(threads)
    return rates | {"all": round(drawn / spent, 1)}


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), seeds=[0])
    parser.add_argument("--products", nargs="+", default=list(PRODUCTS), choices=list(PRODUCTS))
    args = parser.parse_args()
    old = common.read(args.out, {"factory_version": None})
    products = old["products"] if (old["factory_version"], old.get("seeds")) == (VERSION, args.seeds) else {}
    for product in args.products:
        entry: dict = {"pictures_per_second": speed(product), "patchcore": [], "baselines": {}}
        for seed in args.seeds:
            train, test = (in_memory(samples) for samples in common.load(product, seed, None))
            measured = by_type(test, patchcore(train, test, seed))
            entry["patchcore"].append({"seed": seed, **measured})
            print(product, f"seed {seed}", measured, flush=True)
            baselines = {"random": patchcore(train, test, seed, pretrained=False),
                         "global average": global_average(train, test), "mean image": mean_image(train, test)}
            for name, scores in baselines.items():
                measured = by_type(test, scores)
                del measured["by_kind"]
                entry["baselines"].setdefault(name, []).append({"seed": seed, **measured})
                print(product, name, measured, flush=True)
        products[product] = entry
        write(args.out, args.seeds, products)


def write(out: Path, seeds: list[int], products: dict[str, dict]) -> None:
    common.write(out, {
        "name": "The synthetic factory, how hard it is", "factory_version": VERSION,
        "command": common.command(seeds=seeds), "versions": common.versions(), "threads": torch.get_num_threads(),
        "backbone": "adlib_resnet18", "protocol": "the factory's default sizes: 200 training images, 200 good test "
        "images, 200 defective ones of each anomaly type; 256 pixels",
        "seeds": seeds, "products": {product: products[product] for product in PRODUCTS if product in products},
    })  # fmt: skip


if __name__ == "__main__":
    main()
