"""Run jobs on one cluster for hours while its workers are killed at random; see what grows.

    python scripts/bench/soak.py FOLDER --minutes 120 --out soak.json

A scheduler and workers of their own run on loopback. After each job the memory, open files and
objects of client, scheduler and workers are noted; in the end a line is laid through what came
after the warm-up. Exit status 1 if a result differed from the first, if something grew, or if a
job failed or Ctrl-C ended it early; what was noted until then is written in any case.

A scheduler of Dask's keeps something of each graph, whoever sends it. `--bare` does as many rounds
again on a new cluster, with as many graphs and tasks as the jobs had, but of plain functions; what
grew by no more than there is then not counted as grown.
"""

import argparse
import json
import math
import operator
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
from cluster_jobs import JOBS, make_data
from distributed import Client, span

WARM_UP = 0.34  # share of the samples that is left out
# What may be noise of the allocator, for each job; and open files and objects may not grow at all.
TOLERATED = {"memory": 24 << 10, "files": 0.01, "objects": 0.5}
SIGMAS = 3.0  # from which on a slope is one
LEAST = 4  # values that a line is laid through
TOLD = 50  # objects more of a type, from which on it is told


@contextmanager
def cluster(workers: int, memory: str) -> Iterator[tuple[psutil.Process, psutil.Process, str]]:
    """Run a scheduler and the nanny of so many workers; yield both and the address."""
    base = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    # Workers are killed at random: a task that was there often is not to blame.
    env = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1000"}
    scheduler = subprocess.Popen(  # noqa: S603 - Python itself
        [*base, "--port", "0", "--no-dashboard"], stderr=subprocess.PIPE, text=True, env=env
    )
    told = scheduler.stderr or ()
    address = next(line.split()[-1] for line in told if "Scheduler at:" in line)
    threading.Thread(target=lambda: deque(told, 0), daemon=True).start()
    options = ["--nworkers", str(workers), "--nthreads", "1", "--memory-limit", memory]
    nanny = subprocess.Popen(  # noqa: S603 - see above
        [sys.executable, "-m", "distributed.cli.dask_worker", address, *options, "--no-dashboard"],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(scheduler.pid), psutil.Process(nanny.pid), address
    finally:
        for process in (nanny, scheduler):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


def worker_processes(nanny: psutil.Process) -> list[psutil.Process]:
    """List the worker processes that live now."""
    found = []
    for process in nanny.children(recursive=True):
        with suppress(psutil.Error):  # it has just been killed
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_at_random(
    nanny: psutil.Process, every: float, rng: random.Random, over: threading.Event, log: list[float]
) -> None:
    """Kill a worker now and then until it is over."""
    while not over.wait(rng.expovariate(1 / every)):
        with suppress(psutil.Error, IndexError):
            rng.choice(worker_processes(nanny)).kill()
            log.append(time.time())


def sizes_within(dask_scheduler: Any) -> dict[str, int]:
    """Return the length of all that has one, in the scheduler and in its extensions."""
    parts = {"": dask_scheduler, **{f"{k}.": v for k, v in dask_scheduler.extensions.items()}}
    found = {}
    for prefix, part in parts.items():
        names = set(vars(part))
        for kind in type(part).__mro__:
            names.update(getattr(kind, "__slots__", ()))
        for name in names:
            with suppress(Exception):
                found[f"{prefix}{name}"] = len(getattr(part, name))
    return found


def types_within() -> dict[str, int]:
    """Count the objects of each type."""
    import gc

    gc.collect()
    return dict(Counter(type(thing).__qualname__ for thing in gc.get_objects()).most_common(400))


def sample(client: Client, scheduler: psutil.Process, nanny: psutil.Process) -> dict[str, float]:
    """Return what the processes hold now."""
    own = psutil.Process()
    found: dict[str, float] = {"client objects futures": len(client.futures)}
    for name, process in (("client", own), ("scheduler", scheduler), ("nanny", nanny)):
        found[f"{name} memory"] = process.memory_info().rss
        found[f"{name} files"] = process.num_fds()
    alive = []
    for process in worker_processes(nanny):
        with suppress(psutil.Error):
            alive.append((process.create_time(), process.memory_info().rss, process.num_fds()))
    if alive:  # the one that has lived longest tells most
        _, found["worker memory"], found["worker files"] = min(alive)
        found["worker age"] = time.time() - min(alive)[0]
    inside = client.run_on_scheduler(sizes_within)
    return found | {f"scheduler objects {name}": size for name, size in inside.items()}


def slope(values: Sequence[float]) -> tuple[float, float]:
    """Return by how much values grow each time, and the standard error of that."""
    x = np.arange(len(values), dtype=np.float64)
    if len(values) < LEAST or np.ptp(values) == 0:
        return 0.0, 0.0
    (a, _), covariance = np.polyfit(x, np.asarray(values, np.float64), 1, cov=True)
    return float(a), float(np.sqrt(covariance[0, 0]))


def growth(samples: Sequence[dict[str, float]], name: str) -> tuple[float, float]:
    """Return the slope of what was noted under a name after the warm-up, and its error."""
    kept = samples[int(len(samples) * WARM_UP) :]
    return slope([each.get(name, 0.0) for each in kept])


def verdict(samples: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return what has grown after the warm-up, with its growth a job."""
    grown = {}
    for name in samples[-1] if samples else ():
        kind = name.split()[1]
        # Workers are killed: how much the oldest holds goes up and down with its age.
        if kind not in TOLERATED or name.startswith("worker"):
            continue
        a, error = growth(samples, name)
        if a > TOLERATED[kind] and a > SIGMAS * error:
            grown[name] = {"a_job": a, "standard_error": error, "last": samples[-1][name]}
    return grown


def grown_types(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return of which types there are more objects than before, most first."""
    more = {name: n - before.get(name, 0) for name, n in after.items()}
    return {name: n for name, n in sorted(more.items(), key=lambda item: -item[1])[:12] if n > TOLD}


def round_of_jobs(folder: Path) -> dict[str, str]:
    """Do each job once; return hashes of what came out."""
    return {name: job(folder) for name, job in JOBS.items()}


@contextmanager
def noting(client: Client, sizes: list[int]) -> Iterator[None]:
    """Note how many tasks each graph has that goes to the cluster."""
    get = client.get

    def noted(graph: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(graph))
        return get(graph, *args, **kwargs)

    client.get = noted
    try:
        yield
    finally:
        del client.get


@cache
def own_span() -> dict[str, Any]:
    """Return an annotation with one of Dask's spans: one for each graph would be kept."""
    with span("bare"):
        return {"span": dask.get_annotations()["span"]}


def run_bare(client: Client, n_tasks: int) -> None:
    """Run a graph of so many tasks, with nothing of dkmeans in it, in one span, and release it."""
    name = uuid.uuid4().hex
    # Groups of tasks are by the names before the numbers: as many as a pass has.
    leaves = [f"leaf-{name}-{i}" for i in range(n_tasks - 2)]
    graph: dict[str, Any] = {f"root-{name}": (abs, 1)}
    graph |= {key: (operator.add, f"root-{name}", i) for i, key in enumerate(leaves)}
    graph[f"sum-{name}"] = (sum, leaves)
    with dask.annotate(**own_span()):
        futures = client.get(graph, [*leaves, f"sum-{name}"], sync=False, retries=2)
    client.gather(futures[-1])
    for future in futures:  # before the next graph, as what was computed is
        future.release()


def run(
    arguments: argparse.Namespace,
    one_round: Callable[[Client], dict[str, str]],
    most_rounds: float = math.inf,
) -> dict[str, Any]:
    """Repeat a round on a cluster of its own until the time is over; return what was seen."""
    rng = random.Random(arguments.seed)  # noqa: S311 - no secret
    samples, kills, over = [], [], threading.Event()
    results: dict[str, set[str]] = {}
    before: dict[str, dict[str, int]] = {}
    after: dict[str, dict[str, int]] = {}
    ended_by = "time"
    with (
        cluster(arguments.workers, arguments.memory_limit) as (scheduler, nanny, address),
        Client(address) as client,
    ):
        client.wait_for_workers(arguments.workers, timeout=60)
        killer = threading.Thread(
            target=kill_at_random, args=(nanny, arguments.kill_every, rng, over, kills)
        )
        killer.start()
        end = time.monotonic() + 60 * arguments.minutes
        warm = time.monotonic() + 60 * arguments.minutes * WARM_UP
        try:
            while time.monotonic() < end and len(samples) < most_rounds:
                for name, found in one_round(client).items():
                    results.setdefault(name, set()).add(found)
                samples.append(sample(client, scheduler, nanny))
                if not before and (time.monotonic() > warm or len(samples) > WARM_UP * most_rounds):
                    before = types_of_both(client)
            after = types_of_both(client)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - hours of samples are kept
            ended_by = f"{type(error).__name__}: {error}"
        finally:
            over.set()
            killer.join()
    return {
        "ended_by": ended_by,
        "rounds": len(samples),
        "kills": len(kills),
        "results": {name: sorted(found) for name, found in results.items()},
        "grown": verdict(samples),
        "grown_types": {who: grown_types(before.get(who, {}), after[who]) for who in after},
        "first": samples[0] if samples else {},
        "last": samples[-1] if samples else {},
        "samples": samples,
    }


def types_of_both(client: Client) -> dict[str, dict[str, int]]:
    """Count the objects of each type in the client and in the scheduler."""
    return {"client": types_within(), "scheduler": client.run_on_scheduler(types_within)}


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run jobs, and then, if asked for, as many tasks without dkmeans; return what was seen."""
    folder, sizes = arguments.folder, []  # type: Path, list[int]
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "table.zarr").exists():
        make_data(folder, arguments.side, arguments.rows)

    def ours(client: Client) -> dict[str, str]:
        sizes.clear()
        with noting(client, sizes):
            return round_of_jobs(folder)

    def bare(client: Client) -> dict[str, str]:
        for n_tasks in sizes:
            run_bare(client, n_tasks)
        return {}

    found = {"processors": os.cpu_count(), **run(arguments, ours)}
    found["tasks"] = sizes
    if arguments.bare and found["ended_by"] == "time":
        # As many rounds: logs of Dask's that are full at some point grow as fast then.
        found["bare"] = run(arguments, bare, found["rounds"])
        found["grown"] = beyond(found["grown"], found["samples"], found["bare"]["samples"])
    return found


def beyond(
    grown: dict[str, dict[str, float]],
    ours: Sequence[dict[str, float]],
    bare: Sequence[dict[str, float]],
) -> dict[str, dict[str, float]]:
    """Return what has grown by more than it did without dkmeans."""
    found = {}
    for name, told in grown.items():
        (a, error), (bare_a, bare_error) = (growth(samples, name) for samples in (ours, bare))
        more = a - bare_a
        is_more = more > TOLERATED[name.split()[1]] and more > SIGMAS * np.hypot(error, bare_error)
        if is_more:
            found[name] = told | {"bare_a_job": bare_a, "bare_standard_error": bare_error}
    return found


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for data and outputs")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory-limit", default="1GiB", help="of each worker")
    parser.add_argument("--kill-every", type=float, default=20, help="seconds, on average")
    parser.add_argument("--side", type=int, default=1024, help="of the picture, in pixels")
    parser.add_argument("--rows", type=int, default=400_000, help="of the table")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bare", action="store_true",
                        help="then do as many tasks without dkmeans")  # fmt: skip
    parser.add_argument("--out", type=Path, help="where to write all samples, as JSON")
    arguments = parser.parse_args()
    found = soak(arguments)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))
    differ = [name for name, hashes in found["results"].items() if len(hashes) > 1]
    for each in (found, found.get("bare", {})):
        each.pop("samples", None)
    print(json.dumps(found, indent=1))
    print("differ:", differ or "none", "| grown:", list(found["grown"]) or "nothing")
    is_whole = all(each["ended_by"] == "time" for each in (found, found.get("bare", found)))
    sys.exit(1 if differ or found["grown"] or not is_whole else 0)


if __name__ == "__main__":
    main()
