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
Number = float | np.integer[Any] | np.floating[Any]

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


@inline
def _begin(n_clusters: int, first: int, last: int) -> tuple[Int64, Int64, Int64, Int64]:
    """Return the state of a walk over nodes `first` to `last` of level TOP, with all centres.

    By level: the centres kept for its node, how many they are, the next node, the end of the run.
    """
    kept = np.empty((BOTTOM + 1, n_clusters), np.int64)
    n_kept = np.zeros(BOTTOM + 1, np.int64)
    position = np.zeros(BOTTOM + 1, np.int64)
    end = np.zeros(BOTTOM + 1, np.int64)
    for c in range(n_clusters):
        kept[TOP - 1, c] = c
    n_kept[TOP - 1] = n_clusters
    position[TOP] = first
    end[TOP] = last
    return kept, n_kept, position, end


@inline
def _corner(prefix: Any, level: int) -> tuple[Any, Any, Any]:
    """Return the lowest red, green and blue of a cube."""
    shift = COLOURS - level
    return gather(prefix >> 2) << shift, gather(prefix >> 1) << shift, gather(prefix) << shift


@inline
def _keep_candidates(
    prefix: Integer, level: int, centers: Float64, above: Int64, n_above: Integer, kept: Int64
) -> int:
    """Write to `kept` the centres of `above` that can be nearest to a colour of the cube."""
    side = 1 << (COLOURS - level)
    red, green, blue = _corner(prefix, level)
    half = (side - 1) / 2
    nearest, best = above[0], np.inf
    for i in range(n_above):
        c = above[i]
        d0 = red + half - centers[c, 0]
        d1 = green + half - centers[c, 1]
        d2 = blue + half - centers[c, 2]
        distance = d0 * d0 + d1 * d1 + d2 * d2
        if distance < best:
            best = distance
            nearest = c
    n_kept = 0
    for i in range(n_above):
        c = above[i]
        # |v - nearest|^2 - |v - c|^2 is linear in v: its maximum over the cube is at a corner,
        # which is found for each axis on its own.
        lead = 0.0
        for axis in range(3):
            low = red if axis == 0 else (green if axis == 1 else blue)
            gap = centers[c, axis] - centers[nearest, axis]
            corner = low + (side - 1 if gap > 0 else 0)
            lead += gap * (2 * corner - centers[c, axis] - centers[nearest, axis])
        if c == nearest or lead > -_MARGIN:
            kept[n_kept] = c
            n_kept += 1
    return n_kept


@inline
def _nearest(
    red: Number, green: Number, blue: Number, centers: Float64, kept: Int64, n_kept: Integer
) -> Integer:
    """Return the nearest of the kept centres; ties go to the lowest index."""
    nearest: Integer = kept[0]
    best = np.inf
    for i in range(n_kept):
        c = kept[i]
        d0 = red - centers[c, 0]
        d1 = green - centers[c, 1]
        d2 = blue - centers[c, 2]
        distance = d0 * d0 + d1 * d1 + d2 * d2
        if distance < best:
            best = distance
            nearest = c
    return nearest


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
    kept, n_kept, position, end = _begin(centers.shape[0], first, last)
    places = np.empty((64, 3), np.int64)
    for low in range(64):  # where a colour lies in its cube of level BOTTOM
        places[low, 0], places[low, 1], places[low, 2] = _corner(low, COLOURS)
    level = TOP
    while level >= TOP:
        if position[level] == end[level]:
            level -= 1
            continue
        node = position[level]
        position[level] += 1
        prefix = np.int64(prefixes[node])
        n = _keep_candidates(
            prefix, level, centers, kept[level - 1], n_kept[level - 1], kept[level]
        )
        n_kept[level] = n
        if n == 1 or level == depth:
            c = kept[level, 0]
            if n > 1:
                weight = node_weights[node]
                c = _nearest(
                    node_sums[node, 0] / weight,
                    node_sums[node, 1] / weight,
                    node_sums[node, 2] / weight,
                    centers,
                    kept[level],
                    n,
                )
            weights[c] += node_weights[node]
            sums[c, 0] += node_sums[node, 0]
            sums[c, 1] += node_sums[node, 1]
            sums[c, 2] += node_sums[node, 2]
        elif level == BOTTOM:
            base_red, base_green, base_blue = _corner(prefix, level)
            for i in range(starts[node], ends[node]):
                low = codes[i] & np.uint32(63)
                red = base_red + places[low, 0]
                green = base_green + places[low, 1]
                blue = base_blue + places[low, 2]
                c = _nearest(red, green, blue, centers, kept[level], n)
                weights[c] += counts[i]
                sums[c, 0] += counts[i] * red
                sums[c, 1] += counts[i] * green
                sums[c, 2] += counts[i] * blue
        else:
            level += 1
            position[level] = starts[node]
            end[level] = ends[node]


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
    kept, n_kept, position, end = _begin(centers.shape[0], first, last)
    level = TOP
    while level >= TOP:
        if position[level] == end[level]:
            level -= 1
            continue
        prefix = position[level]
        position[level] += 1
        n = _keep_candidates(
            prefix, level, centers, kept[level - 1], n_kept[level - 1], kept[level]
        )
        n_kept[level] = n
        if n > 1 and level < BOTTOM:
            level += 1
            position[level] = prefix * 8
            end[level] = prefix * 8 + 8
            continue
        side = 1 << (COLOURS - level)
        low_r, low_g, low_b = _corner(prefix, level)
        for red in range(low_r, low_r + side):
            for green in range(low_g, low_g + side):
                row = (red << 16) | (green << 8)
                for blue in range(low_b, low_b + side):
                    c = kept[level, 0]
                    if n > 1:
                        c = _nearest(red, green, blue, centers, kept[level], n)
                    table[row | blue] = c
