"""Equal rows: found by hashes of what they hold, and joined."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from dkmeans._frame import Float64, Int64, Rows
from dkmeans._frame_ranges import for_kernels
from dkmeans._kernels import hashes as kernels
from dkmeans._summary_steps import in_parts

_CLASSES = 16  # of hashes, one of which tells how many there are
_SURELY = 8  # standard deviations
_DRAWN = 1 << 13  # rows


def hashes_of(rows: Rows) -> npt.NDArray[np.uint64]:
    hashes = np.empty(len(rows), np.uint64)
    plain = for_kernels(rows)
    in_parts(lambda part: kernels.hash_rows(plain[part], hashes[part]), len(rows), rows.size)
    return hashes


def are_many(hashes: npt.NDArray[np.uint64], most: int) -> bool:
    """Return whether there are surely more than `most` different ones, from a part of them.

    True of some hashes, it is true of any that have these among them.
    """
    expected = most / _CLASSES
    n = kernels.count_distinct(hashes, 0, _CLASSES)
    return bool(n > expected + _SURELY * expected**0.5 + _SURELY)


def seem_many(rows: Rows, most: int) -> bool:
    """Return whether surely more than `most` rows are different, from some drawn at random.

    Where that is not so, fewer of those drawn are different than if all that are occurred equally
    often, `n / most` times. It is told in a tenth of the time that `are_many` takes, which needs
    hashes of all rows, and tells more.
    """
    n = len(rows)
    if n <= max(most, 2 * _DRAWN):
        return False
    expected = _DRAWN - most * (1 - (1 - _DRAWN / n) ** (n / most))  # equal to one before
    n_equal = _DRAWN - kernels.count_distinct(hashes_of(rows[_drawn(n)]), 0, 1)
    return bool(n_equal < expected - _SURELY * expected**0.5 - _SURELY)


@lru_cache
def _drawn(n: int) -> Int64:
    """Return the places of rows drawn from `n`; once, as most blocks have as many rows."""
    return np.random.default_rng(0).choice(n, _DRAWN, replace=False)


def join_equal(
    rows: Rows, weights: Float64, hashes: npt.NDArray[np.uint64]
) -> tuple[Rows, Float64]:
    """Join equal rows and add their weights; return both in an order that is the rows' own.

    `hashes` are those of the rows.
    """
    order = np.lexsort((weights, hashes))  # by weight too, so that their sum is always the same
    hashes, weights = hashes[order], weights[order]
    repeated = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    are_equal = np.empty(repeated.size, np.bool_)
    kernels.compare(for_kernels(rows), order[repeated], order[repeated - 1], are_equal)
    repeated = repeated[are_equal]
    if repeated.size:
        first = np.ones(len(rows), np.bool_)
        first[repeated] = False
        weights = np.add.reduceat(weights, np.flatnonzero(first))
        order = order[first]
    return _taken(rows, order), weights


def _taken(rows: Rows, places: Int64) -> Rows:
    """Return the rows at some places; threads copy them."""
    out = np.empty((len(places), *rows.shape[1:]), rows.dtype)

    def one(part: slice) -> None:
        np.take(rows, places[part], axis=0, out=out[part], mode="clip")  # "raise" copies twice

    in_parts(one, len(places), out.size)
    return out
