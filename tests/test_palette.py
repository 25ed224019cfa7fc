"""Palettes and their files, against Pillow and against bytes written by hand."""

import copy
import dataclasses
import errno
import json
import os
import pickle
import re
import stat
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dkmeans._palette import MAX_PALETTE, Palette
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError

SUFFIXES = (".gpl", ".act", ".json", ".png", ".txt")
SMALL = (".act", ".png")  # hold 256 colours
NAMED = (".gpl", ".json")


def make(k, *, shares=False, names=False):
    rng = np.random.default_rng(k)
    weights = rng.random(k) + 1e-9
    return Palette(
        rng.integers(0, 256, (k, 3), np.uint8),
        weights / weights.sum() if shares else None,
        [f"colour  {i} é" if i % 2 else "" for i in range(k)] if names else None,
    )


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# The class


def test_holds_frozen_copies():
    given_colors = np.array([[1, 2, 3], [4, 5, 6]], np.int64)
    palette = Palette(given_colors, [0.25, 0.75], ["a", ""])
    given_colors[:] = 0
    assert palette.colors.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert palette.colors.dtype == np.uint8
    assert palette.shares.dtype == np.float64
    assert palette.names == ("a", "")
    assert len(palette) == 2
    assert palette.hex == ("#010203", "#040506")
    assert repr(palette) == "<Palette of 2: #010203, #040506>"
    with pytest.raises(ValueError, match="read-only"):
        palette.colors[0, 0] = 9
    with pytest.raises(ValueError, match="read-only"):
        palette.shares[0] = 9
    with pytest.raises(dataclasses.FrozenInstanceError):
        palette.colors = given_colors


def test_equal_by_content():
    one, two = make(5, shares=True, names=True), make(5, shares=True, names=True)
    assert one == two
    assert hash(one) == hash(two)
    assert one != Palette(one.colors)
    assert one != dataclasses.replace(one, names=None)
    assert one != dataclasses.replace(one, colors=one.colors ^ 1)
    assert Palette([[0, 0, 0]], [0.0]) == Palette([[0, 0, 0]], [-0.0])
    assert Palette([[0, 0, 0]], names=[""]) == Palette([[0, 0, 0]])
    assert one != "palette"


def test_travels_frozen():
    palette = make(3, shares=True, names=True)
    for other in (pickle.loads(pickle.dumps(palette)), copy.deepcopy(palette)):  # noqa: S301 - ours
        assert other == palette
        assert not other.colors.flags.writeable
        assert not other.shares.flags.writeable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "shape"),
        (([1, 2, 3],), "shape"),
        (([[1, 2, 3, 4]],), "shape"),
        ((np.zeros((MAX_PALETTE + 1, 3), np.uint8),), "65536"),
        (([[1, 2], [3]],), "three integers"),
        (([[0, 0, 256]],), "0 to 255"),
        (([[0, 0, -1]],), "0 to 255"),
        (([[0.0, 0.0, 0.5]],), "integers"),
        (([[True, False, True]],), "integers"),
        (([["a", "b", "c"]],), "integers"),
        (([[0, 0, 0]], [1.0, 0.0]), "shape"),
        (([[0, 0, 0]], [0.5]), "sum to 0.5"),
        (([[0, 0, 0]], [np.nan]), "fractions"),
        (([[0, 0, 0]] * 2, [-1.0, 2.0]), "fractions"),
        (([[0, 0, 0]], ["much"]), "numbers"),
        (([[0, 0, 0]], None, ["a", "b"]), "2 names for 1 colours"),
        (([[0, 0, 0]] * 3, None, "abc"), "1 names for 3 colours"),
        (([[0, 0, 0]], None, ["a\nb"]), "one line"),
        (([[0, 0, 0]], None, ["\x1b[31m"]), "one line"),
        (([[0, 0, 0]], None, ["\ud800"]), "one line"),
        (([[0, 0, 0]], None, [" a"]), "one line"),
        (([[0, 0, 0]], None, [7]), "one line"),
        (([[0, 0, 0]], None, 7), "names is 7; it must be a list of texts"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        Palette(*arguments)


# Files that are well formed


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("k", [1, 2, 15, 16, 17, 255, 256, 257, MAX_PALETTE])
def test_round_trip(tmp_path, suffix, k):
    palette = make(k, shares=True, names=True)
    path = tmp_path / f"p{suffix.upper()}"
    if k > 256 and suffix in SMALL:
        with pytest.raises(InvalidArgumentError, match="at most 256"):
            palette.save(path)
        assert list(tmp_path.iterdir()) == []
        return
    palette.save(path)
    kept = Palette(
        palette.colors,
        palette.shares if suffix == ".json" else None,
        palette.names if suffix in NAMED else None,
    )
    assert Palette.load(path) == kept
    assert Palette.load(str(path)) == kept
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("k", [1, 2, 16, 17, 255, 256])
def test_png_as_pillow_sees_it(tmp_path, k):
    palette = make(k)
    palette.save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        image.load()
        assert image.mode == "P"
        assert image.info.get("transparency") is None
        assert np.array_equal(np.reshape(image.getpalette(), (-1, 3)), palette.colors)
        assert image.size == (32 * min(k, 16), 32 * -(-k // 16))
        indices = np.asarray(image)
    assert np.array_equal(np.unique(indices), np.arange(k))
    assert indices[0, 0] == 0
    assert indices[-1, -1] == k - 1


@pytest.mark.parametrize("k", [2, 3, 16, 200])
def test_png_that_pillow_wrote(tmp_path, k):
    palette = make(k)
    image = Image.fromarray(np.arange(k, dtype=np.uint8)[None], "L")
    image.putpalette(palette.colors.tobytes())
    image.save(tmp_path / "p.png", transparency=0, dpi=(72, 72), optimize=False)
    assert Palette.load(tmp_path / "p.png") == palette


def test_act_byte_by_byte(tmp_path):
    Palette([[1, 2, 3], [4, 5, 6]]).save(tmp_path / "two.act")
    two = (tmp_path / "two.act").read_bytes()
    assert two == bytes([1, 2, 3, 4, 5, 6]) + bytes(762) + bytes([0, 2, 0xFF, 0xFF])
    Palette([[i, i, i] for i in range(256)]).save(tmp_path / "all.act")
    assert (tmp_path / "all.act").read_bytes() == bytes(i // 3 for i in range(768))


def test_gpl_by_hand(tmp_path):
    text = (
        "\ufeffGIMP Palette\r\nName: Brand\r\nColumns: 4\r\n# ours\r\n\r\n"
        "255 128   0\torange\r\n  0 0 0\r\n1 2 3   very  dark\tblue # not a comment\r\n"
    )
    palette = Palette.load(write(tmp_path / "p.gpl", text))
    assert palette.hex == ("#ff8000", "#000000", "#010203")
    assert palette.names == ("orange", "", "very  dark blue # not a comment")
    Palette([[255, 128, 0], [0, 0, 0]], names=["orange", ""]).save(tmp_path / "q.gpl")
    assert (tmp_path / "q.gpl").read_text() == (
        "GIMP Palette\nName: dkmeans, 2 colours\nColumns: 16\n#\n255 128   0\torange\n  0   0   0\n"
    )


def test_txt_by_hand(tmp_path):
    text = (
        "# QGIS Generated Color Map Export File\nINTERPOLATION:EXACT\nnv 0 0 0 0\n"
        "1,4,5,6,255,a label, with commas\n0 1 2 3\n2\t7\t8\t9\t0\n3:10:11:12\n"
    )
    palette = Palette.load(write(tmp_path / "p.txt", text))
    assert palette.colors.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    palette.save(tmp_path / "q.txt")
    assert (tmp_path / "q.txt").read_text() == (
        "0 1 2 3 255\n1 4 5 6 255\n2 7 8 9 255\n3 10 11 12 255\n"
    )


def test_json_by_hand(tmp_path):
    Palette([[255, 128, 0], [0, 0, 0]], [1 / 3, 2 / 3]).save(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text()) == {
        "format": "dkmeans-palette",
        "version": 1,
        "colors": ["#ff8000", "#000000"],
        "shares": [1 / 3, 2 / 3],
        "names": None,
    }


# Files that are not


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(depth, kind, colors, length=13):
    header = struct.pack(">IIBBBBB", 1, 1, depth, kind, 0, 0, 0)[:length]
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"PLTE", bytes(colors))


def our_json(**changes):
    content = {"format": "dkmeans-palette", "version": 1, "colors": ["#000000"]}
    content |= {"shares": None, "names": None} | changes
    return json.dumps({key: value for key, value in content.items() if value != "left out"})


@pytest.mark.parametrize(
    ("suffix", "data", "message"),
    [
        (".gpl", "", "line 1: '' is no GIMP palette; expected 'GIMP Palette'"),
        (".gpl", "JASC-PAL\n", "line 1: 'JASC-PAL'"),
        (".gpl", "\nGIMP Palette\n", "line 2"),
        (".gpl", "GIMP Palette\n", "0 colours; expected 1 to 65536"),
        (".gpl", "GIMP Palette\n0 0 0\n\n0 0 256\n", "line 4: '0 0 256'.*0 to 255"),
        (".gpl", "GIMP Palette\n0 0\n", "line 2"),
        (".gpl", "GIMP Palette\n0 0 0\nName: late\n", "line 3"),
        (".gpl", "GIMP Palette\n0 0 0 \x1b[0m\n", "line 2"),
        (".gpl", "GIMP Palette\n٣ 0 0\n", "line 2"),
        (".gpl", b"GIMP Palette\n0 0 0 \xff\n", "line 2: not UTF-8"),
        (".gpl", "GIMP Palette\n" + "0 0 0\n" * (MAX_PALETTE + 1), "65537 colours"),
        (".gpl", "GIMP Palette\n" + "#" * (8 << 20), "larger than 8 MiB"),
        (".act", bytes(767), "767 bytes; expected 768 or 772"),
        (".act", bytes(9 << 20), "far more"),
        (".act", bytes(772), "0 colours"),
        (".act", bytes(768) + b"\x01\x01\xff\xff", "257 colours"),
        (".png", b"\xff\xd8\xff", "not a PNG"),
        (".png", png(8, 2, [0, 0, 0]), "not an indexed PNG"),
        (".png", png(8, 3, [0, 0, 0], length=12), "not an indexed PNG"),
        (".png", png(1, 3, [0] * 9), "9 bytes does not fit"),
        (".png", png(8, 3, [0] * 4), "4 bytes does not fit"),
        (".png", png(8, 3, []), "0 bytes does not fit"),
        (".png", png(8, 3, [0] * 3)[:-1], "PLTE chunk is damaged"),
        (".png", png(8, 3, [0] * 3)[:33] + chunk(b"IDAT", b"") + bytes(12), "no palette before"),
        (".png", png(8, 3, [0] * 3)[:33], "no palette before"),
        (".txt", "", "0 colours"),
        (".txt", "0 0 0 0\n1 0 0 0 256\n", "line 2"),
        (".txt", "0 0 0 0\n0.5 0 0 0\n", "line 2: '0.5 0 0 0' is no colour"),
        (".txt", "0 0 0\n", "line 1"),
        (".txt", "0 red\n", "line 1"),
        (".txt", "\n0 0 0 0\n0 1 1 1\n", "line 3: the index 0 occurs twice"),
        (".txt", "0 0 0 0\n2 0 0 0\n", "no colour 1"),
        (".json", "", "line 1: not JSON"),
        (".json", '{"a": 1,\n}', "line 2: not JSON"),
        (".json", "[" * 100_000, "not the JSON of a palette"),
        (".json", "1" * 5000, "not the JSON of a palette"),
        (".json", b"\xff", "not the JSON of a palette"),
        (".json", " " * (9 << 20), "larger than 8 MiB"),
        (".json", "[]", "not a palette"),
        (".json", our_json(format="other"), "not a palette"),
        (".json", our_json(version=2), '"version" is 2; expected 1'),
        (".json", our_json(version=True), '"version" is True'),
        (".json", our_json(version=[]), '"version" is a list'),
        (".json", our_json(names="left out"), "lacks.*'names'"),
        (".json", our_json(alpha=1), "unknown.*'alpha'"),
        (".json", our_json(colors=None), '"colors" is None; expected a list'),
        (".json", our_json(colors=[]), "0 colours"),
        (".json", our_json(colors=["#00000"]), r'"colors"\[0\] is \'#00000\''),
        (".json", our_json(colors=[{}]), r'"colors"\[0\] is an object'),
        (".json", our_json(shares=[2]), r'"shares"\[0\] is 2'),
        (".json", our_json(shares=[0.5]), "sum to 0.5"),
        (".json", our_json(shares=[True]), r'"shares"\[0\] is True'),
        (".json", our_json(shares=[float("nan")]), "NaN is no share"),
        (".json", our_json(shares=[]), "shape"),
        (".json", our_json(names=["a", "b"]), "2 names for 1 colours"),
        (".json", our_json(names=["\ud800"]), r"names\[0\]"),
    ],
)
def test_names_what_is_malformed(tmp_path, suffix, data, message):
    path = write(tmp_path / f"brand{suffix}", data)
    with pytest.raises(SourceError, match=message) as caught:
        Palette.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 300 + len(str(path))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_malformed_in_any_way(tmp_path, suffix):
    """Random bytes, valid files cut off, valid files with bytes changed: an error or a palette."""
    path = tmp_path / f"p{suffix}"
    make(20, shares=True, names=True).save(path)
    valid = path.read_bytes()

    def load(data):
        path.write_bytes(data)
        try:
            return Palette.load(path)
        except SourceError as error:
            assert str(path) in str(error)  # noqa: PT017 - a palette is as good

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data):
        kind = data.draw(st.sampled_from(["bytes", "text", "cut", "changed"]))
        if kind == "bytes":
            load(data.draw(st.binary(max_size=800)))
        elif kind == "text":
            first = {".gpl": "GIMP Palette\n"}.get(suffix, "")
            load((first + data.draw(st.text('0123456789 ,#\n\r"[]{}ab\u2028'))).encode())
        elif kind == "cut":
            n = data.draw(st.integers(0, len(valid) - 1))
            cut = load(valid[:n])
            # An .act file without its last words is one of 256 colours.
            assert cut is None or len(cut) <= 20 or (suffix, n) == (".act", 768)
        else:
            changed = bytearray(valid)
            for position in data.draw(st.lists(st.integers(0, len(valid) - 1), min_size=1)):
                changed[position] = data.draw(st.integers(0, 255))
            load(bytes(changed))

    check()


@pytest.mark.parametrize("name", ["p", "p.jpg", "gpl", ".gpl"])
def test_unknown_suffix(tmp_path, name):
    with pytest.raises(InvalidArgumentError, match=r"\.gpl, \.act, \.json, \.png, \.txt"):
        Palette.load(tmp_path / name)
    with pytest.raises(InvalidArgumentError, match=r"\.gpl, \.act, \.json, \.png, \.txt"):
        make(2).save(tmp_path / name)


@pytest.mark.parametrize("path", [None, 7, b"p.gpl", "", "a\0b.gpl"])
def test_what_is_no_path(path):
    for act in (Palette.load, make(2).save):
        with pytest.raises(
            InvalidArgumentError, match=re.escape(f"path is {path!r}; it must be a path")
        ):
            act(path)


def test_no_source(tmp_path):
    (tmp_path / "folder.gpl").mkdir()
    (tmp_path / "device.gpl").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe.gpl")
    for name, message in [
        ("none.gpl", "no such file"),
        ("folder.gpl", "not a regular file"),
        ("device.gpl", "not a regular file"),
        ("pipe.gpl", "not a regular file"),
    ]:
        with pytest.raises(SourceError, match=message):
            Palette.load(tmp_path / name)


# Writing


def test_existing_file_stays(tmp_path):
    path = write(tmp_path / "p.gpl", "mine")
    with pytest.raises(OutputError, match="or overwrite"):
        make(2).save(path)
    assert path.read_text() == "mine"
    make(2).save(path, overwrite=True)
    assert Palette.load(path) == make(2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.gpl"]


def test_mode_follows_umask(tmp_path):
    make(2).save(tmp_path / "p.gpl")
    write(tmp_path / "other", "")
    mode = stat.S_IMODE((tmp_path / "p.gpl").stat().st_mode)
    assert mode == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_no_folder(tmp_path):
    (tmp_path / "folder.gpl").mkdir()
    for name in ("none/p.gpl", "folder.gpl"):
        with pytest.raises(OutputError):
            make(2).save(tmp_path / name, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.gpl"]


def test_failure_leaves_no_litter(tmp_path, monkeypatch):
    path = write(tmp_path / "p.gpl", "mine")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"p\.gpl: cannot be written \(the disk is full"):
        make(2).save(path, overwrite=True)
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.gpl"]

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(2).save(path, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.gpl"]
