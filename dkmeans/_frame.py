"""The frame in which rows are seen, and the sums that are taken in it.

A frame is where offsets are measured from, and the powers of two that bring them to the range of
the kernels. It follows from the data's ranges and a point near their middle, not from how they are
divided into blocks; so all that is summed in it has the same bits for any division.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dkmeans import _frame_aligned as aligned
from dkmeans._frame_aligned import Aligned
from dkmeans._frame_moves import Bounds, Known, Moves
from dkmeans._frame_ranges import Ranges, for_kernels
from dkmeans._kernels import bounds as bound_kernels
from dkmeans._kernels import boxes as box_kernels
from dkmeans._kernels import centers as center_kernels
from dkmeans._kernels import rows as kernels
from dkmeans._kernels import sums as sum_kernels
from dkmeans._kernels import vectors

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Rows = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

_NO_WEIGHTS: Float64 = np.empty(0)
NO_LABELS: Int32 = np.empty(0, np.int32)
_NO_BOUNDS: Bounds = np.empty(0, np.float32), np.empty(0, np.float32)
_MOST_EXPONENT = 1000  # of a power of two that float64 holds with room to spare


def _given(weights: Float64 | None) -> Float64:
    """Return weights as kernels take them, which tell by the length that there are none."""
    return for_kernels(_NO_WEIGHTS if weights is None else weights)


@dataclass(frozen=True, eq=False)
class Frame(Aligned):
    """Where offsets are measured from, and how they are scaled.

    Attributes
    ----------
    shift
        (d,) float64: what offsets are measured from.
    unit
        The power of two that brings the largest offset to between 1/2 and 1.
    scales
        (d,), and one more for weights: powers of two that bring the largest terms of sums to just
        below 2**50.
    precision
        The dtype of scores, float32 or float64.
    center_dtype
        The dtype of centres, float32 or float64. Centres are kept as float64, rounded to it.
    deep
        Whether sums keep more than 50 bits below their largest term.
    """

    shift: Float64
    unit: float
    scales: Float64
    precision: np.dtype[Any]
    center_dtype: np.dtype[Any]
    deep: bool

    _ALIGNED = "shift", "scales"

    @classmethod
    def of(cls, ranges: Ranges, middle: Float64, dtype: np.dtype[Any], *, weighted: bool) -> Self:
        """Return the frame for rows of these ranges and dtype, with offsets from `middle`.

        `middle` is rounded to what the data can hold, so that offsets are exact or nearly so.
        """
        is_integer = dtype.kind in "iu"
        shift = np.rint(middle) if is_integer else middle.astype(dtype).astype(np.float64)
        largest = np.maximum(np.abs(ranges.low - shift), np.abs(ranges.high - shift))
        # Terms are offsets times weights; those of the last column are the weights themselves.
        exponents = _exponents(largest)
        if weighted:
            exponents = np.append(exponents, 0) + _exponents(np.array([ranges.heaviest]))
        limits = -_MOST_EXPONENT, _MOST_EXPONENT
        scales = np.ldexp(1.0, np.clip(sum_kernels.BITS - exponents, *limits))
        exponent = int(_exponents(largest).max())
        return cls(
            shift,
            float(np.ldexp(1.0, min(-exponent, _MOST_EXPONENT))),
            scales,
            np.dtype(np.float64 if dtype == np.float64 else np.float32),
            np.dtype(np.float32 if dtype == np.float32 else np.float64),
            deep=weighted or dtype == np.float64,
        )

    @property
    def is_weighted(self) -> bool:
        """Whether rows have weights."""
        return self.scales.size > self.shift.size

    def rough_shift(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return the shift in the precision in which rows of a dtype are shifted for scores.

        That of scores, where it holds the rows and the shift as they are.
        """
        return self.shift if dtype == np.float64 else self.shift.astype(self.precision)

    def rounded(self, centers: Float64) -> Float64:
        """Return centres as their dtype holds them."""
        return centers.astype(self.center_dtype).astype(np.float64)

    def centers(self, centers: npt.NDArray[Any]) -> "Centers":
        """Make centres, (k, d), ready for the kernels."""
        k, d = centers.shape
        n_groups = -(-k // vectors.GROUP)
        offsets = aligned.zeros((k, d), np.float64)
        packed = np.empty((n_groups, d, vectors.GROUP), self.precision)
        halves = np.empty(n_groups * vectors.GROUP, self.precision)
        given = for_kernels(centers.astype(np.float64, copy=False))
        center_kernels.pack(given, self.shift, self.unit, offsets, packed, halves)
        return Centers(self, offsets, packed, halves)

    def totals(self, n_clusters: int) -> "RowTotals":
        """Return totals of nothing."""
        sums = aligned.zeros((3, n_clusters, self.scales.size), np.int64)
        limbs = np.zeros(sum_kernels.LIMBS, np.int64)
        return RowTotals(self, np.zeros(n_clusters, np.int64), sums, limbs)

    def only(self, values: Rows, weights: Float64 | None) -> "RowTotals":
        """Return the totals of rows that are all in one cluster, without squared distances."""
        totals = self.totals(1)
        totals.move_rows(values, weights, NO_LABELS, np.zeros(len(values), np.int32))
        return totals


def _exponents(values: Float64) -> npt.NDArray[np.int32]:
    """Return e for each value, such that it is below 2**e; 0 for 0."""
    exponents: npt.NDArray[np.int32] = np.frexp(values)[1]
    return exponents


@dataclass(frozen=True, eq=False)
class Centers(Aligned):
    """Centres in a frame, as the kernels take them."""

    frame: Frame
    offsets: Float64
    packed: npt.NDArray[Any]
    halves: npt.NDArray[Any]
    moves: Moves | None = None

    _ALIGNED = ("offsets",)

    def after(self, previous: "Centers", n_rows: int) -> "Centers":
        """Return the same centres, and how far they are from those of the last step."""
        return replace(
            self, moves=Moves.of(self.offsets, previous.offsets, self.frame.unit, n_rows)
        )

    def assign(
        self, values: Rows, labels: Int32 | None = None, bounds: Bounds | None = None
    ) -> Int32:
        """Return the label of each row, (n,) int32; -1 for rows with NaN. See `kernels.assign`."""
        if labels is None:
            labels = np.empty(len(values), np.int32)
        kernels.assign(*self._prepared(values), labels, *(_NO_BOUNDS if bounds is None else bounds))
        return labels

    def assign_again(self, values: Rows, known: Known) -> None:
        """Bring what is known of rows up to these centres."""
        if self.moves is None or not known.bounds[0].size:
            self.assign(values, known.labels, known.bounds)
            return
        bound_kernels.reassign(
            *self._prepared(values),
            known.labels,
            *known.bounds,
            self.moves.drifts,
            self.moves.apart,
            self.moves.between,
            known.habits,
        )

    def assign_boxed(self, values: Rows, boxes: Float64, labels: Int32) -> None:
        """Write the label of each row, where tiles of rows have boxes; see `boxes.assign`."""
        box_kernels.assign(*self._prepared(values), boxes, labels)

    def _prepared(self, values: Rows) -> tuple[Rows, Float64, Any, float, Float64, Any, Any]:
        """Return rows and these centres as the kernels that compare them take both."""
        frame = self.frame
        rough_shift = frame.rough_shift(values.dtype)
        rows = for_kernels(values)
        return rows, frame.shift, rough_shift, frame.unit, self.offsets, self.packed, self.halves

    def measure(
        self, values: Rows, weights: Float64 | None, labels: Int32, totals: "RowTotals"
    ) -> None:
        """Add squared distances to `totals`."""
        known = for_kernels(values), _given(weights), for_kernels(labels)
        kernels.add_squared_distances(*known, self.frame.shift, self.offsets, totals.limbs)

    def squared_distances(
        self, values: Rows, labels: Int32, weights: Float64 | None = None
    ) -> Float64:
        """Return the squared distance of each row to the centre of its label, times its weight."""
        out = np.empty(len(values))
        known = for_kernels(values), _given(weights), for_kernels(labels)
        kernels.squared_distances(*known, self.frame.shift, self.offsets, out)
        return out

    def distances(self, values: Rows) -> npt.NDArray[Any]:
        """Return the distance of each row to each centre, (n, k), in the centres' dtype."""
        out = np.empty((len(values), len(self.offsets)), self.frame.center_dtype)
        kernels.distances(for_kernels(values), self.frame.shift, self.offsets, out)
        return out

    def add(self, values: Rows, weights: Float64 | None, totals: "RowTotals") -> Int32:
        """Assign rows and add them to `totals`; return the labels."""
        labels = self.assign(values)
        totals.move_rows(values, weights, NO_LABELS, labels)
        self.measure(values, weights, labels, totals)
        return labels


@dataclass(eq=False)
class RowTotals:
    """What an assignment of rows yields, as integers: associative, whatever the order.

    Attributes
    ----------
    frame
        The frame of the sums.
    counts
        (k,) int64: the rows of each cluster.
    sums, limbs
        The sums of offsets, (3, k, d or d + 1), and of squared distances, see `_kernels.sums`.
    """

    frame: Frame
    counts: Int64
    sums: Int64
    limbs: Int64 = field(repr=False)

    def merge(self, *others: "RowTotals") -> "RowTotals":
        """Add those of other rows, up to some thousand, to these, and return these."""
        for other in others:
            self.counts += other.counts
            self.sums += other.sums
            self.limbs += other.limbs
        sum_kernels.carry(self.sums)
        sum_kernels.carry_limbs(self.limbs)
        return self

    def move_rows(self, values: Rows, weights: Float64 | None, before: Int32, labels: Int32) -> int:
        """Add rows to the sums of their clusters, and take them from those they were in `before`.

        `before` is (n,), -1 for rows in none; or (0,) for all in none. Return how many were in
        another.
        """
        frame = self.frame
        n_moved: int = kernels.accumulate(
            for_kernels(values), _given(weights), before, labels, frame.shift, frame.scales,
            frame.deep, self.counts, self.sums,
        )  # fmt: skip
        return n_moved

    def add_repeated(self, distances: Float64, counts: Int64) -> None:
        """Add squared distances, (n,), each so often as `counts`, up to 2**52, tells."""
        # Both are cut into parts of at most 27 and 26 bits, whose products are exact.
        high = (distances.view(np.int64) & -(1 << 27)).view(np.float64)
        for part in (high, distances - high):
            for times in (counts & -(1 << 26), counts & ((1 << 26) - 1)):
                sum_kernels.add_exactly(part * times, self.limbs)
        sum_kernels.carry_limbs(self.limbs)

    def copy(self) -> "RowTotals":
        """Return a copy."""
        return RowTotals(self.frame, self.counts.copy(), self.sums.copy(), self.limbs.copy())

    def move(self, point: "RowTotals", owner: int, cluster: int) -> None:
        """Make a point, of one cluster `owner`, the only one of an empty `cluster`."""
        self.counts[owner] -= point.counts[0]
        self.counts[cluster] = point.counts[0]
        self.sums[:, owner] -= point.sums[:, 0]
        self.sums[:, cluster] = point.sums[:, 0]
        sum_kernels.carry(self.sums)

    @property
    def weights(self) -> npt.NDArray[Any]:
        """The weight of each cluster, (k,) float64; the number of its rows, int64, without any."""
        if not self.frame.is_weighted:
            return self.counts
        weights = np.empty(len(self.counts))
        center_kernels.weights(self.sums, self.frame.scales, weights)
        return weights

    @property
    def inertia(self) -> float:
        """The sum of squared distances times weights, rounded once; infinite beyond float64."""
        total = sum(limb << (32 * i) for i, limb in enumerate(self.limbs.tolist()))
        try:
            return float(total / (1 << 1074))
        except OverflowError:
            return np.inf

    def exact_means(self) -> Float64:
        """Return the mean of each cluster, (k, d) float64; NaN for empty ones."""
        return self._means(np.full((len(self.counts), self.frame.shift.size), np.nan))

    def means(self, previous: Float64) -> Float64:
        """Return the mean of each cluster, in the dtype of centres; empty ones keep `previous`.

        Empty are also those whose rows weigh too little beside the heaviest to be added up.
        """
        return self.frame.rounded(self._means(previous))

    def _means(self, previous: Float64) -> Float64:
        means = np.empty(previous.shape)
        frame = self.frame
        weights = self.weights.astype(np.float64, copy=False)
        center_kernels.means(
            self.sums, weights, frame.shift, frame.scales, for_kernels(previous), means
        )
        return means
