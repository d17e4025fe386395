""".ci/run, in a small tree with a made-up Makefile: it hides no failure and sees to Chromium first."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from repository import ROOT

NEEDED = ("bash", "dirname", "env", "make", "sh")


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{shutil.which('sh')}\n{text}\n")
    (folder / name).chmod(0o755)


def run_ci(tree: Path, book: int = 0, test: int = 0) -> subprocess.CompletedProcess[str]:
    """Run .ci/run with the programs of `tree`/bin and a few of the machine's, but not its Chromium or apt-get."""
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tree / ".ci" / "run")
    (tree / "Makefile").write_text(f"book:\n\t@exit {book}\ntest:\n\t@echo 3 passed, CI=$$CI\n\t@exit {test}\n")
    for name in NEEDED:
        (tree / "bin").mkdir(exist_ok=True)
        (tree / "bin" / name).symlink_to(shutil.which(name))
    env = {**os.environ, "PATH": str(tree / "bin")}
    return subprocess.run([str(tree / ".ci" / "run")], env=env, capture_output=True, text=True)


@pytest.mark.parametrize(("book", "test", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)])
def test_no_failure_is_hidden(tmp_path: Path, book: int, test: int, status: int) -> None:
    program(tmp_path / "bin", "google-chrome", "")
    done = run_ci(tmp_path, book, test)
    assert done.returncode == status and "3 passed, CI=true" in done.stdout and "Chromium" not in done.stdout


@pytest.mark.parametrize(("status", "message"), [(0, ""), (100, "Chromium could not be installed")])
def test_chromium_is_installed_where_it_is_missing(tmp_path: Path, status: int, message: str) -> None:
    program(tmp_path / "bin", "id", "echo 0")
    program(tmp_path / "bin", "apt-get", f'echo "apt-get $@" >&2; exit {status}')
    done = run_ci(tmp_path)
    assert done.returncode == 0 and "3 passed" in done.stdout and message in done.stdout
    assert "apt-get update" in done.stderr
    assert ("apt-get install -y -qq --no-install-recommends chromium" in done.stderr) == (status == 0)


def test_without_root_it_says_what_is_missing(tmp_path: Path) -> None:
    program(tmp_path / "bin", "id", "echo 1000")
    done = run_ci(tmp_path)
    assert done.returncode == 0 and "Chromium is missing and cannot be installed here" in done.stdout
