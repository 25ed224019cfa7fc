"""The palette of counted colours, and its record, from which an interrupted job goes on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dkmeans import _stores
from dkmeans._documents import Kind, check_kinds, decoded_all, encoded, numbered_texts
from dkmeans._lloyd import Solution
from dkmeans._lloyd_starts import solve
from dkmeans._palette import Palette
from dkmeans._summary import ColourSummary

Float64 = npt.NDArray[np.float64]

_FIT = Kind("fit", 1, ("values", "failures"), "Run without resume to start over.")
_VALUES = {
    "colors": ("an array", True),
    "shares": ("an array of floats", True),
    "centers": ("an array of floats", True),
    "inertia": ("a float", True),
    "psnr": ("a float", True),
    "n_distinct": ("an integer", True),
    "n_pixels": ("an integer", True),
    "n_iter": ("an integer", True),
    "stop_reason": ("a text", True),
}


@dataclass(frozen=True)
class Fit:
    """A palette fitted to counted colours, and what `QuantizeResult` tells of it."""

    palette: Palette
    centers: Float64
    inertia: float
    psnr: float
    n_distinct: int
    n_pixels: int
    n_iter: int
    stop_reason: str

    def quality(self) -> dict[str, Any]:
        """Return its attributes by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def write(self, place: _stores.Place, failures: Mapping[int, str]) -> None:
        """Write it down, with the sources that failed before it."""
        values = self.quality()
        palette = values.pop("palette")
        values |= {"colors": palette.colors.astype(np.int64), "shares": palette.shares}
        members = {
            "values": {name: encoded(name, value) for name, value in values.items()},
            "failures": {str(index): reason for index, reason in failures.items()},
        }
        _FIT.write(place, members, indent=None)

    @classmethod
    def read(cls, place: _stores.Place) -> tuple[Self, dict[int, str]]:
        """Return what `write` has written.

        Raises
        ------
        SourceError
            If it is damaged.
        """
        members = _FIT.read(place)
        with _FIT.damaged(place):
            values = decoded_all("values", members["values"])
            check_kinds("value", values, _VALUES)
            colors = values.pop("colors")
            if colors.dtype.kind != "i" or not ((colors >= 0) & (colors <= 255)).all():  # noqa: PLR2004 - 8 bits
                raise ValueError("colors must be integers from 0 to 255")
            palette = Palette(colors.astype(np.uint8), shares=values.pop("shares"))
            failures = numbered_texts("failures", members["failures"])
            return cls(palette, **values), failures


def fit(summary: ColourSummary, n_colors: int, start: Float64 | None, **options: Any) -> Fit:
    """Run k-means on counted colours and make the palette of its centres."""
    exact = summary.depths[-1]
    if summary.n_points <= n_colors:
        centers = summary.colours().astype(np.float64)
        solution = Solution(centers, summary.counts, 0.0, 0, "exact")
    else:
        solution = solve(summary, n_colors, init=start, **options)
    order = np.argsort(-solution.weights, kind="stable")
    centers = solution.centers[order]
    # Two centres can round to one colour; unique sorts, but the order of shares is wanted.
    rounded = np.clip(np.rint(centers), 0, 255)
    _, first = np.unique(rounded, axis=0, return_index=True)
    colors = rounded[np.sort(first)]
    totals = summary.assign(colors, exact)
    # Colours that no pixel got are dropped; the order stays, as it decides who gets a tie.
    used = totals.weights > 0
    rgb = np.repeat(colors[used], 3 // summary.bands, axis=1).astype(np.uint8)
    palette = Palette(rgb, shares=totals.weights[used] / summary.weight)
    return Fit(
        palette,
        centers,
        solution.inertia,
        psnr(summary.inertia(colors, totals), summary.weight * summary.bands),
        summary.n_points,
        summary.weight,
        solution.n_iter,
        solution.stop_reason,
    )


def psnr(squared_error: float, n_values: int) -> float:
    """Return the peak signal-to-noise ratio of 8-bit values, in dB."""
    return 10 * math.log10(255**2 * n_values / squared_error) if squared_error else math.inf
