"""Lloyd's algorithm on data that are read in passes: summarise, solve, refine.

The centres found on the summary are refined on all rows; where the summary is all rows, nothing is
left to refine.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Self

import numpy as np

from dkmeans import _passes, _seeding, _seeding_parallel, _summary_looks, _summary_rows
from dkmeans._frame import Centers, Float64, Frame, Int32, Int64, Rows
from dkmeans._frame_ranges import Ranges
from dkmeans._kernels import sums as sum_kernels
from dkmeans._lloyd import Solution
from dkmeans._lloyd_refine import MOMENTUM_OF_PASSES, Options, Standing, refine
from dkmeans._lloyd_starts import solve
from dkmeans._passes import Partition, Passes, Ticker
from dkmeans._seeding import Seeding
from dkmeans._summary import ColourCounts, ColourSummary
from dkmeans._summary_looks import Look
from dkmeans._summary_rows import RowSummary
from dkmeans._tables import Block, Table, table
from dkmeans._tables_blocks import blocks

IN_PART = 2400  # rows a cluster; of so many, restarts run on a part
COUNTED_PER_WORKER = 2  # partitions of colours; each has a table of counts
_COLOUR_BANDS = (1, 3)
_AT_A_TIME = 1 << 16  # colours


@dataclass(frozen=True, eq=False)
class Fit:
    """Centres fitted to a table, the frame in which they are nearest, and the ranges seen."""

    frame: Frame
    solution: Solution
    ranges: Ranges


def fit(passes: Passes, data: Table, options: Options) -> Fit:
    """Fit centres to the rows of a table.

    Data of up to `_summary_rows.size` rows are read once and solved in memory. Of larger data a
    sample of so many rows is solved, and its centres are refined in passes. Integers of 8 and 16
    bits without weights are read once too, however many, if few of them are distinct: then these
    are counted. 8-bit rows of one or three features always are.
    """
    if options.standing is not None:
        return _refined(passes, data, options.standing, options)
    limit = _summary_rows.size(options.n_clusters, data.n_features, data.dtype.itemsize)
    are_colours = data.n_rows > limit and is_colour(data)
    if are_colours:
        fitted = _fit_colours(passes, data, options)
        if fitted is not None:
            return fitted
    # Where centres are given, a sample serves only to tell where the middle is; of colours fewer
    # than clusters, all are counted now, and it serves for nothing.
    is_given = _given(options) is not None
    n_sampled = min(limit, _summary_rows.MIDDLE) if is_given or are_colours else None
    look = _summary_looks.look(passes, data, limit, options.seed, n_sampled)
    options.check(look.ranges)
    if look.distinct is not None:
        return _fit_distinct(look, options)
    sample = look.sample.finish()
    is_sample = look.ranges.n_used > len(sample.rows)
    # Rows drawn of many that all weigh the same stand for as many each: they count once.
    weights = sample.weights if data.is_weighted else None
    ranges = None if is_sample else look.ranges
    in_part = is_sample or len(sample.rows) >= IN_PART * options.n_clusters
    in_order = is_sample and not is_given
    summary = RowSummary(sample.rows, weights, in_part=in_part, in_order=in_order, ranges=ranges)
    if not is_sample:
        solution = _solve(summary, options, n_init=None if in_part else 1)
        if not summary.is_as_given:
            # Of joined rows, the distances times weights are rounded otherwise.
            labels, inertia = summary.look_again(solution.centers, sample.rows, weights)
            solution = replace(solution, labels=labels, inertia=inertia)
        if len(sample.rows) < data.n_rows:
            solution = replace(solution, labels=None)  # some rows have none
        return Fit(summary.frame, solution, look.ranges)
    frame = Frame.of(
        look.ranges, summary.frame.shift, summary.rows.dtype, weighted=data.is_weighted
    )
    start = frame.rounded(_start(passes, data, look, summary, frame, options))
    momentum = 0.0 if is_given else MOMENTUM_OF_PASSES
    variance = summary.mean_variance if options.tol else 0.0
    standing = Standing(
        frame, look.ranges, variance, momentum, start, start, np.inf, 0, passes.n_passes
    )
    if options.keep is not None:
        options.keep(standing)
    return _refined(passes, data, standing, options)


def _start(  # noqa: PLR0917 - what is known by now, and the options
    passes: Passes,
    data: Table,
    look: Look,
    summary: RowSummary,
    frame: Frame,
    options: Options,
) -> Float64:
    """Return the centres that refinement begins with: given ones, or those of the sample."""
    start = _given(options)
    if start is not None:
        return start
    quiet = replace(options, watch=None)
    if options.init != "k-means||":
        return _solve(summary, quiet, n_init=None).centers
    first = look.sample.rows[np.argmax(look.sample.priorities)]
    found = _seeding_parallel.candidates(
        passes, data, frame, options.n_clusters, first[None], options.seed
    )
    return _solve(RowSummary(*found), replace(quiet, init="k-means++"), n_init=None).centers


def _refined(passes: Passes, data: Table, standing: Standing, options: Options) -> Fit:
    """Refine centres from where they stand."""
    passes.n_passes = standing.n_passes
    solution = refine(passes, data, standing, options)
    return Fit(standing.frame, solution, standing.ranges)


def _given(options: Options) -> Float64 | None:
    return options.init if isinstance(options.init, np.ndarray) else None


def _solve(summary: Any, options: Options, n_init: int | None = 1) -> Solution:
    """Solve a summary from the starts that were asked for, or from `n_init`."""
    given = _given(options)
    seeding = SEEDINGS[options.init] if isinstance(options.init, str) else options.init
    return solve(
        summary,
        options.n_clusters,
        init=given,
        seeding=_seeding.kmeans_plusplus if given is not None else seeding,  # type: ignore[arg-type]  # no array is left
        n_init=options.n_init or n_init,
        max_iter=options.max_iter,
        tol=options.tol,
        seed=options.seed,
        watch=options.watch,
        halving=True,
        swaps=True,
    )


def parallel_in_memory(
    points: Float64, weights: Float64, n_clusters: int, rng: np.random.Generator
) -> Float64:
    """Choose centres among points by k-means||: a seeding as `_seeding.kmeans_plusplus` is."""
    first = _seeding.random(points, weights, 1, rng).astype(points.dtype)
    seed = int(rng.integers(2**31))
    frame = RowSummary(points, weights).frame
    data = table(points, weights if frame.is_weighted else None)
    found = _seeding_parallel.candidates(Passes(), data, frame, n_clusters, first, seed)
    return solve(RowSummary(*found), n_clusters, seed=seed).centers


SEEDINGS: dict[str, Seeding] = {
    "k-means++": _seeding.kmeans_plusplus,
    "k-means||": parallel_in_memory,
    "random": _seeding.random,
}


# Colours


def is_colour(data: Table) -> bool:
    """Whether rows are 8-bit colours, which can be counted."""
    return data.dtype == np.uint8 and data.n_features in _COLOUR_BANDS and not data.is_weighted


@dataclass(frozen=True)
class _Count:
    """Counts the colours of a partition."""

    bands: int

    def __call__(self, partition: Partition, tick: Ticker) -> ColourCounts:
        counts = ColourCounts(self.bands)
        for block in blocks(partition, tick):
            counts.add(block.values[:, None])
        return counts


def _fit_colours(passes: Passes, data: Table, options: Options) -> Fit | None:
    """Fit to counted colours; None if there are too few of them, or they cannot be a start."""
    partitions = _passes.partition(data.pieces, per_worker=COUNTED_PER_WORKER)
    counts = passes.run("count", _Count(data.n_features), partitions, ColourCounts.merge)
    summary = ColourSummary(counts)
    if summary.n_points < options.n_clusters:
        return None
    colours = summary.colours()
    low, high = colours.min(axis=0).astype(np.float64), colours.max(axis=0).astype(np.float64)
    ranges = Ranges(low, high, data.n_rows, data.n_rows, 1.0)
    options.check(ranges)
    mean = np.array([total / summary.weight for total in summary.total])
    frame = Frame.of(ranges, mean, np.dtype(np.uint8), weighted=False)
    if isinstance(options.init, str) and options.init == "k-means||":
        options = replace(options, init="k-means++")  # on all colours: as good
    solution = _solve(summary, options)
    return Fit(frame, _as_rows(colours, summary.counts, frame, solution), ranges)


def _fit_distinct(look: Look, options: Options) -> Fit:
    """Fit to the distinct rows and their counts, which are all there is to know."""
    assert look.distinct is not None  # noqa: S101 - the caller looked
    rows, counts = look.distinct
    summary = RowSummary(rows, counts)
    solution = _solve(summary, options)
    frame = Frame.of(look.ranges, summary.frame.shift, rows.dtype, weighted=False)
    return Fit(frame, _as_rows(rows, counts.astype(np.int64), frame, solution), look.ranges)


def _as_rows(rows: Rows, counts: Int64, frame: Frame, solution: Solution) -> Solution:
    """Return a solution with the weights and inertia that a pass over all rows would find.

    `rows` are the distinct ones, and `counts` how often they occur. Labels are left to such a pass.
    """
    centers = frame.centers(solution.centers)
    totals = frame.totals(len(solution.centers))
    for start in range(0, len(rows), _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        labels = centers.assign(rows[part])
        np.add.at(totals.counts, labels, counts[part])
        totals.add_repeated(centers.squared_distances(rows[part], labels), counts[part])
    return replace(solution, weights=totals.counts, inertia=totals.inertia, labels=None)


# Scores


@dataclass(frozen=True, eq=False)
class Measured:
    """What is known of rows that were assigned: their ranges and squared distances."""

    ranges: Ranges
    limbs: Int64

    @classmethod
    def of(cls, block: Block, centers: Centers) -> tuple[Self, Int32]:
        """Assign the rows of a block; return what is known of them, and their labels."""
        ranges, _ = Ranges.of(block.values, block.weights, block.numbers)
        labels = centers.assign(block.values)
        totals = centers.frame.totals(0)
        centers.measure(block.values, block.weights, labels, totals)
        return cls(ranges, totals.limbs), labels

    def merge(self, other: "Measured") -> "Measured":
        """Return what is known of both."""
        limbs = self.limbs + other.limbs
        sum_kernels.carry_limbs(limbs)
        return Measured(self.ranges.merge(other.ranges), limbs)

    def inertia(self, frame: Frame) -> float:
        """Return the sum of squared distances, times weights."""
        return replace(frame.totals(0), limbs=self.limbs).inertia


def inertia(
    passes: Passes, data: Table, centers: Centers, check: Callable[[Ranges], None]
) -> float:
    """Return the weighted sum of squared distances of all rows to their nearest centre.

    `check` is called with the ranges of the rows; it raises if they will not do.
    """
    partitions = _passes.partition(data.pieces)
    found = passes.run("measure", _Measure(centers), partitions, Measured.merge)
    check(found.ranges)
    return found.inertia(centers.frame)


@dataclass(frozen=True)
class _Measure:
    """Measures the rows of a partition."""

    centers: Centers

    def __call__(self, partition: Partition, tick: Ticker) -> Measured:
        found = (Measured.of(block, self.centers)[0] for block in blocks(partition, tick))
        return reduce(Measured.merge, found)
