"""Locks in object stores: an object that is made on the condition that there is none.

Nothing vanishes there with the process that made it. So who holds a lock writes it anew every few
seconds; one that stays the same for several looks is taken over. Only looks count, not the time
between them: where the store was out of reach for a while, nobody could write.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dkmeans import _stores_objects as objects
from dkmeans._stores_marks import MOST, mark, marked, refusal
from dkmeans._validation import DkmeansError, OutputError

_BEAT = 5.0  # seconds between two writes of who holds it
_LOOKS = 5  # that find the same, a beat apart: then it is nobody's

_Seen = tuple[bytes, str]  # what it holds, and its ETag

_log = logging.getLogger("dkmeans")


class Lock:
    """A lock that this process holds; made by `held`."""

    def __init__(self, url: str, output: str) -> None:
        self._url = url
        self._output = output
        self._mark = {**mark(), "token": secrets.token_hex(8)}
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

    def take(self) -> None:
        """Take the lock, if nobody holds it or its holder writes it no more.

        Raises
        ------
        OutputError
            If another job holds it, or it cannot be written.
        """
        etag = objects.create(self._url, self._data())
        while etag is None:
            left, data = self._left(), self._data()
            # Of several who look, one finds it as it was.
            if left is None:
                etag = objects.create(self._url, data)
            else:
                etag = objects.exchange(self._url, data, left)
        self._etag = etag
        self._thread.start()

    def release(self) -> None:
        """Give it back."""
        self._over.set()
        self._thread.join()
        if self._renewed():
            objects.remove(self._url)

    def _left(self) -> str | None:
        """Return the ETag of a lock that is nobody's or ours, or None if there is none any more.

        Raises
        ------
        OutputError
            If another job holds it.
        """
        first = self._seen()
        for _ in range(_LOOKS - 1):
            if first is None or self._is_own(first):
                break
            time.sleep(_BEAT)
            now = self._seen()
            if now is None:
                return None
            if now != first:
                raise OutputError(refusal(self._output, now[0]))
        return None if first is None else first[1]

    def _seen(self) -> _Seen | None:
        return objects.look(self._url, MOST)

    def _is_own(self, seen: _Seen) -> bool:
        """Return whether a lock is ours: it is not as it was where an answer got lost."""
        return bool(marked(seen[0]).get("token") == self._mark["token"])

    def _data(self) -> bytes:
        self._beats += 1
        return json.dumps({**self._mark, "beats": self._beats}).encode()

    def _beat(self) -> None:
        while not self._over.wait(_BEAT):
            try:
                if not self._renewed():
                    _log.warning(
                        "%s: another job has taken it over; this one will fail.", self._output
                    )
                    return
            except DkmeansError as error:  # it may be reached again the next time
                _log.warning("The lock of %s could not be renewed: %s", self._output, error)

    def _renewed(self) -> bool:
        """Write the lock anew; return whether it is still ours."""
        with self._renewing:
            if not self._is_lost:
                etag = objects.exchange(self._url, self._data(), self._etag)
                if etag is None:
                    seen = self._seen()
                    self._is_lost = seen is None or not self._is_own(seen)
                    etag = seen[1] if seen else ""
                self._etag = etag
            return not self._is_lost


@contextmanager
def held(url: str, output: str) -> Iterator[Lock]:
    """Hold a lock; what another process has left is taken over.

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
    lock.take()
    try:
        yield lock
    finally:
        try:
            lock.release()
        except DkmeansError as error:  # the work is done, or its own error tells more
            _log.warning("The lock of %s could not be given back: %s", output, error)
