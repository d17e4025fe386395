"""Print the built book as one PDF, build/adlib.pdf: what `make pdf` does. Needs Chromium.

Chromium prints every page of _toc.yml, pypdf joins the sheets. How a page looks in print: book/_static/print.css.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import yaml
from pypdf import PdfReader, PdfWriter

import build
from browser import MISSING, chromium, find_chromium, open_file
from repository import ROOT

WIDTH = 673  # CSS pixels between the margins of an A4 sheet: (210 - 2 * 16) mm at 96 pixels an inch
# Fold out the solutions, shrink what is wider than the sheet, and let no link name a file of this machine.
PREPARE = """width => {
  Object.assign(document.documentElement.dataset, {theme: 'light', mode: 'light'});
  for (const e of document.querySelectorAll('details')) e.open = true;
  for (const e of document.querySelectorAll('mjx-container[display=true], table')) {
    const room = Math.min(width, (e.parentElement.closest('div, section, main, details') ?? document.body).clientWidth);
    const need = Math.max(e.scrollWidth, ...[e, ...e.children].map(c => c.getBoundingClientRect().width));
    if (need > room + 1) e.style.zoom = room / need;
  }
  for (const e of document.querySelectorAll('a[href]'))
    if (e.matches('.headerlink')) e.remove();
    else if (e.protocol === 'file:' && (e.pathname !== location.pathname || !e.hash)) e.removeAttribute('href');
  return document.querySelector('h1').innerText.trim(); }"""
FOOTER = '<p style="font: 8pt sans-serif; margin: 0 16mm"><span class=title></span> <span class=pageNumber></span></p>'
SHEET = {"format": "A4", "print_background": True, "tagged": True, "outline": True, "display_header_footer": True,
         "header_template": "<p></p>", "footer_template": FOOTER,
         "margin": {"top": "16mm", "bottom": "20mm", "left": "16mm", "right": "16mm"}}  # fmt: skip


def make_pdf(html: Path, names: list[str], target: Path, title: str, author: str) -> None:
    """Print the pages `names` of the built book `html` to `target`, with a bookmark for each and for its sections."""
    writer = PdfWriter()
    with chromium() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": 950}, color_scheme="light")
        page.emulate_media(media="print")
        for name in names:
            open_file(page, html / f"{name}.html")
            title_of_page = page.evaluate(PREPARE, WIDTH)
            writer.append(PdfReader(BytesIO(page.pdf(**SHEET))), outline_item=title_of_page)
    writer.add_metadata({"/Title": title, "/Author": author})
    writer.compress_identical_objects()
    writer.write(target)


if __name__ == "__main__":
    if find_chromium() is None:
        raise SystemExit(MISSING)
    if not (build.HTML / "index.html").is_file():
        build.build()
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    make_pdf(build.HTML, build.pages(), ROOT / "build" / "adlib.pdf", config["title"], config["author"])
    print("The book as PDF: build/adlib.pdf")
