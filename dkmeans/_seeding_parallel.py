"""k-means||: candidates for centres, many at a time, each round one pass over the data."""

from dataclasses import dataclass

import numpy as np

from dkmeans import _passes
from dkmeans._frame import Centers, Float64, Frame, Rows
from dkmeans._passes import Partition, Passes, Ticker
from dkmeans._summary_rows import assign_all
from dkmeans._summary_samples import Sample
from dkmeans._tables import Table
from dkmeans._tables_blocks import blocks

ROUNDS = 5


@dataclass(frozen=True)
class _Draw:
    """Draws rows with chances in proportion to their squared distance from the candidates."""

    candidates: Centers
    n: int
    seed: int

    def __call__(self, partition: Partition, tick: Ticker) -> Sample:
        samples: list[Sample] = []
        for block in blocks(partition, tick):
            labels = self.candidates.assign(block.values)
            costs = self.candidates.squared_distances(block.values, labels, block.weights)
            samples.append(Sample.of(self.n, block, costs, self.seed))
            samples = [samples[0].merge(*samples[1:])]
        return samples[0]


def candidates(  # noqa: PLR0917 - what a seeding needs
    passes: Passes, data: Table, frame: Frame, n_clusters: int, first: Rows, seed: int
) -> tuple[Rows, Float64]:
    """Choose weighted candidates by k-means|| (Bahmani et al., PVLDB 5(7), 2012, algorithm 2).

    In each of five rounds `n_clusters` rows are drawn without replacement, with chances in
    proportion to their weighted squared distance from the candidates so far; a last pass weighs
    the candidates by the rows that they serve. Draws are keyed by the numbers of rows: the same
    for any division of the data.

    Parameters
    ----------
    passes, data, frame
        What runs the passes, the rows, and their frame.
    n_clusters
        How many to draw in each round.
    first
        (1, d): the first candidate.
    seed
        Not negative.

    Returns
    -------
    tuple
        The candidates, (n, d), n up to ``5 * n_clusters + 1``, and their weights, above zero.
    """
    found = first
    partitions = _passes.partition(data.pieces)
    for number in range(ROUNDS):
        draw = _Draw(frame.centers(found), n_clusters, seed + (number + 1) * 0x9E3779B9)
        drawn = passes.run("draw candidates", draw, partitions, Sample.merge).finish()
        if not len(drawn.rows):
            break  # every row is a candidate already
        found = np.concatenate([found, drawn.rows])
    totals = assign_all(passes, data, frame.centers(found), "weigh candidates")
    weights = totals.weights.astype(np.float64)
    return found[weights > 0], weights[weights > 0]
