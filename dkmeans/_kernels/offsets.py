"""Offsets of single rows, a vector of features at a time: added to sums, and squared.

Numba's loops over the features of a row are too short to be worth vectors to it, and each looks
first whether its arrays overlap. These are written for LLVM, as those of `_kernels.vectors` are.
"""

from functools import partial, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from dkmeans._kernels import sums as sum_kernels
from dkmeans._kernels.compile import JIT, array_of, intrinsic, row_of
from dkmeans._kernels.writer import BYTES, INDEX, Writer, constant, like

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]

LANES = BYTES // 8  # features at a time
_DOUBLE = ir.DoubleType()


def add_plainly(
    rows: Rows,
    row: int,
    weight: float,
    shift: Float64,
    scales: Float64,
    deep: bool,  # noqa: FBT001 - kernels take all by position
    sums: Int64,
    cluster: int,
    column: int,
    sign: int,
) -> None:
    """Add the offset of a row, times weight and scale, to the sums of a cluster, or take it away.

    Parameters
    ----------
    rows, row
        (n, d), C-contiguous, and which.
    weight, shift, scales
        See `rows.accumulate`; (d,), or more scales than are needed.
    deep
        Whether what rounding to integers takes away is kept, in a second one.
    sums, cluster, column
        OUT, see `_kernels.sums`; and where in it the first feature belongs.
    sign
        0 to add, -1 to take away.
    """
    offset = (rows[row].astype(np.float64) - shift) * scales[: shift.size] * weight
    high = np.rint(offset)
    columns = slice(column, column + len(offset))
    sums[1, cluster, columns] += high.astype(np.int64) * (1 + 2 * sign)
    if deep:
        low = np.rint((offset - high) * 2.0**sum_kernels.BITS)
        sums[2, cluster, columns] += low.astype(np.int64) * (1 + 2 * sign)


def square_plainly(
    rows: Rows, row: int, shift: Float64, centers: Float64, cluster: int, out: Float64, place: int
) -> None:
    """Write the squared distance of a row from a centre.

    Squares are added LANES features side by side, and then these sums by halves; of the features
    that are left, four, two and one likewise. So the bits are the same by any instructions.

    Parameters
    ----------
    rows, row
        (n, d), C-contiguous, and which.
    shift, centers, cluster
        (d,); (k, d), as offsets from it; and which. Differences are taken before they are squared.
    out, place
        OUT (m,), and where in it.
    """
    squares = (rows[row].astype(np.float64) - shift - centers[cluster]) ** 2
    whole = len(squares) // LANES * LANES
    sums, rest = squares[:whole].reshape(-1, LANES), 0.0
    out[place] = _by_halves(reduce(np.add, sums, np.zeros(LANES)))
    while whole < len(squares):
        n = 1 << ((len(squares) - whole).bit_length() - 1)
        rest += _by_halves(squares[whole : whole + n])
        whole += n
    out[place] += rest


def _by_halves(numbers: Float64) -> Any:
    while len(numbers) > 1:
        numbers = numbers[: len(numbers) // 2] + numbers[len(numbers) // 2 :]
    return numbers[0]


class _Offsets(Writer):
    """Reads the offsets of a row, of as many features as are wanted."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any, shift: int) -> None:
        self._kinds = signature.args[0].dtype, signature.args[shift].dtype
        super().__init__(context, builder, self._kinds[1])
        self._row = row_of(context, builder, signature, args, 0, args[1])
        self._shift = array_of(context, builder, signature, args, shift)[0]
        self.n_features = array_of(context, builder, signature, args, 0)[1][1]

    def read(self, data: Any, place: Any, n: int) -> Any:
        """Read `n` numbers, a vector, or one alone."""
        element = data.type.pointee
        return self.load(data, place, ir.VectorType(element, n) if n > 1 else element, 1)

    def offset(self, place: Any, n: int) -> Any:
        """Return the offsets of `n` features."""
        value = self.converted(self.read(self._row, place, n), *self._kinds)
        return self.builder.fsub(value, self.read(self._shift, place, n))


def _write_add(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Write `add_plainly` in LLVM's language."""
    offsets = _Offsets(context, builder, signature, args, 3)
    scales = array_of(context, builder, signature, args, 4)[0]
    sums, (_, n_clusters, n_columns) = array_of(context, builder, signature, args, 6)
    first = builder.add(builder.mul(args[7], n_columns), args[8])
    plane = builder.mul(n_clusters, n_columns)

    def add(value: Any, number: int, place: Any, n: int) -> Any:
        """Round numbers to integers and add them to a plane; return them rounded."""
        shift = constant(value.type, _DOUBLE, sum_kernels.ROUND)
        rounded = builder.fadd(value, shift)
        bits = builder.bitcast(rounded, like(value.type, INDEX))
        whole = builder.sub(bits, constant(value.type, INDEX, sum_kernels.ROUND_BITS))
        sign = offsets.splat(args[9], whole.type)
        signed = builder.sub(builder.xor(whole, sign), sign)
        where = builder.add(builder.add(first, builder.mul(plane, INDEX(number))), place)
        offsets.store(builder.add(offsets.read(sums, where, n), signed), sums, where, 8)
        return builder.fsub(rounded, shift)

    def features(place: Any, n: int, *, deep: bool) -> None:
        value = builder.fmul(offsets.offset(place, n), offsets.read(scales, place, n))
        value = builder.fmul(value, offsets.splat(args[2], value.type))
        high = add(value, 1, place, n)
        if deep:
            wide = constant(value.type, _DOUBLE, 2.0**sum_kernels.BITS)
            add(builder.fmul(builder.fsub(value, high), wide), 2, place, n)

    with builder.if_else(args[5]) as branches:
        for branch, deep in zip(branches, (True, False), strict=True):
            with branch:
                offsets.pieces(offsets.n_features, LANES, partial(features, deep=deep))
    return context.get_dummy_value()


def _write_square(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Write `square_plainly` in LLVM's language."""
    offsets = _Offsets(context, builder, signature, args, 2)
    centers = array_of(context, builder, signature, args, 3)[0]
    first = builder.mul(args[4], offsets.n_features)

    sums = offsets.variable(constant(offsets.floats, _DOUBLE, 0))
    rest = offsets.variable(ir.Constant(_DOUBLE, 0))

    def features(place: Any, n: int) -> None:
        center = offsets.read(centers, builder.add(first, place), n)
        difference = builder.fsub(offsets.offset(place, n), center)
        found, total = builder.fmul(difference, difference), sums
        if n < LANES:
            found, total = offsets.sum_by_halves(found), rest
        builder.store(builder.fadd(builder.load(total), found), total)

    offsets.pieces(offsets.n_features, LANES, features)
    total = builder.fadd(offsets.sum_by_halves(builder.load(sums)), builder.load(rest))
    out = array_of(context, builder, signature, args, 5)[0]
    builder.store(total, builder.gep(out, [args[6]]))
    return context.get_dummy_value()


add = intrinsic(add_plainly, _write_add, (1, 7, 8, 9)) if JIT else add_plainly
square = intrinsic(square_plainly, _write_square, (1, 4, 6)) if JIT else square_plainly
