"""The benchmark of plans: its data, what it complains of, and one small run."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "bench"))
plan, repeated = (importlib.import_module(name) for name in ("plan", "repeated"))

MIB = 1 << 20


def test_a_picture_repeats_its_tiles(tmp_path):
    path = tmp_path / "a.tif"
    repeated.write_picture(path, 1000, 1500, n_tiles=4, n_colors=1 << 24)
    picture = tifffile.imread(path)
    assert picture.shape == (1000, 1500, 3)
    tiles = [picture[y : y + 488, x : x + 476] for y in (0, 512) for x in (0, 512, 1024)]
    assert np.array_equal(tiles[0], tiles[4])
    assert np.array_equal(tiles[1], tiles[5])
    assert len({tile.tobytes() for tile in tiles}) == 4
    assert path.stat().st_size < 4 * 512 * 512 * 3 * 1.1


def test_a_table_repeats_its_chunks(tmp_path):
    path = tmp_path / "a.zarr"
    n = repeated.DISTINCT + 2
    repeated.write_table(path, n * repeated.CHUNK, n_features=256, n_clusters=3)
    table = zarr.open_array(path)
    rows = table.chunks[0]
    assert table.shape == (n * rows, 256)
    assert np.array_equal(table[-rows:], table[rows : 2 * rows])
    assert not np.array_equal(table[:rows], table[rows : 2 * rows])
    assert (path / "c/1/0").samefile(path / f"c/{n - 1}/0")


GOOD = plan.Found(
    *("a table", 1, 1000 * MIB),
    fits=True,
    planned=600 * MIB,
    planned_client=500 * MIB,
    planned_seconds=(1, 3),
    peak=500 * MIB,
    peak_client=400 * MIB,
)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, []),
        ({"planned": 499 * MIB}, ["a worker had 500 MiB, and 499 were planned"]),
        ({"planned": 751 * MIB}, ["a worker had 500 MiB, and 751 were planned"]),
        ({"peak_client": 501 * MIB}, ["the client had 501 MiB, and 500 were planned"]),
        ({"planned": 349 * MIB, "peak": 230 * MIB}, []),  # mostly libraries
        ({"spilled": 7, "lost": 1}, ["spilled: 7", "lost: 1"]),
        ({"fits": False, "peak": 0}, []),
    ],
)
def test_what_is_not_as_planned_is_told(changes, complaint):
    assert replace(GOOD, **changes).complaints() == complaint


def test_a_small_case_runs(tmp_path):
    case = plan.Case("table", 0.001, 1, "1GiB", 4, tmp_path, "")
    found = plan.do(case)
    assert 0 < found.peak <= found.planned
    assert found.spilled == found.paused == found.lost == 0
    assert plan.as_row(found).startswith("| table of 0.001 GB, 4 clusters | 1 | 1024 | ")
