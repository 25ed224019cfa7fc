"""The least and the largest values of features, and the rows that have none."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import kernel

Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]

_LINE = 64  # values
_LINES = 8  # looked at before they are compared


@kernel
def ranges(rows: Rows, used: npt.NDArray[np.bool_], low: Float64, high: Float64) -> int:
    """Find the least and the largest value of each feature over the rows without NaN.

    Parameters
    ----------
    rows
        (n, d), C-contiguous.
    used
        OUT (n,): becomes False for rows with NaN; those that are False already are passed over.
    low, high
        OUT (d,): lowered and raised.

    Returns
    -------
    int
        The index of the first row with an infinite value, or -1.
    """
    n, d = rows.shape
    # Rows lie side by side in lines of _LINE values or more, which are compared as vectors.
    abreast = max(_LINE // d, 1)
    lines = rows[: n // abreast * abreast].reshape(n // abreast, abreast * d)
    lows, highs = np.empty(abreast * d, rows.dtype), np.empty(abreast * d, rows.dtype)
    first_infinite = -1
    n_plain = 0
    for first in range(0, lines.shape[0], _LINES):
        stop = min(first + _LINES, lines.shape[0])
        flaws = 0
        for line in range(first, stop):
            for i in range(lines.shape[1]):
                flaws += lines[line, i] - lines[line, i] != 0  # NaN, of infinity too
        for i in range(first * abreast, stop * abreast):
            flaws += not used[i]
        if flaws > 0:
            found = _ranges_of_some(rows, used, first * abreast, stop * abreast, low, high)
            first_infinite = found if first_infinite < 0 else first_infinite
            continue
        if n_plain == 0:
            for i in range(lines.shape[1]):  # assigning to a slice takes seconds to compile
                lows[i] = highs[i] = lines[first, i]
        n_plain += 1
        for line in range(first, stop):
            for i in range(lines.shape[1]):
                value = lines[line, i]
                lows[i] = min(lows[i], value)
                highs[i] = max(highs[i], value)
    found = _ranges_of_some(rows, used, lines.shape[0] * abreast, n, low, high)
    first_infinite = found if first_infinite < 0 else first_infinite
    if n_plain > 0:
        for i in range(lows.size):
            low[i % d] = min(low[i % d], np.float64(lows[i]))
            high[i % d] = max(high[i % d], np.float64(highs[i]))
    return first_infinite


@kernel
def _ranges_of_some(
    rows: Rows,
    used: npt.NDArray[np.bool_],
    start: int,
    stop: int,
    low: Float64,
    high: Float64,
) -> int:
    """Do the same for rows `start` to `stop`, one by one."""
    first_infinite = -1
    for i in range(start, stop):
        if not used[i]:
            continue
        bad = 0.0
        infinite = False
        for j in range(rows.shape[1]):
            value = np.float64(rows[i, j])
            bad += value - value  # NaN for NaN and infinity
            infinite |= np.isinf(value)
        if bad != 0:
            used[i] = False
            if infinite and first_infinite < 0:
                first_infinite = i
            continue
        for j in range(rows.shape[1]):
            value = np.float64(rows[i, j])
            low[j] = min(low[j], value)
            high[j] = max(high[j], value)
    return first_infinite
