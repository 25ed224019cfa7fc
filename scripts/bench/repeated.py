"""Pictures and tables of any size that take little disk: the same pieces, over and over.

The tiles of a TIFF lie anywhere in the file, so many of them may be one; the chunks of a Zarr array
are files, and a file may have many names. Readers cannot tell: each piece is read and decoded anew.
But all come from the cache of the system: what a disk costs cannot be seen.
"""

import os
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import zarr
from data import blocks

SIDE = 512  # of a tile
CHUNK = 1 << 23  # bytes of a chunk, decoded
DISTINCT = 16  # chunks
MOST_LINKS = 1 << 15  # of a file; ext4 allows no more than 65,000


def write_picture(path: Path, height: int, width: int, n_tiles: int, n_colors: int) -> None:
    """Write an RGB BigTIFF in deflate tiles, of which `n_tiles` differ.

    Their pixels are drawn from as many colours, evenly; all 2**24 make tiles of 768 KiB.
    """
    rng = np.random.default_rng(0)
    step = (1 << 24) // n_colors
    across, down = -(-width // SIDE), -(-height // SIDE)
    sizes, starts = np.empty(n_tiles, np.uint64), np.empty(n_tiles, np.uint64)
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        for i in range(n_tiles):
            codes = (rng.integers(0, n_colors, SIDE * SIDE) * step).astype("<u4")
            pixels = codes.view(np.uint8).reshape(-1, 4)[:, :3]
            data = imagecodecs.deflate_encode(pixels.tobytes(), level=1)
            starts[i], sizes[i] = file.tell(), len(data)
            file.write(data)
        which = np.arange(across * down) % n_tiles
        arrays = []
        for values in (starts[which], sizes[which], np.array([8, 8, 8], np.uint16)):
            arrays.append(file.tell())
            file.write(values.tobytes())
        n = across * down
        tags = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 8 | 8 << 16 | 8 << 32),
            (259, 3, 1, 8), (262, 3, 1, 2), (277, 3, 1, 3), (284, 3, 1, 1), (322, 3, 1, SIDE),
            (323, 3, 1, SIDE),
            (324, 16, n, arrays[0] if n > 1 else int(starts[0])),
            (325, 16, n, arrays[1] if n > 1 else int(sizes[0])),
        ]  # fmt: skip
        directory = file.tell()
        file.write(struct.pack("<Q", len(tags)))
        for tag in tags:
            file.write(struct.pack("<HHQQ", *tag))
        file.write(struct.pack("<Q", 0))
        file.seek(8)
        file.write(struct.pack("<Q", directory))


def write_table(path: Path, nbytes: int, n_features: int, n_clusters: int) -> None:
    """Write a mixture to a Zarr array of compressed float32, of whose chunks `DISTINCT` differ."""
    rows = CHUNK // (4 * n_features)
    n = max(1, nbytes // CHUNK)
    n_distinct = min(n, max(DISTINCT, -(-n // MOST_LINKS)))
    array = zarr.create_array(
        path, shape=(n_distinct * rows, n_features), chunks=(rows, n_features), dtype="float32"
    )
    for i, block in enumerate(blocks(n_distinct * rows, n_features, n_clusters, rows)):
        array[i * rows : (i + 1) * rows] = block
    array.resize((n * rows, n_features))
    for i in range(n_distinct, n):
        (path / f"c/{i}").mkdir()
        os.link(path / f"c/{i % n_distinct}/0", path / f"c/{i}/0")
