"""What starts make of the points that they choose from, once for all of them."""

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from dkmeans._passes_locks import Lock

T = TypeVar("T")
Points = npt.NDArray[Any]


class Shared(Generic[T]):
    """What was made of points last, of some kinds, for as long as the points live."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._points: Any = lambda: None  # as a weak reference is called
        self._made: dict[Hashable, T] = {}

    def of(self, points: Points, kind: Hashable, make: Callable[[], T]) -> T:
        """Return what there is of a kind, or make it; it must not hold the points."""
        with self._lock:
            if self._points() is not points:
                made: dict[Hashable, T] = {}  # its own: when the points die, none waits for a lock
                self._made = made  # first: who is forked in between has what is of no points
                self._points = weakref.ref(points, lambda _: made.clear())
            if kind not in self._made:
                self._made[kind] = make()
            return self._made[kind]


def converted(points: Points, dtype: np.dtype[Any]) -> Points:
    """Return points in a dtype, read-only: themselves if they have it, else one copy for all."""
    wide = points
    if points.dtype != dtype:
        wide = _converted.of(points, dtype, lambda: points.astype(dtype))
    wide = wide.view()
    wide.flags.writeable = False
    return wide


_converted: Shared[Points] = Shared()
