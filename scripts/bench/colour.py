"""Pictures reduced to 256 colours: a huge one, and photographs.

A huge picture is measured against the floor: two bare decodes and one encode on as many threads.
Photographs are quantised from pixels to indices, decoding and encoding apart (dkmeans reads pixels
from an uncompressed Zarr array and writes such an array; libimagequant has them in memory), and as
a whole job, from the file to an indexed file. dkmeans and the programs are then processes of their
own, from start to end; the libraries run in a process in which they are loaded already. Nothing is
dithered but by rgb2pct, which cannot do without. scikit-learn's MiniBatchKMeans gets the rows of
the picture in bands, by partial_fit in batches of 65,536 pixels.
"""

import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peers
import rasterio
import zarr
from contest import OURS, Aim, Case, Entry, Outcome
from floor import Floor, expect_no_georeference
from measure import MIB, photographs, run
from palettes import by_imagequant, by_pillow, mse, picture_of
from PIL import Image
from rasterio.windows import Window

COLORS, SMALL_COLORS = 256, 16
MEGAPIXELS, SMALL_MEGAPIXELS = 12, 0.1  # of a photograph, at least
PHOTOGRAPHS = 3
MEDIUM = 8192  # pixels on a side, of the part of a huge picture that others can handle
BAND = 512  # rows
JUDGED = 80_000_000  # pixels at most, of a picture whose quality is looked up
BATCH = 1 << 16  # pixels

MAX_FLOOR, MAX_BETWEEN, MAX_PEAK = 1.3, 0.15, 1024 * MIB
RUNNING = f"{OURS}, in a running process"
SKLEARN, IMAGEQUANT = "scikit-learn, mini-batches", "libimagequant"


class Quantize:
    """Runs `dkmeans.quantize` in this process, and knows what lies between the passes."""

    def __init__(self, source: Path, target: Path, k: int) -> None:
        self._source = source
        self._target = target
        self._k = k
        self._ended = self._between = 0.0

    def run(self, number: int) -> Any:  # noqa: ARG002 - all rounds are the same
        """Quantise."""
        import dkmeans

        self._ended = self._between = 0.0
        start = time.perf_counter()
        result = dkmeans.quantize(
            self._source, self._target, n_colors=self._k, overwrite=True, progress=self
        )
        return result, time.perf_counter() - start

    def facts(self, result: Any) -> dict[str, Any]:
        """Return the quality, and the share of the time that is between the passes."""
        found, seconds = result
        told = {"passes": found.n_passes, "iterations": found.n_iter, "PSNR": found.psnr}
        return {**told, "between passes": self._between / seconds}

    def begin(self, name: str, nbytes: int, n_pixels: int) -> None:  # noqa: ARG002 - as passes call it
        """Take note that a pass begins."""
        if self._ended:
            self._between += time.perf_counter() - self._ended

    def advance(self, nbytes: int) -> None:
        """Pass over it."""

    def end(self) -> None:
        """Take note that a pass ends."""
        self._ended = time.perf_counter()


class Imagequant:
    """Gives pixels in memory to libimagequant, at its default speed."""

    def __init__(self, pixels: Path, k: int) -> None:
        self._pixels = np.asarray(zarr.open_array(str(pixels), mode="r")[:])
        height, width = self._pixels.shape[:2]
        opaque = np.full((height, width, 1), 255, np.uint8)
        self._bytes = np.concatenate([self._pixels, opaque], axis=2).tobytes()
        self._k = k

    def run(self, number: int) -> Any:  # noqa: ARG002 - all rounds are the same
        """Quantise."""
        import imagequant

        height, width = self._pixels.shape[:2]
        return imagequant.quantize_raw_rgba_bytes(
            self._bytes, width, height, dithering_level=0.0, max_colors=self._k
        )

    def facts(self, result: Any) -> dict[str, Any]:
        """Return the quality."""
        labels, palette = result
        colors = np.array(palette, np.uint8).reshape(-1, 4)[:, :3]
        indices = np.frombuffer(labels, np.uint8).reshape(self._pixels.shape[:2])
        return {"PSNR": psnr(self._pixels, colors[indices])}


class Whole:
    """A whole job, from file to file: by a function, or by a command in which `{}` are names."""

    def __init__(
        self,
        source: Path,
        target: Path,
        k: int,
        function: Callable[[Path, Path, int], None] | None = None,
        command: tuple[str, ...] = (),
    ) -> None:
        self._job = partial(function, source, target, k) if function else None
        names = {"source": source, "target": target, "k": k}
        self._command = [word.format(**names) for word in command]
        self._source = source
        self._target = target
        self._psnr = math.nan
        expect_no_georeference()

    def run(self, number: int) -> dict[str, Any]:  # noqa: ARG002 - all rounds are the same
        """Do the job."""
        if self._job:
            self._job()
            return {}
        done = run(self._command)
        if done.status:
            raise RuntimeError(f"status {done.status}: {done.errors}")
        return {"seconds": done.seconds, "peak": done.peak, "added": 0}

    def facts(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return the quality, looked up once; not of a huge picture, which would be in memory."""
        if _n_pixels(self._source) > JUDGED:
            return dict(result)
        if math.isnan(self._psnr):
            original, reduced = (np.asarray(picture_of(p)) for p in (self._source, self._target))
            self._psnr = psnr(original, reduced)
        return {**result, "PSNR": self._psnr}


def psnr(original: npt.NDArray[np.uint8], reduced: npt.NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    error = mse(original, reduced)
    return 10 * math.log10(255**2 / error) if error else math.inf


def by_sklearn(source: Path, target: Path, k: int) -> None:
    """Reduce a picture with MiniBatchKMeans, band by band, to a TIFF."""
    from sklearn.cluster import MiniBatchKMeans

    expect_no_georeference()
    model = MiniBatchKMeans(k, random_state=0)
    with rasterio.open(source) as dataset:
        profile = {
            "driver": "GTiff", "height": dataset.height, "width": dataset.width, "count": 1,
            "dtype": "uint8", "compress": "deflate", "zlevel": 1, "tiled": True,
        }  # fmt: skip
        for _, rows in _bands(dataset):
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                if len(part) >= k:  # else it cannot be a start
                    model.partial_fit(part)
        with rasterio.open(target, "w", **profile) as reduced:
            colors = np.clip(np.rint(model.cluster_centers_), 0, 255).astype(int).tolist()
            reduced.write_colormap(1, {i: (*color, 255) for i, color in enumerate(colors)})
            for window, rows in _bands(dataset):
                labels = model.predict(rows).astype(np.uint8)
                reduced.write(labels.reshape(window.height, window.width), 1, window=window)


def _bands(dataset: Any) -> Iterator[tuple[Window, npt.NDArray[np.float32]]]:
    for y in range(0, dataset.height, BAND):
        window = Window(0, y, dataset.width, min(BAND, dataset.height - y))
        yield window, dataset.read(window=window).reshape(3, -1).T.astype(np.float32, order="C")


def ours(source: Path, target: Path, k: int) -> Entry:
    """Return dkmeans as its users run it."""
    words = (sys.executable, "-m", "dkmeans", "quantize", "{source}", "{target}")
    command = (*words, "--colors", "{k}", "--overwrite")
    return Entry(OURS, Whole, {"source": source, "target": target, "k": k, "command": command})


def huge(picture: Path, options: Namespace, k: int) -> Case:
    """Return the case of a huge picture against the floor."""
    indexed = options.work / "indexed.tif"
    entries = [
        ours(picture, indexed, k),
        Entry(RUNNING, Quantize, {"source": picture, "target": indexed, "k": k}),
        Entry("floor", Floor, {"picture": picture, "indexed": indexed, "threads": options.threads}),
    ]

    def ratio(outcome: Outcome) -> float:
        return outcome.seconds(OURS) / outcome.seconds("floor")

    def between(outcome: Outcome) -> float | None:
        return outcome.fact(RUNNING, "between passes")

    def peak(outcome: Outcome) -> float:
        return max(trial.peak for trial in outcome.trials[OURS]) / MIB

    aims = [
        Aim("times the floor", ratio, MAX_FLOOR, at_least=False),
        Aim("of the time is between the passes", between, MAX_BETWEEN, at_least=False),
        Aim("MiB at the peak", peak, MAX_PEAK / MIB, at_least=False),
    ]
    with rasterio.open(picture) as dataset:
        size = f"{dataset.width:,} x {dataset.height:,}"
    return Case(f"huge picture, {size}", entries, [] if options.small else aims, max_rounds=3)


def pixels_only(photo: Path, options: Namespace, k: int) -> Case:
    """Return the case of a photograph, decoding and encoding apart."""
    pixels = options.work / f"{photo.stem}.zarr"
    original = np.asarray(picture_of(photo))
    array = zarr.create_array(
        str(pixels), shape=original.shape, chunks=(1024, 1024, 3), dtype="uint8",
        compressors=None, overwrite=True,
    )  # fmt: skip
    array[:] = original
    target = options.work / f"{photo.stem}-labels.zarr"
    entries = [
        Entry(OURS, Quantize, {"source": pixels, "target": target, "k": k}),
        Entry(IMAGEQUANT, Imagequant, {"pixels": pixels, "k": k}, IMAGEQUANT),
    ]
    text = f"times faster than {IMAGEQUANT}"
    aims = [] if options.small else [Aim(text, lambda o: o.times_faster(IMAGEQUANT), 1.0)]
    return Case(f"from pixels to indices, {_named(photo, original)}", entries, aims)


def _named(photo: Path, pixels: npt.NDArray[np.uint8]) -> str:
    return f"{photo.name}, {pixels.size / 3e6:.1f} megapixels"


def whole_jobs(source: Path, name: str, options: Namespace, k: int) -> Case:
    """Return the case of a picture as a whole job, by all who can."""

    def target(suffix: str) -> dict[str, Any]:
        place = options.work / f"reduced-{source.stem}-{suffix}"
        return {"source": source, "target": place, "k": k}

    def library(file: str, function: Callable[[Path, Path, int], None]) -> dict[str, Any]:
        return {**target(file), "function": function}

    convert = (peers.program("ImageMagick") or "", "{source}", "+dither", "-colors", "{k}")
    rgb2pct = (peers.program("GDAL") or "", "-n", "{k}", "{source}", "{target}")
    median_cut = partial(by_pillow, method=Image.Quantize.MEDIANCUT)
    octree = partial(by_pillow, method=Image.Quantize.FASTOCTREE)
    entries = [
        ours(source, target("dkmeans.png")["target"], k),
        Entry(RUNNING, Quantize, target("running.png")),
        Entry(SKLEARN, Whole, library("sklearn.tif", by_sklearn), warm=False, rounds=2),
        Entry("GDAL rgb2pct", Whole, {**target("gdal.tif"), "command": rgb2pct}, "GDAL", rounds=2),
        Entry("ImageMagick", Whole,
              {**target("magick.png"), "command": (*convert, "PNG8:{target}")}, "ImageMagick",
              rounds=2),
        Entry(IMAGEQUANT, Whole, library("imagequant.png", by_imagequant), IMAGEQUANT),
        Entry("Pillow median cut", Whole, library("median-cut.png", median_cut)),
        Entry("Pillow octree", Whole, library("octree.png", octree)),
    ]  # fmt: skip

    def faster(than: str) -> Callable[[Outcome], float | None]:
        return lambda outcome: outcome.times_faster(than)

    aims = [] if options.small else [
        Aim("times faster than scikit-learn's mini-batches", faster(SKLEARN), 10),
        Aim("times faster than rgb2pct", faster("GDAL rgb2pct"), 1),
        Aim("times faster than ImageMagick", faster("ImageMagick"), 1),
    ]  # fmt: skip
    return Case(f"whole job, {name}", entries, aims)


def medium(picture: Path, folder: Path) -> Path:
    """Return the upper left part of a huge picture, a TIFF that others can handle."""
    path = folder / f"medium-{picture.stem}.tif"
    if not path.exists():
        with rasterio.open(picture) as dataset:
            side = min(MEDIUM, dataset.height), min(MEDIUM, dataset.width)
            pixels = dataset.read(window=Window(0, 0, side[1], side[0]))
        profile = {
            "driver": "GTiff", "height": side[0], "width": side[1], "count": 3, "dtype": "uint8",
            "tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel",
            "compress": "deflate", "photometric": "RGB",
        }  # fmt: skip
        with rasterio.open(path, "w", **profile) as target:
            target.write(pixels)
    return path


def cases(options: Namespace) -> Iterator[Case]:
    """Yield the huge picture and photographs, as far as they are given."""
    expect_no_georeference()
    k = SMALL_COLORS if options.small else COLORS
    if options.photos:
        least = 1e6 * (SMALL_MEGAPIXELS if options.small else MEGAPIXELS)
        found = photographs([options.photos], sys.maxsize, min_bytes=0, modes=("RGB",))
        large = [photo for photo in found if _n_pixels(photo) >= least]
        if not large:
            raise SystemExit(f"no photograph of {least / 1e6:g} megapixels in {options.photos}")
        n = min(PHOTOGRAPHS, len(large))
        chosen = [large[i * len(large) // n] for i in range(n)]
        for photo in chosen:
            yield pixels_only(photo, options, k)
        name = _named(chosen[0], np.asarray(picture_of(chosen[0])))
        yield whole_jobs(chosen[0], name, options, k)
    if options.picture:
        yield huge(options.picture, options, k)
        part = medium(options.picture, options.work)
        yield whole_jobs(part, f"{_n_pixels(part) / 1e6:.0f} megapixels of a TIFF", options, k)
    if not (options.photos and options.picture):
        print("--photos FOLDER and --picture FILE name what to work on; gigapixel.py makes one.\n")


def _n_pixels(picture: Path) -> int:
    with rasterio.open(picture) as dataset:  # Pillow refuses huge ones
        return int(dataset.height * dataset.width)
