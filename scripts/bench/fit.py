"""Fits with the defaults of both libraries, in memory, to where they end by themselves.

Each round has another seed: 0, 1, 2 ... Times are medians and inertias are means over them.
"""

from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from contest import OURS, WARM_UP, Aim, Case, Entry, Outcome
from data import inertia, mixture, patches

MIXTURE, PATCHES = (1_000_000, 32, 64), (500_000, 100)
SMALL_MIXTURE, SMALL_PATCHES = (4000, 32, 8), (3000, 8)
PEER = "scikit-learn"
MAX_ROUNDS = 5
MAX_INERTIA, MIN_SPEED = 1.001, 8.0  # as ratios to scikit-learn's


class Fit:
    """Fits the rows of a file."""

    def __init__(self, library: str, rows: Path, n_clusters: int) -> None:
        module = import_module("dkmeans" if library == OURS else "sklearn.cluster")
        self._estimator = module.KMeans
        self._rows = np.load(rows)
        self._n_clusters = n_clusters
        self._short = {} if library == OURS else {"max_iter": 3}  # of a warm-up, if that is long

    def run(self, number: int) -> Any:
        """Fit with the number of the round as seed."""
        seed, options = (number, {}) if number != WARM_UP else (99, self._short)
        return self._estimator(self._n_clusters, random_state=seed, **options).fit(self._rows)

    def facts(self, result: Any) -> dict[str, Any]:
        """Return inertia, iterations and passes."""
        told = {
            "inertia": inertia(self._rows, result.cluster_centers_),
            "iterations": result.n_iter_,
        }
        if hasattr(result, "n_passes_"):
            told["passes"] = result.n_passes_
        return told


def inertia_ratio(outcome: Outcome, peer: str = PEER) -> float | None:
    """Return our mean inertia as a multiple of a peer's."""
    if peer not in outcome.trials:
        return None
    ours, theirs = (outcome.fact(name, "inertia") for name in (OURS, peer))
    return ours / theirs if ours is not None and theirs else None


def cases(options: Namespace) -> Iterator[Case]:
    """Yield the mixture, and the patches if a folder of photographs is given."""
    small = options.small
    n, d, k = SMALL_MIXTURE if small else MIXTURE
    aims = [] if small else [
        Aim("times faster than scikit-learn", lambda o: o.times_faster(PEER), MIN_SPEED),
        Aim("of scikit-learn's inertia", inertia_ratio, MAX_INERTIA, at_least=False),
    ]  # fmt: skip

    def case(name: str, rows: Path, k: int) -> Case:
        given = {"rows": rows, "n_clusters": k}
        entries = [Entry(library, Fit, {"library": library, **given}) for library in (OURS, PEER)]
        return Case(f"{name}, k = {k}", entries, aims, MAX_ROUNDS)

    yield case(f"mixture, {n:,} x {d}", mixture(options.work, n, d, k, "float32"), k)
    if options.photos:
        n, k = SMALL_PATCHES if small else PATCHES
        yield case(f"patches, {n:,} x 64", patches(options.work, options.photos, n), k)
    else:
        print("The patches are left out: --photos FOLDER names photographs to cut them from.\n")
