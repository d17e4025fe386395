"""What lies in a folder: its pictures and what is passed over, and which part each picture shows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from numbers import Number
from pathlib import Path

from adlib.images import IMAGE_EXTENSIONS

USUAL_ENDINGS = ".bmp, .jpg, .png, .tif or another picture's ending"
NAMED = {"group": "part", "product": "product"}  # what an argument names, for messages


class DatasetError(ValueError):
    """A data set that is not where, or not what, it should be. The message says what was expected and found."""


def list_images(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """List what a folder holds, to the bottom: what counts as a picture, and everything else.

    Nothing is opened. A picture is what has a picture's ending, so a broken file, a link that leads nowhere and a pipe
    called x.png are among them, and reading them says what is wrong. A subfolder that may not be read is too, as what
    it holds cannot be known. A linked folder is walked as if it stood there, but no folder is walked twice.

    Parameters
    ----------
    folder : path

    Returns
    -------
    (list of Path, list of Path)
        The pictures and subfolders that may not be read; and the other files, hidden ones and those in hidden folders
        included. Both sorted by path.

    Raises
    ------
    DatasetError
        Where there is no such folder, where it may not be read, or where it holds no picture.
    """
    if not os.fspath(folder):
        raise DatasetError("'': is an empty path, expected a folder of images; for the current folder pass '.'")
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise DatasetError(f"{folder}: {'is a file' if os.path.lexists(folder) else 'does not exist'}, "
                           "expected a folder of images; check the path")
    entries: list[Path] = []
    skipped: list[Path] = []
    seen: set[tuple[int, int]] = set()
    # A folder that can be reached in several ways is walked in the best of them: in its place before by a link,
    # by a link before as a hidden one.
    waiting: list[list[Path]] = [[folder], [], []]
    while queue := next((queue for queue in waiting if queue), None):
        hidden, here = queue is waiting[2], queue.pop(0)
        found = _scan(here, seen)
        if found is None:
            if here == folder:
                raise DatasetError(f"{folder}: may not be read, expected a readable folder; check its permissions")
            (skipped if hidden else entries).append(here)
            continue
        for entry, is_folder in found:
            path, dotted = here / entry.name, hidden or entry.name.startswith(".")
            if is_folder and not (dotted and entry.is_symlink()):
                waiting[2 if dotted else int(entry.is_symlink())].append(path)
            else:
                (skipped if dotted or not is_picture(path) else entries).append(path)
    if not entries:
        names = some_names(path.relative_to(folder).as_posix() for path in sorted(skipped))
        raise DatasetError(f"{folder}: holds no image, expected files ending in {USUAL_ENDINGS}; "
                           f"found {names or 'no files'}")
    return sorted(entries), sorted(skipped)


def is_picture(path: Path) -> bool:
    """Whether the name has a picture's ending, in upper or lower case."""
    return path.suffix.lower() in IMAGE_EXTENSIONS


def bare_stem(path: Path) -> str:
    """The file's name without its picture's endings, however often they stand there: x for x.png.png."""
    while is_picture(path):
        path = path.with_name(path.stem)
    return path.name


def group_names(
    paths: Sequence[str | Path],
    group: None | str | re.Pattern[str] | Callable[[Path], object] | Sequence[object],
    base: str | Path | None = None,
    *,
    role: str = "group",
) -> list[str | None]:
    """Name the part that each picture shows, so that pictures of one part can be kept together.

    Parameters
    ----------
    paths : sequence of path
    group : str, callable, sequence or None
        A regular expression, searched in the path below `base` as text with slashes: its first group, or the whole
        match where it has none, is the name. Or a function of the path, or one name for each path; numbers are taken
        as text. None names nothing.
    base : path, optional
        Default: the folder that all paths share.
    role : str
        "group", or "product" where the kind of the part is named: the argument that an error speaks of.

    Returns
    -------
    list of str or None
        One name for each path; all None where `group` is None.

    Raises
    ------
    DatasetError
        For a pattern that is no regular expression or is not found in a path, for a function that raises, for a name
        that is missing or empty, and for a list of another length.

    Examples
    --------
    >>> group_names(["a/part07_1.png", "a/part07_2.png"], r"part(\\d+)_")
    ['07', '07']
    """
    if group is None:
        return [None] * len(paths)
    if isinstance(group, (str, re.Pattern)):
        return _matched(paths, group, base, role)
    if callable(group):
        return [_called(Path(path), group, role) for path in paths]
    names = list(group)
    if len(names) != len(paths):
        raise DatasetError(f"{role}: {len(names)} names for {len(paths)} images, expected one for each; "
                           "check how the list was made")
    return [_name(value, f"{path}: its name in the list", role) for path, value in zip(paths, names, strict=True)]


def some_names(names: Iterable[str], limit: int = 8) -> str:
    """The first few names for a message."""
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def _scan(folder: Path, seen: set[tuple[int, int]]) -> list[tuple[os.DirEntry[str], bool]] | None:
    """What is directly in a folder, sorted, each with whether it is a folder; None where that may not be known."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return []
        with os.scandir(folder) as listing:
            found = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return None
    seen.add((status.st_dev, status.st_ino))
    return [(entry, _is_folder(entry)) for entry in found]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or to where nobody may look
        return False


def _matched(
    paths: Sequence[str | Path], pattern: str | re.Pattern[str], base: str | Path | None, role: str
) -> list[str | None]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"{role} = {pattern!r}: is no regular expression ({error}); "
                           r"expected such as r'(part\d+)_'") from error
    full = [os.path.abspath(path) for path in paths]
    if base is None and paths:
        try:
            base = os.path.commonpath([os.path.dirname(path) for path in full])
        except ValueError:  # on different drives
            base = None
    names: list[str | None] = []
    for path, absolute in zip(paths, full, strict=True):
        below = Path(absolute if base is None else os.path.relpath(absolute, os.path.abspath(base))).as_posix()
        match = expression.search(below)
        if not match:
            raise DatasetError(f"{path}: {role} = {expression.pattern!r} is not found in {below!r}, expected a pattern "
                               f"that finds the {NAMED[role]}'s name in every path; change it, or give a function of "
                               "the path or a list of names")
        found = match[1] if expression.groups else match[0]
        names.append(_name(found, f"{path}: {role} = {expression.pattern!r}", role))
    return names


def _called(path: Path, function: Callable[[Path], object], role: str) -> str:
    try:
        value = function(path)
    except Exception as error:  # a function of the user, written for other names
        raise DatasetError(f"{path}: the function passed as {role} fails ({type(error).__name__}: {error}), expected "
                           f"it to return the {NAMED[role]}'s name for every path") from error
    return _name(value, f"{path}: the function passed as {role}", role)


def _name(value: object, where: str, role: str) -> str:
    if not isinstance(value, (str, Number)) or not str(value).strip():
        raise DatasetError(f"{where} gives {value!r}, expected the name of the {NAMED[role]} that the picture shows")
    return str(value)
