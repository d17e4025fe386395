"""Look at every page of the built book with headless Chromium and report equations that MathJax could not set.

    python scripts/check_math.py

A wrong formula does not fail the build: it is set in the browser, as red text. So this asks a browser.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from build_book import pages
from set_repository import ROOT

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def errors(browser: str, page: Path) -> tuple[int, list[str]]:
    """How many equations MathJax has set on `page`, and its error messages."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                   f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom", page.as_uri()]
        dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    failed = re.findall(r'data-mjx-error="([^"]*)"', dom)
    # A macro that MathJax does not know is no error to it; it is shown by its name, in red.
    unknown = re.findall(r'<mtext mathcolor="red">([^<]*)', dom)
    return dom.count("<mjx-container"), [html.unescape(text) for text in failed + unknown]


def main() -> None:
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"expected one of {', '.join(NAMES)} on the PATH: install Chromium")
    book, wrong = ROOT / "build" / "_build" / "html", 0
    for name in pages(ROOT / "_toc.yml"):
        page = book / f"{name}.html"
        if not page.is_file():
            sys.exit(f"{page.relative_to(ROOT)}: expected the built book: make book")
        count, messages = errors(browser, page)
        # Where the page has mathematics and MathJax set none of it, MathJax did not run at all.
        if not count and 'class="math ' in page.read_text(encoding="utf-8"):
            messages.append("MathJax did not run")
        print(f"{name}: {count} equations, {len(messages)} errors")
        wrong += len(messages)
        for message in messages:
            print("   ", message)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
