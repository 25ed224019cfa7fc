"""`dkmeans plan`: what a job would take, before any work."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dkmeans import _stores
from dkmeans._cli_cluster import Workplace, cluster_options, opened


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE... [OUTPUT]")
@click.option(
    "--job",
    type=click.Choice(["quantize", "ingest", "fit", "predict"]),
    help="What is to be done; quantize by default, fit with --clusters, predict with --model.",
)
@click.option("--colors", type=int, metavar="K", help="Of quantize; 256 by default.")
@click.option("-k", "--clusters", type=int, metavar="K", help="Of a fit.")
@click.option("--model", metavar="MODEL", help="Of predict: what fit has written.")
@click.option("--staging", metavar="FOLDER", help="As for quantize.")
@click.option("--no-calibrate", is_flag=True, help="Try nothing out, and tell no time.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
@cluster_options
@click.pass_context
def plan(
    ctx: click.Context,
    /,
    sources: tuple[str, ...],
    job: str | None,
    no_calibrate: bool,  # noqa: FBT001 - click passes names
    as_json: bool,  # noqa: FBT001 - click passes names
    **options: Any,
) -> None:
    """Tell what a job will take: passes, bytes, tasks, memory, disk and time.

    SOURCE is what it is for the job; the last of several is OUTPUT if nothing is there yet. Nothing
    is written. Exit status: 0 if the job fits, 1 if it would be refused.
    """
    place = Workplace.taken_from(options, ctx)
    clusters = options.pop("clusters")
    _refuse_contradiction(ctx, job, clusters, options["model"])
    from dkmeans import _jobs, _report_plan  # noqa: PLC0415 - slow
    from dkmeans._plan import plan as planned  # noqa: PLC0415 - slow

    *first, last = sources
    output = last if first and not _is_there(last) else None
    given: Any = sources if output is None else first
    if clusters is not None or options["model"] is not None or job in ("fit", "predict"):
        given = _jobs.opened(given[0]) if len(given) == 1 else list(given)
    with opened(place):
        found = planned(
            given,
            output,
            job=job,
            n_colors=options.pop("colors"),
            n_clusters=clusters,
            calibrate=not no_calibrate,
            **options,
        )
    if as_json:
        totals = {name: getattr(found, name) for name in ("n_passes", "bytes_read", "n_tasks")}
        click.echo(json.dumps(asdict(found) | totals, indent=2))
    else:
        _report_plan.print_plan(found)
    if not found.fits:
        ctx.exit(1)


def _is_there(place: str) -> bool:
    """Return whether there is a file, a folder, an object, or anything below it."""
    if not _stores.is_url(place):
        return Path(place).exists()
    from dkmeans.images import _objects  # noqa: PLC0415 - for S3 alone

    return _objects.is_there(place.rstrip("/"))


def _refuse_contradiction(
    ctx: click.Context, job: str | None, clusters: int | None, model: str | None
) -> None:
    """Refuse a job without the option that it needs, and that option for another job."""
    for of, option, value in (("predict", "--model", model), ("fit", "--clusters", clusters)):
        job = of if job is None and value is not None else job
        if job == of and value is None:
            raise click.UsageError(f"--job {job} needs {option}.", ctx)
        if job != of and value is not None:
            raise click.UsageError(f"{option} belongs to --job {of}, not to {job}.", ctx)
