"""Locks that are free in a forked process, where the threads that had them are not."""

import os
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet


class Lock:
    """A lock of one thread at a time.

    Parameters
    ----------
    kind
        What makes it: `threading.Lock`, or `threading.RLock` if a thread may take it twice.
    """

    def __init__(self, kind: Callable[[], Any] = threading.Lock) -> None:
        self._kind = kind
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Be free, whoever has it."""
        self._lock = self._kind()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_locks: WeakSet[Lock] = WeakSet()


def _renew_all() -> None:
    for lock in list(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
