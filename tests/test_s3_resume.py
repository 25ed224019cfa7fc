"""Jobs with outputs in S3 that are interrupted and go on, on a real server."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import zarr
from s3_proxy import Trouble
from test_resume import (  # the same jobs, interrupted in the same way
    SMALL,
    Stop,
    StopAt,
    content,
    interrupted,
    job,
    small_units,
    sources,
)

import dkmeans
from dkmeans import _jobs, _stores, _stores_locks, _stores_uploads
from dkmeans import _stores_objects as objects
from dkmeans._palette import Palette
from dkmeans._validation import CompleteError, InvalidArgumentError, OutputError, SourceError
from dkmeans.images import _outputs_objects

__all__ = ["small_units", "sources"]

KINDS = ["out.png", "out.tif", "out.zarr", "out", "store.zarr"]
PIXELS = 300 * 256 + 90 * 120 + 50 * 70  # of all sources
PALETTE = Palette([[0, 0, 0], [120, 130, 99], [255, 255, 255]])


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Make every part of one band or tile, and locks of killed jobs soon nobody's."""
    monkeypatch.setattr(_outputs_objects, "_SEGMENT", 1)
    monkeypatch.setattr(_stores_locks, "_BEAT", 0.05)


def url_of(s3, kind):
    return f"{s3}/{kind}" + "/" * (kind == "out")


def held(s3, kind):
    """The bytes of an output, as `content` has those of one on the disk."""
    names = objects.names_below(f"{s3}/{kind}")
    if not names:
        return _stores.read(f"{s3}/{kind}")
    return {name: _stores.read(f"{s3}/{kind}/{name}") for name in names}


def expected(kind, sources, tmp_path, **options):
    """The result and the bytes of the same job on the disk, undisturbed."""
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    result = job(kind, sources, folder / kind, **options)
    return result, content(folder / kind)


def finished(s3, kind):
    """What looks finished."""
    names = {name for name in objects.names_below(s3) if ".dkmeans/" not in name}
    return {n for n in names if not n.startswith(f"{kind}/") or "/c/" not in n}


def workspace(kind):
    return "out/.out.dkmeans" if kind == "out" else f".{kind}.dkmeans"


@pytest.mark.parametrize("palette", [None, PALETTE])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rest_is_done_with_the_same_bytes(kind, palette, sources, tmp_path, s3):
    options = {} if palette is None or kind == "store.zarr" else {"palette": palette}
    whole, bytes_there = expected(kind, sources, tmp_path, **options)
    name = "ingest" if kind == "store.zarr" else "write"
    notes = interrupted(kind, sources, url_of(s3, kind), progress=StopAt(name, 7), **options)
    assert f"{s3}/{workspace(kind)}; resume=True goes on" in notes[0]
    done = finished(s3, kind)
    assert {name: _stores.read(f"{s3}/{name}") for name in done} == (
        {name: bytes_there[Path(name).name] for name in done} if kind == "out" else {}
    )
    rest = StopAt()
    result = job(kind, sources, url_of(s3, kind), resume=True, progress=rest, **options)
    assert held(s3, kind) == bytes_there
    assert {n.split("/")[0] for n in objects.names_below(s3)} == {kind}
    assert rest.passes == [name]
    assert 0 < rest.read < PIXELS * 3
    if kind != "store.zarr":
        assert (result.inertia, result.psnr) == (whole.inertia, whole.psnr)
        np.testing.assert_array_equal(result.palette.shares, whole.palette.shares)
    with pytest.raises(CompleteError, match="nothing to resume"):
        job(kind, sources, url_of(s3, kind), resume=True, **options)
    assert held(s3, kind) == bytes_there


@pytest.mark.parametrize("kind", ["out.tif", "out.zarr", "store.zarr"])
def test_what_is_there_is_replaced_by_a_job_that_goes_on(kind, sources, tmp_path, s3):
    url = url_of(s3, kind)
    options = {} if kind == "store.zarr" else {"n_colors": 9}
    job(kind, sources / "b.png" if kind != "out.tif" else sources, url, **options)
    _, bytes_there = expected(kind, sources, tmp_path)
    name = "ingest" if kind == "store.zarr" else "write"
    interrupted(kind, sources, url, progress=StopAt(name, 2), overwrite=True)
    job(kind, sources, url, resume=True)
    assert held(s3, kind) == bytes_there
    assert {n.split("/")[0] for n in objects.names_below(s3)} == {kind}


@pytest.mark.parametrize("kind", ["out.tif", "out.zarr"])
def test_again_and_again(kind, sources, tmp_path, s3):
    _, bytes_there = expected(kind, sources, tmp_path)
    times = 0
    while True:
        try:
            job(kind, sources, url_of(s3, kind), resume=True, progress=StopAt("write", 4))
            break
        except Stop:
            assert not finished(s3, kind)
            times += 1
    assert 1 < times < 50
    assert held(s3, kind) == bytes_there


PROGRAM = textwrap.dedent("""
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    import dask, test_resume as t
    from dkmeans.images import _outputs_objects
    for module, name, value in (*t.SMALL, (_outputs_objects, "_SEGMENT", 1)):
        setattr(module, name, value)
    import {module} as place
    original, left = place.{function}, {calls}
    def dies(*args, **kwargs):
        global left
        result = original(*args, **kwargs)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    place.{function} = dies
    with dask.config.set(scheduler="synchronous"):
        t.job({kind!r}, t.Path({sources!r}), {url!r})
""")

DEATHS = {
    "the job is begun": ("dkmeans.images._targets", "begin", 1),
    "a part is put": ("dkmeans._stores_objects", "write", 12),
    "the last note": ("dkmeans.images._quantize", "write_labels", 1),
    "the outputs are finished": ("dkmeans.images._quantize", "finish", 1),
    "some metadata are put": ("dkmeans._stores_objects", "create", 2),
    "the job is swept in part": ("dkmeans._stores_objects", "remove", 4),
}


@pytest.mark.parametrize(
    ("kind", "death"),
    [
        *(("out.zarr", death) for death in DEATHS),
        ("out.tif", "a part is put"),
        ("out", "the outputs are finished"),
        ("store.zarr", "some metadata are put"),
    ],
)
def test_a_killed_client(kind, death, sources, tmp_path, s3):
    module, function, calls = DEATHS[death]
    whole, bytes_there = expected(kind, sources, tmp_path)
    code = PROGRAM.format(
        tests=str(Path(__file__).parent), module=module, function=function, calls=calls, kind=kind,
        sources=str(sources), url=url_of(s3, kind),
    )  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=False, env={**os.environ}
    )
    assert run.returncode == -signal.SIGKILL
    left = objects.names_below(s3)
    assert any(".dkmeans/dkmeans.lock" in name for name in left)
    try:
        result = job(kind, sources, url_of(s3, kind), resume=True)
    except CompleteError:
        assert death == "the job is swept in part"
    else:
        sizes = [[entry.bytes_out for entry in job.report] for job in (whole, result)]
        assert sizes[0] == sizes[1]
    assert held(s3, kind) == bytes_there
    assert {n.split("/")[0] for n in objects.names_below(s3)} == {kind}


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
@pytest.mark.parametrize("kind", ["out.png", "out.zarr", "out"])
def test_what_is_damaged_is_made_again(kind, harm, sources, tmp_path, s3):
    _, bytes_there = expected(kind, sources, tmp_path)
    url = url_of(s3, kind)
    interrupted(kind, sources, url, progress=StopAt("write", 11))
    names = [n for n in objects.names_below(s3) if n.endswith((".part", ".notes", "a.png", "/0"))]
    assert len(names) > 1
    for name in sorted(names)[::2]:
        data = bytearray(_stores.read(f"{s3}/{name}"))
        data[len(data) // 2] ^= 4
        if harm == "remove":
            objects.remove(f"{s3}/{name}")
        else:
            _stores.write(f"{s3}/{name}", bytes(data[: len(data) // 2] if harm == "cut" else data))
    job(kind, sources, url, resume=True, overwrite=True)
    assert held(s3, kind) == bytes_there


def test_an_object_of_somebody_else_is_replaced_only_if_asked_for(sources, tmp_path, s3):
    _, bytes_there = expected("out", sources, tmp_path)
    interrupted("out", sources, f"{s3}/out/", progress=StopAt("write", 6))
    [name, *_] = sorted(finished(s3, "out"))
    _stores.write(f"{s3}/{name}", b"theirs")
    with pytest.raises(OutputError, match=f"{name}: exists already, and not as the interrupted"):
        job("out", sources, f"{s3}/out/", resume=True)
    assert _stores.read(f"{s3}/{name}") == b"theirs"
    job("out", sources, f"{s3}/out/", resume=True, overwrite=True)
    assert held(s3, "out") == bytes_there


def test_what_was_asked_for_must_be_the_same(sources, s3):
    url = f"{s3}/out.zarr"
    interrupted("out.zarr", sources, url, progress=StopAt("write", 7))
    with pytest.raises(
        InvalidArgumentError, match=f"n_colors is 7, but was 5 when the job on {url}"
    ):
        job("out.zarr", sources, url, resume=True, n_colors=7)
    with pytest.raises(InvalidArgumentError, match="sources are others"):
        job("out.zarr", sources / "b.png", url, resume=True)
    picture = (sources / "b.png").read_bytes()
    (sources / "b.png").write_bytes(picture + b"\0")
    with pytest.raises(SourceError, match=r"b\.png: changed since the job on .* was interrupted"):
        job("out.zarr", sources, url, resume=True)
    assert not finished(s3, "out.zarr")
    with (
        _stores_locks.held(f"{s3}/.out.zarr.dkmeans/dkmeans.lock", "x"),
        pytest.raises(OutputError, match="another job is writing it"),
    ):
        job("out.zarr", sources, url, resume=True)


def test_without_resume_a_job_starts_over_and_says_so(sources, tmp_path, s3, caplog):
    _, bytes_there = expected("out.zarr", sources, tmp_path)
    interrupted("out.zarr", sources, f"{s3}/out.zarr", progress=StopAt("write", 7), n_colors=9)
    assert not caplog.records
    whole = StopAt()
    job("out.zarr", sources, f"{s3}/out.zarr", progress=whole)
    assert "what an interrupted job had left is removed" in caplog.text
    assert whole.passes == ["count colours", "write"]
    assert held(s3, "out.zarr") == bytes_there


def uploads(s3):
    """The keys of uploads in parts that were begun and not finished."""
    prefix = objects.place(s3)[1]
    return {key.removeprefix(f"{prefix}/") for key, _ in _stores_uploads.unfinished(s3)}


@pytest.mark.parametrize("page", [1000, 1, 2])
def test_uploads_that_nobody_will_finish_are_swept(sources, s3, monkeypatch, page):
    """But not those of others, be it into the folder to which a job writes."""
    monkeypatch.setattr(_stores_uploads, "_PAGE", page)
    bucket, prefix = objects.place(s3)
    (sources / "c.png").rename(sources / "c d&e.png")
    parts = ".out.tif.dkmeans/0a/0.part", "out/.out.dkmeans/0a/0.part"
    theirs = {"out.tiff", "out/x.png", "out/sub/c d&e.png", "other/b.png"}
    for name in ("out.tif", "out.tif", "out/c d&e.png", "out/b.png", *parts, *theirs):
        _stores_uploads.ask("POST", f"/{bucket}/{prefix}/{name}", {"uploads": ""})
    assert uploads(s3) == {"out.tif", "out/c d&e.png", "out/b.png", *parts, *theirs}
    interrupted("out.tif", sources, f"{s3}/out.tif", progress=StopAt("write", 4))
    job("out.tif", sources, f"{s3}/out.tif", resume=True)
    assert uploads(s3) == {"out/c d&e.png", "out/b.png", parts[1], *theirs}
    job("out", sources, f"{s3}/out/")
    assert uploads(s3) == theirs


def test_uploads_are_left_where_nothing_can_be_asked(s3, monkeypatch):
    bucket, prefix = objects.place(s3)
    _stores_uploads.ask("POST", f"/{bucket}/{prefix}/a.png", {"uploads": ""})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    _stores_uploads.abort({f"{s3}/a.png", f"{s3}/b.png"})
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    _stores_uploads.abort({f"{s3}/a.png", f"{s3}/b.png"})


@pytest.mark.parametrize("overwrite", [False, True])
def test_labels_of_rows_are_the_same_bytes(overwrite, tmp_path, s3):
    rows = np.random.default_rng(1).normal(size=(3000, 4)).astype(np.float32)
    zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(700, 4))
    dkmeans.KMeans(5, random_state=0).fit(rows).save(tmp_path / "m.json")
    names = [str(tmp_path / name) for name in ("m.json", "rows.zarr")]
    url = f"{s3}/l.zarr"
    here = _jobs.predict(*names, str(tmp_path / "l.zarr"))
    for name in ("l.zarr/c/9", ".l.zarr.dkmeans/chunks", ".l.zarr.dkmeans/job.json"):  # of a crash
        _stores.write(f"{s3}/{name}", b"{}")
    if overwrite:
        _jobs.predict(*names, url)
        with pytest.raises(OutputError, match=f"{url}: exists already"):
            _jobs.predict(*names, url)
    there = _jobs.predict(*names, url, overwrite=overwrite)
    assert (there.inertia, there.output) == (here.inertia, url)
    assert held(s3, "l.zarr") == content(tmp_path / "l.zarr")
    assert {n.split("/")[0] for n in objects.names_below(s3)} == {"l.zarr"}


def test_labels_appear_when_they_are_complete(tmp_path, s3, proxy, monkeypatch):
    monkeypatch.setenv("DKMEANS_RETRY_SECONDS", "0.2")
    rows = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
    zarr.create_array(str(tmp_path / "rows.zarr"), data=rows)
    dkmeans.KMeans(5, random_state=0).fit(rows).save(tmp_path / "m.json")
    proxy.trouble = [Trouble("503", methods=("PUT",), part="/zarr.json ")]
    job = [str(tmp_path / "m.json"), str(tmp_path / "rows.zarr"), f"{s3}/l.zarr"]
    with pytest.raises(OutputError, match="answered 503"):
        _jobs.predict(*job)
    proxy.trouble = []
    assert objects.names_below(s3) == set()
    _jobs.predict(*job)
    assert "l.zarr/zarr.json" in objects.names_below(s3)


def test_a_source_that_fails_stays_out_when_a_job_goes_on(sources, tmp_path, s3):
    (sources / "d.png").write_bytes((sources / "c.png").read_bytes()[:-400])
    whole, bytes_there = expected("out.zarr", sources, tmp_path)
    interrupted("out.zarr", sources, f"{s3}/out.zarr", progress=StopAt("write", 7))
    result = job("out.zarr", sources, f"{s3}/out.zarr", resume=True)
    assert [r.error for r in result.report] == [r.error for r in whole.report]
    assert any(r.error for r in result.report)
    assert held(s3, "out.zarr") == bytes_there


assert SMALL  # `PROGRAM` takes them
