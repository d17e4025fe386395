"""A fitted detector as an ONNX file, for a line without torch: images of any size in; score, p-value and map out.

It needs ``pip install "adlib[export]"``, that is onnx, onnxscript and onnxruntime, and a recent torch.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import adlib
from adlib.checks import MAX_SIDE, number, users_line
from adlib.detector import Detector, readable_bytes
from adlib.files import must_take_file, write_whole
from adlib.graph import make_graph
from adlib.images import ImageError, read_stored
from adlib.parts import by_product
from adlib.reading import FEWER, STRETCH, chunks_of
from adlib.samples import Sample, as_samples
from adlib.threshold import conformal_p_values, conformal_threshold

FORMAT = 2  # of what the file says about itself; 1 had no "frame" and no "own_size"
ALPHAS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # whose thresholds the file names, where they can be promised
LARGEST = 2**31 - 2**20  # bytes; an ONNX file ends at 2 GB
CHECKED = 16  # images read at a time while checking


def export_onnx(
    detector: Detector, path: str | Path, *, check: object, tolerance: float = 1e-4, product: str | None = None
) -> dict[str, Any]:
    """Write a fitted detector as one ONNX file, if that gives the same scores.

    The graph takes `images` (B, H, W, 3), red, green, blue, of any B, H and W, and uint8; uint16 where the detector was
    fitted on 16-bit images alone, and then divides by the maximum of their reading contract (4095 of a 12-bit camera).
    A grey image has three equal channels. The graph resizes the images as `fit` did, cuts with `resize=`, and gives

    - `scores` (B,) and `maps` (B, H, W), float32, as `predict` does, the maps at the images' own size, with `folds=`
      the least of the K scores;
    - `p_values` (B,), float32, where there were held-out parts: equation (2.18). Defective is ``p ≤ α``.

    A region is in it, at a byte a pixel of its frame: outside of it the images are grey, as `fit` made them.

    Of a detector that was fitted with `tiles`, the graph takes the whole picture at once, which gives the same scores
    and maps, **but does not bound the memory** as `predict` does: of 3,000 × 4,000 pixels, the shipped network takes
    1.3 GB in torch, and PatchCore's search another 16 kB for each of the 188,000 cells, 3 GB. It takes pictures of the
    one size that the detector knows, and no other; where the detector was given `image_size`, any size, as without
    tiles. A warning tells of the memory.

    A graph refuses nothing else. What the reading contract asks of an image stands in the file, and the program that
    reads the images has to ask it: recipes/inspect_onnx.py does, in sixty lines, without torch. The metadata entry
    "adlib" is JSON, the value that this function returns.

    All is made of ONNX's usual steps (opset 18), and OpenVINO gives the same numbers.

    Parameters
    ----------
    detector : Detector
        Fitted, or loaded.
    path : path
        The file, such as "parts.onnx"; written whole or not at all.
    check : images
        What `predict` takes, a few dozen pictures: both forms score them, and the file is written only where they
        agree. Pictures of every size that will come are best, and not only those that were learnt from.
    tolerance : float
        The largest difference of a score, or of a value of a map, that is accepted, as a share of the largest score,
        or map value, of the images of `check` and the held-out parts.
    product : str, optional
        Where the detector knows several products: the one whose held-out parts give the p-values. One file for each.

    Returns
    -------
    dict
        What the file says about itself: "format", "method", "adlib", "torch", "image_size", "resize"; how images are to
        be read, "type" and "max_value", "color", "aspects" (the least and greatest height over width), "least_pixels",
        "least_maximum" (of 16-bit images, their largest value), "own_size" (with tiles, the one height and width that
        images have, else None), "frame" (height and width of the region's frame: images h high and w wide are refused
        where ``|frame_h·w − frame_w·h|`` is above ``max(frame_h + frame_w, h + w) / 2``; else None); "held_out" (the
        number of parts), "thresholds" and "pixel_thresholds" for each usual α that they can promise; "checked":
        "images", "tolerance" and the largest differences found, of "scores", "maps" and "p_values", as shares.

    Raises
    ------
    ImportError
        Where onnx, onnxscript or onnxruntime is missing, or torch is too old.
    RuntimeError
        Before `fit`.
    ValueError
        Where the two disagree; the detector's network has a step that ONNX does not have; it was fitted on several
        types of images, or for several products and `product` is none of them; the file would have more than 2 GB; no
        image of `check` can be read.
    FileNotFoundError, IsADirectoryError, OSError
        Where the file cannot be written.
    """
    detector._must_be_fitted()
    path, tolerance = Path(path), float(number("tolerance", tolerance, "(0, 1)"))
    must_take_file(path)
    _need("onnx", "onnxscript", "onnxruntime")
    about, normals = _about(detector, product)
    samples = as_samples(check)
    size = sum(t.numel() * t.element_size() for t in detector.state_dict().values()) + math.prod(about["frame"] or [0])
    if size > LARGEST:
        raise ValueError(f"the detector has {readable_bytes(size)}, an ONNX file at most 2 GB: expected a smaller one; "
                         "fit with a smaller coreset_ratio")
    if detector.device.type != "cpu":
        detector = copy.deepcopy(detector).to("cpu")
        detector.device = torch.device("cpu")
    if getattr(detector, "tiles", None) is not None:
        height, width = detector.image_size
        warnings.warn(f"the detector was fitted with tiles={detector.tiles}, but the file looks at all {height} × "
                      f"{width} pixels at once, and does not bound its memory as predict does: try it on the computer "
                      "of the line", stacklevel=users_line())
    model = make_graph(detector, about, normals)
    about["checked"] = _compare(detector, model.SerializeToString(), samples, about, normals, tolerance)
    model.metadata_props.add(key="adlib", value=json.dumps(about))
    content = model.SerializeToString()
    write_whole(path, [content], len(content))
    return about


def _need(*packages: str) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f'export_onnx needs {package}, which cannot be imported ({error}): run pip install '
                              '"adlib[export]"') from error


# ---------------------------------------------------------------------- what the file says


def _about(detector: Detector, product: str | None) -> tuple[dict[str, Any], Tensor]:
    """What the file says about itself, and the scores of the held-out parts (n,)."""
    reading, (h, w) = detector.reading, detector.image_size
    whole = [kind for kind in reading.maxima if kind not in ("float", "bool")] or ["uint8"]
    if len(whole) > 1 or whole[0] not in ("uint8", "uint16"):
        raise ValueError(f"the detector was fitted on {', '.join(sorted(whole))} images: a graph takes one type, "
                         "expected uint8 or uint16 alone; fit on such images")
    known = by_product(detector.normal_scores, detector.normal_parts)
    if (product is not None or known and None not in known) and product not in known:
        have = ", ".join(repr(name) for name in known if name is not None) or "none"
        raise ValueError(f"product = {product!r}: the detector knows {have}, and a file has the p-values of one, "
                         "expected its name (none where there is none); export one file for each")
    normals = known.get(product, torch.empty(0)).cpu()
    peaks = by_product(detector.normal_peaks, detector.normal_parts).get(product, torch.empty(0)).cpu()
    promised = [alpha for alpha in ALPHAS if alpha * (len(normals) + 1) >= 1 - 1e-9]
    low, high = reading.aspects
    about = {
        "format": FORMAT, "method": type(detector).__name__, "adlib": adlib.__version__,
        "torch": str(torch.__version__), "product": product, "image_size": [h, w], "resize": detector.resize,
        "type": whole[0], "max_value": reading.maxima.get(whole[0], 255.0), "color": "rgb",
        "aspects": [low / STRETCH, min(high * STRETCH, MAX_SIDE)], "least_pixels": min(reading.pixels / 4, h * w),
        "least_maximum": reading.reach / FEWER if whole[0] == "uint16" else 0.0,
        "own_size": list(reading.own_size) if reading.own_size else None,
        "frame": list(reading.region.size) if reading.region else None,
        "held_out": len(normals), "thresholds": {str(a): conformal_threshold(normals, a) for a in promised},
        "pixel_thresholds": {str(a): conformal_threshold(peaks, a) for a in promised},
    }  # fmt: skip
    return about, normals


# ---------------------------------------------------------------------- the check


def _compare(
    detector: Detector, content: bytes, samples: Sequence[Sample], about: dict[str, Any], normals: Tensor,
    tolerance: float,
) -> dict[str, Any]:  # fmt: skip
    """Let both score the samples: the largest differences as shares, or a ValueError where one is too large."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    failures: list[str] = []
    count, differ = 0, {"scores": 0.0, "maps": 0.0, "p_values": 0.0}
    largest = {"scores": _largest(detector.normal_scores), "maps": _largest(detector.normal_peaks), "p_values": 1.0}
    for some in chunks_of(samples, CHECKED):
        arrays = [s for sample in some if (s := _as_camera(sample, detector, about, failures))]
        if not arrays:
            continue
        ours = detector.predict(arrays)
        failures += ours.failures.values()
        count += len(ours.samples)
        places = sorted(range(len(ours.samples)), key=lambda i: _array(ours.samples[i]).shape)
        for _, same in groupby(places, key=lambda i: _array(ours.samples[i]).shape):
            rows = list(same)
            theirs = _run(session, np.stack([_array(ours.samples[i]) for i in rows]))
            pairs = {"scores": (ours.scores[rows], theirs["scores"]),
                     "maps": (np.stack([ours.maps[i] for i in rows]), theirs["maps"])}
            if len(normals):  # those of its own scores: a rounding may carry one past a held-out score
                pairs["p_values"] = conformal_p_values(theirs["scores"], normals), theirs["p_values"]
            for name, (a, b) in pairs.items():
                differ[name] = float(np.maximum(differ[name], np.abs(a - b).max()))  # NaN stays
                largest[name] = max(largest[name], float(np.abs(a).max()))
    if not count:
        raise ValueError(f"check: none of its {len(samples)} images could be used, expected at least one as the "
                         f"training images were: {failures[:3]}")
    shares = {name: differ[name] / largest[name] if largest[name] else differ[name] for name in differ}
    if wrong := [name for name, share in shares.items() if not share <= tolerance]:
        raise ValueError(f"the {wrong[0]} of onnxruntime differ by up to {shares[wrong[0]]:.2g} of the largest from "
                         f"those of the detector, expected at most tolerance = {tolerance:g}; nothing was written. "
                         "Check on pictures that were not learnt from, or allow more")
    return {"images": count, "tolerance": tolerance, **shares}


def _run(session: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of a session by their names."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if len(values) else 0.0


def _as_camera(
    sample: Sample, detector: Detector, about: dict[str, Any], failures: list[str]
) -> Sample | None:
    """The sample as an array (H, W, 3) of the graph's type; None, and a reason in `failures`, where it has none."""
    try:
        if callable(sample.image_source):
            image = sample.image
        else:
            image = read_stored(sample.image_source, name=sample.path, max_value=sample.max_value,
                                maxima=detector.reading.maxima, color=sample.color or detector.reading.color).image
    except ImageError as error:
        failures.append(str(error))
        return None
    values = (image.permute(1, 2, 0) * about["max_value"]).round().to(torch.int32).numpy()
    product = sample.product if about["product"] is None else about["product"]
    return Sample(None, "unlabelled", sample.path, image_source=values.astype(about["type"]), color="rgb",
                  product=product)


def _array(sample: Sample) -> np.ndarray:
    return np.asarray(sample.image_source)
