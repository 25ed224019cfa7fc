"""Whether the workers of a cluster run the same dkmeans as this process, by its very files."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from dkmeans._validation import ClusterError

_LOG = logging.getLogger("dkmeans")

_WAIT_SECONDS = 5.0  # for answers: one that hangs must not hold up the looks at the others
_DIGITS = 8  # of a fingerprint, in messages

# The workers that have answered, by client: each is asked once.
_answered: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Installed:
    """A dkmeans: its version, its folder, and a checksum of the names and bytes of its sources."""

    version: str
    folder: str
    checksum: str

    def __str__(self) -> str:
        return f"{self.version} in {self.folder} (files {self.checksum[:_DIGITS]})"


@cache
def installed() -> Installed:
    """Return the dkmeans of this process, as it was when this was first asked; takes some ms."""
    folder = Path(__file__).parent
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        total.update(file.relative_to(folder).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return Installed(version(), str(folder), total.hexdigest())


def version() -> str:
    """Return the version, or what to call one that has none, as a copy among other sources."""
    try:
        return metadata.version("dkmeans")
    except metadata.PackageNotFoundError:
        return "of no version"


def refuse_others(client: Any, workers: Iterable[str]) -> None:
    """Raise unless all workers run the same dkmeans; ask only those that have not yet answered.

    Raises
    ------
    ClusterError
        If a worker has another one, or none.
    """
    answered = _answered.setdefault(client, set())
    fresh = sorted(set(workers) - answered)
    if not fresh:
        return
    ask = client._run  # noqa: SLF001 - `run` waits without end for a worker that hangs
    try:
        answers = client.sync(
            ask, installed, workers=fresh, on_error="return", callback_timeout=_WAIT_SECONDS
        )
    except TimeoutError:
        _LOG.debug("Workers have not yet said which dkmeans they run: %s.", ", ".join(fresh))
        return  # they are asked again with the next look
    for address in sorted(answers):
        _refuse_other(address, answers[address])
    answered.update(fresh)


def _refuse_other(address: str, answer: Any) -> None:
    mine = installed()
    if isinstance(answer, OSError):  # it has gone meanwhile
        return
    if isinstance(answer, Installed):
        if (answer.version, answer.checksum) == (mine.version, mine.checksum):
            return
        there = f"runs dkmeans {answer}"
    else:
        there = f"has no dkmeans, or quite another one ({type(answer).__name__}: {answer})"
    raise ClusterError(
        f"worker {address} {there}, but this process runs {mine}; install the same dkmeans on all "
        "workers and here, and start the workers again."
    )
