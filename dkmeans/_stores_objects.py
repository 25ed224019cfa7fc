"""Objects in S3, by URL, through obstore.

Endpoint, region and credentials come from the usual environment variables (``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ...) of each process: nothing of
them travels to workers. Requests that fail on the way, or with a status of 500 and more, are
tried again for as long as ``DKMEANS_RETRY_SECONDS`` says.
"""

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from typing import Any, TypeVar

from dkmeans._stores_answers import explained, is_missing
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError

T = TypeVar("T")
State = tuple[int, str]  # the size of an object in bytes, and its ETag

_RETRY_SECONDS = 120
_REQUEST_SECONDS = 30  # for one request, with all that it brings
_PART, _PARTS, _AT_ONCE = 8 << 20, 9000, 4  # bytes of a part, parts at most, parts on their way
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
_PAGE = 1000  # names in a request
_NO_NAME = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, halves of others
_NO_CREDENTIALS_SECONDS = 10  # to look for some where machines in a cloud have them
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SKIP_SIGNATURE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


def _obstore() -> Any:
    try:
        import obstore  # noqa: PLC0415 - an extra
        import obstore.store  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InvalidArgumentError(
            "s3:// needs the library obstore; install it with: pip install 'dkmeans[s3]'."
        ) from error
    return obstore


def _bucket(name: str, prefix: str = "") -> Any:
    """Return the store of a bucket, as the environment of this process says now."""
    settings = (item for item in os.environ.items() if item[0].startswith(("AWS_", "DKMEANS_")))
    return _opened(name, prefix, tuple(sorted(settings)))


@cache
def _opened(name: str, prefix: str, settings: tuple[tuple[str, str], ...]) -> Any:
    environment = dict(settings)
    seconds = _retry_seconds(environment)
    if not any(map(environment.get, _CREDENTIALS)):
        seconds = min(seconds, _NO_CREDENTIALS_SECONDS)
    endpoint = next(filter(None, map(environment.get, ENDPOINTS)), "")
    if endpoint and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", endpoint):  # obstore would panic
        raise InvalidArgumentError(
            f"The endpoint of S3 is {endpoint!r}; it must be a URL such as https://s3.example.org."
        )
    client: dict[str, Any] = {"timeout": timedelta(seconds=_REQUEST_SECONDS)}
    if endpoint.startswith("http://"):
        client["allow_http"] = True
    backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5)}
    retry = {
        "max_retries": 1000,  # it is the time that counts
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {**backoff, "base": 2},
    }
    store = _obstore().store.S3Store
    try:
        return store(name, prefix=prefix or None, client_options=client, retry_config=retry)
    except (_obstore().exceptions.BaseError, ValueError) as error:
        raise InvalidArgumentError(
            f"s3://{name} cannot be used as the environment says ({str(error).splitlines()[0]}); "
            "look at the variables that begin with AWS_."
        ) from error


def _retry_seconds(environment: dict[str, str]) -> float:
    given = environment.get("DKMEANS_RETRY_SECONDS", str(_RETRY_SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:  # noqa: PLR2004 - a day
        raise InvalidArgumentError(
            f"DKMEANS_RETRY_SECONDS is {given!r}; it must be a number of seconds up to a day."
        )
    return seconds


def place(url: str) -> tuple[str, str]:
    """Return the bucket of a URL, and the key in it.

    Raises
    ------
    InvalidArgumentError
        If it is no URL of an object in S3, or its key is not one that stays as it is.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise InvalidArgumentError(f"{url!r} is no place; expected one such as s3://bucket/name.")
    key = key.removesuffix("/")
    odd = key and {"", ".", ".."} & set(key.split("/"))
    if odd or _NO_NAME.search(url) or not bucket.isascii():
        raise InvalidArgumentError(
            f"{url!r} is no place; the parts of its name must not be empty, '.' or '..', nor hold "
            "control characters."
        )
    return bucket, key


def _object(url: str) -> tuple[Any, str]:
    """Return the store and the key of one object."""
    bucket, key = place(url)
    if not key:
        raise InvalidArgumentError(f"{url!r} is a bucket; expected an object such as {url}/name.")
    return _bucket(bucket), key


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn what an object store answers to who reads into one `SourceError`."""
    with explained(_obstore().exceptions, url, SourceError, "read"):
        yield


@contextmanager
def writing(url: str) -> Iterator[None]:
    """Turn what an object store answers to who writes into one `OutputError`."""
    with explained(_obstore().exceptions, url, OutputError, "written"):
        yield


def _again(ask: Callable[[], T]) -> T:
    """Ask what can be asked twice, again if an answer was cut off.

    Obstore does not, where objects are listed or removed.
    """
    for pause in _PAUSES:
        try:
            return ask()
        except _obstore().exceptions.GenericError as error:
            if "body error" not in str(error):
                raise
        time.sleep(pause)
    return ask()


def read(url: str, most: int | None = None) -> bytes:
    """Return the bytes of an object, and no more than `most` of them."""
    store, key = _object(url)
    with reading(url):
        return _first(_obstore().get(store, key), most)


def look(url: str, most: int) -> tuple[bytes, str] | None:
    """Return the first bytes of an object and its ETag, at one time; None if there is none.

    Raises
    ------
    OutputError
        If that cannot be told: who asks is about to write.
    """
    store, key = _object(url)
    with explained(_obstore().exceptions, url, OutputError, "read"):
        try:
            answer = _obstore().get(store, key)
        except FileNotFoundError as error:
            if is_missing(error):
                return None
            raise
        return _first(answer, most), answer.meta["e_tag"] or ""


def _first(answer: Any, most: int | None) -> bytes:
    if most is None or answer.meta["size"] <= most:
        return bytes(answer.bytes())
    data = bytearray()
    for chunk in answer:
        data += chunk
        if len(data) >= most:
            break
    return bytes(data[:most])


def read_range(url: str, state: State, start: int, stop: int) -> bytes:
    """Return a range of the bytes of an object, as long as it is as it was.

    Raises
    ------
    SourceError
        If it cannot be read, has changed, or ends before.
    """
    store, key = _object(url)
    options = {"range": (start, stop), "if_match": state[1] or None}
    with reading(url):
        answer = _obstore().get(store, key, options=options)
        data = bytes(answer.bytes())
    if (answer.meta["size"], answer.meta["e_tag"] or "") != state:
        raise SourceError(f"{url}: changed while it was being read; run again.")
    if len(data) != stop - start:
        raise SourceError(f"{url}: ends before byte {stop}; it is truncated.")
    return data


def write(url: str, data: bytes, *, replace: bool) -> None:
    """Write an object."""
    store, key = _object(url)
    with writing(url):
        _obstore().put(store, key, data, mode="overwrite" if replace else "create")


def create(url: str, data: bytes) -> str | None:
    """Write an object, if there is none; return its ETag, or None if there is one."""
    store, key = _object(url)
    with writing(url):
        try:
            made = _obstore().put(store, key, data, mode="create")
        except _obstore().exceptions.AlreadyExistsError:
            return None
    return made["e_tag"] or ""


def exchange(url: str, data: bytes, etag: str) -> str | None:
    """Replace an object that has this ETag; return the new one, or None if it has another."""
    store, key = _object(url)
    with writing(url):
        try:
            made = _obstore().put(store, key, data, mode={"e_tag": etag})
        except (_obstore().exceptions.PreconditionError, FileNotFoundError):
            return None
    return made["e_tag"] or ""


def upload(url: str, chunks: Iterable[bytes], size: int) -> None:
    """Write an object of `size` bytes in parts; it appears with the last, or not at all."""
    store, key = _object(url)
    part = max(_PART, -(-size // _PARTS))
    coming = iter(chunks)
    failed: list[Exception] = []

    def taken(thread: ThreadPoolExecutor) -> Iterator[bytes]:
        # obstore asks for chunks in a loop of its own, where none of its functions may be called.
        try:
            pending = thread.submit(next, coming, None)
            while (chunk := pending.result()) is not None:
                pending = thread.submit(next, coming, None)
                yield chunk
        except Exception as error:
            failed.append(error)
            raise

    with writing(url), ThreadPoolExecutor(1) as thread:
        try:
            options = {"chunk_size": part, "max_concurrency": _AT_ONCE}
            _obstore().put(store, key, taken(thread), **options)
        except Exception:
            for error in failed:
                raise error from None
            raise


def remove_below(url: str, keep: Collection[str] = ()) -> None:
    """Remove all objects below a URL, but for those of the names to keep."""
    bucket, prefix = place(url)
    names = sorted(
        names_below(url).difference(keep)
    )  # before anything is removed: pages would shift
    with explained(_obstore().exceptions, url, OutputError, "removed"):
        for start in range(0, len(names), _PAGE):
            keys = [f"{prefix}/{name}".lstrip("/") for name in names[start : start + _PAGE]]
            _again(partial(_obstore().delete, _bucket(bucket), keys))


def remove(url: str) -> None:
    """Remove an object, if it is there."""
    store, key = _object(url)
    with explained(_obstore().exceptions, url, OutputError, "removed"):
        _again(lambda: _obstore().delete(store, key))


def exists(url: str) -> bool:
    """Return whether there is an object."""
    return find(url) is not None


def state(url: str) -> State:
    """Return the size and the ETag of an object."""
    found = find(url)
    if found is None:
        raise SourceError(f"{url}: no such object.")
    return found


def find(url: str) -> State | None:
    """Return the state of an object, or None if there is none."""
    store, key = _object(url)
    with reading(url):
        try:
            meta = _obstore().head(store, key)
        except FileNotFoundError as error:
            # The answer says no more; that to a question for names tells of a missing bucket.
            if is_missing(error):
                _obstore().list_with_delimiter(store, key)
                return None
            raise
    return meta["size"], meta["e_tag"] or ""


@dataclass(frozen=True)
class Listing:
    """What lies directly below a URL.

    Attributes
    ----------
    folders
        The names of what has names below it, sorted.
    objects
        The states of objects by name, sorted.
    """

    folders: Sequence[str]
    objects: dict[str, State]


def listing(url: str) -> Listing:
    """Return what lies directly below a URL; nothing if there is nothing but its own marker.

    Raises
    ------
    SourceError
        If that cannot be told.
    """
    bucket, key = place(url)
    with reading(url):
        found = _again(lambda: _obstore().list_with_delimiter(_bucket(bucket), key or None))
    start = len(key) + 1 if key else 0
    folders = sorted(folder[start:].rstrip("/") for folder in found["common_prefixes"])
    objects = {
        meta["path"][start:]: (int(meta["size"]), str(meta["e_tag"] or ""))
        for meta in sorted(found["objects"], key=lambda meta: str(meta["path"]))
        if meta["path"] != key  # an object named "folder/", by which consoles make folders
    }
    return Listing(folders, objects)


def names_below(url: str) -> set[str]:
    """Return the names of all objects below a URL, from there on.

    Raises
    ------
    SourceError
        If that cannot be told.
    """
    return {path for path, _ in _below(url)}


def size_below(url: str) -> int:
    """Return the size of all objects below a URL in bytes.

    Raises
    ------
    SourceError
        If that cannot be told.
    """
    return sum(size for _, size in _below(url))


def _below(url: str) -> Iterator[tuple[str, int]]:
    bucket, key = place(url)
    start = len(key) + 1 if key else 0
    with reading(url):
        found = _again(lambda: list(_obstore().list(_bucket(bucket), key or None)))
    for page in found:
        for meta in page:
            if meta["path"] != key:  # as in a listing
                yield meta["path"][start:], int(meta["size"])


def folder(url: str) -> Any:
    """Return the store of obstore that has the names below a URL."""
    return _bucket(*place(url))
