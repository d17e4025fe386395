"""The figures of the chapters as files for slides: figures/ch02-fig-2.5.svg, listed on the page for teachers.

A figure has its number once its page is written. So this comes last, and puts the list into the finished page.
"""

from __future__ import annotations

import base64
import re
import shutil
from html import escape, unescape
from pathlib import Path

from sphinx.application import Sphinx

PLACE = "<!-- figures of the chapters -->"
PICTURE = re.compile(r'<img [^>]*src="(?:data:image/([a-z]+)[^,]*,)?([^"]+)"')
CAPTION = re.compile(r'caption-number"?>Figure ([\d.]+)\. </span>(.*?)(?:<a class="headerlink"|</figcaption>)', re.S)


def write_figures(app: Sphinx, error: Exception | None) -> None:
    html, lines = Path(app.outdir), []
    if error or not (page := html / "book" / "teachers.html").is_file():
        return
    (html / "figures").mkdir(exist_ok=True)
    for chapter in sorted(html.glob("notebooks/*.html")):
        text, found = chapter.read_text(encoding="utf-8"), []
        for figure in re.findall(r"<figure.*?</figure>", text, re.S):
            if not ((picture := PICTURE.search(figure)) and (caption := CAPTION.search(figure))):
                continue
            (kind, source), (number, said) = picture.groups(), caption.groups()
            if not kind and (html / "_static" / Path(source).name).is_file():  # a diagram: those have their own list
                continue
            ending = (kind or Path(source).suffix[1:]).replace("jpeg", "jpg")
            path = html / "figures" / f"ch{chapter.name[:2]}-fig-{number}.{ending}"
            if kind:  # the still picture of a figure to play with
                path.write_bytes(base64.b64decode(source))
            else:
                shutil.copyfile(chapter.parent / source, path)
            said = escape(" ".join(unescape(re.sub("<[^>]*>", "", said)).split()))
            found.append(f'<li><a href="../figures/{path.name}">Figure {number}</a>, {ending.upper()}: {said}</li>')
        title = re.search(r"<h1>([^<]+)", text)
        if title and found:
            lines.append(f"<details><summary>{title[1]}</summary><ul>{''.join(found)}</ul></details>")
    page.write_text(page.read_text(encoding="utf-8").replace(PLACE, "\n".join(lines)), encoding="utf-8")
