"""Training loops: a killed run ends with the same bits, and a checkpoint is whole, its own, or refused."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adlib.files import write_tensors
from adlib.training import Training

OPTIMIZERS = {
    "adam": lambda net: torch.optim.Adam([{"params": net[0].parameters(), "lr": 0.01},
                                          {"params": net[1:].parameters()}]),
    "sgd": lambda net: torch.optim.SGD(net.parameters(), lr=1e-2, momentum=0.9, weight_decay=1e-4),
}
# Each process of the test is forked from one that has imported torch already.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "adlib.training"])


def train(optimizer: str, checkpoint: Path, pause: float, steps: Connection) -> None:
    """Train a network with batch normalisation and noise from a generator, so that buffers, the optimiser's state
    and the generator's all matter. It tells its steps, and waits a little at each, so that it can be killed in between.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))
    run = Training(60, {"net": net}, OPTIMIZERS[optimizer](net), generators={"all": generator}, checkpoint=checkpoint,
                   save_every=0.0, schedule=lambda step: 1 - step / 60, about={"seed": 0})
    steps.send(run.step)
    for step in run:
        rows = torch.randint(64, (16,), generator=generator)
        x = data[rows] + 0.1 * torch.randn(16, 6, generator=generator)
        run.update((net(x)[:, 0] - x.sum(1)).square().mean())
        steps.send(step)
        time.sleep(pause)


def start(optimizer: str, checkpoint: Path, pause: float) -> tuple[BaseProcess, Connection]:
    steps, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=train, args=(optimizer, checkpoint, pause, theirs))
    process.start()
    theirs.close()
    return process, steps


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_killed_at_random_steps_ends_with_the_same_bits(optimizer: str, tmp_path: Path) -> None:
    def to_the_end(name: str) -> list[int]:
        process, steps = start(optimizer, tmp_path / f"{name}.safetensors", 0)
        told = []
        with contextlib.suppress(EOFError):
            while True:
                told.append(steps.recv())
        process.join()
        assert process.exitcode == 0
        return told

    assert to_the_end("unbroken") == [0, *range(60)]
    rng = random.Random(optimizer)
    for _ in range(3):
        process, steps = start(optimizer, tmp_path / "broken.safetensors", 0.01)
        last = steps.recv() + rng.randint(2, 15)
        while steps.recv() < last:
            pass
        time.sleep(rng.random() * 0.01)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert 2 < len(to_the_end("broken")) < 58, "it should have gone on in the middle"
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in ("unbroken", "broken"))
    assert a.keys() == b.keys() and len(a["history.loss"]) == 60
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not list(tmp_path.glob("*.part"))


def training(path: Path | None, steps: int = 5, **options) -> tuple[nn.Module, Training]:
    net = nn.Linear(3, 1)
    with torch.no_grad():
        net.weight.fill_(0.5), net.bias.fill_(0.0)
    run = Training(steps, {"net": net}, torch.optim.SGD(net.parameters(), lr=0.1), checkpoint=path, **options)
    return net, run


def finish(net: nn.Module, run: Training) -> list[int]:
    done = []
    for step in run:
        done.append(step)
        run.update(net(torch.ones(2, 3)).square().mean(), twice=torch.tensor(2.0 * step))
    return done


def test_history_schedule_and_a_finished_run(tmp_path: Path) -> None:
    net, run = training(tmp_path / "new folder" / "a.safetensors", schedule=lambda step: 1.0 if step == 0 else 0.0)
    first = net.weight.clone()
    assert finish(net, run) == [0, 1, 2, 3, 4]
    assert run.history["twice"] == [0, 2, 4, 6, 8] and run.history["loss"][0] == pytest.approx(1.5**2)
    # Only the first step had a learning rate: w − 0.1·2·1.5 each.
    assert torch.allclose(net.weight, first - 0.3) and len(set(run.history["loss"][1:])) == 1
    again, other = training(tmp_path / "new folder" / "a.safetensors")
    assert finish(again, other) == [] and torch.equal(again.weight, net.weight) and other.history == run.history


def test_without_a_checkpoint_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finish(*training(None))
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    net, run = training(None)
    before = net.weight.clone()
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        for _ in run:
            run.update(net(torch.full((2, 3), torch.nan)).mean())
    assert torch.equal(net.weight, before)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    finish(*training(path, about={"seed": 0, "eta": 0.1}))
    with pytest.raises(ValueError, match=r"a.safetensors: is of a run with other settings \(eta, steps\)"):
        training(path, steps=6, about={"seed": 0, "eta": 0.5})
    with pytest.raises(ValueError, match="a.safetensors: does not fit these modules"):
        training(path, about={"seed": 0, "eta": 0.1}, generators={"new": torch.Generator()})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="a.safetensors: is not a whole safetensors file"):
        training(path, about={"seed": 0, "eta": 0.1})
    save_file({"x": torch.zeros(1)}, path, {"adlib": json.dumps({})})
    with pytest.raises(ValueError, match="a.safetensors: is damaged, or of an older version of adlib"):
        training(path)
    write_tensors(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="a.safetensors: is no checkpoint"):
        training(path)
    for about in ({"step": 0}, {"about": 3}, {"about": {"steps": 5, "learning_rates": [0.1]}}):
        write_tensors(path, {"x": torch.zeros(1)}, {"method": "Training", "format": 1, **about})
        with pytest.raises(ValueError, match="a.safetensors: (lacks the settings|does not fit these modules)"):
            training(path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.safetensors"
    net, run = training(path, save_every=0.0)
    steps = iter(run)
    for _ in range(2):
        next(steps)
        run.update(net(torch.ones(2, 3)).square().mean())
    old = path.read_bytes()

    def full_disk(number):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match=r"no room for the [\d,]+ bytes of this file \(no space left\).*a.safetensors"):
        next(steps)
    assert path.read_bytes() == old and [f.name for f in tmp_path.iterdir()] == ["a.safetensors"]


# ---------------------------------------------------------------------- Ctrl-C


SCRIPT = """
import os, signal, sys
import torch
from torch import nn
from adlib.training import Training
torch.set_num_threads(1)
torch.manual_seed(0)
path, interrupts = sys.argv[1], int(sys.argv[2])
net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 1))
generator = torch.Generator().manual_seed(1)
run = Training(12, {"net": net}, torch.optim.Adam(net.parameters(), 0.01), generators={"all": generator},
               checkpoint=path)
try:
    for step in run:
        x = torch.randn(16, 6, generator=generator)
        if step == 4:
            for _ in range(interrupts):
                os.kill(os.getpid(), signal.SIGINT)  # in the middle of a step, when the generator has moved on
        run.update((net(x)[:, 0] - x.sum(1)).square().mean())
except KeyboardInterrupt as error:
    print("stopped", run.step, len(run.history.get("loss", [])), error)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def interrupted(path: Path, interrupts: int) -> list[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(path), str(interrupts)], check=True, capture_output=True,
                          text=True)
    return done.stdout.splitlines()


def test_ctrl_c_ends_the_step_writes_the_checkpoint_and_the_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    assert interrupted(tmp_path / "unbroken", 0) == ["True"]
    told, default = interrupted(tmp_path / "broken", 1)
    assert told.startswith("stopped 5 5 training: interrupted after 5 of 12 steps; ") and default == "True"
    assert load_file(tmp_path / "broken")["history.loss"].shape == (5,)
    assert interrupted(tmp_path / "broken", 0) == ["True"]
    assert (tmp_path / "broken").read_bytes() == (tmp_path / "unbroken").read_bytes()


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    told, default = interrupted(tmp_path / "a", 2)
    assert told.startswith("stopped 4 4 ") and default == "True" and not (tmp_path / "a").exists()


def test_the_handler_is_put_back_and_only_pythons_own_is_replaced(tmp_path: Path) -> None:
    def handler() -> object:
        return signal.getsignal(signal.SIGINT)

    assert handler() is signal.default_int_handler
    for ending in (None, ValueError("in the body"), "break"):
        net, run = training(tmp_path / "new.safetensors")
        try:
            for _ in run:
                assert handler() is not signal.default_int_handler
                run.update(net(torch.ones(2, 3)).square().mean())
                if isinstance(ending, ValueError):
                    raise ending
                if ending == "break":
                    break
        except ValueError as error:
            assert error is ending
        assert handler() is signal.default_int_handler
        (tmp_path / "new.safetensors").unlink(missing_ok=True)
    net, run = training(None)
    for _ in run:  # nothing to save: at once, as ever
        assert handler() is signal.default_int_handler
        run.update(net(torch.ones(2, 3)).square().mean())

    def own(*_: object) -> None: ...

    try:
        signal.signal(signal.SIGINT, own)
        net, run = training(tmp_path / "b.safetensors")
        for _ in run:
            assert handler() is own
            run.update(net(torch.ones(2, 3)).square().mean())
        assert handler() is own
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    net, run = training(tmp_path / "c.safetensors")
    with ThreadPoolExecutor(1) as pool:  # no handler can be set there
        assert pool.submit(finish, net, run).result() == [0, 1, 2, 3, 4]


def test_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="steps = 0: expected at least 1"):
        training(None, steps=0)
