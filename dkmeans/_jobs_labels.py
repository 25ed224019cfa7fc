"""The pass that labels rows: streamed by the workers into an array, a chunk by one task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from dkmeans import _passes
from dkmeans._frame import Centers, Int64
from dkmeans._lloyd_passes import Measured
from dkmeans._passes import Partition, Passes, Ticker
from dkmeans._tables import TablePiece
from dkmeans._tables_blocks import blocks
from dkmeans._tables_regions import Region
from dkmeans.images._site import Site
from dkmeans.images._store import ArrayWriter


@dataclass(frozen=True, eq=False)
class Labelled:
    """What is known of rows that have been labelled, and how many each cluster has, (k,)."""

    measured: Measured
    counts: Int64

    def merge(self, other: "Labelled") -> "Labelled":
        """Return what is known of both."""
        return Labelled(self.measured.merge(other.measured), self.counts + other.counts)


@dataclass(frozen=True)
class _Label:
    """Labels the rows of a partition, and writes each piece as the chunk that it is."""

    centers: Centers
    place: str
    document: bytes | None
    height: int

    def __call__(self, partition: Partition, tick: Ticker) -> Labelled:
        return reduce(Labelled.merge, (self._write(piece, tick) for piece in partition))

    def _write(self, piece: _passes.Piece, tick: Ticker) -> Labelled:
        assert isinstance(piece, TablePiece)  # noqa: S101 - tells the type checker what tables are made of
        [chunk] = piece.windows
        across = math.prod(chunk.size[1:])
        bands = tuple(band for _, _, band in chunk.bands(self.height * across))
        labels = np.empty(chunk.size, np.int32)
        found = []
        for block in blocks((replace(piece, windows=bands),), tick):
            measured, assigned = Measured.of(block, self.centers)
            labels[_inside(block.region, chunk)] = assigned.reshape(block.region.size)
            counts = np.bincount(assigned[assigned >= 0], minlength=len(self.centers.offsets))
            found.append(Labelled(measured, counts))
        ArrayWriter(self.place, "", self.document).write(chunk.start, labels)
        return reduce(Labelled.merge, found)


def _inside(region: Region, chunk: Region) -> tuple[slice, ...]:
    """Return where a region is in a chunk."""
    start = tuple(a - b for a, b in zip(region.start, chunk.start, strict=True))
    return Region(start, region.size).slices


def write_labels(
    passes: Passes,
    pieces: Sequence[TablePiece],
    height: int,
    centers: Centers,
    site: Site,
) -> Labelled:
    """Label rows in one pass, and write the labels.

    Parameters
    ----------
    passes
        Runs and counts it.
    pieces
        One for each chunk of the labels.
    height
        How far along the first axis they are best read at a time.
    centers
        The nearest of which is a row's label.
    site
        OUT: an array of the chunks of the pieces, under construction.

    Memory: the labels of a chunk, and some blocks, for each task that runs.
    """
    work = _Label(centers, site.place, site.document(""), height)
    return passes.run("predict", work, _passes.partition(pieces), Labelled.merge)
