"""Writes vectors in LLVM's language, for kernels that numba's loops do not bring to full speed.

LLVM is the compiler below numba. Any processor will do: it cuts vectors to what there is.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from dkmeans._kernels.compile import function_of, is_float

BYTES = 64  # of a vector: one of AVX-512, or two of AVX

INDEX, INT32 = ir.IntType(64), ir.IntType(32)
_FUSED = ("contract",)  # products and sums may be rounded once


class Writer:
    """Writes vectors of numbers of one of numba's types."""

    def __init__(self, context: Any, builder: Any, kind: Any) -> None:
        self.context, self.builder = context, builder
        element = context.get_data_type(kind)
        self.itemsize: int = context.get_abi_sizeof(element)
        self.lanes = BYTES // self.itemsize
        self.floats = ir.VectorType(element, self.lanes)
        self.ints = ir.VectorType(INT32, self.lanes)

    def splat(self, value: Any, kind: Any) -> Any:
        """Return `value` in all lanes of a type of vector; as it is, if that is none."""
        if not isinstance(kind, ir.VectorType):
            return value
        nothing = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(nothing, value, INT32(0))
        lanes = ir.Constant(ir.VectorType(INT32, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(first, nothing, lanes)

    def load(self, data: Any, place: Any, kind: Any = None, itemsize: int | None = None) -> Any:
        """Read a vector, of floats if not told."""
        place = self.builder.gep(data, [place])
        pointer = self.builder.bitcast(place, (kind or self.floats).as_pointer())
        return self.builder.load(pointer, align=itemsize or self.itemsize)

    def store(self, value: Any, data: Any, place: Any, itemsize: int) -> None:
        """Write a vector."""
        place = self.builder.gep(data, [place])
        self.builder.store(
            value, self.builder.bitcast(place, value.type.as_pointer()), align=itemsize
        )

    def variable(self, value: Any) -> Any:
        """Return the address of a place that holds a value, to begin with."""
        with self.builder.goto_entry_block():
            place = self.builder.alloca(value.type)
        self.builder.store(value, place)
        return place

    def prefetch(self, place: Any, ahead: Any) -> None:
        """Ask for what lies so many bytes after an address."""
        bytes_ = self.builder.bitcast(place, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [bytes_.type, INT32, INT32, INT32])
        function = function_of(self.builder, kind, "llvm.prefetch.p0")
        self.builder.call(
            function, [self.builder.gep(bytes_, [ahead]), INT32(0), INT32(3), INT32(1)]
        )

    def group(self, data: Any, place: Any, kind: Any, n: int) -> list[Any]:
        """Read `n` numbers, each into all lanes of a vector."""
        places = [self.builder.add(place, INDEX(i)) for i in range(n)]
        return [self.splat(self.builder.load(self.builder.gep(data, [p])), kind) for p in places]

    def interleave(self, a: Any, b: Any, *, high: bool) -> Any:
        """Return the lower or the higher halves of two vectors, their lanes in turn."""
        start = self.lanes // 2 if high else 0
        lanes = [start + i // 2 + (i % 2) * self.lanes for i in range(self.lanes)]
        return self.builder.shuffle_vector(a, b, ir.Constant(self.ints, lanes))

    def join(self, a: Any, b: Any) -> Any:
        """Return the lanes of two vectors in one."""
        n = 2 * a.type.count
        return self.builder.shuffle_vector(
            a, b, ir.Constant(ir.VectorType(INT32, n), list(range(n)))
        )

    def sum_by_halves(self, value: Any) -> Any:
        """Return the sum of all lanes, of the lower and the upper half and so on; or a number."""
        if not isinstance(value.type, ir.VectorType):
            return value
        while value.type.count > 1:
            n = value.type.count // 2
            low, high = (
                ir.Constant(ir.VectorType(INT32, n), list(range(start, start + n)))
                for start in (0, n)
            )
            value = self.builder.fadd(
                self.builder.shuffle_vector(value, value, low),
                self.builder.shuffle_vector(value, value, high),
            )
        return self.builder.extract_element(value, INT32(0))

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        """Return ``total + a * b``."""
        return self.builder.fadd(total, self.builder.fmul(a, b, flags=_FUSED), flags=_FUSED)

    def less_product(self, total: Any, a: Any, b: Any) -> Any:
        """Return ``total - a * b``."""
        return self.builder.fsub(total, self.builder.fmul(a, b, flags=_FUSED), flags=_FUSED)

    def loop(self, n: Any, start: list[Any], body: Any) -> list[Any]:
        """Write a loop of n rounds, n above 0; `body` makes of the state and the round a state."""
        before = self.builder.basic_block
        head = self.builder.append_basic_block("round")
        self.builder.branch(head)
        self.builder.position_at_end(head)
        number = self.builder.phi(INDEX)
        state = [self.builder.phi(value.type) for value in start]
        after: list[Any] = body(number, state)
        following = self.builder.add(number, INDEX(1))
        last = self.builder.basic_block
        for phi, first, value in zip([number, *state], [INDEX(0), *start], [following, *after],
                                     strict=True):  # fmt: skip
            phi.add_incoming(first, before)
            phi.add_incoming(value, last)
        end = self.builder.append_basic_block("end")
        self.builder.cbranch(self.builder.icmp_unsigned("<", following, n), head, end)
        self.builder.position_at_end(end)
        return after

    def pieces(self, size: Any, largest: int, body: Callable[[Any, int], None]) -> None:
        """Deal with `size` numbers: in pieces of `largest`, and the rest in halves of that.

        `body` is called with the place of a piece and how many numbers it has.
        """

        def turn(number: Any, state: list[Any]) -> list[Any]:
            body(self.builder.mul(number, INDEX(largest)), largest)
            return state

        n_whole = self.builder.udiv(size, INDEX(largest))
        with self.builder.if_then(self.builder.icmp_unsigned(">", n_whole, INDEX(0))):
            self.loop(n_whole, [], turn)
        n = largest // 2
        while n:
            left = self.builder.and_(size, INDEX(n))
            with self.builder.if_then(self.builder.icmp_unsigned(">", left, INDEX(0))):
                body(self.builder.and_(size, INDEX(-2 * n)), n)
            n //= 2

    def converted(self, value: Any, kind: Any, wanted: Any) -> Any:
        """Return numbers of one of numba's types, in a vector or alone, as floats of another."""
        change: Any
        if not is_float(kind):
            change = self.builder.sitofp if kind.signed else self.builder.uitofp
        elif kind.bitwidth == wanted.bitwidth:
            return value
        else:
            wider = kind.bitwidth < wanted.bitwidth
            change = self.builder.fpext if wider else self.builder.fptrunc
        return change(value, like(value.type, self.context.get_data_type(wanted)))


def like(shape: Any, element: Any) -> Any:
    """Return the type of as many elements as another type, a vector or none, has."""
    return ir.VectorType(element, shape.count) if isinstance(shape, ir.VectorType) else element


def constant(shape: Any, element: Any, value: float) -> Any:
    """Return a number, in all lanes if it is to be like a vector."""
    kind = like(shape, element)
    is_vector = isinstance(kind, ir.VectorType)
    return ir.Constant(kind, [value] * kind.count if is_vector else value)
