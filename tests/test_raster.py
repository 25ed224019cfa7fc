"""Image files: each kind against the pixels that were written, or against Pillow's decoder."""

import io
import math
import os
import pickle
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import rasterio
import rasterio.windows
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, JpegImagePlugin

from dkmeans import _stores
from dkmeans._tiling import Window, grid
from dkmeans._validation import SourceError
from dkmeans.images import _gdal, _jpeg, _raster, _tiles
from dkmeans.images._raster import RasterSource
from dkmeans.images._tiles import TiledTiff

TILE = (64, 48)


def pillow(**options):
    """Write with Pillow."""
    return lambda path, image: Image.fromarray(image).save(path, **options)


def tiff(**options):
    """Write with tifffile."""

    def write(path, image):
        photometric = "rgb" if image.ndim == 3 else "minisblack"
        tifffile.imwrite(path, image, **{"photometric": photometric} | options)

    return write


def planar(**options):
    """Write with tifffile, one band after the other."""

    def write(path, image):
        bands = np.moveaxis(image, -1, 0)
        tifffile.imwrite(path, bands, photometric="rgb", planarconfig="separate", **options)

    return write


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path, size, kind, rows):
    """Write a PNG of ready-made rows, given its width and height, bit depth and colour type."""
    (width, height), (depth, colour, interlace) = size, kind
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = (b"IHDR", header), (b"IDAT", data), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))


# The seven passes of Adam7 (ISO/IEC 15948, section 8.2): first column and row, and their steps.
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def interlaced_png(path, image):
    """Write what neither Pillow nor GDAL writes."""
    rows = [
        row.tobytes() for x, y, right, down in ADAM7 for row in image[y::down, x::right] if row.size
    ]
    height, width = image.shape[:2]
    png(path, (width, height), (8, 2 if image.ndim == 3 else 0, 1), rows)


def grey(write):
    """Write only one band."""
    return lambda path, image: write(path, np.ascontiguousarray(image[..., 1]))


def turned(orientation):
    """Return EXIF data that say so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


LOSSLESS = {
    "rgb.png": pillow(),
    "grey.png": grey(pillow()),
    "interlaced.png": interlaced_png,
    "interlaced-grey.png": grey(interlaced_png),
    "rgb.webp": pillow(lossless=True),
    "raw-strips.tif": tiff(rowsperstrip=16),
    "raw-one-strip.tif": tiff(rowsperstrip=150),
    "raw-tiles.tif": tiff(tile=TILE),
    "raw-grey.tif": grey(tiff()),
    "deflate-strips.tif": tiff(compression="zlib", rowsperstrip=7),
    "deflate-one-strip.tif": tiff(compression="zlib", rowsperstrip=150),
    "deflate-tiles.tif": tiff(compression="zlib", tile=TILE),
    "deflate-tiles-predictor.tif": tiff(compression="zlib", tile=TILE, predictor=2),
    "deflate-tiles-grey.tif": grey(tiff(compression="zlib", tile=TILE, predictor=2)),
    "deflate-one-tile.tif": tiff(compression="zlib", tile=(256, 256)),
    "lzw-strips.tif": tiff(compression="lzw", rowsperstrip=5),
    "lzw-tiles-predictor.tif": tiff(compression="lzw", tile=TILE, predictor=2),
    "zstd-tiles.tif": tiff(compression="zstd", tile=TILE),
    "packbits.tif": tiff(compression="packbits", rowsperstrip=8),
    "big.tif": tiff(bigtiff=True, rowsperstrip=16),
    "big-deflate-tiles.tif": tiff(bigtiff=True, compression="zlib", tile=TILE),
    "big-endian.tif": tiff(byteorder=">", rowsperstrip=16),
    "big-endian-deflate-tiles.tif": tiff(byteorder=">", compression="zlib", tile=TILE),
    "big-big-endian.tif": tiff(byteorder=">", bigtiff=True, tile=TILE),
    "planar.tif": planar(),
    "planar-deflate-tiles.tif": planar(compression="zlib", tile=TILE, predictor=2),
    "planar-lzw-strips.tif": planar(compression="lzw", rowsperstrip=9),
}
DECODED = {  # not as written: Pillow tells how they are seen
    "turned.png": pillow(exif=turned(6)),
    "rgb.jpg": pillow(),
    "progressive.jpg": pillow(progressive=True),
    "full-colour.jpg": pillow(subsampling=0),
    "grey.jpg": grey(pillow()),
    "grey-progressive.jpg": grey(pillow(progressive=True)),
    "lossy.webp": pillow(quality=50),
}
REGIONS = [name for name in LOSSLESS if name.endswith(".tif")]
IN_ORDER = [name for name in (*LOSSLESS, *DECODED) if name not in REGIONS]


@pytest.fixture(scope="session")
def photo(photos):
    """A piece of a photograph whose sides fit no tile."""
    piece = photos["china"][100:250, 200:401].copy()
    piece.flags.writeable = False
    return piece


class Files(dict):
    """A dict that failing tests need not print in full."""

    def __repr__(self):
        return f"<{len(self)} files>"


@pytest.fixture(scope="session")
def files(photo, tmp_path_factory):
    """A file of each kind, and its pixels, (height, width, bands)."""
    folder = tmp_path_factory.mktemp("rasters")
    result = Files()
    for name, write in (LOSSLESS | DECODED).items():
        path = folder / name
        write(path, photo)
        if name in LOSSLESS:
            pixels = photo[..., 1:2] if "grey" in name else photo
        else:
            pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)))
            pixels = pixels.reshape(*pixels.shape[:2], -1)
        result[name] = (path, pixels)
    return result


def read_whole(source):
    [block] = source.read([Window(0, 0, *source.shape[:2])])
    return block


def rasterio_pixels(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return np.moveaxis(dataset.read(), 0, -1)


# Pixels


@pytest.mark.parametrize("name", [*LOSSLESS, *DECODED])
def test_whole_pictures(files, name):
    path, expected = files[name]
    source = _raster.probe(path)
    assert source.shape == expected.shape
    assert source.dtype == np.uint8
    assert source.in_order == (name in IN_ORDER)
    block = read_whole(source)
    assert block.dtype == np.uint8
    np.testing.assert_array_equal(block, expected)


@pytest.mark.parametrize("name", [*LOSSLESS, *DECODED])
def test_bands_of_rows_in_order(files, name):
    path, expected = files[name]
    source = _raster.probe(path)
    windows = list(grid(*source.shape[:2], (19, source.shape[1])))
    blocks = list(source.read(windows))
    np.testing.assert_array_equal(np.concatenate(blocks), expected)


rows = st.tuples(st.integers(0, 149), st.integers(1, 150))
columns = st.tuples(st.integers(0, 200), st.integers(1, 201))


@pytest.mark.parametrize("name", REGIONS)
@settings(max_examples=20)
@given(places=st.lists(st.tuples(rows, columns), min_size=1, max_size=4))
def test_windows_anywhere(files, name, places):
    path, expected = files[name]
    source = _raster.probe(path)
    windows = [Window(y, x, min(h, 150 - y), min(w, 201 - x)) for (y, h), (x, w) in places]
    for window, block in zip(windows, source.read(windows), strict=True):
        np.testing.assert_array_equal(block, expected[window.rows, window.columns])


@pytest.mark.parametrize("name", REGIONS)
def test_tiff_is_as_rasterio_and_tifffile_see_it(files, name):
    path, expected = files[name]
    np.testing.assert_array_equal(rasterio_pixels(path), expected)
    seen = tifffile.imread(path)
    seen = np.moveaxis(seen, 0, -1) if name.startswith("planar") else seen
    np.testing.assert_array_equal(seen.reshape(expected.shape), expected)


@pytest.mark.parametrize("layout", [{"tile": TILE}, {"rowsperstrip": 150}], ids=["tiles", "strip"])
def test_bits_of_bytes_from_the_lowest_on(photo, tmp_path, monkeypatch, layout):
    monkeypatch.setattr(_raster, "_BAND", 1000)
    path = tmp_path / "a.tif"
    tiff(compression="zlib", extratags=[(263, "H", 1, 2, True)], **layout)(path, photo)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        place = page.tags[263].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, place, 266)  # FillOrder, which tifffile does not write
    turned_round = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    for start, size in parts:
        data[start : start + size] = data[start : start + size].translate(turned_round)
    path.write_bytes(data)
    np.testing.assert_array_equal(rasterio_pixels(path), photo)
    np.testing.assert_array_equal(read_whole(_raster.probe(path)), photo)


def test_which_tiff_goes_past_gdal(files):
    fast = {name for name in REGIONS if isinstance(_raster.probe(files[name][0]), TiledTiff)}
    assert fast == {
        name for name in REGIONS if "deflate-" in name and "tile" in name and "planar" not in name
    }


@pytest.mark.parametrize("name", REGIONS)
def test_reading_windows_are_whole_blocks(files, name):
    source = _raster.probe(files[name][0])
    for extent, block, full in zip(source.read_block, source.block, source.shape, strict=False):
        assert extent % block == 0 or extent >= full


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "deflate-strips.tif", "deflate-tiles.tif"])
def test_the_widest_and_the_narrowest(tmp_path, name):
    rng = np.random.default_rng(0)
    for shape in ((1, 1, 3), (1, 1000, 3), (1000, 1, 3)):
        image = rng.integers(0, 256, shape, np.uint8)
        path = tmp_path / name
        (LOSSLESS | DECODED)[name](path, image)
        expected = np.asarray(Image.open(path)) if name == "rgb.jpg" else image
        np.testing.assert_array_equal(read_whole(_raster.probe(path)), expected)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_sparse_tiles_are_black(tmp_path):
    path = tmp_path / "sparse.tif"
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    shape = {"height": 128, "width": 192, "count": 3, "dtype": "uint8", "photometric": "rgb"}
    corner = np.full((3, 64, 64), 7, np.uint8)
    with rasterio.open(path, "w", driver="GTiff", sparse_ok=True, **shape, **options) as dataset:
        dataset.write(corner, window=rasterio.windows.Window(64, 64, 64, 64))
    source = _raster.probe(path)
    assert isinstance(source, TiledTiff)
    expected = np.zeros((128, 192, 3), np.uint8)
    expected[64:, 64:128] = 7
    np.testing.assert_array_equal(read_whole(source), expected)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_orientation(tmp_path, photo, name, orientation):
    path = tmp_path / name
    options = {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(photo).save(path, exif=turned(orientation), **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    source = _raster.probe(path)
    assert source.shape == expected.shape
    blocks = source.read(list(grid(*source.shape[:2], (40, source.shape[1]))))
    np.testing.assert_array_equal(np.concatenate(list(blocks)), expected)


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_orientation_that_means_nothing_is_none(tmp_path, photo, orientation):
    Image.fromarray(photo).save(tmp_path / "a.png", exif=turned(orientation))
    np.testing.assert_array_equal(read_whole(_raster.probe(tmp_path / "a.png")), photo)


def directory(kind, count, value):
    """Return EXIF data with nothing but an orientation, of any type of TIFF."""
    return b"II*\0" + struct.pack("<LHHHL4sL", 8, 1, 0x0112, kind, count, value, 0)


@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(directory(3, 0, b""), id="no-value"),
        pytest.param(directory(2, 2, b"6"), id="text"),
        pytest.param(directory(7, 1, b"\6"), id="bytes"),
        pytest.param(directory(11, 1, struct.pack("<f", math.inf)), id="infinite"),
        pytest.param(directory(5, 1, b"\x12") + bytes(16), id="ratio-of-nothing"),
        pytest.param(b"no TIFF at all", id="no-tiff"),
        pytest.param(b"II*\0", id="cut"),
    ],
)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_an_orientation_that_is_damaged_is_none(tmp_path, photo, name, exif):
    options = {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(photo).save(tmp_path / name, exif=b"Exif\0\0" + exif, **options)
    expected = np.asarray(Image.open(tmp_path / name))
    np.testing.assert_array_equal(read_whole(_raster.probe(tmp_path / name)), expected)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_nobody_is_warned_of_damaged_exif(tmp_path, photo, name):
    text = struct.pack("<LHHHLLHHLL", 8, 2, 0x010F, 2, 400, 5000, 0x0112, 3, 1, 6)  # beyond the end
    Image.fromarray(photo).save(tmp_path / name, exif=b"Exif\0\0II*\0" + text)
    source = _raster.probe(tmp_path / name)  # where warnings are errors
    assert source.orientation == 6
    read_whole(source)


def test_nobody_is_warned_of_damaged_exif_in_a_jpeg_that_was_cut_off(photo):
    file = io.BytesIO()
    text = struct.pack("<4sLHHHLL", b"II*\0", 8, 1, 0x010F, 2, 400, 5000)
    Image.fromarray(photo).save(file, "JPEG", exif=b"Exif\0\0" + text)
    with pytest.raises(OSError, match="truncated"):
        _jpeg.decode(file.getvalue()[:-200])


# Memory


def test_a_large_jpeg_is_read_in_bands_by_gdal(files, monkeypatch):
    monkeypatch.setattr(_raster, "MAX_RESIDENT", 100_000)
    for name in ("rgb.jpg", "full-colour.jpg", "grey.jpg"):
        path, expected = files[name]
        source = _raster.probe(path)
        assert not source.whole
        blocks = list(source.read(list(grid(*source.shape[:2], (13, source.shape[1])))))
        pixels = np.concatenate(blocks)
        np.testing.assert_array_equal(pixels, rasterio_pixels(path))
        if name == "rgb.jpg":  # colours at half the resolution: GDAL interpolates otherwise
            assert np.abs(pixels.astype(int) - expected).mean() < 2
        else:
            np.testing.assert_array_equal(pixels, expected)


def test_a_long_strip_is_read_in_order(files, monkeypatch):
    monkeypatch.setattr(_raster, "_BAND", 1000)
    path, expected = files["deflate-one-strip.tif"]
    source = _raster.probe(path)
    assert source.in_order
    assert source.block == (1, 201)
    blocks = list(source.read(list(grid(150, 201, (11, 201)))))
    np.testing.assert_array_equal(np.concatenate(blocks), expected)
    assert not _raster.probe(files["raw-one-strip.tif"][0]).in_order


@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("damage", ["in the middle", "in the checksum", "cut off"])
@pytest.mark.parametrize("bands", [1, 3])
def test_damage_in_a_long_strip(tmp_path, monkeypatch, damage, predictor, bands):
    monkeypatch.setattr(_raster, "_BAND", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (301, 77, bands), np.uint8)
    image = noise if bands > 1 else noise[..., 0]
    kind = "rgb" if bands > 1 else "minisblack"
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, image, rowsperstrip=301, compression="zlib", predictor=predictor, photometric=kind
    )
    windows = list(grid(301, 77, (50, 77)))
    source = _raster.probe(path)
    np.testing.assert_array_equal(np.concatenate(list(source.read(windows))), noise)
    np.testing.assert_array_equal(next(source.read(windows[3:])), noise[150:200])
    with tifffile.TiffFile(path) as tiff_file:
        [start], [size] = tiff_file.pages[0].dataoffsets, tiff_file.pages[0].databytecounts
    data = bytearray(path.read_bytes())
    if damage == "cut off":
        del data[start + size // 2 :]
    else:
        place = start + (size // 2 if damage == "in the middle" else size - 2)
        data[place] ^= 255
    path.write_bytes(data)
    try:
        broken = _raster.probe(path)
    except SourceError:
        assert damage == "cut off"
        return
    with pytest.raises(SourceError, match=r"a\.tif: cannot be decoded, truncated or damaged"):
        list(broken.read(windows))


def test_a_strip_that_gdal_splits_is_read_in_order_too(tmp_path, monkeypatch):
    monkeypatch.setattr(_raster, "_BAND", 1000)
    image = np.random.default_rng(0).integers(0, 4, (2500, 9, 3), np.uint8)
    tiff(compression="zlib", rowsperstrip=2500)(tmp_path / "a.tif", image)
    source = _raster.probe(tmp_path / "a.tif")
    assert source.in_order
    np.testing.assert_array_equal(read_whole(source), image)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("progressive.jpg", "progressive"),
        ("interlaced.png", "interlaced"),
        ("rgb.webp", "WebP"),
        ("turned.png", "EXIF orientation"),
        ("deflate-one-strip.tif", "strips or tiles of 201 x 150 pixels"),
        ("deflate-one-tile.tif", "strips or tiles of 256 x 256 pixels"),
    ],
)
def test_what_must_be_held_whole_is_refused_beyond_the_budget(files, monkeypatch, name, reason):
    path = files[name][0]
    monkeypatch.setattr(_raster, "_BAND", 1000)
    source = _raster.probe(path)
    monkeypatch.setattr(_raster, "MAX_RESIDENT", 50_000)
    with pytest.raises(SourceError) as caught:
        _raster.probe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert "convert it to a" in message
    assert source.shape[2] == 3  # within the budget it is read


@pytest.mark.parametrize("name", ["rgb.png", "deflate-strips.tif", "raw-tiles.tif"])
def test_a_read_opens_the_file_once(files, monkeypatch, name):
    source = _raster.probe(files[name][0])
    opened = []
    actual = rasterio.open
    monkeypatch.setattr(rasterio, "open", lambda *a, **k: opened.append(a) or actual(*a, **k))
    windows = list(grid(*source.shape[:2], (16, source.shape[1])))
    assert len(list(source.read(windows))) == len(windows) > 1
    assert len(opened) == 1


def test_sources_travel(files):
    for name in ("rgb.jpg", "rgb.png", "raw-tiles.tif", "deflate-tiles.tif"):
        source = _raster.probe(files[name][0])
        pickled = pickle.dumps(source)
        assert len(pickled) < 1000
        again = pickle.loads(pickled)  # noqa: S301 - just pickled
        assert again == source
        assert again.fingerprint() == source.fingerprint()


# Not yet supported


def sixteen_bits(image):
    return image.astype(np.uint16) * 257


def with_rasterio(mask=None, **options):
    """Write one grey band with GDAL."""

    def write(path, image):
        height, width = image.shape[:2]
        settings = {"driver": "GTiff", "height": height, "width": width, "count": 1}
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(path, "w", **settings | {"dtype": "uint8"} | options) as dataset,
        ):
            dataset.write(image[..., 0] & 1, 1)
            if mask is not None:
                dataset.write_mask(np.full((height, width), mask))

    return write


def converted(mode, **options):
    """Write with Pillow in another mode."""
    return lambda path, image: Image.fromarray(image).convert(mode).save(path, **options)


def packed_png(depth, colour, row_bytes):
    def write(path, image):
        height, width = image.shape[:2]
        png(path, (width, height), (depth, colour, 0), [bytes(row_bytes(width))] * height)

    return write


def alpha_band(image):
    return np.dstack([image, image[..., 0]])


DEFLATE = {"tile": (64, 48), "compression": "zlib"}
SCALE = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0, 0, 0, 10.0, 20.0, 0), True)]

# As they are, these could be decoded without GDAL, but for what GDAL tells of them.
UNSUPPORTED_TILES = {
    "tiles-alpha.tif": (lambda path, image: tiff(**DEFLATE)(path, alpha_band(image)), "4 bands"),
    "tiles-16-bit.tif": (lambda path, image: tiff(**DEFLATE)(path, sixteen_bits(image)), "uint16"),
    "tiles-signed.tif": (lambda path, image: tiff(**DEFLATE)(path, image.view(np.int8)), "int8"),
    "tiles-transform.tif": (tiff(extratags=SCALE, **DEFLATE), "georeference"),
    "tiles-nodata.tif": (tiff(extratags=[(42113, "s", 0, "0", True)], **DEFLATE), "nodata"),
    "tiles-orientation.tif": (tiff(extratags=[(274, "H", 1, 6, True)], **DEFLATE), "orientation"),
    "tiles-white-is-zero.tif": (grey(tiff(photometric="miniswhite", **DEFLATE)), "white as zero"),
    "tiles-three-greys.tif": (
        tiff(photometric="minisblack", planarconfig="contig", **DEFLATE),
        "colours other",
    ),
    "tiles-palette.tif": (
        grey(tiff(photometric="palette", colormap=np.zeros((3, 256), np.uint16), **DEFLATE)),
        "a palette",
    ),
    "tiles-pages.tif": (
        lambda path, image: tiff(**DEFLATE)(path, np.stack([image, image[::-1]])),
        "several pages",
    ),
    "tiles-mask.tif": (
        with_rasterio(mask=True, tiled=True, blockxsize=64, blockysize=64, compress="deflate"),
        "a mask",
    ),
}
UNSUPPORTED = UNSUPPORTED_TILES | {
    "alpha.png": (converted("RGBA"), "alpha"),
    "grey-alpha.png": (converted("LA"), "alpha"),
    "palette.png": (converted("P"), "a palette"),
    "transparent.png": (pillow(transparency=(1, 2, 3)), "transparency"),
    "transparent-grey.png": (grey(pillow(transparency=3)), "transparency"),
    "1-bit.png": (converted("1"), "1-bit"),
    "2-bit.png": (packed_png(2, 0, lambda width: -(-width // 4)), "2-bit"),
    "4-bit.png": (packed_png(4, 0, lambda width: -(-width // 2)), "4-bit"),
    "16-bit-grey.png": (grey(lambda path, image: pillow()(path, sixteen_bits(image))), "16-bit"),
    "16-bit.png": (packed_png(16, 2, lambda width: 6 * width), "16-bit"),
    "cmyk.jpg": (converted("CMYK"), "CMYK"),
    "animation.webp": (
        lambda path, image: pillow(
            lossless=True, save_all=True, append_images=[Image.fromarray(image[::-1])]
        )(path, image),
        "an animation; write each frame to a file of its own",
    ),
    "animation.png": (
        lambda path, image: pillow(save_all=True, append_images=[Image.fromarray(image[::-1])])(
            path, image
        ),
        "an animation; write each frame to a file of its own",
    ),
    "animation-beside-a-picture.png": (
        lambda path, image: pillow(
            save_all=True, default_image=True, append_images=[Image.fromarray(image)] * 2
        )(path, image),
        "an animation",
    ),
    "alpha.webp": (lambda path, image: pillow(lossless=True)(path, alpha_band(image)), "alpha"),
    "16-bit.tif": (lambda path, image: tiff()(path, sixteen_bits(image)), "uint16"),
    "signed.tif": (lambda path, image: tiff()(path, image.view(np.int8)), "int8"),
    "float.tif": (lambda path, image: tiff()(path, image.astype(np.float32)), "float32"),
    "alpha.tif": (lambda path, image: tiff()(path, alpha_band(image)), "4 bands"),
    "cmyk.tif": (converted("CMYK"), "4 bands"),
    "grey-alpha.tif": (
        lambda path, image: tifffile.imwrite(path, image[..., :2], planarconfig="contig"),
        "2 bands",
    ),
    "palette.tif": (converted("P"), "a palette; convert it to RGB, to"),
    "1-bit.tif": (converted("1"), "1-bit pixels"),
    "1-bit-fax.tif": (converted("1", compression="group4"), "1-bit pixels"),
    "4-bit.tif": (with_rasterio(nbits=4), "4-bit pixels; convert it to 8-bit grey or RGB."),
    "white-is-zero.tif": (grey(tiff(photometric="miniswhite")), "white as zero"),
    "three-greys.tif": (tiff(photometric="minisblack", planarconfig="contig"), "colours other"),
    "orientation.tif": (pillow(tiffinfo={0x0112: 6}), "orientation"),
    "pages.tif": (
        lambda path, image: tiff()(path, np.stack([image, image[::-1]])),
        "several pages; write each page to a file of its own",
    ),
    "crs.tif": (with_rasterio(crs="EPSG:4326"), "georeference"),
    "transform.tif": (
        with_rasterio(transform=rasterio.Affine(0.5, 0, 10, 0, -0.5, 20)),
        "georeference",
    ),
    "nodata.tif": (with_rasterio(nodata=0), "nodata"),
    "mask.tif": (with_rasterio(mask=True), "a mask"),
}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_not_yet_supported(tmp_path, photo, name):
    write, what = UNSUPPORTED[name]
    path = tmp_path / name
    write(path, photo)
    with pytest.raises(SourceError) as caught:
        _raster.probe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not yet supported: ")
    assert what in message
    assert message.count("\n") == 0


@pytest.mark.parametrize("name", REGIONS)
def test_what_is_told_without_gdal_is_what_gdal_tells(files, name):
    path, _ = files[name]
    stored = _stores.state(str(path))
    with _tiles.first_page(str(path), stored) as page:
        plain = _tiles.plain_layout(page)
    assert (plain is not None) == isinstance(_raster.probe(path), TiledTiff)
    if plain is not None:
        assert plain == _gdal.layout(str(path), stored)


def test_tasks_share_the_directory_of_a_file(photo, tmp_path, monkeypatch):
    path = tmp_path / "tiles.tif"
    opened = []
    first_page = _tiles.first_page

    def counted(path, stored):
        opened.append(stored)
        return first_page(path, stored)

    for change in (0, 1):
        pixels = photo + np.uint8(change)
        tifffile.imwrite(path, pixels, tile=(16, 16), compression="zlib", photometric="rgb")
        source = _raster.probe(path)
        assert isinstance(source, TiledTiff)
        with monkeypatch.context() as patched:
            patched.setattr(_tiles, "first_page", counted)
            for window in grid(*photo.shape[:2], (32, 48)):
                (block,) = source.read([window])
                np.testing.assert_array_equal(block, pixels[window.rows, window.columns])
    assert len(opened) == len(set(opened)) == 2, "the file has changed once"


# Damage


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "the file is empty"),
        ("text.png", b"These are words, and no picture.", "not a JPEG, PNG, WebP or TIFF image"),
        ("gif.png", b"GIF89a" + bytes(50), "not a JPEG, PNG, WebP or TIFF image"),
        ("short.png", b"\x89PNG\r\n\x1a\n", "damaged"),
        ("short.jpg", b"\xff\xd8\xff", "damaged"),
        ("short.webp", b"RIFF\x10\0\0\0WEBP", "damaged"),
        ("short.tif", b"II*\0", ""),
        ("pointer.tif", b"II*\0\xff\xff\xff\0", ""),
        ("loop.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", ""),
    ],
)
def test_no_image(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        _raster.probe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere\.png: no such file"):
        _raster.probe(tmp_path / "nowhere.png")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", [*LOSSLESS, *DECODED])
def test_truncated_in_the_middle(files, tmp_path, name, share):
    content = files[name][0].read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(SourceError) as caught:
        read_whole(_raster.probe(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


JPEGS = {
    "rgb": {},
    "grey": {"mode": "L"},
    "full": {"subsampling": "4:4:4", "quality": 95},
    "narrow": {"subsampling": "4:1:1", "quality": 20},
    "uncoded-colours": {"keep_rgb": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "progressive-restarts": {"progressive": True, "restart_marker_rows": 1},
}


def jpeg(image, mode="RGB", **options):
    """The bytes of a JPEG with a JPEG in its head, whose end is not that of the file."""
    file, thumbnail = io.BytesIO(), io.BytesIO()
    Image.fromarray(image[:9, :9]).save(thumbnail, "JPEG")
    exif = b"Exif\0\0" + thumbnail.getvalue()
    Image.fromarray(image).convert(mode).save(file, "JPEG", exif=exif, **options)
    return file.getvalue()


def pillow_decode(data):
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as picture:
        pixels = np.asarray(picture)
    return pixels.reshape(*pixels.shape[:2], -1)


def outcome(decode, data):
    """The shape and the pixels, or the kind of error and its words."""
    try:
        pixels = decode(data)
    except (OSError, SyntaxError, ValueError) as error:
        return type(error), re.sub("0x[0-9a-f]+", "", str(error))
    return pixels.shape, pixels.tobytes()


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_decodes_or_fails_as_with_pillow(photo, kind):
    data = jpeg(photo, **JPEGS[kind])
    assert outcome(_jpeg.decode, data) == outcome(pillow_decode, data)
    for cut in (*range(0, len(data), len(data) // 40), len(data) - 2, len(data) - 1):
        assert outcome(_jpeg.decode, data[:cut]) == outcome(pillow_decode, data[:cut]), cut
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(data.rindex(b"Exif") + 6, len(data), 3)] = rng.integers(0, 256, 3)
        bad = damaged.tobytes()
        assert outcome(_jpeg.decode, bad) == outcome(pillow_decode, bad)


@pytest.mark.parametrize("kind", JPEGS)
def test_a_whole_jpeg_needs_no_pillow(photo, kind, monkeypatch):
    data = jpeg(photo, **JPEGS[kind])
    expected = pillow_decode(data)
    monkeypatch.setattr(JpegImagePlugin, "JpegImageFile", None)
    np.testing.assert_array_equal(_jpeg.decode(data), expected)


@pytest.mark.parametrize(
    "name", ["rgb.png", "interlaced.png", "deflate-strips.tif", "deflate-tiles.tif"]
)
def test_one_wrong_byte_is_found_where_there_are_checksums(files, tmp_path, name):
    content = bytearray(files[name][0].read_bytes())
    content[len(content) // 2] ^= 0x55
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=name):
        read_whole(_raster.probe(path))


def test_a_corrupt_tile(files, tmp_path):
    content = bytearray(files["deflate-tiles.tif"][0].read_bytes())
    with tifffile.TiffFile(files["deflate-tiles.tif"][0]) as tiff_file:
        offset, size = (
            tiff_file.pages[0].dataoffsets[7],
            tiff_file.pages[0].databytecounts[7],
        )
    content[offset : offset + size] = bytes(size)
    path = tmp_path / "corrupt.tif"
    path.write_bytes(content)
    source = _raster.probe(path)
    tiles = list(grid(150, 201, TILE))
    blocks = source.read(tiles)
    for _ in range(7):
        next(blocks)
    with pytest.raises(SourceError, match=r"corrupt\.tif: tile 7 cannot be decoded"):
        next(blocks)


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "raw-strips.tif", "deflate-tiles.tif"])
def test_a_file_that_changes_or_goes(files, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(files[name][0].read_bytes())
    source = _raster.probe(path)
    os.utime(path, ns=(0, 0))
    with pytest.raises(SourceError, match=r"changed while it was being read; run again"):
        read_whole(source)
    assert _raster.probe(path).fingerprint() != source.fingerprint()
    path.unlink()
    with pytest.raises(SourceError, match=rf"^{path}: no such file\.$"):
        read_whole(source)


MILLION = 1_000_000


def test_a_png_that_claims_a_million_squared(tmp_path):
    path = tmp_path / "forged.png"
    png(path, (MILLION, MILLION), (8, 2, 0), [bytes(100)])
    with pytest.raises(SourceError, match=r"forged\.png: the header claims 1000000 x 1000000"):
        _raster.probe(path)


def test_a_jpeg_that_claims_too_much(files, tmp_path):
    content = bytearray(files["rgb.jpg"][0].read_bytes())
    frame = content.index(b"\xff\xc0") + 5
    content[frame : frame + 4] = struct.pack(">HH", 65000, 65000)
    path = tmp_path / "forged.jpg"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"forged\.jpg: the header claims 65000 x 65000"):
        _raster.probe(path)


@pytest.mark.parametrize("name", REGIONS)
def test_a_tiff_that_claims_a_million_squared(files, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(files[name][0].read_bytes())
    with tifffile.TiffFile(path, mode="r+b") as tiff_file:
        for tag in ("ImageWidth", "ImageLength"):
            tiff_file.pages[0].tags[tag].overwrite(MILLION)
    with pytest.raises(SourceError, match=f"{name}: the header claims 1000000 x 1000000"):
        _raster.probe(path)


@pytest.mark.parametrize("name", ["raw-one-strip.tif", "deflate-one-strip.tif"])
def test_a_tiff_that_claims_all_in_one_strip(files, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(files[name][0].read_bytes())
    with tifffile.TiffFile(path, mode="r+b") as tiff_file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff_file.pages[0].tags[tag].overwrite(MILLION)
    with pytest.raises(SourceError, match=f"{name}: the header claims 1000000 x 1000000"):
        _raster.probe(path)


@pytest.mark.parametrize(
    "name",
    ["rgb.jpg", "progressive.jpg", "rgb.png", "rgb.webp", "raw-strips.tif", "deflate-tiles.tif"],
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_a_damaged_header_is_one_clear_error_or_none(files, tmp_path, name, changes):
    content = bytearray(files[name][0].read_bytes())
    for place, value in changes:
        content[place] = value
    path = tmp_path / name
    path.write_bytes(content)
    try:
        source = _raster.probe(path)
        height, width, bands = source.shape
        windows = [Window(0, 0, min(50, height), min(300, width))]
        [block] = source.read(windows)
    except SourceError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 - some are read all the same
    else:
        assert block.shape == (windows[0].height, windows[0].width, bands)
        assert block.dtype == np.uint8


@pytest.mark.parametrize("name", ["deflate-tiles.tif", "raw-strips.tif"])
@pytest.mark.parametrize(
    ("place", "value"),
    [*((2, kind) for kind in (1, 2, 5, 7, 11)), *((4, count) for count in (0, 3, 100))],
)
def test_a_tag_that_is_no_number_is_one_clear_error(files, tmp_path, name, place, value):
    whole = files[name][0].read_bytes()
    with tifffile.TiffFile(files[name][0]) as tiff_file:
        entries = {tag.name: tag.offset for tag in tiff_file.pages[0].tags}
    path = tmp_path / name
    for tag in ("ImageWidth", "ImageLength", "TileWidth", "StripByteCounts", "TileByteCounts"):
        if tag not in entries or (place == 4 and tag.endswith("Counts")):
            continue
        content = bytearray(whole)
        content[entries[tag] + place] = value
        path.write_bytes(content)
        with pytest.raises(SourceError) as raised:
            _raster.probe(path)
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)


def test_reading_in_threads_leaves_the_warnings_alone(files):
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only here

    sources = [_raster.probe(files[name][0]) for name in ("rgb.png", "raw-tiles.tif")]
    assert all(isinstance(source, RasterSource) for source in sources)
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_whole, sources * 20))
    assert warnings.filters == before


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_names_need_not_be_text(tmp_path, kind):
    path = tmp_path / os.fsdecode(b"M\xfcnchen." + kind.encode())
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    try:
        with path.open("wb") as file:
            Image.fromarray(image).save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind))
    except OSError:
        pytest.skip("this file system wants text")
    with Image.open(path) as expected:
        [block] = _raster.probe(path).read([Window(0, 0, 60, 80)])
        np.testing.assert_array_equal(block, np.asarray(expected))


def test_a_webp_that_claims_to_be_huge(tmp_path):
    path = tmp_path / "a.webp"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path, quality=80)
    data = bytearray(path.read_bytes())
    size = data.index(b"\x9d\x01\x2a") + 3
    data[size : size + 4] = struct.pack("<HH", 16383, 16383)
    path.write_bytes(data)
    with pytest.raises(
        SourceError, match=r"a\.webp: as a WEBP image .* convert it to a tiled TIFF"
    ):
        _raster.probe(path)
