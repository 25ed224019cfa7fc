"""Which Dask scheduler a pass runs on: the one that was asked for, wherever it was asked for."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dask
import dask.local
import dask.system
import dask.threaded

from dkmeans._passes_locks import Lock
from dkmeans._validation import ClusterError, check_choice, check_integer

# Dask's names for its own schedulers.
_IN_ONE_THREAD = ("synchronous", "sync", "single-threaded")
_IN_THREADS = ("threads", "threading")
_IN_PROCESSES = ("processes", "multiprocessing")
_ON_A_CLUSTER = ("distributed", "dask.distributed")

_PID = os.getpid()
_CONFIGURING = Lock()


def _name() -> str | None:
    """Return the name of the Dask scheduler that was asked for, if any."""
    name = dask.config.get("scheduler", None)
    return name.lower() if isinstance(name, str) else None


def _in_a_task() -> bool:
    """Return whether this thread runs a task of a `distributed` worker.

    Such a task holds a thread of the cluster while it lasts: if it waited for other tasks, as many
    of its kind as there are threads would wait for ever. So it does all the work by itself.
    """
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def memory_limit() -> int | None:
    """Return how much memory the `distributed` worker may use whose task this thread runs.

    None where it has no limit, and in any other thread.
    """
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.get_worker().memory_manager.memory_limit or None
    except ValueError:
        return None


def in_one_thread() -> bool:
    """Return whether the work of this process is to stay in the thread that asks for it.

    In a process forked from one that had threads, Dask's pools are there, but none of the threads.
    """
    if os.getpid() != _PID:
        return True
    return _name() in _IN_ONE_THREAD or (_name() not in _IN_THREADS and _in_a_task())


def in_processes() -> bool:
    """Return whether the work is to be done by processes that Dask starts for it."""
    return _name() in _IN_PROCESSES


def active_client() -> Any | None:
    """Return the active `distributed` client, unless another scheduler was asked for.

    None inside a task, too, and in a thread that a task has started: the task waits for it.

    Raises
    ------
    ClusterError
        If it is an asynchronous one, in the thread of its event loop.
    """
    distributed = sys.modules.get("distributed")
    if distributed is None or _name() in (*_IN_THREADS, *_IN_PROCESSES, *_IN_ONE_THREAD):
        return None
    if _in_a_task():
        return None
    try:
        client = distributed.get_client()
    except ValueError:
        return None
    if client in distributed.Worker._initialized_clients:  # noqa: SLF001 - the one way to tell
        return None  # a worker has made it, for its tasks
    if client.asynchronous:
        raise ClusterError(
            "the active Dask client belongs to the event loop of this thread, which a pass would "
            "block; call dkmeans in another thread, as by asyncio.to_thread."
        )
    return client


@contextmanager
def configured(settings: Mapping[str, Any]) -> Iterator[None]:
    """Set Dask's configuration for a while.

    It is the same one for all threads: two that set and restore it by turns would leave it changed.
    """
    with _CONFIGURING, dask.config.set(settings):
        yield


def n_local_workers() -> int:
    """Return how many tasks the scheduler of this machine runs at once.

    Raises
    ------
    InvalidArgumentError
        If Dask is configured for a number of workers that is none.
    """
    if in_one_thread():
        return 1
    n = dask.config.get("num_workers", None)
    return int(dask.system.CPU_COUNT) if n is None else check_integer("Dask's num_workers", n, 1)


def local_get() -> Callable[..., Any]:
    """Return the function that runs a graph on the local scheduler that was asked for.

    Dask's own way to find it imports `distributed` and much else, which takes a second.

    Raises
    ------
    InvalidArgumentError
        If Dask is configured for a scheduler that it does not know.
    """
    name = _name()
    if name is not None:
        known = (*_IN_THREADS, *_IN_ONE_THREAD, *_IN_PROCESSES, *_ON_A_CLUSTER)
        check_choice("Dask's scheduler", name, known)
    get: Callable[..., Any] = dask.local.get_sync if in_one_thread() else dask.threaded.get
    if in_processes():
        from dask import multiprocessing  # noqa: PLC0415 - seldom needed

        get = multiprocessing.get
    elif name is None and dask.config.get("scheduler", None) is not None:
        get = dask.base.get_scheduler()  # a function or an executor of the user's
    return get


def compute(*collections: Any) -> tuple[Any, ...]:
    """Compute Dask collections together, on the scheduler that a pass would run on."""
    scheduler = "synchronous" if in_one_thread() else None
    return tuple(dask.compute(*collections, scheduler=scheduler))
