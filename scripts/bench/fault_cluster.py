"""Processes that a bench may kill, and that end when the bench is killed; a cluster of them."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h


def _end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


def process(words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a program that does not outlive this one. To be called in the main thread.

    Linux sends the signal when the *thread* that started a process ends.
    """
    return subprocess.Popen(words, preexec_fn=_end_with_parent, **options)  # noqa: S603, PLW1509 - there are no threads yet that could hold a lock


class Cluster:
    """A scheduler and workers, each a process of its own.

    `preload` is the name of a module in `folder` that workers import first.
    """

    def __init__(self, folder: Path, n_workers: int = 2, preload: str | None = None) -> None:
        self.folder = folder
        self._preload = [] if preload is None else ["--preload", preload]
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

    def add_worker(self) -> subprocess.Popen[Any]:
        """Start one worker more."""
        return self._begin(
            "worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--host", "127.0.0.1", "--death-timeout", "60", *self._preload,
            "--local-directory", str(self.folder),
        )  # fmt: skip

    def _begin(self, kind: str, *arguments: str) -> subprocess.Popen[Any]:
        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")])
        return process(
            [sys.executable, "-m", "distributed.cli.dask_" + kind, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )

    def close(self) -> None:
        """End all processes."""
        for each in (*self.workers, self.scheduler):
            each.kill()
            each.wait()
