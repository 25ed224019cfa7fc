"""Zarr: images read in place, the working store that `ingest` writes, labels as an output.

A working store is a Zarr v3 group. A large image is an array of its own, ``images/<i>``, (height,
width, bands). Smaller ones are packed as rows of pixels into ``packed/<bands>``, (pixels, bands),
so that 50,000 photographs are one array and not 50,000. The group's attribute ``dkmeans`` lists
the images; it is written last, and a store without it is not complete.
"""

import itertools
import json
import math
import os
import secrets
import threading
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._palette import Palette
from dkmeans._tiling import Window, reading_block
from dkmeans._validation import MAX_RESIDENT, SourceError
from dkmeans.images import _store_state
from dkmeans.images._listing import Image
from dkmeans.images._store_chunks import store_type

UInt8 = npt.NDArray[np.uint8]

CHUNK = 2048  # pixels a side: 12 MiB of RGB
PACKED_CHUNK = 1 << 22  # pixels: 12 MiB of RGB
_FORMAT, _VERSION = "dkmeans-images", 1
_ALWAYS_WRITE: Any = {"write_empty_chunks": True}  # comparing each chunk with zero costs more
_CRC_BYTES = 4


# What zarr raises for what it cannot read; its own errors are ValueErrors too.
_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, OverflowError)

_last = threading.local()  # the chunk of packed pixels that was read last


def _zarr() -> Any:
    """Return the module zarr, which takes as long to import as all the rest together."""
    import zarr  # noqa: PLC0415 - slow
    import zarr.codecs  # noqa: PLC0415 - slow
    import zarr.storage  # noqa: PLC0415 - slow

    return zarr


@dataclass(frozen=True)
class ZarrSource:
    """One image in Zarr, read in place. Implements `dkmeans._passes.BlockSource`.

    Attributes
    ----------
    store, array
        The folder or its URL, and the path of the array in it ("" where the folder is the array).
    shape
        (height, width, bands).
    block
        The height and width of the chunks.
    offset
        For an image packed with others, the row of its first pixel; else None.
    stored
        What told of the metadata when it was probed; "" in S3, where that is asked for when needed.
    probed
        Another text for each look at the store: what was read of one is not taken for the next.
    """

    store: str
    array: str
    shape: tuple[int, int, int]
    block: tuple[int, int]
    offset: int | None = None
    stored: str = ""
    probed: str = ""

    in_order = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""
        return np.dtype(np.uint8)

    @property
    def read_block(self) -> tuple[int, int]:
        """The windows in which it reads well: whole chunks, a few MiB."""
        return reading_block(self.shape[1], self.block, self.shape[2])

    def fingerprint(self) -> str:
        """Return what changes with the array's metadata, and on the disk with its chunks."""
        if _stores.is_url(self.store):
            return _store_state.of_metadata(self.store, self.array)
        return f"{self.stored}-{_store_state.of_files(self.store, self.array, self.probed)}"

    def read(self, windows: Sequence[Window]) -> Generator[UInt8, None, None]:
        """Yield the block of each window, (height, width, bands), opening the array once.

        Raises
        ------
        SourceError
            If the array is gone or a chunk cannot be decoded.
        """
        with _reading(self.store):
            self._refuse_changed()
            array = _zarr().open_array(_at(self.store), path=self.array, mode="r")
            for window in windows:
                yield self._read(array, window)
            self._refuse_changed()

    def _refuse_changed(self) -> None:
        if self.stored and _store_state.of_metadata(self.store, self.array) != self.stored:
            raise SourceError(f"{self.store}: changed while it was being read; run again.")

    def _read(self, array: Any, window: Window) -> UInt8:
        if self.offset is None:
            pixels = self._region(array, (window.rows, window.columns))
            return pixels.reshape(window.height, window.width, self.shape[2])
        width = self.shape[1]
        start = self.offset + window.y * width
        pixels = self._packed(array, start, start + window.height * width)
        return pixels.reshape(window.height, width, self.shape[2])[:, window.columns]

    def _region(self, array: Any, region: tuple[slice, ...]) -> UInt8:
        try:
            return np.asarray(array[region])
        except _ERRORS as error:
            if chunk := _damaged_chunk(array, region):
                place = f"{self.store}/{self.array}".rstrip("/")
                raise SourceError(f"{place}: chunk {chunk} is damaged ({error}).") from error
            raise

    def _packed(self, array: Any, start: int, stop: int) -> UInt8:
        """Return rows of packed pixels; each thread keeps the last chunk, for the next picture."""
        parts, size = [], array.chunks[0]
        for number in range(start // size, -(-stop // size)):
            key = (self.probed, self.store, self.array, number)
            if getattr(_last, "key", None) != key:
                _last.rows = self._region(array, (slice(number * size, (number + 1) * size),))
                _last.key = key
            low = max(start - number * size, 0)
            parts.append(_last.rows[low : stop - number * size])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _as_probed(source: ZarrSource) -> ZarrSource:
    """Return the source with what tells of its metadata, if that costs no request to a server."""
    if _stores.is_url(source.store):
        return source
    return replace(source, stored=_store_state.of_metadata(source.store, source.array))


def _damaged_chunk(array: Any, region: Sequence[slice]) -> str | None:
    """Return the name of the first chunk of a region that cannot be read."""
    shape = array.shards or array.chunks
    touched = [
        range(part.start // size, -(-part.stop // size))
        for part, size in zip(region, shape, strict=False)
    ]
    for numbers in itertools.product(*touched):
        try:
            array[tuple(slice(n * s, (n + 1) * s) for n, s in zip(numbers, shape, strict=False))]
        except _ERRORS:
            whole = (*numbers, *(0 for _ in shape[len(numbers) :]))
            return str(array.metadata.encode_chunk_key(whole))
    return None


@contextmanager
def _reading(path: str) -> Iterator[None]:
    with _stores.reading(path):
        try:
            yield
        except _ERRORS as error:
            raise SourceError(f"{path}: cannot be read as Zarr ({error}).") from error


def _at(place: str) -> Any:
    """Return what zarr opens a place by: the name of a folder, or the store of its URL."""
    if not _stores.is_url(place):
        return place
    return _zarr().storage.ObjectStore(_stores.folder(place), read_only=True)


def is_marked(names: Container[str]) -> bool:
    """Return whether a folder that holds these names is a Zarr array or group."""
    return any(marker in names for marker in _store_state.MARKERS)


def is_zarr(path: Path) -> bool:
    """Return whether a folder is a Zarr array or group."""
    # Unlike Path.is_file, this is False too for what must not be looked at.
    return any(os.path.isfile(path / marker) for marker in _store_state.MARKERS)  # noqa: PTH113


def probe(path: str | Path) -> list[tuple[str, ZarrSource]]:
    """List the images of a Zarr array or working store, with their names.

    Raises
    ------
    SourceError
        If it cannot be read, is not complete, or holds what is not yet supported.
    """
    path = str(path)
    with _reading(path):
        node = _zarr().open(_at(path), mode="r")
    if isinstance(node, _zarr().Array):
        return [("", _as_probed(_probe_array(path, node)))]
    listing = dict(node.attrs).get("dkmeans")
    if listing is None:
        raise SourceError(
            f"{path}: a Zarr group without a list of images; give the path of an array in it (of "
            "labels there is one for each source), or ingest again if an ingest was interrupted."
        )
    return list(_probe_group(path, node, listing))


def _probe_array(path: str, array: Any) -> ZarrSource:
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.shape[2:] or (1,))[0] not in (1, 3)
    ):
        raise SourceError(
            f"{path}: not yet supported: a Zarr array of shape {array.shape} and dtype "
            f"{array.dtype}; give (height, width), or (height, width, 1 or 3), as uint8."
        )
    if 0 in array.shape:
        raise SourceError(f"{path}: has no pixels (shape {array.shape}).")
    height, width, bands = (*array.shape, 1)[:3]
    held = math.prod(array.chunks)
    if held > MAX_RESIDENT:
        raise SourceError(
            f"{path}: chunks of {array.chunks} must each be held in memory ({held >> 20} MiB, "
            f"allowed are {MAX_RESIDENT >> 20}); write it again in smaller chunks."
        )
    shards = array.shards
    block = (shards if shards and math.prod(shards) <= MAX_RESIDENT else array.chunks)[:2]
    return ZarrSource(path, "", (height, width, bands), block, probed=secrets.token_hex(8))


def _probe_group(path: str, group: Any, listing: Any) -> Iterator[tuple[str, ZarrSource]]:
    try:
        if (listing["format"], listing["version"]) != (_FORMAT, _VERSION):
            raise SourceError(f"{path}: written by another version of dkmeans; ingest again.")
        probed = secrets.token_hex(8)
        opened = cache(group.__getitem__)  # packed images share an array
        for image in map(Image.from_json, listing["images"]):
            array = opened(image.array)
            chunks = array.chunks
            if image.offset is None:
                block = chunks[:2]
                fits = array.shape == image.shape
            else:
                block = (max(1, chunks[0] // image.shape[1]), image.shape[1])
                fits = image.offset >= 0 and array.shape[1] == image.shape[2]
                fits &= image.offset + image.shape[0] * image.shape[1] <= array.shape[0]
            fits &= image.shape[2] in (1, 3)
            if not fits or array.dtype != np.uint8:
                raise SourceError(f"{path}: its list of images is damaged ({image.name}).")
            place = path, image.array, image.shape, block, image.offset
            yield image.name, _as_probed(ZarrSource(*place, probed=probed))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SourceError(f"{path}: its list of images is damaged ({error!r}).") from error


class Blueprint:
    """The metadata of a store in S3, where they come last, in memory: a place to create in."""

    def __init__(self) -> None:
        self.store = _zarr().storage.MemoryStore()

    def documents(self) -> dict[str, bytes]:
        """Return all metadata, by their names in the store, those of the whole last."""
        held = self.store._store_dict  # noqa: SLF001 - zarr lists keys only in a loop of its own
        names = sorted(held, key=lambda name: (-name.count("/"), name))
        return {name: held[name].to_bytes() for name in names}


Root = Path | Blueprint


def kept_in(place: Root) -> Any:
    """Return what zarr makes arrays in."""
    return place.store if isinstance(place, Blueprint) else str(place)


def create(
    path: Root,
    arrays: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
    *,
    compress: bool,
) -> None:
    """Create a working store with empty arrays, given the shape and chunks of each by name."""
    codecs = [_zarr().codecs.Crc32cCodec()]
    if compress:
        codecs.insert(0, _zarr().codecs.BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle"))
    group = _zarr().create_group(kept_in(path), zarr_format=3)
    for name, (shape, chunks) in arrays.items():
        group.create_array(
            name,
            shape=shape,
            chunks=chunks,
            dtype=np.uint8,
            compressors=codecs,
            config=_ALWAYS_WRITE,
        )


def complete(path: Root, images: Sequence[Image]) -> None:
    """Write the list of images, which makes the store complete, in the way of chunks."""
    listing: Any = {"format": _FORMAT, "version": _VERSION, "images": [asdict(i) for i in images]}
    local = store_type(_zarr().storage.LocalStore)
    place = path.store if isinstance(path, Blueprint) else local(path)
    _zarr().open_group(place, mode="r+").attrs["dkmeans"] = listing


class ArrayWriter:
    """Writes an array of `create` region by region; every region owns whole chunks.

    Zarr loses data when two tasks write parts of one chunk, so a region that begins inside a
    chunk, or ends inside one but not at the array's edge, is a mistake and raises ValueError.

    Parameters
    ----------
    place, name
        Of the store, a folder or a URL, and the array in it.
    document
        The metadata of the array, if it has none yet.
    """

    def __init__(self, place: str | Path, name: str, document: bytes | None = None) -> None:
        self._url = None if document is None else str(place)
        if document is None:
            local = store_type(_zarr().storage.LocalStore)(Path(place))
            array = _zarr().open_array(local, path=name, mode="r+")
        else:
            store = _zarr().storage.ObjectStore(_stores.folder(str(place)))
            path = _zarr().storage.StorePath(store, name)
            array = _zarr().Array.from_dict(path, json.loads(document))
        self._array: Any = array.with_config(_ALWAYS_WRITE)  # `open_array` would not heed it

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        shape: tuple[int, ...] = self._array.shape
        return shape

    @property
    def chunks(self) -> tuple[int, ...]:
        """The shape of the chunks."""
        chunks: tuple[int, ...] = self._array.chunks
        return chunks

    def write(self, start: tuple[int, ...], block: npt.NDArray[Any]) -> None:
        """Write `block` with its first corner at `start`."""
        stop = tuple(s + n for s, n in zip(start, block.shape, strict=True))
        for begin, end, size, chunk in zip(
            start, stop, self._array.shape, self.chunks, strict=True
        ):
            if begin % chunk or (end % chunk and end != size):
                raise ValueError(f"region {start} to {stop} cuts chunks of {self.chunks}")
        # One chunk a call: of several, zarr would leave the others pending when one cannot be
        # written. Tasks run side by side already.
        steps = (range(0, n, chunk) for n, chunk in zip(block.shape, self.chunks, strict=True))
        for corner in itertools.product(*steps):
            part = tuple(slice(c, c + n) for c, n in zip(corner, self.chunks, strict=True))
            place = tuple(
                slice(b + c, min(b + c + n, e))
                for b, c, n, e in zip(start, corner, self.chunks, stop, strict=True)
            )
            # What an object store answers is told here: nobody above knows its errors.
            with nullcontext() if self._url is None else _stores.writing(self._url):
                self._array[place] = block[part]


def create_labels(path: Root, name: str, shape: tuple[int, int], palette: Palette) -> None:
    """Create an empty array of labels, uint8 (uint16 beyond 256 colours), with its palette.

    `name` is the array's path in the group at `path`, or "" for an array at `path` itself.
    """
    array = _zarr().create_array(
        kept_in(path),
        name=name or None,
        shape=shape,
        chunks=(min(CHUNK, shape[0]), min(CHUNK, shape[1])),
        dtype=label_dtype(len(palette)),
        compressors=[_zarr().codecs.ZstdCodec(level=0), _zarr().codecs.Crc32cCodec()],
        dimension_names=("y", "x"),
        zarr_format=3,
        config=_ALWAYS_WRITE,
    )
    array.attrs["palette"] = list(palette.hex)


def is_sound(array: _stores.Place, chunk: Sequence[int]) -> bool:
    """Return whether a chunk that was written is still there, and as it was written.

    It ends with the checksum of what comes before it, as the arrays of this module have it.
    """
    try:
        data = _stores.read(_stores.below(array, "/".join(["c", *map(str, chunk)])))
    except SourceError:
        return False
    checksum: int = google_crc32c.value(data[:-_CRC_BYTES])
    return data[-_CRC_BYTES:] == checksum.to_bytes(_CRC_BYTES, "little")


def label_dtype(n_colors: int) -> np.dtype[Any]:
    """Return the smallest unsigned dtype that holds labels below `n_colors`."""
    return np.dtype(np.uint8 if n_colors <= 1 << 8 else np.uint16)
