"""Passes: read every block of the data once, on any Dask scheduler, and merge what comes out.

This is the one room that builds Dask graphs. A pass is a few dozen tasks, whatever the number of
blocks: each task walks over the blocks of one partition. Without a `distributed` client the tasks
run on the scheduler that Dask is configured for, threads by default.
"""

import copy
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import dask
import dask.local
import dask.system
import dask.threaded
import numpy as np
import numpy.typing as npt

from dkmeans._tiling import Window

T = TypeVar("T")
R = TypeVar("R")

# Dask's names for its own schedulers.
_IN_ONE_THREAD = ("synchronous", "sync", "single-threaded")
_IN_THREADS = ("threads", "threading")
_IN_PROCESSES = ("processes", "multiprocessing")

_PARTITIONS_PER_WORKER = 4
_MAX_PARTITION_BYTES = 1 << 29  # keeps what a lost worker costs small


class BlockSource(Protocol):
    """Blocks of an array, read by region. Pickled into tasks: small, and opens files itself."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole; the last axis holds the features."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""

    @property
    def in_order(self) -> bool:
        """Whether regions can only be read from first to last, by one reader."""

    @property
    def block(self) -> tuple[int, int]:
        """The height and width of the blocks in which the source is stored."""

    @property
    def read_block(self) -> tuple[int, int]:
        """The height and width of the windows in which it is best read; multiples of `block`."""

    def read(self, windows: Sequence[Window]) -> Generator[npt.NDArray[Any], None, None]:
        """Yield the block of each window, in the order given, opening the source once.

        Whoever stops before the last block closes the generator, in the same thread.
        """

    def fingerprint(self) -> str:
        """Return a text that changes when the data do."""


@dataclass(frozen=True)
class Piece:
    """Some windows of one source, in reading order. `index` tells sources apart."""

    index: int
    source: BlockSource
    windows: tuple[Window, ...]

    @property
    def n_pixels(self) -> int:
        """The number of pixels in the windows."""
        return sum(window.n_pixels for window in self.windows)

    @property
    def nbytes(self) -> int:
        """The size of the windows once decoded."""
        return self.n_pixels * self.pixel_bytes

    @property
    def pixel_bytes(self) -> int:
        """The size of one pixel once decoded."""
        return self.source.shape[-1] * self.source.dtype.itemsize


Partition = tuple[Piece, ...]


class Progress(Protocol):
    """Who is told how a pass goes. Called from any thread."""

    def begin(self, name: str, nbytes: int, n_pixels: int) -> None:
        """Take note that a pass over `nbytes`, which are `n_pixels`, begins."""

    def advance(self, nbytes: int) -> None:
        """Another `nbytes` have been read and dealt with."""

    def end(self) -> None:
        """Take note that the pass is over."""


class Cancelled(Exception):  # noqa: N818 - not an error: it ends a task whose result nobody awaits
    """Raised inside a task when its pass has failed or was interrupted."""


class Ticker:
    """Counts the bytes of a pass; lets a task stop between two blocks.

    In the process that started the pass all tasks share one ticker. Pickled to another process it
    becomes a silent one: there the bytes count when the partition is done.
    """

    def __init__(self, advance: Callable[[int], None] | None = None) -> None:
        self._advance = advance
        self._cancelled = False
        self._running = 0
        self._idle = threading.Condition()

    def __reduce__(self) -> tuple[type["Ticker"], tuple[()]]:
        return Ticker, ()

    def __call__(self, nbytes: int) -> None:
        """Tell that a block of `nbytes` is done; raise `Cancelled` if the pass is over."""
        if self._advance:
            self._advance(nbytes)
        if self._cancelled:
            raise Cancelled

    @property
    def is_local(self) -> bool:
        """Whether the pass was started in this process."""
        return self._advance is not None

    def __enter__(self) -> Self:
        with self._idle:
            if self._cancelled:
                raise Cancelled
            self._running += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._idle:
            self._running -= 1
            self._idle.notify_all()

    def cancel(self) -> None:
        """Make the tasks of this process stop at their next block, and wait until they have."""
        with self._idle:
            self._cancelled = True  # from here on none begins
            self._idle.wait_for(lambda: self._running == 0)


class Passes:
    """Runs passes and keeps count of them.

    Attributes
    ----------
    n_passes
        Passes run so far.
    bytes_read
        Bytes of decoded data that all passes have read.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self.n_passes = 0
        self.bytes_read = 0

    def run(
        self,
        name: str,
        work: Callable[[Partition, Ticker], R],
        partitions: Sequence[Partition],
        merge: Callable[[R, R], R],
    ) -> R:
        """Read all partitions once and merge the results in their order.

        Parameters
        ----------
        name
            What the pass does, in a word or two, for the progress display.
        work
            Called with a partition and a ticker to call after each block; runs in a worker, may
            run twice if a worker is lost, and so must be pure or idempotent.
        partitions
            At least one.
        merge
            Associative. Runs in a worker; its first argument comes from earlier partitions, and
            may be overwritten and returned.

        Raises
        ------
        Exception
            Whatever `work` raised first. Tasks still running in this process have ended by then.
        """
        sizes = [sum(piece.nbytes for piece in partition) for partition in partitions]
        if self._progress:
            n_pixels = sum(piece.n_pixels for partition in partitions for piece in partition)
            self._progress.begin(name, sum(sizes), n_pixels)
        ticker = Ticker(self._advance)
        tasks = [partial(_run_task, work, partition, ticker) for partition in partitions]
        client = _client()
        try:
            if client is None:
                result: R = _run_local(tasks, merge)
                if _scheduler() in _IN_PROCESSES:
                    self._advance(sum(sizes))
            else:
                result = _run_distributed(client, tasks, merge, sizes, self._advance)
        finally:
            ticker.cancel()
            if self._progress:
                self._progress.end()
        self.n_passes += 1
        return result

    def _advance(self, nbytes: int) -> None:
        with self._lock:
            self.bytes_read += nbytes
        if self._progress:
            self._progress.advance(nbytes)


def _run_task(work: Callable[[Partition, Ticker], R], partition: Partition, ticker: Ticker) -> R:
    with ticker:
        return work(partition, ticker)


def _tree(submit: Callable[..., Any], merge: Callable[[R, R], R], parts: list[Any]) -> Any:
    """Merge neighbours until one is left."""
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = [submit(merge, *pair) if len(pair) > 1 else pair[0] for pair in pairs]
    return parts[0]


def _run_local(tasks: Sequence[Callable[[], R]], merge: Callable[[R, R], R]) -> R:
    graph: dict[str, Any] = {}

    def submit(function: Callable[..., Any], *args: str) -> str:
        key = f"task-{len(graph)}"
        graph[key] = (function, *args)
        return key

    last = _tree(submit, merge, [submit(task) for task in tasks])
    result: R = _local_get()(graph, last)
    return result


def _local_get() -> Callable[..., Any]:
    """Return the function that runs a graph on the local scheduler that was asked for.

    Dask's own way to find it imports `distributed` and much else, which takes a second.
    """
    name = _scheduler()
    get: Callable[..., Any] = dask.threaded.get
    if name in _IN_ONE_THREAD:
        get = dask.local.get_sync
    elif name in _IN_PROCESSES:
        from dask import multiprocessing  # noqa: PLC0415 - seldom needed

        get = multiprocessing.get
    elif name is None and dask.config.get("scheduler", None) is not None:
        get = dask.base.get_scheduler()  # a function or an executor of the user's
    return get


def _merge_purely(merge: Callable[[R, R], R], a: R, b: R) -> R:
    """Leave `a` as it is: a cluster may run a merge again."""
    return merge(copy.deepcopy(a), b)


def _run_distributed(
    client: Any,
    tasks: Sequence[Callable[[], R]],
    merge: Callable[[R, R], R],
    sizes: list[int],
    advance: Callable[[int], None],
) -> R:
    from distributed import as_completed  # noqa: PLC0415 - slow to import; here it is loaded already

    futures: list[Any] = []

    def submit(function: Callable[..., Any], *args: Any) -> Any:
        futures.append(client.submit(function, *args, pure=False, retries=2))
        return futures[-1]

    try:
        parts = [submit(task) for task in tasks]
        merged = _tree(submit, partial(_merge_purely, merge), list(parts))
        nbytes = dict(zip((part.key for part in parts), sizes, strict=True))
        for part in as_completed(parts):
            if part.status != "finished":
                break  # the merged result has the error too, and raises it
            advance(nbytes[part.key])
        result: R = merged.result()
    except BaseException:
        client.cancel(futures)
        raise
    return result


def _scheduler() -> str | None:
    """Return the name of the Dask scheduler that was asked for, if any."""
    name = dask.config.get("scheduler", None)
    return name.lower() if isinstance(name, str) else None


def _client() -> Any | None:
    """Return the active `distributed` client, unless another scheduler was asked for."""
    distributed = sys.modules.get("distributed")
    if distributed is None or _scheduler() in (*_IN_THREADS, *_IN_PROCESSES, *_IN_ONE_THREAD):
        return None
    try:
        return distributed.get_client()
    except ValueError:
        return None


def n_workers() -> int:
    """Return how many tasks the active scheduler runs at once."""
    client = _client()
    if client is not None:
        return max(1, int(sum(client.nthreads().values())))
    if _scheduler() in _IN_ONE_THREAD:
        return 1
    return int(dask.config.get("num_workers", None) or dask.system.CPU_COUNT)


def partition(pieces: Sequence[Piece], per_worker: int = _PARTITIONS_PER_WORKER) -> list[Partition]:
    """Deal pieces out into partitions of about equal size.

    The order of windows is kept. A source that is read in order stays in one partition.

    Parameters
    ----------
    pieces
        What to read.
    per_worker
        About how many partitions for each worker: more even out the load, fewer cost less where
        each begins and ends with much work. A cluster gets more of them for large data.
    """
    total = sum(piece.nbytes for piece in pieces)
    n = n_workers() * per_worker
    if _client() is not None:
        n = max(n, -(-total // _MAX_PARTITION_BYTES))
    target = total / n
    partitions: list[list[Piece]] = [[]]
    room = target
    for piece in pieces:
        for part in [piece] if piece.source.in_order else _split(piece, target):
            if partitions[-1] and part.nbytes / 2 > room:
                partitions.append([])
                room += target
            partitions[-1].append(part)
            room -= part.nbytes
    return [tuple(p) for p in partitions if p]


def _split(piece: Piece, target: float) -> Iterator[Piece]:
    """Cut a piece into pieces of about `target` bytes, at least one window each."""
    start, size = 0, 0
    for stop, window in enumerate(piece.windows, 1):
        size += window.height * window.width * piece.pixel_bytes
        if size >= target or stop == len(piece.windows):
            yield replace(piece, windows=piece.windows[start:stop])
            start, size = stop, 0


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Map `function` over `items` in the threads of this process, for work in memory."""
    if len(items) == 1 or _scheduler() in _IN_ONE_THREAD:
        return [function(item) for item in items]
    graph = {f"item-{i}": (partial(function, item),) for i, item in enumerate(items)}
    return list(dask.threaded.get(graph, list(graph)))
