"""What a test does where Chromium is missing."""

from __future__ import annotations

import os

import pytest

from browser import MISSING, find_chromium


def need_chromium() -> None:
    """Skip the test without Chromium; but where CI judges the work of others, a missing browser is a failure."""
    if find_chromium() is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING)
