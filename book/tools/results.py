"""The results page of the book, made from the JSON files in benchmarks/.

    python book/tools/results.py            # prints the page
    python book/tools/results.py --readme   # writes the table of the README
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "au_pro": "AU-PRO"}
# Beginnings of the names of reports that are no accuracy of PatchCore on one data set.
OTHER_REPORTS = ("factory", "spd", "backbones", "simplenet", "efficientad", "comparison")
NEEDED = ("name", "command", "versions", "backbone", "dataset", "category", "protocol", "seeds", "results")


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The measurements in `folder`, one JSON file each, in the order of data set, category and name.

    ValueError names the file and what it lacks.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.stem.startswith(OTHER_REPORTS):
            continue
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


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def page(benchmarks: Path) -> str:
    """The page as MyST Markdown, from the folder `benchmarks`."""
    parts = [INTRODUCTION, patchcore_tables(benchmarks)]
    parts += [tables(benchmarks) for tables in (comparison_tables, simplenet_tables, efficientad_tables, spd_tables,
                                                backbone_tables, published_tables, speed_tables)]
    text = "\n\n".join("\n".join(lines).strip() for lines in parts if lines) + "\n"
    return UNBROKEN.sub(lambda found: found[0].replace(" ", "\u00a0"), text)


INTRODUCTION = [
    "# Results", "",
    "All figures of this book that took more than a notebook to measure, and what others have published. No figure "
    "is typed into this page: it is made from the files in `benchmarks/`. Our own runs stand there with command, seeds "
    "and versions, the figures of others with their source. Unless a table says otherwise, our backbone is the small "
    "one that the package carries. The papers' networks are many times as large, so the two do not compare.", "",
    "Mean ± standard deviation is over the seeds. A 95 % interval stands in brackets: it is that of the first seed, "
    "from resampled images (for the magnetic tiles, whole tiles), never from resampled pixels.",
]  # fmt: skip
UNBROKEN = re.compile(r"\d\.\d+ ± \d\.\d+|\[\d\.\d+, \d\.\d+\]")  # a browser must not break a line in these
DATA_NAMES = {"magnetic_tile": "magnetic tiles", "mvtec_ad bottle": "MVTec AD, bottle"}


def data_name(entry: dict[str, Any]) -> str:
    name = " ".join(part for part in (entry["dataset"], entry["category"]) if part)
    return DATA_NAMES.get(name, name)


def accuracy_table(entries: list[dict[str, Any]]) -> list[str]:
    rows = [[data_name(e), e["backbone"], str(len(e["seeds"])), *(cell(e["results"], m) for m in METRICS)]
            for e in entries]
    return table(["data", "backbone", "seeds", *METRICS.values()], rows)


def patchcore_tables(benchmarks: Path) -> list[str]:
    """PatchCore on real images, from benchmarks/accuracy/patchcore.py, as Markdown."""
    ours = read_results(benchmarks / "accuracy")
    if not ours:
        return ["There are no measurements in `benchmarks/accuracy/` yet."]
    lines = ["## PatchCore on real images", "", *accuracy_table(ours), ""]
    protocols = dict.fromkeys((data_name(e), e["protocol"]) for e in ours)
    lines += [f"- **{name}**: {protocol}." for name, protocol in protocols] + [""]
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in sorted(e["versions"].items())) for e in ours)
    return [*lines, "Measured with", "", "```bash", *dict.fromkeys(e["command"] for e in ours), "```", "",
            "and " + "; ".join(versions) + "."]


def published_tables(benchmarks: Path) -> list[str]:
    """What others have published, from benchmarks/published.json, as Markdown."""
    published = json.loads((benchmarks / "published.json").read_text(encoding="utf-8"))
    lines = ["## What others have published", "", *published["note"], ""]
    for data in dict.fromkeys(entry["data"] for entry in published["entries"]):
        rows = [[e["method"], *(percent(e.get(m)) for m in METRICS), e["source"], "yes" if e["verified"] else "no"]
                for e in published["entries"] if e["data"] == data]
        lines += [f"### {data}", ""]
        lines += [*table(["method", "image AUROC", "pixel AUROC", "PRO", "source", "read there"], rows), ""]
    return [*lines, "**Read with care:**", "", *(f"- {remark}" for remark in published["remarks"])]


FACTORY_PLACE = "<!-- factory table -->\n"
WAYS = {"random": "PatchCore, random weights", "global average": "nearest neighbour, features averaged over the image",
        "mean image": "difference from the mean image"}


def factory_table(benchmarks: Path) -> str:
    """How hard each product of the factory is, as MyST Markdown, from benchmarks/accuracy/factory.json."""
    report = json.loads((benchmarks / "accuracy" / "factory.json").read_text(encoding="utf-8"))
    kinds = [(product, kind) for product, entry in report["products"].items() for kind in ("structural", "logical")
             if kind in entry["patchcore"][0]]
    rows = [["PatchCore, defaults", *(cell(report["products"][p]["patchcore"], kind) for p, kind in kinds)]]
    rows += [[name, *(cell(report["products"][p]["baselines"][way], kind) for p, kind in kinds)]
             for way, name in WAYS.items()]
    header = ["image AUROC", *(f"{p}, {kind}" if p == "kit" else p for p, kind in kinds)]
    speeds = {p: e["pictures_per_second"] for p, e in report["products"].items()}
    rates = "; ".join(f"`{p}` {s['good']:.0f} and {s['defective']:.0f}" for p, s in speeds.items())
    seeds = report["seeds"]
    several = f"Mean ± standard deviation over {len(seeds)} factories and detectors;"
    lines = [*table(header, rows), "",
             several if len(seeds) > 1 else f"One factory and one detector of each kind, seed {seeds[0]};",
             "in brackets the 95 % interval of the first, from resampled images.", "",
             "By kind of defect, PatchCore on the first factory:", ""]
    for product, entry in report["products"].items():
        by_kind = ", ".join(f"{k.replace('_', ' ')} {v:.2f}" for k, v in entry["patchcore"][0]["by_kind"].items())
        lines += [f"- `{product}`: {by_kind}"]
    lines += ["", f"Pictures of 256 pixels drawn in a second on one core, good and defective ones: {rates}.",
              "A defective one is drawn twice, without and with its defect.", "",
              f"Measured with `{report['command']}` on version {report['factory_version']} of the factory: "
              f"{report['protocol']}.", ""]
    return "\n".join(lines)


def seconds(value: float) -> str:
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


EFFICIENTAD_SPEED = {
    "forward": ("EfficientAD-S, 256 pixels, scores of one image", "the same layers as plain modules"),
    "channels_last": ("the plain modules of EfficientAD-S, channels last", "the same, contiguous"),
    "bf16": ("EfficientAD-S, 256 pixels, float32", "the same with bf16=True"),
    "training step": ("EfficientAD-S, 256 pixels, one training step", "the same step in the reference's form"),
    "hard loss": ("hard feature loss, 384 × 56 × 56, with its gradient", "quantile and mask"),
    "whole image, quarter width": ("EfficientAD-S, 256 pixels, one whole image", "EfficientAD, a quarter of the width"),
    "whole image, patchcore": ("EfficientAD-S, 256 pixels, one whole image", "PatchCore with its defaults"),
    "whole image, simplenet": ("EfficientAD-S, 256 pixels, one whole image", "SimpleNet with its defaults"),
}


def speed_tables(benchmarks: Path) -> list[str]:
    """The measurements of benchmarks/speed/ as Markdown, each beside the other form that ran in the same run."""
    reports = {path.stem: json.loads(path.read_text(encoding="utf-8"))
               for path in sorted((benchmarks / "speed").glob("*.json"))}
    rows: list[list[str]] = []
    for e in reports.get("coreset", {"results": []})["results"]:
        what = f"coreset, {e['k']:,} of {e['n']:,}, d = {e['d']}"
        names = {"official_form_128": "official approximate loop, projected to 128"}
        for key in e["ratios"]:
            projected = f", projected to {key.split('_')[-1]}" if key[-1].isdigit() else ""
            peer = names.get(key, "anomalib's loop" + projected)
            note = " (extrapolated)" if e[key]["extrapolated"] else ""
            rows.append([what, seconds(e["adlib"]["seconds"]), f"{e['adlib']['extra_mb']:.0f} MB", peer,
                         seconds(e[key]["seconds"]) + note, f"{e['ratios'][key]:.1f}"])
    for e in reports.get("metrics", {"results": []})["results"]:
        peer = {"sorted_au_pro": "all pixels sorted, as anomalib does", "sklearn_auroc": "scikit-learn"}[e["peer"]]
        ours, theirs = (seconds(e["timing"][form]["seconds"]) for form in ("adlib", "peer"))
        what, memory = f"{METRICS[e['measure']]}, {e['images']} maps of 256×256", e["extra_mb"]
        rows.append([what, ours, f"{memory['adlib']:.0f} MB", f"{peer} ({memory['peer']:.0f} MB)", theirs,
                     f"{e['ratio']:.1f}"])
    for e in reports.get("neighbours", {"results": []})["results"]:
        if "faiss_flat" in e:
            memory = f"{e['adlib']['extra_mb']:.0f} MB" if "extra_mb" in e["adlib"] else "–"
            rows.append([f"784 nearest neighbours of {e['n']:,}, d = {e['d']}",
                         seconds(e["adlib_prepared_bank"]["seconds"]), memory, "faiss, flat index",
                         seconds(e["faiss_flat"]["seconds"]), f"{1 / e['to_faiss']['adlib_prepared_bank']:.2f}"])
    for e in reports.get("patchcore", {"results": []})["results"]:
        images = "one image" if e["batch"] == 1 else f"{e['batch']} images at a time"
        ours, theirs = (seconds(e["timing"][form]["seconds"]) for form in ("adlib", "anomalib_form"))
        rows.append([f"PatchCore, {images}, ResNet-18, bank of {e['bank']:,}", ours, "–",
                     "the same steps in anomalib's form", theirs, f"{e['ratio']:.2f}"])
    peers = {"training": "the official loop's form, the same features", "scoring": "the official head's plain layers",
             "image": "PatchCore with its defaults, bank of 200 images"}
    names = {"training": "SimpleNet, a training pass over 64 × 784 × 1,536 numbers",
             "image": "SimpleNet, one whole image", "scoring": "SimpleNet's head, 784 patches of 1,536 numbers"}
    for e in reports.get("simplenet", {"results": []})["results"]:
        ours, theirs = (seconds(e["timing"][form]["seconds"]) for form in ("adlib", e["peer"]))
        rows.append([names[e["what"]], ours, "–", peers[e["what"]], theirs, f"{e['ratio']:.2f}"])
    for e in reports.get("efficientad", {"results": []})["results"]:
        what, peer = EFFICIENTAD_SPEED[e["what"]]
        ours, theirs = (seconds(e["timing"][form]["seconds"]) for form in ("adlib", e["peer"]))
        rows.append([what, ours, "–", peer, theirs, f"{e['ratio']:.2f}"])
    if not rows:
        return []
    first = next(iter(reports.values()))
    return [
        "## Speed", "",
        *table(["computation", "adlib", "extra memory", "beside it, in the same run", "takes", "ratio"], rows), "",
        f"On {first['threads']} processor cores, without a GPU: trust the ratios, not the seconds. The other forms are",
        "written in our benchmark after the published algorithms; faiss and scikit-learn are called as they are. An",
        "*extrapolated* loop ran for some of its steps only. A ratio below 1 means that the other one is faster.", "",
        *(f"- {report['name']}: `{report['command']}`, " + ", ".join(f"{k} {v}" for k, v in report["versions"].items())
          for report in reports.values()), "",
    ]


def backbone_tables(benchmarks: Path) -> list[str]:
    """Every candidate for the shipped backbone, one table for each size of the images, as Markdown."""
    path = benchmarks / "accuracy" / "backbones.json"
    if not path.is_file():
        return []
    report = json.loads(path.read_text(encoding="utf-8"))
    lines = ["## Candidates for the shipped backbone", "",
             "Image AUROC of PatchCore on what may be used for choosing; no test image of a real data set is among it.",
             "One training run each. The time is that of the network for one image, over that of version 1.", ""]
    for size in sorted({c["image_size"] for c in report["candidates"]}, reverse=True):
        candidates = [c for c in report["candidates"] if c["image_size"] == size]
        rows = [[c["name"], *(f"{r['image_auroc']:.3f}" for r in c["results"].values()), f"{c['time_ratio']:.2f}"]
                for c in candidates]
        lines += [*table([f"candidate, {size} pixels", *candidates[0]["results"], "time"], rows), ""]
    return [*lines, f"Measured with `{report['command']}`: {report['protocol']}.", ""]


def spd_tables(benchmarks: Path) -> list[str]:
    """Pre-training with and without SPD, from benchmarks/accuracy/spd.py, as Markdown."""
    path = benchmarks / "accuracy" / "spd.json"
    if not path.is_file():
        return []
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for objective, variant in dict.fromkeys((r["objective"], r["variant"]) for r in report["results"]):
        runs = [r for r in report["results"] if (r["objective"], r["variant"]) == (objective, variant)]
        drops = [statistics.fmean(r[f"sensitivity_{of}"] for r in runs) for of in ("blend", "pairs")]
        rows.append([objective, variant.replace("base", "without").replace("spd", "with") or "–", str(len(runs)),
                     cell(runs, "image_auroc"), *(f"{d:.3f}" for d in drops)])
    header = ["objective", "SPD", "seeds", "image AUROC on board", "sensitivity, SmoothBlend", "sensitivity, pairs"]
    return ["## Pre-training with and without SPD", "", *table(header, rows), "",
            "Sensitivity is the cosine drop under a local change over that under a weak global one. Chapter 3",
            "discusses the rows.",
            "",
            f"Measured with `{report['command']}`: {report['protocol']}.", ""]


def simplenet_tables(benchmarks: Path) -> list[str]:
    """SimpleNet over seeds, by the last epoch and by the best one on the test set, of benchmarks/accuracy."""
    path = benchmarks / "accuracy" / "simplenet.json"
    if not path.is_file():
        return []
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for name, decay in dict.fromkeys((r["data"], r["options"]["decay"]) for r in report["results"]):
        runs = [r for r in report["results"] if (r["data"], r["options"]["decay"]) == (name, decay)]
        best = cell([{"best": {"value": r["best_on_test"]}} for r in runs], "best")
        rows.append([DATA_NAMES.get(name, name), "constant" if decay == "none" else decay,
                     str(runs[0]["options"]["epochs"]), str(len(runs)),
                     cell(runs, "image_auroc"), best, *(cell(runs, m) for m in ("logical", "pixel_auroc", "au_pro"))])
    header = ["data", "learning rate", "epochs", "seeds", "image AUROC, last epoch", "best epoch on the test set",
              "logical anomalies", *list(METRICS.values())[1:]]
    return ["## SimpleNet", "", *table(header, rows), "",
            "The factory's rows are structural anomalies. **The best epoch on the test set is no result**: to choose",
            "it takes labelled defects. It stands here to show what that choice is worth; chapter 4 discusses it.", "",
            f"Measured with `{report['command']}`: {report['protocol']}. "
            + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".", ""]


def efficientad_tables(benchmarks: Path) -> list[str]:
    """EfficientAD beside PatchCore on the same images, from benchmarks/accuracy/efficientad.py, as Markdown."""
    folder, lines = benchmarks / "accuracy", ["## EfficientAD", ""]
    if not (folder / "efficientad.json").is_file():
        return []
    report = json.loads((folder / "efficientad.json").read_text(encoding="utf-8"))
    rows = []
    for name in dict.fromkeys(r["data"] for r in report["results"]):
        runs = [r for r in report["results"] if r["data"] == name]
        for kind in ("structural", "logical"):
            if kind in runs[0]:
                alone = [cell([r[part] for r in runs], kind).split(" [")[0]
                         for part in ("student_map", "autoencoder_map")]
                rows.append([name, kind, str(len(runs)), cell(runs, kind), *alone,
                             cell([r["patchcore"] for r in runs], kind)])
    header = ["data", "anomalies", "seeds", "EfficientAD", "its student's map", "its autoencoder's map", "PatchCore"]
    lines += [*table(header, rows), "", "The figures are image AUROCs.", ""]
    if "kit_logical_minus_patchcore" in report:
        d = report["kit_logical_minus_patchcore"]
        lines += [f"On the logical anomalies of kit, EfficientAD's AUROC lies {d['value']:.3f} above PatchCore's, 95 % "
                  f"interval {d['low']:.3f} to {d['high']:.3f} (test images drawn again, the same for both). "
                  "PatchCore saw more pixels. With 128, as EfficientAD, it closes most of this gap: see above, the "
                  "detectors side by side.", ""]
    lines += [f"Measured with `{report['command']}`: {report['protocol']}. "
              + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".", ""]
    return lines


WAY_NAMES = {"patchcore": "PatchCore", "simplenet": "SimpleNet", "efficientad": "EfficientAD",
             "patchcore_128": "PatchCore at 128 pixels",
             "base": "PatchCore, base backbone", "spd": "PatchCore, SPD backbone"}


def comparison_tables(benchmarks: Path) -> list[str]:
    """The detectors on the same images, and what they cost, from benchmarks/accuracy/comparison.py, as Markdown."""
    path = benchmarks / "accuracy" / "comparison.json"
    if not path.is_file():
        return []
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for name in dict.fromkeys(r["data"] for r in report["results"]):
        for way, title in WAY_NAMES.items():
            runs = [r for r in report["results"] if (r["data"], r["way"]) == (name, way)]
            if runs:
                plain = [{m: {"value": r[m]} for m in ("au_pro", "au_spro_0.05")} for r in runs]
                rows.append([name, title, str(len(runs)), cell(runs, "structural"), cell(runs, "logical"),
                             cell(plain, "au_pro"), cell(plain, "au_spro_0.05")])
    header = ["data", "detector", "seeds", "structural", "logical", "AU-PRO", "AU-sPRO 0.05"]
    lines = ["## The detectors side by side", "", *table(header, rows), "",
             "Image AUROC of structural and of logical anomalies, AU-PRO and AU-sPRO of all. Chapter 6 discusses the",
             "rows, with intervals on the differences.", ""]
    if "cost" in report:
        cost = report["cost"]
        rows = [[WAY_NAMES[c["way"]], f"{c['fit_seconds']:.0f} s", f"{c['peak_mb_over_loaded_data']} MB",
                 f"{c['saved_bytes'] / 1e6:.1f} MB", seconds(c["one_image_seconds"]), seconds(c["of_sixteen_seconds"])]
                for c in cost["results"]]
        header = ["detector", "fitting", "peak memory", "file", "one image", "an image of sixteen"]
        lines += [*table(header, rows), "", f"Measured on a quiet machine, {cost['threads']} threads, {cost['data']}.",
                  ""]
    return [*lines, f"Measured with `{report['command']}`: {report['protocol']}. "
            + ", ".join(f"{k} {v}" for k, v in report["versions"].items()) + ".", ""]


README_TABLE = re.compile(r"(<!-- results: .*? -->\n).*?(<!-- end of results -->)", re.S)


def with_table(readme: str, benchmarks: Path) -> str:
    """The text of the README with its results as they are in `benchmarks`."""
    lines = accuracy_table(read_results(benchmarks / "accuracy"))
    return README_TABLE.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], readme)


def main() -> None:
    root = Path(__file__).resolve().parents[2]
    if sys.argv[1:] == ["--readme"]:
        path = root / "README.md"
        path.write_text(with_table(path.read_text(encoding="utf-8"), root / "benchmarks"), encoding="utf-8")
    else:
        print(page(root / "benchmarks"))


if __name__ == "__main__":
    main()
