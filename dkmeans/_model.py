"""Models on disk: JSON, numbers and names only. Safe to load, atomic to write."""

import json
import math
import os
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._validation import InvalidArgumentError, SourceError

_FORMAT, _VERSION = "dkmeans-model", 1
_DTYPES = {"float32": (int, float), "float64": (int, float), "int64": (int,)}
_NOT_FINITE = ("nan", "inf", "-inf")
_MAX_BYTES = 1 << 30
_SHOWN = 60  # characters of what a file holds, in messages
_TABLE = 2  # axes

# The attributes of an estimator: what they are, and whether there must be one.
_ATTRIBUTES = {
    "cluster_centers_": ("an array of floats", True),
    "counts_": ("an array", True),
    "shift": ("an array of floats", True),
    "unit": ("a float", True),
    "n_features_in_": ("an integer", True),
    "n_iter_": ("an integer", True),
    "n_passes_": ("an integer", True),
    "n_missing_": ("an integer", True),
    "inertia_": ("a number", True),
    "stop_reason_": ("a text", True),
    "feature_names_in_": ("a list of texts", False),
}
# And these, of `MiniBatchKMeans` only, to go on from.
_STATE = dict.fromkeys(("n_steps_", "n_since", "seed"), ("an integer", True))
_BY_ESTIMATOR = {"KMeans": _ATTRIBUTES, "MiniBatchKMeans": {**_ATTRIBUTES, **_STATE}}


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
    state = parameters.get("random_state")
    if not isinstance(state, Integral):
        parameters = {**parameters, "random_state": None}
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "estimator": estimator,
        "parameters": {name: _encoded(name, value) for name, value in parameters.items()},
        "attributes": {name: _encoded(name, value) for name, value in attributes.items()},
    }
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    _stores.write(path, text.encode())


def _encoded(name: str, value: Any) -> Any:
    """Return a value as JSON holds it; arrays with their dtype and shape."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "OU" and array.ndim and all(isinstance(a, str) for a in array.flat):
        return [str(item) for item in array.flat]
    if array.dtype.kind not in "iuf":
        raise InvalidArgumentError(
            f"{name} is {value!r}, which cannot be written to a file; "
            f"set_params({name}='k-means++') before saving: it is not needed to predict."
        )
    return {
        "dtype": array.dtype.name if array.dtype.name in _DTYPES else "float64",
        "shape": list(array.shape),
        "values": [_encoded(name, item) for item in array.reshape(-1).tolist()],
    }


def load(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Read a model: the name of the estimator, its parameters and attributes.

    The attributes are those that a fitted estimator of this name has, and fit together; parameters
    are numbers, texts and arrays, and still to be checked.

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
            f"{name}: a model of version {_shown(document.get('version'))}; this dkmeans reads "
            f"version {_VERSION}. Fit again, or use the dkmeans that wrote it."
        )
    try:
        estimator = _estimator(document)
        parameters = _decoded_all(document["parameters"])
        _check_parameters(parameters)
        attributes = _decoded_all(document["attributes"])
        _check_kinds(attributes, _BY_ESTIMATOR[estimator])
        _check_shapes(attributes)
        _check_numbers(attributes)
    except (ValueError, OverflowError) as error:
        raise SourceError(f"{name}: a damaged model ({error}).") from error
    return estimator, parameters, attributes


def _parsed(path: str) -> Any:
    content = _stores.read(path, _MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise SourceError(f"{path}: not a dkmeans model (larger than any).")
    try:
        return json.loads(content, object_pairs_hook=_object, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # no JSON, no text, or nested without end
        raise SourceError(f"{path}: not a dkmeans model ({error}).") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object, of which no two have one name."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name that occurs twice")
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _shown(value: Any) -> str:
    """Return a value from a file as a message shows it: not all of it."""
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _estimator(document: Mapping[str, Any]) -> str:
    """Return the estimator that a document names, if its fields are those of a model."""
    fields = {"format", "version", "estimator", "parameters", "attributes"}
    if document.keys() != fields:
        raise ValueError(f"it must have the fields {', '.join(sorted(fields))}, and no other")
    name = document["estimator"]
    if not isinstance(name, str) or name not in _BY_ESTIMATOR:
        raise ValueError(f"the estimator is {_shown(name)}; known are {', '.join(_BY_ESTIMATOR)}")
    return name


def _decoded_all(members: Any) -> dict[str, Any]:
    if not isinstance(members, dict):
        raise ValueError("parameters and attributes must be objects")  # noqa: TRY004 - of a file
    return {name: _decoded(name, value) for name, value in members.items()}


def _decoded(name: str, value: Any) -> Any:
    """Return what `_encoded` made a value of."""
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise ValueError(f"{_shown(name)} is a list of other things than texts")
        return np.array(value, object)
    if not isinstance(value, dict) or value.keys() == {"float"}:
        return _number(value)
    if value.keys() != {"dtype", "shape", "values"}:
        raise ValueError(f"{_shown(name)} is of no kind that is known")
    return _array(name, value["dtype"], value["shape"], value["values"])


def _number(value: Any) -> Any:
    """Return a number, where it is not finite and so not JSON's; all else as it is."""
    if not isinstance(value, dict):
        return value
    if value.keys() != {"float"} or value["float"] not in _NOT_FINITE:
        raise ValueError("a number that is none")
    return float(value["float"])


def _array(name: str, dtype: Any, shape: Any, values: Any) -> npt.NDArray[Any]:
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{_shown(name)} has the dtype {_shown(dtype)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{_shown(name)} has a shape that is none")
    if not isinstance(values, list) or math.prod(shape) != len(values):
        raise ValueError(f"{_shown(name)} has not as many values as its shape says")
    numbers = [_number(item) for item in values]
    if not all(type(item) in _DTYPES[dtype] for item in numbers):
        raise ValueError(f"{_shown(name)} has values that are no {dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, and is seen
        array: npt.NDArray[Any] = np.array(numbers, dtype).reshape(shape)
    return array


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if isinstance(value, np.ndarray) and value.dtype.kind not in "if":
            raise ValueError(f"{_shown(name)} is a list of texts")


def _check_kinds(attributes: Mapping[str, Any], known: Mapping[str, tuple[str, bool]]) -> None:
    """Raise ValueError unless the attributes are those of a fitted estimator."""
    for name in attributes:
        if name not in known:
            raise ValueError(f"{_shown(name)} is no attribute that is known")
    for name, (kind, required) in known.items():
        if required and name not in attributes:
            raise ValueError(f"{name} is missing")
        if name in attributes and not _is_a(kind, attributes[name]):
            raise ValueError(f"{name} must be {kind}")


def _check_shapes(attributes: Mapping[str, Any]) -> None:
    centers, d = attributes["cluster_centers_"], attributes["n_features_in_"]
    if centers.ndim != _TABLE or not centers.size or centers.shape[1] != d:
        raise ValueError(
            f"cluster_centers_ has the shape {centers.shape}, and n_features_in_ is {d}"
        )
    expected = {"counts_": centers.shape[:1], "shift": (d,), "feature_names_in_": (d,)}
    for name, shape in expected.items():
        if name in attributes and attributes[name].shape != shape:
            raise ValueError(f"{name} has the shape {attributes[name].shape}; it must be {shape}")


def _check_numbers(attributes: Mapping[str, Any]) -> None:
    for name in ("cluster_centers_", "counts_", "shift"):
        if not np.isfinite(attributes[name]).all():
            raise ValueError(f"{name} must be finite")
    counts, unit = attributes["counts_"], attributes["unit"]
    if (counts < 0).any() or not counts.any():
        raise ValueError("counts_ must not be negative, nor all zero")
    if not 0 < unit < math.inf or math.frexp(unit)[0] != 0.5:  # noqa: PLR2004 - of powers of two
        raise ValueError("unit must be a power of two")
    if not 0 <= attributes.get("seed", 0) < 1 << 32:
        raise ValueError("seed must be from 0 to 2**32 - 1")


def _is_a(kind: str, value: Any) -> bool:
    """Return whether a value is of a kind that `_ATTRIBUTES` names."""
    if isinstance(value, np.ndarray):
        wanted = {"an array": "if", "an array of floats": "f", "a list of texts": "O"}
        return value.dtype.kind in wanted.get(kind, "")
    wanted_types = {
        "an integer": (int,),
        "a float": (float,),
        "a number": (int, float),
        "a text": (str,),
    }
    return type(value) in wanted_types.get(kind, ())
