"""Indexed PNG and palette TIFF, byte by byte and as other readers see them."""

import io
import itertools
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dkmeans._palette import Palette
from dkmeans._tiling import grid
from dkmeans.images import _png, _tiff
from dkmeans.images._deflate import deflate

COMPRESSIONS = ["fast", "small"]


def palette_of(n):
    """Make n colours, in no order."""
    values = np.random.default_rng(n).permutation(256)[:n]
    return Palette(np.stack([values, 255 - values, values * 7 % 256], axis=1))


def labels_of(height, width, n):
    """Random labels that use the first and the last colour."""
    labels = np.random.default_rng(0).integers(0, n, (height, width)).astype(np.uint8)
    labels[0, 0], labels[-1, -1] = n - 1, 0
    labels.flags.writeable = False
    return labels


# PNG


def png_bytes(labels, palette, compression):
    """Encode all bands one after the other."""
    height, width = labels.shape
    depth = _png.bit_depth(len(palette))
    rows = _png.band_rows(width, depth)
    bands = [
        _png.encode_band(labels[y : y + rows], depth, compression) for y in range(0, height, rows)
    ]
    return b"".join(
        (
            _png.header(height, width, depth, palette),
            *(band.chunk for band in bands),
            _png.trailer([(band.adler, band.length) for band in bands]),
        )
    )


def chunks_of(content):
    """Yield the kind and data of each chunk, after checking lengths and checksums."""
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    position = 8
    while position < len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        data = content[position + 8 : position + 8 + length]
        [checksum] = struct.unpack_from(">I", content, position + 8 + length)
        assert checksum == zlib.crc32(kind + data)
        yield kind, data
        position += 12 + length
    assert position == len(content)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 256])
@pytest.mark.parametrize("size", [*itertools.product([1, 8, 50], [1, 7, 8, 9, 640])])
def test_png_as_others_see_it(tmp_path, monkeypatch, size, n, compression):
    height, width = size
    monkeypatch.setattr(_png, "_BAND", 8 * _png._row_bytes(width, _png.bit_depth(n)))
    labels, palette = labels_of(height, width, n), palette_of(n)
    content = png_bytes(labels, palette, compression)
    path = tmp_path / "a.png"
    path.write_bytes(content)

    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        assert image.mode == "P"
        assert image.size == (width, height)
        # Pillow scales nothing in this mode: the indices are as stored.
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(
            np.reshape(image.getpalette("RGB"), (-1, 3))[:n], palette.colors
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            np.testing.assert_array_equal(dataset.read(1), labels)

    kinds = [kind for kind, _ in chunks_of(content)]
    n_bands = -(-height // 8)
    assert kinds == [b"IHDR", b"PLTE", *[b"IDAT"] * (n_bands + 2), b"IEND"]
    chunks = dict(chunks_of(content))
    depth = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 16: 4, 17: 8, 256: 8}[n]
    assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0)
    # One zlib stream, whose checksum zlib verifies.
    stream = b"".join(data for kind, data in chunks_of(content) if kind == b"IDAT")
    inflater = zlib.decompressobj()
    raw = inflater.decompress(stream)
    assert inflater.eof
    assert inflater.unused_data == b""
    assert len(raw) == height * (1 + -(-width * depth // 8))


def test_bands_are_a_power_of_two_of_about_a_mebibyte():
    for width in (1, 7, 640, 30_000, 10**6, 10**7):
        for depth in (1, 2, 4, 8):
            rows = _png.band_rows(width, depth)
            nbytes = rows * (1 + -(-width * depth // 8))
            assert rows & (rows - 1) == 0
            assert rows == 1 or 1 << 19 < nbytes <= 1 << 20


def test_small_is_smaller(photos):
    labels = photos["china"][..., 0] // 4
    palette = palette_of(64)
    sizes = {name: len(png_bytes(labels, palette, name)) for name in COMPRESSIONS}
    assert sizes["small"] < 0.95 * sizes["fast"]


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=10))
def test_checksums_of_parts_join(parts):
    total, joined = 1, b""
    for part in parts:
        total = _png._join_adler(total, zlib.adler32(part), len(part))
        joined += part
        assert total == zlib.adler32(joined)


@pytest.mark.parametrize("value", [0, 1, 255])
@pytest.mark.parametrize("length", [0, 1, 65520, 65521, 65522, 1_000_000])
def test_checksums_of_long_parts_join(value, length):
    first, second = b"abc", bytes([value]) * length
    expected = zlib.adler32(first + second)
    assert _png._join_adler(zlib.adler32(first), zlib.adler32(second), length) == expected
    expected = zlib.adler32(second + first)
    assert _png._join_adler(zlib.adler32(second), zlib.adler32(first), 3) == expected


def test_the_checksum_of_a_huge_part_joins():
    """Parts beyond 4 GiB: 2**33 bytes of zero add nothing to A, and A to B for each byte."""
    first = zlib.adler32(b"abc")
    a, b = first & 0xFFFF, first >> 16
    zeros = 1 | (2**33 % 65521) << 16
    joined = _png._join_adler(first, zeros, 2**33)
    assert joined == a | (b + a * 2**33) % 65521 << 16


# TIFF


def tiff_bytes(labels, palette, compression):
    tiles = [
        _tiff.encode_tile(labels[tile.rows, tile.columns], compression)
        for tile in grid(*labels.shape, (_tiff.TILE, _tiff.TILE))
    ]
    head = _tiff.header(*labels.shape, palette, [len(tile) for tile in tiles])
    return head + b"".join(tiles)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 600), (511, 512), (512, 512), (513, 512), (700, 1100)]
)
@pytest.mark.parametrize("n", [1, 2, 200, 256])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tiff_as_others_see_it(tmp_path, height, width, n, compression):
    labels, palette = labels_of(height, width, n), palette_of(n)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_bytes(labels, palette, compression))

    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        [page] = tiff.pages
        assert page.photometric.name == "PALETTE"
        assert (page.tilelength, page.tilewidth) == (512, 512)
        assert page.compression.name == "ADOBE_DEFLATE"
        np.testing.assert_array_equal(page.asarray(), labels)
        np.testing.assert_array_equal(page.colormap[:, :n].T, palette.colors.astype(int) * 257)
        assert not page.colormap[:, n:].any()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            assert dataset.dtypes == ("uint8",)
            assert dataset.block_shapes == [(512, 512)]
            assert dataset.colorinterp[0].name == "palette"
            np.testing.assert_array_equal(dataset.read(1), labels)
            colours = dataset.colormap(1)
            for i, (red, green, blue) in enumerate(palette.colors.tolist()):
                assert colours[i] == (red, green, blue, 255)

    with Image.open(path) as image:
        assert image.mode == "P"
        expected = palette.colors[labels]
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), expected)


def test_offsets_beyond_4_gib():
    """The header alone: 40,000 tiles of 200 kB each, at places that 32 bits do not hold."""
    sizes = [200_000 + i for i in range(40_000)]
    head = _tiff.header(200 * 512, 200 * 512, palette_of(2), sizes)
    with tifffile.TiffFile(io.BytesIO(head)) as tiff:
        page = tiff.pages[0]
        assert page.shape == (102_400, 102_400)
        assert list(page.databytecounts) == sizes
        assert page.dataoffsets[0] == len(head)
        assert page.dataoffsets[-1] == len(head) + sum(sizes[:-1]) > 2**32


STREAMS = """
import sys, zlib, numpy as np
from dkmeans.images._deflate import deflate
rng = np.random.default_rng(0)
rest, digest = rng.bytes(400), 0
for _ in range(40_000):
    some = rng.bytes(4)  # at the third place, where ISA-L's own streams begin by chance
    data = memoryview(b"01" + some + rest + some + rest[:37] + some)
    digest = zlib.crc32(deflate(data, "fast", wbits=15, flush=zlib.Z_FINISH), digest)
print(digest)
"""


def test_streams_have_the_same_bytes_in_any_process():
    command = [sys.executable, "-c", STREAMS]
    digests = {subprocess.run(command, check=True, capture_output=True).stdout for _ in range(3)}
    assert len(digests) == 1


@pytest.mark.parametrize("compression", ["fast", "small"])
@pytest.mark.parametrize("n", [0, 1, 3, 15, 16, 17, 40, 300, 70_000])
def test_streams_hold_what_was_compressed(n, compression):
    data = np.random.default_rng(n).integers(0, 3, n, np.uint8).tobytes()
    stream = deflate(memoryview(data), compression, wbits=15, flush=zlib.Z_FINISH)
    assert zlib.decompress(stream) == data
    raw = deflate(memoryview(data), compression, wbits=-15, flush=zlib.Z_FULL_FLUSH)
    assert zlib.decompressobj(-15).decompress(raw + raw) == data + data


def test_small_tiles_are_smaller(photos):
    labels = photos["china"][:, :512, 0] // 4
    small, fast = (len(_tiff.encode_tile(labels, name)) for name in ("small", "fast"))
    assert small < 0.95 * fast
