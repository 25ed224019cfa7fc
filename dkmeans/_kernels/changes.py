"""Which rows have changed their cluster: found 64 rows at a time, as bits of one word.

Written for LLVM, as `_kernels.vectors` is, to which numba's loops are no vectors.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from dkmeans._kernels.compile import JIT, array_of, intrinsic, kernel
from dkmeans._kernels.writer import INDEX, INT32, Writer

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_WORD = 64  # rows
_LABEL_BYTES = 4


@kernel
def changed(before: Int32, labels: Int32, places: Int32) -> int:
    """Write where labels, (n,), are others than before; return how many. `places` is OUT (n,)."""
    count = np.zeros(1, np.int64)
    whole = labels.size // _WORD * _WORD
    if whole > 0:
        in_words(before[:whole], labels[:whole], places, count)
    n: int = count[0]
    for i in range(whole, labels.size):
        places[n] = i
        n += before[i] != labels[i]
    return n


def in_words_plainly(before: Int32, labels: Int32, places: Int32, count: Int64) -> None:
    """Do so for whole words of 64 labels, at least one; `count`, OUT (1,), tells how many."""
    found = np.flatnonzero(before != labels)
    places[: found.size] = found
    count[0] = found.size


def _write_in_words(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Write `in_words_plainly` in LLVM's language."""
    before, (n_labels,) = array_of(context, builder, signature, args, 0)
    labels, places, count = (array_of(context, builder, signature, args, i)[0] for i in (1, 2, 3))
    write = Writer(context, builder, signature.args[0].dtype)
    kind, is_undefined = ir.VectorType(INT32, _WORD), ir.Constant(ir.IntType(1), 1)

    def word(number: Any, state: list[Any]) -> list[Any]:
        first, (n,) = builder.mul(number, INDEX(_WORD)), state
        old, new = (write.load(data, first, kind, _LABEL_BYTES) for data in (before, labels))
        bits = builder.bitcast(builder.icmp_signed("!=", old, new), INDEX)
        n_found = builder.ctpop(bits)

        def place(number: Any, state: list[Any]) -> list[Any]:
            (left,) = state
            at = builder.add(first, builder.cttz(left, is_undefined))
            where = builder.gep(places, [builder.add(n, number)])
            builder.store(builder.trunc(at, INT32), where)
            return [builder.and_(left, builder.sub(left, INDEX(1)))]  # without the lowest

        with builder.if_then(builder.icmp_unsigned(">", n_found, INDEX(0))):
            write.loop(n_found, [bits], place)
        return [builder.add(n, n_found)]

    (n,) = write.loop(builder.udiv(n_labels, INDEX(_WORD)), [INDEX(0)], word)
    builder.store(n, builder.gep(count, [INDEX(0)]))
    return context.get_dummy_value()


in_words = intrinsic(in_words_plainly, _write_in_words, ()) if JIT else in_words_plainly
