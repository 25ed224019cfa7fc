"""Where k-means starts: initial centres chosen among weighted points."""

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import points as kernels

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


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
    n = -(-len(points) // kernels.LANES) * kernels.LANES
    features, weights = (
        np.zeros((points.shape[1], n)),
        np.append(weights, np.zeros(n - len(points))),
    )
    features[:, : len(points)] = points.T
    closest = np.where(weights > 0, np.inf, 0)
    totals = np.empty(n_trials)
    chosen = [_draw(np.cumsum(weights), 1, rng)[0]]
    kernels.add_center(features, chosen[0], closest)
    while len(chosen) < n_clusters:
        candidates = _draw(np.cumsum(weights * closest), n_trials, rng)
        kernels.potentials(features, weights, closest, candidates, totals)
        chosen.append(candidates[np.argmin(totals)])
        kernels.add_center(features, chosen[-1], closest)
    return np.array(chosen)


def random(points: Float64, weights: Float64, n_clusters: int, rng: np.random.Generator) -> Float64:
    """Choose points at random, none twice, with chances in proportion to their weights.

    The parameters and the result are those of `kmeans_plusplus`.
    """
    shares = weights / weights.sum()
    return points[rng.choice(len(points), n_clusters, replace=False, p=shares)]


def _draw(cumulative: Float64, size: int, rng: np.random.Generator) -> Int64:
    """Draw `size` indices, each with a probability proportional to its share of the sum."""
    shares = rng.uniform(size=size) * cumulative[-1]
    drawn: Int64 = np.searchsorted(cumulative, shares, side="right")
    # Rounding can draw the end of the sum itself; the last index with a share is meant.
    last: np.int64 = np.searchsorted(cumulative, cumulative[-1])
    return np.where(drawn > last, last, drawn)
