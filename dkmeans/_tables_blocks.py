"""What a pass over a table reads: blocks of rows, the pieces that hold them, and their sources."""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dkmeans._passes import Inputs, Partition, Piece, Ticker
from dkmeans._tables_regions import Region
from dkmeans._validation import InvalidArgumentError

# Of a block. What kernels need to work on one then fits the cache, and the allocator gives it back
# and forth instead of asking the system for fresh pages each time.
BLOCK_BYTES = 1 << 22
_LEAVE_OUT = "astype('float64').filled(numpy.nan), and leave such rows out with missing='ignore'"


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

    def run(self) -> int | None:
        """Return the number of the first row, if those of the others follow one by one."""
        if not self.region.is_run(self.leading):
            return None
        corner = Region(self.region.start, (1,) * len(self.leading))
        return int(corner.numbers(self.leading)[0]) + self.first


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

    @property
    def is_kept(self) -> bool:
        """Whether workers keep some of the blocks: better that each sees the same ones again."""
        return False

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
        """Yield the array of each region, of any dtype and strides, and its weights if any.

        An array holds until the next is asked for.
        """


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
    windows: Sequence[Region]  # type: ignore[assignment]
    leading: tuple[int, ...]
    first: int

    def _extent(self) -> str:
        first, last = self.windows[0].slices, self.windows[-1].slices
        if len(first) == 1:
            return f"rows {first[0].start}:{last[0].stop}"
        start, end = [axis.start for axis in first], [axis.stop for axis in last]
        return f"rows from {start} to {end}"

    @property
    def in_memory(self) -> bool:
        """Whether the data lie in the memory of this process."""
        return self.source.in_memory

    @property
    def is_kept(self) -> bool:
        """Whether workers keep some of the blocks in memory."""
        return self.source.is_kept

    @property
    def inputs(self) -> Inputs | None:
        """What Dask has to compute before the piece can be read, if anything."""
        return self.source.inputs(self.windows)

    def given(self, blocks: Sequence[Any]) -> Self:
        """Return the piece as it is sent to a task: with the blocks that its inputs became."""
        return replace(self, source=self.source.given(blocks))

    def blocks(self) -> Generator[Block, None, None]:
        """Yield the blocks of each region, in their order; each holds until the next."""
        row_bytes = self.source.shape[-1] * self.source.dtype.itemsize
        with closing(self.source.read(self.windows)) as arrays:
            for region, (values, weights) in zip(self.windows, arrays, strict=True):
                _check_shape("X", values, (*region.size, self.source.shape[-1]))
                if weights is not None:
                    check_unmasked("sample_weight", weights)
                    _check_shape("sample_weight", weights, region.size)
                for start, stop, part in region.bands(BLOCK_BYTES // row_bytes):
                    its = None if weights is None else weights[start:stop]
                    yield Block(
                        rows(values[start:stop], self.source.dtype, self.source.shape[-1]),
                        None if its is None else np.ascontiguousarray(its, np.float64).ravel(),
                        part,
                        self.leading,
                        self.first,
                    )


def check_unmasked(name: str, array: Any) -> None:
    """Raise if values are masked: what lies under the mask would be taken for data."""
    if np.ma.is_masked(array):
        remedy = "filled(0)" if name == "sample_weight" else _LEAVE_OUT
        raise InvalidArgumentError(
            f"{name} has masked values, which are not supported: fill them, for example with "
            f"{remedy}."
        )


def _check_shape(name: str, block: Any, told: tuple[int, ...]) -> None:
    """Raise if a block is of another shape than its array tells, as Dask does not see."""
    found = np.shape(block)
    if found != told:
        raise InvalidArgumentError(
            f"{name} has a block of shape {found} where it tells of {told}: give Dask the shapes "
            "that blocks have, for example as the shape of from_delayed, or as NaN."
        )


def rows(values: Any, dtype: np.dtype[Any], n_features: int) -> npt.NDArray[Any]:
    """Return an array as C-contiguous rows, (n, d), of a dtype; a view of it where possible.

    Raises
    ------
    InvalidArgumentError
        If values are masked, or are not what the array tells that they are of: another number of
        features, or numbers that the dtype does not hold.
    """
    check_unmasked("X", values)
    array = np.asarray(values)
    # Kernels would read what lies behind the rows.
    _check_shape("X", array, (*array.shape[:-1], n_features))
    array = _converted(array, dtype)
    return array.reshape(math.prod(array.shape[:-1]), n_features)


def _converted(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return numbers in a dtype, or raise unless it holds them, but for rounding to floats."""
    to_floats = dtype.kind == "f"
    is_safe = np.can_cast(array.dtype, dtype, "same_kind" if to_floats else "safe")
    if is_safe or (to_floats and array.dtype.kind == "O"):
        return np.ascontiguousarray(array, dtype)
    if array.dtype.kind in "iufO":
        with np.errstate(invalid="ignore"):  # of NaN, which is not equal
            found = np.ascontiguousarray(array, dtype)
        if np.array_equal(found, array):
            return found
    raise InvalidArgumentError(
        f"X has a block of dtype {array.dtype} where it tells of {dtype}, which does not hold its "
        "numbers: give Dask the dtype that blocks have, for example as that of map_blocks."
    )


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


def blocks(partition: Partition, tick: Ticker) -> Iterator[Block]:
    """Yield the blocks of a partition; each counts as read when the next is asked for."""
    for piece in partition:
        assert isinstance(piece, TablePiece)  # noqa: S101 - tells the type checker what tables are made of
        for block in piece.blocks():
            yield block
            tick(block.values.nbytes)
