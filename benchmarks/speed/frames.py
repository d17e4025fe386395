"""Time `predict_frame` on one camera frame beside the detector's own pass over the prepared picture.

    python -m benchmarks.speed.frames [--small]

What lies between both is reading the frame, the contract's checks and the answer. `ratio` is the time of predict_frame
over that of the pass (network and score together); `read` is the reading alone, `map` predict_frame with its map. Large
frames have to be resized, and nobody can leave that out: `plain` is the pass after four lines of torch that turn the
frame's bytes into the same batch, without any check, and `ratio_to_plain` that of predict_frame over it.

`first` are the first five calls in a new process that has just loaded the detector from its file.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adlib import Detector, EfficientAD, PatchCore, SimpleNet
from adlib.datasets import SyntheticFactory
from adlib.images import resize_image
from adlib.samples import Sample
from benchmarks.speed.timing import SEED, alternate, run, seconds

SIZES = ((256, 256), (512, 512), (1024, 1024))


def as_frame(picture: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """The picture (3, H, W) as a camera of this size gives it: (H, W, 3), 8 bits, blue first."""
    bgr = resize_image(picture, size).mul(255).round().to(torch.uint8)[[2, 1, 0]]
    return bgr.permute(1, 2, 0).contiguous().numpy()


def first_calls(path: str, frame: np.ndarray) -> list[float]:
    detector = Detector.load(path, device="cpu")
    return [round(seconds(lambda: detector.predict_frame(frame, color="bgr")), 5) for _ in range(5)]


def frames(small: bool, scratch: Path) -> dict[str, Any]:
    """The factory's washer, PatchCore and the others with their defaults but a short training; uint8 frames, BGR."""
    data = SyntheticFactory("washer", n_train=8 if small else 80, n_validation=4, n_test=2, n_defect=1)
    picture, results = data.test[0].image, []
    detectors = (PatchCore(seed=SEED, device="cpu"), SimpleNet(seed=SEED, device="cpu", epochs=1),
                 EfficientAD(seed=SEED, device="cpu", steps=4))  # fmt: skip
    for detector in detectors:
        detector.fit([s.image for s in data.train], validation=[s.image for s in data.validation])
        path = scratch / f"{type(detector).__name__}.safetensors"
        detector.save(path)
        for size in SIZES[: 1 if small else None]:
            frame = as_frame(picture, size)
            sample = Sample(None, "unlabelled", "frame", image_source=frame, color="bgr")

            def read(sample: Sample = sample, detector: Detector = detector) -> torch.Tensor:
                return detector.reading.look(sample, detector.image_size).image[None]

            batch = read()

            def network(batch: torch.Tensor = batch, detector: Detector = detector) -> None:
                with torch.inference_mode():
                    detector.patch_scores(batch)

            def plain(frame: np.ndarray = frame, detector: Detector = detector) -> None:
                with torch.inference_mode():
                    planes = torch.from_numpy(frame).permute(2, 0, 1)[[2, 1, 0]].float().div_(255)
                    detector.patch_scores(resize_image(planes, detector.image_size)[None])

            timing = alternate({
                "network": network, "plain": plain, "read": read,
                "adlib": lambda f=frame, d=detector: d.predict_frame(f, color="bgr"),
                "map": lambda f=frame, d=detector: d.predict_frame(f, color="bgr").map,
            }, 5 if small else 41)  # fmt: skip
            ratio, to_plain = (timing["adlib"]["seconds"] / timing[name]["seconds"] for name in ("network", "plain"))
            results.append({"detector": type(detector).__name__, "frame": list(size), "ratio": round(ratio, 3),
                            "ratio_to_plain": round(to_plain, 3), "timing": timing})  # fmt: skip
            print(type(detector).__name__, size, {n: f"{t['seconds'] * 1e3:.1f} ms" for n, t in timing.items()},
                  f"ratio {ratio:.3f}, to plain torch {to_plain:.3f}", flush=True)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            first = pool.submit(first_calls, str(path), as_frame(picture, SIZES[0])).result()
        results[-1]["first"] = first  # with frames of the first size
        print(type(detector).__name__, "first calls", first, flush=True)
    return {"data": " ".join((frames.__doc__ or "").split()), "results": results}


if __name__ == "__main__":
    run(__doc__, frames)
