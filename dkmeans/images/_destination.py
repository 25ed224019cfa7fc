"""Where a job writes: what the output's name means, and what is refused."""

import fnmatch
import glob
import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from dkmeans._palette import Palette
from dkmeans._passes import BlockSource
from dkmeans._stores import writing
from dkmeans._validation import MAX_COLORS, InvalidArgumentError, OutputError, SourceError
from dkmeans.images import _store
from dkmeans.images._outputs import Output, PngFile, TiffFile, ZarrLabels
from dkmeans.images._png import Compression
from dkmeans.images._sources import Found
from dkmeans.images._workspace import Workspace, place_of

_SUFFIXES = {".png": "png", ".tif": "tiff", ".tiff": "tiff", ".zarr": "zarr", "": "folder"}
_MAX_ZARR_COLORS = 1 << 16


class Destination:
    """The output of a job, checked before any work is done.

    Parameters
    ----------
    output
        A name ending in ``.png``, ``.tif``, ``.tiff`` or ``.zarr``, or a folder.
    found
        The sources.
    is_single
        Whether one picture was named; else only a folder or ``.zarr`` can take them all.
    overwrite
        Whether what exists may be replaced.

    Raises
    ------
    OutputError
        If the output exists, would lie among the sources, or its folder is missing.
    InvalidArgumentError
        If the name means nothing, or two sources would be written to one file.
    """

    def __init__(
        self, output: str | Path, found: Sequence[Found], *, is_single: bool, overwrite: bool
    ) -> None:
        self.path = Path(output).resolve()
        self.kind = kind_of(self.path)
        self._overwrite = overwrite
        if self.kind in ("png", "tiff") and not is_single:
            raise InvalidArgumentError(
                f"output is {str(output)!r}, which holds one picture, but the sources are "
                f"{_several(len(found))}; give a folder or a name ending in .zarr."
            )
        self._single = is_single
        self.files = self._name_files(found)
        self._refuse_existing(found)

    @property
    def max_colors(self) -> int:
        """How many colours the output can hold."""
        return _MAX_ZARR_COLORS if self.kind == "zarr" else MAX_COLORS

    def _name_files(self, found: Sequence[Found]) -> dict[int, Path]:
        """Return where each readable source goes, by index; a folder keeps the sources' tree.

        The suffix is replaced, or kept where names would clash without it.
        """
        if self._single and self.kind != "folder":
            return {i: self.path for i, f in enumerate(found) if f.source}
        names = {i: PurePosixPath(f.name) for i, f in enumerate(found) if f.source}
        suffix = ".png" if self.kind == "folder" else ""
        short = {i: name.with_suffix(suffix) for i, name in names.items()}
        taken = _taken(short.values())
        files = {
            i: short[i] if taken[short[i]] == 1 else name.with_name(name.name + suffix)
            for i, name in names.items()
        }
        taken = _taken(files.values())
        for file in files.values():
            if (n := taken[file]) > 1:
                raise InvalidArgumentError(
                    f"{n} sources would be written to {self.path / file}; name the folder that "
                    "holds them, or run them one by one."
                )
        return {i: self.path / file for i, file in files.items()}

    def _refuse_existing(self, found: Sequence[Found]) -> None:
        if self.kind == "folder":
            if self.path.exists() and not self.path.is_dir():
                raise OutputError(f"{self.path}: is a file; give a folder for several pictures.")
            existing = [file for file in self.files.values() if file.exists()]
        else:
            if not self.path.parent.is_dir():
                raise OutputError(f"{self.path.parent}: no such folder; create it first.")
            existing = [self.path] if self.path.exists() else []
        if existing and not self._overwrite:
            raise OutputError(f"{existing[0]}: exists already; choose another name, or overwrite.")
        refuse_overwriting(existing, found)
        for path in existing:
            if path.is_dir() and not (self.kind == "zarr" and _store.is_zarr(path)):
                raise OutputError(f"{path}: is a folder, which is never overwritten; remove it.")

    @property
    def workspace(self) -> Path:
        """The folder for all that is not finished."""
        return place_of(self.path, is_folder=self.kind == "folder")

    def outputs(
        self,
        scratch: Path,
        sources: Mapping[int, BlockSource],
        palette: Palette,
        compression: Compression,
    ) -> dict[int, Output]:
        """Return what takes the labels of each source."""
        result: dict[int, Output] = {}
        for index, source in sources.items():
            file = self.files[index]
            height, width, _ = source.shape
            if self.kind == "zarr":
                array = "" if file == self.path else file.relative_to(self.path).as_posix()
                _store.create_labels(scratch / "labels.zarr", array, (height, width), palette)
                result[index] = ZarrLabels(str(scratch / "labels.zarr"), array)
            else:
                form = TiffFile if self.kind == "tiff" else PngFile
                result[index] = form(str(file), str(scratch), height, width, palette, compression)
        return result

    def finish(self, space: Workspace, scratch: Path, failed: Mapping[int, str]) -> None:
        """Move a finished Zarr output into place, without the arrays of sources that failed."""
        if self.kind != "zarr":
            return
        labels = scratch / "labels.zarr"
        for index in failed:
            if index in self.files and self.files[index] != self.path:
                shutil.rmtree(labels / self.files[index].relative_to(self.path), ignore_errors=True)
        space.publish(labels, self.path)


def _taken(files: Collection[PurePosixPath]) -> Counter[PurePosixPath]:
    """Count how often each path is wanted, as a file or as a folder of files."""
    return Counter(files) + Counter({folder for file in files for folder in file.parents})


def as_path(name: str, path: Any) -> Path:
    """Return the argument `name` as a path.

    Raises
    ------
    InvalidArgumentError
        If it is no path.
    OutputError
        If it cannot be looked at.
    """
    if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
        raise InvalidArgumentError(f"{name} is {path!r}; it must be a path.")
    with writing(Path(path)):
        Path(path).exists()  # raises if it is too long, or in a folder that must not be entered
    return Path(path)


def kind_of(path: Path) -> str:
    """Return "png", "tiff", "zarr" or "folder", by the suffix.

    Raises
    ------
    InvalidArgumentError
        If the suffix is another one, and no such folder exists.
    """
    kind = _SUFFIXES.get(path.suffix.lower())
    if kind is None and path.is_dir():
        kind = "folder"
    if kind is None:
        raise InvalidArgumentError(
            f"output is {str(path)!r}; its name must end in .png, .tif, .tiff or .zarr, or be that "
            "of a folder."
        )
    return kind


def _several(n: int) -> str:
    return str(n) if n > 1 else "a folder or a pattern, which may hold several"


def refuse_failed(failures: Mapping[int, str], n_sources: int) -> None:
    """Raise `SourceError` if no source is left: with the reason, or the first of several."""
    if len(failures) == n_sources:
        others = f" ({n_sources - 1} other sources failed too.)" if n_sources > 1 else ""
        raise SourceError(failures[min(failures)] + others)


def refuse_overwriting(outputs: Sequence[Path], found: Sequence[Found]) -> None:
    """Raise `OutputError` if a file to be overwritten is one of the images found."""
    if not outputs:
        return
    places = {Path(image.path).resolve() for image in found if image.source}
    for path in outputs:
        if path.resolve() in places:
            raise OutputError(f"{path}: is also a source; choose another place.")


def refuse_among(path: Path, sources: Sequence[Path | str]) -> None:
    """Raise `OutputError` if an output is one of the sources or lies in a source folder."""
    real = path.resolve()
    for source in sources:
        if isinstance(source, str):  # a URL
            continue
        place = source.resolve()
        if real == place:
            raise OutputError(f"{path}: is also a source; choose another name.")
        is_pattern = glob.has_magic(str(source)) and not source.exists()
        if is_pattern and fnmatch.fnmatchcase(str(real), str(place)):
            raise OutputError(
                f"{path}: matches {source}, and so is also a source; choose another place."
            )
        if place.is_dir() and real.is_relative_to(place):
            raise OutputError(f"{path}: lies inside the source {source}; choose another place.")
