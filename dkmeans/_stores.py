"""Places that hold bytes: files by path, and objects by URL; read and replaced whole.

A place is a path, or a URL such as ``s3://bucket/folder/model.json``. What is written appears when
it is complete, under its own name, or not at all.
"""

import errno
import hashlib
import io
import os
import re
import secrets
import stat
from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, BinaryIO

from dkmeans import _stores_objects as objects
from dkmeans import _stores_ranges as ranges
from dkmeans._validation import OutputError, SourceError

Place = str | os.PathLike[str]
State = tuple[int, int | str]

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_STEP = 1 << 20  # bytes of an object asked for at a time
_SYNCING = 16  # files that are waited for at a time
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # of FAT, and disks afar
_BUFFER = 1 << 16  # bytes: readers of headers ask for a few at a time


def is_url(place: Place) -> bool:
    """Return whether a place is named by a URL, and not a path.

    Examples
    --------
    >>> is_url("s3://bucket/key"), is_url("C:/folder/file"), is_url(Path("a/b"))
    (True, False, False)
    """
    return isinstance(place, str) and _URL.match(place) is not None


def below(place: Place, name: str) -> Place:
    """Return the place of a name below a place, or the place itself if the name is empty.

    Examples
    --------
    >>> below("s3://bucket/folder", "a/b"), below("s3://bucket", "")
    ('s3://bucket/folder/a/b', 's3://bucket')
    """
    return f"{place}/{name}".rstrip("/") if is_url(place) else Path(place, name)


def absolute(place: Place) -> PurePath:
    """Return a place as it can be compared with others: links followed, no slash at the end."""
    # Links may go in circles, for which `Path.resolve` raises.
    return PurePosixPath(place) if is_url(place) else Path(os.path.realpath(place))


def outermost(places: Collection[str]) -> list[str]:
    """Return the places, paths or URLs, that lie in none of the others, sorted.

    Examples
    --------
    >>> outermost(["b/c/d", "b", "b.png", "a/b/c"])
    ['a/b/c', 'b', 'b.png']
    """
    all_of_them = {PurePath(place) for place in places}
    return sorted(place for place in places if all_of_them.isdisjoint(PurePath(place).parents))


def names(place: Place) -> set[str]:
    """Return the names of the files, folders and objects directly below a place.

    Raises
    ------
    SourceError
        If that cannot be told of objects.
    OSError
        If there is no such folder.
    """
    if is_url(place):
        found = objects.listing(str(place))
        return {*found.objects, *found.folders}
    return set(os.listdir(place))  # noqa: PTH208 - names are wanted


def size_below(place: Place) -> int:
    """Return the size in bytes of all files or objects below a place."""
    if is_url(place):
        return objects.size_below(str(place))
    return sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())


def read(place: Place, most: int | None = None) -> bytes:
    """Return the bytes at a place, and no more than `most` of them.

    Raises
    ------
    SourceError
        If there are none, or they cannot be read.
    """
    if is_url(place):
        return objects.read(str(place), most)
    name = os.fspath(place)
    try:
        refuse_special(place)
        with Path(place).open("rb") as file:
            return file.read(-1 if most is None else most)
    except FileNotFoundError as error:
        raise SourceError(f"{name}: no such file.") from error
    except OSError as error:
        raise SourceError(f"{name}: cannot be read ({error.strerror or error}).") from error


def refuse_special(path: str | os.PathLike[str]) -> None:
    """Raise `SourceError` if a path is of no regular file: to open a pipe may block for ever.

    Raises
    ------
    OSError
        If there is no such file.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise SourceError(f"{os.fspath(path)}: not a regular file.")


def write(place: Place, data: bytes, *, replace: bool = True) -> None:
    """Write bytes; they appear under this name when all of them are there, and on the disk.

    Parameters
    ----------
    place
        Of the bytes; its folder must exist.
    data
        All of them.
    replace
        Whether what is there may be replaced. If not, of several who write at once one succeeds.

    Raises
    ------
    OutputError
        If they cannot be written, or exist and are not to be replaced.
    """
    if is_url(place):
        objects.write(str(place), data, replace=replace)
        return
    path = _as_file(place)
    with writing(place):
        partial = path.with_name(_partial(path, secrets.token_hex(8)))
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # the name must not come before the bytes
            if replace:
                partial.replace(path)
            else:
                _take_name(partial, path)
            sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)  # gone already if it was renamed


def _take_name(partial: Path, path: Path) -> None:
    """Give a file a name that nothing has; of several who do so at once one succeeds."""
    try:
        path.hardlink_to(partial)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.touch(exist_ok=False)  # who is killed between these two leaves it empty
        partial.replace(path)


def refuse_unwritable(place: Place) -> None:
    """Raise an error if `write` would, as far as that can be told before there is what to write.

    Raises
    ------
    OutputError
        If a file cannot be made there, or a folder is there.
    SourceError
        If the object store cannot be asked.
    """
    if is_url(place):
        exists(place)
        return
    path = _as_file(place)
    with writing(place):
        if path.is_dir():
            raise OutputError(f"{os.fspath(place)}: is a folder; choose the name of a file.")
        partial = path.with_name(_partial(path, secrets.token_hex(8)))
        partial.touch(exist_ok=False)
        partial.unlink()


def _as_file(place: Place) -> Path:
    path = Path(place)
    if not path.name:
        raise OutputError(f"{str(path)!r}: no file can have this name.")
    return path


def _partial(path: Path, token: str) -> str:
    """Return the name of a file that is to become `path`; of one length, whatever that is."""
    name = os.fsencode(path.name)
    return f".{hashlib.blake2b(name, digest_size=8).hexdigest()}.{token}.partial"


def sweep(place: Place) -> None:
    """Remove what writes of this place have left that were killed, and no others.

    Whoever calls this sees to it that nobody writes there.
    """
    if is_url(place):  # objects appear whole
        return
    path = Path(place)
    for left in path.parent.glob(_partial(path, "*")):
        left.unlink(missing_ok=True)


@contextmanager
def writing(place: Place) -> Iterator[None]:
    """Turn a failure to write to a place into one clear error.

    Raises
    ------
    OutputError
        For any OSError; a full disk is named. For a URL also for what an object store answers.
    """
    if is_url(place):
        with objects.writing(str(place)):
            yield
        return
    try:
        yield
    except FileExistsError as error:
        raise OutputError(f"{os.fspath(place)}: exists already.") from error
    except OSError as error:
        reason = error.strerror or error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full; free some space and run again"
        raise OutputError(f"{os.fspath(place)}: cannot be written ({reason}).") from error


@contextmanager
def reading(place: Place) -> Iterator[None]:
    """Turn what an object store answers to who reads into one `SourceError`.

    Of files nothing is turned: what goes wrong there depends on who reads them.
    """
    if not is_url(place):
        yield
        return
    with objects.reading(str(place)):
        yield


def sync_files(files: Sequence[Path]) -> None:
    """See to it that files that somebody has written, and their names, survive a loss of power.

    All at once: the system writes down many at a time, and is waited for less often.
    """
    with ThreadPoolExecutor(_SYNCING) as threads:
        deque(threads.map(_sync_file, files), maxlen=0)
    for folder in {file.parent for file in files}:
        sync_folder(folder)


def _sync_file(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """See to it that the names in a folder survive a loss of power, where the system can."""
    with suppress(OSError):  # Windows opens no folders, and some network disks sync none
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(place: Place) -> None:
    """Remove what is at a place, if anything is.

    Raises
    ------
    OutputError
        If it cannot be removed.
    """
    if is_url(place):
        objects.remove(str(place))
        return
    with writing(place):
        Path(place).unlink(missing_ok=True)


def exists(place: Place) -> bool:
    """Return whether there are bytes at a place; where a file cannot be looked up, there are none.

    Raises
    ------
    SourceError
        For a URL, if that cannot be told.
    """
    if is_url(place):
        return objects.exists(str(place))
    return os.path.lexists(place)


def state(place: Place) -> State:
    """Return the size of what is at a place in bytes, and what else changes when it does.

    That is the time of change in ns, of an object the ETag.

    Raises
    ------
    SourceError
        If there is no such object.
    OSError
        If there is no such file.
    """
    if is_url(place):
        return objects.state(str(place))
    status = Path(place).stat()
    return status.st_size, status.st_mtime_ns


def refuse_changed(place: Place, before: State) -> None:
    """Raise `SourceError` if a file is gone, or its `state` is no longer what it was.

    Objects need no question of their own: each request for some of their bytes asks it too.
    """
    if is_url(place):
        return
    try:
        now = state(place)
    except FileNotFoundError as error:
        raise SourceError(f"{os.fspath(place)}: no such file.") from error
    if now != before:
        raise SourceError(f"{os.fspath(place)}: changed while it was being read; run again.")


def opened(place: Place, before: State, step: int | None = None) -> BinaryIO:
    """Open what is at a place for reading, at any position; nothing of it is copied.

    Parameters
    ----------
    place
        A file, or an object.
    before
        Its `state`: of an object that has changed since nothing is read.
    step
        How many bytes of an object to ask for at a time.

    Raises
    ------
    OSError
        If the file cannot be opened.
    SourceError
        Now or at a read, if the object cannot be read.
    """
    if is_url(place):
        size, etag = before
        file = ranges.ObjectFile(str(place), (size, str(etag)), step or _STEP)
        return io.BufferedReader(file, _BUFFER)
    return Path(place).open("rb", buffering=0)


def stretches(
    place: Place, before: State, places: Sequence[tuple[int, int]]
) -> Generator[bytes, None, None]:
    """Yield stretches of what is at a place, each by its first byte and its length.

    What lies beyond the end is missing from a stretch of a file, and an error of an object.

    Parameters
    ----------
    place, before
        As for `opened`.
    places
        In the order in which they are wanted.
    """
    if is_url(place):
        size, etag = before
        yield from ranges.stretches(str(place), (size, str(etag)), places)
        return
    with Path(place).open("rb", buffering=0) as file:
        for at, size in places:
            file.seek(at)
            yield file.read(size)


def folder(url: str) -> Any:
    """Return the store of obstore, as zarr takes it, that has the names below a URL.

    Raises
    ------
    InvalidArgumentError
        If it is no URL of S3.
    """
    return objects.folder(url)
