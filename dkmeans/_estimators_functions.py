"""`k_means` and `kmeans_plusplus` as scikit-learn has them, and `load`."""

import os
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import _check_sample_weight

from dkmeans import _model, _seeding
from dkmeans._estimators import KMeans
from dkmeans._estimators_base import BaseKMeans
from dkmeans._estimators_checks import check_columns, check_ranges, in_both_orders
from dkmeans._estimators_minibatch import MiniBatchKMeans
from dkmeans._frame_ranges import Ranges
from dkmeans._tables_blocks import check_unmasked
from dkmeans._validation import SourceError, check_integer

# What is chosen from as stored, in either order of bytes; other numbers become float64.
_FLOATS = in_both_orders("df")


def k_means(
    X: Any,  # noqa: N803 - scikit-learn's name
    n_clusters: int,
    *,
    sample_weight: Any = None,
    init: Any = "k-means++",
    n_init: Any = "auto",
    max_iter: int = 300,
    verbose: bool = False,
    tol: float = 1e-4,
    random_state: Any = None,
    copy_x: bool = True,
    algorithm: str = "lloyd",
    return_n_iter: bool = False,
) -> tuple[Any, ...]:
    """Cluster rows, and return what `KMeans` found.

    Parameters
    ----------
    X, sample_weight
        As for `KMeans.fit`.
    n_clusters, init, n_init, max_iter, verbose, tol, random_state, copy_x, algorithm
        As for `KMeans`.
    return_n_iter
        Whether to return the number of iterations too.

    Returns
    -------
    tuple
        `cluster_centers_`, `labels_` and `inertia_`; and `n_iter_`, if asked for.
    """
    model = KMeans(
        n_clusters=n_clusters,
        init=init,
        n_init=n_init,
        max_iter=max_iter,
        verbose=int(verbose),
        tol=tol,
        random_state=random_state,
        copy_x=copy_x,
        algorithm=algorithm,
    ).fit(X, sample_weight=sample_weight)
    found = (model.cluster_centers_, model.labels_, model.inertia_)
    return (*found, model.n_iter_) if return_n_iter else found


def kmeans_plusplus(
    X: Any,  # noqa: N803 - scikit-learn's name
    n_clusters: int,
    *,
    sample_weight: Any = None,
    x_squared_norms: Any = None,
    random_state: Any = None,
    n_local_trials: int | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Choose rows in memory to start k-means from, by greedy k-means++.

    Parameters
    ----------
    X
        (n, d) numbers.
    n_clusters
        How many rows to choose.
    sample_weight
        (n,), not negative; rows of weight 0 are not chosen.
    x_squared_norms
        Without effect but for its length, (n,): distances are computed from differences.
    random_state
        Of the draws.
    n_local_trials
        How many rows to draw for each choice; by default ``2 + int(log(n_clusters))``.

    Returns
    -------
    centers, indices
        (n_clusters, d), float32 for float32 data, else float64; and (n_clusters,) int64:
        ``centers == X[indices]``.

    Raises
    ------
    ValueError
        If there are fewer rows than clusters, values that are not finite or whose squared distances
        float64 does not hold, or arguments that are not as said here.
    """
    check_columns(X, "kmeans_plusplus")
    check_unmasked("sample_weight", sample_weight)
    X = check_array(X, dtype=_FLOATS, input_name="X")  # noqa: N806 - scikit-learn's name
    n_clusters = check_integer("n_clusters", n_clusters, 1)
    if n_local_trials is not None:
        n_local_trials = check_integer("n_local_trials", n_local_trials, 1)
    if x_squared_norms is not None and np.shape(x_squared_norms) != X.shape[:1]:
        raise ValueError(
            f"The length of x_squared_norms {np.shape(x_squared_norms)} should be equal to the "
            f"length of n_samples {len(X)}."
        )
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    used = np.flatnonzero(weights)
    if used.size < n_clusters:
        raise ValueError(f"n_samples={used.size} should be >= n_clusters={n_clusters}.")
    points = X[used].astype(np.float64)
    ranges, _ = Ranges.of(points, weights[used], partial(np.arange, used.size))
    check_ranges(ranges, "kmeans_plusplus", "error")
    rng = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    chosen = used[_seeding.choose(points, weights[used], n_clusters, rng, n_local_trials)]
    return X[chosen].astype(X.dtype.newbyteorder("=")), chosen


def load(path: str | os.PathLike[str]) -> BaseKMeans:
    """Read a model that `KMeans.save` or `MiniBatchKMeans.save` wrote.

    The file is data, never code; what is not known is refused.

    Raises
    ------
    InvalidArgumentError
        If the path is none.
    SourceError
        If the file is missing, no model, of another version, or damaged.
    """
    name, parameters, attributes = _model.load(path)
    kinds = {kind.__name__: kind for kind in (KMeans, MiniBatchKMeans)}
    try:
        model = kinds[name](**parameters)
        model._validate_params()  # noqa: SLF001 - of a class of ours
    except (TypeError, ValueError) as error:
        raise SourceError(f"{os.fspath(path)}: a damaged model ({error}).") from error
    return model._restore(attributes)  # noqa: SLF001 - of a class of ours
