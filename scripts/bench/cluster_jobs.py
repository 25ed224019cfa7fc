"""Jobs for a cluster that is being disturbed: a picture to reduce, and a table to fit to."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr
from PIL import Image

import dkmeans


def picture(side: int) -> npt.NDArray[np.uint8]:
    """Return `side` x `side` pixels, smooth but for some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (side // 16, side // 16, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    return pixels // 2 + rng.integers(0, 6, pixels.shape, np.uint8)


def make_data(folder: Path, side: int, rows: int) -> None:
    """Write a picture of `side` x `side` pixels, and a table of `rows` x 8 in Zarr."""
    Image.fromarray(picture(side)).save(folder / "picture.png", compress_level=1)
    rng = np.random.default_rng(0)
    table = zarr.create_array(
        folder / "table.zarr", shape=(rows, 8), chunks=(rows // 64, 8), dtype="float32"
    )
    centres = rng.normal(0, 4, (12, 8))
    table[:] = centres[rng.integers(0, 12, rows)] + rng.normal(0, 1, (rows, 8))


def quantize(folder: Path) -> str:
    """Reduce the picture to 64 colours; return a hash of all that came out."""
    output = folder / "labels.zarr"
    shutil.rmtree(output, ignore_errors=True)
    dkmeans.quantize(folder / "picture.png", output, n_colors=64, seed=0)
    digest = hashlib.sha256()
    for file in sorted(path for path in output.rglob("*") if path.is_file()):
        digest.update(file.relative_to(output).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def fit(folder: Path) -> str:
    """Fit 12 clusters to the table by passes; return a hash of all that came out."""
    km = dkmeans.KMeans(n_clusters=12, random_state=0, max_iter=6, tol=0.0)
    km.fit(str(folder / "table.zarr"))
    parts = (km.cluster_centers_, km.counts_, np.float64(km.inertia_))
    return hashlib.sha256(b"".join(np.ascontiguousarray(part) for part in parts)).hexdigest()[:16]


JOBS = {"quantize": quantize, "fit": fit}
