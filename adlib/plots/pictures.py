"""Pictures of results: image grids with anomaly maps; and what all figures share.

Every function returns a matplotlib ``Figure`` that is unknown to pyplot. As the last expression of a
notebook cell it shows itself once; nothing has to be closed and no global setting is changed.
``figure.savefig("name.pdf")`` writes it to a file. Arrays, lists and torch tensors (on any device) are accepted.

Figures are opaque white with dark text, so they look the same on a light page, on a dark page and on paper. Colours
are those of Okabe and Ito, which colour-blind readers can tell apart; hatching, markers or line styles differ too, so
that a greyscale print loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

DPI = 90
PANEL = 1.5  # inches, the width of one picture in a grid; small, because notebooks store their figures
INK, GREY = "#222222", "#767676"
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

    Raises
    ------
    ValueError
        Where the lists differ in length, a mask or map is not of its image's size, or a value is not usable.
    """
    pictures = [as_picture(image, f"images[{i}]") for i, image in enumerate(images)]
    for name, values in {"masks": masks, "maps": maps, "scores": scores, "titles": titles}.items():
        check_length(name, values, len(pictures))
    if maps is None and (threshold is not None or limits is not None):
        raise ValueError("threshold and limits belong to anomaly maps: pass maps as well.")
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"threshold is {threshold}; expected a finite number.")
    sizes = [picture.shape[:2] for picture in pictures]
    columns = ["image"] + ["ground truth"] * (masks is not None) + ["anomaly map", "overlay"] * (maps is not None)
    figure, axes = _grid(sizes, columns)
    for i, picture in enumerate(pictures):
        _draw(axes[i, 0], picture)
        lines = [] if titles is None else [str(titles[i])]
        lines += [] if scores is None else [f"score {float(scores[i]):.3g}"]
        axes[i, 0].set_ylabel("\n".join(lines), fontsize=9, color=INK)
        if masks is not None and masks[i] is None:
            axes[i, 1].text(0.5, 0.5, "no mask", transform=axes[i, 1].transAxes, ha="center", va="center", fontsize=9,
                            color=GREY)
        elif masks is not None:
            _draw(axes[i, 1], np.where(_plane(masks[i], f"masks[{i}]", sizes[i]) > 0, 1.0, 0.13))
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

    Raises
    ------
    ValueError
        Where there is no picture, the titles do not fit the table, or a picture is not usable.
    """
    columns = max((len(row) for row in rows), default=0)
    check_length("row_titles", row_titles, len(rows))
    check_length("col_titles", col_titles, columns)
    table = [
        [None if cell is None else as_picture(cell, f"rows[{i}][{j}]") for j, cell in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    sizes = [next((c.shape[:2] for c in row if c is not None), (1, 1)) for row in table]
    figure, axes = _grid(sizes, col_titles or [""] * columns)
    for i, row in enumerate(table):
        for ax, cell in zip(axes[i], row + [None] * (columns - len(row)), strict=True):
            if cell is None:
                ax.spines[:].set_visible(False)
            else:
                _draw(ax, cell)
        axes[i, 0].set_ylabel("" if row_titles is None else str(row_titles[i]), fontsize=10, color=INK)
    return figure


def as_array(values: Any) -> np.ndarray:
    """An array of whatever holds numbers."""
    if hasattr(values, "detach"):  # a torch tensor: numpy needs it on the CPU and knows no bfloat16
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def check_length(name: str, values: Sequence[Any] | None, count: int) -> None:
    """ValueError where there are values, and not one for each."""
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


def _grid(sizes: Sequence[tuple[int, ...]], headings: Sequence[str]) -> tuple[Figure, np.ndarray]:
    """Bare panels, one row per (H, W); a row is as tall as its picture asks for, within reason."""
    if not sizes or not headings:
        raise ValueError("there is nothing to show: give at least one image.")
    heights = [PANEL * float(np.clip(height / width, 0.3, 2)) for height, width in sizes]
    shape = (PANEL * len(headings) + 0.9, sum(heights) + 0.1 * len(heights) + 0.3)
    figure = Drawing(figsize=shape, dpi=DPI, layout="compressed", facecolor="white")
    figure.photographs = True
    axes = figure.subplots(len(sizes), len(headings), squeeze=False, gridspec_kw={"height_ratios": heights})
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(color="#BBBBBB", linewidth=0.6)
    for ax, heading in zip(axes[0], headings, strict=True):
        ax.set_title(str(heading), fontsize=10, color=INK)
    return figure, axes


def _draw(ax: Axes, picture: np.ndarray) -> None:
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)


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
