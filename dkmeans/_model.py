"""Models on disk: JSON, numbers and names only. Safe to load, atomic to write."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._validation import InvalidArgumentError, OutputError, SourceError

_FORMAT, _VERSION = "dkmeans-model", 1
_DTYPES = ("float32", "float64", "int64")
_MAX_BYTES = 1 << 30

_REQUIRED = {"cluster_centers_": 2, "counts_": 1, "shift": 1, "unit": 0, "n_features_in_": 0}
_KNOWN = {
    *_REQUIRED,
    "feature_names_in_",
    "inertia_",
    "n_iter_",
    "n_missing_",
    "n_passes_",
    "n_steps_",
    "stop_reason_",
}


def save(
    path: str | os.PathLike[str],
    estimator: str,
    parameters: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> None:
    """Write a model; the file appears when it is complete.

    A random state that is an object becomes None: it cannot be written, and prediction needs none.

    Raises
    ------
    InvalidArgumentError
        If a parameter is a function or another object.
    OutputError
        If the file cannot be written.
    """
    kept = {
        name: None if name == "random_state" and not isinstance(value, int) else value
        for name, value in parameters.items()
    }
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "estimator": estimator,
        "parameters": {name: _encoded(name, value) for name, value in kept.items()},
        "attributes": {name: _encoded(name, value) for name, value in attributes.items()},
    }
    _write(Path(path), json.dumps(document, indent=1, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    """Write a file under another name and rename it."""
    partial = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", suffix=".partial",
            delete=False,
        ) as file:  # fmt: skip
            partial = Path(file.name)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())  # temporary files are for their owner only
        partial.replace(path)
    except OSError as error:
        if partial is not None:
            with suppress(OSError):
                partial.unlink()
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _encoded(name: str, value: Any) -> Any:
    """Return a value as JSON holds it; arrays with their dtype and shape."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        raise InvalidArgumentError(
            f"{name} is {value!r}, which cannot be written to a file; "
            f"set_params({name}='k-means++') before saving: it is not needed to predict."
        )
    array = np.asarray(value)
    if array.dtype.kind in "OU":
        return [str(item) for item in array.reshape(-1)]
    return {
        "dtype": array.dtype.name if array.dtype.name in _DTYPES else "float64",
        "shape": list(array.shape),
        "values": [_encoded(name, item) for item in array.reshape(-1).tolist()],
    }


def load(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Read a model: the name of the estimator, its parameters and attributes.

    Raises
    ------
    SourceError
        If the file is missing, no model, of another version, or damaged.
    """
    name = os.fspath(path)
    document = _parsed(name)
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise SourceError(f"{name}: not a dkmeans model.")
    if document.get("version") != _VERSION:
        raise SourceError(
            f"{name}: a model of version {document.get('version')!r}; this dkmeans reads "
            f"version {_VERSION}. Fit again, or use the dkmeans that wrote it."
        )
    try:
        estimator = document["estimator"]
        parameters = {str(k): _decoded(v) for k, v in document["parameters"].items()}
        attributes = {str(k): _decoded(v) for k, v in document["attributes"].items()}
        _check(attributes)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SourceError(f"{name}: a damaged model ({error!r}).") from error
    return str(estimator), parameters, attributes


def _parsed(path: str) -> Any:
    try:
        if Path(path).stat().st_size > _MAX_BYTES:
            raise SourceError(f"{path}: not a dkmeans model (larger than any).")
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except (ValueError, RecursionError) as error:  # no JSON, no text, or nested without end
        raise SourceError(f"{path}: not a dkmeans model ({error}).") from error


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise ValueError("a list of other things than texts")
        return np.array(value, object)
    if not isinstance(value, dict):
        return value
    if value.keys() == {"float"}:
        return float(value["float"])
    if value.keys() != {"dtype", "shape", "values"} or value["dtype"] not in _DTYPES:
        raise ValueError(f"unknown fields {sorted(value)}")
    values = [_decoded(item) for item in value["values"]]
    if not all(isinstance(item, int | float) for item in values):
        raise ValueError("an array of other things than numbers")
    shape = tuple(int(n) for n in value["shape"])
    array: npt.NDArray[Any] = np.array(values, value["dtype"]).reshape(shape)
    if array.shape != shape:
        raise ValueError(f"an array of shape {array.shape}, said to be {shape}")
    return array


def _check(attributes: Mapping[str, Any]) -> None:
    """Raise ValueError unless the attributes are those of a fitted estimator."""
    unknown = set(attributes) - _KNOWN
    if unknown:
        raise ValueError(f"unknown attributes {sorted(unknown)}")
    for name, n_axes in _REQUIRED.items():
        value = np.asarray(attributes[name])
        if value.ndim != n_axes or value.dtype.kind not in "if" or not np.isfinite(value).all():
            raise ValueError(f"{name} is not what it must be")
    centers, d = attributes["cluster_centers_"], attributes["n_features_in_"]
    names = attributes.get("feature_names_in_")
    fits = centers.dtype.kind == "f" and centers.shape[0] > 0 and centers.shape[1] == d > 0
    fits &= attributes["counts_"].shape == centers.shape[:1]
    fits &= attributes["shift"].shape == (d,) and attributes["unit"] > 0
    fits &= names is None or (isinstance(names, np.ndarray) and names.shape == (d,))
    if not fits:
        raise ValueError("the shapes of centres, counts and features contradict each other")
