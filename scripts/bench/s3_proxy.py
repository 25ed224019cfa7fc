"""A proxy before an S3 server that does what networks and busy servers do.

    with Proxy(port, trouble=[Trouble("503", 3)]) as proxy: ...

It takes requests at a port of its own on 127.0.0.1 and passes them on as they are, bytes and all,
but for those that some trouble befalls: an answer of 503, a delay, a connection cut before, after
or in the middle of what it is for.
"""

import socket
import socketserver
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_CHUNK = 1 << 16
_WHOLE = (200, 206)


@dataclass
class Trouble:
    """What befalls requests.

    Attributes
    ----------
    kind
        "503", "delay", "cut" (no answer), "lost" (no answer, though it was done) or "half" (half
        of what was asked for).
    times
        How many requests, the next ones that fit.
    methods
        Which ones.
    seconds
        Of a delay.
    part
        Of their first lines, such as " /bucket/key ".
    every
        Only each of so many.
    """

    kind: str
    times: int = 1_000_000
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    seconds: float = 0.0
    part: str = ""
    every: int = 1


class Proxy:
    """Listens while it is entered.

    Parameters
    ----------
    port
        Of the server on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self.trouble: list[Trouble] = []
        self.requests: list[str] = []
        self.befallen = 0
        self.bytes_out = self.bytes_in = 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):  # either side may go at any time
                    _serve(self.request, port, proxy)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next(self, method: str, line: str) -> Trouble | None:
        """Note a request and return what befalls it."""
        with self._lock:
            self.requests.append(line)
            for trouble in self.trouble:
                fits = method in trouble.methods and trouble.part in line
                if trouble.times > 0 and fits and len(self.requests) % trouble.every == 0:
                    trouble.times -= 1
                    self.befallen += 1
                    return trouble
        return None

    def count(self, asked: int, answered: int) -> None:
        """Count the bytes of the bodies that were passed on."""
        with self._lock:
            self.bytes_in += asked
            self.bytes_out += answered


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


def _serve(client: socket.socket, port: int, proxy: Proxy) -> None:
    """Pass on the requests of a connection, one after the other."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with socket.create_connection(("127.0.0.1", port)) as server, client.makefile("rb") as asked:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with server.makefile("rb") as answered:
            while head := _head(asked):
                line = head[0].decode("latin-1").strip()
                method = line.split(" ")[0]
                trouble = proxy.next(method, line)
                body = _length(head)
                if trouble and trouble.kind == "cut":
                    return
                if trouble and trouble.kind == "503":
                    _skip(asked, body)
                    status = b"HTTP/1.1 503 Service Unavailable\r\n"
                    client.sendall(status + b"Content-Length: %d\r\n\r\n" % len(_BUSY))
                    client.sendall(b"" if method == "HEAD" else _BUSY)
                    continue
                if trouble and trouble.kind == "delay":
                    time.sleep(trouble.seconds)
                server.sendall(b"".join(head))
                _copy(asked, server, body)
                answer = _head(answered)
                if trouble and trouble.kind == "lost":
                    return
                client.sendall(b"".join(answer))
                half = trouble is not None and trouble.kind == "half"
                proxy.count(body, _answer(method, answer, answered, client, half=half))
                if half:
                    return


def _answer(
    method: str, head: Sequence[bytes], answered: Any, client: socket.socket, *, half: bool
) -> int:
    """Pass on the body of an answer; return its length."""
    status = int(head[0].split()[1])
    if method == "HEAD" or status in (204, 304):
        return 0
    if any(line.lower().startswith(b"transfer-encoding: chunked") for line in head):
        return _copy_chunked(answered, client)
    length = _length(head)
    half = half and status in _WHOLE  # that something is not there must be told whole
    _copy(answered, client, length // 2 if half else length)
    return length


def _head(stream: Any) -> list[bytes]:
    lines: list[bytes] = []
    while line := stream.readline():
        lines.append(line)
        if line == b"\r\n":
            break
    return lines


def _length(head: Sequence[bytes]) -> int:
    for line in head:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _copy(source: Any, target: socket.socket, n: int) -> None:
    while n:
        data = source.read(min(n, _CHUNK))
        if not data:
            raise OSError("cut")
        target.sendall(data)
        n -= len(data)


def _skip(source: Any, n: int) -> None:
    while n:
        n -= len(source.read(min(n, _CHUNK))) or n


def _copy_chunked(source: Any, target: socket.socket) -> int:
    total = 0
    while True:
        line = source.readline()
        target.sendall(line)
        n = int(line.split(b";")[0], 16)
        _copy(source, target, n + 2)
        total += n
        if n == 0:
            return total
