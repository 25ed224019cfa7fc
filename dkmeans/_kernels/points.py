"""Distances from weighted points to a few centres."""

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import vectors
from dkmeans._kernels.compile import kernel

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32] | Float64
Int64 = npt.NDArray[np.int64]

LANES = 64


@kernel
def transpose(points: Floats, scale: float, tiles: Floats) -> None:
    """Write points, (n, d), times `scale` to tiles, OUT (m, d, LANES), m * LANES at least n."""
    for i in range(points.shape[0]):
        for j in range(points.shape[1]):
            tiles[i // LANES, j, i % LANES] = points[i, j] * scale


@kernel
def potentials(
    tiles: Floats,
    boxes: Floats,
    weights: Float64,
    closest: Floats,
    farthest: Floats,
    shares: Float64,
    candidates: Floats,
    totals: Float64,
) -> None:
    """Write the weighted sum of squared distances with each candidate as one more centre.

    Parameters
    ----------
    tiles, weights, closest
        (m, d, LANES), (m, LANES) and (m, LANES): the points; the last holds each point's squared
        distance to its nearest centre so far, or infinity. Points of weight 0 fill up.
    boxes
        (m, 2, 3): the least and the greatest coordinates in each tile, or empty. Tiles that lie
        farther from a candidate than their points from their centres are not looked into.
    farthest, shares
        (m,): the greatest of `closest` and its weighted sum, of each tile.
    candidates
        (t, d).
    totals
        OUT (t,), or empty: then the only candidate becomes a centre, and `closest`, `farthest` and
        `shares` are lowered to what they are with it.
    """
    n_candidates, d = candidates.shape
    sums = np.zeros((n_candidates, LANES))
    distances = np.empty((n_candidates, LANES), tiles.dtype)
    zero = np.zeros(1, tiles.dtype)[0]
    becomes_center = totals.size == 0
    totals[:] = 0
    # Lanes are independent, so they run as vectors, and their order never changes.
    for tile in range(tiles.shape[0]):
        if boxes.size == 0:
            t = 0
            while t < n_candidates:
                n = 4 if t + 4 <= n_candidates else 2 if t + 2 <= n_candidates else 1
                vectors.squares(tiles, tile, candidates, t, n, distances)
                t += n
        for t in range(n_candidates):
            if boxes.size > 0:
                # Added up as the distances below are: rounded as they are, none can be less.
                gap = zero
                for j in range(d):
                    x = candidates[t, j]
                    beside = max(boxes[tile, 0, j] - x, x - boxes[tile, 1, j], zero)
                    gap += beside * beside
                if gap >= farthest[tile]:
                    if not becomes_center:
                        totals[t] += shares[tile]
                    continue
                vectors.squares(tiles, tile, candidates, t, 1, distances)
            if becomes_center:
                share, most = 0.0, zero
                for lane in range(LANES):
                    closest[tile, lane] = min(closest[tile, lane], distances[t, lane])
                    share += weights[tile, lane] * closest[tile, lane]
                    most = max(most, closest[tile, lane])
                shares[tile], farthest[tile] = share, most
            else:
                for lane in range(LANES):
                    nearest = min(closest[tile, lane], distances[t, lane])
                    sums[t, lane] += weights[tile, lane] * nearest
    for t in range(totals.size):
        for lane in range(LANES):
            totals[t] += sums[t, lane]


@kernel
def draw(
    uniforms: Float64, shares: Float64, weights: Float64, closest: Floats, drawn: Int64
) -> None:
    """Draw points with chances in proportion to their weighted squared distances.

    Parameters
    ----------
    uniforms
        (t,), from 0 to 1: a draw each.
    shares, weights, closest
        (m,), (m, LANES) and (m, LANES): see `potentials`. Each share is about the sum of the
        products of the others in its tile.
    drawn
        OUT (t,): the numbers of the points.
    """
    total = 0.0
    for tile in range(shares.size):
        total += shares[tile]
    for t in range(uniforms.size):
        # Rounding can lead to the very end: then the last one with a share is meant.
        place = uniforms[t] * total
        before, reached, chosen = 0.0, 0.0, 0
        for tile in range(shares.size):
            if reached > place:
                break
            if shares[tile] > 0:
                before, chosen = reached, tile
            reached += shares[tile]
        place -= before
        reached, inside = 0.0, 0
        for lane in range(LANES):
            if reached > place:
                break
            share = weights[chosen, lane] * closest[chosen, lane]
            if share > 0:
                inside = lane
            reached += share
        drawn[t] = chosen * LANES + inside


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
