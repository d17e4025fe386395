"""Mend, in the built HTML, what the theme and its extensions leave wrong. `make book` does this last.

Each entry says what is wrong. All were found by tests/test_book_browser.py, which opens the pages in Chromium.
"""

from __future__ import annotations

import re
from pathlib import Path

# (what is found, what takes its place), in every page
PAGE = [
    # Thebe, which runs cells on a server, is not used here. Its script stands twice in the page, and the second
    # one stops with an error.
    (re.compile(r"[ \t]*<script[^>]*>const THEBE_JS_URL.*?</script>\n?", re.S), ""),
    (re.compile(r'[ \t]*<script[^>]*src="[^"]*sphinx-thebe\.js[^"]*"></script>\n?'), ""),
    # The name of the book and the search button stand outside every landmark of the page.
    (re.compile(r'<div id="pst-primary-sidebar"'), '<div id="pst-primary-sidebar" role="complementary" '
                                                   'aria-label="Contents of the book"'),
    # A diagram scrolls on a phone. The theme lets the keyboard reach what has this class, where it does scroll.
    (re.compile(r'<p>(?=\s*<img [^>]*src="[^"]*\.svg")'), '<p class="pst-scrollable-table-container">'),
    # A table's empty corner is a cell, not a heading.
    (re.compile(r'<th( class="[^"]*")?>\s*(?:<p>\s*</p>)?\s*</th>'), r"<td\1></td>"),
    # The list of literature is a list, but its entries have a role that no longer exists.
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
]
# The search page would fetch a summary of every page it finds. A browser refuses that for a book read from disk.
SUMMARY = ("SHOW_SEARCH_SUMMARY: true", 'SHOW_SEARCH_SUMMARY: window.location.protocol !== "file:"')


# A heading that is a link which takes its text from the target: it has no text yet where the contents are made.
EMPTY_ENTRY = re.compile(r'(<a class="[^"]*nav-link[^"]*" href="#([^"]+)">)<span class="xref myst"></span></a>')


def mended(text: str) -> str:
    """A page of the book with everything in PAGE mended, and with no empty entry in its list of contents."""
    for wrong, right in PAGE:
        text = wrong.sub(right, text)

    def named(match: re.Match[str]) -> str:
        section = rf'<section[^>]* id="{re.escape(match[2])}"[^>]*>\s*(?:<span[^>]*></span>\s*)*'
        heading = re.search(section + r'<h\d>(.*?)<a class="headerlink"', text, re.S)
        return f"{match[1]}{re.sub('<[^>]*>', '', heading[1]).strip()}</a>" if heading else match[0]

    return EMPTY_ENTRY.sub(named, text)


def mend(html: Path) -> None:
    """Mend all pages under `html`, in place."""
    for path in html.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if (new := mended(text)) != text:
            path.write_text(new, encoding="utf-8")
    options = html / "_static" / "documentation_options.js"
    text = options.read_text(encoding="utf-8")
    if SUMMARY[0] not in text:
        raise ValueError(f"{options}: expected {SUMMARY[0]!r}; has Sphinx changed?")
    options.write_text(text.replace(*SUMMARY), encoding="utf-8")
