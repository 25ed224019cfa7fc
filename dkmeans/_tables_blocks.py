"""What a pass over a table reads: regions of rows, blocks, and the pieces that hold them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate, product
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dkmeans._passes import Inputs, Piece
from dkmeans._validation import InvalidArgumentError

Chunks = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A box of rows: along each leading axis from `start`, `size` long."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def n_pixels(self) -> int:
        """The number of rows, by the name that passes know."""
        return math.prod(self.size)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The region as an index."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))

    def numbers(self, leading: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return the number of each row, in C order over the `leading` axes of the whole.

        Examples
        --------
        >>> Region((1, 2), (2, 2)).numbers((3, 10)).tolist()
        [12, 13, 22, 23]
        """
        numbers = np.zeros((), np.int64)
        for extent, start, size in zip(leading, self.start, self.size, strict=True):
            numbers = numbers[..., None] * extent + np.arange(start, start + size)
        return numbers.reshape(-1)


def regions(chunks: Chunks) -> Iterator[tuple[tuple[int, ...], Region]]:
    """Yield the index and the region of every chunk that is not empty, in C order.

    Examples
    --------
    >>> [(index, region.start) for index, region in regions(((2, 0, 1), (4,)))]
    [((0, 0), (0, 0)), ((2, 0), (2, 0))]
    """
    spans = [
        [(i, start, size) for i, (start, size) in enumerate(zip(accumulate(axis, initial=0), axis))]  # noqa: B905 - the last is the end
        for axis in chunks
    ]
    for box in product(*spans):
        index, start, size = zip(*box, strict=True)
        if all(size):
            yield index, Region(start, size)


def regular(leading: tuple[int, ...], steps: tuple[int, ...]) -> Chunks:
    """Return chunks of `steps` along each leading axis, the last ones cut off.

    Examples
    --------
    >>> regular((5, 4), (2, 4))
    ((2, 2, 1), (4,))
    """
    return tuple(
        tuple(min(step, extent - start) for start in range(0, extent, step)) or (0,)
        for extent, step in zip(leading, steps, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a table. Not to be written to: it may be a view of the user's data.

    Attributes
    ----------
    values
        (n, d), C-contiguous, dtype as stored.
    weights
        (n,), or None where rows are not weighted.
    region, leading, first
        Where the rows lie: the box, in an array of which axes, whose first row has which number.
    """

    values: npt.NDArray[Any]
    weights: npt.NDArray[np.float64] | None
    region: Region
    leading: tuple[int, ...]
    first: int

    def numbers(self) -> npt.NDArray[np.int64]:
        """Return the number of each row in the whole table, (n,)."""
        return self.region.numbers(self.leading) + self.first


class RowSource(ABC):
    """An array whose blocks are read by region; the last axis holds the features.

    Attributes
    ----------
    shape
        Of the whole.
    dtype
        Of the blocks that passes see; `read` may give others.
    in_memory
        Whether the data lie in the memory of this process.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    in_memory: bool = False
    in_order = False

    def inputs(self, windows: Sequence[Region]) -> Inputs | None:
        """Return what Dask has to compute before these regions can be read, if anything."""
        del windows
        return None

    def given(self, blocks: Sequence[Any]) -> "RowSource":
        """Return the source as it is sent to a task: with the blocks that its inputs became."""
        del blocks
        return self

    @abstractmethod
    def read(self, windows: Sequence[Region]) -> Generator[tuple[Any, Any | None], None, None]:
        """Yield the array of each region, of any dtype and strides, and its weights if any."""


@dataclass(frozen=True)
class TablePiece(Piece):
    """Some regions of one array of a table.

    Attributes
    ----------
    leading
        The extents of the axes that the regions are boxes of.
    first
        The number of the array's first row in the table.
    """

    # A piece of a table stands beside one of an image: regions have any number of axes.
    source: RowSource  # type: ignore[assignment]
    windows: tuple[Region, ...]  # type: ignore[assignment]
    leading: tuple[int, ...]
    first: int

    @property
    def in_memory(self) -> bool:
        """Whether the data lie in the memory of this process."""
        return self.source.in_memory

    @property
    def inputs(self) -> Inputs | None:
        """What Dask has to compute before the piece can be read, if anything."""
        return self.source.inputs(self.windows)

    def given(self, blocks: Sequence[Any]) -> Self:
        """Return the piece as it is sent to a task: with the blocks that its inputs became."""
        return replace(self, source=self.source.given(blocks))

    def blocks(self) -> Generator[Block, None, None]:
        """Yield the block of each region, in their order."""
        with closing(self.source.read(self.windows)) as arrays:
            for region, (values, weights) in zip(self.windows, arrays, strict=True):
                yield Block(
                    rows(values, self.source.dtype),
                    None if weights is None else np.ascontiguousarray(weights, np.float64).ravel(),
                    region,
                    self.leading,
                    self.first,
                )


def check_unmasked(name: str, array: Any) -> None:
    """Raise if values are masked: what lies under the mask would be taken for data."""
    if np.ma.is_masked(array):
        raise InvalidArgumentError(
            f"{name} has masked values, which are not supported: fill them, for example with "
            "astype('float64').filled(numpy.nan), and leave such rows out with missing='ignore'."
        )


def rows(values: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array as C-contiguous rows, (n, d), of a dtype; a view of it where possible."""
    check_unmasked("X", values)
    array: npt.NDArray[Any] = np.ascontiguousarray(values, dtype)
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


@dataclass(frozen=True, eq=False)
class MemorySource(RowSource):
    """An array in memory, and its weights in the shape of its leading axes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: npt.NDArray[Any]
    weights: npt.NDArray[np.float64] | None

    in_memory = True

    def read(self, windows: Sequence[Region]) -> Generator[tuple[Any, Any | None], None, None]:
        """Yield views of the array and the weights."""
        for window in windows:
            where = window.slices
            yield self.array[where], None if self.weights is None else self.weights[where]


@dataclass(frozen=True, eq=False)
class GraphSource(RowSource):
    """An array whose blocks Dask computes, and here are only named.

    Attributes
    ----------
    graph
        Of all blocks, with all that they share with others.
    keys
        By region: the key of its block, and of the block of its weights if rows are weighted.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    graph: Any
    keys: Mapping[Region, tuple[Any, ...]]

    def inputs(self, windows: Sequence[Region]) -> Inputs:
        """Return the keys of the blocks of these regions."""
        return Inputs(self.graph, tuple(key for window in windows for key in self.keys[window]))

    def given(self, blocks: Sequence[Any]) -> RowSource:
        """Return a source that holds the blocks and not the graph."""
        return _GivenSource(self.shape, self.dtype, blocks)

    def read(self, windows: Sequence[Region]) -> Generator[tuple[Any, Any | None], None, None]:
        """Raise: only Dask can compute these."""
        raise NotImplementedError(f"{len(windows)} regions are read outside of a pass.")


@dataclass(frozen=True, eq=False)
class _GivenSource(RowSource):
    """The blocks that Dask has computed for one task, in the order of its regions."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    received: Sequence[Any]

    def given(self, blocks: Sequence[Any]) -> RowSource:
        return replace(self, received=blocks)

    def read(self, windows: Sequence[Region]) -> Generator[tuple[Any, Any | None], None, None]:
        each = len(self.received) // len(windows)  # two where rows are weighted
        for i in range(0, len(self.received), each):
            weights = self.received[i + 1] if each > 1 else None
            yield self.received[i], weights
