"""Indexed PNG, written in bands that can be encoded anywhere and joined by copying bytes.

PNG (ISO/IEC 15948), sections 11.2 and 11.3: a signature, IHDR, PLTE, any number of IDAT chunks
that together hold one zlib stream (RFC 1950), IEND. Each band of rows is one IDAT chunk whose
deflate data (RFC 1951) ends on a byte and refers to no other band.
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from dkmeans._palette import Palette
from dkmeans.images._deflate import Compression, deflate

_BAND = 1 << 20  # bytes of a band before compression
_ADLER_BASE = 65521


@dataclass(frozen=True)
class Band:
    """An encoded band: an IDAT chunk, and the checksum and number of the bytes before encoding."""

    chunk: bytes
    adler: int
    length: int


def bit_depth(n_colors: int) -> int:
    """Return the bits of an index: 1, 2, 4 or 8."""
    return next(bits for bits in (1, 2, 4, 8) if n_colors <= 1 << bits)


def band_rows(width: int, depth: int) -> int:
    """Return the rows of a band: a power of two, so that bands and tiles fall together."""
    return 1 << max(0, (_BAND // _row_bytes(width, depth)).bit_length() - 1)


def _row_bytes(width: int, depth: int) -> int:
    return 1 + -(-width * depth // 8)


def encode_band(labels: npt.NDArray[np.uint8], depth: int, compression: Compression) -> Band:
    """Pack and compress full rows of labels, (rows, width), all below 2**depth.

    Rows are not filtered, which suits indices.
    """
    rows, width = labels.shape
    packed = np.zeros((rows, _row_bytes(width, depth)), np.uint8)  # each row begins with filter 0
    if depth == 8:  # noqa: PLR2004 - bits of a byte
        packed[:, 1:] = labels
    else:
        per_byte = 8 // depth
        for i in range(per_byte):
            part = labels[:, i::per_byte]
            packed[:, 1 : 1 + part.shape[1]] |= part << (8 - depth * (i + 1))
    raw = packed.reshape(-1).data
    data = deflate(raw, compression, wbits=-zlib.MAX_WBITS, flush=zlib.Z_FULL_FLUSH)
    return Band(_chunk(b"IDAT", data), isal_zlib.adler32(raw), len(raw))


def header(height: int, width: int, depth: int, palette: Palette) -> bytes:
    """Return the bytes before the first band."""
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette.colors.tobytes()),
            _chunk(b"IDAT", b"\x78\x01"),  # the zlib header; its own chunk, as bands are alike
        )
    )


def trailer(checksums: list[tuple[int, int]]) -> bytes:
    """Return the bytes after the last band, given each band's `adler` and `length` in order."""
    adler = 1
    for checksum, length in checksums:
        adler = _join_adler(adler, checksum, length)
    return _chunk(b"IDAT", b"\x03\x00" + struct.pack(">I", adler)) + _chunk(b"IEND", b"")


def _join_adler(first: int, second: int, length: int) -> int:
    """Return the Adler-32 (RFC 1950, section 9) of two texts from theirs; the second has `length`.

    With A = 1 + the sum of the bytes and B = the sum of all A so far, joining adds the first
    text's A - 1 to each of the second's.
    """
    a1, b1 = first & 0xFFFF, first >> 16
    a2, b2 = second & 0xFFFF, second >> 16
    a = (a1 + a2 - 1) % _ADLER_BASE
    b = (b1 + b2 + length * (a1 - 1)) % _ADLER_BASE
    return b << 16 | a


def _chunk(kind: bytes, data: bytes) -> bytes:
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
    )
