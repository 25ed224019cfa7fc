"""Plans against what jobs then do: passes, bytes, tasks, and the memory of real processes."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import dask
import dask.array as da
import distributed  # noqa: F401 - its defaults say when data move to disk
import numpy as np
import pandas as pd
import psutil
import pytest
import tifffile
import zarr
from click.testing import CliRunner
from conftest import local_cluster, traced
from PIL import Image

import dkmeans
from dkmeans import _jobs, _needs, _needs_tables, _summary_looks, _summary_rows, _summary_steps
from dkmeans._cli import cli
from dkmeans._frame import Frame
from dkmeans._frame_ranges import Ranges
from dkmeans._needs import Needs, Pass, Room
from dkmeans._passes import Passes
from dkmeans._passes_memory import WORKER
from dkmeans._tables import table as table_of
from dkmeans._validation import InsufficientMemoryError, InvalidArgumentError

MIB = 1 << 20


@pytest.fixture
def ran(monkeypatch):
    """The passes that jobs run: names, bytes and numbers of tasks."""
    passes = []
    run = Passes.run

    def spy(self, name, work, partitions, merge):
        before = self.bytes_read
        result = run(self, name, work, partitions, merge)
        passes.append((name, self.bytes_read - before, len(partitions)))
        return result

    monkeypatch.setattr(Passes, "run", spy)
    return passes


def noise(height, width, n_colors=1 << 24):
    """A picture of random colours."""
    codes = np.random.default_rng(0).integers(0, n_colors, height * width).astype("<u4")
    return codes.view(np.uint8).reshape(height, width, 4)[..., :3].copy()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A picture in each kind of file."""
    folder = tmp_path_factory.mktemp("pictures")
    image = noise(700, 900)
    tifffile.imwrite(folder / "tiles.tif", image, tile=(128, 128), compression="zlib")
    tifffile.imwrite(folder / "strips.tif", image, rowsperstrip=16)
    Image.fromarray(image).save(folder / "a.png")
    Image.fromarray(image).save(folder / "a.jpg")
    zarr.create_array(folder / "a.zarr", data=image, chunks=(256, 256, 3))
    return folder


def as_ran(plan):
    """The passes of a plan, as `ran` has them."""
    return [(each.name, each.bytes_read, each.n_tasks) for each in plan.passes]


@pytest.mark.parametrize("name", ["tiles.tif", "strips.tif", "a.png", "a.jpg", "a.zarr", ""])
@pytest.mark.parametrize("output", ["out.zarr", "out"])
def test_quantize_does_what_was_planned(pictures, name, output, tmp_path, ran):
    with dask.config.set(num_workers=3):
        plan = dkmeans.plan(pictures / name, tmp_path / output, n_colors=16, calibrate=False)
        assert not ran
        assert not list(tmp_path.iterdir())
        result = dkmeans.quantize(pictures / name, tmp_path / output, n_colors=16)
    assert as_ran(plan) == ran
    assert plan.n_passes == (result.n_passes,) * 2
    assert plan.bytes_read == (result.bytes_read,) * 2
    assert plan.n_tasks == (sum(n for _, _, n in ran),) * 2
    assert plan.staging == (0 if name in ("tiles.tif", "strips.tif", "a.zarr") else
                            sum(700 * 900 * 3 for _ in range(2 if name == "" else 1)))  # fmt: skip
    assert plan.n_rows == result.n_pixels
    assert plan.seconds is None


def test_nothing_is_staged_beside_an_output_elsewhere(pictures, tmp_path):
    url = "s3://bucket/out.png"
    assert dkmeans.plan(pictures / "a.png", url, calibrate=False).staging == 0
    plan = dkmeans.plan(pictures / "a.png", url, staging=str(tmp_path), calibrate=False)
    assert plan.staging == 700 * 900 * 3
    assert dkmeans.plan(pictures / "a.png", "s3://bucket/out.v1/", calibrate=False).staging == 0
    with pytest.raises(InvalidArgumentError, match="with / at its end"):
        dkmeans.plan(pictures / "a.png", "s3://bucket/out.v1", calibrate=False)


@pytest.mark.parametrize("name", ["tiles.tif", "a.png", ""])
def test_ingest_does_what_was_planned(pictures, name, tmp_path, ran):
    plan = dkmeans.plan(pictures / name, job="ingest", calibrate=False)
    result = dkmeans.ingest(pictures / name, tmp_path / "store.zarr")
    assert as_ran(plan) == ran
    assert plan.bytes_read == (result.bytes_read,) * 2
    assert plan.bytes_written == result.bytes_read


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """More rows than a summary holds, in Zarr."""
    rows = np.random.default_rng(0).normal(size=(150_000, 8)).astype(np.float32)
    path = tmp_path_factory.mktemp("table") / "rows.zarr"
    zarr.create_array(path, data=rows, chunks=(10_000, 8))
    return path


def test_fit_does_what_was_planned(table, ran):
    plan = dkmeans.plan(table, n_clusters=5, max_iter=2)
    model = dkmeans.KMeans(5, max_iter=2, tol=0, random_state=0).fit(str(table))
    summarise, *refine = ran
    assert as_ran(plan)[:1] == [summarise]
    assert {*as_ran(plan)[1:]} == {*refine}
    least, most = plan.n_passes
    assert (least, most) == (3, 4)
    assert least <= model.n_passes_ <= most
    assert plan.seconds[0] < plan.seconds[1]


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (np.zeros((100, 3)), ["summarise"]),
        (pd.DataFrame({"a": [1, 2], "b": [0.5, 0.25]}), ["summarise"]),
        ([[1, 2], [3, 4]], ["summarise"]),
        (np.zeros((200_000, 3), np.uint8), ["count"]),
        (da.zeros((1000, 4), chunks=(100, 4)), ["summarise"]),
    ],
)
def test_data_that_are_solved_in_memory_are_read_once(rows, names, ran):
    plan = dkmeans.plan(rows, n_clusters=1)
    assert [each.name for each in plan.passes] == names
    assert plan.n_passes == (1, 1)
    model = dkmeans.KMeans(1).fit(rows)
    assert model.n_passes_ == 1
    assert as_ran(plan) == ran


@pytest.mark.parametrize("kind", ["array", "list", "batches"])
def test_the_read_that_finds_sizes_of_chunks_counts(kind, ran):
    reads = []

    def block(values):
        reads.append(len(values))
        return values

    rows = da.from_array(np.random.default_rng(0).normal(size=(1000, 4)), chunks=(100, 4))
    data = rows[rows[:, 0] > 0].map_blocks(block, meta=np.empty((0, 4)))
    data = [data, rows] if kind == "list" else data
    options = {"compute_labels": False} if kind == "batches" else {}
    model = (dkmeans.MiniBatchKMeans if options else dkmeans.KMeans)(2, **options).fit(data)
    assert model.n_passes_ == len(reads) / 10 == len(ran) + 1 == 2
    plan = dkmeans.plan(data, n_clusters=2)
    assert plan.n_passes == (2, 2)
    assert as_ran(plan)[1:] == ran
    n_rows = sum(reads) // 3
    assert as_ran(plan)[0] == ("find sizes", n_rows * 4 * 8, 10)


@pytest.fixture
def small_summaries(monkeypatch):
    """Let few rows be more than a summary holds."""
    monkeypatch.setattr(_summary_rows, "MIN_ROWS", 4096)
    monkeypatch.setattr(_summary_rows, "ROWS_PER_CLUSTER", 10)


@pytest.mark.usefixtures("small_summaries")
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize(
    ("n_features", "n_clusters", "n_colors", "planned"),
    [(3, 4, 5, (1, 2)), (3, 4, 3, (1, 2)), (1, 256, 256, (1, 2)), (1, 257, 256, (2, 2)),
     (3, 257, 256, (1, 2))],
)  # fmt: skip
def test_rows_of_fewer_colours_than_clusters_are_read_again(
    n_features, n_clusters, n_colors, planned, ran
):
    rows = np.repeat((np.arange(9000) % n_colors)[:, None], n_features, 1).astype(np.uint8)
    plan = dkmeans.plan(rows, n_clusters=n_clusters)
    assert plan.n_passes == planned
    assert plan.seconds[0] < plan.seconds[1]
    assert dkmeans.KMeans(n_clusters).fit(rows).n_passes_ == len(ran)
    assert len(ran) == (1 if n_colors >= n_clusters else 2)
    assert as_ran(plan)[: len(ran)] == ran


@pytest.mark.usefixtures("small_summaries")
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_rows_of_fewer_colours_than_clusters_are_not_kept(monkeypatch):
    looks, look = [], _summary_looks.look
    monkeypatch.setattr(_summary_rows, "MIDDLE", 16)
    monkeypatch.setattr(
        _summary_looks, "look", lambda *args: looks.append(look(*args)) or looks[-1]
    )
    rows = np.repeat((np.arange(9000) % 3)[:, None], 3, 1).astype(np.uint8)
    assert sorted(dkmeans.KMeans(4).fit(rows).counts_) == [0, 3000, 3000, 3000]
    assert [len(found.sample.rows) <= 17 for found in looks] == [True]


@pytest.fixture(scope="module")
def model(table, tmp_path_factory):
    """Of the table."""
    path = tmp_path_factory.mktemp("model") / "model.json"
    dkmeans.KMeans(3, n_init=1, max_iter=1).fit(str(table)).save(path)
    return path


def test_predict_does_what_was_planned(table, model, tmp_path, ran):
    plan = dkmeans.plan(table, model=model)
    _jobs.predict(str(model), str(table), str(tmp_path / "labels.zarr"))
    assert as_ran(plan) == ran
    assert (plan.job, plan.n_rows, plan.bytes_written) == ("predict", 150_000, 600_000)
    assert 0 < plan.seconds[0] < plan.seconds[1]


@pytest.mark.parametrize("name", ["tiles.tif", "a.png"])
def test_time_is_told_from_blocks_tried_out(pictures, name):
    plan = dkmeans.plan(pictures / name, n_colors=4)
    assert 0 < plan.seconds[0] < plan.seconds[1]
    assert plan == replace(
        dkmeans.plan(pictures / name, n_colors=4, calibrate=False), seconds=plan.seconds,
        memory_limit=plan.memory_limit, memory_usable=plan.memory_usable,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"job": "mow"}, "job is 'mow'"),
        ({"job": "fit"}, "a fit needs it"),
        ({"n_clusters": 3, "job": "ingest"}, "n_clusters belongs to a fit"),
        ({"n_colors": 3, "job": "ingest"}, "n_colors is 3; it belongs to quantize"),
        ({"n_clusters": 3, "staging": "x"}, "staging is 'x'; it belongs to quantize"),
        ({"n_colors": 1}, "n_colors is 1"),
        ({"output": 3}, "output is 3; it must be a path"),
        ({"staging": ""}, "staging is ''; it must be a path"),
        ({"job": "predict"}, "which needs it"),
        ({"model": "m.json", "job": "ingest"}, "a model belongs to predict"),
    ],
)
def test_what_contradicts_is_refused(pictures, options, complaint):
    with pytest.raises(InvalidArgumentError, match=complaint):
        dkmeans.plan(pictures / "a.png", **options)


# Memory


def peak(pid):
    """The most that a process had resident, as the kernel noted it."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def states(client):
    """What the memory managers of the workers have done: bytes spilled, and whether they paused."""

    def state(dask_worker):
        data = dask_worker.data
        return getattr(data, "spilled_total", (0, 0))[0], dask_worker.status.name

    return client.run(state).values()


needs_kernel = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux notes the peaks of processes"
)


@needs_kernel
def test_memory_stays_within_the_plan_and_the_limit(tmp_path, table):
    path = tmp_path / "noise.tif"
    tifffile.imwrite(path, noise(3000, 3000), tile=(512, 512), compression="zlib")
    # Kernels that others have not yet compiled would be, in this process.
    dkmeans.quantize(path, tmp_path / "warm.zarr", n_colors=8)
    dkmeans.KMeans(4, max_iter=1).fit(str(table))
    options = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1"}
    with (
        local_cluster(memory_limit=700 * MIB, **options) as cluster,
        cluster.get_client() as client,
    ):
        addresses = client.nthreads().keys()
        pids = list(client.run(os.getpid).values())
        plan = dkmeans.plan(path, n_colors=8, calibrate=False)
        assert plan.memory_limit == 700 * MIB
        dkmeans.quantize(path, tmp_path / "out.zarr", n_colors=8)
        most = max(map(peak, pids))
        assert most <= plan.memory_worker <= 1.5 * most
        fit = dkmeans.plan(table, n_clusters=4, max_iter=2, calibrate=False)
        dkmeans.KMeans(4, max_iter=2, random_state=0).fit(str(table))
        assert max(map(peak, pids)) <= max(fit.memory_worker, plan.memory_worker)
        assert all(state == (0, "running") for state in states(client))
        assert client.nthreads().keys() == addresses  # none has been restarted


def needs(task, result=0, n=1, **options):
    return Needs((Pass("look", n, task, result=result, **options),), client=0, libraries=0)


def test_results_that_wait_are_counted():
    few, many = needs(0, result=1, n=1), needs(0, result=1, n=24)
    assert few.of_worker(1) - WORKER == 1 + 1
    assert many.of_worker(1) - WORKER == 4 + 3 + 1 + 1  # of 24, 6 and 2; and a copy
    whole = needs(0, result=100, n=24, is_sum=False)
    assert whole.of_worker(1) - WORKER == 200
    assert needs(10, n=9).of_threads(4) == WORKER + 40


CLUSTER = Room(2, 1, on_cluster=True, limit=1000 * MIB)


OF_CLUSTER = (
    "fit needs {} a worker, and the limit is 1000 MiB, of which 70% before data move to disk: "
    "give --memory-limit {} (memory_limit of the workers)"
)


@pytest.mark.parametrize(
    ("room", "task", "sentence"),
    [
        (CLUSTER, 485 * MIB, None),  # with 215 MiB that is 70 %
        (replace(CLUSTER, limit=None), 1 << 50, None),
        (CLUSTER, 486 * MIB, OF_CLUSTER.format("701 MiB", "1002MiB") + "."),
        (
            replace(CLUSTER, n_threads=2),
            400 * MIB,
            OF_CLUSTER.format("1015 MiB", "1.5GiB")
            + ", or to each worker one thread, which needs 615 MiB.",
        ),
        (
            Room(1, 4, on_cluster=False, limit=1000 * MIB),
            300 * MIB,
            (
                "fit needs 1.4 GiB, and 1000 MiB are available: give "
                "dask.config.set(num_workers=2) or --workers 2, end other programs, or work where "
                "there is more memory."
            ),
        ),
        (
            Room(1, 4, on_cluster=False, limit=1000 * MIB, has_data=True),
            300 * MIB,
            (
                "fit needs 1.4 GiB, and 1000 MiB are available: give "
                "dask.config.set(num_workers=2) or set DASK_NUM_WORKERS=2, end other programs, or "
                "work where there is more memory."
            ),
        ),
        (
            Room(4, 1, on_cluster=False, limit=1000 * MIB),
            3000 * MIB,
            (
                "fit needs 3.1 GiB, and 1000 MiB are available: end other programs, or work where "
                "there is more memory."
            ),
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(monkeypatch, room, task, sentence):
    monkeypatch.setattr(_needs, "room", lambda: room)
    if sentence is None:
        _needs.refuse_beyond("fit", lambda _: needs(task, n=9))
        return
    with pytest.raises(InsufficientMemoryError) as caught:
        _needs.refuse_beyond("fit", lambda _: needs(task, n=9))
    assert str(caught.value) == sentence


@pytest.mark.parametrize(("d", "k"), [(3, 200), (3, 5), (8, 100), (8, 2)])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_steps_keep_of_rows_in_memory_is_reckoned(monkeypatch, d, k, weighted):
    rows = np.random.default_rng(0).normal(size=(200_000, d)).astype(np.float32)
    weights = np.ones(len(rows)) if weighted else None
    ranges, _ = Ranges.of(rows, weights, lambda: np.arange(len(rows)))
    frame = Frame.of(ranges, np.zeros(d), rows.dtype, weighted=weighted)

    def assign_twice():
        steps = _summary_steps.Steps(frame, rows, weights, k)
        for _ in range(2):
            steps.assign(rows[:k].astype(np.float64))
        assert steps.labels is not None

    assign_twice()  # kernels are compiled, or loaded
    _, peak = traced(assign_twice)
    reckoned = _summary_steps.bytes_of(rows, weights, k)
    assert peak <= 1.1 * reckoned + (1 << 20)
    assert reckoned <= 1.5 * peak
    monkeypatch.setattr(_summary_rows, "MIN_ROWS", 100)
    monkeypatch.setattr(_summary_rows, "ROWS_PER_CLUSTER", 100)
    found = _needs_tables.fit(table_of(rows, weights), k, CLUSTER)
    assert found.passes[-1].shared >= reckoned


@pytest.mark.parametrize("kind", ["array", "list"])
@pytest.mark.parametrize(
    ("dtype", "k", "n_equal"),
    [("f4", 4, 0), ("f4", 4, 9), ("f4", 40, 9), ("f8", 4, 0), ("u1", 4, 0), ("u1", 40, 0)],
)
def test_what_rows_take_that_are_solved_whole_is_reckoned(dtype, k, n_equal, kind):
    rows = np.random.default_rng(0).normal(100, 20, size=(40_000, 50)).astype(dtype)
    rows[:n_equal] = rows[-1]
    data = rows if kind == "array" else [rows[:9000], rows[9000:]]
    model = dkmeans.KMeans(k, max_iter=2, random_state=0)
    model.fit(data)  # kernels are loaded
    _, most = traced(model.fit, data)
    reckoned = _needs_tables.fit(table_of(data), k, CLUSTER)
    assert reckoned.given == rows.nbytes
    # What is held in Python's own memory, and by each thread, comes on top, and does not grow.
    assert most <= reckoned.client + (1 << 20)
    # Only where some are equal, which nobody knows before, rows are joined, and so copied.
    assert reckoned.client <= (1.7 if n_equal or k == 40 else 4) * most


def test_data_in_memory_are_planned_for_where_they_are(monkeypatch, model):
    monkeypatch.setattr(_needs, "room", lambda: CLUSTER)
    rows = np.zeros((50_000, 8), np.float32)
    limits = []
    for options in ({"n_clusters": 3}, {"model": model}):
        plan = dkmeans.plan(rows, calibrate=False, **options)
        assert (plan.n_workers, plan.n_threads) == (1, dask.system.CPU_COUNT)
        assert plan.memory_client == plan.memory_worker > rows.nbytes
        assert plan.fits
        limits.append(plan.memory_limit)
    assert min(limits) > rows.nbytes
    assert dkmeans.plan(da.from_array(rows), n_clusters=3, calibrate=False).n_workers == 2


def test_data_in_memory_that_cannot_be_fitted_are_refused(monkeypatch, tmp_path, ran):
    rows = np.random.default_rng(0).normal(size=(50_000, 64))
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    needed = [_needs_tables.fit(table_of(data), 3, CLUSTER) for data in (rows, mapped)]
    assert [each.given for each in needed] == [rows.nbytes, 0]
    more = needed[0].client
    monkeypatch.setattr(_needs, "free", lambda: more - 1)
    for data in (rows, mapped, rows.reshape(50, 1000, 64)):
        assert not dkmeans.plan(data, n_clusters=3, calibrate=False).fits
        for kind in (dkmeans.KMeans, dkmeans.MiniBatchKMeans):
            with pytest.raises(InsufficientMemoryError, match=r"fit needs .* are available"):
                kind(3).fit(data)
    assert not ran
    dkmeans.KMeans(3, max_iter=1).fit(rows[:1000])  # so little is not looked at
    monkeypatch.setattr(_needs, "free", lambda: more)
    assert dkmeans.KMeans(3, max_iter=1).fit(rows).n_passes_ == len(ran) - 1


def test_jobs_that_cannot_fit_do_nothing(monkeypatch, pictures, table, tmp_path, ran):
    monkeypatch.setattr(_needs, "room", lambda: replace(CLUSTER, limit=200 * MIB))
    jobs = {
        "quantize": lambda: dkmeans.quantize(pictures, tmp_path / "out"),
        "ingest": lambda: dkmeans.ingest(pictures, tmp_path / "out.zarr"),
        "fit": lambda: dkmeans.KMeans(3).fit(str(table)),
        "fit by batches": lambda: dkmeans.MiniBatchKMeans(3).fit(str(table)),
    }
    for name, job in jobs.items():
        needs_ = f"{name.split()[0]} needs .* --memory-limit"
        with pytest.raises(InsufficientMemoryError, match=needs_):
            job()
    assert not ran
    assert not list(tmp_path.iterdir())
    assert not dkmeans.plan(pictures, calibrate=False).fits


def test_labels_that_cannot_fit_are_not_begun(monkeypatch, table, model, tmp_path, ran):
    monkeypatch.setattr(_needs, "room", lambda: replace(CLUSTER, limit=200 * MIB))
    with pytest.raises(InsufficientMemoryError, match=r"predict needs .* --memory-limit"):
        _jobs.predict(str(model), str(table), str(tmp_path / "labels.zarr"))
    assert not ran
    assert not list(tmp_path.iterdir())


def test_what_is_available_holds_what_this_process_has():
    resident = psutil.Process().memory_info().rss
    assert resident / 2 < _needs.available() <= psutil.virtual_memory().total + resident


def test_what_is_kept_of_files_is_free_in_a_container(monkeypatch, tmp_path):
    stat = f"anon {300 * MIB}\ninactive_file {500 * MIB}\nactive_file {1000 * MIB}\n"
    told = {"max": f"{2000 * MIB}\n", "current": f"{1800 * MIB}\n", "stat": stat}
    for name, content in told.items():
        (tmp_path / f"memory.{name}").write_text(content)
    monkeypatch.setattr(_needs, "_CGROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9000 * MIB))
    assert _needs.free() == 1700 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert _needs.free() == 9000 * MIB


# The command


def run(*arguments):
    return CliRunner().invoke(cli, ["plan", *map(str, arguments)])


def test_the_command_prints_a_plan(pictures, tmp_path):
    result = run(pictures / "a.png", tmp_path / "b.png", "--colors", "4", "--no-calibrate")
    assert result.exit_code == 0
    assert "quantize, 0.6 megapixels of 1 source" in result.output
    assert "2: count colours 1 x 1.8 MiB in 1 tasks" in result.output
    assert "Time" not in result.output


def test_the_command_prints_json(table):
    result = run(table, "-k", 3, "--json")
    plan = json.loads(result.output)
    assert plan["job"] == "fit"
    assert plan["n_rows"] == 150_000
    assert plan["n_passes"] == [3, 6]
    assert plan["memory_worker"] > 225 * MIB


def test_the_command_plans_for_files_of_numpy_and_for_labels(tmp_path, table, model):
    np.save(tmp_path / "rows.npy", np.zeros((100, 3)))
    options = ("--no-calibrate", "--json")
    for arguments, told in (
        ((tmp_path / "rows.npy", "-k", 2), ("fit", 100)),
        ((table, "--model", model), ("predict", 150_000)),
    ):
        plan = json.loads(run(*arguments, *options).output)
        assert (plan["job"], plan["n_rows"]) == told


def test_the_command_tells_what_would_be_refused(monkeypatch, table):
    monkeypatch.setattr(_needs, "room", lambda: replace(CLUSTER, limit=200 * MIB))
    result = run(table, "--clusters", 3, "--no-calibrate")
    assert result.exit_code == 1
    assert "the job would be refused" in result.output
    limit = "limit 200.0 MiB, of which 140.0 MiB before data move to disk"
    assert limit in " ".join(result.output.split())


@pytest.mark.parametrize("job", ["quantize", "ingest"])
def test_a_damaged_picture_does_not_stop_a_plan_unless_it_is_the_only_one(tmp_path, job):
    Image.fromarray(noise(60, 60)).save(tmp_path / "b.jpg")
    content = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    result = run(tmp_path, "--job", job)
    assert result.exit_code == 0, result.output
    assert "Time" in result.output
    (tmp_path / "b.jpg").unlink()
    result = run(tmp_path, "--job", job)
    assert result.exit_code == 1
    assert f"dkmeans: error: {tmp_path / 'a.jpg'}: " in result.output


def test_the_command_tells_that_data_do_not_fit_the_model(tmp_path, model):
    np.save(tmp_path / "wide.npy", np.zeros((100, 77)))
    result = run(tmp_path / "wide.npy", "--model", model)
    assert result.exit_code == 2
    assert "dkmeans: error: X has 77 features, but KMeans is expecting" in result.output


def test_the_command_tells_that_there_are_fewer_rows_than_clusters(table):
    result = run(table, "-k", 150_001, "--no-calibrate")
    assert result.exit_code == 2
    assert "dkmeans: error: --clusters is 150001, but there are 150000 rows" in result.output
