"""Passes over a source that keeps a log, on every kind of scheduler."""

import itertools
import operator
import os
import pickle
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import dask
import dask.array
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from distributed.protocol import serialize, to_serialize
from hypothesis import given
from hypothesis import strategies as st

import dkmeans
from dkmeans import _passes, _passes_distributed, _passes_schedulers, _seeding_tiles, _tables_kept
from dkmeans._passes import (
    Cancelled,
    Inputs,
    Passes,
    Piece,
    Ticker,
    n_workers,
    partition,
)
from dkmeans._passes_threads import in_threads, merged_in_threads
from dkmeans._seeding import choose
from dkmeans._tables_blocks import MemorySource, TablePiece
from dkmeans._tables_regions import Regions
from dkmeans._tiling import grid
from dkmeans._validation import InvalidArgumentError
from dkmeans.images import _assign, _quiet


@dataclass(frozen=True)
class Spy:
    """A source whose pixels hold their own position; writes each open and read to a log."""

    name: str
    log: Path | None = None
    shape: tuple[int, int, int] = (30, 40, 2)
    block: tuple[int, int] = (10, 10)
    in_order: bool = False

    dtype = np.dtype(np.uint8)

    def read(self, windows):
        self.note("open")
        y, x = np.indices(self.shape[:2], np.uint8)
        for window in windows:
            self.note(f"{window.y} {window.x}")
            yield np.stack([y, x], axis=-1)[window.rows, window.columns]

    def note(self, text):
        # Appended in one write: whole lines, from any process.
        with self.log.open("a") as file:
            file.write(f"{self.name} {text}\n")

    def fingerprint(self):
        return self.name


def whole(source, index=0):
    """All windows of a source."""
    return Piece(index, source, grid(*source.shape[:2], source.block))


def collect(part, ticker):
    """List the windows that were read, after checking what was read."""
    found = []
    for piece in part:
        blocks = piece.source.read(piece.windows)
        for window, block in zip(piece.windows, blocks, strict=True):
            assert block[0, 0].tolist() == [window.y, window.x]
            assert block[-1, -1].tolist() == [window.rows.stop - 1, window.columns.stop - 1]
            found.append((piece.index, window))
            ticker(block.nbytes)
    return found


class Display:
    """A progress display that remembers what it was told."""

    def __init__(self):
        self.told = []

    def begin(self, name, nbytes, n_pixels):
        self.told.append((name, nbytes, n_pixels))

    def advance(self, nbytes):
        self.told.append(nbytes)

    def end(self):
        self.told.append("end")


@pytest.fixture
def sources(tmp_path):
    log = tmp_path / "log"
    return [
        Spy("a", log),
        Spy("b", log, shape=(25, 33, 2), in_order=True),
        Spy("c", log, shape=(10, 10, 2)),
    ]


# Running


@pytest.mark.usefixtures("scheduler")
def test_a_pass_reads_every_window_once_and_merges_in_order(sources):
    pieces = [whole(source, i) for i, source in enumerate(sources)]
    partitions = partition(pieces)
    display = Display()
    passes = Passes(display)
    nbytes = sum(source.shape[0] * source.shape[1] * 2 for source in sources)

    for done in (1, 2):
        merged = passes.run("look", collect, partitions, operator.add)
        assert merged == [(piece.index, window) for piece in pieces for window in piece.windows]
        assert passes.n_passes == done
        assert passes.bytes_read == done * nbytes

    lines = Counter(sources[0].log.read_text().splitlines())
    for piece in pieces:
        name = piece.source.name
        for window in piece.windows:
            assert lines[f"{name} {window.y} {window.x}"] == 2
        opened = sum(part.source.name == name for group in partitions for part in group)
        assert lines[f"{name} open"] == 2 * opened
    assert lines["b open"] == 2

    assert display.told[0] == ("look", nbytes, nbytes // 2)
    assert display.told[-1] == "end"
    advances = [told for told in display.told if isinstance(told, int)]
    assert sum(advances) == 2 * nbytes


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_any_number_of_partitions_merges_in_order(sources, n):
    windows = whole(sources[0]).windows
    cuts = np.linspace(0, len(windows), n + 1).astype(int)
    parts = [
        (Piece(0, sources[0], windows[start:stop]),) for start, stop in itertools.pairwise(cuts)
    ]
    merged = Passes().run("look", collect, parts, operator.add)
    assert [window for _, window in merged] == list(windows)


@pytest.mark.usefixtures("client")
def test_another_scheduler_can_be_asked_for_beside_a_cluster(sources):
    with dask.config.set(scheduler="threads"):
        here = Passes().run("look", process_ids, partition([whole(sources[0])]), operator.or_)
    assert here == {os.getpid()}
    there = Passes().run("look", process_ids, partition([whole(sources[0])]), operator.or_)
    assert os.getpid() not in there


def process_ids(part, ticker):
    collect(part, ticker)
    return {os.getpid()}


@pytest.mark.usefixtures("inner_client")
def test_a_cluster_within_the_process_counts_bytes_once(sources):
    passes = Passes()
    passes.run("look", collect, partition([whole(sources[0])]), operator.add)
    assert passes.bytes_read == 30 * 40 * 2


@dataclass(frozen=True)
class Awaiting(Piece):
    """A piece that cannot be read before Dask has computed something for each window."""

    graph: object = None
    blocks: tuple = ()
    name: str = ""

    @property
    def inputs(self):
        if self.graph is None:
            return None
        (name,) = self.graph.layers
        return Inputs(self.graph, tuple((name, window.y) for window in self.windows))

    def given(self, blocks):
        return replace(self, graph=None, blocks=tuple(blocks))


def wait_for(part, ticker):
    """List what Dask computed for each window."""
    collect(part, ticker)
    return [block for piece in part if isinstance(piece, Awaiting) for block in piece.blocks]


def awaiting(source, compute):
    """Return a piece of one column of windows, each of which needs `compute` of its row."""
    windows = grid(source.shape[0], 10, (10, 10))
    name = compute.__name__  # a cluster takes tasks of one name for the same
    layer = {(name, window.y): (compute, window.y) for window in windows}
    graph = HighLevelGraph.from_collections(name, layer)
    return Awaiting(0, source, windows, graph)


@pytest.mark.usefixtures("scheduler")
def test_each_piece_gets_the_blocks_that_dask_computed_for_it(sources):
    lone = awaiting(sources[0], operator.neg)
    for partitions in (partition([lone]), [(whole(sources[2], 1), lone, whole(sources[1], 2))]):
        assert Passes().run("wait", wait_for, partitions, operator.add) == [0, -10, -20]


def pass_inside(source):
    """Run a pass, with inputs and without, and say how many tasks it ran at once."""
    found = Passes().run("look", collect, partition([whole(source)]), operator.add)
    lone = awaiting(source, operator.neg)
    blocks = Passes().run("wait", wait_for, partition([lone]), operator.add)
    return len(found), blocks, n_workers(), in_threads(str, range(3))


def test_a_pass_inside_a_task_does_not_wait_for_other_tasks(client, sources):
    futures = client.map(pass_inside, [sources[0]] * 6, pure=False)
    assert client.gather(futures) == [(12, [0, -10, -20], 1, ["0", "1", "2"])] * 6


@dataclass
class Held:
    """A result that holds arrays."""

    arrays: dict


def hold(part, ticker):
    """Return arrays of many kinds, in an object."""
    del part, ticker
    grid_ = np.arange(6.0).reshape(2, 3)
    arrays = [grid_, grid_.T, grid_[:, ::2], grid_.astype(">f4"), grid_ > 2, np.empty((0, 3))]
    arrays += [np.array(7), np.array([(1, 2.5)], "i4,f8"), np.array(["a", None], object)]
    return Held(dict(enumerate(arrays)))


def first_of(a, _):
    return a


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_results_come_from_a_cluster_as_they_are(sources, n_tasks):
    found = Passes().run("hold", hold, [(whole(sources[0]),)] * n_tasks, first_of)
    for i, expected in hold((), None).arrays.items():
        array = found.arrays[i]
        np.testing.assert_array_equal(array, expected)
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        array[...] = array  # it may be written to


def test_arrays_of_results_are_not_copied_to_be_sent():
    array = np.arange(6.0).reshape(2, 3).T
    packed = _passes_distributed._packed(Held, {"it": array})
    header, frames = serialize(to_serialize(packed), context={"pickle-protocol": 4})
    assert header["is-collection"]
    assert any(np.shares_memory(frame, array) for frame in map(np.asarray, frames))


# Failing


@pytest.fixture(autouse=True)
def interruptible():
    """Take SIGINT as Python does by default: a shell's background job ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class BrokenError(Exception):
    """What no library raises."""


def break_at_the_third(part, ticker):
    for count, _ in enumerate(collect(part, ticker)):
        if count == 2:
            raise BrokenError(part[0].source.name)


@pytest.mark.usefixtures("scheduler")
def test_an_error_comes_out_as_itself(sources):
    display = Display()
    passes = Passes(display)
    with pytest.raises(BrokenError, match="a"):
        passes.run("look", break_at_the_third, [(whole(sources[0]),)], operator.add)
    assert display.told[-1] == "end"
    assert passes.n_passes == 0


class Crowd:
    """Work that never ends by itself; the third to begin strikes."""

    def __init__(self, strike):
        self.strike = strike
        self.turn = itertools.count(1)
        self.running = 0

    def __call__(self, part, ticker):
        assert part
        self.running += 1
        try:
            if next(self.turn) == 3:
                self.strike()
            while True:
                ticker(0)
                time.sleep(0.001)
        finally:
            time.sleep(0.05)
            self.running -= 1


def strike_by_error():
    raise BrokenError


def strike_by_interrupt():
    time.sleep(0.2)  # the main thread is about to wait: a signal in the moment before can get lost
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("strike", "error"),
    [(strike_by_error, BrokenError), (strike_by_interrupt, KeyboardInterrupt)],
)
def test_no_thread_works_on_when_a_pass_has_failed(strike, error, sources):
    crowd = Crowd(strike)
    parts = [(replace(whole(sources[0]), index=i),) for i in range(6)]
    with dask.config.set(scheduler="threads", num_workers=3), pytest.raises(error):
        Passes().run("look", crowd, parts, operator.add)
    assert crowd.running == 0
    time.sleep(0.1)
    assert crowd.running == 0  # nor has another one begun


def test_a_task_that_comes_late_does_not_begin():
    ticker = Ticker(int)
    ticker.cancel()
    with pytest.raises(Cancelled), ticker:
        pytest.fail("the body is never entered")
    ticker.cancel()  # waits for nobody


def interrupt(part, ticker):
    collect(part, ticker)
    raise KeyboardInterrupt


def test_an_interrupt_comes_out_of_a_single_thread(sources):
    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        Passes().run("look", interrupt, [(whole(sources[0]),)], operator.add)


def dawdle(part, ticker):
    time.sleep(0.5)
    return collect(part, ticker)


@pytest.mark.usefixtures("client")
def test_an_interrupt_leaves_a_cluster_ready_for_more(sources):
    parts = [(replace(whole(sources[0]), index=i),) for i in range(8)]
    timer = threading.Timer(0.4, strike_by_interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        Passes().run("look", dawdle, parts, operator.add)
    timer.join()
    assert len(Passes().run("look", collect, parts[:1], operator.add)) == 12


def linger(number):
    time.sleep(0.5)
    return number


@pytest.mark.usefixtures("client")
def test_an_interrupt_while_dask_computes_blocks_leaves_a_cluster_ready_for_more(sources):
    timer = threading.Timer(0.4, strike_by_interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        Passes().run("wait", wait_for, [(awaiting(sources[0], linger),)], operator.add)
    timer.join()
    lone = awaiting(sources[0], operator.neg)
    assert Passes().run("wait", wait_for, [(lone,)], operator.add) == [0, -10, -20]


def die_once(part, ticker):
    found = collect(part, ticker)
    grave = part[0].source.log.with_name("grave")
    if part[0].index == 2 and not grave.exists():
        grave.touch()
        os._exit(1)
    return found


def test_a_lost_worker_costs_no_window(client, sources):
    pieces = [whole(source, i) for i, source in enumerate(sources)]
    passes = Passes()
    merged = passes.run("look", die_once, [(piece,) for piece in pieces], operator.add)
    assert merged == [(piece.index, window) for piece in pieces for window in piece.windows]
    assert passes.bytes_read == sum(piece.nbytes for piece in pieces)
    client.wait_for_workers(2)  # as the next test expects


# Dealing out


@st.composite
def sources_of_any_size(draw):
    shape = draw(st.tuples(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 3])))
    block = draw(st.tuples(st.integers(20, 100), st.integers(20, 100)))
    return Spy("", shape=shape, block=block, in_order=draw(st.booleans()))


@given(st.lists(sources_of_any_size(), max_size=12), st.sampled_from([1, 2, 3, 6, 16]))
def test_partitions_hold_every_window_once_in_order_and_are_balanced(spies, workers):
    pieces = [whole(spy, i) for i, spy in enumerate(spies)]
    with dask.config.set(scheduler="threads", num_workers=workers):
        partitions = partition(pieces)

    dealt = [part for group in partitions for part in group]
    windows = [(part.index, window) for part in dealt for window in part.windows]
    assert windows == [(piece.index, window) for piece in pieces for window in piece.windows]
    assert all(part.source is pieces[part.index].source for part in dealt)
    assert all(partitions)

    times = Counter(part.index for part in dealt)
    assert all(times[i] == 1 for i, spy in enumerate(spies) if spy.in_order)

    # No partition is larger than its share by more than one part; a part is what cannot be cut,
    # or a share to the next full window.
    per_worker = {6: 5, 16: 3}.get(workers, 8)
    share = sum(piece.nbytes for piece in pieces) / (per_worker * workers)
    uncut = max((smallest_part(piece) for piece in pieces), default=0)
    for group in partitions:
        assert sum(part.nbytes for part in group) <= 2 * (share + uncut)
    if pieces and uncut <= share:
        assert per_worker / 2 * workers <= len(partitions) <= per_worker * workers + 1


def smallest_part(piece):
    if piece.source.in_order:
        return piece.nbytes
    return max(window.n_pixels for window in piece.windows) * piece.pixel_bytes


@pytest.mark.usefixtures("client")
def test_no_partition_is_too_large_for_a_worker_to_lose(monkeypatch):
    monkeypatch.setattr(_passes, "_MAX_PARTITION_BYTES", 10_000)
    partitions = partition([whole(Spy("", shape=(1000, 1000, 1)))])
    assert max(sum(part.nbytes for part in group) for group in partitions) <= 20_000


@pytest.mark.usefixtures("client")
def test_the_number_of_tasks_does_not_grow_with_the_data():
    leading = (100_000 << 17,)
    windows = Regions.of(leading, (1 << 17,))
    source = MemorySource((*leading, 32), np.dtype(np.float32), np.empty(0), None)
    a_table = Stored(0, source, windows, leading, 0)
    a_picture = Piece(0, Spy("", shape=(25_000, 40_000, 1)), grid(25_000, 40_000, (100, 100)))
    for piece in (a_table, a_picture):
        partitions = partition([piece])
        assert len(partitions) <= 65
        assert sum(len(part.windows) for group in partitions for part in group) == 100_000
        assert len(pickle.dumps(partitions)) < 65 * 500


class Stored(TablePiece):
    """A piece as if it were on disk."""

    in_memory = False


class Heavy:
    """Work that knows how often it was unpickled, by a log."""

    def __init__(self, log):
        self.log = log

    def __setstate__(self, state):
        self.__dict__.update(state)
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")

    def __call__(self, part, ticker):
        return collect(part, ticker)


@pytest.mark.usefixtures("client")
def test_what_tasks_share_is_sent_to_each_worker_once(sources, tmp_path):
    parts = [(replace(whole(sources[0]), index=i),) for i in range(20)]
    Passes().run("look", Heavy(tmp_path / "heavy"), parts, operator.add)
    arrived = Counter((tmp_path / "heavy").read_text().split())
    assert set(arrived.values()) <= {1, 2}  # twice where it was made, and came from elsewhere


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"num_workers": 0}, "num_workers is 0"),
        ({"num_workers": "abc"}, "num_workers is 'abc'"),
        ({"scheduler": "nonsense"}, "scheduler is 'nonsense'"),
    ],
)
def test_what_dask_does_not_know_is_refused(config, named):
    rows = np.arange(60_000.0).reshape(-1, 3)
    with dask.config.set(config), pytest.raises(InvalidArgumentError, match=named):
        dkmeans.KMeans(2, n_init=2).fit(dask.array.from_array(rows, chunks=10_000))


def test_nothing_to_read_is_no_partition():
    assert partition([]) == []


def test_sizes_are_those_of_decoded_pixels():
    assert whole(Spy("", shape=(25, 33, 2))).nbytes == 25 * 33 * 2


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"scheduler": "synchronous", "num_workers": 7}, 1),
        ({"scheduler": "threads", "num_workers": 7}, 7),
        ({"scheduler": "processes", "num_workers": 3}, 3),
        ({"scheduler": "threads"}, dask.system.CPU_COUNT),
    ],
)
def test_n_workers_is_what_runs_at_once(settings, expected):
    with dask.config.set(settings):
        assert n_workers() == expected


@pytest.mark.usefixtures("client")
def test_n_workers_of_a_cluster():
    assert n_workers() == 2


class Result:
    """A result of which it is known how many there are at once."""

    alive, most = set(), 0

    def __init__(self):
        self.alive.add(id(self))
        type(self).most = max(self.most, len(self.alive))

    def __del__(self):
        self.alive.discard(id(self))

    def __deepcopy__(self, memo):
        return Result()

    def merge(self, other):
        assert other is not self
        return self


def one_result(part, ticker):
    time.sleep(0.01)  # so that the scheduler keeps up
    collect(part, ticker)
    return Result()


@pytest.mark.usefixtures("inner_client")
def test_results_are_gone_once_they_are_merged(sources):
    Passes().run("look", one_result, [(whole(sources[0]),)] * 64, Result.merge)
    assert Result.most < 32


@pytest.mark.parametrize("name", ["synchronous", "threads"])
def test_in_threads_keeps_the_order(name):
    with dask.config.set(scheduler=name, num_workers=3):
        assert in_threads(lambda item: item * item, range(20)) == [i * i for i in range(20)]
        assert in_threads(str, [5]) == ["5"]


def test_in_threads_uses_all_threads():
    meeting = threading.Barrier(3, timeout=30)
    with dask.config.set(scheduler="threads", num_workers=3):
        assert len({*in_threads(lambda _: meeting.wait(), range(3))}) == 3


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_merged_in_threads_merges_in_order_and_at_once(n_threads):
    alive, counts = set(), []

    class Text:
        def __init__(self, text):
            self.text = text
            alive.add(id(self))
            counts.append(len(alive))

        def __del__(self):
            alive.discard(id(self))

    def text_of(item):
        time.sleep(0.002 * (item % 7 == 0))  # some wait for an earlier one
        return Text(f"{item} ")

    items = range(200)
    with dask.config.set(scheduler="threads", num_workers=n_threads):
        found = merged_in_threads(text_of, lambda a, b: Text(a.text + b.text), items)
    assert found.text == "".join(f"{item} " for item in items)
    # Each thread may have two that it merges and what comes of them; between two others one waits.
    assert max(counts) <= 4 * n_threads + 1


def forked(function):
    """Call a function in a forked process; return the status with which that ends, in time."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    for _ in range(300):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "lock",
    [
        _seeding_tiles._shared._lock,
        _assign._table_lock,
        _quiet._catching,
        _tables_kept._kept.lock,
        _passes_schedulers._CONFIGURING,
    ],
    ids=["points", "labels", "warnings", "blocks", "configuration"],
)
def test_locks_are_free_in_a_forked_process(lock):
    with lock:  # as a thread of the parent has it
        assert forked(lock.__enter__) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_process_forked_while_points_are_shared_chooses_too():
    points, weights = np.random.default_rng(0).normal(size=(400, 3)), np.ones(400)

    def chosen():
        return choose(points, weights, 3, np.random.default_rng(0))

    expected = chosen()
    with _seeding_tiles._shared._lock:  # as a thread of the parent has it
        assert forked(lambda: np.testing.assert_array_equal(chosen(), expected)) == 0


def test_in_threads_shares_out_shared_work():
    def squares(item):
        return in_threads(lambda other: (item + other) ** 2, range(4))

    with dask.config.set(scheduler="threads", num_workers=2):
        found = in_threads(squares, range(8))
    assert found == [[(a + b) ** 2 for b in range(4)] for a in range(8)]


@pytest.mark.parametrize("which", [0, 1, 50])
def test_in_threads_raises_and_leaves_the_rest(which):
    done = []

    def work(item):
        if item == which:
            raise KeyError(item)
        time.sleep(0.001)
        done.append(item)

    with dask.config.set(scheduler="threads", num_workers=2):
        with pytest.raises(KeyError, match=str(which)):
            in_threads(work, range(100))
        n = len(done)
        assert n < which + 10
        time.sleep(0.01)
        assert len(done) == n  # nobody works on
