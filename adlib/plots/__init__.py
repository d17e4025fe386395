"""What a notebook shows: pictures, charts, tables and figures to play with, each in a file of its own."""

from adlib.plots.charts import ANOMALOUS, CENTRE, LINES, NORMAL, bars, coreset_coverage, roc, score_histogram
from adlib.plots.outputs import PLAYS, Playable, Table, as_image, playable, table
from adlib.plots.pictures import GREY, INK, MAP_COLOURS, contact_sheet, draw_overlay, show

__all__ = [
    "ANOMALOUS", "CENTRE", "GREY", "INK", "LINES", "MAP_COLOURS", "NORMAL", "PLAYS", "Playable", "Table", "as_image",
    "bars", "contact_sheet", "coreset_coverage", "draw_overlay", "playable", "roc", "score_histogram", "show", "table",
]  # fmt: skip
