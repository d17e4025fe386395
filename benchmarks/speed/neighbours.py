"""Time the nearest neighbours beside a matrix of all distances and beside faiss, and write the figures as JSON.

    python -m benchmarks.speed.neighbours [--small]

faiss (optional: pip install faiss-cpu) is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adlib.neighbors import Bank, k_nearest
from benchmarks.speed.timing import SEED, alternate, extra_memory, rounded, run


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
                "anomalib_form": lambda q=queries, r=rows: all_distances(q, r),
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
                result["anomalib_form"]["extra_mb"] = extra_memory(all_distances, *files)
            results.append(result)
            print(f"neighbours d={d} n={n}: {ours * 1e3:.1f} ms, to faiss {rounded(result.get('to_faiss', {}))}",
                  flush=True)
    return {"data": " ".join((neighbours.__doc__ or "").split()), "note": note, "results": results}


def all_distances(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """anomalib's form of a search: the matrix of all distances from the norms and one product, then its minimum."""
    return distance_matrix(queries, bank).min(1)


def distance_matrix(queries: Tensor, bank: Tensor) -> Tensor:
    squared = queries.square().sum(1, keepdim=True) - 2 * (queries @ bank.T) + bank.square().sum(1)
    return squared.clamp_(min=0).sqrt_()


def _faiss_search(rows: Tensor, queries: Tensor) -> Callable[[], Any]:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows.numpy())
    return lambda: index.search(queries.numpy(), 1)


if __name__ == "__main__":
    run(__doc__, neighbours)
