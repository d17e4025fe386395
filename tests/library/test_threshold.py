import numpy as np
import pytest

from adlib.threshold import conformal_threshold, defect_regions


def test_known_ranks():
    assert conformal_threshold(range(1, 10), 0.1) == 9  # ⌈10·0.9⌉ = 9th of 9
    assert conformal_threshold(range(1, 100), 0.05) == 95
    assert conformal_threshold([5.0], 0.5) == 5.0


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
    assert conformal_threshold(np.arange(n), 1 / (n + 1)) == n - 1


def test_bad_input_is_an_error_in_words():
    for scores, alpha, word in [([1, np.nan], 0.5, "finite"), ([1], 0, "between"), ([1], 1.0, "between")]:
        with pytest.raises(ValueError, match=word):
            conformal_threshold(scores, alpha)
    for wrong in (np.zeros(3), np.full((2, 2), np.inf)):
        with pytest.raises(ValueError, match="expected"):
            defect_regions(wrong, 0.5)


def test_regions_by_hand():
    values = np.zeros((6, 8))
    values[0, 0], values[1, 1] = 2.0, 3.0  # one region, joined at a corner
    values[4:6, 5:8] = 5.0
    values[4, 1] = 1.0  # at the threshold, not above it
    first, second = defect_regions(values, 1.0)
    assert (first.box, first.area, first.peak, first.centre) == ((5, 4, 8, 6), 6, 5.0, (6.0, 4.5))
    assert (second.box, second.area, second.peak, second.centre) == ((0, 0, 2, 2), 2, 3.0, (0.5, 0.5))
    assert defect_regions(values, 1.0, min_area=3) == [first]
    assert defect_regions(values, 9.0) == []
