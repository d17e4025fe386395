"""What all tests share: one thread for each worker, and `full` tests only with --all."""

from __future__ import annotations

import os

import matplotlib
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if os.environ.get("CI") or os.environ.get("PYTEST_XDIST_WORKER"):  # the kernels of nbval inherit it
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
matplotlib.use("Agg")  # of this process only: MPLBACKEND would reach nbval's kernels, and they would show no figure


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run what is marked `full`, as make test-all does")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("full") and not config.getoption("--all"):
            item.add_marker(pytest.mark.skip(reason="only in make test-all"))
