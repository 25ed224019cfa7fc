"""The least and the largest values of features, and the rows that have none."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import kernel

Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[Any]

_LINE = 64  # values
_LINES = 16  # compared at once; if one has a flaw, all are looked at again, row by row


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
    width = abreast * d
    lines = rows[: n // abreast * abreast].reshape(n // abreast, width)
    lows, highs = np.empty(width, rows.dtype), np.empty(width, rows.dtype)
    least, greatest, flaws = np.empty_like(lows), np.empty_like(lows), np.empty_like(lows)
    first_infinite = -1
    n_plain = 0
    for first in range(0, lines.shape[0], _LINES):
        stop = min(first + _LINES, lines.shape[0])
        n_flaws = 0
        for i in range(first * abreast, stop * abreast):
            n_flaws += not used[i]
        for i in range(width):
            least[i] = greatest[i] = lines[first, i]
            flaws[i] = 0
        for line in range(first, stop, 4):  # so what was found is read and written once for four
            second, third = min(line + 1, stop - 1), min(line + 2, stop - 1)
            last = min(line + 3, stop - 1)
            for i in range(width):
                a, b, c, e = lines[line, i], lines[second, i], lines[third, i], lines[last, i]
                flaws[i] += ((a - a) + (b - b)) + ((c - c) + (e - e))  # NaN, of infinity too
                least[i] = min(least[i], a, b, c, e)
                greatest[i] = max(greatest[i], a, b, c, e)
        for i in range(width):
            n_flaws += flaws[i] != 0
        if n_flaws > 0:
            found = _ranges_of_some(rows, used, first * abreast, stop * abreast, low, high)
            first_infinite = found if first_infinite < 0 else first_infinite
            continue
        n_plain += 1
        for i in range(width):
            lows[i] = min(lows[i], least[i]) if n_plain > 1 else least[i]
            highs[i] = max(highs[i], greatest[i]) if n_plain > 1 else greatest[i]
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
