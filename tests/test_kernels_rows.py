"""The kernels of rows of features, against plain NumPy."""

import math
import pickle
from dataclasses import replace

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans import _summary_steps
from dkmeans._frame import Frame
from dkmeans._frame_moves import Known, Moves
from dkmeans._frame_ranges import Ranges
from dkmeans._kernels import bounds, hashes, offsets, rows, sums, vectors
from dkmeans._kernels import boxes as box_kernels
from dkmeans._kernels import centers as center_kernels
from dkmeans._kernels import ranges as range_kernels
from dkmeans._kernels.changes import changed
from dkmeans._kernels.compile import JIT
from dkmeans._summary_sorted import Sorted, boxes_of
from dkmeans._summary_steps import Steps

# As plain Python, kernels warn of integers that wrap round in hashes, and of infinity less itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

DTYPES = ["float32", "float64", "uint8", "uint16"][:: 1 if JIT else 2]  # plain Python is slow
SIZES = [(1, 1, 1), (300, 1, 2), (513, 3, 9), (257, 17, 4), (90, 33, 21)]


def frozen(array):
    array.flags.writeable = False
    return array


def table_of(n, d, dtype, seed=0):
    """Return rows, some of them equal."""
    x = np.random.default_rng(seed).normal(60, 15, (n, d)).clip(0, 255)
    x[: n // 8] = x[n // 2 : n // 2 + n // 8]
    return frozen(np.rint(x).astype(dtype) if np.dtype(dtype).kind == "u" else x.astype(dtype))


def centers_of(x, k, seed=1):
    """Return centres between rows, two of them equal."""
    rng = np.random.default_rng(seed)
    centers = x[rng.integers(0, len(x), k)] + rng.normal(0, 3, (k, x.shape[1]))
    centers[-1] = centers[0]
    return centers.astype(np.float32).astype(np.float64)


def frame_of(x, weights=None):
    ranges, _ = Ranges.of(x, weights, lambda: np.arange(len(x)))
    middle = np.nanmean(x.astype(np.float64), axis=0)
    return Frame.of(ranges, middle, x.dtype, weighted=weights is not None)


def nearest(frame, x, centers):
    """Return the labels by differences in float64, and the distances to all centres."""
    offsets = x.astype(np.float64) - frame.shift
    squares = ((offsets[:, None] - (centers - frame.shift)) ** 2).sum(axis=2)
    labels = np.where(np.isnan(squares[:, 0]), -1, squares.argmin(axis=1))
    return labels, np.sqrt(squares)


# Vectors


def packed_of(centers, shift, unit, dtype):
    """Return centres as `centers.pack` packs them, half their squares, and the offsets."""
    k, d = centers.shape
    groups = -(-k // vectors.GROUP)
    packed = np.empty((groups, d, vectors.GROUP), dtype)
    halves, offsets = np.empty(groups * vectors.GROUP, dtype), np.empty((k, d))
    center_kernels.pack(frozen(centers), shift, unit, offsets, packed, halves)
    return frozen(packed), halves, offsets


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("d", "k"), [(1, 1), (2, 4), (3, 5), (7, 33)])
def test_centres_are_packed_in_groups(d, k, dtype):
    rng = np.random.default_rng(0)
    centers, shift, unit = rng.normal(size=(k, d)), rng.normal(size=d), 0.25
    packed, halves, offsets = packed_of(centers, shift, unit, dtype)
    np.testing.assert_array_equal(offsets, centers - shift)
    flat = packed.transpose(0, 2, 1).reshape(-1, d)
    np.testing.assert_array_equal(flat[:k], (offsets * unit).astype(dtype))
    assert not flat[k:].any()
    expected = np.append(((offsets * unit) ** 2).sum(axis=1) / 2, np.full(len(flat) - k, np.inf))
    np.testing.assert_allclose(halves, expected, rtol=np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("d", "k"), [(1, 1), (2, 4), (3, 5), (64, 9), (65, 9), (150, 33)])
def test_two_nearest_is_what_it_says(d, k, dtype):
    lanes = vectors.lanes(dtype)
    rng = np.random.default_rng(0)
    tile = frozen(rng.normal(size=(3, d, lanes)).astype(dtype))
    packed, halves, _ = packed_of(rng.normal(size=(k, d)), np.zeros(d), 1.0, dtype)
    halves[:k] = rng.uniform(size=k)
    found, expected = (
        [np.full(3 * lanes, np.inf, dtype) for _ in range(3)] + [np.full(3 * lanes, -1, np.int32)]
        for _ in range(2)
    )
    half = -(-len(packed) // 2)  # at once, and in two parts
    call(tile, 1, packed, frozen(halves), 0, half, *found)
    if half < len(packed):
        call(tile, 1, packed, halves, half, len(packed) - half, *found)
    vectors.two_nearest_plainly(tile, 1, packed, halves, 0, len(packed), *expected)
    tolerance = 100 * np.finfo(dtype).eps
    for ours, plain in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=tolerance, atol=tolerance)


def test_two_nearest_of_nan_is_none():
    tile = frozen(np.full((1, 2, 16), np.nan, np.float32))
    packed = frozen(np.ones((1, 2, 4), np.float32))
    best, second, norms = (np.full(16, np.inf, np.float32) for _ in range(3))
    labels = np.full(16, -1, np.int32)
    call(tile, 0, packed, frozen(np.ones(4, np.float32)), 0, 1, best, second, norms, labels)
    assert (labels == -1).all()
    assert np.isinf(best).all()


@numba.njit
def call(  # noqa: PLR0917 - as the kernel
    tile, block, centers, halves, first, n_groups, best, second, norms, labels
):
    vectors.two_nearest(tile, block, centers, halves, first, n_groups, best, second, norms, labels)


@numba.njit
def turn(rows, places, shift, unit, tile, block):  # noqa: PLR0917 - as the kernel
    vectors.transpose(rows, places, shift, unit, tile, block)


@pytest.mark.parametrize(
    ("dtype", "taken"), [("float32", "float32"), ("float32", "float64"), ("float64", "float64")]
)
@pytest.mark.parametrize(
    "stored", ["float32", "float64", "uint8", "int8", "uint16", "int32", "int64"]
)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 8, 9, 16, 37])
def test_transpose_takes_offsets(d, stored, dtype, taken):
    lanes, width = vectors.lanes(dtype), vectors.width(d, dtype)
    rng = np.random.default_rng(d)
    rows = rng.integers(-100, 100, (80, d + 3)).astype(stored)[:, :d]
    places = rng.integers(0, 50 - width, lanes)  # what follows is read too
    shift, unit = rng.normal(size=d).astype(taken), np.array([0.25], taken)
    tile = np.zeros((2 + lanes, d, lanes), dtype)
    turn(frozen(rows), frozen(places), frozen(shift), frozen(unit), tile, 1)
    expected = (rows[places].astype(taken) - shift) * unit
    np.testing.assert_array_equal(tile[1], expected.astype(dtype).T)
    assert not tile[0].any()


# Steps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "k"), SIZES)
def test_assign_finds_the_nearest_and_bounds_that_hold(n, d, k, dtype):
    x = table_of(n, d, dtype)
    frame, centers = frame_of(x), centers_of(x, k)
    known = Known.nothing(n, 1 << 20)
    found = frame.centers(centers).assign(x, known.labels, known.bounds)
    expected, distances = nearest(frame, x, centers)
    np.testing.assert_array_equal(found, expected)
    assert_bounds_hold(known, distances * frame.unit)


@pytest.mark.parametrize("gap", [1e-7, 1e-5, 1e-3, 1e-1])
@pytest.mark.parametrize("far", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("d", [1, 20])
def test_near_ties_are_told_apart_however_far_the_farthest_centre_is(d, far, gap):
    """Rows between two centres that rounding cannot tell apart, or just can, and one far away."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(30, d)) * np.logspace(-3, 0, 30)[:, None] * far
    aside = rng.normal(size=(30, d)) * gap
    centers = np.concatenate([middles - aside, middles + aside, np.full((1, d), -3 * far)])
    towards = middles + rng.uniform(-1, 1, (3, 30, 1)) * aside
    x = frozen(np.concatenate([*towards, centers]).astype(np.float32))
    frame = frame_of(x)
    expected, _ = nearest(frame, x, centers)
    for wanted in (None, Known.nothing(len(x), 1 << 20).bounds):
        found = frame.centers(centers).assign(x, np.empty(len(x), np.int32), wanted)
        np.testing.assert_array_equal(found, expected)


def assert_bounds_hold(known, distances):
    own = known.labels[:, None] == np.arange(distances.shape[1])
    upper, lower = known.bounds
    assert (upper >= distances.min(axis=1)).all()
    assert (lower <= np.where(own, np.inf, distances).min(axis=1)).all()


@pytest.mark.parametrize("dtype", ["int8", "float32", "float64"])
@pytest.mark.parametrize("size", [1e-8, 1e-12, 1e-22, 1e-40])
def test_centres_nearer_to_each_other_than_rows_are_long(dtype, size):
    # Squares of differences do not tell such centres apart, so no scores may.
    rng = np.random.default_rng(0)
    x = frozen(rng.choice([-100, 100], (300, 63)).astype(dtype))
    frame = replace(frame_of(x), shift=np.zeros(63))
    centers = rng.normal(size=(4, 63)) * size
    expected, _ = nearest(frame, x, centers)
    exact = [rows.nearest_exactly(x, i, frame.shift, centers) for i in range(len(x))]
    np.testing.assert_array_equal(frame.centers(centers).assign(x), exact)
    assert (expected == exact).mean() > 0.5  # NumPy adds up in another order


@pytest.mark.parametrize("scale", [1e-18, 1e-22, 3e-23])
def test_rows_much_shorter_than_the_longest(scale):
    rng = np.random.default_rng(1)
    x = np.append(rng.uniform(-5, 5, (600, 2)) * scale, [[1, 1], [-1, -1]], axis=0)
    x = frozen(x.astype(np.float32))
    frame, centers = replace(frame_of(x), shift=np.zeros(2)), x[:6].astype(np.float64)
    expected, _ = nearest(frame, x, centers)
    np.testing.assert_array_equal(frame.centers(centers).assign(x), expected)


def test_rows_out_of_range_lie_in_the_last_cubes():
    spread = np.arange(12, dtype=np.uint16).reshape(3, 4)
    x = frozen(np.array([[far] * 3 for far in (-np.inf, -1e300, 0.9, 1e25, 1e300, np.inf)]))
    cubes, counts = np.empty(len(x), np.uint16), np.zeros(16, np.int64)
    box_kernels.number(x, np.zeros(3), 1.0, spread, cubes, counts)
    first, last = 0 | 4 | 8, 3 | 7 | 11
    assert cubes.tolist() == [first, first, last, last, last, last]
    assert counts[[first, last]].tolist() == [2, 4]


def test_rows_with_nan_have_no_label():
    x = np.array(table_of(40, 3, "float32"))
    x[[3, 30], [0, 2]] = np.nan
    frame, centers = frame_of(x), centers_of(x[4:20], 5)
    known = Known.nothing(len(x), 1 << 20)
    for moved in (0, 1, 2):
        prepared = frame.centers(centers + moved)
        if moved:
            prepared = prepared.after(frame.centers(centers + moved - 1), len(x))
        prepared.assign_again(x, known)
        expected, _ = nearest(frame, x, centers + moved)
        np.testing.assert_array_equal(known.labels, expected)
    assert np.flatnonzero(known.labels < 0).tolist() == [3, 30]


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "k"), SIZES)
def test_reassign_does_what_assign_does(n, d, k, dtype, near):
    x = table_of(n, d, dtype)
    frame, centers = frame_of(x), centers_of(x, k)
    known = Known.nothing(n, 1 << 20)
    before = frame.centers(centers)
    before.assign_again(x, known)
    for step in range(6):
        centers = centers + np.random.default_rng(step).normal(0, 0.3 * step, centers.shape)
        prepared = frame.centers(centers).after(before, 1 << 20 if near else 0)
        assert prepared.moves.between.shape == ((k, k) if near and k > 1 else (0, 0))
        known.habits[:] = 0
        prepared.assign_again(x, known)
        expected, distances = nearest(frame, x, centers)
        np.testing.assert_array_equal(known.labels, expected)
        assert_bounds_hold(known, distances * frame.unit)
        before = prepared


@given(st.integers(0, 300), st.sampled_from([0, 0.01, 0.5, 1]), st.integers(0, 99))
def test_changed_labels_are_found(n, share, seed):
    rng = np.random.default_rng(seed)
    before = rng.integers(-1, 9, n + 1).astype(np.int32)[1:]  # not at the start of a line
    labels = np.where(rng.random(n) < share, before + 1, before).astype(np.int32)
    places = np.full(n + 1, -1, np.int32)
    expected = np.flatnonzero(before != labels)
    assert changed(before, labels, places[:n]) == expected.size
    np.testing.assert_array_equal(places[: expected.size], expected)
    assert places[n] == -1


def rows_of_kind(kind, n, d, dtype):
    """Return rows in which boxes have something to get wrong."""
    rng = np.random.default_rng(d)
    x = rng.normal(size=(n, d)) * 20 + 100
    if kind == "equal":
        x[:] = x[0]
    elif kind == "lattice":  # many rows as far from one centre as from another
        x = rng.integers(0, 9, (n, d))
    elif kind == "far":
        x[n // 2] = 60_000
    x = x.clip(0).astype(dtype)
    if kind == "missing":
        x[::3, 0] = np.nan
        x[:260] = np.nan  # a whole tile
    return frozen(x)


@pytest.mark.parametrize("kind", ["normal", "equal", "lattice", "far", "missing"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16"])
@pytest.mark.parametrize(
    ("n", "d", "k"),
    [(1, 3, 1), (300, 1, 9), (290, 2, 12), *([(600, 3, 40)] if JIT else [])],  # else 10 seconds
)
def test_steps_over_sorted_rows_have_the_bits_of_others(  # noqa: PLR0917 - a table
    n, d, k, dtype, kind, monkeypatch
):
    if kind == "missing" and (dtype == "uint16" or n == 1):
        return
    x, rng = rows_of_kind(kind, n, d, dtype), np.random.default_rng(1)
    weights = frozen(rng.uniform(size=n)) if d == 3 else None
    frame = frame_of(x, weights)
    first = x[~np.isnan(x.astype(np.float64)).any(axis=1)][:k].astype(np.float64)
    found = []
    for is_sorted, in_parts in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr(_summary_steps, "is_worth_it", lambda *_, told=is_sorted: told)
        monkeypatch.setattr(_summary_steps, "_SMALL", 0 if in_parts else 1 << 40)
        steps, after = Steps(frame, x, weights, len(first)), first
        for _ in range(3):
            centers = after
            totals = steps.assign(centers)
            after = totals.means(centers)
        np.testing.assert_array_equal(steps.labels, nearest(frame, x, centers)[0])
        found.append([totals.counts, totals.sums, steps.limbs()])
    for columns in zip(*found, strict=True):
        for column in columns[1:]:
            np.testing.assert_array_equal(column, columns[0])


@pytest.mark.skipif(not JIT, reason="plain Python takes minutes")
def test_few_centres_are_near_to_sorted_rows():
    x = frozen(np.random.default_rng(0).uniform(size=(300_000, 3)).astype(np.float32))
    frame = frame_of(x)
    centers = frame.centers(x[:200].astype(np.float64))
    rows = Sorted.of(frame, x, None, [slice(0, 90_000), slice(90_000, 300_000)])
    np.testing.assert_array_equal(rows.rows, x[rows.order])
    boxes, points = boxes_of(frame, rows.rows), np.ascontiguousarray(centers.offsets.T) * frame.unit
    least, greatest, names = np.empty(200), np.empty(200), np.empty(201, np.int64)
    found = [
        box_kernels.choose(boxes, i, points, least, greatest, names) for i in range(len(boxes))
    ]
    assert min(found) >= 1
    assert np.mean(found) < 40


def test_reassign_pauses_where_nothing_is_spared():
    x = table_of(200, 2, "float32")
    frame, centers = frame_of(x), centers_of(x, 6)
    known, before = Known.nothing(200, 1 << 20), frame.centers(centers)
    before.assign_again(x, known)
    frame.centers(centers + 40).after(before, 0).assign_again(x, known)
    assert known.habits[0] > 0
    paused = known.habits[0]
    before = frame.centers(centers + 40)
    frame.centers(centers).after(before, 0).assign_again(x, known)
    assert known.habits[0] == paused - 1
    np.testing.assert_array_equal(known.labels, nearest(frame, x, centers)[0])


def test_moves_are_bounds():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 5))
    moves = Moves.of(a, b, 0.5, 1 << 20)
    moved = np.sqrt(((a - b) ** 2).sum(axis=1)) / 2
    apart = np.sqrt(((a[:, None] - a) ** 2).sum(axis=2)) / 2
    assert (moves.drifts >= np.append(moved, moved.max())).all()
    np.testing.assert_allclose(moves.drifts[:-1], moved, rtol=1e-5)
    assert (moves.between <= apart).all()
    np.testing.assert_allclose(moves.between, apart, rtol=1e-5)
    np.testing.assert_allclose(moves.apart, np.sort(apart, axis=1)[:, 1] / 2, rtol=1e-5)


def test_group_sorts_by_label():
    order, labels = np.array([1, 2, 4, 5, 7, 0]), np.array([9, 2, 0, 9, 2, 0, 9, 1], np.int32)
    starts, grouped = np.empty(4, np.int64), np.full(6, -1)
    bounds.group(order, 5, labels, starts, grouped)
    assert starts.tolist() == [0, 2, 3, 5]
    assert grouped.tolist() == [2, 5, 7, 1, 4, -1]


# Sums


@pytest.mark.parametrize("d", [1, 3, 8, 33])
def test_what_kernels_take_by_vectors_begins_with_a_line_in_any_process(d):
    frame = frame_of(table_of(99, d, np.float32))
    centers = frame.centers(np.ones((5, d)))
    for sent in (frame, pickle.loads(pickle.dumps(frame))):  # noqa: S301 - written a moment ago
        for array in (sent.shift, sent.scales, sent.totals(5).sums):
            assert array.ctypes.data % vectors.BYTES == 0
        np.testing.assert_array_equal(sent.shift, frame.shift)
        np.testing.assert_array_equal(sent.scales, frame.scales)
        assert (sent.unit, sent.deep) == (frame.unit, frame.deep)
    for sent in (centers, pickle.loads(pickle.dumps(centers))):  # noqa: S301 - written a moment ago
        assert sent.offsets.ctypes.data % vectors.BYTES == 0
        np.testing.assert_array_equal(sent.offsets, centers.offsets)
        np.testing.assert_array_equal(sent.packed, centers.packed)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_move_leave_the_bits_that_adding_anew_leaves(dtype, weighted):
    x, rng = table_of(9000, 5, dtype), np.random.default_rng(0)
    weights = frozen(rng.integers(0, 4, 9000) / 3) if weighted else None
    frame = frame_of(x, weights)
    moved, before = frame.totals(6), np.full(9000, -1, np.int32)
    for step in range(4):
        labels = before.copy()
        some = rng.integers(0, 9000, 9000 if step == 0 else 500)
        labels[some] = rng.integers(-1, 6, some.size)
        moved.move_rows(x, weights, before, labels)
        anew = frame.totals(6)
        anew.move_rows(x, weights, np.empty(0, np.int32), labels)
        np.testing.assert_array_equal(moved.sums, anew.sums)
        np.testing.assert_array_equal(moved.counts, anew.counts)
        before = labels
    used = np.ones(9000) if weights is None else weights
    for c in range(6):
        mean = np.average(x[labels == c].astype(np.float64), axis=0, weights=used[labels == c])
        np.testing.assert_allclose(moved.exact_means()[c], mean, rtol=1e-13)


@pytest.mark.parametrize("weighted", [False, True])
def test_means_are_sums_through_weights(weighted):
    rng, (k, d) = np.random.default_rng(0), (5, 3)
    sums = rng.integers(0, 1 << 32, (3, k, d + weighted))
    sums[0] -= 1 << 31
    counts, shift = np.array([3, 0, 1 << 40, 7, 1]), rng.normal(size=d)
    scales, previous = 2.0 ** rng.integers(-40, 40, d + weighted), frozen(rng.normal(size=(k, d)))
    if weighted:
        sums[0, :, d] = [5, 0, 1, 0, 9]
        sums[1:, [1, 3], d] = 0
    columns = (sums[0] * 2.0**32 + sums[1] + sums[2] * 2.0**-50) / scales
    weights = columns[:, d] if weighted else counts.astype(np.float64)
    expected = previous.copy()
    full = weights > 0
    assert set(np.flatnonzero(~full)) == ({1, 3} if weighted else {1})
    expected[full] = shift + columns[full, :d] / weights[full, None]
    found = np.full((k, d), np.nan)
    if weighted:
        counted = np.empty(k)
        center_kernels.weights(sums, scales, counted)
        np.testing.assert_array_equal(counted, weights)
    center_kernels.means(sums, weights, shift, scales, previous, found)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("dtype", [*DTYPES, "int8", "int64"])
@pytest.mark.parametrize("d", [1, 2, 3, 7, 8, 9, 15, 16, 29])
def test_offsets_have_the_bits_of_plain_python(d, dtype, deep):
    rng = np.random.default_rng(d)
    x = frozen((rng.normal(size=(6, d)) * 40).clip(0 if dtype[0] == "u" else -99).astype(dtype))
    shift, scales = frozen(rng.normal(size=d)), frozen(2.0 ** rng.integers(38, 42, d + 1))
    centers = frozen(rng.normal(size=(3, d)) * 30)
    sums = [rng.integers(-9, 9, (3, 4, d + 2)) for _ in range(2)]
    sums[1][:] = sums[0]
    squares = np.zeros((2, 7))
    for row, cluster, sign in [(0, 3, 0), (5, 1, 0), (5, 3, -1), (2, 1, -1)]:
        weight = rng.normal()
        move(x, row, weight, shift, scales, deep, sums[0], cluster, 1, sign)
        offsets.add_plainly(x, row, weight, shift, scales, deep, sums[1], cluster, 1, sign)
        square(x, row, shift, centers, sign + 1, squares[0], row + 1)
        offsets.square_plainly(x, row, shift, centers, sign + 1, squares[1], row + 1)
    np.testing.assert_array_equal(*sums)
    np.testing.assert_array_equal(*squares)
    expected = ((x[0].astype(np.float64) - shift - centers[1]) ** 2).sum()
    np.testing.assert_allclose(squares[0, 1], expected, rtol=1e-14)


@numba.njit
def move(  # noqa: PLR0917 - as the kernel
    rows, row, weight, shift, scales, deep, sums, cluster, column, sign
):
    offsets.add(rows, row, weight, shift, scales, deep, sums, cluster, column, sign)


@numba.njit
def square(rows, row, shift, centers, cluster, out, place):  # noqa: PLR0917 - as the kernel
    offsets.square(rows, row, shift, centers, cluster, out, place)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 1023, 1024, 5000])
def test_squared_distances_add_up_exactly(n, dtype):
    x, rng = table_of(n, 11, dtype), np.random.default_rng(1)
    weights, frame = frozen(rng.uniform(size=n)), frame_of(x)
    centers = frame.centers(centers_of(x, 1))
    labels = frozen(np.where(rng.random(n) < 0.9, 0, -1).astype(np.int32))
    totals = frame.totals(1)
    centers.measure(x, weights, labels, totals)
    found = centers.squared_distances(x, labels, weights)
    assert totals.inertia == math.fsum(found)
    assert not found[labels < 0].any()


# Hashes


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -np.nan, -1.0])
def test_sums_of_what_is_no_square_stay_where_they_are(value):
    # Compiled, nothing tells of what is written beyond the end: here as plain Python.
    limbs = np.zeros(sums.LIMBS, np.int64)
    plain = getattr(sums.add_exactly, "py_func", sums.add_exactly)
    plain(np.array([1.0, value, 2.0]), limbs)
    assert limbs.any()


def test_equal_rows_share_a_hash_in_any_dtype():
    x = table_of(500, 7, "uint8")
    found = []
    for dtype in ("uint8", "float32", "float64"):
        out = np.empty(len(x), np.uint64)
        hashes.hash_rows(frozen(x.astype(dtype)), out)
        found.append(out)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert len(np.unique(found[0])) == len(np.unique(x, axis=0))
    assert found[0].all()


def test_minus_zero_is_zero():
    out = np.empty(2, np.uint64)
    hashes.hash_rows(np.array([[0.0, 1], [-0.0, 1]]), out)
    assert out[0] == out[1]


@pytest.mark.parametrize("n", [1, 2, 600])
@pytest.mark.parametrize("kind", ["low bits", "one bit", "random"])
def test_any_equal_finds_two(n, kind):
    rng = np.random.default_rng(0)
    values = rng.permutation(np.arange(1, 2 * n, 2).astype(np.uint64))
    if kind == "one bit":  # of the table, for all of them
        values |= np.uint64(7 << 32)
    elif kind == "random":
        values = np.unique(rng.integers(1, 1 << 63, n, dtype=np.uint64))
    assert not hashes.any_equal(values)
    for i in (0, len(values) // 2, len(values) - 1):
        assert hashes.any_equal(rng.permutation(np.append(values, values[i])))


def test_of_no_hashes_none_are_equal():
    assert not hashes.any_equal(np.empty(0, np.uint64))


def test_lanes_are_whole_vectors():
    assert rows.LANES % vectors.lanes("float32") == 0


# Ranges


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("d", [1, 3, 8, 32, 70])
@pytest.mark.parametrize("n", [1, 7, 511, 3000])
def test_ranges_leave_out_rows_without_all_numbers(dtype, d, n):
    rng = np.random.default_rng(n * d)
    x = (rng.normal(0, 30, (n, d)) + 100).astype(dtype)
    used = rng.uniform(size=n) > 0.001
    if x.dtype.kind == "f":
        odd = rng.integers(0, n, 3)
        x[odd[0], rng.integers(d)] = np.nan
        x[odd[1], rng.integers(d)] = np.inf
        x[odd[2], rng.integers(d)] = -np.inf
    infinite = np.flatnonzero(used & np.isinf(x).any(axis=1))
    expected = used & np.isfinite(x).all(axis=1)
    low, high = np.full(d, np.inf), np.full(d, -np.inf)
    first = range_kernels.ranges(frozen(x), used, low, high)
    assert first == (infinite[0] if infinite.size else -1)
    np.testing.assert_array_equal(used, expected)
    np.testing.assert_array_equal(low, x[expected].astype("f8").min(axis=0, initial=np.inf))
    np.testing.assert_array_equal(high, x[expected].astype("f8").max(axis=0, initial=-np.inf))
