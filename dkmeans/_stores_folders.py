"""Folders on the disk: what tells that a file in one has changed."""

import os
from collections.abc import Iterator


def states(folder: str) -> Iterator[tuple[str, int, int]]:
    """Yield the name, size and time of change in ns of all files in a folder, in order.

    What is hidden does not count: systems put it anywhere. Links are followed, but each folder is
    gone through once: links may lead back.

    Raises
    ------
    OSError
        If something cannot be looked at.
    """
    yield from _states(folder, "", set())


def _states(folder: str, inside: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    """Yield what `states` does, with names that begin with `inside`, of folders not yet `seen`."""
    here = os.stat(folder)  # noqa: PTH116 - a text
    if (here.st_dev, here.st_ino) in seen:
        return
    seen.add((here.st_dev, here.st_ino))
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = f"{inside}{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _states(entry.path, f"{name}/", seen)
        else:
            known = entry.stat()
            yield name, known.st_size, known.st_mtime_ns
