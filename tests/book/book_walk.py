"""What is wrong with a page of the book, as a browser sees it. test_book_browser.py asks this of every page."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from browser import MISSING, find_chromium, open_file

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 780}
# Without preload, axe would fetch the style sheets once more, which a browser refuses for a file on disk. Only an
# experimental rule, which is off by default, reads them.
AXE: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
# All rules in the light. The dark changes colours alone, and a narrow window what scrolls and which buttons are there.
RULES: dict[str, Any] = {"light": {}, "dark": {"runOnly": ["color-contrast"]}, "phone": {"runOnly": [
    "scrollable-region-focusable", "button-name", "link-name", "aria-hidden-focus", "nested-interactive"]}}
# Colours that are still changing would be measured half-way between light and dark.
STILL = "*, *::before, *::after { transition: none !important; animation: none !important; }"

EQUATIONS = """() => {
  const wrong = [...document.querySelectorAll('[data-mjx-error]')].map(e => e.getAttribute('data-mjx-error'));
  // A macro that MathJax does not know is no error to it; it is shown by its name, in red.
  for (const e of document.querySelectorAll('mjx-assistive-mml mtext[mathcolor="red"]'))
    wrong.push('unknown: ' + e.textContent);
  for (const e of document.querySelectorAll('.math'))
    if (!e.querySelector('mjx-container')) wrong.push('MathJax did not set ' + e.textContent.trim().slice(0, 60));
  const texts = document.createTreeWalker(document.querySelector('main') ?? document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const parent = texts.currentNode.parentElement, text = texts.currentNode.data.trim();
    if (/\\$\\$|\\\\\\(|\\\\begin\\{/.test(text) && !parent.closest('pre, code, script, style, .math'))
      wrong.push('left as text: ' + text.slice(0, 60));
  }
  return wrong;
}"""
# Every picture, shown or not: the theme shows some in the light or in the dark only. A file name says nothing.
PICTURES = """() => [...document.querySelectorAll('img:not([aria-hidden=true])')]
  .filter(e => !e.alt.trim() || /\\.(png|jpe?g|svg|gif|webp)$/i.test(e.alt))
  .map(e => [e.getAttribute('src'), !!e.closest('.cell_output')])"""
# On a phone, nothing makes the page itself scroll sideways, and nothing lies left of it, where nobody can scroll to.
WIDE = """() => {
  const lost = [...document.querySelectorAll('main :not(svg *, mjx-assistive-mml, mjx-assistive-mml *)')].filter(e =>
    e.getBoundingClientRect().left < -1 && e.getBoundingClientRect().right > 1 && e.checkVisibility());
  if (lost.length) return 'cut off on the left: ' + lost[0].textContent.trim().slice(0, 60);
  const page = document.scrollingElement, wide = [];
  if (page.scrollWidth <= page.clientWidth + 1) return null;
  const scrolls = e => e && e !== document.body &&
    (getComputedStyle(e).overflowX !== 'visible' || scrolls(e.parentElement));
  for (const e of document.body.querySelectorAll('*'))
    if (e.getBoundingClientRect().right > page.clientWidth + 1 && !scrolls(e.parentElement))
      wide.push(e.outerHTML.slice(0, 100));
  return 'scrolls sideways, ' + page.scrollWidth + ' pixels wide: ' + wide.slice(-3).join(' … ');
}"""
# A table that is wider than its place scrolls in a box that says so, to the eye and to a screen reader.
TABLES = """() => [...document.querySelectorAll('main table:not(.genindextable)')].filter(table => {
  const box = table.closest('.pst-scrollable-table-container');
  const says = box?.getAttribute('role') === 'region' && box.tabIndex === 0 && box.ariaLabel &&
    getComputedStyle(box, '::before').content.includes('more to the right');
  return !box || (table.checkVisibility() && box.scrollWidth > box.clientWidth + 1 && !says);
}).map(table => table.textContent.trim().slice(0, 60))"""
# So does a diagram; a long equation has a shadow at the side where it goes on.
HINTS = """() => [...document.querySelectorAll(
  'main p:has(> img[src$=".svg"]), main mjx-container[display=true]'
)].filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 &&
  !getComputedStyle(e).backgroundImage.includes('gradient') &&
  !getComputedStyle(e, '::before').content.includes('more to the right')
).map(e => e.outerHTML.slice(0, 80))"""

# A word of code has its colour from its class. Each class is measured once on a page, not a thousand times:
# the others keep their place, but axe passes over what cannot be seen.
REPEATED = """() => {
  const seen = new Set();
  for (const e of document.querySelectorAll('pre span:not(:has(*), [id])')) {
    const kind = e.className + ' in ' + e.parentElement.className + ' in ' + e.closest('pre').parentElement.className;
    if (seen.has(kind)) e.style.visibility = 'hidden'; else seen.add(kind);
  }
}"""


def skip_or_fail(why: str) -> None:
    """Skip the test; but where CI judges the work of others, what is missing is a failure."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)


def need_chromium() -> None:
    find_chromium() or skip_or_fail(MISSING)


@cache
def anchors(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r'\b(?:id|name)="([^"]+)"', path.read_text(encoding="utf-8")))


def broken_links(page: Page, book: Path) -> list[str]:
    """Links to a file that is not there, or not in the book, or to a place that the file does not have."""
    found = set()
    for given, address in page.evaluate("() => [...document.links].map(a => [a.getAttribute('href'), a.href])"):
        parts = urlsplit(address)
        target, fragment = Path(url2pathname(parts.path)), unquote(parts.fragment)
        if parts.scheme == "file" and not (target.is_file() and target.is_relative_to(book)):
            found.add(f"broken link: {given} is no file of the book")
        elif parts.scheme == "file" and target.suffix == ".html" and fragment not in ("", *anchors(target)):
            found.add(f"broken link: {given}, the page has no such place")
    return sorted(found)


def axe_problems(page: Page, how: str) -> list[str]:
    found = []
    for rule in Axe().run(page, options={**AXE, **RULES[how]}).response["violations"]:
        for node in rule["nodes"]:
            reasons = "; ".join(check["message"] for kind in ("any", "all", "none") for check in node[kind])
            found.append(f"accessibility ({how}): {rule['id']}: {node['html'][:150]}: {reasons[:250]}")
    return found


def walk(browser: Browser, path: Path, book: Path, query: str = "", wait_for: str | None = None) -> list[str]:
    """What is wrong with a page on disk, in light, dark and on a phone. `wait_for`: a CSS selector that must appear."""
    found: list[str] = []
    with browser.new_page(viewport=DESK) as page:
        page.on("console", lambda m: found.append(f"console error: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda error: found.append(f"page error: {error}"))
        page.on("requestfailed", lambda r: found.append(f"failed request: {r.url}"))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:"))
                else found.append(f"network request: {r.url}"))
        open_file(page, path, query)
        if wait_for:
            page.wait_for_selector(wait_for, timeout=20_000)
        page.add_style_tag(content=STILL)
        page.evaluate(REPEATED)
        found += [f"equation: {text}" for text in page.evaluate(EQUATIONS)]
        hint = '; give the cell the metadata {"mystnb": {"image": {"alt": "…"}}}'
        found += [f"no text alternative: {shown}{hint * of_cell}" for shown, of_cell in page.evaluate(PICTURES)]
        found += broken_links(page, book.resolve())
        for theme in ("light", "dark"):
            page.evaluate("to => Object.assign(document.documentElement.dataset, {theme: to, mode: to})", theme)
            found += axe_problems(page, theme)
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(800)  # 300 ms later, the theme lets the keyboard reach what has begun to scroll
        if wide := page.evaluate(WIDE):
            found.append(f"on a phone: {wide}")
        found += [f"on a phone: a table in no box that scrolls and says so: {text}" for text in page.evaluate(TABLES)]
        found += [f"on a phone: scrolls, and does not say so: {text}" for text in page.evaluate(HINTS)]
        found += axe_problems(page, "phone")
    return found
