"""Where k-means starts: initial centres chosen among weighted points."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans import _seeding_tiles as _tiles
from dkmeans._kernels import points as kernels
from dkmeans._passes_threads import in_threads

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Points = npt.NDArray[Any]

# Takes points, (n, d), their weights, how many centres to choose, and the source of draws.
Seeding = Callable[[Points, Float64, int, np.random.Generator], Float64]

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
    tiles = _tiles.of(points, n_clusters)
    spread = np.zeros(tiles.shape)
    spread.ravel()[: len(points)] = weights[tiles.order]
    closest = np.ones(tiles.shape, tiles.values.dtype)
    n_parts = _PARTS if points.size > _SMALL else 1
    shares = spread.sum(axis=1)  # of each tile in the next draw
    farthest = np.full(len(shares), np.inf, closest.dtype)
    cuts = np.linspace(0, len(shares), n_parts + 1, dtype=int).tolist()
    nearest = spread, closest, farthest, shares
    state = tiles.values, tiles.boxes, *nearest
    # Points of many features are read once a step: what is known of all candidates is kept.
    is_wide = points.shape[1] >= _tiles.WIDE * n_trials
    kept = np.empty((n_trials, *tiles.shape) if is_wide else (0, 0, 0), closest.dtype)

    def potentials(candidates: Int64, totals: Float64) -> Float64:
        places = tiles.at(candidates)

        def one(number: int) -> None:
            first, last = cuts[number : number + 2]
            kernels.potentials(*state, first, last, places, kept, totals[number])

        in_threads(one, range(n_parts))
        sums: Float64 = totals.sum(axis=0)
        return sums

    def draw(uniforms: Float64) -> Int64:
        """Draw points, with chances in proportion to their weighted distances."""
        drawn = np.empty(uniforms.size, np.int64)
        kernels.draw(uniforms, shares, spread, closest, drawn)
        return drawn

    def add(center: Int64) -> None:
        potentials(center, np.empty((n_parts, 0)))

    chosen = draw(rng.uniform(size=1))
    closest[spread > 0] = np.inf
    add(chosen)
    for uniforms in rng.uniform(size=(n_clusters - 1, n_trials)):
        candidates = draw(uniforms)
        best = np.argmin(potentials(candidates, np.empty((n_parts, n_trials))))
        chosen = np.append(chosen, candidates[best])
        if is_wide:
            kernels.lower(kept[best], *nearest)
        else:
            add(chosen[-1:])
    return tiles.order[chosen].astype(np.int64)


def random(points: Points, weights: Float64, n_clusters: int, rng: np.random.Generator) -> Float64:
    """Choose points at random, with chances in proportion to their weights.

    None is chosen twice while there are others. The parameters and the result are those of
    `kmeans_plusplus`, but there may be fewer points than clusters.
    """
    shares = weights / weights.sum()
    n_distinct = min(n_clusters, int(np.count_nonzero(shares)))
    chosen = rng.choice(len(points), n_distinct, replace=False, p=shares)
    return points[np.resize(chosen, n_clusters)].astype(np.float64)
