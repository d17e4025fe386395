"""What all tests share. A run of pytest may use few cores next to other work, so waiting threads sleep."""

from __future__ import annotations

import os

import matplotlib
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
matplotlib.use("Agg")  # of this process only: MPLBACKEND would reach nbval's kernels, and they would show no figure


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-notebooks", action="store_true",
                     help="run every notebook again with other parameters, not only the first two")
