"""`make pdf` on a made-up book of two pages: order, bookmarks, links, numbers, and what must not be in it."""

from __future__ import annotations

import pytest
from pypdf import PdfReader

from chromium_or_skip import need_chromium
from pdf import make_pdf
from repository import ROOT

MATHJAX = (ROOT / "book" / "_static" / "mathjax" / "tex-svg.js").as_uri()
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<script src="{mathjax}"></script></head><body><main><h1>{title}<a class="headerlink" href="#">#</a></h1>{body}</main>
</body></html>"""
FIRST = """<p>See <a href="sub/second.html">the second</a>, <a href="sub/second.html#late">a place in it</a>,
<a href="#here">below</a>, <a href="https://example.org/">a page of the web</a>, <a href="data.csv">a file</a>.</p>
<details><summary>Solution</summary><p>folded away</p></details>
<table><tr style="white-space: nowrap"><td>""" + "wide " * 60 + """</td><td>finish</td></tr></table>
<h2 id="here">A section</h2>"""
SECOND = """<p>\\(x^2\\)</p><p style="break-after: page">Back to <a href="../first.html">the first</a>
and <a href="#late">later</a>.</p><h2 id="late">Late section</h2>"""


@pytest.fixture(scope="module")
def pdf(tmp_path_factory: pytest.TempPathFactory) -> PdfReader:
    need_chromium()
    folder = tmp_path_factory.mktemp("html")
    (folder / "sub").mkdir()
    for name, title, body in (("first", "The first & best", FIRST), ("sub/second", "The second", SECOND)):
        (folder / f"{name}.html").write_text(PAGE.format(title=title, mathjax=MATHJAX, body=body), encoding="utf-8")
    (folder / "data.csv").write_text("1")
    assert make_pdf(folder, ["first", "sub/second"], folder / "out" / "book.pdf", "A book", "Somebody") == 4
    return PdfReader(folder / "out" / "book.pdf")


def test_sheets_come_in_order_with_numbers(pdf: PdfReader) -> None:
    texts = [" ".join(sheet.extract_text().split()) for sheet in pdf.pages]
    assert texts[0].startswith("A book Somebody Contents The first & best 2 The second 3")
    assert "The first & best" in texts[1] and "The second" in texts[2] and "Late section" in texts[3]
    for number, text in enumerate(texts[1:], 2):
        assert "A book" in text and text.rstrip().endswith(str(number)), text
    assert pdf.metadata.title == "A book" and pdf.metadata.author == "Somebody"


def test_bookmarks(pdf: PdfReader) -> None:
    contents, first, of_first, second, of_second = pdf.outline
    named = [(item.title, pdf.get_destination_page_number(item)) for item in (contents, first, second)]
    assert named == [("Contents", 0), ("The first & best", 1), ("The second", 2)]
    assert [(i.title, pdf.get_destination_page_number(i)) for i in of_first] == [("A section", 1)]
    assert [(i.title, pdf.get_destination_page_number(i)) for i in of_second] == [("Late section", 3)]


def test_links_stay_inside_and_name_no_local_file(pdf: PdfReader) -> None:
    numbers = {sheet.indirect_reference.idnum: number for number, sheet in enumerate(pdf.pages)}
    aims: list[list[int | str]] = []
    for sheet in pdf.pages:
        links = [reference.get_object() for reference in sheet.get("/Annots", [])]
        aims.append([numbers[link["/Dest"][0].idnum] if "/Dest" in link else str(link["/A"]["/URI"]) for link in links])
    assert aims[0] == [1, 2]
    # A link that wraps has one rectangle a line, so that the same aim may come twice.
    assert list(dict.fromkeys(aims[1])) in ([2, 1, "https://example.org/"], [2, 3, 1, "https://example.org/"])
    assert aims[2] == [1, 3]


def test_nothing_is_folded_away_or_cut_off(pdf: PdfReader) -> None:
    places: dict[str, float] = {}

    def visit(text: str, page: list[float], own: list[float], *rest: object) -> None:
        places[text.strip()] = own[4] * page[0] + own[5] * page[2] + page[4]  # from the left edge of the sheet

    pdf.pages[1].extract_text(visitor_text=visit)
    assert "folded away" in places
    right_end = float(pdf.pages[1].mediabox.right) - 45  # the margin of 16 mm
    assert right_end - 100 < places["finish"] < right_end
