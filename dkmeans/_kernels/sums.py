"""Sums of floats that do not depend on the order: kept in integers, exact or nearly so.

Features are summed in *fixed point*: an offset times a power of two, its *scale*, so that it is
below 2**50, is rounded to an integer; what the rounding took away is kept in a second integer, 50
bits further down, where the data have so many bits. A sum is three int64 planes, `PLANES` of shape
(3, k, d):

    (wide * 2**32 + high + low / 2**50) / scale

A row is added to `high` and `low`, or taken from them; after at most `ROWS` rows `carry` moves what
has grown beyond 32 and 50 bits to the next plane. Integer addition is associative: any order of
rows, any division into partial sums gives the same bits.

Squared distances are never negative, and may differ by many orders of magnitude. They are summed
exactly, in the LIMBS 32-bit limbs of a long accumulator that spans all of float64's range (after
U. Kulisch, "Very fast and exact accumulation of products", Computing 91, 2011, section 2).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import kernel

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

ROWS = 4096  # between two carries
BITS = 50  # of an offset times its scale
LIMBS = 68

_EXPONENTS = 1 << 11  # of float64
_AT_A_TIME = 1 << 11  # values, each below 2**53

# Adding this to a float64 below 2**51 rounds it to an integer, which then stands in its low bits.
ROUND = 1.5 * 2.0**52
ROUND_BITS = 0x4338000000000000
_MASK = np.uint64(0xFFFFFFFF)


@kernel
def carry(sums: Int64) -> None:
    """Move what has grown too large to the next plane: `sums` is OUT (3, k, d)."""
    for c in range(sums.shape[1]):
        for j in range(sums.shape[2]):
            low = sums[2, c, j]
            high = sums[1, c, j] + (low >> BITS)
            sums[2, c, j] = low & ((1 << BITS) - 1)
            sums[1, c, j] = high & 0xFFFFFFFF
            sums[0, c, j] += high >> 32


@kernel
def add_exactly(values: Float64, limbs: Int64) -> None:
    """Add values, not negative, to an accumulator.

    `values` is (n,), `limbs` OUT (LIMBS,): the sum of ``limbs[i] * 2**(32 * i - 1074)``. Good for
    2**29 values before `carry_limbs`. With an infinite value it is 2**1024 or more.
    """
    bits = values.view(np.uint64)
    # Values of one exponent are added up first: as one integer, of which so many fill 64 bits.
    found = np.zeros(_EXPONENTS, np.uint64)
    for start in range(0, bits.size, _AT_A_TIME):
        some = bits[start : start + _AT_A_TIME]
        least, greatest = _EXPONENTS - 1, 0
        for i in range(some.size):
            # Without the sign, so that nothing is written beyond the end, whatever comes.
            exponent: Any = np.int64(some[i] >> np.uint64(52)) & (_EXPONENTS - 1)
            mantissa = some[i] & np.uint64((1 << 52) - 1)
            if exponent > 0:  # else a subnormal number
                mantissa |= np.uint64(1 << 52)
            found[exponent] += mantissa
            least, greatest = min(least, exponent), max(greatest, exponent)
        for exponent in range(least, greatest + 1):
            total = found[exponent]
            found[exponent] = 0
            place = (max(exponent, 1) - 1) >> 5
            shift = np.uint64((max(exponent, 1) - 1) & 31)
            low = (total & _MASK) << shift
            high = (total >> np.uint64(32)) << shift
            limbs[place] += np.int64(low & _MASK)
            limbs[place + 1] += np.int64((low >> np.uint64(32)) + (high & _MASK))
            limbs[place + 2] += np.int64(high >> np.uint64(32))


@kernel
def carry_limbs(limbs: Int64) -> None:
    """Bring all limbs but the last below 2**32: `limbs` is OUT (LIMBS,)."""
    for i in range(limbs.size - 1):
        limbs[i + 1] += limbs[i] >> 32
        limbs[i] &= 0xFFFFFFFF
