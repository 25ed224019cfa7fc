"""How fast work is, from some blocks tried out in this thread."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from dkmeans._validation import SourceError

T = TypeVar("T")

_SECONDS = 0.4  # that one kind of work is tried
_LEAST, _MOST = 0.7, 2.5  # of what was found: caches, disks, and other tasks at the same time
_ITEMS = 64


def rate(work: Callable[[T], int], items: Iterable[T]) -> float:
    """Return the bytes a second of `work`, which returns how many bytes an item had.

    The first item also loads what is needed: it counts only if there is no other. Those that cannot
    be read do not count, as they do not stop a job on pictures.

    Raises
    ------
    SourceError
        If none can be read.
    """
    nbytes, seconds, n_done = 0, 0.0, 0
    failure: SourceError | None = None
    for item in items:
        start = time.perf_counter()
        try:
            done = work(item)
        except SourceError as error:
            failure = error
            continue
        took = time.perf_counter() - start
        if n_done == 1:
            nbytes, seconds = 0, 0.0
        nbytes, seconds, n_done = nbytes + done, seconds + took, n_done + 1
        if n_done > 1 and seconds >= _SECONDS:
            break
    if failure is not None and not n_done:
        raise failure
    return nbytes / max(seconds, 1e-6)


def spread(least: float, most: float) -> tuple[float, float]:
    """Return how long it may take what would take from `least` to `most` seconds, undisturbed."""
    return _LEAST * least, _MOST * most


def some(items: Sequence[T]) -> list[T]:
    """Return some of many items, from all over."""
    n = min(len(items), _ITEMS)
    return [items[i * len(items) // n] for i in range(n)]
