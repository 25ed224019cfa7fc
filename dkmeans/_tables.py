"""Tables: rows of features, wherever they lie, as blocks that a pass can read.

The last axis of an array holds the features; all others are samples. Rows are numbered in C order
over these, and in a collection from one array to the next.
"""

import math
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _tables_kept as kept
from dkmeans._tables_arrays import MemoryRows, RowArray, RowFunction
from dkmeans._tables_blocks import Block, TablePiece
from dkmeans._tables_dask import DaskRows, ZarrRows, memory_as_dask, settle
from dkmeans._tables_fingerprints import fingerprint, folder_of
from dkmeans._tables_kinds import Given, block_dtype, opened
from dkmeans._tables_regions import Regions
from dkmeans._validation import InvalidArgumentError

__all__ = ["Block", "Table", "TablePiece", "table"]


class Table:
    """Rows of features, wherever they lie. Made by `table`.

    Making one reads nothing. Of a Dask array whose chunk sizes are unknown, `shape`, `n_rows`,
    `nbytes` and `pieces` compute the sizes when they are first asked for.

    Parameters
    ----------
    given
        One array, or those of a collection.
    is_collection
        Whether it is a collection, be it of one array.

    Attributes
    ----------
    n_features
        The length of the last axis.
    dtype
        Of the blocks: as stored where it is a float of 32 or 64 bits or an integer of up to 16;
        float32 for float16, float64 for other numbers. In a collection, one that holds the values
        of all.
    is_lazy
        Whether `map` answers with Dask arrays; in a collection, some of them.
    is_weighted
        Whether rows have weights.
    names
        Of the features; None where they have none.
    unsized
        The numbers of the arrays whose chunks have unknown sizes: to find them, these are read.
    """

    def __init__(self, given: Sequence[Given], *, is_collection: bool) -> None:
        self._given = given
        self._is_collection = is_collection
        self.n_features = int(given[0].array.shape[-1])
        self.dtype = block_dtype([part.array.dtype for part in given])
        self.is_lazy = not all(part.is_in_memory for part in given)
        self.is_weighted = given[0].weights is not None
        same = all(part.names == given[0].names for part in given)
        self.names = given[0].names if same else None
        name = (
            uuid.uuid4().hex
        )  # of another table even if it is of the same arrays: they may change
        self._rows = [_rows(part, self.dtype, name, i) for i, part in enumerate(given)]
        self.unsized = {i for i, array in enumerate(self._rows) if not array.is_sized}
        weakref.finalize(self, kept.forget, name)

    @cached_property
    def _read(self) -> list[RowArray]:
        """What passes read: arrays in memory among others are sent to where the others are."""
        if not self.is_lazy:
            return self._rows
        arrays = [memory_as_dask(a) if isinstance(a, MemoryRows) else a for a in self._rows]
        settle([array for array in arrays if isinstance(array, DaskRows)])
        return arrays

    @property
    def _sized(self) -> list[RowArray]:
        """The arrays, once their sizes are known: if they have to be computed, then together."""
        return self._rows if all(array.is_sized for array in self._rows) else self._read

    @property
    def shape(self) -> tuple[int, ...]:
        """The leading axes and the features; (n_rows, n_features) of a collection."""
        leading = (self.n_rows,) if self._is_collection else self._sized[0].leading
        return (*leading, self.n_features)

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return sum(array.n_rows for array in self._sized)

    @property
    def nbytes(self) -> int:
        """The size of all blocks."""
        return self.n_rows * self.n_features * self.dtype.itemsize

    @cached_property
    def pieces(self) -> list[TablePiece]:
        """One piece for each array that has rows."""
        firsts = accumulate((array.n_rows for array in self._read), initial=0)
        return [
            array.piece(index, first)
            for index, (array, first) in enumerate(zip(self._read, firsts, strict=False))
            if array.n_rows
        ]

    @property
    def folders(self) -> list[str]:
        """The folders and URLs of all arrays in Zarr, those of weights among them."""
        arrays = [a for part in self._given for a in (part.array, part.weights) if a is not None]
        return [folder for array in arrays if (folder := folder_of(array)) is not None]

    def fingerprint(self) -> str:
        """Return a text that changes when data or weights do; see `_tables_fingerprints`.

        Raises
        ------
        SourceError
            If they cannot be looked at.
        """
        parts: list[Any] = []
        for given, rows in zip(self._given, self._sized, strict=True):
            known = rows if given.is_dask and isinstance(rows, DaskRows) else given
            parts += [known.array] if known.weights is None else [known.array, known.weights]
        return "-".join(map(fingerprint, parts))

    def tiles(self, n_rows: int) -> tuple[list[TablePiece], tuple[int, ...], int]:
        """Return pieces of one region each, the tiles of a regular grid.

        With them, the extents of a tile, and how far along the first axis it is best read at a
        time.

        A tile holds about `n_rows` rows, and whole chunks of the data: so an answer that is stored
        in chunks of these extents is written by tasks that own whole chunks. Only for one array
        in memory or in Zarr.

        Raises
        ------
        InvalidArgumentError
            If the table is of other data.
        """
        [array, *others] = self._rows
        if others or isinstance(array, DaskRows):
            raise InvalidArgumentError("X is of several arrays or of Dask's; give one array.")
        piece = array.piece(0, 0)
        unit = array.steps
        per_unit = math.prod(min(a, b) for a, b in zip(unit, piece.leading, strict=True))
        tile = (unit[0] * max(1, n_rows // max(1, per_unit)), *unit[1:])
        grid = Regions.of(piece.leading, tile)
        return [replace(piece, windows=(region,)) for region in grid], tile, unit[0]

    def map(self, function: RowFunction, dtype: npt.DTypeLike, columns: int | None = None) -> Any:
        """Return a function of all rows, in the kind and the shape of the data.

        Parameters
        ----------
        function
            Of rows, (n, d), to (n,) or (n, `columns`). Called on blocks of any number of rows but
            none, from any thread; pickled to workers.
        dtype
            Of the answer.
        columns
            How many numbers the answer has for each row, along a new last axis; None for one,
            without an axis.

        Returns
        -------
        array or list
            A NumPy array for one in memory, computed in the threads of this process. Else a Dask
            array with the leading chunks of the data, not yet computed; for Zarr and data frames
            too. For a `DataArray` one with the labels of the rows. For a collection a list.
        """
        answers = [
            given.finish(array.map(function, np.dtype(dtype), columns))
            for given, array in zip(self._given, self._rows, strict=True)
        ]
        return answers if self._is_collection else answers[0]


def table(data: Any, sample_weight: Any | None = None, feature_dim: str | None = None) -> Table:
    """Return data as a table.

    Nothing is read, and nothing of the user's is changed.

    Parameters
    ----------
    data
        A NumPy array, a Dask array of any chunks, a Zarr array or the path or URL of one, an
        xarray `DataArray`, a Dask data frame; or a list of these, which may differ in all but the
        number of features.
    sample_weight
        The weights of rows in the shape of the leading axes of the data: a NumPy array, or for
        data that are not in memory also a Dask or Zarr array. In a NumPy array they may also be
        in one row. For a list, a list.
    feature_dim
        The name of the feature dimension of a `DataArray`; by default its last.

    Raises
    ------
    InvalidArgumentError
        If data or weights are of a kind, dtype or shape that is not supported, or do not fit
        together.
    SourceError
        If `data` is a path where no Zarr array can be read.
    """
    if not isinstance(data, list | tuple):
        given = opened(data, sample_weight, feature_dim, "X")
        return Table([given], is_collection=False)
    weights = _weights_of_each(sample_weight, len(data))
    parts = [
        opened(array, weight, feature_dim, f"X[{i}]")
        for i, (array, weight) in enumerate(zip(data, weights, strict=False))
    ]
    _check_features(parts)
    return Table(parts, is_collection=True)


def _rows(given: Given, dtype: np.dtype[Any], table_name: str, number: int) -> RowArray:
    if given.is_in_memory:
        return MemoryRows(given.array, given.weights, dtype)
    if given.is_dask:
        return DaskRows(given.array, given.weights, dtype)
    rows = ZarrRows(given.array, dtype, table_name, number)
    return rows if given.weights is None else rows.with_weights(given.weights)


def _weights_of_each(weights: Any | None, n: int) -> Any:
    if weights is None:
        return repeat(None, n)
    if (
        not isinstance(weights, list | tuple)
        or len(weights) != n
        or any(w is None for w in weights)
    ):
        found = f"{len(weights)} of them" if isinstance(weights, list | tuple) else "no list"
        raise InvalidArgumentError(
            f"sample_weight is {found}; X is a list of {n} arrays, and so it must be a list of "
            f"{n} arrays too."
        )
    return weights


def _check_features(parts: Sequence[Given]) -> None:
    if not parts:
        raise InvalidArgumentError("X is an empty list; it must hold at least one array.")
    first = parts[0].array.shape[-1]
    for i, part in enumerate(parts):
        if part.array.shape[-1] != first:
            raise InvalidArgumentError(
                f"X[{i}] has {part.array.shape[-1]} features and X[0] has {first}; all arrays of a "
                "collection must have as many."
            )
