"""What every training loop shares: steps, learning rate, progress, and checkpoints to go on from."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adlib.files import read_tensors, write_tensors
from adlib.progress import progress_bar


class Training:
    """A training loop that can be killed at any moment and goes on from its last checkpoint.

    ::

        run = Training(1000, {"student": student}, optimizer, generators={"order": generator},
                       checkpoint="student.safetensors", about={"seed": 0})
        for step in run:
            batch = images[torch.randint(len(images), (16,), generator=generator)]
            run.update(loss=(student(batch) - target(batch)).square().mean())

    The checkpoint holds the weights and buffers of `modules`, the optimiser's state, the generators' states and
    the history, so on one CPU and thread count a run that was killed gives bit for bit the result of one that
    was not. It is one safetensors file, written whole or not at all. Whatever else changes from
    step to step must be a function of `step`.

    With `checkpoint`, Ctrl-C lets the present step end, writes the checkpoint and then raises KeyboardInterrupt; a
    second Ctrl-C raises it at once, and the file stays as it was. That holds in the main thread, and where the program
    has no handler of its own for SIGINT.

    Parameters
    ----------
    steps : int
        How often to step in all.
    modules, generators : dict of str to Module or torch.Generator
        Everything by name that has a state and changes.
    optimizer : Optimizer
    schedule : callable, optional
        Step (from 0) to the factor on each learning rate; None keeps it constant.
    checkpoint : path, optional
        The file to write to and to go on from; None writes none.
    save_every : float
        Seconds between two writes; one more is written at the end.
    about : dict, optional
        The settings of this run, as JSON can hold them; a checkpoint of other settings is refused.
    name : str

    Attributes
    ----------
    history : dict of str to list of float
        Maps each name given to `update` to its values, one a step.

    Raises
    ------
    ValueError
        For a checkpoint that is damaged or of other settings.
    KeyboardInterrupt
        At a step's end, after Ctrl-C; says how far the run is and that the checkpoint is written.
    """

    def __init__(
        self,
        steps: int,
        modules: Mapping[str, nn.Module],
        optimizer: Optimizer,
        *,
        generators: Mapping[str, torch.Generator] | None = None,
        schedule: Callable[[int], float] | None = None,
        checkpoint: str | Path | None = None,
        save_every: float = 60.0,
        about: Mapping[str, Any] | None = None,
        name: str = "training",
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps = {steps}: expected at least 1")
        self.steps, self.optimizer, self.schedule = steps, optimizer, schedule
        self.save_every, self.name = save_every, name
        self.modules, self.generators = dict(modules), dict(generators or {})
        self.checkpoint = Path(checkpoint) if checkpoint is not None else None
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        settings = {"steps": steps, "learning_rates": self.rates, **(about or {})}
        self.about = json.loads(json.dumps(settings))  # as it will be read back
        self.history: dict[str, list[float]] = {}
        self.step = 0
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)

    def __iter__(self) -> Iterator[int]:
        """The steps that are still to do; the checkpoint is written between two of them."""
        saved = time.monotonic()
        bar = progress_bar(total=self.steps, initial=self.step, desc=self.name)
        with bar, _noted_interrupts(self.checkpoint is not None) as noted:
            while self.step < self.steps:
                factor = 1.0 if self.schedule is None else self.schedule(self.step)
                for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                    group["lr"] = rate * factor
                yield self.step
                self.step += 1
                bar.update()
                done = self.step == self.steps
                if self.checkpoint is not None and (done or noted or time.monotonic() - saved >= self.save_every):
                    self._save(self.checkpoint)
                    saved = time.monotonic()
                if noted:
                    raise KeyboardInterrupt(f"{self.name}: interrupted after {self.step} of {self.steps} steps; "
                                            f"{self.checkpoint} is written, and the same call goes on from there")

    def update(self, loss: Tensor, **others: Tensor) -> None:
        """One step of the optimiser down the gradient of `loss`.

        Parameters
        ----------
        loss : Tensor ()
        **others : Tensor ()
            Only noted in `history`.

        Raises
        ------
        FloatingPointError
            Where the loss is not finite, before any weight is changed.
        """
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"{self.name}: the loss is {loss.item()} at step {self.step}, expected a finite "
                                     "number; look at the images and lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        for name, value in {"loss": loss, **others}.items():
            self.history.setdefault(name, []).append(float(value.detach()))

    def _save(self, path: Path) -> None:
        optimizer = self.optimizer.state_dict()
        tensors = {f"generator.{k}": g.get_state() for k, g in self.generators.items()}
        tensors |= {f"module.{name}.{k}": v for name, m in self.modules.items() for k, v in m.state_dict().items()}
        tensors |= {f"history.{k}": torch.tensor(v, dtype=torch.float64) for k, v in self.history.items()}
        plain: dict[str, dict[str, Any]] = {}  # optimiser state that is no tensor
        for index, state in optimizer["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{key}"] = value
                else:
                    plain.setdefault(str(index), {})[key] = value
        about = {"method": "Training", "format": 1, "step": self.step, "about": self.about,
                 "groups": optimizer["param_groups"], "plain": plain}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, about)

    def _resume(self, path: Path) -> None:
        about, tensors = read_tensors(path)
        if about.get("method") != "Training" or about.get("format") != 1:
            raise ValueError(f"{path}: is no checkpoint of a training, expected one; choose another file")
        other = about.get("about")
        if not isinstance(other, dict):
            raise ValueError(f"{path}: lacks the settings of its run; delete it to start anew, or choose another file")
        if other != self.about:
            names = sorted(k for k in {*other, *self.about} if other.get(k) != self.about.get(k))
            raise ValueError(f"{path}: is of a run with other settings ({', '.join(names)}), expected {self.about}; "
                             "delete it to start anew, or choose another file")

        try:
            self._restore(about, tensors)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: does not fit these modules, this optimiser or these generators ({error}); "
                             "delete it to start anew, or choose another file") from error

    def _restore(self, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        for name, module in self.modules.items():
            module.load_state_dict(part(f"module.{name}."))
        for name, generator in self.generators.items():
            generator.set_state(tensors[f"generator.{name}"])
        state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in about["plain"].items()}
        for key, value in part("optimizer.").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": about["groups"]})
        self.history = {name: values.tolist() for name, values in part("history.").items()}
        self.step = about["step"]


@contextlib.contextmanager
def _noted_interrupts(active: bool) -> Generator[list[int]]:
    """While this lasts, the first SIGINT is put into the list that it gives; the second one raises KeyboardInterrupt.

    Only over Python's own handler, which is put back at the end; a program that has another one knows what it does.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            signal.default_int_handler(number, frame)
        noted.append(number)

    main = threading.current_thread() is threading.main_thread()  # no other thread may set a handler
    active = active and main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if active:
        signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        if active and signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """A random order of `count` images (count,), a function of seed and epoch, so that a run can go on anywhere."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))


def precision(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager[Any]:
    """Where `bf16` is set, convolutions and products compute in bfloat16; elsewhere nothing changes."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
