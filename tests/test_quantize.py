"""quantize at work: how often it reads, where pixels wait, what it replaces and leaves behind."""

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from dkmeans import Palette, plan, quantize
from dkmeans._tiling import Window
from dkmeans._validation import OutputError, SourceError
from dkmeans.images import _raster
from dkmeans.images._raster import RasterSource
from dkmeans.images._staging import StagedSource
from dkmeans.images._store_source import ZarrSource
from dkmeans.images._tiles import TiledTiff

GREYS = Palette([[0, 0, 0], [80, 80, 80], [200, 200, 200]])


def write_tiff(path, image, **options):
    tifffile.imwrite(path, image, photometric="rgb", **options)


def indices(path):
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)


def colours(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class Spy:
    """Notes every window that is read of every source, and every tile that is decoded."""

    def __init__(self, monkeypatch):
        self.windows = []
        self.tiles = Counter()
        for kind in (RasterSource, TiledTiff, ZarrSource, StagedSource):
            monkeypatch.setattr(kind, "read", self.noting(kind.read))
        decode = TiledTiff._decode

        def noting_decode(source, file, offset, size, pixels, *, where):
            self.tiles[where] += 1
            return decode(source, file, offset, size, pixels, where=where)

        monkeypatch.setattr(TiledTiff, "_decode", noting_decode)

    def noting(self, read):
        def read_and_note(source, windows):
            for window, block in zip(windows, read(source, windows), strict=True):
                self.windows.append((source, window))
                yield block

        return read_and_note

    def times(self, kind):
        """How often each pixel was read from sources of one kind."""
        sources = {source for source, _ in self.windows if isinstance(source, kind)}
        if not sources:
            return 0
        [source] = sources
        times = np.zeros(source.shape[:2], int)
        for _, window in [noted for noted in self.windows if noted[0] == source]:
            times[window.rows, window.columns] += 1
        [every] = np.unique(times)
        return every

    def cut_blocks(self):
        """The windows that begin within a stored block."""
        return [
            (source, window)
            for source, window in self.windows
            if window.y % source.block[0] or window.x % source.block[1]
        ]


@pytest.fixture
def photo(photos):
    """A piece of a photograph, several tiles large."""
    return photos["china"][100:290, 150:530]


@pytest.fixture
def spy(monkeypatch):
    with dask.config.set(scheduler="threads", num_workers=2):
        yield Spy(monkeypatch)


@pytest.fixture
def no_room(monkeypatch):
    """A disk that is nearly full."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))


TILED = {
    "square.tif": {"tile": (64, 64), "compression": "zlib"},
    "wide.tif": {"tile": (16, 208), "compression": "zlib"},
    "odd.tif": {"tile": (48, 80), "compression": "zlib", "predictor": 2},
    "large.tif": {"tile": (256, 256), "compression": "zlib"},
}
BY_GDAL = {
    "raw.tif": {"tile": (64, 64)},
    "lzw.tif": {"tile": (48, 80), "compression": "lzw"},
    "strips.tif": {"rowsperstrip": 13, "compression": "zlib"},
    "one-strip.tif": {"rowsperstrip": 190, "compression": "zlib"},
}


# How often the sources are read


@pytest.mark.parametrize(
    ("name", "output"),
    [
        *((name, "out.png") for name in (*TILED, *BY_GDAL)),
        *((name, "out.tif") for name in ("square.tif", "wide.tif", "large.tif", "lzw.tif")),
        *((name, "out.zarr") for name in ("square.tif", "odd.tif", "strips.tif")),
    ],
)
def test_regions_are_read_twice(photo, tmp_path, spy, name, output):
    write_tiff(tmp_path / name, photo, **(TILED | BY_GDAL)[name])
    result = quantize(tmp_path / name, tmp_path / output, n_colors=3)
    assert spy.times((RasterSource, TiledTiff)) == 2
    assert spy.times(StagedSource) == 0
    assert spy.cut_blocks() == []
    assert set(spy.tiles.values()) == ({2} if name in TILED else set())
    assert (result.n_passes, result.bytes_read) == (2, 2 * photo.size)


@pytest.mark.parametrize("name", [*TILED, *BY_GDAL])
def test_with_a_palette_they_are_read_once(photo, tmp_path, spy, name):
    write_tiff(tmp_path / name, photo, **(TILED | BY_GDAL)[name])
    result = quantize(tmp_path / name, tmp_path / "out.png", palette=GREYS)
    assert spy.times((RasterSource, TiledTiff)) == 1
    assert set(spy.tiles.values()) == ({1} if name in TILED else set())
    assert (result.n_passes, result.bytes_read) == (1, photo.size)


@pytest.mark.parametrize("output", ["out.png", "out.tif", "out.zarr"])
def test_chunks_are_read_twice(photo, tmp_path, spy, output):
    array = zarr.create_array(
        str(tmp_path / "in.zarr"), shape=photo.shape, chunks=(64, 128, 3), dtype=np.uint8
    )
    array[:] = photo
    quantize(tmp_path / "in.zarr", tmp_path / output, n_colors=3)
    assert spy.times(ZarrSource) == 2
    assert spy.times(StagedSource) == 0
    assert spy.cut_blocks() == []


IN_ORDER = ["in.jpg", "in.png", "in.webp", "progressive.jpg"]


def write(path, image):
    """Write a picture that can only be read from first to last."""
    options = {"progressive": True} if path.name == "progressive.jpg" else {"lossless": True}
    Image.fromarray(image).save(path, **options if path.suffix != ".png" else {})


@pytest.mark.parametrize("name", IN_ORDER)
def test_what_is_read_in_order_waits_on_disk(photo, tmp_path, spy, name):
    write(tmp_path / name, photo)
    result = quantize(tmp_path / name, tmp_path / "out.png", n_colors=3)
    assert spy.times(RasterSource) == 1
    assert spy.times(StagedSource) == 1
    assert (result.n_passes, result.bytes_read) == (2, 2 * photo.size)
    assert {path.name for path in tmp_path.iterdir()} == {name, "out.png"}


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("name", IN_ORDER)
def test_or_is_decoded_twice_without_room(photo, tmp_path, spy, name):
    write(tmp_path / name, photo)
    quantize(tmp_path / name, tmp_path / "out.png", n_colors=3)
    assert spy.times(RasterSource) == 2
    assert spy.times(StagedSource) == 0


@pytest.mark.parametrize("name", IN_ORDER)
def test_with_a_palette_nothing_waits(photo, tmp_path, spy, name):
    write(tmp_path / name, photo)
    quantize(tmp_path / name, tmp_path / "out.png", palette=GREYS)
    assert spy.times(RasterSource) == 1
    assert spy.times(StagedSource) == 0


def test_half_of_the_free_disk_is_used(photo, tmp_path, spy, monkeypatch):
    """Three pictures of 90,000 bytes; there is room for two."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(photo[:100, :300]).save(tmp_path / "in" / f"{name}.png")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=400_000))
    quantize(tmp_path / "in", tmp_path / "out", n_colors=3)
    reads = Counter(Path(s.path).stem for s, _ in spy.windows if isinstance(s, RasterSource))
    assert reads == {"a": 1, "b": 1, "c": 2}


def test_the_folder_to_wait_in_can_be_chosen(photo, tmp_path, spy):
    Image.fromarray(photo).save(tmp_path / "in.png")
    (tmp_path / "fast").mkdir()
    quantize(tmp_path / "in.png", tmp_path / "out.png", n_colors=3, staging=tmp_path / "fast")
    [place] = {source.file for source, _ in spy.windows if isinstance(source, StagedSource)}
    assert Path(place).is_relative_to(tmp_path / "fast")
    assert list((tmp_path / "fast").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "out.png", "fast"}


def test_pixels_that_wait_no_more_are_an_error_of_their_source(tmp_path):
    source = StagedSource("in.png", (4, 5, 3), str(tmp_path / "0.raw"))
    with pytest.raises(SourceError, match=r"^in\.png: .*0\.raw, cannot be read \(No such file"):
        next(source.read([Window(0, 0, 4, 5)]))
    Path(source.file).write_bytes(b"few")
    with pytest.raises(SourceError, match=r"^in\.png: .*0\.raw, were cut short"):
        next(source.read([Window(0, 0, 4, 5)]))


@pytest.mark.usefixtures("no_room")
def test_waiting_or_not_gives_the_same_bytes(photo, tmp_path, monkeypatch):
    write(tmp_path / "in.jpg", photo)
    first = quantize(tmp_path / "in.jpg", tmp_path / "a.png", n_colors=30)
    monkeypatch.undo()
    second = quantize(tmp_path / "in.jpg", tmp_path / "b.png", n_colors=30)
    assert first.palette == second.palette
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_large_jpeg_goes_the_same_way(photo, tmp_path, spy, monkeypatch):
    monkeypatch.setattr(_raster, "MAX_RESIDENT", 300_000)
    monkeypatch.setattr(_raster, "reading_block", lambda width, block, _: (50 * block[0], width))
    Image.fromarray(photo).save(tmp_path / "in.jpg", subsampling=0)
    quantize(tmp_path / "in.jpg", tmp_path / "out.png", n_colors=3)
    assert spy.times(RasterSource) == 1
    assert [window.height for source, window in spy.windows if isinstance(source, RasterSource)][
        :2
    ] == [50, 50]


# Options


@pytest.mark.parametrize("output", ["out.png", "out.tif"])
def test_small_files_hold_the_same_picture(photos, tmp_path, output):
    write(tmp_path / "in.png", photos["flower"])
    fast = quantize(tmp_path / "in.png", tmp_path / f"fast-{output}", n_colors=200)
    small = quantize(
        tmp_path / "in.png", tmp_path / f"small-{output}", n_colors=200, compression="small"
    )
    assert small.palette == fast.palette
    a, b = (indices(tmp_path / f"{name}-{output}") for name in ("fast", "small"))
    np.testing.assert_array_equal(a, b)
    assert small.report[0].bytes_out < 0.97 * fast.report[0].bytes_out
    assert fast.report[0].bytes_out == (tmp_path / f"fast-{output}").stat().st_size


def test_seeds(photos, tmp_path):
    write(tmp_path / "in.png", photos["flower"])

    def run(number, seed):
        output = tmp_path / f"{number}.png"
        return quantize(tmp_path / "in.png", output, n_colors=40, n_init=1, seed=seed)

    first, again, other = run(0, 5), run(1, 5), run(2, 6)
    assert first.palette == again.palette
    assert first.palette != other.palette
    best = quantize(tmp_path / "in.png", tmp_path / "best.png", n_colors=40, n_init=8, seed=5)
    assert best.inertia <= 1.02 * first.inertia


@pytest.mark.parametrize("small", [np.uint8, np.int16])
def test_integers_of_numpy_count_as_their_values_do(tmp_path, small):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    write(tmp_path / "in.png", pixels)
    counts = {"n_colors": 200, "max_iter": 3, "seed": 255}
    options = {name: small(value) for name, value in counts.items()}
    assert plan(tmp_path / "in.png", n_colors=small(200), calibrate=False).bytes_written == 900
    first = quantize(tmp_path / "in.png", tmp_path / "a.png", **options)
    assert first.palette == quantize(tmp_path / "in.png", tmp_path / "b.png", **counts).palette
    given = {"palette": first.palette, "n_colors": small(2)}  # the number says nothing then
    assert quantize(tmp_path / "in.png", tmp_path / "c.png", **given).psnr == first.psnr


def test_colours_are_in_the_order_of_their_shares(photos, tmp_path):
    write(tmp_path / "in.png", photos["china"])
    result = quantize(tmp_path / "in.png", tmp_path / "out.png", n_colors=50)
    shares = result.palette.shares
    assert np.diff(shares).max() < 0.01  # the order is that of the centres before rounding
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert result.n_pixels == 427 * 640
    assert result.n_distinct == len(np.unique(photos["china"].reshape(-1, 3), axis=0))


def test_a_given_palette_keeps_its_names(photos, tmp_path):
    write(tmp_path / "in.png", photos["china"])
    named = Palette(GREYS.colors, names=("ink", "fog", "snow"))
    result = quantize(tmp_path / "in.png", tmp_path / "out.png", palette=named)
    assert result.palette.names == named.names
    assert result.centers is None
    assert result.n_distinct is None
    assert (result.n_iter, result.stop_reason) == (0, "palette")


class Display:
    """A progress display that notes what it is told, and can do something when a pass begins."""

    def __init__(self, act=str):
        self.told = []
        self.act = act

    def begin(self, name, nbytes, n_pixels):
        self.told.append([name, nbytes, n_pixels, 0])
        self.act(name)

    def advance(self, nbytes):
        self.told[-1][3] += nbytes

    def end(self):
        self.told.append("end")


def test_progress_is_told(photos, tmp_path):
    write_tiff(tmp_path / "in.tif", photos["china"], tile=(64, 64), compression="zlib")
    display = Display()
    quantize(tmp_path / "in.tif", tmp_path / "out.png", n_colors=3, progress=display)
    size = 427 * 640
    assert display.told == [
        ["count colours", 3 * size, size, 3 * size],
        "end",
        ["write", 3 * size, size, 3 * size],
        "end",
    ]


# Collections


@pytest.fixture
def folder(photos, tmp_path):
    """Pictures of several kinds in folders, and one that is cut off."""
    top = tmp_path / "in"
    (top / "sub").mkdir(parents=True)
    write(top / "a.jpg", photos["china"][:100])
    write(top / "a.png", photos["china"][100:200])
    write_tiff(top / "b.tif", photos["flower"][:150], tile=(64, 64), compression="zlib")
    write(top / "sub" / "a.png", photos["flower"][150:])
    write(top / "sub" / "cut.png", photos["flower"])
    content = (top / "sub" / "cut.png").read_bytes()
    (top / "sub" / "cut.png").write_bytes(content[:-1000])
    return top


def test_a_folder_to_a_folder(folder, tmp_path):
    result = quantize(folder, tmp_path / "out", n_colors=20)
    names = ["a.jpg", "a.png", "b.tif", "sub/a.png", "sub/cut.png"]
    outputs = ["a.jpg.png", "a.png.png", "b.png", "sub/a.png", None]
    assert [report.source for report in result.report] == [str(folder / name) for name in names]
    assert [report.output for report in result.report] == [
        name and str(tmp_path / "out" / name) for name in outputs
    ]
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(str(path) for path in written) == sorted(
        report.output for report in result.report if report.output
    )
    for report in result.report[:-1]:
        with Image.open(report.output) as image:
            assert image.size == (report.width, report.height)
            palette = np.reshape(image.getpalette("RGB"), (-1, 3))[: len(result.palette)]
            np.testing.assert_array_equal(palette, result.palette.colors)
    assert result.report[-1].error.startswith(f"{folder / 'sub/cut.png'}: ")
    assert result.n_pixels == (100 + 100 + 150 + 277) * 640


def test_a_folder_to_arrays(folder, tmp_path):
    pictures = quantize(folder, tmp_path / "out", n_colors=20)
    arrays = quantize(folder, tmp_path / "out.zarr", n_colors=20)
    assert arrays.palette == pictures.palette
    group = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
    for picture, array in zip(pictures.report[:-1], arrays.report[:-1], strict=True):
        name = Path(array.output).relative_to(tmp_path / "out.zarr").as_posix()
        np.testing.assert_array_equal(group[name][:], indices(picture.output))
        assert group[name].attrs["palette"] == list(arrays.palette.hex)
        assert array.bytes_out > 0
    assert sorted(group.keys()) == ["a.jpg", "a.png", "b", "sub"]
    assert sorted(group["sub"].keys()) == ["a"]
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "out.zarr"}


def test_a_folder_is_the_same_as_its_pictures_one_by_one(folder, tmp_path):
    whole = quantize(folder, tmp_path / "whole", n_colors=20)
    for number, report in enumerate(whole.report[:-1]):
        output = tmp_path / f"{number}.png"
        alone = quantize(report.source, output, palette=Palette(whole.palette.colors))
        assert output.read_bytes() == Path(report.output).read_bytes()
        assert alone.n_pixels == report.height * report.width


# Failing between the passes


def test_a_source_that_goes_between_the_passes(folder, tmp_path):
    display = Display(lambda name: name == "write" and (folder / "b.tif").unlink())
    result = quantize(folder, tmp_path / "out", n_colors=20, progress=display)
    failed = [report for report in result.report if report.error]
    assert [Path(report.source).name for report in failed] == ["b.tif", "cut.png"]
    assert str(folder / "b.tif") in failed[0].error
    assert failed[0].output is None
    names = [path.name for path in (tmp_path / "out").rglob("*.*")]
    assert sorted(names) == ["a.jpg.png", "a.png", "a.png.png"]


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def left_besides_work(folder):
    """What lies in a folder but for the workspace of a job that can be resumed."""
    [fit] = folder.rglob("fit.json")
    shutil.rmtree(fit.parent.parent)
    return [path.name for path in folder.iterdir() if path.is_file() or any(path.iterdir())]


@pytest.mark.parametrize("output", ["out.png", "out.tif", "out.zarr", "out"])
def test_the_only_source_goes_between_the_passes(folder, tmp_path, output):
    display = Display(lambda name: name == "write" and (folder / "b.tif").unlink())
    with pytest.raises(SourceError, match=r"b\.tif"):
        quantize(folder / "b.tif", tmp_path / output, n_colors=20, progress=display)
    assert left_besides_work(tmp_path) == ["in"]


@pytest.mark.parametrize("pass_name", ["count colours", "write"])
@pytest.mark.parametrize("output", ["out.png", "out.tif", "out.zarr", "out"])
def test_an_interrupt_leaves_nothing(folder, tmp_path, pass_name, output):
    def act(name):
        if name == pass_name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(folder / "b.tif", tmp_path / output, n_colors=20, progress=Display(act))
    names = {"count colours": names_in, "write": left_besides_work}
    assert names[pass_name](tmp_path) == ["in"]


# Replacing


@pytest.mark.parametrize("output", ["out.png", "out.tif", "out.zarr"])
def test_an_output_is_replaced_only_when_asked(folder, tmp_path, output):
    path = tmp_path / output
    first = quantize(folder / "b.tif", path, n_colors=4)
    with pytest.raises(OutputError, match="exists already"):
        quantize(folder / "b.tif", path, n_colors=5)
    quantize(folder / "b.tif", path, n_colors=5, overwrite=True)
    if output == "out.zarr":
        assert len(zarr.open_array(str(path), mode="r").attrs["palette"]) == 5
    else:
        assert len(np.unique(colours(path).reshape(-1, 3), axis=0)) == 5
    assert len(first.palette) == 4
    assert {file.name for file in tmp_path.iterdir()} == {"in", output}


@pytest.mark.parametrize("output", ["out.png", "out.tif", "out.zarr"])
def test_an_output_stays_if_its_successor_fails(folder, tmp_path, output):
    path = tmp_path / output
    quantize(folder / "b.tif", path, n_colors=4)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    before = {file: file.read_bytes() for file in files}
    with pytest.raises(SourceError):
        quantize(folder / "sub" / "cut.png", path, n_colors=5, overwrite=True)
    assert {file: file.read_bytes() for file in files} == before
    assert {file.name for file in tmp_path.iterdir()} == {"in", output}


def test_other_files_of_the_folder_stay(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    quantize(folder, tmp_path / "out", n_colors=4)
    with pytest.raises(OutputError, match="exists already"):
        quantize(folder, tmp_path / "out", n_colors=4)
    quantize(folder, tmp_path / "out", n_colors=4, overwrite=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.jpg.png",
        "a.png.png",
        "b.png",
        "notes.txt",
        "sub",
    ]
