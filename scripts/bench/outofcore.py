"""Fits of a table that no worker can hold, by two worker processes of 1.5 GiB.

32,000,000 rows of 32 float32 features, a mixture of 64 clusters, in chunks of 16 MiB that are not
compressed. dkmeans and dask-ml read them from Zarr on clusters of the same kind, Spark from Parquet
with as much memory. dask-ml and Spark are stopped at 20 iterations. An estimated time is that of
the start and of one iteration, and 19 times what each of three more took.

A refining pass stands beside reading the same store and dropping it, by the same workers: by zarr,
and by reading the files into one place in memory, which is what the system's cache can give.
"""

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from contest import OURS, WARM_UP, Aim, Case, Entry, Outcome
from data import store, stored_blocks, stored_inertia
from fit import inertia_ratio

SIZE = (32_000_000, 32, 64)
SMALL_SIZE = (400_000, 32, 16)
MEMORY = "1.5GiB"
ITERATIONS = 20
MORE = 4  # iterations of an estimate
PARTS = 16  # tasks of a bare reading
BARE = "bare reading, zarr"

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def start_cluster(n_workers: int) -> Any:
    """Start worker processes of one thread each."""
    from distributed import LocalCluster

    return LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        memory_limit=MEMORY,
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        env=_ONE_THREAD,
    )


def stay_on(core: int) -> None:
    """Let all threads of this process run on one core, and those that they begin."""
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - numbers, no paths
        os.sched_setaffinity(int(thread), {core})


class Clustered:
    """Has workers, each on a core of its own if asked, and is their client while it lives."""

    def __init__(self, path: Path, n_workers: int, *, on_cores: bool = False) -> None:
        from distributed import Client

        self.path = path
        self._stack = ExitStack()
        cluster = self._stack.enter_context(start_cluster(n_workers))
        self.client = self._stack.enter_context(Client(cluster))
        if on_cores:
            workers = self.client.scheduler_info(n_workers=-1)["workers"]
            for core, address in zip(sorted(os.sched_getaffinity(0)), workers, strict=False):
                self.client.run(stay_on, core, workers=[address])

    def close(self) -> None:
        """Stop the workers."""
        self._stack.close()


class Ours(Clustered):
    """Fits from the path, with the defaults."""

    def __init__(self, path: Path, n_workers: int, n_clusters: int) -> None:
        super().__init__(path, n_workers)
        self._n_clusters = n_clusters

    def run(self, number: int) -> Any:
        """Fit with the number of the round as seed."""
        from dkmeans import KMeans

        seed = number if number != WARM_UP else 99
        return KMeans(self._n_clusters, random_state=seed).fit(str(self.path))

    def facts(self, result: Any) -> dict[str, Any]:
        """Return inertia, iterations and passes."""
        return {
            "inertia": stored_inertia(self.path, result.cluster_centers_),
            "iterations": result.n_iter_,
            "passes": result.n_passes_,
        }


def estimate(fit: Callable[[int], Any]) -> dict[str, Any]:
    """Return what a fit of all iterations would take, from fits of a few."""
    seconds = []
    for n in (1, MORE):
        start = time.perf_counter()
        fit(n)
        seconds.append(time.perf_counter() - start)
    each = (seconds[1] - seconds[0]) / (MORE - 1)
    whole = seconds[0] + (ITERATIONS - 1) * each
    return {"seconds": whole, "estimated": 1, "measured": seconds, "iterations": ITERATIONS}


class DaskML(Clustered):
    """Fits with dask-ml's defaults, but for the number of iterations."""

    def __init__(self, path: Path, n_workers: int, n_clusters: int, *, whole: bool) -> None:
        super().__init__(path, n_workers)
        self._n_clusters = n_clusters
        self._whole = whole

    def run(self, number: int) -> Any:
        """Fit, or fit a few times to estimate."""
        import dask.array as da
        from dask_ml.cluster import KMeans
        from dask_ml.cluster.k_means import k_init

        rows = da.from_zarr(str(self.path))
        k = self._n_clusters
        if self._whole:
            model = KMeans(k, max_iter=ITERATIONS, random_state=number).fit(rows)
            return model.cluster_centers_, {"iterations": model.n_iter_}
        start = time.perf_counter()
        init = k_init(rows, k, random_state=number)
        begun = time.perf_counter() - start
        told = estimate(lambda n: KMeans(k, init=init, max_iter=n, tol=0).fit(rows))
        return None, {**told, "start": begun, "seconds": told["seconds"] + begun}

    def facts(self, result: Any) -> dict[str, Any]:
        """Return inertia and iterations of a whole fit."""
        centers, told = result
        if centers is not None:
            told["inertia"] = stored_inertia(self.path, centers)
        return dict(told)


class Spark:
    """Fits with Spark's defaults from Parquet; its tasks are threads of one process."""

    def __init__(self, path: Path, n_workers: int, n_clusters: int, *, whole: bool) -> None:
        from pyspark.ml.functions import array_to_vector
        from pyspark.sql import SparkSession

        self._path = path
        self._n_clusters = n_clusters
        self._whole = whole
        parquet = as_parquet(path)
        self._spark = (
            SparkSession.builder.master(f"local[{n_workers}]")
            .config("spark.driver.memory", f"{n_workers * 1536}m")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.ui.enabled", "false")
            .config("spark.local.dir", str(path.parent))
            .getOrCreate()
        )
        self._spark.sparkContext.setLogLevel("ERROR")
        rows = self._spark.read.parquet(str(parquet))
        # As read, the numbers of an array may be null; the estimators refuse that.
        self._rows = rows.select(array_to_vector(rows["features"]).alias("features"))

    def run(self, number: int) -> Any:
        """Fit, or fit a few times to estimate."""
        from pyspark.ml.clustering import KMeans

        make = partial(KMeans, k=self._n_clusters, seed=number)
        if self._whole:
            return make(maxIter=ITERATIONS).fit(self._rows)
        return estimate(lambda n: make(maxIter=n, tol=0.0).fit(self._rows))

    def facts(self, result: Any) -> dict[str, Any]:
        """Return inertia and iterations of a whole fit."""
        if isinstance(result, dict):
            return dict(result)
        return {
            "inertia": stored_inertia(self._path, np.array(result.clusterCenters())),
            "iterations": result.summary.numIter,
        }

    def close(self) -> None:
        """Stop Spark."""
        self._spark.stop()


def as_parquet(path: Path) -> Path:
    """Return the same table as Parquet, made unless it is there: lists of floats in a column."""
    import pyarrow as pa
    from pyarrow import parquet

    target = path.with_suffix(".parquet")
    if target.exists():
        return target
    schema = pa.schema([("features", pa.list_(pa.float32()))])
    unfinished = path.with_suffix(".parquet-part")
    with parquet.ParquetWriter(unfinished, schema, compression="none") as writer:
        for block in stored_blocks(path):
            ends = np.arange(0, block.size + 1, block.shape[1], dtype=np.int32)
            rows = pa.ListArray.from_arrays(ends, block.ravel())
            writer.write_table(pa.table([rows], schema=schema))
    return unfinished.rename(target)


class Refine(Clustered):
    """Passes of Lloyd's algorithm over all rows: what one more of them takes."""

    def __init__(
        self, path: Path, n_workers: int, n_clusters: int, *, on_cores: bool = False
    ) -> None:
        super().__init__(path, n_workers, on_cores=on_cores)
        array = zarr.open_array(str(path), mode="r")
        self._nbytes = array.nbytes
        self._init = np.asarray(array[:n_clusters])

    def run(self, number: int) -> dict[str, Any]:  # noqa: ARG002 - all rounds are the same
        """Fit from given centres, with few and with more iterations."""
        from dkmeans import KMeans

        found = []
        for n in (1, 1 + MORE):
            model = KMeans(len(self._init), init=self._init, n_init=1, max_iter=n, tol=0)
            start = time.perf_counter()
            model.fit(str(self.path))
            found.append((time.perf_counter() - start, model.n_passes_))
        (less, few), (more, many) = found
        # Without more passes it has ended before: small data do.
        seconds = (more - less) / (many - few) if many > few else more / many
        return {"seconds": seconds, "GB/s": self._nbytes / seconds / 1e9}

    def facts(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return the time of a pass."""
        return dict(result)


class Bare(Clustered):
    """Reads all chunks and drops them."""

    def __init__(self, path: Path, n_workers: int, read: Callable[[str, range], None]) -> None:
        super().__init__(path, n_workers)
        self._read = read
        array = zarr.open_array(str(path), mode="r")
        self._nbytes = array.nbytes
        n = -(-array.shape[0] // array.chunks[0])
        cuts = np.linspace(0, n, PARTS + 1, dtype=int).tolist()
        self._parts = [range(a, b) for a, b in pairwise(cuts)]

    def run(self, number: int) -> float:  # noqa: ARG002 - all rounds are the same
        """Read; return the seconds."""
        start = time.perf_counter()
        tasks = [
            self.client.submit(self._read, str(self.path), part, pure=False) for part in self._parts
        ]
        self.client.gather(tasks)
        return time.perf_counter() - start

    def facts(self, result: float) -> dict[str, Any]:
        """Return the speed."""
        return {"GB/s": self._nbytes / result / 1e9}


def read_arrays(path: str, chunks: range) -> None:
    """Read chunks as zarr gives them."""
    array = zarr.open_array(path, mode="r")
    size = array.chunks[0]
    for i in chunks:
        array[i * size : (i + 1) * size]


def read_files(path: str, chunks: range) -> None:
    """Read the files of chunks, into one place in memory."""
    array = zarr.open_array(path, mode="r")
    place = bytearray(array.chunks[0] * array.shape[1] * array.dtype.itemsize)
    for i in chunks:
        with Path(path, "c", str(i), "0").open("rb", buffering=0) as file:
            file.readinto(place)


def _share_of_reading(outcome: Outcome) -> float | None:
    return outcome.times_faster(BARE)


def _least_inertia(outcome: Outcome) -> float | None:
    ratios = [inertia_ratio(outcome, name) for name in outcome.trials if name != OURS]
    return max((ratio for ratio in ratios if ratio is not None), default=None)


def cases(options: Namespace) -> Iterator[Case]:
    """Yield the fits, and a pass beside bare reading."""
    n, d, k = SMALL_SIZE if options.small else SIZE
    path = store(options.work, n, d, k)
    place = {"path": path, "n_workers": options.threads}
    sized = {**place, "n_clusters": k}
    long = {**sized, "whole": not options.estimate}
    entries = [
        Entry(OURS, Ours, sized, rounds=3),
        Entry("dask-ml", DaskML, long, warm=False, rounds=1),
        Entry("Spark", Spark, long, "Spark", warm=False, rounds=1),
    ]
    aims = [
        Aim("times faster than dask-ml", lambda o: o.times_faster("dask-ml"), 25),
        Aim("times faster than Spark", lambda o: o.times_faster("Spark"), 10),
        Aim("of the best peer's inertia", _least_inertia, 1.0, at_least=False),
    ]
    yield Case(f"fit, {n:,} x {d}, k = {k}", entries, [] if options.small else aims)
    entries = [
        Entry(OURS, Refine, sized),
        Entry(BARE, Bare, {**place, "read": read_arrays}),
        Entry("bare reading, files", Bare, {**place, "read": read_files}),
    ]
    aims = [Aim("of the speed of bare reading by zarr", _share_of_reading, 0.7)]
    yield Case(f"a refining pass, {n:,} x {d}, k = {k}", entries, [] if options.small else aims)
