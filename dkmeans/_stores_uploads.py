"""Uploads in parts that nobody will finish, as a process was killed: found in S3, and aborted.

They take room but are no objects, and obstore does not know how to look for them; nor does its
`sign` take the query that such requests have (its issue 778). So these two requests are signed
here, as Amazon says ("Signature Version 4"), with the keys of the environment.
Where there are none, as on machines that are granted their rights, a rule of the bucket has to do.
"""

import hashlib
import hmac
import html
import logging
import os
import posixpath
import re
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from http.client import HTTPException
from itertools import accumulate
from urllib.parse import quote

from dkmeans._stores_objects import ENDPOINTS, place

_LOG = logging.getLogger("dkmeans")

_SECONDS = 10.0  # to wait for an answer
_PAGE = 1000  # uploads in an answer
_MORE = "<IsTruncated>true</IsTruncated>"
_NEXT = re.compile("<Next(Key|UploadId)Marker>(.+?)</Next")
_MARKS = {"Key": "key-marker", "UploadId": "upload-id-marker"}
_UPLOAD = re.compile(r"<Upload>.*?<Key>(.*?)</Key>.*?<UploadId>(.*?)</UploadId>", re.DOTALL)
_NOTHING = hashlib.sha256(b"").hexdigest()  # the body of each request


def abort(own: Collection[str]) -> None:
    """Abort all uploads to URLs of one bucket and to what is below them, as far as can be done.

    Whoever calls this sees to it that nobody else uploads there.
    """
    places = [place(url) for url in own]
    bucket, keys = places[0][0], {key for _, key in places}
    above = f"s3://{bucket}/{posixpath.commonpath(keys)}"
    try:
        for name, upload in unfinished(above):
            if not keys.isdisjoint(accumulate(name.split("/"), "{}/{}".format)):
                ask("DELETE", f"/{bucket}/{name}", {"uploadId": upload})
    except (OSError, HTTPException) as error:
        _LOG.debug("Uploads below %s that nobody will finish are left there (%s).", above, error)


def unfinished(url: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the number of each upload whose key begins with that of a URL.

    Raises
    ------
    OSError
        As `ask`.
    """
    bucket, key = place(url)
    query = {"uploads": "", "prefix": key, "max-uploads": str(_PAGE)}
    marks: dict[str, str] = {}  # where the next page begins; some servers tell one of the two
    while True:
        answer = ask("GET", f"/{bucket}", {**query, **marks})
        for name, upload in _UPLOAD.findall(answer):
            yield html.unescape(name), html.unescape(upload)
        before, marks = marks, {_MARKS[n]: html.unescape(mark) for n, mark in _NEXT.findall(answer)}
        if _MORE not in answer or marks == before:
            return


def ask(method: str, path: str, query: Mapping[str, str]) -> str:
    """Return what the server answers to a signed request without a body.

    Raises
    ------
    OSError
        If there is no answer, or one that tells of an error; or no keys to sign with.
    """
    own = os.environ
    key, secret = own.get("AWS_ACCESS_KEY_ID"), own.get("AWS_SECRET_ACCESS_KEY")
    if not key or not secret:
        raise PermissionError("no keys in the environment")
    region = own.get("AWS_REGION") or own.get("AWS_DEFAULT_REGION") or "us-east-1"
    amazon = f"https://s3.{region}.amazonaws.com"
    endpoint = next(filter(None, map(own.get, ENDPOINTS)), amazon).rstrip("/")
    scheme, _, rest = endpoint.partition("://")
    if scheme not in ("http", "https"):
        raise OSError(f"an endpoint of another kind: {endpoint}")
    host, _, base = rest.partition("/")
    path = quote(f"/{base}{path}" if base else path, safe="/-_.~")
    words = sorted(
        (quote(name, safe="-_.~"), quote(text, safe="-_.~")) for name, text in query.items()
    )
    asked = "&".join(f"{name}={text}" for name, text in words)
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    headers = {"host": host, "x-amz-content-sha256": _NOTHING, "x-amz-date": now}
    if token := own.get("AWS_SESSION_TOKEN"):
        headers["x-amz-security-token"] = token
    named = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}\n" for name in sorted(headers)]
    whole = "\n".join([method, path, asked, "".join(lines), named, _NOTHING])
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(whole.encode()).hexdigest()
    signature = _signature(secret, scope, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}")
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={named}, Signature={signature}"
    )
    request = urllib.request.Request(  # noqa: S310 - http or https, as was seen above
        f"{scheme}://{host}{path}?{asked}", method=method, headers=headers
    )
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 - as above
        return str(answer.read().decode("utf-8", "replace"))


def _signature(secret: str, scope: str, text: str) -> str:
    key = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
