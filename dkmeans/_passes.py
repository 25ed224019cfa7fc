"""Passes: read every block of the data once, on any Dask scheduler, and merge what comes out.

This is the one room that builds Dask graphs. A pass is a few dozen tasks, whatever the number of
blocks: each task walks over the blocks of one partition. Without a `distributed` client the tasks
run on the scheduler that Dask is configured for, threads by default.

Most sources are read inside the tasks. Blocks of a Dask array of the user's are computed by Dask
itself, as inputs of the tasks: so its graph is optimised as a whole, what blocks share is computed
once, and what the user has persisted is used.
"""

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from dkmeans import _passes_distributed as on_clusters
from dkmeans import _passes_graphs as graphs
from dkmeans import _passes_schedulers as schedulers
from dkmeans._passes_graphs import Task
from dkmeans._passes_threads import merged_in_threads
from dkmeans._tiling import Grid, Window

T = TypeVar("T")
R = TypeVar("R")
P = TypeVar("P", bound="Piece")

_PARTITIONS_PER_WORKER = 8  # so that none is at its last for long while the others have ended
_IN_THREADS, _AT_LEAST = 32, 3  # in all; a worker: each holds up all threads for a millisecond
_IN_MEMORY = 4  # where a pass takes so little time that tasks cost some share of it
_MAX_PARTITION_BYTES = 1 << 29  # keeps what a lost worker costs small, up to
_MAX_PARTITIONS_PER_WORKER = 32  # which cost the scheduler 0.1 s a pass
MAX_INPUT_BYTES = 1 << 26  # the inputs of a task are in memory all at once


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

        A block holds until the next is asked for.

        Whoever stops before the last block closes the generator, in the same thread.
        """

    def fingerprint(self) -> str:
        """Return a text that changes when the data do."""


@dataclass(frozen=True)
class Inputs:
    """Blocks that Dask computes.

    Attributes
    ----------
    graph
        A `HighLevelGraph`, optimised for all blocks together.
    keys
        Of the blocks, in reading order.
    """

    graph: Any
    keys: tuple[Any, ...]


@dataclass(frozen=True)
class Piece:
    """Some windows of one source, in reading order. `index` tells sources apart."""

    index: int
    source: BlockSource
    windows: Sequence[Window]

    @property
    def n_pixels(self) -> int:
        """The number of pixels in the windows."""
        if isinstance(self.windows, Grid):
            return self.windows.n_pixels
        return sum(window.n_pixels for window in self.windows)

    @property
    def nbytes(self) -> int:
        """The size of the windows once decoded."""
        return self.n_pixels * self.pixel_bytes

    @property
    def pixel_bytes(self) -> int:
        """The size of one pixel once decoded."""
        return self.source.shape[-1] * self.source.dtype.itemsize

    @property
    def held_bytes(self) -> int:
        """The size of the blocks in memory at once: one is read ahead, inputs are there all."""
        if self.inputs is not None:
            return self.nbytes
        return 2 * max(window.n_pixels for window in self.windows) * self.pixel_bytes

    @property
    def where(self) -> str:
        """The source and what of it the piece holds, for messages."""
        name = getattr(self.source, "path", f"source {self.index + 1}")
        return f"{name}, {self._extent()}"

    def _extent(self) -> str:
        top = min(window.y for window in self.windows)
        left = min(window.x for window in self.windows)
        bottom = max(window.rows.stop for window in self.windows)
        right = max(window.columns.stop for window in self.windows)
        return f"rows {top}:{bottom}, columns {left}:{right}"

    @property
    def in_memory(self) -> bool:
        """Whether the data lie in the memory of this process: sending them would cost too much."""
        return False

    @property
    def is_kept(self) -> bool:
        """Whether workers keep some of it in memory, so that each had best read it again."""
        return False

    @property
    def inputs(self) -> Inputs | None:
        """What Dask has to compute before the piece can be read, if anything."""
        return None

    def split(self, nbytes: float) -> Iterator[Self]:
        """Cut it into pieces of about `nbytes`, at least one window each."""
        if isinstance(self.windows, Grid):
            for windows in self.windows.cut(nbytes / self.pixel_bytes):
                yield replace(self, windows=windows)
            return
        start, size = 0, 0
        for stop, window in enumerate(self.windows, 1):
            size += window.n_pixels * self.pixel_bytes
            if size >= nbytes or stop == len(self.windows):
                yield replace(self, windows=self.windows[start:stop])
                start, size = stop, 0

    def given(self, blocks: Sequence[Any]) -> Self:
        """Return the piece as it is sent to a task: holding `blocks`, and not their graph.

        Parameters
        ----------
        blocks
            What the inputs have become, one for each key; none until Dask has computed them.
        """
        del blocks
        return self


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

    def __init__(
        self,
        advance: Callable[[int], None] | None = None,
        done: Callable[[Partition], None] | None = None,
    ) -> None:
        self._advance, self._done = advance, done
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

    def done(self, partition: Partition) -> None:
        """Tell that a whole partition is done."""
        if self._done:
            self._done(partition)

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
        work: Callable[[tuple[P, ...], Ticker], R],
        partitions: Sequence[tuple[P, ...]],
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
        ticker = Ticker(self._advance, partial(graphs.note_done, name))
        tasks = [_task(partition, ticker) for partition in partitions]
        in_memory = all(piece.in_memory for partition in partitions for piece in partition)
        client = None if in_memory else schedulers.active_client()
        try:
            if client is not None:
                result: R = on_clusters.run_distributed(
                    client, name, work, tasks, merge, self._advance
                )
            elif in_memory:
                result = merged_in_threads(lambda task: task.function(work, ()), merge, tasks)
            else:
                result = graphs.run_local(schedulers.local_get(), work, tasks, merge)
                if schedulers.in_processes():
                    self._advance(sum(sizes))
        finally:
            ticker.cancel()
            if self._progress:
                self._progress.end()
        self.n_passes += 1
        return result

    @contextmanager
    def counted(self, name: str, nbytes: int, n_pixels: int) -> Iterator[None]:
        """Count what is done meanwhile, in memory and without blocks, as one more pass."""
        if self._progress:
            self._progress.begin(name, nbytes, n_pixels)
        try:
            yield
            self._advance(nbytes)
        finally:
            if self._progress:
                self._progress.end()
        self.n_passes += 1

    def _advance(self, nbytes: int) -> None:
        with self._lock:
            self.bytes_read += nbytes
        if self._progress:
            self._progress.advance(nbytes)


def _task(part: tuple[P, ...], ticker: Ticker) -> Task:
    inputs = [piece.inputs for piece in part]
    keys = [() if needed is None else needed.keys for needed in inputs]
    sent = tuple(piece.given(()) for piece in part)
    return Task(
        partial(_run_task, sent, ticker, [len(of_piece) for of_piece in keys]),
        list(itertools.chain.from_iterable(keys)),
        [needed.graph for needed in inputs if needed is not None],
        stays=any(piece.is_kept for piece in part),
        parts=part,
    )


def _run_task(
    partition: tuple[P, ...],
    ticker: Ticker,
    counts: Sequence[int],
    work: Callable[[tuple[P, ...], Ticker], R],
    blocks: Sequence[Any],
) -> R:
    """Do the work on a partition, once each of its pieces has its share of the blocks."""
    rest = iter(blocks)
    partition = tuple(
        piece.given(list(itertools.islice(rest, count)))
        for piece, count in zip(partition, counts, strict=True)
    )
    with ticker:
        result = work(partition, ticker)
    ticker.done(partition)
    return result


def n_workers() -> int:
    """Return how many tasks the active scheduler runs at once."""
    client = schedulers.active_client()
    if client is not None:
        return max(1, on_clusters.n_threads(client))
    return schedulers.n_local_workers()


def partition(pieces: Sequence[P], per_worker: int | None = None) -> list[tuple[P, ...]]:
    """Deal pieces out into partitions of about equal size.

    The order of windows is kept. A source that is read in order stays in one partition.

    Parameters
    ----------
    pieces
        What to read.
    per_worker
        About how many partitions for each worker: more even out the load, fewer cost less where
        each begins and ends with much work. By default 8, 4 of data in memory, fewer for more
        than 4 threads, and more on a cluster for large data.
    """
    target = partition_bytes(pieces, per_worker)
    partitions: list[list[P]] = [[]]
    room = target
    for piece in pieces:
        for part in [piece] if piece.source.in_order else piece.split(target):
            if partitions[-1] and part.nbytes / 2 > room:
                partitions.append([])
                room += target
            partitions[-1].append(part)
            room -= part.nbytes
    return [tuple(p) for p in partitions if p]


def partition_bytes(pieces: Sequence[Piece], per_worker: int | None) -> float:
    """Return about how large `partition` makes partitions."""
    total = sum(piece.nbytes for piece in pieces)
    if all(piece.in_memory for piece in pieces):
        return total / (schedulers.n_local_workers() * (per_worker or _IN_MEMORY))
    workers, on_cluster = n_workers(), schedulers.active_client() is not None
    most = _PARTITIONS_PER_WORKER if on_cluster else max(_IN_THREADS // workers, _AT_LEAST)
    per_worker = per_worker or min(most, _PARTITIONS_PER_WORKER)
    target = total / (workers * per_worker)
    if on_cluster:
        least = total / (workers * max(per_worker, _MAX_PARTITIONS_PER_WORKER))
        target = max(least, min(target, _MAX_PARTITION_BYTES))
    if any(piece.inputs for piece in pieces):
        target = min(target, MAX_INPUT_BYTES)
    return target
