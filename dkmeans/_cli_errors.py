"""How commands end: an exit status and one sentence, whatever goes wrong."""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from dkmeans._report_words import printable
from dkmeans._validation import KEPT, CompleteError, DkmeansError, InvalidArgumentError

SOME_FAILED, WRONG_USE, INTERRUPTED, TERMINATED = 1, 2, 128 + 2, 128 + 15

_PATIENCE = 10.0  # seconds after an interrupt

# What the library calls by other names.
_OPTIONS = {
    "n_colors": "--colors",
    "n_clusters": "--clusters",
    "random_state": "--seed",
    **{name: f"--{name}" for name in ("algorithm", "checkpoint", "compression", "dither", "init")},
    **{name: f"--{name}" for name in ("missing", "palette", "seed", "staging", "tol")},
    "max_iter": "--max-iter",
    "n_init": "--n-init",
}
# Where its errors name arguments, and what they advise at their ends: names of files and values
# come between, and may hold any words.
_ARGUMENT = re.compile(
    r"(?:^|(?<=: a checkpoint of a fit of other parameters: ))(\w+)(?= (?:is|was) )"
)
_ADVICE = (
    (re.compile(r"; resume=True goes on from there$"), "; --resume goes on from there"),
    (re.compile(r", or overwrite\.$"), ", or give --overwrite."),
    (re.compile(r"un without resume to start over\.$"), "un without --resume to start over."),
    (
        re.compile(r"(MiniBatch)?KMeans\(missing='ignore'\), or fill them in\.$"),
        "dkmeans fit --missing ignore, or fill them in.",
    ),
)


class _Termination(KeyboardInterrupt):
    """SIGTERM, taken like Ctrl-C."""


class Commands(click.Group):
    """Commands that end in an exit status and one sentence, whatever goes wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for."""
        try:
            with _sigterm_interrupts():
                return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            explained = _explain(error)
            if explained is None or debugging():
                raise
            status, sentence = explained
            click.echo(f"dkmeans: {printable(sentence)}", err=True)
            ctx.exit(status)


def debugging() -> bool:
    """Return whether errors are to be shown with all that led to them."""
    return os.environ.get("DKMEANS_DEBUG") == "1"


def end_soon(status: int) -> None:
    """End the process in some seconds, if it has not ended by then.

    Threads end with what they do. But an interrupt in the moment in which a library takes a lock
    leaves it taken, and a thread that waits for it would keep the process for good.
    """
    timer = threading.Timer(_PATIENCE, os._exit, (status,))
    timer.daemon = True
    timer.start()


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
        return status, f"{what}; nothing was left half-written{_kept(error)}"
    if isinstance(error, CompleteError):
        return 0, str(error)
    reason = _reason(error)
    status = WRONG_USE if isinstance(error, InvalidArgumentError) else SOME_FAILED
    if reason is None:
        return None
    sentence, kept = _in_options(reason), _kept(error)
    return status, f"error: {sentence.removesuffix('.') if kept else sentence}{kept}"


def _kept(error: BaseException) -> str:
    """Return how to go on, if there is something to go on from."""
    notes: list[str] = getattr(error, "__notes__", [])
    kept = next((note for note in notes if note.startswith(KEPT)), None)
    return "" if kept is None else f"; {_in_options(kept)}"


def _in_options(reason: str) -> str:
    """Name options as the command line does."""
    sentence = _ARGUMENT.sub(lambda found: _OPTIONS.get(found[1], found[1]), reason, count=1)
    for advice, typed in _ADVICE:
        sentence = advice.sub(typed, sentence)
    return sentence


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
