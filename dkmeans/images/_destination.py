"""Where a job writes: what the output's name means, and what is refused."""

import shutil
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from dkmeans import _stores
from dkmeans._palette import Palette
from dkmeans._passes import BlockSource
from dkmeans._stores import sync_files, writing
from dkmeans._tiling import grid
from dkmeans._validation import (
    MAX_COLORS,
    CompleteError,
    InvalidArgumentError,
    OutputError,
    SourceError,
)
from dkmeans.images import _store
from dkmeans.images._deflate import Compression
from dkmeans.images._manifest import Job
from dkmeans.images._outputs import Output, PngFile, TiffFile, ZarrLabels
from dkmeans.images._places import refuse_replacing
from dkmeans.images._site import Site
from dkmeans.images._sources import Found
from dkmeans.images._store_source import is_zarr
from dkmeans.images._workspace import Workspace, opened, place_of

P = TypeVar("P", bound=_stores.Place)

_STORE = "store.zarr"  # under construction
SUFFIXES = {".png": "png", ".tif": "tiff", ".tiff": "tiff", ".zarr": "zarr", "": "folder"}
_MAX_ZARR_COLORS = 1 << 16


def nothing_more(root: _store.Root) -> None:
    """Add nothing to a store."""


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

    Raises
    ------
    OutputError
        If the output is a file where a folder is wanted, or its folder is missing.
    InvalidArgumentError
        If the name means nothing, or two sources would be written to one file.
    """

    def __init__(self, output: str | Path, found: Sequence[Found], *, is_single: bool) -> None:
        self.path = Path(_stores.absolute(output))
        self.kind = kind_of(Path(output))  # what a link leads to may have any name
        names = name_files(output, self.kind, found, is_single=is_single)
        self.files = {index: self.path / name for index, name in names.items()}
        if self.kind != "folder" and not self.path.parent.is_dir():
            raise OutputError(f"{self.path.parent}: no such folder; create it first.")
        if self.kind == "folder" and self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path}: is a file; give a folder for several pictures.")

    def refuse_existing(
        self, found: Sequence[Found], *, overwrite: bool, resumed: Job | None = None
    ) -> None:
        """Refuse to replace what exists, unless that was asked for.

        Parameters
        ----------
        found
            The sources, which are never replaced.
        overwrite
            Whether what exists may be replaced.
        resumed
            The job to go on with, if that was asked for; what it has finished may be there.

        Raises
        ------
        CompleteError
            If all is there and nothing was interrupted.
        OutputError
            If something exists.
        """
        wanted = set(self.files.values()) if self.kind == "folder" else {self.path}
        own = finished(self, resumed) if resumed else set()
        existing = sorted(path for path in wanted - own if path.exists())
        refuse_unasked(self, existing, found, overwrite=overwrite, resumed=resumed)
        refuse_replacing(existing, found)
        for path in existing:
            if self.kind == "zarr" and not is_zarr(path):
                raise OutputError(f"{path}: is no Zarr store, and is never overwritten; remove it.")
            if self.kind != "zarr" and path.is_dir():
                raise OutputError(f"{path}: is a folder, which is never overwritten; remove it.")

    def published(self, job: Job) -> bool:
        """Return whether a job has moved a Zarr output into place."""
        return job.published(Path(job.folder, _STORE), self.path)

    def room(self, job: Job) -> Path:
        """Return a folder on the same disk, for what is large and soon removed."""
        return Path(job.folder)

    @contextmanager
    def opened(self) -> Iterator[Workspace]:
        """Enter the folder for all that is not finished."""
        place = place_of(self.path, is_folder=self.kind == "folder")
        with opened(place, self.path) as space, writing(self.path):
            yield space

    def outputs(
        self,
        job: Job,
        sources: Mapping[int, BlockSource],
        palette: Palette,
        compression: Compression,
    ) -> dict[int, Output]:
        """Return what takes the labels of each source."""
        if self.kind == "zarr":
            return labels_of(self.lay_out, self._array, job, sources, palette)
        form = TiffFile if self.kind == "tiff" else PngFile
        result: dict[int, Output] = {}
        for index, source in sources.items():
            height, width, _ = source.shape
            place = str(self.files[index]), str(job.folder)
            result[index] = form(*place, height, width, palette, compression)
        return result

    def lay_out(self, job: Job, draw: Callable[[_store.Root], None]) -> Site:
        """Return the store under construction; `draw` makes its arrays, if it has none yet."""
        made = Path(job.folder, _STORE)
        if self.published(job):
            made = self.path
        elif not job.is_laid_out:
            shutil.rmtree(made, ignore_errors=True)
            draw(made)
            job.laid_out()
        return Site(str(made), made)

    def _array(self, index: int) -> str:
        file = self.files[index]
        return "" if file == self.path else file.relative_to(self.path).as_posix()

    def finish(
        self,
        space: Workspace,
        job: Job,
        failed: Mapping[int, str],
        arrays: Sequence[str] = (),
        complete: Callable[[_store.Root], None] = nothing_more,
    ) -> None:
        """Move a finished Zarr output into place, without the arrays of sources that failed.

        `arrays` are some that are to go too; `complete` adds the last of its metadata.

        Files have their names already; here they are kept from a loss of power, all at once: one
        by one, while others are written, each would wait for the disk.
        """
        if self.kind != "zarr":
            sync_files([file for index, file in self.files.items() if index not in failed])
            return
        if self.published(job):
            return
        job.publishing(failed)  # first: who goes on tries no source again whose array is gone
        made = Path(job.folder, _STORE)
        for array in filter(None, [*arrays, *(self._array(i) for i in failed if i in self.files)]):
            shutil.rmtree(made / array, ignore_errors=True)
        complete(made)
        space.publish(made, self.path)


def labels_of(
    lay_out: Callable[[Job, Callable[[_store.Root], None]], Site],
    name: Callable[[int], str],
    job: Job,
    sources: Mapping[int, BlockSource],
    palette: Palette,
) -> dict[int, Output]:
    """Return arrays of labels, by index of the source, in a store that is laid out for them."""

    def draw(root: _store.Root) -> None:
        for index, source in sources.items():
            _store.create_labels(root, name(index), (source.shape[0], source.shape[1]), palette)

    site = lay_out(job, draw)
    return {
        index: ZarrLabels(site.place, name(index), source.shape[1], site.document(name(index)))
        for index, source in sources.items()
    }


class Numbered(Protocol[P]):
    """What `finished` must know of an output."""

    kind: str
    path: P
    files: dict[int, P]

    def published(self, job: Job) -> bool:
        """Return whether it is a Zarr output that has its name."""


def finished(target: Numbered[P], job: Job) -> set[P]:
    """Return which of an output's files are there as a job has finished them."""
    if target.kind == "zarr":
        return {target.path} if target.published(job) else set()
    return {target.files[index] for index in job.finished(target.files)}


def max_colors(kind: str) -> int:
    """Return how many colours an output of a kind can hold."""
    return _MAX_ZARR_COLORS if kind == "zarr" else MAX_COLORS


def name_files(
    output: str | Path, kind: str, found: Sequence[Found], *, is_single: bool
) -> dict[int, PurePosixPath]:
    """Return where in the output each readable source goes, by index; it keeps the sources' tree.

    That is nowhere in it if it is an output for this source alone. The suffix is replaced, or kept
    where names would clash without it.

    Raises
    ------
    InvalidArgumentError
        If the output cannot take them all, one has a name that it cannot take, or two would be
        written to one file.
    """
    if kind in ("png", "tiff") and not is_single:
        raise InvalidArgumentError(
            f"output is {str(output)!r}, which holds one picture, but the sources are "
            f"{_several(len(found))}; give a folder or a name ending in .zarr."
        )
    if is_single and kind != "folder":
        return {i: PurePosixPath() for i, f in enumerate(found) if f.source}
    if kind == "zarr":
        _refuse_as_arrays(found)
    names = {i: PurePosixPath(f.name) for i, f in enumerate(found) if f.source}
    suffix = ".png" if kind == "folder" else ""
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
                f"{n} sources would be written to {str(output).rstrip('/')}/{file}; name the "
                "folder that holds them, or run them one by one."
            )
    return files


def _refuse_as_arrays(found: Sequence[Found]) -> None:
    """Raise `InvalidArgumentError` if a picture has a name, or a folder, that no array can have.

    A file of Zarr's own has one, parts of dots alone lead elsewhere, and Zarr takes a backslash for
    a slash. Names are looked at with and without their suffix.
    """
    for name, place in ((PurePosixPath(image.name), image.path) for image in found if image.source):
        parts = {*name.parts, name.name.rpartition(".")[0] or name.name}
        if "\\" in str(name) or any(part == "zarr.json" or not part.strip(".") for part in parts):
            raise InvalidArgumentError(
                f"{place}: no Zarr array can have the name {str(name)!r}; rename it, or give a "
                "folder as the output."
            )


def _taken(files: Collection[PurePosixPath]) -> Counter[PurePosixPath]:
    """Count how often each path is wanted, as a file or as a folder of files."""
    return Counter(files) + Counter({folder for file in files for folder in file.parents})


def kind_of(path: Path) -> str:
    """Return "png", "tiff", "zarr" or "folder", by the suffix.

    Raises
    ------
    InvalidArgumentError
        If the suffix is another one, and no such folder exists.
    """
    kind = SUFFIXES.get(path.suffix.lower())
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


def refuse_unasked(
    target: Numbered[P],
    existing: Sequence[P],
    found: Sequence[Found],
    *,
    overwrite: bool,
    resumed: Job | None,
) -> None:
    """Raise `OutputError` if some of an output exists and is not to be replaced.

    A job that was to be resumed, but had not been interrupted, has nothing to do if all is there
    but for pictures that cannot be read.
    What one that was interrupted has not noted may be somebody else's.
    """
    if not existing or overwrite:
        return
    if resumed is not None and resumed.is_resumed:
        raise OutputError(
            f"{existing[0]}: exists already, and not as the interrupted job has noted it; move it "
            "away, or overwrite."
        )
    there = set(existing)
    missing = [
        found[index].source
        for index, file in target.files.items()
        if target.kind == "folder" and file not in there
    ]
    if resumed is not None and not any(source and _is_sound(source) for source in missing):
        failed = f" but for {len(missing)} of the sources, which cannot be read" if missing else ""
        raise CompleteError(
            f"{target.path}: is there{failed}, and no job on it was interrupted; nothing to resume."
        )
    raise OutputError(f"{existing[0]}: exists already; choose another name, or overwrite.")


def _is_sound(source: BlockSource) -> bool:
    """Return whether a source can be read to its end."""
    windows = grid(source.shape[0], source.shape[1], source.read_block)
    try:
        with closing(source.read(windows)) as blocks:
            deque(blocks, maxlen=0)
    except SourceError:
        return False
    return True
