"""Draw the pictures of the book that are no diagrams into book/_static/.

    python recipes/draw_pictures.py

example-*.jpg, of the front page and the README: a defective part of three products, and what PatchCore with its
defaults marks on it. preview.jpg, what a chat or a search engine shows beside a link to the book: the same with its
name. brand/icon.png, the logo at 32 pixels. factory.jpg, a contact sheet of the factory: one row per product, two good
parts, then six kinds. A structural defect has a frame around it, since an outline would hide a thin one; the regions of
a logical anomaly are outlined.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from torch import Tensor
from torch.nn import functional

from adlib import PatchCore, plots
from adlib.datasets import Sample, SyntheticFactory
from adlib.factory import PRODUCTS
from adlib.threshold import conformal_threshold

STATIC = Path(__file__).parent.parent / "book" / "_static"
# What the examples show: the first test image of each.
CHOICE = {"fabric": "stain", "washer": "scratch", "board": "missing_part"}
SIDE = 440  # pixels: twice what a page shows, for screens with small pixels
COLUMNS, PANEL, INK, MARK = 8, 1.75, "#222222", "#FF2AB0"
CELL, ODD = "#4C7FB0", "#E3179A"  # of the logo


def sharp(plane: Tensor) -> np.ndarray:
    """(C, H, W) or (H, W), enlarged to SIDE x SIDE and in the order of pictures."""
    large = functional.interpolate(plane[(None,) * (4 - plane.ndim)], (SIDE, SIDE), mode="bicubic", antialias=True)[0]
    return large.permute(1, 2, 0).squeeze(-1).numpy() if plane.ndim == 2 else large.clamp(0, 1).permute(1, 2, 0).numpy()


def bare(width: int, height: int, dpi: int = 100) -> Figure:
    """A figure of so many pixels, without margins. The higher `dpi`, the wider are lines."""
    return plt.figure(figsize=(width / dpi, height / dpi), dpi=dpi)


def panel(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    ax = figure.add_axes((x, y, width, height))
    ax.axis("off")
    return ax


def examples() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of each product the picture of a part, and its map in units of the threshold, so that one scale fits all."""
    found = {}
    for product, kind in CHOICE.items():
        data = SyntheticFactory(product, n_test=5, n_defect=40)
        detector = PatchCore().fit(data.train, validation=data.validation)
        sample = next(s for s in data.test if s.kind == kind)
        (anomaly_map,) = detector.predict([sample]).maps
        edge = conformal_threshold(detector.normal_peaks, 0.05)
        found[product] = sharp(sample.image), sharp(torch.as_tensor(anomaly_map / edge))
    return found


def draw(ax: Axes, part: np.ndarray, relative: np.ndarray | None = None) -> None:
    if relative is None:
        ax.imshow(part)
    else:
        plots.draw_overlay(ax, part, relative, Normalize(0.4, 1.6), 1.0)


def draw_examples(found: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for product, (part, relative) in found.items():
        for name, shown in ((product, None), (f"{product}-marked", relative)):
            figure = bare(SIDE, SIDE, dpi=180)
            draw(panel(figure, 0, 0, 1, 1), part, shown)
            figure.savefig(STATIC / f"example-{name}.jpg", pil_kwargs={"quality": 68, "optimize": True})
            plt.close(figure)


def draw_logo(ax: Axes) -> None:
    """As brand/logo.svg: eight parts alike, and one that is not."""
    ax.set(xlim=(0, 16), ylim=(0, 16))
    for row, column in np.ndindex(3, 3):
        x, y = 6 * column, 6 * row
        odd = (row, column) == (1, 2)
        ax.add_patch(Circle((x + 2, y + 2), 2, color=ODD) if odd else Rectangle((x, y), 4, 4, fc=CELL, ec="none"))


def draw_icon() -> None:
    """For browsers that show no SVG beside a page's name."""
    figure = bare(32, 32)
    draw_logo(panel(figure, 0, 0, 1, 1))
    figure.savefig(STATIC / "brand" / "icon.png", transparent=True)


def draw_preview(found: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """The size that most sites ask for: 1200 x 630."""
    width, height, side = 1200, 630, 236
    figure = bare(width, height)
    figure.text(0.04, 0.71, "Finding defects\nfrom good parts", fontsize=38, fontweight="bold", color=INK, va="top")
    figure.text(0.04, 0.44, "A course and a small library:\nPatchCore, SPD, SimpleNet,\nEfficientAD, derived and run",
                fontsize=19, color=INK, va="top", linespacing=1.4)
    draw_logo(panel(figure, 0.04, 0.76, 0.16 * height / width, 0.16))
    for i, (part, relative) in enumerate(list(found.values())[1:]):
        for j, shown in enumerate((None, relative)):
            x, y = 664 + i * (side + 24), 67 + (1 - j) * (side + 24)
            draw(panel(figure, x / width, y / height, side / width, side / height), part, shown)
    figure.savefig(STATIC / "preview.jpg", pil_kwargs={"quality": 80, "optimize": True})


def rows() -> list[tuple[str, list[Sample]]]:
    found = []
    for product in PRODUCTS:
        data = SyntheticFactory(product)
        types = {", structural": data.structural, ", logical": data.logical} if data.logical else {"": data.structural}
        for i, (name, kinds) in enumerate(types.items()):
            first = [next(s for s in data.test if s.kind == kind) for kind in kinds]
            found.append((product + name, [*data.train[2 * i : 2 * i + 2], *first][:COLUMNS]))
    return found


def mark(ax: Axes, sample: Sample) -> None:
    if sample.logical:
        for region in sample.regions:
            ax.contour(region.mask.numpy().astype(float), [0.5], colors=MARK, linewidths=1.2)
        return
    place = np.argwhere(sample.mask.numpy())[:, ::-1]  # x and y
    low, high = np.maximum(place.min(0) - 6, 1), np.minimum(place.max(0) + 6, sample.mask.shape[0] - 2)
    ax.add_patch(FancyBboxPatch(low, *(high - low), boxstyle="round,pad=0,rounding_size=8", fill=False, ec=MARK,
                                lw=1.4))


def draw_factory() -> None:
    table = rows()
    figure, axes = plt.subplots(len(table), COLUMNS, figsize=(COLUMNS * PANEL, len(table) * PANEL * 1.13),
                                layout="constrained", squeeze=False)
    for line, (name, samples) in zip(axes, table, strict=True):
        for ax in line:
            ax.axis("off")
        for ax, sample in zip(line, samples, strict=False):
            ax.imshow(sample.image.permute(1, 2, 0).numpy(), interpolation="lanczos")
            if sample.label:
                mark(ax, sample)
            ax.set_title(sample.kind.replace("_", " "), fontsize=10, color=INK, pad=3)
        line[0].text(-0.06, 0.5, name, fontsize=11, fontweight="bold", color=INK, rotation=90, ha="right", va="center",
                     transform=line[0].transAxes)
    figure.savefig(STATIC / "factory.jpg", dpi=110, pil_kwargs={"quality": 84, "optimize": True})


if __name__ == "__main__":
    parts = examples()
    draw_examples(parts)
    draw_preview(parts)
    draw_icon()
    draw_factory()
