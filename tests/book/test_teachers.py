"""The page for teachers: its sections and files exist, and each number of a marking key is what adlib computes."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

import front
import slides
from adlib import coreset, metrics, simplenet, spd
from adlib.efficientad import PDN, combine_maps, difference_map, hard_feature_loss, normalise_map
from adlib.neighbors import k_nearest
from adlib.threshold import conformal_threshold
from exercises import find_exercises
from repository import ROOT

PAGE = (ROOT / "book" / "teachers.md").read_text(encoding="utf-8")
QUESTION = re.compile(r"^### Question (\d): (.*?)(?=^### Question|^<!-- end of exam -->)", re.M | re.S)
QUESTIONS = {number: text for number, text in QUESTION.findall(PAGE)}
KEY = re.compile(r"\*\*([^*]+)\*\*<!-- key: (.+?) -->")
SAID = {name: number for number, name in KEY.findall(PAGE)}
Key = dict[str, Callable[[], float | Iterable[float]]]


def given(number: str) -> dict[str, Any]:
    """The data of a question, from the grey box; nothing but literals may stand there."""
    (code,) = re.findall(r"^```python\n(.*?)^```", QUESTIONS[number], re.M | re.S)
    found: dict[str, Any] = {}
    for node in ast.parse(code).body:
        assert isinstance(node, ast.Assign), code
        (target,), value = node.targets, ast.literal_eval(node.value)
        names = [target] if isinstance(target, ast.Name) else target.elts
        found |= dict(zip((n.id for n in names), [value] if len(names) == 1 else value, strict=True))
    return found


def rows(points: Any) -> torch.Tensor:
    return torch.tensor(points, dtype=torch.float64)


def families() -> Key:
    at = given("0")
    good, centre = rows(at["good"]), rows(at["good"]).mean(0)
    covariance = torch.cov(good.T, correction=0)

    def gauss(x: torch.Tensor) -> float:
        return math.sqrt((x - centre) @ torch.linalg.solve(covariance, x - centre))

    key: Key = {"sphere good": lambda: (good - centre).norm(dim=1).unique().item()}
    for name in "pr":
        x = rows(at[name])
        key |= {f"nearest {name}": lambda x=x: k_nearest(x[None], good)[0].item(),
                f"sphere {name}": lambda x=x: (x - centre).norm().item(), f"gauss {name}": lambda x=x: gauss(x)}
    return key


def cameras() -> Key:
    at = given("1")
    a, b = (at[f"good_{c}"] + at[f"bad_{c}"] for c in "ab")
    labels = [0] * 3 + [1] * 2
    scaled = [s / max(at[f"good_{c}"]) for c, scores in (("a", a), ("b", b)) for s in scores]
    return {"camera a": lambda: metrics.image_auroc(labels, a), "camera b": lambda: metrics.image_auroc(labels, b),
            "heap": lambda: metrics.image_auroc(labels * 2, a + b),
            "by camera": lambda: metrics.image_auroc(labels * 2, scaled),
            "by picture": lambda: metrics.image_auroc(labels * 2, [s / s for s in a + b]),
            "interval low": lambda: metrics.newcombe_interval(1.0, 4, 6)[0]}


def patchcore() -> Key:
    at = given("2")
    points, scores, n = rows(at["points"]), at["scores"], len(at["scores"])
    chosen = coreset.k_center_greedy(points, 3, start=0)
    radii = [coreset.covering_radius(points, chosen[:k]) for k in (1, 2, 3)]
    parts = [str(i // 3) for i in range(n)]
    assert n == 39 and radii == sorted(radii, reverse=True)
    with pytest.raises(ValueError, match="0.024"):
        conformal_threshold(scores, 0.024)  # below the smallest rate
    with pytest.raises(ValueError, match="0.05"):
        conformal_threshold(scores, 0.05, groups=parts)
    return {"order": lambda: (chosen + 1).tolist(), "radii": lambda: radii, "least": lambda: at["query"],
            "most": lambda: at["query"] + radii[-1], "rank": lambda: math.ceil(40 * 0.95),
            "threshold": lambda: conformal_threshold(scores, 0.05), "smallest": lambda: 100 / (n + 1),
            "parts": lambda: 100 / (len(set(parts)) + 1),
            "parts threshold": lambda: conformal_threshold(scores, 0.072, groups=parts)}


def networks() -> Key:
    at = given("3")

    def loss_and_slope(name: str, times: float = 1.0) -> tuple[float, float]:
        z, plus, minus = (times * rows(at[name][v])[None] for v in ("z", "z_plus", "z_minus"))
        loss = spd.spd_loss(z.requires_grad_(), plus, minus)
        (slope,) = torch.autograd.grad(loss, z)
        return loss.item(), slope.norm().item()

    def drop(name: str, copy: str) -> float:
        return 1 - torch.cosine_similarity(rows(at[name]["z"]), rows(at[name][copy]), dim=0).item()

    assert loss_and_slope("A")[1] < 1e-12  # the saddle
    return {**{name: lambda name=name: loss_and_slope(name)[0] for name in "ABC"},
            **{f"ratio {n}": lambda n=n: drop(n, "z_minus") / drop(n, "z_plus") for n in "BC"},
            "long": lambda: loss_and_slope("B", 10)[0], "gradient": lambda: loss_and_slope("B")[1],
            "long gradient": lambda: loss_and_slope("B", 10)[1]}


def discriminator() -> Key:
    at = given("4")
    values = rows([at["normal"], at["noisy"]]).requires_grad_()
    loss = simplenet.truncated_l1(*values)
    (slopes,) = torch.autograd.grad(loss, values)
    constant = rows([0.5] * 4)
    assert simplenet.truncated_l1(constant, constant, th_minus=0.5) == 0
    noise = at["sigma"] * torch.randn(1000, at["channels"], generator=torch.Generator().manual_seed(0))
    assert noise.norm(dim=1).std() < 0.05  # hardly any is much shorter or longer
    return {"loss": loss.item, "pulling": lambda: slopes.count_nonzero().item(), "constant": lambda: 0.5,
            "misprint": lambda: simplenet.truncated_l1(*values, th_minus=0.5).item(),
            "length": lambda: noise.norm(dim=1).mean().item()}


def maps() -> Key:
    at = given("5")
    student = -rows(at["difference"])[None, :, None, None].requires_grad_()
    hard = hard_feature_loss(torch.zeros_like(student), student, at["p_hard"])
    (slopes,) = torch.autograd.grad(hard, student)
    quantiles = rows([at["student_quantiles"], at["autoencoder_quantiles"]])
    cells = [rows([[[[at["cell"][name]]]]])[0] for name in ("student", "autoencoder")]
    single = [normalise_map(cell, q).item() for cell, q in zip(cells, quantiles, strict=True)]

    def missing(pixels: int) -> float:
        with torch.device("meta"):
            cells = PDN()(torch.empty(1, 3, pixels, pixels)).shape[-1]
        return 100 * (1 - (cells / (pixels // 4)) ** 2)

    low, high = quantiles[0].tolist()
    return {"plain": lambda: difference_map(torch.zeros_like(student), student).mean().item(), "hard": hard.item,
            "kept": lambda: slopes.count_nonzero().item(), "student": lambda: single[0],
            "autoencoder": lambda: single[1], "combined": lambda: combine_maps(*cells, quantiles).item(),
            "missing 256": lambda: missing(256), "missing 512": lambda: missing(512),
            "zero": lambda: low + 0 / 0.1 * (high - low)}


def seeds() -> Key:
    at = given("6")
    differences = at["differences"]

    def interval(n: int) -> tuple[float, float]:
        deviation = np.std(differences, ddof=1)  # n values of the same mean and deviation
        spread = np.linspace(-1, 1, n) / np.std(np.linspace(-1, 1, n), ddof=1)
        return metrics.mean_interval(np.mean(differences) + deviation * spread, same_images=False, limits=(-1, 1))

    rate = at["parts_per_minute"] * at["pictures_per_part"] / 60
    assert max(at["milliseconds"].values()) < 1000 / rate
    return {"mean": lambda: float(np.mean(differences)), "low": lambda: interval(3)[0], "high": lambda: interval(3)[1],
            "seeds": lambda: next(n for n in range(2, 99) if interval(n)[0] > 0),
            "chance": lambda: 100 * (1 - 0.95 ** at["tested"]), "milliseconds": lambda: 1000 / rate}


def pinhole() -> Key:
    at = given("8")
    mask, values = np.array(at["mask"], bool), np.array(at["values"], float)
    near, moved = mask.copy(), values.copy()
    for array in (near, moved):
        array[2, 2], array[2, 4] = array[2, 4], array[2, 2]
    key: Key = {}
    for where, shown in (("", ([mask], [values])), (" joined", ([near], [moved]))):
        key[f"pro{where}"] = lambda shown=shown: metrics.au_pro(*shown, limit=at["limit"])
        key[f"pixel{where}"] = lambda shown=shown: metrics.pixel_auroc(*shown)
    return key


KEYS = {"0": families, "1": cameras, "2": patchcore, "3": networks, "4": discriminator, "5": maps, "6": seeds,
        "8": pinhole}  # fmt: skip


def numbers(text: str) -> list[tuple[float, int]]:
    """Each number of a text, and its digits after the point."""
    found = re.findall(r"-?\d+(?:\.(\d+))?", text := text.replace("−", "-"))
    return [(float(m), len(d)) for m, d in zip(re.findall(r"-?\d+(?:\.\d+)?", text), found, strict=True)]


@pytest.mark.parametrize("number", KEYS)
def test_the_marking_key_is_what_adlib_computes(number: str) -> None:
    key = KEYS[number]()
    assert {name for name in SAID if name[0] == number} == {f"{number} {name}" for name in key}
    for name, compute in key.items():
        wanted = compute()
        wanted, shown = list(wanted) if isinstance(wanted, Iterable) else [wanted], numbers(SAID[f"{number} {name}"])
        assert len(wanted) == len(shown), (name, wanted, shown)
        for right, (figure, digits) in zip(wanted, shown, strict=True):
            assert abs(figure - right) <= 0.5 * 10.0**-digits + 1e-9, f"question {number}, {name}: {right}"


def test_each_chapter_has_one_question_with_a_folded_key() -> None:
    assert list(QUESTIONS) == list(KEYS)
    for number, text in QUESTIONS.items():
        question, key = text.split(f"<details><summary>Key to question {number}</summary>")
        letters = re.findall(r"\(([a-d])\)", question)
        assert letters == re.findall(r"^\(([a-d])\) \*\w+ points\.\*", key, re.M) and key.strip().endswith("</details>")


def test_every_section_and_exercise_that_the_plan_names_exists() -> None:
    assert re.search(r"\d", front.with_minutes(PAGE)) and "<!-- minutes" not in front.with_minutes(PAGE)
    rows_of_plan = re.findall(r"^\| \d+ \|.*", PAGE, re.M)
    assert [int(row.split("|")[1]) for row in rows_of_plan] == list(range(1, 15))
    for row in rows_of_plan:  # the minutes are those of the sections named beside them
        read, counted = row.split("|")[2:4]
        for number in re.findall(r"\b\d\.\d+\b", read):
            front.minutes(number)
            assert number in counted, row
        named = [range(int(first), int(last or first) + 1) if to == " to " else [first] + [last] * bool(last)
                 for first, to, last in re.findall(r"exercises? (\d)(?:( to | and )(\d))?", row.split("|")[5])]
        assert sum(map(len, named)) == sum(map(int, re.findall(r"(\d) exercise", counted))), row
    for numbers_named in re.findall(r"[Ss]ections? (\d\.\d+)(?:(?:, | to | and )(\d\.\d+))*", PAGE):
        assert all(front.minutes(number) for number in numbers_named if number)
    for first, last, chapter in re.findall(r"exercises? (\d)(?: (?:to|and) (\d))? of (?:chapter (\d)|the fam)", PAGE):
        (path,) = (p for p in ROOT.glob(f"notebooks/0{chapter or 0}_*.ipynb") if "quickstart" not in p.name)
        assert int(last or first) <= len(find_exercises(nbformat.read(path, 4))), (path.name, last or first)
    for wrong in ("2.99", "9.1 to 8.2", "chapter 2"):
        with pytest.raises(ValueError, match="minutes of"):
            front.minutes(wrong)


def test_every_figure_for_slides_is_a_file_with_a_title() -> None:
    table = "\n".join(front.figures())
    listed = re.findall(r"\]\(_static/([\w-]+\.svg)\)", table)
    assert listed and all((ROOT / "book" / "_static" / name).is_file() for name in listed)
    assert listed == sorted(path.name for path in (ROOT / "book" / "_static").glob("*.svg"))


def test_every_figure_of_a_chapter_is_a_file_with_its_number(tmp_path: Path) -> None:
    assert slides.PLACE in PAGE
    for name, text in (("book/teachers.html", f"<p>{slides.PLACE}</p>"), ("_images/a1.svg", "<svg/>"),
                       ("_images/idea.svg", "<svg/>"), ("_static/idea.svg", "<svg/>"), ("notebooks/02_a.html", """
            <h1>2 · A method<a href="#"></a></h1>
            <figure><img alt="" src="../_images/idea.svg" /><figcaption><span class="caption-number">Figure 2.1. </span>
                A diagram.</figcaption></figure>
            <figure><img alt="b" src="../_images/a1.svg" /> <figcaption><p><span class="caption-text"><span
                class="caption-number">Figure 2.2. </span>By <a href="#x">(2.1)</a>, a &lt; b.</span>
                <a class="headerlink" href="#id2">#</a></p></figcaption></figure>
            <figure class="adlib-play"><img alt="c" src="data:image/jpeg;base64,AAAA"><figcaption><span
                class=caption-number>Figure 2.3. </span><strong>It moves.</strong></figcaption></figure>""")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    slides.write_figures(SimpleNamespace(outdir=tmp_path), None)
    files = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    assert files == {"ch02-fig-2.2.svg": b"<svg/>", "ch02-fig-2.3.jpg": bytes(3)}
    said = (tmp_path / "book" / "teachers.html").read_text(encoding="utf-8")
    assert "<summary>2 · A method</summary>" in said and said.index("ch02-fig-2.2.svg") < said.index("ch02-fig-2.3.jpg")
    assert 'fig-2.2.svg">Figure 2.2</a>, SVG: By (2.1), a &lt; b.</li>' in said and "JPG: It moves.</li>" in said
