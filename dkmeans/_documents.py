"""Documents: files of JSON, numbers and names only, that say of what kind and version they are.

What is read is data, never code, and refused with one sentence if it is not what it should be.
Numbers keep their bits on the way: floats are written by as many digits as tell them apart.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._validation import InvalidArgumentError, SourceError

_DTYPES = {"float32": (int, float), "float64": (int, float), "int64": (int,)}
_NOT_FINITE = ("nan", "inf", "-inf")
_MAX_BYTES = 1 << 30
_SHOWN = 60  # characters of what a file holds, in messages


@dataclass(frozen=True)
class Kind:
    """A kind of document.

    Attributes
    ----------
    noun
        What it is called in messages, as "model"; its format is called "dkmeans-model".
    version
        The one that is read and written.
    fields
        The names of its members, besides the format and the version.
    remedy
        What to do about a document of another version; a sentence.
    """

    noun: str
    version: int
    fields: tuple[str, ...]
    remedy: str

    def write(
        self, place: _stores.Place, members: Mapping[str, Any], *, indent: int | None
    ) -> None:
        """Write a document; it appears when it is complete.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        document = {"format": f"dkmeans-{self.noun}", "version": self.version, **members}
        text = json.dumps(document, indent=indent, allow_nan=False) + "\n"
        _stores.write(place, text.encode())

    def read(self, place: _stores.Place) -> dict[str, Any]:
        """Return the members of a document, which are those of its fields, and nothing else.

        Raises
        ------
        SourceError
            If it is missing, of another kind or version, or has other fields.
        """
        document = self._parsed(place)
        if not isinstance(document, dict) or document.get("format") != f"dkmeans-{self.noun}":
            raise SourceError(f"{place}: not a dkmeans {self.noun}.")
        version = document.get("version")
        if version != self.version or isinstance(version, bool):  # True is 1 in Python
            raise SourceError(
                f"{place}: a {self.noun} of version {shown(version)}; this dkmeans reads version "
                f"{self.version}. {self.remedy}"
            )
        fields = {"format", "version", *self.fields}
        with self.damaged(place):
            if document.keys() != fields:
                raise ValueError(
                    f"it must have the fields {', '.join(sorted(fields))}, and no other"
                )
        return {name: document[name] for name in self.fields}

    @contextmanager
    def damaged(self, place: _stores.Place) -> Iterator[None]:
        """Turn a ValueError about what a document holds into one clear error.

        Raises
        ------
        SourceError
            For a ValueError or an OverflowError.
        """
        try:
            yield
        except (ValueError, OverflowError) as error:
            raise SourceError(f"{place}: a damaged {self.noun} ({error}).") from error

    def _parsed(self, place: _stores.Place) -> Any:
        content = _stores.read(place, _MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise SourceError(f"{place}: not a dkmeans {self.noun} (larger than any).")
        try:
            return json.loads(content, object_pairs_hook=_object, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:  # no JSON, no text, or nested without end
            raise SourceError(f"{place}: not a dkmeans {self.noun} ({error}).") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members of a JSON object, of which no two have one name."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name that occurs twice")
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def shown(value: Any) -> str:
    """Return a value from a file as a message shows it: not all of it."""
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def encoded(name: str, value: Any, remedy: str = "") -> Any:
    """Return a value as JSON holds it; arrays with their dtype and shape.

    Parameters
    ----------
    name
        What to call it in messages.
    value
        A number, a text, None, an array of numbers, or a list of texts.
    remedy
        What to do about a value of another kind; ends a sentence.

    Raises
    ------
    InvalidArgumentError
        If the value is a function or another object.
    """
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
            f"{name} is {value!r}, which cannot be written to a file{remedy}."
        )
    return {
        "dtype": array.dtype.name if array.dtype.name in _DTYPES else "float64",
        "shape": list(array.shape),
        "values": [encoded(name, item) for item in array.reshape(-1).tolist()],
    }


def decoded(name: str, value: Any) -> Any:
    """Return what `encoded` made a value of.

    Raises
    ------
    ValueError
        If it made it of nothing.
    """
    if isinstance(value, list):
        if not all(isinstance(item, str) for item in value):
            raise ValueError(f"{shown(name)} is a list of other things than texts")
        return np.array(value, object)
    if not isinstance(value, dict) or value.keys() == {"float"}:
        return _number(value)
    if value.keys() != {"dtype", "shape", "values"}:
        raise ValueError(f"{shown(name)} is of no kind that is known")
    return _array(name, value["dtype"], value["shape"], value["values"])


def decoded_all(name: str, members: Any) -> dict[str, Any]:
    """Return the members of an object, all decoded; `name` is what to call it in messages.

    Raises
    ------
    ValueError
        If it is no object, or a member is damaged.
    """
    if not isinstance(members, dict):
        raise ValueError(f"{name} must be an object")  # noqa: TRY004 - of a file
    return {inner: decoded(inner, value) for inner, value in members.items()}


def numbered_texts(name: str, members: Any) -> dict[int, str]:
    """Return texts by their numbers, which JSON has as texts too.

    Raises
    ------
    ValueError
        If they are something else.
    """
    if not isinstance(members, dict) or not all(isinstance(m, str) for m in members.values()):
        raise ValueError(f"{name} must be an object of texts")
    return {int(number): text for number, text in members.items()}


def _number(value: Any) -> Any:
    """Return a number, where it is not finite and so not JSON's; all else as it is."""
    if not isinstance(value, dict):
        return value
    if value.keys() != {"float"} or value["float"] not in _NOT_FINITE:
        raise ValueError("a number that is none")
    return float(value["float"])


def _array(name: str, dtype: Any, shape: Any, values: Any) -> npt.NDArray[Any]:
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{shown(name)} has the dtype {shown(dtype)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{shown(name)} has a shape that is none")
    if not isinstance(values, list) or math.prod(shape) != len(values):
        raise ValueError(f"{shown(name)} has not as many values as its shape says")
    numbers = [_number(item) for item in values]
    if not all(type(item) in _DTYPES[dtype] for item in numbers):
        raise ValueError(f"{shown(name)} has values that are no {dtype}")
    with np.errstate(over="ignore"):  # becomes infinite, and is seen
        array: npt.NDArray[Any] = np.array(numbers, dtype).reshape(shape)
    return array


def check_kinds(
    what: str, members: Mapping[str, Any], known: Mapping[str, tuple[str, bool]]
) -> None:
    """Raise ValueError unless decoded members are those that are known.

    Parameters
    ----------
    what
        What a member is called in messages.
    members
        By name.
    known
        By name: what a member is, and whether there must be one. It may be "an integer", "a
        float", "a number", "a text", "an array", "an array of floats", or "a list of texts".
    """
    for name in members:
        if name not in known:
            raise ValueError(f"{shown(name)} is no {what} that is known")
    for name, (kind, required) in known.items():
        if required and name not in members:
            raise ValueError(f"{name} is missing")
        if name in members and not _is_a(kind, members[name]):
            raise ValueError(f"{name} must be {kind}")


def _is_a(kind: str, value: Any) -> bool:
    """Return whether a value is of a kind that `check_kinds` names."""
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
