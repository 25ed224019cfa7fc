"""How much memory it takes to quantize or ingest pictures."""

from collections.abc import Collection, Mapping

import numpy as np

from dkmeans._kernels import colours as kernels
from dkmeans._needs import MIB, Needs, Pass, n_partitions, refuse_beyond
from dkmeans._palette import Palette
from dkmeans._passes import BlockSource, Piece
from dkmeans._summary import summary_bytes, table_bytes
from dkmeans._tiling import Window
from dkmeans.images import _count, _gdal, _raster, _store, _tiff
from dkmeans.images._outputs import ImageFile, Output, label_windows
from dkmeans.images._raster import RasterSource
from dkmeans.images._staging import StagedSource
from dkmeans.images._store_source import ZarrSource

_LIBRARIES = 255 * MIB
_ZARR = 25 * MIB  # once it is imported
_BLOCKS = 3  # of what is read: the last one, the next one, and a copy with its bands in order
_CHUNKS = 3  # of what is read of Zarr: encoded, decoded, and put together
_WINDOW = 250  # bytes of a window, of where its tile lies, and of where its labels are
_UNITS = (_tiff.TILE, _tiff.TILE), (1, 1 << 62)  # of outputs: tiles or chunks, or rows
_LABELS = 3  # windows of labels: the last one, the next one, and as it is packed and encoded


def check_quantize(
    sources: Collection[BlockSource], bands: int, n_colors: int, palette: Palette | None
) -> None:
    """Raise `InsufficientMemoryError` if there is too little memory to quantize pictures."""
    n_colors = n_colors if palette is None else len(palette)
    counted = palette is None
    refuse_beyond(
        "quantize",
        lambda _: quantize(sources, bands=bands, n_colors=n_colors, counted=counted),
    )


def check_ingest(sources: Collection[BlockSource]) -> None:
    """Raise `InsufficientMemoryError` if there is too little memory to ingest pictures."""
    refuse_beyond("ingest", lambda _: ingest(sources))


def quantize(
    sources: Collection[BlockSource],
    *,
    bands: int,
    n_colors: int,
    outputs: Mapping[int, Output] | None = None,
    counted: bool = True,
) -> Needs:
    """Return what it takes to count the colours of pictures, solve, and write labels.

    Parameters
    ----------
    sources
        At least one.
    bands
        Of all together.
    n_colors
        How many colours there will be.
    outputs
        Where the labels of each source go, in order; if not known, whatever takes more.
    counted
        Whether colours are counted, or a palette is given.
    """
    reading = max(map(_reading, sources))
    zarr = _ZARR * any(isinstance(source, ZarrSource) for source in sources)
    listed = _WINDOW * sum(map(_n_windows, sources))
    n_pixels = sum(source.shape[0] * source.shape[1] for source in sources)
    counts = table_bytes(bands)
    table = kernels.N_CODES * _store.label_dtype(n_colors).itemsize
    passes = []
    if counted:
        n = n_partitions(_whole(sources), per_worker=_count.PER_WORKER)
        passes.append(Pass("count colours", n, reading + listed + counts, zarr, counts))
    pairs = zip(sources, outputs.values() if outputs else [None] * len(sources), strict=True)
    labels = _LABELS * max(_labels(source, output, table) for source, output in pairs)
    if outputs and not all(isinstance(output, ImageFile) for output in outputs.values()):
        zarr = _ZARR
    n = n_partitions(_whole(sources))
    passes.append(Pass("write", n, reading + labels + listed, zarr + table, listed))
    solved = counts + summary_bytes(bands, n_pixels) if counted else 0
    return Needs(tuple(passes), solved + listed, _LIBRARIES)


def ingest(sources: Collection[BlockSource]) -> Needs:
    """Return what it takes to copy pictures to Zarr."""
    reading = max(map(_reading, sources))
    listed = _WINDOW * sum(map(_n_windows, sources))
    chunk = max(source.shape[2] for source in sources) * max(_store.CHUNK**2, _store.PACKED_CHUNK)
    # A window is as large as a chunk; packed pixels are in one more.
    task = _BLOCKS * chunk + reading + chunk + listed
    n = n_partitions(_whole(sources))
    return Needs((Pass("ingest", n, task, _ZARR, listed),), listed, _LIBRARIES)


def _whole(sources: Collection[BlockSource]) -> list[Piece]:
    """Return each source as one window."""
    windows = (Window(0, 0, *source.shape[:2]) for source in sources)
    return [
        Piece(i, source, (window,))
        for i, (source, window) in enumerate(zip(sources, windows, strict=True))
    ]


def _n_windows(source: BlockSource) -> int:
    return int(np.prod([-(-n // m) for n, m in zip(source.shape, source.read_block, strict=False)]))


def _reading(source: BlockSource) -> int:
    """Return what a task holds to read a source."""
    height, width, bands = source.shape
    rows, columns = (min(a, b) for a, b in zip(source.read_block, (height, width), strict=True))
    block = rows * columns * bands
    if isinstance(source, ZarrSource):
        return block + _CHUNKS * max(block, source.block[0] * source.block[1] * bands)
    if not isinstance(source, RasterSource):
        return _BLOCKS * block
    if source.whole:
        return _raster.whole_bytes(source) + _BLOCKS * block
    return _BLOCKS * block + _gdal.CACHE_BYTES


def _labels(source: BlockSource, output: Output | None, table: int) -> int:
    """Return the size of a window of labels."""
    height, width, _ = source.shape
    itemsize = table // kernels.N_CODES
    if isinstance(source, RasterSource) and source.in_order:
        source = StagedSource("", (height, width, source.shape[2]), "")
    units = _UNITS if output is None else (output.unit,)
    sizes = (label_windows(u, height, width, source.block, source.read_block) for u in units)
    return max(min(rows, height) * min(columns, width) for rows, columns in sizes) * itemsize
