"""Lloyd's algorithm on counted colours against scikit-learn on every pixel."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from sklearn.cluster import KMeans

from dkmeans import _lloyd, _lloyd_starts, _summary_octree
from dkmeans._lloyd import Solution
from dkmeans._lloyd_starts import solve
from dkmeans._summary import ColourCounts, ColourSummary
from dkmeans._summary_rows import RowSummary


def summary_of(image):
    counts = ColourCounts(image.shape[-1])
    counts.add(image)
    return ColourSummary(counts)


def summary_with(colors, counts):
    """The summary of a picture in which sorted (n, bands) `colors` occur so many times."""
    once = ColourCounts(colors.shape[1])
    once.add(colors[None])
    prefixes, cubes = once.cubes()
    order = np.lexsort(ColourSummary(once).colours().T[::-1])
    in_order_of_codes = np.empty(len(colors), np.int64)
    in_order_of_codes[order] = counts
    cubes = cubes.astype(np.int64)
    cubes[cubes > 0] = in_order_of_codes
    heavy = SimpleNamespace(
        bands=once.bands,
        n_pixels=sum(map(int, counts)),
        cubes=lambda: (prefixes, cubes),
    )
    return ColourSummary(heavy)


def pixels_of(image):
    return image.reshape(-1, image.shape[-1]).astype(np.float64)


@pytest.fixture(scope="module", params=["china", "flower"])
def rgb(request, photos):
    image = photos[request.param][::3, ::3]
    return pixels_of(image), summary_of(image)


@pytest.fixture(scope="module", params=["china", "flower"])
def grey(request, photos):
    image = photos[request.param][::3, ::3, 1:2]
    return pixels_of(image), summary_of(image)


def spread_centers(pixels, k, seed=0):
    """Real numbers near some pixels: no colour is exactly as near to one as to another."""
    rng = np.random.default_rng([k, seed])
    places = np.unique(pixels, axis=0)
    centers = rng.choice(places, k, replace=False) + rng.uniform(-0.4, 0.4, (k, pixels.shape[1]))
    centers.flags.writeable = False
    return centers


def peer(pixels, init, max_iter, tol=0.0, weights=None):
    """scikit-learn's plain Lloyd from given centres."""
    model = KMeans(len(init), init=init, n_init=1, max_iter=max_iter, tol=tol, algorithm="lloyd")
    return model.fit(pixels, sample_weight=weights)


def assert_equal_to(solution, model, pixels):
    np.testing.assert_allclose(solution.centers, model.cluster_centers_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(solution.inertia, model.inertia_, rtol=1e-9)
    assert solution.n_iter == model.n_iter_
    assert solution.weights.sum() == len(pixels)


@pytest.mark.parametrize("n_iter", [1, 5, 20])
@pytest.mark.parametrize("k", [2, 16, 64, 256])
def test_rgb_steps_are_those_of_scikit_learn(rgb, k, n_iter):
    pixels, summary = rgb
    init = spread_centers(pixels, k)
    solution = solve(summary, k, init=init, max_iter=n_iter, tol=0)
    assert_equal_to(solution, peer(pixels, init, n_iter), pixels)


@pytest.mark.parametrize("n_iter", [1, 5, 20])
@pytest.mark.parametrize("k", [2, 16, 64])
def test_grey_steps_are_those_of_scikit_learn(grey, k, n_iter):
    pixels, summary = grey
    init = spread_centers(pixels, k)
    solution = solve(summary, k, init=init, max_iter=n_iter, tol=0)
    assert_equal_to(solution, peer(pixels, init, n_iter), pixels)


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 0])
@pytest.mark.parametrize("k", [3, 16])
def test_tol_means_what_it_means_in_scikit_learn(rgb, k, tol):
    pixels, summary = rgb
    init = spread_centers(pixels, k)
    solution = solve(summary, k, init=init, max_iter=300, tol=tol)
    assert_equal_to(solution, peer(pixels, init, 300, tol), pixels)
    assert solution.stop_reason == ("tol" if tol else "converged")


def test_no_more_than_max_iter_steps(rgb):
    pixels, summary = rgb
    solution = solve(summary, 16, init=spread_centers(pixels, 16), max_iter=2, tol=0)
    assert (solution.n_iter, solution.stop_reason) == (2, "max_iter")


def test_weights_and_inertia_belong_to_the_final_centres(rgb):
    pixels, summary = rgb
    solution = solve(summary, 16, max_iter=3, tol=0)
    distances = ((pixels[:, None] - solution.centers) ** 2).sum(axis=-1)
    weights = np.bincount(distances.argmin(axis=1), minlength=16)
    np.testing.assert_array_equal(solution.weights, weights)
    np.testing.assert_allclose(solution.inertia, distances.min(axis=1).sum(), rtol=1e-12)


# Momentum


def test_centres_go_on_the_way_they_went():
    centers, means, last = (
        np.array([[0.0, 1.0], [4, 4]]),
        np.array([[1.0, 1], [3, 5]]),
        np.zeros((2, 2)),
    )
    found = _lloyd.accelerated(centers, means, last, np.array([3, 5]), 0.5)
    np.testing.assert_array_equal(found, [[1.5, 1.5], [4.5, 7.5]])
    still = _lloyd.accelerated(centers, means, last, np.array([3, 5]), 0.0)
    np.testing.assert_array_equal(still, means)


def test_the_centre_of_an_empty_cluster_goes_straight():
    centers, means = np.array([[0.0], [4.0]]), np.array([[1.0], [9.0]])
    found = _lloyd.accelerated(centers, means, centers, np.array([2.0, 0.0]), 0.5)
    np.testing.assert_array_equal(found, [[1.5], [9.0]])


@pytest.mark.parametrize(("weight", "expected"), [(1, [8.5, 7.25]), (3, [8.0, 7.0])])
def test_momentum_is_dropped_where_it_leads_uphill(weight, expected):
    # Both means have risen, by 1 and 0.5. The first one's points draw it on by 1, the second one's
    # draw it back by 1: which of them counts is a matter of what they weigh.
    centers, means, last = (np.array(x)[:, None] for x in ([7.0, 8.0], [8.0, 7.0], [7.0, 6.5]))
    found = _lloyd.accelerated(centers, means, last, np.array([1.0, weight]), 0.5)
    np.testing.assert_array_equal(found[:, 0], expected)


@pytest.mark.parametrize("k", [40, 120])
def test_with_momentum_fits_take_fewer_steps_and_end_where_no_step_leads_on(rgb, k, monkeypatch):
    _, summary = rgb
    fits = [solve(summary, k, seed=seed, tol=0, max_iter=10_000) for seed in range(6)]
    for fit in fits:
        assert fit.stop_reason == "converged"
        again = solve(summary, k, init=fit.centers, max_iter=1, tol=0)
        np.testing.assert_array_equal(again.centers, fit.centers)
        assert again.inertia == fit.inertia
    monkeypatch.setattr(_lloyd_starts, "_MOMENTUM", 0.0)
    plain = [solve(summary, k, seed=seed, tol=0, max_iter=10_000) for seed in range(6)]
    assert sum(fit.n_iter for fit in fits) < 0.8 * sum(fit.n_iter for fit in plain)
    assert sum(fit.inertia for fit in fits) < 1.005 * sum(fit.inertia for fit in plain)


# Inertia


def exact_inertia(colors, weights, centers):
    """Brute force in fractions: no rounding anywhere, the nearest centre included."""
    centers = [[Fraction(value) for value in center] for center in centers.tolist()]
    total = Fraction(0)
    for color, weight in zip(colors.tolist(), weights.tolist(), strict=True):
        total += weight * min(
            sum((value - c) ** 2 for value, c in zip(color, center, strict=True))
            for center in centers
        )
    return float(total)


@pytest.mark.parametrize("largest", [1, 1000, 2**40])
@pytest.mark.parametrize("bands", [1, 3])
def test_inertia_is_exact_whatever_the_weights(bands, largest):
    rng = np.random.default_rng(0)
    colors = np.unique(rng.integers(0, 256, (400, bands), np.uint8), axis=0)
    counts = rng.integers(largest, 2 * largest, len(colors))
    summary = summary_with(colors, counts)
    centers = rng.uniform(0, 255, (5, bands))
    totals = summary.assign(centers, 8)
    expected = exact_inertia(colors, counts, centers)
    assert summary.inertia(centers, totals) == expected


def test_inertia_does_not_cancel():
    # A trillion equal pixels at a hair's breadth from their centre, and one pixel far away.
    summary = summary_with(np.array([[0, 0, 0], [255, 255, 255]], np.uint8), [2**40, 1])
    centers = np.array([[255.0, 255, 255], [1e-6, 0, 0]])
    assert summary.inertia(centers, summary.assign(centers, 8)) == 2**40 * 1e-6**2


def test_huge_weights_change_no_step(rgb):
    pixels, summary = rgb
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    heavy = summary_with(colors.astype(np.uint8), counts << 28)
    init = spread_centers(pixels, 16)
    light, solution = (solve(s, 16, init=init, max_iter=5, tol=0) for s in (summary, heavy))
    np.testing.assert_array_equal(solution.centers, light.centers)
    assert solution.inertia == light.inertia * 2**28


# Empty clusters


def test_empty_clusters_take_the_farthest_points_as_in_scikit_learn(rgb):
    # scikit-learn moves one row: compared on counted colours, where a row is a colour. And for
    # one step: it puts centres on colours, and how scikit-learn rounds then decides exact ties.
    pixels, summary = rgb
    init = spread_centers(pixels, 8).copy()
    init[[3, 6]] = init[1]  # never nearest: the lower index has the ties
    model = peer(summary.colours().astype(np.float64), init, 1, weights=summary.counts)
    solution = solve(summary, 8, init=init, max_iter=1, tol=0)
    np.testing.assert_allclose(solution.centers, model.cluster_centers_, rtol=1e-9)
    np.testing.assert_allclose(solution.inertia, model.inertia_, rtol=1e-9)
    assert (solution.weights > 0).all()


def test_a_cluster_that_cannot_be_filled_keeps_its_centre():
    image = np.array([[[0, 0, 0], [9, 9, 9]]], np.uint8)
    init = np.array([[0.0, 0, 0], [9, 9, 9], [200, 200, 200]])
    solution = solve(summary_of(image), 3, init=init)
    np.testing.assert_array_equal(solution.centers, init)
    assert solution.weights.tolist() == [1, 1, 0]
    assert (solution.inertia, solution.stop_reason) == (0, "converged")


@pytest.mark.parametrize("k", [1, 2, 40])
def test_as_many_clusters_as_colours_leave_no_error(k):
    colors = np.unique(np.random.default_rng(0).integers(0, 256, (50, 3), np.uint8), axis=0)[:k]
    image = np.repeat(colors, 3, axis=0)[None]
    solution = solve(summary_of(image), k)
    assert solution.inertia == 0
    assert solution.weights.tolist() == [3] * k
    np.testing.assert_array_equal(np.unique(solution.centers, axis=0), colors)


# Restarts


def assert_same_bits(a, b):
    np.testing.assert_array_equal(a.centers, b.centers)
    np.testing.assert_array_equal(a.weights, b.weights)
    assert (a.inertia, a.n_iter, a.stop_reason) == (b.inertia, b.n_iter, b.stop_reason)


@pytest.mark.parametrize("n_init", [1, 4])
def test_the_same_seed_gives_the_same_bits_on_any_scheduler(rgb, n_init, monkeypatch):
    _, summary = rgb
    solutions = []
    for name, small in [("synchronous", 10**9), ("threads", 10**9), ("threads", 0)]:
        monkeypatch.setattr(_summary_octree, "_SMALL", small)  # 0: each step in parts as well
        with dask.config.set(scheduler=name, num_workers=2):
            solutions.append(solve(summary, 20, n_init=n_init, max_iter=10, seed=7))
    assert_same_bits(solutions[1], solutions[0])
    assert_same_bits(solutions[2], solutions[0])
    assert not np.array_equal(solve(summary, 20, max_iter=10, seed=8).centers, solutions[0].centers)


def test_more_restarts_are_never_worse_on_the_points_they_run_on(rgb, monkeypatch):
    _, summary = rgb
    monkeypatch.setattr(_lloyd_starts, "_POINTS_PER_CLUSTER", 10**9)  # restart on the exact points
    results = [solve(summary, 12, n_init=n, seed=1).inertia for n in (1, 2, 4)]
    assert results == sorted(results, reverse=True)


@pytest.mark.parametrize(
    ("n_init", "halving", "n_best"),
    [(1, True, 1), (2, True, 2), (3, True, 2), (8, True, 2), (24, True, 3), (8, False, 8)],
)
def test_starts_that_fall_behind_end_early(rgb, n_init, halving, n_best, monkeypatch):
    _, summary = rgb
    runs, iterate = [], _lloyd.iterate

    def noted(summary, centers, depth, *, max_iter, **options):
        found = iterate(summary, centers, depth, max_iter=max_iter, **options)
        runs.append((depth, max_iter, centers, found))
        return found

    monkeypatch.setattr(_lloyd, "iterate", noted)
    monkeypatch.setattr(_lloyd_starts, "_SPREAD_WITHIN", np.inf)  # the first points will do
    with dask.config.set(scheduler="synchronous"):
        solution = solve(summary, 12, n_init=n_init, max_iter=50, seed=3, halving=halving)
    first = [run for run in runs if run[0] == runs[0][0]]
    short, long = first[:n_init], first[n_init:]
    if n_best < n_init:
        assert {run[1] for run in short} == {5}
        assert len(long) == n_best
        order = sorted((run[3].inertia, i) for i, run in enumerate(short))
        for run, (_, i) in zip(long, order[:n_best], strict=True):
            np.testing.assert_array_equal(run[2], short[i][3].centers)
            assert run[1] == 45
    else:
        assert {run[1] for run in short} == {50}
        assert not long
    best = min(long or short, key=lambda run: run[3].inertia)
    np.testing.assert_array_equal(runs[len(first)][2], best[3].centers)  # goes on from there
    assert solution.centers is runs[-1][3].centers


@pytest.mark.parametrize(("spread", "n_starts"), [(0, 4), (0.0099, 4), (0.0101, 8)])
def test_more_starts_are_tried_where_the_first_ones_differ(rgb, spread, n_starts, monkeypatch):
    _, summary = rgb
    begun = []

    def begin(_, numbers, *__):
        begun.extend(numbers)
        # Two pairs `a` apart have a standard deviation of a / sqrt(3).
        apart = spread * np.sqrt(3)
        return [replace(known, inertia=1000 * (1 + apart * (i % 2))) for i in numbers]

    known = solve(summary, 12, max_iter=1)
    monkeypatch.setattr(_lloyd_starts._Runs, "begin", begin)
    monkeypatch.setattr(_lloyd_starts, "_SPREAD_WITHIN", np.inf)  # the first points will do
    solve(summary, 12, n_init=None, max_iter=1)
    assert begun == list(range(n_starts))
    begun.clear()
    solve(summary, 12, n_init=3, max_iter=1)
    assert begun == [0, 1, 2]


@pytest.mark.parametrize("k", [4, 32])
def test_the_way_down_the_octree_is_as_good_as_scikit_learn(rgb, k):
    pixels, summary = rgb
    ours = np.mean([solve(summary, k, seed=seed).inertia for seed in range(4)])
    theirs = np.mean(
        [KMeans(k, n_init=1, random_state=seed).fit(pixels).inertia_ for seed in range(4)]
    )
    assert ours < 1.05 * theirs


@pytest.mark.parametrize("k", [3, 40])
def test_centres_may_lie_outside_of_all_colours(rgb, k):
    # Momentum carries them there.
    pixels, summary = rgb
    centers = spread_centers(pixels, k) * 3 - 250
    totals = summary.begin(k, summary.depths[-1]).assign(centers)
    distances = ((pixels[:, None] - centers) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(
        totals.weights, np.bincount(distances.argmin(axis=1), minlength=k)
    )


def clusters_apart(k, d, n=4000, seed=0):
    """Rows around `k` means, far apart, and the means."""
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 20, (k, d))
    return means[rng.integers(0, k, n)] + rng.normal(size=(n, d)), means


def in_one_corner(points, weights, n_clusters, rng):
    """A seeding that leaves most clusters to a few centres: it knows the nearest points alone."""
    del weights, rng
    order = np.argsort(((points - points[0]) ** 2).sum(axis=1))
    return points[order[:n_clusters]].astype(np.float64)


@pytest.mark.parametrize(("k", "d", "in_part"), [(4, 1, False), (9, 2, True), (30, 8, True)])
@pytest.mark.parametrize("weighted", [False, True])
def test_swaps_find_the_clusters_that_a_start_missed(k, d, in_part, weighted):
    rows, means = clusters_apart(k, d, seed=k)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(rows)) if weighted else None
    summary = RowSummary(rows, weights, in_part=in_part)
    known = KMeans(k, init=means, n_init=1).fit(rows, sample_weight=weights).inertia_
    given = {"seeding": in_one_corner, "n_init": None, "seed": 1}
    plain, swapped = (solve(summary, k, swaps=swaps, **given) for swaps in (False, True))
    assert plain.inertia > 1.5 * known
    assert swapped.inertia <= 1.001 * known


def test_swaps_are_for_default_starts_and_leave_what_is_right():
    rows, means = clusters_apart(6, 3)
    summary = RowSummary(rows, None)
    for given in ({"n_init": 1}, {"n_init": 3}, {"init": means}):
        options = {"seeding": in_one_corner, **given}
        plain, swapped = (solve(summary, 6, swaps=swaps, **options) for swaps in (False, True))
        np.testing.assert_array_equal(swapped.centers, plain.centers)
    right = {"seeding": lambda *_: means, "n_init": None}
    plain, swapped = (solve(summary, 6, swaps=swaps, **right) for swaps in (False, True))
    np.testing.assert_array_equal(swapped.centers, plain.centers)


def test_swaps_do_not_depend_on_who_watches():
    rows, _ = clusters_apart(9, 2)
    seen = []
    given = {"seeding": in_one_corner, "n_init": None, "swaps": True}
    summary = RowSummary(rows, None)
    alone = solve(summary, 9, **given)
    watched = solve(summary, 9, watch=lambda *now: seen.append(now) is not None, **given)
    np.testing.assert_array_equal(watched.centers, alone.centers)
    assert seen[-1][0] == watched.n_iter


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_swaps_take_numbers_at_the_ends_of_the_range(scale):
    rows, means = clusters_apart(5, 2)
    found = solve(RowSummary(rows * scale, None), 5, n_init=None, swaps=True)
    known = KMeans(5, init=means, n_init=1).fit(rows).inertia_
    assert found.inertia / scale / scale == pytest.approx(known, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize(
    ("inertias", "expected"), [([1, 1.001, 1], True), ([1, 1.5, 1], False), ([0, 0, 0], True)]
)
def test_starts_are_compared_at_any_scale(inertias, expected, scale):
    """Of inertias whose squares floats do not hold, too."""
    ends = [
        Solution(np.zeros((1, 1)), np.ones(1), inertia * scale, 1, "converged")
        for inertia in inertias
    ]
    assert _lloyd_starts._are_alike(ends) == expected
