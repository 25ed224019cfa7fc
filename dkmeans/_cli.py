"""The command line: each command translates its arguments into one call of the library.

Whatever imports slowly is imported inside the commands, so that help comes at once.
"""

import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import click

from dkmeans._report_words import printable
from dkmeans._validation import DkmeansError, InvalidArgumentError

SOME_FAILED, WRONG_USE, INTERRUPTED, TERMINATED = 1, 2, 128 + 2, 128 + 15

_CONNECT_SECONDS = 10

# What the library calls by other names. Its errors begin with the name of the argument.
_OPTIONS = {"n_colors": "--colors", "n_init": "--n-init", "seed": "--seed", "staging": "--staging"}


class _Termination(KeyboardInterrupt):
    """SIGTERM, taken like Ctrl-C."""


class _Commands(click.Group):
    """Commands that end in an exit status and one sentence, whatever goes wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            with _sigterm_interrupts():
                return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            explained = _explain(error)
            if explained is None or os.environ.get("DKMEANS_DEBUG") == "1":
                raise
            status, sentence = explained
            click.echo(f"dkmeans: {printable(sentence)}", err=True)
            ctx.exit(status)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise an exception in the main thread, so that work is tidied up."""

    def terminate(*_: object) -> None:
        raise _Termination

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _explain(error: BaseException) -> tuple[int, str] | None:
    """Return the exit status and the sentence for an error, or None if it is a bug of ours."""
    if isinstance(error, KeyboardInterrupt):
        by_signal = isinstance(error, _Termination)
        status, what = (TERMINATED, "terminated") if by_signal else (INTERRUPTED, "interrupted")
        return status, f"{what}; nothing was left half-written"
    reason = _in_options(_reason(error))
    status = WRONG_USE if isinstance(error, InvalidArgumentError) else SOME_FAILED
    return None if reason is None else (status, f"error: {reason}")


def _in_options(reason: str | None) -> str | None:
    """Name options as the command line does."""
    if reason is None:
        return None
    name, space, rest = reason.partition(" ")
    sentence = _OPTIONS.get(name, name) + space + rest
    return sentence.replace(", or overwrite.", ", or give --overwrite.")


def _reason(error: BaseException) -> str | None:
    distributed = sys.modules.get("distributed")
    if isinstance(error, DkmeansError):
        return str(error)
    if isinstance(error, BrokenPipeError):
        return None  # whoever read our output has gone; click ends quietly
    if isinstance(error, OSError):
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror or error}."
    if isinstance(error, MemoryError):
        return "out of memory; use fewer workers, or a machine with more."
    if distributed and isinstance(error, distributed.KilledWorker):
        return f"worker processes died, most likely for want of memory. {error}"
    return None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="dkmeans", prog_name="dkmeans", message="%(prog)s %(version)s")
def cli() -> None:
    """Reduce images of any size to a palette that k-means has chosen.

    Exit status: 0 if all was done, 1 if a source or the work failed, 2 for wrong use, 130 if
    interrupted, 143 if terminated.
    """


class _Command(Protocol):
    """A function that click makes a command of."""

    def __call__(self, *args: Any, **kwargs: Any) -> None: ...


def _job_options(command: _Command) -> _Command:
    """Add the options of commands that read many pixels."""
    for option in (
        click.option("--quiet", is_flag=True, help="Show neither progress nor a summary."),
        click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="Work in N processes of one thread each, instead of threads.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Work on the Dask cluster whose scheduler has this address, as tcp://host:8786.",
        ),
    ):
        command = option(command)
    return command


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("output")
@click.option("--colors", default=256, show_default=True, metavar="K", help="How many colours.")
@click.option("--palette", metavar="FILE", help="Use the colours of this palette file instead.")
@click.option(
    "--dither",
    type=click.Choice(["none", "blue-noise"]),
    default="none",
    show_default=True,
    help="How to break up bands of one colour. blue-noise is not yet supported.",
)
@click.option("--seed", default=0, show_default=True, metavar="S", help="Of all random draws.")
@click.option(
    "--n-init",
    type=int,
    metavar="N",
    help="How many starts to choose the best of; 4 by default, and more for few colours.",
)
@click.option(
    "--compression",
    type=click.Choice(["fast", "small"]),
    default="fast",
    show_default=True,
    help="small makes smaller files and takes longer.",
)
@click.option(
    "--staging",
    metavar="FOLDER",
    help="Where to keep decoded pixels between the passes; beside OUTPUT by default.",
)
@_job_options
@click.pass_context
def quantize(ctx: click.Context, /, sources: tuple[str, ...], output: str, **options: Any) -> None:
    """Reduce images to one palette.

    SOURCE is an image file, a folder, a pattern such as "scans/*.tif", or a Zarr store. OUTPUT is
    a name ending in .png, .tif or .zarr, or a folder, which gets an indexed PNG for each source.
    """
    from dkmeans import _report, images  # noqa: PLC0415 - slow
    from dkmeans._palette import Palette  # noqa: PLC0415 - slow

    colors, palette = options.pop("colors"), options.pop("palette")
    if palette is not None and _is_given(ctx, "colors"):
        raise click.UsageError("--colors and --palette exclude each other.", ctx)
    _run(
        ctx,
        partial(
            images.quantize,
            sources,
            output,
            n_colors=colors,
            palette=None if palette is None else Palette.load(palette),
        ),
        _report.print_quantized,
        **options,
    )


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("store")
@_job_options
@click.pass_context
def ingest(ctx: click.Context, /, sources: tuple[str, ...], store: str, **options: Any) -> None:
    """Copy images into a Zarr store, which is read in parallel and in any order.

    SOURCE is an image file, a folder, or a pattern such as "scans/*.tif". STORE is a name ending
    in .zarr.
    """
    from dkmeans import _report, images  # noqa: PLC0415 - slow

    _run(ctx, partial(images.ingest, sources, store), _report.print_ingested, **options)


@cli.command()
@click.argument("source", metavar="PALETTE_OR_IMAGE")
@click.argument("file")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def palette(source: str, file: str, overwrite: bool) -> None:  # noqa: FBT001 - click passes names
    """Copy a palette from one kind of file to another.

    The kinds are .gpl (GIMP), .act (Adobe), .png (an indexed image), .txt (GDAL colour table) and
    .json (dkmeans).
    """
    from dkmeans._palette import Palette  # noqa: PLC0415 - slow

    Palette.load(source).save(file, overwrite=overwrite)


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.pass_context
def info(ctx: click.Context, paths: tuple[str, ...]) -> None:
    """Tell the size, type and layout of images, from their headers."""
    from dkmeans import _report, images  # noqa: PLC0415 - slow

    known, failed = [], False
    for path in paths:
        try:
            known += images.info(path)
        except DkmeansError as error:
            click.echo(f"dkmeans: failed: {printable(str(error))}", err=True)
            failed = True
    if known:
        _report.print_info(known)
    if failed:
        ctx.exit(SOME_FAILED)


def _is_given(ctx: click.Context, name: str) -> bool:
    """Whether the user gave an option, rather than its default applying."""
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _run(
    ctx: click.Context,
    work: Callable[..., Any],
    show: Callable[..., None],
    *,
    scheduler: str | None,
    workers: int | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Do the work on the scheduler asked for, show the result, and exit with 1 if a source failed.

    `work` takes the options and `progress`; `show` takes the result, the seconds it took and the
    peak memory.
    """
    from dkmeans import _report, _report_progress  # noqa: PLC0415 - slow

    if scheduler is not None and workers is not None:
        raise click.UsageError("--scheduler and --workers exclude each other.", ctx)
    if scheduler is not None and not re.fullmatch(r"([a-z]+://)?[^\s/]+:\d+", scheduler):
        raise click.BadParameter(
            f"{scheduler!r} is no address; expected one such as tcp://10.0.0.5:8786.",
            ctx,
            param_hint="--scheduler",
        )
    progress = None if quiet else _report_progress.ConsoleProgress()
    with _on_scheduler(scheduler, workers), _report_progress.notes(progress):
        start = time.perf_counter()
        result = work(**options, progress=progress)
        seconds, peak = time.perf_counter() - start, _report.peak_memory()
    if not quiet:
        show(result, seconds=seconds, peak=peak)
    if _report.print_failures(result.report):
        ctx.exit(SOME_FAILED)


@contextmanager
def _on_scheduler(address: str | None, workers: int | None) -> Iterator[None]:
    """Make a cluster the active Dask scheduler, if one was asked for."""
    if address is None and workers is None:
        yield
        return
    from distributed import Client, LocalCluster  # noqa: PLC0415 - slow

    if workers is not None:
        with _sigint_withheld():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                silence_logs="CRITICAL",  # what matters is raised too; an interruption logs much
                dashboard_address=None,
                # Without a dashboard there is still an HTTP server, by default at a fixed port.
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            )
        with cluster, Client(cluster):
            yield
        return
    with Client(address, timeout=_CONNECT_SECONDS):
        yield


@contextmanager
def _sigint_withheld() -> Iterator[None]:
    """Keep Ctrl-C from the threads and processes begun meanwhile: the main thread will see to them.

    Else each worker process would tell of its interruption in many lines.
    """
    from multiprocessing import resource_tracker  # noqa: PLC0415 - slow

    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # begun later, it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold anything
    cli(prog_name="dkmeans")
