"""Lloyd's assignment step over colours held in an octree (the filtering algorithm).

After T. Kanungo et al., "An Efficient k-Means Clustering Algorithm: Analysis and
Implementation", IEEE TPAMI 24(7), 2002, section 3: walking down a tree of cubes, a centre is
dropped as soon as another one is nearer to every point of the cube; a cube left with one centre
is added to it as a whole. Here the tree is an octree over 8-bit colours and the totals of a cube
are integers, so the result has the same bits as a loop over all colours.

Nodes of level b are cubes of 2**(8 - b) values a side. Levels 2 to 6 are stored; below a node of
level 6 lie at most 64 colours, which are compared one by one.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels.colours import Int64, Integer, UInt32, gather
from dkmeans._kernels.compile import inline, kernel

Float64 = npt.NDArray[np.float64]

TOP, BOTTOM = 2, 6
COLOURS = 8  # the level of single colours

# Squared distances are below 2e5, so float64 rounds them by less than 1e-10. A centre is dropped
# only when it loses by more than this margin: near ties are left to the comparison of colours.
_MARGIN = 1e-6


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
    codes: UInt32, counts: Int64, starts: Int64, weights: Int64, sums: Int64, values: Int64
) -> None:
    """Sum the colours of each run.

    `weights` is OUT (n,) and `sums` OUT (n, 3); `values`, OUT (3, 256), is how often each value
    of red, green and blue occurs in all runs.
    """
    for node in range(weights.size):
        for i in range(starts[node], starts[node + 1]):
            code = np.int64(codes[i])
            count = counts[i]
            red, green, blue = gather(code >> 2), gather(code >> 1), gather(code)
            weights[node] += count
            sums[node, 0] += count * red
            sums[node, 1] += count * green
            sums[node, 2] += count * blue
            values[0, red] += count
            values[1, green] += count
            values[2, blue] += count


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
    codes: UInt32,
    counts: Int64,
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
    codes, counts
        (n,) sorted Z-codes and their counts.
    prefixes, starts, ends, node_weights, node_sums
        (m,), and (m, 3) the last: the nodes, level after level from TOP to BOTTOM. The children
        of node i are nodes ``starts[i]`` to ``ends[i]``; those of a node of level BOTTOM are
        colours.
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
    offsets = np.empty((64, 3), np.int64)
    for low in range(64):  # where a colour lies in its cube of level BOTTOM
        offsets[low, 0], offsets[low, 1], offsets[low, 2] = _corner(low, COLOURS)
    level = TOP
    while level >= TOP:
        if position[level] == end[level]:
            level -= 1
            continue
        node = position[level]
        position[level] += 1
        prefix = np.int64(prefixes[node])
        at, n = level - 1, n_kept[level - 1]
        first_point, last_point, are_colours = node, node + 1, False
        if level != depth:
            at, n = level, _keep_candidates(prefix, level, n, kept, places)
            n_kept[level] = n
            if n > 1:  # else the node is added as a whole
                first_point, last_point, are_colours = starts[node], ends[node], level == BOTTOM
                if not are_colours:
                    level += 1
                    position[level], end[level] = first_point, last_point
                    continue
        base_red, base_green, base_blue = _corner(prefix, level)
        for point in range(first_point, last_point):
            if are_colours:
                low = codes[point] & np.uint32(63)
                weight = counts[point]
                red = np.float64(base_red + offsets[low, 0])
                green = np.float64(base_green + offsets[low, 1])
                blue = np.float64(base_blue + offsets[low, 2])
                total_red = weight * np.int64(red)
                total_green = weight * np.int64(green)
                total_blue = weight * np.int64(blue)
            else:
                weight = node_weights[node]
                total_red, total_green = node_sums[node, 0], node_sums[node, 1]
                total_blue = node_sums[node, 2]
                red, green, blue = total_red / weight, total_green / weight, total_blue / weight
            nearest, best = 0, np.inf
            for i in range(n):
                d0, d1, d2 = (
                    red - places[at, 0, i],
                    green - places[at, 1, i],
                    blue - places[at, 2, i],
                )
                distance = d0 * d0 + d1 * d1 + d2 * d2
                if distance < best:
                    nearest, best = i, distance
            c = kept[at, nearest]
            weights[c] += weight
            sums[c, 0] += total_red
            sums[c, 1] += total_green
            sums[c, 2] += total_blue


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
                for red in range(low_r, low_r + side):
                    nearest, best = 0, np.inf
                    for i in range(n):
                        d0, d1 = red - places[level, 0, i], green - places[level, 1, i]
                        d2 = blue - places[level, 2, i]
                        distance = d0 * d0 + d1 * d1 + d2 * d2
                        if distance < best:
                            nearest, best = i, distance
                    table[(blue << 16) | (green << 8) | red] = kept[level, nearest]
