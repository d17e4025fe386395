"""What a notebook shows: pictures and charts (pictures.py), tables and figures to play with (outputs.py)."""

from adlib.plots.outputs import PLAYS, Playable, Table, as_image, playable, table
from adlib.plots.pictures import (
    ANOMALOUS,
    CENTRE,
    GREY,
    INK,
    LINES,
    MAP_COLOURS,
    NORMAL,
    bars,
    contact_sheet,
    coreset_coverage,
    draw_overlay,
    roc,
    score_histogram,
    show,
)

__all__ = [
    "ANOMALOUS", "CENTRE", "GREY", "INK", "LINES", "MAP_COLOURS", "NORMAL", "PLAYS", "Playable", "Table", "as_image",
    "bars", "contact_sheet", "coreset_coverage", "draw_overlay", "playable", "roc", "score_histogram", "show", "table",
]  # fmt: skip
