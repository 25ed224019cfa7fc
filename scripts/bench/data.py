"""What the benchmarks work on: mixtures, patches of photographs, a store, and exact inertia."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from measure import photographs
from PIL import Image

CHUNK = 1 << 24  # bytes
SPREAD, NOISE = 3, 2  # of the means of clusters, and of rows around them
SIDE = 8  # of a patch

_AT_A_TIME = 1 << 13  # rows


def blocks(
    n_rows: int, n_features: int, n_clusters: int, size: int, *, in_order: bool = False
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield a mixture of Gaussian clusters in blocks of `size` rows, mixed or one by one."""
    means = np.random.default_rng(0).normal(0, SPREAD, (n_clusters, n_features))
    means = means.astype(np.float32)
    for start in range(0, n_rows, size):
        stop = min(start + size, n_rows)
        rng = np.random.default_rng([1, start])
        if in_order:
            labels = np.arange(start, stop) * n_clusters // n_rows
        else:
            labels = rng.integers(0, n_clusters, stop - start)
        noise = rng.standard_normal((stop - start, n_features), dtype=np.float32)
        yield means[labels] + np.float32(NOISE) * noise


def mixture(folder: Path, n_rows: int, n_features: int, n_clusters: int, dtype: str) -> Path:
    """Return a file of a mixture, made unless it is there; integers fill their range."""
    path = folder / f"mixture-{n_rows}-{n_features}-{n_clusters}-{dtype}.npy"
    if not path.exists():
        parts = blocks(n_rows, n_features, n_clusters, _AT_A_TIME)
        rows = np.concatenate(list(parts))
        if dtype == "uint8":
            low, high = rows.min(), rows.max()
            rows = np.rint((rows - low) * (255 / (high - low)))
        _save(path, rows.astype(dtype))
    return path


def patches(folder: Path, photos: Path, n_rows: int) -> Path:
    """Return a file of grey patches of 8 x 8 pixels, float32, evenly of all photographs."""
    path = folder / f"patches-{n_rows}.npy"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    chosen = photographs([photos], 24, min_bytes=0)
    rows = []
    for i, photo in enumerate(chosen):
        with Image.open(photo) as image:
            grey = np.asarray(image.convert("L"), np.float32)
        n = (i + 1) * n_rows // len(chosen) - i * n_rows // len(chosen)
        y = rng.integers(0, grey.shape[0] - SIDE + 1, n)
        x = rng.integers(0, grey.shape[1] - SIDE + 1, n)
        windows = np.lib.stride_tricks.sliding_window_view(grey, (SIDE, SIDE))
        rows.append(windows[y, x].reshape(n, SIDE * SIDE))
    _save(path, np.concatenate(rows))
    return path


def _save(path: Path, rows: npt.NDArray[Any]) -> None:
    """Write an array under its name once it is complete."""
    with path.with_suffix(".part").open("wb") as file:
        np.save(file, rows)
    Path(file.name).rename(path)


def store(
    folder: Path, n_rows: int, n_features: int, n_clusters: int, *, in_order: bool = False
) -> Path:
    """Return a Zarr array of a mixture in float32, not compressed, made unless it is there."""
    order = "-in-order" if in_order else ""
    path = folder / f"mixture-{n_rows}-{n_features}-{n_clusters}{order}.zarr"
    if path.exists():
        return path
    size = min(CHUNK // (4 * n_features), n_rows)
    unfinished = path.with_suffix(".part")
    array = zarr.create_array(
        str(unfinished),
        shape=(n_rows, n_features),
        chunks=(size, n_features),
        dtype="f4",
        compressors=None,
        overwrite=True,
        config={"write_empty_chunks": True},
    )
    parts = blocks(n_rows, n_features, n_clusters, size, in_order=in_order)
    for i, part in enumerate(parts):
        array[i * size : i * size + len(part)] = part
    unfinished.rename(path)
    return path


def stored_blocks(path: Path) -> Iterator[npt.NDArray[Any]]:
    """Yield the chunks of a Zarr array."""
    array = zarr.open_array(str(path), mode="r")
    for start in range(0, array.shape[0], array.chunks[0]):
        yield np.asarray(array[start : start + array.chunks[0]])


def inertia(rows: npt.NDArray[Any], centers: npt.NDArray[Any]) -> float:
    """Return the sum of squared distances of rows to their nearest centre, in float64."""
    centers = np.asarray(centers, np.float64)
    mean = centers.mean(axis=0)
    around = centers - mean
    norms = np.einsum("ij,ij->i", around, around)
    total = 0.0
    for start in range(0, len(rows), _AT_A_TIME):
        part = rows[start : start + _AT_A_TIME] - mean
        nearest = (norms - 2 * part @ around.T).argmin(axis=1)
        part -= around[nearest]
        total += float(np.vdot(part, part))
    return total


def stored_inertia(path: Path, centers: npt.NDArray[Any]) -> float:
    """Return the inertia of a Zarr array."""
    return sum(inertia(block, centers) for block in stored_blocks(path))
