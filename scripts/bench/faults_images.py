"""Kill processes of image jobs at random moments, and compare bytes with undisturbed runs.

For each phase and each victim (the client, one worker, both workers, the scheduler) as many rounds
as asked for; the kinds of output that have the phase take turns. A round runs `dkmeans quantize`
or `dkmeans ingest` on a cluster of processes and kills the victim at a moment of the phase that is
drawn at random. A dead worker is replaced by a new one, and the job must go on by itself. If it
ends with an error, a new cluster is started where the scheduler is lost, and the same command runs
with `--resume`. A round counts only if the log of the job shows that the phase lasted when the
signal was sent, and its workspace that it was at work; else it is a miss, and tried again. It is
right if the bytes of all files of the output are those of the undisturbed run, and if nothing else
is left behind.

    python scripts/bench/faults_images.py --rounds 5 --json faults.json

Phases: ingest (of `dkmeans ingest`), count, fit, write (of `quantize`), finish (of both: joining
parts, moving outputs to their names).
"""

import argparse
import hashlib
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from cluster_jobs import picture
from fault_cluster import Cluster
from PIL import Image

OUTPUTS = ("out.png", "out.tif", "labels.zarr", "folder", "store.zarr")
KINDS: dict[str, tuple[str, ...]] = {
    "ingest": OUTPUTS[4:],
    "count": OUTPUTS[:4],
    "fit": OUTPUTS[:4],
    "write": OUTPUTS[:4],
    "finish": OUTPUTS,
}
VICTIMS = ("client", "one worker", "all workers", "scheduler")
_BEGUN = {"count colours": "count", "write": "write", "ingest": "ingest"}  # by name of the pass
_ENDED = {"count colours": "fit", "write": "finish", "ingest": "finish"}
_TIMEOUT = 240  # seconds from which on a job hangs
_TRIES = 6  # for each round that is asked for

Times = list[tuple[str, float]]  # phases, each with the time when it began


def make_sources(folder: Path, side: int, photos: int) -> None:
    """Write a large tiled picture, and photographs that are small."""
    folder.mkdir()
    large = picture(side)
    tifffile.imwrite(folder / "large.tif", large, tile=(512, 512), photometric="rgb")
    rng = np.random.default_rng(1)
    for number in range(photos):
        y, x = rng.integers(0, side - 400, 2)
        Image.fromarray(large[y : y + 300, x : x + 400]).save(folder / f"{number}.png")


def command(kind: str, sources: Path, place: Path) -> list[str]:
    """Return the arguments of dkmeans for a kind of output."""
    output = str(place / kind)
    if kind == "store.zarr":
        return ["ingest", str(sources), output]
    single = kind in ("out.png", "out.tif")
    return ["quantize", str(sources / "large.tif" if single else sources), output, "--colors", "48"]


def begin(arguments: Sequence[str], address: str, place: Path) -> subprocess.Popen[bytes]:
    """Start dkmeans on a cluster; what it does goes to one file, what it shows to another."""
    more = ["--scheduler", address, "--log-json", str(place / "log.json")]
    with (place / "shown").open("ab") as file:
        return subprocess.Popen(  # noqa: S603 - Python itself
            [sys.executable, "-m", "dkmeans", *arguments, *more], stdout=file, stderr=file
        )


def times_of(log: Path) -> Times:
    """Return the phases that a log tells of, up to now."""
    found: Times = []
    if not log.exists():
        return found
    *lines, _ = log.read_text().split("\n")
    for line in lines:
        event = json.loads(line)
        names = {"pass-begun": _BEGUN, "pass-ended": _ENDED}.get(event["event"], {})
        phase = "over" if event["event"] == "job-ended" else names.get(event.get("of_pass", ""))
        if phase is not None:
            found.append((phase, datetime.fromisoformat(event["time"]).timestamp()))
    return found


def digest(path: Path) -> str:
    """Return a hash of the names and bytes of all files of an output; empty if there is none."""
    if not path.exists():
        return ""
    told = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        told.update(file.relative_to(path.parent).as_posix().encode() + file.read_bytes())
    return told.hexdigest()


class Bench:
    """Sources, what becomes of them undisturbed, and the cluster of the moment."""

    def __init__(self, folder: Path, side: int, photos: int) -> None:
        self.folder, self.sources = folder, folder / "sources"
        make_sources(self.sources, side, photos)
        (folder / "cluster").mkdir()
        self.cluster = Cluster(folder / "cluster")
        self.wanted: dict[str, str] = {}
        self.lasts: dict[tuple[str, str], float] = {}  # seconds, by kind and phase

    def close(self) -> None:
        """End the cluster."""
        self.cluster.close()

    def learn(self, kind: str) -> None:
        """Run the job for a kind of output undisturbed."""
        place = self.folder / f"undisturbed-{kind}"
        place.mkdir()
        job = self._begin(kind, place)
        self._wait(job, place, "finish")
        while job.poll() is None and _at_work(place, kind):
            time.sleep(0.001)
        finished = time.time()
        if job.wait(_TIMEOUT):
            raise SystemExit((place / "shown").read_text())
        for (phase, began), (_, ended) in itertools.pairwise(times_of(place / "log.json")):
            self.lasts[kind, phase] = (finished if phase == "finish" else ended) - began
        self.wanted[kind] = digest(place / kind)
        shutil.rmtree(place)

    def play(self, phase: str, victim: str, kind: str, seed: int) -> dict[str, Any]:
        """Play one round; return what happened."""
        place = Path(tempfile.mkdtemp(prefix="round-", dir=self.folder))
        known: dict[str, Any] = {"phase": phase, "victim": victim, "output": kind, "seed": seed}
        start = time.monotonic()
        job = self._begin(kind, place)
        try:
            self._wait(job, place, phase)
            rng = random.Random(seed)  # noqa: S311 - moments only
            time.sleep(rng.uniform(0, self.lasts[kind, phase]))
            at_work, sent = _at_work(place, kind), time.time()
            self._kill(victim, job)
            status = job.wait(_TIMEOUT)
            if victim == "client":
                at_work = _at_work(place, kind)
            hit = at_work and _lasted(phase, sent, place / "log.json")
            known |= {"survived": status == 0, "hit": hit}
            if victim == "scheduler":
                self.cluster.close()
                self.cluster = Cluster(self.folder / "cluster")
            if status:
                known["kept"] = _at_work(place, kind)
                job = self._begin(kind, place, "--resume")
                known["resumed with status"] = job.wait(_TIMEOUT)
            known["same bytes"] = digest(place / kind) == self.wanted[kind]
            known["left"] = self._left(place, kind)
        except subprocess.TimeoutExpired:
            known |= {"hung": True, "hit": True}
            job.kill()
            job.wait()
        known["right"] = known.get("same bytes", False) and not known["left"]
        if victim in ("one worker", "all workers"):
            known["right"] = known["right"] and known["survived"]
        known["seconds"] = round(time.monotonic() - start, 1)
        if not known["right"]:
            known["shown"] = (place / "shown").read_text(errors="replace")[-2000:]
        shutil.rmtree(place, ignore_errors=True)
        return known

    def _begin(self, kind: str, place: Path, *more: str) -> subprocess.Popen[bytes]:
        arguments = command(kind, self.sources, place)
        return begin([*arguments, *more], self.cluster.address, place)

    def _wait(self, job: subprocess.Popen[bytes], place: Path, phase: str) -> None:
        """Wait for a phase to begin."""
        while job.poll() is None and phase not in dict(times_of(place / "log.json")):
            time.sleep(0.001)

    def _kill(self, victim: str, job: subprocess.Popen[bytes]) -> None:
        """Kill a victim, and do what a nanny does."""
        cluster = self.cluster
        victims = {
            "client": [job],
            "one worker": cluster.workers[:1],
            "all workers": cluster.workers,
            "scheduler": [cluster.scheduler],
        }[victim]
        for process in victims:
            process.send_signal(signal.SIGKILL)
        if victims[0] in cluster.workers:
            for process in victims:
                process.wait()
            others = [process for process in cluster.workers if process not in victims]
            cluster.workers = others + [cluster.add_worker() for _ in victims]

    def _left(self, place: Path, kind: str) -> list[str]:
        """Return what lies beside the output, or hidden in it."""
        beside = {path.name for path in place.iterdir()} - {kind, "shown", "log.json"}
        inside = {path.name for path in (place / kind).glob(".*")}
        return sorted(beside | inside)


def _at_work(place: Path, kind: str) -> bool:
    """Return whether a job is at work on an output, or was when it ended."""
    folder = place / kind if kind == "folder" else place
    return (folder / f".{kind}.dkmeans" / "job.json").exists()


def _lasted(phase: str, moment: float, log: Path) -> bool:
    """Return whether a log shows that a phase had begun at a moment, and not ended."""
    times = times_of(log)
    for at, (name, began) in enumerate(times):
        ended = times[at + 1][1] if at + 1 < len(times) else float("inf")
        if name == phase and began <= moment < ended:
            return True
    return False


def play_until_hit(
    bench: Bench, phase: str, victim: str, number: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Play a round of a case until it is a hit, or was tried too often."""
    kind = KINDS[phase][number % len(KINDS[phase])]
    played: list[dict[str, Any]] = []
    while len(played) < _TRIES and not (played and played[-1]["hit"]):
        played.append(bench.play(phase, victim, kind, rng.randrange(1 << 32)))
        print(json.dumps(played[-1]), file=sys.stderr, flush=True)
    return played


def table(played: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the figures of each case."""
    cases: dict[tuple[str, str], Counter[str]] = {}
    for known in played:
        figures = cases.setdefault((known["phase"], known["victim"]), Counter())
        figures["misses"] += not known["hit"]
        figures["hits"] += known["hit"]
        figures["wrong"] += not known["right"]
        figures["hung"] += known.get("hung", False)
        if known["hit"]:
            figures["survived"] += known.get("survived", False)
            figures["resumed"] += known.get("kept", False)
    return [{"phase": p, "victim": v, **figures} for (p, v), figures in cases.items()]


def main() -> None:
    """Play all rounds and write what happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="true hits of each case")
    parser.add_argument("--phases", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--side", type=int, default=6144, help="of the large picture, in pixels")
    parser.add_argument("--photos", type=int, default=40, help="number of small pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="to work in; a temporary one by default")
    parser.add_argument("--json", type=Path, help="file for all rounds; none by default")
    given = parser.parse_args()
    rng = random.Random(given.seed)  # noqa: S311 - moments only
    played: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        bench = Bench(Path(name), given.side, given.photos)
        try:
            for kind in sorted({kind for phase in given.phases for kind in KINDS[phase]}):
                bench.learn(kind)
            cases = list(itertools.product(given.phases, given.victims))
            # Every case early on, should it be ended before.
            for number, (phase, victim) in itertools.product(range(given.rounds), cases):
                played += play_until_hit(bench, phase, victim, number, rng)
                if given.json:
                    told = {"cases": table(played), "rounds": played}
                    given.json.write_text(json.dumps(told, indent=1))
        finally:
            bench.close()
    for case in table(played):
        print(" ".join(f"{name}={value}" for name, value in case.items()))
    sys.exit(any(not known["right"] for known in played))


if __name__ == "__main__":
    main()
