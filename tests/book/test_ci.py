""".ci/run, in a small tree with a made-up Makefile: it hides no failure and sees to Chromium first."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from repository import ROOT


def run_ci(tree: Path, book: int = 0, test: int = 0, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/run with `programs`, as shell scripts, and a few of the machine's, but not its Chromium or apt-get."""
    for folder in (".ci", "bin"):
        (tree / folder).mkdir()
    shutil.copy(ROOT / ".ci" / "run", tree / ".ci" / "run")
    (tree / "Makefile").write_text(f"book:\n\t@exit {book}\ntest:\n\t@echo 3 passed, CI=$$CI\n\t@exit {test}\n")
    for name in ("bash", "dirname", "env", "make", "sh"):
        (tree / "bin" / name).symlink_to(shutil.which(name))
    for name, script in programs.items():
        (tree / "bin" / name.replace("_", "-")).write_text(f"#!{shutil.which('sh')}\n{script}\n")
        (tree / "bin" / name.replace("_", "-")).chmod(0o755)
    env = {**os.environ, "PATH": str(tree / "bin")}
    return subprocess.run([str(tree / ".ci" / "run")], env=env, capture_output=True, text=True)


@pytest.mark.parametrize(("book", "test", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)])
def test_no_failure_is_hidden(tmp_path: Path, book: int, test: int, status: int) -> None:
    done = run_ci(tmp_path, book, test, google_chrome="")
    assert done.returncode == status and "3 passed, CI=true" in done.stdout and "Chromium" not in done.stdout


@pytest.mark.parametrize(("user", "status", "message", "tried"), [
    (0, 0, "", ["apt-get update", "apt-get install -y -qq --no-install-recommends chromium"]),
    (0, 100, "Chromium could not be installed", ["apt-get update"]),
    (1000, 0, "Chromium is missing and cannot be installed here", []),
])
def test_chromium_is_installed_or_said_to_be_missing(
        tmp_path: Path, user: int, status: int, message: str, tried: list[str]) -> None:
    done = run_ci(tmp_path, id=f"echo {user}", apt_get=f'echo "apt-get $@" >&2; exit {status}')
    assert done.returncode == 0 and "3 passed" in done.stdout and message in done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("apt-get")]
    assert len(said) == len(tried) and all(map(str.startswith, said, tried))
