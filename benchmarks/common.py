"""What every benchmark shares: its command line, how a report is written, and AUROCs by type of anomaly.

A benchmark runs as a module from the repository root: `python -m benchmarks.accuracy.patchcore --help`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

from adlib.datasets import Sample, SyntheticFactory, open_dataset
from adlib.metrics import image_auroc, image_auroc_interval

REAL = {"bottle": ("mvtec_ad", "bottle"), "screw": ("mvtec_ad", "screw"), "magnetic_tile": ("magnetic_tile", None)}


def arguments(
    doc: str, out: Path | None, about_out: str | None = None, *, data: Sequence[str] = (), seeds: Sequence[int] = ()
) -> argparse.ArgumentParser:
    """A parser that knows --out and, where they are given, --data with --root, and --seeds with its default."""
    parser = argparse.ArgumentParser(f"python -m {module()}", description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=out, help=about_out or f"default: {out and out.name}")
    if data:
        parser.add_argument("--data", nargs="+", choices=data)
        parser.add_argument("--root", type=Path, help="the folder that holds the real data sets")
    if seeds:
        parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    return parser


def module() -> str:
    return ".".join(["benchmarks", *Path(sys.argv[0]).resolve().with_suffix("").parts[-2:]])


def command(*words: object, **options: Any) -> str:
    """The command that makes a report again: this module, `words`, and the options that are set.

    A Path is the folder of a data set and becomes DATA/name: where it lies on this machine is nobody's business.
    """
    given = ["python -m", module(), *words]
    for name, value in options.items():
        if value is not None and value is not False and value != "":
            given.append("--" + name.replace("_", "-"))
            values = [] if value is True else value if isinstance(value, list) else [value]
            given += [f"DATA/{v.name}" if isinstance(v, Path) else v for v in values]
    return " ".join(map(str, given))


def versions() -> dict[str, str]:
    packages = ["torch", "torchvision", "numpy", "scikit-learn", "scipy", "adlib"]
    packages += ["faiss-cpu"] if util.find_spec("faiss") else []
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


def commit(checkout: Path | str) -> str:
    """Of official code, cloned beforehand."""
    asked = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def read(path: Path, otherwise: dict[str, Any]) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else otherwise


def write(path: Path, report: dict[str, Any], *, compact: bool = False) -> None:
    """Write the report as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    part.write_text(json.dumps(report, **layout) + "\n", encoding="utf-8")
    os.replace(part, path)


def load(name: str, seed: int, root: Path | None) -> tuple[list[Sample], list[Sample]]:
    """Training and test samples of a product of the factory, drawn from the seed, or of a real data set in `root`."""
    if name not in REAL:
        data = SyntheticFactory(name, seed=seed)
        return list(data.train), list(data.test)
    train, test = open_dataset(REAL[name][0], root and root / REAL[name][0], REAL[name][1]).split()
    return list(train), list(test)


def auroc(labels: Any, scores: Any, **options: Any) -> dict[str, float]:
    """Image AUROC and the ends of its interval."""
    low, high = image_auroc_interval(labels, scores, **options)
    return {"value": image_auroc(labels, scores), "low": low, "high": high}


def by_kind(samples: Sequence[Sample], scores: np.ndarray, digits: int = 4) -> dict[str, float]:
    """Image AUROC of each kind of defect against all good images."""
    label, kind = (np.array([getattr(s, name) for s in samples]) for name in ("label", "kind"))
    rows = {str(k): (kind == k) | (label == 0) for k in dict.fromkeys(kind[label == 1])}
    return {k: round(image_auroc(label[r], scores[r]), digits) for k, r in rows.items()}


def by_type(samples: Sequence[Sample], scores: np.ndarray, *, by_group: bool = False) -> dict[str, Any]:
    """Image AUROC of structural and of logical anomalies, each with its interval, and of each kind of defect."""
    label, logical = (np.array([getattr(s, name) for s in samples]) for name in ("label", "logical"))
    result: dict[str, Any] = {}
    for name, part in (("structural", (label == 1) & ~logical), ("logical", logical)):
        if part.any():
            rows = part | (label == 0)
            groups = [s.group for s, row in zip(samples, rows, strict=True) if row] if by_group else None
            result[name] = auroc(label[rows], scores[rows], groups=groups)
    return result | {"by_kind": by_kind(samples, scores)}
