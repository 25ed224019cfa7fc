"""The folder beside an output in which a job works: its name, its lock, what becomes of it.

The workspace of ``photo.png`` is ``.photo.png.dkmeans`` beside it; that of a folder of pictures
lies in the folder. One job at a time has it: the lock is the system's and vanishes with the
process that holds it, however that ends. All that a job writes before it is finished lies in here.
"""

import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dkmeans._stores import Place, sync_folder, writing
from dkmeans._stores_marks import MOST, mark, refusal
from dkmeans._validation import OutputError, SourceError, note_kept

LOCK = "dkmeans.lock"  # its presence tells that the folder is ours
_REPLACED = "replaced"
_TRIES = 20  # a job that ends removes the file which the next one has just opened

_log = logging.getLogger("dkmeans")


class Workspace:
    """A folder that this process has locked; made by `opened`.

    Attributes
    ----------
    path
        The folder.
    is_kept, can_resume
        As in `Swept`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_kept: Callable[[], bool] = lambda: False
        self.can_resume = False

    def check(self) -> None:
        """Do nothing: the system's lock stays with the process."""

    def begin_anew(self, output: Path) -> None:
        """Remove what an interrupted job has left, and say so."""
        if self.leftovers():
            self.sweep(output)
            _log.warning("%s: what an interrupted job had left is removed.", output)

    def make_run(self, name: str) -> None:
        """Make the folder of a run."""
        (self.path / name).mkdir()

    def has_run(self, name: str) -> bool:
        """Return whether there is one."""
        return (self.path / name).is_dir()

    def leftovers(self) -> list[Path]:
        """Return what lies in the folder, but for the lock."""
        return [path for path in self.path.iterdir() if path.name != LOCK]

    def sweep(self, output: Path) -> None:
        """Remove all but the lock; what was about to be replaced by `output` is put back."""
        replaced = self.path / _REPLACED
        if replaced.exists() and not output.exists():
            replaced.replace(output)
        # First what tells of a job: whoever is killed from here on leaves nothing to go on with.
        for path in sorted(self.leftovers(), key=Path.is_dir):
            if path.is_dir() and not path.is_symlink():
                _remove_folder(path)
            else:
                path.unlink()

    def publish(self, made: Path, output: Path) -> None:
        """Move what is finished to its name, in place of what is there."""
        if output.exists():
            output.replace(self.path / _REPLACED)
        made.replace(output)
        sync_folder(output.parent)


def _remove_folder(path: Path) -> None:
    """Remove a folder, even if a task that nobody could end still writes to it by its name."""
    aside = path.with_name(f"{secrets.token_hex(8)}.swept")
    path.rename(aside)
    shutil.rmtree(aside)


def place_of(output: Path, *, is_folder: bool) -> Path:
    """Return the workspace of an output.

    Examples
    --------
    >>> place_of(Path("a/b.png"), is_folder=False).as_posix()
    'a/.b.png.dkmeans'
    >>> place_of(Path("a/b"), is_folder=True).as_posix()
    'a/b/.b.dkmeans'
    """
    return (output if is_folder else output.parent) / f".{output.name}.dkmeans"


@contextmanager
def opened(place: Path, output: Path) -> Iterator[Workspace]:
    """Make or enter a workspace and lock it; at the end remove it, or keep it after a failure.

    Raises
    ------
    OutputError
        If another job has it, if a folder of this name is none of ours, or none can be made.
    """
    folder = place.parent if place.parent == output else None  # which the job may have to make
    made = folder is not None and not folder.exists()
    try:
        with writing(output):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            lock = _entered(place, output)
        try:
            with writing(output):
                _sign(lock)
            yield from used(Workspace(place), output)
        finally:
            _leave(place, lock)
    finally:
        if made and folder is not None:
            with suppress(OSError):  # there are pictures in it
                folder.rmdir()


class Swept(Protocol):
    """What `used` must know of a workspace.

    Attributes
    ----------
    is_kept
        Tells whether it stays if the job fails: there is finished work in it.
    can_resume
        Whether the same job could go on from there.
    """

    is_kept: Callable[[], bool]
    can_resume: bool

    @property
    def path(self) -> Place:
        """Where it is."""

    def sweep(self, output: Any) -> None:
        """Remove what is in it."""


S = TypeVar("S", bound=Swept)


def used(space: S, output: Place) -> Iterator[S]:
    """Lend a workspace and sweep it at the end; say so if it is kept, as the job has failed."""
    try:
        yield space
    except BaseException as error:
        is_kept = True
        try:
            is_kept = space.is_kept()
        except FileNotFoundError:  # somebody has removed it
            is_kept = False
        except (OSError, OutputError, SourceError):
            pass  # out of reach: then nothing can be swept either
        if not is_kept:
            with suppress(OSError, OutputError, SourceError):  # the first error tells more
                space.sweep(output)
        elif space.can_resume:
            note_kept(error, space.path)
        raise
    try:
        space.sweep(output)
    except OSError as error:  # of files; that another job has taken a place in S3 over is told
        _log.warning("%s: done, but not all in %s can be removed (%s).", output, space.path, error)


def _entered(place: Path, output: Path) -> int:
    """Return the descriptor of the lock, once it is ours."""
    for _ in range(_TRIES):
        with suppress(FileExistsError):
            place.mkdir()
        try:
            _refuse_foreign(place)
            descriptor = os.open(place / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the folder was removed by the job before
        if not _try_lock(descriptor):
            signed = _signed(descriptor)
            os.close(descriptor)
            raise OutputError(refusal(output, signed))
        if _is_there(descriptor, place / LOCK):
            return descriptor
        os.close(descriptor)
    raise OutputError(f"{place}: jobs come and go too fast; run again.")


def _refuse_foreign(place: Path) -> None:
    """Raise if a folder has our name, but holds what none of our jobs has put there."""
    if place.is_symlink() or not place.is_dir():
        raise OutputError(f"{place}: is no folder, but a job needs one here; remove it.")
    if any(place.iterdir()) and not (place / LOCK).is_file():
        raise OutputError(f"{place}: was not made by dkmeans, and is in the way; rename it.")


def _try_lock(descriptor: int) -> bool:
    """Lock an open file for this process, unless another one has locked it."""
    try:
        if os.name == "nt":
            import msvcrt  # noqa: PLC0415 - Windows only

            lock: Any = msvcrt
            lock.locking(descriptor, lock.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415 - not on Windows

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # some network disks know no locks
        _log.warning("The output cannot be locked (%s): start no second job on it.", error.strerror)
    return True


def _is_there(descriptor: int, path: Path) -> bool:
    """Return whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write into the lock who holds it. Its first byte is the one that Windows locks."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.truncate(descriptor, 0)
    os.write(descriptor, b" " + json.dumps(mark()).encode())
    os.lseek(descriptor, 0, os.SEEK_SET)


def _signed(descriptor: int) -> bytes:
    """Return what stands in a lock."""
    try:
        os.lseek(descriptor, 1, os.SEEK_SET)
        return os.read(descriptor, MOST)
    except OSError:
        return b""


def _leave(place: Path, descriptor: int) -> None:
    """Give the lock back, and remove the folder if nothing else is in it."""
    with suppress(OSError):
        if all(path.name == LOCK for path in place.iterdir()):
            if os.name != "nt":  # while it is locked nobody else can be about to sign it
                (place / LOCK).unlink()
            place.rmdir()
    os.close(descriptor)
    if os.name == "nt":
        with suppress(OSError):  # what is open cannot be removed there
            (place / LOCK).unlink()
            place.rmdir()
