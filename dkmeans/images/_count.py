"""The first pass: count the colours of all pictures, and keep on disk what decodes slowly."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dkmeans import _passes
from dkmeans._passes import BlockSource, Partition, Passes, Piece, Ticker
from dkmeans._summary import ColourCounts
from dkmeans._tiling import grid
from dkmeans._validation import SourceError
from dkmeans.images._staging import StagedSource

Failures = dict[int, str]

# Each partition begins with a fresh table of 32 MiB and ends with adding two of them.
PER_WORKER = 1


@dataclass(frozen=True)
class _Counted:
    """The counts of some pieces; why some failed, and how many of their windows were counted."""

    counts: ColourCounts
    failures: Failures
    broken: tuple[tuple[Piece, int], ...]

    def merge(self, other: "_Counted") -> "_Counted":
        return _Counted(
            self.counts.merge(other.counts),
            self.failures | other.failures,
            self.broken + other.broken,
        )


@dataclass(frozen=True)
class _Count:
    """Counts the colours of a partition; writes the pieces that are to be staged."""

    bands: int
    staged: Mapping[int, StagedSource]

    def __call__(self, partition: Partition, tick: Ticker) -> _Counted:
        counts = ColourCounts(self.bands)
        failures: Failures = {}
        broken = []
        for piece in partition:
            done = 0
            try:
                with closing(self._blocks(piece)) as blocks:
                    for block in blocks:
                        counts.add(block)
                        done += 1
                        tick(block.nbytes)
            except SourceError as error:
                failures[piece.index] = str(error)
                broken.append((piece, done))
        return _Counted(counts, failures, tuple(broken))

    def _blocks(self, piece: Piece) -> Generator[npt.NDArray[np.uint8], None, None]:
        blocks = piece.source.read(piece.windows)
        return self.staged[piece.index].write(blocks) if piece.index in self.staged else blocks


def pieces_of(usable: Mapping[int, BlockSource]) -> list[Piece]:
    """Return each source whole, in the windows in which it reads well."""
    pieces = []
    for index, source in usable.items():
        height, width, _ = source.shape
        pieces.append(Piece(index, source, grid(height, width, source.read_block)))
    return pieces


def count_colours(
    passes: Passes, pieces: Sequence[Piece], bands: int, staged: Mapping[int, StagedSource]
) -> tuple[ColourCounts, Failures]:
    """Count every pixel of the pieces, reading each once.

    A source that fails halfway counts nothing: what was counted of it is read again and taken
    back. So the result is that of the sources that could be read whole.

    Parameters
    ----------
    passes
        Runs the pass.
    pieces
        One for each source, over all of it.
    bands
        1 if all sources are grey, else 3.
    staged
        By index of the source: where to write its pixels.

    Returns
    -------
    tuple
        The counts, and by index of each source that failed, why.
    """
    partitions = _passes.partition(pieces, per_worker=PER_WORKER)
    counted = passes.run("count colours", _Count(bands, staged), partitions, _Counted.merge)
    if not counted.failures or len(counted.failures) == len(pieces):
        return counted.counts, counted.failures
    stopped = {(piece.index, piece.windows[0]): done for piece, done in counted.broken}
    undo = [
        replace(piece, windows=piece.windows[: stopped.get((piece.index, piece.windows[0]))])
        for partition in partitions
        for piece in partition
        if piece.index in counted.failures
    ]
    return _take_back(passes, counted.counts, undo), counted.failures


def _take_back(passes: Passes, counts: ColourCounts, pieces: Sequence[Piece]) -> ColourCounts:
    partitions = _passes.partition([piece for piece in pieces if piece.windows])
    if not partitions:
        return counts
    again = passes.run("take back", _Count(counts.bands, {}), partitions, _Counted.merge)
    for reason in again.failures.values():  # it could be read a moment ago
        raise SourceError(reason)
    return counts.without(again.counts)
