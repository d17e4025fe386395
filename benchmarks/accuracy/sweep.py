"""The runs of `comparison`, products × seeds × ways, on the machines of a cluster, into one JSON; resumable.

    python -m benchmarks.accuracy.sweep --out sweep.json                                  # one process a core, here
    python -m benchmarks.accuracy.sweep --out sweep.json --scheduler tcp://machine:8786   # dask's, with this repository

A run that is in the file is not done again, one whose worker dies is done by another, and one that fails is named at
the end while the others stand. Each run is one thread; "cpu_seconds" is that of its worker.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distributed import Client, as_completed

from adlib.datasets import in_memory
from adlib.factory import PRODUCTS
from benchmarks import common
from benchmarks.accuracy.comparison import WAYS, run


def sweep(
    client: Client, work: Callable[..., dict[str, Any]], keys: list[dict[str, Any]], out: Path, about: dict[str, Any]
) -> list[str]:
    """`work(**key)` for each key that the file lacks; what failed, in words."""
    report = common.read(out, {"results": []})
    left = [key for key in keys if not any(key.items() <= r.items() for r in report["results"])]
    tasks = {client.submit(work, **key, pure=False): key for key in left}
    failed = []
    for task in as_completed(tasks):
        key = tasks[task]
        if task.status != "finished":
            failed.append(f"{key}: {task.exception()}")
            continue
        report["results"].append(key | task.result())
        common.write(out, about | report)
        print(key, flush=True)
    return failed


def one(data: str, seed: int, way: str, root: Path | None) -> dict[str, Any]:
    torch.set_num_threads(1)
    train, test = (in_memory(samples) for samples in common.load(data, seed, root))
    found = run(way, data, seed, train, test, Path(tempfile.gettempdir()) / "adlib_spd_backbones")
    return found | common.by_type(test, np.array(found.pop("scores")))


def main() -> None:
    parser = common.arguments(__doc__, None, "needed", data=[*PRODUCTS, "bottle"], seeds=range(3))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--scheduler", help="of dask; default: processes on this machine")
    args = parser.parse_args()
    if args.out is None:
        parser.error("--out is missing: expected the JSON to write to, and to go on from")
    names = args.data or [*PRODUCTS, *(["bottle"] if args.root else [])]
    keys = [{"data": name, "seed": seed, "way": way} for seed in args.seeds for name in names for way in args.ways
            if not (name == "bottle" and way in ("base", "spd"))]  # fmt: skip
    about = {"name": "sweep", "command": common.command(root=args.root), "threads": 1, "versions": common.versions()}
    with Client(args.scheduler) if args.scheduler else Client(threads_per_worker=1, dashboard_address=None) as client:

        def work(**key: Any) -> dict[str, Any]:
            return one(**key, root=args.root)

        if failed := sweep(client, work, keys, args.out, about):
            raise SystemExit("\n".join([f"{len(failed)} of {len(keys)} runs have failed; run it again:", *failed]))


if __name__ == "__main__":
    main()
