"""Outputs: the same bytes however the labels are dealt out; nothing else is left; names."""

import contextlib
import errno
import itertools
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dkmeans._palette import Palette
from dkmeans._tiling import Window, grid
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError
from dkmeans.images import _outputs, _png, _store, _tiff, ingest, quantize
from dkmeans.images._destination import Destination, kind_of, writing
from dkmeans.images._manifest import begin
from dkmeans.images._outputs import PngFile, TiffFile, ZarrLabels, label_windows
from dkmeans.images._places import refuse_among
from dkmeans.images._raster import RasterSource
from dkmeans.images._sources import Found, find
from dkmeans.images._workspace import opened, place_of

PALETTE = Palette(np.stack([np.arange(5), np.arange(5) * 7, 255 - np.arange(5)], axis=1))
KINDS = ["png", "tiff", "zarr"]


@pytest.fixture
def small_units(monkeypatch):
    """Make bands of 4 rows for pictures of up to 64 pixels across, tiles and chunks of 16."""
    monkeypatch.setattr(_png, "_BAND", 4 * (1 + 32))
    monkeypatch.setattr(_tiff, "TILE", 16)
    monkeypatch.setattr(_store, "CHUNK", 16)


def make(kind, folder, shape, palette=PALETTE, compression="fast"):
    """Make an output in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "scratch").mkdir(parents=True)
    if kind == "zarr":
        _store.create_labels(folder / "labels.zarr", "a", shape, palette)
        return ZarrLabels(str(folder / "labels.zarr"), "a", shape[1])
    form = PngFile if kind == "png" else TiffFile
    path, scratch = folder / f"out.{kind}", folder / "scratch"
    return form(str(path), str(scratch), *shape, palette, compression)


def content(output):
    """What was written: bytes of a file, labels of an array."""
    if isinstance(output, ZarrLabels):
        return zarr.open_array(output.path, path=output.array, mode="r")[:].tobytes()
    return Path(output.path).read_bytes()


def labels_of(shape):
    labels = np.random.default_rng(0).integers(0, len(PALETTE), shape).astype(np.uint8)
    labels.flags.writeable = False
    return labels


@st.composite
def cuts(draw, extent, unit):
    """Cut an extent at some multiples of the unit."""
    places = draw(st.sets(st.integers(1, max(1, (extent - 1) // unit)), max_size=4))
    return sorted({0, extent, *(unit * place for place in places if unit * place < extent)})


@st.composite
def dealt_out(draw, shape, unit):
    """Deal a picture out into windows and these into parts, all in any order."""
    windows = [
        Window(top, left, bottom - top, right - left)
        for top, bottom in itertools.pairwise(draw(cuts(shape[0], unit[0])))
        for left, right in itertools.pairwise(draw(cuts(shape[1], unit[1])))
    ]
    windows = draw(st.permutations(windows))
    places = sorted({0, len(windows), *draw(st.lists(st.integers(0, len(windows)), max_size=3))})
    return [windows[start:stop] for start, stop in itertools.pairwise(places)]


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), shape=st.tuples(st.integers(1, 70), st.integers(33, 64)))
def test_the_same_bytes_however_dealt_out(tmp_path, kind, data, shape):
    labels = labels_of(shape)
    whole = make(kind, tmp_path / "whole", shape)
    entries = whole.write("0.part", [(Window(0, 0, *shape), labels)])
    whole.finish(entries)

    output = make(kind, tmp_path / "parts", shape)
    parts = data.draw(dealt_out(shape, output.unit))
    entries = []
    for number, windows in enumerate(parts):
        blocks = ((window, labels[window.rows, window.columns]) for window in windows)
        entries += output.write(f"{number}.part", blocks)
    size = output.finish(data.draw(st.permutations(entries)))

    assert content(output) == content(whole)
    assert not list((tmp_path / "parts" / "scratch").iterdir())
    if kind == "zarr":
        assert content(output) == labels.tobytes()
    else:
        assert size == len(content(output))
        np.testing.assert_array_equal(np.asarray(Image.open(output.path)), labels)


@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize("compression", ["fast", "small"])
@pytest.mark.parametrize("shape", [(1, 1), (700, 1300), (1300, 3), (3, 5000)])
def test_files_of_natural_units(tmp_path, kind, compression, shape):
    labels = labels_of(shape)
    output = make(kind, tmp_path / "o", shape, compression=compression)
    size = label_windows(output.unit, *shape, (1, shape[1]), (64, shape[1]))
    entries = output.write("a.part", [(w, labels[w.rows, w.columns]) for w in grid(*shape, size)])
    output.finish(entries)
    read = tifffile.imread if kind == "tiff" else lambda path: np.asarray(Image.open(path))
    np.testing.assert_array_equal(read(output.path), labels)


@pytest.mark.parametrize(
    ("width", "block", "rows"),
    [
        (20_000, 1, 512),
        (500_000, 1, 32),
        (20_000_000, 1, 1),
        (500_000, 512, 512),
        (500_000, 2048, 32),
        (32_768, 2048, 2048),  # chunks of a store are then read once
        (33_000, 2048, 480),
        (8192, 17, 512),
        (8192, 4000, 512),  # no multiple of both is as low
    ],
)
def test_wide_pictures_have_low_windows(width, block, rows):
    unit = PngFile("", "", 5000, width, PALETTE, "fast").unit
    assert label_windows(unit, 5000, width, (block, width), (block, width)) == (rows, width)


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_parts_may_be_more_than_files_can_be_open(tmp_path, kind):
    shape = (256, 64)
    labels, output = labels_of(shape), make(kind, tmp_path / "o", shape)
    entries = []
    for number, window in enumerate(grid(*shape, output.unit)):
        blocks = [(window, labels[window.rows, window.columns])]
        entries += output.write(f"{number}.part", blocks)
    assert len(entries) == 64
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 30, limits[1])
    )
    try:
        output.finish(entries)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    whole = make(kind, tmp_path / "whole", shape)
    whole.finish(whole.write("0.part", [(Window(0, 0, *shape), labels)]))
    assert content(output) == content(whole)


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("kind", KINDS)
def test_writing_a_part_again_changes_nothing(tmp_path, kind):
    """A task may run twice, if a worker is lost."""
    labels = labels_of((40, 40))
    output = make(kind, tmp_path / "o", (40, 40))
    blocks = [(w, labels[w.rows, w.columns]) for w in grid(40, 40, (16, 40))]
    first = output.write("a.part", blocks)
    again = output.write("a.part", blocks)
    assert first == again
    output.finish(again)
    if kind != "zarr":
        np.testing.assert_array_equal(np.asarray(Image.open(output.path)), labels)


def test_finishing_makes_the_folders_on_the_way(tmp_path):
    output = PngFile(str(tmp_path / "a" / "b" / "o.png"), str(tmp_path), 2, 2, PALETTE, "fast")
    output.finish(output.write("p", [(Window(0, 0, 2, 2), np.zeros((2, 2), np.uint8))]))
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == [
        "a",
        "a/b",
        "a/b/o.png",
    ]


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_a_part_that_was_cut_short_makes_no_file(tmp_path, kind):
    output = make(kind, tmp_path / "o", (600, 600))
    entries = output.write("p", [(Window(0, 0, 600, 600), labels_of((600, 600)))])
    part = tmp_path / "o" / "scratch" / "p"
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(OSError, match="shorter than it was written"):
        output.finish(entries)
    assert not Path(output.path).exists()


def test_a_failure_while_joining_makes_no_file(tmp_path, monkeypatch):
    output = make("png", tmp_path / "o", (60, 60))
    entries = output.write("p", [(Window(0, 0, 60, 60), labels_of((60, 60)))])

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_outputs, "_copy", fail)
    with pytest.raises(OSError, match="No space left"):
        output.finish(entries)
    assert not Path(output.path).exists()


@pytest.mark.parametrize("kind", KINDS)
@given(
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    st.integers(1, 8),
)
def test_windows_of_labels_are_whole_units(kind, height, width, block, blocks_read):
    block = min(block[0], height), min(block[1], width)
    read_block = blocks_read * block[0], blocks_read * block[1]
    output = {
        "png": PngFile("", "", height, width, PALETTE, "fast"),
        "tiff": TiffFile("", "", height, width, PALETTE, "fast"),
        "zarr": ZarrLabels("", "", width),
    }[kind]
    rows, columns = label_windows(output.unit, height, width, block, read_block)
    assert rows > 0
    assert columns > 0
    assert rows % output.unit[0] == 0
    assert columns % output.unit[1] == 0 or columns >= width
    most = [max(n, 2 * max(512, r)) for n, r in zip(output.unit, read_block, strict=True)]
    assert rows <= max(most[0], block[0])
    assert min(columns, width) <= max(most[1], width if output.unit[1] >= width else 0)


# Where outputs go


def found(*names):
    """Pictures that can be read, or not if the name ends in !."""
    source = RasterSource("", "PNG", (4, 4, 3), (1, 4), True, False, 1, (0, 0))  # noqa: FBT003 - as they come
    return [
        Found(
            f"/in/{name}", name.removesuffix("!"), None if name.endswith("!") else source, None, 9
        )
        for name in names
    ]


def files_of(output, *names, is_single=False, overwrite=False):
    target = Destination(output, found(*names), is_single=is_single)
    target.refuse_existing(found(*names), overwrite=overwrite)
    return [target.files[i].relative_to(target.path).as_posix() for i in sorted(target.files)]


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["a.jpg", "b.png"], ["a.png", "b.png"]),
        (["a.jpg", "sub/a.jpg"], ["a.png", "sub/a.png"]),
        (["a.jpg", "a.png", "b.tif"], ["a.jpg.png", "a.png.png", "b.png"]),
        (["a.jpg", "a.b.jpg"], ["a.png", "a.b.png"]),
        (["a.jpg", "b!", "a.png!"], ["a.png"]),
        (["a.jpg", "a.png/x.jpg"], ["a.jpg.png", "a.png/x.png"]),
        (["a", "b/c"], ["a.png", "b/c.png"]),
        (["A.jpg", "a.jpg"], ["A.png", "a.png"]),
    ],
)
def test_a_folder_keeps_the_tree_and_clashes_keep_the_suffix(tmp_path, names, files):
    assert files_of(tmp_path / "out", *names) == files


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["a.jpg", "sub/b.png"], ["a", "sub/b"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "a/b.jpg"], ["a.jpg", "a/b"]),
    ],
)
def test_arrays_have_no_suffix(tmp_path, names, files):
    assert files_of(tmp_path / "out.zarr", *names) == files


@pytest.mark.parametrize(
    ("output", "names"),
    [
        ("out", ["a.jpg", "a.jpg"]),
        ("out.zarr", ["a.jpg", "a.jpg"]),
        ("out.zarr", ["a", "a/b"]),
    ],
)
def test_what_clashes_all_the_same_is_refused(tmp_path, output, names):
    with pytest.raises(InvalidArgumentError) as caught:
        files_of(tmp_path / output, *names)
    assert f"would be written to {tmp_path / output}/a" in str(caught.value)


@pytest.mark.parametrize("output", ["out.png", "out.tif", "out.tiff", "OUT.PNG", "out.zarr"])
def test_one_picture_goes_to_the_name_itself(tmp_path, output):
    assert files_of(tmp_path / output, "a.jpg", is_single=True) == ["."]


def test_one_picture_can_go_to_a_folder(tmp_path):
    assert files_of(tmp_path / "out", "a.jpg", is_single=True) == ["a.png"]


@pytest.mark.parametrize("output", ["out.png", "out.tif"])
def test_many_pictures_fit_in_no_single_file(tmp_path, output):
    with pytest.raises(InvalidArgumentError, match="which holds one picture, but the sources are"):
        files_of(tmp_path / output, "a.jpg", "b.jpg")


@pytest.mark.parametrize("name", ["out.jpg", "out.gif", "out.png.bak", "out.tif2"])
def test_unknown_suffixes(tmp_path, name):
    with pytest.raises(InvalidArgumentError) as caught:
        kind_of(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "must end in .png, .tif, .tiff or .zarr, or be that of a folder" in str(caught.value)
    (tmp_path / name).mkdir()
    assert kind_of(tmp_path / name) == "folder"


def test_what_exists_is_refused_or_replaced(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(OutputError, match=r"a\.png: exists already; choose another name, or over"):
        files_of(tmp_path / "a.png", "a.jpg", is_single=True)
    assert files_of(tmp_path / "a.png", "a.jpg", is_single=True, overwrite=True)
    with pytest.raises(OutputError, match=r"a\.png: exists already"):
        files_of(tmp_path, "a.jpg", "b.jpg")
    assert files_of(tmp_path, "b.jpg", "c.jpg") == ["b.png", "c.png"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(OutputError, match="is a file; give a folder for several pictures"):
        files_of(tmp_path / "a", "b.jpg", "c.jpg", overwrite=True)


def test_folders_are_never_overwritten(tmp_path):
    for name in ("a.png", "a.zarr", "sub/b.png"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a.png", "a.zarr"):
        with pytest.raises(OutputError, match=r"is (a folder, which|no Zarr store, and) is never"):
            files_of(tmp_path / name, "a.jpg", is_single=True, overwrite=True)
    with pytest.raises(OutputError, match=r"b\.png: is a folder"):
        files_of(tmp_path / "sub", "b.jpg", overwrite=True)
    zarr.create_group(str(tmp_path / "a.zarr"))
    assert files_of(tmp_path / "a.zarr", "a.jpg", is_single=True, overwrite=True)


def test_sources_are_never_overwritten(tmp_path):
    (tmp_path / "a.png").touch()
    source = found("a.png")[0].source
    sources = [Found(str(tmp_path / "." / name), name, source, None, 9) for name in ("a.png", "b")]
    with pytest.raises(OutputError, match=r"a\.png: is also a source"):
        Destination(tmp_path, sources, is_single=False).refuse_existing(sources, overwrite=True)


def test_the_parent_must_exist(tmp_path):
    for name in ("no/a.png", "no/a.zarr"):
        with pytest.raises(OutputError, match=f"{tmp_path / 'no'}: no such folder; create it"):
            files_of(tmp_path / name, "a.jpg", is_single=True)
    assert files_of(tmp_path / "no" / "out", "a.jpg")  # folders are made, as deep as needed


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("photos", "is also a source"),
        ("photos/out", "lies inside the source"),
        ("photos/sub/out.png", "lies inside the source"),
        ("link/out.png", "lies inside the source"),
        ("photos/../photos/out.png", "lies inside the source"),
        ("a.png", "is also a source"),
        ("sub/../a.png", "is also a source"),
    ],
)
def test_outputs_among_the_sources_are_refused(tmp_path, output, message):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    (tmp_path / "a.png").touch()
    sources = [tmp_path / "photos", tmp_path / "a.png"]
    with pytest.raises(OutputError) as caught:
        refuse_among("output", tmp_path / output, sources)
    assert str(caught.value).startswith(f"{tmp_path / output}: {message}")
    for free in ("photos-out", "out.png"):
        refuse_among("output", tmp_path / free, sources)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("s3://b/photos/", "is also a source"),
        ("s3://b/photos/out.png", "lies inside the source s3://b/photos/"),
        ("s3://b/more/a.png", r"matches s3://b/more/\*.png, and so is also a source"),
        ("s3://b/m.zarr", "holds the source s3://b/m.zarr/images/1"),
        ("s3://b/photos-out", None),
        ("s3://b/m.png", None),
        ("s3://photos/out.png", None),
        ("b/photos/out.png", None),
    ],
)
def test_urls_among_the_sources_are_refused(output, message):
    sources = ["s3://b/photos/", "s3://b/more/*.png", "s3://b/m.zarr/images/1", Path("b/a.png")]
    if message is None:
        refuse_among("output", output, sources)
        return
    with pytest.raises(OutputError, match=f"^{output}: {message}"):
        refuse_among("output", output, sources)


@pytest.mark.parametrize(
    ("pattern", "taken", "free"),
    [
        ("in/*.tif", ["in/o.tif"], ["in/out/o.tif", "o.tif", "in/o.png"]),
        ("in/*", ["in/o", "in/out/o.tif"], ["in", "o"]),
        ("in/*/a.png", ["in/b/a.png"], ["in/b/c/a.png", "in/a.png", "in/b"]),
        ("in/**/*.png", ["in/a.png", "in/b/c/a.png"], ["a.png", "in/b/c/a.tif"]),
        ("in/**", ["in", "in/a/b.png"], ["a.png"]),
        ("i[mn]/?.png", ["in/a.png"], ["in/ab.png", "io/a.png"]),
    ],
)
def test_outputs_that_a_pattern_matches_are_refused(tmp_path, pattern, taken, free):
    for place in taken:
        with pytest.raises(OutputError, match="and so is also a source"):
            refuse_among("output", tmp_path / place, [tmp_path / pattern])
    for place in free:
        refuse_among("output", tmp_path / place, [tmp_path / pattern])


@pytest.mark.parametrize("job", [quantize, ingest])
def test_links_that_go_in_circles(tmp_path, job):
    loop, picture = tmp_path / "loop.zarr", tmp_path / "a.png"
    loop.symlink_to(loop.name)
    Image.new("RGB", (5, 4)).save(picture)
    with pytest.raises(SourceError, match=r"loop\.zarr: cannot be read \(Too many levels"):
        job(loop, tmp_path / "out.zarr")
    with pytest.raises(OutputError, match=r"loop\.zarr: no such folder"):
        job(picture, loop / "out.zarr")
    report = job([picture, loop], tmp_path / "out.zarr").report
    assert [entry.error is None for entry in report] == [True, False]


def test_what_an_output_is_follows_from_its_own_name_and_not_from_where_a_link_leads(tmp_path):
    pixels = np.full((4, 5, 3), 7, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for name in ("s.zarr", "o.png"):
        (tmp_path / name).symlink_to(tmp_path / f"disk-of-{name[0]}")
    ingest(tmp_path / "a.png", tmp_path / "s.zarr")
    [stored] = find(tmp_path / "s.zarr")
    np.testing.assert_array_equal(next(stored.source.read([Window(0, 0, 4, 5)])), pixels)
    quantize(tmp_path / "s.zarr", tmp_path / "o.png")
    np.testing.assert_array_equal(Image.open(tmp_path / "disk-of-o").convert("RGB"), pixels)
    kept = {"a.png", "s.zarr", "o.png", "disk-of-s", "disk-of-o"}
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("source", ["d.zarr/in", "link", "*/in"])
@pytest.mark.parametrize("job", [quantize, ingest])
def test_a_store_is_not_replaced_while_a_source_lies_in_it(tmp_path, job, source):
    pixels = np.full((4, 4, 3), 7, np.uint8)
    zarr.create_group(str(tmp_path / "d.zarr")).create_array("in", data=pixels)
    (tmp_path / "link").symlink_to(tmp_path / "d.zarr" / "in")
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"d\.zarr: holds (a|the) source"):
            job(tmp_path / source, tmp_path / "d.zarr", overwrite=True, resume=resume)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "d.zarr"), path="in")[:], pixels)
    assert {path.name for path in tmp_path.iterdir()} == {"d.zarr", "link"}


# Nothing is left


def test_the_workspace_is_beside_the_output_and_goes(tmp_path):
    for name, place in (("a.png", ""), ("a.zarr", ""), ("out", "out")):
        target = Destination(tmp_path / name, found("b.jpg"), is_single=True)
        with target.opened() as space:
            assert space.path == tmp_path / place / f".{name}.dkmeans"
            (space.path / "file").touch()
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(tmp_path):
    target = Destination(tmp_path, found("b.jpg", "c.jpg"), is_single=False)
    with contextlib.suppress(KeyError), target.opened():
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such a folder")
def test_a_folder_in_which_none_can_be_made():
    output = Path("/proc/out.png")
    complaint = r"out\.png: cannot be written \(No such file"
    workspace = opened(place_of(output, is_folder=False), output)
    with pytest.raises(OutputError, match=complaint), workspace:
        pass


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kept", [False, True])
def test_the_workspace_goes_unless_there_is_work_in_it(tmp_path, error, kept):
    def work():
        with opened(tmp_path / ".a.dkmeans", tmp_path / "a.png") as space:
            (space.path / "sub").mkdir()
            (space.path / "sub" / "file").touch()
            space.is_kept, space.can_resume = lambda: kept, True
            raise error

    with pytest.raises(error) as caught:
        work()
    notes = getattr(caught.value, "__notes__", [])
    if kept:
        assert [path.name for path in (tmp_path / ".a.dkmeans").iterdir()] == [
            "dkmeans.lock",
            "sub",
        ]
        assert "resume=True goes on from there" in notes[0]
    else:
        assert list(tmp_path.iterdir()) == []
        assert not notes


def test_a_second_job_is_refused_and_told_who_holds_the_output(tmp_path):
    place, output = tmp_path / ".a.dkmeans", tmp_path / "a.png"
    with opened(place, output) as space:
        (space.path / "file").touch()
        with (
            pytest.raises(
                OutputError, match=rf"a\.png: another job.*process {os.getpid()} on .* since"
            ),
            opened(place, output),
        ):
            pass
        assert (space.path / "file").exists()
    with opened(place, output):
        pass


def test_a_job_that_cannot_sign_its_lock_gives_it_back(tmp_path, monkeypatch):
    place, output = tmp_path / ".a.dkmeans", tmp_path / "a.png"

    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(os, "truncate", full)
        with pytest.raises(OutputError, match=r"a\.png: .*disk is full"), opened(place, output):
            pass
    assert not list(tmp_path.iterdir())
    with opened(place, output):
        pass


def test_a_workspace_that_somebody_removes_hides_no_error(tmp_path):
    place, output = tmp_path / ".a.dkmeans", tmp_path / "a.png"

    def job():
        with opened(place, output) as space:
            space.is_kept, space.can_resume = (lambda: bool(space.leftovers())), True
            shutil.rmtree(place)
            raise KeyError("of the job")

    with pytest.raises(KeyError, match="of the job") as caught:
        job()
    assert not hasattr(caught.value, "__notes__"), "nothing is kept"


def test_what_cannot_be_swept_does_not_undo_a_job(tmp_path, monkeypatch, caplog):
    place, output = tmp_path / ".a.dkmeans", tmp_path / "a.png"

    def busy(*_):
        raise OSError(errno.ENOTEMPTY, "still open elsewhere")

    monkeypatch.setattr(shutil, "rmtree", busy)
    with opened(place, output) as space:
        space.make_run("run")
    assert f"{output}: done, but not all in {place} can be removed" in caplog.text
    monkeypatch.undo()
    with opened(place, output) as space:
        space.begin_anew(output)
    assert not place.exists()


def test_the_lock_goes_with_its_process(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from dkmeans.images._workspace import opened\n"
        "with opened(Path('.a.dkmeans'), Path('a.png')) as space:\n"
        "    (space.path / 'file').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert (tmp_path / ".a.dkmeans" / "file").exists()
    with opened(tmp_path / ".a.dkmeans", tmp_path / "a.png") as space:
        assert [path.name for path in space.leftovers()] == ["file"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_not_ours_is_never_removed(tmp_path, kind):
    place = tmp_path / ".a.dkmeans"
    (tmp_path / "other").mkdir()
    if kind == "folder":
        place.mkdir()
        (place / "diary.txt").write_text("dear")
    elif kind == "file":
        place.touch()
    else:
        place.symlink_to(tmp_path / "other")
    with pytest.raises(OutputError, match=r"\.a\.dkmeans"), opened(place, tmp_path / "a.png"):
        pass
    assert (place / "diary.txt").exists() == (kind == "folder")
    assert not list((tmp_path / "other").iterdir())


def test_what_was_about_to_be_replaced_is_put_back(tmp_path):
    (tmp_path / "a.png").write_text("old")
    with (
        contextlib.suppress(FileNotFoundError),
        opened(tmp_path / ".a.dkmeans", tmp_path / "a.png") as space,
    ):
        space.publish(tmp_path / "nothing", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full; free some space and run again"),
        (errno.EDQUOT, "the disk is full; free some space and run again"),
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_failures_to_write_are_one_clear_error(number, reason):
    with pytest.raises(OutputError) as caught, writing(Path("/o/a.png")):
        raise OSError(number, os.strerror(number))
    assert str(caught.value) == f"/o/a.png: cannot be written ({reason})."


def test_other_errors_pass():
    with pytest.raises(SourceError), writing(Path("a")):
        raise SourceError


def test_an_array_of_a_source_that_failed_is_not_moved_into_place(tmp_path):
    names = found("a.jpg", "b.jpg", "sub/c.jpg")
    target = Destination(tmp_path / "out.zarr", names, is_single=False)
    sources = {i: image.source for i, image in enumerate(names)}
    with target.opened() as space:
        job = begin(space, target.path, {}, names, resume=False, overwrite=False)
        outputs = target.outputs(job, sources, PALETTE, "fast")
        for output in outputs.values():
            output.write("", [(Window(0, 0, 4, 4), labels_of((4, 4)))])
        target.finish(space, job, {1: "truncated"})
    group = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
    assert sorted(group.keys()) == ["a", "sub"]
    np.testing.assert_array_equal(group["sub/c"][:], labels_of((4, 4)))
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]
