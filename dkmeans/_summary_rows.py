"""The summary of rows: all of them where they are few, else a weighted sample."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np

from dkmeans import _passes
from dkmeans import _summary_steps as steps
from dkmeans._frame import Centers, Float64, Frame, Int32, Int64, Ranges, Rows, RowTotals
from dkmeans._kernels.hashes import any_equal
from dkmeans._passes import Partition, Passes, Ticker
from dkmeans._summary_equal import are_many, hashes_of, join_equal
from dkmeans._summary_samples import All, Sample, highest
from dkmeans._summary_steps import Steps
from dkmeans._tables import Block, Table, TablePiece
from dkmeans._tables_blocks import MemorySource

MIN_ROWS = 1 << 17
ROWS_PER_CLUSTER = 5000
MAX_BYTES = 1 << 29
MIDDLE = 1 << 14  # rows, to tell where the middle of all is
_START_SHARE = 8  # restarts run on one row in so many of a sample
_REPEATS = 16  # of a distinct row, on the average, so that they are counted
_TABLE = 2  # axes
_LOOKS = 100  # kept apart


def size(n_clusters: int, n_features: int, itemsize: int) -> int:
    """Return how many rows a summary holds at the most; of more rows it has a sample of as many.

    That is 5,000 for each cluster: from such a sample Lloyd's algorithm ends 0.1 % above where it
    ends from all rows, and two or three passes that refine it win that. From 2,000 for each it ends
    1 % above, and it takes ten passes and more.
    """
    room = max(MAX_BYTES // (n_features * itemsize), 20 * n_clusters)
    return min(max(MIN_ROWS, ROWS_PER_CLUSTER * n_clusters), room)


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
        """Return itself: merging leaves it as it is, and a sample is large."""
        return self

    def merge(self, *others: "Look") -> "Look":
        """Return what a pass over all parts would bring."""
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


def _distinct(rows: Rows, counts: Float64, limit: int) -> tuple[Rows, Float64] | None:
    """Return the distinct ones of some rows, unless they are too many."""
    n = limit + limit // 2  # so many often tell already
    hashes = hashes_of(rows[:n])
    if are_many(hashes, limit):
        return None
    if len(rows) > n:
        hashes = np.concatenate([hashes, hashes_of(rows[n:])])
        if are_many(hashes, limit):
            return None
    if any_equal(hashes):
        rows, counts = join_equal(rows, counts, hashes)
    return (rows, counts) if len(rows) <= limit else None


@dataclass(frozen=True)
class _Look:
    """Looks at the rows of a partition; rows of priorities up to `floor` are not kept.

    Up to `most` distinct rows are counted.
    """

    limit: int
    seed: int
    floor: float
    most: int

    def __call__(self, partition: Partition, tick: Ticker) -> list[Look]:
        looks: list[Look] = []
        for block in blocks(partition, tick):
            ranges, used = Ranges.of(block.values, block.weights, block.numbers)
            weights = None
            if block.weights is not None:
                weights = np.where(used, block.weights, 0.0)
            elif ranges.n_used < ranges.n_rows:
                weights = used.astype(np.float64)
            sample = Sample.of(self.limit, block, weights, self.seed, self.floor)
            distinct = None
            if self.most and (not looks or looks[0].distinct is not None):
                counts = np.ones(len(used))  # integers are never missing
                distinct = _distinct(block.values, counts, self.most)
                if distinct is not None and distinct[0] is block.values:
                    distinct = block.values.copy(), counts  # the block may not last
            looks.append(Look(ranges, sample, distinct, self.most))
            looks = _fewer(looks)
        return looks


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


def blocks(partition: Partition, tick: Ticker) -> Iterator[Block]:
    """Yield the blocks of a partition; each counts as read when the next is asked for."""
    for piece in partition:
        assert isinstance(piece, TablePiece)  # noqa: S101 - tells the type checker what tables are made of
        for block in piece.blocks():
            yield block
            tick(block.values.nbytes)


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

    It has all rows of up to `limit`, else as many, or `n_sampled`. Of integers without weights the
    distinct rows are counted, as long as they are few: up to `limit`, and a sixteenth of all. Where
    rows occur less often, counting them costs more than it spares.

    Memory: twice the sample for each worker.
    """
    if table.n_rows <= limit:
        return _look_at_all(passes, table, limit)
    partitions = _passes.partition(table.pieces)
    n_sampled = n_sampled or limit
    # Of n rows that weigh the same, those kept have priorities above some n / sampled. Ten standard
    # deviations more would do, and save copies and memory; if not, the pass runs again.
    floor = 0.0 if table.is_weighted else table.n_rows / (n_sampled + 10 * n_sampled**0.5)
    is_counted = table.dtype.kind in "iu" and not table.is_weighted
    count = min(limit, table.n_rows // _REPEATS) if is_counted else 0
    work = _Look(n_sampled, seed, floor, count)
    found = _looked(passes, work, partitions)
    if floor >= 1 and len(found.sample.rows) <= min(n_sampled, found.ranges.n_used - 1):
        found = _looked(passes, replace(work, floor=0.0), partitions)
    return found


def _looked(passes: Passes, work: _Look, partitions: Sequence[Partition]) -> Look:
    first, *others = passes.run("summarise", work, partitions, _merge_looks)
    return first.merge(*others)


@dataclass(frozen=True)
class _Assign:
    """Assigns the rows of a partition to centres and adds them up."""

    centers: Centers

    def __call__(self, partition: Partition, tick: Ticker) -> RowTotals:
        totals = self.centers.frame.totals(len(self.centers.offsets))
        for block in blocks(partition, tick):
            self.centers.add(block.values, block.weights, totals)
        return totals


def assign_all(passes: Passes, table: Table, centers: Centers, name: str) -> RowTotals:
    """Assign all rows of a table to centres, in one pass of this name."""
    partitions = _passes.partition(table.pieces)
    return passes.run(name, _Assign(centers), partitions, RowTotals.merge)


class RowSummary:
    """Rows as the points of k-means. Implements `dkmeans._lloyd.Summary`.

    Equal rows are joined, and where their order counts, it follows from their contents. So the
    result of k-means does not depend on the order of the rows, and a weight of w equals w copies.

    Parameters
    ----------
    rows
        (n, d), at least one.
    weights
        (n,), above zero; or None where each row counts once.
    in_part
        Whether restarts run on a part of the rows.
    in_order
        Whether to put the rows into their own order in any case.
    ranges
        Of the rows, if known.

    Attributes
    ----------
    rows, weights
        The distinct rows, and how much each counts; None where each counts once.
    is_as_given
        Whether the rows are as they were given, in number and order.
    frame
        The frame around the mean of the rows, or of some of them.
    depths
        How many rows, of those that come first in their own order, are the points at each depth.
        That is the order of a hash, so they are a sample.
    """

    def __init__(
        self,
        rows: Rows,
        weights: Float64 | None,
        *,
        in_part: bool = False,
        in_order: bool = True,
        ranges: Ranges | None = None,
    ) -> None:
        n = len(rows)
        self._hashes = None if in_order else hashes_of(rows)
        self.is_as_given = self._hashes is not None and not any_equal(self._hashes)
        self.rows, self.weights = rows, weights
        if not self.is_as_given:
            hashes = hashes_of(rows) if self._hashes is None else self._hashes
            counts = np.ones(n) if weights is None else weights
            self.rows, self.weights = join_equal(rows, counts, hashes)
        if self.weights is not None and (self.weights == 1).all():
            self.weights = None
        n = len(self.rows)
        self.depths: tuple[int, ...] = (n // _START_SHARE, n) if in_part else (n,)
        if ranges is None or not self.is_as_given:
            ranges = steps.ranges_of(self.rows, self.weights)
        weighted = self.weights is not None
        middle = ranges.low / 2 + ranges.high / 2
        rough = Frame.of(ranges, middle, self.rows.dtype, weighted=weighted)
        mean = steps.total_of(rough, *self._some()).means(middle[None])[0]
        mean = np.clip(mean, ranges.low, ranges.high)
        self.frame = Frame.of(ranges, mean, self.rows.dtype, weighted=weighted)

    def _some(self) -> tuple[Rows, Float64 | None]:
        """Return rows, and their weights, that tell where the middle is: by their hashes."""
        n = len(self.rows)
        if n <= 2 * MIDDLE:
            return self.rows, self.weights
        chosen: slice | Int64 = slice(MIDDLE)
        if self._hashes is not None and self.is_as_given:
            chosen = np.flatnonzero(self._hashes < np.uint64((1 << 64) // n * MIDDLE))
        return self._chosen(chosen)

    def _chosen(self, places: Any) -> tuple[Rows, Float64 | None]:
        """Return the rows at some places, and their weights."""
        return self.rows[places], None if self.weights is None else self.weights[places]

    @cached_property
    def _order(self) -> Int64:
        """Where the rows are, in their own order."""
        if self._hashes is not None and self.is_as_given:
            return np.argsort(self._hashes, kind="stable")
        return np.arange(len(self.rows))

    def _in_order(self, depth: int) -> tuple[Rows, Float64 | None]:
        """Return the rows at `depth`, in their own order, and their weights."""
        return self._chosen(self._order[:depth] if self.is_as_given else slice(depth))

    @cached_property
    def _first(self) -> tuple[Rows, Float64 | None]:
        return self._in_order(self.depths[0])

    def _at(self, depth: int) -> tuple[Rows, Float64 | None]:
        """Return the rows at `depth` and their weights; all rows as they are."""
        return (self.rows, self.weights) if depth == len(self.rows) else self._first

    @property
    def n_points(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    @cached_property
    def mean_variance(self) -> float:
        """The variance of the features, averaged over features; weights count as copies."""
        return steps.mean_variance(self.frame, self.rows, self.weights)

    def n_points_at(self, depth: int) -> int:
        """Count the points at `depth`."""
        return depth

    def spread_within(self, depth: int) -> float:  # noqa: ARG002 - true of any depth
        """Return 0: every point is a row."""
        return 0.0

    def points(self, depth: int) -> tuple[Rows, Float64]:
        """Return the rows at `depth`, in their own order, and their weights as float64."""
        rows, weights = self._in_order(depth) if depth == len(self.rows) else self._first
        return rows, np.ones(depth) if weights is None else weights

    def begin(self, n_clusters: int, depth: int) -> Steps:
        """Return the steps of one run over the rows at `depth`."""
        return Steps(self.frame, *self._at(depth), n_clusters)

    def look_again(
        self, centers: Float64, rows: Rows, weights: Float64 | None
    ) -> tuple[Int32, float]:
        """Return the labels and the inertia of rows before they were joined."""
        return steps.labels_and_inertia(self.frame.centers(centers), rows, weights)

    def farthest(self, centers: Float64, n: int, depth: int) -> Iterator[tuple[int, RowTotals]]:
        """Yield up to `n` rows farthest from their nearest centre, each with that centre.

        Rows at distance zero are left out; ties are taken in the order of the rows.
        """
        rows, weights = self._at(depth)
        prepared = self.frame.centers(centers)
        labels = prepared.assign(rows)
        distances = prepared.squared_distances(rows, labels)
        places = np.arange(depth)
        if depth == len(self.rows):
            places[self._order] = np.arange(depth)
        yield from farthest_of(self.frame, rows, weights, labels, distances, places, n)


def farthest_of(  # noqa: PLR0917 - columns of one table
    frame: Frame,
    rows: Rows,
    weights: Float64 | None,
    labels: Int32,
    distances: Float64,
    numbers: Int64,
    n: int,
) -> Iterator[tuple[int, RowTotals]]:
    """Yield up to `n` of the rows with the largest distances, each with its label, as totals."""
    chosen = highest(distances, numbers, n)
    for i in chosen[np.lexsort((numbers[chosen], -distances[chosen]))]:
        if distances[i] == 0:
            return
        weight = None if weights is None else weights[i : i + 1]
        yield int(labels[i]), frame.only(rows[i : i + 1], weight)
