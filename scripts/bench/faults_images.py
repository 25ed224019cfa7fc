"""Kill processes of image jobs at random moments, and compare bytes with undisturbed runs.

For each phase and each victim (the client, one worker, all workers, the scheduler) as many rounds
as asked for, of `dkmeans quantize` or `dkmeans ingest`: see `fault_rounds`. The kinds of output
that have the phase take turns. All files of an output are compared, byte by byte.

    python scripts/bench/faults_images.py --rounds 5 --workers 2 --json faults.json

Phases: ingest (of `dkmeans ingest`), count, fit, write (of `quantize`), finish (of both: joining
parts, moving outputs to their names).
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import fault_rounds
import numpy as np
import tifffile
from cluster_jobs import picture
from fault_rounds import Event
from PIL import Image

OUTPUTS = ("out.png", "out.tif", "labels.zarr", "folder", "store.zarr")
KINDS: dict[str, tuple[str, ...]] = {
    "ingest": OUTPUTS[4:],
    "count": OUTPUTS[:4],
    "fit": OUTPUTS[:4],
    "write": OUTPUTS[:4],
    "finish": OUTPUTS,
}
_BEGUN = {"count colours": "count", "write": "write", "ingest": "ingest"}  # by name of the pass
_ENDED = {"count colours": "fit", "write": "finish", "ingest": "finish"}


class Bench(fault_rounds.Bench):
    """Pictures to reduce and to store."""

    kinds = KINDS

    def __init__(self, folder: Path, side: int, photos: int) -> None:
        super().__init__(folder)
        self._sources = folder / "sources"
        make_sources(self._sources, side, photos)

    def command(self, kind: str, place: Path, *, again: bool) -> list[str]:
        """Return the arguments of a job for a kind of output."""
        output, more = str(self.output(kind, place)), ["--resume"][:again]
        if kind == "store.zarr":
            return ["ingest", str(self._sources), output, *more]
        single = kind in ("out.png", "out.tif")
        source = self._sources / "large.tif" if single else self._sources
        return ["quantize", str(source), output, "--colors", "48", *more]

    def output(self, kind: str, place: Path) -> Path:
        """Return the output, which its kind is the name of."""
        return place / kind

    def digest(self, path: Path) -> str:
        """Return a hash of the names and bytes of all files; empty if there are none."""
        if not path.exists():
            return ""
        told = hashlib.sha256()
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            told.update(file.relative_to(path.parent).as_posix().encode() + file.read_bytes())
        return told.hexdigest()

    def phase(self, event: Event) -> str | None:
        """Return which phase begins with a line of the log, if any."""
        names = {"pass-begun": _BEGUN, "pass-ended": _ENDED}.get(event["event"], {})
        return names.get(event.get("of_pass", ""))

    def at_work(self, kind: str, place: Path) -> bool:
        """Return whether the workspace of an output says so."""
        folder = place / kind if kind == "folder" else place
        return (folder / f".{kind}.dkmeans" / "job.json").exists()

    def can_resume(self, kind: str, place: Path) -> bool:
        """Return whether the workspace was kept."""
        return self.at_work(kind, place)


def make_sources(folder: Path, side: int, photos: int) -> None:
    """Write a large tiled picture, and photographs that are small."""
    folder.mkdir()
    large = picture(side)
    tifffile.imwrite(folder / "large.tif", large, tile=(512, 512), photometric="rgb")
    rng = np.random.default_rng(1)
    for number in range(photos):
        y, x = rng.integers(0, side - 400, 2)
        Image.fromarray(large[y : y + 300, x : x + 400]).save(folder / f"{number}.png")


def main() -> None:
    """Play all rounds and write what happened."""
    parser = fault_rounds.options(__doc__ or "", KINDS)
    parser.add_argument("--side", type=int, default=6144, help="of the large picture, in pixels")
    parser.add_argument("--photos", type=int, default=40, help="number of small pictures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        sys.exit(fault_rounds.play_all(Bench(Path(name), given.side, given.photos), given))


if __name__ == "__main__":
    main()
