"""Commands on tables: fit a model, and label rows by it."""

import math
from functools import partial
from typing import Any

import click

from dkmeans._cli_jobs import job_options, resume_option, run

_MOST_SEED = (1 << 32) - 1  # that NumPy's generator takes


def _refuse_infinite(_: click.Context, __: click.Parameter, tol: float | None) -> float | None:
    """Refuse what is no number, which ranges of click contain."""
    if tol is not None and not math.isfinite(tol):
        raise click.BadParameter(f"{tol} is no finite number.")
    return tol


@click.command()
@click.argument("data")
@click.argument("model")
@click.option(
    "-k",
    "--clusters",
    type=click.IntRange(min=1),
    required=True,
    metavar="K",
    help="How many clusters.",
)
@click.option(
    "--algorithm",
    type=click.Choice(["lloyd", "minibatch"]),
    default="lloyd",
    show_default=True,
    help="minibatch reads the data twice, for the centres and for the inertia, and ends higher.",
)
@click.option(
    "--init",
    type=click.Choice(["k-means++", "k-means||", "random"]),
    default="k-means++",
    show_default=True,
    metavar="METHOD",  # of bars between the choices nobody would know which belong to "k-means||"
    help='How to choose the first centres: k-means++, "k-means||" or random.',
)
@click.option(
    "--seed",
    type=click.IntRange(0, _MOST_SEED),
    default=0,
    show_default=True,
    metavar="S",
    help="Of all random draws.",
)
@click.option(
    "--max-iter",
    type=click.IntRange(min=1),
    metavar="N",
    help="The most iterations; 300 by default, for minibatch 100 times as many rows as there are.",
)
@click.option(
    "--tol",
    type=click.FloatRange(min=0),
    callback=_refuse_infinite,
    metavar="T",
    help="End when centres move less, or a pass over all rows wins less than 5 T; 1e-4 by default, "
    "for minibatch 0.",
)
@click.option(
    "--missing",
    type=click.Choice(["error", "ignore"]),
    default="error",
    show_default=True,
    help="What to do with rows that have NaN: refuse them, or leave them out.",
)
@click.option(
    "--checkpoint",
    metavar="PLACE",
    help="Where to keep what is needed to go on; MODEL.checkpoint by default.",
)
@resume_option
@job_options
@click.pass_context
def fit(ctx: click.Context, /, data: str, model: str, **options: Any) -> None:
    """Find the centres of clusters in a table of any size, and write them as a model.

    DATA is a Zarr array, its last axis the features, or a .npy file. MODEL is a JSON file, to be
    written.
    """
    from dkmeans import _jobs, _report_tables  # noqa: PLC0415 - slow

    work = partial(_jobs.fit, data, model, n_clusters=options.pop("clusters"))
    run(ctx, work, _report_tables.print_fitted, **options)


@click.command()
@click.argument("model")
@click.argument("data")
@click.argument("output")
@job_options
@click.pass_context
def predict(ctx: click.Context, /, model: str, data: str, output: str, **options: Any) -> None:
    """Write the label of each row of a table: the number of its nearest centre.

    MODEL is what fit has written, DATA as for fit. OUTPUT is a Zarr array, a name ending in .zarr.
    """
    from dkmeans import _jobs, _report_tables  # noqa: PLC0415 - slow

    run(ctx, partial(_jobs.predict, model, data, output), _report_tables.print_predicted, **options)
