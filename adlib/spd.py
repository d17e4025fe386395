"""SPD: pre-training that keeps an eye for small local changes. Zou et al., SPot-the-Difference, ECCV 2022.

A network that is taught to ignore crops and colours learns to ignore small defects as well. SPD adds a term to its
loss: an image and a copy with a small patch blended in must come apart, an image and a weakly changed copy together.
The authors published the data set VisA and its splits, but no training code. Where no text at hand gives a value, the
docstring says that the value is ours.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from adlib.augment import SMALLEST, STRONG, WEAK, augment, smooth_blend
from adlib.augment import blend as blend
from adlib.backbones import load_backbone, normalised
from adlib.detector import pick_device
from adlib.gradients import check_gradients
from adlib.images import resize_image
from adlib.objectives import MoCo, SimCLR, SimSiam, Supervised
from adlib.resnet import ResNet18
from adlib.samples import Sample, as_samples
from adlib.training import Training

OBJECTIVES = {"simsiam": SimSiam, "simclr": SimCLR, "moco": MoCo, "supervised": Supervised}
AHEAD = 2  # batches that are being read while one is used
# One call, on one GPU of 80 GB: ``pretrain("imagenet/train", **PAPER)``. The network, the objective and η are those of
# the SPD paper, whose main text does not say how long and how fast it trains. The rest is SimSiam's own recipe: 224
# pixels, widths of the heads, rate 0.05 for 256 images, 100 epochs of 1,281,167. bfloat16 is ours, for the memory.
PAPER: dict[str, Any] = {
    "backbone": "resnet50", "image_size": 224, "objective": "simsiam", "spd_weight": 0.1, "images_per_step": 256,
    "learning_rate": 0.05, "steps": 100 * (1_281_167 // 256), "half": True,
    "objective_options": {"dimension": 2048, "hidden": 2048, "predictor": 512},
}  # fmt: skip


# ---------------------------------------------------------------------- the loss, and what it is meant to raise


def spd_loss(z: Tensor, z_plus: Tensor, z_minus: Tensor, *, stop_gradient: bool = False) -> Tensor:
    """L_SPD = cos(z, z⁻) − cos(z, z⁺), the mean over the batch. Equation (3.5); its gradient is (3.6).

    Parameters
    ----------
    z, z_plus, z_minus : Tensor (B, D)
        Projections of the images, of weakly changed copies, and of weakly changed copies with a blended patch.
    stop_gradient : bool
        No gradient goes to z_plus and z_minus, as in SimSiam's own term. The text at hand does not say which of the two
        the authors used.

    Returns
    -------
    Tensor ()
        In [−2, 2]; lower means that the local change moves z more than the weak global one.

    References
    ----------
    Zou et al. 2022, Section 3.2.
    """
    if stop_gradient:
        z_plus, z_minus = z_plus.detach(), z_minus.detach()
    return (F.cosine_similarity(z, z_minus, dim=1) - F.cosine_similarity(z, z_plus, dim=1)).mean()


@torch.no_grad()
def sensitivity(
    encoder: nn.Module, images: Tensor, changed: Tensor, generator: torch.Generator, *, draws: int = 4
) -> Tensor:
    """Drop of the cosine under a local change over its drop under a weak global one. Equation (3.1).

    The larger the ratio, the more the encoder sees of the local change beside what it should ignore.

    Parameters
    ----------
    encoder : Module
        From normalised images (B, 3, H, W) to vectors (B, D), such as ``Pooled(backbone)``.
    images, changed : Tensor (N, 3, H, W)
        In [0, 1]; `changed` has a local change, by SmoothBlend or by a defect.
    generator : torch.Generator
    draws : int
        The weak view is drawn so many times and its drop averaged.

    Returns
    -------
    Tensor (N,)
    """

    def vectors(x: Tensor) -> Tensor:
        return torch.cat([encoder(normalised(part)) for part in x.split(64)])

    z = vectors(images)
    local = 1 - F.cosine_similarity(z, vectors(changed), dim=1)
    weak = [1 - F.cosine_similarity(z, vectors(augment(images, WEAK, generator)), dim=1) for _ in range(draws)]
    return local / torch.stack(weak).mean(0).clamp(min=1e-12)


# ---------------------------------------------------------------------- pre-training


class Pooled(nn.Module):
    """A backbone followed by the mean over the cells of its last layer: images (B, 3, H, W) to vectors (B, C).

    With `half`, the backbone computes in bfloat16 and the mean in float32.
    """

    def __init__(self, backbone: nn.Module, half: bool = False) -> None:
        super().__init__()
        self.backbone, self.half_precision = backbone, half

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.half_precision):
            last = list(self.backbone(images).values())[-1]
        return (last.float() if self.half_precision else last).mean((2, 3))


class Photographs:
    """Images resized whole to squares, a batch at a time: held as bytes where they fit, else read when asked for.

    Parameters
    ----------
    images : images
        What `adlib.datasets.as_samples` takes.
    size : int
        Pixels of a side.
    held : float
        So many bytes of images are kept. Larger sets are read anew in each epoch.
    workers : int
        Threads that read.
    """

    def __init__(self, images: object, size: int, *, held: float = 4e9, workers: int = 8) -> None:
        self.samples, self.size, self.workers = as_samples(images), size, workers
        self.kept: Tensor | None = None
        if len(self) * 3 * size * size <= held:
            with ThreadPoolExecutor(workers) as pool:
                self.kept = torch.stack(list(pool.map(self._read, self.samples)))

    def __len__(self) -> int:
        return len(self.samples)

    def _read(self, sample: Sample) -> Tensor:
        return (resize_image(sample.image, (self.size, self.size)) * 255).round().to(torch.uint8)

    def batches(self, chosen: Iterable[Tensor]) -> Generator[Tensor, None, None]:
        """For each tensor of row numbers its images, (B, 3, size, size) uint8; the next ones are read meanwhile."""
        if self.kept is not None:
            yield from (self.kept[rows] for rows in chosen)
            return
        pool, waiting = ThreadPoolExecutor(self.workers), deque()
        try:
            for rows in chosen:
                waiting.append([pool.submit(self._read, self.samples[i]) for i in rows.tolist()])
                if len(waiting) > AHEAD:
                    yield torch.stack([read.result() for read in waiting.popleft()])
            while waiting:
                yield torch.stack([read.result() for read in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)


def batches_of_steps(n: int, batch: int, seed: int, steps: range) -> Iterator[Tensor]:
    """The row numbers of each step: every epoch is a new order of all images, which depends on (seed, epoch) alone."""
    known, order = -1, torch.empty(0)
    for step in steps:
        epoch, place = divmod(step, n // batch)
        if epoch != known:
            known, order = epoch, torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(n))
        yield order[place * batch : (place + 1) * batch]


def pretrain(
    images: object,
    *,
    objective: str = "simsiam",
    spd_weight: float = 0.1,
    stop_gradient: bool = False,
    labels: Sequence[int] | None = None,
    backbone: nn.Module | str | None = None,
    image_size: int = 64,
    steps: int = 1000,
    images_per_step: int = 64,
    learning_rate: float = 0.05,
    seed: int = 0,
    device: str = "auto",
    settle: bool = True,
    half: bool = False,
    objective_options: Mapping[str, Any] | None = None,
    held: float = 4e9,
    workers: int = 8,
    checkpoint: str | Path | None = None,
    history: dict[str, list[float]] | None = None,
    **blend_options: Any,
) -> nn.Module:
    """Pre-train a backbone with L = L_base + η·L_SPD. Equation (3.7); for labels, (3.12).

    Stochastic gradient descent with momentum 0.9, weight decay 1e-4 and a cosine schedule. Runs of one seed see the
    same images and strong copies at every step, with SPD and without.

    Parameters
    ----------
    images : images
        What `adlib.datasets.as_samples` takes; resized whole to squares of `image_size` pixels.
    objective : str
        "simsiam", "simclr", "moco", or "supervised", which needs `labels`.
    spd_weight : float
        η; 0 trains without SPD.
    stop_gradient : bool
        See `spd_loss`.
    labels : sequence of N ints, optional
        0 and up.
    backbone : Module or str, optional
        A module from images to a dictionary of layers, trained in place from its present weights, or a name of
        torchvision's, with random weights, for all four layers of a ResNet. By default a new ResNet-18 of the shipped
        size. Random weights are drawn from `seed`.
    image_size, steps, images_per_step : int
    learning_rate : float
    seed : int
    device : str
    settle : bool
        At the end, measure the statistics of batch normalisation anew, see `settle_statistics`.
    half : bool
        The backbone computes in bfloat16 while it trains; its weights stay float32.
    objective_options : mapping, optional
        Of the objective's class in `adlib.objectives`, such as dimension, queue, momentum or temperature.
    held, workers
        See `Photographs`.
    checkpoint : path, optional
        A file to go on from, see `adlib.training.Training`.
    history : dict, optional
        Gets the losses of each step, by name.
    **blend_options
        Of `smooth_blend`.

    Returns
    -------
    Module
        The backbone, in evaluation mode, to be passed as ``backbone=`` to a detector.

    Raises
    ------
    ValueError
        For an unknown objective or option, labels that do not fit, or fewer images than a batch.
    RuntimeError
        Where the processor would compute wrong gradients, see `adlib.gradients.check_gradients`.

    References
    ----------
    Zou et al. 2022, Section 3.2; η = 0.1 is their best of 0.1, 0.5 and 1. Optimiser, batch and number of steps are
    ours: the main text does not give them.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective = {objective!r}: expected one of {', '.join(OBJECTIVES)}")
    if not image_size >= SMALLEST:
        raise ValueError(f"image_size = {image_size}: expected at least {SMALLEST} pixels")
    data = Photographs(images, image_size, held=held, workers=workers)
    _check_run(objective, labels, len(data), images_per_step, learning_rate)
    options = dict(objective_options or {}) | ({} if labels is None else {"classes": max(labels) + 1})
    method = _method(objective, backbone, image_size, half, options, seed)
    method = method.to(pick_device(device), memory_format=torch.channels_last).train()
    check_gradients(method.encoder.backbone, (images_per_step, 3, image_size, image_size))
    where = next(method.parameters()).device
    # Two generators: SPD's draws must not change those of the base loss.
    generator, of_spd = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1_000_003)
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=learning_rate, momentum=0.9, weight_decay=1e-4)
    about = {"objective": objective, "spd_weight": spd_weight, "stop_gradient": stop_gradient, "images": len(data),
             "image_size": image_size, "images_per_step": images_per_step, "seed": seed, "half": half, **options,
             **blend_options}  # fmt: skip
    run = Training(steps, {"method": method}, optimizer, generators={"all": generator, "spd": of_spd}, about=about,
                   checkpoint=checkpoint, schedule=lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)),
                   name=f"pre-training, {objective}")  # fmt: skip
    orders = [batches_of_steps(len(data), images_per_step, seed, range(run.step, steps)) for _ in range(2)]
    with contextlib.closing(data.batches(orders[0])) as batches:
        for _, batch, rows in zip(run, batches, orders[1], strict=False):
            x = batch.to(where).float() / 255  # (B, 3, S, S)
            first = normalised(augment(x, STRONG, generator))
            if labels is None:
                base = method.base_loss(first, normalised(augment(x, STRONG, generator)))
            else:
                base = method.base_loss(first, torch.tensor([labels[i] for i in rows.tolist()], device=where))
            term = base.new_zeros(())
            if spd_weight:
                term = _spd_term(method, x, of_spd, stop_gradient, blend_options)
            run.update(base + spd_weight * term, base=base, spd=term)
    if history is not None:
        history.update(run.history)
    done: nn.Module = method.encoder.backbone.to(memory_format=torch.contiguous_format)  # as others expect to save it
    if settle:
        few = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:2048]
        settle_statistics(done, (x.to(where).float() / 255 for x in data.batches(few.split(64))))
    return done.eval()


def settle_statistics(backbone: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the running means and variances of batch normalisation anew, as a plain average over the batches.

    During training the statistics follow what the network was shown: strong copies, and with SPD weak ones too. A
    detector shows plain images. Without this step, runs with and without SPD would differ by their statistics, whatever
    the loss has taught.

    Parameters
    ----------
    backbone : Module
    batches : iterable of Tensor (B, 3, H, W)
        In [0, 1], the images as a detector will show them.
    """
    update_bn(map(normalised, batches), backbone)
    backbone.eval()


def _check_run(
    objective: str, labels: Sequence[int] | None, images: int, images_per_step: int, learning_rate: float
) -> None:
    if (objective == "supervised") != (labels is not None):
        raise ValueError(f"objective {objective!r}: {'needs' if labels is None else 'takes no'} labels; "
                         "expected them with 'supervised' and with nothing else")
    if labels is not None and (len(labels) != images or min(labels) < 0):
        raise ValueError(f"labels: found {len(labels)}, the smallest {min(labels, default=None)}; expected one for "
                         f"each of {images} images, 0 and up")
    if not 2 <= images_per_step <= images:
        raise ValueError(f"images_per_step = {images_per_step}: expected 2 to {images}, the number of images; "
                         "one image alone leaves batch normalisation nothing to compare")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate = {learning_rate}: expected a positive number, such as 0.05")


def _method(objective: str, backbone: nn.Module | str | None, image_size: int, half: bool, options: dict[str, Any],
            seed: int) -> nn.Module:  # fmt: skip
    """The objective's module around the backbone; new weights come from `seed`."""
    taken = [name for name in inspect.signature(OBJECTIVES[objective]).parameters if name not in ("encoder", "width")]
    if unknown := sorted(options.keys() - set(taken)):
        raise ValueError(f"objective_options: {objective} has no {unknown[0]!r}; expected some of {', '.join(taken)}")
    if isinstance(backbone, str):
        layers = ("layer1", "layer2", "layer3", "layer4")
        backbone = load_backbone(backbone, layers, pretrained=False, seed=seed).requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which sets the GPUs' as well
        backbone = ResNet18() if backbone is None else backbone
        like = next(backbone.parameters())
        with torch.no_grad():
            width = Pooled(backbone.eval())(like.new_zeros(1, 3, image_size, image_size)).shape[1]
        return OBJECTIVES[objective](Pooled(backbone, half), width, **options)


def _spd_term(method: Any, x: Tensor, generator: torch.Generator, stop_gradient: bool, blend_options: Any) -> Tensor:
    """L_SPD of a batch (B, 3, S, S) in [0, 1], or the auxiliary classifier's loss."""
    plus = augment(x, WEAK, generator)
    minus, _ = smooth_blend(augment(x, WEAK, generator), generator, **blend_options)
    if isinstance(method, Supervised):
        blended = torch.cat([x.new_zeros(len(x)), x.new_ones(len(x))])
        return method.spotting_loss(normalised(torch.cat([plus, minus])), blended)
    # One pass for all three. In passes of their own, batch normalisation would take out what tells them apart.
    z, z_plus, z_minus = method.project(normalised(torch.cat([x, plus, minus]))).chunk(3)
    return spd_loss(z, z_plus, z_minus, stop_gradient=stop_gradient)
