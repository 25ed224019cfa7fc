"""Checks at the door, and the errors that users see.

Every error says what was given, where, what is allowed and what to do.
"""

import numbers
import os
from typing import Any

PLACE = "a path, or a URL such as s3://bucket/name"
MAX_COLORS = 256  # what an 8-bit palette holds
KEPT = "what is done is kept"  # so begins the note of an error after which a job can be resumed
MAX_RESIDENT = 256 << 20  # bytes that one decoder may hold


def note_kept(error: BaseException, place: object) -> None:
    """Add to an error that the job can go on from what is at a place."""
    error.add_note(f"{KEPT} in {place}; resume=True goes on from there")


class DkmeansError(Exception):
    """Any error that dkmeans raises on purpose."""


class InvalidArgumentError(DkmeansError, ValueError):
    """An argument has a value that is not allowed, or contradicts another one."""


class SourceError(DkmeansError):
    """A source is missing, cannot be read, or holds what is not supported."""


class OutputError(DkmeansError):
    """The output exists, cannot be written, or would lie where it must not."""


class InsufficientMemoryError(DkmeansError):
    """A job needs more memory than there is where it would run; nothing has been done."""


class ClusterError(DkmeansError):
    """A cluster is lost, or a part of the work killed each worker that tried it."""


class CompleteError(OutputError):
    """There is nothing to resume: the output is there, and no job on it was interrupted."""


def check_integer(name: str, value: Any, low: int, high: int | None = None, why: str = "") -> int:
    """Return `value` as an int, or raise if it is none or lies outside `low` to `high`.

    Parameters
    ----------
    name
        The argument, as the user wrote it.
    value
        What was given.
    low, high
        The range allowed, both ends included.
    why
        Added to the message: where the bound comes from.

    Raises
    ------
    InvalidArgumentError
        If the value is not an integer of the range.
    """
    allowed = (
        f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"
    )
    fits = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not fits or value < low or (high is not None and value > high):
        raise InvalidArgumentError(
            f"{name} is {value!r}; it must be {allowed}{why and f' ({why})'}."
        )
    return int(value)


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """Return `value`, or raise `InvalidArgumentError` if it is not one of `allowed`."""
    if value not in allowed:
        raise InvalidArgumentError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}.")
    return str(value)


def check_number(name: str, value: Any, low: float) -> float:
    """Return `value` as a float, or raise if it is no finite number of at least `low`."""
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not fits or not low <= value < float("inf"):
        raise InvalidArgumentError(
            f"{name} is {value!r}; it must be a finite number of at least {low:g}."
        )
    return float(value)


def check_place(name: str, value: Any, allowed: str = PLACE) -> None:
    """Raise `InvalidArgumentError` unless `value` can be a name; "" would be this folder."""
    name_of = os.fsdecode(value) if isinstance(value, str | os.PathLike) else ""
    if not name_of or "\0" in name_of:
        raise InvalidArgumentError(f"{name} is {value!r}; it must be {allowed}.")


def check_progress(progress: Any) -> None:
    """Raise `InvalidArgumentError` unless `progress` is None, or can be told how passes go."""
    methods = ("begin", "advance", "end")
    if progress is not None and not all(callable(getattr(progress, m, None)) for m in methods):
        raise InvalidArgumentError(
            f"progress is {progress!r}; it must be None, or have the methods {', '.join(methods)}."
        )
