"""Chapter 1, features and scores: every numbered equation, transcribed with loops in float64, against the library."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from adlib import metrics
from adlib.backbones import load_backbone
from adlib.receptive_field import ReceptiveField, receptive_field
from equations import equation

# ---------------------------------------------------------------------- receptive fields


def sequence(layers):
    """A network of these (kernel, stride, padding), alternating convolution, maximum and mean."""
    modules = []
    for number, (k, s, p) in enumerate(layers):
        if number % 3 == 0:
            modules += [nn.Conv2d(3, 3, k, s, p), nn.ReLU()]
        else:
            modules.append((nn.MaxPool2d if number % 3 == 1 else nn.AvgPool2d)(k, s, p))
    return nn.Sequential(*modules)


def seen_by_cell(module, cell, size):
    """First and last row of pixels that change the value of a cell, each tried alone.

    Convolutions get positive weights and no bias, so that nothing cancels; the image is 1 and one row 1000.
    """
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.fill_(1 / part.weight[0].numel())
                if part.bias is not None:
                    part.bias.zero_()
        module = module.double().eval()
        images = torch.ones(size, 3, size, size, dtype=torch.float64)
        for y in range(size):
            images[y, :, y] = 1000
        plain = module(torch.ones(1, 3, size, size, dtype=torch.float64))[0, :, cell, cell]
        moved = [y for y in range(size) if not torch.equal(module(images[y:y + 1])[0, :, cell, cell], plain)]
    return moved[0], moved[-1]


CASES = [
    [(3, 1, 1)], [(7, 2, 3), (3, 2, 1)], [(4, 1, 0), (2, 2, 0), (4, 1, 2), (2, 2, 1), (3, 1, 0)],
    [(5, 3, 2), (2, 1, 0), (3, 2, 1), (1, 2, 0), (3, 1, 1)], [(1, 1, 0), (4, 2, 2)],
]  # fmt: skip


@equation("1.1", function="adlib.receptive_field.receptive_field")
@equation("1.2", function="adlib.receptive_field.receptive_field")
@equation("1.3", function="adlib.receptive_field.receptive_field")
@pytest.mark.parametrize("layers", CASES)
def test_recursion(layers):
    r, j, a = [1], [1], [0]
    for step, (k, s, p) in enumerate(layers, start=1):
        j.append(j[step - 1] * s)  # (1.1)
        r.append(r[step - 1] + (k - 1) * j[step - 1])  # (1.2)
        a.append(a[step - 1] - p * j[step - 1])  # (1.3)
    assert receptive_field(sequence(layers)) == ReceptiveField(size=r[-1], stride=j[-1], start=a[-1])


@pytest.mark.parametrize("layers", CASES)
def test_field_is_what_a_cell_reacts_to(layers):
    field = receptive_field(sequence(layers))
    size = 8 * field.stride + field.size
    for cell in (3, 4):
        start = field.start + cell * field.stride
        expected = max(start, 0), min(start + field.size, size) - 1
        assert seen_by_cell(sequence(layers), cell, size) == expected


class Branches(nn.Module):
    """Two ways of different reach to one sum, and one to a concatenation."""

    def __init__(self):
        super().__init__()
        self.short, self.long, self.last = nn.Conv2d(3, 3, 1, 2), nn.Conv2d(3, 3, 5, 2, 2), nn.Conv2d(6, 3, 2)

    def forward(self, x):
        y = self.short(x) + self.long(x)
        return self.last(torch.cat([y, nn.functional.avg_pool2d(y, kernel_size=3, stride=1, padding=1)], 1))


def test_branches_join_to_the_square_around_them():
    field = receptive_field(Branches())
    assert field == ReceptiveField(5 + 2 * 2 + 2, 2, -2 - 2)
    start = field.start + 6 * field.stride
    assert seen_by_cell(Branches(), 6, 40) == (start, start + field.size - 1)


@pytest.mark.parametrize(("name", "sizes"), [
    ("adlib_resnet18", (43, 99, 211)), ("resnet18", (43, 99, 211)), ("wide_resnet50_2", (35, 91, 267)),
])  # fmt: skip
def test_residual_networks(name, sizes):
    layers = ("layer1", "layer2", "layer3")
    backbone = load_backbone(name, layers, pretrained=False)
    for layer, size, stride in zip(layers, sizes, (4, 8, 16), strict=True):
        field = receptive_field(backbone, layer)
        assert field == ReceptiveField(size, stride, -(size - 1) // 2)
        assert receptive_field(backbone, layer, neighbourhood=3).size == size + 2 * stride


def test_gradient_of_random_weights_fills_the_field_exactly():
    backbone = load_backbone("adlib_resnet18", pretrained=False)
    field = receptive_field(backbone, "layer2")
    x = torch.randn(4, 3, 160, 160, generator=torch.Generator().manual_seed(0)).requires_grad_()
    backbone(x)["layer2"][:, :, 10, 10].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    start = field.start + 10 * field.stride
    assert (int(rows.min()), int(rows.max())) == (start, start + field.size - 1)


class WholeImage(nn.Module):
    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(("module", "layer", "message"), [
    (nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1)), None, "AdaptiveAvgPool2d"),
    (WholeImage(), None, "mean"),
    (nn.Conv2d(3, 3, (1, 3)), None, "squares"),
    (nn.Conv2d(3, 3, 3, padding="same"), None, "numbers"),
    (nn.Conv2d(3, 3, 3), "layer2", "one tensor"),
    (load_backbone("adlib_resnet18", pretrained=False), "layer9", "layer1, layer2, layer3"),
    (load_backbone("adlib_resnet18", pretrained=False), None, "layer1, layer2, layer3"),
])  # fmt: skip
def test_what_cannot_be_told_is_refused_by_name(module, layer, message):
    with pytest.raises(ValueError, match=message):
        receptive_field(nn.Sequential(module), layer)


def test_dilation_widens_the_window():
    assert receptive_field(nn.Sequential(nn.Conv2d(3, 3, 3, dilation=4))).size == 9


# ---------------------------------------------------------------------- one score per image


def draw(seed, ties):
    """Labels and scores of 30 images; with ties, few different scores."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(30) < rng.integers(3, 27)).astype(int)
    scores = rng.normal(size=30) + labels
    return labels, np.round(scores) if ties else scores


def pairs(positive, negative):
    """(1.4), literally."""
    total = 0.0
    for p, n in itertools.product(positive, negative):
        total += 1.0 if p > n else 0.5 if p == n else 0.0
    return total / (len(positive) * len(negative))


def points(labels, scores):
    """TPR, FPR and precision at every threshold, from high to low, counted one image at a time."""
    found = []
    for t in sorted(set(scores.tolist()), reverse=True):
        hits = sum(1 for y, s in zip(labels, scores, strict=True) if y == 1 and s >= t)
        alarms = sum(1 for y, s in zip(labels, scores, strict=True) if y == 0 and s >= t)
        found.append((hits / labels.sum(), alarms / (labels == 0).sum(), hits / (hits + alarms)))
    return found


every_draw = pytest.mark.parametrize(("seed", "ties"), list(itertools.product(range(5), (False, True))))


@equation("1.4", function="adlib.metrics.image_auroc")
@every_draw
def test_auroc_counts_pairs(seed, ties):
    labels, scores = draw(seed, ties)
    expected = pairs(scores[labels == 1], scores[labels == 0])
    assert metrics.image_auroc(labels, scores) == pytest.approx(expected, abs=1e-12)


@equation("1.5", function="adlib.metrics.image_auroc")
@every_draw
def test_auroc_is_an_area(seed, ties):
    labels, scores = draw(seed, ties)
    area, before = 0.0, (0.0, 0.0)
    for tpr, fpr, _ in points(labels, scores):
        area += (fpr - before[1]) * (tpr + before[0]) / 2
        before = tpr, fpr
    assert metrics.image_auroc(labels, scores) == pytest.approx(area, abs=1e-12)


@equation("1.6", function="adlib.metrics.image_aupr")
@every_draw
def test_average_precision(seed, ties):
    labels, scores = draw(seed, ties)
    total, recall = 0.0, 0.0
    for tpr, _, precision in points(labels, scores):
        total += (tpr - recall) * precision
        recall = tpr
    assert metrics.image_aupr(labels, scores) == pytest.approx(total, abs=1e-12)


@equation("1.7", function="adlib.metrics.f1_max")
@every_draw
def test_f1_max(seed, ties):
    labels, scores = draw(seed, ties)
    values = [2 * p * r / (p + r) for r, _, p in points(labels, scores) if p + r > 0]
    value, threshold = metrics.f1_max(labels, scores)
    assert value == pytest.approx(max(values), abs=1e-12)
    marked = scores >= threshold
    p, r = labels[marked].mean(), labels[marked].sum() / labels.sum()
    assert 2 * p * r / (p + r) == pytest.approx(value, abs=1e-12)


# ---------------------------------------------------------------------- one value per pixel


def draw_maps(seed, ties, count=3, side=9):
    rng = np.random.default_rng(seed)
    masks = [rng.random((side, side)) < 0.12 for _ in range(count)] + [np.zeros((side, side), bool)]
    maps = [rng.normal(size=m.shape) + m for m in masks]
    return masks, [np.round(v, 1) if ties else v for v in maps]


def regions_of(mask):
    """The 8-connected regions of a mask as sets of pixels, by growing them."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(region)
    return found


@equation("1.8", function="adlib.metrics.pixel_auroc")
@every_draw
def test_pixel_auroc(seed, ties):
    masks, maps = draw_maps(seed, ties)
    positive = [v for m, x in zip(masks, maps, strict=True) for v in x[m]]
    negative = [v for m, x in zip(masks, maps, strict=True) for v in x[~m]]
    assert metrics.pixel_auroc(masks, maps) == pytest.approx(pairs(positive, negative), abs=1e-12)


@equation("1.9", function="adlib.metrics.au_pro")
@equation("1.10", function="adlib.metrics.au_pro")
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@every_draw
def test_au_pro(seed, ties, limit):
    masks, maps = draw_maps(seed, ties)
    regions = [[x[p] for p in region] for m, x in zip(masks, maps, strict=True) for region in regions_of(m)]
    good = [v for m, x in zip(masks, maps, strict=True) for v in x[~m]]
    curve = [(0.0, 0.0)]
    for t in sorted({v for part in [good, *regions] for v in part}, reverse=True):
        pro = sum(sum(v >= t for v in region) / len(region) for region in regions) / len(regions)
        curve.append((sum(v >= t for v in good) / len(good), pro))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 >= limit or x1 == x0:
            continue
        if x1 > limit:  # cut by a straight line
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    assert metrics.au_pro(masks, maps, limit=limit) == pytest.approx(area / limit, abs=1e-12)


def test_au_pro_of_chance_is_half_the_limit():
    rng, values = np.random.default_rng(0), []
    for seed in range(40):
        masks, _ = draw_maps(seed, False, side=30)
        values.append(metrics.au_pro(masks, [rng.normal(size=m.shape) for m in masks]))
    assert np.mean(values) == pytest.approx(0.15, abs=0.01)


# ---------------------------------------------------------------------- intervals


def variance(theta, m, n):
    """(1.11), literally."""
    half = (m + n) / 2
    inner = (1 - theta) / (2 - theta) + theta / (1 + theta)
    return theta * (1 - theta) / (m * n) * (1 + (half - 1) * inner)


@equation("1.11", function="adlib.intervals.newcombe_interval")
@equation("1.12", function="adlib.intervals.newcombe_interval")
@pytest.mark.parametrize(("measured", "m", "n"), [
    (0.95, 119, 41), (0.5, 10, 90), (0.8, 30, 30), (1.0, 40, 60), (0.0, 5, 9), (0.99, 500, 20),
])  # fmt: skip
def test_newcombe_interval_holds_what_is_near_enough(measured, m, n):
    z = stats.norm.ppf(0.975)
    inside = [
        theta for theta in (i / 100_000 for i in range(100_001))
        if abs(measured - theta) <= z * math.sqrt(variance(theta, m, n)) or theta == measured
    ]  # fmt: skip
    assert metrics.newcombe_interval(measured, m, n) == pytest.approx((min(inside), max(inside)), abs=1e-4)


def test_variance_is_that_of_exponential_scores():
    """Where the formula is exact: exponential scores, as many of each class."""
    rng, m, theta = np.random.default_rng(0), 40, 0.9
    rate = theta / (1 - theta)
    labels = [1] * m + [0] * m
    drawn = [metrics.image_auroc(labels, np.r_[rate * rng.exponential(size=m), rng.exponential(size=m)])
             for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(theta, abs=0.003)
    assert np.var(drawn) == pytest.approx(variance(theta, m, m), rel=0.1)


@equation("1.13", function="adlib.intervals.image_auroc_interval")
def test_bootstrap_interval():
    """Half of the defects are far above all good images and half far below: the formula's interval is too short."""
    rng = np.random.default_rng(0)
    positive, negative = np.r_[np.full(15, -5.0), np.full(15, 5.0)], rng.normal(size=60)
    drawn = []
    for _ in range(1000):
        again = [[part[rng.integers(len(part))] for _ in part] for part in (positive, negative)]
        drawn.append(pairs(*again))
    low, high = sorted(drawn)[24], sorted(drawn)[975]
    ends = metrics.image_auroc_interval([1] * 30 + [0] * 60, np.r_[positive, negative])
    formula = metrics.newcombe_interval(0.5, 30, 60)
    assert low < formula[0] - 0.03 and high > formula[1] + 0.03
    assert ends == pytest.approx((low, high), abs=0.035)  # one defect more or less moves an end by 1/30


def test_the_interval_is_the_wider_of_the_two():
    """At an AUROC of 1 the bootstrap has no width."""
    labels, scores = [0] * 20 + [1] * 30, np.arange(50.0)
    assert metrics.image_auroc_interval(labels, scores) == metrics.newcombe_interval(1.0, 30, 20)
