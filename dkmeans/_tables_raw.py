"""Chunks of Zarr that are bare bytes in local files, read into memory that is used again.

They may have a checksum at their end, which is compared.

zarr puts each chunk into fresh memory, which the system has to clear page by page, and copies it
once more: for uncompressed chunks in the system's cache that takes several times longer than to
read them. Files are read, not mapped: one that is cut short under a map would end the process.
"""

import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from dkmeans._tables_regions import Region

T = TypeVar("T")
R = TypeVar("R")

_CRC_BYTES = 4
_CAN_ASK = hasattr(os, "RWF_NOWAIT")  # Linux
_ASKED = 1 << 17  # bytes at a time: of more, the system may bring only the first


@dataclass(frozen=True)
class RawChunks:
    """Where the chunks of an array are, and what their bytes mean.

    Attributes
    ----------
    folder
        Of the array.
    prefix, separator
        Of the name of a chunk's file, before and between the chunk's numbers.
    shape, chunks
        Of the array and its chunks; features last, all of them in one chunk.
    dtype
        As stored.
    is_checked
        Whether the checksum of a chunk comes after it.
    """

    folder: str
    prefix: str
    separator: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    is_checked: bool

    @classmethod
    def of(cls, array: Any, folder: str) -> Self | None:
        """Return the chunks of a Zarr array in a folder; None if they are not bare bytes."""
        if array.shards is not None or array.chunks[-1:] != array.shape[-1:] or not array.shape:
            return None
        metadata = array.metadata.to_dict()
        bare = _bare_2 if metadata["zarr_format"] == 2 else _bare_3  # noqa: PLR2004 - it is a name
        found = bare(metadata, np.dtype(array.dtype))
        if found is None:
            return None
        naming, dtype, is_checked = found
        return cls(folder, *naming, array.shape, array.chunks, dtype, is_checked)

    def read(self, region: Region, memory: npt.NDArray[np.uint8]) -> npt.NDArray[Any] | None:
        """Return the array of a region, which lies in one chunk along all axes but the first.

        Parameters
        ----------
        region
            Any rows along the first axis; of chunks that are checked, from the first of a chunk on.
        memory
            OUT: of `room` bytes for the region, which the array is a view of.

        Returns
        -------
        array or None
            None if a file is missing, not as long as a chunk, or not what its checksum tells: what
            that means zarr knows.
        """
        place = memory.data
        for file, start, n in self._stretches(region):
            if self.is_checked:
                if start or not _fill_checked(file, place[: n + _CRC_BYTES]):
                    return None
            elif not _fill(file, self.chunks[0] * self._line, start, place[:n]):
                return None
            place = place[n:]
        size, across = region.size[0], self.chunks[1:]
        whole = memory[: size * self._line].view(self.dtype).reshape(size, *across)
        return whole[tuple(slice(n) for n in region.size)]

    def ask(self, region: Region) -> None:
        """Have the system begin to bring a region from the disk, unless it has it in its cache."""
        for file, start, n in self._stretches(region) if _CAN_ASK else ():
            try:
                stream = os.open(file, os.O_RDONLY)
            except OSError:
                return  # who reads it will tell
            try:
                if not _is_there(stream, start + n - 1):
                    for at in range(start, start + n, _ASKED):
                        os.posix_fadvise(stream, at, _ASKED, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(stream)

    def room(self, region: Region) -> int:
        """Return how many bytes it takes to read a region."""
        if self.is_checked:
            return -(-region.size[0] // self.chunks[0]) * self.chunks[0] * self._line + _CRC_BYTES
        return region.size[0] * self._line

    def _stretches(self, region: Region) -> Iterator[tuple[Path, int, int]]:
        """Yield where a region lies: files, where it begins in each, and how many bytes it has.

        Chunks that are checked are read whole.
        """
        chunk, line = self.chunks[0], self._line
        across = [at // n for at, n in zip(region.start[1:], self.chunks[1:], strict=False)]
        at, stop = region.start[0], region.start[0] + region.size[0]
        while at < stop:
            number, skipped = divmod(at, chunk)
            n = chunk - skipped if self.is_checked else min(stop - at, chunk - skipped)
            names = map(str, (number, *across, 0))
            file = Path(self.folder, self.prefix + self.separator.join(names))
            yield file, skipped * line, n * line
            at += n

    @property
    def _line(self) -> int:
        """The bytes of a step along the first axis."""
        return math.prod(self.chunks[1:]) * self.dtype.itemsize


# Prefix and separator, the dtype of the bytes, and whether their checksum comes after them.
_Bare = tuple[tuple[str, str], np.dtype[Any], bool]


def _bare_2(metadata: dict[str, Any], dtype: np.dtype[Any]) -> _Bare | None:
    if metadata.get("compressor") or metadata.get("filters") or metadata["order"] != "C":
        return None
    return ("", metadata["dimension_separator"]), dtype, False


def _bare_3(metadata: dict[str, Any], dtype: np.dtype[Any]) -> _Bare | None:
    codecs, names = metadata["codecs"], metadata["chunk_key_encoding"]
    kinds = [codec["name"] for codec in codecs]
    if (
        kinds not in (["bytes"], ["bytes", "crc32c"])
        or metadata["chunk_grid"]["name"] != "regular"
        or metadata.get("storage_transformers")
    ):
        return None
    # The dtype of the array is that of what zarr returns; the bytes have an order of their own.
    order = codecs[0].get("configuration", {}).get("endian", "=")
    dtype = dtype.newbyteorder(order)
    separator = names.get("configuration", {}).get("separator")
    if names["name"] == "default":
        separator = separator or "/"
        return ("c" + separator, separator), dtype, len(kinds) > 1
    return (("", separator or "."), dtype, len(kinds) > 1) if names["name"] == "v2" else None


def _fill(file: Path, size: int, skipped: int, place: memoryview) -> bool:
    """Read bytes of a file of some size; return whether it has that size and held them."""
    try:
        with file.open("rb", buffering=0) as stream:
            if stream.seek(0, 2) != size:
                return False
            stream.seek(skipped)
            while place:
                n = stream.readinto(place)
                if not n:
                    return False
                place = place[n:]
            return True
    except FileNotFoundError:
        return False


def _fill_checked(file: Path, place: memoryview) -> bool:
    """Read a whole chunk and the checksum after it; return whether both are there and agree."""
    if not _fill(file, len(place), 0, place):
        return False
    checksum: int = google_crc32c.value(np.frombuffer(place[:-_CRC_BYTES], np.uint8))
    return bytes(place[-_CRC_BYTES:]) == checksum.to_bytes(_CRC_BYTES, "little")


def _is_there(stream: int, at: int) -> bool:
    """Whether a byte of a file is in the system's cache."""
    try:
        return os.preadv(stream, [bytearray(1)], at, os.RWF_NOWAIT) > 0
    except OSError:  # it is not, or this file system cannot tell
        return False


def ahead(fetch: Callable[[T], R], items: Sequence[T]) -> Generator[R, None, None]:
    """Yield `fetch(item)` of each item, while a thread fetches the one after it."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for item in items:
            following = thread.submit(fetch, item)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
