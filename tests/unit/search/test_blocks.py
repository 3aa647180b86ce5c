"""Does the plan cover each row once, read each chunk once, and stay within its bytes?"""

import itertools

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore

from zarrvec.search.blocks import grid_of, plan_blocks


def array_of(shape, chunks, **options):
    return zarr.create_array(MemoryStore(), shape=shape, chunks=chunks, dtype="f4", **options)


def touched(array, block):
    parts = [block.rows, *block.rest]
    axes = [np.arange(p.start, p.stop) if isinstance(p, slice) else p for p in parts]
    return set(
        itertools.product(*(np.unique(a // c).tolist() for a, c in zip(axes, array.chunks[:-1], strict=True)))
    )


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((17, 4), (5, 4)),
        ((17, 4), (5, 3)),
        ((6, 7, 4), (2, 3, 4)),
        ((5, 4, 3, 2), (2, 3, 1, 2)),
        ((1, 4), (1, 1)),
    ],
)
@pytest.mark.parametrize("block_bytes", [1, 100, 300, 1 << 20])
@pytest.mark.parametrize("share", [None, 0.02, 0.3, 1.0])
def test_cover_once(shape, chunks, block_bytes, share):
    array = array_of(shape, chunks)
    leading = shape[:-1]
    mask = None if share is None else np.random.default_rng(0).random(leading) < share
    wanted = np.arange(np.prod(leading)) if mask is None else np.flatnonzero(mask)
    ids, seen, chunk_bytes = [], [], int(np.prod(chunks[:-1])) * shape[-1] * 4
    for block in plan_blocks(grid_of(array), block_bytes=block_bytes, mask=mask):
        block_ids = block.ids(leading)
        assert (np.diff(block_ids) > 0).all()
        if mask is not None:
            block_ids = block_ids[block.within(mask)]
            assert block_ids.size
        ids += block_ids.tolist()
        here = touched(array, block)
        seen += here
        assert block.chunks == len(here) * -(-shape[-1] // chunks[-1])
        assert block.bytes_decoded <= max(block_bytes, chunk_bytes)
    assert sorted(ids) == wanted.tolist()
    assert len(seen) == len(set(seen))


def test_one_block_when_all_fits():
    array = array_of((6, 7, 4), (2, 3, 4))
    (block,) = plan_blocks(grid_of(array), block_bytes=1 << 20)
    assert (block.chunks, block.bytes_decoded) == (9, 6 * 7 * 4 * 4)


def test_far_ids_are_one_read_without_what_lies_between():
    array = array_of((1000, 4), (10, 4))
    mask = np.zeros(1000, bool)
    mask[[3, 500, 999]] = True
    (block,) = plan_blocks(grid_of(array), block_bytes=1 << 20, mask=mask)
    assert np.asarray(block.rows).tolist() == [3, 500, 999]
    assert block.chunks == 3


def test_shards_are_read_whole_when_they_fit():
    array = array_of((40, 4), (5, 4), shards=(20, 4))
    rows = [b.rows for b in plan_blocks(grid_of(array), block_bytes=20 * 16)]
    assert rows == [slice(0, 20), slice(20, 40)]
    rows = [b.rows for b in plan_blocks(grid_of(array), block_bytes=10 * 16)]
    assert rows == [slice(start, start + 10) for start in (0, 10, 20, 30)]


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4)])
def test_nothing_to_read(shape):
    array = array_of(shape, tuple(max(1, size) for size in shape))
    assert list(plan_blocks(grid_of(array), block_bytes=100)) == []


def test_rectilinear_grid():
    if "rectilinear_chunks" not in zarr.config.get("array"):
        pytest.skip("this zarr has no rectilinear grids")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        array = array_of((10, 4), ((2, 5, 3), (4,)))
        blocks = list(plan_blocks(grid_of(array), block_bytes=1))
    assert [b.rows for b in blocks] == [slice(0, 2), slice(2, 7), slice(7, 10)]
