"""What tells that a Zarr array has changed: its metadata, and on the disk each of its files."""

import hashlib
from contextlib import suppress
from functools import lru_cache

from dkmeans import _stores
from dkmeans._stores_folders import states

MARKERS = ("zarr.json", ".zarray", ".zgroup")
_ARRAYS = 8  # whose files were listed last: a store has two of packed pixels, in turns


def of_metadata(store: str, array: str) -> str:
    """Return what changes with the metadata: the time in ns, of an object the ETag."""
    folder = f"{store}/{array}".rstrip("/")
    places = [f"{folder}/{marker}" for marker in MARKERS]
    return "-".join(str(_stores.state(place)[1]) for place in places if _stores.exists(place))


@lru_cache(_ARRAYS)
def of_files(store: str, array: str, probed: str) -> str:  # noqa: ARG001 - another look, another list
    """Return what changes with the name, size or time of any file of an array on the disk.

    Listed once for each look at the store, `probed`: thousands of pictures may share an array.
    """
    digest = hashlib.blake2b(digest_size=16)
    with suppress(OSError):  # what cannot be listed cannot be read: that is told then
        for name, size, changed in states(f"{store}/{array}".rstrip("/")):
            digest.update(f"{name}\0{size}\0{changed}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
