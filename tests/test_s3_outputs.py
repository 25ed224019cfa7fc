"""Outputs in S3, on a real server: the same bytes as on disk, and nothing that looks finished."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image
from s3_proxy import Trouble

import dkmeans
from dkmeans import _stores, _stores_locks, _stores_objects, _tiling
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError
from dkmeans.images import _bucket, _manifest, _outputs_objects, _quantize, _sources, _tiff


@pytest.fixture
def sources(tmp_path, photos):
    """Write some pictures."""
    folder = tmp_path / "sources"
    (folder / "in").mkdir(parents=True)
    Image.fromarray(photos["china"]).save(folder / "a.png")
    Image.fromarray(photos["flower"]).save(folder / "in" / "b.jpg")
    return folder


def held(url):
    """Return all objects below a URL by name."""
    names = _stores_objects.names_below(url)
    return {name: _stores.read(f"{url}/{name}") for name in names}


def files(folder):
    """Return all files of a folder by name."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def nothing_else(url, *names):
    """Check that there is no workspace left."""
    assert {name.split("/")[0] for name in _stores_objects.names_below(url)} == {*names}


@pytest.fixture(params=[16 << 20, 20_000])
def segment(request, monkeypatch):
    """Make parts small, so that there are many, or leave them."""
    monkeypatch.setattr(_outputs_objects, "_SEGMENT", request.param)
    return request.param


@pytest.mark.usefixtures("segment")
@pytest.mark.parametrize("name", ["out", "out.zarr"])
def test_many_pictures_give_the_same_bytes(sources, s3, tmp_path, name):
    local = dkmeans.quantize(sources, tmp_path / name, n_colors=16)
    slash = "" if "." in name else "/"
    remote = dkmeans.quantize(sources, f"{s3}/{name}{slash}", n_colors=16)
    assert remote.palette == local.palette
    assert held(f"{s3}/{name}") == files(tmp_path / name)
    for here, there in zip(local.report, remote.report, strict=True):
        inside = Path(here.output).relative_to(tmp_path).as_posix()
        assert (there.output, there.bytes_out) == (f"{s3}/{inside}", here.bytes_out)
    nothing_else(s3, name)


@pytest.mark.usefixtures("segment")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".zarr"])
def test_one_picture_gives_the_same_bytes(sources, s3, tmp_path, suffix, photos):
    zarr.create_array(str(tmp_path / "p.zarr"), data=np.tile(photos["china"], (4, 4, 1)))
    for i, source in enumerate([sources / "a.png", tmp_path / "p.zarr"]):
        name = f"{i}{suffix}"
        dkmeans.quantize(source, tmp_path / name, n_colors=16)
        dkmeans.quantize(source, f"{s3}/{name}", n_colors=16)
        if suffix == ".zarr":
            assert held(f"{s3}/{name}") == files(tmp_path / name)
        else:
            assert _stores.read(f"{s3}/{name}") == (tmp_path / name).read_bytes()
    nothing_else(s3, f"0{suffix}", f"1{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_large_files_are_joined_by_streaming(sources, s3, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(_outputs_objects, "_SEGMENT", 20_000)
    monkeypatch.setattr(_outputs_objects, "_AT_ONCE", 50_000)
    dkmeans.quantize(sources / "a.png", tmp_path / f"o{suffix}", n_colors=64)
    for overwrite in (False, True):
        dkmeans.quantize(sources / "a.png", f"{s3}/o{suffix}", n_colors=64, overwrite=overwrite)
        assert _stores.read(f"{s3}/o{suffix}") == (tmp_path / f"o{suffix}").read_bytes()
    nothing_else(s3, f"o{suffix}")


def test_a_store_is_ingested_and_read(sources, s3, tmp_path, monkeypatch):
    monkeypatch.setattr("dkmeans.images._ingest._LARGE", 400 * 640)  # so that one has its array
    dkmeans.ingest(sources, tmp_path / "s.zarr")
    dkmeans.ingest(sources, f"{s3}/s.zarr")
    assert held(f"{s3}/s.zarr") == files(tmp_path / "s.zarr")
    local = dkmeans.quantize(tmp_path / "s.zarr", tmp_path / "o.zarr", n_colors=8)
    remote = dkmeans.quantize(f"{s3}/s.zarr", f"{s3}/o.zarr", n_colors=8)
    assert remote.palette == local.palette
    assert held(f"{s3}/o.zarr") == files(tmp_path / "o.zarr")
    nothing_else(s3, "s.zarr", "o.zarr")


def test_what_exists_is_replaced_only_if_asked_for(sources, s3):
    picture = sources / "a.png"
    for name in ("o.png", "o.tif", "o.zarr", "folder/"):
        dkmeans.quantize(picture, f"{s3}/{name}", n_colors=4)
        with pytest.raises(OutputError, match=f"^{s3}/{name}.*: exists already; choose another"):
            dkmeans.quantize(picture, f"{s3}/{name}", n_colors=8)
        dkmeans.quantize(picture, f"{s3}/{name}", n_colors=8, overwrite=True)
    dkmeans.ingest(picture, f"{s3}/s.zarr")
    with pytest.raises(OutputError, match=f"^{s3}/s.zarr: exists already"):
        dkmeans.ingest(picture, f"{s3}/s.zarr")
    dkmeans.ingest(sources, f"{s3}/s.zarr", overwrite=True)
    assert len(_sources.find(f"{s3}/s.zarr")) == 2
    assert len(Image.open(_stores.opened(*placed(f"{s3}/folder/a.png"))).getcolors()) == 8
    nothing_else(s3, "o.png", "o.tif", "o.zarr", "folder", "s.zarr")


def placed(url):
    return url, _stores.state(url)


def test_folders_that_are_left_of_a_store_are_nothing(sources, s3):
    dkmeans.quantize(sources, f"{s3}/o.zarr", n_colors=4)
    _stores_objects.remove_below(f"{s3}/o.zarr")
    for overwrite in (False, True):
        dkmeans.quantize(sources, f"{s3}/o.zarr", n_colors=4, overwrite=overwrite)


def test_what_is_none_of_ours_is_never_removed(sources, s3):
    _stores.write(f"{s3}/o.zarr/precious", b"1")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="is no Zarr store, and is never overwritten"):
            dkmeans.quantize(sources, f"{s3}/o.zarr", overwrite=overwrite)
        with pytest.raises(OutputError, match="is no Zarr store, and is never overwritten"):
            dkmeans.ingest(sources, f"{s3}/o.zarr", overwrite=overwrite)
    assert held(f"{s3}/o.zarr") == {"precious": b"1"}
    nothing_else(s3, "o.zarr")


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("in", "in/out.png", "lies inside the source"),
        ("in/a.png", "in/a.png", "is also a source"),
        ("in/*.png", "in/b.png", "is also a source"),
        ("in", "out.gif", "must end in"),
        ("in", "out.png", "holds one picture"),
    ],
)
def test_outputs_that_are_refused(sources, s3, source, output, said):
    _stores.write(f"{s3}/in/a.png", (sources / "a.png").read_bytes())
    with pytest.raises((OutputError, InvalidArgumentError), match=said):
        dkmeans.quantize(f"{s3}/{source}", f"{s3}/{output}", n_colors=4)
    nothing_else(s3, "in")


@pytest.mark.parametrize("source", ["d.zarr/in", "*/in"])
@pytest.mark.parametrize("job", [dkmeans.quantize, dkmeans.ingest])
def test_a_store_is_not_replaced_while_a_source_lies_in_it(s3, job, source):
    place = zarr.storage.ObjectStore(_stores.folder(f"{s3}/d.zarr"))
    zarr.create_group(place).create_array("in", data=np.full((4, 4, 3), 7, np.uint8))
    before = held(s3)
    with pytest.raises(OutputError, match=r"d\.zarr: holds (a|the) source"):
        job(f"{s3}/{source}", f"{s3}/d.zarr", overwrite=True)
    assert held(s3) == before


def test_two_jobs_on_one_output(sources, s3, monkeypatch):
    monkeypatch.setattr(_stores_locks, "_BEAT", 0.3)
    with (
        _stores_locks.held(f"{s3}/.o.png.dkmeans/dkmeans.lock", "o.png"),
        pytest.raises(OutputError, match=f"^{s3}/o.png: another job is writing it"),
    ):
        dkmeans.quantize(sources / "a.png", f"{s3}/o.png", n_colors=4)
    dkmeans.quantize(sources / "a.png", f"{s3}/o.png", n_colors=4)


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("o.zarr", (_quantize, "_fitted", "after")),
        ("o.zarr", (_bucket.Bucket, "finish", "before")),
        ("o.zarr", (_bucket.BucketSpace, "publish", "before")),
        ("o.zarr", (_bucket.BucketSpace, "sweep", "before")),
        ("o.tif", (_quantize, "write_labels", "after")),
        ("o.tif", (_bucket.BucketSpace, "sweep", "before")),
    ],
)
def test_who_was_suspended_touches_nothing_of_the_next_job(sources, s3, monkeypatch, name, moment):
    monkeypatch.setattr(_outputs_objects, "_SEGMENT", 20_000)
    place, function, when = moment
    original, seen = getattr(place, function), {}

    def suspended(*args, **kwargs):
        result = original(*args, **kwargs) if when == "after" else None
        if not seen:  # longer than the lock lasts; the thread that renews it has not run yet
            _stores.write(f"{s3}/.{name}.dkmeans/dkmeans.lock", b"of the next job")
            _stores.write(f"{s3}/{name}/c/7/7", b"of the next job")
            seen.update(held(s3))
        return result if when == "after" else original(*args, **kwargs)

    monkeypatch.setattr(place, function, suspended)
    with pytest.raises(OutputError, match=f"^{s3}/{name}: another job has taken it over"):
        dkmeans.quantize(sources / "a.png", f"{s3}/{name}", n_colors=4)
    assert held(s3) == seen


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("o.zarr", ["check _clear", "check publishing", "publish check", "check abort"]),
        ("o.tif", ["check upload", "check abort"]),
        ("o/", ["upload", "check abort"]),  # tasks finish pictures that they write whole
    ],
)
def test_the_lock_is_asked_for_once_before_each_step(sources, s3, monkeypatch, name, steps):
    monkeypatch.setattr(_outputs_objects, "_AT_ONCE", 1)
    seen = []

    def told(place, function):
        original = getattr(place, function)

        def tells(*args, **kwargs):
            seen.append(function)
            return original(*args, **kwargs)

        monkeypatch.setattr(place, function, tells)

    told(_stores_locks.Lock, "check")
    told(_manifest.Job, "publishing")
    told(_stores_objects, "upload")
    told(_bucket.BucketSpace, "publish")
    for function in ("_clear", "abort"):
        told(_bucket, function)
    picture = sources / "a.png"
    if name == "o.tif":  # several tasks write it
        monkeypatch.setattr(_tiff, "TILE", 64)
        monkeypatch.setattr(_tiling.reading_block, "__defaults__", (64, 1 << 13))
        picture = picture.with_suffix(".tif")
        Image.open(sources / "a.png").save(picture)
    dkmeans.quantize(picture, f"{s3}/{name}", n_colors=4)
    assert seen == " ".join(steps).split()


@pytest.mark.parametrize("name", ["o.zarr", "o.png", "o/"])
def test_what_a_killed_job_left_is_swept(sources, s3, tmp_path, monkeypatch, name):
    monkeypatch.setattr(_stores_locks, "_BEAT", 0.1)
    place = f"{s3}/o/.o.dkmeans" if name == "o/" else f"{s3}/.{name}.dkmeans"
    _stores.write(f"{place}/dkmeans.lock", b"its lock")
    _stores.write(f"{place}/0-0-0-abc-0.part", b"a part")
    if name == "o.zarr":
        _stores.write(f"{place}/chunks", b"")
        _stores.write(f"{s3}/o.zarr/c/7/7", b"a chunk")
    dkmeans.quantize(sources / "a.png", tmp_path / name, n_colors=4)
    dkmeans.quantize(sources / "a.png", f"{s3}/{name}", n_colors=4)
    name = name.rstrip("/")
    if name != "o.png":
        assert held(f"{s3}/{name}") == files(tmp_path / name)
    nothing_else(s3, name)


def test_a_job_that_fails_leaves_nothing_that_looks_finished(sources, s3, proxy, monkeypatch):
    monkeypatch.setenv("DKMEANS_RETRY_SECONDS", "0.2")
    chunk = "/c/0/0 "
    for name, part in (("o.zarr", chunk), ("s.zarr", "/c/0/0 "), ("o.png", "/o.png ")):
        job = dkmeans.ingest if name[0] == "s" else dkmeans.quantize
        proxy.trouble = [Trouble("503", methods=("PUT",), part=part)]
        with pytest.raises(OutputError, match=f"^{s3}/{name}.* answered 503"):
            job(sources / "a.png", f"{s3}/{name}")
        assert proxy.befallen
        proxy.trouble = []
        left = _stores_objects.names_below(s3)
        assert f".{name}.dkmeans/job.json" in left or name == "s.zarr"  # of which nothing was done
        assert not {name, f"{name}/zarr.json"} & left
        job(sources / "a.png", f"{s3}/{name}")
        assert {name.split("/")[0] for name in _stores_objects.names_below(s3)} == {name}
        _stores_objects.remove_below(s3)


def test_troubles_that_pass(sources, s3, proxy, tmp_path):
    dkmeans.quantize(sources, tmp_path / "o.zarr", n_colors=4)
    proxy.trouble = [Trouble("503", 3, ("PUT",)), Trouble("503", 3, ("GET", "DELETE"))]
    dkmeans.quantize(sources, f"{s3}/o.zarr", n_colors=4)
    assert proxy.befallen == 6
    assert held(f"{s3}/o.zarr") == files(tmp_path / "o.zarr")


def test_refusals_of_the_server(sources, s3, monkeypatch):
    with pytest.raises((OutputError, SourceError), match="there is no bucket none"):
        dkmeans.quantize(sources, "s3://none/o.zarr")
    with pytest.raises((OutputError, SourceError), match="there is no bucket none"):
        dkmeans.ingest(sources, "s3://none/o.zarr")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for name in ("o.png", "o.zarr", "o/"):
        with pytest.raises((OutputError, SourceError), match="access was refused"):
            dkmeans.quantize(sources / "a.png", f"{s3}/{name}")
