"""Points as the kernels of k-means++ take them: in tiles of neighbours, and the box around each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import neighbours
from dkmeans._kernels.points import LANES, transpose
from dkmeans._seeding_shared import Shared

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Points = npt.NDArray[Any]

WIDE = 8  # features for each candidate: so wide points take longer to read than their distances
_LEAST_PRODUCTS = 512  # a point; of less, to sort points takes as long as it spares
_NEAR = 0.1  # as a share of the square of how wide all points are: so wide tiles are at most


@dataclass(frozen=True, eq=False)
class Tiles:
    """Points in some order, by tiles; zeros fill up the last one.

    Attributes
    ----------
    values
        (m, d, LANES).
    boxes
        (groups, 2, d, LANES): the least and the greatest coordinates in each tile, by groups of
        LANES tiles. The last ones of the last group are those of no tile.
    order
        (n,): which points they are.
    """

    values: Points
    boxes: Points
    order: Int32

    @property
    def shape(self) -> tuple[int, int]:
        """How many tiles there are, and points in each."""
        return len(self.values), LANES

    @property
    def are_near(self) -> bool:
        """Whether the points of a tile are near each other."""
        low, high = self.boxes[:, 0].astype(np.float64), self.boxes[:, 1]
        whole = high.max(axis=(0, 2)) - low.min(axis=(0, 2))
        with np.errstate(over="ignore"):  # then they are sorted, or not
            squares = ((high - low) ** 2).sum()
            return bool(squares <= _NEAR * len(self.values) * (whole**2).sum())

    def at(self, places: Int64) -> Points:
        """Return the points at some places of the order, (t, d)."""
        return np.ascontiguousarray(self.values[places // LANES, :, places % LANES])


def bytes_of(n: int, d: int, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return how much the tiles of (n, d) points take, and how much while they are made.

    With their boxes, as they come and by groups, and the distances of wide ones from candidates.
    """
    wide = _dtype_of(dtype)
    distances = n * d * wide.itemsize // WIDE if d > WIDE else 0
    tiles = n * d * wide.itemsize * (LANES + 8) // LANES + distances
    return tiles, tiles + (0 if dtype == wide else n * d * wide.itemsize)


def of(points: Points, n_clusters: int) -> Tiles:
    """Return points as tiles, from which so many clusters are chosen.

    They are sorted where that is worth it. Who asks for those of the same points as others, in
    whatever thread, gets the same ones: two copies would be more than processors cache. They are
    kept as long as the points are.
    """
    are_sorted = n_clusters * points.shape[1] >= _LEAST_PRODUCTS
    return _shared.of(points, are_sorted, lambda: _made(points, are_sorted=are_sorted))


_shared: Shared[Tiles] = Shared()


def _made(points: Points, *, are_sorted: bool) -> Tiles:
    """Return tiles of points that are sorted, if they are not near each other as they come.

    Points of float64 stay what they are. Others, all exact in float32, are compared in it, twice
    as fast; so that squares neither overflow nor vanish, they are brought to about one, by a power
    of two.
    """
    dtype = _dtype_of(points.dtype)
    scale = dtype.type(1)
    points = points.astype(dtype, copy=False)
    if dtype == np.float32:
        largest = float(np.abs(points).max(initial=0))
        scale = dtype.type(2.0 ** -np.clip(np.frexp(largest)[1], -126, 126))
    order = np.arange(len(points), dtype=np.int32)
    values = np.zeros((-(-len(points) // LANES), points.shape[1], LANES), dtype)
    tiles = _tiled(points, order, scale, values)
    if are_sorted and not tiles.are_near:
        neighbours.sort(points, LANES, order)
        tiles = _tiled(points, order, scale, values)
    return tiles


def _dtype_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _tiled(points: Points, order: Int32, scale: Any, values: Points) -> Tiles:
    """Write points to `values`, zeros where there are none, and return them with their boxes."""
    transpose(points, order, scale, values)
    boxes = np.zeros((-(-len(values) // LANES) * LANES, 2, points.shape[1]), points.dtype)
    boxes[: len(values), 0], boxes[: len(values), 1] = values.min(axis=2), values.max(axis=2)
    groups = boxes.reshape(-1, LANES, *boxes.shape[1:]).transpose(0, 2, 3, 1)
    return Tiles(values, np.ascontiguousarray(groups), order)
