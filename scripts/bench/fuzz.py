"""Damage files that dkmeans reads, in ways that reach ever more of the code that reads them.

Whatever a file holds, reading it ends well or in a DkmeansError; anything else that comes out is a
failure. Each kind of file runs in a process of its own, led by what lines of the reading modules
an input reaches. Documents are changed as documents (values of other types, names that are missing,
lengths, far numbers), so that most pass the first checks; every fourth is changed as bytes.

Needs atheris (pip install atheris), which is no dependency of dkmeans.

    python scripts/bench/fuzz.py --seconds 120 --out fuzz.json
    python scripts/bench/fuzz.py model notes --seconds 600 --failures failures
    python scripts/bench/fuzz.py model --replay failures/model-0-TypeError
"""

import argparse
import contextlib
import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_READERS = {
    "_checkpoint", "_documents", "_model", "_palette", "_palette._files", "_stores",
    "_tables", "_tables_kinds", "_tables_raw", "_tables_regions", "_tables_zarr", "images._fit",
    "images._listing", "images._manifest", "images._notes", "images._sources",
    "images._store_source",
}  # fmt: skip
_STRANGE = (
    None, True, False, 0, -1, 1, 2, 255, 256, 65_537, 2**31, 2**63 - 1, 2**63, -(2**63), 2**64,
    10**30, 10**400, -0.0, 0.5, 1e308, 5e-324, "", "0", "nan", "inf", "../x", "/etc/x", "..", ".",
    "\0", "a" * 300, "ö\ud800", "float32", "int64", [], {}, [[]], [0], [""], {"": 0},
    {"float": "nan"}, {"float": "inf"}, {"dtype": "int64", "shape": [0], "values": []},
    {"dtype": "float64", "shape": [1, 0, 3], "values": []},
    {"dtype": "float64", "shape": [1], "values": [{"float": "nan"}]},
)  # fmt: skip


class Case(NamedTuple):
    """A kind of file: what whole ones hold, and what is done with damaged ones."""

    seeds: list[bytes]
    read: Callable[[bytes], object]
    is_document: bool = True


# Kinds


def _rows() -> Any:
    import numpy as np

    return np.random.default_rng(0).normal(size=(300, 3))


def _model(folder: Path) -> Case:
    import dkmeans

    path, seeds = folder / "model.json", []
    for kind in (dkmeans.KMeans, dkmeans.MiniBatchKMeans):
        for more in ({}, {"init": _rows()[:4].copy()}):
            kind(4, random_state=0, max_iter=2, **more).fit(_rows()).save(path)
            seeds.append(path.read_bytes())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        dkmeans.load(path).get_params()

    return Case(seeds, read)


def _checkpoint(folder: Path) -> Case:
    import dkmeans
    from dkmeans import _summary_rows
    from dkmeans._checkpoint import Checkpoint

    class Stopped(BaseException):
        pass

    class Stopping(Checkpoint):
        def save(self, standing: Any) -> None:
            super().save(standing)
            belonging.append(self)
            raise Stopped

    belonging: list[Checkpoint] = []
    _summary_rows.MIN_ROWS, _summary_rows.ROWS_PER_CLUSTER = 40, 5
    path = folder / "checkpoint"
    with contextlib.suppress(Stopped):
        kept = Stopping(path)
        dkmeans.KMeans(4, random_state=0, tol=0).fit(_rows(), checkpoint=kept)
    seeds = [path.read_bytes()]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        belonging[0].load()

    return Case(seeds, read)


def _fit(folder: Path) -> Case:
    import numpy as np

    from dkmeans import Palette
    from dkmeans.images._fit import Fit

    path = folder / "fit.json"
    palette = Palette([[0, 0, 0], [255, 128, 0]], shares=[0.25, 0.75])
    found = Fit(palette, np.array([[0.5, 0, 0], [255, 128, 0.25]]), 3.5, 40.0, 7, 99, 3, "exact")
    found.write(path, {3: "a reason"})

    def read(data: bytes) -> None:
        path.write_bytes(data)
        Fit.read(path)

    return Case([path.read_bytes()], read)


def _job(folder: Path) -> Case:
    from dkmeans.images import _manifest
    from dkmeans.images._sources import Found
    from dkmeans.images._workspace import Workspace

    found = [Found("a/b.png", "b.png", None, None, 9), Found("a/c.png", "c.png", None, None, 9)]
    options = {"n_colors": 4, "palette": None, "tol": 0.5, "init": "k-means++"}

    def begin(*, resume: bool) -> object:
        output = folder / "out"
        return _manifest.begin(
            Workspace(folder), output, options, found, resume=resume, overwrite=False
        )

    begin(resume=False)
    path = folder / "job.json"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        begin(resume=True)

    return Case([path.read_bytes()], read)


def _publication(folder: Path) -> Case:
    from dkmeans.images._manifest import Job

    job = Job(folder, lambda: None, is_resumed=True, overwrite=False)
    job.publishing({3: "a reason", 5: ""})
    path, output = folder / "publication.json", folder / "output"
    output.touch()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        job.published(folder / "made", output)

    return Case([path.read_bytes()], read)


def _notes(folder: Path) -> Case:
    """Return notes as lists, each read as the line, with its checksum, that it would be."""
    from isal import isal_zlib

    from dkmeans.images._manifest import Job
    from dkmeans.images._notes import Note
    from dkmeans.images._outputs import Entry

    parts = folder / "parts"
    parts.mkdir()
    (parts / "0-ab12.part").write_bytes(bytes(100))
    crc = isal_zlib.crc32(bytes(60))
    notes = [
        Note(0, "0-ab12.part", 60, crc, (Entry(0, "", 0, 30, 7, 90), Entry(1, "", 30, 30, 7, 90)),
             (3, 4), 12),
        Note(1, "", 0, 0, (Entry(0, "", 0, 30, 7, 90),), None, 0),
        Note(1, finished=(100, 5)),
    ]  # fmt: skip
    members = [json.loads(note.line().partition(" ")[2]) for note in notes]
    job = Job(parts, lambda: None, is_resumed=True, overwrite=False)
    file = parts / "a.notes"

    def read(data: bytes) -> None:
        lines = _parsed(data)
        if isinstance(lines, list):
            texts = [json.dumps(line) for line in lines]
            data = "".join(f"{isal_zlib.crc32(t.encode()):08x} {t}\n" for t in texts).encode()
        file.write_bytes(data)
        job.done(dict.fromkeys(range(4), folder / "finished"), lambda index, key: index < key)

    return Case([json.dumps(members).encode()], read)


def _zarr(folder: Path, make: Callable[[Path], None], look: Callable[[Path], object]) -> Case:
    """Metadata of a Zarr store, all of them as one document."""
    store = folder / "store.zarr"
    make(store)
    names = [file.relative_to(store).as_posix() for file in store.rglob("zarr.json")]
    seed = {name: json.loads((store / name).read_bytes()) for name in names}

    def read(data: bytes) -> None:
        documents = _parsed(data)
        if not isinstance(documents, dict):
            documents = {"zarr.json": None}
        for name in names:
            raw = data if documents == {"zarr.json": None} else json.dumps(documents.get(name))
            (store / name).write_bytes(raw if isinstance(raw, bytes) else raw.encode())
        look(store)

    return Case([json.dumps(seed).encode()], read)


def _store(folder: Path) -> Case:
    from dkmeans.images import _store as store
    from dkmeans.images._listing import Image
    from dkmeans.images._store_source import probe

    def make(path: Path) -> None:
        store.create(path, {"0": ((60, 50, 3), (20, 50, 3)), "1": ((900, 3), (300, 3))},
                     compress=True)  # fmt: skip
        images = [
            Image("a.png", "0", (60, 50, 3), None, "a.png"),
            Image("b/c.png", "1", (20, 30, 3), 300, "b/c.png"),
        ]
        store.complete(path, images)

    return _zarr(folder, make, probe)


def _table(folder: Path) -> Case:
    from dkmeans._tables import table

    def make(path: Path) -> None:
        import zarr

        zarr.create_array(str(path), data=_rows(), chunks=(50, 3), shards=(150, 3))

    def look(path: Path) -> None:
        rows = table(str(path))
        if rows.n_rows < 10_000:  # noqa: PLR2004 - what claims to be large is not listed
            rows.tiles(100)

    return _zarr(folder, make, look)


def _palettes(suffix: str) -> Callable[[Path], Case]:
    def case(folder: Path) -> Case:
        from dkmeans import Palette

        path, seeds = folder / f"palette.{suffix}", []
        colors = [[0, 0, 0], [255, 128, 0], [9, 8, 7]]
        for more in ({}, {"shares": [0.25, 0.75, 0], "names": ["", "orange", "ö"]}):
            Palette(colors, **more).save(path, overwrite=True)
            seeds.append(path.read_bytes())
        if suffix == "txt":
            seeds.append(b"# QGIS\nINTERPOLATION:EXACT\n0,1,2,3,255,label one\n1 4 5 6\nnv 0 0 0\n")

        def read(data: bytes) -> None:
            path.write_bytes(_checked(data) if suffix == "png" else data)
            Palette.load(path).save(folder / "again.json", overwrite=True)

        return Case(seeds, read, is_document=suffix == "json")

    return case


def _checked(png: bytes) -> bytes:
    """Return what may be a PNG with the checksums that its chunks should have."""
    import struct
    import zlib

    at, made = 8, bytearray(png)
    while at + 12 <= len(made):
        [length] = struct.unpack_from(">I", made, at)
        if at + 12 + length > len(made):
            break
        struct.pack_into(
            ">I", made, at + 8 + length, zlib.crc32(bytes(made[at + 4 : at + 8 + length]))
        )
        at += 12 + length
    return bytes(made)


_KINDS: dict[str, Callable[[Path], Case]] = {
    "model": _model, "checkpoint": _checkpoint, "fit": _fit, "job": _job,
    "publication": _publication, "notes": _notes, "store": _store, "table": _table,
    **{suffix: _palettes(suffix) for suffix in ("gpl", "act", "txt", "png", "json")},
}  # fmt: skip


# Changes of documents


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def changed(document: Any, rng: random.Random) -> Any:
    """Return a document with one change somewhere; it may be changed itself."""
    top: Any = {"": document}
    holder, key = top, ""
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:  # noqa: PLR2004 - goes deep
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    held = holder[key]
    choice = rng.randrange(6)
    if choice == 0 and isinstance(holder, dict) and holder is not top:
        del holder[key]
        if rng.random() < 0.5:  # noqa: PLR2004 - half of those
            holder[rng.choice(("", "x", "\0", "1", f"{key}_"))] = held
    elif choice == 1:
        holder[key] = [held] if rng.random() < 0.5 else _elsewhere(top, rng)  # noqa: PLR2004 - half
    elif choice <= 3:  # noqa: PLR2004 - of six
        holder[key] = _near(held, rng)
    else:
        holder[key] = copy.deepcopy(rng.choice(_STRANGE))
    return top[""]


def _near(value: Any, rng: random.Random) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return rng.choice(
            (value + 1, value - 1, -value, value * 2, value << 40, rng.getrandbits(8))
        )
    if isinstance(value, float):
        return rng.choice((-value, value * 2, value / 3, value * 1e300, 0.0, value // 1))
    if isinstance(value, str):
        return rng.choice((value[:-1], f"{value}x", value.upper(), value[::-1], f"../{value}"))
    if isinstance(value, list):
        return rng.choice((value[:-1], value + value[-1:], value[::-1], value * 2, value[:1]))
    return dict(list(value.items())[: rng.randrange(len(value) + 1)])


def _elsewhere(top: Any, rng: random.Random) -> Any:
    """Return a copy of what lies anywhere in a document."""
    at = top
    while isinstance(at, dict | list) and at and rng.random() < 0.8:  # noqa: PLR2004 - goes deep
        at = rng.choice(list(at.values()) if isinstance(at, dict) else at)
    return json.loads(json.dumps(at))


# One kind, in a process of its own


@contextlib.contextmanager
def _instrumented(atheris: Any) -> Iterator[None]:
    """Follow what lines of the readers are reached, when they are imported; kernels never."""
    from importlib.util import find_spec

    spec = find_spec("dkmeans")
    assert spec is not None  # noqa: S101 - it would not have been imported otherwise
    assert spec.origin is not None  # noqa: S101 - it is a folder of files
    folder = Path(spec.origin).parent
    names = {
        ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
        for file in folder.rglob("*.py")
    }
    others = {"dkmeans", *(f"dkmeans.{name}" for name in names - _READERS)}
    with atheris.instrument_imports(include=["dkmeans"], exclude=sorted(others)):
        yield


class Judge:
    """Reads inputs, and tells what comes out that should not; each place in the code once."""

    def __init__(self, kind: str, case: Case, failures: Path) -> None:
        self._kind, self._case, self._failures = kind, case, failures
        self.known: set[tuple[str, str, int | None]] = set()

    def __call__(self, data: bytes) -> None:
        """Read one input."""
        from dkmeans._validation import DkmeansError

        with warnings.catch_warnings(), contextlib.suppress(DkmeansError):
            warnings.simplefilter("error")
            try:
                self._case.read(data)
            except DkmeansError:
                raise
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                self._tell(error, data)

    def _tell(self, error: Exception, data: bytes) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = (type(error).__name__, frame.filename, frame.lineno)
        if place in self.known:
            return
        self.known.add(place)
        file = self._failures / f"{self._kind}-{len(self.known) - 1}-{place[0]}"
        file.write_bytes(data)
        told = {"input": str(file), "error": f"{place[0]}: {error}"[:300]}
        told["at"] = "".join(traceback.format_tb(error.__traceback__)[-3:])
        print("FAILURE " + json.dumps(told), flush=True)


def fuzz(kind: str, folder: Path, seconds: int, failures: Path, replay: Path | None) -> None:
    """Run one kind; never returns, unless it replays. Failures are told as lines of JSON."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # kernels are of no use here
    import atheris

    with _instrumented(atheris):
        import dkmeans.images  # noqa: F401 - for its modules

        case = _KINDS[kind](folder)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)  # noqa: S311 - a fuzzer
        document = _parsed(data)
        if document is None or rng.random() < 0.25:  # noqa: PLR2004 - every fourth
            return atheris.Mutate(data, max_size)
        try:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                document = changed(document, rng)
            made = json.dumps(document).encode()
        except (ValueError, RecursionError):  # numbers of too many digits; nested without end
            return atheris.Mutate(data, max_size)
        return made if len(made) <= max_size else atheris.Mutate(data, max_size)

    if replay is not None:
        case.read(replay.read_bytes())
        return
    judge = Judge(kind, case, failures)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(case.seeds):
        case.read(seed)  # whole files are read
        (corpus / str(number)).write_bytes(seed)
    arguments = ["fuzz", str(corpus), f"-max_total_time={seconds}", "-print_final_stats=1",
                 "-timeout=30", "-reduce_inputs=0", "-rss_limit_mb=3000",
                 f"-artifact_prefix={failures}/{kind}-",
                 f"-max_len={4 * max(map(len, case.seeds))}"]  # fmt: skip
    atheris.Setup(arguments, judge, **({"custom_mutator": mutate} if case.is_document else {}))
    atheris.Fuzz()


# All kinds


def run(kind: str, seconds: int, failures: Path) -> dict[str, Any]:
    """Run one kind in a process, and return what is known of it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
    command = [sys.executable, __file__, kind, "--child", str(folder),
               "--seconds", str(seconds), "--failures", str(failures)]  # fmt: skip
    try:
        done = subprocess.run(  # noqa: S603 - Python itself
            command, capture_output=True, text=True, errors="replace", check=False
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    told = re.findall(
        r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr, re.MULTILINE
    )
    inputs, coverage, features, corpus = map(int, told[-1]) if told else (0, 0, 0, 0)
    found = [
        json.loads(line.removeprefix("FAILURE "))
        for line in done.stdout.splitlines()
        if line.startswith("FAILURE ")
    ]
    if done.returncode:  # it hung, or took too much memory, or the program itself is wrong
        found.append({"error": f"ended with {done.returncode}", "at": done.stderr[-3000:]})
    return {
        "kind": kind, "inputs": inputs, "coverage": coverage,
        "coverage at first": int(told[0][1]) if told else 0,
        "features": features, "corpus": corpus, "failures": found,
    }  # fmt: skip


def main() -> None:
    """Run all kinds that were named, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(_KINDS)}; or all")
    parser.add_argument("--seconds", type=int, default=60, help="for each kind")
    parser.add_argument("--failures", type=Path, help="folder to keep the inputs that fail in")
    parser.add_argument("--replay", type=Path, help="an input that failed, for one kind")
    parser.add_argument("--out", type=Path, help="JSON; standard output by default")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.kinds) - set(_KINDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; kinds are {', '.join(_KINDS)}")
    if given.replay is not None and len(given.kinds) != 1:
        parser.error("--replay needs one kind")
    failures = (given.failures or Path(tempfile.mkdtemp(prefix="fuzz-failures-"))).absolute()
    failures.mkdir(parents=True, exist_ok=True)
    if given.child is not None or given.replay is not None:
        folder = given.child or Path(tempfile.mkdtemp(prefix="fuzz-replay-"))
        fuzz(given.kinds[0], folder, given.seconds, failures, given.replay)
        return
    told = []
    for kind in given.kinds or _KINDS:
        told.append(run(kind, given.seconds, failures))
        print(json.dumps(told[-1]), file=sys.stderr, flush=True)
        if given.out:
            given.out.write_text(json.dumps(told, indent=1))
    if not given.out:
        print(json.dumps(told, indent=1))
    sys.exit(any(of["failures"] for of in told))


if __name__ == "__main__":
    main()
