"""Checks of what users give to estimators, beside scikit-learn's."""

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._frame import Float64
from dkmeans._frame_ranges import Ranges
from dkmeans._tables_blocks import check_unmasked
from dkmeans._validation import InvalidArgumentError

_RICH = ("dask", "zarr", "xarray")  # libraries whose arrays are read block by block
_TABLE = 2  # axes
_LEAST_WEIGHT = 1e-250
_LARGEST, _LEAST = float(np.finfo(np.float64).max), float(np.finfo(np.float64).tiny)
_NO_NUMBERS = ("m", "M", "V")  # NumPy's letters for durations, dates and records


def is_rich(data: Any) -> bool:
    """Return whether data are of a kind that scikit-learn's checks do not know."""
    if isinstance(data, list | tuple) and data:
        return getattr(data[0], "ndim", 0) >= _TABLE or isinstance(data[0], str | os.PathLike)
    if isinstance(data, np.ndarray):
        return data.ndim > _TABLE and data.dtype != object
    return isinstance(data, str | os.PathLike) or type(data).__module__.startswith(_RICH)


def has_dims(data: Any) -> bool:
    """Return whether data, or some of a list, name their dimensions."""
    some = data if isinstance(data, list | tuple) else [data]
    return any(type(each).__module__.startswith("xarray") for each in some)


def check_columns(data: Any, estimator: str) -> None:
    """Refuse tables that scikit-learn would make numbers of without sense, or not explain.

    Raises
    ------
    InvalidArgumentError
        For dates, durations, records, masked values, and data frames without columns.
    """
    dtypes = getattr(data, "dtypes", getattr(data, "dtype", None))  # those of a frame, or one
    for dtype in np.atleast_1d(np.array(dtypes, object)):
        if getattr(dtype, "kind", None) in _NO_NUMBERS:
            raise InvalidArgumentError(
                f"X has the dtype {dtype}; it must be boolean, integer, or floating point. "
                "Convert it, for example with astype('int64')."
            )
    check_unmasked("X", data)
    shape: Any = getattr(data, "shape", ())
    if len(shape) == _TABLE and shape[1] == 0:
        raise InvalidArgumentError(
            f"Found array with 0 feature(s) (shape={shape}) while a minimum of 1 is required "
            f"by {estimator}."
        )


def in_both_orders(letters: str) -> list[np.dtype[Any]]:
    """Return the dtypes of these letters, in the machine's order of bytes and in the other."""
    dtypes = [np.dtype(letter) for letter in letters]
    return dtypes + [dtype.newbyteorder() for dtype in dtypes]


@dataclass(frozen=True)
class Finite:
    """Refuses rows with infinite values, or with NaN unless it is to be ignored.

    Rows may have any number of leading axes, and so need not be copied to lie along one.
    """

    name: str
    missing: str
    place: str = " of a block"

    def __call__(self, values: npt.NDArray[Any]) -> None:
        if values.dtype.kind != "f" or np.isfinite(values).all():
            return
        rows, what, hint = np.flatnonzero(np.isinf(values).any(axis=-1)), "infinity", ""
        if not rows.size and self.missing == "error":
            rows, what = np.flatnonzero(np.isnan(values).any(axis=-1)), "NaN"
            hint = "; see its parameter missing"
        if rows.size:
            n = math.prod(values.shape[:-1])
            raise ValueError(
                f"Input X contains {what}: {rows.size} rows, the first is row {rows[0]} of "
                f"{n}{self.place}. {self.name} takes finite values only{hint}."
            )


def check_finite(ranges: Ranges, name: str, missing: str) -> None:
    """Refuse rows that have no label, with an error that calls the estimator by `name`."""
    if ranges.first_infinite >= 0:
        raise ValueError(
            f"Input X contains infinity, first in row {ranges.first_infinite}; {name} takes "
            "finite values only."
        )
    if ranges.n_missing and missing == "error":
        raise ValueError(
            f"Input X contains NaN: {ranges.n_missing} rows, the first is row "
            f"{ranges.first_missing}. Leave such rows out with {name}(missing='ignore'), or "
            "fill them in."
        )


def check_ranges(ranges: Ranges, name: str, missing: str, centers: Float64 | None = None) -> None:
    """Refuse rows that cannot be clustered, with an error that calls the estimator by `name`.

    `centers` are those that there are already, which the rows move.
    """
    if ranges.first_misweighted >= 0:
        raise ValueError(
            "sample_weight contains negative values, NaN or infinity, first in row "
            f"{ranges.first_misweighted}; weights must be finite and at least 0."
        )
    check_finite(ranges, name, missing)
    if not ranges.n_used:
        raise ValueError(
            "No row counts: all have NaN." if ranges.n_missing else
            "sample_weight is zero for every row; at least one must be above zero."
        )  # fmt: skip
    if ranges.heaviest > _LARGEST / ranges.n_used:
        raise ValueError(
            f"sample_weight is up to {ranges.heaviest:.3g}, so large that the sum of all "
            "weights may exceed float64. Scale the weights."
        )
    low, high, apart = ranges.low, ranges.high, "apart"
    if centers is not None:
        low, high = np.minimum(low, centers.min(axis=0)), np.maximum(high, centers.max(axis=0))
        apart = "apart, or from the centres so far"
    extent = float((high / 2 - low / 2).max())
    # Squares have to fit both by themselves and times weights.
    if extent > math.sqrt(_LARGEST / low.size / ranges.n_used / max(1.0, ranges.heaviest)) / 2:
        largest = max(np.abs(low).max(), np.abs(high).max())
        raise ValueError(
            f"Input X contains values too far {apart} (the largest is {largest:.3g}, the largest "
            f"weight {ranges.heaviest:.3g}): sums of their squared distances exceed float64. "
            "Scale them."
        )
    if ranges.heaviest < _LEAST_WEIGHT:
        raise ValueError(
            f"sample_weight is at most {ranges.heaviest:.3g}, too small for float64 to weigh "
            "anything with. Scale the weights."
        )
    if 0 < extent < math.sqrt(_LEAST / min(1.0, ranges.heaviest)):
        raise ValueError(
            f"Input X contains values too near each other (at most {2 * extent:.3g} apart, the "
            f"largest weight {ranges.heaviest:.3g}): their squared distances vanish in "
            "float64. Scale them."
        )
