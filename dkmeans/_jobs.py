"""Jobs on tables, as the command line runs them: data by name in, a model or labels out."""

import os
import tokenize
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _needs_tables, _stores
from dkmeans._checkpoint import Checkpoint
from dkmeans._estimators import KMeans
from dkmeans._estimators_checks import check_finite
from dkmeans._estimators_functions import load
from dkmeans._estimators_minibatch import MiniBatchKMeans
from dkmeans._jobs_labels import write_labels
from dkmeans._passes import Passes, Progress
from dkmeans._tables import table
from dkmeans._tables_zarr import ROWS_OF_A_CHUNK, complete_labels, create_labels
from dkmeans._validation import (
    CompleteError,
    DkmeansError,
    InvalidArgumentError,
    OutputError,
    SourceError,
    check_choice,
    note_kept,
)
from dkmeans.images import _workspace
from dkmeans.images._places import as_path, refuse_among
from dkmeans.images._store import kept_in
from dkmeans.images._targets import Target, entered, target_of

ALGORITHMS = ("lloyd", "minibatch")
_TABLE = 2  # axes
_NPY_DAMAGES = (OSError, ValueError, EOFError, SyntaxError, tokenize.TokenError)


@dataclass(frozen=True, eq=False)
class FitResult:
    """What `fit` found. Attributes are those of the estimators, without the underscore."""

    model: str
    n_rows: int
    n_features: int
    counts: npt.NDArray[Any]
    inertia: float
    n_iter: int
    n_passes: int
    n_missing: int
    stop_reason: str
    resumed: bool
    report: tuple[()] = ()  # data are one source, whose failure is an error


@dataclass(frozen=True, eq=False)
class PredictResult:
    """What `predict` wrote: where, the rows of each cluster, those left out, and the inertia."""

    output: str
    n_rows: int
    n_features: int
    counts: npt.NDArray[Any]
    inertia: float
    n_missing: int
    report: tuple[()] = ()


def fit(
    data: str,
    model: str,
    *,
    n_clusters: int,
    algorithm: str = "lloyd",
    init: str = "k-means++",
    seed: int = 0,
    max_iter: int | None = None,
    tol: float | None = None,
    missing: str = "error",
    checkpoint: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Fit centres to the rows of an array, and write the model.

    Parameters
    ----------
    data
        The path or URL of a Zarr array, or a ``.npy`` file, which is mapped into memory.
    model
        The path or URL of the model to write.
    n_clusters, init, max_iter, tol, missing
        As for `KMeans` and `MiniBatchKMeans`; by default theirs.
    algorithm
        "lloyd" for `KMeans`, "minibatch" for `MiniBatchKMeans`.
    seed
        The random state.
    checkpoint
        Where to write what is needed to go on; by default beside the model.
    resume
        Whether to go on from the checkpoint of a fit that was interrupted, if there is one.
    overwrite
        Whether a model, and without `resume` a checkpoint, may be replaced.
    progress
        Is told how passes go.

    Raises
    ------
    InvalidArgumentError
        If an argument has a value that is not allowed, or a checkpoint is of another fit.
    SourceError
        If the data cannot be read or clustered.
    OutputError
        If the model exists, cannot be written, or would replace the data.
    CompleteError
        If the model exists, and there was a fit to resume, but none was interrupted.
    """
    check_choice("algorithm", algorithm, ALGORITHMS)
    if algorithm == "minibatch" and checkpoint is not None:
        raise InvalidArgumentError(
            f"checkpoint is {checkpoint!r}, but mini-batches find the centres in one read, so that "
            "there is nothing to go on from; leave it out, or choose the algorithm lloyd."
        )
    place = checkpoint or f"{model}.checkpoint"
    _refuse_confusion(data, model, place)
    kept = Checkpoint(place, stays=True)
    given = {"max_iter": max_iter, "tol": tol}
    parameters: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    kind = KMeans if algorithm == "lloyd" else MiniBatchKMeans
    estimator = kind(n_clusters, init=init, random_state=seed, missing=missing, **parameters)
    try:
        estimator._validate_params()  # noqa: SLF001 - of a class of ours
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error
    shown = None if progress is None else _InBytes(progress)
    with _alone(model):
        if algorithm != "lloyd" and resume and kept.is_there():
            change = f"algorithm was 'lloyd' then, and is {algorithm!r} now"
            raise kept.of_another("parameters", change)  # no other algorithm leaves one
        resumed = _begin(model, kept, resume=resume, overwrite=overwrite)
        rows = opened(data)
        with _resumable(kept):
            with _about(data):
                if isinstance(estimator, KMeans):
                    estimator._fit(rows, None, kept, shown)  # noqa: SLF001 - of a class of ours
                else:
                    estimator._fit(rows, None, shown)  # noqa: SLF001 - of a class of ours
            estimator.save(model)
        _stores.sweep(model)
        kept.remove()  # only now: what was found is kept
    return FitResult(
        os.fspath(model),
        table(rows).n_rows,
        estimator.n_features_in_,
        estimator.counts_,
        estimator.inertia_,
        estimator.n_iter_,
        estimator.n_passes_,
        estimator.n_missing_,
        estimator.stop_reason_,
        resumed,
    )


@contextmanager
def _resumable(kept: Checkpoint) -> Iterator[None]:
    """Say of an error that the fit can go on from its checkpoint, if it can."""
    try:
        yield
    except InvalidArgumentError:
        raise  # another fit than that of the checkpoint
    except BaseException as error:
        with suppress(DkmeansError):  # out of reach
            if kept.is_there():
                note_kept(error, kept.place)
        raise


def _refuse_confusion(data: str, model: str, checkpoint: str) -> None:
    """Refuse outputs in the place of something else that a fit needs, or of a folder."""
    refuse_among("model", model, [data])
    if not _stores.is_url(model) and Path(model).is_dir():
        raise OutputError(f"{model}: is a folder; choose the name of a file.")
    if _stores.absolute(checkpoint) == _stores.absolute(model):
        raise InvalidArgumentError(
            f"checkpoint is {checkpoint!r}, where the model is to be; choose another place."
        )


class _InBytes:
    """A progress that is told of bytes, and not of pixels, which rows are not."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.advance, self.end = progress.advance, progress.end

    def begin(self, name: str, nbytes: int, n_pixels: int) -> None:  # noqa: ARG002 - the protocol
        self._progress.begin(name, nbytes, 0)


def _begin(model: str, kept: Checkpoint, *, resume: bool, overwrite: bool) -> bool:
    """Refuse to lose what is there; return whether there is a checkpoint to go on from."""
    is_left = kept.is_there()
    is_ours = overwrite or (resume and is_left)  # the model was written, and its fit not yet over
    if _stores.exists(model) and not is_ours:
        if resume and _is_model(model):
            raise CompleteError(
                f"{model}: is there, and no fit of it was interrupted; nothing to resume."
            )
        raise OutputError(f"{model}: exists already; choose another name, or overwrite.")
    if is_left and not resume:
        if not overwrite:
            raise OutputError(
                f"{kept.place}: was left by a fit that was interrupted; go on from it with "
                "--resume, or start over with --overwrite."
            )
        kept.remove()
        is_left = False
    return is_left


def _is_model(place: str) -> bool:
    """Return whether a file is a whole model, and no other file of this name."""
    try:
        load(place)
    except SourceError:
        return False
    return True


@contextmanager
def _alone(output: str) -> Iterator[None]:
    """Lock an output, if it is a file: of two jobs that write it the second is refused."""
    if _stores.is_url(output):
        yield
        return
    path = as_path("output", output).absolute()
    with _workspace.opened(_workspace.place_of(path, is_folder=False), path):
        yield


def opened(data: str) -> Any:
    """Return data as the estimators take them.

    Raises
    ------
    SourceError
        If a ``.npy`` file cannot be read, or holds no table of numbers.
    """
    if not str(data).endswith(".npy") or _stores.is_url(data):
        return data
    try:
        _stores.refuse_special(data)
        rows = np.load(data, mmap_mode="r", allow_pickle=False)
    except _NPY_DAMAGES as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{data}: cannot be read as a .npy file ({reason}).") from error
    if rows.ndim != _TABLE:
        raise SourceError(
            f"{data}: has the shape {rows.shape}; a .npy file must hold (rows, features)."
        )
    try:
        table(rows)  # before scikit-learn does: it shows all of them
    except InvalidArgumentError as error:
        raise SourceError(f"{data}: {error}") from error
    return rows


@contextmanager
def _about(data: str) -> Iterator[None]:
    """Name the data in what is wrong with them; estimators do not know what they are called."""
    try:
        yield
    except DkmeansError:
        raise
    except ValueError as error:
        raise SourceError(f"{data}: {error}") from error


def predict(
    model: str,
    data: str,
    output: str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PredictResult:
    """Write the label of each row of an array to a Zarr array, in one pass.

    Parameters
    ----------
    model
        The path or URL of a model that `fit` or `save` wrote.
    data
        As for `fit`, of as many features as were fitted.
    output
        A name or URL that ends in ``.zarr``: int32, of the shape of the data without features; -1
        for rows with NaN, if the model leaves them out. It appears when it is complete.
    overwrite
        Whether a Zarr array of that name may be replaced.
    progress
        Is told how the pass goes.

    Raises
    ------
    SourceError
        If the model or the data cannot be read, or do not fit together.
    OutputError
        If the output exists, or cannot be written.
    InsufficientMemoryError
        If it needs more memory than there is.
    """
    target = _label_target(output, [model, data])
    shown = None if progress is None else _InBytes(progress)
    estimator = load(model)
    rows = opened(data)
    with _about(data):
        given = estimator._table(rows, None, reset=False)  # noqa: SLF001 - of a class of ours
    pieces, chunks, height = given.tiles(ROWS_OF_A_CHUNK)
    if not pieces:
        raise SourceError(f"{data}: has no rows.")
    _needs_tables.check_predict(given, len(estimator.cluster_centers_))
    options = {"output": "predict"}
    with entered(target, options, [], resume=False, overwrite=overwrite) as (space, job):
        shape = given.shape[:-1]
        site = target.lay_out(job, lambda root: create_labels(kept_in(root), shape, chunks))
        centers = estimator._centers  # noqa: SLF001 - of a class of ours
        found = write_labels(Passes(shown), pieces, height, centers, site)
        with _about(data):
            check_finite(found.measured.ranges, type(estimator).__name__, estimator.missing)
        marks = {"format": "dkmeans-labels", "version": 1, "n_clusters": len(found.counts)}
        target.finish(
            space,
            job,
            {},
            complete=lambda root: complete_labels(kept_in(root), {"dkmeans": marks}),
        )
    return PredictResult(
        str(target.path),
        given.n_rows,
        given.n_features,
        found.counts,
        found.measured.inertia(centers.frame),
        found.measured.ranges.n_missing,
    )


def _label_target(output: str, sources: Sequence[str]) -> Target[Any]:
    """Return where labels go."""
    is_zarr = str(output).rstrip("/").lower().endswith(".zarr")
    target = target_of(output, [], is_single=False) if is_zarr else None
    if target is None or target.kind != "zarr":
        raise InvalidArgumentError(f"output is {output!r}; its name must end in .zarr.")
    refuse_among("output", output, sources)
    return target
