"""The kinds of data that users bring, each as an array with its names and its way to answer."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dkmeans._tables_blocks import check_unmasked
from dkmeans._tables_zarr import StoredArray, ZarrSource, open_array
from dkmeans._validation import InvalidArgumentError, check_place

_KINDS = (
    "a NumPy, Dask or Zarr array, the path or URL of a Zarr array, an xarray DataArray, a Dask "
    "DataFrame, or a list of these"
)

_KEPT = tuple(np.dtype(name) for name in ("f4", "f8", "u1", "i1", "u2", "i2"))
_NUMBERS = "biuf"  # NumPy's letters for booleans, integers and real numbers

Finish = Callable[[Any], Any]


def _as_it_is(answer: Any) -> Any:
    return answer


@dataclass(frozen=True)
class Given:
    """What a user has given.

    Attributes
    ----------
    array
        A NumPy, Dask or Zarr array; the features on the last axis.
    weights
        A NumPy array, a Dask array, or a `StoredArray`.
    names
        Of the features.
    finish
        Makes of an answer in the shape of the leading axes one of the kind that was given.
    """

    array: Any
    weights: Any | None = None
    names: list[str] | None = None
    finish: Finish = _as_it_is

    @property
    def is_dask(self) -> bool:
        """Whether the array is one of Dask's."""
        return _is_a(self.array, "dask.array", "Array")

    @property
    def is_in_memory(self) -> bool:
        """Whether the array is one of NumPy's."""
        return isinstance(self.array, np.ndarray)


def _is_a(data: Any, module: str, name: str) -> bool:
    """Return whether data are of a class, without importing it: who has none has no data of it."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(data, kind)


def opened(data: Any, weights: Any, feature_dim: str | None, name: str) -> Given:
    """Return one array that a user has given.

    Parameters
    ----------
    data
        An array of any kind, or the path or URL of one.
    weights
        Of the rows.
    feature_dim
        The name of the feature dimension, for a `DataArray`; None for its last.
    name
        What to call the data in messages.

    Raises
    ------
    InvalidArgumentError
        If it is of a kind, dtype or shape that is not supported.
    SourceError
        If it is the path of something that is no Zarr array.
    """
    if _is_a(data, "xarray", "DataArray"):
        given = _labelled(data, weights, feature_dim, name)
    elif feature_dim is not None:
        raise InvalidArgumentError(
            f"feature_dim is {feature_dim!r}, but {name} is no xarray DataArray: only these name "
            "their dimensions; of other arrays the last axis holds the features."
        )
    elif _is_a(data, "dask.dataframe", "DataFrame"):
        names = list(data.columns)
        strings = all(isinstance(column, str) for column in names)
        given = Given(_of_frame(data, name), _plain(weights), names if strings else None)
    else:
        given = Given(_array(data, name), _plain(weights))
    _check(given.array, name)
    if given.weights is not None:
        _check_dtype(given.weights.dtype, "sample_weight")
        if given.is_in_memory:
            _check_in_memory(given.weights)
    return given


def _at(path: str | os.PathLike[str], name: str) -> Any:
    check_place(name, path, "the path of a Zarr array")
    return open_array(os.fspath(path))


def _array(data: Any, name: str) -> Any:
    if isinstance(data, str | os.PathLike):
        return _at(data, name)
    if isinstance(data, np.ndarray):
        check_unmasked(name, data)
        return np.asarray(data)
    if _is_a(data, "dask.array", "Array") or _is_a(data, "zarr", "Array"):
        return data
    if _is_a(data, "dask.dataframe", "Series"):
        return _of_column(data)
    _check_dense(data, name)
    raise InvalidArgumentError(f"{name} is a {type(data).__name__}; it must be {_KINDS}.")


def _of_frame(frame: Any, name: str) -> Any:
    """Return the columns of a Dask frame as a Dask array."""
    changed: dict[Any, np.dtype[Any]] = {}
    common = np.dtype(np.bool_)
    for column, dtype in frame.dtypes.items():
        if _is_of_pandas(dtype):
            changed[column] = np.dtype(np.float64)
        else:
            _check_dtype(dtype, f"{name}, in the column {column!r},")
        common = np.result_type(common, changed.get(column, dtype))
    if common != np.bool_:  # beside numbers, Dask would make objects of booleans
        changed |= {column: common for column, dtype in frame.dtypes.items() if dtype == np.bool_}
    return (frame.astype(changed) if changed else frame).to_dask_array()


def _of_column(series: Any) -> Any:
    return (series.astype(np.float64) if _is_of_pandas(series.dtype) else series).to_dask_array()


def _is_of_pandas(dtype: Any) -> bool:
    """Return whether a column holds numbers, or categories, in a dtype that NumPy does not have.

    They become floats, as for scikit-learn. Dask would make objects of numbers that may be missing,
    and arbitrary integers of missing categories.
    """
    is_number = dtype.kind in _NUMBERS or dtype.name == "category"
    return is_number and not isinstance(dtype, np.dtype)


def _plain(weights: Any) -> Any:
    """Return weights as a NumPy array, a Dask array or a `StoredArray`."""
    _check_dense(weights, "sample_weight")
    if weights is None or _is_a(weights, "dask.array", "Array"):
        return weights
    if _is_a(weights, "dask.dataframe", "Series"):
        return _of_column(weights)
    if _is_a(weights, "xarray", "DataArray"):
        return _plain(weights.data)
    if isinstance(weights, str | os.PathLike):
        weights = _at(weights, "sample_weight")
    if _is_a(weights, "zarr", "Array"):
        return StoredArray(ZarrSource.of(weights, np.dtype(np.float64)))
    check_unmasked("sample_weight", weights)
    try:
        weights = np.asarray(weights)
        return weights if weights.dtype.kind in "cmMV" else weights.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"sample_weight is a {type(weights).__name__} that does not hold a number for each "
            f"row ({error})."
        ) from error


def _check_in_memory(weights: Any) -> None:
    if not isinstance(weights, np.ndarray):
        raise InvalidArgumentError(
            "sample_weight is not in memory, and X is: give the weights as a NumPy array, for "
            "example with compute()."
        )


def _labelled(data: Any, weights: Any, feature_dim: str | None, name: str) -> Given:
    """Return what an xarray `DataArray` holds, its feature dimension last."""
    if data.ndim == 0 or (feature_dim is not None and feature_dim not in data.dims):
        raise InvalidArgumentError(
            f"feature_dim is {feature_dim!r}; it must be a dimension of {name}, which has "
            f"{', '.join(map(repr, data.dims)) or 'none'}."
        )
    last = data.dims[-1] if feature_dim is None else feature_dim
    data = data.transpose(..., last)
    if _is_a(weights, "xarray", "DataArray") and set(weights.dims) == set(data.dims[:-1]):
        weights = weights.transpose(*data.dims[:-1])
        _check_labels(data, weights)
    names = data.coords[last].values.tolist() if last in data.coords else []
    strings = bool(names) and all(isinstance(label, str) for label in names)
    # The answer needs the labels only: the data are not to be kept for it.
    dims = data.dims[:-1]
    coords = {key: coord for key, coord in data.coords.items() if set(coord.dims) <= set(dims)}
    finish = partial(_relabelled, type(data), dims, coords)
    array = _array(data.data, name)
    return Given(array, _plain(weights), names if strings else None, finish)


def _check_labels(data: Any, weights: Any) -> None:
    """Raise if weights have other labels than rows: they are taken by their places."""
    for dim, index in weights.indexes.items():
        if dim in data.indexes and not index.equals(data.indexes[dim]):
            raise InvalidArgumentError(
                f"sample_weight has other labels along {dim!r} than X, or the same in another "
                "order; bring them together with sample_weight.reindex_like(X)."
            )


def _relabelled(kind: Any, dims: tuple[Any, ...], coords: dict[Any, Any], answer: Any) -> Any:
    """Return an answer as a `DataArray`; what it has for each row lies along "cluster"."""
    new = "cluster"
    while new in dims:
        new += "_"
    return kind(answer, dims=(*dims, new)[: answer.ndim], coords=coords)


def _check(array: Any, name: str) -> None:
    """Raise if an array is no table of numbers."""
    shape = tuple(array.shape)
    if array.ndim < 2:  # noqa: PLR2004 - rows and features
        found = "1D" if array.ndim else "scalar"
        raise InvalidArgumentError(
            f"Expected 2D array, got {found} array instead: {name} has the shape {shape}. Reshape "
            "your data either using array.reshape(-1, 1) if your data has a single feature or "
            "array.reshape(1, -1) if it contains a single sample."
        )
    if isinstance(shape[-1], float):  # NaN; what metadata tell may be too large for `isnan`
        raise InvalidArgumentError(
            f"The number of features of {name} is unknown (shape={shape}): call "
            "compute_chunk_sizes() on it first."
        )
    if shape[-1] == 0:
        raise InvalidArgumentError(
            f"Found array with 0 feature(s) (shape={shape}) while a minimum of 1 is required: "
            f"the last axis of {name} must hold the features."
        )
    _check_dtype(array.dtype, name)
    _check_dense(array, name)


def _check_dense(array: Any, name: str) -> None:
    """Raise if an array, or what the blocks of a Dask array are like, is sparse."""
    meta = getattr(array, "_meta", array)
    if hasattr(type(meta), "todense"):  # a Delayed says that it has any attribute
        raise TypeError(
            f"Sparse data was passed for {name}, but dense data is required: it is of "
            f"{type(meta).__name__}. Make it dense; the blocks of a Dask array, for example, with "
            "map_blocks(lambda block: block.todense())."
        )


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    if dtype.kind == "c":
        raise InvalidArgumentError(
            f"{name} has the dtype {dtype}; complex data are not supported. Take their real parts, "
            "or give real and imaginary parts as two features."
        )
    if dtype.kind not in _NUMBERS:
        raise InvalidArgumentError(
            f"{name} has the dtype {dtype}; it must be boolean, integer, or floating point. "
            "Convert it, for example with astype('float64')."
        )


def block_dtype(dtypes: list[np.dtype[Any]]) -> np.dtype[Any]:
    """Return the dtype of the blocks of a table: one that kernels take, and holds all values.

    Examples
    --------
    >>> u1, i2, f2, i8 = (np.dtype(name) for name in ("u1", "i2", "f2", "i8"))
    >>> [block_dtype(group).name for group in ([u1], [u1, i2], [u1, f2], [i8])]
    ['uint8', 'int16', 'float32', 'float64']
    """
    common = np.result_type(*dtypes).newbyteorder("=")
    if common == np.float16:
        return np.dtype(np.float32)
    return common if common in _KEPT else np.dtype(np.float64)
