"""Draw the picture of the README and the book's front page: book/_static/example.jpg.

    python recipes/draw_example.py

PatchCore with its defaults on each product of the factory: the first test image of one kind of defect, or a good one.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.colors import Normalize

from adlib import PatchCore, plots
from adlib.datasets import SyntheticFactory
from adlib.threshold import conformal_threshold

CHOICE = {"fabric": ("stain", "good"), "washer": ("scratch", "good"), "board": ("missing_part",), "kit": ("bent_bolt",)}


def main() -> None:
    figure, axes = plt.subplots(2, 6, figsize=(10, 3.9), layout="constrained")
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
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0, 0].set_ylabel("image", fontsize=11)
    axes[1, 0].set_ylabel("what adlib marks", fontsize=11)
    path = Path(__file__).parent.parent / "book" / "_static" / "example.jpg"
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
