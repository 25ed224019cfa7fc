"""TIFF whose rows are one deflate stream: decoded from first to last, and its checksum checked.

GDAL reads such a file row by row and never looks at the checksum: damage in the middle would come
out as pixels.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from dkmeans import _stores
from dkmeans._stores import State
from dkmeans._tiling import Window, reading_block
from dkmeans._validation import SourceError
from dkmeans.images import _tiles

UInt8 = npt.NDArray[np.uint8]

_INPUT = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class StripTiff:
    """An 8-bit TIFF in one deflate strip, bands interleaved. Implements `_passes.BlockSource`.

    Attributes
    ----------
    path
        The file, or the URL of an object.
    shape
        (height, width, bands).
    predictor
        Whether a row holds differences of neighbours.
    place
        Where the stream lies: its first byte, and its length.
    stored
        Its `_stores.state` when it was probed.
    """

    path: str
    shape: tuple[int, int, int]
    predictor: bool
    place: tuple[int, int]
    stored: State

    driver = "GTiff"
    in_order = True
    dtype = np.dtype(np.uint8)

    @property
    def block(self) -> tuple[int, int]:
        """Single rows."""
        return 1, self.shape[1]

    @property
    def read_block(self) -> tuple[int, int]:
        """The windows in which it reads well: whole rows, a few MiB."""
        return reading_block(self.shape[1], self.block, self.shape[2])

    def fingerprint(self) -> str:
        """Return the state of the file, as probed."""
        return f"{self.stored[0]}-{self.stored[1]}"

    def read(self, windows: Sequence[Window]) -> Generator[UInt8, None, None]:
        """Yield the block of each window, (height, width, bands), opening the file once.

        Windows are in the order of rows. A block holds until the next is asked for.

        Raises
        ------
        SourceError
            If the file is gone, has changed since it was probed, or cannot be decoded; where the
            windows reach the last row, also if the checksum does not fit.
        """
        height, width, bands = self.shape
        try:
            _stores.refuse_changed(self.path, self.stored)
            with _stores.opened(self.path, self.stored) as file:
                stream = _Stream(file, *self.place)
                bottom = 0
                for window in windows:
                    stream.skip((window.y - bottom) * width * bands)
                    rows = np.empty((window.height, width, bands), np.uint8)
                    stream.read_into(rows.reshape(-1))
                    bottom = window.y + window.height
                    if bottom == height:
                        stream.end()
                    if self.predictor:
                        np.add.accumulate(rows, axis=1, dtype=np.uint8, out=rows)
                    yield rows[:, window.columns]
            _stores.refuse_changed(self.path, self.stored)
        except (OSError, isal_zlib.error) as error:  # type: ignore[misc]  # its stubs have an Any
            raise SourceError(
                f"{self.path}: cannot be decoded, truncated or damaged ({error})."
            ) from error


class _Stream:
    """Decodes a deflate stream, `size` bytes from `start` on in a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._file.seek(start)
        self._left = size
        self._decoder = isal_zlib.decompressobj()

    def read_into(self, out: UInt8) -> None:
        """Fill `out` with the next bytes."""
        done = 0
        while done < out.size:
            decoded = self._decode(out.size - done)
            out[done : done + len(decoded)] = np.frombuffer(decoded, np.uint8)
            done += len(decoded)

    def skip(self, n: int) -> None:
        """Decode `n` bytes and drop them."""
        while n > 0:
            n -= len(self._decode(min(n, _INPUT)))

    def end(self) -> None:
        """Decode what is left, which brings the checksum: it raises if that does not fit."""
        while not self._decoder.eof:
            self._decode(_INPUT)

    def _decode(self, most: int) -> bytes:
        data = self._decoder.unconsumed_tail
        if not data:
            data = self._file.read(min(_INPUT, self._left))
            self._left -= len(data)
        decoded: bytes = self._decoder.decompress(data, most)
        if not decoded and not data:
            raise OSError("the data end too early")
        return decoded


def probe(path: str, shape: tuple[int, int, int], stored: State, page: Any) -> StripTiff | None:
    """Return the source if `path` is such a TIFF, else None.

    The caller knows that it is an 8-bit TIFF of this shape.
    """
    strip = _tiles.one_strip(page, shape)
    return None if strip is None else StripTiff(path, shape, *strip, stored)
