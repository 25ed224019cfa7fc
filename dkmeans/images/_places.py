"""Places that users name: what is a path, and which outputs meet the sources.

Paths and URLs are compared alike: neither ever names what the other does.
"""

import fnmatch
import glob
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from dkmeans import _stores
from dkmeans._stores import Place, writing
from dkmeans._validation import OutputError, check_place
from dkmeans.images._sources import Found


def as_path(name: str, path: Any) -> Path:
    """Return the argument `name` as a path.

    Raises
    ------
    InvalidArgumentError
        If it is no path.
    OutputError
        If it cannot be looked at.
    """
    check_place(name, path)
    with writing(Path(path)):
        Path(path).exists()  # raises if it is too long, or in a folder that must not be entered
    return Path(path)


def refuse_among(name: str, output: Place, sources: Sequence[Place]) -> None:
    """Raise `OutputError` if an output is what a user names as a source, or lies in it.

    So it does if a source lies in a store that is to be replaced.

    Parameters
    ----------
    name, output
        The argument that gives the output, and its value.
    sources
        As they are named: files, folders, patterns.

    Raises
    ------
    InvalidArgumentError
        If the output or a source is no place.
    """
    for source in sources:
        check_place("a source", source)
    place = _stores.absolute(output if _stores.is_url(output) else as_path(name, output))
    is_store = PurePath(output).suffix.lower() == ".zarr"  # replaced with all that lies in it
    for source in sources:
        other = _stores.absolute(source)
        if place == other:
            raise OutputError(f"{output}: is also a source; choose another place.")
        if _is_pattern(source) and _matches(place.parts, other.parts):
            raise OutputError(
                f"{output}: matches {source}, and so is also a source; choose another place."
            )
        if place.is_relative_to(other):
            raise OutputError(f"{output}: lies inside the source {source}; choose another place.")
        if is_store and other.is_relative_to(place):
            raise OutputError(f"{output}: holds the source {source}; choose another place.")


def refuse_replacing(existing: Sequence[Place], found: Sequence[Found]) -> None:
    """Raise `OutputError` if what is to be replaced is a source that was found, or holds one."""
    if not existing:
        return  # sources are many, and to follow all links takes its time
    sources = {_stores.absolute(image.path) for image in found}
    above = {folder for source in sources for folder in source.parents}
    for place in existing:
        if _stores.absolute(place) in sources:
            raise OutputError(f"{place}: is also a source; choose another place.")
        if _stores.absolute(place) in above:
            raise OutputError(f"{place}: holds a source; choose another place.")


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a pattern, as `glob.glob` has it, matches a path or a folder above it."""
    if not pattern:
        return True
    first, rest = pattern[0], pattern[1:]
    if first == "**":  # any number of folders
        return any(_matches(parts[i:], rest) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], first) and _matches(parts[1:], rest)


def _is_pattern(place: Place) -> bool:
    return glob.has_magic(str(place)) and (_stores.is_url(place) or not Path(place).exists())
