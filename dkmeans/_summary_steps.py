"""Steps of Lloyd's algorithm on rows in memory, each of which begins where the last one ended.

The sums of the clusters are kept, and only rows that have changed their cluster are moved from one
to the other: in integers, so that the sums are those of adding all anew, bit for bit.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from dkmeans._frame import NO_LABELS, Centers, Float64, Frame, Int32, Int64, Rows, RowTotals
from dkmeans._frame_moves import Known
from dkmeans._frame_ranges import Ranges, for_kernels
from dkmeans._passes_threads import in_threads
from dkmeans._summary_sorted import Sorted, boxes_of, is_worth_it

R = TypeVar("R")

_PARTS = 8  # of the work on rows in memory, for threads
_FEW_PARTS = 2
_SMALL = 1 << 17  # numbers; below this, threads cost more than they save
_FEW_MOVED = 0.04  # of the rows change their cluster in a step: then bounds begin to pay
_ROWS_PER_SUM = 16  # in a part, for each of its clusters; a part has sums of its own


def parts_of(n: int, work: int, n_clusters: int = 1) -> list[slice]:
    """Cut `n` rows, on which `work` numbers have to be looked at, into parts for threads."""
    n_parts = 1
    if work > _SMALL:
        n_parts = _PARTS if n > _PARTS * _ROWS_PER_SUM * n_clusters else _FEW_PARTS
    cuts = (n * i // n_parts for i in range(n_parts + 1))
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def in_parts(function: Callable[[slice], R], n: int, work: int) -> list[R]:
    """Map a function over parts of `n` rows, in threads."""
    return in_threads(function, parts_of(n, work))


def ranges_of(rows: Rows, weights: Float64 | None) -> Ranges:
    """Return the ranges of rows that all count."""

    def one(part: slice) -> Ranges:
        some = None if weights is None else weights[part]
        return Ranges.of(rows[part], some, partial(np.arange, part.start, part.stop))[0]

    first, *others = in_parts(one, len(rows), rows.size)
    for other in others:
        first = first.merge(other)
    return first


def total_of(frame: Frame, rows: Rows, weights: Float64 | None) -> RowTotals:
    """Return the totals of rows as one cluster, without squared distances."""

    def one(part: slice) -> RowTotals:
        return frame.only(rows[part], None if weights is None else weights[part])

    return _joined(frame, 1, in_parts(one, len(rows), rows.size))


def _joined(frame: Frame, n_clusters: int, parts: Sequence[RowTotals]) -> RowTotals:
    """Return the sum of totals, which are left as they are."""
    return frame.totals(n_clusters).merge(*parts)


@dataclass(eq=False)
class Part:
    """Rows, their labels, what is known of their distances, and the sums that they are in.

    Of sorted rows the boxes around them are known instead of distances. Of others bounds are kept
    from when few change their cluster: before, centres move too far for bounds to spare anything.
    """

    rows: Rows
    weights: Float64 | None
    known: Known
    totals: RowTotals
    boxes: Float64 | None
    is_bounded: bool = False
    n_moved: float = np.inf

    def step(self, centers: Centers, spare: list[Int32]) -> None:
        """Go on to other centres; `spare` holds room for labels that no other thread is using."""
        labels = self.known.labels
        try:
            room = spare.pop()
        except IndexError:
            room = np.empty(len(labels) + 1, np.int32)  # parts differ by one
        before = NO_LABELS
        if self.n_moved < np.inf:
            before = room[: len(labels)]
            before[:] = labels
        if self.boxes is not None:
            centers.assign_boxed(self.rows, self.boxes, labels)
        elif self.is_bounded:
            centers.assign_again(self.rows, self.known)
        else:
            few = self.n_moved < _FEW_MOVED * len(self.rows)
            self.is_bounded = few and self.known.bounds[0].size > 0
            bounds = self.known.bounds if self.is_bounded else None
            centers.assign(self.rows, labels, bounds)
        self.n_moved = self.totals.move_rows(self.rows, self.weights, before, labels)
        spare.append(room)

    def measure(self, centers: Centers) -> RowTotals:
        """Return totals of nothing but the squared distances."""
        totals = centers.frame.totals(0)
        centers.measure(self.rows, self.weights, self.known.labels, totals)
        return totals


def bytes_of(rows: Rows, weights: Float64 | None, n_clusters: int) -> int:
    """Return how much `Steps` keep of rows beside these, labels included."""
    if is_worth_it(rows, n_clusters):
        return Sorted.bytes_of(rows, weights) + Known.bytes_of(2 * len(rows), 0)
    return Known.bytes_of(len(rows), n_clusters * rows.shape[1])


class Steps:
    """Lloyd's steps over rows in memory.

    Parameters
    ----------
    frame
        The frame of the rows.
    rows, weights
        (n, d), and (n,), or None where each row counts once.
    n_clusters
        The number of centres.

    """

    def __init__(self, frame: Frame, rows: Rows, weights: Float64 | None, n_clusters: int) -> None:
        self._frame = frame
        self._n_clusters = n_clusters
        self._centers: Centers | None = None
        parts = parts_of(len(rows), len(rows) * n_clusters, n_clusters)
        self._sorted: Sorted | None = None
        products = n_clusters * rows.shape[1]
        if is_worth_it(rows, n_clusters):
            self._sorted = Sorted.of(frame, rows, weights, parts)
            rows, weights, products = self._sorted.rows, self._sorted.weights, 0
        rows = for_kernels(rows)  # once for all steps
        known = Known.nothing(len(rows), products)
        self._labels = known.labels

        def part_of(part: slice) -> Part:
            return Part(
                rows[part],
                None if weights is None else weights[part],
                known.of(part),
                frame.totals(n_clusters),
                None if self._sorted is None else boxes_of(frame, rows[part]),
            )

        self._parts = in_threads(part_of, parts)
        self._spare: list[Int32] = []  # for labels of one part, so that it is not fresh each time

    @property
    def labels(self) -> Int32:
        """The labels after the last step, (n,) int32."""
        return self._labels if self._sorted is None else self._sorted.unsorted(self._labels)

    def assign(self, centers: Float64) -> RowTotals:
        """Add each row to its nearest centre; the squared distances are left to `inertia`.

        What is returned may change with the next step.
        """
        prepared = self._frame.centers(centers)
        if self._centers is not None and any(part.is_bounded for part in self._parts):
            prepared = prepared.after(self._centers, len(self._labels))
        self._centers = prepared
        in_threads(lambda part: part.step(prepared, self._spare), self._parts)
        if len(self._parts) == 1:
            return self._parts[0].totals
        return _joined(self._frame, self._n_clusters, [part.totals for part in self._parts])

    def inertia(self) -> float:
        """Return the weighted sum of squared distances from the last centres."""
        return replace(self._frame.totals(0), limbs=self.limbs()).inertia

    def limbs(self) -> Int64:
        """Return that sum as it is kept in totals."""
        centers = self._centers
        assert centers is not None  # noqa: S101 - there was a step
        found = in_threads(lambda part: part.measure(centers), self._parts)
        return _joined(self._frame, 0, found).limbs


def totals_of(centers: Centers, rows: Rows, weights: Float64 | None) -> RowTotals:
    """Return the totals of rows, each added to its nearest centre."""
    n_clusters = len(centers.offsets)

    def one(part: slice) -> RowTotals:
        totals = centers.frame.totals(n_clusters)
        centers.add(rows[part], None if weights is None else weights[part], totals)
        return totals

    parts = parts_of(len(rows), len(rows) * n_clusters, n_clusters)
    first, *others = in_threads(one, parts)
    return first.merge(*others)


def labels_and_inertia(
    centers: Centers, rows: Rows, weights: Float64 | None
) -> tuple[Int32, float]:
    """Return the label of each row, and the weighted sum of squared distances."""
    labels = np.empty(len(rows), np.int32)

    def one(part: slice) -> RowTotals:
        totals = centers.frame.totals(0)
        centers.assign(rows[part], labels[part])
        some = None if weights is None else weights[part]
        centers.measure(rows[part], some, labels[part], totals)
        return totals

    found = in_parts(one, len(rows), len(rows) * centers.offsets.size)
    return labels, _joined(centers.frame, 0, found).inertia


def mean_variance(frame: Frame, rows: Rows, weights: Float64 | None) -> float:
    """Return the variance of the features, averaged over features; weights count as copies."""
    total = total_of(frame, rows, weights)
    centers = frame.centers(total.exact_means())

    def one(part: slice) -> RowTotals:
        totals = frame.totals(0)
        labels = np.zeros(part.stop - part.start, np.int32)
        centers.measure(rows[part], None if weights is None else weights[part], labels, totals)
        return totals

    found = _joined(frame, 0, in_parts(one, len(rows), rows.size))
    return float(found.inertia / (total.weights[0] * rows.shape[1]))
