"""Sources in S3, on a real server: read where they lie, with the same results as files."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from click.testing import CliRunner
from PIL import Image
from s3_proxy import Trouble

import dkmeans
from dkmeans import _stores, _tables
from dkmeans._cli import cli
from dkmeans._tiling import Window
from dkmeans._validation import SourceError
from dkmeans.images import _raster, _sources, _store_source


def upload(folder, url):
    """Put all files of a folder below a URL."""
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file():
            _stores.write(f"{url}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def write_tiff(path, pixels, **options):
    height, width, bands = pixels.shape
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", **options}
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype="uint8", **options
    ) as file:
        file.write(np.moveaxis(pixels, -1, 0))


@pytest.fixture
def pictures(tmp_path, photos):
    """Write one picture of each kind of file that is read in another way."""
    photo = photos["china"]
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    picture = Image.fromarray(photo)
    picture.save(folder / "a.png")
    picture.save(folder / "b.jpg", quality=95)
    picture.convert("L").save(folder / "c.webp", lossless=True)
    interleaved = {"interleave": "pixel", "predictor": 2}
    write_tiff(folder / "inner" / "tiles.tif", photo, **interleaved)
    write_tiff(folder / "inner" / "lzw.tif", photo, compress="lzw")
    strip = {"tiled": False, "blockxsize": None, "blockysize": 4000, "interleave": "pixel"}
    large = np.tile(photo, (4, 2, 1))  # one strip is read in order from 4 MiB on
    write_tiff(folder / "inner" / "strip.tif", large, **strip)
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")
    chunks = {"chunks": (100, 100, 3), "shards": (200, 200, 3)}
    zarr.create_array(str(folder / "inner" / "p.zarr"), data=photo, **chunks)
    return folder


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_folder_gives_the_same_as_on_disk(pictures, s3, tmp_path):
    upload(pictures, s3)
    here, there = dkmeans.info(pictures), dkmeans.info(s3)
    names = [Path(info.path).relative_to(pictures).as_posix() for info in here]
    assert [info.path for info in there] == [f"{s3}/{name}" for name in names]
    for one, other in zip(here, there, strict=True):
        assert {**vars(one), "path": ""} == {**vars(other), "path": ""}
    local = dkmeans.quantize(pictures, tmp_path / "here", n_colors=16, seed=1)
    remote = dkmeans.quantize(f"{s3}/", tmp_path / "there", n_colors=16, seed=1)
    assert remote.palette == local.palette
    assert [r.error for r in remote.report] == [None] * len(names)
    for file in (tmp_path / "here").rglob("*.png"):
        other = tmp_path / "there" / file.relative_to(tmp_path / "here")
        assert other.read_bytes() == file.read_bytes()
    dkmeans.ingest(pictures, tmp_path / "here.zarr")
    dkmeans.ingest(s3, tmp_path / "there.zarr")
    upload(tmp_path / "there.zarr", f"{s3}/store.zarr")
    again = dkmeans.quantize(f"{s3}/store.zarr", tmp_path / "again", n_colors=16, seed=1)
    assert again.palette == local.palette


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_workers_open_urls_by_themselves(pictures, s3, tmp_path, client):
    upload(pictures / "inner", s3)
    # They are older than the server's address.
    names = ("AWS_", "DKMEANS_")
    settings = {name: value for name, value in os.environ.items() if name.startswith(names)}
    client.run(lambda: __import__("os").environ.update(settings))
    local = dkmeans.quantize(pictures / "inner", tmp_path / "here.zarr", n_colors=8)
    remote = dkmeans.quantize(s3, tmp_path / "there.zarr", n_colors=8)
    assert remote.palette == local.palette


def test_workers_are_sent_urls_only(s3, photos, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret of tests")
    zarr.create_array(store(f"{s3}/a.zarr"), data=photos["china"], chunks=(100, 640, 3))
    _stores.write(f"{s3}/a.png", b"\x89PNG")
    found = _sources.find(f"{s3}/a.zarr")
    pieces = _tables.table(f"{s3}/a.zarr").pieces
    sent = pickle.dumps([found, pieces])
    assert b"secret" not in sent.lower()
    assert b"tester" not in sent


def store(url):
    """Return what zarr writes to."""
    return zarr.storage.ObjectStore(_stores.folder(url))


def test_patterns(s3):
    names = "x1.png", "x2.png", "y.tif", "in/x3.png", "in/deep/x4.png", ".x5.png", "in/.h/x"
    for name in (*names, "of [2020]/a.png"):
        _stores.write(f"{s3}/{name}", b"no picture")

    def matching(pattern):
        return [found.path.removeprefix(f"{s3}/") for found in _sources.find(f"{s3}/{pattern}")]

    assert matching("x?.png") == ["x1.png", "x2.png"]
    assert matching("[xy]*") == ["x1.png", "x2.png", "y.tif"]
    assert matching("*/x3.png") == ["in/x3.png"]
    assert matching("**/x*.png") == ["in/deep/x4.png", "in/x3.png", "x1.png", "x2.png"]
    assert matching(".x*") == matching(".*") == [".x5.png"]
    assert matching("in/.h/*") == matching("in/.?/x") == ["in/.h/x"]
    assert matching("in/**") == ["in/deep/x4.png", "in/x3.png"]  # each once
    assert matching("i*") == ["in/x3.png", "in/deep/x4.png"]  # as a folder
    assert matching("of*") == matching("of [2020]") == ["of [2020]/a.png"]  # which is no pattern
    _stores.write(f"{s3}/j/notes.txt", b"no picture")
    assert matching("[ji]*") == ["in/x3.png", "in/deep/x4.png", "j"]
    assert _sources.find(f"{s3}/[j]*")[0].error.startswith(f"{s3}/j: no images in this folder")
    assert _sources.find(f"{s3}/z*")[0].error == f"{s3}/z*: nothing matches this pattern."
    assert not _sources.is_single(f"{s3}/x*")
    assert not _sources.is_single(s3)
    assert _sources.is_single(f"{s3}/x1.png")


def test_sources_that_cannot_be_read(s3, tmp_path):
    _stores.write(f"{s3}/empty.png", b"")
    _stores.write(f"{s3}/folder/text.txt", b"")
    _stores.write(f"{s3}/bad.zarr/zarr.json", b"{")
    cases = {
        f"{s3}/none.png": "no such object, and no folder",
        f"{s3}/empty.png": "the file is empty",
        f"{s3}/folder": "no images in this folder",
        f"{s3}/bad.zarr": "cannot be read as Zarr",
        "s3://none/a.png": "there is no bucket none",
    }
    for url, said in cases.items():
        with pytest.raises(SourceError, match=f"^{url}: .*{said}"):
            dkmeans.quantize(url, tmp_path / "out.png")
        with pytest.raises(SourceError, match=f"^{url}: .*{said}"):
            dkmeans.info(url)
    with pytest.raises(SourceError, match="cannot be read as a Zarr array"):
        dkmeans.KMeans(2).fit(f"{s3}/none.zarr")
    with pytest.raises(SourceError, match="there is no bucket none"):
        dkmeans.KMeans(2).fit("s3://none/a.zarr")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_plan_knows_sources_from_outputs(pictures, s3, s3_running):
    upload(pictures, s3)
    s3_running.make_bucket("empty")

    def planned(*places):
        urls = [place if "//" in place else f"{s3}/{place}" for place in places]
        words = ["plan", *urls, "--no-calibrate", "--json"]
        found = CliRunner().invoke(cli, words)
        assert found.exit_code == 0, found.output
        return json.loads(found.output)["n_sources"]

    assert planned("a.png", "b.jpg") == planned("a.png", "b.jpg", "out/") == 2
    assert planned("a.png", "inner/") == 5
    assert planned("a.png", "out.zarr") == 1
    assert planned("a.png", "s3://empty/") == 1


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", ["a.png", "b.jpg", "tiles.tif", "lzw.tif", "strip.tif"])
def test_a_picture_that_changes_is_refused(pictures, s3, name):
    file = next(pictures.rglob(name))
    url = f"{s3}/{name}"
    _stores.write(url, file.read_bytes())
    source = _raster.probe(url)
    assert source.fingerprint() == _raster.probe(url).fingerprint()
    _stores.write(url, file.read_bytes() + b" ")
    assert source.fingerprint() != _raster.probe(url).fingerprint()
    with pytest.raises(SourceError, match=f"^{url}: changed while it was being read"):
        list(source.read([whole(source)]))
    _stores.remove(url)
    with pytest.raises(SourceError, match=f"^{url}: "):
        list(source.read([whole(source)]))


def whole(source):
    return Window(0, 0, source.shape[0], source.shape[1])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["503", "half"])
def test_pictures_are_read_through_troubles(pictures, s3, proxy, kind):
    upload(pictures, s3)
    for found in _sources.find(pictures):
        url = f"{s3}/{Path(found.path).relative_to(pictures).as_posix()}"
        (remote,) = _sources.find(url)
        proxy.trouble = [Trouble(kind, 2, ("GET",))]
        (here,) = list(found.source.read([whole(found.source)]))
        (there,) = list(remote.source.read([whole(found.source)]))
        np.testing.assert_array_equal(here, there)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", ["a.png", "b.jpg", "tiles.tif", "lzw.tif", "strip.tif", "p.zarr"])
def test_trouble_that_stays_is_told(pictures, s3, proxy, monkeypatch, name):
    monkeypatch.setenv("DKMEANS_RETRY_SECONDS", "0.2")
    upload(pictures, s3)
    (found,) = _sources.find(f"{s3}/{'' if name[1] == '.' and name[0] in 'ab' else 'inner/'}{name}")
    proxy.trouble = [Trouble("503")]
    with pytest.raises(SourceError, match=rf"^{found.path}: cannot be .*answered 503"):
        list(found.source.read([whole(found.source)]))


def test_tables(s3, tmp_path, proxy):
    rows = np.random.default_rng(0).normal(size=(5000, 6)).astype(np.float32)
    zarr.create_array(store(f"{s3}/t.zarr"), data=rows, chunks=(700, 6))
    zarr.create_array(str(tmp_path / "t.zarr"), data=rows, chunks=(700, 6))
    local = dkmeans.KMeans(8, random_state=0).fit(str(tmp_path / "t.zarr"))
    proxy.trouble = [Trouble("503", 5, ("GET",)), Trouble("half", 5, ("GET",))]
    remote = dkmeans.KMeans(8, random_state=0).fit(f"{s3}/t.zarr")
    np.testing.assert_array_equal(remote.cluster_centers_, local.cluster_centers_)
    labels = remote.predict(f"{s3}/t.zarr").compute()
    np.testing.assert_array_equal(labels, local.predict(rows))
    assert proxy.befallen == 10


def test_a_store_has_a_fingerprint(s3, photos):
    zarr.create_array(store(f"{s3}/a.zarr"), data=photos["china"], chunks=(100, 640, 3))
    ((_, source),) = _store_source.probe(f"{s3}/a.zarr")
    before = source.fingerprint()
    assert before == source.fingerprint() != ""
    _stores.write(f"{s3}/a.zarr/zarr.json", _stores.read(f"{s3}/a.zarr/zarr.json") + b" ")
    assert source.fingerprint() != before
