"""The floors of the house: imports go down, there is no circle, and a detector brings no more than it needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "adlib"
# From the ground up. A module may import those of the floors below its own, and those left of it on its own.
FLOORS = [
    "checks progress stored images folders samples files resnet",
    "backbones receptive_field region features augment neighbors coreset chunks "
    "threshold areas intervals metrics pimo parts reading",
    "drift training gradients objectives prediction frame saving folds forking placing "
    "fitting extending predicting",
    "method detector evaluation plots scratch",
    "rounds patchcore cluster simplenet spd efficientad factory",
    "datasets",
    "graph export report",
    "cli __main__",
]
ORDER = [name for floor in FLOORS for name in floor.split()]


def imports_of(path: Path) -> set[str]:
    """The modules of adlib that a file imports, at its top or within a function: adlib.a.b gives "a"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "adlib":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("adlib."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("adlib.")}
    return found


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    own = place(path)
    if own == "__init__":
        return
    assert own in ORDER, f"{own} has no floor: put it into FLOORS"
    below = {*ORDER[: ORDER.index(own)], own}
    assert imports_of(path) <= below, f"{own} imports upwards: {sorted(imports_of(path) - below)}"


def test_within_a_folder_there_is_no_circle() -> None:
    for folder in ("simplenet", "efficientad", "factory", "datasets", "plots", "cli"):
        left = {}
        for path in (PACKAGE / folder).glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            named = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            inner = {n.module.split(".")[2] for n in named if (n.module or "").startswith(f"adlib.{folder}.")}
            inner |= {alias.name for n in named if n.module == f"adlib.{folder}" for alias in n.names}
            left[path.stem] = inner
        while free := [name for name, needs in left.items() if not needs & left.keys()]:
            for name in free:
                del left[name]
        assert not left, f"{folder}: these import each other in a circle: {sorted(left)}"


def test_a_detector_brings_no_factory_no_downloader_and_no_plots() -> None:
    code = "import sys\nfrom adlib import *\nprint(*(m for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    unwanted = {"adlib.factory", "adlib.datasets", "adlib.plots", "adlib.report", "adlib.cli", "adlib.cluster",
                "torchvision", "pooch", "requests", "matplotlib", "scipy", "sklearn", "typer", "jinja2", "onnx", "dask",
                "distributed"}  # fmt: skip
    assert not unwanted & set(loaded)
