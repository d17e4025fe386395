"""Files of tensors: whole or not at all, held to a checksum, and safe from other writers, full disks and kills."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from adlib.files import TYPES, read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "empty": torch.empty(0, 4)}
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX alone has it")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------- what is written is read


def test_every_type_and_form_comes_back_and_safetensors_reads_it(tmp_path: Path) -> None:
    tensors = {str(kind): torch.arange(5).to(kind) for kind in TYPES} | TENSORS
    tensors |= {"turned": torch.rand(3, 5).T, "cl": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
                "twice": tensors["a"], "trained": torch.nn.Parameter(torch.rand(3)), "name with ü": torch.ones(1)}
    write_tensors(tmp_path / "x.safetensors", tensors, {"text": "ü", "list": [1, 2.5, None]})
    about, read = read_tensors(tmp_path / "x.safetensors")
    assert about == {"text": "ü", "list": [1, 2.5, None]} and equal(read, tensors)
    assert equal(load_file(tmp_path / "x.safetensors"), tensors) and names(tmp_path) == ["x.safetensors"]
    with pytest.raises(ValueError, match="z: is of type torch.complex64"):
        write_tensors(tmp_path / "y.safetensors", {"z": torch.zeros(1, dtype=torch.complex64)}, {})
    assert names(tmp_path) == ["x.safetensors"]


def test_files_of_other_programs_are_read_and_ours_without_a_checksum_are_not(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file(TENSORS, path, metadata)
        about, read = read_tensors(path)
        assert about == {} and equal(read, TENSORS)
    save_file(TENSORS, path, {"adlib": "{}"})
    with pytest.raises(ValueError, match="x.safetensors: is damaged, or of an older version of adlib"):
        read_tensors(path)
    for checksum in ("", "0" * 64, "no hexadecimal", "ü"):
        save_file(TENSORS, path, {"adlib": "{}", "sha256": checksum})
        with pytest.raises(ValueError, match="x.safetensors: is damaged: its content is not what was written"):
            read_tensors(path)


def test_the_checksum_covers_names_types_shapes_bytes_and_the_json(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"seed": 0})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    changes = [{"a": TENSORS["a"].view(3, 2)}, {"a": TENSORS["a"].view(torch.int32)}, {"a": TENSORS["a"] + 1},
               {"new": torch.ones(1)}, {"empty": torch.empty(4, 0)}]
    renamed = {"A" if k == "a" else k: v for k, v in TENSORS.items()}
    for changed, about in [*((TENSORS | c, metadata["adlib"]) for c in changes), (renamed, metadata["adlib"]),
                           (TENSORS, '{"seed": 1}'), ({}, metadata["adlib"])]:
        save_file(changed, path, {**metadata, "adlib": about})
        with pytest.raises(ValueError, match="x.safetensors: is damaged"):
            read_tensors(path)
    save_file(TENSORS, path, metadata)
    assert read_tensors(path)[0] == {"seed": 0}


@pytest.mark.parametrize("text", ["[1]", "3", "null", "no JSON", "[" * 100_000, "", '{"a": ' * 50_000, "1" * 10_000])
def test_metadata_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    digest = hashlib.sha256(text.encode()).hexdigest()  # the right checksum of a file without tensors
    save_file({}, tmp_path / "x.safetensors", {"adlib": text, "sha256": digest})
    with pytest.raises(ValueError, match="x.safetensors: is no file of adlib"):
        read_tensors(tmp_path / "x.safetensors")


def headed(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def entry(kind: str, shape: str, end: int) -> bytes:
    return headed(f'{{"a": {{"dtype": "{kind}", "shape": {shape}, "data_offsets": [0, {end}]}}}}'.encode(), b"0" * end)


@pytest.mark.parametrize("content", [
    b"x", b"pickle?" * 9, (2**62).to_bytes(8, "little") + b"{}", (100).to_bytes(8, "little") + b"{}", headed(b"[]"),
    headed(b"[" * 9000 + b"]" * 9000), headed(b'{"__metadata__": {"adlib": 3}}'), headed(b"\xff\xfe{}"),
    entry("F32", "[0, 9223372036854775808]", 0), entry("F32", "[1000000000, 1000000000]", 4), entry("F99", "[1]", 4),
    entry("F32", "[-1]", 4), entry("F32", "[1.5]", 4),
])  # fmt: skip
def test_absurd_headers_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="x.safetensors: is not a whole safetensors file"):
        read_tensors(tmp_path / "x.safetensors")


def test_what_is_no_file_or_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="x.safetensors: no such file"):
        read_tensors(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="x.safetensors: is empty"):
        read_tensors(path)
    path.with_name("folder").mkdir()
    with pytest.raises(ValueError, match="folder: is a folder, expected a file"):
        read_tensors(path.with_name("folder"))
    with pytest.raises(IsADirectoryError, match="folder: is a folder, expected the name of a file"):
        write_tensors(path.with_name("folder"), TENSORS, {})

    def refuse(*_: object) -> None:  # the tests may run as root, who may read everything
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("adlib.files.open", refuse, raising=False)
    with pytest.raises(PermissionError, match="x.safetensors: may not be read"):
        read_tensors(path)


# ---------------------------------------------------------------------- permissions


@POSIX
@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_new_file_has_what_the_umask_gives_and_an_old_one_keeps_its_mode(
    tmp_path: Path, umask: int, expected: int
) -> None:
    path, before = tmp_path / "x.safetensors", os.umask(umask)
    try:
        write_tensors(path, TENSORS, {})
        assert stat.S_IMODE(path.stat().st_mode) == expected
        for mode in (0o640, 0o666, 0o600):
            path.chmod(mode)
            write_tensors(path, TENSORS, {})
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


# ---------------------------------------------------------------------- full disks


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch, code: int) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {"old": True})

    def fail(_: int) -> None:
        raise OSError(code, "it failed")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError) as caught:
        write_tensors(path, {"large": torch.zeros(1000)}, {"old": False})
    assert caught.value.errno == code and names(tmp_path) == ["x.safetensors"]
    if code != errno.EIO:
        assert "x.safetensors" in str(caught.value) and "no room for the 4," in str(caught.value)
    monkeypatch.undo()
    assert read_tensors(path)[0] == {"old": True}


LIMITED = """
import resource, sys, torch
from pathlib import Path
from adlib.files import write_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
write_tensors(Path(sys.argv[1]), {"small": torch.zeros(10)}, {})
try:
    write_tensors(Path(sys.argv[1]), {"large": torch.zeros(100_000)}, {})
except OSError as error:
    print(error)
"""


@POSIX
def test_a_file_that_grows_too_large_is_told_with_its_bytes(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path / "x.safetensors")], capture_output=True,
                         text=True)
    assert run.returncode == 0, run.stderr
    assert "no room for the 400," in run.stdout and "x.safetensors" in run.stdout
    assert names(tmp_path) == ["x.safetensors"] and list(read_tensors(tmp_path / "x.safetensors")[1]) == ["small"]


# ---------------------------------------------------------------------- other writers


def write_often(path: Path, writer: int, times: int) -> None:
    for i in range(times):
        write_tensors(path, {"a": torch.full((5_000,), float(writer))}, {"writer": writer, "time": i})


def whole(path: Path) -> int:
    about, tensors = read_tensors(path)
    assert (tensors["a"] == about["writer"]).all() and len(tensors["a"]) == 5_000
    return about["time"]


def test_threads_that_save_at_once_all_succeed(tmp_path: Path) -> None:
    path, errors = tmp_path / "x.safetensors", []

    def work(writer: int) -> None:
        try:
            write_often(path, writer, 15)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            whole(path)
    assert not errors and whole(path) == 14 and names(tmp_path) == ["x.safetensors"]


def test_processes_that_save_at_once_all_succeed(tmp_path: Path) -> None:
    path, processes = tmp_path / "x.safetensors", multiprocessing.get_context("spawn")
    both = [processes.Process(target=write_often, args=(path, i, 40)) for i in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert whole(path) == 39 and names(tmp_path) == ["x.safetensors"]


# ---------------------------------------------------------------------- what a killed process leaves


HANGING = """
import os, sys, time, torch
from pathlib import Path
from adlib.files import write_tensors
os.fsync = lambda _: (print("written", flush=True), time.sleep(600))
write_tensors(Path(sys.argv[1]), {"a": torch.zeros(9)}, {})
"""


@POSIX
def test_what_a_killed_process_left_goes_with_the_next_save_and_a_living_ones_stays(tmp_path: Path) -> None:
    path = tmp_path / "x[1].safetensors"
    write_tensors(path, TENSORS, {"old": True})
    process = subprocess.Popen([sys.executable, "-c", HANGING, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        (part,) = (name for name in names(tmp_path) if name.endswith(".part"))
        assert part.startswith(f".x[1].safetensors.{process.pid}-")
        write_tensors(path, TENSORS, {"old": False})
        assert names(tmp_path) == [part, path.name], "it belongs to a living process"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        write_tensors(tmp_path / "other.safetensors", TENSORS, {})
        assert part in names(tmp_path), "it is of another file"
        write_tensors(path, TENSORS, {"old": False})
        assert names(tmp_path) == ["other.safetensors", path.name]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("windows", [False, True])
def test_where_no_process_can_be_asked_leftovers_go_after_an_hour(tmp_path: Path, monkeypatch, windows: bool) -> None:
    """On Windows os.kill(…, 0) would end the process; of another machine, the number means nothing here."""
    path = tmp_path / "x.safetensors"
    monkeypatch.setattr("os.kill", lambda *_: pytest.fail("was asked"))
    if windows:
        monkeypatch.setattr("adlib.files._is_left", windows_form())
    machine = "00000000" if not windows else own_machine()
    young, old = (tmp_path / f".x.safetensors.{i}-{machine}-0123abcd.part" for i in (999_999, 999_998))
    foreign = [tmp_path / name for name in (".x.safetensors.part", "x.safetensors.12-00000000-0123abcd.part", "y.part")]
    for file in (young, old, *foreign):
        file.write_bytes(b"half")
        os.utime(file, (0, 0))
    os.utime(young, (time.time() - 3000,) * 2)
    write_tensors(path, TENSORS, {})
    assert names(tmp_path) == sorted([young.name, path.name, *(file.name for file in foreign)])


def own_machine() -> str:
    from adlib.files import _machine

    return _machine()


def windows_form():
    """`_is_left` as it runs where os.name is "nt"; the name cannot be changed for all, as pathlib looks at it."""
    import types

    from adlib import files

    names_there = vars(files) | {"os": types.SimpleNamespace(name="nt", kill=os.kill)}
    return types.FunctionType(files._is_left.__code__, names_there)
