"""Chapter 10, in production: every numbered equation, transcribed with loops, against the library."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from adlib.drift import Watch, bets, online_p_value
from equations import equation


def draws(seed: int, count: int) -> list[float]:
    return np.random.default_rng(seed).normal(size=count).tolist()


def first_alarm(watch: Watch, scores: list[float]) -> int | None:
    return next((t for t, score in enumerate(scores, start=1) if watch.update(score)), None)


@equation("10.1", function="adlib.drift.online_p_value")
def test_the_online_p_value_counts_as_its_formula_does():
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 30):
        for _ in range(20):
            earlier, score, u = sorted(rng.integers(0, 6, n).tolist()), float(rng.integers(0, 6)), rng.random()
            above = equal = 0
            for other in earlier:
                above += other > score
                equal += other == score
            assert online_p_value(earlier, score, u) == (above + u * (1 + equal)) / (n + 1)


@equation("10.2", function="adlib.drift.bets")
def test_each_bet_is_fair_and_pays_as_its_formula_says():
    for k, a in enumerate((0.25, 0.5, 2.0, 4.0)):
        for p in (0.01, 0.3, 0.9):
            on_p, on_rest = a * p ** (a - 1), a * (1 - p) ** (a - 1)
            expected = (on_p, on_rest) if a < 1 else (on_rest, on_p)
            assert (bets(p)[k], bets(p)[k + 4]) == pytest.approx(expected, rel=1e-12)
        for which in (k, k + 4):
            mean = integrate.quad(lambda p, which=which: bets(p)[which], 0, 1)[0]
            assert mean == pytest.approx(1, abs=1e-6)
    assert all(0 <= paid < math.inf for p in (0.0, 1.0) for paid in bets(p))


@equation("10.3", function="adlib.drift.Watch")
def test_the_evidence_is_the_double_sum_of_its_formula():
    first, scores, rng = draws(1, 7), draws(2, 25), np.random.default_rng(5)
    watch, p_values, seen = Watch(first, seed=5), [], sorted(first)
    for t, score in enumerate(scores, start=1):
        watch.update(score)
        u, _ = rng.random(), rng.random()
        p_values.append((sum(s > score for s in seen) + u * (1 + sum(s == score for s in seen))) / (len(seen) + 1))
        seen = sorted([*seen, score])
        total = 1 / (t + 1)
        for k in range(1, t + 1):
            for bet in range(8):
                total += math.prod(bets(p)[bet] for p in p_values[k - 1 :]) / (8 * k * (k + 1))
        assert watch.evidence == pytest.approx(total, rel=1e-9)


def fixed_alarm(first: list[float], scores: list[float], alpha: float, rng: np.random.Generator) -> bool:
    """The control: the same bets on p-values beside the same first scores for ever."""
    first, capital = sorted(first), [0.0] * 8
    for t, score in enumerate(scores, start=1):
        paid = bets(online_p_value(first, score, rng.random()))
        capital = [min((c + 1 / (8 * t * (t + 1))) * x, 1e300) for c, x in zip(capital, paid, strict=True)]
        if 1 / (t + 1) + sum(capital) >= 1 / alpha:
            return True
    return False


@equation("10.4", function="adlib.drift.Watch")
def test_false_alarms_keep_the_promise_and_fixed_p_values_do_not():
    count, alpha = 2000, 0.05
    most = stats.binom.ppf(0.999, count, alpha)  # so many of 2,000 streams, where the chance is α
    streams = [draws(seed, 20 + 40) for seed in range(count)]
    online = sum(first_alarm(Watch(s[:20], alpha, k), s[20:]) is not None for k, s in enumerate(streams))
    fixed = sum(fixed_alarm(s[:20], s[20:], alpha, np.random.default_rng(k)) for k, s in enumerate(streams))
    assert online <= most < fixed
