"""Pure integer geometry of pixels: windows, grids, alignment. No input or output."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from operator import sub
from typing import NamedTuple, Self, TypeVar, overload


class Window(NamedTuple):
    """A rectangle of pixels: rows `y` to ``y + height``, columns `x` to ``x + width``."""

    y: int
    x: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.y, self.y + self.height)

    @property
    def columns(self) -> slice:
        """The columns as a slice."""
        return slice(self.x, self.x + self.width)

    @property
    def n_pixels(self) -> int:
        """The number of pixels."""
        return self.height * self.width

    def common(self, other: "Window") -> "Window":
        """Return the part that both windows have; they must have one.

        Examples
        --------
        >>> Window(0, 0, 4, 4).common(Window(2, 3, 4, 4))
        Window(y=2, x=3, height=2, width=1)
        """
        y, x = max(self.y, other.y), max(self.x, other.x)
        bottom = min(self.y + self.height, other.y + other.height)
        right = min(self.x + self.width, other.x + other.width)
        return Window(y, x, bottom - y, right - x)

    def within(self, other: "Window") -> tuple[slice, slice]:
        """Return where this window lies in an array that holds the pixels of `other`."""
        y, x = self.y - other.y, self.x - other.x
        return slice(y, y + self.height), slice(x, x + self.width)


B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Grid(Sequence[B], ABC):
    """Some boxes of a regular grid, in C order: those of the numbers `start` to `stop`.

    It takes the same few bytes for any number of boxes, so that a pass over 100,000 chunks is
    dealt out and sent as fast as one over a hundred.

    Attributes
    ----------
    leading
        The extents of the axes.
    step
        The extents of a box; those at the end of an axis are cut off.
    """

    leading: tuple[int, ...]
    step: tuple[int, ...]
    start: int
    stop: int

    @staticmethod
    @abstractmethod
    def _box(start: tuple[int, ...], size: tuple[int, ...]) -> B:
        """Make a box."""

    @classmethod
    def of(cls, leading: tuple[int, ...], step: tuple[int, ...]) -> Self:
        """Return the whole grid."""
        return cls(leading, step, 0, math.prod(_counts(leading, step)))

    def __len__(self) -> int:
        return self.stop - self.start

    @overload
    def __getitem__(self, index: int) -> B: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> B | Self:
        chosen = range(self.start, self.stop)[index]
        if isinstance(chosen, range):
            return replace(self, start=chosen.start, stop=max(chosen.start, chosen.stop))
        start = []
        for extent, step in zip(reversed(self.leading), reversed(self.step), strict=True):
            chosen, place = divmod(chosen, -(-extent // step))
            start.append(place * step)
        return self._at(tuple(reversed(start)))

    def __iter__(self) -> Iterator[B]:
        axes = (range(0, n, step) for n, step in zip(self.leading, self.step, strict=True))
        return map(self._at, islice(product(*axes), self.start, self.stop))

    def _at(self, start: tuple[int, ...]) -> B:
        left = map(sub, self.leading, start)
        return self._box(start, tuple(map(min, self.step, left)))

    @property
    def n_pixels(self) -> int:
        """The number of pixels or rows in all boxes."""
        return self._n_before(self.stop) - self._n_before(self.start)

    def cut(self, n_pixels: float) -> Iterator[Self]:
        """Cut them into runs of about so many pixels, at least one box each."""
        n = len(self)
        each = max(1, math.ceil(n_pixels * n / max(1, self.n_pixels)))
        for start in range(0, n, each):
            yield self[start : start + each]

    def _n_before(self, number: int) -> int:
        """Count the pixels in the boxes before this one."""
        total, across = 0, 1  # `across`: how far the axes so far have the boxes extend
        inner = math.prod(self.leading)
        counts = _counts(self.leading, self.step)
        for axis, (extent, step) in enumerate(zip(self.leading, self.step, strict=True)):
            place, number = divmod(number, math.prod(counts[axis + 1 :]))
            inner //= max(1, extent)
            at = min(place * step, extent)
            total += across * at * inner
            across *= min(step, extent - at)
        return total


def _counts(leading: tuple[int, ...], step: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-extent // n) for extent, n in zip(leading, step, strict=True))


class Windows(Grid[Window]):
    """Some windows of a picture, row by row."""

    __slots__ = ()

    @staticmethod
    def _box(start: tuple[int, ...], size: tuple[int, ...]) -> Window:
        return Window(*start, *size)


def grid(height: int, width: int, block: tuple[int, int]) -> Windows:
    """Return the windows that cover `height` x `width`, row by row; the last ones are cut off.

    Examples
    --------
    >>> [(w.y, w.x, w.height, w.width) for w in grid(3, 5, (2, 4))]
    [(0, 0, 2, 4), (0, 4, 2, 1), (2, 0, 1, 4), (2, 4, 1, 1)]
    """
    return Windows.of((height, width), block)


def split(window: Window, block: tuple[int, int]) -> Iterator[Window]:
    """Yield the windows of at most `block` that cover `window`, from its corner on."""
    for part in grid(window.height, window.width, block):
        yield Window(window.y + part.y, window.x + part.x, part.height, part.width)


def covering(window: Window, block: tuple[int, int]) -> Iterator[Window]:
    """Yield the blocks of a grid over the whole picture that `window` touches, each uncut.

    Examples
    --------
    >>> [(w.y, w.x) for w in covering(Window(3, 0, 2, 5), (4, 4))]
    [(0, 0), (0, 4), (4, 0), (4, 4)]
    """
    top, left = window.y // block[0] * block[0], window.x // block[1] * block[1]
    for y in range(top, window.y + window.height, block[0]):
        for x in range(left, window.x + window.width, block[1]):
            yield Window(y, x, *block)


def grow(block: int, unit: int, target: int, limit: int, most: int | None = None) -> int:
    """Choose an extent that both a stored block and an output unit divide.

    Parameters
    ----------
    block, unit
        The extents to be multiples of.
    target
        The extent to come close to, from below where possible.
    limit
        The full extent of the picture: never more than one multiple beyond it.
    most
        The extent up to which blocks are worth being kept whole: by default twice `target`.

    Returns
    -------
    int
        A multiple of `unit`; also of `block`, unless that would exceed `most`.

    Examples
    --------
    >>> grow(512, 512, 2048, 10000), grow(240, 16, 2048, 10000), grow(500, 512, 2048, 10000)
    (2048, 1920, 2048)
    """
    step = math.lcm(block, unit)
    if step > (2 * target if most is None else most):
        step = unit
    return step * max(1, min(target, limit) // step)


def reading_block(
    width: int, block: tuple[int, int], pixel_bytes: int, side: int = 2048, target: int = 4 << 20
) -> tuple[int, int]:
    """Choose the windows to read: whole blocks, a few MiB, full rows where rows are stored.

    Parameters
    ----------
    width
        Of the picture.
    block
        The height and width in which it is stored.
    pixel_bytes
        Bytes of a decoded pixel.
    side
        About how many pixels high and wide, where the picture is stored in tiles.
    target
        About how many bytes, where it is stored in rows.

    Examples
    --------
    >>> reading_block(30000, (512, 512), 3), reading_block(30000, (1, 30000), 3)
    ((2048, 2048), (46, 30000))
    """
    if block[1] >= width:
        return block[0] * max(1, target // (block[0] * width * pixel_bytes)), width
    return block[0] * max(1, side // block[0]), block[1] * max(1, side // block[1])
