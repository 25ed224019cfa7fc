"""Models on disk: the same bits after loading, and nothing but data in the file."""

import copy
import json
import os
import pickle
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import small_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError

import dkmeans
from dkmeans import KMeans, MiniBatchKMeans, _documents
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError

ROWS = np.random.default_rng(0).normal(size=(400, 3)) + 1e3
ROWS.flags.writeable = False
BATCHES = [ROWS[i::8] for i in range(8)]


@pytest.fixture(params=[KMeans, MiniBatchKMeans])
def kind(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.json"


def fitted(kind=KMeans, rows=ROWS, **parameters):
    return kind(4, random_state=0, **parameters).fit(rows)


def saved(model, path):
    """Return the model after a way through a file."""
    model.save(path)
    return dkmeans.load(path)


def document_of(model, path):
    model.save(path)
    return json.loads(path.read_text())


def attributes_of(model):
    """Return all that a user sees of a fitted model, as bytes where it is an array."""
    names = [name for name in vars(model) if name.endswith("_") and name != "labels_"]
    values = {name: np.asarray(getattr(model, name)) for name in names}
    return {
        name: (a.dtype, a.shape, a.tolist() if a.dtype == object else a.tobytes())
        for name, a in values.items()
    }


# There and back


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int16])
def test_a_loaded_model_has_the_same_bits(kind, dtype, path):
    rows = (ROWS - 990).astype(dtype)
    others = (np.random.default_rng(1).normal(size=(1000, 3)) * 9 + 10).astype(dtype)
    model = fitted(kind, rows)
    loaded = saved(model, path)
    assert type(loaded) is kind
    assert loaded.get_params() == model.get_params()
    assert attributes_of(loaded) == attributes_of(model)
    assert loaded.predict(others).tobytes() == model.predict(others).tobytes()
    assert loaded.transform(others).tobytes() == model.transform(others).tobytes()
    assert loaded.score(others) == model.score(others)
    assert path.stat().st_size < 3000


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1e30, 1e150])
def test_numbers_of_any_size_keep_their_bits(kind, scale, path):
    model = fitted(kind, (ROWS - 1e3) * scale)
    loaded = saved(model, path)
    assert attributes_of(loaded) == attributes_of(model)
    assert (loaded.predict(ROWS * scale) == model.predict(ROWS * scale)).all()


def test_what_was_saved_twice_is_the_same_file(kind, path):
    model = saved(fitted(kind), path)
    first = path.read_bytes()
    model.save(path)
    assert path.read_bytes() == first


def test_names_of_features_are_kept(kind, path):
    frame = pd.DataFrame(ROWS, columns=["a", "Größe", 'with "quotes" \n and \0'])
    model = saved(fitted(kind, frame), path)
    assert model.feature_names_in_.tolist() == list(frame.columns)
    assert model.feature_names_in_.dtype == object
    model.predict(frame)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[frame.columns[::-1]])
    assert model.get_feature_names_out().tolist() == [
        f"{kind.__name__.lower()}{i}" for i in range(4)
    ]


def test_parameters_are_kept(path):
    given = KMeans(
        np.int64(4), init=ROWS[:4].tolist(), n_init=1, tol=np.float32(0.5), max_iter=7,
        random_state=np.int32(3), algorithm="elkan", missing="ignore",
    )  # fmt: skip
    loaded = saved(given.fit(ROWS), path)
    expected = given.get_params()
    np.testing.assert_array_equal(loaded.init, expected.pop("init"))
    assert {**loaded.get_params(), "init": None} == {**expected, "init": None}


def test_a_random_state_that_is_an_object_is_not_kept(kind, path):
    model = fitted(kind).set_params(random_state=np.random.RandomState(0))
    assert saved(model, path).random_state is None


def test_missing_rows_stay_missing(path):
    rows = ROWS.copy()
    rows[5, 1] = np.nan
    model = saved(fitted(rows=rows, missing="ignore"), path)
    assert model.n_missing_ == 1
    assert model.predict(rows)[5] == -1


def test_a_loaded_model_can_be_fitted_again(kind, path):
    model = saved(fitted(kind), path)
    again = model.fit(ROWS)
    np.testing.assert_array_equal(again.cluster_centers_, fitted(kind).cluster_centers_)


def test_a_loaded_model_can_be_pickled_and_cloned(kind, path):
    model = saved(fitted(kind), path)
    copied = pickle.loads(pickle.dumps(model))  # noqa: S301 - our own
    assert attributes_of(copied) == attributes_of(model)
    assert (copied.predict(ROWS) == model.predict(ROWS)).all()


# Going on after a restart


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("how", ["save", "pickle"])
def test_partial_fit_goes_on_with_the_same_bits(dtype, weighted, how, path):
    # One far row in each of the first batches: the rate of a centre hangs on its count, and small
    # counts are reassigned by draws.
    batches = [(batch - 900).astype(dtype) for batch in BATCHES]
    weights = [np.arange(len(batch)) % 3 + 0.5 if weighted else None for batch in batches]
    steps = list(zip(batches, weights, strict=True))

    def new():
        return MiniBatchKMeans(12, random_state=0, reassignment_ratio=0.9, batch_size=10)

    straight, interrupted = new(), new()
    for batch, weight in steps:
        straight.partial_fit(batch, sample_weight=weight)
    for batch, weight in steps:
        interrupted.partial_fit(batch, sample_weight=weight)
        if how == "save":
            interrupted = saved(interrupted, path)
        else:
            interrupted = pickle.loads(pickle.dumps(interrupted))  # noqa: S301 - our own
    assert attributes_of(interrupted) == attributes_of(straight)
    assert interrupted.n_steps_ == len(steps)


def test_partial_fit_goes_on_after_fit(path):
    model = fitted(MiniBatchKMeans, ROWS.astype(np.float32))
    loaded = saved(model, path)
    for batch in BATCHES:
        model.partial_fit(batch)
        loaded.partial_fit(batch)
    assert attributes_of(loaded) == attributes_of(model)
    assert model.n_steps_ > len(BATCHES)


def test_partial_fit_goes_on_in_another_process(path):
    model = MiniBatchKMeans(4, random_state=0)
    for batch in BATCHES[:4]:
        model.partial_fit(batch)
    model.save(path)
    program = (
        "import sys, numpy as np, dkmeans; model = dkmeans.load(sys.argv[1])\n"
        "rows = np.random.default_rng(0).normal(size=(400, 3)) + 1e3\n"
        "for i in range(4, 8): model.partial_fit(rows[i::8])\n"
        "model.save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    for batch in BATCHES[4:]:
        model.partial_fit(batch)
    assert attributes_of(dkmeans.load(path)) == attributes_of(model)


# Writing


def test_an_unfitted_model_is_not_saved(kind, path):
    with pytest.raises(NotFittedError):
        kind().save(path)
    assert not path.exists()


@pytest.mark.parametrize("init", [np.mean, object()], ids=["function", "object"])
def test_a_parameter_that_is_no_data_is_refused(init, path):
    model = fitted().set_params(init=init)
    with pytest.raises(InvalidArgumentError, match=r"^init is .*set_params\(init="):
        model.save(path)
    assert not path.exists()


def test_a_class_that_load_does_not_know_is_refused(kind, path):
    mine = type("Mine", (kind,), {})
    with pytest.raises(InvalidArgumentError, match=r"is a Mine; only KMeans and MiniBatchKMeans"):
        fitted(mine).save(path)
    assert not path.exists()


def test_a_file_can_be_read_by_whoever_may_read_others(path):
    mask = os.umask(0o027)
    try:
        fitted().save(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OutputError, match=r"nowhere.*cannot be written \(No such file"):
        fitted().save(tmp_path / "nowhere" / "model.json")


def test_a_folder_of_that_name(path):
    path.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        fitted().save(path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("path", [None, 7, "", "a\0b"])
def test_what_is_no_path(path):
    for act in (fitted().save, dkmeans.load):
        with pytest.raises(
            InvalidArgumentError, match=re.escape(f"path is {path!r}; it must be a path")
        ):
            act(path)


@pytest.mark.parametrize("failing", ["fsync", "rename", "interrupted"])
def test_a_write_that_fails_leaves_the_old_file(failing, path, monkeypatch):
    fitted().save(path)
    before = path.read_bytes()
    error = KeyboardInterrupt if failing == "interrupted" else OSError(5, "Input/output error")

    def fail(*_):
        raise error

    monkeypatch.setattr(*((os, "replace") if failing == "rename" else (os, "fsync")), fail)
    if failing == "rename":
        monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(KeyboardInterrupt if failing == "interrupted" else OutputError):
        fitted(MiniBatchKMeans).save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def full_disk(tmp_path):
    """Mount a disk of 32 kB."""
    with small_disk(tmp_path / "disk", "32k") as where:
        yield where


def test_a_full_disk_leaves_the_old_file(full_disk):
    path = full_disk / "model.json"
    fitted().save(path)
    before = path.read_bytes()
    large = KMeans(400, init=ROWS, n_init=1, max_iter=1).fit(ROWS)
    with pytest.raises(OutputError, match="disk is full"):
        large.save(path)
    assert path.read_bytes() == before
    assert list(full_disk.iterdir()) == [path]


# Reading


def test_the_file_is_json_without_code(kind, path):
    document = document_of(fitted(kind), path)
    assert document["format"] == "dkmeans-model"
    assert document["version"] == 1
    assert document["estimator"] == kind.__name__
    assert set(document["attributes"]["cluster_centers_"]) == {"dtype", "shape", "values"}


def refused(path, *words):
    """Check that a file is refused, in a sentence of reasonable length."""
    with pytest.raises(SourceError) as caught:
        dkmeans.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith((".", ").", "wrote it."))
    assert len(message) < 500 + len(str(path))
    for word in words:
        assert word in message


FOREIGN = {
    "empty": b"",
    "text": b"hello",
    "binary": bytes(range(256)),
    "pickle": pickle.dumps({"format": "dkmeans-model"}),
    "list": b"[]",
    "number": b"1",
    "other-json": b'{"type": "FeatureCollection"}',
    "nested": b"[" * 200_000,
    "nested-closed": b"[" * 100_000 + b"]" * 100_000,
    "nested-objects": b'{"format": ' * 100_000,
    "long-number": b'{"format": ' + b"9" * 10_000 + b"}",
    "twice": b'{"format": "other", "format": "dkmeans-model"}',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_is_no_model(content, path):
    path.write_bytes(content)
    refused(path, "not a dkmeans model")


def test_a_missing_file(path):
    refused(path, "no such file")


def test_a_folder(tmp_path):
    refused(tmp_path, "not a regular file")


def test_a_pickle_is_not_executed(path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(path.with_name("executed")),)

    path.write_bytes(pickle.dumps(Evil()))
    refused(path, "not a dkmeans model")
    assert not path.with_name("executed").exists()


@pytest.mark.parametrize("version", [0, 2, True, "1", None, [1], {"a": 1}, 10**400])
def test_another_version(version, path):
    document = document_of(fitted(), path)
    path.write_text(json.dumps({**document, "version": version}))
    refused(path)


def test_a_newer_version_says_what_to_do(path):
    path.write_text(json.dumps({**document_of(fitted(), path), "version": 2}))
    refused(path, "version 2", "reads version 1", "Fit again")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file(kind, share, path):
    fitted(kind).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * (len(content) - 1))])
    refused(path)


NAN = {"float": "nan"}


def array(*values, shape=None, dtype="float64"):
    return {"dtype": dtype, "shape": shape or [len(values)], "values": list(values)}


ATTRIBUTES = {
    "cluster_centers_": [
        array(1.0), array(shape=[0, 3]), array(1.0, 2.0, 3.0, shape=[1, 3]),
        array(*[1.0] * 12, shape=[3, 4]), array(*[1.0] * 12, shape=[4, 3, 1]),
        array(*[1.0] * 11, NAN, shape=[4, 3]), array(*[1e300] * 12, shape=[4, 3], dtype="float32"),
        array(*[10**400] * 12, shape=[4, 3]), array(*[1] * 12, shape=[4, 3], dtype="int64"),
        array(*[1.0] * 11, shape=[4, 3]), array(*["1.0"] * 12, shape=[4, 3]),
        array(*[True] * 12, shape=[4, 3]), array(*[[1.0]] * 12, shape=[4, 3]),
        array(*[1.0] * 12, shape=[-1, 3]), array(*[1.0] * 12, shape=[4.0, 3]),
        array(*[1.0] * 12, shape="43"), array(*[1.0] * 12, shape=[4, 3], dtype="object"),
        array(*[1.0] * 12, shape=[4, 3], dtype=["float64"]), array(1.0, shape=[10**18, 10**18]),
        {**array(*[1.0] * 12, shape=[4, 3]), "more": 1}, {"dtype": "float64"}, {}, [], None, 1.0,
        "centers", [["a"]], {"float": "inf"},
    ],
    "counts_": [
        array(1, 2, 3, dtype="int64"), array(-1, 2, 3, 4), array(0, 0, 0, 0),
        array(1, 2, 3, NAN), array(1.5, 2, 3, 4, dtype="int64"),
        array(1e20, 1, 1, 1, dtype="int64"),
        array(2**63, 1, 1, 1, dtype="int64"), None, ["a", "b", "c", "d"],
    ],
    "shift": [array(1.0), array(1.0, 2.0, NAN), array(1, 2, 3, dtype="int64"), None],
    "unit": [0.0, -1.0, 3.0, NAN, {"float": "inf"}, 10**400, 1, None, "1", True],
    "n_features_in_": [0, -3, 4, 3.0, "3", None, True, 10**30],
    "n_iter_": [1.5, "1", None, True],
    "inertia_": ["1", None, array(1.0), True, {"float": "1e5"}, {"float": ["nan"]}],
    "stop_reason_": [1, None, ["tol"]],
    "feature_names_in_": [["a", "b"], ["a", "b", 3], "abc", 3, array(1.0, 2.0, 3.0), {}],
    "__class__": ["KMeans", 1],
    "fit": [1],
    "_frame": [array(1.0)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in ATTRIBUTES.items() for value in values],
)
def test_damaged_attributes(name, value, path):
    document = document_of(fitted(), path)
    document["attributes"][name] = value
    path.write_text(json.dumps(document))
    refused(path, "damaged")


@pytest.mark.parametrize("name", ["n_steps_", "n_since", "seed"])
@pytest.mark.parametrize("value", [1.0, None, "1", array(1.0)])
def test_damaged_state_of_mini_batches(name, value, path):
    document = document_of(fitted(MiniBatchKMeans), path)
    document["attributes"][name] = value
    path.write_text(json.dumps(document))
    refused(path, "damaged", name)


@pytest.mark.parametrize("value", [-1, 2**32, 10**400])
def test_a_seed_that_is_none(value, path):
    document = document_of(fitted(MiniBatchKMeans), path)
    document["attributes"]["seed"] = value
    path.write_text(json.dumps(document))
    refused(path, "damaged", "seed")


def test_missing_attributes(kind, path):
    document = document_of(fitted(kind), path)
    for name in document["attributes"]:
        less = copy.deepcopy(document)
        del less["attributes"][name]
        path.write_text(json.dumps(less))
        refused(path, "damaged", f"{name} is missing")


@pytest.mark.parametrize("field", ["estimator", "parameters", "attributes"])
@pytest.mark.parametrize("value", [None, 1, "KMean", [], ["KMeans"], {"a": {"b": 1}}])
def test_damaged_fields(field, value, path):
    path.write_text(json.dumps({**document_of(fitted(), path), field: value}))
    refused(path, "damaged")


def test_fields_that_are_not_known_or_not_there(path):
    document = document_of(fitted(), path)
    path.write_text(json.dumps({**document, "code": "import os"}))
    refused(path, "damaged")
    del document["parameters"]
    path.write_text(json.dumps(document))
    refused(path, "damaged")


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_clusters", 0), ("n_clusters", "8"), ("n_clusters", None), ("init", "kmeans"),
     ("init", ["a", "b"]), ("init", {"callable": "os.system"}), ("tol", -1.0), ("tol", NAN),
     ("batch_size", 10), ("self", 1), ("__class__", 1), ("random_state", "0"), ("", 1)],
)  # fmt: skip
def test_damaged_parameters(name, value, path):
    document = document_of(fitted(), path)
    document["parameters"][name] = value
    path.write_text(json.dumps(document))
    refused(path, "damaged")


def test_the_state_of_mini_batches_is_not_that_of_kmeans(path):
    document = document_of(fitted(MiniBatchKMeans), path)
    document["estimator"] = "KMeans"
    path.write_text(json.dumps(document))
    refused(path, "damaged")


def test_constants_that_are_no_json(path):
    fitted().save(path)
    text = path.read_text()
    path.write_text(text.replace('"inertia_": ', '"inertia_": NaN, "n_": '))
    refused(path, "NaN is no JSON")


def test_a_name_that_occurs_twice(path):
    fitted().save(path)
    text = path.read_text()
    path.write_text(text.replace('"inertia_": ', '"n_iter_": 1, "inertia_": '))
    refused(path, "occurs twice")


def test_arrays_nested_in_arrays(path):
    depth = 900  # less than what stops the parser of JSON
    nested = '{"dtype": "float64", "shape": [1], "values": [' * depth + "1.0" + "]}" * depth
    text = json.dumps({**document_of(fitted(), path), "parameters": {"init": 12321}})
    path.write_text(text.replace("12321", nested))
    refused(path)


def test_a_device_without_end():
    device = Path("/dev/zero")
    if not device.exists():
        pytest.skip("no such device here")
    refused(device, "not a regular file")


def test_a_file_larger_than_any_model(monkeypatch, tmp_path):
    monkeypatch.setattr(_documents, "_MAX_BYTES", 1 << 10)
    path = tmp_path / "model.json"
    path.write_bytes(bytes((1 << 10) + 1))
    refused(path, "larger than any")


# Whatever is in the file

fuzzed = settings(
    max_examples=int(os.environ.get("DKMEANS_FUZZ", "300")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([NAN, {"float": "-inf"}, array(1.0), "float32", "int64", 2**63, 10**400, []])
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
# Parameters that are numbers may have any value that scikit-learn allows.
SAMPLES = [fitted(kind, ROWS.astype(dtype))
           for kind in (KMeans, MiniBatchKMeans) for dtype in (np.float32, np.float64)]  # fmt: skip


def only_refused(path):
    """Load; a model that comes out can be used, whatever the file was."""
    try:
        model = dkmeans.load(path)
    except SourceError:
        return
    d = model.n_features_in_
    labels = model.predict(np.zeros((5, d)))
    assert ((labels >= 0) & (labels < len(model.cluster_centers_))).all()
    assert model.transform(np.zeros((5, d))).shape == (5, len(model.cluster_centers_))


@fuzzed
@given(data=st.data())
def test_bytes_changed_at_random(data, path):
    data.draw(st.sampled_from(SAMPLES)).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(0, 6))
        content[place : place + length] = data.draw(st.binary(max_size=6) | st.sampled_from(
            [b"-", b"e9", b"e999", b"[", b"{}", b"null", b"true", b'"', b",", b"0", b"999999999999"]
        ))  # fmt: skip
    path.write_bytes(content)
    only_refused(path)


def places_of(value, so_far=()):
    """Yield where something can be changed: the keys and indices that lead there."""
    yield so_far
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in inner:
        yield from places_of(item, (*so_far, key))


@fuzzed
@given(data=st.data())
def test_structure_changed_at_random(data, path):
    document = document_of(data.draw(st.sampled_from(SAMPLES)), path)
    for _ in range(data.draw(st.integers(1, 3))):
        places = [place for place in places_of(document) if place]
        *way, last = data.draw(st.sampled_from(places))
        owner = document
        for key in way:
            owner = owner[key]
        what = data.draw(st.sampled_from(["replace", "remove", "add", "copy"]))
        # What is drawn may be drawn again, and changed in a later round.
        value = copy.deepcopy(owner[last] if what == "copy" else data.draw(VALUES))
        if what == "replace":
            owner[last] = value
        elif what == "remove":
            del owner[last]
        elif isinstance(owner, dict):
            owner[data.draw(st.text(max_size=8))] = value
        else:
            owner.insert(last, value)
    path.write_text(json.dumps(document))
    only_refused(path)


@fuzzed
@given(
    content=st.binary() | st.text().map(str.encode) | VALUES.map(lambda v: json.dumps(v).encode())
)
def test_anything(content, path):
    path.write_bytes(content)
    refused(path)
