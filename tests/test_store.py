"""Zarr: arrays read in place, the working store and its list of images, aligned writing."""

import itertools
import json
import math
import pickle
import shutil

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dkmeans._palette import Palette
from dkmeans._tiling import Window, grid
from dkmeans._validation import SourceError
from dkmeans.images import _sources, _store, _store_source, _store_state, quantize
from dkmeans.images._listing import Image
from dkmeans.images._packed import PackedWriter
from dkmeans.images._store import ArrayWriter

HEIGHT, WIDTH = 150, 201

ARRAYS = {
    "rgb": {"chunks": (64, 48, 3)},
    "planar": {"chunks": (64, 48, 1)},
    "rows": {"chunks": (7, WIDTH, 3)},
    "whole": {"chunks": (HEIGHT, WIDTH, 3)},
    "odd": {"chunks": (31, 11, 2)},
    "sharded": {"chunks": (16, 16, 3), "shards": (64, 48, 3)},
    "raw": {"chunks": (64, 48, 3), "compressors": None},
    "v2": {"chunks": (64, 48, 3), "zarr_format": 2},
    "v2-odd": {"chunks": (5, 99, 3), "zarr_format": 2},
    "grey": {"chunks": (64, 48)},
    "grey-v2": {"chunks": (64, 48), "zarr_format": 2},
    "grey-sharded": {"chunks": (8, 8), "shards": (80, 96)},
    "one-band": {"chunks": (64, 48, 1)},
}
PALETTE = Palette([[0, 0, 0], [255, 0, 10]])


@pytest.fixture(scope="session")
def photo(photos):
    """A piece of a photograph whose sides fit no chunk."""
    return photos["china"][100 : 100 + HEIGHT, 200 : 200 + WIDTH]


@pytest.fixture(scope="session")
def arrays(photo, tmp_path_factory):
    """The folder of the array of each kind."""
    folder = tmp_path_factory.mktemp("arrays")
    for name, options in ARRAYS.items():
        pixels = expected_of(name, photo)
        pixels = pixels[..., 0] if name.startswith("grey") else pixels
        array = zarr.create_array(str(folder / name), shape=pixels.shape, dtype=np.uint8, **options)
        array[:] = pixels
    return folder


def expected_of(name, photo):
    return photo[..., 1:2] if name.startswith(("grey", "one")) else photo


def probe_one(path):
    [(name, source)] = _store_source.probe(path)
    assert name == ""
    return source


# Arrays in place


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_in_place(arrays, photo, name):
    expected = expected_of(name, photo)
    source = probe_one(arrays / name)
    assert source.shape == expected.shape
    assert not source.in_order
    assert source.dtype == np.uint8
    # A shard is read whole: it is the block.
    assert source.block == (ARRAYS[name].get("shards") or ARRAYS[name]["chunks"])[:2]
    for block in (source.read_block, (50, 70)):
        windows = list(grid(HEIGHT, WIDTH, block))
        for window, pixels in zip(windows, source.read(windows), strict=True):
            assert pixels.dtype == np.uint8
            np.testing.assert_array_equal(pixels, expected[window.rows, window.columns])


rows = st.tuples(st.integers(0, HEIGHT - 1), st.integers(1, HEIGHT))
columns = st.tuples(st.integers(0, WIDTH - 1), st.integers(1, WIDTH))


@pytest.mark.parametrize("name", ["rgb", "sharded", "v2-odd", "grey"])
@settings(max_examples=20)
@given(places=st.lists(st.tuples(rows, columns), min_size=1, max_size=4))
def test_windows_anywhere(arrays, photo, name, places):
    expected = expected_of(name, photo)
    windows = [
        Window(y, x, min(height, HEIGHT - y), min(width, WIDTH - x))
        for (y, height), (x, width) in places
    ]
    for window, block in zip(windows, probe_one(arrays / name).read(windows), strict=True):
        np.testing.assert_array_equal(block, expected[window.rows, window.columns])


def test_sources_travel(arrays):
    source = probe_one(arrays / "rgb")
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000
    assert pickle.loads(pickled) == source  # noqa: S301 - just pickled
    assert source.fingerprint() == probe_one(arrays / "rgb").fingerprint()


@pytest.mark.parametrize("name", ["rgb", "v2"])
def test_a_fingerprint_tells_of_chunks(arrays, tmp_path, name):
    shutil.copytree(arrays / name, tmp_path / "a")
    before = probe_one(tmp_path / "a")
    (tmp_path / "a" / ".DS_Store").touch()
    assert probe_one(tmp_path / "a").fingerprint() == before.fingerprint()
    zarr.open_array(str(tmp_path / "a"), mode="r+")[-1] = 7
    after = probe_one(tmp_path / "a")
    assert after.stored == before.stored, "metadata have not changed"
    assert after.fingerprint() != before.fingerprint()


def test_chunks_too_large_to_hold(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.create_array(str(path), shape=(30_000, 30_000, 3), chunks=(15_000, 15_000, 3), dtype="u1")
    with pytest.raises(SourceError, match=r"held in memory \(643 MiB, allowed are 256\)"):
        _store_source.probe(path)


def test_shards_too_large_to_hold_are_read_by_chunks(tmp_path):
    shape = (30_000, 30_000, 3)
    zarr.create_array(
        str(tmp_path / "a"), shape=shape, chunks=(1000, 1000, 3), shards=shape, dtype="u1"
    )
    ((_, source),) = _store_source.probe(tmp_path / "a")
    assert source.block == (1000, 1000)


def test_chunks_that_were_never_written_are_black(tmp_path):
    zarr.create_array(str(tmp_path / "a"), shape=(5, 5), chunks=(2, 2), dtype=np.uint8)
    [block] = probe_one(tmp_path / "a").read([Window(0, 0, 5, 5)])
    assert not block.any()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((5,), np.uint8),
        ((5, 5, 2), np.uint8),
        ((5, 5, 4), np.uint8),
        ((2, 5, 5, 3), np.uint8),
        ((5, 5, 3), np.uint16),
        ((5, 5, 3), np.float32),
        ((5, 5), np.bool_),
    ],
)
def test_other_arrays_are_not_yet_supported(tmp_path, shape, dtype):
    zarr.create_array(str(tmp_path / "a"), shape=shape, chunks=shape, dtype=dtype)
    with pytest.raises(SourceError) as caught:
        _store_source.probe(tmp_path / "a")
    assert str(caught.value).startswith(f"{tmp_path / 'a'}: not yet supported: ")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0, 3), (0, 0, 1)])
def test_no_pixels(tmp_path, shape):
    zarr.create_array(str(tmp_path / "a"), shape=shape, chunks=(1,) * len(shape), dtype=np.uint8)
    with pytest.raises(SourceError, match="has no pixels"):
        _store_source.probe(tmp_path / "a")


def test_a_group_of_others(tmp_path):
    zarr.create_group(str(tmp_path / "g"))
    with pytest.raises(SourceError, match="a Zarr group without a list of images"):
        _store_source.probe(tmp_path / "g")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"{}", b"\xff", b'{"zarr_format": 9}'])
@pytest.mark.parametrize("marker", ["zarr.json", ".zarray", ".zgroup"])
def test_damaged_metadata(tmp_path, marker, content):
    folder = tmp_path / "a.zarr"
    folder.mkdir()
    (folder / marker).write_bytes(content)
    assert _store_source.is_zarr(folder)
    with pytest.raises(SourceError) as caught:
        _store_source.probe(folder)
    assert str(caught.value).startswith(f"{folder}: ")


@pytest.mark.parametrize("name", ["rgb", "raw", "sharded", "v2"])
def test_damaged_chunks(arrays, tmp_path, name):
    shutil.copytree(arrays / name, tmp_path / "a")
    source = probe_one(tmp_path / "a")
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file() and not _store_source.is_zarr(file.parent):
            file.write_bytes(file.read_bytes()[:40])
    for file in (tmp_path / "a").glob("*.*.*"):  # v2 keeps chunks beside the metadata
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(SourceError) as caught:
        list(source.read([Window(0, 0, HEIGHT, WIDTH)]))
    chunk = "0.0.0" if name == "v2" else "c/0/0/0"
    assert str(caught.value).startswith(f"{tmp_path / 'a'}: chunk {chunk} is damaged")
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(SourceError, match="changed while it was being read"):
        list(source.read([Window(0, 0, 1, 1)]))


# Writing


@pytest.fixture(scope="session")
def writer(tmp_path_factory):
    """A writer to an array of 3 x 4 chunks, the last ones cut off."""
    path = tmp_path_factory.mktemp("writer") / "store"
    _store.create(path, {"a": ((25, 38), (10, 10))}, compress=False)
    return ArrayWriter(path, "a")


@given(st.tuples(st.integers(0, 24), st.integers(0, 37)), st.tuples(*[st.integers(1, 40)] * 2))
def test_only_whole_chunks_are_written(writer, start, size):
    stop = tuple(min(s + n, full) for s, n, full in zip(start, size, (25, 38), strict=True))
    block = np.full([e - s for s, e in zip(start, stop, strict=True)], 9, np.uint8)
    begins = all(s % 10 == 0 for s in start)
    ends = all(e % 10 == 0 or e == full for e, full in zip(stop, (25, 38), strict=True))
    if begins and ends:
        writer.write(start, block)
    else:
        with pytest.raises(ValueError, match="cuts chunks"):
            writer.write(start, block)


def test_a_block_of_another_rank_is_refused(writer):
    with pytest.raises(ValueError, match="zip"):
        writer.write((0, 0), np.zeros((10, 10, 3), np.uint8))


@pytest.mark.parametrize("compress", [True, False])
def test_what_is_written_is_read(tmp_path, photo, compress):
    path = tmp_path / "store"
    _store.create(path, {"images/0": (photo.shape, (64, 64, 3))}, compress=compress)
    writer = ArrayWriter(path, "images/0")
    assert (writer.shape, writer.chunks) == (photo.shape, (64, 64, 3))
    for window in grid(HEIGHT, WIDTH, (64, 128)):
        writer.write((window.y, window.x, 0), photo[window.rows, window.columns])
    np.testing.assert_array_equal(zarr.open_array(str(path), path="images/0", mode="r")[:], photo)


def test_black_chunks_are_written_too(tmp_path):
    """A chunk that is not there is one that was lost."""
    _store.create(tmp_path / "s", {"a": ((20, 20), (10, 10))}, compress=True)
    ArrayWriter(tmp_path / "s", "a").write((0, 0), np.zeros((20, 20), np.uint8))
    assert len([file for file in (tmp_path / "s" / "a" / "c").rglob("*") if file.is_file()]) == 4


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunk=st.integers(1, 12),
    first=st.integers(0, 2),
    items=st.lists(st.tuples(st.integers(0, 15), st.booleans()), max_size=8),
)
def test_packed_rows_land_where_they_should(tmp_path, chunk, first, items):
    """Rows are appended, or left out, in pieces of any length."""
    start = first * chunk
    total = start + sum(n for n, _ in items)
    path = tmp_path / "s"
    shutil.rmtree(path, ignore_errors=True)
    _store.create(path, {"a": ((max(1, total), 3), (chunk, 3))}, compress=False)
    packed = PackedWriter(ArrayWriter(path, "a"), start)
    rows = np.random.default_rng(0).integers(1, 256, (max(1, total), 3), np.uint8)
    expected = np.zeros_like(rows)
    position = start
    for n, is_there in items:
        if is_there:
            packed.append(rows[position : position + n])
            expected[position : position + n] = rows[position : position + n]
        else:
            packed.skip_to(position + n)
        position += n
    packed.close()
    np.testing.assert_array_equal(zarr.open_array(str(path), path="a", mode="r")[:], expected)


@pytest.mark.parametrize(("n_colors", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
@pytest.mark.parametrize("name", ["", "a", "a/b"])
def test_labels_hold_their_palette(tmp_path, n_colors, dtype, name):
    colors = np.array(list(itertools.product(range(17), range(16), [5])), np.uint8)[:n_colors]
    _store.create_labels(tmp_path / "l", name, (5000, 30), Palette(colors))
    array = zarr.open_array(str(tmp_path / "l"), path=name, mode="r")
    assert array.shape == (5000, 30)
    assert array.chunks == (2048, 30)
    assert array.dtype == dtype
    assert array.metadata.dimension_names == ("y", "x")
    assert array.attrs["palette"] == [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colors]


# The list of images


@pytest.fixture(scope="session")
def store(photo, tmp_path_factory):
    """A working store of one large image and two packed ones."""
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    shapes = {
        "images/0": (photo.shape, (64, 64, 3)),
        "packed/1": ((1000, 1), (400, 1)),
    }
    _store.create(path, shapes, compress=False)
    ArrayWriter(path, "images/0").write((0, 0, 0), photo)
    pixels = np.arange(1000, dtype=np.uint16).astype(np.uint8)[:, None]
    ArrayWriter(path, "packed/1").write((0, 0), pixels)
    _store.complete(
        path,
        [
            Image("a.png", "images/0", photo.shape, None, "/photos/a.png"),
            Image("b.png", "packed/1", (20, 30, 1), 0, "/photos/b.png"),
            Image("sub/c.png", "packed/1", (10, 13, 1), 600, "/photos/sub/c.png"),
        ],
    )
    return path


def test_an_array_is_listed_once_for_all_its_images(store, monkeypatch):
    listed = []
    states = _store_state.states
    monkeypatch.setattr(_store_state, "states", lambda f: listed.append(f) or states(f))
    for _, source in _store_source.probe(store):
        source.fingerprint()
    assert listed == [f"{store}/images/0", f"{store}/packed/1"]


@pytest.mark.parametrize(
    ("chunk", "failing"),
    [
        ("images/0/c/2/3/0", "a.png"),  # at the lower right
        ("images/0/c/0/0/0", "a.png"),
        ("packed/1/c/0/0", "b.png"),
        ("packed/1/c/1/0", "b.png sub/c.png"),
        ("packed/1/c/2/0", ""),  # of no picture
    ],
)
def test_a_chunk_that_is_missing_is_told(store, tmp_path, chunk, failing):
    """It is not read as black pixels: an ingest writes all chunks."""
    shutil.copytree(store, tmp_path / "s.zarr")
    (tmp_path / "s.zarr" / chunk).unlink()
    for name, source in _store_source.probe(tmp_path / "s.zarr"):
        windows = list(grid(*source.shape[:2], source.read_block))
        if name in failing.split():
            array, _, key = chunk.partition("/c/")
            message = f"{tmp_path}/s.zarr/{array}: chunk c/{key} is missing"
            with pytest.raises(SourceError, match=message):
                list(source.read(windows))
        else:
            assert sum(block.size for block in source.read(windows)) == math.prod(source.shape)


def test_chunks_that_are_black_are_not_missing(tmp_path):
    _store.create(tmp_path / "s.zarr", {"images/0": ((90, 70, 3), (64, 64, 3))}, compress=True)
    pixels = np.zeros((90, 70, 3), np.uint8)
    pixels[80, 68, 2] = 9
    ArrayWriter(tmp_path / "s.zarr", "images/0").write((0, 0, 0), pixels)
    _store.complete(tmp_path / "s.zarr", [Image("a.png", "images/0", (90, 70, 3), None, "a.png")])
    [(_, source)] = _store_source.probe(tmp_path / "s.zarr")
    [block] = source.read([Window(3, 0, 87, 70)])
    np.testing.assert_array_equal(block, pixels[3:])


def test_labels_are_no_pictures(photo, tmp_path):
    """Nor is an indexed PNG or TIFF: their numbers are no colours."""
    zarr.create_array(str(tmp_path / "in/a.zarr"), data=photo)
    quantize(tmp_path / "in/a.zarr", tmp_path / "in/labels.zarr", n_colors=5)
    with pytest.raises(SourceError, match=r"labels\.zarr: not yet supported: labels with"):
        _store_source.probe(tmp_path / "in/labels.zarr")
    report = quantize(tmp_path / "in", tmp_path / "out", n_colors=5).report
    assert [entry.error is None for entry in report] == [True, False]


def test_images_of_a_store(store, photo):
    images = dict(_store_source.probe(store))
    assert list(images) == ["a.png", "b.png", "sub/c.png"]
    packed = np.arange(1000, dtype=np.uint16).astype(np.uint8)
    expected = {
        "a.png": photo,
        "b.png": packed[:600].reshape(20, 30, 1),
        "sub/c.png": packed[600:730].reshape(10, 13, 1),
    }
    for name, source in images.items():
        height, width, _ = source.shape
        for block in (source.read_block, (7, width), (30, 45)):
            windows = list(grid(height, width, block))
            for window, pixels in zip(windows, source.read(windows), strict=True):
                np.testing.assert_array_equal(pixels, expected[name][window.rows, window.columns])


def test_a_store_without_its_list_is_not_complete(store, tmp_path):
    damage(store, tmp_path / "s.zarr", None)
    with pytest.raises(SourceError, match="ingest again if an ingest was interrupted"):
        _store_source.probe(tmp_path / "s.zarr")


def test_a_store_of_another_version(store, tmp_path):
    listing = listing_of(store)
    for change in ({"version": 2}, {"format": "other"}, {"version": "1"}):
        damage(store, tmp_path / "s.zarr", listing | change)
        with pytest.raises(SourceError, match="written by another version of dkmeans"):
            _store_source.probe(tmp_path / "s.zarr")


def listing_of(store):
    return json.loads((store / "zarr.json").read_text())["attributes"]["dkmeans"]


def damage(store, path, listing):
    """Make a store that shares the arrays of another one, with this list of images."""
    if not path.exists():
        path.mkdir()
        for folder in ("images", "packed"):
            (path / folder).symlink_to(store / folder)
    metadata = json.loads((store / "zarr.json").read_text())
    metadata["attributes"] = {"dkmeans": listing} if listing is not None else {}
    (path / "zarr.json").write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    "change",
    [
        {"array": "images/9"},
        {"array": "images"},
        {"array": ""},
        {"array": "../../secret"},
        {"array": "/etc"},
        {"array": None},
        {"shape": [151, 201, 3]},
        {"shape": [150, 201]},
        {"shape": [150, 201, 3, 1]},
        {"shape": [0, 201, 3]},
        {"shape": [-150, -201, 3]},
        {"shape": "abc"},
        {"shape": [float("inf"), 201, 3]},
        {"offset": 0},
        {"offset": "x"},
        {"array": "packed/1", "offset": 0},
        {"array": "packed/1", "shape": [10, 10, 1], "offset": 901},
        {"array": "packed/1", "shape": [10, 10, 1], "offset": -1},
        {"array": "packed/1", "shape": [10**10, 10**10, 1], "offset": 0},
    ],
)
def test_an_entry_that_fits_no_array(store, tmp_path, change):
    listing = listing_of(store)
    listing["images"][0] |= change
    damage(store, tmp_path / "s.zarr", listing)
    with pytest.raises(SourceError) as caught:
        _store_source.probe(tmp_path / "s.zarr")
    assert str(caught.value).startswith(f"{tmp_path / 's.zarr'}: its list of images is damaged")


def test_an_array_whose_name_no_file_can_have(store, tmp_path):
    listing = listing_of(store)
    listing["images"][0]["array"] = "a" * 300
    damage(store, tmp_path / "s.zarr", listing)
    with pytest.raises(SourceError, match=r"s\.zarr: cannot be read as Zarr \(.*too long"):
        _store_source.probe(tmp_path / "s.zarr")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from(["name", "array", "shape", "offset", "source"])
places = st.one_of(
    st.just(()),
    st.tuples(st.sampled_from(["format", "version", "images"])),
    st.tuples(st.just("images"), st.integers(0, 2)),
    st.tuples(st.just("images"), st.integers(0, 2), keys),
    st.tuples(st.just("images"), st.integers(0, 2), st.just("shape"), st.integers(0, 2)),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=places, value=json_values)
def test_a_damaged_list_is_one_clear_error_or_none(store, tmp_path, place, value):
    listing = listing_of(store)
    if place:
        *way, last = place
        part = listing
        for step in way:
            part = part[step]
        part[last] = value
    damage(store, tmp_path / "s.zarr", listing if place else value)
    for found in _sources.find(tmp_path / "s.zarr"):
        if found.source is None:
            assert str(tmp_path / "s.zarr") in found.error or found.name in found.error
        else:
            height, width, bands = found.source.shape
            [block] = found.source.read([Window(0, 0, height, width)])
            assert block.shape == (height, width, bands)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..", ".", "a\0b", "\ud800", "a/.."])
def test_a_name_that_leads_out_is_refused(store, tmp_path, name):
    listing = listing_of(store)
    listing["images"][1]["name"] = name
    damage(store, tmp_path / "s.zarr", listing)
    first, second, third = _sources.find(tmp_path / "s.zarr")
    assert second.source is None
    assert "no file inside an output folder" in second.error
    assert first.source is not None
    assert third.source is not None


def test_a_number_that_its_type_cannot_hold_is_told(tmp_path):
    _store.create(tmp_path / "s.zarr", {"0": ((4, 4, 3), (4, 4, 3))}, compress=False)
    document = tmp_path / "s.zarr/0/zarr.json"
    members = json.loads(document.read_text())
    document.write_text(json.dumps({**members, "fill_value": 256}))
    with pytest.raises(SourceError, match=r"cannot be read as Zarr .*256"):
        _store_source.probe(tmp_path / "s.zarr/0")
