"""Fetching one large file over HTTP, going on where a broken download stopped.

Resuming trusts nobody: the server must say which bytes of how many it sends, and the hash at the end decides.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from adlib.datasets.sources import Source
from adlib.samples import DatasetError

if TYPE_CHECKING:
    from requests import Response

CHUNK = 1 << 16  # of a chunk that breaks off nothing is kept
ATTEMPTS = 5  # in a row without one new byte
WAIT = 2.0  # seconds before the second attempt, doubled before each one after it
TIMEOUT = 30.0  # seconds without an answer


class _BrokeOff(Exception):
    """An attempt that failed in a way that the next one may not."""


def fetch(name: str, source: Source, folder: Path, url: str) -> Path:
    """Download the archive of `source` to `folder`/`name`.archive and return that file, its hash checked.

    Until it is whole it lies in `name`.part, which a later call goes on with. An archive that is whole already is
    not fetched again. Raises DatasetError for too little disk space, a server that refuses, fails ATTEMPTS times in
    a row or offers something of another size, and for a wrong hash.
    """
    import pooch  # here, so that only those who download wait for it

    if not url.lower().startswith(("http://", "https://")):
        raise DatasetError(f"{url}: is not an address that can be fetched, expected http:// or https://; "
                           "pass a file as archive=")
    file, part = folder / f"{name}.archive", folder / f"{name}.part"
    present = sum(f.stat().st_size for f in (file, part) if f.is_file())
    check_disk(folder, max(0, (source.size or source.unpacked) - present) + source.unpacked)
    if source.sha256 is None:
        file.unlink(missing_ok=True)  # of an earlier call; nothing says that it is whole
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # its advice on hashes is for those who call it
    known = source.sha256 and f"sha256:{source.sha256}"
    try:
        downloader = partial(_download, part=part, source=source)
        pooch.retrieve(url, known, fname=file.name, path=folder, downloader=downloader)
        _discard(part)
    except DatasetError:
        raise
    except ValueError as error:  # pooch has deleted the file by now
        _discard(part)
        raise DatasetError(f"{url}: sent something else than {source.title} ({error}); get the archive from "
                           f"{source.home} and pass archive=") from error
    finally:
        logger.setLevel(level)
    return file


def _download(url: str, output_file: str, pooch: object, *, part: Path, source: Source) -> None:
    """A downloader for pooch that goes on where the last attempt stopped, in this call or an earlier one."""
    failures, best = 0, _size(part)
    while True:
        try:
            _fetch_rest(url, part, source)
            break
        except _BrokeOff as error:
            failures = failures + 1 if _size(part) <= best else 1
            best = max(best, _size(part))
            if failures >= ATTEMPTS:
                raise DatasetError(f"{url}: failed {failures} times in a row ({error}); {_size(part):,} bytes are kept "
                                   f"in {part}, call again to go on, or get the archive from {source.home} and pass "
                                   "archive=") from error
            time.sleep(WAIT * 2 ** (failures - 1))
    try:  # a second name for the same bytes, so that they outlive a check of the hash that is interrupted
        Path(output_file).unlink(missing_ok=True)
        os.link(part, output_file)
    except OSError:  # the file system has no links
        part.replace(output_file)


def _fetch_rest(url: str, part: Path, source: Source) -> None:
    """One request: the rest of the part file, or the whole where the server cannot or should not go on."""
    import requests

    have = _size(part)
    if source.size is not None and have == source.size:
        return
    # Without a validator nothing tells whether the file has changed. With a hash that is found out at the end.
    validator = _validator_file(part).read_text() if _validator_file(part).is_file() else ""
    headers = {"Accept-Encoding": "identity"}  # a range of compressed bytes would be of no use
    if have and (validator or source.sha256):
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            start, total = _start(response, part, "Range" in headers, validator, source)
            _receive(response, part, start, total, source)
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema) as error:
        raise DatasetError(f"{url}: is not an address that can be fetched ({error}); check it") from error
    except requests.RequestException as error:
        raise _BrokeOff(f"{type(error).__name__}: {error}") from error


def _start(response: Response, part: Path, asked: bool, validator: str, source: Source) -> tuple[int, int | None]:
    """Where the answer's first byte belongs and how long the whole file is. Deletes a part that is of no use."""
    status, have = response.status_code, _size(part)
    if status in (408, 425, 429) or status >= 500:
        raise _BrokeOff(f"status {status}")
    if status == 200:
        if response.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise DatasetError(f"{response.url}: answered with a web page, expected the archive of {source.title}; get "
                               f"its address from {source.home} and pass url=, or fetch it by hand and pass archive=")
        length = response.headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdecimal() else None
    elif status == 206 and asked:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
        first, last, total = map(int, match.groups()) if match else (-1, -1, -1)
        other = source.size not in (None, total) or (validator and _validator(response) not in ("", validator))
        if first != have or last != total - 1 or other:
            _discard(part)
            raise _BrokeOff("the server sent another range than it was asked for, or of another file")
        start = first
    elif status == 416 and asked:  # there is nothing after our part: it is not a part of this file
        _discard(part)
        raise _BrokeOff("the server has no such range")
    else:
        raise DatasetError(f"{response.url}: answered with status {status}, expected the archive of {source.title}; "
                           f"get its address from {source.home} and pass url=, or fetch it by hand and pass archive=")
    if total is not None and source.size not in (None, total):
        raise DatasetError(f"{response.url}: offers {total:,} bytes, expected {source.size:,}; this is not "
                           f"{source.title}; get its address from {source.home} and pass url=")
    return start, total if source.size is None else source.size


def _receive(response: Response, part: Path, start: int, total: int | None, source: Source) -> None:
    if start == 0:
        _discard(part)
        if validator := _validator(response):
            _validator_file(part).write_text(validator)
    limit = min(total or source.unpacked, source.size or source.unpacked)
    try:
        with (part.open("ab") as out,
              tqdm(total=total, initial=start, unit="B", unit_scale=True, unit_divisor=1000, desc=source.title) as bar):
            for chunk in response.iter_content(CHUNK):
                if out.tell() + len(chunk) > limit:
                    raise DatasetError(f"{response.url}: sends more than {limit:,} bytes, expected {source.title}; get "
                                       f"its address from {source.home} and pass url=")
                out.write(chunk)
                bar.update(len(chunk))
    except DatasetError:
        _discard(part)
        raise
    size = _size(part)
    if total is not None and size < total:
        raise _BrokeOff(f"broke off at {size:,} of {total:,} bytes")


def _validator(response: Response) -> str:
    """What If-Range may hold: a strong ETag or a date. A weak ETag does not promise the same bytes."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def check_disk(folder: Path, needed: int) -> None:
    """Raise DatasetError where fewer than `needed` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DatasetError(f"{folder}: {free / 1e9:.1f} GB are free, expected at least {needed / 1e9:.1f} GB for "
                           "archive and images; make room or choose another folder")
