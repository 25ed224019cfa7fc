"""Notes: what tasks have finished, in lines of JSON that they append to files of their own.

In S3, where nothing can be appended to, each time it is an object of its own. Each line has a
checksum of itself and of what it tells of: what a loss of power takes fails it, and is made again.
So only notes of finished files are synced to the disk, if these are: a job must know its own.
"""

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from dkmeans import _stores
from dkmeans._passes_threads import in_threads
from dkmeans._stores import Place
from dkmeans.images._outputs import SYNCED, Entry

_PART = re.compile(r"[\w-]+\.part")
_NOTES = ".notes"
_N_MEMBERS, _OF_AN_ENTRY = 8, 5
_NOTED = 16 << 20  # pixels between two notes: what an interruption costs each worker


@dataclass(frozen=True)
class Note:
    """Something that a task has finished.

    Attributes
    ----------
    index
        Of the source.
    part
        The name of the part it lies in, or "" for chunks, which carry their own checksums.
    size, crc
        The length of the part so far, and the checksum of these bytes.
    entries
        What has been added to the part since the last note.
    uses, error
        As in `Written`, of these entries.
    finished
        The size and checksum of the finished file, which is about to get its name; else None.
    """

    index: int
    part: str = ""
    size: int = 0
    crc: int = 0
    entries: tuple[Entry, ...] = ()
    uses: tuple[int, ...] | None = None
    error: int = 0
    finished: tuple[int, int] | None = None

    def line(self) -> str:
        """Return the note as a line of text."""
        entries = [[e.key, e.start, e.size, e.adler, e.length] for e in self.entries]
        members = [self.index, self.part, self.size, self.crc, entries]
        text = json.dumps([*members, self.uses, self.error, self.finished], separators=(",", ":"))
        return f"{isal_zlib.crc32(text.encode()):08x} {text}\n"

    @classmethod
    def of_line(cls, line: str, parts: Place) -> "Note":
        """Return what `line` made a line of, or raise ValueError: it was cut off, or damaged.

        `parts` is the folder of the parts, which no part can leave.
        """
        crc, _, text = line.partition(" ")
        if int(crc, 16) != isal_zlib.crc32(text.encode()):
            raise ValueError("a wrong checksum")
        index, part, size, of_part, entries, uses, error, finished = _parsed(text)
        if part and not _PART.fullmatch(part):
            raise ValueError("no name of a part")
        path = str(_stores.below(parts, part)) if part else ""
        found = tuple(Entry(key, path, *rest) for key, *rest in entries)
        if any(entry.start < 0 or entry.start + entry.size > size for entry in found):
            raise ValueError("an entry beyond its part")
        whole = None if finished is None else (finished[0], finished[1])
        return cls(index, part, size, of_part, found, uses and tuple(uses), error, whole)


def _parsed(text: str) -> list[Any]:
    """Return the members of a note, of the types that they must have."""
    try:
        members = json.loads(text)
    except RecursionError as endless:
        raise ValueError("nested without end") from endless
    if not isinstance(members, list) or len(members) != _N_MEMBERS:
        raise ValueError("no note")
    index, part, size, of_part, entries, uses, error, finished = members
    is_sound = isinstance(part, str) and isinstance(entries, list)
    is_sound &= _are_integers([index, size, of_part, error], 4)
    is_sound &= is_sound and all(_are_integers(entry, _OF_AN_ENTRY) for entry in entries)
    is_sound &= uses is None or _are_integers(uses)
    is_sound &= finished is None or _are_integers(finished, 2)
    if not is_sound:
        raise ValueError("members of other types")
    return members


def _are_integers(row: Any, length: int | None = None) -> bool:
    return (
        isinstance(row, list)
        and (length is None or len(row) == length)
        and all(type(n) is int and abs(n) < 1 << 63 for n in row)
    )


@dataclass(frozen=True)
class Journal:
    """Where notes are written. Pickled into tasks; the files are of one task each."""

    folder: Place

    def file(self) -> "NoteFile":
        """Return a file of no other task."""
        return NoteFile(self.folder, secrets.token_hex(8))

    def notes(self) -> list[Note]:
        """Return all notes that are whole, in any order of files."""
        files = sorted(name for name in _stores.names(self.folder) if is_notes(name))
        texts = in_threads(lambda name: _stores.read(_stores.below(self.folder, name)), files)
        found = []
        for text in texts:
            for line in text.decode("utf-8", "replace").splitlines():
                try:
                    found.append(Note.of_line(line, self.folder))
                except ValueError:
                    continue  # its work is done again
        return found


def is_notes(name: str) -> bool:
    """Return whether this is the name of a file of notes."""
    return name.endswith(_NOTES)


class NoteFile:
    """Where one task writes its notes: a file, or as many objects as it needs."""

    def __init__(self, folder: Place, name: str) -> None:
        self._folder, self._name = folder, name
        self._n_objects = 0

    def append(self, text: str, *, is_synced: bool = False) -> None:
        """Write some lines; when this returns they can be read (synced: after a loss of power)."""
        if _stores.is_url(self._folder):
            name = f"{self._name}-{self._n_objects}{_NOTES}"
            _stores.write(_stores.below(self._folder, name), text.encode())
            self._n_objects += 1
            return
        path = Path(self._folder, self._name + _NOTES)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
        if is_synced:
            _stores.sync_files([path])


Tally = Callable[[], tuple[npt.NDArray[np.int64] | None, int]]


class Noter:
    """Collects what a task finishes of one source, and notes it from time to time."""

    def __init__(self, file: NoteFile, index: int, measured: Tally) -> None:
        self._file, self._index, self._measured = file, index, measured
        self._entries: list[Entry] = []
        self._part, self._size, self._crc = "", 0, 0
        self._waiting = 0
        self._uses, self._error = measured()
        if self._uses is not None:
            self._uses = self._uses.copy()

    def add(self, entries: Sequence[Entry], part: str, size: int, crc: int, n_pixels: int) -> None:
        """Take note that a part has grown by entries, made of so many pixels."""
        self._entries.extend(entries)
        self._part, self._size, self._crc = part, size, crc
        self._waiting += n_pixels
        # A part in S3 never grows: the next note is of another one, and cannot tell of this too.
        if self._waiting >= _NOTED or _stores.is_url(part):
            self.flush()

    def flush(self) -> None:
        """Append what waits to the file."""
        if self._entries:
            self._append(self._pending())

    def finished(self, size: int, crc: int) -> None:
        """Take note that a finished file is about to get its name."""
        last = Note(self._index, finished=(size, crc))
        notes = [self._pending(), last] if self._entries else [last]
        self._append(*notes, is_synced=size >= SYNCED)

    def _pending(self) -> Note:
        uses, error = self._measured()
        grown: tuple[int, ...] | None = None
        if uses is not None and self._uses is not None:
            grown = tuple((uses - self._uses).tolist())
            self._uses = uses.copy()
        note = Note(
            self._index,
            PurePath(self._part).name,
            self._size,
            self._crc,
            tuple(self._entries),
            grown,
            int(error - self._error),
        )
        self._error, self._waiting = error, 0
        self._entries.clear()
        return note

    def _append(self, *notes: Note, is_synced: bool = False) -> None:
        self._file.append("".join(note.line() for note in notes), is_synced=is_synced)
