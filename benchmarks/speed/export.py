"""Time the ONNX file of each detector in onnxruntime beside torch, on the same pictures, and write the figures as JSON.

    python -m benchmarks.speed.export [--small]

Both get a uint8 picture (H, W, 3) in memory and give score and map at its own size: torch by the steps of `predict`,
resizing included, without files, threads or the reading contract; onnxruntime by the whole graph; a picture at a time.
The banks are greedy coresets, as `fit` makes them. Where anomalib is installed (2.7.0; in an environment of its own),
its own export of its own PatchCore runs beside ours in onnxruntime: the same ResNet-18, the same bank. Its file takes
224×224 pixels as float32, so reading and resizing are in our time and not in its. Its 3×3 mean is told to leave out the
zeros from outside the picture, so that the scores can be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata, util
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
    data, results = SyntheticFactory("washer", n_train=10 if small else 206, seed=SEED), []
    bank = 700 if small else 16_000
    detectors: dict[str, Detector] = {
        "PatchCore": PatchCore(image_size=224, device="cpu", seed=SEED),
        "PatchCore, ResNet-18": PatchCore("resnet18", pretrained=False, image_size=224, device="cpu", seed=SEED),
        "SimpleNet": SimpleNet(image_size=224, epochs=1, device="cpu", seed=SEED),
        "EfficientAD": EfficientAD(image_size=128, steps=4, device="cpu", seed=SEED),
    }
    for name, detector in detectors.items():
        detector.fit(list(data.train)[: None if name.startswith("PatchCore") else 20]).eval()
        if isinstance(detector, PatchCore):
            detector.memory_bank = detector.memory_bank[:bank].clone()
        path = scratch / f"{name}.onnx"
        export_onnx(detector, path, check=list(data.test)[:2])
        session = open_session(path)
        for height, width in ((256, 256), (480, 512)) if small else ((256, 256), (600, 512), (1500, 1600)):
            sample = resize_image(list(data.test)[0].image, (height, width))
            picture = (sample * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            forms = {"adlib": lambda p=picture: in_torch(detector, p),  # noqa: B023
                     "onnxruntime": lambda p=picture: in_onnxruntime(session, p)}  # fmt: skip  # noqa: B023
            if "ResNet" in name and height == 256 and util.find_spec("anomalib"):
                forms["anomalib"] = in_anomalib(detector, resize_image(sample, (224, 224)), scratch)  # pyrefly: ignore
            timing = alternate(forms, 5 if small else 15)
            ours, theirs = in_torch(detector, picture), in_onnxruntime(session, picture)
            result = {"method": name, "picture": [height, width], "image_size": list(detector.image_size),
                      "bank": len(detector.memory_bank) if isinstance(detector, PatchCore) else None, "timing": timing,
                      "ratio": timing["onnxruntime"]["seconds"] / timing["adlib"]["seconds"],
                      "relative_difference_of_scores": float(abs(ours[0] / theirs[0] - 1).max())}  # fmt: skip
            if "anomalib" in forms:
                result["anomalib_ratio"] = timing["anomalib"]["seconds"] / timing["onnxruntime"]["seconds"]
                result["anomalib_score"] = [float(theirs[0][0]), float(np.ravel(forms["anomalib"]()[0])[0])]
            results.append(result)
            print(f"{name} {height}×{width}:", *(f"{form} {t['seconds'] * 1e3:.1f} ms," for form, t in timing.items()),
                  f"ratio {result['ratio']:.2f}", result.get("anomalib_score", ""), flush=True)
    return {"data": " ".join((export.__doc__ or "").split()), "onnxruntime": onnxruntime.__version__,
            "anomalib": metadata.version("anomalib") if util.find_spec("anomalib") else None, "results": results}


def open_session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def in_anomalib(detector: PatchCore, image: torch.Tensor, folder: Path) -> Callable[[], Any]:
    """anomalib's own exported PatchCore with our weights and our bank, on an image (3, 224, 224)."""
    from anomalib.models import Patchcore  # pyrefly: ignore[missing-import]

    prepare = Patchcore.configure_pre_processor(image_size=(224, 224))
    model = Patchcore("resnet18", ("layer2", "layer3"), pre_trained=False, num_neighbors=9, pre_processor=prepare)
    ours, theirs = detector.features.backbone.state_dict(), model.model.feature_extractor.state_dict()
    for key in theirs:  # the same names behind different prefixes
        same = [k for k in ours if f".{key}".endswith(f".{k}") or f".{k}".endswith(f".{key}")]
        theirs[key] = ours[max(same, key=len)]
    model.model.feature_extractor.load_state_dict(theirs)
    model.model.memory_bank = detector.memory_bank
    # The one change: without the zeros from outside, as ours, so that the scores agree.
    model.model.feature_pooler = torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    session = open_session(model.to_onnx(folder, input_size=(224, 224), dynamic_shapes=None, opset_version=18))
    feed = {session.get_inputs()[0].name: image[None].numpy()}
    return lambda: session.run(None, feed)


if __name__ == "__main__":
    run(__doc__, export)
