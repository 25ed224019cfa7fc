"""What people look at: progress and summaries, in a terminal and in a file."""

import io
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dkmeans import _report, _report_words
from dkmeans._palette import Palette
from dkmeans._report_progress import ConsoleProgress, notes
from dkmeans.images import ImageInfo, IngestResult, QuantizeResult, SourceReport

ESCAPE = "\x1b"


def plain_console():
    return Console(file=io.StringIO(), width=10_000, highlight=False, markup=False, emoji=False)


def terminal(width=100, colors="truecolor"):
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system=colors,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
        _environ={},
    )


def printed(console):
    return console.file.getvalue()


def without_escapes(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def entry(i=0, error=None):
    output = None if error else f"out/{i}.png"
    return SourceReport(f"in/{i}.jpg", output, error, 3000, 4000, 2_000_000, 500_000)


def result(k=4, n=1, **changes):
    shares = np.arange(k, 0, -1) / sum(range(k + 1))
    colors = np.random.default_rng(0).integers(0, 256, (k, 3), np.uint8)
    values = {
        "palette": Palette(colors, shares),
        "centers": colors.astype(float),
        "inertia": 1234567890.0,
        "psnr": 38.246,
        "n_distinct": 1_234_567,
        "n_pixels": 12_000_000 * n,
        "n_iter": 23,
        "stop_reason": "converged",
        "n_passes": 2,
        "bytes_read": 72_000_000 * n,
        "report": tuple(entry(i) for i in range(n)),
    }
    return QuantizeResult(**values | changes)


# Words


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (412.3 * 2**20, "412.3 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 50, "1,024.0 TiB"),
    ],
)
def test_size(nbytes, text):
    assert _report_words.size(nbytes) == text


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (1.1 * 2**30, 3 << 30, "1.1 of 3.0 GiB"),
        (412 << 20, 3 << 30, "412.0 MiB of 3.0 GiB"),
        (0, 0, "0 of 0 bytes"),
    ],
)
def test_part(done, total, text):
    assert _report_words.part(done, total) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (7.36, "7.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert _report_words.duration(seconds) == text


def test_pixels():
    numbers = (99_999, 39_000_000, 3_200_000_000_000)
    texts = ["99,999 pixels", "39.0 megapixels", "3,200.0 gigapixels"]
    assert [_report_words.pixels(n) for n in numbers] == texts


@given(st.text())
def test_printable(text):
    shown = _report_words.printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


def test_paths_within_the_working_folder_are_short(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert _report_words.shown_path(str(tmp_path / "a" / "b.png")) == str(Path("a", "b.png"))
    for path in ("a/b.png", "/elsewhere/b.png", "../b.png", "s3://bucket/b.zarr"):
        assert _report_words.shown_path(path) == path


# Progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_progress_in_lines():
    console, clock = plain_console(), Clock()
    progress = ConsoleProgress(console, clock)
    progress.begin("count colours", 100 << 20)
    for _ in range(10):  # a line each two seconds at most, though told each second
        clock.now += 1
        progress.advance(10 << 20)
    progress.end()
    progress.begin("write", 3_000_000, 1_000_000)
    clock.now += 2.5
    progress.advance(1_500_000)
    progress.end()
    assert printed(console).splitlines() == [
        "count colours: 100.0 MiB to read",
        "count colours: 20%, 20.0 of 100.0 MiB, 10.0 MiB/s, 8.0 s left",
        "count colours: 40%, 40.0 of 100.0 MiB, 10.0 MiB/s, 6.0 s left",
        "count colours: 60%, 60.0 of 100.0 MiB, 10.0 MiB/s, 4.0 s left",
        "count colours: 80%, 80.0 of 100.0 MiB, 10.0 MiB/s, 2.0 s left",
        "count colours: ended after 10 s, 10.0 MiB/s",
        "write: 2.9 MiB to read",
        "write: 50%, 1.4 of 2.9 MiB, 0 megapixels/s, 2.5 s left",
        "write: ended after 2.5 s, 1.4 of 2.9 MiB, 0 megapixels/s",
    ]


def test_progress_of_nothing():
    console = plain_console()
    progress = ConsoleProgress(console, Clock())
    progress.begin("count colours", 0, 0)
    progress.end()
    assert printed(console).endswith("count colours: ended after 0.0 s, 0 bytes/s\n")


@pytest.mark.parametrize("make", [plain_console, terminal])
def test_progress_from_many_threads(make):
    console = make()
    progress = ConsoleProgress(console)
    progress.begin("write", 8000 * 3, 8000)

    def work():
        for _ in range(1000):
            progress.advance(3)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.end()
    last = without_escapes(printed(console)).strip().splitlines()[-1]
    assert "write" in last
    if console.is_terminal:
        assert "100%" in last
        assert "23.4 of 23.4 KiB" in last
        assert re.search(r"megapixels/s +in \d+\.\d s$", last)
    else:
        assert last.startswith("write: ended after 0.")
        assert " of " not in last


@pytest.mark.parametrize("width", [80, 60])
def test_progress_fits_the_terminal(width):
    console = terminal(width)
    progress = ConsoleProgress(console)
    for name in ("count colours", "write"):
        progress.begin(name, 3_000_000_000, 1_000_000_000)
        progress.advance(1_500_000_000)
        progress.end()
    lines = without_escapes(printed(console)).replace("\r", "\n").splitlines()
    lines = [line for line in lines if line.strip()]
    assert all(len(line) <= width for line in lines)
    assert all(
        "50%" in line and " in 0." in line for line in (lines[-1], lines[0]) if "in 0" in line
    )
    assert ("megapixels/s" in lines[-1]) == (width == 80)
    assert re.search(r"50% .* 1\.4 of 2\.8 GiB .* in \d+\.\d s", lines[-1])
    assert printed(console).count(f"{ESCAPE}[?25l") == printed(console).count(f"{ESCAPE}[?25h")


def test_progress_goes_to_standard_error():
    code = (
        "from dkmeans._report_progress import ConsoleProgress as P\n"
        "p = P(); p.begin('a', 3); p.advance(3); p.end()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == ""
    assert re.fullmatch("a: 3 bytes to read\na: ended after 0.0 s, .*\n", ended.stderr)


COMPILES = """
import numpy as np
from dkmeans._kernels.colours import add_counts, interleave_bits
from dkmeans._report_progress import ConsoleProgress, notes
progress = ConsoleProgress()
with notes(progress):
    progress.begin("a", 3)
    interleave_bits(np.zeros(2, np.uint32), np.zeros(2, np.uint32))
    table = np.zeros(2, np.uint16)
    add_counts(table, table, np.zeros(2, np.uint32))
    progress.end()
"""


def test_compiling_is_told_once(tmp_path):
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    told = []
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, "-c", COMPILES], env=env, capture_output=True, text=True, check=True
        )
        told.append(ended.stderr.count("compiling kernels, once\n"))
    assert told == [1, 0]


def test_notes_end_with_the_work():
    console = Console(file=io.StringIO())
    logger = logging.getLogger("dkmeans")
    with notes(ConsoleProgress(console)):
        logger.info("between")
    logger.info("after")
    with notes(None):
        logger.info("quiet")
    assert console.file.getvalue() == "between\n"


# Memory


def test_peak_memory_remembers():
    code = (
        "import numpy; from dkmeans._report import peak_memory\n"
        "before = peak_memory(); a = numpy.ones(40 << 20, 'u1'); del a\n"
        "print(before, peak_memory())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    assert 10 << 20 < before < 300 << 20
    if Path("/proc/self/status").exists():
        assert after - before > 30 << 20


def test_peak_memory_counts_children():
    alone = _report.peak_memory()
    code = "import time; a = bytearray(50 << 20); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        together = _report.peak_memory()
        child.kill()
    assert together - alone > 50 << 20


# Summaries


def test_summary_in_a_file():
    console = plain_console()
    _report.print_quantized(result(), seconds=7.5, peak=512 << 20, console=console)
    lines = [line.rstrip() for line in printed(console).splitlines()]
    assert lines[0] == f"{result().palette.hex[0]}  40.0%"
    assert lines[4:14] == [
        "",
        "Colours       4 of 1,234,567 distinct",
        "Pixels        12.0 megapixels in 1 picture",
        "PSNR          38.25 dB",
        "Inertia       1.23457e+09",
        "Iterations    23, converged",
        "Read          68.7 MiB in 2 passes",
        "Time          7.5 s, 1.6 megapixels/s",
        "Peak memory   512.0 MiB",
        "",
    ]
    assert lines[14].split() == ["Source", "Output", "Before", "After", "Change"]
    assert lines[15].split() == ["in/0.jpg", "out/0.png", "1.9", "MiB", "488.3", "KiB", "-75%"]
    assert len(lines) == 16
    assert ESCAPE not in printed(console)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"psnr": float("inf"), "stop_reason": "exact"}, ["PSNR          lossless", "its own"]),
        ({"stop_reason": "max_iter"}, ["23, the most allowed (max_iter)"]),
        ({"stop_reason": "tol"}, ["23, until the centres hardly moved"]),
        ({"stop_reason": "new"}, ["Iterations    23, new"]),
        (
            {"stop_reason": "palette", "n_distinct": None, "n_passes": 1},
            ["Colours       4 given", "none, the palette was given", "in 1 pass\n"],
        ),
        ({"palette": Palette([[0, 0, 0]])}, ["#000000\n"]),
        ({"palette": Palette([[0, 0, 0]], [0.0])}, ["#000000   0.0%\n"]),
        ({"palette": Palette([[0, 0, 0]], names=["ink"])}, ["#000000  ink\n"]),
        ({"report": ()}, ["in 0 pictures"]),
    ],
)
@pytest.mark.parametrize("make", [plain_console, terminal])
def test_summary_of_other_results(make, changes, texts):
    console = make()
    _report.print_quantized(result(**changes), seconds=0, peak=0, console=console)
    shown = "\n".join(line.rstrip() for line in without_escapes(printed(console)).splitlines())
    for text in texts:
        assert text in shown + "\n"


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("k", [1, 5, 64, 65, 256, 1000])
def test_summary_in_a_terminal(width, k):
    console = terminal(width)
    _report.print_quantized(result(k, n=2), seconds=7.5, peak=512 << 20, console=console)
    text = without_escapes(printed(console))
    assert all(len(line) <= width for line in text.splitlines())
    for red, green, blue in result(k).palette.colors[:256].tolist():
        assert f"48;2;{red};{green};{blue}m" in printed(console)
    assert ("... and 744 more" in text) == (k == 1000)
    assert result(k).palette.hex[0] in text
    assert "38.25 dB" in text


def test_share_strip_has_the_right_proportions():
    console = terminal(100)
    palette = Palette([[255, 0, 0], [0, 255, 0], [0, 0, 255]], [0.5, 0.25, 0.25])
    _report.print_quantized(result(palette=palette), seconds=1, peak=1, console=console)
    strip = next(line for line in printed(console).splitlines() if "▌" in line)
    left = re.findall(r"38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▌+)", strip)
    halves = {}
    for *numbers, cells in left:
        for color in (tuple(numbers[:3]), tuple(numbers[3:])):
            halves[color] = halves.get(color, 0) + len(cells)
    assert halves == {("255", "0", "0"): 64, ("0", "255", "0"): 32, ("0", "0", "255"): 32}


@pytest.mark.parametrize("colors", ["standard", None])
def test_no_swatches_where_colours_are_wrong(colors):
    console = terminal(100, colors)
    _report.print_quantized(result(), seconds=1, peak=1, console=console)
    assert "▌" not in printed(console)
    assert result().palette.hex[0] in printed(console)


def test_many_sources_are_shortened():
    console = plain_console()
    report = tuple(entry(i, "in/3.jpg: bad." if i == 3 else None) for i in range(82))
    _report.print_quantized(result(n=82, report=report), seconds=1, peak=1, console=console)
    text = printed(console)
    assert "in/10.jpg" in text
    assert "in/3.jpg" not in text
    assert "in/11.jpg" not in text
    assert "... and 71 more" in text
    assert re.search(r"81 pictures +154.5 MiB +38.6 MiB +-75%\n", text)


def test_changes_of_size():
    sizes = (
        (2_000_000, 4_200_000),
        (1000, 1999),
        (1000, 10),
        (1000, 4),
        (10**9, 1000),
        (5, 0),
        (0, 9),
    )
    report = tuple(SourceReport("a", "b", None, 1, 1, *of) for of in sizes)
    console = plain_console()
    _report.print_quantized(result(report=report), seconds=1, peak=1, console=console)
    changes = [line.split()[-1] for line in printed(console).splitlines()[-8:-1]]
    assert changes == ["2.1x", "+100%", "-99%", "1/250", "1/1000000", "-100%", "+0%"]


def test_long_paths_keep_their_ends():
    console = terminal(80)
    long = SourceReport("a/" * 50 + "x.jpg", "/" + "b/" * 50 + "x.png", None, 1, 1, 0, 10)
    _report.print_quantized(result(report=(long,)), seconds=1, peak=1, console=console)
    line = without_escapes(printed(console)).strip().splitlines()[-1]
    assert re.search(r"\.\.\.[a/]+/x\.jpg +\.\.\.[b/]+/x\.png", line)


def test_names_cannot_command_the_terminal():
    console, errors = terminal(), terminal()
    bad = "\x1b[2J[red]\n.jpg"
    good = SourceReport(bad, bad, None, 1, 1, 10, 50)
    failed = SourceReport(bad, None, f"{bad}: no.", 0, 0, 1, 0)
    _report.print_quantized(result(report=(good,)), seconds=1, peak=1, console=console)
    assert _report.print_failures((good, failed), errors) == 1
    assert f"{ESCAPE}[2J" not in printed(console)
    assert "\\x1b[2J[red]\\n.jpg" in printed(console)
    assert printed(errors) == "dkmeans: failed: \\x1b[2J[red]\\n.jpg: no.\n"


def test_failures(capsys):
    report = (entry(0), entry(1, "in/1.jpg: truncated."), entry(2, "no such file."))
    assert _report.print_failures(report) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "dkmeans: failed: in/1.jpg: truncated.\ndkmeans: failed: in/2.jpg: no such file.\n"
    )


def test_ingested():
    console = plain_console()
    report = (entry(0), entry(1, "bad."), SourceReport("b", "s.zarr", None, 1000, 1000, 10, 100))
    ingested = IngestResult("s.zarr", 1 << 30, report)
    _report.print_ingested(ingested, seconds=2, peak=1 << 20, console=console)
    text = printed(console)
    assert text.startswith(
        "Store         s.zarr\n"
        "Pixels        13.0 megapixels in 2 pictures\n"
        "Read          1.0 GiB\n"
        "Time          2.0 s, 6.5 megapixels/s\n"
        "Peak memory   1.0 MiB\n"
    )
    assert "10.0x" in text


def info(**changes):
    values = {
        "path": "a.tif",
        "format": "GTiff",
        "height": 12000,
        "width": 16000,
        "bands": 3,
        "dtype": "uint8",
        "block": (256, 512),
        "in_order": False,
        "bytes_stored": 1 << 20,
        "bytes_decoded": 576_000_000,
    }
    return ImageInfo(**values | changes)


def test_info_of_one():
    console = plain_console()
    _report.print_info([info()], console)
    assert printed(console) == (
        "a.tif\n\n"
        "Format    TIFF\n"
        "Size      16,000 x 12,000 pixels\n"
        "Type      RGB, uint8\n"
        "Blocks    512 x 256 pixels\n"
        "Reading   in any order\n"
        "Stored    1.0 MiB\n"
        "Decoded   549.3 MiB\n"
    )


def test_info_of_other_bands():
    console = plain_console()
    _report.print_info([info(bands=7, dtype="uint16")], console)
    assert "Type      7 bands, uint16\n" in printed(console)


def test_info_of_many():
    for console in (plain_console(), terminal(80)):
        grey = info(path="b.jpg", format="JPEG", bands=1, in_order=True)
        _report.print_info([info(), grey, info(path="c" * 90)], console)
        lines = [line.strip() for line in without_escapes(printed(console)).strip().splitlines()]
        assert lines[0].split() == ["Image", "Format", "Type", "Size", "Stored", "Decoded"]
        assert re.fullmatch(
            "a.tif +TIFF +RGB, uint8 +16,000 x 12,000 +1.0 MiB +549.3 MiB", lines[1]
        )
        assert re.match("b.jpg +JPEG +grey, uint8", lines[2])
        assert re.match(r"(\.\.\.)?c+ +TIFF +RGB", lines[3])
        assert re.fullmatch("3 pictures +3.0 MiB +1.6 GiB", lines[4])
        assert len(lines) == 5


def test_a_file_has_no_escapes_and_no_broken_lines(tmp_path):
    code = (
        "from types import SimpleNamespace as N; from dkmeans import _report\n"
        "row = N(source='s' * 300, output='o', error=None, height=9, width=9, bytes_in=1,"
        " bytes_out=1)\n"
        "_report.print_ingested(N(store='s', bytes_read=1, report=[row] * 2), seconds=1, peak=1)"
    )
    with (tmp_path / "out").open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    text = (tmp_path / "out").read_text()
    assert ESCAPE not in text
    assert "s" * 300 in text
