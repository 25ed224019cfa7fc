"""Run a job on four hosts of this machine while one dies, hangs, is cut off, or has a bad line.

    python scripts/bench/hosts.py FOLDER --rounds 5 --lost-after 11 --out hosts.json

Hosts are network namespaces on a bridge: one for the scheduler, three with a worker each; the
client stays outside. That needs Linux, root, and `ip` of iproute2; where it is not allowed, that is
said and the exit status is 0. The bad line is a process that hands on frames late, and some not at
all. It happens at a moment drawn at random from the time that the job takes undisturbed, and counts
if the job was not over; then the host begins anew. Times are of rounds in which the machine itself
went on. Exit status 1 if a result differed from the undisturbed one.
"""

import argparse
import ctypes
import fcntl
import heapq
import json
import logging
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dask
from cluster_jobs import JOBS, make_data
from distributed import Client
from distributed.cli import dask_scheduler, dask_worker
from fault_cluster import Process, Watch
from faults_fit import slow_down

PREFIX = f"dkh{os.getpid() % 10000}"  # of all that is made; names of devices have 15 letters
NETWORK = "10.213.77"
BRIDGE = f"{PREFIX}b"
WORKERS = 3
PATIENCE = 120  # seconds in which a job has to begin, or to end
STILL = 1.0  # seconds; if this process did not run for so long, nor did others
_SLEEP = 0.03  # seconds for each block, so that a small job lasts for a while
_TRIES = 4  # for each round that is asked for
_NEW_TAP, _TAP, _BARE = 0x400454CA, 0x0002, 0x1000  # of linux/if_tun.h
_NETWORKS = 0x40000000  # CLONE_NEWNET


def ip(*words: str, host: str | None = None) -> str:
    """Run `ip`, in the namespace of a host if one is named."""
    inside = ["netns", "exec", host, "ip"] if host else []
    done = subprocess.run(["ip", *inside, *words], capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout


def enter(namespace: str) -> None:
    """Move this thread into the network namespace that a file of the system names."""
    with Path(namespace).open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NETWORKS):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


@contextmanager
def within(host: str) -> Iterator[None]:
    """Be in the namespace of a host for a while."""
    with Path("/proc/thread-self/ns/net").open() as home:
        enter(namespace_of(host))
        try:
            yield
        finally:
            enter(f"/proc/self/fd/{home.fileno()}")


def namespace_of(host: str) -> str:
    """Return the file that names the namespace of a host."""
    return f"/run/netns/{host}"


def tap(name: str) -> int:
    """Make a network device whose frames are read and written here."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _NEW_TAP, struct.pack("16sH", name.encode(), _TAP | _BARE))
    return device


def relay(ends: tuple[int, int], delay: float, loss: float) -> None:
    """Hand frames on between two devices, late, until killed."""
    rng = random.Random(0)  # noqa: S311 - no secret
    waiting: list[tuple[float, float, int, bytes]] = []  # when, to whom, what
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], left)[0]:
            try:
                frame = os.read(end, 65536)
            except OSError:  # the device is not up yet
                time.sleep(0.01)
                continue
            if rng.random() >= loss:
                other = ends[end == ends[0]]
                heapq.heappush(waiting, (time.monotonic() + delay, rng.random(), other, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            with suppress(OSError):  # the device is down
                os.write(waiting[0][2], waiting[0][3])
            heapq.heappop(waiting)


def address(n: int) -> str:
    """Return the address of host `n`."""
    return f"{NETWORK}.{n + 11}"


class Hosts:
    """Hosts on a bridge, with a scheduler on the first and a worker on each of the others."""

    def __init__(self, folder: Path, line: tuple[float, float] | None) -> None:
        self._line = line  # seconds each way, and share of frames lost; None is a good line
        self._shown = folder / "shown"
        self.names: list[str] = []
        self._processes: list[Process] = []
        self.scheduler = f"tcp://{address(0)}:8786"

    def __enter__(self) -> Self:
        ip("link", "add", BRIDGE, "type", "bridge")
        try:
            ip("addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
            ip("link", "set", BRIDGE, "up")
            for n in range(WORKERS + 1):
                self._add(n)
            options = ("--host", address(0), "--port", "8786", "--no-dashboard")
            self._run(0, lambda: dask_scheduler.main(options))
            for n in range(1, WORKERS + 1):
                self._begin_worker(n)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for n in range(len(self.names)):
            self.kill(n)
        for process in self._processes:
            process.kill()
            process.wait()
        for n, name in enumerate(self.names):
            for words in (("link", "del", f"{PREFIX}n{n}"), ("netns", "del", name)):
                # A namespace goes some time after it was deleted, and only then what is in it: the
                # names of devices would not be free for the next hosts.
                with suppress(subprocess.CalledProcessError):
                    ip(*words)
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", BRIDGE)

    def _add(self, n: int) -> None:
        """Add a host."""
        name, near = f"{PREFIX}h{n}", f"{PREFIX}n{n}"
        ip("netns", "add", name)
        self.names.append(name)
        if self._line is None or n == 0:
            ip("link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", name)
        else:
            with within(name):
                far = tap("eth0")
            ends = tap(near), far
            line = self._line
            self._processes.append(Process(lambda: relay(ends, *line), self._shown))
            for end in ends:
                os.close(end)  # the relay has it
        ip("link", "set", near, "master", BRIDGE)
        ip("link", "set", near, "up")
        ip("addr", "add", f"{address(n)}/24", "dev", "eth0", host=name)
        for device in ("lo", "eth0"):
            ip("link", "set", device, "up", host=name)

    def _run(self, n: int, main: Callable[[], object]) -> None:
        """Begin a process on host `n`."""

        def run() -> None:
            enter(namespace_of(self.names[n]))
            main()

        self._processes.append(Process(run, self._shown))

    def _begin_worker(self, n: int) -> None:
        options = ("--host", address(n), "--nthreads", "1", "--no-nanny", "--no-dashboard")

        def run() -> None:
            slow_down(_SLEEP)
            dask_worker.main((self.scheduler, *options))

        self._run(n, run)

    def heal(self, n: int) -> None:
        """Begin host `n` anew, whatever became of it."""
        self.kill(n)
        self.cut(n, "up")
        self._begin_worker(n)

    def kill(self, n: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to all processes of host `n`."""
        with suppress(subprocess.CalledProcessError):
            for pid in ip("netns", "pids", self.names[n]).split():
                with suppress(ProcessLookupError):  # it has just ended
                    os.kill(int(pid), how)

    def cut(self, n: int, link: str = "down") -> None:
        """Take the cable out of host `n`, or put it in again."""
        ip("link", "set", f"{PREFIX}n{n}", link)


class Reading(logging.Handler):
    """Notes in a file when a job has begun to read."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of what dkmeans logs."""
        if getattr(record, "event", "") == "partition-done":
            self._file.touch()


def do(job: str, folder: Path, scheduler: str, begun: Path, told: Path) -> None:
    """Do a job, and tell what came out and which workers were lost. For a process of its own."""
    slow_down(_SLEEP)
    log = logging.getLogger("dkmeans")
    log.addHandler(Reading(begun))
    log.setLevel(logging.DEBUG)
    with Client(scheduler, timeout=PATIENCE) as client:
        client.wait_for_workers(WORKERS, timeout=PATIENCE)
        start = time.time()
        result = JOBS[job](folder)
        ended = time.time()
        events = client.get_events("all")
    lost = [when for when, event in events if event.get("action") == "remove-worker"]
    found = {"result": result, "start": start, "ended": ended, "lost": lost}
    told.with_suffix(".part").write_text(json.dumps(found))
    told.with_suffix(".part").rename(told)


@dataclass(frozen=True)
class Case:
    """What happens to the last host, or to all lines."""

    line: tuple[float, float] | None = None
    strike: Callable[[Hosts], None] | None = None
    back_after: float | None = None  # seconds until the cable is in again


def play(hosts: Hosts, case: Case, job: str, folder: Path, after: float) -> dict[str, Any]:
    """Run a job, and strike so many seconds after it has begun to read; return what was seen."""
    begun, told = folder / "begun", folder / "told.json"
    for file in (begun, told):
        file.unlink(missing_ok=True)
    watch, struck = Watch(), 0.0
    process = Process(lambda: do(job, folder, hosts.scheduler, begun, told), folder / "shown")

    def over() -> bool:
        return told.exists() or not process.runs

    try:
        if not watch.wait(lambda: begun.exists() or over(), PATIENCE):
            raise SystemExit(f"no job has begun; see {folder / 'shown'}")
        if case.strike is not None and not watch.wait(over, after):
            struck = time.time()
            case.strike(hosts)
            if case.back_after is not None:
                watch.wait(over, case.back_after)
                hosts.cut(WORKERS, "up")
        if not watch.wait(over, PATIENCE) or not told.exists():
            raise SystemExit(f"the job has hung or failed; see {folder / 'shown'}")
    finally:
        process.kill()
        process.wait()
    found = json.loads(told.read_text())
    noticed = [when - struck for when in found["lost"] if struck and when > struck]
    return {
        "result": found["result"],
        "seconds": round(found["ended"] - found["start"], 1),
        "struck_after": round(struck - found["start"], 1) if struck else None,
        "hit": case.strike is None or 0 < struck < found["ended"],
        "noticed_after": round(min(noticed), 1) if noticed else None,
        "stood_still": round(watch.stood_still, 1),
    }


def play_all(
    names: Sequence[str], job: str, folder: Path, rounds: int, rng: random.Random
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Play rounds of cases until each was hit often enough."""
    seconds = 0.0  # of an undisturbed job
    for line in dict.fromkeys(CASES[name].line for name in names):
        with Hosts(folder, line) as hosts:
            for name in names:
                case = CASES[name]
                hits = tries = 0
                while case.line == line and hits < rounds and tries < _TRIES * rounds:
                    played = play(hosts, case, job, folder, rng.uniform(0, seconds))
                    tries, hits = tries + 1, hits + played["hit"]
                    if case.strike is None and line is None:
                        seconds = played["seconds"]
                    else:
                        hosts.heal(WORKERS)
                    yield name, played


def summed_up(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what rounds of a case come to; times are of those in which the machine went on."""
    hits = [each for each in rounds if each["hit"]]
    timed = [each for each in hits if each["stood_still"] < STILL]
    told: dict[str, Any] = {"hits": len(hits), "misses": len(rounds) - len(hits)}
    told |= {"results": sorted({each["result"] for each in rounds}), "timed": len(timed)}
    for name in ("noticed_after", "seconds"):
        if values := sorted(each[name] for each in timed if each[name] is not None):
            told[name] = {"least": values[0], "most": values[-1], "of": len(values)}
            told[name]["median"] = values[len(values) // 2]
    return told


def why_not() -> str | None:
    """Return why hosts cannot be made here, if so."""
    if shutil.which("ip") is None:
        return "needs ip, of iproute2"
    try:
        ip("netns", "add", f"{PREFIX}t")
        ip("netns", "del", f"{PREFIX}t")
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"
    return None


CASES = {
    "undisturbed": Case(),
    "killed": Case(strike=lambda hosts: hosts.kill(WORKERS)),
    "hung": Case(strike=lambda hosts: hosts.kill(WORKERS, signal.SIGSTOP)),
    "cut off": Case(strike=lambda hosts: hosts.cut(WORKERS)),
    "cut off, back after 5 s": Case(strike=lambda hosts: hosts.cut(WORKERS), back_after=5),
    "cut off, back after 25 s": Case(strike=lambda hosts: hosts.cut(WORKERS), back_after=25),
    "50 ms, 2 % lost": Case(line=(0.025, 0.02)),
}


def main(words: Sequence[str]) -> None:
    """Run from the command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is put away
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for data and outputs")
    parser.add_argument("--job", choices=sorted(JOBS), default="fit")
    parser.add_argument("--case", choices=list(CASES), action="append", help="all by default")
    parser.add_argument("--side", type=int, default=1024, help="of the picture, in pixels")
    parser.add_argument("--rows", type=int, default=400_000, help="of the table")
    parser.add_argument("--rounds", type=int, default=5, help="hits of each case")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--lost-after", type=int, default=11, help="seconds")
    parser.add_argument("--out", type=Path, help="where to write what is printed")
    arguments = parser.parse_args(words)
    found: dict[str, Any] = {"lost_after": arguments.lost_after, "processors": os.cpu_count()}
    if (reason := why_not()) is not None:
        found["skipped"] = reason
    else:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        if not (arguments.folder / "table.zarr").exists():
            make_data(arguments.folder, arguments.side, arguments.rows)
        patience = {
            "distributed.comm.timeouts.tcp": f"{arguments.lost_after}s",
            "distributed.scheduler.worker-ttl": f"{arguments.lost_after}s",
        }
        names = list(dict.fromkeys(["undisturbed", *(arguments.case or CASES)]))
        rng = random.Random(arguments.seed)  # noqa: S311 - no secret
        played: dict[str, list[dict[str, Any]]] = {}
        with dask.config.set(patience):  # of all processes, which are forks
            job, folder = arguments.job, arguments.folder.absolute()
            for name, each in play_all(names, job, folder, arguments.rounds, rng):
                played.setdefault(name, []).append(each)
                print(f"{name}: {each}", file=sys.stderr, flush=True)
                found["cases"] = {of: summed_up(rounds) for of, rounds in played.items()}
                found["rounds"] = played
                if arguments.out:
                    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    results = {result for case in found.get("cases", {}).values() for result in case["results"]}
    found.pop("rounds", None)
    print(json.dumps(found, indent=1))
    sys.exit(len(results) > 1)


if __name__ == "__main__":
    main(sys.argv[1:])
