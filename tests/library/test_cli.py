"""`adlib` in the shell: what an engineer types, what a script reads, and what is said where it is wrong."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adlib
from adlib.cli import commands as cli_commands
from adlib.cli import for_shell, main
from adlib.cli.answers import Answer, csv_text, parts_of_answers, status_of
from adlib.datasets import ImageFolder, MVTecAD, SyntheticFactory
from adlib.metrics import image_auroc
from adlib.samples import Sample


def picture(number: int, *, defect: bool = False) -> Image.Image:
    """A ramp with some noise; the defect is a bright square."""
    rng = np.random.default_rng(number)
    values = np.add.outer(np.arange(64.0), np.arange(64.0)) + rng.normal(0, 4, (64, 64))
    if defect:
        values[20:34, 30:44] = 250
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """good: 56 pictures; new: 4, of which one is defective and one broken; parts.st: the detector."""
    folder = tmp_path_factory.mktemp("cli")
    for name in ("good", "new", "ok", "test/good", "test/hole"):
        (folder / name).mkdir(parents=True)
    for i in range(56):
        picture(i).save(folder / "good" / f"{i:02d}.png")
    for i in range(4):
        picture(100 + i, defect=i == 1).save(folder / "new" / f"part{i // 2}_{i % 2}.png")
        picture(200 + i).save(folder / "test/good" / f"{i}.png")
        picture(300 + i, defect=True).save(folder / "test/hole" / f"{i}.png")
    (folder / "new" / "part1_1.png").write_bytes(b"no picture")
    shutil.copy(folder / "new" / "part0_0.png", folder / "ok")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "good", "--out", "parts.st", "--image-size", "64", "--device", "cpu"]) == 0
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def detector() -> adlib.PatchCore:
    return adlib.PatchCore.load("parts.st", device="cpu")


# ---------------------------------------------------------------------- the door


def test_help_fits_eighty_columns_and_does_not_wait_for_torch() -> None:
    code = ("import sys\nfrom adlib.cli import main\n"
            "for words in ['--help'], ['fit', '--help'], ['inspect', '--help']:\n    assert main(words) == 0\n"
            "print('torch' in sys.modules or 'numpy' in sys.modules, file=sys.stderr)")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env={**os.environ, "COLUMNS": "80"})  # fmt: skip
    assert run.stderr.strip() == "False"
    assert max(map(len, run.stdout.splitlines())) <= 80
    for word in ("fit", "inspect", "report", "evaluate", "export", "demo", "--watch", "Exit status", "--alpha"):
        assert word in run.stdout


@pytest.mark.parametrize(("words", "said"), [
    (["fit"], "See adlib fit --help"),
    (["fitt"], "No such command"),
    (["fit", "nothing", "--out", "x.st"], "nothing: does not exist"),
    (["fit", ".", "--out", "x.st"], "type: adlib fit good --out x.st"),
    (["fit", "good", "--out", "no/x.st"], "no: no such folder"),
    (["fit", "ok", "--out", "x.st"], "is the only part"),
    (["fit", "good", "--out", "x.st", "--image-size", "9"], "--image-size 9: expected"),
    (["fit", "good", "--out", "x.st", "--image-size", "big"], "such as 256"),
    (["fit", "good", "--out", "x.st", "--alpha", "5"], "between 0 and 1"),
    (["fit", "good", "--out", "x.st", "--alpha", "1%"], "type: adlib fit good --out x.st --alpha 1/57"),
    (["fit", "good", "--out", "x.st", "--folds", "3", "--validation", "0.3"], "expected one of them"),
    (["fit", "good", "--out", "x.st", "--folds", "1"], "--folds 1: expected"),
    (["fit", "good", "--out", "x.st", "--validation", "0"], "expected a number between 0 and 1"),
    (["fit", "good", "--out", "x.st", "--group", "(zz)"], "--group '(zz)' is not found"),
    (["inspect", "new", "parts.st"], "adlib inspect parts.safetensors new"),
    (["inspect", "nothing.st", "new"], "nothing.st: no such file"),
    (["inspect", "good/00.png", "new"], "is not a whole safetensors file"),
    (["inspect", "parts.st", "*.tif"], "*.tif: does not exist"),
    (["inspect", "parts.st", "new", "--alpha", "0.01"], "--alpha 1/21"),
    (["inspect", "parts.st", "new", "--csv", "-", "--json", "-"], "give one of them a file"),
    (["inspect", "parts.st", "new", "--csv", "good"], "good: is a folder"),
    (["inspect", "parts.st", "new", "--marked", "new/marked"], "expected a folder elsewhere"),
    (["inspect", "parts.st", "new", "ok", "--marked", "."], ".: holds new, so that"),
    (["inspect", "parts.st", "ok/part0_0.png", "--marked", "ok"], "give --marked a new name"),
    (["inspect", "parts.st", "good/00.png", "--watch"], "expected one folder"),
    (["report", "parts.st", "new", "--out", "no/r.html"], "make it first"),
    (["evaluate", "parts.st", "good"], "nothing says which are good"),
    (["demo", "good"], "give a new name"),
    (["demo", "fresh", "--product", "wheel"], "'wheel' is no product"),
])  # fmt: skip
def test_wrong_use_is_one_message_that_says_what_to_do(
    words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.rglob("*"))
    assert main(words) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error and "Traceback" not in error
    assert sorted(here.rglob("*")) == before


def test_debug_shows_where_an_error_comes_from(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "nothing.st", "new", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_what_should_not_happen_is_no_defective_part(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(adlib.PatchCore, "predict", lambda *_, **__: {}["no"])
    assert main(["inspect", "parts.st", "ok"]) == 2
    assert "this should not happen: KeyError" in capsys.readouterr().err


def test_messages_speak_the_language_of_the_shell() -> None:
    assert for_shell("write alpha=1/16, with folds=15") == "write --alpha 1/16, with --folds 15"
    assert for_shell("max_value = 300: expected") == "--max-value 300: expected"
    assert for_shell("region = 'mask.png': with tiles=256.") == "--region 'mask.png': with --tiles 256."
    for same in ("a == b, alphabet=3", "shots/group=3.png: is empty", "group=3.png: is empty", "region=2/seed=1/x.tif",
                 r"C:\seed=1\a.png", "new/my-seed=0/01.png: is empty", "new/run.seed=0: is a file"):  # fmt: skip
        assert for_shell(same) == same


# ---------------------------------------------------------------------- fit


def test_fit_is_the_fit_of_python(here: Path) -> None:
    same = adlib.PatchCore(image_size=64, device="cpu").fit("good", validation=0.35)
    assert detector().threshold(0.05) == same.threshold(0.05) and len(same.normal_scores) == 20


def test_few_parts_lead_to_a_result_and_it_is_said_loudly(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = here / "few"
    few.mkdir()
    for i in range(6):
        shutil.copy(here / "good" / f"{i:02d}.png", few)
    (few / "broken.png").write_bytes(b"")  # it must not spoil the folds
    assert main(["fit", "few", "--out", "few.st", "--image-size", "64", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "ATTENTION: 6 held-out parts cannot promise 5 %" in told and "1 in 7, 14.3 %" in told
    assert "LEFT OUT: 1" in told and "few/broken.png: is empty" in told
    assert "adlib inspect few.st NEW\n" in told  # as it stands: inspect finds the same rate by itself
    assert main(["inspect", "few.st", "ok"]) == 0
    assert "at most 14.3 %" in capsys.readouterr().err


def test_broken_pictures_do_not_spoil_a_held_out_share(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(here / "good", here / "spoilt")
    for name in ("00.png", "01.png", "02.png", "03.png"):  # 52 are left: a share of them is no longer enough
        (here / "spoilt" / name).write_bytes(b"no picture")
    words = ["fit", "spoilt", "--out", "spoilt.st", "--image-size", "64", "--device", "cpu", "--validation", "0.35"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "52 pictures of 52 parts" in told and "LEFT OUT: 4" in told and "ATTENTION: 18 held-out parts" in told


@pytest.mark.parametrize(("parts", "method", "chosen"), [
    (53, "patchcore", (0.35, None)), (52, "patchcore", (None, 52)), (15, "patchcore", (None, 15)),
    (40, "simplenet", (None, 5)), (3, "efficientad", (None, 3)),
])  # fmt: skip
def test_a_share_where_it_is_enough_else_folds(parts: int, method: str, chosen: tuple[object, object]) -> None:
    samples = [Sample(None, "unlabelled", f"{i}.png", group=str(i // 2)) for i in range(2 * parts)]
    assert cli_commands.choose(samples, 0.05, method, 0) == chosen


# ---------------------------------------------------------------------- inspect


def test_answers_are_those_of_python_in_every_form(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inspect", "parts.st", "new", "--csv", "a.csv", "--json", "a.jsonl", "--group", r"(part\d)"]
    assert main([*words, "--marked", "marked"]) == 3
    shown, prediction = capsys.readouterr(), detector().predict("new")
    rows = list(csv.DictReader((here / "a.csv").read_text().splitlines()))
    answers = [row["answer"] for row in rows]
    assert answers == ["good", "defective", "good", "not inspected"]
    assert [row["part"] for row in rows] == ["part0", "part0", "part1", "part1"]
    assert [float(row["score"]) for row in rows[:3]] == prediction.scores.tolist()
    assert [float(row["p_value"]) for row in rows[:3]] == prediction.p_values.tolist()
    assert "new/part1_1.png" in rows[3]["reason"] and rows[3]["score"] == ""
    objects = [json.loads(line) for line in (here / "a.jsonl").read_text().splitlines()]
    assert [o["answer"] for o in objects] == answers and objects[3]["score"] is None
    assert shown.out.count("\n") == 4 and "NOT INSPECTED  new/part1_1.png" in shown.out
    assert "2 parts: 1 defective, 0 good, 1 NOT INSPECTED. Defective: part0." in shown.err
    marked = [f.relative_to(here / "marked").as_posix() for f in (here / "marked").rglob("*.jpg")]
    assert marked == ["part0_1.png.jpg"]
    colours = np.asarray(Image.open(here / "marked" / marked[0])).astype(int)
    assert (colours[..., 0] - colours[..., 2] > 80).any()  # the grey picture has an orange line
    main(["inspect", "parts.st", "new", "--json", "-"])
    assert [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()] == answers


@pytest.mark.parametrize(("images", "status"), [
    (["ok"], 0), (["ok", "new/part0_1.png"], 1), (["ok", "new/part0_1.png", "nothing.png"], 3),
    (["new/part1_1.png"], 3),
])  # fmt: skip
def test_the_exit_status_for_a_script(images: list[str], status: int, here: Path) -> None:
    assert main(["inspect", "parts.st", *images]) == status


def test_a_reader_who_leaves_changes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["inspect", "parts.st", "new", "--csv", "piped.csv"]) == 3
    assert len((here / "piped.csv").read_text().splitlines()) == 5


def test_an_interrupt_keeps_what_was_inspected(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = adlib.PatchCore.predict

    def stopped(self: adlib.PatchCore, samples: list[Sample]) -> None:
        self.interrupted = whole(self, samples[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(adlib.PatchCore, "predict", stopped)
    assert main(["inspect", "parts.st", "new"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["good", "DEFECTIVE", "NOT", "NOT"]
    assert "interrupted before its turn" in lines[2]


def answer(name: str, kind: str, part: str | None = None) -> Answer:
    return Answer(name, part, kind, 1.0, 0.5, 2.0, "", "2026-01-01T00:00:00.000+00:00")


def test_a_missed_inspection_never_looks_good() -> None:
    kinds = "good", "defective", "not inspected"
    assert [status_of([answer("x", kind)]) for kind in kinds] == [0, 1, 3]
    assert status_of([answer("x", kind) for kind in kinds]) == 3
    assert parts_of_answers([answer("x", "not inspected", "7"), answer("y", "good", "7")]) == {"7": "not inspected"}


def test_many_defective_pictures_are_a_reason_to_look_at_the_camera(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "parts.st", *["new/part0_1.png"] * 10]) == 1
    assert "have changed since the fit" in capsys.readouterr().err


def test_names_can_steer_neither_a_terminal_nor_a_spreadsheet() -> None:
    hostile = "=cmd|\x1b[2J\n\u202egnp.png"
    assert "\x1b" not in answer(hostile, "good").line() and "\n" not in answer(hostile, "good").line()
    (row,) = csv.DictReader(io.StringIO(csv_text([answer(hostile, "good", "@7")])))
    assert row["picture"] == f"./{hostile}" and row["part"] == "'@7"
    for start, shown in ("=", "'="), ("+", "'+"), ("-", "'-"), ("@", "'@"), ("\t", "'\t"), ("\r", "\\r"):
        torn = answer("x.png", "not inspected")._replace(reason=f"{start}1+1.png\r=2: is empty")
        (row,) = csv.DictReader(io.StringIO(csv_text([torn]), newline=""))
        assert row["reason"] == f"{shown}1+1.png\\r=2: is empty"


# ---------------------------------------------------------------------- watch


def test_watch_answers_what_comes_until_it_is_stopped(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = here / "line"
    line.mkdir()
    shutil.copy(here / "new/part0_0.png", line / "a.png")
    moments = iter([None, lambda: shutil.copy(here / "new/part0_1.png", line / "b.png"), None, None,
                    lambda: (line / "c.png").write_bytes(b"never finished"), None])  # fmt: skip

    def sleep(_: float) -> None:
        try:
            moment = next(moments)
        except StopIteration:
            raise KeyboardInterrupt from None
        if moment:
            moment()

    monkeypatch.setattr(time, "sleep", sleep)
    words = ["inspect", "parts.st", "line", "--watch", "--csv", "watch.csv"]
    assert main(words) == 3
    shown = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in shown] == ["good", "DEFECTIVE", "NOT"]
    (here / "watch.csv").write_text((here / "watch.csv").read_text().rstrip("\n"))  # as an editor may leave it
    moments = iter([None, lambda: shutil.copy(here / "new/part0_0.png", line / "c.png"), None, None])
    assert main(words) == 0  # a and b are not inspected again
    rows = list(csv.DictReader((here / "watch.csv").read_text().splitlines()))
    assert [(r["picture"], r["answer"]) for r in rows] == [
        ("line/a.png", "good"), ("line/b.png", "defective"), ("line/c.png", "not inspected"), ("line/c.png", "good")]


# ---------------------------------------------------------------------- the others


def test_report_is_written_and_says_what_is_missing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "parts.st", "new", "--out", "r.html"]) == 3
    assert "Not inspected: 1" in (here / "r.html").read_text()
    assert "Open it in a browser: file://" in capsys.readouterr().out


def test_evaluate_measures_as_python_does(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "parts.st", "test", "--json", "e.json"]) == 0
    told = capsys.readouterr().out
    prediction = detector().predict(ImageFolder("good", "test").test)
    measured = json.loads((here / "e.json").read_text())["measures"]["image_auroc"]
    assert measured["value"] == image_auroc(prediction.targets, prediction.scores)
    assert f"{measured['value']:.3f}   {measured['low']:.3f} to {measured['high']:.3f}" in told and "--masks" in told
    assert "4 of 4     hole" in told


def test_evaluate_names_what_was_not_inspected(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(here / "test", here / "torn")
    (here / "torn/hole/0.png").write_bytes(b"no picture")
    assert main(["evaluate", "parts.st", "torn", "--json", "-"]) == 3
    shown = capsys.readouterr()
    assert "NOT INSPECTED  torn/hole/0.png" in shown.err and "1 NOT INSPECTED" in shown.err
    assert main(["evaluate", "parts.st", "torn", "--json", "torn.json"]) == 3
    assert json.loads(shown.out) == json.loads((here / "torn.json").read_text())
    assert list(json.loads(shown.out)["not_inspected"]) == ["torn/hole/0.png"]


def test_export_says_what_to_install_and_passes_everything_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "adlib.export", None)
    words = ["export", "parts.st", "parts.onnx", "--check", "good"]
    assert main(words) == 2
    assert "adlib[export]" in capsys.readouterr().err
    asked = []

    def export_onnx(fitted: object, path: Path, *, check: object, tolerance: float) -> dict[str, object]:
        asked.append((type(fitted), path, check, tolerance))
        path.write_bytes(b"onnx")
        return {"checked": {"images": 7}, "held_out": 9}

    monkeypatch.setitem(sys.modules, "adlib.export", types.SimpleNamespace(export_onnx=export_onnx))
    assert main(words) == 0
    assert asked == [(adlib.PatchCore, Path("parts.onnx"), "good", 1e-4)]
    told = " ".join(capsys.readouterr().out.split())
    assert "for 7 pictures of good" in told and "inspect_onnx.py parts.onnx NEW 0.1" in told


def test_demo_writes_what_the_other_commands_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_commands, "SyntheticFactory", functools.partial(SyntheticFactory, size=64))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "parts", "--good", "3", "--new", "5"]) == 0
    assert {f.name for f in tmp_path.iterdir()} == {"parts"}
    assert len(list((tmp_path / "parts/good").iterdir())) == 3 and len(list((tmp_path / "parts/new").iterdir())) == 5
    test = ImageFolder("parts/good", "parts/test", "parts/ground_truth").test
    assert {s.label for s in test} == {0, 1} and all(s.mask is not None and s.mask.any() for s in test if s.label)
    (tmp_path / "parts/train").mkdir()
    shutil.copytree("parts/good", "parts/train/good")
    assert len(MVTecAD(tmp_path, "parts").test) == len(test)  # the layout of MVTec AD
    typed = [row.split() for row in capsys.readouterr().out.splitlines() if row.startswith("  adlib")]
    assert [row[1] for row in typed] == ["fit", "inspect", "report", "evaluate"]
