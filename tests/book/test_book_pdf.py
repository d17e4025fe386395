"""`make pdf` on a made-up book of two pages: order, bookmarks, what is folded away, and no path of this machine."""

from __future__ import annotations

from pathlib import Path

from pypdf import PdfReader

from book_walk import need_chromium
from pdf import make_pdf

PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{0}</title></head><body><main><h1>{0}
<a class="headerlink" href="#">#</a></h1><a href="second.html">a page</a> <a href="https://example.org/">the web</a>
<details><summary>Solution</summary>folded away</details><h2>A section</h2></main></body></html>"""


def test_pdf(tmp_path: Path) -> None:
    need_chromium()
    for name, title in (("first", "The first & best"), ("second", "The second")):
        (tmp_path / f"{name}.html").write_text(PAGE.format(title.replace("&", "&amp;")), encoding="utf-8")
    make_pdf(tmp_path, ["first", "second"], tmp_path / "book.pdf", "A book", "Somebody")
    pdf = PdfReader(tmp_path / "book.pdf")
    assert [item.title for item in pdf.outline if not isinstance(item, list)] == ["The first & best", "The second"]
    assert len(pdf.pages) == 2 and all("folded away" in sheet.extract_text() for sheet in pdf.pages)
    links = [note.get_object()["/A"]["/URI"] for sheet in pdf.pages for note in sheet["/Annots"]]
    assert links == ["https://example.org/"] * 2 and pdf.metadata.title == "A book"
    assert b"file:" not in (tmp_path / "book.pdf").read_bytes()
