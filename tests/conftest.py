"""What several test modules share."""

import dask
import pytest
from hypothesis import HealthCheck, settings
from sklearn.datasets import load_sample_images

# How long an example takes says nothing: kernels compile at their first call, machines are busy.
settings.register_profile("dkmeans", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dkmeans")


@pytest.fixture(scope="session")
def photos():
    """Two real photographs, 427 x 640 RGB, read-only."""
    images = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    for image in images.values():
        image.flags.writeable = False
    return images


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
