"""Plans of fits of rows, and of labels."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _needs, _needs_tables, _passes, _summary_rows
from dkmeans._estimators import KMeans
from dkmeans._estimators_base import BaseKMeans
from dkmeans._estimators_functions import load
from dkmeans._frame import Centers, Frame
from dkmeans._frame_ranges import Ranges
from dkmeans._lloyd_passes import COUNTED_PER_WORKER, is_colour
from dkmeans._plan_clock import rate, some, spread
from dkmeans._plan_passes import Plan, PlannedPass
from dkmeans._tables import Table, TablePiece
from dkmeans._tables_zarr import ROWS_OF_A_CHUNK
from dkmeans._validation import InvalidArgumentError, check_integer

_USUAL = 6  # passes at the most of a fit with defaults
_LABEL = 4  # bytes
_VALUES = 256  # of a feature of 8 bits
_STARTED = 1.5  # seconds at the most until workers have loaded what they need
_SOLVED = 4e-11  # seconds for each value of a summary and each cluster and iteration
_ITERATIONS = 30, 300  # on the summary and its parts, of all starts


def fit(data: Any, n_clusters: int, max_iter: int, *, calibrate: bool) -> Plan:
    """Plan `KMeans.fit`."""
    n_clusters = check_integer("n_clusters", n_clusters, 1)
    max_iter = check_integer("max_iter", max_iter, 1)
    rows = _rows(KMeans(n_clusters), data, reset=True)
    if n_clusters > rows.n_rows:
        raise InvalidArgumentError(
            f"n_clusters is {n_clusters}, but there are {rows.n_rows} rows; choose no more."
        )
    room = _needs_tables.room_of(rows)
    limit = _summary_rows.size(n_clusters, rows.n_features, rows.dtype.itemsize)
    passes = _planned(rows, n_clusters, limit, max_iter)
    needs = _needs_tables.fit(rows, n_clusters, room)
    if rows.unsized:
        read = [piece for piece in rows.pieces if piece.index in rows.unsized]
        nbytes = sum(piece.nbytes for piece in read)
        n_chunks = sum(len(piece.windows) for piece in read)
        passes = (PlannedPass("find sizes", (1, 1), nbytes, n_chunks), *passes)
    seconds = None
    if calibrate and rows.pieces[0].inputs is None:
        seconds = _seconds(rows, n_clusters, limit, passes, room.n_workers * room.n_threads)
    return _told("fit", rows, passes, needs, room, 0, seconds)


def _rows(estimator: BaseKMeans, data: Any, *, reset: bool) -> Table:
    """Return data as an estimator takes them; some there must be."""
    try:
        rows = estimator._table(data, None, reset=reset)  # noqa: SLF001 - of a class of ours
    except ValueError as error:  # scikit-learn's own
        raise InvalidArgumentError(str(error)) from error
    if not rows.n_rows:
        raise InvalidArgumentError(f"the data have no rows (shape {rows.shape}).")
    return rows


def predict(data: Any, model: str | Path, *, calibrate: bool) -> Plan:
    """Plan the writing of labels by a model."""
    estimator = load(model)
    rows = _rows(estimator, data, reset=False)
    room = _needs_tables.room_of(rows)
    n_clusters = len(estimator.cluster_centers_)
    pieces, _, _ = rows.tiles(ROWS_OF_A_CHUNK)
    write = PlannedPass.over("predict", _passes.partition(pieces))
    seconds = None
    if calibrate:
        parts = [piece for whole in rows.pieces for piece in whole.split(1)]
        n_threads = min(room.n_workers * room.n_threads, write.n_tasks)
        least = write.bytes_read / n_threads / rate(_Trial(n_clusters), some(parts))
        seconds = spread(least, least + _STARTED)
    needs = _needs_tables.predict(rows, n_clusters, room)
    return _told("predict", rows, (write,), needs, room, _LABEL * rows.n_rows, seconds)


def _told(  # noqa: PLR0917 - what a plan is made of
    job: str,
    rows: Table,
    passes: tuple[PlannedPass, ...],
    needs: _needs.Needs,
    room: _needs.Room,
    bytes_written: int,
    seconds: tuple[float, float] | None,
) -> Plan:
    return Plan.of(
        needs,
        room,
        job=job,
        n_sources=len(rows.pieces),
        n_rows=rows.n_rows,
        passes=passes,
        bytes_written=bytes_written,
        staging=0,
        seconds=seconds,
    )


def _planned(rows: Table, n_clusters: int, limit: int, max_iter: int) -> tuple[PlannedPass, ...]:
    partitions = _passes.partition(rows.pieces)
    if rows.n_rows > limit and is_colour(rows):
        counted = _passes.partition(rows.pieces, per_worker=COUNTED_PER_WORKER)
        count = PlannedPass.over("count", counted)
        if n_clusters == 1:
            return (count,)
        # If there are fewer colours than clusters, which nobody knows yet, rows are read again.
        least = int(n_clusters > _VALUES**rows.n_features)
        return count, PlannedPass.over("summarise", partitions, (least, 1))
    summarise = PlannedPass.over("summarise", partitions)
    if rows.n_rows <= limit:
        return (summarise,)
    # Integers of which few are distinct are counted in the first pass.
    least = 0 if rows.dtype.kind in "iu" else 2
    most = min(_USUAL - 1, max_iter + 1)
    return summarise, PlannedPass.over("refine", partitions, (min(least, most), most))


def _seconds(
    rows: Table, n_clusters: int, limit: int, passes: tuple[PlannedPass, ...], n_threads: int
) -> tuple[float, float]:
    """Return how long a fit may take, from some blocks that are read and assigned to some rows."""
    pieces = [piece for whole in rows.pieces for piece in whole.split(1)]
    trial = _Trial(n_clusters)
    assigning = rate(trial, some(pieces))
    bounds = []
    n_summary = min(rows.n_rows, limit) * rows.n_features * n_clusters
    for i in (0, 1):
        nbytes = sum(each.times[i] * each.bytes_read for each in passes)
        solved = n_summary * _SOLVED * _ITERATIONS[i] / n_threads
        bounds.append(nbytes / min(n_threads, passes[0].n_tasks) / assigning + solved)
    return spread(bounds[0], bounds[1] + _STARTED)


class _Trial:
    """Assigns the rows of pieces to rows of the first one."""

    def __init__(self, n_clusters: int) -> None:
        self._n_clusters = n_clusters
        self._centers: Centers | None = None

    def __call__(self, piece: TablePiece) -> int:
        nbytes = 0
        with closing(piece.blocks()) as blocks:
            for block in blocks:
                centers = self._centers = self._centers or self._chosen(block.values)
                centers.add(block.values, None, centers.frame.totals(self._n_clusters))
                nbytes += block.values.nbytes
        return nbytes

    def _chosen(self, rows: npt.NDArray[Any]) -> Centers:
        chosen = np.nan_to_num(np.resize(rows, (self._n_clusters, rows.shape[1])))
        ranges, _ = Ranges.of(chosen, None, partial(np.arange, len(chosen)))
        middle = ranges.low / 2 + ranges.high / 2
        return Frame.of(ranges, middle, chosen.dtype, weighted=False).centers(chosen)
