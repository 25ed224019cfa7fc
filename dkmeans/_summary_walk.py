"""Passes that assign all rows of a table, one after the other, as the centres move.

Where the table is one array in memory, each pass goes on from the last: see `_summary_steps`. Else
a pass begins anew.
"""

from dataclasses import replace

from dkmeans._frame import Float64, Frame, Int32, RowTotals
from dkmeans._passes import Passes
from dkmeans._summary_looks import one_array
from dkmeans._summary_rows import assign_all
from dkmeans._summary_steps import Steps
from dkmeans._tables import Table


class Walk:
    """Passes over a table, each with other centres.

    Parameters
    ----------
    passes, table, frame
        What runs and counts passes, the rows, and their frame.
    n_clusters
        The number of centres.
    """

    def __init__(self, passes: Passes, table: Table, frame: Frame, n_clusters: int) -> None:
        self._passes, self._table, self._frame = passes, table, frame
        found = one_array(table)
        self._steps = None if found is None else Steps(frame, *found, n_clusters)

    @property
    def labels(self) -> Int32 | None:
        """The labels after the last pass, (n,), if they are kept."""
        return None if self._steps is None else self._steps.labels

    def assign(self, centers: Float64, name: str, *, measured: bool = True) -> RowTotals:
        """Assign all rows in one pass of this name; if not `measured`, `measure` has to follow."""
        if self._steps is None:
            return assign_all(self._passes, self._table, self._frame.centers(centers), name)
        with self._passes.counted(name, self._table.nbytes, self._table.n_rows):
            totals = self._steps.assign(centers)
            return self.measure(totals) if measured else totals

    def measure(self, totals: RowTotals) -> RowTotals:
        """Return totals of the last pass, which was not measured, with the squared distances."""
        return totals if self._steps is None else replace(totals, limbs=self._steps.limbs())
