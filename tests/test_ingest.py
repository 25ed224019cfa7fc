"""ingest: the store holds the pixels of its sources, or is not there."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from dkmeans._tiling import Window
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError
from dkmeans.images import _ingest, _store, ingest
from dkmeans.images._sources import find


@pytest.fixture
def folder(tmp_path, photos):
    """Pictures of many sizes and kinds."""
    top = tmp_path / "photos"
    (top / "sub").mkdir(parents=True)
    china, flower = photos["china"], photos["flower"]
    Image.fromarray(china[:90, :133]).save(top / "a.png")
    Image.fromarray(flower[:50, :77, 1]).save(top / "b-grey.png")
    Image.fromarray(china[100:103, :50]).save(top / "c.jpg")
    tifffile.imwrite(top / "d.tif", flower[:150, :200], tile=(48, 64), photometric="rgb")
    Image.fromarray(flower[:1, :1]).save(top / "sub" / "e.png")
    Image.fromarray(china[:40, 300:500, 0]).save(top / "sub" / "f-grey.jpg")
    array = zarr.create_array(
        str(top / "sub" / "g.zarr"), shape=(120, 110, 3), chunks=(33, 44, 3), dtype=np.uint8
    )
    array[:] = china[200:320, :110]
    Image.fromarray(flower[:70, 400:]).save(top / "sub" / "h.webp", lossless=True)
    return top


def pixels_of(sources):
    """The pixels of every picture that can be read, by name."""
    result = {}
    for image in find(sources):
        if image.source is not None:
            [result[image.name]] = image.source.read([Window(0, 0, *image.source.shape[:2])])
    return result


def assert_same(pictures, expected):
    assert list(pictures) == list(expected)
    for name, pixels in pictures.items():
        np.testing.assert_array_equal(pixels, expected[name], err_msg=name)


@pytest.fixture(
    params=[
        (1 << 26, 1 << 24, 1 << 22, 2048),  # as they are: everything is packed
        (10_000, 5_000, 1_000, 64),  # the larger ones have arrays, the others make several runs
        (10_000, 1, 999, 50),  # a run for each picture
        (1, 1, 1, 37),  # every picture has an array
        (1 << 26, 20_000, 4_096, 64),  # runs that end in the middle of a chunk
    ],
    ids=str,
)
def sizes(request, monkeypatch):
    """Set from what size on a picture has its own array, and how the others are packed."""
    large, run, packed, chunk = request.param
    monkeypatch.setattr(_ingest, "_LARGE", large)
    monkeypatch.setattr(_ingest, "_RUN", run)
    monkeypatch.setattr(_store, "PACKED_CHUNK", packed)
    monkeypatch.setattr(_store, "CHUNK", chunk)
    return request.param


@pytest.mark.usefixtures("sizes")
def test_the_store_holds_the_pixels(folder, tmp_path):
    expected = pixels_of(folder)
    result = ingest(folder, tmp_path / "s.zarr")
    assert_same(pixels_of(tmp_path / "s.zarr"), expected)
    assert result.store == str(tmp_path / "s.zarr")
    assert result.bytes_read == sum(pixels.size for pixels in expected.values())
    for report, (name, pixels) in zip(result.report, expected.items(), strict=True):
        assert report.source == str(folder / name)
        assert report.output == str(tmp_path / "s.zarr")
        assert report.error is None
        assert (report.height, report.width, report.bytes_out) == (*pixels.shape[:2], pixels.size)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "s.zarr"]


@pytest.mark.usefixtures("sizes")
def test_what_fails_leaves_the_others_whole(folder, tmp_path):
    expected = pixels_of(folder)
    for name in ("a.png", "b-grey.png", "d.tif", "sub/h.webp"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        del expected[name]
    (folder / "0.png").touch()
    result = ingest(folder, tmp_path / "s.zarr")
    assert_same(pixels_of(tmp_path / "s.zarr"), expected)
    failed = [report for report in result.report if report.error]
    assert [os.path.relpath(report.source, folder) for report in failed] == [
        "0.png",
        "a.png",
        "b-grey.png",
        "d.tif",
        "sub/h.webp",
    ]
    for report in failed:
        assert report.source in report.error
        assert (report.output, report.bytes_out) == (None, 0)
    # An array of a picture that failed is not kept.
    listing = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())
    arrays = {image["array"] for image in listing["attributes"]["dkmeans"]["images"]}
    kept = [path for path in (tmp_path / "s.zarr" / "images").glob("*") if path.is_dir()]
    assert {f"images/{path.name}" for path in kept} <= arrays


@pytest.mark.usefixtures("scheduler")
def test_any_scheduler_makes_the_same_store(folder, tmp_path):
    expected = pixels_of(folder)
    (folder / "words.png").write_text("no picture")
    result = ingest(folder, tmp_path / "s.zarr")
    assert_same(pixels_of(tmp_path / "s.zarr"), expected)
    assert result.bytes_read == sum(pixels.size for pixels in expected.values())
    assert [report.error is None for report in result.report].count(False) == 1


def test_a_store_of_a_store(folder, tmp_path):
    ingest(folder, tmp_path / "s.zarr")
    ingest(tmp_path / "s.zarr", tmp_path / "t.zarr")
    assert_same(pixels_of(tmp_path / "t.zarr"), pixels_of(folder))


def test_names_that_are_not_text(tmp_path):
    (tmp_path / "in").mkdir()
    path = os.fsdecode(os.fsencode(tmp_path) + b"/in/\xff.jpg")
    Image.new("L", (3, 2), 9).save(path)
    ingest(tmp_path / "in", tmp_path / "s.zarr")
    assert_same(pixels_of(tmp_path / "s.zarr"), pixels_of(tmp_path / "in"))


@pytest.mark.parametrize(("free", "compressed"), [(1 << 40, False), (200_000, True)])
def test_pixels_are_compressed_where_the_disk_is_short(
    folder, tmp_path, monkeypatch, free, compressed
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    ingest(folder, tmp_path / "s.zarr")
    array = zarr.open_array(str(tmp_path / "s.zarr"), path="packed/3", mode="r")
    assert len(array.compressors) - 1 == compressed  # the last one adds checksums
    assert_same(pixels_of(tmp_path / "s.zarr"), pixels_of(folder))


# Existing stores


def test_a_store_is_replaced_only_when_asked(folder, tmp_path):
    path = tmp_path / "s.zarr"
    ingest(folder / "a.png", path)
    with pytest.raises(OutputError, match=r"s\.zarr: exists already; choose another name, or over"):
        ingest(folder / "c.jpg", path)
    assert list(pixels_of(path)) == ["a.png"]
    ingest(folder / "c.jpg", path, overwrite=True)
    assert list(pixels_of(path)) == ["c.jpg"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["photos", "s.zarr"]


def test_a_store_stays_if_its_successor_fails(folder, tmp_path):
    path = tmp_path / "s.zarr"
    ingest(folder / "a.png", path)
    content = (folder / "c.jpg").read_bytes()
    (folder / "c.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"c\.jpg"):
        ingest(folder / "c.jpg", path, overwrite=True)
    assert list(pixels_of(path)) == ["a.png"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["photos", "s.zarr"]


def test_nothing_but_a_store_is_overwritten(folder, tmp_path):
    (tmp_path / "notes.zarr").mkdir()
    (tmp_path / "file.zarr").touch()
    for name in ("notes.zarr", "file.zarr"):
        with pytest.raises(OutputError, match="is no Zarr store, and is never overwritten"):
            ingest(folder, tmp_path / name, overwrite=True)


@pytest.mark.parametrize("name", ["x.png", "x", "x.zarr.d"])
def test_a_store_is_called_zarr(folder, tmp_path, name):
    with pytest.raises(InvalidArgumentError, match=r"its name must end in \.zarr"):
        ingest(folder, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_store_that_is_a_source(folder, tmp_path):
    ingest(folder / "a.png", tmp_path / "s.zarr")
    with pytest.raises(OutputError, match="is also a source"):
        ingest(tmp_path / "s.zarr", tmp_path / "s.zarr", overwrite=True)
    array = zarr.create_array(str(tmp_path / "t.zarr"), shape=(3, 3), dtype=np.uint8)
    array[:] = 5
    with pytest.raises(OutputError, match="is also a source"):
        ingest(tmp_path / "t.*", tmp_path / "t.zarr", overwrite=True)
    with pytest.raises(OutputError, match="lies inside the source"):
        ingest(folder, folder / "sub" / "s.zarr")


# Failing as a whole


@pytest.mark.parametrize("store", ["", "a\0b", None])
def test_what_is_no_path_is_refused(folder, store):
    with pytest.raises(InvalidArgumentError, match="store is"):
        ingest(folder, store)


def test_a_missing_parent(folder, tmp_path):
    with pytest.raises(OutputError) as caught:
        ingest(folder, tmp_path / "no" / "s.zarr")
    assert str(caught.value) == f"{tmp_path / 'no'}: no such folder; create it first."
    assert not (tmp_path / "no").exists()


def test_if_no_source_can_be_read_there_is_no_store(folder, tmp_path):
    sources = [folder / name for name in ("a.png", "c.jpg")]
    for path in sources:
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(SourceError, match=r"a\.png.*\(1 other source failed too\.\)"):
        ingest(sources, tmp_path / "s.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


class Interrupt:
    """A progress display that is interrupted."""

    def begin(self, name, nbytes, n_pixels):
        assert name == "ingest"
        assert nbytes >= n_pixels

    def advance(self, nbytes):
        assert nbytes
        raise KeyboardInterrupt

    def end(self):
        pass


def test_an_interrupt_leaves_nothing(folder, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        ingest(folder, tmp_path / "s.zarr", progress=Interrupt())
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
