"""The notebooks as a reader on Colab runs them: the notebook alone, a machine without adlib, the set-up cell.

A virtual environment stands for Colab's machine. The set-up cell installs adlib into it from a git repository that
is made of this checkout; except for this address, each notebook is the committed one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell
from packaging.requirements import Requirement

from notebooks import CELL_TIMEOUT, START_TIMEOUT, all_notebooks
from repository import ROOT, read_repository, setup_cell
from test_house_wheel import uv

# What Colab had on 19 August 2026, as github.com/googlecolab/backend-info says (pip-freeze.txt, commit a724079),
# of adlib's dependencies and of what runs the set-up cell.
COLAB_PYTHON = "3.13.15"
COLAB = {
    "torch": "2.11.0", "torchvision": "0.26.0", "numpy": "2.1.3", "scipy": "1.16.3", "scikit-learn": "1.6.1",
    "matplotlib": "3.10.0", "pillow": "11.3.0", "safetensors": "0.8.0", "tqdm": "4.67.3", "pooch": "1.9.0",
    "ipython": "7.34.0", "ipykernel": "6.17.1", "pip": "24.1.2",
}
# Another torch would be a download of gigabytes; this pair is in the cache of every machine that made .venv.
LOCKED = ("torch", "torchvision")
NO_NETWORK = re.compile(r"dns error|error sending request|failed to fetch|connection (refused|reset|error)|timed out"
                        r"|network is unreachable|name resolution|network connectivity|NewConnectionError", re.I)
PROBE = """
import json, sys, adlib
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print(json.dumps({"adlib": adlib.__file__, "files": [str(file) for file in files if file]}))
"""


def test_bounds_accept_what_colab_has() -> None:
    """Else pip would replace a package that the running notebook may have loaded."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert requirement.name in COLAB, f"Colab lacks {requirement.name}, the set-up cell would have to bring it"
        assert requirement.specifier.contains(COLAB[requirement.name]), requirement
    assert Requirement(f"python{project['requires-python']}").specifier.contains(COLAB_PYTHON)


# ------------------------------------------------------------------ the machine


class Machine(NamedTuple):
    """An environment like Colab's, and the address that the set-up cell is pointed at."""

    venv: Path
    address: str

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    def files(self) -> dict[str, tuple[int, int, int]]:
        """Each file of the environment, except Python's caches, with what changes when it is written anew."""
        found = {}
        for path in self.venv.rglob("*"):
            if "__pycache__" not in path.parts and path.is_file():
                status = path.stat()
                found[path.relative_to(self.venv).as_posix()] = status.st_ino, status.st_size, status.st_mtime_ns
        return found

    def versions(self) -> dict[str, str]:
        """Name and version of each installed package."""
        folders = self.venv.glob("lib/python*/site-packages/*.dist-info")
        return dict(folder.name.removesuffix(".dist-info").rsplit("-", 1) for folder in folders)


def environment() -> dict[str, str]:
    """This process's environment without what would lead the reader's Python to this one, or choose its plots."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "MPL", "GIT_"))}


def needs_network(command: list[str | Path]) -> None:
    """Run `command`. Where it fails for want of a network the test is skipped; CI, which has one, fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment())
    if done.returncode and NO_NETWORK.search(done.stderr) and not os.environ.get("CI"):
        pytest.skip(f"Colab's packages are not to be had without a network: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr


def git_repository(folder: Path) -> None:
    """A git repository with the files of this checkout as they are now, tagged as the set-up cell expects."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            check=True, capture_output=True, text=True, env=environment())
    for name in (n for n in listed.stdout.split("\0") if n and (ROOT / n).is_file()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    # The user's own settings may ask for signatures or hooks.
    settings = ["user.name=test", "user.email=test@localhost", "commit.gpgsign=false", "tag.gpgsign=false",
                "core.hooksPath=/dev/null", "init.defaultBranch=main"]
    git = ["git", *(word for setting in settings for word in ("-c", setting))]
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "test"], ["tag", read_repository().tag]):
        subprocess.run([*git, *command], cwd=folder, check=True, env=environment())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("colab")
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    locked = {name: re.search(rf"^{name}==(\S+)", constraints, re.M)[1] for name in LOCKED}
    subprocess.run([uv(), "venv", "--quiet", "--python", sys.executable, str(folder / "venv")], check=True)
    made = Machine(folder / "venv", f"file://{folder / 'repository'}")
    wanted = [f"{name}=={version}" for name, version in (COLAB | locked).items()]
    needs_network([uv(), "pip", "install", "--quiet", "--python", made.python, *wanted])
    # pip builds adlib where it installs it, and gets what pyproject.toml needs for that.
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    needs_network([made.python, "-m", "pip", "download", "--quiet", "--dest", folder / "build", *needed])
    git_repository(folder / "repository")
    yield made
    shutil.rmtree(made.venv)  # pytest keeps the folders of three runs, and this one may hold gigabytes


# ------------------------------------------------------------------ a visit


class Visit(NamedTuple):
    """What one run of a notebook did: the cells as run, those added at the end, and the machine before and after."""

    setup: NotebookNode
    again: NotebookNode
    out_dir: list[NotebookNode]
    modules: dict[str, str | list[str]]
    left_behind: list[str]
    saved: list[str]
    files: tuple[dict[str, tuple[int, int, int]], dict[str, tuple[int, int, int]]]
    versions: tuple[dict[str, str], dict[str, str]]
    machine: Machine


def execute(notebook: NotebookNode, machine: Machine, folder: Path) -> None:
    """Run all cells, in place, with the machine's Python and `folder` as the working folder."""
    kernel = folder.parent / "kernels" / "colab"
    kernel.mkdir(parents=True)
    argv = [str(machine.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Colab", "language": "python"}))
    manager = AsyncKernelManager(kernel_name="colab",
                                 kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(kernel.parent)]))
    client = NotebookClient(notebook, km=manager, timeout=CELL_TIMEOUT, startup_timeout=START_TIMEOUT,
                            resources={"metadata": {"path": str(folder)}})
    # No weights that were downloaded before are found.
    client.execute(cleanup_kc=True, env=environment() | {"TORCH_HOME": str(folder.parent / "torch")})


@pytest.fixture(scope="module", params=all_notebooks(), ids=lambda path: path.stem)
def visit(request: pytest.FixtureRequest, machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    """One chapter, run as it is; then its set-up cell again, and the cells that use OUT_DIR with a new folder."""
    # An earlier chapter has installed it.
    subprocess.run([machine.python, "-m", "pip", "uninstall", "--quiet", "--yes", "adlib"], check=True,
                   capture_output=True, env=environment())
    files, versions = machine.files(), machine.versions()
    assert not [name for name in [*files, *versions] if "adlib" in name]
    notebook = nbformat.read(request.param, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    repository = read_repository()
    (setup,) = [cell for cell in code if cell.source == setup_cell(repository)]
    setup.source = setup.source.replace(f"git+{repository.url}@", f"git+{machine.address}@")
    assert machine.address in setup.source
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert 'PROFILE = "quick"' in parameters.source

    content = tmp_path_factory.mktemp("visit") / "content"
    drive = content.parent / "drive"  # stands for the reader's Drive: it is there, the folder in it is not
    content.mkdir()
    drive.mkdir()
    tags = {"tags": ["raises-exception"]}  # a failure of what is added shows in its own test
    again, probe = new_code_cell(setup.source, metadata=tags), new_code_cell(PROBE)
    uses = [cell.source for cell in code if "OUT_DIR" in cell.source and cell is not parameters]
    changed = [f"OUT_DIR = {str(drive / 'adlib')!r}"] if "OUT_DIR" in parameters.source else []
    out_dir = [new_code_cell(source, metadata=tags) for source in changed + uses]
    notebook.cells += [again, probe, *out_dir]
    execute(notebook, machine, content)
    saved = [path.relative_to(drive).as_posix() for path in drive.rglob("*") if path.is_file()]
    return Visit(setup, again, out_dir, json.loads(probe.outputs[0].text), sorted(os.listdir(content)), saved,
                 (files, machine.files()), (versions, machine.versions()), machine)


@pytest.mark.slow
def test_runs_with_the_installed_package_alone(visit: Visit) -> None:
    """Every cell ran (an error would have ended the fixture), and nothing came from this checkout."""
    assert Path(visit.modules["adlib"]).is_relative_to(visit.machine.venv)
    assert [file for file in visit.modules["files"] if Path(file).is_relative_to(ROOT)] == []
    assert visit.left_behind == []


@pytest.mark.slow
def test_the_setup_cell_adds_adlib_and_touches_nothing_else(visit: Visit) -> None:
    """So it leaves torch, torchvision and numpy as they are, by version and by file."""
    before, after = visit.versions
    assert {"torch", "torchvision", "numpy"} <= set(before)
    assert {name: v for name, v in after.items() if name != "adlib"} == before and "adlib" in after
    old, new = visit.files
    assert sum("/site-packages/torch/" in name for name in old) > 1000  # torch was looked at
    assert [name for name, status in old.items() if new.get(name) != status] == []
    added = {Path(name).parts[3] for name in set(new) - set(old)}
    assert added == {"adlib", f"adlib-{after['adlib']}.dist-info"}


@pytest.mark.slow
def test_the_setup_cell_does_nothing_the_second_time(visit: Visit) -> None:
    assert visit.again.execution_count and visit.again.outputs == []


@pytest.mark.slow
def test_out_dir_may_be_a_new_folder(visit: Visit) -> None:
    if not visit.out_dir:
        pytest.skip("this chapter has no OUT_DIR")
    errors = [output for cell in visit.out_dir for output in cell.outputs if output.output_type == "error"]
    assert [f"{error.ename}: {error.evalue}" for error in errors] == []
    assert visit.saved and all(name.startswith("adlib/") for name in visit.saved)
