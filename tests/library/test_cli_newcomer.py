"""What a newcomer with a shell and no Python must not miss: it stands in the last lines, and in every command."""

from __future__ import annotations

import csv
import functools
import inspect
import io
import json
import os
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlib import EfficientAD, PatchCore, Prediction, SimpleNet
from adlib.cli import commands as cli_commands
from adlib.cli import main
from adlib.cli.answers import Arrivals, Outcome, status_of
from adlib.datasets import SyntheticFactory
from adlib.detector import Detector
from adlib.folders import list_images
from adlib.progress import watched
from adlib.report import odd_held_out, write_report
from adlib.samples import Sample
from adlib.threshold import cross_conformal_bound


def picture(number: int, *, mark: int = 0) -> np.ndarray:
    """A ramp with some noise; a mark is so many bright pixels a side."""
    rng = np.random.default_rng(number)
    values = np.add.outer(np.arange(64.0), np.arange(64.0)) + rng.normal(0, 4, (64, 64))
    values[20 : 20 + mark, 30 : 30 + mark] = 255
    return values.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good: twelve parts, one of them marked; parts.st: their detector; told.txt: what `fit` said; new: a good part."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("good", "new"):
        (folder / name).mkdir()
    for i in range(12):
        Image.fromarray(picture(i, mark=14 * (i == 7))).save(folder / "good" / f"{i:02d}.png")
    Image.fromarray(picture(20)).save(folder / "new" / "a.png")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as told:
        patch.chdir(folder)
        fit("good", "parts.st")
    (folder / "told.txt").write_text(told.getvalue())
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def fit(folder: str, to: str, *more: str) -> None:
    assert main(["fit", folder, "--out", to, "--image-size", "32", "--device", "cpu", *more]) == 0


def last_lines(told: str) -> str:
    """What `fit` says after all of its work, with one space between two words."""
    return " ".join(told[told.index("Written: ") :].split())


# ---------------------------------------------------------------------- one odd part sets the threshold


def test_every_command_says_that_one_part_sets_the_threshold(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = PatchCore.load("parts.st", device="cpu")
    highest, second = detector.normal_scores.tolist()[::-1][:2]
    names = [name for name, _ in detector.normal_parts][::-1][:2]
    told = last_lines((here / "told.txt").read_text())
    assert names[0] == "good/07.png" and detector.threshold(1 / 13) == highest
    for part in ("ATTENTION: The threshold rests on good/07.png", f"the score {highest:.4g}",
                 f"at the next one, {names[1]}, it would be {second:.4g}", "take it out of the good pictures"):
        assert part in told
    main(["inspect", "parts.st", "new"])
    assert "ATTENTION: The threshold rests on good/07.png" in capsys.readouterr().err
    main(["report", "parts.st", "new", "--out", "odd.html"])
    assert f"good/07.png: this held-out part has the score {highest:.4g}" in (here / "odd.html").read_text()


def test_an_odd_part_below_the_threshold_stays_a_note(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit("good", "note.st", "--alpha", "2/13")
    told = last_lines(capsys.readouterr().out)
    assert "Note: the scores of 1 of 12 held-out parts stand apart" in told and "good/07.png" in told
    assert "ATTENTION" not in told and "the scores of" not in last_lines((here / "told.txt").read_text())


def test_it_is_said_only_where_it_is_so(here: Path, tmp_path: Path) -> None:
    detector = PatchCore.load("parts.st", device="cpu")
    assert odd_held_out(detector, 1 / 13) is not None
    assert odd_held_out(detector, 2 / 13) is None  # the second one sets the threshold then
    detector.normal_scores = torch.linspace(1.0, 1.5, 12)
    assert odd_held_out(detector, 1 / 13) is None
    write_report(tmp_path / "r.html", detector, detector.predict("new"), alpha=1 / 13)
    assert 'id="odd"' not in (tmp_path / "r.html").read_text()
    detector.normal_scores = torch.tensor([*np.linspace(1.0, 1.2, 10), 5.0, 5.1])
    two = odd_held_out(detector, 1 / 13)
    assert two is not None and "these held-out parts have the score 5 or more" in two and "it would be 1.2" in two


# ---------------------------------------------------------------------- what has to be done stands last


def test_a_picture_of_another_size_stands_in_the_last_lines(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(9):
        Image.fromarray(picture(40 + i)).save(tmp_path / f"{i}.png")
    Image.fromarray(picture(50)).resize((96, 40)).save(tmp_path / "00_wide.png")  # the first one: not the usual size
    Image.fromarray(picture(51)).resize((40, 40)).save(tmp_path / "small.png")
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "broken.png").write_bytes(b"none")
    fit(str(tmp_path), str(tmp_path / "d.st"))
    shown = capsys.readouterr()
    told = last_lines(shown.out)
    assert "00_wide.png is 40 x 96" in told and "small.png is 40 x 40; the others are 64 x 64" in told
    assert "photograph them as the others, or take them out, and fit again" in told
    assert "ATTENTION: 11 held-out parts cannot promise 5 %" in told and "notes.txt" in told
    assert "LEFT OUT: 1" in told and "broken.png" in told
    assert "Note: 1 cannot be read and are left out" in shown.err and "broken.png" in shown.err
    assert "Pictures of 64 x 64 are looked at" in shown.out and "others' shape" not in shown.err


def test_a_log_file_has_no_progress_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    images = [picture(i) for i in range(3)]
    shown = []
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        PatchCore(image_size=32, batch_size=1, device="cpu").fit(images)
        shown.append(stream.getvalue())
    assert shown[0] == "" and "coreset" in shown[1]
    for stream in (None, object(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        assert watched() == isinstance(stream, Terminal)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert not watched()
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert watched()


# ---------------------------------------------------------------------- demo


def test_demo_says_which_of_its_new_parts_are_defective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(cli_commands, "SyntheticFactory", functools.partial(SyntheticFactory, size=64))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "parts", "--good", "3", "--new", "10"]) == 0
    assert "parts/labels.csv says which of the new parts are defective" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "parts/labels.csv").read_text().splitlines()))
    pictures, _ = list_images("parts/new")
    assert [f"parts/{row['picture']}" for row in rows] == [p.as_posix() for p in pictures]
    factory = SyntheticFactory("washer", n_train=3, n_validation=8, n_test=20, n_defect=22, size=64)
    made = {(s.image * 255).round().byte().permute(1, 2, 0).numpy().tobytes(): s.kind
            for s in (*factory.validation, *factory.test)}  # fmt: skip
    for row in rows:
        assert made[np.asarray(Image.open(f"parts/{row['picture']}")).tobytes()] == row["kind"]
        assert row["answer"] == ("good" if row["kind"] == "good" else "defective")
    assert [row["answer"] for row in rows].count("defective") == 2


# ---------------------------------------------------------------------- a watch that goes on for months


def test_a_watch_forgets_what_has_gone(tmp_path: Path) -> None:
    stays, arrivals = tmp_path / "stays.png", Arrivals(tmp_path)
    stays.write_bytes(b"x")
    given = []
    for i in range(20):
        path = tmp_path / f"{i}.png"
        path.write_bytes(b"x")
        for _ in range(2):
            for ready, _ in arrivals.look():
                given.append(ready.name)
                arrivals.answered(ready)
        path.unlink()
    list(arrivals.look())
    assert given.count("stays.png") == 1 and len(given) == 21
    assert [*arrivals.known] == [stays] and not arrivals.open and not arrivals.waiting()
    (tmp_path / "0.png").write_bytes(b"x")  # it comes back: a new one
    assert [list(arrivals.look()) for _ in range(2)][1] == [(tmp_path / "0.png", False)]


def test_a_share_that_goes_and_comes_back_has_nothing_new(tmp_path: Path) -> None:
    share, away, arrivals = tmp_path / "share", tmp_path / "away", Arrivals(tmp_path / "share")
    share.mkdir()
    (share / "a.png").write_bytes(b"x")
    for ready, _ in [found for _ in range(3) for found in arrivals.look()]:
        arrivals.answered(ready)
    share.rename(away)
    share.mkdir()  # the empty folder below it
    assert not list(arrivals.look())
    share.rmdir()
    away.rename(share)
    assert not [found for _ in range(3) for found in arrivals.look()] and len(arrivals.known) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_watch_between_two_pictures(
    number: int, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        Image.fromarray(picture(70 + i, mark=20 * (i == 1))).save(tmp_path / f"{i}.png")
    whole, before = PatchCore.predict, signal.getsignal(number)

    def struck(self: PatchCore, samples: list[Sample]) -> Prediction:
        if samples[0].path.endswith("0.png"):
            os.kill(os.getpid(), number)  # while a picture is inspected: its line is written, and the others' too
        return whole(self, samples)

    monkeypatch.setattr(PatchCore, "predict", struck)
    csv_file, json_file = tmp_path / "a.csv", tmp_path / "a.jsonl"
    words = ["inspect", "parts.st", str(tmp_path), "--watch", "--every", "0.01", "--csv", str(csv_file), "--json",
             str(json_file)]  # fmt: skip
    status = main(words)
    rows = list(csv.DictReader(csv_file.read_text().splitlines()))
    assert [Path(row["picture"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert [json.loads(line)["answer"] for line in json_file.read_text().splitlines()] == [r["answer"] for r in rows]
    assert status == status_of([Outcome(None, row["answer"]) for row in rows])
    told = capsys.readouterr().err
    assert "3 pictures: " in told and "what is waiting, 2" in told and signal.getsignal(number) is before


def test_a_second_signal_ends_it_at_once(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture(70)).save(tmp_path / "0.png")

    def struck(*_: object) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(PatchCore, "predict", struck)
    assert main(["inspect", "parts.st", str(tmp_path), "--watch", "--every", "0.01"]) == 130


# ---------------------------------------------------------------------- the methods that are trained


def test_training_can_be_made_short(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit("good", "s.st", "--method", "simplenet", "--epochs", "1", "--image-size", "32", "--validation", "0.3")
    assert "epochs of training: 1;" in capsys.readouterr().out
    assert Detector.load("s.st").epochs == 1 and main(["inspect", "s.st", "new"]) in (0, 1)
    capsys.readouterr()
    for option, method in (("steps", "efficientad"), ("epochs", "simplenet")):
        assert main(["fit", "good", "--out", "x.st", f"--{option}", "2"]) == 2
        assert f"--{option}: PatchCore has none; leave it out, or take --method {method}" in capsys.readouterr().err


def test_what_few_folds_promise_is_said(here: Path) -> None:
    alpha, few = cli_commands.least(None, 15, 15, Path("good"), Path("x.st"), 5)
    assert alpha == 1 / 16 and f"{cross_conformal_bound(1 / 16, 15, 5):.1%}" == "16.7%"
    assert "1 in 16, 6.25 % with --folds 15; with 5 folds it is 16.7 %, and adlib goes on" in few
    assert "with --folds" not in cli_commands.least(None, 15, 15, Path("good"), Path("x.st"), 15)[1]


def test_an_onnx_file_is_no_detector(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("parts.onnx").write_bytes(b"onnx")
    assert main(["inspect", "parts.onnx", "new"]) == 2
    assert "parts.onnx: is what adlib export writes, expected the file that adlib fit wrote" in capsys.readouterr().err


def test_help_says_how_long_a_training_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["fit", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for method, option in ((EfficientAD, "steps"), (SimpleNet, "epochs")):
        assert f"--{option}" in told
        assert f"Without it {inspect.signature(method).parameters[option].default}." in told
