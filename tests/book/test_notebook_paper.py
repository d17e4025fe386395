"""The chapters with PROFILE = "paper" on a tiny tree in the official layout, with random weights: do they run?"""

from __future__ import annotations

from pathlib import Path

import papermill
import pytest

from adlib.datasets import SyntheticFactory
from notebooks import START_TIMEOUT, all_notebooks

# A detector on a tree in the official layout, and folders of the reader's own; the others only for --all.
CHEAP = ("02_patchcore", "00_quickstart")
CHAPTERS = [pytest.param(path, id=path.stem, marks=[] if path.stem in CHEAP else [pytest.mark.full])
            for path in all_notebooks()]
RANDOM = {"BACKBONE": "resnet18", "PRETRAINED": False}
SHORT = {"03_spd": {**RANDOM, "STEPS": 2}, "04_simplenet": {**RANDOM, "EPOCHS": 1},
         "05_efficientad": {"TEACHER": "adlib_pdn_s_quarter", "STEPS": 2}}  # a teacher in place of a backbone


@pytest.mark.parametrize("path", CHAPTERS)
def test_paper_profile(path: Path, tmp_path: Path) -> None:
    SyntheticFactory("washer", size=64, n_train=10, n_validation=0, n_test=4, n_defect=12).write(tmp_path)
    given = {"DATASET": "mvtec_ad", "DATA_ROOT": str(tmp_path), "CATEGORY": "washer", **SHORT.get(path.stem, RANDOM)}
    if path.stem == "00_quickstart":  # two folders of the reader's own; random weights make no sense there
        good, new = tmp_path / "washer" / "train" / "good", tmp_path / "washer" / "test"
        given = {"BACKBONE": "adlib_resnet18", "GOOD_FOLDER": str(good), "NEW_FOLDER": str(new),
                 "OUT_DIR": str(tmp_path / "out")}
    papermill.execute_notebook(path, tmp_path / path.name, {"PROFILE": "paper", **given}, cwd=path.parent,
                               kernel_name="python3", progress_bar=False, start_timeout=START_TIMEOUT)
