"""Summaries of jobs on tables."""

from typing import TYPE_CHECKING, Any

from rich.console import Console

from dkmeans import _report
from dkmeans._report_words import duration, shown_path, size

if TYPE_CHECKING:
    from dkmeans._jobs import FitResult, PredictResult


def print_fitted(
    result: "FitResult", *, seconds: float, peak: int, console: Console | None = None
) -> None:
    """Print what a fit found; the parameters are those of `_report.print_quantized`."""
    reason = {
        "converged": "converged",
        "tol": "until little changed (tol)",
        "max_no_improvement": "until little was gained (max_no_improvement)",
        "max_iter": "the most allowed (max_iter); more may be better",
    }.get(result.stop_reason, result.stop_reason)
    facts = {
        "Model": shown_path(result.model),
        **_rows(result),
        "Iterations": f"{result.n_iter:,}, {reason}",
        "Passes": f"{result.n_passes:,}" + (", gone on from a checkpoint" * result.resumed),
    }
    _print(facts, seconds, peak, console)


def print_predicted(
    result: "PredictResult", *, seconds: float, peak: int, console: Console | None = None
) -> None:
    """Print what was labelled; the parameters are those of `_report.print_quantized`."""
    _print({"Labels": shown_path(result.output), **_rows(result)}, seconds, peak, console)


def _rows(result: Any) -> dict[str, str]:
    """Return what both jobs tell of rows and clusters."""
    counts = result.counts
    share = counts / max(counts.sum(), 1)
    shares = f"{share.min():.2%} to {share.max():.2%}"
    left_out = f", {result.n_missing:,} left out" if result.n_missing else ""
    return {
        "Rows": f"{result.n_rows:,} of {result.n_features:,} features{left_out}",
        "Clusters": f"{len(counts):,}, of {shares} of the rows",
        "Inertia": f"{result.inertia:.6g}",
    }


def _print(facts: dict[str, str], seconds: float, peak: int, console: Console | None) -> None:
    facts = {**facts, "Time": duration(seconds), "Peak memory": size(peak)}
    _report.print_facts(facts, console)
