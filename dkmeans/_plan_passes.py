"""What a plan tells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dkmeans._needs import Needs, Room
from dkmeans._passes import Piece


@dataclass(frozen=True)
class PlannedPass:
    """A kind of pass.

    Attributes
    ----------
    name
        What it does.
    times
        How often at the least and at the most; both are the same where that is known.
    bytes_read
        Decoded bytes that it reads each time.
    n_tasks
        Into how many tasks it is divided.
    """

    name: str
    times: tuple[int, int]
    bytes_read: int
    n_tasks: int

    @classmethod
    def over(
        cls, name: str, partitions: Sequence[Sequence[Piece]], times: tuple[int, int] = (1, 1)
    ) -> "PlannedPass":
        """Return a pass over partitions."""
        nbytes = sum(piece.nbytes for partition in partitions for piece in partition)
        return cls(name, times, nbytes, len(partitions))


@dataclass(frozen=True)
class Plan:
    """What a job will take, as far as it can be told before any work.

    Attributes
    ----------
    job
        "quantize", "ingest", "fit" or "predict".
    n_sources, n_rows
        The pictures or arrays, and their pixels or rows.
    passes
        Each kind of pass, in order.
    bytes_written
        Of the output, roughly; 0 for a fit.
    staging
        Bytes on disk of pixels that are kept decoded between the passes.
    n_workers, n_threads
        Processes that work, and the threads of each.
    memory_worker
        The most that a process will have resident, in bytes: an upper bound.
    memory_client
        The most that the process which starts the job will have resident, in bytes; if it does all
        the work itself, that is the same process.
    memory_limit
        What a worker may use, or what is available here; None if there is no limit.
    memory_usable
        What of that a job may need: a worker moves data to disk from some share of its limit on.
    fits
        Whether the job will be started; else it is refused.
    seconds
        About how long it takes, at the least and at the most, from some blocks tried out; None if
        that was not wanted.
    """

    job: str
    n_sources: int
    n_rows: int
    passes: tuple[PlannedPass, ...]
    bytes_written: int
    staging: int
    n_workers: int
    n_threads: int
    memory_worker: int
    memory_client: int
    memory_limit: int | None
    memory_usable: int | None
    fits: bool
    seconds: tuple[float, float] | None

    @classmethod
    def of(cls, needs: Needs, room: Room, **told: Any) -> "Plan":
        """Return the plan of a job that needs so much of a room; `told` are all else."""
        return cls(
            n_workers=room.n_workers,
            n_threads=room.n_threads,
            memory_worker=room.needed(needs),
            memory_client=room.needed_by_client(needs),
            memory_limit=room.limit,
            memory_usable=None if room.limit is None else int(room.limit * room.share),
            fits=room.holds(needs),
            **told,
        )

    @property
    def n_passes(self) -> tuple[int, int]:
        """How often the data are read, at the least and at the most."""
        return self._sum(lambda _: 1)

    @property
    def bytes_read(self) -> tuple[int, int]:
        """Decoded bytes read by all passes, at the least and at the most."""
        return self._sum(lambda each: each.bytes_read)

    @property
    def n_tasks(self) -> tuple[int, int]:
        """Tasks of all passes without those that merge, at the least and at the most."""
        return self._sum(lambda each: each.n_tasks)

    def _sum(self, of: Callable[[PlannedPass], int]) -> tuple[int, int]:
        least, most = (sum(each.times[i] * of(each) for each in self.passes) for i in (0, 1))
        return least, most
