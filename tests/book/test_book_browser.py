"""Every page of the built book, opened from disk in headless Chromium: equations, links, pictures, accessibility."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

import build
from book_walk import walk
from browser import chromium
from chromium_or_skip import need_chromium
from repository import ROOT

PAGES = [*build.pages(ROOT / "_toc.yml"), "genindex", "search"]
MATHJAX = (ROOT / "book" / "_static" / "mathjax" / "tex-svg.js").as_uri()
GOOD = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<script src="{MATHJAX}"></script></head>
<body><main id="top"><h1>A page</h1><p>An equation, <span class="math">\\(x^2\\)</span>, and
<a href="#top" style="display: block">a link</a>.</p><img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
alt="A dot"></main></body></html>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need_chromium()
    with chromium() as found:
        yield found


def is_current(html: Path) -> bool:
    """Whether the book was built after its sources were last changed."""
    index = html / "searchindex.js"
    sources = [ROOT / "_config.yml", ROOT / "_toc.yml", *(ROOT / "notebooks").glob("*.ipynb")]
    for folder in ("book", "scripts", "benchmarks", "tests/equations"):
        sources += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return index.is_file() and index.stat().st_mtime >= max(path.stat().st_mtime for path in sources)


@pytest.fixture(scope="module")
def book(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built book; where `make book` has not run since the last change, one with the committed outputs."""
    html = ROOT / "build" / "_build" / "html"
    return html if is_current(html) else build.build(tmp_path_factory.mktemp("book"), committed=True)


@pytest.mark.parametrize("name", PAGES)
def test_page(browser: Browser, book: Path, name: str) -> None:
    problems = walk(browser, book / f"{name}.html", book)
    assert not problems, "\n" + "\n".join(problems)


def test_the_search_finds_the_chapter(browser: Browser, book: Path) -> None:
    chapter = "#search-results a[href*='notebooks/02_patchcore.html']"
    problems = walk(browser, book / "search.html", book, "?q=coreset", wait_for=chapter)
    assert not problems, "\n" + "\n".join(problems)


# ------------------------------------------------------------------ the checks can fail


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_browser_is_an_error_in_ci_alone(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="Chromium is missing"):
        need_chromium()


def walk_text(browser: Browser, folder: Path, text: str) -> list[str]:
    (folder / "page.html").write_text(text, encoding="utf-8")
    return walk(browser, folder / "page.html", folder)


def test_a_sound_page_passes(browser: Browser, tmp_path: Path) -> None:
    assert walk_text(browser, tmp_path, GOOD) == []


@pytest.mark.parametrize(("right", "wrong", "message"), [
    ('alt="A dot"', "", "no text alternative: data:image"),
    ('alt="A dot"', 'alt="_images/0a1b.png"', "no text alternative: data:image"),
    ("</main>", '<svg width="9" height="9" role="img"></svg></main>', "no text alternative: <svg"),
    ('href="#top"', 'href="#nowhere"', "broken link: #nowhere"),
    ('href="#top"', 'href="other.html"', "broken link: other.html"),
    ('href="#top"', 'href="../page.html"', "broken link: ../page.html"),
    ("x^2", "\\frac{1}", "equation: Missing argument for"),
    ("x^2", "\\nosuchmacro", "equation: unknown: \\nosuchmacro"),
    (f'<script src="{MATHJAX}"></script>', "", "equation: MathJax did not set"),
    ("An equation", '<span class="mathjax_ignore">$$x$$</span>', "equation: left as text"),
    ("</main>", "<script>console.error('broken')</script></main>", "console error: broken"),
    ("</main>", "<script>throw Error('broken')</script></main>", "page error: broken"),
    ("</main>", "<script>fetch('http://127.0.0.1:9/a').catch(() => 0)</script></main>", "network request: http://127"),
    ("</main>", '<script src="missing.js"></script></main>', "failed request: file:"),
    (' lang="en"', "", "accessibility (light): html-has-lang"),
    ("<h1>", '<h1 style="color: #bbb">', "accessibility (light): color-contrast"),
    ("<title>", "<style>[data-theme=dark] h1 { color: #333; background: #222 }</style><title>",
     "accessibility (dark): color-contrast"),
    ("</main>", '<div style="width: 50rem">wide</div></main>', "on a phone: scrolls sideways, 8"),
    ("</main>", '<div style="margin-left: -3rem">lost</div></main>', "on a phone: cut off on the left: lost"),
])
def test_a_defect_is_found(browser: Browser, tmp_path: Path, right: str, wrong: str, message: str) -> None:
    assert right in GOOD
    problems = walk_text(browser, tmp_path, GOOD.replace(right, wrong))
    assert any(problem.startswith(message) for problem in problems), problems


def test_a_wide_part_may_scroll_by_itself(browser: Browser, tmp_path: Path) -> None:
    inner = '<div style="overflow-x: auto" tabindex="0"><div style="width: 50rem">wide</div></div></main>'
    assert walk_text(browser, tmp_path, GOOD.replace("</main>", inner)) == []
