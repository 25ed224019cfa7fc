"""Rounds in which processes of a job are killed, and what they come to.

A job logs when its passes begin and end, so what a bench calls a *phase* can be told from the log.
A round runs a job on a cluster of processes and kills a victim at a moment of the phase that is
drawn at random. Dead workers are replaced by new ones, and the job must go on by itself. If it
ends with an error, a new cluster is started where the scheduler is lost, and the job is done again
from where it was. A round is a hit only if the log shows that the phase lasted when the signal was
sent, and the job was at work; else it is a miss, and tried again. It is right if the result is that
of the undisturbed run, and if nothing else is left behind. One that is not, while the whole machine
stood still for a while, is told apart, and tried again.
"""

import argparse
import itertools
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import distributed
from fault_cluster import Cluster, Process, Watch

import dkmeans

VICTIMS = ("client", "one worker", "all workers", "scheduler")
_TIMEOUT = 240  # seconds from which on a job hangs
STILL = 10  # seconds; if all processes were stopped for so long, what comes of it is no result
_TRIES = 6  # for each round that is asked for

Event = Mapping[str, Any]
Times = list[tuple[str, float]]  # phases, each with the time when it began


class Bench(ABC):
    """Jobs to disturb, what becomes of them undisturbed, and the cluster of the moment."""

    kinds: Mapping[str, Sequence[str]]  # of jobs, by the phases that they have; these take turns
    prepare: Callable[[], object] | None = None  # what workers do first

    def __init__(self, folder: Path) -> None:
        _ = distributed.Worker, dkmeans.KMeans, dkmeans.ingest, dkmeans.quantize  # forks have them
        self.folder = folder
        (folder / "cluster").mkdir()
        self.wanted: dict[str, str] = {}
        self.n_workers = 0
        self._cluster: Cluster | None = None
        self._lasts: dict[tuple[str, str], float] = {}  # seconds, by kind and phase

    @abstractmethod
    def command(self, kind: str, place: Path, *, again: bool) -> list[str]:
        """Return the arguments of a job that works in a folder; `again` after it was killed."""

    @abstractmethod
    def output(self, kind: str, place: Path) -> Path:
        """Return what a job makes there."""

    @abstractmethod
    def digest(self, path: Path) -> str:
        """Return a hash of an output; empty if there is none."""

    @abstractmethod
    def phase(self, event: Event) -> str | None:
        """Return which phase begins with a line of the log, if any."""

    @abstractmethod
    def at_work(self, kind: str, place: Path) -> bool:
        """Return whether a job is at work on its output, or was when it was killed."""

    @abstractmethod
    def can_resume(self, kind: str, place: Path) -> bool:
        """Return whether a job that has failed has left something to go on from."""

    def run(self, words: Sequence[str]) -> None:
        """Run dkmeans in this process."""
        from dkmeans._cli import cli

        cli(list(words), prog_name="dkmeans")

    def begin_cluster(self, n_workers: int | None = None) -> Cluster:
        """Start a cluster instead of the last one, of as many workers by default."""
        self.close()
        self.n_workers = n_workers or self.n_workers
        self._cluster = Cluster(self.folder / "cluster", self.n_workers, self.prepare)
        return self._cluster

    def close(self) -> None:
        """End the cluster."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def learn(self, kind: str) -> str:
        """Run a job undisturbed; return a hash of its output."""
        place = self.folder / f"undisturbed-{kind}"
        place.mkdir()
        job = self._begin(kind, place)
        if job.wait(_TIMEOUT):
            raise SystemExit((place / "shown").read_text())
        self._learn_from(kind, place)
        found = self.digest(self.output(kind, place))
        shutil.rmtree(place)
        return found

    def _learn_from(self, kind: str, place: Path) -> None:
        """Note how long those phases lasted that have ended."""
        for (phase, began), (_, ended) in itertools.pairwise(self.times(place)):
            self._lasts[kind, phase] = ended - began

    def play(self, phase: str, victim: str, kind: str, seed: int) -> dict[str, Any]:
        """Play one round; return what happened."""
        place = Path(tempfile.mkdtemp(prefix="round-", dir=self.folder))
        known: dict[str, Any] = {"workers": self.n_workers, "phase": phase, "victim": victim}
        known |= {"job": kind, "seed": seed, "hit": False, "left": []}
        start, watch = time.monotonic(), Watch()
        job = self._begin(kind, place)
        try:
            after = random.Random(seed).uniform(0, self._lasts[kind, phase])  # noqa: S311 - a moment
            self._wait(job, place, phase, after)
            at_work, sent = self.at_work(kind, place), time.time()
            self._kill(victim, job)
            status = job.wait(_TIMEOUT, watch)
            if victim == "client":
                at_work = status == -signal.SIGKILL and self.at_work(kind, place)
            known["hit"] = at_work and self.lasted(phase, sent, place)
            self._learn_from(kind, place)  # the machine may have become faster, or slower
            known["survived"] = status == 0
            if victim == "scheduler":
                self.begin_cluster()
            if status:
                known["resumed"] = self.can_resume(kind, place)
                job = self._begin(kind, place, again=True)
                known["status again"] = job.wait(_TIMEOUT, watch)
            known["same"] = self.digest(self.output(kind, place)) == self.wanted[kind]
            known["left"] = self._left(kind, place)
        except TimeoutError:
            known |= {"hung": True, "hit": True}
            self.begin_cluster()
        finally:
            job.kill()
            job.wait()
        known["right"] = known.get("same", False) and not known["left"]
        if victim in ("one worker", "all workers"):
            known["right"] = known["right"] and known["survived"]
        if watch.stood_still > STILL and not known["right"]:
            # Connections break off, and then a job ends with an error: that is no fault of ours.
            known |= {"right": True, "hit": False, "stood_still": round(watch.stood_still)}
        known["seconds"] = round(time.monotonic() - start, 1)
        if not known["right"] or "stood_still" in known:
            known["shown"] = (place / "shown").read_text(errors="replace")[-2000:]
        shutil.rmtree(place, ignore_errors=True)
        return known

    def _begin(self, kind: str, place: Path, *, again: bool = False) -> Process:
        """Start a job; what it does goes to a file."""
        cluster = self._cluster or self.begin_cluster()
        words = self.command(kind, place, again=again)
        words += ["--scheduler", cluster.address, "--log-json", str(place / "log.json")]
        return Process(lambda: self.run(words), place / "shown")

    def _wait(self, job: Process, place: Path, phase: str, seconds: float) -> None:
        """Wait until a phase has lasted for so long."""
        while job.runs:
            began = dict(self.times(place)).get(phase)
            if began is not None:
                time.sleep(max(0.0, began + seconds - time.time()))
                return
            time.sleep(0.005)

    def times(self, place: Path) -> Times:
        """Return the phases that the log of a job tells of, up to now."""
        log = place / "log.json"
        *lines, _ = log.read_text().split("\n") if log.exists() else ("",)
        found: Times = []
        for line in lines:
            event = json.loads(line)
            phase = "over" if event["event"] == "job-ended" else self.phase(event)
            if phase is not None and (not found or found[-1][0] != phase):
                found.append((phase, datetime.fromisoformat(event["time"]).timestamp()))
        return found

    def lasted(self, phase: str, moment: float, place: Path) -> bool:
        """Return whether the log shows that a phase had begun at a moment, and not ended."""
        times = self.times(place)
        for (name, began), (_, ended) in itertools.pairwise([*times, ("", float("inf"))]):
            if name == phase and began <= moment < ended:
                return True
        return False

    def _kill(self, victim: str, job: Process) -> None:
        """Kill a victim, and do what a nanny does."""
        cluster = self._cluster
        assert cluster is not None  # noqa: S101 - the job runs on it
        victims = {
            "client": [job],
            "one worker": cluster.workers[:1],
            "all workers": cluster.workers,
            "scheduler": [cluster.scheduler],
        }[victim]
        for each in victims:
            each.kill()
        if victims[0] in cluster.workers:
            for each in victims:
                each.wait()
            others = [each for each in cluster.workers if each not in victims]
            cluster.workers = others + [cluster.add_worker() for _ in victims]

    def _left(self, kind: str, place: Path) -> list[str]:
        """Return what lies beside the output, or hidden in it."""
        output = self.output(kind, place)
        beside = {path.name for path in place.iterdir()} - {output.name, "shown", "log.json"}
        inside = {path.name for path in output.glob(".*")}
        return sorted(beside | inside)


def table(played: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of each case."""
    cases: dict[tuple[int, str, str], Counter[str]] = {}
    for known in played:
        case = known["workers"], known["phase"], known["victim"]
        figures = cases.setdefault(case, Counter())
        figures["misses"] += not known["hit"]
        figures["hits"] += known["hit"]
        figures["wrong"] += not known["right"]
        figures["stood still"] += "stood_still" in known
        figures["hung"] += known.get("hung", False)
        if known["hit"]:
            figures["survived"] += known.get("survived", False)
            figures["resumed"] += known.get("resumed", False)
    return [{"workers": n, "phase": p, "victim": v, **of} for (n, p, v), of in cases.items()]


def options(description: str, kinds: Mapping[str, Sequence[str]]) -> argparse.ArgumentParser:
    """Return a parser of the options that all such benches have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="true hits of each case")
    parser.add_argument("--workers", type=int, nargs="+", default=[2], help="of clusters")
    parser.add_argument("--phases", nargs="+", choices=list(kinds), default=list(kinds))
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="to work in; a temporary one by default")
    parser.add_argument("--json", type=Path, help="file for all rounds; none by default")
    return parser


def play_all(bench: Bench, given: argparse.Namespace) -> int:
    """Play rounds of all cases until each was hit often enough; return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is put away
    rng = random.Random(given.seed)  # noqa: S311 - moments only
    played: list[dict[str, Any]] = []
    differ: list[str] = []
    kinds = sorted({kind for phase in given.phases for kind in bench.kinds[phase]})
    try:
        for n_workers in given.workers:
            bench.begin_cluster(n_workers)
            for kind in kinds:
                found = bench.learn(kind)
                if bench.wanted.setdefault(kind, found) != found:
                    differ.append(f"{kind}, undisturbed, on {n_workers} workers")
            # Every case early on, should it be ended before.
            cases = itertools.product(range(given.rounds), given.phases, given.victims)
            for number, phase, victim in cases:
                kind = bench.kinds[phase][number % len(bench.kinds[phase])]
                for _ in range(_TRIES):
                    played.append(bench.play(phase, victim, kind, rng.randrange(1 << 32)))
                    print(json.dumps(played[-1]), file=sys.stderr, flush=True)
                    if given.json:
                        told = {"wanted": bench.wanted, "differ": differ, "cases": table(played)}
                        given.json.write_text(json.dumps(told | {"rounds": played}, indent=1))
                    if played[-1]["hit"]:
                        break
    finally:
        bench.close()
    for case in table(played):
        print(" ".join(f"{name}={value}" for name, value in case.items()))
    print(*differ, sep="\n", end="")
    return int(bool(differ) or not all(known["right"] for known in played))
