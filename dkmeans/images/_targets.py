"""The output of a job, on the disk or in S3: what both are for those who write to them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dkmeans import _stores
from dkmeans._palette import Palette
from dkmeans._passes import BlockSource
from dkmeans.images import _destination
from dkmeans.images._deflate import Compression
from dkmeans.images._destination import Destination, nothing_more
from dkmeans.images._manifest import Job, Space, begin
from dkmeans.images._outputs import Output
from dkmeans.images._site import Site
from dkmeans.images._sources import Found
from dkmeans.images._store import Root

S = TypeVar("S", bound=Space)


class Target(Protocol[S]):
    """The output of a job, checked before any work is done; with a workspace of type S."""

    kind: str

    @property
    def path(self) -> str | Path:
        """The output."""

    @property
    def files(self) -> Mapping[int, str | Path]:
        """The finished file of each source that can be read, by index."""

    def refuse_existing(
        self, found: Sequence[Found], *, overwrite: bool, resumed: Job | None = None
    ) -> None:
        """Refuse to replace what exists, unless that was asked for, or the job has made it."""

    def opened(self) -> AbstractContextManager[S]:
        """Enter the workspace, and lock it; of two jobs the second is refused."""

    def published(self, job: Job) -> bool:
        """Return whether a Zarr output is finished, or all but."""

    def room(self, job: Job) -> Path | None:
        """Return a folder for what is large and soon removed, if there is one."""

    def outputs(
        self,
        job: Job,
        sources: Mapping[int, BlockSource],
        palette: Palette,
        compression: Compression,
    ) -> dict[int, Output]:
        """Return what takes the labels of each source."""

    def lay_out(self, job: Job, draw: Callable[[Root], None]) -> Site:
        """Return a store under construction, whose arrays `draw` makes."""

    def finish(
        self,
        space: S,
        job: Job,
        failed: Mapping[int, str],
        arrays: Sequence[str] = (),
        complete: Callable[[Root], None] = nothing_more,
    ) -> None:
        """Let a Zarr output appear, without the arrays of sources that failed, and those named.

        `complete` adds the last of its metadata.
        """


def target_of(output: str | Path, found: Sequence[Found], *, is_single: bool) -> Target[Any]:
    """Return what the name of an output means."""
    if _stores.is_url(output):
        from dkmeans.images._bucket import Bucket  # noqa: PLC0415 - for S3 alone

        return Bucket(str(output), found, is_single=is_single)
    return Destination(output, found, is_single=is_single)


def kind_of(output: str | Path) -> str:
    """Return "png", "tiff", "zarr" or "folder": what the name of an output means.

    Raises
    ------
    InvalidArgumentError
        If it means nothing.
    """
    if _stores.is_url(output):
        from dkmeans.images import _bucket  # noqa: PLC0415 - for S3 alone

        return _bucket.place_of(str(output))[1]
    return _destination.kind_of(Path(output))


@contextmanager
def entered(
    target: Target[S],
    options: Mapping[str, Any],
    found: Sequence[Found],
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator[tuple[S, Job]]:
    """Enter the workspace of an output and begin a job in it, or go on with one.

    What exists and must not be replaced is refused before anything is changed, and once more when
    nobody else can write: another job may just have ended, or died when it had put aside what was
    there, which is then put back.
    """
    if not resume:
        target.refuse_existing(found, overwrite=overwrite)
    with target.opened() as space:
        job = begin(space, target.path, options, found, resume=resume, overwrite=overwrite)
        resumed = job if resume else None
        target.refuse_existing(found, overwrite=job.overwrite, resumed=resumed)
        yield space, job
