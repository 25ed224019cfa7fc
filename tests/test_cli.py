"""The command line only translates: arguments, errors, exit statuses. And its documentation."""

import errno
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from dkmeans import _cli, _report, images
from dkmeans._palette import Palette
from dkmeans._report_progress import ConsoleProgress
from dkmeans._validation import (
    DkmeansError,
    InvalidArgumentError,
    OutputError,
    SourceError,
    note_kept,
)
from dkmeans.images import SourceReport

DOCS = Path(__file__).parent.parent / "docs" / "cli.md"
COMMANDS = _cli.cli.commands
GOOD = SourceReport("a.png", "out/a.png", None, 2, 3, 100, 50)
BAD = SourceReport("b.png", None, "b.png: truncated.", 0, 0, 100, 0)


def run(*arguments):
    return CliRunner().invoke(_cli.cli, arguments, prog_name="dkmeans")


@pytest.fixture
def library(monkeypatch):
    """Stand-ins for the library that note how they are called; what they do can be set."""
    calls = []
    fake = SimpleNamespace(calls=calls, shown=[], report=(GOOD,), headers=None, act=lambda: None)

    def stand_in(name):
        def call(*args, **kwargs):
            calls.append((name, args, kwargs))
            fake.act()
            return fake.headers if name == "headers" else SimpleNamespace(report=fake.report)

        return call

    for name in ("quantize", "ingest", "headers"):
        monkeypatch.setattr(images, name, stand_in(name))

    def show(name):
        def call(result, **_):
            fake.shown.append(result)
            click.echo(name)

        return call

    for name in ("print_quantized", "print_ingested", "print_info"):
        monkeypatch.setattr(_report, name, show(name))
    return fake


# Arguments


def test_quantize_defaults(library):
    result = run("quantize", "a.png", "b.png", "out")
    assert result.exit_code == 0, result.output
    [(name, args, kwargs)] = library.calls
    assert (name, args) == ("quantize", (("a.png", "b.png"), "out"))
    assert isinstance(kwargs.pop("progress"), ConsoleProgress)
    assert kwargs == {
        "n_colors": 256,
        "palette": None,
        "dither": "none",
        "seed": 0,
        "n_init": None,
        "compression": "fast",
        "staging": None,
        "overwrite": False,
        "resume": False,
    }
    assert result.stdout == "print_quantized\n"


def test_quantize_options(library):
    options = "--colors 64 --dither blue-noise --seed 7 --n-init 3 --compression small"
    result = run("quantize", "a.png", "o.png", *options.split(), "--staging", "/s", "--overwrite")
    assert result.exit_code == 0, result.output
    [(_, _, kwargs)] = library.calls
    kwargs.pop("progress")
    assert kwargs == {
        "n_colors": 64,
        "palette": None,
        "dither": "blue-noise",
        "seed": 7,
        "n_init": 3,
        "compression": "small",
        "staging": "/s",
        "overwrite": True,
        "resume": False,
    }


def test_quantize_with_palette(library, tmp_path):
    palette = Palette([[1, 2, 3], [4, 5, 6]])
    palette.save(tmp_path / "p.gpl")
    assert run("quantize", "a", "o", "--palette", str(tmp_path / "p.gpl")).exit_code == 0
    assert library.calls[0][2]["palette"] == palette
    for colors in ("64", "256"):
        both = run("quantize", "a", "o", "--palette", "p.gpl", "--colors", colors)
        assert both.exit_code == 2
        assert "--colors and --palette exclude each other" in both.stderr


@pytest.mark.parametrize("command", ["quantize", "ingest"])
def test_quiet(library, command):
    library.report = (GOOD, BAD)
    result = run(command, "a", "o", "--quiet")
    assert library.calls[0][2]["progress"] is None
    assert result.stdout == ""
    assert result.stderr == "dkmeans: failed: b.png: truncated.\n"


def test_ingest(library):
    result = run("ingest", "a.png", "photos/", "s.zarr", "--overwrite", "--resume")
    assert result.exit_code == 0, result.output
    [(name, args, kwargs)] = library.calls
    assert (name, args) == ("ingest", (("a.png", "photos/"), "s.zarr"))
    assert isinstance(kwargs.pop("progress"), ConsoleProgress)
    assert kwargs == {"overwrite": True, "resume": True}
    assert result.stdout == "print_ingested\n"


def test_info(library):
    library.headers = ["a header"], []
    result = run("info", "a.png", "b.zarr")
    assert result.exit_code == 0, result.output
    assert [args for _, args, _ in library.calls] == [("a.png",), ("b.zarr",)]
    assert result.stdout == "print_info\n"
    assert library.shown == [["a header"] * 2]


def test_info_tells_what_it_can(library, monkeypatch):
    library.headers = ["a header"], [SourceError("a.png: truncated."), SourceError("b.png: empty.")]
    monkeypatch.delenv("DKMEANS_DEBUG", raising=False)
    failed = "dkmeans: failed: a.png: truncated.\ndkmeans: failed: b.png: empty.\n"
    result = run("info", "pictures")
    assert (result.exit_code, result.stderr, result.stdout) == (1, failed, "print_info\n")
    assert library.shown == [["a header"]]
    monkeypatch.setenv("DKMEANS_DEBUG", "1")
    result = run("info", "pictures")
    assert (result.exception, result.stderr) == (library.headers[1][0], failed)


def test_info_goes_on_after_a_path_that_is_none(library):
    library.headers = ["a header"], []
    failures = iter([SourceError("aaa: too long."), None])

    def act():
        if error := next(failures):
            raise error

    library.act = act
    result = run("info", "aaa", "b.png")
    assert (result.exit_code, result.stderr) == (1, "dkmeans: failed: aaa: too long.\n")
    assert library.shown == [["a header"]]


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_damaged_exif_is_nobodys_business(tmp_path, name):
    exif = struct.pack("<4sLHHHLL", b"II*\0", 8, 1, 0x010F, 2, 400, 5000)  # text beyond the end
    Image.new("RGB", (3, 2)).save(tmp_path / name, exif=b"Exif\0\0" + exif)
    result = run("info", str(tmp_path / name))  # where warnings are errors
    assert (result.exit_code, result.stderr) == (0, "")


def test_palette(tmp_path):
    palette = Palette([[1, 2, 3], [4, 5, 6]])
    source, target = tmp_path / "p.png", tmp_path / "p.act"
    palette.save(source)
    assert run("palette", str(source), str(target)).exit_code == 0
    assert Palette.load(target) == palette
    again = run("palette", str(source), str(target))
    assert again.exit_code == 1
    said = "exists already; choose another name, or give --overwrite."
    assert again.stderr == f"dkmeans: error: {target}: {said}\n"
    assert run("palette", str(source), str(target), "--overwrite").exit_code == 0


# Schedulers


def test_scheduler(library, cluster):
    addresses = []

    def act():
        from distributed import get_client  # noqa: PLC0415 - slow

        addresses.append(get_client().scheduler.address)

    library.act = act
    result = run("quantize", "a", "o", "--scheduler", cluster.scheduler_address)
    assert result.exit_code == 0, result.output
    assert addresses == [cluster.scheduler_address]


def test_workers(library):
    threads = []

    def act():
        from distributed import get_client  # noqa: PLC0415 - slow

        threads.append(get_client().nthreads())

    library.act = act
    result = run("ingest", "a", "o", "--workers", "2")
    assert result.exit_code == 0, result.output
    assert list(threads[0].values()) == [1, 1]
    assert all(address.startswith("tcp://127.0.0.1:") for address in threads[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scheduler", "tcp://h:1", "--workers", "1"), "exclude each other"),
        (("--scheduler", "here"), "'here' is no address"),
        (("--scheduler", "tcp://here"), "'tcp://here' is no address"),
        (("--workers", "0"), "--workers"),
    ],
)
def test_bad_scheduler(library, options, message):
    result = run("quantize", "a", "o", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert library.calls == []


def test_no_scheduler():
    # In a process of its own: what is left of a client that did not connect can hang the next one.
    code = (
        "import sys; from dkmeans import _cli, _cli_cluster as c; c._CONNECT_SECONDS = 0.5\n"
        "sys.argv = ['dkmeans', 'ingest', 'a', 'o', '--scheduler', 'tcp://127.0.0.1:1']\n"
        "_cli.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert re.fullmatch("dkmeans: error: .*127.0.0.1:1 after 0.5 s\\.\n", ended.stderr)


# Errors


def test_failed_sources(library):
    library.report = (GOOD, BAD)
    result = run("quantize", "a", "o")
    assert result.exit_code == 1
    assert result.stdout == "print_quantized\n"
    assert result.stderr.endswith("dkmeans: failed: b.png: truncated.\n")


def raises(error):
    def act():
        raise error

    return act


def noted(error):
    note_kept(error, "w")
    return error


@pytest.mark.parametrize("command", ["quantize", "ingest"])
@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (InvalidArgumentError("n_colors is 1."), 2, "error: --colors is 1."),
        (OutputError("o: there, or overwrite."), 1, "error: o: there, or give --overwrite."),
        (SourceError("a.png: no such file."), 1, "error: a.png: no such file."),
        (
            InvalidArgumentError(
                "max_iter is 3, but was 9 when the job on seed is x, or overwrite. "
                "was interrupted; give what it had, or run without resume to start over."
            ),
            2,
            (
                "error: --max-iter is 3, but was 9 when the job on seed is x, or overwrite. "
                "was interrupted; give what it had, or run without --resume to start over."
            ),
        ),
        (
            InvalidArgumentError(
                "run without resume, or overwrite.json: a checkpoint of a fit of "
                "other parameters: random_state was ': tol was ' then, and is '1' now. Fit"
            ),
            2,
            (
                "error: run without resume, or overwrite.json: a checkpoint of a fit of "
                "other parameters: --seed was ': tol was ' then, and is '1' now. Fit"
            ),
        ),
        (
            SourceError("a: damaged. Run without resume to start over."),
            1,
            "error: a: damaged. Run without --resume to start over.",
        ),
        *(
            (SourceError(f"{name}: no such file."), 1, f"error: {name}: no such file.")
            for name in (
                "seed of 3.png",
                "run without resume/a.png",
                "d, or overwrite.",
                "x: n_clusters was",
                "KMeans(missing='ignore').zarr",
            )
        ),
        (OutputError("o: exists."), 1, "error: o: exists."),
        (
            noted(OutputError("o: cannot be written (the disk is full).")),
            1,
            (
                "error: o: cannot be written (the disk is full); what is done is kept in w; "
                "--resume goes on from there"
            ),
        ),
        (DkmeansError("no."), 1, "error: no."),
        (SourceError("a\x1b[31m\nb"), 1, r"error: a\x1b[31m\nb"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device."),
        (PermissionError(13, "Permission denied", "o"), 1, "error: o: Permission denied."),
        (OSError("timed out"), 1, "error: timed out."),
        (MemoryError(), 1, "error: out of memory; use fewer workers, or a machine with more."),
        (KeyboardInterrupt(), 130, "interrupted; nothing was left half-written"),
    ],
)
def test_error_is_one_sentence(*, library, monkeypatch, command, error, status, sentence):
    monkeypatch.delenv("DKMEANS_DEBUG", raising=False)
    library.act = raises(error)
    result = run(command, "a", "o", "--quiet")
    assert result.exit_code == status
    assert result.stderr == f"dkmeans: {sentence}\n"
    assert result.stdout == ""
    monkeypatch.setenv("DKMEANS_DEBUG", "1")
    result = run(command, "a", "o", "--quiet")
    assert result.exit_code != 0
    assert sentence not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_log_that_cannot_be_written_ends_no_job(library):
    result = run("ingest", "a", "o", "--quiet", "--log-json", "/dev/full")
    assert result.exit_code == 0
    assert len(library.calls) == 1
    assert "/dev/full: not written any more (No space left on device)" in result.stderr
    assert result.stderr.count("\n") == 1


def test_killed_workers(library):
    from distributed import KilledWorker  # noqa: PLC0415 - slow

    error = KilledWorker("task", SimpleNamespace(address="tcp://h:1"), 3)
    library.act = raises(error)
    result = run("quantize", "a", "o", "--quiet")
    assert result.exit_code == 1
    assert result.stderr.startswith("dkmeans: error: worker processes died, most likely for want")


STUCK = """
import sys, threading
from dkmeans import _cli, _cli_errors

@_cli.cli.command()
def stuck():
    raise KeyboardInterrupt

lock = threading.Lock()
lock.acquire()
threading.Thread(target=lock.acquire).start()
_cli_errors._PATIENCE = 0.2
sys.argv = ["dkmeans", "stuck"]
_cli.main()
"""


def test_a_thread_that_waits_for_good_does_not_keep_an_interrupted_process():
    command = [sys.executable, "-c", STUCK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130
    assert done.stderr == "dkmeans: interrupted; nothing was left half-written\n"


def test_sigterm(library):
    before = signal.getsignal(signal.SIGTERM)
    library.act = lambda: os.kill(os.getpid(), signal.SIGTERM)
    result = run("quantize", "a", "o", "--quiet")
    assert result.exit_code == 143
    assert result.stderr == "dkmeans: terminated; nothing was left half-written\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_bug_is_not_hidden(library):
    error = ZeroDivisionError("ours")
    library.act = raises(error)
    assert run("quantize", "a", "o").exception is error


@pytest.mark.parametrize(
    "arguments",
    [
        ("quantise",),
        ("quantize",),
        ("quantize", "a"),
        ("quantize", "a", "o", "--colours", "3"),
        ("quantize", "a", "o", "--colors", "many"),
        ("quantize", "a", "o", "--compression", "best"),
        ("ingest", "a"),
        ("palette", "a"),
        ("palette", "a.jpg", "b.gpl"),
        ("info",),
    ],
)
def test_wrong_use(library, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "rror: " in result.stderr
    assert library.calls == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("quantize", "a"), "A source and an output are needed, the output last."),
        (("ingest", "a"), "A source and an output are needed, the output last."),
        (("fit", "a", "m", "-k", "2", "--seed", "-1"), "'--seed': -1 is not in the range"),
        (("fit", "a", "m", "-k", "2", "--seed", f"{1 << 32}"), "'--seed': 4294967296 is not in"),
        (("fit", "a", "m", "-k", "2", "--tol", "nan"), "'--tol': nan is no finite number."),
        (("plan", "a", "--job", "predict"), "--job predict needs --model."),
        (("plan", "a", "--job", "fit"), "--job fit needs --clusters."),
        (("plan", "a", "--job", "ingest", "-k", "2"), "--clusters belongs to --job fit, not to in"),
    ],
)
def test_wrong_use_is_told_in_options(arguments, sentence):
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_no_palette_file(tmp_path):
    result = run("quantize", "a", "o", "--palette", str(tmp_path / "none.gpl"))
    assert result.exit_code == 1
    assert result.stderr == f"dkmeans: error: {tmp_path / 'none.gpl'}: no such file.\n"


# As a program


def test_as_a_program(tmp_path):
    """A name that is not text comes through to the message; the exit status is the shell's."""
    name = os.fsencode(tmp_path) + b"/\xff.gpl"
    program = [sys.executable, "-m", "dkmeans", "palette", name, "x.gpl"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("dkmeans: error: ")
    assert ended.stderr.endswith("no such file.\n")
    assert ended.stderr.count("\n") == 1


def test_help_is_light():
    code = (
        "import sys; from dkmeans._cli import main; sys.argv = ['dkmeans', 'quantize', '--help']\n"
        "try: main()\n"
        "except SystemExit: print('modules:', *{name.split('.')[0] for name in sys.modules})\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, _, modules = ended.stdout.partition("modules:")
    assert "--colors" in text
    heavy = {"numba", "dask", "distributed", "rasterio", "zarr", "sklearn", "numpy", "PIL", "rich"}
    assert heavy.isdisjoint(modules.split())


def test_kernels_that_were_compiled_are_loaded_without_the_compiler(tmp_path):
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "in.png")
    code = (
        "import sys; from dkmeans._cli import main\n"
        "sys.argv = ['dkmeans', 'quantize', 'in.png', 'out.png', '--quiet', '--overwrite']\n"
        "try: main()\n"
        "finally: print(*sys.modules)\n"
    )
    for _ in range(2):  # the first may have to compile them
        program = [sys.executable, "-c", code]
        ended = subprocess.run(program, capture_output=True, text=True, check=True, cwd=tmp_path)
    modules = set(ended.stdout.split())
    assert "dkmeans._kernels.octree" in modules
    assert {"numba.np.arraymath", "scipy.linalg"}.isdisjoint(modules)


@pytest.mark.parametrize("name", ["in.jpg", "in.tif"])
def test_common_pictures_are_read_without_gdal(tmp_path, name):
    image = np.asarray(Image.effect_noise((64, 64), 50).convert("RGB"))
    if name == "in.tif":
        tifffile.imwrite(
            tmp_path / name, image, photometric="rgb", tile=(32, 32), compression="zlib"
        )
    else:
        Image.fromarray(image).save(tmp_path / name)
    code = (
        "import sys, dkmeans\n"
        f"dkmeans.quantize({name!r}, 'out.tif', n_colors=4)\n"
        "print('rasterio' in sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert ended.stdout == "False\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has such a device")
def test_a_job_goes_on_where_nobody_can_be_told_of_it(tmp_path):
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "in.png")
    program = [sys.executable, "-m", "dkmeans", "quantize", "in.png", "out.png"]
    with Path("/dev/full").open("w") as full:
        subprocess.run(program, stderr=full, check=True, cwd=tmp_path)
    with Image.open(tmp_path / "out.png") as image:
        assert image.mode == "P"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has such a device")
def test_a_summary_that_cannot_be_printed_does_not_look_like_work_that_failed(tmp_path):
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "in.png")
    (tmp_path / "bad.png").write_bytes(b"none")
    program = [sys.executable, "-m", "dkmeans", "quantize", "in.png", "bad.png", "out"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            program, stdout=full, stderr=subprocess.PIPE, check=False, text=True, cwd=tmp_path
        )
    assert ended.returncode == 1
    *_, failed, error = ended.stderr.splitlines()
    assert failed.startswith("dkmeans: failed: bad.png: not a JPEG")
    assert error.startswith("dkmeans: error: the summary cannot be printed (No space left on dev")
    assert error.endswith("; the work is done.")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["in.png"]


# Documentation


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(arguments, option):
    result = run(*arguments, option)
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: dkmeans")


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert re.fullmatch(r"dkmeans \d+\.\d+\S*\n", result.stdout)


def sections():
    """The section of each command in the documentation, by name."""
    parts = re.split(r"^## (.*)$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        title.removeprefix("dkmeans "): text
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
        if title.startswith("dkmeans ")
    }


def test_every_command_is_documented():
    assert sorted(sections()) == sorted(COMMANDS)


def rows(text):
    """The options that a section has a row for."""
    return re.findall(r"^\| `(--[a-z-]+)", text, flags=re.MULTILINE)


def documented():
    """The options that all jobs share."""
    text = DOCS.read_text(encoding="utf-8").partition("## Options of all jobs")[2]
    return set(rows(text.partition("\n## ")[0]))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name):
    text = sections()[name]
    options, arguments = set(), []
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            options.update(name for name in parameter.opts if name.startswith("--"))
        else:
            arguments.append(parameter.human_readable_name)
    assert f"dkmeans {name} {' '.join(arguments)}" in text
    shared = documented() if "(#options-of-all-jobs)" in text else set()
    assert {*rows(text), *shared} == options
    examples = "".join(re.findall(r"^```\n(dkmeans .*?)^```", text, flags=re.MULTILINE | re.DOTALL))
    assert set(re.findall(r"--[a-z-]+", examples)) <= options | {"--colors"}


@pytest.mark.parametrize("name", ["quantize"])
def test_defaults_are_documented(name):
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) and parameter.show_default:
            row = rf"\| `{parameter.opts[0]} [^|]*(\\\|[^|]*)*\| {parameter.default} \|"
            assert re.search(row, sections()[name]), parameter.name


def test_every_exit_status_is_documented():
    statuses = set(re.findall(r"^\| (\d+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert statuses == {"0", "1", "2", "130", "143"}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--record", "a.npy"), "DATA"),
        (("--log-json", "link.npy"), "DATA"),
        (("--record", "./m.json"), "MODEL"),
        (("--log-json", "c", "--checkpoint", "c"), "--checkpoint"),
        (("--log-json", "r", "--record", "r"), "--log-json"),
    ],
)
def test_logs_and_records_are_not_written_over_anything_else(tmp_path, monkeypatch, options, what):
    monkeypatch.chdir(tmp_path)
    Path("a.npy").write_bytes(b"rows")
    Path("link.npy").symlink_to("a.npy")
    result = CliRunner().invoke(_cli.cli, ["fit", "a.npy", "m.json", "-k", "2", *options])
    assert result.exit_code == 2
    assert f", and so is {what}; choose another name." in result.stderr
    assert Path("a.npy").read_bytes() == b"rows"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "link.npy"]
