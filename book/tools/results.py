"""The tables of the book that are made from measurements: benchmarks/**/*.json. `TABLES` has them by name.

    python book/tools/results.py comparison # prints one of them

A page shows one where it says <!-- generated: NAME -->; the words around it stand in the page.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from adlib.evaluation import over_seeds
from adlib.factory import PRODUCTS
from adlib.metrics import mean_interval
from charts import Chart, draw
from repository import ROOT

# Where the measurements lie under benchmarks/, by the name of the report.
ACCURACY, SPEED = "accuracy/{}.json", "speed/{}.json"
METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "au_pro": "AU-PRO"}
UNBROKEN = re.compile(r"\[[+−]?\d\.\d+, [+−]?\d\.\d+\]")  # a browser must not break a line in these
DATA_NAMES = {"magnetic_tile": "magnetic tiles"}
REAL_NAMES = {"bottle": "MVTec AD, bottle", "screw": "MVTec AD, screw"} | DATA_NAMES


def read_report(benchmarks: Path, name: str) -> dict[str, Any]:
    """The report of one benchmark, such as "comparison", or "speed coreset"."""
    path = benchmarks / (SPEED.format(name[6:]) if name.startswith("speed ") else ACCURACY.format(name))
    return json.loads(path.read_text(encoding="utf-8"))


def groups(results: list[dict[str, Any]], *keys: str) -> Iterator[tuple[Any, ...]]:
    """The values of `keys`, then all results that have them; in the order in which they come first."""
    for values in dict.fromkeys(tuple(r[key] for key in keys) for r in results):
        yield *values, [r for r in results if all(r[key] == value for key, value in zip(keys, values, strict=True))]


def cell(results: list[dict[str, Any]], metric: str, data: str) -> str:
    """Mean over the seeds and its interval, as text; a product of the factory is drawn anew for each seed."""
    runs = [run[metric] for run in results if metric in run]
    return over_seeds(runs, same_images=data not in PRODUCTS) if runs else "–"


def gain(each: list[float]) -> str:
    """The mean of the differences of single seeds, with its interval, as text."""
    low, high = mean_interval(each, same_images=False, limits=(-1.0, 1.0))
    return f"{statistics.fmean(each):+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")


def table(header: list[str], rows: list[list[Any]]) -> list[str]:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(x).replace("|", "\\|").replace("\n", " ") for x in line) + " |" for line in lines]


def seconds(value: float) -> str:
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def versions(report: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in report["versions"].items())


def measured(report: dict[str, Any]) -> list[str]:
    return [f"Measured with `{report['command']}`: {report['protocol']}. {versions(report)}."]


def real(benchmarks: Path, report: str = "real") -> list[str]:
    """The three detectors on real parts, with their defaults, beside what others report of the same method.

    `report` is the file's name; real_128.json is the control with fewer pixels.
    """
    others = json.loads((benchmarks / "published.json").read_text(encoding="utf-8"))["entries"]
    rows = []
    for name, method, runs in groups(read_report(benchmarks, report)["results"], "data", "method"):
        figures = [e["image_auroc"] / 100 for e in others
                   if e["data"] == REAL_NAMES[name] and e["method"].startswith(WAY_NAMES[method])]
        beside = " to ".join(dict.fromkeys(f"{f(figures):.3f}" for f in (min, max))) if figures else "–"
        rows.append([REAL_NAMES[name], WAY_NAMES[method], len(runs),
                     *(over_seeds([run[m] for run in runs], same_images=True) for m in METRICS), beside])
    return table(["data", "detector", "seeds", *METRICS.values(), "published"], rows)


def agreement(benchmarks: Path) -> list[str]:
    """PatchCore beside anomalib's on equal features."""
    rows = []
    for r in read_report(benchmarks, "anomalib_agreement")["results"]:
        seeds = [r["image_auroc_ours"]["value"], *r["image_auroc_ours_other_seeds"]]
        rows.append([f"MVTec AD, {r['data']}", f"{r['scores_on_one_bank']:.0e}",
                     f"{r['image_auroc_anomalib_on_our_bank']['value']:.3f}", f"{seeds[0]:.3f}",
                     f"{min(seeds):.3f} to {max(seeds):.3f}", f"{r['image_auroc_anomalib']['value']:.3f}",
                     f"{r['fit_ratio_of_cpu_seconds']:.0f}"])
    return table(["data", "one bank: largest difference of a score", "its AUROC, anomalib", "ours", "ours, five starts",
                  "anomalib, its own bank", "its fit, in times of ours"], rows)


def sizes(benchmarks: Path) -> list[str]:
    """Image sizes and features for the shipped weights, on what may be used for choosing."""
    report = read_report(benchmarks, "sizes")
    names = {**{p: f"`{p}`" for p in PRODUCTS}, "tiles set apart": "tiles set apart"}
    rows = []
    for r in report["table"]:
        parts = [name.split(", ") for name in r["candidate"]]
        name = "; ".join(f"{pixels}: {layers}" for pixels, layers, _ in parts)
        rows.append([name + " (**chosen**)" * (r["candidate"] == report["chosen"]), parts[0][2],
                     *(f"{r['image_auroc'][n]:.3f}" for n in names), f"{r['figure']:.3f}", f"{r['network']:.1f}",
                     f"{r['search']:.1f}"])
    return table(["pixels: layers", "score", *names.values(), "figure", "network", "search"], rows)


def sizes_real(benchmarks: Path) -> list[str]:
    """The chosen candidate and the usual size, with equal banks, on real parts."""
    rows = [[REAL_NAMES[name], pixels, len(runs := [r for r in all_runs if r["way"] == way]),
             over_seeds(runs, same_images=True)]
            for name, all_runs in read_report(benchmarks, "sizes")["reported"].items()
            for way, pixels in (("one size", "224"), ("chosen", "160 and 320"))]
    return table(["data", "pixels", "seeds", "image AUROC"], rows)


def published(benchmarks: Path) -> list[str]:
    """What others have published."""
    report = json.loads((benchmarks / "published.json").read_text(encoding="utf-8"))
    lines = [*report["note"], ""]
    for data, entries in groups(report["entries"], "data"):
        rows = [[e["method"], *("–" if e.get(m) is None else f"{e[m]:.1f}" for m in METRICS), e["source"],
                 "yes" if e["verified"] else "no"] for e in entries]
        header = ["method", "image AUROC", "pixel AUROC", "PRO", "source", "read there"]
        lines += [f"### {data}", "", *table(header, rows), ""]
    return [*lines, "**Read with care:**", "", *(f"- {remark}" for remark in report["remarks"])]


def aspect(benchmarks: Path) -> list[str]:
    """Long pictures, at their aspect and squeezed."""
    rows, gains = [], []
    for product, runs in groups(read_report(benchmarks, "aspect")["results"], "product"):
        parts = [(images, those) for images, those in groups(runs, "images")]
        rows += [[f"`{product}`", images, len(those), cell(those, "image_auroc", product)] for images, those in parts]
        square, strip = ([run["image_auroc"]["value"] for run in those] for _, those in parts)
        gains.append(f"{gain([b - a for a, b in zip(square, strip, strict=True)])} on {product}")
    lines = table(["strips of four pictures", "read as", "seeds", "image AUROC"], rows)
    return [*lines, "", f"The gain by the aspect, seed by seed: {', '.join(gains)}."]


def false_alarms(benchmarks: Path) -> list[str]:
    """What thresholds promise and keep."""
    names = {"split": "split", "folds": "folds, the least score", "cv+": "folds, CV+"}
    rows = [["one" if r["setting"] == "alone" else "five", r["n"], names[r["rule"]], r.get("folds", "–"),
             f"{r['promise']:.3f}", f"{r['rate']:.3f} [{r['low']:.3f}, {r['high']:.3f}]", f"{r['found']:.2f}"]
            for r in read_report(benchmarks, "false_alarms")["results"]]
    return table(["pictures of a part", "n", "rule", "K", "promised", "false alarms", "found"], rows)


WAYS = {"random": "PatchCore, random weights", "global average": "nearest neighbour, features averaged over the image",
        "mean image": "difference from the mean image"}


def factory(benchmarks: Path) -> list[str]:
    """How hard each product of the factory is."""
    products = read_report(benchmarks, "factory")["products"]
    kinds = [(product, kind) for product, entry in products.items() for kind in ("structural", "logical")
             if kind in entry["patchcore"][0]]
    rows = [["PatchCore, defaults", *(cell(products[p]["patchcore"], kind, p) for p, kind in kinds)]]
    rows += [[name, *(cell(products[p]["baselines"][way], kind, p) for p, kind in kinds)]
             for way, name in WAYS.items()]
    return table(["image AUROC", *(f"{p}, {kind}" if p == "kit" else p for p, kind in kinds)], rows)


def factory_kinds(benchmarks: Path) -> list[str]:
    kinds = {p: e["patchcore"][0]["by_kind"] for p, e in read_report(benchmarks, "factory")["products"].items()}
    return [f"- `{product}`: " + ", ".join(f"{kind.replace('_', ' ')} {v:.2f}" for kind, v in by_kind.items())
            for product, by_kind in kinds.items()]


def factory_speed(benchmarks: Path) -> list[str]:
    speeds = {p: e["pictures_per_second"] for p, e in read_report(benchmarks, "factory")["products"].items()}
    rows = [[f"{kind} pictures per second", *(f"{s[kind]:.0f}" for s in speeds.values())]
            for kind in ("good", "defective")]
    return table(["product", *(f"`{p}`" for p in speeds)], rows)


def backbones(benchmarks: Path) -> list[str]:
    """Every candidate for the shipped backbone, one table for each size of the images."""
    lines = []
    for size, those in sorted(groups(read_report(benchmarks, "backbones")["candidates"], "image_size"), reverse=True):
        rows = [[c["name"], *(f"{r['image_auroc']:.3f}" for r in c["results"].values()), f"{c['time_ratio']:.2f}"]
                for c in those]
        lines += [*table([f"candidate, {size} pixels", *those[0]["results"], "time"], rows), ""]
    return lines


def spd(benchmarks: Path) -> list[str]:
    """Pre-training with and without SPD."""
    rows = [[objective, variant.replace("base", "without").replace("spd", "with") or "–", len(runs),
             cell(runs, "image_auroc", "board"),
             *(f"{statistics.fmean(r[f'sensitivity_{of}'] for r in runs):.3f}" for of in ("blend", "pairs"))]
            for objective, variant, runs in groups(read_report(benchmarks, "spd")["results"], "objective", "variant")]
    return table(["objective", "SPD", "seeds", "image AUROC on board", "sensitivity, SmoothBlend",
                  "sensitivity, pairs"], rows)


def spd_fair(benchmarks: Path) -> list[str]:
    """Photographs, from the shipped weights, with and without SPD."""
    shown = {"auroc": "image AUROC", "aupr": "AU-PR", "tiles_auroc": "tiles set apart",
             "sensitivity_blend": "sensitivity, SmoothBlend", "sensitivity_defects": "sensitivity, defects"}
    rows = [[arm, len(runs), *(cell(runs, m, "tiles" if m == "tiles_auroc" else "board") for m in shown)]
            for arm, runs in groups(read_report(benchmarks, "spd_fair")["results"], "arm")]
    return table(["weights", "seeds", *shown.values()], rows)


def simplenet(benchmarks: Path) -> list[str]:
    """SimpleNet over seeds, by the last epoch and by the best one on the test set."""
    shown = {"image_auroc": "image AUROC, last epoch", "best_on_test": "best epoch on the test set",
             "logical": "logical anomalies", "pixel_auroc": "pixel AUROC", "au_pro": "AU-PRO"}
    results = [{**r["options"], **r} for r in read_report(benchmarks, "simplenet")["results"]]
    rows = [[DATA_NAMES.get(name, name), "constant" if decay == "none" else decay, epochs, len(runs),
             *(cell(runs, m, name) for m in shown)]
            for name, decay, epochs, runs in groups(results, "data", "decay", "epochs")]
    return table(["data", "learning rate", "epochs", "seeds", *shown.values()], rows)


def efficientad(benchmarks: Path) -> list[str]:
    """EfficientAD beside PatchCore on the same images."""
    parts = {"student_map": "its student's map", "autoencoder_map": "its autoencoder's map", "patchcore": "PatchCore"}
    rows = [[name, kind, len(runs), cell(runs, kind, name), *(cell([r[of] for r in runs], kind, name) for of in parts)]
            for name, runs in groups(read_report(benchmarks, "efficientad")["results"], "data")
            for kind in ("structural", "logical") if kind in runs[0]]
    return table(["data", "anomalies", "seeds", "EfficientAD", *parts.values()], rows)


def efficientad_gain(benchmarks: Path) -> list[str]:
    rows = [[d["part"], 128 if d["minus"].endswith("128") else 224,
             f"{d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]"]
            for d in read_report(benchmarks, "efficientad")["kit_minus_patchcore"]]
    return table(["anomalies of kit", "PatchCore's pixels", "EfficientAD's AUROC minus PatchCore's [98.75 %]"], rows)


WAY_NAMES = {"patchcore": "PatchCore", "simplenet": "SimpleNet", "efficientad": "EfficientAD",
             "patchcore_128": "PatchCore at 128 pixels", "base": "PatchCore, base backbone",
             "spd": "PatchCore, SPD backbone"}


def comparison(benchmarks: Path) -> list[str]:
    """The detectors on the same images."""
    shown = ("structural", "logical", "au_pro", "au_spro_0.05")
    rows = [[name, WAY_NAMES[way], len(runs), *(cell(runs, metric, name) for metric in shown)]
            for name, way, runs in groups(read_report(benchmarks, "comparison")["results"], "data", "way")]
    return table(["data", "detector", "seeds", "structural", "logical", "AU-PRO", "AU-sPRO 0.05"], rows)


def comparison_cost(benchmarks: Path) -> list[str]:
    cost = read_report(benchmarks, "comparison")["cost"]
    rows = [[WAY_NAMES[c["way"]], f"{c['fit_seconds']:.0f} s", f"{c['peak_mb_over_loaded_data']} MB",
             f"{c['saved_bytes'] / 1e6:.1f} MB", seconds(c["one_image_seconds"]), seconds(c["of_sixteen_seconds"])]
            for c in cost["results"]]
    header = ["detector", "fitting", "peak memory", "file", "one image", "an image of sixteen"]
    return [*table(header, rows), "", f"Measured on a quiet machine, {cost['threads']} threads, {cost['data']}."]


SPEEDS = ("coreset", "efficientad", "export", "frames", "metrics", "neighbours", "patchcore", "simplenet")
# What was timed, and the other form that ran beside it.
PAIRS = {
    "patchcore whole image": ("PatchCore with its defaults, one whole image", "its backbone alone"),
    "patchcore search": ("the nearest of the bank for each patch of an image, in groups", "the same from all rows"),
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


def speed(benchmarks: Path) -> list[str]:
    """The measurements of benchmarks/speed/, each beside the other form that ran in the same run."""
    results, rows = {name: read_report(benchmarks, f"speed {name}")["results"] for name in SPEEDS}, []

    def add(what: str, ours: dict[str, Any], peer: str, theirs: dict[str, Any], ratio: str,
            memory: float | None = None) -> None:
        rows.append([what, seconds(ours["seconds"]), "–" if memory is None else f"{memory:.0f} MB", peer,
                     seconds(theirs["seconds"]) + " (extrapolated)" * theirs.get("extrapolated", False), ratio])

    for e, key in [(of, key) for of in results["coreset"] for key in of["ratios"]]:
        peer = "official approximate loop" if key == "official_form_128" else "anomalib's loop"
        projected = f", projected to {key.split('_')[-1]}" if key[-1].isdigit() else ""
        add(f"coreset, {e['k']:,} of {e['n']:,}, d = {e['d']}", e["adlib"], peer + projected, e[key],
            f"{e['ratios'][key]:.1f}", e["adlib"]["extra_mb"])
    for e in results["metrics"]:
        peer = {"sorted_au_pro": "all pixels sorted, as anomalib does", "sklearn_auroc": "scikit-learn"}[e["peer"]]
        took, memory = e["timing"], e["extra_mb"]
        add(f"{METRICS[e['measure']]}, {e['images']} maps of 256×256", took["adlib"],
            f"{peer} ({memory['peer']:.0f} MB)", took["peer"], f"{e['ratio']:.1f}", memory["adlib"])
    for e in results["neighbours"]:
        add(f"784 nearest neighbours of {e['n']:,}, d = {e['d']}", e["adlib_prepared_bank"], "faiss, flat index",
            e["faiss_flat"], f"{1 / e['to_faiss']['adlib_prepared_bank']:.2f}", e["adlib"].get("extra_mb"))
    for e in [*results["patchcore"], *results["simplenet"], *results["efficientad"]]:
        images = "one image" if e.get("batch") == 1 else f"{e.get('batch')} images at a time"
        what, peer = PAIRS.get(e.get("what"), (f"PatchCore, {images}, ResNet-18", "the same steps in anomalib's form"))
        add(what + (f", bank of {e['bank']:,}" if "bank" in e else ""), e["timing"][e.get("form", "adlib")], peer,
            e["timing"][e.get("peer", "anomalib_form")], f"{e['ratio']:.2f}")
    for e in results["export"]:
        what, took = "{}, a picture of {} × {}".format(e["method"], *e["picture"]), e["timing"]
        add(what + ", in torch", took["adlib"], "its ONNX file in onnxruntime", took["onnxruntime"],
            f"{e['ratio']:.2f}")
        if "anomalib" in took:
            add(what + ", in onnxruntime", took["onnxruntime"], "anomalib's ONNX file, the same weights and bank",
                took["anomalib"], f"{e['anomalib_ratio']:.2f}")
    for e in results["frames"]:
        add("{}, `predict_frame` of {} × {}".format(e["detector"], *e["frame"]), e["timing"]["adlib"],
            "its network alone", e["timing"]["network"], f"{1 / e['ratio']:.2f}")
    return table(["computation", "adlib", "extra memory", "beside it, in the same run", "takes", "ratio"], rows)


def speed_measured(benchmarks: Path) -> list[str]:
    reports = [read_report(benchmarks, f"speed {name}") for name in SPEEDS]
    return [f"On {reports[0]['threads']} processor cores, without a GPU.", "",
            *(f"- {report['name']}: `{report['command']}`, {versions(report)}" for report in reports)]


def chunks(benchmarks: Path) -> list[str]:
    """A bank from chunks of images beside that of all images at once."""
    rows, kept = [], {}
    for run in read_report(benchmarks, "chunks")["runs"]:
        whole = {b["share"]: b for b in run["banks"] if b["bank"] == "one piece"}
        for b in run["banks"]:
            if b["bank"] == "chunks" and b["spare"] == 2:  # as PatchCore does
                kept.setdefault((run["data"], b["share"], b["images"]), []).append((b, whole[b["share"]]))
    for (data, share, images), pairs in kept.items():
        radius = statistics.fmean(b["radius"] / one["radius"] for b, one in pairs)
        factor = max(b["factor"] for b, _ in pairs)
        rows.append([data, f"{share:.0%}", images, len(pairs), f"{radius:.2f}", f"{factor:.1f}",
                     gain([b["image_auroc"] - one["image_auroc"] for b, one in pairs])])
    return table(["data", "kept", "images a chunk", "seeds", "radius, times that of one piece",
                  "times the best radius, at most (2.23)", "image AUROC less that of one piece"], rows)


def chunks_cost(benchmarks: Path) -> list[str]:
    """Time and memory of a bank in chunks against the number of patches."""
    rows = [[f"{r['patches']:,}", *(seconds(r["chunks"][f"{which}_round_seconds"]) for which in ("first", "second")),
             f"{r['chunks']['memory_MB']} MB", f"{r['chunks']['factor']:.1f}",
             *((seconds(r["one_piece"]["seconds"]), f"{r['one_piece']['memory_MB']} MB") if "one_piece" in r else "––")]
            for r in read_report(benchmarks, "speed chunks")["results"]]
    return table(["patches", "first round", "second round", "memory", "times the best radius, at most (2.23)",
                  "one piece", "its memory"], rows)


def tiles(benchmarks: Path) -> list[str]:
    """Small and large defects in large pictures."""
    rows, ways = [], ("resized", "tiles")
    for r in read_report(benchmarks, "tiles")["summary"]:
        at = ("–" if r[f"{way}, at the disc"] is None else f"{r[f'{way}, at the disc']:.0%}" for way in ways)
        rows.append([r["product"], r["disc"] or "none",
                     *("{value:.3f} [{low:.3f}, {high:.3f}]".format(**r[way]) for way in ways),
                     "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**r["difference"]).replace("-", "−"), *at])
    return table(["pictures of 640 × 640", "disc, pixels", "image AUROC, resized", "tiles", "difference",
                  "map highest at the disc, resized", "tiles"], rows)


def extend(benchmarks: Path) -> list[str]:
    """A detector of half of the images, extended by the others, beside a fit on all."""
    rows = [[method, data, len(runs), f"{statistics.fmean(r['all']['image_auroc'] for r in runs):.3f}",
             *(gain([r[way]["image_auroc"] - r["all"]["image_auroc"] for r in runs]) for way in ("half", "extended"))]
            for method, data, runs in groups(read_report(benchmarks, "extend")["runs"], "method", "data")]
    return table(["detector", "data", "seeds", "image AUROC, fitted on all", "half of the images, less that",
                  "extended by the other half, less that"], rows)


def cluster(benchmarks: Path) -> list[str]:
    """Workers that were killed."""
    report = read_report(benchmarks, "cluster")
    return [f"A worker was killed at random {report['kills']} times, {report['before_the_end']} of them before its "
            f"chunks were done; bank, radius and held-out scores were equal to the last bit {report['equal']} times."]


def export(benchmarks: Path) -> list[str]:
    """The exported file beside the detector itself."""
    rows = [[r["method"], "{} × {}".format(*r["size"]), f"{r['scores']['share']:.1e}", f"{r['maps']['share']:.1e}",
             r["p_values"], r["decisions"]] for r in read_report(benchmarks, "export")["results"]]
    return table(["detector", "pictures of", "scores", "maps", "other p-values", "other decisions"], rows)


# Named as the functions are; then how each report came about.
TABLES: dict[str, Callable[[Path], list[str]]] = {
    **{make.__name__.replace("_", " "): make for make in (
        real, agreement, aspect, false_alarms, comparison, comparison_cost, simplenet,
        efficientad, efficientad_gain, spd, spd_fair, backbones, sizes, sizes_real, published, speed, speed_measured,
        factory, factory_kinds, factory_speed, chunks, chunks_cost, tiles, extend, cluster, export)},
    "real control": lambda benchmarks: real(benchmarks, "real_128"),
    **{f"{name.replace('_', ' ')} measured": lambda benchmarks, name=name: measured(read_report(benchmarks, name))
       for name in ("comparison", "simplenet", "efficientad", "spd", "spd_fair", "backbones", "factory", "aspect",
                    "false_alarms", "real", "real_128", "sizes", "anomalib_agreement",
                    "patchcore_magnetic_tile_square", "patchcore_mvtec_ad_bottle_random", "chunks", "extend",
                    "cluster", "watch", "region", "tiles", "efficientad_256", "export", "speed chunks")},
}


CHARTS = {
    "real": Chart(("image AUROC",), "{detector}", "{data}", "published",
                  says="Dots are means, lines their 95 % intervals, bars what others published."),
    "sizes real": Chart(("image AUROC",), "{pixels}", "{data}"),
    "aspect": Chart(("image AUROC",), "{read as}", "{strips of four pictures}"),
    "false alarms": Chart(("false alarms",), "{rule}, {K}", "pictures of a part: {pictures of a part}; n = {n}",
                          "promised", says="Dots are shares, lines their 95 % intervals, squares what is promised. "
                          "Behind the rule stands K."),
    "comparison": Chart(("structural", "logical"), "{detector}", "{data}", about="image AUROC"),
    "simplenet": Chart(("image AUROC, last epoch",), "{learning rate}, {epochs} epochs", "{data}"),
    "efficientad": Chart(("EfficientAD", "its student's map", "its autoencoder's map", "PatchCore"), "",
                         "{data}, {anomalies}", about="image AUROC"),
    "spd fair": Chart(("image AUROC",), "{weights}"),
    "spd": Chart(("image AUROC on board",), "{SPD}", "{objective}"),
    "factory": Chart(("board", "fabric", "kit, structural", "kit, logical", "washer"), "{image AUROC}",
                     about="image AUROC"),
    "speed": Chart(("ratio",), "{computation}; beside {beside it, in the same run}",
                   says="How many times as fast adlib is as what ran beside it, on a logarithmic scale.", log=True),
}


def text(name: str, benchmarks: Path = ROOT / "benchmarks") -> str:
    """A table of `TABLES` as Markdown, below its chart where it has one."""
    lines = TABLES[name](benchmarks)
    table_lines = [line for line in lines if line.startswith("|")]
    shown = [draw(table_lines, CHARTS[name]), *lines] if name in CHARTS else lines
    return UNBROKEN.sub(lambda found: found[0].replace(" ", "\u00a0"), "\n".join(shown))


if __name__ == "__main__":
    wanted = " ".join(sys.argv[1:])
    if wanted not in TABLES:
        sys.exit(f"expected one of: {', '.join(TABLES)}")
    print(text(wanted))
