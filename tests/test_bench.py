"""The benchmarks do what they say, on small pictures. Nothing here depends on the clock."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import sklearn.datasets
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "bench"))
measure, floor, many, palettes = (
    importlib.import_module(name) for name in ("measure", "floor", "many", "palettes")
)

# The benchmarks' programs silence it for themselves.
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

MIB = 1 << 20
PHOTOS = Path(sklearn.datasets.__file__).parent / "images"


@pytest.fixture
def folder(tmp_path):
    """A folder with more photographs than there are kinds of copies."""
    names = ("china.jpg", "flower.jpg")
    place = tmp_path / "photos"
    place.mkdir()
    for i in range(len(many.KINDS) + 2):
        shutil.copyfile(PHOTOS / names[i % 2], place / f"{i:02}.jpg")
    return place


@pytest.fixture
def tiles(tmp_path, photos):
    """A TIFF of 2560 x 1281 pixels in tiles."""
    pixels = np.tile(photos["china"], (3, 4, 1))
    height, width, count = pixels.shape
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": count, "dtype": "uint8",
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate",
    }  # fmt: skip
    path = tmp_path / "picture.tif"
    with rasterio.open(path, "w", **profile) as target:
        target.write(np.moveaxis(pixels, -1, 0))
    return path


def run_of(seconds=1.0, **values):
    """What a run of a command may have been."""
    defaults = {"status": 0, "output": "", "errors": "", "peak": 5, "max_resident": 4, "read": 3}
    return measure.Run(**{**defaults, "seconds": seconds, **values})


class TestMeasure:
    def test_memory_of_descendants_counts(self):
        inner = f"import time; held = b'1' * {200 * MIB}; time.sleep(1.5)"
        code = (
            "import os, subprocess, sys;"
            f"subprocess.run([sys.executable, '-c', {inner!r}]);"
            "print(os.environ['WORD']); sys.stderr.write('error'); sys.exit(3)"
        )
        done = measure.run([sys.executable, "-c", code], {"WORD": "output"})
        assert (done.status, done.output, done.errors) == (3, "output\n", "error")
        assert done.max_resident > 200 * MIB
        assert 200 * MIB < done.peak < 300 * MIB  # of both

    def test_bytes_read_count(self, tmp_path):
        file = tmp_path / "file"
        file.write_bytes(bytes(50 * MIB))
        code = f"import time; open({str(file)!r}, 'rb').read(); time.sleep(0.5)"
        done = measure.run([sys.executable, "-c", code])
        assert 50 * MIB < done.read < 60 * MIB

    def test_photographs_are_chosen_evenly(self, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        inner = tmp_path / "inner"
        inner.mkdir()
        for i in range(6):
            Image.fromarray(pixels).save(inner / f"{i}.png")
        Image.fromarray(pixels[..., 0]).save(inner / "grey.png")
        Image.fromarray(pixels[:2]).save(inner / "small.png")
        (inner / "link.png").symlink_to(inner / "0.png")
        (inner / "text.txt").write_text("x" * 9000)

        def choose(limit, **options):
            found = measure.photographs([tmp_path], limit, min_bytes=2000, **options)
            return [path.name for path in found]

        assert choose(3, modes=("RGB",)) == ["0.png", "2.png", "4.png"]
        assert choose(99, modes=("RGB",)) == [f"{i}.png" for i in range(6)]
        assert choose(99) == [*(f"{i}.png" for i in range(6)), "grey.png"]
        assert measure.photographs([inner / "1.png"], 9, min_bytes=0) == [inner / "1.png"]
        with pytest.raises(SystemExit, match="no photographs"):
            choose(1, modes=("CMYK",))

    def test_short_names(self):
        files = [Path("/a/b/one/usr/share/wallpapers/x/1.png"), Path("/a/b/two/usr/2.png")]
        assert measure.short_names(files) == ["one/x/1.png", "two/2.png"]
        assert measure.short_names(files[:1]) == ["1.png"]

    def test_table(self):
        assert measure.table(["a", "b"], [("c", 1)]) == "| a | b |\n| --- | ---: |\n| c | 1 |"


class TestFloor:
    def test_every_pixel_is_decoded_and_encoded(self, tiles, monkeypatch):
        read, encoded = [], []
        window = rasterio.windows.Window
        monkeypatch.setattr(floor, "Window", lambda *args: read.append(args) or window(*args))
        monkeypatch.setattr(floor, "SQUARE", 512)
        floor.decode(tiles, 2)
        assert sum(width * height for _, _, width, height in read) == 2560 * 1281
        monkeypatch.setattr(floor, "BATCH", 600 * 2560)  # one row of tiles
        monkeypatch.setattr(floor, "encode_tile", lambda tile, _: encoded.append(tile.size))
        floor.encode(tiles, 2)
        assert sum(encoded) == 2560 * 1281
        assert len(encoded) == 3 * 5

    def test_parts_add_up(self, tiles):
        told = floor.Floor(tiles, tiles, 2).run(0)
        assert told["seconds"] == sum(told["decodes"]) + told["encode"] > 0


class TestPalettes:
    def test_errors_are_those_of_the_files(self, tmp_path, capsys):
        for name in ("china", "flower"):
            with Image.open(PHOTOS / f"{name}.jpg") as image:
                image.save(tmp_path / f"{name}.png")
        docs, figures = tmp_path / "docs.md", tmp_path / "figures.json"
        docs.write_text(f"before\n{palettes.MARKS[0]}\nold\n{palettes.MARKS[1]}\nafter\n")
        options = ["--colors", "8", "4", "--docs", str(docs), "--json", str(figures)]
        palettes.main([str(tmp_path), *options])
        done = json.loads(figures.read_text())
        assert [(one["photo"], one["k"]) for one in done] == [
            (name, k) for name in ("china.png", "flower.png") for k in (4, 8)
        ]
        for one in done:
            ours = one["errors"].pop("dkmeans")
            assert all(ours < error for error in one["errors"].values())
            assert len(one["errors"]) >= 4
            with Image.open(tmp_path / one["photo"]) as image:
                assert one["megapixels"] == image.width * image.height / 1e6
        printed = capsys.readouterr().out
        assert "on every photograph and k: yes; median at k = 8 lower by" in printed
        assert docs.read_text() == (
            f"before\n{palettes.MARKS[0]}\n{printed}{palettes.MARKS[1]}\nafter\n"
        )

    @pytest.mark.parametrize("method", palettes.METHODS)
    def test_no_method_dithers_or_uses_more_colours(self, tmp_path, photos, method):
        source, target = tmp_path / "photo.png", tmp_path / "reduced.png"
        Image.fromarray(photos["flower"][:200, :200]).save(source)
        palettes.METHODS[method](source, target, 16)
        original = photos["flower"][:200, :200].reshape(-1, 3)
        reduced = np.asarray(palettes.picture_of(target)).reshape(-1, 3)
        assert len(np.unique(reduced, axis=0)) <= 16
        # One colour becomes one colour, wherever it lies.
        pairs = np.unique(np.hstack([original, reduced]), axis=0)
        assert len(pairs) == len(np.unique(original, axis=0))

    def test_mse(self):
        a, b = np.zeros((4, 5, 3), np.uint8), np.full((4, 5, 3), 255, np.uint8)
        assert palettes.mse(a, b) == 255**2
        assert palettes.mse(a, a) == 0

    def test_judge(self):
        def trial(ours, rival, k):
            errors = {palettes.OURS: ours, palettes.RIVAL: rival}
            return palettes.Trial("a", 1.0, 99, k, "tol", errors, {})

        better, worse = trial(8.0, 10.0, 9), trial(3.0, 2.0, 9)
        assert "every photograph and k: yes; median at k = 9 lower by 20.0%" in palettes.judge(
            {9: [better]}
        )
        assert "no, above on 1 of 3" in palettes.judge(
            {4: [trial(1.0, 1.0, 4)], 9: [better, worse]}
        )
        assert "median" not in palettes.judge({9: []})


class TestMany:
    def test_all_kinds_and_bad_files(self, folder, capsys):
        many.main([str(folder), "--colors", "16"])
        printed = capsys.readouterr().out
        assert "11 photographs: 6 .jpg, 2 .png, 1 .webp, 1 .tif, 1 .tiff" in printed
        assert printed.endswith("All checks passed.\n")
        for name in many.BAD:
            assert name in printed

    def test_wrong_outputs_are_found(self, tmp_path, photos):
        source, output = tmp_path / "source", tmp_path / "output"
        source.mkdir()
        output.mkdir()
        for name, image in photos.items():
            Image.fromarray(image[:100, :120]).save(tmp_path / f"{name}.jpg")
        copies = many.collect([tmp_path / f"{name}.jpg" for name in photos] * 2, source)
        colors = np.random.default_rng(0).integers(0, 256, (16, 3), np.uint8)

        def reduce(copy, *, colors=colors, change=0):
            pixels = many.by_pillow(copy)[:, :, np.newaxis].astype(int)
            labels = ((pixels - colors.astype(int)) ** 2).sum(axis=3).argmin(axis=2)
            indexed = Image.fromarray((labels ^ change).astype(np.uint8)).convert("P")
            indexed.putpalette(colors.tobytes())
            indexed.save(output / f"{copy.stem}.png")

        def complaints():
            return "; ".join(many.check_outputs(copies, output))

        for copy in copies:
            reduce(copy)
        assert complaints() == ""
        reduce(copies[1], change=1)
        assert complaints() == "001-flower.jpg: 4096 of 4096 pixels are not the nearest colour"
        reduce(copies[1], colors=colors[::-1])
        assert complaints() == "2 palettes instead of one"
        reduce(copies[1])
        shutil.move(output / "002-china.png", output / "other.png")
        assert complaints() == "missing: ['002-china.png']; too many: ['other.png']"

    def test_wrong_run_is_found(self):
        good = "".join(f"dkmeans: failed: {name}: why.\n" for name in many.BAD)
        told = "Pixels 1 in 9 pictures"
        assert not list(many.check_run(run_of(status=1, errors=good, output=told), 9))
        for wrong in (
            {"status": 0},
            {"errors": good.replace(": why.", "", 1)},
            {"errors": f"{good}dkmeans: failed: other.png: why.\n"},
            {"output": ""},
            {"peak": many.MAX_PEAK + 1},
        ):
            values = {"status": 1, "errors": good, "output": told, **wrong}
            assert len(list(many.check_run(run_of(**values), 9))) == 1
