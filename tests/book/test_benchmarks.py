"""The files of benchmarks/: each says how it was made, by a script that is there, and each is shown."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import common
from repository import ROOT

FILES = sorted((ROOT / "benchmarks").glob("*/*.json"))
READERS = [ROOT / "book" / "tools" / "results.py", *(ROOT / "notebooks").glob("*.ipynb")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_how_it_was_made_and_is_shown(path: Path) -> None:
    text = "".join(reader.read_text(encoding="utf-8") for reader in READERS)
    read = r"SPEEDS = .*" if path.parent.name == "speed" else r"read_report\(benchmarks, "
    shown = re.search(rf'{read}"{path.stem}"|(?<!\w){re.escape(path.name)}', text)
    assert shown or path.stem.startswith("patchcore_"), "nothing reads it"
    if path.stem.endswith(("_scores", "_maps")):  # the data of a report
        return
    report = json.loads(path.read_text(encoding="utf-8"))
    script = re.match(r"python -m (benchmarks\.(?:accuracy|speed)\.\w+)", report["command"])
    assert script and (made_by := (ROOT / script[1].replace(".", "/")).with_suffix(".py")).is_file()
    assert made_by.parent == path.parent and "/" not in re.sub(r"DATA/\w+", "", report["command"])
    assert report["name"] and report["threads"] >= 1 and report["versions"].keys() >= {"python", "torch"}
    assert {"seed", "seeds"} & report.keys() or all("seed" in run for run in report.get("results", []))


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
