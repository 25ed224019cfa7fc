"""Locks in object stores: an object that is made on the condition that there is none.

Nothing vanishes there with the process that made it. So who holds a lock writes it anew every few
seconds; one that stays the same for several looks is taken over. Only looks count, not the time
between them: where the store was out of reach for a while, nobody could write.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dkmeans import _stores_objects as objects
from dkmeans._validation import DkmeansError, OutputError

_FORMAT = "dkmeans-lock"
_BEAT = 5.0  # seconds between two writes of who holds it
_LOOKS = 5  # that find the same, a beat apart: then it is nobody's

_log = logging.getLogger("dkmeans")


class Lock:
    """A lock that this process holds; made by `held`."""

    def __init__(self, url: str, output: str) -> None:
        self._url = url
        self._output = output
        self._mark = {
            "format": _FORMAT,
            "token": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._beats = 0
        self._etag = ""
        self._is_lost = False
        self._renewing = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def check(self) -> None:
        """Renew the lock; raise if another job has taken it over, so that nothing is to be done.

        The store is asked: a process that was suspended has not yet seen what happened meanwhile.

        Raises
        ------
        OutputError
            If so, or if that cannot be told.
        """
        if not self._renewed():
            raise OutputError(
                f"{self._output}: another job has taken it over, as this one could not be seen "
                "for too long; look at what is there, and run again."
            )

    def take(self) -> bool:
        """Take the lock; return whether it had been left by a job that was interrupted.

        Raises
        ------
        OutputError
            If another job holds it, or it cannot be written.
        """
        etag = objects.create(self._url, self._data())
        was_left = etag is None
        while etag is None:
            seen, holder = self._look()
            for _ in range(_LOOKS - 1 if seen else 0):
                time.sleep(_BEAT)
                if self._look()[0] != seen:
                    raise OutputError(
                        f"{self._output}: another job is writing it ({holder}); wait for it, or "
                        "choose another name."
                    )
            data = self._data()
            # Of several who look, one finds it as it was.
            etag = objects.exchange(self._url, data, seen) if seen else None
            etag = etag or objects.create(self._url, data)
        self._etag = etag
        self._thread.start()
        return was_left

    def release(self) -> None:
        """Give it back."""
        self._over.set()
        self._thread.join()
        if self._renewed():
            objects.remove(self._url)

    def _look(self) -> tuple[str, str]:
        """Return the ETag of the lock, "" if there is none, and who holds it."""
        found = objects.find(self._url)
        if found is None:
            return "", ""
        try:
            mark = json.loads(objects.read(self._url, 4096))
            return found[1], f"process {int(mark['pid'])} on {mark['host']!s:.100}"
        except (DkmeansError, ValueError, KeyError, TypeError):
            return found[1], "which one cannot be told"

    def _data(self) -> bytes:
        self._beats += 1
        return json.dumps({**self._mark, "beats": self._beats}).encode()

    def _beat(self) -> None:
        while not self._over.wait(_BEAT):
            try:
                if not self._renewed():
                    return
            except DkmeansError as error:  # it may be reached again the next time
                _log.warning("The lock of %s could not be renewed: %s", self._output, error)

    def _renewed(self) -> bool:
        """Write the lock anew; return whether it is still ours."""
        with self._renewing:
            if not self._is_lost:
                etag = objects.exchange(self._url, self._data(), self._etag)
                self._is_lost = etag is None and not self._is_own()
                self._etag = etag or self._etag
            return not self._is_lost

    def _is_own(self) -> bool:
        """Return whether the lock is ours, though not as it was: an answer got lost."""
        try:
            found = objects.find(self._url)
            mark = json.loads(objects.read(self._url, 4096))
        except (DkmeansError, ValueError):
            return False
        if found is None or not isinstance(mark, dict):
            return False
        self._etag = found[1]
        return mark.get("token") == self._mark["token"]


@contextmanager
def held(url: str, output: str) -> Iterator[tuple[Lock, bool]]:
    """Hold a lock; yield it, and whether it had been left by a job that was interrupted.

    Parameters
    ----------
    url
        Of the lock.
    output
        What is written under it, to name it.

    Raises
    ------
    OutputError
        If another job holds it, or it cannot be written.
    """
    lock = Lock(url, output)
    was_left = lock.take()
    try:
        yield lock, was_left
    finally:
        lock.release()
