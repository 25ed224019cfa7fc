"""What the examples share: how their figures look, and a way to save them small."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")  # pictures go to files, not to windows

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix

import dkmeans

Pixels = npt.NDArray[np.uint8]

# Ten colours that people with any colour vision can tell apart, after P. Tol's "muted" scheme.
COLORS = [
    "#332288", "#cc6677", "#44aa99", "#ddaa33", "#882255",
    "#88ccee", "#117733", "#aa4499", "#999933", "#aaaaaa",
]  # fmt: skip
CMAP = ListedColormap(COLORS)
DPI = 120

plt.rcParams.update({
    "figure.dpi": DPI,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
})  # fmt: skip


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of the option that all examples have."""
    result = argparse.ArgumentParser(
        description=description.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    result.add_argument("--to", type=Path, default=Path("build/examples"), help="pictures go here")
    return result


def save(figure: Figure, path: Path, n_colors: int | None = 256) -> None:
    """Write a figure as a PNG, its colours chosen by dkmeans or all kept, and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    full = path.with_name(f"{path.stem}-full.png")
    figure.savefig(full)
    plt.close(figure)
    Image.open(full).convert("RGB").save(full, optimize=n_colors is None)
    if n_colors is None:
        full.replace(path)
    else:
        dkmeans.quantize(full, path, n_colors=n_colors, compression="small", overwrite=True)
        full.unlink()
    print(f"  picture    {path} ({path.stat().st_size / 1000:.0f} kB)")


def like(classes: npt.NDArray[Any], clusters: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Find numbers for clusters: those of the classes with which they share most rows.

    Returns one for each cluster, so that both are drawn in the same colours. Clusters
    without a class get the numbers that follow.
    """
    shared = contingency_matrix(classes, clusters)
    a_class, its_cluster = linear_sum_assignment(shared, maximize=True)
    numbers = np.full(shared.shape[1], -1)
    numbers[its_cluster] = a_class
    numbers[numbers < 0] = np.arange(len(a_class), shared.shape[1])
    return numbers


def side_by_side(
    before: Pixels, after: Pixels, titles: tuple[str, str], strip: Pixels | None = None
) -> Figure:
    """Show two pictures of one size, pixel for pixel, and a strip of colours below."""
    height, width = before.shape[:2]
    title, gap, below = 40, 20, 40
    bottom = gap if strip is None else gap + below + gap
    size = np.array([2 * width + 3 * gap, title + height + bottom])
    figure = plt.figure(figsize=size / DPI, layout="none")

    def place(pixels: Pixels, left: int, top: int, width: int, height: int) -> Axes:
        bottom = size[1] - top - height
        axes = figure.add_axes((left / size[0], bottom / size[1], *((width, height) / size)))
        axes.imshow(pixels, aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        return axes

    place(before, gap, title, width, height).set_title(titles[0])
    place(after, 2 * gap + width, title, width, height).set_title(titles[1])
    if strip is not None:
        place(strip, gap, title + height + gap, 2 * width + gap, below)
    return figure
