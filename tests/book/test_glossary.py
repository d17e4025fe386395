"""The glossary: its terms are those of the book, none stands twice, and its links lead somewhere."""

from __future__ import annotations

import re

import nbformat

from notebooks import all_notebooks
from repository import ROOT

GLOSSARY = ROOT / "book" / "glossary.md"
ROW = re.compile(r"^\| (?!English|---)(.+?) \| (.+?) \| (.+?) \| (.+?) \|$", re.M)
HAN = re.compile(r"[\u4e00-\u9fff]")


def rows(text: str) -> list[tuple[str, ...]]:
    """English, Chinese, meaning and where, of every entry."""
    return [tuple(row) for row in ROW.findall(text)]


def text_of_the_book() -> str:
    """The prose of all chapters and pages but the glossary, in lower case, on one line."""
    parts = [path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md") if path != GLOSSARY]
    for path in all_notebooks():
        parts += [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"]
    # Bold or italic within a term does not make it another one.
    return " ".join(re.sub(r"\*+", "", " ".join(parts)).lower().split())


def test_every_term_is_used_in_the_book() -> None:
    text, terms = text_of_the_book(), [row[0] for row in rows(GLOSSARY.read_text(encoding="utf-8"))]
    assert 90 <= len(terms)
    # As whole words, or with an ending: "region" in "regions", but "code" not in "encoder".
    missing = [term for term in terms if not re.search(rf"(?<!\w){re.escape(term.lower())}", text)]
    assert missing == []


def test_no_term_stands_twice_and_each_topic_is_sorted() -> None:
    text = GLOSSARY.read_text(encoding="utf-8")
    terms = [row[0].lower() for row in rows(text)]
    assert len(set(terms)) == len(terms), sorted(term for term in terms if terms.count(term) > 1)
    for topic in text.split("\n## ")[1:]:
        found = [row[0].lower() for row in rows(topic)]
        assert found and found == sorted(found), topic.splitlines()[0]


def test_chinese_is_marked_as_such() -> None:
    """Screen readers and fonts need the language; simplified characters differ from those of Japanese."""
    for english, chinese, meaning, _ in rows(GLOSSARY.read_text(encoding="utf-8")):
        assert re.fullmatch(r'<span lang="zh-Hans">[^<]+</span>', chinese), english
        assert not HAN.search(re.sub(r'<span lang="zh-Hans">[^<]*</span>', "", meaning)), english


def test_links_lead_somewhere() -> None:
    text = GLOSSARY.read_text(encoding="utf-8")
    headings = {path.name: re.findall(r"^## (\d+\.\d+) ", "\n".join(
        c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"), re.M)
        for path in all_notebooks()}
    for english, _, _, where in rows(text):
        (name, target), = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", where)
        path = (GLOSSARY.parent / target).resolve()
        assert path.is_file(), (english, target)
        assert path.suffix == ".md" or name in headings[path.name], (english, name)
    assert all((GLOSSARY.parent / target).is_file() for target in re.findall(r"\]\(([^)]+)\)", text))
