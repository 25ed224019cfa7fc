"""Places: what is written is there whole, or not at all."""

import errno
import itertools
import os
from pathlib import Path

import pytest
from conftest import create_at_once

from dkmeans import _stores
from dkmeans._stores_folders import states
from dkmeans._validation import OutputError, SourceError


def test_what_is_written_is_read(tmp_path):
    place = tmp_path / "a"
    _stores.write(place, b"one")
    _stores.write(place, b"another")
    assert _stores.read(place) == b"another"
    assert _stores.read(place, 3) == b"ano"
    assert _stores.exists(place)
    _stores.remove(place)
    _stores.remove(place)
    assert not _stores.exists(place)
    assert list(tmp_path.iterdir()) == []


def test_of_several_who_create_at_once_one_succeeds(tmp_path):
    create_at_once(tmp_path / "a")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_files_are_created_where_no_file_has_two_names(number, tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuses)
    create_at_once(tmp_path / "a")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    number = errno.EACCES
    with pytest.raises(OutputError, match=r"b: cannot be written \(Permission denied\)"):
        _stores.write(tmp_path / "b", b"1", replace=False)


@pytest.mark.parametrize("name", ["none", "."])
def test_what_cannot_be_read(tmp_path, name):
    with pytest.raises(SourceError):
        _stores.read(f"{tmp_path}/{name}")


@pytest.mark.parametrize("place", ["/", ".", ""])
def test_what_cannot_be_written(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for act in (lambda: _stores.write(place, b"1"), lambda: _stores.refuse_unwritable(place)):
        with pytest.raises(OutputError, match="no file can have this name"):
            act()
    assert list(tmp_path.iterdir()) == []


def test_a_url_that_is_no_place():
    for url in ("ftp://host/file", "s3:///key", "S3://bucket/key"):
        with pytest.raises(ValueError, match="is no place"):
            _stores.read(url)


def killed(_):
    raise KeyboardInterrupt


def test_what_killed_writes_have_left_is_swept(tmp_path, monkeypatch):
    place, other = tmp_path / ("long name " * 20), tmp_path / "other"
    with monkeypatch.context() as patch:
        patch.setattr(_stores.os, "fsync", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # as if nothing ran after it
        for each in (place, other):
            with pytest.raises(KeyboardInterrupt):
                _stores.write(each, b"abc")
    assert len(list(tmp_path.iterdir())) == 2
    _stores.sweep(place)
    [left] = tmp_path.iterdir()
    _stores.sweep(place)
    assert left.exists()
    _stores.sweep(other)
    assert not left.exists()


def test_links_of_folders_are_followed_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0").write_bytes(b"abc")
    names = [f"f{i}" for i in range(9)]
    for name in names:
        (tmp_path / "top" / name).mkdir(parents=True)
        (tmp_path / "top" / name / "back").symlink_to(tmp_path / "top")
    (tmp_path / "top" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "top" / "last").touch()
    for name, other in itertools.permutations(names, 2):
        (tmp_path / "top" / name / f"{other}.link").symlink_to(tmp_path / "top" / other)
    found = list(states(str(tmp_path / "top")))
    assert [(name, size) for name, size, _ in found] == [("c/0", 3), ("last", 0)]
    assert found[0][2] == (tmp_path / "elsewhere" / "0").stat().st_mtime_ns
