"""Distances from weighted points to a few centres."""

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import kernel

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

LANES = 64


@kernel
def potentials(
    features: Float64, weights: Float64, closest: Float64, candidates: Int64, totals: Float64
) -> None:
    """Write the weighted sum of squared distances with each candidate as one more centre.

    Parameters
    ----------
    features, weights, closest
        (d, n), (n,) and (n,): the points, a row for each feature; the last holds each point's
        squared distance to its nearest centre so far, or infinity. n is a multiple of LANES:
        points of weight 0 fill up.
    candidates
        (t,) indices of points.
    totals
        OUT (t,).
    """
    distances = np.empty(LANES)
    sums = np.empty(LANES)
    for t in range(candidates.size):
        sums[:] = 0
        # Lanes are independent, so they run as vectors, and their order never changes.
        for start in range(0, features.shape[1], LANES):
            stop = start + LANES
            distances[:] = 0
            for j in range(features.shape[0]):
                feature, value = features[j, start:stop], features[j, candidates[t]]
                for lane in range(LANES):
                    difference = feature[lane] - value
                    distances[lane] += difference * difference
            so_far, weight = closest[start:stop], weights[start:stop]
            for lane in range(LANES):
                nearest = min(so_far[lane], distances[lane])
                sums[lane] += weight[lane] * nearest
        totals[t] = sums.sum()


@kernel
def add_center(features: Float64, center: int, closest: Float64) -> None:
    """Lower `closest`, OUT (n,), to the squared distance from the point with index `center`."""
    for i in range(features.shape[1]):
        distance = 0.0
        for j in range(features.shape[0]):
            difference = features[j, i] - features[j, center]
            distance += difference * difference
        closest[i] = min(closest[i], distance)


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
            distance = 0.0
            for j in range(points.shape[1]):
                difference = points[i, j] - centers[c, j]
                distance += difference * difference
            if distance < best:
                best = distance
                label = c
        labels[i] = label
        distances[i] = best
