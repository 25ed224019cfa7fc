"""Mini-batches from a store: the time to 1.02 times the inertia of a full fit.

dkmeans fits the store with its defaults. scikit-learn's partial_fit gets the same chunks, one after
the other, whole or in batches, until it is there or has seen them all once; its inertia is looked
up out of the time after each chunk, on rows evenly taken from all chunks. Where it is above 1.02 at
the end, the target was not reached, and the time is less than it would have taken. Both use as many
threads of one process.
"""

import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from contest import OURS, WARM_UP, Aim, Case, Entry, Outcome
from data import inertia, store, stored_blocks
from outofcore import SIZE, SMALL_SIZE

TARGET = 1.02
EPOCHS = 1  # after which the search for the target ends
BATCH = 4096
HELD = 50_000  # rows to judge by
PEER = "scikit-learn"


def judged_rows(path: Path) -> npt.NDArray[Any]:
    """Return rows evenly taken from all chunks."""
    step = max(1, zarr.open_array(str(path), mode="r").shape[0] // HELD)
    return np.concatenate([part[::step] for part in stored_blocks(path)])


class Ours:
    """Fits from the path."""

    def __init__(self, path: Path, n_clusters: int, judged: Path, goal: float) -> None:
        self._path = path
        self._n_clusters = n_clusters
        self._rows = np.load(judged)
        self._goal = goal

    def run(self, number: int) -> Any:
        """Fit with the number of the round as seed."""
        from dkmeans import MiniBatchKMeans

        seed = number if number != WARM_UP else 99
        model = MiniBatchKMeans(self._n_clusters, random_state=seed, compute_labels=False)
        return model.fit(str(self._path))

    def facts(self, result: Any) -> dict[str, Any]:
        """Return inertia and passes."""
        found = inertia(self._rows, result.cluster_centers_)
        return {"of the full fit": found / self._goal, "passes": result.n_passes_}


class Partial:
    """Feeds chunks to scikit-learn until the target is reached."""

    def __init__(
        self, path: Path, n_clusters: int, judged: Path, goal: float, batch: int | None
    ) -> None:
        self._path = path
        self._n_clusters = n_clusters
        self._rows = np.load(judged)
        self._goal = goal
        self._batch = batch

    def run(self, number: int) -> dict[str, Any]:
        """Fit; tell of the seconds that it took, without those of looking."""
        from sklearn.cluster import MiniBatchKMeans

        model = MiniBatchKMeans(self._n_clusters, random_state=number)
        seconds, ratio, n = 0.0, np.inf, 0
        for _ in range(EPOCHS):
            start = time.perf_counter()
            for chunk in stored_blocks(self._path):
                size = self._batch or len(chunk)
                for begin in range(0, len(chunk), size):
                    model.partial_fit(chunk[begin : begin + size])
                seconds += time.perf_counter() - start
                ratio = inertia(self._rows, model.cluster_centers_) / self._goal
                n += 1
                if ratio <= TARGET:
                    return {"seconds": seconds, "of the full fit": ratio, "chunks": n}
                start = time.perf_counter()
        return {"seconds": seconds, "of the full fit": ratio, "chunks": n}

    def facts(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return what was told."""
        return dict(result)


def _speed(outcome: Outcome) -> float | None:
    ours = outcome.fact(OURS, "of the full fit") or np.inf
    return outcome.times_faster() if ours <= TARGET else 0.0


def cases(options: Namespace) -> Iterator[Case]:
    """Yield the case."""
    from dkmeans import KMeans

    n, d, k = SMALL_SIZE if options.small else SIZE
    path = store(options.work, n, d, k)
    judged = options.work / f"judged-{n}-{d}-{k}.npy"
    rows = judged_rows(path)
    np.save(judged, rows)
    full = KMeans(k, random_state=0).fit(str(path))
    goal = inertia(rows, full.cluster_centers_)
    given = {"path": path, "n_clusters": k, "judged": judged, "goal": goal}
    entries = [
        Entry(OURS, Ours, given),
        Entry(f"{PEER}, whole chunks", Partial, {**given, "batch": None}, warm=False, rounds=5),
        Entry(
            f"{PEER}, batches of {BATCH}", Partial, {**given, "batch": BATCH}, warm=False, rounds=1
        ),
    ]
    text = f"times faster at {TARGET} of the full fit's inertia (0: dkmeans is not there)"
    aims = [] if options.small else [Aim(text, _speed, 5)]
    yield Case(f"{n:,} x {d}, k = {k}", entries, aims)
