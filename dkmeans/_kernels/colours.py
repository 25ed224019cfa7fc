"""Count and look up 8-bit colours.

A colour is a *code* of 24 bits, ``red | green << 8 | blue << 16``: the first three bytes of a
little-endian word that begins with the pixel. Tables over all colours have 2**24 entries in the
order of their codes. Blocks whose bands lie side by side in memory, and whose width is a multiple
of 4, are passed as *words*: three uint32 hold four pixels, and yield their codes in half the time
of single bytes.

A *Z-code* holds the same bits interleaved (r7 g7 b7 r6 g6 b6 ... r0 g0 b0), so colours sorted by
Z-code lie in the order of an octree: every cube of 2**n colours a side is one run. Summaries are
sorted by Z-code. Grey values use the red channel alone; green and blue are zero.

A count is an entry of a table of uint16, and once every CARRY pixels the colour is written to a
list of *carries*. Counting jumps about in the table, so the smaller it is, the faster; and an entry
is 0 only for a colour that never occurred.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import inline, kernel

UInt8 = npt.NDArray[np.uint8]
UInt16 = npt.NDArray[np.uint16]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
UInts = npt.NDArray[np.unsignedinteger]
Ints = npt.NDArray[np.integer[Any]]
Integer = int | np.integer[Any]

N_CODES = 1 << 24
CUBE = 64  # colours in a cube of 4 values a side; the lowest 6 bits of a Z-code tell which
CARRY = (1 << 16) - 1  # what a carried count stands for: an entry goes on from 1


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


@inline
def _code(red: Any, green: Any, blue: Any) -> Any:
    return np.uint32(red) | (np.uint32(green) << np.uint32(8)) | (np.uint32(blue) << np.uint32(16))


@inline
def _codes(first: Any, second: Any, third: Any) -> tuple[Any, Any, Any, Any]:
    """Return the codes of four pixels that lie in three words."""
    return (
        first & np.uint32(0xFFFFFF),
        (first >> np.uint32(24)) | ((second & np.uint32(0xFFFF)) << np.uint32(8)),
        (second >> np.uint32(16)) | ((third & np.uint32(0xFF)) << np.uint32(16)),
        third >> np.uint32(8),
    )


# The loops below repeat the same four lines: a function of the table, even one compiled into the
# loop, would count references to it for each pixel, in eight times the time.


@kernel
def count_words(words: UInt32, table: UInt16, carries: UInt32) -> int:
    """Add 1 to the count of each pixel's colour.

    Parameters
    ----------
    words
        (height, 3 width / 4), any strides.
    table
        OUT (2**24,), by code.
    carries
        OUT (n,), n at least the number of pixels.

    Returns
    -------
    int
        How many carries were written.
    """
    # A count that was written a moment ago takes long to read, and neighbours are often equal: so
    # pixels are taken from four places by turns.
    height = words.shape[0]
    quarter = -(-height // 4)
    n = 0
    for y in range(quarter):
        for x in range(0, words.shape[1], 3):
            for part in range(4):
                row = y + part * quarter
                if row < height:
                    for code in _codes(words[row, x], words[row, x + 1], words[row, x + 2]):
                        count = np.uint16(np.uint32(table[code]) + np.uint32(1))
                        table[code] = count
                        if count == 0:
                            table[code] = 1
                            carries[n] = code
                            n += 1
    return n


@kernel
def count_rgb(red: UInt8, green: UInt8, blue: UInt8, table: UInt16, carries: UInt32) -> int:
    """Count as `count_words` does, pixels of three bands, each (height, width), any strides."""
    n = 0
    for y in range(red.shape[0]):
        for x in range(red.shape[1]):
            code = _code(red[y, x], green[y, x], blue[y, x])
            if table[code] < CARRY:
                table[code] += 1
            else:
                table[code] = 1
                carries[n] = code
                n += 1
    return n


@kernel
def count_grey(grey: UInt8, table: UInt16, carries: UInt32) -> int:
    """Count as `count_rgb` does, by value instead of by code: `table` is OUT (256,)."""
    n = 0
    for y in range(grey.shape[0]):
        for x in range(grey.shape[1]):
            value = grey[y, x]
            if table[value] < CARRY:
                table[value] += 1
            else:
                table[value] = 1
                carries[n] = value
                n += 1
    return n


@kernel
def add_counts(table: UInt16, other: UInt16, carries: UInt32) -> int:
    """Add the counts of another table; OUT are `table` and `carries`, as for `count_words`."""
    n = 0
    for i in range(table.size):
        total = np.uint32(table[i]) + np.uint32(other[i])
        if total > CARRY:
            total -= CARRY
            carries[n] = i
            n += 1
        table[i] = np.uint16(total)
    return n


@kernel
def collect_rgb(fours: UInt64, prefixes: UInt32, cubes: Ints) -> int:
    """Collect the cubes of CUBE colours of which any occurs, in the order of Z-codes.

    Parameters
    ----------
    fours
        (2**22,): the counts, by code, of four reds each.
    prefixes, cubes
        OUT (n,) and (n, CUBE), n at least the number of cubes: the upper bits of the Z-codes of a
        cube, and the counts of its colours less the carries.

    Returns
    -------
    int
        How many were written.
    """
    n_fours = CUBE // 4
    places, rests = np.empty(n_fours, np.uint32), np.empty(n_fours, np.uint32)
    for i in range(n_fours):  # of a green and a blue: where, in the first cube, and its Z-code
        places[i] = ((i & 3) << 6) | ((i >> 2) << 14)
        rests[i] = (spread(i & 3) << 1) | spread(i >> 2)
    found = 0
    for prefix in range(N_CODES // CUBE):
        red, green, blue = gather(prefix >> 2), gather(prefix >> 1), gather(prefix)
        corner = red | (green << 8) | (blue << 16)
        some = np.uint64(0)
        for i in range(n_fours):
            some |= fours[corner | places[i]]
        if some:
            for i in range(n_fours):
                four, rest = fours[corner | places[i]], rests[i]
                cubes[found, rest] = four & np.uint64(0xFFFF)
                cubes[found, rest | 4] = (four >> np.uint64(16)) & np.uint64(0xFFFF)
                cubes[found, rest | 32] = (four >> np.uint64(32)) & np.uint64(0xFFFF)
                cubes[found, rest | 36] = four >> np.uint64(48)
            prefixes[found] = prefix
            found += 1
    return found


@kernel
def collect_grey(table: UInt16, prefixes: UInt32, cubes: Ints) -> int:
    """Collect the cubes of grey values that occur, as `collect_rgb`; the counts are (256,)."""
    found = 0
    for quarter in range(64):
        some = np.uint16(0)
        cubes[found, :] = 0
        for i in range(4):
            some |= table[4 * quarter + i]
            cubes[found, spread(i) << 2] = table[4 * quarter + i]
        if some:
            prefixes[found] = spread(quarter) << 2
            found += 1
    return found


@kernel
def interleave_bits(codes: UInt32, out: UInt32) -> None:
    """Write the Z-code of each code: `out` is OUT (n,)."""
    for i in range(codes.size):
        code = np.int64(codes[i])
        red, green, blue = code & 255, (code >> 8) & 255, code >> 16
        out[i] = (spread(red) << 2) | (spread(green) << 1) | spread(blue)


@kernel
def decode(codes: UInt32, points: UInt8) -> None:
    """Write the colour of each Z-code: `points` is OUT (n, 3)."""
    for i in range(codes.size):
        code = np.int64(codes[i])
        points[i, 0] = gather(code >> 2)
        points[i, 1] = gather(code >> 1)
        points[i, 2] = gather(code)


@kernel
def look_up_words(words: UInt32, table: UInts, labels: UInts) -> None:
    """Write each pixel's entry of `table`.

    Parameters
    ----------
    words
        (height, 3 width / 4), any strides.
    table
        (2**24,), by code.
    labels
        OUT (height, width), of the table's dtype, any strides.
    """
    for y in range(words.shape[0]):
        for group in range(words.shape[1] // 3):
            x = 3 * group
            codes = _codes(words[y, x], words[y, x + 1], words[y, x + 2])
            # All four are read before the first is written: `table` and `labels` could be one.
            first, second = table[codes[0]], table[codes[1]]
            third, fourth = table[codes[2]], table[codes[3]]
            x = 4 * group
            labels[y, x], labels[y, x + 1] = first, second
            labels[y, x + 2], labels[y, x + 3] = third, fourth


@kernel
def look_up_rgb(red: UInt8, green: UInt8, blue: UInt8, table: UInts, labels: UInts) -> None:
    """Look up as `look_up_words` does, pixels of three bands, each (height, width), any strides."""
    for y in range(red.shape[0]):
        for x in range(red.shape[1]):
            labels[y, x] = table[_code(red[y, x], green[y, x], blue[y, x])]


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
            label = table[_code(r, g, b)]
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
