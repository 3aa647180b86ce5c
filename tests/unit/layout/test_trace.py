"""What is counted of operations, and that it stays small."""

import random
import tracemalloc

import pytest

from zarrvec.layout.trace import ARRAYS, SHAPES, ArrayTrace, Counts, Shape, Tally, split_chunk_key

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("key", "axes", "zarr_format", "expected"),
    [
        ("a/b/c/1/2", 2, 3, ("a/b", (1, 2))),
        ("c/1/2", 2, 3, ("", (1, 2))),
        ("a/c.1.2", 2, 3, ("a", (1, 2))),
        ("a/1.2", 2, 3, ("a", (1, 2))),
        ("a.b/c/10", 1, 3, ("a.b", (10,))),
        ("a/c", 0, 3, ("a", ())),
        ("a/1/2", 2, 2, ("a", (1, 2))),
        ("5/1/2", 2, 2, ("5", (1, 2))),
        ("c/1.2", 2, 2, ("c", (1, 2))),
        ("1.2.3", 3, 2, ("", (1, 2, 3))),
        ("a/0", 0, 2, ("a", ())),
    ],
)
def test_keys_of_chunks(key, axes, zarr_format, expected):
    assert split_chunk_key(key, axes, zarr_format=zarr_format) == expected


@pytest.mark.parametrize("key", ["a/zarr.json", "a/c/1", "a/c/x/2", "a/c/1/2/"])
def test_keys_that_are_none(key):
    assert split_chunk_key(key, 2, zarr_format=3) is None


def test_rare_shapes_make_room_and_nothing_is_lost():
    trace = ArrayTrace()
    often = Shape("read", (7, 7))
    for number in range(1000):
        if number % 10 == 0:
            trace.note(often, Counts(operations=1, boxes=1, chunks=2))
        trace.note(Shape("read", (number, 1)), Counts(operations=1, boxes=1, chunks=1))
    assert len(trace.shapes) == SHAPES
    assert trace.shapes[often].operations == 100
    everything = Counts()
    for counts in (*trace.shapes.values(), trace.rest):
        everything.add(counts)
    assert (everything.operations, everything.chunks) == (1100, 1200)


def test_a_trace_takes_less_than_5_mib():
    draw = random.Random(0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tally = Tally()
    for number in range(ARRAYS + 50):
        for _ in range(SHAPES + 10):
            cells = tuple(draw.randrange(300, 10**6) for _ in range(5))
            shape = Shape("read", cells, (1, 2))
            tally.note(f"group/array-{number:040}", shape, Counts(operations=1, boxes=10**6, chunks=10**6))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(tally.arrays) == ARRAYS
    assert tally.elsewhere.operations == 50 * (SHAPES + 10)
    assert held < 5 << 20
