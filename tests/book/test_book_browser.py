"""Every page of the built book, opened from disk in headless Chromium: equations, links, pictures, accessibility."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import build
from book_walk import need_chromium, skip_or_fail, walk
from browser import chromium
from repository import ROOT

# The search, of which something must be found, and the index stand in no table of contents.
PAGES = [*((f"{name}.html", "", None) for name in [*build.pages(), "genindex", "search"]),
         ("search.html", "?q=coreset", "#search-results a[href*='notebooks/02_patchcore.html']")]
SCRIPT = f'<script src="{(ROOT / "book/_static/mathjax/tex-svg.js").as_uri()}"></script>'
GOOD = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
{SCRIPT}</head>
<body><main id="top"><h1>A page</h1><p>An equation, <span class="math">\\(x^2\\)</span>, and
<a href="#top" style="display: block">a link</a>.</p><img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
alt="A dot"></main></body></html>"""


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


@pytest.mark.parametrize(("name", "query", "wait_for"), PAGES)
def test_page(browser: Browser, book: Path, name: str, query: str, wait_for: str | None) -> None:
    problems = walk(browser, book / name, book, query, wait_for)
    assert not problems, "\n" + "\n".join(problems)


# ------------------------------------------------------------------ the checks can fail


def test_a_missing_browser_is_an_error_in_ci_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for ci, outcome in (("true", pytest.fail.Exception), ("", pytest.skip.Exception)):
        monkeypatch.setenv("CI", ci)
        with pytest.raises(outcome, match="Chromium is missing"):
            need_chromium()


END = "</main>"
# Defects that do not hide each other stand on one page: what is replaced, by what, and what must be said of it.
DEFECTS = [[], [  # a sound page, then one on which a wide part scrolls by itself
    (END, '<div style="overflow-x: auto" tabindex="0"><div style="width: 50rem">wide</div></div></main>', ""),
], [
    ('alt="A dot"', "", "no text alternative: data:image"),
    ('href="#top"', 'href="#nowhere"', "broken link: #nowhere"),
    ("x^2", "\\frac{1}", "equation: Missing argument for"),
    (' lang="en"', "", "accessibility (light): html-has-lang"),
    (END, "<script>console.error('broken')</script></main>", "console error: broken"),
    (END, '<div style="width: 50rem">wide</div></main>', "on a phone: scrolls sideways, 8"),
], [
    ('alt="A dot"', 'alt="_images/0a1b.png"', "no text alternative: data:image"),
    ('href="#top"', 'href="other.html"', "broken link: other.html"),
    ("x^2", "\\nosuchmacro", "equation: unknown: \\nosuchmacro"),
    ("<h1>", '<h1 style="color: #bbb">', "accessibility (light): color-contrast"),
    (END, "<script>throw Error('broken')</script></main>", "page error: broken"),
    (END, '<script src="missing.js"></script></main>', "failed request: file:"),
    (END, '<div style="margin-left: -3rem">lost</div></main>', "on a phone: cut off on the left: lost"),
], [
    ('href="#top"', 'href="../page.html"', "broken link: ../page.html"),
    (SCRIPT, "", "equation: MathJax did not set"),
    ("An equation", '<span class="mathjax_ignore">$$x$$</span>', "equation: left as text"),
    (END, '<svg width="9" height="9" role="img"></svg></main>', "accessibility (light): svg-img-alt"),
    (END, "<script>fetch('http://127.0.0.1:9/a').catch(() => 0)</script></main>", "network request: http://127"),
    ("<title>", "<style>[data-theme=dark] h1 { color: #333; background: #222 }</style><title>", "accessibility (dark)"),
]]


@pytest.mark.parametrize("defects", DEFECTS)
def test_defects_are_found(browser: Browser, tmp_path: Path, defects: list[tuple[str, str, str]]) -> None:
    text = GOOD
    for right, wrong, _ in defects:
        assert right in text
        text = text.replace(right, wrong, 1)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    problems, wanted = walk(browser, tmp_path / "page.html", tmp_path), [message for *_, message in defects if message]
    assert bool(problems) == bool(wanted), problems
    for message in wanted:
        assert any(problem.startswith(message) for problem in problems), (message, problems)
