"""Samples of rows, drawn by their numbers: the same rows however the data are divided.

A sample is drawn by priority sampling (N. Duffield, C. Lund and M. Thorup, "Priority sampling for
estimation of arbitrary subset sums", JACM 54(6), 2007, section 1.1): a row of weight w gets the
priority w / u, u uniform and a function of the seed and the row's number alone. The n rows of the
highest priorities are kept, each with the weight max(w, t), t being the highest priority that was
left out: unbiased, and the same rows however the data are divided. Where all rows weigh the same
it is a uniform sample.
"""

from dataclasses import dataclass

import numpy as np

from dkmeans._frame import Float64, Int64, Rows
from dkmeans._kernels import hashes as kernels
from dkmeans._tables import Block


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows kept of those seen so far, with their numbers, weights and priorities.

    Attributes
    ----------
    limit
        How many rows the sample is to have; one more is kept, for its priority.
    rows, numbers, weights, priorities
        (n, d), and (n,) each.
    """

    limit: int
    rows: Rows
    numbers: Int64
    weights: Float64
    priorities: Float64

    @classmethod
    def of(
        cls,
        limit: int,
        block: Block,
        weights: Float64 | None,
        seed: int,
        *,
        floor: float = 0.0,
        step: int = 1,
    ) -> "Sample":
        """Draw from the rows of a block that have a weight and a priority above `floor`.

        `weights` is (n,), or None where each row counts once. If `step` is above 1, only one row in
        so many is looked at, see `spread`: that is sooner done.
        """
        first = block.run()
        # Where rows follow one by one, their numbers need not be written down to be read again.
        every = block.numbers() if first is None else np.empty(0, np.int64)
        n_rows, looked = len(block.values), None
        given = np.empty(0) if weights is None else weights
        if step > 1:
            looked = spread(seed, first, every, n_rows, step)
            every = looked + first if first is not None else every[looked]
            first, n_rows, given = None, len(looked), given[looked] if given.size else given
        places, found = np.empty(n_rows, np.int64), np.empty(n_rows)
        n = kernels.draw(seed, first or 0, every, given, floor, places, found)
        used, priorities = places[:n], found[:n]
        numbers = used + first if first is not None else every[used]
        chosen = highest(priorities, numbers, limit + 1)
        origin = used[chosen] if looked is None else looked[used[chosen]]
        some = np.ones(origin.size) if weights is None else weights[origin]
        return cls(limit, block.values[origin], numbers[chosen], some, priorities[chosen])

    def merge(self, *others: "Sample") -> "Sample":
        """Return the sample of all rows that these were drawn from."""
        parts = (self, *others)
        numbers = np.concatenate([part.numbers for part in parts])
        priorities = np.concatenate([part.priorities for part in parts])
        chosen = np.sort(highest(priorities, numbers, self.limit + 1))
        weights = np.concatenate([part.weights for part in parts])[chosen]
        # Rows go one part after the other to where they will stay: all joined would be a copy more.
        rows = np.empty((chosen.size, self.rows.shape[1]), self.rows.dtype)
        ends = np.cumsum([len(part.numbers) for part in parts])
        stops = np.searchsorted(chosen, ends)
        for part, end, start, stop in zip(parts, ends, (0, *stops), stops, strict=False):
            places = chosen[start:stop] - (end - len(part.numbers))
            np.take(part.rows, places, axis=0, out=rows[start:stop], mode="clip")  # unbuffered
        return Sample(self.limit, rows, numbers[chosen], weights, priorities[chosen])

    def finish(self) -> "Sample":
        """Return the sample in the order of the rows, with the weights of what each stands for."""
        order = np.argsort(self.numbers, kind="stable")  # they are nearly in order
        weights = self.weights
        if len(order) > self.limit:
            lowest = order[self.priorities[order] == self.priorities.min()]
            last = lowest[-1]
            weights = np.maximum(weights, self.priorities[last])
            order = order[order != last]
        parts = (self.rows[order], self.numbers[order], weights[order], self.priorities[order])
        return Sample(self.limit, *parts)


def spread(seed: int, first: int | None, numbers: Int64, n: int, step: int) -> Int64:
    """Return which of `n` rows, whose numbers follow `first` or are given, to look at.

    Of each `step` rows of all, whose numbers follow each other, that is one.
    """
    if first is None:
        return np.flatnonzero(kernels.one_in_each(seed, numbers // step, step) == numbers)
    strata = np.arange(first // step, -(-(first + n) // step))
    places = kernels.one_in_each(seed, strata, step) - first
    return places[(places >= 0) & (places < n)]


def highest(priorities: Float64, numbers: Int64, n: int) -> Int64:
    """Return where the `n` highest priorities are; of equal ones, those of lower numbers."""
    if len(priorities) <= n:
        return np.arange(len(priorities))
    bound = np.partition(priorities, -n)[-n]
    above = np.flatnonzero(priorities > bound)
    equal = np.flatnonzero(priorities == bound)
    equal = equal[np.argsort(numbers[equal])][: n - above.size]
    return np.concatenate([above, equal])


class All(Sample):
    """All rows that count, in their order, as a sample that needs no weights."""

    def finish(self) -> Sample:
        """Return itself."""
        return self
