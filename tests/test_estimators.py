"""`KMeans`, `k_means` and `kmeans_plusplus` on data in memory, beside scikit-learn's."""

import inspect
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import cache

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import sklearn.cluster
from conftest import traced
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from dkmeans import KMeans, MiniBatchKMeans, k_means, kmeans_plusplus

BOTH = pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans])
FITS = pytest.mark.parametrize("method", ["fit", "fit_predict", "fit_transform"])
SETTINGS = {"n_clusters": 8, "n_init": 1, "tol": 0}


def frozen(rows):
    """Return rows that cannot be written to."""
    rows.flags.writeable = False
    return rows


def normal(*shape, seed=0, dtype="f8"):
    """Draw rows around zero."""
    return frozen(np.random.default_rng(seed).normal(size=shape).astype(dtype))


@cache
def rows_of(name):
    """Return a table, float64, values of which float32 holds."""
    rng = np.random.default_rng(1)
    rows = {
        "blobs": lambda: make_blobs(2000, 5, centers=8, random_state=0)[0],
        "overlap": lambda: rng.normal(size=(1500, 3)),
        "line": lambda: rng.uniform(size=(1000, 1)),
        "wide": lambda: rng.normal(size=(500, 70)),
        "offset": lambda: rng.normal(size=(1000, 4)) + 100,
        "digits": lambda: load_digits().data,
    }[name]()
    return frozen(rows.astype(np.float32).astype(np.float64))


TABLES = ("blobs", "overlap", "line", "wide", "offset", "digits")


def starts_of(rows, k=8):
    """Choose distinct rows to start from."""
    return frozen(np.unique(rows, axis=0)[:: len(np.unique(rows, axis=0)) // k][:k].copy())


def squared_distances(rows, centers):
    """Return the squared distance of each row to each centre by float64 differences."""
    differences = rows.astype(np.float64)[:, None] - centers.astype(np.float64)
    return (differences**2).sum(axis=2)


# Some checks have fewer distinct rows than clusters.
@pytest.mark.filterwarnings(
    "ignore:Number of distinct clusters:sklearn.exceptions.ConvergenceWarning"
)
@parametrize_with_checks([KMeans()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# Parameters


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(KMeans, sklearn.cluster.KMeans), (MiniBatchKMeans, sklearn.cluster.MiniBatchKMeans)],
)
def test_parameters_are_scikit_learns_and_two_more(ours, theirs):
    added = {"missing": "error", "feature_dim": None}
    assert ours().get_params() == theirs().get_params() | added
    kinds = {name: p.kind for name, p in inspect.signature(ours).parameters.items()}
    expected = {name: p.kind for name, p in inspect.signature(theirs).parameters.items()}
    assert kinds == expected | dict.fromkeys(added, inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (KMeans, sklearn.cluster.KMeans),
        (MiniBatchKMeans, sklearn.cluster.MiniBatchKMeans),
    ],
)
def test_every_public_name_of_scikit_learns_class_is_there(ours, theirs):
    rows = rows_of("overlap")[:100]
    a, b = ours(3, random_state=0).fit(rows), theirs(3, random_state=0).fit(rows)
    names = {name for name in dir(b) if not name.startswith("_") and hasattr(b, name)}
    assert names <= set(dir(a))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(k_means, sklearn.cluster.k_means), (kmeans_plusplus, sklearn.cluster.kmeans_plusplus)],
)
def test_parameters_of_functions_are_scikit_learns(ours, theirs):
    ours, theirs = (inspect.signature(function).parameters for function in (ours, theirs))
    assert list(ours) == list(theirs)
    for name in theirs:
        assert (ours[name].default, ours[name].kind) == (theirs[name].default, theirs[name].kind)


@BOTH
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_clusters", 0),
        ("n_clusters", 2.5),
        ("n_clusters", True),
        ("init", "best"),
        ("n_init", 0),
        ("n_init", "many"),
        ("n_init", True),
        ("max_iter", 0),
        ("max_iter", True),
        ("tol", -1),
        ("tol", "small"),
        ("random_state", "seed"),
        ("missing", "drop"),
        ("feature_dim", 3),
    ],
)
def test_a_parameter_that_will_not_do_is_named(kind, name, value):
    model = kind(**{name: value})
    with pytest.raises(ValueError, match=f"The '{name}' parameter of {kind.__name__} must be"):
        model.fit(normal(50, 2))


@pytest.mark.parametrize(("name", "value"), [("algorithm", "full"), ("copy_x", "yes")])
def test_a_parameter_of_kmeans_that_will_not_do_is_named(name, value):
    with pytest.raises(ValueError, match=f"The '{name}' parameter of KMeans must be"):
        KMeans(**{name: value}).fit(normal(50, 2))


@BOTH
def test_counts_may_be_small_integers_of_numpy(kind):
    counts = {"n_clusters": 3, "n_init": 2, "max_iter": 200}
    if kind is MiniBatchKMeans:
        counts |= {"batch_size": 200, "init_size": 250, "max_no_improvement": 9}
    small = {name: np.uint8(count) for name, count in counts.items()}
    rows = rows_of("overlap")
    found = [kind(**given, random_state=0).fit(rows) for given in (counts, small)]
    assert found[0].cluster_centers_.tobytes() == found[1].cluster_centers_.tobytes()
    assert found[0].n_iter_ == found[1].n_iter_


@pytest.mark.parametrize("name", ["batch_size", "init_size", "max_no_improvement"])
def test_a_count_is_no_boolean(name):
    with pytest.raises(ValueError, match=f"'{name}' .* Got True instead"):
        MiniBatchKMeans(**{name: True}).fit(normal(50, 2))


# The same result as scikit-learn's from the same centres


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("max_iter", [1, 5, 20])
@pytest.mark.parametrize("tol", [0, 1e-4])
def test_float64_is_as_scikit_learn_has_it(name, max_iter, tol):
    rows = rows_of(name)
    settings = {**SETTINGS, "init": starts_of(rows), "max_iter": max_iter, "tol": tol}
    ours, theirs = KMeans(**settings).fit(rows), sklearn.cluster.KMeans(**settings).fit(rows)
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(
        ours.cluster_centers_, theirs.cluster_centers_, rtol=0, atol=1e-12 * np.ptp(rows)
    )
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-12)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.labels_.dtype == theirs.labels_.dtype


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("max_iter", [1, 5, 20])
def test_float32_is_as_float64_but_for_ties(name, max_iter):
    rows = rows_of(name)
    settings = {**SETTINGS, "init": starts_of(rows), "max_iter": max_iter}
    ours = KMeans(**settings).fit(rows.astype("f4"))
    exact = sklearn.cluster.KMeans(**settings).fit(rows)
    assert ours.cluster_centers_.dtype == np.float32
    extent = np.abs(rows).max()
    np.testing.assert_allclose(
        ours.cluster_centers_, exact.cluster_centers_, rtol=0, atol=1e-5 * extent
    )
    distances = np.sort(squared_distances(rows, exact.cluster_centers_), axis=1)
    near_tie = distances[:, 1] - distances[:, 0] < 1e-5 * extent * np.sqrt(distances[:, 1])
    np.testing.assert_array_equal(ours.labels_[~near_tie], exact.labels_[~near_tie])
    assert near_tie.mean() < 0.01


@BOTH
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
def test_of_centres_that_tie_the_first_is_taken(kind, dtype):
    axis = np.arange(5)
    rows = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3).astype(dtype)
    init = np.array([[4, 4, 4], [0, 0, 0], [2, 2, 2], [4, 0, 0], [0, 0, 4]])
    model = kind(5, init=init, n_init=1, max_iter=1, random_state=0).fit(rows)
    model.cluster_centers_[:] = init
    exact = squared_distances(rows, init)
    assert (np.sort(exact, axis=1)[:, 0] == np.sort(exact, axis=1)[:, 1]).any()
    np.testing.assert_array_equal(model.predict(rows), exact.argmin(axis=1))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n_empty", [1, 3])
def test_empty_clusters_take_the_farthest_rows(dtype, n_empty):
    rows = rows_of("overlap").astype(dtype)
    init = rows[:6].copy()
    init[:n_empty] = 100 + 10 * np.arange(n_empty)[:, None]
    for max_iter in (1, 2, 20):
        settings = {"n_clusters": 6, "init": init, "n_init": 1, "max_iter": max_iter, "tol": 0}
        ours, theirs = KMeans(**settings).fit(rows), sklearn.cluster.KMeans(**settings).fit(rows)
        tolerance = 1e-12 if dtype == "f8" else 1e-5
        np.testing.assert_allclose(
            ours.cluster_centers_, theirs.cluster_centers_, rtol=0, atol=tolerance * np.ptp(rows)
        )
        assert (ours.counts_ > 0).all()


def test_k_of_one_and_k_of_all_rows():
    rows = rows_of("blobs")[:40]
    one = KMeans(1, random_state=0).fit(rows)
    np.testing.assert_allclose(one.cluster_centers_, [rows.mean(axis=0)], rtol=1e-14)
    every = KMeans(40, random_state=0).fit(rows)
    assert every.inertia_ == 0
    assert sorted(every.labels_) == list(range(40))


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_every_start_finds_clear_clusters(init):
    rows, truth = make_blobs(600, 2, centers=[[0, 0], [50, 0], [0, 50]], random_state=0)
    model = KMeans(3, init=init, n_init=5, random_state=0).fit(rows)
    assert len(set(zip(truth.tolist(), model.labels_.tolist(), strict=True))) == 3


@BOTH
@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">f2"])
def test_the_order_of_bytes_changes_nothing(kind, dtype):
    rows = (rows_of("overlap") * 9).astype(dtype)
    expected = kind(4, random_state=0).fit(rows.astype(rows.dtype.newbyteorder("=")))
    for given in (rows, da.from_array(rows, chunks=(50, -1))):
        model = kind(4, random_state=0).fit(given)
        assert model.cluster_centers_.dtype == expected.cluster_centers_.dtype
        np.testing.assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
        np.testing.assert_array_equal(model.predict(rows), expected.labels_)


# Twelve distinct rows cannot fill twenty clusters: that is what is tried.
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_centres_without_rows_take_none_from_others(init, dtype):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(12, 3)).astype(dtype)[rng.integers(0, 12, 300)]
    for seed in range(5):
        model = KMeans(20, init=init, random_state=seed).fit(rows)
        np.testing.assert_array_equal(model.labels_, model.predict(rows))
        assert model.counts_.tolist() == np.bincount(model.labels_, minlength=20).tolist()


@BOTH
@pytest.mark.parametrize("far", [1e20, 1e60])
def test_a_start_may_be_far_away(kind, far):
    rows = rows_of("overlap")
    init = np.concatenate([rows[:2], [[far, 0, -far]]])
    model = kind(3, init=init, n_init=1, random_state=0).fit(rows)
    np.testing.assert_array_equal(
        model.labels_, squared_distances(rows, model.cluster_centers_).argmin(axis=1)
    )
    assert (np.bincount(model.labels_) > 0).all()
    model.cluster_centers_[:] = init
    assert set(model.predict(rows)) == {0, 1}


# When it ends


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tol": 0}, "converged"),
        ({"tol": 1e-2}, "tol"),
        ({"max_iter": 3, "tol": 0}, "max_iter"),
    ],
)
def test_why_it_ended(settings, reason):
    rows = rows_of("overlap")
    model = KMeans(init=starts_of(rows), n_init=1, **settings).fit(rows)
    assert model.stop_reason_ == reason
    assert model.n_iter_ <= model.max_iter
    assert (model.n_iter_ == 3) == (reason == "max_iter")


def test_the_step_that_is_not_worth_taking_counts():
    rows = normal(140_000, 3)  # more than a summary
    model = KMeans(4, tol=1, random_state=0).set_callbacks(seen := Recording()).fit(rows)
    assert (model.stop_reason_, model.n_iter_, model.n_passes_) == ("tol", 1, 2)
    assert seen.tasks.count("iteration") == 1


def test_more_starts_are_never_worse_and_warn_not():
    rows = rows_of("blobs")
    inertias = [
        KMeans(12, init="random", n_init=n, random_state=0).fit(rows).inertia_ for n in (1, 4, 16)
    ]
    assert inertias == sorted(inertias, reverse=True)
    assert inertias[0] > inertias[-1]


@pytest.mark.parametrize(
    ("init", "n_starts"),
    [("k-means++", 1), ("k-means||", 1), ("random", 10), ("callable", 10), ("array", 1)],
)
def test_auto_is_one_start_or_ten(init, n_starts):
    rows = rows_of("overlap")[:200]
    given = {
        "array": rows[:3],
        "callable": lambda rows, k, random_state: random_state.permutation(rows)[:k],
    }
    settings = {"n_clusters": 3, "init": given.get(init, init), "random_state": 0}
    auto = KMeans(**settings).fit(rows)
    same = KMeans(**settings, n_init=n_starts).fit(rows)
    np.testing.assert_array_equal(auto.cluster_centers_, same.cluster_centers_)


def test_a_function_chooses_the_start():
    rows = rows_of("overlap").astype("f4")
    seen = []

    def init(X, n_clusters, random_state):  # noqa: N803 - scikit-learn's name
        seen.append((X.dtype, X.shape, n_clusters, type(random_state)))
        return rows[:n_clusters]

    model = KMeans(4, init=init, n_init=2, max_iter=1, tol=0).fit(rows)
    assert seen == 2 * [(np.float32, rows.shape, 4, np.random.RandomState)]
    same = KMeans(4, init=rows[:4], n_init=1, max_iter=1, tol=0).fit(rows)
    np.testing.assert_array_equal(model.cluster_centers_, same.cluster_centers_)


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
@pytest.mark.parametrize("n_clusters", [4, 1])  # as many rows as they are; a part of them
def test_starts_of_a_function_share_its_rows(dtype, n_clusters):
    rows = (normal(3000, 3) * 20 + 100).astype(dtype)
    given = []

    def init(X, n_clusters, random_state):  # noqa: ARG001, N803 - scikit-learn's names
        with pytest.raises(ValueError, match="read-only"):
            X[0] = 0
        given.append(X)
        return X[:n_clusters]

    KMeans(n_clusters, init=init, n_init=9, max_iter=1, random_state=0).fit(rows)
    assert {X.dtype for X in given} == {np.dtype("f4" if dtype == "f4" else "f8")}
    assert len(given) == 9
    assert len({X.ctypes.data for X in given}) <= 2  # two starts are tried before the others
    assert {row.tobytes() for row in given[0]} <= {
        row.astype(given[0].dtype).tobytes() for row in rows
    }


@pytest.mark.parametrize("n_rows", [1500, 140_000])
def test_from_given_centres_there_is_one_result(n_rows):
    rows = normal(n_rows, 3)
    first, second = (
        KMeans(4, init=rows[:4], max_iter=3, random_state=state).fit(rows) for state in (0, None)
    )
    np.testing.assert_array_equal(first.cluster_centers_, second.cluster_centers_)
    assert first.inertia_ == second.inertia_


@pytest.mark.parametrize("state", [3, np.int64(3), "RandomState", None])
def test_kinds_of_random_state(state):
    rows = rows_of("overlap")

    def fit():
        given = np.random.RandomState(3) if state == "RandomState" else state
        return KMeans(20, max_iter=1, random_state=given).fit(rows).cluster_centers_

    first, second = fit(), fit()
    assert np.array_equal(first, second) == (state is not None)


def test_a_random_state_moves_on():
    state = np.random.RandomState(0)
    model = KMeans(20, max_iter=1, random_state=state)
    rows = rows_of("overlap")
    first, second = model.fit(rows).cluster_centers_, model.fit(rows).cluster_centers_
    assert not np.array_equal(first, second)


# Warnings


@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_fewer_distinct_rows_than_clusters(init):
    rows = np.repeat(rows_of("overlap")[:3], 20, axis=0)
    with pytest.warns(
        ConvergenceWarning, match=r"distinct clusters \(3\).*n_clusters \(5\)"
    ) as told:
        model = KMeans(5, init=init, random_state=0).fit(rows)
    assert told[0].filename == __file__
    assert model.cluster_centers_.shape == (5, 3)
    assert np.isfinite(model.cluster_centers_).all()
    assert sorted(model.counts_) == [0, 0, 20, 20, 20]
    assert model.inertia_ == 0


@BOTH
def test_an_array_is_one_start(kind):
    rows = rows_of("overlap")[:100]
    with pytest.warns(RuntimeWarning, match="only one init in .* instead of n_init=4"):
        kind(3, init=rows[:3], n_init=4).fit(rows)


def test_elkan_of_one_cluster():
    with pytest.warns(RuntimeWarning, match="doesn't make sense for a single cluster"):
        KMeans(1, algorithm="elkan").fit(rows_of("overlap"))


def test_elkan_is_lloyd():
    rows = rows_of("overlap")
    elkan, lloyd = (
        KMeans(5, algorithm=name, random_state=0).fit(rows) for name in ("elkan", "lloyd")
    )
    np.testing.assert_array_equal(elkan.cluster_centers_, lloyd.cluster_centers_)


# Errors


def rows_with(value, *numbers):
    """Return 20 rows, the given of them with a value."""
    rows = normal(20, 3).copy()
    rows[list(numbers), 1] = value
    return rows


BAD_ROWS = {
    "NaN": (rows_with(np.nan, 7, 9), ValueError, "contains NaN: 2 rows, the first is row 7"),
    "infinity": (rows_with(-np.inf, 4), ValueError, "contains infinity.* row 4"),
    "strings": (np.full((20, 3), "a"), ValueError, "could not convert string to float"),
    "objects": (np.full((20, 3), object()), TypeError, "must be a string or a real number"),
    "complex": (np.ones((20, 3), complex), ValueError, "Complex data not supported"),
    "a scalar": (3.0, ValueError, "Expected 2D array, got scalar array"),
    "one axis": (np.ones(20), ValueError, "Expected 2D array, got 1D array"),
    "no rows": (np.ones((0, 3)), ValueError, r"Found array with 0 sample\(s\)"),
    "no features": (np.ones((20, 0)), ValueError, r"Found array with 0 feature\(s\)"),
}


@BOTH
@pytest.mark.parametrize("method", ["fit", "predict", "transform", "score"])
@pytest.mark.parametrize(("rows", "error", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_that_will_not_do(kind, method, rows, error, words):
    model = kind(3, random_state=0)
    if method != "fit":
        model.fit(normal(20, 3))
    with pytest.raises(error, match=words):
        getattr(model, method)(rows)


@BOTH
def test_values_whose_distances_cannot_be_held(kind):
    with pytest.raises(ValueError, match="values too far apart"):
        kind(3).fit(normal(20, 3).clip(-1, 1) * 1e300)
    light = np.full(20, 1e-200)  # times which squares would fit, if floats held them
    with pytest.raises(ValueError, match="values too far apart"):
        kind(3).fit(normal(20, 3) * 1e200, sample_weight=light)


@BOTH
@pytest.mark.parametrize(
    ("scale", "weight"),
    [
        (2.0**-600, None),
        (2.0**-600, 2.0**400),
        (2.0**-441, 2.0**-664),
        (2.0**-300, 2.0**-500),
    ],
)
def test_values_whose_weighted_distances_vanish(kind, scale, weight):
    rows = np.vstack([normal(30, 2) * scale, (normal(30, 2) + 10) * scale])
    weights = None if weight is None else np.full(60, weight)
    with pytest.raises(ValueError, match=r"values too near each other .*Scale them"):
        kind(2).fit(rows, sample_weight=weights)
    kind(1).fit(np.full((60, 2), scale), sample_weight=weights)  # these are not near, but equal
    larger = rows / scale * 2.0**-490 / min(weight or 1, 1) ** 0.5
    model = kind(2, random_state=0).fit(larger, sample_weight=weights)
    assert sorted(np.bincount(np.ravel(model.labels_[:30]))) in ([30], [0, 30])


@BOTH
@FITS
def test_fewer_rows_than_clusters(kind, method):
    with pytest.raises(ValueError, match="n_samples=4 should be >= n_clusters=5"):
        getattr(kind(5), method)(normal(4, 2))


BAD_WEIGHTS = {
    "negative": (np.r_[np.ones(19), -1], "Negative values .* `sample_weight`"),
    "all zero": (np.zeros(20), "at least one non-zero"),
    "NaN": (np.full(20, np.nan), "sample_weight contains NaN"),
    "infinite": (np.full(20, np.inf), "sample_weight contains infinity"),
    "too few": (np.ones(19), r"sample_weight.shape == \(19,\), expected \(20,\)"),
    "two axes": (np.ones((20, 1)), "must be 1D array or scalar"),
    "texts": (["a"] * 20, "could not convert string to float"),
}


@BOTH
@pytest.mark.parametrize("method", ["fit", "fit_predict", "fit_transform", "score"])
@pytest.mark.parametrize(("weights", "words"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_that_will_not_do(kind, method, weights, words):
    model = kind(3, random_state=0)
    if method == "score":
        model.fit(normal(20, 3))
    with pytest.raises(ValueError, match=words):
        getattr(model, method)(normal(20, 3), sample_weight=weights)


@BOTH
@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
@pytest.mark.parametrize("method", ["fit", "partial_fit", "score"])
def test_a_weight_of_lazy_rows_that_will_not_do_is_found(kind, method, value):
    rows, weights = da.from_array(normal(300, 3), chunks=100), np.ones(300)
    model = kind(3, random_state=0)
    if not hasattr(model, method):
        return
    if method == "score":
        model.fit(rows)
    weights[123] = value
    for given in (weights, da.from_array(weights, chunks=100)):
        with pytest.raises(ValueError, match=r"sample_weight contains .* row 123"):
            getattr(model, method)(rows, sample_weight=given)


@BOTH
@pytest.mark.parametrize("method", ["predict", "transform", "score", "get_feature_names_out"])
def test_not_fitted(kind, method):
    arguments = [] if method == "get_feature_names_out" else [normal(20, 3)]
    with pytest.raises(NotFittedError, match=f"This {kind.__name__} instance is not fitted yet"):
        getattr(kind(), method)(*arguments)


@BOTH
@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_other_features_than_fitted(kind, method):
    frame = pd.DataFrame(normal(20, 3), columns=["red", "green", "blue"])
    model = kind(3, random_state=0).fit(frame)
    words = f"X has 2 features, but {kind.__name__} is expecting 3 features"
    with (
        pytest.warns(UserWarning, match="does not have valid feature names"),
        pytest.raises(ValueError, match=words),
    ):
        getattr(model, method)(normal(20, 2))
    for other, words in (
        (frame[["blue", "green", "red"]], "must be in the same order"),
        (frame.rename(columns={"red": "nir"}), "unseen at fit time:\n- nir"),
    ):
        with pytest.raises(ValueError, match=words):
            getattr(model, method)(other)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        getattr(model, method)(normal(20, 3))


@BOTH
@pytest.mark.parametrize(
    ("init", "words"),
    [
        (normal(2, 3), r"initial centers \(2, 3\) does not match the number of clusters 3"),
        (normal(3, 2), r"initial centers \(3, 2\) .* number of features of the data 3"),
        (np.full((3, 3), np.nan), "Input init contains NaN"),
        (lambda rows, k, random_state: rows[:2], "does not match the number of clusters 3"),  # noqa: ARG005
        (lambda rows, k, random_state: rows[:3] * np.nan, "Input init contains NaN"),  # noqa: ARG005
    ],
)
def test_centres_to_start_from_that_will_not_do(kind, init, words):
    with pytest.raises(ValueError, match=words):
        kind(3, init=init).fit(normal(20, 3))


@pytest.mark.parametrize("method", ["predict", "transform"])
def test_lazy_rows_that_will_not_do_are_found_when_computed(method):
    model = KMeans(3, random_state=0).fit(normal(20, 3))
    answer = getattr(model, method)(da.from_array(rows_with(np.nan, 14), chunks=10))
    with pytest.raises(
        ValueError, match="contains NaN: 1 rows, the first is row 4 of 10 of a block"
    ):
        answer.compute()


@pytest.mark.parametrize("missing", ["error", "ignore"])
@pytest.mark.parametrize("lazy", [False, True])
def test_infinity_is_named_where_there_is_nan_too(missing, lazy):
    rows = rows_with(np.nan, 3, 7)
    rows[7, 0], rows[7, 1:] = -np.inf, np.nan
    model = KMeans(3, random_state=0, missing=missing).fit(normal(20, 3))
    for call in (model.predict, model.transform, KMeans(3, missing=missing).fit):
        with pytest.raises(ValueError, match=r"contains infinity.* first .*row 7") as caught:
            np.asarray(call(da.from_array(rows, chunks=20) if lazy else rows))
        assert "NaN" not in str(caught.value)
        assert "missing" not in str(caught.value)


# Weights


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
@pytest.mark.parametrize("init", ["k-means++", "k-means||", "random"])
def test_a_weight_equals_copies_in_any_order(dtype, init):
    rng = np.random.default_rng(5)
    rows = np.unique(rng.integers(0, 200, (300, 3)), axis=0).astype(dtype)
    weights = rng.integers(0, 5, len(rows))
    copies = np.repeat(rows, weights, axis=0)
    expected = KMeans(7, init=init, random_state=0).fit(rows, sample_weight=weights)
    for given in (copies, rng.permutation(copies)):
        model = KMeans(7, init=init, random_state=0).fit(given)
        np.testing.assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
        assert (model.inertia_, model.n_iter_) == (expected.inertia_, expected.n_iter_)
        np.testing.assert_array_equal(model.counts_, expected.counts_)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_starts_on_a_part_of_the_rows_do_not_see_their_order(dtype, repeats, init):
    """From 2,400 rows a cluster on: sorted rows would make the first eighth a bad part."""
    rows = np.sort(np.random.default_rng(6).normal(0, 9, (6000, 2)), axis=0).astype(dtype)
    rows = np.repeat(rows, repeats, axis=0)
    expected = KMeans(2, init=init, random_state=0).fit(rows)
    order = np.random.default_rng(7).permutation(len(rows))
    model = KMeans(2, init=init, random_state=0).fit(rows[order])
    np.testing.assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
    np.testing.assert_array_equal(model.labels_, expected.labels_[order])
    assert (model.inertia_, model.n_iter_) == (expected.inertia_, expected.n_iter_)
    peer = sklearn.cluster.KMeans(2, n_init=8, random_state=0).fit(rows.astype("f8"))
    assert model.inertia_ <= 1.0005 * peer.inertia_


def test_rows_of_weight_zero_are_labelled_and_do_not_count():
    rows = rows_of("blobs")
    weights = (np.arange(len(rows)) % 3 > 0).astype(float)
    model = KMeans(8, random_state=0).fit(rows, sample_weight=weights)
    assert model.labels_.shape == (len(rows),)
    np.testing.assert_array_equal(
        model.labels_, squared_distances(rows, model.cluster_centers_).argmin(axis=1)
    )
    kept = KMeans(8, random_state=0).fit(rows[weights > 0])
    np.testing.assert_array_equal(model.cluster_centers_, kept.cluster_centers_)
    assert model.inertia_ == kept.inertia_
    assert model.counts_.sum() == weights.sum()


@BOTH
def test_weights_of_one_are_none(kind):
    rows = rows_of("overlap")
    plain = kind(5, random_state=0).fit(rows)
    ones = kind(5, random_state=0).fit(rows, sample_weight=np.ones(len(rows)))
    np.testing.assert_array_equal(plain.cluster_centers_, ones.cluster_centers_)
    np.testing.assert_array_equal(plain.labels_, ones.labels_)
    if kind is KMeans:
        assert (plain.counts_.dtype, ones.counts_.dtype) == (np.int64, np.float64)
        np.testing.assert_array_equal(plain.counts_, ones.counts_)


@pytest.mark.parametrize("lightest", [1e-20, 1e-40, 1e-150])
@pytest.mark.parametrize("in_passes", [False, True])
def test_clusters_of_rows_that_weigh_next_to_nothing_have_centres(lightest, in_passes):
    rows = np.repeat([[0.0], [1.0], [10.0], [11.0]], 50, axis=0)
    weights = np.repeat([1, 1, lightest, lightest], 50)
    data = da.from_array(rows, chunks=20) if in_passes else rows
    model = KMeans(2, init=[[0.5], [10.0]], n_init=1, tol=0)
    can_be_added = lightest == 1e-20  # beside 1; less counts as nothing
    with nullcontext() if can_be_added else pytest.warns(ConvergenceWarning, match="distinct"):
        model.fit(data, sample_weight=weights)
    assert np.isfinite(model.cluster_centers_).all()
    assert model.stop_reason_ == "converged"
    if can_be_added:
        np.testing.assert_allclose(model.cluster_centers_, [[0.5], [10.5]])


def test_weights_move_the_mean():
    rows, weights = normal(100, 4), np.random.default_rng(1).uniform(size=100)
    before = weights.copy()
    model = KMeans(1).fit(rows, sample_weight=weights)
    mean = np.average(rows, axis=0, weights=weights)
    np.testing.assert_allclose(model.cluster_centers_[0], mean, rtol=0, atol=1e-14)
    spread = (weights[:, None] * (rows - mean) ** 2).sum()
    assert model.inertia_ == pytest.approx(spread, rel=1e-13)
    np.testing.assert_array_equal(weights, before)


# What a fitted model answers


@BOTH
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "u1", "i1", "u2", "i2", "i4", "i8", "u8", "?"])
def test_answers_agree_with_each_other_in_every_dtype(kind, dtype):
    rows = np.abs(normal(400, 3) * 20 if dtype != "?" else normal(400, 3) > 0).astype(dtype)
    model = kind(4, random_state=0).fit(frozen(rows))
    assert model.cluster_centers_.dtype == ("f4" if dtype in ("f2", "f4") else "f8")
    exact = squared_distances(rows, model.cluster_centers_)
    np.testing.assert_array_equal(model.labels_, exact.argmin(axis=1))
    np.testing.assert_array_equal(model.predict(rows), model.labels_)
    assert model.labels_.dtype == np.int32
    assert model.inertia_ == -model.score(rows) == pytest.approx(exact.min(axis=1).sum())
    distances = model.transform(rows)
    assert distances.dtype == model.cluster_centers_.dtype
    np.testing.assert_allclose(distances, np.sqrt(exact), rtol=1e-6)


@BOTH
def test_fit_predict_and_fit_transform_are_both_steps(kind):
    rows, weights = rows_of("overlap"), np.arange(1500.0)
    model = kind(5, random_state=0).fit(rows, sample_weight=weights)
    labels = kind(5, random_state=0).fit_predict(rows, sample_weight=weights)
    np.testing.assert_array_equal(labels, model.labels_)
    distances = kind(5, random_state=0).fit_transform(rows, sample_weight=weights)
    np.testing.assert_array_equal(distances, model.transform(rows))


@BOTH
def test_names_and_pandas_out(kind):
    frame = pd.DataFrame(rows_of("overlap"), columns=["a", "b", "c"], index=range(1500, 3000))
    model = kind(2, random_state=0).set_output(transform="pandas").fit(frame)
    names = [f"{kind.__name__.lower()}{i}" for i in range(2)]
    assert model.get_feature_names_out().tolist() == names
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert model.n_features_in_ == 3
    for answer in (model.transform(frame), model.fit_transform(frame)):
        assert isinstance(answer, pd.DataFrame)
        assert answer.columns.tolist() == names
        assert answer.index.equals(frame.index)


@BOTH
def test_input_is_left_as_it_is_in_any_layout(kind):
    rows = rows_of("overlap")
    expected = kind(5, random_state=0).fit(rows)
    for given in (
        np.asfortranarray(rows),
        np.repeat(rows, 2, axis=0)[::2],
        rows.astype(">f8"),
        rows.tolist(),
        rows.astype(object),
    ):
        model = kind(5, random_state=0).fit(given)
        np.testing.assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
        np.testing.assert_array_equal(model.labels_, expected.labels_)


@BOTH
def test_fitting_again_forgets(kind):
    model = kind(3, random_state=0).fit(pd.DataFrame(normal(50, 3), columns=list("abc")))
    model.fit(normal(60, 2))
    assert model.n_features_in_ == 2
    assert not hasattr(model, "feature_names_in_")
    assert model.labels_.shape == (60,)
    fresh = clone(model).fit(normal(60, 2))
    np.testing.assert_array_equal(model.cluster_centers_, fresh.cluster_centers_)


@BOTH
def test_bytes_are_not_copied_as_floats(kind):
    rows = np.random.default_rng(0).integers(0, 256, (2_500_000, 8), np.uint8)
    model = kind(4, max_iter=1, random_state=0).fit(rows[:1000])  # compiles
    if kind is MiniBatchKMeans:
        model.set_params(compute_labels=False)
    _, peak = traced(model.fit, rows)
    labels = 4 * len(rows) if kind is KMeans else 0
    assert peak < labels + 3 * rows.nbytes  # a copy as float32 has four times the bytes


@pytest.mark.parametrize("dtype", ["?", "u4", "i8", ">i4", ">f8"])
def test_other_numbers_are_converted_block_by_block(dtype):
    rows = np.random.default_rng(0).integers(0, 2, (1_000_000, 8)).astype(dtype)
    model = KMeans(4, max_iter=1, random_state=0).fit(rows[:1000])
    labels, peak = traced(model.predict, rows)
    assert peak < 3 / 4 * 8 * rows.size  # bytes of a copy as float64
    np.testing.assert_array_equal(labels, model.predict(rows.astype(np.float64)))


@BOTH
def test_a_part_of_a_raster_is_labelled_without_a_copy(kind):
    raster = np.random.default_rng(0).random((8, 1000, 1001))
    part = np.moveaxis(raster[:, :, 1:], 0, -1)  # no view of it has its rows along one axis
    model = kind(4, random_state=0).fit(part[:40, :40])
    labels, peak = traced(model.predict, part)
    assert peak < labels.nbytes + part.nbytes / 4
    part[700, 30, 5] = np.nan
    with pytest.raises(ValueError, match=r"NaN: 1 rows, the first is row 700030 of 1000000\. "):
        model.predict(part)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rows_that_are_not_all_in_memory_twice(dtype):
    # Larger than a summary: refined in passes, from the same centres to the same end.
    rows = make_blobs(140_000, 3, centers=5, random_state=0)[0].astype(dtype)
    settings = {"n_clusters": 5, "init": rows[:5].copy(), "n_init": 1, "tol": 0, "max_iter": 100}
    ours = KMeans(**settings).fit(rows)
    theirs = sklearn.cluster.KMeans(**settings).fit(rows.astype("f8"))
    atol = np.ptp(rows) * (1e-12 if dtype == "f8" else 1e-5)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=0, atol=atol)
    assert np.mean(ours.labels_ != theirs.labels_) <= (0 if dtype == "f8" else 1e-4)
    assert ours.stop_reason_ == "converged"


# Callbacks


class Recording:
    """Notes each task that ends, and asks to stop after some iterations."""

    def __init__(self, most=None):
        self.most = most
        self.tasks = []
        self.models = []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):  # noqa: ARG002 - the protocol
        self.tasks.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):  # noqa: ARG002 - the protocol
        self.tasks.append(context.task_name)
        if fitted_estimator is not None:
            self.models.append(fitted_estimator)
        return context.task_name == "iteration" and len(self.models) == self.most


@pytest.mark.parametrize("n_rows", [1500, 140_000])
def test_a_callback_is_told_of_iterations_and_passes(n_rows):
    rows = normal(n_rows, 3)
    seen = Recording()
    model = KMeans(4, random_state=0, max_iter=5, tol=0).set_callbacks(seen).fit(rows)
    assert seen.tasks == ["summarise", *["iteration"] * model.n_iter_, "fit", "teardown"]
    last = seen.models[-1]
    np.testing.assert_array_equal(last.predict(rows), model.labels_)
    np.testing.assert_array_equal(last.cluster_centers_, model.cluster_centers_)
    scores = [fitted.score(rows) for fitted in seen.models]
    assert scores == sorted(scores)
    assert scores[-1] == pytest.approx(-model.inertia_, rel=1e-14)


@pytest.mark.parametrize("n_rows", [1500, 140_000])
def test_a_callback_can_stop(n_rows):
    rows = normal(n_rows, 3)
    seen = Recording(most=2)
    settings = {"n_clusters": 4, "init": rows[:4], "n_init": 1, "tol": 0}
    model = KMeans(**settings).set_callbacks(seen).fit(rows)
    assert (model.n_iter_, model.stop_reason_) == (2, "stopped")
    whole = KMeans(**settings, max_iter=2).fit(rows)
    np.testing.assert_array_equal(model.cluster_centers_, whole.cluster_centers_)
    assert model.inertia_ == whole.inertia_


def test_callbacks_hear_of_starts_in_threads_one_after_the_other():
    rows = normal(1500, 3)

    class Alone(Recording):
        def on_fit_task_end(self, estimator, context, **told):
            with alone(own):
                time.sleep(1e-3)
                super().on_fit_task_end(estimator, context, **told)

    own = threading.Lock()
    seen = Alone()
    with dask.config.set(scheduler="threads", num_workers=4):
        KMeans(4, init="random", n_init=8, random_state=0, tol=0).set_callbacks(seen).fit(rows)
    assert seen.tasks.count("iteration") > 16


@contextmanager
def alone(lock):
    """Hold a lock that nobody else holds."""
    assert lock.acquire(blocking=False)
    try:
        yield
    finally:
        lock.release()


@BOTH
def test_scikit_learns_callbacks(kind, capsys):
    rows = rows_of("overlap")
    model = kind(4, random_state=0).set_callbacks(ProgressBar(), ScoringMonitor(scoring=None))
    model.fit(rows)
    assert kind.__name__ in capsys.readouterr().out
    plain = kind(4, random_state=0).fit(rows)
    np.testing.assert_array_equal(model.cluster_centers_, plain.cluster_centers_)


@BOTH
def test_verbose_tells_of_iterations(kind, capsys):
    kind(3, random_state=0, verbose=1).fit(rows_of("overlap"))
    told = capsys.readouterr().out
    assert f"{kind.__name__}: summarise, " in told
    assert f"{kind.__name__}: iteration 1\n" in told


# Functions


def test_k_means_is_the_class():
    rows, weights = rows_of("overlap"), np.arange(1500) % 4
    settings = {"init": "random", "n_init": 2, "max_iter": 7, "tol": 1e-3, "random_state": 3}
    model = KMeans(4, **settings).fit(rows, sample_weight=weights)
    found = k_means(rows, 4, sample_weight=weights, **settings, return_n_iter=True)
    for value, name in zip(
        found, ("cluster_centers_", "labels_", "inertia_", "n_iter_"), strict=True
    ):
        np.testing.assert_array_equal(value, getattr(model, name))
    assert len(k_means(rows, 4, sample_weight=weights, **settings)) == 3


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
def test_kmeans_plusplus_chooses_rows(dtype):
    rows = (rows_of("overlap") * 10).astype(dtype)
    centers, indices = kmeans_plusplus(rows, 20, random_state=0)
    assert centers.dtype == ("f4" if dtype == "f4" else "f8")
    np.testing.assert_array_equal(centers, rows[indices])
    again = kmeans_plusplus(rows, 20, random_state=0)[1]
    np.testing.assert_array_equal(indices, again)
    if dtype != "i4":
        assert len(set(indices.tolist())) == 20


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_kmeans_plusplus_is_without_regard_to_the_order_of_bytes(dtype):
    rows = normal(100, 3).astype(dtype)
    centers, indices = kmeans_plusplus(rows, 20, random_state=0)
    for order in "<>":
        found, places = kmeans_plusplus(rows.astype(order + dtype), 20, random_state=0)
        assert found.dtype == dtype
        assert found.tobytes() == centers.tobytes()
        np.testing.assert_array_equal(places, indices)


def test_kmeans_plusplus_spreads_as_well_as_scikit_learns():
    rows = rows_of("blobs")

    def spread(choose):
        chosen = [choose(rows, 8, random_state=seed)[0] for seed in range(20)]
        return np.mean([squared_distances(rows, c).min(axis=1).sum() for c in chosen])

    assert spread(kmeans_plusplus) < 1.1 * spread(sklearn.cluster.kmeans_plusplus)


def test_kmeans_plusplus_chooses_no_row_of_weight_zero():
    weights = (np.arange(1500) % 50 == 0).astype(float)
    _, indices = kmeans_plusplus(rows_of("overlap"), 30, sample_weight=weights, random_state=0)
    assert sorted(indices) == list(range(0, 1500, 50))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_clusters": 21}, "n_samples=20 should be >= n_clusters=21"),
        ({"n_clusters": 0}, "n_clusters.* 0"),
        ({"n_clusters": 2, "x_squared_norms": np.ones(3)}, "The length of x_squared_norms"),
        ({"n_clusters": 2, "n_local_trials": 0}, "n_local_trials.* 0"),
        ({"n_clusters": 2, "sample_weight": np.ones(3)}, "sample_weight.shape"),
        ({"n_clusters": 2, "X": rows_with(np.nan, 3)}, "contains NaN"),
        ({"n_clusters": 2, "X": rows_with(1e200, 3)}, r"too far apart .*1e\+200.*Scale them"),
        ({"n_clusters": 2, "X": normal(20, 3) * 1e-200}, "too near each other .*Scale them"),
    ],
)
def test_arguments_of_kmeans_plusplus_that_will_not_do(arguments, words):
    with pytest.raises(ValueError, match=words):
        kmeans_plusplus(**{"X": normal(20, 3), **arguments})


@pytest.mark.parametrize("fitted", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("asked", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("d", [2, 7, 19])
def test_rows_of_another_dtype_get_the_nearest_centre(fitted, asked, d):
    rows = np.random.default_rng(d).integers(0, 200, (700, d))
    model = KMeans(9, random_state=0, max_iter=3).fit(rows.astype(fitted))
    distances = ((rows[:, None] - model.cluster_centers_.astype(np.float64)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(model.predict(rows.astype(asked)), distances.argmin(axis=1))
