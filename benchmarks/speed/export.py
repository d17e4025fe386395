"""Time the ONNX file of each detector in onnxruntime beside torch, on the same pictures, and write the figures as JSON.

    python -m benchmarks.speed.export [--small]

Both get a uint8 picture (H, W, 3) in memory and give score and map at its own size: torch by the steps of `predict`,
resizing included, without files, threads or the reading contract; onnxruntime by the whole graph; a picture at a time.
"""

from __future__ import annotations

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
from adlib.prediction import AnomalyMaps
from benchmarks.speed.timing import SEED, alternate, run


def in_torch(detector: Detector, picture: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Score and map of one picture, as `predict` computes them."""
    image = torch.from_numpy(picture).permute(2, 0, 1).contiguous().float().div_(255)
    with torch.inference_mode():
        scores, grids = detector.patch_scores(resize_image(image, detector.image_size)[None])
        return scores, AnomalyMaps(grids, detector.image_size, detector.smoothing, [picture.shape[:2]])[0]


def in_onnxruntime(session: Any, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, maps = session.run(["scores", "maps"], {"images": picture[None]})
    return scores, maps[0]


def export(small: bool, scratch: Path) -> dict[str, Any]:
    """Washers of the factory, 256×256, 600×512 and 1,500×1,600 pixels; PatchCore with a bank of 16,000."""
    data, results = SyntheticFactory("washer", n_train=30 if small else 230, seed=SEED), []
    bank = 1_000 if small else 16_000
    detectors: dict[str, Detector] = {
        "PatchCore": PatchCore(image_size=224, coreset_ratio=1, device="cpu", seed=SEED),
        "SimpleNet": SimpleNet(image_size=224, epochs=1, device="cpu", seed=SEED),
        "EfficientAD": EfficientAD(image_size=128, steps=4, device="cpu", seed=SEED),
    }
    for name, detector in detectors.items():
        images = list(data.train)[: 2 + bank // 784] if name == "PatchCore" else list(data.train)[:20]
        detector.fit(images).eval()
        if isinstance(detector, PatchCore):
            detector.memory_bank = detector.memory_bank[:bank].clone()
        path = scratch / f"{name}.onnx"
        export_onnx(detector, path, check=list(data.test)[:2])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for height, width in ((256, 256), (480, 512)) if small else ((256, 256), (600, 512), (1500, 1600)):
            sample = resize_image(list(data.test)[0].image, (height, width))
            picture = (sample * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            timing = alternate({"adlib": lambda p=picture: in_torch(detector, p),  # noqa: B023
                                "onnxruntime": lambda p=picture: in_onnxruntime(session, p)},  # noqa: B023
                               5 if small else 15)  # fmt: skip
            ours, theirs = in_torch(detector, picture), in_onnxruntime(session, picture)
            ratio = timing["onnxruntime"]["seconds"] / timing["adlib"]["seconds"]
            results.append({"method": name, "picture": [height, width], "image_size": list(detector.image_size),
                            "bank": len(detector.memory_bank) if isinstance(detector, PatchCore) else None,
                            "timing": timing, "ratio": ratio,
                            "relative_difference_of_scores": float(abs(ours[0] / theirs[0] - 1).max())})  # fmt: skip
            print(f"{name} {height}×{width}: torch {timing['adlib']['seconds'] * 1e3:.1f} ms, onnxruntime "
                  f"{timing['onnxruntime']['seconds'] * 1e3:.1f} ms, ratio {ratio:.2f}", flush=True)
    return {"data": " ".join((export.__doc__ or "").split()), "onnxruntime": onnxruntime.__version__,
            "results": results}


if __name__ == "__main__":
    run(__doc__, export)
