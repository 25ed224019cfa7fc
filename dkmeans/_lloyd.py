"""Lloyd's algorithm on a summary: restarts, stop rules, empty clusters."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dkmeans import _passes, _seeding
from dkmeans._summary import Totals

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
StopReason = Literal["converged", "tol", "max_iter", "exact"]

# Restarts run at the first depth that has so many points a cluster, and where the points leave out
# no more than this share of the inertia.
_POINTS_PER_CLUSTER = 16
_SPREAD_WITHIN = 0.1


class Summary(Protocol):
    """Weighted points with integer totals, at depths from coarse to exact."""

    depths: tuple[int, ...]

    @property
    def n_points(self) -> int:
        """Distinct points at the last depth."""

    @property
    def squares(self) -> tuple[int, ...]:
        """For each feature, the weighted sum of squares."""

    @property
    def total(self) -> tuple[int, ...]:
        """For each feature, the weighted sum."""

    @property
    def weight(self) -> int:
        """The sum of all weights."""

    def n_points_at(self, depth: int) -> int:
        """Count the points at `depth`."""

    def spread_within(self, depth: int) -> float:
        """Return the sum of squared distances from the exact points to those at `depth`."""

    def points(self, depth: int) -> tuple[Float64, Float64]:
        """Return the points at `depth`, (n, d), and their weights."""

    def assign(self, centers: Float64, depth: int) -> Totals:
        """Add each point to its nearest centre."""

    def farthest(self, centers: Float64, n: int, depth: int) -> Iterator[tuple[int, Totals]]:
        """Yield the points farthest from their centres."""


@dataclass(frozen=True)
class Solution:
    """Where Lloyd's algorithm ended.

    Attributes
    ----------
    centers
        (k, d) float64.
    weights
        (k,) int64: the weight of the points nearest to each centre.
    inertia
        The weighted sum of squared distances of the points to their nearest centre, computed in
        integers and rounded once.
    n_iter
        Iterations over the exact points.
    stop_reason
        "converged" (no centre moved), "tol" or "max_iter".
    """

    centers: Float64
    weights: Int64
    inertia: float
    n_iter: int
    stop_reason: StopReason


def solve(
    summary: Summary,
    n_clusters: int,
    *,
    init: Float64 | None = None,
    n_init: int = 1,
    max_iter: int = 300,
    tol: float = 1e-4,
    seed: int = 0,
) -> Solution:
    """Find the centres that minimise the inertia over the points of a summary.

    Without `init`, `n_init` runs start from greedy k-means++ on the coarsest points that are
    enough, the best of them goes on at each finer depth, and last on the exact points. Every run
    and its draws depend on `seed` and the points alone.

    Parameters
    ----------
    summary
        The points, at least `n_clusters` of them distinct.
    n_clusters
        The number of centres.
    init
        (n_clusters, d) centres to start from, on the exact points.
    n_init
        How many runs to choose from.
    max_iter, tol
        As in scikit-learn: at most so many iterations at each depth; stop when the squared
        movement of all centres is at most `tol` times the mean variance of the features.
    seed
        Not negative.
    """
    scaled_tol = tol * _mean_variance(summary)
    run = partial(_iterate, summary, max_iter=max_iter, tol=scaled_tol)
    if init is not None:
        return run(init, summary.depths[-1])
    depths = [
        d for d in summary.depths if summary.n_points_at(d) >= _POINTS_PER_CLUSTER * n_clusters
    ]
    depths = depths or [summary.depths[-1]]

    def restart(depth: int, number: int) -> Solution:
        points, weights = summary.points(depth)
        rng = np.random.default_rng([seed, number])
        return run(_seeding.kmeans_plusplus(points, weights, n_clusters, rng), depth)

    first = restart(depths[0], 0)
    while summary.spread_within(depths[0]) > _SPREAD_WITHIN * first.inertia:
        # Clusters are hardly larger than the cubes that are the points here: they are too coarse.
        depths = depths[1:]
        first = restart(depths[0], 0)
    others = _passes.in_threads(partial(restart, depths[0]), range(1, n_init))
    best = min([first, *others], key=lambda solution: solution.inertia)
    for depth in depths[1:]:
        best = run(best.centers, depth)
    return best


def inertia(summary: Summary, centers: Float64, totals: Totals) -> float:
    """Return the sum of squared distances behind `totals`, exact but for one rounding.

    For points x with weights w in the cluster of centre c, the sum of w |x - c|^2 is the sum of
    w |x|^2 less 2 c . (sum of w x) plus |c|^2 (sum of w): all integers but c, and fractions hold
    c without rounding. Nothing cancels, however large the data.
    """
    result = Fraction(sum(summary.squares))
    for center, weight, sums in zip(
        centers.tolist(), totals.weights.tolist(), totals.sums.tolist(), strict=True
    ):
        for value, total in zip(center, sums, strict=True):
            exact = Fraction(value)
            result += exact * (exact * weight - 2 * total)
    return float(result)


def _mean_variance(summary: Summary) -> float:
    """Return the variance of the features over all weighted points, averaged over features."""
    weight = summary.weight
    variances = [
        Fraction(weight * squares - total * total, weight * weight)
        for squares, total in zip(summary.squares, summary.total, strict=True)
    ]
    return float(sum(variances) / len(variances))


def _iterate(
    summary: Summary, centers: Float64, depth: int, *, max_iter: int, tol: float
) -> Solution:
    """Run Lloyd's algorithm at one depth; the last step only assigns, so all results agree."""
    reason: StopReason = "max_iter"
    n_iter = 0
    for n_iter in range(1, max_iter + 1):  # noqa: B007 - it is returned
        totals = summary.assign(centers, depth)
        previous, centers = centers, _means(summary, centers, totals, depth)
        shift = float(((centers - previous) ** 2).sum())
        if shift <= tol:
            reason = "converged" if shift == 0 else "tol"
            break
    if reason != "converged":
        totals = summary.assign(centers, depth)
    return Solution(centers, totals.weights, inertia(summary, centers, totals), n_iter, reason)


def _means(summary: Summary, centers: Float64, totals: Totals, depth: int) -> Float64:
    """Return the mean of each cluster; empty ones take the farthest points, as in scikit-learn."""
    weights, sums = totals.weights.copy(), totals.sums.copy()
    empty = np.flatnonzero(weights == 0)
    if empty.size:
        far = summary.farthest(centers, empty.size, depth)
        for cluster, (owner, point) in zip(empty, far, strict=False):
            weights[cluster], sums[cluster] = point.weights, point.sums
            weights[owner] -= point.weights
            sums[owner] -= point.sums
    means = centers.copy()  # a cluster that stays empty keeps its centre
    full = weights > 0
    means[full] = sums[full] / weights[full, None]
    return means
