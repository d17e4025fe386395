"""Chapter 4, SimpleNet: every numbered equation, transcribed with loops in float64, against the library."""

import math

import pytest
import torch

from adlib.simplenet import Head, fold, noise_level, score_patches, train_head, truncated_l1
from equations import equation


def vectors(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head_of(channels, hidden, **options):
    """A head in float64 whose batch normalisation and biases are not the trivial ones of a new head."""
    head = Head(channels, hidden=hidden, **options).double()
    for i, parameter in enumerate(head.parameters()):
        parameter.data = vectors(50 + i, *parameter.shape)
    head.norm.running_mean = vectors(90, hidden)
    head.norm.running_var = vectors(91, hidden).square() + 0.1
    return head


def times(matrix, vector):
    return [sum(a * float(b) for a, b in zip(row, vector, strict=True)) for row in matrix.tolist()]


def leaky(value):
    return value if value >= 0 else 0.2 * value


def discriminator(head, q, mean, variance):
    """D(q) of one vector q, with the given mean and variance of each hidden number."""
    hidden = times(head.first.weight, q)
    normed = [(h - float(m)) / math.sqrt(float(v) + head.norm.eps) * float(g) + float(b) for h, m, v, g, b in
              zip(hidden, mean, variance, head.norm.weight, head.norm.bias, strict=True)]
    return sum(float(w) * leaky(h) for w, h in zip(head.last.weight[0], normed, strict=True))


@equation("4.1", function="adlib.simplenet.Head")
@equation("4.4", function="adlib.simplenet.Head")
@pytest.mark.parametrize("adaptor", ["linear", "none"])
def test_head(adaptor):
    head, o = head_of(5, 4, adaptor=adaptor).eval(), vectors(1, 7, 5)
    found = head(o)
    for i in range(7):
        q = times(head.adaptor.weight, o[i]) if adaptor == "linear" else o[i].tolist()
        expected = discriminator(head, q, head.norm.running_mean, head.norm.running_var)
        assert float(found[i]) == pytest.approx(expected, rel=1e-10, abs=1e-10)


@equation("4.2", function="adlib.simplenet.Head.forward_pair")
@equation("4.5", function="adlib.simplenet.Head.forward_pair")
def test_normal_and_noisy_features_share_their_statistics():
    head, o, noise = head_of(5, 4).train(), vectors(1, 6, 5), 0.3 * vectors(2, 6, 5)
    q = [times(head.adaptor.weight, row) for row in o]
    noisy = [[a + float(e) for a, e in zip(row, epsilon, strict=True)] for row, epsilon in zip(q, noise, strict=True)]
    hidden = [times(head.first.weight, row) for row in q + noisy]
    mean = [sum(row[j] for row in hidden) / 12 for j in range(4)]
    variance = [sum((row[j] - mean[j]) ** 2 for row in hidden) / 12 for j in range(4)]
    for found, rows in zip(head.forward_pair(o, noise), (q, noisy), strict=True):
        expected = [discriminator(head, row, mean, variance) for row in rows]
        assert found.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@equation("4.2", function="adlib.simplenet.train_head")
def test_the_noise_is_normal_with_deviation_sigma():
    seen = []

    class Spy(Head):
        def forward_pair(self, features, noise):
            seen.append(noise)
            return super().forward_pair(features, noise)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adlib.simplenet.training.Head", Spy)
        train_head(torch.randn(4, 50, 8), noise=0.37, epochs=5, images_per_step=2)
    noise = torch.cat(seen).double()  # (1000, 8): a new draw for each step, patch and channel
    assert noise.shape == (1000, 8) and len(noise.unique()) > 7900
    assert float(noise.std()) == pytest.approx(0.37, rel=4 / math.sqrt(2 * 8000))
    assert abs(float(noise.mean())) < 4 * 0.37 / math.sqrt(8000)
    assert (noise.T.cov() / 0.37**2 - torch.eye(8)).abs().max() < 5 * math.sqrt(2 / 1000)


@equation("4.3", function="adlib.simplenet.noise_level")
def test_noise_level():
    features = vectors(3, 3, 7, 4) * torch.tensor([1.0, 2.0, 0.1, 5.0]) + 100
    total = 0.0
    for d in range(4):
        column = [float(features[i, p, d]) for i in range(3) for p in range(7)]
        mean = sum(column) / len(column)
        total += sum((v - mean) ** 2 for v in column) / len(column)
    assert noise_level(features, 0.3) == pytest.approx(0.3 * math.sqrt(total / 4), rel=1e-12)
    assert noise_level(features.float(), 0.3) == pytest.approx(0.3 * math.sqrt(total / 4), rel=1e-5)


@equation("4.6", function="adlib.simplenet.truncated_l1")
@pytest.mark.parametrize("thresholds", [(0.5, -0.5), (0.8, -0.1)])
def test_truncated_l1(thresholds):
    normal, noisy = vectors(4, 9), vectors(5, 6)
    plus, minus = thresholds
    expected = sum(max(0, plus - d) for d in normal.tolist()) / 9 + sum(max(0, -minus + d) for d in noisy.tolist()) / 6
    assert float(truncated_l1(normal, noisy, th_plus=plus, th_minus=minus)) == pytest.approx(expected, rel=1e-12)


@equation("4.7", function="adlib.simplenet.truncated_l1")
def test_slopes_of_truncated_l1():
    normal, noisy = vectors(6, 8).requires_grad_(), vectors(7, 5).requires_grad_()
    truncated_l1(normal, noisy).backward()
    assert normal.grad.tolist() == [-1 / 8 if d < 0.5 else 0 for d in normal.tolist()]
    assert noisy.grad.tolist() == [1 / 5 if d > -0.5 else 0 for d in noisy.tolist()]


@equation("4.8", function="adlib.simplenet.truncated_l1")
def test_the_least_loss_is_the_overlap():
    """On a finite set of points: any D on a grid of values costs at least the overlap, and the rule reaches it."""
    p = [4, 3, 2, 1, 0, 2]  # how often each of six points comes among the normal features; 12 in all
    p_noisy = [0, 1, 2, 3, 5, 1]  # and among the noisy ones
    overlap = sum(min(a, b) for a, b in zip(p, p_noisy, strict=True)) / 12

    def loss(d):
        normal, noisy = (torch.tensor(d).repeat_interleave(torch.tensor(counts)) for counts in (p, p_noisy))
        return float(truncated_l1(normal, noisy))

    rule = [0.5 if a > b else -0.5 for a, b in zip(p, p_noisy, strict=True)]
    assert loss(rule) == pytest.approx(overlap)
    grid = torch.cartesian_prod(*[torch.tensor([-0.8, -0.5, 0.0, 0.5, 0.8])] * 6)
    assert all(loss(d.tolist()) >= overlap - 1e-6 for d in grid[::7])


@equation("4.9", function="adlib.simplenet.score_patches")
@equation("4.10", function="adlib.simplenet.fold")
@pytest.mark.parametrize("options", [{}, {"adaptor_bias": True}, {"adaptor": "none"}])
def test_fold(options):
    head, o = head_of(6, 5, **options).eval(), vectors(8, 40, 6)
    weight, bias, last = fold(head)
    a = head.adaptor.weight.tolist() if "adaptor" not in options else torch.eye(6).tolist()
    shift = head.adaptor.bias.tolist() if "adaptor_bias" in options else [0.0] * 6
    for j in range(5):
        g = float(head.norm.weight[j]) / math.sqrt(float(head.norm.running_var[j]) + head.norm.eps)
        row = [float(v) for v in head.first.weight[j]]
        for k in range(6):
            assert float(weight[j, k]) == pytest.approx(g * sum(row[i] * a[i][k] for i in range(6)), rel=1e-10)
        moved = sum(r * s for r, s in zip(row, shift, strict=True)) - float(head.norm.running_mean[j])
        assert float(bias[j]) == pytest.approx(g * moved + float(head.norm.bias[j]), rel=1e-10)
    found = score_patches(o, weight, bias, last)
    for i in range(40):
        inner = [leaky(v + float(b)) for v, b in zip(times(weight, o[i]), bias, strict=True)]
        expected = -sum(w * h for w, h in zip(last.tolist(), inner, strict=True))
        assert float(found[i]) == pytest.approx(expected, rel=1e-10)
    assert (found + head(o)).abs().max() < 1e-10  # folded and plain are one function
