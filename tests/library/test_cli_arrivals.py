"""`adlib inspect --watch`: which pictures of a folder are given out, and when."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from adlib import folders
from adlib.cli.answers import Answer, Arrivals, csv_text, inspected_before


def answer(name: str, kind: str, year: int = 2090) -> Answer:
    return Answer(name, None, kind, 1.0, 0.5, 2.0, "", f"{year}-01-01T00:00:00.000+00:00")


def test_a_picture_arrives_once_when_it_is_completely_written(tmp_path: Path) -> None:
    arrivals, path = Arrivals(tmp_path), tmp_path / "a.png"
    assert list(arrivals.look()) == []  # an empty folder is no error
    path.write_bytes(b"half")
    assert list(arrivals.look()) == []
    path.write_bytes(b"half and more")
    assert list(arrivals.look()) == [] and arrivals.waiting() == [path]
    assert list(arrivals.look()) == [(path, False)]
    arrivals.answered(path)
    assert [list(arrivals.look()) for _ in range(12)] == [[]] * 12 and arrivals.waiting() == []
    path.write_bytes(b"another picture under the same name")
    assert [list(arrivals.look()) for _ in range(2)] == [[], [(path, False)]]
    looks = [list(arrivals.look()) for _ in range(12)]  # it could not be read, and is tried once more
    assert [look for look in looks if look] == [[(path, True)]]
    arrivals.answered(path)
    (tmp_path / "b.png").write_bytes(b"x")
    list(arrivals.look())
    (tmp_path / "b.png").unlink()  # it went before it could be read: that is an answer, too
    assert list(arrivals.look()) == [(tmp_path / "b.png", True)]
    shutil.rmtree(tmp_path)
    assert list(arrivals.look()) == [] and arrivals.lost


def test_a_folder_that_may_not_be_read_is_lost_and_its_pictures_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    arrivals = Arrivals(tmp_path)
    assert list(arrivals.look()) == []
    with monkeypatch.context() as patch:  # as after chmod 0, which does not stop root
        patch.setattr(folders, "_scan", lambda *_: None)
        assert list(arrivals.look()) == [] and arrivals.lost
    assert list(arrivals.look()) == [(tmp_path / "a.png", False)] and not arrivals.lost


def test_what_a_csv_file_has_is_not_inspected_again(tmp_path: Path) -> None:
    old, new = tmp_path / "old.png", tmp_path / "new.png"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (1e9, 1e9))
    done = inspected_before(csv_text([answer(str(old), "good"), answer(str(new), "not inspected")]) + "torn,,go")
    assert done.keys() == {str(old)}
    arrivals = Arrivals(tmp_path, done)
    assert [list(arrivals.look()) for _ in range(2)] == [[], [(new, False)]]
    os.utime(old, (4e9, 4e9))  # later than its answer
    assert [list(arrivals.look()) for _ in range(2)][1] == [(old, False)]
    with pytest.raises(ValueError, match="its first line is"):
        inspected_before("name,price\n")


def test_a_name_that_looks_like_a_formula_is_known_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("=x.png")
    path.write_bytes(b"x")
    arrivals = Arrivals(Path(), inspected_before(csv_text([answer(str(path), "good")])))
    assert [list(arrivals.look()) for _ in range(3)] == [[]] * 3


def test_an_older_picture_that_took_the_name_is_inspected(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"x")
    os.utime(path, (1e9, 1e9))  # as cp -p and mv leave it
    arrivals = Arrivals(tmp_path, inspected_before(csv_text([answer(str(path), "good", 2020)])))
    assert [list(arrivals.look()) for _ in range(2)] == [[], [(path, False)]]
