"""What one step over rows in memory leaves to the next: labels, bounds, and how centres moved."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import bounds as kernels
from dkmeans._kernels.rows import SURELY

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Bounds = tuple[Float32, Float32]

_WORTH_BOUNDS = 400  # products a row: where less, bounds cost more than they save
_ROWS_PER_PAIR = 200  # for each centre; with fewer, distances between centres cost too much


@dataclass(frozen=True, eq=False)
class Moves:
    """How far centres have moved and are from each other, for `bounds.reassign`."""

    drifts: Float32
    apart: Float32
    between: Float32

    @classmethod
    def of(cls, centers: Float64, previous: Float64, unit: float, n_rows: int) -> Self:
        """Compare the offsets of centres with those of the last step, for so many rows."""
        k = len(centers)
        with np.errstate(over="ignore", invalid="ignore"):
            moves = (centers - previous) * unit
            moved = np.sqrt((moves**2).sum(axis=1)) * (1 + SURELY)
            drifts = np.append(moved, moved.max()).astype(np.float32) * (1 + SURELY)
        if k == 1 or k * _ROWS_PER_PAIR > n_rows:
            return cls(drifts, np.zeros(k, np.float32), np.empty((0, 0), np.float32))
        between = np.empty((k, k), np.float32)
        kernels.between(centers, unit, between)
        np.fill_diagonal(between, np.inf)
        apart = between.min(axis=1) / 2
        np.fill_diagonal(between, 0)
        return cls(drifts, apart, between)


@dataclass(frozen=True, eq=False)
class Known:
    """What one step knows of rows in memory, for the next.

    Attributes
    ----------
    labels
        (n,): of the rows, -1 for those with NaN; before the first step, whatever is there.
    bounds
        (n,) each: what `kernels.assign` knows of distances; or (0,) where to keep it does not pay.
    habits
        (2,): see `bounds.reassign`.
    """

    labels: Int32
    bounds: Bounds
    habits: Int64

    @staticmethod
    def bytes_of(n_rows: int, work: int) -> int:
        """Return how much it takes, where a row costs so many products."""
        return n_rows * (12 if work >= _WORTH_BOUNDS else 4)

    @classmethod
    def nothing(cls, n_rows: int, work: int) -> Self:
        """Return what is known at first, where a row costs so many products."""
        n_bounds = n_rows if work >= _WORTH_BOUNDS else 0
        bounds = np.full(n_bounds, np.inf, np.float32), np.zeros(n_bounds, np.float32)
        return cls(np.empty(n_rows, np.int32), bounds, np.zeros(2, np.int64))

    def of(self, part: slice) -> "Known":
        """Return the part of some rows, which shares memory with the whole."""
        upper, lower = self.bounds
        return Known(self.labels[part], (upper[part], lower[part]), np.zeros(2, np.int64))
