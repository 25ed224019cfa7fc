"""A step of k-means that spares rows whose label cannot have changed, and centres too far to win.

For each row a bound above the distance to its centre is kept, and one below that to any other
(after G. Hamerly, "Making k-means even faster", SDM 2010): when centres move, so do the bounds, and
while they do not meet, the label stays. Rows that are left are grouped by label, and compared with
those centres only that are near enough to their own (after J. Newling and F. Fleuret, "Fast k-means
with accurate bounds", ICML 2016): one more than twice as far from it as a row is not nearer.

Both follow from the triangle inequality, with room for all rounding: labels are those of
`rows.assign`. Distances are times `unit`, as there.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import rows as kernels
from dkmeans._kernels import scores, vectors
from dkmeans._kernels.compile import kernel, reordered_kernel

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Rows = npt.NDArray[Any]

_CHUNK_BYTES = 1 << 20  # of rows, looked at before what is left of them is worked on
_CHUNK_ROWS = 1 << 13  # at least
_SPARED = 0.3  # of the centres, at least; else it is not worth it to choose
_PAUSE = 7  # chunks
_ABOVE = np.float32(1) + kernels.SURELY
_BELOW = np.float32(1) - kernels.SURELY


@reordered_kernel
def distance(
    rows: Rows, row: int, shift: Float64, offsets: Float64, center: int, unit: float
) -> float:
    """Return the distance of a row from a centre, times `unit`, rounded as it comes."""
    total = 0.0
    for j in range(rows.shape[1]):
        difference = ((np.float64(rows[row, j]) - shift[j]) - offsets[center, j]) * unit
        total += difference * difference
    return float(np.sqrt(total))


@reordered_kernel
def between(offsets: Float64, unit: float, out: Float32) -> None:
    """Write what the distances between centres are at least, times `unit`: `out` is OUT (k, k)."""
    for a in range(offsets.shape[0]):
        out[a, a] = 0
        for b in range(a):
            total = 0.0
            for j in range(offsets.shape[1]):
                difference = (offsets[a, j] - offsets[b, j]) * unit
                total += difference * difference
            out[a, b] = out[b, a] = np.float32(np.sqrt(total)) * _BELOW


@kernel
def left(
    rows: Rows,
    start: int,
    stop: int,
    shift: Float64,
    unit: float,
    offsets: Float64,
    drifts: Float32,
    apart: Float32,
    labels: Int32,
    upper: Float32,
    lower: Float32,
    order: Int64,
) -> int:
    """Bring the bounds of rows `start` to `stop` up to date; write which rows are left to `order`.

    `drifts`, (k + 1,), are at least how far centres have moved, the last one the largest; `apart`,
    (k,), at most half of how far the next centre is from each. Returns how many are left.
    """
    n_left = 0
    most = drifts[drifts.size - 1]
    for row in range(start, stop):  # without branches, which would go either way
        label = labels[row]
        at = max(label, 0)
        far = lower[row] * _BELOW - most
        near = (upper[row] + drifts[at]) * _ABOVE
        lower[row], upper[row] = far, near
        order[n_left] = row
        n_left += (label >= 0) & (not near < max(far, apart[at]))  # below 0: NaN
    n_doubtful, n_left = n_left, 0
    for i in range(n_doubtful):
        row = order[i]
        label = labels[row]
        near = np.float32(distance(rows, row, shift, offsets, label, unit)) * _ABOVE
        upper[row] = near
        order[n_left] = row
        n_left += not near < max(lower[row], apart[label])
    return n_left


@kernel
def group(order: Int64, n: int, labels: Int32, starts: Int64, grouped: Int64) -> None:
    """Write the first `n` rows of `order` to `grouped`, OUT (n or more,), label by label.

    `starts` is OUT (k + 1,): where each label begins.
    """
    starts[:] = 0
    for i in range(n):
        starts[labels[order[i]] + 1] += 1
    for c in range(starts.size - 1):
        starts[c + 1] += starts[c]
    places = starts.copy()
    for i in range(n):
        label = labels[order[i]]
        grouped[places[label]] = order[i]
        places[label] += 1


@kernel
def choose(
    near: Float32,
    radius: float,
    centers: Floats,
    halves: Floats,
    names: Int64,
    chosen: Floats,
    chosen_halves: Floats,
) -> int:
    """Pack the centres at most `radius` from one, as `near`, (k,), tells; return how many.

    `names`, `chosen` and `chosen_halves` are OUT: which they are, in their order, and as
    `vectors.two_nearest` takes them. If they are most, none is packed.
    """
    n_chosen = 0
    for c in range(near.size):
        names[n_chosen] = c
        n_chosen += near[c] <= radius
    if n_chosen > near.size * (1 - _SPARED):
        return n_chosen
    scores.pack(names, n_chosen, centers, halves, chosen, chosen_halves)
    return n_chosen


@kernel
def reassign(
    rows: Rows,
    shift: Float64,
    rough_shift: Floats,
    unit: float,
    offsets: Float64,
    centers: Floats,
    halves: Floats,
    labels: Int32,
    upper: Float32,
    lower: Float32,
    drifts: Float32,
    apart: Float32,
    near: Float32,
    habits: Int64,
) -> None:
    """Do what `rows.assign` does, where labels and bounds are those of the last step.

    Parameters
    ----------
    rows, shift, rough_shift, unit, offsets, centers, halves, labels, upper, lower
        As for `rows.assign`; the last three are OUT.
    drifts, apart
        See `left`.
    near
        (k, k), see `between`; or (0, 0), where centres are not worth choosing from.
    habits
        OUT (2,): for how many chunks it is not worth it to look closer, and to choose centres.
    """
    k = offsets.shape[0]
    chunk = max(_CHUNK_BYTES // (rows.shape[1] * rows.itemsize), _CHUNK_ROWS)
    order, grouped = np.empty(chunk + 1, np.int64), np.empty(chunk + 1, np.int64)
    starts = np.empty(k + 1, np.int64)
    nowhere = np.empty((0, 0), np.float32)
    # What it costs to look at a row, as a share of what it costs to compare it; in nanoseconds.
    looking = (4 + 0.5 * rows.shape[1]) / (8 + 0.02 * rows.shape[1] * k)
    for start in range(0, rows.shape[0], chunk):
        stop = min(start + chunk, rows.shape[0])
        if habits[0] > 0:
            habits[0] -= 1
            kernels.assign(
                rows[start:stop], shift, rough_shift, unit, offsets, centers, halves,
                labels[start:stop], upper[start:stop], lower[start:stop],
            )  # fmt: skip
            continue
        n_left = left(
            rows, start, stop, shift, unit, offsets, drifts, apart, labels, upper, lower, order
        )
        starts[0], starts[1] = 0, n_left
        n_groups, todo, at_most = 1, order, nowhere
        if near.size > 0 and habits[1] == 0:
            group(order, n_left, labels, starts, grouped)
            n_groups, todo, at_most = k, grouped, near
        done = compare(
            rows, todo, starts, n_groups, shift, rough_shift, unit, offsets, centers, halves,
            labels, upper, lower, at_most,
        )  # fmt: skip
        habits[1] = max(habits[1] - 1, 0)
        if n_groups == k and done > (1 - _SPARED) * n_left:
            habits[1] = _PAUSE
        if done > (0.9 - looking) * (stop - start):
            habits[0] = _PAUSE


@kernel
def compare(
    rows: Rows,
    order: Int64,
    starts: Int64,
    n_labels: int,
    shift: Float64,
    rough_shift: Floats,
    unit: float,
    offsets: Float64,
    centers: Floats,
    halves: Floats,
    labels: Int32,
    upper: Float32,
    lower: Float32,
    near: Float32,
) -> float:
    """Compare the rows of each group with the centres near to theirs; see `reassign`.

    Returns as how many rows it has compared, had each been compared with all centres.
    """
    k = offsets.shape[0]
    tile, block, best, second, norms, found = vectors.room(scores.LANES, rows, centers)
    names, everyone = np.empty(k + 1, np.int64), np.empty(0, np.int64)
    some, some_halves = np.zeros_like(centers), np.zeros_like(halves)
    reach, precision = scores.reach_of(offsets, halves), scores.precision_of(rows, halves)
    done = 0.0
    for label in range(n_labels):
        if starts[label] == starts[label + 1]:
            continue
        n_chosen: Any = k
        radius: Any = np.float32(np.inf)
        if near.size > 0:
            radius = np.float32(0)
            for at in range(starts[label], starts[label + 1]):
                radius = max(radius, upper[order[at]])
            radius = 2 * radius * _ABOVE
            n_chosen = choose(near[label], radius, centers, halves, names, some, some_halves)
        is_all = n_chosen > k * (1 - _SPARED)
        packed, squares, n_groups = centers, halves, centers.shape[0]
        if not is_all:
            packed, squares, n_groups = some, some_halves, -(-n_chosen // vectors.GROUP)
        for start in range(starts[label], starts[label + 1], scores.LANES):
            stop = min(start + scores.LANES, starts[label + 1])
            n_lanes = scores.compare(
                rows, order, start, stop, rough_shift, unit, packed, squares, n_groups,
                tile, block, best, second, norms, found,
            )  # fmt: skip
            done += (stop - start) * (1.0 if is_all else n_chosen / k)
            scores.limits(n_lanes, best, second, norms, precision, reach)
            kernels.settle(
                rows, order, start, stop, shift, offsets, everyone if is_all else names[:n_chosen],
                radius, best, second, norms, found, labels, upper, lower,
            )  # fmt: skip
    return done
