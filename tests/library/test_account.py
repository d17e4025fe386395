"""N images in, N answers out: folders of every sort of entry, drawn by a seed, and counted by who made them."""

from __future__ import annotations

import faulthandler
import io
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from case_data import Mean, close, good_folder, picture
from PIL import Image

from adlib.images import ImageError

FOLDERS = 2000
OFTEN = 150
NAMES = ["a", "teil ü", "零件", "two words", "line\nbreak", "-rf", "x.png", "A.B", "quote'\"", "%s{0}", "\u202eb", "~"]


def encoded(mode: str, kind: str, size: tuple[int, int] = (32, 32), seed: int = 0, **options: object) -> bytes:
    values = picture(seed, *size)
    array = (values * 255).round().astype(np.uint8)
    if mode in ("I;16", "F"):
        grey = values.mean(2)
        image = Image.fromarray((grey * 65535).astype(np.uint16) if mode == "I;16" else grey.astype(np.float32))
    else:
        image = Image.fromarray(array).convert(mode)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def pool() -> dict[str, list[bytes]]:
    """Whole pictures for each ending, made once."""
    pictures = {
        ".png": [encoded(m, "PNG") for m in ("RGB", "L", "RGBA", "P", "1", "LA", "I;16")],
        ".jpg": [encoded(m, "JPEG") for m in ("RGB", "L", "CMYK")], ".bmp": [encoded("RGB", "BMP")],
        ".tif": [encoded(m, "TIFF") for m in ("RGB", "L", "I;16", "F")], ".webp": [encoded("RGB", "WEBP")],
        ".ppm": [encoded("RGB", "PPM")], ".pgm": [encoded("L", "PPM")], ".pbm": [encoded("1", "PPM")],
        ".jp2": [encoded("RGB", "JPEG2000")], ".avif": [encoded("RGB", "AVIF")], ".tga": [encoded("RGB", "TGA")],
    }  # fmt: skip
    pictures |= {".jpeg": pictures[".jpg"], ".jfif": pictures[".jpg"], ".jpe": pictures[".jpg"],
                 ".tiff": pictures[".tif"], ".JPG": pictures[".jpg"], ".PnG": pictures[".png"]}  # fmt: skip
    pictures["odd"] = [encoded("RGB", "PNG", size) for size in ((8, 90), (90, 8), (1, 1), (3, 3), (400, 300))]
    return pictures


@dataclass
class Account:
    """What was put into a folder, by who put it there."""

    root: Path
    pictures: list[Path] = field(default_factory=list)  # each must be a score or a failure
    broken: set[Path] = field(default_factory=set)  # of these, the ones that can only be a failure
    others: set[Path] = field(default_factory=set)  # no pictures by their endings: they are listed as skipped
    either: set[Path] = field(default_factory=set)  # a picture under a foreign ending may be any of the three
    closed: set[str] = field(default_factory=set)


def name(rng: np.random.Generator, taken: int) -> str:
    chosen = NAMES[rng.integers(len(NAMES))]
    return f"{chosen}{taken}" if rng.random() < 0.9 else os.fsdecode(b"\xff\xfe" + str(taken).encode())


def fill(account: Account, folder: Path, outside: Path, rng: np.random.Generator, pool: dict, depth: int) -> None:
    """Up to seven entries of any sort."""
    folder.mkdir(parents=True, exist_ok=True)
    endings = [e for e in pool if e.startswith(".")]
    for index in range(rng.integers(0, 8)):
        ending = endings[rng.integers(len(endings))]
        raw = pool[ending][rng.integers(len(pool[ending]))]
        path = folder / (name(rng, index) + ending)
        sort = rng.integers(19)
        if sort <= 5:
            path.write_bytes(raw)
        elif sort == 6:
            path = path.with_name(path.name + ".png")
            path.write_bytes(pool["odd"][rng.integers(len(pool["odd"]))])
        elif sort == 7:  # another picture's ending
            path.write_bytes(pool[".png"][0])
        elif sort == 8:
            path.write_bytes([b"", b"no image", b"\0" * 300, rng.bytes(300), raw[: len(raw) // 3]][rng.integers(5)])
            if path.stat().st_size < 9:
                account.broken.add(path)
        elif sort == 9:
            path.symlink_to(["nowhere.png", path.name, "../../../gone"][rng.integers(3)])
            account.broken.add(path)
        elif sort == 10:
            os.mkfifo(path)
            account.broken.add(path)
        elif sort == 11:
            target = outside / f"single{len(list(outside.iterdir()))}.png"
            target.write_bytes(pool[".png"][0])
            path.symlink_to(target)
        elif sort == 12:
            other = path.with_name(path.name + [".txt", ".csv", ".json", ".md"][rng.integers(4)])
            other.write_text("no image")
            account.others.add(other)
            continue
        elif sort == 13:
            other = path.with_name(path.name + ".dat")
            other.write_bytes(pool[".png"][0])
            account.either.add(other)
            continue
        elif sort == 14:
            folder.joinpath("." + path.name).write_bytes(raw)
            continue
        elif sort == 15 and depth < 3:
            below = folder / (path.name if rng.random() < 0.3 else name(rng, index))
            fill(account, below, outside, rng, pool, depth + 1)
            continue
        elif sort == 16:
            link = folder / f"link{index}"
            link.symlink_to([account.root, folder, Path("."), Path("..")][rng.integers(4 if depth else 3)])
            continue
        elif sort == 17:
            target = outside / f"folder{len(list(outside.iterdir()))}"
            target.mkdir()
            (target / "behind.png").write_bytes(pool[".png"][0])
            (folder / f"to{index}").symlink_to(target, target_is_directory=True)
            account.pictures.append(target / "behind.png")
            continue
        elif sort == 18 and rng.random() < 0.5:
            path.mkdir()
            (path / "unseen.png").write_bytes(raw)
            account.closed.add(os.path.realpath(path))
            account.broken.add(path)
        else:
            (folder / f"empty{index}").mkdir()
            continue
        account.pictures.append(path)


def place(path: object) -> str:
    """Where an entry lies, by whatever links it was reached; the entry itself may be a link."""
    text = os.fspath(path)  # type: ignore[arg-type]
    return os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))


def holds(detector: Mean, account: Account) -> None:
    """The account of one folder: as a folder, as a list, as a list with repeats, singly, and for a fit."""
    must = sorted(place(p) for p in account.pictures)
    other, free = {place(p) for p in account.others}, {place(p) for p in account.either}
    if must or free:
        try:
            p = detector.predict(account.root)
        except ValueError as error:  # only a folder without one picture is an error as a whole
            assert not must and type(error).__module__.startswith("adlib"), error
            p = None
        if p is not None:
            scored, failed = [place(s.path) for s in p.samples], [place(f) for f in p.failures]
            assert sorted(x for x in [*scored, *failed] if x not in free) == must
            assert len(p.scores) == len(p.samples) == len(p.maps) and np.isfinite(p.scores).all()
            assert {place(b) for b in account.broken} <= set(failed)
            skipped = {place(s) for s in p.skipped}
            assert other <= skipped and free <= skipped | {*scored, *failed} and not skipped & {*scored, *failed}
    else:
        with pytest.raises(ValueError):
            detector.predict(account.root)
    if account.pictures:
        listed = account.pictures + account.pictures[::2]
        q = detector.predict(listed)
        assert len(q.scores) + len(q.failures) == len(listed) and np.isfinite(q.scores).all()
        for single in [p for p in account.pictures if not p.is_dir()][:2]:
            try:
                assert len(detector.predict(single).scores) == 1
            except ImageError as error:
                assert str(single) in str(error) or repr(str(single))[1:-1] in str(error)
    try:
        new = Mean().fit(account.root)
    except ValueError:
        return
    assert int(new.seen[0]) + len(new.failures) in range(len(must), len(must) + len(free) + 1)


def folders(tmp_path: Path, seeds: range, pool: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Mean().fit(good_folder(tmp_path / "good", 3, height=32, width=32))
    closed: set[str] = set()
    close(monkeypatch, closed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in seeds:
            root, outside = tmp_path / f"in{seed}", tmp_path / f"out{seed}"
            outside.mkdir()
            account = Account(root)
            fill(account, root, outside, np.random.default_rng(seed), pool, 0)
            closed.clear()
            closed.update(account.closed)
            # A pipe that is opened for reading waits for ever, in a thread that nothing can stop.
            faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)
            try:
                holds(detector, account)
            except BaseException as error:
                error.add_note(f"seed {seed}: {account}")
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()


def test_the_account_of_a_few_folders(tmp_path, pool, monkeypatch):
    folders(tmp_path, range(OFTEN), pool, monkeypatch)


@pytest.mark.full
def test_the_account_of_two_thousand_folders(tmp_path, pool, monkeypatch):
    folders(tmp_path, range(OFTEN, FOLDERS), pool, monkeypatch)


def test_arrays_and_tensors_are_accounted_for_too():
    """Lists of what has no file: good ones, repeats, wrong shapes, values that are no numbers, other types."""
    detector = Mean().fit([picture(i, 32, 32) for i in range(3)])
    good = picture(9, 32, 32)
    wrong = [good * np.nan, good + 1, good[:, :, :2], np.zeros((0, 32, 3)), np.zeros((2, 3, 4, 5)), good * 1j]
    tensors = [torch.from_numpy(good).permute(2, 0, 1), torch.full((3, 32, 32), torch.inf), torch.zeros(5, 32, 32)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = [[good, *wrong, *tensors, Image.new("RGB", (32, 32), (90, 60, 40)), "nowhere.png"][i]
                 for i in rng.integers(0, 12, rng.integers(2, 12))]  # fmt: skip
        p = detector.predict(drawn)
        assert len(p.scores) + len(p.failures) == len(drawn) and np.isfinite(p.scores).all()
        assert p.skipped is None or len(p.skipped) == 0
