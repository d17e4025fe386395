"""Build the book: run the chapters, make the HTML, check it. What `make book` does.

notebooks.py runs the chapters into build/runs/, adlib_book.py fills the pages; the HTML goes to build/_build/html/.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

from sphinx_external_toc.parsing import parse_toc_yaml

import notebooks
from repository import ROOT

HTML = ROOT / "build" / "_build" / "html"
# Links that name a page and load nothing.
NAMING = {"canonical", "next", "prev", "index", "search", "author", "license", "alternate"}
URL = re.compile(r"""(?:url\(\s*|@import\s+(?!url))['"]?([^'")]*)""")


def pages(toc: Path = ROOT / "_toc.yml") -> list[str]:
    """Every page that `_toc.yml` names, in the order of the book, as paths without suffix."""
    site = parse_toc_yaml(toc)

    def walk(name: str) -> list[str]:
        return [name, *(page for child in site[name].child_files() for page in walk(child))]

    return [name.removesuffix(".md").removesuffix(".ipynb") for name in walk(site.root.docname)]


class Loads(HTMLParser):
    """Collects the addresses that a page loads by itself; one that the reader clicks is not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        names = tag == "a" or given.get("rel") in NAMING
        self.found += [given.get(key, "") for key in ("src", "data", *([] if names else ["href"]))]
        self.found += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        self.found += URL.findall(given.get("style", ""))


def loads(path: Path) -> list[str]:
    """The addresses that a page or a style sheet loads by itself."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".css":
        return URL.findall(re.sub(r"/\*.*?\*/", "", text, flags=re.S))
    parser = Loads()
    parser.feed(text)
    return parser.found


def check(html: Path, toc: Path = ROOT / "_toc.yml") -> list[str]:
    """What is wrong with the built book; a build can end well and still lack pages."""
    missing = [name for name in ["index", *pages(toc)] if not (html / f"{name}.html").is_file()]
    found = [f"{name}: the page was not made" for name in missing]
    for path in sorted([*html.rglob("*.html"), *html.rglob("*.css")]):
        name = path.relative_to(html).as_posix()
        found += [f"{name}: loads {load} from the network" for load in loads(path) if re.match(r"(https?:)?//", load)]
        if re.search(r"\\begin\{split\}((?!\\end\{split\}).)*\\tag", path.read_text(encoding="utf-8"), re.S):
            found.append(f"{name}: an equation has \\tag in a split, which MathJax cannot show")
    return found


def first_page(front: str) -> str:
    """The page index.html, which leads to the front page and says of itself what that says: a chat does not follow."""
    told = re.findall(r'<title>.*?</title>|<meta (?:name="description"|property)[^>]*>|<link rel="icon"[^>]*>', front)
    lines = "\n".join(told).replace('="../', '="')
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8" />\n{lines}\n'
            '<meta http-equiv="refresh" content="0; url=book/index.html" />\n</head>\n'
            '<body><a href="book/index.html">The book</a></body>\n</html>\n')


def build(committed: bool = False, html: Path = HTML) -> None:
    """Build the book of this repository. SystemExit where a cell fails, or the book is not sound."""
    if not committed:
        notebooks.run_chapters()
    shutil.rmtree(html, ignore_errors=True)
    # -W: a warning is an error, and without it a broken page builds green. -n: a dead reference is a warning.
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "-W", "-n", "--keep-going", "--all",
               "--path-output", html.parents[1], ROOT]
    chapters = ROOT / "notebooks" if committed else notebooks.RUNS
    if status := subprocess.run(command, env={**os.environ, "ADLIB_CHAPTERS": str(chapters)}).returncode:
        sys.exit(f"jupyter-book failed (exit status {status}); its messages are above.")
    front = (html / "book" / "index.html").read_text(encoding="utf-8")
    (html / "index.html").write_text(first_page(front), encoding="utf-8")
    if problems := check(html):
        sys.exit("The book was built, but:\n" + "\n".join(problems))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the chapters and build the book.")
    parser.add_argument("--committed", action="store_true", help="show the committed outputs, run nothing")
    start = time.monotonic()
    build(parser.parse_args().committed)
    print(f"\nThe book: {(HTML / 'index.html').relative_to(ROOT)}\nmake book took {time.monotonic() - start:.0f} s")
