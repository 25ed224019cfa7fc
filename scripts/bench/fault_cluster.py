"""A cluster of real processes that a bench may kill."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


class Cluster:
    """A scheduler and two workers, each a process of its own.

    `preload` is the name of a module in `folder` that workers import first.
    """

    def __init__(self, folder: Path, preload: str | None = None) -> None:
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
        self.workers = [self.add_worker() for _ in range(2)]

    def add_worker(self) -> subprocess.Popen:
        """Start one worker more."""
        return self._begin(
            "worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--host", "127.0.0.1", "--death-timeout", "60", *self._preload,
            "--local-directory", str(self.folder),
        )  # fmt: skip

    def _begin(self, kind: str, *arguments: str) -> subprocess.Popen:
        path = os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")])
        return subprocess.Popen(  # noqa: S603 - Dask's own program
            [sys.executable, "-m", "distributed.cli.dask_" + kind, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )

    def close(self) -> None:
        """End all processes."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
