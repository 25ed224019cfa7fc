"""Centres between two steps: made ready for the next, and found from the sums of the last.

These are few numbers, and a dozen calls of NumPy took longer than many a step.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import sums as sum_kernels
from dkmeans._kernels.compile import inline, kernel
from dkmeans._kernels.vectors import GROUP

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
Int64 = npt.NDArray[np.int64]


@kernel
def pack(
    centers: Float64, shift: Float64, unit: float, offsets: Float64, packed: Floats, halves: Floats
) -> None:
    """Write what kernels that compare rows and centres take.

    Parameters
    ----------
    centers, shift, unit
        (k, d), (d,) and a power of two.
    offsets
        OUT (k, d): of the centres from `shift`.
    packed
        OUT (groups, d, GROUP): the offsets times `unit`, and zeros that fill up the last group.
    halves
        OUT (groups * GROUP,): half of the square of their lengths, infinite for what fills up.
    """
    for c in range(halves.size):
        square = 0.0 if c < len(centers) else np.inf
        for j in range(shift.size):
            scaled = 0.0
            if c < len(centers):
                offsets[c, j] = centers[c, j] - shift[j]
                scaled = offsets[c, j] * unit
                square += scaled * scaled
            packed[c // GROUP, j, c % GROUP] = scaled
        halves[c] = square / 2


@kernel
def weights(sums: Int64, scales: Float64, out: Float64) -> None:
    """Write the weights of clusters, OUT (k,): the last column of sums, see `means`."""
    for c in range(out.size):
        out[c] = _sum(sums, c, scales.size - 1) / scales[scales.size - 1]


@kernel
def means(
    sums: Int64, weights: Float64, shift: Float64, scales: Float64, previous: Float64, out: Float64
) -> None:
    """Write the mean of each cluster, OUT (k, d), or `previous`, (k, d), where it is empty.

    `sums` is (3, k, d), or (3, k, d + 1) where the last column is of weights, see `_kernels.sums`;
    `weights` is (k,), `shift` (d,), and there is a scale for each column.
    """
    for c in range(weights.size):
        for j in range(shift.size):
            out[c, j] = previous[c, j]
            if weights[c] > 0:
                out[c, j] = shift[j] + _sum(sums, c, j) / scales[j] / weights[c]


@inline
def _sum(sums: Int64, cluster: int, column: int) -> Any:
    """Return a sum as one float64, times its scale."""
    # Of negative sums, the first two cancel, and so come first: what is left is exact.
    high = sums[0, cluster, column] * 2.0**32 + sums[1, cluster, column]
    return high + sums[2, cluster, column] * 2.0**-sum_kernels.BITS
