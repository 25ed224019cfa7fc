"""Ten iterations from given centres, in memory.

All start from the same rows of a Gaussian mixture, which has a quarter as many clusters as are
asked for, so that ten iterations are not the last. All use as many threads. FAISS iterates on all
rows (its default is a sample), with its centres in float32.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from contest import OURS, Aim, Case, Entry, Outcome
from data import inertia, mixture

ITERATIONS = 10
# Rows, features, clusters, and how many times faster than the fastest peer dkmeans is to be.
SIZES = (
    (1_000_000, 3, 256, 3.0),
    (1_000_000, 8, 16, 3.0),
    (1_000_000, 16, 64, 2.5),
    (500_000, 64, 100, 1.4),
    (200_000, 128, 256, 1.0),
    (50_000, 768, 1000, 1.0),
)
SMALL_SIZES = ((3000, 3, 16, 0.0), (2000, 40, 8, 0.0))
BYTES = (1_000_000, 12, 32)
SMALL_BYTES = (2000, 12, 8)

Rows = npt.NDArray[Any]


class Fitted(NamedTuple):
    """What a library found."""

    centers: Rows
    n_iter: int


def by_estimator(estimator: Any, rows: Rows, init: Rows, **options: Any) -> Fitted:
    """Fit a class that has scikit-learn's interface."""
    model = estimator(len(init), init=init, n_init=1, max_iter=ITERATIONS, tol=0, **options)
    model.fit(rows)
    return Fitted(model.cluster_centers_, model.n_iter_)


def by_dkmeans(rows: Rows, init: Rows) -> Fitted:
    """Fit with dkmeans."""
    from dkmeans import KMeans

    return by_estimator(KMeans, rows, init)


def by_sklearn(rows: Rows, init: Rows) -> Fitted:
    """Fit with scikit-learn."""
    from sklearn.cluster import KMeans

    return by_estimator(KMeans, rows, init)


def by_elkan(rows: Rows, init: Rows) -> Fitted:
    """Fit with scikit-learn's bounds."""
    from sklearn.cluster import KMeans

    return by_estimator(KMeans, rows, init, algorithm="elkan")


def by_intelex(rows: Rows, init: Rows) -> Fitted:
    """Fit with scikit-learn-intelex."""
    from sklearnex.cluster import KMeans

    return by_estimator(KMeans, rows, init)


def by_faiss(rows: Rows, init: Rows) -> Fitted:
    """Fit with FAISS, on all rows."""
    import faiss

    n_clusters, n_features = init.shape
    model = faiss.Kmeans(
        n_features,
        n_clusters,
        niter=ITERATIONS,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    model.train(rows, init_centroids=init)
    return Fitted(np.asarray(model.centroids), ITERATIONS)


class Lloyd:
    """Iterates over rows of a file, from some of them that are evenly chosen."""

    def __init__(self, fit: Callable[[Rows, Rows], Fitted], rows: Path, n_clusters: int) -> None:
        self._fit = fit
        self._rows = np.load(rows)
        init = self._rows[:: len(self._rows) // n_clusters][:n_clusters]
        self._init = init.astype(np.float64 if init.dtype == np.uint8 else init.dtype)
        self._inertia: float | None = None

    def run(self, number: int) -> Fitted:  # noqa: ARG002 - all rounds are the same
        """Fit."""
        return self._fit(self._rows, self._init)

    def facts(self, result: Fitted) -> dict[str, Any]:
        """Return inertia, iterations and the size of the data."""
        if self._inertia is None:  # the same in all rounds
            self._inertia = inertia(self._rows, result.centers)
        return {
            "inertia": self._inertia,
            "iterations": result.n_iter,
            "data": self._rows.nbytes,
        }


def _entry(name: str, fit: Callable[[Rows, Rows], Fitted], rows: Path, k: int) -> Entry:
    peer = name if name in ("scikit-learn-intelex", "FAISS") else ""
    return Entry(name, Lloyd, {"fit": fit, "rows": rows, "n_clusters": k}, peer)


def _ours_in_floats(outcome: Outcome) -> float:
    return outcome.seconds(f"{OURS}, float32") / outcome.seconds(OURS)


def memory(outcome: Outcome, name: str) -> float:
    """Return the bytes of the data and what a fit takes besides, at least of all rounds."""
    added = min(trial.added for trial in outcome.trials[name])
    return added + (outcome.fact(name, "data") or 0)


def _share_of_memory(outcome: Outcome) -> float:
    return memory(outcome, OURS) / memory(outcome, f"{OURS}, float32")


def cases(options: Namespace) -> Iterator[Case]:
    """Yield a case for each size and dtype."""
    folder: Path = options.work
    for n, d, k, aim in SMALL_SIZES if options.small else SIZES:
        text = "times faster than the fastest peer"
        aims = [Aim(text, Outcome.times_faster, aim)]
        rows = mixture(folder, n, d, k // 4, "float32")
        fits = {
            OURS: by_dkmeans,
            "scikit-learn": by_sklearn,
            "scikit-learn, elkan": by_elkan,
            "scikit-learn-intelex": by_intelex,
            "FAISS": by_faiss,
        }
        entries = [_entry(name, fit, rows, k) for name, fit in fits.items()]
        yield Case(f"{n:,} x {d}, k = {k}, float32", entries, aims)
        rows = mixture(folder, n, d, k // 4, "float64")
        fits = {name: fits[name] for name in (OURS, "scikit-learn", "scikit-learn, elkan")}
        entries = [_entry(name, fit, rows, k) for name, fit in fits.items()]
        aims = [Aim(text, Outcome.times_faster, min(aim, 1.0))]
        yield Case(f"{n:,} x {d}, k = {k}, float64", entries, aims)
    n, d, k = SMALL_BYTES if options.small else BYTES
    rows = mixture(folder, n, d, k // 4, "uint8")
    floats = rows.with_name(rows.name.replace("uint8", "bytes-as-float32"))
    if not floats.exists():
        np.save(floats, np.load(rows).astype(np.float32))
    entries = [
        _entry(OURS, by_dkmeans, rows, k),
        _entry(f"{OURS}, float32", by_dkmeans, floats, k),
        _entry("scikit-learn", by_sklearn, rows, k),
        _entry("scikit-learn, float32", by_sklearn, floats, k),
    ]
    aims = [
        Aim("times faster than float32 of the same", _ours_in_floats, 1.0),
        Aim("of the memory of float32", _share_of_memory, 0.25, at_least=False),
    ]
    yield Case(f"{n:,} x {d}, k = {k}, uint8", entries, aims)
