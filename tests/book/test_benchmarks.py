"""The files of benchmarks/: each says how it was made, by a script that is there, and each is shown."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import common

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "benchmarks").glob("*/*.json"))
REPORTS = [path for path in FILES if not path.stem.endswith(("_scores", "_maps"))]  # those are data of a report


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_a_report_says_how_it_was_made(path: Path) -> None:
    report = json.loads(path.read_text(encoding="utf-8"))
    script = re.match(r"python -m (benchmarks\.(?:accuracy|speed)\.\w+)", report["command"])
    assert script and (ROOT / script[1].replace(".", "/")).with_suffix(".py").parent == path.parent
    assert (ROOT / script[1].replace(".", "/")).with_suffix(".py").is_file()
    assert report["name"] and report["threads"] >= 1 and report["versions"].keys() >= {"python", "torch"}
    assert "/" not in re.sub(r"DATA/\w+", "", report["command"])
    if "results" in report:
        assert all("seed" in run for run in report["results"]) or "seed" in report or "seeds" in report


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_shown_by_a_page_or_a_notebook(path: Path) -> None:
    readers = [ROOT / "book" / "tools" / "results.py", *(ROOT / "notebooks").glob("*.ipynb")]
    text = "".join(reader.read_text(encoding="utf-8") for reader in readers)
    name = f'"{path.stem}"' if path.parent.name == "speed" else path.name  # of speed/, the page reads every file
    assert re.search(rf"(?<!\w){re.escape(name)}", text) or path.stem.startswith("patchcore_"), "nothing reads it"


def test_a_command_tells_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/accuracy/patchcore.py", "typed"])
    options = {"root": Path("/somewhere/mvtec_ad"), "category": "", "random": True, "off": False, "image_size": 0,
               "seeds": [0, 1], "absent": None}  # fmt: skip
    wanted = "python -m benchmarks.accuracy.patchcore mvtec_ad --root DATA/mvtec_ad --random --image-size 0 --seeds 0 1"
    assert common.command("mvtec_ad", **options) == wanted


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    common.write(path, {"value": 0.1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        common.write(path, {"value": object()})
    assert path.read_text(encoding="utf-8") == '{\n "value": 0.1\n}\n' and list(path.parent.iterdir()) == [path]
