"""Pixels decoded once and kept on disk until the second pass, where decoding again is slower."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dkmeans._tiling import Window
from dkmeans._validation import SourceError

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StagedSource:
    """A file of bare pixels, band after band. Implements `dkmeans._passes.BlockSource`.

    Bands lie apart because GDAL delivers them so, and interleaving costs more than decoding.

    Attributes
    ----------
    path
        The file.
    shape
        (height, width, bands).
    """

    path: str
    shape: tuple[int, int, int]

    in_order = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype as stored."""
        return np.dtype(np.uint8)

    @property
    def block(self) -> tuple[int, int]:
        """Single rows."""
        return 1, self.shape[1]

    def fingerprint(self) -> str:
        """Return the path: a staged file is written once."""
        return self.path

    def write(self, blocks: Iterable[UInt8]) -> Iterator[UInt8]:
        """Write blocks of full rows, from first to last; yield each again when it is written."""
        y = 0
        with Path(self.path).open("wb") as file:
            for block in blocks:
                for band in range(self.shape[2]):
                    file.seek(self._position(band, y))
                    file.write(np.ascontiguousarray(block[..., band]).data)
                y += block.shape[0]
                yield block

    def read(self, windows: Sequence[Window]) -> Iterator[UInt8]:
        """Yield the block of each window, (height, width, bands)."""
        _, width, bands = self.shape
        with Path(self.path).open("rb") as file:
            for window in windows:
                block = np.empty((bands, window.height, width), np.uint8)
                for band in range(bands):
                    file.seek(self._position(band, window.y))
                    if file.readinto(block[band].reshape(-1).data) != block[band].size:
                        raise SourceError(f"{self.path}: a staged file was cut short; run again.")
                yield np.moveaxis(block, 0, -1)[:, window.columns]

    def _position(self, band: int, y: int) -> int:
        height, width, _ = self.shape
        return (band * height + y) * width

    def remove(self) -> None:
        """Delete the file; nothing happens if it is gone."""
        Path(self.path).unlink(missing_ok=True)
