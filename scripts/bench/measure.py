"""What the benchmarks share: photographs to work on, a command and its memory, the machine."""

import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from PIL import Image

MIB = 1 << 20

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
_PACKAGING = {"usr", "share", "backgrounds", "wallpapers", "contents"}
_LIBRARIES = (
    "dkmeans", "numpy", "numba", "dask", "zarr", "rasterio", "isal", "pillow", "scikit-learn",
    "scikit-learn-intelex", "faiss-cpu", "dask-ml", "pyspark", "imagequant",
)  # fmt: skip
_SAMPLE_SECONDS = 0.05
_LOOK_AROUND = 10  # samples between two searches for new processes, which cost more


def photographs(
    paths: Iterable[Path], limit: int, *, min_bytes: int = 300_000, modes: Sequence[str] = ()
) -> list[Path]:
    """Choose photographs among files and folders, evenly over their sorted paths.

    Parameters
    ----------
    paths
        Files, and folders that are searched to any depth. Links are passed over.
    limit
        How many to choose at most.
    min_bytes
        Smaller files are drawings and thumbnails.
    modes
        The Pillow modes that will do; any if empty.

    Raises
    ------
    SystemExit
        If there is none.
    """
    files = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
    found = sorted(
        file
        for file in files
        if file.suffix.lower() in _SUFFIXES
        and file.is_file()
        and not file.is_symlink()
        and file.stat().st_size >= min_bytes
        and (not modes or _mode(file) in modes)
    )
    if not found:
        raise SystemExit(f"no photographs of at least {min_bytes} bytes and mode {modes}")
    n = min(limit, len(found))
    return [found[i * len(found) // n] for i in range(n)]


def short_names(files: Sequence[Path]) -> list[str]:
    """Name files by their paths below the folder they share, without the words of all packages."""
    if len(files) == 1:
        return [files[0].name]
    shared = Path(os.path.commonpath(files))
    return [
        "/".join(part for part in file.relative_to(shared).parts if part not in _PACKAGING)
        for file in files
    ]


def _mode(file: Path) -> str:
    with Image.open(file) as image:
        return str(image.mode)


@dataclass(frozen=True)
class Run:
    """What became of a command.

    Attributes
    ----------
    status, output, errors
        Its exit status and what it wrote to its standard streams.
    seconds
        How long it took, from start to end of the process.
    peak
        The most memory that it and its descendants had resident at once, in bytes, looked up
        every 50 ms; pages that processes share count in each.
    max_resident
        The most that the largest single process of them had resident, as the kernel noted it
        between two looks too; at least what the caller itself had, as a fork begins as its copy.
    read
        Bytes that they read from files and pipes, at the last look before the end; 0 where the
        system does not tell.
    """

    status: int
    output: str
    errors: str
    seconds: float
    peak: int
    max_resident: int
    read: int


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end and watch its memory; `env` is added to the environment.

    Python keeps its bytecode, as it does where a program is installed: else ours, in a checkout,
    would be compiled anew each time.
    """
    inherited = {**os.environ, **(env or {})}
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - the benchmarks say what to run
            command, stdout=output, stderr=errors, env=inherited
        )
        watch = _Watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        watch.end()
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read())
    unit = 1 if platform.system() == "Darwin" else 1024
    return Run(
        process.returncode,
        texts[0],
        texts[1],
        seconds,
        peak=watch.peak,
        max_resident=usage.ru_maxrss * unit,
        read=watch.read,
    )


class _Watch:
    """Looks up the memory of a process and its descendants until told to end."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self.read = 0
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop looking."""
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        tree: list[psutil.Process] = []
        samples = 0
        while not self._done.wait(_SAMPLE_SECONDS):
            with suppress(psutil.Error):  # the process has just ended
                if samples % _LOOK_AROUND == 0:
                    root = psutil.Process(self._pid)
                    tree = [root, *root.children(recursive=True)]
            samples += 1
            seen = [_look_up(process) for process in tree]
            self.peak = max(self.peak, sum(resident for resident, _ in seen))
            self.read = max(self.read, sum(read for _, read in seen))


def _look_up(process: psutil.Process) -> tuple[int, int]:
    """Return the resident bytes of a process and those it has read."""
    try:
        counters = process.io_counters() if hasattr(process, "io_counters") else None
        return process.memory_info().rss, getattr(counters, "read_chars", 0)
    except psutil.Error:  # it has ended
        return 0, 0


def machine() -> dict[str, str]:
    """Describe the machine and the libraries."""
    libraries = []
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):  # not all are needed
            libraries.append(f"{name} {version(name)}")
    release = ".".join(platform.release().split(".")[:2])
    return {
        "processor": f"{_processor()}, {os.cpu_count()} logical cores",
        "memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
        "system": f"{platform.system()} {release}, Python {platform.python_version()}",
        "libraries": ", ".join(libraries),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; all columns but the first are numbers, to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
