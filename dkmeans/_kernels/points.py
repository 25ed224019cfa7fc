"""Distances from weighted points to a few centres."""

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import inline, kernel

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@inline
def _squared_distance(points: Float64, i: int, centers: Float64, c: int) -> float:
    total = 0.0
    for j in range(points.shape[1]):
        difference = points[i, j] - centers[c, j]
        total += difference * difference
    return total


@kernel
def potentials(
    points: Float64, weights: Float64, closest: Float64, candidates: Int64, totals: Float64
) -> None:
    """Write the weighted sum of squared distances with each candidate as one more centre.

    Parameters
    ----------
    points, weights, closest
        (n, d), (n,) and (n,): the last holds each point's squared distance to its nearest centre
        so far, or infinity.
    candidates
        (t,) indices of points.
    totals
        OUT (t,).
    """
    for t in range(candidates.size):
        total = 0.0
        for i in range(points.shape[0]):
            distance = _squared_distance(points, i, points, candidates[t])
            total += weights[i] * min(distance, closest[i])
        totals[t] = total


@kernel
def add_center(points: Float64, center: int, closest: Float64) -> None:
    """Lower `closest`, OUT (n,), to the squared distance from the point with index `center`."""
    for i in range(points.shape[0]):
        closest[i] = min(closest[i], _squared_distance(points, i, points, center))


@kernel
def nearest(points: Float64, centers: Float64, labels: Int64, distances: Float64) -> None:
    """Write the index of each point's nearest centre and the squared distance to it.

    `points` is (n, d), `centers` (k, d), `labels` and `distances` are OUT (n,). Ties go to the
    lowest index.
    """
    for i in range(points.shape[0]):
        best = np.inf
        label = 0
        for c in range(centers.shape[0]):
            distance = _squared_distance(points, i, centers, c)
            if distance < best:
                best = distance
                label = c
        labels[i] = label
        distances[i] = best
