"""scikit-learn's callback protocol, where the installed scikit-learn has it (from 1.9 on)."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from dkmeans._frame import Float64
from dkmeans._passes import Progress

__all__ = ["CallbackSupportMixin", "Report", "with_callbacks"]

F = TypeVar("F", bound=Callable[..., Any])

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]  # stands in for it
        """No callbacks can be set."""

    def with_callbacks(method: F) -> F:
        """Return the method as it is."""
        return method


class Report:
    """Tells an estimator's callbacks of each iteration, and of each other pass over the data.

    It is the `watch` of a fit, and the `Progress` of its passes. Runs from several starts may tell
    of iterations at the same time; callbacks hear of one after the other.

    Parameters
    ----------
    estimator
        The one being fitted, with its `verbose`.
    progress
        Who else is told of passes.
    """

    def __init__(self, estimator: Any, progress: Progress | None = None) -> None:
        self._estimator = estimator
        self._progress = progress
        self._context: Any = None
        self._pass: Any = None
        self._lock = threading.Lock()
        if hasattr(estimator, "_init_callback_context"):
            self._context = estimator._init_callback_context(max_subtasks=None)  # noqa: SLF001 - the protocol's way
            self._context.call_on_fit_task_begin(estimator=estimator)

    def __call__(self, n_iter: int, centers: Float64) -> bool:
        """Tell of an iteration; return whether a callback wants to stop."""
        with self._lock:
            if self._estimator.verbose:
                print(f"{type(self._estimator).__name__}: iteration {n_iter}")  # noqa: T201 - verbose
            if self._context is None:
                return False
            task = self._context.subcontext(task_name="iteration")
            task.call_on_fit_task_begin(estimator=self._estimator)
            stop = task.call_on_fit_task_end(
                estimator=self._estimator,
                reconstruction_attributes=lambda: self._estimator._state_at(centers),  # noqa: SLF001 - of ours
            )
            return bool(stop)

    def begin(self, name: str, nbytes: int, n_pixels: int) -> None:
        """Tell that a pass begins; a pass of refinement is told of as an iteration."""
        if self._progress is not None:
            self._progress.begin(name, nbytes, n_pixels)
        if self._estimator.verbose:
            print(f"{type(self._estimator).__name__}: {name}, {nbytes:,} bytes")  # noqa: T201 - verbose
        if self._context is not None and name != "refine":
            self._pass = self._context.subcontext(task_name=name)
            self._pass.call_on_fit_task_begin(estimator=self._estimator)

    def advance(self, nbytes: int) -> None:
        """Tell of bytes read; callbacks are told of whole passes only."""
        if self._progress is not None:
            self._progress.advance(nbytes)

    def end(self) -> None:
        """Tell that a pass is over."""
        if self._progress is not None:
            self._progress.end()
        if self._pass is not None:
            self._pass.call_on_fit_task_end(estimator=self._estimator)
            self._pass = None

    def finish(self) -> None:
        """Tell that the fit is over."""
        if self._context is not None:
            self._context.call_on_fit_task_end(estimator=self._estimator)
