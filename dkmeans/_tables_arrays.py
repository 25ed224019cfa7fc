"""Arrays in memory and in Zarr as parts of a table.

A part gives the pieces that passes read, and answers a function of its rows in its own kind.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _passes_schedulers as schedulers
from dkmeans._passes_threads import in_threads
from dkmeans._tables_blocks import BLOCK_BYTES, MemorySource, TablePiece, rows
from dkmeans._tables_regions import Chunks, Region, Regions, regular
from dkmeans._validation import InvalidArgumentError

_SHARES = 4  # of each thread, so that none waits long for others; but
_LEAST_BYTES = 1 << 21  # in each

RowFunction = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


class RowArray(ABC):
    """One array of a table; the last axis holds the features."""

    is_lazy: bool
    n_features: int
    dtype: np.dtype[Any]

    @property
    def steps(self) -> tuple[int, ...]:
        """The extents of the regions to read, where that is free to choose."""
        raise NotImplementedError(f"{type(self).__name__} is read by chunks of its own.")

    @property
    @abstractmethod
    def leading(self) -> tuple[int, ...]:
        """The extents of all axes but the last."""

    @property
    def is_sized(self) -> bool:
        """Whether `leading` is known without computing anything."""
        return True

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return math.prod(self.leading)

    @abstractmethod
    def piece(self, index: int, first: int) -> TablePiece:
        """Return all of it as one piece, the array `index` of a table, from row `first` on."""

    @abstractmethod
    def map(self, function: RowFunction, dtype: np.dtype[Any], columns: int | None) -> Any:
        """Return `function` of all rows, in the shape of the leading axes."""


class MemoryRows(RowArray):
    """An array in memory, and its weights, (n,) or in the shape of the leading axes."""

    is_lazy = False

    def __init__(
        self,
        array: npt.NDArray[Any],
        weights: npt.NDArray[np.float64] | None,
        dtype: np.dtype[Any],
    ) -> None:
        self.n_features = array.shape[-1]
        self.dtype = dtype
        self._leading = array.shape[:-1]
        self.array = _flat(array)
        self._inner = self.array.shape[:-1]
        self.weights = None
        if weights is not None:
            self.weights = fitting(weights, self._leading).reshape(self._inner)
        self._steps = self._chosen_steps()
        self._regions = Regions.of(self._inner, self._steps)

    @property
    def leading(self) -> tuple[int, ...]:
        """The extents of all axes but the last."""
        return self._leading

    @property
    def steps(self) -> tuple[int, ...]:
        """The extents of the regions to read."""
        return self._steps

    @property
    def chunks(self) -> Chunks:
        """The parts in which it is read, along the axes that are left of the leading ones."""
        return regular(self._inner, self._steps)

    def _chosen_steps(self) -> tuple[int, ...]:
        row_bytes = self.n_features * max(self.array.itemsize, self.dtype.itemsize)
        share = self.n_rows * row_bytes // (_SHARES * schedulers.n_local_workers())
        room = max(1, min(max(share, _LEAST_BYTES), BLOCK_BYTES) // row_bytes)
        steps: tuple[int, ...] = ()
        for extent in reversed(self._inner):
            step = max(1, min(extent, room))
            steps = (step, *steps)
            room = room // step if step == extent else 1
        return steps

    def piece(self, index: int, first: int) -> TablePiece:
        """Return all of it as one piece, the array `index` of a table, from row `first` on."""
        source = MemorySource(self.array.shape, self.dtype, self.array, self.weights)
        return TablePiece(index, source, self._regions, self._inner, first)

    def map(self, function: RowFunction, dtype: np.dtype[Any], columns: int | None) -> Any:
        """Return `function` of all rows as an array, computed in the threads of this process."""
        tail = () if columns is None else (columns,)
        answer = np.empty((*self._inner, *tail), dtype)

        def fill(region: Region) -> None:
            found = function(rows(self.array[region.slices], self.dtype, self.n_features))
            answer[region.slices] = found.reshape(*region.size, *tail)

        in_threads(fill, self._regions)
        return answer.reshape(*self._leading, *tail)


def _flat(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the rows along one axis if that takes no copy, else the array as it is."""
    try:
        return array.reshape(math.prod(array.shape[:-1]), array.shape[-1], copy=False)
    except ValueError:
        return array


def fitting(weights: Any, leading: tuple[int, ...]) -> Any:
    """Return weights of a known shape in the shape of the leading axes of the data.

    Raises
    ------
    InvalidArgumentError
        If there is not one for each row.
    """
    shape = tuple(weights.shape)
    if shape == leading:
        return weights
    if shape == (math.prod(leading),) and isinstance(weights, np.ndarray):
        return weights.reshape(leading)
    raise InvalidArgumentError(
        f"sample_weight has the shape {shape}; it must be {leading}, one weight for each of the "
        f"{math.prod(leading)} rows of X."
    )
