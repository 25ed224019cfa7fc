"""What the user names as sources: files, folders, globs and Zarr, expanded to single images."""

import glob
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from dkmeans import _stores
from dkmeans._passes import BlockSource
from dkmeans._validation import InvalidArgumentError, SourceError, check_place
from dkmeans.images import _objects, _raster, _store_source

_REQUESTS = 16  # headers of objects read at a time

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Found:
    """One image, or what should be one.

    Attributes
    ----------
    path
        Where it lies, as told to the user.
    name
        Its path relative to the folder or store that was named: where its output goes.
    source
        The pixels, or None if they cannot be read.
    error
        Why they cannot be read.
    nbytes
        The bytes that the image takes where it lies; of Zarr those of its pixels.
    """

    path: str
    name: str
    source: BlockSource | None
    error: str | None
    nbytes: int


@dataclass(frozen=True)
class SourceReport:
    """What became of one source.

    Attributes
    ----------
    source
        Its path.
    output
        The path of its output, or None if it failed.
    error
        Why it failed, or None.
    height, width
        In pixels; 0 if the header could not be read.
    bytes_in, bytes_out
        The sizes of source and output in bytes, as stored; of a source in Zarr, and of what
        `ingest` writes, the bytes of the pixels.
    """

    source: str
    output: str | None
    error: str | None
    height: int
    width: int
    bytes_in: int
    bytes_out: int


def report(
    found: Sequence[Found],
    files: Mapping[int, Path | str],
    failures: Mapping[int, str],
    sizes: Mapping[int, int],
) -> tuple[SourceReport, ...]:
    """Tell what became of each source, given by index: outputs, reasons, sizes of the outputs."""
    reports = []
    for index, image in enumerate(found):
        error = failures.get(index)
        height, width = image.source.shape[:2] if image.source else (0, 0)
        output = None if error else str(files[index])
        size = sizes.get(index, 0)
        reports.append(SourceReport(image.path, output, error, height, width, image.nbytes, size))
    return tuple(reports)


def as_list(sources: Paths) -> list[Path | str]:
    """Return the sources as paths, those in S3 as URLs.

    Raises
    ------
    InvalidArgumentError
        If there is none, or one is no path.
    SourceError
        If a path cannot be looked at: too long, or in a folder that must not be entered.
    """
    if not isinstance(sources, os.PathLike | Iterable) or isinstance(sources, bytes):
        raise InvalidArgumentError(f"sources is {sources!r}; it must be a path, or several.")
    paths = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not paths:
        raise InvalidArgumentError("sources is empty; give files, folders, globs or Zarr arrays.")
    for path in paths:
        check_place("a source", path)
        if _stores.is_url(path):
            continue
        try:
            Path(path).is_dir()
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}).") from error
    return [str(path) if _stores.is_url(path) else Path(path) for path in paths]


def find(sources: Paths) -> list[Found]:
    """Expand sources to images and probe each, in the order given; folders in sorted order.

    A folder is searched to any depth for the suffixes of `_raster.SUFFIXES` and for Zarr, also in
    S3; links to other folders are followed. What cannot be read is listed with the reason; what
    has another suffix is passed over.
    """
    found: list[Found] = []
    for path in as_list(sources):
        found.extend(_expand_url(path) if isinstance(path, str) else _expand(path))
    return found


def is_single(sources: Paths) -> bool:
    """Return whether the sources are one file or array, not a folder, glob or several."""
    first, *others = as_list(sources)
    if others:
        return False
    if isinstance(first, Path):
        return not _is_collection(first)
    with suppress(SourceError):  # it is told when the sources are probed
        return not _objects.is_collection(first)
    return True


def _is_collection(path: Path) -> bool:
    return _is_pattern(path) or _is_folder(path)


def _is_pattern(path: Path) -> bool:
    return glob.has_magic(str(path)) and not path.exists()


def _is_folder(path: Path) -> bool:
    # Unlike Path.is_dir, this is False too for what must not be looked at.
    return os.path.isdir(path) and not _store_source.is_zarr(path)  # noqa: PTH112


def _expand(path: Path) -> Iterator[Found]:
    if not _is_pattern(path):
        yield from _expand_one(path)
        return
    members = set(_matching(path))
    if not members:
        yield _failed(path, path.name, "nothing matches this pattern.")
    # Not as patterns: what they name may be gone, as where a link leads.
    for member in _stores.outermost(members):
        yield from _expand_one(Path(member))


def _matching(pattern: Path) -> Iterator[str]:
    """Yield what a pattern matches, `**` any folders, but what is hidden."""
    if "**" not in pattern.parts:
        yield from glob.glob(str(pattern))  # noqa: PTH207 - skips what is hidden
        return
    at = pattern.parts.index("**")
    before, after = Path(*pattern.parts[:at]), pattern.parts[at + 1 :]
    for start in glob.glob(str(before)):  # noqa: PTH207 - as above
        folders = (root for root, _, _ in _folders(start)) if after else [start]
        for folder in folders:
            yield from _matching(Path(glob.escape(folder), *after))


def _expand_one(path: Path) -> Iterator[Found]:
    """Yield what is at a path: a picture, a store, or what is in a folder."""
    if _is_folder(path):
        members = list(_walk(path))
        if not members:
            yield _failed(
                path, path.name, f"no images in this folder ({' '.join(_raster.SUFFIXES)})."
            )
        for member in members:
            yield from _probe(member, member.relative_to(path).as_posix())
    else:
        known = path.name not in ("", "..")  # "" is the current folder
        yield from _probe(path, path.name if known else path.resolve().name)


def _expand_url(url: str) -> list[Found]:
    members = list(_objects.expand(url, _raster.SUFFIXES))
    with ThreadPoolExecutor(_REQUESTS) as threads:  # each waits for the network
        return [found for probed in threads.map(_probe_member, members) for found in probed]


def _probe_member(member: _objects.Member) -> list[Found]:
    nbytes = 0 if member.state is None else member.state[0]
    if member.error is not None:
        return [Found(member.url, member.name, None, member.error, nbytes)]
    try:
        if member.state is None:
            return list(_probe_zarr(member.url, member.name))
        source = _raster.probe(member.url, member.state)
    except SourceError as error:
        return [Found(member.url, member.name, None, str(error), nbytes)]
    return [Found(member.url, member.name, source, None, nbytes)]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield images, stores and, last, folders that cannot be read. Links are followed once."""
    closed: list[Path] = []
    for root, folders, files in _folders(folder, lambda e: closed.append(Path(e.filename))):
        stores = [f for f in folders if _store_source.is_zarr(Path(root, f))]
        folders[:] = [f for f in folders if f not in stores]
        for name in sorted([*stores, *files]):
            is_image = name in stores or PurePath(name).suffix.lower() in _raster.SUFFIXES
            if is_image and not name.startswith("."):
                yield Path(root, name)
    yield from closed


def _folders(
    top: str | Path, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk as `os.walk` does, but in order, past hidden folders, and along each link once."""
    gone_through = [Path(os.path.realpath(top))]
    for root, folders, files in os.walk(top, onerror=onerror, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield str(root), folders, files
        folders[:] = [f for f in folders if _leads_on(str(root), f, gone_through)]


def _leads_on(root: str, name: str, gone_through: list[Path]) -> bool:
    """Return whether a folder is no link, or one to where nobody goes otherwise; note where."""
    # Unlike Path.is_symlink, this is False too for what must not be looked at.
    if not os.path.islink(Path(root, name)):  # noqa: PTH114
        return True
    place = Path(os.path.realpath(Path(root, name)))
    above = Path(os.path.realpath(root)).is_relative_to(place)
    if above or any(place.is_relative_to(other) for other in gone_through):
        return False
    gone_through.append(place)
    return True


def _probe(path: Path, name: str) -> Iterator[Found]:
    nbytes = 0
    try:
        nbytes = path.stat().st_size if path.is_file() else 0
        if path.is_dir():
            os.scandir(path).close()  # raises if it must not be read
            yield from _probe_zarr(path, name)
        elif path.exists() and not path.is_file():
            yield _failed(path, name, "not a regular file.")
        else:
            yield Found(str(path), name, _raster.probe(path), None, nbytes)
    except SourceError as error:
        yield Found(str(path), name, None, str(error), nbytes)
    except OSError as error:
        yield _failed(path, name, f"cannot be read ({error.strerror}).")


def _probe_zarr(path: Path | str, name: str) -> Iterator[Found]:
    for inner, source in _store_source.probe(path):
        place = path
        if inner:
            place = f"{path}/{inner}" if isinstance(path, str) else path / inner
        if inner and not _is_inside(inner):
            yield _failed(place, inner, "its name is that of no file inside an output folder.")
        else:
            yield Found(str(place), inner or name, source, None, math.prod(source.shape))


def _is_inside(name: str) -> bool:
    """Return whether a name that was read somewhere is that of a file in or below a folder."""
    path = PurePosixPath(name)
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return bool(path.name) and not path.is_absolute() and not {"..", "\0"} & {*path.parts, *name}


def _failed(path: Path | str, name: str, reason: str) -> Found:
    return Found(str(path), name, None, f"{path}: {reason}", 0)


@dataclass(frozen=True)
class ImageInfo:
    """What the header of a picture tells.

    Attributes
    ----------
    path
        Where it lies.
    format
        "JPEG", "PNG", "WEBP", "GTiff" (any TIFF) or "Zarr".
    height, width, bands, dtype
        Of the pixels.
    block
        The height and width in which they are stored.
    in_order
        Whether they can only be read from first to last.
    bytes_stored, bytes_decoded
        The size of the file, of Zarr that of the pixels; and of the pixels in memory.
    """

    path: str
    format: str
    height: int
    width: int
    bands: int
    dtype: str
    block: tuple[int, int]
    in_order: bool
    bytes_stored: int
    bytes_decoded: int


def info(path: str | Path) -> list[ImageInfo]:
    """Read the headers of a picture, or of each picture of a folder, glob or store.

    Raises
    ------
    SourceError
        If a picture cannot be read, or holds what is not yet supported.
    """
    infos, errors = headers(path)
    if errors:
        raise errors[0]
    return infos


def headers(path: str | Path) -> tuple[list[ImageInfo], list[SourceError]]:
    """Return what `info` does of those pictures that can be read, and why others cannot."""
    infos, errors = [], []
    for image in find(path):
        if image.source is None:
            errors.append(SourceError(str(image.error)))
            continue
        height, width, bands = image.source.shape
        infos.append(
            ImageInfo(
                image.path,
                getattr(image.source, "driver", "Zarr"),
                height,
                width,
                bands,
                image.source.dtype.name,
                image.source.block,
                image.source.in_order,
                image.nbytes,
                height * width * bands * image.source.dtype.itemsize,
            )
        )
    return infos, errors


def refuse_failed(failures: Mapping[int, str], n_sources: int) -> None:
    """Raise `SourceError` if no source is left: with the reason, or the first of several."""
    if len(failures) == n_sources:
        n = n_sources - 1
        others = f" ({n} other source{'s' * (n > 1)} failed too.)" if n else ""
        raise SourceError(failures[min(failures)] + others)
