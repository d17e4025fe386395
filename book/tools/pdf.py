"""Print the built book as one PDF, build/adlib.pdf: what `make pdf` does. Needs Chromium.

Chromium prints every page of _toc.yml; pypdf joins the sheets. Links between pages of the book lead to
sheets of the PDF, and the sheets are numbered through. How a page looks in print: book/_static/print.css.
"""

from __future__ import annotations

import sys
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import yaml
from playwright.sync_api import Browser, Page
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, Fit, FloatObject, NameObject, NullObject, TextStringObject

import build
from browser import MISSING, chromium, find_chromium, open_file
from repository import ROOT

MARGIN = {"top": "16mm", "bottom": "20mm", "left": "16mm", "right": "16mm"}
WIDTH = 673  # CSS pixels between the margins of an A4 sheet: (210 - 2 * 16) mm at 96 pixels an inch
# Fold out the solutions, and shrink what is wider than the sheet: nobody can scroll on paper.
PREPARE = """(width) => {
  Object.assign(document.documentElement.dataset, {theme: 'light', mode: 'light'});
  for (const e of document.querySelectorAll('details')) e.open = true;
  for (const e of document.querySelectorAll('mjx-container[display=true], table')) {
    const room = Math.min(width, (e.parentElement.closest('div, section, main, details') ?? document.body).clientWidth);
    const svg = e.querySelector(':scope > svg');
    const need = Math.max(e.scrollWidth, e.getBoundingClientRect().width, svg?.getBoundingClientRect().width ?? 0);
    if (need > room + 1) e.style.zoom = room / need;
  }
  for (const e of document.querySelectorAll('.cell_input, div[class*=highlight-], .admonition, .cell_output'))
    if (e.getBoundingClientRect().height < 330) e.style.breakInside = 'avoid';  // about a third of a sheet
  for (const e of document.querySelectorAll('.headerlink')) e.remove();
  return [...document.querySelectorAll('h1, h2')].filter(e => e.checkVisibility()).map(e => e.innerText.trim());
}"""
SHEETS = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>
  @page {{ size: A4; margin: 16mm 16mm 20mm; }}
  body {{ font: 11pt/1.6 system-ui, sans-serif; margin: 0; font-variant-ligatures: none; }}
  h1 {{ font-size: 24pt; line-height: 1.2; margin: 25mm 0 4mm; }}
  li {{ list-style: none; display: flex; justify-content: space-between; gap: 1em; }} ul {{ padding: 0; }}
  a {{ color: inherit; text-decoration: none; }} b {{ font-weight: 600; }}
</style><body>{body}</body></html>"""
NUMBERS = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Numbers</title><style>
  @page {{ size: A4; margin: 0; }} body {{ margin: 0; }}
  p {{ height: 296mm; margin: 0; break-after: page; position: relative; font: 9pt system-ui, sans-serif; color: #555; }}
  span {{ position: absolute; bottom: 9mm; right: 16mm; }} i {{ position: absolute; bottom: 9mm; left: 16mm; }}
</style><body>{body}</body></html>"""


class Part(NamedTuple):
    """A page of the book in print: the file it came from, its headings (the title is the first) and its sheets."""

    path: Path
    headings: list[str]
    reader: PdfReader


def printed(page: Page, **options: Any) -> PdfReader:
    return PdfReader(BytesIO(page.pdf(format="A4", print_background=True, **options)))


def print_page(browser: Browser, path: Path) -> Part:
    """One page of the book, printed after its equations have been set."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 950}, color_scheme="light")
    try:
        page.emulate_media(media="print")
        open_file(page, path)
        headings = page.evaluate(PREPARE, WIDTH) or [page.title()]
        return Part(path.resolve(), headings, printed(page, margin=MARGIN, tagged=True, outline=True))
    finally:
        page.close()


def print_text(browser: Browser, text: str) -> PdfReader:
    page = browser.new_page()
    try:
        page.set_content(text)
        return printed(page, prefer_css_page_size=True)
    finally:
        page.close()


def contents(browser: Browser, title: str, author: str, parts: list[Part]) -> Part:
    """The first sheet: the book's title and its pages with their numbers."""
    length = 1
    while True:  # the numbers depend on how many sheets the list of contents itself takes
        number, lines = 1 + length, []
        for part in parts:
            lines.append(f'<li><a href="{part.path.as_uri()}">{escape(part.headings[0])}</a><span>{number}</span></li>')
            number += len(part.reader.pages)
        body = f"<h1>{escape(title)}</h1><p>{escape(author)}</p><h2>Contents</h2><ul>{''.join(lines)}</ul>"
        reader = print_text(browser, SHEETS.format(title=escape(title), body=body))
        if len(reader.pages) == length:
            return Part(Path("contents"), ["Contents"], reader)
        length = len(reader.pages)


def add_part(writer: PdfWriter, part: Part) -> None:
    """Append the sheets of a part, with a bookmark for it and one for each of its sections."""
    first = len(writer.pages)
    writer.append(part.reader, import_outline=False)
    top = writer.add_outline_item(title=part.headings[0], page_number=first)
    # Chromium's own bookmarks know the sheet of a heading, but lose the space where its text wraps.
    sections = {"".join(text.split()): text for text in part.headings[1:]}
    flat = [*part.reader.outline]
    while flat:
        item = flat.pop(0)
        if isinstance(item, list):
            flat = item + flat
        elif text := sections.get("".join(str(item.title).split())):
            sheet = part.reader.get_destination_page_number(item)
            fit = Fit.xyz(top=item.top)
            writer.add_outline_item(title=text, page_number=first + sheet, parent=top, fit=fit)


def places(parts: list[Part]) -> dict[tuple[Path, str], tuple[int, float | None]]:
    """Where a link leads: (file, name of a place or "") to (number of the sheet from 0, height on it)."""
    found: dict[tuple[Path, str], tuple[int, float | None]] = {}
    first = 0
    for part in parts:
        found[part.path, ""] = first, None
        for name, place in part.reader.named_destinations.items():
            sheet = part.reader.get_destination_page_number(place)
            if sheet is not None and sheet >= 0:
                found[part.path, name.lstrip("/")] = first + sheet, place.top
        first += len(part.reader.pages)
    return found


def target(link: DictionaryObject, here: Path) -> tuple[Path, str] | str | None:
    """What a link of a sheet means: a place of the book, an address of the web, or None for neither."""
    action = link.get("/A", DictionaryObject()).get_object()
    name = link.get("/Dest", action.get("/D"))
    if name is not None:
        return here, unquote(str(name).lstrip("/"))
    address = str(action.get("/URI", ""))
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path)), unquote(parts.fragment)
    return address if parts.scheme in ("http", "https", "mailto") else None


def lead_links(writer: PdfWriter, parts: list[Part]) -> None:
    """Make the links between pages of the book links inside the PDF, and remove those to other local files."""
    where = places(parts)
    sheets = list(writer.pages)
    owners = [part.path for part in parts for _ in part.reader.pages]
    for sheet, owner in zip(sheets, owners, strict=True):
        kept = ArrayObject()
        for reference in sheet.get("/Annots", ArrayObject()).get_object():
            link = reference.get_object()
            aim = target(link, owner) if link.get("/Subtype") == "/Link" else ""
            if isinstance(aim, tuple):
                place = where.get(aim) or where.get((aim[0], ""))
                if place is None:
                    continue
                number, top = place
                link.pop("/A", None)
                height = NullObject() if top is None else FloatObject(top)
                link[NameObject("/Dest")] = ArrayObject([sheets[number].indirect_reference, NameObject("/XYZ"),
                                                         NullObject(), height, NullObject()])
            if aim is not None:
                kept.append(reference)
        if "/Annots" in sheet:
            sheet[NameObject("/Annots")] = kept


def number_sheets(browser: Browser, writer: PdfWriter, title: str) -> None:
    """Write the book's title and the number of the sheet under every sheet but the first."""
    body = "".join(f"<p><i>{escape(title)}</i><span>{n}</span></p>" for n in range(2, len(writer.pages) + 1))
    overlays = print_text(browser, NUMBERS.format(body=body)).pages
    for sheet, overlay in zip(list(writer.pages)[1:], overlays, strict=False):
        sheet.merge_page(overlay)


def make_pdf(html: Path, names: list[str], target_file: Path, title: str, author: str) -> int:
    """Print the pages `names` of the built book `html` to `target_file` and return the number of sheets."""
    with chromium() as browser:
        parts = []
        for name in names:
            parts.append(print_page(browser, html / f"{name}.html"))
            print(f"{name}: {len(parts[-1].reader.pages)} sheets", flush=True)
        parts.insert(0, contents(browser, title, author, parts))
        writer = PdfWriter()
        for part in parts:
            add_part(writer, part)
        lead_links(writer, parts)
        number_sheets(browser, writer, title)
    writer.add_metadata({"/Title": title, "/Author": author})
    writer.root_object[NameObject("/Lang")] = TextStringObject("en")
    writer.compress_identical_objects()
    for sheet in writer.pages:
        sheet.compress_content_streams()
    target_file.parent.mkdir(parents=True, exist_ok=True)
    writer.write(target_file)
    return len(writer.pages)


def main() -> None:
    if find_chromium() is None:
        sys.exit(MISSING)
    html = ROOT / "build" / "_build" / "html"
    if not (html / "index.html").is_file():
        html = build.build(ROOT / "build")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    file = ROOT / "build" / "adlib.pdf"
    sheets = make_pdf(html, build.pages(ROOT / "_toc.yml"), file, config["title"], config["author"])
    print(f"\nThe book as PDF: {file.relative_to(ROOT)}, {sheets} sheets, {file.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
