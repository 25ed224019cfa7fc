"""`plan`: what a job will take, told before any work."""

from pathlib import Path
from typing import Any

from dkmeans import _plan_images
from dkmeans._plan_passes import Plan
from dkmeans._validation import InvalidArgumentError, check_choice

_JOBS = ("quantize", "ingest", "fit", "predict")
_COLORS = 256


def plan(
    source: Any,
    output: str | Path | None = None,
    *,
    job: str | None = None,
    n_colors: int | None = None,
    n_clusters: int | None = None,
    max_iter: int = 300,
    model: str | Path | None = None,
    staging: str | Path | None = None,
    calibrate: bool = True,
) -> Plan:
    """Tell what a job will take on the active Dask scheduler: passes, bytes, memory, time.

    Headers are read and, to tell the time, some blocks are read and worked on in this thread for
    about a second. Nothing is written.

    Parameters
    ----------
    source
        Pictures as for `quantize`; for a fit the data as for `KMeans.fit`; for labels one array in
        memory or in Zarr.
    output
        Where `quantize` would write; by default indexed PNG is planned for.
    job
        "quantize", "ingest", "fit", which is the default where `n_clusters` is given, or "predict",
        which is the default where `model` is given.
    n_colors
        Of `quantize`; 256 by default.
    n_clusters, max_iter
        Of `KMeans`.
    model
        Where the model is whose labels ``dkmeans predict`` would write.
    staging
        As for `quantize`.
    calibrate
        Whether to try some blocks out; without, `seconds` is None. Dask arrays are never tried.

    Returns
    -------
    Plan
        Passes, bytes read and tasks are those of the job. A fit of data larger than its summary
        refines in as many passes as it takes: those of usual fits are planned for. Memory is an
        upper bound for kernels that are compiled: the first job of a version takes some 100 MiB
        more in each process, once.

    Raises
    ------
    InvalidArgumentError
        If arguments have values that are not allowed, or contradict each other.
    SourceError
        If no source can be read.

    Examples
    --------
    >>> import numpy as np
    >>> import dkmeans
    >>> found = dkmeans.plan(np.zeros((1000, 3)), n_clusters=4, calibrate=False)
    >>> found.job, found.n_passes, found.bytes_read
    ('fit', (1, 1), (24000, 24000))
    """
    if job is None:
        job = "quantize" if n_clusters is None else "fit"
        job = job if model is None else "predict"
    check_choice("job", job, _JOBS)
    if (n_clusters is not None) != (job == "fit"):
        raise InvalidArgumentError(
            f"n_clusters is {n_clusters!r} and job is {job!r}; n_clusters belongs to a fit, and a "
            "fit needs it."
        )
    if (model is not None) != (job == "predict"):
        raise InvalidArgumentError(
            f"model is {model!r} and job is {job!r}; a model belongs to predict, which needs it."
        )
    for name, value in (("n_colors", n_colors), ("staging", staging)):
        if value is not None and job != "quantize":
            raise InvalidArgumentError(f"{name} is {value!r}; it belongs to quantize, not {job}.")
    if model is not None or n_clusters is not None:
        # It imports scikit-learn, and that pandas: 130 MiB that jobs on pictures do not take.
        from dkmeans import _plan_tables  # noqa: PLC0415 - see above

        if model is not None:
            return _plan_tables.predict(source, model, calibrate=calibrate)
        assert n_clusters is not None  # noqa: S101 - one of the two is given
        return _plan_tables.fit(source, n_clusters, max_iter, calibrate=calibrate)
    if job == "ingest":
        return _plan_images.ingest(source, calibrate=calibrate)
    n_colors = _COLORS if n_colors is None else n_colors
    return _plan_images.quantize(source, output, n_colors, staging, calibrate=calibrate)
