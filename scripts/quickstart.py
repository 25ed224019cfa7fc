"""Reduce scikit-learn's photograph china.jpg to 64 colours, and show it beside the original."""

import time
from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image

import dkmeans

FOLDER = Path("quickstart")
N_COLORS = 64


def compare(before: Path, after: Path, target: Path) -> None:
    """Save both pictures side by side, the palette of the second one below."""
    left, right = Image.open(before).convert("RGB"), Image.open(after)
    gap, strip = 8, 32
    size = (left.width + gap + right.width, left.height + gap + strip)
    canvas = Image.new("RGB", size, "white")
    canvas.paste(left, (0, 0))
    canvas.paste(right.convert("RGB"), (left.width + gap, 0))
    colors = np.array(right.getpalette(), np.uint8).reshape(1, -1, 3)
    swatches = Image.fromarray(colors).resize((size[0], strip), Image.Resampling.NEAREST)
    canvas.paste(swatches, (0, left.height + gap))
    canvas.save(target)


def main() -> None:
    """Run the main job once and say what came out."""
    photo = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
    indexed, side_by_side = FOLDER / "china-64.png", FOLDER / "china-64-comparison.png"
    FOLDER.mkdir(exist_ok=True)
    print(f"{photo.name} -> {N_COLORS} colours (the first run compiles the kernels, once) ...")
    start = time.perf_counter()
    result = dkmeans.quantize(photo, indexed, n_colors=N_COLORS, overwrite=True)
    seconds = time.perf_counter() - start
    compare(photo, indexed, side_by_side)

    (report,) = result.report
    pixels = report.height * report.width
    mse = 255**2 / 10 ** (result.psnr / 10)
    print(f"  indexed PNG      {indexed.resolve()}")
    print(f"  side by side     {side_by_side.resolve()}")
    print(f"  size             {3 * pixels / 1024:.0f} KiB of pixels, "
          f"{report.bytes_in / 1024:.0f} KiB as JPEG -> {report.bytes_out / 1024:.0f} KiB, "
          "every pixel exactly one of the palette")  # fmt: skip
    print(f"  distinct colours {result.n_distinct:,} -> {len(result.palette)}")
    print(f"  error            {mse:.1f} mean squared, PSNR {result.psnr:.1f} dB")
    print(f"  time             {seconds:.1f} s, {result.n_passes} passes over the pixels")
    print(f"The same from the shell: .venv/bin/dkmeans quantize {photo} china.png --colors 64")


if __name__ == "__main__":
    main()
