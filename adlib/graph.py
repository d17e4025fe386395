"""The graph of a fitted detector in ONNX's own language: from stored images to scores, maps and p-values.

torch exports the detector for images that have its size already. What comes before and after is written here, and the
detector stands in between, from `network_batch` to `network_scores`, `network_working` and `network_least`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adlib.detector import Detector
from adlib.prediction import full_size_maps
from adlib.region import FILL

OPSET = 18  # that of GRAPH

GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
inspect (TYPE[batch, HEIGHT, WIDTH, 3] images) => (float[batch] scores, float[batch, HEIGHT, WIDTH] maps MORE)
<float maximum = {MAXIMUM}, float zero = {0}, float one = {1}, float half = {0.5}, float fifteen = {15},
 int64 no = {0}, int64 single = {1}, int64 two = {2}, int64 up_15 = {15}, int64 by_16 = {16},
 int64[2] working_size = {SIZE}, int64 resize = {RESIZE}, float[1, N] normals = {NORMALS}, float parts = {PARTS},
 int64[2] frame_size = {FRAMED}, float grey = {GREY}, int64[2] nothing = {0, 0},
 int64[1] axis_0 = {0}, int64[1] axis_1 = {1}, int64[1] axis_2 = {2}, int64[1] rest = {-1},
 int64[2] axes_12 = {1, 2}, int64[2] axes_23 = {2, 3}, int64[3] column = {-1, 1, 1},
 int64[3] groups_of_16 = {-1, 16, 1}, int64[3] flat = {0, 0, -1}, int64[4] colours = {0, 0, -1, 3}>
{
  size = Shape <start = 1, end = 3> (images)
  FILLED
  READ
  scores = Identity (network_scores)
  DRAWN
  MASKED
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
# A picture of any size becomes one of `sides`, of which `MIDDLE` cuts the middle; and the map goes the way back.
RESIZED = """SIDES
  lines = Reshape (PIXELS, flat)
  AXIS_0
  wide = Reshape (resized_0, colours)
  turned = Transpose <perm = [0, 2, 1, 3]> (wide)
  columns = Reshape (turned, flat)
  AXIS_1
  small = Reshape (resized_1, colours)
  planes = Transpose <perm = [0, 3, 2, 1]> (small)
  scaled = Div (planes, maximum)
  clipped = Clip (scaled, zero, one)
  MIDDLE"""
ENLARGED = """FRAME
  planes_1 = Unsqueeze (framed, axis_1)
  enlarged = Resize <mode = "linear", axes = [2, 3]> (planes_1, , , size)
  drawn = Squeeze (enlarged, axis_1)"""
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
# With tiles, a picture of the one size is continued with its last pixels, as by adlib.reading, and the map cut again.
CONTINUED = """planes = Transpose <perm = [0, 3, 1, 2]> (PIXELS)
  values = Cast <to = 1> (planes)
  scaled = Div (values, maximum)
  clipped = Clip (scaled, zero, one)
  missing = Sub (working_size, size)
  pads = Concat <axis = 0> (nothing, missing)
  network_batch = Pad <mode = "edge"> (clipped, pads, , axes_23)"""
CUT = "drawn = Slice (network_working, nothing, size, axes_12)"
# The region's mask at the picture's size, by the nearest of its rows and columns as in adlib.images.resize_mask, which
# reckons in float32 as well.
NEAREST = """length_of_@ = Gather (size, WHICH)   frame_of_@ = Gather (frame_size, WHICH)
  length_float_@ = Cast <to = 1> (length_of_@)   frame_float_@ = Cast <to = 1> (frame_of_@)
  step_@ = Div (frame_float_@, length_float_@)
  numbers_@ = Range (no, length_of_@, single)
  numbers_float_@ = Cast <to = 1> (numbers_@)   numbers_half_@ = Add (numbers_float_@, half)
  place_@ = Mul (numbers_half_@, step_@)   place_floor_@ = Floor (place_@)
  place_whole_@ = Cast <to = 7> (place_floor_@)   frame_last_@ = Sub (frame_of_@, single)
  nearest_@ = Min (place_whole_@, frame_last_@)"""
FILLED = """NEAREST_0
  NEAREST_1
  rows_of_region = Gather <axis = 0> (region, nearest_0)
  inspected = Gather <axis = 1> (rows_of_region, nearest_1)
  inspected_1 = Unsqueeze (inspected, axis_2)
  given = Cast <to = 1> (images)
  filled = Where (inspected_1, given, grey)"""
MASKED = """outside = Reshape (network_least, column)
  maps = Where (inspected, drawn, outside)"""
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


def make_graph(detector: Detector, about: dict[str, Any], normals: Tensor) -> Any:
    """The whole graph, an onnx.ModelProto.

    Parameters
    ----------
    detector : Detector
        Fitted, on the CPU.
    about : dict
        "method", "type" and "max_value", as `adlib.export.export_onnx` gives them.
    normals : Tensor (n,)
        The scores of the held-out parts.
    """
    from onnx import compose, numpy_helper, parser

    frame, model = parser.parse_model(_text(detector, about, normals)), _network(detector)
    compose.add_prefix(model, "network_", inplace=True)  # its names are its own then
    place = next(i for i, node in enumerate(frame.graph.node) if "network_batch" in node.output) + 1
    nodes = [*frame.graph.node[:place], *model.graph.node, *frame.graph.node[place:]]
    for name, entries in (("node", nodes), ("input", frame.graph.input), ("output", frame.graph.output)):
        model.graph.ClearField(name)
        getattr(model.graph, name).extend(entries)
    used = {name for node in nodes for name in node.input}
    model.graph.initializer.extend(entry for entry in frame.graph.initializer if entry.name in used)
    if (region := detector.reading.region) is not None:
        model.graph.initializer.append(numpy_helper.from_array(region.at(region.size).numpy(), "region"))
    model.graph.name = f"adlib_{about['method']}"
    return model


def _text(detector: Detector, about: dict[str, Any], normals: Tensor) -> str:
    """GRAPH with its words in capitals replaced, also those within what replaces one."""
    reading, values = detector.reading, normals.double().tolist()
    own, region = reading.own_size, reading.region
    words = {
        "TYPE": about["type"], "MAXIMUM": repr(about["max_value"]), "SIZE": _numbers(detector.image_size),
        "RESIZE": str(detector.resize or 1), "NORMALS": _numbers(values or [0.0]),
        "PARTS": str(len(values) + 1), "N": str(len(values) or 1), "MORE": ", float[batch] p_values" if values else "",
        "HEIGHT": str(own[0]) if own else "height", "WIDTH": str(own[1]) if own else "width",
        "FRAMED": _numbers(region.size if region else (1, 1)), "GREY": repr(FILL * about["max_value"]),
        "FILLED": FILLED if region else "", "PIXELS": "filled" if region else "images",
        "NEAREST_0": _of_axis(NEAREST, 0), "NEAREST_1": _of_axis(NEAREST, 1),
        "READ": CONTINUED if own else RESIZED, "DRAWN": CUT if own else ENLARGED,
        "AXIS_0": _of_axis(AXIS, 0).replace("LINES", "lines"), "AXIS_1": _of_axis(AXIS, 1).replace("LINES", "columns"),
        "MASKED": MASKED if region else "maps = Identity (drawn)", "P_VALUES": P_VALUES if values else "",
        **(WHOLE if detector.resize is None else MIDDLE),
    }  # fmt: skip
    word, text = re.compile(rf"\b({'|'.join(words)})\b"), GRAPH
    while word.search(text):
        text = word.sub(lambda found: words[found[0]], text)
    return text


def _of_axis(text: str, axis: int) -> str:
    return text.replace("@", str(axis)).replace("WHICH", ("no", "single")[axis])


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(map(repr, values))


def _network(detector: Detector) -> Any:
    """The detector for images of its own size as an onnx.ModelProto; the batch has any length."""
    if detector.reading.region is not None:  # which cells see it, no graph can find out: each detector keeps them
        with torch.inference_mode():
            detector.patch_scores(torch.zeros(1, 3, *detector.image_size))
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
