"""Kill processes of fits at random moments, and compare bits with undisturbed runs.

For each phase and each victim (the client, one worker, all workers, the scheduler) as many rounds
as asked for, of `dkmeans fit` or `dkmeans predict`: see `fault_rounds`. The undisturbed runs are
done without a cluster, and once on each.

    python scripts/bench/faults_fit.py --rounds 5 --workers 2 --json faults.json

Phases: summary (the first pass of a fit), refine (the others, and what is between them), assign
(of `dkmeans predict`), finalise (of both: writing the model and removing the checkpoint, moving
labels to their name).
"""

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fault_rounds
import numpy as np
from fault_cluster import Process
from fault_rounds import Event

KINDS = {
    "summary": ("fit",),
    "refine": ("fit",),
    "assign": ("predict",),
    "finalise": ("fit", "predict"),
}
_ITERATIONS = 3
_CHUNK = 20_000  # rows
_SLEEP = 0.08  # seconds


def slow_down(seconds: float = _SLEEP) -> None:
    """Make passes last, so that they can be hit, and summaries small, so that data may be."""
    from dkmeans import _frame, _frame_ranges, _summary_rows

    _summary_rows.MIN_ROWS, _summary_rows.ROWS_PER_CLUSTER = 2000, 50
    assign, look = _frame.Centers.assign, _frame_ranges.Ranges.of.__func__

    def slowly_assign(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return assign(*args, **kwargs)

    def slowly_look(*args: Any) -> Any:
        time.sleep(seconds)
        return look(*args)

    _frame.Centers.assign = slowly_assign
    _frame_ranges.Ranges.of = classmethod(slowly_look)


def slow_down_files() -> None:
    """Make what is done with files last, so that it can be hit before and after each step."""

    def slowed(do: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*args: Any, **kwargs: Any) -> Any:
            time.sleep(_SLEEP)
            try:
                return do(*args, **kwargs)
            finally:
                time.sleep(_SLEEP)

        return slow

    for name in ("rename", "replace", "unlink", "rmdir"):
        setattr(os, name, slowed(getattr(os, name)))


class Bench(fault_rounds.Bench):
    """A table to fit to and to label."""

    kinds = KINDS
    prepare = staticmethod(slow_down)

    def __init__(self, folder: Path, n_rows: int) -> None:
        super().__init__(folder)
        self._data, self._model = folder / "rows.zarr", folder / "m.json"
        make_rows(self._data, n_rows)
        for kind in ("fit", "predict"):
            words = [*self.command(kind, folder, again=False), "--quiet"]
            Process(partial(self.run, words), folder / "shown").wait()
            self.wanted[kind] = self.digest(self.output(kind, folder))

    def run(self, words: Sequence[str]) -> None:
        """Run dkmeans, slowly."""
        slow_down()
        slow_down_files()
        super().run(words)

    def command(self, kind: str, place: Path, *, again: bool) -> list[str]:
        """Return the arguments of a fit, or of labels by the model of the undisturbed one."""
        output = str(self.output(kind, place))
        if kind == "predict":
            words = ["predict", str(self._model), str(self._data), output]
            return [*words, *["--overwrite"][:again]]
        words = ["fit", str(self._data), output, "-k", "12", "--tol", "0"]
        return [*words, "--max-iter", str(_ITERATIONS), *["--resume"][:again]]

    def output(self, kind: str, place: Path) -> Path:
        """Return the model, or the labels."""
        return place / ("labels.zarr" if kind == "predict" else "m.json")

    def digest(self, path: Path) -> str:
        """Return a hash of the bytes of a model, or of labels."""
        if not path.exists():
            return ""
        if path.suffix == ".json":
            return hashlib.sha256(path.read_bytes()).hexdigest()
        import zarr

        labels = np.asarray(zarr.open_array(str(path), mode="r")[:])
        return hashlib.sha256(labels).hexdigest()

    def phase(self, event: Event) -> str | None:
        """Return which phase begins with a line of the log, if any."""
        begun, ended = (event["event"] == f"pass-{name}" for name in ("begun", "ended"))
        of = event.get("of_pass")
        if begun:
            return {"summarise": "summary", "refine": "refine", "predict": "assign"}.get(of)
        if ended and of == "summarise":
            return "solve"
        # Each iteration is a pass, after that of the summary, and one more gives the inertia.
        is_last = of == "predict" or event.get("pass_number") == _ITERATIONS + 2
        return "finalise" if ended and is_last else None

    def at_work(self, kind: str, place: Path) -> bool:  # noqa: ARG002 - the log tells enough
        """Return whether a job is at work: while its log does not say that it has ended."""
        return True

    def can_resume(self, kind: str, place: Path) -> bool:
        """Return whether a fit has left a checkpoint."""
        return kind == "fit" and (place / "m.json.checkpoint").exists()


def make_rows(path: Path, n_rows: int) -> None:
    """Write a table of normal data."""
    import zarr

    shape, chunks = (n_rows, 8), (_CHUNK, 8)
    array = zarr.create_array(str(path), shape=shape, chunks=chunks, dtype="f4", compressors=None)
    rng = np.random.default_rng(0)
    for at in range(0, n_rows, _CHUNK):
        array[at : at + _CHUNK] = rng.normal(size=(min(_CHUNK, n_rows - at), 8))


def main() -> None:
    """Play all rounds and write what happened."""
    parser = fault_rounds.options(__doc__ or "", KINDS)
    parser.add_argument("--rows", type=int, default=500_000, help="of the data")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        sys.exit(fault_rounds.play_all(Bench(Path(name), given.rows), given))


if __name__ == "__main__":
    main()
