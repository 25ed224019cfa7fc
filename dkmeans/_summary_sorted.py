"""Rows of few features in memory, sorted by where they lie; see `_kernels.boxes`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from dkmeans._frame import Float64, Frame, Int32, Rows
from dkmeans._frame_ranges import for_kernels
from dkmeans._kernels import boxes as kernels
from dkmeans._passes_threads import in_threads

_MOST_FEATURES = 3  # of more, boxes around neighbours are too wide
_LEAST_PRODUCTS = 400  # a row; where less, to compare it with all centres takes as long
_MOST_BYTES = 1 << 29  # of rows, which are copied
_BITS = 15  # of the numbers of cubes
_COUNTS = 3 * 8 << 18  # bytes: of the rows in each cube, thrice, by 8 parts


@dataclass(frozen=True, eq=False)
class Sorted:
    """Rows and weights in the order of cubes, and where each was before, (n,)."""

    order: Int32
    rows: Rows
    weights: Float64 | None

    @staticmethod
    def bytes_of(rows: Rows, weights: Float64 | None) -> int:
        """Return how much it takes while it is made."""
        given = rows.nbytes + (0 if weights is None else weights.nbytes)
        return given + 6 * len(rows) + _COUNTS

    @classmethod
    def of(cls, frame: Frame, rows: Rows, weights: Float64 | None, parts: Sequence[slice]) -> Self:
        """Sort rows; threads work on `parts` of them.

        Memory: a copy of the rows and weights, and 6 bytes a row.
        """
        rows = for_kernels(rows)
        n, d = rows.shape
        spread = _spread(d)
        cubes = np.empty(n, np.uint16)
        counts = np.zeros((len(parts), 1 << d * (_BITS // d)), np.int64)

        def number(i: int) -> None:
            some = parts[i]
            kernels.number(rows[some], frame.shift, frame.unit, spread, cubes[some], counts[i])

        in_threads(number, range(len(parts)))
        # Cube by cube, those of each part follow each other.
        ends = np.cumsum(counts.T).reshape(counts.T.shape).T
        starts = np.ascontiguousarray(ends - counts)
        order, found = np.empty(n, np.int32), np.empty_like(rows)
        given = for_kernels(np.empty(0) if weights is None else weights)
        their = np.empty_like(given)

        def sort(i: int) -> None:
            some = parts[i]
            its = given if weights is None else given[some]
            kernels.sort(rows[some], its, cubes[some], some.start, starts[i], order, found, their)

        in_threads(sort, range(len(parts)))
        return cls(order, found, None if weights is None else their)

    def unsorted(self, labels: Int32) -> Int32:
        """Return the labels of the rows in the order in which they were given."""
        found = np.empty_like(labels)
        found[self.order] = labels
        return found


def is_worth_it(rows: Rows, n_clusters: int) -> bool:
    """Return whether steps over rows are faster if these are sorted first."""
    d = rows.shape[1]
    is_large = rows.nbytes > _MOST_BYTES
    return d <= _MOST_FEATURES and n_clusters * d >= _LEAST_PRODUCTS and not is_large


def boxes_of(frame: Frame, rows: Rows) -> Float64:
    """Return the boxes around tiles of sorted rows."""
    boxes = np.empty((-(-len(rows) // kernels.LANES), 2, rows.shape[1]))
    kernels.surround(for_kernels(rows), frame.shift, frame.unit, boxes)
    return boxes


def _spread(n_features: int) -> npt.NDArray[np.uint16]:
    """Return the bits of each coordinate in the number of a cube, interleaved: a Z-order curve."""
    bits = _BITS // n_features
    parts, axes = np.arange(1 << bits), np.arange(n_features)[:, None]
    spread = np.zeros((n_features, 1 << bits), np.uint16)
    for bit in range(bits):
        spread |= ((parts >> bit & 1) << (bit * n_features + axes)).astype(np.uint16)
    return spread
