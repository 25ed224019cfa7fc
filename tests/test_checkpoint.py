"""A fit that was interrupted goes on from its checkpoint, to the bits of one that was not."""

import copy
import json
import os
import pickle
from functools import partial
from importlib import metadata

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dkmeans import KMeans, _checkpoint, _summary_rows
from dkmeans._passes import Passes
from dkmeans._validation import DkmeansError, InvalidArgumentError, OutputError, SourceError

K = 5
RNG = np.random.default_rng(0)
# Far more rows than a summary holds below, and no clusters: so refinement takes many passes.
ROWS = RNG.normal(size=(6000, 3)).astype(np.float32)
ROWS.flags.writeable = False
WEIGHTS = RNG.integers(0, 4, 6000).astype(np.float64)


class Interruption(BaseException):
    """Stands in for the end of a process: nothing that runs after it may be needed."""


@pytest.fixture(autouse=True)
def small_summary(monkeypatch):
    monkeypatch.setattr(_summary_rows, "MIN_ROWS", 400)
    monkeypatch.setattr(_summary_rows, "ROWS_PER_CLUSTER", 10)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "fit.checkpoint"


@pytest.fixture
def ending(monkeypatch):
    """Return a function that lets a fit end when it has written so many checkpoints."""
    save = _checkpoint.Checkpoint.save

    def end_after(n):
        written = []

        def counted(self, standing):
            save(self, standing)
            written.append(standing)
            if len(written) == n:
                raise Interruption

        monkeypatch.setattr(_checkpoint.Checkpoint, "save", counted)
        return written

    return end_after


def estimator(**parameters):
    return KMeans(**{"n_clusters": K, "random_state": 0, "tol": 1e-6, **parameters})


def told(model):
    """Return all that a fit has found, as bytes."""
    found = {
        name: np.asarray(value).tobytes()
        for name, value in vars(model).items()
        if name.endswith("_") and name != "labels_"
    }
    return {**found, "labels_": np.asarray(model.labels_).tobytes()}


def interrupted(ending, n, data, place, weights=None, **parameters):
    ending(n)
    with pytest.raises(Interruption):
        estimator(**parameters).fit(data, sample_weight=weights, checkpoint=place)
    assert place.exists()
    return ending(0)


# The same bits


CASES = {
    "defaults": {},
    "to the end": {"tol": 0.0, "max_iter": 400},
    "few iterations": {"max_iter": 6},
    "random": {"init": "random", "n_init": 2},
    "k-means||": {"init": "k-means||"},
    "given": {"init": ROWS[:K].astype(np.float64), "n_init": 1},
    "far away": {"init": np.vstack([ROWS[: K - 1], [[99, 99, 99]]]), "n_init": 1},
}


@pytest.mark.parametrize("parameters", CASES.values(), ids=CASES)
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_the_bits_of_a_fit_never_interrupted(parameters, weights, place, ending):
    wanted = told(estimator(**parameters).fit(ROWS, sample_weight=weights))
    n_written = len(_all_written(ending, weights, place, parameters))
    assert n_written > 3
    for n in sorted({1, n_written // 2, n_written}):
        rest = interrupted(ending, n, ROWS, place, weights, **parameters)
        model = estimator(**parameters).fit(ROWS, sample_weight=weights, checkpoint=place)
        assert told(model) == wanted
        assert len(rest) == n_written - n  # and nothing is done again
        assert not place.exists()


def _all_written(ending, weights, place, parameters):
    written = ending(0)
    estimator(**parameters).fit(ROWS, sample_weight=weights, checkpoint=place)
    assert not place.exists()
    return written


def test_interrupted_again_and_again(place, ending):
    wanted = told(estimator().fit(ROWS))
    for _ in range(4):
        interrupted(ending, 1, ROWS, place)
    assert told(estimator().fit(ROWS, checkpoint=place)) == wanted


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int16, np.uint16])
def test_any_dtype(dtype, place, ending):
    rows = (ROWS * 1000 + 5000).astype(dtype)
    wanted = told(estimator().fit(rows))
    interrupted(ending, 2, rows, place)
    assert told(estimator().fit(rows, checkpoint=place)) == wanted


def test_rows_left_out(place, ending):
    rows = ROWS.copy()
    rows[::7, 1] = np.nan
    wanted = told(estimator(missing="ignore").fit(rows))
    interrupted(ending, 2, rows, place, missing="ignore")
    assert told(estimator(missing="ignore").fit(rows, checkpoint=place)) == wanted


def kinds_of(tmp_path):
    path = tmp_path / "rows.zarr"
    if not path.exists():
        zarr.create_array(str(path), data=ROWS, chunks=(500, 3))
        np.save(tmp_path / "rows.npy", ROWS)
    return {
        "zarr": str(path),
        "dask": da.from_array(ROWS, chunks=(700, 3), name=False),  # another name each time
        "mapped": np.load(tmp_path / "rows.npy", mmap_mode="r"),
        "list": [ROWS[:2000], ROWS[2000:]],
        "strided": np.asfortranarray(ROWS),
        "memory store": zarr.create_array({}, data=ROWS, chunks=(500, 3)),
        "list with none": [da.from_array(ROWS, chunks=(700, 3)), *arrays_without_rows()],
    }


def arrays_without_rows():
    lazy = da.from_array(ROWS[:10], chunks=(5, 3))
    return [lazy[:0], lazy[lazy[:, 0] > 99], zarr.create_array({}, data=ROWS[:0], chunks=(1, 3))]


@pytest.mark.parametrize(
    "kind", ["zarr", "dask", "mapped", "list", "strided", "memory store", "list with none"]
)
def test_any_kind_of_data(kind, place, ending, tmp_path):
    wanted = told(estimator().fit(ROWS))
    interrupted(ending, 2, kinds_of(tmp_path)[kind], place)
    model = estimator().fit(kinds_of(tmp_path)[kind], checkpoint=place)
    if kind.startswith("list"):
        model.labels_ = np.concatenate(model.labels_)
    model.n_passes_ -= kind == "list with none"  # the one that finds how long its chunks are
    assert told(model) == wanted


@pytest.mark.usefixtures("client")
def test_on_a_cluster(place, ending, tmp_path):
    data = kinds_of(tmp_path)["zarr"]
    wanted = told(estimator().fit(ROWS))
    interrupted(ending, 2, data, place)
    assert told(estimator().fit(data, checkpoint=place)) == wanted


def test_a_random_state_that_is_drawn_is_gone_on_with(place, ending):
    interrupted(ending, 2, ROWS, place, random_state=None)
    state = json.loads(place.read_text())["state"]
    model = estimator(random_state=None).fit(ROWS, checkpoint=place)
    assert model.n_iter_ >= state["n_iter"]


def test_data_solved_in_memory_need_none(place):
    model = estimator().fit(ROWS[:300], checkpoint=place)
    assert told(model) == told(estimator().fit(ROWS[:300]))
    assert not place.exists()


def test_in_an_object_store_too(place, ending, monkeypatch):
    # Only the way to the bytes differs, and that is of `_stores`; here its calls are counted.
    calls = []
    for name in ("read", "write", "exists", "remove"):
        inner = getattr(_checkpoint._stores, name, None)

        def call(*args, inner=inner, name=name, **kwargs):
            calls.append(name)
            return inner(*args, **kwargs)

        monkeypatch.setattr(_checkpoint._stores, name, call)
    interrupted(ending, 1, ROWS, place)
    estimator().fit(ROWS, checkpoint=place)
    assert {"read", "write", "exists", "remove"} == set(calls)


def test_a_place_among_the_data_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Passes, "run", None)
    rows = zarr.create_array(tmp_path / "rows.zarr", data=ROWS, chunks=(1000, 3))
    weights = zarr.create_array(tmp_path / "w.zarr", data=WEIGHTS, chunks=(1000,))
    before = sorted(tmp_path.rglob("*"))
    for data, weighted, place in (
        (tmp_path / "rows.zarr", None, tmp_path / "rows.zarr" / "c" / "fit"),
        (rows, None, str(tmp_path / "rows.zarr" / "fit")),
        ([ROWS, rows], None, tmp_path / "a" / ".." / "rows.zarr" / "fit"),
        (rows, weights, tmp_path / "w.zarr" / "fit"),
        (da.from_zarr(rows), weights, tmp_path / "w.zarr" / "fit"),
    ):
        with pytest.raises(OutputError, match=r"lies inside the source .*choose another place"):
            estimator().fit(data, sample_weight=weighted, checkpoint=place)
    assert sorted(tmp_path.rglob("*")) == before


def test_in_a_dkmeans_without_metadata(place, ending, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    interrupted(ending, 2, ROWS, place)
    assert estimator().fit(ROWS, checkpoint=place).n_iter_


# Another fit


@pytest.mark.parametrize(
    ("parameters", "name"),
    [({"n_clusters": 6}, "n_clusters"), ({"max_iter": 7}, "max_iter"), ({"tol": 1e-3}, "tol"),
     ({"random_state": 1}, "random_state"), ({"init": "random"}, "init"), ({"n_init": 3}, "n_init"),
     ({"missing": "ignore"}, "missing"), ({"init": ROWS[:K], "n_init": 1}, "init")],
)  # fmt: skip
def test_other_parameters_are_refused(parameters, name, place, ending):
    interrupted(ending, 2, ROWS, place)
    before = place.read_bytes()
    with pytest.raises(
        InvalidArgumentError, match=f"other parameters: {name} was .* and is .* now"
    ):
        estimator(**parameters).fit(ROWS, checkpoint=place)
    assert place.read_bytes() == before


@pytest.mark.parametrize(
    ("before", "now"),
    [({}, {"copy_x": False, "algorithm": "elkan", "tol": np.float64(1e-6)}),
     ({"tol": 0, "max_iter": np.int64(30)}, {"tol": 0.0, "max_iter": 30})],
)  # fmt: skip
def test_what_changes_no_result_may_differ(before, now, place, ending):
    interrupted(ending, 2, ROWS, place, **before)
    estimator(**now).fit(ROWS, checkpoint=place)


def first_rows(n, step=1):
    """Another function for each step, all of one name."""

    def init(X, n_clusters, random_state):  # noqa: N803, ARG001 - scikit-learn's names
        return X[:n:step]

    return init


def given_rows(X, n_clusters, random_state, start=0):  # noqa: N803, ARG001 - scikit-learn's names
    return X[start : start + n_clusters]


def chosen_by_each_other(start):
    """A function that knows another one, which knows it; and a name that has no value yet."""

    def init(X, n_clusters, random_state):  # noqa: N803, ARG001 - scikit-learn's names
        return X[chosen(n_clusters)] if start < K else later

    def chosen(n_clusters):
        return slice(start, start + n_clusters) if callable(init) else None

    if start >= K:
        later = None
    return init


def code_of(body):
    """The function that a file of this text defines."""
    names = {"__name__": "their_module"}
    exec(f"def init(X, n_clusters, random_state):\n    {body}", names)  # noqa: S102 - ours
    return names["init"]


@pytest.mark.parametrize(
    ("init", "same", "others"),
    [
        (first_rows(K), first_rows(K), [first_rows(2 * K, 2), given_rows]),
        (
            partial(given_rows, start=2),
            partial(given_rows, start=np.int64(2)),
            [partial(given_rows, start=3), partial(first_rows(K)), given_rows],
        ),
        (
            code_of("return X[:n_clusters]"),
            code_of("\n    return X[:n_clusters]"),
            [code_of("return X[1:][:n_clusters]"), code_of("return X[2:][:n_clusters]")],
        ),
        (
            chosen_by_each_other(0),
            chosen_by_each_other(0),
            [chosen_by_each_other(1), first_rows(K)],
        ),
    ],
    ids=["closure", "partial", "edited", "mutual"],
)
def test_functions_are_the_same_if_they_do_the_same(init, same, others, place, ending):
    interrupted(ending, 2, ROWS, place, init=init, n_init=1)
    for other in others:
        with pytest.raises(InvalidArgumentError, match="other parameters: init was"):
            estimator(init=other, n_init=1).fit(ROWS, checkpoint=place)
    assert estimator(init=same, n_init=1).fit(ROWS, checkpoint=place).n_iter_
    assert not place.exists()


def changed(rows, where, value):
    rows = rows.copy()
    rows[where] = value
    return rows


@pytest.mark.parametrize(
    ("other", "said"),
    [(changed(ROWS, (3000, 1), 0), "they have changed"), (ROWS[:-1], "they have changed|shape"),
     (ROWS.astype(np.float64), "they have changed|dtype"), (ROWS[::-1], "they have changed")],
)  # fmt: skip
def test_other_data_are_refused(other, said, place, ending):
    interrupted(ending, 2, ROWS, place)
    with pytest.raises(InvalidArgumentError, match=f"of other data: .*({said})"):
        estimator().fit(other, checkpoint=place)


def test_other_weights_are_refused(place, ending):
    interrupted(ending, 2, ROWS, place, WEIGHTS)
    for weights in (None, WEIGHTS[::-1]):
        with pytest.raises(InvalidArgumentError, match="of other data"):
            estimator().fit(ROWS, sample_weight=weights, checkpoint=place)


def test_a_chunk_written_since_is_seen(place, ending, tmp_path):
    path = kinds_of(tmp_path)["zarr"]
    interrupted(ending, 2, path, place)
    array = zarr.open_array(path, mode="r+")
    array.attrs["note"] = "attributes are no data"
    assert estimator().fit(path).n_iter_
    array[2500:2501] = array[2500:2501] * 2
    with pytest.raises(InvalidArgumentError, match="other data: they have changed"):
        estimator().fit(path, checkpoint=place)


def test_a_mapped_file_written_since_is_seen(place, ending, tmp_path):
    interrupted(ending, 2, kinds_of(tmp_path)["mapped"], place)
    file = tmp_path / "rows.npy"
    np.save(file, ROWS)
    os.utime(file, ns=(1, 1))
    with pytest.raises(InvalidArgumentError, match="other data: they have changed"):
        estimator().fit(np.load(file, mmap_mode="r"), checkpoint=place)


@pytest.mark.parametrize(
    "part",
    [lambda x: x[3000:], lambda x: x[:3000][::-1], lambda x: np.asarray(x[1:])[:3000],
     lambda x: x[::2]],
)  # fmt: skip
def test_another_part_of_a_mapped_file_is_other_data(part, place, ending, tmp_path):
    mapped = kinds_of(tmp_path)["mapped"]
    interrupted(ending, 2, mapped[:3000], place)
    with pytest.raises(InvalidArgumentError, match="other data: they have changed"):
        estimator().fit(part(mapped), checkpoint=place)
    again = np.asarray(np.load(tmp_path / "rows.npy", mmap_mode="r"))[:3000]
    assert estimator().fit(again, checkpoint=place).n_iter_


def test_a_map_changed_in_memory_alone_is_other_data(place, ending, tmp_path):
    kinds_of(tmp_path)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="c")
    interrupted(ending, 2, mapped, place)
    mapped[0] *= 2
    with pytest.raises(InvalidArgumentError, match="other data: they have changed"):
        estimator().fit(mapped, checkpoint=place)


# Not a checkpoint of ours


def refused(place, *words):
    with pytest.raises(SourceError) as caught:
        estimator().fit(ROWS, checkpoint=place)
    for word in (f"{place}: ", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"hello", b"[1]", b'{"format": "dkmeans-model"}', pickle.dumps(1)]
)
def test_a_file_that_is_no_checkpoint(content, place):
    place.write_bytes(content)
    refused(place, "not a dkmeans checkpoint")
    assert place.read_bytes() == content


def document_of(ending, place):
    if not place.exists():
        interrupted(ending, 2, ROWS, place)
    return json.loads(place.read_text())


def test_another_version(place, ending):
    document = document_of(ending, place)
    place.write_text(json.dumps({**document, "version": 2}))
    refused(place, "version 2", "reads version 1", "Start over")


def array(*shape, value=0.0, dtype="float64"):
    return {"dtype": dtype, "shape": list(shape), "values": [value] * int(np.prod(shape))}


@pytest.mark.parametrize(
    ("name", "value"),
    [("centers", array(K, 4)), ("centers", array(K + 1, 3)), ("centers", 1.0), ("means", None),
     ("centers", array(K, 3, value={"float": "nan"})), ("scales", array(4, value=1.0)),
     ("centers", array(K, 3, dtype="float32")), ("unit", 3.0), ("unit", {"float": "inf"}),
     ("scales", array(3, value=0.0)), ("precision", "float16"), ("center_dtype", "O"),
     ("n_iter", -1), ("n_iter", 2**70), ("n_passes", 1.5), ("relaxation", 2.0),
     ("inertia", {"float": "nan"}), ("inertia", -1.0), ("deep", -1), ("other", 1), ("low", [])],
)  # fmt: skip
def test_damaged_states(name, value, place, ending):
    document = document_of(ending, place)
    document["state"][name] = value
    place.write_text(json.dumps(document))
    refused(place, "a damaged checkpoint")


def test_missing_parts(place, ending):
    document = document_of(ending, place)
    for name in document["state"]:
        less = copy.deepcopy(document)
        del less["state"][name]
        place.write_text(json.dumps(less))
        refused(place, "a damaged checkpoint", f"{name} is missing")


@pytest.mark.parametrize("field", ["parameters", "data", "state"])
@pytest.mark.parametrize("value", [None, 1, [], {"a": 1}, {"a": {"b": 1}}])
def test_damaged_fields(field, value, place, ending):
    place.write_text(json.dumps({**document_of(ending, place), field: value}))
    refused(place, "a damaged checkpoint")


# A centre that a changed number has moved far away may end without rows.
@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@settings(
    max_examples=int(os.environ.get("DKMEANS_FUZZ", "40")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(data=st.data())
def test_bytes_changed_at_random(data, place, ending):
    place.unlink(missing_ok=True)
    document_of(ending, place)
    content = bytearray(place.read_bytes())
    start = content.index(b'"state"')
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(start, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 6))] = data.draw(
            st.binary(max_size=6) | st.sampled_from([b"-", b"e9", b"[", b"{}", b"null", b"0", b"9"])
        )
    place.write_bytes(content)
    try:  # a number that has become another one cannot be told
        estimator().fit(ROWS, checkpoint=place)
    except DkmeansError:
        return


@pytest.mark.parametrize("checkpoint", [1, b"path", ["a"], object(), ""])
def test_no_place(checkpoint):
    with pytest.raises(InvalidArgumentError, match=r"checkpoint is .*must be a path"):
        estimator().fit(ROWS, checkpoint=checkpoint)


def test_a_place_that_cannot_be_written_is_told_before_data_are_read(tmp_path):
    never = da.from_delayed(dask.delayed(pytest.fail)("read"), ROWS.shape, ROWS.dtype)
    with pytest.raises(OutputError, match="cannot be written"):
        estimator().fit(never, checkpoint=tmp_path / "no folder" / "checkpoint")
