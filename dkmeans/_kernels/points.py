"""Distances from weighted points to a few centres."""

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.compile import kernel

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

LANES = 64


@kernel
def transpose(points: Float64, tiles: Float64) -> None:
    """Write points, (n, d), to tiles, OUT (m, d, LANES), m * LANES at least n."""
    for i in range(points.shape[0]):
        for j in range(points.shape[1]):
            tiles[i // LANES, j, i % LANES] = points[i, j]


@kernel
def potentials(
    tiles: Float64, weights: Float64, closest: Float64, candidates: Float64, totals: Float64
) -> None:
    """Write the weighted sum of squared distances with each candidate as one more centre.

    Parameters
    ----------
    tiles, weights, closest
        (m, d, LANES), (m, LANES) and (m, LANES): the points; the last holds each point's squared
        distance to its nearest centre so far, or infinity. Points of weight 0 fill up.
    candidates
        (t, d).
    totals
        OUT (t,).
    """
    n_candidates = candidates.shape[0]
    sums = np.zeros((n_candidates, LANES))
    distances = np.empty(LANES)
    # Lanes are independent, so they run as vectors, and their order never changes.
    for tile in range(tiles.shape[0]):
        for t in range(n_candidates):
            distances[:] = 0
            for j in range(tiles.shape[1]):
                value = candidates[t, j]
                for lane in range(LANES):
                    difference = tiles[tile, j, lane] - value
                    distances[lane] += difference * difference
            for lane in range(LANES):
                nearest = min(closest[tile, lane], distances[lane])
                sums[t, lane] += weights[tile, lane] * nearest
    for t in range(n_candidates):
        totals[t] = sums[t].sum()


@kernel
def add_center(tiles: Float64, center: Float64, closest: Float64) -> None:
    """Lower `closest`, OUT (m, LANES), to each point's squared distance from `center`, (d,)."""
    distances = np.empty(LANES)
    for tile in range(tiles.shape[0]):
        distances[:] = 0
        for j in range(tiles.shape[1]):
            value = center[j]
            for lane in range(LANES):
                difference = tiles[tile, j, lane] - value
                distances[lane] += difference * difference
        for lane in range(LANES):
            closest[tile, lane] = min(closest[tile, lane], distances[lane])


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
