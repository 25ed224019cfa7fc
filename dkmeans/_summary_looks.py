"""The first pass over rows: their ranges, and all of them, or a sample and the distinct ones."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np

from dkmeans import _passes
from dkmeans._frame import Float64, Int64, Rows
from dkmeans._frame_ranges import Ranges
from dkmeans._kernels.hashes import any_equal
from dkmeans._passes import Partition, Passes, Ticker
from dkmeans._summary_equal import are_many, hashes_of, join_equal, seem_many
from dkmeans._summary_samples import All, Sample
from dkmeans._tables import Table
from dkmeans._tables_blocks import MemorySource, blocks

_REPEATS = 16  # of a distinct row, on the average, so that they are counted
_TABLE = 2  # axes
_FEW = 16  # of so many rows, one that is not missing is enough to tell where the middle is
_LOOKS = 100  # kept apart


@dataclass(frozen=True, eq=False)
class Look:
    """What the first pass brings: the ranges of all rows, and a sample.

    `distinct` are the distinct rows and how often each occurs, float64; or None if they were not
    wanted, or are more than `most`.
    """

    ranges: Ranges
    sample: Sample
    distinct: tuple[Rows, Float64] | None
    most: int = 0

    def __deepcopy__(self, _: dict[int, Any]) -> "Look":
        """Return itself: merging leaves it as it is."""
        return self

    def merge(self, *others: "Look") -> "Look":
        """Return what a pass over all parts would bring."""
        if not others:
            return self
        parts = (self, *others)
        return Look(
            reduce(Ranges.merge, (part.ranges for part in parts)),
            self.sample.merge(*(part.sample for part in others)),
            _join([part.distinct for part in parts], self.most),
            self.most,
        )


def _join(parts: Sequence[tuple[Rows, Float64] | None], limit: int) -> tuple[Rows, Float64] | None:
    """Return the distinct rows of all parts, unless some are not known or they are too many."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    rows, counts = (np.concatenate(columns) for columns in zip(*known, strict=True))
    return _distinct(rows, counts, limit)


def _distinct(rows: Rows, counts: Float64 | None, limit: int) -> tuple[Rows, Float64] | None:
    """Return the distinct ones of some rows, unless they are too many; without counts, of once."""
    if seem_many(rows, limit):
        return None
    n = limit + limit // 2  # so many often tell already
    hashes = hashes_of(rows[:n])
    if are_many(hashes, limit):
        return None
    if len(rows) > n:
        hashes = np.concatenate([hashes, hashes_of(rows[n:])])
        if are_many(hashes, limit):
            return None
    counts = np.ones(len(rows)) if counts is None else counts
    if any_equal(hashes):
        rows, counts = join_equal(rows, counts, hashes)
    return (rows, counts) if len(rows) <= limit else None


@dataclass(frozen=True)
class _Look:
    """Looks at the rows of a partition; rows of priorities up to `floor` are not kept.

    The sample is drawn from one row in `step`. Up to `most` distinct rows are counted. One look
    comes out: merges need not copy any then.
    """

    limit: int
    seed: int
    floor: float
    most: int
    step: int

    def __call__(self, partition: Partition, tick: Ticker) -> list[Look]:
        looks: list[Look] = []
        for block in blocks(partition, tick):
            ranges, used = Ranges.of(block.values, block.weights, block.numbers)
            weights = None
            if block.weights is not None:
                weights = np.where(used, block.weights, 0.0)
            elif ranges.n_used < ranges.n_rows:
                weights = used.astype(np.float64)
            sample = Sample.of(
                self.limit, block, weights, self.seed, floor=self.floor, step=self.step
            )
            distinct = None
            if self.most and (not looks or looks[0].distinct is not None):
                distinct = _distinct(block.values, None, self.most)  # none is ever missing
                if distinct is not None and distinct[0] is block.values:
                    distinct = block.values.copy(), distinct[1]  # the block may not last
            looks.append(Look(ranges, sample, distinct, self.most))
            looks = _fewer(looks)
        return [looks[0].merge(*looks[1:])]


def _fewer(looks: list[Look]) -> list[Look]:
    """Return looks as they are, or one in their place where they hold more than they need.

    To merge them at each turn would copy the same rows again and again.
    """
    n_kept = sum(len(look.sample.rows) for look in looks)
    is_counting = any(look.distinct is not None for look in looks)
    if is_counting or n_kept > 2 * looks[0].sample.limit or len(looks) > _LOOKS:
        return [looks[0].merge(*looks[1:])]
    return looks


def _merge_looks(a: list[Look], b: list[Look]) -> list[Look]:
    return _fewer(a + b)


@dataclass(frozen=True)
class _Seen:
    """The rows of a block that count, and what was seen in it."""

    ranges: Ranges
    rows: Rows
    weights: Float64
    numbers: Int64


@dataclass(frozen=True)
class _Gather:
    """Looks at the rows of a partition, and keeps all that count."""

    in_memory: bool  # where blocks stay what they are

    def __call__(self, partition: Partition, tick: Ticker) -> list[_Seen]:
        found = []
        for block in blocks(partition, tick):
            numbers = block.numbers()
            ranges, used = Ranges.of(block.values, block.weights, block.numbers)
            weights = np.empty(0) if block.weights is None else block.weights
            rows = block.values
            if ranges.n_used < ranges.n_rows:
                rows, numbers = rows[used], numbers[used]
                weights = weights[used] if weights.size else weights
            elif not self.in_memory:
                rows, weights = rows.copy(), weights.copy()
            found.append(_Seen(ranges, rows, weights, numbers))
        return found


def _look_at_all(passes: Passes, table: Table, limit: int) -> Look:
    """Read a table of up to `limit` rows once; return all, not copied if they are in memory."""
    in_memory = all(piece.in_memory for piece in table.pieces)
    found: list[_Seen] = passes.run(
        "summarise", _Gather(in_memory), _passes.partition(table.pieces), operator.iadd
    )
    ranges = reduce(Ranges.merge, (part.ranges for part in found))
    numbers = np.concatenate([part.numbers for part in found])
    weights = np.concatenate([part.weights for part in found])
    whole = one_array(table) if ranges.n_used == ranges.n_rows else None
    rows = np.concatenate([part.rows for part in found]) if whole is None else whole[0]
    if (numbers[1:] < numbers[:-1]).any():
        order = np.argsort(numbers)
        rows, numbers = rows[order], numbers[order]
        weights = weights[order] if weights.size else weights
    return Look(ranges, All(limit, rows, numbers, weights, np.empty(0)), None)


def one_array(table: Table) -> tuple[Rows, Float64 | None] | None:
    """Return the array in memory that a table is a view of, and its weights, if there is one."""
    source = table.pieces[0].source
    if len(table.pieces) > 1 or not isinstance(source, MemorySource):
        return None
    array = source.array
    if array.ndim > _TABLE or not array.flags.c_contiguous or array.dtype != table.dtype:
        return None
    return np.asarray(array), source.weights


def look(passes: Passes, table: Table, limit: int, seed: int, n_sampled: int | None = None) -> Look:
    """Read a table once; return the ranges of its rows, and all of them or a sample.

    It has all rows of up to `limit`, else as many, or some `n_sampled`. Of integers without weights
    the distinct rows are counted, as long as they are few: up to `limit`, and a sixteenth of all.
    Where rows occur less often, counting them costs more than it spares.

    Memory: the sample in each worker that merges, and twice the sample here.
    """
    if table.n_rows <= limit:
        return _look_at_all(passes, table, limit)
    partitions = _passes.partition(table.pieces)
    is_counted = table.dtype.kind in "iu" and not table.is_weighted
    count = min(limit, table.n_rows // _REPEATS) if is_counted else 0
    if table.is_weighted:
        floor, step, enough = 0.0, 1, 0  # the heaviest are not to be missed
    elif n_sampled is None:
        # Of n rows that weigh the same, those kept have priorities above some n / sampled. Ten
        # standard deviations more would do, and save copies and memory.
        floor, step, enough = table.n_rows / (limit + 10 * limit**0.5), 1, limit + 1
    else:
        # A few will do, but if most rows are missing they may be too few.
        floor, step, enough = 0.0, table.n_rows // n_sampled, max(n_sampled // _FEW, 1)
    work = _Look(n_sampled or limit, seed, floor, count, step)
    found = _looked(passes, work, partitions)
    if len(found.sample.rows) < min(enough, found.ranges.n_used):  # all again, with all
        found = _looked(passes, replace(work, floor=0.0, step=1), partitions)
    return found


def _looked(passes: Passes, work: _Look, partitions: Sequence[Partition]) -> Look:
    first, *others = passes.run("summarise", work, partitions, _merge_looks)
    return first.merge(*others)
