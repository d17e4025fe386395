"""The tables of the book that are made from measurements: benchmarks/**/*.json. `TABLES` has them by name.

    python book/tools/results.py comparison # prints one of them
    python book/tools/results.py --readme   # writes the table of the README

A page shows one where it says <!-- generated: NAME -->; the words around it stand in the page.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repository import ROOT

# Where the measurements lie under benchmarks/, by the name of the report.
ACCURACY, SPEED = "accuracy/{}.json", "speed/{}.json"
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "au_pro": "AU-PRO"}
NEEDED = ("name", "command", "versions", "backbone", "dataset", "category", "protocol", "seeds", "results")
UNBROKEN = re.compile(r"\d\.\d+ ± \d\.\d+|\[\d\.\d+, \d\.\d+\]")  # a browser must not break a line in these
DATA_NAMES = {"magnetic_tile": "magnetic tiles", "mvtec_ad bottle": "MVTec AD, bottle"}


def read_report(benchmarks: Path, name: str) -> dict[str, Any]:
    """The report of one benchmark, such as "comparison", or "speed coreset"."""
    kind, _, rest = name.partition(" ")
    path = benchmarks / (SPEED.format(rest) if kind == "speed" else ACCURACY.format(name))
    return json.loads(path.read_text(encoding="utf-8"))


def read_results(benchmarks: Path) -> list[dict[str, Any]]:
    """PatchCore's accuracy on real images, one report each, in the order of data set, category and name.

    ValueError names the file and what it lacks.
    """
    found = []
    for path in sorted(benchmarks.glob(ACCURACY.format("patchcore_*"))):
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
    text = f"{statistics.fmean(values):.3f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.3f}"
    first = runs[0]
    return text + (f" [{first['low']:.3f}, {first['high']:.3f}]" if "low" in first and "high" in first else "")


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in line) + " |" for line in lines]


def seconds(value: float) -> str:
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def versions(report: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in report["versions"].items())


def measured(report: dict[str, Any]) -> list[str]:
    """How a report came about."""
    return [f"Measured with `{report['command']}`: {report['protocol']}. {versions(report)}."]


# ------------------------------------------------------------------ the tables


def data_name(entry: dict[str, Any]) -> str:
    name = " ".join(part for part in (entry["dataset"], entry["category"]) if part)
    return DATA_NAMES.get(name, name)


def patchcore_table(benchmarks: Path) -> list[str]:
    """PatchCore on real images, from benchmarks/patchcore.py."""
    rows = [[data_name(e), e["backbone"], str(len(e["seeds"])), *(cell(e["results"], m) for m in METRICS)]
            for e in read_results(benchmarks)]
    return table(["data", "backbone", "seeds", *METRICS.values()], rows)


def patchcore_measured(benchmarks: Path) -> list[str]:
    ours = read_results(benchmarks)
    protocols = dict.fromkeys((data_name(e), e["protocol"]) for e in ours)
    return [*(f"- **{name}**: {protocol}." for name, protocol in protocols), "", "Measured with", "", "```bash",
            *dict.fromkeys(e["command"] for e in ours), "```", "",
            "and " + "; ".join(dict.fromkeys(versions(e) for e in ours)) + "."]


def published_tables(benchmarks: Path) -> list[str]:
    """What others have published, from benchmarks/published.json."""
    published = json.loads((benchmarks / "published.json").read_text(encoding="utf-8"))
    lines = [*published["note"], ""]
    for data in dict.fromkeys(entry["data"] for entry in published["entries"]):
        rows = [[e["method"], *("–" if e.get(m) is None else f"{e[m]:.1f}" for m in METRICS), e["source"],
                 "yes" if e["verified"] else "no"] for e in published["entries"] if e["data"] == data]
        lines += [f"### {data}", ""]
        lines += [*table(["method", "image AUROC", "pixel AUROC", "PRO", "source", "read there"], rows), ""]
    return [*lines, "**Read with care:**", "", *(f"- {remark}" for remark in published["remarks"])]


WAYS = {"random": "PatchCore, random weights", "global average": "nearest neighbour, features averaged over the image",
        "mean image": "difference from the mean image"}


def factory_table(benchmarks: Path) -> list[str]:
    """How hard each product of the factory is, from benchmarks/factory.py."""
    products = read_report(benchmarks, "factory")["products"]
    kinds = [(product, kind) for product, entry in products.items() for kind in ("structural", "logical")
             if kind in entry["patchcore"][0]]
    rows = [["PatchCore, defaults", *(cell(products[p]["patchcore"], kind) for p, kind in kinds)]]
    rows += [[name, *(cell(products[p]["baselines"][way], kind) for p, kind in kinds)] for way, name in WAYS.items()]
    return table(["image AUROC", *(f"{p}, {kind}" if p == "kit" else p for p, kind in kinds)], rows)


def factory_kinds(benchmarks: Path) -> list[str]:
    lines = []
    for product, entry in read_report(benchmarks, "factory")["products"].items():
        by_kind = ", ".join(f"{k.replace('_', ' ')} {v:.2f}" for k, v in entry["patchcore"][0]["by_kind"].items())
        lines += [f"- `{product}`: {by_kind}"]
    return lines


def factory_speed(benchmarks: Path) -> list[str]:
    speeds = {p: e["pictures_per_second"] for p, e in read_report(benchmarks, "factory")["products"].items()}
    return table(["product", *(f"`{p}`" for p in speeds)],
                 [[f"{kind} pictures per second", *(f"{s[kind]:.0f}" for s in speeds.values())]
                  for kind in ("good", "defective")])


def backbones(benchmarks: Path) -> list[str]:
    """Every candidate for the shipped backbone, one table for each size of the images."""
    candidates, lines = read_report(benchmarks, "backbones")["candidates"], []
    for size in sorted({c["image_size"] for c in candidates}, reverse=True):
        those = [c for c in candidates if c["image_size"] == size]
        rows = [[c["name"], *(f"{r['image_auroc']:.3f}" for r in c["results"].values()), f"{c['time_ratio']:.2f}"]
                for c in those]
        lines += [*table([f"candidate, {size} pixels", *those[0]["results"], "time"], rows), ""]
    return lines


def spd_table(benchmarks: Path) -> list[str]:
    """Pre-training with and without SPD, from benchmarks/spd.py."""
    results, rows = read_report(benchmarks, "spd")["results"], []
    for objective, variant in dict.fromkeys((r["objective"], r["variant"]) for r in results):
        runs = [r for r in results if (r["objective"], r["variant"]) == (objective, variant)]
        drops = [statistics.fmean(r[f"sensitivity_{of}"] for r in runs) for of in ("blend", "pairs")]
        rows.append([objective, variant.replace("base", "without").replace("spd", "with") or "–", str(len(runs)),
                     cell(runs, "image_auroc"), *(f"{d:.3f}" for d in drops)])
    header = ["objective", "SPD", "seeds", "image AUROC on board", "sensitivity, SmoothBlend", "sensitivity, pairs"]
    return table(header, rows)


def simplenet_table(benchmarks: Path) -> list[str]:
    """SimpleNet over seeds, by the last epoch and by the best one on the test set, from benchmarks/simplenet.py."""
    results, rows = read_report(benchmarks, "simplenet")["results"], []
    for name, decay in dict.fromkeys((r["data"], r["options"]["decay"]) for r in results):
        runs = [r for r in results if (r["data"], r["options"]["decay"]) == (name, decay)]
        best = cell([{"best": {"value": r["best_on_test"]}} for r in runs], "best")
        rows.append([DATA_NAMES.get(name, name), "constant" if decay == "none" else decay,
                     str(runs[0]["options"]["epochs"]), str(len(runs)),
                     cell(runs, "image_auroc"), best, *(cell(runs, m) for m in ("logical", "pixel_auroc", "au_pro"))])
    header = ["data", "learning rate", "epochs", "seeds", "image AUROC, last epoch", "best epoch on the test set",
              "logical anomalies", *list(METRICS.values())[1:]]
    return table(header, rows)


def efficientad_table(benchmarks: Path) -> list[str]:
    """EfficientAD beside PatchCore on the same images, from benchmarks/efficientad.py."""
    results, rows = read_report(benchmarks, "efficientad")["results"], []
    for name in dict.fromkeys(r["data"] for r in results):
        runs = [r for r in results if r["data"] == name]
        for kind in ("structural", "logical"):
            if kind in runs[0]:
                alone = [cell([r[part] for r in runs], kind).split(" [")[0]
                         for part in ("student_map", "autoencoder_map")]
                rows.append([name, kind, str(len(runs)), cell(runs, kind), *alone,
                             cell([r["patchcore"] for r in runs], kind)])
    header = ["data", "anomalies", "seeds", "EfficientAD", "its student's map", "its autoencoder's map", "PatchCore"]
    return table(header, rows)


def efficientad_gain(benchmarks: Path) -> list[str]:
    gain = read_report(benchmarks, "efficientad")["kit_logical_minus_patchcore"]
    return [f"On the logical anomalies of kit, EfficientAD's AUROC lies {gain['value']:.3f} above PatchCore's, 95 % "
            f"interval {gain['low']:.3f} to {gain['high']:.3f} (test images drawn again, the same for both)."]


WAY_NAMES = {"patchcore": "PatchCore", "simplenet": "SimpleNet", "efficientad": "EfficientAD",
             "patchcore_128": "PatchCore at 128 pixels",
             "base": "PatchCore, base backbone", "spd": "PatchCore, SPD backbone"}


def comparison_table(benchmarks: Path) -> list[str]:
    """The detectors on the same images, from benchmarks/comparison.py."""
    results, rows = read_report(benchmarks, "comparison")["results"], []
    for name in dict.fromkeys(r["data"] for r in results):
        for way, title in WAY_NAMES.items():
            runs = [r for r in results if (r["data"], r["way"]) == (name, way)]
            if runs:
                plain = [{m: {"value": r[m]} for m in ("au_pro", "au_spro_0.05")} for r in runs]
                rows.append([name, title, str(len(runs)), cell(runs, "structural"), cell(runs, "logical"),
                             cell(plain, "au_pro"), cell(plain, "au_spro_0.05")])
    return table(["data", "detector", "seeds", "structural", "logical", "AU-PRO", "AU-sPRO 0.05"], rows)


def comparison_cost(benchmarks: Path) -> list[str]:
    cost = read_report(benchmarks, "comparison")["cost"]
    rows = [[WAY_NAMES[c["way"]], f"{c['fit_seconds']:.0f} s", f"{c['peak_mb_over_loaded_data']} MB",
             f"{c['saved_bytes'] / 1e6:.1f} MB", seconds(c["one_image_seconds"]), seconds(c["of_sixteen_seconds"])]
            for c in cost["results"]]
    header = ["detector", "fitting", "peak memory", "file", "one image", "an image of sixteen"]
    return [*table(header, rows), "", f"Measured on a quiet machine, {cost['threads']} threads, {cost['data']}."]


# ------------------------------------------------------------------ speed

SPEEDS = ("coreset", "efficientad", "metrics", "neighbours", "patchcore", "simplenet")
# What was timed, and the other form that ran beside it.
PAIRS = {
    "forward": ("EfficientAD-S, 256 pixels, scores of one image", "the same layers as plain modules"),
    "channels_last": ("the plain modules of EfficientAD-S, channels last", "the same, contiguous"),
    "bf16": ("EfficientAD-S, 256 pixels, float32", "the same with bf16=True"),
    "training step": ("EfficientAD-S, 256 pixels, one training step", "the same step in the reference's form"),
    "hard loss": ("hard feature loss, 384 × 56 × 56, with its gradient", "quantile and mask"),
    "whole image, quarter width": ("EfficientAD-S, 256 pixels, one whole image", "EfficientAD, a quarter of the width"),
    "whole image, patchcore": ("EfficientAD-S, 256 pixels, one whole image", "PatchCore with its defaults"),
    "whole image, simplenet": ("EfficientAD-S, 256 pixels, one whole image", "SimpleNet with its defaults"),
    "training": ("SimpleNet, a training pass over 64 × 784 × 1,536 numbers",
                 "the official loop's form, the same features"),
    "scoring": ("SimpleNet's head, 784 patches of 1,536 numbers", "the official head's plain layers"),
    "image": ("SimpleNet, one whole image", "PatchCore with its defaults, bank of 200 images"),
}


def timed(entry: dict[str, Any], peer: str) -> list[str]:
    return [seconds(entry["timing"][form]["seconds"]) for form in ("adlib", peer)]


def coreset_rows(results: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for e in results:
        for key, ratio in e["ratios"].items():
            projected = f", projected to {key.split('_')[-1]}" if key[-1].isdigit() else ""
            peer = "official approximate loop" if key == "official_form_128" else "anomalib's loop"
            note = " (extrapolated)" if e[key]["extrapolated"] else ""
            rows.append([f"coreset, {e['k']:,} of {e['n']:,}, d = {e['d']}", seconds(e["adlib"]["seconds"]),
                         f"{e['adlib']['extra_mb']:.0f} MB", peer + projected, seconds(e[key]["seconds"]) + note,
                         f"{ratio:.1f}"])
    return rows


def speed_table(benchmarks: Path) -> list[str]:
    """The measurements of benchmarks/speed*.py, each beside the other form that ran in the same run."""
    results = {name: read_report(benchmarks, f"speed {name}")["results"] for name in SPEEDS}
    rows = coreset_rows(results["coreset"])
    for e in results["metrics"]:
        peer = {"sorted_au_pro": "all pixels sorted, as anomalib does", "sklearn_auroc": "scikit-learn"}[e["peer"]]
        what, (ours, theirs), memory = METRICS[e["measure"]], timed(e, "peer"), e["extra_mb"]
        rows.append([f"{what}, {e['images']} maps of 256×256", ours, f"{memory['adlib']:.0f} MB",
                     f"{peer} ({memory['peer']:.0f} MB)", theirs, f"{e['ratio']:.1f}"])
    for e in results["neighbours"]:
        if "faiss_flat" in e:
            memory = f"{e['adlib']['extra_mb']:.0f} MB" if "extra_mb" in e["adlib"] else "–"
            rows.append([f"784 nearest neighbours of {e['n']:,}, d = {e['d']}",
                         seconds(e["adlib_prepared_bank"]["seconds"]), memory, "faiss, flat index",
                         seconds(e["faiss_flat"]["seconds"]), f"{1 / e['to_faiss']['adlib_prepared_bank']:.2f}"])
    for e in results["patchcore"]:
        images = "one image" if e["batch"] == 1 else f"{e['batch']} images at a time"
        ours, theirs = timed(e, "anomalib_form")
        rows.append([f"PatchCore, {images}, ResNet-18, bank of {e['bank']:,}", ours, "–",
                     "the same steps in anomalib's form", theirs, f"{e['ratio']:.2f}"])
    for e in [*results["simplenet"], *results["efficientad"]]:
        what, peer = PAIRS[e["what"]]
        ours, theirs = timed(e, e["peer"])
        rows.append([what, ours, "–", peer, theirs, f"{e['ratio']:.2f}"])
    return table(["computation", "adlib", "extra memory", "beside it, in the same run", "takes", "ratio"], rows)


def speed_measured(benchmarks: Path) -> list[str]:
    reports = [read_report(benchmarks, f"speed {name}") for name in SPEEDS]
    return [f"On {reports[0]['threads']} processor cores, without a GPU.", "",
            *(f"- {report['name']}: `{report['command']}`, {versions(report)}" for report in reports)]


TABLES: dict[str, Callable[[Path], list[str]]] = {
    "patchcore": patchcore_table, "patchcore measured": patchcore_measured, "comparison": comparison_table,
    "comparison cost": comparison_cost, "simplenet": simplenet_table, "efficientad": efficientad_table,
    "efficientad gain": efficientad_gain, "spd": spd_table, "backbones": backbones, "published": published_tables,
    "speed": speed_table, "speed measured": speed_measured, "factory": factory_table, "factory kinds": factory_kinds,
    "factory speed": factory_speed,
    **{f"{name} measured": lambda benchmarks, name=name: measured(read_report(benchmarks, name))
       for name in ("comparison", "simplenet", "efficientad", "spd", "backbones", "factory")},
}


def text(name: str, benchmarks: Path = ROOT / "benchmarks") -> str:
    """A table of `TABLES` as Markdown."""
    return UNBROKEN.sub(lambda found: found[0].replace(" ", "\u00a0"), "\n".join(TABLES[name](benchmarks)))


README_TABLE = re.compile(r"(<!-- results: .*? -->\n).*?(<!-- end of results -->)", re.S)


def with_table(readme: str) -> str:
    """The text of the README with its results as they are in benchmarks/."""
    lines = patchcore_table(ROOT / "benchmarks")
    return README_TABLE.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], readme)


def main() -> None:
    if sys.argv[1:] == ["--readme"]:
        path = ROOT / "README.md"
        path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
    elif " ".join(sys.argv[1:]) in TABLES:
        print(text(" ".join(sys.argv[1:])))
    else:
        sys.exit(f"expected --readme or one of: {', '.join(TABLES)}")


if __name__ == "__main__":
    main()
