"""What lies in S3 under the URL that a user named: objects, folders of them, patterns."""

import fnmatch
import glob
from collections.abc import Iterator
from dataclasses import dataclass

from dkmeans import _stores
from dkmeans import _stores_objects as objects
from dkmeans._stores_objects import Listing, State
from dkmeans._validation import SourceError
from dkmeans.images._store_source import is_marked


@dataclass(frozen=True)
class Member:
    """One object, or Zarr array or store, of what a user named.

    Attributes
    ----------
    url, name
        Where it lies; its path relative to the folder that was named.
    state
        Of the object; None for Zarr.
    error
        Why nothing can be told of what lies there, or None.
    """

    url: str
    name: str
    state: State | None
    error: str | None = None


def is_collection(url: str) -> bool:
    """Return whether a URL names a folder or a pattern.

    Raises
    ------
    SourceError
        If nothing is there, or that cannot be told.
    """
    url = url.rstrip("/")
    return _pattern(url) or (_object(url) is None and not is_marked(_listed(url).objects))


def expand(url: str, suffixes: tuple[str, ...]) -> Iterator[Member]:
    """Yield what a URL names, in the order of names; of folders what has one of the suffixes.

    Where nothing is to be had is a member too: the others that match a pattern count all the same.
    """
    url = url.rstrip("/")
    try:
        places = _matching(url)
    except SourceError as error:
        yield _failed(url, error)
        return
    for place in places:
        try:
            members = list(_expand_one(place, suffixes))
        except SourceError as error:
            members = [_failed(place, error)]
        yield from members


def _failed(url: str, error: SourceError) -> Member:
    return Member(url, _name(url), None, str(error))


def _name(url: str) -> str:
    return url.rpartition("/")[2]


def _matching(url: str) -> list[str]:
    """Return the URL, or what matches it if it is a pattern."""
    if not _pattern(url):
        return [url]
    bucket, _, key = url.removeprefix("s3://").partition("/")
    found = {*_matches(f"s3://{bucket}", key.split("/"))}
    if not found:
        raise SourceError(f"{url}: nothing matches this pattern.")
    return _stores.outermost(found)


def _expand_one(url: str, suffixes: tuple[str, ...]) -> Iterator[Member]:
    if (state := _object(url)) is not None:
        yield Member(url, _name(url), state)
    elif is_marked((listing := _listed(url)).objects):
        yield Member(url, _name(url), None)
    else:
        members = [*_walk(url, "", suffixes, listing)]
        if not members:
            raise SourceError(f"{url}: no images in this folder ({' '.join(suffixes)}).")
        yield from members


def _pattern(url: str) -> bool:
    return glob.has_magic(url) and not is_there(url)


def is_there(url: str) -> bool:
    """Return whether there is an object, or a folder of objects."""
    return _object(url) is not None or any(vars(objects.listing(url)).values())


def _object(url: str) -> State | None:
    return objects.find(url) if objects.place(url)[1] else None


def _listed(url: str) -> Listing:
    listing = objects.listing(url)
    if not listing.folders and not listing.objects:
        raise SourceError(f"{url}: no such object, and no folder of objects.")
    return listing


def _walk(url: str, path: str, suffixes: tuple[str, ...], listing: Listing) -> Iterator[Member]:
    """Yield the images and stores below a URL: first those directly below it, all sorted.

    `path` is what was gone down already, `listing` what is there.
    """
    folders = {name: objects.listing(f"{url}/{name}") for name in listing.folders if name[0] != "."}
    stores = {name for name, inner in folders.items() if is_marked(inner.objects)}
    for name in sorted([*stores, *listing.objects]):
        if name in stores:
            yield Member(f"{url}/{name}", path + name, None)
        elif name.lower().endswith(suffixes) and not name.startswith("."):
            yield Member(f"{url}/{name}", path + name, listing.objects[name])
    for name, inner in folders.items():
        if name not in stores:
            yield from _walk(f"{url}/{name}", f"{path}{name}/", suffixes, inner)


def _matches(url: str, parts: list[str]) -> Iterator[str]:
    """Yield the URLs that match a pattern below a URL, as `glob.glob` does with paths."""
    part, *rest = parts
    if not glob.has_magic(part):
        place = f"{url}/{part}"
        if rest:
            yield from _matches(place, rest)
        elif is_there(place):
            yield place
        return
    listing = objects.listing(url)
    shows = part.startswith(".")  # what is hidden otherwise
    folders = [name for name in listing.folders if shows or not name.startswith(".")]
    names = [name for name in listing.objects if shows or not name.startswith(".")]
    if part == "**":
        yield from _matches(url, rest or ["*"])
        for folder in folders:
            yield from _matches(f"{url}/{folder}", parts)
        return
    for name in folders if rest else {*folders, *names}:
        if fnmatch.fnmatchcase(name, part):
            if rest:
                yield from _matches(f"{url}/{name}", rest)
            else:
                yield f"{url}/{name}"
