"""Chunks of a store under construction: nothing but chunks lies in it, and no folder comes back.

Zarr writes a chunk beside its name first, where a worker that is killed leaves it for good, and
makes all folders that are missing. So a worker that a lost scheduler, or a host cut off, has left
alone would make the folder of a job again that another process has removed.
"""

import secrets
from functools import cache
from pathlib import Path
from typing import Any


@cache
def store_type(local: Any) -> Any:
    """Return zarr's class of stores in a folder, changed so that chunks are written by `put`."""
    return type("ChunkStore", (local,), {"set": _set, "_open": _open})


async def _open(self: Any) -> None:
    """Open the store as zarr does, but make no folder."""
    if not self.root.is_dir():
        raise FileNotFoundError(self.root)
    self._is_open = True


async def _set(self: Any, key: str, value: Any) -> None:
    import asyncio  # noqa: PLC0415 - slow, and with zarr it is loaded

    await asyncio.to_thread(put, self.root, key, value.as_numpy_array())


def put(root: Path, key: str, data: Any) -> None:
    """Write a chunk into a folder that must exist; it appears when all of it is there."""
    partial = root.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
        try:
            partial.replace(root / key)
        except FileNotFoundError:
            for folder in reversed(Path(key).parents[:-1]):
                (root / folder).mkdir(exist_ok=True)
            partial.replace(root / key)
    finally:
        partial.unlink(missing_ok=True)
