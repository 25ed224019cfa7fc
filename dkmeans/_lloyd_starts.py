"""Where Lloyd's algorithm starts and goes on: restarts, depths, single centres that move."""

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _lloyd, _seeding
from dkmeans._lloyd import Solution, Summary, Watch
from dkmeans._passes_threads import in_threads
from dkmeans._seeding import Seeding

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# Restarts run at the first depth that has so many points a cluster, and where the points leave out
# no more than this share of the inertia.
_POINTS_PER_CLUSTER = 16
_SPREAD_WITHIN = 0.1
_ROUGHLY = 10  # times `tol`: where runs end that others go on from
_AT_FIRST = 2  # restarts, before it is known whether the points will do
_STARTS = 4  # before it is known whether they differ
_ALIKE = 0.01  # of the best inertia, the standard deviation among starts: more would win little
_TRIAL = 5  # iterations, after which restarts are judged
_FINALISTS, _PER_FINALIST = 2, 8  # at least, and of so many restarts one: they run to the end

_SWAPS_FAILED = 4  # in a row, until no more are tried; from two clusters to two others
_SWAP_TRIAL = 3  # iterations, after which a swap is judged
_SWAP_GAIN = 0.1  # of the mean inertia of a cluster, at least: clusters apart are worth more
_SWAPS = 2  # are tried at most, for each cluster
_LEAST_SWAPPED, _MOST_SWAPPED = 4, 512  # clusters

_MOMENTUM = 0.9  # see `_lloyd.accelerated`


def solve(
    summary: Summary[Any],
    n_clusters: int,
    *,
    init: Float64 | None = None,
    seeding: Seeding = _seeding.kmeans_plusplus,
    n_init: int | None = 1,
    max_iter: int = 300,
    tol: float = 1e-4,
    seed: int = 0,
    watch: Watch | None = None,
    halving: bool = False,
    swaps: bool = False,
) -> Solution:
    """Find the centres that minimise the inertia over the points of a summary.

    Without `init`, `n_init` runs start from centres that `seeding` chooses among the coarsest
    points that are enough, the best of them goes on at each finer depth, and last on the exact
    points; before that, runs end roughly. Steps have momentum then, see `_lloyd.accelerated`; from
    `init` they are those of scikit-learn. Every run and its draws depend on `seed` and the points
    alone.

    Parameters
    ----------
    summary
        The points, at least `n_clusters` of them distinct.
    n_clusters
        The number of centres.
    init
        (n_clusters, d) centres to start from, on the exact points.
    seeding
        Chooses the centres to start from; greedy k-means++ by default.
    n_init
        How many runs to choose from. None for four, and four more if these differ by more than 1 %:
        the best of twice as many is better by about 0.4 of their standard deviation.
    max_iter, tol
        As in scikit-learn: at most so many iterations at each depth; stop when the squared
        movement of all centres is at most `tol` times the mean variance of the features.
    seed
        Not negative.
    watch
        Called after each iteration at the last depth; the run ends if it returns True.
    halving
        Whether starts that are behind after a few iterations, most of them, end there if it is not
        on the exact points (K. Jamieson, A. Talwalkar, "Non-stochastic best arm identification and
        hyperparameter optimization", AISTATS 2016, section 3).
    swaps
        Whether, with `n_init` None, centres of the best start move singly, see `_Runs.swapped`.
    """
    scaled_tol = tol * summary.mean_variance if tol else 0.0
    momentum = _MOMENTUM if init is None else 0.0
    runs = _Runs(summary, n_clusters, seeding, max_iter, scaled_tol, seed, watch, momentum, halving)
    if init is not None:
        return runs.go(init, summary.depths[-1])
    depths = [
        d for d in summary.depths if summary.n_points_at(d) >= _POINTS_PER_CLUSTER * n_clusters
    ]
    depths = depths or [summary.depths[-1]]
    n_runs = _STARTS if n_init is None else n_init
    while True:
        found = runs.begin(range(min(n_runs, _AT_FIRST)), n_runs, depths[0])
        if summary.spread_within(depths[0]) <= _SPREAD_WITHIN * found[0].inertia:
            break
        # Clusters are hardly larger than the cubes that are the points here: they are too coarse.
        depths = depths[1:]
    found += runs.begin(range(_AT_FIRST, n_runs), n_runs, depths[0])
    if n_init is None and not _are_alike(found):
        found += runs.begin(range(n_runs, 2 * n_runs), 2 * n_runs, depths[0])
    best = runs.best(found, depths[0])
    if swaps and n_init is None:
        best = runs.swapped(best, depths[0])
    for depth in depths[1:]:
        best = runs.go(best.centers, depth)
    return best


@dataclass(frozen=True)
class _Runs:
    """Runs over a summary, and what they have in common; see `solve`. `tol` is scaled."""

    summary: Summary[Any]
    n_clusters: int
    seeding: Seeding
    max_iter: int
    tol: float
    seed: int
    watch: Watch | None
    momentum: float
    halving: bool

    def go(self, centers: Float64, depth: int, max_iter: int | None = None) -> Solution:
        """Run from centres; before the last depth, until it is roughly done."""
        return _lloyd.iterate(
            self.summary,
            centers,
            depth,
            max_iter=self.max_iter if max_iter is None else max_iter,
            tol=self.tol if depth == self.summary.depths[-1] else _ROUGHLY * self.tol,
            watch=self.watch,
            momentum=self.momentum,
        )

    def begin(self, numbers: range, n_init: int, depth: int) -> list[Solution]:
        """Run from the starts of these numbers, of `n_init`: to the end, or far enough to judge."""
        points, weights = self.summary.points(depth)
        most = min(_TRIAL, self.max_iter) if self._n_best(n_init, depth) < n_init else self.max_iter

        def one(number: int) -> Solution:
            rng = np.random.default_rng([self.seed, number])
            return self.go(self.seeding(points, weights, self.n_clusters, rng), depth, most)

        return in_threads(one, numbers)

    def best(self, found: list[Solution], depth: int) -> Solution:
        """Return the best of all starts, of which the most promising ones go on to the end."""
        n_best = self._n_best(len(found), depth)
        if n_best < len(found):
            rest = max(self.max_iter - _TRIAL, 0)
            chosen = sorted(found, key=attrgetter("inertia"))[:n_best]
            found = in_threads(lambda start: self.go(start.centers, depth, rest), chosen)
        return min(found, key=attrgetter("inertia"))

    def swapped(self, best: Solution, depth: int) -> Solution:
        """Move centres to where they are missed more, one at a time, as long as it is for the good.

        Where clusters lie apart, runs end with one centre for two of them and two for another one,
        and hardly any start has all right. Random swaps find out (P. Franti, "Efficiency of random
        swap clustering", Journal of Big Data 5, 2018, section 2); here a centre that its neighbour
        could do without goes to a point of a cluster with much inertia, and stays if it pays.
        """
        if not _LEAST_SWAPPED <= self.n_clusters <= _MOST_SWAPPED:
            return best
        # Labels have the order of these points. A summary of rows "as given" has another one at its
        # last depth, but so many rows that starts never run there.
        points, weights = self.summary.points(depth)
        rng = np.random.default_rng([self.seed, self.n_clusters, depth])
        unwatched, start, n_failed = replace(self, watch=None), best, 0
        for _ in range(_SWAPS * self.n_clusters):
            labels = best.labels
            if labels is None:
                break
            if n_failed == 0:
                inertias = _inertias(labels, best.centers, points, weights)
                costs, neighbours = _merging_costs(best.centers, best.weights)
            donor = np.argsort(costs, kind="stable")[n_failed // 2]
            others = np.where(np.arange(self.n_clusters) == donor, 0.0, inertias)
            taker = np.argsort(-others, kind="stable")[n_failed % 2]
            if not others[taker] > costs[donor]:  # it cannot pay
                break
            centers, pair = best.centers.copy(), [donor, neighbours[donor]]
            if best.weights[pair].sum() > 0:
                centers[pair[1]] = np.average(centers[pair], axis=0, weights=best.weights[pair])
            centers[donor] = points[rng.choice(np.flatnonzero(labels == taker))]
            found = unwatched.go(centers, depth, min(_SWAP_TRIAL, self.max_iter))
            least = best.inertia * (1 - _SWAP_GAIN / self.n_clusters)
            best, n_failed = (found, 0) if found.inertia < least else (best, n_failed + 1)
            if n_failed == _SWAPS_FAILED:
                break
        return best if best is start else self.go(best.centers, depth)

    def _n_best(self, n_init: int, depth: int) -> int:
        """Return how many starts run to their end."""
        if depth == self.summary.depths[-1] or not self.halving:
            return n_init
        return min(n_init, max(_FINALISTS, n_init // _PER_FINALIST))


def _inertias(
    labels: npt.NDArray[np.int32], centers: Float64, points: npt.NDArray[Any], weights: Float64
) -> Float64:
    """Return the inertia of each cluster, rounded as it comes. Memory: the points as float64."""
    offsets = centers[labels]
    np.subtract(points, offsets, out=offsets)
    np.square(offsets, out=offsets)
    found = np.zeros(len(centers))
    np.add.at(found, labels, weights * offsets.sum(axis=1))
    return found


def _merging_costs(centers: Float64, weights: npt.NDArray[Any]) -> tuple[Float64, Int64]:
    """Return what it adds to the inertia to join each cluster with the best other, and which it is.

    See J. H. Ward, "Hierarchical grouping to optimize an objective function", Journal of the
    American Statistical Association 58, 1963.
    """
    costs, neighbours = np.zeros(len(centers)), np.zeros(len(centers), np.int64)
    for c, center in enumerate(centers):
        both = np.maximum(weights + weights[c], np.finfo(np.float64).tiny)
        added = weights * (weights[c] / both) * ((centers - center) ** 2).sum(axis=1)
        added[c] = np.inf
        neighbours[c] = added.argmin()
        costs[c] = added[neighbours[c]]
    return costs, neighbours


def _are_alike(found: list[Solution]) -> bool:
    inertias = np.array([solution.inertia for solution in found])
    most = inertias.max()
    if most == 0:
        return True
    shares = inertias / most  # whose squares floats hold
    return bool(np.std(shares, ddof=1) <= _ALIKE * shares.min())
