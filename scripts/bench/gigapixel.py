"""Make a picture of any size from a folder of photographs: an RGB BigTIFF in deflate tiles.

Each photograph is cut into squares; every square that is used gets its own change of colours
(a random mixing of the bands and an offset), so that copies differ and the number of distinct
colours grows with the picture, as it does in a real scan.

    python scripts/bench/gigapixel.py PHOTOS OUTPUT.tif --side 32768

Photographs in plenty are in Debian's packages plasma-workspace-wallpapers, gnome-backgrounds,
mate-backgrounds, lomiri-wallpapers-16.04 and -20.04 and ukui-wallpapers (`apt-get download`,
then `dpkg-deb -x`).
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image
from rasterio.windows import Window

SQUARE = 2048
MIN_BYTES = 300_000  # smaller files are drawings and thumbnails, not photographs


def squares(folder: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield squares of the photographs in a folder, over and over, in sorted order."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png", ".webp"))
    files = [p for p in files if p.is_file() and p.stat().st_size > MIN_BYTES]
    while True:
        for file in files:
            image = np.asarray(Image.open(file).convert("RGB"))
            for y in range(0, image.shape[0] - SQUARE + 1, SQUARE):
                for x in range(0, image.shape[1] - SQUARE + 1, SQUARE):
                    yield image[y : y + SQUARE, x : x + SQUARE]


def altered(square: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Mix the bands a little and shift them, another way each time."""
    mixing = np.eye(3, dtype=np.float32) + rng.normal(0, 0.08, (3, 3)).astype(np.float32)
    pixels = square.astype(np.float32) @ mixing + rng.normal(0, 12, 3).astype(np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--side", type=int, default=32768, help="pixels high and wide")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    rng = np.random.default_rng(0)
    source = squares(arguments.photos)
    side = arguments.side
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8",
        "tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "pixel",
        "compress": "deflate", "zlevel": 6, "bigtiff": "YES", "photometric": "RGB",
        "num_threads": "ALL_CPUS",
    }  # fmt: skip
    with rasterio.open(arguments.output, "w", **profile) as target:
        for y in range(0, side, SQUARE):
            for x in range(0, side, SQUARE):
                height, width = min(SQUARE, side - y), min(SQUARE, side - x)
                square = altered(next(source), rng)[:height, :width]
                target.write(np.moveaxis(square, -1, 0), window=Window(x, y, width, height))


if __name__ == "__main__":
    main()
