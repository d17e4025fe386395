"""Pictures of results: image grids with anomaly maps, score histograms, ROC curves, coreset coverage, ablations.

Every function returns a matplotlib ``Figure`` that is unknown to pyplot. As the last expression of a
notebook cell it shows itself once; nothing has to be closed and no global setting is changed.
``figure.savefig("name.pdf")`` writes it to a file. Arrays, lists and torch tensors (on any device) are accepted.

Figures are opaque white with dark text, so they look the same on a light page, on a dark page and on paper. Colours
are those of Okabe and Ito, which colour-blind readers can tell apart; hatching, markers or line styles differ too, so
that a greyscale print loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

DPI = 90
PANEL = 1.5  # inches, the width of one picture in a grid; small, because notebooks store their figures
INK, GREY, NORMAL, CENTRE = "#222222", "#767676", "#0072B2", "#D55E00"
# Defect kinds, in an order in which lightness alternates: neighbours in a stack stay apart in print.
ANOMALOUS = ("#E69F00", "#D55E00", "#F0E442", "#009E73", "#56B4E9", "#CC79A7", "#EEEEEE")
HATCHES = ("//", "..", "\\\\", "xx", "--")
LINES = ((NORMAL, "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#E69F00", ":"))
MAP_COLOURS = colormaps["inferno"]  # lightness grows with the value, so it survives a greyscale print
HALO: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=3, foreground="black")]


class Drawing(Figure):
    """A figure that shows itself in Jupyter, also where pyplot was never imported.

    It sends a PNG of 256 colours; a grid of photographs, whose noise a PNG cannot compress, as a smaller JPEG.
    """

    photographs = False

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        full, picture, kind = BytesIO(), BytesIO(), "jpeg" if getattr(self, "photographs", False) else "png"
        self.savefig(full, format="png", bbox_inches="tight")
        drawn = Image.open(full).convert("RGB")
        if kind == "jpeg":
            drawn.save(picture, kind, quality=72, optimize=True)
        else:
            drawn.quantize(256, dither=Image.Dither.NONE).save(picture, kind, optimize=True)
        return {f"image/{kind}": picture.getvalue(), "text/plain": repr(self)}

    def _ipython_display_(self) -> None:  # comes before the PNG that the inline backend would send
        from IPython.display import display

        display(self._repr_mimebundle_(), raw=True)


def show(
    images: Sequence[Any],
    masks: Sequence[Any] | None = None,
    maps: Sequence[Any] | None = None,
    *,
    scores: Sequence[float] | None = None,
    titles: Sequence[str] | None = None,
    threshold: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """One row per image: the image, its ground truth, its anomaly map, and the map laid over the image.

    All maps share one colour scale. A scale per image would make the noise of a good part look like a defect. With a
    threshold the scale reaches at least as far above it as below, and the overlay colours only what exceeds it: a good
    part stays grey.

    Parameters
    ----------
    images : sequence of N (3, H, W)
        Values in [0, 1]; their sizes may differ.
    masks : sequence of N (H, W), optional
        Ground truths, non-zero on the defect; None for an image whose truth is unknown.
    maps : sequence of N (H, W), optional
        Anomaly maps, higher is more anomalous.
    scores, titles : sequence of N, optional
        Image scores and names, written beside the rows.
    threshold : float, optional
        Draws the outline of ``map > threshold`` on the overlay, colours nothing else there, and is marked on the
        colour bar.
    limits : (float, float), optional
        Ends of the colour scale. By default the 1st and the 99.9th percentile of all maps together, moved outwards
        where they leave no room on both sides of the threshold.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Where the lists differ in length, a mask or map is not of its image's size, or a value is not usable.
    """
    pictures = [as_picture(image, f"images[{i}]") for i, image in enumerate(images)]
    for name, values in {"masks": masks, "maps": maps, "scores": scores, "titles": titles}.items():
        _check_length(name, values, len(pictures))
    if maps is None and (threshold is not None or limits is not None):
        raise ValueError("threshold and limits belong to anomaly maps: pass maps as well.")
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"threshold is {threshold}; expected a finite number.")
    sizes = [picture.shape[:2] for picture in pictures]
    columns = ["image"] + ["ground truth"] * (masks is not None) + ["anomaly map", "overlay"] * (maps is not None)
    figure, axes = _grid(sizes, len(columns))
    for ax, heading in zip(axes[0], columns, strict=True):
        ax.set_title(heading, fontsize=10, color=INK)
    for i, picture in enumerate(pictures):
        axes[i, 0].imshow(picture, cmap="gray", vmin=0, vmax=1)
        lines = [] if titles is None else [str(titles[i])]
        lines += [] if scores is None else [f"score {float(scores[i]):.3g}"]
        axes[i, 0].set_ylabel("\n".join(lines), fontsize=9, color=INK)
        if masks is not None:
            _draw_truth(axes[i, 1], None if masks[i] is None else _plane(masks[i], f"masks[{i}]", sizes[i]) > 0)
    if maps is not None:
        planes = [_plane(plane, f"maps[{i}]", sizes[i]) for i, plane in enumerate(maps)]
        scale = _common_scale(planes, limits, threshold)
        for row, picture, plane in zip(axes, pictures, planes, strict=True):
            row[-2].imshow(plane, cmap=MAP_COLOURS, norm=scale)
            draw_overlay(row[-1], picture, plane, scale, threshold)
        mappable = ScalarMappable(scale, MAP_COLOURS)  # the arrows of "both": values beyond the scale exist
        bar = figure.colorbar(mappable, ax=list(axes.flat), extend="both", aspect=14 * len(axes), pad=0.02)
        bar.ax.tick_params(labelsize=8, colors=INK)
        bar.set_label("score of a pixel", fontsize=8, color=INK)
        if threshold is not None and scale.vmin <= threshold <= scale.vmax:  # pyrefly: ignore
            bar.ax.axhline(threshold, color="white", lw=1.5, path_effects=HALO)
    return figure


def contact_sheet(
    rows: Sequence[Sequence[Any]], row_titles: Sequence[str] | None = None, col_titles: Sequence[str] | None = None
) -> Figure:
    """A plain table of pictures, for example one defect kind per row.

    Parameters
    ----------
    rows : sequence of sequences
        Lists of images (3, H, W) or planes (H, W), values in [0, 1] or bool. None leaves a cell empty.
    row_titles : sequence of str, optional
        One name per row.
    col_titles : sequence of str, optional
        One name per column of the longest row.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Where there is no picture, the titles do not fit the table, or a picture is not usable.
    """
    columns = max((len(row) for row in rows), default=0)
    _check_length("row_titles", row_titles, len(rows))
    _check_length("col_titles", col_titles, columns)
    table = [
        [None if cell is None else as_picture(cell, f"rows[{i}][{j}]") for j, cell in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    figure, axes = _grid([next((c.shape[:2] for c in row if c is not None), (1, 1)) for row in table], columns)
    for i, row in enumerate(table):
        for ax, cell in zip(axes[i], row + [None] * (columns - len(row)), strict=True):
            if cell is None:
                ax.spines[:].set_visible(False)
            else:
                ax.imshow(cell, cmap="gray", vmin=0, vmax=1)
        axes[i, 0].set_ylabel("" if row_titles is None else str(row_titles[i]), fontsize=10, color=INK)
    for ax, title in zip(axes[0], col_titles or [""] * columns, strict=True):
        ax.set_title(str(title), fontsize=10, color=INK)
    return figure


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

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Where the lengths differ, a label is neither 0 nor 1, or a score is NaN or infinite.
    """
    truth, values = _labels_and_scores(labels, scores)
    _check_length("kinds", kinds, len(values))
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

    Returns
    -------
    Figure

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

    Returns
    -------
    Figure

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

    Returns
    -------
    Figure

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


def as_array(values: Any) -> np.ndarray:
    """An array of whatever holds numbers."""
    if hasattr(values, "detach"):  # a torch tensor: numpy needs it on the CPU and knows no bfloat16
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def _check_length(name: str, values: Sequence[Any] | None, count: int) -> None:
    if values is not None and len(values) != count:
        raise ValueError(f"{name} has {len(values)} entries; expected {count}, one for each.")


def as_picture(image: Any, name: str) -> np.ndarray:
    """(3, H, W) to (H, W, 3), or a plane (H, W) as it is, once it is known that it can be shown."""
    pixels = as_array(image).astype(np.float32)
    if pixels.size == 0 or not (pixels.ndim == 2 or (pixels.ndim == 3 and len(pixels) == 3)):
        raise ValueError(f"{name} has shape {pixels.shape}; expected (3, H, W).")
    if not (pixels.min() >= -1e-4 and pixels.max() <= 1 + 1e-4):  # written so that NaN fails too
        raise ValueError(f"{name} holds values from {pixels.min()} to {pixels.max()}; expected [0, 1] and no NaN.")
    return pixels.clip(0, 1) if pixels.ndim == 2 else pixels.clip(0, 1).transpose(1, 2, 0)


def _plane(values: Any, name: str, size: tuple[int, ...]) -> np.ndarray:
    plane = as_array(values).astype(np.float32)
    if plane.shape != size:
        raise ValueError(f"{name} has shape {plane.shape}, but its image is {size[0]} x {size[1]}: resize it to that.")
    if not np.isfinite(plane).all():
        raise ValueError(f"{name} holds NaN or infinite values.")
    return plane


def _common_scale(
    planes: Sequence[np.ndarray], limits: tuple[float, float] | None, threshold: float | None
) -> Normalize:
    if limits is None:
        low, high = (float(end) for end in np.percentile(np.concatenate([p.ravel() for p in planes]), (1, 99.9)))
        if threshold is not None:  # it lies in the darker half, or good parts alone would fill the scale up to white
            low = min(low, threshold)
            high = max(high, 2 * threshold - low)
        limits = (low, high) if low < high else (low, low + max(1e-3, 1e-3 * abs(low)))  # maps of one single value
    if not limits[0] < limits[1]:
        raise ValueError(f"limits is {limits}; expected (low, high) with low < high.")
    return Normalize(*limits)


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


def _grid(sizes: Sequence[tuple[int, ...]], columns: int) -> tuple[Figure, np.ndarray]:
    """Bare panels, one row per (H, W); a row is as tall as its picture asks for, within reason."""
    if not sizes or not columns:
        raise ValueError("there is nothing to show: give at least one image.")
    heights = [PANEL * float(np.clip(height / width, 0.3, 2)) for height, width in sizes]
    shape = (PANEL * columns + 0.9, sum(heights) + 0.1 * len(heights) + 0.3)
    figure = Drawing(figsize=shape, dpi=DPI, layout="compressed", facecolor="white")
    figure.photographs = True
    axes = figure.subplots(len(sizes), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(color="#BBBBBB", linewidth=0.6)
    return figure, axes


def _draw_truth(ax: Axes, truth: np.ndarray | None) -> None:
    if truth is None:
        ax.text(0.5, 0.5, "no mask", transform=ax.transAxes, ha="center", va="center", fontsize=9, color=GREY)
    else:
        ax.imshow(np.where(truth, 1.0, 0.13), cmap="gray", vmin=0, vmax=1)


def draw_overlay(ax: Axes, picture: np.ndarray, plane: np.ndarray, scale: Normalize, threshold: float | None) -> None:
    """The map over the greyscale image, the more opaque the higher the value; nothing up to the threshold."""
    grey = (picture if picture.ndim == 2 else picture @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    share = scale(plane, clip=True).data
    opacity = 0.75 * share[..., None]
    if threshold is not None:
        opacity = opacity * (plane > threshold)[..., None]
    ax.imshow((1 - opacity) * grey + opacity * MAP_COLOURS(share)[..., :3])
    if threshold is not None and (plane > threshold).any():
        # A frame as far below the threshold as the peak is above it closes a region that touches the image's edge.
        framed = np.pad(plane, 1, constant_values=2 * threshold - float(plane.max()))
        height, width = plane.shape
        ys, xs = np.arange(-1, height + 1), np.arange(-1, width + 1)
        ax.contour(xs, ys, framed, [threshold], colors="white", linewidths=1.2).set_path_effects(HALO)
        ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
