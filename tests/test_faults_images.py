"""Faults of the world while pictures are written: disks, sources, other jobs. Nothing is mixed."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import dask
import numpy as np
import pytest
import tifffile
import zarr
from conftest import small_disk
from PIL import Image

from dkmeans._palette import Palette
from dkmeans._validation import CompleteError, OutputError, SourceError
from dkmeans.images import _notes, _outputs, _store, ingest, quantize
from dkmeans.images._destination import Destination
from dkmeans.images._staging import staging_folder


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def noise(tmp_path):
    """A picture of 4,096 colours that no encoder makes small."""
    image = 17 * np.random.default_rng(0).integers(0, 16, (600, 640, 3), np.uint8)
    path = tmp_path / "noise.tif"
    tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb")
    return path


@pytest.fixture
def disk(tmp_path):
    """Mount a small disk, of a size that can be changed."""
    with small_disk(tmp_path / "disk", "64m") as where:
        yield where


def resize(disk, size):
    options = f"remount,size={size}"
    subprocess.run(["mount", "-o", options, str(disk)], check=True)  # noqa: S607 - as above


def files_of(path):
    if path.is_file():
        return path.read_bytes()
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


class At:
    """Does something once a pass begins, or has read its first block."""

    def __init__(self, name, action, *, first_block=False):
        self.name, self.action, self.first_block = name, action, first_block
        self.now = ""

    def begin(self, name, *_):
        self.now = name
        if name == self.name and not self.first_block:
            self.action()

    def advance(self, _):
        if self.now == self.name and self.first_block:
            self.first_block = False
            self.action()

    def end(self):
        pass


ROOMS = [
    *itertools.product(["out.png", "out.tif"], ["64k", "300k", "500k"]),
    ("out", "500k"),
    *itertools.product(["out.zarr", "store.zarr"], ["64k", "300k"]),
]


@pytest.mark.parametrize(("output", "room"), ROOMS)
def test_a_disk_that_is_full_and_then_has_room(disk, noise, tmp_path, output, room):
    """At the first part or chunk, in the last one, while parts are joined."""

    def job(path, **options):
        if output == "store.zarr":
            return ingest(noise, path, **options)
        return quantize(noise, path, n_colors=256, n_init=1, max_iter=2, **options)

    resize(disk, room)
    with pytest.raises(OutputError, match="the disk is full; free some space"):
        job(disk / output)
    assert not list(disk.glob("out.*")) + list(disk.glob("store.*")) + list(disk.glob("out/*.png"))
    resize(disk, "64m")
    job(disk / output, resume=True)
    (tmp_path / "ref").mkdir()
    job(tmp_path / "ref" / output)
    assert files_of(disk / output) == files_of(tmp_path / "ref" / output)
    assert not list(disk.rglob("*.dkmeans"))


@pytest.mark.parametrize("output", ["out.png", "out.zarr", "out"])
@pytest.mark.parametrize("change", ["vanishes", "is replaced", "is touched"])
@pytest.mark.parametrize("moment", ["write", "in write"])
def test_a_source_that_changes_between_the_passes(noise, tmp_path, output, change, moment):
    if (change, moment) == ("is replaced", "in write"):
        pytest.skip("the file that was opened is read to its end")

    def act():
        if change == "vanishes":
            noise.unlink()
        elif change == "is replaced":
            other = tmp_path / "other.tif"
            tifffile.imwrite(other, np.zeros((600, 640, 3), np.uint8), tile=(256, 256))
            other.replace(noise)
        else:
            os.utime(noise)

    progress = At("write", act, first_block=moment == "in write")
    with pytest.raises(SourceError, match=r"noise\.tif: (changed while|cannot be read|no such)"):
        quantize(noise, tmp_path / output, n_colors=8, n_init=1, progress=progress)
    assert not (tmp_path / output).is_file()
    assert not list(tmp_path.glob("out/*.png"))
    assert not list(tmp_path.glob("out.zarr"))


def test_a_store_that_is_made_again_between_the_passes(noise, tmp_path):
    store = tmp_path / "s.zarr"
    ingest(noise, store)

    def act():
        shutil.rmtree(store)
        tifffile.imwrite(noise, np.zeros((600, 640, 3), np.uint8), photometric="rgb")
        ingest(noise, store)

    with pytest.raises(SourceError, match=r"s\.zarr: changed while it was being read"):
        quantize(store, tmp_path / "out.png", n_colors=8, n_init=1, progress=At("write", act))


def test_of_several_sources_the_others_are_written(noise, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(noise, tmp_path / "in" / "a.tif")
    shutil.copy(noise, tmp_path / "in" / "b.tif")
    gone = At("write", (tmp_path / "in" / "b.tif").unlink)
    result = quantize(tmp_path / "in", tmp_path / "out", n_colors=8, n_init=1, progress=gone)
    assert [image.error is None for image in result.report] == [True, False]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_a_read_only_output(noise, disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)  # noqa: S607 - as above
    for output in ("out.png", "out.zarr", "out"):
        for resume in (False, True):
            with pytest.raises(OutputError, match="Read-only file system"):
                quantize(noise, disk / output, resume=resume)


@pytest.fixture
def failing_disk(tmp_path):
    """Mount a disk that can be made to fail; yield it and what mounts it anew."""
    image, where = tmp_path / "image", tmp_path / "failing"
    where.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    mount = ["mount", "-o", "loop", str(image), str(where)]
    for command in (["mkfs.ext4", "-q", str(image)], mount):
        if (
            os.geteuid()
            or shutil.which(command[0]) is None
            or subprocess.run(command, check=False, capture_output=True).returncode
        ):
            pytest.skip("no disk can be mounted here")

    def again():
        subprocess.run(["umount", str(where)], check=True)  # noqa: S607 - where it is differs
        subprocess.run(mount, check=True)

    yield where, again
    subprocess.run(["umount", str(where)], check=True)  # noqa: S607 - as above


@pytest.mark.parametrize("output", ["out.png", "out.zarr", "out"])
@pytest.mark.parametrize("in_pass", [False, True])
def test_a_disk_that_fails_midway(failing_disk, noise, tmp_path, output, in_pass):
    """After an error a system may allow only reading: nothing more can be written or removed."""
    disk, again = failing_disk

    def fail():
        command = ["mount", "-o", "remount,abort", str(disk)]
        subprocess.run(command, check=True)

    given = {"n_colors": 8, "n_init": 1}
    with pytest.raises(OutputError, match="Read-only file system"):
        quantize(noise, disk / output, progress=At("write", fail, first_block=in_pass), **given)
    assert not list(disk.glob("out.*")) + list(disk.glob("out/*.png"))
    again()
    quantize(noise, disk / output, resume=True, **given)
    (tmp_path / "ref").mkdir()
    quantize(noise, tmp_path / "ref" / output, **given)
    assert files_of(disk / output) == files_of(tmp_path / "ref" / output)
    assert not list(disk.rglob("*.dkmeans"))


@pytest.mark.parametrize("output", ["out.png", "out"])
def test_files_are_on_the_disk_before_the_job_is_done(noise, tmp_path, output, monkeypatch):
    synced = []
    original = os.fsync

    def fsync(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    quantize(noise, tmp_path / output, n_colors=8, n_init=1)
    file = tmp_path / (output if output == "out.png" else "out/noise.png")
    assert synced[-2:] == [file.stat().st_ino, file.parent.stat().st_ino]


@pytest.mark.parametrize("output", ["out.png", "out"])
def test_a_file_that_survives_a_loss_of_power_is_known_as_the_jobs_own(
    noise, tmp_path, output, monkeypatch
):
    for module in (_notes, _outputs):
        monkeypatch.setattr(module, "SYNCED", 1)
    file = tmp_path / (output if output == "out.png" else "out/noise.png")
    synced, survived = {}, []
    fsync, replace = os.fsync, Path.replace

    def syncs(descriptor):
        known = os.fstat(descriptor)
        synced[known.st_ino] = known.st_size
        fsync(descriptor)

    def renames(self, target):
        if Path(target) == file:
            notes = tmp_path.rglob("*.notes")
            finished = [n for n in notes if not n.read_text().endswith("null]\n")]
            survived.extend(synced.get(n.stat().st_ino) == n.stat().st_size for n in finished)
            survived.extend(n.parent.stat().st_ino in synced for n in finished)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", syncs)
    monkeypatch.setattr(Path, "replace", renames)
    quantize(noise, tmp_path / output, n_colors=8, n_init=1)
    assert survived == [True, True]


def test_two_jobs_on_one_output(noise, tmp_path):
    """Of a job in another process, the host, the process and the time are told."""
    code = (
        "import sys, time; from dkmeans.images import quantize\n"
        "class Wait:\n"
        "    def begin(self, *_): print('ready', flush=True); sys.stdin.readline()\n"
        "    def advance(self, _): pass\n"
        "    def end(self): pass\n"
        "quantize('noise.tif', 'out.png', n_colors=8, n_init=1, progress=Wait())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "ready\n"
        who = rf"another job is writing it \(process {other.pid} on {os.uname().nodename}, since"
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match=who):
                quantize(noise, tmp_path / "out.png", n_colors=9, **options)
        other.communicate("go\n\n\n")
        assert other.returncode == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (640, 600)


def test_a_stale_worker_writes_nowhere(noise, tmp_path, monkeypatch):
    """The folder of a run that was swept is not that of the next one."""
    monkeypatch.setattr(_notes, "_NOTED", 1)
    folders = []

    class Stop(BaseException):
        pass

    def act():
        folders.extend(path for path in (tmp_path / ".out.png.dkmeans").iterdir() if path.is_dir())
        raise Stop

    for _ in range(2):
        with pytest.raises(Stop):
            quantize(noise, tmp_path / "out.png", n_colors=8, n_init=1, progress=At("write", act))
    first, second = folders
    assert first != second
    with pytest.raises(FileNotFoundError):
        _notes.Noter(_notes.Journal(str(first)).file(), 0, lambda: (None, 0)).finished(1, 2)


def test_staged_pixels_of_a_crash_are_swept(tmp_path, photos):
    Image.fromarray(photos["china"]).save(tmp_path / "a.png")
    (tmp_path / "fast").mkdir()
    code = (
        "import os, signal; from dkmeans.images import quantize\n"
        "class Die:\n"
        "    def begin(self, name, *_): name == 'write' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    def advance(self, _): pass\n"
        "    def end(self): pass\n"
        "quantize('a.png', 'out.png', n_colors=8, n_init=1, staging='fast', progress=Die())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert list((tmp_path / "fast").rglob("*.raw"))
    quantize(
        tmp_path / "a.png", tmp_path / "out.png", n_colors=8, n_init=1, staging=tmp_path / "fast"
    )
    assert not list((tmp_path / "fast").iterdir())


def test_a_palette_is_given_and_counts_are_those_of_an_undisturbed_run(noise, tmp_path, disk):
    palette = Palette([[0, 0, 0], [90, 90, 90], [255, 255, 255]])
    resize(disk, "64k")
    with pytest.raises(OutputError, match="the disk is full"):
        quantize(noise, disk / "out.png", palette=palette)
    resize(disk, "64m")
    resumed = quantize(noise, disk / "out.png", palette=palette, resume=True)
    whole = quantize(noise, tmp_path / "out.png", palette=palette)
    assert (resumed.inertia, resumed.n_pixels) == (whole.inertia, whole.n_pixels)
    np.testing.assert_array_equal(resumed.palette.shares, whole.palette.shares)


def test_a_killed_writer_leaves_nothing_in_a_store(tmp_path):
    code = (
        "import os, pathlib, signal; import numpy as np; from dkmeans.images import _store\n"
        "_store.create(pathlib.Path('s.zarr'), {'a': ((8, 8), (8, 8))}, compress=False)\n"
        "writer = _store.ArrayWriter('s.zarr', 'a')\n"
        "pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "writer.write((0, 0), np.ones((8, 8), np.uint8))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert {path.name for path in (tmp_path / "s.zarr").rglob("*")} == {"zarr.json", "a"}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_job_that_is_killed_as_it_writes_the_list_of_images(noise, tmp_path):
    code = (
        "import os, pathlib, signal; from dkmeans.images import _store, ingest\n"
        "def complete(*args, done=_store.complete, **kwargs):\n"
        "    pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done(*args, **kwargs)\n"
        "_store.complete = complete\n"
        f"ingest({str(noise)!r}, 'out.zarr')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert list((tmp_path / ".out.zarr.dkmeans").rglob("*.partial"))
    ingest(noise, tmp_path / "out.zarr", resume=True)
    ingest(noise, tmp_path / "whole.zarr")
    assert files_of(tmp_path / "out.zarr").keys() == files_of(tmp_path / "whole.zarr").keys()


def test_a_writer_left_alone_makes_no_folder_again(tmp_path):
    _store.create(tmp_path / "s.zarr", {"a": ((8, 8), (8, 8))}, compress=False)
    writer = _store.ArrayWriter(tmp_path / "s.zarr", "a")
    shutil.rmtree(tmp_path / "s.zarr")
    with pytest.raises(FileNotFoundError):
        writer.write((0, 0), np.ones((8, 8), np.uint8))
    with pytest.raises(FileNotFoundError):
        _store.ArrayWriter(tmp_path / "s.zarr", "a")
    assert not list(tmp_path.iterdir())


def test_a_job_that_is_killed_while_it_sweeps_was_complete(noise, tmp_path):
    code = (
        "import os, shutil, signal; from dkmeans.images import quantize\n"
        "def die(path, **_): path.suffix == '.swept' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "shutil.rmtree = die\n"
        "quantize('noise.tif', 'out.zarr', n_colors=8, n_init=1)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert any((tmp_path / ".out.zarr.dkmeans").glob("*.swept"))
    with pytest.raises(CompleteError, match="nothing to resume"):
        quantize(noise, tmp_path / "out.zarr", n_colors=8, n_init=1, resume=True)
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("resume", [False, True])
def test_what_was_put_aside_is_replaced_only_if_asked_for(noise, tmp_path, monkeypatch, resume):
    path = tmp_path / "out.zarr"
    theirs = zarr.create_array(str(path), data=np.full((3, 3), 77))
    replace = Path.replace

    def dies(made, target):
        if target == path:
            raise KeyboardInterrupt
        return replace(made, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            quantize(noise, path, n_colors=8, n_init=1, overwrite=True)
    assert not path.exists()
    if resume:  # the leave to replace it lasts
        quantize(noise, path, n_colors=8, n_init=1, resume=True)
        assert zarr.open_array(str(path)).shape == (600, 640)
    else:
        with pytest.raises(OutputError, match=r"out\.zarr: exists already"):
            quantize(noise, path, n_colors=8, n_init=1)
        np.testing.assert_array_equal(theirs[:], np.full((3, 3), 77))
    assert not list(tmp_path.glob(".out*"))


def test_what_another_job_has_just_finished_is_not_replaced(noise, tmp_path, monkeypatch):
    path, opened = tmp_path / "out.png", Destination.opened

    def late(target):
        path.write_bytes(b"theirs")
        return opened(target)

    monkeypatch.setattr(Destination, "opened", late)
    with pytest.raises(OutputError, match=r"out\.png: exists already"):
        quantize(noise, path, n_colors=8, n_init=1)
    assert path.read_bytes() == b"theirs"


def test_staged_pixels_of_a_killed_job_are_swept_though_its_tasks_still_write(tmp_path):
    killed = staging_folder(tmp_path, "out.png", None)
    left, over = killed.__enter__(), threading.Event()

    def write():
        for number in itertools.count():
            if over.is_set():
                break
            with contextlib.suppress(FileNotFoundError):
                (left / f"{number}.raw").write_bytes(b"pixels")

    task = threading.Thread(target=write)
    task.start()
    try:
        with staging_folder(tmp_path, "out.png", None) as folder:
            assert list(tmp_path.iterdir()) == [folder]
            assert list(folder.iterdir()) == []
    finally:
        over.set()
        task.join()
    assert list(tmp_path.iterdir()) == []
