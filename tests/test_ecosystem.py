"""At home where data pipelines are: scikit-learn, joblib, dask-ml, pandas, Dask frames, xarray."""

import pickle

import cloudpickle
import dask
import dask.array as da
import dask.base
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import sklearn.cluster
import sklearn.model_selection
import xarray as xr
from joblib import Parallel, delayed, parallel_backend
from sklearn.base import clone
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from dkmeans import InvalidArgumentError, KMeans, MiniBatchKMeans, _summary_rows, load

CENTERS = np.array([[0.0, 0, 0, 0], [8, 0, 8, 0], [0, 8, 0, 8]])
TRUE = np.arange(600) % 3
ROWS = CENTERS[TRUE] + np.random.default_rng(0).normal(size=(600, 4))
ROWS.flags.writeable = False

# Of libraries that dkmeans is used with; none of them is raised in or because of dkmeans.
pytestmark = [
    # dask-ml's `IncrementalSearchCV` passes the argument that it warns of itself.
    pytest.mark.filterwarnings("ignore:decay_rate has been deprecated:FutureWarning"),
]


@pytest.fixture
def lazy():
    return da.from_array(ROWS, chunks=(100, 4))


@pytest.fixture(params=["threads", "cluster"])
def where(request):
    """Run the test on threads and on a cluster."""
    if request.param == "cluster":
        request.getfixturevalue("client")
        yield request.param
    else:
        with dask.config.set(scheduler="threads", num_workers=2):
            yield request.param


@pytest.fixture(params=[KMeans, MiniBatchKMeans])
def kind(request):
    return request.param


def fit_of(rows, random_state=0):
    """Fit; a function by name, which tasks and processes can be sent."""
    return KMeans(3, random_state=random_state).fit(rows).cluster_centers_


@dask.delayed
def delayed_error():
    """Stand for rows that nothing must read."""
    raise AssertionError


def assert_found(labels):
    """Check that labels are those of the blobs, by other names."""
    labels = np.asarray(labels)
    pairs = set(zip(labels.tolist(), TRUE.tolist(), strict=True))
    assert labels.dtype == np.int32
    assert len(pairs) == len(CENTERS)


# scikit-learn


def test_pipeline(kind):
    pipe = Pipeline([("scale", StandardScaler()), ("cluster", kind(3, random_state=0))])
    labels = pipe.fit_predict(ROWS)
    assert_found(labels)
    np.testing.assert_array_equal(pipe.predict(ROWS), labels)
    scaled = pipe.named_steps["scale"].transform(ROWS)
    assert pipe.named_steps["cluster"].cluster_centers_.shape == (3, 4)
    np.testing.assert_array_equal(pipe.transform(ROWS), pipe["cluster"].transform(scaled))
    assert pipe.score(ROWS) == pipe["cluster"].score(scaled)
    names = pipe.get_feature_names_out().tolist()
    assert names == [f"{kind.__name__.lower()}{i}" for i in range(3)]


def test_clusters_as_features(kind):
    pipe = make_pipeline(kind(10, random_state=0), sklearn.linear_model.LogisticRegression())
    assert pipe.fit(ROWS, TRUE).score(ROWS, TRUE) > 0.95


def test_set_output(kind):
    frame = pd.DataFrame(ROWS, columns=list("abcd"), index=np.arange(600) * 2)
    found = kind(3, random_state=0).set_output(transform="pandas").fit_transform(frame)
    assert list(found.columns) == [f"{kind.__name__.lower()}{i}" for i in range(3)]
    assert found.index.equals(frame.index)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_grid_search(kind, n_jobs):
    search = sklearn.model_selection.GridSearchCV(
        kind(random_state=0), {"n_clusters": [1, 2, 3]}, cv=3, n_jobs=n_jobs
    )
    search.fit(ROWS)
    assert search.best_params_ == {"n_clusters": 3}
    assert_found(search.predict(ROWS))


def test_clone(kind):
    model = kind(3, init=ROWS[:3], n_init=1, missing="ignore", random_state=0).fit(ROWS)
    cloned = clone(model)
    assert not hasattr(cloned, "cluster_centers_")
    assert cloned.init is not model.init
    assert repr(cloned) == repr(model)
    np.testing.assert_array_equal(cloned.fit(ROWS).cluster_centers_, model.cluster_centers_)


# Pickle and joblib


@pytest.mark.parametrize("library", [pickle, cloudpickle])
@pytest.mark.parametrize("make", [np.asarray, lambda rows: da.from_array(rows, chunks=(100, 4))])
def test_pickle(kind, library, make):
    model = kind(3, random_state=0).fit(make(ROWS))
    copied = pickle.loads(library.dumps(model))  # noqa: S301 - our own
    assert type(copied.labels_) is type(model.labels_)
    np.testing.assert_array_equal(copied.labels_, model.labels_)
    np.testing.assert_array_equal(copied.predict(ROWS), model.predict(ROWS))
    assert copied.score(ROWS) == model.score(ROWS)


@pytest.mark.parametrize("backend", ["threading", "loky", "multiprocessing"])
def test_joblib_gives_the_same_bits(backend):
    with parallel_backend(backend, n_jobs=2):
        found = Parallel()(delayed(fit_of)(ROWS, seed) for seed in (0, 1, 0, 1))
    for seed, centers in zip((0, 1, 0, 1), found, strict=True):
        assert centers.tobytes() == fit_of(ROWS, seed).tobytes()


def test_joblib_on_a_cluster_gives_the_same_bits(client):
    with parallel_backend("dask", client=client):
        found = Parallel()(delayed(fit_of)(ROWS, seed) for seed in (0, 1))
        search = sklearn.model_selection.GridSearchCV(
            KMeans(random_state=0), {"n_clusters": [2, 3]}, cv=3
        ).fit(ROWS)
    assert [c.tobytes() for c in found] == [fit_of(ROWS, s).tobytes() for s in (0, 1)]
    assert search.best_params_ == {"n_clusters": 3}


# Fits inside Dask's tasks


@pytest.mark.usefixtures("scheduler")
def test_fits_inside_tasks():
    tasks = [dask.delayed(fit_of)(ROWS, seed) for seed in range(6)]
    found = dask.compute(*tasks)
    assert [c.tobytes() for c in found] == [fit_of(ROWS, s).tobytes() for s in range(6)]


@pytest.mark.usefixtures("scheduler")
def test_fits_of_lazy_data_inside_tasks():
    def work(seed):
        return fit_of(da.from_array(ROWS, chunks=(100, 4)), seed)

    found = dask.compute(*[dask.delayed(work)(seed) for seed in range(6)])
    assert [c.tobytes() for c in found] == [fit_of(ROWS, s).tobytes() for s in range(6)]


def test_fits_of_lazy_data_as_futures(client):
    lazy = da.from_array(ROWS, chunks=(100, 4))
    futures = [client.submit(fit_of, lazy, seed) for seed in range(4)]
    found = client.gather(futures)
    assert [c.tobytes() for c in found] == [fit_of(ROWS, s).tobytes() for s in range(4)]


# dask-ml


@pytest.mark.usefixtures("where")
def test_dask_ml_scaler_in_a_pipeline(kind, lazy):
    from dask_ml.preprocessing import StandardScaler as LazyScaler  # noqa: PLC0415 - slow

    pipe = make_pipeline(LazyScaler(), kind(3, random_state=0))
    labels = pipe.fit_predict(lazy)
    assert isinstance(labels, da.Array)
    assert labels.chunks == lazy.chunks[:1]
    assert_found(labels.compute())
    np.testing.assert_array_equal(pipe.predict(lazy), labels)
    distances = pipe.transform(lazy)
    assert distances.chunks == (lazy.chunks[0], (3,))
    np.testing.assert_array_equal(distances.compute().argmin(axis=1), labels)


@pytest.mark.usefixtures("where")
def test_dask_ml_scaler_gives_the_same_bits_everywhere(lazy):
    from dask_ml.preprocessing import StandardScaler as LazyScaler  # noqa: PLC0415 - slow

    found = make_pipeline(LazyScaler(), KMeans(3, random_state=0)).fit(lazy)[1].cluster_centers_
    scaled = LazyScaler().fit_transform(lazy).compute()
    assert found.tobytes() == fit_of(scaled).tobytes()


@pytest.mark.usefixtures("where")
@pytest.mark.parametrize("solver", ["auto", "full", "tsqr", "randomized"])
def test_dask_ml_pca_in_a_pipeline(kind, lazy, solver):
    from dask_ml.decomposition import PCA  # noqa: PLC0415 - slow

    pipe = make_pipeline(PCA(2, svd_solver=solver, random_state=0), kind(3, random_state=0))
    assert_found(pipe.fit_predict(lazy).compute())
    assert pipe[1].cluster_centers_.shape == (3, 2)


@pytest.mark.parametrize("name", ["IncrementalPCA", "TruncatedSVD"])
@pytest.mark.filterwarnings(
    "ignore:invalid value encountered in divide:RuntimeWarning"
)  # no rows yet
def test_other_projections_of_dask_ml(kind, lazy, name, where):
    if (name, where) == ("IncrementalPCA", "cluster"):
        return  # ten seconds, nearly all of them dask-ml's
    import dask_ml.decomposition  # noqa: PLC0415 - slow

    pipe = make_pipeline(getattr(dask_ml.decomposition, name)(2), kind(3, random_state=0))
    assert_found(pipe.fit_predict(lazy).compute())


@pytest.mark.usefixtures("where")
@pytest.mark.parametrize("in_memory", [True, False])
def test_dask_ml_grid_search(kind, lazy, in_memory):
    from dask_ml.model_selection import GridSearchCV  # noqa: PLC0415 - slow

    search = GridSearchCV(kind(random_state=0), {"n_clusters": [1, 2, 3]}, cv=3)
    search.fit(ROWS if in_memory else lazy)
    assert search.best_params_ == {"n_clusters": 3}
    assert_found(search.best_estimator_.predict(ROWS))


@pytest.mark.usefixtures("where")
def test_dask_ml_grid_search_over_a_pipeline(lazy):
    from dask_ml.model_selection import GridSearchCV  # noqa: PLC0415 - slow

    pipe = make_pipeline(StandardScaler(), KMeans(random_state=0))
    search = GridSearchCV(pipe, {"kmeans__n_clusters": [1, 3]}, cv=3).fit(lazy)
    assert search.best_params_ == {"kmeans__n_clusters": 3}


@pytest.mark.usefixtures("where")
def test_dask_ml_incremental(lazy):
    from dask_ml.wrappers import Incremental  # noqa: PLC0415 - slow

    wrapped = Incremental(MiniBatchKMeans(3, random_state=0), shuffle_blocks=False).fit(lazy)
    plain = MiniBatchKMeans(3, random_state=0)
    for start in range(0, len(ROWS), 100):
        plain.partial_fit(ROWS[start : start + 100])
    found = wrapped.estimator_
    assert found.n_steps_ == plain.n_steps_ == lazy.npartitions
    assert found.cluster_centers_.tobytes() == plain.cluster_centers_.tobytes()
    assert_found(wrapped.predict(lazy).compute())


@pytest.mark.usefixtures("where")
def test_dask_ml_parallel_post_fit(kind, lazy):
    from dask_ml.wrappers import ParallelPostFit  # noqa: PLC0415 - slow

    wrapped = ParallelPostFit(kind(3, random_state=0)).fit(ROWS)
    labels = wrapped.predict(lazy)
    assert isinstance(labels, da.Array)
    assert labels.dtype == np.int32
    assert_found(labels.compute())
    # Its `transform` claims the width of its input, of any estimator; what it computes is right.
    distances = wrapped.transform(lazy).compute()
    assert distances.tobytes() == wrapped.estimator.transform(ROWS).tobytes()


@pytest.fixture
def search_space(monkeypatch):
    """Return parameters for dask-ml's adaptive searches, which need a cluster.

    They ask Dask to persist data from within a coroutine, which Dask refuses since dask-ml's last
    release, whatever the estimator. Here it is allowed, so that what dkmeans does is seen.
    """
    monkeypatch.setattr(dask.base, "_ensure_not_async", lambda client: client.get, raising=False)
    return {"n_clusters": [2, 3, 4, 5, 6, 7], "batch_size": [50, 100]}


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("name", ["IncrementalSearchCV", "HyperbandSearchCV"])
@pytest.mark.filterwarnings(
    "ignore:The total space of parameters:UserWarning"
)  # there are few here
def test_dask_ml_adaptive_searches(search_space, lazy, name):
    import dask_ml.model_selection  # noqa: PLC0415 - slow

    def search(model):
        options = {"n_initial_parameters": 6} if name == "IncrementalSearchCV" else {}
        found = getattr(dask_ml.model_selection, name)(
            model, search_space, max_iter=6, test_size=0.2, random_state=0, **options
        )
        return found.fit(lazy, da.from_array(TRUE, chunks=100))

    try:
        search(sklearn.cluster.MiniBatchKMeans(random_state=0))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not of dkmeans
        pytest.skip(f"dask-ml's {name} does not work with this Dask: {error!r}")
    found = search(MiniBatchKMeans(random_state=0))
    assert found.best_params_["n_clusters"] >= 3
    assert found.best_estimator_.n_steps_ > 0
    assert found.predict(lazy).shape == (600,)


@pytest.mark.usefixtures("client")
def test_dask_ml_adaptive_searches_as_they_are(lazy):
    from dask_ml.model_selection import IncrementalSearchCV  # noqa: PLC0415 - slow

    def search(model):
        space = {"n_clusters": [3], "batch_size": [50, 100]}
        found = IncrementalSearchCV(model, space, n_initial_parameters=2, max_iter=2)
        return found.fit(lazy, da.from_array(TRUE, chunks=100))

    try:
        search(sklearn.cluster.MiniBatchKMeans(random_state=0))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not of dkmeans
        pytest.skip(f"dask-ml's own search does not work with this Dask: {error!r}")
    assert search(MiniBatchKMeans(random_state=0)).best_params_["n_clusters"] == 3


# Frames


def test_pandas(kind):
    frame = pd.DataFrame(ROWS, columns=list("abcd"))
    model = kind(3, random_state=0).fit(frame)
    assert model.feature_names_in_.tolist() == list("abcd")
    assert_found(model.predict(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("dcba")])
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"a": "z"}))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(ROWS)


def test_pandas_nullable_numbers(kind):
    frame = pd.DataFrame(ROWS, columns=list("abcd")).convert_dtypes()
    assert_found(kind(3, random_state=0).fit_predict(frame))
    frame.iloc[7, 2] = pd.NA
    model = kind(3, random_state=0, missing="ignore").fit(frame)
    assert model.n_missing_ == 1
    assert model.labels_[7] == -1


def test_pandas_weights(kind):
    frame = pd.DataFrame(ROWS, columns=list("abcd"))
    weights = pd.Series(TRUE + 1.0)
    by_series = kind(3, random_state=0).fit(frame, sample_weight=weights)
    by_array = kind(3, random_state=0).fit(ROWS, sample_weight=TRUE + 1.0)
    assert by_series.cluster_centers_.tobytes() == by_array.cluster_centers_.tobytes()


@pytest.mark.usefixtures("where")
def test_dask_frames(kind):
    plain = pd.DataFrame(ROWS, columns=list("abcd"))
    frame = dd.from_pandas(plain, npartitions=5)
    model = kind(3, random_state=0).fit(frame)
    assert model.feature_names_in_.tolist() == list("abcd")
    labels = model.predict(frame)
    assert isinstance(labels, da.Array)
    assert_found(labels.compute())
    np.testing.assert_array_equal(model.labels_, labels)
    in_memory = kind(3, random_state=0).fit(plain)
    assert model.cluster_centers_.tobytes() == in_memory.cluster_centers_.tobytes()
    np.testing.assert_array_equal(in_memory.predict(frame), model.predict(plain))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("dcba")])


def test_names_of_features_are_missed_where_scikit_learn_misses_them(kind):
    plain = pd.DataFrame(ROWS, columns=list("abcd"))
    named, unnamed = kind(3, random_state=0).fit(plain), kind(3, random_state=0).fit(ROWS)
    frame = dd.from_delayed([delayed_error()], meta=plain[:0])
    for given in (plain, frame):
        with pytest.warns(UserWarning, match="X has feature names, but .* without") as caught:
            unnamed.predict(given)
        assert len(caught) == 1
    assert caught[0].filename == __file__
    for given in (ROWS, da.from_array(ROWS), ROWS.reshape(20, 30, -1), xr.DataArray(ROWS)):
        with pytest.warns(UserWarning, match="does not have valid feature names, but") as caught:
            named.predict(given)
        assert len(caught) == 1
    named.predict(frame)


@pytest.mark.usefixtures("where")
def test_dask_frames_with_weights():
    plain = pd.DataFrame(ROWS, columns=list("abcd"))
    plain["weight"] = TRUE + 1.0
    frame = dd.from_pandas(plain, npartitions=5)
    model = KMeans(3, random_state=0).fit(frame[list("abcd")], sample_weight=frame["weight"])
    expected = KMeans(3, random_state=0).fit(ROWS, sample_weight=TRUE + 1.0)
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()


@pytest.mark.parametrize("dtype", ["Int16", "Float32", "int8[pyarrow]", "category", "boolean"])
def test_dask_frames_of_dtypes_of_pandas(kind, dtype):
    numbers = np.round(ROWS) > 0 if dtype == "boolean" else np.round(ROWS).astype(np.int64)
    plain = pd.DataFrame(numbers, columns=list("abcd")).astype(dtype)
    plain.iloc[7, 2] = None
    expected = numbers.astype(np.float64)
    expected[7, 2] = np.nan
    weights = pd.Series(TRUE).astype("Int64")
    frame, weights = (dd.from_pandas(data, npartitions=5) for data in (plain, weights))
    model = kind(3, random_state=0, missing="ignore").fit(frame, sample_weight=weights)
    in_memory = kind(3, random_state=0, missing="ignore").fit(expected, sample_weight=TRUE)
    assert model.cluster_centers_.tobytes() == in_memory.cluster_centers_.tobytes()
    np.testing.assert_array_equal(model.labels_, in_memory.labels_)
    assert model.labels_[7].compute() == -1
    with pytest.raises(ValueError, match="contains NaN"):
        kind(3).fit(frame)


@pytest.mark.parametrize("dtype", ["i1", "u1", "f4", "f8", "Int16", "boolean", "bool"])
def test_dask_frames_of_booleans_beside_numbers(kind, dtype):
    plain = pd.DataFrame({"a": ROWS[:, 0] > 4, "b": np.round(ROWS[:, 1]).clip(0).astype("i1")})
    plain["b"] = (
        plain["b"].astype(bool).astype(dtype) if "bool" in dtype else plain["b"].astype(dtype)
    )
    model = kind(2, random_state=0).fit(dd.from_pandas(plain, npartitions=5))
    in_memory = kind(2, random_state=0).fit(plain)
    assert model.cluster_centers_.tobytes() == in_memory.cluster_centers_.tobytes()
    np.testing.assert_array_equal(model.labels_, in_memory.labels_)


@pytest.mark.parametrize("dtype", ["bool", "i1", "u1"])
def test_frames_of_booleans_beside_small_integers_are_small_integers(monkeypatch, dtype):
    """Which is seen by this: few distinct ones are counted in one pass."""
    monkeypatch.setattr(_summary_rows, "MIN_ROWS", 100)
    monkeypatch.setattr(_summary_rows, "ROWS_PER_CLUSTER", 20)
    plain = pd.DataFrame({"a": ROWS[:, 0] > 4, "b": np.round(ROWS[:, 1]).clip(0).astype("i1")})
    plain["b"] = plain["b"].astype(dtype)
    model = KMeans(2, random_state=0).fit(plain)
    lazy = KMeans(2, random_state=0).fit(dd.from_pandas(plain, npartitions=5))
    unsized = 1  # pass, that finds the sizes of chunks
    assert lazy.n_passes_ == model.n_passes_ + unsized
    assert (model.n_passes_ == 1) == (dtype != "bool")
    assert model.cluster_centers_.tobytes() == lazy.cluster_centers_.tobytes()


@pytest.mark.parametrize("values", [["x"] * 600, pd.date_range("2020", periods=600)])
def test_a_column_of_a_dask_frame_that_holds_no_numbers_is_named(kind, values):
    frame = dd.from_pandas(pd.DataFrame({"a": TRUE, "b": values}), npartitions=2)
    with pytest.raises(ValueError, match=r"X, in the column 'b', has the dtype (str|date)"):
        kind(3).fit(frame)


def test_polars(kind):
    polars = pytest.importorskip("polars")
    model = kind(3, random_state=0).fit(polars.DataFrame(ROWS, schema=list("abcd")))
    assert model.feature_names_in_.tolist() == list("abcd")
    assert_found(model.labels_)


# xarray


def bands(*, lazy=False):
    """Rows as a raster, as rioxarray reads one: bands first."""
    values = np.ascontiguousarray(ROWS.T.reshape(4, 20, 30))
    return xr.DataArray(
        da.from_array(values, chunks=(1, 7, 30)) if lazy else values,
        dims=("band", "y", "x"),
        coords={"band": [1, 2, 3, 4], "y": np.arange(20) * -10.0, "x": np.arange(30) * 10.0,
                "spatial_ref": 0},
        attrs={"long_name": "reflectance"},
    )  # fmt: skip


@pytest.mark.usefixtures("where")
@pytest.mark.parametrize("is_lazy", [False, True])
def test_raster_with_bands_first(kind, is_lazy):
    raster = bands(lazy=is_lazy)
    model = kind(3, random_state=0, feature_dim="band").fit(raster)
    expected = kind(3, random_state=0).fit(ROWS)
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    labels = model.predict(raster)
    assert isinstance(labels, xr.DataArray)
    assert isinstance(labels.data, da.Array if is_lazy else np.ndarray)
    assert labels.dims == ("y", "x")
    assert set(labels.coords) == {"y", "x", "spatial_ref"}
    xr.testing.assert_equal(labels.coords["y"], raster.coords["y"])
    assert_found(labels.to_numpy().ravel())
    xr.testing.assert_equal(model.labels_, labels)
    distances = model.transform(raster)
    assert distances.dims == ("y", "x", "cluster")
    assert (distances.argmin("cluster") == labels).all()


def test_a_model_of_a_raster_takes_rows_without_names(kind, tmp_path):
    kind(3, random_state=0, feature_dim="band").fit(bands()).save(tmp_path / "model.json")
    model = load(tmp_path / "model.json")
    expected = kind(3, random_state=0).fit(ROWS)
    for rows in (ROWS, pd.DataFrame(ROWS), da.from_array(ROWS), ROWS.reshape(20, 30, -1), [ROWS]):
        np.testing.assert_array_equal(np.ravel(model.predict(rows)), expected.predict(ROWS))
    assert model.score(ROWS) == expected.score(ROWS)
    assert model.transform(ROWS).tobytes() == expected.transform(ROWS).tobytes()
    wrong = np.ascontiguousarray(ROWS.reshape(20, 30, -1).transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"X has 30 features, but .* is expecting 4"):
        model.predict(wrong)
    with pytest.raises(InvalidArgumentError, match="it must be a dimension of X"):
        model.predict(bands().rename(band="channel"))


def test_names_along_the_features(kind):
    names = ["red", "green", "blue", "nir"]
    data = xr.DataArray(ROWS, dims=("pixel", "band"), coords={"band": names})
    model = kind(3, random_state=0).fit(data)
    assert model.feature_names_in_.tolist() == names
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(data.isel(band=[1, 0, 2, 3]))


@pytest.mark.usefixtures("where")
def test_weights_of_a_raster(kind):
    raster = bands()
    weights = xr.DataArray((TRUE + 1.0).reshape(20, 30), dims=("y", "x"))
    model = kind(3, random_state=0, feature_dim="band").fit(raster, sample_weight=weights.T)
    expected = kind(3, random_state=0).fit(ROWS, sample_weight=TRUE + 1.0)
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()


@pytest.mark.parametrize("dtype", [">f8", "?", "i4"])
def test_weights_of_labelled_rows_may_be_any_numbers(monkeypatch, dtype):
    monkeypatch.setattr(_summary_rows, "MIN_ROWS", 100)
    monkeypatch.setattr(_summary_rows, "ROWS_PER_CLUSTER", 20)
    weights = (TRUE % 2).astype(dtype)
    model = KMeans(3, random_state=0, max_iter=3)
    expected = model.fit(ROWS, sample_weight=weights.astype(float)).cluster_centers_.tobytes()
    dims = "pixel", "band"
    model.fit(xr.DataArray(ROWS, dims=dims), sample_weight=xr.DataArray(weights, dims=dims[:1]))
    assert model.n_passes_ > 1
    assert model.cluster_centers_.tobytes() == expected


@pytest.mark.usefixtures("where")
def test_missing_pixels_of_a_raster():
    raster = bands(lazy=True)
    clouds = (raster.x < 25) & (raster.y > -25)
    model = KMeans(3, random_state=0, feature_dim="band", missing="ignore")
    labels = model.fit(raster.where(~clouds)).labels_.compute()
    assert model.n_missing_ == 9
    assert ((labels == -1) == clouds).all()
