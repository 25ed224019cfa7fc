"""The steps of k-means on rows of features.

Rows are worked on in tiles of LANES, transposed to (blocks, d, lanes), see `_kernels.vectors`, as
offsets from a point near the middle of the data, so that a large mean does not cancel, times a
power of two that brings the largest to about 1. Every lane does the same operations in the same
order, whatever its place: a row gets the same label in any block.

The nearest centre c of an offset x is that with the least *score* |c|^2 / 2 - x . c. That is fast,
but rounded, most of all in float32. So where the two best scores differ by less than rounding can
do, the row is compared with all centres again, by squared differences in float64. The label of a
row is that of the nearest centre by this measure, the lowest of several, in whatever precision and
by whatever instructions the scores were computed.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import offsets as offset_kernels
from dkmeans._kernels import scores, vectors
from dkmeans._kernels import sums as sum_kernels
from dkmeans._kernels.changes import changed
from dkmeans._kernels.compile import kernel
from dkmeans._kernels.scores import LANES

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Rows = npt.NDArray[Any]

SURELY = np.float32(2.0**-20)  # more than what rounding does to a distance kept as float32
_AT_A_TIME = 1024  # rows: what is known of so many stays in the cache
_LARGE = np.float32(2.0**100)  # no distance is more sure to be large than this


@kernel
def nearest_exactly(rows: Rows, row: int, shift: Float64, offsets: Float64) -> int:
    """Return the nearest centre of one row, by differences, ties to the lowest; -1 for NaN."""
    offset, nowhere, square = np.empty((1, shift.size)), np.zeros(shift.size), np.empty(1)
    for j in range(shift.size):
        offset[0, j] = np.float64(rows[row, j]) - shift[j]
    label, best = -1, np.inf
    for c in range(offsets.shape[0]):
        offset_kernels.square(offset, 0, nowhere, offsets, c, square, 0)
        if np.isnan(square[0]):
            return -1
        if square[0] < best or label < 0:
            label, best = c, square[0]
    return label


@kernel
def settle(
    rows: Rows,
    order: Int64,
    start: int,
    stop: int,
    shift: Float64,
    offsets: Float64,
    names: Int64,
    beyond: float,
    best: Floats,
    second: Floats,
    margins: Floats,
    found: Int32,
    labels: Int32,
    upper: Float32,
    lower: Float32,
) -> None:
    """Write the labels and bounds of the rows of a tile, after another look where one is due.

    Parameters
    ----------
    rows, order, start, stop, shift, offsets
        See `load` and `assign`.
    names
        (m,): which centres the scores are of; or (0,) if of all, in their order.
    beyond
        At least so far from the centre of each row's label so far are those not scored.
    best, second, margins, found
        (LANES,): see `limits`, and the index of the nearest.
    labels, upper, lower
        OUT: see `assign`.
    """
    for at in range(start, stop):
        lane = at - start
        row = order[at] if order.size > 0 else at
        label = found[lane]
        near: Any = np.float64(best[lane])
        far: Any = np.float64(second[lane])
        if margins[lane] > 0:
            if names.size > 0:
                label = names[label]
        else:  # or not finite
            label = nearest_exactly(rows, row, shift, offsets)
            near, far = np.inf, 0.0
        if upper.size > 0:
            if names.size > 0:
                far = min(far, beyond - upper[row])
            lower[row] = min(np.float32(far), _LARGE) * (1 - SURELY)
            upper[row] = np.float32(near) * (1 + SURELY)
        labels[row] = label


@kernel
def assign(
    rows: Rows,
    shift: Float64,
    rough_shift: Floats,
    unit: float,
    offsets: Float64,
    centers: Floats,
    halves: Floats,
    labels: Int32,
    upper: Float32,
    lower: Float32,
) -> None:
    """Write the index of the nearest centre of each row, ties to the lowest; -1 for NaN.

    Parameters
    ----------
    rows
        (n, d).
    shift, unit
        (d,) and a power of two.
    rough_shift
        (d,): `shift` in the precision in which offsets are taken for scores.
    offsets
        (k, d): the centres, less `shift`.
    centers, halves
        As for `vectors.two_nearest`: the offsets times `unit`, in the precision of the scores.
    labels
        OUT (n,).
    upper, lower
        OUT (n,), or (0,) if not wanted: times `unit`, at most so far is the nearest centre from
        each row, and at least so far any other; infinity and 0 if the row was looked at twice.
    """
    tile, block, best, second, norms, found = vectors.room(LANES, rows, centers)
    nothing = np.empty(0, np.int64)
    reach, precision = scores.reach_of(offsets, halves), scores.precision_of(rows, halves)
    for start in range(0, rows.shape[0], LANES):
        stop = min(start + LANES, rows.shape[0])
        n_lanes = scores.compare(
            rows, nothing, start, stop, rough_shift, unit, centers, halves, centers.shape[0],
            tile, block, best, second, norms, found,
        )  # fmt: skip
        if upper.size == 0 and scores.all_sure(stop - start, best, second, norms, precision, reach):
            sure = labels[start:stop]
            for lane in range(sure.size):  # assigning to all of it takes seconds to compile
                sure[lane] = found[lane]
            continue
        scores.limits(n_lanes, best, second, norms, precision, reach)
        settle(
            rows, nothing, start, stop, shift, offsets, nothing, 0.0,
            best, second, norms, found, labels, upper, lower,
        )  # fmt: skip


@kernel
def accumulate(
    rows: Rows,
    weights: Float64,
    before: Int32,
    labels: Int32,
    shift: Float64,
    scales: Float64,
    deep: bool,  # noqa: FBT001 - kernels take all by position
    counts: Int64,
    sums: Int64,
) -> int:
    """Add each row to the sums of its cluster; rows with the label -1, or of weight 0, count not.

    Return how many are in another cluster than before.

    Parameters
    ----------
    rows
        (n, d).
    weights
        (n,); or (0,) where each row counts once.
    before
        (n,), or (0,): the clusters in whose sums rows are already. Those of another cluster now
        are moved.
    labels
        (n,).
    shift, scales
        (d,) and, with weights, (d + 1,), else (d,): what the sums are of is
        ``(row - shift) * weight * scale``; the last column is that of the weights themselves.
    deep
        See `offsets.add_plainly`.
    counts, sums
        OUT (k,): the rows of each cluster, and (3, k, d or d + 1), see `_kernels.sums`.
    """
    n, n_features = rows.shape
    columns, no_weights, no_counts = weights.reshape(-1, 1), weights[:0], counts[:0]
    nothing, last = np.zeros(1), scales[n_features:]
    n_added, n_moved = 0, 0  # since sums were carried, and in all
    for start in range(0, n, _AT_A_TIME):
        stop = min(start + _AT_A_TIME, n)
        if n_added + stop - start > sum_kernels.ROWS:
            sum_kernels.carry(sums)
            n_added = 0
        moved = _move(
            rows, weights, before, labels, start, stop, shift, scales, deep, counts, sums, 0
        )
        n_added, n_moved = n_added + moved, n_moved + moved
        if weights.size > 0:
            _move(
                columns, no_weights, before, labels, start, stop, nothing, last, deep, no_counts,
                sums, n_features,
            )  # fmt: skip
    sum_kernels.carry(sums)
    return n_moved


@kernel
def _move(
    rows: Rows,
    weights: Float64,
    before: Int32,
    labels: Int32,
    start: int,
    stop: int,
    shift: Float64,
    scales: Float64,
    deep: bool,  # noqa: FBT001 - kernels take all by position
    counts: Int64,
    sums: Int64,
    column: int,
) -> int:
    """Do so for rows `start` to `stop`, whose first feature has this column of the sums.

    Return how many rows were added or moved; they are counted unless `counts` is (0,).
    """
    places = np.empty(_AT_A_TIME if before.size > 0 else 0, np.int32)
    n = stop - start
    if before.size > 0:
        n = changed(before[start:stop], labels[start:stop], places)
    for at in range(n):
        i = start + (places[at] if before.size > 0 else at)
        cluster, weight = labels[i], weights[i] if weights.size > 0 else 1.0
        if weight == 0:
            continue
        if cluster >= 0:
            offset_kernels.add(rows, i, weight, shift, scales, deep, sums, cluster, column, 0)
            if counts.size > 0:
                counts[cluster] += 1
        if before.size > 0 and before[i] >= 0:
            offset_kernels.add(rows, i, weight, shift, scales, deep, sums, before[i], column, -1)
            if counts.size > 0:
                counts[before[i]] -= 1
    return n


@kernel
def squared_distances(
    rows: Rows, weights: Float64, labels: Int32, shift: Float64, centers: Float64, out: Float64
) -> None:
    """Write each row's squared distance to the centre of its label, times its weight.

    `centers` is (k, d), as offsets from `shift`; `weights` (n,) or (0,); `out` is OUT (n,), and
    gets 0 for the label -1 and the weight 0. Differences are taken before they are squared: nothing
    cancels.
    """
    _squared(rows, weights, labels, 0, rows.shape[0], shift, centers, out)


@kernel
def add_squared_distances(
    rows: Rows, weights: Float64, labels: Int32, shift: Float64, centers: Float64, limbs: Int64
) -> None:
    """Add what `squared_distances` writes to an accumulator, see `sums.add_exactly`."""
    found = np.empty(_AT_A_TIME)
    for start in range(0, rows.shape[0], _AT_A_TIME):
        stop = min(start + _AT_A_TIME, rows.shape[0])
        _squared(rows, weights, labels, start, stop, shift, centers, found)
        sum_kernels.add_exactly(found[: stop - start], limbs)
    sum_kernels.carry_limbs(limbs)


@kernel
def _squared(
    rows: Rows,
    weights: Float64,
    labels: Int32,
    start: int,
    stop: int,
    shift: Float64,
    centers: Float64,
    out: Float64,
) -> None:
    """Write the squared distances of rows `start` to `stop` to the front of `out`."""
    for i in range(start, stop):
        weight = weights[i] if weights.size > 0 else 1.0
        if labels[i] >= 0 and weight > 0:  # what does not count may be too far off for a square
            offset_kernels.square(rows, i, shift, centers, labels[i], out, i - start)
            out[i - start] *= weight
        else:
            out[i - start] = 0.0


@kernel
def distances(rows: Rows, shift: Float64, centers: Float64, out: Floats) -> None:
    """Write the distance of each row to each centre.

    `centers` is (k, d), as offsets from `shift`; `out` is OUT (n, k).
    """
    tile = np.zeros((rows.shape[1], LANES))
    totals = np.empty(LANES)
    for start in range(0, rows.shape[0], LANES):
        stop = min(start + LANES, rows.shape[0])
        for i in range(start, stop):
            for j in range(rows.shape[1]):
                tile[j, i - start] = np.float64(rows[i, j]) - shift[j]
        for c in range(centers.shape[0]):
            totals[:] = 0
            for j in range(rows.shape[1]):
                center = centers[c, j]
                for lane in range(LANES):
                    difference = tile[j, lane] - center
                    totals[lane] += difference * difference
            for i in range(start, stop):
                out[i, c] = np.sqrt(totals[i - start])
