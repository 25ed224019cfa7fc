"""What does not grow: the share of a second worker, scheduling, and memory.

A refining pass over a store in the page cache is run by one worker process and by all, each on a
core of its own. A simulated
source of 100,000 blocks, which costs nothing to read, is passed over by tasks that do nothing. A
table, one ten times and one a hundred times as long are fitted; what counts is the largest worker.
"""

import operator
from argparse import Namespace
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from contest import OURS, Aim, Case, Entry, Outcome
from data import store
from outofcore import SIZE, SMALL_SIZE, Ours, Refine, start_cluster

from dkmeans._passes import Partition, Passes, Piece, Ticker, partition
from dkmeans._tiling import Window, grid

BLOCKS, SMALL_BLOCKS = (250, 400), (10, 20)
SIDE = 1024  # of a block
MIN_SPEED, MAX_SECONDS, MAX_GROWTH = 1.8, 0.5, 1.1
CLUSTERS = 16  # few enough that the shortest table is larger than its sample

ONE, ALL = f"{OURS}, 1 worker", OURS


@dataclass(frozen=True)
class Costless:
    """A source of blocks that are all the same array. A `dkmeans._passes.BlockSource`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    in_order: bool = False
    block: tuple[int, int] = (SIDE, SIDE)
    read_block: tuple[int, int] = (SIDE, SIDE)

    def read(self, windows: Sequence[Window]) -> Generator[npt.NDArray[Any], None, None]:
        """Yield a block for each window."""
        block = np.zeros((SIDE, SIDE, 1), np.uint8)
        for _ in windows:
            yield block

    def fingerprint(self) -> str:
        """Return a text."""
        return "costless"


def count(part: Partition, tick: Ticker) -> int:
    """Count the blocks of a partition."""
    n = 0
    for piece in part:
        for block in piece.source.read(piece.windows):
            n += 1
            tick(block.nbytes)
    return n


class Simulated:
    """Passes over a source that costs nothing, in threads or on a cluster."""

    def __init__(self, blocks: tuple[int, int], n_workers: int = 0) -> None:
        height, width = (n * SIDE for n in blocks)
        windows = grid(height, width, (SIDE, SIDE))
        self._pieces = [Piece(0, Costless((height, width, 1), np.dtype(np.uint8)), windows)]
        self._stack = ExitStack()
        if n_workers:
            from distributed import Client

            cluster = self._stack.enter_context(start_cluster(n_workers))
            self._stack.enter_context(Client(cluster))

    def run(self, number: int) -> int:  # noqa: ARG002 - all rounds are the same
        """Run a pass."""
        found: int = Passes().run("count", count, partition(self._pieces), operator.add)
        if found != len(self._pieces[0].windows):
            raise AssertionError(f"{found} blocks passed over")
        return found

    def facts(self, result: int) -> dict[str, Any]:
        """Return the number of blocks."""
        return {"blocks": result}

    def close(self) -> None:
        """Stop the workers."""
        self._stack.close()


def _second_worker(outcome: Outcome) -> float:
    return outcome.seconds(ONE) / outcome.seconds(ALL)


def _seconds(name: str, outcome: Outcome) -> float:
    return outcome.seconds(name)


def _growth(least: str, most: str, outcome: Outcome) -> float:
    peaks = [max(trial.worker for trial in outcome.trials[name]) for name in (most, least)]
    return peaks[0] / peaks[1]


def cases(options: Namespace) -> Iterator[Case]:
    """Yield a case for each."""
    n, d, k = SMALL_SIZE if options.small else SIZE
    path = store(options.work, n, d, k)
    given = {"path": path, "n_clusters": k, "on_cores": True}  # one worker would read ahead on two
    entries = [
        Entry(ALL, Refine, {**given, "n_workers": options.threads}),
        Entry(ONE, Refine, {**given, "n_workers": 1}),
    ]
    text = f"times faster with {options.threads} workers than with one"
    aims = [] if options.small else [Aim(text, _second_worker, MIN_SPEED)]
    yield Case(f"a refining pass, {n:,} x {d}, k = {k}", entries, aims)

    blocks = SMALL_BLOCKS if options.small else BLOCKS
    cluster = f"{OURS}, worker processes"
    entries = [
        Entry(OURS, Simulated, {"blocks": blocks}),
        Entry(cluster, Simulated, {"blocks": blocks, "n_workers": options.threads}),
    ]
    aims = [
        Aim("seconds a pass, threads", partial(_seconds, OURS), MAX_SECONDS, at_least=False),
        Aim("seconds a pass, processes", partial(_seconds, cluster), MAX_SECONDS, at_least=False),
    ]
    yield Case(f"{blocks[0] * blocks[1]:,} blocks", entries, aims)

    given = {"n_workers": options.threads, "n_clusters": CLUSTERS}
    names = {f"{OURS}, {n // m:,} rows": n // m for m in (100, 10, 1)}
    entries = [
        Entry(name, Ours, {"path": store(options.work, rows, d, k), **given})
        for name, rows in names.items()
    ]
    growth = partial(_growth, next(iter(names)), list(names)[-1])
    aims = [] if options.small else [
        Aim("times the memory of a worker for 100 times the data", growth, MAX_GROWTH,
            at_least=False),
    ]  # fmt: skip
    yield Case(f"memory, {d} features, k = {CLUSTERS}", entries, aims, max_rounds=2)
