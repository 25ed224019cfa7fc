"""Lloyd's assignment step over colours held in an octree (the filtering algorithm).

After T. Kanungo et al., "An Efficient k-Means Clustering Algorithm: Analysis and
Implementation", IEEE TPAMI 24(7), 2002, section 3: walking down a tree of cubes, a centre is
dropped as soon as another one is nearer to every point of the cube; a cube left with one centre
is added to it as a whole. Here the tree is an octree over 8-bit colours and the totals of a cube
are integers, so the result has the same bits as a loop over all colours.

Nodes of level b are cubes of 2**(8 - b) values a side. Levels 2 to 6 are stored; a node of level 6
has the counts of its 64 colours, in the order of their Z-codes, most of them zero. All 64 are
compared at once: that takes less time than to tell which are there.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.colours import CUBE, Int64, Integer, Ints, UInt32, gather
from dkmeans._kernels.compile import inline, kernel

Float64 = npt.NDArray[np.float64]

TOP, BOTTOM = 2, 6
COLOURS = 8  # the level of single colours

# Squared distances are below 2e5, so float64 rounds them by less than 1e-10. A centre is dropped
# only when it loses by more than this margin: near ties are left to the comparison of colours.
_MARGIN = 1e-6

_QUEUE = 64  # nodes of level BOTTOM whose colours are to be compared, before they are


@kernel
def group(keys: UInt32, shift: int, prefixes: UInt32, starts: Int64) -> int:
    """Find the runs of sorted `keys` that agree after dropping `shift` low bits.

    `prefixes` is OUT (n,) and `starts` OUT (n + 1,), n at least the number of runs; the entry
    after the last start is the number of keys. Returns the number of runs.
    """
    found = 0
    for i in range(keys.size):
        prefix = keys[i] >> np.uint32(shift)
        if found == 0 or prefix != prefixes[found - 1]:
            prefixes[found] = prefix
            starts[found] = i
            found += 1
    starts[found] = keys.size
    return found


@kernel
def total_colours(
    prefixes: UInt32, cubes: Ints, weights: Int64, sums: Int64, values: Int64
) -> None:
    """Sum the colours of each node of level BOTTOM.

    Parameters
    ----------
    prefixes, cubes
        (n,) and (n, CUBE): the nodes and the counts of their colours.
    weights, sums, values
        OUT (n,), (n, 3) and (3, 256): the last is added to, how often each value of red, green and
        blue occurs.
    """
    offsets = _offsets()
    by_offset = np.empty((3, 4), np.int64)
    for node in range(prefixes.size):
        by_offset[:] = 0
        for i in range(CUBE):
            for axis in range(3):
                by_offset[axis, offsets[axis, i]] += cubes[node, i]
        corner = _corner(np.int64(prefixes[node]), BOTTOM)
        for axis in range(3):
            low = corner[axis]
            weight = total = np.int64(0)
            for i in range(4):
                values[axis, low + i] += by_offset[axis, i]
                weight += by_offset[axis, i]
                total += by_offset[axis, i] * (low + i)
            weights[node] = weight
            sums[node, axis] = total


@inline
def _offsets() -> Int64:
    """Return where the colours of a cube lie in it, (3, CUBE)."""
    offsets = np.empty((3, CUBE), np.int64)
    for i in range(CUBE):
        offsets[0, i], offsets[1, i], offsets[2, i] = _corner(i, COLOURS)
    return offsets


# A walk keeps, by level, the centres that can still be nearest: their indices, `kept`, (level, k),
# and where they are, `places`, (level, 3, k), with one more row as a place to work. Kernels take
# these whole, with the level, and write loops out: every array that is cut out of another, or
# handed to a function, counts a reference, which takes longer than to compare a colour.


@inline
def _begin(centers: Float64, first: int, last: int) -> tuple[Int64, Float64, Int64, Int64, Int64]:
    """Return the state of a walk over nodes `first` to `last` of level TOP, with all centres.

    That is `kept` and `places` and, by level, how many are kept, the next node, and the end of the
    run of nodes.
    """
    n_clusters = centers.shape[0]
    kept = np.empty((BOTTOM + 1, n_clusters), np.int64)
    places = np.empty((BOTTOM + 1, 4, n_clusters))
    n_kept = np.zeros(BOTTOM + 1, np.int64)
    position = np.zeros(BOTTOM + 1, np.int64)
    end = np.zeros(BOTTOM + 1, np.int64)
    for c in range(n_clusters):
        kept[TOP - 1, c] = c
        for axis in range(3):
            places[TOP - 1, axis, c] = centers[c, axis]
    n_kept[TOP - 1] = n_clusters
    position[TOP] = first
    end[TOP] = last
    return kept, places, n_kept, position, end


@inline
def _corner(prefix: Any, level: int) -> tuple[Any, Any, Any]:
    """Return the lowest red, green and blue of a cube."""
    shift = COLOURS - level
    return gather(prefix >> 2) << shift, gather(prefix >> 1) << shift, gather(prefix) << shift


@kernel
def _keep_candidates(
    prefix: Integer, level: int, n_above: Integer, kept: Int64, places: Float64
) -> int:
    """Keep the centres of the level above that can be nearest to a colour of the cube.

    Their order stays. Returns how many they are.
    """
    up = level - 1
    low_r, low_g, low_b = _corner(prefix, level)
    side = (1 << (COLOURS - level)) - 1.0
    for i in range(n_above):
        d0 = low_r + side / 2 - places[up, 0, i]
        d1 = low_g + side / 2 - places[up, 1, i]
        d2 = low_b + side / 2 - places[up, 2, i]
        places[up, 3, i] = d0 * d0 + d1 * d1 + d2 * d2
    nearest = 0
    for i in range(1, n_above):
        if places[up, 3, i] < places[up, 3, nearest]:
            nearest = i
    red, green, blue = places[up, 0, nearest], places[up, 1, nearest], places[up, 2, nearest]
    # |v - nearest|^2 - |v - c|^2 is linear in v: its maximum over the cube is at a corner, which
    # is found for each axis on its own.
    for i in range(n_above):
        g0, g1, g2 = places[up, 0, i] - red, places[up, 1, i] - green, places[up, 2, i] - blue
        lead = g0 * (2 * low_r - places[up, 0, i] - red)
        lead += g1 * (2 * low_g - places[up, 1, i] - green)
        lead += g2 * (2 * low_b - places[up, 2, i] - blue)
        places[up, 3, i] = lead + 2 * side * (max(g0, 0.0) + max(g1, 0.0) + max(g2, 0.0))
    n_kept = 0
    for i in range(n_above):  # the nearest leads itself by 0
        if places[up, 3, i] > -_MARGIN:
            kept[level, n_kept] = kept[up, i]
            for axis in range(3):
                places[level, axis, n_kept] = places[up, axis, i]
            n_kept += 1
    return n_kept


@kernel
def assign_accumulate(
    cubes: Ints,
    prefixes: UInt32,
    starts: Int64,
    ends: Int64,
    node_weights: Int64,
    node_sums: Int64,
    centers: Float64,
    depth: int,
    first: int,
    last: int,
    weights: Int64,
    sums: Int64,
) -> None:
    """Add each colour's count and weighted sum to its nearest centre.

    Parameters
    ----------
    cubes
        (n, CUBE): the counts of the colours of each node of level BOTTOM.
    prefixes, starts, ends, node_weights, node_sums
        (m,), and (m, 3) the last: the nodes, level after level from TOP to BOTTOM. The children
        of node i are nodes ``starts[i]`` to ``ends[i]``; a node of level BOTTOM has the cube
        ``starts[i]``.
    centers
        (k, 3).
    depth
        COLOURS for the exact step. At a level from TOP to BOTTOM the nodes of that level are
        the points, each at the mean of its colours.
    first, last
        Which nodes of level TOP to visit.
    weights, sums
        OUT (k,) and (k, 3): added to.
    """
    kept, places, n_kept, position, end = _begin(centers, first, last)
    queue = np.empty((_QUEUE, centers.shape[0] + 2), np.int64)
    n_queued = 0
    level = TOP
    while level >= TOP:
        if position[level] == end[level]:
            level -= 1
            continue
        node = position[level]
        position[level] += 1
        if level == depth:  # of those kept above, the nearest to the mean
            c = _nearest_mean(node_weights[node], node_sums, node, level - 1, n_kept, kept, places)
        else:
            n = _keep_candidates(np.int64(prefixes[node]), level, n_kept[level - 1], kept, places)
            n_kept[level] = n
            c = kept[level, 0]
            if n > 1:
                if level < BOTTOM:
                    level += 1
                    position[level], end[level] = starts[node], ends[node]
                    continue
                queue[n_queued, 0], queue[n_queued, 1] = node, n
                for i in range(n):
                    queue[n_queued, 2 + i] = kept[level, i]
                n_queued += 1
                if n_queued == _QUEUE:
                    _add_queued(queue, n_queued, cubes, prefixes, starts, centers, weights, sums)
                    n_queued = 0
                continue
        weights[c] += node_weights[node]
        for axis in range(3):
            sums[c, axis] += node_sums[node, axis]
    _add_queued(queue, n_queued, cubes, prefixes, starts, centers, weights, sums)


@kernel
def _nearest_mean(
    weight: Integer,
    node_sums: Int64,
    node: Integer,
    level: Integer,
    n_kept: Int64,
    kept: Int64,
    places: Float64,
) -> Integer:
    """Return which of the centres kept at `level` is nearest to the mean of a node."""
    red, green = node_sums[node, 0] / weight, node_sums[node, 1] / weight
    blue = node_sums[node, 2] / weight
    nearest, best = 0, np.inf
    for i in range(n_kept[level]):
        d0, d1 = red - places[level, 0, i], green - places[level, 1, i]
        d2 = blue - places[level, 2, i]
        distance = d0 * d0 + d1 * d1 + d2 * d2
        if distance < best:
            nearest, best = i, distance
    label: Integer = kept[level, nearest]
    return label


@kernel
def _add_queued(
    queue: Int64,
    n_queued: int,
    cubes: Ints,
    prefixes: UInt32,
    starts: Int64,
    centers: Float64,
    weights: Int64,
    sums: Int64,
) -> None:
    """Add the colours of some nodes of level BOTTOM to the nearest of their candidates.

    `queue` is (n, k + 2): the node, how many candidates it has, and which.
    """
    offsets = _offsets()
    reds, greens, blues = np.empty(CUBE), np.empty(CUBE), np.empty(CUBE)
    best, labels = np.empty(CUBE), np.empty(CUBE, np.int64)
    for item in range(n_queued):
        node, n = queue[item, 0], queue[item, 1]
        cube = starts[node]
        low_r, low_g, low_b = _corner(np.int64(prefixes[node]), BOTTOM)
        for i in range(CUBE):
            reds[i], greens[i] = low_r + offsets[0, i], low_g + offsets[1, i]
            blues[i] = low_b + offsets[2, i]
            best[i] = np.inf
        for candidate in range(2, 2 + n):
            c = queue[item, candidate]
            red, green, blue = centers[c, 0], centers[c, 1], centers[c, 2]
            for i in range(CUBE):
                d0, d1, d2 = reds[i] - red, greens[i] - green, blues[i] - blue
                distance = d0 * d0 + d1 * d1 + d2 * d2
                nearer = distance < best[i]
                best[i] = distance if nearer else best[i]
                labels[i] = c if nearer else labels[i]
        for candidate in range(2, 2 + n):
            c = queue[item, candidate]
            weight = total_r = total_g = total_b = np.int64(0)
            for i in range(CUBE):
                count = np.int64(cubes[cube, i]) if labels[i] == c else np.int64(0)
                weight += count
                total_r += count * offsets[0, i]
                total_g += count * offsets[1, i]
                total_b += count * offsets[2, i]
            weights[c] += weight
            sums[c, 0] += weight * low_r + total_r
            sums[c, 1] += weight * low_g + total_g
            sums[c, 2] += weight * low_b + total_b


@kernel
def fill_table(
    centers: Float64, first: int, last: int, table: npt.NDArray[np.unsignedinteger]
) -> None:
    """Write the nearest centre of every colour, ties to the lowest index.

    Parameters
    ----------
    centers
        (k, 3).
    first, last
        Which of the 8**TOP cubes of level TOP, by prefix, to fill: 0 to 64 for all.
    table
        OUT (2**24,), by code.
    """
    kept, places, n_kept, position, end = _begin(centers, first, last)
    level = TOP
    while level >= TOP:
        if position[level] == end[level]:
            level -= 1
            continue
        prefix = position[level]
        position[level] += 1
        n = _keep_candidates(prefix, level, n_kept[level - 1], kept, places)
        n_kept[level] = n
        if n > 1 and level < BOTTOM:
            level += 1
            position[level], end[level] = prefix * 8, prefix * 8 + 8
            continue
        side = 1 << (COLOURS - level)
        low_r, low_g, low_b = _corner(prefix, level)
        for blue in range(low_b, low_b + side):
            for green in range(low_g, low_g + side):
                row = (blue << 16) | (green << 8)
                if n == 1:
                    for red in range(low_r, low_r + side):
                        table[row | red] = kept[level, 0]
                    continue
                for red in range(low_r, low_r + side):
                    nearest, best = 0, np.inf
                    for i in range(n):
                        d0, d1 = red - places[level, 0, i], green - places[level, 1, i]
                        d2 = blue - places[level, 2, i]
                        distance = d0 * d0 + d1 * d1 + d2 * d2
                        if distance < best:
                            nearest, best = i, distance
                    table[row | red] = kept[level, nearest]
