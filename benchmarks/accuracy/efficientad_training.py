"""Watch EfficientAD learn: its errors while it trains on kit, and which kinds of anomaly each map sees from when on.

    python -m benchmarks.accuracy.efficientad_training      # ten minutes on one thread

The training of section 5.10, seed 0, step for step: the same images, draws and settings as in efficientad.json. At each
moment of MOMENTS, before the step of that number and once after the last, it keeps

- the mean over the cells of the 20 held-out good trays of (T - S)^2, (T - A)^2 and (A - S')^2, T normalised;
- the image AUROC of each kind of anomaly against all good test trays, for the student's map, the autoencoder's, and
  both, normalised by (5.13) with the quantiles of that moment.

Fixed beforehand: a kind has *appeared* in a map at the first moment from which on its AUROC is 0.9 or more, at that one
and at all later ones. Moment 0 is the control, what a map sees before anything is learned. It chooses nothing: one
factory, one training, about thirty trays a kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adlib import EfficientAD
from adlib.backbones import normalised
from adlib.datasets import Sample, hold_out, in_memory
from adlib.efficientad import combine_maps, map_quantiles, train_networks
from adlib.efficientad.distillation import channel_statistics
from adlib.efficientad.penalty_images import choose_penalty_images
from adlib.images import resize_image
from benchmarks import common
from benchmarks.accuracy.efficientad import SMALL

MOMENTS = (0, 10, 20, 40, 80, 160, 320, 640, 1_250, 2_500)
ENOUGH = 0.9


def stacked(samples: list[Sample], side: int) -> Tensor:
    return torch.stack([resize_image(s.image, (side, side)) for s in samples])


def seen_at(detector: EfficientAD, held: Tensor, images: Tensor, test: list[Sample]) -> dict[str, Any]:
    """What the networks, as they are now, say of the held-out trays and of the test trays."""
    with torch.no_grad():
        x, networks = normalised(held), detector.networks
        student, second = (m.mean().item() for m in detector.both_maps(held))
        apart = (networks.normalised_teacher(x) - networks.autoencoder(x)).square().mean().item()
        quantiles = torch.stack([map_quantiles(m[None]) for m in detector.both_maps(held)])
        maps = zip(*(detector.both_maps(part) for part in images.split(50)), strict=True)
        st, ae = (torch.cat(m) for m in maps)
    found = {"student_map": st, "autoencoder_map": ae, "both": combine_maps(st, ae, quantiles)}
    return {"errors": {"teacher_student": student, "teacher_autoencoder": apart, "autoencoder_student": second},
            **{name: common.by_kind(test, m.amax((1, 2)).numpy()) for name, m in found.items()}}  # fmt: skip


def watch(seed: int, moments: tuple[int, ...], count: int | None = None) -> list[dict[str, Any]]:
    """Train as `EfficientAD.fit` does, and look at each moment; `count` cuts the test for a trial."""
    options = SMALL | {"steps": moments[-1]}
    train, test = (list(in_memory(samples)) for samples in common.load("kit", seed, None))
    test = test[:: len(test) // count] if count else test
    rest, held = hold_out(train, 0.1, seed=seed)
    side, detector = options["image_size"], EfficientAD(device="cpu", seed=seed, **options)
    images, held, shown = stacked(rest, side).half(), stacked(held, side), stacked(test, side)
    with torch.no_grad():
        parts = (detector.teacher(normalised(part.float())) for part in images.split(detector.batch_size))
        detector.mean, detector.std = channel_statistics(parts)
    found, step = [], 0

    def look(module: object, given: tuple[Any, ...]) -> None:  # the autoencoder is called once a step, with a generator
        nonlocal step
        if len(given) == 1:  # by `seen_at`
            return
        if step in moments:
            found.append({"seed": seed, "step": step, **seen_at(detector, held, shown, test)})
            print(step, found[-1]["errors"], flush=True)
        step += 1

    hook = detector.autoencoder.register_forward_pre_hook(look)
    penalty_images = choose_penalty_images(None, detector.image_size, seed)
    train_networks(detector.networks, images, penalty_images, seed=seed, **detector.training_options)
    hook.remove()
    return [*found, {"seed": seed, "step": step, **seen_at(detector, held, shown, test)}]


def appeared(results: list[dict[str, Any]], name: str) -> dict[str, int | None]:
    """The first moment from which on each kind's AUROC stays at ENOUGH or above; None where there is none."""
    first: dict[str, int | None] = {}
    for kind in results[-1][name]:
        enough = [r[name][kind] >= ENOUGH for r in results]
        last_low = max((i for i, e in enumerate(enough) if not e), default=-1)
        first[kind] = results[last_low + 1]["step"] if last_low + 1 < len(results) else None
    return first


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"))
    parser.add_argument("--trial", action="store_true", help="few steps and images, with --out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = watch(0, (0, 2, 4), 40) if args.trial else watch(0, MOMENTS)
    common.write(args.out, {
        "name": "EfficientAD while it learns kit", "command": common.command(), "versions": common.versions(),
        "threads": 1, "protocol": "as efficientad.json, kit, seed 0", "enough": ENOUGH,
        "appeared": {name: appeared(results, name) for name in ("student_map", "autoencoder_map", "both")},
        "results": results}, compact=True)  # fmt: skip


if __name__ == "__main__":
    main()
