"""The glossary: its terms are those of the book, none stands twice, and its links lead somewhere."""

from __future__ import annotations

import re

import nbformat

from notebooks import all_notebooks
from repository import ROOT

GLOSSARY = ROOT / "book" / "glossary.md"
TEXT = GLOSSARY.read_text(encoding="utf-8")
ROW = re.compile(r"^\| (?!English|---)(.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.M)  # English, Chinese, meaning, where
CHAPTERS = {path.name: "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
            for path in all_notebooks()}


def test_every_term_is_used_in_the_book() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md") if path != GLOSSARY]
    # Bold or italic within a term does not make it another one.
    text = " ".join(re.sub(r"\*+", "", " ".join([*pages, *CHAPTERS.values()])).lower().split())
    terms = [row[0] for row in ROW.findall(TEXT)]
    assert 90 <= len(terms)
    # As whole words, or with an ending: "region" in "regions", but "code" not in "encoder".
    assert [term for term in terms if not re.search(rf"(?<!\w){re.escape(term.lower())}", text)] == []


def test_no_term_stands_twice_and_each_topic_is_sorted() -> None:
    topics = [[row[0].lower() for row in ROW.findall(topic)] for topic in TEXT.split("\n## ")[1:]]
    assert all(terms and terms == sorted(terms) for terms in topics), topics
    terms = sum(topics, [])
    assert len(terms) == len(ROW.findall(TEXT))
    assert sorted(set(terms)) == sorted(terms)


def test_each_entry_marks_its_chinese_and_leads_somewhere() -> None:
    """Screen readers and fonts need the language; simplified characters differ from those of Japanese."""
    for english, chinese, meaning, where in ROW.findall(TEXT):
        assert re.fullmatch(r'<span lang="zh-Hans">[^<]+</span>', chinese), english
        assert not re.search(r"[\u4e00-\u9fff]", re.sub(r'<span lang="zh-Hans">[^<]*</span>', "", meaning)), english
        ((name, target),) = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", where)
        path = GLOSSARY.parent / target
        assert path.is_file(), (english, target)  # in all other links too, Sphinx names a target that is not there
        assert path.suffix == ".md" or re.search(rf"^## {re.escape(name)} ", CHAPTERS[path.name], re.M), (english, name)
