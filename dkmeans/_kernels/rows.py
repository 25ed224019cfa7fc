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

from dkmeans._kernels import scores, vectors
from dkmeans._kernels import sums as sum_kernels
from dkmeans._kernels.compile import kernel
from dkmeans._kernels.scores import LANES

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Rows = npt.NDArray[Any]

SURELY = np.float32(2.0**-20)  # more than what rounding does to a distance kept as float32
_LARGE = np.float32(2.0**100)  # no distance is more sure to be large than this


@kernel
def nearest_exactly(rows: Rows, row: int, shift: Float64, offsets: Float64) -> int:
    """Return the nearest centre of one row, by differences, ties to the lowest; -1 for NaN."""
    label, best, last = -1, np.inf, offsets.shape[0] - 1
    for c in range(0, offsets.shape[0], 4):  # four sums, so that none waits for another
        c1, c2, c3 = min(c + 1, last), min(c + 2, last), min(c + 3, last)
        totals = 0.0, 0.0, 0.0, 0.0
        for j in range(rows.shape[1]):
            x = np.float64(rows[row, j]) - shift[j]
            d0, d1 = x - offsets[c, j], x - offsets[c1, j]
            d2, d3 = x - offsets[c2, j], x - offsets[c3, j]
            totals = (
                totals[0] + d0 * d0, totals[1] + d1 * d1,
                totals[2] + d2 * d2, totals[3] + d3 * d3,
            )  # fmt: skip
        if np.isnan(totals[0]):
            return -1
        for i in range(4):
            if totals[i] < best or label < 0:
                label, best = min(c + i, last), totals[i]
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
            labels[start:stop] = found[: stop - start]
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
) -> None:
    """Add each row to the sums of its cluster; rows with the label -1, or of weight 0, count not.

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
        See `sums.round_row`.
    counts, sums
        OUT (k,): the rows of each cluster, and (3, k, d or d + 1), see `_kernels.sums`.
    """
    n_features = rows.shape[1]
    weighted = weights.size > 0
    high, low = np.empty(scales.size), np.empty(scales.size)
    highs, lows = high.view(np.int64), low.view(np.int64)
    n_added = 0
    for i in range(rows.shape[0]):
        cluster = labels[i]
        previous: Any = before[i] if before.size > 0 else np.int32(-1)
        if cluster == previous or (weighted and weights[i] == 0):
            continue
        for j in range(n_features):
            low[j] = (np.float64(rows[i, j]) - shift[j]) * scales[j]
        if weighted:
            for j in range(n_features):
                low[j] *= weights[i]
            low[n_features] = weights[i] * scales[n_features]
        sum_kernels.round_row(high, low, deep)
        if cluster >= 0:
            counts[cluster] += 1
            sum_kernels.add_row(highs, lows, sums, cluster, deep)
        if previous >= 0:
            counts[previous] -= 1
            sum_kernels.subtract_row(highs, lows, sums, previous, deep)
        n_added += 1
        if n_added % sum_kernels.ROWS == 0:
            sum_kernels.carry(sums)
    sum_kernels.carry(sums)


@kernel
def squared_distances(
    rows: Rows, weights: Float64, labels: Int32, shift: Float64, centers: Float64, out: Float64
) -> None:
    """Write each row's squared distance to the centre of its label, times its weight.

    `centers` is (k, d), as offsets from `shift`; `weights` (n,) or (0,); `out` is OUT (n,), and
    gets 0 for the label -1. Differences are taken before they are squared: nothing cancels.
    """
    for i in range(rows.shape[0]):
        total = 0.0
        if labels[i] >= 0:
            for j in range(rows.shape[1]):
                difference = (np.float64(rows[i, j]) - shift[j]) - centers[labels[i], j]
                total += difference * difference
            if weights.size > 0:
                total *= weights[i]
        out[i] = total


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
