"""Regions: boxes of rows, and all those that a regular grid cuts an array into."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, dropwhile, islice, product

import numpy as np
import numpy.typing as npt

from dkmeans._tiling import Grid

Chunks = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A box of rows: along each leading axis from `start`, `size` long."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def n_pixels(self) -> int:
        """The number of rows, by the name that passes know."""
        return math.prod(self.size)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The region as an index."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))

    def bands(self, n_rows: int) -> Iterator[tuple[int, int, "Region"]]:
        """Cut the region along its first axis into bands of up to `n_rows` rows, or of one line.

        Yields where a band starts and stops in the region, and the band as a region.

        Examples
        --------
        >>> [band.start for _, _, band in Region((4, 0), (5, 10)).bands(20)]
        [(4, 0), (6, 0), (8, 0)]
        """
        height = self.size[0]
        step = max(1, n_rows // max(1, math.prod(self.size[1:])))
        if step >= height:
            yield 0, height, self
            return
        for start in range(0, height, step):
            stop = min(start + step, height)
            place, size = (self.start[0] + start, *self.start[1:]), (stop - start, *self.size[1:])
            yield start, stop, Region(place, size)

    def numbers(self, leading: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return the number of each row, in C order over the `leading` axes of the whole.

        Examples
        --------
        >>> Region((1, 2), (2, 2)).numbers((3, 10)).tolist()
        [12, 13, 22, 23]
        """
        numbers: npt.NDArray[np.int64] | None = None
        for extent, start, size in zip(leading, self.start, self.size, strict=True):
            along = np.arange(start, start + size)
            numbers = along if numbers is None else numbers[..., None] * extent + along
        return np.zeros(1, np.int64) if numbers is None else numbers.reshape(-1)

    def is_run(self, leading: tuple[int, ...]) -> bool:
        """Return whether these numbers follow each other one by one.

        Examples
        --------
        >>> [Region((1, 0), size).is_run((3, 10)) for size in ((2, 10), (1, 4), (2, 4))]
        [True, True, False]
        """
        axes = dropwhile(lambda axis: axis[1] == 1, zip(leading, self.size, strict=True))
        return all(extent == size for extent, size in islice(axes, 1, None))


def regions(chunks: Chunks) -> Iterator[tuple[tuple[int, ...], Region]]:
    """Yield the index and the region of every chunk that is not empty, in C order.

    Examples
    --------
    >>> [(index, region.start) for index, region in regions(((2, 0, 1), (4,)))]
    [((0, 0), (0, 0)), ((2, 0), (2, 0))]
    """
    spans = [
        [(i, start, size) for i, (start, size) in enumerate(zip(accumulate(axis, initial=0), axis))]  # noqa: B905 - the last is the end
        for axis in chunks
    ]
    for box in product(*spans):
        index, start, size = zip(*box, strict=True)
        if all(size):
            yield index, Region(start, size)


def regular(leading: tuple[int, ...], steps: tuple[int, ...]) -> Chunks:
    """Return chunks of `steps` along each leading axis, the last ones cut off.

    Examples
    --------
    >>> regular((5, 4), (2, 4))
    ((2, 2, 1), (4,))
    """
    return tuple(
        tuple(min(step, extent - start) for start in range(0, extent, step)) or (0,)
        for extent, step in zip(leading, steps, strict=True)
    )


class Regions(Grid[Region]):
    """Some regions of a regular grid, in C order.

    Examples
    --------
    >>> grid = Regions.of((5, 4), (2, 4))
    >>> len(grid), grid[2], grid[1:].n_pixels
    (3, Region(start=(4, 0), size=(1, 4)), 12)
    """

    __slots__ = ()

    @staticmethod
    def _box(start: tuple[int, ...], size: tuple[int, ...]) -> Region:
        return Region(start, size)
