"""Clusters that lose workers, their scheduler, or work that no worker survives: said clearly."""

import operator
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from dkmeans import ClusterError, _passes_distributed
from dkmeans._passes import Passes, Piece
from dkmeans._tables_blocks import MemorySource, TablePiece
from dkmeans._tables_regions import Regions
from dkmeans._tiling import grid


@dataclass(frozen=True)
class Zeros:
    """A picture of nothing."""

    path: str = "/scans/zeros.tif"
    shape: tuple[int, int, int] = (80, 40, 1)
    block: tuple[int, int] = (10, 40)
    in_order: bool = False

    dtype = np.dtype(np.uint8)

    def read(self, windows):
        for window in windows:
            yield np.zeros((window.height, window.width, 1), np.uint8)


def pieces(n=8):
    """One picture in so many partitions."""
    source = Zeros()
    windows = tuple(grid(*source.shape[:2], source.block))
    each = len(windows) // n
    return [(Piece(0, source, windows[i : i + each]),) for i in range(0, len(windows), each)]


def count(part, ticker):
    """Count the windows."""
    for piece in part:
        for block in piece.source.read(piece.windows):
            ticker(block.nbytes)
    return sum(len(piece.windows) for piece in part)


def slowly(part, ticker):
    """Count the windows in half a second."""
    time.sleep(0.5)
    return count(part, ticker)


def deadly(part, ticker):
    """Kill the worker that reads row 30."""
    if any(window.y == 30 for piece in part for window in piece.windows):
        os.kill(os.getpid(), signal.SIGKILL)
    return count(part, ticker)


def run(work, partitions=None, passes=None):
    """Run one pass that adds up."""
    return (passes or Passes()).run("look", work, partitions or pieces(), operator.add)


# Workers


def test_a_partition_that_kills_workers_is_named_and_the_cluster_goes_on(
    cluster, client, monkeypatch
):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    passes = Passes()
    with pytest.raises(ClusterError) as caught:
        run(deadly, passes=passes)
    told = str(caught.value)
    assert re.match(r"pass look: (a|one of 2) partitions? killed 1 worker, the last at tcp", told)
    assert "/scans/zeros.tif, rows 30:40, columns 0:40 (400 B)" in told
    assert re.search(
        r"A worker may use [\d.]+ GiB, and this takes about 300.00 MiB or more\. ", told
    )
    assert told.endswith("look for another cause in the log of that worker.")
    assert passes.n_passes == 0
    client.wait_for_workers(2, timeout=30)
    assert run(count) == 8


def test_a_lost_worker_is_logged(client, caplog):
    ((address, pid), *_) = client.run(os.getpid).items()
    passes = Passes()
    for times in (1, 2):
        if times == 2:
            client.loop.call_later(0.7, os.kill, pid, signal.SIGKILL)
        assert run(slowly, passes=passes) == 8
        assert passes.bytes_read == 3200 * times
    assert f"worker {address} is lost" in caplog.text
    [record] = [record for record in caplog.records if getattr(record, "worker", "")]
    assert (record.event, record.worker, record.of_pass) == ("worker-lost", address, "look")
    client.wait_for_workers(2, timeout=30)


@pytest.mark.parametrize(
    ("leading", "extent"), [((1000,), "rows 250:500"), ((10, 100), "rows from [5, 0] to [10, 100]")]
)
def test_rows_are_named(leading, extent):
    windows = Regions.of(leading, (250,) if len(leading) == 1 else (5, 100))
    source = MemorySource((*leading, 3), np.dtype(np.float32), np.empty(0), None)
    piece = TablePiece(2, source, windows[1:2], leading, 0)
    assert piece.where == f"source 3, {extent}"
    assert piece.held_bytes == 2 * windows[0].n_pixels * 12


# The scheduler


@contextmanager
def own_scheduler(n_workers=1, paths=(str(Path(__file__).parent),)):
    """Run a scheduler as a process of its own, and a worker; yield the process and the address."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), *paths])}
    module = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen([*module, *options], stderr=subprocess.PIPE, text=True, env=env)
    workers = []
    try:
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        module[-1] = "distributed.cli.dask_worker"
        options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--death-timeout", "5"]
        workers = [
            subprocess.Popen([*module, address, *options], stderr=subprocess.DEVNULL, env=env)
            for _ in range(n_workers)
        ]
        yield scheduler, address
    finally:
        for process in (*workers, scheduler):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        scheduler.stderr.close()


@pytest.mark.parametrize(
    ("strike", "why"),
    [(signal.SIGKILL, "the connection"), (signal.SIGSTOP, "no answer within 1 s")],
)
def test_a_lost_scheduler_is_an_error_and_no_hang(strike, why, monkeypatch):
    monkeypatch.setattr(_passes_distributed, "_patience", lambda: 1.0)
    monkeypatch.setattr(_passes_distributed, "_LOOK_SECONDS", 0.5)
    with (
        own_scheduler() as (scheduler, address),
        Client(address, timeout=2) as client,
    ):
        assert run(count) == 8
        client.loop.call_later(1, scheduler.send_signal, strike)
        with pytest.raises(ClusterError, match=f"scheduler at {address} is lost .*{why}"):
            run(slowly)
        if strike is signal.SIGKILL:  # and again, at once
            with pytest.raises(ClusterError, match=f"scheduler at {address} is lost"):
                run(count)
        scheduler.kill()


def test_a_cluster_without_the_code_is_told_what_it_needs():
    with (
        own_scheduler(n_workers=0, paths=()) as (_, address),
        Client(address, timeout=10),
        pytest.raises(ClusterError, match=r"No module named 'test_cluster'.*same versions of"),
    ):
        run(count)
