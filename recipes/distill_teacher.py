"""Distil the teachers that adlib ships for EfficientAD: PDNs that give the features of the shipped backbone.

    python recipes/distill_teacher.py runs/teacher --images data/caltech data/photos --steps 3000
    python recipes/distill_teacher.py runs/teacher_quarter --images data/caltech data/photos --width 0.25 --steps 8000

The folders hold photographs, in whatever folders below. A run that was stopped goes on from its last checkpoint when
the same command is given again. At the end the run folder holds `teacher.safetensors` (fp16) and `figures.json`: the
share of the features' variance that the teacher explains, on photographs that it was not shown.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib import metadata
from pathlib import Path

import torch

from adlib.datasets import hold_out
from adlib.efficientad.distillation import distill, explained
from adlib.samples import as_samples

OPTIONS = {"backbone": "adlib_resnet18", "width": 1.0, "image-size": 128, "steps": 3000, "batch": 16, "rate": 1e-3,
           "smallest-crop": 0.4, "threads": 2, "seed": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--size", default="s", choices=["s", "m"])
    for name, default in OPTIONS.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    samples = [sample for folder in args.images for sample in as_samples(folder)]
    train, held = hold_out(samples, 0.02, seed=0)
    start, history = time.process_time(), {}
    pdn = distill(
        args.backbone, train, size=args.size, width=args.width, image_size=args.image_size, steps=args.steps,
        images_per_step=args.batch, learning_rate=args.rate, decay="cosine", smallest_crop=args.smallest_crop,
        statistics_images=1000, bf16=True, seed=args.seed, checkpoint=args.out / "checkpoint.safetensors",
        history=history)
    figures = {
        "command": "python recipes/distill_teacher.py " + " ".join(
            f"--{name.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in vars(args).items() if name != "out"),
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in ("torch", "numpy")}},
        "images": len(train), "held_out": len(held),
        "cpu_minutes_of_the_last_part": round((time.process_time() - start) / 60, 1),
        "loss": [round(sum(part) / len(part), 4) for part in
                 (history["loss"][i : i + 100] for i in range(0, len(history["loss"]), 100))],
        "explained": {str(side): round(explained(pdn, args.backbone, held, image_size=side), 4) for side in (128, 256)}}
    (args.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    pdn.save(args.out / "teacher.safetensors")
    print(json.dumps({k: figures[k] for k in ("images", "held_out", "explained")}))


if __name__ == "__main__":
    main()
