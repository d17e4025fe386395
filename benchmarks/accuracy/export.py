"""Does the ONNX file of a detector give its scores? 200 pictures, three detectors, three sizes of image.

    python -m benchmarks.accuracy.export

Washers of the factory: 60 good ones to fit and 40 held out, the first 200 pictures of the test set, good and defective.
The detectors have their default settings, but SimpleNet learns for 2 epochs and EfficientAD for 60 steps: what counts
here is not how well they detect. Each picture is resized to three sizes and rounded to uint8, and both
forms get the same bytes, the file by onnxruntime, eight at a time.

"scores" and "maps" are the largest difference over all pictures, and that as a share of the largest score or map value;
"p_values" counts the pictures whose p-value differs, and "decisions" those on the other side of the threshold for 0.05.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from adlib import EfficientAD, PatchCore, SimpleNet
from adlib.datasets import SyntheticFactory
from adlib.detector import Detector
from adlib.export import export_onnx
from adlib.images import resize_image
from benchmarks import common

PROTOCOL = ("washers of the factory, 60 good ones to fit, 40 held out; defaults, but SimpleNet with 2 epochs and "
            "EfficientAD with 60 steps; both forms get the same bytes")
SIZES, BATCH, PICTURES, ALPHA, SEED = ((256, 256), (333, 300), (131, 140)), 8, 200, 0.05, 0


def compare(detector: Detector, session: Any, pictures: list[np.ndarray]) -> dict[str, Any]:
    """The largest differences of one detector on pictures of one size."""
    difference, largest = {"scores": 0.0, "maps": 0.0}, {"scores": 0.0, "maps": 0.0}
    p_values = decisions = 0
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        ours = detector.predict(batch, color="rgb")
        scores, maps, p = session.run(["scores", "maps", "p_values"], {"images": np.stack(batch)})
        for name, a, b in (("scores", ours.scores, scores), ("maps", np.stack(list(ours.maps)), maps)):
            difference[name] = max(difference[name], float(np.abs(a - b).max()))
            largest[name] = max(largest[name], float(np.abs(a).max()))
        p_values += int((np.abs(ours.p_values - p) > 1e-6).sum())
        decisions += int(((ours.p_values <= ALPHA) != (p <= np.float32(ALPHA + 1e-6))).sum())
    return {**{name: {"difference": difference[name], "share": difference[name] / largest[name]} for name in largest},
            "p_values": p_values, "decisions": decisions}  # fmt: skip


def main() -> None:
    parser = common.arguments(__doc__ or "", Path(__file__).with_suffix(".json"))
    parser.add_argument("--small", action="store_true", help="a few pictures; the figures mean nothing")
    args = parser.parse_args()
    count, began = (10 if args.small else PICTURES), time.perf_counter()
    data = SyntheticFactory("washer", n_train=100, n_test=100, seed=SEED)
    test = [sample.image for sample in list(data.test)[:count]]
    detectors = [PatchCore(seed=SEED, device="cpu"), SimpleNet(epochs=2, seed=SEED, device="cpu"),
                 EfficientAD(steps=60, seed=SEED, device="cpu")]  # fmt: skip
    results = []
    for detector in detectors:
        detector.fit(list(data.train), validation=0.4)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "detector.onnx"
            export_onnx(detector, path, check=test[:4])
            megabytes = path.stat().st_size / 1e6
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for size in SIZES:
            pictures = [(resize_image(x, size) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for x in test]
            found = compare(detector, session, pictures)
            results.append({"method": type(detector).__name__, "size": list(size), "image_size": detector.image_size,
                            "megabytes": round(megabytes, 2), **found})
            print(results[-1], flush=True)
    common.write(args.out, {
        "name": "export", "command": common.command(small=args.small), "seed": SEED, "protocol": PROTOCOL,
        "pictures": len(test),
        "tolerance": 1e-4, "versions": common.versions() | {"onnxruntime": onnxruntime.__version__},
        "threads": torch.get_num_threads(), "seconds": round(time.perf_counter() - began, 1), "results": results,
    })  # fmt: skip


if __name__ == "__main__":
    main()
