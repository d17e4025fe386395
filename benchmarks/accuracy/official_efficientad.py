"""Hold EfficientAD's arithmetic against the reference's code, on the same random weights and images.

    python -m benchmarks.accuracy.official_efficientad --checkout PATH    # a checkout of nelson1425/EfficientAD

The reference runs as it is: its `main()` trains three steps on a folder of two images with a penalty image, takes the
quantiles and scores test images. Only what is drawn at random is left out on both sides, so that the numbers can be
compared: dropout, the changed copy, and the penalty image, which is grey already. Images have the size that each side
reads, so that no resizing takes part. Its losses are read off as it computes them, its gradients where they reach its
optimiser. Fixed beforehand: everything that is held must agree within 1e-5, gradients relative to the largest of their
tensor, losses relative; later steps are shown and not held, since Adam divides by the gradient's size and so turns
rounding near 0 into a step. In float32 the gradients of some layers of the autoencoder missed that by far: all its
targets have mean 0, so what flows back nearly cancels. So the first step is made a second time, in float64 on both
sides; the float32 figure is kept beside it. Written: the largest difference of each; nothing of their code.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from adlib import EfficientAD
from adlib.backbones import normalised
from adlib.efficientad import PAPER, PDN, AutoEncoder, combine_maps, losses, map_quantiles, read_teacher
from adlib.efficientad import networks as our_networks
from adlib.efficientad import training as our_training
from adlib.efficientad.distillation import channel_statistics, pool_channels
from adlib.efficientad.penalty_images import dead_leaves, penalty_batch
from adlib.images import read_image
from adlib.samples import as_samples
from benchmarks import common

STEPS = 3


def load(checkout: Path) -> tuple[Any, Any, Any]:
    """The reference's three modules; a library that it imports to write files is not needed."""
    sys.modules.setdefault("tifffile", types.ModuleType("tifffile"))
    sys.path.insert(0, str(checkout))
    names = ("common", "efficientad", "pretraining")
    return tuple(importlib.import_module(name) for name in names)  # pyrefly: ignore[bad-return]


def into(ours: torch.nn.Module, theirs: torch.nn.Module) -> torch.nn.Module:
    """Their weights in our network: the same layers in the same order."""
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    return ours.eval()


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def the_networks(common_: Any) -> dict[str, float]:
    """Largest difference of the outputs; of untrained networks, whose outputs are small, relative to the largest."""
    x = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    found = {}
    with torch.no_grad():
        for size, make in (("s", common_.get_pdn_small), ("m", common_.get_pdn_medium)):
            for padding in (False, True):
                theirs = make(384, padding=padding).eval()
                a, b = theirs(x), into(PDN(size, padding=padding), theirs)(x)
                found[f"PDN-{size.upper()}{', padded' if padding else ''}"] = apart(a, b) / float(a.abs().max())
        theirs = common_.get_autoencoder(384).eval()
        a, b = theirs(x), into(AutoEncoder(384, (256, 256), (56, 56)), theirs)(x)
        found["autoencoder"] = apart(a, b) / float(a.abs().max())
    return found


def pictures(folder: Path) -> None:
    """A data set of two training images, so that one is left for training and one for the quantiles."""
    def write(name: str, seed: int, side: int = 256, grey: bool = False) -> None:
        pixels = (dead_leaves((side, side), seed) * 255).round().byte().permute(1, 2, 0).numpy()
        image = Image.fromarray(pixels)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (image.convert("L").convert("RGB") if grey else image).save(folder / name)

    for i, name in enumerate(["train/good/0", "train/good/1", *(f"test/{kind}/{j}" for kind in ("good", "odd")
                                                               for j in range(3))]):  # fmt: skip
        write(f"data/part/{name}.png", i)
    write("penalty/any/0.png", 99, 512, grey=True)


def run_theirs(common_: Any, reference: Any, folder: Path, out: str, steps: int) -> dict[str, Any]:
    """Their `main()`, with what is drawn left out; what it computes is noted on the way."""
    seen: dict[str, Any] = {"losses": [], "gradients": [], "scores": None}
    mean, adam, quantiles, scored = torch.mean, torch.optim.Adam.step, reference.map_normalization, reference.test
    make = common_.get_autoencoder

    def noted_mean(x: Tensor, *args: Any, **options: Any) -> Tensor:
        out = mean(x, *args, **options)
        if not args and not options:
            seen["losses"].append(float(out))
        return out

    def noted_step(optimizer: Any, *args: Any) -> Any:
        if not seen["gradients"]:
            seen["gradients"] = [p.grad.clone() for group in optimizer.param_groups for p in group["params"]]
        return adam(optimizer, *args)

    def without_dropout(channels: int) -> torch.nn.Module:
        net = make(channels)
        for layer in net.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        seen["autoencoder"] = {k: v.clone() for k, v in net.state_dict().items()}
        return net

    def noted_student(channels: int) -> torch.nn.Module:
        net = common_.get_pdn_small(channels)
        if channels == 768:
            seen["student"] = {k: v.clone() for k, v in net.state_dict().items()}
        return net

    def noted_quantiles(**given: Any) -> Any:
        seen["quantiles"] = quantiles(**given)
        seen["trained"] = given
        seen["image"] = next(iter(given["validation_loader"]))[0]
        return seen["quantiles"]

    def noted_scores(**given: Any) -> float:
        given["test_output_dir"] = None  # no files
        if steps < STEPS:
            return 0.0
        with mock.patch.object(reference, "roc_auc_score", lambda y_true, y_score: seen.update(
                scores=np.array(y_score)) or 0.0):
            return scored(**given)

    arguments = ["efficientad.py", "-s", "part", "-o", str(folder / out), "-w", str(folder / "teacher_small.pth"),
                 "-i", str(folder / "penalty"), "-a", str(folder / "data"), "-t", str(steps)]
    with (mock.patch.object(sys, "argv", arguments), mock.patch.object(torch, "mean", noted_mean),
          mock.patch.object(torch, "save", lambda *_: None), mock.patch.object(torch.optim.Adam, "step", noted_step),
          mock.patch.object(reference, "transform_ae", lambda image: image),
          mock.patch.object(reference, "get_autoencoder", without_dropout),
          mock.patch.object(reference, "get_pdn_small", noted_student),
          mock.patch.object(reference, "map_normalization", noted_quantiles),
          mock.patch.object(reference, "test", noted_scores)):  # fmt: skip
        reference.main()
    return seen


def run_ours(seen: dict[str, Any], folder: Path, train: Path, steps: int, dtype: torch.dtype) -> dict[str, Any]:
    """The same steps by `adlib.efficientad.losses`, from the same weights."""
    detector = EfficientAD(**PAPER | {"teacher": read_teacher(folder / "teacher_small.pth")}, device="cpu")
    for module, weights in ((detector.student, seen["student"]), (detector.autoencoder, seen["autoencoder"])):
        module.load_state_dict(dict(zip(module.state_dict(), weights.values(), strict=True)))
    image = as_samples([train])[0].image[None]
    outside = penalty_batch(as_samples(folder / "penalty"), 1, (256, 256), torch.Generator().manual_seed(0))
    with torch.no_grad():
        detector.mean, detector.std = channel_statistics([detector.teacher(normalised(image))])
    if dtype == torch.float64:  # not adlib's own, which are float32
        detector.mean, detector.std = seen["trained"]["teacher_mean"], seen["trained"]["teacher_std"]
    detector.to(dtype)
    image, outside = image.to(dtype), outside.to(dtype)
    trained = torch.nn.ModuleList([detector.student, detector.autoencoder])
    optimizer = torch.optim.Adam(trained.parameters(), 1e-4, weight_decay=1e-5)
    terms, gradients = [], []
    with (mock.patch.object(our_networks, "_dropout", lambda x, *_: x),
          mock.patch.object(our_training, "color_jitter", lambda images, _: images),
          mock.patch.object(our_training.Networks, "normalised_teacher",  # which rounds to float32
                            lambda self, x: (self.teacher(x) - self.mean) / self.std)):  # fmt: skip
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 1e-4 if step < int(0.95 * steps) else 1e-5
            found = losses(detector.networks, image, outside, torch.Generator())
            optimizer.zero_grad()
            torch.stack(list(found.values())).sum().backward()
            gradients = gradients or [p.grad.clone() for p in trained.parameters()]
            optimizer.step()
            terms.append([float(found[name]) for name in ("hard", "penalty", "ae", "stae")])
    return {"detector": detector, "losses": np.array(terms), "gradients": gradients}


def maps_and_scores(seen: dict[str, Any], detector: EfficientAD, folder: Path) -> dict[str, Any]:
    """Their trained networks in our detector: quantiles, maps and image scores."""
    theirs = seen["trained"]
    into(detector.student, theirs["student"])
    into(detector.autoencoder, theirs["autoencoder"])
    detector.mean, detector.std = theirs["teacher_mean"], theirs["teacher_std"]
    undo = seen["image"] * torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) + torch.tensor(
        [0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    with torch.no_grad():
        both = detector.both_maps(undo)
    detector.quantiles = torch.stack([map_quantiles(m) for m in both])
    q = torch.tensor(seen["quantiles"]).view(2, 2)
    names = sorted((folder / "data/part/test").rglob("*.png"))
    with torch.no_grad():
        batch = torch.stack([read_image(path) for path in names])
        combined = combine_maps(*detector.both_maps(batch), detector.quantiles)
    framed = F.interpolate(F.pad(combined[:, None], (4, 4, 4, 4)), (256, 256), mode="bilinear").amax((1, 2, 3))
    ours = combined.amax((1, 2))
    return {"quantiles": float(((q - detector.quantiles) / q).abs().max()),
            "image score, with the reference's frame of zeros and enlarging": apart(
                framed, torch.tensor(seen["scores"])),
            "image score of adlib minus the reference's": {"mean": float((ours - framed).mean()),
                                                           "largest": float((ours - framed).max())},
            "share of pairs of images in another order": another_order(ours, framed)}  # fmt: skip


def another_order(a: Tensor, b: Tensor) -> float:
    first, second = (torch.sign(x[:, None] - x[None]) for x in (a, b))
    pairs = ~torch.eye(len(a), dtype=torch.bool)
    return float((first != second)[pairs].float().mean())


def distilled_channels(pretraining: Any) -> dict[str, Any]:
    """What each of the 384 channels of the distillation is made of, theirs and ours, for a WideResNet's 512 and 1,024.

    Layers of ones and of zeros go through both: a channel's value is the share that comes from the layer of ones.
    """
    shares = {}
    for name, (first, second) in {"layer2": (1.0, 0.0), "layer3": (0.0, 1.0)}.items():
        layers = [torch.full((4, 512, 3, 3), first), torch.full((4, 1024, 3, 3), second)]
        theirs = pretraining.Aggregator(384)(pretraining.Preprocessing([512, 1024], 1024)(layers))[0]
        ours = pool_channels(torch.cat([torch.full((1, 512, 1, 1), first), torch.full((1, 1024, 1, 1), second)], 1),
                             384).flatten()
        shares[name] = {"reference": float(theirs.sum()), "adlib": float(ours.sum())}
    return shares


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"))
    parser.add_argument("--checkout", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    common_, reference, pretraining = load(args.checkout)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures(folder)
        held = {f"output of {name}": value for name, value in the_networks(common_).items()}
        torch.manual_seed(1)
        torch.save(common_.get_pdn_small(384).state_dict(), folder / "teacher_small.pth")
        seen = run_theirs(common_, reference, folder, "out", STEPS)
        theirs = np.array(seen["losses"]).reshape(STEPS, 4)
        # Which of the two images it trains on is drawn; the other one is in its validation set.
        used = seen["trained"]["validation_loader"].dataset.indices
        train = folder / f"data/part/train/good/{1 - used[0]}.png"
        ours = run_ours(seen, folder, train, STEPS, torch.float32)
        torch.set_default_dtype(torch.float64)
        exact = run_theirs(common_, reference, folder, "out64", 2)  # one is too few for its schedule
        torch.set_default_dtype(torch.float32)
        ours_exact = run_ours(exact, folder, train, 1, torch.float64)
        relative = np.abs(theirs / ours["losses"] - 1)
        for i, name in enumerate(("hard", "penalty", "autoencoder", "student and autoencoder")):
            held[f"loss, {name}, first step"] = float(relative[0, i])
        single, held["gradients of all weights, float64"] = (
            max(apart(a, b) / float(a.abs().max()) for a, b in zip(x["gradients"], y["gradients"], strict=True))
            for x, y in ((seen, ours), (exact, ours_exact)))
        statistics = seen["trained"]
        held["teacher's mean and deviation"] = max(apart(statistics["teacher_mean"], ours["detector"].mean),
                                                   apart(statistics["teacher_std"], ours["detector"].std))
        more = maps_and_scores(seen, ours["detector"], folder)
        held |= {name: more.pop(name) for name in list(more)[:2]}
    report = {
        "name": "EfficientAD, the reference's arithmetic and ours", "reference": "nelson1425/EfficientAD",
        "commit": common.commit(args.checkout), "command": common.command(checkout=Path("reference")), "seed": 1,
        "threads": 1, "versions": common.versions(), "limit": 1e-5, "largest_difference": held,
        "holds": all(value <= 1e-5 for value in held.values()),
        "losses": {"reference": theirs.tolist(), "adlib": ours["losses"].tolist(),
                   "largest_relative_difference_by_step": relative.max(1).tolist()},
        "gradients_in_float32": single, **more,
        "channels_of_the_distillation_from": distilled_channels(pretraining)}  # fmt: skip
    common.write(args.out, report)
    print(report)


if __name__ == "__main__":
    main()
