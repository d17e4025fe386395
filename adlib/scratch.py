"""Room for features that a fit computes once and reads often: in memory or, where that would be too much, in a file."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adlib.detector import readable_bytes


def plan(needed: int, count: int, max_memory: float, folder: str | Path | None) -> str:
    """Where `room` will put the features of `count` images, in words, or a ValueError where the disk is too small."""
    if needed <= max_memory:
        return f"features, {readable_bytes(needed)} in memory"
    folder = folder or tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(f"the features of {count} images need {readable_bytes(needed)}, max_memory is "
                         f"{readable_bytes(max_memory)}, and {folder} has {readable_bytes(free)} free. Give "
                         "another features_folder, raise max_memory, or use fewer images or a larger stride")
    return f"features, {readable_bytes(needed)} on disk in {folder}"


def room(shape: tuple[int, ...], max_memory: float, folder: str | Path | None) -> Tensor:
    """An empty float32 tensor in memory or, where that would be more than `max_memory` bytes, in a file in `folder`.

    The file has no name (on Windows, it is deleted when it is closed), so it goes with the tensor, or with the
    process, even a killed one.
    """
    needed = 4 * math.prod(shape)
    if needed <= max_memory:
        return torch.empty(shape)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # else a disk that fills up later ends the process without a word
            try:
                os.posix_fallocate(file.fileno(), 0, needed)
            except OSError as error:
                place = str(folder or tempfile.gettempdir())
                raise OSError(error.errno, f"no room for {readable_bytes(needed)} of features ({error.strerror}): "
                              "give another features_folder, or raise max_memory", place) from None  # fmt: skip
        return torch.from_numpy(np.memmap(file, np.float32, "r+", shape=shape))
