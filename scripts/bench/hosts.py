"""Run a job on four hosts of this machine while one dies, hangs, is cut off, or has a bad line.

    python scripts/bench/hosts.py FOLDER --lost-after 11 --out hosts.json

Hosts are network namespaces on a bridge: one for the scheduler, three with a worker each; the
client stays outside. That needs Linux, root, and `ip` of iproute2; where it is not allowed, that is
said and the exit status is 0. The bad line is a process that hands on frames late, and some not at
all. Exit status 1 if a result differed from the undisturbed one.
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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import dask
from cluster_jobs import JOBS, make_data
from distributed import Client

PREFIX = f"dkh{os.getpid() % 10000}"  # of all that is made; names of devices have 15 letters
NETWORK = "10.213.77"
BRIDGE = f"{PREFIX}b"
WORKERS = 3
WORKER_SECONDS = 60  # in which all have to have come
_NEW_TAP, _TAP, _BARE = 0x400454CA, 0x0002, 0x1000  # of linux/if_tun.h
_NETWORKS = 0x40000000  # CLONE_NEWNET


def ip(*words: str, host: str | None = None) -> str:
    """Run `ip`, in the namespace of a host if one is named."""
    inside = ["netns", "exec", host, "ip"] if host else []
    done = subprocess.run(["ip", *inside, *words], capture_output=True, text=True, check=True)  # noqa: S603, S607
    return done.stdout


def enter(host: str) -> None:
    """Move this thread into the namespace of a host, or out of it: "" is where process 1 is."""
    with Path(f"/run/netns/{host}" if host else "/proc/1/ns/net").open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NETWORKS):
            raise OSError(ctypes.get_errno(), f"cannot enter {host}")


def tap(name: str) -> int:
    """Make a network device whose frames are read and written here."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _NEW_TAP, struct.pack("16sH", name.encode(), _TAP | _BARE))
    return device


def relay(host: str, near: str, far: str, delay: float, loss: float) -> None:
    """Hand frames on between two devices, late, until killed."""
    ends = [tap(near)]
    enter(host)
    ends.append(tap(far))
    print("ready", flush=True)
    rng = random.Random(0)  # noqa: S311 - no secret
    waiting: list[tuple[float, float, int, bytes]] = []  # when, to whom, what
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], left)[0]:
            frame = os.read(end, 65536)
            if rng.random() >= loss:
                other = ends[end == ends[0]]
                heapq.heappush(waiting, (time.monotonic() + delay, rng.random(), other, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            with suppress(OSError):  # the device is down
                os.write(waiting[0][2], waiting[0][3])
            heapq.heappop(waiting)


class Hosts:
    """Hosts on a bridge, and the processes on them."""

    def __init__(self, line: tuple[float, float] | None) -> None:
        self._line = line  # seconds each way, and share of frames lost; None is a good line
        self.names: list[str] = []
        self._processes: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            with suppress(subprocess.CalledProcessError):
                for pid in ip("netns", "pids", name).split():
                    os.kill(int(pid), signal.SIGKILL)
        for process in self._processes:
            process.kill()
            process.wait()
        for name in self.names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)
        with suppress(subprocess.CalledProcessError):
            ip("link", "del", BRIDGE)

    def add(self) -> str:
        """Add a host; return its address."""
        n = len(self.names)
        name, near = f"{PREFIX}h{n}", f"{PREFIX}n{n}"
        ip("netns", "add", name)
        self.names.append(name)
        if self._line is None or n == 0:
            ip("link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", name)
        else:
            words = ("--relay", name, near, "eth0", *map(str, self._line))
            process = self._begin([sys.executable, __file__, *words], stdout=subprocess.PIPE)
            process.stdout.readline()
        ip("link", "set", near, "master", BRIDGE)
        ip("link", "set", near, "up")
        ip("addr", "add", f"{NETWORK}.{n + 11}/24", "dev", "eth0", host=name)
        for device in ("lo", "eth0"):
            ip("link", "set", device, "up", host=name)
        return f"{NETWORK}.{n + 11}"

    def _begin(self, words: list[str], **options: Any) -> Any:
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, **options)  # noqa: S603
        self._processes.append(process)
        return process

    def run(self, n: int, *words: str) -> None:
        """Begin a Dask process on host `n`."""
        self._begin(["ip", "netns", "exec", self.names[n], sys.executable, "-m", *words])

    def kill(self, n: int, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to all processes of host `n`."""
        for pid in ip("netns", "pids", self.names[n]).split():
            os.kill(int(pid), how)

    def cut(self, n: int, link: str = "down") -> None:
        """Take the cable out of host `n`, or put it in again."""
        ip("link", "set", f"{PREFIX}n{n}", link)


class Reading(logging.Handler):
    """Notes when a job has begun to read."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of what dkmeans logs."""
        if getattr(record, "event", "") == "partition-done":
            self.begun.set()


@contextmanager
def reading() -> Iterator[threading.Event]:
    """Listen to what dkmeans logs."""
    handler, log = Reading(), logging.getLogger("dkmeans")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield handler.begun
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def lost(client: Client) -> list[float]:
    """Return when the scheduler has removed workers."""
    told = client.get_events("all")
    return [when for when, event in told if event.get("action") == "remove-worker"]


def begin(hosts: Hosts) -> str:
    """Begin the scheduler and the workers; return the address of the scheduler."""
    where = hosts.add()
    hosts.run(
        0, "distributed.cli.dask_scheduler", "--host", where, "--port", "8786", "--no-dashboard"
    )
    for n in range(1, WORKERS + 1):
        options = ("--host", hosts.add(), "--nthreads", "1", "--no-nanny", "--no-dashboard")
        hosts.run(n, "distributed.cli.dask_worker", f"tcp://{where}:8786", *options)
    return f"tcp://{where}:8786"


Strike = Callable[[Hosts], None]


def back_after(seconds: float) -> Strike:
    """Return what cuts off the last host and connects it again."""

    def strike(hosts: Hosts) -> None:
        hosts.cut(WORKERS)
        again = threading.Timer(seconds, hosts.cut, (WORKERS, "up"))
        again.daemon = True
        again.start()

    return strike


def run(
    folder: Path, job: str, line: tuple[float, float] | None, strike: Strike | None, after: float
) -> dict[str, Any]:
    """Run a job on hosts of its own and strike while it reads; return what was seen."""
    struck: list[float] = []
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(line))
        client = stack.enter_context(Client(begin(hosts), timeout=WORKER_SECONDS))
        client.wait_for_workers(WORKERS, timeout=WORKER_SECONDS)
        JOBS[job](folder)  # loads and compiles
        begun = stack.enter_context(reading())
        over = threading.Event()

        def wait() -> None:
            begun.wait()
            if strike is not None and not over.wait(after):
                struck.append(time.time())
                strike(hosts)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        start = time.time()
        result = JOBS[job](folder)
        seconds = time.time() - start
        over.set()
        thread.join()
        noticed = [when - struck[0] for when in lost(client)] if struck else []
    return {
        "result": result,
        "seconds": round(seconds, 1),
        "struck_after": round(struck[0] - start, 1) if struck else None,
        "noticed_after": [round(each, 1) for each in noticed],
    }


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


CASES: dict[str, tuple[tuple[float, float] | None, Strike | None]] = {
    "undisturbed": (None, None),
    "killed": (None, lambda hosts: hosts.kill(WORKERS)),
    "hung": (None, lambda hosts: hosts.kill(WORKERS, signal.SIGSTOP)),
    "cut off": (None, lambda hosts: hosts.cut(WORKERS)),
    "cut off, back after 5 s": (None, back_after(5)),
    "cut off, back after 25 s": (None, back_after(25)),
    "50 ms, 2 % lost": ((0.025, 0.02), None),
}


def main(words: Sequence[str]) -> None:
    """Run from the command line."""
    if words[:1] == ["--relay"]:
        relay(words[1], words[2], words[3], float(words[4]), float(words[5]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is put away
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for data and outputs")
    parser.add_argument("--job", choices=sorted(JOBS), default="fit")
    parser.add_argument("--case", choices=list(CASES), action="append", help="all by default")
    parser.add_argument("--side", type=int, default=1024, help="of the picture, in pixels")
    parser.add_argument("--rows", type=int, default=4_000_000, help="of the table")
    parser.add_argument("--strike-after", type=float, default=1.0, help="seconds of reading")
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
        for name, value in patience.items():  # of the scheduler and the workers
            os.environ["DASK_" + name.upper().replace(".", "__").replace("-", "_")] = value
        with dask.config.set(patience):
            found["cases"] = {}
            for name in arguments.case or CASES:
                case = run(arguments.folder, arguments.job, *CASES[name], arguments.strike_after)
                found["cases"][name] = case
                print(f"{name}: {case}", file=sys.stderr)
    told = json.dumps(found, indent=1)
    print(told)
    if arguments.out:
        arguments.out.write_text(told + "\n")
    sys.exit(len({case["result"] for case in found.get("cases", {}).values()}) > 1)


if __name__ == "__main__":
    main(sys.argv[1:])
