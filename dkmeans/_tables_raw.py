"""Chunks of Zarr that are bare bytes in local files, read into memory that is used again.

They may have a checksum at their end, which is compared.

zarr puts each chunk into fresh memory, which the system has to clear page by page, and copies it
once more: for uncompressed chunks in the system's cache that takes several times longer than to
read them. Files are read, not mapped: one that is cut short under a map would end the process.
"""

import math
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from dkmeans._tables_regions import Region

T = TypeVar("T")

_CRC_BYTES = 4


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
        if array.shards is not None or array.chunks[-1] != array.shape[-1]:
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
        chunk, across = self.chunks[0], self.chunks[1:]
        line = math.prod(across) * self.dtype.itemsize
        numbers = [at // n for at, n in zip(region.start[1:], self.chunks[1:], strict=False)]
        at, stop = region.start[0], region.start[0] + region.size[0]
        place = memory.data
        while at < stop:
            number, skipped = divmod(at, chunk)
            n = min(stop, at + chunk - skipped) - at
            file = self._file((number, *numbers, 0))
            if self.is_checked:
                if skipped or not _fill_checked(file, place[: chunk * line + _CRC_BYTES]):
                    return None
            elif not _fill(file, chunk * line, skipped * line, place[: n * line]):
                return None
            place = place[n * line :]
            at += n
        whole = memory[: region.size[0] * line].view(self.dtype).reshape(region.size[0], *across)
        return whole[tuple(slice(n) for n in region.size)]

    def room(self, region: Region) -> int:
        """Return how many bytes it takes to read a region."""
        line = math.prod(self.chunks[1:]) * self.dtype.itemsize
        if self.is_checked:
            return -(-region.size[0] // self.chunks[0]) * self.chunks[0] * line + _CRC_BYTES
        return region.size[0] * line

    def _file(self, numbers: tuple[int, ...]) -> Path:
        return Path(self.folder, self.prefix + self.separator.join(map(str, numbers)))


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


def ahead(fetch: Callable[[T, int], Any], items: Sequence[T]) -> Generator[Any, None, None]:
    """Yield `fetch(item, place)` of each item, while a thread fetches the one after it.

    `place` is 0 and 1 in turn: what was fetched to a place holds until the second item after it is
    asked for, so what is yielded holds until the next.
    """
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for i, item in enumerate(items):
            following = thread.submit(fetch, item, i % 2)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
