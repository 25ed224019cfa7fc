"""Numbers that follow from rows, or from their numbers: hashes, and random draws."""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import inline, kernel

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Rows = npt.NDArray[Any]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@inline
def _mix(z: Any) -> Any:
    """Return 64 bits of which each depends on all of `z`."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inline
def _chance(seed: Any, number: Any) -> Any:
    """Return a random number between 0 and 1, both excluded, for a row number.

    A function of `seed` and the number alone: splitmix64 (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014), started at the seed, at the place of the number.
    """
    mixed = _mix(np.uint64(seed) + (np.uint64(number) + np.uint64(1)) * _GOLDEN)
    return (np.float64(mixed >> np.uint64(12)) + 0.5) * 2.0**-52


@kernel
def draw(
    seed: int,
    first: int,
    numbers: Int64,
    weights: Float64,
    floor: float,
    places: Int64,
    priorities: Float64,
) -> int:
    """Find the rows, (n,), whose weight divided by their chance is above `floor`.

    Return how many there are; `places` and `priorities`, OUT (n,), tell which and how much it is.
    `numbers` is (n,), or (0,) for those that follow `first`; `weights` (n,), or (0,) for 1.
    """
    n = 0
    for i in range(places.size):
        weight = weights[i] if weights.size > 0 else 1.0
        chance = _chance(seed, numbers[i] if numbers.size > 0 else first + i)
        if weight > floor * chance:
            places[n] = i
            priorities[n] = weight / chance
            n += 1
    return n


@kernel
def one_in_each(seed: int, strata: Int64, step: int) -> Int64:
    """Return the number of one row of each stratum, (n,), of `step` rows."""
    numbers = np.empty(strata.size, np.int64)
    for i in range(strata.size):
        place = min(np.int64(_chance(seed, strata[i]) * step), step - 1)
        numbers[i] = strata[i] * step + place
    return numbers


@kernel
def hash_rows(rows: Rows, out: UInt64) -> None:
    """Write a hash of the values of each row, (n, d), to `out`, OUT (n,); equal rows share it.

    It is never 0.
    """
    n_features = rows.shape[1]
    values = np.zeros(-(-n_features // 4) * 4)
    bits = values.view(np.uint64)
    for i in range(rows.shape[0]):
        for j in range(n_features):
            values[j] = np.float64(rows[i, j]) + 0.0  # -0 becomes 0
        a, b, c, d = _GOLDEN, _GOLDEN, _GOLDEN, _GOLDEN
        for j in range(0, values.size, 4):  # four chains, so that none waits for another
            a, b = _stir(a ^ bits[j]), _stir(b ^ bits[j + 1])
            c, d = _stir(c ^ bits[j + 2]), _stir(d ^ bits[j + 3])
        out[i] = _mix(_mix(_mix(_mix(a) + b) + c) + d) | np.uint64(1)


@inline
def _stir(z: Any) -> Any:
    """Return 64 bits that depend on `z`, fast."""
    z *= _GOLDEN
    return z ^ (z >> np.uint64(32))


@kernel
def any_equal(hashes: UInt64) -> bool:
    """Return whether two of the hashes, none 0, are equal.

    Each sets one of 16 bits a hash, or a second bit beside it where that one is set: only those
    whose second bit is set in the end can be equal, and few others are.
    """
    size = 64
    while size < hashes.size // 4:
        size *= 2
    bits = np.zeros((size, 2), np.uint64)
    for i in range(hashes.size):
        word, bit = _bit(hashes[i], size)
        bits[word, 1] |= bits[word, 0] & bit
        bits[word, 0] |= bit
    suspects = np.empty(hashes.size + 1, np.uint64)  # what is not written takes no memory
    n = 0
    for i in range(hashes.size):
        word, bit = _bit(hashes[i], size)
        suspects[n] = hashes[i]
        n += (bits[word, 1] & bit) != 0
    seen = _room(n)
    for i in range(n):
        place = _place(seen, suspects[i])
        if seen[place] == suspects[i]:
            return True
        seen[place] = suspects[i]
    return False


@inline
def _bit(value: Any, size: int) -> Any:
    """Return which of `size` words, a power of two, has the bit of a hash, and that bit."""
    word = (value >> np.uint64(26)) & np.uint64(size - 1)
    return word, np.uint64(1) << ((value >> np.uint64(20)) & np.uint64(63))


@kernel
def count_distinct(hashes: UInt64, share: int, n_shares: int) -> int:
    """Return how many of the hashes are different, none 0, of those with the remainder `share`.

    `n_shares` is a power of two: what the bits from the second on are divided by.
    """
    seen = _room(hashes.size // n_shares)
    n = 0
    for i in range(hashes.size):
        value = hashes[i]
        if np.int64(value >> np.uint64(1)) & (n_shares - 1) == share:
            place = _place(seen, value)
            n += seen[place] == 0
            seen[place] = value
    return n


@inline
def _room(n: int) -> Any:
    """Return an empty table for about `n` hashes."""
    size = 64
    while size < 2 * n + 64:
        size *= 2
    return np.zeros(size, np.uint64)


@inline
def _place(seen: Any, value: Any) -> Any:
    """Return where a hash is in a table, or where it belongs."""
    mask = np.uint64(seen.size - 1)
    place = (value >> np.uint64(20)) & mask
    while seen[place] != 0 and seen[place] != value:
        place = (place + np.uint64(1)) & mask
    return place


@kernel
def compare(rows: Rows, places: Int64, others: Int64, are_equal: Bools) -> None:
    """Write whether the rows at some places, (m,), equal those at others: OUT (m,)."""
    for i in range(places.size):
        n_equal = 0
        for j in range(rows.shape[1]):
            n_equal += rows[places[i], j] == rows[others[i], j]
        are_equal[i] = n_equal == rows.shape[1]
