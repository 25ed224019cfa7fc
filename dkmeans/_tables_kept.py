"""Blocks that a process keeps in memory from one pass over a table to the next.

Passes scan a table in the same order each time: a cache of the blocks used last would always hold
the wrong ones. So what comes first is kept until the room is full, and the rest is read each time.
Only blocks that had to be decoded or fetched are worth it: bare chunks lie in the system's cache.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from dkmeans import _passes_schedulers as schedulers
from dkmeans._tables_regions import Region

ROOM = 1 << 28  # bytes, in a process that has no memory limit
SHARE = 12  # of its memory limit a worker keeps one part in so many

Key = tuple[int, Region]  # the number of an array in the table, and a part of it


@dataclass
class _Kept:
    """What is kept: blocks of the last table that was read, by array and region."""

    table: str = ""
    nbytes: int = 0
    blocks: dict[Key, npt.NDArray[Any]] = field(default_factory=dict)
    # Tables end at any time, also while this thread holds the lock.
    lock: threading.RLock = field(default_factory=threading.RLock)


_kept = _Kept()


def room() -> int:
    """Return how many bytes this process may keep. To be asked by the thread of a task."""
    limit = schedulers.memory_limit()
    return ROOM if limit is None else limit // SHARE


def find(table: str, key: Key) -> npt.NDArray[Any] | None:
    """Return a block of a table, if it is kept. It is read-only."""
    with _kept.lock:
        return _kept.blocks.get(key) if _kept.table == table else None


def keep(table: str, key: Key, block: npt.NDArray[Any], most: int) -> None:
    """Keep a block if no more than `most` bytes are kept then; forget those of other tables."""
    with _kept.lock:
        if _kept.table != table:
            _kept.table, _kept.nbytes = table, 0
            _kept.blocks.clear()
        if key not in _kept.blocks and _kept.nbytes + block.nbytes <= most:
            block.flags.writeable = False
            _kept.blocks[key] = block
            _kept.nbytes += block.nbytes


def forget(table: str) -> None:
    """Keep no blocks of a table any longer."""
    with _kept.lock:
        if _kept.table == table:
            _kept.table, _kept.nbytes = "", 0
            _kept.blocks.clear()
