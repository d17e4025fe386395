"""What a folder holds: every picture is found, whatever its name, and nothing is found twice."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from adlib import folders
from adlib.folders import DatasetError, group_names, list_images
from adlib.images import IMAGE_EXTENSIONS
from adlib.samples import image_files


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def below(folder: Path) -> tuple[list[str], list[str]]:
    return tuple([p.relative_to(folder).as_posix() for p in part] for part in list_images(folder))  # type: ignore[return-value]


def test_every_ending_of_a_picture_counts(tmp_path: Path) -> None:
    names = [f"{i}{e.upper() if i % 2 else e}" for i, e in enumerate(IMAGE_EXTENSIONS)]
    touch(*(tmp_path / name for name in [*names, "notes.txt", "Thumbs.db", "x.png.txt", "png", "x.png.png"]))
    entries, skipped = below(tmp_path)
    assert sorted(entries) == sorted([*names, "x.png.png"])
    assert skipped == ["Thumbs.db", "notes.txt", "png", "x.png.txt"]
    for ending in (".jfif", ".jpe", ".jp2", ".avif", ".heic", ".tga", ".pbm", ".dng", ".nef"):
        assert ending in IMAGE_EXTENSIONS


def test_what_cannot_be_read_is_an_entry(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.png/inner.jpg")  # a folder may have a picture's name
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "itself.PNG").symlink_to("itself.PNG")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken").symlink_to("nowhere")
    assert below(tmp_path) == (["a.png", "b.png/inner.jpg", "broken.png", "itself.PNG", "pipe.jpg"], ["broken"])


def test_odd_names(tmp_path: Path) -> None:
    names = [b"a\nb.png", b"-rf.png", b" lead.png", b"\xff\xfe.png", "ü 正常.JPG".encode(), b"a*[?.png"]
    for name in names:
        with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
            pass
    entries, _ = list_images(tmp_path)
    assert {os.fsencode(e.name) for e in entries} == set(names)
    assert entries == sorted(entries) and list_images(str(tmp_path))[0] == entries


def test_hidden_files_are_skipped_and_told(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / ".b.png", tmp_path / ".git/c.png", tmp_path / ".git/deep/d.png")
    assert below(tmp_path) == (["a.png"], [".b.png", ".git/c.png", ".git/deep/d.png"])
    assert below(tmp_path / ".git")[0] == ["c.png", "deep/d.png"]  # asked for by name


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "data/m/1.png", tmp_path / "outside/2.png", tmp_path / "outside/deep/3.png")
    data = tmp_path / "data"
    (data / "a_link_to_m").symlink_to(data / "m")  # sorted before m: the real folder wins
    (data / "l1").symlink_to(tmp_path / "outside")
    (data / "l2").symlink_to(tmp_path / "outside")
    (data / "loop").symlink_to(data)
    (tmp_path / "outside/back").symlink_to(data)
    (data / ".hidden_link").symlink_to(tmp_path / "outside")
    assert below(data) == (["l1/2.png", "l1/deep/3.png", "m/1.png"], [".hidden_link"])


def test_a_visible_link_to_a_hidden_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / ".v1/1.png")
    (tmp_path / "current").symlink_to(tmp_path / ".v1")
    assert below(tmp_path) == (["current/1.png"], [])


def test_a_folder_that_may_not_be_read_is_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.png", tmp_path / "locked/b.png", tmp_path / ".cache/c.png")

    def scandir(path: str | Path) -> object:
        if Path(path).name in locked:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    real, locked = os.scandir, {"locked", ".cache"}
    monkeypatch.setattr(folders.os, "scandir", scandir)
    assert below(tmp_path) == (["a.png", "locked"], [".cache"])
    locked.add(tmp_path.name)
    with pytest.raises(DatasetError, match="may not be read"):
        list_images(tmp_path)


def test_errors_say_what_was_found(tmp_path: Path) -> None:
    touch(tmp_path / "notes/today.txt")
    for folder, said in ((tmp_path / "none", "does not exist"), (tmp_path / "notes/today.txt", "is a file"),
                         (tmp_path, r"holds no image, .*found notes/today\.txt"), ("", "is an empty path")):
        for entrance in (list_images, image_files):
            with pytest.raises(DatasetError, match=said):
                entrance(folder)


PATHS = [Path("d/mon/part01_1.png"), Path("d/mon/part01_2.png"), Path("d/tue/part02_1.png")]


@pytest.mark.parametrize("group", [
    r"part(\d+)_", re.compile(r"(?<=part)\d+"), lambda path: path.stem[4:6], ["01", "01", "02"],
])
def test_groups_are_named_in_several_ways(group: object) -> None:
    assert group_names(PATHS, group) == ["01", "01", "02"]  # type: ignore[arg-type]


def test_the_pattern_is_searched_below_the_shared_folder() -> None:
    assert group_names(PATHS, "^[a-z]+") == ["mon", "mon", "tue"]
    assert group_names(PATHS, "^[a-z]+", base=".") == ["d"] * 3
    assert group_names([f"/part99/x/{i}.png" for i in range(2)], r"\d+") == ["0", "1"]
    assert group_names(["d/7.png"], ".*") == ["7.png"] and group_names([], "x") == [] == group_names([], None)
    assert group_names(PATHS, None) == [None] * 3
    assert group_names(PATHS, [7, 7, 8]) == ["7", "7", "8"] == group_names(PATHS, lambda p: 7 if "mon" in str(p) else 8)


@pytest.mark.parametrize(("group", "said"), [
    (r"part01", r"part02_1\.png: group = 'part01' is not found in 'tue/part02_1\.png'"),
    (r"(\d*)$", r"part01_1\.png: group = .* gives ''"),
    (r"part|(x)", r"part01_1\.png: .* gives None"),
    ("part(", "is no regular expression"),
    (["a", "b"], "2 names for 3 images"),
    (["a", None, "b"], r"part01_2\.png: its name in the list gives None"),
    (["a", " ", "b"], r"part01_2\.png: .* gives ' '"),
    (lambda path: None, r"part01_1\.png: the function passed as group gives None"),
    (lambda path: path.stem.split("-")[1], r"part01_1\.png: the function .* fails \(IndexError"),
])
def test_group_errors_name_the_file(group: object, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        group_names(PATHS, group)  # type: ignore[arg-type]


def test_an_error_speaks_of_the_argument_that_is_wrong() -> None:
    with pytest.raises(DatasetError, match=r"product = 'x' is not found .* the product's name"):
        group_names(PATHS, "x", role="product")
    with pytest.raises(DatasetError, match=r"^product: 1 names for 3 images"):
        group_names(PATHS, ["x"], role="product")
