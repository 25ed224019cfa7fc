"""Blocks that a process keeps in memory from one pass over a table to the next.

Passes scan a table in the same order each time: a cache of the blocks used last would always hold
the wrong ones. So what comes first is kept until the room is full, and the rest is read each time.
Only blocks that had to be decoded or fetched are worth it: bare chunks lie in the system's cache.

A worker is not told that a table is gone, and whoever had it may have been killed. So blocks that
no pass has asked for in a while are let go.
"""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from dkmeans import _passes_schedulers as schedulers
from dkmeans._passes_locks import Lock
from dkmeans._tables_regions import Region

ROOM = 1 << 28  # bytes, in a process that has no memory limit
SHARE = 12  # of its memory limit a worker keeps one part in so many
IDLE = 60.0  # seconds: passes that take longer read so much that what is kept is little of it

Key = tuple[int, Region]  # the number of an array in the table, and a part of it


@dataclass
class _Kept:
    """What is kept: blocks of the last table that was read, by array and region."""

    table: str = ""
    nbytes: int = 0
    blocks: dict[Key, npt.NDArray[Any]] = field(default_factory=dict)
    asked: float = 0.0  # when it was last asked for any block, by the monotonic clock
    is_watched: bool = False  # whether a thread will look how long that is ago
    # Tables end at any time, also while this thread holds the lock.
    lock: Lock = field(default_factory=lambda: Lock(threading.RLock))

    def clear(self, table: str = "") -> None:
        self.table, self.nbytes = table, 0
        self.blocks.clear()


_kept = _Kept()


def room() -> int:
    """Return how many bytes this process may keep. To be asked by the thread of a task."""
    limit = schedulers.memory_limit()
    return ROOM if limit is None else limit // SHARE


def find(table: str, key: Key) -> npt.NDArray[Any] | None:
    """Return a block of a table, if it is kept. It is read-only."""
    with _kept.lock:
        if _kept.table != table:
            return None
        _kept.asked = time.monotonic()
        return _kept.blocks.get(key)


def keep(table: str, key: Key, block: npt.NDArray[Any], most: int) -> None:
    """Keep a block if no more than `most` bytes are kept then; forget those of other tables."""
    with _kept.lock:
        if _kept.table != table:
            _kept.clear(table)
        if key not in _kept.blocks and _kept.nbytes + block.nbytes <= most:
            block.flags.writeable = False
            _kept.blocks[key] = block
            _kept.nbytes += block.nbytes
            _kept.asked = time.monotonic()
            if not _kept.is_watched:
                _watch(IDLE)


def forget(table: str) -> None:
    """Keep no blocks of a table any longer."""
    with _kept.lock:
        if _kept.table == table:
            _kept.clear()


def _watch(seconds: float) -> None:
    _kept.is_watched = True
    timer = threading.Timer(seconds, _look)
    timer.daemon = True
    timer.start()


def _look() -> None:
    """Let go of what is kept if nobody has asked for it of late; else look again later."""
    with _kept.lock:
        left = _kept.asked + IDLE - time.monotonic()
        if _kept.blocks and left > 0:
            _watch(left)
        else:
            _kept.clear()
            _kept.is_watched = False
