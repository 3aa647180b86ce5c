"""Which terms decide the time of a call."""

from dataclasses import replace

import numpy as np

from zarrvec.planner.access import Access, resolve
from zarrvec.planner.cost import seconds_of
from zarrvec.planner.counting import count_call
from zarrvec.planner.effort import reading
from zarrvec.planner.layout import Layout, Work
from zarrvec.planner.targets import TARGETS, Machine

LAYOUT = Layout(shape=(64, 1 << 20), itemsize=1, chunks=(1, 1 << 20))


def fetch_of(work, **changed):
    target = replace(TARGETS["s3"], get_seconds=0.01, connection_bytes_per_second=100e6, **changed)
    return seconds_of(work, LAYOUT, target, Machine()).fetch


def test_requests_that_wait_for_one_another_share_the_rate_all_the_same():
    """A local disk answers small reads one by one, and large ones side by side: 8 of 10 MB at 800 MB/s, not at 100."""
    large = Work(gets=8, get_bytes=80e6)
    assert np.isclose(fetch_of(large, concurrency=64, read_bytes_per_second=2e9), 0.01 + 0.1)
    assert np.isclose(fetch_of(large, concurrency=1, read_bytes_per_second=2e9), 0.08 + 0.1)
    assert np.isclose(fetch_of(large, concurrency=64, read_bytes_per_second=400e6), 0.01 + 0.2)


def test_what_is_picked_is_worked_out_once_for_each_line():
    rows = resolve(Access("read", (1, ...), scattered=16), (64, 1024, 16))
    cells = [np.arange(0, 64, 4), (0, 1024), (0, 16)]
    work = count_call(Layout(shape=(64, 1024, 16), itemsize=1, chunks=(4, 64, 4)), rows, cells)
    assert (work.chunks_decoded, work.picked_lines) == (1024, 16)
    contiguous = resolve(Access("read", (16, ...)), (64, 1024, 16))
    work = count_call(
        Layout(shape=(64, 1024, 16), itemsize=1, chunks=(4, 64, 4)), contiguous, [(0, 16), (0, 1024), (0, 16)]
    )
    assert work.picked_lines == 0


def test_cells_are_picked_in_runs_along_the_last_axis_of_more_than_one_cell():
    rows = resolve(Access("read", (1, ...), scattered=16), (64, 96, 96, 3))
    layout = Layout(shape=(64, 96, 96, 3), itemsize=1, chunks=(16, 96, 96, 1))
    assert layout.runs(rows, rows.cells) == rows.cells / 96
    assert layout.with_chunks((16, 96, 96, 3)).runs(rows, rows.cells) == rows.cells / 3


def test_more_lines_take_longer():
    machine = Machine()
    few, many = (
        reading(Work(chunks_decoded=64, picked_cells=64, picked_lines=lines), LAYOUT, 1).seconds(machine)
        for lines in (4, 64)
    )
    assert np.isclose(many - few, 60 * machine.line_pick_seconds)
