"""Distances from weighted points to a few centres."""

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import vectors
from dkmeans._kernels.compile import inline, kernel

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32] | Float64
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

LANES = 64


@kernel
def transpose(points: Floats, order: Int32, scale: float, tiles: Floats) -> None:
    """Write points, (n, d), in this order, times `scale` to tiles, OUT (m, d, LANES)."""
    for i in range(order.size):
        for j in range(points.shape[1]):
            tiles[i // LANES, j, i % LANES] = points[order[i], j] * scale


@kernel
def potentials(
    tiles: Floats,
    boxes: Floats,
    weights: Float64,
    closest: Floats,
    farthest: Floats,
    shares: Float64,
    first: int,
    last: int,
    candidates: Floats,
    kept: Floats,
    totals: Float64,
) -> None:
    """Write the weighted sum of squared distances with each candidate as one more centre.

    Parameters
    ----------
    tiles, weights, closest
        (m, d, LANES), (m, LANES) and (m, LANES): the points; the last holds each point's squared
        distance to its nearest centre so far, or infinity. Points of weight 0 fill up.
    boxes
        (groups, 2, d, LANES): the least and the greatest coordinates in each tile; so many tiles
        are a group. Those that lie farther from a candidate than their points from their centres
        are not looked into.
    farthest, shares
        (m,): the greatest of `closest` and its weighted sum, of each tile.
    first, last
        The tiles to look at, the last one not included.
    candidates
        (t, d).
    kept
        OUT (t, m, LANES), or (0, 0, 0) if not wanted: the squared distances from each candidate,
        infinite in tiles that are not looked into.
    totals
        OUT (t,), or empty: then the only candidate becomes a centre, and `closest`, `farthest` and
        `shares` are lowered to what they are with it.
    """
    n_candidates = candidates.shape[0]
    sums = np.zeros((n_candidates, LANES))
    gaps = np.empty((n_candidates, LANES), tiles.dtype)
    near, names = np.empty_like(candidates), np.empty(n_candidates, np.int64)
    distances = np.empty((n_candidates, LANES), tiles.dtype)
    totals[:] = 0
    # Lanes are independent, so they run as vectors, and their order never changes.
    for tile in range(first, last):
        if tile == first or tile % LANES == 0:
            outside(boxes, tile // LANES, candidates, gaps)
        n = 0
        for t in range(n_candidates):
            if gaps[t, tile % LANES] < farthest[tile]:
                for j in range(candidates.shape[1]):  # as slices, it takes two seconds to compile
                    near[n, j] = candidates[t, j]
                names[n] = t
                n += 1
            elif totals.size > 0:
                totals[t] += shares[tile]
                if kept.size > 0:
                    for lane in range(LANES):
                        kept[t, tile, lane] = np.inf
        at = 0
        while at < n:
            abreast = 4 if at + 4 <= n else 2 if at + 2 <= n else 1
            vectors.squares(tiles, tile, near, at, abreast, distances)
            at += abreast
        if totals.size > 0:
            for i in range(n):
                for lane in range(LANES):
                    nearest = min(closest[tile, lane], distances[i, lane])
                    sums[names[i], lane] += weights[tile, lane] * nearest
                if kept.size > 0:
                    for lane in range(LANES):
                        kept[names[i], tile, lane] = distances[i, lane]
        elif n > 0:
            _lower(distances, 0, weights, closest, farthest, shares, tile)
    for t in range(totals.size):
        for lane in range(LANES):
            totals[t] += sums[t, lane]


@kernel
def lower(
    distances: Floats, weights: Float64, closest: Floats, farthest: Floats, shares: Float64
) -> None:
    """Lower what `potentials` lowers to what it is with one more centre.

    `distances` are the squared ones from it, (m, LANES), as `potentials` keeps them.
    """
    for tile in range(distances.shape[0]):
        _lower(distances, tile, weights, closest, farthest, shares, tile)


@inline
def _lower(
    distances: Floats,
    row: int,
    weights: Float64,
    closest: Floats,
    farthest: Floats,
    shares: Float64,
    tile: int,
) -> None:
    """Lower it for one tile, whose distances are in one row."""
    share, most = 0.0, min(closest[tile, 0], distances[row, 0])
    for lane in range(LANES):
        closest[tile, lane] = min(closest[tile, lane], distances[row, lane])
        share += weights[tile, lane] * closest[tile, lane]
        most = max(most, closest[tile, lane])
    shares[tile], farthest[tile] = share, most


@kernel
def outside(boxes: Floats, group: int, candidates: Floats, gaps: Floats) -> None:
    """Write how far candidates lie outside the boxes of a group, squared: OUT (t, LANES).

    The features are added up as in `vectors.squares`: rounded as they are, none can be less.
    """
    zero = np.zeros(1, boxes.dtype)[0]
    for t in range(candidates.shape[0]):
        total = gaps[t]
        total[:] = 0
        for j in range(candidates.shape[1]):
            low, high, x = boxes[group, 0, j], boxes[group, 1, j], candidates[t, j]
            for lane in range(LANES):
                beside = max(low[lane] - x, x - high[lane], zero)
                total[lane] += beside * beside


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
