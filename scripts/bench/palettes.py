"""Compare the palettes of dkmeans with those of libimagequant and Pillow, without dithering.

Each photograph is reduced to each number of colours by each method; what counts is the mean
squared error over all pixels and bands, 0 to 255. The time is that of the whole job: from the file
to an indexed PNG, compressed as fast as the library can.

    python scripts/bench/palettes.py PHOTOS... --limit 24 --colors 16 64 256 --docs docs/quality.md

PHOTOS are files or folders; of RGB files from 300 kB on some are evenly chosen. gigapixel.py says
where photographs can be had. `--docs` puts the tables between the marks of that file.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measure import machine, photographs, short_names, table
from PIL import Image, ImageOps, features

import dkmeans

OURS, RIVAL = "dkmeans", "libimagequant"
AIM = 0.08  # how much lower than the rival's the median error is to be, with the most colours
MARKS = "<!-- made by scripts/bench/palettes.py -->", "<!-- end -->"


@dataclass
class Trial:
    """One photograph reduced to `k` colours: by method, the mean squared error and the seconds."""

    photo: str
    megapixels: float
    n_distinct: int
    k: int
    stop_reason: str
    errors: dict[str, float]
    seconds: dict[str, float]

    def ratio(self, method: str) -> float:
        """Return the error of a method as a multiple of that of dkmeans."""
        return self.errors[method] / self.errors[OURS]


def picture_of(photo: Path) -> Image.Image:
    """Decode a photograph as it is to be seen."""
    with Image.open(photo) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def by_pillow(photo: Path, target: Path, k: int, **options: Any) -> None:
    """Reduce with `Image.quantize` and these options."""
    reduced = picture_of(photo).quantize(k, dither=Image.Dither.NONE, **options)
    reduced.save(target, compress_level=1)


def by_imagequant(photo: Path, target: Path, k: int) -> None:
    """Reduce with libimagequant at its default speed."""
    import imagequant

    picture = picture_of(photo)
    pixels = picture.convert("RGBA").tobytes()
    labels, palette = imagequant.quantize_raw_rgba_bytes(
        pixels, *picture.size, dithering_level=0.0, max_colors=k
    )
    reduced = Image.frombytes("P", picture.size, labels)
    reduced.putpalette(np.array(palette, np.uint8).reshape(-1, 4)[:, :3].tobytes())  # all opaque
    reduced.save(target, compress_level=1)


METHODS: dict[str, Callable[[Path, Path, int], None]] = {
    RIVAL: by_imagequant,
    "Pillow median cut": partial(by_pillow, method=Image.Quantize.MEDIANCUT),
    "Pillow median cut, kmeans=3": partial(by_pillow, method=Image.Quantize.MEDIANCUT, kmeans=3),
    "Pillow octree": partial(by_pillow, method=Image.Quantize.FASTOCTREE),
}
if features.check("libimagequant"):
    METHODS["Pillow's libimagequant"] = partial(by_pillow, method=Image.Quantize.LIBIMAGEQUANT)


def mse(original: npt.NDArray[np.uint8], reduced: npt.NDArray[np.uint8]) -> float:
    """Return the mean squared difference."""
    total = 0
    for a, b in zip(original, reduced, strict=True):  # by rows: bounded memory
        difference = a.astype(np.int32) - b
        total += int(np.vdot(difference, difference))
    return total / original.size


def try_all(photo: Path, name: str, k: int, target: Path) -> Trial:
    """Reduce one photograph by all methods; check the error that dkmeans tells of."""
    original = np.asarray(picture_of(photo))
    start = time.perf_counter()
    result = dkmeans.quantize(photo, target, n_colors=k, overwrite=True)
    seconds = {OURS: time.perf_counter() - start}
    errors = {OURS: mse(original, np.asarray(picture_of(target)))}
    psnr = 10 * math.log10(255**2 / errors[OURS]) if errors[OURS] else math.inf
    if not math.isclose(psnr, result.psnr, abs_tol=1e-9):
        raise AssertionError(f"{photo}: PSNR {psnr} measured, {result.psnr} told")
    for method, reduce in METHODS.items():
        start = time.perf_counter()
        reduce(photo, target, k)
        seconds[method] = time.perf_counter() - start
        errors[method] = mse(original, np.asarray(picture_of(target)))
    facts = name, original.size / 3e6, int(result.n_distinct or 0), k, result.stop_reason
    return Trial(*facts, errors, seconds)


def compare(groups: dict[int, list[Trial]]) -> str:
    """Return the table of methods, from the trials that count of each k."""
    rows = []
    for k, group in groups.items():
        for method in [OURS, *METHODS] if group else []:
            ratios = [one.ratio(method) for one in group]
            best = f"{sum(ratio >= 1 for ratio in ratios)} of {len(ratios)}"
            speed = statistics.median(one.megapixels / one.seconds[method] for one in group)
            figures = [f"{each(ratios):.3f}" for each in (statistics.median, min, max)]
            rows.append((method, k, *figures, best, f"{speed:.1f}"))
    header = ("method", "k", "median", "min", "max", "dkmeans at most", "megapixels/s")
    return table(header, rows)


def judge(groups: dict[int, list[Trial]]) -> str:
    """Return how dkmeans does against its rival, in a sentence."""
    against = [one.ratio(RIVAL) for group in groups.values() for one in group]
    above = sum(ratio < 1 for ratio in against)
    answer = f"no, above on {above} of {len(against)}" if above else "yes"
    text = f"dkmeans at most {RIVAL} on every photograph and k: {answer}"
    most = max(groups)
    if groups[most]:
        lower = statistics.median(1 - 1 / one.ratio(RIVAL) for one in groups[most])
        text += f"; median at k = {most} lower by {lower:.1%} (the aim is {AIM:.0%})"
    return f"{text}."


def list_photos(done: Sequence[Trial], ks: Sequence[int]) -> str:
    """Return the table of photographs; the error of the rival as a multiple of that of dkmeans."""
    rows = []
    for first in (one for one in done if one.k == ks[0]):
        row = [first.photo, f"{first.megapixels:.1f}", f"{first.n_distinct:,}"]
        for one in (one for one in done if one.photo == first.photo):
            ratio = f"{one.ratio(RIVAL):.3f}" if one.n_distinct > one.k else "not counted"
            row += [f"{one.errors[OURS]:.3f}", ratio, one.stop_reason]
        rows.append(row)
    header = ["photograph", "megapixels", "colours"]
    return table(header + [text for k in ks for text in (f"k = {k}", RIVAL, "stopped")], rows)


def insert(text: str, path: Path) -> None:
    """Put text between the marks of a file, or make one that holds nothing else."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    before, after = old.partition(MARKS[0])[0], old.partition(MARKS[1])[2] or "\n"
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--colors", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--docs", type=Path, help="put the tables into this Markdown file")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    chosen = photographs(options.photos, options.limit, modes=("RGB",))
    ks = sorted(options.colors)
    done = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "reduced.png")
        dkmeans.quantize(chosen[0], target, n_colors=2)  # compiles the kernels
        for name, photo in zip(short_names(chosen), chosen, strict=True):
            print(name, file=sys.stderr)
            done += [try_all(photo, name, k, target) for k in ks]
    # A photograph of at most k colours keeps them all, whatever the method.
    groups = {k: [one for one in done if one.k == k < one.n_distinct] for k in ks}
    counted = ", ".join(f"{len(group)} at k = {k}" for k, group in groups.items())
    facts = "\n".join(f"- {name}: {value}" for name, value in machine().items())
    sentence = f"{judge(groups)} Photographs: {len(chosen)}; of more than k colours: {counted}."
    text = f"{sentence}\n\n{compare(groups)}\n\n{list_photos(done, ks)}\n\n{facts}"
    print(text)
    if options.docs:
        insert(text, options.docs)
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in done], indent=1), "utf-8")


if __name__ == "__main__":
    main()
