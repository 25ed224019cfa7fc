"""Small pictures packed as rows of pixels: written through a buffer of one chunk."""

import numpy as np
import numpy.typing as npt

from dkmeans.images._store import ArrayWriter

UInt8 = npt.NDArray[np.uint8]


class PackedWriter:
    """Writes a run of packed rows through a buffer of one chunk.

    The run begins at a chunk and owns all chunks it touches.
    """

    def __init__(self, writer: ArrayWriter, start: int) -> None:
        self._writer = writer
        self._start = start
        self._buffer = np.zeros(writer.chunks, np.uint8)
        self._filled = 0

    def close(self) -> None:
        """Write the last chunk."""
        if self._filled:
            self._flush()

    def skip_to(self, position: int) -> None:
        """Leave rows as they are until row `position` of the array."""
        self._append(position - self._start - self._filled, None)

    def append(self, rows: UInt8) -> None:
        """Write `rows`, (n, bands), behind the last ones."""
        self._append(len(rows), rows)

    def _append(self, n: int, rows: UInt8 | None) -> None:
        done = 0
        while done < n:
            take = min(n - done, len(self._buffer) - self._filled)
            if rows is not None:
                self._buffer[self._filled : self._filled + take] = rows[done : done + take]
            self._filled += take
            done += take
            if self._filled == len(self._buffer):
                self._flush()

    def _flush(self) -> None:
        end = min(self._start + len(self._buffer), self._writer.shape[0])
        self._writer.write((self._start, 0), self._buffer[: end - self._start])
        self._start += len(self._buffer)
        self._buffer[:] = 0
        self._filled = 0
