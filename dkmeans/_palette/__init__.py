"""Palettes: colours, their shares and names, and the files that hold them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._palette import _files
from dkmeans._palette._files import MAX_PALETTE
from dkmeans._validation import InvalidArgumentError, SourceError, check_place

__all__ = ["MAX_PALETTE", "Palette"]

_BYTE = 255
_SHARE_TOLERANCE = 1e-6
_SHOWN = 4  # colours in the text form


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Palette:
    """Colours in the order of their indices, with the share of pixels and the name of each.

    Palettes are equal, and hash alike, if their contents are equal.

    Parameters
    ----------
    colors
        sRGB colours, (k, 3) integers from 0 to 255, k from 1 to 65536. Kept as a read-only uint8
        copy.
    shares
        The fraction of all pixels that has each colour, (k,). They sum to 1, or are all 0 where
        there are no pixels. Kept as a read-only float64 copy.
    names
        One line of text for each colour, "" for none. Names that are all empty are kept as None.

    Raises
    ------
    InvalidArgumentError
        If an argument has another shape or values that are not allowed.

    Examples
    --------
    >>> palette = Palette([[0, 0, 0], [255, 128, 0]], names=("", "orange"))
    >>> len(palette), palette.hex
    (2, ('#000000', '#ff8000'))
    """

    colors: npt.NDArray[np.uint8]
    shares: npt.NDArray[np.float64] | None = None
    names: tuple[str, ...] | None = None

    def __init__(
        self,
        colors: npt.ArrayLike,
        shares: npt.ArrayLike | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        # A frozen class is set this way only; copies make the arrays as frozen as the rest.
        object.__setattr__(self, "colors", _check_colors(colors))
        k = len(self.colors)
        object.__setattr__(self, "shares", None if shares is None else _check_shares(shares, k))
        object.__setattr__(self, "names", None if names is None else _check_names(names, k))

    def __len__(self) -> int:
        return len(self.colors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Palette):
            return NotImplemented
        return self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def __reduce__(self) -> tuple[Any, ...]:
        return Palette, (self.colors, self.shares, self.names)  # NumPy forgets what is read-only

    def __repr__(self) -> str:
        shown = ", ".join(self.hex[:_SHOWN]) + (", ..." if len(self) > _SHOWN else "")
        return f"<Palette of {len(self)}: {shown}>"

    def _content(self) -> tuple[Any, ...]:
        shares = None if self.shares is None else self.shares.tobytes()
        return self.colors.tobytes(), shares, self.names

    @property
    def hex(self) -> tuple[str, ...]:
        """The colours as "#rrggbb"."""
        return tuple("#" + color.tobytes().hex() for color in self.colors)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Palette":
        """Read a palette file; what it holds follows from the suffix of its name.

        ``.gpl`` is GIMP's format, with names; ``.act`` an Adobe colour table; ``.png`` any indexed
        PNG image, of which only the palette is read; ``.txt`` a GDAL colour table, with lines of
        "index red green blue [alpha]"; ``.json`` our own, with shares and names. Transparency is
        not kept.

        Raises
        ------
        InvalidArgumentError
            If the path is none, or its suffix another one.
        SourceError
            If the file is missing, cannot be read, or is malformed.
        """
        file_format = _format_of(path)
        data = _files.read(path)
        try:
            return cls(*file_format.parse(data))
        except (_files.MalformedError, InvalidArgumentError) as error:
            raise SourceError(f"{os.fspath(path)}: {error}") from None

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a palette file; the suffix says which, as in `load`.

        The file appears under its name only once it is complete. Only ``.json`` keeps all;
        ``.gpl`` keeps colours and names, the others the colours. A ``.png`` shows the colours as
        swatches.

        Raises
        ------
        InvalidArgumentError
            If the path is none, its suffix another one, or the format holds no more than 256
            colours.
        OutputError
            If the file exists and `overwrite` is false, or cannot be written.
        """
        file_format = _format_of(path)
        if len(self) > file_format.max_colors:
            raise InvalidArgumentError(
                f"The palette has {len(self)} colours, and {Path(path).suffix} files hold at most "
                f"{file_format.max_colors}; .json, .gpl and .txt hold up to {MAX_PALETTE}."
            )
        content = _files.Content(self.colors, self.shares, self.names)
        _files.write(path, file_format.serialize(content), overwrite=overwrite)


def _format_of(path: str | os.PathLike[str]) -> _files.Format:
    check_place("path", path)
    suffix = Path(path).suffix.lower()
    if suffix not in _files.FORMATS:
        raise InvalidArgumentError(
            f"{os.fspath(path)!r} is not the name of a palette file; its suffix must be one of "
            f"{', '.join(_files.FORMATS)}."
        )
    return _files.FORMATS[suffix]


def _check_colors(colors: Any) -> npt.NDArray[np.uint8]:
    try:
        given = np.asarray(colors)
    except ValueError:
        raise InvalidArgumentError("colors must be rows of three integers each.") from None
    if given.ndim != 2 or given.shape[1] != 3 or not 1 <= len(given) <= MAX_PALETTE:  # noqa: PLR2004 - (k, 3)
        raise InvalidArgumentError(
            f"colors has the shape {given.shape}; it must be (k, 3) with k from 1 to {MAX_PALETTE}."
        )
    if given.dtype.kind not in "iu" or given.min() < 0 or given.max() > _BYTE:
        raise InvalidArgumentError(f"colors must be integers from 0 to {_BYTE}, as sRGB has them.")
    return _frozen(given, np.uint8)


def _check_shares(shares: Any, k: int) -> npt.NDArray[np.float64]:
    try:
        given = np.asarray(shares, np.float64)
    except (TypeError, ValueError):
        raise InvalidArgumentError("shares must be numbers.") from None
    if given.shape != (k,):
        raise InvalidArgumentError(f"shares has the shape {given.shape}; it must be ({k},).")
    total = float(given.sum())
    in_range = bool(np.all((given >= 0) & (given <= 1)))  # false for NaN
    if not in_range or (total != 0 and abs(total - 1) > _SHARE_TOLERANCE):
        raise InvalidArgumentError(
            f"shares must be fractions from 0 to 1 that sum to 1, or all 0; they sum to {total:g}."
        )
    return _frozen(given + 0.0, np.float64)  # turns -0.0, which has other bytes, into 0.0


def _check_names(names: Any, k: int) -> tuple[str, ...] | None:
    try:
        names = (names,) if isinstance(names, str) else tuple(names)
    except TypeError:
        raise InvalidArgumentError(
            f"names is {names!r}; it must be a list of texts, one for each colour, or None."
        ) from None
    if len(names) != k:
        raise InvalidArgumentError(f"There are {len(names)} names for {k} colours.")
    for i, name in enumerate(names):
        if not isinstance(name, str) or name != name.strip() or not _files.is_one_line(name):
            raise InvalidArgumentError(
                f"names[{i}] is {name!r}; it must be one line of text without control characters "
                "or blanks at its ends."
            )
    return names if any(names) else None


def _frozen(array: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    copy = np.array(array, dtype, order="C")
    copy.setflags(write=False)
    return copy
