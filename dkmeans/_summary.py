"""Summaries: tables of weighted points that stand for all the data.

The exact summary of 8-bit images is the count of each colour. However many pixels there are,
k-means on the counted colours is k-means on every pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import colours as kernels
from dkmeans._kernels import octree
from dkmeans._kernels import points as point_kernels
from dkmeans._passes_threads import in_threads
from dkmeans._summary_octree import NODE_BYTES, Octree, parts_of

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
UInt8 = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.integer[Any]]

_N_GREY = 256
_MOST_CARRIES = 1000  # lists, before they are made one
_LISTED = 4 * (4 + 2)  # a code and a count, in bytes; to make the list takes some of each at once


def table_bytes(bands: int) -> int:
    """Return the size of the table in which colours are counted."""
    return (_N_GREY if bands == 1 else kernels.N_CODES) * 2


def summary_bytes(bands: int, n_pixels: int) -> int:
    """Return the most that the summary of so many pixels takes while it is made: cubes and tree."""
    n_codes = _N_GREY if bands == 1 else kernels.N_CODES
    n_cubes = min(n_pixels, n_codes // (4 if bands == 1 else kernels.CUBE)) + 1
    is_wide = n_pixels > np.iinfo(np.uint32).max
    return n_cubes * (kernels.CUBE * (8 if is_wide else 4) + 2 * NODE_BYTES)


class ColourCounts:
    """How often each colour occurs in some 8-bit blocks.

    Held as a table over all colours, 32 MiB for RGB and 512 bytes for grey, and a list of the
    colours that were carried and how many times. Pickled, the table is a list too where that is
    shorter. So to copy or to send one takes no more memory than the table itself, or twice where it
    becomes a list.

    Parameters
    ----------
    bands
        1 for grey, 3 for RGB. RGB counts take grey blocks too.
    """

    def __init__(self, bands: int) -> None:
        self.bands = bands
        self.n_pixels = 0
        # NumPy asks for huge pages, which make jumping about in the table faster, only for memory
        # that it does not get zeroed.
        self._table = np.empty(_N_GREY if bands == 1 else kernels.N_CODES, np.uint16)
        self._table[:] = 0
        self._carries: list[tuple[UInt32, Int64]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        used = None
        if np.count_nonzero(self._table) * _LISTED <= self._table.nbytes:
            used = np.flatnonzero(self._table).astype(np.uint32)
        table = self._table if used is None else self._table[used]
        return _restored, (self.bands, self.n_pixels, used, table, *self._carried())

    def __deepcopy__(self, memo: dict[int, Any]) -> "ColourCounts":
        # By way of a list it would take several times as much.
        del memo
        parts = (self.bands, self.n_pixels, None, self._table.copy(), *self._carried())
        return _restored(*parts)

    def add(self, block: UInt8) -> None:
        """Count the pixels of `block`, (height, width, 1 or 3)."""
        n_pixels = block.shape[0] * block.shape[1]
        self.n_pixels += n_pixels
        carries = np.empty(n_pixels, np.uint32)  # what is not written takes no memory
        if self.bands == 1:
            n = kernels.count_grey(block[..., 0], self._table, carries)
        elif (packed := words(block)) is not None:
            n = kernels.count_words(packed, self._table, carries)
        else:
            n = kernels.count_rgb(*planes(block), self._table, carries)
        self._carry_once(carries[:n])

    def merge(self, other: "ColourCounts") -> "ColourCounts":
        """Add the counts of `other` to these, and return these."""
        self.n_pixels += other.n_pixels
        carries = np.empty(self._table.size, np.uint32)
        n = kernels.add_counts(self._table, other._table, carries)  # noqa: SLF001 - of the same class
        self._carry_once(carries[:n])
        self._carry(*other._carried())  # noqa: SLF001 - of the same class
        return self

    def without(self, other: "ColourCounts") -> "ColourCounts":
        """Subtract the counts of `other`, which are part of these, and return these."""
        used = np.flatnonzero(self._table).astype(np.uint32)
        counts = self._get(used)
        theirs = np.flatnonzero(other._table).astype(np.uint32)  # noqa: SLF001 - of the same class
        counts[np.searchsorted(used, theirs)] -= other._get(theirs)  # noqa: SLF001 - of the same class
        return _from_list(self.bands, self.n_pixels - other.n_pixels, used, counts)

    def cubes(self) -> tuple[UInt32, Ints]:
        """Return the counts by cubes of 4 values a side in which any colour occurs.

        These are the upper 18 bits of their Z-codes, (n,) increasing, and the counts of their 64
        colours, (n, 64), as uint32 where all fit, else int64.
        """
        carried, times = self._carried()
        fits = times.max(initial=0) < np.iinfo(np.uint32).max // kernels.CARRY
        most = max(
            1, min(self.n_pixels, self._table.size // (4 if self.bands == 1 else kernels.CUBE))
        )
        # What is not written takes no memory. A cube is written before it is known to be empty.
        prefixes = np.empty(most + 1, np.uint32)
        cubes = np.empty((most + 1, kernels.CUBE), np.uint32 if fits else np.int64)
        if self.bands == 1:
            n = kernels.collect_grey(self._table, prefixes, cubes)
        else:
            n = kernels.collect_rgb(self._table.view(np.uint64), prefixes, cubes)
        prefixes, cubes = prefixes[:n], cubes[:n]
        codes = np.empty_like(carried)
        kernels.interleave_bits(carried, codes)
        rows = np.searchsorted(prefixes, codes // kernels.CUBE)
        cubes[rows, codes % kernels.CUBE] += (times * kernels.CARRY).astype(cubes.dtype)
        return prefixes, cubes

    def _carry_once(self, codes: UInt32) -> None:
        """Note colours that were carried once each, from a place that others are written to."""
        if codes.size:
            self._carry(codes.copy(), np.ones(codes.size, np.int64))

    def _carry(self, codes: UInt32, times: Int64) -> None:
        if codes.size:
            self._carries.append((codes, times))
        if len(self._carries) > _MOST_CARRIES:
            self._carries = [self._carried()]

    def _carried(self) -> tuple[UInt32, Int64]:
        """Return the codes that were carried, increasing, and how many times."""
        codes = np.concatenate([np.empty(0, np.uint32), *(c for c, _ in self._carries)])
        unique, which = np.unique(codes, return_inverse=True)
        times = np.zeros(unique.size, np.int64)
        np.add.at(times, which, np.concatenate([times[:0], *(t for _, t in self._carries)]))
        return unique, times

    def _get(self, codes: UInt32) -> Int64:
        """Return the counts of `codes`, which are all that occur."""
        counts = self._table[codes].astype(np.int64)
        carried, times = self._carried()
        counts[np.searchsorted(codes, carried)] += times * kernels.CARRY
        return counts


def _restored(  # noqa: PLR0917 - what a pickle holds
    bands: int,
    n_pixels: int,
    used: UInt32 | None,
    table: npt.NDArray[np.uint16],
    carried: UInt32,
    times: Int64,
) -> ColourCounts:
    """Return counts of a table, or of its entries at the codes `used`."""
    result = ColourCounts.__new__(ColourCounts)
    if used is not None:
        result = ColourCounts(bands)
        result._table[used] = table  # noqa: SLF001 - a second constructor
    else:
        result.bands, result._carries = bands, []  # noqa: SLF001 - a second constructor
        result._table = table if table.flags.writeable else table.copy()  # noqa: SLF001 - a second constructor
    result.n_pixels = n_pixels
    result._carry(carried, times)  # noqa: SLF001 - a second constructor
    return result


def _from_list(bands: int, n_pixels: int, codes: UInt32, counts: Int64) -> ColourCounts:
    result = ColourCounts(bands)
    result.n_pixels = n_pixels
    times = np.maximum(counts - 1, 0) // kernels.CARRY
    result._table[codes] = counts - times * kernels.CARRY  # noqa: SLF001 - a second constructor
    result._carry(codes[times > 0], times[times > 0])  # noqa: SLF001 - a second constructor
    return result


def planes(block: UInt8) -> tuple[UInt8, UInt8, UInt8]:
    """Split a block into red, green and blue; a grey block is all three."""
    return block[..., 0], block[..., block.shape[-1] // 2], block[..., -1]


def words(block: UInt8) -> UInt32 | None:
    """Return a view of a block, (height, width, 3), as words of four bytes, (height, 3 width / 4).

    None if its bands do not lie side by side, or its rows do not begin and end with a word.
    """
    height, width, bands = block.shape
    one_by_one = block.strides[1:] == (bands, 1)
    if bands != 3 or not one_by_one or width % 4 or block.strides[0] % 4:  # noqa: PLR2004 - bytes
        return None
    packed = block.reshape(height, 3 * width).view("<u4")
    return packed if packed.flags.aligned else None


@dataclass(frozen=True)
class Totals:
    """What an assignment yields: per centre, the weight (k,) and weighted sum (k, d), int64."""

    weights: Int64
    sums: Int64

    def copy(self) -> "Totals":
        """Return a copy."""
        return Totals(self.weights.copy(), self.sums.copy())

    def move(self, point: "Totals", owner: int, cluster: int) -> None:
        """Make a point, of one cluster `owner`, the only one of an empty `cluster`."""
        self.weights[owner] -= point.weights[0]
        self.weights[cluster] = point.weights[0]
        self.sums[owner] -= point.sums[0]
        self.sums[cluster] = point.sums[0]

    def means(self, previous: Float64) -> Float64:
        """Return the mean of each cluster, (k, d) float64; empty ones keep `previous`."""
        means = previous.copy()
        full = self.weights > 0
        means[full] = self.sums[full] / self.weights[full, None]
        return means


class ColourSummary:
    """Counted colours as the points of k-means, with an octree over them.

    The points can be taken at several depths: at the last, each colour is a point; at the others,
    the cubes of an octree level are, each at the mean of its colours. All totals are integers.

    Parameters
    ----------
    counts
        At least one colour.
    """

    depths: tuple[int, ...] = (4, 5, 6, octree.COLOURS)

    def __init__(self, counts: ColourCounts) -> None:
        self.bands = counts.bands
        self.weight = counts.n_pixels
        self._prefixes, self._cubes = counts.cubes()
        self.n_points = int(np.count_nonzero(self._cubes))
        self._tree = Octree(self._prefixes, self._cubes)

    @property
    def codes(self) -> UInt32:
        """The Z-codes of the distinct colours, (n,), increasing; made at each call."""
        cubes, rest = np.nonzero(self._cubes)
        return self._prefixes[cubes] * np.uint32(kernels.CUBE) + rest.astype(np.uint32)

    @property
    def counts(self) -> Int64:
        """The counts of the distinct colours, (n,), in the order of `codes`; made at each call."""
        return self._cubes[self._cubes > 0].astype(np.int64)

    @cached_property
    def squares(self) -> tuple[int, ...]:
        """The sum of squares over all pixels, for each band, exact."""
        # As Python integers: the sum of squares outgrows int64 where the counts do not.
        bands = self._tree.values[: self.bands].tolist()
        return tuple(sum(v * v * count for v, count in enumerate(band)) for band in bands)

    @cached_property
    def total(self) -> tuple[int, ...]:
        """The sum over all pixels, for each band, exact."""
        _, sums = self._tree.level(octree.TOP)
        return tuple(int(s) for s in sums.sum(axis=0)[: self.bands])

    @cached_property
    def mean_variance(self) -> float:
        """The variance of the bands over all pixels, averaged over bands."""
        variances = [
            Fraction(self.weight * squares - total * total, self.weight * self.weight)
            for squares, total in zip(self.squares, self.total, strict=True)
        ]
        return float(sum(variances) / len(variances))

    def inertia(self, centers: Float64, totals: Totals, depth: int = octree.COLOURS) -> float:  # noqa: ARG002 - exact at any depth
        """Return the sum of squared distances behind `totals`, exact but for one rounding.

        For points x with weights w in the cluster of centre c, the sum of w |x - c|^2 is the sum
        of w |x|^2 less 2 c . (sum of w x) plus |c|^2 (sum of w): all integers but c, which is an
        integer over a power of two. Nothing cancels, however large the data.
        """
        # Over the greatest denominator, a power of two as all are: fractions would reduce each sum.
        ratios = [value.as_integer_ratio() for value in centers.ravel().tolist()]
        scale = max(below for _, below in ratios)
        scaled = iter([above * (scale // below) for above, below in ratios])
        result = sum(self.squares) * scale * scale
        for weight, sums in zip(totals.weights.tolist(), totals.sums.tolist(), strict=True):
            for total in sums:
                value = next(scaled)
                result += value * (value * weight - 2 * total * scale)
        return result / (scale * scale)

    def colours(self) -> UInt8:
        """Return the distinct colours, (n, bands) uint8, in the order of `codes`."""
        codes = self.codes
        out = np.empty((codes.size, 3), np.uint8)
        kernels.decode(codes, out)
        return out[:, : self.bands]

    def n_points_at(self, depth: int) -> int:
        """Count the points at `depth`."""
        return self.n_points if depth == octree.COLOURS else len(self._tree.level(depth)[0])

    def spread_within(self, depth: int) -> float:
        """Return the sum of squared distances of all pixels to their points at `depth`."""
        if depth == octree.COLOURS:
            return 0.0
        weights, sums = self._tree.level(depth)
        return sum(self.squares) - float((sums.astype(np.float64) ** 2 / weights[:, None]).sum())

    def points(self, depth: int) -> tuple[npt.NDArray[Any], Float64]:
        """Return the points at `depth`, (n, bands), and their weights, (n,), as float64.

        Single colours are uint8, among which starts are chosen in half the time; means are float64.
        """
        if depth == octree.COLOURS:
            return self.colours(), self.counts.astype(np.float64)
        weights, sums = self._tree.level(depth)
        return sums[:, : self.bands] / weights[:, None], weights.astype(np.float64)

    def begin(self, n_clusters: int, depth: int) -> "_ColourSteps":  # noqa: ARG002 - steps of rows ask
        """Return the steps of one run over the points at `depth`."""
        return _ColourSteps(self, depth)

    def assign(self, centers: Float64, depth: int) -> Totals:
        """Add each point at `depth` to its nearest centre; `centers` is (k, bands) float64."""
        centers = _in_rgb(centers)
        tree = self._tree

        def part(bounds: tuple[int, int]) -> Totals:
            totals = Totals(np.zeros(len(centers), np.int64), np.zeros((len(centers), 3), np.int64))
            octree.assign_accumulate(
                self._cubes,
                *tree.arrays,
                centers,
                depth,
                *bounds,
                totals.weights,
                totals.sums,
            )
            return totals

        parts = in_threads(part, tree.split(parts_of(self.n_points_at(depth))))
        weights = np.sum([part.weights for part in parts], axis=0)
        sums = np.sum([part.sums for part in parts], axis=0)
        return Totals(weights, sums[:, : self.bands])

    def farthest(self, centers: Float64, n: int, depth: int) -> Iterator[tuple[int, Totals]]:
        """Yield up to `n` points farthest from their nearest centre, each with that centre.

        Points at distance zero are left out; ties are taken in the order of the points.
        """
        points, weights = self.points(depth)
        labels, distances = np.empty(len(points), np.int64), np.empty(len(points))
        point_kernels.nearest(points.astype(np.float64), centers, labels, distances)
        for i in np.argsort(-distances, kind="stable")[:n]:
            if distances[i] == 0:
                return
            weight = weights[i : i + 1].astype(np.int64)
            sums = np.rint(points[i : i + 1] * weights[i]).astype(np.int64)
            yield labels[i], Totals(weight, sums)


class _ColourSteps:
    """Steps over colours; each is as the first. Implements `dkmeans._lloyd.Steps`."""

    labels = None

    def __init__(self, summary: ColourSummary, depth: int) -> None:
        self._summary, self._depth = summary, depth

    def assign(self, centers: Float64) -> Totals:
        """Add each point to its nearest centre."""
        self._last = centers, self._summary.assign(centers, self._depth)
        return self._last[1]

    def inertia(self) -> float:
        """Return the weighted sum of squared distances from the last centres."""
        return self._summary.inertia(*self._last, self._depth)


def _in_rgb(centers: Float64) -> Float64:
    """Place grey centres on the red axis, where Z-codes have grey values."""
    out = np.zeros((len(centers), 3))
    out[:, : centers.shape[1]] = centers
    return out
