"""Time `dkmeans quantize` on a large picture, and compare with the least that the job can cost.

The floor is two bare decodes of the picture with rasterio and one encode of the indices with
dkmeans' own tile encoder, on as many threads. Each round runs a decode, dkmeans, the other decode
and the encode, so that all fall in the same minutes and a machine that grows slower harms both.
dkmeans runs as its users run it: a process of its own, from start to end.

    python scripts/bench/gigapixel.py PHOTOS PICTURE.tif --side 32768
    python scripts/bench/large.py PICTURE.tif --json large.json

gigapixel.py says where photographs can be had. `--memory-only` runs dkmeans once and measures no
floor.
"""

import argparse
import json
import queue
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from measure import MIB, Run, machine, run, table
from rasterio.windows import Window

from dkmeans._tiling import grid
from dkmeans.images._tiff import TILE, encode_tile

SQUARE = 2048  # what a thread decodes at a time: whole tiles of any usual size
BATCH = 64 * MIB  # indices in memory at a time
GDAL = {"GDAL_CACHEMAX": 64, "GDAL_NUM_THREADS": 1}
MAX_RATIO, MAX_PEAK = 1.6, 1024 * MIB  # what we aim at


def quantize(picture: Path, output: Path, colors: int, threads: int) -> Run:
    """Run dkmeans as a command; end the benchmark if it fails."""
    command = [sys.executable, "-m", "dkmeans", "quantize", str(picture), str(output)]
    done = run(
        [*command, "--colors", str(colors), "--overwrite"], {"DASK_NUM_WORKERS": str(threads)}
    )
    if done.status:
        raise SystemExit(f"dkmeans ended with status {done.status}:\n{done.errors}")
    return done


def warm_up(picture: Path, folder: Path) -> None:
    """Bring the file into the system's cache, and compile dkmeans' kernels if no run has yet."""
    with picture.open("rb") as file:
        while file.read(16 * MIB):
            pass
    with rasterio.open(picture) as dataset:
        shape = (dataset.count, 256, 256)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    profile = {"driver": "GTiff", "count": shape[0], "height": 256, "width": 256, "dtype": "uint8"}
    with rasterio.open(folder / "noise.tif", "w", **profile) as target:
        target.write(noise)
    quantize(folder / "noise.tif", folder / "noise-indexed.tif", colors=16, threads=1)


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


def measure(picture: Path, output: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all rounds and return the figures of each."""
    rounds = []
    for i in range(options.rounds):
        figures: dict[str, Any] = {}
        if not options.memory_only:
            figures["decodes"] = [decode(picture, options.threads)]
        figures |= asdict(quantize(picture, output, options.colors, options.threads))
        if not options.memory_only:
            figures["decodes"].append(decode(picture, options.threads))
            figures["encode"] = encode(output, options.threads)
            figures["floor"] = sum(figures["decodes"]) + figures["encode"]
        rounds.append(figures)
        print(f"round {i + 1}: dkmeans took {figures['seconds']:.1f} s", file=sys.stderr)
    return rounds


def show(one: dict[str, Any], stored: int) -> dict[str, str]:
    """Return the figures of a round in words. `stored` is the size of the picture's file."""
    words = {"dkmeans": f"{one['seconds']:.1f} s"}
    if "floor" in one:
        words["two bare decodes"] = "{:.1f} + {:.1f} s".format(*one["decodes"])
        words["encode of the indices"] = f"{one['encode']:.1f} s"
        words["the floor"] = f"{one['floor']:.1f} s"
        words["dkmeans / floor"] = f"{one['seconds'] / one['floor']:.2f}"
    words["peak memory, all processes"] = f"{one['peak'] / MIB:.0f} MiB"
    words["largest process"] = f"{one['max_resident'] / MIB:.0f} MiB"
    words["bytes read / bytes of the file"] = f"{one['read'] / stored:.2f}"
    for line in one["output"].splitlines():
        name, _, value = line.partition("  ")
        if name in ("Colours", "PSNR", "Iterations", "Read"):  # of dkmeans' own summary
            words[f"told: {name}"] = value.strip()
    return words


def judge(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Print how dkmeans does against what is aimed at; return the medians and the peak."""
    figures = {"seconds": statistics.median(one["seconds"] for one in rounds)}
    if "floor" in rounds[0]:
        figures["floor"] = statistics.median(one["floor"] for one in rounds)
        figures["ratio"] = figures["seconds"] / figures["floor"]
        print(f"Medians: {figures['ratio']:.2f} times the floor; the aim is at most {MAX_RATIO}.")
    figures["peak"] = max(one["peak"] for one in rounds)
    print(f"Peak memory: {figures['peak'] / MIB:.0f} MiB; the aim is at most {MAX_PEAK // MIB}.")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--colors", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory-only", action="store_true", help="run dkmeans once, no floor")
    parser.add_argument("--output", type=Path, help="keep the indexed picture under this name")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    if options.memory_only:
        options.rounds = 1
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    picture: Path = options.picture
    with rasterio.open(picture) as dataset:
        height, width = dataset.shape
    size = picture.stat().st_size
    figures: dict[str, Any] = {
        **machine(),
        "picture": f"{width} x {height} pixels, {size / MIB:.0f} MiB stored",
        "colors": options.colors,
        "threads": options.threads,
    }
    for name, text in figures.items():
        print(f"- {name}: {text}")
    with tempfile.TemporaryDirectory(dir=picture.parent) as folder:
        output = options.output or Path(folder, "indexed.tif")
        warm_up(picture, Path(folder))
        rounds = measure(picture, output, options)
    columns = [show(one, size) for one in rounds]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    print(f"\n{table(['', *(f'round {i + 1}' for i in range(len(rounds)))], rows)}\n")
    medians = judge(rounds)
    if options.json:
        figures |= {"rounds": rounds, "medians": medians}
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
