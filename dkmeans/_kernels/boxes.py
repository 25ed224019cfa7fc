"""Steps of k-means on rows of few features, sorted so that neighbours lie near each other.

Of a tile of neighbours the box around them is known. A centre whose least distance from the box is
more than another's greatest one is nearest to none of its rows (after T. Kanungo et al., "An
efficient k-means clustering algorithm", PAMI 24, 2002, section 3, which has a tree of boxes). The
few that are left are compared as in `rows.assign`, and the labels are the same.

Rows are sorted by cubes of a grid, which follow each other along a Z-order curve.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import rows as kernels
from dkmeans._kernels import scores, vectors
from dkmeans._kernels.compile import kernel

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Int64 = npt.NDArray[np.int64]
UInt16 = npt.NDArray[np.uint16]
Int32 = npt.NDArray[np.int32]
Rows = npt.NDArray[Any]

LANES = scores.LANES  # rows of a tile

_SURELY = 1 + 2.0**-40  # more than rounding does to a squared distance from a box


@kernel
def number(
    rows: Rows, shift: Float64, unit: float, spread: UInt16, cubes: UInt16, counts: Int64
) -> None:
    """Write the number of the cube in which each row lies, and count the rows of each.

    Parameters
    ----------
    rows, shift, unit
        (n, d); offsets from (d,), times a power of two, are between -1 and 1.
    spread
        (d, m): the bits that a coordinate, in m parts, gives to the number.
    cubes, counts
        OUT (n,), and OUT (number of cubes,): added to.
    """
    n_parts = spread.shape[1]
    for i in range(rows.shape[0]):
        cube = np.uint16(0)
        for j in range(rows.shape[1]):
            x = (np.float64(rows[i, j]) - shift[j]) * unit
            part: Any = 0
            if x > -1:  # not so for NaN
                part = np.int64(min((x + 1) * (n_parts / 2), n_parts - 1.0))
            cube |= spread[j, part]
        cubes[i] = cube
        counts[cube] += 1


@kernel
def sort(
    rows: Rows,
    weights: Float64,
    cubes: UInt16,
    first: int,
    starts: Int64,
    order: Int32,
    sorted_rows: Rows,
    sorted_weights: Float64,
) -> None:
    """Copy rows, the first of which has the number `first`, to where their cubes begin.

    `weights` is (n,) or (0,); `starts`, OUT, where the next row of each cube goes; `order`,
    `sorted_rows` and `sorted_weights` are OUT, of all rows.
    """
    for i in range(rows.shape[0]):
        place = starts[cubes[i]]
        starts[cubes[i]] += 1
        order[place] = first + i
        for j in range(rows.shape[1]):
            sorted_rows[place, j] = rows[i, j]
        if weights.size > 0:
            sorted_weights[place] = weights[i]


@kernel
def surround(rows: Rows, shift: Float64, unit: float, boxes: Float64) -> None:
    """Write the box around each tile of rows: OUT (m, 2, d), the least and greatest offsets."""
    for tile in range(boxes.shape[0]):
        start, stop = tile * LANES, min((tile + 1) * LANES, rows.shape[0])
        for j in range(rows.shape[1]):
            low, high = np.inf, -np.inf
            for i in range(start, stop):
                x = np.float64(rows[i, j])
                low, high = min(low, x), max(high, x)  # which stay what they are for NaN
            boxes[tile, 0, j], boxes[tile, 1, j] = (low - shift[j]) * unit, (high - shift[j]) * unit


@kernel
def choose(
    boxes: Float64, tile: int, points: Float64, least: Float64, greatest: Float64, names: Int64
) -> int:
    """Write to `names`, OUT (k,), which centres can be nearest to a row in a box.

    Return how many. `points` are the centres, (d, k); `least` and `greatest`, (k,), a place to
    work.
    """
    least[:], greatest[:] = 0, 0
    for j in range(points.shape[0]):
        low, high = boxes[tile, 0, j], boxes[tile, 1, j]
        for c in range(points.shape[1]):
            below, above = low - points[j, c], points[j, c] - high
            beside = max(below, above, 0.0)
            across = max(-below, -above)
            least[c] += beside * beside
            greatest[c] += across * across
    bits = greatest.view(np.int64)  # in the order of the numbers, as none is negative
    smallest = bits[0]
    for c in range(1, bits.size):
        smallest = min(smallest, bits[c])
    bits[0] = smallest
    limit = greatest[0] * _SURELY
    n = 0
    for c in range(least.size):
        names[n] = c
        n += not least[c] > limit
    return n


@kernel
def assign(
    rows: Rows,
    shift: Float64,
    rough_shift: Floats,
    unit: float,
    offsets: Float64,
    centers: Floats,
    halves: Floats,
    boxes: Float64,
    labels: Int32,
) -> None:
    """Do what `rows.assign` does, for rows whose tiles have these `boxes`."""
    tile, block, best, second, norms, found = vectors.room(LANES, rows, centers)
    nothing, no_bounds = np.empty(0, np.int64), np.empty(0, np.float32)
    k = offsets.shape[0]
    points = np.ascontiguousarray(offsets.T) * unit
    least, greatest, names = np.empty(k), np.empty(k), np.empty(k + 1, np.int64)
    some, some_halves = np.zeros_like(centers), np.zeros_like(halves)
    reach, precision = scores.reach_of(offsets, halves), scores.precision_of(rows, halves)
    for at in range(boxes.shape[0]):
        start, stop = at * LANES, min((at + 1) * LANES, rows.shape[0])
        n = choose(boxes, at, points, least, greatest, names)
        scores.pack(names, n, centers, halves, some, some_halves)
        n_lanes = scores.compare(
            rows, nothing, start, stop, rough_shift, unit, some, some_halves,
            -(-n // vectors.GROUP), tile, block, best, second, norms, found,
        )  # fmt: skip
        if scores.all_sure(stop - start, best, second, norms, precision, reach):
            for lane in range(stop - start):
                labels[start + lane] = names[found[lane]]
            continue
        scores.limits(n_lanes, best, second, norms, precision, reach)
        kernels.settle(
            rows, nothing, start, stop, shift, offsets, names[:n], 0.0,
            best, second, norms, found, labels, no_bounds, no_bounds,
        )  # fmt: skip
