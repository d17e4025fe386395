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
from packaging.version import Version

from repository import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> dict[str, Requirement]:
    """All requirements of pyproject.toml, those of its extras too, by normal name."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


# ------------------------------------------------------------------ packages


def test_conda_environment_is_that_of_pyproject() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (by_pip,) = (e["pip"] for e in entries if not isinstance(e, str))
    assert by_pip.pop() == "-e ."
    names = [*by_pip, *(e for e in entries if isinstance(e, str))]
    conda = {r.name: r.specifier for r in map(Requirement, names)}
    assert str(conda.pop("python")) == PROJECT["requires-python"]
    assert str(conda.pop("pip")) == ""
    conda["torch"] = conda.pop("pytorch")
    assert conda == {name: r.specifier for name, r in requirements().items()}


def test_lower_bounds_only() -> None:
    """An exact pin would replace the reader's torch or numpy on Colab."""
    for name, requirement in requirements().items():
        allowed = {">=", "<"} if name == "jupyter-book" else {">="}  # jupyter-book 2 is another program
        assert {s.operator for s in requirement.specifier} <= allowed and len(requirement.specifier) >= 1, name


def test_constraints_are_exact_complete_and_within_bounds() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    locked = [Requirement(line) for line in text.splitlines() if line and not line.startswith("#")]
    assert all([s.operator for s in r.specifier] == ["=="] for r in locked)
    for name, wanted in requirements().items():
        versions = [next(iter(r.specifier)).version for r in locked if canonicalize_name(r.name) == name]
        assert versions, f"{name} is not in constraints.txt: run book/tools/lock.sh"
        assert all(wanted.specifier.contains(Version(v)) for v in versions), name
    assert "torch==2.15.0" in text and "torchvision==0.29.2" in text


def test_constraints_name_no_place() -> None:
    """Neither a package server nor a path of the machine that made the file."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|@|--(index|find|extra)|(^|[\s'\"])/", text, re.M)


def test_every_imported_package_is_required() -> None:
    import_names = {"PIL": "pillow", "sklearn": "scikit-learn"}
    found: set[str] = set()
    for path in (ROOT / "adlib").rglob("*.py"):
        found |= set(re.findall(r"^\s*(?:import|from) ([A-Za-z_]\w*)", path.read_text(encoding="utf-8"), re.M))
    words = found - set(sys.stdlib_module_names) - {"adlib", "IPython"}  # IPython: only where a notebook runs
    # A docstring's line may begin with "from" too; what cannot be found is no package.
    needed = {import_names.get(word, word) for word in words if importlib.util.find_spec(word)}
    declared = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    assert needed <= declared, needed - declared


# ------------------------------------------------------------------ licences


@pytest.mark.parametrize(("name", "words"), [
    ("LICENSE", ["Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"]),
    ("LICENSE-text", ["Attribution 4.0 International", "Section 8 -- Interpretation."]),
    ("book/_static/mathjax/LICENSE", ["Apache License"]),
])
def test_licence_texts_are_whole(name: str, words: list[str]) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert all(word in text for word in words) and len(text) > 10_000


# ------------------------------------------------------------------ the commands


def test_make_help_lists_every_target() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    assert {"book", "test", "test-all", "test-fast", "notebooks", "lint", "help", "clean"} <= set(targets)
    assert all(f"make {target}" in text for target in targets)


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    old = tmp_path / "python3.9"
    pretend = "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{pretend}" "$2"\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "book", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "Python 3.11.4 or newer" in done.stderr and "3.9" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("ruff", "pyrefly", "tests", "status"), [
    (0, 0, 0, 0), (1, 0, 0, 2), (0, 1, 0, 2), (0, 0, 1, 2)])
def test_make_test_hides_no_failure(tmp_path: Path, ruff: int, pyrefly: int, tests: int, status: int) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt", ".venv/.installed"):
        (tmp_path / name).touch()
    for name, code in (("ruff", ruff), ("pyrefly", pyrefly), ("python", tests)):
        program = tmp_path / ".venv" / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} \"$@\"\nexit {code}\n")
        program.chmod(0o755)
    done = subprocess.run(["make", "test-all"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status
    for said in ("ruff check .", "pyrefly check", "--nbval-lax", "--all notebooks tests"):
        assert said in done.stdout
