"""What a job leaves behind beside its output: logs by the line, a closing record, Dask's report."""

import json
import logging
import math
import os
import platform
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TextIO

import click

from dkmeans import _stores
from dkmeans._cli_cluster import Command, Workplace, add_options
from dkmeans._validation import InvalidArgumentError

if TYPE_CHECKING:
    from dkmeans._passes import Progress

_LOG = logging.getLogger("dkmeans")

_LIBRARIES = ("dkmeans", "numpy", "numba", "dask", "distributed", "zarr", "rasterio", "tifffile")
_VERSION = 1  # of the record
_LINE_SECONDS = 1.0  # between two lines on the progress of a pass
_ASK_SECONDS = 5.0  # that workers have for telling what memory they took

# What a log record has anyway; the rest is what it was given as `extra`.
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def record_options(command: Command) -> Command:
    """Add the options that say what is to be left behind."""
    return add_options(
        command,
        click.option(
            "--log-json",
            metavar="FILE",
            help="Append what happens to FILE, one JSON object a line; - is standard error.",
        ),
        click.option(
            "--record",
            metavar="FILE",
            help="Write to FILE, when all is over, what ran where and what came out, as JSON.",
        ),
        click.option(
            "--performance-report",
            metavar="FILE.html",
            help="Write Dask's report of tasks and workers. Needs --workers or --scheduler, and "
            "bokeh.",
        ),
    )


def _refuse_confusion(files: Mapping[str, str | None], ctx: click.Context) -> None:
    """Refuse files that would be written over each other, or over what the job is about."""
    arguments = {p.name: p.make_metavar(ctx) for p in ctx.command.params
                 if isinstance(p, click.Argument)}  # fmt: skip
    names = arguments | {name: "--" + name for name in ("palette", "checkpoint")}
    taken: dict[PurePath, str] = {}
    for name, shown in names.items():
        given = ctx.params.get(name or "") or ()
        for one in (given,) if isinstance(given, str) else given:
            taken[_stores.absolute(one)] = shown
    for name, file in files.items():
        if file is None or file == "-":
            continue
        place, option = _stores.absolute(file), "--" + name.replace("_", "-")
        if place in taken:
            raise click.UsageError(
                f"{option} is {file}, and so is {taken[place]}; choose another name.", ctx
            )
        taken[place] = option


@dataclass
class Recorder:
    """Notes what happens during a job. The first attributes are the options of `record_options`.

    Implements `Progress`, and tells `display` of it too.
    """

    log_json: str | None = None
    record: str | None = None
    performance_report: str | None = None
    display: "Progress | None" = None
    _passes: list[dict[str, Any]] = field(default_factory=list)
    _events: list[dict[str, Any]] = field(default_factory=list)
    _cluster: dict[str, Any] | None = None
    _lines: TextIO | None = None
    _lock: Any = field(default_factory=threading.RLock)
    _told: float = 0.0

    @classmethod
    def taken_from(
        cls, options: dict[str, Any], place: Workplace, ctx: click.Context
    ) -> "Recorder":
        """Return what options ask for, and take these out."""
        names = ("log_json", "record", "performance_report")
        files = {name: options.pop(name) for name in names}
        _refuse_confusion(files, ctx)
        recorder = cls(**files)
        if recorder.performance_report is not None and not place.is_cluster:
            raise click.UsageError("--performance-report needs --workers or --scheduler.", ctx)
        if recorder.performance_report is not None and find_spec("bokeh") is None:
            raise InvalidArgumentError(
                "--performance-report needs bokeh, which is not installed; install dkmeans[report]."
            )
        for file in (recorder.record, recorder.performance_report):
            if file is not None:  # it is written when all is over
                _stores.refuse_unwritable(file)
        return recorder

    @property
    def is_needed(self) -> bool:
        """Whether anything is to be noted."""
        return self.log_json is not None or self.record is not None

    def begin(self, name: str, nbytes: int, n_pixels: int) -> None:
        """Note that a pass begins."""
        with self._lock:
            self._passes.append(
                {"name": name, "bytes": 0, "of_bytes": nbytes, "pixels": n_pixels}
                | {"began": _now(), "seconds": None}
            )
            self._start = self._told = time.monotonic()
            self._line("pass-begun", of_pass=name, of_bytes=nbytes, pixels=n_pixels)
        if self.display is not None:
            self.display.begin(name, nbytes, n_pixels)

    def advance(self, nbytes: int) -> None:
        """Note that another part of the pass is done."""
        with self._lock:
            current = self._passes[-1]
            current["bytes"] += nbytes
            if time.monotonic() - self._told >= _LINE_SECONDS:
                self._told = time.monotonic()
                self._line("pass-progress", **self._state(current))
        if self.display is not None:
            self.display.advance(nbytes)

    def end(self) -> None:
        """Note that the pass is over."""
        with self._lock:
            current = self._passes[-1]
            current["seconds"] = round(time.monotonic() - self._start, 6)
            self._line("pass-ended", **self._state(current))
        if self.display is not None:
            self.display.end()

    def _state(self, current: dict[str, Any]) -> dict[str, Any]:
        seconds, done, whole = time.monotonic() - self._start, current["bytes"], current["of_bytes"]
        left = seconds * (whole / done - 1) if done else None
        return {
            "of_pass": current["name"],
            "pass_number": len(self._passes),
            "bytes": done,
            "of_bytes": whole,
            "seconds": round(seconds, 3),
            "seconds_left": None if left is None else round(left, 3),
        }

    @contextmanager
    def recording(self, ctx: click.Context) -> Iterator[None]:
        """Note what happens meanwhile, and write the record at the end, come what may."""
        if not self.is_needed:
            yield
            return
        started, clock = _now(), time.perf_counter()
        self._outcome: dict[str, Any] = {"error": None, "failures": [], "result": None}
        self._peak = 0
        with self._lines_opened(), self._events_noted():
            given = {name: _plain(value) for name, value in ctx.params.items()}
            self._line("job-begun", command=ctx.info_name, options=given)
            try:
                yield
            except BaseException as error:
                self._outcome["error"] = f"{type(error).__name__}: {error}".removesuffix(": ")
                raise
            finally:
                seconds = round(time.perf_counter() - clock, 6)
                self._line("job-ended", seconds=seconds, **self._outcome)
                if self.record is not None:
                    head = {"command": ctx.info_name, "options": given}
                    self._write(self.record, head | {"started": started, "seconds": seconds})

    def connected(self) -> None:
        """Note which cluster the work is done on, if any."""
        if self.is_needed and (client := _client()) is not None:
            self._cluster = {"scheduler": client.scheduler.address, "workers": _workers(client)}
            self._line("cluster", **self._cluster)

    def finished(self, result: Any, peak: int) -> None:
        """Note what came out, and the peak memory of this process and its children."""
        if not self.is_needed:
            return
        report = getattr(result, "report", ())
        self._outcome["failures"] = [
            {"source": of.source, "error": of.error} for of in report if of.error is not None
        ]
        self._outcome["result"] = _summary(result)
        self._peak = peak
        if self._cluster is not None and (client := _client()) is not None:
            self._cluster["peak_memory"] = _worker_peaks(client)

    def reporting(self) -> Any:
        """Return a context in which Dask gathers its performance report, if one was asked for."""
        return (
            nullcontext() if self.performance_report is None else _report(self.performance_report)
        )

    def _write(self, place: str, head: dict[str, Any]) -> None:
        from dkmeans import _documents  # noqa: PLC0415 - slow

        kind = _documents.Kind("record", _VERSION, (), "")  # nobody reads it here
        rest = {
            "passes": self._passes,
            "bytes_read": sum(of["bytes"] for of in self._passes),
            "peak_memory": self._peak or None,
            "versions": _versions(),
            "machine": _machine(),
            "cluster": self._cluster,
            "events": self._events,
        }
        kind.write(place, head | self._outcome | rest, indent=2)

    @contextmanager
    def _lines_opened(self) -> Iterator[None]:
        if self.log_json is None or self.log_json == "-":
            self._lines = None if self.log_json is None else sys.stderr
            yield
            return
        with _stores.writing(self.log_json):
            file = Path(self.log_json).open("a", encoding="utf-8")  # noqa: SIM115 - closed below
        self._lines = file
        try:
            yield
        finally:
            self._lines = None
            with suppress(OSError):  # what could not be written was told
                file.close()

    @contextmanager
    def _events_noted(self) -> Iterator[None]:
        """Note what dkmeans logs, and what Python warns of."""
        handler, level, show = _Handler(self), _LOG.level, warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            self.note("warning", "WARNING", f"{category.__name__}: {message}")
            show(message, category, *rest, **named)

        _LOG.addHandler(handler)
        _LOG.setLevel(logging.DEBUG if self.log_json else logging.INFO)
        warnings.showwarning = note
        try:
            yield
        finally:
            warnings.showwarning = show
            _LOG.setLevel(level)
            _LOG.removeHandler(handler)

    def note(self, event: str, level: str, message: str, **more: Any) -> None:
        """Note an event; what only those want who debug does not come into the record."""
        if level != "DEBUG":
            with self._lock:
                told = {"time": _now(), "event": event, "level": level, "message": message}
                self._events.append(told | more)
        self._line(event, level, message=message, **more)

    def _line(self, event: str, level: str = "INFO", **more: Any) -> None:
        line = {"time": _now(), "level": level, "event": event, **_plain(more)}
        with self._lock:
            if self._lines is None:
                return
            try:
                self._lines.write(json.dumps(line) + "\n")
                self._lines.flush()
            except ValueError:
                pass  # closed by whoever reads it
            except OSError as error:  # no reason to lose the work
                self._lines = None
                _LOG.warning("%s: not written any more (%s).", self.log_json, error.strerror)


class _Handler(logging.Handler):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        more = {name: value for name, value in vars(record).items() if name not in _USUAL}
        event = more.pop("event", "note")
        self._recorder.note(event, record.levelname, record.getMessage(), **_plain(more))


@contextmanager
def _report(place: str) -> Iterator[None]:
    from distributed import performance_report  # noqa: PLC0415 - slow

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "report.html"
        with performance_report(str(written)):
            yield
        _stores.write(place, written.read_bytes())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _plain(value: Any) -> Any:
    """Return a value as JSON can have it."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _summary(result: Any) -> dict[str, Any]:
    """Return the numbers and names that a result has, and how large the rest is."""
    found = {}
    for name in getattr(result, "__dataclass_fields__", {}):
        value = getattr(result, name)
        if value is None or isinstance(value, bool | int | float | str):
            found[name] = _plain(value)
        elif hasattr(value, "colors"):
            found[name] = [list(map(int, color)) for color in value.colors]
    return found


def _client() -> Any | None:
    distributed = sys.modules.get("distributed")
    try:
        return None if distributed is None else distributed.get_client()
    except ValueError:
        return None


def _workers(client: Any) -> list[dict[str, Any]]:
    told = client.scheduler_info(n_workers=-1)["workers"]
    return [
        {"address": address, "host": worker["host"], "name": str(worker["name"])}
        | {"threads": worker["nthreads"], "memory_limit": worker["memory_limit"]}
        for address, worker in told.items()
    ]


def _worker_peaks(client: Any) -> dict[str, int]:
    """Return the peak memory of each worker that answers in time, by address."""
    from distributed import wait  # noqa: PLC0415 - it is loaded already

    from dkmeans._report import peak_memory  # noqa: PLC0415 - slow

    found: dict[str, int] = {}
    with suppress(Exception):  # a figure, no reason to fail at the end
        asked = {
            address: client.submit(peak_memory, workers=[address], pure=False)
            for address in client.nthreads()
        }
        with suppress(TimeoutError):
            wait(list(asked.values()), timeout=_ASK_SECONDS)
        for address, future in asked.items():
            if future.status == "finished":
                with suppress(TimeoutError):  # its worker was lost since, and no other is asked
                    found[address] = future.result(timeout=_ASK_SECONDS)
    return found


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    return found


def _machine() -> dict[str, Any]:
    import psutil  # type: ignore[import-untyped] # noqa: PLC0415 - slow; it ships no types

    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
    }
