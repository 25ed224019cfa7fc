"""Zarr arrays as tables: read by region, opened again in each task."""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans import _tables_kept as kept
from dkmeans._tables_blocks import BLOCK_BYTES, RowSource
from dkmeans._tables_raw import RawChunks, ahead
from dkmeans._tables_regions import Region
from dkmeans._validation import SourceError

ROWS_OF_A_CHUNK = 1 << 20  # of labels: 4 MiB
_URL = "dkmeans_url"  # an attribute of stores
_REGION_BYTES = 1 << 23  # a good size to read: fills a request, and fits the allocator's cache

# What zarr raises for what it cannot read; its own errors are ValueErrors too, and a library that a
# URL needs may be missing.
_ERRORS = (
    OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError,
    ArithmeticError,
)  # fmt: skip


@contextmanager
def _reading(name: str) -> Iterator[None]:
    with _stores.reading(name):
        try:
            yield
        except _ERRORS as error:
            raise SourceError(f"{name}: cannot be read as a Zarr array ({error}).") from error


def open_array(path: str) -> Any:
    """Open the Zarr array that a path or URL names.

    Raises
    ------
    SourceError
        If there is none, or it cannot be read.
    """
    import zarr  # noqa: PLC0415 - slow

    store = _at(path)
    if store is not path:
        _stores.exists(f"{path.rstrip('/')}/zarr.json")  # tells why nothing can be, if so
    with _reading(path), np.errstate(over="ignore"):  # of what is there where nothing was written
        if path.endswith(".npy") and Path(path).is_file():
            raise ValueError("it is a .npy file: give numpy.load(path, mmap_mode='r') instead")
        try:
            array = zarr.open_array(store, mode="r")
        except (zarr.errors.ArrayNotFoundError, zarr.errors.NodeTypeValidationError) as error:
            hint = "of a group, give the path of an array in it"
            raise ValueError(f"there is none; {hint}") from error
        parts = (array.chunks, array.shards or array.chunks)
        if any(0 in part for part in parts) and 0 not in array.shape:
            raise ValueError(f"chunks of {array.chunks}, in shards of {array.shards}")
        return array


def _at(place: str) -> Any:
    """Return what zarr opens a place by; a store in S3 remembers its URL."""
    if not place.startswith("s3://"):
        return place
    import zarr.storage  # noqa: PLC0415 - slow

    store = zarr.storage.ObjectStore(_stores.folder(place), read_only=True)
    setattr(store, _URL, place.rstrip("/"))
    return store


@dataclass(frozen=True, eq=False)
class ZarrSource(RowSource):
    """An array in Zarr. Pickles small where it lies in a folder or in S3, else as its store does.

    Attributes
    ----------
    store
        The folder or URL, or the Zarr array itself where it lies elsewhere.
    inside
        The path of the array in the folder.
    shape, stored, dtype
        The shape; the dtype as stored, and of the blocks that passes see.
    raw
        Its chunks, if they are bare bytes in files.
    table
        A name for the table that it belongs to, and for what is read of it: see `_tables_kept`.
        Empty if nothing of it is to be kept.
    number
        Of the array in the table. Names do not tell arrays apart: a store may lie in any archive.
    """

    store: Any
    inside: str
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    in_memory: bool = False
    raw: RawChunks | None = None
    table: str = ""
    number: int = 0

    @classmethod
    def of(cls, array: Any, dtype: np.dtype[Any], table: str = "", number: int = 0) -> "ZarrSource":
        """Return the source for a Zarr array."""
        import zarr  # noqa: PLC0415 - slow

        store, path, raw = array, "", None
        if isinstance(array.store, zarr.storage.LocalStore):
            # Workers may have started in another folder.
            store, path = str(Path(array.store.root).absolute()), array.path
            raw = RawChunks.of(array, str(Path(store, path)))
        elif hasattr(array.store, _URL):
            # Workers open it with the credentials of their own.
            store, path = getattr(array.store, _URL), array.path
        in_memory = isinstance(array.store, zarr.storage.MemoryStore)
        return cls(store, path, array.shape, array.dtype, dtype, in_memory, raw, table, number)

    @property
    def path(self) -> str:
        """What to call it in messages."""
        return f"{self.store}/{self.inside}" if self.inside else str(self.store)

    @property
    def is_kept(self) -> bool:
        """Whether workers keep some of its blocks in memory."""
        return bool(self.table) and self.raw is None and not self.in_memory

    def open(self) -> Any:
        """Return the Zarr array, opened if need be."""
        if not isinstance(self.store, str):
            return self.store
        import zarr  # noqa: PLC0415 - slow

        with _reading(self.path):
            return zarr.open_array(_at(self.store), path=self.inside, mode="r")

    def described(self) -> str:
        """Return the metadata, but for attributes, as a text."""
        metadata = self.open().metadata.to_dict()
        metadata.pop("attributes", None)
        return repr(sorted(metadata.items()))

    def read(self, windows: Sequence[Region]) -> Generator[tuple[Any, Any | None], None, None]:
        """Yield the array of each region, which holds until the next; that is on its way meanwhile.

        Bare chunks are on their way from the disk to the system's cache, others are decoded.

        Raises
        ------
        SourceError
            If the array is gone or a chunk cannot be decoded.
        """
        reader = _Reader(self)
        if self.raw is None:
            for values in ahead(reader.decoded, windows):
                yield values, None
            return
        for window, following in zip_longest(windows, windows[1:]):
            if following is not None:
                self.raw.ask(following)
            yield reader.bare(self.raw, window), None


class _Reader:
    """Reads regions of a source, bare ones into memory that is used again."""

    def __init__(self, source: ZarrSource) -> None:
        self._source = source
        self._memory = np.empty(0, np.uint8)
        self._array: Any = None
        self._room = kept.room() if source.is_kept else 0

    def bare(self, raw: RawChunks, region: Region) -> npt.NDArray[Any]:
        """Return the array of a region of bare chunks."""
        with self._reading(region):
            if self._memory.size < raw.room(region):
                self._memory = np.empty(raw.room(region), np.uint8)
            found = raw.read(region, self._memory)
        return self.decoded(region) if found is None else found

    def decoded(self, region: Region) -> npt.NDArray[Any]:
        """Return the array of a region, as zarr reads it."""
        table, key = self._source.table, (self._source.number, region)
        values = kept.find(table, key) if self._room else None
        if values is None:
            with self._reading(region):
                if self._array is None:
                    self._array = self._source.open()
                values = np.asarray(self._array[region.slices])
            if self._room:
                kept.keep(table, key, values, self._room)
        return values

    def _reading(self, region: Region) -> AbstractContextManager[None]:
        return _reading(f"{self._source.path}, from {region.start} on")


class StoredArray:
    """A `ZarrSource` as an array for Dask: it has a shape and a dtype, and is read by index."""

    def __init__(self, source: ZarrSource) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = source.stored
        self.ndim = len(source.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        array = self.source.open()
        with _reading(self.source.path):
            return np.asarray(array[index])


def create_labels(place: Any, shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    """Create an array of int32 without chunks, in a folder or in what zarr keeps arrays in.

    Its chunks carry checksums, so that one that has been damaged is not read as labels.
    """
    import zarr  # noqa: PLC0415 - slow
    from zarr.codecs import Crc32cCodec, ZstdCodec  # noqa: PLC0415 - slow

    zarr.create_array(
        place,
        shape=shape,
        chunks=tuple(max(1, min(n, extent)) for n, extent in zip(chunks, shape, strict=True)),
        dtype=np.int32,
        fill_value=-1,
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
        zarr_format=3,
        config={"write_empty_chunks": True},
    )


def complete_labels(place: Any, attributes: dict[str, Any]) -> None:
    """Write the attributes of an array that `create_labels` has made: its last metadata."""
    import zarr  # noqa: PLC0415 - slow

    zarr.open_array(place, mode="r+").update_attributes(attributes)


def raw_steps(raw: RawChunks) -> tuple[int, ...]:
    """Choose the extents of the regions to read of bare chunks: as large as a block.

    Of chunks with a checksum they are whole chunks.
    """
    unit = raw.chunks[0] if raw.is_checked else 1
    line = math.prod(raw.chunks[1:]) * raw.dtype.itemsize
    return (max(1, BLOCK_BYTES // (unit * line)) * unit, *raw.chunks[1:-1])


def steps(
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None,
    itemsize: int,
    target: int = _REGION_BYTES,
) -> tuple[int, ...]:
    """Choose the extents of the regions to read, along the leading axes.

    Small chunks are grouped along the first axis, up to about `target` bytes; a large one is a
    region of its own. No region has less than a chunk, nor parts of several shards unless it has
    them whole.

    Parameters
    ----------
    shape, chunks, shards
        Of the array, features last.
    itemsize
        Bytes of a number as stored.
    target
        Bytes of a region.

    Examples
    --------
    >>> steps((1000, 8), (10, 8), None, 4, target=1000)
    (30,)
    >>> steps((1000, 8), (10, 8), (60, 8), 4, target=1000), steps((90, 1), (9, 1), (18, 1), 1, 50)
    ((30,), (36,))
    """
    extents, unit = shape[:-1], chunks[:-1]
    row_bytes = max(1, shape[-1] * itemsize)
    most = None
    if shards is not None:
        whole = _n_rows(extents, shards) * row_bytes <= target
        most = None if whole else shards[0] // chunks[0]
        unit = shards[:-1] if whole else unit
    group = max(1, target // (_n_rows(extents, unit) * row_bytes))
    if most is not None:
        # Damaged metadata may tell of any number of chunks in a shard, and of none.
        group = next((n for n in range(min(group, most), 0, -1) if most % n == 0), 1)
    return (unit[0] * group, *unit[1:])


def _n_rows(extents: tuple[int, ...], unit: tuple[int, ...]) -> int:
    return max(1, math.prod(min(a, b) for a, b in zip(extents, unit, strict=False)))
