"""Scores of rows and centres, and what can be said for sure of them; see `_kernels.rows`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import vectors
from dkmeans._kernels.compile import inline, kernel
from dkmeans._kernels.writer import BYTES

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Rows = npt.NDArray[Any]

LANES = 256  # rows at a time
_CACHED = 1 << 17  # bytes of centres
_ABREAST = 4  # blocks of few features
_SLIGHTLY = np.float32(2.0**-10)  # more than rounding does to a length
_EPS = 2.0**-52  # of float64


@kernel
def compare(
    rows: Rows,
    order: Int64,
    start: int,
    stop: int,
    shift: Floats,
    unit: float,
    centers: Floats,
    halves: Floats,
    n_groups: int,
    tile: Floats,
    block: Rows,
    best: Floats,
    second: Floats,
    norms: Floats,
    found: Int32,
) -> int:
    """Find the two least scores of rows `start` to `stop`, LANES at most.

    Parameters
    ----------
    rows, order
        (n, d), and (m,): which rows; or (0,) where they are taken as they come.
    shift, unit
        (d,) and a power of two: offsets are taken in the precision of the first.
    centers, halves, n_groups, best, second, norms, found
        See `vectors.two_nearest`.
    tile, block
        Places to work, see `vectors.room`.

    Returns
    -------
    int
        How many lanes hold something: whole blocks.
    """
    best[:], second[:], found[:] = np.inf, np.inf, -1
    lanes = block.shape[0]
    following, scale = np.empty(lanes, np.int64), np.full(1, unit, shift.dtype)
    for i in range(lanes):  # once for all blocks: what was just written is read slowly
        following[i] = i
    n_safe, n_blocks = _safe_rows(rows, block), -((start - stop) // lanes)
    # As many centres at a time as stay in the cache while all rows of the tile go by. If all do,
    # blocks are compared while the next ones are on their way.
    step = max(_CACHED // (centers.shape[1] * vectors.GROUP * centers.itemsize), 1)
    abreast = _ABREAST if centers.shape[1] * centers.itemsize <= BYTES else 1
    for head in range(0, n_blocks, abreast):
        end = min(head + abreast, n_blocks)
        for number in range(head, end):
            first = start + number * lanes
            highest = first + lanes - 1
            if order.size > 0:
                highest = 0
                for at in range(first, min(first + lanes, stop)):
                    highest = max(highest, order[at])
            if first + lanes > stop or highest >= n_safe:
                _take(rows, order, first, stop, block)
                vectors.transpose(block, following, shift, scale, tile, number)
            elif order.size > 0:
                chosen = order[first : first + lanes]
                vectors.transpose(rows, chosen, shift, scale, tile, number)
            else:
                vectors.transpose(rows[first:], following, shift, scale, tile, number)
        if n_groups <= step:
            for number in range(head, end):
                vectors.two_nearest(
                    tile, number, centers, halves, 0, n_groups, best, second, norms, found
                )
    if n_groups > step:
        _score(n_blocks, tile, centers, halves, n_groups, step, best, second, norms, found)
    n_lanes: int = n_blocks * lanes
    return n_lanes


@kernel
def _score(
    n_blocks: int,
    tile: Floats,
    centers: Floats,
    halves: Floats,
    n_groups: int,
    step: int,
    best: Floats,
    second: Floats,
    norms: Floats,
    found: Int32,
) -> None:
    """Compare the blocks of a tile with `step` groups of centres at a time."""
    for first in range(0, n_groups, step):
        n = min(step, n_groups - first)
        for block in range(n_blocks):
            vectors.two_nearest(tile, block, centers, halves, first, n, best, second, norms, found)


@kernel
def _take(rows: Rows, order: Int64, first: int, stop: int, block: Rows) -> None:
    """Copy rows `first` to `stop`, as many as there is room for, to a block; the last fills it."""
    for i in range(block.shape[0]):
        at = min(first + i, stop - 1)
        row = order[at] if order.size > 0 else at
        for j in range(rows.shape[1]):
            block[i, j] = rows[row, j]


@kernel
def pack(
    names: Int64, n: int, centers: Floats, halves: Floats, chosen: Floats, chosen_halves: Floats
) -> None:
    """Pack the first `n` centres that `names` tells, at least one, as `centers.pack` packs all.

    `centers` and `halves` are those of all; `chosen` and `chosen_halves` are OUT.
    """
    size = vectors.GROUP
    for i in range(-(-n // size) * size):
        chosen_halves[i] = np.inf
        if i < n:
            c = names[i]
            chosen_halves[i] = halves[c]
            for j in range(centers.shape[1]):
                chosen[i // size, j, i % size] = centers[c // size, j, c % size]


@inline
def _safe_rows(rows: Rows, block: Rows) -> Any:
    """Return how many of the first rows can be read as wide as `block` is, where they lie."""
    over = (block.shape[1] - rows.shape[1]) * rows.itemsize
    stride = rows.strides[0]
    if rows.strides[1] != rows.itemsize or stride < rows.shape[1] * rows.itemsize:
        return 0
    return rows.shape[0] - (over + stride - 1) // stride


@kernel
def all_sure(
    n: int, best: Floats, second: Floats, norms: Floats, precision: float, reach: float
) -> bool:
    """Return whether the two scores of each of `n` lanes differ by more than `limits` allows."""
    n_sure = 0
    for lane in range(n):  # by more than it can be for any row: that is known sooner
        slack = precision * (np.sqrt(norms[lane]) + reach) * reach
        n_sure += second[lane] - best[lane] > slack
    if n_sure == n:
        return True
    n_sure = 0
    for lane in range(n):
        _, slack = _doubt(best[lane], norms[lane], precision, reach)
        n_sure += second[lane] - best[lane] > slack
    return n_sure == n


@kernel
def limits(
    n: int, best: Floats, second: Floats, norms: Floats, precision: float, reach: float
) -> None:
    """Turn the scores of `n` lanes into what can be said for sure: all are (LANES,), and OUT.

    `best` becomes a bound above the distance to the nearest centre, `second` one below that to any
    other, and `norms`, |x|^2, how much two scores of a lane can differ by rounding alone, taken
    from their difference: what is not above 0 needs another look. `reach` is the largest |c|. A
    score is a sum of terms of at most |x| |c| and |c|^2 in all, each rounded so often as
    `precision_of` tells; offsets and centres are rounded themselves before.
    """
    for lane in range(n):
        near, slack = _doubt(best[lane], norms[lane], precision, reach)
        length = np.sqrt(norms[lane]) + reach
        far = norms[lane] + 2 * second[lane] - 2 * precision * length * length
        norms[lane] = second[lane] - best[lane] - slack
        best[lane] = near
        second[lane] = np.sqrt(max(far, 0))


@inline
def _doubt(best: float, norm: float, precision: float, reach: float) -> Any:
    """Return how far the nearest centre is at most, and how much rounding can do to two scores.

    A centre that could be nearer than the one found is no farther off. So neither is longer than
    the row and that distance together; most rows are much shorter than the largest centre.
    """
    length = np.sqrt(norm)
    whole = length + reach
    near = np.sqrt(max(norm + 2 * best, 0) + 2 * precision * whole * whole)
    longest = min(reach, (length + near) * (1 + _SLIGHTLY))
    return near, precision * (length + longest) * longest


@inline
def reach_of(offsets: Float64, halves: Floats) -> Any:
    """Return the largest |c|, from half of its square; or more, see below."""
    largest = halves[0]
    for c in range(1, offsets.shape[0]):
        largest = max(largest, halves[c])
    # Scores of much longer rows tell centres apart that the float64 squares of differences, at
    # most some d times 2**-52 of |x|^2 off, do not: what is sure has to be so by these, too.
    least = np.sqrt(np.float64(offsets.shape[1])) * _EPS / np.finfo(halves.dtype).eps
    return max(np.sqrt(2 * largest), least)


@inline
def precision_of(rows: Rows, halves: Floats) -> Any:
    """Return the error of a sum of so many terms, and of what they are made of."""
    n = min(rows.shape[1], vectors.TERMS) + rows.shape[1] // vectors.TERMS + 8
    least = (rows.shape[1] + 8) * _EPS  # of `nearest_exactly`, whose sums have no parts
    return max(n * np.finfo(halves.dtype).eps, least)
