"""Contestants beside each other: each in a process of its own, run in turns, A B A B.

A process of its own gives each library its own threads and its own peak of memory. The processes
stay between the rounds, with their data, so that a round measures the work and nothing else.
"""

import multiprocessing
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from memory import Peak
from peers import missing

OURS = "dkmeans"
WARM_UP = -1
PAUSE = 0.25  # seconds: threads of OpenMP wait actively for a while after their work

# What the numerical libraries ask for how many threads they may use.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "DASK_NUM_WORKERS",
)


class Contestant(Protocol):
    """One who does the job. Made in the process in which it runs."""

    def run(self, number: int) -> Any:
        """Do the job, for the round of this number; `WARM_UP` before the first.

        The time from call to return is measured.
        """

    def facts(self, result: Any) -> dict[str, Any]:
        """Return what else is to be known of a result, out of the time.

        "seconds", "peak" and the like stand instead of what was measured around `run`.
        """


@dataclass(frozen=True)
class Entry:
    """How to make a contestant: a function of a module, and what it is given.

    `peer` is the name in `peers.PEERS` of what must be installed. One that takes minutes may run
    without a warm-up, if it is not `warm`, and in the first `rounds` only.
    """

    name: str
    make: Callable[..., Contestant]
    given: Mapping[str, Any] = field(default_factory=dict)
    peer: str = ""
    warm: bool = True
    rounds: int | None = None


@dataclass(frozen=True)
class Trial:
    """One run: seconds, bytes of memory (see `memory.Memory`), and what the contestant told."""

    seconds: float
    peak: int
    added: int
    worker: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of a case: its runs by contestant, and who was left out and why."""

    name: str
    trials: dict[str, list[Trial]]
    left_out: dict[str, str]

    def seconds(self, name: str) -> float:
        """Return the median of the seconds."""
        return statistics.median(trial.seconds for trial in self.trials[name])

    def fact(self, name: str, fact: str) -> float | None:
        """Return the mean of a fact over the runs; None where it is not told."""
        told = [trial.facts[fact] for trial in self.trials[name] if fact in trial.facts]
        return statistics.mean(told) if told else None

    @property
    def fastest(self) -> str | None:
        """The fastest contestant that is not ours."""
        others = [name for name in self.trials if not name.startswith(OURS)]
        return min(others, key=self.seconds, default=None)

    def times_faster(self, other: str | None = None) -> float | None:
        """Return the seconds of another, or of the fastest other, as a multiple of ours."""
        other = other or self.fastest
        if other not in self.trials or OURS not in self.trials:
            return None
        return self.seconds(other) / self.seconds(OURS)


@dataclass(frozen=True)
class Aim:
    """A figure that is aimed at. `figure` is None of an outcome that does not tell."""

    text: str
    figure: Callable[[Outcome], float | None]
    limit: float
    at_least: bool = True

    def met(self, outcome: Outcome) -> bool | None:
        """Return whether the figure is as good."""
        figure = self.figure(outcome)
        if figure is None:
            return None
        return figure >= self.limit if self.at_least else figure <= self.limit


@dataclass(frozen=True)
class Case:
    """Contestants for one job, and what is aimed at. `max_rounds` limits long ones."""

    name: str
    entries: Sequence[Entry]
    aims: Sequence[Aim] = ()
    max_rounds: int | None = None


class ContestError(Exception):
    """Raised when a contestant fails; holds what it raised."""


def hold(case: Case, rounds: int, *, separate: bool = True, warm_up: bool = True) -> Outcome:
    """Run all contestants of a case in turns.

    Parameters
    ----------
    rounds
        After the warm-up.
    separate
        Whether each gets its own process; else all run in this one.
    warm_up
        Whether those that warm up may; it matters for the time only.

    Raises
    ------
    ContestError
        If dkmeans fails. A peer that fails is left out, with the reason.
    """
    rounds = min(rounds, case.max_rounds or rounds)
    trials: dict[str, list[Trial]] = {}
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        asked: dict[str, Callable[[int], Trial]] = {}
        for number in (WARM_UP, *range(rounds)):
            for entry in case.entries:
                if number == WARM_UP and (why := missing(entry.peer)):
                    left_out[entry.name] = why
                turn = _takes_part(entry, number) and (warm_up or number != WARM_UP)
                if entry.name in left_out or not turn:
                    continue
                time.sleep(PAUSE if separate else 0)
                try:
                    if entry.name not in asked:
                        place = _elsewhere(entry) if separate else _here(entry)
                        asked[entry.name] = stack.enter_context(place)
                    trial = asked[entry.name](number)
                except ContestError as error:
                    if entry.name.startswith(OURS):
                        raise
                    left_out[entry.name] = f"failed: {error}"
                    continue
                if number != WARM_UP:
                    trials.setdefault(entry.name, []).append(trial)
                tell(f"{case.name}: {entry.name}: {trial.seconds:.3g} s")
    trials = {name: done for name, done in trials.items() if name not in left_out}
    return Outcome(case.name, trials, left_out)


def _takes_part(entry: Entry, number: int) -> bool:
    if number == WARM_UP:
        return entry.warm
    return entry.rounds is None or number < entry.rounds


def tell(text: str) -> None:
    """Write to where it does not mix with the results."""
    print(text, file=sys.stderr, flush=True)


def limit_threads(n: int) -> None:
    """Make the libraries of processes that start from now on use so many threads."""
    os.environ.update(dict.fromkeys(_THREADS, str(n)))


def _try(contestant: Contestant, number: int) -> Trial:
    memory = Peak()
    start = time.perf_counter()
    result = contestant.run(number)
    measured: dict[str, Any] = {"seconds": time.perf_counter() - start}
    measured |= asdict(memory.read())
    facts = contestant.facts(result)
    own = {name: facts.pop(name, value) for name, value in measured.items()}
    return Trial(**own, facts=facts)


@contextmanager
def _here(entry: Entry) -> Iterator[Callable[[int], Trial]]:
    with ExitStack() as stack:
        contestant = entry.make(**entry.given)
        if hasattr(contestant, "close"):
            stack.callback(contestant.close)
        yield lambda number: _try(contestant, number)


@contextmanager
def _elsewhere(entry: Entry) -> Iterator[Callable[[int], Trial]]:
    context = multiprocessing.get_context("spawn")  # libraries and their threads start afresh
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, entry))
    process.start()
    theirs.close()

    def ask(number: int) -> Trial:
        try:
            ours.send(number)
            answer = ours.recv()
        except (EOFError, OSError) as error:
            raise ContestError("its process has ended") from error
        if isinstance(answer, str):
            raise ContestError(answer)
        trial: Trial = answer
        return trial

    try:
        yield ask
    finally:
        ours.close()  # ends the process
        process.join()


def _serve(pipe: Any, entry: Entry) -> None:
    """Run a contestant whenever a number comes, until the pipe is closed."""
    try:
        with _here(entry) as ask:
            while True:
                try:
                    number = pipe.recv()
                except EOFError:
                    return
                pipe.send(ask(number))
    except Exception:  # noqa: BLE001 - whatever it is, the other side tells of it
        pipe.send(traceback.format_exc(limit=-3))
