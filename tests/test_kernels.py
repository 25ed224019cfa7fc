"""Kernels against loops over bits, np.unique and brute force.

The module also runs as plain Python, see the last test: there its inputs are tiny.
"""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dkmeans._kernels import colours, neighbours, octree, points
from dkmeans._summary import words

PLAIN = bool(os.environ.get("NUMBA_DISABLE_JIT"))
SIZE = (9, 7) if PLAIN else (90, 70)

compiled_only = pytest.mark.skipif(PLAIN, reason="walks over 2**24 colours: hours in plain Python")


def frozen(array):
    """Return the array read-only: a kernel that writes to its input fails."""
    array = np.asarray(array)
    array.flags.writeable = False
    return array


def random_image(height, width, bands=3, seed=0, high=256):
    rng = np.random.default_rng(seed)
    return rng.integers(0, high, (height, width, bands), np.uint8)


IMAGE = random_image(*SIZE)
BLOCKS = {
    "interleaved": IMAGE,
    "planar": np.moveaxis(np.moveaxis(IMAGE, -1, 0).copy(), 0, -1),
    "columns first": IMAGE.swapaxes(0, 1),
    "turned by 180 degrees": IMAGE[::-1, ::-1],
    "every second row, third column": IMAGE[::2, 1::3],
    "bands reversed": IMAGE[..., ::-1],
    "grey as RGB": np.broadcast_to(IMAGE[..., :1], IMAGE.shape),
    "one colour": np.broadcast_to(IMAGE[0, 0], IMAGE.shape),
    "one row": IMAGE[:1],
    "empty": IMAGE[:0],
}


@pytest.fixture(params=BLOCKS)
def bands(request):
    """Red, green and blue of a block, in many memory layouts."""
    block = frozen(BLOCKS[request.param])
    return block[..., 0], block[..., 1], block[..., 2]


def codes_of(red, green, blue):
    """The code of each pixel, the plain way."""
    return red.astype(np.int64) + green.astype(np.int64) * 256 + blue.astype(np.int64) * 65536


def z_codes_of(colors):
    """The Z-code of each row of (n, 3), bit by bit."""
    z = np.zeros(len(colors), np.uint32)
    for bit in range(7, -1, -1):
        for channel in range(3):
            z = (z << 1) | ((colors[:, channel].astype(np.uint32) >> bit) & 1)
    return z


# Codes


def test_spread_places_bits_three_apart():
    for value in range(256):
        spread = colours.spread(value)
        assert spread == sum(((value >> bit) & 1) << (3 * bit) for bit in range(8))
        assert colours.gather(spread) == value


def test_gather_ignores_the_bits_between():
    for value in range(256):
        assert colours.gather(colours.spread(value) | 0x6DB6DB & ~0x249249) == value


def test_decode_gives_back_the_colours():
    colors = random_image(1, 100)[0]
    out = np.empty_like(colors)
    colours.decode(frozen(z_codes_of(colors)), out)
    np.testing.assert_array_equal(out, colors)


# Counting


def table_of(counts):
    """The table that holds the counts, and the carries it takes."""
    counts = np.asarray(counts, np.int64)
    times = np.maximum(counts - 1, 0) // colours.CARRY
    carries = np.repeat(np.arange(counts.size, dtype=np.uint32), times)
    return (counts - times * colours.CARRY).astype(np.uint16), carries


def counts_in(table, *carries):
    """The counts that a table and lists of carries hold."""
    carried = np.bincount(np.concatenate(carries), minlength=table.size)
    return table + carried * colours.CARRY


def count(kernel, *bands, table):
    """Run a kernel that counts; return the carries."""
    carries = np.full(bands[0].size * 2, 2**32 - 1, np.uint32)
    return carries[: kernel(*bands, table, carries)]


@compiled_only
@pytest.mark.parametrize("before", [0, 2**16 - 3, 2**17 - 3])
def test_count_rgb_counts_each_colour(bands, before):
    table, carries = table_of(np.full(colours.N_CODES, before))
    new = [count(colours.count_rgb, *bands, table=table) for _ in range(2)]
    codes, expected = np.unique(codes_of(*bands), return_counts=True)
    counts = counts_in(table, carries, *new)
    np.testing.assert_array_equal((counts != before).nonzero()[0], codes)
    np.testing.assert_array_equal(counts[codes], before + 2 * expected)


@compiled_only
@pytest.mark.parametrize("before", [0, 2**16 - 3])
@pytest.mark.parametrize(("height", "width"), [(1, 4), (2, 20), (5, 4), (30, 20), (32, 64)])
def test_count_words_counts_what_count_rgb_counts(height, width, before):
    block = frozen(random_image(height, width, high=16))
    table, _ = table_of(np.full(colours.N_CODES, before))
    other = table.copy()
    carries = count(colours.count_words, words(block), table=table)
    expected = count(colours.count_rgb, *np.moveaxis(block, -1, 0), table=other)
    np.testing.assert_array_equal(np.sort(carries), np.sort(expected))
    np.testing.assert_array_equal(table, other)


def test_counts_of_few_colours():
    # What plain Python can do as well: a table of dark colours alone.
    block = frozen(random_image(9, 8, high=4))
    size = 3 * 0x10101 + 1
    expected = np.bincount(codes_of(*np.moveaxis(block, -1, 0)).ravel(), minlength=size)
    for before in (0, 2**16 - 1):
        for kernel, data in (
            (colours.count_rgb, np.moveaxis(block, -1, 0)),
            (colours.count_words, [words(block)]),
        ):
            table, carries = table_of(np.full(size, before))
            new = count(kernel, *data, table=table)
            np.testing.assert_array_equal(counts_in(table, carries, new), before + expected)


@pytest.mark.parametrize("before", [0, 2**16 - 1, 2**20])
def test_count_grey_counts_each_value(bands, before):
    table, carries = table_of(np.full(256, before))
    new = [count(colours.count_grey, bands[0], table=table) for _ in range(2)]
    expected = before + 2 * np.bincount(bands[0].ravel(), minlength=256)
    np.testing.assert_array_equal(counts_in(table, carries, *new), expected)


def test_add_counts_carries():
    edges = [0, 1, 2**15, 2**16 - 2, 2**16 - 1, 2**16, 2**17]
    a, b = np.repeat(edges, len(edges)), np.tile(edges, len(edges))
    (table, ours), (other, theirs) = table_of(a), table_of(b)
    carries = np.empty(a.size, np.uint32)
    new = carries[: colours.add_counts(table, frozen(other), carries)]
    np.testing.assert_array_equal(counts_in(table, ours, theirs, new), a + b)
    assert np.array_equal(table == 0, a + b == 0)


@compiled_only
@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_collect_rgb_lists_the_cubes_in_the_order_of_the_octree(dtype):
    rng = np.random.default_rng(0)
    codes = np.unique(np.r_[0, rng.integers(0, colours.N_CODES, 5000), colours.N_CODES - 1])
    table = np.zeros(colours.N_CODES, np.uint16)
    table[codes] = rng.choice([1, 9, 2**16 - 1], codes.size)
    z_codes = z_codes_of(np.stack([codes & 255, codes >> 8 & 255, codes >> 16], axis=1))
    expected = np.unique(z_codes // 64)

    prefixes, cubes = np.empty(5100, np.uint32), np.full((5100, 64), 7, dtype)
    n = colours.collect_rgb(frozen(table.view(np.uint64)), prefixes, cubes)
    np.testing.assert_array_equal(prefixes[:n], expected)
    rows = np.searchsorted(expected, z_codes // 64)
    np.testing.assert_array_equal(cubes[rows, z_codes % 64], table[codes])
    assert np.count_nonzero(cubes[:n]) == codes.size


def test_collect_grey_lists_the_values_as_reds():
    values = np.array([0, 1, 7, 128, 255])
    table = np.zeros(256, np.uint16)
    table[values] = [3, 2**15, 4, 1, 2**16 - 1]
    prefixes, cubes = np.empty(65, np.uint32), np.full((65, 64), 7, np.uint32)
    assert colours.collect_grey(frozen(table), prefixes, cubes) == 4
    codes = z_codes_of(np.stack([values, 0 * values, 0 * values], axis=1))
    np.testing.assert_array_equal(prefixes[:4], np.unique(codes // 64))
    rows = np.searchsorted(prefixes[:4], codes // 64)
    np.testing.assert_array_equal(cubes[rows, codes % 64], table[values])
    assert np.count_nonzero(cubes[:4]) == 5


def test_interleave_bits_gives_the_z_codes():
    codes = np.random.default_rng(0).integers(0, colours.N_CODES, 50).astype(np.uint32)
    out = np.empty_like(codes)
    colours.interleave_bits(frozen(codes), out)
    colors = np.stack([codes & 255, codes >> 8 & 255, codes >> 16], axis=1)
    np.testing.assert_array_equal(out, z_codes_of(colors))


# Looking up


@pytest.fixture(scope="module", params=[np.uint8, np.uint16])
def table(request):
    """An arbitrary label below 200 for each colour."""
    labels = np.arange(colours.N_CODES, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(16)
    return frozen((labels % 200).astype(request.param))


def test_look_up_rgb_reads_the_table(bands, table):
    labels = np.empty(bands[0].shape, table.dtype)
    colours.look_up_rgb(*bands, table, labels)
    np.testing.assert_array_equal(labels, table[codes_of(*bands)])


@pytest.mark.parametrize("width", [4, 20, 64])
def test_look_up_words_reads_the_table(width, table):
    block = frozen(random_image(9, 64)[:, :width])
    labels = np.full((9, 70), 250, table.dtype)
    colours.look_up_words(words(block), table, labels[:, 3 : 3 + width])
    expected = table[codes_of(*np.moveaxis(block, -1, 0))]
    np.testing.assert_array_equal(labels[:, 3 : 3 + width], expected)
    assert (labels[:, 3 + width :] == 250).all()


def test_look_up_measured_adds_up_uses_and_errors(bands, table):
    palette = frozen(random_image(1, 200, seed=1)[0])
    labels, uses = np.empty(bands[0].shape, table.dtype), np.ones(200, np.int64)
    error = colours.look_up_measured(*bands, table, palette, labels, uses)
    expected = table[codes_of(*bands)]
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(uses, 1 + np.bincount(expected.ravel(), minlength=200))
    assert error == ((np.stack(bands, axis=-1).astype(int) - palette[expected]) ** 2).sum()


def test_interleave_writes_the_bands_side_by_side(bands):
    pixels = np.empty((*bands[0].shape, 3), np.uint8)
    colours.interleave(*bands, pixels)
    np.testing.assert_array_equal(pixels, np.stack(bands, axis=-1))


# The octree


def nearest_center(colors, centers):
    """Brute force in float64, in the order of the kernel's sums; ties to the lowest index."""
    d = colors[:, None, :].astype(np.float64) - centers
    return np.argmin(d[..., 0] * d[..., 0] + d[..., 1] * d[..., 1] + d[..., 2] * d[..., 2], axis=1)


def centers_of(kind, k):
    rng = np.random.default_rng(k)
    if kind == "reals":
        return rng.uniform(0, 255, (k, 3))
    if kind == "integers":  # many colours are as near to one as to another
        return rng.integers(0, 256, (k, 3)).astype(np.float64)
    if kind == "lattice":  # more ties still, with whole cubes on the border
        return np.array([(*divmod(i * 37 % k, 16), 8) for i in range(k)]) * 16.0
    if kind == "twins":  # of equal centres the first has all
        return np.repeat(rng.uniform(0, 255, (k, 3)), 2, axis=0)[:k]
    if kind == "crowd":  # all within one colour step
        return 100 + rng.uniform(0, 1, (k, 3))
    assert kind == "outside"
    return rng.uniform(-300, 600, (k, 3))


KINDS = ["reals", "integers", "lattice", "twins", "crowd", "outside"]
COUNTS = [1, 2, 3, 16] if PLAIN else [1, 2, 3, 16, 256]


def nodes_of(codes, counts):
    """The nodes of `octree.assign_accumulate`, built from sets and loops."""
    levels = []
    for level in range(octree.TOP, octree.BOTTOM + 1):
        prefixes, starts = np.unique(codes >> (3 * (8 - level)), return_index=True)
        levels.append((prefixes, [*starts, len(codes)]))
    colors = np.empty((len(codes), 3), np.uint8)
    colours.decode(codes, colors)
    prefixes_out, starts_out, ends_out, weights, sums = [], [], [], [], []
    offset = 0
    for i, (prefixes, starts) in enumerate(levels):
        offset += len(prefixes)
        if i + 1 < len(levels):  # children are nodes of the next level
            below = levels[i + 1][1]
            edges = [offset + below.index(start) for start in starts]
        else:
            edges = range(len(starts))
        for prefix, (start, stop), (first, last) in zip(
            prefixes, pairwise(starts), pairwise(edges), strict=True
        ):
            prefixes_out.append(prefix)
            starts_out.append(first)
            ends_out.append(last)
            weights.append(counts[start:stop].sum())
            sums.append((counts[start:stop, None] * colors[start:stop].astype(int)).sum(axis=0))
    arrays = (prefixes_out, starts_out, ends_out, weights, sums)
    dtypes = (np.uint32, np.int64, np.int64, np.int64, np.int64)
    nodes = [frozen(np.array(a, dtype)) for a, dtype in zip(arrays, dtypes, strict=True)]
    return colors, nodes, len(levels[0][0])


def clustered_colors():
    """Colours spread over the cube and crowded in corners, so that cubes are full and empty."""
    rng = np.random.default_rng(1)
    n = 60 if PLAIN else 2000
    wide, dense = rng.integers(0, 256, (n, 3)), rng.integers(96, 112, (n, 3))
    return np.r_[wide, dense, [[0, 0, 0], [255, 255, 255]]]


@pytest.fixture(scope="module")
def tree():
    """Sorted codes and their counts, the colours, and the nodes over them."""
    codes = frozen(np.unique(z_codes_of(clustered_colors())))
    counts = frozen(np.random.default_rng(2).integers(1, 1 << 40, codes.size))
    return codes, counts, *nodes_of(codes, counts)


def cubes_of(codes, counts, dtype):
    """The counts as the kernels take them: the prefixes of cubes, and the counts in each."""
    prefixes, rows = np.unique(codes >> 6, return_inverse=True)
    cubes = np.zeros((len(prefixes), 64), dtype)
    cubes[rows, codes & 63] = counts
    return frozen(prefixes), frozen(cubes)


def assigned(tree, centers, depth, first, last):
    codes, counts, _, nodes, _ = tree
    _, cubes = cubes_of(codes, counts, np.int64)
    weights, sums = np.zeros(len(centers), np.int64), np.zeros((len(centers), 3), np.int64)
    octree.assign_accumulate(cubes, *nodes, frozen(centers), depth, first, last, weights, sums)
    return weights, sums


def test_group_finds_the_runs(tree):
    codes = tree[0]
    for shift in (0, 6, 18):
        prefixes, starts = np.empty(codes.size, np.uint32), np.empty(codes.size + 1, np.int64)
        n = octree.group(codes, shift, prefixes, starts)
        expected, first = np.unique(codes >> shift, return_index=True)
        np.testing.assert_array_equal(prefixes[:n], expected)
        np.testing.assert_array_equal(starts[: n + 1], [*first, codes.size])


@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_total_colours_adds_up_the_cubes(tree, dtype):
    codes, counts, colors, _, _ = tree
    counts = counts >> 20
    prefixes, cubes = cubes_of(codes, counts, dtype)
    n = len(prefixes)
    weights, sums = np.full(n, 7), np.full((n, 3), 7)
    values = np.ones((3, 256), np.int64)
    octree.total_colours(prefixes, cubes, weights, sums, values)
    _, _, _, node_weights, node_sums = nodes_of(codes, counts)[1]
    np.testing.assert_array_equal(weights, node_weights[-n:])
    np.testing.assert_array_equal(sums, node_sums[-n:])
    for axis in range(3):
        expected = np.zeros(256, np.int64)
        np.add.at(expected, colors[:, axis], counts)
        np.testing.assert_array_equal(values[axis], 1 + expected)


@pytest.mark.parametrize("k", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_assign_accumulate_adds_each_colour_to_its_nearest_center(tree, kind, k):
    _, counts, colors, _, n_top = tree
    centers = centers_of(kind, k)
    weights, sums = assigned(tree, centers, octree.COLOURS, 0, n_top)
    labels = nearest_center(colors, centers)
    for c in range(k):
        own = labels == c
        assert weights[c] == counts[own].sum()
        np.testing.assert_array_equal(sums[c], (counts[own, None] * colors[own]).sum(axis=0))


@pytest.mark.parametrize("depth", range(octree.TOP, octree.BOTTOM + 1))
def test_assign_accumulate_takes_cubes_at_their_means(tree, depth):
    codes, _, _, (prefixes, _, _, node_weights, node_sums), n_top = tree
    n_above = sum(np.unique(codes >> (3 * (8 - b))).size for b in range(octree.TOP, depth))
    level = slice(n_above, n_above + np.unique(codes >> (3 * (8 - depth))).size)
    assert (np.diff(prefixes[level].astype(int)) > 0).all()
    centers = centers_of("reals", 16)
    weights, sums = assigned(tree, centers, depth, 0, n_top)
    labels = nearest_center(node_sums[level] / node_weights[level, None], centers)
    for c in range(16):
        assert weights[c] == node_weights[level][labels == c].sum()
        np.testing.assert_array_equal(sums[c], node_sums[level][labels == c].sum(axis=0))


def test_parts_of_the_tree_add_up(tree):
    centers = centers_of("integers", 16)
    n_top = tree[-1]
    whole = assigned(tree, centers, octree.COLOURS, 0, n_top)
    parts = [assigned(tree, centers, octree.COLOURS, i, i + 1) for i in range(n_top)]
    for expected, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(np.sum(pieces, axis=0), expected)


@compiled_only
@pytest.mark.parametrize("k", COUNTS)
@pytest.mark.parametrize("kind", KINDS)
def test_fill_table_names_the_nearest_center_of_every_colour(kind, k):
    centers = frozen(centers_of(kind, k))
    table = np.full(colours.N_CODES, 255, np.uint8)
    octree.fill_table(centers, 0, 64, table)
    rng = np.random.default_rng(3)
    some = rng.integers(0, colours.N_CODES, 20_000)
    # Around the midpoints of centres lie the ties and what nearly is one.
    pairs = rng.integers(0, k, (500, 2))
    middles = centers[pairs].mean(axis=1).clip(0, 255)
    ties = codes_of(*(np.floor(middles).astype(int).T))
    codes = np.unique(np.r_[some, ties, (ties + 1) % colours.N_CODES, 0, colours.N_CODES - 1])
    colors = np.stack([codes & 255, codes >> 8 & 255, codes >> 16], axis=1)
    np.testing.assert_array_equal(table[codes], nearest_center(colors, centers))


def test_fill_table_fills_the_cubes_it_is_given():
    # Cube 0 of level 2 holds the colours below 64, cube 63 those from 192 on. Few centres near
    # one corner keep this quick in plain Python.
    centers = frozen(np.array([[10.0, 20, 30], [200, 200, 200]]))
    table = np.full(colours.N_CODES, 9, np.uint8)
    octree.fill_table(centers, 0, 1, table)
    cube = table.reshape(256, 256, 256)
    assert (cube[:64, :64, :64] == 0).all()
    assert (cube == 9).sum() == colours.N_CODES - 64**3


# Points


def weighted_points(d, dtype="float64", n=2 * points.LANES):
    """Points as (n, d), the last ones of weight 0, and as the kernels take them, halved."""
    rng = np.random.default_rng(d)
    weights = rng.uniform(1, 9, n)
    weights[-20:] = 0
    x = rng.normal(0, 100, (n, d)).astype(dtype)
    tiles = np.empty((n // points.LANES, d, points.LANES), dtype)
    points.transpose(frozen(x), np.arange(n, dtype=np.int32), x.dtype.type(0.5), tiles)
    return frozen(x), frozen(tiles), frozen(weights)


def lanes(values):
    """Return one value a point, as the kernels of seeding take them."""
    return values.reshape(-1, points.LANES).copy()


def squared_distances(a, b):
    return ((a[:, None, :].astype(np.float64) - b[None, :, :]) ** 2).sum(axis=-1)


NOTHING_KEPT = np.empty((0, 0, 0))


def boxes_of(tiles, *, are_known=True):
    """Return the boxes around the points of each tile, or, if they are not known, around all."""
    n = -(-len(tiles) // points.LANES) * points.LANES
    boxes = np.zeros((n, 2, tiles.shape[1]), tiles.dtype)
    boxes[: len(tiles), 0], boxes[: len(tiles), 1] = tiles.min(axis=2), tiles.max(axis=2)
    if not are_known:
        boxes[:] = [[-np.inf], [np.inf]]
    groups = boxes.reshape(-1, points.LANES, *boxes.shape[1:]).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(groups)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 8])
def test_potentials_are_what_candidates_would_leave(d, dtype):
    x, tiles, weights = weighted_points(d, dtype)
    candidates = frozen(x[[0, 5, 90]] / 2)
    totals = np.empty(3)
    for closest in (np.full(len(x), np.inf), squared_distances(x, x[:2]).min(axis=1) / 4):
        closest = np.where(weights > 0, closest, 0).astype(dtype)  # noqa: PLW2901 - of this dtype
        before, farthest = lanes(closest), lanes(closest).max(axis=1)
        shares = (lanes(weights) * before).sum(axis=1)
        state = boxes_of(tiles), lanes(weights), before, farthest, shares, 0, len(tiles)
        points.potentials(tiles, *state, candidates, NOTHING_KEPT.astype(dtype), totals)
        np.testing.assert_array_equal(before.ravel(), closest)
        left = np.minimum(squared_distances(x, x[[0, 5, 90]]) / 4, closest[:, None])
        np.testing.assert_allclose(
            totals, weights @ left, rtol=1e-12 if dtype == "float64" else 1e-5
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 8])
def test_a_center_lowers_the_distances(d, dtype):
    x, tiles, weights = weighted_points(d, dtype)
    closest = lanes(np.where(weights > 0, np.inf, 0).astype(dtype))
    nothing, shares = np.empty(0), np.empty(len(tiles))
    farthest = np.full(len(tiles), np.inf, dtype)
    state = boxes_of(tiles), lanes(weights), closest, farthest, shares, 0, len(tiles)
    for center in (4, 17, 4):
        points.potentials(tiles, *state, x[[center]] / 2, NOTHING_KEPT.astype(dtype), nothing)
    expected = squared_distances(x, x[[4, 17]]).min(axis=1) / 4
    rtol = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(closest.ravel()[:-20], expected[:-20], rtol=rtol)
    np.testing.assert_array_equal(farthest, closest.max(axis=1))
    np.testing.assert_allclose(shares, lanes(weights * expected).sum(axis=1), rtol=rtol)
    assert closest[0, 4] == closest[0, 17] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("d", "n_tiles"), [(3, 40), *([] if PLAIN else [(6, 70)])])  # slow
def test_boxes_only_spare_work(d, n_tiles, spread, dtype):
    """Tiles of points near each other end as without boxes, bit by bit, centre after centre."""
    rng = np.random.default_rng(0)
    middles = rng.uniform(0, 255, (n_tiles, 1, d))
    x = middles + spread * rng.uniform(-1, 1, (n_tiles, points.LANES, d))
    x = x.reshape(-1, d).astype(dtype)
    tiles = np.empty((n_tiles, d, points.LANES), dtype)
    points.transpose(x, np.arange(len(x), dtype=np.int32), x.dtype.type(1), tiles)
    weights = lanes(rng.uniform(1, 9, len(x)))
    ends = []
    kept = np.full((4, n_tiles, points.LANES), np.nan, dtype)
    for are_known in (True, False):
        closest, farthest = lanes(np.full(len(x), np.inf, dtype)), np.full(n_tiles, np.inf, dtype)
        shares, nothing, trials = np.empty(n_tiles), np.empty(0), np.zeros((12, 4))
        state = boxes_of(tiles, are_known=are_known), weights, closest, farthest, shares
        cuts = (0, 30, n_tiles)  # as threads share the tiles
        for number, center in enumerate(np.random.default_rng(1).choice(len(x) - 4, 12)):
            for part in pairwise(cuts):
                points.potentials(tiles, *state, *part, x[[center]], kept[:0, :0, :0], nothing)
            for part in pairwise(cuts):
                found = np.empty(4)
                points.potentials(tiles, *state, *part, x[center : center + 4], kept, found)
                trials[number] += found
            # What was kept of a candidate lowers as reading all again would.
            lowered = [array.copy() for array in (closest, farthest, shares)]
            points.lower(kept[number % 4], weights, *lowered)
            again = [array.copy() for array in (closest, farthest, shares)]
            chosen = x[[center + number % 4]]
            points.potentials(
                tiles, *state[:2], *again, 0, n_tiles, chosen, kept[:0, :0, :0], nothing
            )
            for one, other in zip(lowered, again, strict=True):
                np.testing.assert_array_equal(one, other)
        ends.append((closest, farthest, shares, trials))
    for with_boxes, without in zip(ends[0][:3], ends[1][:3], strict=True):
        np.testing.assert_array_equal(with_boxes, without)
    np.testing.assert_allclose(ends[0][3], ends[1][3], rtol=1e-12)  # added in another order


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("n", "size"), [(1, 64), (64, 64), (65, 64), (1000, 64), (3000, 7), (512, 1)]
)
def test_neighbours_follow_each_other(n, size, dtype):
    """The least bits of a k-d tree: at each cut, what lies before it is not beyond what follows."""
    x = frozen(np.random.default_rng(n).integers(0, 30, (n, 3)).astype(dtype))
    order = np.arange(n, dtype=np.int32)
    neighbours.sort(x, size, order)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    todo = [(0, n)]
    while todo:
        start, stop = todo.pop()
        if stop - start <= size:
            continue
        middle = start + max((stop - start) // (2 * size), 1) * size
        before, after = x[order[start:middle]], x[order[middle:stop]]
        assert (before.max(axis=0) <= after.min(axis=0)).any()
        todo += [(start, middle), (middle, stop)]
    again = np.arange(n, dtype=np.int32)
    neighbours.sort(x, size, again)
    np.testing.assert_array_equal(again, order)


def test_points_are_halved_where_they_vary_most():
    x = np.random.default_rng(0).normal(0, [1, 50, 2], (128, 3))
    order = np.arange(128, dtype=np.int32)
    neighbours.sort(x, 64, order)
    assert x[order[:64], 1].max() <= x[order[64:], 1].min()


@pytest.mark.parametrize("d", [1, 3, 7])
def test_nearest_gives_label_and_distance(d):
    x, _, _ = weighted_points(d)
    centers = frozen(np.r_[x[:4] + 1, x[:4] + 1])  # each twice: the first counts
    labels, distances = np.empty(len(x), np.int64), np.empty(len(x))
    points.nearest(x, centers, labels, distances)
    expected = squared_distances(x, centers)
    np.testing.assert_array_equal(labels, expected[:, :4].argmin(axis=1))
    np.testing.assert_allclose(distances, expected.min(axis=1), rtol=1e-12)


@compiled_only
def test_kernels_are_plain_python():
    tests = [
        str(Path(__file__).with_name(f"test_{name}.py")) for name in ("kernels", "kernels_rows")
    ]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
