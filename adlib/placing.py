"""Where a detector computes: `to("cuda")` and its like move it for good, and in float32 alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def pick_device(device: str = "auto") -> torch.device:
    """"auto" is CUDA if there is one, else MPS, else the CPU; any other name is taken as it is.

    A name that torch does not know, or a device that is not there, is a ValueError.
    """
    if device != "auto":
        try:
            found = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"device = {device!r}: expected 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
        there = {"cpu": 1, "meta": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
        if (found.index or 0) >= there.get(found.type, 0):
            raise ValueError(f"device = {device!r}: torch finds no such device here, expected 'auto' or 'cpu'; or "
                             "install a driver and a torch that know it")
        return found
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def must_stay_float32(fn: Callable[[Tensor], Tensor]) -> None:
    """Refuse what would change the type of the weights, before any is changed.

    Images come as float32, and distances of 16 bits are too coarse to rank by: scores would be others, or none.
    """
    if (dtype := fn(torch.empty(0)).dtype) != torch.float32:
        raise TypeError(f"the detector cannot be made {dtype}: expected torch.float32, in which scores and thresholds "
                        "are computed; leave the type out and give the device alone, as in to('cuda')")


def place_after(detector: Any, fn: Callable[[Tensor], Tensor]) -> torch.device:
    """The device that a detector has after `fn` was applied to all its tensors.

    One that `fit` has not moved yet keeps the device of its constructor, unless `fn` moves tensors.
    """
    weights = itertools.chain(detector.frozen.parameters(), detector.frozen.buffers(), [detector.normal_scores])
    place = next(iter(weights)).device
    try:
        moves = fn(torch.empty(0, device="meta")).device.type != "meta" or place.type == "meta"
    except RuntimeError:  # a tensor without values cannot be brought to another device
        moves = True
    return place if moves else detector.device
