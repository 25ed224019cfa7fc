"""Whatever goes wrong: one clear sentence, a status, and nothing that looks finished."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from dkmeans import ingest, plan, quantize
from dkmeans._kernels import compile as kernels
from dkmeans._palette import Palette
from dkmeans._validation import DkmeansError, InvalidArgumentError, OutputError, SourceError

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
NOBODY = 65534


def png(path):
    """Write a picture, a PNG unless the name tells another format."""
    Image.fromarray(PIXELS).save(path)


def cut(path):
    """Write a picture of the format that the name tells, without its second half."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, PIXELS, tile=(32, 32), compression="zlib", photometric="rgb")
    else:
        Image.fromarray(PIXELS).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def forged_png(width, height):
    """Return a writer of a PNG whose header claims that size."""

    def write(path):
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        png(path)
        content = path.read_bytes()
        path.write_bytes(content[:8] + chunk + content[8 + 25 :])

    return write


def forged_tiff(path):
    tifffile.imwrite(path, PIXELS, tile=(32, 32), compression="zlib", photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[tag].overwrite(1_000_000)


def no_pixels(path):
    zarr.create_array(str(path), shape=(0, 10, 3), chunks=(1, 1, 1), dtype=np.uint8)


def store_naming(name):
    """Return a writer of a store whose one picture has that name."""

    def write(path):
        png(path.with_name("p.png"))
        ingest(path.with_name("p.png"), path)
        metadata = json.loads((path / "zarr.json").read_text())
        metadata["attributes"]["dkmeans"]["images"][0]["name"] = name
        (path / "zarr.json").write_text(json.dumps(metadata))

    return write


def unlisted_store(path):
    store_naming("p")(path)
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"] = {}
    (path / "zarr.json").write_text(json.dumps(metadata))


@dataclass
class Case:
    """A use of quantize that is wrong.

    Attributes
    ----------
    files
        By name, what writes it.
    sources, output, options
        For quantize; names of files are relative to the folder of the case.
    error, words
        What is raised, and what its message has in it.
    """

    error: type[DkmeansError]
    words: tuple[str, ...]
    files: dict = field(default_factory=lambda: {"a.png": png})
    sources: tuple[str, ...] = ("a.png",)
    output: str = "out.png"
    options: dict = field(default_factory=dict)

    @property
    def arguments(self):
        """The same, for the command line."""
        words = ["quantize", "--quiet", *self.sources, self.output]
        for name, value in self.options.items():
            option = {"n_colors": "--colors"}.get(name, f"--{name.replace('_', '-')}")
            words += [option] if value is True else [option, str(value)]
        return words

    @property
    def status(self):
        return 2 if self.error is InvalidArgumentError else 1


def bad_source(name, write, *words):
    """Return the case of a single picture that cannot be read."""
    return Case(SourceError, (f"{name}: ", *words), {name: write} if write else {}, (name,))


def bad_option(words, *, output="out.png", **options):
    return Case(InvalidArgumentError, words, output=output, options=options)


def two(folder):
    folder.mkdir()
    png(folder / "a.png")
    png(folder / "b.png")


def one(folder):
    folder.mkdir()
    png(folder / "a.png")


CASES = {
    "missing": bad_source("nowhere.png", None, "no such file"),
    "empty": bad_source("a.png", lambda path: path.touch(), "the file is empty"),
    "text": bad_source("a.png", lambda path: path.write_text("hello"), "not a JPEG, PNG, WebP"),
    "other-format": bad_source("a.gif", png, "not a JPEG, PNG, WebP or TIFF"),
    "cut-png": bad_source("a.png", cut, "truncated"),
    "cut-jpg": bad_source("a.jpg", cut, "truncated"),
    "cut-tif": bad_source("a.tif", cut),
    "cut-webp": bad_source("a.webp", cut),
    "zero-pixels-png": bad_source("a.png", forged_png(0, 10)),
    "zero-pixels-zarr": bad_source("a.zarr", no_pixels, "has no pixels"),
    "huge-png": bad_source("a.png", forged_png(10**6, 10**6), "claims 1000000 x 1000000 pixels"),
    "huge-tif": bad_source("a.tif", forged_tiff, "claims 1000000 x 1000000 pixels"),
    "alpha": bad_source(
        "a.png",
        lambda path: Image.fromarray(PIXELS).convert("RGBA").save(path),
        "not yet supported: alpha",
    ),
    "no-images": bad_source("folder", lambda path: path.mkdir(), "no images in this folder"),
    "no-match": Case(SourceError, ("*.tif: nothing matches",), sources=("*.tif",)),
    "unlisted-store": bad_source("s.zarr", unlisted_store, "ingest again"),
    "all-fail": Case(
        SourceError,
        ("a.jpg: ", "truncated", "(1 other source failed too.)"),
        {"in": lambda path: (path.mkdir(), cut(path / "a.jpg"), cut(path / "b.png"))},
        ("in",),
        "out",
    ),
    "all-fail-sooner-or-later": Case(
        SourceError,
        ("a.jpg: ", "truncated", "(2 other sources failed too.)"),
        {
            "in": lambda path: (path.mkdir(), cut(path / "a.jpg"), (path / "b.png").touch()),
            "c.png": lambda path: path.touch(),
        },
        ("in", "c.png"),
        "out",
    ),
    "leads-out": Case(
        SourceError,
        ("s.zarr/../../x: ", "no file inside an output folder"),
        {"s.zarr": store_naming("../../x")},
        ("s.zarr",),
        "out",
    ),
    "leads-to-root": Case(
        SourceError,
        ("/x: ", "no file inside an output folder"),
        {"s.zarr": store_naming("/x")},
        ("s.zarr",),
        "out.zarr",
    ),
    "0-colors": bad_option(("colors is 0", "from 2 to 256 (for a png output)"), n_colors=0),
    "1-color": bad_option(("colors is 1", "from 2 to 256"), n_colors=1),
    "257-colors": bad_option(("colors is 257", "from 2 to 256"), n_colors=257),
    "257-colors-tif": bad_option(("colors is 257",), output="out.tif", n_colors=257),
    "257-colors-folder": bad_option(("colors is 257",), output="out", n_colors=257),
    "65537-colors": bad_option(("65537", "to 65536"), output="out.zarr", n_colors=65537),
    "negative-seed": bad_option(("seed is -1",), seed=-1),
    "no-start": bad_option(("init is 0",), n_init=0),
    "dither": bad_option(("not yet supported", "blue-noise"), dither="blue-noise"),
    "no-staging": bad_option(("staging is 'nowhere'", "existing folder"), staging="nowhere"),
    "extension": bad_option(
        ("out.gif", "must end in .png, .tif, .tiff or .zarr"), output="out.gif"
    ),
    "no-source": Case(
        InvalidArgumentError, ("a source is ''", "a path, or a URL"), sources=("a.png", "")
    ),
    "no-output": bad_option(("output is ''", "must be a path"), output=""),
    "two-to-one": Case(
        InvalidArgumentError,
        ("out.png", "holds one picture, but the sources are 2"),
        {"a.png": png, "b.png": png},
        ("a.png", "b.png"),
    ),
    "one-of-a-folder": Case(
        InvalidArgumentError,
        ("out.png", "holds one picture, but the sources are a folder or a pattern"),
        {"in": one},
        ("in",),
    ),
    "among-a-pattern": Case(
        OutputError, ("in/o", "is also a source"), {"in": two}, ("in/*",), "in/o"
    ),
    "same-name": Case(
        InvalidArgumentError,
        ("2 sources would be written to", "out/a.png.png"),
        {"in": two},
        ("in/a.png", "in/a.png"),
        "out",
    ),
    "no-array": Case(
        InvalidArgumentError,
        ("zarr.json.png: no Zarr array can have the name",),
        {"a.png": png, "zarr.json.png": png},
        ("a.png", "zarr.json.png"),
        "out.zarr",
    ),
    "exists": Case(OutputError, ("out.png: exists already",), {"a.png": png, "out.png": png}),
    "exists-zarr": Case(
        OutputError, ("out.zarr: exists",), {"a.png": png, "out.zarr": no_pixels}, output="out.zarr"
    ),
    "exists-in-folder": Case(
        OutputError, ("out/b.png: exists",), {"in": two, "out": two}, ("in/b.png",), "out"
    ),
    "is-a-folder": Case(
        OutputError,
        ("out.png: is a folder",),
        {"a.png": png, "out.png": two},
        options={"overwrite": True},
    ),
    "is-a-file": Case(
        OutputError, ("out: is a file",), {"in": two, "out": Path.touch}, ("in",), "out"
    ),
    "is-the-source": Case(
        OutputError, ("a.png: is also a source",), output="a.png", options={"overwrite": True}
    ),
    "is-a-source": Case(
        OutputError,
        ("in/a.png: is also a source",),
        {"in": two},
        ("in/*.png",),
        "in",
        {"overwrite": True},
    ),
    "inside-the-source": Case(
        OutputError, ("in/out: lies inside the source in",), {"in": two}, ("in",), "in/out"
    ),
    "inside-the-store": Case(
        OutputError,
        ("lies inside the source",),
        {"s.zarr": store_naming("p")},
        ("s.zarr",),
        "s.zarr/out.png",
    ),
    "no-parent": Case(OutputError, ("no: no such folder; create it first",), output="no/out.png"),
    "no-parent-zarr": Case(OutputError, ("no: no such folder",), output="no/out.zarr"),
    "long-name": Case(OutputError, ("File name too long",), output="a" * 300 + ".png"),
    "long-source": Case(SourceError, ("File name too long",), sources=("a" * 300 + ".png",)),
}


def make(case, folder):
    folder.mkdir()
    for name, write in case.files.items():
        write(folder / name)


def contents(folder):
    """Everything below a folder, with what is in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("name", CASES)
def test_one_clear_error(tmp_path, monkeypatch, name):
    case = CASES[name]
    make(case, tmp_path / "case")
    before = contents(tmp_path / "case")
    monkeypatch.chdir(tmp_path / "case")
    with pytest.raises(case.error) as caught:
        quantize(list(case.sources), case.output, **case.options)
    message = str(caught.value)
    for word in case.words:
        assert word in message
    assert message.endswith((".", ")"))
    assert contents(tmp_path / "case") == before
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


# Runs the program once for each line of JSON, as if each were a process of its own: starting one
# takes as long as a hundred of these.
RUN_ALL = """
import json, os, sys
from dkmeans._cli import main
ended = {}
for line in sys.stdin:
    name, folder, arguments = json.loads(line)
    os.chdir(folder)
    streams = [os.open(f"{folder}.{number}", os.O_RDWR | os.O_CREAT) for number in (1, 2)]
    kept = [os.dup(number) for number in (1, 2)]
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
    sys.argv = ["dkmeans", *arguments]
    status = "none"
    try:
        main()
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    for number, stream in enumerate(kept, 1):
        os.dup2(stream, number)
    said = []
    for stream in streams:
        os.lseek(stream, 0, os.SEEK_SET)
        said.append(os.read(stream, 100_000).decode())
    ended[name] = [status, *said]
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """How the program ended for each case: status, output, errors, and its folder before."""
    top = tmp_path_factory.mktemp("cases")
    lines, before = [], {}
    for name, case in CASES.items():
        make(case, top / name)
        before[name] = contents(top / name)
        lines.append(json.dumps([name, str(top / name), case.arguments]))
    program = [sys.executable, "-c", RUN_ALL]
    done = subprocess.run(
        program, input="\n".join(lines), capture_output=True, text=True, check=True
    )
    return {
        name: (*how, before[name], contents(top / name))
        for name, how in json.loads(done.stdout).items()
    }


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_a_status(ended, name):
    case = CASES[name]
    status, output, errors, before, after = ended[name]
    assert status == case.status
    assert errors.count("\n") == 1, errors
    assert errors.startswith("dkmeans: error: ")
    for word in case.words:
        assert word in errors
    assert "Traceback" not in output
    assert after == before


def test_a_palette_with_too_many_colours(tmp_path):
    png(tmp_path / "a.png")
    palette = Palette(np.arange(900).reshape(300, 3) % 251)
    with pytest.raises(InvalidArgumentError, match="the number of colours in palette is 300"):
        quantize(tmp_path / "a.png", tmp_path / "out.png", palette=palette)
    with pytest.raises(InvalidArgumentError, match="n_colors is 0"):
        quantize(tmp_path / "a.png", tmp_path / "out.zarr", palette=palette, n_colors=0)
    quantize(tmp_path / "a.png", tmp_path / "out.zarr", palette=palette)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"palette": "p.gpl"}, "palette is of type str; it must be a dkmeans.Palette"),
        ({"palette": np.zeros((2, 3))}, "palette is of type ndarray; it must be"),
        ({"staging": 5}, "staging is '5'; it must be an existing folder"),
    ],
)
def test_options_of_other_types(tmp_path, option, words):
    png(tmp_path / "a.png")
    with pytest.raises(InvalidArgumentError, match=words):
        quantize(tmp_path / "a.png", tmp_path / "out.png", **option)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("random", "init is 'random'; it must be one of k-means++"),
        ([[1, 2, 3]], r"init has shape \(1, 3\); it must be \(n_colors, bands\) = \(2, 3\)"),
        ([[1, 2, 3], [4, 5, np.nan]], "all finite"),
        ([[1, 2, 3], [4, 5]], "init is no array of numbers"),
        (["a", "b"], "init is no array of numbers"),
        ([[1, 2, 3], [4, 5, 6j]], "init is no array of numbers"),
    ],
)
def test_bad_starts(tmp_path, init, words):
    png(tmp_path / "a.png")
    with pytest.raises(InvalidArgumentError, match=words):
        quantize(tmp_path / "a.png", tmp_path / "out.png", n_colors=2, init=init)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n_colors", 2.5),
        ("n_colors", "8"),
        ("max_iter", 0),
        ("tol", -1),
        ("tol", np.nan),
        ("seed", None),
        ("compression", "best"),
        ("dither", "floyd-steinberg"),
    ],
)
def test_bad_options(tmp_path, option, value):
    png(tmp_path / "a.png")
    with pytest.raises(InvalidArgumentError, match=f"{option} is "):
        quantize(tmp_path / "a.png", tmp_path / "out.png", **{option: value})


# What the file system refuses


@contextmanager
def mounted(folder, options):
    """Mount a file system in memory, which takes the right to mount."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a small file system is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - found above


@pytest.fixture
def noise(tmp_path):
    """A picture of 1.5 megapixels that no encoder makes small."""
    image = np.random.default_rng(0).integers(0, 256, (1200, 1280, 3), np.uint8)
    path = tmp_path / "noise.tif"
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb")
    return path


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("output", ["out.png", "out.tif", "out.zarr", "out"])
def test_a_full_disk(tmp_path, noise, output):
    with mounted(tmp_path / "small", "size=1m"):
        with pytest.raises(OutputError) as caught:
            quantize(noise, tmp_path / "small" / output, n_colors=256, n_init=1, max_iter=2)
        assert str(caught.value).startswith(f"{tmp_path / 'small' / output}: cannot be written")
        assert "the disk is full; free some space and run again" in str(caught.value)
        assert_can_go_on(caught.value, tmp_path / "small")


def assert_can_go_on(error, folder):
    """Check that a job has left what it had done, if it says so, and nothing else."""
    kept = {path.parent.parent for path in folder.rglob("fit.json")}
    assert [str(place) in note for note in getattr(error, "__notes__", []) for place in kept] == [
        True
    ] * len(kept)
    others = [
        path for path in folder.rglob("*") if not any(p in kept for p in (path, *path.parents))
    ]
    assert [path for path in others if path.is_file()] == []


def test_a_full_disk_while_joining_parts(tmp_path, noise):
    """There is room for the parts, but not for the file made of them."""
    with mounted(tmp_path / "small", "size=2m"):
        with pytest.raises(OutputError, match="the disk is full") as caught:
            quantize(noise, tmp_path / "small" / "out.png", n_init=1, max_iter=2)
        assert_can_go_on(caught.value, tmp_path / "small")


def test_a_disk_that_fills_up_half_way(tmp_path, noise):
    """Of several pictures, those that are finished stay."""
    (tmp_path / "in").mkdir()
    png(tmp_path / "in" / "a.png")
    noise.rename(tmp_path / "in" / "b.tif")
    with mounted(tmp_path / "small", "size=1m"):
        with pytest.raises(OutputError, match="the disk is full"):
            quantize(tmp_path / "in", tmp_path / "small" / "out", n_init=1, max_iter=2)
        left = sorted(path.name for path in (tmp_path / "small").glob("out/*.png"))
        assert left in ([], ["a.png"])
        for name in left:
            assert np.asarray(Image.open(tmp_path / "small" / "out" / name)).shape == (90, 120)


def test_a_full_disk_for_a_store(tmp_path, noise):
    with mounted(tmp_path / "small", "size=1m"):
        with pytest.raises(OutputError, match="the disk is full"):
            ingest(noise, tmp_path / "small" / "s.zarr")
        assert list((tmp_path / "small").iterdir()) == []


def test_a_full_disk_for_waiting_pixels(tmp_path):
    """Another program takes the room that there was."""
    png(tmp_path / "a.png")

    class Fill:
        def begin(self, *_):
            with pytest.raises(OSError, match="No space left"):
                (tmp_path / "small" / "other").write_bytes(bytes(2 << 20))

        def advance(self, nbytes):
            pass

        def end(self):
            pass

    with mounted(tmp_path / "small", "size=1m"):
        with pytest.raises(OutputError, match=rf"^{tmp_path}/small/.*raw: .* \(the disk is full"):
            quantize(
                tmp_path / "a.png",
                tmp_path / "out.png",
                staging=tmp_path / "small",
                progress=Fill(),
            )
        assert files_in(tmp_path / "small") == ["other"]
    assert not (tmp_path / "out.png").exists()


def test_a_read_only_disk(tmp_path):
    png(tmp_path / "a.png")
    with mounted(tmp_path / "fixed", "size=1m,ro"):
        for output in ("out.png", "out.zarr", "out", "deep/out"):
            with pytest.raises(OutputError, match="Read-only file system") as caught:
                quantize(tmp_path / "a.png", tmp_path / "fixed" / output)
            assert str(tmp_path / "fixed" / output) in str(caught.value)
        with pytest.raises(OutputError, match="Read-only file system"):
            ingest(tmp_path / "a.png", tmp_path / "fixed" / "s.zarr")
        with pytest.raises(OutputError, match=f"^{tmp_path}/fixed/.* .Read-only file system"):
            quantize(tmp_path / "a.png", tmp_path / "out.png", staging=tmp_path / "fixed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "fixed"]


@pytest.fixture
def open_folder():
    """A folder on a way that everybody may go."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def as_nobody():
    """Give up the rights of root, to whom nothing is forbidden."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_must_not_be_read(open_folder):
    top = open_folder / "in"
    good, file, listed, closed = (top / name for name in ("b.png", "a.png", "listed", "closed"))
    for folder in (top, listed, closed):
        folder.mkdir()
        png(folder / "b.png")
    png(file)
    file.chmod(0)
    closed.chmod(0)
    listed.chmod(0o444)  # its names can be read, but nothing more
    (open_folder / "out").mkdir()
    (open_folder / "out").chmod(0o777)  # whatever is masked when it is made
    try:
        with as_nobody():
            for source in (file, closed, closed / "b.png", listed, listed / "b.png"):
                with pytest.raises(SourceError, match="Permission denied") as caught:
                    quantize(source, open_folder / "out" / "x")
                assert str(source) in str(caught.value)
            result = quantize(top, open_folder / "out")
            with pytest.raises(SourceError, match="Permission denied") as caught:
                quantize(top / "*" / "*.png", open_folder / "out" / "x")
            assert str(listed / "b.png") in str(caught.value)
    finally:
        listed.chmod(0o755)
        closed.chmod(0o755)
    failed = {report.source: report.error for report in result.report if report.error}
    assert list(failed) == [str(file), str(listed / "b.png"), str(closed)]
    for path, error in failed.items():
        assert error == f"{path}: cannot be read (Permission denied)."
    assert [report.source for report in result.report if not report.error] == [str(good)]
    assert files_in(open_folder / "out") == ["b.png"]


def test_where_nothing_must_be_written(open_folder):
    png(open_folder / "a.png")
    (open_folder / "out").mkdir(mode=0o555)
    (open_folder / "no-entry").mkdir(mode=0o600)
    with as_nobody():
        for output in ("out/a.png", "out/a.zarr", "out", "out/new", "no-entry/a.png", "no-entry/x"):
            with pytest.raises(OutputError) as caught:
                quantize(open_folder / "a.png", open_folder / output)
            assert str(open_folder / output) in str(caught.value)
            assert "Permission denied" in str(caught.value)
        outputs = str(open_folder / "no-entry" / "x" / "a.png"), str(open_folder / "out" / "a.png")
        plans = [plan(open_folder / "a.png", output, n_colors=4) for output in outputs]
    assert plans[0].passes == plans[1].passes
    (open_folder / "out").chmod(0o755)
    (open_folder / "no-entry").chmod(0o755)
    assert files_in(open_folder) == ["a.png"]


def increase(number):
    return number + 1


def test_kernels_compile_where_no_cache_can_be(monkeypatch):
    from numba.core import caching  # noqa: PLC0415 - an inner part, wanted here only

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert kernels.kernel(increase)(1) == 2


def test_kernels_compile_where_the_cache_cannot_be_written_any_more(monkeypatch, open_folder):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(open_folder))
    compiled = kernels.kernel(increase)
    open_folder.chmod(0o555)
    with as_nobody():
        assert compiled(1) == 2
    open_folder.chmod(0o777)
    assert compiled(1.0) == 2
    assert list(open_folder.rglob("*.nbc")), "the second signature is kept"


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_kernels_compile_where_the_cache_is_damaged(monkeypatch, tmp_path, suffix):
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert kernels.kernel(increase)(1) == 2
    [file] = tmp_path.rglob(f"*.{suffix}")
    file.write_bytes(b"")
    assert kernels.kernel(increase)(1) == 2
    assert file.stat().st_size > 0, "what was compiled is kept again"


# Interrupts


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A picture that takes seconds to write in small."""
    path = tmp_path_factory.mktemp("large") / "large.tif"
    image = np.random.default_rng(0).integers(0, 12, (4096, 4096, 3), np.uint8) * np.uint8(20)
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb")
    return path


@pytest.fixture
def interruptible():
    """Take SIGINT as Python does by default: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("output", "moment", "options"),
    [
        ("out.png", ".*.dkmeans", ()),
        ("out.png", ".*.dkmeans/*/*.part", ()),
        ("out.zarr", ".*.dkmeans/*/store.zarr/c", ()),
        ("out", "out/.*.dkmeans/*/*.part", ()),
        ("out.png", ".*.dkmeans/*/*.part", ("--workers", "2")),
    ],
)
def test_ctrl_c(large, tmp_path, output, moment, options):
    program = [sys.executable, "-m", "dkmeans", "quantize", str(large), output, "--n-init", "1"]
    process = subprocess.Popen(
        [*program, "--compression", "small", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    patience = time.monotonic() + 120
    while not any(tmp_path.glob(moment)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - start < 15
    said = "dkmeans: interrupted; nothing was left half-written"
    workspace = (
        tmp_path / output / f".{output}.dkmeans"
        if output == "out"
        else tmp_path / f".{output}.dkmeans"
    )
    if workspace.exists():  # the palette had been found
        said += f"; what is done is kept in {workspace}; --resume goes on from there"
        assert list(workspace.glob("*/fit.json"))
    else:
        assert list(tmp_path.iterdir()) == []
    assert errors.splitlines()[-1] == said
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob("*.raw"))
