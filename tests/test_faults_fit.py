"""Fits whose processes are killed: what they leave is gone on from, to the same bits.

More of it, with more rounds: ``python scripts/bench/faults_fit.py --help``.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import zarr
from conftest import local_cluster

from dkmeans import KMeans, _checkpoint, _summary_rows

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")

# A summary that is small, so that the data may be; passes that take long enough to be hit.
CHILD = """
import time
from dkmeans import _checkpoint, _cli, _summary_rows
_summary_rows.MIN_ROWS, _summary_rows.ROWS_PER_CLUSTER = 2000, 50
save = _checkpoint.Checkpoint.save
def slowly(self, standing):
    save(self, standing)
    time.sleep(0.1)
_checkpoint.Checkpoint.save = slowly
_cli.main()
"""
FIT = ("-k", "12", "--tol", "0", "--max-iter", "40", "--quiet")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.zarr"
    rows = np.random.default_rng(0).normal(size=(40_000, 4)).astype(np.float32)
    zarr.create_array(str(path), data=rows, chunks=(2000, 4), compressors=None)
    return path


def test_a_client_that_is_killed_goes_on(data, tmp_path):
    def begin(model):
        command = [sys.executable, "-c", CHILD, "fit", str(data), str(model), *FIT, "--resume"]
        return subprocess.Popen(command)

    wanted, model = tmp_path / "wanted.json", tmp_path / "m.json"
    undisturbed = begin(wanted)
    checkpoint, rng = tmp_path / "m.json.checkpoint", random.Random(0)  # noqa: S311 - moments only
    n_iter = []
    for _ in range(2):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        fit = begin(model)
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert fit.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        fit.kill()
        assert fit.wait() == -signal.SIGKILL
        n_iter.append(checkpoint.read_text().partition('"n_iter": ')[2].partition(",")[0])
    assert len(set(n_iter)) == 2  # each went on from where the last one was
    assert begin(model).wait() == 0
    assert undisturbed.wait() == 0
    assert model.read_bytes() == wanted.read_bytes()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"rows.zarr", "m.json", "wanted.json"}


def test_a_worker_that_is_killed_costs_no_bit(data, tmp_path, monkeypatch):
    monkeypatch.setattr(_summary_rows, "MIN_ROWS", 2000)
    monkeypatch.setattr(_summary_rows, "ROWS_PER_CLUSTER", 50)
    estimator = KMeans(12, random_state=0, tol=0, max_iter=10)
    wanted = estimator.fit(str(data))
    centers, inertia = wanted.cluster_centers_.tobytes(), wanted.inertia_
    with (
        local_cluster(n_workers=2, threads_per_worker=1, host="127.0.0.1") as cluster,
        cluster.get_client(),
    ):
        victims = [worker.process.pid for worker in cluster.workers.values()]
        save, n_saved = _checkpoint.Checkpoint.save, []

        def kill_one(self, standing):
            save(self, standing)
            n_saved.append(1)
            if len(n_saved) == 3:  # while the next pass runs
                kill = (os.kill, (victims[0], signal.SIGKILL))
                threading.Timer(0.02, kill[0], kill[1]).start()

        monkeypatch.setattr(_checkpoint.Checkpoint, "save", kill_one)
        found = estimator.fit(str(data), checkpoint=tmp_path / "c")
    assert len(n_saved) > 5
    assert found.cluster_centers_.tobytes() == centers
    assert found.inertia_ == inertia
