"""Time a bank in chunks against the number of patches, up to ten million, and write the figures as JSON.

    python -m benchmarks.speed.chunks --patches 100000 300000 1000000
    python -m benchmarks.speed.chunks --patches 3000000 10000000        # goes on in the same file; takes hours

Rows of 288 numbers near a subspace of 16 dimensions, made chunk by chunk, of which a hundredth is kept; 100,000 rows a
chunk. The one-piece selection is timed beside it where its rows and their copy fit into --memory bytes. Each figure is
one run; making the rows is not in it. A size that is in the file is not run again. Memory is the growth of the resident
set's high water in a process of its own, the making of one chunk's rows included.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from adlib.chunks import cover, join
from benchmarks import common
from benchmarks.accuracy.chunks import synthetic_rows
from benchmarks.speed.timing import _high_water

SHARE, SPARE, ROWS, WIDTH = 0.01, 2, 100_000, 288


def _before() -> float:
    synthetic_rows(1000, 0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _high_water()


def in_chunks(patches: int) -> dict[str, Any]:
    before, covers, first = _before(), [], 0.0
    for start in range(0, patches, ROWS):
        rows = synthetic_rows(min(ROWS, patches - start), start)
        began = time.perf_counter()
        covers.append(cover(rows, int(SPARE * SHARE * len(rows))))
        first += time.perf_counter() - began
        del rows
    inner, began = max(c.radius for c in covers), time.perf_counter()
    found = join(covers, int(SHARE * patches))
    return {"first_round_seconds": round(first, 2), "second_round_seconds": round(time.perf_counter() - began, 2),
            "memory_MB": round(_high_water() - before), "first_radius": round(inner, 4),
            "bound": round(found.radius, 4), "factor": round(found.radius / found.least, 3)}  # fmt: skip


def in_one_piece(patches: int) -> dict[str, Any]:
    before = _before()
    rows = torch.empty(patches, WIDTH)
    for start in range(0, patches, ROWS):
        rows[start : start + ROWS] = synthetic_rows(min(ROWS, patches - start), start)
    began = time.perf_counter()
    found = cover(rows, int(SHARE * patches))
    return {"seconds": round(time.perf_counter() - began, 2), "memory_MB": round(_high_water() - before),
            "radius": round(found.radius, 4)}  # fmt: skip


def alone(work: Any, patches: int) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, patches).result()


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"))
    parser.add_argument("--patches", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--memory", type=float, default=6e9)
    args = parser.parse_args()
    for patches in args.patches:
        report = common.read(args.out, {"results": []})
        if any(r["patches"] == patches for r in report["results"]):
            continue
        result: dict[str, Any] = {"patches": patches, "chunks": alone(in_chunks, patches)}
        if 2 * 4 * WIDTH * patches <= args.memory:
            result["one_piece"] = alone(in_one_piece, patches)
        print(result, flush=True)
        report["results"] = sorted([*report["results"], result], key=lambda r: r["patches"])
        common.write(args.out, report | {
            "name": "speed, chunks", "command": "python -m benchmarks.speed.chunks", "versions": common.versions(),
            "threads": int(os.environ["OMP_NUM_THREADS"]), "device": "cpu", "seed": 0, "share": SHARE, "spare": SPARE,
            "rows_of_a_chunk": ROWS, "width": WIDTH, "load_average": os.getloadavg()[0],
            "protocol": f"rows of {WIDTH} numbers near a subspace of 16 dimensions, {SHARE:.0%} kept, {ROWS:,} rows a "
            "chunk; one run each, the other work on the machine at a lower priority",
        })  # fmt: skip


if __name__ == "__main__":
    main()
