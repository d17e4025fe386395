"""Draw two pictures of the book into book/_static/.

    python recipes/draw_pictures.py

example.jpg, of the README and the front page: PatchCore with its defaults on each product of the factory.
factory.jpg, a contact sheet of the factory: one row per product, two good parts, then six kinds. A structural defect
has a frame around it, since an outline would hide a thin one; the regions of a logical anomaly are outlined.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import FancyBboxPatch

from adlib import PatchCore, plots
from adlib.datasets import Sample, SyntheticFactory
from adlib.factory import PRODUCTS
from adlib.threshold import conformal_threshold

STATIC = Path(__file__).parent.parent / "book" / "_static"
# What the example shows: the first test image of each.
CHOICE = {"fabric": ("stain", "good"), "washer": ("scratch", "good"), "board": ("missing_part",), "kit": ("bent_bolt",)}
COLUMNS, PANEL, INK, MARK = 8, 1.75, "#222222", "#FF2AB0"


def draw_example() -> None:
    figure, axes = plt.subplots(2, 6, figsize=(10, 3.9), layout="constrained", subplot_kw={"xticks": [], "yticks": []})
    column = iter(axes.T)
    for product, kinds in CHOICE.items():
        data = SyntheticFactory(product, n_test=5, n_defect=40)
        detector = PatchCore().fit(data.train, validation=data.validation)
        threshold = conformal_threshold(detector.normal_peaks, 0.05)
        wanted = [next(s for s in data.test if s.kind == kind) for kind in kinds]
        for sample, anomaly_map in zip(wanted, detector.predict(wanted).maps, strict=True):
            above, below = next(column)
            picture = sample.image.permute(1, 2, 0).numpy()
            above.imshow(picture)
            # In units of its product's threshold, so that one scale and one outline fit all products.
            plots.draw_overlay(below, picture, anomaly_map / threshold, Normalize(0.4, 1.6), 1.0)
            above.set_title(f"{product}, {sample.kind.replace('_', ' ')}", fontsize=11)
    axes[0, 0].set_ylabel("image", fontsize=11)
    axes[1, 0].set_ylabel("what adlib marks", fontsize=11)
    figure.savefig(STATIC / "example.jpg", dpi=110, pil_kwargs={"quality": 88})


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
    draw_example()
    draw_factory()
