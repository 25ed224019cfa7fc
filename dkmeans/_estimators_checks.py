"""Checks of what users give to estimators, beside scikit-learn's."""

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._tables_blocks import check_unmasked
from dkmeans._validation import InvalidArgumentError

_RICH = ("dask", "zarr", "xarray")  # libraries whose arrays are read block by block
_TABLE = 2  # axes
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


@dataclass(frozen=True)
class Finite:
    """Refuses rows with infinite values, or with NaN unless it is to be ignored.

    Rows may have any number of leading axes, and so need not be copied to lie along one.
    """

    name: str
    missing: str
    place: str = " of a block"

    def __call__(self, values: npt.NDArray[Any]) -> None:
        if values.dtype.kind != "f":
            return
        with np.errstate(invalid="ignore", over="ignore"):
            if np.isfinite(values.sum(dtype=np.float64)):
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
