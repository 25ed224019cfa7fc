"""TIFF tiles that libdeflate decodes: the fast way into the most common large pictures.

tifffile reads the directory, imagecodecs the tiles. GDAL, which reads all other TIFF, takes half
as long again: it splits the bands apart and copies them through its cache.
"""

import logging
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from dkmeans._tiling import Window, covering
from dkmeans._validation import SourceError

UInt8 = npt.NDArray[np.uint8]

_RAW, _DEFLATE = 1, (8, 32946)  # compression tags
_PREDICTORS = (1, 2)  # none, horizontal differences
_GREY_AND_RGB = (1, 2)  # photometric interpretations

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong is raised here


@dataclass(frozen=True)
class TiledTiff:
    """An 8-bit TIFF in deflate tiles, bands interleaved. Implements `_passes.BlockSource`.

    Attributes
    ----------
    path
        The file.
    shape
        (height, width, bands).
    block
        The height and width of the tiles.
    predictor
        Whether a tile holds differences of neighbours.
    stored
        The size of the file in bytes and its time of change in ns, when it was probed.
    """

    path: str
    shape: tuple[int, int, int]
    block: tuple[int, int]
    predictor: bool
    stored: tuple[int, int]

    driver = "GTiff"
    in_order = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""
        return np.dtype(np.uint8)

    @property
    def read_block(self) -> tuple[int, int]:
        """Single tiles: they stay in the processor's cache until they are dealt with."""
        return self.block

    def fingerprint(self) -> str:
        """Return the size and time of change of the file, as probed."""
        return f"{self.stored[0]}-{self.stored[1]}"

    def read(self, windows: Sequence[Window]) -> Generator[UInt8, None, None]:
        """Yield the block of each window, (height, width, bands), opening the file once.

        A block holds until the next is asked for.

        Raises
        ------
        SourceError
            If the file is gone, has changed since it was probed, or cannot be decoded.
        """
        try:
            refuse_changed(self.path, self.stored)
            with _first_page(self.path) as page:
                tiles = list(zip(page.dataoffsets, page.databytecounts, strict=False))
            # One place for all tiles: new memory for each costs more than the counting.
            pixels = np.empty((*self.block, self.shape[2]), np.uint8)
            with Path(self.path).open("rb", buffering=0) as file:
                for window in windows:
                    yield self._read(file, tiles, window, pixels)
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error}).") from error

    def _read(
        self, file: BinaryIO, tiles: list[tuple[int, int]], window: Window, pixels: UInt8
    ) -> UInt8:
        across = -(-self.shape[1] // self.block[1])
        parts = list(covering(window, self.block))
        block = np.empty((window.height, window.width, self.shape[2]), np.uint8)
        for tile in parts:
            index = tile.y // self.block[0] * across + tile.x // self.block[1]
            self._decode(file, *tiles[index], pixels, where=f"tile {index}")
            if len(parts) == 1:
                y, x = window.y - tile.y, window.x - tile.x
                return pixels[y : y + window.height, x : x + window.width]
            common = tile.common(window)
            block[common.within(window)] = pixels[common.within(tile)]
        return block

    def _decode(self, file: BinaryIO, offset: int, size: int, pixels: UInt8, *, where: str) -> None:
        if size == 0:  # a sparse file: the tile was never written
            pixels[:] = 0
            return
        if offset + size > self.stored[0]:
            raise SourceError(f"{self.path}: {where} lies beyond the end; the file is truncated.")
        file.seek(offset)
        data = file.read(size)
        try:
            decoded = imagecodecs.deflate_decode(data, out=pixels.reshape(-1).data)
        except RuntimeError as error:
            raise SourceError(
                f"{self.path}: {where} cannot be decoded, truncated or damaged ({error})."
            ) from error
        if len(data) != size or len(decoded) != pixels.size:
            raise SourceError(f"{self.path}: {where} is truncated.")
        if self.predictor:
            np.add.accumulate(pixels, axis=1, dtype=np.uint8, out=pixels)


def state(path: str) -> tuple[int, int]:
    """Return the size of a file in bytes and its time of change in ns."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def refuse_changed(path: str, stored: tuple[int, int]) -> None:
    """Raise `SourceError` if the `state` of a file is no longer what it was when probed."""
    if state(path) != stored:
        raise SourceError(f"{path}: changed while it was being read; run again.")


@contextmanager
def _first_page(path: str) -> Iterator[Any]:
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff.pages.first
    except tifffile.TiffFileError as error:
        raise SourceError(f"{path}: not a TIFF, or its header is damaged ({error}).") from error


def peculiarities(path: str) -> list[str]:
    """Return what GDAL does not tell of a TIFF, and would show wrong."""
    with _first_page(path) as page:
        orientation = page.tags.get("Orientation")
        found = {
            "a TIFF orientation": orientation is not None and orientation.value != 1,
            "grey with white as zero": page.photometric == 0,
        }
    return [what for what, present in found.items() if present]


def is_one_strip(path: str) -> bool:
    """Return whether all rows are in one strip, or in one for each band."""
    with _first_page(path) as page:
        return not page.is_tiled and page.rowsperstrip >= page.imagelength


def takes_room(path: str) -> bool:
    """Return whether all pixels take room in the file, one byte for 1032 at the most.

    Raises
    ------
    SourceError
        If the directory does not list all tiles or strips.
    """
    with _first_page(path) as page:
        n_blocks = math.prod(page.chunked)
        n_listed = min(len(page.dataoffsets), len(page.databytecounts))
        if n_listed < n_blocks:
            raise SourceError(
                f"{path}: the header claims {page.imagewidth} x {page.imagelength} pixels in "
                f"{n_blocks} tiles or strips, but lists {n_listed}; it is truncated or forged."
            )
        is_sparse = 0 in page.databytecounts
        return page.compression in (_RAW, *_DEFLATE) and not is_sparse


def probe(path: str, shape: tuple[int, int, int], when: tuple[int, int]) -> TiledTiff | None:
    """Return the source if `path` is such a TIFF, else None.

    The caller knows that it is an 8-bit TIFF of this shape; `when` is its `state`.
    """
    with _first_page(path) as page:
        if not page.is_tiled or not _is_plain_deflate(page, shape):
            return None
        predictor = page.predictor != 1
        return TiledTiff(path, shape, (page.tilelength, page.tilewidth), predictor, when)


def one_strip(path: str, shape: tuple[int, int, int]) -> tuple[bool, tuple[int, int]] | None:
    """Return what a TIFF in one deflate strip holds, None for any other.

    That is whether rows are differences, and the first byte and the length of the strip. The
    caller knows that it is an 8-bit TIFF of this shape.
    """
    with _first_page(path) as page:
        if page.is_tiled or len(page.dataoffsets) != 1 or not _is_plain_deflate(page, shape):
            return None
        return page.predictor != 1, (page.dataoffsets[0], page.databytecounts[0])


def _is_plain_deflate(page: Any, shape: tuple[int, int, int]) -> bool:
    """Return whether pixels are grey or RGB bytes, side by side, in deflate streams."""
    fits: bool = (
        page.compression in _DEFLATE
        and page.predictor in _PREDICTORS
        and page.planarconfig == 1
        and page.bitspersample == 8  # noqa: PLR2004 - bits
        and page.photometric in _GREY_AND_RGB
        and (*page.shape, 1)[:3] == shape
    )
    return fits
