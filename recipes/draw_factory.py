"""Draw the contact sheet of the synthetic factory: book/_static/factory.jpg.

    python recipes/draw_factory.py

One row per product: two good parts, then one picture of each of six kinds. A structural defect has a frame around
it, since an outline would hide a thin one; the regions of a logical anomaly are outlined.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from adlib.datasets import Sample, SyntheticFactory
from adlib.factory import PRODUCTS

COLUMNS, PANEL, INK, MARK = 8, 1.75, "#222222", "#FF2AB0"
# Which test image of each kind is shown; where none is named, the first.
CHOICE: dict[tuple[str, str], int] = {}


def rows() -> list[tuple[str, list[Sample]]]:
    found = []
    for product in PRODUCTS:
        data = SyntheticFactory(product)
        by_kind = {kind: [s for s in data.test if s.kind == kind] for kind in data.kinds}
        chosen = {kind: some[CHOICE.get((product, kind), 0)] for kind, some in by_kind.items()}
        types = {"": data.structural} if not data.logical else {
            ", structural": data.structural, ", logical": data.logical}
        for i, (name, kinds) in enumerate(types.items()):
            samples = [*data.train[2 * i : 2 * i + 2], *(chosen[kind] for kind in kinds)]
            found.append((product + name, samples[:COLUMNS]))
    return found


def mark(ax: Axes, sample: Sample) -> None:
    if sample.logical:
        for region in sample.regions:
            ax.contour(region.mask.numpy().astype(float), [0.5], colors=MARK, linewidths=1.2)
        return
    rows, columns = np.nonzero(sample.mask.numpy())
    margin = 6
    low, high = (columns.min() - margin, rows.min() - margin), (columns.max() + margin, rows.max() + margin)
    low, high = np.maximum(low, 1), np.minimum(high, sample.mask.shape[0] - 2)
    ax.add_patch(FancyBboxPatch(low, *(high - low), boxstyle="round,pad=0,rounding_size=8", fill=False, ec=MARK,
                                lw=1.4))


def main() -> None:
    table = rows()
    figure = Figure(figsize=(COLUMNS * PANEL, len(table) * PANEL * 1.13), facecolor="white", layout="constrained")
    axes = figure.subplots(len(table), COLUMNS, squeeze=False)
    for line, (name, samples) in zip(axes, table, strict=True):
        for ax in line:
            ax.axis("off")
        for ax, sample in zip(line, samples, strict=False):
            ax.imshow(sample.image.permute(1, 2, 0).numpy(), interpolation="lanczos")
            title = sample.kind.replace("_", " ")
            if sample.label:
                mark(ax, sample)
            ax.set_title(title, fontsize=10, color=INK, pad=3)
        line[0].text(-0.06, 0.5, name, fontsize=11, fontweight="bold", color=INK, rotation=90, ha="right", va="center",
                     transform=line[0].transAxes)
    path = Path(__file__).parent.parent / "book" / "_static" / "factory.jpg"
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 84, "optimize": True})
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
