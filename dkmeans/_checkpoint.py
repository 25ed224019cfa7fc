"""Checkpoints: where a fit of data larger than memory stands, in a file, to go on from.

One is written before each pass of refinement, and replaces the last. It names the parameters and
the data that it belongs to, so that a fit goes on only from its own; then it ends with the bits of
a fit that was never interrupted.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property, partial
from numbers import Real
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np

from dkmeans import _stores
from dkmeans._documents import Kind, check_kinds, decoded_all, encoded, shown
from dkmeans._frame import Frame
from dkmeans._frame_ranges import Ranges
from dkmeans._lloyd_refine import Standing
from dkmeans._passes_versions import version
from dkmeans._tables import Table
from dkmeans._validation import InvalidArgumentError, OutputError, check_place

_KIND = Kind(
    "checkpoint",
    1,
    ("parameters", "data", "state"),
    "Start over without it, or use the dkmeans that wrote it.",
)

_RANGES = tuple(field.name for field in fields(Ranges))
_STATE = {
    "low": ("an array of floats", True),
    "high": ("an array of floats", True),
    "n_rows": ("an integer", True),
    "n_used": ("an integer", True),
    "heaviest": ("a float", True),
    "n_missing": ("an integer", True),
    "first_missing": ("an integer", True),
    "first_infinite": ("an integer", True),
    "first_misweighted": ("an integer", True),
    "shift": ("an array of floats", True),
    "unit": ("a float", True),
    "scales": ("an array of floats", True),
    "precision": ("a text", True),
    "center_dtype": ("a text", True),
    "deep": ("an integer", True),
    "mean_variance": ("a float", True),
    "momentum": ("a float", True),
    "centers": ("an array of floats", True),
    "means": ("an array of floats", True),
    "inertia": ("a float", True),
    "n_iter": ("an integer", True),
    "n_passes": ("an integer", True),
}
_FLOATS = ("float32", "float64")


class Checkpoint:
    """The checkpoint of one fit.

    Parameters
    ----------
    place
        A path or URL.
    stays
        Whether it stays when the fit is over, for whoever has the result in memory only.
    """

    def __init__(self, place: _stores.Place, *, stays: bool = False) -> None:
        self.place = place
        self._stays = stays

    @classmethod
    def at(cls, place: Any) -> "Checkpoint":
        """Return the checkpoint at a place, or the one that is given.

        Raises
        ------
        InvalidArgumentError
            If it is no place.
        """
        if isinstance(place, cls):
            return place
        check_place("checkpoint", place)
        return cls(place)

    def is_there(self) -> bool:
        """Return whether there is one.

        Raises
        ------
        SourceError
            If there is another file, or it is damaged: it is not to be overwritten.
        """
        if not _stores.exists(self.place):
            return False
        _KIND.read(self.place)
        return True

    def belong(self, parameters: Mapping[str, Any], data: Table) -> None:
        """Tell what it belongs to: parameters by name, `n_clusters` among them, and data.

        Raises
        ------
        OutputError
            If it would lie among the files of the data, which it would change.
        """
        place = _stores.absolute(self.place)
        for folder in data.folders:
            if place.is_relative_to(_stores.absolute(folder)):
                raise OutputError(
                    f"{self.place}: lies inside the source {folder}; choose another place."
                )
        told = {name: _told(value) for name, value in parameters.items()}
        self._parameters = {"dkmeans": version(), **told}
        self._n_clusters, self._table = int(parameters["n_clusters"]), data

    def load(self) -> Standing | None:
        """Return where the fit stood, or None if there is no checkpoint.

        Raises
        ------
        OutputError
            If there is none, and none can be written: the fit would find out late.
        SourceError
            If there is another file, or it is damaged.
        InvalidArgumentError
            If it belongs to a fit of other parameters or data.
        """
        if not _stores.exists(self.place):
            _stores.refuse_unwritable(self.place)
            return None
        document = _KIND.read(self.place)
        with _KIND.damaged(self.place):
            parameters = _texts("parameters", document["parameters"])
            data = _texts("data", document["data"])
        self._refuse_other("parameters", parameters, self._parameters)
        self._refuse_other("data", data, self._data)
        with _KIND.damaged(self.place):
            state = decoded_all("state", document["state"])
            check_kinds("part of a state", state, _STATE)
            d = self._table.n_features
            _check_shapes(state, self._n_clusters, d, d + self._table.is_weighted)
            _check_numbers(state)
        return _standing(state)

    def of_another(self, what: str, change: str) -> InvalidArgumentError:
        """Return the error that it belongs to a fit of other parameters or data."""
        return InvalidArgumentError(
            f"{self.place}: a checkpoint of a fit of other {what}: {change}. Fit the same again to "
            "go on from it, or remove it to start over."
        )

    def save(self, standing: Standing) -> None:
        """Write where the fit stands; it replaces what was there when it is complete.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        frame, ranges = standing.frame, standing.ranges
        state = {
            **{name: getattr(ranges, name) for name in _RANGES},
            "shift": frame.shift,
            "unit": frame.unit,
            "scales": frame.scales,
            "precision": frame.precision.name,
            "center_dtype": frame.center_dtype.name,
            "deep": int(frame.deep),
            "mean_variance": float(standing.mean_variance),
            "momentum": float(standing.momentum),
            "centers": standing.centers,
            "means": standing.means,
            "inertia": float(standing.inertia),
            "n_iter": standing.n_iter,
            "n_passes": standing.n_passes,
        }
        members = {
            "parameters": self._parameters,
            "data": self._data,
            "state": {name: encoded(name, value) for name, value in state.items()},
        }
        _KIND.write(self.place, members, indent=None)

    def finish(self) -> None:
        """Remove it, unless it stays."""
        if not self._stays:
            self.remove()

    def remove(self) -> None:
        """Remove it, if it is there, and what killed writes of it have left."""
        _stores.sweep(self.place)
        if _stores.exists(self.place):
            _stores.remove(self.place)

    @cached_property
    def _data(self) -> dict[str, str]:
        """What is known of the data: looked at where there is a checkpoint, or one to write."""
        table = self._table
        known = {"shape": str(table.shape), "dtype": str(table.dtype)}
        return {**known, "content": table.fingerprint()}

    def _refuse_other(self, what: str, found: dict[str, str], wanted: dict[str, str]) -> None:
        """Raise unless what a checkpoint belongs to is what is fitted."""
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                was, now = shown(found.get(name)), shown(wanted.get(name))
                change = f"{name} was {was} then, and is {now} now"
                if name == "content":
                    change = "they have changed since, or are not the same"
                raise self.of_another(what, change)


def _told(value: Any, within: tuple[Any, ...] = ()) -> str:
    """Return a parameter as a text: the same for equal values, and another for others.

    A function is known by its name, its code and the numbers, texts and arrays that it was made
    with; what it looks up when it is called is not seen, nor what other objects hold. Those that it
    is told `within` know of it already.
    """
    if isinstance(value, np.ndarray):
        return f"array {value.shape} {value.dtype} {_digest(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, str | Real):
        return repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(_told(each, within) for each in value)})"
    if isinstance(value, partial):
        return f"partial {_told((value.func, *value.args, *value.keywords.items()), within)}"
    named = value if hasattr(value, "__qualname__") else type(value)
    name = f"{named.__module__}.{named.__qualname__}"
    if not isinstance(value, FunctionType):
        return name
    inner = map(_content, value.__closure__ or ())
    members = *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).items(), *inner
    within = (*within, value)
    told = [_told(each, within) for each in members if not any(each is one for one in within)]
    return f"{name} {_digest(f'{_told_of_code(value.__code__)} {told}'.encode(), 4)}"


def _content(cell: CellType) -> Any:
    """Return what a function has of the one around it; None of what that has not yet made."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _told_of_code(code: CodeType) -> str:
    """Return what code does, wherever it is written."""
    constants = [
        _told_of_code(each) if isinstance(each, CodeType)
        else sorted(map(repr, each)) if isinstance(each, frozenset)  # in no order
        else repr(each)
        for each in code.co_consts
    ]  # fmt: skip
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _digest(content: bytes, size: int = 16) -> str:
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def _texts(name: str, members: Any) -> dict[str, str]:
    if not isinstance(members, dict) or not all(isinstance(m, str) for m in members.values()):
        raise ValueError(f"{name} must be an object of texts")
    return members


def _standing(state: dict[str, Any]) -> Standing:
    """Return what a file tells, once it is checked."""
    frame = Frame(
        state["shift"],
        state["unit"],
        state["scales"],
        np.dtype(state["precision"]),
        np.dtype(state["center_dtype"]),
        deep=bool(state["deep"]),
    )
    return Standing(
        frame,
        Ranges(**{name: state[name] for name in _RANGES}),
        state["mean_variance"],
        state["momentum"],
        state["centers"],
        state["means"],
        state["inertia"],
        state["n_iter"],
        state["n_passes"],
    )


def _check_shapes(state: dict[str, Any], k: int, d: int, n_sums: int) -> None:
    """Raise ValueError unless arrays are float64, and as large as kernels will take them for."""
    allowed = {
        "centers": (k, d), "means": (k, d), "low": (d,), "high": (d,), "shift": (d,),
        "scales": (n_sums,),
    }  # fmt: skip
    for name, shape in allowed.items():
        array = state[name]
        if array.shape != shape or array.dtype != np.float64:
            raise ValueError(f"{name} is of {array.shape} {array.dtype}, and not {shape} float64")


def _check_numbers(state: dict[str, Any]) -> None:
    for name in ("centers", "means", "low", "high", "shift", "scales"):
        if not np.isfinite(state[name]).all():
            raise ValueError(f"{name} must be finite")
    scales = [state["unit"], *state["scales"].tolist()]
    if not all(0 < n < math.inf and math.frexp(n)[0] == 0.5 for n in scales):  # noqa: PLR2004 - of powers of two
        raise ValueError("unit and scales must be powers of two")
    if state["precision"] not in _FLOATS or state["center_dtype"] not in _FLOATS:
        raise ValueError(f"precision and center_dtype must be one of {', '.join(_FLOATS)}")
    most = np.finfo(state["center_dtype"]).max
    if any((np.abs(state[name]) > most).any() for name in ("centers", "means")):
        raise ValueError(f"centers and means must be numbers that {state['center_dtype']} holds")
    for name in ("n_iter", "n_passes", "n_rows", "n_used", "n_missing", "deep"):
        if not 0 <= state[name] < 1 << 63:
            raise ValueError(f"{name} must not be negative")
    if not 0 <= state["momentum"] < 1 or not state["inertia"] >= 0:
        raise ValueError("momentum must be from 0 to 1, and inertia not negative")
    if not 0 <= state["mean_variance"] < math.inf:
        raise ValueError("mean_variance must be finite")
