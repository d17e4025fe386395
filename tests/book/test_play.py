"""The figures to play with, as a reader moves them: what they show is computed again here, from the stored data."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page

import build
from adlib import metrics, plots
from adlib.backbones import load_backbone
from adlib.coreset import covering_radius, k_center_greedy, random_subset
from adlib.receptive_field import receptive_field
from adlib.threshold import conformal_threshold

PLACES = {"threshold": "01_features_and_scores", "field": "01_features_and_scores", "coreset": "02_patchcore",
          "noise": "04_simplenet", "mix": "05_efficientad", "wipe": "06_comparison"}


class Play:
    """One figure on its page."""

    def __init__(self, page: Page, kind: str) -> None:
        self.page, self.figure = page, page.locator(f"figure[data-play={kind}]")
        self.data: dict[str, Any] = json.loads(self.figure.locator("script").text_content() or "")

    def move(self, label: str, value: object) -> dict[str, str]:
        """Put the slider to a value, as a drag does, and return what is shown then."""
        self.figure.get_by_label(label, exact=True).evaluate(
            "(e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }", str(value))
        return self.shown()

    def press(self, name: str) -> dict[str, str]:
        self.figure.get_by_role("button", name=name, exact=True).click()
        return self.shown()

    def shown(self) -> dict[str, str]:
        pairs = "all => all.map(e => [e.dataset.value, e.textContent])"
        shown = self.figure.locator("[data-value]").evaluate_all(pairs)
        return {name: text.replace("−", "-").replace("\u00a0", " ") for name, text in shown}


def number(text: str) -> float:
    return float(re.findall(r"-?\d+(?:\.\d+)?", text)[0])


def unpacked(stored: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(stored["bytes"]), np.uint8).reshape(stored["shape"])


@pytest.fixture
def play(browser: Browser, book: Path, request: pytest.FixtureRequest) -> Iterator[Play]:
    """The figure whose kind the test's name ends with; nothing may be written to the console."""
    kind, said = request.node.originalname.rsplit("_", 1)[-1], []
    with browser.new_page(viewport={"width": 1000, "height": 900}) as page:
        # Without the other scripts a page is there at once; test_book_browser.py looks at the whole pages.
        page.route(re.compile(r"(?<!/play)\.js\b"), lambda route: route.fulfill(body=""))
        page.on("console", lambda message: said.append(message.text) if "play.js" in str(message.location) else None)
        page.on("pageerror", lambda error: said.append(str(error)) if "play.js" in (error.stack or "") else None)
        page.goto((book / "notebooks" / f"{PLACES[kind]}.html").as_uri(), wait_until="domcontentloaded")
        page.wait_for_selector(f"figure[data-play={kind}].is-live")
        yield Play(page, kind)
    assert said == []


def test_the_book_shows_each_kind_once(book: Path) -> None:
    pages = {name: (book / f"{name}.html").read_text(encoding="utf-8") for name in build.pages()}
    found = [(kind, Path(name).name) for name, text in pages.items() for kind in re.findall(r'data-play="(\w+)"', text)]
    assert sorted(found) == sorted(PLACES.items()) and tuple(sorted(PLACES)) == plots.PLAYS


def test_the_numbers_of_threshold(play: Play) -> None:
    held, good, bad = (np.array(play.data[name]) for name in ("held", "good", "bad"))
    labels, scores = np.r_[np.zeros(len(good)), np.ones(len(bad))], np.r_[good, bad]
    for t in np.quantile(scores, (0.02, 0.4, 0.7, 0.97)):
        shown = play.move("threshold", round(t, 3))
        t = number(shown["threshold"])
        assert number(shown["alarms"]) == (good > t).sum() and number(shown["found"]) == (bad > t).sum()
        alpha = number(shown["bound"]) / 100 + 0.0006  # rounded to a tenth of a percent
        assert conformal_threshold(held, alpha) <= t, "the promise that is shown holds at this threshold"
        if 1 / (len(held) + 1) < alpha - 0.0012 < 1:
            assert conformal_threshold(held, alpha - 0.0012) > t, "and no better one does"
    for alpha in (0.2, 0.1, 0.05):
        if alpha >= 1 / (len(held) + 1):
            shown = play.press(f"{100 * alpha:.0f}\u00a0%")
            assert number(shown["threshold"]) == pytest.approx(conformal_threshold(held, alpha), abs=1e-9)
            assert number(shown["bound"]) <= 100 * alpha
    alarm = scores > number(play.press("best F1 in hindsight")["threshold"])
    f1 = 2 * alarm[labels == 1].sum() / (alarm.sum() + labels.sum())
    assert f1 == pytest.approx(metrics.f1_max(labels, scores)[0])


def test_the_numbers_of_coreset(play: Play) -> None:
    points, seed, start = torch.tensor(play.data["points"]), 0, 0
    for again in (False, True):
        if again:
            shown = play.press("Other start"), play.press("Other random bank")
            seed, start = 1, 211
        for k in (1, 9, 40):
            shown, bank = play.move("centres", k), random_subset(points, len(points), seed=seed)
            radius = covering_radius(points, k_center_greedy(points, k, start=start))
            assert number(shown["greedy"]) == pytest.approx(radius, abs=6e-4)
            assert number(shown["random"]) == pytest.approx(covering_radius(points, bank[:k]), abs=6e-4)
            needed = int(number(shown["needed"]))
            before = covering_radius(points, bank[: needed - 1]) if needed > 1 else np.inf
            assert covering_radius(points, bank[:needed]) <= radius + 1e-6 < before
    assert number(play.press("One more")["centres"]) == 41 and number(play.press("One back")["centres"]) == 40
    play.figure.get_by_label("centres", exact=True).press("ArrowRight")  # the keyboard reaches it
    assert number(play.shown()["centres"]) == 41
    still, stage = play.figure.locator("> img"), play.figure.locator(".play-stage")
    assert stage.is_visible() and not still.is_visible()
    play.page.emulate_media(media="print")
    assert still.is_visible() and not stage.is_visible()


def test_the_numbers_of_field(play: Play) -> None:
    layers = ("layer1", "layer2", "layer3")
    backbone = load_backbone("adlib_resnet18", layers, pretrained=False)
    ends = [operation["layer"] for operation in play.data["operations"]]
    for averaged in (False, True):
        play.figure.get_by_label("mean of 3 × 3 cells").set_checked(averaged)
        for layer in layers:
            field = receptive_field(backbone, layer, neighbourhood=3 if averaged else 1)
            play.move("operation", ends.index(layer) + 1)
            for i, j in ((0, 3), (9, 13))[averaged:]:
                play.move("row", i)
                shown = play.move("column", j)
                assert shown["sees"] == f"{field.size} × {field.size} pixels"
                assert shown["map"].endswith(f"a cell every {field.stride} pixels")
                first = [field.start + k * field.stride for k in (i, j)]
                spans = [(max(a, 0), min(a + field.size, 224) - 1) for a in first]
                assert shown["pixels"] == "rows {0[0]} to {0[1]}, columns {1[0]} to {1[1]}".format(*spans)
    play.figure.get_by_label("mean of 3 × 3 cells").set_checked(False)
    play.figure.get_by_label("all strides 1").set_checked(True)
    assert play.shown()["sees"] == "33 × 33 pixels"  # 1 + 6 + 2 + 12 · 2, by (1.2)
    play.figure.get_by_label("all strides 1").set_checked(False)
    drawn = play.figure.locator("svg.touch")
    side = drawn.evaluate("e => e.clientWidth")
    drawn.click(position={"x": 0.9 * side, "y": 0.1 * side})
    assert [play.figure.get_by_label(name).input_value() for name in ("row", "column")] == ["1", "12"]


def test_the_numbers_of_noise(play: Play) -> None:
    normal, length = [], np.linalg.norm(play.data["noise"], axis=1).mean()
    for i, sigma in enumerate(play.data["sigmas"]):
        shown = play.move("noise σ", i)
        surface = unpacked(play.data["surfaces"][i])
        normal.append((surface > 127).mean())
        assert number(shown["sigma"]) == sigma and number(shown["apart"]) == pytest.approx(sigma * length, abs=6e-3)
        assert number(shown["loss"]) == pytest.approx(play.data["losses"][i], abs=6e-3)
        assert number(shown["area"]) == pytest.approx(100 * normal[-1], abs=0.06)
    assert play.data["losses"][0] > play.data["losses"][-1], "more noise, less overlap: (4.8)"


def test_the_numbers_of_mix(play: Play) -> None:
    for weight in (0, 35, 50, 100):
        shown = play.move("weight of the autoencoder's map", weight)
        peaks = {}
        for part in play.data["parts"]:
            mixed = (1 - weight / 100) * np.array(part["student"]) + weight / 100 * np.array(part["autoencoder"])
            peaks.setdefault(part["type"], []).append(mixed.max())
            said = play.figure.locator(f"[data-largest='{part['name']}']").text_content()
            assert number(said) == pytest.approx(mixed.max(), abs=6e-4)
        assert number(shown["limit"]) == pytest.approx(max(peaks["good"]), abs=6e-4)
        for kind in ("structural", "logical"):
            above = [("not above" not in said) for said in shown[kind].split("; ")]
            assert above == [peak > max(peaks["good"]) for peak in peaks[kind]]
    assert {part["type"] for part in play.data["parts"]} == {"good", "structural", "logical"}


def test_the_numbers_of_wipe(play: Play) -> None:
    for i, part in enumerate(play.data["parts"]):
        play.figure.get_by_label("part", exact=True).select_option(str(i))
        for way in play.data["ways"]:
            shown, peak = play.press(way), unpacked(part["maps"][way]).max() / 100
            assert (shown["part"], shown["way"]) == (f"{part['product']}: {part['kind']}", way)
            assert number(shown["peak"]) == peak and shown["outcome"] == ("found" if peak > 1 else "missed")
            assert number(play.figure.locator(f"[data-way='{way}'] b").text_content()) == peak
    for share in (0, 30, 100):
        play.move("map from the right", share)
        window = play.figure.locator("clipPath rect")
        width, whole = float(window.get_attribute("width")), float(window.get_attribute("height"))
        assert width == pytest.approx(whole * share / 100)


@pytest.mark.parametrize("name", sorted(set(PLACES.values())))
def test_without_scripts_the_still_picture_stays(browser: Browser, book: Path, name: str) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto((book / "notebooks" / f"{name}.html").as_uri(), wait_until="domcontentloaded")
        for figure in page.locator("figure.adlib-play").all():
            assert figure.locator("> img").is_visible() and len(figure.locator("> img").get_attribute("alt") or "") > 40
            assert figure.locator("figcaption strong").is_visible()
