"""S3, on a real server: what is read and written there, and what is said when it cannot be."""

import base64
import hmac
import threading
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
import s3_server
from conftest import create_at_once
from s3_proxy import Trouble

import dkmeans
from dkmeans import _stores, _stores_locks, _stores_objects, _summary_rows
from dkmeans._checkpoint import Checkpoint
from dkmeans._stores_locks import Lock, held
from dkmeans._validation import InvalidArgumentError, OutputError, SourceError
from dkmeans.images import _sources

BYTES = bytes(range(256)) * (5 << 12)  # 5 MiB


def test_what_is_written_is_read(s3):
    place = f"{s3}/folder/ö a#b%20c.json"
    assert not _stores.exists(place)
    _stores.write(place, b"one")
    _stores.write(place, b"another")
    assert _stores.exists(place)
    assert _stores.read(place) == b"another"
    assert _stores.read(place, 3) == b"ano"
    _stores.write(f"{s3}/empty", b"")
    assert _stores.read(f"{s3}/empty", 3) == b""
    _stores.remove(place)
    _stores.remove(place)
    assert not _stores.exists(place)


@pytest.mark.parametrize(
    "name",
    [
        "at 1.00.00\u202fPM.png",
        "no\xa0break",
        "soft\xadhyphen",
        "\U0001f468\u200d\U0001f467",
        "a%41?+&*[~",
    ],
)
def test_names_that_systems_give(s3, name):
    """Those of screenshots of macOS have a space that is not printable, as Python has it."""
    _stores.write(f"{s3}/{name}", b"1")
    assert _stores.read(f"{s3}/{name}") == b"1"
    assert _stores.names(s3) == {name}


def test_of_several_who_create_at_once_one_succeeds(s3):
    create_at_once(f"{s3}/a")


def test_an_object_is_read_like_a_file(s3):
    place = f"{s3}/a"
    _stores.write(place, BYTES)
    with _stores.opened(place, _stores.state(place)) as file:
        assert file.read(300) == BYTES[:300]
        assert file.seek(-7, 2) == len(BYTES) - 7
        assert file.read() == BYTES[-7:]
        file.seek(1 << 20)
        assert file.read(3 << 20) == BYTES[1 << 20 : 4 << 20]
        file.seek(0)
        assert file.read() == BYTES
    # Neighbours, a gap, backwards, nothing, more than a request brings.
    places = [(0, 10), (10, 20), (1000, 5), (400_000, 9), (3, 4), (7, 0), (5, 5_000_000)]
    wanted = [BYTES[at : at + size] for at, size in places]
    assert list(_stores.stretches(place, _stores.state(place), places)) == wanted


def test_each_part_of_a_file_is_asked_for_once(s3, monkeypatch):
    place, asked = f"{s3}/a", []
    _stores.write(place, BYTES)
    read_range = _stores_objects.read_range

    def noted(url, state, start, stop):
        asked.append(start)
        return read_range(url, state, start, stop)

    monkeypatch.setattr(_stores_objects, "read_range", noted)
    with _stores.opened(place, _stores.state(place), len(BYTES) // 30) as file:
        while file.read(10_000):
            pass
    assert sorted(asked) == list(range(0, len(BYTES), len(BYTES) // 30))


def test_an_object_that_changes_is_not_read_on(s3):
    place = f"{s3}/a"
    _stores.write(place, BYTES)
    before = _stores.state(place)
    with _stores.opened(place, before, 1 << 16) as file:
        file.read(10)
        _stores.write(place, BYTES[::-1])
        with pytest.raises(SourceError, match=r"s3://data/.*/a: changed while it was being read"):
            file.read(1 << 20)
    with pytest.raises(SourceError, match="changed while"):
        list(_stores.stretches(place, before, [(0, 10)]))


@pytest.mark.parametrize(
    "url",
    [
        *("s3://data/a/../b", "s3://data/./b", "s3://data//b", "s3://", "gs://a"),
        *("s3://data/b\n", "s3://data/\x7f", "s3://data/\x9b", "s3://data/\ud800", "s3://dätä/b"),
    ],
)
def test_names_that_are_none(url):
    with pytest.raises(InvalidArgumentError, match="is no place"):
        _stores.read(url)
    with pytest.raises(InvalidArgumentError, match="is no place"):
        _stores.write(url, b"")


def test_a_bucket_is_no_object(s3):  # noqa: ARG001 - sets the environment
    with pytest.raises(InvalidArgumentError, match=r"expected an object such as s3://data/name"):
        _stores.read("s3://data")


def actions(url):
    """What can be done to an object: who calls, and the error expected."""
    return (
        (lambda: _stores.read(url), SourceError),
        (lambda: _stores.exists(url), SourceError),
        (lambda: _stores.state(url), SourceError),
        (lambda: _stores_objects.listing(url), SourceError),
        (lambda: _stores.write(url, b"1"), OutputError),
        (lambda: _stores.write(url, b"1", replace=False), OutputError),
    )


def refusals(url):
    """Do all that can be done to an object, which must fail; return what is said."""
    said = []
    for act, kind in actions(url):
        with pytest.raises(kind) as caught:
            act()
        text = str(caught.value)
        assert text.startswith(f"{url}: ")
        assert text.endswith(".")
        assert len(text.splitlines()) == 1
        assert "secret" not in text.replace("AWS_SECRET_ACCESS_KEY", "")
        said.append(text)
    return said


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials(s3, monkeypatch, name):
    monkeypatch.setenv(name, "wrong-secret")
    for text in refusals(f"{s3}/a"):
        assert "access was refused" in text
        assert "AWS_ACCESS_KEY_ID" in text


def test_a_bucket_that_is_not_there(s3):  # noqa: ARG001 - sets the environment
    *reads, _, _ = refusals("s3://none/a")  # who may make none is refused to write
    for text in reads:
        assert text == "s3://none/a: cannot be read (there is no bucket none)."


def test_an_object_that_is_not_there(s3):
    for act in (_stores.read, _stores.state):
        with pytest.raises(SourceError, match=rf"^{s3}/a: no such object.$"):
            act(f"{s3}/a")


def test_a_server_that_is_not_there(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("DKMEANS_RETRY_SECONDS", "0.2")
    for text in refusals(f"{s3}/a"):
        assert "the server 127.0.0.1:9 cannot be reached" in text


def test_a_server_that_is_always_busy(s3, proxy, monkeypatch):
    monkeypatch.setenv("DKMEANS_RETRY_SECONDS", "0.3")
    proxy.trouble = [Trouble("503")]
    for text in refusals(f"{s3}/a"):
        assert f"the server 127.0.0.1:{proxy.port} answered 503 Service Unavailable" in text
    assert proxy.befallen > len(actions(""))


def test_settings_that_mean_nothing(s3, monkeypatch):
    monkeypatch.setenv("DKMEANS_RETRY_SECONDS", "long")
    with pytest.raises(InvalidArgumentError, match="DKMEANS_RETRY_SECONDS is 'long'"):
        _stores.read(f"{s3}/a")
    monkeypatch.delenv("DKMEANS_RETRY_SECONDS")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense:/")
    with pytest.raises(InvalidArgumentError, match="endpoint of S3 is 'nonsense:/'"):
        _stores.read(f"{s3}/a")


@pytest.mark.parametrize("kind", ["503", "cut", "half", "delay"])
def test_troubles_that_pass(s3, proxy, kind):
    place = f"{s3}/a"
    _stores.write(place, BYTES)
    proxy.trouble = [Trouble(kind, 3, ("GET", "HEAD"), 0.1)]
    assert _stores.read(place) == BYTES
    state = _stores.state(place)
    proxy.trouble = [Trouble(kind, 3, ("GET", "HEAD"), 0.1)]
    with _stores.opened(place, state) as file:
        assert file.read() == BYTES
    proxy.trouble = [Trouble(kind, 3, ("GET", "HEAD"), 0.1)]
    places = [(at, 1 << 19) for at in range(0, len(BYTES), 1 << 19)]
    assert b"".join(_stores.stretches(place, state, places)) == BYTES
    assert proxy.befallen >= 6
    if kind in ("503", "delay"):
        proxy.trouble = [Trouble(kind, 2, ("PUT",), 0.1)]
        _stores.write(place, BYTES[:100])
        assert _stores.read(place) == BYTES[:100]


def test_a_fit_goes_on_from_a_checkpoint_in_s3(s3, monkeypatch):
    monkeypatch.setattr(_summary_rows, "MIN_ROWS", 400)
    monkeypatch.setattr(_summary_rows, "ROWS_PER_CLUSTER", 10)
    rows = np.random.default_rng(0).normal(size=(6000, 3))
    estimator, place = dkmeans.KMeans(5, random_state=0, tol=1e-6), f"{s3}/m.json.checkpoint"
    wanted = estimator.fit(rows).cluster_centers_.tobytes()

    class Stopping(Checkpoint):
        def save(self, standing):
            super().save(standing)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimator.fit(rows, checkpoint=Stopping(place))
    assert _stores.exists(place)
    with pytest.raises(InvalidArgumentError, match="a checkpoint of a fit of other data"):
        estimator.fit(rows + 1, checkpoint=place)
    assert estimator.fit(rows, checkpoint=place).cluster_centers_.tobytes() == wanted
    assert not _stores.exists(place)


def test_models_and_palettes_have_urls(s3):
    table = np.arange(24.0).reshape(12, 2)
    model = dkmeans.KMeans(3, random_state=0).fit(table)
    model.save(f"{s3}/model.json")
    again = dkmeans.load(f"{s3}/model.json")
    np.testing.assert_array_equal(again.cluster_centers_, model.cluster_centers_)
    palette = dkmeans.Palette([[1, 2, 3], [255, 0, 9]])
    palette.save(f"{s3}/p.gpl")
    with pytest.raises(OutputError, match=rf"^{s3}/p.gpl: exists already"):
        palette.save(f"{s3}/p.gpl")
    palette.save(f"{s3}/p.gpl", overwrite=True)
    assert dkmeans.Palette.load(f"{s3}/p.gpl") == palette


def test_objects_larger_than_memory_come_in_parts(s3):
    _stores.write(f"{s3}/part", b"1" * (1 << 19))

    def chunks():
        for i in range(41):  # what is read meanwhile may come from S3 too
            yield _stores.read(f"{s3}/part") if i == 20 else bytes([i]) * (1 << 19)

    _stores_objects.upload(f"{s3}/a", chunks(), 41 << 19)
    assert _stores.read(f"{s3}/a") == b"".join(chunks())

    def broken():
        yield from chunks()
        raise SourceError("no more")

    with pytest.raises(SourceError, match=r"^no more$"):
        _stores_objects.upload(f"{s3}/b", broken(), 41 << 19)
    assert not _stores.exists(f"{s3}/b")


def test_all_below_a_folder_is_removed(s3):
    for i in range(30):
        _stores.write(f"{s3}/in/{i % 3}/{i}", b"1")
    _stores.write(f"{s3}/in-not", b"1")
    assert len(_stores_objects.names_below(f"{s3}/in")) == 30
    _stores_objects.remove_below(f"{s3}/in")
    assert _stores_objects.names_below(s3) == {"in-not"}


def make_marker(key, server):
    """Make an object of no bytes whose name ends in a slash, as consoles do for a folder.

    Obstore takes no such names; so it is signed here, in the older way.
    """
    until = int(time.time()) + 600
    meant = f"PUT\n\n\n{until}\n/data/{key}/".encode()
    signature = base64.b64encode(hmac.digest(s3_server.SECRET.encode(), meant, "sha1"))
    signed = {"AWSAccessKeyId": s3_server.KEY, "Expires": until, "Signature": signature}
    url = f"http://127.0.0.1:{server.port}/data/{key}/?{urllib.parse.urlencode(signed)}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()


def test_a_marker_of_a_folder_is_nothing_in_it(s3, s3_running):
    make_marker(f"{s3.removeprefix('s3://data/')}/in", s3_running)
    assert not _stores_objects.listing(f"{s3}/in").objects
    assert _stores_objects.names_below(f"{s3}/in") == set()
    for name in ("in/a.png", "in/deep/b.png", "in/deep/notes.txt"):
        _stores.write(f"{s3}/{name}", b"no picture")
    assert list(_stores_objects.listing(f"{s3}/in").objects) == ["a.png"]
    assert _stores.names(f"{s3}/in") == {"a.png", "deep"}
    found = _sources.find(f"{s3}/in/*")
    assert [image.path for image in found] == [f"{s3}/in/a.png", f"{s3}/in/deep/b.png"]
    _stores_objects.remove_below(f"{s3}/in/deep")
    assert _stores_objects.names_below(f"{s3}/in") == {"a.png"}


@pytest.mark.parametrize("kind", ["503", "cut", "lost", "half"])
def test_objects_are_removed_in_spite_of_troubles(s3, proxy, kind):
    for place, remove in (("a", _stores_objects.remove), ("in/a", _stores_objects.remove_below)):
        _stores.write(f"{s3}/{place}", b"1")
        proxy.trouble = [Trouble(kind, 2, ("POST", "DELETE"))]
        remove(f"{s3}/{place.removesuffix('/a')}")
    assert proxy.befallen == 4
    assert _stores_objects.names_below(s3) == set()


def test_lists_survive_troubles(s3, proxy):
    for i in range(3):
        _stores.write(f"{s3}/in/{i}", b"1")
    for kind in ("half", "503", "cut"):
        proxy.trouble = [Trouble(kind, 2, ("GET",), part="list-type")]
        assert _stores_objects.names_below(f"{s3}/in") == {"0", "1", "2"}
        proxy.trouble = [Trouble(kind, 2, ("GET",), part="list-type")]
        assert _stores_objects.listing(s3).folders == ["in"]
    assert proxy.befallen == 12


@pytest.fixture
def _fast(monkeypatch):
    monkeypatch.setattr(_stores_locks, "_BEAT", 0.2)


@pytest.mark.usefixtures("_fast")
def test_a_lock_is_held_by_one(s3):
    with held(f"{s3}/lock", "out") as lock:
        with pytest.raises(OutputError, match=r"^out: another job is writing it \(process"):
            Lock(f"{s3}/lock", "out").take()
        lock.check()
    assert not _stores.exists(f"{s3}/lock")


@pytest.mark.usefixtures("_fast")
def test_a_lock_that_was_left_is_taken_over_by_one(s3):
    _stores.write(f"{s3}/lock", b"of one that was killed")
    taken, refused = [], []

    def take():
        lock = Lock(f"{s3}/lock", "out")
        try:
            lock.take()
            taken.append(lock)
        except OutputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 2)
    taken[0].release()


@pytest.mark.usefixtures("_fast")
def test_who_lost_a_lock_knows(s3, caplog):
    with held(f"{s3}/lock", "out") as lock:
        _stores.write(f"{s3}/lock", b"{}")
        lock._thread.join(10)
        assert "out: another job has taken it over; this one will fail" in caplog.text
        with pytest.raises(OutputError, match="another job has taken it over"):
            lock.check()
    assert _stores.read(f"{s3}/lock") == b"{}"


def test_a_lock_is_looked_at_before_anything_is_done(s3):
    with held(f"{s3}/lock", "out") as lock:
        lock.check()
        lock.check()
        _stores.write(f"{s3}/lock", b"{}")  # by another, before the next beat
        with pytest.raises(OutputError, match="another job has taken it over"):
            lock.check()
    with held(f"{s3}/other", "out"):
        _stores.write(f"{s3}/other", b"{}")
    assert _stores_objects.names_below(s3) == {"lock", "other"}


@pytest.mark.usefixtures("_fast")
def test_a_lock_survives_troubles(s3, proxy):
    with held(f"{s3}/lock", "out") as lock:
        proxy.trouble = [Trouble("503", 2, ("PUT",)), Trouble("half", 2, ("PUT",))]
        with pytest.raises(OutputError, match="another job is writing it"):
            Lock(f"{s3}/lock", "out").take()
        lock.check()


def meanwhile(monkeypatch, act):
    """Let something happen after the next look at a lock."""
    look = _stores_objects.look

    def first(*args):
        monkeypatch.setattr(_stores_objects, "look", look)
        seen = look(*args)
        act()
        return seen

    monkeypatch.setattr(_stores_objects, "look", first)


@pytest.mark.usefixtures("_fast")
def test_a_lock_that_is_given_back_while_it_is_looked_at_is_taken(s3, monkeypatch):
    _stores.write(f"{s3}/lock", b"of one that is about to end")
    meanwhile(monkeypatch, lambda: _stores_objects.remove(f"{s3}/lock"))
    with held(f"{s3}/lock", "out") as lock:
        lock.check()
    _stores.write(f"{s3}/lock", b"of one that is about to end")
    meanwhile(
        monkeypatch, lambda: _stores.write(f"{s3}/lock", b'{"pid": 7, "host": "h", "since": "now"}')
    )
    with pytest.raises(
        OutputError, match=r"another job is writing it \(process 7 on h, since now\)"
    ):
        Lock(f"{s3}/lock", "out").take()


def test_a_lock_whose_answers_get_lost_is_still_ours(s3, proxy, monkeypatch):
    def waits(*_):
        raise AssertionError("nobody is to be waited for")

    monkeypatch.setattr(_stores_locks.time, "sleep", waits)
    proxy.trouble = [Trouble("lost", 1, ("PUT",))]
    with held(f"{s3}/lock", "out") as lock:
        proxy.trouble = [Trouble("lost", 1, ("PUT",))]
        lock.check()
        lock.check()
        assert proxy.befallen == 2
    assert not _stores.exists(f"{s3}/lock")


def test_a_lock_that_cannot_be_read_is_not_given_up(s3, proxy, monkeypatch):
    monkeypatch.setenv("DKMEANS_RETRY_SECONDS", "0.3")
    with held(f"{s3}/lock", "out") as lock:
        proxy.trouble = [Trouble("lost", 1, ("PUT",)), Trouble("503", methods=("GET", "HEAD"))]
        with pytest.raises(OutputError, match=r"/lock: cannot be read \(.* answered 503"):
            lock.check()
        proxy.trouble = []
        lock.check()
    assert not _stores.exists(f"{s3}/lock")


def test_a_lock_that_cannot_be_given_back_hides_no_error(s3, proxy, monkeypatch, caplog):
    monkeypatch.setenv("DKMEANS_RETRY_SECONDS", "0.2")

    def job():
        with held(f"{s3}/lock", "out"):
            proxy.trouble = [Trouble("503", methods=("PUT",))]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        job()
    assert "The lock of out could not be given back" in caplog.text
