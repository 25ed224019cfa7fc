"""The summary of rows: all of them where they are few, else a weighted sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dkmeans import _passes
from dkmeans import _summary_steps as steps
from dkmeans._frame import Centers, Float64, Frame, Int32, Int64, Rows, RowTotals
from dkmeans._frame_ranges import Ranges
from dkmeans._kernels.hashes import any_equal
from dkmeans._passes import Partition, Passes, Ticker
from dkmeans._summary_equal import hashes_of, join_equal
from dkmeans._summary_samples import highest
from dkmeans._summary_steps import Steps
from dkmeans._tables import Table
from dkmeans._tables_blocks import blocks

MIN_ROWS = 1 << 17
ROWS_PER_CLUSTER = 5000
MAX_BYTES = 1 << 29
MIDDLE = 1 << 12  # rows, to tell where the middle of all is
START_SHARE = 8  # restarts run on one row in so many of a sample


def size(n_clusters: int, n_features: int, itemsize: int) -> int:
    """Return how many rows a summary holds at the most; of more rows it has a sample of as many.

    That is 5,000 for each cluster: from such a sample Lloyd's algorithm ends 0.1 % above where it
    ends from all rows, and two or three passes that refine it win that. From 2,000 for each it ends
    1 % above, and it takes ten passes and more.
    """
    room = max(MAX_BYTES // (n_features * itemsize), 20 * n_clusters)
    return min(max(MIN_ROWS, ROWS_PER_CLUSTER * n_clusters), room)


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
        self.depths: tuple[int, ...] = (n // START_SHARE, n) if in_part else (n,)
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
