"""What a job has done so far, written down so that another process can go on from there.

In the workspace of an output lies ``job.json``: what was asked for, and of which sources. It names
the folder of this run, which holds ``fit.json`` (the palette, once it is fixed), the parts or the
store under construction, and the notes of what is done (`_notes`).
"""

import re
import secrets
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from dkmeans import _stores
from dkmeans._documents import Kind, numbered_texts, shown
from dkmeans._passes_threads import in_threads
from dkmeans._stores import Place
from dkmeans._validation import InvalidArgumentError, SourceError
from dkmeans.images._notes import Journal, Note, is_notes
from dkmeans.images._outputs import Entry
from dkmeans.images._sources import Found
from dkmeans.images._workspace import Swept

JOB = "job.json"
_FIT = "fit.json"
_START_OVER = "Run without resume to start over."
_JOB = Kind("job", 1, ("run", "overwrite", "options", "sources"), _START_OVER)
_PUBLICATION = Kind("publication", 1, ("failures",), _START_OVER)
_RUN = re.compile("[0-9a-f]{8}")
_COPY = 1 << 20  # bytes at a time


@dataclass
class Done:
    """What has been done of one source, and is still there.

    Attributes
    ----------
    entries
        By key.
    uses, error
        Of these entries, as in `Written`.
    nbytes
        The size of the finished file, or None if there is none.
    """

    entries: dict[int, Entry] = field(default_factory=dict)
    uses: npt.NDArray[np.int64] | None = None
    error: int = 0
    nbytes: int | None = None

    def add(self, note: Note) -> None:
        """Add a note, unless some of it was told by another: a task can have run twice."""
        if any(entry.key in self.entries for entry in note.entries):
            return
        if self.uses is not None and len(note.uses or ()) != len(self.uses):
            return
        self.entries.update({entry.key: entry for entry in note.entries})
        if note.uses is not None:
            uses = np.array(note.uses, np.int64)
            self.uses = uses if self.uses is None else self.uses + uses
        self.error += note.error


class Space(Swept, Protocol):
    """A folder or prefix for what a job has not finished, which this process has locked."""

    def check(self) -> None:
        """Raise `OutputError` if another job has it now, so that nothing is to be done in it."""

    def begin_anew(self, output: Any) -> None:
        """Remove what an interrupted job has left, and say so."""

    def make_run(self, name: str) -> None:
        """Make the folder of a run."""

    def has_run(self, name: str) -> bool:
        """Return whether there is one."""


class Job:
    """One run of a command on an output, of this process or gone on with from another.

    Attributes
    ----------
    folder
        For all that the run writes.
    is_resumed
        Whether there was something to go on from.
    overwrite
        Whether what exists may be replaced.
    check
        That of its workspace: called once before each step that cannot be undone, by whoever takes
        the step.
    """

    def __init__(
        self, folder: Place, check: Callable[[], None], *, is_resumed: bool, overwrite: bool
    ) -> None:
        self.folder = folder
        self.check = check
        self.is_resumed = is_resumed
        self.overwrite = overwrite
        self.journal = Journal(folder)
        self.fit = _stores.below(folder, _FIT)
        self._laid_out = _stores.below(folder, "laid-out")
        self._publication = _stores.below(folder, "publication.json")
        self._finished: dict[int, int] | None = None

    def has_work(self) -> bool:
        """Return whether another run could go on from here."""
        return any(name == _FIT or is_notes(name) for name in _stores.names(self.folder))

    @property
    def is_laid_out(self) -> bool:
        """Whether the arrays of the store under construction are all there."""
        return _stores.exists(self._laid_out)

    def laid_out(self) -> None:
        """Take note that they are."""
        _stores.write(self._laid_out, b"")

    def publishing(self, failures: Mapping[int, str]) -> None:
        """Take note that the finished store is about to get its name, without these sources."""
        named = {str(index): reason for index, reason in failures.items()}
        _PUBLICATION.write(self._publication, {"failures": named}, indent=None)

    def published(self, made: Path, output: Path) -> bool:
        """Return whether a finished store has its name already."""
        return not made.exists() and output.exists() and self.publication() is not None

    def publication(self) -> dict[int, str] | None:
        """Return the failures that `publishing` was told of; None if it was not called."""
        if not _stores.exists(self._publication):
            return None
        with _PUBLICATION.damaged(self._publication):
            named = _PUBLICATION.read(self._publication)["failures"]
            return numbered_texts("failures", named)

    def finished(self, files: Mapping[int, Place]) -> dict[int, int]:
        """Return the sizes of finished files that are there as they were noted, by index.

        They are read once, all of `files` that are noted.
        """
        if self._finished is None:
            told = {(note.index, note.finished) for note in self.journal.notes() if note.finished}
            noted = [(index, whole) for index, whole in told if index in files]
            found = in_threads(lambda one: _checksum(files[one[0]], one[1][0]), noted)
            pairs = zip(noted, found, strict=True)
            self._finished = {index: whole[0] for (index, whole), now in pairs if now == whole}
        return self._finished

    def done(
        self, files: Mapping[int, Place], is_sound: Callable[[int, int], bool]
    ) -> dict[int, Done]:
        """Return what is done, by index of the source; whatever its checksum tells of is left out.

        Parameters
        ----------
        files
            The finished file of each source.
        is_sound
            Told an index and a key, whether that chunk is as it was written.
        """
        notes: dict[int, list[Note]] = {}
        for note in self.journal.notes() if self.is_resumed else []:
            if note.index in files:
                notes.setdefault(note.index, []).append(note)
        noted = {note.part for of_source in notes.values() for note in of_source}
        for name in _stores.names(self.folder) - noted if self.is_resumed else ():
            if name.endswith((".part", ".joined")):
                _stores.remove(_stores.below(self.folder, name))
        chunks = [
            (index, entry.key)
            for index, of_source in notes.items()
            for note in of_source
            for entry in (note.entries if not note.part else ())
        ]
        are_sound = in_threads(lambda chunk: is_sound(*chunk), chunks)
        sound = {chunk for chunk, is_there in zip(chunks, are_sound, strict=True) if is_there}
        finished = self.finished(files) if notes else {}
        found = in_threads(
            lambda index: _done(
                notes[index], finished.get(index), self.folder, lambda key: (index, key) in sound
            ),
            list(notes),
        )
        return dict(zip(notes, found, strict=True))


def begin(
    space: Space,
    output: Place,
    options: Mapping[str, Any],
    found: Sequence[Found],
    *,
    resume: bool,
    overwrite: bool,
) -> Job:
    """Begin a job in a workspace, or go on with the one that was interrupted there.

    Raises
    ------
    InvalidArgumentError
        If that one had other options or sources.
    SourceError
        If a source has changed since.
    """
    place = _stores.below(space.path, JOB)
    options = {**options, "version of dkmeans": metadata.version("dkmeans")}
    sources = [
        [image.path, image.name, None if image.source is None else image.source.fingerprint()]
        for image in found
    ]
    if resume and _stores.exists(place):
        space.is_kept = lambda: True
        members = _JOB.read(place)
        with _JOB.damaged(place):
            run, allowed = _checked(members, space), members["overwrite"] is True
        _refuse_other(output, members, options, sources)
        folder = _stores.below(space.path, run)
        job = Job(folder, space.check, is_resumed=True, overwrite=overwrite or allowed)
        if overwrite and not allowed:
            _JOB.write(place, {**members, "overwrite": True}, indent=None)
    else:
        space.begin_anew(output)
        run = secrets.token_hex(4)
        space.make_run(run)
        members = {"run": run, "overwrite": overwrite, "options": options, "sources": sources}
        _JOB.write(place, members, indent=None)
        folder = _stores.below(space.path, run)
        job = Job(folder, space.check, is_resumed=False, overwrite=overwrite)
    space.is_kept, space.can_resume = job.has_work, True
    return job


def _checked(members: Mapping[str, Any], space: Space) -> str:
    """Return the name of the run's folder, if what was read is the description of a job."""
    run: Any = members["run"]
    if not isinstance(run, str) or not _RUN.fullmatch(run) or not space.has_run(run):
        raise ValueError("the folder of its run is missing")
    lists = isinstance(members["sources"], list) and all(
        isinstance(source, list) and source for source in members["sources"]
    )
    if not isinstance(members["options"], dict) or not lists:
        raise ValueError("options and sources must be there")
    return run


def _refuse_other(
    output: Place, members: Mapping[str, Any], options: Mapping[str, Any], sources: list[Any]
) -> None:
    """Raise unless the interrupted job was asked for the same."""
    remedy = "give what it had, or run without resume to start over."
    if [source[:2] for source in members["sources"]] != [source[:2] for source in sources]:
        raise InvalidArgumentError(
            f"sources are others than those of the job on {output} that was interrupted; {remedy}"
        )
    before = members["options"]
    for name in [*options, *before]:
        if before.get(name) != options.get(name):
            raise InvalidArgumentError(
                f"{name} is {shown(options.get(name))}, but was {shown(before.get(name))} when the "
                f"job on {output} was interrupted; {remedy}"
            )
    for then, now in zip(members["sources"], sources, strict=True):
        if then != now:
            raise SourceError(
                f"{now[0]}: changed since the job on {output} was interrupted; run without resume "
                "to start over."
            )


def _done(
    notes: Sequence[Note], nbytes: int | None, parts: Place, is_sound: Callable[[int], bool]
) -> Done:
    done = Done(nbytes=nbytes)
    for name in dict.fromkeys(note.part for note in notes if note.entries):
        of_part = sorted((n for n in notes if n.part == name and n.entries), key=lambda n: n.size)
        if done.nbytes is not None:
            sound = of_part  # the parts are gone: the finished file stands for them
        elif name:
            sound = _sound(_stores.below(parts, name), of_part)
        else:
            sound = [n for n in of_part if all(is_sound(e.key) for e in n.entries)]
        for note in sound:
            done.add(note)
    return done


def _opened(place: Place) -> BinaryIO:
    """Open a file or an object, but no pipe: to open one may block for ever."""
    if not _stores.is_url(place) and not stat.S_ISREG(Path(place).lstat().st_mode):
        raise OSError(f"{place}: not a regular file")
    return _stores.opened(place, _stores.state(place))


def _sound(part: Place, notes: Sequence[Note]) -> list[Note]:
    """Return the notes of a part, by size, whose bytes are those that were written."""
    sound = []
    try:
        with _opened(part) as file:
            crc = position = 0
            for note in notes:
                while position < note.size and (
                    data := file.read(min(_COPY, note.size - position))
                ):
                    crc = isal_zlib.crc32(data, crc)
                    position += len(data)
                if (position, crc) != (note.size, note.crc):
                    break
                sound.append(note)
    except (OSError, SourceError):
        pass  # what cannot be read is made again
    return sound


def _checksum(file: Place, size: int) -> tuple[int, int] | None:
    """Return the size and checksum of a file, or None if it is not there in this size."""
    try:
        if _stores.state(file)[0] != size:
            return None
        crc = 0
        with _opened(file) as stream:
            while data := stream.read(_COPY):
                crc = isal_zlib.crc32(data, crc)
    except (OSError, SourceError):
        return None
    return size, crc
