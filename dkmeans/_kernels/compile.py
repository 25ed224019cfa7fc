"""How kernels are compiled: the one place that names numba."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba

_P = ParamSpec("_P")
_R = TypeVar("_R")


def kernel(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` at its first call, without the GIL, and keep the result on disk.

    Fast-math stays off: a kernel gives the same bits on every run.
    """
    return _compile(function, nogil=True, error_model="numpy")


def inline(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Compile `function` into each kernel that calls it."""
    return _compile(function, nogil=True, error_model="numpy", inline="always")


def _compile(function: Callable[_P, _R], **options: Any) -> Callable[_P, _R]:
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        compiled = numba.njit(**options)(function)
    return cast("Callable[_P, _R]", compiled)
