"""Every page of the built book in headless Chromium: equations, links, pictures, accessibility; and every diagram."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser

import build
import ledger
from book_walk import need_chromium, walk
from browser import open_file
from repository import ROOT

PAGES = [*((f"{name}.html", "", None) for name in [*build.pages(), "genindex", "search"]),
         ("search.html", "?q=coreset", "#search-results a[href*='notebooks/02_patchcore.html']")]
SCRIPT = f'<script src="{(ROOT / "book/_static/mathjax/tex-svg.js").as_uri()}"></script>'
GOOD = f"""<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
{SCRIPT}</head>
<body><main id="top"><h1>A page</h1><p>An equation, <span class="math">\\(x^2\\)</span>, and
<a href="#top" style="display: block">a link</a>.</p><img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
alt="A dot"></main></body></html>"""


@pytest.mark.parametrize(("name", "query", "wait_for"), PAGES)
def test_page(browser: Browser, book: Path, name: str, query: str, wait_for: str | None) -> None:
    problems = walk(browser, book / name, book, query, wait_for)
    assert not problems, "\n" + "\n".join(problems)


def test_the_front_page_is_light(browser: Browser, book: Path) -> None:
    loaded: set[Path] = set()
    with browser.new_page() as page:
        page.on("request", lambda r: loaded.add(Path(url2pathname(urlsplit(r.url).path))))
        open_file(page, book / "book" / "index.html")
        page.wait_for_load_state("networkidle")
    assert book / "_static" / "icons.woff" in loaded and "tex-svg.js" not in {path.name for path in loaded}
    assert sum(path.stat().st_size for path in loaded) < 1_000_000


def test_the_ledger_links_every_equation_and_every_function(book: Path) -> None:
    page = (book / "book" / "ledger.html").read_text(encoding="utf-8")
    tags = [equation.tag.replace(".", "-") for equation in ledger.read_equations()]
    assert [tag for tag in tags if not re.search(rf'href="[^"]*#eq-{tag}"', page)] == []
    assert len(re.findall(r'<a [^>]*href="api/\w+\.html#adlib\.[^>]*><code', page)) == len(ledger.read_tests())


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
    (END, "<table><tr><td>one</td></tr></table></main>", "on a phone: a table in no box that scrolls and says so: one"),
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


FOLDER = ROOT / "book" / "_static"
TREES = {path.name: ElementTree.parse(path).getroot() for path in sorted(FOLDER.glob("*.svg"))}
SVG = "{http://www.w3.org/2000/svg}"
# Each text with its size where a page shows the diagram 640 pixels wide, its colour and the one under its middle.
TEXTS = """() => [...document.querySelectorAll("text, tspan")].map(e => {
  const rgb = colour => colour.match(/\\d+/g).map(Number), own = getComputedStyle(e), box = e.getBoundingClientRect();
  const ground = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2)
    .filter(e => e.matches("rect, circle, ellipse, polygon")).map(e => getComputedStyle(e))
    .filter(s => s.fill.startsWith("rgb"))
    .reduceRight((below, s) => rgb(s.fill).map((c, i) => below[i] + s.fillOpacity * (c - below[i])), [255, 255, 255]);
  return [e.textContent, parseFloat(own.fontSize) * 640 / innerWidth, rgb(own.fill), ground]; })"""
STICK_OUT = """() => [...document.querySelectorAll("text, svg > rect, g > *")].filter(e => {
  const {left, top, right, bottom} = e.getBoundingClientRect();
  return left < 0 || top < 0 || right > innerWidth || bottom > innerHeight; }).map(e => e.outerHTML)"""


def luminance(colour: list[float]) -> float:  # as WCAG 2 defines it
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", TREES)
def test_the_letters_of_a_diagram_are_large_and_dark_enough_and_nothing_sticks_out(browser: Browser, name: str) -> None:
    page = browser.new_page(viewport={side: int(TREES[name].get(side)) for side in ("width", "height")})
    page.goto((FOLDER / name).as_uri())
    for words, size, colour, ground in page.evaluate(TEXTS):
        dark, light = sorted((luminance(colour), luminance(ground)))
        assert size >= 11 and (light + 0.05) / (dark + 0.05) >= 4.5, (words, size, colour, ground)
    assert page.evaluate(STICK_OUT) == []
    page.close()


@pytest.mark.parametrize("name", TREES)
def test_a_screen_reader_can_speak_a_diagram_and_it_stands_alone(name: str) -> None:
    root, source = TREES[name], (FOLDER / name).read_text(encoding="utf-8")
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img" and len(title.text) > 10 and len(description.text) > 80
    assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
    assert not re.search(r"<(?:script|foreignObject|image|use)\b|\s(?:style|(?:\w+:)?href|on\w+)=|@import", source)
    assert re.findall(r"\w+://[^\s\"'<>)]+", source) == ["http://www.w3.org/2000/svg"], "the name of the format alone"
    assert set(re.findall(r"url\(\s*([^)]*)\)", source)) <= {f"#{element.get('id')}" for element in root.iter()}


def test_diagrams_have_one_style_sheet_and_ids_of_their_own_and_each_is_shown() -> None:
    (sheet,) = {style.text for root in TREES.values() for style in root.iter(f"{SVG}style")}
    elements = [element for root in TREES.values() for element in root.iter()]
    assert sum(element.tag == f"{SVG}style" for element in elements) == len(TREES)
    assert set(re.findall(r"\.([a-z]\w*)", sheet)) == {c for e in elements for c in e.get("class", "").split()}
    ids = [element.get("id") for element in elements if element.get("id")]
    assert len(ids) == len(set(ids))
    pages = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "book").glob("*.md")]
    shown = "".join(path.read_text(encoding="utf-8") for path in pages)
    assert [name for name in TREES if f"_static/{name}" not in shown] == []
