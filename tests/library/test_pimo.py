"""AUPIMO against values worked out by hand; the slow form stands with equation (8.1)."""

import math

import numpy as np
import pytest

from adlib.pimo import aupimo


def test_by_hand():
    good = np.arange(1000.0).reshape(25, 40)  # at or above 990 are ten pixels: a rate of 1/100
    mask = np.zeros((2, 3), bool)
    mask[0] = True
    bad = np.array([[2000, 990, 0.0], [5000, 5000, 5000]])  # found at all rates, from 1/100 on, never
    value = aupimo([mask, np.zeros_like(good, bool)], [bad, good], limits=(1e-3, 1e-1))
    assert value[0] == pytest.approx((1 + 1 / 2 + 0) / 3) and math.isnan(value[1])  # 1/100 is half-way, by logarithm


def test_good_pixels_of_defective_images_play_no_part():
    rng = np.random.default_rng(0)
    masks = [np.zeros((40, 40), bool) for _ in range(4)]
    masks[0][3:9, 3:9] = True
    maps = [rng.normal(size=(40, 40)) + 2 * mask for mask in masks]
    before = aupimo(masks, maps, limits=(1e-3, 1e-2))
    maps[0] = np.where(masks[0], maps[0], 1000)
    assert np.array_equal(aupimo(masks, maps, limits=(1e-3, 1e-2)), before, equal_nan=True)


def test_a_constant_map_finds_nothing_and_a_perfect_one_everything():
    mask, empty = np.zeros((400, 300), bool), np.zeros((400, 300), bool)
    mask[5, 5:8] = True
    assert aupimo([mask, empty], [np.ones(mask.shape), np.ones(mask.shape)])[0] == 0
    assert aupimo([mask, empty], [mask.astype(float), np.zeros(mask.shape)])[0] == 1


def test_a_good_image_counts_once_whatever_its_size():
    bad = np.array([[True]])
    small, large = np.full((10, 10), 5.0), np.zeros((100, 100))
    empty = [np.zeros(small.shape, bool), np.zeros(large.shape, bool)]
    # The small image alone is above 3: a rate of one half, and not of 100 in 10,100 pixels.
    value = aupimo([bad, *empty], [np.array([[3.0]]), small, large], limits=(0.01, 1.0))
    assert value[0] == pytest.approx(math.log(1 / 0.5) / math.log(100))


@pytest.mark.parametrize("limits", [(1e-4, 1e-5), (0.0, 1e-4), (1e-5, 1.5), (1e-4, 1e-4)])
def test_limits_out_of_order_are_refused(limits):
    mask, empty = np.ones((2, 2), bool), np.zeros((400, 300), bool)
    with pytest.raises(ValueError, match="expected two false-positive rates"):
        aupimo([mask, empty], [np.ones((2, 2)), np.ones((400, 300))], limits=limits)


def test_what_cannot_be_computed_is_said():
    mask, empty = np.eye(300, dtype=bool), np.zeros((300, 300), bool)
    values = np.ones((300, 300))
    with pytest.raises(ValueError, match="have 90,000 pixels in all: .* of 1e-05 needs at least 100,000"):
        aupimo([mask, empty], [values, values])
    with pytest.raises(ValueError, match="have 0 pixels in all"):
        aupimo([mask], [values])
    with pytest.raises(ValueError, match="no defective pixel"):
        aupimo([empty], [values])
    with pytest.raises(ValueError, match="not finite"):
        aupimo([mask, empty], [values, values * np.nan])
