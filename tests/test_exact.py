"""quantize as a whole: what k-means over every pixel gives, with the same bits everywhere."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

import dkmeans


def indices(path):
    """The labels in an indexed picture."""
    return np.asarray(Image.open(path))


def nearest(pixels, colors):
    """The index of each pixel's nearest colour, the lowest of several, by comparing all."""
    flat = pixels.reshape(-1, 1, 3).astype(np.int64)
    distances = ((flat - colors[None].astype(np.int64)) ** 2).sum(axis=2)
    return distances.argmin(axis=1).reshape(pixels.shape[:2])


@pytest.fixture(scope="module")
def photo(photos):
    """A real photograph, cropped so that brute force is quick."""
    image = np.array(photos["china"][100:340, 150:450])
    image.flags.writeable = False
    return image


@pytest.fixture(scope="module")
def layouts(photo, tmp_path_factory):
    """The same pixels, stored in many ways."""
    folder = tmp_path_factory.mktemp("layouts")
    Image.fromarray(photo).save(folder / "whole.png")
    Image.fromarray(photo).save(folder / "whole.webp", lossless=True)
    tifffile.imwrite(folder / "strips.tif", photo, rowsperstrip=7, photometric="rgb")
    deflate = {"compression": "zlib", "photometric": "rgb"}
    tifffile.imwrite(folder / "tiles-64.tif", photo, tile=(64, 64), **deflate)
    tifffile.imwrite(folder / "tiles-odd.tif", photo, tile=(16, 112), predictor=2, **deflate)
    tifffile.imwrite(folder / "lzw.tif", photo, tile=(48, 80), compression="lzw", photometric="rgb")
    for name, chunks in (("odd.zarr", (53, 71, 3)), ("split.zarr", (240, 30, 1))):
        array = zarr.create_array(str(folder / name), shape=photo.shape, chunks=chunks, dtype="u1")
        array[...] = photo
    dkmeans.ingest(folder / "whole.png", folder / "ingested.zarr")
    return folder


LAYOUTS = [
    "whole.png",
    "whole.webp",
    "strips.tif",
    "tiles-64.tif",
    "tiles-odd.tif",
    "lzw.tif",
    "odd.zarr",
    "split.zarr",
    "ingested.zarr",
]


@pytest.fixture(scope="module")
def expected(layouts, tmp_path_factory):
    """The outputs of one run, to hold the others against."""
    folder = tmp_path_factory.mktemp("expected")
    results = {}
    for name in ("out.png", "out.tif"):
        results[name] = dkmeans.quantize(layouts / "whole.png", folder / name, n_colors=20)
    return folder, results


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("output", ["out.png", "out.tif"])
def test_any_layout_gives_the_same_bytes(layouts, expected, tmp_path, name, output):
    folder, results = expected
    result = dkmeans.quantize(layouts / name, tmp_path / output, n_colors=20)
    assert result.palette == results[output].palette
    assert result.inertia == results[output].inertia
    assert (tmp_path / output).read_bytes() == (folder / output).read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / output]


@pytest.mark.parametrize("name", ["whole.png", "tiles-64.tif"])
def test_any_scheduler_gives_the_same_bytes(layouts, expected, tmp_path, name, scheduler):
    if scheduler == "processes" and name == "whole.png":
        return  # they take seconds to start
    folder, results = expected
    for output in ("out.png", "out.tif"):
        result = dkmeans.quantize(layouts / name, tmp_path / output, n_colors=20)
        assert result.inertia == results[output].inertia
        assert (tmp_path / output).read_bytes() == (folder / output).read_bytes()
        assert (result.n_passes, result.bytes_read) == (2, 2 * 240 * 300 * 3)


@pytest.mark.parametrize("scheduler", ["threads", "cluster"], indirect=True)
def test_one_file_or_many_give_the_same_palette(photo, expected, tmp_path, scheduler):
    assert scheduler
    (tmp_path / "parts").mkdir()
    for i, rows in enumerate(np.array_split(photo, 11)):
        suffix = ("png", "tif")[i % 2]
        Image.fromarray(rows).save(tmp_path / "parts" / f"{i:02}.{suffix}")
    result = dkmeans.quantize(tmp_path / "parts", tmp_path / "out", n_colors=20)
    whole = expected[1]["out.png"]
    assert result.palette == whole.palette
    assert (result.inertia, result.psnr) == (whole.inertia, whole.psnr)
    parts = [indices(file) for file in sorted((tmp_path / "out").iterdir())]
    np.testing.assert_array_equal(np.concatenate(parts), indices(expected[0] / "out.png"))


@pytest.mark.parametrize("k", [2, 16, 64, 256])
@pytest.mark.parametrize("n_iter", [1, 5])
def test_as_scikit_learn_over_every_pixel(layouts, photo, tmp_path, k, n_iter):
    pixels = photo.reshape(-1, 3).astype(np.float64)
    # No colour is as near to one of these centres as to another: whole numbers would tie.
    rng = np.random.default_rng(k)
    start = pixels[rng.choice(len(pixels), k, replace=False)] + rng.uniform(-1, 1, (k, 3))
    reference = KMeans(k, init=start, n_init=1, max_iter=n_iter, tol=0, algorithm="lloyd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        reference.fit(pixels)
    assert np.unique(reference.labels_).size == k, "an empty cluster would be another test"
    result = dkmeans.quantize(
        layouts / "tiles-64.tif",
        tmp_path / "out.png",
        n_colors=k,
        init=start,
        max_iter=n_iter,
        tol=0,
    )
    ours = result.centers[np.lexsort(result.centers.T)]
    theirs = reference.cluster_centers_[np.lexsort(reference.cluster_centers_.T)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert result.inertia == pytest.approx(reference.inertia_, rel=1e-9)
    assert result.n_iter == reference.n_iter_


@pytest.mark.parametrize(("k", "bits"), [(2, 1), (4, 2), (16, 4), (17, 8), (256, 8)])
def test_labels_palette_and_error_belong_together(layouts, photo, tmp_path, k, bits):
    result = dkmeans.quantize(layouts / "whole.png", tmp_path / "out.png", n_colors=k)
    colors = result.palette.colors
    labels = indices(tmp_path / "out.png")
    np.testing.assert_array_equal(labels, nearest(photo, colors))
    assert {*map(tuple, colors.tolist())} == {*map(tuple, np.rint(result.centers).tolist())}
    shares = np.bincount(labels.ravel(), minlength=len(colors)) / labels.size
    np.testing.assert_allclose(result.palette.shares, shares, rtol=1e-12)
    error = ((colors[labels].astype(float) - photo) ** 2).mean()
    assert result.psnr == pytest.approx(10 * math.log10(255**2 / error), rel=1e-12)
    assert (tmp_path / "out.png").read_bytes()[24] == bits


def test_zarr_labels_and_a_palette_beyond_256(layouts, photo, tmp_path):
    result = dkmeans.quantize(layouts / "odd.zarr", tmp_path / "out.zarr", n_colors=300)
    labels = zarr.open_array(str(tmp_path / "out.zarr"), mode="r")
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels[...], nearest(photo, result.palette.colors))
    assert tuple(labels.attrs["palette"]) == result.palette.hex


def test_few_colours_come_out_as_they_were(tmp_path):
    image = np.zeros((40, 30, 3), np.uint8)
    image[:20, :, 0], image[10:, 15:, 1], image[5, 5] = 200, 77, (1, 2, 3)
    Image.fromarray(image).save(tmp_path / "in.png")
    result = dkmeans.quantize(tmp_path / "in.png", tmp_path / "out.png", n_colors=16)
    assert (result.psnr, result.inertia, result.stop_reason) == (math.inf, 0, "exact")
    assert len(result.palette) == result.n_distinct == len(np.unique(image.reshape(-1, 3), axis=0))
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out.png").convert("RGB")), image
    )


@pytest.mark.parametrize("name", ["whole.png", "strips.tif", "tiles-64.tif"])
def test_a_given_palette_takes_one_read(layouts, photo, tmp_path, name):
    colors = np.array([[0, 0, 0], [255, 255, 255], [200, 60, 30], [255, 255, 255]], np.uint8)
    result = dkmeans.quantize(layouts / name, tmp_path / "out.png", palette=dkmeans.Palette(colors))
    labels = nearest(photo, colors)
    np.testing.assert_array_equal(indices(tmp_path / "out.png"), labels)
    assert (result.n_passes, result.bytes_read) == (1, photo.size)
    error = ((colors[labels].astype(float) - photo) ** 2).sum()
    assert result.inertia == error
    assert result.psnr == pytest.approx(10 * math.log10(255**2 * photo.size / error))
    np.testing.assert_array_equal(result.palette.colors, colors)
    assert result.palette.shares[3] == 0  # ties go to the lower index


@pytest.mark.parametrize("with_colour", [False, True])
def test_grey(photo, tmp_path, with_colour):
    grey = photo[..., 1]
    (tmp_path / "in").mkdir()
    Image.fromarray(grey).save(tmp_path / "in" / "grey.png")
    if with_colour:
        Image.fromarray(photo).save(tmp_path / "in" / "rgb.png")
    result = dkmeans.quantize(tmp_path / "in", tmp_path / "out", n_colors=8)
    assert result.centers.shape == (8, 3 if with_colour else 1)
    labels = indices(tmp_path / "out" / "grey.png")
    np.testing.assert_array_equal(labels, nearest(np.dstack([grey] * 3), result.palette.colors))
    if not with_colour:
        error = ((result.palette.colors[labels, 0].astype(float) - grey) ** 2).mean()
        assert result.psnr == pytest.approx(10 * math.log10(255**2 / error))


def damage(path: Path) -> None:
    """Overwrite the second half of a file, but not its length."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "cluster"], indirect=True)
def test_a_source_that_fails_halfway_leaves_no_trace(photo, tmp_path, scheduler):
    assert scheduler
    (tmp_path / "good").mkdir()
    (tmp_path / "all").mkdir()
    for folder in ("good", "all"):
        Image.fromarray(photo[:100]).save(tmp_path / folder / "a.png")
        Image.fromarray(photo[100:]).save(tmp_path / folder / "c.png")
    tifffile.imwrite(tmp_path / "all" / "b.tif", photo, tile=(32, 32), compression="zlib",
                     photometric="rgb")  # fmt: skip
    noise = np.random.default_rng(0).integers(0, 256, (3000, 900, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "all" / "d.png")
    damage(tmp_path / "all" / "b.tif")
    damage(tmp_path / "all" / "d.png")
    (tmp_path / "all" / "e.png").write_text("hello")
    (tmp_path / "all" / "f.jpg").touch()
    clean = dkmeans.quantize(tmp_path / "good", tmp_path / "out-good", n_colors=16)
    result = dkmeans.quantize(tmp_path / "all", tmp_path / "out", n_colors=16)
    failed = {Path(r.source).name: r.error for r in result.report if r.error}
    assert sorted(failed) == ["b.tif", "d.png", "e.png", "f.jpg"]
    assert all(name in error for name, error in failed.items())
    assert result.palette == clean.palette
    assert result.inertia == clean.inertia
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.png", "c.png"]
    for name in names:
        ours, theirs = tmp_path / "out" / name, tmp_path / "out-good" / name
        assert ours.read_bytes() == theirs.read_bytes()
