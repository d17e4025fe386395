"""Greedy k-center, its radius, and nearest neighbours, against plain loops."""

import pytest
import torch

from adlib import coreset
from adlib.backbones import load_backbone
from adlib.coreset import covering_radius, jl_dimension, k_center_greedy, random_projection, random_subset
from adlib.datasets import SyntheticFactory
from adlib.features import PatchFeatures, to_rows
from adlib.images import resize_image
from adlib.neighbors import Bank, k_nearest


def plain_greedy(x, n, start):
    x = x.double()
    nearest, chosen = (x - x[start]).square().sum(1), [start]
    for _ in range(n - 1):
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (x - x[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "width", "values", "n"), [(300, 3, 3, 300), (5000, 6, 4, 700), (4000, 2, 9, 2500)])
def test_choices_are_the_plain_loops_on_integers(rows, width, values, n):
    """Integers are exact in float32, so ties and duplicates must be settled alike: by the lowest index."""
    x = torch.randint(0, values, (rows, width), generator=torch.Generator().manual_seed(rows)).float()
    assert torch.equal(k_center_greedy(x, n, start=5), plain_greedy(x, n, 5))


def test_choices_are_the_plain_loops_on_correlated_features():
    x = draw(6000, 24) @ draw(24, 96, seed=1) * torch.rand(6000, 1, generator=torch.Generator().manual_seed(2))
    assert torch.equal(k_center_greedy(x, 600, start=0), plain_greedy(x, 600, 0))


def real_features(layers, size, images=2):
    """Patches of the factory's pictures: neighbours on the grid are alike, and many distances nearly tie."""
    features = PatchFeatures(load_backbone("adlib_resnet18", layers), layers)
    samples = [s for product in ("fabric", "washer") for s in SyntheticFactory(product, n_train=images).train]
    with torch.inference_mode():
        return to_rows(features(torch.stack([resize_image(s.image, (size, size)) for s in samples]))).clone()


def prefix_radii(x, centres):
    """The covering radius after each centre, in float64 from differences."""
    x, nearest, radii = x.double(), torch.full((len(x),), torch.inf, dtype=torch.float64), []
    for centre in centres:
        nearest = torch.minimum(nearest, (x - x[centre]).square().sum(1))
        radii.append(nearest.max())
    return torch.stack(radii).sqrt()


@pytest.mark.parametrize(
    ("layers", "size", "projected"),
    [(("layer1",), 96, None), (("layer2",), 192, None), (("layer2", "layer3"), 192, None),
     (("layer2", "layer3"), 224, 128), (("layer1", "layer2", "layer3"), 96, None)],
)  # fmt: skip
def test_real_features_give_the_plain_loops_choices_and_radii(layers, size, projected):
    x = real_features(layers, size)
    x = x if projected is None else random_projection(x, projected)
    ours, plain = k_center_greedy(x, 300, start=11), plain_greedy(x, 300, 11)
    assert torch.allclose(prefix_radii(x, ours), prefix_radii(x, plain), rtol=1e-5, atol=0)
    assert torch.equal(ours, plain)


def test_rounding_in_float32_decides_nothing():
    """Far from the origin, and with pairs of points that differ by less than a product in float32 can tell."""
    x = draw(3000, 64)
    x = torch.cat([x, x * (1 + 1e-6 * draw(3000, 1, seed=1))]) * 3 + 40
    assert torch.equal(k_center_greedy(x, 500, start=0), plain_greedy(x, 500, 0))


@pytest.mark.parametrize("width", [16, 96, 384, 1536])
def test_the_margin_is_above_the_rounding_errors(width):
    """What the guarantee rests on, on the machine and the matrix library that this runs on."""
    x = draw(3000, width) * torch.rand(3000, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    state = coreset._Bounds(x, 400, torch.tensor([0]))
    state.centres, state.rows, state.count = torch.arange(400), state.x[:400], 400
    squared = state._products(state.x, 0, 400) + state.norms[:, None]
    exact = torch.cdist(x.double(), x[:400].double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    assert bool(((squared - exact).abs() <= state.margins[:, None] + state.margins[:400]).all())


def test_other_number_types_are_taken_as_they_are():
    x = torch.randint(0, 50, (3000, 5), generator=torch.Generator().manual_seed(0))
    for same in (x, x.double() + 1e6, x.half()):
        assert torch.equal(k_center_greedy(same, 100, start=3), plain_greedy(x, 100, 3))


def test_all_identical_points_are_each_chosen_once():
    assert k_center_greedy(torch.ones(3000, 4), 3000, start=0).unique().numel() == 3000


def test_every_prefix_covers_as_the_plain_loop_does():
    x = draw(3000, 8)
    a, b = k_center_greedy(x, 200, start=0), plain_greedy(x, 200, 0)
    for n in (1, 10, 50, 200):
        assert covering_radius(x, a[:n]) == pytest.approx(covering_radius(x, b[:n]), rel=1e-5)


def test_seed_decides_the_start_and_global_state_is_untouched():
    x, state = draw(500, 4), torch.get_rng_state()
    assert torch.equal(k_center_greedy(x, 20, seed=3), k_center_greedy(x, 20, seed=3))
    assert not torch.equal(k_center_greedy(x, 20, seed=3), k_center_greedy(x, 20, seed=4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"n": 0}, "n = 0"), ({"n": 11}, "n = 11"), ({"start": 10}, "start = 10"), ({"start": -1}, "start = -1")],
)
def test_bad_arguments_are_named(change, word):
    with pytest.raises(ValueError, match=word):
        k_center_greedy(draw(10, 2), **({"n": 3} | change))


def test_a_random_subset_is_drawn_from_the_seed_alone():
    x, state = draw(500, 4), torch.get_rng_state()
    drawn = random_subset(x, 100, seed=3)
    assert drawn.unique().numel() == 100 and drawn.max() > 400 and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(random_subset(x, 20, seed=3), drawn[:20])  # nested, as greedy centres are
    assert not torch.equal(random_subset(x, 20, seed=4), drawn[:20])
    for n in (0, 501):
        with pytest.raises(ValueError, match=f"n = {n} rows"):
            random_subset(x, n)


def test_not_a_number_is_refused():
    x = draw(10, 2)
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        k_center_greedy(x, 3)


def test_projection_keeps_squared_distances_on_average():
    x = draw(200, 300)
    y = random_projection(x, 64, seed=1)
    ratio = ((y[:100] - y[100:]).square().sum(1) / (x[:100] - x[100:]).square().sum(1)).mean()
    assert ratio == pytest.approx(1, abs=0.06)
    assert torch.equal(y, random_projection(x, 64, seed=1))
    with pytest.raises(ValueError, match="dimension"):
        random_projection(x, 0)


def test_jl_dimension_known_values():
    """For the 163,856 patches of MVTec AD's bottle: about 296 at 0.9 and 10,291 at 0.1, rounded down elsewhere."""
    assert jl_dimension(163_856, 0.9) in (296, 297)
    assert jl_dimension(163_856, 0.1) in (10_291, 10_292)
    with pytest.raises(ValueError, match="epsilon"):
        jl_dimension(100, 1.0)


# ---------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("k", [1, 3, 40])
def test_neighbours_are_those_of_all_pairs(k, monkeypatch):
    monkeypatch.setattr("adlib.neighbors.BLOCK", 2000)  # several blocks, the last one short
    queries, bank = draw(70, 9), draw(333, 9, seed=1) + 5
    expected = torch.cdist(queries.double(), bank.double()).topk(k, dim=1, largest=False)
    distances, indices = k_nearest(queries, bank, k)
    assert torch.equal(indices, expected.indices)
    assert torch.allclose(distances.double(), expected.values, atol=1e-5)
    prepared = Bank(bank)
    for _ in range(2):  # the same again, from a bank that was prepared once
        again = k_nearest(queries, prepared, k)
        assert torch.equal(again[0], distances) and torch.equal(again[1], indices)


def test_a_query_of_the_bank_has_distance_zero():
    bank = draw(1000, 50) * 1e-3 + 1000  # far from the origin: norms would swallow the distances
    distances, indices = k_nearest(bank[:300], bank, 1)
    assert torch.equal(distances, torch.zeros(300, 1)) and torch.equal(indices[:, 0], torch.arange(300))


def test_a_search_in_groups_finds_what_the_full_search_finds() -> None:
    rooms = draw(30, 12, seed=3) * 4
    near = rooms[torch.arange(3000) % 30] + draw(3000, 12, seed=4) / 3
    cases = {
        "clusters": near, "no structure": draw(3000, 12, seed=5), "one point": near[:1].repeat(2500, 1),
        "twins": torch.cat([near[:1500], near[:1500]]), "one far row": torch.cat([near, near[:1] * 1000]),
        "far from the origin": near * 1e-2 + 1000,
    }
    for name, bank in cases.items():
        queries = torch.cat([bank[::60], bank[::60] + draw(len(bank[::60]), 12, seed=6) / 2, draw(80, 12, seed=7) * 50])
        (distance, index), (full, at) = k_nearest(queries, Bank(bank)), k_nearest(queries, bank)
        assert torch.allclose(distance, full, rtol=1e-5, atol=1e-5), name
        assert name in ("one point", "twins") or torch.equal(index, at), name
        assert bool((distance[: len(bank[::60])] == 0).all()), name
    queries[5] = torch.nan  # which does not reach the others
    distance, _ = k_nearest(queries, Bank(bank))
    sound = torch.arange(len(queries)) != 5
    assert distance[5].isnan() and torch.allclose(distance[sound], full[sound], rtol=1e-5, atol=1e-5)


def test_most_groups_are_passed_over() -> None:
    rooms = draw(50, 12, seed=3) * 4
    bank = rooms[torch.arange(4000) % 50] + draw(4000, 12, seed=4) / 10
    searched, prepared = [], Bank(bank)
    visit = prepared.groups._visit
    prepared.groups._visit = lambda q, wanted, *rest: (searched.append(wanted.mean()), visit(q, wanted, *rest))
    k_nearest(bank[:200] + 0.01, prepared)
    assert 0 < sum(searched) < 0.1  # of all groups, for each query


def test_neighbours_refuse_what_makes_no_sense():
    for queries, bank, k, word in [
        (draw(2, 3), draw(5, 4), 1, "width"),
        (draw(2, 3), draw(5, 3), 6, "k = 6"),
        (draw(2, 3), draw(0, 3), 1, "k = 1"),
    ]:
        with pytest.raises(ValueError, match=word):
            k_nearest(queries, bank, k)
    assert k_nearest(draw(0, 3), draw(5, 3), 2)[0].shape == (0, 2)


def _plain(points: torch.Tensor, n: int, start: int = 0) -> list[int]:
    """The plain loop in float64, on exact differences."""
    wide, centres = points.double(), [start]
    nearest = (wide - wide[start]).square().sum(1)
    while len(centres) < n:
        nearest[centres] = -1
        centres.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (wide - wide[centres[-1]]).square().sum(1))
    return centres


def test_large_whole_numbers_ties_and_far_points() -> None:
    generator = torch.Generator().manual_seed(0)
    far = torch.randn(3000, 16, generator=generator)
    far[7] *= 1000
    cases = {
        "large integers": torch.randint(0, 50, (2000, 5), generator=generator) + 10**9 + 1,
        "all equally far": torch.eye(120),
        "one far point": far,
        "bool": torch.rand(300, 12, generator=generator) < 0.5,
    }
    for name, points in cases.items():
        n = min(100, len(points) // 2)
        assert k_center_greedy(points, n, start=0).tolist() == _plain(points, n), name


def test_sixteen_bit_products_around_it_change_nothing() -> None:
    points = torch.randn(3000, 32, generator=torch.Generator().manual_seed(1))
    plain = k_center_greedy(points, 100, start=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(k_center_greedy(points, 100, start=0), plain)
    with pytest.raises(ValueError, match="squares overflow float32; rescale"):
        k_center_greedy(points.double() * 1e25, 10)


def test_neighbours_of_half_precision_and_of_integers() -> None:
    bank = torch.randn(500, 64, generator=torch.Generator().manual_seed(2)) * 100
    distances, indices = k_nearest(bank[:50].half(), bank.half(), 1)
    assert indices[:, 0].tolist() == list(range(50)) and bool((distances == 0).all())
    with pytest.raises(ValueError, match="expected floating point"):
        k_nearest(bank[:5], bank.long(), 1)
