import itertools
import math

import numpy as np
import pytest
import torch

from adlib.threshold import (
    chance_of_no_alarm,
    conformal_p_values,
    conformal_threshold,
    cross_conformal_bound,
    defect_regions,
    one_per_group,
    stand_apart,
)


def test_known_ranks():
    assert conformal_threshold(range(1, 10), 0.1) == 9  # ⌈10·0.9⌉ = 9th of 9
    assert conformal_threshold(range(1, 100), 0.05) == 95
    assert conformal_threshold([5.0], 0.5) == 5.0


@pytest.mark.parametrize(("n", "alpha", "m"), [(40, 0.05, 46), (19, 0.05, 10), (5, 0.4, 3)])
def test_the_chance_of_no_alarm_is_what_draws_show(n, alpha, m):
    """Drawn with the threshold of the library; 4,000 draws know the share within 0.03, four deviations."""
    rng = np.random.default_rng(0)
    draws = [rng.gumbel(size=n + m) for _ in range(4000)]
    none = np.mean([s[n:].max() <= conformal_threshold(s[:n], alpha) for s in draws])
    assert abs(none - chance_of_no_alarm(n, alpha, m)) < 0.03
    assert chance_of_no_alarm(n, alpha, m) > (1 - alpha) ** m, "more than for a rate that is α each time"
    assert chance_of_no_alarm(n, alpha, 0) == 1


def test_the_chance_of_no_alarm_checks_its_arguments():
    with pytest.raises(ValueError, match="m = -1"):
        chance_of_no_alarm(40, 0.05, -1)
    with pytest.raises(ValueError, match="expected at least 19"):
        chance_of_no_alarm(18, 0.05, 5)


@pytest.mark.parametrize(("n", "alpha"), [(8, 0.1), (18, 0.05), (0, 0.5), (998, 0.001)])
def test_too_few_images_for_the_promise(n, alpha):
    with pytest.raises(ValueError, match=f"expected at least {round(1 / alpha) - 1}"):
        conformal_threshold(np.arange(n), alpha)
    conformal_threshold(np.arange(round(1 / alpha) - 1), alpha)


@pytest.mark.parametrize("n", [1, 12, 57])
def test_the_message_names_a_rate_that_works(n):
    with pytest.raises(ValueError, match=f"accept a rate of at least 1/{n + 1} = ") as caught:
        conformal_threshold(np.arange(n), 0.5 / (n + 1))
    assert caught.match(f"{1 / (n + 1):.3g}")
    assert caught.match(rf"\(write alpha=1/{n + 1}\)"), "the rounded number may lie below it"
    assert conformal_threshold(np.arange(n), 1 / (n + 1)) == n - 1


def test_the_message_counts_what_is_missing_and_names_the_way_out():
    with pytest.raises(ValueError, match=r"^7 held-out normal parts .* 19, so 12 are missing.*fit\(…, folds=…"):
        conformal_threshold(range(7), 0.05)
    groups = [f"part {i // 5}" for i in range(35)]
    with pytest.raises(ValueError, match=r"^7 held-out normal parts .* at least 19, so 12 are missing.*1/8 = 0.125"):
        conformal_threshold(range(35), 0.05, groups=groups)
    assert conformal_threshold(range(35), 0.05) == 34, "as 35 pictures they would do"


def test_bad_input_is_an_error_in_words():
    for scores, alpha, word in [([1, np.nan], 0.5, "finite"), ([1], 0, "between"), ([1], 1.0, "between"),
                                ([1], np.nan, "between"), ([-np.inf, 1], 0.5, r"scores\[0\] is -inf")]:  # fmt: skip
        with pytest.raises(ValueError, match=word):
            conformal_threshold(scores, alpha)
    for wrong in (np.zeros(3), np.full((2, 2), np.inf), np.full((2, 2), np.nan), *(np.zeros((n, m)) for n, m in
                  [(0, 0), (0, 3), (3, 0)])):  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            defect_regions(wrong, 0.5)
    for threshold in (np.nan, np.inf):
        with pytest.raises(ValueError, match="threshold = .* finite"):
            defect_regions(np.zeros((2, 2)), threshold)
    for call in (lambda: conformal_p_values([np.nan], [1.0]), lambda: conformal_p_values([1.0], [np.inf]),
                 lambda: one_per_group([np.nan, 1], ["a", "a"]), lambda: stand_apart([1.0, np.nan])):  # fmt: skip
        with pytest.raises(ValueError, match="finite"):
            call()
    with pytest.raises(ValueError, match="empty.*validation="):
        conformal_p_values([1.0], [])
    with pytest.raises(ValueError, match="2 groups for 3 scores"):
        conformal_threshold([1.0, 2.0, 3.0], 0.5, groups=["a", "b"])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64])
def test_every_kind_of_number_is_understood(kind):
    values = torch.tensor([3.0, 1.0, 2.0, 4.0]).to(kind)
    for given in (values, list(values), values.float().numpy(), [3, 1, 2, 4], (3.0, 1.0, 2.0, 4.0)):
        assert conformal_threshold(given, 0.4) == 3.0
        np.testing.assert_allclose(conformal_p_values(given, given), [0.6, 1.0, 0.8, 0.4])
        assert stand_apart(given) == 0
        assert one_per_group(given, ["a", None, "a", None])[0].tolist() == [3.0, 1.0, 4.0]


def test_a_part_counts_once_by_its_largest_score():
    scores, groups = [1.0, 5.0, 2.0, 7.0, 4.0, 3.0], ["b", None, "a", "b", None, "a"]
    values, names = one_per_group(scores, groups)
    assert values.tolist() == [7.0, 5.0, 3.0, 4.0] and names == ["b", None, "a", None]
    assert conformal_threshold(scores, 0.2, groups=groups) == 7.0
    assert conformal_threshold(scores, 0.4, groups=groups) == 5.0
    assert conformal_threshold(scores, 0.4, groups=[None] * 6) == conformal_threshold(scores, 0.4)


@pytest.mark.parametrize("levels", [3, 8, 10**6])  # how many different scores there are: 3 gives ties everywhere
def test_the_p_value_and_the_threshold_decide_alike(levels):
    rng = np.random.default_rng(levels)
    for n, alpha in itertools.product((1, 2, 9, 10, 19, 37, 99), (0.01, 0.05, 0.1, 0.3, 1 / 3, 0.5, 0.9)):
        if (n + 1) * alpha < 1 - 1e-9:
            continue
        normal, new = (rng.integers(0, levels, size).astype(np.float32) / 7 for size in (n, 60))
        flagged = new > conformal_threshold(normal, alpha)
        np.testing.assert_array_equal(conformal_p_values(new, normal) <= alpha, flagged, f"n = {n}, alpha = {alpha}")


def test_the_promise_of_folds():
    for alpha, n in itertools.product((0.01, 0.05, 0.2), (2, 10, 30)):
        assert cross_conformal_bound(alpha, n, n) == pytest.approx(alpha)  # leave one out
    assert cross_conformal_bound(0.05, 20, 5) == pytest.approx(0.05 + 0.95 * (1 - 5 / 20) / 6)
    for n, folds in ((7, 3), (19, 5), (21, 5), (23, 10), (11, 10)):  # unequal folds promise less than equal ones
        equal = 0.1 + 0.9 * (1 - folds / n) / (folds + 1)
        assert equal < cross_conformal_bound(0.1, n, folds) <= 1
    for n, folds in ((10, 1), (10, 11), (1, 2), (0, 2)):
        with pytest.raises(ValueError, match=f"folds = {folds} for {n} parts"):
            cross_conformal_bound(0.1, n, folds)
    with pytest.raises(ValueError, match="between 0 and 1"):
        cross_conformal_bound(0, 10, 5)


@pytest.mark.parametrize(("n", "folds"), [(6, 3), (8, 8), (5, 2), (7, 3), (8, 3)])
def test_the_promise_of_folds_holds_for_the_hardest_scores(n, folds):
    """Scores of a part by the detectors that have not seen its fold, chosen so that many are flagged."""
    alpha, rng, alarms = 0.34, np.random.default_rng(n), 0
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    fold = np.repeat(np.arange(folds), [len(side) for side in np.array_split(range(n), folds)])
    trials = 4000
    for _ in range(trials):
        order = rng.permutation(n + 1)  # which of n + 1 fixed parts stand where; the last is the new one
        # A part is scored high by a detector that has seen its neighbours on the circle, low by one that has not.
        score = lambda part, seen: sum((part + step) % (n + 1) in seen for step in (1, 2)) + part / 1000  # noqa: E731
        banks = [set(order[:n][fold != k].tolist()) for k in range(folds)]
        held = [score(int(order[i]), banks[fold[i]]) for i in range(n)]
        alarms += min(score(int(order[n]), bank) for bank in banks) > sorted(held)[rank - 1]
    bound = cross_conformal_bound(alpha, n, folds)
    assert alarms / trials <= bound + 3 * math.sqrt(bound / trials)


def test_bad_parts_among_the_held_out_stand_apart():
    rng = np.random.default_rng(0)
    for n, bad in ((46, 6), (20, 2), (60, 1), (200, 20)):
        scores = np.concatenate([rng.normal(size=n - bad), 12 + rng.normal(size=bad)])
        assert stand_apart(rng.permutation(scores)) == bad
        assert stand_apart(3 + 0.1 * scores) == bad, "neither place nor unit matter"


def test_good_parts_alone_seldom_warn():
    rng = np.random.default_rng(1)
    for n in (8, 10, 46, 200):
        assert np.mean([stand_apart(rng.normal(size=n)) > 0 for _ in range(1000)]) < 0.02
    for alike in ([], [1.0], [2.0] * 50, range(7), [0.0] * 9, np.linspace(0, 1, 40), np.linspace(0, 1, 100) ** 0.5):
        assert stand_apart(alike) == 0


def test_scores_that_are_almost_all_equal():
    assert stand_apart([1.0] * 30 + [2.0]) == 1
    assert stand_apart([1e6] * 30 + [2e6] * 2) == 2
