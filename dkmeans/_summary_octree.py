"""The octree over counted colours: the totals of its nodes, level by level."""

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import octree
from dkmeans._passes_schedulers import n_local_workers
from dkmeans._passes_threads import in_threads

Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.integer[Any]]

NODE_BYTES = 60  # of all levels, for each node of the lowest: number, bounds, weight and sums
_SMALL = 100_000  # points; below this, threads cost more than they save


class Octree:
    """The node arrays of `_kernels.octree` over cubes of colours."""

    def __init__(self, prefixes: UInt32, cubes: Ints) -> None:
        weights = np.empty(prefixes.size, np.int64)
        sums = np.empty((prefixes.size, 3), np.int64)

        def part(nodes: slice) -> Int64:
            values = np.zeros((3, 256), np.int64)
            octree.total_colours(prefixes[nodes], cubes[nodes], weights[nodes], sums[nodes], values)
            return values

        n_parts = parts_of(cubes.size)
        cuts = np.linspace(0, weights.size, n_parts + 1, dtype=int)
        parts = [slice(a, b) for a, b in itertools.pairwise(cuts.tolist())]
        self.values = np.sum(in_threads(part, parts), axis=0)
        levels = [(prefixes, np.arange(prefixes.size + 1), weights, sums)]
        for _ in range(octree.BOTTOM - octree.TOP):
            prefixes, starts = _group(levels[0][0], 3)
            weights = np.add.reduceat(levels[0][2], starts[:-1])
            sums = np.add.reduceat(levels[0][3], starts[:-1])
            levels.insert(0, (prefixes, starts, weights, sums))
        sizes = [level[0].size for level in levels]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        child_offsets = [*self._offsets[1:-1], 0]  # the last level has cubes
        self._runs: dict[int, list[tuple[int, int]]] = {}
        self.arrays = (
            np.concatenate([level[0] for level in levels]),
            np.concatenate(
                [level[1][:-1] + o for level, o in zip(levels, child_offsets, strict=True)]
            ),
            np.concatenate(
                [level[1][1:] + o for level, o in zip(levels, child_offsets, strict=True)]
            ),
            np.concatenate([level[2] for level in levels]),
            np.concatenate([level[3] for level in levels]),
        )

    def level(self, depth: int) -> tuple[Int64, Int64]:
        """Return the weights and sums of the nodes at `depth`."""
        nodes = slice(self._offsets[depth - octree.TOP], self._offsets[depth - octree.TOP + 1])
        return self.arrays[3][nodes], self.arrays[4][nodes]

    def split(self, n: int) -> list[tuple[int, int]]:
        """Cut the nodes of the top level into at most `n` runs with about as many cubes."""
        if n not in self._runs:  # asked for at each step
            self._runs[n] = self._cut(n)
        return self._runs[n]

    def _cut(self, n: int) -> list[tuple[int, int]]:
        starts, ends = self.arrays[1], self.arrays[2]
        first, last = np.arange(self._offsets[1]), np.arange(self._offsets[1]) + 1
        for _ in range(octree.BOTTOM - octree.TOP + 1):  # down to the cubes
            first, last = starts[first], ends[last - 1]
        cuts = np.searchsorted(last, np.linspace(0, last[-1], n + 1)[1:-1]) + 1
        bounds = np.unique([0, *cuts, self._offsets[1]])
        return list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))


def parts_of(n_points: int) -> int:
    """Return into how many parts to cut the work on so many points: one for each thread.

    More would even out the times of threads, and cost more than that saves.
    """
    return n_local_workers() if n_points > _SMALL else 1


def _group(keys: UInt32, shift: int) -> tuple[UInt32, Int64]:
    prefixes, starts = np.empty(keys.size, np.uint32), np.empty(keys.size + 1, np.int64)
    n = octree.group(keys, shift, prefixes, starts)
    return prefixes[:n].copy(), starts[: n + 1].copy()
