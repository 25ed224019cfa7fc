"""Colour summaries against np.unique and brute force over pixels."""

import copy
import pickle
from functools import reduce
from itertools import pairwise
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from conftest import traced
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import _summary_equal, _summary_octree
from dkmeans._summary import ColourCounts, ColourSummary, planes, words
from dkmeans._summary_samples import Sample, spread
from dkmeans._tiling import grid


def counted(blocks, bands):
    counts = ColourCounts(bands)
    for block in blocks:
        counts.add(block)
    return counts


def listed(counts):
    """The Z-codes of the colours that occur, and their counts."""
    prefixes, cubes = counts.cubes()
    assert (np.diff(prefixes.astype(np.int64)) > 0).all()
    assert (cubes.max(axis=1, initial=0) > 0).all()
    rows, rest = np.nonzero(cubes)
    return prefixes[rows] * 64 + rest, cubes[rows, rest]


def assert_same_counts(a, b):
    assert a.bands == b.bands
    for mine, other in zip(listed(a), listed(b), strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)
    assert a.n_pixels == b.n_pixels == listed(a)[1].sum()


def grey_of(photo):
    return photo[..., 1:2]


@pytest.fixture(scope="module", params=[1, 3])
def image(request, photos):
    """Part of a photograph, grey or RGB."""
    photo = photos["china"][::3, ::3]
    return grey_of(photo) if request.param == 1 else photo


@pytest.fixture(scope="module")
def summary(image):
    """Its summary."""
    return ColourSummary(counted([image], image.shape[-1]))


# Counting


def test_the_summary_has_every_colour_and_its_count(image, summary):
    expected, times = np.unique(image.reshape(-1, image.shape[-1]), axis=0, return_counts=True)
    order = np.lexsort(summary.colours().T[::-1])
    np.testing.assert_array_equal(summary.colours()[order], expected)
    np.testing.assert_array_equal(summary.counts[order], times)
    assert (np.diff(summary.codes.astype(np.int64)) > 0).all()
    assert summary.n_points == summary.n_points_at(8) == len(expected)
    assert summary.weight == image[..., 0].size


@pytest.mark.parametrize("block", [(1, 500), (500, 1), (50, 70), (143, 214)])
def test_any_split_counts_the_same(image, block):
    bands = image.shape[-1]
    height, width, _ = image.shape
    blocks = [image[window.rows, window.columns] for window in grid(height, width, block)]
    whole = counted([image], bands)
    assert_same_counts(counted(blocks, bands), whole)
    groups = (blocks[2:], blocks[:1], blocks[1:2])
    parts = [counted(group, bands) for group in groups]
    assert_same_counts(reduce(ColourCounts.merge, parts), whole)


def test_rgb_counts_take_grey_blocks(photos):
    grey = grey_of(photos["flower"])
    as_rgb = np.repeat(grey, 3, axis=-1)
    assert_same_counts(counted([grey], 3), counted([as_rgb], 3))
    assert all(np.shares_memory(plane, grey) for plane in planes(grey))


def test_words_are_a_view_of_pixels_side_by_side():
    image = np.random.default_rng(0).integers(0, 256, (6, 12, 3), np.uint8)
    for block in (image, image[1:, 4:], image[::2, :8], image[5:]):
        view = words(block)
        assert np.shares_memory(view, image)
        assert view.shape == (block.shape[0], block.shape[1] * 3 // 4)
        assert view.tobytes() == block.tobytes()


def test_other_blocks_have_no_words():
    image = np.random.default_rng(0).integers(0, 256, (6, 12, 3), np.uint8)
    planar = np.moveaxis(np.ascontiguousarray(np.moveaxis(image, -1, 0)), 0, -1)
    others = (
        *(image[..., :1], planar, image[:, ::2], image[..., ::-1], image.swapaxes(0, 1)),
        *(image[:, :6], image[:, 1:5], image[:, :, :][:, 11:]),
        *(np.zeros((3, 5, 3), np.uint8)[:, :4], np.broadcast_to(image[:1, :1], image.shape)),
    )
    for block in others:
        assert words(block) is None


@pytest.mark.parametrize("n_pixels", [2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16 + 5])
def test_many_equal_pixels_in_one_block(n_pixels):
    block = np.broadcast_to(np.uint8(7), (1, n_pixels, 1))
    for bands in (1, 3):
        assert listed(counted([block, block], bands))[1].tolist() == [2 * n_pixels]


def test_counts_beyond_32_bits():
    counts = counted([np.array([[[7], [7], [9]]], np.uint8)], 1)
    for _ in range(45):
        counts = counts.merge(copy_of(counts))
    counts.add(np.array([[[7]]], np.uint8))
    assert listed(counts)[1].tolist() == [2**46 + 1, 2**45]
    assert counts.n_pixels == 2**46 + 2**45 + 1
    assert_same_counts(copy_of(counts), counts)
    # Back to what would fit again, and on from there.
    rest = counted([np.array([[[7], [8]]], np.uint8)], 1).merge(counts.without(copy_of(counts)))
    assert listed(rest)[1].tolist() == [1, 1]


def copy_of(counts):
    return pickle.loads(pickle.dumps(counts))  # noqa: S301 - written a moment ago


def test_nothing_counted_is_empty():
    for bands in (1, 3):
        codes, counts = listed(ColourCounts(bands))
        assert codes.size == counts.size == ColourCounts(bands).n_pixels == 0


# Grey counts stand for all: merging never looks at what a code means. They are made anew for each
# use, as merging may write to its first argument.
tables = st.dictionaries(st.integers(0, 255), st.integers(1, 9) | st.just(2**16 - 1), max_size=9)


def grey_counts(table):
    pixels = np.repeat(np.array([*table], np.uint8), [*table.values()])
    return counted([pixels[None, :, None]], 1)


@given(tables, tables, tables)
def test_merge_is_associative_and_commutative(first, second, third):
    def made():
        return [grey_counts(table) for table in (first, second, third)]

    a, b, c = made()
    all_three = a.merge(b).merge(c)
    a, b, c = made()
    assert_same_counts(a.merge(b.merge(c)), all_three)
    a, b, c = made()
    assert_same_counts(c.merge(b).merge(a), all_three)
    assert all_three.n_pixels == sum(one.n_pixels for one in made())


@given(tables, tables)
def test_without_undoes_merge(first, second):
    both = grey_counts(first).merge(grey_counts(second))
    assert_same_counts(both.without(grey_counts(second)), grey_counts(first))
    nothing = grey_counts(first).without(grey_counts(first))
    assert nothing.n_pixels == listed(nothing)[0].size == 0


@pytest.mark.parametrize("n_colors", [0, 1, 100, 256])
def test_counts_travel(n_colors):
    counts = grey_counts(dict.fromkeys(range(n_colors), 70_000))
    assert_same_counts(copy_of(counts), counts)


@pytest.mark.parametrize("n_colors", [3, 3_000_000])
def test_a_copy_is_apart(n_colors):
    block = np.random.default_rng(n_colors).integers(0, n_colors, 1 << 21).astype("<u4")
    pixels = block.view(np.uint8).reshape(1, -1, 4)[..., :3]
    counts, once = counted([pixels], 3), counted([pixels], 3)
    assert_same_counts(copy.deepcopy(counts).merge(once), counted([pixels, pixels], 3))
    assert_same_counts(counts, once)


def test_few_colours_travel_light(photos):
    counts = counted([photos["china"]], 3)
    assert len(pickle.dumps(counts)) < 16 * listed(counts)[0].size


# The points of k-means


def test_total_and_squares_are_exact(image, summary):
    pixels = image.reshape(-1, image.shape[-1]).astype(np.int64)
    assert summary.total == tuple(pixels.sum(axis=0))
    assert summary.squares == tuple((pixels**2).sum(axis=0))


def test_squares_outgrow_64_bits():
    prefixes, once = counted([np.array([[[200]]], np.uint8)], 1).cubes()
    cubes = once.astype(np.int64) * 2**54
    heavy = SimpleNamespace(bands=1, n_pixels=2**54, cubes=lambda: (prefixes, cubes))
    summary = ColourSummary(heavy)
    assert summary.total == (200 * 2**54,)
    assert summary.squares == (200 * 200 * 2**54,)


@pytest.mark.parametrize("depth", ColourSummary.depths)
def test_points_of_every_depth_stand_for_all_pixels(image, summary, depth):
    points, weights = summary.points(depth)
    side = 2 ** (8 - depth)
    # The cubes that are occupied, and the mean of the pixels in each.
    pixels = image.reshape(-1, image.shape[-1])
    cubes, inverse, times = np.unique(
        pixels // side, axis=0, return_inverse=True, return_counts=True
    )
    means = np.stack(
        [np.bincount(inverse.ravel(), band) / times for band in pixels.T.astype(float)], axis=1
    )
    order = np.lexsort((points // side).T[::-1])
    np.testing.assert_array_equal((points // side)[order], cubes)
    np.testing.assert_array_equal(weights[order], times)
    np.testing.assert_array_equal(points[order], means)
    assert summary.n_points_at(depth) == len(cubes)


@pytest.mark.parametrize("depth", ColourSummary.depths)
@pytest.mark.parametrize("k", [1, 2, 40])
def test_assign_adds_each_point_to_its_nearest_center(summary, k, depth):
    centers = np.random.default_rng(k).uniform(0, 255, (k, summary.bands))
    centers.flags.writeable = False
    totals = summary.assign(centers, depth)
    points, weights = summary.points(depth)
    labels = ((points[:, None] - centers) ** 2).sum(axis=-1).argmin(axis=1)
    assert totals.weights.dtype == totals.sums.dtype == np.int64
    for c in range(k):
        own = labels == c
        assert totals.weights[c] == weights[own].sum()
        expected = np.rint(weights[own] @ points[own])
        np.testing.assert_array_equal(totals.sums[c], expected)


def test_assign_gives_the_same_bits_in_parts(summary, monkeypatch):
    centers = np.random.default_rng(0).uniform(0, 255, (20, summary.bands))
    whole = summary.assign(centers, 8)
    monkeypatch.setattr(_summary_octree, "_SMALL", 0)
    with dask.config.set(scheduler="threads", num_workers=8):
        parts = summary.assign(centers, 8)
    np.testing.assert_array_equal(parts.weights, whole.weights)
    np.testing.assert_array_equal(parts.sums, whole.sums)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 63, 64, 100])
def test_split_covers_the_tree_in_order(summary, n):
    runs = summary._tree.split(n)
    assert len(runs) <= n
    assert runs[0][0] == 0
    assert runs[-1][1] == summary.n_points_at(2)
    assert all(first < last for first, last in runs)
    assert all(before[1] == after[0] for before, after in pairwise(runs))


@pytest.mark.parametrize("depth", ColourSummary.depths)
def test_farthest_points_come_first(summary, depth):
    centers = np.random.default_rng(5).uniform(0, 255, (4, summary.bands))
    points, weights = summary.points(depth)
    distances = ((points[:, None] - centers) ** 2).sum(axis=-1)
    far = np.argsort(-distances.min(axis=1), kind="stable")[:7]
    found = list(summary.farthest(centers, 7, depth))
    assert [label for label, _ in found] == distances.argmin(axis=1)[far].tolist()
    assert [point.weights.item() for _, point in found] == weights[far].tolist()
    for (_, point), i in zip(found, far, strict=True):
        np.testing.assert_array_equal(point.sums[0], np.rint(points[i] * weights[i]))


def test_farthest_leaves_out_points_at_distance_zero():
    image = np.array([[[10, 20, 30], [40, 50, 60], [40, 50, 60]]], np.uint8)
    summary = ColourSummary(counted([image], 3))
    found = list(summary.farthest(np.array([[10.0, 20, 30]]), 2, 8))
    assert len(found) == 1
    assert found[0][1].weights.tolist() == [2]
    assert found[0][1].sums.tolist() == [[80, 100, 120]]


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 99))
def test_many_hashes_stay_many_with_more(n, most, seed):
    hashes = np.random.default_rng(seed).integers(1, 1 << 63, n, np.uint64)
    found = _summary_equal.are_many(hashes, most)
    assert not found or n > most  # true with any hashes but those made for it
    if found:
        assert _summary_equal.are_many(np.concatenate([hashes, hashes[::-1] // 2 + 1]), most)
    if n > 2 * most + 2000:
        assert found


@pytest.mark.parametrize("each", [1, 2, 3, 40])
@pytest.mark.parametrize("order", ["in turn", "side by side", "mixed"])
def test_rows_seem_many_only_if_they_are(each, order):
    """However equal rows lie, as many as are allowed never seem more; twice as many do."""
    n = 120_000
    rows = np.arange(n) % (n // each)
    if order == "side by side":
        rows = np.sort(rows)
    if order == "mixed":
        rows = np.random.default_rng(0).permutation(rows)
    rows = rows[:, None].astype(np.uint32)
    assert not _summary_equal.seem_many(rows, n // each)
    assert not _summary_equal.seem_many(rows[: n // 2], n // 2)
    assert _summary_equal.seem_many(rows, n // each // 2)
    assert not _summary_equal.seem_many(np.r_[rows[:60_000], rows[:60_000] * 0], 60_001)


@given(st.integers(0, 1 << 52), st.integers(0, 3000), st.integers(2, 5000), st.data())
def test_rows_are_looked_at_by_their_numbers_alone(first, n, step, data):
    numbers, none = first + np.arange(n), np.empty(0, np.int64)
    found = numbers[spread(3, first, none, n, step)]
    np.testing.assert_array_equal(found, numbers[spread(3, None, numbers, n, step)])
    cut = data.draw(st.integers(0, n))
    parts = spread(3, first, none, cut, step), spread(3, first + cut, none, n - cut, step)
    np.testing.assert_array_equal(found, first + np.concatenate([parts[0], cut + parts[1]]))
    strata = np.unique(found // step, return_counts=True)
    assert (strata[1] == 1).all()
    assert set(strata[0]) >= set(range(-(-first // step), (first + n) // step))


@pytest.mark.parametrize("period", [2, 16, 100, 1024])
def test_rows_are_looked_at_out_of_step_with_any_period(period):
    found = spread(0, 0, np.empty(0, np.int64), 1_000_000, 50) % period
    assert abs((2 * found < period).mean() - 0.5) < 0.01
    found = spread(0, 0, np.empty(0, np.int64), 1000 * period, period) % period
    assert abs((2 * found < period).mean() - 0.5) < 0.05


def test_merged_samples_have_the_highest_priorities_and_no_copy_more():
    rng = np.random.default_rng(3)
    rows, numbers = rng.random((40_000, 64), np.float32), rng.permutation(40_000)
    priorities, weights = (
        rng.integers(1, 9, 40_000).astype(float),
        rng.random(40_000),
    )  # many are equal
    parts = [
        Sample(14_999, rows[part], numbers[part], weights[part], priorities[part])
        for part in (slice(3), slice(3, 3), slice(3, 25_000), slice(25_000, None))
    ]
    expected = np.sort(np.lexsort((numbers, -priorities))[:15_000])
    merged, peak = traced(parts[0].merge, *parts[1:])
    for found, columns in [
        (merged.rows, rows),
        (merged.numbers, numbers),
        (merged.weights, weights),
        (merged.priorities, priorities),
    ]:
        np.testing.assert_array_equal(found, columns[expected])
    assert peak < 1.6 * merged.rows.nbytes
