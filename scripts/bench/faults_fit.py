"""Kill processes of fits at random moments, and compare bits with an undisturbed run.

For each phase (summary, refine, assign) and each victim (the client, one worker, all workers, the
scheduler) as many rounds as asked for. A round runs `dkmeans fit` or `dkmeans predict` on a cluster
of its own, kills the victim while the phase lasts, lets what is left end, and runs the command
again with `--resume` (for labels again as it is) on a new cluster if it failed. A round is right if
the model, or all labels, are those of the undisturbed run, and if nothing else is left behind.

    python scripts/bench/faults_fit.py --rounds 5 --out faults.json
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fault_cluster import Cluster

PHASES = ("summary", "refine", "assign")
VICTIMS = ("client", "one worker", "all workers", "scheduler")
_NAMES = {"summary": "summarise", "refine": "refine", "assign": "predict"}  # of passes
_TIMEOUT = 300

# A summary that is small, so that the data may be; and passes that can be hit, for they last.
_SLOWED = """
import os, time
import dkmeans._summary_rows as rows
rows.MIN_ROWS, rows.ROWS_PER_CLUSTER = 2000, 50
import dkmeans._frame as frame
inner = frame.Centers.assign
def assign(self, *args, **kwargs):
    time.sleep(0.03)
    return inner(self, *args, **kwargs)
frame.Centers.assign = assign
look = frame.Ranges.of.__func__
def of(cls, *args):
    time.sleep(0.03)
    return look(cls, *args)
frame.Ranges.of = classmethod(of)
"""
_CLIENT = _SLOWED + "from dkmeans._cli import main; main()\n"


def command(phase: str, place: Path, data: Path) -> list[str]:
    """Return the arguments of dkmeans for a phase."""
    if phase == "assign":
        return ["predict", str(place / "wanted.json"), str(data), str(place / "labels.zarr")]
    return ["fit", str(data), str(place / "m.json"), "-k", "12", "--tol", "0", "--max-iter", "6"]


def begin(arguments: list[str], address: str, log: Path) -> subprocess.Popen:
    """Start dkmeans on a cluster; what it shows goes to a file."""
    with log.open("wb") as file:
        return subprocess.Popen(  # noqa: S603 - Python itself
            [sys.executable, "-c", _CLIENT, *arguments, "--scheduler", address],
            stdout=file,
            stderr=file,
        )


def result(phase: str, place: Path) -> str:
    """Return a hash of what a phase has made; empty if there is nothing."""
    path = place / ("labels.zarr" if phase == "assign" else "m.json")
    if not path.exists():
        return ""
    if phase != "assign":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    import zarr

    return hashlib.sha256(np.asarray(zarr.open_array(str(path), mode="r")[:])).hexdigest()


def play(phase: str, victim: str, data: Path, wanted: Path, seed: int) -> dict:
    """Play one round; return what happened."""
    rng = random.Random(seed)  # noqa: S311 - moments only
    place = Path(tempfile.mkdtemp(prefix="round-", dir=data.parent))
    shutil.copy(wanted, place / "wanted.json")
    inner = place / "cluster"
    inner.mkdir()
    known = {"phase": phase, "victim": victim, "seed": seed}
    (inner / "slowed.py").write_text(_SLOWED)
    cluster = Cluster(inner, "slowed")
    log = place / "log"
    try:
        job = begin(command(phase, place, data), cluster.address, log)
        begun, start = f"{_NAMES[phase]}:".encode(), time.monotonic()
        while begun not in log.read_bytes() and job.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2.0 if phase == "refine" else 0.4))
        known["running"] = job.poll() is None
        victims = {
            "client": [job],
            "one worker": cluster.workers[:1],
            "all workers": cluster.workers,
            "scheduler": [cluster.scheduler],
        }[victim]
        for process in victims:
            process.send_signal(signal.SIGKILL)
        if victim == "all workers":
            cluster.workers += [cluster.add_worker() for _ in range(2)]
        known["status"] = job.wait(_TIMEOUT)
        known["seconds"] = round(time.monotonic() - start, 1)
        known["survived"] = job.returncode == 0
        if job.returncode:
            known["said"] = log.read_bytes().decode(errors="replace").splitlines()[-1:][0][:200]
            cluster.close()
            cluster = Cluster(inner, "slowed")
            more = [] if phase == "assign" else ["--resume"]
            again = begin([*command(phase, place, data), *more], cluster.address, log)
            known["status again"] = again.wait(_TIMEOUT)
            known["resumed"] = b"gone on from a checkpoint" in log.read_bytes()
        known["hash"] = result(phase, place)
        extra = {"wanted.json", "cluster", "log", "m.json", "labels.zarr"}
        known["left"] = sorted({path.name for path in place.iterdir()} - extra)
    except subprocess.TimeoutExpired:
        known["hash"] = "hung"
        job.kill()
    finally:
        cluster.close()
        shutil.rmtree(place, ignore_errors=True)
    return known


def undisturbed(folder: Path, n_rows: int) -> tuple[Path, Path, dict[str, str]]:
    """Make data, and do both jobs without faults; return data, model and hashes by phase."""
    import zarr

    data = folder / "rows.zarr"
    array = zarr.create_array(
        str(data), shape=(n_rows, 8), chunks=(20_000, 8), dtype="f4", compressors=None
    )
    rng = np.random.default_rng(0)
    for at in range(0, n_rows, 20_000):
        array[at : at + 20_000] = rng.normal(size=(20_000, 8)).astype(np.float32)
    place = folder / "undisturbed"
    place.mkdir()
    hashes = {}
    for phase in ("refine", "assign"):
        arguments = command(phase, place, data)
        subprocess.run(  # noqa: S603 - Python itself
            [sys.executable, "-c", _CLIENT, *arguments, "--quiet"], check=True
        )
        hashes[phase] = result(phase, place)
        if phase == "refine":
            (place / "m.json").rename(place / "wanted.json")
    return data, place / "wanted.json", {**hashes, "summary": hashes["refine"]}


def main() -> None:
    """Play all rounds and write what happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each case")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="to work in; a temporary one by default")
    parser.add_argument("--out", type=Path, help="JSON with each round; standard output by default")
    given = parser.parse_args()
    rounds: list[dict] = []
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        data, wanted, hashes = undisturbed(Path(name), given.rows)
        cases = [(phase, victim) for phase in given.phases for victim in given.victims]
        for number in range(given.rounds):  # every case early on, should it be ended before
            for at, (phase, victim) in enumerate(cases):
                known = play(phase, victim, data, wanted, given.seed + 1000 * number + at)
                known["right"] = known["hash"] == hashes[phase] and not known.get("left")
                rounds.append(known)
                print(json.dumps(known), file=sys.stderr, flush=True)
                told = {
                    "rounds": rounds,
                    "wrong": sum(not each["right"] for each in rounds),
                    "hit": sum(each.get("running", False) for each in rounds),
                }
                if given.out:
                    given.out.write_text(json.dumps(told, indent=1))
    if not given.out:
        print(json.dumps(told, indent=1))
    sys.exit(told["wrong"] > 0)


if __name__ == "__main__":
    main()
