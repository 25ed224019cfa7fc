"""The last pass: give each pixel the label of its nearest colour, and write the labels."""

import secrets
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import colours as kernels
from dkmeans._kernels import octree
from dkmeans._palette import Palette
from dkmeans._passes import Partition, Piece, Ticker
from dkmeans._passes_locks import Lock
from dkmeans._passes_threads import in_threads
from dkmeans._summary import planes, words
from dkmeans._tiling import Window, split
from dkmeans._validation import SourceError
from dkmeans.images._notes import Journal, NoteFile, Noter
from dkmeans.images._outputs import Entry, Labels, Output
from dkmeans.images._store import label_dtype

_FILLED = 8  # cubes of the octree's top level that a thread fills at a time

_table_lock = Lock()


@dataclass(frozen=True)
class OutputPiece(Piece):
    """Some windows of one source and where their labels go."""

    output: Output

    @property
    def is_whole(self) -> bool:
        """Whether these are all windows of the source."""
        height, width, _ = self.source.shape
        return sum(window.n_pixels for window in self.windows) == height * width


@dataclass(frozen=True)
class Written:
    """What became of a source, or of a part of it.

    Attributes
    ----------
    entries
        Parts that are still to be joined.
    nbytes
        The size of the finished output, or None if parts are to be joined.
    uses, error
        Where they were measured: the pixels of each label, (k,) int64, and the sum of squared
        differences over pixels and bands (three for grey too).
    """

    entries: tuple[Entry, ...]
    nbytes: int | None
    uses: npt.NDArray[np.int64] | None
    error: int

    def merge(self, other: "Written") -> "Written":
        """Return both parts of a source as one."""
        uses = None if self.uses is None or other.uses is None else self.uses + other.uses
        return Written(self.entries + other.entries, None, uses, self.error + other.error)


@dataclass
class Assigned:
    """By index of the source: what was written, and why it failed."""

    written: dict[int, Written] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def merge(self, other: "Assigned") -> "Assigned":
        """Return the results of two runs of partitions."""
        written = dict(self.written)
        for index, part in other.written.items():
            written[index] = written[index].merge(part) if index in written else part
        return Assigned(written, self.failures | other.failures)


@dataclass(frozen=True)
class Assign:
    """Labels the pieces of a partition and writes them.

    Parameters
    ----------
    palette
        The colours; a label is the index of the nearest, ties to the lowest.
    measure
        Whether to count the uses of each colour and the squared error.
    journal
        Where to note what is finished.
    """

    palette: Palette
    measure: bool
    journal: Journal

    def __call__(self, partition: Partition, tick: Ticker) -> Assigned:
        result = Assigned()
        notes = self.journal.file()
        for piece in partition:
            assert isinstance(piece, OutputPiece)  # noqa: S101 - tells the type checker what quantize made
            try:
                result = result.merge(Assigned({piece.index: self._write(piece, tick, notes)}))
            except SourceError as error:
                result.failures[piece.index] = str(error)
        return result

    def _write(self, piece: OutputPiece, tick: Ticker, notes: NoteFile) -> Written:
        work = _Labelling(piece, self.palette, self.measure, tick)
        noter = Noter(notes, piece.index, work.measured)
        first = piece.windows[0]
        # The name is of this attempt: another one may still be writing, on a host cut off.
        part = f"{piece.index}-{first.y}-{first.x}-{secrets.token_hex(4)}.part"
        with closing(work.blocks()) as blocks:
            if not piece.is_whole:
                entries = piece.output.write(part, blocks, noter.add)
                noter.flush()
                return Written(tuple(entries), None, work.uses, work.error)
            nbytes = piece.output.write_whole(part, blocks, noter.add, noter.finished)
        noter.flush()
        return Written((), nbytes, work.uses, work.error)


class _Labelling:
    """Walks over the windows of a piece and keeps the tally."""

    def __init__(self, piece: OutputPiece, palette: Palette, measure: bool, tick: Ticker) -> None:  # noqa: FBT001 - private
        self._piece = piece
        self._colors = palette.colors
        self._tick = tick
        self.uses = np.zeros(len(palette), np.int64) if measure else None
        self.error = 0

    def measured(self) -> tuple[npt.NDArray[np.int64] | None, int]:
        """Return the tally so far."""
        return self.uses, self.error

    def blocks(self) -> Generator[tuple[Window, Labels], None, None]:
        """Yield each window with its labels, (height, width)."""
        source, windows = self._piece.source, self._piece.windows
        table = label_table(self._colors.tobytes())
        size = source.read_block
        parts = [part for window in windows for part in split(window, size)]
        with closing(source.read(parts)) as blocks:
            for window in windows:
                labels = np.empty((window.height, window.width), table.dtype)
                for part in split(window, size):
                    block = next(blocks)
                    self._look_up(block, table, labels[part.within(window)])
                    self._tick(block.nbytes)
                yield window, labels
            next(blocks, None)  # lets the source see to it that it has not changed meanwhile

    def _look_up(self, block: npt.NDArray[np.uint8], table: Labels, labels: Labels) -> None:
        if self.uses is None and (packed := words(block)) is not None:
            kernels.look_up_words(packed, table, labels)
        elif self.uses is None:
            kernels.look_up_rgb(*planes(block), table, labels)
        else:
            self.error += kernels.look_up_measured(
                *planes(block), table, self._colors, labels, self.uses
            )


def label_table(colors: bytes) -> Labels:
    """Return the label of every 8-bit colour, (2**24,), for a palette's colours as bytes.

    The last tables are kept: all tasks of a process share one.
    """
    with _table_lock:
        return _label_table(colors)


@lru_cache(maxsize=2)
def _label_table(colors: bytes) -> Labels:
    centers = np.frombuffer(colors, np.uint8).reshape(-1, 3).astype(np.float64)
    table = np.empty(kernels.N_CODES, label_dtype(len(centers)))

    def fill(first: int) -> None:
        octree.fill_table(centers, first, first + _FILLED, table)

    in_threads(fill, range(0, 8**octree.TOP, _FILLED))
    table.flags.writeable = False
    return table
