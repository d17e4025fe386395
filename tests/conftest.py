"""What all tests share: one thread for each worker, `full` tests only with --all, no notebook run twice in a row."""

from __future__ import annotations

import os

import matplotlib
import pytest
from nbval.plugin import IPyNbFile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if os.environ.get("CI") or os.environ.get("PYTEST_XDIST_WORKER"):  # the kernels of nbval inherit it
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
matplotlib.use("Agg")  # of this process only: MPLBACKEND would reach nbval's kernels, and they would show no figure


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run what is marked `full`, as make test-all does")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="only in make test-all"))
    for file in dict.fromkeys(item.parent for item in items if isinstance(item.parent, IPyNbFile)):
        use_run(file)


def use_run(file: IPyNbFile) -> None:
    """Let nbval hold a notebook against the run that `make book` has just made of it, where that run's stamp fits.

    Without such a run nbval runs the notebook itself.
    """
    import notebooks
    from recorded import Recorded

    run = notebooks.RUNS / file.path.name
    if file.path.parent == notebooks.ROOT / "notebooks" and not notebooks.is_stale(file.path, run):
        file.setup = lambda: file.__dict__.update(kernel=Recorded(run))
