"""Fits and labels from names of data to files, through the library side and the command line."""

import io
import json
import os
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import zarr
from click.testing import CliRunner
from rich.console import Console

import dkmeans
from dkmeans import KMeans, MiniBatchKMeans, _checkpoint, _cli, _jobs, _report_tables, _summary_rows
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError

K = 4
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(5000, 3)).astype(np.float32)
ROWS.flags.writeable = False


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    monkeypatch.setattr(_summary_rows, "MIN_ROWS", 400)
    monkeypatch.setattr(_summary_rows, "ROWS_PER_CLUSTER", 10)
    monkeypatch.setattr(_jobs, "ROWS_OF_A_CHUNK", 1000)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with rows as Zarr and .npy."""
    monkeypatch.chdir(tmp_path)
    zarr.create_array("rows.zarr", data=ROWS, chunks=(300, 3))
    np.save("rows.npy", ROWS)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(_cli.cli, arguments, prog_name="dkmeans")


def fitted(**parameters):
    return KMeans(**{"n_clusters": K, "random_state": 0, **parameters}).fit(ROWS)


def left(folder):
    """Return what lies in the folder besides data, hidden names included."""
    return sorted({p.name for p in folder.iterdir()} - {"rows.zarr", "rows.npy"})


def written(path):
    """Return which file this is and when it was written; a look at it changes neither."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


class Interruption(BaseException):
    pass


@pytest.fixture
def interrupted(monkeypatch):
    """Return a function that begins a fit and lets it end when it has written two checkpoints."""

    def begin(**parameters):
        save, written = _checkpoint.Checkpoint.save, []

        def counted(self, standing):
            save(self, standing)
            written.append(standing)
            if len(written) == 2:
                raise Interruption

        with monkeypatch.context() as patch:
            patch.setattr(_checkpoint.Checkpoint, "save", counted)
            with pytest.raises(Interruption) as caught:
                _jobs.fit("rows.zarr", "m.json", **{"n_clusters": K, "tol": 1e-6, **parameters})
        place = parameters.get("checkpoint", "m.json.checkpoint")
        kept = f"what is done is kept in {place}; resume=True goes on from there"
        assert caught.value.__notes__ == [kept]

    return begin


# Fit


@pytest.mark.parametrize("data", ["rows.zarr", "rows.npy"])
def test_fit_writes_the_model_of_the_estimator(data, folder):
    result = _jobs.fit(data, "m.json", n_clusters=K)
    model, wanted = dkmeans.load("m.json"), fitted()
    assert model.cluster_centers_.tobytes() == wanted.cluster_centers_.tobytes()
    assert (result.inertia, result.n_iter) == (wanted.inertia_, wanted.n_iter_)
    assert result.counts.tolist() == wanted.counts_.tolist()
    assert left(folder) == ["m.json"]


def test_fit_by_mini_batches(folder):
    _jobs.fit("rows.zarr", "m.json", n_clusters=K, algorithm="minibatch", max_iter=3)
    wanted = MiniBatchKMeans(K, random_state=0, max_iter=3).fit("rows.zarr")
    model = dkmeans.load("m.json")
    assert model.cluster_centers_.tobytes() == wanted.cluster_centers_.tobytes()
    assert left(folder) == ["m.json"]


def test_fit_takes_all_options(folder):
    del folder
    result = run("fit", "rows.zarr", "m.json", "-k", "3", "--init", "random", "--seed", "5",
                 "--max-iter", "7", "--tol", "0.001", "--missing", "ignore")  # fmt: skip
    assert result.exit_code == 0, result.output
    parameters = dkmeans.load("m.json").get_params()
    wanted = {"n_clusters": 3, "init": "random", "random_state": 5, "max_iter": 7, "tol": 0.001,
              "missing": "ignore"}  # fmt: skip
    assert {name: parameters[name] for name in wanted} == wanted
    for word in ("m.json", "5,000 of 3 features", "Inertia", "Passes"):
        assert word in result.stdout
    assert re.search(r"refine: .*/s", result.stderr)
    assert "pixel" not in result.stderr
    assert re.search(r"refine, pass 2: inertia \S+, \S+% less", result.stderr)


def test_resume_has_the_same_bits(folder, interrupted):
    _jobs.fit("rows.zarr", "wanted.json", n_clusters=K, tol=1e-6)
    interrupted()
    assert left(folder) == ["m.json.checkpoint", "wanted.json"]
    for arguments, status in (((), 1), (("--resume",), 0)):
        result = run("fit", "rows.zarr", "m.json", "-k", "4", "--tol", "1e-6", *arguments)
        assert result.exit_code == status, result.output
        if status:
            assert "go on from it with --resume, or start over with --overwrite" in result.stderr
    assert "gone on from a checkpoint" in result.stdout
    assert (folder / "m.json").read_bytes() == (folder / "wanted.json").read_bytes()
    assert left(folder) == ["m.json", "wanted.json"]


def test_resume_of_nothing_begins(folder):
    assert not _jobs.fit("rows.zarr", "m.json", n_clusters=K, resume=True).resumed
    assert left(folder) == ["m.json"]


def test_resume_of_what_is_complete_has_nothing_to_do(folder):
    _jobs.fit("rows.zarr", "m.json", n_clusters=K)
    before = written(folder / "m.json")
    result = run("fit", "rows.zarr", "m.json", "-k", "4", "--resume")
    assert result.exit_code == 0
    assert "m.json: is there, and no fit of it was interrupted; nothing to resume" in result.stderr
    assert written(folder / "m.json") == before
    (folder / "m.json").write_text("{}")  # no model: what else it is, is not to be lost
    with pytest.raises(OutputError, match="exists already"):
        _jobs.fit("rows.zarr", "m.json", n_clusters=K, resume=True)
    assert left(folder) == ["m.json"]


def test_resume_where_the_model_was_written_already(folder, interrupted):
    interrupted()
    before = _jobs.fit("rows.zarr", "m.json", n_clusters=K, tol=1e-6, resume=True)
    model = (folder / "m.json").read_bytes()
    (folder / "m.json").unlink()
    interrupted()  # as if it had ended between the model and the end of the checkpoint
    (folder / "m.json").write_bytes(model)
    assert _jobs.fit("rows.zarr", "m.json", n_clusters=K, tol=1e-6, resume=True).resumed
    assert (folder / "m.json").read_bytes() == model
    assert before.resumed


def test_overwrite_starts_over(folder, interrupted):
    interrupted()
    assert not _jobs.fit("rows.zarr", "m.json", n_clusters=3, overwrite=True).resumed
    assert not _jobs.fit("rows.zarr", "m.json", n_clusters=2, overwrite=True).resumed
    assert left(folder) == ["m.json"]


def test_a_checkpoint_at_another_place(folder, interrupted):
    interrupted(checkpoint="elsewhere")
    assert left(folder) == ["elsewhere"]
    result = run("fit", "rows.zarr", "m.json", "-k", "4", "--tol", "1e-6", "--resume",
                 "--checkpoint", "elsewhere")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert left(folder) == ["m.json"]


def test_a_file_that_is_no_checkpoint_is_never_replaced(folder):
    (folder / "notes").write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(SourceError, match="notes: not a dkmeans checkpoint"):
            _jobs.fit("rows.zarr", "m.json", n_clusters=K, checkpoint="notes", **options)
    assert (folder / "notes").read_text() == "mine"


def test_resume_of_another_fit_is_wrong_use(folder, interrupted):
    del folder
    interrupted()
    for options, change in {
        ("-k", "5"): "--clusters was '4' then, and is '5' now",
        ("-k", "4", "--seed", "3"): "--seed was '0' then, and is '3' now",
    }.items():
        result = run("fit", "rows.zarr", "m.json", *options, "--tol", "1e-6", "--resume")
        assert result.exit_code == 2
        assert change in result.stderr


def test_resume_by_mini_batches_keeps_the_checkpoint_of_lloyd(folder, interrupted):
    interrupted()
    (folder / "m.json").write_text("mine")
    kept = (folder / "m.json.checkpoint").read_bytes()
    fit = ("fit", "rows.zarr", "m.json", "-k", "4", "--algorithm", "minibatch")
    result = run(*fit, "--resume")
    assert result.exit_code == 2
    assert "--algorithm was 'lloyd' then, and is 'minibatch' now" in result.stderr
    assert (folder / "m.json.checkpoint").read_bytes() == kept
    assert (folder / "m.json").read_text() == "mine"
    assert run(*fit, "--overwrite").exit_code == 0
    assert left(folder) == ["m.json"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(("none.zarr", "m.json"), "none.zarr: cannot be read as a Zarr array"),
     (("none.npy", "m.json"), "none.npy: cannot be read as a .npy file (No such file"),
     (("pipe.npy", "m.json"), "pipe.npy: not a regular file"),
     (("rows.zarr", "none/m.json"), "none/m.json: cannot be written"),
     (("nan.zarr", "m.json"), "Leave such rows out with dkmeans fit --missing ignore, or fill"),
     (("nan.zarr", "m.json"), "nan.zarr: Input X contains NaN"),
     (("few.zarr", "m.json"), "few.zarr: n_samples=2 should be >= n_clusters=4"),
     (("cube.npy", "m.json"), "cube.npy: has the shape"),
     (("objects.npy", "m.json"), "objects.npy: cannot be read as a .npy file"),
     (("brackets.npy", "m.json"), "brackets.npy: cannot be read as a .npy file"),
     (("complex.npy", "m.json"), "complex.npy: X has the dtype complex128; complex data are not"),
     (("words.npy", "m.json"), "words.npy: X has the dtype <U1; it must be boolean, integer"),
     (("rows.npy", "rows.npy", "--overwrite"), "rows.npy: is also a source"),
     (("rows.npy", "link.npy", "--overwrite"), "link.npy: is also a source"),
     (("rows.zarr", "rows.zarr/m.json"), "rows.zarr/m.json: lies inside the source rows.zarr"),
     (("rows.npy", "few.zarr", "--overwrite"), "few.zarr: is a folder")],
)  # fmt: skip
def test_what_cannot_be_fitted(arguments, sentence, folder):
    nan = ROWS.copy()
    nan[4000] = np.nan
    zarr.create_array("nan.zarr", data=nan)
    zarr.create_array("few.zarr", data=ROWS[:2])
    np.save("cube.npy", np.zeros((3, 3, 3)))
    np.save("objects.npy", np.array([[print]], object), allow_pickle=True)
    np.save("complex.npy", np.zeros((300, 3), complex))
    np.save("words.npy", np.array([["a", "b"]]))
    os.mkfifo("pipe.npy")
    content = (folder / "rows.npy").read_bytes()
    (folder / "brackets.npy").write_bytes(content[:11] + b"(" * 100 + content[111:])
    (folder / "link.npy").symlink_to("rows.npy")
    result = run("fit", *arguments, "-k", "4", "--quiet")
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert len(result.stderr) < 300
    assert (folder / "rows.npy").read_bytes() == content
    assert not list(folder.glob(".*"))
    assert not (folder / "m.json").exists()


def test_no_checkpoint_of_mini_batches(folder):
    del folder
    result = run("fit", "rows.zarr", "m.json", "-k", "4", "--algorithm", "minibatch",
                 "--checkpoint", "c")  # fmt: skip
    assert result.exit_code == 2
    assert "mini-batches find the centres in one read" in result.stderr


def test_no_checkpoint_where_the_model_goes(folder):
    result = run("fit", "rows.zarr", "m.json", "-k", "4", "--checkpoint", "./m.json")
    assert result.exit_code == 2
    assert "--checkpoint is './m.json', where the model is to be" in result.stderr
    assert left(folder) == []


@pytest.mark.parametrize("place", ["rows.zarr/c.json", "rows.zarr/c/c.json"])
def test_no_checkpoint_among_the_data(place, folder):
    result = run("fit", "rows.zarr", "m.json", "-k", "4", "--checkpoint", place)
    assert result.exit_code == 1
    source = folder / "rows.zarr"
    assert f"{place}: lies inside the source {source}; choose another place" in result.stderr
    assert left(folder) == []


@pytest.mark.parametrize(
    "command", [("fit", "", "m.json", "-k", "4"), ("predict", "m.json", "", "l.zarr")]
)
def test_no_name_is_not_the_working_folder(command, folder):
    result = run(*command)
    assert result.exit_code == 2
    assert "a source is ''; it must be a path, or a URL such as s3://bucket/name." in result.stderr
    assert left(folder) == []
    with pytest.raises(InvalidArgumentError, match=r"^X is ''; it must be the path"):
        dkmeans.KMeans(2).fit("")
    with pytest.raises(InvalidArgumentError, match=r"^sample_weight is ''; it must be the path"):
        dkmeans.KMeans(2).fit("rows.zarr", sample_weight="")


def test_parameters_are_checked_first(folder):
    for options in (
        {"n_clusters": 0},
        {"n_clusters": 2, "tol": -1.0},
        {"n_clusters": 2, "init": "x"},
    ):
        with pytest.raises(InvalidArgumentError, match="parameter of KMeans"):
            _jobs.fit("rows.zarr", "m.json", **options)
    assert left(folder) == []


# Predict


@pytest.mark.parametrize("data", ["rows.zarr", "rows.npy"])
def test_predict_writes_what_the_model_predicts(data, folder):
    _jobs.fit("rows.zarr", "m.json", n_clusters=K)
    result = run("predict", "m.json", data, "labels.zarr")
    assert result.exit_code == 0, result.output
    assert "5,000 of 3 features" in result.stdout
    array, model = zarr.open_array("labels.zarr", mode="r"), dkmeans.load("m.json")
    assert array[:].tobytes() == model.predict(ROWS).tobytes()
    assert dict(array.attrs)["dkmeans"] == {
        "format": "dkmeans-labels",
        "version": 1,
        "n_clusters": K,
    }
    assert left(folder) == ["labels.zarr", "m.json"]
    known = _jobs.predict("m.json", data, "labels.zarr", overwrite=True)
    assert known.counts.tolist() == np.bincount(array[:], minlength=K).tolist()
    assert known.inertia == -model.score(ROWS) == model.inertia_


@pytest.mark.parametrize(
    ("shape", "chunks", "shards"),
    [((50, 100), (7, 30), None), ((50, 100), (8, 25), None), ((5000,), (4999,), None),
     ((10, 10, 50), (3, 10, 20), None), ((50, 100), (5, 25), (10, 50))],
)  # fmt: skip
@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.usefixtures("folder")
def test_predict_of_any_chunks(shape, chunks, shards, compressors, monkeypatch):
    monkeypatch.setattr(_jobs, "ROWS_OF_A_CHUNK", 300)
    monkeypatch.setattr("dkmeans._tables_zarr._REGION_BYTES", 2000)
    data = ROWS.reshape(*shape, 3)
    zarr.create_array("data.zarr", data=data, chunks=(*chunks, 3), compressors=compressors,
                      shards=None if shards is None else (*shards, 3))  # fmt: skip
    fitted().save("m.json")
    known = _jobs.predict("m.json", "data.zarr", "labels.zarr")
    labels = zarr.open_array("labels.zarr", mode="r")[:]
    np.testing.assert_array_equal(labels, fitted().predict(ROWS).reshape(shape))
    assert known.counts.tolist() == fitted().counts_.tolist()


@pytest.mark.usefixtures("client")
def test_predict_on_a_cluster(folder):
    del folder
    fitted().save("m.json")
    known = _jobs.predict("m.json", "rows.zarr", "labels.zarr")
    assert zarr.open_array("labels.zarr", mode="r")[:].tobytes() == fitted().predict(ROWS).tobytes()
    assert known.inertia == fitted().inertia_


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("data", ["rows.zarr", "rows.npy"])
def test_files_have_no_names_of_features(data):
    KMeans(K, random_state=0).fit(pd.DataFrame(ROWS, columns=list("abc"))).save("m.json")
    ended = run("predict", "m.json", data, "labels.zarr")
    assert ended.exit_code == 0, ended.output
    assert "Warning" not in ended.output
    assert run("plan", "--model", "m.json", "--no-calibrate", data).exit_code == 0


def test_predict_leaves_out_what_the_model_leaves_out(folder):
    rows = ROWS.copy()
    rows[::9, 0] = np.nan
    zarr.create_array("nan.zarr", data=rows)
    model = KMeans(K, random_state=0, missing="ignore").fit(rows)
    model.save("m.json")
    known = _jobs.predict("m.json", "nan.zarr", "labels.zarr")
    labels = zarr.open_array("labels.zarr", mode="r")[:]
    assert labels.tobytes() == model.predict(rows).tobytes()
    assert known.n_missing == (labels < 0).sum() > 0
    assert known.inertia == model.inertia_
    fitted().save("strict.json")
    with pytest.raises(SourceError, match=r"nan.zarr: Input X contains NaN: 556 rows"):
        _jobs.predict("strict.json", "nan.zarr", "other.zarr")
    assert "other.zarr" not in left(folder)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("rows", [np.full((2000, 3), np.nan), ROWS.astype(np.float64) * 1e200])
@pytest.mark.usefixtures("folder")
def test_predict_labels_all_that_the_model_labels(rows):
    zarr.create_array("more.zarr", data=rows, chunks=(300, 3))
    model = fitted(missing="ignore")
    model.save("m.json")
    result = run("predict", "m.json", "more.zarr", "labels.zarr")
    assert result.exit_code == 0, result.output
    labels = zarr.open_array("labels.zarr", mode="r")[:]
    assert labels.tobytes() == model.predict(rows).tobytes()


def test_predict_of_infinite_values_is_refused(folder):
    rows = ROWS.copy()
    rows[7], rows[8, 0] = np.nan, np.inf
    zarr.create_array("infinite.zarr", data=rows)
    fitted(missing="ignore").save("m.json")
    with pytest.raises(SourceError, match=r"infinite\.zarr: Input X contains infinity, .* row 8"):
        _jobs.predict("m.json", "infinite.zarr", "labels.zarr")
    assert left(folder) == ["infinite.zarr", "m.json"]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [(("none.json", "rows.zarr", "l.zarr"), 1, "none.json: no such file"),
     (("m.json", "wide.zarr", "l.zarr"), 1, "wide.zarr: X has 5 features, but KMeans is expecting"),
     (("m.json", "rows.zarr", "labels"), 2, "its name must end in .zarr"),
     (("m.json", "rows.zarr", "labels.txt"), 2, "'labels.txt'; its name must end in .zarr"),
     (("m.json", "rows.zarr", "rows.zarr", "--overwrite"), 1, "is also a source"),
     (("m.json", "rows.zarr", "rows.zarr/c/l.zarr", "--overwrite"), 1, "lies inside the source"),
     (("m.json", "group.zarr/rows", "group.zarr", "--overwrite"), 1, "holds the source"),
     (("group.zarr/m.json", "rows.zarr", "group.zarr", "--overwrite"), 1, "holds the source"),
     (("m.json", "rows.zarr", "wide.zarr"), 1, "exists already"),
     (("m.json", "rows.zarr", "folder.zarr", "--overwrite"), 1, "is no Zarr store"),
     (("rows.npy", "rows.zarr", "l.zarr"), 1, "not a dkmeans model")],
)  # fmt: skip
def test_what_cannot_be_labelled(arguments, status, sentence, folder):
    (folder / "folder.zarr").mkdir()
    zarr.create_array("wide.zarr", data=np.zeros((10, 5)))
    zarr.create_group("group.zarr").create_array("rows", data=ROWS)
    for place in ("m.json", "group.zarr/m.json"):
        fitted().save(place)
    result = run("predict", *arguments)
    assert result.exit_code == status
    assert sentence in result.stderr
    assert not (folder / "l.zarr").exists()
    np.testing.assert_array_equal(zarr.open_array("group.zarr", path="rows")[:], ROWS)


def test_a_damaged_chunk_of_labels_is_seen(folder):
    fitted().save("m.json")
    _jobs.predict("m.json", "rows.zarr", "labels.zarr")
    chunk = next(path for path in (folder / "labels.zarr" / "c").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises((ValueError, RuntimeError)):
        zarr.open_array("labels.zarr", mode="r")[:]


def test_the_model_is_json(folder):
    _jobs.fit("rows.zarr", "m.json", n_clusters=K)
    assert json.loads((folder / "m.json").read_text())["format"] == "dkmeans-model"


def test_the_log_names_the_data(folder):
    made = run("fit", "rows.zarr", "m.json", "-k", str(K), "--log-json", "log", "--quiet")
    assert made.exit_code == 0
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    parts = [line["part"] for line in lines if line["event"] == "partition-done"]
    assert parts
    assert all(part.startswith(f"{folder / 'rows.zarr'}, rows ") for part in parts)


def test_summaries(folder):
    del folder
    console = Console(file=io.StringIO(), width=200)
    result = _jobs.fit("rows.zarr", "m.json", n_clusters=K, max_iter=2)
    _report_tables.print_fitted(result, seconds=1.0, peak=1 << 20, console=console)
    text = console.file.getvalue()
    for word in ("2, the most allowed", "Peak memory", "1.0 MiB", "% of the rows"):
        assert word in text


class Trap:
    """What runs code when its pickle is loaded."""

    def __reduce__(self):
        return open, ("trapped", "w")


def test_no_pickle_is_loaded_from_data_or_models(folder):
    np.save("trap.npy", np.array([[Trap()]], object))
    with pytest.raises(SourceError, match=r"trap\.npy: cannot be read as a \.npy file"):
        _jobs.fit("trap.npy", "m.json", n_clusters=1)
    (folder / "trap.json").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(SourceError, match=r"trap\.json: not a dkmeans model"):
        dkmeans.load("trap.json")
    assert not (folder / "trapped").exists()
