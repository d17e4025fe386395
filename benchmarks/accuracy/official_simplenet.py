"""Hold SimpleNet.PAPER against the official code: the same random weights and images, step by step, and write JSON.

    git clone https://github.com/DonaldRR/SimpleNet CHECKOUT && git -C CHECKOUT checkout 351a2b8
    python -m benchmarks.accuracy.official_simplenet CHECKOUT

Their modules run as they are; nothing of them is kept here. Of their imports, the log of tensorboard and what draws
pictures and computes measures stand empty. Both sides get one WideResNet-50 with random weights, the same initial
adaptor and discriminator, the same images in the same order, and the same noise. Compared are the features, the losses
of some steps, and then scores and maps of other images. Fixed before the first run: nothing may differ by more than
1e-5 of the largest value on their side.

One thing cannot agree: their first layer has a bias that batch normalisation takes out. Its gradient is rounding, which
Adam enlarges to whole steps, and the running mean follows late. So it starts at 0 and is held there ("bias held"); how
far the scores move when it is left free is beside it ("bias free").

Seen in the first runs: the maps differ near the border. Their filter goes on beyond it as in a mirror, ours, equation
(2.16), with the value at the border. So the inner part of the map is measured apart; 16 pixels is the filter's reach.
And the rounding of float32, which grows through the steps, had moved single patches by 2e-5. So scores and maps are
compared twice: after training on both sides ("trained apart"), and with their trained weights in our detector.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from adlib import SimpleNet
from adlib.backbones import normalised
from adlib.datasets import SyntheticFactory
from adlib.images import resize_image
from adlib.simplenet import Head, fold, train_head
from adlib.training import epoch_order
from benchmarks import common

REACH = 16
STEPS, IMAGES, SEED = 3, 2, 0  # two images a step and not eight: the arithmetic is the same


def official(checkout: Path) -> types.ModuleType:
    """Their module `simplenet`, with empty modules in place of what it does not need here."""
    sys.path.insert(0, str(checkout))
    for name, given in {"torch.utils.tensorboard": "SummaryWriter", "utils": "plot_segmentation_images",
                        "metrics": ""}.items():  # fmt: skip
        sys.modules[name] = types.ModuleType(name)
        if given:
            setattr(sys.modules[name], given, mock.MagicMock())
    import simplenet  # pyrefly: ignore

    return simplenet


def theirs(code: types.ModuleType, backbone: nn.Module, ours: Head, held: bool) -> Any:
    """Their detector with the settings of their run.sh and our initial weights."""
    net = code.SimpleNet(torch.device("cpu"))
    net.load(
        backbone=backbone, layers_to_extract_from=["layer2", "layer3"], device=torch.device("cpu"),
        input_shape=(3, 288, 288), pretrain_embed_dimension=1536, target_embed_dimension=1536, patchsize=3,
        meta_epochs=40, gan_epochs=1, noise_std=0.015, dsc_layers=2, dsc_hidden=1024, dsc_margin=0.5, pre_proj=1,
    )  # fmt: skip
    net.logger = mock.MagicMock()
    first, norm, _ = net.discriminator.body[0]
    with torch.no_grad():
        net.pre_projection.layers[0].load_state_dict(ours.adaptor.state_dict())
        first.weight.copy_(ours.first.weight)
        net.discriminator.tail.weight.copy_(ours.last.weight)
        if held:
            first.bias.zero_().requires_grad_(False)
    assert norm.eps == ours.norm.eps and norm.momentum == ours.norm.momentum
    return net


def train_theirs(net: Any, images: Tensor) -> list[float]:
    """The losses of their loop, with the order and the noise of ours."""
    generator, losses = torch.Generator().manual_seed(SEED), []
    net.logger.logger.add_scalar = lambda name, value, _: losses.append(float(value)) if name == "loss" else None

    def normal(mean: float, deviation: float, size: torch.Size) -> Tensor:
        return torch.randn(size, generator=generator).mul_(deviation) + mean

    with mock.patch("torch.normal", normal):
        for epoch in range(STEPS):  # one step each
            chosen = epoch_order(len(images), SEED, epoch)
            net._train_discriminator([{"image": images[chosen]}])
    return losses


def difference(found: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest absolute value that is expected."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (found, expected))
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a - b).max() / np.abs(b).max())


def compared(found: tuple[Tensor, Tensor], expected: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """Scores, the maps farther than the filter's reach from the border, and the whole maps."""
    inner = (slice(None), slice(REACH, -REACH), slice(REACH, -REACH))
    return {"scores": difference(found[0], expected[0]), "maps": difference(found[1][inner], expected[1][inner]),
            "maps with the border": difference(found[1], expected[1])}  # fmt: skip


def taken(net: Any, head: Head) -> Head:
    """Our head with their trained weights; their first layer's bias goes into the running mean."""
    first, norm, _ = net.discriminator.body[0]
    head.adaptor.load_state_dict(net.pre_projection.layers[0].state_dict())
    head.norm.load_state_dict(norm.state_dict())
    with torch.no_grad():
        head.first.weight.copy_(first.weight)
        head.last.weight.copy_(net.discriminator.tail.weight)
        head.norm.running_mean -= first.bias
    return head.eval()


def main() -> None:
    parser = common.arguments(__doc__, Path(__file__).with_suffix(".json"))
    parser.add_argument("checkout", type=Path)
    args = parser.parse_args()
    code = official(args.checkout)
    report = common.read(args.out, {}) | {"commit": common.commit(args.checkout)}
    from torchvision import models

    torch.manual_seed(SEED)
    backbone = models.wide_resnet50_2(weights=None).eval()
    settings = SimpleNet.PAPER | {"backbone": backbone}
    detector = SimpleNet(**settings, device="cpu", seed=SEED)
    data = SyntheticFactory("washer", n_train=IMAGES, n_validation=0, n_test=1, n_defect=1, seed=SEED)
    train, test = (torch.stack([resize_image(s.image, (288, 288)) for s in part]) for part in (data.train, data.test))
    with torch.no_grad():
        features = detector.features(train).flatten(2).transpose(1, 2)
        looked = detector.look(test)
    options = detector.training_options | {"epochs": STEPS, "images_per_step": IMAGES}
    history: dict[str, list[float]] = {}
    head = train_head(features, noise=detector.noise, seed=SEED, history=history, **options)

    def answers(head: Head) -> tuple[Tensor, Tensor]:
        detector.weight, detector.bias, detector.last = fold(head)
        with torch.no_grad():
            return detector.score(looked)[0], detector(test)[1]

    results: dict[str, Any] = {}
    for held in (True, False):
        start = Head(features.shape[2], adaptor=detector.adaptor, hidden=detector.hidden,
                     adaptor_bias=detector.adaptor_bias, seed=SEED)  # fmt: skip
        net = theirs(code, backbone, start, held)
        with torch.no_grad():
            embedded = net._embed(normalised(train).contiguous(), evaluation=True)[0]
        losses = train_theirs(net, normalised(train).contiguous())
        found, masks, _ = net._predict(normalised(test).contiguous())
        expected = np.array(found), np.stack(masks)
        results["bias held" if held else "bias free"] = {
            "features": difference(features.flatten(0, 1), embedded), "losses": difference(history["loss"], losses),
            **compared(answers(taken(net, start)), expected),
            "trained apart": compared(answers(head), expected),
        }  # fmt: skip
        print(held, losses, history["loss"], results, flush=True)
    report |= {
        "name": "SimpleNet, our arithmetic beside the official code", "command": common.command("CHECKOUT"),
        "versions": common.versions(), "threads": torch.get_num_threads(), "seed": SEED,
        "protocol": " ".join(str(__doc__).split()), "steps": STEPS, "images_per_step": IMAGES, "results": results,
    }  # fmt: skip
    common.write(args.out, report)
    held = results["bias held"]
    assert max(held[name] for name in ("features", "losses", "scores", "maps")) <= 1e-5, held


if __name__ == "__main__":
    main()
