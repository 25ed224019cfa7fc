"""Pixels decoded once and kept on disk until the second pass, where decoding again is slower."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dkmeans._kernels import colours as kernels
from dkmeans._passes import BlockSource
from dkmeans._stores import writing
from dkmeans._summary import planes
from dkmeans._tiling import Window, reading_block
from dkmeans._validation import InvalidArgumentError, SourceError

UInt8 = npt.NDArray[np.uint8]

_DISK_SHARE = 0.5  # of the free disk may be used for staging


@dataclass(frozen=True)
class StagedSource:
    """A file of bare pixels, row by row. Implements `dkmeans._passes.BlockSource`.

    Attributes
    ----------
    path
        What was decoded: messages name it.
    shape
        (height, width, bands).
    file
        Where its pixels are.
    """

    path: str
    shape: tuple[int, int, int]
    file: str

    in_order = False
    dtype = np.dtype(np.uint8)

    @property
    def block(self) -> tuple[int, int]:
        """Single rows."""
        return 1, self.shape[1]

    @property
    def read_block(self) -> tuple[int, int]:
        """The windows in which it reads well: whole rows, a few MiB."""
        return reading_block(self.shape[1], self.block, self.shape[2])

    def fingerprint(self) -> str:
        """Return the file: it is written once."""
        return self.file

    def write(self, blocks: Generator[UInt8, None, None]) -> Generator[UInt8, None, None]:
        """Write blocks of full rows, from first to last; yield each again when it is written."""
        # The disk of the output may be another one.
        with closing(blocks), writing(self.file), Path(self.file).open("wb") as file:
            for block in blocks:
                file.write(interleaved(block).data)
                yield block

    def read(self, windows: Sequence[Window]) -> Generator[UInt8, None, None]:
        """Yield the block of each window, (height, width, bands).

        Raises
        ------
        SourceError
            If the file cannot be read to its end.
        """
        _, width, bands = self.shape
        staged = f"{self.path}: its decoded pixels, staged in {self.file},"
        try:
            with Path(self.file).open("rb") as file:
                for window in windows:
                    rows = np.empty((window.height, width, bands), np.uint8)
                    file.seek(window.y * width * bands)
                    if file.readinto(rows.reshape(-1).data) != rows.size:
                        raise SourceError(f"{staged} were cut short; run again.")
                    yield rows[:, window.columns]
        except OSError as error:
            raise SourceError(f"{staged} cannot be read ({error.strerror}); run again.") from error


def plan_staging(usable: Mapping[int, BlockSource], stage: Path) -> dict[int, StagedSource]:
    """Choose the sources to keep decoded: those read in order, while half the free disk lasts.

    Measured on photographs, writing and reading bare pixels takes a third of the time of
    decoding JPEG again, and less for PNG and WebP.
    """
    room = _DISK_SHARE * shutil.disk_usage(stage).free
    staged = {}
    for index, source in usable.items():
        height, width, bands = source.shape
        if source.in_order and height * width * bands <= room:
            room -= height * width * bands
            name = getattr(source, "path", f"source {index + 1}")  # as `Piece.where` has it
            file = str(stage / f"{index}.raw")
            staged[index] = StagedSource(name, (height, width, bands), file)
    return staged


@contextmanager
def staging_folder(
    wanted: str | Path | None, output: str | Path, scratch: Path | None
) -> Iterator[Path | None]:
    """Make the folder for decoded pixels, in a folder asked for or in `scratch`; remove it.

    If both are None there is none.

    How its name begins follows from that of the output, so that what a crash has left is found.

    Raises
    ------
    InvalidArgumentError
        If the folder asked for is none.
    OutputError
        If nothing can be made in it.
    """
    is_path = isinstance(wanted, str | os.PathLike)
    if wanted is not None and not (is_path and Path(wanted).is_dir()):
        raise InvalidArgumentError(f"staging is {str(wanted)!r}; it must be an existing folder.")
    place = scratch if wanted is None else Path(wanted)
    if place is None:
        yield None
        return
    hidden = "" if wanted is None else "."
    begin = f"{hidden}dkmeans-{hashlib.sha256(os.fsencode(output)).hexdigest()[:16]}"
    # Tasks of a job that was killed may still write: not into the folder of the next.
    folder = place / f"{begin}.{secrets.token_hex(8)}.staged"
    with writing(folder):
        for left in place.glob(f"{begin}.*.staged"):
            _remove(left)
        folder.mkdir()
    try:
        yield folder
    finally:
        with suppress(FileNotFoundError):  # it was swept
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder of staged pixels, with nothing else in it.

    A task that nobody could end may write to it by its name, so it gets another one first, by which
    it is found again too.
    """
    begin = folder.stem.rpartition(".")[0]
    aside = folder.rename(folder.with_name(f"{begin}.{secrets.token_hex(8)}.staged"))
    for file in aside.glob("*.raw"):
        file.unlink(missing_ok=True)
    aside.rmdir()


def interleaved(block: UInt8) -> UInt8:
    """Return a block, (height, width, 1 or 3), with the bands of a pixel side by side in memory."""
    if block.flags.c_contiguous or block.shape[2] == 1:
        return np.ascontiguousarray(block)
    pixels = np.empty(block.shape, np.uint8)
    kernels.interleave(*planes(block), pixels)
    return pixels
