"""Processes that a bench may kill, and that end when the bench is killed; a cluster of them.

They are forked from the bench, which has imported what they need: so a round takes a few seconds.
"""

import ctypes
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_LOOK = 0.02  # seconds between two looks
_LATE = 0.5  # seconds by which a busy machine may be late


class Process:
    """A fork of this process that runs a function, and does not outlive this process on Linux.

    To be made in the main thread: Linux kills it when the *thread* that made it ends. What it
    shows is added to the file `shown`.
    """

    def __init__(self, run: Callable[[], object], shown: Path) -> None:
        process = multiprocessing.get_context("fork").Process(
            target=_run, args=(run, shown, os.getpid())
        )
        process.start()
        self._process = process

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def wait(self, seconds: float = math.inf, watch: "Watch | None" = None) -> int:
        """Return the exit status, once it has ended; that of signals is negative.

        `watch` notes for how long all stood still meanwhile.

        Raises
        ------
        TimeoutError
            If it has not ended after so many seconds.
        """
        if not (watch or Watch()).wait(lambda: not self.runs, seconds):
            raise TimeoutError
        self._process.join()
        return self._process.exitcode or 0

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    @property
    def pid(self) -> int | None:
        """Its number."""
        return self._process.pid


def _run(run: Callable[[], object], shown: Path, parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the bench puts its own things away
    with shown.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    run()


class Watch:
    """Waits; time in which this process did not run, since all were stopped, is no time.

    Attributes
    ----------
    stood_still
        The longest such time, in seconds: what was measured meanwhile means little.
    """

    def __init__(self) -> None:
        self.stood_still = 0.0

    def wait(self, over: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so; return False if it is not after so many seconds."""
        last = time.monotonic()
        while not over():
            if seconds <= 0:
                return False
            asked = min(_LOOK, seconds)
            time.sleep(asked)
            now = time.monotonic()
            still, last = now - last - asked, now
            self.stood_still = max(self.stood_still, still)
            seconds -= asked + min(still, _LATE)
        return True


class Cluster:
    """A scheduler and workers, each a process of its own.

    `prepare` is called in each worker before it begins.
    """

    def __init__(
        self, folder: Path, n_workers: int = 2, prepare: Callable[[], object] | None = None
    ) -> None:
        self.folder = folder
        self._prepare = prepare
        file = folder / "scheduler.json"
        file.unlink(missing_ok=True)
        self.scheduler = self._begin(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file),
        )  # fmt: skip
        while not file.exists() or not file.read_text():
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]
        self.workers = [self.add_worker() for _ in range(n_workers)]

    def add_worker(self) -> Process:
        """Start one worker more."""
        return self._begin(
            "worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--host", "127.0.0.1", "--death-timeout", "60", "--local-directory", str(self.folder),
        )  # fmt: skip

    def _begin(self, kind: str, *arguments: str) -> Process:
        from distributed.cli import dask_scheduler, dask_worker

        def run() -> None:
            if kind == "worker" and self._prepare is not None:
                self._prepare()
            main: Any = {"scheduler": dask_scheduler, "worker": dask_worker}[kind].main
            main(list(arguments), prog_name=f"dask-{kind}")

        return Process(run, self.folder / "shown")

    def close(self) -> None:
        """End all processes."""
        for each in (*self.workers, self.scheduler):
            each.kill()
            each.wait()
