"""Tables of every kind, read by passes on every scheduler and mapped without being read."""

import gc
import itertools
import json
import operator
import os
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import dask
import dask.array as da
import dask.dataframe as dd
import hypothesis
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from dkmeans import (
    _passes,
    _tables_blocks,
    _tables_dask,
    _tables_kept,
    _tables_raw,
    _tables_zarr,
)
from dkmeans import _passes_schedulers as schedulers
from dkmeans._passes import Passes
from dkmeans._tables import table
from dkmeans._tables_blocks import Block
from dkmeans._tables_regions import Region, Regions, regions, regular
from dkmeans._tables_zarr import steps
from dkmeans._validation import DkmeansError, InvalidArgumentError, SourceError

DTYPES = ("f2", "f4", "f8", "u1", "i1", "u2", "i2", ">f4", ">u2", "i4", "u8", "i8", "?", "g")
READ_AS = {"f2": "f4", "f4": "f4", "f8": "f8", "u1": "u1", "i1": "i1", "u2": "u2", "i2": "i2"}


def made(shape, dtype="f4"):
    """Return rows of which no two are alike, read-only."""
    values = np.arange(np.prod(shape)).reshape(shape) % 251 % (2 if dtype == "?" else 251)
    if np.dtype(dtype).kind in "fi" and np.dtype(dtype).itemsize == 1:
        values %= 127
    values = values.astype(dtype)
    values.flags.writeable = False
    return values


def weights_of(shape):
    """Return a weight for each row, read-only."""
    weights = 1 + np.arange(np.prod(shape)).reshape(shape) / 8
    weights.flags.writeable = False
    return weights


def collect(part, tick):
    """List what the blocks of a partition hold."""
    found = []
    for piece in part:
        for block in piece.blocks():
            values = block.values  # noqa: PD011 - no pandas
            assert values.flags.c_contiguous
            assert len(values)
            weights = None if block.weights is None else block.weights.copy()
            found.append((block.numbers(), values.copy(), weights))
            tick(values.nbytes)
    return found


def read(a_table, passes=None):
    """Return all rows, their weights, and the order in which they came."""
    passes = passes or Passes()
    before = passes.bytes_read
    found = passes.run("read", collect, _passes.partition(a_table.pieces), operator.add)
    assert passes.bytes_read - before == a_table.nbytes
    numbers, values, weights = zip(*found, strict=True)
    numbers = np.concatenate(numbers)
    order = np.argsort(numbers)
    np.testing.assert_array_equal(numbers[order], np.arange(a_table.n_rows))
    rows = np.concatenate(values)[order]
    assert rows.dtype == a_table.dtype
    if weights[0] is None:
        assert not a_table.is_weighted
        return rows, None
    return rows, np.concatenate(weights)[order]


def raising(*_, **__):
    raise AssertionError("something was computed")


# Every kind is made of NumPy rows and a folder: a name for the test, and what is handed in.


def unknown(array):
    """Return a Dask array that does not know how long its chunks are."""
    x = da.from_array(array, chunks=(7, -1))
    return x[da.from_array(np.ones(len(array), bool), chunks=7)]


def with_empty_chunks(array):
    x = da.from_array(array, chunks=(10, -1))
    return da.concatenate([x[:0], x[:10], x[:0], x[10:], x[:0]])


def zarr_array(folder, array, store=None, **options):
    name = f"a{len(list(folder.iterdir()))}"
    store = folder if store is None else store
    return zarr.create_array(store, name=name, data=np.asarray(array), **options)


KINDS_2D = {
    "numpy C": lambda a, _: a,
    "numpy F": lambda a, _: np.asfortranarray(a),
    "numpy strided": lambda a, _: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "numpy reversed": lambda a, _: a[::-1].copy()[::-1],
    "dask rows": lambda a, _: da.from_array(a, chunks=(10, -1)),
    "dask uneven": lambda a, _: da.from_array(a, chunks=((1, 22, 14), -1)),
    "dask features": lambda a, _: da.from_array(a, chunks=(10, 2)),
    "dask one": lambda a, _: da.from_array(a, chunks=-1),
    "dask empty": lambda a, _: with_empty_chunks(a),
    "dask unknown": lambda a, _: unknown(a),
    "dask unknown features": lambda a, _: unknown(a).rechunk({1: 2}),
    "zarr": lambda a, f: zarr_array(f, a, chunks=(10, 5)),
    "zarr features": lambda a, f: zarr_array(f, a, chunks=(10, 2)),
    "zarr shards": lambda a, f: zarr_array(f, a, chunks=(5, 5), shards=(15, 5)),
    "zarr memory": lambda a, f: zarr_array(f, a, zarr.storage.MemoryStore(), chunks=(10, 5)),
    "zarr raw": lambda a, f: zarr_array(f, a, chunks=(10, 5), compressors=None),
    "zarr raw 2": lambda a, f: zarr_array(
        f, a, chunks=(10, 5), compressors=None, filters=None, zarr_format=2
    ),
    "zarr checked": lambda a, f: zarr_array(f, a, chunks=(10, 5), compressors=[Crc32cCodec()]),
    "zarr raw features": lambda a, f: zarr_array(f, a, chunks=(10, 2), compressors=None),
    "zarr 2": lambda a, f: zarr_array(f, a, chunks=(10, 5), zarr_format=2),
    "path": lambda a, f: str(f / zarr_array(f, a, chunks=(10, 5)).path),
    "xarray": lambda a, _: xr.DataArray(a),
    "xarray dask": lambda a, _: xr.DataArray(a).chunk({"dim_0": 10}),
    "data frame": lambda a, _: frame(a),
}
KINDS_3D = {
    "numpy C": lambda a, _: a,
    "numpy planes": lambda a, _: np.ascontiguousarray(a.transpose(2, 0, 1)).transpose(1, 2, 0),
    "numpy crop": lambda a, _: np.pad(a, 1)[1:-1, 1:-1, 1:-1],
    "dask": lambda a, _: da.from_array(a, chunks=(4, 3, 2)),
    "zarr": lambda a, f: zarr_array(f, a, chunks=(2, 3, 5)),
    "zarr raw": lambda a, f: zarr_array(f, a, chunks=(2, 3, 5), compressors=None),
    "zarr shards": lambda a, f: zarr_array(f, a, chunks=(2, 3, 2), shards=(4, 6, 6)),
    "xarray": lambda a, _: xr.DataArray(a, dims=["y", "x", "band"]),
    "xarray dask": lambda a, _: xr.DataArray(a, dims=["y", "x", "band"]).chunk({"y": 3}),
}
KINDS = [(2, kind) for kind in KINDS_2D] + [(3, kind) for kind in KINDS_3D]


def frame(array):
    columns = [f"c{i}" for i in range(array.shape[-1])]
    return dd.from_pandas(pd.DataFrame(array, columns=columns), npartitions=4)


def given(ndim, kind, folder, dtype="f4"):
    """Return rows, and the same rows as data of a kind."""
    rows = made((37, 5) if ndim == 2 else (9, 7, 5), dtype)
    return rows, (KINDS_2D if ndim == 2 else KINDS_3D)[kind](rows, folder)


# Reading

# One for each way to the rows; that the others come to the same needs no cluster to show.
SENT = [
    (2, "numpy C"),
    (2, "dask features"),
    (2, "dask empty"),
    (2, "dask unknown"),
    (2, "zarr shards"),
    (2, "zarr memory"),
    (2, "path"),
    (2, "data frame"),
    (3, "dask"),
    (3, "numpy planes"),
    (3, "zarr"),
    (3, "xarray dask"),
]
IN_PROCESSES = [(2, "numpy C"), (2, "dask unknown"), (2, "zarr shards"), (2, "path"), (3, "dask")]


@pytest.mark.parametrize(("ndim", "kind"), SENT)
def test_every_row_is_read_once_with_its_number(ndim, kind, tmp_path, scheduler):
    if scheduler == "processes" and (ndim, kind) not in IN_PROCESSES:
        return  # they take seconds to start
    rows, data = given(ndim, kind, tmp_path)
    found, weights = read(table(data))
    np.testing.assert_array_equal(found, rows.reshape(-1, 5))
    assert weights is None


@pytest.mark.parametrize(("ndim", "kind"), KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_as_it_is_or_as_one_that_holds_it(ndim, kind, dtype, tmp_path):
    if dtype == "g" and ("zarr" in kind or "path" in kind):
        return  # Zarr has no such numbers
    rows, data = given(ndim, kind, tmp_path, dtype)
    a_table = table(data)
    assert a_table.dtype == READ_AS.get(dtype.removeprefix(">"), "f8")
    np.testing.assert_array_equal(read(a_table)[0], rows.reshape(-1, 5))


@pytest.mark.parametrize(("ndim", "kind"), KINDS)
def test_a_table_knows_its_shape_and_changes_nothing(ndim, kind, tmp_path):
    rows, data = given(ndim, kind, tmp_path)
    chunks = getattr(data, "chunks", None)
    with dask.config.set(scheduler=raising):
        a_table = table(data)
        assert a_table.n_features == 5
        assert a_table.is_lazy == ("numpy" not in kind and kind != "xarray")
        assert a_table.is_weighted is False
        if "unknown" not in kind and kind != "data frame":
            assert a_table.shape == rows.shape
    assert a_table.shape == rows.shape
    assert (a_table.n_rows, a_table.nbytes) == (rows.size // 5, rows.nbytes)
    assert a_table.names == (["c0", "c1", "c2", "c3", "c4"] if kind == "data frame" else None)
    assert repr(getattr(data, "chunks", None)) == repr(chunks)


def test_what_is_in_memory_is_not_copied():
    for rows in (made((1 << 18, 8)), made((512, 512, 8))):
        [piece] = table(rows).pieces
        blocks = list(piece.blocks())
        assert len(blocks) > 1
        assert all(np.shares_memory(block.values, rows) for block in blocks)


@pytest.mark.parametrize("shape", [(1, 70_000, 8), (70_000, 1, 8), (3, 5, 20_000, 8)])
def test_large_data_in_memory_are_shared_out(shape):
    rows = made((*shape[:-1], 16))[..., ::2]
    [piece] = table(rows).pieces
    assert max(region.n_pixels for region in piece.windows) * 32 <= 1 << 21
    np.testing.assert_array_equal(read(table(rows))[0], rows.reshape(-1, 8))


@pytest.mark.usefixtures("client")
def test_data_in_memory_are_read_in_this_process():
    for data in (made((100_000, 8)), made((100_000, 16))[:, ::2]):
        partitions = _passes.partition(table(data).pieces)
        assert Passes().run("look", process_ids, partitions, operator.or_) == {os.getpid()}
    lazy = _passes.partition(table(da.from_array(data, chunks=10_000)).pieces)
    assert os.getpid() not in Passes().run("look", process_ids, lazy, operator.or_)


def process_ids(part, ticker):
    collect(part, ticker)
    return {os.getpid()}


@pytest.mark.parametrize("name", ["processes", "threads", "synchronous"])
def test_data_in_memory_keep_to_the_threads_asked_for(name):
    partitions = _passes.partition(table(made((100_000, 8))).pieces)
    n_threads = 1 if name == "synchronous" else 2
    seen, all_there = set(), threading.Barrier(n_threads, timeout=30)

    def note(part, ticker):
        collect(part, ticker)
        thread = threading.get_ident()
        if thread not in seen:  # one thread could do all before another begins
            seen.add(thread)
            all_there.wait()
        return {os.getpid()}

    with dask.config.set(scheduler=name, num_workers=2):
        assert Passes().run("look", note, partitions, operator.or_) == {os.getpid()}
    assert len(seen) == n_threads
    assert threading.get_ident() in seen


# Weights


@pytest.mark.parametrize(("ndim", "kind"), KINDS)
@pytest.mark.parametrize("weight", ["numpy", "flat", "dask", "zarr"])
def test_every_row_keeps_its_weight(ndim, kind, weight, tmp_path):
    rows, data = given(ndim, kind, tmp_path)
    weights = weights_of(rows.shape[:-1])
    lazy = not isinstance(data, np.ndarray) and kind != "xarray"
    if not lazy and weight in ("dask", "zarr"):
        return  # tested below
    same = getattr(getattr(data, "data", data), "chunks", None)
    if weight == "dask" and ("unknown" in kind or kind == "data frame"):
        sure = unknown(weights[:, None])[:, 0]
        brought = sure if "unknown" in kind else frame(weights[:, None])["c0"]
    elif weight == "dask":
        chunks = same[:-1] if isinstance(same, tuple) and "dask" in kind else 4
        brought = da.from_array(weights, chunks=chunks)
    else:
        brought = {
            "numpy": weights,
            "flat": weights.reshape(-1),
            "zarr": zarr_array(tmp_path, weights, chunks=(4, 3)[: ndim - 1]),
        }[weight]
    a_table = table(data, brought)
    assert a_table.is_weighted
    found_rows, found = read(a_table)
    np.testing.assert_array_equal(found_rows, rows.reshape(-1, 5))
    np.testing.assert_array_equal(found, weights.reshape(-1))


@pytest.mark.usefixtures("scheduler")
def test_weights_go_where_the_rows_go():
    rows, weights = made((37, 5)), weights_of((37,))
    data = da.from_array(rows, chunks=(10, 2))
    found = read(table(data, da.from_array(weights, chunks=10).astype("f4")))[1]
    np.testing.assert_array_equal(found, weights)


def test_weights_of_labelled_data_are_turned_with_it():
    rows, weights = made((9, 7, 5)), weights_of((9, 7))
    data = xr.DataArray(rows.transpose(2, 1, 0), dims=["band", "x", "y"])
    a_table = table(data, xr.DataArray(weights, dims=["y", "x"]), feature_dim="band")
    np.testing.assert_array_equal(read(a_table)[1], weights.T.ravel())


@pytest.mark.parametrize(
    ("labels", "fits"),
    [([0, 1, 2], True), (None, True), ([2, 1, 0], False), ([0, 1, 3], False)],
)
def test_labelled_weights_are_those_of_their_rows(labels, fits):
    data = xr.DataArray(made((3, 2, 4)), dims=["y", "x", "band"], coords={"y": [0, 1, 2]})
    coords = {} if labels is None else {"y": labels}
    weights = xr.DataArray(np.ones((2, 3)), dims=["x", "y"], coords={"x": [5, 6], **coords})
    if fits:
        assert table(data, weights).n_rows == 6
    else:
        with pytest.raises(InvalidArgumentError, match="other labels along 'y' than X"):
            table(data, weights)


# Graphs of the user's


class Counter:
    """Counts how often each block is made."""

    def __init__(self):
        self.made = []

    def __call__(self, block, block_info=None):
        self.made.append(block_info[None]["chunk-location"])
        return block


@pytest.mark.parametrize("name", ["threads", "synchronous"])
def test_a_pass_computes_each_chunk_once_and_what_chunks_share(name):
    counter = Counter()
    shared = da.from_array(made((40, 5)), chunks=(10, -1)).map_blocks(counter, dtype="f4")
    other = shared * 2
    weights = shared.sum(axis=1)
    passes = Passes()
    with dask.config.set(scheduler=name, num_workers=2):
        a_table = table([shared, other], [weights, weights + 1])
        for times in (1, 2):
            read(a_table, passes)
            assert sorted(counter.made) == sorted(times * [(i, 0) for i in range(4)])
    assert passes.n_passes == 2


def count_in_file(block, path):
    with path.open("a") as file:
        file.write("block\n")
    return block


@pytest.mark.usefixtures("scheduler")
def test_a_pass_computes_each_chunk_once_anywhere(tmp_path):
    log = tmp_path / "log"
    x = da.from_array(made((40, 5)), chunks=(10, -1))
    x = x.map_blocks(count_in_file, path=log, dtype="f4", meta=np.empty((0, 0), "f4"))
    read(table(da.concatenate([x, x[::-1]]), da.concatenate([x, x]).sum(axis=1)))
    assert len(log.read_text().splitlines()) == 4


def test_what_is_persisted_is_not_computed_again(client, tmp_path):
    log = tmp_path / "log"
    x = da.from_array(made((40, 5)), chunks=(10, -1))
    x = client.persist(
        x.map_blocks(count_in_file, path=log, dtype="f4", meta=np.empty((0, 0), "f4"))
    )
    a_table = table(x + 1)
    for _ in range(2):
        np.testing.assert_array_equal(read(a_table)[0], made((40, 5)) + 1)
    assert len(log.read_text().splitlines()) == 4


def test_what_is_persisted_is_taken_as_it_is(client, tmp_path):
    log = tmp_path / "log"
    x = da.from_array(made((40, 5)), chunks=(10, -1))
    x = x.map_blocks(count_in_file, path=log, dtype="f4", meta=np.empty((0, 0), "f4"))
    x, weights = client.persist([x, da.arange(40, chunks=10) + 1.0])
    for given in (table(x), table(x, weights), table([x, x[:40]], [weights, weights])):
        rows, found = read(given)[:2]
        np.testing.assert_array_equal(rows, np.tile(made((40, 5)), (len(rows) // 40, 1)))
        if found is not None:
            np.testing.assert_array_equal(found, np.tile(np.arange(40) + 1.0, len(rows) // 40))
    assert len(log.read_text().splitlines()) == 4


@pytest.mark.usefixtures("inner_client")
def test_a_cluster_within_the_process_counts_bytes_once():
    read(table(da.from_array(made((40, 5)), chunks=(10, -1))))


def test_inputs_of_a_task_are_few(monkeypatch):
    monkeypatch.setattr(_passes, "MAX_INPUT_BYTES", 1000)
    partitions = _passes.partition(table(da.from_array(made((400, 5)), chunks=(20, -1))).pieces)
    assert max(sum(piece.nbytes for piece in part) for part in partitions) <= 1200


class BrokenError(Exception):
    """What no library raises."""


def break_(block):
    raise BrokenError(len(block))


@pytest.mark.usefixtures("scheduler")
def test_an_error_of_the_graph_comes_out_as_itself():
    x = da.from_array(made((40, 5)), chunks=(10, -1)).map_blocks(
        break_, dtype="f4", meta=np.empty((0, 0), "f4")
    )
    with pytest.raises(BrokenError):
        read(table(x))


# What Dask is told of each block, and what the blocks are: it does not compare the two.
LIES = {
    "fewer rows": (made((9, 5)), "f4", r"block of shape \(9, 5\) where it tells of \(10, 5\)"),
    "more rows": (made((11, 5)), "f4", r"block of shape \(11, 5\) .*from_delayed"),
    "fewer features": (made((10, 4)), "f4", r"block of shape \(10, 4\)"),
    "more features": (made((10, 6)), "f4", r"block of shape \(10, 6\)"),
    "an axis more": (made((10, 5, 1)), "f4", r"block of shape \(10, 5, 1\)"),
    "nothing": (None, "f4", r"block of shape \(\)"),
    "floats as integers": (np.full((10, 5), 0.5), "u1", "block of dtype float64 where .* uint8"),
    "integers as short ones": (np.full((10, 5), 300), "u1", "block of dtype int64 .*map_blocks"),
    "NaN as an integer": (np.full((10, 5), np.nan), "i2", "block of dtype float64 where .* int16"),
    "signed as unsigned": (np.full((10, 5), -1, "i1"), "u1", "block of dtype int8 where .* uint8"),
    "complex numbers": (made((10, 5)) * 1j, "f8", "block of dtype complex64 where .* float64"),
}


def told(block, dtype, shape=(10, 5)):
    """Return a Dask array of two equal blocks, which are said to be of a dtype and shape."""
    part = da.from_delayed(
        dask.delayed(lambda: block)(), shape, dtype, np.empty((0,) * len(shape), dtype)
    )
    return da.concatenate([part, part])


@pytest.mark.parametrize("lie", LIES)
def test_blocks_that_are_not_what_dask_was_told_are_refused(lie):
    block, dtype, message = LIES[lie]
    with pytest.raises(InvalidArgumentError, match="X has a " + message):
        read(table(told(block, dtype)))


@pytest.mark.parametrize("lie", [lie for lie in LIES if "rows" not in lie and lie != "nothing"])
def test_map_refuses_blocks_that_are_not_what_dask_was_told(lie):
    block, dtype, message = LIES[lie]
    if lie == "an axis more":
        message = "block of shape"
    answer = table(told(block, dtype)).map(row_sum, "f8")
    with pytest.raises(InvalidArgumentError, match="X has a " + message):
        answer.compute(scheduler="synchronous")


def test_weights_that_are_not_what_dask_was_told_are_refused():
    weights = told(np.ones(9), "f8", (10,))
    with pytest.raises(InvalidArgumentError, match=r"sample_weight has a block of shape \(9,\)"):
        read(table(told(made((10, 5)), "f4"), weights))


@pytest.mark.parametrize(
    ("found", "dtype"),
    [
        ("f8", "f4"),
        ("i8", "f4"),
        ("?", "u1"),
        ("u1", "i2"),
        ("O", "f8"),
        ("i8", "u1"),
        ("f8", "u1"),
    ],
)
def test_blocks_that_the_dtype_of_dask_holds_are_taken(found, dtype):
    block = made((10, 5), "i1" if found == "O" else found).astype(found)
    rows, _ = read(table(told(block, dtype)))
    np.testing.assert_array_equal(rows, np.concatenate([block, block]).astype(dtype))


def test_annotations_are_kept(client):
    worker = sorted(client.scheduler_info()["workers"])[1]
    with dask.annotate(workers=[worker], allow_other_workers=False):
        x = da.from_array(made((40, 5)), chunks=(10, -1)).map_blocks(
            address, dtype="f4", meta=np.empty((0, 0), "f4")
        )
    found = read(table(da.rechunk(x + 0, (20, -1))))[0]
    assert np.unique(found) == [int(worker.rpartition(":")[2]) % 1000]


def address(block):
    from distributed import get_worker  # noqa: PLC0415 - only on a cluster

    return np.full(block.shape, int(get_worker().address.rpartition(":")[2]) % 1000, "f4")


def fit(_, data):
    return len(read(table(data))[0]), _passes.n_workers()


@pytest.mark.parametrize("kind", ["numpy", "dask", "unknown"])
def test_a_pass_inside_a_task_does_not_wait_for_the_cluster(inner_client, kind):
    def data():
        rows = made((40, 5))
        return {"numpy": rows, "dask": da.from_array(rows, chunks=10)}.get(kind, unknown(rows))

    futures = inner_client.map(lambda i: fit(i, data()), range(6), pure=False)
    assert inner_client.gather(futures) == [(40, 1)] * 6


def fit_in_a_thread(i):
    from distributed import get_client  # noqa: PLC0415 - only on a cluster

    get_client()  # from now on this worker has one, and all its threads find it
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(fit, i, da.from_array(made((40, 5)), chunks=10)).result()[0]


def test_a_pass_in_a_thread_of_a_task_does_not_wait_for_the_cluster(client):
    futures = client.map(fit_in_a_thread, range(6), pure=False)
    assert client.gather(futures) == [40] * 6


def test_threads_that_configure_dask_by_turns_leave_it_as_it_was():
    inside, key = threading.Barrier(2), "optimization.fuse.active"

    def configure(_):
        with suppress(threading.BrokenBarrierError), schedulers.configured({key: False}):
            inside.wait(0.1)  # breaks unless both are inside at once

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(configure, range(2)))
    assert inside.broken
    assert dask.config.get(key, None) is None


# Regions


def test_a_piece_of_a_stored_array_is_sent_as_its_place(tmp_path):
    array = zarr_array(tmp_path, made((1000, 64)), chunks=(1, 64))
    [piece] = table(array).pieces
    assert len(pickle.dumps(piece)) < 2000
    assert isinstance(piece.source.store, str)


def test_a_path_may_be_relative(tmp_path, monkeypatch):
    path = zarr_array(tmp_path, made((40, 5)), chunks=(10, 5)).path
    monkeypatch.chdir(tmp_path)
    a_table = table(path)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(read(a_table)[0], made((40, 5)))


@pytest.mark.parametrize(
    ("shape", "chunks", "shards", "expected"),
    [
        ((100, 8), (10, 8), None, (10,)),  # 320 bytes a chunk
        ((100, 8), (1, 8), None, (31,)),
        ((100, 8), (80, 8), None, (80,)),
        ((100, 8), (1, 8), (10, 8), (30,)),  # whole shards
        ((100, 8), (5, 8), (60, 8), (30,)),  # chunks that divide a shard
        ((100, 8), (5, 4), (60, 8), (30,)),
        ((100, 8), (5, 8), (35, 8), (5,)),
        ((100, 8), (5, 8), (10**400, 8), (25,)),  # which metadata may say
        ((9, 9, 8), (2, 3, 8), None, (10, 3)),
        ((0, 8), (10, 8), None, (310,)),
    ],
)
def test_regions_follow_chunks_and_shards(shape, chunks, shards, expected):
    target = 1000 if shape[0] != 100 or chunks[0] != 10 else 500
    found = steps(shape, chunks, shards, 4, target)
    if shape[0]:
        assert found == expected
    assert found[0] % chunks[0] == 0


def test_shards_smaller_than_their_chunks_are_read_by_chunks():
    assert steps((100, 8), (25, 8), (20, 8), 4, target=100) == (25,)  # metadata may say so


@pytest.mark.parametrize(
    ("outer", "inner"), [([0, 3], [0, 3]), ([15, 3], [0, 3]), ([0, 3], [5, 3])]
)
def test_metadata_of_empty_chunks_are_refused(outer, inner, tmp_path):
    zarr_array(tmp_path, made((40, 3)), chunks=(5, 3), shards=(15, 3))
    file = tmp_path / "a0" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = outer
    metadata["codecs"][0]["configuration"]["chunk_shape"] = inner
    file.write_text(json.dumps({**metadata, "fill_value": 1e300}))
    with pytest.raises(SourceError, match="cannot be read as a Zarr array"):
        table(str(file.parent))


@pytest.mark.parametrize("shape", [[10**30, 10**400], [10**400, 3], [2**31, 2**61]])
def test_metadata_of_endless_tables_are_refused(shape, tmp_path):
    zarr_array(tmp_path, made((40, 3)), chunks=(5, 3), shards=(15, 3))
    file = tmp_path / "a0" / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "shape": shape}))
    with pytest.raises(SourceError, match="more than can be listed"):
        table(str(file.parent))


def test_regions_cover_every_row_once():
    chunks = regular((7, 4, 5), (3, 4, 2))
    numbers = [region.numbers((7, 4, 5)) for _, region in regions(chunks)]
    np.testing.assert_array_equal(np.sort(np.concatenate(numbers)), np.arange(140))
    assert list(regions(((0,), (3,)))) == []
    assert Region((2,), (3,)).slices == (slice(2, 5),)


# Of each axis: what lies before the region, in it, and after it.
AXES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 2)), max_size=4)


@hypothesis.given(AXES)
def test_a_run_is_what_its_numbers_say(axes):
    region = Region(tuple(a for a, _, _ in axes), tuple(n for _, n, _ in axes))
    leading = tuple(sum(axis) for axis in axes)
    block = Block(np.empty((region.n_pixels, 1)), None, region, leading, first=7)
    numbers = block.numbers()
    assert block.run() == (numbers[0] if (np.diff(numbers) == 1).all() else None)


@pytest.mark.parametrize("step", [(3, 4, 2), (1, 1, 1), (7, 4, 5), (9, 3, 2)])
def test_a_grid_is_its_regions(step):
    grid = Regions.of((7, 4, 5), step)
    expected = [region for _, region in regions(regular((7, 4, 5), step))]
    assert list(grid) == expected
    assert [grid[i] for i in range(len(grid))] == expected
    for start, stop in itertools.combinations(range(len(grid) + 1), 2):
        part = grid[start:stop]
        assert list(part) == expected[start:stop]
        assert part.n_pixels == sum(region.n_pixels for region in part)
    assert grid[-1] == expected[-1]
    with pytest.raises(IndexError):
        grid[len(grid)]
    assert len(Regions.of((0, 4), (3, 4))) == 0


def test_large_blocks_are_cut(monkeypatch):
    monkeypatch.setattr(_tables_blocks, "BLOCK_BYTES", 100)
    rows = made((40, 5))
    a_table = table(da.from_array(rows, chunks=(25, -1)), weights_of((40,)))
    found, weights = read(a_table)
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(weights, weights_of((40,)))
    [piece] = table(da.from_array(rows.reshape(4, 10, 5), chunks=-1)).pieces
    assert [band.size for _, _, band in piece.windows[0].bands(5)] == [(1, 10)] * 4


# Bare chunks


def refuse_zarr(*_):
    pytest.fail("zarr was asked for what lies bare in files")


@pytest.fixture
def small_blocks(monkeypatch):
    """Read 7 rows of 5 features at a time."""
    for module in (_tables_blocks, _tables_zarr):
        monkeypatch.setattr(module, "BLOCK_BYTES", 7 * 5 * 4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "u1", ">u2"])
@pytest.mark.parametrize("layout", [((43, 5), (10, 5)), ((9, 7, 5), (2, 3, 5))])
def test_bare_chunks_are_read_without_zarr(zarr_format, dtype, layout, tmp_path, monkeypatch):
    shape, chunks = layout
    rows = made(shape, dtype)
    options = {"filters": None} if zarr_format == 2 else {}
    array = zarr_array(
        tmp_path, rows, chunks=chunks, compressors=None, zarr_format=zarr_format, **options
    )
    a_table = table(array)
    monkeypatch.setattr(_tables_zarr.ZarrSource, "open", refuse_zarr)
    np.testing.assert_array_equal(read(a_table)[0], rows.reshape(-1, 5))


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("encoding", ["default", "v2"])
def test_bare_chunks_are_found_by_any_name(encoding, separator, tmp_path, monkeypatch):
    names = {"name": encoding, "separator": separator}
    array = zarr_array(
        tmp_path, made((40, 5)), chunks=(10, 5), compressors=None, chunk_key_encoding=names
    )
    a_table = table(array)
    monkeypatch.setattr(_tables_zarr.ZarrSource, "open", refuse_zarr)
    np.testing.assert_array_equal(read(a_table)[0], made((40, 5)))


def test_every_byte_of_bare_chunks_is_read_once(tmp_path, monkeypatch):
    array = zarr_array(tmp_path, made((40, 5)), chunks=(10, 5), compressors=None)
    reads = []
    fill = _tables_raw._fill

    def counted(file, size, skipped, place):
        reads.append((file.parent.name, skipped, len(place)))
        return fill(file, size, skipped, place)

    monkeypatch.setattr(_tables_raw, "_fill", counted)
    monkeypatch.setattr(_tables_zarr, "BLOCK_BYTES", 7 * 5 * 4)
    read(table(array))
    assert sum(n for _, _, n in reads) == 40 * 5 * 4
    assert len({(chunk, skipped) for chunk, skipped, _ in reads}) == len(reads)
    assert max(n for _, _, n in reads) <= 7 * 5 * 4


asking = pytest.mark.skipif(not _tables_raw._CAN_ASK, reason="only Linux tells what it has cached")


@asking
@pytest.mark.parametrize("codecs", [None, [Crc32cCodec()]])
def test_the_next_block_of_bare_chunks_is_asked_for(codecs, tmp_path, monkeypatch):
    array = zarr_array(tmp_path, made((40, 5)), chunks=(10, 5), compressors=codecs)
    events = []
    fill = _tables_raw._fill

    def filled(file, *options):
        events.append(("read", file.parent.name, None))
        return fill(file, *options)

    def asked(stream, at, size, advice):
        assert advice == os.POSIX_FADV_WILLNEED
        *_, chunk, _ = Path(f"/proc/self/fd/{stream}").readlink().parts
        events.append(("ask", chunk, (at, size)))

    monkeypatch.setattr(_tables_raw, "_fill", filled)
    monkeypatch.setattr(_tables_raw, "_ASKED", 100)
    monkeypatch.setattr(os, "posix_fadvise", asked)
    source = table(array).pieces[0].source
    all_blocks = [Region((start,), (10,)) for start in range(0, 40, 10)]
    for is_there in (False, True):
        events.clear()
        monkeypatch.setattr(_tables_raw, "_is_there", lambda *_, there=is_there: there)
        for i, (values, _) in enumerate(source.read(all_blocks)):
            np.testing.assert_array_equal(values, made((40, 5))[10 * i : 10 * i + 10])
        reads = [("read", str(i), None) for i in range(4)]
        asks = [[("ask", str(i), (at, 100)) for at in (0, 100)] for i in range(1, 4)]
        together = [*asks[0], reads[0], *asks[1], reads[1], *asks[2], *reads[2:]]
        assert events == (reads if is_there else together)


@asking
def test_what_is_in_the_cache_is_told(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(bytes(10))
    with file.open("rb") as stream:
        assert _tables_raw._is_there(stream.fileno(), 9)
        assert not _tables_raw._is_there(stream.fileno(), 10)
    assert not _tables_raw._is_there(-1, 0)


def test_a_bare_chunk_that_was_never_written_holds_the_fill_value(tmp_path):
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(40, 5), chunks=(10, 5), dtype="f4", compressors=None,
        fill_value=7,
    )  # fmt: skip
    array[:10] = 1
    expected = np.full((40, 5), 7)
    expected[:10] = 1
    np.testing.assert_array_equal(read(table(array))[0], expected)


@pytest.mark.parametrize("size", [0, 100, 300])
def test_a_bare_chunk_of_another_size_is_named(size, tmp_path):
    array = zarr_array(tmp_path, made((40, 5)), chunks=(10, 5), compressors=None)
    a_table = table(array)
    (tmp_path / array.path / "c/2/0").write_bytes(bytes(size))
    with pytest.raises(SourceError, match=rf"{array.path}, from \(\d+,\) on"):
        read(a_table)


def test_chunks_with_a_checksum_are_read_without_zarr(tmp_path, monkeypatch):
    array = zarr_array(tmp_path, made((45, 5)), chunks=(10, 5), compressors=[Crc32cCodec()])
    a_table = table(array)
    monkeypatch.setattr(_tables_zarr.ZarrSource, "open", refuse_zarr)
    monkeypatch.setattr(_tables_zarr, "BLOCK_BYTES", 25 * 5 * 4)
    np.testing.assert_array_equal(read(a_table)[0], made((45, 5)))


@pytest.mark.parametrize("byte", [0, 199, 203])
def test_a_chunk_that_its_checksum_denies_is_named(byte, tmp_path):
    array = zarr_array(tmp_path, made((40, 5)), chunks=(10, 5), compressors=[Crc32cCodec()])
    a_table, file = table(array), tmp_path / array.path / "c/2/0"
    data = bytearray(file.read_bytes())
    data[byte] ^= 1
    file.write_bytes(data)
    with pytest.raises(SourceError, match=rf"{array.path}, from \(\d+,\) on.*checksum"):
        read(a_table)


def test_all_is_read_ahead_in_its_turn():
    assert list(_tables_raw.ahead(str, range(50))) == [str(i) for i in range(50)]
    assert list(_tables_raw.ahead(str, [])) == []


def test_an_error_in_reading_ahead_comes_out_in_its_turn():
    def fetch(item):
        if item == 3:
            raise BrokenError
        return item

    found = []
    with pytest.raises(BrokenError):
        found.extend(_tables_raw.ahead(fetch, range(6)))
    assert found == [0, 1, 2]


# Mapping


def row_sum(rows):
    assert rows.flags.c_contiguous
    assert len(rows)
    return rows.sum(axis=1, dtype=np.float64)


def two_sums(rows):
    return np.stack([row_sum(rows), -row_sum(rows)], axis=1)


@pytest.mark.parametrize(("function", "columns"), [(row_sum, None), (two_sums, 2)])
@pytest.mark.parametrize(("ndim", "kind"), KINDS)
def test_map_answers_in_kind_and_shape(ndim, kind, function, columns, tmp_path):
    rows, data = given(ndim, kind, tmp_path)
    expected = function(rows.reshape(-1, 5)).reshape(
        rows.shape[:-1] + (() if columns is None else (columns,))
    )
    with dask.config.set(scheduler=raising if table(data).is_lazy else "threads"):
        answer = table(data).map(function, "f4", columns)
    lazy = answer
    if "xarray" in kind:
        assert answer.dims[: ndim - 1] == data.dims[:-1]
        lazy = answer.data
    if table(data).is_lazy:
        assert isinstance(lazy, da.Array)
        assert lazy._meta.shape == (0,) * expected.ndim
        assert lazy._meta.dtype == np.float32
        if "dask" in kind:
            assert repr(lazy.chunks[: ndim - 1]) == repr(getattr(data, "data", data).chunks[:-1])
        if columns:
            assert lazy.chunks[-1] == (columns,)
        lazy = lazy.compute(scheduler="threads")
    assert isinstance(lazy, np.ndarray)
    assert lazy.dtype == np.float32
    np.testing.assert_array_equal(lazy, expected)


@pytest.mark.usefixtures("client")
@pytest.mark.parametrize("kind", ["dask features", "zarr shards", "zarr memory", "data frame"])
def test_map_is_computed_on_a_cluster(kind, tmp_path):
    rows, data = given(2, kind, tmp_path)
    np.testing.assert_array_equal(table(data).map(row_sum, "f8").compute(), row_sum(rows))


def test_map_of_stored_rows_has_the_regions_of_passes(tmp_path):
    data = zarr_array(tmp_path, np.zeros((300, 100_000), "u1"), chunks=(10, 100_000))
    a_table = table(data)
    assert a_table.map(row_sum, "f8").chunks == ((80, 80, 80, 60),)
    assert [window.n_pixels for window in a_table.pieces[0].windows] == [80, 80, 80, 60]


def test_map_converts_what_kernels_do_not_take():
    seen = []

    def note(rows):
        seen.append(rows.dtype)
        return row_sum(rows)

    data = made((4, 5), "i8")
    table(data).map(note, "f8")
    table(da.from_array(data, chunks=2)).map(note, "f8").compute(scheduler="synchronous")
    assert set(seen) == {np.dtype("f8")}


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5)])
@pytest.mark.parametrize("lazy", [False, True])
def test_no_rows_are_mapped_to_nothing(shape, lazy):
    data = da.zeros(shape) if lazy else np.zeros(shape)
    a_table = table(data)
    assert (a_table.shape, a_table.n_rows, a_table.pieces) == (shape, 0, [])
    assert a_table.map(row_sum, "f8").shape == shape[:-1]
    assert np.asarray(a_table.map(two_sums, "f8", 2)).shape == (*shape[:-1], 2)


def test_known_sizes_stay_known_after_reading():
    a_table = table(unknown(made((40, 5))))
    assert np.isnan(a_table.map(row_sum, "f8").shape[0])
    assert a_table.n_rows == 40
    assert a_table.map(row_sum, "f8").shape == (40,)


# Labels and names


def test_labels_of_rows_are_kept_and_those_of_features_are_names():
    data = xr.DataArray(
        made((9, 7, 5)).transpose(2, 0, 1),
        dims=["band", "y", "x"],
        coords={
            "band": list("abcde"),
            "x": np.arange(7),
            "height": (("y", "x"), np.ones((9, 7))),
            "gain": ("band", np.ones(5)),
            "time": 3,
        },
    )
    a_table = table(data, feature_dim="band")
    assert a_table.names == list("abcde")
    assert a_table.shape == (9, 7, 5)
    answer = a_table.map(row_sum, "f8")
    assert answer.dims == ("y", "x")
    assert set(answer.coords) == {"x", "height", "time"}
    np.testing.assert_array_equal(answer, row_sum(made((63, 5))).reshape(9, 7))
    assert a_table.map(two_sums, "f8", 2).dims == ("y", "x", "cluster")
    renamed = table(data.rename(x="cluster"), feature_dim="band")
    assert renamed.map(two_sums, "f8", 2).dims == ("y", "cluster", "cluster_")


def test_numbers_are_no_names():
    assert table(xr.DataArray(made((4, 5)), coords={"dim_1": range(5)})).names is None
    numbered = dd.from_pandas(pd.DataFrame(made((4, 5))), npartitions=2)
    assert table(numbered).names is None


# Collections


@pytest.mark.usefixtures("scheduler")
def test_a_collection_is_numbered_through(tmp_path):
    rows = [made((n, 5)) for n in (37, 1, 12, 30, 8)]
    data = [
        rows[0],
        unknown(rows[1]),
        da.from_array(rows[2].reshape(3, 4, 5), chunks=(2, 2, 2)),
        zarr_array(tmp_path, rows[3], chunks=(10, 5)),
        xr.DataArray(rows[4]),
    ]
    a_table = table(data)
    assert (a_table.shape, a_table.is_lazy) == ((88, 5), True)
    np.testing.assert_array_equal(read(a_table)[0], np.concatenate(rows))
    answers = a_table.map(row_sum, "f8")
    assert [type(answer) for answer in answers] == [
        np.ndarray,
        da.Array,
        da.Array,
        da.Array,
        xr.DataArray,
    ]


def test_a_collection_has_weights_each():
    rows = [made((7, 5)), made((3, 4, 5)), made((0, 5))]
    weights = [weights_of(array.shape[:-1]) for array in rows]
    a_table = table(tuple(rows), weights)
    assert not a_table.is_lazy
    assert len(a_table.pieces) == 2
    found_rows, found = read(a_table)
    np.testing.assert_array_equal(found_rows, np.concatenate([a.reshape(-1, 5) for a in rows]))
    np.testing.assert_array_equal(found, np.concatenate([w.ravel() for w in weights]))
    assert [len(answer) for answer in a_table.map(row_sum, "f8")] == [7, 3, 0]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [(["u1", "f4"], "f4"), (["u2", "i2"], "f8"), (["u1", "i2"], "i2"), (["u1", "?"], "u1")],
)
def test_a_collection_has_one_dtype(dtypes, expected):
    rows = [made((5, 5), dtype) for dtype in dtypes]
    a_table = table(rows)
    assert a_table.dtype == expected
    np.testing.assert_array_equal(read(a_table)[0], np.concatenate(rows).astype(expected))


# Errors


def whole_chunks(array):
    return da.from_array(array, chunks=-1)


@pytest.mark.parametrize("make", [np.asarray, whole_chunks])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"Expected 2D array, got 1D array instead.*\(5,\).*reshape\(-1, 1\)"),
        (np.zeros((5, 0)), r"0 feature\(s\) \(shape=\(5, 0\)\) while a minimum of 1 is required"),
        (np.zeros((5, 2), complex), "dtype complex128; complex data are not supported"),
        (np.zeros((5, 2), object), "dtype object"),
        (np.zeros((5, 2), "U3"), "dtype <U3"),
        (np.zeros((5, 2), "M8[s]"), "dtype datetime64"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(make, array, message):
    with pytest.raises(InvalidArgumentError, match=message):
        table(make(array))
    with pytest.raises(InvalidArgumentError, match=r"X\[1\]"):
        table([np.zeros((5, 2)), make(array)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({1, 2}, "X is a set; it must be a NumPy, Dask or Zarr array"),
        ([], "X is an empty list"),
        ([np.zeros((5, 2)), np.zeros((5, 3))], r"X\[1\] has 3 features and X\[0\] has 2"),
        (np.float64(3), "X is a float64"),
        (np.array(3.0), "got scalar array instead"),
        (xr.DataArray(3.0), "feature_dim"),
        (dd.from_pandas(pd.Series([1.0]), npartitions=1), "got 1D array"),
        (dd.from_pandas(pd.DataFrame({"a": ["x"]}), npartitions=1), "dtype"),
        (da.zeros((4, 4), chunks=2)[:, da.ones(4, chunks=2) > 0], "compute_chunk_sizes"),
    ],
)
def test_other_things_are_refused(data, message):
    with pytest.raises(InvalidArgumentError, match=message):
        table(data)


def test_a_feature_dimension_must_be_one():
    with pytest.raises(InvalidArgumentError, match=r"feature_dim is 'z'.* 'dim_0', 'dim_1'"):
        table(xr.DataArray(np.zeros((5, 2))), feature_dim="z")
    with pytest.raises(InvalidArgumentError, match="no xarray DataArray"):
        table(np.zeros((5, 2)), feature_dim="z")


def test_what_is_no_array_on_disk_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"none.zarr: cannot be read as a Zarr array"):
        table(tmp_path / "none.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.jpg").touch()
    for zarr_format in (2, 3):
        zarr.create_group(tmp_path / f"group{zarr_format}", zarr_format=zarr_format)
    for name in ("folder", "a.jpg", "group2", "group3"):
        said = f"{name}: cannot be read as a Zarr array (there is none; of a group, give the path"
        with pytest.raises(SourceError, match=re.escape(said)):
            table(tmp_path / name)
    np.save(tmp_path / "rows.npy", np.zeros((5, 2)))
    with pytest.raises(SourceError, match=r"rows.npy: .* numpy.load\(path, mmap_mode='r'\)"):
        table(tmp_path / "rows.npy")
    with pytest.raises(SourceError, match=r"xx.npy: cannot be read as a Zarr array"):
        table("x" * 500 + ".npy")


def test_a_chunk_that_cannot_be_read_is_named(tmp_path):
    array = zarr_array(tmp_path, made((40, 5)), chunks=(10, 5))
    a_table = table(array)
    [chunk] = [path for path in (tmp_path / array.path).rglob("0") if path.is_file()][:1]
    chunk.write_bytes(b"broken")
    with pytest.raises(DkmeansError, match=array.path):
        read(a_table)


@pytest.mark.parametrize(
    ("data", "weights", "message"),
    [
        (np.zeros((5, 2)), np.ones(4), r"\(4,\).*\(5,\).* 5 rows"),
        (np.zeros((5, 2)), np.ones((5, 1)), r"\(5, 1\).*\(5,\)"),
        (np.zeros((5, 2)), da.ones(5), "not in memory"),
        (da.zeros((5, 2)), np.ones(4), r"\(4,\).*\(5,\)"),
        (da.zeros((5, 2)), da.ones(4), r"\(4,\).*\(5,\)"),
        (
            da.zeros((5, 2), chunks=2),
            da.ones(5, chunks=3),
            r"\(\(3, 2\),\).*\(\(2, 2, 1\),\).*rechunk",
        ),
        ([np.zeros((5, 2))], np.ones(5), "sample_weight is no list; X is a list of 1"),
        ([np.zeros((5, 2))], [np.ones(5)] * 2, "sample_weight is 2 of them"),
        (da.zeros((5, 2)), ["a"] * 5, "sample_weight is .* a number for each row .*: .*'a'"),
        (da.zeros((5, 2)), [[1], [1, 2]], "sample_weight is a list that does not hold a number"),
        (da.zeros((5, 2)), {"a": 1}, "sample_weight is .* a number for each row .*dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused(data, weights, message):
    with pytest.raises(InvalidArgumentError, match=message):
        table(data, weights)


def test_a_number_in_a_folder_is_no_weights(tmp_path):
    weight = zarr.create_array(tmp_path / "w.zarr", shape=(), dtype="f8")
    with pytest.raises(InvalidArgumentError, match=r"sample_weight has the shape \(\).*\(5,\)"):
        table(da.zeros((5, 2)), weight)


def test_weights_of_unknown_length_are_checked_when_sizes_are_known():
    a_table = table(unknown(made((40, 5))), np.ones(39))
    with pytest.raises(InvalidArgumentError, match=r"\(39,\).*\(40,\)"):
        _ = a_table.pieces
    a_table = table(unknown(made((40, 5))), da.ones(40, chunks=10))
    with pytest.raises(InvalidArgumentError, match="rechunk"):
        _ = a_table.pieces


# Blocks that are kept


@pytest.fixture
def decoded(tmp_path, monkeypatch):
    """Return a table of four decoded chunks of 1000 bytes, and a list of what is decoded."""
    array = zarr_array(tmp_path, made((200, 5)), chunks=(50, 5))
    seen = []

    class Spy:
        def __getitem__(self, slices):
            seen.append(slices[0].start)
            return array[slices]

    monkeypatch.setattr(_tables_zarr.ZarrSource, "open", lambda _: Spy())
    monkeypatch.setattr(_tables_zarr, "_REGION_BYTES", 1000)
    monkeypatch.setattr(_tables_dask, "steps", lambda *_: (50,))
    return table(array), seen


@pytest.mark.parametrize(("room", "expected"), [(4000, 4), (2999, 6), (999, 8)])
def test_what_comes_first_is_kept_as_long_as_there_is_room(room, expected, decoded, monkeypatch):
    monkeypatch.setattr(_tables_kept, "ROOM", room)
    a_table, seen = decoded
    with dask.config.set(scheduler="synchronous"):
        for _ in range(2):
            np.testing.assert_array_equal(read(a_table)[0], made((200, 5)))
    assert len(seen) == expected
    assert sum(block.nbytes for block in _tables_kept._kept.blocks.values()) <= room


def test_nothing_is_kept_of_a_table_that_is_gone(decoded):
    a_table, seen = decoded
    with dask.config.set(scheduler="synchronous"):
        read(a_table)
    assert len(_tables_kept._kept.blocks) == 4
    other = table(a_table._given[0].array)  # which may have been written to since
    with dask.config.set(scheduler="synchronous"):
        read(other)
    assert len(seen) == 8
    del a_table
    gc.collect()
    assert len(_tables_kept._kept.blocks) == 4
    del other
    gc.collect()
    assert not _tables_kept._kept.blocks


def watchers():
    return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]


def test_blocks_that_nobody_asks_for_are_let_go(decoded, monkeypatch):
    a_table, seen = decoded
    _tables_kept._kept.clear()
    for watcher in watchers():
        watcher.cancel()  # of tests before
    monkeypatch.setattr(_tables_kept._kept, "is_watched", False)
    with dask.config.set(scheduler="synchronous"):
        read(a_table)
        [waiting] = watchers()
        waiting.cancel()
        _tables_kept._look()  # too early
        assert len(_tables_kept._kept.blocks) == 4
        [waiting] = [watcher for watcher in watchers() if watcher is not waiting]
        waiting.cancel()
        monkeypatch.setattr(_tables_kept, "IDLE", 0.0)
        _tables_kept._look()
        assert not _tables_kept._kept.blocks
        read(a_table)  # which is kept again, and let go
        for watcher in watchers():
            watcher.join()
    assert not _tables_kept._kept.blocks
    assert len(seen) == 8


class Nameless(zarr.storage.WrapperStore):
    """A store that does not tell where it lies, as those of archives."""

    def __str__(self):
        return "nameless"


def test_what_is_kept_of_arrays_without_a_name_is_told_apart(tmp_path):
    rows = [made((40, 5)), made((40, 5)) + 1]
    for i, part in enumerate(rows):
        zarr.create_array(str(tmp_path / f"{i}"), data=part, chunks=(10, 5))
    stores = [Nameless(zarr.storage.LocalStore(tmp_path / f"{i}")) for i in range(2)]
    a_table = table([zarr.open_array(store, mode="r") for store in stores])
    for _ in range(2):
        np.testing.assert_array_equal(read(a_table)[0], np.concatenate(rows))
    assert len(_tables_kept._kept.blocks) == 2


def test_workers_see_the_blocks_again_that_they_keep(client, tmp_path):
    array = zarr_array(tmp_path, made((1 << 20, 8)), chunks=(1 << 16, 8))
    a_table = table(array)
    for _ in range(3):
        read(a_table)
    found = client.run(lambda: [region.start for _, region in _tables_kept._kept.blocks])
    starts = [start for group in found.values() for start in group]
    assert len(set(starts)) == 1 << 20 >> 18  # regions of 8 MiB
    assert len(starts) <= 5  # stolen once at most
    rooms = client.submit(_tables_kept.room).result()
    limit = next(iter(client.scheduler_info()["workers"].values()))["memory_limit"]
    assert rooms == limit // _tables_kept.SHARE


def test_a_number_that_its_type_cannot_hold_is_told(tmp_path):
    path = tmp_path / "rows.zarr"
    zarr.create_array(str(path), shape=(4, 2), chunks=(4, 2), dtype="f4")
    members = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps({**members, "fill_value": 10**400}))
    with pytest.raises(SourceError, match=r"rows\.zarr: cannot be read as a Zarr array"):
        table(str(path))


@pytest.mark.parametrize("n_rows", [10**15, 10**30])
def test_more_chunks_than_can_be_listed_are_refused(n_rows, tmp_path):
    path = tmp_path / "rows.zarr"
    zarr.create_array(str(path), shape=(4, 2), chunks=(4, 2), dtype="f4")
    members = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps({**members, "shape": [n_rows, 2]}))
    with pytest.raises(SourceError, match=r"rows\.zarr: of shape .* more than can be listed"):
        table(str(path))
