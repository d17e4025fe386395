"""Chapter 5, EfficientAD: every numbered equation, transcribed with loops in float64, against the library."""

import math
from collections import namedtuple

import numpy as np
import pytest
import torch

from adlib import EfficientAD
from adlib.backbones import load_backbone
from adlib.datasets import SyntheticFactory
from adlib.efficientad import (
    autoencoder_losses,
    combine_maps,
    difference_map,
    hard_feature_loss,
    losses,
    map_quantiles,
    normalise_map,
    penalty,
)
from adlib.efficientad.distillation import channel_statistics, distill
from adlib.efficientad.networks import PDN
from adlib.images import resize_image
from adlib.metrics import au_spro
from equations import equation

Region = namedtuple("Region", "mask saturation")


def vectors(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_quantile(values, q):
    """The value at position q·(n − 1) of the sorted list, linear between its neighbours."""
    values = sorted(values)
    position = q * (len(values) - 1)
    low = math.floor(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (position - low) * (values[high] - values[low])


@equation("5.1", function="adlib.efficientad.networks.PDN.grid")
@pytest.mark.parametrize("size", ["s", "m"])
def test_grid(size):
    net = PDN(size, width=0.01, out_channels=1)
    for pixels in (33, 64, 97, 130, 256, 301):
        expected = math.floor((math.floor((pixels - 3) / 2) - 3) / 2) - 5
        assert net.grid((pixels, 256)) == (expected, 56)
        assert net(torch.zeros(1, 3, pixels, 64)).shape[2] == expected


@equation("5.2", function="adlib.efficientad.distillation.channel_statistics")
def test_channel_statistics():
    batches = [10 + vectors(i, n, 3, 4, 5) * torch.tensor([1.0, 5.0, 0.0]).view(3, 1, 1) for i, n in ((0, 2), (1, 3))]
    mean, std = channel_statistics(batches)
    for c in range(3):
        values = [v for batch in batches for image in batch for v in image[c].flatten().tolist()]
        mu = sum(values) / len(values)
        sigma = math.sqrt(sum((v - mu) ** 2 for v in values) / len(values))
        assert float(mean[0, c]) == pytest.approx(mu, rel=1e-6)
        assert float(std[0, c]) == pytest.approx(sigma if c < 2 else 1, rel=1e-6)


@equation("5.3", function="adlib.efficientad.distillation.distill")
def test_distillation_loss():
    """The loss of the first step, of one image: the PDN still has the weights that its seed gives."""
    image, history = torch.rand(3, 80, 80, generator=torch.Generator().manual_seed(0)), {}
    distill("adlib_resnet18", [image], image_size=40, steps=1, images_per_step=1, grey=0.0, width=0.05,
            out_channels=48, history=history)  # fmt: skip
    view = resize_image(image, (80, 80))[None]
    shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        layers = load_backbone("adlib_resnet18")((view - shift) / scale)
        small = torch.nn.functional.interpolate(view, (40, 40), mode="bilinear", antialias=True)
        given = PDN(width=0.05, out_channels=48)((small - shift) / scale)[0]  # (48, 2, 2)
    mean3 = [torch.nn.functional.avg_pool2d(layers[n], 3, 1, 1, count_include_pad=False) for n in ("layer2", "layer3")]
    wide = torch.nn.functional.interpolate(mean3[1], (10, 10), mode="bilinear")
    stacked = torch.cat([mean3[0], wide], 1)[0]  # (288, 10, 10): six neighbours to each of the 48 channels
    total, count = 0.0, 0
    for c in range(48):
        inner = [[float(stacked[6 * c : 6 * c + 6, 4 + i, 4 + j].mean()) for j in range(2)] for i in range(2)]
        mu = sum(map(sum, inner)) / 4
        sigma = math.sqrt(sum((v - mu) ** 2 for row in inner for v in row) / 4)
        for i in range(2):
            for j in range(2):
                total += ((inner[i][j] - mu) / sigma - float(given[c, i, j])) ** 2
                count += 1
    assert history["loss"][0] == pytest.approx(total / count, rel=1e-4)


@equation("5.4", function="adlib.efficientad.hard_feature_loss")
@equation("5.5", function="adlib.efficientad.hard_feature_loss")
@pytest.mark.parametrize("p_hard", [0.0, 0.5, 0.9, 0.999])
def test_hard_feature_loss(p_hard):
    t, s = vectors(0, 3, 4, 6, 5), vectors(1, 3, 4, 6, 5)
    images = []
    for i in range(3):
        d = [float(t[i, c, y, x] - s[i, c, y, x]) ** 2 for c in range(4) for y in range(6) for x in range(5)]
        quantile = linear_quantile(d, p_hard)
        hard = [v for v in d if v >= quantile]
        images.append(sum(hard) / len(hard))
    assert float(hard_feature_loss(t, s, p_hard)) == pytest.approx(sum(images) / 3, rel=1e-12)


@equation("5.6", function="adlib.efficientad.hard_feature_loss")
def test_gradient_of_the_hard_loss():
    t, s = vectors(0, 2, 3, 4, 4), vectors(1, 2, 3, 4, 4).requires_grad_()
    (found,) = torch.autograd.grad(hard_feature_loss(t, s, 0.9), s)
    for i in range(2):
        d = (t[i] - s[i]).square()
        quantile = linear_quantile(d.flatten().tolist(), 0.9)
        kept = int((d >= quantile).sum())
        for c in range(3):
            for y in range(4):
                for x in range(4):
                    hard = float(d[c, y, x]) >= quantile
                    expected = 2 / (2 * kept) * float(s[i, c, y, x] - t[i, c, y, x]) if hard else 0.0
                    assert float(found[i, c, y, x]) == pytest.approx(expected, rel=1e-10, abs=1e-15)


@equation("5.7", function="adlib.efficientad.penalty")
def test_penalty():
    s = vectors(0, 2, 3, 4, 5).requires_grad_()
    loss = penalty(s)
    assert float(loss) == pytest.approx(sum(v**2 for v in s.flatten().tolist()) / 120, rel=1e-12)
    (found,) = torch.autograd.grad(loss, s)
    assert float(found[1, 2, 3, 4]) == pytest.approx(2 / 120 * float(s[1, 2, 3, 4]), rel=1e-12)


@equation("5.8", function="adlib.efficientad.autoencoder_losses")
@equation("5.9", function="adlib.efficientad.autoencoder_losses")
@equation("5.10", function="adlib.efficientad.autoencoder_losses")
@pytest.mark.parametrize("detach", [False, True])
def test_autoencoder_losses(detach):
    t, a, s = (vectors(i, 2, 3, 4, 5).requires_grad_() for i in range(3))
    ae, stae = autoencoder_losses(t, a, s, detach_autoencoder=detach)
    triples = list(zip(t.flatten().tolist(), a.flatten().tolist(), s.flatten().tolist(), strict=True))
    assert float(ae) == pytest.approx(sum((x - y) ** 2 for x, y, _ in triples) / 120, rel=1e-12)
    assert float(stae) == pytest.approx(sum((y - z) ** 2 for _, y, z in triples) / 120, rel=1e-12)
    of_a, of_s = torch.autograd.grad(ae + stae, [a, s])
    for found_a, found_s, (x, y, z) in zip(of_a.flatten().tolist(), of_s.flatten().tolist(), triples, strict=True):
        pulled = 0 if detach else 2 / 120 * (y - z)
        assert found_a == pytest.approx(2 / 120 * (y - x) + pulled, rel=1e-9, abs=1e-15)
        assert found_s == pytest.approx(2 / 120 * (z - y), rel=1e-9, abs=1e-15)


@equation("5.11", function="adlib.efficientad.losses")
def test_the_total_is_the_plain_sum():
    data = SyntheticFactory("fabric", size=64, n_train=3, n_validation=2, n_test=0, n_defect=0)
    detector = EfficientAD(PDN(width=0.05, out_channels=5), image_size=64, steps=2, autoencoder_width=0.1, device="cpu")
    history = detector.fit(data.train, validation=data.validation).history
    for step in range(2):
        terms = [history[name][step] for name in ("hard", "penalty", "ae", "stae")]
        assert history["loss"][step] == pytest.approx(sum(terms), rel=1e-6)
    images = torch.rand(1, 3, 64, 64)
    found = losses(detector.networks, images, None, torch.Generator().manual_seed(0))
    assert list(found) == ["hard", "ae", "stae"]


@equation("5.12", function="adlib.efficientad.difference_map")
def test_difference_map():
    a, b = vectors(0, 2, 3, 4, 5), vectors(1, 2, 3, 4, 5)
    found = difference_map(a, b)
    for i in range(2):
        for y in range(4):
            for x in range(5):
                expected = sum(float(a[i, c, y, x] - b[i, c, y, x]) ** 2 for c in range(3)) / 3
                assert float(found[i, y, x]) == pytest.approx(expected, rel=1e-12)


@equation("5.13", function="adlib.efficientad.normalise_map")
@equation("5.14", function="adlib.efficientad.combine_maps")
@equation("5.15", function="adlib.efficientad.EfficientAD.score")
def test_normalised_and_combined_maps():
    normal = [[vectors(10 * k + i, 2, 5, 4).square() * (1 + 99 * k) for i in range(3)] for k in range(2)]
    quantiles = torch.stack([map_quantiles(maps) for maps in normal]).double()
    maps = [vectors(77 + k, 2, 5, 4).square() for k in range(2)]
    combined = combine_maps(*maps, quantiles)
    for i in range(2):
        for y in range(5):
            for x in range(4):
                parts = []
                for k in range(2):
                    values = [v for m in normal[k] for v in m.flatten().tolist()]
                    low, high = linear_quantile(values, 0.9), linear_quantile(values, 0.995)
                    parts.append(0.1 * (float(maps[k][i, y, x]) - low) / (high - low))
                    assert float(normalise_map(maps[k], quantiles[k])[i, y, x]) == pytest.approx(parts[-1], abs=1e-6)
                assert float(combined[i, y, x]) == pytest.approx(sum(parts) / 2, abs=1e-6)
    detector = EfficientAD(PDN(width=0.05, out_channels=5), image_size=64, autoencoder_width=0.1, device="cpu")
    detector.quantiles = quantiles.float()
    with torch.no_grad():
        batch = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        scores, grid = detector.patch_scores(batch)
        inner = combine_maps(*detector.both_maps(batch), detector.quantiles)
    for i in range(2):
        assert float(scores[i]) == max(inner[i].flatten().tolist()) == max(grid[i].flatten().tolist())


def literal_spro(regions, maps, threshold):
    """sPRO and false-positive rate at one threshold, pixel by pixel."""
    covered, false, normal = [], 0, 0
    for of_image, values in zip(regions, maps, strict=True):
        for region in of_image:
            found = sum(1 for v, m in zip(values.ravel(), region.mask.ravel(), strict=True) if m and v >= threshold)
            covered.append(min(found / region.saturation, 1))
        for position, value in np.ndenumerate(values):
            if not any(region.mask[position] for region in of_image):
                normal += 1
                false += value >= threshold
    return sum(covered) / len(covered), false / normal


@equation("5.16", function="adlib.metrics.au_spro")
@equation("5.17", function="adlib.metrics.au_spro")
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_au_spro(limit):
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(9, 8)).round(1) for _ in range(4)]  # rounded: many ties
    masks = [np.zeros((9, 8), bool) for _ in range(3)]
    masks[0][1:4, 2:7], masks[1][2:4, 6:8], masks[2][5:9, :4] = True, True, True
    regions = [[Region(masks[0], 4), Region(masks[1], 4)], [], [Region(masks[2], 16)], []]
    for of_image, values in zip(regions, maps, strict=True):
        for region in of_image:
            values[region.mask] += 1
    thresholds = sorted({float(v) for m in maps for v in m.ravel()}, reverse=True)
    curve = [(0.0, 0.0)] + [literal_spro(regions, maps, t)[::-1] for t in thresholds]
    area = 0.0
    for (x0, y0), (x1, y1) in zip(curve, curve[1:], strict=False):
        if x0 >= limit:
            break
        if x1 > limit:
            y1, x1 = y0 + (limit - x0) / (x1 - x0) * (y1 - y0), limit
        area += (x1 - x0) * (y0 + y1) / 2
    assert au_spro(regions, maps, limit=limit) == pytest.approx(area / limit, rel=1e-12)
