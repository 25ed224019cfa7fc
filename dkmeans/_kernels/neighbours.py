"""Points brought into an order in which neighbours follow each other: that of a k-d tree.

All points are halved along the feature in which they vary most, then each half, and so on (after
J. H. Friedman, J. L. Bentley, R. A. Finkel, "An algorithm for finding best matches in logarithmic
expected time", ACM TOMS 3(3), 1977). The order follows from the numbers alone, by operations that
are the same on any processor.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import kernel

Floats = npt.NDArray[np.floating[Any]]
Int32 = npt.NDArray[np.int32]

_LOOKED_AT = 64  # points, to tell along which feature to halve many
_DEPTH = 64  # of the tree, at most


@kernel
def sort(points: Floats, size: int, order: Int32) -> None:
    """Sort points into groups of `size`, each half of which, and so on, are neighbours.

    Parameters
    ----------
    points
        (n, d), finite.
    size
        Of the groups, all but the last of which are full.
    order
        OUT (n,): which points there are; in the end, in their new order.
    """
    keys = np.empty(order.size, points.dtype)
    starts, stops = np.empty(_DEPTH, np.int64), np.empty(_DEPTH, np.int64)
    starts[0], stops[0] = 0, order.size
    n_left = 1
    while n_left > 0:
        n_left -= 1
        start, stop = starts[n_left], stops[n_left]
        if stop - start <= size:
            continue
        feature = _widest(points, order, start, stop)
        for i in range(start, stop):
            keys[i] = points[order[i], feature]
        middle = start + max((stop - start) // (2 * size), 1) * size
        _select(keys, order, start, stop - 1, middle)
        starts[n_left], stops[n_left] = middle, stop
        starts[n_left + 1], stops[n_left + 1] = start, middle
        n_left += 2


@kernel
def _widest(points: Floats, order: Int32, start: int, stop: int) -> int:
    """Return the feature in which points `start` to `stop` of the order vary most, by some."""
    n = min(stop - start, _LOOKED_AT)
    step = (stop - start) // n
    first = order[start]
    widest, most = 0, -1.0
    for j in range(points.shape[1]):
        total, squares = 0.0, 0.0
        for i in range(1, n):
            x = np.float64(points[order[start + i * step], j]) - points[first, j]
            total += x
            squares += x * x
        variance = squares - total * total / n
        if variance > most:
            widest, most = j, variance
    return widest


@kernel
def _select(keys: Floats, order: Int32, low: int, high: int, place: int) -> None:
    """Bring what belongs to `place` there, the lesser before it and the greater after it.

    `keys` and `order` are OUT, between `low` and `high`, both included (C. A. R. Hoare,
    "Algorithm 65: find", CACM 4(7), 1961).
    """
    while low < high:
        a, b, c = keys[low], keys[(low + high) // 2], keys[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while keys[i] < pivot:
                i += 1
            while keys[j] > pivot:
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
