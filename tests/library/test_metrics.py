"""Metrics against values worked out by hand, against slow literal forms, and against scikit-learn."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage, stats
from sklearn.metrics import roc_auc_score

from adlib import intervals, metrics
from adlib.datasets import MVTecLOCO, SyntheticFactory


def slow_au_pro(masks, maps, limit):
    """The curve point by point, over every distinct value, cut by linear interpolation."""
    regions, background = [], []
    for mask, values in zip(masks, maps, strict=True):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [values[labelled == i + 1] for i in range(count)]
        background.append(values[~mask])
    background = np.concatenate(background)
    points = [(0.0, 0.0)]
    for t in sorted({float(v) for m in maps for v in m.ravel()}, reverse=True):
        points.append(((background >= t).mean(), np.mean([(r >= t).mean() for r in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        if x0 >= limit:
            break
        if x1 > limit:
            y1, x1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0), limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


def scene(seed, n=6, size=24, levels=None):
    rng = np.random.default_rng(seed)
    masks, maps = [], []
    for i in range(n):
        mask = np.zeros((size, size + i), bool)
        if i % 3:
            mask[3 : 3 + i, 4:9] = True
            mask[3 + i, 9] = True  # touches the first region at a corner only
            mask[15:18, 2:4] = True
        values = rng.normal(size=mask.shape) + 1.2 * mask
        maps.append(np.round(values * levels) / levels if levels else values)
        masks.append(mask)
    return masks, maps


def test_image_auroc_by_hand():
    # Pairs (anomalous, normal): 3>1, 3>2, 2>1, 2=2 -> 3.5 of 4.
    assert metrics.image_auroc([0, 0, 1, 1], [1, 2, 3, 2]) == 3.5 / 4


@pytest.mark.parametrize("seed", range(5))
def test_image_auroc_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, 200), rng.integers(0, 30, 200)
    assert metrics.image_auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_large_scores_are_not_squashed():
    """A sigmoid in float32 makes every score above 17 equal to 1 and the AUROC 0.5 (anomalib issue 3407)."""
    assert metrics.image_auroc([0, 0, 1, 1], np.float32([20, 30, 40, 50])) == 1.0


def test_au_pro_by_hand():
    # Background 4 pixels: 4, 3, 2, 1. One region of one pixel with 2.5: found after 2 of 4 false positives.
    mask = np.array([[True, False, False, False, False]])
    values = np.array([[2.5, 4, 3, 2, 1]])
    assert metrics.au_pro([mask], [values], limit=1.0) == pytest.approx(0.5)
    assert metrics.au_pro([mask], [values], limit=0.75) == pytest.approx(0.25 / 0.75)
    assert metrics.au_pro([mask], [values], limit=0.5) == 0.0


@pytest.mark.parametrize("levels", [None, 2, 10])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_au_pro_is_the_area_under_the_slow_curve(levels, limit):
    masks, maps = scene(3, levels=levels)
    assert metrics.au_pro(masks, maps, limit=limit) == pytest.approx(slow_au_pro(masks, maps, limit), abs=1e-12)


def test_pixel_auroc_is_scikit_learns():
    masks, maps = scene(1, levels=4)
    flat = [np.concatenate([a.ravel() for a in x]) for x in (masks, maps)]
    assert metrics.pixel_auroc(masks, maps) == pytest.approx(roc_auc_score(*flat), abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("levels", [None, 1, 7])
@pytest.mark.parametrize("shift", [-9, -0.5, 0, 0.5, 9])
def test_what_is_left_unsorted_changes_nothing(dtype, levels, shift):
    """The part of the background that is sorted may be all, some or none of it, with ties at its ends."""
    masks, maps = scene(7, levels=levels)
    maps = [(100 * (values + shift * mask)).round(3).astype(dtype) for values, mask in zip(maps, masks, strict=True)]
    flat = [np.concatenate([a.ravel() for a in x]) for x in (masks, maps)]
    assert metrics.pixel_auroc(masks, maps) == pytest.approx(roc_auc_score(*flat), abs=1e-12)
    for limit in (0.001, 0.05, 0.3, 0.999, 1.0):
        assert metrics.au_pro(masks, maps, limit=limit) == pytest.approx(slow_au_pro(masks, maps, limit), abs=1e-12)


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.25, 0.5, 1.0, 2.0])
def test_a_limit_that_falls_on_a_tie(value):
    """Background 0, 0, 1, 1: the limit of one half lies between two ties, others lie within one."""
    mask = np.array([[True, False, False, False, False]])
    maps = [np.array([[value, 0, 0, 1, 1]])]
    for limit in (0.25, 0.5, 0.75, 1.0):
        assert metrics.au_pro([mask], maps, limit=limit) == pytest.approx(slow_au_pro([mask], maps, limit), abs=1e-12)


def region(mask, saturation=None):
    return SimpleNamespace(mask=mask, saturation=int(mask.sum()) if saturation is None else saturation)


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_au_spro_without_saturation_is_au_pro(levels, limit):
    masks, maps = scene(3, levels=levels)
    regions = []
    for mask in masks:
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        regions.append([region(labelled == i + 1) for i in range(count)])
    expected = metrics.au_pro(masks, maps, limit=limit)
    assert metrics.au_spro(regions, maps, limit=limit) == pytest.approx(expected, abs=1e-12)


def test_au_spro_by_hand():
    """Of a region of four pixels two suffice. The background is 4, 3, 2, 1, the region 5, 2.5, 0, 0."""
    mask = np.array([[True] * 4 + [False] * 4])
    values = np.array([[5, 2.5, 0, 0, 4, 3, 2, 1.0]])
    # One pixel is found from the start: 1/2. The second after two false positives of four: then all that counts.
    assert metrics.au_spro([[region(mask, 2)]], [values], limit=1.0) == pytest.approx(0.5 * 0.5 + 0.5 * 1)
    assert metrics.au_spro([[region(mask, 2)]], [values], limit=0.5) == pytest.approx(0.5)
    assert metrics.au_spro([[region(mask, 1)]], [values]) == 1
    assert metrics.au_spro([[region(mask)]], [values], limit=1.0) == pytest.approx(0.5 * 0.25 + 0.5 * 0.5)
    good = [[], [region(mask, 2)]]
    found = metrics.au_spro(good, [np.zeros((1, 2)), values], limit=1.0)  # now two false positives of six
    assert found == pytest.approx(2 / 6 * 0.5 + 4 / 6 * 1)


def test_au_spro_reads_the_factorys_and_locos_saturations(tmp_path):
    """Written in LOCO's layout and read again, `defects_config.json` gives the regions that the factory had."""
    data = SyntheticFactory("kit", size=64, n_train=1, n_validation=1, n_test=2, n_defect=6)
    data.write(tmp_path, layout="mvtec_loco")
    test = MVTecLOCO(tmp_path, "kit").test
    assert {s.logical for s in test} == {True, False}
    rng = np.random.default_rng(0)

    def value(samples):
        order = sorted(samples, key=lambda s: float(s.image.double().sum()))
        maps = [rng_map(i) + 2 * s.mask.numpy() * (i % 3) for i, s in enumerate(order)]
        return metrics.au_spro([s.regions for s in order], maps, limit=0.3)

    fields = rng.normal(size=(len(test), 64, 64))

    def rng_map(i):
        return fields[i]

    assert value(test) == pytest.approx(value(data.test), abs=1e-12)
    assert any(r.saturation < int(r.mask.sum()) for s in test for r in s.regions)


def test_bad_regions_are_named():
    mask = np.zeros((3, 3), bool)
    mask[0, 0] = True
    for saturation in (0, 2):
        with pytest.raises(ValueError, match=f"image 0: a region of 1 pixels has saturation {saturation}"):
            metrics.au_spro([[region(mask, saturation)]], [np.zeros((3, 3))])
    with pytest.raises(ValueError, match="regions of 1 images for 2 maps"):
        metrics.au_spro([[]], [np.zeros((3, 3))] * 2)
    with pytest.raises(ValueError, match="no defective pixel"):
        metrics.au_spro([[]], [np.zeros((3, 3))])
    with pytest.raises(ValueError, match=r"image 1: mask \(3, 3\) and map \(3, 4\)"):
        metrics.au_spro([[], [region(mask)]], [np.zeros((3, 3)), np.zeros((3, 4))])
    with pytest.raises(ValueError, match="limit = 0"):
        metrics.au_spro([[region(mask)]], [np.zeros((3, 3))], limit=0)
    with pytest.raises(ValueError, match="map 0 holds a value that is not finite"):
        metrics.au_spro([[region(mask)]], [np.full((3, 3), np.nan)])


def test_regions_that_touch_at_a_corner_are_one():
    mask = np.eye(4, dtype=bool)
    values = np.where(np.arange(4)[:, None] < 1, 1.0, 0.0) * mask  # only the first of four diagonal pixels found
    assert metrics.au_pro([mask], [values + np.where(mask, 0, 0.5)], limit=1.0) == pytest.approx(0.25)


def test_dilating_the_prediction_would_show():
    """White noise scores limit/2 on average; a PRO that dilates the prediction gives far more."""
    values = [
        metrics.au_pro([scene(s)[0][4]], [np.random.default_rng(s).normal(size=(24, 28))], limit=0.3)
        for s in range(60)
    ]
    assert np.mean(values) == pytest.approx(0.15, abs=0.02)


def test_image_aupr_and_f1_by_hand():
    labels, scores = [1, 0, 1, 0], [4, 3, 2, 1]
    assert metrics.image_aupr(labels, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    f1, threshold = metrics.f1_max(labels, scores)
    assert (f1, threshold) == (pytest.approx(0.8), 2)


@pytest.mark.parametrize(
    ("labels", "scores", "word"),
    [
        ([0, 0], [1, 2], "anomalous"),
        ([1, 1], [1, 2], "normal"),
        ([0, 1], [1, np.nan], "not finite"),
        ([0, 2], [1, 2], "expected 0"),
        ([0, 1, 1], [1, 2], "one length"),
        ([], [], "anomalous"),
    ],
)
def test_undefined_image_cases_are_errors_in_words(labels, scores, word):
    with pytest.raises(ValueError, match=word):
        metrics.image_auroc(labels, scores)


def test_undefined_pixel_cases_are_errors_in_words():
    empty, full, values = np.zeros((3, 3), bool), np.ones((3, 3), bool), np.zeros((3, 3))
    for masks, maps, word in [
        ([empty], [values], "no defective"),
        ([full], [values], "no normal"),
        ([empty], [np.zeros((2, 3))], "one size"),
        ([empty.astype(float)], [values], "bool"),
        ([None], [values], "missing"),
        ([empty], [], "expected one each"),
        ([full], [values * np.nan], "not finite"),
    ]:
        for measure in (metrics.pixel_auroc, metrics.au_pro, metrics.pixel_intervals):
            with pytest.raises(ValueError, match=word):
                measure(masks, maps)
    with pytest.raises(ValueError, match="limit"):
        metrics.au_pro([empty], [values], limit=0)


# ---------------------------------------------------------------------- intervals


def test_interval_at_auroc_one_has_a_width():
    labels = [0] * 20 + [1] * 60
    low, high = metrics.image_auroc_interval(labels, labels)
    assert high == 1.0 and 0.9 < low < 0.99
    fewer = metrics.image_auroc_interval([0] * 5 + [1] * 5, [0] * 5 + [1] * 5)
    assert fewer[0] < low


def test_image_interval_covers():
    """Normal scores 1.8 apart have AUROC Φ(1.8/√2) = 0.8985; a 95 % interval should hold it about that often."""
    truth, hits = 0.898454, 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], [20, 40])
        low, high = metrics.image_auroc_interval(labels, rng.normal(size=60) + 1.8 * labels, resamples=300, seed=seed)
        hits += low <= truth <= high
    assert hits >= 0.92 * 120


def test_groups_widen_the_interval():
    rng = np.random.default_rng(0)
    base, labels = rng.normal(size=20), np.repeat([0, 1], 60)
    scores = np.repeat(base, 6) + labels + 0.05 * rng.normal(size=120)
    groups = [f"tile{i // 6}" for i in range(120)]
    alone, grouped = (metrics.image_auroc_interval(labels, scores, groups=g) for g in (None, groups))
    assert grouped[1] - grouped[0] > 1.3 * (alone[1] - alone[0])


def test_binned_intervals_hold_the_exact_values():
    masks, maps = scene(5, n=12)
    ends = metrics.pixel_intervals(masks, maps, resamples=200)
    assert ends.pixel_auroc[0] < metrics.pixel_auroc(masks, maps) < ends.pixel_auroc[1]
    assert ends.au_pro[0] < metrics.au_pro(masks, maps) < ends.au_pro[1]


def test_the_bins_change_little():
    """With every image drawn once, the histograms must give the exact areas."""
    masks, maps = scene(8, n=9)
    labels = np.array([m.any() for m in masks])
    once = np.ones(9)
    original = intervals._draw
    try:
        intervals._draw = lambda parts, labels, rng: once
        ends = metrics.pixel_intervals(masks, maps, resamples=2)
    finally:
        intervals._draw = original
    spread = metrics.newcombe_interval(metrics.pixel_auroc(masks, maps), labels.sum(), (~labels).sum())
    assert ends.pixel_auroc == pytest.approx(spread, abs=1e-3)  # no draw varies: Newcombe's ends of the value


def test_intervals_are_the_same_twice():
    masks, maps = scene(2)
    assert metrics.pixel_intervals(masks, maps, resamples=20) == metrics.pixel_intervals(masks, maps, resamples=20)


def test_ties_and_perfect_separation_keep_the_value_inside():
    masks, _ = scene(4, n=6)
    stripes = [np.where(m, 1.0, np.arange(m.size).reshape(m.shape) % 2) for m in masks]
    for maps in ([m.astype(float) for m in masks], stripes):
        ends = metrics.pixel_intervals(masks, maps, resamples=50)
        for (low, high), measure in zip(ends, (metrics.pixel_auroc, metrics.au_pro), strict=True):
            assert low <= measure(masks, maps) <= high
    separated = metrics.pixel_intervals(masks, [m + 0.5 * np.random.default_rng(0).random(m.shape) for m in masks])
    assert separated.pixel_auroc[1] == 1.0 and separated.pixel_auroc[0] < 0.9  # six images prove little


def test_a_group_with_both_classes_is_drawn_as_one():
    labels, groups = np.array([0, 1, 0, 1, 0, 0, 1]).astype(bool), ["a", "a", "b", "b", "c", "d", "e"]
    parts = intervals._groups(groups, 7)
    for seed in range(20):
        weight = intervals._draw(parts, labels, np.random.default_rng(seed))
        assert weight[0] == weight[1] and weight[2] == weight[3] and weight[0] + weight[2] == 2
        assert weight[4] + weight[5] == 2 and weight[6] == 1


def draw_seeds(rng, seeds, images, spread, same_images):
    """AUROCs of `seeds` trainings and their intervals; a training shifts all defective scores by spread·N(0, 1)."""
    values, ends = [], []
    hard = rng.normal(size=(2, images))  # what all trainings find hard in an image
    for _ in range(seeds):
        own = rng.normal(size=(2, images))
        good, bad = 0.9 * hard + 0.44 * own if same_images else own
        values.append(metrics.image_auroc(np.repeat([0, 1], images), [*good, *(bad + 1.5 + spread * rng.normal())]))
        ends.append(metrics.newcombe_interval(values[-1], images, images))
    return values, ends


@pytest.mark.parametrize("same_images", [False, True])
@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_the_interval_of_a_mean_covers_where_that_of_one_seed_does_not(same_images, spread):
    """300 cases of three seeds; a coverage of 0.95 would show 0.90 or less once in ten thousand times."""
    rng, true = np.random.default_rng(3), stats.norm.cdf(1.5 / np.sqrt(2 + spread**2))
    held, alone = [], []
    for _ in range(300):
        values, ends = draw_seeds(rng, 3, 40, spread, same_images)
        low, high = metrics.mean_interval(values, ends, same_images=same_images)
        assert low <= np.mean(values) <= high
        held.append(low <= true <= high)
        alone.append(ends[0][0] <= true <= ends[0][1])
    assert np.mean(held) > 0.9
    if spread:
        assert np.mean(alone) < 0.8, "the images of one seed say nothing of the next training"


def test_the_interval_of_a_mean_by_hand():
    ends = [(0.7, 0.9), (0.8, 1.0)]
    half = stats.t.ppf(0.975, 1) * 0.1 / 2  # of 0.8 and 0.9: s/√2 = 0.05
    alone = metrics.mean_interval([0.8, 0.9], same_images=False, limits=(-1, 2))
    assert alone == pytest.approx((0.85 - half, 0.85 + half))
    equal = metrics.mean_interval([0.8, 0.8], [(0.7, 0.8), (0.7, 0.84)], same_images=False)
    assert equal == pytest.approx((0.8 - 0.02**0.5 / 2, 0.82))
    wide = np.hypot(0.1, half)
    both = metrics.mean_interval([0.8, 0.9], ends, same_images=True, limits=(-1, 2))
    assert both == pytest.approx((0.85 - wide, 0.85 + wide))
    assert metrics.mean_interval([0.8, 0.9], ends, same_images=True) == pytest.approx((0.85 - wide, 1.0))
    assert metrics.mean_interval([1.0] * 5, [(0.93, 1.0)] * 5, same_images=True) == pytest.approx((0.93, 1.0))
    assert metrics.mean_interval([0.8], [(0.7, 0.9)], same_images=False) == pytest.approx((0.7, 0.9))
    for values, given, same in (([0.8], None, False), ([0.8, 0.9], None, True), ([0.8, 0.95], [(0.7, 0.9)] * 2, True)):
        with pytest.raises(ValueError, match="expected"):
            metrics.mean_interval(values, given, same_images=same)
