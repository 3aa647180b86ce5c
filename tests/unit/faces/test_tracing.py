"""Known operations have known shapes and counts, whoever makes them; and a trace is kept, merged and turned off."""

import json
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

import zarrvec
from zarrvec.errors import OptionError
from zarrvec.layout.trace import SHAPES, Counts, Shape


@pytest.fixture(params=[2, 3])
def array(request, tmp_path):
    made = zarr.create_array(
        f"zarrvec://{tmp_path}/data.zarr", name="g/a", shape=(20, 8), chunks=(10, 4), dtype="f8",
        zarr_format=request.param,
    )  # fmt: skip
    made[:] = np.arange(160).reshape(20, 8)
    zarrvec.trace(made, reset=True)
    return made


def only(array):
    """Return the single shape that was counted since the last call, and its counts."""
    told = zarrvec.trace(array, reset=True)
    assert list(told.arrays) == ["g/a"]
    (row,) = told.arrays["g/a"].shapes.items()
    return row


ROWS = np.array([1, 5, 12])
READS = {
    "row": (lambda a: a[3], (1, 8), (), 1, 2, 0, 1),
    "cell": (lambda a: a[4, 2], (1, 1), (), 1, 1, 0, 1),
    "run": (lambda a: a[5:15], (10, 8), (), 1, 4, 0, 0),
    "aligned run": (lambda a: a[10:20], (10, 8), (), 1, 2, 2, 1),
    "all": (lambda a: a[...], (20, 8), (), 1, 4, 4, 1),
    "step": (lambda a: a[10:15, ::2], (5, 4), (1,), 1, 2, 0, 1),
    "rows": (lambda a: a.oindex[ROWS], (3, 8), (0,), 1, 4, 0, 0),
    "rows backwards": (lambda a: a.oindex[ROWS[::-1]], (3, 8), (0,), 1, 4, 0, 0),
    "rows in a run": (lambda a: a.oindex[[6, 7, 8]], (3, 8), (), 1, 2, 0, 1),
    "rows and a run": (lambda a: a.oindex[ROWS, 2:5], (3, 3), (0,), 1, 4, 0, 0),
    "rows and a column": (lambda a: a.oindex[ROWS, 3], (3, 1), (0,), 1, 2, 0, 0),
    "mask": (lambda a: a.oindex[np.arange(20) % 7 == 0], (3, 8), (0,), 1, 4, 0, 1),
    "points": (lambda a: a.vindex[ROWS, ROWS % 8], (1, 1), (0, 1), 3, 3, 0, 1),
    "block": (lambda a: a.blocks[0, 1], (10, 4), (), 1, 1, 1, 1),
}


@pytest.mark.parametrize("operation", READS)
def test_reads(array, operation):
    read, cells, scattered, boxes, chunks, whole, aligned = READS[operation]
    read(array)
    assert only(array) == (
        Shape("read", cells, scattered),
        Counts(operations=1, boxes=boxes, chunks=chunks, whole=whole, aligned=aligned),
    )


def put(array, selection, value):
    array[selection] = value


WRITES = {
    "whole chunks": (lambda a: put(a, np.s_[0:10], 3), (10, 8), (), 1, 2, 2, 1),
    "parts": (lambda a: put(a, np.s_[3:5, 2], np.zeros(2)), (2, 1), (), 1, 1, 0, 0),
    "rows of one value": (lambda a: a.set_orthogonal_selection(ROWS, 7), (3, 8), (0,), 1, 4, 0, 0),
    "rows": (lambda a: a.set_orthogonal_selection(ROWS[::-1], np.ones((3, 8))), (3, 8), (0,), 1, 4, 0, 0),
    "points": (lambda a: a.set_coordinate_selection((ROWS, ROWS % 8), 1.0), (1, 1), (0, 1), 3, 3, 0, 1),
}


@pytest.mark.parametrize("operation", WRITES)
def test_writes(array, operation):
    write, cells, scattered, boxes, chunks, whole, aligned = WRITES[operation]
    write(array)
    assert only(array) == (
        Shape("write", cells, scattered),
        Counts(operations=1, boxes=boxes, chunks=chunks, whole=whole, aligned=aligned),
    )


def test_a_shard_is_counted_once(tmp_path):
    made = zarr.create_array(
        f"zarrvec://{tmp_path}/data.zarr",
        name="g/a",
        shape=(20, 8),
        chunks=(2, 4),
        shards=(10, 8),
        dtype="f8",
    )
    made[:] = 1
    zarrvec.trace(made, reset=True)
    assert (made[4:6] == 1).all()
    assert only(made) == (Shape("read", (2, 8)), Counts(operations=1, boxes=1, chunks=1, aligned=1))


def test_an_array_without_axes(tmp_path):
    made = zarr.create_array(f"zarrvec://{tmp_path}/data.zarr", name="g/a", shape=(), dtype="i4")
    made[...] = 3
    zarrvec.trace(made, reset=True)
    assert made[()] == 3
    assert only(made)[0] == Shape("read", ())


def test_what_is_asked_for_is_what_lies_there(array):
    root = zarr.open_group(array.store_path.store, mode="a")
    other = root.create_array("b", data=np.zeros(4))
    _ = array[0], other[0]
    assert set(zarrvec.trace(root).arrays) == {"g/a", "b"}
    assert set(zarrvec.trace(root["g"]).arrays) == {"g/a"}
    assert set(zarrvec.trace(other).arrays) == {"b"}


def test_past_versions_are_counted_too(array):
    old = zarrvec.at(array, zarrvec.history(array)[0].number)
    _ = old[3]
    assert only(array)[0] == Shape("read", (1, 8))


def test_threads_count_together(array):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: array[row], range(20), timeout=60))
    assert only(array)[1].operations == 20


def _child(array, queue):
    _ = array[0:2]
    queue.put(zarrvec.trace(array).operations)


def test_a_forked_child_begins_anew(array):
    _ = array[0], array[1]
    queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=_child, args=(array, queue))
    child.start()
    assert queue.get(timeout=60) == 1
    child.join(60)
    assert only(array)[1].operations == 2


def test_off(tmp_path):
    url = f"zarrvec://{tmp_path}/data.zarr"
    made = zarr.create_array(url, data=np.arange(4), storage_options={"zarrvec": {"trace": False}})
    assert made[0] == 0
    assert zarrvec.trace(made).operations == zarrvec.trace(url).operations == 0
    with pytest.raises(OptionError, match="trace='no': expected bool"):
        zarr.open_array(url, storage_options={"zarrvec": {"trace": "no"}})


def test_saved_loaded_and_merged(array, tmp_path):
    for _ in range(3):
        _ = array[0]
    first = zarrvec.trace(array, reset=True)
    _ = array[0], array[:]
    second = zarrvec.trace(array)
    first.save(tmp_path / "first.json")
    assert zarrvec.Trace.load(tmp_path / "first.json") == first
    together = zarrvec.Trace.of([tmp_path / "first.json", second])
    shapes = together.arrays["g/a"].shapes
    assert {shape.cells: counts.operations for shape, counts in shapes.items()} == {(1, 8): 4, (20, 8): 1}
    assert first.operations == 3  # merging leaves what is merged as it was
    assert "(1, 8)" in str(together)


def test_what_is_too_much_is_counted_together(array):
    for number in range(1, SHAPES + 6):
        _ = array[0 : 1 + number % 20, 0 : 1 + number // 20]
    told = zarrvec.trace(array)
    assert len(told.arrays["g/a"].shapes) == SHAPES
    assert told.arrays["g/a"].rest.operations == 5
    assert told.operations == SHAPES + 5
    assert zarrvec.Trace.from_json(told.to_json()) == told
    assert "other shapes" in str(told)


@pytest.mark.parametrize(
    "change", [{"zarrvec_trace": 9}, {"arrays": 3}, {"elsewhere": {}}, {"arrays": {"a": {}}}]
)
def test_what_is_no_trace(array, change):
    told = json.loads(zarrvec.trace(array).to_json())
    with pytest.raises(OptionError, match="no trace"):
        zarrvec.Trace.from_json(json.dumps({**told, **change}))
    with pytest.raises(OptionError, match="no trace"):
        zarrvec.Trace.from_json("[")


def test_other_stores_have_none(tmp_path):
    with pytest.raises(OptionError, match="not on a zarrvec store"):
        zarrvec.trace(zarr.create_array(tmp_path / "plain.zarr", data=np.arange(3)))


def test_writers_and_readers_of_a_trace_at_once(array):
    stop = threading.Event()

    def take():
        while not stop.is_set():
            zarrvec.trace(array).operations  # noqa: B018 - an error would show

    taker = threading.Thread(target=take)
    taker.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: array[: number % 7 + 1], range(60), timeout=60))
    stop.set()
    taker.join()
    assert zarrvec.trace(array).operations == 60
