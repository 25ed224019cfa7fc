"""What several test modules share."""

import dask
import pytest
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def photos():
    """Two real photographs, 427 x 640 RGB, read-only."""
    images = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    for image in images.values():
        image.flags.writeable = False
    return images


@pytest.fixture(scope="session")
def cluster():
    """Start two worker processes of one thread each."""
    from distributed import LocalCluster  # noqa: PLC0415 - slow, and most tests need none

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address=None,
    ) as running:
        yield running


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
