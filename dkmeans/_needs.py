"""How much memory a job takes, by arithmetic; jobs refused that do not fit where they would run.

The sums are of what the code holds at once: upper bounds, within half as much again of what
processes have resident at their peak. `_needs_tables` has those of fits, `images._needs` those of
pictures.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import psutil  # type: ignore[import-untyped]  # it ships no types

from dkmeans import _passes
from dkmeans import _passes_schedulers as schedulers
from dkmeans._passes import Piece
from dkmeans._passes_distributed import MERGED_AT_ONCE
from dkmeans._passes_memory import WORKER
from dkmeans._validation import InsufficientMemoryError

MIB = 1 << 20
_CGROUP = Path("/sys/fs/cgroup")
_WATCHED = ("spill", "pause", "terminate")  # the shares of its limit from which on a worker acts


@dataclass(frozen=True)
class Pass:
    """What a pass takes beside what a process has anyway, in bytes.

    Attributes
    ----------
    name
        As `Passes.run` calls it.
    n_partitions
        About how many tasks it has.
    task
        What a task holds while it runs.
    shared
        What all tasks of a process share.
    result
        What comes out of a task and waits for being merged.
    is_sum
        Whether a merged result is as large as one of those that it comes from, and not as large as
        all: then `result` is what comes out of all tasks.
    """

    name: str
    n_partitions: int
    task: int
    shared: int = 0
    result: int = 0
    is_sum: bool = True

    def results(self) -> int:
        """Return what the results take that a worker holds at once.

        Of each level of the tree of merges all but one of those that are merged at once may wait;
        where the lowest are merged it has them all, and a copy of one.
        What is not summed is there whole, and as it is merged.
        """
        if not self.is_sum:
            return _COPIES * self.result
        held, n = 1, self.n_partitions
        while n > 1:
            held += min(n, MERGED_AT_ONCE) - 1
            n = -(-n // MERGED_AT_ONCE)
        return (held + 1) * self.result


_COPIES = 2  # of all results: those waiting, and as merged


@dataclass(frozen=True)
class Needs:
    """The memory that a job takes.

    Attributes
    ----------
    passes
        Each kind of pass, in order.
    client
        What the process that started the job holds at its peak between passes, in bytes.
    libraries
        What it has resident before, as the client of a cluster on this machine: measured.
    given
        What the data take that it holds already, where they lie in its memory.
    """

    passes: tuple[Pass, ...]
    client: int
    libraries: int
    given: int = 0

    def of_worker(self, n_threads: int) -> int:
        """Return the peak of a worker of a cluster that runs so many tasks at once, in bytes."""
        in_passes = (each.shared + n_threads * each.task + each.results() for each in self.passes)
        return WORKER + max(in_passes)

    def of_client(self) -> int:
        """Return the peak of the process that starts the job on a cluster, in bytes."""
        return self.libraries + max(self.client, *(each.result for each in self.passes))

    def of_threads(self, n_threads: int) -> int:
        """Return the peak of a process that does all by itself, in so many threads, in bytes.

        It merges in place, as soon as two results are there.
        """
        in_passes = []
        for each in self.passes:
            n = min(n_threads, each.n_partitions)
            results = (n if each.is_sum else 1) * each.result
            in_passes.append(each.shared + n * each.task + results)
        return self.given + max(WORKER, self.libraries) + max(self.client, *in_passes)


@dataclass(frozen=True)
class Room:
    """Where a job would run, and how much memory there is.

    Attributes
    ----------
    n_workers, n_threads
        Processes, and the threads of each.
    on_cluster
        Whether the processes are workers of a `distributed` cluster.
    limit
        The least memory limit of a worker; elsewhere, for each process, what it has already and
        what is available. None if there is no limit.
    has_data
        Whether the process that starts the job holds the data, and so does all by itself.
    """

    n_workers: int
    n_threads: int
    on_cluster: bool
    limit: int | None
    has_data: bool = False

    @property
    def share(self) -> float:
        """The share of the limit up to which a worker does not move data to disk."""
        if not self.on_cluster:
            return 1.0
        found = [dask.config.get(f"distributed.worker.memory.{w}", None) for w in _WATCHED]
        return min((float(share) for share in found if share), default=1.0)

    def needed(self, needs: Needs) -> int:
        """Return what a process needs."""
        of = needs.of_worker if self.on_cluster else needs.of_threads
        return of(self.n_threads)

    def needed_by_client(self, needs: Needs) -> int:
        """Return what the process that starts the job needs."""
        if self.on_cluster:
            return needs.of_client()
        return needs.of_threads(self.n_threads if self.n_workers == 1 else 1)

    def holds(self, needs: Needs) -> bool:
        """Whether there is as much."""
        return self.limit is None or self.needed(needs) <= self.limit * self.share


def n_partitions(pieces: Sequence[Piece], per_worker: int | None = None) -> int:
    """Return about how many partitions `_passes.partition` makes, without cutting any."""
    total = sum(piece.nbytes for piece in pieces)
    return max(1, math.ceil(total / max(1.0, _passes.partition_bytes(pieces, per_worker))))


def room() -> Room:
    """Return where the active scheduler would run a job."""
    client = schedulers.active_client()
    if client is None:
        n = schedulers.n_local_workers()
        if schedulers.in_processes():
            return Room(n, 1, on_cluster=False, limit=available() // n)
        return Room(1, n, on_cluster=False, limit=available())
    workers: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    limits = [worker["memory_limit"] for worker in workers.values() if worker["memory_limit"]]
    threads = max((worker["nthreads"] for worker in workers.values()), default=1)
    return Room(max(1, len(workers)), threads, on_cluster=True, limit=min(limits, default=None))


def available() -> int:
    """Return how much memory this process can have: what it has already, and what is free."""
    return free() + int(psutil.Process().memory_info().rss)


def free() -> int:
    """Return how much more memory processes can have."""
    found = int(psutil.virtual_memory().available)
    try:  # in a container
        most = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        told = (_CGROUP / "memory.stat").read_text(encoding="ascii").split()
        kept = (told[told.index(f"{name}_file") + 1] for name in ("inactive", "active"))
        used -= sum(map(int, kept))  # of files that were read, which the system gives back
        found = min(found, most - used)
    except (OSError, ValueError):  # there is no such group, or its limit is "max"
        pass
    return max(0, found)


def refuse_beyond(job: str, find: Callable[[Room], Needs], where: Room | None = None) -> None:
    """Raise if a job needs more memory than there is where it would run.

    Parameters
    ----------
    job
        What to call it in messages.
    find
        Returns what it needs there.
    where
        Where it would run, if not where the active scheduler runs jobs.

    Raises
    ------
    InsufficientMemoryError
        With the numbers, and what to give instead.
    """
    where = where or room()
    if where.limit is None:
        return
    needs = find(where)
    if not where.holds(needs):
        raise InsufficientMemoryError(_refusal(job, where, needs, where.needed(needs)))


def _refusal(job: str, where: Room, needs: Needs, needed: int) -> str:
    assert where.limit is not None  # noqa: S101 - else nothing is refused
    if not where.on_cluster:
        fewer = _fewer(where, needs)
        other = "set DASK_NUM_WORKERS=" if where.has_data else "--workers "
        return (
            f"{job} needs {_gib(needed)}, and {_gib(where.limit)} are available: "
            + (f"give dask.config.set(num_workers={fewer}) or {other}{fewer}, " if fewer else "")
            + "end other programs, or work where there is more memory."
        )
    enough = _gib(needed / where.share, up=True)
    used = "" if where.share == 1 else f", of which {where.share:.0%} before data move to disk"
    one = needs.of_worker(1)
    threads = (
        f", or to each worker one thread, which needs {_gib(one)}"
        if where.n_threads > 1 and one <= where.limit * where.share
        else ""
    )
    return (
        f"{job} needs {_gib(needed)} a worker, and the limit is {_gib(where.limit)}{used}: give "
        f"--memory-limit {enough.replace(' ', '')} (memory_limit of the workers){threads}."
    )


def _fewer(where: Room, needs: Needs) -> int:
    """Return the most threads with which it would fit, 0 if none are few enough."""
    limit = where.limit or 0
    fits = (n for n in range(where.n_threads - 1, 0, -1) if needs.of_threads(n) <= limit)
    return 0 if where.n_workers > 1 else next(fits, 0)


def _gib(nbytes: float, *, up: bool = False) -> str:
    """Return "1.3 GiB"; or one that is no less, where a limit is to hold it."""
    tenths = nbytes / (1 << 30) * 10
    if tenths < 10:  # noqa: PLR2004 - 1 GiB
        return f"{-(-nbytes // MIB) if up else nbytes / MIB:.0f} MiB"
    return f"{-(-tenths // 1) / 10 if up else tenths / 10:.1f} GiB"
