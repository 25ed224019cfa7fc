"""Lloyd's algorithm on a summary, from given centres: stop rules, momentum, empty clusters."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
StopReason = Literal["converged", "tol", "max_iter", "max_no_improvement", "exact", "stopped"]


class Totals(Protocol):
    """What an assignment yields. All of it is the same for any order of the points."""

    @property
    def weights(self) -> npt.NDArray[Any]:
        """The weight of each cluster, (k,)."""

    def copy(self) -> Self:
        """Return a copy."""

    def move(self, point: Self, owner: int, cluster: int) -> None:
        """Make a point, of one cluster `owner`, the only one of an empty `cluster`."""

    def means(self, previous: Float64) -> Float64:
        """Return the mean of each cluster, (k, d); empty ones keep `previous`."""


T = TypeVar("T", bound=Totals)
T_co = TypeVar("T_co", bound=Totals, covariant=True)

# Takes the number of iterations so far and the centres; returns whether to stop here.
Watch = Callable[[int, Float64], bool]


class Summary(Protocol[T_co]):
    """Weighted points, at depths from coarse to exact."""

    depths: tuple[int, ...]

    @property
    def n_points(self) -> int:
        """Points at the last depth."""

    @property
    def mean_variance(self) -> float:
        """The variance of the features, averaged over features."""

    def n_points_at(self, depth: int) -> int:
        """Count the points at `depth`."""

    def spread_within(self, depth: int) -> float:
        """Return the sum of squared distances from the exact points to those at `depth`."""

    def points(self, depth: int) -> tuple[npt.NDArray[Any], Float64]:
        """Return the points at `depth`, (n, d), and their weights."""

    def begin(self, n_clusters: int, depth: int) -> "Steps[T_co]":
        """Return the steps of one run over the points at `depth`."""

    def farthest(self, centers: Float64, n: int, depth: int) -> Iterator[tuple[int, T_co]]:
        """Yield the points farthest from their centres, each with its cluster."""


class Steps(Protocol[T_co]):
    """The steps of one run. They may know of each other."""

    @property
    def labels(self) -> npt.NDArray[np.int32] | None:
        """The index of the nearest centre of each point in the last step, if it is kept."""

    def assign(self, centers: Float64) -> T_co:
        """Add each point to its nearest centre."""

    def inertia(self) -> float:
        """Return the weighted sum of squared distances from the last centres."""


@dataclass(frozen=True)
class Solution:
    """Where Lloyd's algorithm ended.

    Attributes
    ----------
    centers
        (k, d) float64.
    weights
        (k,): the weight of the points nearest to each centre.
    inertia
        The weighted sum of squared distances of the points to their nearest centre, computed in
        integers and rounded once.
    n_iter
        Iterations over the exact points.
    stop_reason
        "converged" (no centre moved), "tol", "max_iter", or "stopped" by whoever watched; of
        mini-batches also "max_no_improvement".
    labels
        The index of the nearest centre of each exact point, if the summary tells.
    """

    centers: Float64
    weights: npt.NDArray[Any]
    inertia: float
    n_iter: int
    stop_reason: StopReason
    labels: npt.NDArray[np.int32] | None = None


def iterate(
    summary: Summary[Any],
    centers: Float64,
    depth: int,
    *,
    max_iter: int,
    tol: float,
    watch: Watch | None,
    momentum: float,
) -> Solution:
    """Run Lloyd's algorithm at one depth; the last step only assigns, so all results agree."""
    reason: StopReason = "max_iter"
    n_iter = 0
    means = centers
    steps = summary.begin(len(centers), depth)
    is_last = depth == summary.depths[-1]
    for n_iter in range(1, max_iter + 1):
        totals = steps.assign(centers)
        last, means = means, _means(summary, centers, totals, depth)
        shift = movement(centers, means)
        stop = watch is not None and is_last and watch(n_iter, means)
        if shift <= tol:
            reason = "converged" if shift == 0 else "tol"
            break
        if stop:
            reason = "stopped"
            break
        centers = accelerated(centers, means, last, totals.weights, momentum)
    if reason != "converged":
        totals = steps.assign(means)
    return Solution(means, totals.weights, steps.inertia(), n_iter, reason, steps.labels)


def movement(centers: Float64, means: Float64) -> float:
    """Return the squared movement of all centres; infinite beyond float64."""
    with np.errstate(over="ignore"):
        return float(((means - centers) ** 2).sum())


def accelerated(
    centers: Float64,
    means: Float64,
    last: Float64,
    weights: npt.NDArray[Any],
    momentum: float,
) -> Float64:
    """Return the next centres: means of points, and on by a share of the way from the `last` ones.

    A step of Lloyd's goes down the gradient of the inertia, as far as its curvature allows (L.
    Bottou, Y. Bengio, "Convergence properties of the k-means algorithms", NIPS 1994), so momentum
    makes fewer steps of many (Y. Nesterov, "A method for solving a convex programming problem with
    convergence rate O(1/k^2)", 1983), and is dropped where it leads uphill (B. O'Donoghue, E.
    Candes, "Adaptive restart for accelerated gradient schemes", Foundations of Computational
    Mathematics 15, 2015, section 3.2). It ends at the same fixed points. Centres of clusters that
    were empty go straight.
    """
    if momentum == 0:
        return means
    step = means - last
    # Not by `@`: libraries for that add up in another order on another processor.
    if (weights[:, None] * (centers - means) * step).sum() > 0:
        return means
    return means + momentum * np.where((weights == 0)[:, None], 0.0, step)


def _means(summary: Summary[T], centers: Float64, totals: T, depth: int) -> Float64:
    """Return the mean of each cluster; empty ones take the farthest points, as in scikit-learn."""
    empty = np.flatnonzero(totals.weights == 0)
    if empty.size:
        totals = totals.copy()
        far = summary.farthest(centers, empty.size, depth)
        for cluster, (owner, point) in zip(empty, far, strict=False):
            totals.move(point, owner, int(cluster))
    return totals.means(centers)
