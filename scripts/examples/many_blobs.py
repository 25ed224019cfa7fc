"""Blobs that do not fit into memory: 100 million rows, made anew whenever they are read."""

import resource
import sys
import time
from pathlib import Path

import dask.array as da
import dask.dataframe as dd
import datashader as ds
import datashader.transfer_functions as tf
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from dask_ml.datasets import make_blobs
from figures import COLORS, parser, save
from sklearn.decomposition import PCA

from dkmeans import KMeans

N_BLOBS, N_FEATURES = 10, 8


def peak_memory() -> float:
    """Return the most memory that this process has had, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def run(to: Path, rows: int = 100_000_000, chunk: int = 500_000) -> dict[str, float]:
    """Fit, draw a projection, and return what it took and how far the centres are off."""
    truth = np.random.default_rng(5).uniform(-10, 10, (N_BLOBS, N_FEATURES))
    data, _ = make_blobs(rows, centers=truth, n_features=N_FEATURES, chunks=(chunk, N_FEATURES))
    print(f"many_blobs: {rows:,} x {N_FEATURES}, {data.nbytes / 1e9:.1f} GB as {data.dtype}")

    start = time.perf_counter()
    km = KMeans(n_clusters=N_BLOBS, random_state=0).fit(data)
    seconds = time.perf_counter() - start
    nearest = np.linalg.norm(km.cluster_centers_[:, None] - truth, axis=2).min(axis=0)
    print(f"  fit        {seconds:.0f} s, {km.n_passes_} passes over the data, {km.stop_reason_}")
    print(f"  centres    the worst is {nearest.max():.4f} from the true one (std 1)")

    start = time.perf_counter()
    plane = PCA(n_components=2).fit(truth)
    points = data.map_blocks(plane.transform, chunks=(data.chunks[0], 2), dtype=data.dtype)
    labels = km.predict(data)  # lazy, as the data are
    frame = dd.from_dask_array(da.hstack([points, labels[:, None]]), columns=["x", "y", "cluster"])
    clusters = pd.CategoricalDtype(np.arange(N_BLOBS, dtype=float))
    frame["cluster"] = frame["cluster"].astype(clusters)

    right, top = np.abs(plane.transform(truth)).max(axis=0) + 5
    size = {"plot_width": 800, "plot_height": round(800 * top / right)}
    canvas = ds.Canvas(**size, x_range=(-right, right), y_range=(-top, top))
    counts = canvas.points(frame, "x", "y", agg=ds.count_cat("cluster"))  # one pass
    print(f"  drawing    {time.perf_counter() - start:.0f} s, one pass")
    print(f"  memory     {peak_memory():.2f} GB at most")

    pixels = tf.set_background(tf.shade(counts, color_key=COLORS, how="log"), "white").to_pil()
    figure, axes = plt.subplots(figsize=(7.5, 5.6))
    axes.imshow(pixels, extent=(-right, right, -top, top))
    centers = plane.transform(km.cluster_centers_)
    axes.scatter(*centers.T, c="white", marker="*", s=150, ec="black")
    axes.set(
        title=f"{rows:,} rows in {N_BLOBS} clusters; stars mark the centres",
        xlabel="first principal component of the centres",
        ylabel="second principal component",
    )
    save(figure, to / "many-blobs.png", n_colors=None)  # smooth shades
    return {
        "worst": nearest.max(), "n_passes": km.n_passes_, "drawn": float(counts.sum()),
        "counts": km.counts_.sum(), "memory": peak_memory(), "seconds": seconds,
    }  # fmt: skip


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=100_000_000)
    options.add_argument("--chunk", type=int, default=500_000, help="rows made at a time")
    given = options.parse_args()
    run(given.to, given.rows, given.chunk)
