"""Jobs of the command line: the options that all have, their progress, and what they show."""

import time
from collections.abc import Callable
from typing import Any

import click

from dkmeans._cli_cluster import Command, Workplace, add_options, cluster_options, opened
from dkmeans._cli_errors import SOME_FAILED
from dkmeans._cli_records import Recorder, record_options
from dkmeans._validation import OutputError


def job_options(command: Command) -> Command:
    """Add the options of commands that read many pixels."""
    return add_options(
        command,
        cluster_options,
        record_options,
        click.option("--overwrite", is_flag=True, help="Replace the output if it exists."),
        click.option("--quiet", is_flag=True, help="Show neither progress nor a summary."),
    )


def resume_option(command: Command) -> Command:
    """Add the option of commands that can go on where they were interrupted."""
    option = click.option(
        "--resume",
        is_flag=True,
        help="Go on where the same command was interrupted; if it was not, begin.",
    )
    return option(command)


def run(
    ctx: click.Context,
    work: Callable[..., Any],
    show: Callable[..., None],
    *,
    quiet: bool,
    **options: Any,
) -> None:
    """Do the work where it was asked for, show the result, and exit with 1 if a source failed.

    `work` takes the options and `progress`; `show` takes the result, the seconds it took and the
    peak memory.
    """
    place = Workplace.taken_from(options, ctx)
    recorder = Recorder.taken_from(options, place, ctx)
    from dkmeans import _report, _report_progress  # noqa: PLC0415 - slow

    console = None if quiet else _report_progress.ConsoleProgress()
    recorder.display = console
    with _report_progress.notes(console), recorder.recording(ctx):
        with opened(place), recorder.reporting():
            recorder.connected()
            start = time.perf_counter()
            result = work(**options, progress=recorder if recorder.is_needed else console)
            seconds, peak = time.perf_counter() - start, _report.peak_memory()
            recorder.finished(result, peak)
        try:
            if not quiet:
                show(result, seconds=seconds, peak=peak)
        except BrokenPipeError:  # whoever reads it has seen enough
            raise
        except OSError as error:
            raise OutputError(
                f"the summary cannot be printed ({error.strerror or error}); the work is done."
            ) from error
        finally:
            failed = _report.print_failures(result.report)
    if failed:
        ctx.exit(SOME_FAILED)
