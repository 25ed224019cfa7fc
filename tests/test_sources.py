"""What is named as sources, expanded to pictures in a fixed order; what cannot be read is told."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from dkmeans._validation import InvalidArgumentError, SourceError
from dkmeans.images import _sources, headers, info, ingest
from dkmeans.images._destination import name_files
from dkmeans.images._sources import Found, find, is_single


@pytest.fixture
def folder(tmp_path):
    """Pictures in folders, and what only looks like pictures."""
    top = tmp_path / "photos"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / ".hidden").mkdir()
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))
    for name in ("b.png", "a.JPG", "sub/deep/c.webp", "sub/c.jpeg", "x.TIF", ".dot.png"):
        image.save(top / name)
    image.save(top / ".hidden" / "d.png")
    array = zarr.create_array(str(top / "sub" / "z.zarr"), shape=(6, 10), dtype=np.uint8)
    array[:] = 7
    (top / "notes.txt").write_text("Not a picture, and not called one.")
    (top / "words.png").write_text("Not a picture, but called one.")
    (top / "empty.jpg").touch()
    return top


IN_ORDER = [
    "a.JPG",
    "b.png",
    "empty.jpg",
    "words.png",
    "x.TIF",
    "sub/c.jpeg",
    "sub/z.zarr",
    "sub/deep/c.webp",
]


def names_of(images):
    return [image.name for image in images]


def test_a_folder_to_any_depth_in_a_fixed_order(folder):
    images = find(folder)
    assert names_of(images) == IN_ORDER
    assert [image.path for image in images] == [str(folder / name) for name in IN_ORDER]
    failed = [image for image in images if image.source is None]
    assert names_of(failed) == ["empty.jpg", "words.png"]
    for image in failed:
        assert image.error.startswith(f"{image.path}: ")
    for image in images:
        assert (image.error is None) == (image.source is not None)
        if image.source:
            assert image.source.shape[:2] == (6, 10)
    assert images[1].nbytes == (folder / "b.png").stat().st_size
    assert images[6].nbytes == 60  # of an array, the pixels


def test_sources_in_the_order_given(folder):
    paths = [folder / "x.TIF", str(folder / "sub"), folder / "a.JPG"]
    assert names_of(find(paths)) == ["x.TIF", "c.jpeg", "z.zarr", "deep/c.webp", "a.JPG"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["b.png", "words.png"]),
        ("[ab].*", ["a.JPG", "b.png"]),
        ("su?", ["c.jpeg", "z.zarr", "deep/c.webp"]),
        ("**/c.*", ["c.jpeg", "c.webp"]),
        ("*/*.zarr", ["z.zarr"]),
        ("**/*.zarr/**", ["z.zarr"]),  # not what it is made of
        ("**", IN_ORDER),  # each once, though all is in folders that match too
        ("sub/**/*", ["c.jpeg", "c.webp", "z.zarr"]),
    ],
)
def test_patterns(folder, pattern, names):
    assert names_of(find(folder / pattern)) == names


def test_a_name_with_brackets_is_a_name_first(folder):
    (folder / "b.png").rename(folder / "b[1].png")
    assert names_of(find(folder / "b[1].png")) == ["b[1].png"]
    assert is_single(folder / "b[1].png")


def test_a_store_is_the_pictures_in_it(folder, tmp_path):
    ingest(folder, tmp_path / "s.zarr")
    images = find(tmp_path / "s.zarr")
    assert names_of(images) == [name for name in IN_ORDER if name not in {"empty.jpg", "words.png"}]
    assert all(image.source.shape[:2] == (6, 10) for image in images)
    assert images[0].path == str(tmp_path / "s.zarr" / "a.JPG")
    # Within a folder it is one source of many pictures too.
    (tmp_path / "s.zarr").rename(folder / "s.zarr")
    assert len(find(folder)) == len(IN_ORDER) + 6


def test_what_a_pattern_matches_is_no_pattern(folder):
    """A link that leads nowhere may have a name like that of a pattern which matches it."""
    for name in ("*b.png", "[x]b.png"):
        (folder / name).symlink_to(folder / "gone")
    images = {image.name: image for image in find(folder / "*b.png")}
    assert sorted(images) == ["*b.png", "[x]b.png", "b.png"]
    assert [name for name, image in images.items() if image.source] == ["b.png"]
    assert "no such file" in images["[x]b.png"].error


@pytest.mark.parametrize(
    ("source", "single"),
    [
        ("b.png", True),
        ("nowhere.png", True),
        ("sub/z.zarr", True),
        ("sub", False),
        ("*.png", False),
    ],
)
def test_what_is_single(folder, source, single):
    assert is_single(folder / source) == single
    assert is_single([str(folder / source)]) == single
    assert not is_single([folder / source, folder / "x.TIF"])


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("nowhere.png", "no such file"),
        ("nowhere/", "no such file"),
        ("*.bmp", "nothing matches this pattern"),
        ("nothing", "no images in this folder (.jpg .jpeg .png .webp .tif .tiff)"),
        ("pipe.png", "not a regular file"),
        ("notes.txt", "not a JPEG, PNG, WebP or TIFF image"),
    ],
)
def test_what_cannot_be_read_is_told(folder, source, error):
    (folder / "nothing").mkdir()
    os.mkfifo(folder / "pipe.png")
    [image] = find(folder / source)
    assert image.source is None
    assert image.error.startswith(f"{folder / source}: ")
    assert error in image.error


@pytest.mark.parametrize(
    "sources", [None, 3, b"a.png", [], (), [None], [b"a.png"], ["a\0.png"], "a\0.png"]
)
def test_what_is_no_path_is_refused(sources):
    with pytest.raises(InvalidArgumentError, match=r"^(sources|a source) is (None|3|empty|b?'a)"):
        find(sources)


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(SourceError, match="File name too long"):
        find(tmp_path / ("a" * 300))


def test_links_are_followed_but_not_round_in_circles(folder):
    (folder / "link.png").symlink_to(folder / "b.png")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "dangling.png").symlink_to(folder / "gone")
    images = {image.name: image for image in find(folder)}
    assert sorted(images) == sorted([*IN_ORDER, "link.png", "dangling.png"])
    assert images["link.png"].source is not None
    assert "no such file" in images["dangling.png"].error


def test_patterns_do_not_go_round_in_circles(folder):
    for place in ("round", "sub/up", "sub/deep/up"):  # so many ways to go are never gone to an end
        (folder / place).symlink_to(folder)
    assert names_of(find(folder / "**/*.png")) == ["b.png", "words.png"]
    assert names_of(find(folder / "**/sub/**/c.*")) == ["c.jpeg", "c.webp"]


def test_links_to_folders_are_followed_once(folder, tmp_path):
    """Those that lead elsewhere are, but not those to where the pictures are found anyway."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "a" / "b").mkdir(parents=True)
    for place in (elsewhere, elsewhere / "a", elsewhere / "a" / "b"):
        Image.new("L", (6, 10)).save(place / "p.png")
    links = {
        "1": elsewhere / "a" / "b",
        "2": elsewhere / "a",
        "3": elsewhere / "a" / "b",  # which is below 2
        "deep": folder / "sub" / "deep",
        "up": tmp_path,
        "sub/out": elsewhere,  # above 2, which is gone through again
    }
    for name, place in links.items():
        (folder / name).symlink_to(place)
    (elsewhere / "back").symlink_to(folder)
    (elsewhere / "a" / "round").symlink_to(elsewhere / "a")
    found = ["1/p.png", "2/p.png", "2/b/p.png"]
    last = ["sub/out/p.png", "sub/out/a/p.png", "sub/out/a/b/p.png"]
    assert names_of(find(folder)) == [*IN_ORDER[:5], *found, *IN_ORDER[5:], *last]


def test_the_current_folder_has_a_name(folder, monkeypatch):
    monkeypatch.chdir(folder / "sub" / "z.zarr")
    assert names_of(find(".")) == ["z.zarr"]
    monkeypatch.chdir(folder / "sub")
    assert names_of(find(".")) == ["c.jpeg", "z.zarr", "deep/c.webp"]


def test_names_that_are_not_text(tmp_path):
    """A file name is bytes; those that are not UTF-8 come through."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Image.new("L", (3, 3)).save(path)
    [image] = find(tmp_path)
    assert image.source is not None
    assert image.path == path


@pytest.mark.parametrize(
    "name",
    ["zarr.json.png", "sub/zarr.json.tif", "zarr.json/a.png", "..png", "sub/...png", "a\\b.png"],
)
def test_names_that_no_array_can_have(name, folder):
    [source] = find(folder / "b.png")
    fitting = [replace(source, name=n) for n in ("my.zarr.json.png", ".a.png", "sub/a.b.png")]
    files = partial(name_files, "out.zarr", "zarr", is_single=False)
    files(fitting)
    files([Found("x", name, None, "cannot be read", 0)])
    with pytest.raises(InvalidArgumentError, match=r"b\.png: no Zarr array can have the name"):
        files([*fitting, replace(source, name=name)])


# Reports


def test_reports():
    source = find_one_source()
    images = [
        Found("/in/a.png", "a.png", source, None, 100),
        Found("/in/b.png", "b.png", None, "/in/b.png: empty.", 0),
        Found("/in/c.png", "c.png", source, None, 300),
    ]
    files = {0: Path("/out/a.png"), 2: Path("/out/c.png")}
    failures = {1: "/in/b.png: empty.", 2: "/in/c.png: truncated."}
    first, second, third = _sources.report(images, files, failures, {0: 50})
    assert (first.source, first.output, first.error) == ("/in/a.png", "/out/a.png", None)
    assert (first.height, first.width, first.bytes_in, first.bytes_out) == (6, 10, 100, 50)
    assert (second.output, second.error) == (None, "/in/b.png: empty.")
    assert (second.height, second.width, second.bytes_out) == (0, 0, 0)
    assert third == replace(
        first, source="/in/c.png", output=None, error=failures[2], bytes_in=300, bytes_out=0
    )


def find_one_source():
    from dkmeans.images._raster import RasterSource  # noqa: PLC0415 - only here

    options = {"in_order": True, "whole": False, "orientation": 1, "stored": (0, 0)}
    return RasterSource("a", "PNG", (6, 10, 1), (1, 10), **options)


def test_info(tmp_path):
    image = np.zeros((30, 40, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(16, 32), photometric="rgb")
    Image.fromarray(image[..., 0]).save(tmp_path / "b.jpg")
    zarr.create_array(str(tmp_path / "c.zarr"), shape=(30, 40), chunks=(8, 9), dtype=np.uint8)
    a, b, c = info(tmp_path)
    assert (a.path, a.format) == (str(tmp_path / "a.tif"), "GTiff")
    assert (a.height, a.width, a.bands, a.dtype) == (30, 40, 3, "uint8")
    assert (a.block, a.in_order) == ((16, 32), False)
    assert (a.bytes_stored, a.bytes_decoded) == ((tmp_path / "a.tif").stat().st_size, 3600)
    assert (b.format, b.bands, b.block, b.in_order) == ("JPEG", 1, (1, 40), True)
    assert (c.format, c.bands, c.block, c.bytes_decoded) == ("Zarr", 1, (8, 9), 1200)
    (tmp_path / "d.png").touch()
    with pytest.raises(SourceError, match=r"d\.png: the file is empty"):
        info(tmp_path)
    infos, [error] = headers(tmp_path)
    assert infos == [a, b, c]
    assert str(error).endswith("d.png: the file is empty.")
