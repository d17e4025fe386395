"""What introduces the book: the guide of chapter 6, the runs of the chapters, and how a page names itself.

A page shows one of `PARTS` where it says <!-- generated: NAME -->. `python book/tools/front.py` writes the same into
the README, after a change of benchmarks/ or of the guide; `make notebooks` does so too, since it changes the times.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from html import unescape
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urljoin
from xml.etree import ElementTree

import nbformat
from docutils import nodes
from markupsafe import escape
from sphinx.application import Sphinx

import results
from repository import ROOT

GUIDE = re.compile(r"^\| your case \|.*\n\|[ :|-]+\|\n((?:\|.*(?:\n|\Z))+)", re.M)
COMPARED = ("patchcore", "patchcore_128", "simplenet", "efficientad")
# What of the comparison stands behind which line of the guide: product, kind of anomaly, and how a reader says it.
BEHIND = {("board", "structural"): "small defects (`board`)",
          ("fabric", "structural"): "an even surface (`fabric`)",
          ("washer", "structural"): "parts at any angle (`washer`)",
          ("kit", "logical"): "a wrong set of parts (`kit`)"}  # fmt: skip
COSTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "one image takes": lambda cost: results.seconds(cost["one_image_seconds"]),
    "fitting 200 images": lambda cost: f"{cost['fit_seconds']:.0f} s",
    "its file": lambda cost: f"{cost['saved_bytes'] / 1e6:.0f} MB",
}  # fmt: skip


def guide() -> list[str]:
    """Which detector for which part, as chapter 6 says it: the first two columns of its table."""
    path = ROOT / "notebooks" / "06_comparison.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    tables = [rows for cell in cells if cell.cell_type == "markdown" for rows in GUIDE.findall(cell.source)]
    if len(tables) != 1:
        raise ValueError(f"{path.name}: expected one table that begins '| your case |', found {len(tables)}")
    text = re.sub(r"\bexercise (?=\d)", "chapter 6, exercise ", tables[0])
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")][:2] for line in text.splitlines()]
    return results.table(["your part", "take"], rows)


def guide_numbers(benchmarks: Path = ROOT / "benchmarks") -> list[str]:
    """The measurements behind the guide. Two digits: three factories do not give more."""
    report = results.read_report(benchmarks, "comparison")
    costs = {cost["way"]: cost for cost in report["cost"]["results"]}
    rows = []
    for (product, part), name in BEHIND.items():
        runs = [[r for r in report["results"] if (r["data"], r["way"]) == (product, way)] for way in COMPARED]
        ends = [re.findall(r"\d\.\d+", results.cell(those, part, product)) for those in runs]
        rows.append([name, *("{:.2f}<br><small>{:.2f}–{:.2f}</small>".format(*map(float, of)) for of in ends)])
    rows += found_of_real_parts(benchmarks)
    rows += [[name, *(say(costs[way]) if way in costs else "–" for way in COMPARED)] for name, say in COSTS.items()]
    names = [results.WAY_NAMES[way].replace(" at", ",") for way in COMPARED]
    return results.table(["", *names], rows)


def found_of_real_parts(benchmarks: Path) -> list[list[str]]:
    """What an engineer asks: of 100 defects, how many are found at a threshold that promises 5 % of false alarms.

    A row for each real data set of which every run in the report says it; the means over the seeds.
    """
    rows = []
    for data, in_all in results.groups(results.read_report(benchmarks, "real")["results"], "data"):
        if all("threshold" in run for run in in_all):
            found = [[100 * r["threshold"]["defects_found"] for r in in_all if r["method"] == way] for way in COMPARED]
            rows.append([f"real {results.DATA_NAMES.get(data, data)}: found of 100 defects",
                         *(f"{fmean(shares):.0f}" if shares else "–" for shares in found)])
    return rows


def run_seconds(path: Path) -> int:
    """How long the last run of a notebook took; 0 where it does not say."""
    return nbformat.read(path, as_version=4).metadata.get("adlib", {}).get("run", {}).get("seconds", 0)


def about(seconds: float) -> str:
    """A time as one says it: to ten seconds, or to half a minute."""
    if seconds < 85:
        return f"{max(10, 10 * round(seconds / 10))} seconds"
    halves = round(seconds / 30)
    return f"{halves // 2}{'½' * (halves % 2)} minutes"


def times(folder: Path) -> str:
    """The range of the last runs of the notebooks in `folder`."""
    each = [seconds for path in folder.glob("*.ipynb") if (seconds := run_seconds(path))]
    return f"{about(min(each))} to {about(max(each))}" if each else "not run yet"


def figures() -> list[str]:
    """The diagrams as files, each with its title and the chapters that show it."""
    chapters, rows = {p: p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("notebooks/*.ipynb"))}, []
    for path in sorted((ROOT / "book" / "_static").glob("*.svg")):
        shown = ", ".join(f"[{int(p.name[:2])}](../notebooks/{p.name})" for p, text in chapters.items()
                          if f"/{path.name}" in text)
        title = ElementTree.parse(path).getroot().findtext("{http://www.w3.org/2000/svg}title")
        if shown and title:
            rows.append([f"[{path.name}](_static/{path.name})", title, shown])
    return results.table(["file", "what it shows", "chapter"], rows)


def title(path: Path) -> str:
    """The title of a notebook: its first heading."""
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    return next(line[2:] for line in text.splitlines() if line.startswith("# "))


def table_of_runs(folder: Path) -> str:
    """One row for each notebook in `folder`: when it was last run, how long that took, and with what."""
    rows, total = [], 0
    for path in sorted(folder.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        code = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
        failed = any(output.output_type == "error" for outputs in code for output in outputs)
        run = notebook.metadata.get("adlib", {}).get("run", {})
        total += run.get("seconds", 0)
        rows.append([f"[{title(path)}](../notebooks/{path.name})", run.get("date", "–").replace("-", "\u2011"),
                     f"{run['seconds']}\u00a0s" if run else "–", str(len(code)), "failed" if failed else "passed",
                     f"Python {run['python']}, torch {run['torch']}, {run['cores']} cores" if run else "–"])
    header = ["notebook", "last run (UTC)", "time", "code cells", "state", "with"]
    whole = f"All together: {total / 60:.1f} minutes, on a CPU, with their quick profile."
    return "\n".join([*results.table(header, rows), "", whole])


PARTS: dict[str, Callable[[], str]] = {"guide": lambda: "\n".join(guide()), "figures": lambda: "\n".join(figures()),
                                       "guide numbers": lambda: "\n".join(guide_numbers())}  # fmt: skip

README_PART = re.compile(r"(<!-- results: (\w+), .*? -->\n)(.*?)(<!-- end of results -->)", re.S)
NOTEBOOK = re.compile(r"\(notebooks/(\w+\.ipynb)\)")


def with_times(rows: str) -> str:
    """A table of notebooks with the times of their last runs in its last column."""
    def put(line: str) -> str:
        names = NOTEBOOK.findall(line)
        return re.sub(r"[^|]*\|$", f" {about(max(run_seconds(ROOT / 'notebooks' / n) for n in names))} |",
                      line) if names else line

    return "".join(f"{put(line)}\n" for line in rows.splitlines())


def with_parts(readme: str) -> str:
    """The text of the README with what is made from data as the data are."""
    make = {"guide": lambda _: "\n".join(guide()) + "\n", "notebooks": with_times,
            "real": lambda _: "\n".join(results.real(ROOT / "benchmarks")) + "\n"}  # fmt: skip
    return README_PART.sub(lambda found: f"{found[1]}{make[found[2]](found[3])}{found[4]}", readme)


# What a page for teachers says of the work: minutes for an equation with a number, and for an exercise; the rest is
# read at so many words a minute.
WORDS, EQUATION, EXERCISE = 75, 4, 15
WORK = re.compile(r"<!-- minutes: (.+?) -->")
PASSAGE = re.compile(r"(\d)\.(\d+)(?: to \1\.(\d+))?|(\d) exercises?|00_quickstart")
FOLDED = re.compile(r"<details>.*?</details>|^```.*?^```|!\[[^\]]*\]\([^)]*\)", re.S | re.M)


@cache
def sections(chapter: str) -> dict[str, str]:
    """The text of a chapter, such as "2", by section, "2.1"."""
    (path,) = (path for path in ROOT.glob(f"notebooks/0{chapter}_*.ipynb") if "quickstart" not in path.name)
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    return dict(re.findall(r"^## (\d\.\d+)(.*?)(?=^## |\Z)", "\n\n".join(cells), re.M | re.S))


def minutes(passages: str) -> str:
    """Minutes to read and work through "2.1 to 2.6, 2.16, 3 exercises"; ValueError for what the book has not."""
    total = 0.0
    for passage in passages.split(", "):
        if not (found := PASSAGE.fullmatch(passage)):
            raise ValueError(f"minutes of {passage!r}: expected '2.1', '2.1 to 2.6', '3 exercises' or '00_quickstart'")
        first, last = int(found[2] or 0), int(found[3] or found[2] or 0)
        known = sections(found[1]) if found[1] else {}
        if found[1] and (missing := {f"{found[1]}.{first}", f"{found[1]}.{last}"} - set(known)):
            raise ValueError(f"minutes of {passage!r}: the book has no section {', '.join(sorted(missing))}")
        read = [known[number] for k in range(first, last + 1) if (number := f"{found[1]}.{k}") in known]
        if passage == "00_quickstart":
            cells = nbformat.read(ROOT / "notebooks" / f"{passage}.ipynb", as_version=4).cells
            read = [cell.source for cell in cells if cell.cell_type == "markdown"]
        total += sum(len(FOLDED.sub("", text).split()) / WORDS + EQUATION * text.count("\\tag{") for text in read)
        total += EXERCISE * int(found[4] or 0)
    return str(5 * max(1, round(total / 5)))


def with_minutes(text: str) -> str:
    return WORK.sub(lambda found: minutes(found[1]), text)


def introduce(app: Sphinx, name: str, template: str, context: dict[str, Any], document: nodes.document | None) -> None:
    """Name and logo beside each other in the side bar, and what a search engine or a chat shows of a page.

    Without an address of the book, `html: baseurl` of _config.yml, the picture is named relative to the page.
    """
    context["theme_logo"] = {**context.get("theme_logo", {}), "text": context["docstitle"], "alt_text": "Front page:"}
    first = next(document.findall(nodes.paragraph), None) if document else None
    said = {"description": short(first.astext())} if first else {}
    base, place = app.config.html_baseurl, context["pathto"]
    picture = urljoin(base, "_static/preview.jpg") if base else place("_static/preview.jpg", 1)
    title = unescape(re.sub("<[^>]*>", "", context.get("title", "")))  # which is HTML
    shared = {"title": title or context["docstitle"], "type": "website", "site_name": context["docstitle"],
              "image": picture, **said}  # fmt: skip
    lines = [f'<meta name="{key}" content="{escape(value)}" />' for key, value in said.items()]
    lines += [f'<meta property="og:{key}" content="{escape(value)}" />' for key, value in shared.items()]
    lines += [f'<link rel="icon" type="image/svg+xml" href="{place("_static/logo.svg", 1)}" />']
    if name == app.config.root_doc:  # or the name of the book would stand twice in its title
        context["title"] = "adlib"
    context["metatags"] = "\n".join([context.get("metatags", ""), *lines, ""])


def short(text: str, limit: int = 200) -> str:
    """The first sentences of a text, as many as fit; a single one that is longer is cut after a word."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    sentences = re.match(rf".{{1,{limit - 1}}}[.!?](?= )", text)
    return sentences[0] if sentences else f"{text[:limit].rsplit(' ', 1)[0]} …"


def write_readme() -> None:
    readme = ROOT / "README.md"
    readme.write_text(with_parts(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_readme()
