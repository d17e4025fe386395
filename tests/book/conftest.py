"""What the tests in a browser share: one Chromium for each file, and the built book."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import build
from book_walk import need_chromium, skip_or_fail
from browser import chromium
from repository import ROOT


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need_chromium()
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def book() -> Path:
    """The book as `make book` built it; several workers may look at it, and none of them builds one."""
    index, sources = build.HTML / "searchindex.js", [ROOT / "_config.yml", ROOT / "_toc.yml"]
    for folder in ("adlib", "book", "notebooks", "benchmarks", "tests/equations"):
        sources += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    newest = max(sources, key=lambda path: path.stat().st_mtime)
    if not index.is_file() or index.stat().st_mtime < newest.stat().st_mtime:
        skip_or_fail(f"the built book is missing or older than {newest.relative_to(ROOT)}: make book")
    return build.HTML
