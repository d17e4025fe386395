"""The notebooks as a reader on Colab runs them: the notebook alone, a machine without adlib, the set-up cell.

A virtual environment stands for Colab's machine. The set-up cell installs adlib into it from a wheel that is built
from this checkout; except for this address, each notebook is the committed one.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
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

WHOLE = ("00_quickstart", "07_datasets")  # of the others only the set-up and the imports, all at once, but for --all
VISITS = [pytest.param([path], id=path.stem, marks=[] if path.stem in WHOLE else [pytest.mark.full])
          for path in all_notebooks()]
VISITS.append(pytest.param([path for path in all_notebooks() if path.stem not in WHOLE], id="imports of the others"))
# What Colab had on 19 August 2026, as github.com/googlecolab/backend-info says (pip-freeze.txt, commit a724079),
# of adlib's dependencies and of what runs the set-up cell.
COLAB_PYTHON = "3.13.15"
COLAB = {"torch": "2.11.0", "torchvision": "0.26.0", "numpy": "2.1.3", "scipy": "1.16.3", "scikit-learn": "1.6.1",
         "matplotlib": "3.10.0", "pillow": "11.3.0", "safetensors": "0.8.0", "tqdm": "4.67.3", "pooch": "1.9.0",
         "typer": "0.27.1", "jinja2": "3.1.6",
         "ipython": "7.34.0", "ipykernel": "6.17.1", "pip": "24.1.2"}
NO_NETWORK = re.compile(r"dns error|error sending request|failed to fetch|connection|timed out|network", re.I)
OFFLINE = """import socket
def refuse(*given):
    raise OSError("a network connection was tried")
socket.socket.connect = refuse"""
PROBE = "import sys, adlib\nfor m in list(sys.modules.values()):\n    print(getattr(m, '__file__', None) or '')"


def test_bounds_accept_what_colab_has() -> None:
    """Else pip would replace a package that the running notebook may have loaded."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, [*project["dependencies"], f"python{project['requires-python']}"]):
        assert requirement.specifier.contains({**COLAB, "python": COLAB_PYTHON}[requirement.name]), requirement


def environment() -> dict[str, str]:
    """This process's environment without what would lead the reader's Python to this one, or choose its plots."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "MPL"))}


def uv(*words: str | Path) -> None:
    """Run uv. Where it fails for want of a network the test is skipped; CI, which has one, fails."""
    program = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    assert program, "expected uv, which pyproject.toml's extra 'dev' installs: make install"
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, env=environment())
    if done.returncode and NO_NETWORK.search(done.stderr) and not os.environ.get("CI"):
        pytest.skip(f"packages are not to be had without a network: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr


class Machine(NamedTuple):
    venv: Path  # an environment like Colab's
    wheel: Path  # what the set-up cell is pointed at
    python = property(lambda self: self.venv / "bin" / "python")


def files(venv: Path) -> dict[str, tuple[int, int, int]]:
    """Each file of the environment, except Python's caches, with what changes when it is written anew."""
    found = {path.relative_to(venv).as_posix(): path.stat() for path in venv.rglob("*")
             if "__pycache__" not in path.parts and path.is_file()}
    return {name: (status.st_ino, status.st_size, status.st_mtime_ns) for name, status in found.items()}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("colab")
    uv("build", "--quiet", "--wheel", "--build-constraint", ROOT / "constraints.txt", "--out-dir", folder, ROOT)
    found = Machine(folder / "venv", next(folder.glob("adlib-*.whl")))
    # Another torch would be a download of gigabytes; this pair is in the cache of every machine that made .venv.
    locked = re.findall(r"^torch(?:vision)?==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    others = [f"{name}=={version}" for name, version in COLAB.items() if not name.startswith("torch")]
    uv("venv", "--quiet", "--python", sys.executable, found.venv)
    uv("pip", "install", "--quiet", "--python", found.python, *locked, *others)
    yield found
    shutil.rmtree(found.venv)  # pytest keeps the folders of three runs, and this one may hold gigabytes


def test_wheel_holds_the_package_and_nothing_else(machine: Machine) -> None:
    names = zipfile.ZipFile(machine.wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    kept = [path for pattern in ("*.py", "weights/*.*") for path in (ROOT / "adlib").rglob(pattern)]
    assert {path.relative_to(ROOT).as_posix() for path in kept} <= inside  # the weights, and their model cards
    assert all(name.startswith("adlib/") for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def execute(notebook: NotebookNode, machine: Machine, folder: Path) -> None:
    """Run all cells, in place, with the machine's Python and `folder` as the working folder."""
    kernels = folder.parent / "kernels"
    (kernels / "colab").mkdir(parents=True)
    spec = {"argv": [str(machine.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "Colab", "language": "python"}
    (kernels / "colab" / "kernel.json").write_text(json.dumps(spec))
    manager = AsyncKernelManager(kernel_name="colab", kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(kernels)]))
    client = NotebookClient(notebook, km=manager, timeout=CELL_TIMEOUT, startup_timeout=START_TIMEOUT,
                            resources={"metadata": {"path": str(folder)}})
    # No weights that were downloaded before are found.
    client.execute(cleanup_kc=True, env=environment() | {"TORCH_HOME": str(folder.parent / "torch")})


def imports(source: str) -> str:
    """The import statements of a cell that stand alone."""
    body = ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.M)).body
    return "\n".join(ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom))


@pytest.mark.parametrize("paths", VISITS)
def test_a_visit(paths: list[Path], machine: Machine, tmp_path: Path) -> None:
    """The set-up cell adds adlib and touches no other file (torch, numpy); nothing comes from this checkout."""
    subprocess.run([machine.python, "-m", "pip", "uninstall", "-qy", "adlib"], check=True, capture_output=True)
    before = files(machine.venv)
    assert not [name for name in before if "adlib" in name]
    assert sum("/site-packages/torch/" in name for name in before) > 1000  # torch is looked at
    lines: list[str] = []
    for path in paths:
        notebook = nbformat.read(path, 4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        (setup,) = [cell for cell in code if cell.source == setup_cell(read_repository())]
        (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
        assert 'PROFILE = "quick"' in parameters.source, path.stem
        lines += [imports(cell.source) for cell in code if cell is not setup]
    setup.source, count = re.subn(r"(%pip install -q) .*", rf'\1 "{machine.wheel}"', setup.source)
    assert count == 1
    drive, saving = tmp_path / "drive", []  # stands for the reader's Drive: it is there, the folder in it is not
    drive.mkdir()
    if len(paths) == 1:
        uses = [cell.source for cell in code if "OUT_DIR" in cell.source and cell is not parameters]
        if "OUT_DIR" in parameters.source:
            saving = [new_code_cell(source) for source in (f"OUT_DIR = {str(drive / 'adlib')!r}", *uses)]
    else:
        notebook.cells = [setup, *map(new_code_cell, lines)]
    again, probe = new_code_cell(setup.source), new_code_cell(PROBE)
    notebook.cells = [new_code_cell(OFFLINE), *notebook.cells, again, probe, *saving]  # pip has a process of its own
    (tmp_path / "content").mkdir()
    execute(notebook, machine, tmp_path / "content")  # an error of a cell ends the test here
    assert again.outputs == [], "the set-up cell does nothing the second time"
    loaded = probe.outputs[0].text.splitlines()
    assert any(Path(file).is_relative_to(machine.venv) and "/adlib/" in file for file in loaded)
    assert not [file for file in loaded if Path(file).is_relative_to(ROOT)] + list((tmp_path / "content").iterdir())
    assert any(file.is_file() for file in drive.rglob("*")) == bool(saving), "a new OUT_DIR gets all"
    after = files(machine.venv)
    assert [name for name, status in before.items() if after.get(name) != status] == []
    added = {re.sub(r"-.*|^bin$", "", Path(name).parts[3 if name.startswith("lib") else 1])
             for name in set(after) - set(before)}
    assert added == {"adlib"}, "adlib, its dist-info and its command"
