"""k-means++ against its definition and against copies of points."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import kmeans_plusplus as peer

from dkmeans import _seeding_tiles
from dkmeans._kernels import points as kernels
from dkmeans._seeding import choose, kmeans_plusplus


def blobs(n=400, d=3, k=8):
    """Integer points around k places, so that sums of distances are exact."""
    rng = np.random.default_rng(0)
    points = rng.integers(0, 200, (k, d))[rng.integers(0, k, n)] + rng.integers(0, 9, (n, d))
    points = np.unique(points, axis=0).astype(np.float64)
    weights = rng.integers(1, 5, len(points)).astype(np.float64)
    points.flags.writeable = weights.flags.writeable = False
    return points, weights


def potential(points, weights, centers):
    return weights @ ((points[:, None] - centers) ** 2).sum(axis=-1).min(axis=1)


@pytest.mark.parametrize("k", [1, 2, 8, 50])
def test_centres_are_distinct_points(k):
    points, weights = blobs()
    centers = kmeans_plusplus(points, weights, k, np.random.default_rng(1))
    assert centers.shape == (k, 3)
    assert len(np.unique(centers, axis=0)) == k
    assert {*map(tuple, centers)} <= {*map(tuple, points)}


def test_all_points_are_chosen_when_as_many_are_wanted():
    points, weights = blobs(30)
    centers = kmeans_plusplus(points, weights, len(points), np.random.default_rng(2))
    assert {*map(tuple, centers)} == {*map(tuple, points)}


def test_weights_are_copies():
    points, weights = blobs()
    copies = np.repeat(points, weights.astype(int), axis=0)
    for seed in range(5):
        of_weights = kmeans_plusplus(points, weights, 10, np.random.default_rng(seed))
        of_copies = kmeans_plusplus(copies, np.ones(len(copies)), 10, np.random.default_rng(seed))
        np.testing.assert_array_equal(of_weights, of_copies)


def test_the_same_seed_chooses_the_same():
    points, weights = blobs()
    a, b, c = (kmeans_plusplus(points, weights, 8, np.random.default_rng(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_the_choice_is_as_good_as_scikit_learns():
    points, weights = blobs()

    def mean_potential(choose):
        return np.mean([potential(points, weights, choose(seed)) for seed in range(40)])

    ours = mean_potential(
        lambda seed: kmeans_plusplus(points, weights, 12, np.random.default_rng(seed))
    )
    theirs = mean_potential(
        lambda seed: peer(points, 12, sample_weight=weights, random_state=seed)[0]
    )
    assert ours < 1.1 * theirs


def drawn(weights, uniforms):
    """Draw points whose chances are the weights: all are at distance 1."""
    tiles = np.zeros((-(-len(weights) // kernels.LANES), kernels.LANES))
    tiles.reshape(-1)[: len(weights)] = weights
    found = np.empty(len(uniforms), np.int64)
    shares = np.array([sum(tile) for tile in tiles])
    kernels.draw(np.array(uniforms), shares, tiles, np.ones(tiles.shape), found)
    return found


@given(
    st.lists(st.sampled_from([0.0, 1e-300, 1.0, 3.0, 1e15]), min_size=1, max_size=200).filter(any),
    st.lists(st.floats(0, 1), min_size=1, max_size=3),
)
def test_no_point_without_a_share_is_drawn(weights, uniforms):
    assert all(weights[i] > 0 for i in drawn(weights, uniforms))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=200).filter(any), st.data())
def test_a_point_is_drawn_where_its_share_lies(weights, data):
    cumulative = np.cumsum(weights)
    place = data.draw(st.integers(0, cumulative[-1] - 1)) + 0.5
    (found,) = drawn(weights, [place / cumulative[-1]])
    assert found == np.searchsorted(cumulative, place, side="right")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64"])
@pytest.mark.parametrize("d", [1, 3, 6])
def test_draws_follow_weighted_squared_distances(dtype, d):
    """The second centre, drawn once: with chances as `kmeans_plusplus` says."""
    rng = np.random.default_rng(5)
    points = rng.integers(0, 20, (150, d)).astype(dtype)
    weights = np.r_[1e9, rng.integers(1, 5, 149)]  # the first is the first
    weights[40:60] = 1e-9  # nearly never
    drawn = [choose(points, weights, 2, np.random.default_rng(seed), 1) for seed in range(8000)]
    first, second = np.array(drawn).T
    assert (first == 0).all()
    distances = ((points.astype(np.float64) - points[0].astype(np.float64)) ** 2).sum(axis=1)
    chances = weights * distances / (weights @ distances)
    counts = np.bincount(second, minlength=150)
    assert (counts[chances < 1e-9] == 0).all()
    likely = chances > 1e-9
    deviation = (counts[likely] - 8000 * chances[likely]) / np.sqrt(8000 * chances[likely])
    assert (deviation**2).mean() < 1.5  # chi-squared over its degrees of freedom


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1.0, 1e20, 1e36])
def test_any_scale_of_float32_chooses_the_same(scale):
    points, weights = blobs()
    factor = np.float32(2.0 ** np.round(np.log2(scale)))  # exact
    expected = choose(points.astype(np.float32), weights, 8, np.random.default_rng(0))
    scaled = points.astype(np.float32) * factor
    np.testing.assert_array_equal(choose(scaled, weights, 8, np.random.default_rng(0)), expected)


@pytest.mark.parametrize("spread", [0.01, 1.0])  # tiles that are told by their boxes, and others
def test_distances_that_are_kept_are_those_found_again(monkeypatch, spread):
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(9, 40))
    points = middles[rng.integers(9, size=900)] + spread * rng.normal(size=(900, 40))
    weights, lowered = rng.uniform(1, 3, 900), []
    monkeypatch.setattr(kernels, "lower", partial(spied, kernels.lower, lowered))
    kept = choose(points, weights, 20, np.random.default_rng(1))
    assert len(lowered) == 19, "no centre but the first is looked for twice"
    monkeypatch.setattr(_seeding_tiles, "WIDE", 1000)
    np.testing.assert_array_equal(choose(points, weights, 20, np.random.default_rng(1)), kept)
    assert len(lowered) == 19


def spied(function, calls, *arguments):
    calls.append(arguments)
    return function(*arguments)


def test_starts_at_the_same_time_share_their_points(monkeypatch):
    points = np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32)
    weights, made, both = np.ones(500), [], threading.Barrier(2, timeout=30)
    tile, draw = _seeding_tiles._made, kernels.draw

    def counted(points, *, are_sorted):
        tiles = tile(points, are_sorted=are_sorted)
        made.append(weakref.ref(tiles))
        return tiles

    def together(*args):
        if args[0].size == 1:  # the first draw
            both.wait()
        draw(*args)

    alone = [choose(points.copy(), weights, 7, np.random.default_rng(i)) for i in range(2)]
    monkeypatch.setattr(_seeding_tiles, "_made", counted)
    monkeypatch.setattr(kernels, "draw", together)
    with ThreadPoolExecutor(2) as pool:
        rngs = [np.random.default_rng(i) for i in range(2)]
        found = list(pool.map(choose, [points] * 2, [weights] * 2, [7] * 2, rngs))
    np.testing.assert_array_equal(found, alone)
    monkeypatch.setattr(kernels, "draw", draw)
    choose(points, weights, 7, np.random.default_rng(0))  # later, as long as there are the points
    assert len(made) == 1
    del points
    assert made[0]() is None


@pytest.mark.parametrize("d", [1, 2, 8, 70])
@pytest.mark.parametrize("are_near", [False, True])
def test_tiles_hold_all_points(d, are_near):
    """Sorted where many products are to come, unless neighbours follow each other as they are."""
    points = np.random.default_rng(0).normal(0, 1000, (3000, d)).astype(np.float32)
    if are_near:
        points = np.sort(points, axis=0)
    for n_clusters in (1, 600):
        tiles = _seeding_tiles.of(points, n_clusters)
        is_sorted = n_clusters * d >= 512 and not are_near
        assert np.array_equal(tiles.order, np.arange(3000)) != is_sorted
        np.testing.assert_array_equal(np.sort(tiles.order), np.arange(3000))
        factor = tiles.at(np.zeros(1, np.int64))[0, 0] / points[tiles.order[0], 0]
        np.testing.assert_array_equal(tiles.at(np.arange(3000)), points[tiles.order] * factor)
        if is_sorted and d < 8:
            assert tiles.are_near


@pytest.mark.parametrize("d", [3, 8])
def test_draws_hit_the_points_that_are_meant_though_they_are_sorted(d):
    """Of far more clusters than are drawn elsewhere here: each blob gets one centre."""
    middles = np.random.default_rng(1).permutation(200)[:, None] * np.full(d, 1000.0)
    points = middles[np.random.default_rng(2).integers(200, size=20_000)]
    points = (points + np.random.default_rng(3).normal(size=points.shape)).astype(np.float32)
    weights = np.ones(len(points))
    weights[points[:, 0] > 150_500] = 0.5
    centers = kmeans_plusplus(points, weights, 200, np.random.default_rng(0))
    assert sorted(np.rint(centers[:, 0] / 1000)) == list(range(200))
