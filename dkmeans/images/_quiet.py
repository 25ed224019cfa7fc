"""Warnings of decoders, which would reach the user without the name of a file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dkmeans._passes_locks import Lock

_catching = Lock()  # `warnings.catch_warnings` is not for two threads at a time


@contextmanager
def without(kind: type[Warning]) -> Iterator[None]:
    """Let nobody be warned in this way; for moments, as only one thread can be here."""
    with _catching, warnings.catch_warnings():
        warnings.simplefilter("ignore", kind)
        yield
