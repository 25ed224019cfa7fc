"""Decoded blocks that stay in memory from the first pass to the last, as far as there is room.

Both passes scan the same blocks once: it does not matter which are kept, so those that come first
are. Only a process that does all by itself keeps any. Sources that are read in order are staged
instead.
"""

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._passes import BlockSource
from dkmeans._tiling import Window

UInt8 = npt.NDArray[np.uint8]

ALIGNED = 64  # bytes at which blocks begin: kernels read words


class Shelf:
    """Room for blocks, in one piece: memory that the system hands out in large pages.

    In another process there is none.

    Parameters
    ----------
    nbytes
        Of room. What is not used takes no memory.
    """

    def __init__(self, nbytes: int) -> None:
        self._place = np.empty(nbytes, np.uint8)
        self._used = 0
        self._blocks: dict[tuple[int, Window], UInt8] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Shelf"], tuple[int]]:
        return Shelf, (0,)

    def find(self, index: int, window: Window) -> UInt8 | None:
        """Return a block of a source if it is kept."""
        return self._blocks.get((index, window))

    def keep(self, index: int, window: Window, block: UInt8) -> None:
        """Copy a block of a source if there is room for it."""
        with self._lock:
            start = self._used
            if (index, window) in self._blocks or start + block.nbytes > self._place.size:
                return
            self._used += -(-block.nbytes // ALIGNED) * ALIGNED
        kept = self._place[start : start + block.nbytes].reshape(block.shape)
        kept[:] = block
        self._blocks[index, window] = kept


@dataclass(frozen=True)
class KeptSource:
    """A source of which some blocks are kept once they are read. Implements `BlockSource`.

    Attributes
    ----------
    source
        Reads the others.
    index
        Which source it is of those that share the shelf.
    shelf
        Where its blocks are.
    """

    source: BlockSource
    index: int
    shelf: Shelf

    in_order = False

    @property
    def path(self) -> str:
        """What messages call it."""
        return str(getattr(self.source, "path", f"source {self.index + 1}"))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the source."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""
        return self.source.dtype

    @property
    def block(self) -> tuple[int, int]:
        """The height and width in which the source is stored."""
        return self.source.block

    @property
    def read_block(self) -> tuple[int, int]:
        """The windows in which the source is best read."""
        return self.source.read_block

    def fingerprint(self) -> str:
        """Return what the source does."""
        return self.source.fingerprint()

    def read(self, windows: Sequence[Window]) -> Generator[UInt8, None, None]:
        """Yield the block of each window, in the order given; those kept are not read again.

        A block holds until the next is asked for, and is not to be changed.
        """
        found = [self.shelf.find(self.index, window) for window in windows]
        left = [window for window, kept in zip(windows, found, strict=True) if kept is None]
        with closing(self.source.read(left)) as blocks:
            for window, kept in zip(windows, found, strict=True):
                if kept is not None:
                    yield kept
                    continue
                block = next(blocks)
                self.shelf.keep(self.index, window, block)
                yield block
            next(blocks, None)  # lets the source see to it that it has not changed meanwhile


def kept(usable: Mapping[int, BlockSource], shelf: Shelf) -> dict[int, BlockSource]:
    """Return the sources, with a place on the shelf for those that can be read in any order."""
    return {
        index: source if source.in_order else KeptSource(source, index, shelf)
        for index, source in usable.items()
    }
