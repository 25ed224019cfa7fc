"""What object stores answer when something is wrong, each in one sentence.

What a store answers may be long and may hold what is not for everybody: only the few words that
are known are passed on, never headers, signatures or keys.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dkmeans._validation import DkmeansError, OutputError, SourceError

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status(?: code)?:? (\d{3}(?: [A-Z][A-Za-z ]*)?)")
_SERVER = re.compile(r"https?://([^/\s,?]+)")
_REFUSED = ("401", "403")
_METADATA = ("169.254.169.254", "[fd00:ec2::254]")  # where machines in a cloud ask for credentials


def is_missing(error: BaseException) -> bool:
    """Return whether a store says that there is no such object, and not that there is no bucket."""
    return isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error)


@contextmanager
def explained(exceptions: Any, url: str, kind: type[Exception], done: str) -> Iterator[None]:
    """Turn what an object store answers into one clear error.

    Parameters
    ----------
    exceptions
        The module of that name of obstore.
    url
        Of the object or folder, to name it.
    kind
        Of the error to raise.
    done
        What could not be done: "read", "written", ...
    """
    try:
        yield
    except DkmeansError:
        raise
    except exceptions.AlreadyExistsError as error:
        raise OutputError(f"{url}: exists already.") from error
    except exceptions.PreconditionError as error:
        if kind is SourceError:
            raise SourceError(f"{url}: changed while it was being read; run again.") from error
        raise kind(f"{url}: was changed by somebody else meanwhile; run again.") from error
    except (exceptions.BaseError, OSError, ValueError) as error:
        if is_missing(error):
            raise kind(f"{url}: no such object.") from error
        raise kind(f"{url}: cannot be {done} ({_reason(error, exceptions, url)}).") from error


def _reason(error: BaseException, exceptions: Any, url: str) -> str:
    text = str(error)
    code, status, server = _CODE.search(text), _STATUS.search(text), _SERVER.search(text)
    detail = f", {code[1]}" if code else ""
    where = f"the server {server[1]}" if server else "the server"
    denied = exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
    refused = isinstance(error, denied) or (status is not None and status[1][:3] in _REFUSED)
    reasons = (
        (
            "NoSuchBucket" in text,
            f"there is no bucket {url.partition('://')[2].partition('/')[0]}",
        ),
        (
            server is not None and server[1].startswith(_METADATA),
            (
                "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or for public "
                "data AWS_SKIP_SIGNATURE=true"
            ),
        ),
        (
            refused,
            (
                f"access was refused{detail}; look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
                "the rights of this user"
            ),
        ),
        ("kind: Timeout" in text, f"{where} did not answer in time"),
        ("kind: Connect" in text, f"{where} cannot be reached"),
        (status is not None, f"{where} answered {status[1].strip() if status else ''}{detail}"),
        ("HttpError" in text, f"{where} broke the connection off"),
    )
    known = (reason for fits, reason in reasons if fits)
    return next(known, (text.splitlines() or [type(error).__name__])[0].rstrip("."))
