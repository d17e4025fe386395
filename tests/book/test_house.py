"""Build, licences and configuration: what must agree with what, and the tools that keep it so."""

from __future__ import annotations

import importlib.util
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


@pytest.mark.parametrize(("name", "words"), [
    ("LICENSE", ["Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"]),
    ("LICENSE-text", ["Attribution 4.0 International", "Section 8 -- Interpretation."]),
    ("book/_static/mathjax/LICENSE", ["Apache License"]),
])
def test_licence_texts_are_whole(name: str, words: list[str]) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert all(word in text for word in words) and len(text) > 10_000


# ------------------------------------------------------------------ the commands


def make(folder: Path, *words: str, **programs: str) -> subprocess.CompletedProcess[str]:
    """Run make in an empty folder with this Makefile, and with shell scripts for the programs in .venv/bin."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    for name, script in programs.items():
        (folder / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (folder / ".venv" / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / ".venv" / "bin" / name).chmod(0o755)
        (folder / ".venv" / ".installed").touch()
    return subprocess.run(["make", *words], cwd=folder, capture_output=True, text=True)


def test_make_help_lists_every_target(tmp_path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    assert {"book", "test", "test-all", "test-fast", "notebooks", "lint", "help", "clean"} <= set(targets)
    text = make(tmp_path, "help").stdout
    assert all(f"make {target}" in text for target in targets)


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    done = make(tmp_path, "book", f"PYTHON={old}")
    assert done.returncode != 0 and "Python 3.11.4 or newer" in done.stderr and "3.9" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("failing", ["", "ruff", "pyrefly", "python"])
def test_make_test_hides_no_failure(tmp_path: Path, failing: str) -> None:
    names = ("ruff", "pyrefly", "python")
    done = make(tmp_path, "test-all", **{n: f'echo {n} "$@"; exit {int(n == failing)}' for n in names})
    assert done.returncode == (2 if failing else 0)
    for said in ("ruff check .", "pyrefly check", "--nbval-lax", "--all notebooks tests"):
        assert said in done.stdout
