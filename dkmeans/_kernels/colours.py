"""Count and look up 8-bit colours.

A colour is a *code* of 24 bits, ``red << 16 | green << 8 | blue``. Tables over all colours have
2**24 entries in the order of their codes.

A *Z-code* holds the same bits interleaved (r7 g7 b7 r6 g6 b6 ... r0 g0 b0), so colours sorted by
Z-code lie in the order of an octree: every cube of 2**n colours a side is one run. Summaries are
sorted by Z-code. Grey values use the red channel alone; green and blue are zero.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import inline, kernel

UInt8 = npt.NDArray[np.uint8]
UInt16 = npt.NDArray[np.uint16]
UInt32 = npt.NDArray[np.uint32]
Int64 = npt.NDArray[np.int64]
UInts = npt.NDArray[np.unsignedinteger]
Integer = int | np.integer[Any]

N_CODES = 1 << 24


@inline
def spread(value: Integer) -> Integer:
    """Place the 8 bits of `value` three apart: bit i goes to bit 3 i."""
    value = (value | (value << 8)) & 0x00F00F
    value = (value | (value << 4)) & 0x0C30C3
    return (value | (value << 2)) & 0x249249


@inline
def gather(value: Integer) -> Integer:
    """Collect every third bit of `value`, the inverse of `spread`."""
    value = value & 0x249249
    value = (value | (value >> 2)) & 0x0C30C3
    value = (value | (value >> 4)) & 0x00F00F
    return (value | (value >> 8)) & 0x0000FF


@kernel
def count_rgb(red: UInt8, green: UInt8, blue: UInt8, low: UInt16, high: UInt32) -> None:
    """Add 1 to the count of each pixel's colour.

    A count is ``low + (high << 16)``. Counting jumps about in the table, so it takes half the time
    when the table takes half the cache; `high` is hardly ever touched.

    Parameters
    ----------
    red, green, blue
        The bands of one block, each (height, width), any strides.
    low, high
        OUT (2**24,), by code.
    """
    for y in range(red.shape[0]):
        for x in range(red.shape[1]):
            code = (
                (np.uint32(red[y, x]) << np.uint32(16))
                | (np.uint32(green[y, x]) << np.uint32(8))
                | np.uint32(blue[y, x])
            )
            count = np.uint16(low[code] + np.uint16(1))
            low[code] = count
            if count == 0:
                high[code] += np.uint32(1)


@kernel
def count_grey(grey: UInt8, low: UInt16, high: UInt32) -> None:
    """Add 1 to the count of each pixel's value; the counts are OUT (256,), else as above."""
    for y in range(grey.shape[0]):
        for x in range(grey.shape[1]):
            value = grey[y, x]
            count = np.uint16(low[value] + np.uint16(1))
            low[value] = count
            if count == 0:
                high[value] += np.uint32(1)


@kernel
def add_counts(low: UInt16, high: UInt32, other_low: UInt16, other_high: UInt32) -> None:
    """Add other counts to these; `low` and `high` are OUT (n,)."""
    for i in range(low.size):
        total = np.uint32(low[i]) + np.uint32(other_low[i])
        low[i] = np.uint16(total)
        carry = (total >> np.uint32(16)) + other_high[i]
        if carry:  # a page of `high` that is not written takes no memory
            high[i] += np.uint32(carry)


@kernel
def compact_rgb(low: UInt16, high: UInt32, codes_out: UInt32, counts_out: Int64) -> int:
    """Collect the colours that occur, sorted by Z-code.

    Parameters
    ----------
    low, high
        (2**24,), by code.
    codes_out, counts_out
        OUT (n,): Z-codes and their counts, n at least the number of counts above zero.

    Returns
    -------
    int
        How many were written.
    """
    # The lower 4 bits of each channel, as a code, for each run of 12 bits of a Z-code.
    low_codes = np.empty(1 << 12, np.uint32)
    for rest in range(1 << 12):
        low_codes[rest] = (gather(rest >> 2) << 16) | (gather(rest >> 1) << 8) | gather(rest)
    found = 0
    for cube in range(1 << 12):  # of 16 values a side
        corner = np.uint32(low_codes[cube] << np.uint32(4))
        for rest in range(1 << 12):
            code = corner | low_codes[rest]
            count = np.int64(low[code]) + (np.int64(high[code]) << 16)
            if count:
                codes_out[found] = (cube << 12) | rest
                counts_out[found] = count
                found += 1
    return found


@kernel
def compact_grey(low: UInt16, high: UInt32, codes_out: UInt32, counts_out: Int64) -> int:
    """Collect the grey values that occur, in order; as `compact_rgb`, the counts are (256,)."""
    found = 0
    for value in range(256):
        count = np.int64(low[value]) + (np.int64(high[value]) << 16)
        if count:
            codes_out[found] = spread(value) << 2
            counts_out[found] = count
            found += 1
    return found


@kernel
def decode(codes: UInt32, points: UInt8) -> None:
    """Write the colour of each Z-code: `points` is OUT (n, 3)."""
    for i in range(codes.size):
        code = np.int64(codes[i])
        points[i, 0] = gather(code >> 2)
        points[i, 1] = gather(code >> 1)
        points[i, 2] = gather(code)


@kernel
def look_up_rgb(red: UInt8, green: UInt8, blue: UInt8, table: UInts, labels: UInts) -> None:
    """Write each pixel's entry of `table`.

    Parameters
    ----------
    red, green, blue
        The bands of one block, each (height, width), any strides.
    table
        (2**24,), by code.
    labels
        OUT (height, width), of the table's dtype.
    """
    for y in range(red.shape[0]):
        for x in range(red.shape[1]):
            code = (
                (np.uint32(red[y, x]) << np.uint32(16))
                | (np.uint32(green[y, x]) << np.uint32(8))
                | np.uint32(blue[y, x])
            )
            labels[y, x] = table[code]


@kernel
def look_up_measured(
    red: UInt8,
    green: UInt8,
    blue: UInt8,
    table: UInts,
    colors: UInt8,
    labels: UInts,
    uses: Int64,
) -> int:
    """Look up labels as `look_up_rgb` does, and measure what they change.

    `colors`, (k, 3), are what the labels stand for; each pixel adds 1 to its label's entry of
    `uses`, OUT (k,). Returns the sum of squared differences over all pixels and bands.
    """
    error = np.int64(0)
    for y in range(red.shape[0]):
        for x in range(red.shape[1]):
            r, g, b = np.int64(red[y, x]), np.int64(green[y, x]), np.int64(blue[y, x])
            label = table[(r << 16) | (g << 8) | b]
            labels[y, x] = label
            uses[label] += 1
            r -= colors[label, 0]
            g -= colors[label, 1]
            b -= colors[label, 2]
            error += r * r + g * g + b * b
    return int(error)


@kernel
def interleave(red: UInt8, green: UInt8, blue: UInt8, pixels: UInt8) -> None:
    """Write three bands, each (height, width), to `pixels`, OUT (height, width, 3)."""
    for y in range(red.shape[0]):
        for x in range(red.shape[1]):
            pixels[y, x, 0] = red[y, x]
            pixels[y, x, 1] = green[y, x]
            pixels[y, x, 2] = blue[y, x]
