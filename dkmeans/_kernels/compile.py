"""How kernels are compiled: the one place that names numba."""

import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core import cgutils
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys
from numba.extending import intrinsic as _intrinsic

_P = ParamSpec("_P")
_R = TypeVar("_R")

_LOG = logging.getLogger("dkmeans")

JIT = not numba.config.DISABLE_JIT  # else kernels run as plain Python


def kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` at its first call, without the GIL, and keep the result on disk.

    Fast-math stays off: a kernel gives the same bits on every run.
    """
    return _compile(function, nogil=True, error_model="numpy")


def reordered_kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` as `kernel` does, with products and sums fused, and sums in any order.

    That is faster. The same bits come out on every run, but others on another processor: for
    bounds only.
    """
    return _compile(function, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})


def inline(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` into each kernel that calls it."""
    return _compile(function, nogil=True, error_model="numpy", inline="always")


def intrinsic(
    plain: Callable[_P, _R], write: Callable[[Any, Any, Any, Any], Any], integers: Sequence[int]
) -> Callable[_P, _R]:
    """Return a function for kernels to call that `write` writes in LLVM's language.

    Parameters
    ----------
    plain
        Does the same in Python, returns nothing, and gives its parameters their names.
    write
        Called with numba's context, LLVM's builder, the signature and the values of the arguments.
    integers
        Which of the arguments are integers.
    """
    names = list(inspect.signature(plain).parameters)

    def typed(_context: Any, *types: Any) -> Any:
        kinds = [numba.types.intp if i in integers else kind for i, kind in enumerate(types)]
        return numba.types.void(*kinds), write

    # Numba binds arguments by the names that it finds in the signature.
    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                  for n in ["context", *names]]  # fmt: skip
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
    return cast("Callable[_P, _R]", _intrinsic(typed))


def array_of(context: Any, builder: Any, signature: Any, args: Any, i: int) -> tuple[Any, Any]:
    """Return the address of argument `i`, an array, and its extents, to a writer."""
    array = context.make_array(signature.args[i])(context, builder, args[i])
    return array.data, cgutils.unpack_tuple(builder, array.shape)


def stride_of(context: Any, builder: Any, signature: Any, args: Any, i: int) -> Any:
    """Return how many bytes the rows of argument `i`, an array, lie apart, to a writer."""
    array = context.make_array(signature.args[i])(context, builder, args[i])
    return cgutils.unpack_tuple(builder, array.strides)[0]


def row_of(context: Any, builder: Any, signature: Any, args: Any, i: int, row: Any) -> Any:
    """Return the address of a row of argument `i`, an array, to a writer."""
    data, _ = array_of(context, builder, signature, args, i)
    bytes_ = builder.bitcast(data, cgutils.voidptr_t)
    start = builder.mul(row, stride_of(context, builder, signature, args, i))
    return builder.bitcast(builder.gep(bytes_, [start]), data.type)


def function_of(builder: Any, kind: Any, name: str) -> Any:
    """Return a function of LLVM's, to a writer."""
    return cgutils.get_or_insert_function(builder.module, kind, name)


def is_float(kind: Any) -> bool:
    """Return whether numbers of a type are floats, to a writer."""
    return isinstance(kind, numba.types.Float)


def _compile(function: Callable[_P, _R], **options: Any) -> Callable[_P, _R]:
    compiled = numba.njit(**options)(function)
    # Others' extensions of numba, of which kernels use none, take longer to load than kernels.
    compiled._compilation_chain_init_hook = _do_nothing  # noqa: SLF001 - there is no option
    with suppress(RuntimeError):  # no folder was found to keep it in
        compiled._cache = _Cache(function)  # noqa: SLF001 - as `enable_caching` does, with our class
    return cast("Callable[_P, _R]", compiled)


def _do_nothing() -> None:
    pass


class _Cache(FunctionCache):  # type: ignore[misc]  # numba is Any to the type checker
    """Compiled code on disk. What cannot be kept there, or read again, is compiled again.

    Before numba loads code, it imports all that it can compile, SciPy's linear algebra with it:
    that takes longer than a small picture. Code once compiled needs only numba's memory management
    and the modules that it was made of. So kernels write sums and maxima out, and have no need of
    `numba.np.arraymath`, which imports SciPy.

    Numba chooses the folder when the module is imported, and fails if it cannot write to it later:
    a full disk, other rights, a folder that is gone.
    """

    _told = False

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code, or None; the first time in a process, that is logged."""
        found = None
        try:
            rtsys.initialize(target_context)
            found = self._load_overload(sig, target_context)
        except OSError:
            pass
        except Exception:  # noqa: BLE001 - what is damaged, as by a loss of power, raises anything
            with suppress(OSError):
                self.flush()
        if found is None and not _Cache._told:
            _Cache._told = True
            _LOG.info("compiling kernels, once")
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled code, if possible."""
        with suppress(OSError):
            super().save_overload(sig, data)
