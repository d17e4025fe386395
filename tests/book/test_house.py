"""Packages, licences and the commands: what must agree with what, and that make and .ci/run hide no failure."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from repository import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
REQUIRED = {canonicalize_name(r.name): r.specifier for r in map(Requirement, [*PROJECT["dependencies"], *EXTRAS])}


def test_conda_environment_is_that_of_pyproject() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (by_pip,) = (e["pip"] for e in entries if not isinstance(e, str))
    assert by_pip.pop() == "-e ."
    conda = {r.name: r.specifier for r in map(Requirement, [*by_pip, *(e for e in entries if isinstance(e, str))])}
    assert str(conda.pop("python")) == PROJECT["requires-python"] and str(conda.pop("pip")) == ""
    conda["torch"] = conda.pop("pytorch")
    assert conda == REQUIRED


def test_bounds_are_lower_ones_and_constraints_exact_complete_and_of_no_place() -> None:
    """An exact pin in pyproject.toml would replace the reader's torch or numpy on Colab."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    locked = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    assert all([s.operator for s in r.specifier] == ["=="] for r in locked)
    for name, bounds in REQUIRED.items():
        allowed = [{">="}, {">=", "<"}] if name == "jupyter-book" else [{">="}]  # jupyter-book 2 is another program
        assert {s.operator for s in bounds} in allowed, name
        versions = [next(iter(r.specifier)).version for r in locked if canonicalize_name(r.name) == name]
        assert versions, f"{name} is not in constraints.txt: run book/tools/lock.sh"
        assert all(map(bounds.contains, versions)), name
    assert "torch==2.15.0" in text and "torchvision==0.29.2" in text
    # Neither a package server nor a path of the machine that made the file.
    assert not re.search(r"://|@|--(index|find|extra)|(^|[\s'\"])/", text, re.M)


def test_every_imported_package_is_required() -> None:
    import_names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "adlib").rglob("*.py"))
    words = set(re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", text, re.M))
    words -= {*sys.stdlib_module_names, "adlib", "IPython"}  # IPython: only where a notebook runs
    # A docstring's line may begin with "from" too; what cannot be found is no package.
    needed = {import_names.get(word, word) for word in words if importlib.util.find_spec(word)}
    assert needed <= {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}


@pytest.mark.parametrize(("name", "first", "last"), [
    ("LICENSE", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"),
    ("LICENSE-text", "Attribution 4.0 International", "Section 8 -- Interpretation."),
    ("book/_static/mathjax/LICENSE", "Apache License", "END OF TERMS AND CONDITIONS")])
def test_licence_texts_are_whole(name: str, first: str, last: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert first in text and last in text and len(text) > 10_000


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('sh')}\n{text}\n")
    path.chmod(0o755)


def make(folder: Path, *words: str, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run make in an empty folder with this Makefile, and with shell scripts for the programs in .venv/bin."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    for name, text in programs.items():
        script(folder / ".venv" / "bin" / name, text)
        (folder / ".venv" / ".installed").touch()
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)


def test_make_help_lists_every_target(tmp_path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    shown = make(tmp_path, "help").stdout
    assert {"book", "test", "test-all", "test-fast", "notebooks", "lint", "help", "clean"} <= set(targets)
    assert [target for target in targets if f"make {target}" not in shown] == []


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    script(tmp_path / "python3.9", f'exec {sys.executable} -c "{pretend}" "$2"')
    done = make(tmp_path, "book", f"PYTHON={tmp_path / 'python3.9'}")
    assert done.returncode != 0 and "Python 3.11.4 or newer" in done.stderr and "3.9" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("failing", ["", "ruff", "pyrefly", "python"])
def test_make_test_hides_no_failure(tmp_path: Path, failing: str) -> None:
    programs = {n: f'echo {n} "$@"; exit {int(n == failing)}' for n in ("ruff", "pyrefly", "python")}
    done = make(tmp_path, "test-all", **programs)
    assert done.returncode == (2 if failing else 0)
    said = ("ruff check .", "pyrefly check", "--nbval-lax", "--all notebooks tests")
    assert all(command in done.stdout for command in said)


def run_ci(tree: Path, book: int = 0, test: int = 0, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/run with `programs`, as shell scripts, and a few of the machine's, but not its Chromium or apt-get."""
    for name, text in programs.items():
        script(tree / "bin" / name.replace("_", "-"), text)
    for name in ("bash", "dirname", "env", "make", "sh"):
        (tree / "bin" / name).symlink_to(shutil.which(name))
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tree / ".ci" / "run")
    (tree / "Makefile").write_text(f"book:\n\t@exit {book}\ntest:\n\t@echo 3 passed, CI=$$CI\n\t@exit {test}\n")
    env = {**os.environ, "PATH": str(tree / "bin")}
    return subprocess.run([str(tree / ".ci" / "run")], env=env, capture_output=True, text=True)


@pytest.mark.parametrize(("book", "test", "status"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)])
def test_ci_hides_no_failure(tmp_path: Path, book: int, test: int, status: int) -> None:
    done = run_ci(tmp_path, book, test, google_chrome="")
    assert done.returncode == status and "3 passed, CI=true" in done.stdout and "Chromium" not in done.stdout


@pytest.mark.parametrize(("user", "status", "message", "tried"), [
    (0, 0, "", ["apt-get update", "apt-get install -y -qq --no-install-recommends chromium"]),
    (0, 100, "Chromium could not be installed", ["apt-get update"]),
    (1000, 0, "Chromium is missing and cannot be installed here", []),
])
def test_ci_sees_to_chromium(tmp_path: Path, user: int, status: int, message: str, tried: list[str]) -> None:
    done = run_ci(tmp_path, id=f"echo {user}", apt_get=f'echo "apt-get $@" >&2; exit {status}')
    assert done.returncode == 0 and "3 passed" in done.stdout and message in done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("apt-get")]
    assert len(said) == len(tried) and all(map(str.startswith, said, tried))
