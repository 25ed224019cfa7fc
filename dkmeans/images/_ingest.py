"""Image files into a working store that is read by region and needs no decoding again."""

import itertools
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from dkmeans import _passes
from dkmeans._passes import BlockSource, Partition, Passes, Piece, Progress, Ticker
from dkmeans._tiling import grid, reading_block
from dkmeans._validation import InvalidArgumentError, SourceError, check_progress
from dkmeans.images import _needs, _packed, _sources, _store
from dkmeans.images._listing import Image
from dkmeans.images._manifest import Job
from dkmeans.images._notes import Journal, Noter
from dkmeans.images._outputs import Entry
from dkmeans.images._places import refuse_among
from dkmeans.images._site import Site
from dkmeans.images._sources import Found, Paths, SourceReport, refuse_failed
from dkmeans.images._staging import interleaved
from dkmeans.images._targets import entered, target_of

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

    def numbers(self) -> list[int]:
        """Return the numbers of the chunks that the windows become, or packed pixels begin in."""
        if self.offset is not None:
            last = self.offset + self.n_pixels - 1
            return list(range(self.offset // _store.PACKED_CHUNK, last // _store.PACKED_CHUNK + 1))
        height, width = _chunk(self.source)
        across = -(-self.source.shape[1] // width)
        return [window.y // height * across + window.x // width for window in self.windows]

    def chunk(self, key: int) -> tuple[int, ...]:
        """Return where in the array a chunk lies, by its number."""
        if self.offset is not None:
            return key, 0
        return *divmod(key, -(-self.source.shape[1] // _chunk(self.source)[1])), 0


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
    resume: bool = False,
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
        The folder to make, with a name ending in ``.zarr``, or a URL such as
        ``s3://bucket/name.zarr``.
    overwrite
        Whether an existing Zarr store may be replaced.
    resume
        Whether to go on where the same job was interrupted, with the same result as if it never
        had been. Where nothing was interrupted, the job begins.
    progress
        Told how the pass goes.

    Returns
    -------
    IngestResult
        If some of several sources failed, `report` names them with the reasons.

    Raises
    ------
    InvalidArgumentError
        If the store's name has another ending, or the interrupted job had other sources.
    SourceError
        If no source can be read to its end, or one has changed since the job was interrupted.
    InsufficientMemoryError
        If the job needs more memory than there is; nothing has been done then.
    ClusterError
        If the cluster is lost, or a part of the work kills each worker that tries it.
    OutputError
        If the store exists, is being written by another job, or cannot be written. What is done
        stays in a folder beside it, to be resumed.
    CompleteError
        An `OutputError`: with `resume`, if the store is there and nothing was interrupted.
    """
    check_progress(progress)
    sources = _sources.as_list(sources)
    found = _sources.find(sources)
    refuse_among("store", store, sources)
    if PurePath(str(store).rstrip("/")).suffix.lower() != ".zarr":
        raise InvalidArgumentError(f"store is {str(store)!r}; its name must end in .zarr.")
    target = target_of(str(store).rstrip("/"), [], is_single=False)
    passes = Passes(progress)
    usable, failures = _usable(found)
    options = {"output": "ingest"}
    with entered(target, options, found, resume=resume, overwrite=overwrite) as (space, job):
        pieces, runs = _lay_out(usable)
        every = [*pieces, *itertools.chain(*runs)]
        site = target.lay_out(job, partial(_create, every))
        failures |= job.publication() or {}
        if not target.published(job):
            left = [piece for piece in pieces if piece.index not in failures]
            failures |= _fill(passes, site, left, runs, job)
        refuse_failed(failures, len(found))
        failed = [piece.array for piece in pieces if piece.index in failures]
        images = _listing(found, every, failures)
        target.finish(space, job, failures, failed, partial(_store.complete, images=images))
    sizes = {i: _n_pixels(s) * s.shape[2] for i, s in usable.items() if i not in failures}
    report = _sources.report(found, dict.fromkeys(usable, target.path), failures, sizes)
    return IngestResult(str(target.path), passes.bytes_read, report)


def _usable(found: Sequence[Found]) -> tuple[dict[int, BlockSource], dict[int, str]]:
    """Return the sources that can be read and why others cannot.

    Raise if that is none, or if there is too little memory for them.
    """
    failures = {i: f.error for i, f in enumerate(found) if f.error is not None}
    refuse_failed(failures, len(found))
    usable = {i: f.source for i, f in enumerate(found) if f.source is not None}
    _needs.check_ingest(usable.values())
    return usable, failures


def _fill(
    passes: Passes,
    site: Site,
    pieces: Sequence[_IngestPiece],
    runs: Sequence[tuple[_IngestPiece, ...]],
    job: Job,
) -> dict[int, str]:
    """Copy into the store what is not there yet; return the sources that failed."""
    firsts = {run[0].index: run[0] for run in [*runs, *((piece,) for piece in pieces)]}

    def is_sound(index: int, key: int) -> bool:
        piece = firsts[index]
        return site.is_sound(piece.array, piece.chunk(key))

    done = job.done(dict.fromkeys(firsts, site.place), is_sound)
    there = {index: set(before.entries) for index, before in done.items()}
    left = [
        _without(piece, there[piece.index]) if piece.index in there else piece for piece in pieces
    ]
    rest = [run for run in runs if not _chunks_of(run) <= there.get(run[0].index, set())]
    partitions = [*_passes.partition([piece for piece in left if piece.windows]), *rest]
    if not partitions:
        return {}
    documents = {piece.array: site.document(piece.array) for piece in firsts.values()}
    work = _Ingest(site.place, job.journal, documents)
    return passes.run("ingest", work, partitions, _Failures.merge).reasons


def _chunks_of(run: Sequence[_IngestPiece]) -> set[int]:
    """Return the chunks of a run."""
    return {key for piece in run for key in piece.numbers()}


def _without(piece: _IngestPiece, there: Collection[int]) -> _IngestPiece:
    """Return a piece without the windows whose chunks are there."""
    left = zip(piece.windows, piece.numbers(), strict=True)
    return replace(piece, windows=tuple(window for window, key in left if key not in there))


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
            windows = grid(source.shape[0], source.shape[1], chunk)
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
            windows = grid(source.shape[0], source.shape[1], size)
            run.append(_IngestPiece(index, source, windows, f"packed/{bands}", position))
            position += _n_pixels(source)
            room -= _n_pixels(source)
        if run:
            runs.append(tuple(run))
    return large, runs


def partitions_of(usable: Mapping[int, BlockSource]) -> list[Partition]:
    """Return what the tasks read."""
    pieces, runs = _lay_out(usable)
    return [*_passes.partition(pieces), *runs]


def _chunk(source: BlockSource) -> tuple[int, int]:
    """Return the height and width of chunks: squares, but rows where the source has rows."""
    if source.block[1] >= source.shape[1]:
        return reading_block(source.shape[1], source.block, source.shape[2], target=12 << 20)
    return _store.CHUNK, _store.CHUNK


def _create(pieces: Sequence[_IngestPiece], root: _store.Root) -> None:
    """Create the store with empty arrays of the right shapes."""
    nbytes = sum(piece.nbytes for piece in pieces)
    compress = isinstance(root, Path) and 2 * nbytes > shutil.disk_usage(root.parent).free
    _store.create(root, _arrays(pieces), compress=compress)


def _arrays(
    pieces: Sequence[_IngestPiece],
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the shape and the chunks of each array, by name."""
    arrays: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for piece in pieces:
        height, width, bands = piece.source.shape
        if piece.offset is None:
            arrays[piece.array] = piece.source.shape, (*_chunk(piece.source), bands)
        else:
            end = piece.offset + height * width
            arrays[piece.array] = (end, bands), (min(end, _store.PACKED_CHUNK), bands)
    return arrays


@dataclass(frozen=True)
class _Ingest:
    """Copies the pieces of a partition into the store."""

    store: str
    journal: Journal
    documents: Mapping[str, bytes | None]

    def __call__(self, partition: Partition, tick: Ticker) -> _Failures:
        failures = _Failures()
        notes = self.journal.file()
        packed: _packed.PackedWriter | None = None
        run: list[_IngestPiece] = []
        for piece in partition:
            assert isinstance(piece, _IngestPiece)  # noqa: S101 - tells the type checker what ingest made
            document = self.documents[piece.array]
            writer = _store.ArrayWriter(self.store, piece.array, document)
            try:
                if piece.offset is None:
                    _copy(piece, writer, Noter(notes, piece.index, _unmeasured), tick)
                    continue
                run.append(piece)
                packed = packed or _packed.PackedWriter(writer, piece.offset)
                _pack(piece, piece.offset, packed, tick)
            except SourceError as error:
                failures.reasons[piece.index] = str(error)
        if packed is not None:
            packed.close()
            if not failures.reasons:  # else it is tried again
                noter = Noter(notes, run[0].index, _unmeasured)
                noter.add([Entry(key, "", 0, 0) for key in sorted(_chunks_of(run))], "", 0, 0, 0)
                noter.flush()
        return failures


def _unmeasured() -> tuple[None, int]:
    return None, 0


def _copy(piece: _IngestPiece, writer: _store.ArrayWriter, noter: Noter, tick: Ticker) -> None:
    """Copy a large picture, or some of it, chunk by chunk."""
    with closing(piece.source.read(piece.windows)) as blocks:
        for window, key, block in zip(piece.windows, piece.numbers(), blocks, strict=True):
            writer.write((window.y, window.x, 0), interleaved(block))
            noter.add([Entry(key, "", 0, 0)], "", 0, 0, window.n_pixels)
            tick(block.nbytes)
    noter.flush()


def _pack(piece: _IngestPiece, offset: int, packed: _packed.PackedWriter, tick: Ticker) -> None:
    """Copy a small picture behind the others of its run."""
    packed.skip_to(offset)
    with closing(piece.source.read(piece.windows)) as blocks:
        for block in blocks:
            packed.append(interleaved(block).reshape(-1, piece.source.shape[2]))
            tick(block.nbytes)


def _listing(
    found: Sequence[Found], pieces: Sequence[_IngestPiece], failures: Mapping[int, Any]
) -> list[Image]:
    """Return the entries of the images that were copied whole, in the order of the sources."""
    images = []
    for piece in sorted(pieces, key=lambda piece: piece.index):
        if piece.index not in failures:
            image = found[piece.index]
            shape = (piece.source.shape[0], piece.source.shape[1], piece.source.shape[2])
            images.append(Image(image.name, piece.array, shape, piece.offset, image.path))
    return images
