"""Peak memory of this process and its descendants, from a moment on."""

import ctypes
import gc
import os
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Memory:
    """Bytes resident at the peak.

    Attributes
    ----------
    peak
        The peaks of all processes, added up: at least what they had at once.
    added
        By how much that is above what they had before.
    worker
        The peak of the largest descendant; 0 if there is none.
    """

    peak: int
    added: int
    worker: int


class Peak:
    """The peak from now on: what is free has been given back before.

    The kernel notes the peak of each process, so that nothing has to be looked up meanwhile.
    Processes that end meanwhile do not count. Where the kernel's note cannot be reset (elsewhere
    than on Linux) the peak of this process is that of its whole life.
    """

    def __init__(self) -> None:
        gc.collect()
        with suppress(AttributeError, OSError):  # another C library has no such function
            ctypes.CDLL(None).malloc_trim(0)
        self._before = {pid: reset_peak(pid) for pid in _tree()}

    def read(self) -> Memory:
        """Return the peak so far."""
        peaks = {pid: peak_of(pid) for pid in _tree()}
        added = sum(max(0, peak - self._before.get(pid, 0)) for pid, peak in peaks.items())
        workers = [peak for pid, peak in peaks.items() if pid != os.getpid()]
        return Memory(sum(peaks.values()), added, max(workers, default=0))


def _tree() -> list[int]:
    own = psutil.Process()
    return [own.pid, *(child.pid for child in own.children(recursive=True))]


def reset_peak(pid: int) -> int:
    """Set the peak of a process to what it has resident, and return that."""
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    with suppress(psutil.Error):  # it has ended
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def peak_of(pid: int) -> int:
    """Return the most that a process had resident; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if pid != os.getpid():
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
