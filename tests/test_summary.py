"""Colour summaries against np.unique and brute force over pixels."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import _summary
from dkmeans._kernels.colours import spread
from dkmeans._summary import ColourCounter, ColourCounts, ColourSummary, planes
from dkmeans._tiling import grid


def counted(blocks, bands):
    counter = ColourCounter(bands)
    for block in blocks:
        counter.add(block)
    return counter.counts()


def assert_same_bits(a, b):
    assert a.bands == b.bands
    for mine, other in ((a.codes, b.codes), (a.counts, b.counts)):
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(mine, other)


def grey_of(photo):
    return photo[..., 1:2]


@pytest.fixture(scope="module", params=[1, 3])
def image(request, photos):
    """Part of a photograph, grey or RGB."""
    photo = photos["china"][::3, ::3]
    return grey_of(photo) if request.param == 1 else photo


@pytest.fixture(scope="module")
def summary(image):
    """Its summary; a pass over read-only arrays shows that nothing is written to them."""
    counts = counted([image], image.shape[-1])
    counts.codes.flags.writeable = counts.counts.flags.writeable = False
    return ColourSummary(counts)


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
    assert_same_bits(counted(blocks, bands), whole)
    merged = ColourCounts.empty(bands)
    for group in (blocks[2:], blocks[:1], blocks[1:2]):
        merged = merged.merge(counted(group, bands))
    assert_same_bits(merged, whole)


def test_an_rgb_counter_takes_grey_blocks(photos):
    grey = grey_of(photos["flower"])
    as_rgb = np.repeat(grey, 3, axis=-1)
    assert_same_bits(counted([grey], 3), counted([as_rgb], 3))
    assert all(np.shares_memory(plane, grey) for plane in planes(grey))


def test_a_full_table_is_put_aside(image, monkeypatch):
    # The table's entries hold 32 bits; here they are taken to hold no more than 10,000 pixels.
    bands = image.shape[-1]
    whole = counted([image], bands)
    monkeypatch.setattr(_summary, "_MAX_IN_TABLE", 10_000)
    counter = ColourCounter(bands)
    for row in image:
        counter.add(row[None])
        assert counter._in_table <= 10_000
    assert_same_bits(counter.counts(), whole)


def test_nothing_counted_is_empty():
    assert_same_bits(ColourCounter(3).counts(), ColourCounts.empty(3))
    assert ColourCounts.empty(3).n_pixels == 0


@st.composite
def colour_counts(draw):
    counts = draw(st.dictionaries(st.integers(0, 30), st.integers(1, 2**45), max_size=12))
    codes = sorted(counts)
    return ColourCounts(
        3, np.array(codes, np.uint32), np.array([counts[c] for c in codes], np.int64)
    )


@given(colour_counts(), colour_counts(), colour_counts())
def test_merge_is_associative_and_commutative(a, b, c):
    assert_same_bits(a.merge(b), b.merge(a))
    assert_same_bits(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert a.merge(b).n_pixels == a.n_pixels + b.n_pixels
    assert_same_bits(a.merge(ColourCounts.empty(3)), a)


@given(colour_counts(), colour_counts())
def test_without_undoes_merge(a, b):
    assert_same_bits(a.merge(b).without(b), a)
    assert_same_bits(a.without(a), ColourCounts.empty(3))


# The points of k-means


def test_total_and_squares_are_exact(image, summary):
    pixels = image.reshape(-1, image.shape[-1]).astype(np.int64)
    assert summary.total == tuple(pixels.sum(axis=0))
    assert summary.squares == tuple((pixels**2).sum(axis=0))


def test_total_and_squares_outgrow_64_bits():
    # White, and red on the grey axis of a grey summary.
    counts = ColourCounts(3, np.array([2**24 - 1], np.uint32), np.array([2**54]))
    assert ColourSummary(counts).squares == (255 * 255 * 2**54,) * 3
    grey = ColourCounts(1, np.array([spread(200) << 2], np.uint32), np.array([2**54]))
    assert ColourSummary(grey).squares == (200 * 200 * 2**54,)
    assert ColourSummary(grey).total == (200 * 2**54,)


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
    monkeypatch.setattr(_summary, "_SMALL", 0)
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
    assert [int(point.weights) for _, point in found] == weights[far].tolist()
    for (_, point), i in zip(found, far, strict=True):
        np.testing.assert_array_equal(point.sums, np.rint(points[i] * weights[i]))


def test_farthest_leaves_out_points_at_distance_zero():
    image = np.array([[[10, 20, 30], [40, 50, 60], [40, 50, 60]]], np.uint8)
    summary = ColourSummary(counted([image], 3))
    found = list(summary.farthest(np.array([[10.0, 20, 30]]), 2, 8))
    assert len(found) == 1
    assert found[0][1].weights == 2
    assert found[0][1].sums.tolist() == [80, 100, 120]
