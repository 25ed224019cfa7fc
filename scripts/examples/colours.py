"""The classic walk, third part: a photograph in 64 colours."""

from pathlib import Path

import numpy as np
from figures import parser, save, side_by_side
from sklearn.datasets import load_sample_image

from dkmeans import KMeans


def run(to: Path, n_colors: int = 64) -> dict[str, float]:
    """Draw the photograph beside its compression, and the palette; return the error."""
    china = load_sample_image("china.jpg")  # (427, 640, 3), uint8: each pixel is a row
    km = KMeans(n_clusters=n_colors, random_state=0).fit(china)

    palette = km.cluster_centers_.round().astype(np.uint8)
    labels = km.predict(china)  # (427, 640)
    compressed = palette[labels]

    psnr = 10 * np.log10(255**2 / np.mean((china - compressed.astype(float)) ** 2))
    n_distinct = len(np.unique(china.reshape(-1, 3), axis=0))
    print(f"colours: {n_distinct:,} -> {n_colors}, {km.n_passes_} passes, PSNR {psnr:.1f} dB")

    figure = side_by_side(
        china,
        compressed,
        (f"original, {n_distinct:,} colours", f"{n_colors} colours, PSNR {psnr:.1f} dB"),
        palette[np.argsort(-km.counts_)][None],  # the most used first
    )
    save(figure, to / "colours.png")
    return {"psnr": psnr, "n_distinct": n_distinct}


if __name__ == "__main__":
    run(parser(__doc__).parse_args().to)
