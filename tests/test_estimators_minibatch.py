"""`MiniBatchKMeans` on data in memory: steps, `partial_fit`, and when it ends."""

import pickle

import numpy as np
import pytest
import sklearn.cluster
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.utils.estimator_checks import parametrize_with_checks

from dkmeans import KMeans, MiniBatchKMeans, load
from dkmeans import _summary_rows as summary_rows

PLAIN = {"n_clusters": 5, "n_init": 1, "reassignment_ratio": 0, "random_state": 0}


def drawn(*shape, seed=0, dtype="f8"):
    """Draw rows around zero, read-only."""
    rows = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    rows.flags.writeable = False
    return rows


def labels_of(rows, centers):
    """Return the nearest centre of each row by float64 differences."""
    differences = rows.astype(np.float64)[:, None] - centers
    return (differences**2).sum(axis=2).argmin(axis=1)


def step_by_hand(rows, weights, centers, counts):
    """Move each centre to the mean of all rows that it has had so far, as the counts tell."""
    labels = labels_of(rows, centers)
    centers, counts = centers.copy(), counts.copy()
    for c in set(labels.tolist()):
        mine = labels == c
        gained = weights[mine].sum()
        counts[c] += gained
        mean = np.average(rows[mine].astype(np.float64), axis=0, weights=weights[mine])
        centers[c] += (mean - centers[c]) * gained / counts[c]
    return centers, counts


@parametrize_with_checks([MiniBatchKMeans()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# One step


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i2"])
@pytest.mark.parametrize("weighted", [False, True])
def test_partial_fit_is_one_step(dtype, weighted):
    rows = (50 + 20 * drawn(2000, 3)).astype(dtype)
    centers, counts = rows[:5].astype(np.float64), np.zeros(5)
    model = MiniBatchKMeans(**PLAIN, init=centers)
    for number, batch in enumerate(np.split(rows, 20)):
        weights = np.random.default_rng(number).uniform(size=100) if weighted else np.ones(100)
        model.partial_fit(batch, sample_weight=weights if weighted else None)
        centers, counts = step_by_hand(batch, weights, centers, counts)
        rtol = 1e-5 if dtype == "f4" else 1e-12
        np.testing.assert_allclose(model.cluster_centers_, centers, rtol=rtol)
        np.testing.assert_allclose(model.counts_, counts, rtol=1e-12)
        assert model.n_steps_ == number + 1
        np.testing.assert_array_equal(model.labels_, model.predict(batch))
        assert model.inertia_ == -model.score(batch, sample_weight=weights if weighted else None)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_partial_fit_ends_where_scikit_learns_ends(dtype):
    rows = drawn(3000, 4, dtype=dtype)
    settings = {**PLAIN, "init": rows[:5]}
    ours, theirs = MiniBatchKMeans(**settings), sklearn.cluster.MiniBatchKMeans(**settings)
    for batch in np.split(rows, 30):
        ours.partial_fit(batch)
        theirs.partial_fit(batch)
        atol = 1e-12 if dtype == "f8" else 1e-5
        np.testing.assert_allclose(
            ours.cluster_centers_, theirs.cluster_centers_, rtol=0, atol=atol
        )
        np.testing.assert_array_equal(ours.labels_, theirs.labels_)
        assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-5)
    assert ours.n_steps_ == theirs.n_steps_ == 30


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_step_has_the_same_bits_in_any_order(dtype):
    batch = drawn(1000, 3, dtype=dtype)
    shuffled = np.random.default_rng(1).permutation(batch)
    first, second = (
        MiniBatchKMeans(**PLAIN, init=batch[:5]).partial_fit(rows) for rows in (batch, shuffled)
    )
    np.testing.assert_array_equal(first.cluster_centers_, second.cluster_centers_)
    assert first.inertia_ == second.inertia_


def test_in_a_step_a_weight_equals_copies():
    batch, weights = drawn(200, 3), np.arange(200) % 4
    weighted = MiniBatchKMeans(**PLAIN, init=batch[:5]).partial_fit(batch, sample_weight=weights)
    copied = MiniBatchKMeans(**PLAIN, init=batch[:5]).partial_fit(np.repeat(batch, weights, axis=0))
    np.testing.assert_allclose(
        weighted.cluster_centers_, copied.cluster_centers_, rtol=1e-14, atol=1e-15
    )
    np.testing.assert_array_equal(weighted.counts_, copied.counts_)


def test_later_batches_may_be_small():
    model = MiniBatchKMeans(5, random_state=0)
    with pytest.raises(ValueError, match="n_samples=4 should be >= n_clusters=5"):
        model.partial_fit(drawn(4, 2))
    model.partial_fit(drawn(50, 2)).partial_fit(drawn(1, 2))
    assert model.labels_.shape == (1,)
    with pytest.raises(ValueError, match="X has 3 features, but MiniBatchKMeans is expecting 2"):
        model.partial_fit(drawn(9, 3))


def test_a_batch_that_will_not_do_changes_nothing():
    model = MiniBatchKMeans(5, random_state=0).partial_fit(drawn(50, 2))
    before = pickle.dumps(model.cluster_centers_), model.n_steps_, model.counts_.copy()
    bad = drawn(9, 2).copy()
    bad[4, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN: 1 rows, the first is row 4"):
        model.partial_fit(bad)
    with pytest.raises(ValueError, match="Negative values"):
        model.partial_fit(drawn(9, 2), sample_weight=-np.ones(9))
    with pytest.raises(ValueError, match=r"from the centres so far \(the largest is 1e\+200"):
        model.partial_fit(drawn(9, 2) + 1e200)  # these rows are near each other
    assert (pickle.dumps(model.cluster_centers_), model.n_steps_) == before[:2]
    np.testing.assert_array_equal(model.counts_, before[2])


@pytest.mark.parametrize("interruption", ["none", "pickle", "file"])
def test_a_stream_goes_on_after_an_interruption(interruption, tmp_path):
    rows = drawn(2000, 3)
    settings = {"n_clusters": 12, "reassignment_ratio": 0.3, "random_state": 0}
    whole = MiniBatchKMeans(**settings)
    model = MiniBatchKMeans(**settings)
    for number, batch in enumerate(np.split(rows, 50)):
        whole.partial_fit(batch)
        model.partial_fit(batch)
        if number % 7 == 3 and interruption == "pickle":
            model = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
        if number % 7 == 3 and interruption == "file":
            model.save(tmp_path / "model.json")
            model = load(tmp_path / "model.json")
        np.testing.assert_array_equal(model.cluster_centers_, whole.cluster_centers_)


def test_partial_fit_goes_on_from_a_fit():
    rows = drawn(2000, 3)
    model = MiniBatchKMeans(**PLAIN).fit(rows)
    steps, batch = model.n_steps_, rows[:100]
    centers, counts = step_by_hand(batch, np.ones(100), model.cluster_centers_, model.counts_)
    model.partial_fit(batch)
    np.testing.assert_allclose(model.cluster_centers_, centers, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.counts_, counts)
    assert model.n_steps_ == steps + 1
    model.fit(rows)
    np.testing.assert_array_equal(model.cluster_centers_, clone(model).fit(rows).cluster_centers_)


# Reassignment


def test_centres_without_rows_move_to_rows_of_the_batch():
    batch = drawn(100, 3)
    init = np.concatenate([batch[:3], [[1000.0] * 3, [-1000.0] * 3]])
    settings = {"n_clusters": 5, "init": init, "n_init": 1, "random_state": 0}
    left = MiniBatchKMeans(**settings, reassignment_ratio=0).partial_fit(batch)
    np.testing.assert_array_equal(left.cluster_centers_[3:], init[3:])
    np.testing.assert_array_equal(left.counts_[3:], 0)
    moved = MiniBatchKMeans(**settings).partial_fit(batch)
    np.testing.assert_array_equal(moved.cluster_centers_[:3], left.cluster_centers_[:3])
    for center in moved.cluster_centers_[3:]:
        assert (center == batch).all(axis=1).any()
    np.testing.assert_array_equal(moved.counts_[3:], left.counts_[:3].min())


def test_reassignment_waits_for_ten_rows_a_cluster():
    rows = np.concatenate([drawn(400, 2), drawn(1, 2) + 50])
    init = np.array([[0.0, 0.0], [50.0, 50.0]])
    model = MiniBatchKMeans(2, init=init, n_init=1, random_state=0)
    model.partial_fit(np.concatenate([rows[:99], rows[-1:]]))
    moved = model.cluster_centers_[1]  # had one row of a hundred, as the first step is due
    assert (moved > 40).all()
    model.partial_fit(rows[100:119])  # one row of 119 is too few, but only 19 have come
    assert (model.cluster_centers_[1] > 40).all()
    model.partial_fit(rows[119:123])
    assert (model.cluster_centers_[1] < 40).all()


def test_no_more_than_half_of_a_batch_become_centres():
    batch = drawn(8, 2)
    init = np.concatenate([batch[:1], 1000 + 10.0 * np.arange(14).reshape(7, 2)])
    model = MiniBatchKMeans(8, init=init, n_init=1, random_state=0).partial_fit(batch)
    far = (model.cluster_centers_ > 900).all(axis=1)
    assert far.sum() == 3


def test_a_ratio_above_one_moves_all_but_the_largest():
    batch = drawn(100, 2)
    settings = {"n_clusters": 5, "init": batch[:5], "n_init": 1, "random_state": 0}
    plain = MiniBatchKMeans(**settings, reassignment_ratio=0).partial_fit(batch)
    model = MiniBatchKMeans(**settings, reassignment_ratio=2).partial_fit(batch)
    stays = (model.cluster_centers_ == plain.cluster_centers_).all(axis=1)
    assert stays.sum() == 1
    assert plain.counts_[stays] == plain.counts_.max()


def test_many_starts_far_away_are_recovered_from():
    rows, _ = make_blobs(1000, 2, centers=20, cluster_std=0.1, random_state=0)
    model = MiniBatchKMeans(
        20, init=np.zeros((20, 2)), n_init=1, batch_size=100, random_state=0
    ).fit(rows)
    used = np.unique(model.labels_)
    assert used.size > 10


# Batches and the end


@pytest.mark.parametrize(("batch_size", "max_iter"), [(10, 3), (64, 2), (5000, 4)])
def test_steps_and_iterations(batch_size, max_iter):
    rows = drawn(500, 3)
    model = MiniBatchKMeans(
        4, batch_size=batch_size, max_iter=max_iter, max_no_improvement=None, random_state=0
    ).fit(rows)
    batch = min(batch_size, 500)
    assert model.n_steps_ == max_iter * 500 // batch
    assert model.n_iter_ == -(-model.n_steps_ * batch // 500)
    assert model.stop_reason_ == "max_iter"
    assert model.counts_.sum() >= model.n_steps_ * batch - 1e-6
    assert isinstance(model.n_iter_, int)
    assert isinstance(model.n_steps_, int)
    theirs = sklearn.cluster.MiniBatchKMeans(
        4, batch_size=batch_size, max_iter=max_iter, max_no_improvement=None, random_state=0
    ).fit(rows)
    assert (model.n_steps_, model.n_iter_) == (theirs.n_steps_, theirs.n_iter_)


@pytest.mark.parametrize(
    "settings", [{"tol": 1e-4, "max_no_improvement": None}, {"tol": 0, "max_no_improvement": 5}]
)
def test_it_ends_when_little_moves_or_improves(settings):
    rows, _ = make_blobs(1000, 3, centers=4, random_state=0)
    settings = {"batch_size": 50, "max_iter": 50, "random_state": 1, **settings}
    model = MiniBatchKMeans(4, **settings).fit(rows)
    assert 1 < model.n_iter_ < 50
    assert model.stop_reason_ == ("tol" if settings["tol"] else "max_no_improvement")


@pytest.mark.parametrize("seed", range(12))
def test_a_row_that_weighs_much_is_in_some_batch(seed, monkeypatch):
    monkeypatch.setattr(summary_rows, "MIN_ROWS", 500)
    monkeypatch.setattr(summary_rows, "ROWS_PER_CLUSTER", 100)
    rows = np.random.default_rng(0).normal(size=(3000, 2))
    rows[7], weights = [30, 40], np.ones(3000)
    weights[7] = 1000
    model = MiniBatchKMeans(3, random_state=seed).fit(rows, sample_weight=weights)
    assert np.linalg.norm(model.cluster_centers_ - rows[7], axis=1).min() < 1


def test_patience_is_counted_in_steps():
    rows = drawn(1000, 3)
    steps = [
        MiniBatchKMeans(4, batch_size=50, max_no_improvement=n, random_state=0).fit(rows).n_steps_
        for n in (1, 3, 10, 30)
    ]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]


def test_a_start_is_chosen_from_so_many_rows():
    rows, seen = drawn(1000, 3), []

    def init(points, n_clusters, random_state):
        seen.append(len(points))
        return random_state.permutation(points)[:n_clusters]

    for settings, size in (
        ({"batch_size": 50}, 150),
        ({"batch_size": 1}, 30),
        ({"batch_size": 2000}, 1000),
        ({"init_size": 77}, 77),
        ({"init_size": 3000}, 1000),
    ):
        seen.clear()
        MiniBatchKMeans(10, init=init, max_iter=1, random_state=0, **settings).fit(rows)
        assert seen == 3 * [size]
    seen.clear()
    with pytest.warns(
        RuntimeWarning, match="init_size=5 should be larger than n_clusters=10"
    ) as told:
        MiniBatchKMeans(10, init=init, n_init=2, init_size=5, max_iter=1).fit(rows)
    assert seen == 2 * [30]
    assert told[0].filename == __file__


def test_the_best_start_is_taken():
    rows, _ = make_blobs(1000, 2, centers=3, cluster_std=0.1, random_state=0)
    good, bad = KMeans(3, random_state=0).fit(rows).cluster_centers_, rows[:1].repeat(3, axis=0)
    starts = iter([bad, good, bad])

    def init(rows, n_clusters, random_state):  # noqa: ARG001 - what is given to such functions
        return next(starts)

    settings = {"max_iter": 1, "reassignment_ratio": 0, "random_state": 0}
    model = MiniBatchKMeans(3, init=init, n_init=3, **settings).fit(rows)
    assert model.inertia_ < 1.1 * KMeans(3, random_state=0).fit(rows).inertia_


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_it_ends_near_the_full_fit(init):
    rows, _ = make_blobs(5000, 4, centers=8, random_state=3)
    full = KMeans(8, n_init=5, random_state=0).fit(rows)
    found = [
        MiniBatchKMeans(8, init=init, n_init=5, random_state=seed).fit(rows).inertia_
        for seed in range(3)
    ]
    near = 1.6 if init == "random" else 1.05  # from there, few starts find all clear clusters
    assert min(found) < near * full.inertia_


@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_the_order_of_rows_is_without_effect(dtype):
    rows = (100 + 30 * drawn(3000, 3)).clip(0, 255).astype(dtype)
    rows = rows[np.argsort(rows[:, 0])]
    shuffled = np.random.default_rng(0).permutation(rows)
    first, second = (MiniBatchKMeans(5, random_state=0).fit(given) for given in (rows, shuffled))
    np.testing.assert_array_equal(first.cluster_centers_, second.cluster_centers_)
    assert first.inertia_ == second.inertia_


def test_a_weight_equals_copies():
    rows, weights = drawn(1000, 3), np.arange(1000) % 4
    weighted = MiniBatchKMeans(5, random_state=0).fit(rows, sample_weight=weights)
    copied = MiniBatchKMeans(5, random_state=0).fit(np.repeat(rows, weights, axis=0))
    np.testing.assert_array_equal(weighted.cluster_centers_, copied.cluster_centers_)
    assert weighted.inertia_ == copied.inertia_


def test_heavy_rows_are_drawn_more_often():
    rows = np.concatenate([drawn(500, 1), drawn(500, 1) + 100])
    weights = np.repeat([99.0, 1.0], 500)
    model = MiniBatchKMeans(1, max_iter=20, max_no_improvement=None, random_state=0)
    center = model.fit(rows, sample_weight=weights).cluster_centers_[0, 0]
    assert center == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("n_rows", [2000, 140_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_inertia_is_estimated_without_labels(n_rows, weighted):
    rows, _ = make_blobs(n_rows, 3, centers=4, random_state=0)
    weights = np.random.default_rng(0).uniform(2, 4, n_rows) if weighted else None
    settings = {"n_clusters": 4, "random_state": 0}
    model = MiniBatchKMeans(**settings, compute_labels=False).fit(rows, sample_weight=weights)
    assert not hasattr(model, "labels_")
    full = MiniBatchKMeans(**settings).fit(rows, sample_weight=weights)
    np.testing.assert_array_equal(model.cluster_centers_, full.cluster_centers_)
    assert model.inertia_ == pytest.approx(full.inertia_, rel=0.1)
    assert full.n_passes_ == model.n_passes_ + 1


def test_a_step_without_labels_has_its_inertia():
    batch = drawn(100, 3)
    model = MiniBatchKMeans(**PLAIN, init=batch[:5], compute_labels=False).partial_fit(batch)
    assert not hasattr(model, "labels_")
    start = MiniBatchKMeans(**PLAIN, init=batch[:5]).partial_fit(batch)
    start.cluster_centers_ = batch[:5]
    assert model.inertia_ == pytest.approx(-start.score(batch))


@pytest.mark.parametrize("dtype", ["f4", "u1"])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_many_rows_of_few_kinds(dtype, init):
    rows = np.repeat(np.array([[0, 0], [9, 0], [0, 9]], dtype), 50_000, axis=0)
    model = MiniBatchKMeans(3, init=init, random_state=0).fit(rows)
    assert model.inertia_ == pytest.approx(0, abs=1e-9)
    more = MiniBatchKMeans(5, init=init, random_state=0).fit(rows)
    assert np.isfinite(more.cluster_centers_).all()


# Callbacks


class Recording:
    """Notes each task that ends, and asks to stop after some iterations."""

    def __init__(self, most=None):
        self.most = most
        self.tasks = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):  # noqa: ARG002 - the protocol
        self.tasks.append(context.task_name)
        return self.tasks.count("iteration") == self.most


def test_a_callback_is_told_of_steps_and_passes():
    seen = Recording()
    model = MiniBatchKMeans(4, batch_size=100, max_iter=3, random_state=0)
    model.set_callbacks(seen).fit(drawn(1000, 3))
    assert seen.tasks[0] == "summarise"
    assert seen.tasks[-2:] == ["measure", "fit"]
    assert seen.tasks.count("iteration") == model.n_steps_


def test_a_callback_can_stop():
    seen = Recording(most=3)
    model = MiniBatchKMeans(4, batch_size=100, random_state=0)
    model.set_callbacks(seen).fit(drawn(1000, 3))
    assert (model.n_steps_, model.stop_reason_) == (3, "stopped")
