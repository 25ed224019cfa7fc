"""The summary of rows of floats: all of them where they are few, else a weighted sample.

The sample is drawn by priority sampling (N. Duffield, C. Lund and M. Thorup, "Priority sampling for
estimation of arbitrary subset sums", JACM 54(6), 2007, section 1.1): a row of weight w gets the
priority w / u, u uniform and a function of the seed and the row's number alone. The n rows of the
highest priorities are kept, each with the weight max(w, t), t being the highest priority that was
left out: unbiased, and the same rows however the data are divided. Where all rows weigh the same
it is a uniform sample.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np

from dkmeans import _passes
from dkmeans._frame import Centers, Float64, Frame, Int32, Int64, Ranges, Rows, RowTotals
from dkmeans._kernels import rows as kernels
from dkmeans._passes import Partition, Passes, Ticker
from dkmeans._tables import Block, Table, TablePiece

MIN_ROWS = 1 << 17
ROWS_PER_CLUSTER = 5000
SAMPLED_PER_CLUSTER = 2000
MAX_BYTES = 1 << 29
_START_SHARE = 8  # restarts run on one row in so many of a sample
_PARTS = 8  # of the work on one summary, for threads
_SMALL = 1 << 14  # rows times centres; below this, threads cost more than they save


def size(n_rows: int, n_clusters: int, n_features: int, itemsize: int) -> int:
    """Return how many of `n_rows` rows a summary holds: all, or those of a sample.

    Up to 5,000 rows for each cluster are kept. Of more, a sample of 2,000 for each: from it Lloyd's
    algorithm ends within a few tenths of a percent of where it ends from all rows, and the passes
    that refine it win most of that.
    """
    room = max(MAX_BYTES // (n_features * itemsize), 20 * n_clusters)
    most = min(max(MIN_ROWS, ROWS_PER_CLUSTER * n_clusters), room)
    if n_rows <= most:
        return most
    return min(max(MIN_ROWS, SAMPLED_PER_CLUSTER * n_clusters), room)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows kept of those seen so far, with their numbers, weights and priorities.

    Attributes
    ----------
    limit
        How many rows the sample is to have; one more is kept, for its priority.
    rows, numbers, weights, priorities
        (n, d), and (n,) each.
    """

    limit: int
    rows: Rows
    numbers: Int64
    weights: Float64
    priorities: Float64

    @classmethod
    def of(
        cls, limit: int, block: Block, weights: Float64, seed: int, floor: float = 0.0
    ) -> "Sample":
        """Draw from the rows of a block that have a weight, (n,), and a priority above `floor`."""
        numbers = block.numbers()
        chances = np.empty(len(numbers))
        kernels.uniform(seed, numbers, chances)
        with np.errstate(over="ignore"):  # infinite ones are taken by number
            priorities = weights / chances
        used = np.flatnonzero(priorities > floor)
        origin = used[highest(priorities[used], numbers[used], limit + 1)]
        rows = block.values[origin]
        return cls(limit, rows, numbers[origin], weights[origin], priorities[origin])

    def merge(self, *others: "Sample") -> "Sample":
        """Return the sample of all rows that these were drawn from."""
        parts = (self, *others)
        numbers = np.concatenate([part.numbers for part in parts])
        priorities = np.concatenate([part.priorities for part in parts])
        chosen = highest(priorities, numbers, self.limit + 1)
        rows = np.concatenate([part.rows for part in parts])[chosen]
        weights = np.concatenate([part.weights for part in parts])[chosen]
        return Sample(self.limit, rows, numbers[chosen], weights, priorities[chosen])

    def finish(self) -> "Sample":
        """Return the sample in the order of the rows, with the weights of what each stands for."""
        order = np.argsort(self.numbers)
        weights = self.weights
        if len(order) > self.limit:
            last = np.lexsort((self.numbers, -self.priorities))[-1]
            weights = np.maximum(weights, self.priorities[last])
            order = order[order != last]
        parts = (self.rows[order], self.numbers[order], weights[order], self.priorities[order])
        return Sample(self.limit, *parts)


def highest(priorities: Float64, numbers: Int64, n: int) -> Int64:
    """Return where the `n` highest priorities are; of equal ones, those of lower numbers."""
    if len(priorities) <= n:
        return np.arange(len(priorities))
    bound = np.partition(priorities, -n)[-n]
    above = np.flatnonzero(priorities > bound)
    equal = np.flatnonzero(priorities == bound)
    equal = equal[np.argsort(numbers[equal])][: n - above.size]
    return np.concatenate([above, equal])


@dataclass(frozen=True, eq=False)
class Look:
    """What the first pass brings: the ranges of all rows, and a sample.

    `distinct` are the distinct rows and how often each occurs, float64; or None if they were not
    wanted, or are more than the sample may have.
    """

    ranges: Ranges
    sample: Sample
    distinct: tuple[Rows, Float64] | None

    def merge(self, *others: "Look") -> "Look":
        """Return what a pass over all parts would bring."""
        parts = (self, *others)
        return Look(
            reduce(Ranges.merge, (part.ranges for part in parts)),
            self.sample.merge(*(part.sample for part in others)),
            _join([part.distinct for part in parts], self.sample.limit),
        )


def _join(parts: Sequence[tuple[Rows, Float64] | None], limit: int) -> tuple[Rows, Float64] | None:
    """Return the distinct rows of all parts, unless some are not known or they are too many."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    rows, counts = (np.concatenate(columns) for columns in zip(*known, strict=True))
    rows, counts = join_equal(rows, counts)
    return (rows, counts) if len(rows) <= limit else None


@dataclass(frozen=True)
class _Look:
    """Looks at the rows of a partition; rows of priorities up to `floor` are not kept."""

    limit: int
    seed: int
    floor: float
    count: bool

    def __call__(self, partition: Partition, tick: Ticker) -> Look:
        looks: list[Look] = []
        for block in blocks(partition, tick):
            ranges, used = Ranges.of(block.values, block.weights, block.numbers())
            weights = used.astype(np.float64)
            if block.weights is not None:
                weights[used] = block.weights[used]
            sample = Sample.of(self.limit, block, weights, self.seed, self.floor)
            distinct = None
            if self.count and (not looks or looks[0].distinct is not None):
                distinct = join_equal(block.values, weights)
            looks.append(Look(ranges, sample, distinct))
            if self.count or sum(len(look.sample.rows) for look in looks) > 2 * self.limit:
                looks = [looks[0].merge(*looks[1:])]
        return looks[0].merge(*looks[1:])


def blocks(partition: Partition, tick: Ticker) -> Iterator[Block]:
    """Yield the blocks of a partition; each counts as read when the next is asked for."""
    for piece in partition:
        assert isinstance(piece, TablePiece)  # noqa: S101 - tells the type checker what tables are made of
        for block in piece.blocks():
            yield block
            tick(block.values.nbytes)


def look(passes: Passes, table: Table, limit: int, seed: int) -> Look:
    """Read a table once; return the ranges of its rows, and a sample of up to `limit`.

    Of integers without weights the distinct rows are counted, as long as there are few.

    Memory: twice the sample for each worker.
    """
    partitions = _passes.partition(table.pieces)
    # Of n rows that weigh the same, those kept have priorities above some n / limit. To keep half
    # as much above would do, and saves copies; if it did not, it is done again without a floor.
    floor = 0.0 if table.is_weighted else table.n_rows / (2 * limit)
    count = table.dtype.kind in "iu" and not table.is_weighted and table.n_rows > limit
    work = _Look(limit, seed, floor, count)
    found = passes.run("summarise", work, partitions, Look.merge)
    if floor >= 1 and len(found.sample.rows) <= min(limit, found.ranges.n_used - 1):
        found = passes.run("summarise", replace(work, floor=0.0), partitions, Look.merge)
    return found


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

    Equal rows are joined, and the rows put into an order that follows from their contents. So the
    result of k-means does not depend on the order of the rows, and a weight of w equals w copies.

    Parameters
    ----------
    rows
        (n, d), at least one.
    weights
        (n,), above zero; or None where each row counts once.
    is_sample
        Whether the rows are a sample themselves. Then restarts run on a part of them.

    Attributes
    ----------
    rows, weights
        The distinct rows, and how much each counts; None where each counts once.
    frame
        The frame around the mean of the rows.
    depths
        How many rows, of those that come first, are the points at each depth. The order of rows is
        that of a hash, so they are a sample.
    """

    def __init__(self, rows: Rows, weights: Float64 | None, *, is_sample: bool = False) -> None:
        self.rows, counts = join_equal(rows, np.ones(len(rows)) if weights is None else weights)
        self.weights = None if (counts == 1).all() else counts
        n = len(self.rows)
        self.depths: tuple[int, ...] = (n // _START_SHARE, n) if is_sample else (n,)
        ranges = Ranges.of(self.rows, self.weights, np.arange(len(self.rows)))[0]
        weighted = self.weights is not None
        middle = ranges.low / 2 + ranges.high / 2
        rough = Frame.of(ranges, middle, self.rows.dtype, weighted=weighted)
        mean = rough.only(self.rows, self.weights).exact_means()[0]
        mean = np.clip(mean, ranges.low, ranges.high)
        self.frame = Frame.of(ranges, mean, self.rows.dtype, weighted=weighted)

    @property
    def n_points(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    @cached_property
    def mean_variance(self) -> float:
        """The variance of the features, averaged over features; weights count as copies."""
        mean = self.frame.only(self.rows, self.weights).exact_means()
        totals = self.assign(mean, self.n_points)
        return float(totals.inertia / (totals.weights[0] * self.rows.shape[1]))

    def n_points_at(self, depth: int) -> int:
        """Count the points at `depth`."""
        return depth

    def spread_within(self, depth: int) -> float:  # noqa: ARG002 - true of any depth
        """Return 0: every point is a row."""
        return 0.0

    def points(self, depth: int) -> tuple[Float64, Float64]:
        """Return the rows at `depth` and their weights as float64."""
        weights = np.ones(depth) if self.weights is None else self.weights[:depth]
        return self.rows[:depth].astype(np.float64), weights

    def assign(self, centers: Float64, depth: int) -> RowTotals:
        """Add each row at `depth` to its nearest centre."""
        prepared = self.frame.centers(centers)

        def part(rows: slice) -> RowTotals:
            totals = self.frame.totals(len(centers))
            weights = None if self.weights is None else self.weights[rows]
            prepared.add(self.rows[rows], weights, totals)
            return totals

        n_parts = _PARTS if depth * len(centers) > _SMALL else 1
        cuts = np.linspace(0, depth, n_parts + 1, dtype=int).tolist()
        parts = _passes.in_threads(part, [slice(a, b) for a, b in itertools.pairwise(cuts)])
        totals = parts[0]
        for other in parts[1:]:
            totals.merge(other)
        return totals

    def inertia(self, centers: Float64, totals: RowTotals, depth: int) -> float:  # noqa: ARG002 - the totals know it
        """Return the weighted sum of squared distances behind `totals`."""
        return totals.inertia

    def farthest(self, centers: Float64, n: int, depth: int) -> Iterator[tuple[int, RowTotals]]:
        """Yield up to `n` rows farthest from their nearest centre, each with that centre.

        Rows at distance zero are left out; ties are taken in the order of the rows.
        """
        rows, weights = self.rows[:depth], self.weights
        prepared = self.frame.centers(centers)
        labels = prepared.assign(rows)
        distances = prepared.squared_distances(rows, labels)
        yield from farthest_of(self.frame, rows, weights, labels, distances, np.arange(depth), n)


def join_equal(rows: Rows, weights: Float64) -> tuple[Rows, Float64]:
    """Join equal rows and add their weights; return both in an order that is the rows' own."""
    hashes = np.empty(len(rows), np.uint64)
    kernels.hash_rows(rows, hashes)
    order = np.lexsort((weights, hashes))  # by weight too, so that their sum is always the same
    hashes, rows, weights = hashes[order], rows[order], weights[order]
    repeated = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    repeated = repeated[(rows[repeated] == rows[repeated - 1]).all(axis=1)]
    if repeated.size:
        first = np.ones(len(rows), np.bool_)
        first[repeated] = False
        weights = np.add.reduceat(weights, np.flatnonzero(first))
        rows = rows[first]
    return rows, weights


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
