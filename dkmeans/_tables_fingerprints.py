"""Fingerprints: short texts that change when the data of a table do.

They are taken without a pass over the data, and so tell what that allows to tell:

- of an array in memory, every byte counts, which takes about a second for a GB; of one that is a
  map of a file, the file's name, size and time of change, and where in it the numbers lie. A map
  that is changed without the file ("copy on write") is one in memory;
- of Zarr in a folder, the metadata, and the name, size and time of change of every file: whoever
  writes a chunk changes it. Copies of the store differ;
- of Zarr elsewhere, the metadata and a few regions;
- of a Dask array, a few rows, for which their blocks are computed.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt

from dkmeans import _passes_schedulers as schedulers
from dkmeans._passes_threads import in_threads
from dkmeans._stores_folders import states
from dkmeans._tables_zarr import StoredArray, ZarrSource
from dkmeans._validation import SourceError

_AT_A_TIME = 1 << 24  # bytes
_LOOKS = 4  # into what cannot be known without reading it


def fingerprint(array: Any) -> str:
    """Return a text that changes when an array does; one of NumPy, Dask or Zarr.

    Raises
    ------
    SourceError
        If it cannot be looked at.
    """
    if isinstance(array, np.ndarray):
        whole = mapped(array)
        told = _of_memory(array) if whole is None else _of_map(array, whole)
    elif dask.is_dask_collection(array):
        told = _of_looks(array)
    else:
        told = _of_zarr(_source_of(array))
    digest = hashlib.blake2b(digest_size=16)
    for part in (str(tuple(array.shape)), str(array.dtype), *told):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def folder_of(array: Any) -> str | None:
    """Return the folder or URL of an array in Zarr; None of any other."""
    if isinstance(array, np.ndarray) or dask.is_dask_collection(array):
        return None
    source = _source_of(array)
    return source.path if isinstance(source.store, str) else None


def _source_of(array: Any) -> ZarrSource:
    return array.source if isinstance(array, StoredArray) else ZarrSource.of(array, array.dtype)


def _of_memory(array: npt.NDArray[Any]) -> Iterator[str]:
    """Yield hashes of all bytes, in C order."""
    if array.flags.c_contiguous:
        whole = array.reshape(-1).view(np.uint8)
        yield from in_threads(_hash, [whole[i:j] for i, j in _spans(whole.size, _AT_A_TIME)])
        return
    lines = max(1, _AT_A_TIME // max(1, array[:1].nbytes))
    for i, j in _spans(len(array), lines):
        yield _hash(np.ascontiguousarray(array[i:j]).reshape(-1).view(np.uint8))


def _spans(n: int, step: int) -> list[tuple[int, int]]:
    return [(i, min(n, i + step)) for i in range(0, n, step)]


def _hash(values: npt.NDArray[np.uint8]) -> str:
    return hashlib.blake2b(values.data, digest_size=16).hexdigest()


def mapped(array: Any) -> Any:
    """Return the map that an array is or shows a part of; None if no file tells what it holds."""
    whole = None
    while array is not None:
        whole = array if isinstance(array, np.memmap) else whole
        array = getattr(array, "base", None)
    is_file = whole is not None and whole.filename is not None and whole.mode != "c"
    return whole if is_file else None


def _of_map(array: npt.NDArray[Any], whole: Any) -> Iterator[str]:
    """Yield what is known of a file without reading it, and which of its numbers are meant."""
    path = Path(whole.filename)
    try:
        known = path.stat()
    except OSError as error:
        raise SourceError(f"{path}: cannot be looked at ({error.strerror or error}).") from error
    yield from (path.name, str(known.st_size), str(known.st_mtime_ns))
    # Views have the offset of the whole; their first number tells.
    first, begin = (part.__array_interface__["data"][0] for part in (array, whole))
    yield from (str(whole.offset + first - begin), str(array.strides))


def _of_zarr(source: ZarrSource) -> Iterator[str]:
    yield source.described()
    if not isinstance(source.store, str):
        yield from _of_looks(StoredArray(source))
        return
    folder = Path(source.store, source.inside)
    try:
        for name, size, changed in states(str(folder)):
            if not name.endswith("zarr.json"):  # metadata are described already
                yield f"{name} {size} {changed}"
    except OSError as error:
        raise SourceError(f"{folder}: cannot be looked at ({error.strerror or error}).") from error


def _of_looks(array: Any) -> Iterator[str]:
    """Yield hashes of a few lines along the first axis, from the first to the last."""
    n = len(array)
    places = sorted(set(np.linspace(0, n - 1, min(_LOOKS, n), dtype=int).tolist()))
    looks = [array[place] for place in places]
    if dask.is_dask_collection(array):
        looks = list(schedulers.compute(*looks))
    for look in looks:
        yield _hash(np.ascontiguousarray(look).reshape(-1).view(np.uint8))
