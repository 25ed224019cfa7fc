"""Tiled palette BigTIFF, written from tiles that were encoded anywhere.

TIFF 6.0 with the BigTIFF extension (64-bit offsets): a header, one directory, its arrays, then
the tiles row by row. Tiles are zlib streams (compression 8).
"""

import struct
import zlib
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from dkmeans._palette import Palette
from dkmeans.images._deflate import Compression, deflate

TILE = 512

# Tag numbers and field types of TIFF 6.0, sections 2, 5 and 15, and of BigTIFF.
_SHORT, _LONG, _LONG8 = 3, 4, 16
_FORMATS = {_SHORT: "<u2", _LONG: "<u4", _LONG8: "<u8"}
_DEFLATE, _RGB_PALETTE = 8, 3


def encode_tile(labels: npt.NDArray[np.uint8], compression: Compression) -> bytes:
    """Compress one tile, (height, width) at most TILE a side; a cut-off tile is padded with 0."""
    if labels.shape != (TILE, TILE):
        padded = np.zeros((TILE, TILE), np.uint8)
        padded[: labels.shape[0], : labels.shape[1]] = labels
        labels = padded
    raw = np.ascontiguousarray(labels).reshape(-1).data
    return deflate(raw, compression, wbits=zlib.MAX_WBITS, flush=zlib.Z_FINISH)


def header(height: int, width: int, palette: Palette, tile_sizes: list[int]) -> bytes:
    """Return all bytes before the first tile, given the sizes of the tiles in order."""
    red_green_blue = np.zeros((3, 256), np.uint16)
    red_green_blue[:, : len(palette)] = palette.colors.T.astype(np.uint16) * 257
    tags: list[tuple[int, int, list[int]]] = [
        (256, _LONG, [width]),
        (257, _LONG, [height]),
        (258, _SHORT, [8]),  # bits per sample
        (259, _SHORT, [_DEFLATE]),
        (262, _SHORT, [_RGB_PALETTE]),
        (277, _SHORT, [1]),  # samples per pixel
        (284, _SHORT, [1]),  # planar configuration
        (320, _SHORT, red_green_blue.reshape(-1).tolist()),
        (322, _SHORT, [TILE]),
        (323, _SHORT, [TILE]),
        (324, _LONG8, [0] * len(tile_sizes)),  # filled in below, once the sizes are known
        (325, _LONG8, tile_sizes),
    ]
    first_value = 16 + 8 + 20 * len(tags) + 8
    first_tile = first_value + sum(_outside(kind, values) for _, kind, values in tags)
    tags[10] = (324, _LONG8, list(accumulate(tile_sizes[:-1], initial=first_tile)))
    entries, arrays, position = [], [], first_value
    for tag, kind, values in tags:
        data = np.array(values, _FORMATS[kind]).tobytes()
        if len(data) > 8:  # noqa: PLR2004 - bytes of an entry's value field
            arrays.append(data)
            data = struct.pack("<Q", position)
            position += len(arrays[-1])
        entries.append(struct.pack("<HHQ", tag, kind, len(values)) + data.ljust(8, b"\0"))
    return b"".join(
        (
            struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16),
            struct.pack("<Q", len(tags)),
            *entries,
            struct.pack("<Q", 0),
            *arrays,
        )
    )


def _outside(kind: int, values: list[int]) -> int:
    """Return how many bytes of values stand outside their directory entry."""
    size = np.dtype(_FORMATS[kind]).itemsize * len(values)
    return size if size > 8 else 0  # noqa: PLR2004 - bytes of an entry's value field
