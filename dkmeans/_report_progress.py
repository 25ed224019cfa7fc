"""Progress on standard error: a bar in a terminal, a line now and then elsewhere."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from dkmeans._report_words import duration, part, size, speed

_LINE_SECONDS = 2.0  # between two plain lines
_WIDE = 76  # columns that all figures need
_TELLING = 0.02  # share of a pass from which its end can be guessed
_SHORTEST = 1e-3  # seconds that a speed is told for


class ConsoleProgress:
    """Shows passes on standard error. Implements `dkmeans._passes.Progress`.

    Parameters
    ----------
    console
        Where to write. In a terminal each pass has a bar; elsewhere it has a line at its begin, at
        its end, and every two seconds between.
    clock
        Returns the time in seconds.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        console = console or Console(stderr=True, highlight=False)
        in_terminal = console.is_terminal and not console.is_dumb_terminal
        self._display: _Bar | _Lines = _Bar(console) if in_terminal else _Lines(console, clock)
        self._lock = threading.Lock()

    def begin(self, name: str, nbytes: int, n_pixels: int | None = None) -> None:
        """Show that a pass over `nbytes` begins; given `n_pixels`, speed is told in pixels."""
        with self._lock:
            self._display.begin(name, nbytes, nbytes / n_pixels if n_pixels else None)

    def advance(self, nbytes: int) -> None:
        """Show that another `nbytes` have been read and dealt with."""
        with self._lock:
            self._display.advance(nbytes)

    def end(self) -> None:
        """Show that the pass is over, be it early."""
        with self._lock:
            self._display.end()

    def note(self, text: str) -> None:
        """Show a line between all that."""
        with self._lock:
            self._display.note(text)


@contextmanager
def notes(progress: ConsoleProgress | None) -> Iterator[None]:
    """Show what dkmeans logs meanwhile as notes of a progress; without one, warnings only."""
    logger = logging.getLogger("dkmeans")
    handler, level = logging.StreamHandler() if progress is None else _Notes(progress), logger.level
    handler.setLevel(logging.WARNING if progress is None else logging.INFO)
    logger.addHandler(handler)
    if progress is not None:
        logger.setLevel(min(level or logging.INFO, logging.INFO))  # others may want to hear more
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Notes(logging.Handler):
    def __init__(self, progress: ConsoleProgress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.note(record.getMessage())


class _Lines:
    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._file, self._clock = console.file, clock

    def begin(self, name: str, nbytes: int, pixel_bytes: float | None) -> None:
        self._name, self._total, self._pixel_bytes, self._done = name, nbytes, pixel_bytes, 0
        self._start = self._last = self._clock()
        self._write(f"{size(nbytes)} to read")

    def advance(self, nbytes: int) -> None:
        self._done += nbytes
        now = self._clock()
        if now - self._last >= _LINE_SECONDS and self._done < self._total:
            self._last = now
            seconds = now - self._start
            share = self._done / self._total
            left = f", {duration(seconds * (1 / share - 1))} left" if share > _TELLING else ""
            done = part(self._done, self._total)
            self._write(f"{share:.0%}, {done}, {self._rate(seconds)}{left}")

    def end(self) -> None:
        seconds = self._clock() - self._start
        read = f"{part(self._done, self._total)}, " if self._done < self._total else ""
        self._write(f"ended after {duration(seconds)}, {read}{self._rate(seconds)}")

    def note(self, text: str) -> None:
        # Where lines have no room any more, or no reader, the job goes on without.
        with suppress(OSError):
            self._file.write(f"{text}\n")
            self._file.flush()

    def _rate(self, seconds: float) -> str:
        return speed(self._done, max(seconds, _SHORTEST), self._pixel_bytes)

    def _write(self, text: str) -> None:
        self.note(f"{self._name}: {text}")


class _Bar:
    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, name: str, nbytes: int, pixel_bytes: float | None) -> None:
        # A bar for each pass: between two passes nothing is alive that a failure could leave.
        # The widths of columns hold what is usual, so that the bars of several passes align.
        columns = [
            TextColumn("{task.description:13}", style="bold", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True)),
            _BytesColumn(table_column=Column(no_wrap=True)),
            _SpeedColumn(table_column=Column(no_wrap=True)),
            _TimeColumn(table_column=Column(no_wrap=True)),
        ]
        if self._console.width < _WIDE:
            del columns[4]
        self._bars = Progress(*columns, console=self._console, expand=True)
        self._task = self._bars.add_task(name, total=nbytes, pixel_bytes=pixel_bytes)
        self._bars.start()

    def advance(self, nbytes: int) -> None:
        self._bars.advance(self._task, nbytes)

    def end(self) -> None:
        self._bars.stop_task(self._task)
        self._bars.stop()

    def note(self, text: str) -> None:
        self._console.print(text, style="dim")  # above a bar that is alive


class _BytesColumn(ProgressColumn):
    """Bytes done of all."""

    def render(self, task: Task) -> Text:
        return Text(f"{part(task.completed, task.total or 0):>17}", style="cyan")


class _SpeedColumn(ProgressColumn):
    """The speed of late; of a pass that is over, its mean."""

    def render(self, task: Task) -> Text:
        rate = task.speed
        if task.stop_time is not None:
            rate = task.completed / max(task.elapsed or 0, _SHORTEST)
        told = speed(rate, 1, task.fields["pixel_bytes"]) if rate else ""
        return Text(f"{told:>16}", style="cyan")


class _TimeColumn(ProgressColumn):
    """The time left; of a pass that is over, the time it took."""

    def render(self, task: Task) -> Text:
        if task.stop_time is not None:
            return Text(f"{'in ' + duration(task.elapsed or 0):>12}")
        left = "" if task.time_remaining is None else f"{duration(task.time_remaining)} left"
        return Text(f"{left:>12}", style="dim")
