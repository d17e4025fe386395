"""Chromium for the tests and for the PDF: the one that is installed, never one that playwright downloads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = f"Chromium is missing: expected one of {', '.join(NAMES)} on the PATH"
TIMEOUT = 300_000  # milliseconds: a busy machine is slow, and slow is no error


def find_chromium() -> str | None:
    """The path of Chromium, None where it is not installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium. FileNotFoundError where there is none."""
    if (path := find_chromium()) is None:
        raise FileNotFoundError(MISSING)
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=path, args=["--disable-gpu"]) as browser:
            yield browser


def open_file(page: Page, path: Path, query: str = "") -> None:
    """Open a file from disk and wait until its equations, fonts and pictures are there."""
    page.set_default_timeout(TIMEOUT)
    page.goto(path.resolve().as_uri() + query)
    page.evaluate("async () => { await window.MathJax?.startup?.promise; await document.fonts.ready; }")
