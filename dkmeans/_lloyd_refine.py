"""Refinement: Lloyd's algorithm on all rows of a table, one pass for each iteration.

Each pass assigns every row to the centres as they are, and gives their inertia and the next
centres; the last pass only assigns, so that all results agree.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _passes
from dkmeans._frame import Centers, Float64, Frame, Int32, Int64, Rows, RowTotals
from dkmeans._frame_ranges import Ranges
from dkmeans._lloyd import Solution, StopReason, Watch, accelerated, movement
from dkmeans._passes import Partition, Passes, Ticker
from dkmeans._seeding import Seeding
from dkmeans._summary_rows import farthest_of
from dkmeans._summary_samples import highest
from dkmeans._summary_walk import Walk
from dkmeans._tables import Table
from dkmeans._tables_blocks import blocks

_PASS = 5  # a pass over all rows has to win so many times what `tol` asks of a step
MOMENTUM_OF_PASSES = 0.5  # more wins more, and takes more passes
_LOG = logging.getLogger("dkmeans")


@dataclass(frozen=True, eq=False)
class Standing:
    """Where refinement stands between two passes: all that it goes on from.

    What else it holds, as bounds of distances, spares work and changes no bit.

    Attributes
    ----------
    frame, ranges
        Of all rows.
    mean_variance, momentum
        As the sample told them, see `refine`; the first is 0 where `tol` is.
    centers
        (k, d) float64: for the next pass.
    means
        (k, d) float64: of the clusters of the last pass; the centres, before the first.
    inertia
        Of the last pass; infinite before the first, and where passes are not measured.
    n_iter
        Passes of refinement so far.
    n_passes
        All passes so far, those that found the first centres and empty clusters included.
    """

    frame: Frame
    ranges: Ranges
    mean_variance: float
    momentum: float
    centers: Float64
    means: Float64
    inertia: float
    n_iter: int
    n_passes: int


# Takes where refinement stands, before each pass.
Keep = Callable[[Standing], None]


@dataclass(frozen=True, eq=False)
class Options:
    """How to fit.

    Attributes
    ----------
    n_clusters
        The number of centres.
    init
        "k-means++", "k-means||", "random", centres (n_clusters, d), or a function that chooses.
    n_init
        How many starts on the summary to choose the best of; by default 1, or as many as pay
        where the summary is a sample.
    max_iter, tol
        As in scikit-learn; refinement also ends when a pass lowers the inertia by less than
        5 `tol` times itself.
    seed
        Of all draws; not negative.
    check
        Called with the ranges of the data before anything is made of them; raises if they will
        not do.
    watch
        Called after each iteration on all rows, or on the summary if that is all; see `solve`.
    keep
        Called with where refinement stands, before each of its passes, but for one gone on from.
    standing
        Where refinement stood when `keep` was last called, to go on from.
    """

    n_clusters: int
    init: str | Float64 | Seeding
    n_init: int | None
    max_iter: int
    tol: float
    seed: int
    check: Callable[[Ranges], None]
    watch: Watch | None = None
    keep: Keep | None = None
    standing: Standing | None = None


def refine(passes: Passes, data: Table, standing: Standing, options: Options) -> Solution:
    """Iterate over all rows, one pass each, until the centres or the inertia hardly change.

    It begins where it stands: at the first centres, or where an earlier one was interrupted. For
    the momentum see `_lloyd.accelerated`; `tol` is a share of the mean variance.

    Memory: k x (d + 1) sums of three integers for each worker.
    """
    reason: StopReason = "max_iter"
    frame, centers, means = standing.frame, standing.centers, standing.means
    watch = options.watch or _nobody
    walk = Walk(passes, data, frame, len(centers))
    measured = options.tol > 0  # each pass, else the last one
    for n_iter in range(standing.n_iter, options.max_iter + 1):
        totals = walk.assign(centers, "refine", measured=measured)
        inertia = totals.inertia if measured else np.inf
        if measured:
            _LOG.info("%s", _told(n_iter + 1, standing.inertia, inertia))
        if n_iter == options.max_iter:
            break
        last, means = means, _means(passes, data, frame, centers, totals)
        ending = _ending(movement(centers, means), inertia, standing, options)
        if ending is not None:
            reason = ending
            n_iter += 1  # noqa: PLW2901 - scikit-learn counts the step that is not worth taking
            watch(n_iter, centers)
            break
        moved = accelerated(centers, means, last, totals.weights, standing.momentum)
        centers = frame.rounded(moved)
        standing = replace(
            standing, centers=centers, means=means, inertia=inertia, n_iter=n_iter + 1,
            n_passes=passes.n_passes,
        )  # fmt: skip
        if options.keep is not None:
            options.keep(standing)
        if watch(n_iter + 1, centers):
            reason = "stopped"
            totals = walk.assign(centers, "refine", measured=measured)
            n_iter += 1  # noqa: PLW2901 - the last
            break
    if not measured:
        totals = walk.measure(totals)
    return Solution(centers, totals.weights, totals.inertia, n_iter, reason, walk.labels)


def _ending(
    shift: float, inertia: float, standing: Standing, options: Options
) -> StopReason | None:
    """Return why a step that moves the centres by `shift` is not worth taking; None to go on.

    `inertia` is that of the centres; infinite, as the last one, if it is not measured.
    """
    if shift == 0:
        return "converged"
    last = standing.inertia
    if shift <= options.tol * standing.mean_variance:
        return "tol"
    return "tol" if last - inertia < _PASS * options.tol * last < np.inf else None


def _told(n: int, before: float, inertia: float) -> str:
    gain = f", {1 - inertia / before:.3%} less" if 0 < before < np.inf else ""
    return f"refine, pass {n}: inertia {inertia:.6g}{gain}"


def _nobody(n_iter: int, centers: Float64) -> bool:  # noqa: ARG001 - a watch
    return False


def _means(
    passes: Passes, data: Table, frame: Frame, centers: Float64, totals: RowTotals
) -> Float64:
    """Return the next centres; empty clusters take the farthest rows, found by a pass more."""
    empty = np.flatnonzero(totals.weights == 0)
    if not empty.size:
        return totals.means(centers)
    totals = totals.copy()
    work = _Farthest(frame.centers(centers), empty.size)
    far = passes.run("find far rows", work, _passes.partition(data.pieces), _Far.merge)
    for cluster, (owner, point) in zip(empty.tolist(), far.points(frame), strict=False):
        totals.move(point, owner, cluster)
    return totals.means(centers)


@dataclass(frozen=True, eq=False)
class _Far:
    """The rows farthest from their centres, of those seen so far; columns of one table."""

    limit: int
    rows: Rows
    weights: Float64
    labels: Int32
    distances: Float64
    numbers: Int64

    @classmethod
    def of(cls, limit: int, *columns: npt.NDArray[Any]) -> "_Far":
        """Keep the farthest of some rows."""
        chosen = highest(columns[3], columns[4], limit)
        return cls(limit, *(column[chosen] for column in columns))

    def merge(self, other: "_Far") -> "_Far":
        pairs = zip(self.columns(), other.columns(), strict=True)
        return _Far.of(self.limit, *(np.concatenate(pair) for pair in pairs))

    def points(self, frame: Frame) -> Iterator[tuple[int, RowTotals]]:
        weights = self.weights if frame.is_weighted else None
        return farthest_of(
            frame, self.rows, weights, self.labels, self.distances, self.numbers, self.limit
        )

    def columns(self) -> tuple[npt.NDArray[Any], ...]:
        return self.rows, self.weights, self.labels, self.distances, self.numbers


@dataclass(frozen=True)
class _Farthest:
    """Finds the farthest rows of a partition, of those that count."""

    centers: Centers
    limit: int

    def __call__(self, partition: Partition, tick: Ticker) -> _Far:
        found: _Far | None = None
        for block in blocks(partition, tick):
            labels = self.centers.assign(block.values)
            distances = self.centers.squared_distances(block.values, labels)
            weights = np.ones(len(labels)) if block.weights is None else block.weights
            chosen = np.flatnonzero((labels >= 0) & (weights > 0))
            columns = (block.values, weights, labels, distances, block.numbers())
            far = _Far.of(self.limit, *(column[chosen] for column in columns))
            found = far if found is None else found.merge(far)
        assert found is not None  # noqa: S101 - a partition has a block
        return found
