"""Draw the picture of the README and the book's front page: book/_static/example.jpg.

    python scripts/draw_example.py

PatchCore with its defaults on each product of the factory: two defects each, and one good part.
"""

from __future__ import annotations

from pathlib import Path

from adlib import PatchCore, plots
from adlib.datasets import SyntheticFactory
from adlib.threshold import conformal_threshold

CHOICE = {"fabric": ("hole", "stain"), "washer": ("scratch", "chip")}


def main() -> None:
    rows = {"images": [], "masks": [], "maps": [], "titles": []}
    for product, kinds in CHOICE.items():
        data = SyntheticFactory(product, n_test=5, n_defect=40)
        detector = PatchCore().fit(data.train, validation=data.validation)
        threshold = conformal_threshold(detector.normal_peaks, 0.05)
        wanted = [next(s for s in data.test if s.kind == kind) for kind in (*kinds, "good")]
        for sample, anomaly_map in zip(wanted, detector.predict(wanted).maps, strict=True):
            rows["images"].append(sample.image)
            rows["masks"].append(sample.mask)
            # In units of its product's threshold, so that one scale and one outline fit both products.
            rows["maps"].append(anomaly_map / threshold)
            rows["titles"].append(f"{product}, {sample.kind}")
    figure = plots.show(**rows, threshold=1.0)
    path = Path(__file__).parent.parent / "book" / "_static" / "example.jpg"
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
