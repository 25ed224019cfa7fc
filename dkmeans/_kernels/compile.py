"""How kernels are compiled: the one place that names numba."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

_P = ParamSpec("_P")
_R = TypeVar("_R")


def kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` at its first call, without the GIL, and keep the result on disk.

    Fast-math stays off: a kernel gives the same bits on every run.
    """
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast("Callable[_P, _R]", compiled)


def inline(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` into each kernel that calls it."""
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")(function)
    return cast("Callable[_P, _R]", compiled)
