"""A plan, as people read it."""

from typing import TYPE_CHECKING

from rich.console import Console

from dkmeans._report import console_of, facts_of, print_parts
from dkmeans._report_words import duration, pixels, size

if TYPE_CHECKING:
    from dkmeans._plan_passes import Plan


def print_plan(plan: "Plan", console: Console | None = None) -> None:
    """Print what a job will take."""
    what = pixels(plan.n_rows) if plan.job in ("quantize", "ingest") else f"{plan.n_rows:,} rows"
    passes = "; ".join(
        f"{each.name} {_range(each.times)} x {size(each.bytes_read)} in {each.n_tasks:,} tasks"
        for each in plan.passes
    )
    facts = {
        "Job": f"{plan.job}, {what} of {plan.n_sources:,} source{'s' * (plan.n_sources != 1)}",
        "Passes": f"{_range(plan.n_passes)}: {passes}",
        "Read": " to ".join(size(n) for n in sorted({*plan.bytes_read})),
        "Written": f"about {size(plan.bytes_written)}" if plan.bytes_written else "",
        "Staging": size(plan.staging) if plan.staging else "",
        "Workers": _workers(plan),
        "Memory": _memory(plan),
        "Time": "" if plan.seconds is None else " to ".join(map(duration, plan.seconds)),
    }
    print_parts(console or console_of(), facts_of({k: v for k, v in facts.items() if v}))


def _workers(plan: "Plan") -> str:
    threads = f"{plan.n_threads:,} thread{'s' * (plan.n_threads != 1)}"
    if plan.n_workers == 1:
        return f"1 process of {threads}"
    return f"{plan.n_workers:,} processes of {threads} each"


def _memory(plan: "Plan") -> str:
    limit = "no limit" if plan.memory_limit is None else f"limit {size(plan.memory_limit)}"
    if plan.memory_usable != plan.memory_limit:
        limit += f", of which {size(plan.memory_usable or 0)} before data move to disk"
    text = f"up to {size(plan.memory_worker)} a process ({limit})"
    if plan.memory_client != plan.memory_worker:
        text += f", {size(plan.memory_client)} the client"
    return text if plan.fits else f"{text}: too little, the job would be refused"


def _range(counts: tuple[int, int]) -> str:
    least, most = counts
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
