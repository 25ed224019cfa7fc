"""Work in memory, shared out over the threads of this process: steps of a millisecond or less.

Dask's schedulers take as long as such a step to begin and end a graph.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from dkmeans import _passes_schedulers as schedulers

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map `function` over `items` in as many threads as Dask is configured for.

    The thread that asks takes items too, and so has all of them done even where no other thread is
    free: a function may itself share out work.
    """
    n_threads = schedulers.n_local_workers() if len(items) > 1 else 1
    if n_threads == 1:
        return [function(item) for item in items]
    left = deque(enumerate(items))
    results: dict[int, R] = {}

    def work() -> None:
        while True:
            try:
                i, item = left.popleft()
            except IndexError:
                return
            try:
                results[i] = function(item)
            except BaseException:
                left.clear()  # nobody waits for the others
                raise

    pool = _pool(n_threads)
    helpers = [pool.submit(work) for _ in range(min(n_threads, len(items)) - 1)]
    try:
        work()
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in begun]
    for error in errors:
        if error is not None:
            raise error
    return [results[i] for i in range(len(items))]


@dataclass(frozen=True, eq=False)
class _Run(Generic[R]):
    """The merged results of the items from `start` to `stop`."""

    start: int
    stop: int
    result: R


def merged_in_threads(
    function: Callable[[T], R], merge: Callable[[R, R], R], items: Sequence[T]
) -> R:
    """Map `function` over `items`, at least one, as `in_threads` does, and merge what comes out.

    Neighbours are merged as soon as both are there, so that few results are in memory at once.
    `merge` is associative; its first argument comes from earlier items, and may be overwritten.
    """
    waiting: list[_Run[R]] = []
    lock = threading.Lock()

    def work(i: int) -> None:
        run = _Run(i, i + 1, function(items[i]))
        while (other := meet(run)) is not None:
            first, second = (run, other) if run.start < other.start else (other, run)
            run = _Run(first.start, second.stop, merge(first.result, second.result))

    def meet(run: _Run[R]) -> _Run[R] | None:
        """Take a neighbour of a run that waits, or let the run wait for one."""
        with lock:
            for i, other in enumerate(waiting):
                if run.start == other.stop or run.stop == other.start:
                    return waiting.pop(i)
            waiting.append(run)
            return None

    in_threads(work, range(len(items)))
    return waiting.pop().result


@lru_cache(maxsize=1)
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, "dkmeans")
