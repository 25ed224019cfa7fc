"""Objects in S3, by URL, through obstore.

Endpoint, region and credentials come from the usual environment variables (``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ...).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from dkmeans._validation import InvalidArgumentError, OutputError, SourceError


def _obstore() -> Any:
    try:
        import obstore  # noqa: PLC0415 - an extra
        import obstore.store  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise InvalidArgumentError(
            "s3:// needs the library obstore; install it with: pip install 'dkmeans[s3]'."
        ) from error
    return obstore


@cache
def _bucket(name: str) -> Any:
    return _obstore().store.from_url(f"s3://{name}")


def place(url: str) -> tuple[Any, str]:
    """Return the store of a URL's bucket, and the key in it.

    Raises
    ------
    InvalidArgumentError
        If it is no URL of an object in S3.
    """
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise InvalidArgumentError(f"{url!r} is no place; expected one such as s3://bucket/name.")
    return _bucket(bucket), key.strip("/")


def read(url: str, most: int | None = None) -> bytes:
    """Return the bytes of an object, and no more than `most` of them."""
    obstore = _obstore()
    store, key = place(url)
    with _explained(url, SourceError, "read"):
        answer = obstore.get(store, key)
        size = answer.meta["size"]
        if most is not None and size > most:
            return bytes(obstore.get_range(store, key, start=0, length=most))
        return bytes(answer.bytes())


def write(url: str, data: bytes, *, replace: bool) -> None:
    """Write an object."""
    obstore = _obstore()
    store, key = place(url)
    with _explained(url, OutputError, "written"):
        obstore.put(store, key, data, mode="overwrite" if replace else "create")


def remove(url: str) -> None:
    """Remove an object, if it is there."""
    obstore = _obstore()
    store, key = place(url)
    with _explained(url, OutputError, "removed"):
        obstore.delete(store, key)


def exists(url: str) -> bool:
    """Return whether there is an object."""
    obstore = _obstore()
    store, key = place(url)
    with _explained(url, SourceError, "read"):
        try:
            obstore.head(store, key)
        except FileNotFoundError:
            return False
    return True


@contextmanager
def _explained(url: str, kind: type[Exception], done: str) -> Iterator[None]:
    """Turn what an object store answers into one clear error."""
    exceptions = _obstore().exceptions
    try:
        yield
    except exceptions.AlreadyExistsError as error:
        raise OutputError(f"{url}: exists already.") from error
    except FileNotFoundError as error:
        raise kind(f"{url}: no such object.") from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        raise kind(f"{url}: cannot be {done} ({str(error).splitlines()[0]}).") from error
