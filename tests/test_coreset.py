"""Greedy k-center, its radius, and nearest neighbours, against plain loops."""

import pytest
import torch

from adlib.coreset import covering_radius, jl_dimension, k_center_greedy, random_projection
from adlib.neighbors import k_nearest


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


def test_a_query_of_the_bank_has_distance_zero():
    bank = draw(1000, 50) * 1e-3 + 1000  # far from the origin: norms would swallow the distances
    distances, indices = k_nearest(bank[:300], bank, 1)
    assert torch.equal(distances, torch.zeros(300, 1)) and torch.equal(indices[:, 0], torch.arange(300))


def test_neighbours_refuse_what_makes_no_sense():
    for queries, bank, k, word in [
        (draw(2, 3), draw(5, 4), 1, "width"),
        (draw(2, 3), draw(5, 3), 6, "k = 6"),
        (draw(2, 3), draw(0, 3), 1, "k = 1"),
    ]:
        with pytest.raises(ValueError, match=word):
            k_nearest(queries, bank, k)
    assert k_nearest(draw(0, 3), draw(5, 3), 2)[0].shape == (0, 2)
