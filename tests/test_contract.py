"""The numeric contract of the estimators: the same bits everywhere, and right ones."""

import hashlib
import math

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from conftest import local_cluster
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.datasets import make_blobs

from dkmeans import KMeans, MiniBatchKMeans
from dkmeans import _summary_rows as summary_rows

N, D, K = 6000, 4, 5


def table_of(dtype):
    """Return rows, read-only, in `dtype`."""
    rows, _ = make_blobs(N, D, centers=9, cluster_std=2.5, random_state=1)
    if np.dtype(dtype).kind == "u":
        low, high = rows.min(), rows.max()
        rows = np.rint((rows - low) / (high - low) * np.iinfo(dtype).max)
    rows = rows.astype(dtype)
    rows.flags.writeable = False
    return rows


def weights_of(weighted):
    """Return weights for N rows, some zero; or None."""
    return np.random.default_rng(2).integers(0, 4, N) / 3 if weighted else None


CHUNKINGS = {
    "one": (N, D),
    "even": (1500, D),
    "odd": (977, D),
    "features": (2000, 3),
    "ragged": ((1, 4000, 0, 999, 1000), (1, 3)),
}


def digest(model):
    """Return a hash of the centres, labels and inertia."""
    labels = np.asarray(model.labels_, np.int32)
    parts = (model.cluster_centers_.tobytes(), labels.tobytes(), repr(model.inertia_).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.fixture
def small_summary(monkeypatch):
    """Make summaries so small that a few thousand rows are refined in passes."""
    monkeypatch.setattr(summary_rows, "MIN_ROWS", 500)
    monkeypatch.setattr(summary_rows, "ROWS_PER_CLUSTER", 100)


@pytest.fixture(scope="module", params=[1, 2, 4])
def workers(request):
    """Start worker processes of one thread each."""
    with local_cluster(n_workers=request.param, threads_per_worker=1, host="127.0.0.1") as running:
        yield running


def fits(rows, weights, chunkings, **options):
    """Yield the digest of a fit for each way to store the rows."""
    for chunks in chunkings:
        stored = da.from_array(rows, chunks=CHUNKINGS[chunks])
        lazy = None if weights is None else da.from_array(weights, chunks=stored.chunks[0])
        yield digest(KMeans(K, random_state=3, **options).fit(stored, sample_weight=lazy))


@pytest.mark.usefixtures("small_summary")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "uint16"])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_the_same_bits_for_any_chunking_and_local_scheduler(dtype, weighted, scheduler):
    rows, weights = table_of(dtype), weights_of(weighted)
    expected = KMeans(K, random_state=3).fit(rows, sample_weight=weights)
    assert expected.n_passes_ > 2, "the rows are more than a summary"
    with dask.config.set(scheduler=scheduler, num_workers=3):
        found = set(fits(rows, weights, CHUNKINGS))
    assert found == {digest(expected)}


@pytest.mark.usefixtures("small_summary")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "uint16"])
def test_the_same_bits_for_any_number_of_workers(dtype, weighted, workers):
    rows, weights = table_of(dtype), weights_of(weighted)
    expected = digest(KMeans(K, random_state=3).fit(rows, sample_weight=weights))
    with workers.get_client():
        assert set(fits(rows, weights, ["features" if weighted else "odd"])) == {expected}


@pytest.mark.usefixtures("small_summary")
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random", "array"])
@pytest.mark.parametrize("estimator", [KMeans, MiniBatchKMeans])
def test_the_same_bits_for_any_start(estimator, init, tmp_path):
    rows = table_of("float32")
    init = rows[:K] if init == "array" else init
    stored = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=rows.shape, chunks=(700, 3), dtype="f4"
    )
    stored[...] = rows
    expected = digest(estimator(K, init=init, random_state=0).fit(rows))
    for data in (da.from_array(rows, chunks=(977, 2)), stored, str(tmp_path / "a.zarr")):
        assert digest(estimator(K, init=init, random_state=0).fit(data)) == expected


@pytest.mark.parametrize("in_passes", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_order_and_copies_are_without_effect(dtype, in_passes, request):
    if in_passes:
        request.getfixturevalue("small_summary")
    rows = table_of(dtype)[:1500]
    rng = np.random.default_rng(0)
    copies = rng.integers(0, 4, len(rows))
    order = rng.permutation(int(copies.sum()))
    start = rows[:K] + rows.dtype.type(0.25)
    options = {"init": start, "max_iter": 7, "tol": 0}
    weighted = KMeans(K, **options).fit(rows, sample_weight=copies)
    repeated = KMeans(K, **options).fit(np.repeat(rows, copies, axis=0)[order])
    atol = 1e-14 if in_passes else 0  # in passes the scales differ by the largest weight
    np.testing.assert_allclose(
        weighted.cluster_centers_, repeated.cluster_centers_, rtol=0, atol=atol
    )
    assert weighted.inertia_ == pytest.approx(repeated.inertia_, rel=1e-14)
    np.testing.assert_array_equal(weighted.counts_, repeated.counts_)


# Where others are wrong


def test_centres_of_many_float32_rows():
    """Sums in float32 stop growing at 2**24 rows of a cluster."""
    base = np.random.default_rng(0).uniform(0, 100, 1_000_000).astype(np.float32)
    block = da.from_array(base[:, None], chunks=(500_000, 1))
    far = da.full((1000, 1), 1e4, np.float32, chunks=1000)
    rows = da.concatenate([*(block for _ in range(20)), far])
    start = np.array([[50], [1e4]], np.float32)
    model = KMeans(2, init=start, max_iter=2, tol=0).fit(rows)
    true = np.float32(math.fsum(base.tolist()) / len(base))
    assert model.counts_.tolist() == [20_000_000, 1000]
    assert abs(model.cluster_centers_[0, 0] - true) <= np.spacing(true)
    assert model.cluster_centers_[1, 0] == 1e4


def test_inertia_is_a_sum_of_squares():
    rows = np.array([[0.0], [3.0], [100.0], [104.0]])
    model = KMeans(2, random_state=0).fit(rows)
    assert model.inertia_ == 2 * 1.5**2 + 2 * 2.0**2


def test_an_empty_cluster_gets_far_rows_not_the_origin():
    rows = np.array([[10.0, 10], [11, 10], [30, 30], [31, 30], [50, 10]])
    start = np.array([[10.0, 10], [30, 30], [1e6, 1e6]])
    model = KMeans(3, init=start, n_init=1).fit(rows)
    assert sorted(model.counts_.tolist()) == [1, 2, 2]
    assert (model.cluster_centers_.min(axis=0) >= 10).all()


@pytest.mark.usefixtures("small_summary")
def test_an_empty_cluster_in_passes():
    rows = table_of("float64")
    start = np.vstack([rows[:3], [[1e6] * D, [-1e6] * D]])
    model = KMeans(K, init=start, n_init=1, tol=0).fit(da.from_array(rows, chunks=(900, D)))
    reference = SklearnKMeans(K, init=start, n_init=1, tol=0).fit(rows)
    assert (model.counts_ > 0).all()
    assert model.inertia_ <= reference.inertia_ * 1.05


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int16"])
def test_centres_of_integers_are_not_integers(dtype):
    rows = np.array([[1, 2], [2, 2], [2, 3], [100, 90], [101, 90], [101, 91]], dtype)
    model = KMeans(2, random_state=0).fit(da.from_array(rows, chunks=(2, 2)))
    centers = model.cluster_centers_[np.argsort(model.cluster_centers_[:, 0])]
    assert centers.dtype == np.float64
    np.testing.assert_allclose(centers, [[5 / 3, 7 / 3], [302 / 3, 271 / 3]], rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_small_inertia_does_not_cancel(dtype):
    rng = np.random.default_rng(0)
    rows = rng.normal(1, 1e-4, (500, 3)).astype(dtype)
    rows[:250] += 1
    model = KMeans(2, random_state=0).fit(rows)
    exact = rows.astype(np.float64)
    centers = model.cluster_centers_.astype(np.float64)
    true = math.fsum(((exact - centers[model.labels_]) ** 2).ravel().tolist())
    assert model.inertia_ == pytest.approx(true, rel=1e-12)
    assert 1e-6 < model.inertia_ < 1e-4


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("heavy", [1.0, 1e3])
def test_far_or_heavy_rows_take_nothing_from_the_centres_of_others(sign, heavy):
    """Where sums are as small as this beside the largest term, negative ones are no worse."""
    near = sign * np.random.default_rng(0).uniform(1e-3, 2e-3, 1001)
    rows = np.concatenate([near, [-1e9, 1e9]])[:, None]
    weights = np.append(np.ones(len(near)), [heavy, heavy])
    model = KMeans(3, init=[[0.0], [-1e9], [1e9]], tol=0).fit(rows, sample_weight=weights)
    assert model.counts_.tolist() == [1001, heavy, heavy]
    assert model.cluster_centers_[0, 0] == pytest.approx(math.fsum(near) / 1001, rel=1e-14, abs=0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_scale_and_offset_are_without_effect(scale, offset):
    rows, labels = make_blobs(400, 3, centers=4, cluster_std=0.3, random_state=0)
    moved = ((rows + offset) * scale).astype(np.float64)
    plain = KMeans(4, random_state=0, n_init=3).fit(rows)
    model = KMeans(4, random_state=0, n_init=3).fit(moved)
    pairs = {*zip(labels.tolist(), model.labels_.tolist(), strict=True)}
    assert len(pairs) == 4, "each cluster has one label"
    assert model.inertia_ / scale**2 == pytest.approx(plain.inertia_, rel=1e-6)


def test_float32_labels_are_those_of_exact_arithmetic():
    """Rows between centres that are closer to each other than float32 can tell by products."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (4000, 6)).astype(np.float32) + np.float32(100)
    centers = (rng.normal(0, 1e-5, (20, 6)) + 100).astype(np.float32)
    model = KMeans(20, init=centers, n_init=1, max_iter=1).fit(rows)
    found = model.cluster_centers_.astype(np.float64)
    distances = ((rows.astype(np.float64)[:, None] - found) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(model.labels_, distances.argmin(axis=1))


@pytest.mark.usefixtures("small_summary")
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_a_refined_fit_is_as_good_as_scikit_learns(dtype):
    rows = table_of(dtype)
    ours = np.mean([KMeans(K, random_state=i).fit(rows).inertia_ for i in range(4)])
    theirs = [
        SklearnKMeans(K, random_state=i, n_init=1).fit(rows.astype(np.float64)).inertia_
        for i in range(4)
    ]
    assert ours <= np.mean(theirs) * 1.001


@pytest.mark.usefixtures("small_summary")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_refinement_without_tol_ends_where_no_centre_moves(dtype):
    rows = table_of(dtype)
    model = KMeans(K, random_state=0, tol=0).fit(rows)
    assert model.stop_reason_ == "converged"
    means = [rows[model.labels_ == c].mean(axis=0, dtype=np.float64) for c in range(K)]
    np.testing.assert_allclose(model.cluster_centers_, means, rtol=1e-6)
    again = KMeans(K, init=model.cluster_centers_, tol=0).fit(rows)
    assert again.n_iter_ <= 2  # another sample, other last bits
    np.testing.assert_allclose(again.cluster_centers_, model.cluster_centers_, rtol=1e-13)


# Passes and reads


class Reads:
    """Counts how often each chunk is computed."""

    def __init__(self):
        self.starts = []

    def table(self, rows, size):
        def read(start):
            self.starts.append(int(start[0, 0]))
            return rows[int(start[0, 0]) : int(start[0, 0]) + size]

        starts = da.from_array(np.arange(0, len(rows), size)[:, None], chunks=1)
        chunks = (tuple(len(rows[i : i + size]) for i in range(0, len(rows), size)), rows.shape[1:])
        return starts.map_blocks(read, chunks=chunks, dtype=rows.dtype, meta=rows[:0])


@pytest.mark.usefixtures("small_summary")
def test_each_pass_reads_each_chunk_once():
    rows, reads = table_of("float32"), Reads()
    lazy = reads.table(rows, 500)
    model = KMeans(K, random_state=0).fit(lazy)
    assert model.n_passes_ > 2
    assert sorted(reads.starts) == sorted([*range(0, N, 500)] * model.n_passes_)
    reads.starts.clear()
    labels, distances = model.predict(lazy), model.transform(lazy)
    assert not reads.starts, "nothing is computed"
    assert (labels.shape, labels.dtype, labels.chunks) == ((N,), np.int32, lazy.chunks[:1])
    assert (distances.shape, distances.dtype) == ((N, K), np.float32)
    np.testing.assert_array_equal(labels.compute(), model.predict(rows))
    assert sorted(reads.starts) == [*range(0, N, 500)]


@pytest.mark.usefixtures("small_summary")
@pytest.mark.parametrize("bands", [1, 3])
def test_colours_are_read_once(bands):
    rows, reads = table_of("uint8")[:, :bands], Reads()
    model = KMeans(K, random_state=0).fit(reads.table(rows, 500))
    assert (model.n_passes_, sorted(reads.starts)) == (1, [*range(0, N, 500)])
    assert -model.score(rows) == model.inertia_
    assert model.counts_.tolist() == np.bincount(model.predict(rows), minlength=K).tolist()
    reference = SklearnKMeans(K, init=model.cluster_centers_, n_init=1, tol=0)
    reference.fit(rows.astype(np.float64))
    assert model.inertia_ <= reference.inertia_ * 1.001


@pytest.mark.usefixtures("small_summary")
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_few_distinct_rows_are_read_once(dtype):
    values = np.random.default_rng(0).integers(0, 100, (300, 5)).astype(dtype)
    rows, reads = values[np.random.default_rng(1).integers(0, 300, N)], Reads()
    model = KMeans(K, random_state=0).fit(reads.table(rows, 500))
    assert (model.n_passes_, sorted(reads.starts)) == (1, [*range(0, N, 500)])
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    weighted = KMeans(K, random_state=0).fit(distinct, sample_weight=counts)
    np.testing.assert_array_equal(model.cluster_centers_, weighted.cluster_centers_)
    labels = model.predict(rows)
    for fitted in (model, KMeans(K, random_state=0).fit(rows)):
        np.testing.assert_array_equal(fitted.labels_, labels)
    assert -model.score(rows) == model.inertia_
    assert model.counts_.tolist() == np.bincount(labels, minlength=K).tolist()


@pytest.mark.usefixtures("small_summary")
@pytest.mark.parametrize("bands", [1, 3])
def test_colours_are_fitted_from_given_centres(bands):
    rows = table_of("uint8")[:, :bands]
    starts = np.random.default_rng(0).uniform(40, 80, (K, bands))
    reference = SklearnKMeans(K, init=starts, n_init=1, max_iter=7, tol=0)
    reference.fit(rows.astype(np.float64))
    model = KMeans(K, init=starts, n_init=1, max_iter=7, tol=0).fit(rows)
    np.testing.assert_allclose(model.cluster_centers_, reference.cluster_centers_, rtol=1e-9)
    assert (model.n_iter_, model.n_passes_) == (7, 1)


# Rows of no weight, and rows of far too much


@pytest.mark.usefixtures("small_summary")
@pytest.mark.parametrize("value", [1e200, -1e200, np.inf, -np.inf])
def test_rows_of_no_weight_may_lie_anywhere(value):
    rows, weights = table_of("float64").copy(), np.ones(N)
    weights[5], fits = 0, []
    for rows[5] in (0, value):
        fits.append(KMeans(K, random_state=0, tol=1e-3).fit(rows, sample_weight=weights))
    a, b = fits
    np.testing.assert_array_equal(a.cluster_centers_, b.cluster_centers_)
    np.testing.assert_array_equal(np.delete(a.labels_, 5), np.delete(b.labels_, 5))
    assert a.n_passes_ > 1
    assert (a.inertia_, a.counts_.tolist()) == (b.inertia_, b.counts_.tolist())
    assert -a.score(rows, sample_weight=weights) == a.inertia_


# Beside 1e31, a weight of 1 is nothing, so that all clusters but one have no weight.
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("heavy", [1e29, 1e31, 1e45])
@pytest.mark.parametrize("is_small", [False, True])
def test_a_row_that_outweighs_all_others(dtype, heavy, is_small, request, monkeypatch):
    if is_small:
        request.getfixturevalue("small_summary")
    monkeypatch.setattr(summary_rows, "MIDDLE", 64)  # of which the heavy row is none
    rows, weights = table_of(dtype), np.ones(N)
    weights[7] = heavy
    for model in (KMeans(K, random_state=0), MiniBatchKMeans(K, random_state=0)):
        model.fit(rows, sample_weight=weights)
        assert np.isfinite(model.cluster_centers_).all()
        assert np.isfinite(model.inertia_)
        np.testing.assert_allclose(model.cluster_centers_[model.labels_[7]], rows[7], rtol=1e-6)


def test_inertia_beyond_float64_is_infinite():
    rows = table_of("float64")
    model = KMeans(K, random_state=0).fit(rows)
    assert model.score(np.full((3, rows.shape[1]), 1e200)) == -np.inf
    starts = np.full((K, rows.shape[1]), 1e200) * np.arange(1, K + 1)[:, None]
    far = KMeans(K, init=starts, n_init=1, max_iter=20).fit(rows)
    assert np.isfinite(far.inertia_)
    assert np.isfinite(far.cluster_centers_).all()


@pytest.mark.usefixtures("small_summary")
def test_rows_that_occur_seldom_are_not_counted():
    rows = np.random.default_rng(0).integers(0, 99, (N // 15, 5), np.uint8).repeat(15, axis=0)
    fits = [KMeans(K, random_state=0).fit(Reads().table(rows, step)) for step in (100, 500, N)]
    assert all(fit.n_passes_ > 1 for fit in fits)
    for fit in fits:
        np.testing.assert_array_equal(fit.cluster_centers_, fits[0].cluster_centers_)


def test_candidates_of_k_means_parallel_are_many_and_good(monkeypatch):
    from dkmeans import _seeding_parallel  # noqa: PLC0415 - an inner room, wanted here only

    found = []
    choose = _seeding_parallel.candidates

    def spy(*args):
        found.append(choose(*args))
        return found[-1]

    monkeypatch.setattr(_seeding_parallel, "candidates", spy)
    rows, _ = make_blobs(20_000, 8, centers=80, cluster_std=2.0, random_state=0)
    ours, theirs = (
        np.mean([KMeans(64, init=init, random_state=i).fit(rows).inertia_ for i in range(5)])
        for init in ("k-means||", "k-means++")
    )
    assert len(found) == 5
    assert all(len(points) == len(weights) >= 64 for points, weights in found)
    assert all(weights.sum() == len(rows) for _, weights in found)
    assert ours <= 1.02 * theirs  # the mean of five differs by so much from five to five
