"""How much memory it takes to fit centres to rows, and to label rows."""

import math

from dkmeans import _passes, _summary_looks, _summary_rows
from dkmeans import _tables_kept as kept
from dkmeans._lloyd_passes import COUNTED_PER_WORKER, is_colour
from dkmeans._needs import MIB, Needs, Pass, Room, n_partitions, refuse_beyond
from dkmeans._summary import summary_bytes, table_bytes
from dkmeans._summary_steps import bytes_of as steps_bytes
from dkmeans._tables import Table, TablePiece
from dkmeans._tables_blocks import BLOCK_BYTES, GraphSource
from dkmeans._tables_zarr import ROWS_OF_A_CHUNK

_LIBRARIES = 390 * MIB  # with scikit-learn, and the kernels and threads that solve a summary
_COLUMNS = 24  # bytes of a sampled row beside its values: number, weight, priority
_COPIES = 4  # of a sample: as it came, in its order, joined, and what steps know of it
_LABELS = 4  # chunks of labels: whole, as zarr copies, encodes and checks it
_CHUNK = 1 << 10  # bytes of what is known of a chunk of labels, while it is written
_BLOCKS = 4  # that a task holds: read, read ahead, decoded, and copied


def check_fit(table: Table, n_clusters: int) -> None:
    """Raise `InsufficientMemoryError` if there is too little memory to fit rows that are stored."""
    if table.is_lazy:
        refuse_beyond("fit", lambda where: fit(table, n_clusters, where))


def check_predict(table: Table, n_clusters: int) -> None:
    """Raise `InsufficientMemoryError` if there is too little memory to label rows on disk."""
    if table.is_lazy:
        refuse_beyond("predict", lambda where: predict(table, n_clusters, where))


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
    return Needs((write,), centers + listed, _LIBRARIES)


def fit(table: Table, n_clusters: int, where: Room) -> Needs:
    """Return what it takes to fit centres to rows that are stored.

    Nothing is read; but of Dask arrays, sizes of chunks that are unknown are computed.
    """
    row_bytes = table.n_features * table.dtype.itemsize
    limit = _summary_rows.size(n_clusters, table.n_features, table.dtype.itemsize)
    blocks, store = _held_by_task(table), _kept(table, where)
    if table.n_rows > limit and is_colour(table):
        n = n_partitions(table.pieces, per_worker=COUNTED_PER_WORKER)
        counts = table_bytes(table.n_features)
        count = Pass("count", n, blocks + counts, store, counts)
        # Where colours are fewer than clusters, the pass that follows keeps hardly anything.
        return Needs((count,), counts + summary_bytes(table.n_features, table.n_rows), _LIBRARIES)
    sample = min(table.n_rows, limit) * (row_bytes + _COLUMNS)
    n = n_partitions(table.pieces)
    look = Pass("summarise", n, blocks, store, sample, is_sum=False)
    centers = 8 * n_clusters * (table.n_features + 1)
    array = _summary_looks.one_array(table)
    known = 0 if array is None else steps_bytes(*array, n_clusters)
    refine = Pass("refine", n, blocks + 3 * centers, store + known + 3 * centers, 3 * centers)
    passes = (look, refine) if table.n_rows > limit else (look,)
    return Needs(passes, _COPIES * sample, _LIBRARIES)


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
