"""A chart of a table of measurements: a dot for each value, best first, with its interval as a line.

The words are HTML and wrap on a phone; only dots and lines are SVG. custom.css has the colours, for light and dark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from html import escape
from typing import NamedTuple

VALUE = re.compile(r"([+−-]?\d+\.\d+)(?:\s\[([+−-]?\d+\.\d+),\s([+−-]?\d+\.\d+)\])?")


class Chart(NamedTuple):
    """What of a table is drawn, by the names of its columns; label and group are texts such as "n = {n}"."""

    values: tuple[str, ...]
    label: str = ""  # what a dot is called; without it, by the column of its value
    group: str = ""  # what the heading of dots that belong together says
    mark: str = ""  # the column of what is drawn behind a dot: a number, or a range
    about: str = ""  # what is drawn, if the names of the columns do not say it
    says: str = "Dots are means, lines their 95 % intervals."
    log: bool = False


class Dot(NamedTuple):
    group: str
    label: str
    value: float
    low: float
    high: float
    mark: list[float]


def dots(table: list[str], chart: Chart) -> list[Dot]:
    """The dots of a Markdown table, in groups, in each the highest first."""
    head, _, *rows = ([cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table)
    found = []
    for row in (dict(zip(head, row, strict=True)) for row in rows):
        for column in chart.values:
            if match := VALUE.match(row[column]):
                several = [column] * (len(chart.values) > 1 and chart.label != "")
                group = ", ".join(filter(None, [chart.group.format_map(row), *several]))
                value, low, high = (float((part or match[1]).replace("−", "-")) for part in match.groups())
                mark = [float(one) for one in re.findall(r"\d+\.\d+", row.get(chart.mark, ""))]
                label = chart.label.format_map(row).removesuffix(", –") or column
                found.append(Dot(group, label, value, low, high, mark))
    groups = list(dict.fromkeys(dot.group for dot in found))
    return sorted(found, key=lambda dot: (groups.index(dot.group), -dot.value))


def scale(low: float, high: float, log: bool) -> tuple[Callable[[float], str], list[float]]:
    """Where a value lies, as a share of the width, and the values at which the axis has a number."""
    if log:
        ticks = [t for power in range(-2, 4) for t in (10**power, 3 * 10**power) if low <= t <= high]
        place = math.log
    else:
        step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if (high - low) / s <= 6)
        ticks = [round(step * k, 2) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        place = float
    first, last = place(low), place(high)
    return lambda value: f"{4 + 92 * (place(value) - first) / (last - first):.1f}%", ticks


def draw(table: list[str], chart: Chart) -> str:
    """The chart as HTML without an empty line, as Markdown wants it."""
    found = dots(table, chart)
    ends = [end for dot in found for end in (dot.low, dot.high, *dot.mark)]
    at, ticks = scale(min(ends), max(ends), chart.log)
    grid = "".join(f'<line class="grid" x1="{at(tick)}" x2="{at(tick)}" y1="-25%" y2="125%"/>' for tick in ticks)
    what = f"{chart.about or ', '.join(chart.values)}. {chart.says}"
    what = what[0].upper() + what[1:]
    lines, group = [f'<div class="chart" role="img" aria-label="Chart of the table below. {escape(what)}">',
                    f"<p>{escape(what)}</p>"], ""
    for dot in found:
        if dot.group != group:
            lines.append(f"<strong>{escape(group := dot.group)}</strong>")
        bars = [("mark", min(dot.mark), max(dot.mark))] if dot.mark else []
        drawn = "".join(f'<line class="{kind}" x1="{at(low)}" x2="{at(high)}" y1="50%" y2="50%"/>'
                        for kind, low, high in [*bars, ("interval", dot.low, dot.high)])
        lines.append(f'<span>{escape(dot.label)}</span><svg>{grid}{drawn}<circle cx="{at(dot.value)}" cy="50%" r="4"/>'
                     "</svg>")
    numbers = "".join(f'<text x="{at(tick)}" y="12">{tick:g}</text>' for tick in ticks)
    return "\n".join([*lines, f'<span></span><svg class="axis">{numbers}</svg>', "</div>", ""])
