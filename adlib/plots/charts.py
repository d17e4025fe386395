"""Charts of results: score histograms, ROC curves, coreset coverage, ablations. For all figures, see pictures.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_auc_score, roc_curve

from adlib.plots.pictures import DPI, GREY, INK, Drawing, as_array, check_length

NORMAL, CENTRE = "#0072B2", "#D55E00"
# Defect kinds, in an order in which lightness alternates: neighbours in a stack stay apart in print.
ANOMALOUS = ("#E69F00", "#D55E00", "#F0E442", "#009E73", "#56B4E9", "#CC79A7", "#EEEEEE")
HATCHES = ("//", "..", "\\\\", "xx", "--")
LINES = ((NORMAL, "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#E69F00", ":"))


def score_histogram(
    labels: Any, scores: Any, *, threshold: float | None = None, kinds: Sequence[str] | None = None
) -> Figure:
    """The image scores of good and defective parts, stacked so that neither hides the other.

    Parameters
    ----------
    labels : (N,)
        0 for good, 1 for defective. One class alone is fine.
    scores : (N,)
        Finite image scores, higher is more anomalous.
    threshold : float, optional
        Drawn as a vertical line.
    kinds : sequence (N,) of str, optional
        Defect kinds, to colour the defective images by kind. Entries of good images are ignored.

    Raises
    ------
    ValueError
        Where the lengths differ, a label is neither 0 nor 1, or a score is NaN or infinite.
    """
    truth, values = _labels_and_scores(labels, scores)
    check_length("kinds", kinds, len(values))
    names = np.array(["defective"] * len(values) if kinds is None else [str(kind) for kind in kinds])
    groups: list[tuple[str, Any, str, str | None]] = []
    if not truth.all():
        groups.append(("good", values[~truth], NORMAL, None))
    for i, name in enumerate(sorted(set(names[truth]))):
        style = ANOMALOUS[i % len(ANOMALOUS)], HATCHES[i % len(HATCHES)]
        groups.append((str(name), values[truth & (names == name)], *style))
    figure, ax = _single(5.6, 2.9)
    edges = np.histogram_bin_edges(values, bins=int(np.clip(2 * np.sqrt(len(values)), 10, 40)))
    bottom = np.zeros(len(edges) - 1)
    for name, group, colour, hatch in groups:
        counts = np.histogram(group, edges)[0]
        style = {"facecolor": colour, "edgecolor": INK, "linewidth": 0.6, "hatch": hatch}
        ax.bar(edges[:-1], counts, np.diff(edges), bottom, align="edge", label=f"{name} ({len(group)})", **style)
        bottom += counts
    if threshold is not None:
        ax.axvline(threshold, color=INK, ls="--", lw=1.6, label=f"threshold {threshold:.3g}")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="image score", ylabel="images")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8.5, frameon=False, labelcolor=INK)
    return figure


def roc(labels: Any, scores: Any) -> Figure:
    """The ROC curve, with the area under it in the legend.

    Parameters
    ----------
    labels : (N,)
        0 for good, 1 for defective; both must occur.
    scores : (N,)
        Finite image scores, higher is more anomalous; or ``{name: scores}`` to compare detectors.

    Raises
    ------
    ValueError
        Where the lengths differ, only one class is present, or a score is NaN or infinite.
    """
    figure, ax = _single(3.6, 3.6)
    ax.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (1, 2)), label="chance")
    curves = scores if isinstance(scores, Mapping) else {"": scores}
    for i, (name, values) in enumerate(curves.items()):
        truth, numbers = _labels_and_scores(labels, values)
        if truth.all() or not truth.any():
            raise ValueError("an ROC curve needs good (0) and defective (1) labels; only one class is present.")
        false_alarms, hits, _ = roc_curve(truth, numbers)
        colour, style = LINES[i % len(LINES)]
        label = f"{name} AUROC {roc_auc_score(truth, numbers):.3f}".strip()
        # Not clipped: the curve of a perfect detector lies on the frame and would lose half its width.
        ax.plot(false_alarms, hits, color=colour, ls=style, lw=2.2, label=label, clip_on=False, zorder=3)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set(xlabel="false alarms (share of good)", ylabel="found (share of defective)")
    ax.legend(loc="lower right", fontsize=8.5, edgecolor="white", framealpha=0.85, facecolor="white", labelcolor=INK)
    return figure


def coreset_coverage(points: Any, centres: Any, radius: float | None = None) -> Figure:
    """Points of the plane, the chosen centres, and circles around these.

    Parameters
    ----------
    points : (N, 2)
        Finite coordinates.
    centres : (k,)
        Indices into ``points``.
    radius : float, optional
        Of the circles, in the points' units. By default the covering radius: the largest distance from a
        point to its nearest centre.

    Raises
    ------
    ValueError
        Where the points are not (N, 2) and finite, an index is out of range, or the radius is negative.
    """
    cloud, chosen = as_array(points).astype(float), as_array(centres)
    if cloud.ndim != 2 or cloud.shape[1] != 2 or not np.isfinite(cloud).all():
        raise ValueError(f"points must be finite and of shape (N, 2); got shape {cloud.shape}.")
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not np.isin(chosen, np.arange(len(cloud))).all():
        raise ValueError(f"centres must be a list of indices from 0 to {len(cloud) - 1}; got {chosen}.")
    picked = cloud[chosen]
    if radius is None:
        radius = float(np.min([np.linalg.norm(cloud - centre, axis=1) for centre in picked], axis=0).max())
    elif not radius >= 0:
        raise ValueError(f"radius is {radius}; it must be zero or larger.")
    figure, ax = _single(4.2, 3.8)
    size = [2 * radius] * len(picked)
    style = {"facecolor": (0.0, 0.45, 0.7, 0.1), "edgecolor": NORMAL, "linewidth": 1}
    circles = EllipseCollection(size, size, [0], units="xy", offsets=picked, offset_transform=ax.transData, **style)
    ax.add_collection(circles, autolim=False)
    ax.scatter(*cloud.T, s=9, color=GREY, linewidths=0, label=f"points ({len(cloud)})")
    ax.scatter(*picked.T, s=46, marker="D", c=CENTRE, edgecolors="black", label=f"centres ({len(picked)})", zorder=3)
    ax.plot([], [], "o", ms=9, mfc="#E5F1F7", mec=NORMAL, label=f"radius {radius:.3g}")
    low, high = np.minimum(cloud.min(0), picked.min(0) - radius), np.maximum(cloud.max(0), picked.max(0) + radius)
    pad = 0.03 * float((high - low).max()) or 1.0
    ax.set(xlim=(low[0] - pad, high[0] + pad), ylim=(low[1] - pad, high[1] + pad), aspect="equal")
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.08), "ncols": 3, "columnspacing": 1.0}
    ax.legend(fontsize=8.5, frameon=False, labelcolor=INK, handletextpad=0.3, **place)
    return figure


def bars(
    names: Sequence[str], values: Any, lows: Any = None, highs: Any = None, *, label: str = "", reference: str = ""
) -> Figure:
    """Values with error bars, one row each, for ablations. Dots, since the axis seldom starts at 0.

    Parameters
    ----------
    names : sequence (N,) of str
        Settings, drawn from top to bottom.
    values : (N,)
        The figures measured.
    lows, highs : (N,), optional
        Ends of the intervals, lows <= values <= highs; both or neither.
    label : str
        What the figures are, under the axis.
    reference : str, optional
        One of the names, whose value is also drawn as a dashed line to compare the others with.

    Raises
    ------
    ValueError
        Where the lengths differ, a value is not finite or lies outside its interval, or no row is the reference.
    """
    numbers = _numbers(values, "values", len(names))
    if (lows is None) != (highs is None):
        raise ValueError("lows and highs belong together: give both or neither.")
    if reference and reference not in names:
        raise ValueError(f"reference is {reference!r}, which is not one of the names {list(names)}.")
    figure, ax = _single(5.4, 0.7 + 0.3 * len(names))
    rows = np.arange(len(names))
    if lows is not None:
        errors = numbers - _numbers(lows, "lows", len(names)), _numbers(highs, "highs", len(names)) - numbers
        if np.min(errors) < 0:
            raise ValueError(f"{names[np.min(errors, axis=0).argmin()]!r}: the value lies outside its interval.")
        ax.errorbar(numbers, rows, xerr=errors, fmt="none", ecolor=NORMAL, elinewidth=1.8, capsize=4)
    for row, (name, number) in enumerate(zip(names, numbers, strict=True)):
        ax.scatter(number, row, s=40, color=INK if name == reference else NORMAL, zorder=3)
        ax.text(1.02, row, f"{number:.3f}", transform=ax.get_yaxis_transform(), va="center", fontsize=9, color=INK)
        if name == reference:
            ax.axvline(number, color=GREY, ls="--", lw=1.2, zorder=0)
    ax.set_yticks(rows, [str(name) for name in names])
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel=label)
    ax.grid(axis="x", color="#DDDDDD", lw=0.6)
    return figure


def _numbers(values: Any, name: str, count: int) -> np.ndarray:
    numbers = as_array(values).astype(float)
    if numbers.shape != (count,) or count == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be {count or 'one or more'} finite numbers in one row; got {numbers}.")
    return numbers


def _labels_and_scores(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    truth = as_array(labels)
    if truth.ndim != 1 or not np.isin(truth, (0, 1)).all():
        raise ValueError(f"labels must be a list of 0 (good) and 1 (defective); got {truth}.")
    return truth == 1, _numbers(scores, "scores", len(truth))


def _single(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Drawing(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    ax = figure.add_subplot(facecolor="white")
    # Colours are said here, not left to the reader's style: dark text belongs to the white ground.
    ax.spines[:].set(color=INK)
    ax.spines[["top", "right"]].set(visible=False)
    ax.tick_params(colors=INK, labelsize=9)
    ax.xaxis.label.set(color=INK, size=9.5)
    ax.yaxis.label.set(color=INK, size=9.5)
    return figure, ax
