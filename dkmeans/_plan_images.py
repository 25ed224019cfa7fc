"""Plans of what is done with pictures."""

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from dkmeans import _needs, _passes
from dkmeans._palette import Palette
from dkmeans._passes import BlockSource
from dkmeans._plan_clock import rate, some, spread
from dkmeans._plan_passes import Plan, PlannedPass
from dkmeans._stores import is_url
from dkmeans._summary import ColourCounts
from dkmeans._tiling import Window, grid
from dkmeans._validation import check_integer, check_place
from dkmeans.images import _count, _ingest, _sources, _writing
from dkmeans.images import _needs as needs_of
from dkmeans.images._outputs import Output, PngFile, TiffFile, ZarrLabels
from dkmeans.images._sources import Paths, refuse_failed
from dkmeans.images._staging import interleaved, plan_staging
from dkmeans.images._store import label_dtype
from dkmeans.images._targets import kind_of

_STARTED = 1.5  # seconds at the most until workers have loaded what they need
_SOLVED = 2.0  # seconds at the most to solve counted colours
_MOST_COLORS = 1 << 16


def quantize(
    sources: Paths,
    output: str | Path | None,
    n_colors: int,
    staging: str | Path | None,
    *,
    calibrate: bool,
) -> Plan:
    """Plan `images.quantize`."""
    n_colors = check_integer("n_colors", n_colors, 2, _MOST_COLORS)
    for name, place in (("output", output), ("staging", staging)):
        if place is not None:
            check_place(name, place)
    usable = _usable(sources)
    room = _needs.room()
    kind = "folder" if output is None else kind_of(output)
    staged = {}
    if staging is not None or output is None or not is_url(output):
        place = _existing(Path(staging or output or ".").absolute())
        staged = plan_staging(usable, place)
    later = {i: staged.get(i, source) for i, source in usable.items()}
    outputs = _outputs(later, kind, n_colors)
    bands = max(source.shape[2] for source in usable.values())
    pieces = _count.pieces_of(usable)
    count = _passes.partition(pieces, per_worker=_count.PER_WORKER)
    write = _passes.partition(_writing.pieces_of(later, outputs, {}))
    needs = needs_of.quantize(usable.values(), bands=bands, n_colors=n_colors, outputs=outputs)
    n_pixels = sum(piece.n_pixels for piece in pieces)
    bits = next((bits for bits in (1, 2, 4) if n_colors <= 1 << bits), 8)
    pixel_bytes = label_dtype(n_colors).itemsize if kind == "zarr" else bits / 8
    seconds = None
    if calibrate:
        threads = min(room.n_workers * room.n_threads, len(count))
        counting = _counting(usable, bands)
        in_order = max((p.nbytes for p in pieces if p.source.in_order), default=0)
        nbytes = sum(piece.nbytes for piece in pieces)
        each = max(nbytes / threads, in_order) / counting
        # Labels are looked up in less time than colours are counted, and then encoded; what is
        # staged is read faster than it was decoded.
        seconds = spread(1.5 * each, 2 * each + _STARTED + _SOLVED)
    return _plan(
        "quantize",
        usable,
        (PlannedPass.over("count colours", count), PlannedPass.over("write", write)),
        needs,
        room,
        bytes_written=math.ceil(n_pixels * pixel_bytes),
        staging=sum(math.prod(source.shape) for source in staged.values()),
        seconds=seconds,
    )


def ingest(sources: Paths, *, calibrate: bool) -> Plan:
    """Plan `images.ingest`."""
    usable = _usable(sources)
    room = _needs.room()
    partitions = _ingest.partitions_of(usable)
    copy = PlannedPass.over("ingest", partitions)
    seconds = None
    if calibrate:
        reading = rate(_read, _some_blocks(usable))
        least = copy.bytes_read / min(room.n_workers * room.n_threads, len(partitions)) / reading
        seconds = spread(least, least + _STARTED)
    needs = needs_of.ingest(usable.values())
    return _plan(
        "ingest", usable, (copy,), needs, room, copy.bytes_read, staging=0, seconds=seconds
    )


def _plan(  # noqa: PLR0917 - what a plan is made of
    job: str,
    usable: Mapping[int, BlockSource],
    passes: tuple[PlannedPass, ...],
    needs: _needs.Needs,
    room: _needs.Room,
    bytes_written: int,
    staging: int,
    seconds: tuple[float, float] | None,
) -> Plan:
    return Plan.of(
        needs,
        room,
        job=job,
        n_sources=len(usable),
        n_rows=sum(source.shape[0] * source.shape[1] for source in usable.values()),
        passes=passes,
        bytes_written=bytes_written,
        staging=staging,
        seconds=seconds,
    )


def _usable(sources: Paths) -> dict[int, BlockSource]:
    """Return the pictures that can be read; raise if there is none."""
    found = _sources.find(sources)
    failures = {i: f.error for i, f in enumerate(found) if f.error is not None}
    refuse_failed(failures, len(found))
    return {i: f.source for i, f in enumerate(found) if f.source is not None}


def _existing(folder: Path) -> Path:
    # Unlike Path.is_dir, this is False too for what must not be looked at.
    return next(place for place in (folder, *folder.parents) if os.path.isdir(place))  # noqa: PTH112


def _outputs(usable: Mapping[int, BlockSource], kind: str, n_colors: int) -> dict[int, Output]:
    """Return what would take the labels of each source; nothing is made."""
    outputs: dict[int, Output] = {}
    palette = Palette(np.zeros((min(n_colors, 256), 3), np.uint8))
    for index, source in usable.items():
        form = TiffFile if kind == "tiff" else PngFile
        height, width, _ = source.shape
        file = form("", "", height, width, palette, "fast")
        outputs[index] = ZarrLabels("", "", width) if kind == "zarr" else file
    return outputs


_Place = tuple[BlockSource, Sequence[Window]]


def _some_blocks(usable: Mapping[int, BlockSource]) -> list[_Place]:
    """Return windows of some sources; of those read in order, the first ones."""
    places: list[_Place] = []
    for source in some(list(usable.values())):
        windows = grid(source.shape[0], source.shape[1], source.read_block)
        if source.in_order:
            places += [(source, windows[: 1 + i]) for i in range(min(2, len(windows)))]
        else:
            places += [(source, [window]) for window in some(windows)]
    return some(places)


def _read(place: _Place) -> int:
    source, windows = place
    with closing(source.read(windows)) as blocks:
        return sum(interleaved(block).nbytes for block in blocks)


def _counting(usable: Mapping[int, BlockSource], bands: int) -> float:
    """Return the bytes a second of reading and counting."""
    counts = ColourCounts(bands)

    def count(place: _Place) -> int:
        source, windows = place
        nbytes = 0
        with closing(source.read(windows)) as blocks:
            for block in blocks:
                counts.add(block)
                nbytes += block.nbytes
        return nbytes

    return rate(count, _some_blocks(usable))
