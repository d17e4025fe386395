"""Measure what a bank that is built in chunks loses, and what memory it takes, and write the figures as JSON.

    python -m benchmarks.accuracy.chunks                       # fabric and washer, three seeds; resumable
    python -m benchmarks.accuracy.chunks --memory              # the true peak beside the plan

Every bank of one product and seed scores the same images by the same features (224 pixels, layer2 and layer3, b = 9).
"one piece" is `k_center_greedy`; the others are `k_center_chunks` of `images` images a chunk, which keep `spare` times
the share from each chunk, or "as in the end", as many centres from each as the whole bank has. Beside each AUROC stand
the exact covering radius, the bound r₁ + r₂ (2.21), and the factor that the run itself tells, (2.23). One bank is of
images sorted by product: half its chunks show fabric, half washers, so that no chunk is like the whole.

--memory: rows with 16 dimensions and some noise in 288, as many as 600 images of 256 pixels have, made chunk by chunk;
the growth of the resident set's high water in a process of its own, beside `PatchCore.memory_needed`. And what the plan
says of 7,000 such images.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adlib import PatchCore
from adlib.chunks import cover, join, k_center_chunks
from adlib.coreset import covering_radius
from adlib.datasets import SyntheticFactory, in_memory
from adlib.metrics import image_auroc
from benchmarks import common
from benchmarks.accuracy.bank import image_scores, look, search

PRODUCTS = ("fabric", "washer")
SIZES = {"n_train": 48, "n_validation": 1, "n_test": 40, "n_defect": 42}
SHARES = (0.01, 0.1)
CHUNKS = (24, 6, 2)  # images
SPARES = (1, 2, 4)


def run(product: str, seed: int) -> list[dict[str, Any]]:
    data = SyntheticFactory(product, seed=seed, **SIZES)
    train, test = look(in_memory(data.train)), look(in_memory(data.test))
    label = np.array([s.label for s in data.test])
    bank, results = train.flatten(0, 1), []

    def measure(share: float, rows: Tensor, indices: Tensor, **about: Any) -> None:
        _, distances, at = next(search(test, rows, [len(rows)]))
        auroc = image_auroc(label, image_scores(test, rows, distances, at).numpy())
        results.append({"share": share, "centres": len(rows), "image_auroc": round(auroc, 5),
                        "radius": round(covering_radius(bank, indices), 4), **about})

    for share in SHARES:
        n = int(share * len(bank))
        whole = cover(bank, n, seed=seed)
        measure(share, whole.rows, whole.indices, bank="one piece")
        # At a tenth, as many centres as in the end would be all patches of a small chunk.
        for images in CHUNKS:
            for spare in (*SPARES, "as in the end") if share == SHARES[0] else (2,):
                rows = images * train.shape[1]
                each = n if isinstance(spare, str) else math.ceil(spare * share * rows)
                found = k_center_chunks(bank.split(rows), n, per_chunk=each, seed=seed)
                measure(share, found.rows, found.indices, bank="chunks", images=images, spare=spare,
                        bound=round(found.radius, 4),
                        factor=round(found.radius / found.least, 3) if found.least else None)
    return results


def sorted_by_product(seed: int) -> list[dict[str, Any]]:
    """The radius of one bank of both products, whose chunks show one each."""
    data = [SyntheticFactory(product, seed=seed, **SIZES) for product in PRODUCTS]
    rows = torch.cat([look(in_memory(d.train)) for d in data])
    bank, n = rows.flatten(0, 1), int(SHARES[0] * rows.shape[0] * rows.shape[1])
    results: list[dict[str, Any]] = [{"bank": "one piece", "radius": round(cover(bank, n, seed=seed).radius, 4)}]
    for images in CHUNKS[:2]:
        for spare in SPARES:
            each = math.ceil(spare * SHARES[0] * images * rows.shape[1])
            found = k_center_chunks(bank.split(images * rows.shape[1]), n, per_chunk=each, seed=seed)
            results.append({"bank": "chunks", "images": images, "spare": spare, "bound": round(found.radius, 4),
                            "radius": round(covering_radius(bank, found.indices), 4)})
    return results


# ---------------------------------------------------------------------- memory


def synthetic_rows(count: int, seed: int, width: int = 288) -> Tensor:
    """Rows (count, width) near a subspace of 16 dimensions, as features are near one of few."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(16, width, generator=generator) / 4
    generator.manual_seed(seed + 2)
    rows = torch.empty(count, width)
    for part in rows.split(8192):
        torch.randn(part.shape, generator=generator, out=part).mul_(0.02)
        part += torch.randn(len(part), 16, generator=generator) @ mix
    return rows


def _grow(images: int, chunk: int, share: float) -> float:
    def chunks() -> Iterator[Tensor]:
        for start in range(0, images, chunk):
            yield synthetic_rows(min(chunk, images - start) * 1024, start)

    synthetic_rows(1024, 0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _high_water()
    covers = list(map(lambda rows: cover(rows, int(2 * share * len(rows))), chunks()))  # noqa: C417, no loop variable
    join(covers, int(share * images * 1024))
    return _high_water() - before


def _high_water() -> float:
    return int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]) * 1024


def memory(images: int, chunk: int, share: float) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        peak = pool.submit(_grow, images, chunk, share).result()
    options: dict[str, Any] = {"image_size": 256, "coreset_ratio": share, "device": "cpu"}
    return {"images": images, "chunk": chunk, "share": share, "peak_MB": round(peak / 1e6),
            "plan_MB": round(PatchCore(chunk=chunk, **options).memory_needed(images) / 1e6),
            "one_piece_plan_MB": round(PatchCore(**options).memory_needed(images) / 1e6)}  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"), data=PRODUCTS, seeds=range(3))
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = common.read(args.out, {"runs": [], "sorted": [], "memory": []})
    if args.memory:
        report["memory"] = [memory(600, 60, 0.01), memory(600, 200, 0.01)]
        plan = PatchCore(image_size=256, coreset_ratio=0.01, device="cpu", chunk=512).memory_needed(7000)
        report["plan"] = {"images": 7000, "chunk": 512, "share": 0.01, "plan_MB": round(plan / 1e6)}
        save(args.out, report)
        return
    for seed in args.seeds:
        for product in args.data or PRODUCTS:
            if not any((r["data"], r["seed"]) == (product, seed) for r in report["runs"]):
                report["runs"].append({"data": product, "seed": seed, "banks": run(product, seed)})
                save(args.out, report)
                print(product, seed, flush=True)
        if not any(r["seed"] == seed for r in report["sorted"]):
            report["sorted"].append({"seed": seed, "banks": sorted_by_product(seed)})
            save(args.out, report)


def save(out: Path, report: dict[str, Any]) -> None:
    common.write(out, report | {
        "name": "a bank in chunks", "command": "python -m benchmarks.accuracy.chunks [--memory]",
        "versions": common.versions(), "threads": 1, "seeds": sorted({r["seed"] for r in report["runs"]}),
        "protocol": f"factory of the run's seed, {SIZES['n_train']} training images, {SIZES['n_test']} good and "
        f"{SIZES['n_defect']} defective test images; shipped backbone at 224 pixels",
    }, compact=True)  # fmt: skip


if __name__ == "__main__":
    main()
