"""Chapter 3, SPD: every numbered equation, transcribed with loops in float64, against the library."""

import math

import pytest
import torch
from torch import nn

from adlib import spd
from adlib.augment import WEAK, augment
from adlib.objectives import Supervised, ema_update, info_nce_loss, nt_xent_loss, simsiam_loss
from equations import equation


def vectors(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    dot = sum(float(p.detach()) * float(q.detach()) for p, q in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(p) ** 2 for p in a)) / math.sqrt(sum(float(q) ** 2 for q in b))


@equation("3.1", function="adlib.spd.sensitivity")
def test_sensitivity():
    network = nn.Sequential(nn.Conv2d(3, 5, 5, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).double()
    x = torch.rand(3, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    changed = x.clone()
    changed[:, :, 4:9, 4:9] = 0.5
    generator, expected = torch.Generator().manual_seed(2), [0.0] * 3
    with torch.no_grad():
        for _ in range(4):
            copies = augment(x, WEAK, generator)
            for i in range(3):
                expected[i] += (1 - cosine(*network(spd.normalised(torch.stack([x[i], copies[i]]))))) / 4
        expected = [(1 - cosine(*network(spd.normalised(torch.stack([x[i], changed[i]]))))) / expected[i]
                    for i in range(3)]
    found = spd.sensitivity(network, x, changed, torch.Generator().manual_seed(2), draws=4)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def gaussian(image, sigma):
    """G∗image, pixel by pixel: a plane (H, W) as lists, cut off at 3σ, weights that add up to 1 in each direction."""
    radius = max(1, math.ceil(3 * sigma))
    weight = [math.exp(-(k * k) / (2 * sigma * sigma)) for k in range(-radius, radius + 1)]
    weight = [w / sum(weight) for w in weight]
    h, w = len(image), len(image[0])
    out = [[0.0] * w for _ in range(h)]
    for i in range(h):
        for j in range(w):
            for a in range(-radius, radius + 1):
                for b in range(-radius, radius + 1):
                    if 0 <= i + a < h and 0 <= j + b < w:
                        out[i][j] += weight[a + radius] * weight[b + radius] * image[i + a][j + b]
    return out


@equation("3.2", function="adlib.augment.blend")
@equation("3.3", function="adlib.augment.blend")
@equation("3.4", function="adlib.augment.blend")
@pytest.mark.parametrize("texture", ["kept", "blurred"])
def test_blend(texture):
    generator = torch.Generator().manual_seed(4)
    x, u = (torch.rand(1, 3, 11, 13, dtype=torch.float64, generator=generator) for _ in range(2))
    m = torch.zeros(1, 1, 11, 13, dtype=torch.float64)
    m[:, :, 4:8, 0:5] = 1  # at the border, outside of which there is nothing
    alpha = gaussian(m[0, 0].tolist(), 1.3)
    found = spd.blend(x, u, m, 1.3, texture=texture)
    for c in range(3):
        layer = gaussian((m[0, 0] * u[0, c]).tolist(), 1.3)
        for i in range(11):
            for j in range(13):
                pasted = alpha[i][j] * float(u[0, c, i, j]) if texture == "kept" else layer[i][j]
                expected = (1 - alpha[i][j]) * float(x[0, c, i, j]) + pasted
                assert float(found[0, c, i, j]) == pytest.approx(expected, abs=1e-12)


@equation("3.5", function="adlib.spd.spd_loss")
def test_loss():
    z, plus, minus = (vectors(i, 6, 9) for i in range(3))
    expected = sum(cosine(z[i], minus[i]) - cosine(z[i], plus[i]) for i in range(6)) / 6
    assert spd.spd_loss(z, plus, minus).item() == pytest.approx(expected, abs=1e-12)


@equation("3.6", function="adlib.spd.spd_loss")
def test_gradient_of_the_loss():
    z, plus, minus = (vectors(i, 1, 5).requires_grad_() for i in range(3))
    found = torch.autograd.grad(spd.spd_loss(z, plus, minus), z)[0][0]

    def length(v):
        return math.sqrt(sum(float(p) ** 2 for p in v))

    loss = cosine(z[0], minus[0]) - cosine(z[0], plus[0])
    for k in range(5):
        expected = (float(minus[0, k]) / length(minus[0]) - float(plus[0, k]) / length(plus[0])
                    - loss * float(z[0, k]) / length(z[0])) / length(z[0])
        assert float(found[k]) == pytest.approx(expected, abs=1e-12)


@equation("3.7", function="adlib.spd.pretrain")
@pytest.mark.parametrize("weight", [0.0, 0.1, 0.7])
def test_total(weight):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3, 2)

        def forward(self, x):
            return {"layer": self.convolution(x)}

    torch.manual_seed(0)
    history = {}
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    spd.pretrain(images, backbone=Small(), spd_weight=weight, image_size=16, steps=3, images_per_step=4, device="cpu",
                 history=history)
    for total, base, term in zip(history["loss"], history["base"], history["spd"], strict=True):
        assert total == pytest.approx(base + weight * term, abs=1e-6)
        assert -1 <= base <= 1 and -2 <= term <= 2 and (term != 0) == (weight > 0)


@equation("3.8", function="adlib.objectives.simsiam_loss")
def test_simsiam():
    p1, p2, z1, z2 = (vectors(i, 5, 7) for i in range(4))
    expected = sum(-0.5 * (cosine(p1[i], z2[i]) + cosine(p2[i], z1[i])) for i in range(5)) / 5
    assert simsiam_loss(p1, p2, z1, z2).item() == pytest.approx(expected, abs=1e-12)


@equation("3.9", function="adlib.objectives.nt_xent_loss")
@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_simclr(tau):
    z1, z2 = vectors(0, 5, 7), vectors(1, 5, 7)
    z, total = [*z1, *z2], 0.0
    for i in range(10):
        below = sum(math.exp(cosine(z[i], z[k]) / tau) for k in range(10) if k != i)
        total -= math.log(math.exp(cosine(z[i], z[(i + 5) % 10]) / tau) / below)
    assert nt_xent_loss(z1, z2, tau).item() == pytest.approx(total / 10, abs=1e-12)


@equation("3.10", function="adlib.objectives.info_nce_loss")
def test_moco():
    q, k, queue = vectors(0, 4, 6), vectors(1, 4, 6), torch.nn.functional.normalize(vectors(2, 11, 6), dim=1)
    total = 0.0
    for i in range(4):
        above = math.exp(cosine(q[i], k[i]) / 0.2)
        total -= math.log(above / (above + sum(math.exp(cosine(q[i], c) / 0.2) for c in queue)))
    assert info_nce_loss(q, k, queue, 0.2).item() == pytest.approx(total / 4, abs=1e-12)


@equation("3.11", function="adlib.objectives.ema_update")
def test_momentum():
    slow, fast = vectors(0, 3, 4), vectors(1, 3, 4)
    expected = [[0.97 * float(a) + 0.03 * float(b) for a, b in zip(x, y, strict=True)]
                for x, y in zip(slow, fast, strict=True)]
    ema_update([slow], [fast], 0.97)
    assert torch.allclose(slow, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


@equation("3.12", function="adlib.objectives.Supervised")
def test_auxiliary_classifier():
    torch.manual_seed(0)
    method = Supervised(nn.Flatten(), 12, classes=2).double()
    x = vectors(3, 6, 3, 2, 2)
    y = [0, 0, 0, 1, 1, 1]
    with torch.no_grad():
        a = method.spotter(method.encoder(x))[:, 0].tolist()
        found = method.spotting_loss(x, torch.tensor(y, dtype=torch.float64)).item()
    total = 0.0
    for output, truth in zip(a, y, strict=True):
        p = 1 / (1 + math.exp(-output))
        total -= truth * math.log(p) + (1 - truth) * math.log(1 - p)
    assert found == pytest.approx(total / 6, abs=1e-12)
