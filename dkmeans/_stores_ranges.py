"""Objects in S3 read by ranges: as files, and stretch by stretch, some requests ahead."""

import io
from collections import OrderedDict
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from dkmeans import _stores_objects as objects
from dkmeans._stores_objects import State

_AHEAD = 4  # requests: what a network brings while one is on its way
_GAP = 1 << 16  # bytes that are read along rather than asked around
_STRETCH = 4 << 20  # bytes of a request for several stretches


class ObjectFile(io.RawIOBase):
    """An object as a file that is open for reading; it holds a few MiB.

    Where it is read from first to last, some requests are on their way ahead.

    Parameters
    ----------
    url
        Of the object.
    state
        Of the object: one that has changed since cannot be read.
    step
        Bytes of a request.

    Raises
    ------
    SourceError
        Where it cannot be read or has changed.
    """

    def __init__(self, url: str, state: State, step: int) -> None:
        self._url = url
        self._state = state
        self._step = step
        self._position = 0
        self._last = -1
        self._held: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._threads = ThreadPoolExecutor(_AHEAD)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._state[0]}
        position = start[whence] + offset
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def readinto(self, buffer: object) -> int:
        """Read the next bytes, as many as one request brought."""
        place = memoryview(buffer).cast("B")  # type: ignore[arg-type]  # typeshed's Buffer is newer
        if self._position >= self._state[0] or not place:
            return 0
        index, skipped = divmod(self._position, self._step)
        data = self._bytes(index)[skipped : skipped + len(place)]
        place[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Give up what is on its way."""
        if not self.closed:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._held.clear()
        super().close()

    def _bytes(self, index: int) -> bytes:
        """Return the bytes of a request; send those after it too if it follows the last one."""
        ahead = _AHEAD if index == self._last + 1 and index else 0
        n = -(-self._state[0] // self._step)
        for i in range(index, min(index + 1 + ahead, n)):
            if i not in self._held:
                stop = min((i + 1) * self._step, self._state[0])
                self._held[i] = self._threads.submit(
                    objects.read_range, self._url, self._state, i * self._step, stop
                )
            self._held.move_to_end(i)  # what was read before goes first
        while len(self._held) > _AHEAD + 2:
            self._held.popitem(last=False)
        self._last = index
        return self._held[index].result()


def stretches(
    url: str, state: State, places: Sequence[tuple[int, int]]
) -> Generator[bytes, None, None]:
    """Yield stretches of an object, each by its first byte and its length, in the order given.

    Neighbours come with one request, and some requests are on their way ahead.

    Raises
    ------
    SourceError
        Where it cannot be read or has changed.
    """
    groups = iter(_grouped(places))
    threads = ThreadPoolExecutor(_AHEAD)

    def ask(group: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], Future[bytes]]:
        start, stop = group[0][0], max(at + size for at, size in group)
        return group, threads.submit(objects.read_range, url, state, start, stop)

    try:
        pending = [ask(group) for group in islice(groups, _AHEAD)]
        while pending:
            group, future = pending.pop(0)
            data = future.result()
            pending += [ask(following) for following in islice(groups, 1)]
            for at, size in group:
                yield data[at - group[0][0] : at - group[0][0] + size]
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _grouped(places: Sequence[tuple[int, int]]) -> Generator[list[tuple[int, int]], None, None]:
    """Yield runs of stretches that one request brings."""
    group: list[tuple[int, int]] = []
    for at, size in places:
        if group:
            end = group[-1][0] + group[-1][1]
            near = end <= at <= end + _GAP
            if not near or at + size - group[0][0] > _STRETCH:
                yield group
                group = []
        group.append((at, size))
    if group:
        yield group
