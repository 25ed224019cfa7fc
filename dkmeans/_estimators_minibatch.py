"""`MiniBatchKMeans` for data of any size."""

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval

from dkmeans import _lloyd_passes, _minibatch
from dkmeans._estimators_base import BaseKMeans, Count, labels_of, warn
from dkmeans._estimators_callbacks import Report, with_callbacks
from dkmeans._frame import Frame
from dkmeans._minibatch import Options, State
from dkmeans._passes import Passes, Progress
from dkmeans._summary_looks import one_array
from dkmeans._summary_steps import labels_and_inertia
from dkmeans._tables import Table


class MiniBatchKMeans(BaseKMeans):
    """k-means by mini-batches, with scikit-learn's interface, of data of any size.

    The parameters, attributes, warnings and errors are those of
    `sklearn.cluster.MiniBatchKMeans`; what is added or differs is said here.

    Parameters
    ----------
    n_clusters, init, verbose, random_state, missing, feature_dim
        As for `KMeans`; "k-means||" runs on rows drawn for the start.
    max_iter
        How many rows to draw at most, as a multiple of the rows that there are.
    batch_size
        Rows of a batch.
    compute_labels
        Whether to find `labels_` and `inertia_` of all rows after the fit, which reads them once
        more; else `inertia_` is estimated, and there are no `labels_`.
    tol
        Stop when a step moves the centres by less: their squared movement is compared with `tol`
        times the mean variance of the features. 0 does not.
    max_no_improvement
        Stop after so many steps without a lower smoothed inertia; over data larger than a summary,
        after so many looks at held-out rows, one every ten steps. None does not.
    init_size
        How many rows the starts are chosen from; by default 3 batches, or 3 rows for each cluster
        if a batch has less than one for each.
    n_init
        How many starts to choose from by their inertia; "auto" is 1, or 3 for "random" and
        functions. Over data larger than a summary the start is found by k-means on a part of it,
        of so many starts the best; 1 by "auto" becomes 4, or 8 where these differ by more than 1 %,
        and centres of the best one are then moved to clusters that it has missed.
    reassignment_ratio
        Centres with less than this share of the largest count are moved to rows of the batch.

    Attributes
    ----------
    cluster_centers_, labels_, inertia_, n_iter_, n_passes_, stop_reason_, n_missing_
        As for `KMeans`; `n_iter_` is how many times all rows could have been drawn, and
        `stop_reason_` may be "max_no_improvement".
    n_steps_
        Batches processed.
    counts_
        (n_clusters,) float64: the weight of the drawn rows that each centre has taken up.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    See Also
    --------
    KMeans : uses every row in every iteration.

    Notes
    -----
    `fit` finds the centres in one read, which keeps the summary that `KMeans` keeps: all rows, or a
    sample of ``max(131072, 5000 * n_clusters)`` where they are more, or than fill 512 MiB. Batches
    are drawn from it, so each holds rows from all over the data, however they are sorted.

    `partial_fit` is one step with the rows given, as one of `fit` is with rows drawn. It goes on
    from a model that was fitted, pickled, or saved and loaded, with the same bits.

    References
    ----------
    D. Sculley, "Web-scale k-means clustering", WWW 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from dkmeans import MiniBatchKMeans
    >>> rows = np.random.default_rng(0).normal(size=(1000, 2))
    >>> mb = MiniBatchKMeans(n_clusters=3, random_state=0)
    >>> for batch in np.split(rows, 10):
    ...     mb = mb.partial_fit(batch)
    >>> mb.n_steps_, mb.cluster_centers_.shape
    (10, (3, 2))
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseKMeans._parameter_constraints,  # noqa: SLF001 - of a class of ours
        "batch_size": [Count(1)],
        "compute_labels": ["boolean"],
        "max_no_improvement": [Count(0), None],
        "init_size": [Count(1), None],
        "reassignment_ratio": [Interval(Real, 0, None, closed="left")],
    }
    _default_n_init = 3

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: Any = "k-means++",
        max_iter: int = 100,
        batch_size: int = 1024,
        verbose: int = 0,
        compute_labels: bool = True,
        random_state: Any = None,
        tol: float = 0.0,
        max_no_improvement: int | None = 10,
        init_size: int | None = None,
        n_init: Any = "auto",
        reassignment_ratio: float = 0.01,
        missing: str = "error",
        feature_dim: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.verbose = verbose
        self.compute_labels = compute_labels
        self.random_state = random_state
        self.tol = tol
        self.max_no_improvement = max_no_improvement
        self.init_size = init_size
        self.n_init = n_init
        self.reassignment_ratio = reassignment_ratio
        self.missing = missing
        self.feature_dim = feature_dim

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:  # noqa: ARG002, N803 - scikit-learn's names
        """Find the centres by batches drawn from all rows.

        The parameters and what is raised are those of `KMeans.fit`, but for `checkpoint`.
        """
        return self._fit(X, sample_weight, None)

    def _fit(self, X: Any, sample_weight: Any, progress: Progress | None) -> Self:  # noqa: N803 - scikit-learn's name
        """Find the centres, and show how passes go."""
        data, report, passes = self._begin(X, sample_weight, progress)
        rng = check_random_state(self.random_state)
        fitted = _minibatch.fit(passes, data, self._options(data, rng, report))
        self._adopt(fitted.fit, passes, data)
        self._state = fitted.state
        self.counts_ = fitted.state.counts
        self.n_steps_ = fitted.n_steps
        self._label(X, data, passes, fitted.fit.solution.inertia)
        report.finish()
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:  # noqa: ARG002, N803 - scikit-learn's names
        """Take one step with the rows given, all of them one batch, in memory.

        The parameters and what is raised are those of `KMeans.fit`, but for `checkpoint`; after the
        first batch there may be fewer rows than clusters. Lazy data are computed.
        """
        first = not hasattr(self, "cluster_centers_")
        data = self._table(X, sample_weight, reset=first)
        self._check_some(data)
        rows, weights, ranges = _minibatch.gather(data)
        self._check_ranges(ranges, None if first else self._state.centers)
        if first:
            self._check_size(data)
            rng = check_random_state(self.random_state)
            self._state = _minibatch.start(
                _minibatch.Pool(rows, weights, rng), self._options(data, rng, None)
            )
            self.n_steps_ = self.n_passes_ = self.n_missing_ = 0
        self._state.reassignment_ratio = self.reassignment_ratio  # may have been set since
        inertia = self._state.step(rows, weights, len(rows))
        self.n_steps_ += 1
        self.n_missing_ += ranges.n_missing
        self.n_iter_ = self.n_steps_
        frame = Frame.of(ranges, ranges.low / 2 + ranges.high / 2, rows.dtype, weighted=False)
        for name, value in self._state_at(self._state.centers, frame).items():
            setattr(self, name, value)
        self.counts_ = self._state.counts
        self.stop_reason_ = "stopped"
        self._label(X, data, Passes(), inertia)
        return self

    def _attributes(self) -> dict[str, Any]:
        """Return what makes a fitted estimator of an unfitted one, to go on from too."""
        state = self._state
        return {**super()._attributes(), "n_since": state.n_since, "seed": state.seed}

    def _restore(self, attributes: dict[str, Any]) -> Self:
        """Become fitted by what `_attributes` returned."""
        n_since, seed = attributes.pop("n_since"), attributes.pop("seed")
        super()._restore(attributes)
        self._state = State(
            self.cluster_centers_.astype(np.float64),
            self.counts_.astype(np.float64),
            seed,
            self.reassignment_ratio,
            n_since,
            self.n_steps_,
        )
        return self

    def _label(self, X: Any, data: Table, passes: Passes, estimate: float) -> None:  # noqa: N803 - scikit-learn's name
        """Find what follows from the centres, for all rows; or take an estimated inertia."""
        self.__dict__.pop("labels_", None)
        if not self.compute_labels:
            self.inertia_ = estimate
            return
        whole = one_array(data) if isinstance(X, np.ndarray) else None
        if whole is not None:
            with passes.counted("measure", data.nbytes, data.n_rows):
                labels, self.inertia_ = labels_and_inertia(self._centers, *whole)
            self.labels_ = labels.reshape(data.shape[:-1])
        else:
            self.labels_ = labels_of(data, self._centers)
            self.inertia_ = _lloyd_passes.inertia(passes, data, self._centers, self._check_ranges)
        self.n_passes_ = passes.n_passes

    def _options(self, data: Table, rng: np.random.RandomState, report: Report | None) -> Options:
        """Return the parameters as the fit takes them."""
        init, n_init = self._starts(data)
        if isinstance(init, str):
            init = _lloyd_passes.SEEDINGS[init]
        # Integers of NumPy may be small ones, whose products overflow.
        n_clusters, batch_size = int(self.n_clusters), int(self.batch_size)
        size = self.init_size
        if size is None:
            size = 3 * min(batch_size, data.n_rows)
            if size < n_clusters:
                size = 3 * n_clusters
        elif size < n_clusters:
            warn(
                f"init_size={size} should be larger than n_clusters={n_clusters}. Setting it "
                "to min(3*n_clusters, n_samples)",
                RuntimeWarning,
            )
            size = 3 * n_clusters
        return Options(
            n_clusters=n_clusters,
            init=init,
            n_init=n_init,
            init_size=size,
            batch_size=batch_size,
            max_iter=int(self.max_iter),
            tol=self.tol,
            max_no_improvement=self.max_no_improvement,
            reassignment_ratio=self.reassignment_ratio,
            rng=rng,
            check=self._check_ranges,
            watch=report,
        )
