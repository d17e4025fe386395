"""Public data sets, fetched when you ask for it: the licence first, and a hash of all that arrived.

An address may change or lie, so nothing here trusts it: what counts is the SHA-256. pooch downloads and compares.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from adlib.datasets.sources import SOURCES, Source
from adlib.datasets.unpack import unpack
from adlib.folders import DatasetError, some_names
from adlib.progress import watched

TIMEOUT = 30.0  # seconds without an answer


def download(
    name: str,
    root: str | Path,
    *,
    accept_licence: bool = False,
    url: str | None = None,
    archive: str | Path | None = None,
) -> Path:
    """Fetch a data set, check it, unpack it to `root`/`name`, and return that folder, ready for its loader.

    A data set that lies there already is returned as it is. The archive's hash is checked before it is unpacked; it
    is unpacked beside its place and moved there when whole. Our copy of the archive is then deleted. Where the server
    packs the archive anew (magnetic_tile), the hash of the images is checked before they are moved. All that is not
    whole lies in `root`/.`name`.unpacking; what a killed call left there is deleted when the next one starts.

    A download that breaks off leaves nothing and starts again in the next call. Over a slow line, fetch the archive
    with a tool that goes on where it stopped, ``curl -L -C - -O URL`` or ``wget -c URL``, and pass it as `archive`.

    Parameters
    ----------
    name : str
        mvtec_ad, mvtec_loco, visa, btad or magnetic_tile.
    root : str or Path
        The folder for data sets; it is made where it is missing. Run one download of a data set at a time.
    accept_licence : bool
        Pass True once you have read the licence. Without it nothing is fetched and the error shows it.
    url : str, optional
        Another address (http or https) of the same archive, for example a new share link.
    archive : str or Path, optional
        The archive, where you have it already; it is kept. Nothing is downloaded then.

    Returns
    -------
    Path
        The folder `root`/`name`.

    Raises
    ------
    DatasetError
        For another name, without consent, for too little disk space, when the server fails or sends something else,
        for a wrong hash, and for an archive that is broken or unsafe.
    """
    if name not in SOURCES:
        raise DatasetError(f"{name!r}: is not a data set that can be fetched, expected {', '.join(SOURCES)}")
    source, target = SOURCES[name], Path(root).expanduser() / name
    work = target.with_name(f".{name}.unpacking")  # for all that is not whole yet
    shutil.rmtree(work, ignore_errors=True)  # of a call that was killed
    if (target / source.marker).is_dir():
        print(f"{source.title} lies in {target} already; delete the folder to fetch it again")
        return target
    if target.parent.exists() and not target.parent.is_dir() or target.is_symlink():
        raise DatasetError(f"{target}: its parent is a file or it is a link, expected a folder to unpack to; "
                           "choose another")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DatasetError(f"{target}: is there but has no {source.marker}, expected {source.title} or nothing; "
                           "move it away, then call again")
    if not accept_licence:
        raise DatasetError(f"{_notice(source)}\nNothing was fetched: read the licence. If you accept it, call "
                           f"download({name!r}, {str(root)!r}, accept_licence=True)")
    print(_notice(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.with_name(f"{name}.archive") if archive is None else Path(archive).expanduser()
    to_come = 0 if archive is not None or file.is_file() else source.size or source.unpacked
    _check_disk(target.parent, to_come + source.unpacked)
    try:
        work.mkdir()
        if archive is None:
            _fetch(url or source.url, file, work, source)
        else:
            _check_archive(file, source)
        _put(file, target, work, source)
    finally:  # a whole archive stays where unpacking was interrupted: the next call knows it by its hash
        shutil.rmtree(work, ignore_errors=True)
        if archive is None and (source.sha256 is None or (target / source.marker).is_dir()):
            file.unlink(missing_ok=True)
    print(f"{source.title} lies in {target}")
    return target


def hash_files(folder: Path, pattern: str) -> str:
    """SHA-256 of the text that ``sha256sum`` prints for the files that match, sorted by path.

    Parameters
    ----------
    folder : Path
        Where to look. The paths in the text are relative to it.
    pattern : str
        Which files, as `Path.glob` takes it.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in sorted(f.relative_to(folder).as_posix() for f in folder.glob(pattern)):
        digest.update(f"{hashlib.sha256((folder / path).read_bytes()).hexdigest()}  {path}\n".encode())
    return digest.hexdigest()


def _notice(source: Source) -> str:
    size = f"{source.size / 1e9:.2f} GB" if source.size else f"less than {source.unpacked / 1e9:.1f} GB"
    lines = [f"{source.title}: {size}", f"licence: {source.licence}", f"  read it at {source.licence_url}",
             f"cite: {source.citation}", f"home: {source.home}"]
    if source.unverified:
        lines.append(f"not verified: {source.unverified}")
    return "\n".join(lines)


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DatasetError(f"{folder}: {free / 1e9:.1f} GB are free, expected at least {needed / 1e9:.1f} GB for "
                           "archive and images; make room or choose another folder")


def _fetch(url: str, file: Path, work: Path, source: Source) -> None:
    """Download within the folder `work`, and move to `file` when the hash is right."""
    import pooch  # here, so that only those who download wait for it

    if source.sha256 is not None and file.is_file() and _sha256(file) == source.sha256:
        return
    file.unlink(missing_ok=True)  # of a call that was killed; nothing says that it is whole
    known = source.sha256 and f"sha256:{source.sha256}"
    downloader = pooch.HTTPDownloader(progressbar=watched(), chunk_size=1 << 20, timeout=TIMEOUT)
    try:
        pooch.retrieve(url, known, fname=file.name, path=work,
                       downloader=downloader)  # pyrefly: ignore[bad-argument-type]
    except (OSError, ValueError) as error:  # those of requests are OSErrors; a wrong hash is a ValueError
        raise DatasetError(f"{url}: did not give the archive of {source.title} ({error}); get its address from "
                           f"{source.home} and pass url=, or fetch it by hand and pass archive=") from error
    (work / file.name).replace(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_archive(file: Path, source: Source) -> None:
    """Refuse an archive that is not the published one; the cheap check first."""
    if not file.is_file():
        raise DatasetError(f"{file}: is not a file, expected the archive of {source.title} from {source.home}")
    if source.size is not None and file.stat().st_size != source.size:
        raise DatasetError(f"{file}: has {file.stat().st_size:,} bytes, expected {source.size:,}; fetch it again")
    if source.sha256 is not None and (found := _sha256(file)) != source.sha256:
        raise DatasetError(f"{file}: has the SHA-256 {found}, expected {source.sha256}; fetch it again")


def _put(archive: Path, target: Path, work: Path, source: Source) -> None:
    """Unpack within the folder `work`; rename to `target` when it is whole and what it should be."""
    folder = work / "unpacked"
    folder.mkdir()
    unpack(archive, folder, source.unpacked)
    inner = [folder, *(f for f in folder.iterdir() if f.is_dir())]  # some archives have one folder around all
    whole = next((f for f in inner if (f / source.marker).is_dir()), None)
    if whole is None:
        raise DatasetError(f"{archive}: holds {some_names(sorted(f.name for f in folder.iterdir())) or 'nothing'}, "
                           f"expected {source.title} with {source.marker}; fetch it again")
    if source.files is not None and (found := hash_files(whole, source.files[0])) != source.files[1]:
        raise DatasetError(f"{archive}: its files have the SHA-256 {found}, expected {source.files[1]}; "
                           "fetch it again")
    if target.is_dir():
        target.rmdir()  # empty, as `download` has seen
    whole.rename(target)
