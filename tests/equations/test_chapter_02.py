"""Chapter 2, PatchCore: every numbered equation, transcribed with loops in float64, against the library."""

import itertools
import math

import numpy as np
import pytest
import torch

from adlib.chunks import cover, join, k_center_chunks
from adlib.coreset import covering_radius, jl_dimension, k_center_greedy, random_projection
from adlib.features import PatchFeatures, aggregate, to_rows
from adlib.neighbors import Bank, k_nearest
from adlib.patchcore import PatchCore, reweight
from adlib.prediction import full_size_maps
from adlib.threshold import conformal_p_values, conformal_threshold, cross_conformal_bound
from equations import equation


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def neighbourhood(h, w, p, rows, columns):
    """(2.1), literally."""
    r = p // 2
    return [(a, b) for a in range(rows) for b in range(columns) if abs(a - h) <= r and abs(b - w) <= r]


def distance(m, n):
    return math.sqrt(sum((float(a) - float(b)) ** 2 for a, b in zip(m, n, strict=True)))


def radius(bank, kept):
    """(2.5), literally."""
    return max(min(distance(m, n) for n in kept) for m in bank)


class Two(torch.nn.Module):
    """A backbone with two layers that are plain functions of the pixels."""

    def forward(self, x):
        return {"a": torch.nn.functional.avg_pool2d(x, 4), "b": torch.nn.functional.max_pool2d(x, 8)}


@equation("2.1", function="adlib.features.aggregate")
@equation("2.2", function="adlib.features.aggregate")
@pytest.mark.parametrize("p", [1, 3, 5])
def test_aggregate(p):
    phi = draw(2, 3, 6, 5)
    out = aggregate(phi, p)
    for i, h, w in itertools.product(range(2), range(6), range(5)):
        cells = neighbourhood(h, w, p, 6, 5)
        for c in range(3):
            mean = sum(float(phi[i, c, a, b]) for a, b in cells) / len(cells)
            assert float(out[i, c, h, w]) == pytest.approx(mean, abs=1e-12)


@equation("2.3", function="adlib.features.PatchFeatures")
@pytest.mark.parametrize(("p", "s"), [(1, 1), (3, 1), (3, 2), (5, 3)])
def test_patch_features(p, s):
    features = PatchFeatures(Two(), ("a", "b"), p, s)
    image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    normalised = (image - features.mean) / features.std
    fine = torch.nn.functional.avg_pool2d(normalised, 4)[0].double()
    coarse = torch.nn.functional.max_pool2d(normalised, 8)[0].double()

    def locally_aware(layer):
        c, rows, columns = layer.shape
        out = torch.zeros_like(layer)
        for h, w in itertools.product(range(rows), range(columns)):
            cells = neighbourhood(h, w, p, rows, columns)
            out[:, h, w] = sum(layer[:, a, b] for a, b in cells) / len(cells)
        return out

    def bilinear(layer, y, x):
        """The value at a fine cell: its centre lies at (y + 1/2)/2 − 1/2 on the coarse grid."""
        rows, columns = layer.shape[1:]
        y, x = max((y + 0.5) / 2 - 0.5, 0), max((x + 0.5) / 2 - 0.5, 0)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
        u, v = y - y0, x - x0
        top = (1 - v) * layer[:, y0, x0] + v * layer[:, y0, x1]
        return (1 - u) * top + u * ((1 - v) * layer[:, y1, x0] + v * layer[:, y1, x1])

    fine, coarse = locally_aware(fine), locally_aware(coarse)
    expected = [
        torch.cat([fine[:, h, w], bilinear(coarse, h, w)])
        for h in range(12) for w in range(16) if h % s == 0 and w % s == 0
    ]  # fmt: skip
    assert torch.allclose(to_rows(features(image)).double(), torch.stack(expected), atol=1e-5)


@equation("2.4", function="adlib.features.to_rows")
def test_memory_bank_is_the_union_over_images():
    grids = draw(3, 4, 2, 5)
    rows = {tuple(grids[i, :, h, w].tolist()) for i in range(3) for h in range(2) for w in range(5)}
    assert {tuple(r.tolist()) for r in to_rows(grids)} == rows and len(to_rows(grids)) == 30
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    detector = PatchCore(pretrained=False, image_size=64, coreset_ratio=1, batch_size=2, device="cpu").fit(images)
    with torch.no_grad():
        each = [to_rows(detector.features(image[None])) for image in images]
    assert torch.allclose(detector.memory_bank, torch.cat(each), atol=1e-5)


@equation("2.5", function="adlib.coreset.covering_radius")
def test_covering_radius():
    bank, kept = draw(60, 4), torch.tensor([3, 17, 40])
    assert covering_radius(bank, kept) == pytest.approx(radius(bank, bank[kept]), rel=1e-9)


@equation("2.6", function="adlib.coreset.k_center_greedy")
def test_greedy_step():
    bank = draw(80, 3)
    centres = [11]
    while len(centres) < 25:
        gaps = [min(distance(m, bank[c]) for c in centres) for m in bank]
        centres.append(max(range(80), key=lambda i: gaps[i]))
    assert k_center_greedy(bank, 25, start=11).tolist() == centres


@equation("2.7", function="adlib.coreset.k_center_greedy")
@pytest.mark.parametrize("seed", range(6))
def test_greedy_is_within_a_factor_of_two_of_every_choice(seed):
    bank = draw(11, 2, seed=seed)
    best = min(radius(bank, bank[list(choice)]) for choice in itertools.combinations(range(11), 3))
    for start in range(11):
        assert radius(bank, bank[k_center_greedy(bank, 3, start=start)]) <= 2 * best + 1e-9


@equation("2.8", function="adlib.coreset.random_projection")
def test_projection_is_linear_with_entries_of_variance_one_over_d():
    d, matrix = 400, random_projection(torch.eye(300, dtype=torch.float64), 400, seed=2).T  # R (d, C)
    assert float(matrix.var() * d) == pytest.approx(1, abs=0.02) and abs(float(matrix.mean())) < 1e-3
    m = draw(5, 300)
    expected = [[sum(float(matrix[i, j] * row[j]) for j in range(300)) for i in range(3)] for row in m]
    assert torch.allclose(random_projection(m, 400, seed=2)[:, :3], torch.tensor(expected, dtype=torch.float64))


@equation("2.9", function="adlib.coreset.jl_dimension")
@pytest.mark.parametrize(("n", "epsilon"), [(30, 0.5), (60, 0.7)])
def test_lemma_dimension_keeps_all_pairs(n, epsilon):
    d = jl_dimension(n, epsilon)
    assert d >= 4 * math.log(n) / (epsilon**2 / 2 - epsilon**3 / 3) > d - 1
    points, kept = draw(n, 50), 0
    plain = points.tolist()  # Python's own numbers: loops over those of a tensor take twenty times as long
    before = {(i, j): distance(plain[i], plain[j]) for i in range(n) for j in range(i)}
    for seed in range(20):
        y = random_projection(points, d, seed=seed).tolist()
        ratio = [(distance(y[i], y[j]) / far) ** 2 for (i, j), far in before.items()]
        kept += 1 - epsilon <= min(ratio) and max(ratio) <= 1 + epsilon
    assert kept >= 15  # the lemma promises a positive probability; the bound is cautious


@equation("2.10", function="adlib.coreset.k_center_greedy")
@pytest.mark.parametrize("seed", range(4))
def test_factor_after_a_projection(seed):
    bank = draw(11, 40, seed=seed)
    y = random_projection(bank, 12, seed=seed)
    ratios = [(distance(y[i], y[j]) / distance(bank[i], bank[j])) ** 2 for i in range(11) for j in range(i)]
    epsilon = max(1 - min(ratios), max(ratios) - 1)
    best = min(radius(bank, bank[list(choice)]) for choice in itertools.combinations(range(11), 3))
    reached = radius(bank, bank[k_center_greedy(y, 3, start=0)])
    assert reached <= 2 * math.sqrt((1 + epsilon) / max(1 - epsilon, 1e-9)) * best


@equation("2.11", function="adlib.neighbors.k_nearest")
def test_distance_to_the_bank():
    queries, bank = draw(20, 5), draw(40, 5, seed=1)
    expected = [min(distance(q, n) for n in bank) for q in queries]
    assert k_nearest(queries, bank)[0][:, 0].tolist() == pytest.approx(expected, rel=1e-9)


@equation("2.12", function="adlib.coreset.covering_radius")
def test_coreset_bound_holds_for_every_query():
    bank, queries = draw(300, 6), draw(200, 6, seed=1) * 2
    for n in (5, 40, 150):
        kept = k_center_greedy(bank, n, seed=n)
        full, part = k_nearest(queries, bank)[0], k_nearest(queries, bank[kept])[0]
        assert (full <= part + 1e-12).all() and (part <= full + covering_radius(bank, kept) + 1e-12).all()


@pytest.fixture(scope="module")
def fitted():
    images = torch.rand(7, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    return PatchCore(pretrained=False, image_size=64, coreset_ratio=0.5, device="cpu").fit(images[:4]), images[4:]


def literal_score(detector, image, b):
    """(2.13) and (2.14), literally: s* and s of one image."""
    with torch.no_grad():
        queries = to_rows(detector.features(image[None])).double().numpy()
    bank = detector.memory_bank.double().numpy()
    nearest = [min(((np.sqrt(((q - m) ** 2).sum()), j) for j, m in enumerate(bank))) for q in queries]
    i = max(range(len(queries)), key=lambda i: nearest[i][0])
    star, j = nearest[i]
    around = sorted(range(len(bank)), key=lambda m: ((bank[m] - bank[j]) ** 2).sum())[:b]
    assert j in around
    terms = [math.exp(np.sqrt(((queries[i] - bank[m]) ** 2).sum())) for m in around]
    return star, (1 - math.exp(star) / sum(terms)) * star


@equation("2.13", function="adlib.patchcore.PatchCore.score")
def test_image_score_is_the_largest_distance(fitted):
    detector, images = fitted
    detector.reweighting = None
    scores = detector.predict(images).scores
    assert scores.tolist() == pytest.approx([literal_score(detector, image, 9)[0] for image in images], rel=1e-4)


@equation("2.14", function="adlib.patchcore.reweight")
def test_reweighted_score(fitted):
    detector, images = fitted
    for b in (2, 9):
        detector.reweighting = b
        scores = detector.predict(images).scores
        assert scores.tolist() == pytest.approx([literal_score(detector, image, b)[1] for image in images], rel=1e-4)
    to_all = draw(6, 9).abs().sort(1).values * 8
    literal = [(1 - math.exp(row[0]) / sum(math.exp(d) for d in row)) * float(row[0]) for row in to_all]
    assert reweight(to_all[:, 0], to_all).tolist() == pytest.approx(literal, rel=1e-9)


@equation("2.15", function="adlib.patchcore.reweight")
@pytest.mark.parametrize("b", [2, 3, 9, 50])
def test_range_of_the_weight(b):
    to_all = (draw(500, b).abs() * 3).sort(1).values + 0.01
    weight = reweight(to_all[:, 0], to_all) / to_all[:, 0]
    assert (weight >= 1 - 1 / b - 1e-12).all() and (weight < 1).all()
    equal = torch.full((1, b), 3.0, dtype=torch.float64)
    assert float(reweight(equal[:, 0], equal) / 3) == pytest.approx(1 - 1 / b)
    far = torch.full((1, b), 100.0)  # exp(100) overflows float32
    assert float(reweight(far[:, 0], far)) == pytest.approx(100 * (1 - 1 / b), rel=1e-4)


@equation("2.16", function="adlib.prediction.full_size_maps")
def test_full_size_map():
    grid, sigma, (height, width) = draw(1, 3, 4), 1.5, (24, 32)
    up = np.zeros((height, width))
    for y, x in itertools.product(range(height), range(width)):
        v, u = min(max((y + 0.5) / 8 - 0.5, 0), 2), min(max((x + 0.5) / 8 - 0.5, 0), 3)
        r, c = min(int(v), 1), min(int(u), 2)
        a, b = v - r, u - c
        g = grid[0].numpy()
        up[y, x] = (1 - a) * ((1 - b) * g[r, c] + b * g[r, c + 1]) + a * ((1 - b) * g[r + 1, c] + b * g[r + 1, c + 1])
    reach = int(4 * sigma + 0.5)
    kernel = {o: math.exp(-(o**2) / (2 * sigma**2)) for o in range(-reach, reach + 1)}
    total = sum(kernel.values())
    out = full_size_maps(grid, (height, width), sigma)[0]
    for y, x in [(0, 0), (5, 7), (12, 31), (23, 16)]:
        value = 0.0
        for i, j in itertools.product(kernel, kernel):
            inside = up[min(max(y + i, 0), height - 1), min(max(x + j, 0), width - 1)]
            value += kernel[i] * kernel[j] / total**2 * inside
        assert float(out[y, x]) == pytest.approx(value, abs=1e-9)


@equation("2.17", function="adlib.threshold.conformal_threshold")
@pytest.mark.parametrize(("n", "alpha"), [(9, 0.1), (19, 0.05), (50, 0.1), (99, 0.01)])
def test_threshold_rank_and_promise(n, alpha):
    scores = np.random.default_rng(n).permutation(n).astype(float)
    rank = math.ceil(round((n + 1) * (1 - alpha), 9))
    assert conformal_threshold(scores, alpha) == sorted(scores)[rank - 1]
    alarms = []
    for seed in range(4000):
        new = np.random.default_rng(seed).normal(size=n + 1)
        alarms.append(new[n] > np.sort(new[:n])[rank - 1])
    assert np.mean(alarms) <= alpha + 3 * math.sqrt(alpha / 4000)


@equation("2.18", function="adlib.threshold.conformal_p_values")
@pytest.mark.parametrize("levels", [4, 1000])
def test_p_values_count_and_keep_their_promise(levels):
    for seed, n in enumerate((1, 4, 19, 30)):
        rng = np.random.default_rng(seed)
        held, new = rng.integers(0, levels, n).astype(float), rng.integers(0, levels, 25).astype(float)
        for s, found in zip(new, conformal_p_values(new, held), strict=True):
            assert found == (1 + sum(1 for held_out in held if held_out >= s)) / (n + 1)
    good = np.random.default_rng(9).normal(size=(4000, 20))
    found = np.array([conformal_p_values(row[:1], row[1:])[0] for row in good])
    for alpha in (0.05, 0.1, 0.3):
        assert (found <= alpha).mean() <= alpha + 3 * math.sqrt(alpha / 4000)


def folds_decide(features, new, folds, alpha):
    """(2.19), literally: parts are points, a bank is a list of points, a score the distance to the nearest one."""
    own = [k for k, fold in enumerate(folds) for _ in fold]
    banks = [[features[i] for i, mine in enumerate(own) if mine != k] for k in range(len(folds))]
    held = [min(distance(x, m) for m in banks[k]) for x, k in zip(features, own, strict=True)]
    rank = math.ceil(round((len(features) + 1) * (1 - alpha), 9))
    least = min(min(distance(new, m) for m in bank) for bank in banks)
    return least > sorted(held)[rank - 1], least, held


@equation("2.19", function="adlib.detector.Detector.fit")
@pytest.mark.parametrize(("n", "count", "alpha"), [(6, 3, 0.3), (10, 5, 0.2), (9, 9, 0.1)])
def test_folds_decide_by_the_least_score(n, count, alpha):
    size, flags, in_all = n // count, 0, 0
    for seed in range(400):
        points = draw(n + 1, 2, seed=seed).numpy()
        features, new = points[:n], points[n]
        folds = [list(range(k * size, (k + 1) * size)) for k in range(count)]
        flagged, least, held = folds_decide(features, new, folds, alpha)
        assert flagged == (least > conformal_threshold(held, alpha))
        flags += flagged
        # With a whole bank, the least of the K distances is the distance to all parts together.
        in_all += abs(least - min(distance(new, m) for m in features)) < 1e-12
    promise = cross_conformal_bound(alpha, n, count)
    assert flags / 400 <= promise + 3 * math.sqrt(promise / 400) and in_all == 400


@equation("2.20", function="adlib.threshold.cross_conformal_bound")
@pytest.mark.parametrize(("n", "count"), [(4, 2), (6, 3), (10, 5), (7, 7), (12, 4), (7, 3), (11, 4)])
def test_the_bound_of_folds_and_the_count_behind_it(n, count):
    sizes = [len(fold) for fold in np.array_split(range(n), count)]
    promises = {alpha: [] for alpha in (0.1, 0.3, 0.5)}
    for size in set(sizes):  # of one more fold, of parts that nobody sees
        most = {alpha: 0 for alpha in promises}
        fold = [k for k, some in enumerate([*sizes, size]) for _ in range(some)]
        for seed, alpha in itertools.product(range(150), promises):
            rng, everyone = np.random.default_rng(seed), range(n + size)
            scores = rng.normal(size=(n + size, n + size))
            if seed % 3:  # one number for each pair of folds, as detectors give, and parts that all of them score high
                scores = scores[:, fold] + seed % 3 * rng.normal(size=n + size)[:, None]
            others = [[j for j in everyone if fold[j] != fold[i]] for i in everyone]
            least = [min(scores[i, j] for j in others[i]) for i in everyone]
            beaten = [sum(1 for j in others[i] if least[i] > scores[j, i]) for i in everyone]
            strange = [i for i in everyone if beaten[i] >= (1 - alpha) * (n + 1) - 1e-9]
            assert len(strange) <= n + size - (1 - alpha) * (n + 1) + 1e-9
            most[alpha] = max(most[alpha], len(strange))
        assert most[0.5] > 0, "no part of any matrix was strange: the count was not tested"
        for alpha in promises:  # the new part is as likely as any in the folds of its size to be strange
            alike = size * (1 + sizes.count(size))
            promises[alpha].append((n + size - (1 - alpha) * (n + 1)) / alike)
    for alpha, found in promises.items():
        assert cross_conformal_bound(alpha, n, count) == pytest.approx(min(found))
        if n % count == 0:
            assert min(found) == pytest.approx(alpha + (1 - alpha) * (1 - count / n) / (count + 1))


@equation("2.21", function="adlib.chunks.k_center_chunks")
@pytest.mark.parametrize("per_chunk", [None, 3, 7])
def test_the_radius_is_at_most_the_sum_of_the_two_rounds(per_chunk):
    for seed in range(4):
        bank, n = draw(60, 3, seed=seed), 8
        chunks = bank.split(20)
        kept = [[chunk[i] for i in k_center_greedy(chunk, per_chunk or n)] for chunk in chunks]
        first = max(radius(chunk, some) for chunk, some in zip(chunks, kept, strict=True))  # r1
        union = torch.stack([m for some in kept for m in some])
        chosen = union[k_center_greedy(union, n, start=0)]
        second = radius(union, chosen)  # r2
        assert radius(bank, chosen) <= first + second + 1e-12
        found = k_center_chunks(chunks, n, per_chunk=per_chunk)
        assert torch.equal(found.rows, chosen) and torch.equal(bank[found.indices], chosen)
        assert found.radius == pytest.approx(first + second, rel=1e-12) and found.total == 60


@equation("2.22", function="adlib.chunks.k_center_chunks")
@pytest.mark.parametrize("seed", range(4))
def test_as_many_centres_in_each_chunk_are_within_a_factor_of_four_of_every_choice(seed):
    bank = draw(12, 2, seed=seed)
    best = min(radius(bank, bank[list(choice)]) for choice in itertools.combinations(range(12), 3))
    for order in range(8):
        moved = bank[torch.randperm(12, generator=torch.Generator().manual_seed(order))]
        found = k_center_chunks(moved.split(4), 3, seed=order)
        assert radius(bank, found.rows) <= 4 * best + 1e-12
        assert found.least <= best + 1e-12 and found.radius <= 4 * found.least + 1e-12


@equation("2.23", function="adlib.chunks.join")
@pytest.mark.parametrize("per_chunk", [1, 2, 3])
def test_the_run_itself_tells_a_factor_for_any_number_of_centres(per_chunk):
    for seed in range(6):
        bank = draw(12, 2, seed=seed)
        bank[:2] *= 30  # one chunk has more to keep than the others
        best = min(radius(bank, bank[list(choice)]) for choice in itertools.combinations(range(12), 2))
        covers = [cover(chunk, per_chunk) for chunk in bank.split(3)]
        first = max(c.radius for c in covers)
        found = join(covers, 2)
        second = found.radius - first
        assert covers == [] and radius(bank, found.rows) <= found.radius + 1e-12
        assert found.least >= second / 2 - 1e-12 and found.least <= best + 1e-12
        assert found.radius / found.least <= 2 * (1 + first / second) + 1e-9


@equation("2.24", function="adlib.patchcore.PatchCore.extend")
def test_what_was_covered_stays_covered_and_the_new_is_covered_as_greedy_covers_it():
    for seed in range(4):
        old, new, added = draw(20, 2, seed=seed), draw(9, 2, seed=seed + 50) * 2, 3
        kept = old[k_center_greedy(old, 5)]
        both = torch.cat([kept, new])
        chosen = both[k_center_greedy(both, 5 + added, start=torch.arange(5))]
        assert torch.equal(chosen[:5], kept)
        best = min(radius(new, new[list(choice)]) for choice in itertools.combinations(range(9), added))
        assert radius(new, chosen) <= 2 * best + 1e-12
        found = cover(both, 5 + added, start=torch.arange(5))
        assert found.radius == pytest.approx(radius(new, chosen)) and found.least == 0
        assert radius(torch.cat([old, new]), chosen) <= max(radius(old, kept), found.radius) + 1e-12


@equation("2.25", function="adlib.neighbors.k_nearest")
@pytest.mark.parametrize("scatter", [0.05, 1.0])
def test_groups_that_cannot_hold_the_nearest_patch(scatter):
    rooms = draw(12, 3, seed=1) * 4
    bank = (rooms[torch.arange(2100) % 12] + scatter * draw(2100, 3, seed=2)).float()
    queries = (bank[::30] + 0.1 * draw(70, 3, seed=3).float())[:70]
    prepared = Bank(bank)
    groups, rows = prepared.groups, (bank - prepared.centre).tolist()
    centres = rows[: round(2 * math.sqrt(2100))]
    members = {}
    for m in rows:
        members.setdefault(min(range(len(centres)), key=lambda g, m=m: distance(m, centres[g])), []).append(m)
    radii = [max(distance(m, c) for m in members.get(g, [c])) for g, c in enumerate(centres)]
    assert np.allclose(groups.radii, radii, atol=1e-4)
    for q, found in zip((queries - prepared.centre).tolist(), k_nearest(queries, prepared)[0][:, 0], strict=True):
        least = [distance(q, c) - r for c, r in zip(centres, radii, strict=True)]
        for g, some in members.items():
            assert min(distance(q, m) for m in some) >= least[g] - 1e-9
        assert abs(float(found) - min(distance(q, m) for m in rows)) < 1e-4
