"""Run huge jobs on a cluster, and hold what its processes had in memory against the plan.

    python scripts/bench/plan.py FOLDER --out plan.json

The peak of each process is the kernel's own note, so that no moment is missed; what was spilled to
disk is the sum that workers keep, and pauses and lost workers are those that the scheduler noted.
The seconds that the plan tells are compared too. Exit status 1 if a worker had more than planned,
if a plan is far above what was had, or if a worker spilled, paused or was lost.

The data are made in FOLDER unless they are there (see `repeated.py`), and take little of the disk;
a reduced picture takes up to its pixels in bytes, for a while.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measure import MIB
from memory import peak_of, reset_peak
from repeated import write_picture, write_table

CASES = "picture:1,picture:4,table:4,table:16"
TILES, FEATURES = 64, 32
MOST_ABOVE = 1.5  # times the peak may be planned, of a job that is not small
LEAST = 350 * MIB  # of a worker, most of which is the libraries

_DEFAULT_K = {"picture": 256, "table": 64}
_SMALL = {"picture": 0.001, "table": 0.04}  # gigapixels and GB; the table is not its own sample
_SPILLED = ("disk-write", "bytes")  # as Dask calls it
_COLUMNS = (
    *("data", "workers", "limit", "plan", "peak", "plan / peak", "client: plan / peak"),
    *("seconds: plan / real", "spilled", "paused", "lost"),
)


@dataclass(frozen=True)
class Case:
    """A job: "picture" or "table", gigapixels or GB, workers, and what they may use."""

    kind: str
    size: float
    workers: int
    limit: str
    k: int
    folder: Path
    output: str

    @property
    def title(self) -> str:
        """What it is about."""
        unit, of = ("gigapixels", "colours") if self.kind == "picture" else ("GB", "clusters")
        return f"{self.kind} of {self.size:g} {unit}, {self.k} {of}"

    def data(self) -> Path:
        """Return the data, which are made unless they are there."""
        suffix = "tif" if self.kind == "picture" else "zarr"
        path = self.folder / f"{self.kind}-{self.size:g}.{suffix}"
        if not path.exists():
            draft = self.folder / f"draft.{suffix}"
            if self.kind == "picture":
                side = round((self.size * 1e9) ** 0.5)
                write_picture(draft, side, side, TILES, 1 << 24)
            else:
                shutil.rmtree(draft, ignore_errors=True)
                write_table(draft, round(self.size * 1e9), FEATURES, self.k)
            draft.rename(path)
        return path


@dataclass(frozen=True)
class Found:
    """What was planned and what was; bytes and seconds. All of the latter 0 if it was refused."""

    title: str
    workers: int
    limit: int
    fits: bool
    planned: int
    planned_client: int
    planned_seconds: tuple[float, float]
    peak: int = 0
    peak_client: int = 0
    seconds: float = 0.0
    spilled: int = 0
    paused: int = 0
    lost: int = 0

    def complaints(self) -> list[str]:
        """Return what is wrong."""
        if not self.fits:
            return []
        wrong = [
            f"{what} had {peak / MIB:.0f} MiB, and {plan / MIB:.0f} were planned"
            for what, plan, peak in (
                ("a worker", self.planned, self.peak),
                ("the client", self.planned_client, self.peak_client),
            )
            if peak > plan or plan > max(MOST_ABOVE * peak, LEAST)
        ]
        told = ("spilled", "paused", "lost")
        return wrong + [f"{name}: {getattr(self, name)}" for name in told if getattr(self, name)]


def do(case: Case) -> Found:
    """Plan a case and do it, unless it would be refused. To be called in a process of its own."""
    from distributed import Client, LocalCluster

    import dkmeans

    data, output = case.data(), case.folder / f"reduced.{case.output}"
    with (
        LocalCluster(
            n_workers=case.workers,
            threads_per_worker=1,
            memory_limit=case.limit,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        ) as cluster,
        Client(cluster) as client,
    ):
        options = {"n_colors": case.k} if case.kind == "picture" else {"n_clusters": case.k}
        place = output if case.kind == "picture" else None
        plan = dkmeans.plan(data, place, calibrate=False, **options)
        pids = [os.getpid(), *client.run(os.getpid).values()]
        for pid in pids:
            reset_peak(pid)
        start = time.perf_counter()
        if plan.fits and case.kind == "picture":
            dkmeans.quantize(data, output, n_colors=case.k, overwrite=True)
        elif plan.fits:
            dkmeans.KMeans(case.k, random_state=0).fit(str(data))
        seconds = time.perf_counter() - start
        own, *workers = map(peak_of, pids)
        # What is tried out would count in the peak.
        told = dkmeans.plan(data, place, **options).seconds or (0.0, 0.0)
        found = Found(
            *(case.title, case.workers, plan.memory_limit or 0, plan.fits),
            *(plan.memory_worker, plan.memory_client, told),
        )
        if plan.fits:
            had = {"peak": max(workers), "peak_client": own, "seconds": seconds}
            found = replace(found, **had, **troubles(client))
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)
    return found


def compile_kernels(folder: Path) -> None:
    """Do small jobs, so that what a first job compiles is there. For a process of its own."""
    import dkmeans

    picture, table = (
        Case(kind, size, 1, "", _DEFAULT_K[kind], folder, "").data()
        for kind, size in _SMALL.items()
    )
    dkmeans.quantize(picture, folder / "warm.zarr", n_colors=_DEFAULT_K["picture"], overwrite=True)
    shutil.rmtree(folder / "warm.zarr")
    dkmeans.KMeans(_DEFAULT_K["table"]).fit(str(table))


def troubles(client: Any) -> dict[str, int]:
    """Return the bytes that workers spilled, and how often one paused or was lost."""

    def spilled(dask_worker: Any) -> int:
        return int(getattr(dask_worker.data, "cumulative_metrics", {}).get(_SPILLED, 0))

    events = [event for topic in client.get_events().values() for _, event in topic]
    actions = [event for event in events if isinstance(event, dict)]
    return {
        "spilled": sum(client.run(spilled).values()),
        "paused": sum(event.get("status") == "paused" for event in actions),
        "lost": sum(event.get("action") == "remove-worker" for event in actions) // 2,  # told twice
    }


def as_row(found: Found) -> str:
    """Return a row of the table."""
    start = f"| {found.title} | {found.workers} | {found.limit / MIB:.0f} | "
    start += f"{found.planned / MIB:.0f} | "
    if not found.fits:
        return start + "refused | | | | | |"
    least, most = found.planned_seconds
    return start + (
        f"{found.peak / MIB:.0f} | {found.planned / found.peak:.2f} | "
        f"{found.planned_client / MIB:.0f} / {found.peak_client / MIB:.0f} | "
        f"{least:.0f} to {most:.0f} / {found.seconds:.0f} | "
        f"{found.spilled / MIB:.0f} | {found.paused} | {found.lost} |"
    )


def cases(options: argparse.Namespace) -> list[Case]:
    """Return the cases that are wanted."""
    wanted = []
    for each in options.cases.split(","):
        kind, _, size = each.partition(":")
        if kind not in _DEFAULT_K:
            raise SystemExit(f"{each!r} is no case; expected picture:SIZE or table:SIZE")
        k = options.k or _DEFAULT_K[kind]
        where = options.limit, k, options.folder, options.output
        wanted += [Case(kind, float(size), workers, *where) for workers in options.workers]
    return wanted


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all cases, print the table and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for data, kept, and for outputs, removed")
    parser.add_argument("--cases", default=CASES, help="gigapixels and GB; default: %(default)s")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--limit", default="1GiB", help="of a worker; default: %(default)s")
    parser.add_argument("-k", type=int, help="colours (256) and clusters (64)")
    parser.add_argument("--output", choices=["png", "tif", "zarr"], default="png")
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")
    results = []
    wrong = []
    print(f"| {' | '.join(_COLUMNS)} |\n|---|{'---:|' * (len(_COLUMNS) - 1)}")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=1) as processes:
        processes.submit(compile_kernels, options.folder).result()
        for found in processes.map(do, cases(options)):
            print(as_row(found), flush=True)
            results.append(found)
            wrong += [f"{found.title}, {found.workers}: {why}" for why in found.complaints()]
    print(*wrong, sep="\n", file=sys.stderr)
    if options.out:
        told = [asdict(found) | {"wrong": found.complaints()} for found in results]
        options.out.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
