"""Images in Zarr, read in place: arrays of pixels, and the stores that `ingest` writes."""

import itertools
import math
import os
import secrets
import threading
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._tiling import Window, reading_block
from dkmeans._validation import MAX_RESIDENT, SourceError
from dkmeans.images import _store_state
from dkmeans.images._listing import FORMAT, VERSION, Image

UInt8 = npt.NDArray[np.uint8]

# What zarr raises for what it cannot read; its own errors are ValueErrors too.
_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, OverflowError)

_last = threading.local()  # the chunk of packed pixels that was read last


def zarr_library() -> Any:
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
    is_full
        Whether no chunk may be missing; else pixels of those that are have the array's fill value.
    """

    store: str
    array: str
    shape: tuple[int, int, int]
    block: tuple[int, int]
    offset: int | None = None
    stored: str = ""
    probed: str = ""
    is_full: bool = False

    in_order = False
    dtype = np.dtype(np.uint8)

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
            array = zarr_library().open_array(_at(self.store), path=self.array, mode="r")
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
        place = f"{self.store}/{self.array}".rstrip("/")
        try:
            pixels = np.asarray(array[region])
        except _ERRORS as error:
            if chunk := _damaged_chunk(array, region):
                raise SourceError(f"{place}: chunk {chunk} is damaged ({error}).") from error
            raise
        for chunk in _blank_chunks(array, region, pixels) if self.is_full else ():
            if not _stores.exists(f"{place}/{chunk}"):
                raise SourceError(f"{place}: chunk {chunk} is missing; copy or ingest it again.")
        return pixels

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
    for name, place in _chunks(array, region):
        try:
            array[place]
        except _ERRORS:
            return name
    return None


def _blank_chunks(array: Any, region: Sequence[slice], pixels: UInt8) -> Iterator[str]:
    """Yield the names of the chunks of which all pixels of a region are 0, as of missing ones."""
    for name, place in _chunks(array, region):
        within = tuple(
            slice(max(0, part.start - whole.start), part.stop - whole.start)
            for part, whole in zip(place, region, strict=True)
        )
        if not pixels[within].flat[0] and not pixels[within].any():  # one pixel tells most of them
            yield name


def _chunks(array: Any, region: Sequence[slice]) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Yield the name of each chunk that a region touches, and its place in the array."""
    shape = array.shards or array.chunks
    touched = [
        range(part.start // size, -(-part.stop // size))
        for part, size in zip(region, shape, strict=False)
    ]
    for numbers in itertools.product(*touched):
        whole = (*numbers, *(0 for _ in shape[len(numbers) :]))
        place = tuple(slice(n * s, (n + 1) * s) for n, s in zip(numbers, shape, strict=False))
        yield str(array.metadata.encode_chunk_key(whole)), place


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
    return zarr_library().storage.ObjectStore(_stores.folder(place), read_only=True)


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
        node = zarr_library().open(_at(path), mode="r")
    if isinstance(node, zarr_library().Array):
        return [("", _as_probed(_probe_array(path, node)))]
    listing = dict(node.attrs).get("dkmeans")
    if listing is None:
        raise SourceError(
            f"{path}: a Zarr group without a list of images; give the path of an array in it (not "
            "of labels), or ingest again if an ingest was interrupted."
        )
    with _reading(path):
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
    if "palette" in array.attrs:
        raise SourceError(
            f"{path}: not yet supported: labels with a palette; give the picture that they are of."
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
        if (listing["format"], listing["version"]) != (FORMAT, VERSION):
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
            # Ours have all their chunks: one that is missing was not copied, or is lost.
            yield image.name, _as_probed(ZarrSource(*place, probed=probed, is_full=True))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SourceError(f"{path}: its list of images is damaged ({error!r}).") from error
