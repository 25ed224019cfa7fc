"""Dask arrays, and Zarr arrays, as parts of a table: what is answered is lazy."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
import numpy as np
import numpy.typing as npt

from dkmeans import _passes_schedulers as schedulers
from dkmeans._tables_arrays import MemoryRows, RowArray, RowFunction, fitting
from dkmeans._tables_blocks import GraphSource, TablePiece, rows
from dkmeans._tables_regions import Chunks, Regions, regions, regular
from dkmeans._tables_zarr import StoredArray, ZarrSource, raw_steps, steps
from dkmeans._validation import InvalidArgumentError, SourceError

_MOST_REGIONS = 1 << 26  # along an axis: lists of them are held in memory


@dataclass(frozen=True)
class _OnBlocks:
    """A function of rows as one of blocks with any number of leading axes."""

    __name__ = "map_rows"  # what Dask calls the tasks

    function: RowFunction
    rows_dtype: np.dtype[Any]
    n_features: int
    dtype: np.dtype[Any]
    tail: tuple[int, ...]

    def __call__(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        shape = (*block.shape[:-1], *self.tail)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        found = self.function(rows(block, self.rows_dtype, self.n_features))
        return found.astype(self.dtype, copy=False).reshape(shape)


def _mapped(
    array: Any,
    function: RowFunction,
    rows_dtype: np.dtype[Any],
    dtype: np.dtype[Any],
    columns: int | None,
) -> Any:
    """Return a Dask array of `function` of the rows of another, whose features are in one chunk."""
    tail = () if columns is None else (columns,)
    return array.map_blocks(
        _OnBlocks(function, rows_dtype, int(array.shape[-1]), dtype, tail),
        dtype=dtype,
        chunks=(*array.chunks[:-1], *((n,) for n in tail)),
        drop_axis=None if tail else array.ndim - 1,
        meta=np.empty((0,) * (array.ndim - 1 + len(tail)), dtype),  # else it would be tried out
    )


class DaskRows(RowArray):
    """A Dask array, and its weights: a Dask array of the same chunks, or any other array.

    Chunks of unknown size are no obstacle to `map`; whatever else needs the sizes computes them.
    `settle` does so for many arrays at once.
    """

    is_lazy = True

    def __init__(self, array: Any, weights: Any, dtype: np.dtype[Any]) -> None:
        self.n_features = int(array.shape[-1])
        self.dtype = dtype
        self.array = array.rechunk({array.ndim - 1: -1})
        self.weights = weights
        self._graph: Any = None
        if weights is not None:
            self._check_weights()

    @property
    def leading(self) -> tuple[int, ...]:
        """The extents of all axes but the last."""
        if not self.is_sized:
            settle([self])
        return tuple(int(n) for n in self.array.shape[:-1])

    def piece(self, index: int, first: int) -> TablePiece:
        """Return all of it as one piece, the array `index` of a table, from row `first` on."""
        settle([self])
        names: list[tuple[str, tuple[int, ...]]] = [(self.array.name, (0,))]
        if self.weights is not None:
            names.append((self.weights.name, ()))
        keys = {
            region: tuple((name, *place, *end) for name, end in names)
            for place, region in regions(self.array.chunks[:-1])
        }
        source = GraphSource((*self.leading, self.n_features), self.dtype, self._graph, keys)
        return TablePiece(index, source, tuple(keys), self.leading, first)

    def map(self, function: RowFunction, dtype: np.dtype[Any], columns: int | None) -> Any:
        """Return `function` of all rows as a Dask array with the same leading chunks."""
        return _mapped(self.array, function, self.dtype, dtype, columns)

    @property
    def is_sized(self) -> bool:
        """Whether `leading` is known without computing anything."""
        return not any(map(math.isnan, self.array.shape))

    @property
    def is_settled(self) -> bool:
        """Whether all sizes are known and the graph is optimised."""
        return self._graph is not None

    def settle_sizes(self, sizes: "_Sizes") -> None:
        """Take over sizes that have been computed; make the weights a Dask array."""
        self.array = _passed_on(sizes.known(self.array))
        if self.weights is not None:
            if _is_dask(self.weights):
                self.weights = _passed_on(sizes.known(self.weights))
            self._check_weights()
            if not _is_dask(self.weights):
                weights = fitting(self.weights, tuple(self.array.shape[:-1]))
                self.weights = _from_array(weights, self.array.chunks[:-1])

    def settle_graph(self, graph: Any) -> None:
        """Take over the graph that computes this array and others."""
        self._graph = graph

    def collections(self) -> list[Any]:
        """Return the Dask arrays that belong to it."""
        return [self.array, *([self.weights] if _is_dask(self.weights) else [])]

    def _check_weights(self) -> None:
        """Raise if the weights do not fit, as far as sizes are known."""
        if not self.is_sized:
            return
        leading = tuple(self.array.shape[:-1])
        if not _is_dask(self.weights):
            fitting(self.weights, leading)
        elif not any(map(math.isnan, self.weights.shape)):
            fitting(self.weights, leading)
            if self.weights.chunks != self.array.chunks[:-1]:
                raise InvalidArgumentError(
                    f"sample_weight has the chunks {self.weights.chunks}, and X, without its "
                    f"features, {self.array.chunks[:-1]}: rechunk one like the other."
                )


class ZarrRows(RowArray):
    """An array in Zarr: passes read it by region, and what is answered is a Dask array."""

    is_lazy = True

    def __init__(self, array: Any, dtype: np.dtype[Any], table: str, number: int) -> None:
        self.n_features = array.shape[-1]
        self.dtype = dtype
        self._source = ZarrSource.of(array, dtype, table, number)
        self._steps = steps(array.shape, array.chunks, array.shards, array.dtype.itemsize)
        extents = zip(array.shape[:-1], self._steps, strict=True)
        if max((extent // step for extent, step in extents), default=0) > _MOST_REGIONS:
            raise SourceError(
                f"{self._source.path}: of shape {array.shape} in chunks of {array.chunks}, more "
                "than can be listed; write it again in larger chunks."
            )
        self._chunks = regular(array.shape[:-1], self._steps)

    @property
    def steps(self) -> tuple[int, ...]:
        """The extents of the regions to read."""
        return self._steps

    @property
    def leading(self) -> tuple[int, ...]:
        """The extents of all axes but the last."""
        return self._source.shape[:-1]

    def piece(self, index: int, first: int) -> TablePiece:
        """Return all of it as one piece, the array `index` of a table, from row `first` on."""
        raw = self._source.raw
        windows = Regions.of(self.leading, self._steps if raw is None else raw_steps(raw))
        return TablePiece(index, self._source, windows, self.leading, first)

    def map(self, function: RowFunction, dtype: np.dtype[Any], columns: int | None) -> Any:
        """Return `function` of all rows as a Dask array, chunked as passes read."""
        return _mapped(self.as_dask(), function, self.dtype, dtype, columns)

    def as_dask(self) -> Any:
        """Return it as a Dask array with the chunks in which passes read it."""
        array = StoredArray(self._source)
        return _from_array(array, (*self._chunks, (self.n_features,)))

    def with_weights(self, weights: Any) -> DaskRows:
        """Return it as a Dask array with weights, which are cut like the rows."""
        array = self.as_dask()
        if _is_dask(weights) and not any(map(math.isnan, weights.shape)):
            weights = fitting(weights, self.leading).rechunk(self._chunks)
        return DaskRows(array, weights, self.dtype)


def memory_as_dask(rows: MemoryRows) -> DaskRows:
    """Return an array in memory as one that Dask can send, in chunks, to where others are read."""
    chunks = (*rows.chunks, (rows.n_features,))
    return DaskRows(_from_array(rows.array, chunks), rows.weights, rows.dtype)


def _is_dask(array: Any) -> bool:
    return bool(dask.is_dask_collection(array))


def _from_array(array: Any, chunks: Chunks) -> Any:
    """Return a Dask array of chunks read from another kind of array."""
    import dask.array as da  # noqa: PLC0415 - slow

    # Opened in each task where it is on disk; what lies in memory is sent once.
    inline = isinstance(array, StoredArray) and not array.source.in_memory
    # By any other name than its own it would be known by its content, which takes reading it all.
    return da.from_array(array, chunks=chunks, name=False, inline_array=inline, fancy=False)


def settle(arrays: Sequence[DaskRows]) -> None:
    """Compute the chunk sizes that are unknown, and optimise the graphs, of all arrays together."""
    arrays = [array for array in arrays if not array.is_settled]
    if not arrays:
        return
    sizes = _Sizes.of([part for array in arrays for part in array.collections()])
    for array in arrays:
        array.settle_sizes(sizes)
    graph = _optimised([part for array in arrays for part in array.collections()])
    for array in arrays:
        array.settle_graph(graph)


@dataclass(frozen=True)
class _Sizes:
    """The chunk sizes of some Dask arrays, by name and axis, where they were unknown."""

    sizes: dict[tuple[str, int], tuple[int, ...]]

    @classmethod
    def of(cls, arrays: Sequence[Any]) -> "_Sizes":
        """Compute what is unknown, all at once."""
        wanted = {
            (array.name, axis): _extents(array, axis)
            for array in arrays
            for axis, sizes in enumerate(array.chunks)
            if any(map(math.isnan, sizes))
        }
        found = schedulers.compute(*wanted.values()) if wanted else ()
        return cls({key: tuple(n.tolist()) for key, n in zip(wanted, found, strict=True)})

    def known(self, array: Any) -> Any:
        """Return the array with chunks of known size. The user's own stays as it is."""
        chunks = tuple(self.sizes.get((array.name, i), c) for i, c in enumerate(array.chunks))
        if chunks == array.chunks:
            return array
        import dask.array as da  # noqa: PLC0415 - slow

        return da.Array(array.dask, array.name, chunks, meta=array)


def _extents(array: Any, axis: int) -> Any:
    """Return the sizes of the chunks along an axis as a Dask array."""
    line = array.blocks[tuple(slice(None) if i == axis else 0 for i in range(array.ndim))]
    return line.map_blocks(
        partial(_extent, axis=axis),
        dtype=np.int64,
        chunks=tuple((1,) * n for n in line.numblocks),
        meta=np.empty((0,) * array.ndim, np.int64),
    ).ravel()


def _extent(block: npt.NDArray[Any], axis: int) -> npt.NDArray[np.int64]:
    return np.full((1,) * block.ndim, block.shape[axis], np.int64)


def _passed_on(array: Any) -> Any:
    """Return a Dask array, in tasks of its own if its blocks are persisted on a cluster.

    Such blocks have the keys by which the cluster knows them, and Dask leaves these out of a graph.
    """
    distributed = sys.modules.get("distributed")
    first = array.name, *(0 for _ in range(array.ndim))
    if distributed is None or not isinstance(array.dask[first], distributed.Future):
        return array
    return array.map_blocks(_same, dtype=array.dtype, meta=array._meta)  # noqa: SLF001 - there is no other way to it


def _same(block: Any) -> Any:
    return block


def _optimised(arrays: Sequence[Any]) -> Any:
    """Return a graph that computes every block of some Dask arrays, optimised once for all.

    Dask forgets what the user has noted on layers when it fuses single tasks, so it then does not.
    """
    from dask.highlevelgraph import HighLevelGraph  # noqa: PLC0415 - slow

    whole = HighLevelGraph.merge(*(array.__dask_graph__() for array in arrays))
    annotated = any(layer.annotations for layer in whole.layers.values())
    settings = {"optimization.fuse.active": False} if annotated else {}
    with schedulers.configured(settings):
        keys = [array.__dask_keys__() for array in arrays]
        return HighLevelGraph.merge(arrays[0].__dask_optimize__(whole, keys))
