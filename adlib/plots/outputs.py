"""Outputs of a notebook that are not a matplotlib figure: tables, and figures that the book lets readers move.

Both show themselves as the last expression of a cell, as HTML where it can be shown and as text elsewhere.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from adlib.plots.pictures import Drawing, as_array, as_picture

PLAYS = ("coreset", "field", "mix", "noise", "threshold", "wipe")  # what book/_static/play.js can draw


class Table:
    """What `table` returns. As the last expression of a notebook cell it shows itself; `print` gives plain text."""

    def __init__(self, header: list[str], rows: list[list[str]], caption: str) -> None:
        self.header, self.rows, self.caption = header, rows, caption

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        text = "\n".join(
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
        )
        return text + (f"\n{self.caption}" if self.caption else "")

    def _repr_html_(self) -> str:
        def line(cells: list[str], scope: str) -> str:
            name, *rest = (html.escape(cell) for cell in cells)
            one = "<td>{}</td>" if scope == "row" else '<th scope="col">{}</th>'
            return f'<tr><th scope="{scope}">{name}</th>{"".join(map(one.format, rest))}</tr>'

        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        head, body = line(self.header, "col"), "".join(line(cells, "row") for cells in self.rows)
        return f'<table class="adlib-table">{caption}<thead>{head}</thead><tbody>{body}</tbody></table>'


def table(header: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> Table:
    """A table of results; the first column names the row.

    Parameters
    ----------
    header : sequence of str
        One name for each column.
    rows : iterable of sequences
        Texts stay as they are, floats get three digits.

    Raises
    ------
    ValueError
        Where a row has more or fewer cells than the header.
    """
    written = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    for number, cells in enumerate(written):
        if len(cells) != len(header):
            raise ValueError(f"row {number} has {len(cells)} cells; expected {len(header)}, as the header has")
    return Table([str(name) for name in header], written, caption)


class Playable:
    """What `playable` returns. As the last expression of a notebook cell it shows itself."""

    def __init__(self, kind: str, markup: str) -> None:
        self.kind, self.markup = kind, markup

    def __repr__(self) -> str:
        return f"Playable({self.kind!r})"

    def _repr_html_(self) -> str:
        return self.markup


def playable(
    kind: str, data: Mapping[str, Any], fallback: Figure, *, alt: str, title: str, caption: str = "", digits: int = 3
) -> Playable:
    """A figure that the built book lets readers move, and everywhere else is the still picture `fallback`.

    The output is one HTML element with the picture and the data. In the book, ``book/_static/play.js`` finds it and
    draws the controls; it needs nothing else. On Colab, on paper and without scripts the picture stays.

    Parameters
    ----------
    kind : str
        One of ``PLAYS``. What data each needs is said in play.js.
    data : mapping
        Numbers, texts, lists, arrays, tensors and mappings of these. A uint8 array is packed, and a PIL image becomes
        a JPEG.
    fallback : Figure
        A still picture that says the same without being moved.
    alt, title, caption : str
        What the picture shows, for who cannot see it; the name of the figure; what it tells.
    digits : int
        Floats are rounded to so many digits after the point.

    Raises
    ------
    ValueError
        Where the kind is unknown, alt or title is empty, or a number is NaN or infinite.
    """
    if kind not in PLAYS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(PLAYS)}.")
    if not alt.strip() or not title.strip():
        raise ValueError("alt and title must say something: a reader may not see the picture.")
    stored = json.dumps(_plain(data, "data", digits), separators=(",", ":"), ensure_ascii=False)
    stored = stored.replace("<", "\\u003c")  # so that no text in it ends the script
    shown = Drawing._repr_mimebundle_(fallback)  # pyrefly: ignore
    mime, picture = next(item for item in shown.items() if item[0].startswith("image/"))
    source = f"data:{mime};base64,{base64.b64encode(picture).decode()}"
    return Playable(
        kind,
        f'<figure class="adlib-play" data-play="{kind}" data-title="{html.escape(title)}">\n'
        f'<img alt="{html.escape(alt)}" src="{source}">\n'
        f"<figcaption><strong>{html.escape(title)}.</strong> {html.escape(caption)}</figcaption>\n"
        f'<script type="application/json">{stored}</script>\n</figure>',
    )


def as_image(image: Any) -> Image.Image:
    """A picture (3, H, W) or plane (H, W) with values in [0, 1], for `playable`.

    Raises
    ------
    ValueError
        Where the shape is another one or a value lies outside [0, 1].
    """
    return Image.fromarray(np.round(255 * as_picture(image, "image")).astype(np.uint8))


def _plain(value: Any, name: str, digits: int) -> Any:
    """What JSON can hold, small: rounded numbers, packed bytes, pictures as JPEG."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part, f"{name}[{key!r}]", digits) for key, part in value.items()}
    if isinstance(value, Image.Image):
        value.convert("RGB").save(stored := BytesIO(), "jpeg", quality=72, optimize=True)
        return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}"
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(part, f"{name}[{i}]", digits) for i, part in enumerate(value)]
    numbers = as_array(value)
    if numbers.dtype == np.uint8:
        return {"shape": list(numbers.shape), "bytes": base64.b64encode(numbers.tobytes()).decode()}
    if numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
        raise ValueError(f"{name} is {value!r}; expected finite numbers, text, pictures or lists of these.")
    rounded = numbers if numbers.dtype.kind in "biu" else np.round(numbers.astype(float), digits) + 0.0  # no -0.0
    return rounded.tolist()
