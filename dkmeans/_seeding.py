"""Where k-means starts: initial centres chosen among weighted points."""

import itertools

import numpy as np
import numpy.typing as npt

from dkmeans import _passes
from dkmeans._kernels import points as kernels

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_PARTS = 8  # of the work on many points, for threads
_SMALL = 1 << 22  # numbers; below this, threads cost more than they save


def kmeans_plusplus(
    points: Float64, weights: Float64, n_clusters: int, rng: np.random.Generator
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
        (n_clusters, d) float64, rows of `points`.
    """
    return points[choose(points, weights, n_clusters, rng)]


def choose(
    points: Float64,
    weights: Float64,
    n_clusters: int,
    rng: np.random.Generator,
    n_trials: int | None = None,
) -> Int64:
    """Return the indices of the points that `kmeans_plusplus` chooses, from `n_trials` each."""
    n_trials = n_trials or 2 + int(np.log(n_clusters))
    n_tiles = -(-len(points) // kernels.LANES)
    tiles = np.zeros((n_tiles, points.shape[1], kernels.LANES))
    kernels.transpose(points, tiles)
    weights = np.append(weights, np.zeros(n_tiles * kernels.LANES - len(points)))
    weights = weights.reshape(n_tiles, kernels.LANES)
    closest = np.where(weights > 0, np.inf, 0)
    n_parts = _PARTS if points.size > _SMALL else 1
    cuts = np.linspace(0, n_tiles, n_parts + 1, dtype=int).tolist()
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]

    def add(center: Float64) -> None:
        _passes.in_threads(lambda p: kernels.add_center(tiles[p], center, closest[p]), parts)

    def totals_with(candidates: Float64) -> Float64:
        totals = np.empty((n_parts, len(candidates)))

        def one(number: int) -> None:
            part = parts[number]
            kernels.potentials(
                tiles[part], weights[part], closest[part], candidates, totals[number]
            )

        _passes.in_threads(one, range(n_parts))
        sums: Float64 = totals.sum(axis=0)
        return sums

    chosen = [_draw(np.cumsum(weights), 1, rng)[0]]
    add(points[chosen[0]])
    while len(chosen) < n_clusters:
        candidates = _draw(np.cumsum(weights * closest), n_trials, rng)
        chosen.append(candidates[np.argmin(totals_with(points[candidates]))])
        add(points[chosen[-1]])
    return np.array(chosen)


def random(points: Float64, weights: Float64, n_clusters: int, rng: np.random.Generator) -> Float64:
    """Choose points at random, with chances in proportion to their weights.

    None is chosen twice while there are others. The parameters and the result are those of
    `kmeans_plusplus`, but there may be fewer points than clusters.
    """
    shares = weights / weights.sum()
    n_distinct = min(n_clusters, int(np.count_nonzero(shares)))
    chosen = rng.choice(len(points), n_distinct, replace=False, p=shares)
    return points[np.resize(chosen, n_clusters)]


def _draw(cumulative: Float64, size: int, rng: np.random.Generator) -> Int64:
    """Draw `size` indices, each with a probability proportional to its share of the sum."""
    shares = rng.uniform(size=size) * cumulative[-1]
    drawn: Int64 = np.searchsorted(cumulative, shares, side="right")
    # Rounding can draw the end of the sum itself; the last index with a share is meant.
    last: np.int64 = np.searchsorted(cumulative, cumulative[-1])
    return np.where(drawn > last, last, drawn)
