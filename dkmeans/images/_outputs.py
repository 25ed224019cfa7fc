"""Where labels go: files joined from parts, and Zarr arrays. Nothing looks finished too early.

Workers write *parts* in a scratch folder beside the output, each with any windows of a picture.
The assembler joins the parts of a picture in the order of their keys and renames the result into
place. The bytes do not depend on how the windows were dealt out.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from dkmeans import _stores
from dkmeans._palette import Palette
from dkmeans._tiling import Window, grow, split
from dkmeans.images import _png, _store, _tiff
from dkmeans.images._deflate import Compression

Labels = npt.NDArray[np.unsignedinteger]

_TARGET_ROWS, _TARGET_BYTES = 512, 16 << 20  # of a window of full rows, whichever is less
_MOST_BYTES = 64 << 20  # of one, where blocks of the source are so high
_COPY = 1 << 20  # bytes at a time
SYNCED = 16 << 20  # bytes from which on waiting for the disk takes no share worth telling


@dataclass(frozen=True, order=True)
class Entry:
    """A stretch of a part: its rank in the finished file, where it lies, and its checksum."""

    key: int
    part: str
    start: int
    size: int
    adler: int = 0
    length: int = 0


# Told the new entries of a part, its path, length and checksum so far, and the number of labels.
Grown = Callable[[Sequence[Entry], str, int, int, int], None]
Ready = Callable[[int, int], None]


class Output(Protocol):
    """Takes the labels of one picture, window by window, in any order. Pickled into tasks."""

    @property
    def unit(self) -> tuple[int, int]:
        """What the corners of windows must be multiples of; as wide as the picture: full rows."""

    def keys(self, window: Window) -> Iterator[int]:
        """Yield the keys of the entries that a window becomes."""

    def is_sound(self, key: int) -> bool:
        """Return whether an entry that lies in no part is as it was written."""

    def write(
        self, part: str, blocks: Iterable[tuple[Window, Labels]], grown: Grown | None = None
    ) -> list[Entry]:
        """Write labels to a part of this name; tell `grown` after each window."""

    def write_whole(
        self,
        part: str,
        blocks: Iterable[tuple[Window, Labels]],
        grown: Grown | None = None,
        ready: Ready | None = None,
    ) -> int:
        """Write all labels of the picture, as `write` and `finish` do."""

    def finish(self, entries: Sequence[Entry], ready: Ready | None = None) -> int:
        """Make the finished output of all entries; return its size in bytes.

        `ready` is told the size and checksum of a file before it gets its name.
        """


class _Finished:
    """Writes a whole picture as `write` and `finish` do one after the other; a base."""

    def write(
        self, part: str, blocks: Iterable[tuple[Window, Labels]], grown: Grown | None = None
    ) -> list[Entry]:
        """Write labels."""
        raise NotImplementedError

    def finish(self, entries: Sequence[Entry], ready: Ready | None = None) -> int:
        """Make the finished output."""
        raise NotImplementedError

    def write_whole(
        self,
        part: str,
        blocks: Iterable[tuple[Window, Labels]],
        grown: Grown | None = None,
        ready: Ready | None = None,
    ) -> int:
        """Write all labels."""
        return self.finish(self.write(part, blocks, grown), ready)


@dataclass(frozen=True)
class ImageFile(_Finished):
    """One image file, joined from parts.

    Attributes
    ----------
    path, scratch
        The finished file and the folder for parts, both on one file system.
    height, width
        Of the picture.
    """

    path: str
    scratch: str
    height: int
    width: int
    palette: Palette
    compression: Compression

    def write(
        self, part: str, blocks: Iterable[tuple[Window, Labels]], grown: Grown | None = None
    ) -> list[Entry]:
        """Encode labels to the file `part` in the scratch folder."""
        path = Path(self.scratch, part)
        entries: list[Entry] = []
        size = crc = 0
        with path.open("wb") as file:
            for window, labels in blocks:
                first = len(entries)
                for key, data, adler, length in self._encode(window, labels):
                    entries.append(Entry(key, str(path), size, len(data), adler, length))
                    file.write(data)
                    size += len(data)
                    crc = isal_zlib.crc32(data, crc)
                file.flush()  # what is noted must not be in this process only
                if grown is not None:
                    grown(entries[first:], str(path), size, crc, window.n_pixels)
        return entries

    def finish(self, entries: Sequence[Entry], ready: Ready | None = None) -> int:
        """Join the parts, move the file into place and remove the parts."""
        entries = sorted(entries)
        joined = Path(f"{entries[0].part}.joined")
        header, trailer = self._frame(entries)
        with joined.open("wb") as file:
            file.write(header)
            file.flush()
            crc = isal_zlib.crc32(trailer, _copy(entries, file, isal_zlib.crc32(header)))
            file.seek(0, os.SEEK_END)
            file.write(trailer)
            size = file.tell()
            if size >= SYNCED:
                file.flush()
                os.fsync(file.fileno())  # the name must not come before the bytes
        if ready is not None:
            ready(size, crc)
        Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        joined.replace(self.path)
        for part in _parts(entries):
            Path(part).unlink(missing_ok=True)
        return size

    def is_sound(self, key: int) -> bool:  # noqa: ARG002 - an `Output`'s
        """Return False: all entries lie in parts."""
        return False

    def keys(self, window: Window) -> Iterator[int]:
        """Yield the ranks of the entries of a window in the finished file."""
        raise NotImplementedError

    def _encode(self, window: Window, labels: Labels) -> Iterator[tuple[int, bytes, int, int]]:
        raise NotImplementedError

    def _frame(self, entries: Sequence[Entry]) -> tuple[bytes, bytes]:
        raise NotImplementedError


@dataclass(frozen=True)
class PngFile(ImageFile):
    """An indexed PNG."""

    @property
    def unit(self) -> tuple[int, int]:
        """Full rows, whole bands."""
        return _png.band_rows(self.width, self._depth), self.width

    @property
    def _depth(self) -> int:
        return _png.bit_depth(len(self.palette))

    def keys(self, window: Window) -> Iterator[int]:
        """Yield the numbers of the bands."""
        rows = _png.band_rows(self.width, self._depth)
        yield from range(window.y // rows, -(-(window.y + window.height) // rows))

    def _encode(self, window: Window, labels: Labels) -> Iterator[tuple[int, bytes, int, int]]:
        rows = _png.band_rows(self.width, self._depth)
        for y in range(0, window.height, rows):
            band = _png.encode_band(labels[y : y + rows], self._depth, self.compression)
            yield (window.y + y) // rows, band.chunk, band.adler, band.length

    def _frame(self, entries: Sequence[Entry]) -> tuple[bytes, bytes]:
        header = _png.header(self.height, self.width, self._depth, self.palette)
        return header, _png.trailer([(entry.adler, entry.length) for entry in entries])


@dataclass(frozen=True)
class TiffFile(ImageFile):
    """A tiled palette BigTIFF."""

    @property
    def unit(self) -> tuple[int, int]:
        """Whole tiles."""
        return _tiff.TILE, _tiff.TILE

    def keys(self, window: Window) -> Iterator[int]:
        """Yield the numbers of the tiles, row by row."""
        return _numbers(window, _tiff.TILE, self.width)

    def _encode(self, window: Window, labels: Labels) -> Iterator[tuple[int, bytes, int, int]]:
        for key, tile in zip(
            self.keys(window), split(window, (_tiff.TILE, _tiff.TILE)), strict=True
        ):
            y, x = tile.y - window.y, tile.x - window.x
            data = _tiff.encode_tile(
                labels[y : y + tile.height, x : x + tile.width], self.compression
            )
            yield key, data, 0, 0

    def _frame(self, entries: Sequence[Entry]) -> tuple[bytes, bytes]:
        sizes = [entry.size for entry in entries]
        return _tiff.header(self.height, self.width, self.palette, sizes), b""


@dataclass(frozen=True)
class ZarrLabels(_Finished):
    """A Zarr array of labels, which `_store.create_labels` has made or will have.

    Attributes
    ----------
    path, array
        The store, a folder or a URL, and the array in it.
    width
        Of the picture.
    document
        The metadata of the array, if they are to come last.
    """

    path: str
    array: str
    width: int
    document: bytes | None = None

    @property
    def unit(self) -> tuple[int, int]:
        """Whole chunks."""
        return _store.CHUNK, _store.CHUNK

    def is_sound(self, key: int) -> bool:
        """Return whether the chunk of this number is there, with the right checksum."""
        place = divmod(key, -(-self.width // _store.CHUNK))
        return _store.is_sound(_stores.below(self.path, self.array), place)

    def keys(self, window: Window) -> Iterator[int]:
        """Yield the numbers of the chunks, row by row."""
        return _numbers(window, _store.CHUNK, self.width)

    def write(
        self,
        part: str,  # noqa: ARG002 - no parts
        blocks: Iterable[tuple[Window, Labels]],
        grown: Grown | None = None,
    ) -> list[Entry]:
        """Write whole chunks; there are no parts to join."""
        writer = _store.ArrayWriter(self.path, self.array, self.document)
        for window, labels in blocks:
            writer.write((window.y, window.x), labels)
            if grown is not None:
                entries = [Entry(key, "", 0, 0) for key in self.keys(window)]
                grown(entries, "", 0, 0, window.n_pixels)
        return []

    def finish(self, entries: Sequence[Entry], ready: Ready | None = None) -> int:  # noqa: ARG002 - no parts
        """Return the size of all chunks, and of the metadata."""
        array = _stores.below(self.path, self.array)
        # Metadata that come last may be there already, if a job goes on from its very end.
        nbytes = _stores.size_below(_stores.below(array, "c"))
        if self.document is None:
            return nbytes + _stores.state(_stores.below(array, "zarr.json"))[0]
        return nbytes + len(self.document)


def label_windows(
    unit: tuple[int, int],
    height: int,
    width: int,
    block: tuple[int, int],
    read_block: tuple[int, int],
) -> tuple[int, int]:
    """Choose the size of the windows of labels that a task holds at a time.

    They are multiples of the output's `unit` and, where that is not too large, of the source's
    blocks, so that no block is decoded for two windows. Else they are about as large as what is
    read at once: labels are then encoded while they are still in the processor's cache.
    """
    rows, columns = unit
    if columns >= width or block[1] >= width:
        target = max(1, min(_TARGET_ROWS, _TARGET_BYTES // width))
        most = max(2 * _TARGET_ROWS, min(block[0], _MOST_BYTES // width))
        return grow(block[0], rows, target, height, most), width
    return (
        grow(block[0], rows, read_block[0], height),
        grow(block[1], columns, read_block[1], width),
    )


def _numbers(window: Window, side: int, width: int) -> Iterator[int]:
    """Yield the numbers of the squares of a window, row by row, in a picture of a width."""
    across = -(-width // side)
    for square in split(window, (side, side)):
        yield square.y // side * across + square.x // side


def _copy(entries: Sequence[Entry], target: BinaryIO, crc: int) -> int:
    """Append the entries to `target`, neighbours of one part in one go; go on with a checksum."""
    position = 0

    def run(entry: Entry) -> tuple[str, int]:
        nonlocal position
        gap = entry.start - position
        position += entry.size
        return entry.part, gap

    for (name, _), group in groupby(entries, run):
        members = list(group)
        left = members[-1].start + members[-1].size - members[0].start
        with Path(name).open("rb") as part:  # one at a time: there may be thousands
            part.seek(members[0].start)
            while left:
                data = part.read(min(left, _COPY))
                if not data:
                    raise OSError(f"{name}: shorter than it was written")
                target.write(data)
                crc = isal_zlib.crc32(data, crc)
                left -= len(data)
    return crc


def _parts(entries: Sequence[Entry]) -> set[str]:
    return {entry.part for entry in entries}
