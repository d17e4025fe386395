"""Unpacking a tar or zip archive that nobody has looked into: nothing leaves the folder, nothing fills the disk."""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

from adlib.folders import DatasetError
from adlib.progress import progress_bar

BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError, RuntimeError, ValueError)


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Write the files of a tar (plain, gz, bz2 or xz) or zip archive into a folder, and nothing outside of it.

    What was written before an error stays: unpack into a folder that you can delete. Only a hash shows that a tar is
    whole, since a tar does not say whether its bytes are right.

    Parameters
    ----------
    archive : Path
        The archive.
    folder : Path
        A folder that exists and is empty.
    limit : int
        How many bytes may come out.

    Raises
    ------
    DatasetError
        For a member whose name leads outside (absolute, or with ".."), or that is a link or a device; for more than
        `limit` bytes; for a file that is no archive or a broken one, and for one that cannot be written.
    """
    left = limit

    def check(name: str, plain: bool, size: int) -> None:
        nonlocal left
        left -= size  # neither module writes more of a member than its header says
        path = PureWindowsPath(name)  # Windows counts more names as leading outside than other systems do
        outside = path.anchor or ".." in path.parts
        if outside or not plain or left < 0:
            what = (f"holds {name!r}, which leads outside of its folder" if outside
                    else f"holds {name!r}, a link or a device" if not plain
                    else f"unpacks to more than {limit:,} bytes")
            raise DatasetError(f"{archive}: {what}, expected plain image files; do not use this archive, "
                               "fetch it again")

    def tar_filter(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
        check(member.name, member.isreg() or member.isdir(), member.size)
        return tarfile.data_filter(member, path)

    title = f"unpacking {archive.name}"
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                tar.extractall(folder, progress_bar(tar, desc=title, leave=True), filter=tar_filter)
        elif zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as pack:
                for info in progress_bar(pack.infolist(), desc=title, leave=True):
                    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was not made on Unix
                    check(info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), info.file_size)
                    pack.extract(info, folder)
        else:
            raise DatasetError(f"{archive}: is neither a tar nor a zip archive, expected one; fetch it again")
    except DatasetError:
        raise
    except BROKEN as error:
        raise DatasetError(f"{archive}: cannot be unpacked ({type(error).__name__}: {error}), expected a whole tar or "
                           "zip archive and room for its files; fetch it again or make room") from error
