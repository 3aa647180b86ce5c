"""The planner's counts are the engine's: requests and bytes of reads, and requests of writes, counted at the object storage."""

import math
import uuid

import numpy as np
import pytest
import zarr

from zarrvec.engine import reader, staging
from zarrvec.engine.bridge import run_sync
from zarrvec.engine.counting import count_requests
from zarrvec.faces.targets import repository_of
from zarrvec.planner.access import Access, resolve
from zarrvec.planner.counting import _places, count, count_call
from zarrvec.planner.layout import Layout, Work

OPTIONS = {"max_staleness": 600}

LAYOUTS = [
    # shape, chunks, dtype, pack_bytes, writes that fill it
    ((200, 1024), (1, 1024), "f4", 16 << 20, None),
    ((200, 1024), (7, 1024), "f4", 64 << 10, None),
    ((40, 30, 600), (1, 4, 600), "u1", 16 << 20, (1, None, None)),
    ((40, 30, 600), (3, 7, 600), "u1", 20_000, (1, None, None)),
    ((40, 30, 600), (3, 30, 100), "u1", 16 << 20, (4, None, None)),
    ((12, 64, 64), (5, 32, 20), "f8", 1 << 20, (2, None, None)),
    ((6, 1 << 20), (1, 1 << 20), "u1", 3 << 20, (1, None)),
    ((3, 10 << 20), (1, 10 << 20), "u1", 16 << 20, None),
    ((4, 6 << 20), (1, 1 << 20), "u1", 16 << 20, None),
    ((2000, 100), (13, 100), "f4", 16 << 20, None),
    ((64, 512), (8, 96), "f8", 16 << 10, (8, None)),
]
READS = [
    Access("read", (1, ...)),
    Access("read", (2, 10, ...), start="aligned"),
    Access("read", (..., 5)),
    Access("read", (None,)),
    Access("read", (1, ...), scattered=3),
    Access("read", (slice(1, 3), ...)),
]


def layout_of(case):
    shape, chunks, dtype, pack_bytes, tile = case
    fill = None if tile is None else resolve(Access("write", tile), shape)
    return Layout(
        shape=shape, itemsize=np.dtype(dtype).itemsize, chunks=chunks, pack_bytes=pack_bytes, fill=fill
    )


def selection_of(spans):
    return tuple(slice(*span) if isinstance(span, tuple) else span for span in spans)


@pytest.fixture(autouse=True)
def _keep_nothing(monkeypatch):
    """Let writers read what they change a part of, as those do that begin: the planner goes by that."""
    for module in (reader, staging):
        monkeypatch.setattr(module, "KEPT_BYTES", 0)


@pytest.fixture(params=LAYOUTS, ids=lambda case: f"{case[0]}-{case[1]}-{case[4]}")
def stored(request):
    shape, chunks, dtype, pack_bytes, _ = request.param
    url = f"zarrvec::memory://plan-{uuid.uuid4().hex}"
    options = {"zarrvec": {**OPTIONS, "pack_bytes": pack_bytes}}
    array = zarr.create_array(
        url, shape=shape, chunks=chunks, dtype=dtype, compressors=None, storage_options=options,
        config={"write_empty_chunks": True},
    )  # fmt: skip
    repository, _ = repository_of(array)
    return layout_of(request.param), array, run_sync(count_requests(repository.place))


def filled(layout, array, requests):
    """Fill the array by its writes; yield what was predicted of each and what was counted."""
    pattern = layout.fill or resolve(Access("write", (None,)), layout.shape)
    assert math.prod(layout.tiles) <= 64
    run_sync(_settle(array))
    for number, spans in _places(pattern, 0, 1.0):
        before = requests.copy()
        shape = tuple(stop - start for start, stop in spans)
        array[selection_of(spans)] = np.arange(math.prod(shape), dtype=array.dtype).reshape(shape) + 1
        yield count_call(layout, pattern, spans, number=number), requests.since(before)


async def _settle(array):
    repository, _ = repository_of(array)
    await repository.version()


def test_counts(stored):
    layout, array, requests = stored
    total = Work()
    for predicted, counted in filled(layout, array, requests):
        assert (predicted.gets, predicted.get_bytes) == (counted.get, counted.read_bytes)
        assert predicted.puts == counted.put
        assert counted.list == 0
        assert predicted.put_bytes == pytest.approx(counted.written_bytes, rel=0.15, abs=4000)
        total = total.plus(predicted)
    mean = count(layout, layout.fill or resolve(Access("write", (None,)), layout.shape))
    writes = math.prod(layout.tiles)
    assert mean.puts * writes == pytest.approx(total.puts)
    assert mean.get_bytes * writes == pytest.approx(total.get_bytes)
    for read in READS:
        if read.scattered and layout.shape[-1] > 1 << 20:
            continue  # numpy takes each of the cells by itself, for seconds
        check_reads(layout, array, requests, resolve(read, layout.shape))


def check_reads(layout, array, requests, pattern):
    places = _places(pattern, 1, 1.0)
    for _, spans in places[:: max(1, len(places) // 4)]:
        before = requests.copy()
        selection = selection_of(spans)
        array.oindex[selection] if pattern.scattered else array[selection]
        counted = requests.since(before)
        predicted = count_call(layout, pattern, spans)
        assert (predicted.gets, predicted.get_bytes) == (counted.get, counted.read_bytes), selection
        assert counted.put == counted.list == 0


def test_values_that_stand_in_pages():
    """Many of them are more than a commit holds: their pages need a pack."""
    url = f"zarrvec::memory://plan-{uuid.uuid4().hex}"
    array = zarr.create_array(
        url,
        shape=(1200, 100),
        chunks=(1, 100),
        dtype="u1",
        compressors=None,
        storage_options={"zarrvec": OPTIONS},
    )
    repository, _ = repository_of(array)
    requests = run_sync(count_requests(repository.place))
    layout = layout_of(((1200, 100), (1, 100), "u1", 16 << 20, (400, None)))
    assert [(predicted.puts, counted.put) for predicted, counted in filled(layout, array, requests)] == [
        (2, 2)
    ] * 3


def test_changes_of_what_is_there():
    shape, chunks = (40, 30, 600), (3, 7, 600)
    layout = layout_of((shape, chunks, "u1", 16 << 20, None))
    url = f"zarrvec::memory://plan-{uuid.uuid4().hex}"
    array = zarr.create_array(
        url, shape=shape, chunks=chunks, dtype="u1", compressors=None, storage_options={"zarrvec": OPTIONS}
    )
    repository, _ = repository_of(array)
    requests = run_sync(count_requests(repository.place))
    array[:] = 1
    pattern = resolve(Access("write", (5, 9, ...), start="anywhere"), shape)
    for number, (_, spans) in enumerate(_places(pattern, 2, 1.0)[:4]):
        if number:  # what was changed stands elsewhere: begin anew
            array[:] = 1
        before = requests.copy()
        array[selection_of(spans)] = 2
        counted = requests.since(before)
        predicted = count_call(layout, pattern, spans)
        assert (predicted.gets, predicted.get_bytes) == (counted.get, counted.read_bytes)
        assert predicted.puts == counted.put
