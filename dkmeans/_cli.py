"""The command line: each command translates its arguments into one call of the library.

Whatever imports slowly is imported inside the commands, so that help comes at once.
"""

import atexit
import gc
import io
import os
import sys
import warnings
from functools import partial
from typing import Any

import click

from dkmeans._cli_errors import INTERRUPTED, SOME_FAILED, TERMINATED, Commands, debugging, end_soon
from dkmeans._cli_jobs import job_options, resume_option, run
from dkmeans._cli_plan import plan
from dkmeans._cli_tables import fit, predict
from dkmeans._report_words import printable
from dkmeans._validation import DkmeansError

_ALLOCATIONS = 50_000  # between two collections of garbage


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="dkmeans", prog_name="dkmeans", message="%(prog)s %(version)s")
def cli() -> None:
    """Reduce images of any size to a palette that k-means has chosen, and cluster large tables.

    Exit status: 0 if all was done, 1 if a source or the work failed, 2 for wrong use, 130 if
    interrupted, 143 if terminated.
    """
    # What lies in files has no names of features; a model that was fitted in Python may have some.
    warnings.filterwarnings("ignore", "X does not have valid feature names")


def _refuse_none(
    ctx: click.Context, _: click.Parameter, sources: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse to have none: of one argument click takes it for the output, and misses a source."""
    if not sources:
        raise click.UsageError("A source and an output are needed, the output last.", ctx)
    return sources


_sources = click.argument("sources", nargs=-1, metavar="SOURCE...", callback=_refuse_none)


@cli.command()
@_sources
@click.argument("output")
@click.option("--colors", default=256, show_default=True, metavar="K", help="How many colours.")
@click.option("--palette", metavar="FILE", help="Use the colours of this palette file instead.")
@click.option(
    "--dither",
    type=click.Choice(["none", "blue-noise"]),
    default="none",
    show_default=True,
    help="How to break up bands of one colour. blue-noise is not yet supported.",
)
@click.option("--seed", default=0, show_default=True, metavar="S", help="Of all random draws.")
@click.option(
    "--n-init",
    type=int,
    metavar="N",
    help="How many starts to choose the best of; 2 by default, and more for few colours.",
)
@click.option(
    "--compression",
    type=click.Choice(["fast", "small"]),
    default="fast",
    show_default=True,
    help="small makes smaller files and takes longer.",
)
@click.option(
    "--staging",
    metavar="FOLDER",
    help="Where to keep decoded pixels between the passes; by default beside OUTPUT, and nowhere "
    "if OUTPUT is in S3.",
)
@resume_option
@job_options
@click.pass_context
def quantize(ctx: click.Context, /, sources: tuple[str, ...], output: str, **options: Any) -> None:
    """Reduce images to one palette.

    SOURCE is an image file, a folder, a pattern such as "scans/*.tif", or a Zarr store. OUTPUT is
    a name ending in .png, .tif or .zarr, or a folder, which gets an indexed PNG for each source.
    """
    from dkmeans import _report, images  # noqa: PLC0415 - slow
    from dkmeans._palette import Palette  # noqa: PLC0415 - slow

    colors, palette = options.pop("colors"), options.pop("palette")
    if palette is not None and _is_given(ctx, "colors"):
        raise click.UsageError("--colors and --palette exclude each other.", ctx)
    run(
        ctx,
        partial(
            images.quantize,
            sources,
            output,
            n_colors=colors,
            palette=None if palette is None else Palette.load(palette),
        ),
        _report.print_quantized,
        **options,
    )


@cli.command()
@_sources
@click.argument("store")
@resume_option
@job_options
@click.pass_context
def ingest(ctx: click.Context, /, sources: tuple[str, ...], store: str, **options: Any) -> None:
    """Copy images into a Zarr store, which is read in parallel and in any order.

    SOURCE is an image file, a folder, a pattern such as "scans/*.tif", or a Zarr store. STORE is a
    name ending in .zarr.
    """
    from dkmeans import _report, images  # noqa: PLC0415 - slow

    run(ctx, partial(images.ingest, sources, store), _report.print_ingested, **options)


cli.add_command(plan)


@cli.command()
@click.argument("source", metavar="PALETTE_OR_IMAGE")
@click.argument("file")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
def palette(source: str, file: str, overwrite: bool) -> None:  # noqa: FBT001 - click passes names
    """Copy a palette from one kind of file to another.

    The kinds are .gpl (GIMP), .act (Adobe), .png (an indexed image), .txt (GDAL colour table) and
    .json (dkmeans).
    """
    from dkmeans._palette import Palette  # noqa: PLC0415 - slow

    Palette.load(source).save(file, overwrite=overwrite)


@cli.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.pass_context
def info(ctx: click.Context, paths: tuple[str, ...]) -> None:
    """Tell the size, type and layout of images, from their headers."""
    from dkmeans import _report, images  # noqa: PLC0415 - slow

    known: list[images.ImageInfo] = []
    failures: list[DkmeansError] = []
    for path in paths:
        try:
            infos, errors = images.headers(path)
        except DkmeansError as error:
            failures.append(error)
        else:
            known += infos
            failures += errors
    if known:
        _report.print_info(known)
    for failure in failures:
        click.echo(f"dkmeans: failed: {printable(str(failure))}", err=True)
    if failures and debugging():
        raise failures[0]
    if failures:
        ctx.exit(SOME_FAILED)


cli.add_command(fit)
cli.add_command(predict)


def _is_given(ctx: click.Context, name: str) -> bool:
    """Whether the user gave an option, rather than its default applying."""
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def main() -> None:
    """Run the command line."""
    # Of all that is imported hardly anything is ever garbage. To look it through took 0.3 s a
    # command, most of it when the process ends and its memory goes anyway.
    gc.set_threshold(_ALLOCATIONS)
    atexit.register(gc.freeze)
    # No kernel uses BLAS. Its threads, as NumPy loads it, spin for a while beside those that work.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may hold anything
    try:
        cli(prog_name="dkmeans")
    except SystemExit as end:
        if end.code in (INTERRUPTED, TERMINATED):
            end_soon(int(end.code))
        raise
