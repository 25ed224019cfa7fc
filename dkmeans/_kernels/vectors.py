"""The two nearest of some centres to each row of a tile: the loop that k-means spends its time in.

Numba's loops over lanes go through the cache with each score. This one is written in the language
of the compiler below numba, LLVM: the scores of GROUP centres to as many rows as fill BYTES stay in
registers while all features go by, and so do the least two scores and the label while all centres
do. A tile of rows is an array (blocks, d, lanes), the lanes of a block side by side; centres are
packed as (groups, d, GROUP). Any processor will do: LLVM cuts the vectors to what it has.

For each row x the *score* of a centre c is |c|^2 / 2 - x . c, see `_kernels.rows`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from dkmeans._kernels.compile import JIT, array_of, intrinsic, kernel, row_of, stride_of
from dkmeans._kernels.writer import BYTES, INDEX, INT32, Writer

Floats = npt.NDArray[np.floating[Any]]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Rows = npt.NDArray[Any]

GROUP = 4  # centres at a time
TERMS = 64  # of a sum; of more features, sums of so many are added up

_LABEL_BYTES = 4
_MOST = 4  # rows in one vector while they are transposed
_AHEAD = 4  # blocks are asked for before their turn


def lanes(dtype: npt.DTypeLike) -> int:
    """Return how many rows one block holds."""
    return BYTES // np.dtype(dtype).itemsize


def width(n_features: int, dtype: npt.DTypeLike) -> int:
    """Return how many columns the rows for `transpose` have: whole vectors."""
    return -(-n_features // lanes(dtype)) * lanes(dtype)


@kernel
def room(n_rows: int, rows: Rows, centers: Floats) -> tuple[Any, ...]:
    """Return a tile for so many rows, a place for those of a block, and what `two_nearest` writes.

    The last is the least scores, the second least, the norms and the labels. `centers` are packed.
    """
    n_lanes = BYTES // centers.itemsize
    size = (n_rows + n_lanes * n_lanes) * centers.shape[1]
    flat = np.zeros(size + n_lanes, centers.dtype)
    begin = (-flat.ctypes.data % BYTES) // centers.itemsize  # a vector is to lie in one cache line
    tile = flat[begin : begin + size].reshape((-1, centers.shape[1], n_lanes))
    block = np.zeros((n_lanes, -(-rows.shape[1] // n_lanes) * n_lanes), rows.dtype)
    best, second = np.zeros(n_rows, centers.dtype), np.zeros(n_rows, centers.dtype)
    return tile, block, best, second, np.zeros(n_rows, centers.dtype), np.empty(n_rows, np.int32)


def two_nearest_plainly(
    tile: Floats,
    block: int,
    centers: Floats,
    halves: Floats,
    first: int,
    n_groups: int,
    best: Floats,
    second: Floats,
    norms: Floats,
    labels: Int32,
) -> None:
    """Bring the two least scores of the lanes of a block, and who has the least, up to date.

    Parameters
    ----------
    tile, block
        (blocks, d, lanes), and which of the blocks.
    centers, halves
        Packed, (groups, d, GROUP), and (groups * GROUP,): half of |c|^2, infinite for those that
        are none.
    first, n_groups
        The first group to look at, and how many, at least one.
    best, second, labels
        OUT (blocks * lanes,): the least score and the second least of all groups so far, infinite
        before the first; and the index of the centre, -1 before the first and for NaN.
    norms
        OUT (blocks * lanes,): |x|^2.
    """
    x = tile[block]
    where = slice(block * x.shape[1], (block + 1) * x.shape[1])
    norms[where] = (x * x).sum(axis=0)
    for c in range(first * GROUP, (first + n_groups) * GROUP):
        score = halves[c] - centers[c // GROUP, :, c % GROUP] @ x
        nearer = score < best[where]
        loser = np.where(nearer, best[where], score)
        second[where] = np.where(loser < second[where], loser, second[where])
        best[where] = np.where(nearer, score, best[where])
        labels[where] = np.where(nearer, c, labels[where])


def transpose_plainly(
    rows: Rows, places: Int64, shift: Floats, unit: Floats, tile: Floats, block: int
) -> None:
    """Write the offsets of as many rows as a block holds to a block of a tile.

    Parameters
    ----------
    rows
        (n, d), the features of a row side by side. Up to `width` of them are read, whatever they
        are: that many must be there in memory.
    places
        (lanes,): which rows.
    shift, unit
        (d,) and (1,): offsets are from the one, times the other, in the precision of both.
    tile
        OUT (blocks + lanes, d, lanes). What follows the block, up to `lanes` blocks, may be
        overwritten.
    block
        Which.
    """
    offsets = (rows[places, : tile.shape[1]].astype(shift.dtype) - shift) * unit
    tile[block] = offsets.T


def squares_plainly(
    tiles: Floats, tile: int, centers: Floats, first: int, n: int, out: Floats
) -> None:
    """Write the squared distances of the points of a tile from some centres.

    The features are added up in their order, and nothing is fused: the bits are the same on any
    processor.

    Parameters
    ----------
    tiles, tile
        (m, d, lanes), and which; the lanes are a multiple of four vectors.
    centers, first, n
        (k, d), the first one, and how many: four, two or one.
    out
        OUT (k, lanes).
    """
    for c in range(first, first + n):
        out[c] = 0
        for j in range(centers.shape[1]):
            difference = tiles[tile, j] - centers[c, j]
            out[c] += difference * difference


def _write_nearest(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Write `two_nearest_plainly` in LLVM's language."""
    arrays = {i: array_of(context, builder, signature, args, i) for i in (0, 2, 3, 6, 7, 8, 9)}
    n_features = arrays[0][1][1]
    is_short = builder.icmp_unsigned("<=", n_features, INDEX(TERMS))
    with builder.if_else(is_short) as (short, long):
        for branch, in_parts in ((short, False), (long, True)):
            with branch:
                _write_groups(context, builder, signature, args, arrays, in_parts=in_parts)
    return context.get_dummy_value()


def _write_groups(
    context: Any, builder: Any, signature: Any, args: Any, arrays: Any, *, in_parts: bool
) -> None:
    """Write it for up to TERMS features; or for any, in parts of so many."""
    (tile, shape), (centers, _), (halves, _) = arrays[0], arrays[2], arrays[3]
    write = Writer(context, builder, signature.args[0].dtype)
    n_features, start = shape[1], builder.mul(args[1], INDEX(write.lanes))
    row = builder.mul(start, n_features)
    zero = ir.Constant(write.floats, [0.0] * write.lanes)

    def over_features(body: Any, first: list[Any]) -> list[Any]:
        """Add up what `body` adds for each feature, in parts, so that rounding adds up less."""
        if not in_parts:
            return write.loop(n_features, first, body)

        def part(number: Any, totals: list[Any]) -> list[Any]:
            begin = builder.mul(number, INDEX(TERMS))
            left = builder.sub(n_features, begin)
            is_last = builder.icmp_unsigned("<", left, INDEX(TERMS))
            n = builder.select(is_last, left, INDEX(TERMS))
            sums = write.loop(n, [zero] * len(first), lambda j, s: body(builder.add(begin, j), s))
            return [builder.fadd(t, s) for t, s in zip(totals, sums, strict=True)]

        n_parts = builder.udiv(builder.add(n_features, INDEX(TERMS - 1)), INDEX(TERMS))
        return write.loop(n_parts, first, part)

    def feature(j: Any) -> Any:
        return write.load(tile, builder.add(row, builder.mul(j, INDEX(write.lanes))))

    def square(j: Any, state: list[Any]) -> list[Any]:
        x = feature(j)
        return [write.add_product(state[0], x, x)]

    def group(number: Any, state: list[Any]) -> list[Any]:
        first = builder.mul(builder.add(args[4], number), INDEX(GROUP))
        packed = builder.mul(first, n_features)

        def scores(j: Any, state: list[Any]) -> list[Any]:
            x = feature(j)
            place = builder.add(packed, builder.mul(j, INDEX(GROUP)))
            centre = write.group(centers, place, write.floats, GROUP)
            return [write.less_product(s, x, c) for s, c in zip(state, centre, strict=True)]

        found = over_features(scores, write.group(halves, first, write.floats, GROUP))
        best, second, label = state
        for i, score in enumerate(found):
            nearer = builder.fcmp_ordered("<", score, best)
            loser = builder.select(nearer, best, score)
            second = builder.select(builder.fcmp_ordered("<", loser, second), loser, second)
            name = builder.add(builder.trunc(first, INT32), INT32(i))
            label = builder.select(nearer, write.splat(name, write.ints), label)
            best = builder.select(nearer, score, best)
        return [best, second, label]

    (norm,) = over_features(square, [zero])
    floats = [write.load(arrays[i][0], start) for i in (6, 7)]
    names = write.load(arrays[9][0], start, write.ints, _LABEL_BYTES)
    found = write.loop(args[5], [*floats, names], group)
    for i, value in zip((6, 7, 8), (*found[:2], norm), strict=True):
        write.store(value, arrays[i][0], start, write.itemsize)
    write.store(found[2], arrays[9][0], start, _LABEL_BYTES)


def _write_squares(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Write `squares_plainly` in LLVM's language."""
    for n in (4, 2, 1):
        with builder.if_then(builder.icmp_signed("==", args[4], INDEX(n))):
            _write_squares_of(context, builder, signature, args, n)
    return context.get_dummy_value()


def _write_squares_of(context: Any, builder: Any, signature: Any, args: Any, n: int) -> None:
    """Write it for so many centres: four sums side by side, so that none waits for another."""
    write = Writer(context, builder, signature.args[0].dtype)
    tiles, (_, n_features, n_lanes) = array_of(context, builder, signature, args, 0)
    centers, out = (array_of(context, builder, signature, args, i)[0] for i in (2, 5))
    start = builder.mul(args[1], builder.mul(n_features, n_lanes))
    abreast = 4 // n  # vectors
    zero = ir.Constant(write.floats, [0.0] * write.lanes)

    def place(row: Any, lane: Any, vector: int) -> Any:
        where = builder.add(builder.mul(row, n_lanes), lane)
        return builder.add(where, INDEX(vector * write.lanes))

    def block(number: Any, _: list[Any]) -> list[Any]:
        lane = builder.mul(number, INDEX(abreast * write.lanes))

        def feature(j: Any, sums: list[Any]) -> list[Any]:
            where = (builder.add(start, place(j, lane, v)) for v in range(abreast))
            points = [write.load(tiles, at) for at in where]
            after = []
            for i in range(n):
                at = builder.add(builder.mul(builder.add(args[3], INDEX(i)), n_features), j)
                center = write.splat(builder.load(builder.gep(centers, [at])), write.floats)
                for v, x in enumerate(points):
                    difference = builder.fsub(x, center)
                    square = builder.fmul(difference, difference)
                    after.append(builder.fadd(sums[i * abreast + v], square))
            return after

        sums = iter(write.loop(n_features, [zero] * 4, feature))
        for i in range(n):
            for v in range(abreast):
                at = place(builder.add(args[3], INDEX(i)), lane, v)
                write.store(next(sums), out, at, write.itemsize)
        return []

    write.loop(builder.udiv(n_lanes, INDEX(abreast * write.lanes)), [], block)


def _write_transpose(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Write `transpose_plainly` in LLVM's language."""
    n_features = array_of(context, builder, signature, args, 4)[1][1]
    write = Writer(context, builder, signature.args[4].dtype)
    # Of few features, a vector takes those of two or four rows.
    small = builder.icmp_unsigned("<=", n_features, INDEX(write.lanes // _MOST))
    fewer = builder.icmp_unsigned("<=", n_features, INDEX(write.lanes // 2))
    with builder.if_else(small) as (then, otherwise):
        with then:
            _write_turned(context, builder, signature, args, write, _MOST)
        with otherwise, builder.if_else(fewer) as (then_two, otherwise_one):
            with then_two:
                _write_turned(context, builder, signature, args, write, 2)
            with otherwise_one:
                _write_turned(context, builder, signature, args, write, 1)
    return context.get_dummy_value()


def _write_turned(
    context: Any, builder: Any, signature: Any, args: Any, write: Writer, per_vector: int
) -> None:
    """Write it for vectors of the features of so many rows."""
    shift, tile = (array_of(context, builder, signature, args, i)[0] for i in (2, 4))
    n_features = array_of(context, builder, signature, args, 4)[1][1]
    unit = builder.load(array_of(context, builder, signature, args, 3)[0])
    starts = _starts(context, builder, signature, args, write.lanes)
    kinds, taken = [signature.args[i].dtype for i in (0, 2, 4)], write.lanes // per_vector
    stored = ir.VectorType(context.get_data_type(kinds[0]), taken)
    floats = ir.VectorType(unit.type, write.lanes)
    scale, last = write.splat(unit, floats), builder.sub(n_features, INDEX(1))
    lanes = INDEX(write.lanes)
    begin = builder.mul(builder.mul(args[5], lanes), n_features)
    ahead = builder.mul(
        stride_of(context, builder, signature, args, 0), INDEX(_AHEAD * write.lanes)
    )

    def square(number: Any, _: list[Any]) -> list[Any]:
        first = builder.mul(number, lanes)
        parts = []
        for start in starts:
            place = builder.gep(start, [first])
            if per_vector < _MOST:  # rows of so few features come fast enough
                write.prefetch(place, ahead)
            parts.append(builder.load(builder.bitcast(place, stored.as_pointer()), align=1))
        while len(parts) > taken:
            parts = [write.join(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        vectors, half = [write.converted(p, *kinds[:2]) for p in parts], taken // 2
        for _round in range(write.lanes.bit_length() - 1):  # each brings every number on its way
            pairs = list(zip(vectors[:half], vectors[half:], strict=True))
            vectors = [
                write.interleave(a, b, high=high) for a, b in pairs for high in (False, True)
            ]
        for i, vector in enumerate(vectors):
            feature = builder.add(first, INDEX(i))
            known = builder.select(builder.icmp_unsigned("<", feature, last), feature, last)
            middle = write.splat(builder.load(builder.gep(shift, [known])), floats)
            offsets = builder.fmul(builder.fsub(vector, middle), scale)
            value = write.converted(offsets, *kinds[1:])
            place = builder.add(begin, builder.mul(feature, lanes))
            write.store(value, tile, place, write.itemsize)
        return []

    if per_vector > 1:
        square(INDEX(0), [])
    else:
        n_squares = builder.udiv(builder.add(n_features, INDEX(write.lanes - 1)), lanes)
        write.loop(n_squares, [], square)


def _starts(context: Any, builder: Any, signature: Any, args: Any, n: int) -> list[Any]:
    """Return the addresses of the rows to be transposed."""
    places, _ = array_of(context, builder, signature, args, 1)
    rows = (builder.load(builder.gep(places, [INDEX(i)])) for i in range(n))
    return [row_of(context, builder, signature, args, 0, row) for row in rows]


transpose = intrinsic(transpose_plainly, _write_transpose, (5,)) if JIT else transpose_plainly
two_nearest = (
    intrinsic(two_nearest_plainly, _write_nearest, (1, 4, 5)) if JIT else two_nearest_plainly
)
squares = intrinsic(squares_plainly, _write_squares, (1, 3, 4)) if JIT else squares_plainly
