"""Reduce a folder of real photographs of mixed formats, some files bad, and check the outcome.

The photographs are copied into a temporary folder: some as they are, others converted, so that
JPEG, PNG, WebP and TIFF, colour and grey all occur; beside them come a JPEG cut off in the middle,
a text called .png and an empty file. `dkmeans quantize` then runs on the folder.

    python scripts/bench/many.py PHOTOS --limit 100

gigapixel.py says where photographs can be had. Exit status 1 if a check fails.
"""

import argparse
import shutil
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from measure import MIB, Run, photographs, run
from PIL import Image, ImageOps

MIN_BYTES = 100_000
MAX_PEAK = 1024 * MIB
SPOTS = 4096  # pixels compared in each picture

UInt8 = npt.NDArray[np.uint8]

# How copies are made, in turn: a Pillow mode, a suffix and options; or None: as it is.
KINDS: tuple[tuple[str, str, dict[str, Any]] | None, ...] = (
    None,
    None,
    ("RGB", ".png", {"compress_level": 1}),
    ("RGB", ".webp", {"quality": 85, "method": 0}),
    ("RGB", ".tif", {"compression": "tiff_lzw"}),
    ("L", ".jpg", {"quality": 90}),
    None,
    ("L", ".png", {"compress_level": 1}),
    ("RGB", ".tiff", {}),
)
BAD = ("cut-off.jpg", "text.png", "empty.jpg")


def collect(chosen: Sequence[Path], folder: Path) -> list[Path]:
    """Fill a folder with copies of photographs, and return them."""
    copies = []
    for i, photo in enumerate(chosen):
        kind = KINDS[i % len(KINDS)]
        with Image.open(photo) as image:
            if kind is None and image.mode in ("RGB", "L"):
                copy = folder / f"{i:03}-{photo.name}"
                shutil.copyfile(photo, copy)
            else:
                mode, suffix, options = kind or ("RGB", ".png", {"compress_level": 1})
                copy = folder / f"{i:03}-{photo.stem}{suffix}"
                pixels = np.asarray(ImageOps.exif_transpose(image).convert(mode))
                Image.fromarray(pixels).save(copy, **options)
        copies.append(copy)
    return copies


def add_bad(folder: Path) -> None:
    """Add the files of `BAD`."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    cut_off, text, empty = (folder / name for name in BAD)
    Image.fromarray(noise).save(cut_off)
    cut_off.write_bytes(cut_off.read_bytes()[: cut_off.stat().st_size // 2])
    text.write_text("This is no picture.\n", encoding="utf-8")
    empty.touch()


def check_run(done: Run, n_good: int) -> Iterator[str]:
    """Yield what is wrong with the exit status, with what was told, and with the memory."""
    if done.status != 1:
        yield f"exit status {done.status} instead of 1"
    failed = [line for line in done.errors.splitlines() if "failed:" in line]
    for name in BAD:
        told = [line.partition(name)[2].strip(": .") for line in failed if name in line]
        if len(told) != 1 or not told[0]:
            yield f"{name} is not named once with a reason: {told}"
    if len(failed) != len(BAD):
        yield f"{len(failed)} failures told instead of {len(BAD)}"
    if f"in {n_good} pictures" not in done.output:
        yield f"the summary does not tell of {n_good} pictures"
    if done.peak > MAX_PEAK:
        yield f"peak memory {done.peak / MIB:.0f} MiB, allowed are {MAX_PEAK // MIB}"


def check_outputs(copies: Sequence[Path], output: Path) -> Iterator[str]:
    """Yield what is wrong with the pictures written."""
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    expected = {f"{copy.stem}.png" for copy in copies}
    if files != expected:
        yield f"missing: {sorted(expected - files)}; too many: {sorted(files - expected)}"
    palettes = {palette_bytes(output / name) for name in sorted(files & expected)}
    if len(palettes) != 1:
        yield f"{len(palettes)} palettes instead of one"
    rng = np.random.default_rng(0)
    for copy in copies:
        if (indexed := output / f"{copy.stem}.png").exists():
            complaint = check_pixels(copy, indexed, rng)
            if complaint:
                yield f"{copy.name}: {complaint}"


def palette_bytes(png: Path) -> bytes:
    """Return the content of the chunk PLTE."""
    with png.open("rb") as file:
        file.seek(8)
        while True:
            size, kind = struct.unpack(">I4s", file.read(8))
            if kind == b"PLTE":
                return file.read(size)
            file.seek(size + 4, 1)


def check_pixels(copy: Path, indexed: Path, rng: np.random.Generator) -> str:
    """Return what is wrong at random pixels, where each must have its nearest colour.

    Pillow and GDAL decode some JPEG and WebP files a little differently; either will do.
    """
    colors = np.frombuffer(palette_bytes(indexed), np.uint8).reshape(-1, 3).astype(np.int64)
    with Image.open(indexed) as image:
        labels = np.asarray(image)
    y, x = (rng.integers(0, extent, SPOTS) for extent in labels.shape)
    wrong = []
    for decode in (by_pillow, by_gdal):
        original = decode(copy)
        if original.shape[:2] != labels.shape:
            return f"has shape {labels.shape} instead of {original.shape[:2]}"
        spots = original[y, x].astype(np.int64)
        distances = ((spots[:, np.newaxis] - colors) ** 2).sum(axis=2)
        wrong.append(np.count_nonzero(distances.argmin(axis=1) != labels[y, x]))
        if not wrong[-1]:
            return ""
    return f"{min(wrong)} of {SPOTS} pixels are not the nearest colour"


def by_pillow(path: Path) -> UInt8:
    """Decode a picture with Pillow, as it is to be seen."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def by_gdal(path: Path) -> UInt8:
    """Decode a picture with GDAL."""
    with rasterio.open(path) as dataset:
        bands = dataset.read()
    return np.moveaxis(np.broadcast_to(bands, (3, *bands.shape[1:])), 0, -1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect, reduce, check and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--colors", type=int, default=256)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "photographs"), Path(folder, "reduced")
        source.mkdir()
        copies = collect(photographs(options.photos, options.limit, min_bytes=MIN_BYTES), source)
        add_bad(source)
        command = [sys.executable, "-m", "dkmeans", "quantize", str(source), str(output)]
        done = run([*command, "--colors", str(options.colors)])
        kinds = Counter(copy.suffix.lower() for copy in copies)
        print(f"{len(copies)} photographs: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}")
        print(done.output.partition("\nSource")[0])
        print(*(line for line in done.errors.splitlines() if "failed:" in line), sep="\n")
        print(f"{done.seconds:.1f} s, peak memory of all processes {done.peak / MIB:.0f} MiB")
        complaints = [*check_run(done, len(copies)), *check_outputs(copies, output)]
    print(*(complaints or ["All checks passed."]), sep="\n")
    if complaints:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
