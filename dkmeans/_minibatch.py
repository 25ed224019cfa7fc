"""Mini-batch k-means: draw a few rows, assign them, move the centres by the rate they have earned.

After D. Sculley, "Web-scale k-means clustering", WWW 2010, algorithm 1, with scikit-learn's
reassignment of centres that few rows reach.

Rows of a table are drawn from its summary: rows from all over the data, kept by one pass. So each
batch is unbiased even where the data are sorted, and a step costs nothing that grows with the data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from dkmeans import _summary_looks, _summary_rows
from dkmeans._frame import Float64, Frame, Int64, Rows, RowTotals
from dkmeans._frame_ranges import Ranges
from dkmeans._lloyd import Solution, StopReason, Watch, movement
from dkmeans._lloyd_passes import Fit
from dkmeans._lloyd_starts import solve
from dkmeans._passes import Passes
from dkmeans._seeding import Seeding
from dkmeans._summary_rows import RowSummary
from dkmeans._summary_steps import totals_of
from dkmeans._tables import Table

_REASSIGN_AFTER = 10  # rows for each cluster
_ENOUGH = 20  # rows of a batch for each cluster, where fewer are distinct
_CHECK_EVERY = 10  # steps between two looks at the held-out rows
_GAIN = 1e-4  # the share of their inertia that a gain must have
_HELD_OUT = 16  # batches, or 1 / 16 of the summary if that is less


@dataclass(eq=False)
class State:
    """Where mini-batch k-means stands after some steps.

    Attributes
    ----------
    centers
        (k, d) float64.
    counts
        (k,) float64: the weight of the rows that each centre has taken up, which is what its rate
        follows from.
    seed
        Of all draws, with the number of the step; so that a state can be written down.
    reassignment_ratio
        Centres with less than this share of the largest count are reassigned.
    n_since
        Rows since the last reassignment.
    n_steps
        Steps so far.
    """

    centers: Float64
    counts: Float64
    seed: int
    reassignment_ratio: float
    n_since: int = 0
    n_steps: int = 0

    def step(self, rows: Rows, weights: Float64 | None, batch_size: int) -> float:
        """Move the centres by one batch, all rows of which count; return its inertia before."""
        self.n_since += batch_size
        due = (self.counts == 0).any() or self.n_since >= _REASSIGN_AFTER * len(self.centers)
        totals = _assigned(rows, weights, self.centers)
        gained = totals.weights.astype(np.float64)
        self.counts = self.counts + gained
        moved = gained > 0
        rate = (gained[moved] / self.counts[moved])[:, None]
        means = totals.exact_means()[moved]
        centers = self.centers.copy()
        centers[moved] += (means - centers[moved]) * rate
        if due:
            self._reassign(rows, centers)
        self.centers = totals.frame.rounded(centers)
        self.n_steps += 1
        return totals.inertia

    def _reassign(self, rows: Rows, centers: Float64) -> None:
        """Give centres that few rows reach the place of rows of the batch, as scikit-learn does."""
        self.n_since = 0
        few = self.counts < self.reassignment_ratio * self.counts.max()
        few[np.argmax(self.counts)] = False  # a ratio above 1 would leave none
        if few.sum() > len(rows) // 2:
            few[np.argsort(self.counts, kind="stable")[len(rows) // 2 :]] = False
        if few.any():
            rng = np.random.default_rng([self.seed, self.n_steps])
            centers[few] = rows[rng.choice(len(rows), int(few.sum()), replace=False)]
            self.counts[few] = self.counts[~few].min()


def _assigned(rows: Rows, weights: Float64 | None, centers: Float64) -> RowTotals:
    """Assign rows, all of which count, to centres; return their totals, in a frame of their own."""
    ranges, _ = Ranges.of(rows, weights, partial(np.arange, len(rows)))
    middle = ranges.low / 2 + ranges.high / 2
    frame = Frame.of(ranges, middle, rows.dtype, weighted=weights is not None)
    return totals_of(frame.centers(centers), rows, weights)


@dataclass(frozen=True, eq=False)
class Options:
    """How to fit; the names are those of scikit-learn's `MiniBatchKMeans`.

    `init` is a seeding or centres, (n_clusters, d); `check` and `watch` as for `_lloyd_passes`.
    """

    n_clusters: int
    init: Seeding | Float64
    n_init: int | None
    init_size: int
    batch_size: int
    max_iter: int
    tol: float
    max_no_improvement: int | None
    reassignment_ratio: float
    rng: np.random.RandomState
    check: Callable[[Ranges], None]
    watch: Watch | None = None


@dataclass(frozen=True, eq=False)
class Fitted:
    """Where a fit ended.

    Attributes
    ----------
    fit
        Centres and frame; the weights are the counts of the last state, and the inertia is what
        the smoothed one of batches, or that of held-out rows, makes of all.
    state
        The last state.
    n_steps
        The batches drawn.
    """

    fit: Fit
    state: State
    n_steps: int


def fit(passes: Passes, data: Table, options: Options) -> Fitted:
    """Read a table once, and run mini-batch k-means on its summary.

    Memory: the summary, see `_summary_rows.size`.
    """
    limit = _summary_rows.size(options.n_clusters, data.n_features, data.dtype.itemsize)
    seed = int(options.rng.randint(np.iinfo(np.int32).max))
    look = _summary_looks.look(passes, data, limit, seed)
    options.check(look.ranges)
    sample = look.sample.finish()
    is_sample = look.ranges.n_used > limit
    weights = sample.weights if data.is_weighted else None
    summary = RowSummary(sample.rows, weights, in_part=is_sample)
    pool, held_out = Pool(summary.rows, summary.weights, options.rng), None
    n_rows = len(summary.rows)
    n_held_out = min(_HELD_OUT * options.batch_size, n_rows // 16)
    if is_sample and n_held_out:
        n_rows = look.ranges.n_used
        pool, held_out = pool.split(n_held_out, options.batch_size)
        options = replace(options, init=_start_on_part(summary, options, seed), n_init=1)
    # Where few rows are distinct, enough of them are drawn to reach every centre.
    enough = max(len(pool.rows), _ENOUGH * options.n_clusters)
    batch_size = min(options.batch_size, enough)
    stop = _Stop(options, held_out, batch_size, n_rows, options.tol * summary.mean_variance)
    state, n_steps, mean, reason = _run(pool, stop, n_rows, batch_size, options)
    weight = float(sample.weights.sum()) if data.is_weighted else look.ranges.n_used
    n_iter = math.ceil(n_steps * batch_size / n_rows)
    solution = Solution(state.centers, state.counts, mean * weight, n_iter, reason)
    return Fitted(Fit(summary.frame, solution, look.ranges), state, n_steps)


def _start_on_part(summary: RowSummary, options: Options, seed: int) -> Float64:
    """Return the best of some starts on a part of a sample: that of `KMeans` with this seed.

    Batches improve a start, but seldom leave the valley that it lies in.
    """
    if isinstance(options.init, np.ndarray):
        return options.init
    n = max(options.init_size, summary.depths[0])
    weights = None if summary.weights is None else summary.weights[:n]
    solution = solve(
        RowSummary(summary.rows[:n], weights),
        options.n_clusters,
        seeding=options.init,
        n_init=options.n_init,
        seed=seed,
        swaps=True,
    )
    return solution.centers


def _run(
    pool: "Pool", stop: "_Stop", n_rows: int, batch_size: int, options: Options
) -> tuple[State, int, float, StopReason]:
    """Draw batches until it is enough; return the state, steps, inertia per weight and reason."""
    state = start(pool, options)
    reason: StopReason = "max_iter"
    n_steps, inertia = 0, 0.0
    while n_steps < max(1, options.max_iter * n_rows // batch_size):
        before = state.centers
        inertia = state.step(pool.draw(batch_size), None, batch_size)
        n_steps += 1
        wants_stop = options.watch is not None and options.watch(n_steps, state.centers)
        enough = stop(n_steps, state.centers, movement(before, state.centers), inertia)
        if enough is not None:
            reason = enough
            break
        if wants_stop:
            reason = "stopped"
            break
    mean = inertia / batch_size if stop.smoothed is None else stop.smoothed
    return state, n_steps, mean, reason


def gather(data: Table) -> tuple[Rows, Float64 | None, Ranges]:
    """Return all rows of a table that count, in their order, with their weights and ranges.

    Memory: the table.
    """
    look = _summary_looks.look(Passes(), data, data.n_rows, 0)
    sample = look.sample.finish()
    return sample.rows, sample.weights if data.is_weighted else None, look.ranges


def start(rows: "Pool", options: Options) -> State:
    """Choose the start with the least inertia over rows drawn for that; each from other rows."""
    size = min(options.init_size, len(rows.rows))
    judges = rows.draw(size)
    best, least = None, np.inf
    n_init = options.n_init or 1
    for _ in range(n_init):
        if isinstance(options.init, np.ndarray):
            centers = options.init
        else:
            chosen: slice | Int64 = slice(None)
            if size < len(rows.rows):
                chosen = options.rng.randint(0, len(rows.rows), size)
            points = rows.rows[chosen].astype(np.float64)
            weights = np.ones(len(points)) if rows.weights is None else rows.weights[chosen]
            rng = np.random.default_rng(options.rng.randint(np.iinfo(np.int32).max))
            centers = options.init(points, weights, options.n_clusters, rng)
        inertia = _assigned(judges, None, centers).inertia if n_init > 1 else 0.0
        if best is None or inertia < least:
            best, least = centers, inertia
    assert best is not None  # noqa: S101 - there is one start at least
    counts = np.zeros(options.n_clusters)
    seed = int(options.rng.randint(np.iinfo(np.int32).max))
    return State(best.astype(np.float64), counts, seed, options.reassignment_ratio)


@dataclass(frozen=True, eq=False)
class Pool:
    """Rows to draw batches from, with chances in proportion to their weights."""

    rows: Rows
    weights: Float64 | None
    rng: np.random.RandomState

    @cached_property
    def _cumulative(self) -> Float64:
        assert self.weights is not None  # noqa: S101 - else rows are drawn by number
        return np.cumsum(self.weights)

    def draw(self, n: int) -> Rows:
        """Draw `n` rows, with replacement."""
        if self.weights is None:
            return self.rows[self.rng.randint(0, len(self.rows), n)]
        places = self.rng.uniform(0, self._cumulative[-1], n)
        drawn = np.searchsorted(self._cumulative, places, side="right")
        return self.rows[np.minimum(drawn, len(self.rows) - 1)]

    def split(self, n: int, batch_size: int) -> tuple["Pool", "Pool"]:
        """Take `n` rows away; return those that stay and those that were taken.

        Rows so heavy that they are in every batch, or nearly, stay in any case.
        """
        order = self.rng.permutation(len(self.rows))
        rest, taken = order[n:], order[:n]
        if self.weights is not None:
            is_heavy = self.weights[taken] * batch_size > self._cumulative[-1]
            rest = np.append(rest, taken[is_heavy])
        parts = []
        for chosen in (rest, taken):
            weights = None if self.weights is None else self.weights[chosen]
            parts.append(Pool(self.rows[chosen], weights, self.rng))
        return parts[0], parts[1]


class _Stop:
    """Decides when no more batches are drawn.

    Where the summary is all rows, by an average of the inertia of batches that forgets, as in
    scikit-learn; else by the inertia of rows that no batch holds, looked up now and then.
    """

    def __init__(
        self, options: Options, held_out: Pool | None, batch_size: int, n_rows: int, tol: float
    ) -> None:
        self.smoothed: float | None = None
        self._options = options
        self._held_out = held_out
        self._batch_size = batch_size
        self._memory = min(1.0, 2.0 * batch_size / (n_rows + 1))
        self._tol = tol
        self._least = np.inf
        self._n_worse = 0

    def __call__(
        self, step: int, centers: Float64, shift: float, inertia: float
    ) -> StopReason | None:
        """Return why to stop after a step that moved the centres by `shift`, squared; or None."""
        if self._held_out is None:
            if step == 1:
                return None  # the inertia is that of the start
            now = inertia / self._batch_size
            if self.smoothed is not None:
                now = self.smoothed * (1 - self._memory) + now * self._memory
        elif step % _CHECK_EVERY:
            return None
        else:
            totals = _assigned(self._held_out.rows, self._held_out.weights, centers)
            now = totals.inertia / float(totals.weights.sum())
        self.smoothed = now
        if self._tol > 0 and shift <= self._tol:
            return "tol"
        # Held-out rows show every small gain, so that only gains that matter count.
        least = self._least if self._held_out is None else self._least * (1 - _GAIN)
        self._n_worse = 0 if now < least else self._n_worse + 1
        self._least = min(self._least, now)
        most = self._options.max_no_improvement
        return "max_no_improvement" if most is not None and self._n_worse >= most else None
