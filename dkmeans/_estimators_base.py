"""What `KMeans` and `MiniBatchKMeans` share: data at the door, and answers of a fitted model."""

import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from dkmeans import _lloyd_passes, _model, _needs_tables
from dkmeans._estimators_callbacks import CallbackSupportMixin, Report
from dkmeans._estimators_checks import (
    Finite,
    check_columns,
    check_ranges,
    has_dims,
    in_both_orders,
    is_rich,
)
from dkmeans._frame import Centers, Float64, Frame
from dkmeans._frame_ranges import Ranges
from dkmeans._lloyd_passes import Fit
from dkmeans._passes import Passes, Progress
from dkmeans._seeding import Seeding
from dkmeans._seeding_shared import converted
from dkmeans._tables import Table, table
from dkmeans._tables_blocks import check_unmasked

# What is kept as stored, and read block by block; other numbers become float64 as a whole.
_STORED = in_both_orders("dfe?bBhHiIlLqQ")
_TABLE = 2  # axes
_FITTED = (
    "cluster_centers_", "counts_", "inertia_", "n_iter_", "n_passes_", "stop_reason_",
    "n_missing_", "n_features_in_", "feature_names_in_", "n_steps_",
)  # fmt: skip


class Count(Interval):
    """The constraint of a parameter that is an integer of at least `least`, and no boolean."""

    def __init__(self, least: int) -> None:
        super().__init__(Integral, least, None, closed="left")

    def is_satisfied_by(self, val: Any) -> bool:
        """Return whether a value will do."""
        return not isinstance(val, bool) and bool(super().is_satisfied_by(val))


class BaseKMeans(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClusterMixin,
    BaseEstimator,
):
    """All of an estimator but its constructor and `fit`."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_clusters": [Count(1)],
        "init": [StrOptions({"k-means++", "k-means||", "random"}), callable, "array-like"],
        "n_init": [StrOptions({"auto"}), Count(1)],
        "max_iter": [Count(1)],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "missing": [StrOptions({"error", "ignore"})],
        "feature_dim": [str, None],
    }

    _default_n_init: ClassVar[int]

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:  # noqa: ARG002, N803 - scikit-learn's names
        """Fit, and return the label of each row; the same as ``fit(X).labels_``."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:  # noqa: ARG002, N803 - scikit-learn's names
        """Fit, and return the distance of each row to each centre."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def predict(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
        """Return the index of the nearest centre of each row; ties go to the lowest.

        Parameters
        ----------
        X
            Rows of as many features as were fitted, of any kind that `fit` takes.

        Returns
        -------
        labels
            int32, of the shape of the leading axes of `X`: (n,) for a table. An ndarray for data
            in memory; for Dask and Zarr a lazy Dask array with the chunks of `X`, of which nothing
            is computed; a DataArray for a DataArray; a list for a list. With
            ``missing="ignore"``, rows with NaN have the label -1.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        ValueError
            If `X` has another number of features or other names of them; if it holds infinite
            values, or NaN that is not to be ignored. For lazy data the latter are found when the
            labels are computed.
        """
        data, check = self._given(X)
        return data.map(_Labels(self._centers, check), np.dtype(np.int32))

    def transform(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
        """Return the Euclidean distance of each row to each centre.

        `X` and what is raised are as for `predict`. The result has one more axis, of length
        `n_clusters`; its dtype is that of `cluster_centers_`. Rows with NaN have NaN distances.
        """
        data, check = self._given(X)
        dtype = self.cluster_centers_.dtype
        return data.map(_Distances(self._centers, check), dtype, columns=len(self.cluster_centers_))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:  # noqa: ARG002, N803 - scikit-learn's names
        """Return the inertia of `X`, negative. Lazy data are read once."""
        check_is_fitted(self)
        data = self._table(X, sample_weight, reset=False)
        self._check_some(data)
        return -_lloyd_passes.inertia(Passes(), data, self._centers, self._check_ranges)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a JSON file of numbers and names, a few kB for usual models.

        The parameters and what `predict`, `transform` and `score` need are kept; `labels_` is not.
        `dkmeans.load` reads it. The file appears when it is complete, and replaces another one.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        InvalidArgumentError
            If the path is none, a parameter cannot be written, as a function, or the model is of a
            derived class.
        OutputError
            If the file cannot be written.
        """
        check_is_fitted(self)
        _model.save(path, type(self).__name__, self.get_params(), self._attributes())

    def _attributes(self) -> dict[str, Any]:
        """Return what makes a fitted estimator of an unfitted one."""
        kept = {name: getattr(self, name) for name in _FITTED if hasattr(self, name)}
        return {**kept, "shift": self._frame.shift, "unit": self._frame.unit}

    def _restore(self, attributes: dict[str, Any]) -> Self:
        """Become fitted by what `_attributes` returned."""
        shift, unit = attributes.pop("shift"), attributes.pop("unit")
        for name, value in attributes.items():
            setattr(self, name, value)
        self._n_features_out = len(self.cluster_centers_)
        dtype = self.cluster_centers_.dtype
        self._frame = Frame(shift, unit, np.ones_like(shift), np.dtype(dtype), dtype, deep=True)
        return self

    @property
    def _centers(self) -> Centers:
        return self._frame.centers(self.cluster_centers_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "cluster_centers_")  # not so after a fit that failed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing == "ignore"
        return tags

    # At the door

    def _given(self, X: Any) -> tuple[Table, Callable[[npt.NDArray[Any]], None]]:  # noqa: N803 - scikit-learn's name
        """Check data to label; return them, and the check that is due for each block."""
        check_is_fitted(self)
        check = Finite(type(self).__name__, self.missing)
        whole = replace(check, place="")
        data = self._table(X, None, reset=False, check=whole)
        if isinstance(X, np.ndarray) and X.ndim > _TABLE:
            whole(X)
        return data, check

    def _table(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        sample_weight: Any,
        *,
        reset: bool,
        check: Callable[[npt.NDArray[Any]], None] | None = None,
    ) -> Table:
        """Check data of any kind, and return them as rows of features.

        `check` is called with the rows of tables in memory. With `reset`, what was fitted before is
        forgotten, so that a fit that fails leaves no model.
        """
        if reset:
            for name in (*_FITTED, "labels_", "_n_features_out"):
                self.__dict__.pop(name, None)
        # Once fitted, data that name no dimensions will do too: of these the last is the features.
        feature_dim = self.feature_dim if reset or has_dims(X) else None
        if is_rich(X):
            data = table(X, sample_weight, feature_dim)
            self._check_features(data, reset=reset)
            return data
        check_columns(X, type(self).__name__)
        X = validate_data(  # noqa: N806 - scikit-learn's name
            self, X, reset=reset, dtype=_STORED, ensure_all_finite=False, accept_sparse=False
        )
        if check is not None:
            check(X)
        if sample_weight is not None:
            check_unmasked("sample_weight", sample_weight)
            sample_weight = _check_sample_weight(
                sample_weight, X, dtype=np.float64, ensure_non_negative=True
            )
        return table(X, sample_weight, feature_dim)

    def _check_features(self, data: Table, *, reset: bool) -> None:
        """Take over, or compare, the number and names of features."""
        names = None if data.names is None else np.asarray(data.names, object)
        if reset:
            self.n_features_in_ = data.n_features
            self.__dict__.pop("feature_names_in_", None)
            if names is not None:
                self.feature_names_in_ = names
            return
        if data.n_features != self.n_features_in_:
            raise ValueError(
                f"X has {data.n_features} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        fitted = getattr(self, "feature_names_in_", None)
        if names is None and fitted is None:
            return
        kind = type(self).__name__
        if fitted is None:
            warn(f"X has feature names, but {kind} was fitted without feature names", UserWarning)
        elif names is None:
            warn(
                f"X does not have valid feature names, but {kind} was fitted with feature names",
                UserWarning,
            )
        elif names.tolist() != fitted.tolist():
            raise ValueError(
                "The feature names should match those that were passed during fit. Given: "
                f"{names.tolist()}; fitted: {fitted.tolist()}."
            )

    def _check_ranges(self, ranges: Ranges, centers: Float64 | None = None) -> None:
        """Refuse rows that cannot be clustered; see `check_ranges`."""
        check_ranges(ranges, type(self).__name__, self.missing, centers)

    def _check_some(self, data: Table) -> None:
        if data.n_rows == 0:
            raise ValueError(
                f"Found array with 0 sample(s) (shape={data.shape}) while a minimum of 1 is "
                f"required by {type(self).__name__}."
            )

    def _check_size(self, data: Table) -> None:
        self._check_some(data)
        if data.n_rows < self.n_clusters:
            raise ValueError(f"n_samples={data.n_rows} should be >= n_clusters={self.n_clusters}.")

    def _begin(
        self,
        X: Any,  # noqa: N803 - scikit-learn's name
        sample_weight: Any,
        progress: Progress | None,
    ) -> tuple[Table, Report, Passes]:
        """Check data to fit; return them, and what tells of passes and what runs them."""
        data = self._table(X, sample_weight, reset=True)
        self._check_size(data)
        _needs_tables.check_fit(data, int(self.n_clusters))
        report = Report(self, progress)
        passes = Passes(report)
        passes.n_passes += bool(data.unsized)
        return data, report, passes

    def _starts(self, data: Table) -> tuple[str | Float64 | Seeding, int | None]:
        """Check `init`; return it as the fits take it, and how many starts to make, if told."""
        init, n_init = self.init, self.n_init
        dtype = np.float32 if data.dtype == np.float32 else np.float64
        is_array = not isinstance(init, str) and not callable(init)
        if n_init == "auto":
            is_any = callable(init) or (not is_array and init == "random")
            n_init = 1 if is_array else self._default_n_init if is_any else None
        if is_array:
            init = check_array(init, dtype=dtype, order="C", input_name="init").astype(np.float64)
            self._check_center_shape(init.shape, data.n_features)
            if n_init != 1:
                warn(
                    "Explicit initial center position passed: performing only one init in "
                    f"{type(self).__name__} instead of n_init={n_init}.",
                    RuntimeWarning,
                )
                n_init = 1
        elif callable(init):
            init = self._seeding_of(init, dtype)
        return init, n_init

    def _seeding_of(self, function: Callable[..., Any], dtype: Any) -> Seeding:
        """Return a user's `init` function as a seeding."""

        def seeding(
            points: Float64,
            weights: Float64,  # noqa: ARG001 - scikit-learn's functions are not told
            n_clusters: int,
            rng: np.random.Generator,
        ) -> Float64:
            state = np.random.RandomState(int(rng.integers(2**31)))
            rows = converted(points, np.dtype(dtype))
            centers = function(rows, n_clusters, random_state=state)
            centers = check_array(centers, dtype=dtype, order="C", input_name="init")
            given = f" init was given {len(points)} points, in which equal rows are joined."
            self._check_center_shape(centers.shape, points.shape[1], given)
            result: Float64 = centers.astype(np.float64)
            return result

        return seeding

    def _check_center_shape(self, shape: tuple[int, ...], n_features: int, given: str = "") -> None:
        for axis, (what, n) in enumerate(
            (("number of clusters", self.n_clusters),
             ("number of features of the data", n_features))
        ):  # fmt: skip
            if shape[axis] != n:
                message = f"The shape of the initial centers {shape} does not match the {what} {n}."
                raise ValueError(message + given)

    def _state_at(self, centers: Float64, frame: Frame | None = None) -> dict[str, Any]:
        """Return the attributes of an estimator with these centres, by default in their frame."""
        if frame is None:
            ranges, _ = Ranges.of(centers, None, partial(np.arange, len(centers)))
            frame = Frame.of(ranges, centers.mean(axis=0), centers.dtype, weighted=False)
        return {
            "cluster_centers_": centers.astype(frame.center_dtype),
            "_frame": frame,
            "_n_features_out": len(centers),
        }

    def _adopt(self, fitted: Fit, passes: Passes, data: Table) -> None:
        """Take over what a fit found."""
        solution = fitted.solution
        for name, value in self._state_at(solution.centers, fitted.frame).items():
            setattr(self, name, value)
        self.counts_ = solution.weights.astype(np.float64 if data.is_weighted else np.int64)
        self.inertia_ = solution.inertia
        self.n_iter_ = solution.n_iter
        self.stop_reason_ = solution.stop_reason
        self.n_missing_ = fitted.ranges.n_missing
        self.n_passes_ = passes.n_passes


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line that called, be it through scikit-learn's wrappers."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - Python's way
    # What is run by `exec` may have no name.
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("dkmeans.", "sklearn.")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@dataclass(frozen=True, eq=False)
class _Labels:
    """Labels a block."""

    centers: Centers
    check: Callable[[npt.NDArray[Any]], None] | None

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.check:
            self.check(values)
        return self.centers.assign(values)


def labels_of(data: Table, centers: Centers) -> Any:
    """Return the labels of data that a fit has seen, and so checked."""
    return data.map(_Labels(centers, None), np.dtype(np.int32))


@dataclass(frozen=True, eq=False)
class _Distances:
    """Measures a block."""

    centers: Centers
    check: Callable[[npt.NDArray[Any]], None]

    def __call__(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self.check(values)
        return self.centers.distances(values)
