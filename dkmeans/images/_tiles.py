"""TIFF tiles that libdeflate decodes: the fast way into the most common large pictures.

tifffile reads the directory, imagecodecs the tiles. GDAL, which reads all other TIFF, takes half
as long again: it splits the bands apart and copies them through its cache.
"""

import logging
import math
import struct
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._passes_locks import Lock
from dkmeans._stores import State
from dkmeans._tiling import Window, covering
from dkmeans._validation import SourceError

UInt8 = npt.NDArray[np.uint8]

_RAW, _DEFLATE = 1, (8, 32946)  # compression tags
_PREDICTORS = (1, 2)  # none, horizontal differences
_GREY_AND_RGB = (1, 2)  # photometric interpretations
_KINDS = ((1, 1), (2, 3))  # these, each with its number of bands
_HEADER = 1 << 16  # bytes of an object asked for at a time, for directories
# What tifffile raises where a directory is not as it should be, beside its own error.
_DAMAGES = struct.error, ValueError, TypeError, LookupError, ArithmeticError, AttributeError
# What tifffile takes as it stands, be it a text: sizes, and where tiles and strips lie.
_SIZES = ("ImageWidth", "ImageLength", "SamplesPerPixel", "TileWidth", "TileLength")
_PLACES = ("TileOffsets", "TileByteCounts", "StripOffsets", "StripByteCounts")
_INTEGERS = (3, 4, 16)  # field types: of two, four and eight bytes
_UNSIGNED, _PICTURE = 1, 0  # sample format, and subfile type: no smaller copy, no mask
# The tags of pixels in tiles, and some that say nothing about them.
_NEEDED_TAGS = {
    *("ImageWidth", "ImageLength", "BitsPerSample", "SamplesPerPixel", "Compression"),
    *("PhotometricInterpretation", "TileWidth", "TileLength", "TileOffsets", "TileByteCounts"),
}
_PLAIN_TAGS = _NEEDED_TAGS | {
    *("SampleFormat", "Predictor", "PlanarConfiguration", "NewSubfileType", "Orientation"),
    *("ImageDescription", "DocumentName", "Software", "DateTime", "Artist", "Copyright"),
    *("XResolution", "YResolution", "ResolutionUnit", "InterColorProfile"),
}

_tiles_lock = Lock()

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong is raised here


@dataclass(frozen=True)
class TiledTiff:
    """An 8-bit TIFF in deflate tiles, bands interleaved. Implements `_passes.BlockSource`.

    Attributes
    ----------
    path
        The file, or the URL of an object.
    shape
        (height, width, bands).
    block
        The height and width of the tiles.
    predictor
        Whether a tile holds differences of neighbours.
    stored
        Its `_stores.state` when it was probed.
    """

    path: str
    shape: tuple[int, int, int]
    block: tuple[int, int]
    predictor: bool
    stored: State

    driver = "GTiff"
    in_order = False
    dtype = np.dtype(np.uint8)

    @property
    def read_block(self) -> tuple[int, int]:
        """Single tiles: they stay in the processor's cache until they are dealt with."""
        return self.block

    def fingerprint(self) -> str:
        """Return the state of the file, as probed."""
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
            _stores.refuse_changed(self.path, self.stored)
            tiles = tiles_of(self.path, self.stored)
            # One place for all tiles: new memory for each costs more than the counting.
            pixels = np.empty((*self.block, self.shape[2]), np.uint8)
            wanted = [[*self._tiles(window, tiles)] for window in windows]
            places = [(at, n) for window in wanted for _, _, at, n in window if self._has(at, n)]
            with closing(_stores.stretches(self.path, self.stored, places)) as stretches:
                for window, parts in zip(windows, wanted, strict=True):
                    yield self._read(stretches, parts, window, pixels)
            _stores.refuse_changed(self.path, self.stored)
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be read ({error}).") from error

    def _tiles(
        self, window: Window, tiles: npt.NDArray[np.uint64]
    ) -> Iterator[tuple[Window, int, int, int]]:
        """Yield the tiles that cover a window: each with its number, first byte and length."""
        across = -(-self.shape[1] // self.block[1])
        for tile in covering(window, self.block):
            index = tile.y // self.block[0] * across + tile.x // self.block[1]
            yield tile, index, *tiles[index].tolist()

    def _has(self, offset: int, size: int) -> bool:
        """Return whether a tile is one that the file can have; others are not asked for."""
        return size != 0 and offset + size <= self.stored[0]

    def _read(
        self,
        stretches: Iterator[bytes],
        parts: list[tuple[Window, int, int, int]],
        window: Window,
        pixels: UInt8,
    ) -> UInt8:
        if len(parts) == 1:
            tile, index, offset, size = parts[0]
            self._decode(stretches, offset, size, pixels, where=f"tile {index}")
            return pixels[window.within(tile)]
        block = np.empty((window.height, window.width, self.shape[2]), np.uint8)
        for tile, index, offset, size in parts:
            self._decode(stretches, offset, size, pixels, where=f"tile {index}")
            common = tile.common(window)
            block[common.within(window)] = pixels[common.within(tile)]
        return block

    def _decode(
        self, stretches: Iterator[bytes], offset: int, size: int, pixels: UInt8, *, where: str
    ) -> None:
        if size == 0:  # a sparse file: the tile was never written
            pixels[:] = 0
            return
        if not self._has(offset, size):
            raise SourceError(f"{self.path}: {where} lies beyond the end; the file is truncated.")
        data = next(stretches)
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


def tiles_of(path: str, stored: State) -> npt.NDArray[np.uint64]:
    """Return where the tiles of a TIFF lie, (n, 2): the first byte and the length of each.

    The last ones are kept: all tasks of a process share what one of them has read. It is Python
    that reads them, for which many threads would have to wait.
    """
    with _tiles_lock:
        return _tiles_of(path, stored)


@lru_cache(maxsize=2)
def _tiles_of(path: str, stored: State) -> npt.NDArray[np.uint64]:
    with first_page(path, stored) as page:
        pairs = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    return np.array(pairs, np.uint64).reshape(-1, 2)


@contextmanager
def first_page(path: str, stored: State) -> Iterator[Any]:
    """Open a TIFF in the given `_stores.state` and yield its first directory, as tifffile has it.

    Raises
    ------
    SourceError
        If it is none, cannot be read, or is not as it was.
    """
    import tifffile  # noqa: PLC0415 - slow, and of no use to other formats

    with _stores.opened(path, stored, _HEADER) as file:
        try:
            tiff = tifffile.TiffFile(file, name=path)
            page = tiff.pages.first
        except (*_DAMAGES, tifffile.TiffFileError) as error:
            raise SourceError(
                f"{path}: not a TIFF, or its header is damaged, truncated ({error})."
            ) from error
        with tiff:
            for name in _misread(page):
                raise SourceError(f"{path}: its header is damaged ({name} is no number).")
            yield page


def _misread(page: Any) -> Iterator[str]:
    """Yield the tags that tell of no number, or of several where there must be one."""
    for name in _SIZES:
        tag = page.tags.get(name)
        if tag is not None and not isinstance(tag.value, int):
            yield name
    for name in _PLACES:
        tag = page.tags.get(name)
        if tag is not None and tag.dtype not in _INTEGERS:
            yield name


@dataclass(frozen=True)
class Layout:
    """How the pixels of a TIFF are stored.

    Attributes
    ----------
    shape
        (height, width, bands).
    block
        The height and width of strips or tiles.
    is_compressed
        Whether they are.
    peculiarities
        What it has that is not supported.
    """

    shape: tuple[int, int, int]
    block: tuple[int, int]
    is_compressed: bool = True
    peculiarities: tuple[str, ...] = ()


def plain_layout(page: Any) -> Layout | None:
    """Return how deflate tiles are stored, if there is nothing else that GDAL would have to tell.

    That is one page of 8-bit grey or RGB, without a tag that may change what pixels mean.
    """
    if not _NEEDED_TAGS <= {tag.name for tag in page.tags} <= _PLAIN_TAGS:
        return None
    shape = page.imagelength, page.imagewidth, page.samplesperpixel
    block = page.tilelength, page.tilewidth
    is_plain = (
        min(*shape, *block) > 0
        and (page.sampleformat, page.subfiletype) == (_UNSIGNED, _PICTURE)
        and (page.photometric, page.samplesperpixel) in _KINDS
        and _is_plain_deflate(page, shape)
        and _is_alone(page)
    )
    return Layout(shape, block) if is_plain else None


def _is_alone(page: Any) -> bool:
    try:
        return page.parent.pages.get(1, page) is page
    except _DAMAGES:  # something follows, and GDAL may know what
        return False


def peculiarities(page: Any) -> list[str]:
    """Return what GDAL does not tell of a TIFF, and would show wrong."""
    orientation = page.tags.get("Orientation")
    found = {
        "a TIFF orientation": orientation is not None and orientation.value != 1,
        "grey with white as zero": page.photometric == 0,
    }
    return [what for what, present in found.items() if present]


def is_one_strip(page: Any) -> bool:
    """Return whether all rows are in one strip, or in one for each band."""
    return not page.is_tiled and page.rowsperstrip >= page.imagelength


def takes_room(path: str, page: Any) -> bool:
    """Return whether all pixels take room in the file, one byte for 1032 at the most.

    Raises
    ------
    SourceError
        If the directory does not list all tiles or strips.
    """
    n_blocks = math.prod(page.chunked)
    n_listed = min(len(page.dataoffsets), len(page.databytecounts))
    if n_listed < n_blocks:
        raise SourceError(
            f"{path}: the header claims {page.imagewidth} x {page.imagelength} pixels in "
            f"{n_blocks} tiles or strips, but lists {n_listed}; it is truncated or forged."
        )
    is_sparse = 0 in page.databytecounts
    return page.compression in (_RAW, *_DEFLATE) and not is_sparse


def probe(path: str, shape: tuple[int, int, int], stored: State, page: Any) -> TiledTiff | None:
    """Return the source if `path` is such a TIFF, else None.

    The caller knows that it is an 8-bit TIFF of this shape; `stored` is its `_stores.state`.
    """
    if not page.is_tiled or not _is_plain_deflate(page, shape):
        return None
    return TiledTiff(path, shape, (page.tilelength, page.tilewidth), page.predictor != 1, stored)


def one_strip(page: Any, shape: tuple[int, int, int]) -> tuple[bool, tuple[int, int]] | None:
    """Return what a TIFF in one deflate strip holds, None for any other.

    That is whether rows are differences, and the first byte and the length of the strip. The
    caller knows that it is an 8-bit TIFF of this shape.
    """
    if page.is_tiled or len(page.dataoffsets) != 1 or not _is_plain_deflate(page, shape):
        return None
    return page.predictor != 1, (page.dataoffsets[0], page.databytecounts[0])


def _is_plain_deflate(page: Any, shape: tuple[int, int, int]) -> bool:
    """Return whether pixels are grey or RGB bytes, side by side, in deflate streams."""
    fits: bool = (
        page.compression in _DEFLATE
        and page.predictor in _PREDICTORS
        and page.planarconfig == 1
        and page.fillorder == 1  # the highest bit of a byte comes first
        and page.bitspersample == 8  # noqa: PLR2004 - bits
        and page.photometric in _GREY_AND_RGB
        and (*page.shape, 1)[:3] == shape
    )
    return fits
