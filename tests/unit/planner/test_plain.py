"""What is counted of plain stores is what zarr asks of them."""

import math

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore, WrapperStore

from zarrvec.planner.access import Access, resolve
from zarrvec.planner.counting import _places, count_call
from zarrvec.planner.layout import Layout


class Counting(WrapperStore):
    gets = puts = 0

    async def get(self, key, *arguments, **options):
        Counting.gets += "/c/" in key or key.startswith("c/")
        return await super().get(key, *arguments, **options)

    async def set(self, key, value):
        Counting.puts += "/c/" in key or key.startswith("c/")
        await super().set(key, value)


@pytest.mark.parametrize("shards", [None, (20, 20)])
def test_writes_and_reads(shards):
    shape, chunks = (40, 40), (5, 10)
    pattern = resolve(Access("write", (8, None)), shape)
    layout = Layout(shape=shape, itemsize=8, chunks=chunks, store="plain", shards=shards, fill=pattern)
    array = zarr.create_array(
        Counting(MemoryStore()), shape=shape, chunks=chunks, shards=shards, dtype="f8", compressors=None
    )
    for number, spans in _places(pattern, 0, 1.0):
        Counting.gets = Counting.puts = 0
        (start, stop), _ = spans
        array[start:stop] = np.arange(1, 1 + 40 * (stop - start)).reshape(-1, 40)
        predicted = count_call(layout, pattern, spans, number=number)
        assert predicted.puts == Counting.puts
        if shards is None:
            assert predicted.gets == Counting.gets
    read = resolve(Access("read", (20, 20), start="aligned"), shape)
    for _, spans in _places(read, 0, 1.0):
        Counting.gets = 0
        array[tuple(slice(*span) for span in spans)]
        predicted = count_call(layout, read, spans)
        assert predicted.gets == (1 if shards else 8) == Counting.gets
        assert predicted.get_bytes >= math.prod((20, 20)) * 8
