"""Image files: probe the header with Pillow and rasterio, read the pixels with either.

rasterio reads row bands or windows within bounded memory, whatever the size of the file. A JPEG
that is small enough is decoded whole by libjpeg-turbo, whose pixels are those that viewers show
(GDAL interpolates the colours of subsampled JPEG otherwise). What a decoder must hold whole
(progressive JPEG, interlaced PNG, WebP, turned pictures, strips and tiles of TIFF) is estimated
from the header and refused beyond `MAX_RESIDENT`.
"""

import math
import struct
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, WebPImagePlugin

from dkmeans import _stores
from dkmeans._stores import State
from dkmeans._tiling import Window, reading_block
from dkmeans._validation import MAX_RESIDENT, SourceError
from dkmeans.images import _gdal, _jpeg, _strip, _tiles
from dkmeans.images._quiet import without
from dkmeans.images._remote import named
from dkmeans.images._strip import StripTiff
from dkmeans.images._tiles import TiledTiff

UInt8 = npt.NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")

_MODES = {"L": 1, "RGB": 3}
_ORIENTATION = 0x0112  # the number of the tag in EXIF data
# What Pillow raises for damaged EXIF data; they are in memory, so that no disk has a part in it.
_EXIF_ERRORS = (SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)
_SWAPPED = 5  # EXIF orientations from here on swap rows and columns
_MAX_EXPANSION = 1100  # deflate and Huffman codes yield at most some 1030 bytes for each one stored
_PILLOW = 7  # bytes a pixel of Pillow's picture and the array made from it
_COEFFICIENTS = 6  # bytes a pixel that libjpeg holds for a progressive JPEG
_HEADER = 1 << 16  # bytes of an object asked for at a time, for headers
_BAND = 4 << 20  # bytes decoded at a time from a source that is read in order


@dataclass(frozen=True)
class RasterSource:
    """The pixels of one image file. Implements `dkmeans._passes.BlockSource`.

    Attributes
    ----------
    path, driver
        The file, or the URL of an object, and the GDAL driver that reads it.
    shape
        (height, width, bands) as seen: after the EXIF orientation is applied.
    block
        The height and width in which the file is stored.
    in_order
        Whether rows can only be read from first to last.
    whole
        Whether all pixels are decoded at once.
    orientation
        The EXIF orientation, 1 to 8.
    stored
        Its `_stores.state` when it was probed.
    """

    path: str
    driver: str
    shape: tuple[int, int, int]
    block: tuple[int, int]
    in_order: bool
    whole: bool
    orientation: int
    stored: State

    dtype = np.dtype(np.uint8)

    @property
    def read_block(self) -> tuple[int, int]:
        """The windows in which it reads well: whole blocks, a few MiB."""
        return reading_block(self.shape[1], self.block, self.shape[2])

    def fingerprint(self) -> str:
        """Return the state of the file, as probed."""
        return f"{self.stored[0]}-{self.stored[1]}"

    def read(self, windows: Sequence[Window]) -> Generator[UInt8, None, None]:
        """Yield the block of each window, (height, width, bands), opening the file once.

        Raises
        ------
        SourceError
            If the file is gone, has changed since it was probed, or cannot be decoded.
        """
        with _reading(self.path):
            _stores.refuse_changed(self.path, self.stored)
            if self.whole:
                image = self._decode()
                for window in windows:
                    yield image[window.rows, window.columns]
            else:
                with _gdal.dataset(self.path, self.driver, self.stored) as dataset:
                    for window in windows:
                        yield dataset.read(window)
            _stores.refuse_changed(self.path, self.stored)

    def _decode(self) -> UInt8:
        """Return all pixels, turned as they are to be seen."""
        if self.driver == "JPEG":
            with _stores.opened(self.path, self.stored) as file:
                image = _jpeg.decode(file.read(self.stored[0]))
        else:
            with _gdal.dataset(self.path, self.driver, self.stored) as dataset:
                image = dataset.read()
        return _turn(image, self.orientation)


def whole_bytes(source: RasterSource) -> int:
    """Return what it takes to decode all pixels at once."""
    height, width, _ = source.shape
    return height * width * (_PILLOW + _COEFFICIENTS)


def _turn(image: UInt8, orientation: int) -> UInt8:
    """Return a view of `image` as EXIF says it is to be seen."""
    if orientation >= _SWAPPED:
        image = image.swapaxes(0, 1)
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    return image[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn what goes wrong while reading `path` into one clear error."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise SourceError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})."
        ) from error


def probe(path: str | Path, stored: State | None = None) -> RasterSource | StripTiff | TiledTiff:
    """Read the header of an image file and find out how its pixels can be read.

    Parameters
    ----------
    path
        A JPEG, PNG, WebP or TIFF file, or the URL of one in S3, 8-bit grey or RGB.
    stored
        Its `_stores.state`, where that is known.

    Raises
    ------
    SourceError
        If the file cannot be read, is no such image, holds what is not yet supported, or cannot
        be decoded in bounded memory.
    """
    path = str(path)
    with _reading(path):
        stored = _stores.state(path) if stored is None else stored
        if stored[0] == 0:
            raise SourceError(f"{path}: the file is empty.")
        with _stores.opened(path, stored, _HEADER) as file:
            magic = file.read(16)
        if magic[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _probe_tiff(path, stored)
        for driver, signature, plugin in _PLUGINS:
            if signature(magic):
                return _probe_pillow(path, driver, plugin, stored)
    raise SourceError(f"{path}: not a JPEG, PNG, WebP or TIFF image, whatever its name.")


_PLUGINS: tuple[tuple[str, Any, Any], ...] = (
    ("JPEG", lambda m: m.startswith(b"\xff\xd8\xff"), _jpeg.PillowJpeg),
    ("PNG", lambda m: m.startswith(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    ("WEBP", lambda m: m[:4] == b"RIFF" and m[8:12] == b"WEBP", WebPImagePlugin.WebPImageFile),
)


def _probe_pillow(path: str, driver: str, plugin: type[Any], stored: State) -> RasterSource:
    """Probe with Pillow's reader of one format: `Image.open` would refuse large pictures."""
    try:
        with named(path, stored, _HEADER) as file, plugin(file) as image:
            width, height = image.size
            mode, info = image.mode, image.info
            if driver == "PNG" and mode in _MODES:
                mode = str(image.tile[0].args)  # tells of other than 8 bits too
            if getattr(image, "is_animated", False):  # of formats that can be
                mode = "an animation"
            orientation = _orientation(image)
    except Image.DecompressionBombError as error:  # WebP only: its reader wants all pixels at once
        raise SourceError(
            f"{path}: as a {driver} image it must be held in memory at once, and is too large "
            f"({error}); convert it to a tiled TIFF."
        ) from error
    except (SyntaxError, ValueError, OSError, EOFError, KeyError, struct.error) as error:
        raise SourceError(
            f"{path}: not a {driver} image, or its header is damaged ({error})."
        ) from error
    if info.get("transparency") is not None:
        mode += " with transparency"
    if mode not in _MODES:
        raise SourceError(_unsupported(path, mode))
    if orientation >= _SWAPPED:
        height, width = width, height
    shape = (height, width, _MODES[mode])
    _check_size(path, shape, stored[0] if driver != "WEBP" else None)
    n_pixels = height * width
    progressive = bool(info.get("progressive"))
    pillow_fits = n_pixels * (_PILLOW + progressive * _COEFFICIENTS) <= MAX_RESIDENT
    whole = orientation != 1 or (driver == "JPEG" and pillow_fits)
    resident = {
        "it is turned by its EXIF orientation": (orientation != 1) * n_pixels * shape[2],
        "the JPEG is progressive": progressive * n_pixels * _COEFFICIENTS,
        "the PNG is interlaced": bool(info.get("interlace")) * n_pixels * shape[2],
        "it is WebP": (driver == "WEBP") * n_pixels * shape[2],
    }
    for reason, nbytes in resident.items():
        if nbytes > MAX_RESIDENT:
            raise SourceError(
                f"{path}: {reason}, so all {width} x {height} pixels must be held in memory at "
                f"once ({nbytes >> 20} MiB, allowed are {MAX_RESIDENT >> 20}); convert it to a "
                "tiled TIFF."
            )
    return RasterSource(
        path,
        driver,
        shape,
        block=(1, width),
        in_order=True,
        whole=whole,
        orientation=orientation,
        stored=stored,
    )


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, as it is stored, where that is none or EXIF is damaged."""
    try:
        # The base class: a PNG's own method would decode all pixels to look for late chunks.
        with without(UserWarning):
            told = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except _EXIF_ERRORS:
        return 1
    return int(told) if told in range(1, 9) else 1


def _probe_tiff(path: str, stored: State) -> RasterSource | StripTiff | TiledTiff:
    with _tiles.first_page(path, stored) as page:
        found = _tiles.plain_layout(page) or _gdal.layout(path, stored)
        for what in (*_tiles.peculiarities(page), *found.peculiarities):
            raise SourceError(_unsupported(path, what))
        shape = found.shape
        _check_size(path, shape, stored[0] if _tiles.takes_room(path, page) else None)
        is_one_strip = _tiles.is_one_strip(page)
        tiled = _tiles.probe(path, shape, stored, page)
        strip = _strip.probe(path, shape, stored, page)
    # One compressed strip: rows are decoded from first to last, and from 2000 rows on GDAL tells
    # that each is a block.
    in_order = found.is_compressed and is_one_strip and math.prod(shape) > _BAND
    block = found.block
    held = math.prod(block) * shape[2]
    if held > MAX_RESIDENT:
        raise SourceError(
            f"{path}: strips or tiles of {block[1]} x {block[0]} pixels must each be held in "
            f"memory ({held >> 20} MiB, allowed are {MAX_RESIDENT >> 20}); convert it to a TIFF "
            "of smaller tiles."
        )
    if in_order and strip is not None:
        return strip
    return tiled or RasterSource(
        path,
        "GTiff",
        shape,
        block=(1, shape[1]) if in_order else block,
        in_order=in_order,
        whole=False,
        orientation=1,
        stored=stored,
    )


def _check_size(path: str, shape: tuple[int, int, int], stored: int | None) -> None:
    height, width, bands = shape
    if height < 1 or width < 1:
        raise SourceError(f"{path}: has no pixels ({width} x {height}).")
    decoded = height * width * bands
    if stored is not None and decoded > _MAX_EXPANSION * stored:
        raise SourceError(
            f"{path}: the header claims {width} x {height} pixels, which a file of {stored} bytes "
            "cannot hold; it is truncated or forged."
        )


def _unsupported(path: str, what: str) -> str:
    names = {
        "LA": "alpha",
        "RGBA": "alpha",
        "P": "a palette",
        "1": "1-bit pixels",
        "L;2": "2-bit pixels",
        "L;4": "4-bit pixels",
        "CMYK": "CMYK colours",
        "I": "16-bit pixels",
        "I;16": "16-bit pixels",
        "I;16B": "16-bit pixels",
        "RGB;16B": "16-bit pixels",
    }
    advice = {
        "a palette": "convert it to RGB, to reduce its colours once more",
        "an animation": "write each frame to a file of its own",
        "several pages": "write each page to a file of its own",
    }
    what = names.get(what, what)
    return (
        f"{path}: not yet supported: {what}; {advice.get(what, 'convert it to 8-bit grey or RGB')}."
    )
