"""Photographs as patches of 8 x 8 pixels: the hundred that stand for all, rows of Zarr."""

import time
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets
import zarr
from figures import Pixels, parser, save, side_by_side
from PIL import Image

from dkmeans import KMeans

SIDE = 8
SAMPLES = Path(sklearn.datasets.__file__).parent / "images"  # two photographs
ROWS = 16384  # of a chunk


def cut(image: Pixels) -> Pixels:
    """Return the patches of an image as rows: (height / 8, width / 8, 8 * 8 * 3)."""
    height, width = (n // SIDE for n in image.shape[:2])
    image = image[: height * SIDE, : width * SIDE]
    patches = image.reshape(height, SIDE, width, SIDE, 3).swapaxes(1, 2)
    return patches.reshape(height, width, SIDE * SIDE * 3)


def paste(patches: Pixels) -> Pixels:
    """Return the image of which these are the patches; undoes `cut`."""
    height, width = patches.shape[:2]
    pixels = patches.reshape(height, width, SIDE, SIDE, 3).swapaxes(1, 2)
    return pixels.reshape(height * SIDE, width * SIDE, 3)


def photographs(folder: Path) -> Iterator[Pixels]:
    """Read the photographs of a folder, one at a time."""
    for file in sorted(folder.rglob("*.[jJ][pP]*[gG]")):
        yield np.asarray(Image.open(file).convert("RGB"))


def store_patches(folder: Path, store: Path) -> zarr.Array:
    """Write the patches of all photographs as rows; no more than one is in memory."""
    rows = zarr.create_array(
        store, shape=(0, SIDE * SIDE * 3), chunks=(ROWS, SIDE * SIDE * 3), dtype="uint8",
        overwrite=True,
    )  # fmt: skip
    for image in photographs(folder):
        rows.append(cut(image).reshape(-1, SIDE * SIDE * 3))
    return rows


def run(
    to: Path, folder: Path = SAMPLES, rebuild: Path = SAMPLES / "china.jpg", n_clusters: int = 100
) -> dict[str, float]:
    """Draw the centres, and a photograph rebuilt of them; return its error."""
    to.mkdir(parents=True, exist_ok=True)
    store = to / "patches.zarr"
    rows = store_patches(folder, store)
    print(f"patches: {rows.shape[0]:,} rows x {rows.shape[1]}, {rows.nbytes / 1e6:.0f} MB")

    start = time.perf_counter()
    km = KMeans(n_clusters=n_clusters, random_state=0).fit(store)
    seconds = time.perf_counter() - start
    print(f"  fit        {seconds:.0f} s, {km.n_passes_} passes, {km.n_iter_} iterations, "
          f"{km.stop_reason_}")  # fmt: skip

    order = np.argsort(-km.counts_)
    centers = km.cluster_centers_.round().astype(np.uint8)
    figure, axes = plt.subplots(-(-n_clusters // 20), 20, figsize=(10, 3.9))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.05, wspace=0, hspace=0)
    for here in axes.flat:
        here.set_axis_off()
    for here, cluster in zip(axes.flat, order, strict=False):
        share = km.counts_[cluster] / rows.shape[0]
        here.imshow(centers[cluster].reshape(SIDE, SIDE, 3), interpolation="nearest")
        here.set_title(f"{100 * share:#.2g}%", size=7.5, pad=2)
    figure.suptitle(f"{n_clusters} patches that stand for {rows.shape[0]:,}, the most used first")
    save(figure, to / "patches-centres.png")

    patches = cut(np.asarray(Image.open(rebuild).convert("RGB")))
    rebuilt = paste(centers[km.predict(patches)])
    original = paste(patches)
    psnr = 10 * np.log10(255**2 / np.mean((original - rebuilt.astype(float)) ** 2))
    print(f"  rebuilt    {rebuild.name}, PSNR {psnr:.1f} dB")
    figure = side_by_side(
        original, rebuilt, ("original", f"rebuilt of {n_clusters} patches, PSNR {psnr:.1f} dB")
    )
    save(figure, to / "patches-rebuilt.png")
    return {"psnr": psnr, "n_rows": rows.shape[0], "n_passes": km.n_passes_}


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--photos", type=Path, default=SAMPLES, help="a folder of JPEG files")
    options.add_argument("--rebuild", type=Path, default=SAMPLES / "china.jpg", help="a photograph")
    options.add_argument("--clusters", type=int, default=100)
    given = options.parse_args()
    run(given.to, given.photos, given.rebuild, given.clusters)
