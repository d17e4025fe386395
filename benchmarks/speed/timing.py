"""How the scripts of this folder measure and report.

Ours and the other form take turns on the same data, after a warm-up; what counts is the ratio of the medians. Memory
is the growth of the resident set's high water in a process of its own. With --small, sizes are small and the figures
mean nothing: it shows that a script works.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks import common

SEED = 0


def seconds(form: Callable[[], Any]) -> float:
    began = time.perf_counter()
    form()
    return time.perf_counter() - began


def alternate(forms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of each form: one call to warm up, then `repeats` rounds in which each has its turn."""
    for form in forms.values():
        form()
    rounds = [{name: seconds(form) for name, form in forms.items()} for _ in range(repeats)]
    return {name: {"seconds": statistics.median(r[name] for r in rounds), "all": [round(r[name], 5) for r in rounds]}
            for name in forms}  # fmt: skip


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


def entry(what: str, timing: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The time of the peer over that of adlib, and both."""
    peer = next(name for name in timing if name != "adlib")
    ours, theirs = (timing[name]["seconds"] * 1e3 for name in ("adlib", peer))
    print(f"{what}: adlib {ours:.2f} ms, {peer} {theirs:.2f} ms, ratio {theirs / ours:.3f}", flush=True)
    return {"what": what, "peer": peer, "ratio": round(theirs / ours, 3), **more, "timing": timing}


def rounded(ratios: dict[str, float]) -> dict[str, float]:
    return {name: round(ratio, 2) for name, ratio in ratios.items()}


def run(doc: str, measure: Callable[[bool, Path], dict[str, Any]]) -> None:
    """The command of a script: `measure(small, scratch)` gives "data" and "results", written as NAME.json."""
    name = common.module().split(".")[-1]
    parser = common.arguments(doc, None, f"default: {name}.json beside the script, of --small in the temporary folder")
    parser.add_argument("--small", action="store_true", help="small sizes; the figures mean nothing")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(args.small, Path(scratch))
    folder = Path(tempfile.gettempdir()) if args.small else Path(__file__).parent
    common.write(args.out or folder / f"{name}.json", {
        "name": f"speed, {name}", "command": common.command(small=args.small), "versions": common.versions(),
        "threads": torch.get_num_threads(), "device": "cpu", "seed": SEED,
        "OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"], "load_average": os.getloadavg()[0],
        "seconds": round(time.perf_counter() - began, 1), **measured,
    })  # fmt: skip
