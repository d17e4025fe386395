"""A fitted detector as an ONNX file, for a line without torch: images of any size in; score, p-value and map out.

It needs ``pip install "adlib[export]"``, that is onnx, onnxscript and onnxruntime, and a recent torch.
"""

from __future__ import annotations

import copy
import importlib
import json
import re
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import adlib
from adlib.checks import MAX_SIDE, number
from adlib.detector import Detector, readable_bytes
from adlib.files import must_take_file, write_whole
from adlib.images import ImageError, read_stored
from adlib.parts import by_product
from adlib.prediction import full_size_maps
from adlib.reading import FEWER, STRETCH, chunks_of
from adlib.samples import Sample, as_samples
from adlib.threshold import conformal_p_values, conformal_threshold

FORMAT = 1  # of what the file says about itself
OPSET = 18  # that of GRAPH
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

    A graph refuses nothing. What the reading contract asks of an image stands in the file, and the program that reads
    the images has to ask it: recipes/inspect_onnx.py does, in thirty lines, without torch. The metadata entry "adlib"
    is JSON, the value that this function returns.

    All is made of ONNX's usual steps (opset 18), and OpenVINO gives the same numbers. Tiles and a region are refused.

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
        "least_maximum" (of 16-bit images, their largest value); "held_out" (the number of parts), "thresholds" and
        "pixel_thresholds" for each usual α that they can promise; "checked": "images", "tolerance" and the largest
        differences found, of "scores", "maps" and "p_values", as shares.

    Raises
    ------
    ImportError
        Where onnx, onnxscript or onnxruntime is missing, or torch is too old.
    RuntimeError
        Before `fit`.
    ValueError
        Where the two disagree; the detector has tiles or a region, or its network a step that ONNX does not have; it
        was fitted on several types of images, or for several products and `product` is none of them; the file would
        have more than 2 GB; no image of `check` can be read.
    FileNotFoundError, IsADirectoryError, OSError
        Where the file cannot be written.
    """
    detector._must_be_fitted()
    path, tolerance = Path(path), float(number("tolerance", tolerance, "(0, 1)"))
    must_take_file(path)
    _need("onnx", "onnxscript", "onnxruntime")
    about, normals = _about(detector, product)
    samples = as_samples(check)
    size = sum(t.numel() * t.element_size() for t in detector.state_dict().values())
    if size > LARGEST:
        raise ValueError(f"the detector has {readable_bytes(size)}, an ONNX file at most 2 GB: expected a smaller one; "
                         "fit with a smaller coreset_ratio")
    if detector.device.type != "cpu":
        detector = copy.deepcopy(detector).to("cpu")
        detector.device = torch.device("cpu")
    model = _graph(detector, about, normals)
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
    for name, value in (("tiles", getattr(detector, "tiles", None)), ("region", getattr(reading, "region", None))):
        if value is not None:
            raise ValueError(f"the detector was fitted with {name}=, which a graph does not hold: expected one without "
                             "it; run this one with adlib, or fit one on pictures that are cut beforehand")
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
        "held_out": len(normals), "thresholds": {str(a): conformal_threshold(normals, a) for a in promised},
        "pixel_thresholds": {str(a): conformal_threshold(peaks, a) for a in promised},
    }  # fmt: skip
    return about, normals


# ---------------------------------------------------------------------- the graph

# torch exports the detector for images that have their size; what comes before and after is written here, in ONNX's
# own language, and the detector stands in between, from `network_batch` to `network_scores`, `_working` and `_least`.
GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
inspect (TYPE[batch, height, width, 3] images) => (float[batch] scores, float[batch, height, width] maps MORE)
<float maximum = {MAXIMUM}, float zero = {0}, float one = {1}, float half = {0.5}, float fifteen = {15},
 int64 no = {0}, int64 single = {1}, int64 two = {2}, int64 up_15 = {15}, int64 by_16 = {16},
 int64[2] working_size = {SIZE}, int64 resize = {RESIZE}, float[1, N] normals = {NORMALS}, float parts = {PARTS},
 int64[1] axis_0 = {0}, int64[1] axis_1 = {1}, int64[1] axis_2 = {2}, int64[1] rest = {-1},
 int64[2] axes_12 = {1, 2}, int64[2] axes_23 = {2, 3}, int64[3] column = {-1, 1, 1},
 int64[3] groups_of_16 = {-1, 16, 1}, int64[3] flat = {0, 0, -1}, int64[4] colours = {0, 0, -1, 3}>
{
  size = Shape <start = 1, end = 3> (images)
  SIDES
  lines = Reshape (images, flat)
  AXIS_0
  wide = Reshape (resized_0, colours)
  turned = Transpose <perm = [0, 2, 1, 3]> (wide)
  columns = Reshape (turned, flat)
  AXIS_1
  small = Reshape (resized_1, colours)
  planes = Transpose <perm = [0, 3, 2, 1]> (small)
  scaled = Div (planes, maximum)
  clipped = Clip (scaled, zero, one)
  MIDDLE
  scores = Identity (network_scores)
  FRAME
  planes_1 = Unsqueeze (framed, axis_1)
  enlarged = Resize <mode = "linear", axes = [2, 3]> (planes_1, , , size)
  maps = Squeeze (enlarged, axis_1)
  P_VALUES
}
"""
# One axis of adlib.images.resize_image: LINES (B, n, C) to resized (B, m, C). Row i of the result is the mean of the n
# lines with the weights max(0, 1 − |j + ½ − (i + ½)·n/m| / max(n/m, 1)), as in torch. ONNX's own Resize can do it, but
# its antialias is not the same everywhere: onnxruntime needs exclude_outside for it, OpenVINO passes over it without a
# word. Sixteen rows share the lines that they need, so this is a product of small matrices.
AXIS = """n_@ = Gather (size, WHICH)   m_@ = Gather (sides, WHICH)
  n_float_@ = Cast <to = 1> (n_@)   m_float_@ = Cast <to = 1> (m_@)
  scale_@ = Div (n_float_@, m_float_@)   reach_@ = Max (scale_@, one)
  m_15_@ = Add (m_@, up_15)
  groups_@ = Div (m_15_@, by_16)   count_@ = Mul (groups_@, by_16)
  all_rows_@ = Range (no, count_@, single)
  last_row_@ = Sub (m_@, single)   rows_@ = Min (all_rows_@, last_row_@)
  rows_float_@ = Cast <to = 1> (rows_@)   rows_half_@ = Add (rows_float_@, half)
  centre_@ = Mul (rows_half_@, scale_@)
  centres_@ = Reshape (centre_@, groups_of_16)
  top_@ = Slice (centres_@, axis_0, axis_1, axis_1)   low_@ = Sub (top_@, reach_@)
  low_floor_@ = Floor (low_@)   low_whole_@ = Cast <to = 7> (low_floor_@)
  between_@ = Mul (scale_@, fifteen)   around_@ = Add (reach_@, reach_@)
  span_@ = Add (between_@, around_@)   span_up_@ = Ceil (span_@)
  span_whole_@ = Cast <to = 7> (span_up_@)   span_more_@ = Add (span_whole_@, two)
  length_@ = Min (span_more_@, n_@)   latest_@ = Sub (n_@, length_@)
  inside_@ = Max (low_whole_@, no)   start_@ = Min (inside_@, latest_@)
  steps_@ = Range (no, length_@, single)   taps_@ = Add (start_@, steps_@)
  taps_float_@ = Cast <to = 1> (taps_@)   taps_half_@ = Add (taps_float_@, half)
  off_@ = Sub (taps_half_@, centres_@)   away_@ = Abs (off_@)
  share_@ = Div (away_@, reach_@)   left_@ = Sub (one, share_@)
  weight_@ = Relu (left_@)   total_@ = ReduceSum <keepdims = 1> (weight_@, axis_2)
  weights_@ = Div (weight_@, total_@)
  which_@ = Squeeze (taps_@, axis_1)   band_@ = Gather <axis = 1> (LINES, which_@)
  band_float_@ = Cast <to = 1> (band_@)   means_@ = MatMul (weights_@, band_float_@)
  width_@ = Shape <start = 3> (means_@)   shape_@ = Concat <axis = 0> (axis_0, rest, width_@)
  joined_@ = Reshape (means_@, shape_@)   end_@ = Unsqueeze (m_@, axis_0)
  resized_@ = Slice (joined_@, axis_0, end_@, axis_1)"""
WHOLE = {"SIDES": "sides = Identity (working_size)", "MIDDLE": "network_batch = Identity (clipped)",
         "FRAME": "framed = Identity (network_working)"}  # fmt: skip
# As adlib.images.resized_sides and top_left, which rounds a half to the even number; and as AnomalyMaps.
MIDDLE = {
    "SIDES": """shorter = ReduceMin (size)
  multiplied = Mul (size, resize)
  sides = Div (multiplied, shorter)""",
    "MIDDLE": """over = Sub (sides, working_size)
  over_half = Div (over, two)
  odd = Mod (over, two)
  odd_half = Mod (over_half, two)
  up = Mul (odd, odd_half)
  first = Add (over_half, up)
  last = Add (first, working_size)
  end = Sub (sides, last)
  network_batch = Slice (clipped, first, last, axes_23)""",
    "FRAME": """lowest = Reshape (network_least, column)
  above = Sub (network_working, lowest)
  pads = Concat <axis = 0> (first, end)
  padded = Pad (above, pads, zero, axes_12)
  framed = Add (padded, lowest)""",
}
P_VALUES = """each = Unsqueeze (network_scores, axis_1)
  as_high = GreaterOrEqual (normals, each)
  ones = Cast <to = 1> (as_high)
  count = ReduceSum <keepdims = 0> (ones, axis_1)
  more = Add (count, one)
  p_values = Div (more, parts)"""


class _Working(nn.Module):
    """A detector for images of its own size: scores (B,), maps (B, h, w), and the least patch score of each (B,)."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores, grids = self.detector.patch_scores(batch)
        maps = full_size_maps(grids, self.detector.image_size, self.detector.smoothing)
        return scores, maps, grids.amin((1, 2))


def _graph(detector: Detector, about: dict[str, Any], normals: Tensor) -> Any:
    """The whole graph, an onnx.ModelProto."""
    from onnx import compose, parser

    values = normals.double().tolist()
    words = {
        "TYPE": about["type"], "MAXIMUM": repr(about["max_value"]), "SIZE": ", ".join(map(str, detector.image_size)),
        "RESIZE": str(detector.resize or 1), "NORMALS": ", ".join(map(repr, values or [0.0])),
        "PARTS": str(len(values) + 1), "N": str(len(values) or 1), "MORE": ", float[batch] p_values" if values else "",
        "AXIS_0": AXIS.replace("@", "0").replace("WHICH", "no").replace("LINES", "lines"),
        "AXIS_1": AXIS.replace("@", "1").replace("WHICH", "single").replace("LINES", "columns"),
        "P_VALUES": P_VALUES if values else "", **(WHOLE if detector.resize is None else MIDDLE),
    }  # fmt: skip
    text = re.sub(rf"\b({'|'.join(words)})\b", lambda found: words[found[0]], GRAPH)
    frame, model = parser.parse_model(text), _network(detector)
    compose.add_prefix(model, "network_", inplace=True)  # its names are its own then
    place = next(i for i, node in enumerate(frame.graph.node) if "network_batch" in node.output) + 1
    nodes = [*frame.graph.node[:place], *model.graph.node, *frame.graph.node[place:]]
    for name, entries in (("node", nodes), ("input", frame.graph.input), ("output", frame.graph.output)):
        model.graph.ClearField(name)
        getattr(model.graph, name).extend(entries)
    used = {name for node in nodes for name in node.input}
    model.graph.initializer.extend(entry for entry in frame.graph.initializer if entry.name in used)
    model.graph.name = f"adlib_{about['method']}"
    return model


def _network(detector: Detector) -> Any:
    """The detector for images of its own size as an onnx.ModelProto; the batch has any length."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter speaks of its own parts
        try:
            program = torch.export.export(_Working(detector).eval(), (torch.zeros(2, 3, *detector.image_size),),
                                          dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
            written: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, opset_version=OPSET, input_names=["batch"],
                output_names=["scores", "working", "least"])  # fmt: skip
        except Exception as error:  # of many kinds: a step of a module of one's own may be anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{type(detector).__name__} cannot be written as ONNX ({reason}): expected steps that "
                             "torch.onnx.export knows, and that do not depend on the batch's values; a backbone of "
                             "your own has to be changed") from error
    return written.model_proto


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
