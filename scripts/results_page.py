"""The results page of the book, made from benchmarks/results/*.json and benchmarks/published.json.

    python scripts/results_page.py            # prints the page
    python scripts/results_page.py --readme   # writes the table of the README
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "au_pro": "AU-PRO"}
NEEDED = ("name", "command", "versions", "backbone", "dataset", "category", "protocol", "seeds", "results")


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The measurements in `folder`, one JSON file each, in the order of data set, category and name.

    ValueError names the file and what it lacks.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path.name}: expected JSON: {error}") from error
        missing = [key for key in NEEDED if key not in entry]
        if missing:
            raise ValueError(f"{path.name}: expected the keys {', '.join(missing)}; write it with benchmarks/ again")
        if [run.get("seed") for run in entry["results"]] != entry["seeds"] or not entry["seeds"]:
            raise ValueError(f"{path.name}: expected one result for each of the seeds {entry['seeds']}, in this order")
        for run in entry["results"]:
            for metric, value in run.items():
                if metric in METRICS and not 0 <= value["value"] <= 1:
                    raise ValueError(f"{path.name}: {metric} is {value['value']}, expected a number from 0 to 1")
        found.append(entry)
    return sorted(found, key=lambda e: (e["dataset"], e["category"], e["name"]))


def cell(results: list[dict[str, Any]], metric: str) -> str:
    """Mean ± standard deviation over the seeds, and the interval of the first seed, as text."""
    runs = [run[metric] for run in results if metric in run]
    if not runs:
        return "–"
    values = [run["value"] for run in runs]
    text = f"{statistics.fmean(values):.4f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.4f}"
    first = runs[0]
    return text + (f" [{first['low']:.3f}, {first['high']:.3f}]" if "low" in first and "high" in first else "")


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in line) + " |" for line in lines]


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def page(benchmarks: Path) -> str:
    """The page as MyST Markdown, from the folder `benchmarks`."""
    ours = read_results(benchmarks / "results")
    published = json.loads((benchmarks / "published.json").read_text(encoding="utf-8"))
    lines = ["# Results on real images", ""]
    if not ours:
        lines += ["There are no measurements in `benchmarks/results/` yet.", ""]
    for data in dict.fromkeys((entry["dataset"], entry["category"]) for entry in ours):
        entries = [entry for entry in ours if (entry["dataset"], entry["category"]) == data]
        lines += [f"## {' / '.join(part for part in data if part)}", ""]
        rows = [[e["name"], e["backbone"], str(len(e["seeds"])), *(cell(e["results"], m) for m in METRICS)]
                for e in entries]
        lines += table(["measurement", "backbone", "seeds", *METRICS.values()], rows)
        lines += ["", "Mean ± standard deviation over the seeds; in brackets the 95 % interval of the first seed,",
                  "which resamples images (for the magnetic tiles, tiles) and never pixels.", ""]
        lines += [f"- **{e['name']}**: {e['protocol']}" for e in entries] + [""]
    lines += ["## What others have published", "", *published["note"], ""]
    for data in dict.fromkeys(entry["data"] for entry in published["entries"]):
        rows = [[e["method"], *(percent(e.get(m)) for m in METRICS), e["source"], "yes" if e["verified"] else "no"]
                for e in published["entries"] if e["data"] == data]
        lines += [f"### {data}", ""]
        lines += [*table(["method", "image AUROC", "pixel AUROC", "PRO", "source", "read there"], rows), ""]
    lines += ["**Read with care:**", "", *(f"- {remark}" for remark in published["remarks"]), ""]
    if ours:
        lines += ["## How to measure again", "", "```bash", *dict.fromkeys(e["command"] for e in ours), "```", "",
                  "Versions at the time:", ""]
        lines += [f"- {e['name']}: " + ", ".join(f"{k} {v}" for k, v in sorted(e["versions"].items())) for e in ours]
    return "\n".join(lines).rstrip() + "\n"


README_TABLE = re.compile(r"(<!-- results: .*? -->\n).*?(<!-- end of results -->)", re.S)


def with_table(readme: str, benchmarks: Path) -> str:
    """The text of the README with its results as they are in `benchmarks`."""
    rows = [[" ".join(part for part in (e["dataset"], e["category"]) if part), e["backbone"], str(len(e["seeds"])),
             *(cell(e["results"], m) for m in METRICS)] for e in read_results(benchmarks / "results")]
    lines = table(["data", "backbone", "seeds", *METRICS.values()], rows)
    return README_TABLE.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], readme)


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    if sys.argv[1:] == ["--readme"]:
        path = root / "README.md"
        path.write_text(with_table(path.read_text(encoding="utf-8"), root / "benchmarks"), encoding="utf-8")
    else:
        print(page(root / "benchmarks"))


if __name__ == "__main__":
    main()
