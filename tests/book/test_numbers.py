"""Numbers in prose: each decimal and each percentage has a source, at the precision at which it stands.

A source is a text output of the number's own section, or of a section or chapter that its paragraph names; a report of
benchmarks/ that these read, or that a page of prose names; a table of results that stands on the page; a setting, that
is a literal in their code or in the code of a method; what others published, benchmarks/published.json. What is left
stands in one of the lists below, by kind. A number that only a figure shows has no source: print it.

`python tests/book/test_numbers.py` prints what has none.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import pytest
from safetensors import safe_open
from scipy import stats

import results
from adlib import metrics, threshold
from repository import ROOT

LEVELS = {"95 %", "97.5 %", "2.5 %", "5 %", "1.96"}  # of confidence, of false alarms; the quantile of the normal law
# Worked out from what the sentence says: the calculation must give the number.
WORKED = {
    "README": {"8 %": "1 - 0.2 ** (1 / 20)", "1.6": "parameters('adlib_resnet18_v2') / 1e6"},
    "index": {"0.919": "screws('patchcore')", "0.811": "screws('simplenet')", "0.574": "screws('efficientad')"},
    "00_quickstart": {"59": "math.ceil(math.log(0.05) / math.log(0.95))",
                      "7.3 %": "threshold.cross_conformal_bound(0.05, 40, 20)"},
    "01_features_and_scores": {"0.89": "2 * 0.8 / 1.8", "0.86": "metrics.newcombe_interval(0.98, 20, 20)[0]"},
    "02_patchcore": {"1.01": "163_856 * 1_536 * 4 / 1e9", "0.116": "threshold.cross_conformal_bound(0.05, 30, 20)",
                     "11 %": "1 / 9"},
    "04_simplenet": {"1.66": "209 * (288 / 8) ** 2 * 1_536 * 4 / 1e9",
                     "0.998": "least_loss(1.01)", "0.7": "least_loss(1 + (0.05 / 0.03) ** 2)"},
    "05_efficientad": {"1.2": "1 + 0.2"},
    "06_comparison": {"1.6": "parameters('adlib_resnet18_v2') / 1e6", "0.45": "math.sqrt(2 * 0.1)",
                      "0.919": "screws('patchcore')", "0.811": "screws('simplenet')",
                      "0.574": "screws('efficientad')"},
    "08_metrics": {"0.018": "0.9 * 0.001 / (0.9 * 0.001 + 0.05 * 0.999)", "0.15": "0.3 / 2", "0.025": "0.05 / 2",
                   "4.3": "stats.t.ppf(0.975, 2)"},
    "09_errata": {"1.2": "1 + 0.2"},
    "10_in_production": {"0.19": "-(math.log(0.5) + 0.5)"},
    "adlib_resnet18_v2": {"1.57": "parameters('adlib_resnet18_v2') / 1e6"},
    "adlib_pdn_s_v1": {"2.69": "parameters('adlib_pdn_s_v1') / 1e6", "5.4": "2 * parameters('adlib_pdn_s_v1') / 1e6",
                       "0.46": "parameters('adlib_pdn_s_quarter_v1') / 1e6",
                       "0.9": "2 * parameters('adlib_pdn_s_quarter_v1') / 1e6"},
}  # fmt: skip
# Said by the training that made the weights, hours long; its log is not kept, so these are a record and no more.
LOGGED = {"adlib_resnet18_v2": {"38.8 %", "44.6 %", "0.771"},
          "adlib_pdn_s_v1": {"0.51", "0.367", "0.459", "0.48", "0.385", "0.477"}}  # fmt: skip
# Values that somebody might see, of nothing that was measured.
IMAGINED = {"01_features_and_scores": {"0.97"}, "02_patchcore": {"2.3"}, "03_spd": {"0.98"}, "08_metrics": {"0.6"}}

METHODS = "patchcore coreset spd augment objectives threshold intervals metrics simplenet/* efficientad/*"
NUMBER = re.compile(r"(?<![\w.])(\d+(?:,\d{3})*(?:\.\d+)?)( ?%)?(?!\w|\.\d)")
# What is no claim: code, mathematics, the targets of links, headings, and the names of sections, equations, licences.
# The tables of the README are held to the reports elsewhere, the keys of the exam to what adlib computes.
NO_CLAIM = re.compile(
    r"<!-- results: .*?<!-- end of results -->|<!-- exam -->.*?<!-- end of exam -->|<!--.*?-->"
    r"|```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|(?<=\])\([^)]*\)"
    r"|https?://\S+|<[^>]*>|^#+ [^\n]*|\(\d+\.\d+\)|\b[Ss]ections? \d+\.\d+(?:(?:,| and| to|, and) \d+\.\d+)*"
    r"|\b(?:CC BY(?:-\w+)*|Apache|[Pp]ython|torch|torchvision|versions?|jupyter-book)[- ]\d+(?:\.\d+)*",
    re.S | re.M)  # fmt: skip
IN_RANGE = re.compile(r"(?<![\w.])(\d{1,3}(?:\.\d+)?)(?=(?: to | and |, | or )\d+(?:\.\d+)? ?%)")  # "0.5 to 2 %"
HEADING = re.compile(r"(?m)^(?=## )")


class Said(NamedTuple):
    """A number as it stands in a text."""

    text: str
    value: float
    digits: int  # after the point
    percent: bool

    def equals(self, value: float, digits: int = 99, percent: bool = False) -> bool:
        """Whether the value, known to so many digits, is this number when rounded."""
        shift = 2 if self.percent else 0  # compared as shares
        if digits + 2 * percent < self.digits + shift:
            return False
        apart = abs(value / 100**percent - self.value / 10**shift)
        return apart <= 0.5 * 10.0 ** -(self.digits + shift) + 1e-9

    def is_set_by(self, value: float) -> bool:
        return abs(self.value - value) < 1e-9 or (self.percent and abs(self.value - 100 * value) < 1e-9)


class Section(NamedTuple):
    """What a section says, and what may stand behind it."""

    cells: list[tuple[str, str]]  # id and text
    code: list[str]
    outputs: list[str]


@cache
def said(text: str) -> list[Said]:
    while text != (text := IN_RANGE.sub(r"\1 %", text)):
        pass
    return [Said(m[0], float(m[1].replace(",", "")), len(m[1].partition(".")[2]), bool(m[2]))
            for m in NUMBER.finditer(text)]


def leaves(report: object) -> Iterator[float]:
    if isinstance(report, dict | list):
        for part in report.values() if isinstance(report, dict) else report:
            yield from leaves(part)
    elif isinstance(report, int | float):
        yield float(report)
    elif isinstance(report, str):
        yield from (number.value for number in said(report))


@cache
def measured() -> dict[str, list[float]]:
    """The numbers of each report, by its file's name; without the scores and maps of single images."""
    paths = [p for p in (ROOT / "benchmarks").rglob("*.json") if not p.stem.endswith(("_scores", "_maps"))]
    return {path.name: list(leaves(json.loads(path.read_text(encoding="utf-8")))) for path in paths}


def reports(text: str) -> list[float]:
    """The numbers of all reports that code or a page names."""
    return [value for name, values in measured().items() if name in text for value in values]


@cache
def literals(code: str) -> list[float]:
    """The numbers that code sets, without 0 and 1."""
    lines = [line for line in code.splitlines() if not line.lstrip().startswith(("%", "!"))]
    nodes = [node.value for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.Constant)]
    return [float(v) for v in nodes if isinstance(v, int | float) and v not in (0, 1)]


@cache
def settings() -> list[float]:
    paths = [path for name in METHODS.split() for path in (ROOT / "adlib").glob(f"{name}.py")]
    found = [value for path in paths for value in literals(path.read_text(encoding="utf-8"))]
    return [value for value in found if value != int(value)]


def sections(path: Path) -> dict[str, Section]:
    """The sections of a notebook or page by number, those without by their place; "" is what precedes the first."""
    if path.suffix == ".md":
        return {"": Section([("", path.read_text(encoding="utf-8"))], [], [])}
    found = {"": Section([], [], [])}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for part in HEADING.split(source):
                if number := re.match(r"## ([\d.]*)", part):
                    found[number[1] or f"after {len(found)}"] = Section([], [], [])
                [*found.values()][-1].cells.append((cell["id"], part))
        else:
            last = [*found.values()][-1]
            last.code.append(source)
            for output in cell["outputs"]:
                last.outputs.append("".join(output.get("text", [])))
                last.outputs.append(re.sub(r"<[^>]*>", " ", "".join(output.get("data", {}).get("text/html", []))))
    return found


@cache
def pages() -> dict[str, dict[str, Section]]:
    book = [p for p in (ROOT / "book").glob("*.md") if p.stem not in ("glossary", "notation")]
    paths = [*(ROOT / "notebooks").glob("*.ipynb"), ROOT / "README.md", *book, *(ROOT / "adlib/weights").glob("*.md")]
    return {path.stem: sections(path) for path in sorted(paths)}


def named(paragraph: str) -> list[Section]:
    """The sections that a paragraph points to, by number or by chapter."""
    found = []
    for first, more in re.findall(r"\b[Ss]ections? (\d\.\d+)((?:(?:,| and| to|, and) \d\.\d+)*)", paragraph):
        for number in (first, *re.findall(r"\d\.\d+", more)):
            found += [page[number] for name, page in pages().items() if name[:2] == f"0{number[0]}" and number in page]
    for chapter in re.findall(r"[Cc]hapters? (\d)", paragraph):
        found += [part for name, page in pages().items() if name[:2] == f"0{chapter}" for part in page.values()]
    return found


def without_source(name: str) -> list[tuple[str, str, str]]:
    """Cell, number and sentence of each number of a page that has no source."""
    page, found = pages()[name], []
    published = list(leaves(json.loads((ROOT / "benchmarks" / "published.json").read_text(encoding="utf-8"))))
    for part in page.values():
        for cell, text in part.cells:
            tables = "\n".join(results.text(make) for make in results.TABLES if f"<!-- generated: {make} -->" in text)
            for paragraph in re.split(r"\n\s*\n", NO_CLAIM.sub(" ", text)):
                behind = [part, page[""], *named(paragraph)]
                code = "\n".join(line for b in behind for line in b.code)
                shown = [n for b in behind for line in b.outputs for n in said(line)] + said(tables)
                exact = reports(code + ("" if part.code else text))
                sets = [v for b in behind for line in b.code for v in literals(line)] + settings()
                for number in said(paragraph):
                    if not (number.digits or number.percent) or number.text in LEVELS:
                        continue
                    if any(number.text in kind.get(name, ()) for kind in (WORKED, LOGGED, IMAGINED)):
                        continue
                    if any(number.equals(n.value, n.digits, n.percent) for n in shown):
                        continue
                    if any(number.equals(v) for v in exact) or any(number.is_set_by(v) for v in sets):
                        continue
                    if any(abs(number.value - v) < 1e-9 or abs(100 * number.value - v) < 1e-9 for v in published):
                        continue  # 0.996 for 99.6
                    sentence = next((s for s in re.split(r"(?<=[.!?])\s", paragraph) if number.text[:-2] in s), "")
                    found.append((cell, number.text, " ".join(sentence.split())))
    return found


def parameters(name: str) -> int:
    with safe_open(ROOT / "adlib" / "weights" / f"{name}.safetensors", "numpy") as file:
        return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118


def screws(method: str) -> float:
    """The mean image AUROC of a method's runs on real screws."""
    runs = json.loads((ROOT / "benchmarks" / "accuracy" / "real.json").read_text(encoding="utf-8"))["results"]
    return fmean(r["image_auroc"]["value"] for r in runs if (r["data"], r["method"]) == ("screw", method))


def least_loss(variance: float) -> float:
    """Of chapter 4, exercise 4."""
    edge = math.sqrt(variance * math.log(variance) / (variance - 1))
    return 2 * float(stats.norm.sf(edge) + stats.norm.cdf(edge / math.sqrt(variance)) - 0.5)


@pytest.mark.parametrize("name", pages())
def test_every_number_in_prose_has_a_source(name: str) -> None:
    assert without_source(name) == []


def test_what_is_worked_out_gives_its_number_and_stands_on_its_page() -> None:
    given = {"math": math, "metrics": metrics, "stats": stats, "threshold": threshold, "parameters": parameters,
             "least_loss": least_loss, "screws": screws}
    for name, numbers in WORKED.items():
        text = NO_CLAIM.sub(" ", "\n\n".join(cell[1] for part in pages()[name].values() for cell in part.cells))
        stands = {number.text: number for number in said(text)}
        for number, calculation in numbers.items():
            assert number in stands, f"{name} no longer says {number}"
            assert stands[number].equals(eval(calculation, dict(given))), f"{name}: {number} is not {calculation}"


def test_a_number_without_a_source_is_found() -> None:
    (number,) = said("an AUROC of 0.964")
    assert number.equals(0.9637) and number.equals(0.9644, 4)
    assert not number.equals(0.9646) and not number.equals(0.96, 2), "another number, or known to fewer digits"
    assert [n.text for n in said("0.5 to 2 %, 7 or 8 % in 2006")] == ["0.5 %", "2 %", "7 %", "8 %", "2006"]
    assert said("9 %")[0].equals(0.0912) and not said("9 %")[0].equals(9.12) and said("9 %")[0].equals(9.12, 2, True)


if __name__ == "__main__":
    for name in pages():
        for cell, number, sentence in without_source(name):
            print(name, cell, number, sentence, sep="\t")
