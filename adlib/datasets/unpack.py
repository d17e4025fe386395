"""Unpacking a tar or zip archive that nobody has looked into: nothing leaves the folder, nothing fills the disk."""

from __future__ import annotations

import errno
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm.auto import tqdm

from adlib.samples import DatasetError

CHUNK = 1 << 20
MAX_MEMBERS = 100_000  # the largest data set that we know of has some 22,000 files
BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError, RuntimeError)


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Write the files of a tar (plain, gz, bz2 or xz) or zip archive into `folder`, which exists and is empty.

    Only plain files and folders are taken. Raises DatasetError for a member whose name leads outside (absolute, or
    with "..") or that is a link or a device, for a name that comes twice, for more than `limit` bytes or MAX_MEMBERS
    members, and for an archive that is found to be broken. What was written until then stays: unpack into a folder
    that you can delete. A hash must have shown before that a tar is the published one: Python reads the headers of
    a tar whole, however long, and a tar does not say whether its bytes are right.
    """
    written = members = 0
    try:
        with tqdm(unit="B", unit_scale=True, desc=f"unpacking {archive.name}") as bar:
            for name, stream in _members(archive):
                members += 1
                if members > MAX_MEMBERS:
                    raise _refused(archive, f"holds more than {MAX_MEMBERS:,} members")
                path = folder / _inside(name, archive)
                if stream is None:
                    _new(path, archive).mkdir(parents=True, exist_ok=True)
                    continue
                _new(path.parent, archive).mkdir(parents=True, exist_ok=True)
                if path.exists():
                    raise _refused(archive, f"holds {name!r} twice")
                with stream, path.open("xb") as out:
                    while chunk := stream.read(CHUNK):
                        written += len(chunk)  # counted here, because a header may lie
                        if written > limit:
                            raise _refused(archive, f"unpacks to more than {limit:,} bytes")
                        out.write(chunk)
                        bar.update(len(chunk))
    except (*BROKEN, OSError) as error:
        # bz2 and gzip report damaged data as an OSError without a number; a full disk stays what it is.
        if isinstance(error, OSError) and not isinstance(error, BROKEN) and error.errno not in (None, errno.EINVAL):
            raise
        raise DatasetError(f"{archive}: is broken ({type(error).__name__}: {error}), expected a whole tar or zip "
                           "archive; fetch it again") from error


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Name and open stream of each file, None for the stream of a folder. Anything else is refused."""
    if tarfile.is_tarfile(archive):
        yield from _tar_members(archive)
    elif zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        raise DatasetError(f"{archive}: is neither a tar nor a zip archive, expected one; fetch it again")


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()):
                raise _refused(archive, f"holds {member.name!r}, a link or a device")
            _inside(member.name, archive)
            yield member.name, None if member.isdir() else tar.extractfile(member)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as pack:
        for info in pack.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, f"holds {info.filename!r}, a link or a device")
            yield info.filename, None if info.is_dir() else pack.open(info)


def _inside(name: str, archive: Path) -> PurePosixPath:
    """A member's name as a relative path that stays below, on Windows as well."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or any(c in name for c in "\\:\0"):
        raise _refused(archive, f"holds {name!r}, which leads outside of its folder")
    if len(name) > 1000 or any(len(part.encode(errors="replace")) > 255 for part in path.parts):
        raise _refused(archive, f"holds a name of {len(name)} characters")
    return path


def _new(folder: Path, archive: Path) -> Path:
    if folder.is_file() or any(parent.is_file() for parent in folder.parents):
        raise _refused(archive, f"holds {folder.name!r} as a file and as a folder")
    return folder


def _refused(archive: Path, what: str) -> DatasetError:
    return DatasetError(f"{archive}: {what}, expected plain image files; do not use this archive, fetch it again")
