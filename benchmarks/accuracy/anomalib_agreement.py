"""PatchCore beside anomalib's own PatchCore model on equal features: image AUROC, scores on one bank, time to fit.

    pip install anomalib    # in an environment of its own
    python -m benchmarks.accuracy.anomalib_agreement --root DATA

anomalib's `PatchcoreModel` gets our patch features in the place of its own backbone and pooling: 224 × 224 pixels, the
shipped network, layers 2 and 3. Its memory bank, its coreset (a sparse random projection, then a greedy selection),
its nearest neighbours and its re-weighting with nine neighbours are its own. Fixed before the first run: 1 % of the
bank, bottle and screw with their official splits, seed 0. It succeeds where the image AUROC of the two whole methods
differs by at most 0.002, and the image scores on one bank (ours, given to both) by at most 1e-5 of the largest. Each
whole method selects its own bank from its own start, so ours with four other starts stands beside: a difference of the
size of theirs is chance.

Time, in one run: processor seconds with one thread, which other work on the machine changes little, and seconds on the
clock, with the load of the machine beside them. "fit" is features and selection; images lie in memory, resized.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adlib import PatchCore
from adlib.features import PatchFeatures
from adlib.metrics import image_auroc
from adlib.reading import Reading
from benchmarks import common

RATIO, SIZE, BATCH, SEEDS = 0.01, 224, 16, range(1, 5)


class Ours(nn.Module):
    """Our patch features as the one layer of a feature extractor."""

    def __init__(self, features: PatchFeatures) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"patches": self.features(images)}


def their_model(features: PatchFeatures) -> Any:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel  # pyrefly: ignore[missing-import]

    model = PatchcoreModel(layers=["layer1"], backbone="resnet18", pre_trained=False, num_neighbors=9)
    model.layers, model.feature_extractor, model.feature_pooler = ["patches"], Ours(features), nn.Identity()
    return model


def timed(work: Callable[[], Any]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"cpu_seconds": round(time.process_time() - cpu, 2), "seconds": round(time.perf_counter() - wall, 2)}


def scores_of(model: Any, images: list[Tensor]) -> np.ndarray:
    model.eval()
    batches = (torch.stack(images[i : i + BATCH]) for i in range(0, len(images), BATCH))
    with torch.inference_mode():
        return torch.cat([model(batch).pred_score for batch in batches]).numpy()


def run(name: str, root: Path) -> dict[str, Any]:
    train, test = common.load(name, 0, root)
    looks = [[Reading().look(sample, (SIZE, SIZE)).image for sample in samples] for samples in (train, test)]
    targets = np.array([s.label for s in test])
    ours = PatchCore(coreset_ratio=RATIO, image_size=SIZE, device="cpu", seed=0)
    our_fit = timed(lambda: ours.fit(looks[0]))
    mine = ours.predict(looks[1]).scores
    theirs = their_model(ours.features)
    theirs.train()

    def embed() -> None:
        with torch.no_grad():
            for i in range(0, len(looks[0]), BATCH):
                theirs(torch.stack(looks[0][i : i + BATCH]))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        np.random.seed(0)
        their_embedding, their_selection = timed(embed), timed(lambda: theirs.subsample_embedding(RATIO))
    kept, whole = len(theirs.memory_bank), scores_of(theirs, looks[1])
    theirs.memory_bank = ours.memory_bank
    on_our_bank = scores_of(theirs, looks[1])

    others = [PatchCore(coreset_ratio=RATIO, image_size=SIZE, device="cpu", seed=seed).fit(looks[0]) for seed in SEEDS]
    spent = their_embedding["cpu_seconds"] + their_selection["cpu_seconds"]
    return {
        "data": name, "bank": [len(ours.memory_bank), kept], "image_auroc_ours": common.auroc(targets, mine),
        "image_auroc_anomalib": common.auroc(targets, whole),
        "image_auroc_anomalib_on_our_bank": common.auroc(targets, on_our_bank),
        "image_auroc_ours_other_seeds": [image_auroc(targets, other.predict(looks[1]).scores) for other in others],
        "scores_on_one_bank": float(np.abs(on_our_bank - mine).max() / mine.max()),
        "fit_ours": our_fit, "embedding_anomalib": their_embedding, "selection_anomalib": their_selection,
        "fit_ratio_of_cpu_seconds": round(spent / our_fit["cpu_seconds"], 1),
    }  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), data=["bottle", "screw"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = common.read(args.out, {"results": []})
    for name in args.data or ["bottle", "screw"]:
        if any(r["data"] == name for r in report["results"]):
            continue
        load = os.getloadavg()[0]
        report["results"].append(run(name, args.root) | {"load_average": [load, os.getloadavg()[0]]})
        common.write(args.out, {
            "name": "PatchCore beside anomalib's, equal features", "command": common.command(root="DATA"),
            "versions": common.versions() | {"anomalib": metadata.version("anomalib")}, "threads": 1, "device": "cpu",
            "cores": os.cpu_count(), "seeds": [0, *SEEDS],
            "protocol": f"official split, {SIZE} × {SIZE} pixels, {RATIO:.0%} of the bank, "
            "shipped backbone, seed 0", "bounds": {"image_auroc": 0.002, "scores_on_one_bank": 1e-5}, **report,
        })  # fmt: skip
        print(report["results"][-1], flush=True)


if __name__ == "__main__":
    main()
