"""Image files into a working store that is read by region and needs no decoding again."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dkmeans import _passes
from dkmeans._passes import BlockSource, Partition, Passes, Piece, Progress, Ticker
from dkmeans._stores import writing
from dkmeans._tiling import grid, reading_block
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError
from dkmeans.images import _sources, _store
from dkmeans.images._destination import (
    as_path,
    refuse_among,
    refuse_failed,
    refuse_overwriting,
)
from dkmeans.images._sources import Found, Paths, SourceReport
from dkmeans.images._staging import interleaved
from dkmeans.images._workspace import opened, place_of

_LARGE = 1 << 26  # pixels; smaller images are packed
_RUN = 1 << 24  # pixels of packed images that one task writes


@dataclass(frozen=True)
class IngestResult:
    """What `ingest` wrote.

    Attributes
    ----------
    store
        The path of the working store.
    bytes_read
        Decoded bytes read from the sources.
    report
        What became of each source, in order.
    """

    store: str
    bytes_read: int
    report: tuple[SourceReport, ...]


@dataclass(frozen=True)
class _IngestPiece(Piece):
    """Some windows of one source, the array they go to, and the first row of packed pixels."""

    array: str
    offset: int | None


@dataclass
class _Failures:
    """By index of the source, why it failed."""

    reasons: dict[int, str] = field(default_factory=dict)

    def merge(self, other: "_Failures") -> "_Failures":
        return _Failures(self.reasons | other.reasons)


def ingest(
    sources: Paths,
    store: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IngestResult:
    """Copy pictures into a Zarr v3 store, each pixel decoded once, in bounded memory.

    A picture of 64 megapixels or more becomes an array ``images/<i>``, (height, width, bands);
    smaller ones are packed as rows of pixels into ``packed/<bands>``. Pixels are stored
    uncompressed where the disk has room for twice as much, else with LZ4. The pass runs on the
    active Dask scheduler, threads by default.

    Parameters
    ----------
    sources
        As for `quantize`.
    store
        The folder to make, with a name ending in ``.zarr``.
    overwrite
        Whether an existing Zarr store may be replaced.
    progress
        Told how the pass goes.

    Returns
    -------
    IngestResult
        If some of several sources failed, `report` names them with the reasons.

    Raises
    ------
    InvalidArgumentError
        If the store's name has another ending.
    SourceError
        If no source can be read to its end.
    OutputError
        If the store exists or cannot be written. Nothing unfinished is left.
    """
    path = as_path("store", store).resolve()
    sources = _sources.as_list(sources)
    found = _sources.find(sources)
    refuse_among(path, sources)
    if path.suffix.lower() != ".zarr":
        raise InvalidArgumentError(f"store is {str(store)!r}; its name must end in .zarr.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; choose another name, or overwrite.")
    refuse_overwriting([path], found)
    if path.exists() and not _store.is_zarr(path):
        raise OutputError(f"{path}: is no Zarr store, and is never overwritten; remove it.")
    failures = {i: f.error for i, f in enumerate(found) if f.error is not None}
    refuse_failed(failures, len(found))
    usable = {i: f.source for i, f in enumerate(found) if f.source is not None}
    passes = Passes(progress)
    with opened(place_of(path, is_folder=False), path) as space, writing(path):
        space.begin_anew(path)
        pieces, runs = _lay_out(usable)
        made = space.path / "store.zarr"
        _create(made, [*pieces, *(piece for run in runs for piece in run)])
        partitions = [*_passes.partition(pieces), *runs]
        failures |= passes.run("ingest", _Ingest(str(made)), partitions, _Failures.merge).reasons
        refuse_failed(failures, len(found))
        for piece in pieces:
            if piece.index in failures:
                shutil.rmtree(made / piece.array)
        _store.complete(
            made, _listing(found, [*pieces, *(p for run in runs for p in run)], failures)
        )
        space.publish(made, path)
    sizes = {i: _n_pixels(s) * s.shape[2] for i, s in usable.items() if i not in failures}
    report = _sources.report(found, dict.fromkeys(usable, path), failures, sizes)
    return IngestResult(str(path), passes.bytes_read, report)


def _n_pixels(source: BlockSource) -> int:
    return source.shape[0] * source.shape[1]


def _lay_out(
    usable: Mapping[int, BlockSource],
) -> tuple[list[_IngestPiece], list[tuple[_IngestPiece, ...]]]:
    """Place large images in arrays of their own, and the others in runs that one task writes."""
    large: list[_IngestPiece] = []
    runs: list[tuple[_IngestPiece, ...]] = []
    for index, source in usable.items():
        if _n_pixels(source) >= _LARGE:
            chunk = _chunk(source)
            windows = tuple(grid(source.shape[0], source.shape[1], chunk))
            large.append(_IngestPiece(index, source, windows, f"images/{index}", None))
    for bands in (1, 3):
        small = {i: s for i, s in usable.items() if _n_pixels(s) < _LARGE and s.shape[2] == bands}
        position, room = 0, _RUN
        run: list[_IngestPiece] = []
        for index, source in small.items():
            if run and _n_pixels(source) > room:
                runs.append(tuple(run))
                position += -position % _store.PACKED_CHUNK  # the next task's chunks begin here
                room, run = _RUN, []
            # Packed pixels are in the order of full rows.
            size = source.read_block[0], source.shape[1]
            windows = tuple(grid(source.shape[0], source.shape[1], size))
            run.append(_IngestPiece(index, source, windows, f"packed/{bands}", position))
            position += _n_pixels(source)
            room -= _n_pixels(source)
        if run:
            runs.append(tuple(run))
    return large, runs


def _chunk(source: BlockSource) -> tuple[int, int]:
    """Return the height and width of chunks: squares, but rows where the source has rows."""
    if source.block[1] >= source.shape[1]:
        return reading_block(source.shape[1], source.block, source.shape[2], target=12 << 20)
    return _store.CHUNK, _store.CHUNK


def _create(path: Path, pieces: Sequence[_IngestPiece]) -> None:
    """Create the store with empty arrays of the right shapes."""
    arrays: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for piece in pieces:
        height, width, bands = piece.source.shape
        if piece.offset is None:
            arrays[piece.array] = piece.source.shape, (*_chunk(piece.source), bands)
        else:
            end = piece.offset + height * width
            arrays[piece.array] = (end, bands), (min(end, _store.PACKED_CHUNK), bands)
    nbytes = sum(piece.nbytes for piece in pieces)
    compress = 2 * nbytes > shutil.disk_usage(path.parent).free
    _store.create(path, arrays, compress=compress)


@dataclass(frozen=True)
class _Ingest:
    """Copies the pieces of a partition into the store."""

    store: str

    def __call__(self, partition: Partition, tick: Ticker) -> _Failures:
        failures = _Failures()
        packed: _store.PackedWriter | None = None
        for piece in partition:
            assert isinstance(piece, _IngestPiece)  # noqa: S101 - tells the type checker what ingest made
            writer = _store.ArrayWriter(Path(self.store), piece.array)
            if piece.offset is not None and packed is None:
                packed = _store.PackedWriter(writer, piece.offset)
            try:
                self._copy(piece, writer, packed, tick)
            except SourceError as error:
                failures.reasons[piece.index] = str(error)
        if packed is not None:
            packed.close()
        return failures

    def _copy(
        self,
        piece: _IngestPiece,
        writer: _store.ArrayWriter,
        packed: _store.PackedWriter | None,
        tick: Ticker,
    ) -> None:
        bands = piece.source.shape[2]
        if piece.offset is not None and packed is not None:
            packed.skip_to(piece.offset)
        with closing(piece.source.read(piece.windows)) as blocks:
            for window, block in zip(piece.windows, blocks, strict=True):
                pixels = interleaved(block)
                if piece.offset is not None and packed is not None:
                    packed.append(pixels.reshape(-1, bands))
                else:
                    writer.write((window.y, window.x, 0), pixels)
                tick(block.nbytes)


def _listing(
    found: Sequence[Found], pieces: Sequence[_IngestPiece], failures: Mapping[int, Any]
) -> list[_store.Image]:
    """Return the entries of the images that were copied whole, in the order of the sources."""
    images = []
    for piece in sorted(pieces, key=lambda piece: piece.index):
        if piece.index not in failures:
            image = found[piece.index]
            shape = (piece.source.shape[0], piece.source.shape[1], piece.source.shape[2])
            images.append(_store.Image(image.name, piece.array, shape, piece.offset, image.path))
    return images
