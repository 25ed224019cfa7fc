"""`KMeans` for data of any size."""

from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metadata_routing import UNUSED

from dkmeans import _lloyd_passes
from dkmeans._checkpoint import Checkpoint
from dkmeans._estimators_base import BaseKMeans, labels_of, warn
from dkmeans._estimators_callbacks import with_callbacks
from dkmeans._lloyd_refine import Options
from dkmeans._passes import Progress


class KMeans(BaseKMeans):
    """k-means clustering, with scikit-learn's interface, of data of any size.

    The parameters, attributes, warnings and errors are those of `sklearn.cluster.KMeans` [1]_; what
    is added or differs is said here.

    Parameters
    ----------
    n_clusters
        The number of clusters and centres.
    init
        "k-means++" (greedy [2]_), "k-means||" [3]_, "random", an array of centres (n_clusters,
        n_features), or a function of ``(X, n_clusters, random_state)`` that returns one; its `X` is
        read-only.
        "k-means||" reads data larger than a summary in six passes more.
    n_init
        How many starts to choose the best of. "auto" is 1, or 10 for "random" and functions. From
        2,400 rows a cluster on, starts run on a part of them, in memory, and cost no pass: only the
        best two, or an eighth of them, go on after five iterations; 1 by "auto" becomes 4, and 8
        where these differ by more than 1 %, and centres of the best one are then moved to clusters
        that it has missed.
    max_iter
        The most iterations of a run.
    tol
        A run ends when the squared movement of all centres is at most `tol` times the mean variance
        of the features; over data larger than a summary also when a pass lowers the inertia by less
        than 5 `tol` times itself. With 0 it goes on until no centre moves.
    verbose
        Print a line for each iteration and pass.
    random_state
        Of all draws. An integer gives the same bits for any chunks, scheduler and number of
        workers.
    copy_x, algorithm
        Without effect: data are never changed, and there is one algorithm with one result.
    missing
        "error", or "ignore": leave out rows with NaN; their label is -1.
    feature_dim
        The name of the dimension of a DataArray that holds the features; by default the last. A
        model so fitted also takes other arrays, of which the last axis holds them.

    Attributes
    ----------
    cluster_centers_
        (n_clusters, n_features); float32 for float32 and float16 data, else float64.
    labels_
        As `predict` returns for the fitted data: lazy for lazy data.
    inertia_
        The sum of squared distances to the nearest centre, times weights.
    n_iter_
        Iterations of the best run; over data larger than a summary, those on all rows.
    counts_
        (n_clusters,): the rows of each cluster, int64; with weights their weight, float64.
    n_passes_
        How often `fit` read the data. The read that finds the chunk sizes of Dask's, if these are
        unknown, is one.
    stop_reason_
        "converged", "tol", "max_iter", or "stopped" by a callback.
    n_missing_
        Rows left out because of NaN.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    See Also
    --------
    MiniBatchKMeans : reads data once for the centres, and updates these by small batches.

    Notes
    -----
    *Data* are NumPy arrays, data frames and what else scikit-learn takes; Dask arrays and data
    frames; Zarr arrays, their paths and URLs; DataArrays; lists of arrays. The last axis holds the
    features, all others are samples. They are read block by block in their own dtype.

    *Two regimes.* Data of up to ``max(131072, 5000 * n_clusters)`` rows, and at most 512 MiB, are
    solved in memory with scikit-learn's rules. Of larger data a sample of as many rows is, drawn in
    one pass by their numbers; its centres are refined on all rows, a pass for each iteration.
    Integers of 8 and 16 bits without weights of which few are distinct (8-bit colours, or not more
    than a summary holds) are counted in one pass, and solved exactly.

    Sums are taken in integers and fixed point, so that their order is without effect; a weight of w
    equals w copies. The label of a row is that of the nearest centre by float64 differences.

    References
    ----------
    .. [1] F. Pedregosa et al., "Scikit-learn: machine learning in Python", JMLR 12, 2011.
    .. [2] D. Arthur and S. Vassilvitskii, "k-means++: The advantages of careful seeding",
       SODA 2007.
    .. [3] B. Bahmani et al., "Scalable k-means++", PVLDB 5(7), 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from dkmeans import KMeans
    >>> rows = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> km = KMeans(n_clusters=2, random_state=0).fit(rows)
    >>> sorted(km.cluster_centers_.tolist())
    [[1.0, 2.0], [10.0, 2.0]]
    >>> bool(km.predict([[0, 0]]) == km.labels_[0])
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseKMeans._parameter_constraints,  # noqa: SLF001 - of a class of ours
        "copy_x": ["boolean"],
        "algorithm": [StrOptions({"lloyd", "elkan"})],
    }
    _default_n_init = 10
    # A place belongs to one fit, and so is not passed on by meta-estimators.
    __metadata_request__fit: ClassVar[dict[str, str]] = {"checkpoint": UNUSED}

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        n_init: Any = "auto",
        max_iter: int = 300,
        tol: float = 1e-4,
        verbose: int = 0,
        random_state: Any = None,
        copy_x: bool = True,
        algorithm: str = "lloyd",
        missing: str = "error",
        feature_dim: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.missing = missing
        self.feature_dim = feature_dim

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        y: Any = None,  # noqa: ARG002 - scikit-learn's name
        sample_weight: Any = None,
        *,
        checkpoint: Any = None,
    ) -> Self:
        """Find the centres.

        Parameters
        ----------
        X
            The data, see Notes of the class. Lazy data are read as often as `n_passes_` tells, and
            only a summary, centres and small sums come to this process.
        y
            Ignored.
        sample_weight
            How much each row counts, of the shape of the leading axes; an array, or for Dask data
            a Dask array of the same chunks. Rows of weight 0 are labelled, but do not count, and
            may hold values that others may not.
        checkpoint
            A path, or a URL such as ``s3://bucket/name``. Before each pass that refines centres,
            what is needed to go on is written there. If a fit has left its checkpoint there, this
            one goes on from it, and ends with the bits of one never interrupted; when it ends, the
            checkpoint is removed. Data that are solved in memory need none.

        Raises
        ------
        InvalidArgumentError
            If the checkpoint belongs to a fit of other parameters or data.
        OutputError
            If the checkpoint cannot be written, or would lie among the files of the data.
        SourceError
            If the Zarr array at a path or URL cannot be read; if what is at the checkpoint's place
            is no checkpoint, or a damaged one.
        InsufficientMemoryError
            If the fit needs more memory than there is; nothing has been read then.
        ClusterError
            If the cluster is lost, or a part of the work kills each worker that tries it.
        TypeError
            For sparse matrices.
        ValueError
            For parameters that are not as said; for data that are not numbers, not finite, fewer
            than `n_clusters`, or not (n, features); for weights that are negative, all zero, or of
            another length.
        """
        return self._fit(X, sample_weight, checkpoint, None)

    def _fit(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        sample_weight: Any,
        checkpoint: Any,
        progress: Progress | None,
    ) -> Self:
        """Find the centres, and show how passes go."""
        kept = None if checkpoint is None else Checkpoint.at(checkpoint)
        data, report, passes = self._begin(X, sample_weight, progress)
        if self.algorithm == "elkan" and self.n_clusters == 1:
            warn(
                "algorithm='elkan' doesn't make sense for a single cluster. Using 'lloyd' instead.",
                RuntimeWarning,
            )
        init, n_init = self._starts(data)
        seed = 0  # from centres that are given, there is one result
        if not isinstance(init, np.ndarray):
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        options = Options(
            n_clusters=int(self.n_clusters),  # an integer of NumPy may be a small one
            init=init,
            n_init=n_init,
            max_iter=int(self.max_iter),
            tol=self.tol,
            seed=seed,
            check=self._check_ranges,
            watch=report,
        )
        if kept is not None:
            kept.belong(self._of_checkpoint(options), data)
            options = replace(options, keep=kept.save, standing=kept.load())
        fitted = _lloyd_passes.fit(passes, data, options)
        self._adopt(fitted, passes, data)
        labels = fitted.solution.labels
        if labels is not None and isinstance(X, np.ndarray):
            self.labels_ = labels.reshape(data.shape[:-1])
        else:
            self.labels_ = labels_of(data, self._centers)
        n_found = int(np.count_nonzero(self.counts_))
        if n_found < self.n_clusters:
            warn(
                f"Number of distinct clusters ({n_found}) found smaller than n_clusters "
                f"({self.n_clusters}). Possibly due to duplicate points in X.",
                ConvergenceWarning,
            )
        report.finish()
        if kept is not None:
            kept.finish()
        return self

    def _of_checkpoint(self, options: Options) -> dict[str, Any]:
        """Return what the result follows from, besides the data."""
        names = ("n_clusters", "n_init", "max_iter", "tol", "missing", "feature_dim")
        seed: int | None = options.seed
        if self.random_state is None:  # drawn anew each time
            seed = None
        elif isinstance(self.random_state, Integral) and not isinstance(options.init, np.ndarray):
            seed = int(self.random_state)  # as users know it
        init = self.init if callable(self.init) else options.init
        return {name: getattr(self, name) for name in names} | {"init": init, "random_state": seed}
