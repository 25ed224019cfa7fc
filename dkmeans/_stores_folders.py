"""Folders on the disk: what tells that a file in one has changed."""

import os
from collections.abc import Iterator


def states(folder: str, inside: str = "") -> Iterator[tuple[str, int, int]]:
    """Yield the name, size and time of change in ns of all files in a folder, in order.

    Names begin with `inside`. What is hidden does not count: systems put it anywhere.

    Raises
    ------
    OSError
        If something cannot be looked at.
    """
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name = f"{inside}{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from states(entry.path, f"{name}/")
        else:
            known = entry.stat()
            yield name, known.st_size, known.st_mtime_ns
