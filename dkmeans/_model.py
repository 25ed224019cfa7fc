"""Models on disk: JSON, numbers and names only. Safe to load, atomic to write."""

import math
import os
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from dkmeans._documents import Kind, check_kinds, decoded_all, encoded, shown
from dkmeans._validation import InvalidArgumentError, check_place

_KIND = Kind(
    "model",
    1,
    ("estimator", "parameters", "attributes"),
    "Fit again, or use the dkmeans that wrote it.",
)
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
        If the path is none, a parameter is a function or another object, or the estimator of a
        class that is not dkmeans's own, which `load` could not make again.
    OutputError
        If the file cannot be written.
    """
    check_place("path", path)
    if estimator not in _BY_ESTIMATOR:
        raise InvalidArgumentError(
            f"the model is a {estimator}; only {' and '.join(_BY_ESTIMATOR)} can be saved so that "
            "load knows them. Pickle it instead."
        )
    state = parameters.get("random_state")
    if not isinstance(state, Integral):
        parameters = {**parameters, "random_state": None}
    members = {
        "estimator": estimator,
        "parameters": {name: _encoded(name, value) for name, value in parameters.items()},
        "attributes": {name: _encoded(name, value) for name, value in attributes.items()},
    }
    _KIND.write(path, members, indent=1)


def _encoded(name: str, value: Any) -> Any:
    remedy = f"; set_params({name}='k-means++') before saving: it is not needed to predict"
    return encoded(name, value, remedy)


def load(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Read a model: the name of the estimator, its parameters and attributes.

    The attributes are those that a fitted estimator of this name has, and fit together; parameters
    are numbers, texts and arrays, and still to be checked.

    Raises
    ------
    InvalidArgumentError
        If the path is none.
    SourceError
        If the file is missing, no model, of another version, or damaged.
    """
    check_place("path", path)
    document = _KIND.read(path)
    with _KIND.damaged(path):
        estimator = _known(document["estimator"])
        parameters = decoded_all("parameters", document["parameters"])
        _check_parameters(parameters)
        attributes = decoded_all("attributes", document["attributes"])
        check_kinds("attribute", attributes, _BY_ESTIMATOR[estimator])
        _check_shapes(attributes)
        _check_numbers(attributes)
    return estimator, parameters, attributes


def _known(estimator: Any) -> str:
    if not isinstance(estimator, str) or estimator not in _BY_ESTIMATOR:
        raise ValueError(
            f"the estimator is {shown(estimator)}; known are {', '.join(_BY_ESTIMATOR)}"
        )
    return estimator


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if isinstance(value, np.ndarray) and value.dtype.kind not in "if":
            raise ValueError(f"{shown(name)} is a list of texts")


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
