"""Windows and grids against counting pixels one by one."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dkmeans._tiling import Window, covering, grid, grow, reading_block, split

extents = st.integers(1, 40)
blocks = st.tuples(st.integers(1, 50), st.integers(1, 50))


@given(extents, extents, blocks)
def test_grid_covers_every_pixel_once_row_by_row(height, width, block):
    times = np.zeros((height, width), int)
    windows = list(grid(height, width, block))
    for window in windows:
        times[window.rows, window.columns] += 1
        assert window.n_pixels == times[window.rows, window.columns].size
        assert (window.height, window.width) <= block
        assert window.y % block[0] == 0
        assert window.x % block[1] == 0
    assert (times == 1).all()
    assert windows == sorted(windows)


@given(extents, extents, blocks, st.integers(0, 9), st.integers(0, 9))
def test_split_covers_the_window_once(height, width, block, y, x):
    times = np.zeros((60, 60), int)
    window = Window(y, x, height, width)
    for part in split(window, block):
        times[part.rows, part.columns] += 1
        assert part.height <= block[0]
        assert part.width <= block[1]
    assert times[window.rows, window.columns].all()
    assert times.sum() == window.n_pixels


windows = st.builds(Window, st.integers(0, 9), st.integers(0, 9), extents, extents)


def marked(window):
    picture = np.zeros((100, 100), bool)
    picture[window.rows, window.columns] = True
    return picture


@given(windows, windows)
def test_common_and_within_are_where_both_windows_lie(a, b):
    both = marked(a) & marked(b)
    assume(both.any())
    common = a.common(b)
    np.testing.assert_array_equal(marked(common), both)
    inside = np.zeros((a.height, a.width), bool)
    inside[common.within(a)] = True
    np.testing.assert_array_equal(inside, both[a.rows, a.columns])


@given(windows, blocks)
def test_covering_yields_the_blocks_touched(window, block):
    touched = [b for b in grid(100, 100, block) if (marked(b) & marked(window)).any()]
    found = list(covering(window, block))
    assert [(b.y, b.x) for b in found] == [(b.y, b.x) for b in touched]
    assert all((b.height, b.width) == block for b in found)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_nothing_has_no_windows(size):
    assert not list(grid(*size, (2, 2)))


@given(*[st.integers(1, 3000)] * 4)
def test_grow_keeps_its_promises(block, unit, target, limit):
    extent = grow(block, unit, target, limit)
    assert extent > 0
    assert extent % unit == 0
    step = np.lcm(block, unit)
    if step <= 2 * target:
        assert extent % block == 0
    assert extent <= max(unit, 2 * target)


@given(st.integers(1, 100_000), blocks, st.integers(1, 4))
def test_reading_block_is_of_whole_blocks_and_bounded(width, block, pixel_bytes):
    height, across = reading_block(width, block, pixel_bytes, side=100, target=1 << 16)
    assert height % block[0] == 0
    if block[1] >= width:  # stored in rows
        assert across == width
        assert height == block[0] or height * width * pixel_bytes <= 1 << 16
    else:
        assert across % block[1] == 0
        assert height == block[0] or height <= 100
        assert across == block[1] or across <= 100


def test_windows_are_values():
    window = Window(2, 3, 4, 5)
    assert window == Window(2, 3, 4, 5)
    assert len({window, Window(2, 3, 4, 5)}) == 1
    with pytest.raises(AttributeError):
        window.y = 0
