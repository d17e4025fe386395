"""The figures: one colour scale for all maps, honest refusals, no global state, legible in grey."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from adlib import plots


def _images(count: int = 2, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def _maps(count: int = 2, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.rand(count, height, width, generator=torch.Generator().manual_seed(1))


def shown_bytes(figure: Figure) -> bytes:
    """The picture that a notebook stores."""
    return next(data for kind, data in figure._repr_mimebundle_().items() if kind.startswith("image/"))


def _axes_titled(figure: Figure, title: str) -> list[matplotlib.axes.Axes]:
    """The column of panels under a heading."""
    headings = [ax.get_title() for ax in figure.axes]
    first = figure.axes[headings.index(title)]
    column = first.get_subplotspec().colspan
    return [ax for ax in figure.axes if ax.get_subplotspec() and ax.get_subplotspec().colspan == column]


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


ALL: dict[str, Callable[[], Figure]] = {
    "show": lambda: plots.show(
        _images(), [None, torch.ones(24, 32) > 0], _maps(), scores=[1, 2], titles=["a", "b"], threshold=0.5
    ),
    "show, images alone": lambda: plots.show(_images(1)),
    "contact_sheet": lambda: plots.contact_sheet([_images(), [None]], ["a", "b"], ["c", "d"]),
    "score_histogram": lambda: plots.score_histogram([0, 0, 1], [0.1, 0.3, 0.8], threshold=0.5, kinds=["", "", "hole"]),
    "roc": lambda: plots.roc(torch.tensor([0, 0, 1]), torch.tensor([0.1, 0.3, 0.8])),
    "coreset_coverage": lambda: plots.coreset_coverage(np.eye(2), [0]),
    "bars": lambda: plots.bars(["a", "b"], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7], reference="b"),
}


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL)
def test_a_figure_leaves_no_trace_and_is_an_opaque_png(draw: Callable[[], Figure]) -> None:
    before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    figure = draw()
    picture = Image.open(BytesIO(shown_bytes(figure))).convert("RGBA")
    assert isinstance(figure, Figure)
    assert dict(matplotlib.rcParams) == before and plt.get_fignums() == open_figures
    assert picture.getextrema()[3] == (255, 255), "a dark page would shine through"
    assert min(picture.getpixel((0, 0))) >= 253  # a JPEG rounds


@pytest.mark.parametrize("draw", ALL.values(), ids=ALL)
def test_a_dark_style_does_not_make_the_text_vanish(draw: Callable[[], Figure]) -> None:
    with plt.style.context("dark_background"):
        figure = draw()
        figure.draw_without_rendering()
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]
    assert figure.get_facecolor() == (1, 1, 1, 1)
    for text in texts:
        assert _contrast(text.get_color(), "white") >= 4.5, text


def test_a_figure_displays_itself_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython.core.formatters import DisplayFormatter

    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    bundle, _ = DisplayFormatter().format(plots.coreset_coverage(np.eye(2), [0]))
    assert bundle == {}, "the cell would show a second picture"
    kind, start = ("jpeg", b"\xff\xd8") if shown and "image/jpeg" in shown[0] else ("png", b"\x89PNG")
    assert len(shown) == 1 and shown[0][f"image/{kind}"].startswith(start)


def test_noisy_grids_stay_small() -> None:
    figure = plots.show(_images(4, 256, 256), torch.ones(4, 256, 256), _maps(4, 256, 256))
    assert len(shown_bytes(figure)) < 250_000


def test_the_same_value_has_the_same_colour_in_every_image() -> None:
    quiet = torch.zeros(24, 32)
    quiet[:4] = 1.0  # the highest value of this map, and low on the common scale
    loud = quiet.clone()
    loud[5:10, 5:10] = 9.0
    panels = _axes_titled(plots.show(_images(), maps=[quiet, loud]), "anomaly map")
    colours = [panel.images[0].to_rgba(panel.images[0].get_array()) for panel in panels]
    assert len(panels) == 2
    np.testing.assert_array_equal(colours[0][0, 0], colours[1][0, 0])
    assert np.abs(colours[1][7, 7] - colours[0][7, 7]).max() > 0.5  # the defect stands out, the good part stays dark


def test_the_same_value_has_the_same_colour_in_every_overlay() -> None:
    image = torch.full((3, 24, 32), 0.5)
    quiet = torch.zeros(24, 32)
    quiet[:4] = 1.0  # the highest value of this map, and low on the common scale
    loud = quiet.clone()
    loud[5:10, 5:10] = 9.0
    panels = _axes_titled(plots.show([image, image], maps=[quiet, loud]), "overlay")
    first, second = (panel.images[0].get_array() for panel in panels)
    np.testing.assert_array_equal(first[0, 0], second[0, 0])
    assert np.abs(second[7, 7] - first[7, 7]).max() > 0.1


def test_the_scale_is_that_of_all_maps_or_the_one_given() -> None:
    maps = [torch.linspace(0, 1, 768).reshape(24, 32), torch.linspace(5, 8, 768).reshape(24, 32)]
    norm = _axes_titled(plots.show(_images(), maps=maps), "anomaly map")[0].images[0].norm
    expected = np.percentile(torch.stack(maps).numpy(), (1, 99.9))
    np.testing.assert_allclose((norm.vmin, norm.vmax), expected, rtol=1e-6)
    given = _axes_titled(plots.show(_images(), maps=maps, limits=(-1, 3)), "anomaly map")[1].images[0].norm
    assert (given.vmin, given.vmax) == (-1, 3)


def _overlay_and_norm(plane: torch.Tensor, threshold: float) -> tuple[np.ndarray, matplotlib.colors.Normalize]:
    figure = plots.show(torch.full((1, 3, 24, 32), 0.5), maps=[plane], threshold=threshold)
    norm = _axes_titled(figure, "anomaly map")[0].images[0].norm
    assert sum(len(ax.lines) for ax in figure.axes) == 1, "the colour bar does not show the threshold"
    return np.asarray(_axes_titled(figure, "overlay")[0].images[0].get_array()), norm


@pytest.mark.parametrize("threshold", [1.5, 4.0, 1e3, 0.4, -1.0, 0.0])
def test_the_scale_reaches_the_threshold_with_room_above(threshold: float) -> None:
    plane = _maps(1)[0] + 0.5
    _, norm = _overlay_and_norm(plane, threshold)
    assert norm.vmin <= threshold < norm.vmax
    assert norm(threshold) <= 0.5 + 1e-6
    assert norm.vmax >= np.percentile(plane.numpy(), 99.9) - 1e-6
    without = _axes_titled(plots.show(_images(1), maps=[plane]), "anomaly map")[0].images[0].norm
    np.testing.assert_allclose((without.vmin, without.vmax), np.percentile(plane.numpy(), (1, 99.9)), rtol=1e-6)


@pytest.mark.parametrize("threshold", [1.0, 1.5, 100.0])  # 1.0: the highest value of the map itself
def test_the_overlay_of_a_good_part_stays_grey(threshold: float) -> None:
    plane = _maps(1)[0]
    plane[3, 4] = 1.0
    overlay, _ = _overlay_and_norm(plane, threshold)
    np.testing.assert_allclose(overlay, 0.5, atol=1e-6)


def test_the_overlay_colours_what_exceeds_the_threshold_and_nothing_else() -> None:
    plane = _maps(1)[0]
    plane[8:12, 8:12] = 3.0
    overlay, _ = _overlay_and_norm(plane, 0.9)
    coloured = np.ptp(overlay, axis=2) > 1e-6
    np.testing.assert_array_equal(coloured, plane.numpy() > 0.9)


def test_images_of_different_sizes_and_constant_maps_are_drawn() -> None:
    images = [_images(1, 20, 40)[0], _images(1, 40, 20)[0]]
    figure = plots.show(images, maps=[torch.zeros(20, 40), torch.zeros(40, 20)], threshold=0.5)
    assert shown_bytes(figure)


def test_the_outline_encloses_what_exceeds_the_threshold() -> None:
    plane = torch.zeros(24, 32)
    plane[8:16, 0:10] = 1.0  # touches the left edge
    panel = _axes_titled(plots.show(_images(1), maps=[plane], threshold=0.5), "overlay")[0]
    (path,) = panel.collections[0].get_paths()
    (outline,) = path.to_polygons(closed_only=False)
    assert np.allclose(outline[0], outline[-1]), "the outline is open at the image's edge"
    inside = matplotlib.path.Path(outline).contains_points([(x, y) for y in range(24) for x in range(32)])
    np.testing.assert_array_equal(inside.reshape(24, 32), plane.numpy() > 0.5)
    below = _axes_titled(plots.show(_images(1), maps=[plane], threshold=2), "overlay")[0]
    assert not below.collections


def test_roc_states_the_area_and_spans_the_unit_square() -> None:
    figure = plots.roc([0, 0, 1, 1], {"half": [1, 3, 2, 4], "all": [1, 2, 3, 4]})
    (ax,) = figure.axes
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["chance", "half AUROC 0.750", "all AUROC 1.000"]
    assert ax.get_xlim() == ax.get_ylim() == (0, 1) and ax.get_aspect() == 1


def test_the_histogram_counts_every_image_once() -> None:
    figure = plots.score_histogram([0] * 30 + [1] * 20, np.arange(50.0), kinds=["x"] * 40 + ["y"] * 10)
    (ax,) = figure.axes
    assert sum(bar.get_height() for bar in ax.patches) == 50
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["good (30)", "x (10)", "y (10)"]
    (ax,) = plots.score_histogram([0] * 30 + [1] * 20, np.arange(50.0)).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["good (30)", "defective (20)"]


def test_the_circles_of_the_covering_radius_reach_the_farthest_point() -> None:
    points = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0], [10.0, 0.0]])
    figure = plots.coreset_coverage(points, torch.tensor([0, 3]))
    (ax,) = figure.axes
    assert "radius 5" in [text.get_text() for text in ax.get_legend().get_texts()]
    np.testing.assert_allclose(ax.collections[0].get_widths(), [10, 10])  # diameters
    assert ax.get_xlim()[0] <= -5 and ax.get_xlim()[1] >= 15


def test_error_bars_end_where_the_intervals_end() -> None:
    figure = plots.bars(["a", "b"], [0.5, 0.6], [0.4, 0.55], [0.9, 0.7])
    segments = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose([segment[:, 0] for segment in segments], [[0.4, 0.9], [0.55, 0.7]])


nan_map = torch.full((24, 32), torch.nan)
BAD: dict[str, tuple[Callable[[], Figure], str]] = {
    "no images": (lambda: plots.show([]), "nothing to show"),
    "too few maps": (lambda: plots.show(_images(), maps=_maps(1)), "maps has 1 entries; expected 2"),
    "too many masks": (lambda: plots.show(_images(), _maps(3)), "masks has 3 entries; expected 2"),
    "too few scores": (lambda: plots.show(_images(), scores=[1.0]), "scores has 1 entries"),
    "too few titles": (lambda: plots.show(_images(), titles=["a"]), "titles has 1 entries"),
    "map of another size": (lambda: plots.show(_images(1), maps=_maps(1, 12, 16)), r"maps\[0\].*24 x 32"),
    "mask of another size": (lambda: plots.show(_images(1), _maps(1, 12, 16)), r"masks\[0\].*24 x 32"),
    "NaN in a map": (lambda: plots.show(_images(1), maps=[nan_map]), r"maps\[0\] holds NaN"),
    "NaN in an image": (lambda: plots.show(_images(1) * torch.nan), r"images\[0\] holds"),
    "image of 0 to 255": (lambda: plots.show(_images(1) * 255), r"images\[0\] holds values .* expected \[0, 1\]"),
    "channels last": (lambda: plots.show(_images(1).permute(0, 2, 3, 1)), r"images\[0\] has shape \(24, 32, 3\)"),
    "upside-down limits": (lambda: plots.show(_images(), maps=_maps(), limits=(1, 0)), "low < high"),
    "threshold that is NaN": (lambda: plots.show(_images(1), maps=_maps(1), threshold=np.nan), "threshold is nan"),
    "threshold without maps": (lambda: plots.show(_images(), threshold=1), "pass maps"),
    "sheet without pictures": (lambda: plots.contact_sheet([[]]), "nothing to show"),
    "sheet's row titles": (lambda: plots.contact_sheet([_images()], ["a", "b"]), "row_titles has 2 entries"),
    "sheet's column titles": (lambda: plots.contact_sheet([_images()], None, ["a"]), "col_titles has 1 entries"),
    "lengths in a histogram": (lambda: plots.score_histogram([0, 1], [0.5]), "scores must be 2 finite"),
    "NaN in a histogram": (lambda: plots.score_histogram([0, 1], [0.5, np.nan]), "finite"),
    "label 2": (lambda: plots.score_histogram([0, 2], [0.5, 1]), "labels must be"),
    "kinds": (lambda: plots.score_histogram([0, 1], [0.5, 1], kinds=["x"]), "kinds has 1 entries"),
    "one class": (lambda: plots.roc([1, 1], [0.5, 1]), "one class"),
    "points in space": (lambda: plots.coreset_coverage(np.eye(3), [0]), r"\(N, 2\)"),
    "centre out of range": (lambda: plots.coreset_coverage(np.eye(2), [2]), "from 0 to 1"),
    "centre -1": (lambda: plots.coreset_coverage(np.eye(2), [-1]), "from 0 to 1"),
    "no centre": (lambda: plots.coreset_coverage(np.eye(2), []), "centres must be"),
    "negative radius": (lambda: plots.coreset_coverage(np.eye(2), [0], -1), "radius is -1"),
    "lengths in bars": (lambda: plots.bars(["a"], [1, 2]), "values must be 1 finite"),
    "half an interval": (lambda: plots.bars(["a"], [1], [0]), "both or neither"),
    "value outside interval": (lambda: plots.bars(["a", "b"], [1, 2], [0, 2.5], [2, 3]), "'b'.*outside"),
    "unknown reference": (lambda: plots.bars(["a"], [1], reference="z"), "reference is 'z'"),
}


@pytest.mark.parametrize(("draw", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_words(draw: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def test_colours_differ_in_luminance_where_they_meet() -> None:
    assert _contrast(plots.NORMAL, plots.ANOMALOUS[0]) > 1.5
    for one, other in zip(plots.ANOMALOUS, plots.ANOMALOUS[1:], strict=False):
        assert _contrast(one, other) > 1.3, (one, other)
    ramp = [_luminance(plots.MAP_COLOURS(share)[:3]) for share in np.linspace(0, 1, 32)]
    assert (np.diff(ramp) > 0).all(), "two values of a map look alike in a greyscale print"
    assert len({style for _, style in plots.LINES}) == len(plots.LINES)


def _play(**changes: object) -> plots.Playable:
    given = {"kind": "mix", "data": {"a": [0.12345, 2]}, "fallback": plots.coreset_coverage(np.eye(2), [0]),
             "alt": "Two points <here>", "title": "A title", "caption": "Seen & said"} | changes  # fmt: skip
    return plots.playable(given.pop("kind"), given.pop("data"), given.pop("fallback"), **given)


class _Parts(HTMLParser):
    """The tags of a page with their attributes, and the text in its script."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: dict[str, dict[str, str | None]] = {}
        self.data = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = dict(attrs)

    def handle_data(self, data: str) -> None:
        self.data += data if self.lasttag == "script" else ""


def test_a_playable_figure_stands_alone() -> None:
    mixed = {"text": "</script>", "some": torch.tensor([1.23456, -0.00001]), "whole": np.arange(3), "none": None,
             "packed": np.array([[0, 255]], np.uint8), "picture": plots.as_image(_images(1)[0])}  # fmt: skip
    figure = _play(data=mixed)
    parts = _Parts(figure._repr_html_())
    assert list(parts.tags) == ["figure", "img", "figcaption", "strong", "script"]
    assert parts.tags["figure"]["data-play"] == "mix" and parts.tags["figure"]["data-title"] == "A title"
    assert parts.tags["img"]["alt"] == "Two points <here>" and "Seen &amp; said" in figure._repr_html_()
    source, stored = parts.tags["img"]["src"], json.loads(parts.data)
    assert Image.open(BytesIO(base64.b64decode(source.split("base64,")[1]))).size[0] > 100
    assert not re.search(r"https?:|\bsrc=\"(?!data:)|\bon\w+=", figure._repr_html_()), "nothing is loaded or run"
    assert stored["text"] == "</script>" and stored["some"] == [1.235, 0.0] and stored["whole"] == [0, 1, 2]
    assert base64.b64decode(stored["packed"]["bytes"]) == b"\x00\xff" and stored["packed"]["shape"] == [1, 2]
    assert Image.open(BytesIO(base64.b64decode(stored["picture"].split(",")[1]))).size == (32, 24)
    assert repr(figure) == "Playable('mix')", "a notebook stores it: no address in memory"


@pytest.mark.parametrize(("changes", "message"), [
    ({"kind": "film"}, "kind is 'film'; expected one of coreset"), ({"alt": " "}, "alt and title"),
    ({"data": {"a": [{"b": [1, float("nan")]}]}}, r"data\['a'\]\[0\]\['b'\]\[1\] is nan; expected finite numbers"),
    ({"data": {"a": torch.tensor([np.inf])}}, r"data\['a'\] is tensor"), ({"data": {"a": object()}}, r"data\['a'\] is"),
])  # fmt: skip
def test_a_playable_figure_refuses_what_no_browser_can_show(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _play(**changes)


def test_a_playable_figure_takes_any_figure_for_its_still_picture() -> None:
    figure, _ = plt.subplots()
    plt.close(figure)
    assert "data:image/png;base64," in _play(fallback=figure).markup
    assert "data:image/jpeg;base64," in _play(fallback=plots.contact_sheet([_images()])).markup


def test_a_table_shows_its_rows_and_refuses_a_ragged_one():
    shown = plots.table(["data", "AUROC"], [["a < b", 0.12345], ["c", "0.5"]], caption="two rows")
    assert repr(shown) == "data   AUROC\na < b  0.123\nc      0.5\ntwo rows"
    markup = shown._repr_html_()
    assert '<th scope="row">a &lt; b</th><td>0.123</td>' in markup and "<caption>two rows</caption>" in markup
    with pytest.raises(ValueError, match="row 1 has 1 cells; expected 2"):
        plots.table(["data", "AUROC"], [["a", 1.0], ["b"]])
