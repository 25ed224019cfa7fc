"""Passes on a `distributed` cluster, and what to say when it fails."""

import concurrent.futures
import copy
import logging
import queue
import time
from collections.abc import Callable, Sequence
from functools import cache, partial, reduce
from typing import Any, TypeVar

import dask
import numpy as np
from dask.utils import format_bytes, parse_timedelta

from dkmeans import _passes_schedulers as schedulers
from dkmeans import _passes_versions as versions
from dkmeans._passes_graphs import Task, graph_of, note_done, place, with_inputs
from dkmeans._passes_memory import WORKER
from dkmeans._validation import ClusterError

R = TypeVar("R")

_LOG = logging.getLogger("dkmeans")

# Results that one task merges: of more, it would hold more of them at once, and fewer make more
# tasks of some 2 ms each. Local schedulers merge pairs as soon as they are there.
MERGED_AT_ONCE = 4

_LOOK_SECONDS = 2.0  # between two looks at who is there
_NAMED = 3  # partitions in a message
_LIKELY = 0.5  # share of its limit from which on memory may well be what killed a worker


def run_distributed(  # noqa: PLR0917 - what `Passes.run` has
    client: Any,
    name: str,
    shared: Any,
    tasks: Sequence[Task],
    merge: Callable[[R, R], R],
    advance: Callable[[int], None],
) -> R:
    """Return the merged result from a cluster.

    Parameters
    ----------
    client
        Of the cluster.
    name
        Of the pass.
    shared
        What all tasks are called with.
    tasks
        At least one.
    merge
        Associative; may overwrite and return its first argument.
    advance
        Told the size of each task that is done, once, however often it was done.

    Raises
    ------
    ClusterError
        If the scheduler is lost, or a task killed the workers that tried it.
    Exception
        Whatever a task raised. The others are given up.
    """
    from distributed import CancelledError, KilledWorker  # noqa: PLC0415 - it is loaded already

    where = _address(client)  # now: a client that is closed has forgotten it
    watch = _Watch(client, name)
    watch.look()
    futures = _submit(client, shared, tasks, partial(_merge_purely, merge))
    try:
        _follow(futures, tasks, watch, advance)
        result: R = _result(client, futures[-1], watch)
        watch.look()  # a worker that came meanwhile may have had its share of the work
    except BaseException as error:
        told = None
        if _is_unknown_code(error):
            told = _of_unknown_code(where, error)
        elif isinstance(error, KilledWorker):
            told = _of_killed(error, name, futures, tasks)
        elif isinstance(error, CancelledError):
            told = _of_cancelled(client, where, name, error)
        # Not `cancel`, of which a scheduler despairs where futures depend on each other.
        for future in futures:
            future.release()
        if told is not None:
            raise ClusterError(told) from error
        raise
    _forget_passes(client)
    return result


def n_threads(client: Any) -> int:
    """Return how many tasks a cluster runs at once."""
    return sum(_threads(client).values())


def _follow(
    futures: Sequence[Any],
    tasks: Sequence[Task],
    watch: "_Watch",
    advance: Callable[[int], None],
) -> None:
    """Tell of each task as it ends, until all have, or one has failed for good."""
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i, future in enumerate(futures):  # by position: of one task, its result is the merged one
        future.add_done_callback(partial(_put, ended, i))
    merged = left = len(tasks)
    while left >= 0:
        try:
            i = ended.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            watch.look()
            continue
        left -= 1
        # By now the worker that did it may be lost, and the task be "pending" or "lost" again: it
        # counts once, and is done again if the merge still needs it.
        failed = futures[i].status in ("error", "cancelled")
        if failed and i == merged:
            return  # its result raises why
        if not failed and i < merged:
            advance(tasks[i].nbytes)
            if len(tasks) > 1:
                futures[i].release()  # else its result would be kept until the end, though merged
            note_done(watch.name, tasks[i].parts)
        watch.look_if_due()


def _result(client: Any, future: Any, watch: "_Watch") -> Any:
    """Return the result of a future; look at the cluster meanwhile, as it may be done again."""
    import asyncio  # noqa: PLC0415 - slow, and with a cluster it is loaded

    coming = asyncio.run_coroutine_threadsafe(
        client.gather(future, asynchronous=True), client.loop.asyncio_loop
    )
    try:
        while not concurrent.futures.wait([coming], timeout=_LOOK_SECONDS).done:
            watch.look()
        return _unpacked(coming.result())
    finally:
        coming.cancel()


def _put(ended: queue.SimpleQueue[int], i: int, future: Any) -> None:
    del future
    ended.put(i)


class _Watch:
    """Looks now and then whether the scheduler answers, and which workers are there."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self.name = client, name
        self._workers: set[str] | None = None
        self._due = 0.0

    def look_if_due(self) -> None:
        """Look, unless that was just done."""
        if time.monotonic() >= self._due:
            self.look()

    def look(self) -> None:
        """Note which workers have gone, and look at those that have come.

        Raises
        ------
        ClusterError
            If the scheduler is lost, or a worker runs another dkmeans.
        """
        workers = set(_threads(self._client))
        versions.refuse_others(self._client, workers)
        for address in sorted((self._workers or set()) - workers):
            _LOG.warning(
                "Pass %s: worker %s is lost; others do again what it held.",
                self.name,
                address,
                extra={"event": "worker-lost", "of_pass": self.name, "worker": address},
            )
        if not workers and (self._workers or self._workers is None):
            _LOG.warning(
                "Pass %s: the cluster has no workers; waiting for some to come.",
                self.name,
                extra={"event": "no-workers", "of_pass": self.name},
            )
        self._workers = workers
        self._due = time.monotonic() + _LOOK_SECONDS


def _threads(client: Any) -> dict[str, int]:
    """Return the number of threads of each worker, by address, or raise `ClusterError`."""
    where, scheduler = _address(client), client.scheduler
    seconds = _patience()
    if client.status != "running" or scheduler is None:
        raise ClusterError(_of_lost(where, "the connection is closed"))
    try:
        threads: dict[str, int] = client.sync(scheduler.ncores, callback_timeout=seconds)
    except TimeoutError as error:
        raise ClusterError(_of_lost(where, f"no answer within {seconds:g} s")) from error
    except OSError as error:
        raise ClusterError(_of_lost(where, "the connection is closed")) from error
    return threads


def _address(client: Any) -> str:
    """Return the address of the scheduler, as far as the client knows it."""
    scheduler = client.scheduler  # once: another thread may close the client
    return "its address" if scheduler is None else str(scheduler.address)


def _patience() -> float:
    """Return for how many seconds a scheduler may be silent: what its connections are granted."""
    granted = dask.config.get("distributed.comm.timeouts.tcp", "30s")
    return max(_LOOK_SECONDS, float(parse_timedelta(granted)))


def _is_unknown_code(error: BaseException) -> bool:
    """Whether the scheduler or a worker could not unpickle a task."""
    of_scheduler = isinstance(error, RuntimeError) and "deserialization of the task" in str(error)
    return of_scheduler or isinstance(error, ModuleNotFoundError)


def _of_unknown_code(where: str, error: BaseException) -> str:
    cause = error.__cause__ or error
    return (
        f"the cluster at {where} does not know what this process sends it "
        f"({type(cause).__name__}: {cause}); its scheduler and workers need the same versions of "
        "Python, dask and dkmeans."
    )


def _of_lost(address: str, why: str) -> str:
    return (
        f"the Dask scheduler at {address} is lost ({why}), and with it what the workers had done; "
        "see whether it still runs and can be reached, and run again."
    )


def _of_cancelled(client: Any, where: str, name: str, error: BaseException) -> str:
    lost = "connection" in str(getattr(error, "reason", ""))  # "scheduler-connection-lost"
    if client.status != "running" or lost:
        return _of_lost(where, "the connection broke off")
    return (
        f"pass {name}: somebody has cancelled the work, or restarted the workers of the cluster; "
        "run again, and persist again what was persisted there."
    )


def _of_killed(error: Any, name: str, futures: Sequence[Any], tasks: Sequence[Task]) -> str:
    """Say what killed workers: where it lies, what it takes, and what may be done."""
    n = error.allowed_failures + 1
    killed = f"killed {n} worker{'s' if n > 1 else ''}, the last at " + getattr(
        error.last_worker, "address", "an address unknown"
    )
    limit = getattr(error.last_worker, "memory_limit", None) or None
    allowed = f"A worker may use {format_bytes(limit)}" if limit else "Workers have no memory limit"
    # A worker has its next task already: those are blamed too, and one of them did it.
    pairs = zip(futures, tasks, strict=False)
    blamed = [task for future, task in pairs if future.status == "error"]
    if not blamed:
        merging = str(error.task).startswith(("merge-", "share-"))
        what = "merging results" if merging else f"computing the Dask task {error.task!r}"
        return (
            f"pass {name}: {what} {killed}. {allowed}: give workers more memory, or look into the "
            "log of that one."
        )
    who = "a partition" if len(blamed) == 1 else f"one of {len(blamed)} partitions"
    each = (f"{place(task.parts)} ({format_bytes(task.nbytes)})" for task in blamed[:_NAMED])
    places = "; ".join(each) + ("; ..." if len(blamed) > _NAMED else "")
    need = WORKER + max(sum(part.held_bytes for part in task.parts) for task in blamed)
    advice = (
        "That should do: look for another cause in the log of that worker"
        if limit is not None and need < _LIKELY * limit
        else "Give workers more memory or fewer threads each, or store the data in smaller chunks"
    )
    return (
        f"pass {name}: {who} {killed}: {places}. {allowed}, and this takes about "
        f"{format_bytes(need)} or more. {advice}."
    )


def _homes(client: Any, tasks: Sequence[Task], keys: Sequence[str]) -> dict[str, list[str]]:
    """Return which of the tasks each worker is to do, by address: the same ones in each pass."""
    threads = _threads(client)
    places = [address for address in sorted(threads) for _ in range(threads[address])]
    homes: dict[str, list[str]] = {}
    for i, key in enumerate(keys if places else ()):
        homes.setdefault(places[i * len(places) // len(tasks)], []).append(key)
    return homes


def _merge_purely(merge: Callable[[R, R], R], first: R, *others: R) -> R:
    """Leave `first` as it is: a cluster may run a merge again."""
    return reduce(merge, others, copy.deepcopy(first))


def _packed(function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return the result of a function as what is sent without being copied.

    Results go to the client by way of the scheduler, with which workers speak an old protocol of
    pickle, in which arrays within objects are copied. Arrays in a list are not.
    """
    from distributed.protocol import pickle  # noqa: PLC0415 - workers have loaded it

    buffers: list[Any] = []
    text = pickle.dumps(function(*args), buffer_callback=buffers.append)
    return [text, *(np.asarray(buffer.raw()) for buffer in buffers)]


def _unpacked(packed: list[Any]) -> Any:
    from distributed.protocol import pickle  # noqa: PLC0415 - it is loaded already

    return pickle.loads(packed[0], buffers=packed[1:])


def _submit(client: Any, shared: Any, tasks: Sequence[Task], merge: Callable[..., R]) -> list[Any]:
    """Return the futures of the tasks and, last, the merged one: one graph, sent at once."""
    graph, parts, last = graph_of(shared, tasks, merge, MERGED_AT_ONCE)
    graph[last] = (partial(_packed, graph[last][0]), *graph[last][1:])
    homes = _homes(client, tasks, parts) if any(task.stays for task in tasks) else {}
    wanted = [*parts, last]
    whole = with_inputs(graph, tasks, homes).cull(set(wanted))
    # Centres are as large as they are: Dask's advice to send less would be lost on the user.
    quiet = schedulers.configured({"distributed.admin.large-graph-warning-threshold": "1 TiB"})
    # Not `compute`: a scheduler keeps a note of each collection that it has computed.
    with quiet, dask.annotate(**_span()):
        futures: list[Any] = client.get(whole, wanted, sync=False, retries=2)
    return futures


def _span() -> dict[str, Any]:
    """Return the annotation that puts tasks into the user's span of Dask's, or else into ours.

    Spans measure what tasks took. A scheduler begins one whenever it was idle, and forgets none;
    each keeps all the groups of tasks that it had: of ours, `_forget_passes` takes them out.
    """
    return {} if "span" in dask.get_annotations() else _own_span()


@cache
def _own_span() -> dict[str, Any]:
    from distributed import span  # noqa: PLC0415 - it is loaded already

    with span("dkmeans"):
        return {"span": dask.get_annotations()["span"]}


def _forget_passes(client: Any) -> None:
    """Have our span let go of the passes that are over: nobody reads there what each took."""
    if "span" in dask.get_annotations():
        return  # the user's, who may well read it
    span_id = _own_span()["span"]["ids"][-1]

    def forget(dask_scheduler: Any) -> None:
        own = dask_scheduler.extensions["spans"].spans[span_id]
        last = max(own.groups, key=lambda group: group.stop)  # without, it would have no end
        alive = dask_scheduler.task_groups.get
        own.groups &= {last, *(group for group in own.groups if alive(group.name) is group)}
        del own.metadata.get("collections", [])[:-1]

    # A function within another one goes by value: schedulers need not have this dkmeans for it.
    ask = client._run_on_scheduler  # noqa: SLF001 - `run_on_scheduler` has no timeout
    try:
        client.sync(ask, forget, callback_timeout=_patience())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not worth a pass
        _LOG.debug("The scheduler keeps notes of this pass (%r).", error)
