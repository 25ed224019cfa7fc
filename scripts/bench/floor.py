"""The least that quantising a large picture can cost: to decode it twice and encode it once."""

import queue
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import rasterio
from measure import MIB
from rasterio.windows import Window

from dkmeans._tiling import grid
from dkmeans.images._tiff import TILE, encode_tile

SQUARE = 2048  # what a thread decodes at a time: whole tiles of any usual size
BATCH = 64 * MIB  # indices in memory at a time
GDAL = {"GDAL_CACHEMAX": 64, "GDAL_NUM_THREADS": 1}


class Floor:
    """Decodes a picture twice with rasterio, and encodes the indices with dkmeans' own encoder.

    `indexed` is the picture as dkmeans has written it.
    """

    def __init__(self, picture: Path, indexed: Path, threads: int) -> None:
        self._picture = picture
        self._indexed = indexed
        self._threads = threads
        expect_no_georeference()

    def run(self, number: int) -> dict[str, Any]:  # noqa: ARG002 - all rounds are the same
        """Decode, decode and encode."""
        decodes = [decode(self._picture, self._threads) for _ in range(2)]
        seconds = encode(self._indexed, self._threads)
        return {"seconds": sum(decodes) + seconds, "decodes": decodes, "encode": seconds}

    def facts(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return the seconds."""
        return dict(result)


def expect_no_georeference() -> None:
    """Keep rasterio from warning that a picture is not a map."""
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)


def decode(picture: Path, threads: int) -> float:
    """Decode the whole picture and drop the pixels; return the seconds."""
    with rasterio.open(picture) as dataset:
        height, width = dataset.shape
    windows: queue.SimpleQueue[Window] = queue.SimpleQueue()
    for window in grid(height, width, (SQUARE, SQUARE)):
        windows.put(Window(window.x, window.y, window.width, window.height))

    def work(_: int) -> None:
        with rasterio.Env(**GDAL), rasterio.open(picture) as dataset:
            while True:
                try:
                    window = windows.get_nowait()
                except queue.Empty:
                    return
                dataset.read(window=window)

    return _timed(work, range(threads), threads)


def encode(indexed: Path, threads: int) -> float:
    """Encode the indices of a finished picture again and drop the bytes; return the seconds.

    The indices are decoded in batches, outside the time.
    """
    seconds = 0.0
    with rasterio.Env(**GDAL), rasterio.open(indexed) as dataset:
        height, width = dataset.shape
        rows = max(1, BATCH // (width * TILE)) * TILE
        for y in range(0, height, rows):
            batch = dataset.read(1, window=Window(0, y, width, min(rows, height - y)))
            tiles = [batch[w.rows, w.columns] for w in grid(len(batch), width, (TILE, TILE))]
            seconds += _timed(lambda tile: encode_tile(tile, "fast"), tiles, threads)
    return seconds


def _timed(work: Callable[[Any], object], items: Iterable[object], threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(work, items))  # some 20 us an item; raises what the work raised
        return time.perf_counter() - start
