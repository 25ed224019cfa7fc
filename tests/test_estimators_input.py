"""Bad input to the estimators, in every kind of data: one clear error of the type that fits."""

import re
import sys
import warnings

import dask
import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn.cluster
import sparse
import xarray as xr
import zarr
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from dkmeans import KMeans, MiniBatchKMeans, k_means, kmeans_plusplus
from dkmeans._validation import InvalidArgumentError, SourceError

ROWS = np.random.default_rng(0).normal(size=(40, 3))
ROWS.flags.writeable = False
NAMES = list("abc")
CHUNK = 16


class Makers:
    """Each makes data of one kind of an array; and its weights in a kind that goes with it."""

    def __init__(self, folder):
        self.folder = folder
        self.n_stores = 0

    def numpy(self, array):
        return np.asarray(array)

    def list(self, array):
        return np.asarray(array).tolist()

    def pandas(self, array):
        return pd.DataFrame(array, columns=NAMES[: array.shape[1]])

    def dask(self, array):
        return da.from_array(np.asarray(array), chunks=CHUNK)

    def dask_of_masked(self, array):
        return da.from_array(array, chunks=CHUNK, asarray=False)

    def frame(self, array):
        return dd.from_pandas(self.pandas(array), npartitions=3)

    def zarr(self, array):
        self.n_stores += 1
        chunks = tuple(max(1, min(CHUNK, n)) for n in array.shape)
        store = str(self.folder / f"{self.n_stores}.zarr")
        stored = zarr.create_array(store, shape=array.shape, chunks=chunks, dtype=array.dtype)
        if array.size:
            stored[...] = array
        return stored

    def path(self, array):
        return self.folder / self.zarr(array).store.root.name

    def xarray(self, array):
        return xr.DataArray(array)

    def leading(self, array):
        return np.asarray(array).reshape(4, -1, *array.shape[1:])

    def collection(self, array):
        half = len(array) // 2
        return [np.asarray(array[:half]), np.asarray(array[half:])]

    def weights(self, kind, weights):
        """Return weights in a kind that goes with data of `kind`."""
        if kind == "frame":
            whole = pd.DataFrame(ROWS).assign(weight=weights)
            return dd.from_pandas(whole, npartitions=3)["weight"]
        same = {"pandas": pd.Series, "list": list, "path": self.zarr}
        return same.get(kind, getattr(self, kind))(weights)


KINDS = [
    name
    for name in vars(Makers)
    if "weights" not in name and "masked" not in name and not name.startswith("_")
]
LAZY = ("dask", "frame", "zarr", "path")


@pytest.fixture
def makers(tmp_path):
    return Makers(tmp_path)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=[KMeans, MiniBatchKMeans])
def estimator(request):
    return request.param(3, random_state=0)


def computed(answer, n_axes=1):
    """Return an answer in memory, of whatever kind it is; rows along the first of its axes."""
    if isinstance(answer, list):
        return np.concatenate([computed(part, n_axes) for part in answer])
    array = np.asarray(answer)
    return array.ravel() if n_axes == 1 else array.reshape(-1, array.shape[-1])


def refused(call, error, *words):
    """Check that a call is refused, in one clear message of the right type."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert re.search(word, message), message
    assert len(message) < 500
    return message


def with_value(value, row=17):
    rows = ROWS.copy()
    rows[row, 1] = value
    return rows


# NaN and infinity


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "inf"), (-np.inf, "inf")])
def test_fit_tells_which_rows_are_not_finite(makers, kind, estimator, value, word):
    data = getattr(makers, kind)(with_value(value))
    refused(lambda: estimator.fit(data), ValueError, f"Input X contains {word}", "row 17[^0-9]")


def test_fit_counts_rows_with_nan_and_tells_the_remedy(makers, kind, estimator):
    data = getattr(makers, kind)(with_value(np.nan, [30, 4, 11]))
    words = ("contains NaN: 3 rows, the first is row 4", r"missing='ignore'")
    refused(lambda: estimator.fit(data), ValueError, *words)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_answers_are_refused_for_rows_that_are_not_finite(makers, kind, value, word, method):
    model = KMeans(3, random_state=0).fit(ROWS)
    data = getattr(makers, kind)(with_value(value))

    def ask():
        return computed(getattr(model, method)(data)) if method != "score" else model.score(data)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X has feature names, but", UserWarning)
        message = refused(ask, ValueError, f"Input X contains {word}", r"row \d+")
    if kind in ("numpy", "list", "pandas", "leading"):
        assert "row 17" in message
        assert "block" not in message


@pytest.mark.parametrize("method", ["predict", "transform"])
def test_infinite_values_of_both_signs(makers, kind, method):
    rows = ROWS.copy()
    rows[3] = [np.inf, -np.inf, 0]
    model = KMeans(3, random_state=0).fit(getattr(makers, kind)(ROWS))
    data = getattr(makers, kind)(rows)
    refused(lambda: computed(getattr(model, method)(data)), ValueError, "infinity")


def test_partial_fit_tells_which_rows_are_not_finite(makers, kind):
    data = getattr(makers, kind)(with_value(np.nan))
    refused(lambda: MiniBatchKMeans(3).partial_fit(data), ValueError, "NaN: 1 rows", "row 17")


def test_values_whose_squares_no_float_holds(makers, kind, estimator):
    data = getattr(makers, kind)(with_value(1e200))
    refused(lambda: estimator.fit(data), ValueError, "too far apart", "1e[+]200", "Scale")


def test_functions_refuse_what_is_not_finite():
    for function in (k_means, kmeans_plusplus):
        refused(lambda: function(with_value(np.nan), 3), ValueError, "Input X contains NaN")  # noqa: B023 - called at once


def test_kmeans_plusplus_refuses_what_classes_refuse():
    masked = np.ma.array(ROWS, mask=ROWS > 1)
    refused(lambda: kmeans_plusplus(masked, 3), InvalidArgumentError, "X has masked values")
    weights = np.ma.array(np.ones(40), mask=np.arange(40) == 3)
    words = ("sample_weight has masked values",)
    ask = lambda: kmeans_plusplus(ROWS, 3, sample_weight=weights)  # noqa: E731 - as elsewhere
    refused(ask, InvalidArgumentError, *words)
    dates = ROWS.astype("datetime64[s]")
    refused(lambda: kmeans_plusplus(dates, 3), InvalidArgumentError, "dtype datetime64")


# Other things than numbers


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("zarr", "path")])
@pytest.mark.filterwarnings("ignore:Dask currently has limited support:UserWarning")
def test_objects(makers, kind, estimator):
    data = getattr(makers, kind)(np.array([["a", None, 1]] * 40, object))
    refused(lambda: estimator.fit(data), (ValueError, TypeError), "float|object")


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("zarr", "path")])
@pytest.mark.filterwarnings("ignore:Dask currently has limited support:UserWarning")
def test_strings(makers, kind, estimator):
    data = getattr(makers, kind)(np.array([["a", "b", "c"]] * 40))
    refused(lambda: estimator.fit(data), ValueError, "float|dtype")


def test_complex_numbers(makers, kind, estimator):
    data = getattr(makers, kind)((ROWS + 1j).round(1)[:12])
    refused(lambda: estimator.fit(data), (ValueError, TypeError), "[Cc]omplex")


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "list"])
@pytest.mark.parametrize("dtype", ["datetime64[ns]", "timedelta64[ns]"])
def test_times(makers, kind, estimator, dtype):
    data = getattr(makers, kind)(np.arange(120).reshape(40, 3).astype(dtype))
    refused(lambda: estimator.fit(data), InvalidArgumentError, r"dtype .*64\[ns\]", "astype")


def test_one_column_of_times(estimator):
    frame = pd.DataFrame(ROWS, columns=NAMES).assign(b=pd.Timestamp(0))
    refused(lambda: estimator.fit(frame), InvalidArgumentError, "dtype datetime64")


def test_records(estimator):
    rows = np.zeros((40, 3), [("x", "f4")])
    refused(lambda: estimator.fit(rows), InvalidArgumentError, "dtype")


@pytest.mark.parametrize("make", [
    scipy.sparse.csr_matrix, scipy.sparse.csr_array, scipy.sparse.coo_matrix,
    lambda rows: da.from_array(rows, chunks=10).map_blocks(scipy.sparse.csr_matrix),
    lambda rows: da.from_array(rows, chunks=10).map_blocks(sparse.COO),
    lambda rows: xr.DataArray(sparse.COO(rows)),
])  # fmt: skip
def test_sparse_data(estimator, make):
    words = ("Sparse data was passed for X, but dense data is required", "dense")
    refused(lambda: estimator.fit(make(ROWS)), TypeError, *words)
    model = estimator.fit(ROWS)
    refused(lambda: model.predict(make(ROWS)), TypeError, *words)


@pytest.mark.parametrize("make", [
    scipy.sparse.csr_array, sparse.COO, lambda array: xr.DataArray(sparse.COO(array)),
    lambda array: da.from_array(array, chunks=10).map_blocks(sparse.COO),
])  # fmt: skip
def test_sparse_weights(estimator, make):
    data = da.from_array(ROWS, chunks=(10, 3))
    weights = make(np.ones(40))
    words = "Sparse data was passed for sample_weight", "dense"
    refused(lambda: estimator.fit(data, sample_weight=weights), TypeError, *words)


@pytest.mark.parametrize("kind", ["numpy", "leading", "collection", "dask"])
def test_masks_are_not_passed_over(makers, kind, estimator):
    make = {
        "numpy": np.ma.asarray,
        "leading": lambda rows: rows.reshape(4, 10, 3),
        "collection": lambda rows: [rows, rows],
        "dask": makers.dask_of_masked,
    }[kind]
    masked = make(np.ma.array(ROWS, mask=ROWS > 1))
    refused(lambda: estimator.fit(masked), InvalidArgumentError, "masked values", "filled")
    model = estimator.fit(make(np.ma.array(ROWS)))  # no value is
    refused(lambda: computed(model.predict(masked)), InvalidArgumentError, "masked values")


def test_data_of_unknown_kinds(estimator):
    for data in (dask.bag.from_sequence([1, 2]), dask.delayed(ROWS), xr.Dataset({"a": ("x", [1])})):
        words = (f"X is a {type(data).__name__}; it must be", "NumPy, Dask or Zarr array")
        refused(lambda: estimator.fit(data), InvalidArgumentError, *words)  # noqa: B023 - called at once
    for data in (None, 3, {"a": 1}, "", [], [[1, 2], [3]], [[]]):
        refused(lambda: estimator.fit(data), (ValueError, TypeError, SourceError))  # noqa: B023 - see above


# Shapes


@pytest.mark.parametrize("kind", ["numpy", "list", "dask", "zarr", "path", "xarray"])
def test_one_axis(makers, kind, estimator):
    data = getattr(makers, kind)(np.round(ROWS[:8, 0], 1))
    words = ("Expected 2D array, got 1D array instead", "Reshape")
    refused(lambda: estimator.fit(data), ValueError, *words)
    refused(lambda: estimator.fit(ROWS).predict(data), ValueError, *words)


def test_series(estimator):
    series = pd.Series(ROWS[:, 0])
    refused(lambda: estimator.fit(series), ValueError, "2-dimensional|2D")
    lazy = dd.from_pandas(series, npartitions=2)
    refused(lambda: estimator.fit(lazy), ValueError, "Expected 2D array, got 1D")


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("list", "leading")])
def test_no_rows(makers, kind, estimator):
    data = getattr(makers, kind)(ROWS[:0])
    refused(lambda: estimator.fit(data), ValueError, "0 sample", "minimum of 1")


@pytest.mark.parametrize("is_lazy", [False, True])
@pytest.mark.parametrize("method", ["score", "partial_fit"])
def test_no_rows_later(method, is_lazy):
    model = MiniBatchKMeans(3, random_state=0).partial_fit(ROWS)
    data = da.from_array(ROWS[:0]) if is_lazy else ROWS[:0]
    refused(lambda: getattr(model, method)(data), ValueError, "0 sample", "minimum of 1")


@pytest.mark.parametrize("kind", ["dask", "zarr", "path"])
def test_no_rows_have_no_labels(makers, kind):
    labels = KMeans(3, random_state=0).fit(ROWS).predict(getattr(makers, kind)(ROWS[:0]))
    assert labels.compute().shape == (0,)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "leading"])
def test_no_features(makers, kind, estimator):
    data = getattr(makers, kind)(ROWS[:, :0])
    words = (r"0 feature\(s\)", "minimum of 1")
    refused(lambda: estimator.fit(data), ValueError, *words)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "leading"])
def test_fewer_rows_than_clusters(makers, kind, estimator):
    data = getattr(makers, kind)(ROWS[:2])
    refused(lambda: estimator.fit(data), ValueError, "n_samples=2 should be >= n_clusters=3")


def test_fewer_distinct_rows_than_clusters(makers, kind):
    rows = ROWS[np.arange(40) % 2]
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\) found smaller") as caught:
        model = KMeans(3, random_state=0).fit(getattr(makers, kind)(rows))
    assert caught[0].filename == __file__
    labels = computed(model.labels_)
    assert len(set(labels.tolist())) == 2
    np.testing.assert_allclose(model.cluster_centers_[labels], rows, rtol=1e-15)


def test_code_without_a_name_is_warned():
    names = {"model": KMeans(3, random_state=0), "rows": ROWS[np.arange(40) % 2]}
    with pytest.warns(ConvergenceWarning, match=r"distinct clusters \(2\) found smaller") as caught:
        exec("model.fit(rows)", names)  # noqa: S102 - as notebooks and templates run code
    assert caught[0].filename == "<string>"


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_another_number_of_features(makers, kind, method):
    model = KMeans(3, random_state=0).fit(ROWS)
    data = getattr(makers, kind)(ROWS[:, :2])
    ask = getattr(model, method)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X has feature names, but", UserWarning)
        refused(lambda: ask(data), ValueError, "2 features, but KMeans is expecting 3 features")


@pytest.mark.parametrize("kind", ["pandas", "frame"])
@pytest.mark.parametrize("columns", [["a", "c", "b"], ["a", "b", "d"]])
def test_other_names_of_features(makers, kind, columns):
    model = KMeans(3, random_state=0).fit(getattr(makers, kind)(ROWS))
    frame = pd.DataFrame(ROWS, columns=columns)
    for other in (frame, dd.from_pandas(frame, npartitions=2)):
        refused(lambda: model.predict(other), ValueError, "feature names should match")  # noqa: B023 - called at once


def test_features_of_a_collection_that_differ(estimator):
    refused(lambda: estimator.fit([ROWS, ROWS[:, :2]]), ValueError, r"X\[1\] has 2 features")


def test_the_feature_dimension_must_be_there():
    model = KMeans(3, feature_dim="band")
    words = ("feature_dim is 'band'", "'y', 'x'")
    refused(lambda: model.fit(xr.DataArray(ROWS, dims=("y", "x"))), ValueError, *words)
    refused(lambda: model.fit(da.from_array(ROWS)), ValueError, "no xarray DataArray")


# Weights


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("method", ["fit", "score"])
def test_weights_that_are_none(makers, kind, estimator, value, method):
    weights = np.ones(40)
    weights[23] = value
    data, weights = getattr(makers, kind)(ROWS), makers.weights(kind, weights)
    model = estimator.fit(data)
    ask = getattr(model, method)
    message = refused(
        lambda: ask(data, sample_weight=weights), ValueError, "sample_weight", "NaN|inf|[Nn]egative"
    )
    if kind not in ("numpy", "list", "pandas"):  # these have scikit-learn's words
        assert "first in row 23" in message
        assert "finite and at least 0" in message


def test_weights_of_a_batch(makers, kind):
    weights = makers.weights(kind, np.where(np.arange(40) == 23, -1.0, 1.0))
    data = getattr(makers, kind)(ROWS)
    model = MiniBatchKMeans(3, random_state=0)
    refused(lambda: model.partial_fit(data, sample_weight=weights), ValueError, "[Nn]egative")


def test_weights_that_are_all_zero(makers, kind, estimator):
    weights = makers.weights(kind, np.zeros(40))
    data = getattr(makers, kind)(ROWS)
    words = ("[Ss]ample.weight", "at least one")
    refused(lambda: estimator.fit(data, sample_weight=weights), ValueError, *words)


def test_weights_whose_sum_no_float_holds(makers, kind, estimator):
    weights = makers.weights(kind, np.full(40, 1e307))
    data = getattr(makers, kind)(ROWS * 1e-200)
    words = ("sample_weight", "1e\\+307", "[Ss]cale")
    refused(lambda: estimator.fit(data, sample_weight=weights), ValueError, *words)


def test_masks_of_weights_are_not_passed_over(makers, kind, estimator):
    make = {"collection": lambda w: [w[:20], w[20:]], "leading": lambda w: w.reshape(4, 10)}
    make |= dict.fromkeys(("dask", "zarr", "path"), makers.dask_of_masked)
    make = make.get(kind, np.ma.asarray)
    data, weights = getattr(makers, kind)(ROWS), np.ones(40)
    if kind in ("zarr", "path"):
        data = da.from_zarr(data)
    masked = make(np.ma.array(weights, mask=np.arange(40) == 23))
    words = ("sample_weight has masked values", r"filled\(0\)")
    refused(lambda: estimator.fit(data, sample_weight=masked), InvalidArgumentError, *words)
    estimator.fit(data, sample_weight=make(np.ma.array(weights)))  # no value is


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "frame"])
@pytest.mark.parametrize("n", [20, 60])
def test_weights_of_another_length(makers, kind, estimator, n):
    data, weights = getattr(makers, kind)(ROWS), makers.weights(kind, np.ones(n))
    refused(
        lambda: estimator.fit(data, sample_weight=weights), ValueError, "sample_weight", "shape"
    )


def test_complex_weights(makers, kind, estimator):
    data, weights = getattr(makers, kind)(ROWS), makers.weights(kind, np.ones(40) + 1j)
    ask = estimator.fit
    with pytest.raises((ValueError, TypeError), match=r"[Cc]omplex"):
        ask(data, sample_weight=weights)


def test_weights_in_other_chunks(estimator):
    data = da.from_array(ROWS, chunks=(16, 3))
    weights = da.ones(40, chunks=10)
    words = (
        r"sample_weight has the chunks \(\(10, 10, 10, 10\),\)",
        r"\(\(16, 16, 8\),\)",
        "rechunk",
    )
    refused(lambda: estimator.fit(data, sample_weight=weights), ValueError, *words)


def test_weights_that_are_not_a_list_for_a_list(estimator):
    words = ("sample_weight is no list", "list of 2 arrays")
    call = lambda: estimator.fit([ROWS, ROWS], sample_weight=np.ones(80))  # noqa: E731 - as elsewhere
    refused(call, ValueError, *words)


# Unfitted


@pytest.mark.parametrize("method", ["predict", "transform", "score", "get_feature_names_out"])
def test_unfitted(makers, kind, estimator, method):
    arguments = [] if method == "get_feature_names_out" else [getattr(makers, kind)(ROWS)]
    ask = getattr(estimator, method)
    refused(lambda: ask(*arguments), NotFittedError, "not fitted yet", "Call 'fit'")


def test_a_fit_that_failed_leaves_no_model(estimator):
    refused(lambda: estimator.fit(with_value(np.nan)), ValueError)
    refused(lambda: estimator.predict(ROWS), NotFittedError)


@pytest.mark.parametrize("bad", [with_value(np.nan), np.tile(with_value(np.nan), 2), ROWS[:, :0]])
@pytest.mark.parametrize("is_lazy", [False, True])
def test_a_fit_that_failed_leaves_none_of_the_last(estimator, bad, is_lazy):
    estimator.fit(ROWS)
    refused(lambda: estimator.fit(da.from_array(bad) if is_lazy else bad), ValueError)
    for method in (estimator.predict, estimator.transform, estimator.score):
        for rows in (ROWS, np.tile(ROWS, 2)):
            refused(lambda: method(rows), NotFittedError)  # noqa: B023 - called at once
    refused(estimator.get_feature_names_out, NotFittedError)
    assert not hasattr(estimator, "labels_")


def test_a_batch_that_failed_changes_nothing():
    model = MiniBatchKMeans(3, random_state=0).partial_fit(ROWS)
    centers, counts, n_steps = model.cluster_centers_.copy(), model.counts_.copy(), model.n_steps_
    for bad in (with_value(np.nan), ROWS[:, :2], ROWS[:0]):
        refused(lambda: model.partial_fit(bad), ValueError)  # noqa: B023 - called at once
    np.testing.assert_array_equal(model.cluster_centers_, centers)
    np.testing.assert_array_equal(model.counts_, counts)
    assert model.n_steps_ == n_steps


# Paths


def text(path):
    path.write_text("hello")


def group(path):
    zarr.open_group(str(path), mode="w").create_array("a", shape=(3, 2), dtype="f4")


def cut(path):
    stored = zarr.create_array(str(path), shape=(40, 3), chunks=(8, 3), dtype="f8")
    stored[...] = ROWS
    chunk = path / "c" / "2" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("write", "words"),
    [(lambda path: None, "does not exist"), (text, "cannot be read"),  # noqa: ARG005 - writes nothing
     (lambda path: path.mkdir(), "there is none"), (group, "group")],
    ids=["missing", "text", "folder", "group"],
)  # fmt: skip
@pytest.mark.parametrize("as_text", [True, False])
def test_a_path_that_is_no_array(tmp_path, estimator, write, words, as_text):
    path = tmp_path / "data.zarr"
    write(path)
    given = str(path) if as_text else path
    refused(lambda: estimator.fit(given), SourceError, f"^{path}: cannot be read", words)
    model = estimator.fit(ROWS)
    refused(lambda: model.predict(given), SourceError, f"^{path}: cannot be read", words)


@pytest.mark.parametrize("as_text", [True, False])
def test_paths_in_a_list_are_arrays(makers, estimator, as_text):
    parts = [ROWS[:10], ROWS[10:]]
    paths = [makers.path(part) for part in parts]
    model = estimator.fit([str(path) for path in paths] if as_text else paths)
    expected = type(estimator)(3, random_state=0).fit(parts)
    assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
    np.testing.assert_array_equal(computed(model.labels_), computed(expected.labels_))
    refused(lambda: model.predict([*paths, "none.zarr"]), SourceError, "none.zarr does not exist")


def test_a_group_instead_of_an_array(tmp_path, estimator):
    found = zarr.open_group(str(tmp_path / "g.zarr"), mode="w")
    refused(lambda: estimator.fit(found), InvalidArgumentError, "X is a Group; it must be")


def test_a_chunk_that_is_damaged(tmp_path, estimator):
    path = tmp_path / "data.zarr"
    cut(path)
    refused(lambda: estimator.fit(path), SourceError, f"^{path}, from .* on: cannot be read")
    labels = estimator.fit(ROWS).predict(path)
    refused(labels.compute, SourceError, f"^{path}: cannot be read")


def test_an_array_that_is_gone(tmp_path, estimator):
    path = tmp_path / "data.zarr"
    stored = zarr.create_array(str(path), data=ROWS)
    (path / "zarr.json").unlink()
    refused(lambda: estimator.fit(stored), SourceError, f"^{path}: cannot be read")


def test_a_url_whose_library_is_missing(estimator, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)  # as if it were not installed
    wanted = r"obstore; install it with: pip install 'dkmeans\[s3\]'"
    refused(lambda: estimator.fit("s3://bucket/a.zarr"), InvalidArgumentError, wanted)


# Rows that are missing, and are to be


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_with_nan_are_left_out(makers, kind, estimator, weighted):
    rows = with_value(np.nan, [4, 11, 30])
    kept = np.delete(np.arange(40), [4, 11, 30])
    weights = np.arange(40) % 3 + 1.0
    estimator.set_params(missing="ignore")
    given = makers.weights(kind, weights) if weighted else None
    model = estimator.fit(getattr(makers, kind)(rows), sample_weight=given)
    # What is left, in the same dtype. Draws go by the number of a row among those that count.
    other = type(estimator)(3, random_state=0)
    other.fit(rows[kept], sample_weight=weights[kept] if weighted else None)
    assert model.n_missing_ == 3
    assert other.n_missing_ == 0
    assert model.cluster_centers_.tobytes() == other.cluster_centers_.tobytes()
    assert model.inertia_ == other.inertia_
    np.testing.assert_array_equal(model.counts_, other.counts_)
    labels = computed(model.labels_)
    assert set(np.flatnonzero(labels == -1)) == {4, 11, 30}
    np.testing.assert_array_equal(labels[kept], other.labels_)


def test_answers_for_rows_with_nan(makers, kind):
    model = KMeans(3, random_state=0, missing="ignore").fit(getattr(makers, kind)(ROWS))
    rows = with_value(np.nan, [4, 11, 30])
    data = getattr(makers, kind)(rows)
    labels, distances = computed(model.predict(data)), computed(model.transform(data), 2)
    missing = np.isin(np.arange(40), [4, 11, 30])
    np.testing.assert_array_equal(labels == -1, missing)
    np.testing.assert_array_equal(np.isnan(distances), np.repeat(missing[:, None], 3, axis=1))
    kept = getattr(makers, kind)(ROWS)
    np.testing.assert_array_equal(labels[~missing], computed(model.predict(kept))[~missing])
    expected = KMeans(3, random_state=0).fit(ROWS).score(rows[~missing])
    assert model.score(data) == expected


def test_infinity_is_never_missing(makers, kind, estimator):
    estimator.set_params(missing="ignore")
    data = getattr(makers, kind)(with_value(np.inf))
    refused(lambda: estimator.fit(data), ValueError, "infinity", "row 17")


def test_all_rows_missing(makers, kind, estimator):
    estimator.set_params(missing="ignore")
    data = getattr(makers, kind)(np.full((40, 3), np.nan))
    refused(lambda: estimator.fit(data), ValueError, "No row counts: all have NaN")


@pytest.mark.parametrize(("every", "n_passes"), [(1, 3), (10, 3), (1000, 2)])
def test_given_centers_where_most_rows_are_missing(every, n_passes):
    rows = np.random.default_rng(0).normal(size=(200_000, 2)).astype(np.float32)
    rows[np.arange(len(rows)) % every > 0] = np.nan
    start = np.array([[-1, 0], [1, 0]], np.float32)
    model = KMeans(2, init=start, n_init=1, max_iter=1, tol=0, missing="ignore")
    model.fit(da.from_array(rows, chunks=(30_000, 2)))
    expected = sklearn.cluster.KMeans(2, init=start, n_init=1, max_iter=1, tol=0)
    expected.fit(rows[::every])
    np.testing.assert_allclose(model.cluster_centers_, expected.cluster_centers_, atol=1e-5)
    # A look, a step, and the last; or a second look, if too few rows were seen, that has them all.
    assert model.n_passes_ == n_passes


def test_rows_missing_in_a_stream():
    model, other = (MiniBatchKMeans(3, random_state=0, missing=m) for m in ("ignore", "error"))
    for start in range(0, 40, 10):
        rows = ROWS[start : start + 10].copy()
        rows[3] = np.nan
        model.partial_fit(rows)
        other.partial_fit(np.delete(rows, 3, axis=0))
    assert model.n_missing_ == 4
    assert model.cluster_centers_.tobytes() == other.cluster_centers_.tobytes()


@pytest.mark.parametrize("missing", ["Ignore", None, 3])
def test_other_ways_to_deal_with_missing_rows(missing):
    refused(
        lambda: KMeans(3, missing=missing).fit(ROWS), ValueError, "'missing' parameter", "ignore"
    )


# Rows far from those that were fitted: their scores overflow, they are not missing


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0])
@pytest.mark.parametrize("far", [1e8, 1e20, 1e30, 3e38])
def test_rows_far_from_those_fitted_get_a_label(dtype, scale, far):
    model = KMeans(4, random_state=0).fit((ROWS * scale).astype(dtype))
    rows = np.array([[far, 0, 0], [far, far, far], [0, -far, far]], dtype)
    distances = np.abs(rows[:, None].astype(float) - model.cluster_centers_).astype(float)
    expected = (distances**2).sum(axis=2)
    labels = model.predict(rows)
    assert (labels >= 0).all()
    chosen = np.take_along_axis(expected, labels[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, expected.min(axis=1), rtol=1e-12)


def test_a_batch_of_rows_close_together_far_from_the_centres():
    model = MiniBatchKMeans(3, random_state=0, reassignment_ratio=0)
    model.partial_fit((ROWS * 1e6).astype(np.float32))
    counts = model.counts_.copy()
    model.partial_fit((ROWS[:20] * 1e-30).astype(np.float32))
    assert model.counts_.sum() == counts.sum() + 20
    assert (model.labels_ >= 0).all()
    assert (model.predict((ROWS * 1e6).astype(np.float32)) >= 0).all()
