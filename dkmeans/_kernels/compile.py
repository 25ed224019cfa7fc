"""How kernels are compiled: the one place that names numba."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core.caching import FunctionCache

_P = ParamSpec("_P")
_R = TypeVar("_R")


def kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` at its first call, without the GIL, and keep the result on disk.

    Fast-math stays off: a kernel gives the same bits on every run.
    """
    return _compile(function, nogil=True, error_model="numpy")


def fused_kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` as `kernel` does, with products and sums rounded once where they meet.

    The processor's fused multiply-add is twice as fast. The same bits come out on every run, but
    perhaps others on a processor that has none.
    """
    return _compile(function, nogil=True, error_model="numpy", fastmath={"contract"})


def inline(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` into each kernel that calls it."""
    return _compile(function, nogil=True, error_model="numpy", inline="always")


def _compile(function: Callable[_P, _R], **options: Any) -> Callable[_P, _R]:
    compiled = numba.njit(**options)(function)
    with suppress(RuntimeError):  # no folder was found to keep it in
        compiled._cache = _Cache(function)  # noqa: SLF001 - as `enable_caching` does, with our class
    return cast("Callable[_P, _R]", compiled)


class _Cache(FunctionCache):  # type: ignore[misc]  # numba is Any to the type checker
    """Compiled code on disk. What cannot be kept there, or read again, is compiled again.

    Numba chooses the folder when the module is imported, and fails if it cannot write to it later:
    a full disk, other rights, a folder that is gone.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled code, or None."""
        with suppress(OSError):
            return super().load_overload(sig, target_context)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the compiled code, if possible."""
        with suppress(OSError):
            super().save_overload(sig, data)
