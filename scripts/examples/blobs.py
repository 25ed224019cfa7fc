"""The classic walk, first part: three blobs of points, and what k-means makes of them."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from figures import CMAP, COLORS, like, parser, save
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from dkmeans import KMeans


def blobs(std: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return 300 points of three blobs, and which point is of which."""
    points, truth = make_blobs(n_samples=300, centers=3, cluster_std=std, random_state=0)
    return points, truth


def draw(
    points: npt.NDArray[np.float64], truth: npt.NDArray[np.int64], km: KMeans, title: str
) -> Any:
    """Draw the clusters beside the truth, in the same colours; a star marks each centre."""
    numbers = like(truth, km.labels_)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8, 4.3), sharex=True, sharey=True, subplot_kw={"aspect": "equal"}
    )
    for axes, colors in ((left, numbers[km.labels_]), (right, truth)):
        axes.scatter(*points.T, c=colors, cmap=CMAP, vmin=0, vmax=len(COLORS) - 1, s=14, lw=0)
        axes.set_xlabel("feature 1")
    left.scatter(*km.cluster_centers_.T, c="white", ec="black", marker="*", s=170)
    left.set_ylabel("feature 2")
    left.set_title(f"KMeans, {km.n_clusters} clusters")
    right.set_title("true labels, 3 blobs")
    figure.suptitle(title)
    return figure


def run(to: Path) -> dict[str, float]:
    """Draw all four; return how well each agrees with the truth (adjusted Rand index)."""
    agreement = {}
    for name, std, parameters in (
        ("blobs-3", 0.60, {"n_clusters": 3}),
        ("blobs-4", 0.60, {"n_clusters": 4}),
        ("blobs-max-iter", 0.60, {"n_clusters": 3, "max_iter": 100}),
        ("blobs-wide", 0.85, {"n_clusters": 3, "max_iter": 100}),
    ):
        points, truth = blobs(std)
        km = KMeans(**parameters, random_state=0).fit(points)
        agreement[name] = adjusted_rand_score(truth, km.labels_)
        title = (
            f"std {std:.2f}, max_iter {km.max_iter}: {km.n_iter_} iterations, "
            f"inertia {km.inertia_:.1f}, adjusted Rand {agreement[name]:.3f}"
        )
        print(f"{name}: {title}")
        save(draw(points, truth, km, title), to / f"{name}.png")
    return agreement


if __name__ == "__main__":
    run(parser(__doc__).parse_args().to)
