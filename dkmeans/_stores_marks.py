"""Marks: what stands in a lock of who holds it, and is read by whoever is refused."""

import json
import os
import socket
import time
from typing import Any

MOST = 4096  # bytes read of a lock


def mark() -> dict[str, Any]:
    """Return what tells of this process, as JSON can have it."""
    return {
        "format": "dkmeans-lock",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def marked(data: bytes) -> dict[str, Any]:
    """Return the mark that stands in a lock; nothing if it was written by something else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def refusal(output: object, data: bytes) -> str:
    """Return the sentence that another job, whose mark stands in a lock, is writing an output."""
    found = marked(data)
    try:
        host, since = f"{found['host']!s:.100}", f"{found['since']!s:.30}"
        holder = f"process {int(found['pid'])} on {host}, since {since}"
    except (ValueError, KeyError, TypeError, OverflowError):
        holder = "which one cannot be told"
    return f"{output}: another job is writing it ({holder}); wait for it, or choose another name."
