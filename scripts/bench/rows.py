"""Fit a table in Zarr that no worker can hold, and compare with scikit-learn where it can.

The table is a mixture of Gaussian clusters, made once in chunks of 16 MiB and kept. KMeans and
MiniBatchKMeans are fitted from its path by worker processes with a memory limit. Then the first
rows are fitted in memory beside scikit-learn, with the same seeds.

    python scripts/bench/rows.py TABLE.zarr --rows 32000000 --sorted
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from distributed import Client, LocalCluster
from measure import MIB, machine, table
from sklearn.cluster import KMeans as SklearnKMeans

from dkmeans import KMeans, MiniBatchKMeans

CHUNK = 1 << 17  # rows: 16 MiB of 32 float32 features
SPREAD, NOISE = 3, 2  # of the means of clusters, and of rows around them


def make(path: Path, n_rows: int, n_features: int, n_clusters: int, *, in_order: bool) -> None:
    """Write the table, cluster after cluster or mixed."""
    means = np.random.default_rng(0).normal(0, SPREAD, (n_clusters, n_features))
    means = means.astype(np.float32)
    array = zarr.create_array(
        str(path),
        shape=(n_rows, n_features),
        chunks=(min(CHUNK, n_rows), n_features),
        dtype="f4",
        compressors=None,
        config={"write_empty_chunks": True},
    )
    for start in range(0, n_rows, CHUNK):
        stop = min(start + CHUNK, n_rows)
        rng = np.random.default_rng([1, start])
        if in_order:
            labels = np.arange(start, stop) * n_clusters // n_rows
        else:
            labels = rng.integers(0, n_clusters, stop - start)
        noise = rng.standard_normal((stop - start, n_features), dtype=np.float32)
        array[start:stop] = means[labels] + NOISE * noise


@contextmanager
def peaks() -> Iterator[dict[str, int]]:
    """Watch the resident memory of this process and its children; the result fills up meanwhile."""
    found: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        own = psutil.Process()
        while not done.wait(0.05):
            for process in (own, *own.children(recursive=True)):
                try:
                    resident = process.memory_info().rss
                except psutil.Error:  # it has ended
                    continue
                name = "client" if process == own else "worker"
                found[name] = max(found.get(name, 0), resident)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Call a function; return what it returned, and the seconds."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def fit_stored(path: Path, options: argparse.Namespace) -> list[list[str]]:
    """Fit both estimators from the path, on workers; return rows of figures."""
    lines = []
    quiet = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(
            n_workers=options.workers,
            threads_per_worker=1,
            memory_limit=options.memory_limit,
            host="127.0.0.1",
            scheduler_kwargs=quiet,
        ) as cluster,
        Client(cluster),
        peaks() as peak,
    ):
        for kind in (KMeans, MiniBatchKMeans):
            extra = {"compute_labels": False} if kind is MiniBatchKMeans else {}
            model = kind(options.clusters, random_state=0, **extra)
            _, seconds = timed(lambda model=model: model.fit(str(path)))
            n_rows = zarr.open_array(str(path), mode="r").shape[0]
            inertia = -model.score(str(path)) / n_rows
            figures = [f"{seconds:.1f} s", str(model.n_passes_), f"{inertia:.4f}"]
            lines.append([kind.__name__, *figures])
        print(", ".join(f"{name} peak {value / MIB:.0f} MiB" for name, value in peak.items()))
    return lines


def fit_in_memory(path: Path, options: argparse.Namespace) -> list[list[str]]:
    """Fit the first rows in memory, beside scikit-learn; return rows of figures."""
    rows = zarr.open_array(str(path), mode="r")[: options.in_memory]
    lines, found = [], {}
    for name, kind in (("KMeans", KMeans), ("scikit-learn", SklearnKMeans)):
        runs = [
            timed(lambda kind=kind, seed=seed: kind(options.clusters, random_state=seed).fit(rows))
            for seed in range(options.seeds)
        ]
        found[name] = statistics.mean(model.inertia_ for model, _ in runs)
        seconds = statistics.median(seconds for _, seconds in runs)
        n_iter = statistics.median(model.n_iter_ for model, _ in runs)
        lines.append([name, f"{seconds:.1f} s", f"{n_iter:g}", f"{found[name] / len(rows):.4f}"])
    print(f"In memory: {found['KMeans'] / found['scikit-learn']:.4f} of scikit-learn's inertia.")
    return lines


def main() -> None:
    """Make, fit and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path, help="made if it does not exist; any (n, d) float32")
    parser.add_argument("--rows", type=int, default=32_000_000)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--clusters", type=int, default=64)
    parser.add_argument("--sorted", action="store_true", help="make it cluster after cluster")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory-limit", default="1.5GiB")
    parser.add_argument("--in-memory", type=int, default=1_000_000, help="rows; 0 for none")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not options.table.exists():
        size = options.rows, options.features, options.clusters
        make(options.table, *size, in_order=options.sorted)
    print(json.dumps(machine(), indent=1))
    print(table(["stored", "time", "passes", "inertia a row"], fit_stored(options.table, options)))
    if options.in_memory:
        lines = fit_in_memory(options.table, options)
        print(table(["in memory", "time", "iterations", "inertia a row"], lines))


if __name__ == "__main__":
    main()
