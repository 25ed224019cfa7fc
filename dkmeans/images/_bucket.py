"""Where a job writes in S3: what the output's URL means, what is refused, its workspace.

The workspace of ``s3://b/photo.png`` is ``s3://b/.photo.png.dkmeans``; that of a folder lies in the
folder. It holds the lock, what tells of the job, and the parts of files. Nothing can be renamed in
S3: files are joined to their names, and the chunks of Zarr lie where they belong from the start,
without metadata.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

from dkmeans import _stores_objects as objects
from dkmeans._palette import Palette
from dkmeans._passes import BlockSource
from dkmeans._stores_locks import Lock, held
from dkmeans._stores_uploads import abort
from dkmeans._validation import InvalidArgumentError, OutputError
from dkmeans.images import _store, _store_state
from dkmeans.images._deflate import Compression
from dkmeans.images._destination import (
    SUFFIXES,
    finished,
    labels_of,
    name_files,
    nothing_more,
    refuse_unasked,
)
from dkmeans.images._manifest import JOB, Job
from dkmeans.images._outputs import Output
from dkmeans.images._outputs_objects import PngObject, TiffObject
from dkmeans.images._places import refuse_replacing
from dkmeans.images._site import Site
from dkmeans.images._sources import Found
from dkmeans.images._store_source import is_marked
from dkmeans.images._workspace import LOCK, used

_CHUNKS = "chunks"  # tells that chunks without metadata are ours

_log = logging.getLogger("dkmeans")


class BucketSpace:
    """The workspace of an output in S3, which this process has locked; made by `Bucket.opened`.

    Parameters
    ----------
    url, lock, kind
        Where it is, the lock in it, and the kind of output.
    own
        The URLs to which this job alone writes.

    Attributes
    ----------
    path
        Its URL.
    is_kept, can_resume
        As in `Swept`.
    """

    def __init__(self, url: str, lock: Lock, kind: str, own: Collection[str]) -> None:
        self.path = url
        self.is_kept: Callable[[], bool] = lambda: False
        self.can_resume = False
        self._lock = lock
        self._kind = kind
        self._own = own

    def check(self) -> None:
        """Raise if another job has taken the workspace over, while this process was suspended."""
        self._lock.check()

    def begin_anew(self, output: str) -> None:
        """Remove what an interrupted job has left, and say so."""
        if objects.names_below(self.path) - {LOCK}:
            self.sweep(output)
            _log.warning("%s: what an interrupted job had left is removed.", output)

    def make_run(self, name: str) -> None:
        """Do nothing: there are no folders."""

    def has_run(self, name: str) -> bool:  # noqa: ARG002 - a `Space`'s
        """Return True: there are no folders."""
        return True

    def publish(self, output: str, documents: Mapping[str, bytes]) -> None:
        """Put the metadata of a store whose chunks are all there, those of the whole last."""
        for name, data in documents.items():
            if "/" not in name:
                self.check()  # now the store becomes whole
            url = f"{output}/{name}"
            if objects.create(url, data) is None and objects.read(url) != data:
                raise OutputError(f"{url}: exists already, though this job had not written it.")

    def sweep(self, output: str) -> None:
        """Remove all but the lock, and the chunks of a store that has no metadata."""
        self.check()
        # First what tells of a job: whoever is killed from here on leaves nothing to go on with.
        objects.remove(f"{self.path}/{JOB}")
        abort({self.path, *self._own})
        objects.remove_below(self.path, keep=(LOCK, _CHUNKS))
        chunks = f"{self.path}/{_CHUNKS}"
        if self._kind == "zarr" and objects.exists(chunks):
            if not is_marked(objects.listing(output).objects):
                objects.remove_below(output)
            objects.remove(chunks)


def _workspace(output: str, kind: str) -> str:
    parent, _, name = output.rpartition("/")
    return f"{output if kind == 'folder' else parent}/.{name}.dkmeans"


class Bucket:
    """The output of a job in S3, checked before any work is done; as `Destination` is.

    Parameters
    ----------
    output
        A URL ending in ``.png``, ``.tif``, ``.tiff``, ``.zarr`` or, for a folder, in a slash or
        without a suffix.
    found
        The sources.
    is_single
        Whether one picture was named.
    """

    def __init__(self, output: str, found: Sequence[Found], *, is_single: bool) -> None:
        self.path, self.kind = place_of(output)
        names = name_files(output, self.kind, found, is_single=is_single)
        self._names = names
        self.files = {
            i: f"{self.path}/{name}" if name.name else self.path for i, name in names.items()
        }
        self._drawn: _store.Blueprint | None = None

    def refuse_existing(
        self, found: Sequence[Found], *, overwrite: bool, resumed: Job | None = None
    ) -> None:
        """Refuse to replace what exists, unless that was asked for; as `Destination` does."""
        own = finished(self, resumed) if resumed else set()
        existing = sorted(self._existing() - own)
        refuse_unasked(self, existing, found, overwrite=overwrite, resumed=resumed)
        refuse_replacing(existing, found)

    def _existing(self) -> set[str]:
        """Return the objects of the output that are there, or the store."""
        if self.kind == "folder":
            there = objects.names_below(self.path)
            return {file for i, file in self.files.items() if str(self._names[i]) in there}
        if self.kind != "zarr":
            return {self.path} if objects.find(self.path) else set()
        if is_marked(objects.listing(self.path).objects):
            return {self.path}
        # Some servers list folders whose last object is gone: only objects count.
        is_there = objects.names_below(self.path) or objects.find(self.path)
        # Chunks without metadata may be those of a job that was interrupted.
        if is_there and not objects.exists(f"{_workspace(self.path, self.kind)}/{_CHUNKS}"):
            raise OutputError(
                f"{self.path}: is no Zarr store, and is never overwritten; remove it."
            )
        return set()

    @contextmanager
    def opened(self) -> Iterator[BucketSpace]:
        """Lock the workspace; remove it at the end.

        Raises
        ------
        OutputError
            If another job has it, or it cannot be written.
        """
        url = _workspace(self.path, self.kind)
        # Others may write into the folder: there only files that are to have our names are ours.
        own = self.files.values() if self.kind == "folder" else [self.path]
        with held(f"{url}/{LOCK}", self.path) as lock:
            yield from used(BucketSpace(url, lock, self.kind, own), self.path)

    def published(self, job: Job) -> bool:
        """Return whether the metadata of a Zarr output were about to be put."""
        return job.publication() is not None

    def room(self, job: Job) -> None:
        """Return None: there is no disk."""

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
        result: dict[int, Output] = {}
        form = TiffObject if self.kind == "tiff" else PngObject
        for index, source in sources.items():
            height, width, _ = source.shape
            places = self.files[index], str(job.folder)
            result[index] = form(*places, height, width, palette, compression, job.overwrite)
        return result

    def lay_out(self, job: Job, draw: Callable[[_store.Root], None]) -> Site:
        """Return the store under construction; what was there is removed when that begins."""
        drawn = _store.Blueprint()
        draw(drawn)
        if not job.is_laid_out:
            job.check()
            _clear(self.path)
            job.laid_out()
        self._drawn = drawn
        return Site(self.path, drawn)

    def finish(
        self,
        space: BucketSpace,
        job: Job,
        failed: Mapping[int, str],
        arrays: Sequence[str] = (),
        complete: Callable[[_store.Root], None] = nothing_more,
    ) -> None:
        """Put the metadata of a Zarr output, without the arrays of sources that failed.

        `arrays` are some that are to go too; `complete` adds the last of the metadata.
        """
        if self._drawn is None:  # files have their names already
            return
        job.check()
        job.publishing(failed)
        complete(self._drawn)
        documents = self._drawn.documents()
        for array in filter(None, [*arrays, *(self._array(i) for i in failed if i in self.files)]):
            objects.remove_below(f"{self.path}/{array}")
            for name in [name for name in documents if name.startswith(f"{array}/")]:
                del documents[name]
        space.publish(self.path, documents)

    def _array(self, index: int) -> str:
        return self._names[index].as_posix() if self._names[index].name else ""


def _clear(output: str) -> None:
    """Remove what is there of a store, so that chunks can come; its metadata first."""
    objects.write(f"{_workspace(output, 'zarr')}/{_CHUNKS}", b"", replace=True)
    for name in _store_state.MARKERS:
        objects.remove(f"{output}/{name}")
    objects.remove_below(output)


def place_of(output: str) -> tuple[str, str]:
    """Return the URL of an output, without a slash at its end, and its kind.

    Raises
    ------
    InvalidArgumentError
        If it is no URL of S3, or its suffix is none of those known.
    """
    bucket, key = objects.place(output)
    kind = SUFFIXES.get(PurePosixPath(key).suffix.lower())
    if output.endswith("/") and kind != "zarr":
        kind = "folder"
    if kind is None or (not key and kind != "folder"):
        raise InvalidArgumentError(
            f"output is {output!r}; its name must end in .png, .tif, .tiff or .zarr, or be that of "
            "a folder, with / at its end."
        )
    return f"s3://{bucket}/{key}".rstrip("/"), kind
