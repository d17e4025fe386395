"""Files of tensors with some JSON beside them: written whole or not at all, never unpickled, and held to a checksum."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import platform
import re
import secrets
import stat
import time
import zlib
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load
from torch import Tensor

# safetensors' names of the types that a file of ours may hold.
TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
         torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip
FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))  # no space, too large, or over the quota
OLD = 3600  # seconds after which a temporary file is taken for a leftover where its process cannot be asked


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write `tensors` and what JSON can hold of `about` as one safetensors file, with a checksum over both.

    The file is written under a name of its own beside `path` and then renamed, so that an interrupted or failed call
    leaves the old file, or none, and two calls at once do not meet. What a killed process left there is deleted by the
    next call. Beyond the tensors themselves, it takes memory for one of them at a time.

    Parameters
    ----------
    path : Path
        A file that is there already keeps its permissions; a new one gets the usual ones.
    tensors : dict of str to Tensor
    about : dict

    Raises
    ------
    FileNotFoundError
        Where the folder is missing.
    IsADirectoryError
        Where `path` is a folder.
    ValueError
        For a tensor of a type that the file cannot hold.
    OSError
        Where the disk is full; names the bytes that are needed.
    """
    header, names = _header(tensors, json.dumps(about))
    needed = len(header) + sum(t.numel() * t.element_size() for t in tensors.values())
    write_whole(path, itertools.chain([header], (_bytes(tensors[name]) for name in names)), needed)


def write_whole(path: Path, content: Iterable[bytes | memoryview], needed: int) -> None:
    """Write one file whole or not at all, as `write_tensors` says.

    Parameters
    ----------
    path : Path
    content : iterable of bytes
        Written one after the other.
    needed : int
        Bytes in all, for the message where the disk is full.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, OSError
        As `write_tensors`.
    """
    must_take_file(path)
    _delete_leftovers(path)
    part = path.with_name(f".{path.name}.{os.getpid()}-{_machine()}-{secrets.token_hex(4)}.part")
    try:
        with _new_file(part, path) as file:
            for piece in content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, f"no room for the {needed:,} bytes of this file ({error.strerror}); free some, or "
                      "choose another disk; what was there before is untouched", str(path)) from None  # fmt: skip
    finally:
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # so that the new name outlives a power cut; Windows cannot
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def must_take_file(path: Path) -> None:
    """Refuse a name that no file can be written to, before the work whose result it is to hold.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        Where the folder is missing, where `path` is a folder, or where nothing may be written there.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder, expected the one to write {path.name} to; make it "
                                "first (on Colab: mount your Drive first)")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, expected the name of a file to write")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent}: nothing may be written there by this user; choose another folder")


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a file that `write_tensors` wrote. It takes memory for twice the file while it is read, then for once.

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
        Names the file where it is no safetensors file, or holds anything else than what was written.
    FileNotFoundError
        Where there is none.
    PermissionError
        Where it may not be read.
    """
    try:
        if path.is_dir():
            raise ValueError(f"{path}: is a folder, expected a file")
        with open(path, "rb") as file:
            content = file.read()  # by one open file: the name may be given to a newer one at any moment
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; check the path") from None
    except PermissionError:
        raise PermissionError(f"{path}: may not be read by this user; ask its owner for the permission") from None
    if not content:
        raise ValueError(f"{path}: is empty, so it was never written to its end; copy or save it again")
    try:
        tensors = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    except Exception as error:  # safetensors' own, and what torch says about absurd shapes
        raise ValueError(f"{path}: is not a whole safetensors file ({error}); copy or save it again") from None
    if "adlib" not in metadata:
        return {}, tensors
    if "sha256" not in metadata:
        raise ValueError(f"{path}: is damaged, or of an older version of adlib: it has no checksum, which adlib now "
                         "writes into every file; save it again")
    try:
        held = _checksum(tensors, metadata["adlib"]) == metadata["sha256"]
    except ValueError:  # a type that we do not write
        held = False
    if not held:
        raise ValueError(f"{path}: is damaged: its content is not what was written; copy or save it again")
    try:
        about = json.loads(metadata["adlib"])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no file of adlib: what it says about itself is no JSON ({error})") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path}: is no file of adlib: what it says about itself is no JSON object")
    return about, tensors


def _header(tensors: Mapping[str, Tensor], about: str) -> tuple[bytes, list[str]]:
    """The first bytes of a safetensors file, and the names of the tensors in the order in which they follow."""
    header: dict[str, Any] = {"__metadata__": {"adlib": about, "sha256": _checksum(tensors, about)}}
    names, end = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)), 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers lie at multiples of their size
    return len(text).to_bytes(8, "little") + text, names


def _checksum(tensors: Mapping[str, Tensor], about: str) -> str:
    """SHA-256 over the JSON and over names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256(about.encode(errors="surrogatepass"))
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in TYPES:
            raise ValueError(f"{name}: is of type {tensor.dtype}, expected one of {', '.join(map(str, TYPES))}")
        digest.update(json.dumps([name, TYPES[tensor.dtype], list(tensor.shape)]).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


@contextlib.contextmanager
def _new_file(part: Path, path: Path) -> Generator[BinaryIO]:
    """A new file to write to, with the permissions of `path`, or else those that the umask leaves."""
    number = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with open(number, "wb") as file:
        with contextlib.suppress(OSError):  # no old file, or a disk without permissions
            os.chmod(part, stat.S_IMODE(path.stat().st_mode))
        yield file


def _machine() -> str:
    """Eight digits for this machine or container: on a shared disk, a process number means nothing to another one."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _delete_leftovers(path: Path) -> None:
    """Delete what killed processes have left of earlier calls for the same file."""
    form = re.compile(re.escape(f".{path.name}.") + r"(\d{1,9})-([0-9a-f]{8})-[0-9a-f]{8}\.part")
    for other in path.parent.iterdir():
        if found := form.fullmatch(other.name):
            with contextlib.suppress(OSError):  # another call may have been quicker
                if _is_left(other, int(found[1]), found[2]):
                    other.unlink()


def _is_left(part: Path, process: int, machine: str) -> bool:
    if os.name != "posix" or machine != _machine():  # on Windows, os.kill(…, 0) would end the process
        return time.time() - part.stat().st_mtime > OLD
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, and is another user's
        return False
    return False
