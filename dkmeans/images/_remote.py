"""Objects by URL for decoders that know files only: they are read by ranges, never copied."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Self

from dkmeans import _stores
from dkmeans._stores import State
from dkmeans._validation import SourceError


@contextmanager
def named(path: str, stored: State, step: int | None = None) -> Iterator[Any]:
    """Yield what Pillow opens: the name of a file, or an object that is read like one.

    Parameters
    ----------
    path, stored
        The file or the URL of an object, and its `_stores.state`.
    step
        How many bytes of an object to ask for at a time.
    """
    if not _stores.is_url(path):
        yield path
        return
    with _stores.opened(path, stored, step) as file:
        yield file


class Remote:
    """Opens one object for GDAL, which takes an end of file where there is trouble.

    GDAL must not see exceptions: `raise_trouble` tells of them afterwards.
    """

    def __init__(self, url: str, stored: State) -> None:
        self._url = url
        self._stored = stored
        self._trouble: list[Exception] = []

    def __call__(self, path: str, mode: str = "rb") -> Any:
        """Return the object as a file; there are no others beside it."""
        if path != self._url or mode != "rb":
            raise FileNotFoundError(path)
        return _Untroubled(_stores.opened(self._url, self._stored), self._trouble)

    def raise_trouble(self) -> None:
        """Raise what has gone wrong, if anything has."""
        for error in self._trouble:
            raise error


class _Untroubled:
    """A file that ends where it cannot be read, and notes why."""

    def __init__(self, file: BinaryIO, trouble: list[Exception]) -> None:
        self._file = file
        self._trouble = trouble
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, n: int = -1) -> bytes:
        """Return the next bytes, or none."""
        if not self._trouble:
            try:
                return self._file.read(n)
            except (SourceError, OSError) as error:
                self._trouble.append(error)
        return b""
