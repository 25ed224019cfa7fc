"""The steps of k-means on rows of features.

Rows are worked on in tiles of LANES, transposed to (features, LANES) as offsets from a point near
the middle of the data, so that a large mean does not cancel, times a power of two that brings the
largest to about 1. Every lane does the same operations in the same order, whatever its place: a row
gets the same label in any block. Features and centres are filled up with zeros to multiples of 4.

The nearest centre c of an offset x is that with the least *score* |c|^2 / 2 - x . c. That is fast,
but rounded, most of all in float32. So where the two best scores differ by less than rounding can
do, the row is compared with all centres again, by squared differences in float64. The label of a
row is that of the nearest centre by this measure, the lowest of several, in whatever precision and
by whatever instructions the scores were computed.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import sums as sum_kernels
from dkmeans._kernels.compile import fused_kernel, inline, kernel

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Rows = npt.NDArray[Any]

LANES = 256
GROUP = 4  # centres, and features, in one inner loop
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel
def load(rows: Rows, start: int, stop: int, shift: Float64, unit: float, tile: Floats) -> None:
    """Transpose the offsets of rows `start` to `stop` to `tile`, OUT (d or more, LANES)."""
    for i in range(start, stop):
        for j in range(rows.shape[1]):
            tile[j, i - start] = (np.float64(rows[i, j]) - shift[j]) * unit


@kernel
def slacks(tile: Floats, reach: float, precision: float, out: Floats) -> None:
    """Write how much two scores of a lane can differ by rounding alone: `out` is OUT (LANES,).

    `reach` is the largest |c|. A score is a sum of d + 1 terms of at most |x| |c| and |c|^2 in
    all; offsets and centres are rounded themselves before.
    """
    out[:] = 0
    for j in range(tile.shape[0]):
        for lane in range(LANES):
            out[lane] += tile[j, lane] * tile[j, lane]
    for lane in range(LANES):
        out[lane] = precision * (np.sqrt(out[lane]) + reach) * reach


@fused_kernel
def nearest(
    tile: Floats,
    centers: Floats,
    halves: Floats,
    scores: Floats,
    best: Floats,
    second: Floats,
    labels: Int32,
) -> None:
    """Write the index of the centre with the least score for each lane; NaN gives -1.

    Parameters
    ----------
    tile
        (d, LANES), d a multiple of GROUP.
    centers, halves
        (k, d) and (k,), k a multiple of GROUP: the centres as offsets, and half of |c|^2, which is
        infinite for those that fill up.
    scores
        OUT (GROUP, LANES): a place to work.
    best, second
        OUT (LANES,): the least and the second least score.
    labels
        OUT (LANES,).
    """
    best[:] = np.inf
    second[:] = np.inf
    labels[:] = -1
    for c in range(0, centers.shape[0], GROUP):
        for i in range(GROUP):
            scores[i, :] = halves[c + i]
        for j in range(0, centers.shape[1], GROUP):
            a0, a1, a2, a3 = centers[c, j], centers[c, j + 1], centers[c, j + 2], centers[c, j + 3]
            b0, b1 = centers[c + 1, j], centers[c + 1, j + 1]
            b2, b3 = centers[c + 1, j + 2], centers[c + 1, j + 3]
            c0, c1 = centers[c + 2, j], centers[c + 2, j + 1]
            c2, c3 = centers[c + 2, j + 2], centers[c + 2, j + 3]
            d0, d1 = centers[c + 3, j], centers[c + 3, j + 1]
            d2, d3 = centers[c + 3, j + 2], centers[c + 3, j + 3]
            for lane in range(LANES):
                x0, x1 = tile[j, lane], tile[j + 1, lane]
                x2, x3 = tile[j + 2, lane], tile[j + 3, lane]
                scores[0, lane] = scores[0, lane] - x0 * a0 - x1 * a1 - x2 * a2 - x3 * a3
                scores[1, lane] = scores[1, lane] - x0 * b0 - x1 * b1 - x2 * b2 - x3 * b3
                scores[2, lane] = scores[2, lane] - x0 * c0 - x1 * c1 - x2 * c2 - x3 * c3
                scores[3, lane] = scores[3, lane] - x0 * d0 - x1 * d1 - x2 * d2 - x3 * d3
        for i in range(GROUP):
            for lane in range(LANES):
                score, so_far = scores[i, lane], best[lane]
                nearer = score < so_far
                loser = so_far if nearer else score
                second[lane] = min(second[lane], loser)
                best[lane] = score if nearer else so_far
                labels[lane] = c + i if nearer else labels[lane]


@kernel
def _nearest_exactly(rows: Rows, row: int, shift: Float64, offsets: Float64) -> int:
    """Return the nearest centre of one row, by differences, ties to the lowest; -1 for NaN."""
    label, best = -1, np.inf
    for c in range(offsets.shape[0]):
        total = 0.0
        for j in range(rows.shape[1]):
            difference = (np.float64(rows[row, j]) - shift[j]) - offsets[c, j]
            total += difference * difference
        if np.isnan(total):
            return -1
        if total < best or label < 0:
            label, best = c, total
    return label


@kernel
def assign(
    rows: Rows,
    shift: Float64,
    unit: float,
    offsets: Float64,
    centers: Floats,
    halves: Floats,
    labels: Int32,
) -> None:
    """Write the index of the nearest centre of each row, ties to the lowest; -1 for NaN.

    Parameters
    ----------
    rows
        (n, d).
    shift, unit
        (d,) and a power of two.
    offsets
        (k, d): the centres, less `shift`.
    centers, halves
        As for `nearest`: the offsets times `unit`, in the precision of the scores.
    labels
        OUT (n,).
    """
    dtype = centers.dtype
    tile = np.zeros((centers.shape[1], LANES), dtype)
    scores = np.empty((GROUP, LANES), dtype)
    best, second, slack = np.empty(LANES, dtype), np.empty(LANES, dtype), np.empty(LANES, dtype)
    found = np.empty(LANES, np.int32)
    reach = 0.0
    for c in range(offsets.shape[0]):
        reach = max(reach, np.sqrt(2 * halves[c]))
    precision = (rows.shape[1] + 8) * np.finfo(dtype).eps
    for start in range(0, rows.shape[0], LANES):
        stop = min(start + LANES, rows.shape[0])
        load(rows, start, stop, shift, unit, tile)
        slacks(tile, reach, precision, slack)
        nearest(tile, centers, halves, scores, best, second, found)
        for i in range(start, stop):
            lane = i - start
            label = found[lane]
            if not second[lane] - best[lane] > slack[lane]:  # or one is not finite
                label = _nearest_exactly(rows, i, shift, offsets)
            labels[i] = label


@kernel
def accumulate(
    rows: Rows,
    weights: Float64,
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
        (n, d), n at most `sums.ROWS`.
    weights
        (n,); or (0,) where each row counts once.
    labels
        (n,).
    shift, scales
        (d,) and, with weights, (d + 1,), else (d,): what the sums are of is
        ``(row - shift) * weight * scale``; the last column is that of the weights themselves.
    deep
        See `sums.add_row`.
    counts, sums
        OUT (k,): the rows of each cluster, and (3, k, d or d + 1), see `_kernels.sums`.
    """
    n_features = rows.shape[1]
    weighted = weights.size > 0
    values, rounded = np.empty(scales.size), np.empty(scales.size)
    for i in range(rows.shape[0]):
        cluster = labels[i]
        if cluster < 0 or (weighted and weights[i] == 0):
            continue
        counts[cluster] += 1
        for j in range(n_features):
            values[j] = (np.float64(rows[i, j]) - shift[j]) * scales[j]
        if weighted:
            for j in range(n_features):
                values[j] *= weights[i]
            values[n_features] = weights[i] * scales[n_features]
        sum_kernels.add_row(values, rounded, sums, cluster, deep)
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
        load(rows, start, stop, shift, 1.0, tile)
        for c in range(centers.shape[0]):
            totals[:] = 0
            for j in range(rows.shape[1]):
                center = centers[c, j]
                for lane in range(LANES):
                    difference = tile[j, lane] - center
                    totals[lane] += difference * difference
            for i in range(start, stop):
                out[i, c] = np.sqrt(totals[i - start])


@kernel
def ranges(rows: Rows, used: npt.NDArray[np.bool_], low: Float64, high: Float64) -> int:
    """Find the least and the largest value of each feature over the rows without NaN.

    Parameters
    ----------
    rows
        (n, d).
    used
        OUT (n,): becomes False for rows with NaN; those that are False already are passed over.
    low, high
        OUT (d,): lowered and raised.

    Returns
    -------
    int
        The index of the first row with an infinite value, or -1.
    """
    first_infinite = -1
    for i in range(rows.shape[0]):
        if not used[i]:
            continue
        bad = 0.0
        for j in range(rows.shape[1]):
            value = np.float64(rows[i, j])
            bad += value - value  # NaN for NaN and infinity
        if bad != 0:
            infinite = False
            for j in range(rows.shape[1]):
                infinite |= np.isinf(np.float64(rows[i, j]))
            used[i] = False
            if infinite and first_infinite < 0:
                first_infinite = i
            continue
        for j in range(rows.shape[1]):
            value = np.float64(rows[i, j])
            low[j] = min(low[j], value)
            high[j] = max(high[j], value)
    return first_infinite


@inline
def _mix(z: Any) -> Any:
    """Return 64 bits of which each depends on all of `z`."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel
def uniform(seed: int, numbers: Int64, out: Float64) -> None:
    """Write a random number between 0 and 1, both excluded, for each row number.

    A function of `seed` and the number alone: splitmix64 (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014), started at the seed, at the place of the number.
    `numbers` is (n,), `out` OUT (n,).
    """
    for i in range(numbers.size):
        mixed = _mix(np.uint64(seed) + (np.uint64(numbers[i]) + np.uint64(1)) * _GOLDEN)
        out[i] = (np.float64(mixed >> np.uint64(12)) + 0.5) * 2.0**-52


@kernel
def hash_rows(rows: Rows, out: npt.NDArray[np.uint64]) -> None:
    """Write a hash of the values of each row, (n, d), to `out`, OUT (n,); equal rows share it."""
    values = np.empty(rows.shape[1])
    bits = values.view(np.uint64)
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            values[j] = np.float64(rows[i, j]) + 0.0  # -0 becomes 0
        hashed = _GOLDEN
        for j in range(rows.shape[1]):
            hashed = _mix((hashed ^ bits[j]) + _GOLDEN)
        out[i] = hashed
