"""What book/tools/mend_html.py changes in the built pages, on small pieces of HTML."""

from __future__ import annotations

from pathlib import Path

import pytest

from mend_html import mend, mended


@pytest.mark.parametrize(("wrong", "right"), [
    ('<script>const THEBE_JS_URL = "a"; let b = 1</script>\n<p>a</p>', "<p>a</p>"),
    ('<script async="async" src="../_static/sphinx-thebe.js?v=1"></script>\n<p>a</p>', "<p>a</p>"),
    ('<th class="head"><p></p></th><th><p>a</p></th>', '<td class="head"></td><th><p>a</p></th>'),
    ('<p><img alt="a" src="../_images/a.svg" /></p><p><img src="b.png" /></p>',
     '<p class="pst-scrollable-table-container"><img alt="a" src="../_images/a.svg" /></p><p><img src="b.png" /></p>'),
    ('<div class="citation" role="doc-biblioentry">', '<div class="citation" role="listitem">'),
])
def test_pieces(wrong: str, right: str) -> None:
    assert mended(wrong) == right and mended(right) == right


def test_an_empty_entry_of_the_contents_gets_its_heading() -> None:
    entry = '<a class="reference internal nav-link" href="#id1"><span class="xref myst"></span></a>'
    section = '<section id="id1">\n<h2><a href="b.html">2 · <em>B</em></a><a class="headerlink" href="#id1">#</a></h2>'
    assert mended(section + entry).endswith('<a class="reference internal nav-link" href="#id1">2 · B</a>')
    assert mended(entry) == entry  # no such heading: the walk through the book then finds it


def test_the_search_from_disk_fetches_nothing(tmp_path: Path) -> None:
    (tmp_path / "_static").mkdir()
    options = tmp_path / "_static" / "documentation_options.js"
    options.write_text("const A = {\n    SHOW_SEARCH_SUMMARY: true,\n};")
    mend(tmp_path)
    assert 'SHOW_SEARCH_SUMMARY: window.location.protocol !== "file:",' in options.read_text()
    with pytest.raises(ValueError, match="SHOW_SEARCH_SUMMARY"):
        mend(tmp_path)
