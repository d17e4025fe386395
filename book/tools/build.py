"""Build the book: run every chapter, stage the runs, make the HTML, check it. What `make book` does.

    python book/tools/build.py              # as `make book`
    python book/tools/build.py --committed  # show the committed outputs instead of running the chapters

build/staged/ gets the book's sources under the paths that they have in the repository: the chapters
as just run with PROFILE = "quick", the pages of book/, and the pages that are made from data
(results, equation ledger, API, run status). The HTML goes to build/_build/html/.
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
from typing import Any

import nbformat
import papermill
import yaml
from nbformat import NotebookNode

import api_page
import ledger
import mend_html
import results
import status
from notebooks import START_TIMEOUT, all_notebooks, drop_injected, run_record, strip_volatile
from repository import ROOT, with_local_pictures

BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")
DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.S)
# Elements whose address the browser loads by itself; a link that the reader clicks is not one of them.
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
         "embed": "src", "object": "data", "link": "href", "image": "href"}
LOADING_RELS = {"stylesheet", "icon", "shortcut icon", "preload", "prefetch", "modulepreload", "preconnect",
                "dns-prefetch", "apple-touch-icon", "manifest"}


def tags_outside_split(source: str) -> str:
    r"""Markdown in which equations of several lines can keep their \tag.

    Sphinx wraps every $$ block that has a line break in `split`, where MathJax refuses \tag. An
    `equation*` around the block is left alone.
    """
    def wrap(match: re.Match[str]) -> str:
        formula = match[1].strip()
        if "\\tag{" not in formula or "\\\\" not in formula:
            return match[0]
        return f"\n\n\\begin{{equation*}}\n{formula}\n\\end{{equation*}}\n\n"

    return DISPLAY.sub(wrap, source)


def for_reading(notebook: NotebookNode) -> None:
    """Change a chapter, in place, for the built book: no injected cell, and no picture from the network.

    The Colab badge becomes a link, and the pictures of book/_static/ are those beside the chapter.
    """
    drop_injected(notebook)
    strip_volatile(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = BADGE.sub(r"[Open this chapter in Colab](\1)", cell.source)
            cell.source = tags_outside_split(with_local_pictures(cell.source))


def run_chapter(source: Path, target: Path) -> float:
    """Run one chapter with its quick profile, write what the book shows to `target`, return the seconds."""
    start = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(source, target, parameters={"PROFILE": "quick"}, cwd=source.parent,
                               kernel_name="python3", progress_bar=False, start_timeout=START_TIMEOUT)
    seconds = time.monotonic() - start
    notebook = nbformat.read(target, as_version=4)
    for_reading(notebook)
    notebook.metadata["adlib"] = {"run": run_record(seconds)}
    nbformat.write(notebook, target)
    return seconds


def stage(root: Path, staged: Path, committed: bool = False) -> None:
    """Make `staged` anew from the repository `root`."""
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(root / name, staged / name)
    shutil.copytree(root / "book", staged / "book", ignore=shutil.ignore_patterns(".*", "_build"))
    chapters = all_notebooks(root)
    if not chapters:
        sys.exit("notebooks/: expected the chapters as .ipynb files, found none")
    for source in chapters:
        target = staged / "notebooks" / source.name
        if committed:
            notebook = nbformat.read(source, as_version=4)
            for_reading(notebook)
            target.parent.mkdir(exist_ok=True)
            nbformat.write(notebook, target)
        else:
            print(f"{source.name} …", flush=True)
            print(f"{source.name}: {run_chapter(source, target):.0f} s", flush=True)
    equations, tests = ledger.read_equations(root), ledger.read_tests(root)
    (staged / "book" / "ledger.md").write_text(ledger.page(equations, tests), encoding="utf-8")
    (staged / "book" / "results.md").write_text(results.page(root / "benchmarks"), encoding="utf-8")
    factory = (root / "book" / "factory.md").read_text(encoding="utf-8")
    factory = factory.replace(results.FACTORY_PLACE, results.factory_table(root / "benchmarks"))
    (staged / "book" / "factory.md").write_text(factory, encoding="utf-8")
    (staged / "book" / "api.md").write_text(api_page.page(), encoding="utf-8")
    (staged / "book" / "status.md").write_text(status.page(staged / "notebooks"), encoding="utf-8")


def pages(toc: Path) -> list[str]:
    """Every page that `_toc.yml` names, as paths without suffix."""
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for entry in node:
                walk(entry)
        elif isinstance(node, dict):
            found.extend(node[key] for key in ("root", "file") if key in node)
            for value in node.values():
                walk(value)

    walk(yaml.safe_load(toc.read_text(encoding="utf-8")))
    return [name.removesuffix(".md").removesuffix(".ipynb") for name in found]


class _Loads(HTMLParser):
    """Collects the addresses that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and (given.get("rel") or "").lower() not in LOADING_RELS:
            return
        if tag in LOADS:
            self.addresses.append(given.get(LOADS[tag]) or "")
        self.addresses.extend(part.strip().split(" ")[0] for part in (given.get("srcset") or "").split(","))
        self.addresses.extend(re.findall(r"url\(([^)]*)\)", given.get("style") or ""))


def network_loads(html: Path) -> list[str]:
    """What the pages and style sheets under `html` would load from the network, as "file: address"."""
    found = []
    for path in sorted(html.rglob("*")):
        if path.suffix == ".html":
            parser = _Loads()
            parser.feed(path.read_text(encoding="utf-8"))
            addresses = parser.addresses
        elif path.suffix == ".css":
            text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.S)
            addresses = re.findall(r"url\(\s*['\"]?([^'\")]*)", text) + re.findall(r"@import\s+['\"]([^'\"]*)", text)
        else:
            continue
        remote = [address.strip("'\" ") for address in addresses]
        found += [f"{path.relative_to(html)}: {a}" for a in remote if re.match(r"(https?:)?//", a)]
    return found


def check(html: Path, toc: Path) -> list[str]:
    """What is wrong with the built book; a build can end well and still lack pages."""
    found = [f"{name}: the page was not made" for name in pages(toc) if not (html / f"{name}.html").is_file()]
    found += [f"{name}: the start page was not made" for name in ["index.html"] if not (html / name).is_file()]
    for path in sorted(html.rglob("*.html")):
        if re.search(r"\\begin\{split\}((?!\\end\{split\}).)*\\tag", path.read_text(encoding="utf-8"), re.S):
            found.append(f"{path.relative_to(html)}: an equation has \\tag in a split, which MathJax cannot show")
    return found + [f"a network request, {load}" for load in network_loads(html)]


def build(folder: Path, committed: bool = False) -> Path:
    """Build the book of this repository under `folder` and return the folder of its HTML. SystemExit where it fails."""
    stage(ROOT, folder / "staged", committed)
    shutil.rmtree(folder / "_build", ignore_errors=True)
    # -W: a warning is an error, and without it a broken page builds green. -n: a dead reference is a warning.
    command = ["jupyter-book", "build", "-W", "-n", "--keep-going", "--all", "--path-output", str(folder),
               str(folder / "staged")]
    # The scripts of this environment come first, so that it need not be activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    status = subprocess.run(command, env={**os.environ, "PATH": path}).returncode
    if status:
        sys.exit(f"jupyter-book failed (exit status {status}); its messages are above.")
    html = folder / "_build" / "html"
    mend_html.mend(html)
    problems = check(html, ROOT / "_toc.yml")
    if problems:
        sys.exit("The book was built, but:\n" + "\n".join(problems))
    return html


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the chapters and build the book.")
    parser.add_argument("--committed", action="store_true", help="show the committed outputs, run nothing")
    committed = parser.parse_args().committed
    start = time.monotonic()
    html = build(ROOT / "build", committed)
    print(f"\nThe book: {(html / 'index.html').relative_to(ROOT)}")
    print(f"make book took {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
