"""Clusters that lose workers, their scheduler, or work that no worker survives: said clearly."""

import asyncio
import json
import operator
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from conftest import local_cluster
from distributed import Client, Security, get_client, span
from PIL import Image

import dkmeans
from dkmeans import ClusterError, _cli_records, _passes_distributed, images
from dkmeans import _passes_versions as versions
from dkmeans._cli import cli
from dkmeans._cli_cluster import Workplace, opened
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
        r"A worker may use [\d.]+ GiB, and this takes about 215.00 MiB or more\. ", told
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
def own_scheduler(n_workers=1, paths=(str(Path(__file__).parent),), tls=()):
    """Run a scheduler as a process of its own, and a worker; yield the process and the address."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), *paths])}
    module = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", *tls]
    scheduler = subprocess.Popen([*module, *options], stderr=subprocess.PIPE, text=True, env=env)
    workers = []
    try:
        address = next(line.split()[-1] for line in scheduler.stderr if "Scheduler at:" in line)
        module[-1] = "distributed.cli.dask_worker"
        options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--death-timeout", "60", *tls]
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
    with (
        own_scheduler() as (scheduler, address),
        Client(address, timeout=2) as client,
    ):
        assert run(count) == 8  # from here on all is loaded
        monkeypatch.setattr(_passes_distributed, "_patience", lambda: 1.0)
        monkeypatch.setattr(_passes_distributed, "_LOOK_SECONDS", 0.5)
        client.loop.call_later(1, scheduler.send_signal, strike)
        with pytest.raises(ClusterError, match=f"scheduler at {address} is lost .*{why}"):
            run(slowly)
        if strike is signal.SIGKILL:  # and again, at once
            with pytest.raises(ClusterError, match=f"scheduler at {address} is lost"):
                run(count)
        scheduler.kill()


@pytest.mark.parametrize(
    ("strike", "told"),
    [
        ("close", r"the Dask scheduler at .+ is lost \(the connection"),
        ("restart", "pass look: somebody has cancelled the work, or restarted the workers"),
    ],
)
def test_a_client_that_is_closed_or_restarts_its_workers_ends_the_pass(strike, told):
    with local_cluster(n_workers=1, threads_per_worker=1) as own, own.get_client() as client:
        assert run(count) == 8  # from here on all is loaded
        striking = threading.Timer(0.5, getattr(client, strike))
        striking.start()
        with pytest.raises(ClusterError, match=told):
            run(slowly)
        striking.join()


def test_a_result_that_is_lost_with_the_last_worker_is_made_again(monkeypatch, caplog):
    follow = _passes_distributed._follow
    root = str(Path(dkmeans.__file__).parents[1])
    with (
        own_scheduler() as (_, address),
        Client(address, timeout=10) as client,
        ExitStack() as more,
    ):

        def follow_and_strike(*arguments):
            follow(*arguments)
            (pid,) = client.run(os.getpid).values()
            os.kill(pid, signal.SIGKILL)
            until(client, 0)
            threading.Timer(1, lambda: more.enter_context(worker_of(address, [root]))).start()

        assert run(count) == 8
        monkeypatch.setattr(_passes_distributed, "_follow", follow_and_strike)
        monkeypatch.setattr(_passes_distributed, "_LOOK_SECONDS", 0.2)
        assert run(count) == 8
    assert "Pass look: the cluster has no workers; waiting for some to come." in caplog.text


def test_a_cluster_without_the_code_is_told_what_it_needs():
    with (
        own_scheduler(n_workers=0, paths=()) as (_, address),
        Client(address, timeout=10),
        pytest.raises(ClusterError, match=r"No module named 'test_cluster'.*same versions of"),
    ):
        run(count)


@contextmanager
def worker_of(address, paths):
    """Run one more worker, which finds its modules in some folders first."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(Path(__file__).parent)])}
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
    command += ["--nthreads", "1", "--no-dashboard"]
    cwd = paths[0]  # `-m` looks there before anywhere else
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=env, cwd=cwd) as process:
        try:
            yield
        finally:
            process.kill()


def copied(folder, change=""):
    """Copy dkmeans to a folder and change it; return the folder."""
    there = folder / "dkmeans"
    shutil.copytree(
        Path(dkmeans.__file__).parent, there, ignore=shutil.ignore_patterns("__pycache__")
    )
    if change == "changed":
        with (there / "_lloyd.py").open("a") as file:
            file.write("# a change\n")
    elif change == "added":
        (there / "_more.py").touch()
    elif change == "missing":
        (there / "_passes_versions.py").unlink()
    return str(folder)


def until(client, n_workers):
    """Wait until a cluster has so many workers."""
    while len(client.ncores()) != n_workers:
        time.sleep(0.05)


def test_a_worker_with_another_dkmeans_is_named(tmp_path):
    with own_scheduler() as (_, address), Client(address, timeout=10) as client:
        with worker_of(address, [copied(tmp_path / "alike")]):  # the same files elsewhere
            until(client, 2)
            assert run(count) == 8
        for change in ("changed", "added", "missing"):
            until(client, 1)
            folder = copied(tmp_path / change, change)
            with worker_of(address, [folder]):
                until(client, 2)
                with pytest.raises(ClusterError) as caught:
                    run(count)
            told = str(caught.value)
            assert re.match(r"worker tcp://127\.0\.0\.1:\d+ (runs|has no) dkmeans", told)
            assert f"but this process runs {versions.installed()}; install" in told
            assert (f" in {folder}/dkmeans (files " in told) == (change != "missing")
        until(client, 1)
        with (
            worker_of(address, [str(tmp_path / "added")]),  # comes while the pass runs
            pytest.raises(ClusterError, match="install the same dkmeans on all workers"),
        ):
            run(slowly, pieces() * 10)


def test_workers_are_asked_once(client, monkeypatch):
    run(count)
    monkeypatch.setattr(client, "_run", None)
    assert run(count) == 8


def test_an_asynchronous_client_is_refused_in_its_thread_and_works_in_others(cluster):
    async def use():
        async with Client(cluster.scheduler_address, asynchronous=True):
            with pytest.raises(ClusterError, match="call dkmeans in another thread"):
                run(count)
            return await asyncio.to_thread(run, count)

    assert asyncio.run(use()) == 8


def kept(dask_scheduler):
    """Count what a scheduler has of each kind."""
    spans = dask_scheduler.extensions["spans"].spans
    return len(spans), len(dask_scheduler.task_prefixes), len(dask_scheduler.tasks)


def run_alone(client, n=1):
    """Run passes, each once the scheduler has forgotten the tasks of the one before."""
    for _ in range(n):
        assert run(count) == 8
        deadline = time.monotonic() + 10
        while client.futures or client.run_on_scheduler(kept)[2]:
            assert time.monotonic() < deadline, (client.futures, client.run_on_scheduler(kept))
            time.sleep(0.02)


def in_span(name, dask_scheduler):
    """Count the groups and graphs that a span keeps, and tell whether it knows of its end."""
    (found,) = dask_scheduler.extensions["spans"].spans_search_by_name[name,]
    has_ended = found.done and found.stop > found.enqueued
    return len(found.groups), len(found.metadata["collections"]), has_ended


def test_passes_leave_nothing_behind(client):
    run_alone(client)
    before = client.run_on_scheduler(kept)
    run_alone(client, 4)
    assert client.run_on_scheduler(kept) == (*before[:2], 0)


def test_our_span_keeps_nothing_of_passes_that_are_over(client):
    run_alone(client, 5)
    n_groups, *others = client.run_on_scheduler(in_span, "dkmeans")
    assert 1 <= n_groups <= 3  # those of one pass
    assert others == [1, True]


def test_a_span_of_the_users_keeps_all(client):
    with span("mine"):
        run_alone(client, 3)
    assert client.run_on_scheduler(in_span, "mine") == (9, 3, True)


def test_a_scheduler_that_cannot_forget_costs_no_pass(client, monkeypatch):
    monkeypatch.setattr(client, "_run_on_scheduler", None)
    assert run(count) == 8


# The command line


@pytest.fixture
def picture(tmp_path):
    """Write a picture of a few colours."""
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(3 * 64 * 64, dtype=np.uint8).reshape(64, 64, 3) // 16).save(path)
    return str(path)


def command(*arguments):
    """Run a command in this process."""
    return CliRunner().invoke(cli, list(arguments))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory-limit", "2GiB"), "--memory-limit needs --workers"),
        (("--memory-limit", "2GiB", "--scheduler", "h:1"), "--memory-limit needs --workers"),
        (("--memory-limit", "much", "--workers", "1"), "'much' is no size, or less than"),
        (("--memory-limit", "1MiB", "--workers", "1"), "no size, or less than the 215MiB"),
        (("--lost-after", "10", "--workers", "1"), "10 is not in the range x>=11"),
        (("--lost-after", "11"), "--lost-after needs --workers or --scheduler"),
        (("--tls-ca", __file__, "--workers", "1"), "--tls-key belong together"),
        (("--tls-ca", "none.pem", "--workers", "1"), "'none.pem' does not exist"),
        (("--performance-report", "r.html"), "--performance-report needs --workers"),
        (
            (*(f"--tls-{x}={__file__}" for x in ("ca", "cert", "key")), "--scheduler", "tcp://h:1"),
            "begins with tls://",
        ),
        (tuple(f"--tls-{x}={__file__}" for x in ("ca", "cert", "key")), "--tls-ca needs --workers"),
    ],
)
def test_wrong_use(options, message):
    result = command("ingest", "a", "b.zarr", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_the_script_that_begins_a_cluster_tells_how_it_is_used():
    script = Path(__file__).parents[1] / "scripts" / "cluster" / "ssh"
    told = subprocess.run([script], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    comments = script.read_text(encoding="utf-8").partition("\nset ")[0].splitlines()[1:]
    assert told.stderr.splitlines() == [
        line.removeprefix("#").removeprefix(" ") for line in comments
    ]


def listening(process):
    """List where a process and its children listen."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for each in (process, *process.children(recursive=True))
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.fixture
def looked(monkeypatch):
    """Look at what listens, and at the workers, once the work is to begin; do the work then."""
    seen = SimpleNamespace()
    work = images.quantize

    def look(*args, **kwargs):
        client = get_client()
        seen.scheduler = client.scheduler.address
        seen.limits = [
            worker["memory_limit"] for worker in client.scheduler_info()["workers"].values()
        ]
        seen.listening = listening(psutil.Process())
        seen.ttl = client.run(dask.config.get, "distributed.comm.timeouts.tcp")
        return work(*args, **kwargs)

    monkeypatch.setattr(images, "quantize", look)
    return seen


def test_a_local_cluster_never_stays_without_a_worker():
    # By default Dask gives up a worker that is not there again 15 s after it was lost.
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "10ms"}),
        opened(Workplace(workers=1)),
    ):
        client = get_client()
        (nanny,) = client.cluster.workers.values()
        os.kill(nanny.pid, signal.SIGKILL)
        until(client, 0)
        until(client, 1)
        assert list(client.cluster.workers.values()) == [nanny]
        client.sync(nanny.close)  # what it does where it cannot begin a process
        until(client, 0)
        until(client, 1)
        assert client.submit(operator.add, 1, 1).result(timeout=30) == 2


TERMINATED = """
import os, signal, sys
from distributed import Nanny
from dkmeans import _cli

async def terminated(nanny):
    os.kill(os.getpid(), signal.SIGTERM)
    return await begin(nanny)

begin, Nanny.instantiate = Nanny.instantiate, terminated
sys.argv = ["dkmeans", "ingest", "a.png", "o.zarr", "--workers", "2"]
_cli.main()
"""


def test_a_command_that_is_terminated_while_its_workers_begin_says_no_more_than_that(tmp_path):
    program = [sys.executable, "-c", TERMINATED]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 143
    assert ended.stderr == "dkmeans: terminated; nothing was left half-written\n"
    assert not list(tmp_path.iterdir())


def test_workers_listen_on_loopback_only_and_obey_their_limits(looked, picture, tmp_path):
    before = listening(psutil.Process())
    options = ("--workers", "2", "--memory-limit", "800MiB", "--lost-after", "11")
    record, log = tmp_path / "r.json", tmp_path / "l.jsonl"
    result = command(
        *("quantize", picture, str(tmp_path / "o.png"), "--colors", "4", *options),
        *("--record", str(record), "--log-json", str(log)),
    )
    assert result.exit_code == 0, result.output
    assert len(looked.listening - before) >= 3
    assert {address for address, _ in looked.listening - before} == {"127.0.0.1"}
    assert looked.limits == [800 << 20] * 2
    assert set(looked.ttl.values()) == {"11s"}

    told = json.loads(record.read_text())
    assert (told["format"], told["version"], told["command"]) == ("dkmeans-record", 1, "quantize")
    assert (told["error"], told["failures"], told["result"]["n_passes"]) == (None, [], 2)
    assert told["bytes_read"] == told["result"]["bytes_read"] == 2 * 3 * 64 * 64
    assert [of["bytes"] for of in told["passes"]] == [3 * 64 * 64] * 2
    assert told["options"]["workers"] == 2
    assert told["cluster"]["scheduler"] == looked.scheduler
    assert [worker["memory_limit"] for worker in told["cluster"]["workers"]] == looked.limits
    assert all(50 << 20 < peak < 800 << 20 for peak in told["cluster"]["peak_memory"].values())
    assert len(told["cluster"]["peak_memory"]) == 2
    assert told["versions"]["dkmeans"] == dkmeans.__version__

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    events = [line["event"] for line in lines]
    assert events[:3] == ["job-begun", "cluster", "pass-begun"]
    assert events[-1] == "job-ended"
    shown = [event for event in events if event in ("pass-begun", "pass-ended")]
    assert shown == ["pass-begun", "pass-ended"] * 2
    done = [line for line in lines if line["event"] == "partition-done"]
    assert sum(line["bytes"] for line in done) == 24576
    assert {line["part"] for line in done} == {f"{picture}, rows 0:64, columns 0:64"}
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)


def test_tls(picture, tmp_path):
    certificates = Security.temporary()
    files = {"ca": certificates.tls_ca_file, "cert": certificates.tls_client_cert}
    files["key"] = certificates.tls_client_key
    for kind, text in files.items():
        (tmp_path / f"{kind}.pem").write_text(text)
    ours = [f"--tls-{kind}={tmp_path / kind}.pem" for kind in files]
    work = ("quantize", picture, str(tmp_path / "o.png"), "--colors", "4", "--overwrite")
    with own_scheduler(tls=[ours[0].replace("-ca=", "-ca-file="), *ours[1:]]) as (_, address):
        assert address.startswith("tls://127.0.0.1:")
        for asked in (address, address.removeprefix("tls://")):
            result = command(*work, "--scheduler", asked, *ours)
            assert result.exit_code == 0, result.output
        code = (
            "import asyncio, sys; from distributed.core import connect\n"
            "try: asyncio.run(connect(sys.argv[1], timeout=1))\n"
            "except OSError as error: sys.exit('refused')"
        )
        plain = address.replace("tls://", "tcp://")  # whoever has no certificate
        refused = subprocess.run(
            [sys.executable, "-c", code, plain], capture_output=True, text=True, check=False
        )
        assert (refused.returncode, refused.stderr) == (1, "refused\n")
    record = tmp_path / "r.json"
    result = command(*work, "--workers", "1", *ours, "--record", str(record))
    assert result.exit_code == 0, result.output
    assert json.loads(record.read_text())["cluster"]["scheduler"].startswith("tls://127.0.0.1:")


def test_a_record_tells_of_failures_and_errors(picture, tmp_path):
    bad, record = tmp_path / "bad.png", tmp_path / "r.json"
    bad.write_bytes(Path(picture).read_bytes()[:80])
    output = str(tmp_path / "out")
    result = command(
        "quantize", picture, str(bad), output, "--record", str(record), "--log-json", "-"
    )
    assert result.exit_code == 1
    told = json.loads(record.read_text())
    assert [failure["source"] for failure in told["failures"]] == [str(bad)]
    assert told["cluster"] is None
    assert '"event": "partition-done"' in result.stderr

    result = command("quantize", picture, output, "--record", str(record))
    assert result.exit_code == 1
    assert json.loads(record.read_text())["error"].startswith("OutputError: ")


@pytest.mark.parametrize("option", ["--record", "--performance-report"])
def test_what_cannot_be_written_at_the_end_is_refused_before_the_work(
    monkeypatch, picture, tmp_path, option
):
    monkeypatch.setattr(_cli_records, "find_spec", lambda _: "as if bokeh were there")
    output, missing = str(tmp_path / "o.png"), str(tmp_path / "none" / "r")
    refusals = {missing: "cannot be written (No such file", str(tmp_path): "is a folder; choose"}
    for place, sentence in refusals.items():
        # No scheduler is there: who begins to work says so.
        result = command("quantize", picture, output, "--scheduler", "h:1", option, place)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"dkmeans: error: {place}: {sentence}")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_performance_report_needs_bokeh(monkeypatch, picture, tmp_path):
    monkeypatch.setattr(_cli_records, "find_spec", lambda _: None)
    result = command(
        *("quantize", picture, str(tmp_path / "o.png"), "--scheduler", "h:1"),
        *("--performance-report", str(tmp_path / "r.html")),
    )
    assert (result.exit_code, "install dkmeans[report]" in result.stderr) == (2, True)


def test_a_worker_lost_just_after_it_told_its_peak_does_not_keep_a_job(monkeypatch):
    class Answer:
        status = "finished"

        def __init__(self, address):
            self.address = address

        def result(self, timeout):
            if self.address == "lost":
                raise TimeoutError(timeout)
            return 5

    class Asked:
        def nthreads(self):
            return {"lost": 1, "here": 1}

        def submit(self, _, *, workers, pure):
            assert not pure
            return Answer(*workers)

    monkeypatch.setattr("distributed.wait", lambda *_, **__: None)
    assert _cli_records._worker_peaks(Asked()) == {"here": 5}
