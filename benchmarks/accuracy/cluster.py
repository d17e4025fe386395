"""Kill a worker of a cluster at random, twenty times, and see that the memory bank stays the same; figures as JSON.

    python -m benchmarks.accuracy.cluster [--kills 20]

A `LocalCluster` of three worker processes fits PatchCore on 30 pictures in ten chunks. At a random moment after the
first task has begun, one worker, drawn at random, gets SIGKILL. Each fit has a cluster of its own, as dask does not
always start another worker in place of a killed one. Bank, radius and held-out scores are compared with those of a fit
without a cluster, bit for bit. "tasks_when_killed" counts dask's tasks by their state then; "before_the_end" says that
the fit was still going on. Each picture takes 50 ms more to read than it would, so that there is something to
interrupt.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from distributed import Client, LocalCluster
from torch import Tensor

from adlib import PatchCore
from adlib.cluster import fit_on
from adlib.datasets import Sample, SyntheticFactory, in_memory
from benchmarks import common

WORKERS = 3
SIZES = {"size": 64, "n_train": 30, "n_validation": 8, "n_test": 1, "n_defect": 1}
COMPARED = ("memory_bank", "bank_radius", "normal_scores", "normal_peaks")


def slow(sample: Sample) -> Sample:
    image = sample.image

    def read() -> Tensor:
        time.sleep(0.05)
        return image

    return replace(sample, image_source=read)


def trial(
    client: Client, cluster: LocalCluster, number: int, usual: PatchCore, train: list[Sample], held: list[Sample]
) -> dict[str, Any]:
    rng = random.Random(number)
    after, victim = rng.uniform(0.0, 1.0), rng.choice(running(cluster))
    killed: dict[str, Any] = {}
    ended = threading.Event()

    def kill() -> None:
        while "processing" not in client.run_on_scheduler(states_of_tasks) and not ended.is_set():
            time.sleep(0.02)
        time.sleep(after)
        states = client.run_on_scheduler(states_of_tasks)
        os.kill(victim, signal.SIGKILL)
        killed.update(states)

    thread = threading.Thread(target=kill)
    thread.start()
    found = fit_on(client, make(), train, validation=held)
    before_end = bool(killed)
    ended.set()
    thread.join()
    equal = all(torch.equal(getattr(found, name), getattr(usual, name)) for name in COMPARED)
    return {"trial": number, "seconds": round(after, 3), "tasks_when_killed": killed, "before_the_end": before_end,
            "equal": equal}  # fmt: skip


def running(cluster: LocalCluster) -> list[int]:
    """The process numbers of the workers."""
    return sorted(nanny.pid for nanny in cluster.workers.values() if nanny.pid is not None)


def states_of_tasks(dask_scheduler: Any) -> dict[str, int]:
    """How many tasks are in which state."""
    states = [task.state for task in dask_scheduler.tasks.values()]
    return {state: states.count(state) for state in sorted(set(states))}


def make() -> PatchCore:
    return PatchCore(image_size=64, device="cpu", chunk=3)


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"))
    parser.add_argument("--kills", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = SyntheticFactory("fabric", **SIZES)
    train, held = [slow(s) for s in in_memory(data.train)], in_memory(data.validation)
    usual = make().fit(train, validation=held)
    report = common.read(args.out, {"trials": []})
    options: dict[str, Any] = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": None}
    for number in range(len(report["trials"]), args.kills):
        with LocalCluster(**options) as cluster, Client(cluster) as client:
            client.wait_for_workers(WORKERS)
            fit_on(client, make(), train, validation=held)  # so that the workers have loaded what they need
            report["trials"].append(trial(client, cluster, number, usual, train, held))
            print(report["trials"][-1], flush=True)
            trials = report["trials"]
            common.write(args.out, {
                "name": "workers killed", "command": common.command(), "versions": common.versions(), "threads": 1,
                "seed": 0,
                "protocol": f"{SIZES['n_train']} pictures of fabric at 64 pixels in 10 chunks, {WORKERS} workers",
                "kills": len(trials), "before_the_end": sum(t["before_the_end"] for t in trials),
                "equal": sum(t["equal"] for t in trials), "trials": trials,
            })  # fmt: skip


if __name__ == "__main__":
    main()
