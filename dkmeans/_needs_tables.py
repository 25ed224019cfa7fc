"""How much memory it takes to fit centres to rows, and to label rows."""

import math

import numpy as np

from dkmeans import _needs, _passes, _summary_looks, _summary_rows
from dkmeans import _passes_schedulers as schedulers
from dkmeans import _tables_kept as kept
from dkmeans._lloyd_passes import COUNTED_PER_WORKER, IN_PART, is_colour
from dkmeans._needs import MIB, Needs, Pass, Room, n_partitions, refuse_beyond
from dkmeans._seeding_tiles import bytes_of as tiles_bytes
from dkmeans._summary import summary_bytes, table_bytes
from dkmeans._summary_steps import bytes_of as steps_bytes
from dkmeans._tables import Table, TablePiece
from dkmeans._tables_blocks import BLOCK_BYTES, GraphSource, MemorySource
from dkmeans._tables_fingerprints import mapped
from dkmeans._tables_zarr import ROWS_OF_A_CHUNK

_LIBRARIES = 390 * MIB  # with scikit-learn, and the kernels and threads that solve a summary
_COLUMNS = 24  # bytes of a sampled row beside its values: number, weight, priority
_COPIES = 2  # of rows: as they came, and in their order
_SOLVED = 56  # bytes of a row beside its values, while a summary is solved: hashes, orders, weights
_DISTANCE = 8  # bytes of a value, where points are compared with their own centres
_LABELS = 4  # chunks of labels: whole, as zarr copies, encodes and checks it
_CHUNK = 1 << 10  # bytes of what is known of a chunk of labels, while it is written
_BLOCKS = 4  # that a task holds: read, read ahead, decoded, and copied
_LITTLE = 16 * MIB  # of rows in memory, not worth a look at how much there is


def check_fit(table: Table, n_clusters: int) -> None:
    """Raise `InsufficientMemoryError` if there is too little memory to fit rows."""
    if table.is_lazy or table.nbytes > _LITTLE:
        refuse_beyond("fit", lambda where: fit(table, n_clusters, where), room_of(table))


def check_predict(table: Table, n_clusters: int) -> None:
    """Raise `InsufficientMemoryError` if there is too little memory to write the labels of rows."""
    refuse_beyond("predict", lambda where: predict(table, n_clusters, where), room_of(table))


def room_of(table: Table) -> Room:
    """Return where passes over a table run: what lies in memory is read by this process alone.

    What that has already counts there as far as a fit is known to need it.
    """
    if not all(piece.in_memory for piece in table.pieces):
        return _needs.room()
    limit = _needs.free() + _LIBRARIES + _given(table)
    n_threads = schedulers.n_local_workers()
    return Room(1, n_threads, on_cluster=False, limit=limit, has_data=True)


def predict(table: Table, n_clusters: int, where: Room) -> Needs:
    """Return what it takes to write the labels of the rows of an array in memory or in Zarr."""
    pieces, tile, _ = table.tiles(ROWS_OF_A_CHUNK)
    leading = pieces[0].leading
    labels = 4 * math.prod(min(n, most) for n, most in zip(tile, leading, strict=True))
    centers = 8 * n_clusters * (table.n_features + 1)
    listed = _CHUNK * len(pieces)
    task = _held_by_task(table) + _LABELS * labels + 3 * centers + listed
    n = n_partitions(pieces)
    write = Pass("predict", n, task, _kept(table, where) + 3 * centers, 3 * centers)
    return Needs((write,), centers + listed, _LIBRARIES, _given(table))


def fit(table: Table, n_clusters: int, where: Room) -> Needs:
    """Return what it takes to fit centres to rows.

    Nothing is read; but of Dask arrays, sizes of chunks that are unknown are computed.
    """
    limit = _summary_rows.size(n_clusters, table.n_features, table.dtype.itemsize)
    blocks, store = _held_by_task(table), _kept(table, where)
    if table.n_rows > limit and is_colour(table):
        n = n_partitions(table.pieces, per_worker=COUNTED_PER_WORKER)
        counts = table_bytes(table.n_features)
        count = Pass("count", n, blocks + counts, store, counts)
        # Where colours are fewer than clusters, the pass that follows keeps hardly anything.
        client = counts + summary_bytes(table.n_features, table.n_rows)
        return Needs((count,), client, _LIBRARIES, _given(table))
    n_points, n = min(table.n_rows, limit), n_partitions(table.pieces)
    array = _summary_looks.one_array(table)
    is_copied = table.n_rows > limit or array is None
    sample = n_points * (_COLUMNS + is_copied * table.n_features * table.dtype.itemsize)
    look = Pass("summarise", n, blocks, store, sample, is_sum=False)
    centers = 8 * n_clusters * (table.n_features + 1)
    known = 0 if array is None else steps_bytes(*array, n_clusters)
    refine = Pass("refine", n, blocks + 3 * centers, store + known + 3 * centers, 3 * centers)
    passes = (look, refine) if table.n_rows > limit else (look,)
    client = _COPIES * sample + _solving(table, n_points, n_clusters)
    return Needs(passes, client, _LIBRARIES, _given(table))


def _solving(table: Table, n: int, n_clusters: int) -> int:
    """Return what it takes to solve `n` rows of a table, beside these.

    The rows that a function for `init` gets, in float64 if need be, take no more than tiles do.
    """
    d, dtype = table.n_features, table.dtype
    rows = np.broadcast_to(np.zeros((), dtype), (n, d))  # as large, and takes nothing
    weights = np.broadcast_to(0.0, n) if table.is_weighted else None
    known = n * _SOLVED + steps_bytes(rows, weights, n_clusters)
    if n == table.n_rows and n < IN_PART * n_clusters:
        _, made = tiles_bytes(n, d, dtype)
        return known + rows.nbytes + made  # rows joined, or in the order of starts
    first = n // _summary_rows.START_SHARE
    tiles, made = tiles_bytes(first, d, dtype)
    starts = first * d * dtype.itemsize + max(made, tiles + _DISTANCE * first * d)
    return known + rows.nbytes + starts  # rows joined


def _given(table: Table) -> int:
    """Return what arrays in memory take of it that hold the rows, and no file does."""
    sources = (piece.source for piece in table.pieces)
    arrays = [source.array for source in sources if isinstance(source, MemorySource)]
    return sum(array.nbytes for array in arrays if mapped(array) is None)


def _kept(table: Table, where: Room) -> int:
    """Return what a process keeps of decoded blocks."""
    if not any(piece.is_kept for piece in table.pieces):
        return 0
    limit = where.limit if where.on_cluster else None
    return min(table.nbytes, kept.ROOM if limit is None else limit // kept.SHARE)


def _held_by_task(table: Table) -> int:
    """Return what blocks take that are in memory at once, in a task."""
    return BLOCK_BYTES + max((_held(piece) for piece in table.pieces), default=0)


def _held(piece: TablePiece) -> int:
    """Return what the blocks of a piece take that are in memory at once."""
    if isinstance(piece.source, GraphSource):
        # Dask computes as many for the next task meanwhile.
        largest = max(window.n_pixels for window in piece.windows) * piece.pixel_bytes
        return 2 * (_passes.MAX_INPUT_BYTES + largest)
    return _BLOCKS * piece.windows[0].n_pixels * piece.pixel_bytes  # the others are no larger
