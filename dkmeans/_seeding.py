"""Where k-means starts: initial centres chosen among weighted points."""

import os
import threading
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import points as kernels
from dkmeans._passes_threads import in_threads

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Points = npt.NDArray[Any]

_PARTS = 8  # of the work on many points, for threads
_SMALL = 1 << 22  # numbers; below this, threads cost more than they save


def kmeans_plusplus(
    points: Points, weights: Float64, n_clusters: int, rng: np.random.Generator
) -> Float64:
    """Choose centres by greedy k-means++ (Arthur and Vassilvitskii 2007, section 2.2, and 3.1).

    Each next centre is the best of ``2 + log(n_clusters)`` points drawn with a probability
    proportional to their weighted squared distance from the centres so far, as in scikit-learn.

    Parameters
    ----------
    points
        (n, d), n at least `n_clusters`.
    weights
        (n,), above zero.
    n_clusters
        How many points to choose.
    rng
        The source of all draws.

    Returns
    -------
    ndarray
        (n_clusters, d) float64, of `points`.
    """
    return points[choose(points, weights, n_clusters, rng)].astype(np.float64)


def choose(
    points: Points,
    weights: Float64,
    n_clusters: int,
    rng: np.random.Generator,
    n_trials: int | None = None,
) -> Int64:
    """Return the indices of the points that `kmeans_plusplus` chooses, from `n_trials` each."""
    n_trials = n_trials or 2 + int(np.log(n_clusters))
    tiles, scale = _tiled.of(points)
    weights = np.append(weights, np.zeros(len(tiles) * kernels.LANES - len(points)))
    weights = weights.reshape(len(tiles), kernels.LANES)
    closest = np.ones(weights.shape, tiles.dtype)
    n_parts = _PARTS if points.size > _SMALL else 1
    shares = weights.sum(axis=1)  # of each tile in the next draw
    # Colours that follow one another are near each other, so boxes around them are small.
    is_boxed = points.shape[1] == 3  # noqa: PLR2004 - of a colour
    boxes = np.stack([tiles.min(axis=2), tiles.max(axis=2)], axis=1)[: len(tiles) * is_boxed]
    farthest = np.full(len(tiles), np.inf, tiles.dtype)
    cuts = np.linspace(0, len(tiles), n_parts + 1, dtype=int).tolist()
    parts = [
        (tiles[a:b], boxes[a:b], weights[a:b], closest[a:b], farthest[a:b], shares[a:b])
        for a, b in pairwise(cuts)
    ]

    def potentials(candidates: Int64, totals: Float64) -> Float64:
        places = points[candidates].astype(tiles.dtype) * scale

        def one(number: int) -> None:
            kernels.potentials(*parts[number], places, totals[number])

        in_threads(one, range(n_parts))
        sums: Float64 = totals.sum(axis=0)
        return sums

    def draw(uniforms: Float64) -> Int64:
        """Draw points, with chances in proportion to their weighted distances."""
        drawn = np.empty(uniforms.size, np.int64)
        kernels.draw(uniforms, shares, weights, closest, drawn)
        return drawn

    def add(center: Int64) -> None:
        potentials(center, np.empty((n_parts, 0)))

    chosen = draw(rng.uniform(size=1))
    closest[weights > 0] = np.inf
    add(chosen)
    for uniforms in rng.uniform(size=(n_clusters - 1, n_trials)):
        candidates = draw(uniforms)
        best = np.argmin(potentials(candidates, np.empty((n_parts, n_trials))))
        chosen = np.append(chosen, candidates[best])
        add(chosen[-1:])
    return chosen


class _Tiled:
    """Points as kernels take them, shared by those who choose among the same at the same time.

    Two starts side by side that had a copy each would read more than processors cache.
    """

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Begin anew, as where another thread had the lock when this process was forked."""
        self._lock = threading.Lock()
        self._last: tuple[Any, Any, Any] = (lambda: None), (lambda: None), 0

    def of(self, points: Points) -> tuple[Points, Any]:
        """Return tiles of points, and how they were scaled."""
        with self._lock:
            given, made, scale = self._last
            tiles = made() if given() is points else None
            if tiles is None:
                tiles, scale = _tiles(points)
                self._last = weakref.ref(points), weakref.ref(tiles), scale
            return tiles, scale


_tiled = _Tiled()


def _tiles(points: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Any]:
    """Return points as kernels take them, and how they were scaled.

    Points of float64 stay what they are. Others, all exact in float32, are compared in it, twice
    as fast; so that squares neither overflow nor vanish, they are brought to about one, by a power
    of two.
    """
    dtype = np.dtype(np.float64 if points.dtype == np.float64 else np.float32)
    scale = dtype.type(1)
    points = points.astype(dtype, copy=False)
    if dtype == np.float32:
        largest = float(np.abs(points).max(initial=0))
        scale = dtype.type(2.0 ** -np.clip(np.frexp(largest)[1], -126, 126))
    tiles = np.zeros((-(-len(points) // kernels.LANES), points.shape[1], kernels.LANES), dtype)
    kernels.transpose(points, scale, tiles)
    return tiles, scale


def random(points: Points, weights: Float64, n_clusters: int, rng: np.random.Generator) -> Float64:
    """Choose points at random, with chances in proportion to their weights.

    None is chosen twice while there are others. The parameters and the result are those of
    `kmeans_plusplus`, but there may be fewer points than clusters.
    """
    shares = weights / weights.sum()
    n_distinct = min(n_clusters, int(np.count_nonzero(shares)))
    chosen = rng.choice(len(points), n_distinct, replace=False, p=shares)
    return points[np.resize(chosen, n_clusters)].astype(np.float64)
