"""Jobs that are interrupted and go on: the same bytes, and only what was not yet done."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import dask
import numpy as np
import pytest
import tifffile
import zarr
from isal import isal_zlib
from PIL import Image

from dkmeans import _tiling
from dkmeans._palette import Palette
from dkmeans._validation import CompleteError, InvalidArgumentError, OutputError, SourceError
from dkmeans.images import (
    _destination,
    _ingest,
    _manifest,
    _notes,
    _png,
    _store,
    _tiff,
    _workspace,
    ingest,
    quantize,
)

OUTPUTS = ["out.png", "out.tif", "out.zarr", "out"]


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Make every piece of work small, and note each."""
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
    with dask.config.set(scheduler="synchronous"):
        yield


SMALL = (
    (_tiling.reading_block, "__defaults__", (64, 1 << 13)),
    (_png, "_BAND", 1 << 13),
    (_tiff, "TILE", 64),
    (_store, "CHUNK", 64),
    (_store, "PACKED_CHUNK", 5000),
    (_ingest, "_LARGE", 20_000),
    (_ingest, "_RUN", 20_000),
    (_notes, "_NOTED", 1),
)


@pytest.fixture
def sources(tmp_path, photos):
    """Some pictures of several kinds."""
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(
        folder / "a.tif", photos["china"][:300, :256], tile=(64, 64), photometric="rgb"
    )
    Image.fromarray(photos["flower"][:90, :120]).save(folder / "b.png")
    Image.fromarray(photos["china"][:50, :70]).save(folder / "c.png")
    return folder


def content(path):
    """The bytes of all files of an output, by name."""
    if path.is_file():
        return path.read_bytes()
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


class Stop(BaseException):
    """Ends a job like a signal."""


class StopAt:
    """Ends a pass after so many blocks; counts what is read."""

    def __init__(self, name="", blocks=0):
        self.name, self.left, self.read, self.passes = name, blocks, 0, []

    def begin(self, name, *_):
        self.passes.append(name)

    def advance(self, nbytes):
        self.read += nbytes
        if self.passes[-1] == self.name:
            self.left -= 1
            if self.left < 0:
                raise Stop

    def end(self):
        pass


def job(kind, sources, path, **options):
    """Run a job on an output of a kind."""
    if kind == "store.zarr":
        return ingest(sources, path, **options)
    single = kind in ("out.png", "out.tif")
    given = {"n_colors": 5, "n_init": 1} | options
    return quantize(sources / "a.tif" if single else sources, path, **given)


def interrupted(kind, sources, path, **options):
    with pytest.raises(Stop) as caught:
        job(kind, sources, path, **options)
    return getattr(caught.value, "__notes__", [])


def midway(kind):
    """Stop where some of a job is done and noted, and some is not."""
    return StopAt("ingest", 12) if kind == "store.zarr" else StopAt("write", 6)


def workspace(path):
    return (path if path.suffix == "" else path.parent) / f".{path.name}.dkmeans"


@pytest.mark.parametrize("kind", [*OUTPUTS, "store.zarr"])
@pytest.mark.parametrize("blocks", [0, 2, 7])
@pytest.mark.parametrize("palette", [None, Palette([[0, 0, 0], [120, 130, 99], [255, 255, 255]])])
def test_the_rest_is_done_with_the_same_bytes(kind, sources, tmp_path, blocks, palette):
    (tmp_path / "undisturbed").mkdir()
    options = {} if palette is None or kind == "store.zarr" else {"palette": palette}
    expected = job(kind, sources, tmp_path / "undisturbed" / kind, **options)
    path = tmp_path / kind
    name = "ingest" if kind == "store.zarr" else "write"
    stop = StopAt(name, blocks)
    try:
        job(kind, sources, path, progress=stop, **options)
    except Stop as error:
        has_work = bool(options == {} and kind != "store.zarr") or bool(
            getattr(error, "__notes__", [])
        )
        assert workspace(path).exists() == has_work
    else:
        pytest.skip("the job has fewer blocks")
    rest = StopAt()
    result = job(kind, sources, path, resume=True, progress=rest, **options)
    assert content(path) == content(tmp_path / "undisturbed" / kind)
    assert not workspace(path).exists()
    if kind != "store.zarr":
        assert rest.passes == ["write"]
        assert result.inertia == expected.inertia
        assert result.psnr == expected.psnr
        assert result.palette == expected.palette
        np.testing.assert_array_equal(result.palette.shares, expected.palette.shares)
    assert [r.error for r in result.report] == [r.error for r in expected.report]


@pytest.mark.parametrize("kind", [*OUTPUTS, "store.zarr"])
def test_what_is_done_is_not_read_again(kind, sources, tmp_path):
    path = tmp_path / kind
    first = midway(kind)
    interrupted(kind, sources, path, progress=first)
    whole, rest = StopAt(), StopAt()
    job(kind, sources, tmp_path / f"whole-{kind}", progress=whole)
    job(kind, sources, path, resume=True, progress=rest)
    passes = 1 if kind == "store.zarr" else 2
    assert 0 < rest.read < whole.read / passes


def test_an_interrupted_count_begins_again(sources, tmp_path):
    assert not interrupted(
        "out.png", sources, tmp_path / "out.png", progress=StopAt("count colours", 1)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    result = job("out.png", sources, tmp_path / "out.png", resume=True)
    assert result.n_passes == 2


def test_a_job_can_be_interrupted_again_and_again(sources, tmp_path):
    job("out.tif", sources, tmp_path / "ref.tif")
    path = tmp_path / "out.tif"
    for times in range(50):
        try:
            job("out.tif", sources, path, resume=times > 0, progress=StopAt("write", 2))
            break
        except Stop:
            assert not path.exists()
    assert times > 1
    assert content(path) == content(tmp_path / "ref.tif")


PROGRAM = textwrap.dedent("""
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    import dask, test_resume as t
    for module, name, value in t.SMALL:
        setattr(module, name, value)
    from dkmeans.images import {module} as place
    original = place.{function}
    def dies(*args, **kwargs):
        result = original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    place.{function} = dies
    with dask.config.set(scheduler="synchronous"):
        t.job({kind!r}, t.Path("in"), t.Path({kind!r}))
""")

DEATHS = {
    "before the fit is written": ("_quantize", "fit"),
    "after the last note": ("_quantize", "write_labels"),
    "after the outputs are finished": ("_quantize", "finish"),
    "when the store gets its name": ("_workspace", "sync_folder"),
}


@pytest.mark.parametrize(
    ("kind", "death"), [*(("out.zarr", death) for death in DEATHS), ("out", "after the last note")]
)
@pytest.mark.usefixtures("sources")
def test_a_killed_client(kind, death, tmp_path):
    module, function = DEATHS[death]
    code = PROGRAM.format(
        tests=str(Path(__file__).parent), module=module, function=function, kind=kind
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert run.returncode == -signal.SIGKILL
    path = tmp_path / kind
    assert workspace(path).exists()
    (tmp_path / "undisturbed").mkdir()
    with contextlib.chdir(tmp_path):
        job(kind, Path("in"), Path("undisturbed", kind))
        rest = StopAt()
        job(kind, Path("in"), Path(kind), resume=True, progress=rest)
    assert content(path) == content(tmp_path / "undisturbed" / kind)
    assert not workspace(path).exists()
    if death != "before the fit is written":
        assert rest.passes == []


@pytest.mark.parametrize("kind", [*OUTPUTS, "store.zarr"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damaged_parts_are_made_again(kind, harm, sources, tmp_path):
    (tmp_path / "undisturbed").mkdir()
    job(kind, sources, tmp_path / "undisturbed" / kind)
    path = tmp_path / kind
    interrupted(kind, sources, path, progress=midway(kind))
    [run] = [p for p in workspace(path).iterdir() if p.is_dir()]
    chunks = [p for p in run.rglob("*") if p.is_file() and p.name.isdigit()]
    victims = [*run.glob("*.part"), *chunks, *path.glob("*.png")]
    victims = [victim for victim in victims if victim.stat().st_size]
    assert victims
    for victim in victims:
        data = bytearray(victim.read_bytes())
        if harm == "flip":
            data[len(data) // 2] ^= 4
        victim.write_bytes(data[: len(data) // 2] if harm == "cut" else data)
        if harm == "remove":
            victim.unlink()
    # A finished file that is another now may be somebody else's.
    job(kind, sources, path, resume=True, overwrite=kind == "out" and harm != "remove")
    assert content(path) == content(tmp_path / "undisturbed" / kind)


@pytest.mark.parametrize("same_size", [False, True])
def test_a_file_of_somebody_else_is_replaced_only_if_asked_for(same_size, sources, tmp_path):
    job("out", sources, tmp_path / "undisturbed")
    path = tmp_path / "out"
    interrupted("out", sources, path, progress=midway("out"))
    [file, *_] = path.glob("*.png")
    theirs = bytes(file.stat().st_size) if same_size else b"theirs"
    file.write_bytes(theirs)
    with pytest.raises(OutputError, match=rf"{file.name}: exists already, and not as .* or overwr"):
        job("out", sources, path, resume=True)
    assert file.read_bytes() == theirs
    file.rename(tmp_path / "theirs.png")
    job("out", sources, path, resume=True)
    assert content(path) == content(tmp_path / "undisturbed")


def test_damaged_notes_are_passed_over(sources, tmp_path):
    job("out.tif", sources, tmp_path / "ref.tif")
    path = tmp_path / "out.tif"
    interrupted("out.tif", sources, path, progress=StopAt("write", 9))
    [file, *_] = workspace(path).rglob("*.notes")
    lines = file.read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace(",", ";", 1)
    file.write_text("".join(lines) + '00000000 [0,"../../x.part",1,1,[],null,0,null]\nrest\0')
    job("out.tif", sources, path, resume=True)
    assert content(path) == content(tmp_path / "ref.tif")


@pytest.mark.parametrize("kind", ["out.tif", "folder"])
@pytest.mark.parametrize("n_lost", [1, 99])
def test_uses_that_notes_no_longer_tell_are_counted_again(
    kind, n_lost, sources, tmp_path, monkeypatch
):
    options = {"palette": Palette([[0, 0, 0], [120, 130, 99], [255, 255, 255]])}
    expected = job(kind, sources, tmp_path / f"ref-{kind}", **options)

    def stop(*_):
        raise Stop

    path = tmp_path / kind
    with monkeypatch.context() as patched:
        patched.setattr(_destination, "sync_files", stop)
        interrupted(kind, sources, path, **options)
    for file in [f for f in workspace(path).rglob("*.notes") if '.part"' in f.read_text()][:n_lost]:
        lines = [
            line for line in file.read_text().splitlines(keepends=True) if '.part"' not in line
        ]
        file.write_text("".join(lines))  # what tells of finished files is still there
    result = job(kind, sources, path, resume=True, **options)
    assert content(path) == content(tmp_path / f"ref-{kind}")
    assert (result.inertia, result.n_pixels) == (expected.inertia, expected.n_pixels)
    np.testing.assert_array_equal(result.palette.shares, expected.palette.shares)


@pytest.mark.parametrize(
    "part", ["../x.part", "/etc/passwd", "a/b.part", "..part/x.part", "x", "\0.part", "x.part/"]
)
def test_no_note_leaves_its_folder(part, tmp_path):
    line = _notes.Note(0, part, 9, 1).line()
    with pytest.raises(ValueError, match="no name of a part"):
        _notes.Note.of_line(line.rstrip("\n"), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "7", "[]", "{}", "[" * 100_000, "[0,7,9,1,[],null,0,null]", '[[],"",9,1,[],null,0,null]',
        '[0,"",9,1,7,null,0,null]', '[0,"",9,1,[[1,2,3]],null,0,null]',
        '[0,"",9,1,[],["x"],0,null]', '[0,"",9,1,[],null,0,{}]', '[0,"",9,1,[],null,0,[1]]',
        f'[0,"",{1 << 64},1,[],null,0,null]', '[0,"",true,1,[],null,0,null]',
    ],
)  # fmt: skip
def test_a_note_with_a_sound_checksum_is_checked_too(text, tmp_path):
    line = f"{isal_zlib.crc32(text.encode()):08x} {text}"
    with pytest.raises(ValueError, match=r"no note|other types|without end"):
        _notes.Note.of_line(line, tmp_path)


@pytest.mark.parametrize("failures", [7, "x", [], {"x": "y"}, {"1": 2}, {"1": None}])
def test_failures_in_records_are_numbered_texts(failures, tmp_path):
    job = _manifest.Job(tmp_path, lambda: None, is_resumed=True, overwrite=False)
    job.publishing({3: "a reason"})
    assert job.publication() == {3: "a reason"}
    assert job.published(tmp_path / "made", tmp_path)
    record = tmp_path / "publication.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "failures": failures}))
    with pytest.raises(SourceError, match=r"publication\.json: a damaged publication"):
        job.publication()


@pytest.mark.parametrize("kind", ["out.zarr", "store.zarr"])
@pytest.mark.parametrize("options", [{}, {"palette": Palette([[0, 0, 0], [255, 255, 255]])}])
def test_a_store_without_what_failed_is_published_by_a_job_that_goes_on(
    kind, options, sources, tmp_path, monkeypatch
):
    (sources / "d.tif").write_bytes((sources / "a.tif").read_bytes()[:100_000])
    options = {} if kind == "store.zarr" else options
    (tmp_path / "undisturbed").mkdir()
    expected = job(kind, sources, tmp_path / "undisturbed" / kind, **options)
    assert [r.error is None for r in expected.report] == [True, True, True, False]

    def stop(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(_workspace.Workspace, "publish", stop)
        for resume in (False, True):
            interrupted(kind, sources, tmp_path / kind, resume=resume, **options)
    result = job(kind, sources, tmp_path / kind, resume=True, **options)
    assert [r.error for r in result.report] == [r.error for r in expected.report]
    assert content(tmp_path / kind) == content(tmp_path / "undisturbed" / kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_colors": 6}, "n_colors is 6, but was 5"),
        ({"seed": 1}, "seed is 1, but was 0"),
        ({"compression": "small"}, "compression is 'small', but was 'fast'"),
        ({"max_iter": 9}, "max_iter is 9, but was 300"),
        ({"palette": Palette([[1, 2, 3]])}, "palette is"),
    ],
)
def test_another_configuration_is_refused(sources, tmp_path, change, message):
    path = tmp_path / "out.png"
    interrupted("out.png", sources, path, progress=StopAt("write", 1))
    before = content(workspace(path))
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        job("out.png", sources, path, resume=True, **change)
    assert "when the job on" in str(caught.value)
    after = content(workspace(path))
    assert {k: v for k, v in before.items() if "lock" not in k} == {
        k: v for k, v in after.items() if "lock" not in k
    }
    job("out.png", sources, path, resume=True)


@pytest.mark.parametrize("names", [("in", "in/a.tif"), ("in/a.tif", "in")])
def test_a_folder_is_not_the_one_picture_in_it(names, sources, tmp_path):
    for name in ("b.png", "c.png"):
        (sources / name).unlink()
    path, first, second = tmp_path / "out.zarr", *(tmp_path / name for name in names)
    interrupted("out.zarr", first, path, progress=midway("out.zarr"))
    with pytest.raises(InvalidArgumentError, match=r"'quantize to zarr .*', but was 'quan"):
        job("out.zarr", second, path, resume=True)
    job("out.zarr", first, path, resume=True)


@pytest.mark.parametrize("kind", ["out", "store.zarr"])
def test_changed_sources_are_refused(kind, sources, tmp_path):
    path = tmp_path / kind
    interrupted(kind, sources, path, progress=midway(kind))
    status = (sources / "b.png").stat()
    os.utime(sources / "b.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(SourceError, match=r"b\.png: changed since the job on .* was interrupted"):
        job(kind, sources, path, resume=True)
    shutil.copy(sources / "b.png", sources / "d.png")
    with pytest.raises(InvalidArgumentError, match="sources are others"):
        job(kind, sources, path, resume=True)


@pytest.mark.parametrize("kind", ["out.png", "out.zarr"])
def test_a_store_changed_in_place_is_refused(kind, photos, tmp_path):
    path = tmp_path / kind
    array = zarr.create_array(str(tmp_path / "a"), data=photos["china"], chunks=(64, 64, 3))
    with pytest.raises(Stop):
        quantize(tmp_path / "a", path, n_colors=5, n_init=1, progress=StopAt("write", 2))
    array[100:200] = 0
    with pytest.raises(SourceError, match=r"a: changed since the job on .* was interrupted"):
        quantize(tmp_path / "a", path, n_colors=5, n_init=1, resume=True)


@pytest.mark.parametrize("kind", [*OUTPUTS, "store.zarr"])
def test_what_is_complete_stays(kind, sources, tmp_path):
    path = tmp_path / kind
    job(kind, sources, path, resume=True)  # nothing is there: it just runs
    before = content(path)
    with pytest.raises(CompleteError, match="nothing to resume"):
        job(kind, sources, path, resume=True)
    with pytest.raises(OutputError, match="exists already"):
        job(kind, sources, path)
    assert content(path) == before
    job(kind, sources, path, resume=True, overwrite=True)
    assert content(path) == before
    assert not workspace(path).exists()


def test_what_is_complete_but_for_what_cannot_be_read_stays(sources, tmp_path):
    (sources / "d.tif").write_bytes((sources / "a.tif").read_bytes()[:100_000])
    path = tmp_path / "out"
    assert sum(r.error is not None for r in job("out", sources, path).report) == 1
    before = content(path)
    with pytest.raises(CompleteError, match="is there but for 1 of the sources, which cannot be r"):
        job("out", sources, path, resume=True)
    shutil.copy(sources / "b.png", sources / "e.png")  # one more, which can
    with pytest.raises(OutputError, match="exists already"):
        job("out", sources, path, resume=True)
    assert content(path) == before


@pytest.mark.parametrize("kind", [*OUTPUTS, "store.zarr"])
def test_the_leave_to_overwrite_lasts(kind, sources, tmp_path):
    path = tmp_path / kind
    job(kind, sources, path, **({} if kind == "store.zarr" else {"n_colors": 3}))
    (tmp_path / "undisturbed").mkdir()
    job(kind, sources, tmp_path / "undisturbed" / kind)
    interrupted(kind, sources, path, progress=midway(kind), overwrite=True)
    job(kind, sources, path, resume=True)
    assert content(path) == content(tmp_path / "undisturbed" / kind)


def test_without_resume_leftovers_are_swept(sources, tmp_path, caplog):
    path = tmp_path / "out.png"
    notes = interrupted("out.png", sources, path, progress=StopAt("write", 3))
    assert str(workspace(path)) in notes[0]
    result = job("out.png", sources, path)
    assert result.n_passes == 2
    assert "what an interrupted job had left is removed" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.png"]


@pytest.mark.parametrize("scheduler", ["threads", "cluster"], indirect=True)
def test_any_scheduler_goes_on(scheduler, sources, tmp_path):
    job("out", sources, tmp_path / "ref" / "out")
    with dask.config.set(scheduler="synchronous"):
        interrupted("out", sources, tmp_path / "out", progress=StopAt("write", 5))
    job("out", sources, tmp_path / "out", resume=True)
    assert content(tmp_path / "out") == content(tmp_path / "ref" / "out"), scheduler


def test_a_flipped_byte_in_a_store_is_named(sources, tmp_path):
    store = tmp_path / "store.zarr"
    ingest(sources, store)
    chunk = store / "images" / "0" / "c" / "1" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    data[7] ^= 1
    chunk.write_bytes(data)
    result = quantize(store, tmp_path / "o.zarr", n_colors=3)
    [failed] = [image for image in result.report if image.error]
    assert f"{store}/images/0: chunk c/1/1/0 is damaged" in failed.error
    assert "checksum" in failed.error
    labels = tmp_path / "l.zarr"
    quantize(sources / "b.png", labels, n_colors=3)
    assert zarr.open_array(str(labels), mode="r").metadata.codecs[-1].to_dict()["name"] == "crc32c"
