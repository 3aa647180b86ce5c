"""Are the arrays of an index what zarr would have made of them?"""

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import zarrvec
from zarrvec.engine.bridge import run_sync
from zarrvec.search.arrays import create_entries, unit_of, write_rows, write_whole
from zarrvec.search.list_table import unpack_rows


@pytest.fixture
def ours(tmp_path):
    return zarr.open_group(f"zarrvec://{tmp_path}/data.zarr", mode="a").create_group("e.vec")


@pytest.fixture
def zarrs():
    return zarr.create_group(zarr.storage.MemoryStore())


async def collect(names):
    return [name async for name in names]


def below(group):
    """Return names of the members of a group, its groups and arrays at any depth."""
    return {name: type(member).__name__ for name, member in group.members(max_depth=None)}


@pytest.mark.parametrize("dtype", ["u1", "<u8", "<i8", "<f4"])
@pytest.mark.parametrize("shape", [(7,), (0,), (3, 4), (0, 4), (2, 3, 4), (1, 1, 1, 1)])
def test_written_whole(ours, zarrs, shape, dtype):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for group in (ours, zarrs):
        write_whole(group, "s", values)
    assert ours["s"].metadata == zarrs["s"].metadata
    assert ours["s"].dtype == zarrs["s"].dtype == dtype
    np.testing.assert_array_equal(ours["s"][...], values)


@pytest.mark.parametrize("rows", [1, 3, 5_000])
def test_written_packed(ours, zarrs, rows):
    """Zarr compresses as we do, and reads what we compressed."""
    values = np.random.default_rng(rows).integers(0, 20, (rows, 30), dtype="u1")
    stored = []
    for group in (ours, zarrs):
        write_whole(group, "s/lists", values, packed=True)
        np.testing.assert_array_equal(group["s/lists"][...], values)
        place = group.store_path / "s/lists/c/0/0"
        stored.append(sync(place.get(default_buffer_prototype())).to_bytes())
    assert ours["s/lists"].metadata == zarrs["s/lists"].metadata
    for frame in stored:
        np.testing.assert_array_equal(unpack_rows(frame, rows, 30, name="s"), values)
    assert len(stored[0]) < values.nbytes * 0.7 + 100


@pytest.mark.parametrize("before", [(3, 4), (0, 4)])
@pytest.mark.parametrize("after", [(3, 4), (5, 2), (0, 4)])
def test_what_was_there_is_replaced(ours, before, after):
    write_whole(ours, "coverage", np.ones(before, dtype="<u8"))
    write_whole(ours, "coverage", np.full(after, 2, dtype="<u8"))
    np.testing.assert_array_equal(ours["coverage"][...], np.full(after, 2))
    assert below(ours) == {"coverage": "Array"}
    keys = sync(collect(ours.store.list_prefix("e.vec/coverage")))
    assert len(keys) == (2 if ours["coverage"].size else 1)


@pytest.mark.parametrize("rows", [0, 1, 1000, 40_000])
def test_entries(ours, zarrs, rows):
    values = np.random.default_rng(rows).integers(0, 256, (rows, 700), dtype="u1")
    values[: rows // 2] = 0
    for group in (ours, zarrs):
        array = create_entries(group, "s/entries", rows, 700)
        for start in range(0, rows, unit_of(array)):
            write_rows(array, start, values[start : start + unit_of(array)].tobytes())
        np.testing.assert_array_equal(group["s/entries"][...], values)
        assert group["s/entries"].metadata == array.metadata
    assert below(ours) == {"s": "Group", "s/entries": "Array"}
    assert ours["s/entries"].shards is None


def test_entries_that_are_sent_apart(ours, zarrs):
    assert create_entries(ours, "s/entries", 10_000, 400).chunks == (10_000, 400)
    assert create_entries(ours, "t/entries", 10_001, 400, apart=True).chunks == (5_001, 400)
    assert create_entries(ours, "u/entries", 5_000, 400, apart=True).chunks == (5_000, 400)
    assert create_entries(ours, "v/entries", 100_000, 400, apart=True).chunks == (33_334, 400)
    both = [create_entries(zarrs, name, 10_000, 400, apart=name == "b/e").shards for name in ("a/e", "b/e")]
    assert both[0] == both[1]


def test_an_array_is_one_commit(ours):
    store = ours.store
    before = len(zarrvec.history(store))
    write_whole(ours, "s", np.arange(3, dtype="<u8"))
    assert len(zarrvec.history(store)) == before + 1
    run_sync(store.fs.repository.write(deletes=["e.vec/s/c/0"]))  # zeros, as zarr has it
    assert ours["s"][...].tolist() == [0, 0, 0]
