"""Jobs of the command line: the scheduler they run on, their progress, and what they show."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

from dkmeans._cli_errors import SOME_FAILED

_CONNECT_SECONDS = 10


class _Command(Protocol):
    """A function that click makes a command of."""

    def __call__(self, *args: Any, **kwargs: Any) -> None: ...


def job_options(command: _Command) -> _Command:
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


def run(
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
