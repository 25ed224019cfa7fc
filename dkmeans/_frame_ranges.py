"""What a look at rows tells: the ranges of their features, and which rows have flaws."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import ranges as kernels

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]


@dataclass(frozen=True)
class Ranges:
    """What is known of some rows after a look at each.

    Attributes
    ----------
    low, high
        (d,) float64: the least and largest value of each feature, over rows that count: those
        of a weight above 0, without NaN.
    n_rows, n_used
        How many rows there are, and how many of them count.
    heaviest
        The largest weight of a row that counts.
    first_missing, first_infinite
        The number of the first row with NaN, with an infinite value; -1 if there is none.
    n_missing
        How many rows have NaN.
    first_misweighted
        The number of the first row whose weight is negative, NaN or infinite, or -1.
    """

    low: Float64
    high: Float64
    n_rows: int
    n_used: int
    heaviest: float
    n_missing: int = 0
    first_missing: int = -1
    first_infinite: int = -1
    first_misweighted: int = -1

    @classmethod
    def of(
        cls, values: Rows, weights: Float64 | None, numbers: Callable[[], Int64]
    ) -> tuple[Self, Any]:
        """Look at a block; return the ranges, and which of its rows count, (n,) bool.

        `numbers` returns the number of each row, (n,); it is called where one has to be named.
        """
        low = np.full(values.shape[1], np.inf)
        high = np.full(values.shape[1], -np.inf)
        used = np.ones(len(values), np.bool_) if weights is None else weights > 0
        n_weighty = np.count_nonzero(used)
        infinite = kernels.ranges(for_kernels(values), used, low, high)
        n_used = int(np.count_nonzero(used))
        missing = wrong = np.empty(0, np.int64)
        if n_used < n_weighty:
            missing = np.flatnonzero(~used if weights is None else ~used & (weights > 0))
        if weights is not None:
            wrong = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
        heaviest = 1.0 if weights is None else float(weights.max(initial=0.0, where=used))
        ranges = cls(
            low,
            high,
            len(values),
            n_used,
            heaviest if n_used else 0.0,
            missing.size,
            int(numbers()[missing[0]]) if missing.size else -1,
            int(numbers()[infinite]) if infinite >= 0 else -1,
            int(numbers()[wrong[0]]) if wrong.size else -1,
        )
        return ranges, used

    def merge(self, other: "Ranges") -> "Ranges":
        """Return the ranges of both sets of rows."""
        return Ranges(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.n_rows + other.n_rows,
            self.n_used + other.n_used,
            max(self.heaviest, other.heaviest),
            self.n_missing + other.n_missing,
            _first(self.first_missing, other.first_missing),
            _first(self.first_infinite, other.first_infinite),
            _first(self.first_misweighted, other.first_misweighted),
        )


def for_kernels(array: Rows) -> Rows:
    """Return an array as kernels take it that only read it: in C order, and read-only.

    For arrays that can be written to they would be compiled again, which takes seconds.
    """
    flags = array.flags
    if type(array) is np.ndarray and flags.c_contiguous and not flags.writeable:
        return array
    plain = np.ascontiguousarray(array).view()
    plain.flags.writeable = False
    return plain


def _first(a: int, b: int) -> int:
    return max(a, b) if min(a, b) < 0 else min(a, b)
