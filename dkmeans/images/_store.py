"""Zarr that is written: the working store of `ingest`, and labels as an output.

A working store is a Zarr v3 group. A large image is an array of its own, ``images/<i>``, (height,
width, bands). Smaller ones are packed as rows of pixels into ``packed/<bands>``, (pixels, bands),
so that 50,000 photographs are one array and not 50,000. The group's attribute ``dkmeans`` lists
the images; it is written last, and a store without it is not complete.
"""

import itertools
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._palette import Palette
from dkmeans._validation import SourceError
from dkmeans.images._listing import FORMAT, VERSION, Image
from dkmeans.images._store_chunks import store_type
from dkmeans.images._store_source import zarr_library

CHUNK = 2048  # pixels a side: 12 MiB of RGB
PACKED_CHUNK = 1 << 22  # pixels: 12 MiB of RGB
_ALWAYS_WRITE: Any = {"write_empty_chunks": True}  # comparing each chunk with zero costs more
_CRC_BYTES = 4


class Blueprint:
    """The metadata of a store in S3, where they come last, in memory: a place to create in."""

    def __init__(self) -> None:
        self.store = zarr_library().storage.MemoryStore()

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
    codecs = [zarr_library().codecs.Crc32cCodec()]
    if compress:
        codecs.insert(
            0, zarr_library().codecs.BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle")
        )
    group = zarr_library().create_group(kept_in(path), zarr_format=3)
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
    listing: Any = {"format": FORMAT, "version": VERSION, "images": [asdict(i) for i in images]}
    local = store_type(zarr_library().storage.LocalStore)
    place = path.store if isinstance(path, Blueprint) else local(path)
    zarr_library().open_group(place, mode="r+").attrs["dkmeans"] = listing


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
            local = store_type(zarr_library().storage.LocalStore)(Path(place))
            array = zarr_library().open_array(local, path=name, mode="r+")
        else:
            store = zarr_library().storage.ObjectStore(_stores.folder(str(place)))
            path = zarr_library().storage.StorePath(store, name)
            array = zarr_library().Array.from_dict(path, json.loads(document))
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
    array = zarr_library().create_array(
        kept_in(path),
        name=name or None,
        shape=shape,
        chunks=(min(CHUNK, shape[0]), min(CHUNK, shape[1])),
        dtype=label_dtype(len(palette)),
        compressors=[zarr_library().codecs.ZstdCodec(level=0), zarr_library().codecs.Crc32cCodec()],
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
