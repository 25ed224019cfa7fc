"""Where a job writes in S3: what the output's URL means, what is refused, its workspace.

The workspace of ``s3://b/photo.png`` is ``s3://b/.photo.png.dkmeans``; that of a folder lies in the
folder. It holds the lock, and the parts of files. Nothing can be renamed in S3: files are joined
to their names, and the chunks of Zarr lie where they belong from the start, without metadata.
"""

import fnmatch
import glob
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from dkmeans import _stores
from dkmeans import _stores_objects as objects
from dkmeans._palette import Palette
from dkmeans._passes import BlockSource
from dkmeans._stores_locks import Lock, held
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError
from dkmeans.images import _destination, _store
from dkmeans.images._destination import SUFFIXES, Destination, as_path, max_colors, name_files
from dkmeans.images._manifest import Job
from dkmeans.images._notes import Journal
from dkmeans.images._outputs import Output
from dkmeans.images._outputs_objects import PngObject, TiffObject, ZarrObjects
from dkmeans.images._png import Compression
from dkmeans.images._sources import Found
from dkmeans.images._workspace import LOCK

_CHUNKS = "chunks"


class BucketSpace:
    """The workspace of an output in S3, which this process has locked; made by `opened`.

    Attributes
    ----------
    url
        Of the workspace.
    scratch
        A folder of this machine, for what is small.
    """

    def __init__(self, url: str, output: str, lock: Lock, scratch: Path, kind: str) -> None:
        self.url = url
        self.scratch = scratch
        self._output = output
        self._lock = lock
        self._kind = kind
        self._chunks = f"{url}/{_CHUNKS}"  # tells that chunks without metadata are ours
        self._has_chunks = False

    def begin_anew(self, *, overwrite: bool) -> None:
        """Remove what an interrupted job has left, and a store that is to be replaced.

        Raises
        ------
        OutputError
            If something lies where chunks would, and is none of ours.
        """
        self.sweep()
        if self._kind != "zarr":
            return
        refuse_store(self._output, overwrite=overwrite)
        objects.write(self._chunks, b"", replace=True)
        self._has_chunks = True
        objects.remove_below(self._output)

    def publish(self, documents: Mapping[str, bytes]) -> None:
        """Put the metadata of a store whose chunks are all there, those of the whole last."""
        self._lock.check()
        for name, data in documents.items():
            url = f"{self._output}/{name}"
            if objects.create(url, data) is None and objects.read(url) != data:
                raise OutputError(f"{url}: exists already, though this job had not written it.")
        self._has_chunks = False

    def sweep(self) -> None:
        """Remove parts, but not what tells that chunks lie elsewhere."""
        for name in objects.names_below(self.url) - {LOCK, _CHUNKS}:
            objects.remove(f"{self.url}/{name}")

    def leave(self) -> None:
        """Remove all that is not finished; what cannot be removed the next job will see to."""
        with suppress(OutputError, SourceError):
            self.sweep()
            if self._has_chunks:
                objects.remove_below(self._output)
            objects.remove(self._chunks)


def _workspace(output: str, kind: str) -> str:
    parent, _, name = output.rpartition("/")
    return f"{output if kind == 'folder' else parent}/.{name}.dkmeans"


@contextmanager
def opened(output: str, kind: str) -> Iterator[BucketSpace]:
    """Lock the workspace of an output; remove it at the end.

    Raises
    ------
    OutputError
        If another job has it, or it cannot be written.
    """
    url = _workspace(output, kind)
    with held(f"{url}/{LOCK}", output) as (lock, _), tempfile.TemporaryDirectory() as scratch:
        space = BucketSpace(url, output, lock, Path(scratch), kind)
        try:
            yield space
        finally:
            space.leave()


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
        self._documents: dict[str, bytes] = {}
        self._overwrite, self._scratch = False, ""

    is_local = False

    @property
    def max_colors(self) -> int:
        """How many colours the output can hold."""
        return max_colors(self.kind)

    def refuse_existing(
        self, found: Sequence[Found], *, overwrite: bool, resumed: Job | None = None
    ) -> None:
        """Refuse to replace what exists, unless that was asked for."""
        del resumed  # not yet supported
        if self.kind == "folder":
            there = objects.names_below(self.path)
            existing = sorted(f for i, f in self.files.items() if str(self._names[i]) in there)
        elif self.kind == "zarr":
            refuse_store(self.path, overwrite=overwrite)
            existing = []
        else:
            existing = [self.path] if objects.find(self.path) else []
        if existing and not overwrite:
            raise OutputError(f"{existing[0]}: exists already; choose another name, or overwrite.")
        sources = {image.path for image in found}
        for file in existing:
            if file in sources:
                raise OutputError(f"{file}: is also a source; choose another place.")

    def opened(self) -> Any:
        """Enter the workspace."""
        return opened(self.path, self.kind)

    def begin(
        self,
        space: BucketSpace,
        options: Mapping[str, Any],
        found: Sequence[Found],
        *,
        resume: bool,
        overwrite: bool,
    ) -> Job:
        """Begin a job."""
        del options, found
        self._overwrite, self._scratch = overwrite, space.url
        return begin(space, self.path, resume=resume, overwrite=overwrite)

    def published(self, job: Job) -> None:
        """Return None: no job is gone on with."""
        del job

    def outputs(
        self,
        job: Job,
        sources: Mapping[int, BlockSource],
        palette: Palette,
        compression: Compression,
    ) -> dict[int, Output]:
        """Return what takes the labels of each source."""
        del job
        result: dict[int, Output] = {}
        if self.kind != "zarr":
            form = TiffObject if self.kind == "tiff" else PngObject
            for index, source in sources.items():
                height, width, _ = source.shape
                places = self.files[index], self._scratch
                result[index] = form(*places, height, width, palette, compression, self._overwrite)
            return result
        drawn = _store.Blueprint()
        for index, source in sources.items():
            height, width, _ = source.shape
            _store.create_labels(drawn, self._array(index), (height, width), palette)
        self._documents = drawn.documents()
        for index, source in sources.items():
            array = self._array(index)
            document = self._documents[f"{array}/zarr.json".lstrip("/")]
            result[index] = ZarrObjects(self.path, array, source.shape[1], document)
        return result

    def finish(self, space: BucketSpace, job: Job, failed: Mapping[int, str]) -> None:
        """Put the metadata of a Zarr output, without the arrays of sources that failed."""
        del job
        if self.kind != "zarr":
            return
        arrays = [self._array(index) for index in failed if index in self.files]
        discard(self.path, arrays, self._documents)
        space.publish(self._documents)

    def _array(self, index: int) -> str:
        return self._names[index].as_posix() if self._names[index].name else ""


def discard(store: str, arrays: Sequence[str], documents: dict[str, bytes]) -> None:
    """Remove what is there of arrays of a store, and their metadata."""
    for array in filter(None, arrays):
        objects.remove_below(f"{store}/{array}")
        for name in [name for name in documents if name.startswith(f"{array}/")]:
            del documents[name]


class _NoJournal(Journal):
    """Notes nothing: no job is gone on with."""

    def file(self) -> Path:
        """Return a file that forgets."""
        return Path(os.devnull)


def begin(space: BucketSpace, output: str, *, resume: bool, overwrite: bool) -> Job:
    """Begin a job in a workspace.

    Raises
    ------
    InvalidArgumentError
        If an interrupted one is to be gone on with.
    """
    if resume:
        raise InvalidArgumentError(
            f"resume is not yet supported for outputs in S3 ({output}); run without it to start "
            "over."
        )
    space.begin_anew(overwrite=overwrite)
    job = Job(space.scratch, is_resumed=False, overwrite=overwrite)
    job.journal = _NoJournal("")
    return job


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


def refuse_store(url: str, *, overwrite: bool) -> None:
    """Do as `refuse_existing_store`, before the workspace is entered: ours may have been left."""
    if objects.find(f"{_workspace(url, 'zarr')}/{_CHUNKS}") is None or _store.is_marked(
        objects.listing(url).objects
    ):
        refuse_existing_store(url, overwrite=overwrite)


def refuse_existing_store(url: str, *, overwrite: bool) -> None:
    """Refuse to replace a store in S3 unless that was asked for, and anything else at all.

    Raises
    ------
    OutputError
        If so.
    """
    listing = objects.listing(url)
    if _store.is_marked(listing.objects):
        if not overwrite:
            raise OutputError(f"{url}: exists already; choose another name, or overwrite.")
    elif listing.objects or listing.folders or objects.find(url):
        raise OutputError(f"{url}: is no Zarr store, and is never overwritten; remove it.")


def target_of(output: str | Path, found: Sequence[Found], *, is_single: bool) -> Any:
    """Return the `Destination` or `Bucket` that the name of an output means."""
    kind = Bucket if _stores.is_url(output) else Destination
    return kind(str(output), found, is_single=is_single)


def refuse_among(name: str, output: str | Path, sources: Sequence[Path | str]) -> None:
    """Raise `OutputError` if the output that argument `name` gives is a source, or among sources.

    Raises
    ------
    InvalidArgumentError
        If it is no place.
    """
    if not _stores.is_url(output):
        _destination.refuse_among(as_path(name, output), sources)
        return
    url = str(output).rstrip("/")
    for source in sources:
        if not isinstance(source, str):
            continue
        place = source.rstrip("/")
        if url == place or (glob.has_magic(place) and fnmatch.fnmatchcase(url, place)):
            raise OutputError(f"{url}: is also a source; choose another name.")
        if url.startswith(f"{place}/"):
            raise OutputError(f"{url}: lies inside the source {source}; choose another place.")
