"""One self-contained HTML file that says what a detector found: worst first, and what was not inspected."""

from __future__ import annotations

import base64
import dataclasses
import math
import platform
from collections.abc import Mapping
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import adlib
from adlib.files import must_take_file, write_whole
from adlib.folders import some_names
from adlib.images import ImageError
from adlib.prediction import Prediction
from adlib.threshold import cross_conformal_bound, stand_apart

LONGEST = 360  # pixels of the longer side of a picture in the report
LINE, HALO = (255, 80, 0), (255, 255, 255)  # of an outline
BINS = 40
ROWS = 5_000  # lines of a table


def write_report(
    path: str | Path, detector: Any, prediction: Prediction, *, alpha: float = 0.05, title: str = "Inspection report",
    most: int = 60,
) -> None:  # fmt: skip
    """Write what a prediction says as one HTML file that needs nothing else: no network, no script.

    Worst first, each with the places above the pixel threshold outlined; a histogram of the scores with the threshold;
    the held-out pictures with the largest scores, where the detector still has them; what was not inspected and why;
    settings and versions. Pictures are read again, small, as the detector reads them. The file is written whole or not
    at all.

    Parameters
    ----------
    path : path
        Of the file.
    detector : Detector
        Fitted with held-out parts, of one product.
    prediction : Prediction
        What it said.
    alpha : float
        The rate of false alarms, as for `Detector.threshold`.
    title : str
        The heading.
    most : int
        So many pictures are drawn. The report says how many are not; the table has their answers all the same.

    Raises
    ------
    ValueError
        Where the held-out parts are too few for `alpha`, or none, or of several products.
    FileNotFoundError, IsADirectoryError, OSError
        Where the file cannot be written.
    """
    path = Path(path)
    must_take_file(path)
    limit, pixel_limit = (one_threshold(t) for t in (detector.threshold(alpha), detector.pixel_threshold(alpha)))
    defective = prediction.defective(limit)
    order = np.argsort(-prediction.scores, kind="stable")
    rows = [_row(prediction, i, bool(defective[i])) for i in order.tolist()]
    for row, i in zip(rows[:most], order.tolist(), strict=False):
        row["picture"], row["places"] = _picture(detector, prediction, i, pixel_limit)
    template = Environment(
        loader=PackageLoader("adlib", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.jinja")  # fmt: skip
    html = template.render(
        title=title, made=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"), rows=rows[:ROWS], drawn=rows[:most],
        total=len(rows) + len(prediction.failures), good=int((~defective).sum()), defective=int(defective.sum()),
        more_rows=max(0, len(rows) - ROWS), failures=list(prediction.failures.items())[:ROWS],
        failed=len(prediction.failures), skipped=[str(p) for p in prediction.skipped],
        parts=_parts(prediction, defective), threshold=limit, promise=promise(detector, alpha),
        odd=odd_held_out(detector, alpha),
        held_out_parts=len(detector.normal_scores),
        chart=histogram(detector.normal_scores.double().numpy(), prediction.scores.astype(float), limit),
        held_out=_held_out(detector, pixel_limit), settings=settings(detector, alpha, limit),
    )
    content = html.encode(errors="backslashreplace")  # a file's name need not be Unicode
    write_whole(path, [content], len(content))


def promise(detector: Any, alpha: float) -> str:
    """What the threshold for α promises, in words for someone who knows no statistics."""
    rate, count = alpha, len(detector.normal_scores)
    if detector.folds:
        rate = cross_conformal_bound(alpha, count, len(detector.folds))
    about = "about " if detector.CALIBRATES else ""
    return (f"{count} held-out good parts promise: of new good parts, on average {about}at most {percent(rate)} are "
            "called defective")


def odd_held_out(detector: Any, alpha: float) -> str | None:
    """What to look at, where held-out parts that stand apart from the others set the threshold for α; else None."""
    scores = detector.normal_scores.tolist()
    count, threshold = stand_apart(scores), one_threshold(detector.threshold(alpha))
    if not count or threshold < scores[-count]:
        return None
    names = [name for name, _ in detector.normal_parts][::-1]
    one, them = count == 1, some_names(names[:count])
    return (f"The threshold rests on {them}: {'this held-out part has' if one else 'these held-out parts have'} the "
            f"score {scores[-count]:.4g}{'' if one else ' or more'}, and "
            f"{'stands' if one else 'stand'} apart from the others; at the next one, {names[count]}, it would be "
            f"{scores[-count - 1]:.4g}, and a damaged part with a score between the two passes now. Look at "
            f"{'it: if it is' if one else 'them: what is'} defective, take it out of the good pictures, and fit again")


def percent(share: float) -> str:
    """0.0625 as "6.25 %"."""
    return f"{100 * share:.3g} %"


def one_threshold(threshold: float | Mapping[str, float]) -> float:
    """The threshold of a detector of one product; a ValueError where there are several."""
    if isinstance(threshold, Mapping):
        raise ValueError(f"the detector has the products {', '.join(threshold)}, each with its own threshold: expected "
                         "a detector of one product; fit one for each, or use prediction.defective in Python")
    return threshold


def outlined(image: Tensor, anomaly_map: np.ndarray, limit: float) -> tuple[Image.Image, int]:
    """The picture with a line around what is above the limit.

    Parameters
    ----------
    image : Tensor (3, h, w)
        In [0, 1], at most as large as the map.
    anomaly_map : ndarray (H, W)
        Of the same aspect.
    limit : float

    Returns
    -------
    (PIL image, int)
        And of how many pixels of the map are above.
    """
    grid = torch.from_numpy(np.asarray(anomaly_map, np.float32))[None, None]
    h, w = image.shape[-2:]
    inside = (F.adaptive_max_pool2d(grid, (h, w)) > limit).float()  # the largest, so that no small place is lost
    width = max(1, round(max(h, w) / 200))

    def grown(pixels: int) -> np.ndarray:
        return F.max_pool2d(inside, 2 * pixels + 1, 1, pixels)[0, 0].numpy() > 0

    picture = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy().copy()
    near, line, halo = grown(width), grown(2 * width), grown(3 * width)
    edge = np.ones((h, w), bool)  # a place that reaches the picture's edge is closed there
    edge[width : h - width, width : w - width] = False
    picture[halo & ~line] = HALO
    picture[line & ~near | edge & grown(0)] = LINE
    return Image.fromarray(picture), int((grid > limit).sum())


def histogram(held_out: np.ndarray, scores: np.ndarray, threshold: float) -> dict[str, Any]:
    """The bars of two histograms over one axis, in percent of its length. The threshold is the edge of a bar.

    Parameters
    ----------
    held_out, scores : ndarray (n,), (N,)
        Of the held-out good parts and of the pictures inspected.
    threshold : float

    Returns
    -------
    dict
        "rows" with "name", "most" (the highest bar's count) and "bars" (x, width, height, above); "ticks" (x, text);
        "threshold" (x).
    """
    values = np.concatenate([held_out, scores, [threshold]])
    width = (values.max() - values.min()) / BINS or 1.0
    first = math.floor((values.min() - threshold) / width) - 1
    last = math.ceil((values.max() - threshold) / width) + 1
    rows = []
    for name, own in (("held-out good parts", held_out), ("pictures inspected", scores)):
        places = np.ceil((own - threshold) / width).astype(int) - 1  # what equals the threshold is below it
        counts = np.bincount(places - first, minlength=last - first)
        most = int(counts.max())
        bars = [{"x": 100 * k / len(counts), "width": 100 / len(counts), "height": 100 * count / most,
                 "above": first + k >= 0} for k, count in enumerate(counts.tolist()) if count]  # fmt: skip
        rows.append({"name": name, "count": len(own), "most": most, "bars": bars})

    def place(value: float) -> float:
        return 100 * ((value - threshold) / width - first) / (last - first)

    step = _nice((last - first) * width / 7)
    marks = np.arange(math.ceil((threshold + first * width) / step), (threshold + last * width) / step) * step
    ticks = [{"x": place(v), "text": f"{v + 0.0:.4g}"} for v in marks.tolist() if 2 < place(v) < 98]
    return {"rows": rows, "ticks": ticks, "threshold": place(threshold)}


def _nice(step: float) -> float:
    """1, 2 or 5 times a power of ten, at least `step`."""
    power = 10 ** math.floor(math.log10(step))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= step * 0.999)


def settings(detector: Any, alpha: float, threshold: float) -> list[tuple[str, str]]:
    """Names and values of what the answers depend on."""
    h, w = detector.image_size
    config = {name: value for name, value in detector.config().items() if name != "image_size"}
    maxima = ", ".join(f"{kind}: {value:g}" for kind, value in sorted(detector.reading.maxima.items()))
    return [
        ("method", type(detector).__name__), ("backbone or teacher", detector.frozen_name or "a module of your own"),
        ("pictures resized to", f"{h} × {w} pixels (height × width)"), ("value of full brightness", maxima or "1"),
        ("rate of false alarms asked for, α", f"{alpha:.4g}"), ("threshold of the score", f"{threshold:.6g}"),
        ("held-out parts", f"{len(detector.normal_scores)}"),
        ("folds", f"{len(detector.folds)}" if detector.folds else "none: these parts were not learnt from"),
        *((name.replace("_", " "), f"{v:g}" if isinstance(v, float) else f"{v}") for name, v in config.items()),
        ("versions", f"adlib {adlib.__version__}, torch {torch.__version__}, Python {platform.python_version()}"),
    ]  # fmt: skip


def _row(prediction: Prediction, i: int, defective: bool) -> dict[str, Any]:
    sample, p_values = prediction.samples[i], prediction.p_values
    return {"name": Path(sample.path).name, "path": sample.path, "part": sample.group, "defective": defective,
            "score": f"{prediction.scores[i]:.4g}", "p": None if p_values is None else f"{p_values[i]:.3g}",
            "picture": None, "places": 0}  # fmt: skip


def _picture(detector: Any, prediction: Prediction, i: int, limit: float) -> tuple[str | None, int]:
    """A data URI of one picture, outlined; None where it cannot be read any more."""
    anomaly_map = prediction.maps[i]
    scale = min(1.0, LONGEST / max(anomaly_map.shape))
    height, width = (max(1, round(side * scale)) for side in anomaly_map.shape)
    reading = dataclasses.replace(detector.reading, own_size=None)  # resized, even where it was inspected unresized
    try:
        image = reading.look(prediction.samples[i], (height, width)).image
    except ImageError:
        return None, 0
    picture, places = outlined(image, anomaly_map, limit)
    picture.save(stored := BytesIO(), "jpeg", quality=80, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stored.getvalue()).decode()}", places


def _parts(prediction: Prediction, defective: np.ndarray) -> dict[str, Any] | None:
    """Where pictures are grouped: how many parts there are, and the names of those with a defective picture."""
    names = {s.group for s in prediction.samples} - {None}
    bad = dict.fromkeys(s.group for s, d in zip(prediction.samples, defective, strict=True) if d and s.group)
    return {"count": len(names), "defective": list(bad)} if names else None


def _held_out(detector: Any, limit: float, most: int = 6) -> dict[str, Any]:
    """The held-out parts with the largest scores; with pictures where the detector still has them."""
    if detector.held_out is not None:
        order = np.argsort(-detector.held_out.scores, kind="stable")[:most].tolist()
        rows = [_row(detector.held_out, i, False) for i in order]
        for row, i in zip(rows, order, strict=True):
            row["picture"], row["places"] = _picture(detector, detector.held_out, i, limit)
        return {"rows": rows, "pictures": True}
    named = zip(detector.normal_parts, detector.normal_scores.tolist(), strict=True)
    rows = [{"path": name, "name": Path(name).name, "score": f"{score:.4g}"} for (name, _), score in named]
    return {"rows": rows[::-1][:most], "pictures": False}
