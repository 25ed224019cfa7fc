"""One palette for pictures of any size: count the colours, solve, assign."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._palette import Palette
from dkmeans._passes import BlockSource, Passes, Progress
from dkmeans._summary import ColourSummary
from dkmeans._validation import (
    InvalidArgumentError,
    check_choice,
    check_integer,
    check_number,
    check_progress,
)
from dkmeans.images import _needs, _sources
from dkmeans.images._assign import Assign, Written
from dkmeans.images._count import count_colours, pieces_of
from dkmeans.images._deflate import Compression
from dkmeans.images._destination import max_colors
from dkmeans.images._fit import Fit, fit, psnr
from dkmeans.images._manifest import Job
from dkmeans.images._places import refuse_among
from dkmeans.images._sources import Paths, SourceReport, refuse_failed
from dkmeans.images._staging import plan_staging, staging_folder
from dkmeans.images._targets import entered, target_of
from dkmeans.images._writing import finish, write_labels

Float64 = npt.NDArray[np.float64]

_MIN_STARTS, _STARTED_COLORS = 2, 512


@dataclass(frozen=True)
class QuantizeResult:
    """What `quantize` found and wrote.

    Attributes
    ----------
    palette
        The colours written, with their shares of the pixels; those of the largest clusters first.
    centers
        (k, bands) float64: the centres before rounding, or None if a palette was given.
    inertia
        The sum of squared distances of all pixels to their nearest centre, over the bands; to
        their nearest colour if a palette was given.
    psnr
        Of the output against the sources, in dB; infinite if no pixel changes.
    n_distinct
        How many distinct colours the sources have; None if a palette was given.
    n_pixels
        Pixels of all sources that were written.
    n_iter, stop_reason
        Lloyd iterations over all distinct colours, and why they ended: "converged", "tol",
        "max_iter"; "exact" if every colour got its own place, "palette" if one was given.
    n_passes, bytes_read
        How often the data were read, and the decoded bytes read in all.
    report
        What became of each source, in order.
    """

    palette: Palette
    centers: Float64 | None
    inertia: float
    psnr: float
    n_distinct: int | None
    n_pixels: int
    n_iter: int
    stop_reason: str
    n_passes: int
    bytes_read: int
    report: tuple[SourceReport, ...]


def quantize(
    sources: Paths,
    output: str | Path,
    *,
    n_colors: int = 256,
    palette: Palette | None = None,
    init: Literal["k-means++"] | npt.ArrayLike = "k-means++",
    n_init: int | None = None,
    max_iter: int = 300,
    tol: float = 1e-4,
    seed: int = 0,
    dither: str = "none",
    compression: Compression = "fast",
    staging: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Reduce pictures to one palette, exactly as if k-means saw every pixel.

    One pass counts the colours of all pictures; k-means runs on the counts, in memory; one more
    pass replaces each pixel by the index of its nearest colour and writes the result. Both passes
    run on the active Dask scheduler, threads by default. The result has the same bytes for any
    scheduler, number of workers and layout of the sources.

    Memory is bounded, whatever the size of the pictures: for counts a table of 32 MiB a thread, and
    more of them on clusters; 12 bytes for each distinct colour; and a few blocks. A source that can
    only be read from first to last (JPEG, PNG, WebP, TIFF in one compressed strip) is kept decoded
    on disk between the passes if half of the free space suffices, and decoded twice otherwise.

    Parameters
    ----------
    sources
        A path, or several: JPEG, PNG, WebP, TIFF and BigTIFF files, folders of them, globs, Zarr
        arrays (height, width) or (height, width, 1 or 3), and stores of `ingest`. 8-bit grey or
        RGB; grey pictures among RGB ones count as RGB.
    output
        A name ending in ``.png`` (indexed PNG of 1, 2, 4 or 8 bits), ``.tif`` (tiled palette
        BigTIFF) or ``.zarr`` (labels, uint8, or uint16 beyond 256 colours, whose attribute
        ``palette`` lists the colours), or a folder, which gets one indexed PNG for each source. Or
        a URL, such as ``s3://bucket/name.tif``, or with a slash at its end for a folder.
    n_colors
        From 2 to 256; to 65536 for Zarr. Fewer are used if there are fewer distinct colours.
    palette
        Use these colours and read the sources only once.
    init
        "k-means++" (greedy), or (n_colors, bands) centres to start from.
    n_init
        How many starts to choose the best of; they cost no pass. By default 2, and more for few
        colours, when they take less time and matter more: ``512 // n_colors``.
    max_iter, tol
        When to stop, as in scikit-learn's ``KMeans``.
    seed
        Of all random draws; not negative.
    dither
        "none"; "blue-noise" is not yet supported.
    compression
        "fast", or "small": some 15 % smaller files, written ten times slower.
    staging
        The folder for decoded pixels between the passes; by default beside the output, and none if
        that is in S3.
    overwrite
        Whether an existing output may be replaced.
    resume
        Whether to go on where the same job was interrupted, with the same result as if it never
        had been. Where nothing was interrupted, the job begins; see `CompleteError`.
    progress
        Told how the passes go.

    Returns
    -------
    QuantizeResult
        If some of several sources failed, `report` names them with the reasons.

    Raises
    ------
    InvalidArgumentError
        If an argument has a value that is not allowed, or another one than the interrupted job.
    SourceError
        If no source can be read to its end, or one has changed since the job was interrupted.
    InsufficientMemoryError
        If the job needs more memory than there is; nothing has been done then.
    ClusterError
        If the cluster is lost, or a part of the work kills each worker that tries it.
    OutputError
        If the output exists, is being written by another job, or cannot be written. Outputs that
        are finished stay; what is done of others stays in a folder beside them, to be resumed.
    CompleteError
        An `OutputError`: with `resume`, if the output is there and nothing was interrupted.

    Notes
    -----
    The method is that of [1]_ on the counts of colours: the assignment step walks down an octree
    and compares only the centres that can be nearest, with the same result as comparing all.
    Starts come from greedy k-means++ [2]_ on the cells of the octree's fifth level.

    References
    ----------
    .. [1] T. Kanungo et al., "An Efficient k-Means Clustering Algorithm: Analysis and
       Implementation", IEEE TPAMI 24(7), 2002, section 3.
    .. [2] D. Arthur and S. Vassilvitskii, "k-means++: The Advantages of Careful Seeding",
       SODA 2007, section 2.2.
    """
    _check_forms(dither, compression)
    numbers = _checked_numbers(n_init, max_iter, tol, seed)
    check_progress(progress)
    sources = _sources.as_list(sources)
    found = _sources.find(sources)
    refuse_among("output", output, sources)
    is_single = _sources.is_single(sources) and len(found) == 1
    failures = {i: f.error for i, f in enumerate(found) if f.error is not None}
    refuse_failed(failures, len(found))
    target = target_of(output, found, is_single=is_single)
    n_colors = _check_colors(n_colors, palette, target.kind)
    readable = [image.source for image in found if image.source is not None]
    bands = max(source.shape[2] for source in readable)
    _needs.check_quantize(readable, bands, n_colors, palette)
    fitting = {
        "n_colors": n_colors,
        "start": _check_init(init, n_colors, bands),
        **numbers,
        "n_init": numbers["n_init"] or max(_MIN_STARTS, _STARTED_COLORS // n_colors),
    }
    layout = "" if target.kind != "zarr" else " array" if is_single else " group"
    options = _described(fitting, palette, dither, compression, f"{target.kind}{layout}")
    passes = Passes(progress)
    with entered(target, options, found, resume=resume, overwrite=overwrite) as (space, job):
        usable = {i: f.source for i, f in enumerate(found) if f.source is not None}
        fitted: Fit | None = None
        with staging_folder(staging, target.path, target.room(job)) as stage:
            if palette is None:
                fitted, failures, usable = _fitted(
                    passes, usable, failures, bands, stage, job, fitting
                )
            colours = fitted.palette if fitted else palette
            assert colours is not None  # noqa: S101 - tells the type checker what was just seen
            failures |= job.publication() or {}
            usable = {i: source for i, source in usable.items() if i not in failures}
            outputs = target.outputs(job, usable, colours, compression)
            files = {index: target.files[index] for index in usable}
            done = job.done(files, lambda index, key: outputs[index].is_sound(key))
            work = Assign(colours, measure=fitted is None, journal=job.journal)
            assigned = write_labels(passes, usable, outputs, done, work)
        failures |= assigned.failures
        refuse_failed(failures, len(found))
        written = {i: w for i, w in assigned.written.items() if i not in failures}
        sizes = finish(outputs, written, job)
        target.finish(space, job, failures)
    report = _sources.report(found, target.files, failures, sizes)
    quality = fitted.quality() if fitted else _measured(colours, list(written.values()))
    return QuantizeResult(
        **quality, n_passes=passes.n_passes, bytes_read=passes.bytes_read, report=report
    )


def _described(
    fitting: Mapping[str, Any],
    palette: Palette | None,
    dither: str,
    compression: str,
    kind: str,
) -> dict[str, Any]:
    """Return all options that change a byte of the output, as a job is described in its file."""
    start = fitting["start"]
    return {
        **{name: value for name, value in fitting.items() if name != "start"},
        "init": "k-means++" if start is None else start.tolist(),
        "palette": None if palette is None else list(palette.hex),
        "dither": dither,
        "compression": compression,
        "output": f"quantize to {kind}",
    }


def _fitted(  # noqa: PLR0917 - private, called once
    passes: Passes,
    usable: Mapping[int, BlockSource],
    before: Mapping[int, str],
    bands: int,
    stage: Path | None,
    job: Job,
    options: Mapping[str, Any],
) -> tuple[Fit, dict[int, str], dict[int, BlockSource]]:
    """Return the palette, the sources that failed, and the others, decoded if they are staged.

    `before` are those that had failed already.

    A job that goes on takes the palette that it had found, and reads nothing for it.
    """
    if _stores.exists(job.fit):
        fitted, failures = Fit.read(job.fit)
        left = {i: s for i, s in usable.items() if i not in failures}
        return fitted, {**before, **failures}, left
    staged = {} if stage is None else plan_staging(usable, stage)
    counts, failures = count_colours(passes, pieces_of(usable), bands, staged)
    refuse_failed({**before, **failures}, len(before) + len(usable))
    summary = ColourSummary(counts)
    del counts  # the summary takes its place in memory, as the labels will the summary's
    fitted = fit(summary, **options)
    fitted.write(job.fit, failures)
    left = {i: staged.get(i, source) for i, source in usable.items() if i not in failures}
    return fitted, {**before, **failures}, left


def _checked_numbers(n_init: Any, max_iter: Any, tol: Any, seed: Any) -> dict[str, Any]:
    """Return numbers as Python's: small ones of NumPy would overflow."""
    return {
        "n_init": None if n_init is None else check_integer("n_init", n_init, 1),
        "max_iter": check_integer("max_iter", max_iter, 1),
        "tol": check_number("tol", tol, 0),
        "seed": check_integer("seed", seed, 0),
    }


def _check_forms(dither: Any, compression: Any) -> None:
    check_choice("compression", compression, ("fast", "small"))
    if check_choice("dither", dither, ("none", "blue-noise")) != "none":
        raise InvalidArgumentError(f"not yet supported: dither {dither!r}; use 'none'.")


def _check_colors(n_colors: Any, palette: Any, kind: str) -> int:
    """Return how many colours are asked for, which of a palette says nothing."""
    most = max_colors(kind)
    if palette is None:
        return check_integer("n_colors", n_colors, 2, most, f"for a {kind} output")
    if not isinstance(palette, Palette):
        raise InvalidArgumentError(
            f"palette is of type {type(palette).__name__}; it must be a dkmeans.Palette, such as "
            "Palette.load reads from a file."
        )
    check_integer("the number of colours in palette", len(palette), 1, most)
    return check_integer("n_colors", n_colors, 1)


def _check_init(init: Any, n_colors: int, bands: int) -> Float64 | None:
    if isinstance(init, str):
        check_choice("init", init, ("k-means++",))
        return None
    try:
        centers = np.asarray(init).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"init is no array of numbers ({error}).") from error
    if centers.shape != (n_colors, bands) or not np.isfinite(centers).all():
        raise InvalidArgumentError(
            f"init has shape {centers.shape}; it must be (n_colors, bands) = "
            f"({n_colors}, {bands}), all finite."
        )
    return centers


def _measured(palette: Palette, written: Sequence[Written]) -> dict[str, Any]:
    """Return the quality of a given palette, as measured while writing."""
    uses = np.sum([w.uses for w in written if w.uses is not None], axis=0)
    error = sum(w.error for w in written)
    n_pixels = int(uses.sum())
    return {
        "palette": Palette(palette.colors, shares=uses / n_pixels, names=palette.names),
        "centers": None,
        "inertia": float(error),
        "psnr": psnr(error, 3 * n_pixels),
        "n_distinct": None,
        "n_pixels": n_pixels,
        "n_iter": 0,
        "stop_reason": "palette",
    }
