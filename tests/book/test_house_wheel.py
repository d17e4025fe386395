"""A wheel built from the checkout works where only the wheel is: weights included, no checkout, no download."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from repository import ROOT

SMALL_RUN = """
import sys
from pathlib import Path
import adlib
assert Path(sys.prefix) in Path(adlib.__file__).resolve().parents, adlib.__file__

import socket
def refuse(*args, **kwargs):
    raise AssertionError("a network connection was tried")
socket.socket.connect = refuse

from adlib import PatchCore
from adlib.datasets import SyntheticFactory
train, test = SyntheticFactory("fabric").split()
scores = PatchCore(coreset_ratio=0.1, seed=0).fit(train[:6]).predict(test[:4]).scores
assert len(scores) == 4 and all(float(s) == float(s) and s > 0 for s in scores), scores
print("scores", [round(float(s), 3) for s in scores])
"""


def uv() -> str:
    """The uv of this environment, or that of the PATH."""
    found = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    assert found, "expected uv, which pyproject.toml's extra 'dev' installs: make install"
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([uv(), "build", "--quiet", "--wheel", "--build-constraint", str(ROOT / "constraints.txt"),
                    "--out-dir", str(out), str(ROOT)], check=True)
    (path,) = out.glob("adlib-*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert all(name.startswith("adlib/") for name in inside)
    assert any(name.startswith("adlib/weights/") and name.endswith(".safetensors") for name in inside)
    assert any(name.startswith("adlib/weights/") and name.endswith(".md") for name in inside), "no model card"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "adlib").rglob("*.py")}
    assert here <= inside


@pytest.mark.slow
def test_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([uv(), "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    subprocess.run([uv(), "pip", "install", "--quiet", "--python", str(python), "--constraint",
                    str(ROOT / "constraints.txt"), str(wheel)], check=True)
    away = tmp_path / "away"
    away.mkdir()
    # Nothing of this process's Python leaks in, and no cache of downloaded weights is found.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run([str(python), "-I", "-c", SMALL_RUN], cwd=away, capture_output=True, text=True,
                          env={**clean, "TORCH_HOME": str(tmp_path / "torch"), "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "scores" in done.stdout
