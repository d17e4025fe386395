"""Files of tensors with some JSON beside them: written whole or not at all, and never unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write `tensors` and what JSON can hold of `about` as one safetensors file.

    An interrupted call leaves the old file, or none.

    Parameters
    ----------
    path : Path
    tensors : dict of str to Tensor
    about : dict

    Raises
    ------
    FileNotFoundError
        Where the folder is missing.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder, expected the one to write {path.name} to; make it "
                                "first (on Colab: mount your Drive first)")
    # A copy each: safetensors refuses tensors that share memory, as tied weights do.
    arrays = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    part = path.with_name(path.name + ".part")
    try:
        save_file(arrays, part, {"adlib": json.dumps(about)})
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file that `write_tensors` wrote.

    Parameters
    ----------
    path : Path

    Returns
    -------
    (dict, dict of str to Tensor)
        ``about``, which is empty where another program wrote the file, and the tensors.

    Raises
    ------
    ValueError
        Names the file where it is not whole or no safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("adlib", "{}"))
            return about, {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: is not a whole safetensors file ({error}); save it again, or delete it") from None
